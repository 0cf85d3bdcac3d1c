"""Loss and gradient in each library, written as its users would write it, with the same mathematics.

A maker takes a `Problem` and the number of threads, and returns a `Runner`. Parameters, x and y are in arrays of the
library before anything is timed. A maker raises `UnsupportedError` if the library cannot compute a case.
"""

import gc
import importlib
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy_by_hand


class UnsupportedError(Exception):
    """The library cannot compute the case, or the machine has not enough memory for it."""


@dataclass
class Runner:
    """A call to time, and its result to compare.

    Attributes
    ----------
    call : callable
        Computes loss and gradient once; this is timed.
    result : callable
        Computes once, and returns the loss and [(grad_W_1, grad_b_1), ...] as NumPy arrays.
    n_iterations : int or None
        That a fit makes.
    """

    call: Callable
    result: Callable
    n_iterations: int | None = None


def make_ours(problem, n_threads):
    """`Network.value_and_grad` with `out=`."""
    import backprop

    case = problem.case
    net = backprop.Network(case.sizes, activations=case.activation, loss=case.loss, dtype=problem.dtype, rng=0)
    for (W, b), W_own, b_own in zip(problem.layers, net.weights, net.biases, strict=True):
        W_own[...], b_own[...] = W, b
    backprop.set_num_threads(n_threads)
    x, y, grad = problem.x, problem.y, np.empty_like(net.params)

    def call():
        return net.value_and_grad(x, y, out=grad)

    def result():
        loss, vector = call()
        return loss, net.unflatten(vector)

    return Runner(call, result)


def make_numpy(problem, _n_threads):
    """NumPy by hand."""
    call = numpy_by_hand.make_call(problem)
    return Runner(call, call)


# PyTorch -------------------------------------------------------------------------------------------------------------


def _torch_loss(problem):
    from torch.nn import functional

    activate = getattr(functional, problem.case.activation)
    criterion = functional.mse_loss if problem.case.loss == "squared_error" else functional.cross_entropy

    def loss(parameters, x, y):
        h = x
        for i in range(0, len(parameters), 2):
            h = functional.linear(activate(h) if i else h, parameters[i], parameters[i + 1])
        return criterion(h, y)

    return loss


def make_torch(problem, n_threads, *, compiled=False):
    """PyTorch: forward in eager mode or compiled, then `torch.autograd.grad`."""
    import torch

    _need_memory(problem)
    torch.set_num_threads(n_threads)
    parameters = [torch.tensor(array, requires_grad=True) for layer in problem.layers for array in layer]
    x, y = torch.from_numpy(problem.x), torch.from_numpy(problem.y)
    loss_function = _torch_loss(problem)
    if compiled:
        torch._dynamo.reset()
        loss_function = torch.compile(loss_function, fullgraph=True, dynamic=False)

    def call():
        loss = loss_function(parameters, x, y)
        return loss.item(), torch.autograd.grad(loss, parameters)

    def result():
        loss, grads = call()
        arrays = [grad.numpy() for grad in grads]
        return loss, list(zip(arrays[::2], arrays[1::2], strict=True))

    return Runner(call, result)


def make_compile(problem, n_threads):
    """`torch.compile` of the forward pass and loss, from which it makes the backward pass too."""
    return make_torch(problem, n_threads, compiled=True)


# JAX -----------------------------------------------------------------------------------------------------------------


def jax_activation(name):
    """The function of this name."""
    from jax import nn, numpy

    exact = {"gelu": lambda a: nn.gelu(a, approximate=False)}
    return {"relu": nn.relu, "tanh": numpy.tanh, "sin": numpy.sin, "silu": nn.silu, **exact}[name]


def make_jax(problem, _n_threads):
    """`jax.jit(jax.value_and_grad(...))` on arrays of the device; each call waits for the result."""
    import jax
    import jax.numpy as jnp

    _need_memory(problem)
    jax.config.update("jax_enable_x64", True)
    nn, activate = jax.nn, jax_activation(problem.case.activation)
    n_out, squared = problem.case.sizes[-1], problem.case.loss == "squared_error"

    def loss_function(layers, x, y):
        h = x
        for i, (W, b) in enumerate(layers):
            h = (activate(h) if i else h) @ W.T + b
        if squared:
            return jnp.mean((h - y) ** 2)
        return -jnp.mean(jnp.sum(nn.one_hot(y, n_out, dtype=h.dtype) * nn.log_softmax(h), axis=1))

    function = jax.jit(jax.value_and_grad(loss_function))
    layers = [(jnp.asarray(W), jnp.asarray(b)) for W, b in problem.layers]
    x = jnp.asarray(problem.x)
    y = jnp.asarray(problem.y if squared else problem.y.astype(np.int32))
    jax.block_until_ready((layers, x, y))

    def call():
        return jax.block_until_ready(function(layers, x, y))

    def result():
        loss, grads = call()
        return float(loss), [(np.asarray(grad_W), np.asarray(grad_b)) for grad_W, grad_b in grads]

    return Runner(call, result)


# scikit-learn --------------------------------------------------------------------------------------------------------


