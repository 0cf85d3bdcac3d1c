"""The table of activations: name -> code, formula, and a NumPy reference of g, g', g'' and g'''.

The reference functions take real or complex arrays. For a complex argument they are the analytic continuation of the
piece that the real part selects, so that ``g(a + 1e-200j).imag / 1e-200`` is g'(a) to rounding: the complex step
(Squire and Trapp, SIAM Review 40, 1998). The tests check every g' below in this way. None of the functions computes
``1 - h**2`` or ``1 + erf``: these lose all digits in the tails.

At a kink g' is PyTorch's: relu, leaky_relu, elu and selu take the left piece at 0; hardtanh, relu6 and hardsigmoid
have g' = 0 at both corners; hardswish has 0 at -3 and 1 at 3. g'' and g''' are 0 at a kink of g or g'. A NaN argument
gives NaN in g and its derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SELU_SCALE = 1.0507009873554804934  # lambda of Klambauer et al., Self-Normalizing Neural Networks, 2017
SELU_ALPHA = 1.6732632423543772848
SELU_ALPHA_SCALE = 1.7580993408473768  # lambda alpha, from the 30 digits that they give, rounded once
GELU_TANH_CUBIC = 0.044715  # Hendrycks and Gimpel, Gaussian Error Linear Units, 2016


@dataclass(frozen=True)
class Activation:
    """One row of the table.

    Attributes
    ----------
    name : str
    code : int
        The number of the activation in the kernels (`ActivationCode` in ``kernels/table.pxd``).
    formula, formula_prime, formula_second, formula_third : str
        g(a) and its derivatives, as printed in the documentation.
    g, g_prime, g_second, g_third : callable
        ``g(a, parameter)``, elementwise, float64 or complex128.
    initialization : {"he", "lecun", "glorot"}
        The rule for the initial weights of a layer with this activation.
    parameter_name : str or None
        None for an activation without a parameter.
    default : float
        The parameter's default.
    kinks : tuple of float
        Where g' jumps.
    """

    name: str
    code: int
    formula: str
    formula_prime: str
    formula_second: str
    formula_third: str
    g: Callable[[Array, float], Array]
    g_prime: Callable[[Array, float], Array]
    g_second: Callable[[Array, float], Array]
    g_third: Callable[[Array, float], Array]
    initialization: str = "glorot"
    parameter_name: str | None = None
    default: float = 0.0
    kinks: tuple[float, ...] = ()


def _pieces(a: Array, conditions: list[npt.NDArray[np.bool_]], values: list[Array | float]) -> Array:
    """At each entry the value of the first condition that holds, the last value if none does; NaN stays NaN."""
    chosen = np.select(conditions, [np.broadcast_to(v, a.shape) for v in values[:-1]], default=values[-1])
    return np.where(np.isnan(a.real), a, chosen)


def _magnitude(a: Array) -> Array:
    """|a|, continued analytically from the half-line of the real part."""
    return np.where(a.real < 0, -a, a)


def _sigmoid(a: Array) -> Array:
    t = np.exp(-_magnitude(a))
    return np.where(a.real < 0, t, 1.0) / (1.0 + t)


def _sigmoid_prime(a: Array) -> Array:
    t = np.exp(-_magnitude(a))
    return t / ((1.0 + t) * (1.0 + t))


def _sigmoid_second(a: Array) -> Array:
    """-sign(a) t (1 - t) / (1 + t)^3, where 1 - t does not cancel."""
    minus_magnitude = -_magnitude(a)
    t = np.exp(minus_magnitude)
    return np.where(a.real < 0, -t, t) * np.expm1(minus_magnitude) / (1.0 + t) ** 3


def _sigmoid_third(a: Array) -> Array:
    t = np.exp(-_magnitude(a))
    return t * (1.0 - 4.0 * t + t * t) / (1.0 + t) ** 4


def log1p(t: Array) -> Array:
    """log(1 + t), to first order in the imaginary part: NumPy's complex log1p has real part 0 for tiny t."""
    return np.log1p(t.real) + 1j * t.imag / (1.0 + t.real) if np.iscomplexobj(t) else np.log1p(t)


