"""`check_gradient` accepts right gradients, also after cancellation, and says what is wrong with others."""

import dataclasses

import numpy as np
import pytest

from backprop import Network
from backprop.activations import ACTIVATIONS
from backprop.judges import check_gradient as checking
from backprop.judges import complex_step as _judge
from backprop.losses import LOSSES

DTYPES = ["float64", "float32"]


class Corrupted(Network):
    """A network whose gradient `corrupt` changes before it is returned."""

    corrupt = staticmethod(lambda gradient: None)

    def value_and_grad(self, x, y, **options):
        loss, gradient = super().value_and_grad(x, y, **options)
        self.corrupt(gradient)
        return loss, gradient


class LosesASample(Network):
    """A network that leaves out the last sample, but divides by n."""

    def value_and_grad(self, x, y, **options):
        loss, gradient = super().value_and_grad(x[:-1], y[:-1], **options)
        return loss, gradient * ((len(x) - 1) / len(x))


def make(sizes, *, cls=Network, seed=0, n_samples=40, **options):
    """A network with biases, and a problem for it."""
    rng = np.random.default_rng(seed)
    net = cls(sizes, rng=rng, **options)
    for b in net.biases:
        b[...] = rng.uniform(-0.5, 0.5, b.shape)
    return net, *checking.random_problem(net, n_samples, rng)


def smallest(gradient):
    return np.abs(gradient).argmin()


def scale(factor):
    def corrupt(gradient):
        gradient *= factor

    return corrupt


def zero_smallest(gradient):
    gradient[smallest(gradient)] = 0.0


def flip_smallest(gradient):
    gradient[smallest(gradient)] *= -1.0


def one_percent(gradient):
    gradient[60] *= 1.01


def lose_bias(gradient):
    gradient[40:48] = 0.0  # b_1 of 5-8-8-1


def swap(gradient):
    gradient[[3, 70]] = gradient[[70, 3]]


