"""Networks with a large W are divided layer by layer: the bits are those of one thread."""

import numpy as np
import pytest

from backprop import Network

# Sizes and samples: a W that is divided by its units beside small ones; ragged ends; an output layer with a large W;
# one sample; several groups of rows; rows of h that are copied, whose gradient is divided by inputs.
CASES = [
    ((784, 128, 10), 64),
    ((600, 97, 1), 65),
    ((300, 401, 300, 8), 100),
    ((512, 1000, 2), 1),
    ((97, 700, 1100), 70),
    ((300, 300, 300), 1100),
]


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
