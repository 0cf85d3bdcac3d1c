"""`check_gradient` at points at which g' jumps, for custom activations, and if no gradient exists."""

import ctypes
import ctypes.util
import sys

import numpy as np
import pytest
from suites import shortened

from backprop import Activation, Network
from backprop.__main__ import main
from backprop.activations import ACTIVATIONS
from backprop.judges import complex_step as _judge
from backprop.losses import LOSSES

DTYPES = ["float64", "float32"]
KINKS = [(name, kink) for name, row in ACTIVATIONS.items() for kink in row.kinks]
AT_ZERO = [1.0, 0.0, -1.0, 0.0, 1.0, 0.0]  # of 1-1-1-1: all preactivations are 0 at x = 0


class Corrupted(Network):
    """A network with one wrong entry in its gradient."""

    entry = None

    def value_and_grad(self, x, y, **options):
        loss, gradient = super().value_and_grad(x, y, **options)
        if self.entry is not None:
            gradient[self.entry] += 0.125
        return loss, gradient


def real(function):
    """The function, for real arrays only."""

    def checked(a):
        if np.iscomplexobj(a):
            raise TypeError("expected real numbers")
        return function(a)

    return checked


def step(a):
    return np.where(a > 0, 1.0, 0.0)


RELUS = {
    "maximum": lambda a: np.maximum(a, 0),
    "where": lambda a: np.where(a > 0, a, 0),
    "product": lambda a: a * (a > 0),
    "magnitude": lambda a: (a + np.abs(a)) / 2,
    "real": real(lambda a: np.maximum(a, 0)),
}


def assert_right(report):
    assert report.ok, str(report)
    assert report.verdict == "right"
    assert report.doubts == ()


def assert_finds_every_wrong_entry(net, x, y, monkeypatch):
    for cost in (_judge.MAX_COST_OF_ALL_ENTRIES, 0):  # every entry; along directions
        monkeypatch.setattr(_judge, "MAX_COST_OF_ALL_ENTRIES", cost)
        net.entry = None
        assert_right(net.check_gradient(x, y))
        for entry in range(net.n_params):
            net.entry = entry
            report = net.check_gradient(x, y)
            assert report.verdict == "WRONG", str(report)
            assert sum(block.error > report.tolerance for block in report.blocks) == 1


# At a kink -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "kink"), KINKS)
def test_a_kink_hit_exactly(name, kink, dtype, monkeypatch):
    net = Corrupted([2, 2, 1], activations=name, dtype=dtype)
    net.params = [1.0, -2.0, 0.5, 1.0, kink, kink, 1.0, -1.0, 0.25]
    assert_finds_every_wrong_entry(net, np.zeros((3, 2)), np.ones((3, 1)), monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "second", [("elu", 1.7), *shortened(["selu", "relu", "leaky_relu"], ["selu"], "their kinks are like selu's")]
)
@pytest.mark.parametrize("first", ["selu", ("elu", 1.7), "silu", "gelu", "gelu_tanh", "mish", "softsign", "tanh"])
def test_a_function_before_a_kink_hit_exactly(first, second, dtype, monkeypatch):
    net = Corrupted([1, 1, 1, 1], activations=[first, second], dtype=dtype)
    net.params = AT_ZERO
    assert_finds_every_wrong_entry(net, [[0.0]], [[1.0]], monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("loss", "y"), [(name, 1.0) for name, row in LOSSES.items() if row.has_kink] + [("huber", 0.0)]
)
def test_a_kink_of_the_loss_hit_exactly(loss, y, dtype, monkeypatch):
    net = Corrupted([1, 1, 1], activations="identity", loss=loss, dtype=dtype)
    net.params = [1.0, 0.0, 1.0, 0.0]
    assert_right(net.check_gradient([[1.0]], [[y]]))
    assert_finds_every_wrong_entry(net, [[1.0], [2.0], [-0.5]], [[y], [y], [y]], monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ["absolute_error", "quantile"])
