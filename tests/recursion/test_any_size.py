"""Norms, clipped gradients and weights: squares or products leave the dtype's range, but the result does not.

The judge is mpmath, from the h and dL/da of `layer_gradients`, which hold the dtype's own rounding.
"""

import mpmath
import numpy as np
import pytest

from backprop import Network

mpmath.mp.prec = 120
number = mpmath.mpf
SIZES = [[1, 1], [3, 2], [2, 9, 1], [4, 3, 5, 2], [17, 20, 3]]


def network(rng, sizes, dtype, spread, **options):
    """A network whose layers have weights of very different sizes."""
    net = Network(sizes, activations=["identity"] * (len(sizes) - 2), dtype=dtype, rng=rng, **options)
    for W, b in zip(net.weights, net.biases, strict=True):
        W[...] *= 10.0 ** rng.uniform(-spread, spread)
        b[...] = rng.normal(size=b.shape) * np.abs(W).max()
    return net


def gradient(net, x, y, weight=1.0):
    """The gradient of one sample, exactly from h and dL/da, or None if one of these is not finite."""
    q = net.layer_gradients(x[None], y[None])
    parts = []
    for i in range(1, len(net.sizes)):
        grad_a, h = q.grad_a[i][0], q.h[i - 1][0]
        if not (np.isfinite(grad_a).all() and np.isfinite(h).all()):
            return None
        parts += [number(float(g)) * number(float(v)) for g in grad_a for v in h]
        parts += [number(float(g)) for g in grad_a]
    return [number(weight) * part for part in parts]


def norm(vector):
    return mpmath.sqrt(mpmath.fsum(v * v for v in vector))


def assert_right(result, exact, scale, dtype):
    """Each entry, to the rounding of a number of the scale's size, or of the subnormal ones; inf beyond the range."""
    info = np.finfo(dtype)
    for got, wanted in zip(np.ravel(result), exact, strict=True):
        if abs(wanted) > float(info.max):
            assert not np.isfinite(got) or abs(got) >= float(info.max) * (1 - 1e-6)  # NaN if infinities cancel
        else:
            assert np.isfinite(got)
            assert abs(number(float(got)) - wanted) <= 12 * info.eps * scale + 4 * float(info.smallest_subnormal)


def extremes(rng, dtype):
    """A sample's size, a target's, and how far apart the layers' weights are, as powers of 10."""
    most = 30 if dtype == "float32" else 280
    return rng.uniform(-most, most), rng.uniform(-most, most), rng.choice([0, most / 8])


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipped_gradients_have_the_norm(dtype, sizes):
    rng = np.random.default_rng(0)
    n_looked_at = 0
    most = 36 if dtype == "float32" else 305
    for _ in range(40):
        size_x, size_y, spread = extremes(rng, dtype)
        net = network(rng, sizes, dtype, spread)
        x = (rng.normal(size=sizes[0]) * 10.0**size_x).astype(dtype)
        y = (rng.normal(size=sizes[-1]) * 10.0**size_y).astype(dtype)
        max_norm = float(10.0 ** rng.uniform(-most, most))
        g = gradient(net, x, y)
        if g is None:
            continue
        clipped = net.clipped_gradient(x[None], y[None], max_norm)
        length = norm(g)
        if length <= max_norm:
            assert_right(clipped, g, length, dtype)
        else:
            n_looked_at += 1
            assert_right(clipped, [v * max_norm / length for v in g], max_norm, dtype)
            got = norm([number(float(v)) for v in clipped])
            least = float(np.finfo(dtype).smallest_subnormal)
            assert abs(got - max_norm) <= 4 * np.finfo(dtype).eps * max_norm + least * len(g) ** 0.5
    assert n_looked_at > 10


