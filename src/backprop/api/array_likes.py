"""Lists, objects and frames become plain arrays of numbers, or are refused.

NumPy drops masks and turns missing values into NaN without a warning: in lists, behind `__array__`, and in the columns
of frames. So this file looks at objects before NumPy does. Objects of pandas, Polars and pyarrow are recognised by
their interface; none of these libraries is imported here.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from itertools import chain
from types import NoneType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Result = TypeVar("Result")

_MOST_DIMENSIONS = 64  # the most of a NumPy array; NumPy refuses what is nested deeper
_SCALARS = (int, float, complex, str, bytes, NoneType, np.generic)
_LISTS = frozenset([list, tuple])
_NOT_MASKED = frozenset([float, int, np.ndarray, np.float64, np.float32, np.int64])  # the usual content of lists
_PROTOCOLS = ("__array__", "__array_interface__", "__array_struct__")


def describe(value: object) -> str:
    """A value in a few words, for an error."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # the repr of the object fails: show its type only
        text = "without a repr"
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def as_array(value: object, name: str) -> Array:
    """An array of real numbers, with its own dtype. An array is not copied."""
    array = value if type(value) is np.ndarray else _ask(np.asarray, plain(value, name), name)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected {_what_came(value, array, name)}")
    return array.view()  # another thread, or a signal handler, may reshape the array of the caller


def _ask(function: Callable[[Any], Result], value: object, name: str) -> Result:
    """Apply a function to an object; an error in the object's own code becomes one that names the argument.

    Such code may raise anything: a PyTorch tensor that requires a gradient raises RuntimeError.
    """
    try:
        return function(value)
    except MemoryError as error:
        raise MemoryError(f"{name}: an array made of {describe(value)} does not fit into memory") from error
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError | OverflowError) else TypeError
        raise kind(f"{name}: expected an array of numbers, got {describe(value)}: {error}") from error


# Objects and lists ---------------------------------------------------------------------------------------------------


def plain(value: object, name: str, depth: int = 0) -> object:
    """An array, a scalar or a list of these, which NumPy converts without losing a mask or a missing value."""
    kind = type(value)
    if kind in (list, tuple) and _holds_nothing_masked(value):
        return value
    if isinstance(value, np.ma.MaskedArray):  # a proxy of one counts too
        hint = "; give missing entries sample_weight 0" if name in ("x", "y") else ""
        raise TypeError(f"{name}: expected a plain array, got a masked one{' in a list' if depth else ''}{hint}")
    if issubclass(kind, (np.ndarray, *_SCALARS)) or depth > _MOST_DIMENSIONS:
        return value
    if isinstance(value, list | tuple):
        return [plain(item, name, depth + 1) for item in value]
    if hasattr(kind, "toarray"):
        raise TypeError(f"{name}: expected a dense array, got {kind.__name__}; {name}.toarray() makes one of it")
    if _is_frame(kind):
        return _from_frame(value, name)
    if _is_column(kind):
        return _numbers_of(_ask(_read_column, value, name), None, name)
    if _is_sequence(value):
        return plain(_ask(list, value, name), name, depth)
    array = _ask(np.asanyarray, value, name)
    return value if array.dtype == object and not array.ndim else plain(array, name, depth)


def _holds_nothing_masked(value: Any) -> bool:
    """Whether nested lists hold only scalars and plain arrays: the types are compared in C, level by level."""
    level = value
    for _ in range(_MOST_DIMENSIONS):
        kinds = set(map(type, level))
        if not kinds <= _LISTS:
            return kinds <= _NOT_MASKED or all(kind in _NOT_MASKED or issubclass(kind, _SCALARS) for kind in kinds)
        level = list(chain.from_iterable(level))
        if not level:
            return True
    return False


def _is_sequence(value: Any) -> bool:
    """Whether NumPy would read it item by item: a deque, a range, or a sequence class of the user."""
    kind = type(value)
    if not (hasattr(kind, "__len__") and hasattr(kind, "__getitem__")) or issubclass(kind, dict):
        return False
    if any(hasattr(kind, protocol) for protocol in _PROTOCOLS):
        return False
    try:
        len(value)
    except Exception:
        return False
    try:
        memoryview(value).release()
    except Exception:
        return True
    return False  # it exports a buffer, which has no mask


def _what_came(value: object, array: Array, name: str) -> str:
    """The end of an error for what is not real numbers: what was expected, what came, and the cure if there is one."""
    unique = f"; names become labels by np.unique({name}, return_inverse=True)[1]" if name == "y" else ""
    if array.dtype.kind in "US":
        return f"real numbers, got dtype {array.dtype}{unique}"
    if array.dtype.kind != "O":
        return f"real numbers, got dtype {array.dtype}"
    if not array.ndim:
        cure = ""
        if hasattr(type(value), "collect"):
            cure = f"; {name}.collect() makes a frame of it"
        elif hasattr(type(value), "__iter__") and not isinstance(value, dict | set | frozenset):
            cure = f"; list({name}) holds its items"
        return f"an array of numbers, got {describe(value)}{cure}"
    for index, item in np.ndenumerate(array):
        if not isinstance(item, numbers.Real):
            place = ", ".join(map(str, index))
            return f"real numbers, got dtype object, with {describe(item)} at [{place}]{unique * isinstance(item, str)}"
    kind = "int" if all(isinstance(item, numbers.Integral) for item in array.flat) else "float"
    return f"real numbers, got dtype object; np.asarray({name}, {kind}) makes {kind}s of it"


