"""Private training: a classifier of digits from `clipped_gradient` plus noise, and what the noise costs.

A training step is differentially private if no single image can change it by much, and if noise hides the little that
an image does change. `net.clipped_gradient(x, y, max_norm)` is the first half. It shortens each image's gradient to at
most max_norm before it adds them, so one image more or less moves the sum by at most max_norm. A general framework
stores one gradient per image for this. Here none is stored, and the call takes a fifth more time than a plain gradient.
The second half is normal noise of standard deviation sigma * max_norm on every entry of the sum (M. Abadi et al.,
Deep learning with differential privacy, CCS 2016).

What it guarantees: every step uses the whole training set, so no privacy comes from sampling, and the accounting is
one formula. T steps of noise multiplier sigma are rho-zCDP with rho = T / (2 sigma^2), hence (epsilon, delta)-private
for any delta with epsilon = rho + 2 sqrt(rho log(1 / delta)). Neighbours differ by one image added or removed
(M. Bun and T. Steinke, Concentrated differential privacy, TCC 2016). The pixels are divided by 16, their largest
possible value; no statistic of the images is used.

What it does not guarantee: the settings below were chosen on this data set, and the noise comes from a generator made
for simulations, rounded to doubles. If you protect real people, take care of both.

The table gives the accuracy on images held out, over seeds. Noise of a few times max_norm costs nothing, because the
sum has the signal of 1,437 images. One image can change the sum by a fixed amount only. So with more images, the same
noise on their mean would give more privacy. The second half of the figure has fewer and more steps. Without noise,
more steps are better. At a small epsilon they are worse, since every step spends some of it.

Run: python examples/private_digits.py [--plot private_digits.png] [--quick]
It takes about 6 seconds on two cores, with --quick 4. It needs scikit-learn, which brings the images.
"""

from __future__ import annotations

import argparse

import numpy as np

from backprop import Network
from backprop.demo import figure_file

COLORS = ("#3a8a4d", "#1f5a92", "#d9722b")
SIZES = (64, 32, 10)
MAX_NORM = 1.0  # of each image's gradient; at the initial weights most norms are between 4 and 5
STEP_SIZE = 2.0  # times the sum of the clipped gradients over the number of images
N_STEPS = 60
DELTA = 1e-5  # should be well below 1 / 1437
SIGMAS = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
EPSILONS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def epsilon_of(sigma: float, n_steps: int) -> float:
    """The epsilon of n_steps full-batch steps of noise multiplier sigma, at DELTA."""
    if sigma == 0:
        return np.inf
    rho = n_steps / (2 * sigma**2)
    return rho + 2 * np.sqrt(rho * np.log(1 / DELTA))


def sigma_of(epsilon: float, n_steps: int) -> float:
    """The noise multiplier for a given epsilon: the inverse of epsilon_of, from a quadratic equation in sqrt(rho)."""
    log = np.log(1 / DELTA)
    root_rho = epsilon / (np.sqrt(log + epsilon) + np.sqrt(log))
    return np.sqrt(n_steps / 2) / root_rho


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's 8 x 8 digits, a fifth of each class held out: x_train, x_test, y_train, y_test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    return train_test_split(digits.data / 16.0, digits.target, test_size=0.2, stratify=digits.target, random_state=0)


def train(x: np.ndarray, y: np.ndarray, sigma: float, n_steps: int, seed: int) -> Network:
    """Take n_steps steps down the noisy sum of clipped gradients; weights and noise come from the seed."""
    rng = np.random.default_rng(seed)
    net = Network(SIZES, activations="tanh", loss="cross_entropy", rng=rng)
    noisy_sum = np.empty_like(net.params)
    for _ in range(n_steps):
        net.clipped_gradient(x, y, MAX_NORM, out=noisy_sum)
        noisy_sum += sigma * MAX_NORM * rng.standard_normal(net.n_params)
        net.params[...] -= STEP_SIZE / len(x) * noisy_sum
    return net


def accuracies(split, sigma: float, n_steps: int, n_seeds: int) -> np.ndarray:
    """Accuracy on the images held out, one number per seed."""
    x_train, x_test, y_train, y_test = split
    nets = [train(x_train, y_train, sigma, n_steps, seed) for seed in range(n_seeds)]
    return np.array([(net.forward(x_test).argmax(axis=1) == y_test).mean() for net in nets])


