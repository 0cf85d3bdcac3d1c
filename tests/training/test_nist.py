"""Levenberg-Marquardt on the reference datasets of NIST for nonlinear regression, with their certified values.

Networks express Rat42 (a sigmoid) and Lanczos2 and 3 (three exponentials) with some parameters frozen. The others are
told to the solver by plain residuals. All numbers were compared with the .dat files that lmfit 1.3.4 ships.
https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml
"""

import pickle

import numpy as np
import pytest
from solvers import run

import backprop
from backprop import _core

# Rat42, by a network: y = b1 / (1 + exp(b2 - b3 x)) ------------------------------------------------------------------

RAT42_X = np.array([9.0, 14, 21, 28, 42, 57, 63, 70, 79])
RAT42_Y = np.array([8.930, 10.800, 18.590, 22.330, 39.350, 56.110, 61.730, 64.620, 67.080])
RAT42 = np.array([7.2462237576e01, 2.6180768402e00, 6.7359200066e-02]), 8.0565229338e00


@pytest.mark.parametrize("start", [(100, 1, 0.1), (75, 2.5, 0.07)])
def test_rat42(start):
    net = backprop.Network([1, 1, 1], activations="sigmoid", rng=0)
    certified, sum_of_squares = RAT42
    b1, b2, b3 = start
    free = np.array([True, True, True, False])  # W_1, b_1, W_2, b_2
    done = run("lm", net, RAT42_X[:, None], RAT42_Y[:, None], start=[b3, -b2, b1, 0], free=free, tol=1e-10)
    W1, bias, W2, zero = done.params
    np.testing.assert_allclose([W2, -bias, W1], certified, rtol=1e-9)
    assert done.solver.loss * 9 == pytest.approx(sum_of_squares, rel=1e-10)
    assert zero == 0


# Lanczos, by a network: y = b1 exp(-b2 x) + b3 exp(-b4 x) + b5 exp(-b6 x) ---------------------------------------------

LANCZOS_X = np.arange(24) * 0.05
LANCZOS_Y = sum(b * np.exp(-k * LANCZOS_X) for b, k in ((0.0951, 1), (0.8607, 3), (1.5576, 5)))
LANCZOS = {  # significant digits of y, certified values, sum of squares, agreement
    "Lanczos2": (
        6,
        [9.6251029939e-02, 1.0057332849e00, 8.6424689056e-01, 3.0078283915e00, 1.5529016879e00, 5.0028798100e00],
        2.2299428125e-11,
        1e-4,
    ),
    "Lanczos3": (
        5,
        [8.6816414977e-02, 9.5498101505e-01, 8.4400777463e-01, 2.9515951832e00, 1.5825685901e00, 4.9863565084e00],
        1.6117193594e-08,
        1e-5,
    ),
}


@pytest.mark.parametrize("name", LANCZOS)
@pytest.mark.parametrize("start", [(1.2, 0.3, 5.6, 5.5, 6.5, 7.6), (0.5, 0.7, 3.6, 4.2, 4, 6.3)])
def test_lanczos(name, start):
    digits, certified, sum_of_squares, rtol = LANCZOS[name]
    y = np.array([float(f"{value:.{digits - 1}e}") for value in LANCZOS_Y]) if digits == 6 else LANCZOS_Y.round(4)
    net = backprop.Network([1, 3, 1], activations="exp", rng=0)
    free = np.array([True] * 3 + [False] * 3 + [True] * 3 + [False])
    b, k = np.array(start[::2]), np.array(start[1::2])
    done = run(
        "lm", net, LANCZOS_X[:, None], y[:, None], start=[*-k, 0, 0, 0, *b, 0], free=free, tol=1e-18, max_iter=20000
    )
    order = np.argsort(-done.params[:3])
    found = np.ravel([done.params[6:9][order], -done.params[:3][order]], order="F")
    assert done.solver.loss * 24 == pytest.approx(sum_of_squares, rel=1e-5)
    np.testing.assert_allclose(found, certified, rtol=rtol)


# By plain residuals --------------------------------------------------------------------------------------------------

MISRA_Y = np.array(
    [10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78]
)  # fmt: skip
MISRA_X = np.array(
    [77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0]
)  # fmt: skip
DANWOOD_X = np.array([1.309, 1.471, 1.490, 1.565, 1.611, 1.680])
DANWOOD_Y = np.array([2.138, 3.421, 3.597, 4.340, 4.882, 5.660])

