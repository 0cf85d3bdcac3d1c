"""Which rows move to which rank, so that each rank has whole units: from the number of rows of each rank alone.

Rows are numbered through all ranks, in their order, and only those with a weight other than 0 count. A unit belongs to
the rank that has its first row. So a rank sends the rows before its first start of a unit to an earlier rank, which has
the first row of that unit; if no unit starts in its rows, it sends all. Worked cases, with units of 4 rows:

    rows of the ranks      units begin in                moves (from, to, rows)
    6, 6                   rank 0: 0, 4; rank 1: 8       (1, 0, 2)
    5, 1, 0, 6             rank 0: 0, 4; rank 3: 8       (1, 0, 1), (3, 0, 2)
    0, 3, 3                rank 1: 0; rank 2: 4          (2, 1, 1)
    4, 4                   rank 0: 0; rank 1: 4          none
    2, 1                   rank 0: 0                     (1, 0, 1)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Move(NamedTuple):
    """The first n_rows rows of a rank, which go to an earlier rank."""

    source: int
    target: int
    n_rows: int


def moves(n_rows: Sequence[int], unit: int) -> list[Move]:
    """The moves that give each rank whole units, but for the end of the last one; in the order of their sources."""
    counts = np.asarray(n_rows, np.int64)
    starts = np.cumsum(counts) - counts
    before = np.minimum(-starts % unit, counts)  # rows before the first start of a unit
    sources = np.flatnonzero(before)
    filled = np.flatnonzero(counts)
    owners = filled[np.searchsorted(starts[filled], starts[sources] // unit * unit, side="right") - 1]
    return [
        Move(source, target, n)
        for source, target, n in zip(sources.tolist(), owners.tolist(), before[sources].tolist(), strict=True)
    ]
