"""Random problems for the tests: a network, x, y in the loss's domain, sample weights, and the reference's results."""

from dataclasses import dataclass

import numpy as np

import backprop
from backprop.activations import ACTIVATIONS
from backprop.api import parameters as _params
from backprop.losses import LOSSES, softmax
from backprop.reference import recursion as _reference

ACTIVATION_NAMES = list(ACTIVATIONS)
LOSS_NAMES = list(LOSSES)
Y_HAT_LOSSES = [name for name, row in LOSSES.items() if not row.acts_on_a]
PARAMETERS = {"leaky_relu": 0.2, "elu": 0.7, "huber": 0.5, "quantile": 0.9, "cross_entropy": 0.1}
# For a g that grows faster than its argument: from the largest number of a dtype, the argument with that g.
OVERFLOWS = {"exp": np.log}
LAYOUTS = ["plain", "strided", "reversed", "fortran", "read_only", "misaligned"]


def split(spec, table):
    """The table's row and the parameter of a name or a (name, parameter) pair."""
    name, parameter = spec if isinstance(spec, tuple) else (spec, None)
    return table[name], table[name].default if parameter is None else parameter


def domain(name, a):
    """The arguments for which g does not overflow."""
    return a[a < OVERFLOWS[name](np.finfo(a.dtype).max)] if name in OVERFLOWS else a


def relative_error(value, expected):
    """||value - expected|| / ||expected||, in the 2-norm and float64; the absolute error where expected is 0."""
    value, expected = np.asarray(value, np.longdouble).ravel(), np.asarray(expected, np.longdouble).ravel()
    assert value.shape == expected.shape
    scale = np.abs(expected).max(initial=0)
    if scale == 0:
        return float(np.abs(value).max(initial=0))
    return float(np.sqrt((((value - expected) / scale) ** 2).sum() / ((expected / scale) ** 2).sum()))


def same_bits(first, second):
    """Whether two arrays agree bit for bit, signs of zeros and NaN payloads included."""
    first, second = np.ascontiguousarray(first), np.ascontiguousarray(second)
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


def with_layout(array, layout):
    """The same values in another layout of memory."""
    if layout == "strided":
        wide = np.full([2 * n for n in array.shape], 77, array.dtype)
        view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    elif layout == "reversed":
        view = np.empty_like(array)[::-1]
    elif layout == "fortran":
        view = np.empty(array.shape, array.dtype, order="F")
    elif layout == "misaligned":
        view = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    else:
        view = np.empty_like(array)
    view[...] = array
    if layout == "read_only":
        view.flags.writeable = False
    return view


def random_targets(rng, loss, n_samples, n_out, dtype="float64", labels=True):
    """Targets from the loss's domain; for cross_entropy integer labels, or probabilities."""
    name = loss[0] if isinstance(loss, tuple) else loss
    shape = (n_samples, n_out)
    if name == "cross_entropy":
        if labels:
            return rng.integers(0, n_out, n_samples)
        return softmax(2 * rng.normal(size=shape)).astype(dtype)
    if name == "hinge":
        return rng.choice([-1.0, 1.0], shape).astype(dtype)
    if name == "poisson":
        return rng.poisson(2.0, shape).astype(dtype)
    if name == "binary_cross_entropy":
        return np.where(rng.random(shape) < 0.5, rng.integers(0, 2, shape), rng.random(shape)).astype(dtype)
    return rng.normal(size=shape).astype(dtype)


def random_weights(rng, kind, n_samples, n_out):
    """Weights (n_samples,) or (n_samples, n_out), about a quarter of them 0 but never all."""
    if kind is None:
        return None
    shape = (n_samples,) if kind == "sample" else (n_samples, n_out)
    weight = np.where(rng.random(shape) < 0.25, 0.0, rng.uniform(0.1, 3.0, shape))
    weight.flat[rng.integers(weight.size)] = 1.5
    return weight


@dataclass
class Problem:
    """A network with data. y_filled is y without the NaN in entries whose weight is 0."""

    net: backprop.Network
    hidden: list
    output: object
    loss: object
    x: np.ndarray
    y: np.ndarray
    y_filled: np.ndarray
    weight: np.ndarray | None

    @property
    def specification(self):
        """The first arguments of the reference's functions: sizes, activations, loss."""
        loss, parameter = split(self.loss, LOSSES)
        last = "identity" if loss.acts_on_a else self.output
        activations = [split(spec, ACTIVATIONS) for spec in [*self.hidden, last]]
        return self.net.sizes, activations, (loss, parameter)

    @property
    def data(self):
        """The last arguments: x, y as rows, weights."""
        y = np.asarray(self.y_filled)
        if y.dtype.kind in "iu":
            y = np.eye(self.net.sizes[-1])[y]
        return np.asarray(self.x, float), y.reshape(len(self.x), -1).astype(float), self.weight

    def arguments(self):
        """x, y and the keyword arguments of `value_and_grad`."""
        return (self.x, self.y), ({} if self.weight is None else {"sample_weight": self.weight})

    def value_and_grad(self, **options):
        positional, keywords = self.arguments()
        return self.net.value_and_grad(*positional, **keywords, **options)

    def reference(self):
        """Every quantity by the reference, at the network's parameters."""
        return _reference.value_and_grad(*self.specification, self.net.params.astype(float), *self.data)

    def complex_step(self, direction):
        """The derivative of the loss along the direction."""
        return _reference.complex_step(*self.specification, self.net.params.astype(float), direction, *self.data)


def limit_preactivations(problem, limit):
    """Scale the weights, layer by layer, so that no |a| exceeds the limit."""
    sizes, activations, _ = problem.specification
    for i in range(1, len(sizes)):
        theta = problem.net.params[: _params.count(sizes[: i + 1])].astype(float)
        up_to_a = [*activations[: i - 1], split("identity", ACTIVATIONS)]
        a = _reference.forward(sizes[: i + 1], up_to_a, theta, np.asarray(problem.x, float)).a[i]
        largest = np.abs(a).max()
        if largest > limit:
            problem.net.weights[i - 1][...] *= limit / largest
            problem.net.biases[i - 1][...] *= limit / largest


def random_problem(
    rng,
    sizes,
    *,
    activations="tanh",
    output="identity",
    loss="squared_error",
    dtype="float64",
    n_samples=7,
    weight=None,
    labels=True,
    layout="plain",
    limit=8.0,
):
    """A problem with standard normal x; biases are random, and |a| stays below the limit.

    Parameters
    ----------
    weight : {None, "sample", "entry"}
        y is NaN in entries of weight 0; x and y are NaN in rows of weight 0 (y is -1 for labels).
    """
    hidden = list(activations) if isinstance(activations, list) else [activations] * (len(sizes) - 2)
    net = backprop.Network(sizes, activations=hidden, output=output, loss=loss, dtype=dtype, rng=rng)
    for b in net.biases:
        b[...] = rng.normal(0, 0.3, b.shape)
    x = rng.normal(size=(n_samples, sizes[0])).astype(dtype)
    y = random_targets(rng, loss, n_samples, sizes[-1], dtype, labels)
    w = random_weights(rng, weight, n_samples, sizes[-1])
    problem = Problem(net, hidden, output, loss, x, y, y, w)
    limit_preactivations(problem, limit)
    if w is not None:
        problem.y = y.copy()
        problem.y[w == 0] = -1 if y.dtype.kind == "i" else np.nan
    problem.x = with_layout(x, layout)
    problem.y = with_layout(problem.y, layout)
    if w is not None:
        problem.weight = with_layout(w, layout)
    return problem
