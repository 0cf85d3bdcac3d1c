"""The only place that inspects users' arrays and numbers, with every error message; architectures: architecture.py.

What is no array yet, such as a list or a frame, becomes one in array_likes.py. Arrays are converted here, once and
without a warning: to the network's dtype, native byte order, C order. An array that fits is used as it is. Labels
become intp, weights float64. What is returned is what the compiled calls expect: these convert large x and
y themselves, tile by tile.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import array_likes
from backprop.losses import Loss

Array = npt.NDArray[Any]

as_array, describe = array_likes.as_array, array_likes.describe

BLOCK = 1 << 21  # entries that NumPy copies at a time: some milliseconds
BY_TILE_BYTES = 1 << 17  # from here on x and y are converted by tiles: a copy at once is faster while it is small
_BLOCK_ROWS = 4096  # of targets that are looked at together
PROBABILITY_TOLERANCE = {"float32": 1e-4, "float64": 1e-6}

_FOR_SCIPY = (
    "for scipy.optimize.minimize make a function of params by net.objective(x, y), for least_squares by "
    "net.residuals(x, y)"
)


class Weights(NamedTuple):
    """Sample weights as the compiled calls take them."""

    array: Array  # float64, (n_samples,) or (n_samples, n_out)
    scale: float  # a power of two that brings the largest weight near 1
    total: float  # the sum of the scaled weights
    n_kept: int  # rows that have a weight other than 0


# Numbers -------------------------------------------------------------------------------------------------------------


def positive_integer(value: object, name: str) -> int:
    """An integer >= 1; bool is none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral | np.integer):
        if isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name}: expected a positive integer, got {value!r}")
        raise TypeError(f"{name}: expected a positive integer, got {describe(value)}")
    if value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {int(value)}")
    return int(value)


def as_float(value: numbers.Real) -> float:
    """The nearest float; inf for an integer or fraction that is beyond all floats."""
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def non_negative(value: object, name: str) -> float:
    """A finite number >= 0."""
    if isinstance(value, bool | np.bool_ | str) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a finite number >= 0, got {describe(value)}")
    with _core.DefaultFloatMode():  # else a subnormal number may pass for 0, here and below
        result = as_float(value)
        is_accepted = 0 <= result < np.inf
    if not is_accepted:
        raise ValueError(f"{name}: expected a finite number >= 0, got {result}")
    return result


def positive(value: object, name: str) -> float:
    """A number > 0; inf is one."""
    if isinstance(value, bool | np.bool_ | str) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number > 0, got {describe(value)}")
    with _core.DefaultFloatMode():
        result = as_float(value)
        is_accepted = result > 0
    if not is_accepted:
        raise ValueError(f"{name}: expected a number > 0, got {result}")
    return result


def random_generator(value: object) -> np.random.Generator:
    """A generator from an int seed, a Generator, or None."""
    if isinstance(value, np.random.Generator):
        return value
    if value is None:
        return np.random.default_rng()
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"rng: expected an int >= 0, a numpy Generator or None, got {int(value)}")
        return np.random.default_rng(int(value))
    raise TypeError(f"rng: expected an int >= 0, a numpy Generator or None, got {describe(value)}")


# Arrays --------------------------------------------------------------------------------------------------------------


def _convert(array: Array, dtype: npt.DTypeLike, name: str) -> Array:
    """The one place where arrays are converted: C order, aligned, native, of the dtype; no copy where all fits."""
    try:
        if array.size <= BLOCK or (array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned):
            with np.errstate(all="ignore"), _core.DefaultFloatMode():
                return np.require(array, dtype, ["C", "A"])
        return copied(array, dtype)
    except MemoryError as error:  # broadcast to a shape that has no memory behind it
        raise MemoryError(f"{name}: {describe(array)} does not fit into memory as {np.dtype(dtype)}") from error


def as_it_came(given: Any, converted: Any) -> str:
    """A number of an argument, with a word where it became infinite as it was converted."""
    if np.isfinite(given) and not np.isfinite(converted):
        return f"{given!s}, beyond the range of {converted.dtype}, and became {converted}"
    return str(converted)


