"""The steps of a fit: the batches of one epoch by adam or sgd, and whole fits by lbfgs or lm.

`run_epoch`, `lbfgs` and `lm` are all that the estimators know of the solvers. They are plain NumPy around
`Network.value_and_grad`.

The state of adam and sgd is float64. An update is computed in float64 and rounded once to the network's dtype.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop.sklearn.problem import Problem, blocks_of, is_sparse

Array = npt.NDArray[Any]

_SMALLEST_RATE = 1e-6  # an adaptive learning rate below it ends the fit
_RELATIVE_DECREASE = 2.2e-9  # the same as ftol of SciPy's L-BFGS-B


class Optimizer:
    """A stochastic solver: its learning rate and its state."""

    def __init__(self, learning_rate_init: float) -> None:
        self.learning_rate_init = float(learning_rate_init)
        self.learning_rate = float(learning_rate_init)

    def step(self, theta: Array, grad: Array) -> None:
        """Change theta in place."""
        raise NotImplementedError

    def iteration_ends(self, n_seen: int) -> None:
        """Change the learning rate at the end of an epoch, if the schedule says so.

        Parameters
        ----------
        n_seen : int
            The number of samples so far, over all epochs.
        """

    def stops(self) -> tuple[bool, str]:
        """Whether a fit ends that does not improve any more, and why."""
        return True, "Stopping."


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum: v <- momentum v - rate grad, theta <- theta + v.

    Nesterov's adds momentum v - rate grad, with the new v.
    """

    def __init__(
        self, n_params: int, learning_rate_init: float, schedule: str, momentum: float, nesterov: bool, power_t: float
    ) -> None:
        super().__init__(learning_rate_init)
        self.schedule, self.momentum, self.nesterov, self.power_t = schedule, momentum, nesterov, power_t
        self.velocity = np.zeros(n_params)

    def step(self, theta: Array, grad: Array) -> None:
        """Change theta in place."""
        scaled = self.learning_rate * grad
        self.velocity = self.momentum * self.velocity - scaled
        theta += self.momentum * self.velocity - scaled if self.nesterov else self.velocity

    def iteration_ends(self, n_seen: int) -> None:
        """With "invscaling": rate_init / (n_seen + 1)^power_t."""
        if self.schedule == "invscaling":
            self.learning_rate = self.learning_rate_init / (n_seen + 1) ** self.power_t

    def stops(self) -> tuple[bool, str]:
        """With "adaptive", divide the learning rate by 5 instead, until it is too small."""
        if self.schedule != "adaptive":
            return True, "Stopping."
        if self.learning_rate <= _SMALLEST_RATE:
            return True, "Learning rate too small. Stopping."
        self.learning_rate /= 5.0
        return False, f"Setting learning rate to {self.learning_rate:f}"


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014, section 2, the efficient order): epsilon is added before the bias is corrected."""

    def __init__(self, n_params: int, learning_rate_init: float, beta_1: float, beta_2: float, epsilon: float) -> None:
        super().__init__(learning_rate_init)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.t = 0
        self.m, self.v = np.zeros(n_params), np.zeros(n_params)

    def step(self, theta: Array, grad: Array) -> None:
        """Change theta in place."""
        self.t += 1
        self.m = self.beta_1 * self.m + (1.0 - self.beta_1) * grad
        self.v = self.beta_2 * self.v + (1.0 - self.beta_2) * grad**2
        self.learning_rate = self.learning_rate_init * np.sqrt(1.0 - self.beta_2**self.t) / (1.0 - self.beta_1**self.t)
        theta += -self.learning_rate * self.m / (np.sqrt(self.v) + self.epsilon)


def run_epoch(problem: Problem, optimizer: Optimizer, order: Array | None, batch_size: int) -> float:
    """Make one step for each batch, and return the mean of the reported losses, weighted by the rows of the batches.

    Parameters
    ----------
    problem : Problem
        The params of its network change. If this raises, they are those of the last whole step.
    optimizer : Optimizer
    order : (n_samples,) array of int or None
        The rows, in the order of the epoch. None is the order of the samples.
    batch_size : int
        From 1 to n_samples. The last batch may be shorter. A batch without weight makes no step, and its loss is 0.
    """
    net, n = problem.net, problem.n_samples
    theta, grad = net.params, np.empty_like(net.params)
    sum_of_losses = 0.0
    with np.errstate(all="ignore"):  # a fit that diverges has a loss of NaN or infinity
        for start in range(0, n, batch_size):
            batch = slice(start, min(start + batch_size, n))
            rows = batch if order is None else order[batch]
            if problem.total(rows) > 0:
                loss, direction = problem.value_and_grad(rows, grad)
                sum_of_losses += loss * (batch.stop - batch.start)
                optimizer.step(theta, direction)
    return sum_of_losses / n


class Outcome(NamedTuple):
    """How a fit by lbfgs or lm ended."""

    loss: float  # as scikit-learn reports it
    n_iter: int
    message: str  # empty if it converged


def _reported(problem: Problem, value: float) -> float:
    """The reported loss, from the function whose gradient is followed."""
    every, total = slice(None), problem.total(slice(None))
    loss = (value - problem.penalty(total)) / problem.scales.gradient
    return problem.reported(loss, every, total)


def lbfgs(problem: Problem, max_iter: int, max_fun: int, tol: float, verbose: bool) -> Outcome:
    """Minimise over all samples by SciPy's L-BFGS-B; the network then has the parameters of the minimum."""
    from scipy.optimize import minimize

    net, total, scale = problem.net, problem.total(slice(None)), problem.scales.gradient
    l2 = problem.alpha / (scale * total)
    if is_sparse(problem.x):

        def blocks() -> Any:
            return (tuple(part for part in problem.rows(rows) if part is not None) for rows in blocks_of(problem.x))

        objective = net.objective(blocks, l2=l2, n_threads=problem.n_threads)
    else:
        objective = net.objective(
            problem.x, problem.y, sample_weight=problem.sample_weight, l2=l2, n_threads=problem.n_threads
        )

    def fun(theta: Array) -> tuple[float, Array]:
        value, grad = objective(theta)
        return scale * value, scale * grad

    n_shown = 0

    def show(intermediate_result: Any) -> None:
        nonlocal n_shown
        n_shown += 1
        print(f"Iteration {n_shown}, loss = {intermediate_result.fun:.8f}")

    result = minimize(
        fun,
        net.params.astype(np.float64),
        method="L-BFGS-B",
        jac=True,
        callback=show if verbose else None,
        options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol},
    )
    net.params = result.x
    message = "" if result.status == 0 else f"lbfgs failed to converge after {result.nit} iterations: {result.message}"
    return Outcome(_reported(problem, float(result.fun)), min(int(result.nit), max_iter), message)


