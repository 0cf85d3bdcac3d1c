"""The differential equation that `Network.pde_objective` fits: c u + b . grad u + D : Hess u = f at some points x."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import coefficients
from backprop.api.base import Base
from backprop.api.coefficients import Coefficients
from backprop.api.targets import Weights
from backprop.distributed import agreement
from backprop.distributed.fitted import Values, by_sample_alone, kept_rows

Array = npt.NDArray[Any]

_VALUE_AND_GRAD = _core.CALLS["value_and_grad"]
_HVP = _core.CALLS["hvp"]
_PDE_VALUE_AND_GRAD = _core.CALLS["pde_value_and_grad"]
_PDE_GAUSS_NEWTON_VP = _core.CALLS["pde_gauss_newton_vp"]


class DifferentialEquation(Values):
    """An equation with accepted coefficients, by which one output u is fitted to f.

    If coefficients are by sample, their rows are the extra. `settled` makes these rows, since their columns depend on
    which axes the equation uses in any sample, also in those of other ranks.
    """

    call = "pde_objective"
    words = " of a differential equation"
    arrays = "x, f"
    cure = "net.pde_objective(x, f)"
    cure_with = "net.pde_objective({})"
    has_hessian = False
    calls = ("pde_value_and_grad", "pde_gauss_newton_vp")

    def __init__(self, given: Coefficients) -> None:
        self._given: Coefficients | None = given  # until their rows are made
        self._pattern = np.zeros(coefficients.n_entries(given.n_in), np.int8)
        self._is_by_sample = bool(given.by_sample)
        if not self._is_by_sample:
            self._pattern[...] = given.pattern(0, None)
            self._row: Array | None = self._take_directions(given)[0]

    def _take_directions(self, given: Coefficients) -> Array:
        """Have the directions of the pattern. Returns the coefficients along them."""
        self._directions, self._form = coefficients.directions(self._pattern, given.n_in, given.dtype)
        return given.rows(self._pattern)

    @property
    def facts(self) -> agreement.Facts:
        """As in `Values`."""
        assert self._given is not None
        by_sample, shared = self._given.by_sample, self._given.shared
        return {
            **{name: "one for each sample" if name in by_sample else "the same for all samples" for name in "cbD"},
            **{f"the values of {name}": agreement.checksum(_flat(shared[name])) for name in "cbD" if name in shared},
        }

    @property
    def marks(self) -> Array:
        """As in `Values`: which entries of the coefficients are used."""
        return self._pattern

    def targets(self, net: Base, y: object, n_samples: int, weights: Weights | None) -> Array:
        """As in `Values`."""
        kept = None if weights is None else kept_rows(weights.array)
        return coefficients.right_hand_side(y, n_samples, net.dtype, kept)

    def extra(self, net: Base, given: object, n_samples: int, weight: Array | None) -> None:
        """Accept the coefficients by sample; `settled` gives their rows."""
        by_sample_alone(self.call, n_samples, weight)
        if self._is_by_sample:
            assert self._given is not None  # it is called once
            kept = None if weight is None else kept_rows(weight)
            self._pattern[...] = self._given.pattern(n_samples, kept)

    def settled(self, extra: Array | None) -> Array | None:
        """As in `Values`."""
        given = self._given
        if not self._is_by_sample or given is None:
            return extra
        rows = self._take_directions(given)
        self._given, self._row, self._n_coefficients = None, None, rows.shape[1]
        return rows

    def extra_of_row(self, net: Base) -> tuple[int] | None:
        """As in `Values`."""
        return (self._n_coefficients,) if self._is_by_sample else None

    def compiled(self, call: _core.Call) -> _core.Call:
        """As in `Values`."""
        assert call in (_VALUE_AND_GRAD, _HVP)
        return _PDE_VALUE_AND_GRAD if call is _VALUE_AND_GRAD else _PDE_GAUSS_NEWTON_VP

    def arguments(self, extra: Array | None, operand: Array | None) -> dict[str, Any]:
        """As in `Values`."""
        equation = _core.Equation(self._directions, self._form, self._row)
        return {"operand": operand, "equation": equation, "equation_rows": extra}


def _flat(array: Array) -> Array:
    """The numbers that all samples share, in float64."""
    return np.ascontiguousarray(array, np.float64).reshape(-1)
