"""Whole fits by lbfgs and lm, which use all samples in each step.

With c = scales.gradient and W the sum of the weights, a fit minimizes c times the objective l + l2 / 2 sum w^2 of the
network, with l2 = alpha / (c W). Its bits do not depend on threads, nor on whether x is sparse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop.distributed.blocks import Streamed
from backprop.distributed.samples import InMemory
from backprop.distributed.terms import Term
from backprop.sklearn.problem import Problem, blocks_of, is_sparse
from backprop.training import ask_and_tell, full_batch
from backprop.training.loop import Iterations
from backprop.training.settings import Settings
from backprop.training.state import State

Array = npt.NDArray[Any]

_RELATIVE_DECREASE = 2.0**-52 * 1e7  # of max(loss, 1): the ftol of SciPy's L-BFGS-B
_LOOKS = {"lbfgs": 10, "lm": 1}  # after so many iterations a fit looks for it
_MOST_EVALUATIONS = 82  # of an iteration: two searches of 41


class Outcome(NamedTuple):
    """How a fit ended."""

    loss: float  # as scikit-learn reports it
    n_iter: int
    message: str  # why it did not converge; empty if it did, or if it was stopped


def _iterations(problem: Problem, method: str, l2: float, tol: float) -> tuple[Iterations, Any]:
    """What runs the iterations, as in `Network.fit`, and the solver. They change the params of the network."""
    net, n_threads = problem.net, problem.n_threads
    settings = Settings(
        solver=method, l2=l2, free=None, max_iter=0, tol=tol, patience=None, callback=None, every=1, progress=False,
        n_threads=n_threads, batch_size=None, shuffle=False, learning_rate=0.0, method={},
    )  # fmt: skip
    state = State(method, net.params, None, full_batch.start(method, net.params, None))
    if not is_sparse(problem.x):
        samples = InMemory(net, problem.x, problem.y, problem.sample_weight, n_threads)
        return full_batch.InCore(samples, settings, state), state.core

    def blocks() -> Any:
        return (tuple(part for part in problem.rows(rows) if part is not None) for rows in blocks_of(problem.x))

    term = Term(Streamed(net, blocks, n_threads), l2)
    if method == "lm":
        return ask_and_tell.LevenbergMarquardt(term, settings, state), state.core
    return ask_and_tell.Lbfgs((term,), settings, state), state.core


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
    c, total = problem.scales.gradient, problem.total(slice(None))
    iterations, solver = _iterations(problem, method, problem.alpha / (c * total), tol / c)

    def reported() -> float:
        return problem.reported(solver.loss - problem.penalty(total) / c, slice(None), total)

    curve: list[float] = []
    while True:
        n_to_look = _LOOKS[method] - solver.n_iter % _LOOKS[method]
        n_sure = max(1, (max_fun - solver.n_evaluations) // _MOST_EVALUATIONS)
        losses, answer = iterations.advance(min(n_to_look if after is None else 1, n_sure, max_iter - solver.n_iter))
        curve += losses
        if answer == "not finite":
            raise ValueError(
                f"X, y: expected samples with a finite loss at the initial parameters, got {solver.loss}. "
                "The input data may contain large values and need to be preprocessed, by StandardScaler for example"
            )
        message = ""
        if (losses and after is not None and after(reported())) or answer is not None:
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
