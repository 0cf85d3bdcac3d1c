"""`Objective`: a network's loss on fixed data as a function of a flat float64 vector, for scipy.optimize."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api import array_likes, attributes, parameters, scalars, shown, validate
from backprop.api.base import Base
from backprop.distributed import terms
from backprop.distributed.blocks import Blocks
from backprop.distributed.terms import Accepted, Given, Terms

Array = npt.NDArray[Any]

# Attributes that cannot be assigned, and what to do instead.
_FIXED = {
    **{
        name: f"is fixed when the objective is made: make another one, net.objective(x, y, {name}=...)"
        for name in ("sample_weight", "l2", "free", "n_threads", "comm")
    },
    **dict.fromkeys(("net", "x", "y"), "is fixed when the objective is made: make another one, net.objective(x, y)"),
    "n_free": "follows from free",
}


class Objective(attributes.Closed, shown.Shown):
    """The function theta -> (loss, gradient) that `Network.objective` makes.

    Objectives of one network with equal free add up, and a number scales one: ``fun_1 + 0.1 * fun_2`` and
    ``sum([fun_1, fun_2])`` are objectives too.

    Parameters
    ----------
    net : Network
    x, y, sample_weight, l2, free, n_threads, comm
        As in `Network.objective`.

    Notes
    -----
    Many threads may use one objective. The last theta and its results are kept, so `value` and `grad` at one theta cost
    one evaluation. Each returned gradient is a new array, since SciPy keeps old ones. After the first `hessp` at a
    theta, further products there need no forward sweep and no sweep of the gradient: the results of these sweeps are
    kept for the first samples, up to 64 MiB. (Not so with blocks, comm or a differential equation.) x, y and the
    weights are not copied if they fit; do not change them.

    With comm, threads of one rank must make their calls in the order of the other ranks, and a product with the Hessian
    costs as much as `Network.hvp`.

    In a sum each term keeps its samples, l2 and comm, and the terms are added in their order. Terms may have one
    communicator only, and some may have none: these are computed by each rank alone.

    Evaluating an objective does not change the network, so after ``result = minimize(fun, net.params, jac=True)`` write
    ``net.params = result.x``, or ``net.params = fun.expand(result.x)``, which is right with free too.

    `scipy.optimize.check_grad` and `scipy.optimize.approx_fprime` need the loss without its gradient:
    ``check_grad(fun.value, fun.grad, p)``. For a float32 network their steps of 1.5e-8 are lost when theta is rounded:
    use a float64 network, or `Network.check_gradient`.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_free",
        "_is_weight",
        "_last",
        "_net",
        "_terms",
    )
    _fixed = _FIXED
    __array_ufunc__ = None  # so that NumPy leaves np.float64(0.1) * fun to __rmul__

    def __init__(
        self,
        net: Base,
        x: npt.ArrayLike | Blocks,
        y: npt.ArrayLike | None = None,
        *,
        sample_weight: npt.ArrayLike | None = None,
        l2: float = 0.0,
        free: npt.ArrayLike | None = None,
        n_threads: int | None = None,
        comm: object = None,
    ) -> None:
        def accept() -> Accepted:
            """Accept all arguments but the samples."""
            threads.resolve(n_threads)
            return Accepted(scalars.non_negative(l2, "l2"), validate.free_mask(free, net.n_params))

        term, mask = terms.accepted(net, accept, Given(x, y, sample_weight), n_threads, comm)
        self._take(net, mask, (term,))

    def _take(self, net: Base, free: npt.NDArray[np.bool_] | None, its_terms: Terms) -> None:
        """Have these attributes."""
        self._net, self._free, self._terms = net, free, its_terms
        self._is_weight = np.zeros(net.n_params, bool)
        for W, _ in parameters.unflatten(self._is_weight, net.sizes):
            W[...] = True
        self._last: tuple[Array, float, Array, tuple[int, ...]] | None = None

    @staticmethod
    def _of(net: Base, free: npt.NDArray[np.bool_] | None, its_terms: Terms) -> Objective:
        """The objective of these terms."""
        fun = Objective.__new__(Objective)
        fun._take(net, free, its_terms)
        return fun

    # Sums of objectives -----------------------------------------------------------------------------------------------

    def __add__(self, other: Objective) -> Objective:
        if not isinstance(other, Objective):
            raise TypeError(f"+: expected another objective of the same network, got {array_likes.describe(other)}")
        if self._net is not other._net:
            raise ValueError(
                f"+: expected objectives of one network, got those of two, {self._net!r} and {other._net!r}; "
                "make both by one network's calls"
            )
        if self.n_free != other.n_free or not np.array_equal(self._mask(), other._mask()):
            raise ValueError(
                f"+: expected objectives with equal free, got {self.n_free:,} free parameters on the left, and "
                f"{other.n_free:,}{' others' if self.n_free == other.n_free else ''} on the right"
            )
        ours, theirs = terms.across_ranks(self._terms), terms.across_ranks(other._terms)
        if ours is not None and theirs is not None and not ours.is_with(theirs):
            raise ValueError("+: expected objectives with one comm, or with none, got two communicators")
        return self._of(self._net, self._free, self._terms + other._terms)

    def __radd__(self, other: object) -> Objective:
        if isinstance(other, int) and not isinstance(other, bool) and other == 0:  # with which sum() begins
            return self
        raise TypeError(f"+: expected another objective of the same network, got {array_likes.describe(other)}")

    def __mul__(self, factor: float) -> Objective:
        number = scalars.finite(factor, "*")
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            scaled = tuple(term._replace(factor=number * term.factor) for term in self._terms)
        return self._of(self._net, self._free, scaled)

    __rmul__ = __mul__

    def _mask(self) -> npt.NDArray[np.bool_]:
        """The mask of the free parameters, also if all are free."""
        return np.ones(self._net.n_params, bool) if self._free is None else self._free

    # What it shows and pickles ----------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._net!r}, {', '.join(self._facts())}>"

    def _facts(self) -> list[str]:
        """What is minimised, in words."""
        if len(self._terms) == 1 and self._terms[0].factor == 1.0:
            facts = self._terms[0].facts
        else:
            facts = [" + ".join(f"{term.factor:g} * ({', '.join(term.facts)})" for term in self._terms)]
        if self._free is not None:
            facts.append(f"{self.n_free:,} of {shown.count(self._net.n_params, 'parameter')} free")
        return facts

    def _table(self) -> shown.Table:
        table = self._net._table()
        title = f"{type(self).__name__}: {', '.join(self._facts())}"
        return table._replace(title=title, notes=(table.title,))

    def __getstate__(self) -> object:
        if terms.across_ranks(self._terms) is not None:
            raise TypeError(
                f"{type(self).__name__}: expected an objective without comm to pickle or copy, got one with a "
                "communicator; pickle the network and the data, and make the objective on all ranks"
            )
        return object.__getstate__(self)  # with slots, protocols 0 and 1 of pickle need this method

    # The function and its derivatives ---------------------------------------------------------------------------------

    @property
    def n_free(self) -> int:
        """The length of theta: n_params, or the number of free parameters."""
        return self._net.n_params if self._free is None else int(self._free.sum())

    def __call__(self, theta: npt.ArrayLike) -> tuple[float, Array]:
        """Loss and gradient at theta.

        Parameters
        ----------
        theta : (n_free,) array_like
            Rounded to the network's dtype.

        Returns
        -------
        loss : float
        grad : (n_free,) float64 array
            A new array at each call.

        Raises
        ------
        TypeError, ValueError
            If theta is refused.
        """
        loss, grad = self._evaluate(theta)
        return loss, grad.copy()

    def value(self, theta: npt.ArrayLike) -> float:
        """The loss at theta."""
        return self._evaluate(theta)[0]

    def grad(self, theta: npt.ArrayLike) -> Array:
        """The gradient at theta, a new (n_free,) float64 array."""
        return self._evaluate(theta)[1].copy()

    def hessp(self, theta: npt.ArrayLike, v: npt.ArrayLike) -> Array:
        """The Hessian at theta times v, l2 included: for `scipy.optimize.minimize` with trust-ncg or trust-krylov.

        For a term of `Network.pde_objective` it is the Gauss-Newton approximation, (2 / sum w) J^T diag(w) J with the
        Jacobian J of the residuals.

        Parameters
        ----------
        theta : (n_free,) array_like
        v : (n_free,) array_like

        Returns
        -------
        (n_free,) float64 array
            A new array at each call.

        Raises
        ------
        TypeError, ValueError
            If theta or v is refused, or with a term of `Network.sobolev_objective`.
        """
        net = self._net
        self._need_second("hessp")
        try:
            full = self._full_params(validate.params(theta, self.n_free, net.dtype, "theta"))
            direction = validate.params(v, self.n_free, net.dtype, "v")
        except Exception as error:
            terms.refuse(self._terms, error)
            raise
        if self._free is not None:  # the direction is 0 for fixed parameters
            whole = np.zeros(net.n_params, net.dtype)
            whole[self._free] = direction
            direction = whole
        _, product = terms.added(self._terms, lambda term: term.hessp(full, direction, self._is_weight))
        return product if self._free is None else product[self._free]

    def hess(self, theta: npt.ArrayLike) -> Array:
        """The Hessian at theta, l2 included: for `scipy.optimize.minimize` with trust-exact or dogleg.

        For a term of `Network.pde_objective` it is the Gauss-Newton approximation, at the cost of ``n_free`` products.

        Parameters
        ----------
        theta : (n_free,) array_like

        Returns
        -------
        (n_free, n_free) float64 array
            Symmetric to the last bit. A new array at each call.

        Raises
        ------
        TypeError, ValueError
            If theta is refused, or with a term of `Network.sobolev_objective`.
        MemoryError
            If the Hessian of all n_params parameters does not fit into memory: it is computed also with free. Blocks
            and comm need 25 bytes for each of its entries. `hessp` needs none of this.
        """
        self._need_second("hess")
        full = self._accepted(theta)
        return terms.added(self._terms, lambda term: term.hess(full, self._is_weight, self._free))[1]

    def expand(self, theta: npt.ArrayLike) -> Array:
        """All parameters of the network: theta for the free ones, and for the others the values in the network.

        Parameters
        ----------
        theta : (n_free,) array_like

        Returns
        -------
        (n_params,) array of the network's dtype
            A new array at each call, for ``net.params = fun.expand(result.x)``.

        Raises
        ------
        TypeError, ValueError
            If theta is refused.
        """
        full = self._full_params(validate.params(theta, self.n_free, self._net.dtype, "theta"))
        return full.copy() if self._free is None else full

    # With ranks of MPI ------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """On a rank above 0: compute this rank's part of all that rank 0 evaluates, until rank 0 calls ``stop``.

        So an optimizer runs on rank 0 alone::

            if comm.rank == 0:
                result = minimize(fun, net.params, jac=True)
                fun.stop()
            else:
                fun.serve()

        Notes
        -----
        It serves all objectives that were made with this communicator. If an evaluation fails on some rank, rank 0
        raises, and this rank serves on.

        Raises
        ------
        RuntimeError
            On rank 0, without a communicator, or if another rank ends its program or leaves a call.
        """
        samples = terms.across_ranks(self._terms)
        if samples is None:
            raise RuntimeError("serve: expected an objective of many ranks, net.objective(..., comm=comm), got none")
        samples.serve()

    def stop(self) -> None:
        """On rank 0: let all other ranks return from ``serve``; wait for those that have not come there yet.

        A second stop does nothing, nor does one without other ranks.

        Raises
        ------
        RuntimeError
            On other ranks, or if other ranks evaluate instead of serving.
        """
        samples = terms.across_ranks(self._terms)
        if samples is not None:
            samples.stop()

    def _need_second(self, call: str) -> None:
        """Refuse activations without g'', and terms without second derivatives."""
        self._net._need_second(call)
        if not all(term.samples.fitted.has_second for term in self._terms):
            raise ValueError(
                f"{call}: expected an objective without input gradients, got one of sobolev_objective, which has no "
                "second derivatives; use a method that needs gradients alone, as L-BFGS-B or BFGS"
            )

    def _full_params(self, theta: Array) -> Array:
        """The parameters of the network, with theta for the free ones."""
        if self._free is None:
            return theta
        full = self._net.params.copy()
        full[self._free] = theta
        return full

    def _accepted(self, theta: npt.ArrayLike) -> Array:
        """All parameters for a theta of the user. If it is refused, all ranks raise."""
        try:
            return self._full_params(validate.params(theta, self.n_free, self._net.dtype, "theta"))
        except Exception as error:
            terms.refuse(self._terms, error)
            raise

    def _evaluate(self, theta: npt.ArrayLike) -> tuple[float, Array]:
        full = self._accepted(theta)
        last, epochs = self._last, tuple([term.samples.epoch for term in self._terms])
        with _core.DefaultFloatMode():
            # Most thetas differ in their first entry; a look at all of them takes some microseconds.
            is_last = last is not None and last[3] == epochs and last[0][0] == full[0] and np.array_equal(last[0], full)
        if last is not None and is_last:
            return last[1], last[2]
        loss, grad = terms.added(self._terms, lambda term: term.value_and_grad(full))
        if self._free is not None:
            grad = grad[self._free]
        # One tuple: another thread then reads what belongs to one theta.
        self._last = (full.copy() if self._free is None else full, loss, grad, epochs)
        return loss, grad
