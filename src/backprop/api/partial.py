"""Sums over some rows of a data set, which add up to those of all rows on any number of machines."""

from __future__ import annotations

from typing import Any

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
        v, cotangent, max_norm, grad_x, weight
            What the call takes besides, by name: hvp and gauss_newton_vp v, vjp cotangent, clipped_gradient max_norm,
            sobolev_value_and_grad grad_x and weight. Of cotangent and grad_x only the rows of this part.

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
        operands = {"v": v, "cotangent": cotangent, "max_norm": max_norm, "grad_x": grad_x, "weight": weight}
        _check_names(of_call, {"y": y, **operands})
        if of_call.needs_second:
            self._need_second(call)
        if of_call.needs_squared_error:
            self._need_squared_error(call)
        n_threads, plan, dtype = threads.resolve(n_threads), self._plan, self._architecture.dtype
        first_row, n_rows = scalars.natural(first_row, "first_row"), scalars.natural(n_rows, "n_rows")
        x_, theta = self._samples(x, of_mean=of_call.is_mean and n_rows == 0), self._theta(params)
        stop = first_row + x_.shape[0]
        if stop > n_rows:
            raise ValueError(
                f"x: expected at most {n_rows - first_row} rows after first_row={first_row}, got {len(x_)}"
            )

        n_part, n_kept, before, kept = x_.shape[0], n_rows, first_row, x_.shape[0]
        y_, weights, weighting = None, None, None
        if of_call.takes_y:
            n_out, loss = self._architecture.sizes[-1], self._architecture.loss
            seen = targets.seen_weights(sample_weight, loss, n_part, n_out)
            if call == "sobolev_value_and_grad" and seen is not None and seen.array.ndim == 2:
                raise ValueError(f"sample_weight: expected shape ({n_part},) in {call}, got {seen.array.shape}")
            if seen is not None:
                totals = _totals(totals, seen, n_part, n_rows)
                before, kept = totals.kept_rows(first_row, stop, n_rows)
                n_kept = totals.n_kept
                weights = _weights(seen, totals, kept, first_row, stop)
                weighting = part_bytes.Weighting(totals.axes, totals.largest, totals.bins)
            elif totals is not None:
                raise ValueError("totals: expected None without sample_weight, got WeightTotals")
            y_ = targets.targets(y, loss, n_part, n_out, dtype, weights)
        elif sample_weight is not None or totals is not None:
            raise TypeError(f"sample_weight: expected None in {call}, which takes no weights, got some")
        unit = state.unit_rows(plan, of_call, n_kept)
        cuts.refuse_broken_units(of_call, unit, n_kept, before, kept, weights is not None)
        accepted, digest = self._accepted_operands(of_call, operands, n_part)
        rows = np.empty(x_.shape, dtype) if call == "vjp" else None
        sums = state.state_of_rows(plan, of_call, theta, x_, y_, weights, n_threads, n_kept, rows=rows, **accepted)
        facts = part_bytes.Facts(
            release=__version__,
            arithmetic="no fma" if _core.simd == "v2" else "fma",
            call=call,
            network=part_bytes.network_facts(self._architecture),
            params=part_bytes.digest(theta),
            operands=digest,
            n_rows=n_rows,
            n_kept=n_kept,
            unit_rows=unit,
            weights=weighting,
        )
        intervals = [(first_row, stop)] if n_part else []
        return PartialSums._of(facts, intervals, [rows] if rows is not None and n_part else [], sums)

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
            return {"max_norm": bound}, part_bytes.digest(np.array([bound]))
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
        if value is not None and name not in needed:
            takes = ", ".join(["x", *(other for other in given if other in needed)])
            raise TypeError(
                f"{name}: expected none, since {call.name} takes {takes}, got {array_likes.describe(value)}"
            )


def _totals(totals: object, seen: targets.SeenWeights, n_part: int, n_rows: int) -> cuts.WeightTotals:
    """What is known of all weights: what was given, or those of this part, if it has all rows."""
    if totals is None:
        if n_part != n_rows:
            raise ValueError(
                f"totals: expected weight_totals of all {n_rows} weights, since x has {n_part} rows, got None"
            )
        totals = cuts.totals_of(seen, 0, n_rows)
    if not isinstance(totals, cuts.WeightTotals):
        raise TypeError(f"totals: expected what weight_totals returns, got {array_likes.describe(totals)}")
    if totals.n_kept == 0 and n_rows:
        raise ValueError(targets.ALL_0)
    if totals.axes != seen.array.ndim:
        raise ValueError(
            f"sample_weight: expected {totals.axes} dimensions, as the weights in totals have, got {seen.array.ndim}"
        )
    return totals


def _weights(seen: targets.SeenWeights, totals: cuts.WeightTotals, kept: int, first: int, stop: int) -> targets.Weights:
    """The weights of a part, with the scale and the total of all weights."""
    if seen.n_kept != kept or seen.largest > totals.largest:
        raise ValueError(
            f"sample_weight: expected the weights of rows {first}:{stop} that totals have, of which {kept} are not 0 "
            f"and none is above {totals.largest:g}, got {seen.n_kept} and {seen.largest:g}"
        )
    return targets.Weights(seen.array, *totals.scale_and_total, seen.n_kept)
