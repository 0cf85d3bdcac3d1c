"""The recursion in plain NumPy: the executable specification, and the oracle of the tests. Never optimised.

    h_0 = x,   a_i = W_i h_{i-1} + b_i,   h_i = g_i(a_i),   y_hat = h_L
    grad_{h_i} L = W_{i+1}^T grad_{a_{i+1}} L        grad_{a_i} L = grad_{h_i} L (.) g'(a_i)
    grad_{W_i} L = grad_{a_i} L h_{i-1}^T            grad_{b_i} L = grad_{a_i} L

Everything is float64, or complex128 where params or x are complex: the loss is then analytic in them, and the complex
step gives its derivatives to rounding (Goodfellow, Bengio, Courville, Deep Learning, section 6.5, for the recursion).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from backprop import params as _params
from backprop.activations import Activation, Array
from backprop.losses import Loss


@dataclass
class Reference:
    """The quantities of one call; lists are indexed by the layer's number 0..L, None where there is no such thing."""

    loss: float | complex = 0.0
    a: list = field(default_factory=list)
    h: list = field(default_factory=list)
    grad_a: list = field(default_factory=list)
    grad_h: list = field(default_factory=list)
    grad_W: list = field(default_factory=list)
    grad_b: list = field(default_factory=list)

    @property
    def gradient(self) -> Array:
        """The flat gradient, with the layout of params."""
        pairs = zip(self.grad_W[1:], self.grad_b[1:], strict=True)
        return np.concatenate([part.ravel() for pair in pairs for part in pair])


def forward(sizes: Sequence[int], activations: Sequence[tuple[Activation, float]], theta: Array, x: Array) -> Reference:
    """a_i and h_i of every layer; activations holds (activation, parameter) for the layers 1..L."""
    result = Reference(a=[None], h=[x])
    for (W, b), (activation, parameter) in zip(_params.unflatten(theta, sizes), activations, strict=True):
        result.a.append(result.h[-1] @ W.T + b)
        result.h.append(activation.g(result.a[-1], parameter))
    return result


def _entry_weights(weight: Array | None, function: Loss, y: Array) -> Array:
    """One weight a term of the loss: a row's for cross_entropy, else one an output."""
    entry_weight = np.ones(y.shape[0]) if weight is None else np.asarray(weight, dtype=float)
    if entry_weight.ndim == 1 and function.name != "cross_entropy":
        entry_weight = np.repeat(entry_weight[:, None], y.shape[1], axis=1)
    return entry_weight


def value_and_grad(
    sizes: Sequence[int],
    activations: Sequence[tuple[Activation, float]],
    loss: tuple[Loss, float],
    theta: Array,
    x: Array,
    y: Array,
    weight: Array | None = None,
) -> Reference:
    """Loss and every gradient. y: (n_samples, n_out), labels as rows of 0 and 1; weight: (n_samples,), like y, or None.

    Entries of weight 0 must not hold NaN here: the reference multiplies by them.
    """
    function, loss_parameter = loss
    result = forward(sizes, activations, theta, x)
    n_layers = len(sizes) - 1
    entry_weight = _entry_weights(weight, function, y)
    share = entry_weight / entry_weight.sum()  # 1/n, or the weight's part of all weights

    z = result.a[-1] if function.acts_on_a else result.h[-1]
    result.loss = (share * function.loss(z, y, loss_parameter)).sum()
    grad_z = function.loss_prime(z, y, loss_parameter) * (share if share.ndim == 2 else share[:, None])

    result.grad_a, result.grad_h, result.grad_W, result.grad_b = ([None] * (n_layers + 1) for _ in range(4))
    layers = [(None, None), *_params.unflatten(theta, sizes)]
    for i in range(n_layers, 0, -1):
        if i == n_layers and function.acts_on_a:
            result.grad_a[i] = grad_z
        else:
            activation, parameter = activations[i - 1]
            result.grad_h[i] = grad_z if i == n_layers else result.grad_a[i + 1] @ layers[i + 1][0]
            result.grad_a[i] = result.grad_h[i] * activation.g_prime(result.a[i], parameter)
        result.grad_W[i] = result.grad_a[i].T @ result.h[i - 1]
        result.grad_b[i] = result.grad_a[i].sum(axis=0)
    result.grad_h[0] = result.grad_a[1] @ layers[1][0]
    return result


def complex_step(
    sizes: Sequence[int],
    activations: Sequence[tuple[Activation, float]],
    loss: tuple[Loss, float],
    theta: Array,
    direction: Array,
    x: Array,
    y: Array,
    weight: Array | None = None,
) -> float:
    """The derivative of the loss along direction, Im L(theta + i e direction) / e, from forward and loss alone."""
    step = 1e-100
    function, loss_parameter = loss
    result = forward(sizes, activations, theta + 1j * step * direction, x)
    terms = function.loss(result.a[-1] if function.acts_on_a else result.h[-1], y, loss_parameter)
    entry_weight = _entry_weights(weight, function, y)
    return float((entry_weight * terms).sum().imag / entry_weight.sum() / step)
