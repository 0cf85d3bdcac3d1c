"""How exact gradients are: saturated units, sums over many samples; and the memory that a million samples take."""

import math
import subprocess
import sys

import numpy as np
import pytest
from problems import relative_error

import backprop
from backprop import _core

LONGDOUBLE_IS_WIDE = np.finfo(np.longdouble).eps < 1e-18


# Saturated units ------------------------------------------------------------------------------------------------------

# If the reference computed a, its rounding times the slope would be 2e-6 in float32 and 4e-15 in float64 (ten times
# that at |a| = 40). The reference takes the rounded a of the network, so that one bound holds for all magnitudes.
SATURATED = {"float32": 1e-6, "float64": 4e-15}


def g_and_prime(name, a):
    """g and g' in long double by formulas that do not cancel."""
    t = np.exp((-2 if name == "tanh" else -1) * np.abs(a))
    if name == "tanh":
        return np.sign(a) * (1 - t) / (1 + t), 4 * t / (1 + t) ** 2
    return np.where(a < 0, t, 1) / (1 + t), t / (1 + t) ** 2


@pytest.mark.parametrize("magnitude", [2, 4, 6, 8, 9, 12, 40])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_gradient_of_saturated_units(activation, dtype, magnitude):
    """Grad W_1 of 1-50-1, all units at |a| about the magnitude."""
    rng = np.random.default_rng(magnitude)
    net = backprop.Network([1, 50, 1], activations=activation, dtype=dtype, rng=rng)
    sign = rng.choice([-1.0, 1.0], 50)
    net.weights[0][:, 0] = 0.3 * rng.normal(size=50)
    net.biases[0][...] = sign * magnitude
    x = rng.uniform(-1, 1, (40, 1)).astype(dtype)
    y = (3 + np.sin(3 * x)).astype(dtype)
    layers = net.layer_gradients(x, y)
    a = layers.a[1].astype(np.longdouble)
    assert np.abs(np.abs(a) - magnitude).max() < 1.2
    h, prime = g_and_prime(activation, a)
    W_2, b_2 = net.weights[1].astype(np.longdouble), net.biases[1].astype(np.longdouble)
    d = h @ W_2.T + b_2 - y
    grad_a = (2 * d / len(x)) @ W_2 * prime
    expected = grad_a.T @ x.astype(np.longdouble)
    assert np.abs(expected).max() > 0
    bar = SATURATED[dtype]
    assert relative_error(layers.grad_W[1], expected) <= bar
    _, grad = net.value_and_grad(x, y)
    assert relative_error(net.unflatten(grad)[0][0], expected) <= bar


# Sums over samples ----------------------------------------------------------------------------------------------------


def teacher(n_samples, n_in=30, seed=0):
    """x and a smooth function of it, as float32 holds them."""
    rng = np.random.default_rng([n_samples, seed])
    x = rng.normal(size=(n_samples, n_in)).astype(np.float32)
    directions = rng.normal(size=(n_in, 4)) / np.sqrt(n_in)
    y = np.sin(2 * x @ directions).sum(axis=1, keepdims=True)
    return x, y.astype(np.float32)


def networks():
    """The same 30-100-100-1 network in float32 and float64."""
    net32 = backprop.Network([30, 100, 100, 1], activations="tanh", dtype="float32", rng=0)
    net64 = backprop.Network([30, 100, 100, 1], activations="tanh", dtype="float64")
    net64.params = net32.params
    return net32, net64


@pytest.mark.parametrize(("n_samples", "bar"), [(10, 2e-7), (1000, 2e-7), (100_000, 5e-8)])
def test_float32_error_does_not_grow_with_the_samples(n_samples, bar):
    net32, net64 = networks()
    errors = []
    for seed in range(1 if n_samples > 1000 else 9):
        x, y = teacher(n_samples, seed=seed)
        loss, grad = net32.value_and_grad(x, y)
        loss64, grad64 = net64.value_and_grad(x, y)
        errors.append(relative_error(grad, grad64))
        assert loss == pytest.approx(loss64, rel=1e-6)
    if _core.simd == "v2":  # without fma each product is rounded too
        bar *= 1.25
    assert np.median(errors) <= bar  # draws of ten rows spread from 1.6e-7 to 2.9e-7
    assert max(errors) <= 2 * bar


def test_float32_error_of_repeated_rows():
    """Roundings of equal rows do not average out: only the order of the sums helps."""
    net32, net64 = networks()
    x, y = teacher(10)
    _, grad64 = net64.value_and_grad(x, y)
    _, grad = net32.value_and_grad(np.tile(x, (10_000, 1)), np.tile(y, (10_000, 1)))
    assert relative_error(grad, grad64) <= 3e-7


def longdouble_gradient(net, x, y):
    """The recursion for tanh and squared error in long double."""
    layers = [(W.astype(np.longdouble), b.astype(np.longdouble)) for W, b in zip(net.weights, net.biases, strict=True)]
    h, primes = [x.astype(np.longdouble)], []
    for W, b in layers[:-1]:
        value, prime = g_and_prime("tanh", h[-1] @ W.T + b)
        h.append(value)
        primes.append(prime)
    W, b = layers[-1]
    grad_a = 2 * (h[-1] @ W.T + b - y) / y.size
    gradient = []
    for i in range(len(layers) - 1, -1, -1):
        gradient[:0] = [(grad_a.T @ h[i]).ravel(), grad_a.sum(axis=0)]
        if i:
            grad_a = grad_a @ layers[i][0] * primes[i - 1]
    return np.concatenate(gradient)


