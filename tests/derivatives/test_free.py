"""`free=` in calls of a network: frozen parameters count for nothing, and their entries are 0 or left out."""

import pickle
import re

import numpy as np
import pytest
from problems import same_bits
from scipy.optimize import least_squares

import backprop
from backprop import Network, PartialSums

RNG = np.random.default_rng(0)
N = 70
X, Y, W = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 2)), RNG.uniform(size=N)
W[::5] = 0
FREE = np.arange(50) % 3 > 0
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


def network(dtype="float64", **options):
    return Network([3, 8, 2], **({"activations": "tanh", "rng": 0, "dtype": dtype} | options))


def by_output():
    weight = RNG.uniform(size=(N, 2))
    weight[3], weight[4, 1] = 0, 0
    return weight


WEIGHTS = {"none": None, "by sample": W, "by output": by_output()}
weights = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=list(WEIGHTS))
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


# By sample ------------------------------------------------------------------------------------------------------------


@dtypes
@weights
def test_norms_and_clipped_gradients(weight, dtype):
    net = network(dtype)
    x, y = X.copy(), Y.copy()
    if weight is not None and weight.ndim == 1:
        x[weight == 0], y[weight == 0] = np.nan, np.nan
    G = net.per_sample_gradients(x, y, sample_weight=weight).astype(float)
    expected = np.linalg.norm(G[:, FREE], axis=1)
    norms = net.per_sample_gradient_norms(x, y, sample_weight=weight, free=FREE)
    assert norms.dtype == net.dtype
    np.testing.assert_allclose(norms, expected, rtol=TOLERANCE[dtype])
    for max_norm in (1e-3, float(np.median(expected)), 1e9, np.inf):
        factor = max_norm / np.maximum(expected, max_norm) if max_norm < np.inf else np.ones(N)
        clipped = net.clipped_gradient(x, y, max_norm, sample_weight=weight, free=FREE)
        assert clipped.dtype == net.dtype
        want = factor @ G
        np.testing.assert_allclose(clipped[FREE], want[FREE], rtol=0, atol=TOLERANCE[dtype] * np.abs(want).max())
        assert not clipped[~FREE].any()


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "huber"])
def test_other_losses_and_a_mask_of_all(loss):
    net = network(loss=loss)
    y = RNG.integers(0, 2, N) if loss == "cross_entropy" else RNG.uniform(size=(N, 2))
    everything = np.ones(50, bool)
    plain = net.per_sample_gradient_norms(X, y)
    np.testing.assert_allclose(net.per_sample_gradient_norms(X, y, free=everything), plain, rtol=1e-13)
    bound = float(np.median(plain))
    clipped = net.clipped_gradient(X, y, bound, free=everything)
    np.testing.assert_allclose(clipped, net.clipped_gradient(X, y, bound), rtol=1e-10, atol=1e-13)


@dtypes
def test_the_bits_are_those_of_any_threads_and_any_rows(dtype):
    net = network(dtype)
    first = None
    for n_threads in (1, 2, 3, 8):
        keywords = {"sample_weight": W, "free": FREE, "n_threads": n_threads}
        both = [net.per_sample_gradient_norms(X, Y, **keywords), net.clipped_gradient(X, Y, 0.2, **keywords)]
        first = first or both
        assert all(same_bits(a, b) for a, b in zip(both, first, strict=True))
    one = net.per_sample_gradient_norms(X[7:8], Y[7:8], free=FREE)
    assert same_bits(one, net.per_sample_gradient_norms(X, Y, free=FREE)[7:8])


@pytest.mark.parametrize("scale", [1e-200, 1e150])
def test_squares_may_leave_the_range(scale):
    net = Network([3, 2], activations="identity", rng=0)
    x, y = np.ones((4, 3)), RNG.normal(size=(4, 2)) * scale
    net.params[...] = 0
    free = np.arange(8) % 2 == 0
    G = net.per_sample_gradients(x, y)[:, free]
    expected = np.linalg.norm(G / scale, axis=1)
    np.testing.assert_allclose(net.per_sample_gradient_norms(x, y, free=free) / scale, expected, rtol=1e-14)
    clipped = net.clipped_gradient(x, y, 0.1 * scale, free=free)[free] / scale
    np.testing.assert_allclose(clipped, (0.1 / np.maximum(expected, 0.1)) @ (G / scale), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("dtype", "large"), [("float32", 1e25), ("float64", 1e200)])
