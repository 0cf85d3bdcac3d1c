"""The recursion in plain NumPy: the specification as a program, and the oracle of the tests. Never optimised.

    h_0 = x,   a_i = W_i h_{i-1} + b_i,   h_i = g_i(a_i),   y_hat = h_L
    grad_{h_i} L = W_{i+1}^T grad_{a_{i+1}} L        grad_{a_i} L = grad_{h_i} L (.) g'(a_i)
    grad_{W_i} L = grad_{a_i} L h_{i-1}^T            grad_{b_i} L = grad_{a_i} L

Everything is float64, or complex128 if params or x are complex (Goodfellow, Bengio, Courville, Deep Learning,
section 6.5, for the recursion).

`complex_step` checks all of this. It takes a step at each function of one number, that is, in g and in the loss, and
carries the derivative from layer to layer as a separate number. A step of the parameters, carried as an imaginary part,
would be wrong: the product W h of two complex numbers has a real part of the step squared. If a preactivation is 0,
this is its whole real part, and it selects the side of a kink.

The products with second derivatives take the directional derivative R{.} of each line, with V_i, v_i as the direction
of W_i, b_i (Pearlmutter, Neural Computation 6, 1994). H is the second derivative of the loss by what it acts on:

    R{h_0} = 0,   R{a_i} = W_i R{h_{i-1}} + V_i h_{i-1} + v_i,   R{h_i} = g_i'(a_i) (.) R{a_i}
    R{grad_{a_L} L} = H R{a_L},   or R{grad_{y_hat} L} = H R{y_hat}
    R{grad_{h_i} L} = W_{i+1}^T R{grad_{a_{i+1}} L} + V_{i+1}^T grad_{a_{i+1}} L
    R{grad_{a_i} L} = R{grad_{h_i} L} (.) g'(a_i) + grad_{h_i} L (.) g''(a_i) (.) R{a_i}
    R{grad_{W_i} L} = R{grad_{a_i} L} h_{i-1}^T + grad_{a_i} L R{h_{i-1}}^T,   R{grad_{b_i} L} = R{grad_{a_i} L}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backprop.activations import ACTIVATIONS, Activation, Array
from backprop.api import parameters
from backprop.losses import Loss, Parameter, softmax

STEP = 1e-20  # its square is nothing compared with 1, and g' as small as 1e-280 stays above the subnormals


@dataclass
class Reference:
    """The quantities of one call. Lists are indexed by the number of the layer, 0..L; None if a layer has none."""

    loss: float | complex = 0.0
    a: list[Any] = field(default_factory=list)
    h: list[Any] = field(default_factory=list)
    slopes: list[Any] = field(default_factory=list)  # g_i'(a_i)
    grad_a: list[Any] = field(default_factory=list)
    grad_h: list[Any] = field(default_factory=list)
    grad_W: list[Any] = field(default_factory=list)
    grad_b: list[Any] = field(default_factory=list)

    @property
    def gradient(self) -> Array:
        """The flat gradient, with the layout of params."""
        pairs = zip(self.grad_W[1:], self.grad_b[1:], strict=True)
        return np.concatenate([part.ravel() for pair in pairs for part in pair])


def forward(sizes: Sequence[int], activations: Sequence[tuple[Activation, float]], theta: Array, x: Array) -> Reference:
    """a_i and h_i of every layer; activations holds (activation, parameter) for the layers 1..L."""
    result = Reference(a=[None], h=[x])
    for (W, b), (activation, parameter) in zip(parameters.unflatten(theta, sizes), activations, strict=True):
        result.a.append(result.h[-1] @ W.T + b)
        result.h.append(activation.g(result.a[-1], parameter))
    return result


def with_slopes(activations: Sequence[tuple[Activation, float]], result: Reference) -> Reference:
    """The result of `forward`, with g'(a_i) from the formulas of g' added."""
    slopes = [g.g_prime(a, parameter) for (g, parameter), a in zip(activations, result.a[1:], strict=True)]
    result.slopes = [None, *slopes]
    return result


def _entry_weights(weight: Array | None, function: Loss, y: Array) -> Array:
    """One weight per term of the loss: per row for cross_entropy, else per output."""
    entry_weight = np.ones(y.shape[0]) if weight is None else np.asarray(weight, dtype=float)
    if entry_weight.ndim == 1 and function.name != "cross_entropy":
        entry_weight = np.repeat(entry_weight[:, None], y.shape[1], axis=1)
    return entry_weight


def shares(weight: Array | None, function: Loss, y: Array) -> Array:
    """1/n, or a weight divided by the sum of all weights."""
    entry_weight = _entry_weights(weight, function, y)
    return entry_weight / entry_weight.sum()


def by_row(share: Array) -> Array:
    """Shares that multiply rows (n_samples, n_out)."""
    return share if share.ndim == 2 else share[:, None]


def backward(sizes: Sequence[int], theta: Array, result: Reference, grad_z: Array, function: Loss) -> None:
    """Add every gradient to a result that has slopes. grad_z is the gradient by what the loss acts on: a_L or y_hat."""
    n_layers = len(sizes) - 1
    for name in ("grad_a", "grad_h", "grad_W", "grad_b"):
        setattr(result, name, [None] * (n_layers + 1))
    layers: list[tuple[Any, Any]] = [(None, None), *parameters.unflatten(theta, sizes)]
    for i in range(n_layers, 0, -1):
        if i == n_layers and function.acts_on_a:
            result.grad_a[i] = grad_z
        else:
            result.grad_h[i] = grad_z if i == n_layers else result.grad_a[i + 1] @ layers[i + 1][0]
            result.grad_a[i] = result.grad_h[i] * result.slopes[i]
        result.grad_W[i] = result.grad_a[i].T @ result.h[i - 1]
        result.grad_b[i] = result.grad_a[i].sum(axis=0)
    result.grad_h[0] = result.grad_a[1] @ layers[1][0]


def value_and_grad(
    sizes: Sequence[int],
    activations: Sequence[tuple[Activation, float]],
    loss: tuple[Loss, Parameter],
    theta: Array,
    x: Array,
    y: Array,
    weight: Array | None = None,
) -> Reference:
    """Loss and every gradient. y: (n_samples, n_out), labels as rows of 0 and 1; weight: (n_samples,), like y, or None.

    Entries of weight 0 must not hold NaN here: the reference multiplies by them.
    """
    function, loss_parameter = loss
    result = with_slopes(activations, forward(sizes, activations, theta, x))
    share = shares(weight, function, y)
    z = result.a[-1] if function.acts_on_a else result.h[-1]
    result.loss = (share * function.loss(z, y, loss_parameter)).sum()
    backward(sizes, theta, result, function.loss_prime(z, y, loss_parameter) * by_row(share), function)
    return result


def slope(activation: Activation, parameter: float, a: Array) -> Array:
    """g'(a) by the complex step of g, on the piece of g on which a lies. g_prime is not used."""
    return activation.g(a + 1j * STEP, parameter).imag / STEP


