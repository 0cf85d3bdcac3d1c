"""The terms of an objective: each is a loss over samples with its l2, times a factor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import shown
from backprop.api.base import Base
from backprop.distributed import agreement, communicator
from backprop.distributed.blocks import Blocks, Stream, Streamed
from backprop.distributed.fitted import Values
from backprop.distributed.ranks import AcrossRanks
from backprop.distributed.rows_of_ranks import Arrays, Rows
from backprop.distributed.samples import InMemory, Source, WithDerivatives

Array = npt.NDArray[Any]

_VALUE_AND_GRAD = _core.CALLS["value_and_grad"]
_HVP = _core.CALLS["hvp"]
_HESSIAN = _core.CALLS["hessian"]


class Term(NamedTuple):
    """factor (loss + l2/2 times the sum of all squared weights), as a function of all parameters.

    Results are new float64 arrays, for all parameters. is_weight is the mask of the weights among them: l2 does not act
    on biases.
    """

    samples: Source
    l2: float
    factor: float = 1.0

    @property
    def facts(self) -> list[str]:
        """The samples and l2, in words."""
        samples = self.samples
        found = [shown.count(samples.n_samples, "sample") + samples.fitted.words]
        if isinstance(samples, AcrossRanks):
            found[0] += f" on {shown.count(samples.n_ranks, 'rank')}"
        if samples.weight_axes:
            found.append("weighted" if samples.weight_axes == 1 else "weighted by output")
        if self.l2:
            found.append(f"l2={self.l2:g}")
        return found

    def value_and_grad(self, params: Array) -> tuple[float, Array]:
        """The loss and its gradient."""
        loss, net_grad = self.samples.sums(_VALUE_AND_GRAD, params)
        with _core.DefaultFloatMode():  # in other modes a subnormal float32 may become 0
            grad = net_grad.astype(np.float64)
        if not self.l2 and self.factor == 1.0:
            return loss, grad
        # A line search may step so far that this overflows: inf is then right, without a warning.
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            if self.l2:
                # In the order of a fit without Python: the same bits.
                loss += self.samples.net._plan.add_penalty(params, self.l2, grad)
            if self.factor != 1.0:
                loss, grad = self.factor * loss, self.factor * grad
        return loss, grad

    def hessp(self, params: Array, direction: Array, is_weight: Array) -> tuple[float, Array]:
        """0.0, and the Hessian times a direction."""
        _, product_of_loss = self.samples.sums(_HVP, params, direction)
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            product = product_of_loss.astype(np.float64)
            if self.l2:
                product += self.l2 * _weights_in(direction, is_weight)
            if self.factor != 1.0:
                product *= self.factor
        return 0.0, product

    def hess(self, params: Array, is_weight: Array, free: npt.NDArray[np.bool_] | None) -> tuple[float, Array]:
        """0.0, and the Hessian by the free parameters, symmetric to the last bit."""
        if self.samples.fitted.has_hessian:
            _, hessian_of_loss = self.samples.sums(_HESSIAN, params)
            if free is not None:
                hessian_of_loss = hessian_of_loss[np.ix_(free, free)]
        else:
            hessian_of_loss = self._rows_of_hessian(params, free)
        _core.mirror(hessian_of_loss)  # each row of the call is computed from its own layer on
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            H = hessian_of_loss.astype(np.float64)
            if self.l2:
                diagonal = np.flatnonzero(is_weight if free is None else is_weight[free])
                H[diagonal, diagonal] += self.l2
            if self.factor != 1.0:
                H *= self.factor
        return 0.0, H

    def _rows_of_hessian(self, params: Array, free: npt.NDArray[np.bool_] | None) -> Array:
        """The Hessian by the free parameters, from its products with unit vectors."""
        places = np.arange(len(params)) if free is None else np.flatnonzero(free)
        try:
            H = np.empty((len(places), len(places)), params.dtype)
        except (MemoryError, ValueError) as error:
            short = MemoryError(f"the result of shape {(len(places),) * 2} does not fit into memory")
            refuse((self,), short)
            raise short from error
        unit = np.zeros_like(params)
        for row, place in zip(H, places, strict=True):
            unit[place] = 1
            row[...] = self.samples.sums(_HVP, params, unit)[1][places]
            unit[place] = 0
        return H


def _weights_in(vector: Array, is_weight: Array) -> Array:
    """A vector with the layout of params in float64, with 0 for biases."""
    return np.where(is_weight, vector, 0.0).astype(np.float64)


Terms = tuple[Term, ...]


def added(terms: Terms, of_term: Callable[[Term], tuple[float, Array]]) -> tuple[float, Array]:
    """The sum of what each term gives, added in order.

    Terms without a communicator are computed first. If one fails on some rank, all ranks raise at the next term.
    """
    if len(terms) == 1:
        return of_term(terms[0])
    parts: dict[int, tuple[float, Array]] = {}
    try:
        for k, term in enumerate(terms):
            if not isinstance(term.samples, AcrossRanks):
                parts[k] = of_term(term)
    except BaseException as error:
        refuse(terms, error)
        raise
    for k, term in enumerate(terms):
        if isinstance(term.samples, AcrossRanks):
            parts[k] = of_term(term)
    loss, total = parts[0]
    with np.errstate(all="ignore"), _core.DefaultFloatMode():
        for k in range(1, len(terms)):
            loss += parts[k][0]
            total += parts[k][1]
    return loss, total


def across_ranks(terms: Terms) -> AcrossRanks | None:
    """The first samples that are divided between ranks."""
    return next((term.samples for term in terms if isinstance(term.samples, AcrossRanks)), None)


def refuse(terms: Terms, error: BaseException) -> None:
    """Raise an error on all ranks, if the terms have any: this rank does not come to the call that the others make."""
    samples = across_ranks(terms)
    if samples is not None:
        samples.refuse(error)


# Samples of a user --------------------------------------------------------------------------------------------------


class Given(NamedTuple):
    """The samples of a user: arrays, or blocks in the place of x, which bring all the others."""

    x: npt.ArrayLike | Blocks
    y: npt.ArrayLike | None
    sample_weight: npt.ArrayLike | None
    extra: npt.ArrayLike | None = None

    @property
    def are_blocks(self) -> bool:
        """Whether they are blocks."""
        return self.y is None and self.extra is None

    def refuse_weight_beside_blocks(self) -> None:
        """Refuse weights that belong to no rows."""
        if self.are_blocks and self.sample_weight is not None:
            raise TypeError(
                "sample_weight: expected none beside blocks, which bring their own as their last array, got some"
            )


class Accepted(NamedTuple):
    """The other arguments of an objective."""

    l2: float
    free: npt.NDArray[np.bool_] | None
    fitted: Values = Values()
    more: tuple[tuple[str, str | int | float | None], ...] = ()  # what must be equal on all ranks besides


def accepted(
    net: Base, accept: Callable[[], Accepted], given: Given, n_threads: int | None, comm: object
) -> tuple[Term, npt.NDArray[np.bool_] | None]:
    """The term of an objective with these samples, and the mask of its free parameters."""
    samples: Source
    if comm is None:
        others = accept()
        samples = source(net, given, others, n_threads)
    else:
        samples, others = source_of_ranks(net, comm, accept, given, n_threads)
    return Term(samples, others.l2), others.free


def source(net: Base, given: Given, others: Accepted, n_threads: int | None) -> Source:
    """The samples in memory, or in blocks if there is no y."""
    x, y, sample_weight, extra = given
    given.refuse_weight_beside_blocks()
    if given.are_blocks:
        return Streamed(net, x, n_threads, others.fitted)  # type: ignore[arg-type]
    if type(others.fitted) is Values:
        return InMemory(net, x, y, sample_weight, n_threads)  # type: ignore[arg-type]
    return WithDerivatives(net, x, y, extra, others.fitted, sample_weight, n_threads)  # type: ignore[arg-type]


def source_of_ranks(
    net: Base,
    comm: object,
    accept: Callable[[], Accepted],
    given: Given,
    n_threads: int | None,
    calls: Sequence[str] | None = None,
) -> tuple[AcrossRanks, Accepted]:
    """The samples of all ranks, and the accepted arguments. An error on this rank is raised on all."""
    shared, facts = communicator.of(comm), dict[str, Any]()
    rows: Rows | None = None
    error: BaseException | None = None
    others = Accepted(0.0, None)
    try:
        others = accept()
        l2, free, fitted, more = others
        facts.update({**dict(more), "l2": l2, "the values of free": agreement.checksum(free)})
        if free is not None:
            facts["the values of the frozen parameters"] = agreement.checksum(net.params[~free])
        given.refuse_weight_beside_blocks()
        x, y, sample_weight, extra = given
        rows = (
            Stream(net, x, fitted)  # type: ignore[arg-type]
            if given.are_blocks
            else Arrays(net, x, y, sample_weight, extra, fitted)  # type: ignore[arg-type]
        )
    except BaseException as caught:
        error = caught
    return AcrossRanks(net, shared, facts, rows, error, n_threads, others.fitted, calls), others
