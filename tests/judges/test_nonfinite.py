"""`find_nonfinite` names the stage at which a NaN or an overflow was put in."""

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


# What was converted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_given", [np.asarray, lambda array: array.tolist(), lambda array: array.astype(">f8")])
def test_numbers_that_the_conversion_took_out_of_range(as_given):
    net = Network([3, 5, 2], dtype="float32", rng=0)
    x, y = (array.copy() for array in data(3))
    big = y.copy()
    big[2, 1] = -1e39
    found = net.find_nonfinite(x, as_given(big))
    assert (found.sample, found.unit, found.stage, found.value) == (2, 1, "loss", -np.inf)
    assert str(found) == "sample 2, output 1: the target is -1e+39, beyond the range of float32, and became -inf"
    x[1, 2] = 1e39
    found = net.find_nonfinite(as_given(x), y)
    assert (found.sample, found.unit, found.stage, found.value) == (1, 2, "input", np.inf)
    assert str(found) == "sample 1: input 2 is 1e+39, beyond the range of float32, and became inf"
    for entry, name in ((1, "weight of unit 0 for input 1"), (16, "bias of unit 1")):
        theta = net.params.astype(float)
        theta[entry] = 1e39
        found = net.find_nonfinite(data(3)[0], y, params=as_given(theta))
        assert str(found) == f"layer 1: the {name} is 1e+39, beyond the range of float32, and became inf"
    assert "range" not in str(net.find_nonfinite(np.full((1, 3), np.inf), y[:1]))
    assert "cannot tell: sample 1: input 2 is 1e+39, beyond the range of float32" in str(net.check_gradient(x, y))


def test_a_target_of_one_output_that_the_conversion_took_out_of_range():
    found = Network([3, 1], dtype="float32", rng=0).find_nonfinite(np.ones((2, 3)), [0.0, 1e39])
    assert str(found) == "sample 1, output 0: the target is 1e+39, beyond the range of float32, and became inf"


def test_a_value_that_overflows_float32_alone():
    net = Network([1, 1, 1], activations="exp", dtype="float32")
    net.params = [100.0, 0.0, 1.0, 0.0]
    assert str(net.find_nonfinite([[1.0]], [[0.0]])) == "sample 0, layer 1, unit 0: exp(100) is inf in float32"


# How much is computed ------------------------------------------------------------------------------------------------


class Counting(Network):
    """A network that counts the rows of its gradients, and of the calls that keep every layer."""

    n_rows = n_kept_rows = 0

    def value_and_grad(self, x, y, **options):
        self.n_rows += len(x)
        return super().value_and_grad(x, y, **options)

    def layer_gradients(self, x, y, **options):
        self.n_kept_rows += len(x)
        return super().layer_gradients(x, y, **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sample", [0, 100_000, 199_999])
def test_finite_samples_cost_no_more_than_their_gradient(sample, weighted):
    n = 200_000
    net = Counting([1, 2, 1], rng=0)
    x, weight = np.ones((n, 1)), None
    x[sample] = np.nan
    if weighted:
        weight = np.zeros(n)
        weight[::2], weight[sample] = 1, 1
        x[1::2] = np.nan
    assert net.find_nonfinite(x, np.ones((n, 1)), sample_weight=weight).sample == sample
    assert net.n_rows <= n + sample + 4 * 65536
    assert net.n_kept_rows <= 2048


def test_rows_of_weight_0_within_a_block():
    net = Network([3, 4, 3], loss="cross_entropy", rng=0)
    x, labels, weight = np.ones((9, 3)), np.zeros(9, int), np.ones(9)
    x[2], labels[2], weight[2] = np.nan, 10**9, 0
    assert net.find_nonfinite(x, labels, sample_weight=weight) is None
    x[7, 1] = np.nan
    assert net.find_nonfinite(x, labels, sample_weight=weight).sample == 7


def test_an_infinity_that_goes_nowhere_is_no_cause():
    net = Network([1, 1, 1], activations="hardtanh", rng=0)
    net.params = [1e200, 0.0, 1.0, 0.0]
    x = np.full((5000, 1), 1e200)  # a_1 is inf, h_1 is 1 and g' is 0
    x[4000] = np.nan
    assert net.find_nonfinite(x[:3000], np.ones(3000)) is None
    assert net.find_nonfinite(x, np.ones(5000)).sample == 4000


def test_a_refusal_shows_a_number_as_it_came():
    net = Network([1, 1], loss="binary_cross_entropy", dtype="float32", rng=0)
    with pytest.raises(ValueError, match=r"got 1e\+39, beyond the range of float32, and became inf in row 0, output 0"):
        net.find_nonfinite([[1.0]], [[1e39]])
    weight = np.array([np.finfo(np.longdouble).max])
    if weight[0] > np.finfo(float).max:  # if long double is wider than double
        with pytest.raises(
            ValueError, match=r"got 1\.\d*e\+4932, beyond the range of float64, and became inf in row 0"
        ):
            net.find_nonfinite([[1.0]], [[1.0]], sample_weight=weight)
