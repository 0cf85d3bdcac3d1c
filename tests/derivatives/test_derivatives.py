"""Every derivative of the second part: by value against torch.func and JAX, by identities, bit for bit, and refused.

Each test runs over a table of the calls, `CALLS` in call_peers.py: its entries know how a call is made, which
arguments it has, and whether its results go by row.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
from activation_facts import SECOND_LIMITS
from allocations import peak_of_a_call
from call_peers import (
    CALLS,
    FIRST_PART,
    JAX_ACTIVATIONS,
    JaxPeer,
    TorchPeer,
    arrays,
    random_data,
    rows_of,
)
from problems import (
    ACTIVATION_NAMES,
    LAYOUTS,
    LOSS_NAMES,
    OVERFLOWS,
    Y_HAT_LOSSES,
    same_bits,
    with_layout,
)
from refusals import BAD, N_IN, N_OUT, N, P, nan_pattern, plain_data, takes
from required_peers import require_peer
from scipy import optimize
from suites import shortened

from backprop import Network
from backprop.activations import ACTIVATIONS

# torch.func compiles a decomposition with torch.jit.script at its first forward-mode derivative
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

against_peers = pytest.mark.long("compared with PyTorch or JAX, which the short suite does without")

EVERY = {**CALLS, **FIRST_PART}
NAMES = list(CALLS)
BATCHES = [1, 2, 3, 63, 1000]
PER_BATCH = 10
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
BY_ROW = [name for name, call in CALLS.items() if call.by_row]
SUMS = [name for name, call in CALLS.items() if not call.by_row and "residuals" not in name]
WITH_OUT = [name for name, call in CALLS.items() if call.out]
WITH_Y = [name for name, call in CALLS.items() if call.has_y]
WITH_PARAMS = [name for name, call in CALLS.items() if not call.at_theta]
SQUARED_ERROR_ONLY = [name for name, call in CALLS.items() if call.losses == ("squared_error",)]
MATRICES = {"jacobian": 4000, "hessian": 150, "residuals.jac": 400, "normal_equations": 400}  # the most parameters


@pytest.fixture(scope="module")
def torch():
    module = require_peer("torch")
    module.set_num_threads(1)
    return module


@pytest.fixture(scope="module")
def jax():
    module = require_peer("jax")
    before = module.config.jax_enable_x64
    module.config.update("jax_enable_x64", True)
    module.config.update("jax_disable_most_optimizations", True)  # compiles in less time
    yield module
    module.config.update("jax_disable_most_optimizations", False)
    module.config.update("jax_enable_x64", before)


def error(value, expected):
    """||value - expected|| / ||expected||, with at least 1e-3 as divisor, for results near 0."""
    value, expected = np.asarray(value, float), np.asarray(expected, float)
    assert value.shape == expected.shape
    return np.linalg.norm((value - expected).ravel()) / max(np.linalg.norm(expected.ravel()), 1e-3)


def assert_near(results, expected, tolerance, what=""):
    results, expected = arrays(results), arrays(expected)
    assert len(results) == len(expected)
    for result, right in zip(results, expected, strict=True):
        assert np.isfinite(right).all(), what
        assert error(result, right) <= tolerance, what


def assert_same_bits(results, expected, what=""):
    results, expected = arrays(results), arrays(expected)
    assert len(results) == len(expected)
    for result, right in zip(results, expected, strict=True):
        assert same_bits(result, right), what


def generator(*key):
    """The random numbers of a test; a name is replaced by its place in the tables."""
    places = {name: place for place, name in enumerate([*EVERY, *ACTIVATION_NAMES, *LOSS_NAMES, *LAYOUTS])}
    return np.random.default_rng([places.get(part, part) for part in key])


def run(name, data, **keywords):
    return EVERY[name].run(data.problem.net, data, **keywords)


def draw(rng, name, n_samples, **fixed):
    """Data for a call: 1 to 4 layers of odd sizes, any activations, loss, weights and layout of the inputs."""
    most = min(MATRICES.get(name, 5000), 20000 // n_samples + 60)
    while True:
        sizes = np.exp(rng.uniform(0, np.log(90), rng.integers(2, 6))).round().astype(int)
        if ((sizes[:-1] + 1) * sizes[1:]).sum() <= most:
            break
    fixed = {"activations": ACTIVATION_NAMES, "layout": str(rng.choice(LAYOUTS)), **fixed}
    limit = float(rng.choice([2.0, 8.0]))
    return random_data(rng, sizes.tolist(), EVERY[name], n_samples=n_samples, limit=limit, **fixed)


def as_float64(problem):
    """The same network in float64, at the same parameters."""
    net, last = problem.net, problem.output
    wide = Network(net.sizes, activations=problem.hidden, output=last, loss=problem.loss, dtype="float64", rng=0)
    wide.params = net.params
    return wide


# By value ------------------------------------------------------------------------------------------------------------


@against_peers
@pytest.mark.parametrize("n_samples", BATCHES)
@pytest.mark.parametrize("name", EVERY)
def test_random_networks_against_torch(torch, name, n_samples):
    rng = generator(1, name, n_samples)
    for _ in range(PER_BATCH):
        data = draw(rng, name, n_samples)
        expected = getattr(TorchPeer(torch, data), EVERY[name].peer)()
        assert_near(run(name, data), expected, TOLERANCE["float64"], data.problem.net)


@against_peers
@pytest.mark.parametrize("n_samples", BATCHES)
@pytest.mark.parametrize("name", EVERY)
def test_random_networks_against_jax(jax, name, n_samples):
    rng = generator(2, name, n_samples)
    for _ in range(PER_BATCH):  # of one shape, since JAX compiles for each
        data = random_data(rng, [3, 5, 4, 2], EVERY[name], activations=JAX_ACTIVATIONS, n_samples=n_samples)
        expected = getattr(JaxPeer(jax, data), EVERY[name].peer)()
        assert_near(run(name, data), expected, TOLERANCE["float64"], data.problem.net)


@against_peers
@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_every_activation_with_every_loss(torch, activation, loss):
    rng = generator(4, activation, loss)
    output = activation if loss in Y_HAT_LOSSES else "identity"
    for name in ("jvp", "input_gradient", "per_sample_gradient_norms", "hvp", "gauss_newton_vp"):
        data = random_data(
            rng, [4, 9, 7, 3], CALLS[name], activations=[activation], output=output, loss=loss, n_samples=13
        )
        assert_near(run(name, data), getattr(TorchPeer(torch, data), name)(), TOLERANCE["float64"], name)


@against_peers
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_sobolev_with_every_activation(torch, activation):
    rng = generator(5, activation)
    for sizes in ([3, 2], [3, 8, 2], [2, 9, 5, 1]):
        data = random_data(
            rng, sizes, CALLS["sobolev_value_and_grad"], activations=[activation], output=activation, n_samples=17
        )
        expected = TorchPeer(torch, data).sobolev_value_and_grad()
        assert_near(run("sobolev_value_and_grad", data), expected, TOLERANCE["float64"], sizes)


@against_peers
@pytest.mark.parametrize("sizes", [[520, 521, 2], [4, 700, 3], [3, 130, 260, 1]], ids=str)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in MATRICES])
def test_wide_layers(torch, name, sizes):
    data = random_data(generator(6, name, *sizes), sizes, CALLS[name], activations=["tanh", "silu"], n_samples=21)
    assert_near(run(name, data), getattr(TorchPeer(torch, data), CALLS[name].peer)(), TOLERANCE["float64"])


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_near_float64(name):
    """The same parameters, rounded to float32, in networks of both dtypes."""
    rng = generator(7, name)
    for k in range(12):
        narrow = draw(rng, name, [1, 3, 63, 200][k % 4], dtype="float32", layout="plain")
        expected = CALLS[name].run(as_float64(narrow.problem), narrow)
        results = run(name, narrow)
        assert_near(results, expected, TOLERANCE["float32"], narrow.problem.net)
        if not CALLS[name].at_theta:
            for result in arrays(results):
                assert result.dtype == (np.float32 if result.ndim else np.float64)


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_any_layout_gives_the_same_bits(name, layout):
    data = random_data(generator(8, name), [5, 7, 4, 3], CALLS[name], activations=["gelu"], n_samples=37)
    changed = {}
    for argument in ("x", *CALLS[name].arguments):
        value = getattr(data, argument)
        if isinstance(value, np.ndarray):
            changed[argument] = with_layout(value, layout)
    assert_same_bits(run(name, replace(data, **changed)), run(name, data))


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", "u1", "longdouble", "list"])
@pytest.mark.parametrize("name", NAMES)
def test_any_dtype_is_converted(name, dtype):
    """Values that every dtype holds give the same bits in each."""
    rng = generator(9, name)
    data = random_data(
        rng, [5, 7, 4, 3], CALLS[name], activations=["tanh"], n_samples=9, loss="squared_error", weight=None
    )
    whole, converted = {}, {}
    for argument in ("x", *CALLS[name].arguments):
        value = getattr(data, argument)
        if isinstance(value, np.ndarray):
            whole[argument] = rng.integers(0, 4, value.shape).astype(float)
            integers = whole[argument]
            converted[argument] = integers.tolist() if dtype == "list" else integers.astype(dtype)
    assert_same_bits(run(name, replace(data, **converted)), run(name, replace(data, **whole)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", WITH_OUT)
def test_out_is_the_result(name, dtype):
    rng = generator(10, name)
    for n_samples in (1, 5, 130):
        data = draw(rng, name, n_samples, dtype=dtype)
        out = np.full(CALLS[name].out_shape(data), np.nan, dtype)
        result = run(name, data, out=out)
        assert (result[1] if isinstance(result, tuple) else result) is out
        assert_same_bits(result, run(name, data))


@pytest.mark.parametrize("name", WITH_PARAMS)
def test_params_given_are_those_of_the_call(name):
    rng = generator(11, name)
    data = draw(rng, name, 12)
    net = data.problem.net
    theta, before = rng.normal(0, 0.3, net.n_params), net.params.copy()
    result = run(name, data, params=theta)
    assert same_bits(net.params, before)
    other = copy.deepcopy(net)
    other.params = theta
    assert_same_bits(result, CALLS[name].run(other, data))
    assert_same_bits(run(name, data, params=list(theta)), result)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_fresh_and_inputs_untouched(name):
    data = draw(generator(12, name), name, 9, layout="plain")
    inputs = [value for value in vars(data).values() if isinstance(value, np.ndarray)] + [data.problem.net.params]
    before = [value.tobytes() for value in inputs]
    first = arrays(run(name, data))
    kept = [result.copy() for result in first]
    assert_same_bits(run(name, data), kept)
    for result, value in zip(first, kept, strict=True):
        assert same_bits(result, value)
        assert not any(np.shares_memory(result, other) for other in inputs)
    assert [value.tobytes() for value in inputs] == before


def test_one_output_needs_no_axis_of_outputs():
    for name in WITH_Y:
        data = random_data(generator(13, name), [3, 4, 1], CALLS[name], activations=["tanh"], loss="squared_error",
                           weight=None)  # fmt: skip
        grad_x = data.grad_x.reshape(7, 3)
        expected = run(name, replace(data, grad_x=grad_x[:, None]))
        assert_same_bits(run(name, replace(data, y=data.y[:, 0], grad_x=grad_x)), expected, name)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", WITH_OUT)
def test_with_out_nothing_is_allocated(name, weighted):
    if weighted and not CALLS[name].has_y:
        pytest.skip("takes no weights")
    assert peak_with_out(name, 20000, np.arange(20000) % 3 + 1.0 if weighted else None) < 8192


@pytest.mark.parametrize("name", [name for name in WITH_OUT if name in WITH_Y])
def test_memory_does_not_grow_with_rows_of_weight_zero(name):
    few, many = (peak_with_out(name, n_samples, np.arange(n_samples) % 3) for n_samples in (20000, 60000))
    assert many <= few + 8192


def peak_with_out(name, n_samples, weight):
    """What a call allocates if it is given an out of the right size."""
    data = random_data(generator(21, name), [3, 6, 2], CALLS[name], activations=["tanh"], n_samples=n_samples,
                       loss="squared_error", weight=None)  # fmt: skip
    keywords = {"out": np.zeros(CALLS[name].out_shape(data))} | (
        {} if weight is None else {"sample_weight": weight * 1.0}
    )
    return peak_of_a_call(lambda: run(name, data, **keywords))


# Weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sample", "entry"])
@pytest.mark.parametrize("name", WITH_Y)
def test_rows_of_weight_zero_are_left_out(name, kind):
    """Whatever x and y hold there: results per sample are 0, and all others are those without the rows."""
    if kind not in CALLS[name].weights:
        pytest.skip("takes weights by sample alone")
    rng = generator(14, name)
    for loss in CALLS[name].losses:
        if kind == "entry" and loss == "cross_entropy":
            continue
        data = random_data(rng, [3, 8, 2], CALLS[name], activations=["silu"], n_samples=80, loss=loss, weight=kind)
        weight = np.array(data.problem.weight)
        kept = weight > 0 if kind == "sample" else (weight > 0).any(axis=1)
        kept[[0, 17, 79]] = False
        weight[~kept] = 0
        x = np.array(data.x)
        x[~kept] = [[np.nan, np.inf, 1.0]]
        data = replace(data, x=x, problem=replace(data.problem, weight=weight))
        results, reduced = arrays(run(name, data)), arrays(run(name, rows_of(data, kept)))
        for place, (result, expected) in enumerate(zip(results, reduced, strict=True)):
            if place in CALLS[name].by_row:
                assert not result[~kept].any()
                assert same_bits(result[kept], expected)
            elif "residuals" in name:
                by_row = result.reshape(len(kept), -1)
                assert not by_row[~kept].any()
                assert error(by_row[kept], expected.reshape(kept.sum(), -1)) <= 1e-13
            else:
                assert error(result, expected) <= 1e-13, loss


@pytest.mark.parametrize("name", WITH_Y)
def test_weights_by_sample_are_weights_by_output_that_agree(name):
    if "entry" not in CALLS[name].weights:
        pytest.skip("takes weights by sample alone")
    rng = generator(15, name)
    for loss in set(CALLS[name].losses) - {"cross_entropy"}:
        data = random_data(rng, [3, 8, 3], CALLS[name], activations=["silu"], n_samples=33, loss=loss, weight="sample")
        by_output = np.repeat(np.asarray(data.problem.weight)[:, None], 3, axis=1)
        same = replace(data, problem=replace(data.problem, weight=by_output))
        assert_near(run(name, same), run(name, data), 1e-13, loss)


@pytest.mark.parametrize("exponent", [2, 120, -120])
@pytest.mark.parametrize("name", WITH_Y)
def test_the_scale_of_the_weights(name, exponent):
    """A common factor of the weights does not change means; it scales sums and results per sample."""
    data = random_data(generator(16, name), [3, 5, 2], CALLS[name], activations=["tanh"], n_samples=20,
                       loss="squared_error", weight="sample")  # fmt: skip
    scale = 2.0**exponent
    scaled = replace(data, problem=replace(data.problem, weight=scale * np.asarray(data.problem.weight)))
    scaled = replace(scaled, max_norm=scale * data.max_norm)
    power = {"hvp": 0, "gauss_newton_vp": 0, "hessian": 0, "objective.hessp": 0, "sobolev_value_and_grad": 0,
             "residuals.fun": 0.5, "residuals.jac": 0.5}.get(name, 1)  # fmt: skip
    for result, expected in zip(arrays(run(name, scaled)), arrays(run(name, data)), strict=True):
        assert error(result / scale**power, expected) <= 1e-13


@pytest.mark.parametrize("name", NAMES)
def test_nan_in_x_is_not_hidden(name):
    data = random_data(generator(17, name), [3, 8, 4, 2], CALLS[name], activations=["relu"], output="identity",
                       n_samples=70, weight=None)  # fmt: skip
    x = np.array(data.x)
    x[40, 1] = np.nan
    others = np.arange(70) != 40
    clean, results = arrays(run(name, data)), arrays(run(name, replace(data, x=x)))
    for place, (result, expected) in enumerate(zip(results, clean, strict=True)):
        if place in CALLS[name].by_row:
            assert np.isnan(result[40]).any()
            assert same_bits(result[others], expected[others])
        else:
            assert np.isnan(result).any()


# Identities ----------------------------------------------------------------------------------------------------------


def identity_data(key, n_samples=50, sizes=(4, 9, 6, 3), **fixed):
    """Data for every call, with a loss that it takes and smooth activations."""
    fixed = {"loss": "squared_error", "weight": "sample", "output": "tanh", **fixed}
    smooth = ["tanh", "gelu", "softplus", "sin", "mish"]
    return random_data(generator(18, key), list(sizes), CALLS["hvp"], activations=smooth, n_samples=n_samples, **fixed)


@pytest.mark.parametrize("call", ["hvp", "gauss_newton_vp"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_second_derivatives_are_symmetric(loss, call):
    data = identity_data(1, loss=loss)
    net, u, v = data.problem.net, data.v, np.random.default_rng(0).normal(size=data.v.shape)
    H_u, H_v = (getattr(net, call)(data.x, data.y, direction, **data.keywords) for direction in (u, v))
    assert abs(v @ H_u - u @ H_v) <= 1e-13 * np.linalg.norm(v) * np.linalg.norm(H_u)
    both = getattr(net, call)(data.x, data.y, 2 * u - v, **data.keywords)
    assert_near(both, 2 * H_u - H_v, 1e-12)
    if call == "gauss_newton_vp":
        assert u @ H_u >= -1e-14


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_jvp_vjp_and_the_jacobians_are_of_one_matrix(loss):
    data = identity_data(2, loss=loss)
    net, x = data.problem.net, data.x_filled
    J, J_x = net.jacobian(x), net.input_jacobian(x)
    J_v, (c_J, c_J_x) = net.jvp(x, data.v), net.vjp(x, data.cotangent)
    assert (J_v * data.cotangent).sum() == pytest.approx(data.v @ c_J, rel=1e-12, abs=1e-14)
    assert_near(J_v, J @ data.v, 1e-13)
    assert_near(c_J, np.einsum("sj,sjp->p", data.cotangent, J), 1e-13)
    assert_near(c_J_x, np.einsum("sj,sji->si", data.cotangent, J_x), 1e-13)


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_gradients_by_sample_make_the_gradient(loss):
    data = identity_data(3, loss=loss)
    net, weight = data.problem.net, np.asarray(data.problem.weight)
    gradients = net.per_sample_gradients(data.x, data.y, **data.keywords)
    _, grad = net.value_and_grad(data.x, data.y, **data.keywords)
    assert_near(gradients.sum(axis=0) / weight.sum(), grad, 1e-13)
    unweighted = net.per_sample_gradients(data.x_filled, data.problem.y_filled)
    assert_near(unweighted.mean(axis=0), net.value_and_grad(data.x_filled, data.problem.y_filled)[1], 1e-13)
    assert_near(weight[:, None] * unweighted, gradients, 1e-13)
    norms = net.per_sample_gradient_norms(data.x, data.y, **data.keywords)
    assert_near(norms, np.linalg.norm(gradients, axis=1), 1e-14)
    clipped = net.clipped_gradient(data.x, data.y, 1e300, **data.keywords)
    assert_near(clipped, gradients.sum(axis=0), 1e-13)
    radius = np.median(norms)
    factor = radius / np.maximum(norms, radius)
    clipped = net.clipped_gradient(data.x, data.y, radius, **data.keywords)
    assert_near(clipped, factor @ gradients, 1e-13)
    layers = net.layer_gradients(data.x, data.y, **data.keywords)
    assert_near(
        net.input_gradient(data.x, data.y, **data.keywords) / weight.sum(), np.nan_to_num(layers.grad_h[0]), 1e-13
    )


def test_a_sample_without_gradient_is_not_divided_by_its_norm():
    data = identity_data(4, weight=None)
    net = data.problem.net
    assert not net.clipped_gradient(data.x, net.forward(data.x), 1.0).any()
    assert not net.per_sample_gradient_norms(data.x, net.forward(data.x)).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_the_hessian_is_symmetric_to_the_last_bit(loss, dtype):
    data = identity_data(5, loss=loss, dtype=dtype)
    H = data.problem.net.hessian(data.x, data.y, **data.keywords)
    assert same_bits(H, H.T)
    H_v = data.problem.net.hvp(data.x, data.y, data.v, **data.keywords)
    assert_near(H @ data.v, H_v, {"float64": 1e-13, "float32": 1e-5}[dtype])


@pytest.mark.parametrize("weight", [None, "sample", "entry"])
def test_residuals_and_normal_equations(weight):
    """The squared residuals add up to the sum of the loss, and J has the Jacobian's rows in the same order."""
    data = identity_data(6, weight=weight)
    problem = data.problem
    net, n, n_out = problem.net, len(data.x), problem.net.sizes[-1]
    fun, jac = net.residuals(data.x, data.y, **data.keywords)
    w = np.ones(n) if weight is None else np.asarray(problem.weight)
    w = w if w.ndim == 2 else np.repeat(w[:, None], n_out, axis=1)
    r, J = fun(net.params), jac(net.params)
    assert r.shape == (n * n_out,)
    assert J.shape == (n * n_out, net.n_params)
    assert_near(r, (np.sqrt(w) * (net.forward(data.x_filled) - problem.y_filled)).ravel(), 1e-14)
    assert_near(J, (np.sqrt(w)[:, :, None] * net.jacobian(data.x_filled)).reshape(n * n_out, -1), 1e-14)
    assert r @ r / w.sum() == pytest.approx(net.loss(data.x, data.y, **data.keywords), rel=1e-13)
    JTJ, JTr = net.normal_equations(data.x, data.y, **data.keywords)
    assert_near((JTJ, JTr), (J.T @ J, J.T @ r), 1e-13)
    assert_near(2 * JTr / w.sum(), net.value_and_grad(data.x, data.y, **data.keywords)[1], 1e-13)
    theta = net.params + 0.1
    assert_near(fun(theta), (np.sqrt(w) * (net.forward(data.x_filled, params=theta) - problem.y_filled)).ravel(), 1e-13)
    assert not np.shares_memory(fun(theta), fun(theta))  # SciPy keeps old ones