def is_one_array(value: object) -> bool:
    """Whether it is an array, a frame or a column, and not a list or another collection."""
    kind = type(value)
    return any(hasattr(kind, protocol) for protocol in (*_PROTOCOLS, "toarray")) or _is_frame(kind) or _is_column(kind)


# Frames and their columns --------------------------------------------------------------------------------------------


class _Column(NamedTuple):
    """A column of a frame, or a series."""

    label: object
    dtype: object  # in the words of its library
    array: Array
    is_numeric: bool
    missing: int  # the first row without a value, or -1; NaN in NumPy's floats is a value


def _is_frame(kind: type) -> bool:
    """Whether it is a table of columns: of pandas, Polars, pyarrow, or with the same interface."""
    return (
        (hasattr(kind, "iloc") and hasattr(kind, "dtypes") and hasattr(kind, "items") and not _is_column(kind))
        or hasattr(kind, "iter_columns")
        or (hasattr(kind, "itercolumns") and hasattr(kind, "column_names"))
    )


def _is_column(kind: type) -> bool:
    """Whether it is a series, an index or an array of such a library."""
    return (hasattr(kind, "isna") and hasattr(kind, "dtype")) or (
        hasattr(kind, "is_null") and hasattr(kind, "null_count")
    )


def _columns_of(frame: Any) -> list[tuple[object, Any]] | None:
    """The labels and columns of a frame; None if NumPy converts the whole frame correctly, which is faster."""
    if hasattr(type(frame), "iter_columns"):
        return [(column.name, column) for column in frame.iter_columns()]
    if hasattr(type(frame), "itercolumns"):
        return list(zip(frame.column_names, frame.itercolumns(), strict=True))
    kinds = {dtype.kind if isinstance(dtype, np.dtype) else "O" for dtype in frame.dtypes}
    return None if kinds <= set("iuf") or kinds == {"b"} else list(frame.items())


def _from_frame(frame: Any, name: str) -> Array:
    """A frame of numbers and booleans as one array, with a dtype that holds all columns."""
    columns = _ask(_columns_of, frame, name)
    if not columns:
        return _ask(np.asarray, frame, name)
    arrays = [_numbers_of(_ask(_read_column, column, name), label, name) for label, column in columns]
    array = np.empty((len(arrays[0]), len(arrays)), np.result_type(*arrays))
    for j, numbers_of_column in enumerate(arrays):
        array[:, j] = numbers_of_column
    return array


def _read_column(column: Any) -> _Column:
    """Read the numbers of a column, and which are missing."""
    label = getattr(column, "name", None)
    if hasattr(type(column), "isna"):  # pandas
        dtype = column.dtype
        if isinstance(dtype, np.dtype):
            return _Column(label, dtype, np.asarray(column), dtype.kind in "biuf", -1)
        missing = np.asarray(column.isna())
        if missing.any() or not hasattr(dtype, "numpy_dtype"):
            array = np.asarray(column)
        else:
            array = column.to_numpy(dtype.numpy_dtype)
        is_numeric = getattr(dtype, "kind", "O") in "biuf" or array.dtype.kind in "biuf"
    else:  # Polars: a dtype, a method; pyarrow: a type, a number
        dtype = column.dtype if hasattr(column, "dtype") else column.type
        n_missing = column.null_count() if callable(column.null_count) else column.null_count
        array = np.asarray(column)
        missing = np.asarray(column.is_null()) if n_missing else np.zeros(1, bool)
        is_numeric = array.dtype.kind in "biuf" or str(dtype).lower() in ("bool", "boolean")
    return _Column(label, dtype, array, is_numeric, int(missing.argmax()) if missing.any() else -1)


def _numbers_of(column: _Column, label: object, name: str) -> Array:
    """The numbers of a column, or an error that names it. label is the one in the frame, None for a series."""
    label = column.label if label is None else label
    what = "a column" if label is None or label == "" else f"the column {label!r}"
    if not column.is_numeric or column.array.ndim != 1:
        cure = "leave it out, or encode it as numbers"
        if name == "y":
            cure = f"names become labels by np.unique({name}, return_inverse=True)[1]"
        elif column.dtype == object:
            cure = f"if it holds numbers, {name}.to_numpy(float) makes an array of them"
        raise TypeError(f"{name}: expected columns of numbers, got {what} of dtype {column.dtype}; {cure}")
    if column.missing >= 0:
        cure = "fill it, or leave its row out"
        if name == "y":
            cure += ", or put NaN there and give it sample_weight 0"
        raise ValueError(
            f"{name}: expected no missing values, got one in row {column.missing} of {what} of dtype {column.dtype}; "
            f"{cure}"
        )
    return column.array
