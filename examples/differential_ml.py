"""Differential machine learning: a Black-Scholes surrogate fitted with and without input gradients.

A price is an expectation. A network that fits simulated payoffs learns it, since the mean has the least squared error.
But one payoff per sample is a very noisy label. The same simulated path also gives the derivatives of its payoff by
every input, for a few operations more. The gradient of the network can be fitted to them as well
(B. Huge and A. Savine, Differential machine learning, arXiv:2005.02347, 2020):

    loss = mean_s [(y_hat_s - y_s)^2 + mean_i weight_i (dy_hat_s/dx_i - dy_s/dx_i)^2]

`net.sobolev_objective` is this loss with its exact gradient by the parameters, a derivative of a derivative.
Here x is (spot, volatility, time). The payoff is that of a call option without interest, max(spot_T - 1, 0). The
closed form judges what was learned: the price, and its derivative by spot, the delta, from `net.input_jacobian`.

Both fits see the same paths, and have the same initial weights and the same solver, L-BFGS. For each fit, the
iteration with the least error against the closed form is kept. In practice the closed form is unknown; here this
favours the fit without gradients, which learns the noise soon after. From 1,024 samples on, the price fitted with
gradients is better than the one fitted without them to four times the samples. The delta is about as good as that of
sixteen times the samples. A gradient of this loss takes two to three times as long as a plain one.

Run: python examples/differential_ml.py [--plot differential_ml.png] [--quick]
It takes about 9 seconds on two cores, with --quick 3.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from backprop import Network
from backprop.demo import figure_file

LOW, HIGH = np.array([0.5, 0.1, 0.25]), np.array([1.5, 0.5, 2.0])  # of spot, volatility, time; the strike is 1
CENTRE, SCALE = (LOW + HIGH) / 2, (HIGH - LOW) / np.sqrt(12)  # a uniform variable's mean and standard deviation
SIZES = (3, 32, 32, 1)
MAXITER = 150  # the best iterations come before
WITH, WITHOUT = "with gradients", "without"


def black_scholes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The closed form: price, and delta."""
    spot, volatility, years = x.T
    deviation = volatility * np.sqrt(years)
    d = np.log(spot) / deviation + deviation / 2
    return spot * ndtr(d) - ndtr(d - deviation), ndtr(d)


