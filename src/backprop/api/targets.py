"""Targets, labels and weights: which each loss accepts, with the errors for all others.

Targets are converted to the network's dtype, labels to intp, weights to float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api.array_likes import as_array
from backprop.api.conversion import BY_TILE_BYTES, as_it_came, by_tiles, converted
from backprop.losses import Loss

Array = npt.NDArray[Any]

ALL_0 = "sample_weight: expected at least one weight > 0, got none: all weights are 0"
_BLOCK_ROWS = 4096  # rows of targets that are checked together


class Weights(NamedTuple):
    """Sample weights as the compiled calls take them."""

    array: Array  # float64, (n_samples,) or (n_samples, n_out)
    scale: float  # a power of two that brings the largest weight near 1
    total: float  # the sum of the scaled weights
    n_kept: int  # rows with a weight other than 0


class SeenWeights(NamedTuple):
    """Sample weights of some rows, and their sums, which add up with those of other rows."""

    array: Array  # float64, (n_samples,) or (n_samples, n_out)
    largest: float
    n_kept: int  # rows with a weight other than 0
    bins: tuple[int, int, int, int]  # the exact sum: top and limbs, as kernels/bins.h has them


def _labels(array: Array, loss: Loss, n_samples: int, n_out: int, weight: Array | None) -> Array:
    """Integer labels 0..n_out-1 of any integer dtype, or booleans as labels of two classes."""
    if array.dtype.kind == "b" and n_out != 2:
        raise TypeError(f"y: expected integer labels, got booleans, which are labels of 2 classes, not of {n_out}")
    if array.shape != (n_samples,):
        raise ValueError(f"y: expected {n_samples} labels, one for each row of x, got shape {array.shape}")
    labels = (converted if array.dtype.kind == "b" else by_tiles)(array, np.intp, "y")
    for start, part, part_weight in _blocks(labels, np.intp, weight):  # too large a uint64 becomes negative
        bad = _core.look_at_targets(loss.code, part, n_out, part_weight)
        if bad is not None:
            row = start + bad[1]
            raise ValueError(f"y: expected labels from 0 to {n_out - 1}, got {array[row]} in row {row}")
    return labels


def _blocks(array: Array, dtype: npt.DTypeLike, weight: Array | None) -> Iterator[tuple[int, Array, Array | None]]:
    """The first row, the converted rows and the weights of each block; one block if nothing has to be converted."""
    is_converted = array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned
    n_rows = max(1, array.shape[0]) if is_converted else _BLOCK_ROWS
    for start in range(0, array.shape[0], n_rows):
        rows = slice(start, start + n_rows)
        yield start, converted(array[rows], dtype, "y"), None if weight is None else weight[rows]


def targets(value: object, loss: Loss, n_samples: int, n_out: int, dtype: np.dtype, weights: Weights | None) -> Array:
    """y: (n_samples, n_out) of the dtype of the network, or labels (n_samples,) as intp, in the domain of the loss.

    A large y may keep another dtype or layout: the compiled call converts it. Quantiles may share a column.
    """
    array = as_array(value, "y")
    weight = None if weights is None else weights.array
    if loss.name == "cross_entropy":
        if n_samples == 0 and array.shape == (0,):
            array = array.astype(np.intp)  # an empty list has no dtype
        if array.dtype.kind in "iub" and array.ndim != 2:
            return _labels(array, loss, n_samples, n_out, weight)
        if array.ndim == 1:
            are_whole = np.isfinite(array).all() and (array == np.trunc(array)).all()
            cure = "; np.asarray(y, int) makes labels of them" if are_whole else ""
            raise TypeError(
                f"y: expected integer labels, or probabilities of shape ({n_samples}, {n_out}), got floats "
                f"of shape {array.shape}{cure}"
            )
        if array.dtype.kind != "f" and array.shape[1] != n_out:
            raise TypeError(
                f"y: expected {loss.domain}, got shape {array.shape} and dtype {array.dtype}"
                f"{'; a column of labels is made flat by np.ravel(y)' if array.shape[1] == 1 else ''}"
            )
    shapes: list[tuple[int, ...]] = [(n_samples, n_out)]
    if loss.by_output and n_out > 1:
        shapes += [(n_samples, 1), (n_samples,)]
    elif n_out == 1 and loss.name != "cross_entropy":
        shapes.append((n_samples,))
    if array.shape not in shapes:
        if array.ndim and array.shape[0] != n_samples:
            raise ValueError(f"y: expected {n_samples} rows, as x has, got {array.shape[0]} (shape {array.shape})")
        raise ValueError(f"y: expected shape {' or '.join(map(str, shapes))}, got {array.shape}")
    if array.size < n_samples * n_out:
        return _same_for_all_outputs(array.reshape(n_samples, 1), n_out, dtype)
    given = array.reshape(n_samples, n_out)
    # The compiled calls take integers for labels, so one-hot rows of integers are converted here.
    is_one_hot = loss.name == "cross_entropy" and array.dtype.kind != "f"
    y = (converted if is_one_hot else by_tiles)(given, dtype, "y")
    if loss.domain != "real numbers":
        for start, part, part_weight in _blocks(y, dtype, weight):
            _refuse_foreign_targets(loss, start, part, part_weight, given[start : start + len(part)])
    return y


def _same_for_all_outputs(column: Array, n_out: int, dtype: np.dtype) -> Array:
    """(n_samples, n_out) with the column for each output: a copy if it is small, else a view."""
    y = np.broadcast_to(by_tiles(column, dtype, "y"), (column.shape[0], n_out))
    return converted(y, dtype, "y") if y.size * dtype.itemsize < BY_TILE_BYTES else y


def _refuse_foreign_targets(loss: Loss, start: int, y: Array, weight: Array | None, given: Array) -> None:
    """Refuse targets outside the domain of the loss. y starts at row `start`; given is y before its conversion."""
    bad = _core.look_at_targets(loss.code, y, y.shape[1], weight)
    if bad is None:
        return
    rule, row, j = bad
    if rule == "sum":
        tolerance, total = _core.tolerance_of_probabilities(y.itemsize), y[row].sum(dtype=float)
        raise ValueError(f"y: expected rows that sum to 1 within {tolerance}, got {total} in row {start + row}")
    number = as_it_came(given[row, j], y[row, j])
    what = "probabilities >= 0" if loss.name == "cross_entropy" else loss.domain
    place = f"row {start + row}, output {j}"
    raise ValueError(f"y: expected {what} for the loss {loss.name!r}, got {number} in {place}")


def refuse_targets(loss: Loss, n_out: int, dtype: np.dtype[Any], y: Array, weight: Array | None) -> None:
    """Raise the error for targets or weights that a C function has already found invalid."""
    weights = sample_weight(weight, loss, y.shape[0], n_out)
    targets(y, loss, y.shape[0], n_out, dtype, weights)


def sample_weight(value: object, loss: Loss, n_samples: int, n_out: int) -> Weights | None:
    """Weights by sample, or by sample and output if the loss is a mean over outputs."""
    seen = seen_weights(value, loss, n_samples, n_out)
    if seen is None:
        return None
    if seen.n_kept == 0 and n_samples:
        raise ValueError(ALL_0)
    return Weights(seen.array, *_core.scale_and_total(seen.largest, *seen.bins), seen.n_kept)


def seen_weights(value: object, loss: Loss, n_samples: int, n_out: int) -> SeenWeights | None:
    """The same for a part of the rows of a data set, whose weights may all be 0."""
    if value is None:
        return None
    array = as_array(value, "sample_weight")
    shapes = [(n_samples,)] if loss.name == "cross_entropy" else [(n_samples,), (n_samples, n_out)]
    if array.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"sample_weight: expected shape {expected} with the loss {loss.name!r}, got {array.shape}")
    return look_at_weights(array)


def look_at_weights(array: Array, first_row: int = 0) -> SeenWeights:
    """Convert and sum up weights of one or two dimensions, the rows of an argument from first_row on."""
    weight = converted(array, np.float64, "sample_weight")
    n_per_row = weight.shape[1] if weight.ndim == 2 else 1
    rule, bad, largest, n_kept, *bins = _core.look_at_weights(weight.reshape(-1), n_per_row)
    if rule == "weight":
        row = first_row + bad // n_per_row
        number = as_it_came(array.flat[bad], weight.flat[bad])
        raise ValueError(f"sample_weight: expected finite weights >= 0, got {number} in row {row}")
    top, low, middle, high = bins
    return SeenWeights(weight, largest, n_kept, (top, low, middle, high))
