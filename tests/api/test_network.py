"""`Network` and `Objective` as objects: attributes, parameters, copies, links, SciPy, many threads, signals."""

import copy
import pickle
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from places import ROOT
from scipy import optimize, special
from slowness import SLOWNESS

import backprop
from backprop import Network, activations, custom
from backprop.activations import ACTIVATIONS
from backprop.losses import LOSSES, QUANTILES

RNG = np.random.default_rng(11)
X = RNG.standard_normal((30, 3))
Y = RNG.standard_normal((30, 2))

SPECIMENS = [
    Network([3, 1]),
    Network([3, 4, 2], activations="tanh", loss="huber", dtype="float32", rng=1),
    Network([3, 4, 2], activations=("leaky_relu", 0.2), output="sigmoid", loss=("huber", 0.5)),
    Network([3, 4, 5, 2], activations=["relu", "gelu"], loss=("cross_entropy", 0.1), output="softmax"),
    Network([3, 4, 5, 2], activations=[("elu", 0.3), "tanh"], loss="cross_entropy"),
    Network([3, 4, 5, 6, 2], activations=[("elu", 0.3), ("leaky_relu", -0.5), "sin"], loss=("quantile", 0.9)),
    Network([3, 4, 4, 2], activations=("elu", 1 / 3), output=("leaky_relu", 1e-3), loss="absolute_error"),
    Network([3, 4, 1], loss="binary_cross_entropy", output="sigmoid", activations=[("elu", 0.25)]),
    Network([3, 4, 2], loss="poisson", output="exp", dtype="float32"),
    Network([3, 4, 2], loss="hinge", activations="selu"),
    Network([3, 4, 4, 2], activations=["relu", ("leaky_relu", 0.01)]),
]


def run(code):
    """What code prints in a new process, which must end with status 0."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300 * SLOWNESS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def data_for(net):
    """x and a y that the network's loss takes."""
    n_out = net.sizes[-1]
    if net.loss_name == "cross_entropy":
        return X, np.arange(30) % n_out
    if net.loss_name == "hinge":
        return X, np.where(Y[:, :n_out] > 0, 1.0, -1.0)
    if net.loss_name in ("poisson", "binary_cross_entropy"):
        return X, special.expit(Y[:, :n_out])
    return X, Y[:, :n_out]


def reference(net, x, y):
    """(y_hat, loss, gradient) by the NumPy reference, in float64."""
    from backprop.reference import recursion as _reference

    target = np.eye(net.sizes[-1])[y] if net.loss_name == "cross_entropy" else y
    result = _reference.value_and_grad(net.sizes, net._architecture.layers, net._architecture.loss_pair,
                                       net.params.astype(float), x, target)  # fmt: skip
    return result.h[-1], result.loss, result.gradient


# Attributes ----------------------------------------------------------------------------------------------------------


def test_attributes():
    net = Network([3, 4, 2], activations=("leaky_relu", 0.2), output="sigmoid", loss=("huber", 0.5), dtype="float32")
    assert net.sizes == (3, 4, 2)
    assert net.dtype == np.dtype("float32")
    assert isinstance(net.dtype, np.dtype)
    assert net.n_params == 3 * 4 + 4 + 4 * 2 + 2
    assert net.activations == (("leaky_relu", 0.2),)
    assert net.output == "sigmoid"
    assert net.loss_name == "huber"
    assert net.params.shape == (26,)
    assert net.params.dtype == np.float32
    assert [W.shape for W in net.weights] == [(4, 3), (2, 4)]
    assert [b.shape for b in net.biases] == [(4,), (2,)]


def test_defaults():
    net = Network([3, 4, 2])
    assert (net.activations, net.output, net.loss_name, net.dtype) == (("relu",), "identity", "squared_error", float)


@pytest.mark.parametrize("sizes", [(3, 1), [3, 1], np.array([3, 1]), np.array([3, 1], np.uint8), iter([3, 1]),
                                   [np.int64(3), np.uint16(1)], range(3, 0, -2)])  # fmt: skip
def test_sizes_in_every_form(sizes):
    assert Network(sizes).sizes == (3, 1)
    assert all(type(n) is int for n in Network([np.int64(3), 1]).sizes)


