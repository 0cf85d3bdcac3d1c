"""The state of sums over samples: integer bins, which add up to the same state in every order.

A sum is an int8 top and three int64 limbs (kernels/bins.h). Bin j counts multiples of 2^(32 j), and limb k belongs to
bin top - 2 + k. To add two states, move the window of the smaller top up, which drops its low limbs, and add the limbs
as integers. The order cannot matter: the final top is the largest of all tops, and a bin of the final window has lost
nothing on the way.

The addends are the sums of *units*: consecutive rows, cut by the layers and the number of rows alone. A data set that
is no longer than one unit needs no bins. Its state holds the results themselves, bit for bit: limb 0 is the bit
pattern of the number, and top stays `_core.NO_TOP`. Then all but one of the states to be added are 0, so that the same
addition, or an MPI sum of int64, gives the results back.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api.targets import Weights

Array = npt.NDArray[Any]

N_LIMBS = 3
LARGEST_TOP = 31  # the bin of the largest float64
SMALLEST_TOP = -32  # the bin of the smallest normal one, also for subnormal numbers and 0
NOT_FINITE = 100  # top of a sum that is not finite: its limbs count +inf, -inf and NaN

# Calls whose results are sums over samples. The others give rows, which need no sum.
SUMS = (
    "loss",
    "value_and_grad",
    "vjp",
    "clipped_gradient",
    "hvp",
    "gauss_newton_vp",
    "hessian",
    "normal_equations",
    "sobolev_value_and_grad",
)


class State(NamedTuple):
    """The state of n sums; the last one is the loss."""

    top: Array  # int8, (n,)
    limbs: Array  # int64, (3, n)

    @classmethod
    def zero(cls, n: int) -> Self:
        """The state of n sums to which nothing was added."""
        return cls(np.full(n, _core.NO_TOP, np.int8), np.zeros((N_LIMBS, n), np.int64))

    @classmethod
    def of_one(cls, top: int, *limbs: int) -> Self:
        """The state of one sum."""
        return cls(np.array([top], np.int8), np.array(limbs, np.int64)[:, None])

    @property
    def one(self) -> tuple[int, int, int, int]:
        """The top and the three limbs of the first sum, as `of_one` takes them."""
        low, middle, high = self.limbs[:, 0].tolist()
        return int(self.top[0]), low, middle, high

    def add(self, other: State) -> None:
        """Add the sums of another state, in place."""
        _core.merge_bins(self.top, self.limbs, other.top, other.limbs)

    def clear(self, which: Array) -> None:
        """Let some of the sums, by a mask without the loss, be sums of nothing."""
        self.top[:-1][which] = _core.NO_TOP
        self.limbs[:, :-1][:, which] = 0

    def copy(self) -> State:
        """The same in memory of its own."""
        return State(self.top.copy(), self.limbs.copy())


def shape_of_sums(plan: _core.Plan, call: _core.Call) -> tuple[int, ...]:
    """The shape of the sums of a call; (0,) for the loss alone."""
    return (0,) if call.name == "loss" else plan.result_shape(call, 0)


def n_sums(plan: _core.Plan, call: _core.Call) -> int:
    """The number of sums of a call, and the loss."""
    return math.prod(shape_of_sums(plan, call)) + 1


def unit_rows(plan: _core.Plan, call: _core.Call, n_kept: int) -> int:
    """Kept rows of a unit of a data set with n_kept kept rows in all; at least n_kept if that is one unit."""
    return plan.unit_rows(call, n_kept)


def is_one_unit(plan: _core.Plan, call: _core.Call, n_kept: int) -> bool:
    """Whether a data set with so many kept rows is one unit."""
    return unit_rows(plan, call, n_kept) >= n_kept


def state_of_rows(
    plan: _core.Plan,
    call: _core.Call,
    params: Array,
    x: Array,
    y: Array | None,
    weights: Weights | None,
    n_threads: int,
    n_kept_in_all: int,
    **more: Any,
) -> State:
    """The state of the sums over some rows of a data set.

    The arguments are accepted arrays, as `Plan.run` takes them, and more what it takes by name. The rows are whole
    units of the data set, which has n_kept_in_all kept rows; their weights have the scale and the total of the whole
    data set, and may all be 0.
    """
    state = State.zero(n_sums(plan, call))
    n_kept = x.shape[0] if weights is None else weights.n_kept
    if n_kept == 0:
        return state
    if not is_one_unit(plan, call, n_kept_in_all):
        plan.partial(
            call,
            params,
            x,
            y,
            weights,
            n_threads,
            state.top,
            state.limbs,
            n_kept_in_all,
            **more,
        )
        return state
    shape = shape_of_sums(plan, call)
    out = None if call.name == "loss" else np.zeros(shape, params.dtype)  # the call may leave half of a matrix
    loss = plan.run(call, params, x, y, out, weights, n_threads, **more)
    if out is not None:
        state.limbs[0, :-1] = out.ravel().view(_pattern(out.dtype))
    state.limbs[0, -1:] = np.array([loss]).view(np.int64)
    return state


def finish(
    plan: _core.Plan,
    call: _core.Call,
    state: State,
    n_kept_in_all: int,
    total: float | None,
    by_entry: bool,
    dtype: np.dtype[Any],
) -> tuple[float, Array]:
    """The loss, if the call has one, and the sums, as the plain call gives them for the whole data set.

    total is the scaled sum of all weights, None without weights; by_entry says whether they have one entry per output.
    """
    shape = shape_of_sums(plan, call)
    if is_one_unit(plan, call, n_kept_in_all):
        pattern = np.ascontiguousarray(state.limbs[0])
        sums = pattern[:-1].astype(_pattern(dtype)).view(dtype).reshape(shape)
        return float(pattern[-1:].view(np.float64)[0]), sums
    out = np.empty(shape, dtype)
    loss = plan.finish(
        call, state.top, state.limbs, n_kept_in_all, total, by_entry, None if call.name == "loss" else out
    )
    return loss, out


def _pattern(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The integers that hold the bit patterns of a dtype of floats."""
    return np.dtype(np.int32 if dtype.itemsize == 4 else np.int64)
