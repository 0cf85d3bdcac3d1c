"""The one place where arrays are converted: to the dtype wanted, native byte order, C order, aligned, with no warning.

An array that fits is used as it is. Large x and y are left to the compiled calls, which convert them tile by tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api.array_likes import describe

Array = npt.NDArray[Any]

BLOCK = 1 << 21  # entries that NumPy copies at a time: some milliseconds
BY_TILE_BYTES = 1 << 17  # from here on x and y are converted by tiles; below, a copy of the whole is faster


def converted(array: Array, dtype: npt.DTypeLike, name: str) -> Array:
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


def by_tiles(array: Array, dtype: npt.DTypeLike, name: str) -> Array:
    """The same for x and y; but what is large stays as it is where the compiled calls can convert it tile by tile.

    They know the dtypes that lie in 8 bytes at most. An array that is broadcast looks larger than it is.
    """
    item = array.dtype.itemsize
    is_broadcast = any(n > 1 and abs(step) < item for n, step in zip(array.shape, array.strides, strict=True))
    if array.size * np.dtype(dtype).itemsize < BY_TILE_BYTES or item > 8 or is_broadcast:
        return converted(array, dtype, name)
    return array


def at_once(array: Array, dtype: npt.DTypeLike, name: str) -> Array:
    """Accepted x or y, all of it converted; labels become intp."""
    return converted(array, np.intp if array.ndim == 1 else dtype, name)
