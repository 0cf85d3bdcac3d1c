"""The states of fits side by side, as arrays over the members of an ensemble."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop.training.settings import Settings
from backprop.training.state import Best, Core, State, Steps

Array = npt.NDArray[Any]


class Rows:
    """Lists of numbers, one a member, which grow.

    Parameters
    ----------
    lists : list of lists of floats
    """

    def __init__(self, lists: list[list[float]]) -> None:
        self.lengths = np.array([len(numbers) for numbers in lists], np.intp)
        self._array = np.zeros((len(lists), max(self.lengths, default=0)))
        for row, numbers in zip(self._array, lists, strict=True):
            row[: len(numbers)] = numbers

    def extend(self, which: Array, values: Array, lengths: Array) -> None:
        """Take the first numbers of each row of values (a, n), so many as lengths (a,) says, for the a members."""
        first, n = self.lengths[which], values.shape[1]
        room = int(first.max(initial=0)) + n
        if room > self._array.shape[1]:
            more = max(room, 2 * self._array.shape[1]) - self._array.shape[1]
            self._array = np.concatenate([self._array, np.empty((len(self._array), more))], axis=1)
        if n == 1:
            is_there = lengths > 0
            self._array[which[is_there], first[is_there]] = values[is_there, 0]
        else:
            for m, start, row, length in zip(which.tolist(), first.tolist(), values, lengths.tolist(), strict=True):
                self._array[m, start : start + length] = row[:length]
        self.lengths[which] += lengths

    def last(self, default: float) -> Array:
        """The last number of each list."""
        found = np.full(len(self.lengths), default)
        is_there = np.flatnonzero(self.lengths)
        found[is_there] = self._array[is_there, self.lengths[is_there] - 1]
        return found

    def lists(self) -> list[list[float]]:
        """All of them."""
        return [row[:length].tolist() for row, length in zip(self._array, self.lengths.tolist(), strict=True)]


class Members:
    """k fits of one shape.

    Parameters
    ----------
    states : list of State
        Those in which they begin; they are not changed, but for the solvers of lbfgs and lm.
    """

    def __init__(self, states: list[State]) -> None:
        first = states[0]
        self.k = len(states)
        self.params = np.array([state.params for state in states])
        self.cores: list[Any] = [state.core for state in states]
        if isinstance(first.core, Steps):
            self.moments = np.array([core.moments for core in self.cores])
            self.progress = np.array([core.progress for core in self.cores])
            self.n_batches = np.array([core.n_batches for core in self.cores])
        self.history = {name: Rows([state.history[name] for state in states]) for name in first.history}
        bests = [state.best for state in states]
        self.has_best = np.array([best is not None for best in bests])
        self.value = np.array([math.inf if best is None else best.value for best in bests])
        self.iteration = np.array([0 if best is None else best.iteration for best in bests], np.intp)
        self.of_validation = np.array([best is not None and best.of_validation for best in bests])
        self.n_waiting = np.array([0 if best is None else best.n_waiting for best in bests], np.intp)
        self.best_params: Array | None = None
        self._bests = bests

    @property
    def n_iter(self) -> Array:
        """The number of iterations, or epochs, of each, (k,)."""
        return self.history["loss"].lengths

    @property
    def is_stochastic(self) -> bool:
        """Whether they take mini-batches."""
        return isinstance(self.cores[0], Steps)

    def losses_at_start(self) -> Array:
        """The loss at the params, as far as it is known."""
        if self.is_stochastic:
            return np.full(self.k, math.inf)
        return np.array([core.loss for core in self.cores])

    def begin(self, of_validation: bool, keeps_params: bool, values: Array) -> None:
        """The current iteration, of the loss `values`, becomes the best, if none before it is known for what counts."""
        known = self.has_best & (self.of_validation == of_validation)
        if keeps_params:
            self.best_params = self.params.copy()
            for m, best in enumerate(self._bests):
                if best is None or best.params is None:
                    known[m] = False
                elif known[m]:
                    self.best_params[m] = best.params
        new = ~known
        self.value[new] = np.where(np.isnan(values), math.inf, values)[new]
        self.iteration[new] = self.n_iter[new]
        self.of_validation[new] = of_validation
        self.n_waiting[new] = 0
        self.has_best[...] = True
        self._bests = []

    def see(self, which: Array, first: Array, values: Array, lengths: Array, tol: float) -> None:
        """As `Best.see` for the numbers in the rows of values (a, n), of iterations after the number `first` (a,)."""
        there = (np.arange(values.shape[1]) < lengths[:, None]) & ~np.isnan(values)
        kept = np.where(there, values, math.inf)
        at = kept.argmin(axis=1)
        lowest = kept[np.arange(len(which)), at]
        waits = self.n_waiting[which] + lengths
        self.n_waiting[which] = np.where(lowest < self.value[which] - tol, lengths - 1 - at, waits)
        is_better = lowest < self.value[which]
        better = which[is_better]
        self.value[better] = lowest[is_better]
        self.iteration[better] = first[is_better] + at[is_better] + 1
        if self.best_params is not None:
            self.best_params[better] = self.params[better]

    def states(self, settings: Settings) -> list[State]:
        """The states in which they end. Their arrays are views."""
        lists = {name: rows.lists() for name, rows in self.history.items()}
        values, waits = self.value.tolist(), self.n_waiting.tolist()
        iterations, of_validation = self.iteration.tolist(), self.of_validation.tolist()
        found = []
        for m in range(self.k):
            core: Core = self.cores[m]
            if isinstance(core, Steps):
                core = Steps(self.moments[m], self.progress[m], core.rng, int(self.n_batches[m]))
            params = None if self.best_params is None else self.best_params[m]
            best = Best(values[m], iterations[m], of_validation[m], params, waits[m])
            history = {name: rows[m] for name, rows in lists.items()}
            found.append(State(settings.solver, self.params[m], settings.free, core, best, history))
        return found
