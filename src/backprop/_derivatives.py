"""The other derivatives of `Network`: along directions, by input, by sample, and of second order.

Each call here checks its arguments and hands them to one mode of the compiled recursion (_core_modes.pxi). In
the calls by sample l_s is a sample's own loss, w_s l_s or sum_j w_sj l_sj / n_L: never divided by n_samples or by the
sum of the weights, or else a row would depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backprop import _core, _validate, threads
from backprop.activations import Activation as Row
from backprop.custom import Activation as Custom
from backprop.losses import Loss

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

Array = npt.NDArray[Any]

_BLOCK_ROWS = 4096  # where rows of weight 0 are left out, so many are copied at a time


class Derivatives:
    """The calls of `Network` beside its value and gradient; what they use of it is declared here."""

    _plan: _core.Plan
    _sizes: tuple[int, ...]
    _dtype: np.dtype[Any]
    _loss: Loss
    _layers: list[tuple[Row, float]]
    _params: Array

    if TYPE_CHECKING:

        @property
        def n_params(self) -> int: ...
        def _theta(self, params: npt.ArrayLike | None) -> Array: ...
        def _inputs(
            self,
            x: npt.ArrayLike,
            y: npt.ArrayLike,
            params: npt.ArrayLike | None,
            sample_weight: npt.ArrayLike | None,
        ) -> tuple[Array, Array, Array, _validate.Weights | None]: ...
        def forward(
            self, x: npt.ArrayLike, *, params: npt.ArrayLike | None = None, n_threads: int | None = None
        ) -> Array: ...

    # J v and J^T c ---------------------------------------------------------------------------------------------------

    def vjp(
        self,
        x: npt.ArrayLike,
        cotangent: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> tuple[Array, Array]:
        """Gradients of sum_s cotangent_s . y_hat_s: for a loss of one's own, cotangent is its gradient by y_hat.

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
            Where an argument is refused.
        """
        n_threads = threads.resolve(n_threads)
        x_ = _validate.samples(x, self._sizes[0], self._dtype)
        cotangent_ = _validate.rows(cotangent, x_.shape[0], (self._sizes[-1],), self._dtype, "cotangent")
        grad_params, grad_x = np.empty(self.n_params, self._dtype), np.empty_like(x_)
        self._plan.sums(
            "vjp", self._theta(params), x_, None, grad_params, None, n_threads, cotangent=cotangent_, rows=grad_x
        )
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
            Where an argument is refused.
        """
        return self._by_sample("jvp", x, (self._sizes[-1],), params=params, out=out, n_threads=n_threads, v=v)

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
        """dl_s/dx_s, the gradient of each sample's own loss by its input.

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
            Where an argument is refused.
        """
        return self._by_sample(
            "input_gradient",
            x,
            (self._sizes[0],),
            y,
            params=params,
            sample_weight=sample_weight,
            out=out,
            n_threads=n_threads,
        )

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
            Where an argument is refused.
        """
        shape = (self._sizes[-1], self._sizes[0])
        return self._by_sample("input_jacobian", x, shape, params=params, out=out, n_threads=n_threads)

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
            Where an argument is refused.
        """
        shape = (self._sizes[-1], self.n_params)
        return self._by_sample("jacobian", x, shape, params=params, out=out, n_threads=n_threads)

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
        """dl_s/dparams, one gradient a sample.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.
        out : (n_samples, n_params) array of the network's dtype, optional

        Returns
        -------
        (n_samples, n_params) array
            Their mean is the gradient of `value_and_grad`, where there are no weights.

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused.
        """
        return self._by_sample(
            "per_sample_gradients",
            x,
            (self.n_params,),
            y,
            params=params,
            sample_weight=sample_weight,
            out=out,
            n_threads=n_threads,
        )

    def per_sample_gradient_norms(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """||dl_s/dparams||_2, without the gradients: ||g_s||^2 = sum_i ||grad_a_i||^2 (1 + ||h_{i-1}||^2).

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.
        out : (n_samples,) array of the network's dtype, optional

        Returns
        -------
        (n_samples,) array

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused.

        References
        ----------
        I. Goodfellow, Efficient per-example gradient computations, arXiv:1510.01799 (2015).
        """
        return self._by_sample(
            "per_sample_gradient_norms",
            x,
            (),
            y,
            params=params,
            sample_weight=sample_weight,
            out=out,
            n_threads=n_threads,
        )

    def clipped_gradient(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        max_norm: float,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """sum_s min(1, max_norm / ||g_s||) g_s, the samples' gradients clipped and summed, none of them stored.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.
        max_norm : float
            > 0. The factor is 1 where g_s is 0.
        out : (n_params,) array of the network's dtype, optional

        Returns
        -------
        (n_params,) array

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused.

        References
        ----------
        M. Abadi et al., Deep learning with differential privacy, CCS (2016).
        """
        bound = _validate.positive(max_norm, "max_norm")
        return self._of_loss("clipped_gradient", x, y, params, sample_weight, out, n_threads, max_norm=bound)

    # Second order ----------------------------------------------------------------------------------------------------

    def hvp(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        v: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """Hessian of `value_and_grad`'s loss times v, exact: the R-operator runs through the recursion.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.
        v : (n_params,) array_like
        out : (n_params,) array of the network's dtype, optional

        Returns
        -------
        (n_params,) array

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused.

        References
        ----------
        B. Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6 (1994).
        """
        self._need_second("hvp")
        direction = _validate.params(v, self.n_params, self._dtype, "v")
        return self._of_loss("hvp", x, y, params, sample_weight, out, n_threads, v=direction)

    def gauss_newton_vp(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        v: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """J^T H J v with H the Hessian of the mean loss where it acts: by a_L for the losses on a_L, else by y_hat.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.
        v : (n_params,) array_like
        out : (n_params,) array of the network's dtype, optional

        Returns
        -------
        (n_params,) array

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused.

        References
        ----------
        N. Schraudolph, Fast curvature matrix-vector products, Neural Computation 14 (2002).
        """
        direction = _validate.params(v, self.n_params, self._dtype, "v")
        return self._of_loss("gauss_newton_vp", x, y, params, sample_weight, out, n_threads, v=direction)

    def hessian(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """Hessian of `value_and_grad`'s loss, for small networks: it has n_params^2 entries.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.
        out : (n_params, n_params) array of the network's dtype, optional

        Returns
        -------
        (n_params, n_params) array
            Symmetric to the last bit.

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused.
        MemoryError
            Where it does not fit into memory.
        """
        self._need_second("hessian")
        shape = (self.n_params, self.n_params)
        H = self._of_loss("hessian", x, y, params, sample_weight, out, n_threads, shape=shape)
        _core.mirror(H)  # a row is computed from its own layer on
        return H

    def hvp_operator(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> LinearOperator:
        """`hvp` on fixed data as a `scipy.sparse.linalg.LinearOperator`, for Newton's method by conjugate gradients.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`. Without params it follows the network's own, as they are when it is applied.

        Returns
        -------
        LinearOperator
            Of shape (n_params, n_params), symmetric.
        """
        return self._operator(self.hvp, x, y, params=params, sample_weight=sample_weight, n_threads=n_threads)

    def gauss_newton_operator(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> LinearOperator:
        """`gauss_newton_vp` on fixed data as a `scipy.sparse.linalg.LinearOperator`; see `hvp_operator`."""
        return self._operator(
            self.gauss_newton_vp, x, y, params=params, sample_weight=sample_weight, n_threads=n_threads
        )

    # Least squares ---------------------------------------------------------------------------------------------------

    def residuals(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> tuple[Callable[[npt.ArrayLike], Array], Callable[[npt.ArrayLike], Array]]:
        """Residuals and their Jacobian as functions of theta, for `scipy.optimize.least_squares`.

        Parameters
        ----------
        x, y, sample_weight, n_threads
            As in `value_and_grad`; the loss has to be squared_error.

        Returns
        -------
        fun : callable
            theta -> r = sqrt(w) (y_hat - y), ravelled, (n_samples n_L,), not divided by anything.
        jac : callable
            theta -> dr/dtheta, (n_samples n_L, n_params).

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused, or the loss is another one.
        """
        threads.resolve(n_threads)
        self._need_squared_error("residuals")
        y_, x_, _, weights = self._inputs(x, y, None, sample_weight)
        root = np.ones((x_.shape[0], 1)) if weights is None else np.sqrt(weights.array)
        root = np.broadcast_to(root if root.ndim == 2 else root[:, None], y_.shape).astype(self._dtype)
        counts = root != 0
        rows = counts.any(axis=1)
        target = np.where(counts, y_, 0)[rows]
        x_kept = x_ if rows.all() else x_[rows]  # once, not at each theta

        def fun(theta: npt.ArrayLike) -> Array:
            point = _validate.params(theta, self.n_params, self._dtype, "theta")
            r = np.zeros(y_.shape, self._dtype)
            r[rows] = self.forward(x_kept, params=point, n_threads=n_threads) - target
            return (root * r).ravel()

        def jac(theta: npt.ArrayLike) -> Array:
            point = _validate.params(theta, self.n_params, self._dtype, "theta")
            J = np.zeros((*y_.shape, self.n_params), self._dtype)
            J[rows] = self.jacobian(x_kept, params=point, n_threads=n_threads)
            J *= root[:, :, None]
            return J.reshape(-1, self.n_params)

        return fun, jac

    def normal_equations(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> tuple[Array, Array]:
        """J^T J and J^T r of `residuals`, J never stored: for Levenberg-Marquardt at any number of samples.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`; the loss has to be squared_error.

        Returns
        -------
        JTJ : (n_params, n_params) array
            Symmetric to the last bit.
        JTr : (n_params,) array
            Half the gradient of the sum of squares.

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused, or the loss is another one.
        MemoryError
            Where the result does not fit into memory.
        """
        self._need_squared_error("normal_equations")
        P = self.n_params
        both = self._of_loss("normal_equations", x, y, params, sample_weight, None, n_threads, shape=(P * P + P,))
        JTJ = both[: P * P].reshape(P, P)
        _core.mirror(JTJ)
        return JTJ, both[P * P :]

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
        """Loss and gradient where values and input gradients are fitted together.

        sum_s w_s [mean_j (y_hat_j - y_j)^2 + mean_ji weight_ji (dy_hat_j/dx_i - grad_x_ji)^2] / sum w.

        Parameters
        ----------
        x, y, params, n_threads
            As in `value_and_grad`; the loss has to be squared_error.
        grad_x : (n_samples, n_L, n_0) array_like
            Or (n_samples, n_0) where n_L is 1: the input gradients to fit.
        weight : float or (n_L, n_0) array_like
            >= 0. Where it is 0, grad_x is not looked at.
        sample_weight : (n_samples,) array_like, optional
        out : (n_params,) array of the network's dtype, optional

        Returns
        -------
        loss : float
        grad : (n_params,) array

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused, or the loss is another one.

        References
        ----------
        W. Czarnecki et al., Sobolev training for neural networks, NeurIPS (2017).
        """
        self._need_squared_error("sobolev_value_and_grad")
        self._need_second("sobolev_value_and_grad")
        n_threads = threads.resolve(n_threads)
        y_, x_, theta, weights = self._inputs(x, y, params, sample_weight)
        if weights is not None and weights.array.ndim == 2:
            raise ValueError(
                f"sample_weight: expected shape ({x_.shape[0]},) in sobolev_value_and_grad, got {weights.array.shape}"
            )
        shape = (self._sizes[-1], self._sizes[0])
        target = _validate.input_gradients(grad_x, x_.shape[0], shape, self._dtype)
        grad_weight = _validate.gradient_weight(weight, shape)
        grad = self._result(
            out,
            (self.n_params,),
            {
                **_validate.inputs(x, x_, y, y_, params, theta, sample_weight, weights),
                "grad_x": (grad_x, target),
                "weight": (weight, grad_weight),
            },
        )
        loss = self._plan.sums(
            "sobolev",
            theta,
            x_,
            y_,
            grad,
            weights,
            n_threads,
            target_grad_x=target,
            grad_weight=grad_weight,
        )
        return loss, grad

    # What they share -------------------------------------------------------------------------------------------------

    def _need_second(self, call: str) -> None:
        """Refuse an activation of the user's own that has no g''."""
        for i, (layer, _) in enumerate(self._layers, start=1):
            if isinstance(layer, Custom) and not layer.has_second:
                raise ValueError(f"{call}: expected a g_second in the activation {layer.name!r} of layer {i}, got none")

    def _need_squared_error(self, call: str) -> None:
        if self._loss.name != "squared_error":
            raise ValueError(f"{call}: expected a network with the loss 'squared_error', got {self._loss.name!r}")

    def _result(self, out: Array | None, shape: tuple[int, ...], others: dict[str, Sequence[object]]) -> Array:
        """The caller's array, checked, or a new one."""
        if out is None:
            try:
                return np.empty(shape, self._dtype)
            except (MemoryError, ValueError) as error:
                raise MemoryError(f"the result of shape {shape} does not fit into memory") from error
        return _validate.out(out, shape, self._dtype, {"params": (self._params,), **others})

    def _of_loss(
        self,
        mode: str,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        params: npt.ArrayLike | None,
        sample_weight: npt.ArrayLike | None,
        out: Array | None,
        n_threads: int | None,
        *,
        v: Array | None = None,
        max_norm: float = 0.0,
        shape: tuple[int, ...] | None = None,
    ) -> Array:
        """Run a mode that sums over samples and needs targets."""
        n_threads = threads.resolve(n_threads)
        y_, x_, theta, weights = self._inputs(x, y, params, sample_weight)
        others = _validate.inputs(x, x_, y, y_, params, theta, sample_weight, weights)
        result = self._result(out, shape or (self.n_params,), {**others, "v": (v,)})
        self._plan.sums(mode, theta, x_, y_, result, weights, n_threads, v=v, max_norm=max_norm)
        return result

    def _by_sample(
        self,
        mode: str,
        x: npt.ArrayLike,
        shape: tuple[int, ...],
        y: npt.ArrayLike | None = None,
        *,
        params: npt.ArrayLike | None,
        sample_weight: npt.ArrayLike | None = None,
        out: Array | None,
        n_threads: int | None,
        v: npt.ArrayLike | None = None,
    ) -> Array:
        """Run a mode in which each sample has a result of its own, of the given shape."""
        n_threads = threads.resolve(n_threads)
        weights = None
        if mode in ("jvp", "input_jacobian", "jacobian"):
            x_, y_, theta = _validate.samples(x, self._sizes[0], self._dtype), None, self._theta(params)
        else:
            y_, x_, theta, weights = self._inputs(x, y, params, sample_weight)
        direction = None if mode != "jvp" else _validate.params(v, self.n_params, self._dtype, "v")
        others = _validate.inputs(x, x_, y, y_, params, theta, sample_weight, weights)
        result = self._result(out, (x_.shape[0], *shape), {**others, "v": (v, direction)})
        if weights is None or y_ is None or weights.n_kept == x_.shape[0]:
            self._plan.rows(mode, theta, x_, y_, result, weights, n_threads, v=direction)
            return result
        result[...] = 0  # rows of weight 0 are skipped, whatever they hold
        for start in range(0, x_.shape[0], _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            some = weights.array[block]
            kept = some.reshape(some.shape[0], -1).any(axis=1)
            if not kept.any():
                continue
            kept_weights = _validate.sample_weight(some[kept], self._loss, int(kept.sum()), self._sizes[-1])
            assert kept_weights is not None
            inner = np.empty((kept_weights.n_kept, *shape), self._dtype)
            self._plan.rows(mode, theta, x_[block][kept], y_[block][kept], inner, kept_weights, n_threads)
            result[block][kept] = inner
        return result

    def _operator(
        self, product: Callable[..., Array], x: npt.ArrayLike, y: npt.ArrayLike, **options: Any
    ) -> LinearOperator:
        """A symmetric LinearOperator whose product with v is product(x, y, v)."""
        from scipy.sparse.linalg import LinearOperator

        self._inputs(x, y, options["params"], options["sample_weight"])  # refuse now what would be refused later
        threads.resolve(options["n_threads"])

        def apply(v: Array) -> Array:
            return product(x, y, np.ravel(v), **options)

        shape = (self.n_params, self.n_params)
        return LinearOperator(shape, matvec=apply, rmatvec=apply, dtype=self._dtype)
