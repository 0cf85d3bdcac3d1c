"""The compiled solvers: they find SciPy's minima, keep their bits, and survive what is not finite."""

import functools
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import minimize
from solvers import PROBLEMS, SOLVERS, problems, run

import backprop
from backprop import _core

LEAST_SQUARES = [name for name, problem in PROBLEMS.items() if problem.is_least_squares]
SCIPY = {"gtol": 1e-10, "ftol": 0.0, "maxiter": 20000, "maxfun": 40000, "maxls": 60}
EVERY = [("lbfgs", name) for name in PROBLEMS] + [("lm", name) for name in LEAST_SQUARES]


@functools.cache
def minimum(name):
    """SciPy's minimum, and a start near it: other minima are then far away."""
    problem = PROBLEMS[name]
    net, rng = problem.net, np.random.default_rng(5)
    fun = net.objective(problem.x, problem.y, **problem.options)
    theta = net.params if problem.free is None else net.params[problem.free]
    found = minimize(fun, theta, jac=True, method="L-BFGS-B", options=SCIPY)
    start = net.params.copy()
    start[slice(None) if problem.free is None else problem.free] = found.x + 0.02 * rng.normal(size=found.x.size)
    return fun, found, start


@pytest.mark.parametrize(("method", "name"), EVERY)
def test_minimum_of_scipy(method, name):
    problem = PROBLEMS[name]
    fun, found, start = minimum(name)
    done = run(method, problem.net, problem.x, problem.y, start=start, tol=1e-9, max_iter=5000, **problem.options)
    assert done.answer in {"converged", "no progress"}
    assert done.solver.loss == pytest.approx(found.fun, rel=1e-10, abs=0)
    theta = done.params if problem.free is None else done.params[problem.free]
    loss, grad = fun(theta)
    assert done.solver.loss == pytest.approx(loss, rel=1e-15)
    np.testing.assert_allclose(done.solver.gradient, grad, atol=1e-12)
    assert np.abs(grad).max() < 1e-7
    if problem.free is not None:
        np.testing.assert_array_equal(done.params[~problem.free], start[~problem.free])


@pytest.mark.parametrize("name", PROBLEMS)
def test_minimum_in_float32(name):
    """As near to the minimum as SciPy comes in float32, which is some roundings of the loss, or nearer."""
    fun, found, start = minimum(name)
    problem = problems("float32")[name]
    free = slice(None) if problem.free is None else problem.free
    done = run("lbfgs", problem.net, problem.x, problem.y, start=start, tol=0.0, max_iter=5000, **problem.options)
    fun32 = problem.net.objective(problem.x, problem.y, **problem.options)
    scipys = minimize(fun32, start[free], jac=True, method="L-BFGS-B", options=SCIPY)
    excess, scipys_excess = ((fun(theta)[0] - found.fun) / abs(found.fun) for theta in (done.params[free], scipys.x))
    assert excess < max(scipys_excess, 5e-6)
    assert done.answer == "no progress"


@pytest.mark.parametrize(("method", "name"), EVERY)
def test_losses_fall_from_afar(method, name):
    problem = PROBLEMS[name]
    done = run(method, problem.net, problem.x, problem.y, max_iter=30, **problem.options)
    first = problem.net.objective(problem.x, problem.y, **problem.options).value(
        problem.net.params if problem.free is None else problem.net.params[problem.free]
    )
    assert len(done.losses) == done.solver.n_iter == 30
    assert (np.diff([first, *done.losses]) < 0).all()
    assert done.losses[-1] == done.solver.loss


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("through_pickle", [False, True])
def test_a_run_goes_on_with_the_same_bits(method, dtype, through_pickle):
    net = backprop.Network([3, 5, 1], activations="tanh", dtype=dtype, rng=3)
    x, y = PROBLEMS["tanh"].x, PROBLEMS["tanh"].y
    whole = run(method, net, x, y, max_iter=40)
    part = run(method, net, x, y, max_iter=13)
    losses = [*part.losses]
    while len(losses) < 40:
        solver = pickle.loads(pickle.dumps(part.solver)) if through_pickle else part.solver
        part = run(method, net, x, y, start=part.params, solver=solver, max_iter=min(9, 40 - len(losses)))
        losses += [*part.losses]
        if part.answer == "no progress":
            break
    assert losses == whole.losses.tolist()
    assert part.params.tobytes() == whole.params.tobytes()
    assert part.solver.n_evaluations == whole.solver.n_evaluations


