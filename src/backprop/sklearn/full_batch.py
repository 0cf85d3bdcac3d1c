"""Whole fits by lbfgs and lm, which use all samples in each step.

With c = scales.gradient and W the sum of the weights, a fit minimizes c times the objective l + l2 / 2 sum w^2 of the
network, with l2 = alpha / (c W). Its bits do not depend on threads, nor on whether x is sparse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop import threads
from backprop.api import targets
from backprop.distributed.cuts import row_blocks, weight_totals
from backprop.sklearn.problem import Problem, blocks_of, is_sparse
from backprop.training import full_batch

Array = npt.NDArray[Any]

_RELATIVE_DECREASE = 2.0**-52 * 1e7  # of max(loss, 1): the ftol of SciPy's L-BFGS-B
_LOOKS = {"lbfgs": 10, "lm": 1}  # after so many iterations a fit looks for it
_MOST_EVALUATIONS = 82  # of an iteration: two searches of 41


class Outcome(NamedTuple):
    """How a fit ended."""

    loss: float  # as scikit-learn reports it
    n_iter: int
    message: str  # why it did not converge; empty if it did, or if it was stopped


class _Arrays:
    """Iterations on arrays, in compiled code."""

    def __init__(self, problem: Problem, method: str, solver: Any, l2: float, tol: float) -> None:
        net = problem.net
        y, x, _, weights = net._inputs(problem.x, problem.y, None, problem.sample_weight)
        self._fit = net._plan.fit_by_lbfgs if method == "lbfgs" else net._plan.fit_by_lm
        self._first = (solver, net.params, x, y, weights, None, l2, tol)
        self._n_threads = threads.resolve(problem.n_threads)

    def run(self, n_iter: int) -> tuple[str, list[float]]:
        """Up to n_iter iterations: the name of an answer, and the objective after each."""
        answer, losses = self._fit(*self._first, n_iter, self._n_threads)
        return answer, losses.tolist()


class _Blocks:
    """The same on the blocks of a sparse x."""

    def __init__(self, problem: Problem, method: str, solver: Any, l2: float, tol: float) -> None:
        self.problem, self.solver, self.l2, self.tol = problem, solver, l2, tol

        def blocks() -> Any:
            return (tuple(part for part in problem.rows(rows) if part is not None) for rows in blocks_of(problem.x))

        objective = problem.net.objective(blocks, l2=l2, n_threads=problem.n_threads)
        self.value: Callable[[Array], Any] = objective if method == "lbfgs" else objective.value
        self.prepare = self._prepare_lbfgs if method == "lbfgs" else self._prepare_lm
        if method == "lm":
            self._set_equations()

    def run(self, n_iter: int) -> tuple[str, list[float]]:
        """Up to n_iter iterations: the name of an answer, and the objective after each."""
        solver = self.solver
        losses: list[float] = []
        try:
            while True:
                if not self.prepare():
                    return "not finite", losses
                if solver.has_converged(self.tol):
                    return "converged", losses
                if len(losses) >= n_iter:
                    return "max_iter", losses
                answer = "evaluate"
                while answer == "evaluate":
                    theta = solver.ask()
                    if theta is None:
                        return "no progress", losses
                    answer = self.tell(theta)
                if answer != "iterated":
                    return answer, losses
                losses.append(solver.loss)
        finally:
            self.problem.net.params = solver.theta

    def _prepare_lbfgs(self) -> bool:
        """Tell the solver loss and gradient at the start; false if they are not finite."""
        solver = self.solver
        return solver.n_evaluations > 0 or self.tell(solver.ask()) != "not finite"

    def _prepare_lm(self) -> bool:
        """Tell the solver the loss at the start, and the equations at a new theta; false if the loss is not finite."""
        solver = self.solver
        if solver.n_evaluations == 0 and solver.tell_start(self.value(solver.theta)) == "not finite":
            return False
        if solver.needs_equations:
            self.problem.net.params = solver.theta
            solver.tell_equations(*self._equations())
        return True

    def tell(self, theta: Array) -> str:
        """Tell the solver what it asked for."""
        value = self.value(theta)
        answer: str = self.solver.tell(*value) if isinstance(value, tuple) else self.solver.tell(value)
        return answer

    def _set_equations(self) -> None:
        problem, net = self.problem, self.problem.net
        n, n_out = problem.n_samples, net.sizes[-1]
        weights = targets.sample_weight(problem.sample_weight, net._architecture.loss, n, n_out)
        sum_of_weights = float(n * n_out)
        if weights is not None:
            sum_of_weights = weights.total / weights.scale * (n_out if weights.array.ndim == 1 else 1)
        self.factor = 2.0 / sum_of_weights
        n_parts = len(list(blocks_of(problem.x)))
        self.parts = row_blocks(net, n, n_parts, call="normal_equations", sample_weight=problem.sample_weight)
        self.totals = None if weights is None else weight_totals(weights.array, self.parts)

    def _equations(self) -> tuple[Array, Array]:
        """The Gauss-Newton matrix of the objective at the parameters of the network, and its gradient."""
        problem, net = self.problem, self.problem.net
        sums: Any = None
        for rows in self.parts:
            x, y, weight = problem.rows(rows)
            part = net.partial_sums(
                x, y, call="normal_equations", first_row=rows.start, n_rows=problem.n_samples, totals=self.totals,
                sample_weight=weight, n_threads=problem.n_threads,
            )  # fmt: skip
            sums = part if sums is None else sums + part
        A, g = sums.result()
        H, gradient = self.factor * A.astype(np.float64), self.factor * g.astype(np.float64)
        H.flat[:: len(H) + 1] += self.l2 * problem.is_weight
        if self.l2:
            net._plan.add_penalty(net.params, self.l2, gradient)
        return H, gradient


def fit(
    problem: Problem,
    method: str,
    max_iter: int,
    max_fun: int,
    tol: float,
    after: Callable[[float], bool] | None = None,
) -> Outcome:
    """Minimize over all samples.

    Parameters
    ----------
    problem : Problem
        The params of its network change: they are the last accepted ones after each iteration, and if this raises.
    method : str
        "lbfgs" or "lm".
    max_iter, max_fun : int
        The most iterations, and the evaluations after which no new iteration begins.
    tol : float
        The fit has converged if no entry of the gradient is larger.
    after : callable, optional
        It takes the reported loss after each iteration, and returns whether the fit ends.

    Raises
    ------
    ValueError
        If the loss is not finite at the start.
    """
    net, c, total = problem.net, problem.scales.gradient, problem.total(slice(None))
    solver = full_batch.start(method, net.params, None)
    kind = _Blocks if is_sparse(problem.x) else _Arrays
    samples = kind(problem, method, solver, problem.alpha / (c * total), tol / c)

    def reported() -> float:
        return problem.reported(solver.loss - problem.penalty(total) / c, slice(None), total)

    curve: list[float] = []
    while True:
        n_to_look = _LOOKS[method] - solver.n_iter % _LOOKS[method]
        n_sure = max(1, (max_fun - solver.n_evaluations) // _MOST_EVALUATIONS)
        answer, losses = samples.run(min(n_to_look if after is None else 1, n_sure, max_iter - solver.n_iter))
        curve += losses
        if answer == "not finite":
            raise ValueError(
                f"X, y: expected samples with a finite loss at the initial parameters, got {solver.loss}. "
                "The input data may contain large values and need to be preprocessed, by StandardScaler for example"
            )
        message = ""
        if (losses and after is not None and after(reported())) or answer != "max_iter":
            pass  # it is stopped, has converged, or no step makes the loss smaller
        elif solver.n_iter >= max_iter:
            message = f"max_iter={max_iter} iterations are reached"
        elif solver.n_evaluations > max_fun:
            message = f"more than max_fun={max_fun} evaluations"
        elif len(losses) < n_to_look or not _is_small(c * np.array(curve[-2:])):
            continue
        return Outcome(reported(), solver.n_iter, message)


def _is_small(losses: Array) -> bool:
    """Whether the last iteration made the loss hardly smaller."""
    return len(losses) == 2 and bool(losses[0] - losses[1] <= _RELATIVE_DECREASE * max(1.0, *np.abs(losses)))
