"""Calls for networks with squared errors: least squares, and fits of values together with input gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Never

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api import conversion, validate
from backprop.api.calls import Calls

Array = npt.NDArray[Any]

_FORWARD = _core.CALLS["forward"]
_JACOBIAN = _core.CALLS["jacobian"]
_NORMAL_EQUATIONS = _core.CALLS["normal_equations"]
_SOBOLEV_VALUE_AND_GRAD = _core.CALLS["sobolev_value_and_grad"]


class LeastSquares(Calls):
    """The calls of networks with the loss squared_error."""

    __slots__ = ()

    # Least squares ---------------------------------------------------------------------------------------------------

    def residuals(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *excess: Never,
        sample_weight: npt.ArrayLike | None = None,
        free: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> tuple[Callable[[npt.ArrayLike], Array], Callable[[npt.ArrayLike], Array]]:
        """Residuals and their Jacobian as functions of theta, for `scipy.optimize.least_squares`.

        Parameters
        ----------
        x, y, sample_weight, n_threads
            As in `value_and_grad`; the loss must be squared_error.
        free : (n_params,) boolean mask, optional
            theta and the columns of the Jacobian are then those of the free parameters. The others keep their values in
            the network.

        Returns
        -------
        fun : callable
            theta -> r = sqrt(w) (y_hat - y), ravelled, (n_samples n_L,), not divided by anything.
        jac : callable
            theta -> dr/dtheta, (n_samples n_L, n_params), or as many columns as there are free parameters.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or if the loss is another one.
        """
        if excess:
            validate.refuse_excess("residuals", x, excess, self.n_params)
        threads.resolve(n_threads)
        self._need_squared_error("residuals")
        mask = validate.free_mask(free, self.n_params)
        y_, x_, _, weights = self._inputs(x, y, None, sample_weight, of_mean=False)
        with _core.DefaultFloatMode():
            root = np.ones((x_.shape[0], 1)) if weights is None else np.sqrt(weights.array)
            root = np.broadcast_to(root if root.ndim == 2 else root[:, None], y_.shape)
            counts = root != 0
        rows = counts.any(axis=1)
        target = conversion.at_once(np.where(counts, y_, 0)[rows], self._architecture.dtype, "y")
        x_kept = x_ if rows.all() else x_[rows]  # once, not at each theta
        kept = _Residuals(self, x_kept, target, root, counts, rows, weights is not None, n_threads, mask)
        return kept.fun, kept.jac

    def normal_equations(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        free: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> tuple[Array, Array]:
        """J^T J and J^T r of `residuals`, J never stored: for Levenberg-Marquardt at any number of samples.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`; the loss must be squared_error.
        free : (n_params,) boolean mask, optional
            J then has the columns of the free parameters alone. The work is that of all columns.

        Returns
        -------
        JTJ : (n_params, n_params) array, or (n_free, n_free)
            Symmetric to the last bit.
        JTr : (n_params,) array, or (n_free,)
            Half the gradient of the sum of squares. An entry is right to rounding if r and its column of J are within
            the range of the dtype, whatever the weights are.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or if the loss is another one.
        MemoryError
            If the result does not fit into memory.
        """
        mask = validate.free_mask(free, self.n_params)
        both = self._call(_NORMAL_EQUATIONS, x, y, params, sample_weight, None, n_threads)
        JTJ, JTr = both[:-1], both[-1]
        _core.mirror(JTJ)
        return (JTJ, JTr) if mask is None else (JTJ[np.ix_(mask, mask)], JTr[mask])

    # Values and input gradients together -----------------------------------------------------------------------------

    def sobolev_value_and_grad(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        grad_x: npt.ArrayLike,
        weight: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> tuple[float, Array]:
        """Loss and gradient for fitting values and input gradients together.

        sum_s w_s [mean_j (y_hat_j - y_j)^2 + mean_ji weight_ji (dy_hat_j/dx_i - grad_x_ji)^2] / sum w.

        Parameters
        ----------
        x, y, params, n_threads
            As in `value_and_grad`; the loss must be squared_error.
        grad_x : (n_samples, n_L, n_0) array_like
            The input gradients to fit. (n_samples, n_0) is enough if n_L is 1.
        weight : float or (n_L, n_0) array_like
            >= 0. Entries of grad_x with weight 0 are ignored.
        sample_weight : (n_samples,) array_like, optional
        out : (n_params,) array of the network's dtype, optional

        Returns
        -------
        loss : float
        grad : (n_params,) array

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or if the loss is another one.

        References
        ----------
        W. Czarnecki et al., Sobolev training for neural networks, NeurIPS (2017).
        """
        result: tuple[float, Array] | None = self._plan.quick(
            _SOBOLEV_VALUE_AND_GRAD,
            self._memory,
            params,
            x,
            y,
            sample_weight,
            out,
            n_threads,
            threads.get_num_threads,
            operand=grad_x,
            grad_weight=weight,
        )
        if result is not None:
            return result
        self._need_squared_error("sobolev_value_and_grad")
        self._need_second("sobolev_value_and_grad")
        n_threads = threads.resolve(n_threads)
        y_, x_, theta, weights = self._inputs(x, y, params, sample_weight)
        if weights is not None and weights.array.ndim == 2:
            raise ValueError(
                f"sample_weight: expected shape ({x_.shape[0]},) in sobolev_value_and_grad, got {weights.array.shape}"
            )
        shape = (self._architecture.sizes[-1], self._architecture.sizes[0])
        target = validate.input_gradients(grad_x, x_.shape[0], shape, self._architecture.dtype)
        grad_weight = validate.gradient_weight(weight, shape)
        grad = self._result(
            out,
            (self.n_params,),
            {
                **validate.inputs(x, x_, y, y_, params, theta, sample_weight, weights),
                "grad_x": (grad_x, target),
                "weight": (weight, grad_weight),
            },
        )
        loss = self._plan.run(
            _SOBOLEV_VALUE_AND_GRAD,
            theta,
            x_,
            y_,
            grad,
            weights,
            n_threads,
            operand=target,
            grad_weight=grad_weight,
        )
        return loss, grad


@dataclass(frozen=True, eq=False)
class _Residuals:
    """`residuals` returns two methods of this class: nested functions cannot be pickled."""

    net: LeastSquares
    x: Array  # of the rows that count
    target: Array  # of these rows
    root: Array  # square roots of the weights, of all rows
    counts: Array
    rows: Array
    is_weighted: bool
    n_threads: int | None
    free: Array | None = None  # the mask of free parameters

    def _point(self, theta: npt.ArrayLike) -> Array:
        """All parameters of the network for a theta of the user."""
        net, free = self.net, self.free
        n_free = net.n_params if free is None else int(free.sum())
        point = validate.params(theta, n_free, net._architecture.dtype, "theta")
        if free is None:
            return point
        whole = net._theta(None).copy()
        whole[free] = point
        return whole

    def fun(self, theta: npt.ArrayLike) -> Array:
        """The residuals r at theta."""
        net, point = self.net, self._point(theta)
        validate.their_memory(self.x)
        y_hat = net._call(_FORWARD, self.x, None, point, None, None, self.n_threads)
        r = np.zeros(self.root.shape)  # in float64, as sqrt(w): rounded once
        counts = self.counts[self.rows]
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            r[self.rows] = np.subtract(y_hat, self.target, out=np.zeros(y_hat.shape), where=counts, dtype=np.float64)
            return (self.root * r).astype(net._architecture.dtype).ravel()

    def jac(self, theta: npt.ArrayLike) -> Array:
        """The Jacobian of r at theta."""
        net, point = self.net, self._point(theta)
        validate.their_memory(self.x)
        J = np.zeros((*self.root.shape, net.n_params), net._architecture.dtype)
        J[self.rows] = net._call(_JACOBIAN, self.x, None, point, None, None, self.n_threads)
        if self.is_weighted:
            with np.errstate(all="ignore"), _core.DefaultFloatMode():
                np.multiply(J, self.root[:, :, None], out=J, where=self.counts[:, :, None], casting="same_kind")
            J[~self.counts] = 0  # even if y_hat is infinite
        J = J.reshape(-1, net.n_params)
        return J if self.free is None else J[:, self.free]
