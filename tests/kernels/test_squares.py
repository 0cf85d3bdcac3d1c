"""Kernels beside those of jets: weighted squares of directions, and the further derivatives of tanh."""

from itertools import product

import numpy as np
import pytest
from jet_problems import Problem
from kernel_functions import built_simd, kernel_functions

DTYPES = ["float64", "float32"]
ROUNDINGS = 16  # of a sum, in units of the sum of the magnitudes of its terms


@pytest.mark.parametrize("add", [0, 1])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weighted_squares(dtype, shared, add):
    """On all instruction sets; those with fma give the same bits."""
    u = float(np.finfo(dtype).eps) / 2
    for k, n in product([1, 2, 3, 4, 5, 10], [1, 7, 16, 20, 37]):
        p = Problem(dtype, "FIRST_ALONE", k, n, shared=shared)
        w, d = p.h.exact[0], np.broadcast_to(p.d.exact, (k, 3, n))
        kept = np.random.default_rng(k).standard_normal((3, k)).astype(dtype)
        exact, magnitude = np.einsum("ru,pru->rp", w, d * d), np.einsum("ru,pru->rp", abs(w), d * d)
        bits = set()
        for simd in built_simd():
            sums = np.full((3, k + 2), 7, dtype)
            sums[:, :k] = kept if add else np.nan
            kernels = kernel_functions(simd, dtype)
            kernels["weighted_squares"](
                3, n, k, p.h.address, p.ld, p.d.address, *p.d_strides, sums.ctypes.data, k + 2, add
            )
            before = kept.astype(np.longdouble) * add
            assert (sums[:, k:] == 7).all()
            assert np.all(np.abs(sums[:, :k] - (before + exact)) <= ROUNDINGS * u * (magnitude + np.abs(before)))
            if simd != "v2":
                bits.add(sums.tobytes())
        assert len(bits) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_of_tanh(dtype):
    """From h and g' as the kernels give them: within 6 ulp, or 4 u near the zero of the third derivative."""
    u, rows, n = float(np.finfo(dtype).eps) / 2, 5, 37
    largest = 6.0 if dtype == "float64" else 5.0  # g' of float32 is normal up to 40
    exact_a = np.linspace(-largest, largest, rows * n).astype(dtype)
    a = np.full((rows, n + 3), np.nan, dtype)
    a[:, :n] = exact_a.reshape(rows, n)
    t = np.tanh(exact_a.astype(np.longdouble)).reshape(rows, n)
    slope = 1 / np.cosh(exact_a.astype(np.longdouble)).reshape(rows, n) ** 2
    bits = set()
    for simd in built_simd():
        kernels = kernel_functions(simd, dtype)
        slopes, h, second, third = a.copy(), np.full_like(a, np.nan), np.full_like(a, np.nan), np.full_like(a, np.nan)
        kernels["activate"](11, 0.0, rows, n, slopes.ctypes.data, h.ctypes.data, n + 3, 1)
        at = [array.ctypes.data for array in (h, slopes, second, third)]
        kernels["derivatives_of_tanh"](rows, n, *at, n + 3)
        alone = np.full_like(a, np.nan)
        kernels["derivatives_of_tanh"](rows, n, at[0], at[1], alone.ctypes.data, None, n + 3)
        assert alone.tobytes() == second.tobytes()
        assert np.isnan(second[:, n:]).all()
        assert np.isnan(third[:, n:]).all()
        g_2, g_3 = -2 * t * slope, (6 * t * t - 2) * slope
        assert np.all(np.abs(second[:, :n] - g_2) <= 12 * u * np.abs(g_2))
        assert np.all(np.abs(third[:, :n] - g_3) <= np.maximum(12 * u * np.abs(g_3), 4 * u * np.abs(slope) / (2 / 3)))
        if simd != "v2":
            bits.add(second.tobytes() + third.tobytes())
    assert len(bits) == 1
