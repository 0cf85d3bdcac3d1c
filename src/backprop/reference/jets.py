"""Second derivatives by the inputs in plain NumPy: the specification as a program, and the oracle of the tests.

A jet is what a function is near x: its value, and its first and second derivatives along k directions q_j in the space
of x. First derivatives of a_i and h_i along q_j are d_i and D_i, second derivatives s_i and S_i. Each s_t belongs to a
form E_t, k x k and symmetric: it is sum_jl E_tjl d2/dq_j dq_l. One form per direction gives the second derivative along
each, E = 1 the Laplacian, any other matrix the second derivatives of an equation. form_t(d) is sum_jl E_tjl d_j d_l.

    D_0 = q,   S_0 = 0,   d_i = W_i D_{i-1},   s_i = W_i S_{i-1}
    D_ij = g'(a_i) d_ij,   S_it = g'(a_i) s_it + g''(a_i) form_t(d_i)

Primes are cotangents on the way back, all elementwise, and W and b have their gradients from three products:

    s'_t = g' S'_t,   d'_j = g' D'_j + g'' sum_t (2 E_t d)_j S'_t
    a' = g' h' + g'' sum_j d_j D'_j + sum_t (g'' s_t + g''' form_t(d)) S'_t
    h'_{i-1} = W_i^T a'_i,   D'_{i-1} = W_i^T d'_i,   S'_{i-1} = W_i^T s'_i
    grad_{W_i} = a'_i h_{i-1}^T + sum_j d'_ij D_{i-1,j}^T + sum_t s'_it S_{i-1,t}^T,   grad_{b_i} = a'_i

The Hessian of lambda . y_hat by x needs no jets: with grad_{h_i} the gradient of lambda . y_hat, and q the axes,

    Hessian = sum_i d_i^T diag(grad_{h_i} (.) g''(a_i)) d_i

A link is a function of a_L as others are, except softmax. There p = softmax(a_L), and tau = d - p . d, the derivative
of log p:

    D_L = p tau,   S_L = p (s - p . s + form(tau) - p . form(tau))

and the Hessian has the rows tau and the curve p (lambda - p . lambda).

Arrays are (n, n_i, k) and (n, n_i, m), for m forms. Everything is float64, or complex128 if theta or x are complex.
`by_step`, for real ones, takes g', g'' and g''' from complex steps of g, g' and g'' on the piece on which a lies, as
`recursion.complex_step` does, and not from the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from backprop.activations import ACTIVATIONS, Activation, Array
from backprop.api import parameters
from backprop.losses import Loss, Parameter, softmax
from backprop.reference import recursion

# sizes, (activation, parameter) of the layers 1..L, and (loss, parameter)
Network = tuple[Sequence[int], Sequence[tuple[Activation, float]], tuple[Loss, Parameter]]


@dataclass
class Jet:
    """The jets of one call. Lists are indexed by the number of the layer, 0..L; None if a layer has none."""

    forms: Array  # (n, m, k, k), symmetric
    a: list[Any] = field(default_factory=lambda: [None])
    d: list[Any] = field(default_factory=lambda: [None])
    s: list[Any] = field(default_factory=lambda: [None])
    h: list[Any] = field(default_factory=list)
    D: list[Any] = field(default_factory=list)
    S: list[Any] = field(default_factory=list)
    slopes: list[Any] = field(default_factory=lambda: [None])  # the Slopes of the layers; None for softmax

    @property
    def outputs(self) -> tuple[Array, Array, Array]:
        """y_hat (n, n_L), its first derivatives (n, n_L, k), and its second derivatives (n, n_L, m)."""
        return self.h[-1], self.D[-1], self.S[-1]


@dataclass
class Slopes:
    """The derivatives of one activation at one a, computed when they are asked for."""

    activation: Activation
    parameter: float
    a: Array
    by_step: bool

    def _step(self, function: Callable[[Array, float], Array]) -> Array:
        return function(self.a + 1j * recursion.STEP, self.parameter).imag / recursion.STEP

    @cached_property
    def first(self) -> Array:
        """g'(a)."""
        return self._step(self.activation.g) if self.by_step else self.activation.g_prime(self.a, self.parameter)

    @cached_property
    def second(self) -> Array:
        """g''(a)."""
        if self.by_step:
            return self._step(self.activation.g_prime)
        return self.activation.g_second(self.a, self.parameter)

    @cached_property
    def third(self) -> Array:
        """g'''(a)."""
        if self.by_step:
            return self._step(self.activation.g_second)
        return self.activation.g_third(self.a, self.parameter)