def lm(problem: Problem, max_iter: int, max_fun: int, tol: float, verbose: bool) -> Outcome:
    """Minimise the squared error by Levenberg-Marquardt on the normal equations, with Nielsen's damping.

    It minimises W times the function whose gradient is followed: (sum r^2 + alpha sum w^2) / 2.
    """
    net, total = problem.net, problem.total(slice(None))
    x, y, weight = problem.rows(slice(None))
    is_weight = problem._is_weight

    def value() -> float:
        loss = net.loss(x, y, sample_weight=weight, n_threads=problem.n_threads)
        return total * (problem.scales.gradient * loss + problem.penalty(total))

    theta, f, n_fun = net.params.copy(), value(), 1
    damping, factor, is_new, n_iter = 0.0, 2.0, True, 0
    message = f"lm reached max_iter={max_iter}"
    while n_iter < max_iter:
        if is_new:
            A, g = net.normal_equations(x, y, sample_weight=weight, n_threads=problem.n_threads)
            A = A.astype(np.float64) + np.diag(problem.alpha * is_weight)
            g = g.astype(np.float64) + problem.alpha * problem.weights_of_layers()
            if np.abs(g).max() <= tol * total:
                message = ""
                break
            damping = damping or 1e-3 * float(A.diagonal().max())
        if n_fun >= max_fun:
            message = f"lm reached max_fun={max_fun}"
            break
        try:
            step = np.linalg.solve(A + damping * np.eye(len(A)), -g)
        except np.linalg.LinAlgError:
            damping, factor, is_new = damping * factor, 2.0 * factor, False
            continue
        net.params = theta + step
        f_new, n_fun = value(), n_fun + 1
        predicted = 0.5 * float(step @ (damping * step - g))
        if f_new < f:
            ratio = (f - f_new) / predicted if predicted > 0 else 1.0
            damping, factor, is_new = damping * max(1 / 3, 1.0 - (2.0 * ratio - 1.0) ** 3), 2.0, True
            small = f - f_new <= _RELATIVE_DECREASE * max(f, f_new, total)
            theta, f, n_iter = net.params.copy(), f_new, n_iter + 1
            if verbose:
                print(f"Iteration {n_iter}, loss = {_reported(problem, f / total):.8f}")
            if small:
                message = ""
                break
        else:
            net.params = theta
            if not np.isfinite(damping) or np.abs(step).max() <= np.finfo(net.dtype).eps * np.abs(theta).max():
                message = ""
                break
            damping, factor, is_new = damping * factor, 2.0 * factor, False
    net.params = theta
    return Outcome(_reported(problem, f / total), n_iter, message)
