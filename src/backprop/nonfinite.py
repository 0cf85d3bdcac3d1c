"""`find_nonfinite`: where the first NaN or infinity of a loss or gradient comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backprop import _core, _validate
from backprop import params as _params

if TYPE_CHECKING:
    from backprop._inspection import LayerGradients
    from backprop.network import Network

Array = npt.NDArray[Any]

BLOCK_ROWS = 1024  # samples whose layers are kept at a time


@dataclass(frozen=True)
class NonFinite:
    """The first number that is NaN or infinite; prints as a sentence.

    Attributes
    ----------
    sample : int or None
        Row of x: for a weight, which all samples meet, the first one; None for a sum over samples.
    layer : int
        0 for the input, else the layer's number 1..L in the equations.
    unit : int
        Of that layer.
    stage : {"input", "weight", "activation", "loss", "gradient"}
    value : float
        What made it: the input or weight itself; a_i where g(a_i) is not finite, or a_i itself; the y_hat or a_L whose
        loss is not finite, or the target; the entry of the gradient.
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


def find_nonfinite(
    net: Network, x: Array, y: Array, theta: Array, weight: Array | None, n_threads: int
) -> NonFinite | None:
    """Look for it; the arguments are accepted ones.

    The order is that of the computation for each sample: input, weights, layer by layer a and h, loss, and gradients
    from the last layer back; the first sample counts. Rows of weight 0 are left out.
    """
    loss, grad = net.value_and_grad(x, y, params=theta, sample_weight=weight, n_threads=n_threads)
    if np.isfinite(loss) and np.isfinite(grad).all():
        return None
    with _core.DefaultFloatMode():  # here and below: what overflows, and what is 0, depends on the mode
        rows = np.arange(x.shape[0]) if weight is None else np.flatnonzero(weight.reshape(x.shape[0], -1).any(axis=1))
    of_weights = find_in_weights(net, theta)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        x_block = _validate.at_once(x[block], net.dtype, "x")
        bad_input = ~np.isfinite(x_block)
        if of_weights is not None:  # every sample meets it: only an input of the very first one comes before
            if bad_input[0].any():
                unit = int(bad_input[0].argmax())
                return _input(float(x_block[0, unit]), int(block[0]), unit)
            return replace(of_weights, sample=int(block[0]))
        found = _in_block(net, x, y, theta, weight, block, n_threads)
        if found is not None:
            return found
    return _in_sum(net, loss, grad)


def _finite_first(array: Array) -> int | None:
    """The index of the first entry that is not finite, None where there is none."""
    bad = ~np.isfinite(array)
    return int(bad.argmax()) if bad.any() else None


def _input(value: float, sample: int, unit: int) -> NonFinite:
    return NonFinite(sample, 0, unit, "input", value, f"sample {sample}: input {unit} is {value}")


def find_in_weights(net: Network, theta: Array) -> NonFinite | None:
    """The first parameter that is not finite."""
    for i, (W, b) in enumerate(_params.unflatten(theta, net.sizes), start=1):
        both = np.concatenate([W, b[:, None]], axis=1)
        first = _finite_first(both)
        if first is not None:
            unit, j = divmod(first, both.shape[1])
            value = float(both[unit, j])
            what = f"bias of unit {unit}" if j == W.shape[1] else f"weight of unit {unit} for input {j}"
            return NonFinite(None, i, unit, "weight", value, f"layer {i}: the {what} is {value}")
    return None


def _in_block(
    net: Network, x: Array, y: Array, theta: Array, weight: Array | None, block: Array, n_threads: int
) -> NonFinite | None:
    """The first sample of a block of rows that meets a number that is not finite, and where."""
    part = None if weight is None else weight[block]
    x_block = _validate.at_once(x[block], net.dtype, "x")
    y_block = _validate.at_once(y[block], net.dtype, "y")
    layers = net.layer_gradients(x_block, y_block, params=theta, sample_weight=part, n_threads=n_threads)
    with _core.DefaultFloatMode():
        terms = _loss_terms(net, layers, y_block, part)
        _drop_outputs(net, layers, part)
    stages = [x_block, *layers.a[1:], *layers.h[1:], terms, *layers.grad_a[1:], *layers.grad_h[1:]]
    bad = np.zeros(len(block), bool)
    for array in stages:
        if array is not None:
            bad |= ~np.isfinite(array).all(axis=1)
    if not bad.any():
        return None
    s = int(bad.argmax())
    sample = int(block[s])
    return _in_sample(net, layers, terms, x_block[s], y_block[s], s, sample)


