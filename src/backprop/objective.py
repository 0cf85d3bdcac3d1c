"""`Objective`: a network's loss on fixed data as a function of a flat float64 vector, for scipy.optimize."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api import attributes, parameters, scalars, shown, validate
from backprop.api.base import Base
from backprop.distributed import agreement, communicator
from backprop.distributed.blocks import Blocks, Stream, Streamed
from backprop.distributed.ranks import AcrossRanks
from backprop.distributed.rows_of_ranks import Arrays, Rows
from backprop.distributed.samples import InMemory, Source

Array = npt.NDArray[Any]

_VALUE_AND_GRAD = _core.CALLS["value_and_grad"]
_HVP = _core.CALLS["hvp"]
_HESSIAN = _core.CALLS["hessian"]

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
    kept for the first samples, up to 64 MiB. x, y and the weights are not copied if they fit; do not change them.

    With comm, threads of one rank must make their calls in the order of the other ranks, and a product with the Hessian
    costs as much as `Network.hvp`.

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
        "_l2",
        "_last",
        "_net",
        "_samples",
    )
    _fixed = _FIXED

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
        self._net, self._l2, self._free = net, 0.0, None

        def accept() -> None:
            """Accept all arguments but the samples."""
            threads.resolve(n_threads)
            self._l2 = scalars.non_negative(l2, "l2")
            self._free = validate.free_mask(free, net.n_params)

        if comm is None:
            accept()
            self._samples = _source(net, x, y, sample_weight, n_threads)
        else:
            self._samples = self._source_of_ranks(comm, accept, x, y, sample_weight, n_threads)
        self._is_weight = np.zeros(net.n_params, bool)
        for W, _ in parameters.unflatten(self._is_weight, net.sizes):
            W[...] = True
        self._last: tuple[Array, float, Array, int] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._net!r}, {', '.join(self._facts())}>"

    def _facts(self) -> list[str]:
        """What is minimised, in words."""
        facts = [shown.count(self._samples.n_samples, "sample")]
        if isinstance(self._samples, AcrossRanks):
            facts[0] += f" on {shown.count(self._samples.n_ranks, 'rank')}"
        if self._samples.weight_axes:
            facts.append("weighted" if self._samples.weight_axes == 1 else "weighted by output")
        if self._l2:
            facts.append(f"l2={self._l2:g}")
        if self._free is not None:
            facts.append(f"{self.n_free:,} of {shown.count(self._net.n_params, 'parameter')} free")
        return facts

    def _table(self) -> shown.Table:
        table = self._net._table()
        title = f"{type(self).__name__}: {', '.join(self._facts())}"
        return table._replace(title=title, notes=(table.title,))

    def __getstate__(self) -> object:
        if isinstance(self._samples, AcrossRanks):
            raise TypeError(
                f"{type(self).__name__}: expected an objective without comm to pickle or copy, got one with a "
                "communicator; pickle the network and the data, and make the objective on all ranks"
            )
        return object.__getstate__(self)  # with slots, protocols 0 and 1 of pickle need this method

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
            If theta or v is refused.
        """
        net = self._net
        net._need_second("hessp")
        try:
            full = self._full_params(validate.params(theta, self.n_free, net.dtype, "theta"))
            direction = validate.params(v, self.n_free, net.dtype, "v")
        except Exception as error:
            self._refuse(error)
            raise
        if self._free is not None:  # the direction is 0 for fixed parameters
            whole = np.zeros(net.n_params, net.dtype)
            whole[self._free] = direction
            direction = whole
        _, product_of_loss = self._samples.sums(_HVP, full, direction)
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            product = product_of_loss.astype(np.float64)
            if self._l2:
                product += self._l2 * self._weights_in(direction)
        return product if self._free is None else product[self._free]

    def hess(self, theta: npt.ArrayLike) -> Array:
        """The Hessian at theta, l2 included: for `scipy.optimize.minimize` with trust-exact or dogleg.

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
            If theta is refused.
        MemoryError
            If the Hessian of all n_params parameters does not fit into memory: it is computed also with free. Blocks
            and comm need 25 bytes for each of its entries. `hessp` needs none of this.
        """
        self._net._need_second("hess")
        full = self._accepted(theta)
        _, hessian_of_loss = self._samples.sums(_HESSIAN, full)
        _core.mirror(hessian_of_loss)  # each row is computed from its own layer on
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            H = hessian_of_loss.astype(np.float64)
            if self._l2:
                diagonal = np.arange(self._net.n_params)[self._is_weight]
                H[diagonal, diagonal] += self._l2
        return H if self._free is None else H[np.ix_(self._free, self._free)]

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
        if not isinstance(self._samples, AcrossRanks):
            raise RuntimeError("serve: expected an objective of many ranks, net.objective(..., comm=comm), got none")
        self._samples.serve()

    def stop(self) -> None:
        """On rank 0: let all other ranks return from ``serve``; wait for those that have not come there yet.

        A second stop does nothing, nor does one without other ranks.

        Raises
        ------
        RuntimeError
            On other ranks, or if other ranks evaluate instead of serving.
        """
        if isinstance(self._samples, AcrossRanks):
            self._samples.stop()

    def _source_of_ranks(
        self,
        comm: object,
        accept: Callable[[], None],
        x: npt.ArrayLike | Blocks,
        y: npt.ArrayLike | None,
        sample_weight: npt.ArrayLike | None,
        n_threads: int | None,
    ) -> AcrossRanks:
        """The samples of all ranks. An error on this rank is raised on all."""
        net, shared, facts = self._net, communicator.of(comm), dict[str, float | int | None]()
        rows: Rows | None = None
        error: BaseException | None = None
        try:
            accept()
            facts.update({"l2": self._l2, "the values of free": agreement.checksum(self._free)})
            if self._free is not None:
                facts["the values of the frozen parameters"] = agreement.checksum(net.params[~self._free])
            _refuse_weight_beside_blocks(y, sample_weight)
            rows = Stream(net, x) if y is None else Arrays(net, x, y, sample_weight)  # type: ignore[arg-type]
        except BaseException as caught:
            error = caught
        return AcrossRanks(net, shared, facts, rows, error, n_threads)

    def _refuse(self, error: Exception) -> None:
        """Raise an error on all ranks if an argument is refused on this one."""
        if isinstance(self._samples, AcrossRanks):
            self._samples.refuse(error)

    def _weights_in(self, vector: Array) -> Array:
        """A vector with the layout of params in float64, with 0 for biases: l2 acts only on weights."""
        return np.where(self._is_weight, vector, 0.0).astype(np.float64)

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
            self._refuse(error)
            raise

    def _evaluate(self, theta: npt.ArrayLike) -> tuple[float, Array]:
        full = self._accepted(theta)
        last, epoch = self._last, self._samples.epoch
        with _core.DefaultFloatMode():
            is_last = last is not None and last[3] == epoch and np.array_equal(last[0], full)
        if last is not None and is_last:
            return last[1], last[2]
        loss, net_grad = self._samples.sums(_VALUE_AND_GRAD, full)
        # A line search may step so far that this overflows: inf is then right, without a warning.
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            grad = net_grad.astype(np.float64)
            if self._l2:
                W = self._weights_in(full)
                loss += 0.5 * self._l2 * float(np.square(W).sum())  # no BLAS: the same bits on all machines
                grad += self._l2 * W
        if self._free is not None:
            grad = grad[self._free]
        # One tuple: another thread then reads what belongs to one theta.
        self._last = (full.copy() if self._free is None else full, loss, grad, epoch)
        return loss, grad


def _source(
    net: Base,
    x: npt.ArrayLike | Blocks,
    y: npt.ArrayLike | None,
    sample_weight: npt.ArrayLike | None,
    n_threads: int | None,
) -> Source:
    """The samples in memory, or in blocks if there is no y."""
    if y is not None:
        return InMemory(net, x, y, sample_weight, n_threads)  # type: ignore[arg-type]
    _refuse_weight_beside_blocks(y, sample_weight)
    return Streamed(net, x, n_threads)  # type: ignore[arg-type]


def _refuse_weight_beside_blocks(y: npt.ArrayLike | None, sample_weight: npt.ArrayLike | None) -> None:
    if y is None and sample_weight is not None:
        raise TypeError(
            "sample_weight: expected none beside blocks, which bring their own, (x, y, sample_weight), got some"
        )