def test_outputs_that_are_the_targets(loss, dtype):
    """Rounding decides on which side of its kink the loss is; the network's own numbers are used."""
    net = Corrupted([3, 4, 2], activations="tanh", loss=loss, dtype=dtype, rng=0)
    x = np.random.default_rng(0).standard_normal((20, 3))
    assert_right(net.check_gradient(x, net.forward(x)))
    net.entry = 7
    report = net.check_gradient(x, net.forward(x))
    assert not report.ok
    if report.verdict != "WRONG":  # if the reference's y_hat is on another side for some sample
        assert f"cannot tell: all 20 samples lie within rounding of a kink of the loss '{loss}'" in str(report)


def test_preactivations_within_rounding_of_a_kink():
    net = Corrupted([3, 1, 1], activations="relu", dtype="float32", rng=0)
    net.params = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    near = np.random.default_rng(0).uniform(0.1, 1.0, (500, 3)).astype(np.float32)
    near[:, 2] = -(near[:, 0] + near[:, 1])  # a_1 is 0 except for rounding
    y = np.full((500, 1), -1.0)
    assert_right(net.check_gradient(near, y))
    away = np.vstack([near[:20], [[1.0, 2.0, 3.0]]])
    assert_right(net.check_gradient(away, y[:21]))
    net.entry = 0
    assert net.check_gradient(away, y[:21]).verdict == "WRONG"
    report = net.check_gradient(near, y)  # this computation may put the numbers on other sides than the network does
    assert report.verdict == "cannot tell"
    assert "all 500 samples lie within rounding of a kink of 'relu' in layer 1, where the derivative jumps" in str(
        report
    )


def test_a_kink_hit_by_every_sample_where_rows_cancel(monkeypatch):
    net = Corrupted([2, 1, 1], activations="leaky_relu")
    net.params = [1.0, -1.0, 0.0, 1.0, 0.0]
    assert_finds_every_wrong_entry(net, [[1.0, 1.0], [0.5, 0.5]], [[1.0], [2.0]], monkeypatch)


def test_a_gradient_that_vanishes_since_weights_are_equal():
    net = Network([1, 1, 1, 2], activations="tanh", loss="cross_entropy")
    for seed in range(40):
        rng = np.random.default_rng(seed)
        net.params = [*rng.standard_normal(4), 0.3, 0.3, *rng.standard_normal(2)]  # dL/dh_2 is 0 except for rounding
        assert_right(net.check_gradient(rng.standard_normal((7, 1)), rng.integers(0, 2, 7)))


# Custom activations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", RELUS)
def test_a_relu_of_ones_own(form, dtype):
    own = Activation("own", RELUS[form], step)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        net = Network([3, 8, 8, 2], activations=own, dtype=dtype, rng=rng)  # biases 0: dead units are at the kink
        assert_right(net.check_gradient(rng.standard_normal((40, 3)), rng.standard_normal((40, 2))))


@pytest.mark.parametrize("at_0", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("form", RELUS)
def test_either_slope_is_right_at_a_kink_of_ones_own(form, at_0, monkeypatch):
    own = Activation("own", RELUS[form], lambda a: np.where(a == 0, at_0, step(a)))
    net = Corrupted([1, 1, 1, 1], activations=own)
    net.params = AT_ZERO
    assert "layer 2: g' of 'own' may be either side's at a kink of g, as at a = 0" in str(
        net.check_gradient([[0.0]], [[1.0]])
    )
    assert_finds_every_wrong_entry(net, [[0.0]], [[1.0]], monkeypatch)


@pytest.mark.parametrize("form", RELUS)
def test_no_slope_of_either_side_is_wrong(form):
    own = Activation("own", RELUS[form], lambda a: np.where(a == 0, 1.5, step(a)))
    net = Network([1, 1, 1], activations=own)
    net.params = [1.0, 0.0, -1.0, 0.0]
    assert net.check_gradient([[0.0]], [[1.0]]).verdict == "WRONG"


def test_a_sample_that_rounding_moves_across_a_kink_of_ones_own_is_left_out():
    net = Network([3, 1, 1], activations=Activation("own", RELUS["real"], step), dtype="float32", rng=0)
    net.params = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    x = np.random.default_rng(0).uniform(0.1, 1.0, (500, 3)).astype(np.float32)
    x[:400, 2] = -(x[:400, 0] + x[:400, 1])
    report = net.check_gradient(x, np.full((500, 1), -1.0))
    assert_right(report)
    assert report.n_samples == 100


def test_c_functions():
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else ctypes.util.find_library("m"))
    functions = [library.sin, library.cos]
    for function in functions:
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
    rng = np.random.default_rng(0)
    net = Network([3, 4, 2], activations=Activation("c_sin", *functions), rng=0)
    assert_right(net.check_gradient(rng.standard_normal((20, 3)), rng.standard_normal((20, 2))))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_functions_of_real_numbers_and_their_wrong_derivatives(name):
    row = ACTIVATIONS[name]
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    for factor in (1.0, 1.0 + 1e-7):
        g, g_prime = (real(lambda a, f=f: f(a, row.default)) for f in (row.g, row.g_prime))
        own = Activation(name, g, lambda a, f=g_prime, by=factor: by * f(a))
        net = Network([3, 5, 2], activations=own, rng=0)
        report = net.check_gradient(x, y)
        assert report.verdict == ("right" if factor == 1.0 else "WRONG"), str(report)


