"""Norms of the samples' gradients, and their clipped sum, if only some parameters are free.

||g_s|| does not come from the layers' norms then, since the free parameters may be any. The gradients of some samples
at a time are made, so memory does not grow with the number of samples. A row does not depend on the others, so it has
the same bits for any number of samples at a time. The clipped sum is that of the samples with the factors as weights:
g_s is linear in the weight of s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import scalars, validate
from backprop.api.calls import Calls
from backprop.api.targets import Weights

Array = npt.NDArray[Any]

_PER_SAMPLE_GRADIENTS = _core.CALLS["per_sample_gradients"]
_CLIPPED_GRADIENT = _core.CALLS["clipped_gradient"]
_BYTES = 16 << 20  # of the gradients that there are at a time


def norms(
    net: Calls,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    params: npt.ArrayLike | None,
    sample_weight: npt.ArrayLike | None,
    free: npt.ArrayLike,
    out: Array | None,
    n_threads: int | None,
) -> Array:
    """`Network.per_sample_gradient_norms` with a mask of free parameters."""
    mask = _mask(free, net)
    y_, x_, theta, weights = net._inputs(x, y, params, sample_weight, of_mean=False)
    others = validate.inputs(x, x_, y, y_, params, theta, sample_weight, weights)
    result = net._result(out, (x_.shape[0],), others)
    fraction, exponent = _norms(net, x_, y_, theta, weights, mask, n_threads)
    with np.errstate(all="ignore"), _core.DefaultFloatMode():
        result[...] = np.ldexp(fraction, exponent)
    return result


def clipped_gradient(
    net: Calls,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    max_norm: float,
    params: npt.ArrayLike | None,
    sample_weight: npt.ArrayLike | None,
    free: npt.ArrayLike,
    out: Array | None,
    n_threads: int | None,
) -> Array:
    """`Network.clipped_gradient` with a mask of free parameters."""
    bound, mask = scalars.positive(max_norm, "max_norm"), _mask(free, net)
    y_, x_, theta, weights = net._inputs(x, y, params, sample_weight, of_mean=False)
    others = validate.inputs(x, x_, y, y_, params, theta, sample_weight, weights)
    result = net._result(out, (net.n_params,), others)
    fraction, exponent = _norms(net, x_, y_, theta, weights, mask, n_threads)
    with np.errstate(all="ignore"), _core.DefaultFloatMode():
        is_clipped = np.ldexp(fraction, exponent) > bound
        # If g_s is not finite, the factor is 1: the sum shows it.
        factor = np.where(is_clipped & np.isfinite(fraction), np.ldexp(bound / fraction, -exponent), 1.0)
        if weights is not None:
            factor = weights.array * (factor if weights.array.ndim == 1 else factor[:, None])
    net._checked(_CLIPPED_GRADIENT, x_, y_, theta, factor, result, n_threads, max_norm=np.inf)
    result[~mask] = 0
    return result


def _mask(free: npt.ArrayLike, net: Calls) -> Array:
    mask = validate.free_mask(free, net.n_params)
    assert mask is not None  # as free is not None
    return mask


def _norms(
    net: Calls, x: Array, y: Array, theta: Array, weights: Weights | None, mask: Array, n_threads: int | None
) -> tuple[Array, Array]:
    """The norms of all samples as fraction 2^exponent, in float64."""
    n_samples, dtype = x.shape[0], theta.dtype
    fraction, exponent = np.zeros(n_samples), np.zeros(n_samples, np.intc)
    weight = None if weights is None else weights.array
    n_rows = max(1, _BYTES // (net.n_params * dtype.itemsize))
    for start in range(0, n_samples, n_rows):
        rows = slice(start, start + n_rows)
        some = None if weight is None else weight[rows]
        fraction[rows], exponent[rows] = _norms_of_rows(net, x[rows], y[rows], theta, some, mask, n_threads)
    return fraction, exponent


def _norms_of_rows(
    net: Calls, x: Array, y: Array, theta: Array, weight: Array | None, mask: Array, n_threads: int | None
) -> tuple[Array, Array]:
    """The same of some samples, all in memory at once."""
    with np.errstate(all="ignore"), _core.DefaultFloatMode():
        if weight is not None and not weight.any():
            return np.zeros(x.shape[0]), np.zeros(x.shape[0], np.intc)
    gradients = net._call(_PER_SAMPLE_GRADIENTS, x, y, theta, weight, None, n_threads)
    with np.errstate(all="ignore"), _core.DefaultFloatMode():
        of_free = np.ascontiguousarray(gradients[:, mask], np.float64)  # the layout enters the order of the sums below
        _, exponent = np.frexp(np.abs(of_free).max(axis=1))
        scaled = np.ldexp(of_free, -exponent[:, None])
        return np.sqrt(np.square(scaled).sum(axis=1)), exponent
