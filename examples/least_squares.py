"""Least squares against certified results: SciPy on `residuals`, Levenberg-Marquardt on `normal_equations`.

NIST publishes nonlinear regressions with parameters certified to eleven digits. Three of the models are dense networks
with one input, one hidden layer and one output. Some of their parameters are fixed:

    Rat42   1-1-1, sigmoid   pasture yield against growing time, a logistic curve
    MGH17   1-2-1, exp       a sum of two exponentials: hard, from a start that is far away
    ENSO    1-3-1, sin       pressure differences that drive the trade winds: three cycles, one of them a year long

Both solvers begin at NIST's first start, the one far from the solution. Both have to arrive at the certified values:

- `scipy.optimize.least_squares` gets r and J from `net.residuals(x, y)`. J has n_samples x n_params entries.
- `levenberg_marquardt` below gets J^T J and J^T r from `net.normal_equations(x, y)`, which never stores J. For 168
  months that saves nothing, but for a million samples and a thousand parameters J takes 8 GB, and J^T J takes 8 MB.
  The price: J^T J squares the condition number of J, so a single step has fewer digits. But the solution is where
  J^T r = 0, which does not depend on J^T J; the last steps correct the errors of earlier ones.

SciPy stops when the sum of squares no longer falls. Near a minimum it is flat to half of the digits: with ENSO's large
residuals, six digits of the parameters are left. `levenberg_marquardt` goes on, and then judges its steps by their
length. J^T J also gives the standard errors, s^2 (J^T J)^-1, which are certified as well.

Run: python examples/least_squares.py [--plot least_squares.png]
It takes about 2 seconds.

Source: NIST/ITL Statistical Reference Datasets, Nonlinear Regression, https://www.itl.nist.gov/div898/strd/ (data of a
United States agency, not under copyright). Rat42: D. Ratkowsky, Nonlinear Regression Modeling (1983), p. 61. MGH17:
M. Osborne, in: Numerical Methods for Non-linear Optimization (1972). ENSO: D. Kahaner, C. Moler and S. Nash, Numerical
Methods and Software (1989), p. 441.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import least_squares

from backprop import Network
from backprop.demo import figure_file

SCIPY, LM = "least_squares on residuals", "LM on normal_equations"
BLUE, ORANGE, GREEN, PURPLE = "#1f5a92", "#d9722b", "#3a8a4d", "#7b4fa3"

# fmt: off
RAT42_X = [9, 14, 21, 28, 42, 57, 63, 70, 79]
RAT42_Y = [8.930, 10.800, 18.590, 22.330, 39.350, 56.110, 61.730, 64.620, 67.080]
MGH17_Y = [  # at x = 0, 10, ..., 320
    0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718, 0.685, 0.658, 0.628, 0.603,
    0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411,
    0.406,
]
ENSO_Y = [  # in months 1, 2, ..., 168
    12.9, 11.3, 10.6, 11.2, 10.9, 7.5, 7.7, 11.7, 12.9, 14.3, 10.9, 13.7,
    17.1, 14.0, 15.3, 8.5, 5.7, 5.5, 7.6, 8.6, 7.3, 7.6, 12.7, 11.0,
    12.7, 12.9, 13.0, 10.9, 10.4, 10.2, 8.0, 10.9, 13.6, 10.5, 9.2, 12.4,
    12.7, 13.3, 10.1, 7.8, 4.8, 3.0, 2.5, 6.3, 9.7, 11.6, 8.6, 12.4,
    10.5, 13.3, 10.4, 8.1, 3.7, 10.7, 5.1, 10.4, 10.9, 11.7, 11.4, 13.7,
    14.1, 14.0, 12.5, 6.3, 9.6, 11.7, 5.0, 10.8, 12.7, 10.8, 11.8, 12.6,
    15.7, 12.6, 14.8, 7.8, 7.1, 11.2, 8.1, 6.4, 5.2, 12.0, 10.2, 12.7,
    10.2, 14.7, 12.2, 7.1, 5.7, 6.7, 3.9, 8.5, 8.3, 10.8, 16.7, 12.6,
    12.5, 12.5, 9.8, 7.2, 4.1, 10.6, 10.1, 10.1, 11.9, 13.6, 16.3, 17.6,
    15.5, 16.0, 15.2, 11.2, 14.3, 14.5, 8.5, 12.0, 12.7, 11.3, 14.5, 15.1,
    10.4, 11.5, 13.4, 7.5, 0.6, 0.3, 5.5, 5.0, 4.6, 8.2, 9.9, 9.2,
    12.5, 10.9, 9.9, 8.9, 7.6, 9.5, 8.4, 10.7, 13.6, 13.7, 13.7, 16.5,
    16.8, 17.1, 15.4, 9.5, 6.1, 10.1, 9.3, 5.3, 11.2, 16.6, 15.6, 12.0,
    11.5, 8.6, 13.8, 8.7, 8.6, 8.6, 8.7, 12.8, 13.2, 14.0, 13.4, 14.8,
]
# fmt: on


@dataclass
class Problem:
    """A regression of NIST whose model is a network; b are NIST's parameters, theta is the network's `params`.

    `free` is True for each entry of theta that is fitted; `theta_of_b` and `b_of_theta` translate. `b_of_theta` must
    take complex numbers, because the complex step differentiates it for the standard errors of b.
    """

    name: str
    n_hidden: int
    activation: str
    x: np.ndarray
    y: np.ndarray
    free: np.ndarray
    start: list[float]
    certified: list[float]
    certified_error: list[float]
    certified_rss: float
    theta_of_b: Callable
    b_of_theta: Callable

    def network(self) -> Network:
        """The network that is the model."""
        return Network([1, self.n_hidden, 1], activations=self.activation)


# theta is W_1, b_1, W_2, b_2 in this order.


def rat42() -> Problem:
    """The logistic curve y = b1 / (1 + exp(b2 - b3 x)) = b1 sigmoid(b3 x - b2) + 0."""
    return Problem(
        name="Rat42",
        n_hidden=1,
        activation="sigmoid",
        x=np.array(RAT42_X, float)[:, None],
        y=np.array(RAT42_Y),
        free=np.array([True, True, True, False]),
        start=[100, 1, 0.1],
        certified=[7.2462237576e01, 2.6180768402e00, 6.7359200066e-02],
        certified_error=[1.7340283401e00, 8.8295217536e-02, 3.4465663377e-03],
        certified_rss=8.0565229338e00,
        theta_of_b=lambda b: np.array([b[2], -b[1], b[0], 0.0]),
        b_of_theta=lambda t: np.array([t[2], -t[1], t[0]]),
    )


def mgh17() -> Problem:
    """Two exponentials, y = b1 + b2 exp(-b4 x) + b3 exp(-b5 x): the hidden layer has no biases."""
    return Problem(
        name="MGH17",
        n_hidden=2,
        activation="exp",
        x=10.0 * np.arange(33)[:, None],
        y=np.array(MGH17_Y),
        free=np.array([True, True, False, False, True, True, True]),
        start=[50, 150, -100, 1, 2],
        certified=[3.7541005211e-01, 1.9358469127e00, -1.4646871366e00, 1.2867534640e-02, 2.2122699662e-02],
        certified_error=[2.0723153551e-03, 2.2031669222e-01, 2.2175707739e-01, 4.4861358114e-04, 8.9471996575e-04],
        certified_rss=5.4648946975e-05,
        theta_of_b=lambda b: np.array([-b[3], -b[4], 0.0, 0.0, b[1], b[2], b[0]]),
        b_of_theta=lambda t: np.array([t[6], t[4], t[5], -t[0], -t[1]]),
    )


def enso() -> Problem:
    """Three cycles, y = b1 + sum of p cos(2 pi x / T) + q sin(2 pi x / T); the first period T is a year, and fixed.

    A cycle is A sin(w x + phi), a hidden unit, with w = 2 pi / T, p = A sin(phi), q = A cos(phi).
    """

    def theta_of_b(b):
        p, q = np.array([b[1], b[4], b[7]]), np.array([b[2], b[5], b[8]])
        w = 2 * np.pi / np.array([12.0, b[3], b[6]])
        return np.concatenate([w, np.arctan2(p, q), np.hypot(p, q), [b[0]]])

    def b_of_theta(t):
        w, phi, A = t[0:3], t[3:6], t[6:9]
        p, q, T = A * np.sin(phi), A * np.cos(phi), 2 * np.pi / w
        return np.array([t[9], p[0], q[0], T[1], p[1], q[1], T[2], p[2], q[2]])

    return Problem(
        name="ENSO",
        n_hidden=3,
        activation="sin",
        x=np.arange(1.0, 169.0)[:, None],
        y=np.array(ENSO_Y),
        free=np.array([False] + [True] * 9),
        start=[11, 3, 0.5, 40, -0.7, -1.3, 25, -0.3, 1.4],
        certified=[
            *(1.0510749193e01, 3.0762128085e00, 5.3280138227e-01, 4.4311088700e01, -1.6231428586e00),
            *(5.2554493756e-01, 2.6887614440e01, 2.1232288488e-01, 1.4966870418e00),
        ],
        certified_error=[
            *(1.7488832467e-01, 2.4310052139e-01, 2.4354686618e-01, 9.4408025976e-01, 2.8078369611e-01),
            *(4.8073701119e-01, 4.1612939130e-01, 5.1460022911e-01, 2.5434468893e-01),
        ],
        certified_rss=7.8853978668e02,
        theta_of_b=theta_of_b,
        b_of_theta=b_of_theta,
    )


@dataclass
class Fit:
    """The parameters found, one theta per accepted step, and how many steps were tried."""

    theta: np.ndarray
    n_steps: int
    path: list[np.ndarray] = field(default_factory=list)


def levenberg_marquardt(net: Network, x, y, theta, free, max_steps: int = 2000) -> Fit:
    """Minimise the sum of squares from `normal_equations`: (J^T J + mu D) step = -J^T r, D the largest diagonal so far.

    After K. Madsen, H. Nielsen and O. Tingleff, Methods for Non-linear Least Squares Problems (2004), scaled as by
    J. More (1978).
    """
    theta, n = theta.copy(), len(x)
    ssq = n * net.loss(x, y, params=theta)
    D, mu, nu, last = np.zeros(free.sum()), 1e-3, 2.0, np.inf
    fit = Fit(theta, 0, [theta.copy()])
    JTJ, JTr = net.normal_equations(x, y, params=theta)
    while fit.n_steps < max_steps:
        A, g = JTJ[np.ix_(free, free)], JTr[free]
        D = np.maximum(D, A.diagonal())
        step = cho_solve(cho_factor(A + np.diag(mu * D)), -g)
        length = np.sqrt(step @ (D * step) / (theta[free] @ (D * theta[free])))
        predicted = step @ (mu * D * step - g)
        trial = theta.copy()
        trial[free] += step
        fit.n_steps += 1
        trial_ssq = n * net.loss(x, y, params=trial)
        settled = predicted < 1e-13 * ssq  # the sum of squares has too few digits to judge this step: use its length
        if settled and length >= last:  # steps no longer shrink: only rounding is left
            break
        if settled or trial_ssq < ssq:
            gain = 1.0 if settled else (ssq - trial_ssq) / predicted
            mu, nu = mu * max(1 / 3, 1 - (2 * gain - 1) ** 3), 2.0
            theta, ssq, last = trial, trial_ssq, length
            fit.path.append(theta.copy())
            JTJ, JTr = net.normal_equations(x, y, params=theta)
        else:
            mu, nu = mu * nu, 2 * nu
    fit.theta = theta
    return fit


def scipy_fit(net: Network, x, y, theta, free) -> Fit:
    """Minimise the sum of squares with SciPy's port of MINPACK, from `residuals`."""
    fun, jac = net.residuals(x, y)
    fit = Fit(theta, 0, [])

    def full(free_theta):
        whole = theta.copy()
        whole[free] = free_theta
        return whole

    def jacobian(free_theta):
        fit.path.append(full(free_theta))  # MINPACK asks for J when it accepts a step
        return jac(full(free_theta))[:, free]

    found = least_squares(
        lambda free_theta: fun(full(free_theta)),
        theta[free],
        jacobian,
        method="lm",
        x_scale="jac",
        ftol=1e-15,
        xtol=1e-15,
        gtol=1e-15,
        max_nfev=5000,
    )
    fit.theta, fit.n_steps = full(found.x), found.nfev
    fit.path.append(fit.theta)
    return fit


