"""Sums in integer bins: against integers of any length, in every order, on every instruction set."""

import math
from fractions import Fraction

import numpy as np
import pytest
from bins import empty_state, rounded, state_of
from kernel_functions import built_simd, kernel_functions

from backprop import _core

KINDS = ("normal", "wide", "subnormal", "huge", "spread", "cancelling", "not finite")


def addends(kind, n_units, n, rng):
    """Sums of units, (n_units, n), of a kind that is hard in its own way."""
    with np.errstate(all="ignore"):
        v = rng.standard_normal((n_units, n))
        if kind == "wide":
            v *= 10.0 ** rng.integers(-300, 300, v.shape)
        elif kind == "subnormal":
            v *= 2.0 ** rng.integers(-1074, -1015, v.shape)
        elif kind == "huge":
            v *= 1e308
        elif kind == "spread":
            v *= 10.0 ** rng.integers(-12, 12, v.shape)
        elif kind == "cancelling":
            v[1::2] = -v[: n_units - 1 : 2]
            v[rng.random(v.shape) < 0.2] = 0
        elif kind == "not finite":
            v[rng.random(v.shape) < 0.1] = rng.choice([np.inf, -np.inf, np.nan])
    return v


def deposited(kernels, units, errors):
    """The state after all units, in their order."""
    n = units.shape[1]
    top, limbs = empty_state(n)
    top += 7  # the first unit overwrites what is there
    limbs += 13
    for k in range(len(units)):
        error = None if errors is None else errors[k].ctypes.data
        kernels["deposit"](n, units[k].ctypes.data, error, top.ctypes.data, limbs.ctypes.data, n, k == 0)
    return top, limbs


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_deposits_are_those_of_integers(kind, dtype, simd):
    rng = np.random.default_rng(KINDS.index(kind))
    kernels = kernel_functions(simd, dtype)
    for n in (1, 3, 8, 37):
        units = addends(kind, 9, n, rng)
        errors = None
        if dtype == "float64":
            with np.errstate(all="ignore"):
                errors = np.where(rng.random(units.shape) < 0.8, units * 2.0**-54 * rng.standard_normal(units.shape), 0)
                errors[~np.isfinite(units)] = np.nan
        top, limbs = deposited(kernels, units, errors)
        divisor = 3.0
        totals, zeros = np.empty(n), np.zeros(n)
        for p in range(n):
            values = units[:, p].tolist()
            if errors is not None:
                values += [e for e, v in zip(errors[:, p].tolist(), values, strict=True) if math.isfinite(v)]
            expected = state_of(values)
            assert (top[p], limbs[:, p].tolist()) == expected
            totals[p] = rounded(*expected)
        out, of_wide = np.empty(n, dtype), np.empty(n, dtype)
        kernels["finish_bins"](n, top.ctypes.data, limbs.ctypes.data, n, divisor, out.ctypes.data)
        kernels["finish_wide"](n, totals.ctypes.data, zeros.ctypes.data, divisor, of_wide.ctypes.data)
        np.testing.assert_array_equal(out, of_wide)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_orders_give_one_state(kind):
    """Orders and trees: each unit alone in a state, merged in twos until one is left."""
    rng = np.random.default_rng(100 + KINDS.index(kind))
    n_units, n = 12, 5
    units = addends(kind, n_units, n, rng)
    kernels = kernel_functions(_core.simd, "float32")
    alone = [deposited(kernels, units[k : k + 1], None) for k in range(n_units)]
    expected = deposited(kernels, units, None)
    for _ in range(1000):
        states = [(top.copy(), limbs.copy()) for top, limbs in (alone[k] for k in rng.permutation(n_units))]
        while len(states) > 1:
            first, second = states.pop(rng.integers(len(states))), states.pop(rng.integers(len(states)))
            _core.merge_bins(*first, *second)
            states.append(first)
        np.testing.assert_array_equal(states[0][0], expected[0])
        np.testing.assert_array_equal(states[0][1], expected[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_top_and_then_a_sum_of_limbs_is_a_merge(kind):
    """As an engine that has only MAX and SUM does it."""
    rng = np.random.default_rng(200 + KINDS.index(kind))
    kernels = kernel_functions(_core.simd, "float32")
    units = addends(kind, 6, 11, rng)
    alone = [deposited(kernels, units[k : k + 1], None) for k in range(len(units))]
    largest = np.max([top for top, _ in alone], axis=0)
    for top, limbs in alone:
        _core.raise_bins(top, limbs, largest)
        np.testing.assert_array_equal(top, largest)
    expected = deposited(kernels, units, None)
    np.testing.assert_array_equal(largest, expected[0])
    np.testing.assert_array_equal(sum(limbs for _, limbs in alone), expected[1])


def test_the_error_is_within_that_of_exact_sums():
    """n 2^-64 of the largest addend, and the rounding of the result."""
    rng = np.random.default_rng(5)
    kernels = kernel_functions(_core.simd, "float32")
    units = addends("spread", 200, 16, rng)
    top, limbs = deposited(kernels, units, None)
    for p in range(16):
        exact = sum(map(Fraction, units[:, p].tolist()), Fraction(0))
        total = sum((int(limb) * Fraction(2) ** (32 * (int(top[p]) - 2 + k)) for k, limb in enumerate(limbs[:, p])))
        assert abs(total - exact) <= 200 * Fraction(2) ** -64 * Fraction(float(np.abs(units[:, p]).max()))
        assert abs(rounded(int(top[p]), [int(v) for v in limbs[:, p]]) - math.fsum(units[:, p])) <= abs(
            math.ulp(math.fsum(units[:, p]))
        )


@pytest.mark.parametrize("kind", ["normal", "wide", "subnormal", "huge", "spread"])
def test_weights_have_one_sum_in_every_order(kind):
    rng = np.random.default_rng(7)
    for n in (1, 40):
        weight = np.minimum(np.abs(addends(kind, n, 1, rng).ravel()), 1.7e308)
        rule, bad, largest, n_kept, *state = _core.look_at_weights(weight, 1)
        assert (rule, bad, largest, n_kept) == (None, -1, weight.max(), np.count_nonzero(weight))
        assert (state[0], state[1:]) == state_of(weight.tolist())
        assert _core.look_at_weights(rng.permutation(weight), 1)[4:] == tuple(state)
        scale, total = _core.scale_and_total(largest, *state)
        assert math.frexp(scale)[0] == 0.5
        _, limbs = state_of(weight.tolist())
        whole = sum((limb * Fraction(2) ** (32 * (state[0] - 2 + k)) for k, limb in enumerate(limbs)), Fraction(0))
        assert total == float(whole * Fraction(scale))


@pytest.mark.parametrize("simd", built_simd())
def test_limbs_of_any_size_are_rounded_once(simd):
    """Also those of more units than a call on one machine has, and with carries of both signs."""
    rng = np.random.default_rng(9)
    kernels = kernel_functions(simd, "float64")
    n = 4000
    limbs = rng.integers(-(2**62), 2**62, (3, n)) >> rng.integers(0, 63, (3, n))
    limbs[2, :200] = rng.integers(-3, 3, 200)
    limbs[1, 200:400] = limbs[2, 200:400] = -1
    limbs[:, 400:800] = 2 ** rng.integers(0, 53, (3, 400)) - rng.integers(0, 2, (3, 400))  # ties, and near to ties
    top = rng.integers(-32, 31, n).astype(np.int8)
    out, zeros = np.empty(n), np.zeros(n)
    kernels["finish_bins"](n, top.ctypes.data, limbs.ctypes.data, n, 1.0, out.ctypes.data)
    expected = np.array([rounded(int(top[p]), [int(limb) for limb in limbs[:, p]]) for p in range(n)])
    kernels["finish_wide"](n, expected.ctypes.data, zeros.ctypes.data, 1.0, expected.ctypes.data)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("simd", built_simd())
def test_errors_may_be_larger_than_their_sums(simd):
    """Chunks may cancel, and leave the errors of their additions."""
    kernels = kernel_functions(simd, "float64")
    sums = np.tile([0.0, 1e-40, -1e-40, 3.0], 5)
    errors = np.tile([1e5, -1e5, 1e-20, 1e30], 5)
    top, limbs = deposited(kernels, np.array([sums, sums]), np.array([errors, -3 * errors]))
    for p in range(20):
        assert (top[p], limbs[:, p].tolist()) == state_of([sums[p], errors[p], sums[p], -3 * errors[p]])
    top, limbs = deposited(kernels, np.array([sums]), np.full((1, 20), np.nan))  # after an overflow on the way
    for p in range(20):
        assert (top[p], limbs[:, p].tolist()) == state_of([sums[p]])


def test_limbs_that_overflow_are_wrong_and_harmless():
    """No sum of ours has such limbs, but bytes of parts may hold any. A sanitizer traps overflows."""
    kernels = kernel_functions(_core.simd, "float64")
    top, limbs = np.array([3, 3, 3], np.int8), np.array([[2**63 - 1] * 3, [2**63 - 1, -(2**63), 0], [2**63 - 1] * 3])
    others = limbs.copy()
    out = np.empty(3)
    kernels["finish_bins"](3, top.ctypes.data, limbs.ctypes.data, 3, 1.0, out.ctypes.data)
    _core.merge_bins(top, limbs, top, others)
    assert limbs.tolist() == [[-2] * 3, [-2, 0, 0], [-2] * 3]


def test_sums_of_zeros_are_a_positive_zero():
    kernels = kernel_functions(_core.simd, "float64")
    units = np.array([[0.0, -0.0, 1.5, -0.0], [0.0, -0.0, -1.5, 0.0]])
    top, limbs = deposited(kernels, units, np.zeros_like(units))
    out = np.empty(4)
    kernels["finish_bins"](4, top.ctypes.data, limbs.ctypes.data, 4, 2.0, out.ctypes.data)
    assert not np.signbit(out).any()
    assert (out == 0).all()


@pytest.mark.parametrize("call", [_core.merge_bins, _core.raise_bins])
def test_arrays_of_other_lengths_are_refused(call):
    top, limbs = empty_state(4)
    others = empty_state(3)
    with pytest.raises(ValueError, match=r"expected shape"):
        call(top, limbs, *(others if call is _core.merge_bins else others[:1]))
    with pytest.raises(ValueError, match=r"expected shapes \(4,\) and \(3, 4\)"):
        call(top, limbs[:2], *((top, limbs) if call is _core.merge_bins else (top,)))
