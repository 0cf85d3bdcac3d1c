"""Epochs of mini-batches by Adam or gradient descent, on samples in memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.distributed.samples import InMemory
from backprop.training.settings import BATCH_SIZE, Settings
from backprop.training.state import State, Steps

Array = npt.NDArray[Any]

_MOST_NUMBERS = 1 << 20  # of rows in the orders of the epochs of one compiled call: 8 MiB


class InCore:
    """Epochs on samples in memory, a `loop.Iterations`.

    Parameters
    ----------
    samples : InMemory
    settings : Settings
    state : State
        It is changed.
    """

    def __init__(self, samples: InMemory, settings: Settings, state: State) -> None:
        assert isinstance(state.core, Steps)
        net = samples.net
        self._plan, self._settings, self._state, self._steps = net._plan, settings, state, state.core
        self._memory = _core.Parameters(state.params)
        self._y, self._x, _, self._weights = net._inputs(samples.x, samples.y, None, samples.weight)
        self._n_samples = len(self._x)
        self.rate: float | None = None
        self._batch_size = min(settings.batch_size or BATCH_SIZE, self._n_samples)

    def advance(self, n: int) -> tuple[list[float], str | None]:
        """As in `loop.Iterations`; fewer epochs than n if their orders would take much memory."""
        settings, steps, n_samples = self._settings, self._steps, self._n_samples
        first = self._state.n_iter
        n = min(n, max(1, _MOST_NUMBERS // n_samples))
        if n == 0:
            return [], None
        rates = np.array([settings.rate(epoch) for epoch in range(first, first + n)])
        self.rate = float(rates[-1])
        before = steps.rng.bit_generator.state if n > 1 else None
        orders = None
        if settings.shuffle:
            orders = np.empty((n, n_samples), np.intp)
            for order in orders:
                order[...] = steps.rng.permutation(n_samples)
        n_batches = -(-n_samples // self._batch_size)
        losses, totals = np.zeros((n, n_batches)), np.zeros((n, n_batches))
        n_done = self._plan.run_epochs(
            self._memory,
            self._x,
            self._y,
            self._weights,
            orders,
            self._batch_size,
            rates,
            steps.moments,
            steps.progress,
            losses,
            totals,
            threads.resolve(settings.n_threads),
            l2=settings.l2,
            free=settings.free,
            **settings.method,
        )
        steps.n_batches += min(n_done + 1, losses.size)  # with that whose loss is not finite
        n_epochs, batch = divmod(n_done, n_batches)
        of_epochs = means(losses[:n_epochs], totals[:n_epochs])
        if n_epochs == n:
            return of_epochs, None
        if settings.shuffle and before is not None:  # no more orders than epochs that have begun
            steps.rng.bit_generator.state = before
            for _ in range(n_epochs + 1):
                steps.rng.permutation(n_samples)
        return of_epochs, f"not finite in batch {batch + 1} of epoch {first + n_epochs + 1}"

    def settle(self) -> None:
        """As in `loop.Iterations`: the compiled call has done it."""


def means(losses: Array, weights: Array) -> list[float]:
    """The mean of the losses of the batches of each epoch, by their weights: sums are rounded once."""
    with np.errstate(all="ignore"), _core.DefaultFloatMode():
        totals = np.array([math.fsum(of_epoch) for of_epoch in weights.tolist()])
        shares = losses * (weights / totals[:, None])
        return [math.fsum(of_epoch) for of_epoch in shares.tolist()]