def each(k: int) -> Array:
    """The forms of the second derivatives along each of k directions, (k, k, k)."""
    forms = np.zeros((k, k, k))
    forms[np.arange(k), np.arange(k), np.arange(k)] = 1.0
    return forms


def with_link(network: Network) -> tuple[list[tuple[Activation, float]], bool]:
    """The functions that make h_i from a_i, the link in place of the last, and whether this is softmax."""
    _, activations, (loss, _) = network
    functions = list(activations)
    if loss.link is not None and loss.link != "softmax":
        functions[-1] = (ACTIVATIONS[loss.link], 0.0)
    return functions, loss.link == "softmax"


def bilinear(forms: Array, d: Array, t: Array) -> Array:
    """sum_jl E_jl d_j t_l for each form: (n, n_i, m)."""
    value: Array = np.einsum("smjl,sij,sil->sim", forms, d, t)
    return value


def _twice_times(forms: Array, d: Array, S: Array) -> Array:
    """sum_t (2 E_t d)_j S_t, the cotangent that the forms of d hand on to d: (n, n_i, k)."""
    cotangent: Array = 2.0 * np.einsum("smjl,sil,sim->sij", forms, d, S)
    return cotangent


def _times(vector: Array, jets: Array) -> Array:
    """Each direction's part times a vector of the layer."""
    return vector[:, :, None] * jets


def _mean(p: Array, jets: Array) -> Array:
    """The sum over the layer of p times each direction's part, (n, 1, k)."""
    mean: Array = _times(p, jets).sum(axis=1, keepdims=True)
    return mean


def forward(
    network: Network,
    theta: Array,
    x: Array,
    directions: Array | None = None,
    forms: Array | None = None,
    by_step: bool = False,
) -> Jet:
    """The jets of every layer.

    directions: (k, n_0) or (n, k, n_0), the axes if None; forms: (m, k, k) or (n, m, k, k), `each` if None.
    """
    sizes, n = network[0], x.shape[0]
    q = np.eye(sizes[0]) if directions is None else directions
    q = np.broadcast_to(q, (n, *q.shape[-2:])).transpose(0, 2, 1)
    E = each(q.shape[2]) if forms is None else forms
    E = np.broadcast_to(E, (n, *E.shape[-3:]))
    jet = Jet(E, h=[x], D=[q], S=[np.zeros((n, sizes[0], E.shape[1]))])
    functions, ends_in_softmax = with_link(network)
    for i, ((W, b), (g, parameter)) in enumerate(zip(parameters.unflatten(theta, sizes), functions, strict=True), 1):
        a, d, s = jet.h[-1] @ W.T + b, W @ jet.D[-1], W @ jet.S[-1]
        slopes = None
        if ends_in_softmax and i == len(functions):
            h = softmax(a)
            tau = d - _mean(h, d)
            sigma = s + bilinear(E, tau, tau)
            D, S = _times(h, tau), _times(h, sigma - _mean(h, sigma))
        else:
            h, slopes = g.g(a, parameter), Slopes(g, parameter, a, by_step)
            D = _times(slopes.first, d)
            S = _times(slopes.first, s) + _times(slopes.second, bilinear(E, d, d))
        values = {"a": a, "d": d, "s": s, "h": h, "D": D, "S": S, "slopes": slopes}
        for name, value in values.items():
            getattr(jet, name).append(value)
    return jet


def _back_through_softmax(jet: Jet, cot_h: Array, cot_D: Array, cot_S: Array) -> tuple[Array, Array, Array]:
    """The cotangents of a, d and s of the last layer from those of its softmax."""
    p, d, s, E = jet.h[-1], jet.d[-1], jet.s[-1], jet.forms
    tau = d - _mean(p, d)
    sigma = s + bilinear(E, tau, tau)
    cot_s = _times(p, cot_S - _mean(p, cot_S))
    cot_tau = _times(p, cot_D) + _twice_times(E, tau, cot_s)
    cot_p = cot_h + (cot_D * tau).sum(axis=2) + (cot_S * (sigma - _mean(p, sigma))).sum(axis=2)
    cot_p = cot_p - (sigma * _mean(p, cot_S)).sum(axis=2) - (d * cot_tau.sum(axis=1, keepdims=True)).sum(axis=2)
    cot_a = p * (cot_p - (p * cot_p).sum(axis=1, keepdims=True))
    return cot_a, cot_tau - _times(p, cot_tau.sum(axis=1, keepdims=True)), cot_s


