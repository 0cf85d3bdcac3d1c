"""The exact g, g', g'' and g''' of every activation, by mpmath in its working precision; no test."""

import mpmath

mpf = mpmath.mpf

with mpmath.workdps(60):  # the published digits
    SELU_SCALE, SELU_ALPHA = mpf("1.0507009873554804934193349852946"), mpf("1.6732632423543772848170429916717")
SLOPE = mpf(0.01)  # of leaky_relu, as a float64


def exponential(a):
    return mpmath.exp(a) if a > -3000 else mpf(0)


def sigmoid(a):
    return 1 / (1 + exponential(-a)) if a >= 0 else exponential(a) / (1 + exponential(a))


def sigmoid_prime(a):
    return sigmoid(a) * sigmoid(-a)


def normal(a):
    return mpmath.exp(-a * a / 2) / mpmath.sqrt(2 * mpmath.pi) if abs(a) < 100 else mpf(0)


def normal_distribution(a):
    if abs(a) >= 100:
        return mpf(1 if a > 0 else 0)
    return mpmath.erfc(-a / mpmath.sqrt(2)) / 2


def mish_gate(a):
    if a < 0:
        e = exponential(a)
        return e * (e + 2) / (e * (e + 2) + 2)
    t = exponential(-a)
    return (1 + 2 * t) / (1 + 2 * t + 2 * t * t)


def mish_gate_prime(a):
    if a < 0:
        e = exponential(a)
        return 4 * e * (1 + e) / (e * (e + 2) + 2) ** 2
    t = exponential(-a)
    return 4 * t * t * (1 + t) / (1 + 2 * t + 2 * t * t) ** 2


def gelu_tanh_2u(a):
    return mpmath.sqrt(8 / mpmath.pi) * (a + mpf("0.044715") * a**3)


def gelu_tanh_2u_prime(a):
    return mpmath.sqrt(8 / mpmath.pi) * (1 + 3 * mpf("0.044715") * a**2)


def tanh(a):
    t = exponential(-2 * abs(a))
    magnitude = mpmath.tanh(abs(a)) if abs(a) < 100 else (1 - t) / (1 + t)
    return magnitude if a > 0 else -magnitude


def tanh_prime(a):
    t = exponential(-2 * abs(a))
    return 4 * t / (1 + t) ** 2


def hard(a):
    return min(max(a + 3, mpf(0)), mpf(6)) / 6


def sigmoid_second(a):
    t = exponential(-abs(a))
    return mpmath.sign(a) * t * mpmath.expm1(-abs(a)) / (1 + t) ** 3  # 1 - t is -expm1(-|a|)


def gelu_tanh_second(a):
    w, slope = gelu_tanh_2u(a), gelu_tanh_2u_prime(a)
    bend = mpmath.sqrt(8 / mpmath.pi) * 6 * mpf("0.044715") * a
    return (2 * slope + a * bend) * sigmoid_prime(w) + a * slope**2 * sigmoid_second(w)


def mish_second(a):
    if abs(a) > 3000:
        return mpf(0)
    e = mpmath.exp(a)
    d = e * e + 2 * e + 2  # w = 1 - 2/d
    d_prime, d_second = 2 * e * e + 2 * e, 4 * e * e + 2 * e
    return 4 * d_prime / d**2 + a * (2 * d_second / d**2 - 4 * d_prime**2 / d**3)


def sigmoid_third(a):
    t = exponential(-abs(a))
    return t * (1 - 4 * t + t * t) / (1 + t) ** 4


def gelu_tanh_third(a):
    w, slope, c = gelu_tanh_2u(a), gelu_tanh_2u_prime(a), mpmath.sqrt(8 / mpmath.pi)
    bend = c * 6 * mpf("0.044715")  # w'' is bend a, and w''' is bend
    value = 4 * bend * a * sigmoid_prime(w)
    return value + 3 * slope * (slope + a * a * bend) * sigmoid_second(w) + a * slope**3 * sigmoid_third(w)


