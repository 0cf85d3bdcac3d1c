"""`PartialSums`: the sums of one call over some rows of a data set, which add up to the result of all rows."""

from __future__ import annotations

import bisect
import pickle
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import array_likes, attributes, shown
from backprop.distributed import agreement, communicator, cuts, part_bytes, state
from backprop.distributed.part_bytes import Facts, Interval

Array = npt.NDArray[Any]

_MOST_SHOWN = 3  # blocks of rows in a repr

# What two parts differ in, by the name of the fact.
_DIFFERENCES = {
    "release": "another release of backprop",
    "arithmetic": "a CPU with, and one without FMA instructions: their sums have other bits",
    "call": "another call",
    "network": "another network",
    "params": "other params",
    "operands": "another v, max_norm, free or weight",
    "n_rows": "another n_rows",
    "weights": "other totals of the weights",
    "n_kept": "other totals of the weights",
    "unit_rows": "other units",
}


class PartialSums(shown.Tidy, attributes.Closed):
    """The sums of one call over some rows of a data set, which `Network.partial_sums` makes.

    Parts of one data set are added by ``+`` or ``sum``, in any order and by anything that adds: a loop, a tree, a
    cluster. The sum of all parts has the bits of the call on the whole data set. No operation changes a part. Parts can
    be pickled, and sent as bytes.

    A part has 25 bytes for each number of the result, and for vjp also its rows of grad_x.
    """

    __slots__ = ("_facts", "_intervals", "_rows", "_state")

    _facts: Facts
    _intervals: list[Interval]  # in order; neighbours are joined, unless they have results by sample
    _rows: list[Array]  # of each interval, if the call has results by sample
    _state: state.State

    def __init__(self, *_: object) -> None:
        raise TypeError("PartialSums: expected parts from net.partial_sums or PartialSums.from_bytes, got a call")

    @classmethod
    def _of(cls, facts: Facts, intervals: list[Interval], rows: list[Array], sums: state.State) -> Self:
        part = cls.__new__(cls)
        part._facts, part._intervals, part._rows, part._state = facts, intervals, rows, sums
        return part

    # What it holds ---------------------------------------------------------------------------------------------------

    @property
    def call(self) -> str:
        """The name of the call."""
        return self._facts.call

    @property
    def n_rows(self) -> int:
        """The number of rows of the whole data set."""
        return self._facts.n_rows

    @property
    def rows(self) -> list[slice]:
        """The rows in these sums, in ascending order."""
        return [slice(first, stop) for first, stop in self._intervals]

    def __repr__(self) -> str:
        blocks = [f"{first}:{stop}" for first, stop in self._intervals[:_MOST_SHOWN]]
        if len(self._intervals) > _MOST_SHOWN:
            blocks.append("...")
        return f"<{type(self).__name__} of {self.call}: rows {', '.join(blocks) or 'none'} of {self.n_rows}>"

    # Adding ----------------------------------------------------------------------------------------------------------

    def __add__(self, other: object) -> PartialSums:
        if not isinstance(other, PartialSums):
            return NotImplemented
        _refuse_others(self._facts, other._facts)
        few, many = sorted((self, other), key=lambda part: len(part._intervals))
        intervals, rows = list(many._intervals), list(many._rows)
        for k, interval in enumerate(few._intervals):
            _insert(intervals, rows, interval, few._rows[k] if few._rows else None)
        sums = self._state.copy()
        sums.add(other._state)
        return self._of(self._facts, intervals, rows, sums)

    def __radd__(self, other: object) -> PartialSums:
        if type(other) is int and other == 0:  # with which `sum` begins
            return self
        return NotImplemented

    def result(self) -> Any:
        """What the call returns for the whole data set, bit for bit.

        Returns
        -------
        float, array or tuple
            As the call returns it, in new arrays.

        Raises
        ------
        ValueError
            If rows are missing, or counted twice.
        """
        facts = self._facts
        wrong = cuts.uncovered(self._intervals, facts.n_rows)
        if wrong:
            raise ValueError(f"result: expected parts with each of the rows 0:{facts.n_rows} once, got {wrong}")
        plan, dtype = part_bytes.plan_of(facts)
        total, by_entry = None, False
        if facts.weights is not None:
            axes, largest, bins = facts.weights
            total, by_entry = _core.scale_and_total(largest, *bins)[1], axes == 2
        loss, sums = state.finish(plan, _core.CALLS[facts.call], self._state, facts.n_kept, total, by_entry, dtype)
        if facts.call == "vjp":
            rows = np.concatenate([np.empty((0, facts.network["sizes"][0]), dtype), *self._rows])
            return sums, rows
        return _RESULTS.get(facts.call, _sums_alone)(loss, sums)

    def allreduce(self, comm: object) -> PartialSums:
        """The sum of the parts of all ranks of MPI, on each of them. All ranks call this together.

        Parameters
        ----------
        comm : mpi4py communicator
            Each rank calls this with the sum of its parts. A rank without rows makes a part of no rows.

        Returns
        -------
        PartialSums

        Raises
        ------
        TypeError, ValueError
            If comm is not a communicator of this rank.
        RuntimeError
            On all ranks, if the parts are not of one sum, or if a rank fails; the error names the rank.
        """
        shared, sums = communicator.of(comm), None
        error: BaseException | None = None
        try:
            sums = self._state.copy()
        except BaseException as caught:  # the others wait for this rank
            error = caught
        with shared.lock:
            shared.reduce(_facts_of_all(self._facts), sums, error)
            parts = [pickle.loads(raw) for raw in shared.gather(pickle.dumps((self._intervals, self._rows)))]
        intervals: list[Interval] = []
        rows: list[Array] = []
        for its_intervals, its_rows in parts:
            for k, interval in enumerate(its_intervals):
                _insert(intervals, rows, interval, its_rows[k] if its_rows else None)
        assert sums is not None  # as there is no error
        return self._of(self._facts, intervals, rows, sums)

    # Sending ---------------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The part as bytes, which `from_bytes` reads: on any machine, and in a format that other languages can add.

        Returns
        -------
        bytes
        """
        return part_bytes.pack(self._facts, self._intervals, self._state, self._rows)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """The part that `to_bytes` has written.

        Parameters
        ----------
        data : bytes-like

        Returns
        -------
        PartialSums

        Raises
        ------
        TypeError, ValueError
            If data are not the bytes of a part, or if some were changed. Nothing in them is executed.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data: expected bytes, got {array_likes.describe(data)}")
        try:
            facts, intervals, sums, rows = part_bytes.unpack(data)
        except ValueError as error:
            raise ValueError(f"data: expected the bytes of PartialSums: {error}") from error
        return cls._of(facts, intervals, rows, sums)

    def __reduce__(self) -> tuple[Callable[[bytes], PartialSums], tuple[bytes]]:
        return type(self).from_bytes, (self.to_bytes(),)


