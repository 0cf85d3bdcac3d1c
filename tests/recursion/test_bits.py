"""The same bits: for every number of threads, for a row in every batch, and on every instruction set with FMA.

``bits.json`` holds SHA-256 sums of results whose inputs and parameters are made by integer arithmetic, so that they
depend on no library's generator: a compiler that changes a bit shows itself. After a change of the kernels that is
meant to change bits, ``python tests/recursion/test_bits.py`` writes it anew.
"""

import hashlib
import json
import platform
from pathlib import Path

import numpy as np
import pytest
from suites import shortened

from backprop import Network, _core

SUMS = Path(__file__).with_name("bits.json")
NETWORKS = {
    "1-50-1": ("tanh", "squared_error"),
    "30-100-100-1": ("tanh", "squared_error"),
    "784-128-10": ("relu", "cross_entropy"),
    "257-1030-700-5": ("gelu", "squared_error"),
    "13-64-32-16-1": ("silu", "huber"),
}
CASES = [(name, n) for name in NETWORKS for n in (1, 7, 64, 1000, 5003)] + [("30-100-100-1", 100_000)]
LARGEST = [("257-1030-700-5", 5003), ("30-100-100-1", 100_000)]
DTYPES = ["float32", "float64"]


def integers(n, seed):
    """Fractions in [-1, 1) with 20 bits, from a multiplicative hash of the index."""
    hashed = (np.arange(1, n + 1, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
    hashed ^= hashed >> np.uint64(29)
    hashed *= np.uint64(0xBF58476D1CE4E5B9)
    return (hashed >> np.uint64(44)).astype(np.int64) - (1 << 19)


def fractions(shape, seed, dtype):
    return (integers(int(np.prod(shape)), seed) / float(1 << 19)).astype(dtype).reshape(shape)


def problem(name, n_samples, dtype):
    sizes = [int(size) for size in name.split("-")]
    activation, loss = NETWORKS[name]
    net = Network(sizes, activations=activation, loss=loss, dtype=dtype, rng=0)
    net.params = fractions(net.n_params, 1, dtype) * np.asarray(2.0 ** -round(np.log2(max(sizes)) / 2), dtype)
    x = fractions((n_samples, sizes[0]), 2, dtype)
    if loss == "cross_entropy":
        return net, x, integers(n_samples, 3) % sizes[-1]
    return net, x, fractions((n_samples, sizes[-1]), 3, dtype)


def sha256(net, x, y, n_threads):
    loss, grad = net.value_and_grad(x, y, n_threads=n_threads)
    parts = [np.float64(loss).tobytes(), grad.tobytes(), net.forward(x, n_threads=n_threads).tobytes()]
    assert net.loss(x, y, n_threads=n_threads) == loss
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "n_samples"),
    shortened(CASES, [case for case in CASES if case not in LARGEST], "the same levels of sums as in smaller cases"),
)
def test_every_number_of_threads_gives_the_bits_on_record(name, n_samples, dtype):
    net, x, y = problem(name, n_samples, dtype)
    sums = {n_threads: sha256(net, x, y, n_threads) for n_threads in (1, 2, 3, 8)}
    assert len(set(sums.values())) == 1, sums
    if _core.simd in {"v3", "v4"} or platform.machine() in {"aarch64", "arm64"}:  # the others have no fma
        assert sums[1] == json.loads(SUMS.read_text())[f"{name} {n_samples} {dtype}"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_has_its_bits_in_every_batch(name, dtype):
    net, x, y = problem(name, 1000, dtype)
    rows = range(0, 1000, 111)
    alone = {row: net.layer_gradients(x[row : row + 1], y[row : row + 1]) for row in rows}
    for n_samples in (2, 3, 8, 64, 65, 333, 1000):
        start = min(111 * 3, 1000 - n_samples)
        batch = net.layer_gradients(x[start : start + n_samples], y[start : start + n_samples])
        y_hat = net.forward(x[start : start + n_samples], n_threads=2)
        for row in rows:
            if start <= row < start + n_samples:
                s = row - start
                np.testing.assert_array_equal(y_hat[s], alone[row].h[-1][0])
                for i in range(1, len(net.sizes)):
                    np.testing.assert_array_equal(batch.a[i][s], alone[row].a[i][0])
                    np.testing.assert_array_equal(batch.h[i][s], alone[row].h[i][0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_weight_zero_do_not_change_a_bit_with_threads(dtype):
    net, x, y = problem("30-100-100-1", 5003, dtype)
    weight = (integers(5003, 5) % 3 > 0) * (1.0 + (integers(5003, 6) % 8) / 8.0)
    kept = weight > 0
    expected_loss, expected = net.value_and_grad(x[kept], y[kept], sample_weight=weight[kept], n_threads=1)
    for n_threads in (1, 2, 3, 8):
        loss, grad = net.value_and_grad(x, y, sample_weight=weight, n_threads=n_threads)
        assert loss == expected_loss
        np.testing.assert_array_equal(grad, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiles_of_wide_rows_end_no_chain(dtype):
    """Eight or sixteen rows of 1-50000-1 fill a tile, but the sums have the bits that each unit has in a narrow layer.

    The cotangent is given, so that no unit depends on the others.
    """
    wide = Network([1, 50_000, 1], activations="tanh", dtype=dtype)
    narrow = Network([1, 100, 1], activations="tanh", dtype=dtype)
    for i in (0, 1):
        wide.weights[i][...] = fractions(wide.weights[i].shape, 1 + i, dtype)
        narrow.weights[i].ravel()[...] = wide.weights[i].ravel()[:100]
    for n_samples in (9, 64, 203):
        x, cotangent = fractions((n_samples, 1), 3, dtype), fractions((n_samples, 1), 4, dtype)
        (W_1, b_1), (_, b_2) = wide.unflatten(wide.vjp(x, cotangent)[0])
        (narrow_W_1, narrow_b_1), (_, narrow_b_2) = narrow.unflatten(narrow.vjp(x, cotangent)[0])
        np.testing.assert_array_equal(W_1[:100], narrow_W_1)
        np.testing.assert_array_equal(b_1[:100], narrow_b_1)
        np.testing.assert_array_equal(b_2, narrow_b_2)
        y = fractions((n_samples, 1), 5, dtype)
        results = {n: sha256(wide, x, y, n) for n in (1, 2, 3, 8)}
        assert len(set(results.values())) == 1, results


if __name__ == "__main__":
    record = {f"{name} {n} {dtype}": sha256(*problem(name, n, dtype), 1) for name, n in CASES for dtype in DTYPES}
    SUMS.write_text(json.dumps(record, indent=1) + "\n")
