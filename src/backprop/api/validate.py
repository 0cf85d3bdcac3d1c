"""Arrays of a user, except targets and weights: each is accepted and converted for the compiled calls, or refused.

Lists, frames and other objects become arrays in `array_likes.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api.array_likes import as_array, describe
from backprop.api.conversion import BLOCK, by_tiles, converted, copied
from backprop.api.targets import Weights

Array = npt.NDArray[Any]

_FOR_SCIPY = (
    "for scipy.optimize.minimize make a function of params by net.objective(x, y), for least_squares by "
    "net.residuals(x, y)"
)


def samples(
    value: object, n_in: int, dtype: np.dtype, name: str = "x", *, n_params: int = -1, of_mean: bool = False
) -> Array:
    """x: (n_samples, n_0). A large x may keep another dtype or layout. A mean needs at least one sample.

    n_params serves to recognise a theta that SciPy gives in place of x.
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
            hint = "; samples of one input are x[:, None]" if n_in == 1 else "; one sample is x[None]"
        raise ValueError(f"{name}: expected shape (n_samples, {n_in}), got {array.shape}{hint}")
    if array.shape[1] != n_in:
        raise ValueError(f"{name}: expected {n_in} columns, the size of layer 0, got {array.shape[1]}")
    return by_tiles(array, dtype, name)


def refuse_excess(call: str, x: object, excess: Sequence[object], n_params: int) -> NoReturn:
    """Raise the error for more arguments by position than x and y. Mostly SciPy gives them: theta, then its args."""
    hint = "give all others by name"
    if isinstance(x, np.ndarray) and x.shape == (n_params,):
        hint = f"the first has the shape of params; {_FOR_SCIPY}"
    raise TypeError(f"{call}: expected x and y by position, got {2 + len(excess)} arguments; {hint}")


def params(value: object, n_params: int, dtype: np.dtype, name: str = "params") -> Array:
    """A flat vector of parameters. One that needs nothing is found in a tenth of the time, for calls of objectives."""
    if type(value) is np.ndarray:
        view: Array = value.view()  # which keeps its shape if the caller gives another one to the array
        if view.shape == (n_params,) and view.dtype == dtype and view.flags.carray:
            return view
    array = as_array(value, name)
    if array.shape != (n_params,):
        raise ValueError(f"{name}: expected shape ({n_params},), got {array.shape}")
    return converted(array, dtype, name)


def rows(value: object, n_samples: int, shape: tuple[int, ...], dtype: np.dtype, name: str) -> Array:
    """An array with one row of that shape per sample."""
    array = as_array(value, name)
    if array.shape != (n_samples, *shape):
        raise ValueError(f"{name}: expected shape {(n_samples, *shape)}, got {array.shape}")
    return converted(array, dtype, name)


def directions(value: object, n_samples: int, n_in: int, dtype: np.dtype) -> Array:
    """Directions of x: (k, n_0) for all samples, or (n_samples, k, n_0), one of each k at least."""
    array = as_array(value, "directions")
    shape = array.shape
    if shape[-1:] != (n_in,) or len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != n_samples):
        hint = "; one direction is directions[None]" if shape == (n_in,) else ""
        raise ValueError(
            f"directions: expected shape (k, {n_in}), or ({n_samples}, k, {n_in}) with some for each sample, "
            f"got {shape}{hint}"
        )
    if shape[-2] == 0:
        raise ValueError(
            f"directions: expected at least one direction, got shape {shape}; directions=None takes the axes"
        )
    return converted(array, dtype, "directions")


def multipliers(value: object, n_samples: int, n_out: int, dtype: np.dtype) -> Array | None:
    """The weights of outputs: (n_L,) for all samples, or (n_samples, n_L); None for a weight of 1, if n_L is 1."""
    if value is None:
        if n_out == 1:
            return None
        raise TypeError(
            f"multipliers: expected shape ({n_out},) or ({n_samples}, {n_out}), one weight per output, got None; "
            f"np.eye({n_out})[o] gives the Hessian of output o, np.ones({n_out}) that of the sum"
        )
    array = as_array(value, "multipliers")
    if array.shape not in ((n_out,), (n_samples, n_out)):
        hint = "; for one output write multipliers[:, None]" if n_out == 1 and array.shape == (n_samples,) else ""
        raise ValueError(f"multipliers: expected shape ({n_out},) or ({n_samples}, {n_out}), got {array.shape}{hint}")
    return converted(array, dtype, "multipliers")