@pytest.mark.parametrize("name", PROBLEMS)
def test_an_objective_has_the_bits_of_the_compiled_loop(name):
    problem = PROBLEMS[name]
    net, free = problem.net, problem.free
    done = run("lbfgs", net, problem.x, problem.y, max_iter=25, **problem.options)
    fun = net.objective(problem.x, problem.y, **problem.options)
    solver = _core.LBFGS(net.params if free is None else net.params[free])
    while solver.n_iter < 25:
        solver.tell(*fun(solver.ask()))
    assert solver.theta.tobytes() == done.solver.theta.tobytes()
    assert solver.loss == done.solver.loss


@pytest.mark.parametrize("method", SOLVERS)
def test_threads_change_no_bit(method):
    rng = np.random.default_rng(0)
    net = backprop.Network([8, 20, 1], activations="tanh", rng=0)
    x = rng.normal(size=(20000, 8))
    y = np.sin(x[:, :1])
    runs = [run(method, net, x, y, max_iter=3, n_threads=n) for n in (1, 2, 8)]
    assert len({done.params.tobytes() for done in runs}) == 1


PROGRAM = """
import hashlib
from solvers import PROBLEMS, SOLVERS, problems, run
digest = hashlib.sha256()
for name in ("tanh", "missing", "free"):
    p = PROBLEMS[name]
    for method in SOLVERS:
        digest.update(run(method, p.net, p.x, p.y, max_iter=25, **p.options).params.tobytes())
print(digest.hexdigest())
"""


def test_instruction_sets_with_fma_change_no_bit():
    sets = [simd for simd in _core.supported_simd() if simd != "v2"]  # which has no FMA
    digests = set()
    for simd in sets:
        environment = os.environ | {"BACKPROP_SIMD": simd, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if "was built without" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def test_lbfgs_from_python_has_the_same_bits():
    problem = PROBLEMS["tanh"]
    done = run("lbfgs", problem.net, problem.x, problem.y, max_iter=30)
    solver = _core.LBFGS(problem.net.params.copy())
    while solver.n_iter < 30:
        theta = solver.ask()
        solver.tell(*problem.net.value_and_grad(problem.x, problem.y, params=theta))
    assert solver.theta.tobytes() == done.params.tobytes()
    assert solver.n_evaluations == done.solver.n_evaluations


# The direction -------------------------------------------------------------------------------------------------------


def direction_of_two_loops(gradient, pairs):
    """-H gradient, by the two loops of the textbook over the pairs (s, y), the oldest first."""
    q, alphas = gradient.copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    s, y = pairs[-1]
    q *= s @ y / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - y @ q / (s @ y)) * s
    return -q


