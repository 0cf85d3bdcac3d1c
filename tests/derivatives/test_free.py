"""`free=` in calls of a network: frozen parameters count for nothing, and their entries are 0 or left out."""

import pickle
import re

import numpy as np
import pytest
from problems import same_bits
from scipy.optimize import least_squares

from backprop import Network
from backprop.api import free_parameters

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
def test_the_bits_are_those_of_any_threads_and_any_rows_at_a_time(dtype, monkeypatch):
    net = network(dtype)
    first = None
    for n_bytes in (16 << 20, 1, 7 * 50 * 8):
        monkeypatch.setattr(free_parameters, "_BYTES", n_bytes)
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