@pytest.mark.parametrize(
    "name", ["sizes", "dtype", "n_params", "activations", "output", "loss_name", "weights", "biases"]
)
def test_what_is_fixed_cannot_be_assigned(name):
    net = Network([3, 4, 2])
    with pytest.raises(AttributeError):
        setattr(net, name, None)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_outputs_by_name(name):
    net = Network([3, 20, 2], activations=name, output=name, rng=0)
    assert net.activations == (name,)
    assert net.output == name
    y_hat, loss, grad = reference(net, X, Y)
    np.testing.assert_allclose(net.forward(X), y_hat, rtol=1e-13, atol=1e-14)
    value, gradient = net.value_and_grad(X, Y)
    np.testing.assert_allclose(value, loss, rtol=1e-13)
    np.testing.assert_allclose(gradient, grad, rtol=1e-11, atol=1e-13 * np.abs(grad).max())


@pytest.mark.parametrize(
    ("spec", "g"),
    [(("leaky_relu", 0.2), lambda a: np.where(a > 0, a, 0.2 * a)),
     (("elu", 0.5), lambda a: np.where(a > 0, a, 0.5 * np.expm1(a))),
     ("leaky_relu", lambda a: np.where(a > 0, a, 0.01 * a)), (("leaky_relu", -1), np.abs),
     (("leaky_relu", 0), lambda a: np.maximum(a, 0)),
     (("elu", np.float32(0.5)), lambda a: np.where(a > 0, a, 0.5 * np.expm1(a)))],
)  # fmt: skip
def test_activations_with_a_parameter(spec, g):
    net = Network([3, 4, 2], activations=spec, output=spec, rng=0)
    h = g(X @ net.weights[0].T + net.biases[0])
    np.testing.assert_allclose(net.forward(X), g(h @ net.weights[1].T + net.biases[1]), rtol=1e-13, atol=1e-14)
    both = Network([3, 4, 4, 2], activations=[spec, "tanh"], rng=0)
    h = np.tanh(g(X @ both.weights[0].T) @ both.weights[1].T)
    np.testing.assert_allclose(both.forward(X), h @ both.weights[2].T, rtol=1e-13, atol=1e-14)