def make_sklearn(problem, _n_threads):
    """The loss and gradient inside scikit-learn's MLPs (`_backprop`).

    Its squared loss is half of ours, and its gradient is the sum over outputs instead of the mean. These constant
    factors are not timed.
    """
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import LabelBinarizer

    case = problem.case
    if case.activation not in ("relu", "tanh"):
        raise UnsupportedError(f"no {case.activation}")
    _need_memory(problem)
    squared = case.loss == "squared_error"
    kind = MLPRegressor if squared else MLPClassifier
    model = kind(hidden_layer_sizes=case.sizes[1:-1], activation=case.activation, alpha=0.0)
    model._random_state = np.random.RandomState(0)
    y = problem.y
    if not squared:
        model._label_binarizer = LabelBinarizer().fit(np.arange(case.sizes[-1]))
        y = model._label_binarizer.transform(y).astype(problem.dtype)
    model._initialize(y, list(case.sizes), problem.dtype)
    model.coefs_ = [np.ascontiguousarray(W.T) for W, _ in problem.layers]
    model.intercepts_ = [b.copy() for _, b in problem.layers]
    L = len(problem.layers)

    def call():
        lists = [None] * L, [None] * L, [None] * L
        return model._backprop(problem.x, y, None, [problem.x] + [None] * L, *lists)

    def result():
        loss, grad_W, grad_b = call()
        factor = 2 / case.sizes[-1] if squared else 1
        grads = [(factor * W.T, factor * b) for W, b in zip(grad_W, grad_b, strict=True)]
        return (2 if squared else 1) * float(loss), grads

    return Runner(call, result)


# mlpfile -------------------------------------------------------------------------------------------------------------


def make_mlpfile(problem, _n_threads):
    """`grad_update` of mlpfile: one step of gradient descent for one row, with step size 0; it computes no loss.

    The gradient of its squared error is (y_hat - y) for each output. To compare, one step is taken.
    """
    import mlpfile

    case, layers = problem.case, problem.layers
    if problem.dtype != np.float32 or case.n_samples != 1 or case.activation != "relu":
        raise UnsupportedError("float32, one row and relu alone")
    linear, relu = 2, 3  # of its file format
    head = [2 * len(layers) - 1, case.sizes[0]]
    for i, (_, b) in enumerate(layers):
        head += ([relu] if i else []) + [linear, len(b)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"
        path.write_bytes(struct.pack(f"{len(head)}I", *head) + b"".join(W.tobytes() + b.tobytes() for W, b in layers))
        model, stepped = mlpfile.Model.load(str(path)), mlpfile.Model.load(str(path))
    squared = case.loss == "squared_error"
    x = problem.x[0].copy()
    y = problem.y[0].copy() if squared else np.eye(case.sizes[-1], dtype=np.float32)[problem.y[0]]
    loss_gradient = mlpfile.squared_error if squared else mlpfile.softmax_cross_entropy

    def call():
        model.grad_update(x, y, loss_gradient, 0.0)

    def result():
        rate = 2.0**12  # so large that the parameters are lost in rounding beside the step
        stepped.grad_update(x, y, loss_gradient, rate)
        after = [layer for layer in stepped.layers if layer.type == mlpfile.Linear]
        factor = (2 / case.sizes[-1] if squared else 1) / rate
        grads = [(factor * (W - new.W), factor * (b - new.b)) for (W, b), new in zip(layers, after, strict=True)]
        y_hat = model.forward(x).astype(float)
        if squared:
            return float(np.mean((y_hat - y) ** 2)), grads
        return float(np.log(np.exp(y_hat - y_hat[problem.y[0]]).sum())), grads

    return Runner(call, result)


# All of them ---------------------------------------------------------------------------------------------------------

MAKERS = {
    "ours": make_ours,
    "numpy": make_numpy,
    "torch": make_torch,
    "compile": make_compile,
    "jax": make_jax,
    "sklearn": make_sklearn,
    "mlpfile": make_mlpfile,
}
MODULES = {
    "torch": "torch",
    "compile": "torch",
    "jax": "jax",
    "sklearn": "sklearn.neural_network",
    "mlpfile": "mlpfile",
    "func": "torch.func",  # from here on peers of derivative_peers.py
    "jax_map": "jax",
    "hand_torch": "torch",
    "hand_jax": "jax",
    "func_jvp": "torch.func",  # of input_derivative_peers.py and input_derivative_jax.py
    "func_compile": "torch",
    "deepxde": "torch",
    "jax_columns": "jax",
    "jax_jvp": "jax",
    "jax_jet": "jax.experimental.jet",
    "jax_layers": "jax",
    "folx": "folx",
    "deepxde_jax": "jax",
    "optax": "optax",  # of training_peers.py and training_minimizers.py
    "scipy": "scipy.optimize",
}


def missing(name):
    """Why a peer is left out, or None."""
    if name not in MODULES:
        return None
    try:
        importlib.import_module(MODULES[name])
        if name in ("compile", "func_compile"):
            _try_compile()
    except Exception as error:  # a broken installation or compiler can raise anything
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return None


def _try_compile():
    import torch

    function = torch.compile(lambda x: torch.tanh(x).sum())
    x = torch.ones(8, requires_grad=True)
    torch.autograd.grad(function(x), x)


def forget():
    """Free the memory that the libraries keep after a case."""
    import sys

    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()


def _need_memory(problem):
    """Refuse a case if the activations of the whole batch would not fit into memory."""
    needed = 4 * problem.case.n_samples * sum(problem.case.sizes) * problem.dtype.itemsize
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if needed > 0.7 * available:
        raise UnsupportedError(f"needs about {needed / 1e9:.0f} GB, {available / 1e9:.0f} GB are free")
