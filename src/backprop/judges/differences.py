"""What g' of an activation of the user's own should be: by differences of g, and where they cannot say.

The complex step alone would not do: a user's g may take no complex numbers, or take them and be no analytic function of
them, as |a|, and max(0, a), which sorts by the real part first.

A. Differences to the right of a and to its left, over steps that shrink by 4, are extrapolated three times (Richardson;
   Ridders, Advances in Engineering Software 4, 1982). For each entry and side the step with the least estimate of the
   error counts. So a kink beside a does no harm, and one at a shows: the sides differ by more than their errors.
B. Where the sides agree, g' is checked against them. The slope that counts is the complex step where it agrees with
   them too, since it has more digits; else g' itself if it agrees, and the differences if it does not.
C. At a kink every g' between the slopes of the two sides is right, and counts; another is replaced by the nearest.
D. Where the differences do not settle, as at a jump, g' counts, and the caller is told that it could not be judged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from backprop.activations import Activation, Array
from backprop.custom import Activation as Custom
from backprop.reference import recursion

_STEPS = [4.0**-k for k in range(2, 16)]  # relative to max(1, |a|)
_SAFETY = 10.0  # of the estimates of errors
_LEAST_ERROR = 1e-9  # relative to the slope: what differences may be trusted with
_SETTLED = 1e-3


class Slopes(NamedTuple):
    """The slopes of a layer's g, with a mask of its kinks and one of the entries that could not be judged."""

    slope: Array
    at_kink: Array
    unsettled: Array


def slopes(activation: Custom, a: Array) -> Slopes:
    """The slope that g has at every entry of a (notes A to D)."""
    claimed = np.asarray(activation.g_prime(a, 0.0), float)
    (right, right_error), (left, left_error) = (_one_sided(activation, a, sign) for sign in (1.0, -1.0))
    # Where g ends beside a, as a square root does, the other side is all there is.
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
    """The slope of g on one side of a, and an estimate of its error, inf where there is none."""
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
    """The activation with a g'' that is always there: of a user's own by differences of g', for scales alone.

    The smaller of the differences on both sides counts: g'' is 0 at a kink, as it is for those of the table.
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
    return Activation(name, code, "", "", "", g, g_prime, g_second)


def jumps_within(activation: Custom, a: Array, band: Array) -> Array:
    """Where g' of a user's own changes so much within a - band and a + band that a kink must be there."""
    left, middle, right = (np.asarray(activation.g_prime(a + d, 0.0), float) for d in (-band, 0.0, band))
    size = np.maximum(1.0, np.abs(middle))
    # A smooth g' changes by g'' times the band, and the band is some eps.
    jumps: Array = np.maximum(np.abs(right - middle), np.abs(middle - left)) > np.sqrt(band) * size
    return jumps
