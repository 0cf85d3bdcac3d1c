"""A member of an ensemble gives the bits of the same network alone, on any number of threads."""

import contextlib
import itertools
import pickle

import numpy as np
import pytest

from backprop import Ensemble, Network


def problem(loss, n_samples, n_in=3, n_out=4):
    rng = np.random.default_rng(n_samples)
    x = rng.standard_normal((n_samples, n_in))
    y = rng.integers(0, n_out, n_samples) if loss == "cross_entropy" else rng.standard_normal((n_samples, n_out))
    return x, y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("n_samples", [1, 5, 300, 2500])
def test_members_are_the_networks_alone(loss, n_samples, dtype):
    x, y = problem(loss, n_samples)
    ensemble = Ensemble(Network([3, 40, 30, 4], activations="tanh", loss=loss, dtype=dtype, rng=1), 5, rng=3)
    for n_threads in (1, 2, 8):
        losses, grads = ensemble.value_and_grad(x, y, n_threads=n_threads)
        assert losses.shape == (5,)
        for m in range(5):
            loss_alone, grad_alone = ensemble[m].value_and_grad(x, y)
            assert losses[m] == loss_alone
            np.testing.assert_array_equal(grads[m], grad_alone)
    y_hat = ensemble.forward(x)
    for m in range(5):
        np.testing.assert_array_equal(y_hat[m], ensemble[m].forward(x))


@pytest.mark.parametrize("n_threads", [1, 2, 8])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_data_and_weights_of_each_member(loss, n_threads):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 300, 3))
    y = rng.integers(0, 4, (4, 300)) if loss == "cross_entropy" else rng.standard_normal((4, 300, 4))
    weight = rng.uniform(size=(4, 300))
    weight[2, :200] = 0
    ensemble = Ensemble(Network([3, 20, 4], loss=loss, rng=1), 4, rng=3)
    losses, grads = ensemble.value_and_grad(x, y, sample_weight=weight, n_threads=n_threads)
    for m in range(4):
        loss_alone, grad_alone = ensemble[m].value_and_grad(x[m], y[m], sample_weight=weight[m])
        assert losses[m] == loss_alone
        np.testing.assert_array_equal(grads[m], grad_alone)
    np.testing.assert_array_equal(ensemble.forward(x)[3], ensemble[3].forward(x[3]))


def test_parameters_are_shared_with_the_members():
    ensemble = Ensemble(Network([2, 3, 1], rng=0), 3, rng=0)
    assert not np.array_equal(ensemble.params[0], ensemble.params[1])
    ensemble[1].params = np.arange(ensemble[1].n_params)
    np.testing.assert_array_equal(ensemble.params[1], np.arange(ensemble[1].n_params))
    ensemble.params = np.zeros_like(ensemble.params)
    assert not ensemble[1].params.any()
    again = pickle.loads(pickle.dumps(ensemble))
    again[0].params[0] = 7
    assert again.params[0, 0] == 7
    assert ensemble.params[0, 0] == 0
    assert len(again) == 3


def test_out_is_filled_and_returned():
    x, y = problem("squared_error", 10)
    ensemble = Ensemble(Network([3, 5, 4], rng=0), 3, rng=0)
    out = np.empty_like(ensemble.params)
    assert ensemble.value_and_grad(x, y, out=out)[1] is out
    np.testing.assert_array_equal(out, ensemble.value_and_grad(x, y)[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 10, 3))}, "x: expected one for each of the 3 networks"),
        ({"y": np.zeros((2, 10, 4))}, "y: expected one for each of the 3 networks"),
        ({"x": np.zeros((10, 2))}, "x: expected 3 columns"),
        ({"x": np.zeros((3, 10, 0))}, "x: expected 3 columns"),
        ({"y": np.zeros((9, 4))}, "y: expected 10 rows"),
        ({"out": np.zeros(3)}, "out: expected shape"),
        ({"sample_weight": -np.ones(10)}, "sample_weight: expected finite weights"),
    ],
)
def test_what_is_refused(change, message):
    arguments = {"x": np.zeros((10, 3)), "y": np.zeros((10, 4))} | change
    ensemble = Ensemble(Network([3, 5, 4], rng=0), 3)
    with pytest.raises(ValueError, match=message):
        ensemble.value_and_grad(arguments.pop("x"), arguments.pop("y"), **arguments)


