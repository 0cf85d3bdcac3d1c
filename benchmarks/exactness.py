"""Error of the gradient against the number of samples: 30-100-100-1, tanh, squared error, all 13,301 parameters.

    python benchmarks/exactness.py [--largest 1000000]

Two sets of data: a smooth teacher, where roundings average out, and ten rows repeated, where they do not. The error is
||g - reference|| / ||reference||. The reference is NumPy's float64 recursion (`backprop._reference`) at the very same
parameters and inputs, over tiles of 1,000 rows that are added in long double; its own noise is about 1e-16 (3e-16 where
there is one tile alone). For repeated rows it is the recursion over the ten rows in long double throughout.
"""

import argparse
import platform
import time

import numpy as np

import backprop
from backprop import _reference
from backprop.activations import ACTIVATIONS
from backprop.losses import LOSSES

SIZES = [30, 100, 100, 1]
TILE = 1000


def teacher(n_samples):
    """Draw x and a smooth function of it, rounded to float32, so that networks of both dtypes see the same numbers."""
    rng = np.random.default_rng(n_samples)
    x = rng.standard_normal((n_samples, SIZES[0]), np.float32)
    directions = rng.normal(size=(SIZES[0], 4)) / np.sqrt(SIZES[0])
    return x, np.sin(2 * x @ directions).sum(axis=1, keepdims=True).astype(np.float32)


def tiled_reference(theta, x, y):
    """The mean gradient, tile by tile, added in long double."""
    activations = [(ACTIVATIONS[name], 0.0) for name in ("tanh", "tanh", "identity")]
    total = np.zeros(theta.size, np.longdouble)
    for start in range(0, len(x), TILE):
        tile = slice(start, start + TILE)
        x_tile, y_tile = x[tile].astype(float), y[tile].astype(float)
        result = _reference.value_and_grad(SIZES, activations, (LOSSES["squared_error"], 0.0), theta, x_tile, y_tile)
        total += result.gradient.astype(np.longdouble) * len(x_tile)
    return total / len(x)


def longdouble_reference(net, x, y):
    """The same recursion in long double throughout, for a few rows."""
    layers = [(W.astype(np.longdouble), b.astype(np.longdouble)) for W, b in zip(net.weights, net.biases, strict=True)]
    h, primes = [x.astype(np.longdouble)], []
    for W, b in layers[:-1]:
        a = h[-1] @ W.T + b
        t = np.exp(-2 * np.abs(a))
        h.append(np.sign(a) * (1 - t) / (1 + t))
        primes.append(4 * t / (1 + t) ** 2)
    W, b = layers[-1]
    grad_a = 2 * (h[-1] @ W.T + b - y) / y.size
    parts = []
    for i in range(len(layers) - 1, -1, -1):
        parts[:0] = [(grad_a.T @ h[i]).ravel(), grad_a.sum(axis=0)]
        if i:
            grad_a = grad_a @ layers[i][0] * primes[i - 1]
    return np.concatenate(parts)


def relative_error(value, expected):
    """||value - expected|| / ||expected||."""
    difference = value.astype(np.longdouble) - expected
    return float(np.sqrt((difference**2).sum() / (expected**2).sum()))


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=1_000_000, help="the largest number of samples")
    largest = parser.parse_args().largest
    net32 = backprop.Network(SIZES, activations="tanh", dtype="float32", rng=0)
    net64 = backprop.Network(SIZES, activations="tanh", dtype="float64")
    net64.params = net32.params
    backprop.show_config()
    print(f"NumPy {np.__version__}, {platform.machine()}, long double eps {float(np.finfo(np.longdouble).eps):.1e}\n")
    print("| data | samples | float32 | float64 | seconds (float32, float64) |\n|---|---|---|---|---|")
    ten_x, ten_y = teacher(10)
    of_ten = longdouble_reference(net64, ten_x, ten_y)
    for data in ("teacher", "ten rows repeated"):
        for n_samples in (10, 1000, 100_000, 1_000_000):
            if n_samples > largest:
                continue
            if data == "teacher":
                x, y = teacher(n_samples)
                expected = tiled_reference(net64.params, x, y)
            else:
                x, y = np.tile(ten_x, (n_samples // 10, 1)), np.tile(ten_y, (n_samples // 10, 1))
                expected = of_ten
            errors, seconds = [], []
            for net in (net32, net64):
                start = time.perf_counter()
                _, grad = net.value_and_grad(x, y)
                seconds.append(time.perf_counter() - start)
                errors.append(relative_error(grad, expected))
            print(
                f"| {data} | {n_samples:,} | {errors[0]:.2e} | {errors[1]:.2e} | {seconds[0]:.2g}, {seconds[1]:.2g} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