def tiled_gradient(net, x, y, tile=1000):
    """The same, tile by tile: a hundred thousand rows in long double need much memory."""
    rows = [slice(start, start + tile) for start in range(0, len(x), tile)]
    return sum(longdouble_gradient(net, x[part], y[part]) * len(x[part]) for part in rows) / len(x)


def float64_problem(n_samples, seed=0):
    net = backprop.Network([7, 20, 10, 1], activations="tanh", rng=1)
    x, y = teacher(n_samples, 7, seed)
    return net, x.astype(float) * (1 + 1e-9), y.astype(float)  # not float32's values


needs_long_double = pytest.mark.skipif(not LONGDOUBLE_IS_WIDE, reason="long double is double here")


@needs_long_double
@pytest.mark.parametrize(("n_samples", "bar"), [(10, 1e-15), (1000, 1e-15), (5000, 1e-15), (100_000, 3e-16)])
def test_float64_error(n_samples, bar):
    net, x, y = float64_problem(n_samples)
    _, grad = net.value_and_grad(x, y)
    assert relative_error(grad, tiled_gradient(net, x, y)) <= bar


@needs_long_double
@pytest.mark.parametrize("seed", range(3))
def test_float64_error_of_repeated_rows(seed):
    """Ten rows ten thousand times; no rounding averages out."""
    net, x, y = float64_problem(10, seed)
    _, grad = net.value_and_grad(np.tile(x, (10_000, 1)), np.tile(y, (10_000, 1)))
    assert relative_error(grad, longdouble_gradient(net, x, y)) <= 1e-15


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_loss_of_many_rows(dtype):
    """Terms of 0.1^2 after one of 1e6^2: a plain float64 sum of them all is off by 6e-12."""
    net = backprop.Network([1, 1], dtype=dtype)
    net.params = [1, 0]
    x = np.full((200_000, 1), 0.1, dtype)
    x[0] = 1e6
    loss = net.loss(x, np.zeros((200_000, 1), dtype))
    exact = math.fsum(float(v) ** 2 for v in x[:, 0]) / 200_000
    assert loss == pytest.approx(exact, rel=1e-14)


# Memory ---------------------------------------------------------------------------------------------------------------

MEASURE = """
import resource
import numpy as np
import backprop

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

n_samples = 1_000_000
net = backprop.Network([20, 64, 64, 1], dtype="float32", rng=0)
x = np.random.default_rng(0).standard_normal((n_samples, 20), np.float32)
y = np.ones((n_samples, 1), np.float32)
weight = np.zeros(n_samples)
weight[::16] = 1.5
before = peak()
if {weighted}:
    loss, grad = net.value_and_grad(x, y, sample_weight=weight)
else:
    loss, grad = net.value_and_grad(x, y)
assert np.isfinite(loss) and np.isfinite(grad).all() and grad.any()
print(peak() - before)
"""


def measured(code):
    """The number that a new process prints: by how many MiB a call raised the peak of its memory."""
    pytest.importorskip("resource", reason="peaks of memory are measured with getrusage")
    if sys.platform != "linux":
        pytest.skip("ru_maxrss is in KiB on Linux alone")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return float(run.stdout)


@pytest.mark.parametrize("weighted", [False, True])
def test_memory_does_not_grow_with_the_samples(weighted):
    """At most 8 MiB for a million samples; with weights, most of them 0, rows are packed on the way."""
    assert measured(MEASURE.format(weighted=weighted)) <= 8.0


MEASURE_DERIVATIVE = """
import resource
import numpy as np
import backprop

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

n_samples = 1_000_000
net = backprop.Network([2, 8, 1], activations="tanh", dtype="float32", rng=0)
ensemble = backprop.Ensemble(net, 3)
x = np.random.default_rng(0).standard_normal((n_samples, 2), np.float32)
y, grad_x = np.ones((n_samples, 1), np.float32), np.ones((n_samples, 2), np.float32)
v, norms = np.ones(net.n_params, np.float32), np.ones(n_samples, np.float32)
before = peak()
result = {call}
assert np.all([np.isfinite(part).all() for part in (result if isinstance(result, tuple) else (result,))])
print(peak() - before)
"""
DERIVATIVES = {
    "value_and_grad": "net.value_and_grad(x, y, n_threads=2)",
    "hvp": "net.hvp(x, y, v, n_threads=2)",
    "gauss_newton_vp": "net.gauss_newton_vp(x, y, v, n_threads=2)",
    "clipped_gradient": "net.clipped_gradient(x, y, 1.0, n_threads=2)",
    "per_sample_gradient_norms": "net.per_sample_gradient_norms(x, y, out=norms, n_threads=2)",
    "normal_equations": "net.normal_equations(x, y, n_threads=2)",
    "sobolev_value_and_grad": "net.sobolev_value_and_grad(x, y, grad_x, 1.0, n_threads=2)",
    "Ensemble.value_and_grad": "ensemble.value_and_grad(x, y, n_threads=2)",
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_memory_of_derivatives_does_not_grow_with_the_samples(name):
    """At most 3 MiB for a million samples: one number of float32 for each of them would take 4."""
    assert measured(MEASURE_DERIVATIVE.format(call=DERIVATIVES[name])) <= 3.0
