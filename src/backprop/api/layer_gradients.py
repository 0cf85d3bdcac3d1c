"""`LayerGradients`: what `Network.layer_gradients` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from backprop.api import shown

Array = npt.NDArray[Any]


@dataclass(frozen=True, repr=False)
class LayerGradients(shown.Shown):
    """Every quantity of the recursion; lists are indexed by the number of the layer in the equations, 0..L.

    Printed, it is a table of shapes, norms and largest entries.

    Attributes
    ----------
    loss : float
    a, h : list of (n_samples, n_i) arrays
        ``h[0]`` is x, ``h[L]`` is y_hat, ``a[0]`` is None.
    y_hat : (n_samples, n_L) array
        The array ``h[L]``.
    grad_a, grad_h : list of (n_samples, n_i) arrays
        dL/da_i and dL/dh_i; a row carries the share of its sample in the loss. ``grad_h[0]`` is dL/dx; ``grad_a[0]`` is
        None, and so is ``grad_h[L]`` if the loss works on a_L.
    grad_W, grad_b : list of arrays
        Shapes (n_i, n_{i-1}) and (n_i,); entry 0 is None.
    """

    loss: float
    a: list[Array | None]
    h: list[Array]
    grad_a: list[Array | None]
    grad_h: list[Array | None]
    grad_W: list[Array | None]
    grad_b: list[Array | None]

    @property
    def y_hat(self) -> Array:
        """The output of the network: the array ``h[L]``."""
        return self.h[-1]

    def __repr__(self) -> str:
        sizes = "-".join(str(h.shape[1]) for h in self.h)
        return (
            f"<{type(self).__name__} of layers {sizes}, {shown.count(len(self.h[0]), 'sample')}, loss {self.loss:.6g}>"
        )

    def __str__(self) -> str:
        return self._table().text()

    def _table(self) -> shown.Table:
        rows = []
        for i in range(len(self.h)):
            for name in ("a", "h", "grad_a", "grad_h", "grad_W", "grad_b"):
                array = getattr(self, name)[i]
                if array is not None:
                    norm, largest = shown.norm_and_largest(array)
                    rows.append((str(i), f"{name}[{i}]", str(array.shape), f"{norm:.3e}", f"{largest:.3e}"))
        samples = shown.count(len(self.h[0]), "sample")
        return shown.Table(
            f"{type(self).__name__}: {samples}, loss {self.loss:.6g}",
            ("layer", "quantity", "shape", "norm", "largest"),
            rows,
            ("largest: the magnitude of the largest entry", f"y_hat is h[{len(self.h) - 1}], dL/dx is grad_h[0]"),
            "><>>>",
        )
