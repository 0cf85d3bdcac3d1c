"""Second derivatives by the inputs, by value: against complex steps, JAX and solutions that are known, and at kinks.

Every test of random networks goes through all calls of `input_jets.CALLS`. What the calls accept and refuse is in
test_input_calls.py, the bits are in test_input_second_bits.py.
"""

import numpy as np
import pytest
from input_jets import CALLS, changes, draw, judge, run
from jax_jets import DEPTH, ROWS, WIDTH, JaxJets
from problems import ACTIVATION_NAMES, PARAMETERS, relative_error, same_bits, split
from required_peers import require_peer

from backprop import Activation, Network
from backprop.activations import ACTIVATIONS

pytestmark = pytest.mark.filterwarnings("ignore:.*linear in pieces:RuntimeWarning")  # of relu and its like

N_NETWORKS = 50
TOLERANCE = 1e-10  # of float64, relative to the 2-norm of a result


@pytest.fixture(scope="module")
def jax():
    module = require_peer("jax")
    before = module.config.jax_enable_x64
    module.config.update("jax_enable_x64", True)
    module.config.update("jax_disable_most_optimizations", True)  # compiles in less time
    yield module
    module.config.update("jax_disable_most_optimizations", False)
    module.config.update("jax_enable_x64", before)


# Random networks -----------------------------------------------------------------------------------------------------


def assert_near(results, expected, what):
    for place, (result, right) in enumerate(zip(results, expected, strict=True)):
        assert np.isfinite(right).all()
        assert relative_error(result, right) <= TOLERANCE, (place, what)


@pytest.mark.parametrize("call", CALLS)
def test_float64_against_complex_steps(call):
    for number in range(N_NETWORKS):
        p = draw(number, call)
        assert_near(run(call, p), judge(call, p), (number, p.net))


@pytest.mark.long("compared with JAX, which the short suite does without")
@pytest.mark.parametrize("call", CALLS)
def test_float64_against_jax(jax, call):
    for number in range(N_NETWORKS):
        p = draw(100 + number, call, widest=WIDTH, most_inputs=WIDTH, n_samples=1 + number % ROWS)
        assert len(p.net.sizes) - 1 <= DEPTH
        assert_near(run(call, p), getattr(JaxJets(jax, p), call)(), (number, p.net))


@pytest.mark.parametrize("call", CALLS)
def test_float32_against_complex_steps(call):
    """||error|| <= 4 eps (||result|| + change), with the change of the result under changes of eps in theta and x.

    The errors of 300 networks a call were at most 2.3 times eps (||result|| + change).
    """
    eps = np.finfo(np.float32).eps
    for number in range(N_NETWORKS):
        p = draw(200 + number, call, "float32")
        for place, (result, right, change) in enumerate(
            zip(run(call, p), judge(call, p), changes(call, p), strict=True)
        ):
            error = np.linalg.norm(np.ravel(result - right))
            assert error <= 4 * eps * (np.linalg.norm(right) + change), (place, number, p.net)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_every_activation(activation, call):
    """In all layers, the last one as well, and with the parameter that is not the default."""
    for number in range(2):
        p = draw(300 + number, call, activations=[activation], loss="squared_error")
        assert_near(run(call, p), judge(call, p), p.net)


@pytest.mark.parametrize("call", CALLS)
def test_activations_of_the_users_own(call):
    row = ACTIVATIONS["gelu"]
    functions = [lambda a, g=g: g(a, 0.0) for g in (row.g, row.g_prime, row.g_second, row.g_third)]
    own = Activation("own", *functions)
    for number in range(5):
        p = draw(350 + number, call, activations=["gelu"], loss="squared_error")
        net = Network(p.net.sizes, activations=own, output=own, rng=0)
        net.params = p.net.params
        assert_near(CALLS[call].run(net, p), judge(call, p), p.net)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hessians_are_symmetric_to_the_bit(dtype):
    for number in range(N_NETWORKS):
        p = draw(400 + number, "input_hessian", dtype, most_inputs=40)
        (H,) = run("input_hessian", p)
        assert same_bits(H, np.swapaxes(H, 1, 2))


# Known solutions -----------------------------------------------------------------------------------------------------


def ridges(W, b, amplitudes, g):
    """The network u(x) = sum_i amplitudes_i g(W_i . x + b_i)."""
    W = np.array(W, float)
    net = Network([W.shape[1], W.shape[0], 1], activations=g, rng=0)
    net.weights[0][...], net.biases[0][...], net.weights[1][...], net.biases[1][...] = W, b, amplitudes, 0.0
    return net


X = np.random.default_rng(0).uniform(-1.0, 1.0, (200, 2))
PRODUCT_OF_SINES = ridges([[np.pi, -np.pi], [np.pi, np.pi]], np.pi / 2, [0.5, -0.5], "sin")  # sin(pi x_1) sin(pi x_2)


def test_the_laplacian_of_a_product_of_sines():
    u = np.sin(np.pi * X[:, :1]) * np.sin(np.pi * X[:, 1:])
    np.testing.assert_allclose(PRODUCT_OF_SINES.forward(X), u, atol=1e-15)
    np.testing.assert_allclose(PRODUCT_OF_SINES.laplacian(X), -2 * np.pi**2 * u, atol=1e-13)


