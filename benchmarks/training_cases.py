"""The fits that are timed: networks, data, orders of rows, and the losses that are to be reached."""

from dataclasses import dataclass, replace

import numpy as np
from cases import Case, case_of, make_problem

EPSILON = 1e-16  # of Adam: so small that it does not matter which of them correct it, as scikit-learn does not
BETAS, MOMENTUM = (0.9, 0.999), 0.9
RATES = {"adam": 1e-3, "sgd": 1e-2}
RATE_TO_LOSS = 1e-2
SEED = 17  # of the orders of rows
MOST_EPOCHS = 4000  # to reach a loss
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}  # largest relative difference of a loss of a peer from ours
OVERSHOT = 1.05  # times the goal, that a peer may end at after as many epochs as ours
OF_SKLEARN = {"1-16-16-1@32": 40.0, "10-32-32-1@32": 20.0, "30-100-100-1@200": 4.0}  # times faster an epoch
OWN_PART = 15.0  # per cent of the time of its gradients that a step of Adam may take
LBFGS_PART = 1.3  # times the time of its gradients that a fit by lbfgs may take


@dataclass(frozen=True)
class TrainingCase:
    """A fit by one solver.

    Attributes
    ----------
    solver : {"adam", "sgd", "lbfgs", "lm"}
    network : Case
        Its n_samples are the rows of a batch of adam and sgd, and all rows of lbfgs and lm.
    n_batches : int
        Of an epoch.
    n_epochs : int
        That a timed fit of adam and sgd makes, if there is no `goal`.
    goal : float or None
        The loss that is to be reached.
    """

    solver: str
    network: Case
    n_batches: int = 1
    n_epochs: int = 0
    goal: float | None = None

    @property
    def name(self):
        """Solver, network, and the loss."""
        return f"{self.solver} {self.network.name}" + ("" if self.goal is None else f" to {self.goal:g}")

    @property
    def in_epochs(self):
        """Whether the solver makes epochs of mini-batches."""
        return self.solver in RATES

    @property
    def n_rows(self):
        """Of the data."""
        return self.network.n_samples * self.n_batches

    @property
    def rate(self):
        """The learning rate."""
        return RATES[self.solver] if self.goal is None else RATE_TO_LOSS

    @property
    def of_sklearn(self):
        """The target: how many times faster than scikit-learn an epoch of adam is; None if there is none."""
        return OF_SKLEARN.get(self.network.name) if self.solver == "adam" and self.goal is None else None


def _cases():
    epochs = [  # enough of them that what a fit costs once is little
        (case_of("1-16-16-1@32", "tanh"), 8, 100),
        (case_of("10-32-32-1@32", "tanh"), 8, 100),
        (case_of("4-16-16-2@32", "tanh"), 8, 100),
        (case_of("30-100-100-1@200", "relu"), 5, 20),
        (case_of("784-128-10@200", "relu", "cross_entropy"), 5, 10),
    ]
    goals = [  # MINPACK's lm needs as many residuals as parameters
        ("1-16-16-1", 12, 1e-4),
        ("4-16-16-2", 8, 1e-3),
        ("10-32-32-1", 16, 1e-3),
    ]
    cases = [TrainingCase(solver, *entry) for solver in RATES for entry in epochs]
    for sizes, n_batches, goal in goals:
        whole = case_of(f"{sizes}@{32 * n_batches}", "tanh")
        solvers = ("lbfgs", "lm") if sizes != "10-32-32-1" else ("lbfgs",)
        cases += [TrainingCase(solver, whole, goal=goal) for solver in solvers]
        cases.append(TrainingCase("adam", case_of(f"{sizes}@32", "tanh"), n_batches, goal=goal))
    return cases


CASES = _cases()


def by_name(name):
    """The case of this name."""
    return next(case for case in CASES if case.name == name)


@dataclass
class TrainingProblem:
    """A case with its numbers, which are the same for every library.

    Attributes
    ----------
    case : TrainingCase
    dtype : numpy.dtype
    x, y, layers
        As those of `cases.Problem`, for all rows.
    orders : (n_epochs, n_rows) array of int64, or None
        The rows in the order of each epoch: what `Network.fit` draws from `SEED`.
    """

    case: TrainingCase
    dtype: np.dtype
    x: np.ndarray
    y: np.ndarray
    layers: list
    orders: np.ndarray | None

    @property
    def batches(self):
        """(n_epochs * n_batches, batch_size): the rows of one batch after another."""
        return self.orders.reshape(-1, self.case.network.n_samples)


def make_training_problem(case, dtype, n_epochs=None):
    """Draw data, parameters and orders: the same for both dtypes, but for rounding."""
    drawn = make_problem(replace(case.network, n_samples=case.n_rows), "float64")
    dtype = np.dtype(dtype)
    x, y = drawn.x.astype(dtype), drawn.y if case.network.loss == "cross_entropy" else drawn.y.astype(dtype)
    layers = [(W.astype(dtype), b.astype(dtype)) for W, b in drawn.layers]
    orders = None
    if case.in_epochs:
        rng = np.random.default_rng(SEED)
        orders = np.array([rng.permutation(case.n_rows) for _ in range(n_epochs or case.n_epochs or MOST_EPOCHS)])
    return TrainingProblem(case, dtype, x, y, layers, orders)