def copied(array: Array, dtype: npt.DTypeLike) -> Array:
    """A copy of the dtype in C order, some rows at a time: between them signal handlers run."""
    result = np.empty(array.shape, dtype)
    n_rows = max(1, BLOCK * len(array) // max(1, array.size))
    for start in range(0, len(array), n_rows):
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            result[start : start + n_rows] = array[start : start + n_rows]
    return result


def _by_tiles(array: Array, dtype: npt.DTypeLike, name: str) -> Array:
    """The same for x and y; but what is large stays as it is where the compiled calls can convert it tile by tile.

    They know the dtypes that lie in 8 bytes at most. An array that is broadcast looks larger than it is.
    """
    item = array.dtype.itemsize
    is_broadcast = any(n > 1 and abs(step) < item for n, step in zip(array.shape, array.strides, strict=True))
    if array.size * np.dtype(dtype).itemsize < BY_TILE_BYTES or item > 8 or is_broadcast:
        return _convert(array, dtype, name)
    return array


def at_once(array: Array, dtype: npt.DTypeLike, name: str) -> Array:
    """Accepted x or y, all of it converted; labels become intp."""
    return _convert(array, np.intp if array.ndim == 1 else dtype, name)


def samples(
    value: object, n_in: int, dtype: np.dtype, name: str = "x", *, n_params: int = -1, of_mean: bool = False
) -> Array:
    """x: (n_samples, n_0), of another dtype or layout where it is large; of a mean at least one sample.

    By n_params a theta is known that SciPy gives for x.
    """
    array = as_array(value, name)
    if of_mean and array.shape[:1] == (0,):
        raise ValueError(
            f"{name}: expected at least one sample, got 0: the mean of no samples is not defined; skip empty batches"
        )
    if array.ndim != 2:
        hint = ""
        if array.shape == (n_params,):
            hint = f", the shape of params; {_FOR_SCIPY}"
        elif array.shape == (0,):
            hint = f"; a batch of no samples is np.empty((0, {n_in}))"
        elif array.ndim == 1:
            hint = "; one sample is x[None]"
        raise ValueError(f"{name}: expected shape (n_samples, {n_in}), got {array.shape}{hint}")
    if array.shape[1] != n_in:
        raise ValueError(f"{name}: expected {n_in} columns, the size of layer 0, got {array.shape[1]}")
    return _by_tiles(array, dtype, name)


def refuse_excess(call: str, x: object, excess: Sequence[object], n_params: int) -> NoReturn:
    """Raise that more came by position than x and y: mostly from SciPy, which puts theta before its args."""
    hint = "give all others by name"
    if isinstance(x, np.ndarray) and x.shape == (n_params,):
        hint = f"the first has the shape of params; {_FOR_SCIPY}"
    raise TypeError(f"{call}: expected x and y by position, got {2 + len(excess)} arguments; {hint}")


def params(value: object, n_params: int, dtype: np.dtype, name: str = "params") -> Array:
    """A flat vector of parameters."""
    array = as_array(value, name)
    if array.shape != (n_params,):
        raise ValueError(f"{name}: expected shape ({n_params},), got {array.shape}")
    return _convert(array, dtype, name)


def rows(value: object, n_samples: int, shape: tuple[int, ...], dtype: np.dtype, name: str) -> Array:
    """An array with a row of the given shape for each sample."""
    array = as_array(value, name)
    if array.shape != (n_samples, *shape):
        raise ValueError(f"{name}: expected shape {(n_samples, *shape)}, got {array.shape}")
    return _convert(array, dtype, name)


def input_gradients(value: object, n_samples: int, shape: tuple[int, int], dtype: np.dtype) -> Array:
    """grad_x: (n_samples, n_L, n_0), or (n_samples, n_0) where n_L is 1."""
    array = as_array(value, "grad_x")
    if shape[0] == 1 and array.ndim == 2:
        array = array[:, None, :]
    return rows(array, n_samples, shape, dtype, "grad_x")


def gradient_weight(value: object, shape: tuple[int, int]) -> Array:
    """weight: a number, or (n_L, n_0); finite and >= 0."""
    array = as_array(value, "weight")
    if array.shape not in ((), shape):
        raise ValueError(f"weight: expected a number or shape {shape}, got shape {array.shape}")
    weight = _convert(np.broadcast_to(array, shape), np.float64, "weight")
    with _core.DefaultFloatMode():
        is_accepted = bool((np.isfinite(weight) & (weight >= 0)).all())
    if not is_accepted:
        raise ValueError("weight: expected finite numbers >= 0, got others among them")
    return weight


def _labels(array: Array, n_samples: int, n_out: int, weight: Array | None) -> Array:
    """Integer labels 0..n_out-1, of any integer dtype; or booleans, which are labels of two classes."""
    if array.dtype.kind == "b" and n_out != 2:
        raise TypeError(f"y: expected integer labels, got booleans, which are labels of 2 classes, not of {n_out}")
    if array.shape != (n_samples,):
        raise ValueError(f"y: expected {n_samples} labels, one for each row of x, got shape {array.shape}")
    labels = (_convert if array.dtype.kind == "b" else _by_tiles)(array, np.intp, "y")
    for start, part, part_weight in _blocks(labels, np.intp, weight):  # uint64 beyond intp wraps below 0: refused
        row = _core.first_bad_label(part, n_out, part_weight)
        if row >= 0:
            raise ValueError(f"y: expected labels from 0 to {n_out - 1}, got {array[start + row]} in row {start + row}")
    return labels


def _blocks(array: Array, dtype: npt.DTypeLike, weight: Array | None) -> Iterator[tuple[int, Array, Array | None]]:
    """The first row, the converted rows and the weights of each block: one block where nothing is to be converted."""
    is_converted = array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned
    n_rows = max(1, array.shape[0]) if is_converted else _BLOCK_ROWS
    for start in range(0, array.shape[0], n_rows):
        rows = slice(start, start + n_rows)
        yield start, _convert(array[rows], dtype, "y"), None if weight is None else weight[rows]


def targets(value: object, loss: Loss, n_samples: int, n_out: int, dtype: np.dtype, weights: Weights | None) -> Array:
    """y: (n_samples, n_out) of the network's dtype, or labels (n_samples,) as intp; within the loss's domain.

    Of another dtype or layout where it is large.
    """
    array = as_array(value, "y")
    weight = None if weights is None else weights.array
    if loss.name == "cross_entropy":
        if n_samples == 0 and array.shape == (0,):
            array = array.astype(np.intp)  # an empty list has no dtype
        if array.dtype.kind in "iub" and array.ndim != 2:
            return _labels(array, n_samples, n_out, weight)
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
    if n_out == 1 and loss.name != "cross_entropy":
        shapes.append((n_samples,))
    if array.shape not in shapes:
        if array.ndim and array.shape[0] != n_samples:
            raise ValueError(f"y: expected {n_samples} rows, as x has, got {array.shape[0]} (shape {array.shape})")
        raise ValueError(f"y: expected shape {' or '.join(map(str, shapes))}, got {array.shape}")
    given = array.reshape(n_samples, n_out)
    # The compiled calls take integers for labels: one-hot rows of them are converted here.
    is_one_hot = loss.name == "cross_entropy" and array.dtype.kind != "f"
    y = (_convert if is_one_hot else _by_tiles)(given, dtype, "y")
    if loss.domain != "real numbers":
        for start, part, part_weight in _blocks(y, dtype, weight):
            _refuse_foreign_targets(loss, start, part, part_weight, given[start : start + len(part)])
    return y


def _refuse_foreign_targets(loss: Loss, start: int, y: Array, weight: Array | None, given: Array) -> None:
    """Refuse targets outside the loss's domain; these are the ones from row `start` on, given as they came."""
    bad = _core.first_bad_target(loss.code, y, weight)
    if bad is not None:
        row, j = bad
        number = as_it_came(given[row, j], y[row, j])
        what = "probabilities >= 0" if loss.name == "cross_entropy" else loss.domain
        place = f"row {start + row}, output {j}"
        raise ValueError(f"y: expected {what} for the loss {loss.name!r}, got {number} in {place}")
    if loss.name == "cross_entropy":
        tolerance = PROBABILITY_TOLERANCE[y.dtype.name]
        row = _core.first_bad_sum(y, tolerance, weight)
        if row >= 0:
            total = y[row].sum(dtype=float)
            raise ValueError(f"y: expected rows that sum to 1 within {tolerance}, got {total} in row {start + row}")


def refuse_targets(loss: Loss, n_out: int, dtype: np.dtype[Any], y: Array, weight: Array | None) -> None:
    """Raise what is wrong with targets and weights that came from C, where that is known to be something."""
    weights = sample_weight(weight, loss, y.shape[0], n_out)
    targets(y, loss, y.shape[0], n_out, dtype, weights)


def sample_weight(value: object, loss: Loss, n_samples: int, n_out: int) -> Weights | None:
    """Weights by sample, or by sample and output where the loss is a mean over outputs."""
    if value is None:
        return None
    array = as_array(value, "sample_weight")
    shapes = [(n_samples,)] if loss.name == "cross_entropy" else [(n_samples,), (n_samples, n_out)]
    if array.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"sample_weight: expected shape {expected} with the loss {loss.name!r}, got {array.shape}")
    weight = _convert(array, np.float64, "sample_weight")
    n_per_row = n_out if weight.ndim == 2 else 1
    bad, scale, total, n_kept = _core.inspect_weights(weight.reshape(-1), n_per_row)
    if bad >= 0:
        row = bad // n_per_row
        number = as_it_came(array.flat[bad], weight.flat[bad])
        raise ValueError(f"sample_weight: expected finite weights >= 0, got {number} in row {row}")
    if n_kept == 0 and n_samples > 0:
        raise ValueError("sample_weight: expected at least one weight > 0, got none: all weights are 0")
    return Weights(weight, scale, total, n_kept)


