"""Second derivatives of `Network`: products with the Hessian and with Gauss and Newton's, and the Hessian itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop._calls import Calls

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

Array = npt.NDArray[Any]

_HVP = _core.CALLS["hvp"]
_GAUSS_NEWTON_VP = _core.CALLS["gauss_newton_vp"]
_HESSIAN = _core.CALLS["hessian"]


class SecondDerivatives(Calls):
    """The calls of second order."""

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
        return self._call(_HVP, x, y, params, sample_weight, out, n_threads, v)

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
        return self._call(_GAUSS_NEWTON_VP, x, y, params, sample_weight, out, n_threads, v)

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
        H = self._call(_HESSIAN, x, y, params, sample_weight, out, n_threads)
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
            As in `value_and_grad`: converted once, and not copied where they fit. Without params it follows the
            network's own, as they are when it is applied.

        Returns
        -------
        LinearOperator
            Of shape (n_params, n_params), symmetric.
        """
        self._need_second("hvp_operator")
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

    def _operator(
        self, product: Callable[..., Array], x: npt.ArrayLike, y: npt.ArrayLike, **options: Any
    ) -> LinearOperator:
        """A symmetric LinearOperator whose product with v is product(x, y, v)."""
        from scipy.sparse.linalg import LinearOperator

        y_, x_, _, weights = self._inputs(x, y, options["params"], options["sample_weight"])  # refused now, not later
        threads.resolve(options["n_threads"])
        if weights is not None:
            options["sample_weight"] = weights.array

        def apply(v: Array) -> Array:
            return product(x_, y_, np.ravel(v), **options)

        shape = (self.n_params, self.n_params)
        return LinearOperator(shape, matvec=apply, rmatvec=apply, dtype=self._dtype)
