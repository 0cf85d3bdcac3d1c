"""What all calls of `Network` share: from the arguments of a user to one row of the compiled table of calls, and back.

Arguments that need neither conversion nor an error go straight to `Plan.quick`. If an argument needs more, it returns
None and has written nothing. Then `validate.py` and `targets.py` convert the arguments or refuse them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api import attributes, conversion, targets, validate
from backprop.api.architecture import Architecture
from backprop.api.warn_once import warn_once
from backprop.custom import Activation as Custom

Array = npt.NDArray[Any]

_BLOCK_ROWS = 4096  # rows copied at a time when rows of weight 0 are left out


class Calls(attributes.Closed):
    """The part of `Network` that accepts arguments and runs calls, with the attributes of a network."""

    __slots__ = ("_architecture", "_handle", "_memory", "_plan")

    _architecture: Architecture
    _plan: _core.Plan
    _memory: _core.Parameters
    _handle: _core.Handle

    @property
    def n_params(self) -> int:
        """The length of params: sum_i n_i (n_{i-1} + 1)."""
        return self._plan.n_params

    def _call(
        self,
        call: _core.Call,
        x: npt.ArrayLike,
        y: npt.ArrayLike | None,
        params: npt.ArrayLike | None,
        sample_weight: npt.ArrayLike | None,
        out: Array | None,
        n_threads: int | None,
        v: npt.ArrayLike | None = None,
    ) -> Array:
        """Run a call whose result is one array, and which takes at most a direction besides samples and targets."""
        result: Array | None = self._plan.quick(
            call, self._memory, params, x, y, sample_weight, out, n_threads, threads.get_num_threads, v
        )
        if result is None:
            return self._checked(call, x, y, params, sample_weight, out, n_threads, v)
        return result

    def _checked(
        self,
        call: _core.Call,
        x: npt.ArrayLike,
        y: npt.ArrayLike | None,
        params: npt.ArrayLike | None,
        sample_weight: npt.ArrayLike | None,
        out: Array | None,
        n_threads: int | None,
        v: npt.ArrayLike | None = None,
        max_norm: float = 0.0,
        free: Array | None = None,
    ) -> Array:
        """The same for arguments of all kinds."""
        if call.needs_second:
            self._need_second(call.name)
        if call.needs_third:
            self._need_third(call.name)
        if call.needs_squared_error:
            self._need_squared_error(call.name)
        n_threads, dtype = threads.resolve(n_threads), self._architecture.dtype
        y_, weights = None, None
        if call.takes_y:
            y_, x_, theta, weights = self._inputs(x, y, params, sample_weight, of_mean=call.is_mean)
        else:
            x_, theta = self._samples(x), self._theta(params)
        direction = validate.params(v, self.n_params, dtype, "v") if call.takes_v else None
        others = validate.inputs(x, x_, y, y_, params, theta, sample_weight, weights)
        shape = self._plan.result_shape(call, x_.shape[0])
        result = self._result(out, shape, {**others, "v": (v, direction)})
        if call.is_by_sample and y_ is not None and weights is not None and weights.n_kept < x_.shape[0]:
            rows = result[...]  # another thread may reshape out
            self._rows_with_weight(call, theta, x_, y_, rows, weights, n_threads, free)
        else:
            self._plan.run(
                call, theta, x_, y_, result, weights, n_threads, operand=direction, max_norm=max_norm, free=free
            )
        return result

    def _rows_with_weight(
        self,
        call: _core.Call,
        theta: Array,
        x: Array,
        y: Array,
        result: Array,
        weights: targets.Weights,
        n_threads: int,
        free: Array | None,
    ) -> None:
        """Run a call by sample on the rows with a weight; the other rows of the result are 0, whatever x holds."""
        loss, n_out, dtype = self._architecture.loss, self._architecture.sizes[-1], self._architecture.dtype
        width = max(x[0].size, y[0].size, result[0].size)
        n_rows = min(_BLOCK_ROWS, max(1, conversion.BLOCK // width))
        for start in range(0, x.shape[0], n_rows):
            block = slice(start, start + n_rows)
            result[block] = 0
            some = weights.array[block]
            with _core.DefaultFloatMode():  # in other modes NumPy may take a subnormal weight for 0
                kept = some.reshape(some.shape[0], -1).any(axis=1)
            if not kept.any():
                continue
            kept_weights = targets.sample_weight(some[kept], loss, int(kept.sum()), n_out)
            inner = np.empty((int(kept.sum()), *result.shape[1:]), dtype)
            self._plan.run(call, theta, x[block][kept], y[block][kept], inner, kept_weights, n_threads, free=free)
            result[block][kept] = inner

    # Arguments -------------------------------------------------------------------------------------------------------

    def _samples(self, x: npt.ArrayLike, *, of_mean: bool = False) -> Array:
        n_in, dtype = self._architecture.sizes[0], self._architecture.dtype
        return validate.samples(x, n_in, dtype, n_params=self.n_params, of_mean=of_mean)

    def _theta(self, params: npt.ArrayLike | None) -> Array:
        """The parameters that were given, or a fresh view of those of the network."""
        if params is None:
            return self._plan.vector(self._memory)
        return validate.params(params, self.n_params, self._architecture.dtype)

    def _inputs(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike | None,
        params: npt.ArrayLike | None,
        sample_weight: npt.ArrayLike | None,
        *,
        of_mean: bool = True,
        whole: bool = False,
    ) -> tuple[Array, Array, Array, targets.Weights | None]:
        """The arguments of all calls with a loss, accepted and converted: y, x, params, weights.

        Large x and y are converted by the compiled call, tile by tile, unless the whole is needed.
        """
        x_ = self._samples(x, of_mean=of_mean)
        loss, n_out, dtype = self._architecture.loss, self._architecture.sizes[-1], self._architecture.dtype
        n_samples, theta = x_.shape[0], self._theta(params)
        weights = targets.sample_weight(sample_weight, loss, n_samples, n_out)
        y_ = targets.targets(y, loss, n_samples, n_out, dtype, weights)
        if whole:
            y_, x_ = conversion.at_once(y_, dtype, "y"), conversion.at_once(x_, dtype, "x")
        return y_, x_, theta, weights

    def _result(self, out: Array | None, shape: tuple[int, ...], others: dict[str, Sequence[object]]) -> Array:
        """The array out of the caller, checked, or a new array."""
        if out is None:
            try:
                return np.empty(shape, self._architecture.dtype)
            except (MemoryError, ValueError) as error:
                raise MemoryError(f"the result of shape {shape} does not fit into memory") from error
        return validate.out(out, shape, self._architecture.dtype, {"params": (self._theta(None),), **others})

    def _need_second(self, call: str) -> None:
        """Refuse an activation of the user without g''."""
        for i, (layer, _) in enumerate(self._architecture.layers, start=1):
            if isinstance(layer, Custom) and not layer.has_second:
                raise ValueError(f"{call}: expected a g_second in the activation {layer.name!r} of layer {i}, got none")

    def _need_third(self, call: str) -> None:
        """Refuse an activation of the user without g'''."""
        for i, (layer, _) in enumerate(self._architecture.layers, start=1):
            if isinstance(layer, Custom) and not layer.has_third:
                raise ValueError(f"{call}: expected a g_third in the activation {layer.name!r} of layer {i}, got none")

    def _need_squared_error(self, call: str) -> None:
        name = self._architecture.loss.name
        if name != "squared_error":
            raise ValueError(f"{call}: expected a network with the loss 'squared_error', got {name!r}")

    def _warn_of_linear_pieces(self, call: str) -> None:
        """Warn, once a process, if this network has no second derivatives by x."""
        if self._architecture.is_linear_in_pieces:
            names = ", ".join(dict.fromkeys(repr(row.name) for row, _ in self._architecture.layers if row.kinks))
            warn_once(
                "linear in pieces",
                f"{call}: expected smooth activations, got a network that is linear in pieces ({names}): its second "
                "derivatives by x are 0 almost everywhere; take 'tanh', 'gelu', 'silu', 'softplus' or 'sin'",
            )
