"""`LayerGradients`: what `Network.layer_gradients` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LayerGradients:
    """Every quantity of the recursion; lists are indexed by the layer's number in the equations, 0..L.

    Attributes
    ----------
    loss : float
    a, h : list of (n_samples, n_i) arrays
        ``h[0]`` is x, ``h[L]`` is y_hat, ``a[0]`` is None.
    grad_a, grad_h : list of (n_samples, n_i) arrays
        dL/da_i and dL/dh_i; a row carries its sample's share of the loss. ``grad_h[0]`` is dL/dx; ``grad_a[0]`` is
        None, and so is ``grad_h[L]`` where the loss works on a_L.
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
