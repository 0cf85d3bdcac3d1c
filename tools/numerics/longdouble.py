"""g and its derivatives in long double, by formulas that do not cancel: 11 bits more than float64, for ulp.py.

The C library's expl, expm1l, log1pl, sinl and cosl are right to about one last place of long double, which is 1/2048
of float64's. If an argument is rounded to long double before an exponential, the error is this times the argument's
size. Therefore a^2/2 is split. The argument of gelu_tanh is not, so its far tails are right to 0.35 of float64's last
place only.
"""

import numpy as np

L = np.longdouble
PI = 4 * np.arctan(L(1))
ROOT_8_OVER_PI = np.sqrt(8 / PI)
CUBIC = L("0.044715")
SELU_SCALE, SELU_ALPHA = L("1.0507009873554804934193349852946"), L("1.6732632423543772848170429916717")
NEAR = L(2)  # the series for Phi up to here, the continued fraction beyond
N_TERMS, N_FRACTIONS = 32, 160  # both reach 2^-64 then, less the 5 bits that 1/2 - 0.477 costs


def phi(a):
    """exp(-a^2/2)/sqrt(2 pi); the square of the first 24 bits of a is exact."""
    high = a.astype(np.float32).astype(L)
    high = np.where(np.isfinite(high), high, a)
    return np.exp(-high * high / 2) * np.exp(-(a - high) * (a + high) / 2) / np.sqrt(2 * PI)


def distribution(a):
    """Phi(a): 1/2 + phi(a) (a + a^3/3 + a^5/15 + ...) near 0, else phi(a)/(x + 1/(x + 2/(x + ...))), x = |a|."""
    near = np.abs(a) <= NEAR
    total, term = np.empty_like(a), a[near]
    some = np.zeros_like(term)
    for n in range(N_TERMS):
        some += term
        term = term * a[near] ** 2 / (2 * n + 3)
    total[near] = 0.5 + phi(a[near]) * some
    x = np.abs(a[~near])
    fraction = x
    for k in range(N_FRACTIONS, 0, -1):
        fraction = x + k / fraction
    tail = phi(x) / fraction
    total[~near] = np.where(a[~near] < 0, tail, 1 - tail)
    return total


def sigmoid(a):
    """The logistic function and its first three derivatives."""
    t = np.exp(-np.abs(a))
    one = 1 + t
    bend = np.sign(a) * t * np.expm1(-np.abs(a)) / one**3
    return np.where(a < 0, t, 1) / one, t / one**2, bend, t * (1 - 4 * t + t * t) / one**4


def tanh(a):
    t = np.exp(-2 * np.abs(a))
    _, _, bend, curl = sigmoid(2 * a)
    return -np.sign(a) * np.expm1(-2 * np.abs(a)) / (1 + t), 4 * t / (1 + t) ** 2, 8 * bend, 16 * curl


def elu(a):
    e = np.exp(np.minimum(a, 0))
    further = np.where(a >= 0, 0, e)
    return np.where(a > 0, a, np.expm1(np.minimum(a, 0))), np.where(a > 0, 1, e), further, further


def selu(a):
    factor = np.where(a > 0, SELU_SCALE, SELU_SCALE * SELU_ALPHA)
    return tuple(factor * value for value in elu(a))


def gelu(a):
    density, below = phi(a), distribution(a)
    return a * below, below + a * density, density * (2 - a * a), density * (a * (a - 2) * (a + 2))


def gelu_tanh(a):
    s, s_prime, s_second, s_third = sigmoid(ROOT_8_OVER_PI * (a + CUBIC * a**3))
    slope, bend = ROOT_8_OVER_PI * (1 + 3 * CUBIC * a * a), ROOT_8_OVER_PI * 6 * CUBIC * a
    second = (2 * slope + a * bend) * s_prime + a * slope**2 * s_second
    third = 4 * bend * s_prime + 3 * slope * (slope + a * bend) * s_second + a * slope**3 * s_third
    return a * s, s + a * slope * s_prime, second, third


def silu(a):
    s, s_prime, s_second, s_third = sigmoid(a)
    return a * s, s + a * s_prime, 2 * s_prime + a * s_second, 3 * s_second + a * s_third


def mish(a):
    """Mish by w = 1 - 2/(e^2 + 2e + 2), from e = exp(a) for a <= 0, and from t = exp(-a) for a > 0."""
    t, left = np.exp(-np.abs(a)), a <= 0
    d = np.where(left, t * t + 2 * t + 2, 1 + 2 * t + 2 * t * t)
    w = np.where(left, t * t + 2 * t, 1 + 2 * t) / d
    w_prime = 4 * (1 + t) * np.where(left, t, t * t) / d**2
    w_second = 4 * t * np.where(left, 2 + 2 * t - 3 * t**2 - 2 * t**3, t * (2 * t**3 + 2 * t**2 - 3 * t - 2)) / d**3
    of_e = 4 - 32 * t**2 - 24 * t**3 + 5 * t**4 + 4 * t**5
    of_t = t * (4 + 5 * t - 24 * t**2 - 32 * t**3 + 4 * t**5)
    w_third = 4 * t * np.where(left, of_e, of_t) / d**4
    return a * w, w + a * w_prime, 2 * w_prime + a * w_second, 3 * w_second + a * w_third


def softplus(a):
    return np.maximum(a, 0) + np.log1p(np.exp(-np.abs(a))), *sigmoid(a)[:3]


def softsign(a):
    one = 1 + np.abs(a)
    return a / one, 1 / one**2, -2 * np.sign(a) / one**3, np.where(a == 0, 0, 6 / one**4)


def hardswish(a):
    inside = (a > -3) & (a < 3)
    prime = np.where(inside, (2 * a + 3) / 6, np.where(a >= 3, 1, L(0)))
    return a * np.clip(a + 3, 0, 6) / 6, prime, np.where(inside, 1 / L(3), L(0)), np.zeros_like(a)


def hardsigmoid(a):
    return np.clip(a + 3, 0, 6) / 6, np.where((a > -3) & (a < 3), 1 / L(6), L(0)), *np.zeros((2, *a.shape), L)


FUNCTIONS = {
    "elu": elu, "selu": selu, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu, "mish": mish, "softplus": softplus,
    "softsign": softsign, "tanh": tanh, "sigmoid": sigmoid, "exp": lambda a: (np.exp(a),) * 4,
    "sin": lambda a: (np.sin(a), np.cos(a), -np.sin(a), -np.cos(a)), "hardswish": hardswish, "hardsigmoid": hardsigmoid,
}  # fmt: skip


def exact_values(name, a):
    """g(a) and its first three derivatives at float64 arguments."""
    with np.errstate(all="ignore"):
        return FUNCTIONS[name](a.astype(L))
