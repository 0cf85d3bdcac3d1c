"""The passes of L-BFGS: near NumPy's values, with the same bits on every instruction set with fma."""

import ctypes

import numpy as np
import pytest
from kernel_functions import built_simd, kernel_functions

LENGTHS = [16, 32, 48, 112, 128, 144, 272, 1008, 1024, 1040, 2096]
FUSED = [simd for simd in built_simd() if simd != "v2"]
EVERY = [pytest.param(simd, dtype, id=f"{simd}-{dtype}") for simd in built_simd() for dtype in ("float32", "float64")]


def address(array):
    return array.ctypes.data


def addresses(rows):
    """An array of pointers to rows."""
    return (ctypes.c_void_p * len(rows))(*map(address, rows))


def vectors(n, *dtypes):
    """Vectors with an entry behind that must stay."""
    rng = np.random.default_rng(n)
    return [np.append(rng.standard_normal(n), 7).astype(dtype) for dtype in dtypes]


def exact(*arrays):
    """Inner products of these, in digits enough."""
    return float(np.prod([array.astype(np.longdouble) for array in arrays], axis=0).sum())


def size(x, y):
    return float(np.linalg.norm(x.astype(float)) * np.linalg.norm(y.astype(float)))


def same_on_all(function, dtype):
    """What a function of the kernels gives on every instruction set with fma."""
    return len({function(kernel_functions(simd, dtype)) for simd in FUSED}) == 1


@pytest.mark.parametrize(("simd", "dtype"), EVERY)
@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 7, 20])
def test_row_products(simd, dtype, n_rows):
    for n in LENGTHS:
        *rows, x = vectors(n, *["float32"] * (n_rows + 1))

        def products(kernels, n=n, rows=rows, x=x):
            sums = np.full(n_rows + 1, 7.0)
            kernels["row_products"](n, n_rows, addresses(rows), address(x), address(sums))
            assert sums[-1] == 7
            return sums[:-1]

        found = products(kernel_functions(simd, dtype))
        for row, value in zip(rows, found, strict=True):
            assert abs(value - exact(row[:n], x[:n])) < 1e-6 * size(row[:n], x[:n])
        assert same_on_all(lambda kernels: products(kernels).tobytes(), dtype)
        whole = [np.round(row) for row in rows]
        expected = [exact(row[:n], np.round(x[:n])) for row in whole]
        assert products(kernel_functions(simd, dtype), rows=whole, x=np.round(x)).tolist() == expected


@pytest.mark.parametrize(("simd", "dtype"), EVERY)
def test_accept_step(simd, dtype):
    for n in LENGTHS:
        gradient, new, s, y, x = vectors(n, dtype, dtype, "float32", "float32", "float32")

        def take(kernels, n=n, gradient=gradient, new=new, s=s, y=y, x=x):
            y, x, sums = y.copy(), x.copy(), np.zeros(5)
            rows = addresses([s, y, s])
            kernels["accept_step"](
                n, address(gradient), address(new), 0.25, 0.5, 3, rows, address(y), address(x), address(sums)
            )
            return y, x, sums

        new_y, new_x, sums = take(kernel_functions(simd, dtype))
        np.testing.assert_array_equal(new_y, np.append(0.25 * (new[:n] - gradient[:n]), 7).astype("float32"))
        np.testing.assert_array_equal(new_x, np.append(0.5 * new[:n], 7).astype("float32"))
        pairs = [(new_y, new_y), (new_x, new_x), (s, new_x), (new_y, new_x), (s, new_x)]
        for value, (a, b) in zip(sums, pairs, strict=True):
            assert abs(value - exact(a[:n], b[:n])) < 1e-6 * size(a[:n], b[:n])
        assert same_on_all(lambda kernels: b"".join(v.tobytes() for v in take(kernels)), dtype)


@pytest.mark.parametrize(("simd", "dtype"), EVERY)
@pytest.mark.parametrize("n_rows", [0, 1, 5])
def test_combine(simd, dtype, n_rows):
    factors = np.linspace(-1, 1, n_rows).astype("float32")
    for n in LENGTHS:
        *rows, x, theta = vectors(n, *["float32"] * (n_rows + 1), dtype)

        def combine(kernels, n=n, rows=rows, x=x, theta=theta, t=0.3):
            direction, trial, slope = np.full(n + 1, 7, "float32"), np.full(n + 1, 7, dtype), np.zeros(1)
            has_changed = kernels["combine"](
                n, n_rows, addresses(rows), address(factors), address(x), -0.5, address(theta), t, address(direction),
                address(trial), address(slope),
            )  # fmt: skip
            return direction, trial, slope, has_changed

        direction, trial, slope, has_changed = combine(kernel_functions(simd, dtype))
        expected = -0.5 * x[:n].astype(float) + sum(
            float(f) * row[:n].astype(float) for f, row in zip(factors, rows, strict=True)
        )
        np.testing.assert_allclose(direction[:n], expected, atol=1e-6)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(trial[:n], theta[:n] + 0.3 * direction[:n].astype(float), atol=4 * eps)
        assert abs(slope[0] - exact(x[:n], direction[:n])) < 1e-6 * size(x[:n], direction[:n])
        assert has_changed
        assert direction[n] == trial[n] == 7
        *_, trial, _, has_changed = combine(kernel_functions(simd, dtype), t=0.0)
        assert not has_changed
        np.testing.assert_array_equal(trial, theta)
        assert same_on_all(lambda kernels: b"".join(np.array(v).tobytes() for v in combine(kernels)), dtype)


@pytest.mark.parametrize(("simd", "dtype"), EVERY)
def test_step(simd, dtype):
    for n in LENGTHS:
        theta, direction = vectors(n, dtype, "float32")
        for t in (0.3, 1e-30):
            trial = np.full(n + 1, 7, dtype)
            has_changed = kernel_functions(simd, dtype)["step"](
                n, address(theta), t, address(direction), address(trial)
            )
            expected = theta[:n].astype(np.longdouble) + np.dtype(dtype).type(t) * np.longdouble(1) * direction[:n]
            np.testing.assert_allclose(trial[:n], expected.astype(float), atol=4 * np.finfo(dtype).eps)
            assert has_changed == (t == 0.3)
            assert trial[n] == 7
        direction[:] = 0
        direction[n - 1] = 1
        assert kernel_functions(simd, dtype)["step"](n, address(theta), 1.0, address(direction), address(trial))


@pytest.mark.parametrize(("simd", "dtype"), EVERY)
def test_slope(simd, dtype):
    largest = np.zeros(1)
    for n in LENGTHS:
        gradient, direction = vectors(n, dtype, "float32")
        gradient[n] = 1e6

        def slope(kernels, n=n, gradient=gradient, direction=direction):
            return kernels["slope"](n, address(gradient), 0.5, address(direction), address(largest))

        found = slope(kernel_functions(simd, dtype))
        bound = (1e-6 if dtype == "float32" else 1e-14) * size(gradient[:n], direction[:n])
        assert abs(found - 0.5 * exact(gradient[:n], direction[:n])) < bound
        assert largest[0] == np.abs(gradient[:n]).max()
        assert same_on_all(slope, dtype)
        for bad in (np.nan, np.inf, -np.inf):
            for k in (0, n // 2, n - 1):
                broken = gradient.copy()
                broken[k] = bad
                assert not np.isfinite(slope(kernel_functions(simd, dtype), gradient=broken))
                assert np.isnan(slope(kernel_functions(simd, dtype), gradient=broken, direction=0 * direction))
