"""The calls of `Network` that make an `Objective`."""

from __future__ import annotations

import numpy.typing as npt

from backprop import threads
from backprop.api import array_likes, coefficients, other_names, scalars, validate
from backprop.api.base import Base
from backprop.distributed import terms
from backprop.distributed.blocks import Blocks
from backprop.distributed.differential_equation import DifferentialEquation
from backprop.distributed.fitted import InputGradients
from backprop.distributed.terms import Accepted, Given
from backprop.objective import Objective


class Objectives(Base):
    """A network as a function of its parameters, for optimizers."""

    __slots__ = ()

    @other_names.checks_names
    def objective(
        self,
        x: npt.ArrayLike | Blocks,
        y: npt.ArrayLike | None = None,
        *,
        sample_weight: npt.ArrayLike | None = None,
        l2: float = 0.0,
        free: npt.ArrayLike | None = None,
        n_threads: int | None = None,
        comm: object = None,
    ) -> Objective:
        """The function theta -> (loss, gradient) of this network on these data, for `scipy.optimize.minimize`.

        Parameters
        ----------
        x : (n_samples, n_0) array_like, or blocks
            Without y: blocks of rows, for data that are larger than memory. That is an iterable, or a function that
            makes one, of tuples (x, y) or (x, y, sample_weight) with any number of rows. It is read anew for each
            evaluation, so a list, a generator function, or an object whose ``iter()`` starts anew will do; a generator,
            which can be read once, will not.
        y, sample_weight, n_threads
            As in `value_and_grad`. Blocks bring their own y and sample_weight.
        l2 : float
            Adds l2/2 times the sum of all squared weights, without biases. It is not divided by n_samples. For
            scikit-learn's alpha use l2 = alpha / n_samples, or alpha / sample_weight.sum() with weights; twice that
            for squared_error, since scikit-learn halves the squared error.
        free : (n_params,) boolean mask, optional
            theta and the gradient then hold only the free parameters. The others keep their values in the network.
        comm : mpi4py communicator, optional
            x, y and sample_weight, or the blocks, are then the rows of this rank. The data set is the rows of all
            ranks, in the order of the ranks. A rank may have any number of rows, also none. All ranks make the
            objective together and evaluate it together at the same theta; or rank 0 evaluates it while the others are
            in ``fun.serve()``. Each gets the bits that one process gets from all rows. If a rank fails, or if arguments
            differ, all raise. By default, the ranks on one machine share its CPUs.

        Returns
        -------
        Objective
            ``fun(theta) -> (float, a new float64 array)``, for ``minimize(fun, x0, jac=True)``. Also
            ``fun.value(theta)`` and ``fun.grad(theta)``, which share their work at the same theta; ``fun.hess(theta)``
            and ``fun.hessp(theta, v)``, the Hessian alone and times v; and ``fun.expand(theta)``, all parameters.

        Raises
        ------
        TypeError, ValueError
            If an argument or a block is refused; the error names the number of the block.
        RuntimeError
            With comm, if another rank fails or has other arguments.

        Notes
        -----
        With blocks, loss, gradient and products have the bits that one call on all rows gives, for any lengths of the
        blocks. They are read once when the objective is made, to look at rows, targets and weights. A thread reads one
        block ahead, so two are in memory, and the rows of one unit, some thousands. If an evaluation finds other rows
        than the first pass, it raises a RuntimeError. An exception of the iterable is raised as it came.
        """
        return Objective(self, x, y, sample_weight=sample_weight, l2=l2, free=free, n_threads=n_threads, comm=comm)

    @other_names.checks_names
    def sobolev_objective(
        self,
        x: npt.ArrayLike | Blocks,
        y: npt.ArrayLike | None = None,
        grad_x: npt.ArrayLike | None = None,
        weight: npt.ArrayLike | None = None,
        *,
        sample_weight: npt.ArrayLike | None = None,
        l2: float = 0.0,
        free: npt.ArrayLike | None = None,
        n_threads: int | None = None,
        comm: object = None,
    ) -> Objective:
        """The loss of `sobolev_value_and_grad` on fixed data as a function of theta: values and input gradients.

        Parameters
        ----------
        x, y, grad_x, weight, sample_weight
            As in `sobolev_value_and_grad`; the loss must be squared_error. Without y and grad_x, x is blocks as in
            `objective`, of tuples (x, y, grad_x) or (x, y, grad_x, sample_weight); weight is then given by name.
        l2, free, n_threads
            As in `objective`.
        comm : mpi4py communicator, optional
            The arrays or blocks are then the rows of this rank, as in `objective`. All ranks give the same weight.

        Returns
        -------
        Objective
            As that of `objective`, and it adds up with those; but it has no second derivatives: ``hessp`` and ``hess``
            raise a ValueError.

        Raises
        ------
        TypeError, ValueError
            If an argument or a block is refused, or if the loss is another one.
        RuntimeError
            With comm, if another rank fails or has other arguments.
        """

        def accept() -> Accepted:
            """Accept all arguments but the samples."""
            self._need_squared_error("sobolev_objective")
            self._need_second("sobolev_objective")
            threads.resolve(n_threads)
            if weight is None:
                raise TypeError("weight: expected a number or an array (n_L, n_0) for the input gradients, got None")
            fitted = InputGradients(validate.gradient_weight(weight, (self.sizes[-1], self.sizes[0])).copy())
            return Accepted(scalars.non_negative(l2, "l2"), validate.free_mask(free, self.n_params), fitted)

        term, mask = terms.accepted(self, accept, Given(x, y, sample_weight, grad_x), n_threads, comm)
        return Objective._of(self, mask, (term,))

    @other_names.checks_names
    def pde_objective(
        self,
        x: npt.ArrayLike | Blocks,
        f: npt.ArrayLike | None = None,
        *,
        c: npt.ArrayLike = 0.0,
        b: npt.ArrayLike | None = None,
        D: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        l2: float = 0.0,
        free: npt.ArrayLike | None = None,
        n_threads: int | None = None,
        comm: object = None,
    ) -> Objective:
        """The squared residual of a linear differential equation as a function of theta: a physics-informed fit.

        With u the one output of the network, it is

            sum_s w_s (c_s u + b_s . grad_x u + D_s : Hess_x u - f_s)^2 / sum_s w_s,   D : H = sum_jk D_jk H_jk.

        Poisson's equation is D = 1, Helmholtz's c = k^2 and D = 1; the heat equation for x = (t, z) is b = [1, 0] and
        D = [[0, 0], [0, -a]]. Boundary and initial values are another term:
        ``net.pde_objective(x, f, D=1) + 10 * net.objective(x_boundary, u_boundary)``.

        Parameters
        ----------
        x : (n_samples, n_0) array_like, or blocks
            The points. Without f: blocks as in `objective`, of tuples (x, f) or (x, f, sample_weight); c, b and D are
            then the same for all samples.
        f : float or (n_samples,) or (n_samples, 1) array_like
            The right-hand side; 0 if the equation has none.
        c : float or (n_samples,) array_like
        b : (n_0,) or (n_samples, n_0) array_like, optional
            By default 0; for one input also a number.
        D : float or (n_0, n_0) or (n_samples, n_0, n_0) array_like, optional
            By default 0. A number counts times the identity: ``D=1`` is the Laplacian. Only the symmetric part counts.
        sample_weight : (n_samples,) array_like, optional
            As in `value_and_grad`. In rows of weight 0, all others may be NaN.
        l2, free, n_threads
            As in `objective`.
        comm : mpi4py communicator, optional
            The arrays or blocks, also c, b and D by sample, are then the rows of this rank, as in `objective`. What is
            the same for all samples must be equal on all ranks.

        Returns
        -------
        Objective
            As that of `objective`, and it adds up with those. ``hessp`` and ``hess`` give its Gauss-Newton
            approximation, which leaves out the second derivatives of the residuals by theta.

        Warns
        -----
        RuntimeWarning
            Once, if the network is linear in pieces, as with relu: the Hessian of u is then 0 almost everywhere.

        Raises
        ------
        TypeError, ValueError
            If an argument or a block is refused, if c, b, D or f is not finite, if the network has more than one output
            or another loss than squared_error, or if an activation of your own has no g_second or no g_third.
        RuntimeError
            With comm, if another rank fails or has other arguments.

        Notes
        -----
        x, f and the weights are not copied if they fit, c, b and D are. The value and the gradient take about
        3 (k + 2) forward passes if b and D use k of the n_0 axes; no Hessian is formed. If D is diagonal in all
        samples, it costs a little less.

        References
        ----------
        M. Raissi, P. Perdikaris and G. Karniadakis, Physics-informed neural networks, Journal of Computational Physics
        378 (2019).
        """

        def accept() -> Accepted:
            """Accept all arguments but the samples."""
            self._need_squared_error("pde_objective")
            if self.sizes[-1] != 1:
                raise ValueError(
                    f"pde_objective: expected a network of one output u, got one of {self.sizes[-1]}; for systems of "
                    "equations take input_jet and jet_vjp"
                )
            self._need_second("pde_objective")
            self._need_third("pde_objective")
            self._warn_of_linear_pieces("pde_objective")
            threads.resolve(n_threads)
            given = coefficients.accepted(c, b, D, self.sizes[0], self.dtype)
            if f is None and given.by_sample and not array_likes.is_one_array(x):
                name, array = next(iter(given.by_sample.items()))
                raise TypeError(
                    f"{name}: expected the same for all samples beside blocks, which bring x and f alone, got "
                    f"{array_likes.describe(array)}; give x and f as arrays"
                )
            fitted = DifferentialEquation(given)
            return Accepted(scalars.non_negative(l2, "l2"), validate.free_mask(free, self.n_params), fitted)

        term, mask = terms.accepted(self, accept, Given(x, f, sample_weight), n_threads, comm)
        return Objective._of(self, mask, (term,))