def simulate(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return n points x (n, 3), the payoff of one path from each (n,), and its derivatives by x (n, 3)."""
    x = rng.uniform(LOW, HIGH, (n, 3))
    spot, volatility, years = x.T
    z = rng.standard_normal(n)
    end = spot * np.exp(volatility * np.sqrt(years) * z - volatility**2 * years / 2)
    by_spot = end / spot
    by_volatility = end * (np.sqrt(years) * z - volatility * years)
    by_time = end * (volatility * z / (2 * np.sqrt(years)) - volatility**2 / 2)
    paid = end > 1
    return x, np.maximum(end - 1, 0), paid[:, None] * np.stack([by_spot, by_volatility, by_time], axis=1)


@dataclass
class Surrogate:
    """A network between standardised inputs and standardised payoffs."""

    net: Network
    mean: float
    deviation: float

    def price(self, x: np.ndarray, params: np.ndarray | None = None) -> np.ndarray:
        """The price at x (n, 3): (n,)."""
        return self.mean + self.deviation * self.net.forward((x - CENTRE) / SCALE, params=params)[:, 0]

    def delta(self, x: np.ndarray) -> np.ndarray:
        """Its derivative by spot: (n,)."""
        return self.deviation / SCALE[0] * self.net.input_jacobian((x - CENTRE) / SCALE)[:, 0, 0]


def fit(x: np.ndarray, y: np.ndarray, grad_x: np.ndarray, how: str, seed: int, test: np.ndarray) -> Surrogate:
    """Fit the payoffs y and, if how says so, their derivatives grad_x; keep the iteration that is best on test."""
    surrogate = Surrogate(Network(SIZES, activations="softplus", rng=seed), float(y.mean()), float(y.std()))
    net = surrogate.net
    inputs, targets = (x - CENTRE) / SCALE, (y - surrogate.mean) / surrogate.deviation
    if how == WITH:
        target_grad = grad_x * SCALE / surrogate.deviation
        weight = len(SCALE) / np.mean(target_grad**2, axis=0, keepdims=True)  # each derivative counts as y does
        fun = net.sobolev_objective(inputs, targets, target_grad, weight)
    else:
        fun = net.objective(inputs, targets)

    price, _ = black_scholes(test)
    best = (np.inf, net.params.copy())

    def keep_the_best(info) -> None:
        nonlocal best
        error = rms(surrogate.price(test, params=info.params) - price)
        if error < best[0]:
            best = error, info.params

    net.fit(fun, max_iter=MAXITER, callback=keep_the_best)
    net.params = best[1]
    return surrogate


def rms(error: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(error**2)))


def draw(path: str, pair: dict[str, Surrogate], n_shown: int, found: dict[tuple[int, str], np.ndarray]) -> None:
    """Write a figure: price and delta of one pair of fits, and the error against the number of samples."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colors = {WITH: "#1f5a92", WITHOUT: "#d9722b"}
    figure = Figure(figsize=(13.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    left, middle, right = figure.subplots(1, 3)

    volatility, years = 0.2, 0.5
    spot = np.linspace(LOW[0], HIGH[0], 300)
    line = np.stack([spot, np.full_like(spot, volatility), np.full_like(spot, years)], axis=1)
    price, delta = black_scholes(line)
    x, y, _ = simulate(n_shown, np.random.default_rng(0))
    left.plot(x[:, 0], y, ".", color="0.75", markersize=3, zorder=0, label=f"{n_shown} payoffs, which are fitted")
    for axes, exact, call in ((left, price, "price"), (middle, delta, "delta")):
        axes.plot(spot, exact, color="black", linewidth=3.5, alpha=0.35, label="closed form")
        for how, surrogate in pair.items():
            axes.plot(spot, getattr(surrogate, call)(line), color=colors[how], linewidth=1.8, label=how)
        axes.set_xlabel("spot")
    left.set_ylim(-0.03, 0.8)
    left.set_ylabel("price")
    left.set_title(f"Price, volatility {volatility:g}, {years:g} years")
    left.legend(loc="upper left", framealpha=0.9)
    middle.set_ylabel("derivative of the price by spot")
    middle.set_title("Delta, from the same two networks")

    for how, color in colors.items():
        numbers = [n for n, fitted in found if fitted == how]
        errors = np.array([found[n, how][:, 0] for n in numbers])
        right.fill_between(numbers, errors.min(axis=1), errors.max(axis=1), color=color, alpha=0.2, linewidth=0)
        right.loglog(numbers, np.median(errors, axis=1), "o-", color=color, linewidth=2, label=how)
    ticks = sorted({n for n, _ in found})
    right.set_xticks(ticks, [str(n) for n in ticks])
    right.minorticks_off()
    right.set_yticks([0.003, 0.01, 0.03, 0.1], ["0.003", "0.01", "0.03", "0.1"])
    right.set_xlabel("samples, one path each")
    right.set_ylabel("root mean square error of the price")
    right.set_title("Error against the closed form (band: all seeds)")
    right.legend(frameon=False)
    for axes in (middle, right):
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def main(argv=None) -> None:
    """Fit at each number of samples, and print the errors against the closed form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=figure_file, metavar="FILE", help="draw price, delta, and the errors")
    parser.add_argument("--quick", action="store_true", help="fewer samples and seeds")
    arguments = parser.parse_args(argv)
    numbers, n_seeds = ((256, 1024), 2) if arguments.quick else ((256, 1024, 4096), 3)
    n_shown = numbers[-1]  # in the figure
    runs = [(n, how) for n in numbers for how in (WITHOUT, WITH)]
    if not arguments.quick:
        runs.append((16384, WITHOUT))  # what the fit without gradients needs to catch up

    test = np.random.default_rng(12345).uniform(LOW, HIGH, (2000, 3))
    price, delta = black_scholes(test)
    found, shown = {}, {}
    print(f"network {'-'.join(map(str, SIZES))}, softplus; root mean square errors, medians of {n_seeds} seeds")
    print(f"{'samples':>7}  {'fitted':14} {'price':>8} {'delta':>8} {'seconds':>8}")
    for n, how in runs:
        paths = [simulate(n, np.random.default_rng(seed)) for seed in range(n_seeds)]
        start = time.perf_counter()
        fits = [fit(*path, how, seed, test) for seed, path in enumerate(paths)]
        seconds = (time.perf_counter() - start) / n_seeds
        found[n, how] = np.array([(rms(s.price(test) - price), rms(s.delta(test) - delta)) for s in fits])
        price_error, delta_error = np.median(found[n, how], axis=0)
        print(f"{n:7}  {how:14} {price_error:8.4f} {delta_error:8.4f} {seconds:8.2f}")
        if n == n_shown:
            shown[how] = fits[0]
    if arguments.plot:
        draw(arguments.plot, shown, n_shown, found)
        print(f"figure: {arguments.plot}")


if __name__ == "__main__":
    main()
