"""Iterations of the members of an ensemble in compiled calls, threads over the members."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api.targets import Weights
from backprop.training import epochs
from backprop.training.members import Members
from backprop.training.settings import BATCH_SIZE, Settings

Array = npt.NDArray[Any]

_MOST_LOSSES = 1 << 20  # of iterations of one compiled call: 8 MiB
_MOST_NUMBERS = 1 << 20  # of rows in the orders of one compiled call: 8 MiB
_MOST_BATCHES = 1 << 20  # of one compiled call: 8 MiB of losses and of weights
_FEW = 64  # members of a compiled call with the orders of many epochs


class Samples(NamedTuple):
    """Accepted samples of k members: x and y have one dimension more if each has its own, weights is a list of k."""

    x: Array
    y: Array
    weights: list[Weights | None] | None

    @property
    def n_samples(self) -> int:
        """The samples of a member."""
        n: int = self.x.shape[-2]
        return n


class Advance(NamedTuple):
    """What some iterations of a members have given."""

    losses: Array  # (a, n), of which the first in each row count
    lengths: Array  # (a,): so many
    ends: list[str | None]  # (a,): why there will be no more, as in `loop.Iterations`


class Iterations(Protocol):
    """What runs the iterations of some members."""

    def advance(self, which: Array, n: int) -> Advance:
        """Up to n iterations, of the members with these numbers."""


class FullBatch:
    """L-BFGS or Levenberg-Marquardt.

    Parameters
    ----------
    plan : _core.Plan
    samples : Samples
    settings : Settings
    members : Members
        They are changed.
    """

    def __init__(self, plan: _core.Plan, samples: Samples, settings: Settings, members: Members) -> None:
        self._plan, self._samples, self._settings, self._members = plan, samples, settings, members
        self._numbers = None if settings.free is None else np.flatnonzero(settings.free)

    def advance(self, which: Array, n: int) -> Advance:
        """As in `Iterations`; fewer than n if their losses would take much memory."""
        n = min(n, max(1, _MOST_LOSSES // len(which)))
        losses, lengths = np.empty((len(which), n)), np.empty(len(which), np.intp)
        answers = np.empty(len(which), np.intc)
        settings, (x, y, weights) = self._settings, self._samples
        self._plan.fit_networks(
            self._members.cores,
            which,
            self._members.params,
            x,
            y,
            weights,
            self._numbers,
            settings.l2,
            settings.tol,
            losses,
            lengths,
            answers,
            threads.resolve(settings.n_threads),
        )
        names = [None if name == "max_iter" else name for name in _core.ANSWERS]
        return Advance(losses, lengths, [names[answer] for answer in answers.tolist()])


class Epochs:
    """Adam or gradient descent. The parameters are those of `FullBatch`."""

    def __init__(self, plan: _core.Plan, samples: Samples, settings: Settings, members: Members) -> None:
        self._plan, self._samples, self._settings, self._members = plan, samples, settings, members
        self._batch_size = min(settings.batch_size or BATCH_SIZE, samples.n_samples)
        self._n_batches = -(-samples.n_samples // self._batch_size)
        self._rates: dict[int, float] = {}

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, which is asked for once."""
        if epoch not in self._rates:
            self._rates[epoch] = self._settings.rate(epoch)
        return self._rates[epoch]

    def advance(self, which: Array, n: int) -> Advance:
        """As in `Iterations`; fewer epochs than n, and some members after others, if that takes less memory."""
        if n == 0:
            return Advance(np.empty((len(which), 0)), np.zeros(len(which), np.intp), [None] * len(which))
        n_samples = self._samples.n_samples if self._settings.shuffle else 1
        few = min(len(which), max(_FEW, threads.resolve(self._settings.n_threads)))
        n = min(n, max(1, _MOST_NUMBERS // (few * n_samples)), max(1, _MOST_BATCHES // (few * self._n_batches)))
        together = min(_MOST_NUMBERS // (n * n_samples), _MOST_BATCHES // (n * self._n_batches))
        parts = np.split(which, range(max(few, together), len(which), max(few, together)))
        done = [self._some(part, n) for part in parts]
        losses, lengths = (np.concatenate([part[k] for part in done]) for k in range(2))
        return Advance(losses, lengths, [end for part in done for end in part.ends])

    def _some(self, which: Array, n: int) -> Advance:
        members, settings, (x, y, weights) = self._members, self._settings, self._samples
        first = members.n_iter[which]
        numbers = first[:, None] + np.arange(n)
        rates = np.empty(numbers.shape)
        for epoch in np.unique(numbers).tolist():
            rates[numbers == epoch] = self.rate(epoch)
        generators = [members.cores[m].rng for m in which.tolist()]
        before = [generator.bit_generator.state for generator in generators] if n > 1 else []
        orders = None
        if settings.shuffle:
            orders = np.empty((len(which), n, self._samples.n_samples), np.intp)
            orders[...] = np.arange(self._samples.n_samples)
            for order, generator in zip(orders, generators, strict=True):
                generator.permuted(order, axis=1, out=order)  # the numbers of n calls of permutation
        losses, totals = np.zeros((2, len(which), n, self._n_batches))
        n_done = np.zeros(len(which), np.intp)
        self._plan.run_epochs_of_networks(
            which,
            members.params,
            x,
            y,
            weights,
            orders,
            self._batch_size,
            rates,
            members.moments,
            members.progress,
            losses,
            totals,
            n_done,
            threads.resolve(settings.n_threads),
            l2=settings.l2,
            free=settings.free,
            **settings.method,
        )
        members.n_batches[which] += np.minimum(n_done + 1, n * self._n_batches)  # with that whose loss is not finite
        lengths, ends = n_done // self._n_batches, list[str | None]([None] * len(which))
        for j in np.flatnonzero(lengths < n).tolist():
            bad = losses[j].flat[n_done[j]]
            ends[j] = epochs.not_finite(bad, int(n_done[j] % self._n_batches), int(first[j] + lengths[j]))
            if settings.shuffle and before:  # no more orders than epochs that have begun
                generators[j].bit_generator.state = before[j]
                for _ in range(lengths[j] + 1):
                    generators[j].permutation(self._samples.n_samples)
        of_epochs, are_done = np.zeros(rates.shape), np.arange(n) < lengths[:, None]
        of_epochs[are_done] = epochs.means(losses[are_done], totals[are_done])
        return Advance(of_epochs, lengths, ends)
