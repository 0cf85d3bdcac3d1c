"""Networks with a large W are divided layer by layer: the bits are those of one thread."""

import ctypes
import ctypes.util
import sys

import numpy as np
import pytest

from backprop import Activation, Network

# Sizes and samples: a W that is divided by its units beside small ones; ragged ends; an output layer with a large W;
# one sample; several groups of rows; rows of h that are copied, whose gradient is divided by inputs.
CASES = [
    ((784, 128, 10), 64),
    ((600, 97, 1), 65),
    ((300, 401, 300, 8), 100),
    ((512, 1000, 2), 1),
    ((1200, 1000), 3),
    ((900, 1000, 7), 12),
    ((97, 700, 1100), 70),
    ((300, 300, 300), 1100),
]


def sine():
    """An activation whose functions are C's: such a layer is divided by rows."""
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else ctypes.util.find_library("m"))
    for name in ("sin", "cos"):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
    return Activation("sine", library.sin, library.cos)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layers_with_functions_of_a_users_own(dtype):
    """Above and below layers that are divided by their units; with and without the gradient."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((100, n)).astype(dtype) for n in (300, 8))
    own = sine()
    for activations in ([own, "relu"], ["relu", own], [own, own]):
        net = Network((300, 401, 300, 8), activations=activations, dtype=dtype, rng=1)
        loss, grad = net.value_and_grad(x, y, n_threads=1)
        for n_threads in (2, 3, 5):
            again, other = net.value_and_grad(x, y, n_threads=n_threads)
            assert again == loss == net.loss(x, y, n_threads=n_threads)
            assert np.array_equal(other, grad)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("sizes", "n_samples"), CASES)
def test_layers_divided_have_the_bits_of_one_thread(sizes, n_samples, dtype):
    """With weights of which some are 0, and an activation for which there is a kernel and one that is g' alone."""
    rng = np.random.default_rng(len(sizes) * n_samples)
    x = rng.standard_normal((n_samples, sizes[0])).astype(dtype)
    weight = rng.integers(0, 3, n_samples).astype(float) + (n_samples == 1)
    for activation in ("relu", "tanh"):
        net = Network(sizes, activations=activation, dtype=dtype, rng=1)
        y = rng.standard_normal((n_samples, sizes[-1])).astype(dtype)
        loss, grad = net.value_and_grad(x, y, sample_weight=weight, n_threads=1)
        assert np.isfinite(loss)
        assert np.abs(grad).max() > 0
        for n_threads in (2, 3, 5):
            again, other = net.value_and_grad(x, y, sample_weight=weight, n_threads=n_threads)
            assert again == loss
            assert np.array_equal(other, grad)