def forward_along(
    sizes: Sequence[int], theta: Array, direction: Array, result: Reference, R_x: Array | None = None
) -> tuple[list[Any], list[Array]]:
    """R{a_i} and R{h_i} of every layer, from a result that has slopes; R{x} is 0 unless it is given."""
    R_a: list[Any] = [None]  # as in Reference
    R_h = [np.zeros_like(result.h[0]) if R_x is None else R_x]
    layers = zip(parameters.unflatten(theta, sizes), parameters.unflatten(direction, sizes), strict=True)
    for i, ((W, _), (V, v)) in enumerate(layers, 1):
        R_a.append(R_h[i - 1] @ W.T + result.h[i - 1] @ V.T + v)
        R_h.append(result.slopes[i] * R_a[i])
    return R_a, R_h


def loss_along(
    sizes: Sequence[int],
    loss: tuple[Loss, Parameter],
    theta: Array,
    direction: Array,
    result: Reference,
    y: Array,
    share: Array,
) -> float:
    """The derivative of the loss along direction, by the complex step of the loss and the slopes of the result."""
    function, parameter = loss
    R_a, R_h = forward_along(sizes, theta, direction, result)
    z, R_z = (result.a[-1], R_a[-1]) if function.acts_on_a else (result.h[-1], R_h[-1])
    largest = float(np.abs(R_z).max())
    if largest == 0:
        return 0.0
    terms = function.loss(z + 1j * STEP * (R_z / largest), y, parameter)
    return float((share * terms).sum().imag / STEP * largest)


def complex_step(
    sizes: Sequence[int],
    activations: Sequence[tuple[Activation, float]],
    loss: tuple[Loss, Parameter],
    theta: Array,
    direction: Array,
    x: Array,
    y: Array,
    weight: Array | None = None,
) -> float:
    """The derivative of the loss along direction, computed only from g and the loss."""
    result = forward(sizes, activations, theta, x)
    result.slopes = [None, *(slope(g, p, a) for (g, p), a in zip(activations, result.a[1:], strict=True))]
    return loss_along(sizes, loss, theta, direction, result, y, shares(weight, loss[0], y))