def backward(network: Network, theta: Array, jet: Jet, cot_h: Array, cot_D: Array, cot_S: Array) -> tuple[Array, Array]:
    """The gradients by theta, flat, and by x of the sum of outputs times cotangents."""
    layers = parameters.unflatten(theta, network[0])
    parts: list[Array] = []
    for i in range(len(layers), 0, -1):
        d, s, slopes = jet.d[i], jet.s[i], jet.slopes[i]
        if slopes is None:
            cot_a, cot_d, cot_s = _back_through_softmax(jet, cot_h, cot_D, cot_S)
        else:
            cot_s = _times(slopes.first, cot_S)
            cot_d = _times(slopes.first, cot_D) + _times(slopes.second, _twice_times(jet.forms, d, cot_S))
            curvature = _times(slopes.second, s) + _times(slopes.third, bilinear(jet.forms, d, d))
            cot_a = slopes.first * cot_h + slopes.second * (d * cot_D).sum(axis=2) + (curvature * cot_S).sum(axis=2)
        grad_W = cot_a.T @ jet.h[i - 1]
        grad_W = grad_W + np.einsum("sij,slj->il", cot_d, jet.D[i - 1]) + np.einsum("sij,slj->il", cot_s, jet.S[i - 1])
        parts = [grad_W.ravel(), cot_a.sum(axis=0), *parts]
        W = layers[i - 1][0]
        cot_h, cot_D, cot_S = cot_a @ W, W.T @ cot_d, W.T @ cot_s
    return np.concatenate(parts), cot_h


def along(network: Network, theta: Array, direction: Array, jet: Jet) -> tuple[Array, Array, Array]:
    """The derivative of the jet's outputs along a direction of theta, R{.} in `recursion`; not of softmax.

    R{a} = W R{h} + V h + v,   R{d} = W R{D} + V D,   R{s} = W R{S} + V S
    R{h} = g' R{a},   R{D} = g' R{d} + g'' d R{a}
    R{S} = g' R{s} + (g'' s + g''' form(d)) R{a} + g'' 2 d . E R{d}
    """
    sizes, E = network[0], jet.forms
    R_h, R_D, R_S = np.zeros_like(jet.h[0]), np.zeros_like(jet.D[0]), np.zeros_like(jet.S[0])
    layers = zip(parameters.unflatten(theta, sizes), parameters.unflatten(direction, sizes), strict=True)
    for i, ((W, _), (V, v)) in enumerate(layers, 1):
        d, s, slopes = jet.d[i], jet.s[i], jet.slopes[i]
        R_a = R_h @ W.T + jet.h[i - 1] @ V.T + v
        R_d, R_s = W @ R_D + V @ jet.D[i - 1], W @ R_S + V @ jet.S[i - 1]
        R_h = slopes.first * R_a
        R_D = _times(slopes.first, R_d) + _times(slopes.second * R_a, d)
        curvature = _times(slopes.second, s) + _times(slopes.third, bilinear(E, d, d))
        R_S = _times(slopes.first, R_s) + _times(R_a, curvature) + _times(2.0 * slopes.second, bilinear(E, d, R_d))
    return R_h, R_D, R_S


# The calls of Network ------------------------------------------------------------------------------------------------


def input_jet(
    network: Network, theta: Array, x: Array, directions: Array | None = None, by_step: bool = False
) -> tuple[Array, Array, Array]:
    """y_hat (n, n_L), and its first and second derivatives along each direction, (n, n_L, k)."""
    return forward(network, theta, x, directions, None, by_step).outputs


def laplacian(network: Network, theta: Array, x: Array, by_step: bool = False) -> Array:
    """sum_j d2 y_hat / dx_j^2, (n, n_L)."""
    laplace: Array = forward(network, theta, x, None, np.eye(network[0][0])[None], by_step).S[-1][:, :, 0]
    return laplace


