"""The one place where arrays are converted: to a dtype, native byte order, C order and alignment, without a warning.

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
    """The array in C order, aligned, in native byte order, of the dtype; no copy if it fits."""
    try:
        if array.size <= BLOCK or (array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned):
            with np.errstate(all="ignore"), _core.DefaultFloatMode():
                return np.require(array, dtype, ["C", "A"])
        return copied(array, dtype)
    except MemoryError as error:  # a broadcast array may be larger than memory
        raise MemoryError(f"{name}: {describe(array)} does not fit into memory as {np.dtype(dtype)}") from error


def as_it_came(given: Any, converted: Any) -> str:
    """A number of an argument for an error, which says so if the conversion made it infinite."""
    if np.isfinite(given) and not np.isfinite(converted):
        return f"{given!s}, beyond the range of {converted.dtype}, and became {converted}"
    return str(converted)


def copied(array: Array, dtype: npt.DTypeLike) -> Array:
    """A copy of the dtype in C order, some rows at a time, so that signal handlers can run in between."""
    result = np.empty(array.shape, dtype)
    n_rows = max(1, BLOCK * len(array) // max(1, array.size))
    for start in range(0, len(array), n_rows):
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            result[start : start + n_rows] = array[start : start + n_rows]
    return result


def by_tiles(array: Array, dtype: npt.DTypeLike, name: str) -> Array:
    """The same for x and y; but a large array stays as it is if the compiled calls can convert it tile by tile.

    They can convert dtypes of at most 8 bytes. A broadcast array is converted here: it looks larger than it is.
    """
    item = array.dtype.itemsize
    is_broadcast = any(n > 1 and abs(step) < item for n, step in zip(array.shape, array.strides, strict=True))
    if array.size * np.dtype(dtype).itemsize < BY_TILE_BYTES or item > 8 or is_broadcast:
        return converted(array, dtype, name)
    return array


def at_once(array: Array, dtype: npt.DTypeLike, name: str) -> Array:
    """The whole of an accepted x or y, converted; labels become intp."""
    return converted(array, np.intp if array.ndim == 1 else dtype, name)