def _refuse_others(facts: Facts, others: Facts) -> None:
    """Refuse to add parts that are not of one sum."""
    for name, difference in _DIFFERENCES.items():
        ours, theirs = getattr(facts, name), getattr(others, name)
        if ours != theirs:
            got = f", {theirs!r} instead of {ours!r}" if name in ("release", "call", "n_rows", "unit_rows") else ""
            raise ValueError(f"+: expected parts of one sum, got {difference}{got}")


def _facts_of_all(facts: Facts) -> agreement.Facts:
    """What the parts of all ranks must have in common, in the words of an error."""
    return {
        "call": facts.call,
        "backprop": facts.release,
        "the arithmetic": facts.arithmetic,
        "the network": part_bytes.in_words(facts.network),
        "the values of params": facts.params,
        "the values of v, max_norm or weight": facts.operands,
        "n_rows": facts.n_rows,
        "the values of totals": repr((facts.n_kept, facts.weights)),
        "the rows of a unit": facts.unit_rows,
    }


def _insert(intervals: list[Interval], rows: list[Array], interval: Interval, its_rows: Array | None) -> None:
    """Insert an interval in order. Without results by sample, join it with those that it touches."""
    k = bisect.bisect(intervals, interval)
    if its_rows is not None:
        rows.insert(k, its_rows)
    else:
        first, stop = interval
        if k < len(intervals) and intervals[k][0] == stop:
            _, stop = intervals.pop(k)
        if k and intervals[k - 1][1] == first:
            k -= 1
            first, _ = intervals.pop(k)
        interval = first, stop
    intervals.insert(k, interval)


# From the loss and the sums to what a call returns -------------------------------------------------------------------


def _sums_alone(loss: float, sums: Array) -> Array:
    return sums


def _hessian(loss: float, H: Array) -> Array:
    _core.mirror(H)
    return H


def _normal_equations(loss: float, both: Array) -> tuple[Array, Array]:
    JTJ = both[:-1]
    _core.mirror(JTJ)
    return JTJ, both[-1]


_RESULTS: dict[str, Callable[[float, Array], Any]] = {
    "loss": lambda loss, sums: loss,
    "value_and_grad": lambda loss, sums: (loss, sums),
    "sobolev_value_and_grad": lambda loss, sums: (loss, sums),
    "hessian": _hessian,
    "normal_equations": _normal_equations,
}
