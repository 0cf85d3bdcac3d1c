"""Objectives of one network add up and scale: value, gradient and second derivatives are those of the terms."""

import copy
import pickle
import re

import numpy as np
import pytest
from problems import same_bits
from scipy.optimize import check_grad, minimize

from backprop import Network, Objective

RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(40, 3)), RNG.normal(size=(40, 2)), RNG.uniform(size=40)
X_2, Y_2 = RNG.normal(size=(900, 3)), RNG.normal(size=(900, 2))
FREE = np.arange(50) % 3 > 0


def network(dtype="float64", **options):
    return Network([3, 8, 2], **({"activations": "tanh", "rng": 0, "dtype": dtype} | options))


def terms(net, **options):
    """An objective in memory, and one on blocks."""
    blocks = [(X_2[:500], Y_2[:500]), (X_2[500:], Y_2[500:])]
    return net.objective(X, Y, sample_weight=W, l2=0.1, **options), net.objective(blocks, l2=0.01, **options)


def everything(fun, theta, v):
    return [*fun(theta), fun.value(theta), fun.grad(theta), fun.hessp(theta, v), fun.hess(theta), fun.expand(theta)]


def assert_same(results, expected):
    for result, one in zip(results, expected, strict=True):
        assert same_bits(np.asarray(result), np.asarray(one))


@pytest.mark.parametrize("free", [None, FREE])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sum_has_the_sums_of_its_terms(dtype, free):
    net = network(dtype)
    first, second = terms(net, free=free)
    theta, v = RNG.normal(size=(2, first.n_free))
    fun = first + 0.3 * second
    assert isinstance(fun, Objective)
    assert fun.n_free == first.n_free
    a, b = everything(first, theta, v), everything(second, theta, v)
    expected = [one + 0.3 * other for one, other in zip(a, b, strict=True)][:-1]
    assert_same(everything(fun, theta, v), [*expected, first.expand(theta)])
    assert same_bits(fun.hess(theta), fun.hess(theta).T.copy())
    assert_same(everything(first, theta, v), a)  # the terms are as they were


def test_factors_and_their_order():
    net = network()
    fun = net.objective(X, Y, sample_weight=W, l2=0.1)
    theta, v = RNG.normal(size=(2, net.n_params))
    once = everything(fun, theta, v)
    doubles = 2 * fun, fun * 2, np.float64(2) * fun, fun * np.float32(2), fun + fun, sum([fun, fun]), -2 * fun * -1
    for twice in doubles:
        assert_same(everything(twice, theta, v)[:-1], [2 * one for one in once][:-1])
    assert_same(everything(sum([fun]), theta, v), once)
    assert_same(everything(sum([fun], start=0 * fun), theta, v), once)
    first, second = terms(net)
    assert (first + second).value(theta) == (second + first).value(theta)
    halves = 0.5 * (first + 0.5 * second)
    assert halves.value(theta) == 0.5 * first.value(theta) + 0.25 * second.value(theta)


def test_a_fit_to_two_data_sets():
    net = network()
    first, second = terms(net)
    fun = first + 0.1 * second
    assert check_grad(fun.value, fun.grad, net.params) < 1e-5
    found = [
        minimize(fun, net.params, jac=True, tol=1e-4, **more)
        for more in (
            {"method": "BFGS"},
            {"method": "trust-exact", "hess": fun.hess},
            {"method": "trust-krylov", "hessp": fun.hessp},
        )
    ]
    assert all(np.abs(result.jac).max() < 1e-3 for result in found)