def test_what_an_ensemble_is_made_of():
    with pytest.raises(TypeError, match="net: expected a Network"):
        Ensemble("net", 3)
    with pytest.raises(ValueError, match="k: expected"):
        Ensemble(Network([1, 1]), 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kept", [(300, 250), (600, 500), (1000, 610, 130)])
def test_members_with_other_numbers_of_samples_keep_their_chains(kept, dtype):
    """Tiles begin at multiples of 64 rows of each member; rows of weight 0 of another member change nothing."""
    n, k = kept[0], len(kept)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, 300)), rng.standard_normal((n, 1))
    weight = np.ones((k, n))
    for m in range(k):
        weight[m, kept[-1 - m] :] = 0
    ensemble = Ensemble(Network([300, 64, 1], dtype=dtype, rng=0), k, rng=1)
    for n_threads in (1, k, 8):
        losses, grads = ensemble.value_and_grad(x, y, sample_weight=weight, n_threads=n_threads)
        for m in range(k):
            loss_alone, grad_alone = ensemble[m].value_and_grad(x, y, sample_weight=weight[m])
            assert losses[m] == loss_alone
            np.testing.assert_array_equal(grads[m], grad_alone)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_members_of_one_unit_and_of_two(n_threads):
    """As many chunks each, so they run as they are: the first has one unit, whose sums need no bins."""
    x, y = problem("squared_error", 16_384, 3, 1)
    ensemble = Ensemble(Network([3, 4, 1], rng=1), 3, rng=3)
    weights = np.ones((3, len(x)))
    weights[0, :9] = weights[2, 5] = 0
    losses, grads = ensemble.value_and_grad(x, y, sample_weight=weights, n_threads=n_threads)
    for m in range(3):
        loss_alone, grad_alone = ensemble[m].value_and_grad(x, y, sample_weight=weights[m])
        assert losses[m] == loss_alone
        np.testing.assert_array_equal(grads[m], grad_alone)


def test_weights_by_member_where_they_could_be_by_output():
    """k = n_samples = n_out: cross-entropy has no weights per output, so the weights are per member."""
    ensemble = Ensemble(Network([2, 3], loss="cross_entropy", rng=0), 3, rng=0)
    x, weight = np.arange(6.0).reshape(3, 2), np.arange(1.0, 10).reshape(3, 3)
    losses, _ = ensemble.value_and_grad(x, [0, 1, 2], sample_weight=weight)
    assert losses.tolist() == [ensemble[m].loss(x, [0, 1, 2], sample_weight=weight[m]) for m in range(3)]


def test_targets_of_one_output_by_member():
    ensemble = Ensemble(Network([2, 1], rng=0), 3, rng=0)
    x, y = np.arange(10.0).reshape(5, 2), np.arange(15.0).reshape(3, 5)
    losses, _ = ensemble.value_and_grad(x, y)
    assert losses.tolist() == [ensemble[m].loss(x, y[m]) for m in range(3)]
    assert np.array_equal(losses, ensemble.value_and_grad(x, y[:, :, None])[0])
    with pytest.raises(ValueError, match=r"^y: expected one for each of the 3 networks"):
        ensemble.value_and_grad(x, y[:2])


# One shape, one meaning ----------------------------------------------------------------------------------------------


def readings(array, k):
    """The possible meanings of an argument, each a list with one entry per member: shared, or one row per member."""
    shared = [[array] * k]
    return shared if array is None or array.shape[0] != k else [*shared, list(array)]


def alone(ensemble, x, y, weight):
    """Losses and gradients of each member alone, as bytes, for each meaning that all members accept."""
    k, found = len(ensemble), set()
    for xs, ys, weights in itertools.product(*(readings(array, k) for array in (x, y, weight))):
        with contextlib.suppress(TypeError, ValueError):
            results = [ensemble[m].value_and_grad(xs[m], ys[m], sample_weight=weights[m]) for m in range(k)]
            found.add(as_bytes(*zip(*results, strict=True)))
    return found


