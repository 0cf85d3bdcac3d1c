"""Sums over some rows of a data set, which add up to those of all rows on any number of machines."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop._version import __version__
from backprop.api import array_likes, scalars, targets, validate
from backprop.api.calls import Calls
from backprop.distributed import cuts, part_bytes, state
from backprop.distributed.partial_sums import PartialSums

Array = npt.NDArray[Any]

# What each call takes besides x, y, weights and params. Other calls take nothing.
_OPERANDS = {
    "vjp": ("cotangent",),
    "clipped_gradient": ("max_norm",),
    "hvp": ("v",),
    "gauss_newton_vp": ("v",),
    "sobolev_value_and_grad": ("grad_x", "weight"),
}
_OPTIONAL = {"clipped_gradient": ("free",)}
_AXES = {1: "by sample", 2: "by sample and output"}


class _Counts(NamedTuple):
    """How many rows count, those with a weight other than 0, and the weights."""

    in_all: int  # of the whole data set
    before: int  # the rows of a part
    here: int  # in the part
    weights: targets.Weights | None = None
    weighting: part_bytes.Weighting | None = None


class Partial(Calls):
    """The call that gives sums away before they are complete."""

    __slots__ = ()

    def partial_sums(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        *,
        call: str = "value_and_grad",
        first_row: int,
        n_rows: int,
        totals: cuts.WeightTotals | None = None,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
        v: npt.ArrayLike | None = None,
        cotangent: npt.ArrayLike | None = None,
        max_norm: float | None = None,
        grad_x: npt.ArrayLike | None = None,
        weight: npt.ArrayLike | None = None,
        free: npt.ArrayLike | None = None,
    ) -> PartialSums:
        """The sums of a call over some rows of a data set. The sum of all parts has the bits of the one call.

        Parameters
        ----------
        x, y, sample_weight
            As in the call, but only the rows of this part; all their weights may be 0. vjp takes no y.
        call : str
            loss, value_and_grad, vjp, clipped_gradient, hvp, gauss_newton_vp, hessian, normal_equations or
            sobolev_value_and_grad.
        first_row : int
            The row of the data set that comes first in x. A part begins and ends where `row_blocks` would cut, for the
            same call.
        n_rows : int
            Rows of the whole data set.
        totals : WeightTotals, optional
            With sample_weight: what `weight_totals` gives for the weights of the whole data set. Without it, x must
            hold all rows.
        params, n_threads
            As in the call.
        v, cotangent, max_norm, grad_x, weight, free
            What the call takes besides, by name: hvp and gauss_newton_vp v, vjp cotangent, clipped_gradient max_norm
            and, if some parameters are frozen, free; sobolev_value_and_grad grad_x and weight. Of cotangent and grad_x
            only the rows of this part.

        Returns
        -------
        PartialSums
            Add all parts by ``+``, and ask for ``.result()``.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
        """
        of_call = cuts.call_of_name(call)
        operands = {
            "v": v, "cotangent": cotangent, "max_norm": max_norm, "grad_x": grad_x, "weight": weight, "free": free,
        }  # fmt: skip
        _check_names(of_call, {"y": y, **operands})
        if of_call.needs_second:
            self._need_second(call)
        if of_call.needs_third:
            self._need_third(call)
        if of_call.needs_squared_error:
            self._need_squared_error(call)
        n_threads, architecture = threads.resolve(n_threads), self._architecture
        first_row, n_rows = scalars.natural(first_row, "first_row"), scalars.natural(n_rows, "n_rows")
        x_, theta = self._samples(x, of_mean=of_call.is_mean and n_rows == 0), self._theta(params)
        n_part, stop = x_.shape[0], first_row + x_.shape[0]
        if stop > n_rows:
            raise ValueError(
                f"x: expected at most {max(0, n_rows - first_row)} rows from row {first_row} on, got {n_part}"
            )
        counts = self._counts(of_call, sample_weight, totals, first_row, stop, n_rows)
        y_ = None
        if of_call.takes_y:
            y_ = targets.targets(
                y, architecture.loss, n_part, architecture.sizes[-1], architecture.dtype, counts.weights
            )
        unit = state.unit_rows(self._plan, of_call, counts.in_all)
        cuts.refuse_broken_units(of_call, unit, counts.in_all, counts.before, counts.here, counts.weights is not None)
        accepted, digest = self._accepted_operands(of_call, operands, n_part)
        rows = np.empty(x_.shape, architecture.dtype) if call == "vjp" else None
        sums = state.state_of_rows(
            self._plan, of_call, theta, x_, y_, counts.weights, n_threads, counts.in_all, rows=rows, **accepted
        )
        if free is not None:
            sums.clear(~accepted["free"])
        facts = part_bytes.Facts(
            release=__version__,
            arithmetic="no fma" if _core.simd == "v2" else "fma",
            call=call,
            network=part_bytes.network_facts(architecture),
            params=part_bytes.digest(theta),
            operands=digest,
            n_rows=n_rows,
            n_kept=counts.in_all,
            unit_rows=unit,
            weights=counts.weighting,
        )
        if n_part == 0:
            return PartialSums._of(facts, [], [], sums)
        return PartialSums._of(facts, [(first_row, stop)], [] if rows is None else [rows], sums)

    def _counts(
        self,
        call: _core.Call,
        sample_weight: npt.ArrayLike | None,
        totals: cuts.WeightTotals | None,
        first: int,
        stop: int,
        n_rows: int,
    ) -> _Counts:
        """Which rows count, and the weights of the rows first:stop with the scale and the total of all weights."""
        if sample_weight is None or not call.takes_y:
            for name, value in (("sample_weight", sample_weight), ("totals", totals)):
                if value is not None:
                    why = ", since sample_weight is None" if call.takes_y else f", since {call.name} has no weights"
                    raise TypeError(f"{name}: expected None{why}, got {array_likes.describe(value)}")
            return _Counts(n_rows, first, stop - first)
        loss, n_part = self._architecture.loss, stop - first
        seen = targets.seen_weights(sample_weight, loss, n_part, self._architecture.sizes[-1])
        assert seen is not None
        axes = seen.array.ndim
        if axes == 2 and call.name == "sobolev_value_and_grad":
            raise ValueError(f"sample_weight: expected shape ({n_part},) in {call.name}, got {seen.array.shape}")
        if totals is None and n_part == n_rows:
            totals = cuts.totals_of(seen, 0, n_rows)
        if totals is None:
            raise ValueError(f"totals: expected weight_totals of all {n_rows} rows, since x has {n_part}, got None")
        if not isinstance(totals, cuts.WeightTotals):
            raise TypeError(f"totals: expected what weight_totals returns, got {array_likes.describe(totals)}")
        before, kept = totals.kept_rows(first, stop, n_rows)
        if totals.n_kept == 0 and n_rows:
            raise ValueError(targets.ALL_0)
        if n_part and axes != totals.axes:
            raise ValueError(f"sample_weight: expected weights {_AXES[totals.axes]}, as in totals, got {_AXES[axes]}")
        if seen.n_kept != kept or seen.largest > totals.largest:
            raise ValueError(
                f"sample_weight: expected the weights of rows {first}:{stop} as in totals, where {kept} rows have a "
                f"weight and none is above {totals.largest:g}, got {seen.n_kept} rows and {seen.largest:g}"
            )
        weights = targets.Weights(seen.array, *totals.scale_and_total, seen.n_kept)
        return _Counts(
            totals.n_kept, before, kept, weights, part_bytes.Weighting(totals.axes, totals.largest, totals.bins)
        )

    def _accepted_operands(self, call: _core.Call, operands: dict[str, Any], n_part: int) -> tuple[dict[str, Any], str]:
        """What `Plan.partial` takes besides samples, and a digest of what is the same for all rows."""
        sizes, dtype = self._architecture.sizes, self._architecture.dtype
        if call.takes_v:
            direction = validate.params(operands["v"], self.n_params, dtype, "v")
            return {"operand": direction}, part_bytes.digest(direction)
        if call.name == "vjp":
            cotangent = validate.rows(operands["cotangent"], n_part, sizes[-1:], dtype, "cotangent")
            return {"operand": cotangent}, ""
        if call.name == "clipped_gradient":
            bound = scalars.positive(operands["max_norm"], "max_norm")
            mask = validate.free_mask(operands["free"], self.n_params)
            digest = part_bytes.digest(np.array([bound]))
            return {"max_norm": bound, "free": mask}, digest if mask is None else digest + part_bytes.digest(mask)
        if call.name == "sobolev_value_and_grad":
            shape = (sizes[-1], sizes[0])
            target = validate.input_gradients(operands["grad_x"], n_part, shape, dtype)
            grad_weight = validate.gradient_weight(operands["weight"], shape)
            return {"operand": target, "grad_weight": grad_weight}, part_bytes.digest(grad_weight)
        return {}, ""


def _check_names(call: _core.Call, given: dict[str, object]) -> None:
    """Refuse arguments that the call does not take, and miss those that it needs."""
    needed = {*_OPERANDS.get(call.name, ()), *(("y",) if call.takes_y else ())}
    for name, value in given.items():
        if value is None and name in needed:
            raise TypeError(f"{name}: expected it, since {call.name} needs it, got none")
        if value is not None and name not in needed and name not in _OPTIONAL.get(call.name, ()):
            takes = ", ".join(["x", *(other for other in given if other in needed)])
            raise TypeError(
                f"{name}: expected none, since {call.name} takes {takes}, got {array_likes.describe(value)}"
            )
