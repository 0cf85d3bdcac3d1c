"""Second derivatives of `Network`: products with the Hessian and with Gauss and Newton's, and the Hessian itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api import validate
from backprop.api.calls import Calls

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

Array = npt.NDArray[Any]

_HVP = _core.CALLS["hvp"]
_GAUSS_NEWTON_VP = _core.CALLS["gauss_newton_vp"]
_HESSIAN = _core.CALLS["hessian"]


class SecondOrder(Calls):
    """The calls of second order."""

    __slots__ = ()

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
        """The Hessian of the loss of `value_and_grad` times v, exact: the R-operator runs through the recursion.

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
            If an argument is refused.

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
        """J^T H J v. H is the Hessian of the mean loss by a_L for the losses on a_L, else by y_hat.

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
            If an argument is refused.

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
        """The Hessian of the loss of `value_and_grad`, for small networks: it has n_params^2 entries.

        It is that by the parameters. `input_hessian` gives that of y_hat by x.

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
            If an argument is refused.
        MemoryError
            If the result does not fit into memory.
        """
        H = self._call(_HESSIAN, x, y, params, sample_weight, out, n_threads)
        # Each row is computed from its own layer on, so the other half is copied. Another thread may have reshaped out.
        _core.mirror(H.reshape(self.n_params, self.n_params))
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
            As in `value_and_grad`: converted once, and not copied if they fit. Without params, the operator uses
            the parameters that the network has when the operator is applied.

        Returns
        -------
        LinearOperator
            Of shape (n_params, n_params), symmetric.
        """
        self._need_second("hvp_operator")
        return self._operator("hvp", x, y, params=params, sample_weight=sample_weight, n_threads=n_threads)

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
        return self._operator("gauss_newton_vp", x, y, params=params, sample_weight=sample_weight, n_threads=n_threads)

    def _operator(
        self,
        product: str,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None,
        sample_weight: npt.ArrayLike | None,
        n_threads: int | None,
    ) -> LinearOperator:
        """A symmetric LinearOperator that calls the method of that name."""
        from scipy.sparse.linalg import LinearOperator

        y_, x_, theta, weights = self._inputs(x, y, params, sample_weight)  # refused now, not at a product
        threads.resolve(n_threads)
        weight = None if weights is None else weights.array
        apply = _Product(self, product, x_, y_, None if params is None else theta, weight, n_threads)
        shape = (self.n_params, self.n_params)
        return LinearOperator(shape, matvec=apply, rmatvec=apply, dtype=self._architecture.dtype)


@dataclass(frozen=True, eq=False)
class _Product:
    """v -> net.product(x, y, v) on fixed data: a class, since a nested function cannot be pickled."""

    net: SecondOrder
    product: str
    x: Array
    y: Array
    params: Array | None
    sample_weight: Array | None
    n_threads: int | None

    def __call__(self, v: Array) -> Array:
        validate.their_memory(self.x, self.y, self.sample_weight, self.params)
        call = getattr(self.net, self.product)
        result: Array = call(
            self.x, self.y, np.ravel(v), params=self.params, sample_weight=self.sample_weight, n_threads=self.n_threads
        )
        return result