def _softplus(a: Array) -> Array:
    return np.where(a.real >= 0, a, 0.0) + log1p(np.exp(-_magnitude(a)))


def _tanh_prime(a: Array) -> Array:
    t = np.exp(-2.0 * _magnitude(a))
    return 4.0 * t / ((1.0 + t) * (1.0 + t))


def _normal_density(a: Array) -> Array:
    return np.exp(-0.5 * a * a) / np.sqrt(2.0 * np.pi)


def _normal_distribution(a: Array) -> Array:
    from scipy.special import erfc

    return 0.5 * erfc(-a / np.sqrt(2.0))


def _times_vanishing(a: Array, factor: Array) -> Array:
    """A * factor, and its limit 0 where the factor is 0 (at -inf the product would be NaN)."""
    return np.where(factor == 0, 0.0, a) * factor


def _elu_second(a: Array, alpha: float) -> Array:
    """The same for g''' and for selu."""
    return _pieces(a, [a.real >= 0], [0.0, alpha * np.exp(np.where(a.real > 0, 0.0, a))])


def _gelu_prime(a: Array) -> Array:
    return _normal_distribution(a) + _times_vanishing(a, _normal_density(a))


def _gelu_second(a: Array) -> Array:
    return _times_vanishing(2.0 - a * a, _normal_density(a))


def _gelu_third(a: Array) -> Array:
    return _times_vanishing(a * (a * a - 4.0), _normal_density(a))


def _gelu_tanh_argument(a: Array) -> Array:
    return np.sqrt(8.0 / np.pi) * a * (1.0 + GELU_TANH_CUBIC * a * a)  # 2u, where gelu_tanh = a (1 + tanh u) / 2


def _gelu_tanh_prime(a: Array) -> Array:
    u2 = _gelu_tanh_argument(a)
    u2_prime = np.sqrt(8.0 / np.pi) * (1.0 + 3.0 * GELU_TANH_CUBIC * a * a)
    return _sigmoid(u2) + _times_vanishing(a * u2_prime, _sigmoid_prime(u2))


def _gelu_tanh_second(a: Array) -> Array:
    u2 = _gelu_tanh_argument(a)
    u2_prime = np.sqrt(8.0 / np.pi) * (1.0 + 3.0 * GELU_TANH_CUBIC * a * a)
    twice_u2_prime_and_a_u2_second = np.sqrt(8.0 / np.pi) * (2.0 + 12.0 * GELU_TANH_CUBIC * a * a)
    return _times_vanishing(twice_u2_prime_and_a_u2_second, _sigmoid_prime(u2)) + _times_vanishing(
        a * u2_prime * u2_prime, _sigmoid_second(u2)
    )


def _gelu_tanh_third(a: Array) -> Array:
    """(3 w'' + a w''') sigma'(w) + 3 w' (w' + a w'') sigma''(w) + a w'^3 sigma'''(w), w = 2u."""
    c, w = np.sqrt(8.0 / np.pi), _gelu_tanh_argument(a)
    square = 3.0 * GELU_TANH_CUBIC * a * a
    slope = c * (1.0 + square)
    return (
        _times_vanishing(24.0 * c * GELU_TANH_CUBIC * a, _sigmoid_prime(w))
        + _times_vanishing(3.0 * slope * c * (1.0 + 3.0 * square), _sigmoid_second(w))
        + _times_vanishing(a * slope**3, _sigmoid_third(w))
    )


def _mish_gate(a: Array) -> Array:
    """tanh(softplus(a)), as a ratio of polynomials in t = exp(-|a|), which neither overflows nor cancels."""
    t = np.exp(-_magnitude(a))
    return np.where(a.real < 0, t * (t + 2.0) / (t * (t + 2.0) + 2.0), (1.0 + 2.0 * t) / (1.0 + 2.0 * t + 2.0 * t * t))


