"""The quantile loss with a tau for each output: each term is that of a network with this tau."""

import copy
import pickle
import re

import numpy as np
import pytest
from epochs import by_core
from partial_cases import added, bits, case_of
from problems import LAYOUTS, random_problem, relative_error, same_bits, with_layout

import backprop
from backprop import Ensemble, Network, PartialSums, equations
from backprop.api import targets
from backprop.reference import recursion

TAUS = (0.1, 0.5, 0.75)
SIZES = [3, 5, 4, 3]
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}
DTYPES = ["float32", "float64"]
ONE_UNIT, MANY_UNITS = 90, 20_000


def network(taus=TAUS, dtype="float64", **options):
    return Network([3, 5, len(taus)], activations="tanh", loss=("quantile", taus), dtype=dtype, rng=0, **options)


def column(n, dtype="float64"):
    """x, and targets that all outputs share."""
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, 3)).astype(dtype), rng.normal(size=n).astype(dtype)


def repeated(y):
    return np.repeat(y.reshape(-1, 1), 3, axis=1)


def results(net, x, y, **options):
    """What the calls with a loss give, as bits."""
    v = np.random.default_rng(1).normal(size=net.n_params).astype(net.dtype)
    layers = net.layer_gradients(x, y, **options)
    fun, kept = net.objective(x, y, l2=0.1, **options), net.params.astype(float)
    found = [
        *net.value_and_grad(x, y, **options), net.loss(x, y, **options), net.hvp(x, y, v, **options),
        *layers.grad_a[1:], net.per_sample_gradients(x, y, **options), *fun(kept), fun.hess(kept),
        net.per_sample_gradient_norms(x, y, **options), net.clipped_gradient(x, y, max_norm=0.3, **options),
        net.input_gradient(x, y, **options), net.hessian(x, y, **options), net.gauss_newton_vp(x, y, v, **options),
        fun.hessp(kept, v),
    ]  # fmt: skip
    return [np.asarray(each).tobytes() for each in found]


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", ["identity", "tanh"])
@pytest.mark.parametrize("weight", [None, "sample", "entry"])
def test_loss_gradient_and_curvature_are_those_of_the_reference(weight, output, dtype):
    rng = np.random.default_rng(5)
    for n_samples in (1, 9, 70):
        problem = random_problem(
            rng, SIZES, output=output, loss=("quantile", TAUS), weight=weight, dtype=dtype, n_samples=n_samples
        )
        loss, grad = problem.value_and_grad()
        expected = problem.reference()
        assert loss == pytest.approx(expected.loss, rel=TOLERANCE[dtype])
        assert relative_error(grad, expected.gradient) < 20 * TOLERANCE[dtype]
        direction = rng.normal(size=len(grad))
        assert problem.complex_step(direction) == pytest.approx(expected.gradient @ direction, rel=1e-9)
        (x, y), options = problem.arguments()
        product = recursion.hvp(*problem.specification, problem.net.params.astype(float), direction, *problem.data)
        assert relative_error(problem.net.hvp(x, y, direction, **options), product) < 100 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, ONE_UNIT, MANY_UNITS])
def test_each_output_has_the_bits_of_a_network_with_its_tau(n, dtype):
    """Weights by output select one: the loss is then the mean of its terms."""
    net, (x, y) = network(dtype=dtype), column(n, dtype)
    y = repeated(y) + np.arange(3, dtype=dtype)
    for k, tau in enumerate(TAUS):
        alone = Network(net.sizes, activations="tanh", loss=("quantile", tau), dtype=dtype, rng=0)
        weight = np.zeros((n, 3))
        weight[:, k] = 1
        expected = alone.value_and_grad(x, y, sample_weight=weight)
        for n_threads in (1, 2):
            found = net.value_and_grad(x, y, sample_weight=weight, n_threads=n_threads)
            assert found[0] == expected[0]
            assert same_bits(found[1], expected[1])
        y_hat = net.forward(x)[:, k].astype(float)
        d = y_hat - y[:, k]
        assert found[0] == pytest.approx(np.maximum(-tau * d, (1 - tau) * d).mean(), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [None, "sample", "entry"])
