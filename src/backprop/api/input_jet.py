"""`InputJet`: what `Network.input_jet` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop.api import shown

Array = npt.NDArray[Any]


@dataclass(frozen=True, repr=False, eq=False)
class InputJet(shown.Shown):
    """y_hat with its first and second derivatives by the inputs, along k directions.

    Printed, it is a table of shapes, norms and largest entries.

    Attributes
    ----------
    y : (n_samples, n_L) array
        y_hat, as `Network.forward` returns it.
    dy : (n_samples, n_L, k) array
        First derivatives: ``dy[s, o, j]`` is that of y_hat_o along direction j.
    d2y : (n_samples, n_L, k) array
        Second derivatives along the same directions.
    """

    y: Array
    dy: Array
    d2y: Array

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._counts}>"

    def __str__(self) -> str:
        return self._table().text()

    @property
    def _counts(self) -> str:
        nouns = ("sample", "output", "direction")
        return ", ".join(shown.count(n, noun) for n, noun in zip(np.shape(self.dy), nouns, strict=True))

    def _table(self) -> shown.Table:
        rows = []
        for name in ("y", "dy", "d2y"):
            array = getattr(self, name)
            norm, largest = shown.norm_and_largest(array)
            rows.append((name, str(array.shape), f"{norm:.3e}", f"{largest:.3e}"))
        return shown.Table(
            f"{type(self).__name__}: {self._counts}",
            ("quantity", "shape", "norm", "largest"),
            rows,
            ("largest: the magnitude of the largest entry",),
            "<>>>",
        )
