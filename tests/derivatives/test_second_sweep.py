"""Hessians, normal equations, Sobolev gradients and outer products against the products that they are made of."""

import numpy as np
import pytest
from problems import same_bits

import backprop
from backprop import _core

DTYPES = ["float64", "float32"]
TOLERANCE = {"float64": 1e-13, "float32": 2e-5}
SHAPES = [[3, 1], [2, 8, 8, 1], [2, 70, 1], [4, 16, 3], [1, 5, 2], [17, 9, 18, 2], [9, 1, 7, 1]]


@pytest.fixture
def rng():
    return np.random.default_rng(20)


def problem(rng, sizes, n_samples, dtype, **options):
    """A network with its data."""
    net = backprop.Network(sizes, dtype=dtype, rng=int(rng.integers(1 << 30)), **options)
    x = rng.standard_normal((n_samples, sizes[0])).astype(dtype)
    return net, x, rng.standard_normal((n_samples, sizes[-1])).astype(dtype)


def relative(found, expected):
    return np.linalg.norm(np.subtract(found, expected, dtype=float)) / np.linalg.norm(np.asarray(expected, float))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["tanh", "silu"])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_hessian_has_the_products_with_unit_vectors_as_columns(rng, sizes, activation, dtype):
    for n_samples, output in [(1, "identity"), (70, "tanh"), (600, "sigmoid")]:
        net, x, y = problem(rng, sizes, n_samples, dtype, activations=activation, output=output)
        weight = rng.random(n_samples) + 0.1
        H = net.hessian(x, y, sample_weight=weight, out=np.full((net.n_params,) * 2, np.nan, dtype))
        columns = [net.hvp(x, y, unit, sample_weight=weight) for unit in np.eye(net.n_params)]
        assert relative(H, np.stack(columns, 1)) < TOLERANCE[dtype]
        assert same_bits(H, H.T)
        assert same_bits(H, net.hessian(x, y, sample_weight=weight, n_threads=3))


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "poisson"])
def test_hessian_where_the_loss_acts_on_a(rng, loss):
    net, x, _ = problem(rng, [3, 6, 4, 2], 50, "float64", activations=["tanh", "gelu"], loss=loss)
    y = rng.integers(0, 2, 50) if loss == "cross_entropy" else rng.integers(0, 2, (50, 2)).astype(float)
    columns = [net.hvp(x, y, unit) for unit in np.eye(net.n_params)]
    assert relative(net.hessian(x, y), np.stack(columns, 1)) < TOLERANCE["float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [[1, 1], [31, 2], [62, 1], [63, 1], [64, 1], [4, 16, 3], [7, 30, 2]], ids=str)
def test_normal_equations_are_those_of_the_jacobian(rng, sizes, dtype):
    for n_samples in (1, 90, 530):
        net, x, y = problem(rng, sizes, n_samples, dtype, activations="tanh")
        weight = rng.random((n_samples, sizes[-1])) + 0.1
        fun, jac = net.residuals(x, y, sample_weight=weight)
        J, r = jac(net.params).astype(float), fun(net.params).astype(float)
        JTJ, JTr = net.normal_equations(x, y, sample_weight=weight)
        assert relative(JTJ, J.T @ J) < TOLERANCE[dtype]
        assert relative(JTr, J.T @ r) < TOLERANCE[dtype]
        assert same_bits(JTJ, JTJ.T)
        assert same_bits(JTJ, net.normal_equations(x, y, sample_weight=weight, n_threads=3)[0])


@pytest.mark.parametrize("activation", ["tanh", "silu"])
@pytest.mark.parametrize("sizes", [[2, 6, 1], [3, 9, 7, 3], [2, 2]], ids=str)
def test_sobolev_gradient_is_that_of_its_value(rng, sizes, activation):
    for n_samples, output in [(1, "tanh"), (90, "identity"), (530, "tanh")]:
        net, x, y = problem(rng, sizes, n_samples, "float64", activations=activation, output=output)
        target = rng.standard_normal((n_samples, sizes[-1], sizes[0]))
        weight, sample_weight = rng.random((sizes[-1], sizes[0])), rng.random(n_samples) + 0.1
        theta, v, step = net.params.copy(), rng.standard_normal(net.n_params), 1e-3

        def value(t, data=(x, y, target, weight), net=net, w=sample_weight):
            return net.sobolev_value_and_grad(*data, params=t, sample_weight=w)

        loss, grad = value(theta)
        errors = ((net.forward(x) - y) ** 2).mean(1) + (weight * (net.input_jacobian(x) - target) ** 2).mean((1, 2))
        np.testing.assert_allclose(loss, np.average(errors, weights=sample_weight), rtol=1e-13)
        slope = sum(c * value(theta + k * step * v)[0] for k, c in {-2: 1, -1: -8, 1: 8, 2: -1}.items()) / (12 * step)
        np.testing.assert_allclose(grad @ v, slope, rtol=1e-7, atol=1e-9 * np.linalg.norm(grad) * np.linalg.norm(v))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sobolev_of_weight_0_is_the_gradient(rng, dtype):
    net, x, y = problem(rng, [3, 20, 5, 2], 300, dtype, activations="tanh")
    loss, grad = net.sobolev_value_and_grad(x, y, np.ones((300, 2, 3), dtype), 0.0)
    expected_loss, expected = net.value_and_grad(x, y)
    assert loss == expected_loss
    assert same_bits(grad, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_in", [*range(1, 20), 31, 32, 33, 48, 49, 63, 64, 65, 97])
def test_gradients_by_sample_are_outer_products(rng, n_in, dtype):
    for n_out in (1, 2, 5, 17):
        net, x, y = problem(rng, [n_in, n_out, 1], 3, dtype, activations="tanh")
        out = np.full((5, net.n_params), 7.0, dtype)  # what lies before and behind must stay
        net.per_sample_gradients(x, y, out=out[1:4])
        assert (out[[0, 4]] == 7).all()
        for s in range(3):
            layers = net.layer_gradients(x[s : s + 1], y[s : s + 1])
            for (grad_W, grad_b), grad_a, h in zip(
                net.unflatten(out[1 + s]), layers.grad_a[1:], layers.h[:-1], strict=True
            ):
                assert same_bits(grad_W, np.outer(grad_a[0], h[0]))
                assert same_bits(grad_b, grad_a[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sizes", "n_samples"), [([4, 33, 1], 22000), ([9, 40, 70, 3], 1300), ([300, 301, 2], 50), ([17000, 17, 1], 15)]
)
def test_large_gradients_by_sample_are_those_of_few_samples(rng, sizes, n_samples, dtype):
    """Results from 16 MiB on bypass the caches: rows that end within a cache line, several rows or less in a piece."""
    net, x, y = problem(rng, sizes, n_samples, dtype, activations="tanh")
    for call, row in [
        (net.per_sample_gradients, (net.n_params,)),
        (lambda x, y, **keywords: net.jacobian(x, **keywords), (sizes[-1], net.n_params)),
    ]:
        n = -(-(1 << 24) // (np.prod(row) * np.dtype(dtype).itemsize))  # the smallest number of samples for that size
        assert n <= n_samples
        out = np.full((n + 2, *row), 7.0, dtype)  # what lies before and behind must stay
        call(x[:n], y[:n], out=out[1:-1], n_threads=2)
        assert (out[[0, -1]] == 7).all()
        for first in range(0, n, max(1, n // 8)):
            part = slice(first, min(n, first + max(1, n // 8)))
            assert same_bits(out[1:-1][part], call(x[part], y[part]))


def square_sums(rows):
    """The sums of squares of rows as the kernel adds them: eight lanes of float64, folded onto each other."""
    lanes = np.zeros((len(rows), 8))
    for j in range(0, rows.shape[1], 8):
        part = rows[:, j : j + 8].astype(float) ** 2
        lanes[:, : part.shape[1]] += part
    for half in (4, 2, 1):
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [*range(1, 20), 33])
def test_norms_are_sums_in_a_fixed_order(rng, width, dtype):
    net, x, y = problem(rng, [width, width + 3, 2], 11, dtype, activations="tanh")
    out = np.full(13, 7.0, dtype)  # what lies before and behind must stay
    net.per_sample_gradient_norms(x, y, out=out[1:12])
    assert (out[[0, 12]] == 7).all()
    alone = [net.layer_gradients(x[s : s + 1], y[s : s + 1]) for s in range(11)]  # divided by 1
    squares = np.zeros(11)
    for i in (1, 2):
        grad_a = np.concatenate([layers.grad_a[i] for layers in alone])
        h = np.concatenate([layers.h[i - 1] for layers in alone])
        squares += square_sums(grad_a) * (1 + square_sums(h))
    assert same_bits(out[1:12], np.sqrt(squares).astype(dtype))


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 97])
def test_mirror(rng, n):
    H = rng.standard_normal((n, n))
    expected = np.triu(H) + np.triu(H, 1).T
    _core.mirror(H)
    np.testing.assert_array_equal(H, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_infinite_output_of_weight_0_contributes_nothing(dtype):
    """Products with the Hessian and residuals are those of the other output alone."""
    both = backprop.Network([1, 2], output="exp", dtype=dtype, rng=0)
    both.params = [1000.0, 1.0, 0.0, 0.5]
    one = backprop.Network([1, 1], output="exp", dtype=dtype, rng=0)
    one.params = [1.0, 0.5]
    x, y, weight, kept = np.array([[1.0], [0.5]]), np.ones((2, 2)), np.tile([0.0, 1.0], (2, 1)), [1, 3]
    v = np.ones(4)
    for name in ("hvp", "gauss_newton_vp"):
        product = getattr(both, name)(x, y, v, sample_weight=weight)
        np.testing.assert_array_equal(product[kept], getattr(one, name)(x, y[:, 1], v[:2]))
        assert not product[[0, 2]].any()
    H = both.hessian(x, y, sample_weight=weight)
    np.testing.assert_array_equal(H[np.ix_(kept, kept)], one.hessian(x, y[:, 1]))
    assert not H[[0, 2]].any()
    JTJ, JTr = both.normal_equations(x, y, sample_weight=weight)
    np.testing.assert_array_equal(JTJ[np.ix_(kept, kept)], one.normal_equations(x, y[:, 1])[0])
    np.testing.assert_array_equal(JTr[kept], one.normal_equations(x, y[:, 1])[1])
    fun, jac = both.residuals(x, y, sample_weight=weight)
    fun_of_one, jac_of_one = one.residuals(x, y[:, 1])
    np.testing.assert_array_equal(fun(both.params)[1::2], fun_of_one(one.params))
    np.testing.assert_array_equal(jac(both.params)[1::2][:, kept], jac_of_one(one.params))
    assert not fun(both.params)[::2].any()
    assert not jac(both.params)[::2].any()


def test_jacobians_of_an_output_beside_an_infinite_one():
    net = backprop.Network([1, 2], output="exp", rng=0)
    net.params = [1000.0, 1.0, 0.0, 0.5]
    np.testing.assert_array_equal(net.input_jacobian([[1.0]])[0, 1], net.forward([[1.0]])[0, 1])
    assert np.isfinite(net.jacobian([[1.0]])[0, 1]).all()


@pytest.mark.parametrize("target", [1e160, 1e300, 1e-170, 1e-300])
def test_norms_whose_squares_leave_the_range(target):
    net = backprop.Network([1, 2, 1], activations="identity", rng=0)
    net.params = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]  # y_hat = x, here 0
    gradient = net.per_sample_gradients([[0.0]], [[target]])[0]
    norm = float(np.linalg.norm(gradient / target)) * target
    assert norm > 2 * target
    np.testing.assert_allclose(net.per_sample_gradient_norms([[0.0]], [[target]]), norm, rtol=1e-14)
    clipped = net.clipped_gradient([[0.0]], [[target]], target / 16)
    np.testing.assert_allclose(clipped, gradient * (target / 16 / norm), rtol=1e-14)
    assert np.isnan(net.per_sample_gradient_norms([[np.nan]], [[target]]))
    assert net.per_sample_gradient_norms([[0.0]], [[0.0]]) == 0