def test_sobolev_without_weight_on_slopes_is_the_loss():
    data = identity_data(7)
    net = data.problem.net
    expected = net.value_and_grad(data.x, data.y, **data.keywords)
    assert_near(net.sobolev_value_and_grad(data.x, data.y, data.grad_x, 0.0, **data.keywords), expected, 1e-13)
    slopes = net.input_jacobian(data.x_filled)
    assert_near(net.sobolev_value_and_grad(data.x, data.y, slopes, 3.0, **data.keywords), expected, 1e-13)


def test_sobolev_does_not_look_at_slopes_of_weight_zero():
    data = identity_data(9)
    net, weight = data.problem.net, np.arange(12.0).reshape(3, 4) % 3
    slopes = np.where(weight == 0, np.nan, data.grad_x)
    expected = net.sobolev_value_and_grad(data.x, data.y, data.grad_x, weight, **data.keywords)
    assert_same_bits(net.sobolev_value_and_grad(data.x, data.y, slopes, weight, **data.keywords), expected)


# Kinks and tails -----------------------------------------------------------------------------------------------------

KINKS = [("softsign", 0.0), *((row.name, kink) for row in ACTIVATIONS.values() for kink in row.kinks)]


def second_derivative(activation, a, dtype="float64"):
    """g''(a) from the Hessian of (g(w a + b) - y)^2 by b, where g(a) - y = 1/2."""
    net = Network([1, 1, 1], activations=activation, dtype=dtype, rng=0)
    net.params = [1.0, 0.0, 1.0, 0.0]
    x = np.full((1, 1), a, dtype)
    g_prime = ACTIVATIONS[activation].g_prime(np.array([a]), ACTIVATIONS[activation].default)[0]
    return net.hessian(x, net.forward(x) - 0.5)[1, 1] - 2 * g_prime**2