def test_equal_taus_have_the_bits_of_one(weight, dtype):
    (x, y), rng = column(ONE_UNIT, dtype), np.random.default_rng(2)
    w = {None: None, "sample": rng.uniform(size=ONE_UNIT), "entry": rng.uniform(size=(ONE_UNIT, 3))}[weight]
    options = {} if w is None else {"sample_weight": w}
    one = Network([3, 5, 3], activations="tanh", loss=("quantile", 0.3), dtype=dtype, rng=0)
    assert results(network((0.3,) * 3, dtype), x, repeated(y), **options) == results(one, x, repeated(y), **options)


def test_the_typed_twin_agrees():
    net, (x, y) = network(), column(70)
    loss, grad = equations.value_and_grad(net, x, y)
    expected_loss, expected = net.value_and_grad(x, y)
    assert loss == pytest.approx(expected_loss, rel=1e-13)
    assert relative_error(grad, expected) < 1e-13


def test_a_kink_has_the_slope_0_and_nan_is_not_hidden():
    net = Network([2, 2], loss=("quantile", (0.2, 0.9)), rng=0)
    net.params = [1, 0, 0, 1, 0, 0]
    layers = net.layer_gradients([[1.0, 2.0]], [[1.0, 4.0]])
    assert layers.loss == 0.9 * 2 / 2
    assert layers.grad_a[1].tolist() == [[0, -0.45]]
    assert np.isnan(net.loss([[1.0, 2.0]], [np.nan]))


# Targets that all outputs share ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_tiles", [False, True])
def test_a_column_counts_for_all_outputs(by_tiles, dtype, monkeypatch):
    if by_tiles:
        monkeypatch.setattr(targets, "BY_TILE_BYTES", 0)
        monkeypatch.setattr("backprop.api.conversion.BY_TILE_BYTES", 0)
    net, (x, y) = network(dtype=dtype), column(ONE_UNIT, dtype)
    y = np.round(4 * y)
    weight = np.random.default_rng(0).integers(0, 2, (ONE_UNIT, 3)).astype(float)
    for options in ({}, {"sample_weight": weight}, {"sample_weight": weight[:, 0]}):
        expected = results(net, x, repeated(y), **options)
        for given in (y, y[:, None], y.tolist(), y.astype("i8"), y.astype(">f4")):
            assert results(net, x, given, **options) == expected
        for layout in LAYOUTS:
            assert results(net, x, with_layout(y, layout), **options) == expected


def test_a_large_column_is_not_copied():
    net, (x, y) = network(), column(MANY_UNITS)
    fun = net.objective(x, y)
    assert np.shares_memory(fun._terms[0].samples.y, y)
    assert bits(fun(net.params)) == bits(net.value_and_grad(x, repeated(y)))


def test_missing_targets_of_a_column():
    net, (x, y) = network(), column(ONE_UNIT)
    w = np.ones((ONE_UNIT, 3))
    w[7], w[8, 1] = 0, 0
    expected = bits(net.value_and_grad(x, y, sample_weight=w))
    missing = y.copy()
    missing[7] = np.nan
    assert bits(net.value_and_grad(x, missing, sample_weight=w)) == expected
    found = net.find_nonfinite(x, missing)
    assert (found.sample, found.stage, str(found)) == (7, "loss", "sample 7, output 0: the target is nan")
    assert net.find_nonfinite(x, missing, sample_weight=w) is None
    assert net.check_gradient(x, missing, sample_weight=w).ok


def test_one_output():
    x, y = column(9)
    net, one = network((0.2,)), Network([3, 5, 1], activations="tanh", loss=("quantile", 0.2), rng=0)
    for given in (y, y[:, None]):
        assert results(net, x, given) == results(one, x, given)


@pytest.mark.parametrize("shape", [(9, 2), (9, 1, 1), (9, 0), (1, 9), (8,)])
def test_other_shapes_are_refused(shape):
    net, (x, _) = network(), column(9)
    with pytest.raises(ValueError, match=r"^y: expected (shape \(9, 3\) or \(9, 1\) or \(9,\)|9 rows, as x has), got"):
        net.value_and_grad(x, np.ones(shape))


