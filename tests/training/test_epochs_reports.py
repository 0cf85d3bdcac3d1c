"""What epochs report to a caller that follows another library's curve: capped losses, penalties apart, NaN."""

import numpy as np
import pytest
from epochs import METHODS, by_core, refuse_other_bits
from problems import random_targets

from backprop import Network

RATES = [1e-3, 1e-3]


def problem(loss, n_out, *, dtype="float64", n=60, scale=20.0, labels=True):
    """A network with large outputs: many of its losses are large, and some are small."""
    rng = np.random.default_rng(0)
    net = Network([3, 8, n_out], activations="tanh", loss=loss, dtype=dtype, rng=0)
    net.weights[-1][...] *= scale
    x = rng.standard_normal((n, 3)).astype(dtype)
    y = random_targets(rng, loss, n, n_out, dtype, labels)
    return net, x, y, np.array([rng.permutation(n) for _ in RATES])


def losses_of_outputs(net, x, y):
    """(n, n_L): of each output alone; (n, 1) for cross_entropy."""
    n_out = 1 if net.loss_name == "cross_entropy" else net.sizes[-1]
    losses = np.empty((len(x), n_out))
    for s in range(len(x)):
        for j in range(n_out):
            w = None if n_out == 1 else np.eye(n_out)[j : j + 1]
            losses[s, j] = net.loss(x[s : s + 1], y[s : s + 1], sample_weight=w)
    return losses


@pytest.mark.parametrize("weights", ["none", "by_row", "by_output"])
@pytest.mark.parametrize(
    ("loss", "n_out"),
    [("cross_entropy", 3), ("binary_cross_entropy", 1), ("binary_cross_entropy", 70), ("squared_error", 2)],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_cap_on_losses(loss, n_out, weights, dtype):
    """The mean of the losses that are cut at the cap, whose gradient is that of the losses without it."""
    if weights == "by_output" and loss == "cross_entropy":
        weights = "none"
    shape = {"none": None, "by_row": (60,), "by_output": (60, n_out)}[weights]
    w = None if shape is None else np.random.default_rng(1).integers(0, 4, shape).astype(float)
    net, x, y, orders = problem(loss, n_out, dtype=dtype)
    each = losses_of_outputs(net, x, y)
    cap = float(np.median(each))
    factors = np.ones_like(each) if w is None else np.broadcast_to(w.reshape(60, -1), each.shape)
    plain = by_core(net, x, y, orders, 16, RATES, "adam", weight=w)
    net = problem(loss, n_out, dtype=dtype)[0]
    found = by_core(net, x, y, orders, 16, RATES, "adam", weight=w, loss_cap=cap)
    first = orders[0, :16]
    expected = (factors * np.minimum(each, cap))[first].sum() / factors[first].sum()
    np.testing.assert_allclose(found.losses[0, 0], expected, rtol=1e-6 if dtype == "float32" else 1e-12)
    assert (found.losses < plain.losses).all()
    for name in ("params", "moments", "progress", "totals"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name), name)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "poisson"])
def test_a_cap_that_no_loss_reaches(loss, labels):
    """It changes no bit; nor do threads with a cap, in strips and in chunks."""
    net, x, y, orders = problem(loss, 3, scale=1, labels=labels)
    plain = by_core(net, x, y, orders, 16, RATES, "adam")
    net = problem(loss, 3, scale=1)[0]
    refuse_other_bits(by_core(net, x, y, orders, 16, RATES, "adam", loss_cap=1e300), plain)
    for sizes, n in (([8, 100, 100, 3], 700), ([3, 60, 3], 1500)):
        x = np.random.default_rng(0).standard_normal((n, sizes[0]))
        y = random_targets(np.random.default_rng(1), loss, n, 3, "float64", labels)
        fits = []
        for n_threads in (1, 2, 3):
            net = Network(sizes, activations="tanh", loss=loss, rng=0)
            fits.append(by_core(net, x, y, None, n, RATES, "sgd", loss_cap=1.0, n_threads=n_threads))
        for fit in fits[1:]:
            refuse_other_bits(fit, fits[0])


def test_a_cap_hides_no_nan():
    net, x, y, orders = problem("cross_entropy", 3)
    x[orders[0, 20]] = np.nan
    found = by_core(net, x, y, orders, 16, RATES, "adam", loss_cap=1.0)
    assert found.n_done == 1
    assert np.isnan(found.losses[0, 1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("divides_l2", [False, True])
def test_losses_and_penalties_apart(method, divides_l2):
    """Their sum is the loss with the penalty; a batch without weight has none of both."""
    w = np.random.default_rng(1).integers(0, 2, 60).astype(float)
    options = {"weight": w, "l2": 0.5, "divides_l2": divides_l2}
    net, x, y, orders = problem("squared_error", 2)
    w[orders[0, :16]] = 0
    square = sum(np.square(W).sum() for W in net.weights)
    whole = by_core(net, x, y, orders, 16, RATES, method, **options)
    net = problem("squared_error", 2)[0]
    apart = by_core(net, x, y, orders, 16, RATES, method, apart=True, **options)
    np.testing.assert_array_equal(apart.losses + apart.penalties, whole.losses)
    np.testing.assert_array_equal(apart.params, whole.params)
    assert apart.penalties[0, 0] == apart.losses[0, 0] == 0
    expected = 0.25 * square / (w[orders[0, 16:32]].sum() if divides_l2 else 1)
    assert apart.penalties[0, 1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", ["adam", "sgd"])
def test_a_fit_that_goes_on_with_nan(method):
    """As scikit-learn's does: all batches are done, and the parameters are NaN."""
    net, x, y, orders = problem("squared_error", 2)
    y[orders[0, 20]] = np.nan
    found = by_core(net, x, y, orders, 16, RATES, method, stops=False)
    assert found.n_done == 8
    assert np.isfinite(found.losses[0, 0])
    assert np.isnan(found.losses.flat[1:]).all()
    assert np.isnan(found.params).any()
    assert found.progress[0] == 8


@pytest.mark.parametrize("options", [{"loss_cap": 0.0}, {"loss_cap": np.nan}, {"penalties": np.zeros((2, 3))}], ids=str)
def test_what_is_refused(options):
    net, x, y, orders = problem("squared_error", 2)
    with pytest.raises(ValueError, match=next(iter(options))):
        by_core(net, x, y, orders, 16, RATES, "adam", **options)
