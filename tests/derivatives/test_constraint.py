"""`constraint`: a network as a constraint of SciPy's solvers, with its Jacobian and its Hessian."""

import pickle

import numpy as np
import pytest
from problems import same_bits
from scipy.optimize import BFGS, NonlinearConstraint, minimize

from backprop import Network

X = np.random.default_rng(0).standard_normal(3)


def make(n_out=2, **options):
    return Network([3, 8, n_out], **{"activations": "tanh", "rng": 3} | options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_out", [1, 2, 5])
def test_the_three_functions(n_out, dtype):
    net = make(n_out, dtype=dtype)
    its, v = net.constraint(-1.0, 1.0), np.linspace(-1, 2, n_out)
    assert isinstance(its, NonlinearConstraint)
    assert same_bits(its.lb, np.full(n_out, -1.0))
    assert same_bits(its.ub, np.full(n_out, 1.0))
    assert same_bits(its.fun(X), net.forward(X[None])[0].astype(float))
    assert same_bits(its.jac(X), net.input_jacobian(X[None])[0].astype(float))
    assert same_bits(its.hess(X, v), net.input_hessian(X[None], v)[0].astype(float))
    assert (its.fun(X).shape, its.jac(X).shape, its.hess(X, v).shape) == ((n_out,), (n_out, 3), (3, 3))
    step = 1e-5 if dtype == "float64" else 1e-2
    for i, unit in enumerate(step * np.eye(3)):
        slope = (its.fun(X + unit) - its.fun(X - unit)) / (2 * step)
        curve = v @ (its.jac(X + unit) - its.jac(X - unit)) / (2 * step)
        tolerance = 1e-8 if dtype == "float64" else 3e-3
        np.testing.assert_allclose(its.jac(X)[:, i], slope, atol=tolerance)
        np.testing.assert_allclose(its.hess(X, v)[i], curve, atol=tolerance)


def test_the_parameters_of_now_are_used_and_nothing_is_shared():
    net = make()
    its, v = net.constraint(0, np.inf), np.ones(2)
    before = [its.fun(X), its.jac(X), its.hess(X, v)]
    kept = [part.copy() for part in before]
    net.params[...] *= 0.5
    for function, old, values in zip((its.fun, its.jac, lambda x: its.hess(x, v)), before, kept, strict=True):
        again = function(X)
        assert not same_bits(again, values)
        assert same_bits(old, values)  # SciPy keeps old ones
        assert not np.shares_memory(again, function(X))
        again[...] = 7
        assert not (function(X) == 7).any()


def test_bounds_are_copied():
    lower = np.zeros(2)
    its = make().constraint(lower, [1, np.inf])
    lower[...] = -5
    assert same_bits(its.lb, np.zeros(2))
    assert same_bits(its.ub, np.array([1, np.inf]))
    assert same_bits(make().constraint(-np.inf, 0.5).lb, np.full(2, -np.inf))


def test_its_functions_can_be_pickled():
    its = make().constraint(0, 1, n_threads=2)
    for again, function in zip(pickle.loads(pickle.dumps((its.fun, its.jac))), (its.fun, its.jac), strict=True):
        assert same_bits(again(X), function(X))
    assert same_bits(pickle.loads(pickle.dumps(its.hess))(X, np.ones(2)), its.hess(X, np.ones(2)))


REFUSED = {
    "lb None": (lambda net: net.constraint(None, 1), TypeError, r"^lb: expected .* got None; .* write -np.inf$"),
    "ub None": (lambda net: net.constraint(1, None), TypeError, r"^ub: expected .* got None; .* write np.inf$"),
    "ub NaN": (lambda net: net.constraint(0, [1, np.nan]), ValueError, r"^ub: expected numbers, got nan among them"),
    "shape": (
        lambda net: net.constraint([1, 2, 3], 4),
        ValueError,
        r"^lb: expected a number or shape \(2,\), got shap",
    ),
    "a word": (lambda net: net.constraint("low", 4), TypeError, r"^lb: expected .* got"),
    "order": (
        lambda net: net.constraint([0, 2], 1),
        ValueError,
        r"^lb: expected bounds lb <= ub, got 2.0 and 1.0 for o",
    ),
    "threads": (lambda net: net.constraint(0, 1, n_threads=0), ValueError, r"^n_threads: expected"),
    "a batch": (lambda net: net.constraint(0, 1).fun(X[None]), ValueError, r"^x: expected shape \(3,\), got \(1, 3\)$"),
    "v": (lambda net: net.constraint(0, 1).hess(X, np.ones(3)), ValueError, r"^v: expected shape \(2,\), got \(3,\)$"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    call, kind, text = REFUSED[case]
    with pytest.raises(kind, match=text):
        call(make())


# In SciPy's solvers --------------------------------------------------------------------------------------------------

TARGET = np.array([1.2, -0.7, 0.4])


def nearest(net, method, its):
    """The point nearest to TARGET at which the constraint holds."""
    options = {"gtol": 1e-9, "xtol": 1e-11, "maxiter": 500} if method == "trust-constr" else {"ftol": 1e-14}
    second = {"hess": lambda x: 2 * np.eye(3)} if method == "trust-constr" else {}
    found = minimize(
        lambda x: ((x - TARGET) ** 2).sum(), TARGET, jac=lambda x: 2 * (x - TARGET), method=method, constraints=[its],
        options=options, **second,
    )  # fmt: skip
    assert (net.forward(found.x[None])[0] <= its.ub + 1e-8).all()
    return found


@pytest.mark.filterwarnings("ignore:Constraint options .*ignored by this method")  # SLSQP says so
@pytest.mark.filterwarnings("ignore:delta_grad == 0.0")  # so does BFGS at the end
@pytest.mark.parametrize("n_out", [1, 2])
def test_solvers_reach_the_same_optimum_with_and_without_the_hessian(n_out):
    net = make(n_out)
    level = net.forward(TARGET[None])[0] - 0.5
    exact = net.constraint(level, level)
    without = NonlinearConstraint(exact.fun, level, level, jac=exact.jac, hess=BFGS())
    newton = nearest(net, "trust-constr", exact)
    for found in (nearest(net, "trust-constr", without), nearest(net, "SLSQP", exact)):
        np.testing.assert_allclose(found.x, newton.x, atol=1e-6)
        assert found.fun == pytest.approx(newton.fun, abs=1e-8)
    assert newton.fun > 1e-3
    gradient = 2 * (newton.x - TARGET) + newton.v[0] @ exact.jac(newton.x)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Constraint options .*ignored by this method")  # SLSQP says so
def test_bounds_on_one_side():
    """The barrier of trust-constr stays a little inside."""
    net = make(1)
    level = net.forward(TARGET[None])[0] - 0.5
    newton, other = (nearest(net, method, net.constraint(-np.inf, level)) for method in ("trust-constr", "SLSQP"))
    np.testing.assert_allclose(newton.x, other.x, atol=1e-4)
    np.testing.assert_allclose(net.forward(other.x[None])[0], level, atol=1e-8)