def as_bytes(losses, grads):
    return np.array(losses).tobytes() + np.array(grads).tobytes()


def together(ensemble, x, y, weight):
    """The same from one call, or its error."""
    try:
        return as_bytes(*ensemble.value_and_grad(x, y, sample_weight=weight))
    except (TypeError, ValueError) as error:
        return error


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("sizes", list(itertools.product((1, 2, 3), repeat=3)))
def test_whatever_the_sizes_members_are_the_networks_alone(loss, sizes):
    """Every shape of x, y and weights: an accepted one has one meaning, a refused one has none or two."""
    k, n, n_out = sizes
    rng = np.random.default_rng(sizes)
    ensemble = Ensemble(Network([2, 3, n_out], loss=loss, rng=0), k, rng=0)
    shapes = [(n,), (n, n_out), (k, n), (k, n, n_out)]
    targets = [rng.dirichlet(np.ones(n_out), shape[:-1]) for shape in ((n, n_out), (k, n, n_out))]
    if loss == "cross_entropy":
        targets += [rng.integers(0, n_out, (n,)), rng.integers(0, n_out, (k, n))]
        targets += [np.eye(n_out, dtype=int)[[0] * n]] if n_out > 1 else []
    else:
        targets = [rng.standard_normal(shape) for shape in shapes]
    weights = [None, *(rng.uniform(1, 2, shape) for shape in shapes)]
    n_refused = 0
    for x in (rng.standard_normal((n, 2)), rng.standard_normal((k, n, 2))):
        for y, weight in itertools.product(targets, weights):
            meanings = alone(ensemble, x, y, weight)
            for arguments in ((x, y), (x.tolist(), y.tolist())):  # by the quick path or not
                result = together(ensemble, *arguments, weight)
                if isinstance(result, bytes):
                    assert meanings == {result}
                elif "one meaning" in str(result):
                    n_refused += 1
                else:
                    assert len(meanings) != 1, result
    assert (n_refused > 0) == (k == n == n_out > 1)


def test_a_shape_with_two_meanings_is_refused():
    """The message names other ways to write it; they are accepted, and mean what it says."""
    rng = np.random.default_rng(0)
    x, y, w = rng.standard_normal((3, 2)), rng.standard_normal((3, 3)), rng.uniform(1, 2, (3, 3))
    ensemble = Ensemble(Network([2, 3], rng=0), 3, rng=0)
    with pytest.raises(ValueError, match=r"^sample_weight: expected .* got \(3, 3\): .*for each.*for all.*") as caught:
        ensemble.value_and_grad(x, y, sample_weight=w)
    first, second = (eval(text, {"np": np, "w": w}) for text in written(caught.value))
    for m in range(3):
        by_sample, by_output = (ensemble[m].loss(x, y, sample_weight=given) for given in (w[m], w))
        np.testing.assert_allclose(ensemble.value_and_grad(x, y, sample_weight=first)[0][m], by_sample, rtol=1e-15)
        assert ensemble.value_and_grad(x, y, sample_weight=second)[0][m] == by_output
    ensemble = Ensemble(Network([2, 3], loss="cross_entropy", rng=0), 3, rng=0)
    labels = np.array([[0, 1, 2], [1, 1, 0], [2, 0, 1]])
    for given in (labels, labels.astype(np.int8), labels.tolist(), np.eye(3, dtype=bool)):
        with pytest.raises(ValueError, match=r"^y: expected .* got \(3, 3\): .*for each.*for all.*") as caught:
            ensemble.value_and_grad(x, given)
    first, second = written(caught.value)
    losses, _ = ensemble.value_and_grad(x, eval(first, {"np": np, "y": labels}))
    np.testing.assert_allclose(losses, [ensemble[m].loss(x, labels[m]) for m in range(3)], rtol=1e-15)
    one_hot = np.eye(3, dtype=int)[[2, 0, 0]]
    losses, _ = ensemble.value_and_grad(x, eval(second, {"y": one_hot}))
    assert losses.tolist() == [ensemble[m].loss(x, [2, 0, 0]) for m in range(3)]


def written(error):
    """The two expressions of a message."""
    return str(error).split("written ")[1].split(", the second ")
