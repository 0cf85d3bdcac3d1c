"""Optimal design with a network as the model: SciPy's trust-constr, with exact second derivatives and without.

A tubular reactor makes B from A, and B decays to C. Both reactions give heat, and go faster when it is hotter, the
decay above all. Along the tube there are four jackets with coolant:

    dA/dt = -k_1 A,   dB/dt = k_1 A - k_2 B,   dT/dt = h (k_1 A + k_2 B) - a (T - T_jacket),   k_i = c_i exp(-E_i / R T)

The design x is the temperature of the feed and those of the four jackets. Wanted is the most B at the outlet, if at
least 93 % of A have reacted and what leaves is not above 320 K. A simulation takes milliseconds; a solver wants many,
and their derivatives. So a network 5-32-32-3 is fitted to 3,000 simulations, of yield, conversion and outlet
temperature. All derivatives of the network are exact:

    net.forward, net.input_jacobian, net.input_hessian     the objective
    net.constraint(lb, ub)                                 the constraints, with Jacobian and Hessian, for SciPy

trust-constr takes the exact Hessians, or builds approximations from gradients, by SR1 or BFGS. All start from the same
designs. The yield is flat near its best, since one jacket can do what the next one does. There exact Hessians pay: from
ten starts they need 30 iterations (median), SR1 60, BFGS 226, and one run of BFGS does not arrive. Nearly all of the
time is SciPy's own, about 1 ms an iteration, so fewer iterations are less time.
At the end the design is simulated, and improved on the simulation itself by SLSQP and differences: this shows what the
network costs, 0.05 % of yield.

Run: python examples/optimal_design.py [--plot optimal_design.png] [--quick]
It takes about 9 seconds on two cores, with --quick 4.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import BFGS, SR1, Bounds, NonlinearConstraint, OptimizeResult, minimize

from backprop import Network
from backprop.demo import figure_file

NAMES = ["feed", "jacket 1", "jacket 2", "jacket 3", "jacket 4"]
LOW, HIGH = np.array([300.0] * 5), np.array([350.0, 360.0, 360.0, 360.0, 360.0])  # K; x is -1 at LOW and 1 at HIGH
YIELD, CONVERSION, OUTLET = range(3)  # the outputs, in %, % and K
AT_LEAST = np.array([-np.inf, 93.0, -np.inf])
AT_MOST = np.array([np.inf, np.inf, 320.0])
EXACT = "exact"
MAXITER = 1000
GTOL = 1e-12  # trust-constr looks at the gradient before its barrier is small: with 1e-8, designs would be less exact


def kelvin(x: np.ndarray) -> np.ndarray:
    """The temperatures of a design."""
    return LOW + (x + 1) / 2 * (HIGH - LOW)


def reactor(x: np.ndarray, n_steps: int = 200) -> np.ndarray:
    """A, B (in % of the feed) and T along the tube, for each design x (n, 5): (n_steps + 1, 3, n), by Runge-Kutta."""
    feed, *jackets = kelvin(x).T
    dt = 8.0 / n_steps  # eight minutes in the tube

    def rate(state: np.ndarray, jacket: np.ndarray) -> np.ndarray:
        A, B, T = state
        reacts = 0.5 * np.exp(-60e3 / 8.314 * (1 / T - 1 / 340)) * A
        decays = 0.05 * np.exp(-90e3 / 8.314 * (1 / T - 1 / 340)) * B
        return np.stack([-reacts, reacts - decays, 0.24 * (reacts + decays) - 1.5 * (T - jacket)])

    state = np.stack([np.full_like(feed, 100.0), np.zeros_like(feed), feed])
    states = [state]
    for step in range(n_steps):
        jacket = jackets[4 * step // n_steps]
        k_1 = rate(state, jacket)
        k_2 = rate(state + dt / 2 * k_1, jacket)
        k_3 = rate(state + dt / 2 * k_2, jacket)
        k_4 = rate(state + dt * k_3, jacket)
        state = state + dt / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
        states.append(state)
    return np.stack(states)


def simulate(x: np.ndarray) -> np.ndarray:
    """Yield, conversion and outlet temperature of each design: (n, 3)."""
    A, B, T = reactor(x)[-1]
    return np.stack([B, 100 - A, T], axis=1)


def surrogate(n: int, max_iter: int) -> Network:
    """A network fitted to n simulations of random designs; its outputs have their units."""
    x = np.random.default_rng(0).uniform(-1, 1, (n, 5))
    y = simulate(x)
    mean, deviation = y.mean(axis=0), y.std(axis=0)
    net = Network([5, 32, 32, 3], activations="tanh", rng=0)
    net.fit(x, (y - mean) / deviation, max_iter=max_iter)
    net.weights[-1][...] *= deviation[:, None]
    net.biases[-1][...] = net.biases[-1] * deviation + mean
    return net


@dataclass
class Run:
    """One run of trust-constr: its result, its time, and the designs on the way."""

    result: OptimizeResult
    seconds: float
    path: list[np.ndarray] = field(default_factory=list)


def optimise(net: Network, start: np.ndarray, how: str) -> Run:
    """Maximise the yield that the network predicts, within its constraints."""
    constraint = net.constraint(AT_LEAST, AT_MOST)
    minus_yield = np.array([-1.0, 0.0, 0.0])
    if how == EXACT:
        hess = lambda x: net.input_hessian(x[None], minus_yield)[0]  # noqa: E731
    else:
        approximate = {"BFGS": BFGS, "SR1": SR1}[how]
        hess = approximate()
        constraint = NonlinearConstraint(constraint.fun, AT_LEAST, AT_MOST, constraint.jac, approximate())
    path = [start]
    begin = time.perf_counter()
    result = minimize(
        lambda x: -net.forward(x[None])[0, YIELD],
        start,
        jac=lambda x: -net.input_jacobian(x[None])[0, YIELD],
        hess=hess,
        method="trust-constr",
        bounds=Bounds(-1, 1),
        constraints=[constraint],
        callback=lambda x, state: path.append(x.copy()),
        options={"maxiter": MAXITER, "gtol": GTOL, "xtol": 1e-8},
    )
    return Run(result, time.perf_counter() - begin, path)


def improve(x: np.ndarray) -> OptimizeResult:
    """Go on from x on the simulation itself, by SLSQP and central differences, whose simulations run as one batch."""

    def slopes(x: np.ndarray) -> np.ndarray:
        h = 1e-4 * np.eye(5)
        return ((simulate(x + h) - simulate(x - h)) / 2e-4).T

    signs = np.array([1.0, -1.0])  # conversion - 93 >= 0, 320 - outlet >= 0
    return minimize(
        lambda x: -simulate(x[None])[0, YIELD],
        x,
        jac=lambda x: -slopes(x)[YIELD],
        method="SLSQP",
        bounds=Bounds(-1, 1),
        constraints={
            "type": "ineq",
            "fun": lambda x: signs * (simulate(x[None])[0, 1:] - [AT_LEAST[CONVERSION], AT_MOST[OUTLET]]),
            "jac": lambda x: signs[:, None] * slopes(x)[1:],
        },
        options={"ftol": 1e-9},
    )


def draw(path: str, runs: dict[str, list[Run]], best: np.ndarray) -> None:
    """Write a figure: the way to the optimum with each Hessian, and the reactor of the design that was found."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.2, 1, 1])
    for how, color in (("BFGS", "#d9722b"), ("SR1", "#3a8a4d"), (EXACT, "#1f5a92")):
        for i, run in enumerate(runs[how]):
            distances = np.linalg.norm(np.array(run.path) - best, axis=1)
            left.loglog(
                np.arange(1, len(distances) + 1),
                np.maximum(distances, 1e-9),
                color=color,
                linewidth=1.2,
                alpha=0.8,
                label=how if i == 0 else None,
            )
    left.set_xlabel("iteration of trust-constr")
    left.set_title("distance from the optimum, each start", fontsize=10)
    left.legend(frameon=False, title="Hessian")
    left.grid(alpha=0.25)

    states = reactor(best[None])[:, :, 0]
    minutes = np.linspace(0, 8, len(states))
    A, B, T = states.T
    for values, name, color in ((A, "A", "0.5"), (B, "B", "#1f5a92"), (100 - A - B, "C", "#d9722b")):
        middle.plot(minutes, values, color=color, linewidth=2, label=name)
    middle.set_xlabel("minutes in the tube")
    middle.set_title("the best design, simulated: % of the feed", fontsize=10)
    middle.legend(frameon=False)
    right.plot(minutes, T, color="black", linewidth=2, label="in the tube")
    right.stairs(kelvin(best)[1:], [0, 2, 4, 6, 8], color="#3a8a4d", linewidth=2, baseline=None, label="jackets")
    right.axhline(AT_MOST[OUTLET], color="0.6", linestyle=":", label="limit at the outlet")
    right.set_xlabel("minutes in the tube")
    right.set_title("temperatures, K", fontsize=10)
    right.legend(frameon=False)
    for axes in (middle, right):
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=100)


