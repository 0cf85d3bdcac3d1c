"""First derivatives of `Network` besides its gradient: along directions, by input and by sample.

In the calls by sample, l_s is the loss of one sample: w_s l_s, or sum_j w_sj l_sj / n_L. It is never divided by
n_samples or by the sum of the weights: a row must not depend on its batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api import scalars, validate
from backprop.api.calls import Calls

Array = npt.NDArray[Any]

_VJP = _core.CALLS["vjp"]
_JVP = _core.CALLS["jvp"]
_INPUT_GRADIENT = _core.CALLS["input_gradient"]
_INPUT_JACOBIAN = _core.CALLS["input_jacobian"]
_JACOBIAN = _core.CALLS["jacobian"]
_PER_SAMPLE_GRADIENTS = _core.CALLS["per_sample_gradients"]
_PER_SAMPLE_GRADIENT_NORMS = _core.CALLS["per_sample_gradient_norms"]
_CLIPPED_GRADIENT = _core.CALLS["clipped_gradient"]


class FirstOrder(Calls):
    """The calls of first order."""

    __slots__ = ()

    # J v and J^T c ---------------------------------------------------------------------------------------------------

    def vjp(
        self,
        x: npt.ArrayLike,
        cotangent: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> tuple[Array, Array]:
        """Gradients of sum_sk cotangent_sk y_hat_sk by the parameters and by x.

        For a loss of your own, cotangent is the gradient of that loss by y_hat.

        Parameters
        ----------
        x : (n_samples, n_0) array_like
        cotangent : (n_samples, n_L) array_like
        params : (n_params,) array_like, optional
            Parameters to use instead of the network's own.
        n_threads : int, optional

        Returns
        -------
        grad_params : (n_params,) array
            Summed over samples.
        grad_x : (n_samples, n_0) array

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
        """
        result: tuple[Array, Array] | None = self._plan.quick(
            _VJP, self._memory, params, x, None, None, None, n_threads, threads.get_num_threads, cotangent
        )
        if result is not None:
            return result
        n_threads = threads.resolve(n_threads)
        n_out, dtype = self._architecture.sizes[-1], self._architecture.dtype
        x_ = self._samples(x)
        cotangent_ = validate.rows(cotangent, x_.shape[0], (n_out,), dtype, "cotangent")
        theta = self._theta(params)
        grad_params, grad_x = np.empty(self.n_params, dtype), np.empty(x_.shape, dtype)
        self._plan.run(_VJP, theta, x_, None, grad_params, None, n_threads, operand=cotangent_, rows=grad_x)
        return grad_params, grad_x

    def jvp(
        self,
        x: npt.ArrayLike,
        v: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """Derivative of y_hat along a direction of the parameters.

        Parameters
        ----------
        x : (n_samples, n_0) array_like
        v : (n_params,) array_like
            The direction, with the layout of params.
        params : (n_params,) array_like, optional
        out : (n_samples, n_L) array of the network's dtype, optional
        n_threads : int, optional

        Returns
        -------
        (n_samples, n_L) array

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
        """
        return self._call(_JVP, x, None, params, None, out, n_threads, v)

    # By input --------------------------------------------------------------------------------------------------------

    def input_gradient(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """dl_s/dx_s, the gradient of the loss of each sample by its input.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.
        out : (n_samples, n_0) array of the network's dtype, optional

        Returns
        -------
        (n_samples, n_0) array

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
        """
        return self._call(_INPUT_GRADIENT, x, y, params, sample_weight, out, n_threads)

    def input_jacobian(
        self,
        x: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """Jacobian dy_hat_s/dx_s of each sample.

        Parameters
        ----------
        x : (n_samples, n_0) array_like
        params : (n_params,) array_like, optional
        out : (n_samples, n_L, n_0) array of the network's dtype, optional
        n_threads : int, optional

        Returns
        -------
        (n_samples, n_L, n_0) array

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
        """
        return self._call(_INPUT_JACOBIAN, x, None, params, None, out, n_threads)

    # By sample -------------------------------------------------------------------------------------------------------

    def jacobian(
        self,
        x: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """Jacobian dy_hat_s/dparams of each sample.

        Parameters
        ----------
        x : (n_samples, n_0) array_like
        params : (n_params,) array_like, optional
        out : (n_samples, n_L, n_params) array of the network's dtype, optional
        n_threads : int, optional

        Returns
        -------
        (n_samples, n_L, n_params) array

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
        """
        return self._call(_JACOBIAN, x, None, params, None, out, n_threads)

    def per_sample_gradients(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """dl_s/dparams, one gradient per sample.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.
        out : (n_samples, n_params) array of the network's dtype, optional

        Returns
        -------
        (n_samples, n_params) array
            Without weights, their mean is the gradient of `value_and_grad`.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
        """
        return self._call(_PER_SAMPLE_GRADIENTS, x, y, params, sample_weight, out, n_threads)

    def per_sample_gradient_norms(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        free: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """||dl_s/dparams||_2, without the gradients: ||g_s||^2 = sum_i ||grad_a_i||^2 (1 + ||h_{i-1}||^2).

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.
        free : (n_params,) boolean mask, optional
            The other parameters then count for nothing. Any mask takes about the time of one gradient more.
        out : (n_samples,) array of the network's dtype, optional

        Returns
        -------
        (n_samples,) array
            Squares may leave the range of the dtype; only a norm that leaves it itself is inf.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.

        References
        ----------
        I. Goodfellow, Efficient per-example gradient computations, arXiv:1510.01799 (2015).
        """
        if free is not None:
            mask = validate.free_mask(free, self.n_params)
            call = _PER_SAMPLE_GRADIENT_NORMS
            return self._checked(call, x, y, params, sample_weight, out, n_threads, free=mask)
        return self._call(_PER_SAMPLE_GRADIENT_NORMS, x, y, params, sample_weight, out, n_threads)

    def clipped_gradient(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        max_norm: float,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        free: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """sum_s min(1, max_norm / ||g_s||) g_s, the samples' gradients clipped and summed, none of them stored.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.
        max_norm : float
            > 0. The factor is 1 if g_s is 0.
        free : (n_params,) boolean mask, optional
            The other parameters then count for nothing in the norms, and the sum is 0 there.
        out : (n_params,) array of the network's dtype, optional

        Returns
        -------
        (n_params,) array

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.

        Notes
        -----
        The part of each sample is at most max_norm long, to rounding. This holds even if ||g_s|| or the factor is
        outside the range of the dtype, as long as h and dL/da of the sample are inside it. If one of these is not
        finite, the sum is not finite either.

        References
        ----------
        M. Abadi et al., Deep learning with differential privacy, CCS (2016).
        """
        if free is not None:
            bound, mask = scalars.positive(max_norm, "max_norm"), validate.free_mask(free, self.n_params)
            call = _CLIPPED_GRADIENT
            assert mask is not None  # as free is not None
            clipped = self._checked(call, x, y, params, sample_weight, out, n_threads, max_norm=bound, free=mask)
            clipped[~mask] = 0
            return clipped
        result: Array | None = self._plan.quick(
            _CLIPPED_GRADIENT,
            self._memory,
            params,
            x,
            y,
            sample_weight,
            out,
            n_threads,
            threads.get_num_threads,
            max_norm=max_norm,
        )
        if result is not None:
            return result
        bound = scalars.positive(max_norm, "max_norm")
        return self._checked(_CLIPPED_GRADIENT, x, y, params, sample_weight, out, n_threads, max_norm=bound)
