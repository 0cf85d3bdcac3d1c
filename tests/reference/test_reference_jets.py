"""The reference's second derivatives by the inputs against complex steps of what they are derivatives of."""

import numpy as np
import pytest
from problems import ACTIVATION_NAMES, PARAMETERS, random_problem

from backprop.reference import jets

STEP = 1e-20
TOLERANCE = 1e-12
K = 3  # directions
LINKS = ["poisson", "binary_cross_entropy", "cross_entropy", "hinge"]


def near(value, expected):
    assert value.shape == expected.shape
    return np.linalg.norm(value - expected) <= TOLERANCE * np.linalg.norm(expected) + 1e-300


def networks():
    """Every activation in the middle and at the end, with both kinds of parameters, and every link."""
    for number, name in enumerate(ACTIVATION_NAMES):
        for spec in [name, (name, PARAMETERS[name])] if name in PARAMETERS else [name]:
            yield pytest.param(number, [2, 4, 3, 2], spec, spec, "squared_error", id=str(spec))
    for number, loss in enumerate(LINKS):
        yield pytest.param(100 + number, [3, 4, 3], "mish", "identity", loss, id=loss)


def drawn(number, sizes, spec, output, loss):
    """The arguments network, theta and x of the reference, random directions, and the generator."""
    rng = np.random.default_rng([31, number])
    problem = random_problem(rng, sizes, activations=spec, output=output, loss=loss, n_samples=5, limit=3.0)
    theta = problem.net.params.astype(float)
    return (problem.specification, theta, problem.x), rng.normal(size=(K, sizes[0])), rng


each_network = pytest.mark.parametrize(("number", "sizes", "spec", "output", "loss"), list(networks()))


@each_network
def test_a_jet_is_the_complex_step_of_the_jet_before(number, sizes, spec, output, loss):
    (network, theta, x), directions, rng = drawn(number, sizes, spec, output, loss)
    y, dy, d2y = jets.input_jet(network, theta, x, directions)
    for j in range(K):
        y_step, dy_step, _ = jets.input_jet(network, theta, x + 1j * STEP * directions[j], directions)
        assert near(y, y_step.real)
        assert near(dy[:, :, j], y_step.imag / STEP)
        assert near(d2y[:, :, j], dy_step[:, :, j].imag / STEP)
    by_sample = rng.normal(size=(5, K, sizes[0]))
    for part, alone in zip(
        jets.input_jet(network, theta, x, by_sample),
        zip(*(jets.input_jet(network, theta, x[s : s + 1], by_sample[s]) for s in range(5)), strict=True),
        strict=True,
    ):
        assert near(part, np.concatenate(alone))


@each_network
def test_the_hessian_is_the_complex_step_of_the_gradient(number, sizes, spec, output, loss):
    (network, theta, x), _, rng = drawn(number, sizes, spec, output, loss)
    multipliers = rng.normal(size=(5, sizes[-1]))
    steps = []
    for unit in np.eye(sizes[0]):
        _, dy, _ = jets.input_jet(network, theta, x + 1j * STEP * unit)
        steps.append((multipliers[:, :, None] * dy).sum(axis=1).imag / STEP)
    hessian = jets.input_hessian(network, theta, x, multipliers)
    assert near(hessian, np.stack(steps, axis=2))
    traces = [jets.input_hessian(network, theta, x, unit).trace(axis1=1, axis2=2) for unit in np.eye(sizes[-1])]
    assert near(jets.laplacian(network, theta, x), np.stack(traces, axis=1))


@each_network
def test_the_way_back_is_the_complex_step_of_the_jet(number, sizes, spec, output, loss):
    (network, theta, x), directions, rng = drawn(number, sizes, spec, output, loss)
    cotangents = [rng.normal(size=part.shape) for part in jets.input_jet(network, theta, x, directions)]

    def value(theta, x):
        outputs = jets.input_jet(network, theta, x, directions)
        return sum((cot * part).sum() for cot, part in zip(cotangents, outputs, strict=True))

    grad_theta, grad_x = jets.jet_vjp(network, theta, x, *cotangents, directions)
    assert near(grad_theta, np.array([value(theta + 1j * STEP * u, x).imag / STEP for u in np.eye(theta.size)]))
    steps = [value(theta, x + 1j * STEP * u.reshape(x.shape)).imag / STEP for u in np.eye(x.size)]
    assert near(grad_x.ravel(), np.array(steps))
    alone = [[cot if place == kept else None for place, cot in enumerate(cotangents)] for kept in range(3)]
    parts = [jets.jet_vjp(network, theta, x, *row, directions) for row in alone]
    assert near(sum(part[0] for part in parts), grad_theta)
    assert near(sum(part[1] for part in parts), grad_x)


@each_network
def test_slopes_by_step_are_those_of_the_formulas(number, sizes, spec, output, loss):
    (network, theta, x), directions, rng = drawn(number, sizes, spec, output, loss)
    cotangents = [rng.normal(size=part.shape) for part in jets.input_jet(network, theta, x, directions)]
    for call in (
        lambda by_step: jets.input_jet(network, theta, x, directions, by_step=by_step),
        lambda by_step: [jets.laplacian(network, theta, x, by_step=by_step)],
        lambda by_step: [jets.input_hessian(network, theta, x, by_step=by_step)],
        lambda by_step: jets.jet_vjp(network, theta, x, *cotangents, directions, by_step=by_step),
    ):
        for formula, step in zip(call(False), call(True), strict=True):
            assert near(formula, step)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("by_sample", [False, True])
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_the_equation(name, by_sample, weighted):
    """Value from the Hessian, gradient and Gauss-Newton product from the Jacobian by complex steps."""
    number = 200 + ACTIVATION_NAMES.index(name)
    (network, theta, x), _, rng = drawn(number, [2, 4, 3, 1], name, name, "squared_error")
    n = (5,) if by_sample else ()
    equation = jets.Equation(rng.normal(size=n), rng.normal(size=(*n, 2)), rng.normal(size=(*n, 2, 2)))
    f, weight, direction = (
        rng.normal(size=5),
        rng.uniform(0.1, 2.0, 5) if weighted else None,
        rng.normal(size=theta.size),
    )
    u, gradient, _ = jets.input_jet(network, theta, x)
    left = equation.c * u[:, 0] + (equation.b * gradient[:, 0]).sum(axis=1)
    left += (equation.D * jets.input_hessian(network, theta, x)).sum(axis=(1, 2))
    value, grad = jets.pde_value_and_grad(network, theta, x, f, equation, weight)
    assert value == pytest.approx(np.average((left - f) ** 2, weights=weight), rel=1e-13)

    def lefts(unit):
        return equation.of(*equation.jet(network, theta + 1j * STEP * unit, x, False).outputs)

    J = np.stack([lefts(unit).imag / STEP for unit in np.eye(theta.size)])
    share = np.full(5, 0.2) if weight is None else weight / weight.sum()
    assert near(grad, J @ (2.0 * share * (left - f)))
    expected = J @ (2.0 * share * (J.T @ direction))
    assert near(jets.pde_gauss_newton_vp(network, theta, direction, x, equation, weight), expected)
