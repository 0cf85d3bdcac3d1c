"""SciPy's check_grad, an independent judge, on every activation with every loss, in float64 and off the kinks."""

import numpy as np
import pytest
from problems import ACTIVATION_NAMES, LOSS_NAMES, Y_HAT_LOSSES, random_problem
from scipy.optimize import approx_fprime, check_grad

STEP = 1.5e-8
MARGIN = 1e-5  # a step moves every preactivation by less
TOLERANCE = 2e-6  # forward differences at |g| of order 1; test_reference and test_kernels demand 1e-13


def is_far_from_kinks(problem):
    layers = problem.net.layer_gradients(problem.x, problem.y)
    _, activations, _ = problem.specification
    for (row, _), a in zip(activations, layers.a[1:], strict=True):
        if any(np.abs(a - kink).min() < MARGIN for kink in row.kinks):
            return False
    y_hat, y = layers.h[-1], problem.y
    kinks_of_loss = {
        "absolute_error": lambda: y_hat - y,
        "quantile": lambda: y_hat - y,
        "huber": lambda: np.abs(y_hat - y) - 1,
        "hinge": lambda: 1 - y * layers.a[-1],
    }
    distance = kinks_of_loss.get(problem.loss)
    return distance is None or np.abs(distance()).min() > MARGIN


def check(rng, **options):
    """The error of check_grad relative to |g|; problems with a preactivation at a kink are drawn again."""
    for _ in range(50):
        problem = random_problem(rng, [3, 5, 4, 2], n_samples=6, limit=2.5, **options)
        if not is_far_from_kinks(problem):
            continue
        fun = problem.net.objective(problem.x, problem.y)
        theta = problem.net.params.copy()
        norm = np.linalg.norm(fun.grad(theta))
        if norm > 1e-2:
            break
    else:
        pytest.fail("no problem away from kinks in 50 draws")
    error = check_grad(fun.value, fun.grad, theta, epsilon=STEP)
    assert error <= TOLERANCE * max(1.0, abs(fun.value(theta)) / norm) * norm
    assert error < 1e-3 * norm
    return fun, theta, norm


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_hidden_activation_and_loss(activation, loss):
    rng = np.random.default_rng([1, ACTIVATION_NAMES.index(activation), LOSS_NAMES.index(loss)])
    check(rng, activations=activation, loss=loss)


@pytest.mark.parametrize("loss", Y_HAT_LOSSES)
@pytest.mark.parametrize("output", ACTIVATION_NAMES)
def test_output_and_loss(output, loss):
    rng = np.random.default_rng([2, ACTIVATION_NAMES.index(output), LOSS_NAMES.index(loss)])
    check(rng, output=output, loss=loss)


def test_the_check_sees_a_wrong_gradient():
    """The tolerance finds a factor of 1.001, one component that is off by 1 %, and two that are swapped."""
    fun, theta, norm = check(np.random.default_rng(3), activations="tanh", loss="squared_error")
    grad = fun.grad(theta)
    largest = np.abs(grad).argmax()
    off = grad.copy()
    off[largest] *= 1.01
    swapped = grad.copy()
    swapped[[largest, largest - 1]] = grad[[largest - 1, largest]]
    by_differences = approx_fprime(theta, fun.value, STEP)
    for wrong in (1.001 * grad, off, swapped):
        assert np.linalg.norm(wrong - by_differences) > 10 * TOLERANCE * norm