CORRUPTIONS = {
    "all x 1.001": scale(1.001),
    "all x 1.0001": scale(1.0001),
    "all x (1 + 1e-6)": scale(1.0 + 1e-6),
    "smallest component 0": zero_smallest,
    "smallest component's sign": flip_smallest,
    "one component x 1.01": one_percent,
    "bias gradient lost": lose_bias,
    "two components swapped": swap,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
@pytest.mark.parametrize("every_entry", [True, False])
def test_finds_a_corruption(corrupt, every_entry, seed, monkeypatch):
    if not every_entry:
        monkeypatch.setattr(_judge, "MAX_COST_OF_ALL_ENTRIES", 0)
    net, x, y = make([5, 8, 8, 1], cls=Corrupted, activations="tanh", seed=seed)
    assert net.check_gradient(x, y).ok
    net.corrupt = corrupt
    report = net.check_gradient(x, y)
    assert not report.ok
    assert report.max_error > report.tolerance
    assert "WRONG" in str(report)


@pytest.mark.parametrize("seed", range(3))
def test_finds_a_lost_sample(seed):
    net, x, y = make([5, 8, 8, 1], cls=LosesASample, activations="tanh", seed=seed)
    assert not net.check_gradient(x, y).ok


def test_judges_a_monkeypatched_value_and_grad(monkeypatch):
    net, x, y = make([5, 8, 8, 1], activations="tanh")
    right = net.value_and_grad
    monkeypatch.setattr(net, "value_and_grad", lambda *a, **k: (0.0, -right(*a, **k)[1]))
    assert not net.check_gradient(x, y).ok


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("every_entry", [True, False])
def test_names_the_worst_entry(every_entry, dtype, monkeypatch):
    if not every_entry:
        monkeypatch.setattr(_judge, "MAX_COST_OF_ALL_ENTRIES", 0)
    net, x, y = make([6, 30, 20, 3], cls=Corrupted, activations="tanh", dtype=dtype)
    right = net.value_and_grad(x, y)[1]

    def corrupt(gradient):
        net.unflatten(gradient)[1][0][7, 13] += 0.1

    net.corrupt = corrupt
    report = net.check_gradient(x, y)
    wrong = [block for block in report.blocks if block.error > report.tolerance]
    assert [block.worst for block in wrong] == ["W_2[7, 13]"]
    reference = net.unflatten(right)[1][0][7, 13]
    np.testing.assert_allclose([wrong[0].reference, wrong[0].gradient], [reference, reference + 0.1], rtol=1e-5)
    assert "W_2[7, 13]" in str(report)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_passes(activation, dtype):
    net, x, y = make([4, 7, 5, 3], activations=[activation, "tanh"], output=activation, dtype=dtype)
    report = net.check_gradient(x, y)
    assert report.ok, str(report)
    assert report.tolerance == _judge.TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("every_entry", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_passes(loss, every_entry, dtype, monkeypatch):
    if not every_entry:
        monkeypatch.setattr(_judge, "MAX_COST_OF_ALL_ENTRIES", 0)
    net, x, y = make([4, 9, 8, 3], activations=["gelu", "softplus"], loss=loss, dtype=dtype)
    report = net.check_gradient(x, y)
    assert report.ok, str(report)
    assert report.every_entry == every_entry
    assert [block.name for block in report.blocks] == ["W_1", "b_1", "W_2", "b_2", "W_3", "b_3"]
    assert report.check_grad < 1e-4 * max(1.0, report.gradient_norm)  # of the float64 loss, for float32 too


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_passes_where_y_hat_is_almost_y(loss, dtype):
    net, x, y = make([4, 8, 2], activations="tanh", loss=loss, dtype=dtype)
    y = net.forward(x).astype(float) * (1.0 + 1e-5 * y)
    assert net.check_gradient(x, y).ok


@pytest.mark.parametrize("dtype", DTYPES)
def test_passes_where_samples_cancel(dtype):
    net, x, y = make([4, 2], dtype=dtype)
    x = np.vstack([x, x])
    y_hat = net.forward(x).astype(float)
    y = y_hat + np.vstack([np.ones_like(y), -np.ones_like(y) * (1.0 + 1e-4)])  # contributions of both signs
    assert net.check_gradient(x, y).ok


def test_float32_right_passes_and_slightly_wrong_fails():
    net, x, y = make([5, 8, 8, 1], cls=Corrupted, activations="tanh", dtype="float32")
    assert net.check_gradient(x, y).ok
    net.corrupt = scale(1.0001)
    assert not net.check_gradient(x, y).ok


def test_large_network_along_directions():
    net, x, y = make([64, 100, 10], cls=Corrupted, loss="cross_entropy", n_samples=16)
    report = net.check_gradient(x, y)
    assert report.ok, str(report)
    assert not report.every_entry
    assert report.along_direction
    assert "random directions" in str(report)
    place = 64 * 100 + 100 + 321

    def corrupt(gradient):
        gradient[place] += 1e-6

    net.corrupt = corrupt
    report = net.check_gradient(x, y)
    assert not report.ok
    assert [block.worst for block in report.blocks if block.error > 1e-12] == ["W_2[3, 21]"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("every_entry", [True, False])
def test_a_gradient_that_is_not_finite_is_wrong(every_entry, value, monkeypatch):
    if not every_entry:
        monkeypatch.setattr(_judge, "MAX_COST_OF_ALL_ENTRIES", 0)
    net, x, y = make([5, 8, 8, 1], cls=Corrupted, activations="tanh")

    def corrupt(gradient):
        gradient[50] = value

    net.corrupt = corrupt
    report = net.check_gradient(x, y)
    assert not report.ok
    assert report.max_error == np.inf
    assert [block.worst for block in report.blocks if block.error == np.inf] == ["W_2[0, 2]"]
    assert "W_2[0, 2]" in str(report)
    assert "not finite" in str(report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_leave_out_missing_targets_and_rows(dtype):
    net, x, y = make([3, 6, 2], activations="tanh", loss="huber", dtype=dtype)
    y[::3, 1] = np.nan
    y[5] = np.nan
    x[5] = np.nan
    weight = np.where(np.isnan(y), 0.0, 2.0)
    report = net.check_gradient(x, y, sample_weight=weight)
    assert report.ok, str(report)
    assert report.n_samples == 39


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_by_sample_and_labels_out_of_range(dtype):
    net, x, y = make([3, 6, 4], activations="tanh", loss=("cross_entropy", 0.1), dtype=dtype)
    weight = np.random.default_rng(1).uniform(0.1, 2.0, 40)
    weight[3] = 0.0
    x[3] = np.nan
    report = net.check_gradient(x, y, sample_weight=weight)
    assert report.ok, str(report)


def test_a_kink_hit_exactly_is_no_failure():
    net = Network([2, 4, 1], activations="relu", rng=0)  # biases 0: all preactivations are 0 at x = 0
    x = np.vstack([np.zeros((3, 2)), np.eye(2)])
    report = net.check_gradient(x, np.ones((5, 1)))
    assert report.ok, str(report)
    assert report.n_left_out == 0


def test_a_sample_that_rounding_moves_across_a_kink_is_left_out():
    net = Network([3, 1, 1], activations="relu", loss="absolute_error", dtype="float32", rng=0)
    net.params = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    near = np.random.default_rng(0).uniform(0.1, 1.0, (500, 3)).astype(np.float32)
    near[:, 2] = -(near[:, 0] + near[:, 1])  # a_1 is 0 except for rounding
    a = net.layer_gradients(near, np.zeros((500, 1))).a[1][:, 0]
    moved = near[(a > 0) != (near.astype(float).sum(axis=1) > 0)]
    x = np.vstack([moved[:1], [[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]]])
    report = net.check_gradient(x, np.full((3, 1), -1.0))
    assert report.ok, str(report)
    assert (report.n_samples, report.n_left_out) == (2, 1)
    assert "1 sample within rounding of a kink was left out" in str(report)


def test_same_arguments_same_report():
    net, x, y = make([64, 100, 10], loss="cross_entropy", n_samples=8)
    assert net.check_gradient(x, y) == net.check_gradient(x, y)


def test_report_is_frozen_and_narrow():
    net, x, y = make([5, 8, 8, 1], activations="tanh")
    report = net.check_gradient(x, y)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.ok = False
    table = str(report).splitlines()[1:]
    assert max(map(len, table)) <= 80
    assert [line.split()[0] for line in table if line.startswith(("W_", "b_"))] == [b.name for b in report.blocks]
    assert report.max_error == max(block.error for block in report.blocks)


def test_refuses_a_gradient_of_the_wrong_shape(monkeypatch):
    net, x, y = make([5, 8, 8, 1], activations="tanh")
    monkeypatch.setattr(net, "value_and_grad", lambda *a, **k: (0.0, np.zeros(3)))
    with pytest.raises(ValueError, match=r"expected a gradient of shape \(129,\), got \(3,\)"):
        net.check_gradient(x, y)


def test_refuses_what_value_and_grad_refuses():
    net, x, y = make([5, 8, 8, 1], activations="tanh")
    with pytest.raises(ValueError, match="y: expected 40 rows"):
        net.check_gradient(x, y[:-1])


@pytest.mark.parametrize("loss", LOSSES)
def test_random_problem_fits_the_loss(loss):
    net = Network([3, 4], loss=loss, rng=0)
    x, y = checking.random_problem(net, 25, np.random.default_rng(0))
    assert x.shape == (25, 3)
    assert y.shape == ((25,) if loss == "cross_entropy" else (25, 4))
    assert np.isfinite(net.loss(x, y))