def _mish_gate_prime(a: Array) -> Array:
    t = np.exp(-_magnitude(a))
    negative = 4.0 * t * (1.0 + t) / (t * (t + 2.0) + 2.0) ** 2
    positive = 4.0 * t * t * (1.0 + t) / (1.0 + 2.0 * t + 2.0 * t * t) ** 2
    return np.where(a.real < 0, negative, positive)


def _mish_gate_second(a: Array) -> Array:
    t = np.exp(-_magnitude(a))
    negative = 4.0 * t * (2.0 + t * (2.0 - t * (3.0 + 2.0 * t))) / (t * (t + 2.0) + 2.0) ** 3
    positive = -4.0 * t * t * (2.0 + t * (3.0 - t * (2.0 + 2.0 * t))) / (1.0 + 2.0 * t + 2.0 * t * t) ** 3
    return np.where(a.real < 0, negative, positive)


def _mish_gate_third(a: Array) -> Array:
    t = np.exp(-_magnitude(a))
    negative = 4.0 * t * (4.0 - t * t * (32.0 + t * (24.0 - t * (5.0 + 4.0 * t)))) / (t * (t + 2.0) + 2.0) ** 4
    positive = 4.0 * t * t * (4.0 + t * (5.0 - t * (24.0 + t * (32.0 - 4.0 * t * t))))
    return np.where(a.real < 0, negative, positive / (1.0 + 2.0 * t + 2.0 * t * t) ** 4)


def _softsign(a: Array) -> Array:
    magnitude = _magnitude(a)
    return np.where(np.isinf(magnitude.real), np.sign(a.real), a / (1.0 + np.where(np.isinf(a.real), 0.0, magnitude)))


def _one(a: Array) -> Array:
    return np.where(np.isnan(a.real), a, np.ones_like(a))


def _zero(a: Array) -> Array:
    return np.where(np.isnan(a.real), a, np.zeros_like(a))


