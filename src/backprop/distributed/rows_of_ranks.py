"""The rows that each rank gives, and how they move once, so that each rank has whole units."""

from __future__ import annotations

import math
import pickle
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import targets, validate
from backprop.api.base import Base
from backprop.distributed import division, samples, state
from backprop.distributed.blocks import FORMS_OF_WEIGHTS, FORMS_OF_Y, Seen
from backprop.distributed.communicator import Communicator
from backprop.distributed.fitted import Values
from backprop.distributed.samples import Block

Array = npt.NDArray[Any]

_BLOCK_FLOPS = 1e10  # after which a rank looks whether another one has failed: less than a second on one CPU

# The rows of one rank -------------------------------------------------------------------------------------------------


class Rows(Protocol):
    """The rows that a rank gives: a `Stream` or `Arrays`."""

    seen: Seen
    scale: float
    total: float
    n_skipped: int
    tail: Block | None
    fitted: Values

    def settle(self) -> None:
        """Make the extra of the rows, once the marks of all ranks are known."""

    def head(self, n_kept: int) -> Block:
        """A copy of the first rows with a weight."""

    def units(self, n_rows: int) -> Generator[Block, None, None]:
        """The rows that this rank computes in blocks of whole units of n_rows."""


class Arrays:
    """Rows in arrays, which are not copied if they fit. There may be none, and all weights may be 0.

    The attributes are those of `Stream`.
    """

    def __init__(
        self,
        net: Base,
        x: npt.ArrayLike,
        y: object,
        sample_weight: npt.ArrayLike | None,
        extra: object,
        fitted: Values,
    ) -> None:
        self.fitted = fitted
        architecture = net._architecture
        x_ = net._samples(x)
        weight = targets.seen_weights(sample_weight, architecture.loss, x_.shape[0], architecture.sizes[-1])
        weights = None if weight is None else targets.Weights(weight.array, 1.0, 0.0, weight.n_kept)
        y_ = fitted.targets(net, y, x_.shape[0], weights)
        extra_ = fitted.extra(net, extra, x_.shape[0], None if weight is None else weight.array)
        self.scale, self.total, self.n_skipped = 1.0, 0.0, 0
        self.tail: Block | None = None
        self.seen = Seen(x_.shape[0], x_.shape[0] if weight is None else weight.n_kept)
        if x_.shape[0]:
            self.seen.weight_axes, self.seen.has_labels = 0 if weight is None else weight.array.ndim, y_.ndim == 1
        if weight is not None:
            self.seen.largest = weight.largest
            self.seen.exact_sum.add(state.State.of_one(*weight.bins))
        self._dtype = architecture.dtype
        self._rows_of_block = int(_BLOCK_FLOPS / (6 * net.n_params))
        self._rows = Block.of(x_, y_, weights, extra_)
        self._units: list[Block] | None = None

    def settle(self) -> None:
        """Make the extra of the rows, once the marks of all ranks are known."""
        self._rows = self._rows._replace(extra=self.fitted.settled(self._rows.extra))

    def head(self, n_kept: int) -> Block:
        """A copy of the first rows with a weight."""
        return next(samples.first_rows([self._rows], n_kept, self._dtype))

    def units(self, n_rows: int) -> Generator[Block, None, None]:
        """Views of whole units in these rows, and a copy of the last one, which the tail fills."""
        rows = self._rows
        weight = None if rows.weights is None else rows.weights.array
        validate.their_memory(rows.x, rows.y, weight, extra=rows.extra, names=self.fitted.arrays)
        if self._units is None:
            whole = self._rows.part(self.n_skipped, self._rows.n_kept)
            if whole.weights is not None:
                whole = whole._replace(weights=whole.weights._replace(scale=self.scale, total=self.total))
            parts = [part for part in (whole, self.tail) if part is not None and part.n_kept]
            self._units = [
                few._replace(kept=None)
                for block in samples.in_units(parts, n_rows, self._dtype)
                for few in _cut(block, max(1, self._rows_of_block // n_rows) * n_rows)
            ]
            self._rows = rows._replace(kept=None)
        yield from self._units


def _cut(block: Block, n_rows: int) -> list[Block]:
    """Views of n_rows rows with a weight each; the last may be shorter."""
    return [block.part(start, min(start + n_rows, block.n_kept)) for start in range(0, block.n_kept, n_rows)]


# What ranks tell each other when an objective is made -----------------------------------------------------------------


class _Description(NamedTuple):
    """The rows of one rank."""

    n_samples: int
    n_kept: int
    weight_axes: int | None
    has_labels: bool | None
    largest: float
    bins: tuple[int, int, int, int]


def _common_form(described: list[_Description]) -> tuple[int, bool]:
    """The axes of the weights, and whether y has labels, of all ranks with rows."""
    filled = [(rank, each) for rank, each in enumerate(described) if each.n_samples]
    if not filled:
        raise ValueError("x: expected at least one sample on some rank, got 0: the mean of no samples is not defined")
    first, of_first = filled[0]
    for rank, each in filled:
        if each.weight_axes != of_first.weight_axes:
            raise ValueError(
                f"sample_weight: expected the same form on all ranks with rows, got "
                f"{FORMS_OF_WEIGHTS[of_first.weight_axes or 0]} on rank {first}, and "
                f"{FORMS_OF_WEIGHTS[each.weight_axes or 0]} on rank {rank}"
            )
        if each.has_labels != of_first.has_labels:
            raise ValueError(
                f"y: expected the same form on all ranks with rows, got {FORMS_OF_Y[bool(of_first.has_labels)]} on "
                f"rank {first}, and {FORMS_OF_Y[bool(each.has_labels)]} on rank {rank}"
            )
    if not any(each.n_kept for each in described):
        raise ValueError(f"{targets.ALL_0} on all ranks")
    return of_first.weight_axes or 0, bool(of_first.has_labels)


# The rows of all ranks ------------------------------------------------------------------------------------------------


class Whole(NamedTuple):
    """The data set of all ranks."""

    n_samples: int
    n_kept: int  # rows with a weight other than 0
    weight_axes: int
    unit_rows: int


def divided(net: Base, communicator: Communicator, rows: Rows, calls: Sequence[str] | None = None) -> Whole:
    """Move rows between the ranks, so that each has whole units of these calls. All ranks call this together.

    Raises
    ------
    RuntimeError, ValueError
        On all ranks, if the rows of two ranks do not fit each other, or if reading or moving them fails on one.
    """
    seen = rows.seen
    own = _Description(seen.n_samples, seen.n_kept, seen.weight_axes, seen.has_labels, seen.largest, seen.bins)
    described = [_Description(*pickle.loads(raw)) for raw in communicator.gather(pickle.dumps(tuple(own)))]
    weight_axes, has_labels = _common_form(described)
    n_kept = sum(each.n_kept for each in described)
    if weight_axes:
        exact_sum = state.State.zero(1)
        for each in described:
            exact_sum.add(state.State.of_one(*each.bins))
        largest = max(each.largest for each in described)
        rows.scale, rows.total = _core.scale_and_total(largest, *exact_sum.one)
    calls = calls or rows.fitted.calls
    unit_rows = math.lcm(*(state.unit_rows(net._plan, _core.CALLS[call], n_kept) for call in calls))
    unit_rows = min(unit_rows, n_kept)
    sent: list[tuple[int, Array]] = []
    received: list[tuple[int, Array]] = []
    tail: Block | None = None
    error: BaseException | None = None
    moves = division.moves([each.n_kept for each in described], unit_rows)
    try:
        rows.settle()
        for move in moves:
            if move.source == communicator.rank:
                sent = [(move.target, array) for array in _arrays_of(rows.head(move.n_rows))]
                rows.n_skipped = move.n_rows
        arrived = [move for move in moves if move.target == communicator.rank]
        if arrived:
            tail, buffers = _room_for(net, arrived, weight_axes, has_labels, rows)
            received = [(move.source, part) for move, parts in zip(arrived, buffers, strict=True) for part in parts]
    except BaseException as caught:  # the others wait for this rank
        error = caught
    communicator.agree({"call": "objective: the rows that move"}, error)
    communicator.exchange(sent, received)
    rows.tail = tail
    return Whole(sum(each.n_samples for each in described), n_kept, weight_axes, unit_rows)


def _arrays_of(block: Block) -> list[Array]:
    """The arrays of a block, in the order in which they are sent."""
    weight = None if block.weights is None else block.weights.array
    return [array for array in (block.x, block.y, weight, block.extra) if array is not None]


def _room_for(
    net: Base, moves: Iterable[division.Move], weight_axes: int, has_labels: bool, rows: Rows
) -> tuple[Block, list[list[Array]]]:
    """A block for the rows that move here, and the parts of its arrays that each move fills."""
    (n_in, *_, n_out), dtype = net.sizes, net.dtype
    n = sum(move.n_rows for move in moves)
    x, y = np.empty((n, n_in), dtype), np.empty(n, np.intp) if has_labels else np.empty((n, n_out), dtype)
    weights = None
    if weight_axes:
        array = np.empty(n if weight_axes == 1 else (n, n_out))
        weights = targets.Weights(array, rows.scale, rows.total, n)
    of_row = rows.fitted.extra_of_row(net)
    extra = None if of_row is None else np.empty((n, *of_row), dtype)
    block, parts, start = Block(x, y, weights, None, extra), [], 0
    for move in moves:
        parts.append([array[start : start + move.n_rows] for array in _arrays_of(block)])
        start += move.n_rows
    return block, parts
