"""The flat vector of parameters and its views: W_1 row-major, b_1, W_2, b_2, ..., W_L, b_L."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.activations import Activation


def count(sizes: Sequence[int]) -> int:
    """The length of the flat vector: sum_i n_i (n_{i-1} + 1)."""
    return sum(n_out * (n_in + 1) for n_in, n_out in pairwise(sizes))


def unflatten(vector: npt.NDArray[Any], sizes: Sequence[int]) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """The views (W_i, b_i), i = 1..L, of a vector with the layout of params.

    Parameters
    ----------
    vector : (n_params,) array
    sizes : sequence of int
        n_0, n_1, ..., n_L.

    Returns
    -------
    list of (W_i, b_i)
        W_i has shape (n_i, n_{i-1}), b_i (n_i,). Both share the memory of the vector.
    """
    layers = []
    start = 0
    for n_in, n_out in pairwise(sizes):
        end = start + n_out * n_in
        layers.append((vector[start:end].reshape(n_out, n_in), vector[end : end + n_out]))
        start = end + n_out
    return layers


def initialize(
    vector: npt.NDArray[Any], sizes: Sequence[int], activations: Sequence[Activation], rng: np.random.Generator
) -> None:
    """Write initial weights into the vector: He normal, LeCun normal or Glorot uniform, by the activation of the layer.

    He, Zhang, Ren, Sun 2015 (variance 2/n_in); LeCun et al. 1998 (1/n_in); Glorot and Bengio 2010
    (uniform within sqrt(6/(n_in + n_out))). Biases are 0.
    """
    for (W, b), activation in zip(unflatten(vector, sizes), activations, strict=True):
        n_out, n_in = W.shape
        with _core.DefaultFloatMode():
            if activation.initialization == "glorot":
                limit = np.sqrt(6.0 / (n_in + n_out))
                W[...] = rng.uniform(-limit, limit, W.shape)
            else:
                variance = (2.0 if activation.initialization == "he" else 1.0) / n_in
                W[...] = rng.normal(0.0, np.sqrt(variance), W.shape)
        b[...] = 0.0
