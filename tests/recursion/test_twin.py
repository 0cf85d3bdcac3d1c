"""The typed twin of the recursion as an oracle: plain loops against kernels, tiles, chunks and threads."""

import numpy as np
import pytest
from problems import ACTIVATION_NAMES, LOSS_NAMES, PARAMETERS, random_targets, relative_error

from backprop import Activation, Network, equations

TOLERANCE = {"float32": 2e-5, "float64": 4e-14}


def agree(net, x, y, **arguments):
    """Whether both give the same loss and gradient, to the rounding of a sum in the network's dtype."""
    loss, grad = equations.value_and_grad(net, x, y, **arguments)
    expected_loss, expected = net.value_and_grad(x, y, **arguments, n_threads=2)
    assert grad.dtype == expected.dtype
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE[net.dtype.name], abs=1e-30)
    assert relative_error(grad, expected) < TOLERANCE[net.dtype.name]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_every_activation(activation, dtype):
    rng = np.random.default_rng(1)
    spec = (activation, PARAMETERS[activation]) if activation in PARAMETERS else activation
    net = Network([5, 17, 3, 2], activations=[spec, "tanh"], dtype=dtype, rng=2)
    agree(net, rng.normal(size=(70, 5)), rng.normal(size=(70, 2)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_every_loss_with_and_without_weights(loss, dtype):
    rng = np.random.default_rng(2)
    net = Network([4, 9, 3], activations="softplus", loss=loss, dtype=dtype, rng=3)
    x, y = rng.normal(size=(150, 4)), random_targets(rng, loss, 150, 3, dtype)
    weight = rng.uniform(0.5, 2, 150) * (rng.random(150) < 0.8)
    x[weight == 0] = np.nan  # rows without weight are left out
    agree(net, np.nan_to_num(x), y)
    agree(net, x, y, sample_weight=weight)


@pytest.mark.parametrize("sizes", [[1, 1], [3, 2], [7, 33, 65, 1], [40, 130, 5], [2, 8, 8, 8, 8, 3]])
def test_sizes_and_chunks(sizes):
    rng = np.random.default_rng(3)
    net = Network(sizes, activations="tanh", rng=4)
    theta = net.params + 0.1 * rng.normal(size=net.n_params)
    agree(net, rng.normal(size=(1300, sizes[0])), rng.normal(size=(1300, sizes[-1])), params=theta)


def test_targets_and_activations_of_any_kind():
    rng = np.random.default_rng(5)
    own = Activation("own", np.arctan, lambda a: 1 / (1 + a * a))
    net = Network([3, 6, 1], activations=[own], rng=6)
    agree(net, rng.normal(size=(20, 3)).astype(np.float32), rng.integers(0, 9, 20))
    probabilities = random_targets(rng, "cross_entropy", 20, 4, labels=False)
    agree(Network([3, 4], loss=("cross_entropy", 0.1), rng=6), rng.normal(size=(20, 3)), probabilities)


def test_what_it_refuses():
    net = Network([3, 2], rng=1)
    with pytest.raises(TypeError, match="net: expected a Network, got dict"):
        equations.value_and_grad({}, np.ones((2, 3)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="x: expected"):
        equations.value_and_grad(net, np.ones((2, 4)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="sample"):
        equations.value_and_grad(net, np.ones((0, 3)), np.ones((0, 2)))
