"""`find_nonfinite` names the stage at which one NaN or overflow was put."""

import numpy as np
import pytest

from backprop import Network


def data(n_samples=2100):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n_samples, 3)), rng.standard_normal((n_samples, 2))


def network(**options):
    return Network([3, 5, 4, 2], activations=["exp", "tanh"], rng=0, **options)


def test_nothing_where_all_is_finite():
    assert network().find_nonfinite(*data()) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sample", [0, 7, 1023, 1024, 2099])
def test_an_input(sample, value):
    x, y = data()
    x[sample, 1] = value
    x[-1] = np.nan
    found = network().find_nonfinite(x, y)
    expected = (sample, 0, 0 if sample == len(x) - 1 else 1, "input")
    assert (found.sample, found.layer, found.unit, found.stage) == expected
    assert str(sample) in str(found)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_weight(layer):
    net = network()
    x, y = data()
    theta = net.params.copy()
    net.unflatten(theta)[layer - 1][0][1, 2] = np.nan
    found = net.find_nonfinite(x, y, params=theta)
    assert (found.sample, found.layer, found.unit, found.stage) == (0, layer, 1, "weight")
    assert "weight of unit 1 for input 2 is nan" in str(found)


def test_an_activation_that_overflows():
    x, y = data()
    x[9] = 1e5
    found = network().find_nonfinite(x, y)
    assert (found.sample, found.layer, found.stage) == (9, 1, "activation")
    assert found.value > 709
    assert f"exp({found.value:.6g}) is inf" in str(found)


def test_a_preactivation_that_overflows():
    net = Network([3, 5, 1], dtype="float32", rng=0)
    x = np.ones((40, 3))
    x[31] = 3e38
    net.weights[0][...] = 1
    found = net.find_nonfinite(x, np.zeros(40))
    assert (found.sample, found.layer, found.unit, found.stage, found.value) == (31, 1, 0, "activation", np.inf)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_the_loss(value):
    x, y = data()
    y[3, 1] = value
    found = network().find_nonfinite(x, y)
    assert (found.sample, found.layer, found.unit, found.stage) == (3, 3, 1, "loss")


def test_a_gradient():
    net = Network([1, 1, 1], activations="identity", dtype="float32")
    net.weights[0][...] = 1e-30
    net.weights[1][...] = 1e30
    found = net.find_nonfinite(np.full((4, 1), 1e25), np.full((4, 1), -1e10))
    assert found.stage == "gradient"
    assert found.layer in (1, 2)
    assert "gradient" in str(found) or "dL/d" in str(found)


def test_rows_of_weight_zero_are_left_out():
    x, y = data(50)
    x[2] = np.nan
    y[5, 0] = np.nan
    weight = np.ones((50, 2))
    weight[2] = 0
    weight[5, 0] = 0
    net = network()
    assert net.find_nonfinite(x, y, sample_weight=weight) is None
    x[8, 2] = np.inf
    assert net.find_nonfinite(x, y, sample_weight=weight).sample == 8


def test_labels():
    net = Network([3, 4, 3], loss="cross_entropy", rng=0)
    x = np.zeros((6, 3))
    x[4, 0] = np.nan
    assert net.find_nonfinite(x, np.zeros(6, int)).stage == "input"
    net.biases[1][0] = np.inf
    assert net.find_nonfinite(x, np.zeros(6, int)).stage == "weight"


def test_a_gradient_by_x_that_overflows_is_no_cause():
    net = Network([1, 1], activations=[], rng=0)
    net.weights[0][...] = 1e200
    found = net.find_nonfinite([[1e-200]] * 2, [[1e150], [np.nan]])  # sample 0: dL/dx alone is infinite
    assert (found.sample, found.layer, found.unit, found.stage) == (1, 1, 0, "loss")


def test_outputs_of_weight_0_are_no_cause():
    net = Network([1, 2], output="exp", rng=0)
    net.params = [1000.0, 1.0, 0.0, 0.0]  # exp(1000) is infinite
    x, weight = [[1.0], [1.0]], [[0, 1], [0, 1]]
    assert net.find_nonfinite(x, [[1, 1], [1, 1]], sample_weight=weight) is None
    found = net.find_nonfinite(x, [[1, 1], [1, np.nan]], sample_weight=weight)
    assert (found.sample, found.layer, found.unit, found.stage) == (1, 1, 1, "loss")