def main(argv=None) -> None:
    """Fit the network, optimise with each Hessian from the same starts, and simulate what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=figure_file, metavar="FILE", help="draw the convergence and the design")
    parser.add_argument("--quick", action="store_true", help="fewer simulations, iterations of the fit and starts")
    arguments = parser.parse_args(argv)
    n, max_iter, n_starts = (1000, 300, 3) if arguments.quick else (3000, 1500, 10)

    begin = time.perf_counter()
    net = surrogate(n, max_iter)
    seconds = time.perf_counter() - begin
    rng = np.random.default_rng(1)
    new = rng.uniform(-1, 1, (1000, 5))
    error = np.sqrt(np.mean((net.forward(new) - simulate(new)) ** 2, axis=0))
    print(f"network 5-32-32-3, tanh, fitted to {n} simulations in {seconds:.1f} s")
    print("its errors at new designs (rms): yield {:.2f} %, conversion {:.2f} %, outlet {:.2f} K".format(*error))

    starts = rng.uniform(-1, 1, (n_starts, 5))
    runs = {how: [optimise(net, start, how) for start in starts] for how in (EXACT, "SR1", "BFGS")}
    every = [run.result for each in runs.values() for run in each if run.result.constr_violation < 1e-6]
    best = min(every, key=lambda result: result.fun)

    print(f"\ntrust-constr from {n_starts} starts: medians, and the most in brackets")
    print("arrived: within 0.001 % of the best yield that any run found")
    print(f"{'Hessian':8} {'iterations':>12} {'evaluations':>12} {'seconds':>8} {'arrived':>9} {'shortfall, %':>13}")
    for how, each in runs.items():
        iterations = [run.result.nit for run in each]
        shortfalls = np.array([run.result.fun - best.fun for run in each])
        arrived = f"{np.sum(shortfalls < 1e-3)} of {n_starts}"
        print(
            f"{how:8} {f'{np.median(iterations):.0f} ({max(iterations)})':>12} "
            f"{np.median([run.result.nfev for run in each]):12.0f} {np.median([run.seconds for run in each]):8.3f} "
            f"{arrived:>9} {np.median(shortfalls):13.1e}"
        )

    print(f"\n{'':24} {'yield':>7} {'conversion':>11} {'outlet':>7}   {', '.join(NAMES)} (K)")
    improved = improve(best.x)
    for name, x, y in (
        ("network", best.x, net.forward(best.x[None])[0]),
        ("the same, simulated", best.x, simulate(best.x[None])[0]),
        ("improved by simulations", improved.x, simulate(improved.x[None])[0]),
    ):
        print(f"{name:24} {y[0]:7.2f} {y[1]:11.2f} {y[2]:7.2f}   {', '.join(f'{T:.1f}' for T in kelvin(x))}")
    if arguments.plot:
        draw(arguments.plot, runs, best.x)
        print(f"figure: {arguments.plot}")


if __name__ == "__main__":
    main()