def test_gradients_may_leave_the_range(dtype, large):
    """h and dL/da are within it, their products are not."""
    net = Network([2, 1], activations="identity", dtype=dtype, rng=0)
    net.params = [0, 0, 0]
    x, y = np.array([[large, 0.5 * large], [3, 4]], dtype), np.array([[-large], [-1]], dtype)  # grad_a is 2 large, 2
    norms = {
        (1, 1, 0): [np.inf, 10.0], (0, 1, 0): [np.inf, 8.0], (0, 0, 1): [2 * np.float64(large), 2.0],
    }  # fmt: skip
    for free, expected in norms.items():
        mask = np.array(free, bool)
        found = net.per_sample_gradient_norms(x, y, free=mask)
        np.testing.assert_allclose(found, np.array(expected).astype(dtype), rtol=1e-6)
        direction = [np.array([large, 0.5 * large, 1]) / large, np.array([3, 4, 1])]
        some = [d * mask / np.abs(d * mask).max() for d in direction]
        want = sum(0.5 * d / np.linalg.norm(d) for d in some)
        clipped = net.clipped_gradient(x, y, 0.5, free=mask)
        np.testing.assert_allclose(clipped, want, rtol=1e-6)
    frozen = np.array([0, 0, 1], bool)
    x[0, 0] = np.inf
    assert net.per_sample_gradient_norms(x[1:], y[1:], free=frozen) == 2


@dtypes
@pytest.mark.parametrize("weight", [None, W])
def test_parts(weight, dtype):
    rng = np.random.default_rng(3)
    net, free = network(dtype), FREE
    for n in (70, 20_000):
        x, y = rng.normal(size=(n, 3)).astype(dtype), rng.normal(size=(n, 2)).astype(dtype)
        w = None if weight is None else np.resize(weight, n)
        options = {"max_norm": 0.2, "sample_weight": w}
        expected = net.clipped_gradient(x, y, free=free, **options)
        ends = list(backprop.row_blocks(net, n, 3, call="clipped_gradient", sample_weight=w))
        totals = None if w is None else backprop.weight_totals(w, ends)
        parts = [
            net.partial_sums(
                x[rows], y[rows], call="clipped_gradient", first_row=rows.start, n_rows=n, totals=totals, free=free,
                **{**options, "sample_weight": None if w is None else w[rows]},
            )
            for rows in ends
        ]  # fmt: skip
        parts = [PartialSums.from_bytes(part.to_bytes()) for part in reversed(parts)]
        assert same_bits(sum(parts).result(), expected)
        assert not expected[~free].any()


def test_parts_of_other_masks_do_not_add_up():
    net = network()
    parts = [
        net.partial_sums(X, Y, call="clipped_gradient", first_row=0, n_rows=N, max_norm=0.2, free=free)
        for free in (None, FREE, ~FREE)
    ]
    for k in range(3):
        with pytest.raises(
            ValueError, match=r"^\+: expected parts of one sum, got another v, max_norm, free or weight$"
        ):
            parts[k] + parts[k - 1]
    with pytest.raises(TypeError, match=r"^free: expected none, since value_and_grad takes x, y, got"):
        net.partial_sums(X, Y, first_row=0, n_rows=N, free=FREE)
    with pytest.raises(ValueError, match=r"^free: expected shape \(50,\), got \(49,\)"):
        net.partial_sums(X, Y, call="clipped_gradient", first_row=0, n_rows=N, max_norm=0.2, free=FREE[1:])


def test_out_and_params():
    net = network()
    theta = net.params * 1.5
    out, norms = np.full(50, np.nan), np.full(N, np.nan)
    assert net.clipped_gradient(X, Y, 0.2, params=theta, free=FREE, out=out) is out
    assert net.per_sample_gradient_norms(X, Y, params=theta, free=FREE, out=norms) is norms
    other = network()
    other.params = theta
    assert same_bits(out, other.clipped_gradient(X, Y, 0.2, free=FREE))
    assert same_bits(norms, other.per_sample_gradient_norms(X, Y, free=FREE))


