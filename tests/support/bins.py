"""A reference of sums in integer bins (kernels/bins.h): Python's integers and fractions, one number at a time."""

import math
from fractions import Fraction

import numpy as np

NO_TOP = -128
NOT_FINITE = 100


def top_of(v):
    """The bin of the leading bit of v; subnormal numbers count as the smallest normal one."""
    if not math.isfinite(v):
        return NOT_FINITE
    return (max(math.frexp(v)[1] - 1, -1022) if v else -1022) // 32


def digits(v, top):
    """The digits of v in the bins top - 2, top - 1 and top, with the sign of v; or the counts of what is not finite."""
    if not math.isfinite(v):
        return [int(v == math.inf), int(v == -math.inf), int(math.isnan(v))]
    sign = -1 if v < 0 else 1
    return [sign * (math.floor(abs(Fraction(v)) / Fraction(2) ** (32 * j)) % 2**32) for j in range(top - 2, top + 1)]


def state_of(values):
    """(top, three limbs) of the sum of all values, whatever their order."""
    top = max(map(top_of, values), default=NO_TOP)
    limbs = [0, 0, 0]
    for v in values:
        limbs = [limb + digit for limb, digit in zip(limbs, digits(v, top), strict=True)]
    return top, limbs


def rounded(top, limbs):
    """The float64 next to the sum."""
    if top == NO_TOP:
        return 0.0
    if top == NOT_FINITE:
        if limbs[2] or (limbs[0] and limbs[1]):
            return math.nan
        return math.inf if limbs[0] else -math.inf
    total = sum((limb * Fraction(2) ** (32 * (top - 2 + k)) for k, limb in enumerate(limbs)), Fraction(0))
    try:
        return float(total)
    except OverflowError:
        return math.inf if total > 0 else -math.inf


def empty_state(n):
    """top and limbs of n empty sums."""
    return np.full(n, NO_TOP, np.int8), np.zeros((3, n), np.int64)
