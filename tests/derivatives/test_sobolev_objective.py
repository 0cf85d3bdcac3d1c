"""`sobolev_objective` is `sobolev_value_and_grad` as a function of theta, with l2 and free, and adds up with others."""

import copy
import pickle
import re

import numpy as np
import pytest
from problems import same_bits
from scipy.optimize import check_grad

from backprop import Activation, Network

RNG = np.random.default_rng(0)
N = 300
X, Y, S, W = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 2)), RNG.normal(size=(N, 2, 3)), RNG.uniform(size=N)
WEIGHT = np.array([[1.0, 0, 2], [0.5, 0.5, 0]])
FREE = np.arange(50) % 3 > 0


def network(dtype="float64", **options):
    return Network([3, 8, 2], **({"activations": "tanh", "rng": 0, "dtype": dtype} | options))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sample_weight", [None, W])
@pytest.mark.parametrize("weight", [0.3, WEIGHT])
def test_it_has_the_bits_of_the_call(weight, sample_weight, dtype):
    net = network(dtype)
    for x, y, slopes in ((X, Y, S), [array.astype(dtype) for array in (X, Y, S)]):
        for n_threads in (1, 2, 3, 8):
            fun = net.sobolev_objective(x, y, slopes, weight, sample_weight=sample_weight, n_threads=n_threads)
            theta = RNG.normal(size=50)
            loss, grad = fun(theta)
            expected = net.sobolev_value_and_grad(x, y, slopes, weight, params=theta, sample_weight=sample_weight)
            assert loss == expected[0] == fun.value(theta)
            assert same_bits(grad, expected[1].astype(float))
            assert same_bits(fun.grad(theta), grad)


def test_l2_and_free():
    net = network()
    fun = net.sobolev_objective(X, Y, S, WEIGHT, sample_weight=W, l2=0.3, free=FREE)
    plain = net.sobolev_objective(X, Y, S, WEIGHT, sample_weight=W)
    penalty = net.objective(X, Y, l2=0.3, free=FREE) + -1 * net.objective(X, Y, free=FREE)
    theta = net.params[FREE]
    np.testing.assert_allclose(fun.value(theta), plain.value(net.params) + penalty.value(theta), rtol=1e-14)
    np.testing.assert_allclose(fun.grad(theta), plain.grad(net.params)[FREE] + penalty.grad(theta), atol=1e-14)
    assert same_bits(fun.expand(theta), net.params)
    assert check_grad(fun.value, fun.grad, theta) < 1e-5


def test_it_adds_up_with_others():
    net = network()
    slopes, values = net.sobolev_objective(X, Y, S, 0.5), net.objective(X, Y)
    fun = values + 0.1 * slopes
    theta = net.params + 0.1
    assert fun.value(theta) == values.value(theta) + 0.1 * slopes.value(theta)
    assert same_bits(fun.grad(theta), values.grad(theta) + 0.1 * slopes.grad(theta))
    assert "1 * (300 samples) + 0.1 * (300 samples with input gradients)" in repr(fun)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda fun: pickle.loads(pickle.dumps(fun))])
def test_copies_and_pickles(how):
    net = network()
    fun = net.sobolev_objective(X, Y, S, WEIGHT, sample_weight=W, l2=0.1, free=FREE)
    theta = net.params[FREE]
    expected = fun.grad(theta)
    assert same_bits(how(fun).grad(theta), expected)


def test_the_weight_is_a_copy():
    net, weight = network(), WEIGHT.copy()
    fun = net.sobolev_objective(X, Y, S, weight)
    expected = fun.value(net.params)
    weight[...] = 7
    assert fun.value(net.params + 0) == expected
    assert net.sobolev_objective(X, Y, S, WEIGHT).value(net.params) == expected


def test_slopes_of_memory_that_is_gone():
    net, slopes = network(), S.copy()
    fun = net.sobolev_objective(X, Y, slopes, 1.0)
    slopes.resize((1, 2, 3), refcheck=False)
    with pytest.raises(ValueError, match=r"^grad_x: expected an array that keeps its size"):
        fun(net.params)


OWN = Activation("own", np.tanh, lambda a: 1 / np.cosh(a) ** 2)
REFUSED = {
    "loss": (lambda: network(loss="huber").sobolev_objective(X, Y, S, 1), "sobolev_objective: expected a network with"),
    "g_second": (lambda: network(activations=OWN).sobolev_objective(X, Y, S, 1), "sobolev_objective: expected a g_sec"),
    "grad_x": (lambda: network().sobolev_objective(X, Y, S[1:], 1), "grad_x: expected shape (300, 2, 3), got (299,"),
    "weight": (lambda: network().sobolev_objective(X, Y, S, -1), "weight: expected finite numbers >= 0"),
    "by output": (
        lambda: network().sobolev_objective(X, Y, S, 1, sample_weight=np.ones((N, 2))),
        "sample_weight: expected shape (300,) in sobolev_objective, got (300, 2)",
    ),
    "l2": (lambda: network().sobolev_objective(X, Y, S, 1, l2=-1), "l2: expected a finite number >= 0, got -1.0"),
    "free": (lambda: network().sobolev_objective(X, Y, S, 1, free=FREE[1:]), "free: expected shape (50,), got (49,)"),
    "no samples": (lambda: network().sobolev_objective(X[:0], Y[:0], S[:0], 1), "x: expected at least one sample"),
    "hessp": (lambda: network().sobolev_objective(X, Y, S, 1).hessp(V, V), "hessp: expected an objective without inp"),
    "hess": (lambda: network().sobolev_objective(X, Y, S, 1).hess(V), "hess: expected an objective without input gra"),
}
V = np.ones(50)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    make, text = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(text)):
        make()