def mish_third(a):
    if abs(a) > 3000:
        return mpf(0)
    e = mpmath.exp(a)
    d, d_prime, d_second, d_third = e * e + 2 * e + 2, 2 * e * e + 2 * e, 4 * e * e + 2 * e, 8 * e * e + 2 * e
    w_second = 2 * d_second / d**2 - 4 * d_prime**2 / d**3
    w_third = 2 * d_third / d**2 - 12 * d_prime * d_second / d**3 + 12 * d_prime**3 / d**4
    return 3 * w_second + a * w_third


def zero(a):
    return mpf(0)


# name -> g, g', g'', g'''
EXACT = {
    "identity": (lambda a: a, lambda a: mpf(1), zero, zero),
    "relu": (lambda a: max(a, mpf(0)), lambda a: mpf(a > 0), zero, zero),
    "leaky_relu": (lambda a: a if a > 0 else SLOPE * a, lambda a: mpf(1) if a > 0 else SLOPE, zero, zero),
    "elu": (
        lambda a: a if a > 0 else mpmath.expm1(max(a, -3000)),
        lambda a: mpf(1) if a > 0 else exponential(a),
        lambda a: exponential(a) if a < 0 else mpf(0),
        lambda a: exponential(a) if a < 0 else mpf(0),
    ),
    "selu": (
        lambda a: SELU_SCALE * (a if a > 0 else SELU_ALPHA * mpmath.expm1(max(a, -3000))),
        lambda a: SELU_SCALE * (1 if a > 0 else SELU_ALPHA * exponential(a)),
        lambda a: SELU_SCALE * SELU_ALPHA * exponential(a) if a < 0 else mpf(0),
        lambda a: SELU_SCALE * SELU_ALPHA * exponential(a) if a < 0 else mpf(0),
    ),
    "gelu": (
        lambda a: a * normal_distribution(a),
        lambda a: normal_distribution(a) + a * normal(a),
        lambda a: normal(a) * (2 - a * a),
        lambda a: normal(a) * a * (a * a - 4),
    ),
    "gelu_tanh": (
        lambda a: a * sigmoid(gelu_tanh_2u(a)),
        lambda a: sigmoid(gelu_tanh_2u(a)) + a * gelu_tanh_2u_prime(a) * sigmoid_prime(gelu_tanh_2u(a)),
        gelu_tanh_second,
        gelu_tanh_third,
    ),
    "silu": (
        lambda a: a * sigmoid(a),
        lambda a: sigmoid(a) * (1 + a * sigmoid(-a)),
        lambda a: 2 * sigmoid_prime(a) + a * sigmoid_second(a),
        lambda a: 3 * sigmoid_second(a) + a * sigmoid_third(a),
    ),
    "mish": (lambda a: a * mish_gate(a), lambda a: mish_gate(a) + a * mish_gate_prime(a), mish_second, mish_third),
    "softplus": (lambda a: max(a, mpf(0)) + mpmath.log1p(exponential(-abs(a))), sigmoid, sigmoid_prime, sigmoid_second),
    "softsign": (
        lambda a: a / (1 + abs(a)),
        lambda a: 1 / (1 + abs(a)) ** 2,
        lambda a: -2 * mpmath.sign(a) / (1 + abs(a)) ** 3,
        lambda a: 6 / (1 + abs(a)) ** 4 if a else mpf(0),
    ),
    "tanh": (tanh, tanh_prime, lambda a: -2 * tanh(a) * tanh_prime(a), lambda a: 16 * sigmoid_third(2 * a)),
    "sigmoid": (sigmoid, sigmoid_prime, sigmoid_second, sigmoid_third),
    "hardtanh": (lambda a: min(max(a, mpf(-1)), mpf(1)), lambda a: mpf(-1 < a < 1), zero, zero),
    "hardsigmoid": (hard, lambda a: mpf(-3 < a < 3) / 6, zero, zero),
    "hardswish": (
        lambda a: a * hard(a),
        lambda a: mpf(0) if a <= -3 else mpf(1) if a >= 3 else (2 * a + 3) / 6,
        lambda a: mpf(-3 < a < 3) / 3,
        zero,
    ),
    "relu6": (lambda a: min(max(a, mpf(0)), mpf(6)), lambda a: mpf(0 < a < 6), zero, zero),
    "sin": (mpmath.sin, mpmath.cos, lambda a: -mpmath.sin(a), lambda a: -mpmath.cos(a)),
    "exp": (mpmath.exp,) * 4,
}