# Initial weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_initial_weights(name, dtype):
    net = Network([400, 300, 2], activations=name, output="identity", dtype=dtype, rng=3)
    W = net.weights[0].astype(float)
    relu_family = {"relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "mish", "hardswish", "relu6"}
    rule = "he" if name in relu_family else "lecun" if name == "selu" else "glorot"
    variance = {"he": 2 / 400, "lecun": 1 / 400, "glorot": 2 / 700}[rule]
    fourth_moment = 1.8 if rule == "glorot" else 3.0  # over the square of the variance: uniform, normal
    assert abs(W.mean()) < 5 * np.sqrt(variance / W.size)
    np.testing.assert_allclose(W.var(), variance, rtol=0.02)
    np.testing.assert_allclose((W**4).mean() / W.var() ** 2, fourth_moment, rtol=0.05)
    if rule == "glorot":
        assert np.abs(W).max() <= np.sqrt(6 / 700) * (1 + 1e-7)
    else:
        assert np.abs(W).max() > 3 * np.sqrt(variance)
    assert all(np.array_equal(b, np.zeros_like(b)) for b in net.biases)
    assert np.abs(net.weights[1]).max() <= np.sqrt(6 / 302) * (1 + 1e-7)  # the identity output is of the Glorot family


def test_the_same_seed_gives_the_same_weights():
    first = Network([3, 4, 2], rng=7).params
    assert np.array_equal(first, Network([3, 4, 2], rng=7).params)
    assert np.array_equal(first, Network([3, 4, 2], rng=np.int32(7)).params)
    assert np.array_equal(first, Network([3, 4, 2], rng=np.random.default_rng(7)).params)
    assert np.array_equal(first.astype(np.float32), Network([3, 4, 2], dtype="float32", rng=7).params)
    assert not np.array_equal(first, Network([3, 4, 2], rng=8).params)
    assert not np.array_equal(Network([3, 4, 2]).params, Network([3, 4, 2]).params)
    generator = np.random.default_rng(7)
    assert np.array_equal(first, Network([3, 4, 2], rng=generator).params)
    assert not np.array_equal(first, Network([3, 4, 2], rng=generator).params)  # it has moved on


def test_numpys_global_state_is_neither_read_nor_changed():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    Network([3, 4, 2], rng=0)
    Network([3, 4, 2])
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


# Parameters ----------------------------------------------------------------------------------------------------------


def test_layout_of_params():
    net = Network([3, 4, 2], rng=0)
    net.params = np.arange(26.0)
    assert np.array_equal(net.weights[0], np.arange(12.0).reshape(4, 3))
    assert np.array_equal(net.biases[0], np.arange(12.0, 16.0))
    assert np.array_equal(net.weights[1], np.arange(16.0, 24.0).reshape(2, 4))
    assert np.array_equal(net.biases[1], [24.0, 25.0])


def test_assigning_copies_the_values_in():
    net = Network([3, 4, 2], rng=0)
    own, W = net.params, net.weights[0]
    theta = np.arange(26.0)
    net.params = theta
    assert np.shares_memory(net.params, own)
    theta[0] = 99
    assert own[0] == 0
    assert W[0, 1] == 1
    net.params[1] = 5
    assert W[0, 1] == 5
    net.params += 1
    assert np.shares_memory(net.params, own)
    assert W[0, 1] == 6
    net.params = net.params[::-1]  # overlaps itself
    assert np.array_equal(own[::-1][2:], np.arange(26.0)[2:] + 1)
    net.params = list(range(26))
    assert W[0, 1] == 1


def test_weights_and_biases_are_views():
    net = Network([3, 4, 2], activations="tanh", rng=0)
    before = net.loss(X, Y)
    for i in range(2):
        assert np.shares_memory(net.weights[i], net.params)
        assert np.shares_memory(net.biases[i], net.params)
    net.biases[1][...] += 10
    assert net.params[-1] == 10
    assert net.loss(X, Y) != before
    np.testing.assert_allclose(net.loss(X, Y), reference(net, X, Y)[1], rtol=1e-13)


def test_unflatten():
    net = Network([3, 4, 2], rng=0)
    for vector in (net.value_and_grad(X, Y)[1], np.arange(26), np.arange(52.0)[::2], np.arange(26.0)[::-1]):
        layers = net.unflatten(vector)
        assert [(W.shape, b.shape) for W, b in layers] == [((4, 3), (4,)), ((2, 4), (2,))]
        assert all(np.shares_memory(part, vector) for layer in layers for part in layer)
        assert np.array_equal(np.concatenate([part.ravel() for layer in layers for part in layer]), vector)
    vector = np.zeros(26)
    net.unflatten(vector)[1][0][1, 2] = 5
    assert vector[16 + 4 + 2] == 5


def test_params_given_replace_the_networks_own():
    net = Network([3, 4, 2], activations="tanh", rng=0)
    other = Network([3, 4, 2], activations="tanh", rng=1)
    loss, grad = net.value_and_grad(X, Y, params=other.params)
    expected = other.value_and_grad(X, Y)
    assert loss == expected[0] == net.loss(X, Y, params=other.params)
    assert np.array_equal(grad, expected[1])
    assert np.array_equal(net.forward(X, params=other.params), other.forward(X))
    layers = net.layer_gradients(X, Y, params=other.params)
    assert np.array_equal(layers.grad_h[0], other.layer_gradients(X, Y).grad_h[0])
    assert np.array_equal(net.params, Network([3, 4, 2], activations="tanh", rng=0).params)


def test_weights_of_a_wide_layer_are_those_of_this_call():
    """Panels that an earlier call has packed are not used with new weights."""
    net = Network([3, 20, 2], activations="tanh", rng=0)
    other = Network([3, 20, 2], activations="tanh", rng=1)
    expected = other.value_and_grad(X, Y)
    net.value_and_grad(X, Y)
    net.params = other.params
    loss, grad = net.value_and_grad(X, Y)
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    assert np.array_equal(net.forward(X), other.forward(X))


# repr, copy, pickle --------------------------------------------------------------------------------------------------


def same_shape(a, b):
    names = ("sizes", "dtype", "activations", "output", "loss_name")
    return repr(a) == repr(b) and all(getattr(a, name) == getattr(b, name) for name in names)


@pytest.mark.parametrize("net", SPECIMENS, ids=repr)
def test_repr_evaluates_to_a_network_of_the_same_shape(net):
    again = eval(repr(net), {"Network": Network})
    assert same_shape(net, again)
    x, y = data_for(net)
    again.params = net.params
    assert net.value_and_grad(x, y)[0] == again.value_and_grad(x, y)[0]
    assert np.array_equal(net.value_and_grad(x, y)[1], again.value_and_grad(x, y)[1])
    assert np.array_equal(net.forward(x), again.forward(x))


HOW = [
    copy.copy,
    copy.deepcopy,
    lambda net: copy.deepcopy([net, net])[1],
    *(lambda net, p=p: pickle.loads(pickle.dumps(net, p)) for p in range(2, 6)),
]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("net", SPECIMENS, ids=repr)
def test_copies_have_equal_values_and_memory_of_their_own(net, how):
    other = how(net)
    assert type(other) is Network
    assert same_shape(net, other)
    assert np.array_equal(net.params, other.params)
    assert not np.shares_memory(net.params, other.params)
    assert np.shares_memory(other.weights[0], other.params)
    x, y = data_for(net)
    before = net.params.tobytes()
    assert net.value_and_grad(x, y)[0] == other.value_and_grad(x, y)[0]
    assert np.array_equal(net.forward(x), other.forward(x))
    other.params[:] = 0
    assert net.params.tobytes() == before


def test_copies_in_a_list_stay_one_network():
    net = Network([3, 1], rng=0)
    first, second = copy.deepcopy([net, net])
    assert first is second


def test_a_pickle_goes_to_another_process(tmp_path):
    net = SPECIMENS[2]
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(net))
    code = f"""
        import pickle
        from pathlib import Path
        print(pickle.loads(Path({str(tmp_path / "net.pickle")!r}).read_bytes()).params.tobytes().hex())
    """
    assert run(code).strip() == net.params.tobytes().hex()