def test_a_derivative_that_is_wrong_where_the_constructor_does_not_look():
    for g in (np.square, real(np.square)):
        own = Activation("own", g, lambda a: np.where(a > 8, 2.001, 2.0) * a)
        net = Network([1, 1], output=own)
        net.params = [1.0, 0.0]
        assert net.check_gradient([[7.5]], [[1.0]]).ok
        assert net.check_gradient([[9.0]], [[1.0]]).verdict == "WRONG"


def test_functions_that_write_into_their_argument(monkeypatch):
    def g(a):
        return np.exp(a, out=a)

    rng = np.random.default_rng(0)
    x, y = 0.1 * rng.standard_normal((20, 2)), rng.standard_normal((20, 1))
    for function in (g, real(g)):
        net = Corrupted([2, 2, 1], activations=Activation("own", function, function, function), output="tanh", rng=0)
        assert_finds_every_wrong_entry(net, x, y, monkeypatch)


def test_a_jump_of_g_cannot_be_judged():
    own = Activation("own", lambda a: a + (a > 5), np.ones_like)
    net = Network([1, 1], output=own)
    net.params = [1.0, 0.0]
    assert net.check_gradient([[4.0]], [[1.0]]).ok
    report = net.check_gradient([[5.0]], [[1.0]])
    assert not report.ok
    assert "cannot tell: layer 1: g' of 'own' at a = 5, where differences of g do not settle" in str(report)


def test_a_g_that_ends_beside_a():
    own = Activation("own", lambda a: np.where(a < -9, np.nan, a * a), lambda a: 2 * a)
    net = Network([1, 1], output=own)
    net.params = [1.0, 0.0]
    assert_right(net.check_gradient([[-9.0]], [[1.0]]))


# No gradient can be expected -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("activation", ["tanh", "hardtanh"])
def test_a_parameter_that_is_not_finite_is_named(activation, layer, value):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 3)), rng.standard_normal((9, 4))
    for array, name in (("weights", "weight of unit 2 for input 1"), ("biases", "bias of unit 2")):
        net = Network([3, 4, 4, 4], activations=activation, rng=0)
        getattr(net, array)[layer - 1][(2, 1) if array == "weights" else 2] = value
        report = net.check_gradient(x, y)
        assert not report.ok
        assert f"cannot tell: layer {layer}: the {name} is {value}" in str(report)


def test_numbers_on_the_way_that_are_not_finite_are_named():
    x, y = np.ones((4, 3)), np.ones((4, 2))
    x[2, 1] = np.nan
    assert "cannot tell: sample 2: input 1 is nan" in str(Network([3, 2, 2], rng=0).check_gradient(x, y))
    exponential = Network([3, 2, 2], activations="exp", dtype="float32", rng=0)
    report = exponential.check_gradient(np.full((4, 3), 200.0), y)
    assert "cannot tell: sample 0, layer 1, unit" in str(report), str(report)


def test_the_command_fails_where_it_cannot_tell(capsys):
    assert main(["check", "5", "50", "50", "50", "50", "50", "50", "1", "--activation", "exp"]) == 1
    assert "cannot tell: sample" in capsys.readouterr().out
