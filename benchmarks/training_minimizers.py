"""Fits of all rows at once, to a given loss: SciPy on our objective and residuals, and scikit-learn's lbfgs.

A maker looks for the least number of iterations that reaches the loss, and returns a `Runner` whose call is a fit of so
many from the parameters of the problem, and gives the losses at the start and at the end.
"""

import warnings

import numpy as np
import training_ours
from peers import Runner, UnsupportedError
from training_ours import MOST_ITERATIONS
from training_peers import make_estimator, sklearn_factor


def _runner(problem, fit, n_iterations):
    """A runner of `fit`, which takes a number of iterations and gives the loss at its end, in our measure."""
    start = training_ours.make_network(problem).loss(problem.x, problem.y)
    runner = Runner(lambda: fit(n_iterations), lambda: np.array([start, fit(n_iterations)]))
    runner.n_iterations = n_iterations
    return runner


class _ReachedError(Exception):
    """The loss is reached."""


class _Counter:
    """Counts losses until one of them is at most the goal."""

    def __init__(self, goal):
        self.goal, self.n = goal, 0

    def take(self, loss):
        self.n += 1
        if loss <= self.goal:
            raise _ReachedError
        if self.n > MOST_ITERATIONS:
            raise UnsupportedError(f"{MOST_ITERATIONS} iterations do not reach a loss of {self.goal:g}")

    def count(self, fit):
        """How many losses there are in this fit, up to the goal."""
        try:
            fit()
        except _ReachedError:
            return self.n
        raise UnsupportedError(f"it ends before it reaches a loss of {self.goal:g}")


def make_scipy(problem, n_threads):
    """L-BFGS-B on `Network.objective`; for lm, `least_squares` with MINPACK's lm on `Network.residuals`."""
    from scipy.optimize import least_squares, minimize

    net, counter = training_ours.make_network(problem), _Counter(problem.case.goal)
    start = net.params.astype(np.float64)
    if problem.case.solver == "lbfgs":
        fun = net.objective(problem.x, problem.y, n_threads=n_threads)

        def fit(max_iter, callback=None):
            options = {"maxiter": max_iter, "maxfun": 10**9, "ftol": 0.0, "gtol": 0.0}
            return minimize(fun, start, jac=True, method="L-BFGS-B", callback=callback, options=options).fun

        # SciPy gives the result to an argument of this name.
        return _runner(
            problem,
            fit,
            counter.count(lambda: fit(10**9, lambda intermediate_result: counter.take(intermediate_result.fun))),
        )
    residuals, jac = net.residuals(problem.x, problem.y, n_threads=n_threads)

    def fit_residuals(max_evaluations, fun=residuals):
        small = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}
        found = least_squares(fun, start, jac, method="lm", max_nfev=max_evaluations, **small)
        return 2 * found.cost / problem.y.size

    def counted(theta):
        r = residuals(theta)
        counter.take(np.square(r, dtype=np.float64).mean())
        return r

    return _runner(problem, fit_residuals, counter.count(lambda: fit_residuals(10**6, counted)))


def _least_number(loss_after, goal):
    """The least number of iterations whose loss is at most the goal, if the loss only falls."""
    low, high = 0, 8
    while loss_after(high) > goal:
        low, high = high, 2 * high
        if high > MOST_ITERATIONS:
            raise UnsupportedError(f"{MOST_ITERATIONS} iterations do not reach a loss of {goal:g}")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if loss_after(middle) > goal else (low, middle)
    return high


def make_sklearn(problem, _n_threads):
    """The solver lbfgs of scikit-learn's estimators, which is SciPy's L-BFGS-B."""
    if problem.case.solver != "lbfgs":
        raise UnsupportedError(f"no {problem.case.solver}")
    of_loss, _ = sklearn_factor(problem.case.network)
    model, y, restart = make_estimator(problem, solver="lbfgs", max_fun=10**9)

    def fit(max_iter):
        restart()
        model.max_iter = max_iter
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(problem.x, y)
        return of_loss * model.loss_

    return _runner(problem, fit, _least_number(fit, problem.case.goal))


MAKERS = {"scipy": make_scipy, "sklearn": make_sklearn}
