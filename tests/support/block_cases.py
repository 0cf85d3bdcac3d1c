"""Data sets in blocks, and what an objective gives for them."""

from dataclasses import dataclass

import numpy as np

from backprop import Network

N_IN, N_OUT = 5, 3
UNIT = 8192  # a unit has so many rows or somewhat more, and data of fewer than two units are one


@dataclass
class Data:
    """Rows of a network's data set."""

    net: Network
    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None

    def __len__(self):
        return len(self.x)

    def rows(self, first, stop):
        """One block."""
        arrays = (self.x, self.y) if self.weight is None else (self.x, self.y, self.weight)
        return tuple(array[first:stop] for array in arrays)

    def blocks(self, lengths):
        """A list of blocks; the lengths are repeated until all rows are there."""
        found, first = [], 0
        lengths = [lengths] if isinstance(lengths, int) else list(lengths)
        while first < len(self):
            stop = first + lengths[len(found) % len(lengths)]
            found.append(self.rows(first, stop))
            first = stop
        return found

    def plain(self, **options):
        """The objective of the arrays in memory."""
        return self.net.objective(self.x, self.y, sample_weight=self.weight, **options)


def data_of(n, *, dtype="float64", loss="squared_error", weight=None, seed=0):
    """Random data; weight is None, "sample" or "entry", with rows of weight 0, whose x and y are NaN if y is real."""
    rng = np.random.default_rng(seed)
    name = "cross_entropy" if loss == "labels" else loss
    net = Network([N_IN, 7, N_OUT], activations="tanh", loss=name, dtype=dtype, rng=seed)
    x = rng.standard_normal((n, N_IN)).astype(dtype)
    if loss == "labels":
        y = rng.integers(0, N_OUT, n)
    elif loss == "cross_entropy":
        y = rng.dirichlet(np.ones(N_OUT), n).astype(dtype)
    else:
        y = rng.standard_normal((n, N_OUT)).astype(dtype)
    w = None
    if weight is not None:
        w = rng.uniform(0.1, 3, n if weight == "sample" else (n, N_OUT))
        empty = rng.uniform(size=n) < 0.3
        w[empty] = 0
        x[empty] = np.nan
        if weight == "entry":
            w[rng.uniform(size=w.shape) < 0.2] = 0
    return Data(net, x, y, w)


def bits(results):
    """Numbers and arrays as bytes."""
    return [np.asarray(result).tobytes() for result in results]


def results(fun, theta, v):
    """Loss, gradient and product with the Hessian."""
    return bits([*fun(theta), fun.hessp(theta, v)])
