"""The table of losses: name -> code, formula, domain of y, and a NumPy reference of l, dl and H t.

`loss` and `loss_prime` take (z, y, parameter), where z is what the loss acts on: a_L for the losses with a link
(and hinge), y_hat for the others. z may be complex (the complex step), y is real. If the loss is a mean over outputs,
both return one term per output, (n_samples, n_out); the `loss` of cross_entropy returns one value per row.
`curvature` takes (z, y, t, parameter) and returns H t row by row, with H the second derivatives of the terms of the row
by z. This is l'' (.) t for all losses except cross_entropy. l'' is 0 at a kink of l or dl; a NaN in z or y gives NaN.
Labels reach the reference of cross_entropy as rows of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backprop.activations import ACTIVATIONS, SOFTMAX_CODE, Array, log1p

Parameter = float | tuple[float, ...]  # of a loss: a tuple has one for each output


@dataclass(frozen=True)
class Loss:
    """One row of the table.

    Attributes
    ----------
    name : str
    code : int
        The number of the loss in the kernels (`LossCode` in ``kernels/table.pxd``).
    formula : str
        l for one output, d = y_hat - y, or for a row.
    loss, loss_prime : callable
        ``loss(z, y, parameter)`` and its derivative by z.
    curvature : callable
        ``curvature(z, y, t, parameter)``, H t row by row, H = d2l/dz2.
    acts_on_a : bool
        True if the loss works on a_L instead of y_hat.
    link : str or None
        The output function that `forward` applies if the loss works on a_L.
    domain : str
        The values that y may have, in the words of the errors.
    parameter_name : str or None
    parameter_domain : str
    default : float
    has_kink : bool
        Whether dl/dz jumps at z = y. (For hinge, y a = 1 means a = y, since y is -1 or 1.)
    by_output : bool
        Whether the parameter is a tuple, with one for each output. All outputs may then have the same targets.
    """

    name: str
    code: int
    formula: str
    loss: Callable[[Array, Array, Any], Array]
    loss_prime: Callable[[Array, Array, Any], Array]
    curvature: Callable[[Array, Array, Array, Any], Array]
    acts_on_a: bool = False
    link: str | None = None
    domain: str = "real numbers"
    parameter_name: str | None = None
    parameter_domain: str = ""
    default: float = 0.0
    has_kink: bool = False
    by_output: bool = False

    def parameter_is_valid(self, parameter: float) -> bool:
        """Whether the parameter lies in its domain."""
        if self.name == "huber":
            return 0 < parameter < np.inf
        return 0 < parameter < 1 if self.name == "quantile" else 0 <= parameter < 1


def _huber(z: Array, y: Array, delta: float) -> Array:
    d = z - y
    magnitude = d * np.sign(d.real)
    return np.where(np.abs(d.real) <= delta, 0.5 * d * d, delta * (magnitude - 0.5 * delta))


def _huber_slope(z: Array, y: Array, delta: float) -> Array:
    d = z - y
    return np.where(np.abs(d.real) > delta, delta * np.sign(d.real), d)


def _quantile_slope(z: Array, y: Array, tau: Parameter) -> Array:
    d, taus = z.real - y, np.asarray(tau)
    return np.where(d > 0, 1.0 - taus, np.where(d < 0, -taus, d))  # d itself is 0, or NaN


def _hinge_slope(a: Array, y: Array, _: float) -> Array:
    return np.where(1.0 - y * a.real > 0, -y, 0.0 * y * a.real)


def _binary_cross_entropy(a: Array, y: Array, _: float) -> Array:
    positive = a.real > 0
    t = np.exp(np.where(positive, -a, a))
    return np.where(positive, (1.0 - y) * a, -y * a) + log1p(t)  # max(a, 0) - y a without the difference


def _binary_cross_entropy_prime(a: Array, y: Array, _: float) -> Array:
    sigma = ACTIVATIONS["sigmoid"].g
    return (1.0 - y) * sigma(a, 0.0) - y * sigma(-a, 0.0)


def _smoothed(y: Array, eps: float) -> Array:
    return (1.0 - eps) * y + eps / y.shape[1]


def softmax(a: Array) -> Array:
    """exp(a_k) / sum_k exp(a_k) for each row of a, real or complex."""
    exponentials = np.exp(a - a.real.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _cross_entropy(a: Array, y: Array, eps: float) -> Array:
    """-sum_k y'_k log softmax(a)_k as a sum of terms that are >= 0, so that none cancels."""
    target = _smoothed(y, eps)
    top = a.real.argmax(axis=1)[:, None]
    a_top = np.take_along_axis(a, top, axis=1)
    others = np.exp(a - a_top)
    np.put_along_axis(others, top, 0.0, axis=1)
    minus_log_softmax = (a_top - a) + log1p(others.sum(axis=1, keepdims=True))
    return np.where(target == 0, 0.0, target * minus_log_softmax).sum(axis=1)


