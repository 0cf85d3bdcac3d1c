"""`hess` of an objective is the network's Hessian with l2, for its free parameters, and `expand` puts these back."""

import copy
import pickle

import numpy as np
import pytest
from problems import same_bits
from scipy.optimize import minimize

from backprop import Activation, Network

SHAPES = {  # sizes, activation, loss, samples
    "one sample": ([5, 9, 7, 2], "tanh", "squared_error", 1),
    "two units": ([3, 6, 4], "silu", "cross_entropy", 20_000),
    "no hidden layer": ([4, 6], "identity", "binary_cross_entropy", 3000),
}


def make(shape, dtype="float64"):
    sizes, activation, loss, n = SHAPES[shape]
    rng = np.random.default_rng(0)
    net = Network(sizes, activations=activation, loss=loss, dtype=dtype, rng=0)
    y = rng.integers(0, sizes[-1], n) if loss == "cross_entropy" else rng.uniform(size=(n, sizes[-1]))
    return net, rng.normal(size=(n, sizes[0])), y, rng.uniform(size=n)


def is_weight(net):
    mask = np.zeros(net.n_params, bool)
    for W, _ in net.unflatten(mask):
        W[...] = True
    return mask


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_hessian_of_the_network(shape, dtype, l2):
    net, x, y, w = make(shape, dtype)
    theta = 0.9 * net.params
    expected = net.hessian(x, y, params=theta, sample_weight=w).astype(np.float64) + l2 * np.diag(is_weight(net))
    free = np.random.default_rng(1).random(net.n_params) < 0.5
    for n_threads in (1, 2, 3, 8):
        fun = net.objective(x, y, sample_weight=w, l2=l2, n_threads=n_threads)
        H = fun.hess(theta)
        assert H.dtype == np.float64
        assert same_bits(H, expected)
        assert same_bits(H, H.T.copy())
    net.params = theta
    some = net.objective(x, y, sample_weight=w, l2=l2, free=free)
    assert same_bits(some.hess(theta[free]), expected[np.ix_(free, free)])


def test_its_columns_are_products():
    net, x, y, w = make("two units")
    free = np.arange(net.n_params) % 3 > 0
    fun = net.objective(x, y, sample_weight=w, l2=0.1, free=free)
    theta = net.params[free]
    products = np.stack([fun.hessp(theta, unit) for unit in np.eye(fun.n_free)], axis=1)
    np.testing.assert_allclose(fun.hess(theta), products, rtol=1e-10, atol=1e-14)


def test_each_hessian_is_a_new_array():
    net, x, y, _ = make("one sample")
    fun = net.objective(x, y)
    first = fun.hess(net.params)
    kept = first.copy()
    fun.hess(net.params + 1)[...] = 7
    assert same_bits(first, kept)


@pytest.mark.parametrize("method", ["trust-exact", "dogleg"])
def test_scipy_takes_it(method):
    """dogleg needs a convex function: a network without hidden layers."""
    net, x, y, _ = make("no hidden layer")
    fun = net.objective(x, y, l2=0.01)
    result = minimize(fun, net.params, jac=True, hess=fun.hess, method=method, options={"gtol": 1e-6})
    assert result.success
    assert result.nit < 20
    assert np.abs(fun.grad(result.x)).max() < 1e-6


def test_what_hess_refuses():
    net, x, y, _ = make("one sample")
    with pytest.raises(ValueError, match=r"^theta: expected shape \(140,\), got \(3,\)"):
        net.objective(x, y).hess(np.zeros(3))
    own = Network([5, 3, 2], activations=Activation("own", np.tanh, lambda a: 1 / np.cosh(a) ** 2), rng=0)
    with pytest.raises(ValueError, match=r"^hess: expected a g_second in the activation 'own' of layer 1, got none"):
        own.objective(x, y).hess(own.params)


# expand ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_expand_without_free_is_a_copy_of_theta(dtype):
    net, x, y, _ = make("one sample", dtype)
    fun, theta = net.objective(x, y), net.params + 1
    whole = fun.expand(theta)
    assert whole.dtype == net.dtype
    assert same_bits(whole, theta)
    assert not np.shares_memory(whole, theta)
    assert not np.shares_memory(fun.expand(net.params), net.params)


@pytest.mark.parametrize("duplicate", [lambda fun: fun, copy.deepcopy, lambda fun: pickle.loads(pickle.dumps(fun))])
def test_expand_leaves_the_others_as_the_network_has_them(duplicate):
    net, x, y, _ = make("one sample", "float32")
    free = np.arange(net.n_params) % 2 == 0
    fun = duplicate(net.objective(x, y, free=free))
    theta = np.linspace(0, 1, fun.n_free)
    whole = fun.expand(theta)
    assert same_bits(whole[free], theta.astype(np.float32))
    assert same_bits(whole[~free], net.params[~free])
    assert fun.value(theta) == net.loss(x, y, params=whole)
    assert not np.shares_memory(whole, fun.expand(theta))


def test_what_expand_refuses():
    net, x, y, _ = make("one sample")
    fun = net.objective(x, y, free=np.arange(net.n_params) < 5)
    with pytest.raises(ValueError, match=r"^theta: expected shape \(5,\), got \(140,\)"):
        fun.expand(net.params)
    with pytest.raises(TypeError, match=r"^theta: "):
        fun.expand(["a"] * 5)