# forward's links -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("loss", "output", "link"),
    [("cross_entropy", "identity", lambda a: special.softmax(a, axis=1)),
     ("cross_entropy", "softmax", lambda a: special.softmax(a, axis=1)),
     ("binary_cross_entropy", "identity", special.expit), ("binary_cross_entropy", "sigmoid", special.expit),
     ("poisson", "identity", np.exp), ("poisson", "exp", np.exp), ("hinge", "identity", lambda a: a),
     ("squared_error", "identity", lambda a: a), ("squared_error", "exp", np.exp), ("huber", "sigmoid", special.expit)],
)  # fmt: skip
def test_links(loss, output, link, dtype):
    net = Network([3, 20, 4], activations="tanh", loss=loss, output=output, dtype=dtype, rng=0)
    h = np.tanh(X @ net.weights[0].astype(float).T + net.biases[0])
    a = h @ net.weights[1].astype(float).T + net.biases[1]
    y_hat = net.forward(X)
    tolerance = 2e-6 if dtype == "float32" else 1e-14
    assert y_hat.dtype == dtype
    np.testing.assert_allclose(y_hat, link(a), rtol=tolerance, atol=tolerance)
    y = np.arange(30) % 4 if loss == "cross_entropy" else np.ones((30, 4))
    layers = net.layer_gradients(X, y)
    assert np.array_equal(layers.h[-1], y_hat)
    np.testing.assert_allclose(layers.a[-1], a, rtol=tolerance, atol=tolerance)
    assert layers.loss == net.loss(X, y)


def test_softmax_far_out():
    net = Network([1, 3], loss="cross_entropy", rng=0)
    net.params = [1e4, 0.0, -1e4, 0.0, 0.0, 0.0]
    assert np.array_equal(net.forward([[1.0], [0.0], [-1.0]]), [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0, 1]])