def draw(path: str, by_sigma: dict[float, np.ndarray], by_epsilon: dict[int, np.ndarray]) -> None:
    """Write a figure: accuracy against the noise, and against epsilon for several numbers of steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    left, right = figure.subplots(1, 2, sharey=True)

    sigmas = [sigma for sigma in by_sigma if sigma > 0]
    found = 100 * np.array([by_sigma[sigma] for sigma in sigmas])
    left.axhline(100 * by_sigma[0.0].mean(), color="0.5", linestyle="--", linewidth=1.2)
    left.text(sigmas[0], 100 * by_sigma[0.0].mean() + 1.2, "clipped, no noise", fontsize=9, color="0.35")
    left.fill_between(sigmas, found.min(axis=1), found.max(axis=1), color=COLORS[1], alpha=0.2, linewidth=0)
    left.semilogx(sigmas, found.mean(axis=1), "o-", color=COLORS[1], linewidth=2)
    for sigma, mean in zip(sigmas, found.mean(axis=1), strict=True):
        note = f"$\\varepsilon$ = {epsilon_of(sigma, N_STEPS):.2g}"
        left.annotate(note, (sigma, mean), (-4, -13), textcoords="offset points", ha="right", fontsize=9)
    left.set_xlim(sigmas[0] / 1.6, sigmas[-1] * 1.25)
    left.set_xticks(sigmas, [f"{sigma:g}" for sigma in sigmas], minor=False)
    left.minorticks_off()
    left.set_xlabel("noise multiplier $\\sigma$")
    left.set_ylabel("accuracy on held-out digits (%)")
    left.set_title(f"What the noise costs, {N_STEPS} steps (band: all seeds)")

    for color, (n_steps, means) in zip(COLORS, by_epsilon.items(), strict=True):
        right.semilogx(EPSILONS, 100 * means, "o-", color=color, linewidth=2)
        label = f"{n_steps} steps"
        right.annotate(label, (EPSILONS[0], 100 * means[0]), (-6, 0), textcoords="offset points", ha="right",
                       va="center", color=color, fontweight="bold")  # fmt: skip
    right.set_xlim(EPSILONS[0] / 2.6, EPSILONS[-1] * 1.25)
    right.set_xticks(EPSILONS, [f"{epsilon:g}" for epsilon in EPSILONS], minor=False)
    right.minorticks_off()
    right.set_xlabel(f"$\\varepsilon$ at $\\delta$ = {DELTA:g} (left: more private)")
    right.set_title("Strict privacy is better spent on fewer steps")
    right.set_ylim(0, 102)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def main(argv=None) -> None:
    """Train at each noise level, and print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--plot", type=figure_file, metavar="FILE", help="draw the accuracy against the noise and against epsilon"
    )
    parser.add_argument("--quick", action="store_true", help="fewer seeds")
    arguments = parser.parse_args(argv)
    n_seeds = 3 if arguments.quick else 5

    split = load()
    print(f"digits: {len(split[0])} images to learn from, {len(split[1])} held out; {n_seeds} seeds")
    print(f"network: {'-'.join(map(str, SIZES))}, {N_STEPS} full-batch steps, gradients clipped to norm {MAX_NORM:g}")
    print(f"{'sigma':>6} {'epsilon':>8}   accuracy (lowest to highest seed)")
    by_sigma = {}
    for sigma in SIGMAS:
        found = by_sigma[sigma] = accuracies(split, sigma, N_STEPS, n_seeds)
        spread = f"({found.min():.1%} to {found.max():.1%})"
        print(f"{sigma:6g} {epsilon_of(sigma, N_STEPS):8.2f}   {found.mean():6.1%} {spread}")
    print(f"epsilon: rho + 2 sqrt(rho log(1/delta)), rho = {N_STEPS} / (2 sigma^2), delta = {DELTA:g}, full batch")
    if arguments.plot:
        by_epsilon = {
            n_steps: np.array([accuracies(split, sigma_of(e, n_steps), n_steps, n_seeds).mean() for e in EPSILONS])
            for n_steps in (15, N_STEPS, 240)
        }
        draw(arguments.plot, by_sigma, by_epsilon)
        print(f"figure: {arguments.plot}")


if __name__ == "__main__":
    main()
