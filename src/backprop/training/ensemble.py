"""`Ensemble.fit`: fits side by side, each with the bits of a fit of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api import array_likes, scalars
from backprop.api.base import Base
from backprop.training import full_batch, loop, result, settings, state
from backprop.training.fit import settings_of
from backprop.training.members import Members
from backprop.training.progress import Bar
from backprop.training.settings import Settings
from backprop.training.side_by_side import Epochs, FullBatch, Samples
from backprop.training.state import State, Steps

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

Array = npt.NDArray[Any]
Accept = Callable[[Any, Any, Any], Samples]  # x, y and weights, shared or one a member

_LOSS = _core.CALLS["loss"]


class Info(NamedTuple):
    """What a callback is told.

    iteration and learning_rate are those of the members that have made the most iterations. loss and val_loss (k,) are
    the last ones of each member; val_loss is None without x_val, learning_rate for lbfgs and lm. params (k, n_params)
    is a copy, which cannot be written.
    """

    iteration: int
    loss: Array
    val_loss: Array | None
    learning_rate: float | None
    params: Array


def fit(net: Base, params: Array, accept: Accept, given: dict[str, Any]) -> list[OptimizeResult]:
    """The fits of the members, and their parameters into params.

    Parameters
    ----------
    net : Base
        A network like the members.
    params : (k, n_params) array
    accept : callable
        It takes samples as `Ensemble.value_and_grad` does.
    given : dict
        The arguments of `Ensemble.fit` by name.
    """
    import scipy.optimize  # noqa: F401  # before the fit and not after it: it takes a while, and may be missing

    _refuse_what_members_cannot(given)
    settings.solver_of(given)
    how = settings_of(net, given)
    samples = accept(given["x"], given["y"], given["sample_weight"])
    of_validation = _validation(accept, given)
    members = Members(_states(params, how, given))
    run = _Run(net, samples, of_validation, how, members)
    try:
        reasons = run.until_the_end()
        found = _results(net, samples, how, members, reasons)
    except BaseException:
        params[...] = members.params
        raise
    params[...] = members.params if members.best_params is None else members.best_params
    return found


def _refuse_what_members_cannot(given: dict[str, Any]) -> None:
    one_by_one = "fit the members one by one, [member.fit(...) for member in ensemble]"
    if given["comm"] is not None:
        raise ValueError(
            f"comm: expected none in Ensemble.fit, whose members are on one machine, got one; {one_by_one}"
        )
    if given["y"] is None:
        raise ValueError(
            f"y: expected targets in Ensemble.fit, got none; for blocks and objectives, {one_by_one}: each reads them "
            "anew"
        )


def _validation(accept: Accept, given: dict[str, Any]) -> Samples | None:
    settings.refuse_half_of_validation(given)
    if given["x_val"] is None:
        return None
    with settings.of_validation():
        return accept(given["x_val"], given["y_val"], given["sample_weight_val"])


def _states(params: Array, how: Settings, given: dict[str, Any]) -> list[State]:
    """A state for each member, of its own."""
    k = len(params)
    if given["state"] is not None:
        states = given["state"]
        if not isinstance(states, list | tuple):
            raise TypeError(f"state: expected a list of {k} states, got {array_likes.describe(states)}")
        if len(states) != k:
            raise ValueError(f"state: expected a list of {k} states, one for each member, got {len(states)}")
        return [state.accepted(one, how.solver, row, how.free) for one, row in zip(states, params, strict=True)]
    rows = params.copy()
    if how.is_stochastic:
        generators = scalars.random_generator(given["rng"]).spawn(k)
        cores: list[state.Core] = [
            Steps.at_start(how.solver, row, rng) for row, rng in zip(rows, generators, strict=True)
        ]
    else:
        cores = [full_batch.start(how.solver, row, how.free) for row in rows]
    return [State(how.solver, row, how.free, core) for row, core in zip(rows, cores, strict=True)]


class _Run:
    """The loop around the iterations: as `loop.run` for each member."""

    def __init__(
        self, net: Base, samples: Samples, of_validation: Samples | None, how: Settings, members: Members
    ) -> None:
        self._plan, self._of_validation, self._settings, self._members = net._plan, of_validation, how, members
        self._iterations = (Epochs if how.is_stochastic else FullBatch)(net._plan, samples, how, members)

    def until_the_end(self) -> list[str]:
        """Why each member has ended, as `loop.end_of` takes it."""
        how, members = self._settings, self._members
        reasons: list[str | None] = [None] * members.k
        active = np.arange(members.k)
        last = members.n_iter + how.max_iter
        active = _those_that_go_on(active, self._iterations.advance(active, 0).ends, reasons)
        self._begin()
        with Bar(how.progress, how.max_iter, "epoch" if how.is_stochastic else "iteration") as bar:
            while True:
                active = self._stop(active, last, reasons)
                if not len(active):
                    return [str(reason) for reason in reasons]
                before, ran = members.n_iter.copy(), active
                active = self._advance(active, last, reasons)
                self._show(bar, int(before.max()))
                if self._callback_stops():
                    for m in ran.tolist():
                        if reasons[m] is None or members.n_iter[m] > before[m]:
                            reasons[m] = "callback"
                    active = active[:0]

    def _begin(self) -> None:
        """What the best iteration up to now is."""
        members, how = self._members, self._settings
        values = members.losses_at_start()
        if self._of_validation is not None:
            values = self._val_losses(np.arange(members.k))
        members.begin(self._of_validation is not None, how.patience is not None, values)

    def _stop(self, active: Array, last: Array, reasons: list[str | None]) -> Array:
        """Those that are neither out of patience nor out of iterations."""
        members, patience = self._members, self._settings.patience
        is_out = members.n_iter[active] >= last[active]
        for m in active[is_out].tolist():
            reasons[m] = "max_iter"
        if patience is not None:
            is_impatient = members.n_waiting[active] >= patience
            for m in active[is_impatient].tolist():
                reasons[m] = "patience"
            is_out |= is_impatient
        return active[~is_out]

    def _advance(self, active: Array, last: Array, reasons: list[str | None]) -> Array:
        """Iterations until something looks; those that go on."""
        members, how = self._members, self._settings
        first = members.n_iter[active]
        n = int((last[active] - first).min())
        if self._of_validation is not None or how.progress or how.patience is not None or callable(how.learning_rate):
            n = 1
        elif how.callback is not None:
            n = min(n, how.every - int(first.max()) % how.every)
        made = self._iterations.advance(active, n)
        members.history["loss"].extend(active, made.losses, made.lengths)
        values = made.losses
        if self._of_validation is not None:
            values = np.zeros((len(active), 1))
            new = made.lengths > 0
            values[new, 0] = self._val_losses(active[new])
            members.history["val_loss"].extend(active, values, made.lengths)
        members.see(active, first, values, made.lengths, how.tol_of_improvement)
        return _those_that_go_on(active, made.ends, reasons)

    def _val_losses(self, which: Array) -> Array:
        """The losses of these members on the validation data, (a,)."""
        assert self._of_validation is not None
        (x, y, weights), params = self._of_validation, self._members.params
        n_threads = threads.resolve(self._settings.n_threads)
        own_x, own_y = x.ndim == 3, y.ndim == (2 if y.dtype.kind in "iu" else 3)
        losses = np.empty(len(which))
        for j, m in enumerate(which.tolist()):
            own = x[m] if own_x else x, y[m] if own_y else y, None, None if weights is None else weights[m]
            losses[j] = self._plan.run(_LOSS, params[m], *own, n_threads)
        return losses

    def _show(self, bar: Bar, before: int) -> None:
        """Let the progress bar go on."""
        n_new = int(self._members.n_iter.max()) - before
        if n_new and self._settings.progress:
            losses = {name: float(np.mean(rows.last(np.nan))) for name, rows in self._members.history.items()}
            bar.show(n_new, losses["loss"], losses["val_loss"] if self._of_validation is not None else None)

    def _callback_stops(self) -> bool:
        """Call the callback, if it is its turn."""
        members, how = self._members, self._settings
        iteration = int(members.n_iter.max())
        if how.callback is None or iteration % how.every:
            return False
        params = members.params.copy()
        params.flags.writeable = False
        losses = members.history["loss"].last(np.nan)
        val_losses = None if self._of_validation is None else members.history["val_loss"].last(np.nan)
        rate = self._iterations.rate(iteration - 1) if isinstance(self._iterations, Epochs) else None
        try:
            answer = how.callback(Info(iteration, losses, val_losses, rate, params))
        except StopIteration:
            return True
        return isinstance(answer, bool | np.bool_) and bool(answer)


def _those_that_go_on(active: Array, ends: list[str | None], reasons: list[str | None]) -> Array:
    """Keep the reasons of those that have ended."""
    goes_on = np.ones(len(active), bool)
    for j, end in enumerate(ends):
        if end is not None:
            reasons[active[j]] = end
            goes_on[j] = False
    return active[goes_on]


def _results(
    net: Base, samples: Samples, how: Settings, members: Members, reasons: list[str]
) -> list[OptimizeResult]:  # fmt: skip
    """The results, with loss and gradient at the parameters that are left."""
    params = members.params if members.best_params is None else members.best_params
    losses, grads = np.empty(members.k), np.empty_like(params)
    x, y, weights = samples
    memory = _core.Parameters(params.copy())
    net._plan.ensemble_value_and_grad(memory, x, y, losses, grads, weights, threads.resolve(how.n_threads))
    found, states = [], members.states(how)
    with np.errstate(all="ignore"), _core.DefaultFloatMode():
        gradients = grads.astype(np.float64)
        if how.l2:
            for m, row in enumerate(params):
                losses[m] += net._plan.add_penalty(row, how.l2, gradients[m])
        if how.free is not None:
            gradients = np.ascontiguousarray(gradients[:, how.free])
    ends: dict[tuple[str, int, int], loop.End] = {}  # few of many members differ
    for m, (now, loss) in enumerate(zip(states, losses.tolist(), strict=True)):
        key = (reasons[m], now.n_iter, now.best.n_waiting if now.best else 0)
        if key not in ends:
            ends[key] = loop.end_of(reasons[m], how, now)
        found.append(result.of(now, ends[key], params[m], loss, gradients[m]))
    return found