# objective -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", SPECIMENS, ids=repr)
def test_objective_is_value_and_grad(net):
    x, y = data_for(net)
    fun = net.objective(x, y)
    theta = net.params.astype(float) * 1.25
    before = net.params.tobytes()
    loss, grad = fun(theta)
    expected, grad_expected = net.value_and_grad(x, y, params=theta)
    assert type(loss) is float
    assert grad.dtype == np.float64
    assert loss == expected == fun.value(theta)
    assert np.array_equal(grad, grad_expected.astype(float))
    assert np.array_equal(fun.grad(theta), grad)
    assert net.params.tobytes() == before
    assert fun.n_free == net.n_params


def test_each_gradient_is_a_fresh_array():
    fun = Network([3, 4, 2], activations="tanh", rng=0).objective(X, Y)
    theta = np.linspace(-1, 1, 26)
    first = fun(theta)[1]
    kept = first.copy()
    second, third = fun(theta)[1], fun.grad(theta)
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(second, third)
    first[:] = 0
    second[:] = 0
    assert np.array_equal(third, kept)
    assert np.array_equal(fun(theta)[1], kept)


def test_a_theta_changed_in_place_is_seen():
    fun = Network([3, 4, 2], activations="tanh", rng=0).objective(X, Y)
    theta = np.linspace(-1, 1, 26)
    fun(theta)
    theta[3] += 0.5
    fresh = Network([3, 4, 2], activations="tanh", rng=0).objective(X, Y)(theta.copy())
    assert fun.value(theta) == fresh[0]
    assert np.array_equal(fun.grad(theta), fresh[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_samples", [1, 30])
def test_l2_is_of_the_weights_alone_and_not_divided(n_samples, dtype):
    net = Network([3, 4, 2], activations="tanh", dtype=dtype, rng=0)
    x, y = X[:n_samples], Y[:n_samples]
    theta = np.linspace(-1, 1, 26).astype(dtype)
    is_weight = np.r_[np.ones(12), np.zeros(4), np.ones(8), np.zeros(2)]
    W = theta.astype(float) * is_weight
    loss, grad = net.objective(x, y, l2=0.3)(theta)
    plain, plain_grad = net.objective(x, y)(theta)
    np.testing.assert_allclose(loss, plain + 0.15 * (W**2).sum(), rtol=1e-15)
    np.testing.assert_allclose(grad, plain_grad + 0.3 * W, rtol=1e-15, atol=1e-16)
    assert np.array_equal(grad[is_weight == 0], plain_grad[is_weight == 0])
    assert net.objective(x, y, l2=0)(theta)[0] == plain


def test_free():
    net = Network([3, 4, 2], activations="tanh", rng=0)
    free = np.zeros(26, bool)
    free[[1, 5, 12, 17, 25]] = True
    fun = net.objective(X, Y, free=free, l2=0.1)
    assert fun.n_free == 5
    whole = net.objective(X, Y, l2=0.1)
    part = np.array([0.1, -0.2, 0.3, -0.4, 0.5])
    theta = net.params.copy()
    theta[free] = part
    loss, grad = fun(part)
    expected, grad_expected = whole(theta)
    assert loss == expected
    assert grad.shape == (5,)
    assert np.array_equal(grad, grad_expected[free])
    net.params[0] += 1  # the others keep the network's values: those it has now
    theta[0] += 1
    assert fun.value(part) == whole.value(theta) != loss
    free[:] = False  # the mask was copied
    assert fun.n_free == 5
    assert net.objective(X, Y, free=[*free.tolist()[:-1], True]).n_free == 1


def test_theta_in_float64_for_a_float32_network():
    net = Network([3, 4, 2], activations="tanh", dtype="float32", rng=0)
    theta = np.linspace(-1, 1, 26)
    fun = net.objective(X, Y, l2=0.1)
    loss, grad = fun(theta)
    rounded, grad_rounded = fun(theta.astype(np.float32))
    assert loss == rounded
    assert grad.dtype == np.float64
    assert np.array_equal(grad, grad_rounded)
    fresh = net.objective(X, Y, l2=0.1)(theta.astype(np.float32))
    assert loss == fresh[0]
    assert np.array_equal(grad, fresh[1])


def test_objective_with_sample_weights():
    net = Network([3, 4, 2], activations="tanh", rng=0)
    weight = RNG.uniform(0, 1, (30, 2))
    theta = net.params * 2
    for w in (weight, weight[:, 0]):
        loss, grad = net.objective(X, Y, sample_weight=w)(theta)
        expected = net.value_and_grad(X, Y, sample_weight=w, params=theta)
        assert loss == expected[0]
        assert np.array_equal(grad, expected[1])


def test_l2_beyond_overflow_is_inf_without_a_warning():
    fun = Network([3, 4, 2], activations="tanh", rng=0).objective(X, Y, l2=10.0)
    assert fun.value(np.full(26, 1e200)) == np.inf
    assert fun.value(np.full(26, 1e308)) == np.inf


def test_minimize_with_jac_true():
    net = Network([3, 5, 2], activations="tanh", rng=0)
    fun = net.objective(X, Y, l2=1e-3)
    done = optimize.minimize(fun, net.params, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 10000})
    assert done.fun < 0.5 * fun.value(net.params)
    assert np.abs(fun.grad(done.x)).max() < 1e-3
    assert done.fun == fun.value(done.x)
    apart = optimize.minimize(fun.value, net.params, jac=fun.grad, method="L-BFGS-B",
                              options={"maxiter": 3000, "maxfun": 10000})  # fmt: skip
    assert apart.fun == done.fun
    assert np.array_equal(apart.x, done.x)


def test_minimize_in_float32_and_on_a_part():
    net = Network([3, 5, 2], activations="tanh", dtype="float32", rng=0)
    free = np.arange(net.n_params) >= 20
    fun = net.objective(X, Y, free=free)
    done = optimize.minimize(fun, net.params[free], jac=True, method="L-BFGS-B")
    x, residues, *_ = np.linalg.lstsq(np.c_[net.layer_gradients(X, Y).h[1], np.ones(30)], Y, rcond=None)
    assert x.shape == (6, 2)
    np.testing.assert_allclose(done.fun, residues.sum() / 60, rtol=1e-4)  # the last layer alone is least squares


def test_check_grad_of_scipy():
    net = Network([3, 5, 2], activations="tanh", rng=0)
    fun = net.objective(X, Y, l2=0.1)
    error = optimize.check_grad(fun.value, fun.grad, net.params)
    assert error < 1e-6 * np.linalg.norm(fun.grad(net.params))


def test_an_objective_called_from_many_threads():
    net = Network([3, 20, 2], activations="tanh", rng=0)
    fun = net.objective(X, Y, l2=0.1)
    thetas = [net.params * (1 + k / 10) for k in range(8)]
    expected = [net.objective(X, Y, l2=0.1)(theta) for theta in thetas]
    kinds = [fun, lambda theta: (fun.value(theta), None), lambda theta: (None, fun.grad(theta))]

    def call(k):
        return kinds[k // 8 % 3](thetas[k % 8])

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, range(960)))
    for k, (loss, grad) in enumerate(results):
        assert loss is None or loss == expected[k % 8][0]
        assert grad is None or np.array_equal(grad, expected[k % 8][1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_shared_by_8_threads(dtype):
    net = Network([3, 20, 17, 2], activations="gelu", dtype=dtype, rng=0)
    batches = [(np.resize(X, (n, 3)), np.resize(Y, (n, 2))) for n in (1, 7, 64, 300, 1025, 2500)]
    expected = [Network([3, 20, 17, 2], activations="gelu", dtype=dtype, rng=0).value_and_grad(*b) for b in batches]
    outputs = [net.forward(x) for x, _ in batches]

    def call(k):
        x, y = batches[k % len(batches)]
        return net.value_and_grad(x, y, n_threads=1 + k % 3), net.forward(x)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, range(240)))
    for k, ((loss, grad), y_hat) in enumerate(results):
        assert loss == expected[k % len(batches)][0]
        assert np.array_equal(grad, expected[k % len(batches)][1])
        assert np.array_equal(y_hat, outputs[k % len(batches)])


# Signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_during_a_long_call_leaves_params_and_the_next_call_right(n_threads):
    code = f"""
        import signal, threading
        import numpy as np
        from backprop import Network

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for background jobs
        net = Network([64, 512, 512, 1], activations="tanh", rng=0)
        x, y = np.random.default_rng(0).standard_normal((25_000, 64)), np.zeros((25_000, 1))
        expected = net.value_and_grad(x[:100], y[:100])
        out = np.zeros(net.n_params)
        whole = net.value_and_grad(x, y, n_threads={n_threads})[1]
        before = net.params.tobytes()
        threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
        try:
            net.value_and_grad(x, y, out=out, n_threads={n_threads})
        except KeyboardInterrupt:
            print("interrupted")
        assert not np.array_equal(out, whole)  # the call did not come to its end first
        assert net.params.tobytes() == before
        loss, grad = net.value_and_grad(x[:100], y[:100], n_threads={n_threads})
        assert loss == expected[0]
        assert np.array_equal(grad, expected[1])
        print("right")
    """
    assert run(code).split() == ["interrupted", "right"]


def test_importing_and_calling_keeps_subnormals():
    code = """
        import numpy as np
        import backprop
        def kept():
            tiny, quarter = np.array([1e-40, 2e-38], np.float32), np.array([1.0, 0.25], np.float32)
            product = tiny * quarter
            assert product.tolist() == [np.float32(1e-40), np.float32(5e-39)] and (product > 0).all(), product
            assert np.float64(1e-310) * 1.0 == 1e-310
        kept()
        for dtype in ("float32", "float64"):
            for name in backprop.activations.ACTIVATIONS:
                net = backprop.Network([2, 9, 1], activations=name, dtype=dtype, rng=0)
                for n_threads in (1, 2):
                    net.value_and_grad(np.ones((3000, 2)), np.ones((3000, 1)), n_threads=n_threads)
                net.forward(np.ones((3, 2)))
                kept()
        net = backprop.Network([1, 1], dtype="float32", rng=0)
        net.params = [1.0, 0.0]
        assert net.forward([[1e-40]])[0, 0] == np.float32(1e-40) > 0
        print("kept")
    """
    assert run(code) == "kept\n"


