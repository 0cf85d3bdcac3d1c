"""Largest errors in the range in which no function is constant or linear: tools/numerics/ulp.py on fewer points."""

import numpy as np
import pytest
from places import use_folder

use_folder("tools/numerics")

import ulp  # noqa: E402

LONGDOUBLE_IS_WIDE = np.finfo(np.longdouble).nmant >= 63
WITHOUT_FMA = ulp._core.simd in {"v2", "generic"}
EVERY = 97  # of the float32 in [2^-7, 2^7) and their negatives


def assert_within(name, found):
    bars = ulp.GOALS.get(name, 1), *3 * [ulp.GOAL_OF_DERIVATIVES]
    for (largest, place, absolute), bar in zip(found, bars, strict=True):
        assert largest <= bar * (2 if WITHOUT_FMA else 1), place
        assert absolute <= ulp.GOAL_OF_DERIVATIVES


@pytest.mark.parametrize("name", ulp.EXACT)
def test_float32_in_the_active_range(name):
    low, high = (int(np.float32(v).view(np.uint32)) for v in (2.0**-7, 2.0**7))
    size = EVERY << 17
    for sign in (0, 1 << 31):
        assert_within(name, ulp.float32_errors(name, range(sign + low, sign + high, size), size, EVERY))


@pytest.mark.skipif(not LONGDOUBLE_IS_WIDE, reason="long double is no wider than float64 here")
@pytest.mark.parametrize("name", ulp.EXACT)
def test_float64(name):
    assert_within(name, ulp.float64_errors(name, 30_000))


def test_long_double_against_60_digits():
    """The reference of float64 is right to a twentieth of its last place, except in the tails of gelu_tanh."""
    for name in ulp.EXACT:
        from longdouble import exact_values

        a = np.linspace(-12.03, 12.01, 61)
        for which, values in enumerate(exact_values(name, a)):
            for x, value in zip(a.tolist(), values, strict=True):
                true = ulp.EXACT[name][which](ulp.mp.mpf(x))
                if true == 0 or ulp.near_zero(name, which, np.float64(x)):
                    continue
                high = float(value)
                error = ulp.mp.mpf(high) + ulp.mp.mpf(float(value - high)) - true
                assert abs(error / true) * 2**53 <= 0.1, (name, which, x)
