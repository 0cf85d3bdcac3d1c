"""Every derivative in the reference against the complex step, since other tests are judged by the reference."""

import numpy as np
import pytest
from problems import ACTIVATION_NAMES, LOSS_NAMES, OVERFLOWS, PARAMETERS, Y_HAT_LOSSES, random_problem

from backprop.activations import ACTIVATIONS
from backprop.losses import LOSSES, softmax
from backprop.reference import recursion as _reference

TOLERANCE = 1e-13
STEP = 1e-20  # its square is lost beside 1, and products with a g' of 1e-280 are not yet subnormal


def assert_gradient_is_the_complex_step(problem):
    gradient = problem.reference().gradient
    size = gradient.size
    by_step = np.array([problem.complex_step(np.eye(size)[p]) for p in range(size)])
    assert np.linalg.norm(by_step) > 1e-8
    assert np.linalg.norm(gradient - by_step) <= TOLERANCE * np.linalg.norm(by_step)


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_gradient_of_hidden_activations(activation, loss):
    rng = np.random.default_rng([1, ACTIVATION_NAMES.index(activation), LOSS_NAMES.index(loss)])
    for spec in [activation, (activation, PARAMETERS[activation])] if activation in PARAMETERS else [activation]:
        problem = random_problem(rng, [3, 4, 3, 2], activations=spec, loss=loss, n_samples=5, limit=4.0)
        assert_gradient_is_the_complex_step(problem)


@pytest.mark.parametrize("loss", Y_HAT_LOSSES)
@pytest.mark.parametrize("output", ACTIVATION_NAMES)
def test_gradient_of_outputs(output, loss):
    rng = np.random.default_rng([2, ACTIVATION_NAMES.index(output), LOSS_NAMES.index(loss)])
    assert_gradient_is_the_complex_step(random_problem(rng, [3, 4, 2], output=output, loss=loss, n_samples=6))


