"""Second derivatives of `Network` by its inputs, and networks as constraints of SciPy's solvers.

The sweeps carry first and second derivatives along k directions of x through the layers, beside a and h:

    d_a = W d_h,   s_a = W s_h,   d_h = g'(a) d_a,   s_h = g'(a) s_a + g''(a) d_a^2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api import other_names, validate
from backprop.api.calls import Calls
from backprop.api.input_jet import InputJet

if TYPE_CHECKING:
    from scipy.optimize import NonlinearConstraint

Array = npt.NDArray[Any]

_FORWARD = _core.CALLS["forward"]
_INPUT_JACOBIAN = _core.CALLS["input_jacobian"]
_LAPLACIAN = _core.CALLS["laplacian"]
_INPUT_HESSIAN = _core.CALLS["input_hessian"]
_INPUT_JET = _core.CALLS["input_jet"]


class InputDerivatives(Calls):
    """The calls of second order by the inputs."""

    __slots__ = ()

    # Forward ---------------------------------------------------------------------------------------------------------

    def laplacian(
        self,
        x: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """The Laplacian of each output by the input: sum_i d^2 y_hat_so / dx_si^2.

        Parameters
        ----------
        x : (n_samples, n_0) array_like
        params : (n_params,) array_like, optional
            Parameters to use instead of the network's own.
        out : (n_samples, n_L) array of the network's dtype, optional
        n_threads : int, optional

        Returns
        -------
        (n_samples, n_L) array

        Warns
        -----
        RuntimeWarning
            Once, if the network is linear in pieces, as with relu: the result is then 0 almost everywhere.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or if an activation of your own has no g_second.

        Notes
        -----
        No Hessian is formed. Each layer carries n_0 first derivatives and their sum of second ones:
        s_a = W s_h and s_h = g'(a) s_a + g''(a) sum_j d_aj^2, about n_0 + 2 forward passes.

        References
        ----------
        R. Li et al., A computational framework for neural network-based variational Monte Carlo with Forward Laplacian,
        Nature Machine Intelligence 6 (2024).
        """
        self._warn_of_linear_pieces("laplacian")
        return self._call(_LAPLACIAN, x, None, params, None, out, n_threads)

    def input_hessian(
        self,
        x: npt.ArrayLike,
        multipliers: npt.ArrayLike | None = None,
        *,
        params: npt.ArrayLike | None = None,
        out: Array | None = None,
        n_threads: int | None = None,
    ) -> Array:
        """The Hessian by x_s of sum_o multipliers_so y_hat_so, for each sample.

        Solvers of constrained problems need it: the Hessian of a Lagrangian, with their multipliers.

        Parameters
        ----------
        x : (n_samples, n_0) array_like
        multipliers : (n_L,) or (n_samples, n_L) array_like, optional
            The weights of the outputs, for all samples or for each. Without them, the weight is 1 if n_L is 1; if there
            are more outputs, multipliers are needed: ``np.eye(n_L)[o]`` for the Hessian of output o.
        params : (n_params,) array_like, optional
        out : (n_samples, n_0, n_0) array of the network's dtype, optional
        n_threads : int, optional

        Returns
        -------
        (n_samples, n_0, n_0) array
            Symmetric to the last bit.

        Warns
        -----
        RuntimeWarning
            Once, if the network is linear in pieces, as with relu: the result is then 0 almost everywhere.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or if an activation of your own has no g_second.

        Notes
        -----
        With J_i = da_i/dx, and grad_h_i from a backward sweep that starts with the multipliers at y_hat,

            H = sum_i J_i^T diag(grad_h_i (.) g''(a_i)) J_i

        over all layers: one forward sweep of the Jacobian, one backward sweep, and symmetric products.

        References
        ----------
        C. Bishop, Exact calculation of the Hessian matrix for the multilayer perceptron, Neural Computation 4 (1992),
        for the Hessian by the parameters, with the same two sweeps.
        """
        self._warn_of_linear_pieces("input_hessian")
        result: Array | None = self._plan.quick(
            _INPUT_HESSIAN, self._memory, params, x, None, None, out, n_threads, threads.get_num_threads, multipliers
        )
        if result is not None:
            return result
        self._need_second("input_hessian")
        n_threads = threads.resolve(n_threads)
        n_out, dtype = self._architecture.sizes[-1], self._architecture.dtype
        x_, theta = self._samples(x), self._theta(params)
        weights = validate.multipliers(multipliers, x_.shape[0], n_out, dtype)
        others = validate.inputs(x, x_, None, None, params, theta, None, None)
        shape = self._plan.result_shape(_INPUT_HESSIAN, x_.shape[0])
        H = self._result(out, shape, {**others, "multipliers": (multipliers, weights)})
        self._plan.run(_INPUT_HESSIAN, theta, x_, None, H, None, n_threads, operand=weights)
        return H

    def input_jet(
        self,
        x: npt.ArrayLike,
        directions: npt.ArrayLike | None = None,
        *,
        params: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> InputJet:
        """y_hat with its first and second derivatives along directions of the input.

        Parameters
        ----------
        x : (n_samples, n_0) array_like
        directions : (k, n_0) or (n_samples, k, n_0) array_like, optional
            k >= 1 directions q_j, the same for all samples or its own for each. They need not have length 1. Without
            them, they are the n_0 axes.
        params : (n_params,) array_like, optional
            Parameters to use instead of the network's own.
        n_threads : int, optional

        Returns
        -------
        InputJet
            ``.y`` (n_samples, n_L) is y_hat. ``.dy`` and ``.d2y`` (n_samples, n_L, k) are d/dt and d^2/dt^2 of
            y_hat(x + t q_j) at t = 0, which are q_j . grad_x y_hat and q_j . (Hess_x y_hat) q_j.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or if an activation of your own has no g_second.
        MemoryError
            If the result does not fit into memory.

        Notes
        -----
        Along each direction, d_a = W d_h, s_a = W s_h, d_h = g'(a) d_a, s_h = g'(a) s_a + g''(a) d_a^2. A mixed
        derivative is made of directions: 4 d^2y/dx_1 dx_2 is the second derivative along (1, 1) minus that along
        (1, -1). `jet_vjp` is the way back to the parameters.

        References
        ----------
        A. Griewank and A. Walther, Evaluating derivatives, 2nd edition, SIAM (2008), chapter 13: Taylor coefficients,
        and mixed derivatives from those along directions.
        """
        result: tuple[Array, Array, Array] | None = self._plan.quick(
            _INPUT_JET, self._memory, params, x, None, None, None, n_threads, threads.get_num_threads, directions
        )
        if result is not None:
            return InputJet(*result)
        self._need_second("input_jet")
        n_threads = threads.resolve(n_threads)
        x_, theta = self._samples(x), self._theta(params)
        along, k = self._directions(directions, x_.shape[0])
        y = self._result(None, (x_.shape[0], self._architecture.sizes[-1]), {})
        dy, d2y = (self._result(None, (*y.shape, k), {}) for _ in range(2))
        self._plan.input_jet(theta, x_, along, y, dy, d2y, n_threads)
        return InputJet(y, dy, d2y)

    # Back ------------------------------------------------------------------------------------------------------------

    def jet_vjp(
        self,
        x: npt.ArrayLike,
        cot_y: npt.ArrayLike | None = None,
        cot_dy: npt.ArrayLike | None = None,
        cot_d2y: npt.ArrayLike | None = None,
        directions: npt.ArrayLike | None = None,
        *,
        params: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> tuple[Array, Array]:
        """Gradients of sum (cot_y y + cot_dy dy + cot_d2y d2y) of `input_jet`, by the parameters and by x.

        For any loss of values and of first and second derivatives, the cotangents are the gradients of that loss by y,
        dy and d2y.

        Parameters
        ----------
        x : (n_samples, n_0) array_like
        cot_y : (n_samples, n_L) array_like, optional
        cot_dy, cot_d2y : (n_samples, n_L, k) array_like, optional
            One that is left out counts as zeros; at least one is needed.
        directions : (k, n_0) or (n_samples, k, n_0) array_like, optional
            As in `input_jet`: without them, the axes. They are constants.
        params : (n_params,) array_like, optional
        n_threads : int, optional

        Returns
        -------
        grad_params : (n_params,) array
            Summed over samples.
        grad_x : (n_samples, n_0) array

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or if an activation of your own has no g_second or no g_third.

        Notes
        -----
        With cotangents (h', D', S') of h and its derivatives behind the activation, and d, s those before it, a layer
        gives s' = g' S', d'_j = g' D'_j + 2 g'' d_j S'_j, and
        a' = g' h' + sum_j (g'' d_j D'_j + (g'' s_j + g''' d_j^2) S'_j).
        """
        self._need_second("jet_vjp")
        self._need_third("jet_vjp")
        n_threads = threads.resolve(n_threads)
        n_out, dtype = self._architecture.sizes[-1], self._architecture.dtype
        if cot_y is None and cot_dy is None and cot_d2y is None:
            raise TypeError("jet_vjp: expected at least one of cot_y, cot_dy and cot_d2y, got None for all three")
        x_, theta = self._samples(x), self._theta(params)
        along, k = self._directions(directions, x_.shape[0])
        n_samples = x_.shape[0]
        of_y, of_dy, of_d2y = (
            None if value is None else validate.rows(value, n_samples, shape, dtype, name)
            for value, shape, name in (
                (cot_y, (n_out,), "cot_y"),
                (cot_dy, (n_out, k), "cot_dy"),
                (cot_d2y, (n_out, k), "cot_d2y"),
            )
        )
        grad_params, grad_x = np.empty(self.n_params, dtype), np.empty(x_.shape, dtype)
        self._plan.jet_vjp(theta, x_, along, of_y, of_dy, of_d2y, grad_params, grad_x, n_threads)
        return grad_params, grad_x

    def _directions(self, directions: npt.ArrayLike | None, n_samples: int) -> tuple[Array | None, int]:
        """The directions, and how many there are; None for the axes."""
        n_in = self._architecture.sizes[0]
        if directions is None:
            return None, n_in
        along = validate.directions(directions, n_samples, n_in, self._architecture.dtype)
        return along, along.shape[-2]

    # For solvers -----------------------------------------------------------------------------------------------------

    @other_names.checks_names
    def constraint(self, lb: npt.ArrayLike, ub: npt.ArrayLike, *, n_threads: int | None = None) -> NonlinearConstraint:
        """The constraint lb <= y_hat(x) <= ub on one input x, with its Jacobian and Hessian, for SciPy's solvers.

        Parameters
        ----------
        lb, ub : float or (n_L,) array_like
            Bounds for the outputs; -inf or inf for none, and equal ones for an equation.
        n_threads : int, optional

        Returns
        -------
        scipy.optimize.NonlinearConstraint
            ``fun(x)`` (n_L,), ``jac(x)`` (n_L, n_0) and ``hess(x, v)`` (n_0, n_0), that of v . y_hat, for one x
            (n_0,). They return new float64 arrays, and use the parameters that the network has when they are called.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or if an activation of your own has no g_second.

        Notes
        -----
        ``minimize(..., method="trust-constr", constraints=[net.constraint(lb, ub)])`` uses all three functions. SLSQP
        uses the first two, and warns that it ignores the third. A float32 network rounds x and its results, and solvers
        stop early: use float64.
        """
        from scipy.optimize import NonlinearConstraint

        n_out = self._architecture.sizes[-1]
        lower, upper = validate.bounds(lb, ub, n_out)
        threads.resolve(n_threads)
        self._need_second("constraint")
        its = _AtOnePoint(self, n_threads)
        return NonlinearConstraint(its.fun, lower, upper, its.jac, its.hess)


@dataclass(frozen=True, eq=False)
class _AtOnePoint:
    """The network as functions of one x: a class, since nested functions cannot be pickled."""

    net: InputDerivatives
    n_threads: int | None

    def _point(self, x: npt.ArrayLike) -> Array:
        """The x of a solver as a batch of one."""
        architecture = self.net._architecture
        return validate.params(x, architecture.sizes[0], architecture.dtype, "x")[None]

    def fun(self, x: npt.ArrayLike) -> Array:
        """y_hat, (n_L,)."""
        y_hat = self.net._call(_FORWARD, self._point(x), None, None, None, None, self.n_threads)
        return np.array(y_hat[0], np.float64)

    def jac(self, x: npt.ArrayLike) -> Array:
        """dy_hat/dx, (n_L, n_0)."""
        J = self.net._call(_INPUT_JACOBIAN, self._point(x), None, None, None, None, self.n_threads)
        return np.array(J[0], np.float64)

    def hess(self, x: npt.ArrayLike, v: npt.ArrayLike) -> Array:
        """The Hessian of v . y_hat, (n_0, n_0)."""
        architecture = self.net._architecture
        multipliers = validate.params(v, architecture.sizes[-1], architecture.dtype, "v")
        H = self.net.input_hessian(self._point(x), multipliers, n_threads=self.n_threads)
        return np.array(H[0], np.float64)
