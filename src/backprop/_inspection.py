"""What looks inside `Network`: every quantity of the recursion, where a NaN comes from, whether gradients are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop import params as _params
from backprop._calls import Calls

if TYPE_CHECKING:
    from backprop.checking import GradientReport
    from backprop.network import Network
    from backprop.nonfinite import NonFinite

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LayerGradients:
    """Every quantity of the recursion; lists are indexed by the layer's number in the equations, 0..L.

    Attributes
    ----------
    loss : float
    a, h : list of (n_samples, n_i) arrays
        ``h[0]`` is x, ``h[L]`` is y_hat, ``a[0]`` is None.
    grad_a, grad_h : list of (n_samples, n_i) arrays
        dL/da_i and dL/dh_i; a row carries its sample's share of the loss. ``grad_h[0]`` is dL/dx; ``grad_a[0]`` is
        None, and so is ``grad_h[L]`` where the loss works on a_L.
    grad_W, grad_b : list of arrays
        Shapes (n_i, n_{i-1}) and (n_i,); entry 0 is None.
    """

    loss: float
    a: list[Array | None]
    h: list[Array]
    grad_a: list[Array | None]
    grad_h: list[Array | None]
    grad_W: list[Array | None]
    grad_b: list[Array | None]


class Inspection(Calls):
    """The calls that look inside."""

    __slots__ = ()

    def layer_gradients(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> LayerGradients:
        """Every quantity of the recursion, layer by layer.

        The arguments and errors are those of `value_and_grad`, whose loss these are the gradients of: a row of grad_a
        and grad_h carries its sample's share, 1/n_samples or its weight over the sum of weights.

        Returns
        -------
        LayerGradients
            Lists indexed by the layer's number, so that ``grad_h[i] == grad_a[i+1] @ W_{i+1}`` reads as it is written.
        """
        y_, x_, theta, weights = self._inputs(x, y, params, sample_weight, whole=True)
        n_threads = threads.resolve(n_threads)
        n_samples, L = x_.shape[0], len(self._sizes) - 1
        a, h = ([None] + [np.zeros((n_samples, n), self._dtype) for n in self._sizes[1:]] for _ in range(2))
        grad_a: list[Array | None] = [None] + [np.zeros((n_samples, n), self._dtype) for n in self._sizes[1:]]
        grad_h: list[Array | None] = [np.zeros((n_samples, n), self._dtype) for n in self._sizes]
        if self._loss.acts_on_a:
            grad_h[L] = None
        grad = np.empty(self.n_params, self._dtype)
        y_hat = np.empty_like(h[L])
        loss = self._plan.layer_gradients(theta, x_, y_, y_hat, grad, weights, n_threads, a, h, grad_a, grad_h)
        layers = _params.unflatten(grad, self._sizes)
        return LayerGradients(
            loss=loss,
            a=a,
            h=[x_, *(rows for rows in h[1:] if rows is not None)],  # all of them are there
            grad_a=grad_a,
            grad_h=grad_h,
            grad_W=[None, *(W for W, _ in layers)],
            grad_b=[None, *(b for _, b in layers)],
        )

    def find_nonfinite(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> NonFinite | None:
        """Where the first NaN or infinity of the loss or the gradient comes from.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.

        Returns
        -------
        NonFinite or None
            None where loss and gradient are finite. Else the first sample, layer, unit and stage ("input", "weight",
            "activation", "loss", "gradient"), and the value that made it; it prints as a sentence.

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused.
        """
        from backprop.nonfinite import Given, find_nonfinite

        y_, x_, theta, weights = self._inputs(x, y, params, sample_weight)
        weight = None if weights is None else weights.array
        given, n_threads = Given(x, y, params), threads.resolve(n_threads)
        return find_nonfinite(cast("Network", self), x_, y_, theta, weight, n_threads, given)

    def check_gradient(
        self, x: npt.ArrayLike, y: npt.ArrayLike, *, sample_weight: npt.ArrayLike | None = None
    ) -> GradientReport:
        """Check `value_and_grad` against the complex step of the NumPy reference, layer by layer.

        Parameters
        ----------
        x, y, sample_weight
            As in `value_and_grad`; a few dozen samples are enough.

        Returns
        -------
        GradientReport
            Prints as a table; ``.ok`` is the verdict, ``.max_error`` the largest relative error. SciPy's check_grad is
            printed beside it.

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused.
        """
        from backprop.checking import check_gradient

        with _core.DefaultFloatMode():  # what is judged, the judge and SciPy's differences alike
            return check_gradient(cast("Network", self), x, y, sample_weight=sample_weight)
