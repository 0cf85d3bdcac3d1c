"""Where an objective gets its sums over samples from: a source. This one has all samples in memory."""

from __future__ import annotations

from typing import Any, Protocol

import numpy.typing as npt

from backprop import _core, threads
from backprop.api import validate
from backprop.api.base import Base

Array = npt.NDArray[Any]

_VALUE_AND_GRAD = _core.CALLS["value_and_grad"]
_HVP = _core.CALLS["hvp"]

# The most that products with the Hessian keep for a theta: a process must not grow with its batch. 17,000 samples of
# 20-100-100-3 in float32 fit. A product takes 0.83 of hvp's time with 16,000 samples, read from memory; 0.78 with
# 1000, from cache.
_KEPT_BYTES = 64 << 20


class Source(Protocol):
    """Samples of which an objective needs only sums, as one call on all of them gives them."""

    n_samples: int  # rows of the whole data set
    weight_axes: int  # 0: no weights, 1: weights by sample, 2: weights by sample and output

    def sums(self, call: _core.Call, params: Array, operand: Array | None = None) -> tuple[float, Array]:
        """The loss, 0.0 if the call has none, and the sums in the dtype of the network. operand is v."""


class InMemory:
    """The samples of three arrays, which are not copied if they fit.

    Parameters
    ----------
    net : Base
    x, y, sample_weight, n_threads
        As in `Network.objective`.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused.
    """

    def __init__(
        self,
        net: Base,
        x: npt.ArrayLike,
        y: npt.ArrayLike | None,
        sample_weight: npt.ArrayLike | None,
        n_threads: int | None,
    ) -> None:
        self.net, self.n_threads = net, n_threads
        self.y, self.x, _, weights = net._inputs(x, y, None, sample_weight)
        self.weight = None if weights is None else weights.array
        self.n_samples = self.x.shape[0]
        self.weight_axes = 0 if self.weight is None else self.weight.ndim
        self.linearization = _core.Linearization(_KEPT_BYTES)

    def sums(self, call: _core.Call, params: Array, operand: Array | None = None) -> tuple[float, Array]:
        """As in `Source`. After the first product with the Hessian at some params, further ones cost less."""
        net, x, y, weight = self.net, self.x, self.y, self.weight
        validate.their_memory(x, y, weight)
        if call is _VALUE_AND_GRAD:
            return net.value_and_grad(x, y, params=params, sample_weight=weight, n_threads=self.n_threads)
        kept = self.linearization if call is _HVP else None
        quick: Array | None = net._plan.quick(
            call,
            net._memory,
            params,
            x,
            y,
            weight,
            None,
            self.n_threads,
            threads.get_num_threads,
            operand=operand,
            linearization=kept,
        )
        if quick is not None:
            return 0.0, quick
        y, x, theta, weights = net._inputs(x, y, params, weight)
        result = net._result(None, net._plan.result_shape(call, self.n_samples), {})
        n_threads = threads.resolve(self.n_threads)
        net._plan.run(call, theta, x, y, result, weights, n_threads, operand=operand, linearization=kept)
        return 0.0, result