@pytest.mark.parametrize(("activation", "kink"), KINKS)
def test_the_second_derivative_is_0_at_a_kink(activation, kink):
    assert second_derivative(activation, kink) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [name for name in ACTIVATION_NAMES if name not in SECOND_LIMITS])
def test_the_second_derivative_vanishes_far_out(activation, dtype):
    if activation == "hardswish":
        assert second_derivative(activation, 2.0, dtype) == pytest.approx(1 / 3, rel=1e-6)
    for a in (90.0, -90.0, 800.0, -800.0, 1e6, -1e6):
        assert abs(second_derivative(activation, a, dtype)) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", [name for name in ACTIVATION_NAMES if name not in OVERFLOWS])
def test_saturated_layers_give_no_nan(name, activation):
    data = random_data(generator(19, name), [3, 6, 5, 2], CALLS[name], activations=[activation], output="identity",
                       loss="squared_error", n_samples=19, weight=None, dtype="float32")  # fmt: skip
    for result in arrays(run(name, replace(data, x=data.x * 3e4))):
        assert np.isfinite(result).all()


# Bits ----------------------------------------------------------------------------------------------------------------

NETWORKS = {
    "5-37-9-3": {"activations": ["gelu", "tanh"], "output": "softplus"},
    "3-20-1": {"activations": ["silu"], "output": "identity"},
    "17-8-16-12": {"activations": ["elu", "mish"], "output": "identity", "loss": "cross_entropy"},
    "2-70-4": {"activations": ["relu"], "output": "identity", "loss": "binary_cross_entropy"},
}


