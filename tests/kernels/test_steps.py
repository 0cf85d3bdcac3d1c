"""The kernels of solvers' steps: NumPy's formulas bit for bit, on every instruction set and for every length."""

import numpy as np
import pytest
from kernel_functions import built_simd, kernel_functions

LENGTHS = [*range(1, 40), 127, 128, 129, 1000]


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
    m, v = (np.append(v, 7).astype(dtype) for v in np.square(rng.standard_normal((2, n))))
    return grad, theta, m, v


def rounded(dtype, *numbers):
    """The numbers in the dtype."""
    return [np.dtype(dtype).type(number) for number in numbers]


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam(simd, dtype):
    kernel = kernel_functions(simd, dtype)["adam_step"]
    numbers = 0.3, 0.1, 0.9, 0.99, 0.02, 1e-5, 1e-3
    factor, l2, beta_1, beta_2, rate, epsilon, decay = rounded(dtype, *numbers)
    rest_1, rest_2 = rounded(dtype, 1 - 0.9, 1 - 0.99)
    for n in LENGTHS:
        grad, theta, m, v = vectors(n, dtype)
        t = theta[:n].copy()
        g = factor * (grad[:n] + l2 * t)
        new_m = beta_1 * m[:n] + rest_1 * g
        new_v = beta_2 * v[:n] + rest_2 * (g * g)
        new = t - decay * t - rate * new_m / (np.sqrt(new_v) + epsilon)
        kernel(n, address(grad), *numbers, *map(address, (theta, m, v)))
        for found, expected in ((theta, new), (m, new_m), (v, new_v)):
            assert np.array_equal(found, np.append(expected, found.dtype.type(7))), n


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("is_nesterov", [0, 1])
def test_sgd(simd, dtype, is_nesterov):
    kernel = kernel_functions(simd, dtype)["sgd_step"]
    numbers = 0.3, 0.1, 0.7, 0.02
    factor, l2, momentum, rate = rounded(dtype, *numbers)
    for n in LENGTHS:
        grad, theta, velocity, _ = vectors(n, dtype)
        t = theta[:n].copy()
        down = rate * (factor * (grad[:n] + l2 * t))
        new_velocity = momentum * velocity[:n] - down
        new = t + (momentum * new_velocity - down if is_nesterov else new_velocity)
        kernel(n, address(grad), *numbers, is_nesterov, address(theta), address(velocity))
        for found, expected in ((theta, new), (velocity, new_velocity)):
            assert np.array_equal(found, np.append(expected, found.dtype.type(7))), n


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
def test_any_above_a_bound(simd, dtype):
    """NaN is above every bound; the entry behind is not looked at."""
    kernel = kernel_functions(simd, dtype)["any_above"]
    most = float(np.finfo(dtype).max)
    for n in LENGTHS:
        x = vectors(n, dtype, seed=n)[0]
        x[n] = np.inf
        largest = float(np.abs(x[:n]).max())
        assert not kernel(n, address(x), largest)
        assert kernel(n, address(x), float(np.nextafter(np.dtype(dtype).type(largest), 0)))
        for place in {0, n // 2, n - 1}:
            for bad in (np.inf, -np.inf, np.nan, np.copysign(np.nan, -1)):
                x[place] = bad
                assert kernel(n, address(x), most)
            for good in (0.0, -0.0, most, -most):
                x[place] = good
                assert not kernel(n, address(x), most)
