"""Epochs of mini-batches by Adam or gradient descent, on samples in memory or in blocks."""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api.targets import Weights
from backprop.distributed.blocks import Streamed
from backprop.distributed.samples import InMemory
from backprop.training.settings import BATCH_SIZE, Settings
from backprop.training.state import State, Steps

Array = npt.NDArray[Any]

_MOST_NUMBERS = 1 << 20  # of rows in the orders of the epochs of one compiled call: 8 MiB


class _Epochs:
    """What both have of a `loop.Iterations`."""

    def __init__(self, plan: _core.Plan, settings: Settings, state: State) -> None:
        assert isinstance(state.core, Steps)
        self._plan, self._settings, self._state, self._steps = plan, settings, state, state.core
        self._memory = _core.Parameters(state.params)
        self.rate: float | None = None

    def _orders(self, n_epochs: int, n_samples: int) -> Array | None:
        if not self._settings.shuffle:
            return None
        orders = np.empty((n_epochs, n_samples), np.intp)
        for order in orders:
            order[...] = self._steps.rng.permutation(n_samples)
        return orders

    def _run(
        self, x: Array, y: Array, weights: Weights | None, orders: Array | None, rates: Array
    ) -> tuple[int, Array, Array]:
        """The number of batches done, and for each batch of each epoch its loss and its weight."""
        settings, steps, n_samples = self._settings, self._steps, len(x)
        batch_size = min(settings.batch_size or BATCH_SIZE, n_samples)
        losses = np.zeros((len(rates), -(-n_samples // batch_size)))
        totals = np.zeros_like(losses)
        n_done = self._plan.run_epochs(
            self._memory,
            x,
            y,
            weights,
            orders,
            batch_size,
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
        return n_done, losses, totals

    def settle(self) -> None:
        """As in `loop.Iterations`: the compiled call has done it."""


class InCore(_Epochs):
    """Epochs on samples in memory, a `loop.Iterations`.

    Parameters
    ----------
    samples : InMemory
    settings : Settings
    state : State
        It is changed.
    """

    def __init__(self, samples: InMemory, settings: Settings, state: State) -> None:
        super().__init__(samples.net._plan, settings, state)
        self._y, self._x, _, self._weights = samples.net._inputs(samples.x, samples.y, None, samples.weight)

    def advance(self, n: int) -> tuple[list[float], str | None]:
        """As in `loop.Iterations`; fewer epochs than n if their orders would take much memory."""
        settings, generator, n_samples = self._settings, self._steps.rng, len(self._x)
        first = self._state.n_iter
        n = min(n, max(1, _MOST_NUMBERS // n_samples))
        if n == 0:
            return [], None
        rates = np.array([settings.rate(epoch) for epoch in range(first, first + n)])
        self.rate = float(rates[-1])
        before = generator.bit_generator.state if n > 1 else None
        n_done, losses, totals = self._run(self._x, self._y, self._weights, self._orders(n, n_samples), rates)
        n_epochs, batch = divmod(n_done, losses.shape[1])
        of_epochs = means(losses[:n_epochs], totals[:n_epochs])
        if n_epochs == n:
            return of_epochs, None
        if settings.shuffle and before is not None:  # no more orders than epochs that have begun
            generator.bit_generator.state = before
            for _ in range(n_epochs + 1):
                generator.permutation(n_samples)
        return of_epochs, not_finite(losses.flat[n_done], batch, first + n_epochs)


class InBlocks(_Epochs):
    """Epochs on samples in blocks, a `loop.Iterations`: rows are shuffled within a block, and batches end with it.

    The parameters are those of `InCore`.
    """

    def __init__(self, samples: Streamed, settings: Settings, state: State) -> None:
        super().__init__(samples.net._plan, settings, state)
        self._samples = samples

    def advance(self, n: int) -> tuple[list[float], str | None]:
        """As in `loop.Iterations`; one epoch at most."""
        epoch = self._state.n_iter
        if n == 0:
            return [], None
        self.rate = self._settings.rate(epoch)
        rates = np.array([self.rate])
        losses, totals = list[Array](), list[Array]()
        with closing(self._samples.blocks()) as blocks:
            for block in blocks:
                orders = self._orders(1, len(block.x))
                n_done, some, weights = self._run(block.x, block.y, block.weights, orders, rates)
                if n_done < some.size:
                    return [], not_finite(some[0, n_done], sum(map(len, losses)) + n_done, epoch)
                losses.append(some[0])
                totals.append(weights[0])
                del block
        return means(np.concatenate(losses)[None], np.concatenate(totals)[None]), None


def means(losses: Array, weights: Array) -> list[float]:
    """The mean of the losses of the batches of each epoch, by their weights: sums are rounded once."""
    if losses.shape[1] == 1:
        return losses[:, 0].tolist()  # type: ignore[no-any-return]
    with np.errstate(all="ignore"), _core.DefaultFloatMode():
        totals = np.array([math.fsum(of_epoch) for of_epoch in weights.tolist()])
        shares = losses * (weights / totals[:, None])
        return [math.fsum(of_epoch) for of_epoch in shares.tolist()]


def not_finite(loss: float, batch: int, epoch: int) -> str:
    """Why there are no more epochs, after this loss; batch and epoch are counted from 0."""
    with _core.DefaultFloatMode():
        what = "gradient" if math.isfinite(loss) else "loss"
    return f"the {what} is not finite in batch {batch + 1} of epoch {epoch + 1}"