def bits_data(network, name, n_samples, dtype):
    """Data on one of the networks that the call takes, or None."""
    options = {"loss": "squared_error", "weight": "sample", **NETWORKS[network]}
    if options["loss"] not in CALLS[name].losses:
        return None
    sizes = [int(size) for size in network.split("-")]
    rng = generator(20, name)
    return random_data(rng, sizes, CALLS[name], n_samples=n_samples, dtype=dtype, **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", BY_ROW)
def test_a_row_has_its_bits_in_every_batch(name, network, dtype):
    data = bits_data(network, name, 1000, dtype)
    whole = arrays(run(name, data, n_threads=2))
    kept = np.flatnonzero(np.asarray(data.problem.weight) > 0)
    for row in kept[[0, 1, len(kept) // 2, -2, -1]]:
        alone = arrays(run(name, rows_of(data, slice(row, row + 1))))
        for n in (2, 3, 64, 65):
            start = max(0, row - int(row) % n)
            batch = rows_of(data, slice(start, start + n))
            batch = replace(batch, x=with_layout(batch.x, "misaligned"))
            results = arrays(run(name, batch))
            for place in CALLS[name].by_row:
                assert same_bits(results[place][row - start], alone[place][0]), (row, n)
        for place in CALLS[name].by_row:
            assert same_bits(whole[place][row], alone[place][0]), row


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", shortened(NETWORKS, [*NETWORKS][::2], "their tasks are cut in the same way"))
@pytest.mark.parametrize("name", NAMES)
def test_the_bits_do_not_depend_on_the_thread_count(name, network, dtype):
    if bits_data(network, name, 1, dtype) is None:
        pytest.skip("for squared_error alone")
    for n_samples in (1, 65, 1025) if name == "hessian" else (1, 65, 1025, 2500):
        data = bits_data(network, name, n_samples, dtype)
        expected = run(name, data, n_threads=1)
        for n_threads in (2, 3, 8):
            assert_same_bits(run(name, data, n_threads=n_threads), expected, (n_samples, n_threads))
        assert_same_bits(run(name, data), expected, n_samples)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", SUMS)
def test_errors_do_not_grow_with_the_number_of_samples(name, network):
    """In float32, of 64 rows repeated 1563 times: means are those of the 64, sums 1563 times those."""
    data = bits_data(network, name, 64, "float32")
    if data is None or name == "hessian":
        pytest.skip("for squared_error alone, or as hvp")
    rows = np.tile(np.arange(64), 1563)
    wide = replace(data, problem=replace(data.problem, net=as_float64(data.problem)))
    expected, results = arrays(run(name, wide)), arrays(run(name, rows_of(data, rows)))
    factor = 1563.0 if name in {"clipped_gradient", "normal_equations"} else 1.0
    floor = [error(result, right) for result, right in zip(arrays(run(name, data)), expected, strict=True)]
    for result, right, few in zip(results, expected, floor, strict=True):
        assert error(result / factor, right) <= 1.5 * few + 1e-7


# Objective and residuals in SciPy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hessp_honours_l2_and_free(l2, masked, dtype):
    data = identity_data(8, dtype=dtype)
    net, rng = data.problem.net, np.random.default_rng(3)
    free = rng.random(net.n_params) < 0.5 if masked else np.ones(net.n_params, bool)
    fun = net.objective(data.x, data.y, l2=l2, free=free if masked else None, **data.keywords)
    theta = net.params.astype(float)[free] + 0.1
    full, is_weight, direction = net.params.copy(), np.zeros(net.n_params), np.zeros(net.n_params)
    full[free] = theta
    for W, _ in net.unflatten(is_weight):
        W[...] = 1
    v = rng.normal(size=free.sum())
    direction[free] = v
    H_v = net.hvp(data.x, data.y, direction, params=full, **data.keywords)
    result = fun.hessp(theta, v)
    assert result.dtype == np.float64
    assert result.shape == v.shape
    tolerance = {"float64": 1e-13, "float32": 1e-5}[dtype]
    assert_near(result, (H_v + l2 * is_weight * direction)[free], tolerance)
    fun(theta), fun.value(theta + 1), fun.grad(theta - 1)  # what was kept for another theta is not used
    assert same_bits(fun.hessp(theta, v), result)
    if dtype == "float64":
        step = 1e-5
        slope = (fun.grad(theta + step * v) - fun.grad(theta - step * v)) / (2 * step)
        assert error(result, slope) <= 1e-6


def test_minimize_with_hessian_products():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (60, 1))
    net = Network([1, 6, 1], activations="tanh", rng=2)
    fun = net.objective(x, np.sin(2 * x), l2=1e-3)
    for method in ("trust-krylov", "trust-ncg", "Newton-CG"):
        found = optimize.minimize(fun, net.params, jac=True, hessp=fun.hessp, method=method)
        assert np.linalg.norm(found.jac) <= 1e-3
        assert found.fun < fun.value(net.params) / 3


def test_least_squares():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (80, 1))
    y = np.sin(2 * x)
    weight = rng.uniform(0.5, 2.0, 80)
    y[::9], weight[::9] = np.nan, 0
    net = Network([1, 6, 1], activations="tanh", rng=2)
    fun, jac = net.residuals(x, y, sample_weight=weight)
    before = net.params.copy()
    found = optimize.least_squares(fun, net.params, jac=jac, method="lm")
    assert same_bits(net.params, before)
    assert 2 * found.cost / weight.sum() == pytest.approx(net.loss(x, y, sample_weight=weight, params=found.x))
    assert found.cost < 0.05 * 0.5 * np.sum(fun(net.params) ** 2)
    assert np.linalg.norm(found.grad) <= 1e-2 * np.linalg.norm(fun(net.params) @ jac(net.params))


# What is refused -----------------------------------------------------------------------------------------------------


def assert_refused(name, data, error_type, argument, **keywords):
    """The call raises this very error about this argument, and changes neither params nor out."""
    net, call = data.problem.net, CALLS[name]
    before, untouched = net.params.tobytes(), None
    if call.out and "out" not in keywords:
        shape = call.out_shape(plain_data(net.sizes[-1]))
        keywords["out"], untouched = nan_pattern(shape, net.dtype), nan_pattern(shape, net.dtype).tobytes()
    with pytest.raises((ValueError, TypeError)) as caught:
        call.run(net, data, **keywords)
    message = str(caught.value)
    assert caught.type is error_type, message
    assert message.startswith(f"{argument}: "), message
    assert "expected" in message, message
    assert "got" in message, message
    assert net.params.tobytes() == before
    if untouched is not None:
        assert keywords["out"].tobytes() == untouched


@pytest.mark.parametrize(
    ("name", "argument", "case"),
    [(name, argument, case) for name, call in CALLS.items() for argument in BAD if takes(call, argument)
     for case in BAD[argument]],
)  # fmt: skip
def test_bad_arguments(name, argument, case):
    value, error_type = BAD[argument][case]
    if argument in ("sample_weight", "n_threads", "params", "out"):
        assert_refused(name, plain_data(), error_type, argument, **{argument: value})
    else:
        assert_refused(name, replace(plain_data(), **{argument: value}), error_type, argument)


@pytest.mark.parametrize("name", WITH_Y)
@pytest.mark.parametrize(
    ("loss", "y"), [("cross_entropy", [0, 1, 2, 1, 0]), ("cross_entropy", [0, 1, -1, 1, 0]),
                    ("hinge", np.zeros((N, N_OUT))), ("poisson", np.full((N, N_OUT), -1.0)),
                    ("binary_cross_entropy", np.full((N, N_OUT), np.nan))],
    ids=["label n_out", "label -1", "hinge 0", "poisson -1", "binary NaN"],
)  # fmt: skip
def test_y_outside_the_domain(name, loss, y):
    if loss in CALLS[name].losses:
        assert_refused(name, replace(plain_data(loss=loss), y=y), ValueError, "y")


@pytest.mark.parametrize("name", [name for name in NAMES if CALLS[name].at_theta])
def test_a_theta_of_the_wrong_length(name):
    data = plain_data()
    net = data.problem.net
    fun, jac = net.residuals(data.x, data.y)
    hessp = net.objective(data.x, data.y).hessp
    call = {"residuals.fun": fun, "residuals.jac": jac, "objective.hessp": lambda theta: hessp(theta, data.v)}[name]
    for bad, error_type in ((np.zeros(P + 1), ValueError), (np.zeros((1, P)), ValueError), (None, TypeError)):
        with pytest.raises(error_type, match=r"^theta: expected .*got"):
            call(bad)


@pytest.mark.parametrize("loss", [loss for loss in LOSS_NAMES if loss != "squared_error"])
@pytest.mark.parametrize("name", SQUARED_ERROR_ONLY)
def test_calls_for_squared_error_alone(name, loss):
    with pytest.raises(ValueError, match=r"squared_error.*got.*" + loss):
        run(name, plain_data(loss=loss))


@pytest.mark.parametrize("name", WITH_OUT)
def test_out_must_fit(name):
    data = plain_data()
    shape = CALLS[name].out_shape(data)
    read_only = np.zeros(shape)
    read_only.flags.writeable = False
    misfits = {
        "float32": np.zeros(shape, np.float32),
        "big-endian": np.zeros(shape, ">f8"),
        "integers": np.zeros(shape, np.int64),
        "strided": np.zeros((*shape[:-1], 2 * shape[-1]))[..., ::2],
        "read-only": read_only,
        "an axis more": np.zeros((*shape, 1)),
        "transposed": np.zeros(shape[::-1], order="F").T if len(shape) > 1 else np.zeros(shape[0] + 1),
    }
    for what, out in misfits.items():
        if out.shape == shape and what == "transposed" and out.flags.c_contiguous:
            continue
        before = out.tobytes()
        assert_refused(name, data, ValueError, "out", out=out)
        assert out.tobytes() == before, what


@pytest.mark.parametrize("name", WITH_OUT)
def test_out_must_not_overlap_an_input(name):
    data = plain_data()
    shape = CALLS[name].out_shape(data)
    for argument in ("x", *CALLS[name].arguments):
        value = getattr(data, argument)
        if isinstance(value, np.ndarray):
            memory = np.full(max(int(np.prod(shape)), value.size), 0.5)
            view = memory[: value.size].reshape(value.shape)
            out = memory[: int(np.prod(shape))].reshape(shape)
            assert_refused(name, replace(data, **{argument: view}), ValueError, "out", out=out)
            assert (memory == 0.5).all()
    net, call = data.problem.net, CALLS[name]
    kept = {"params": (net.n_params,)}
    if call.has_y:
        kept["sample_weight"] = (N,)
    if "weight" in call.arguments:
        kept["weight"] = (N_OUT, N_IN)
    for argument, of in kept.items():
        memory = np.full(int(max(np.prod(shape), np.prod(of))), 0.5)
        view, out = memory[: np.prod(of)].reshape(of), memory[: np.prod(shape, dtype=int)].reshape(shape)
        if argument == "weight":
            assert_refused(name, replace(data, weight=view), ValueError, "out", out=out)
        else:
            assert_refused(name, data, ValueError, "out", out=out, **{argument: view})
        assert (memory == 0.5).all()
    if shape == (net.n_params,):
        assert_refused(name, data, ValueError, "out", out=net.params)


def test_a_refused_call_leaves_no_trace_in_the_next():
    for name in NAMES:
        data = plain_data()
        expected = [result.copy() for result in arrays(run(name, data))]
        with pytest.raises((ValueError, TypeError)):
            run(name, replace(data, x=data.x[:, :1]))
        assert_same_bits(run(name, data), expected, name)