def input_hessian(
    network: Network, theta: Array, x: Array, multipliers: Array | None = None, by_step: bool = False
) -> Array:
    """The Hessian of multipliers . y_hat by x, (n, n_0, n_0); multipliers: (n_L,) or (n, n_L), 1 if None."""
    layers = parameters.unflatten(theta, network[0])
    jet = forward(network, theta, x, None, None, by_step)
    grad_h = np.broadcast_to(np.ones(network[0][-1]) if multipliers is None else multipliers, jet.h[-1].shape)
    hessian = 0.0
    for i in range(len(layers), 0, -1):
        d, slopes = jet.d[i], jet.slopes[i]
        if slopes is None:
            p = jet.h[i]
            curve = grad_a = p * (grad_h - (p * grad_h).sum(axis=1, keepdims=True))
            d = d - _mean(p, d)
        else:
            curve, grad_a = slopes.second * grad_h, slopes.first * grad_h
        hessian = hessian + np.einsum("sij,si,sil->sjl", d, curve, d)
        grad_h = grad_a @ layers[i - 1][0]
    return np.asarray(hessian)


def jet_vjp(
    network: Network,
    theta: Array,
    x: Array,
    cot_y: Array | None,
    cot_dy: Array | None,
    cot_d2y: Array | None,
    directions: Array | None = None,
    by_step: bool = False,
) -> tuple[Array, Array]:
    """The gradients by theta and x of sum (cot_y y + cot_dy dy + cot_d2y d2y), with the outputs of `input_jet`."""
    jet = forward(network, theta, x, directions, None, by_step)
    given = zip((cot_y, cot_dy, cot_d2y), jet.outputs, strict=True)
    return backward(network, theta, jet, *(np.zeros_like(of) if cot is None else cot for cot, of in given))


@dataclass
class Equation:
    """c u + b . grad u + D : Hess u, of one output; c: () or (n,), b: (n_0,) or (n, n_0), D: (n_0, n_0) or (n, ...).

    Only the symmetric part of D counts.
    """

    c: Array
    b: Array
    D: Array

    def jet(self, network: Network, theta: Array, x: Array, by_step: bool) -> Jet:
        """The jet along the axes, with D as its form."""
        symmetric = (self.D + np.swapaxes(self.D, -1, -2)) / 2.0
        return forward(network, theta, x, None, symmetric[..., None, :, :], by_step)

    def of(self, u: Array, gradient: Array, second: Array) -> Array:
        """The equation's left side, (n,), from (n, 1), (n, 1, n_0) and (n, 1, 1)."""
        left: Array = self.c * u[:, 0] + (self.b * gradient[:, 0]).sum(axis=1) + second[:, 0, 0]
        return left

    def back(self, network: Network, theta: Array, jet: Jet, cotangent: Array) -> Array:
        """The gradient by theta of the left side times a cotangent (n,)."""
        cot_D = (cotangent[:, None] * self.b)[:, None, :]
        return backward(network, theta, jet, (cotangent * self.c)[:, None], cot_D, cotangent[:, None, None])[0]


def pde_value_and_grad(
    network: Network,
    theta: Array,
    x: Array,
    f: Array,
    equation: Equation,
    weight: Array | None = None,
    by_step: bool = False,
) -> tuple[float, Array]:
    """The weighted mean of (c u + b . grad u + D : Hess u - f)^2, and its gradient by theta; f and weight: (n,)."""
    jet = equation.jet(network, theta, x, by_step)
    residual = equation.of(*jet.outputs) - f
    share = np.full(len(x), 1.0 / len(x)) if weight is None else weight / weight.sum()
    return (share * residual**2).sum(), equation.back(network, theta, jet, 2.0 * share * residual)


def pde_gauss_newton_vp(
    network: Network,
    theta: Array,
    direction: Array,
    x: Array,
    equation: Equation,
    weight: Array | None = None,
    by_step: bool = False,
) -> Array:
    """J^T (2 share) J times a direction of theta, with J the derivative of the left side."""
    jet = equation.jet(network, theta, x, by_step)
    share = np.full(len(x), 1.0 / len(x)) if weight is None else weight / weight.sum()
    J_v = equation.of(*along(network, theta, direction, jet))
    return equation.back(network, theta, jet, 2.0 * share * J_v)
