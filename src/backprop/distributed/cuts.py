"""Which rows the parts of a sum may have: blocks that end where units end, and what they need to know of all weights.

A unit is a number of consecutive kept rows, those with a weight other than 0. How many there are in a unit depends on
the call, the layers and the number of kept rows of the whole data set alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import array_likes, scalars, shown, targets
from backprop.api.calls import Calls
from backprop.distributed import state

Array = npt.NDArray[Any]

_SEARCHED_ROWS = 1 << 20  # weights that are looked at together


def call_of_name(name: object) -> _core.Call:
    """The call of that name, if its results are sums over samples."""
    if not isinstance(name, str):
        raise TypeError(f"call: expected the name of a call, got {array_likes.describe(name)}")
    if name in state.SUMS:
        return _core.CALLS[name]
    known = ", ".join(state.SUMS)
    if name in _core.CALLS:
        whose = f"call: expected one of {known}, whose results are sums over samples"
        if _core.CALLS[name].is_by_sample:
            raise ValueError(
                f"{whose}, got {name!r}, which gives one row per sample: call net.{name} on each block, and put the "
                "rows one after another"
            )
        if name.startswith("pde"):
            raise ValueError(f"{whose}, got {name!r}: net.pde_objective takes blocks, and comm for ranks, itself")
        raise ValueError(f"{whose} in parts, got {name!r}: call net.{name} on each block, and add the results")
    raise ValueError(f"call: expected one of {known}, got {name[:40]!r}")


# Blocks of rows ------------------------------------------------------------------------------------------------------


def row_blocks(
    net: Calls,
    n_rows: int,
    n_parts: int,
    *,
    call: str = "value_and_grad",
    sample_weight: npt.ArrayLike | None = None,
) -> list[slice]:
    """Cut the rows of a data set into blocks for `Network.partial_sums`, as even as units allow.

    Parameters
    ----------
    net : Network
    n_rows : int
        Rows of the whole data set.
    n_parts : int
        How many blocks to make.
    call : str
        The name of the call; the blocks of one call may not fit another one.
    sample_weight : (n_rows,) or (n_rows, n_L) array_like, optional
        Needed if some rows have weights that are all 0: such rows count for nothing. It only matters which weights are
        0, so a boolean mask of the rows with a weight is enough.

    Returns
    -------
    list of slice
        n_parts blocks of consecutive rows, together all rows. The blocks at the end are empty if there are fewer units
        than parts: a data set of a few thousand rows is one unit, and has one block.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused.
    """
    if not isinstance(net, Calls):
        raise TypeError(f"net: expected a Network, got {array_likes.describe(net)}")
    of_call = call_of_name(call)
    n_rows, n_parts = scalars.natural(n_rows, "n_rows"), scalars.positive_integer(n_parts, "n_parts")
    kept = None if sample_weight is None else _kept_rows(sample_weight, n_rows)
    n_kept = n_rows if kept is None else int(np.count_nonzero(kept))
    if n_kept == 0:
        if n_rows:
            raise ValueError(targets.ALL_0)
        return [slice(0, 0)] * n_parts
    unit = state.unit_rows(net._plan, of_call, n_kept)
    n_units = -(-n_kept // unit)
    few, larger = divmod(n_units, n_parts)  # the first blocks have one unit more
    units = [few * k + min(k, larger) for k in range(n_parts + 1)]
    starts = [n * unit for n in units]
    rows = starts if kept is None else _places(kept, starts)
    ends = [n_rows if n == n_units else row for n, row in zip(units, rows, strict=True)]
    ends[0] = 0  # rows of weight 0 before the first unit belong to the first block
    return [slice(first, stop) for first, stop in itertools.pairwise(ends)]


def _kept_rows(sample_weight: npt.ArrayLike, n_rows: int) -> npt.NDArray[np.bool_]:
    """Which rows have a weight other than 0."""
    array = array_likes.as_array(sample_weight, "sample_weight")
    if array.ndim not in (1, 2) or array.shape[0] != n_rows:
        raise ValueError(
            f"sample_weight: expected the weights of {n_rows} rows, in one or two dimensions, got shape {array.shape}"
        )
    kept = np.empty(n_rows, np.bool_)
    for start in range(0, n_rows, _SEARCHED_ROWS):
        block = slice(start, start + _SEARCHED_ROWS)
        with _core.DefaultFloatMode():  # in other modes a subnormal weight may count as 0
            some = array[block] != 0
        kept[block] = some if array.ndim == 1 else some.any(axis=1)
    return kept


def _places(kept: npt.NDArray[np.bool_], numbers: Sequence[int]) -> list[int]:
    """The row of each kept row, by its number among them in ascending order; the number of rows for larger numbers."""
    places, wanted, before = [len(kept)] * len(numbers), 0, 0
    for start in range(0, len(kept), _SEARCHED_ROWS):
        found = np.flatnonzero(kept[start : start + _SEARCHED_ROWS])
        while wanted < len(numbers) and numbers[wanted] < before + len(found):
            places[wanted] = start + int(found[numbers[wanted] - before])
            wanted += 1
        before += len(found)
    return places


def refuse_broken_units(call: _core.Call, unit: int, n_kept: int, before: int, kept: int, weighted: bool) -> None:
    """Refuse rows that are not whole units: kept rows in all, before these rows, and among them.

    The last unit may be shorter. Rows without any weight fit everywhere.
    """
    if kept == 0:
        return
    what = " with a weight" if weighted else ""
    cure = f"; backprop.row_blocks(net, n_rows, n_parts, call={call.name!r}) gives blocks that fit"
    if unit >= n_kept:
        if kept != n_kept:
            raise ValueError(
                f"x: expected all {n_kept} rows{what} in one part, since they are one unit of {call.name}, got {kept} "
                f"of them{cure}"
            )
        return
    if before % unit:
        raise ValueError(
            f"first_row: expected the start of a unit of {unit} rows{what}, with {_near(before, unit, n_kept, 0)} of "
            f"them before it, got {before} before it{cure}"
        )
    end = before + kept
    if end % unit and end != n_kept:
        raise ValueError(
            f"x: expected the last of the {n_kept} rows{what}, or the end of a unit of {unit} rows, with "
            f"{_near(end, unit, n_kept, before + 1)} of them up to it, got {end} up to it{cure}"
        )


def _near(number: int, unit: int, n_kept: int, least: int) -> str:
    """The ends of units next to a number of rows, in words; those below least are left out."""
    low = number // unit * unit
    return f"{low} or {min(low + unit, n_kept)}" if low >= least else f"{min(low + unit, n_kept)}"


def uncovered(intervals: Iterable[tuple[int, int]], n_rows: int) -> str:
    """What is wrong with intervals that should cover each of n_rows rows once, in words; empty if nothing is."""
    end = 0
    for first, stop in sorted(intervals):
        if first > end:
            return f"none for rows {end}:{first}"
        if first < end:
            return f"rows {first}:{min(stop, end)} twice"
        end = stop
    return f"none for rows {end}:{n_rows}" if end < n_rows else ""


# What all blocks need to know of the weights --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class WeightTotals:
    """What `weight_totals` returns: what a part of a sum needs to know of the weights of all rows.

    Those of other rows are added by ``+`` or ``sum``, in any order, with the same bits. They can be pickled.

    Attributes
    ----------
    blocks : (n_blocks, 3) int64 array
        For each block its first row, the row after its last one, and how many of its rows have a weight other than 0.
    axes : int
        1 for weights by sample, 2 for weights by sample and output.
    largest : float
        The largest weight.
    exact_sum : State
        The sum of all weights, in bins.
    """

    blocks: Array
    axes: int
    largest: float
    exact_sum: state.State

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return int((self.blocks[:, 1] - self.blocks[:, 0]).sum())

    @property
    def n_kept(self) -> int:
        """The number of rows with a weight other than 0."""
        return int(self.blocks[:, 2].sum())

    @property
    def bins(self) -> tuple[int, int, int, int]:
        """The top and the limbs of the exact sum."""
        return self.exact_sum.one

    @cached_property
    def scale_and_total(self) -> tuple[float, float]:
        """The power of two that brings the largest weight near 1, and the sum of the scaled weights."""
        return _core.scale_and_total(self.largest, *self.bins)

    def __repr__(self) -> str:
        n_rows, n_blocks = shown.count(self.n_rows, "row"), shown.count(len(self.blocks), "block")
        return f"<weights of {n_rows} in {n_blocks}: {self.n_kept:,} are not 0, the largest is {self.largest:g}>"

    def __add__(self, other: object) -> WeightTotals:
        if not isinstance(other, WeightTotals):
            return NotImplemented
        axes = {totals.axes for totals in (self, other) if totals.n_rows} or {self.axes}
        if len(axes) > 1:
            raise ValueError("+: expected all weights by sample, or all by sample and output, got a sum of both")
        total = self.exact_sum.copy()
        total.add(other.exact_sum)
        blocks = np.concatenate([self.blocks, other.blocks])
        return WeightTotals(blocks, axes.pop(), _larger(self.largest, other.largest), total)

    def __radd__(self, other: object) -> WeightTotals:
        if type(other) is int and other == 0:  # with which `sum` begins
            return self
        return NotImplemented

    def kept_rows(self, first: int, stop: int, n_rows: int) -> tuple[int, int]:
        """Rows with a weight before the rows first:stop of n_rows, and among them.

        They are refused if no blocks begin and end where they do.
        """
        starts, before, wrong = self._in_order
        wrong = wrong or ("" if self.n_rows == n_rows else f"those of rows 0:{self.n_rows}")
        if wrong:
            raise ValueError(
                f"totals: expected the weights of rows 0:{n_rows}, each once, got {wrong}; add the weight_totals of "
                "all blocks"
            )
        if first == stop:
            return 0, 0
        k, m = np.searchsorted(starts, [first, stop]).tolist()
        if starts[k] != first or starts[m] != stop:
            raise ValueError(
                f"totals: expected blocks that begin and end as rows {first}:{stop} do, got others; give weight_totals "
                "the blocks of the parts"
            )
        return int(before[k]), int(before[m] - before[k])

    @cached_property
    def _in_order(self) -> tuple[Array, Array, str]:
        """Where each block with rows begins, and the end; rows with a weight before it; and what is wrong, in words."""
        blocks = self.blocks[self.blocks[:, 0] < self.blocks[:, 1]]
        blocks = blocks[np.argsort(blocks[:, 0], kind="stable")]
        starts, before = np.append(blocks[:, 0], blocks[-1:, 1]), np.append(0, np.cumsum(blocks[:, 2]))
        wrong = uncovered([(first, stop) for first, stop, _ in blocks.tolist()], self.n_rows)
        return starts, before, wrong


def weight_totals(sample_weight: npt.ArrayLike, blocks: Iterable[slice]) -> WeightTotals:
    """What the parts of a weighted sum need to know of all weights: kept rows, the largest weight, and the exact sum.

    Parameters
    ----------
    sample_weight : (n,) or (n, n_L) array_like
        The weights of the rows in these blocks, one block after another: all weights for all blocks; or, on each
        machine, the weights of its rows for its blocks. Finite and >= 0.
    blocks : sequence of slice
        Rows of the whole data set: the blocks of the parts, as `row_blocks` gives them.

    Returns
    -------
    WeightTotals
        Add those of all machines by ``+`` or ``sum``. The sum is the argument totals of `Network.partial_sums`.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused.
    """
    rows = [_rows_of(block) for block in blocks]
    n_rows = sum(stop - first for first, stop in rows)
    array = array_likes.as_array(sample_weight, "sample_weight")
    if array.ndim not in (1, 2) or array.shape[0] != n_rows or 0 in array.shape[1:]:
        raise ValueError(
            f"sample_weight: expected the weights of the {shown.count(n_rows, 'row')} in these blocks, in one or two "
            f"dimensions, got shape {array.shape}"
        )
    largest, found, total, row = 0.0, [], state.State.zero(1), 0
    for first, stop in rows:
        seen = targets.look_at_weights(array[row : row + stop - first], row)
        row += stop - first
        largest = _larger(largest, seen.largest)
        found.append((first, stop, seen.n_kept))
        total.add(state.State.of_one(*seen.bins))
    return WeightTotals(np.array(found, np.int64).reshape(-1, 3), array.ndim, largest, total)


def _larger(a: float, b: float) -> float:
    with _core.DefaultFloatMode():  # in other modes a subnormal weight may count as 0
        return max(a, b)


def totals_of(seen: targets.SeenWeights, first: int, stop: int) -> WeightTotals:
    """The same of one block, whose weights have been looked at."""
    block = np.array([[first, stop, seen.n_kept]], np.int64)
    return WeightTotals(block, seen.array.ndim, seen.largest, state.State.of_one(*seen.bins))


def _rows_of(block: object) -> tuple[int, int]:
    """The first row of a block, and the row after its last one."""
    if not isinstance(block, slice):
        raise TypeError(f"blocks: expected slices of rows, got {array_likes.describe(block)}")
    if block.step not in (None, 1) or block.start is None or block.stop is None:
        raise ValueError(f"blocks: expected slices such as slice(0, 4096), got {block}")
    first, stop = scalars.natural(block.start, "blocks"), scalars.natural(block.stop, "blocks")
    if first > stop:
        raise ValueError(f"blocks: expected slices such as slice(0, 4096), got {block}")
    return first, stop
