"""The demo: handwritten digits, a network of dense layers, and a fit by L-BFGS."""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backprop.network import Network

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

Array = npt.NDArray[Any]

SIZES = (64, 128, 10)
L2 = 1e-3  # the best mean accuracy over seeds, of 1e-4, 1e-3 and 5e-3
N_CHECKED = 24  # samples of the gradient check

EXAMPLES = {  # in the repository, not in the package
    "examples/least_squares.py": "least squares with certified results: SciPy, and Levenberg-Marquardt (2 s)",
    "examples/differential_ml.py": "a Black-Scholes surrogate, fitted with and without input gradients (9 s)",
    "examples/poisson_l_shape.py": "a differential equation, beside a reference that proves its digits (15 s)",
    "examples/optimal_design.py": "trust-constr on a network, with exact Hessians and without (9 s)",
    "examples/private_digits.py": "private training on digits: accuracy against the noise (6 s)",
    "examples/diabetes_regression.py": "GridSearchCV beside scikit-learn's MLP, and three quantiles (7 s)",
    "examples/breast_cancer_grid_search.py": "scikit-learn's scores in less time, and class_weight (5 s)",
    "examples/many_machines.py": "one fit from a file, on any number of machines: the same bits (3 s)",
    "examples/many_small_fits.py": "10,000 curves, each with a network of its own, again and again (6 s)",
}
LIST = """\
in the package:
  python -m backprop demo [--plot FILE]
      a classifier of handwritten digits, trained by L-BFGS (3 s)
in the repository, to be run from the root of a clone:
{examples}
times are on two cores; --quick takes less
the digits and the figures need: pip install scikit-learn tqdm matplotlib"""


def list_demos() -> str:
    """The demo, the examples of the repository, and how to run them."""
    lines = [f"  python {path} [--plot FILE] [--quick]\n      {about}" for path, about in EXAMPLES.items()]
    return LIST.format(examples="\n".join(lines))


def figure_file(path: str) -> str:
    """The path, if a figure can be written there. It is checked before anything is computed.

    Parameters
    ----------
    path : str
        The argument of ``--plot``.

    Returns
    -------
    str
        The same.

    Raises
    ------
    argparse.ArgumentTypeError
        If matplotlib is missing or cannot write the format, or if the file cannot be written.
    """
    ending = os.path.splitext(path)[1].lower()
    folder = os.path.dirname(os.path.abspath(path))
    if not ending:  # matplotlib would choose another name
        raise argparse.ArgumentTypeError(f"expected a file name with an ending such as .png or .pdf, got {path!r}")
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"expected a file in a directory that exists, got {path!r}")
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a file that may be written, got {path!r}")
    try:
        from matplotlib.figure import Figure

        figure = Figure()
        figure.text(0.5, 0.5, "x")  # for text, some formats need another program
        figure.savefig(io.BytesIO(), format=ending[1:])
    except ModuleNotFoundError as error:
        raise argparse.ArgumentTypeError(f"a figure needs {error.name}: pip install matplotlib") from error
    except Exception as error:
        raise argparse.ArgumentTypeError(f"expected a format that matplotlib writes, got {path!r}: {error}") from error
    return path


