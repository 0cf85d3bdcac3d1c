"""The kernels of solvers' steps: NumPy's formulas bit for bit, on every instruction set and for every length."""

import numpy as np
import pytest
from kernel_functions import built_simd, kernel_functions

LENGTHS = [*range(1, 40), 127, 128, 129, 1000]
FUSED = [simd for simd in built_simd() if simd != "v2"]


def address(array):
    return array.ctypes.data


def tree(lanes):
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return lanes[0]


def in_lanes(values):
    """The sum in eight lanes."""
    lanes = np.zeros(8)
    for start in range(0, len(values), 8):
        part = values[start : start + 8]
        lanes[: len(part)] += part
    return tree(lanes)


def vectors(n, dtype, seed=0):
    """grad and theta, and two vectors of state, each with an entry behind that must stay."""
    rng = np.random.default_rng(seed)
    grad, theta = (np.append(v, 7).astype(dtype) for v in rng.standard_normal((2, n)))
    m, v = (np.append(v, 7) for v in np.square(rng.standard_normal((2, n))))
    return grad, theta, m, v


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam(simd, dtype):
    kernel = kernel_functions(simd, dtype)["adam_step"]
    factor, l2, beta_1, beta_2, rate, epsilon, decay = 0.3, 0.1, 0.9, 0.99, 0.02, 1e-5, 1e-3
    for n in LENGTHS:
        grad, theta, m, v = vectors(n, dtype)
        t = theta[:n].astype(float)
        g = factor * (grad[:n] + l2 * t)
        new_m = beta_1 * m[:n] + (1 - beta_1) * g
        new_v = beta_2 * v[:n] + (1 - beta_2) * (g * g)
        new = (t - decay * t - rate * new_m / (np.sqrt(new_v) + epsilon)).astype(dtype)
        kernel(n, address(grad), factor, l2, beta_1, beta_2, rate, epsilon, decay, *map(address, (theta, m, v)))
        for found, expected in ((theta, new), (m, new_m), (v, new_v)):
            assert np.array_equal(found, np.append(expected, 7).astype(found.dtype)), n


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("is_nesterov", [0, 1])
def test_sgd(simd, dtype, is_nesterov):
    kernel = kernel_functions(simd, dtype)["sgd_step"]
    factor, l2, momentum, rate = 0.3, 0.1, 0.7, 0.02
    for n in LENGTHS:
        grad, theta, velocity, _ = vectors(n, dtype)
        t = theta[:n].astype(float)
        down = rate * (factor * (grad[:n] + l2 * t))
        new_velocity = momentum * velocity[:n] - down
        new = (t + (momentum * new_velocity - down if is_nesterov else new_velocity)).astype(dtype)
        kernel(n, address(grad), factor, l2, momentum, rate, is_nesterov, address(theta), address(velocity))
        for found, expected in ((theta, new), (velocity, new_velocity)):
            assert np.array_equal(found, np.append(expected, 7).astype(found.dtype)), n


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_squares_with_a_penalty(simd, dtype):
    kernel = kernel_functions(simd, dtype)["penalized_squares"]
    for n in LENGTHS:
        grad, theta, _, _ = vectors(n, dtype)
        for factor, l2 in ((1.0, 0.0), (0.7, 0.3)):
            g = factor * grad[:n].astype(float) + l2 * theta[:n].astype(float)
            assert kernel(n, address(grad), address(theta), factor, l2) == in_lanes(g * g), n


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_magnitude(simd, dtype):
    kernel = kernel_functions(simd, dtype)["largest_magnitude"]
    for n in LENGTHS:
        x = vectors(n, dtype, seed=n)[0]
        x[n] = np.inf
        assert kernel(n, address(x)) == np.abs(x[:n]).max()
        for place in {0, n // 2, n - 1}:
            for bad in (np.inf, -np.inf):
                x[place] = bad
                assert kernel(n, address(x)) == np.inf
            x[place] = np.copysign(np.nan, -1)
            assert np.isnan(kernel(n, address(x)))
            x[place] = 1


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dot(simd, dtype):
    """Near the exact value; with integers it is exact; the same bits on all instruction sets with fma."""
    kernel = kernel_functions(simd, dtype)["dot"]
    for n in LENGTHS:
        _, _, x, y = vectors(n, dtype, seed=n)
        found = kernel(n, address(x), address(y))
        assert found == pytest.approx(np.dot(x[:n].astype(np.longdouble), y[:n]), rel=1e-14)
        if simd in FUSED:
            others = {kernel_functions(other, dtype)["dot"](n, address(x), address(y)) for other in FUSED}
            assert others == {found}
        whole = np.round(100 * x)
        assert kernel(n, address(whole), address(whole)) == (whole[:n] ** 2).sum()


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_add_multiple(simd, dtype):
    """By fma: the product of two numbers of 53 bits is not rounded before the sum."""
    kernel = kernel_functions(simd, dtype)["add_multiple"]
    for n in LENGTHS:
        _, _, x, y = vectors(n, dtype, seed=n)
        factor = 1 / 3
        expected = y.copy()
        for k in range(n):
            wide = np.longdouble(x[k]) * np.longdouble(factor) + np.longdouble(y[k])
            expected[k] = float(wide)
        kernel(n, factor, address(x), address(y))
        np.testing.assert_allclose(y, expected, rtol=3e-16 if simd in FUSED else 5e-16)
        assert y[n] == 7