def test_one_tau_shares_no_column():
    with pytest.raises(ValueError, match=re.escape("y: expected shape (9, 3), got (9, 1)")):
        Network([3, 3], loss="quantile").value_and_grad(*(each.reshape(9, -1) for each in column(9)))


def test_no_samples():
    net = network()
    for y in (np.ones((0, 3)), np.ones((0, 1)), [], np.ones(0)):
        assert net.per_sample_gradient_norms(np.ones((0, 3)), y).shape == (0,)


# Ensembles, parts, blocks, epochs -------------------------------------------------------------------------------------


def test_ensembles():
    ensemble, (x, y) = Ensemble(network(), 4, rng=1), column(7)
    own = np.random.default_rng(3).normal(size=(4, 7))
    for given in (y, y[:, None], repeated(y)):
        losses, grads = ensemble.value_and_grad(x, given)
        for k in range(4):
            assert bits((float(losses[k]), grads[k])) == bits(ensemble[k].value_and_grad(x, repeated(y)))
    for given in (own, own[:, :, None], np.repeat(own[:, :, None], 3, axis=2)):
        losses, grads = ensemble.value_and_grad(x, given)
        for k in range(4):
            assert bits((float(losses[k]), grads[k])) == bits(ensemble[k].value_and_grad(x, repeated(own[k])))


def test_targets_of_an_ensemble_with_two_meanings():
    ensemble, (x, _) = Ensemble(network(), 3, rng=1), column(3)
    with pytest.raises(ValueError, match=r"^y: expected a shape with one meaning, got \(3, 3\)"):
        ensemble.value_and_grad(x, np.eye(3))
    assert ensemble.value_and_grad(x, np.eye(3)[:, :, None])[0].shape == (3,)


@pytest.mark.parametrize("n", [300, 20_001])
def test_parts_and_blocks(n):
    case = case_of("value_and_grad", n, weight="sample", loss=("quantile", (0.2, 0.7)))
    case.y = case.y[:, 0].copy()
    expected = bits(case.plain())
    parts = [PartialSums.from_bytes(part.to_bytes()) for part in case.parts(case.blocks(5))]
    assert bits(added(np.random.default_rng(0), parts).result()) == expected
    blocks = [(case.x[i : i + 700], case.y[i : i + 700], case.weight[i : i + 700]) for i in range(0, n, 700)]
    assert bits(case.net.objective(blocks)(case.net.params)) == expected


def test_parts_of_other_taus_do_not_add_up():
    case = case_of("value_and_grad", 300, loss=("quantile", (0.2, 0.7)))
    first, second = case.blocks(2)
    part = case.part(first)
    case.net = Network(case.net.sizes, activations=case.net.activations[0], loss=("quantile", (0.2, 0.8)), rng=0)
    with pytest.raises(ValueError, match=r"^\+: expected parts of one sum, got another network"):
        part + case.part(second)


@pytest.mark.parametrize("by_tiles", [False, True])
def test_epochs(by_tiles, monkeypatch):
    if by_tiles:
        monkeypatch.setattr(targets, "BY_TILE_BYTES", 0)
    net, (x, y) = network(), column(ONE_UNIT)
    orders = np.array([np.random.default_rng(k).permutation(ONE_UNIT) for k in range(3)])
    start = net.params.copy()
    for order in (orders, None):
        fits = []
        for given in (y, repeated(y)):
            net.params = start
            fits.append(by_core(net, x, given, order, 16, [0.01] * 3, "adam"))
        assert same_bits(fits[0].params, fits[1].params)
        assert same_bits(fits[0].losses, fits[1].losses)


def test_capped_losses_of_epochs():
    net, (x, y) = network(), column(ONE_UNIT)
    z = net.forward(x) - y[:, None]
    capped = np.minimum(np.maximum(-np.array(TAUS) * z, (1 - np.array(TAUS)) * z), 0.2).mean()
    found = by_core(net, x, y, None, ONE_UNIT, [0.0], "sgd", loss_cap=0.2)
    assert found.losses[0, 0] == pytest.approx(capped, rel=1e-12)


