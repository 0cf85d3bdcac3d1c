"""What an objective fits to its samples: values, or values and input gradients. A row here names the calls for it.

A source of sums has one of these, and asks it which call of the compiled table gives what, and which arguments the call
takes besides x, y and weights. Some have an *extra*: an array with one row for each sample, which moves with x and y.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import targets, validate
from backprop.api.base import Base
from backprop.api.targets import Weights
from backprop.distributed import agreement

Array = npt.NDArray[Any]

_VALUE_AND_GRAD = _core.CALLS["value_and_grad"]
_SOBOLEV_VALUE_AND_GRAD = _core.CALLS["sobolev_value_and_grad"]


class Values:
    """What `Network.objective` fits: the values of a network to y."""

    call = "objective"  # the method of a network that makes the objective
    words = ""  # behind the samples in a repr
    arrays = "x, y"  # of a block, apart from sample_weight
    cure = "net.objective(x, y)"
    cure_with = "net.objective({})"
    has_extra = False  # whether blocks bring it, behind x and y
    has_second = True  # whether there are products with a Hessian
    has_hessian = True  # whether one call gives it; else it is made of products
    calls: tuple[str, ...] = ("value_and_grad", "hvp", "hessian")  # all that an objective makes

    @property
    def name_of_y(self) -> str:
        """What a user calls y."""
        return self.arrays.split(", ")[1]

    @property
    def facts(self) -> agreement.Facts:
        """What must be equal on all ranks."""
        return {}

    @property
    def marks(self) -> Array | None:
        """int8 marks of what samples have, if that matters to the samples of other ranks: all take the maxima."""
        return None

    def targets(self, net: Base, y: object, n_samples: int, weights: Weights | None) -> Array:
        """Accept y."""
        architecture = net._architecture
        return targets.targets(y, architecture.loss, n_samples, architecture.sizes[-1], architecture.dtype, weights)

    def extra(self, net: Base, given: object, n_samples: int, weight: Array | None) -> Array | None:
        """Accept the extra of some samples with these weights, None if there is none."""
        return None

    def extra_of_row(self, net: Base) -> tuple[int, ...] | None:
        """The shape of a row of the extra."""
        return None

    def settled(self, extra: Array | None) -> Array | None:
        """The extra as the calls take it, once the marks of all samples are known."""
        return extra

    def compiled(self, call: _core.Call) -> _core.Call:
        """The row of the table that gives these sums: call is the one of `Values`."""
        return call

    def arguments(self, extra: Array | None, operand: Array | None) -> dict[str, Any]:
        """What `Plan.run` takes for some samples besides x, y and weights. operand is v."""
        return {"operand": operand}


class InputGradients(Values):
    """What `Network.sobolev_objective` fits: values to y, and input gradients to grad_x, with an accepted weight."""

    call = "sobolev_objective"
    words = " with input gradients"
    arrays = "x, y, grad_x"
    cure = "net.sobolev_objective(x, y, grad_x, weight)"
    cure_with = "net.sobolev_objective({}, weight=weight)"
    has_extra = True
    has_second = has_hessian = False
    calls = ("sobolev_value_and_grad",)

    def __init__(self, weight: Array) -> None:
        self._weight = weight

    @property
    def facts(self) -> agreement.Facts:
        """As in `Values`."""
        return {"the values of weight": agreement.checksum(self._weight)}

    def extra(self, net: Base, given: object, n_samples: int, weight: Array | None) -> Array:
        """As in `Values`."""
        by_sample_alone(self.call, n_samples, weight)
        return validate.input_gradients(given, n_samples, self.extra_of_row(net), net.dtype)

    def extra_of_row(self, net: Base) -> tuple[int, int]:
        """As in `Values`."""
        return net.sizes[-1], net.sizes[0]

    def compiled(self, call: _core.Call) -> _core.Call:
        """As in `Values`."""
        assert call is _VALUE_AND_GRAD
        return _SOBOLEV_VALUE_AND_GRAD

    def arguments(self, extra: Array | None, operand: Array | None) -> dict[str, Any]:
        """As in `Values`."""
        return {"operand": extra, "grad_weight": self._weight}


def by_sample_alone(call: str, n_samples: int, weight: Array | None) -> None:
    """Refuse weights by output."""
    if weight is not None and weight.ndim == 2:
        raise ValueError(f"sample_weight: expected shape ({n_samples},) in {call}, got {weight.shape}")


def kept_rows(weights: Array) -> npt.NDArray[np.bool_]:
    """Which rows count: those with a weight other than 0."""
    with _core.DefaultFloatMode():  # in other modes NumPy may take a subnormal weight for 0
        kept: npt.NDArray[np.bool_] = weights != 0
        return kept if kept.ndim == 1 else np.logical_or.reduce(kept, axis=1)
