"""`Problem`: the loss that scikit-learn's MLP reports, and the gradient that it follows, from those of a network.

scikit-learn and `Network` scale losses differently. With W the sum of the weights of a batch (its number of rows
without weights), l the network's loss of the batch and w all weights of the layers, without biases,

    reported loss       loss_scale * l + constant of y + alpha / (2 W) * sum w^2
    gradient followed   gradient_scale * dl/dparams + alpha / W * w

| loss           | network's loss, n outputs     | loss_scale | gradient_scale |
|----------------|-------------------------------|------------|----------------|
| squared_error  | mean over outputs of d^2      | 1/2        | n/2            |
| poisson        | mean over outputs             | n          | n              |
| log_loss       | cross_entropy, sum            | 1          | 1              |
| log_loss       | binary_cross_entropy, mean    | n          | n              |
| all others     | mean over outputs             | 1          | 1              |

So with several outputs scikit-learn reports the mean squared error and follows the gradient of its sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop.network import Network

Array = npt.NDArray[Any]

# scikit-learn's names, if they differ from those of backprop.
_ACTIVATIONS = {"logistic": "sigmoid"}
# A loss of backprop whose networks have this output activation.
_LOSS_OF_OUTPUT = {
    "identity": "squared_error",
    "exp": "poisson",
    "logistic": "binary_cross_entropy",
    "softmax": "cross_entropy",
}
_BLOCK_ENTRIES = 2**20  # entries of a sparse X that are made dense together


def activation_of(spec: Any) -> Any:
    """The activation, or the list of activations, by the names of backprop."""
    if isinstance(spec, str):
        return _ACTIVATIONS.get(spec, spec)
    if isinstance(spec, list):
        return [activation_of(item) for item in spec]
    return spec


def network_of(
    coefs: Sequence[Array], intercepts: Sequence[Array], activation: Any, out_activation: str, loss: Any = None
) -> Network:
    """A network with these parameters, as scikit-learn stores them: coefs[i] is the transpose of W_{i+1}.

    Without a loss it is for predictions alone.
    """
    loss = loss or _LOSS_OF_OUTPUT[out_activation]
    sizes = [len(coefs[0]), *(len(b) for b in intercepts)]
    dtype = "float32" if coefs[0].dtype == np.float32 else "float64"
    output = {"logistic": "sigmoid"}.get(out_activation, out_activation)
    net = Network(sizes, activations=activation_of(activation), output=output, loss=loss, dtype=dtype, rng=0)
    for W, b, coef, intercept in zip(net.weights, net.biases, coefs, intercepts, strict=True):
        W[...], b[...] = coef.T, intercept
    return net


def parameters_of(net: Network, params: Array) -> tuple[list[Array], list[Array]]:
    """Copies of the parameters as scikit-learn stores them: coefs and intercepts."""
    layers = net.unflatten(params)
    return [W.T.copy(order="C") for W, _ in layers], [b.copy() for _, b in layers]


def initial_parameters(
    sizes: Sequence[int], activation: Any, dtype: npt.DTypeLike, random_state: np.random.RandomState
) -> tuple[list[Array], list[Array]]:
    """Coefs and intercepts from the same random numbers as scikit-learn's: Glorot's, for the biases too.

    The bound is sqrt(6 / (n_in + n_out)), with 2 for 6 if the activation is the logistic function. In a list of
    activations each layer has its own, and the output layer that of the last hidden layer.
    """
    listed = list(activation) if isinstance(activation, list) else [activation] * (len(sizes) - 2)
    names = [*listed, *(listed[-1:] or [activation])]
    coefs, intercepts = [], []
    for (n_in, n_out), name in zip(pairwise(sizes), names, strict=True):
        bound = np.sqrt((2.0 if name in {"logistic", "sigmoid"} else 6.0) / (n_in + n_out))
        coefs.append(random_state.uniform(-bound, bound, (n_in, n_out)).astype(dtype, copy=False))
        intercepts.append(random_state.uniform(-bound, bound, n_out).astype(dtype, copy=False))
    return coefs, intercepts


def is_sparse(x: Any) -> bool:
    """Whether x is a matrix or an array of scipy.sparse."""
    return hasattr(x, "toarray")


def rows_of_block(x: Any) -> int:
    """Rows of a sparse x that are made dense together."""
    return max(1, _BLOCK_ENTRIES // max(1, int(x.shape[1])))


def blocks_of(x: Any) -> Iterator[slice]:
    """Slices of the rows of a sparse x, each small enough to be made dense."""
    n_rows = rows_of_block(x)
    for start in range(0, x.shape[0], n_rows):
        yield slice(start, min(start + n_rows, x.shape[0]))


def forward(net: Network, x: Any, n_threads: int | None) -> Array:
    """y_hat of the rows of x, which may be sparse."""
    if not is_sparse(x):
        return net.forward(x, n_threads=n_threads)
    x = x.tocsr()
    y_hat = np.empty((x.shape[0], net.sizes[-1]), net.dtype)
    for rows in blocks_of(x):
        y_hat[rows] = net.forward(x[rows].toarray(), n_threads=n_threads)
    return y_hat


@dataclass(frozen=True)
class Scales:
    """How the losses of scikit-learn and of a network belong together: the table at the top."""

    loss: float
    gradient: float
    constant_of: Callable[[Array], Array] | None = None  # y -> a constant for each row
    loss_cap: float | None = None  # log_loss: scikit-learn clips probabilities in the loss that it reports


def scales_of(net: Network) -> Scales:
    """The row of the table for the loss of a network."""
    loss, n_outputs = net.loss_name, net.sizes[-1]
    loss_cap = -float(np.log(np.finfo(net.dtype).eps)) if net._architecture.loss_parameter == 0 else None
    if loss == "squared_error":
        return Scales(0.5, 0.5 * n_outputs)
    if loss == "poisson":
        return Scales(n_outputs, n_outputs, _poisson_constant)
    if loss == "binary_cross_entropy":
        return Scales(n_outputs, n_outputs, loss_cap=loss_cap)
    return Scales(1.0, 1.0, loss_cap=loss_cap if loss == "cross_entropy" else None)


def _poisson_constant(y: Array) -> Array:
    """sum_j y log y - y: it makes half the deviance from exp(a) - y a."""
    positive = np.where(y > 0, y, 1.0)
    constant: Array = (y * np.log(positive) - y).sum(axis=1)
    return constant


class Problem:
    """The samples of one fit, with their reported loss and the gradient to follow.

    Parameters
    ----------
    net : Network
        Its params are those of the fit.
    x : (n_samples, n_0) array or sparse matrix
    y : (n_samples, n_L) array, or labels (n_samples,)
    sample_weight : (n_samples,) or (n_samples, n_L) array, or None
    alpha : float
    n_threads : int or None

    Attributes
    ----------
    n_samples : int
    scales : Scales
    constants : (n_samples,) array or None
        What the reported loss of each row has beside the network's.
    is_weight : (n_params,) float64 array
        1 for the weights among the parameters, 0 for the biases.
    """

    def __init__(
        self, net: Network, x: Any, y: Array, sample_weight: Array | None, alpha: float, n_threads: int | None
    ) -> None:
        self.net, self.alpha, self.n_threads = net, float(alpha), n_threads
        self.x = x
        if is_sparse(x):  # what fits into one block is made dense once
            self.x = x.toarray() if x.shape[0] * x.shape[1] <= _BLOCK_ENTRIES else x.tocsr()
        self.y, self.sample_weight = y, sample_weight
        self.n_samples: int = x.shape[0]
        self.scales = scales_of(net)
        self.constants = self.scales.constant_of(y) if self.scales.constant_of else None
        self.is_weight = np.zeros(net.n_params)
        for W, _ in net.unflatten(self.is_weight):
            W[...] = 1.0

    def rows(self, rows: Array | slice) -> tuple[Any, Array, Array | None]:
        """x, y and the weights of some rows; x is dense."""
        x = self.x[rows]
        weight = None if self.sample_weight is None else self.sample_weight[rows]
        return x.toarray() if is_sparse(x) else x, self.y[rows], weight

    def total(self, rows: Array | slice) -> float:
        """W: the sum of the weights of some rows, a mean over outputs; their number without weights."""
        if self.sample_weight is None:
            return float(len(self.y[rows]))
        return float(self.sample_weight[rows].sum(dtype=np.float64)) / self.weights_per_row

    def penalty(self, total: float) -> float:
        """The penalty: alpha / (2 W) times the squared weights."""
        if self.alpha == 0:
            return 0.0
        w = self.is_weight * self.net.params
        return 0.5 * self.alpha * float(w @ w) / total

    def reported(self, loss: float, rows: Array | slice, total: float) -> float:
        """The loss that scikit-learn reports, from the network's loss of these rows."""
        value = self.scales.loss * loss + self.penalty(total)
        if self.constants is not None:
            value += float(np.average(self.constants[rows], weights=self.row_weight[rows]))
        return value

    @cached_property
    def accepted(self) -> tuple[Array, Array, Any]:
        """y, x and the weights as compiled calls take them; x is not sparse."""
        y, x, _, weights = self.net._inputs(self.x, self.y, None, self.sample_weight)
        return y, x, weights

    @cached_property
    def row_weight(self) -> Array:
        """The weight of each row, a mean over outputs; 1 without weights."""
        weight = self.sample_weight
        if weight is None:
            return np.ones(self.n_samples)
        return weight.mean(axis=1) if weight.ndim == 2 else weight

    @property
    def weights_per_row(self) -> int:
        """How many weights a row has: those of its outputs, or one."""
        by_output = self.sample_weight is not None and self.sample_weight.ndim == 2
        return int(self.net.sizes[-1]) if by_output else 1

    def of_rows(self, rows: Array | slice) -> Problem:
        """The problem of some rows alone; its x is dense."""
        x, y, weight = self.rows(rows)
        return Problem(self.net, x, y, weight, self.alpha, self.n_threads)
