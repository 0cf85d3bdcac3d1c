"""Runs of the compiled solvers "lbfgs" and "lm", and the problems on which they are compared."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import backprop
from backprop import _core

Array = npt.NDArray[Any]
SOLVERS = {"lbfgs": _core.LBFGS, "lm": _core.LevenbergMarquardt}


class Run(NamedTuple):
    """What a run of a solver leaves."""

    solver: Any
    params: Array  # all of the network
    answer: str
    losses: Array  # after each iteration


def run(
    method, net, x, y, *, solver=None, start=None, sample_weight=None, l2=0.0, free=None, tol=0.0, max_iter=1000,
    n_threads=1,
):  # fmt: skip
    """Up to max_iter iterations from `start`, the network's parameters by default."""
    params = (net.params if start is None else np.asarray(start, net.dtype)).copy()
    y_, x_, _, weights = net._inputs(x, y, None, sample_weight)
    numbers = None if free is None else np.flatnonzero(free)
    if solver is None:
        theta = params if free is None else params[free]
        solver = SOLVERS[method](theta.copy() if method == "lbfgs" else theta.astype(np.float64))
    fit = getattr(net._plan, f"fit_by_{method}")
    answer, losses = fit(solver, params, x_, y_, weights, numbers, l2, tol, max_iter, n_threads)
    return Run(solver, params, answer, losses)


class Problem(NamedTuple):
    """A fit whose minimum is known to SciPy."""

    net: Any
    x: Array
    y: Array
    sample_weight: Array | None = None
    free: Array | None = None
    l2: float = 1e-3

    @property
    def options(self):
        """The arguments of an objective."""
        return {"sample_weight": self.sample_weight, "free": self.free, "l2": self.l2}

    @property
    def is_least_squares(self):
        """Whether "lm" can solve it."""
        return self.net.loss == "squared_error"


def problems(dtype="float64"):
    """Ten problems by name: losses, activations, weights, missing targets, frozen parameters."""
    rng = np.random.default_rng(17)
    x = rng.normal(size=(60, 3))
    wave = np.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:]
    two = np.concatenate([wave, np.cos(x[:, 1:2])], axis=1)
    classes = (x[:, 0] + x[:, 1] ** 2 > 0.7).astype(np.intp) + (x[:, 2] > 0.5)
    missing = (rng.random(two.shape) < 0.8).astype(float)
    free = np.ones(3 * 5 + 5 + 5 + 1, bool)
    free[:4] = False

    def net(sizes, **options):
        return backprop.Network(sizes, rng=3, dtype=dtype, **options)

    return {
        "tanh": Problem(net([3, 5, 1], activations="tanh"), x, wave),
        "deep": Problem(net([3, 4, 4, 1], activations="tanh"), x, wave),
        "gelu": Problem(net([3, 5, 2], activations="gelu"), x, two),
        "weights": Problem(net([3, 5, 2], activations="softplus"), x, two, rng.random(60)),
        "missing": Problem(net([3, 5, 2], activations="sigmoid"), x, two, missing),
        "free": Problem(net([3, 5, 1], activations="silu"), x, wave, None, free),
        "classes": Problem(net([3, 5, 3], activations="tanh", loss="cross_entropy"), x, classes),
        "binary": Problem(
            net([3, 5, 1], activations="sigmoid", output="sigmoid", loss="binary_cross_entropy"),
            x,
            (classes[:, None] > 0).astype(float),
        ),
        "poisson": Problem(
            net([3, 5, 1], activations="softplus", output="exp", loss="poisson"), x, np.round(np.exp(wave))
        ),
        "huber": Problem(net([3, 5, 1], activations="tanh", loss=("huber", 0.5)), x, wave),
    }


PROBLEMS = problems()
