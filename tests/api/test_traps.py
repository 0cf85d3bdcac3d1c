"""What the docstrings say beside a trap is true: the cure works, and the trap is one."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime, check_grad, minimize

from backprop import Network

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 3)), RNG.normal(size=20)


def network(**options):
    return Network([3, 4, 1], **({"activations": "tanh", "rng": 0} | options))


def test_minimize_leaves_the_network_as_it_is():
    net = network()
    free = np.arange(net.n_params) > 5
    before = net.params.copy()
    fun = net.objective(X, Y, free=free)
    result = minimize(fun, net.params[free], jac=True, options={"maxiter": 5})
    assert (net.params == before).all()
    net.params[free] = result.x
    assert (net.params[~free] == before[~free]).all()
    assert net.loss(X, Y) == pytest.approx(result.fun)


def test_params_are_live():
    net = network()
    live, kept = net.params, net.params.copy()
    net.params = np.zeros(net.n_params)
    assert not live.any()
    assert kept.any()


def test_flat_targets_and_columns_of_outputs():
    net = network()
    assert net.forward(X).shape == (20, 1)
    assert net.loss(X, Y) == net.loss(X, Y[:, None])
    assert np.square(net.forward(X) - Y[:, None]).mean() == pytest.approx(net.loss(X, Y))
    assert (net.forward(X) - Y).shape == (20, 20)


def test_check_grad():
    net = network()
    fun = net.objective(X, Y)
    assert check_grad(fun.value, fun.grad, net.params) < 1e-6


def test_differences_of_a_float32_objective():
    net = network(dtype="float32")
    fun = net.objective(X, Y)
    exact = fun.grad(net.params)
    assert np.abs(approx_fprime(net.params, fun.value) - exact).max() > 0.1 * np.abs(exact).max()
    assert net.check_gradient(X, Y).ok


def test_weights_of_binary_cross_entropy_beside_pytorchs():
    """PyTorch's formula of BCEWithLogitsLoss(pos_weight=3), its mean over all entries."""
    net = Network([3, 4, 2], activations="tanh", loss="binary_cross_entropy", rng=0)
    y = RNG.integers(0, 2, (20, 2)).astype(float)
    p, pos_weight = net.forward(X), 3.0
    theirs = -(pos_weight * y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    w = np.where(y == 1, pos_weight, 1.0)
    assert w.mean() * net.loss(X, y, sample_weight=w) == pytest.approx(theirs)


@pytest.mark.parametrize("weighted", [False, True])
def test_l2_beside_scikit_learns_alpha(weighted):
    """scikit-learn's objective: half the mean squared error, and alpha / 2 by the sum of weights."""
    net, alpha = network(), 0.3
    w = RNG.uniform(1, 2, 20) if weighted else np.ones(20)
    squares = sum(np.square(W).sum() for W in net.weights)
    theirs = 0.5 * np.average(np.square(net.forward(X)[:, 0] - Y), weights=w) + 0.5 * alpha * squares / w.sum()
    fun = net.objective(X, Y, sample_weight=w if weighted else None, l2=2 * alpha / w.sum())
    assert fun.value(net.params) == pytest.approx(2 * theirs)
