"""The slope that g' of a user's activation should give, by differences of g, and where differences cannot tell.

The complex step is not enough. The g of a user may refuse complex numbers, or accept them without being analytic: |a|
is not, nor is NumPy's max(0, a), which sorts by the real part first.

A. Differences to the right and to the left of a, over steps that shrink by 4, are extrapolated three times (Richardson;
   Ridders, Advances in Engineering Software 4, 1982). For each entry and side, the step with the smallest estimated
   error is used. So a kink near a does no harm, and a kink at a is seen: the sides differ by more than their errors.
B. If the sides agree, g' is checked against them. The slope used is the complex step if it agrees too, since it has
   more digits. Else it is g' if g' agrees, and the differences if it does not.
C. At a kink, every g' between the slopes of the two sides is right, and is used. Any other is replaced by the nearest.
D. If the differences do not converge, as at a jump, g' is used, and the caller is told that it could not be checked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from backprop.activations import Activation, Array
from backprop.custom import Activation as Custom
from backprop.reference import recursion

_STEPS = [4.0**-k for k in range(2, 16)]  # relative to max(1, |a|)
_SAFETY = 10.0  # a factor on the estimates of errors
_LEAST_ERROR = 1e-9  # relative to the slope; differences are trusted to this
_SETTLED = 1e-3


class Slopes(NamedTuple):
    """The slopes of g in a layer, with masks of its kinks and of the entries that could not be checked."""

    slope: Array
    at_kink: Array
    unsettled: Array


def slopes(activation: Custom, a: Array) -> Slopes:
    """The slope that g has at every entry of a (notes A to D)."""
    claimed = np.asarray(activation.g_prime(a, 0.0), float)
    (right, right_error), (left, left_error) = (_one_sided(activation, a, sign) for sign in (1.0, -1.0))
    # If g is not defined on one side of a, as a square root at 0, the other side is used for both.
    right, right_error = np.where(np.isfinite(right), (right, right_error), (left, left_error))
    left, left_error = np.where(np.isfinite(left), (left, left_error), (right, right_error))
    error = np.maximum(right_error, left_error)
    size = np.maximum(np.abs(right), np.abs(left))
    unsettled = ~(error <= _SETTLED * np.maximum(1.0, size))
    tolerance = error + _LEAST_ERROR * size
    at_kink = ~unsettled & (np.abs(right - left) > right_error + left_error + _LEAST_ERROR * size)

    lowest, highest = np.minimum(right, left), np.maximum(right, left)
    agrees = unsettled | ((claimed >= lowest - tolerance) & (claimed <= highest + tolerance))
    slope = np.where(agrees, claimed, np.clip(claimed, lowest, highest))
    slope = np.where(np.isnan(slope), 0.5 * (right + left), slope)
    if activation.takes_complex:
        analytic = recursion.slope(activation, 0.0, a)
        exact = ~unsettled & ~at_kink & (np.abs(analytic - 0.5 * (right + left)) <= tolerance)
        slope = np.where(exact, analytic, slope)
    return Slopes(slope, at_kink, unsettled)


def _one_sided(activation: Custom, a: Array, sign: float) -> tuple[Array, Array]:
    """The slope of g on one side of a, and an estimate of its error; inf if there is no slope."""
    g = activation.g(a, 0.0)
    unit = np.maximum(1.0, np.abs(a))
    columns: list[list[Array]] = [[], [], [], []]  # Richardson's, the last of the highest order
    ends = []
    for step in _STEPS:
        end = a + sign * step * unit
        ends.append(end - a)
        columns[0].append((activation.g(end, 0.0) - g) / ends[-1])
    for order in (1, 2, 3):
        weight = 4.0**order
        coarse, fine = columns[order - 1][:-1], columns[order - 1][1:]
        columns[order] = [(weight * f - c) / (weight - 1.0) for c, f in zip(coarse, fine, strict=True)]
    best, least = np.full(a.shape, np.nan), np.full(a.shape, np.inf)
    for k, value in enumerate(columns[3]):
        rounding = np.finfo(float).eps * (np.abs(g) + np.abs(a * value)) / np.abs(ends[k + 3])
        error = np.abs(value - columns[2][k]) + np.abs(value - columns[2][k + 1]) + rounding
        better = _SAFETY * error < least
        best, least = np.where(better, value, best), np.where(better, _SAFETY * error, least)
    return best, least


def row_of(activation: Activation) -> Activation:
    """The activation with a g'' in any case; for a user's activation, of differences of g', good enough for scales.

    The smaller of the differences on the two sides is used: so g'' is 0 at a kink, as in the table.
    """
    if not isinstance(activation, Custom):
        return activation

    def g_second(a: Array, parameter: float) -> Array:
        step = 1e-6 * np.maximum(1.0, np.abs(a))
        right, middle, left = (np.asarray(activation.g_prime(a + d, parameter), float) for d in (step, 0.0, -step))
        smaller = np.where(np.abs(right - middle) < np.abs(middle - left), right - middle, middle - left)
        second: Array = np.nan_to_num(smaller / step)
        return second

    name, code, g, g_prime = activation.name, activation.code, activation.g, activation.g_prime
    return Activation(name, code, "", "", "", "", g, g_prime, g_second, activation.g_third)


def jumps_within(activation: Custom, a: Array, band: Array) -> Array:
    """Where g' of a user's activation changes so much between a - band and a + band that a kink must be there."""
    left, middle, right = (np.asarray(activation.g_prime(a + d, 0.0), float) for d in (-band, 0.0, band))
    size = np.maximum(1.0, np.abs(middle))
    # A smooth g' changes by g'' times the band, and the band is some eps.
    jumps: Array = np.maximum(np.abs(right - middle), np.abs(middle - left)) > np.sqrt(band) * size
    return jumps