@pytest.mark.parametrize("unit", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("constant", [0.0, 30.0])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_directions_are_those_of_the_textbook(dtype, constant, unit):
    """Also where the gradient hardly changes, and far from 1."""
    rng = np.random.default_rng(0)
    n, n_kept = 1100, 3  # sums go on in float64 after 1024 entries
    curvature, slope = np.exp(rng.normal(size=n)), np.full(n, constant)
    solver, pairs, checked = _core.LBFGS(np.ones(n, dtype), n_kept), [], 0

    def value_and_grad(theta):
        x = theta.astype(float)
        gradient = (unit * (curvature * x + slope)).astype(dtype).astype(float)
        return unit * float((0.5 * curvature * x + slope) @ x), gradient

    solver.tell(*value_and_grad(solver.ask()))
    while solver.n_iter < 9:
        theta, gradient, n_iter = solver.theta, solver.gradient, solver.n_iter
        trial = solver.ask()
        if pairs:
            expected = direction_of_two_loops(gradient.astype(float), pairs[-n_kept:])
            found = trial.astype(float) - theta
            assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
            checked += 1
        while solver.n_iter == n_iter:
            solver.tell(*value_and_grad(solver.ask()))
        pairs.append((solver.theta.astype(float) - theta, solver.gradient.astype(float) - gradient))
    assert checked == 8


# What is not finite --------------------------------------------------------------------------------------------------


def rosenbrock_with_a_wall(theta, wall):
    """Rosenbrock's function, which is not a number right of x = 1.2 and left of -1.25."""
    x, y = theta
    if not -1.25 < x < 1.2:
        return wall, np.full(2, wall)
    grad = np.array([-400 * x * (y - x * x) - 2 * (1 - x), 200 * (y - x * x)])
    return 100 * (y - x * x) ** 2 + (1 - x) ** 2, grad


@pytest.mark.parametrize("wall", [np.nan, np.inf, -np.inf])
def test_a_wall_shortens_the_step(wall):
    solver = _core.LBFGS(np.array([-1.2, 1.0]))
    while not solver.has_converged(1e-8):
        theta = solver.ask()
        assert theta is not None
        solver.tell(*rosenbrock_with_a_wall(theta, wall))
    np.testing.assert_allclose(solver.theta, 1, atol=1e-7)
    assert solver.n_evaluations < 200


def test_finite_loss_with_a_gradient_of_nan_shortens_the_step():
    solver = _core.LBFGS(np.array([3.0]))
    while not solver.has_converged(1e-8):
        (x,) = solver.ask()
        solver.tell(x**4 / 4 + x, np.array([np.nan if x < -1.5 else x**3 + 1]))
    assert solver.theta[0] == pytest.approx(-1, abs=1e-7)


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_start_that_is_not_finite_ends_at_once(method, bad):
    net = backprop.Network([1, 2, 1], activations="tanh", rng=0)
    x = np.array([[0.0], [bad]])
    done = run(method, net, x, np.zeros((2, 1)), start=np.full(net.n_params, bad), max_iter=5)
    assert done.answer == "not finite"
    assert len(done.losses) == 0


@pytest.mark.parametrize("method", SOLVERS)
def test_no_progress_ends(method):
    problem = PROBLEMS["tanh"]
    done = run(method, problem.net, problem.x, problem.y, l2=1e-2, tol=0.0, max_iter=100000)
    assert done.answer in {"no progress", "converged"}
    again = run(method, problem.net, problem.x, problem.y, l2=1e-2, start=done.params, solver=done.solver)
    assert again.answer == done.answer
    assert again.params.tobytes() == done.params.tobytes()
    assert len(again.losses) == 0


def test_a_function_without_minimum_ends():
    solver, n = _core.LBFGS(np.array([1.0])), 0
    while (theta := solver.ask()) is not None and n < 10000:
        solver.tell(float(theta[0]), np.array([1.0]))
        n += 1
    assert n < 10000


def test_a_wrong_gradient_ends():
    solver, n = _core.LBFGS(np.ones(3)), 0
    while (theta := solver.ask()) is not None and n < 10000:
        solver.tell(float(theta @ theta), -2 * theta)
        n += 1
    assert n < 200
    assert solver.loss == 3


# Signals -------------------------------------------------------------------------------------------------------------


class Rung(Exception):  # noqa: N818
    """Raised by the handler of an alarm."""


def ring(*_):
    """The handler."""
    raise Rung


@pytest.mark.alone
@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_alarm_leaves_the_last_accepted_point(method, n_threads):
    rng = np.random.default_rng(0)
    net = backprop.Network([8, 20, 1], activations="tanh", rng=0)
    x = rng.normal(size=(20000, 8))
    y = np.sin(x[:, :1]) + rng.normal(size=(20000, 1))
    params = net.params.copy()
    solver = SOLVERS[method](params.copy())
    fit = getattr(net._plan, f"fit_by_{method}")
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Rung):
            fit(solver, params, x, y, None, None, 0.0, 0.0, 10**6, n_threads)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(params, solver.theta)
    loss = solver.loss
    assert np.isnan(loss) or loss == pytest.approx(net.loss(x, y, params=params), rel=1e-12)
    _, losses = fit(solver, params, x, y, None, None, 0.0, 0.0, 3, n_threads)
    assert len(losses) == 3
    assert (np.diff([loss, *losses]) < 0).all() or np.isnan(loss)


# Arguments -----------------------------------------------------------------------------------------------------------


def test_refusals():
    solver = _core.LBFGS(np.ones(3))
    with pytest.raises(RuntimeError, match="ask: expected a call of tell_equations"):
        _core.LevenbergMarquardt(np.ones(3)).ask()
    with pytest.raises(ValueError, match=r"gradient: expected shape \(3,\), got \(2,\)"):
        solver.tell(1.0, np.ones(2))
    with pytest.raises(ValueError, match="n_kept: expected 1 to 1000, got 0"):
        _core.LBFGS(np.ones(3), 0)
    problem = PROBLEMS["tanh"]
    with pytest.raises(ValueError, match="solver: expected one of 26 numbers, got 3"):
        run("lbfgs", problem.net, problem.x, problem.y, solver=solver)