def out(value: object, shape: tuple[int, ...], dtype: np.dtype, others: dict[str, Sequence[object]]) -> Array:
    """The caller's array for the result, which is never converted.

    It must not overlap the others: by name, what the caller gave and what it was converted to (of a buffer that is no
    array only the latter shows the memory).
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"out: expected a numpy array, got {describe(value)}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("out: expected a plain array, got a masked one, whose mask would hide results")
    array = np.asarray(value)  # a subclass may say of itself what it likes: this is the memory that is written
    if array.dtype != dtype or not array.dtype.isnative:
        raise ValueError(
            f"out: expected dtype {dtype}, got {array.dtype.newbyteorder('=').name}"
            f"{'' if array.dtype.isnative else ' in foreign byte order'}"
        )
    if array.shape != shape:
        raise ValueError(f"out: expected shape {shape}, got {array.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"out: expected a contiguous array, got strides {array.strides}")
    if not array.flags.aligned:
        raise ValueError("out: expected an aligned array, got one at an odd address")
    if not array.flags.writeable:
        raise ValueError("out: expected a writeable array, got a read-only one")
    for name, arrays in others.items():
        for other in arrays:
            if isinstance(other, np.ndarray) and np.may_share_memory(array, other) and np.shares_memory(array, other):
                raise ValueError(f"out: expected memory of its own, got an array that overlaps {name}")
    return value


def inputs(
    x: object,
    x_: Array,
    y: object,
    y_: Array | None,
    params: object,
    theta: Array,
    weight: object,
    weights: Weights | None,
) -> dict[str, Sequence[object]]:
    """What a call's `out` must not overlap, by name: each argument as it came, and as it was accepted."""
    return {
        "the params given": (params, theta),
        "x": (x, x_),
        "y": (y, y_),
        "sample_weight": (weight, None if weights is None else weights.array),
    }