def _cross_entropy_prime(a: Array, y: Array, eps: float) -> Array:
    target = _smoothed(y, eps)
    return softmax(a) * target.sum(axis=1, keepdims=True) - target


def _cross_entropy_curvature(a: Array, y: Array, t: Array, eps: float) -> Array:
    """sum(y') p (.) (t - p.t), with t shifted so that it is 0 where p is largest, since t - p.t would cancel there."""
    p = softmax(a)
    shifted = t - np.take_along_axis(t, a.real.argmax(axis=1)[:, None], axis=1)
    return _smoothed(y, eps).sum(axis=1, keepdims=True) * p * (shifted - (p * shifted).sum(axis=1, keepdims=True))


def _unless_nan(z: Array, y: Array, value: Array | float) -> Array:
    d = z.real - y
    return np.where(np.isnan(d), d, value)


# fmt: off
_TABLE = [
    Loss(
        "squared_error", 0, "d^2",
        lambda z, y, p: (z - y) ** 2, lambda z, y, p: 2.0 * (z - y), lambda z, y, t, p: _unless_nan(z, y, 2.0) * t,
    ),
    Loss(
        "absolute_error", 1, "|d|",
        lambda z, y, p: (z - y) * np.sign(z.real - y), lambda z, y, p: np.sign(z.real - y),
        lambda z, y, t, p: _unless_nan(z, y, 0.0) * t, has_kink=True,
    ),
    Loss(
        "huber", 2, "d^2/2 if |d| <= delta, else delta (|d| - delta/2)",
        _huber, _huber_slope, lambda z, y, t, p: _unless_nan(z, y, np.where(np.abs(z.real - y) < p, 1.0, 0.0)) * t,
        parameter_name="delta", parameter_domain="a finite number > 0", default=1.0,
    ),
    Loss(
        "quantile", 3, "max(-tau d, (1 - tau) d)",
        lambda z, y, p: _quantile_slope(z, y, p) * (z - y), _quantile_slope,
        lambda z, y, t, p: _unless_nan(z, y, 0.0) * t,
        parameter_name="tau", parameter_domain="a number with 0 < tau < 1", default=0.5, has_kink=True,
    ),
    Loss(
        "hinge", 4, "max(0, 1 - y a)",
        lambda a, y, p: np.where(1.0 - y * a.real > 0, 1.0 - y * a, 0.0 * y * a), _hinge_slope,
        lambda a, y, t, p: _unless_nan(a, y, 0.0) * t,
        acts_on_a=True, domain="-1 or +1", has_kink=True,
    ),
    Loss(
        "poisson", 5, "exp(a) - y a",
        lambda a, y, p: np.exp(a) - y * a, lambda a, y, p: np.exp(a) - y, lambda a, y, t, p: np.exp(a) * t,
        acts_on_a=True, link="exp", domain="numbers >= 0",
    ),
    Loss(
        "binary_cross_entropy", 6, "max(a, 0) - y a + log1p(exp(-|a|))",
        _binary_cross_entropy, _binary_cross_entropy_prime,
        lambda a, y, t, p: ACTIVATIONS["sigmoid"].g_prime(a, 0.0) * t,
        acts_on_a=True, link="sigmoid", domain="numbers in [0, 1]",
    ),
    Loss(
        "cross_entropy", 7, "-sum_k y'_k log softmax(a)_k, y' = (1 - eps) y + eps/n_out",
        _cross_entropy, _cross_entropy_prime, _cross_entropy_curvature, acts_on_a=True, link="softmax",
        domain="integer labels (n_samples,), or probabilities (n_samples, n_out)",
        parameter_name="eps", parameter_domain="a number with 0 <= eps < 1", default=0.0,
    ),
]
# fmt: on

LOSSES: dict[str, Loss] = {row.name: row for row in _TABLE}

# The quantile loss with a tau for each output. It is no name of its own: a tuple of taus selects it.
QUANTILES = replace(LOSSES["quantile"], code=8, by_output=True)


def with_parameters_by_output(loss: Loss) -> Loss | None:
    """The same loss with a parameter for each output, None if there is none."""
    return QUANTILES if loss.name == QUANTILES.name else None


def label_rows(labels: Array, n_out: int) -> Array:
    """Labels as rows of 0 and 1. Another thread may write to them: a label out of range gives a row of zeros."""
    return (labels[:, None] == np.arange(n_out)).astype(float)


def link_code(loss: Loss) -> int:
    """The code of the function that makes y_hat from a_L, for losses that work on a_L."""
    link = loss.link or "identity"
    return SOFTMAX_CODE if link == "softmax" else ACTIVATIONS[link].code