# The package ---------------------------------------------------------------------------------------------------------


def test_public_names():
    for name in backprop.__all__:
        assert getattr(backprop, name) is not None
    assert {"Network", "hidden_gradient", "preactivation_gradient", "set_num_threads", "get_num_threads", "num_threads",
            "show_config"} <= set(backprop.__all__)  # fmt: skip


@pytest.mark.parametrize(
    ("enum", "table", "others"),
    [
        ("LossCode", LOSSES, {"QUANTILES": QUANTILES.code}),
        ("ActivationCode", ACTIVATIONS, {"SOFTMAX": activations.SOFTMAX_CODE, "CUSTOM": custom.CUSTOM_CODE}),
    ],
)
def test_the_codes_are_those_of_the_kernels(enum, table, others):
    """Each number once, in any order of the table: a new row takes the next free one."""
    source = (ROOT / "src" / "backprop" / "kernels" / "table.pxd").read_text(encoding="utf-8")
    _, _, text = source.partition(f"cdef enum {enum}:")
    of_kernels = {
        name: int(code) for name, code in re.findall(r"^ +(\w+) = (\d+)", text.partition("\n\n")[0], re.MULTILINE)
    }
    assert of_kernels == {row.name.upper(): row.code for row in table.values()} | others
    assert sorted(of_kernels.values()) == list(range(len(of_kernels)))


def test_show_config(capsys):
    backprop.show_config()
    shown = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert shown["backprop"].strip() == backprop.__version__
    assert shown["numpy"].strip() == np.__version__
    assert shown["simd"].strip() in shown["simd_supported"].split()
    assert int(shown["threads"]) == backprop.get_num_threads()


def test_the_repr_has_plain_names():
    net = Network([2, 3], loss=np.str_("cross_entropy"), output=np.str_("softmax"))
    assert "np." not in repr(net)
    assert eval(repr(net)).output == "softmax"


@pytest.mark.parametrize("dtype", ["f8,,f4", {"names": ["a"]}, "float16", 3])
def test_what_is_no_dtype(dtype):
    with pytest.raises(ValueError, match=r"^dtype: expected "):
        Network([1, 1], dtype=dtype)


def test_sizes_have_an_order():
    with pytest.raises(TypeError, match=r"^sizes: expected a sequence"):
        Network({3, 1})