def test_no_samples_no_gradients_and_no_numbers():
    net = network()
    assert net.per_sample_gradient_norms(X[:0], Y[:0], free=FREE).shape == (0,)
    assert not net.clipped_gradient(X[:0], Y[:0], 1.0, free=FREE).any()
    y_hat = net.forward(X)
    assert not net.per_sample_gradient_norms(X, y_hat, free=FREE).any()
    assert not net.clipped_gradient(X, y_hat, 1.0, free=FREE).any()
    y = Y.copy()
    y[3] = np.nan
    assert np.flatnonzero(np.isnan(net.per_sample_gradient_norms(X, y, free=FREE))).tolist() == [3]
    assert np.isnan(net.clipped_gradient(X, y, 1.0, free=FREE)[FREE]).any()


# Least squares --------------------------------------------------------------------------------------------------------


@dtypes
@weights
def test_residuals_and_normal_equations(weight, dtype):
    net = network(dtype)
    fun, jac = net.residuals(X, Y, sample_weight=weight)
    fun_of_free, jac_of_free = net.residuals(X, Y, sample_weight=weight, free=FREE)
    theta = net.params[FREE] + 0.1
    whole = net.params.copy()
    whole[FREE] = theta
    assert same_bits(fun_of_free(theta), fun(whole))
    assert same_bits(np.ascontiguousarray(jac_of_free(theta)), np.ascontiguousarray(jac(whole)[:, FREE]))
    JTJ, JTr = net.normal_equations(X, Y, sample_weight=weight)
    some, some_r = net.normal_equations(X, Y, sample_weight=weight, free=FREE)
    assert same_bits(some, JTJ[np.ix_(FREE, FREE)])
    assert same_bits(some_r, JTr[FREE])
    for function, copied in zip((fun_of_free, jac_of_free), pickle.loads(pickle.dumps((fun_of_free, jac_of_free)))):  # noqa: B905
        assert same_bits(np.ascontiguousarray(function(theta)), np.ascontiguousarray(copied(theta)))


def test_residuals_follow_the_frozen_parameters_of_the_network():
    net = network()
    fun, _ = net.residuals(X, Y, free=FREE)
    theta = net.params[FREE]
    before = fun(theta)
    net.params[~FREE] += 1
    assert not same_bits(fun(theta), before)
    assert same_bits(fun(theta), net.residuals(X, Y)[0](net.params))


def test_least_squares_moves_the_free_parameters_alone():
    net = network()
    fun, jac = net.residuals(X, Y, free=FREE)
    result = least_squares(fun, net.params[FREE], jac=jac, max_nfev=20)
    expected = net.objective(X, Y, free=FREE).value(result.x) * Y.size / 2
    np.testing.assert_allclose(result.cost, expected, rtol=1e-12)
    assert result.cost < 0.5 * np.square(fun(net.params[FREE])).sum()


CALLS = {
    "per_sample_gradient_norms": lambda net, free: net.per_sample_gradient_norms(X, Y, free=free),
    "clipped_gradient": lambda net, free: net.clipped_gradient(X, Y, 1.0, free=free),
    "residuals": lambda net, free: net.residuals(X, Y, free=free),
    "normal_equations": lambda net, free: net.normal_equations(X, Y, free=free),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("free", "kind", "text"),
    [
        (FREE[1:], ValueError, "free: expected shape (50,), got (49,)"),
        (np.zeros(50, bool), ValueError, "free: expected at least one free parameter, got none"),
        (np.arange(50), TypeError, "free: expected a boolean mask, got dtype int64"),
    ],
)
def test_what_is_refused(name, free, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        CALLS[name](network(), free)


def test_theta_of_the_free_parameters():
    fun, jac = network().residuals(X, Y, free=FREE)
    for function in (fun, jac):
        with pytest.raises(ValueError, match=re.escape("theta: expected shape (33,), got (50,)")):
            function(np.zeros(50))


def test_out_must_not_overlap():
    net = network()
    theta = net.params.copy()
    with pytest.raises(ValueError, match=r"^out: expected memory of its own, got an array that overlaps"):
        net.clipped_gradient(X, Y, 1.0, params=theta, free=FREE, out=theta)
    with pytest.raises(ValueError, match=r"^max_norm: expected a number > 0, got 0\.0"):
        net.clipped_gradient(X, Y, 0.0, free=FREE)
