"""The networks that are timed, with their data and their count of floating-point operations."""

from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np

SMOOTH = ("tanh", "silu", "gelu")  # need an elementary function besides the products


@dataclass(frozen=True)
class Case:
    """A network and a batch size, for which loss and gradient of all parameters are timed.

    Attributes
    ----------
    name : str
    sizes : tuple of int
        n_0, ..., n_L.
    n_samples : int
    activation : str
        Of all hidden layers; the output is the identity.
    loss : {"squared_error", "cross_entropy"}
        The mean over samples and outputs of (y_hat - y)^2, or the mean over samples of -log softmax(a_L) at the label.
    """

    name: str
    sizes: tuple[int, ...]
    n_samples: int
    activation: str
    loss: str = "squared_error"

    @property
    def flops(self):
        """Multiplications and additions of the products: forward, hidden sums (not for x), weight gradients."""
        products = [n * m for n, m in zip(self.sizes[1:], self.sizes[:-1], strict=True)]
        return 2 * self.n_samples * (3 * sum(products) - products[0])

    @property
    def smooth(self):
        """Whether each hidden unit needs an elementary function."""
        return self.activation in SMOOTH and len(self.sizes) > 2


def case_of(name, activation, loss="squared_error"):
    """Read sizes and batch from a name such as tab-30-100-100-1@10000 or deep-100x20@250 (twenty layers of 100)."""
    shape, n_samples = name.split("@")
    parts = [part for part in shape.split("-") if part[0].isdigit()]
    if len(parts) == 1:  # every layer as wide as the input
        width, n_layers = map(int, parts[0].split("x"))
        return Case(name, (width,) * (n_layers + 1), int(n_samples), activation, loss)
    sizes = []
    for part in parts:
        width, _, times = part.partition("x")
        sizes += [int(width)] * int(times or 1)
    return Case(name, tuple(sizes), int(n_samples), activation, loss)


CASES = [
    case_of("1-1@1", "relu"),
    case_of("ctrl-12-64-64-4@1", "relu"),
    case_of("rl-8-64-64-2@1", "tanh"),
    case_of("rl-11-128-128-3@1", "tanh"),
    case_of("online-784-128-10@1", "relu", "cross_entropy"),
    case_of("pot-3-24-24-1@7", "silu"),
    case_of("surrogate-4-16-16-1@32", "tanh"),
    case_of("q-4-128-128-2@32", "relu"),
    case_of("bnn-1-50-1@40", "tanh"),
    case_of("rl-8-64-64-2@64", "tanh"),
    case_of("mnist-784-128-10@64", "relu", "cross_entropy"),
    case_of("rl-27-400-300-8@100", "relu"),
    case_of("img-3072-256-100@100", "relu", "cross_entropy"),
    case_of("cls-100-200-26@128", "relu", "cross_entropy"),
    case_of("deep-256x12@128", "silu"),
    case_of("digits-64-100-10@200", "relu", "cross_entropy"),
    case_of("deep-100x20@250", "tanh"),
    case_of("pinn-1-32x3-1@256", "tanh"),
    case_of("rl-17-256-256-6@256", "relu"),
    case_of("wide-1000-3000-1000@300", "relu"),
    case_of("wide-512-2048-2048-512@512", "gelu"),
    case_of("pinn-2-50x4-1@1000", "tanh"),
    case_of("linear-64-10@1797", "relu", "cross_entropy"),
    case_of("tab-30-100-100-1@10000", "relu"),
    case_of("tab-13-64-32-16-1@20000", "gelu"),
    case_of("big-784-800-800-10@20000", "relu", "cross_entropy"),
    case_of("mnist-784-128-10@60000", "relu", "cross_entropy"),
    case_of("many-20-256-256-1@1000000", "relu"),
]

QUICK = (
    "1-1@1",
    "ctrl-12-64-64-4@1",
    "bnn-1-50-1@40",
    "surrogate-4-16-16-1@32",
    "rl-8-64-64-2@64",
    "digits-64-100-10@200",
    "pinn-2-50x4-1@1000",
    "mnist-784-128-10@64",
    "tab-13-64-32-16-1@20000",
    "deep-100x20@250",
    "wide-1000-3000-1000@300",
)


def select(patterns, cases=CASES):
    """Cases whose name equals a pattern, begins with it, or matches it as a shell pattern.

    Raises
    ------
    ValueError
        If a pattern matches no case.
    """
    chosen = []
    for pattern in patterns:
        found = [case for case in cases if case.name == pattern] or [
            case for case in cases if case.name.startswith(pattern) or fnmatch(case.name, pattern)
        ]
        if not found:
            raise ValueError(f"no case is called {pattern!r}; the cases are {', '.join(case.name for case in cases)}")
        chosen += [case for case in found if case not in chosen]
    return chosen


@dataclass
class Problem:
    """A case with its numbers, which are the same for every library.

    Attributes
    ----------
    case : Case
    dtype : numpy.dtype
    x : (n_samples, n_0) array
    y : (n_samples, n_L) array, or (n_samples,) int64 labels
    layers : list of (W_i, b_i)
        Shapes (n_i, n_{i-1}) and (n_i,).
    """

    case: Case
    dtype: np.dtype
    x: np.ndarray
    y: np.ndarray
    layers: list


def make_problem(case, dtype):
    """Draw x, parameters, and targets that a network can learn; with others the gradient would average out."""
    rng = np.random.default_rng(sum(case.sizes) + case.n_samples)
    dtype = np.dtype(dtype)
    n_in, n_out = case.sizes[0], case.sizes[-1]
    x = rng.standard_normal((case.n_samples, n_in), dtype)
    teacher = (rng.standard_normal((n_in, n_out)) / np.sqrt(n_in)).astype(dtype)
    y = x @ teacher
    if case.loss == "cross_entropy":
        y = y.argmax(axis=1)
    else:
        np.sin(y, out=y)
    gain = 1.0 if case.activation == "tanh" else 2.0
    layers = []
    for n, m in zip(case.sizes[1:], case.sizes[:-1], strict=True):
        W = rng.standard_normal((n, m)) * np.sqrt(gain / m)
        layers.append((W.astype(dtype), (0.1 * rng.standard_normal(n)).astype(dtype)))
    return Problem(case, dtype, x, y, layers)