MODELS = {  # x, y, the model, starts, certified values, sum of squares
    "Misra1a": (
        MISRA_X,
        MISRA_Y,
        lambda b, x: b[0] * (1 - np.exp(-b[1] * x)),
        [(500, 0.0001), (250, 0.0005)],
        [2.3894212918e02, 5.5015643181e-04],
        1.2455138894e-01,
    ),
    "Misra1b": (
        MISRA_X,
        MISRA_Y,
        lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
        [(500, 0.0001), (300, 0.0002)],
        [3.3799746163e02, 3.9039091287e-04],
        7.5464681533e-02,
    ),
    "Misra1c": (
        MISRA_X,
        MISRA_Y,
        lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
        [(500, 0.0001), (600, 0.0002)],
        [6.3642725809e02, 2.0813627256e-04],
        4.0966836971e-02,
    ),
    "Misra1d": (
        MISRA_X,
        MISRA_Y,
        lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
        [(500, 0.0001), (450, 0.0003)],
        [4.3736970754e02, 3.0227324449e-04],
        5.6419295283e-02,
    ),
    "DanWood": (
        DANWOOD_X,
        DANWOOD_Y,
        lambda b, x: b[0] * x ** b[1],
        [(1, 5), (0.7, 4)],
        [7.6886226176e-01, 3.8604055871e00],
        4.3173084083e-03,
    ),
}


def jacobian(model, b, x):
    """By the complex step, right to rounding."""
    return np.stack([model(b + 1e-30j * b * (np.arange(b.size) == k), x).imag / (1e-30 * b[k]) for k in range(b.size)])


@pytest.mark.parametrize(("name", "which"), [(name, which) for name in MODELS for which in (0, 1)])
def test_plain_residuals(name, which):
    x, y, model, starts, certified, sum_of_squares = MODELS[name]
    solver = _core.LevenbergMarquardt(np.array(starts[which], float))
    theta = solver.theta
    solver.tell_start(float(np.square(model(theta, x) - y).sum()))
    for _ in range(1000):
        if solver.needs_equations:
            b = solver.theta
            J = jacobian(model, b, x)
            solver.tell_equations(2 * J @ J.T, 2 * J @ (model(b, x) - y))
        if (theta := solver.ask()) is None:
            break
        with np.errstate(all="ignore"):
            solver.tell(float(np.square(model(theta, x) - y).sum()))
    assert theta is None
    np.testing.assert_allclose(solver.theta, certified, rtol=2e-10)
    assert solver.loss == pytest.approx(sum_of_squares, rel=1e-10)


# The factorization and the damping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 16, 33, 100])
def test_a_damped_step_solves_its_equations(n):
    rng = np.random.default_rng(n)
    J = rng.normal(size=(2 * n, n)) * 10.0 ** rng.integers(-3, 4, n)
    gradient = rng.normal(size=n) * np.sqrt(np.diag(J.T @ J))
    solver = _core.LevenbergMarquardt(np.zeros(n))
    solver.tell_start(1.0)
    solver.tell_equations(J.T @ J, gradient)
    H = J.T @ J + solver.damping * np.diag(np.diag(J.T @ J))
    step = solver.ask()
    scale = np.sqrt(np.diag(H))
    np.testing.assert_allclose((H @ step + gradient) / scale, 0, atol=1e-12 * n)


def test_steps_that_are_not_good_raise_the_damping():
    solver = _core.LevenbergMarquardt(np.zeros(2))
    solver.tell_start(1.0)
    solver.tell_equations(np.eye(2), np.ones(2))
    sizes, dampings = [], []
    for loss in (np.nan, np.inf, 2.0, 1.0 + 1e-3):
        dampings.append(solver.damping)
        sizes.append(abs(solver.ask()[0]))
        assert solver.tell(loss) == "evaluate"
    assert solver.n_iter == 0
    np.testing.assert_allclose(np.divide(dampings[1:], dampings[:-1]), [2, 4, 8])
    assert (np.diff(sizes) < 0).all()
    solver.ask()
    assert solver.tell(0.5) == "iterated"
    assert solver.needs_equations


def test_the_scale_of_the_damping_never_falls_and_is_pickled():
    solver = _core.LevenbergMarquardt(np.zeros(2))
    solver.tell_start(1.0)
    solver.tell_equations(np.diag([4.0, 1.0]), np.ones(2))
    theta = solver.ask()
    assert solver.tell(0.0) == "iterated"
    copy = pickle.loads(pickle.dumps(solver))
    for one in (solver, copy):
        one.tell_equations(np.diag([0.5, 2.0]), np.ones(2))
        step = one.ask() - theta
        np.testing.assert_allclose(step, -1 / (np.array([0.5, 2]) + one.damping * np.array([4, 2])), rtol=1e-14)


@pytest.mark.parametrize("H", [[[0.0, 0], [0, 0]], [[1.0, 1], [1, 1]], [[1e300, 0], [0, 1e-300]]])
def test_singular_equations_have_steps(H):
    solver = _core.LevenbergMarquardt(np.zeros(2))
    solver.tell_start(1.0)
    solver.tell_equations(np.array(H), np.ones(2))
    assert np.isfinite(solver.ask()).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_equations_that_are_not_finite_end(bad):
    solver = _core.LevenbergMarquardt(np.zeros(2))
    solver.tell_start(1.0)
    solver.tell_equations(np.full((2, 2), bad), np.ones(2))
    assert solver.ask() is None