def jvp(
    sizes: Sequence[int],
    activations: Sequence[tuple[Activation, float]],
    loss: tuple[Loss, Parameter],
    theta: Array,
    direction: Array,
    x: Array,
) -> Array:
    """The derivative of y_hat along direction, (n_samples, n_out). Of the loss, only its link counts."""
    function, _ = loss
    result = with_slopes(activations, forward(sizes, activations, theta, x))
    R_a, R_h = forward_along(sizes, theta, direction, result)
    if function.link is None:
        return R_h[-1]
    if function.link == "softmax":
        p = softmax(result.a[-1])
        return p * (R_a[-1] - (p * R_a[-1]).sum(axis=1, keepdims=True))
    return ACTIVATIONS[function.link].g_prime(result.a[-1], 0.0) * R_a[-1]


def gradient_along(
    sizes: Sequence[int],
    activations: Sequence[tuple[Activation, float]],
    loss: tuple[Loss, Parameter],
    theta: Array,
    direction: Array,
    result: Reference,
    y: Array,
    share: Array,
    R_x: Array | None = None,
) -> Array:
    """R{} of the whole gradient, flat like theta, from a result of forward and backward; R{x} is 0 unless given."""
    function, loss_parameter = loss
    n_layers = len(sizes) - 1
    R_a, R_h = forward_along(sizes, theta, direction, result, R_x)
    z, R_z = (result.a[-1], R_a[-1]) if function.acts_on_a else (result.h[-1], R_h[-1])
    R_grad_z = function.curvature(z, y, R_z, loss_parameter) * by_row(share)

    layers: list[tuple[Any, Any]] = [(None, None), *parameters.unflatten(theta, sizes)]
    along: list[tuple[Any, Any]] = [(None, None), *parameters.unflatten(direction, sizes)]
    R_grad_a: list[Any] = [None] * (n_layers + 1)
    parts: list[Array] = []
    for i in range(n_layers, 0, -1):
        if i == n_layers and function.acts_on_a:
            R_grad_a[i] = R_grad_z
        else:
            activation, parameter = activations[i - 1]
            R_grad_h = R_grad_z
            if i < n_layers:
                R_grad_h = R_grad_a[i + 1] @ layers[i + 1][0] + result.grad_a[i + 1] @ along[i + 1][0]
            R_grad_a[i] = R_grad_h * result.slopes[i]
            R_grad_a[i] += result.grad_h[i] * activation.g_second(result.a[i], parameter) * R_a[i]
        R_grad_W = R_grad_a[i].T @ result.h[i - 1] + result.grad_a[i].T @ R_h[i - 1]
        parts = [R_grad_W.ravel(), R_grad_a[i].sum(axis=0), *parts]
    return np.concatenate(parts)


def hvp(
    sizes: Sequence[int],
    activations: Sequence[tuple[Activation, float]],
    loss: tuple[Loss, Parameter],
    theta: Array,
    direction: Array,
    x: Array,
    y: Array,
    weight: Array | None = None,
) -> Array:
    """The Hessian of the loss of `value_and_grad` times direction, flat like theta."""
    result = value_and_grad(sizes, activations, loss, theta, x, y, weight)
    return gradient_along(sizes, activations, loss, theta, direction, result, y, shares(weight, loss[0], y))


def gauss_newton_vp(
    sizes: Sequence[int],
    activations: Sequence[tuple[Activation, float]],
    loss: tuple[Loss, Parameter],
    theta: Array,
    direction: Array,
    x: Array,
    y: Array,
    weight: Array | None = None,
) -> Array:
    """J^T H J times direction, J the Jacobian of what the loss acts on: a_L, or y_hat (Schraudolph 2002)."""
    function, loss_parameter = loss
    result = with_slopes(activations, forward(sizes, activations, theta, x))
    R_a, R_h = forward_along(sizes, theta, direction, result)
    z, R_z = (result.a[-1], R_a[-1]) if function.acts_on_a else (result.h[-1], R_h[-1])
    R_grad_z = function.curvature(z, y, R_z, loss_parameter) * by_row(shares(weight, function, y))
    backward(sizes, theta, result, R_grad_z, function)
    return result.gradient