def matrix(value: object, name: str, dtype: np.dtype | None = None) -> Array:
    """A 2-D array of floats that keeps its dtype: float32 or float64 (integers become float64)."""
    array = as_array(value, name)
    if array.ndim != 2:
        raise ValueError(f"{name}: expected a 2-D array, got shape {array.shape}")
    native = array.dtype.newbyteorder("=")
    wanted = dtype or (native if native in (np.dtype("float32"), np.dtype("float64")) else np.dtype("float64"))
    if native != wanted and dtype is not None and native.kind == "f":
        raise ValueError(f"{name}: expected dtype {wanted}, got {native}")
    if array.size > BLOCK and not (array.dtype == wanted and array.flags.aligned):
        return copied(array, wanted)
    with np.errstate(all="ignore"), _core.DefaultFloatMode():
        return np.require(array, wanted, ["A"])


def free_mask(value: object, n_params: int) -> npt.NDArray[np.bool_] | None:
    """The mask of free parameters."""
    if value is None:
        return None
    array = as_array(value, "free")
    if array.dtype != np.bool_:
        raise TypeError(f"free: expected a boolean mask, got dtype {array.dtype}")
    if array.shape != (n_params,):
        raise ValueError(f"free: expected shape ({n_params},), got {array.shape}")
    if not array.any():
        raise ValueError("free: expected at least one free parameter, got none")
    return array.copy()


def their_memory(x: Array, y: Array | None = None, weight: Array | None = None, params: Array | None = None) -> None:
    """Refuse kept views of a user's arrays whose memory is gone: ``resize(refcheck=False)`` may have freed it."""
    for name, array in (("x", x), ("y", y), ("sample_weight", weight), ("params", params)):
        if array is not None and not _core.is_in_its_owner(array):
            raise ValueError(
                f"{name}: expected an array that keeps its size, got one that was resized since it was given"
            )


def same_shape(names: Sequence[str], arrays: Sequence[Array]) -> None:
    """Refuse arrays of different shapes."""
    if arrays[0].shape != arrays[1].shape:
        raise ValueError(f"{names[1]}: expected shape {arrays[0].shape}, as {names[0]} has, got {arrays[1].shape}")
