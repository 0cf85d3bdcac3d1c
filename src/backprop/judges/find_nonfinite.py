"""`find_nonfinite`: where the first NaN or infinity of a loss or gradient comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api import array_likes, conversion, parameters, shown
from backprop.api.base import Base
from backprop.api.layer_gradients import LayerGradients
from backprop.losses import label_rows

Array = npt.NDArray[Any]

BLOCK_ROWS = 1024  # samples whose layers are kept at a time
LARGE_BLOCK_ROWS = 65536  # samples that one gradient can clear at once


@dataclass(frozen=True)
class NonFinite(shown.Shown):
    """The first number that is NaN or infinite; prints as a sentence.

    Attributes
    ----------
    sample : int or None
        The row of x. For a weight, which all samples meet, the first row; None for a sum over samples.
    layer : int
        0 for the input, else the layer's number 1..L in the equations.
    unit : int
        The unit in that layer.
    stage : {"input", "weight", "activation", "loss", "gradient"}
    value : float
        The number that caused it: the input or weight; a_i, if it or g(a_i) is not finite; the y_hat or a_L whose loss
        is not finite, or the target; the entry of the gradient.
    sentence : str
    """

    sample: int | None
    layer: int
    unit: int
    stage: str
    value: float
    sentence: str

    def __str__(self) -> str:
        return self.sentence

    def _table(self) -> shown.Table:
        header = ("sample", "layer", "unit", "stage", "value")
        sample = "" if self.sample is None else str(self.sample)
        row = (sample, str(self.layer), str(self.unit), self.stage, f"{self.value:.6g}")
        return shown.Table(self.sentence, header, [row], align=">>><>")


class Given(NamedTuple):
    """The arguments before their conversion to the dtype of the network."""

    x: object
    y: object
    params: object


def find_nonfinite(
    net: Base,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    params: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    n_threads: int | None = None,
) -> NonFinite | None:
    """Find the first number that is not finite; the arguments are those of `Network.find_nonfinite`.

    The first sample is reported whose own part of the loss or of the gradient is not finite. Within a sample the order
    is that of the computation: input, weights, a and h layer by layer, loss, and gradients from the last layer back.
    Rows of weight 0 are left out.
    """
    y_, x_, theta, weights = net._inputs(x, y, params, sample_weight)
    weight = None if weights is None else weights.array.copy()  # another thread may write to the array of the caller
    given = Given(x, y, params)
    search = _Search(net, x_, y_, theta, weight, threads.resolve(n_threads), given)
    loss, grad = search.value_and_grad(slice(None))
    if np.isfinite(loss) and np.isfinite(grad).all():
        return None
    with _core.DefaultFloatMode():  # here and below: overflow, and what counts as 0, depend on the mode
        rows = np.arange(x_.shape[0]) if weight is None else np.flatnonzero(weight.reshape(x_.shape[0], -1).any(axis=1))
    of_weights = find_in_weights(net, theta, given.params)
    if of_weights is not None:  # all samples meet it: only an input of the first sample comes before it
        first = int(rows[0])
        unit = _finite_first(conversion.at_once(x_[first : first + 1], net.dtype, "x"))
        return replace(of_weights, sample=first) if unit is None else search.input(first, unit)
    return search.among(rows, LARGE_BLOCK_ROWS) or _in_sum(net, loss, grad)


def _finite_first(array: Array) -> int | None:
    """The index of the first entry that is not finite, None if there is none."""
    bad = ~np.isfinite(array)
    return int(bad.argmax()) if bad.any() else None


def find_in_weights(net: Base, theta: Array, given: object = None) -> NonFinite | None:
    """The first parameter that is not finite. given is theta before its conversion, None for that of the network."""
    for i, (W, b) in enumerate(parameters.unflatten(theta, net.sizes), start=1):
        both = np.concatenate([W, b[:, None]], axis=1)
        first = _finite_first(both)
        if first is not None:
            unit, j = divmod(first, both.shape[1])
            what = f"bias of unit {unit}" if j == W.shape[1] else f"weight of unit {unit} for input {j}"
            text = str(both[unit, j])
            if given is not None:
                given_W, given_b = parameters.unflatten(array_likes.as_array(given, "params"), net.sizes)[i - 1]
                text = conversion.as_it_came(given_b[unit] if j == W.shape[1] else given_W[unit, j], both[unit, j])
            return NonFinite(None, i, unit, "weight", float(both[unit, j]), f"layer {i}: the {what} is {text}")
    return None


class _Search(NamedTuple):
    """The accepted arguments, and the same before their conversion."""

    net: Base
    x: Array
    y: Array
    theta: Array
    weight: Array | None
    n_threads: int
    given: Given

    def part(self, rows: slice) -> tuple[Array, Array, dict[str, Any]]:
        """The arguments of a call on some rows."""
        weight = None if self.weight is None else self.weight[rows]
        options = {"params": self.theta, "sample_weight": weight, "n_threads": self.n_threads}
        return self.x[rows], self.y[rows], options

    def value_and_grad(self, rows: slice) -> tuple[float, Array]:
        """Loss and gradient of some rows."""
        x, y, options = self.part(rows)
        return self.net.value_and_grad(x, y, **options)

    def is_finite(self, rows: slice) -> bool:
        """Whether loss and gradient of some rows are finite."""
        loss, grad = self.value_and_grad(rows)
        return bool(np.isfinite(loss) and np.isfinite(grad).all())

    def among(self, rows: Array, size: int) -> NonFinite | None:
        """The first number that is not finite in some rows, which are searched in blocks, then in smaller blocks.

        The gradient of a block is quick, and clears the block if it is finite. If it is not, all samples may still be
        finite: their sum may overflow.
        """
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            span = slice(int(block[0]), int(block[-1]) + 1)
            if self.is_finite(span):
                continue
            found = self.among(block, BLOCK_ROWS) if size > BLOCK_ROWS else self.in_block(block, span)
            if found is not None:
                return found
        return None

    def in_block(self, rows: Array, span: slice) -> NonFinite | None:
        """The first number that is not finite in the samples of a block."""
        x, y, options = self.part(span)
        x, y = conversion.at_once(x, self.net.dtype, "x"), conversion.at_once(y, self.net.dtype, "y")
        layers = self.net.layer_gradients(x, y, **options)
        with _core.DefaultFloatMode():
            terms = _loss_terms(self.net, layers, y, options["sample_weight"])
            _drop_outputs(self.net, layers, options["sample_weight"])
        bad = np.zeros(len(x), bool)
        for array in [x, *layers.a[1:], *layers.h[1:], terms, *layers.grad_a[1:], *layers.grad_h[1:]]:
            if array is not None:
                bad |= ~np.isfinite(array).all(axis=1)
        for sample in map(int, rows[bad[rows - span.start]]):
            if not self.is_finite(slice(sample, sample + 1)):  # an infinite a may give a g of 1 and a g' of 0
                return self.in_sample(layers, terms, y, sample - span.start, sample)
        return None

    def in_sample(self, layers: LayerGradients, terms: Array, y: Array, s: int, sample: int) -> NonFinite | None:
        """The first number that is not finite in a sample, which is row s of its block."""
        net, L = self.net, len(self.net.sizes) - 1
        unit = _finite_first(layers.h[0][s])
        if unit is not None:
            return self.input(sample, unit)
        for i in range(1, L + 1):
            a, h = layers.a[i], layers.h[i]
            assert a is not None
            where = f"sample {sample}, layer {i}, unit"
            unit = _finite_first(a[s])
            if unit is not None:
                value = float(a[s, unit])
                text = f"a = W h + b is {value}, though W, b and h are finite: it overflows {net.dtype.name}"
                return NonFinite(sample, i, unit, "activation", value, f"{where} {unit}: {text}")
            unit = _finite_first(h[s]) if i < L or not net._architecture.loss.acts_on_a else None
            if unit is not None:
                value = float(a[s, unit])
                of_range = "" if net.dtype == np.float64 else f" in {net.dtype}"
                text = f"{net._architecture.layers[i - 1][0].name}({value:.6g}) is {h[s, unit]}{of_range}"
                return NonFinite(sample, i, unit, "activation", value, f"{where} {unit}: {text}")
        unit = _finite_first(terms[s])
        if unit is not None:
            return self.of_loss(layers, terms, y[s], s, sample, unit)
        for i in range(L, 0, -1):
            for name, array in (("dL/dh", layers.grad_h[i]), ("dL/da", layers.grad_a[i])):
                unit = None if array is None else _finite_first(array[s])
                if array is not None and unit is not None:
                    value = float(array[s, unit])
                    text = f"sample {sample}, layer {i}, unit {unit}: {name} is {value}"
                    return NonFinite(sample, i, unit, "gradient", value, text)
        return None

    def input(self, sample: int, unit: int) -> NonFinite:
        """The finding for an input."""
        value = conversion.at_once(self.x[sample : sample + 1], self.net.dtype, "x")[0, unit]
        text = conversion.as_it_came(array_likes.as_array(self.given.x, "x")[sample, unit], value)
        return NonFinite(sample, 0, unit, "input", float(value), f"sample {sample}: input {unit} is {text}")

    def of_loss(self, layers: LayerGradients, terms: Array, y: Array, s: int, sample: int, unit: int) -> NonFinite:
        """The finding for a loss that is not finite, though a and h are."""
        L = len(self.net.sizes) - 1
        z = layers.a[L] if self.net._architecture.loss.acts_on_a else layers.h[L]
        assert z is not None
        target = y[unit] if np.ndim(y) else y
        value = float(z[s, unit])
        if not np.isfinite(target):
            value = float(target)
            given = array_likes.as_array(self.given.y, "y").reshape(len(self.y), -1)[sample]
            given = given[unit if len(given) > 1 else 0]
            text = f"the target is {conversion.as_it_came(given, target)}"
        else:
            what = "a_L" if self.net._architecture.loss.acts_on_a else "y_hat"
            text = f"the loss {self.net.loss_name} of {what} = {value:.6g} and y = {target:.6g} is {terms[s, unit]}"
        return NonFinite(sample, L, unit, "loss", value, f"sample {sample}, output {unit}: {text}")


def _drop_outputs(net: Base, layers: LayerGradients, weight: Array | None) -> None:
    """Set to 0 what has no part in loss and gradient: outputs of weight 0, and y_hat if the loss works on a_L.

    Without it a sample is found that has nothing to be named.
    """
    L = len(net.sizes) - 1
    a, h = layers.a[L], layers.h[L]
    assert a is not None
    assert h is not None
    if net._architecture.loss.acts_on_a:
        h[...] = 0
    if weight is not None and weight.ndim == 2:
        a[weight == 0] = 0
        h[weight == 0] = 0


def _loss_terms(net: Base, layers: LayerGradients, y: Array, weight: Array | None) -> Array:
    """The terms of the loss, one per output, or one per row for cross_entropy; 0 if the weight is 0."""
    L, function = len(net.sizes) - 1, net._architecture.loss
    z = layers.a[L] if function.acts_on_a else layers.h[L]
    assert z is not None
    target = y
    if function.name == "cross_entropy" and y.ndim == 1:
        target = label_rows(y, z.shape[1])
    with np.errstate(all="ignore"):
        terms = function.loss(z.astype(float), target.astype(float), net._architecture.loss_parameter)
    terms = terms[:, None] if terms.ndim == 1 else terms
    if weight is not None:
        terms = np.where(weight.reshape(len(y), -1) == 0, 0.0, terms)
    return terms


def _in_sum(net: Base, loss: float, grad: Array) -> NonFinite:
    """The finding if every sample is finite by itself: a sum over samples overflows, or a product in the gradient."""
    L = len(net.sizes) - 1
    if not np.isfinite(loss):
        return NonFinite(None, L, 0, "loss", float(loss), f"the sum of the losses is {loss}, though each is finite")
    for i, (grad_W, grad_b) in enumerate(parameters.unflatten(grad, net.sizes), start=1):
        both = np.concatenate([grad_W, grad_b[:, None]], axis=1)
        first = _finite_first(both)
        if first is not None:
            unit, j = divmod(first, both.shape[1])
            value = float(both[unit, j])
            what = "bias" if j == grad_W.shape[1] else f"weight for input {j}"
            text = (
                f"layer {i}, unit {unit}: the gradient by its {what} is {value}, though each sample's dL/da is finite"
            )
            return NonFinite(None, i, unit, "gradient", value, text)
    raise AssertionError("expected a gradient that is not finite")