def test_the_hessian_of_a_product_of_sines():
    s, c = np.sin(np.pi * X), np.cos(np.pi * X)
    H = PRODUCT_OF_SINES.input_hessian(X)
    np.testing.assert_allclose(H[:, 0, 0], -(np.pi**2) * s.prod(axis=1), atol=1e-13)
    np.testing.assert_allclose(H[:, 1, 1], -(np.pi**2) * s.prod(axis=1), atol=1e-13)
    np.testing.assert_allclose(H[:, 0, 1], np.pi**2 * c.prod(axis=1), atol=1e-13)
    jet = PRODUCT_OF_SINES.input_jet(X, [[1.0, 1.0], [1.0, -1.0]])  # sums and differences of the axes
    np.testing.assert_allclose(jet.d2y[:, 0] @ [1.0, -1.0], 4 * H[:, 0, 1], atol=1e-12)


SOLUTIONS = {
    "Poisson": (
        PRODUCT_OF_SINES,
        {"f": -2 * np.pi**2 * np.sin(np.pi * X).prod(axis=1), "D": 1.0},
    ),
    "Helmholtz": (ridges([[3.0, 4.0]], 0.3, [2.0], "sin"), {"f": 0.0, "c": 25.0, "D": 1.0}),
    "heat": (ridges([[2.0, 2.0]], 0.1, [1.5], "exp"), {"f": 0.0, "b": [1.0, 0.0], "D": [[0.0, 0.0], [0.0, -0.5]]}),
    "advection": (ridges([[-3.0, 2.0], [1.5, -1.0]], 0.2, [1.0, 2.0], "tanh"), {"f": 0.0, "b": [2.0, 3.0]}),
    "wave": (ridges([[6.0, 2.0], [-3.0, 1.0]], 0.2, [1.0, 2.0], "sin"), {"f": 0.0, "D": [[1.0, 0.0], [0.0, -9.0]]}),
    "mixed": (ridges([[1.0, 2.0]], 0.2, [1.0], "exp"), {"f": 0.0, "c": -2.0, "D": [[0.0, 1.0], [0.0, 0.0]]}),
    "by sample": (  # x_1 u_1 + x_2 u_2 = u for u = x_1
        ridges([[1.0, 0.0]], 0.0, [1.0], "identity"), {"f": 0.0, "c": np.full(200, -1.0), "b": X}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_solution_has_no_residual_and_another_function_has(name):
    net, equation = SOLUTIONS[name]
    fun = net.pde_objective(X, **{"f": 0.0} | equation)
    theta = net.params.copy()
    value, gradient = fun(theta)
    assert 0 <= value <= 1e-24
    assert np.abs(gradient).max() <= 1e-10
    other = theta + 0.1
    assert fun.value(other) > 1e-4
    assert np.linalg.norm(fun.grad(other)) > 1e-3


def test_gauss_newton_at_a_solution_is_the_hessian():
    """There the residuals, by which the second derivatives count, are 0."""
    net, equation = SOLUTIONS["Poisson"]
    fun, theta, v = net.pde_objective(X, **equation), net.params.copy(), np.random.default_rng(1).normal(size=9)
    step = 1e-6
    difference = (fun.grad(theta + step * v) - fun.grad(theta - step * v)) / (2 * step)
    np.testing.assert_allclose(fun.hessp(theta, v), difference, rtol=1e-6, atol=1e-5)


# Kinks, and numbers that are not finite ------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [name for name, row in ACTIVATIONS.items() if row.kinks])
def test_at_kinks(activation):
    """On the kink itself g'' and g''' are 0, and g' has the side of the reference's formula."""
    for spec in [activation, (activation, PARAMETERS[activation])] if activation in PARAMETERS else [activation]:
        row, parameter = split(spec, ACTIVATIONS)
        net = Network([1, 1, 1], activations=spec, rng=0)
        net.params = [1.0, 0.0, 1.0, 0.0]
        x = np.array([[kink] for kink in row.kinks])
        assert not net.laplacian(x).any()
        assert not net.input_hessian(x).any()
        jet, cotangents = net.input_jet(x), [np.ones((len(x), 1)), np.ones((len(x), 1, 1)), np.ones((len(x), 1, 1))]
        slope = row.g_prime(x, parameter)
        np.testing.assert_allclose(jet.dy[:, 0], slope, rtol=1e-15)
        assert not jet.d2y.any()
        _, grad_x = net.jet_vjp(x, *cotangents)
        np.testing.assert_allclose(grad_x, slope, rtol=1e-15)


SMOOTH = ["tanh", "softplus", "gelu", "sin", "softsign"]  # identity's g' is 1 in the calls, also of NaN


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("call", CALLS)
def test_numbers_that_are_not_finite_stay_in_their_rows(call, value):
    """They are no error: a row has NaN if it has in the reference, and others keep their bits.

    Which entries of the row may differ: the way back from one output multiplies the NaN of another by 0.
    """
    for number in range(N_NETWORKS):
        p = draw(500 + number, call, n_samples=9, activations=SMOOTH, loss="squared_error")
        if p.weight is not None:
            p.weight[4] = 1.0
        clean = run(call, p)
        p.x[4, 0] = value
        with np.errstate(all="ignore"):
            results, expected = run(call, p), judge(call, p, by_step=False)
        for result, right, before, by_row in zip(results, expected, clean, CALLS[call].by_row, strict=True):
            if not by_row:
                assert np.isnan(right).any() == np.isnan(result).any(), (number, p.net)
                continue
            others = np.arange(9) != 4
            assert same_bits(result[others], before[others])
            assert np.isnan(result[4]).any() == np.isnan(right[4]).any(), (number, p.net)