def test_the_bound_holds_where_factors_underflow():
    net = Network([1, 1], rng=0)
    net.weights[0][...] = 1
    np.testing.assert_allclose(net.clipped_gradient([[1e160]], [[1e150]], 1.0), [1, 1e-160], rtol=1e-15)
    net = Network([1, 1], dtype="float32", rng=0)
    net.weights[0][...] = 1
    for max_norm in (1e-7, 1e-30):
        clipped = net.clipped_gradient(np.float32([[3e32]]), np.float32([[3.0]]), max_norm)
        np.testing.assert_allclose(clipped[0], max_norm, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_samples_keep_their_bits_beside_an_extreme_one(dtype):
    """A sample whose part of the sum is lost beside the others': the others are multiplied in another way."""
    rng = np.random.default_rng(0)
    net = Network([5, 9, 2], activations="tanh", dtype=dtype, rng=0)
    x, y = rng.normal(size=(31, 5)).astype(dtype), rng.normal(size=(31, 2)).astype(dtype)
    weight = np.ones(31)
    weight[-1] = 1e-300
    for max_norm in (0.1, 1e3):
        alone = net.clipped_gradient(x[:-1], y[:-1], max_norm)
        both = net.clipped_gradient(x, y, max_norm, sample_weight=weight)
        assert both.tobytes() == alone.tobytes()


def test_norms_of_squares_that_underflow_beside_large_inputs():
    net = Network([1, 1], rng=0)
    net.params[...] = 0
    x, y = [[1e150], [0.0]], [[5e-161], [5e-161]]
    np.testing.assert_allclose(net.per_sample_gradient_norms(x, y), [1e-10, 1e-160], rtol=1e-14)


def dtype_of(name):
    return np.dtype(name).type


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norms(dtype, sizes):
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    for _ in range(40):
        size_x, size_y, spread = extremes(rng, dtype)
        net = network(rng, sizes, dtype, spread)
        x = (rng.normal(size=sizes[0]) * 10.0**size_x).astype(dtype)
        y = (rng.normal(size=sizes[-1]) * 10.0**size_y).astype(dtype)
        weight = float(10.0 ** rng.uniform(-290, 290)) if rng.random() < 0.5 else 1.0
        g = gradient(net, x, y)
        if g is None:
            continue
        got = net.per_sample_gradient_norms(x[None], y[None], sample_weight=[weight])[0]
        wanted = norm(g) * number(weight)
        if wanted > float(info.max):
            assert got == np.inf
        else:
            assert abs(number(float(got)) - wanted) <= 12 * info.eps * wanted + 2 * float(info.smallest_subnormal)


@pytest.mark.parametrize("by_output", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_any_size_by_sample(dtype, sizes, by_output):
    """dL/da leaves the range, but its product with x or W_1 does not: one is as small as the other is large."""
    rng = np.random.default_rng(0)
    n_finite, most = 0, 30 if dtype == "float32" else 150
    for _ in range(25):
        t = rng.uniform(-most, most)
        weight = 10.0 ** (rng.choice([-1.0, 1.0, 2.0]) * t)
        net = network(rng, sizes, dtype, 0)
        net.weights[0][...] *= dtype_of(dtype)(10.0**t)
        x = (rng.normal(size=sizes[0]) * 10.0**-t).astype(dtype)
        y = rng.normal(size=sizes[-1]).astype(dtype)
        w = np.full((1, sizes[-1]), weight) if by_output else np.array([weight])
        g = gradient(net, x, y, weight)
        got = net.per_sample_gradients(x[None], y[None], sample_weight=w)[0]
        n_finite += bool(np.isfinite(net.unflatten(got)[0][0]).all() and net.unflatten(got)[0][0].any())
        assert_right_by_block(net, got, g, dtype)
        exact = [number(float(v)) * number(weight) for v in net.layer_gradients(x[None], y[None]).grad_h[0][0]]
        got = net.input_gradient(x[None], y[None], sample_weight=w)
        assert_right(got, exact, max(map(abs, exact)), dtype)
        for max_norm in (1e-3, 1e300):
            length = norm(g)
            factor = 1 if length <= max_norm else max_norm / length
            got = net.clipped_gradient(x[None], y[None], max_norm, sample_weight=w)
            assert_right_by_block(net, got, [v * factor for v in g], dtype)
    assert n_finite > 8


def assert_right_by_block(net, vector, exact, dtype):
    """Each W_i and b_i to the rounding of its largest entry."""
    places = np.arange(net.n_params)
    for block in [part.ravel() for layer in net.unflatten(places) for part in layer]:
        assert_right(vector[block], [exact[p] for p in block], max(abs(exact[p]) for p in block), dtype)


@pytest.mark.parametrize("weight", [5e-324, 2.0**1023, 1.7e308])
@pytest.mark.parametrize("call", ["per_sample_gradients", "input_gradient", "per_sample_gradient_norms"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_smallest_and_the_largest_weights(dtype, call, weight):
    """A power of two beyond double is not used as a factor: 0 stays 0, and results in the range stay right."""
    rng = np.random.default_rng(0)
    net = Network([3, 6, 2], activations="relu", dtype=dtype, rng=0)
    net.params[:] *= 1e-3
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2)) * 1e-3
    result = getattr(net, call)(x, y)
    assert call != "per_sample_gradients" or (result == 0).any()
    with np.errstate(all="ignore"):
        want = (result * np.float64(weight)).astype(dtype)
    info = np.finfo(dtype)
    got = getattr(net, call)(x, y, sample_weight=np.full(5, weight))
    np.testing.assert_allclose(got, want, rtol=100 * info.eps, atol=4 * float(info.smallest_subnormal))


@pytest.mark.parametrize("weight", [1e-300, 1e-90, 1e-30, 1e30, 1e90, 1e300])
@pytest.mark.parametrize("by_output", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_residuals_of_weights_of_any_size(dtype, by_output, weight):
    rng = np.random.default_rng(0)
    net = Network([3, 4, 2], activations="tanh", dtype=dtype, rng=0)
    n = 5
    unit = float(np.clip(weight**-0.5, *((1e-30, 1e30) if dtype == "float32" else (1e-150, 1e150))))
    W, b = net.weights[1], net.biases[1]
    W *= unit  # so that sqrt(w) y_hat and sqrt(w) dy_hat/dW_1 are of size 1
    b *= unit
    x = rng.normal(size=(n, 3)).astype(dtype)
    y = (rng.normal(size=(n, 2)) * unit).astype(dtype)
    w = weight * rng.uniform(0.5, 2, (n, 2) if by_output else n)
    root = np.broadcast_to(w if by_output else w[:, None], (n, 2))
    fun, jac = net.residuals(x, y, sample_weight=w)
    y_hat, J = net.forward(x), net.jacobian(x).reshape(2 * n, -1)
    roots = [mpmath.sqrt(number(float(v))) for v in root.ravel()]
    r = [s * (number(float(a)) - number(float(c))) for s, a, c in zip(roots, y_hat.ravel(), y.ravel(), strict=True)]
    exact_J = [[s * number(float(v)) for v in row] for s, row in zip(roots, J, strict=True)]
    assert_right(fun(net.params), r, max(map(abs, r)), dtype)
    got = jac(net.params)
    for got_row, row in zip(got, exact_J, strict=True):
        for g, v in zip(got_row, row, strict=True):
            assert_right(g, [v], abs(v), dtype)
    JTJ, JTr = net.normal_equations(x, y, sample_weight=w)
    within = [p for p in range(net.n_params) if np.isfinite(got[:, p]).all()]
    assert len(within) > 5 or abs(np.log10(weight)) > 100
    for p in within:
        column = [row[p] for row in exact_J]
        terms = [a * b for a, b in zip(column, r, strict=True)]
        assert_right(JTr[p], [mpmath.fsum(terms)], mpmath.fsum(map(abs, terms)), dtype)
        for q in within:
            terms = [a * row[q] for a, row in zip(column, exact_J, strict=True)]
            assert_right(JTJ[p, q], [mpmath.fsum(terms)], mpmath.fsum(map(abs, terms)), dtype)