def errors(problem: Problem, net: Network, theta) -> tuple[np.ndarray, float]:
    """Standard errors of b, from s^2 (J^T J)^-1 and the derivative db/dtheta; and the sum of squares."""
    free = problem.free
    n, p = len(problem.x), int(free.sum())
    ssq = n * net.loss(problem.x, problem.y, params=theta)
    JTJ, _ = net.normal_equations(problem.x, problem.y, params=theta)
    covariance = ssq / (n - p) * np.linalg.inv(JTJ[np.ix_(free, free)])
    h = 1e-30
    T = np.stack([problem.b_of_theta(theta + 1j * h * e).imag / h for e in np.eye(len(theta))[free]], axis=1)
    return np.sqrt(np.diag(T @ covariance @ T.T)), ssq


def digits(found, certified) -> float:
    """Digits in which all values agree, log10 of the relative error; NIST certifies 11."""
    worst = np.max(np.abs(np.asarray(found) - certified) / np.abs(certified))
    return min(11.0, -np.log10(max(worst, 1e-16)))


def draw(path: str, problem: Problem, fits: dict[tuple[str, str], Fit], problems: list[Problem]) -> None:
    """Write a figure: the data of one problem with its fit, and each step's distance from the certified values."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 4.8), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])

    net, theta = problem.network(), fits[problem.name, LM].theta
    months = np.linspace(1, 168, 1000)[:, None]
    slow = theta.copy()
    slow[6] = 0.0  # the amplitude of the year's cycle, the first hidden unit
    left.plot(problem.x, problem.y, "o", color="0.6", markersize=3.5, label="monthly observations")
    left.plot(months, net.forward(months, params=theta), color=BLUE, linewidth=1.8, label="the network")
    periods = problem.b_of_theta(theta)[[3, 6]]
    cycles = f"its cycles of {periods[0]:.1f} and {periods[1]:.1f} months"
    left.plot(months, net.forward(months, params=slow), color=ORANGE, linewidth=2.2, label=cycles)
    left.set_ylim(-0.5, 22)
    left.set_xlabel("month")
    left.set_ylabel("pressure difference, Easter Island - Darwin")
    left.set_title("ENSO: three hidden units are three cycles")
    left.legend(loc="upper left", ncols=3, fontsize=8, frameon=False)

    for color, each in zip((GREEN, PURPLE, BLUE), problems, strict=True):
        certified = np.array(each.certified)
        for solver, style in ((SCIPY, ":"), (LM, "-")):
            distances = [
                np.max(np.abs(each.b_of_theta(theta) - certified) / np.abs(certified))
                for theta in fits[each.name, solver].path
            ]
            steps = np.arange(1, len(distances) + 1)
            right.loglog(steps, distances, style, color=color, linewidth=1.8)
            right.plot(steps[-1], distances[-1], "o" if solver == LM else "s", color=color, markersize=6)
        right.text(steps[-1] * 1.15, distances[-1], each.name, color=color, va="center", fontweight="bold")
    right.axhspan(1e-14, 1e-11, color="0.9")
    right.text(1.1, 6e-13, "beyond the eleven digits that NIST certifies", fontsize=8, color="0.35", va="center")
    right.plot([], [], "-o", color="0.3", label=LM)
    right.plot([], [], ":s", color="0.3", label=SCIPY)
    right.legend(loc="upper right", frameon=False)
    right.set_xlim(1, 3000)
    right.set_ylim(2e-13, 1e6)
    right.set_xlabel("accepted step")
    right.set_ylabel("largest relative error of a parameter")
    right.set_title("From NIST's far start to its certified values")
    right.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def main(argv=None) -> None:
    """Fit the three problems with both solvers, and print how many digits are NIST's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=figure_file, metavar="FILE", help="draw the fits and the way there")
    parser.add_argument("--quick", action="store_true", help="the same: the whole takes 2 seconds")
    arguments = parser.parse_args(argv)

    problems = [rat42(), mgh17(), enso()]
    fits = {}
    print(
        "Digits that agree with NIST's certified values, of 11 (parameters, standard errors, residual sum of squares)"
    )
    print(f"{'problem':8} {'network':15} {'n':>4} {'solver':30} {'steps':>5} {'b':>6} {'s.e.':>6} {'RSS':>6}")
    for problem in problems:
        net = problem.network()
        theta = problem.theta_of_b(np.array(problem.start, float))
        for solver, fit_by in ((SCIPY, scipy_fit), (LM, levenberg_marquardt)):
            fit = fit_by(net, problem.x, problem.y, theta, problem.free)
            fits[problem.name, solver] = fit
            b = problem.b_of_theta(fit.theta)
            b_error, ssq = errors(problem, net, fit.theta)
            print(
                f"{problem.name:8} {f'1-{problem.n_hidden}-1 {problem.activation}':15} {len(problem.x):4} {solver:30} "
                f"{fit.n_steps:5} {digits(b, problem.certified):6.1f} {digits(b_error, problem.certified_error):6.1f} "
                f"{digits(ssq, problem.certified_rss):6.1f}"
            )
    if arguments.plot:
        draw(arguments.plot, problems[-1], fits, problems)
        print(f"figure: {arguments.plot}")


if __name__ == "__main__":
    main()
