"""Many small fits: 10,000 curves of 50 points, each with a network of its own, again and again.

A machine with 10,000 channels delivers a noisy curve for each of them. A smooth curve is wanted for each, before the
next ones arrive. One network 1-8-1 for each channel is such a curve, with exact derivatives, and `Ensemble.fit` fits
all of them in one call: no Python runs between the iterations, the threads share the members, and each member stops by
its own criterion. Each has the same bits as if it were fitted alone.

Levenberg-Marquardt needs few iterations if it begins near the minimum. So one network is fitted to the mean of all
curves, and all members begin with its parameters. When the next curves arrive, which differ little from the last ones,
each member begins where it is.

The table has one line for each delivery: the time of a fit, its iterations, the deviation of the residuals, which is
to be near that of the noise, and the error against the true curve, which is to be smaller. 25 parameters are fitted to
50 points, so the residuals are a little smaller than the noise. The last lines fit some of the curves one after the
other, and compare.

Run: python examples/many_small_fits.py [--plot many_small_fits.png] [--quick]
It takes about 6 seconds on two cores, with --quick 2.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from backprop import Ensemble, Network
from backprop.demo import figure_file

SIZES = (1, 8, 1)
N_POINTS = 50
N_DELIVERIES = 4
NOISE = 0.05  # the standard deviation at each point
HOW = {"solver": "lm", "l2": 1e-5, "tol": 1e-3, "max_iter": 50}


def true_curves(t: np.ndarray, channels: np.ndarray, delivery: int) -> np.ndarray:
    """A step and a wave for each channel, (k, 50, 1), which drift a little from delivery to delivery."""
    place, width, height, phase = channels.T[:, :, None, None]
    drift = 0.03 * delivery
    return height * np.tanh((t - place - drift) / width) + 0.3 * np.sin(3.0 * t + phase + drift)


def draw(path: str, t: np.ndarray, y: np.ndarray, y_hat: np.ndarray, true: np.ndarray, residuals: np.ndarray) -> None:
    """Write a figure: some curves, and the deviation of the residuals of all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    left, right = figure.subplots(1, 2)
    for i, color in enumerate(("#3a8a4d", "#1f5a92", "#d9722b")):
        left.plot(t, y[i], ".", color=color, markersize=4)
        left.plot(t, true[i], "--", color=color, linewidth=1)
        left.plot(t, y_hat[i], color=color, linewidth=2)
    left.set_xlabel("time")
    left.set_title("Three of the curves: points, truth (dashed), fit")
    right.hist(residuals, 60, color="#1f5a92")
    right.axvline(NOISE, color="0.5", linestyle="--")
    right.text(NOISE, right.get_ylim()[1] * 0.95, " noise", color="0.35", va="top")
    right.set_xlabel("deviation of the residuals")
    right.set_title(f"All {len(residuals):,} fits")
    for axes in (left, right):
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def main(argv=None) -> None:
    """Fit the curves of each delivery, and print time, residuals and errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=figure_file, metavar="FILE", help="draw some curves and all residuals")
    parser.add_argument("--quick", action="store_true", help="1,000 curves")
    arguments = parser.parse_args(argv)
    k = 1000 if arguments.quick else 10_000

    rng = np.random.default_rng(0)
    t = np.linspace(-1.0, 1.0, N_POINTS)[:, None]
    channels = rng.uniform((-0.4, 0.15, 0.7, -0.5), (0.4, 0.3, 1.3, 0.5), (k, 4))
    net = Network(SIZES, activations="tanh", rng=0)
    ensemble = Ensemble(net, k)
    print(f"{k:,} curves of {N_POINTS} points, networks {'-'.join(map(str, SIZES))}, {net.n_params} parameters each")
    print("delivery  seconds  us a fit  iterations  residuals   error  converged")
    for delivery in range(N_DELIVERIES):
        true = true_curves(t, channels, delivery)
        y = true + NOISE * rng.standard_normal(true.shape)
        before = ensemble.params.copy()
        start = time.perf_counter()
        if delivery == 0:
            net.fit(t, y.mean(axis=0), **HOW)
            ensemble.params[...] = before[...] = net.params  # all begin with the fit of the mean
        results = ensemble.fit(t, y, **HOW)
        seconds = time.perf_counter() - start
        y_hat = ensemble.forward(t)
        residuals, errors = (np.sqrt(np.mean((y_hat - of) ** 2, axis=(1, 2))) for of in (y, true))
        n_iter = np.mean([result.n_iter for result in results])
        converged = np.mean([result.success for result in results])
        print(f"{delivery + 1:8} {seconds:8.2f} {1e6 * seconds / k:9.1f} {n_iter:11.1f}", end=" ")
        print(f"{np.median(residuals):10.4f} {np.median(errors):7.4f} {converged:10.1%}", flush=True)

    n_alone = k // 20
    start = time.perf_counter()
    for i in range(n_alone):
        net.params = before[i]
        net.fit(t, y[i], **HOW)
        assert np.array_equal(net.params, ensemble.params[i]), "a member has other bits than its lone fit"
    alone = 1e6 * (time.perf_counter() - start) / n_alone
    print(f"one after the other, with net.fit in a loop: {alone:.1f} us a fit, the same bits")
    print(f"noise {NOISE}; residuals: median {np.median(residuals):.4f}, largest {residuals.max():.4f}")
    if arguments.plot:
        draw(arguments.plot, t[:, 0], y[:3, :, 0], y_hat[:3, :, 0], true[:3, :, 0], residuals)
        print(f"figure: {arguments.plot}")


if __name__ == "__main__":
    main()