def load_digits(seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """scikit-learn's 8 x 8 images of handwritten digits, a fifth of each class held out.

    Parameters
    ----------
    seed : int
        The seed of the split.

    Returns
    -------
    x_train, x_test : (n_samples, 64) arrays
        In [0, 1].
    y_train, y_test : (n_samples,) arrays of labels 0..9
    """
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    digits = load()
    split = train_test_split(
        digits.data / 16.0, digits.target, test_size=0.2, stratify=digits.target, random_state=seed
    )
    return tuple(split)


def train(
    net: Network, x_train: Array, y_train: Array, x_test: Array, y_test: Array, max_iter: int
) -> tuple[OptimizeResult, list[float]]:
    """Fit the network by L-BFGS, with a progress bar.

    Parameters
    ----------
    net : Network
    x_train, y_train, x_test, y_test : arrays
        As `load_digits` returns them. The fit sees the first two alone.
    max_iter : int
        The most iterations.

    Returns
    -------
    result : scipy.optimize.OptimizeResult
        As `Network.fit` returns it.
    accuracies : list of float
        The share of the held-out digits that is right, after each iteration.
    """
    accuracies: list[float] = []

    def callback(info: Any) -> None:
        accuracies.append(accuracy(net, x_test, y_test, info.params))

    result = net.fit(x_train, y_train, l2=L2, max_iter=max_iter, callback=callback, progress=True)
    return result, accuracies


def accuracy(net: Network, x: Array, y: Array, params: Array | None = None) -> float:
    """The share of the labels y that the network finds, with its parameters or with others."""
    return float((net.forward(x, params=params).argmax(axis=1) == y).mean())


def draw(path: str, losses: list[float], accuracies: list[float], y_test: Array, y_found: Array) -> None:
    """Write a figure with the learning curve and the confusion matrix.

    Parameters
    ----------
    path : str
        Its ending gives the format.
    losses, accuracies : lists of float
        After each iteration.
    y_test, y_found : (n_samples,) arrays of labels
        The held-out labels, and those that the network found.

    Raises
    ------
    ValueError
        If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blue, orange = "#1f5a92", "#d9722b"
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    curve, matrix = figure.subplots(1, 2, width_ratios=[1.25, 1])
    iterations = np.arange(1, len(losses) + 1)

    curve.semilogy(iterations, losses, color=blue, linewidth=2)
    curve.set_xlabel("iteration of L-BFGS")
    curve.set_ylabel("training loss (cross entropy + l2)", color=blue)
    curve.tick_params(axis="y", which="both", labelcolor=blue)
    curve.grid(alpha=0.25)
    right = curve.twinx()
    right.plot(iterations, 100.0 * np.array(accuracies), color=orange, linewidth=2)
    right.set_ylabel("held-out accuracy (%)", color=orange)
    right.tick_params(axis="y", labelcolor=orange)
    right.set_ylim(top=101.0)
    curve.set_title(f"Learning curve, network {'-'.join(map(str, SIZES))}")

    counts = np.zeros((10, 10), int)
    np.add.at(counts, (y_test, y_found), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = matrix.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for true, found in np.argwhere(counts):
        colour = "white" if shares[true, found] > 0.5 else "black"
        matrix.text(found, true, str(counts[true, found]), ha="center", va="center", color=colour, fontsize=9)
    matrix.set_xticks(range(10))
    matrix.set_yticks(range(10))
    matrix.set_xlabel("label found")
    matrix.set_ylabel("true label")
    matrix.set_title(f"{counts.sum()} held-out digits, {np.trace(counts) / counts.sum():.1%} right")
    figure.colorbar(image, ax=matrix, label="share of the true label", shrink=0.85)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ValueError(f"plot: expected a file that can be written, got {path!r}: {error}") from error


def run(plot: str | None = None, maxiter: int = 100, seed: int = 0) -> int:
    """Check the gradient, train, train again on one thread, report, and draw if asked.

    Parameters
    ----------
    plot : str, optional
        A file for the figure, as `figure_file` returns it.
    maxiter : int
    seed : int
        The seed of the initial weights; the split of the data is always the same.

    Returns
    -------
    int
        The exit status: 1 if the gradient is wrong or a package is missing.

    Raises
    ------
    ValueError
        If the figure cannot be written.
    """
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
        import tqdm  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"error: the demo needs {error.name}: pip install scikit-learn tqdm matplotlib", file=sys.stderr)
        return 1

    start = time.perf_counter()
    x_train, x_test, y_train, y_test = load_digits()
    net, same = (Network(SIZES, activations="relu", loss="cross_entropy", rng=seed) for _ in range(2))
    print(f"digits: {len(x_train)} images to learn from, {len(x_test)} held out")
    print(f"network: {'-'.join(map(str, SIZES))}, relu, {net.n_params} parameters, {net.dtype}")

    report = net.check_gradient(x_train[:N_CHECKED], y_train[:N_CHECKED])
    if not report.ok:
        print(report)
        print("error: the gradient is wrong; nothing was trained", file=sys.stderr)
        return 1
    print(f"gradient: right, largest relative error {report.max_error:.1e} (tolerance {report.tolerance:.0e})")

    print(f"fit: net.fit(x, y, l2={L2:g}, max_iter={maxiter}), by L-BFGS", flush=True)  # before the bar on stderr
    fit_start = time.perf_counter()
    try:
        result, accuracies = train(net, x_train, y_train, x_test, y_test, maxiter)
    except KeyboardInterrupt:
        found = accuracy(net, x_test, y_test)
        print(f"interrupted: {found:.2%} are right after the last whole step; no file was written", file=sys.stderr)
        raise
    fit_time = time.perf_counter() - fit_start
    losses = result.history["loss"]
    print(f"  {result.n_iter} iterations, {result.nfev} gradients, {fit_time:.2f} s with a look at each iteration")
    print(f"  loss {losses[0]:.3f} after the first, {losses[-1]:.3f} after the last")

    fit_start = time.perf_counter()
    same.fit(x_train, y_train, l2=L2, max_iter=maxiter, n_threads=1)
    fit_time = time.perf_counter() - fit_start
    bits = "the same bits" if np.array_equal(same.params, net.params) else "other bits, which is a bug"
    print(f"again on one thread, without a look: {fit_time:.2f} s, {bits}")

    if plot is not None:
        draw(plot, losses, accuracies, y_test, net.forward(x_test).argmax(axis=1))
        print(f"figure: {plot}")
    share, seconds = accuracy(net, x_test, y_test), time.perf_counter() - start
    print(f"done: {share:.2%} of the held-out digits are right, {seconds:.1f} s in all")
    return 0