# fmt: off
_TABLE = [
    Activation(
        "identity", 0, "a", "1", "0", "0",
        lambda a, p: a, lambda a, p: _one(a), lambda a, p: _zero(a), lambda a, p: _zero(a),
    ),
    Activation(
        "relu", 1, "max(0, a)", "1 if a > 0 else 0", "0", "0",
        lambda a, p: _pieces(a, [a.real > 0], [a, 0.0]),
        lambda a, p: _pieces(a, [a.real > 0], [1.0, 0.0]),
        lambda a, p: _zero(a), lambda a, p: _zero(a), "he", kinks=(0.0,),
    ),
    Activation(
        "leaky_relu", 2, "a if a > 0 else slope a", "1 if a > 0 else slope", "0", "0",
        lambda a, p: _pieces(a, [a.real > 0], [a, p * a]),
        lambda a, p: _pieces(a, [a.real > 0], [1.0, p]),
        lambda a, p: _zero(a), lambda a, p: _zero(a), "he", "slope", 0.01, kinks=(0.0,),
    ),
    Activation(
        "elu", 3, "a if a > 0 else alpha (exp(a) - 1)", "1 if a > 0 else alpha exp(a)", "alpha exp(a) if a < 0 else 0",
        "alpha exp(a) if a < 0 else 0",
        lambda a, p: _pieces(a, [a.real > 0], [a, p * np.expm1(np.where(a.real > 0, 0.0, a))]),
        lambda a, p: _pieces(a, [a.real > 0], [1.0, p * np.exp(np.where(a.real > 0, 0.0, a))]),
        _elu_second, _elu_second, "he", "alpha", 1.0, kinks=(0.0,),
    ),
    Activation(
        "selu", 4, "lambda (a if a > 0 else alpha (exp(a) - 1))", "lambda (1 if a > 0 else alpha exp(a))",
        "lambda alpha exp(a) if a < 0 else 0", "lambda alpha exp(a) if a < 0 else 0",
        lambda a, p: _pieces(
            a, [a.real > 0], [SELU_SCALE * a, SELU_ALPHA_SCALE * np.expm1(np.where(a.real > 0, 0.0, a))]
        ),
        lambda a, p: _pieces(
            a, [a.real > 0], [SELU_SCALE, SELU_ALPHA_SCALE * np.exp(np.where(a.real > 0, 0.0, a))]
        ),
        lambda a, p: _elu_second(a, SELU_ALPHA_SCALE), lambda a, p: _elu_second(a, SELU_ALPHA_SCALE), "lecun",
        kinks=(0.0,),
    ),
    Activation(
        "gelu", 5, "a Phi(a)", "Phi(a) + a phi(a)", "phi(a) (2 - a^2)", "phi(a) a (a^2 - 4)",
        lambda a, p: _times_vanishing(a, _normal_distribution(a)), lambda a, p: _gelu_prime(a),
        lambda a, p: _gelu_second(a), lambda a, p: _gelu_third(a), "he",
    ),
    Activation(
        "gelu_tanh", 6, "a sigma(2u), u = sqrt(2/pi) (a + 0.044715 a^3)", "sigma(2u) + 2 a u' sigma'(2u)",
        "(4 u' + 2 a u'') sigma'(2u) + 4 a u'^2 sigma''(2u)",
        "(6 u'' + 2 a u''') sigma'(2u) + 12 u' (u' + a u'') sigma''(2u) + 8 a u'^3 sigma'''(2u)",
        lambda a, p: _times_vanishing(a, _sigmoid(_gelu_tanh_argument(a))), lambda a, p: _gelu_tanh_prime(a),
        lambda a, p: _gelu_tanh_second(a), lambda a, p: _gelu_tanh_third(a), "he",
    ),
    Activation(
        "silu", 7, "a sigma(a)", "sigma(a) + a sigma'(a)", "2 sigma'(a) + a sigma''(a)",
        "3 sigma''(a) + a sigma'''(a)",
        lambda a, p: _times_vanishing(a, _sigmoid(a)),
        lambda a, p: _sigmoid(a) + _times_vanishing(a, _sigmoid_prime(a)),
        lambda a, p: 2.0 * _sigmoid_prime(a) + _times_vanishing(a, _sigmoid_second(a)),
        lambda a, p: 3.0 * _sigmoid_second(a) + _times_vanishing(a, _sigmoid_third(a)), "he",
    ),
    Activation(
        "mish", 8, "a tanh(softplus(a))", "w + a w', w = tanh(softplus(a))", "2 w' + a w''",
        "3 w'' + a w'''",
        lambda a, p: _times_vanishing(a, _mish_gate(a)),
        lambda a, p: _mish_gate(a) + _times_vanishing(a, _mish_gate_prime(a)),
        lambda a, p: 2.0 * _mish_gate_prime(a) + _times_vanishing(a, _mish_gate_second(a)),
        lambda a, p: 3.0 * _mish_gate_second(a) + _times_vanishing(a, _mish_gate_third(a)), "he",
    ),
    Activation(
        "softplus", 9, "max(a, 0) + log(1 + exp(-|a|))", "sigma(a)", "sigma'(a)", "sigma''(a)",
        lambda a, p: _softplus(a), lambda a, p: _sigmoid(a), lambda a, p: _sigmoid_prime(a),
        lambda a, p: _sigmoid_second(a),
    ),
    Activation(
        "softsign", 10, "a / (1 + |a|)", "1 / (1 + |a|)^2", "-2 sign(a) / (1 + |a|)^3",
        "6 / (1 + |a|)^4 if a != 0 else 0",
        lambda a, p: _softsign(a), lambda a, p: (1.0 / (1.0 + _magnitude(a))) ** 2,
        lambda a, p: -2.0 * np.sign(a.real) * (1.0 / (1.0 + _magnitude(a))) ** 3,
        lambda a, p: np.where(a.real == 0, 0.0, 6.0 * (1.0 / (1.0 + _magnitude(a))) ** 4),
    ),
    Activation(
        "tanh", 11, "tanh(a)", "4t / (1 + t)^2, t = exp(-2|a|)", "-8 sign(a) t (1 - t) / (1 + t)^3",
        "16 t (1 - 4t + t^2) / (1 + t)^4",
        lambda a, p: np.tanh(a), lambda a, p: _tanh_prime(a), lambda a, p: 8.0 * _sigmoid_second(2.0 * a),
        lambda a, p: 16.0 * _sigmoid_third(2.0 * a),
    ),
    Activation(
        "sigmoid", 12, "sigma(a) = 1 / (1 + exp(-a))", "t / (1 + t)^2, t = exp(-|a|)",
        "-sign(a) t (1 - t) / (1 + t)^3", "t (1 - 4t + t^2) / (1 + t)^4",
        lambda a, p: _sigmoid(a), lambda a, p: _sigmoid_prime(a), lambda a, p: _sigmoid_second(a),
        lambda a, p: _sigmoid_third(a),
    ),
    Activation(
        "hardtanh", 13, "min(max(a, -1), 1)", "1 if -1 < a < 1 else 0", "0", "0",
        lambda a, p: _pieces(a, [a.real <= -1, a.real >= 1], [-1.0, 1.0, a]),
        lambda a, p: _pieces(a, [(a.real > -1) & (a.real < 1)], [1.0, 0.0]),
        lambda a, p: _zero(a), lambda a, p: _zero(a), kinks=(-1.0, 1.0),
    ),
    Activation(
        "hardsigmoid", 14, "min(max(a + 3, 0), 6) / 6", "1/6 if -3 < a < 3 else 0", "0", "0",
        lambda a, p: _pieces(a, [a.real <= -3, a.real >= 3], [0.0, 1.0, (a + 3.0) / 6.0]),
        lambda a, p: _pieces(a, [(a.real > -3) & (a.real < 3)], [1.0 / 6.0, 0.0]),
        lambda a, p: _zero(a), lambda a, p: _zero(a), kinks=(-3.0, 3.0),
    ),
    Activation(
        "hardswish", 15, "a min(max(a + 3, 0), 6) / 6", "0 if a <= -3, 1 if a >= 3, else (2a + 3) / 6",
        "1/3 if -3 < a < 3 else 0", "0",
        lambda a, p: _pieces(a, [a.real <= -3, a.real >= 3], [0.0, a, a * (a + 3.0) / 6.0]),
        lambda a, p: _pieces(a, [a.real <= -3, a.real >= 3], [0.0, 1.0, (2.0 * a + 3.0) / 6.0]),
        lambda a, p: _pieces(a, [(a.real > -3) & (a.real < 3)], [1.0 / 3.0, 0.0]),
        lambda a, p: _zero(a), "he", kinks=(-3.0, 3.0),
    ),
    Activation(
        "relu6", 16, "min(max(a, 0), 6)", "1 if 0 < a < 6 else 0", "0", "0",
        lambda a, p: _pieces(a, [a.real <= 0, a.real >= 6], [0.0, 6.0, a]),
        lambda a, p: _pieces(a, [(a.real > 0) & (a.real < 6)], [1.0, 0.0]),
        lambda a, p: _zero(a), lambda a, p: _zero(a), "he", kinks=(0.0, 6.0),
    ),
    Activation(
        "sin", 17, "sin(a)", "cos(a)", "-sin(a)", "-cos(a)",
        lambda a, p: np.sin(a), lambda a, p: np.cos(a), lambda a, p: -np.sin(a), lambda a, p: -np.cos(a),
    ),
    Activation(
        "exp", 18, "exp(a)", "exp(a)", "exp(a)", "exp(a)",
        lambda a, p: np.exp(a), lambda a, p: np.exp(a), lambda a, p: np.exp(a), lambda a, p: np.exp(a),
    ),
]
# fmt: on

ACTIVATIONS: dict[str, Activation] = {row.name: row for row in _TABLE}
SOFTMAX_CODE = 19  # a link, not an activation: each output depends on all others of its row
