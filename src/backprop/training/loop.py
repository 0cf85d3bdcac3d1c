"""Iterations of a fit, and what looks at the network between them: validation, patience, callbacks, a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from backprop.api import shown
from backprop.training.progress import Bar
from backprop.training.settings import Settings
from backprop.training.state import Best, State, Steps

Array = npt.NDArray[Any]
Validation = Callable[[Array], float]  # the loss on validation data at some params


class Agree(Protocol):
    """What lets all ranks end together."""

    def __call__(self, on: bool, error: BaseException | None = None, /) -> bool:
        """Whether it is true on some rank. If one has an error, all raise."""


_CURE = (
    "net.find_nonfinite(x, y) says where it comes from; the network has the parameters before it. Scale the data, or "
    "take smaller initial weights"
)
_CURE_OF_STEPS = f"{_CURE}, a smaller learning_rate or max_norm"


class Iterations(Protocol):
    """What runs the iterations of a state, whose params are those after the last one."""

    rate: float | None  # the learning rate of the last epoch

    def advance(self, n: int) -> tuple[list[float], str | None]:
        """The losses of up to n further iterations, and why there will be no more, or None.

        With n = 0 a full-batch solver computes the loss of the start. The reasons are "converged", "no progress", "not
        finite", or a sentence that says what is not finite.
        """

    def settle(self) -> None:
        """Let the state's params be the last accepted ones, after an exception in `advance`."""


class End(NamedTuple):
    """How a fit ends."""

    success: bool
    message: str


class Info(NamedTuple):
    """What a callback is told.

    iteration is counted from 1 over the whole fit. val_loss is None without x_val, learning_rate for lbfgs and lm.
    params is a copy, which cannot be written.
    """

    iteration: int
    loss: float
    val_loss: float | None
    learning_rate: float | None
    params: Array

    def __repr__(self) -> str:
        known = {name: value for name, value in self._asdict().items() if name != "params" and value is not None}
        numbers = (f"{name}={value if name == 'iteration' else f'{value:.6g}'}" for name, value in known.items())
        return f"Info({', '.join(numbers)}, params=<{shown.count(len(self.params), 'number')}>)"


def run(
    iterations: Iterations,
    settings: Settings,
    state: State,
    val_loss: Validation | None,
    agree: Agree | None = None,
) -> End:
    """Iterate until something ends it. The state is that after the last iteration.

    With agree, each callback of a rank is a call of all ranks.
    """
    with Bar(settings.progress, settings.max_iter, "epoch" if settings.is_stochastic else "iteration") as bar:
        return _run(iterations, settings, state, val_loss, agree, bar)


def _run(
    iterations: Iterations,
    settings: Settings,
    state: State,
    val_loss: Validation | None,
    agree: Agree | None,
    bar: Bar,
) -> End:
    losses, history, patience, last = state.history["loss"], state.history, settings.patience, _last(settings, state)
    _, end = iterations.advance(0)
    best = _first_best(settings, state, val_loss)
    while end is None:
        if patience is not None and best.n_waiting >= patience:
            return end_of("patience", settings, state)
        if state.n_iter >= last:
            return end_of("max_iter", settings, state)
        new, end = iterations.advance(_until_a_look(settings, state, last, val_loss is not None or agree is not None))
        on_validation = None
        for loss in new:
            losses.append(loss)
            if val_loss is not None:  # one iteration at a time
                on_validation = val_loss(state.params)
                history["val_loss"].append(on_validation)
            value = loss if on_validation is None else on_validation
            best.see(value, state.n_iter, settings.tol_of_improvement, None if patience is None else state.params)
        if new:
            bar.show(len(new), losses[-1], on_validation)
            info = Info(state.n_iter, losses[-1], on_validation, iterations.rate, state.params)
            if _wants_to_stop(settings, info, agree):
                return end_of("callback", settings, state)
    return end_of(end, settings, state)


def _last(settings: Settings, state: State) -> int:
    """The number of the last iteration that there may be."""
    return state.n_iter + settings.max_iter


def _first_best(settings: Settings, state: State, val_loss: Validation | None) -> Best:
    """The best iteration up to now; the current one, if none before it is known for what counts now."""
    best, of_validation = state.best, val_loss is not None
    keeps_params = settings.patience is not None
    if best is None or best.of_validation != of_validation or (keeps_params and best.params is None):
        if val_loss is not None:
            value = val_loss(state.params)
        else:
            value = math.inf if isinstance(state.core, Steps) else state.core.loss
        value = math.inf if math.isnan(value) else value
        best = Best(value, state.n_iter, of_validation, state.params.copy() if keeps_params else None)
        state.best = best
    return best


def _until_a_look(settings: Settings, state: State, last: int, looks: bool) -> int:
    """How many iterations may run before something looks at the network, or at the epoch."""
    if looks or settings.progress or settings.patience is not None or callable(settings.learning_rate):
        return 1
    n = last - state.n_iter
    return n if settings.callback is None else min(n, settings.every - state.n_iter % settings.every)


def _wants_to_stop(settings: Settings, info: Info, agree: Agree | None) -> bool:
    """Call the callback, if it is its turn."""
    if info.iteration % settings.every:
        return False
    if agree is None:
        return _answer(settings, info)
    try:
        answer = _answer(settings, info)
    except BaseException as error:  # the others wait for this rank
        agree(False, error)
        raise
    return agree(answer)


def _answer(settings: Settings, info: Info) -> bool:
    """Whether the callback ends the fit."""
    if settings.callback is None:
        return False
    params = info.params.copy()
    params.flags.writeable = False
    try:
        answer = settings.callback(info._replace(params=params))
    except StopIteration:
        return True
    return isinstance(answer, bool | np.bool_) and bool(answer)


# How it ends ----------------------------------------------------------------------------------------------------------


def _counted(settings: Settings, n: int) -> str:
    return shown.count(n, "epoch" if settings.is_stochastic else "iteration")


def end_of(reason: str, settings: Settings, state: State) -> End:
    """How a fit ends, for a reason of `Iterations.advance`, or for "patience", "max_iter" or "callback"."""
    if reason == "patience":
        assert state.best is not None
        return _out_of_patience(settings, state.best)
    if reason == "max_iter":
        return _out_of_iterations(settings, state)
    if reason == "callback":
        return End(True, f"the callback has stopped the fit after {_counted(settings, state.n_iter)}")
    return _of_answer(reason, settings, state)


def _out_of_patience(settings: Settings, best: Best) -> End:
    what = "val_loss" if best.of_validation else "the loss"
    if best.of_validation and not math.isfinite(best.value):
        what += ", which was never finite: net.find_nonfinite(x_val, y_val) says why"
    return End(True, f"patience: {_counted(settings, best.n_waiting)} without an improvement of {what}")


def _out_of_iterations(settings: Settings, state: State) -> End:
    done = _counted(settings, state.n_iter)
    if settings.is_stochastic:
        return End(True, f"max_iter: {done} are done")
    return End(False, f"max_iter: no convergence after {done}; a larger max_iter, or state=result.state, goes on")


def _of_answer(end: str, settings: Settings, state: State) -> End:
    if end == "converged":
        return End(True, f"converged: no entry of the gradient is larger than tol = {settings.tol:g}")
    if end == "no progress":
        return End(True, "no progress: no step makes the loss smaller, to its precision")
    if settings.is_stochastic:
        return End(False, f"{end}; {_CURE_OF_STEPS}")
    return End(False, f"the loss or its gradient is not finite after {_counted(settings, state.n_iter)}; {_CURE}")