# What it is -----------------------------------------------------------------------------------------------------------


def test_repr_copies_pickles_and_files(tmp_path):
    for dtype in DTYPES:
        net = network(dtype=dtype)
        assert repr(net).count("loss=('quantile', (0.1, 0.5, 0.75))") == 1
        assert "loss quantile(0.1, 0.5, 0.75)" in net._repr_html_()
        assert net.loss_name == "quantile"
        x, y = column(9, dtype)
        expected = bits(net.value_and_grad(x, y))
        net.save(tmp_path / "net")
        others = [
            eval(repr(net), {"Network": Network}), copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net)),
            backprop.load(tmp_path / "net"),
        ]  # fmt: skip
        for other in others:
            assert other._architecture == net._architecture
            other.params = net.params
            assert bits(other.value_and_grad(x, y)) == expected
        assert network((0.1, 0.5, 0.7))._architecture != net._architecture
    ensemble = Ensemble(net, 2, rng=0)
    ensemble.save(tmp_path / "ensemble")
    assert repr(backprop.load(tmp_path / "ensemble")) == repr(ensemble)


@pytest.mark.parametrize("n", [1, 2, 3000])
def test_files_with_many_taus(n, tmp_path):
    taus = np.random.default_rng(0).uniform(1e-3, 1, n)
    net = Network([1, n], loss=("quantile", taus), dtype="float32", rng=0)
    net.save(tmp_path / "net")
    assert backprop.load(tmp_path / "net")._architecture == net._architecture
    assert net._architecture.loss_parameter == tuple(taus.tolist())


@pytest.mark.parametrize("make", [tuple, list, np.array, lambda taus: np.array(taus, np.float32)])
def test_forms_of_taus(make):
    net = network(make([0.25, 0.5, 0.75]))
    assert net._architecture.loss_parameter == (0.25, 0.5, 0.75)
    assert {type(tau) for tau in net._architecture.loss_parameter} == {float}


REFUSED = {
    "too few": ((0.1, 0.9), ValueError, "loss: expected a number for tau of 'quantile', or a tuple of 3, one for each"),
    "too many": ((0.1, 0.2, 0.3, 0.4), ValueError, "each output, got 4: tuple"),
    "none": ((), ValueError, "got 0: tuple ()"),
    "0": ((0, 0.5, 0.9), ValueError, "loss[1][0]: expected a number with 0 < tau < 1 for tau of 'quantile', got 0.0"),
    "1": ((0.5, 0.9, 1), ValueError, "loss[1][2]: expected a number with 0 < tau < 1"),
    "nan": ((0.5, np.nan, 0.9), ValueError, "loss[1][1]: expected a finite tau"),
    "text": ((0.5, "0.6", 0.9), TypeError, "loss[1][1]: expected a number for tau of 'quantile', got str '0.6'"),
    "None": ((0.5, None, 0.9), TypeError, "loss[1][1]: expected a number for tau of 'quantile', got None"),
    "a tuple": ((0.5, (0.6,), 0.9), TypeError, "loss[1][1]: expected a number for tau of 'quantile', got tuple (0.6,)"),
    "a matrix": (np.full((3, 1), 0.5), TypeError, "loss: expected a number for tau of 'quantile', got an array"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    taus, kind, message = REFUSED[name]
    with pytest.raises(kind, match=re.escape(message)):
        Network([3, 5, 3], loss=("quantile", taus))


@pytest.mark.parametrize("loss", [("huber", (1.0, 2.0)), ("cross_entropy", (0.1, 0.2)), ("hinge", (1.0, 2.0))])
def test_other_losses_take_no_tuple(loss):
    expected = f"^loss: expected (a number for|no parameter).* '{loss[0]}', got"
    with pytest.raises((TypeError, ValueError), match=expected):
        Network([3, 2], loss=loss)