def _drop_outputs(net: Network, layers: LayerGradients, weight: Array | None) -> None:
    """What counts for nothing in loss and gradient becomes 0: outputs of weight 0, and y_hat where a_L is all there is.

    Without it a sample is found that has nothing to be named.
    """
    L = len(net.sizes) - 1
    a, h = layers.a[L], layers.h[L]
    assert a is not None
    assert h is not None
    if net._loss.acts_on_a:
        h[...] = 0
    if weight is not None and weight.ndim == 2:
        a[weight == 0] = 0
        h[weight == 0] = 0


def _loss_terms(net: Network, layers: LayerGradients, y: Array, weight: Array | None) -> Array:
    """The loss's terms, one an output, or one a row for cross_entropy; 0 where the weight is 0."""
    L, function = len(net.sizes) - 1, net._loss
    z = layers.a[L] if function.acts_on_a else layers.h[L]
    assert z is not None
    target = y
    if function.name == "cross_entropy" and y.ndim == 1:
        target = np.zeros(z.shape)
        target[np.arange(len(y)), y] = 1
    with np.errstate(all="ignore"):
        terms = function.loss(z.astype(float), target.astype(float), net._loss_parameter)
    terms = terms[:, None] if terms.ndim == 1 else terms
    if weight is not None:
        terms = np.where(weight.reshape(len(y), -1) == 0, 0.0, terms)
    return terms


def _in_sample(
    net: Network, layers: LayerGradients, terms: Array, x: Array, y: Array, s: int, sample: int
) -> NonFinite | None:
    """The stage of a sample where the first such number arises."""
    L = len(net.sizes) - 1
    unit = _finite_first(x)
    if unit is not None:
        return NonFinite(sample, 0, unit, "input", float(x[unit]), f"sample {sample}: input {unit} is {x[unit]}")
    for i in range(1, L + 1):
        a, h = layers.a[i], layers.h[i]
        assert a is not None
        unit = _finite_first(a[s])
        if unit is not None:
            value = float(a[s, unit])
            text = f"a = W h + b is {value}, though W, b and h are finite: it overflows {net.dtype.name}"
            return NonFinite(sample, i, unit, "activation", value, f"sample {sample}, layer {i}, unit {unit}: {text}")
        unit = _finite_first(h[s]) if i < L or not net._loss.acts_on_a else None
        if unit is not None:
            value = float(a[s, unit])
            name = net._layers[i - 1][0].name
            text = f"{name}({value:.6g}) is {h[s, unit]}"
            return NonFinite(sample, i, unit, "activation", value, f"sample {sample}, layer {i}, unit {unit}: {text}")
    unit = _finite_first(terms[s])
    if unit is not None:
        return _of_loss(net, layers, terms, y, s, sample, unit)
    for i in range(L, 0, -1):
        for name, array in (("dL/dh", layers.grad_h[i]), ("dL/da", layers.grad_a[i])):
            unit = None if array is None else _finite_first(array[s])
            if array is not None and unit is not None:
                value = float(array[s, unit])
                text = f"{name} is {value}"
                return NonFinite(sample, i, unit, "gradient", value, f"sample {sample}, layer {i}, unit {unit}: {text}")
    return None


def _of_loss(net: Network, layers: LayerGradients, terms: Array, y: Array, s: int, sample: int, unit: int) -> NonFinite:
    """The sentence for a loss that is not finite though a and h are."""
    L = len(net.sizes) - 1
    z = layers.a[L] if net._loss.acts_on_a else layers.h[L]
    assert z is not None
    target = float(y[unit]) if np.ndim(y) else float(y)
    value = float(z[s, unit])
    if not np.isfinite(target):
        value = target
        text = f"the target is {target}"
    else:
        what = "a_L" if net._loss.acts_on_a else "y_hat"
        text = f"the loss {net.loss_name} of {what} = {value:.6g} and y = {target:.6g} is {terms[s, unit]}"
    return NonFinite(sample, L, unit, "loss", value, f"sample {sample}, output {unit}: {text}")


def _in_sum(net: Network, loss: float, grad: Array) -> NonFinite:
    """All samples are finite on their own: a sum over them overflows, or a product of one in the gradient."""
    L = len(net.sizes) - 1
    if not np.isfinite(loss):
        return NonFinite(None, L, 0, "loss", float(loss), f"the sum of the losses is {loss}, though each is finite")
    for i, (grad_W, grad_b) in enumerate(_params.unflatten(grad, net.sizes), start=1):
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
