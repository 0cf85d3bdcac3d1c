"""What `print`, IPython, Jupyter and `dir` show of an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MOST_ROWS = 60  # of what IPython and Jupyter show


class Table(NamedTuple):
    """A title, a table, and lines below it."""

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    align: str = ""  # "<" or ">" for each column; to the left if nothing is said

    def shortened(self) -> Table:
        """The same without the middle of a long table."""
        if len(self.rows) <= MOST_ROWS:
            return self
        ends = MOST_ROWS // 2
        return self._replace(rows=[*self.rows[:ends], ["..."] * len(self.header), *self.rows[-ends:]])

    def lines(self) -> list[str]:
        """The header and the rows, in columns."""
        align = self.align or "<" * len(self.header)
        widths = [max(len(row[k]) for row in (self.header, *self.rows)) for k in range(len(self.header))]
        return [
            "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)).rstrip()
            for row in (self.header, *self.rows)
        ]

    def text(self) -> str:
        """Everything as text."""
        return "\n".join([self.title, *(self.lines() if self.header else ()), *self.notes])

    def html(self) -> str:
        """Everything as HTML, escaped: names of activations are the user's."""
        from html import escape

        align = self.align or "<" * len(self.header)
        styles = ["" if side == "<" else ' style="text-align:right"' for side in align]

        def row(tag: str, cells: Sequence[str]) -> str:
            return "".join(f"<{tag}{style}>{escape(cell)}</{tag}>" for style, cell in zip(styles, cells, strict=True))

        first, *others = self.title.split("\n")
        parts = [f"<div><strong>{escape(first)}</strong></div>", *(f"<div>{escape(line)}</div>" for line in others)]
        if self.header:
            body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in self.rows)
            parts.append(f"<table><thead><tr>{row('th', self.header)}</tr></thead><tbody>{body}</tbody></table>")
        return "".join([*parts, *(f"<div>{escape(note)}</div>" for note in self.notes)])


def is_own(kind: type) -> bool:
    """Whether a class is the library's, not one that a user derives from it."""
    return kind.__module__.split(".")[0] == "backprop"


class Tidy:
    """A class of which `dir` leaves out what is private to the library; what a user's subclass adds is all there."""

    __slots__ = ()

    def __dir__(self) -> list[str]:
        own = {name for cls in type(self).__mro__ if is_own(cls) for name in vars(cls)}
        return [name for name in super().__dir__() if name[0] != "_" or name[:2] == "__" or name not in own]


class Shown(Tidy):
    """A class whose objects IPython and Jupyter show as tables."""

    __slots__ = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if is_own(cls):  # IPython prefers the __repr__ of a class to the _repr_pretty_ of one that it derives from
            cls._repr_pretty_ = cls._repr_pretty_  # type: ignore[method-assign]

    def _table(self) -> Table:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self._table().shortened().html()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the table, but within a list or a dict what `repr` gives."""
        is_part = cycle or len(getattr(printer, "stack", ())) > 1
        for i, line in enumerate([repr(self)] if is_part else self._table().shortened().text().split("\n")):
            if i:
                printer.break_()
            printer.text(line)


def count(n: int, noun: str) -> str:
    """A number of things, in words: "1 sample", "1,000 samples"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def norm_and_largest(array: npt.NDArray[Any]) -> tuple[float, float]:
    """The 2-norm of all entries, and the largest magnitude among them."""
    if not array.size:
        return 0.0, 0.0
    with np.errstate(all="ignore"):
        flat = array.ravel()
        norm = np.sqrt(np.einsum("i,i->", flat, flat, dtype=np.float64))
        return float(norm), float(np.maximum(flat.max(), -flat.min()))