def test_last_results_are_kept_for_the_sum(monkeypatch):
    net = network()
    fun = net.objective(X, Y) + net.objective(X_2, Y_2)
    theta, calls = net.params.copy(), []
    for term in fun._terms:
        sums = term.samples.sums
        monkeypatch.setattr(term.samples, "sums", lambda *args, sums=sums: calls.append(0) or sums(*args))
    first = fun.grad(theta)
    fun.value(theta)
    first[...] = 0
    assert fun.grad(theta).any()
    assert len(calls) == 2
    fun(theta + 1)
    assert len(calls) == 4


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda fun: pickle.loads(pickle.dumps(fun))])
def test_copies_and_pickles(how):
    first, second = terms(network(), free=FREE)
    fun = first + 0.3 * second
    theta, v = RNG.normal(size=(2, fun.n_free))
    expected = everything(fun, theta, v)
    other = how(fun)
    assert repr(other) == repr(fun)
    assert_same(everything(other, theta, v), expected)
    both = how([first, second])
    if how is not copy.copy:  # they still belong to one network
        assert_same(everything(both[0] + 0.3 * both[1], theta, v), expected)


def test_what_it_prints_and_its_attributes():
    net = network()
    first, second = terms(net, free=FREE)
    fun = first + 0.25 * second
    facts = "1 * (40 samples, weighted, l2=0.1) + 0.25 * (900 samples, l2=0.01), 33 of 50 parameters free"
    assert repr(fun) == f"<Objective of {net!r}, {facts}>"
    assert repr(2 * first) == f"<Objective of {net!r}, 2 * (40 samples, weighted, l2=0.1), 33 of 50 parameters free>"
    assert facts in fun._repr_html_()
    with pytest.raises(AttributeError, match=r"^Objective\.l2 is fixed when the objective is made"):
        fun.l2 = 1
    with pytest.raises(AttributeError, match=r"^Objective has no attribute 'factor'"):
        fun.factor = 1


REFUSED = {
    "another network": (lambda fun: fun + network().objective(X, Y),
                        ValueError, "+: expected objectives of one network, got those of two"),
    "free": (lambda fun: fun + fun._net.objective(X, Y, free=FREE), ValueError,
             "+: expected objectives with equal free, got 50 free parameters on the left, and 33 on the right"),
    "other free": (lambda fun: fun._net.objective(X, Y, free=~FREE) + fun._net.objective(X, Y, free=FREE[::-1] ^ True),
                   ValueError, "+: expected objectives with equal free, got 17 free parameters on the left, and 17 "
                   "others on the right"),
    "a number added": (lambda fun: fun + 1.0, TypeError, "+: expected another objective of the same network, got "),
    "added to a number": (lambda fun: 1 + fun, TypeError, "+: expected another objective of the same network, got int"),
    "False": (lambda fun: False + fun, TypeError, "+: expected another objective of the same network, got bool"),
    "NaN": (lambda fun: np.nan * fun, ValueError, "*: expected a finite number, got nan"),
    "infinity": (lambda fun: fun * 10**400, ValueError, "*: expected a finite number, got inf"),
    "a name": (lambda fun: fun * "2", TypeError, "*: expected a finite number, got str '2'"),
    "a product": (lambda fun: fun * fun, TypeError, "*: expected a finite number, got Objective"),
    "an array": (lambda fun: np.ones(2) * fun, TypeError, "*: expected a finite number, got an array of shape (2,)"),
    "theta": (lambda fun: (fun + fun)(np.ones(3)), ValueError, "theta: expected shape (50,), got (3,)"),
    "v": (lambda fun: (fun + fun).hessp(np.ones(50), np.ones(3)), ValueError, "v: expected shape (50,), got (3,)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    make, kind, text = REFUSED[case]
    with pytest.raises(kind, match=re.escape(text)):
        make(network().objective(X, Y))


def test_a_mask_of_all_is_none():
    net = network()
    fun = net.objective(X, Y) + net.objective(X, Y, free=np.ones(50, bool))
    assert fun.n_free == 50


def test_a_subclass_adds_up_to_an_objective():
    class Own(Objective):
        title = "own"

    net = network()
    fun = Own(net, X, Y) + net.objective(X, Y)
    assert type(fun) is Objective
    assert fun.value(net.params) == 2 * net.loss(X, Y)
