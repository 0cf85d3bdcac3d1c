"""Where an objective gets its sums over samples from: from arrays in memory, or from blocks of rows, unit by unit."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api import targets, validate
from backprop.api.base import Base
from backprop.api.targets import Weights
from backprop.distributed import state
from backprop.distributed.fitted import Values, kept_rows

Array = npt.NDArray[Any]

_VALUE_AND_GRAD = _core.CALLS["value_and_grad"]
_HVP = _core.CALLS["hvp"]

# The most that products with the Hessian keep for a theta: a process must not grow with its batch. 17,000 samples of
# 20-100-100-3 in float32 fit. A product takes 0.83 of hvp's time with 16,000 samples, read from memory; 0.78 with
# 1000, from cache.
_KEPT_BYTES = 64 << 20

# Of short blocks so many units are copied together, unless they have more bytes than this. One unit of 9 chunks keeps 8
# threads busy for little more than half of the time, four units for nine tenths.
_MOST_UNITS = 4
_COPIED_BYTES = 16 << 20


class Source(Protocol):
    """Samples of which an objective needs only sums, as one call on all of them gives them."""

    net: Base
    n_samples: int  # rows of the whole data set
    weight_axes: int  # 0: no weights, 1: weights by sample, 2: weights by sample and output
    fitted: Values

    @property
    def epoch(self) -> int:
        """Results that were kept in another epoch must not be used."""

    def sums(self, call: _core.Call, params: Array, operand: Array | None = None) -> tuple[float, Array]:
        """The loss, 0.0 if the call has none, and the sums in the dtype of the network. operand is v."""


def divisor(net: Base, n_samples: int, weight_axes: int, scale: float, total: float) -> float:
    """What the loss divides the sum over all rows by, for a loss that is a mean over outputs.

    scale and total are those of the weights, if there are any.
    """
    with _core.DefaultFloatMode():
        scaled = total if weight_axes else float(n_samples)
        return (scaled if weight_axes == 2 else scaled * net.sizes[-1]) / (scale if weight_axes else 1.0)


class InMemory:
    """The samples of three arrays, which are not copied if they fit.

    Parameters
    ----------
    net : Base
    x, y, sample_weight, n_threads
        As in `Network.objective`.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused.
    """

    epoch = 0
    fitted = Values()

    def __init__(
        self,
        net: Base,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None,
        n_threads: int | None,
    ) -> None:
        self.net, self.n_threads = net, n_threads
        self.y, self.x, _, weights = net._inputs(x, y, None, sample_weight)
        self.weight = None if weights is None else weights.array
        self.n_samples = self.x.shape[0]
        self.weight_axes = 0 if self.weight is None else self.weight.ndim
        self.linearization = _core.Linearization(_KEPT_BYTES)

    def sums(self, call: _core.Call, params: Array, operand: Array | None = None) -> tuple[float, Array]:
        """As in `Source`. After the first product with the Hessian at some params, further ones cost less."""
        net, x, y, weight = self.net, self.x, self.y, self.weight
        validate.their_memory(x, y, weight)
        if call is _VALUE_AND_GRAD:
            return net.value_and_grad(x, y, params=params, sample_weight=weight, n_threads=self.n_threads)
        kept = self.linearization if call is _HVP else None
        quick: Array | None = net._plan.quick(
            call,
            net._memory,
            params,
            x,
            y,
            weight,
            None,
            self.n_threads,
            threads.get_num_threads,
            operand=operand,
            linearization=kept,
        )
        if quick is not None:
            return 0.0, quick
        y, x, theta, weights = net._inputs(x, y, params, weight)
        result = net._result(None, net._plan.result_shape(call, self.n_samples), {})
        n_threads = threads.resolve(self.n_threads)
        net._plan.run(call, theta, x, y, result, weights, n_threads, operand=operand, linearization=kept)
        return 0.0, result


class WithDerivatives:
    """Samples in memory whose derivatives by x are fitted, a `Source`.

    Parameters
    ----------
    net : Base
    x, y, extra, sample_weight, n_threads
        As in the call that makes the objective.
    fitted : Values

    Raises
    ------
    TypeError, ValueError
        If an argument is refused.
    """

    epoch = 0

    def __init__(
        self,
        net: Base,
        x: npt.ArrayLike,
        y: object,
        extra: object,
        fitted: Values,
        sample_weight: npt.ArrayLike | None,
        n_threads: int | None,
    ) -> None:
        self.net, self.n_threads, self.fitted = net, n_threads, fitted
        architecture = net._architecture
        self.x = net._samples(x, of_mean=True)
        self.n_samples = self.x.shape[0]
        self.weights = targets.sample_weight(sample_weight, architecture.loss, self.n_samples, architecture.sizes[-1])
        weight = None if self.weights is None else self.weights.array
        self.weight_axes = 0 if weight is None else weight.ndim
        self.y = fitted.targets(net, y, self.n_samples, self.weights)
        self.extra = fitted.settled(fitted.extra(net, extra, self.n_samples, weight))

    def sums(self, call: _core.Call, params: Array, operand: Array | None = None) -> tuple[float, Array]:
        """As in `Source`. Nothing is looked at again: there are no labels, and weights that change break no memory."""
        net, fitted, weights = self.net, self.fitted, self.weights
        call = fitted.compiled(call)
        weight = None if weights is None else weights.array
        validate.their_memory(self.x, self.y, weight, extra=self.extra, names=fitted.arrays)
        result = net._result(None, net._plan.result_shape(call, self.n_samples), {})
        n_threads, more = threads.resolve(self.n_threads), fitted.arguments(self.extra, operand)
        loss = net._plan.run(call, params, self.x, self.y, result, weights, n_threads, **more)
        return loss, result


# Blocks of rows -------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """Some rows of a data set, as the compiled calls take them. A row counts if it has a weight other than 0."""

    x: Array
    y: Array
    weights: Weights | None  # with the scale and the total of the whole data set
    kept: Array | None  # the numbers of the rows that count, None if all do
    extra: Array | None = None  # if the call takes one

    @classmethod
    def of(cls, x: Array, y: Array, weights: Weights | None, extra: Array | None = None) -> Block:
        """The block of accepted arrays."""
        kept = None
        if weights is not None and weights.n_kept < x.shape[0]:
            kept = np.flatnonzero(kept_rows(weights.array))
        return cls(x, y, weights, kept, extra)

    @property
    def n_kept(self) -> int:
        """The number of rows that count."""
        return self.x.shape[0] if self.kept is None else len(self.kept)

    def part(self, start: int, stop: int) -> Block:
        """The rows that count from number start to number stop, and those of weight 0 in between, as views."""
        if start == stop:
            rows, kept = slice(0, 0), None
        elif self.kept is None:
            rows, kept = slice(start, stop), None
        else:
            first = int(self.kept[start])
            rows = slice(first, int(self.kept[stop - 1]) + 1)
            kept = self.kept[start:stop] - first
        weights = self.weights
        if weights is not None:
            weights = weights._replace(array=weights.array[rows], n_kept=stop - start)
        extra = None if self.extra is None else self.extra[rows]
        return Block(self.x[rows], self.y[rows], weights, kept, extra)


class _Copies:
    """A buffer of rows that count, in the dtype of the network."""

    def __init__(self, n_rows: int, like: Block, dtype: np.dtype[Any]) -> None:
        y, weights, extra = like.y, like.weights, like.extra
        self.n_rows, self.n_free = 0, n_rows
        self._x = np.empty((n_rows, *like.x.shape[1:]), dtype)
        self._y = np.empty((n_rows, *y.shape[1:]), np.intp if y.ndim == 1 else dtype)
        self._weight = None if weights is None else np.empty((n_rows, *weights.array.shape[1:]))
        self._extra = None if extra is None else np.empty((n_rows, *extra.shape[1:]), dtype)

    def take(self, block: Block) -> None:
        """Copy the rows of a block that count."""
        rows = slice(self.n_rows, self.n_rows + block.n_kept)
        which = slice(None) if block.kept is None else block.kept
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            self._x[rows] = block.x[which]
            self._y[rows] = block.y[which]
            if self._weight is not None and block.weights is not None:
                self._weight[rows] = block.weights.array[which]
            if self._extra is not None and block.extra is not None:
                self._extra[rows] = block.extra[which]
        self.n_rows, self.n_free = rows.stop, self.n_free - block.n_kept

    def block(self, weights: Weights | None) -> Block:
        """The rows that were copied; weights have the scale and the total."""
        rows = slice(self.n_rows)
        if weights is not None and self._weight is not None:
            weights = weights._replace(array=self._weight[rows], n_kept=self.n_rows)
        return Block(self._x[rows], self._y[rows], weights, None, None if self._extra is None else self._extra[rows])


Blocks = Generator[Block, None, None]


def in_units(blocks: Iterable[Block], unit: int, dtype: np.dtype[Any]) -> Blocks:
    """The rows that count in blocks of whole units of so many rows; the last unit may be shorter.

    Long blocks are cut into views. The rows of short blocks, and those that the ends of blocks leave over, are copied
    until they make some units.
    """
    copies: _Copies | None = None
    weights = None
    for block in blocks:
        weights, n_kept, done = block.weights, block.n_kept, 0
        n_together = unit * _units_together(unit, block, dtype)
        while done < n_kept:
            if copies is None and n_kept - done >= n_together:
                stop = n_kept - (n_kept - done) % unit
                yield block.part(done, stop)
            else:
                copies = copies or _Copies(n_together, block, dtype)
                stop = min(n_kept, done + copies.n_free)
                copies.take(block.part(done, stop))
                if not copies.n_free:
                    yield copies.block(weights)
                    copies = None
            done = stop
        del block
    if copies is not None:
        yield copies.block(weights)


def _units_together(unit: int, block: Block, dtype: np.dtype[Any]) -> int:
    """How many units are copied together: threads divide the chunks of several units better than those of one."""
    n_more = 0 if block.extra is None else block.extra[:1].size
    n_bytes: int = unit * (block.x.shape[1] + block.y[:1].size + n_more) * dtype.itemsize
    return max(1, min(_MOST_UNITS, _COPIED_BYTES // n_bytes))


def first_rows(blocks: Iterable[Block], n_rows: int, dtype: np.dtype[Any]) -> Blocks:
    """One block, a copy of the first n_rows rows that count."""
    copies: _Copies | None = None
    for block in blocks:
        copies = copies or _Copies(n_rows, block, dtype)
        copies.take(block.part(0, min(copies.n_free, block.n_kept)))
        if not copies.n_free:
            yield copies.block(block.weights)
            return
        del block


def without_first_rows(blocks: Iterable[Block], n_rows: int) -> Blocks:
    """All but the first n_rows rows that count."""
    for block in blocks:
        skipped = min(n_rows, block.n_kept)
        n_rows -= skipped
        if skipped < block.n_kept:
            yield block.part(skipped, block.n_kept)
        del block


def add_block(
    net: Base,
    call: _core.Call,
    params: Array,
    block: Block,
    n_kept_in_all: int,
    sums: state.State,
    n_threads: int,
    fitted: Values,
    operand: Array | None = None,
) -> None:
    """Add the sums over whole units of a data set with n_kept_in_all rows that count, to a state of sums."""
    sums.add(
        state.state_of_rows(
            net._plan,
            call,
            params,
            block.x,
            block.y,
            block.weights,
            n_threads,
            n_kept_in_all,
            **fitted.arguments(block.extra, operand),
        )
    )