@pytest.mark.parametrize("weight", [None, "sample", "entry"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_gradient_of_loss_parameters_targets_and_weights(loss, weight):
    if loss == "cross_entropy" and weight == "entry":
        weight = "sample"
    rng = np.random.default_rng([3, LOSS_NAMES.index(loss), [None, "sample", "entry"].index(weight)])
    for spec in [loss, (loss, PARAMETERS[loss])] if loss in PARAMETERS else [loss]:
        for labels in [True, False] if loss == "cross_entropy" else [True]:
            problem = random_problem(rng, [2, 3, 3], loss=spec, n_samples=9, labels=labels)
            problem.weight = None if weight is None else rng.uniform(0.1, 2, (9,) if weight == "sample" else (9, 3))
            assert_gradient_is_the_complex_step(problem)


def grid(name):
    """Points off the kinks: a grid near 0, and the tails as far as |a| = 700."""
    magnitudes = np.concatenate([np.linspace(0.0101, 12.01, 400), np.logspace(-8, np.log10(700), 200)])
    if name in OVERFLOWS:
        return np.concatenate([-magnitudes, magnitudes[magnitudes < 300]])
    return np.concatenate([-magnitudes, magnitudes])


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_g_prime_is_the_complex_step_of_g(name):
    """Relative if values are normal numbers; absolute only next to a change of sign of g'."""
    row = ACTIVATIONS[name]
    a = grid(name)
    for parameter in {row.default, PARAMETERS.get(name, row.default)}:
        with np.errstate(under="ignore"):
            g_prime = row.g_prime(a, parameter)
            by_step = row.g(a + 1j * STEP, parameter).imag / STEP
        scale = np.abs(by_step)
        if name in ("gelu", "gelu_tanh", "silu", "mish", "hardswish", "sin"):
            near_a_zero = np.abs(by_step) < 0.2
            near_a_zero &= np.abs(a) < 4 if name != "sin" else True
            scale = np.where(near_a_zero, 1.0, scale)
        # a itself is rounded once in exp(-a^2/2) and sin(a): its relative error times |a g''/g'| is the floor
        condition = {"gelu": a * a, "gelu_tanh": np.abs(a) ** 3 / 4, "sin": 1.0}.get(name, np.abs(a))
        normal = np.abs(by_step) > 1e-280
        error = np.abs(g_prime - by_step)
        assert np.all(
            error[normal] <= (16 + 2 * np.broadcast_to(condition, a.shape)[normal]) * 2.0**-53 * scale[normal]
        )
        assert np.all(error[~normal] <= 1e-279)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_g_prime_is_the_complex_step_of_g_at_0_and_at_kinks(name):
    """Two pieces meet at a kink, and g and g' must use the same one."""
    row = ACTIVATIONS[name]
    a = np.array([0.0, -0.0, *row.kinks])
    for parameter in {row.default, PARAMETERS.get(name, row.default)}:
        np.testing.assert_allclose(_reference.slope(row, parameter, a), row.g_prime(a, parameter), rtol=1e-15)


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_gradient_at_kinks(loss):
    """y_hat is y, a_1 and a_2 are 0, or a_L is, with equal logits."""
    for activations in [["selu", "softplus"], ["silu", ("elu", 1.7)], ["tanh", "relu"]]:
        problem = random_problem(
            np.random.default_rng(0), [2, 2, 3, 2], activations=activations, loss=loss, n_samples=3
        )
        problem.x[...] = 0
        problem.net.params[...] = np.round(2 * problem.net.params)
        for b in problem.net.biases:
            b[...] = 0
        if loss in ("absolute_error", "quantile", "huber"):
            problem.y[...] = problem.net.forward(problem.x)
        size = problem.net.n_params
        by_step = np.array([problem.complex_step(np.eye(size)[p]) for p in range(size)])
        np.testing.assert_allclose(problem.reference().gradient, by_step, rtol=TOLERANCE, atol=1e-15)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_loss_prime_is_the_complex_step_of_loss(name):
    row = LOSSES[name]
    rng = np.random.default_rng(5)
    z = rng.normal(0, 3, (40, 3))
    y = {
        "hinge": np.sign(z[::-1]),
        "poisson": rng.poisson(2, z.shape),
        "binary_cross_entropy": rng.random(z.shape),
    }.get(name, z[::-1] + 0.1)
    if name == "cross_entropy":
        y = np.eye(3)[rng.integers(0, 3, 40)]
    for parameter in {row.default, PARAMETERS.get(name, row.default)}:
        slope = row.loss_prime(z, y, parameter)
        for j in range(3):
            terms = row.loss(z + 1e-100j * np.eye(3)[j], y, parameter)
            by_step = (terms if terms.ndim == 1 else terms.sum(axis=1)).imag / 1e-100
            np.testing.assert_allclose(slope[:, j], by_step, rtol=TOLERANCE, atol=1e-15)


# Second derivatives ---------------------------------------------------------------------------------------------------


def random_direction(rng, problem):
    return problem.net.params.astype(float), rng.normal(size=problem.net.n_params)


def assert_hvp_is_the_complex_step(rng, problem):
    """The complex step of the reference's gradient, which the tests above check."""
    theta, direction = random_direction(rng, problem)
    hvp = _reference.hvp(*problem.specification, theta, direction, *problem.data)
    step = _reference.value_and_grad(*problem.specification, theta + 1j * STEP * direction, *problem.data)
    by_step = step.gradient.imag / STEP
    assert np.linalg.norm(by_step) > 1e-8
    assert np.linalg.norm(hvp - by_step) <= 1e-12 * np.linalg.norm(by_step)


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_hvp_of_hidden_activations(activation, loss):
    rng = np.random.default_rng([4, ACTIVATION_NAMES.index(activation), LOSS_NAMES.index(loss)])
    for spec in [activation, (activation, PARAMETERS[activation])] if activation in PARAMETERS else [activation]:
        problem = random_problem(rng, [3, 4, 3, 2], activations=spec, loss=loss, n_samples=5, limit=4.0)
        assert_hvp_is_the_complex_step(rng, problem)


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
@pytest.mark.parametrize("output", ACTIVATION_NAMES)
def test_hvp_of_outputs(output, loss):
    rng = np.random.default_rng([5, ACTIVATION_NAMES.index(output)])
    assert_hvp_is_the_complex_step(rng, random_problem(rng, [3, 4, 2], output=output, loss=loss, n_samples=6))


@pytest.mark.parametrize("weight", [None, "sample", "entry"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_hvp_of_loss_parameters_targets_and_weights(loss, weight):
    if loss == "cross_entropy" and weight == "entry":
        weight = "sample"
    rng = np.random.default_rng([6, LOSS_NAMES.index(loss)])
    for spec in [loss, (loss, PARAMETERS[loss])] if loss in PARAMETERS else [loss]:
        for labels in [True, False] if loss == "cross_entropy" else [True]:
            problem = random_problem(rng, [2, 3, 3], loss=spec, n_samples=9, labels=labels)
            problem.weight = None if weight is None else rng.uniform(0.1, 2, (9,) if weight == "sample" else (9, 3))
            assert_hvp_is_the_complex_step(rng, problem)


def y_hat(problem, theta):
    """The outputs of the reference, complex parameters included."""
    sizes, activations, (loss, _) = problem.specification
    result = _reference.forward(sizes, activations, theta, problem.data[0])
    if loss.link == "softmax":
        return softmax(result.a[-1])
    return ACTIVATIONS[loss.link].g(result.a[-1], 0.0) if loss.link else result.h[-1]


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_jvp_is_the_complex_step_of_the_outputs(loss):
    rng = np.random.default_rng([7, LOSS_NAMES.index(loss)])
    problem = random_problem(rng, [3, 5, 4], activations="mish", loss=loss, n_samples=6)
    theta, direction = random_direction(rng, problem)
    jvp = _reference.jvp(*problem.specification, theta, direction, problem.data[0])
    by_step = y_hat(problem, theta + 1j * STEP * direction).imag / STEP
    np.testing.assert_allclose(jvp, by_step, rtol=TOLERANCE, atol=1e-14)


@pytest.mark.parametrize("weight", [None, "sample", "entry"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_gauss_newton_from_the_jacobian(loss, weight):
    """J^T H J v with J from complex steps, one parameter at a time, and H from the complex step of loss_prime."""
    if loss == "cross_entropy" and weight == "entry":
        weight = "sample"
    rng = np.random.default_rng([8, LOSS_NAMES.index(loss)])
    output = "tanh" if loss in Y_HAT_LOSSES else "identity"
    problem = random_problem(rng, [3, 4, 3], activations="silu", output=output, loss=loss, n_samples=6, labels=False)
    if weight is not None:
        problem.weight = rng.uniform(0.1, 2, (6,) if weight == "sample" else (6, 3))
    theta, direction = random_direction(rng, problem)
    sizes, activations, (row, parameter) = problem.specification
    x, y, w = problem.data

    def acted_on(params):
        result = _reference.forward(sizes, activations, params, x)
        return result.a[-1] if row.acts_on_a else result.h[-1]

    J = np.stack([acted_on(theta + 1j * STEP * unit).imag / STEP for unit in np.eye(theta.size)], axis=-1)
    H_Jv = row.loss_prime(acted_on(theta) + 1j * STEP * (J @ direction), y, parameter).imag / STEP
    share = np.ones((6, 3) if loss != "cross_entropy" else (6, 1)) if w is None else w if w.ndim == 2 else w[:, None]
    share = np.broadcast_to(share, (6, 3)) if loss != "cross_entropy" else share
    expected = np.einsum("sjp,sj->p", J, share * H_Jv) / share.sum()
    computed = _reference.gauss_newton_vp(*problem.specification, theta, direction, x, y, w)
    assert np.linalg.norm(computed - expected) <= 1e-12 * np.linalg.norm(expected)


def test_gauss_newton_is_the_hessian_where_the_loss_sees_a_linear_model():
    rng = np.random.default_rng(9)
    for loss in LOSS_NAMES:
        problem = random_problem(rng, [4, 3], loss=loss, n_samples=8)
        theta, direction = random_direction(rng, problem)
        arguments = (*problem.specification, theta, direction, *problem.data)
        np.testing.assert_allclose(_reference.gauss_newton_vp(*arguments), _reference.hvp(*arguments), atol=1e-15)