def bounds(lb: object, ub: object, n_out: int) -> tuple[Array, Array]:
    """Bounds of the outputs, (n_L,) in float64, each lower one at most the upper one."""
    both = []
    for value, name, none in ((lb, "lb", "-np.inf"), (ub, "ub", "np.inf")):
        if value is None:
            raise TypeError(f"{name}: expected a number or shape ({n_out},), got None; without a bound, write {none}")
        array = as_array(value, name)
        if array.shape not in ((), (n_out,)):
            raise ValueError(f"{name}: expected a number or shape ({n_out},), got shape {array.shape}")
        both.append(np.broadcast_to(converted(array, np.float64, name), (n_out,)).copy())
        if np.isnan(both[-1]).any():
            raise ValueError(f"{name}: expected numbers, got nan among them; without a bound, write {none}")
    lower, upper = both
    if (lower > upper).any():
        o = int(np.argmax(lower > upper))
        raise ValueError(f"lb: expected bounds lb <= ub, got {lower[o]} and {upper[o]} for output {o}")
    return lower, upper


def input_gradients(value: object, n_samples: int, shape: tuple[int, int], dtype: np.dtype) -> Array:
    """grad_x: (n_samples, n_L, n_0), or (n_samples, n_0) if n_L is 1."""
    array = as_array(value, "grad_x")
    if shape[0] == 1 and array.ndim == 2:
        array = array[:, None, :]
    return rows(array, n_samples, shape, dtype, "grad_x")


def gradient_weight(value: object, shape: tuple[int, int]) -> Array:
    """weight: a number, or (n_L, n_0); finite and >= 0."""
    array = as_array(value, "weight")
    if array.shape not in ((), shape):
        raise ValueError(f"weight: expected a number or shape {shape}, got shape {array.shape}")
    weight = converted(np.broadcast_to(array, shape), np.float64, "weight")
    with _core.DefaultFloatMode():
        is_accepted = bool((np.isfinite(weight) & (weight >= 0)).all())
    if not is_accepted:
        raise ValueError("weight: expected finite numbers >= 0, got others among them")
    return weight


def out(value: object, shape: tuple[int, ...], dtype: np.dtype, others: dict[str, Sequence[object]]) -> Array:
    """The array of the caller for the result. It is never converted.

    It must not overlap the others. These are, by name, each argument before and after its conversion: a buffer that is
    no array shows its memory only after it.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"out: expected a numpy array, got {describe(value)}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("out: expected a plain array, got a masked one, whose mask would hide results")
    array = np.asarray(value)  # attributes of a subclass may be wrong; this is the memory that is written
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
    """What `out` must not overlap, by name: each argument before and after its conversion."""
    return {
        "the params given": (params, theta),
        "x": (x, x_),
        "y": (y, y_),
        "sample_weight": (weight, None if weights is None else weights.array),
    }


def matrix(value: object, name: str, dtype: np.dtype | None = None) -> Array:
    """A 2-D array of floats that keeps its dtype, float32 or float64; others become float64."""
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


def their_memory(
    x: Array,
    y: Array | None = None,
    weight: Array | None = None,
    params: Array | None = None,
    extra: Array | None = None,
    names: str = "x, y",
) -> None:
    """Refuse kept views of arrays whose memory ``resize(refcheck=False)`` may have freed.

    names are those of x, y and extra.
    """
    is_there = _core.is_in_its_owner
    if not is_there(x):
        name = "x"
    elif y is not None and not is_there(y):
        name = names.split(", ")[1]
    elif weight is not None and not is_there(weight):
        name = "sample_weight"
    elif params is not None and not is_there(params):
        name = "params"
    elif extra is not None and not is_there(extra):
        name = names.split(", ")[2]
    else:
        return
    raise ValueError(f"{name}: expected an array that keeps its size, got one that was resized since it was given")


def same_shape(names: Sequence[str], arrays: Sequence[Array]) -> None:
    """Refuse arrays of different shapes."""
    if arrays[0].shape != arrays[1].shape:
        raise ValueError(f"{names[1]}: expected shape {arrays[0].shape}, as {names[0]} has, got {arrays[1].shape}")
