"""The calls of `Network` that make an `Objective`."""

from __future__ import annotations

import numpy.typing as npt

from backprop import threads
from backprop.api import other_names, scalars, validate
from backprop.api.base import Base
from backprop.distributed import terms
from backprop.distributed.blocks import Blocks
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
