"""`Network`: a dense network and all calls on it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop.api import other_names, parameters, scalars
from backprop.api.architecture import ActivationSpec, Architecture, LossSpec
from backprop.api.base import Base
from backprop.api.first_order import FirstOrder
from backprop.api.input_derivatives import InputDerivatives
from backprop.api.least_squares import LeastSquares
from backprop.api.partial import Partial
from backprop.api.second_order import SecondOrder
from backprop.interchange import safetensors
from backprop.judges.check_gradient import GradientReport, check_gradient
from backprop.judges.find_nonfinite import NonFinite, find_nonfinite
from backprop.objectives import Objectives
from backprop.training.fit import Fit


def _made_with(argument: str) -> str:
    return f"is fixed when the network is made: make another one, Network(sizes, {argument})"


# Attributes that cannot be assigned, and what to do instead.
_FIXED = {
    **{name: _made_with(f"{name}=...") for name in ("activations", "output", "loss", "dtype", "rng")},
    "sizes": _made_with("..."),
    "n_params": "follows from the sizes",
    "loss_name": _made_with("loss=..."),
    "weights": "are views of params: write into one, as net.weights[0][...] = W, or assign params",
    "biases": "are views of params: write into one, as net.biases[0][...] = b, or assign params",
}


class Network(Fit, Objectives, FirstOrder, SecondOrder, LeastSquares, InputDerivatives, Partial):
    """A feed-forward network of dense layers, with its loss.

    h_0 = x, a_i = W_i h_{i-1} + b_i, h_i = g_i(a_i) for i = 1..L, y_hat = h_L = O(a_L).

    Parameters
    ----------
    sizes : sequence of int
        n_0, n_1, ..., n_L: at least two. With two, the network has no hidden layers.
    activations : str, (str, float) or list of these
        One for all hidden layers, or a list with one for each. A pair gives the parameter: ("leaky_relu", 0.2).
    output : str or (str, float)
        The output function O. The losses cross_entropy, binary_cross_entropy and poisson work on a_L: `forward` applies
        softmax, sigmoid or exp, and output must be "identity" or the name of that function.
    loss : str, (str, float) or (str, tuple of float)
        A name, or a pair with its parameter: ("huber", 0.5). The quantile loss also takes a tuple with a tau for each
        output: ("quantile", (0.1, 0.5, 0.9)). Targets of shape (n_samples,) or (n_samples, 1) then count for all
        outputs.
    dtype : {"float64", "float32"}
        The dtype of everything in the network. Inputs of other dtypes are converted.
    rng : int, numpy.random.Generator or None
        For the initial weights: He normal for the relu family, LeCun normal for selu, else Glorot uniform; biases 0.

    Attributes
    ----------
    sizes : tuple of int
    dtype : numpy.dtype
    n_params : int
    activations : tuple
        One name, or (name, parameter), for each hidden layer.
    output : str or (str, float)
    loss_name : str
    params : (n_params,) array
        W_1 row-major, b_1, W_2, b_2, ...: a live, writable view of the network's memory. ``net.params.copy()`` keeps
        the values of now. Assigning copies the values in.
    weights, biases : tuple of arrays
        Writable views of the same memory; index 0 is W_1 and b_1.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value; the error says what was expected.

    Notes
    -----
    Many threads may use one network at the same time, as long as no thread writes its parameters. The recursion is that
    of Goodfellow, Bengio and Courville, Deep Learning (2016), algorithms 6.3 and 6.4.

    Examples
    --------
    >>> import numpy as np
    >>> net = Network([3, 4, 1], activations="tanh", rng=0)
    >>> x, y = np.eye(3), np.ones((3, 1))
    >>> loss, grad = net.value_and_grad(x, y)
    >>> grad.shape == (net.n_params,)
    True
    """

    __slots__ = ("__dict__", "__weakref__")
    _fixed = _FIXED

    @other_names.checks_names
    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activations: ActivationSpec | Sequence[ActivationSpec] = "relu",
        output: ActivationSpec = "identity",
        loss: LossSpec = "squared_error",
        dtype: npt.DTypeLike = "float64",
        rng: int | np.random.Generator | None = None,
    ) -> None:
        architecture = Architecture.of(sizes, activations, output, loss, dtype)
        generator = scalars.random_generator(rng)
        self._allocate(architecture)
        layers = [layer for layer, _ in architecture.layers]
        parameters.initialize(self._theta(None), architecture.sizes, layers, generator)

    def find_nonfinite(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> NonFinite | None:
        """Where the first NaN or infinity of the loss or the gradient comes from.

        Parameters
        ----------
        x, y, params, sample_weight, n_threads
            As in `value_and_grad`.

        Returns
        -------
        NonFinite or None
            None if loss and gradient are finite. Else the first sample, layer, unit and stage ("input", "weight",
            "activation", "loss", "gradient"), and the value that caused it. It prints as a sentence.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
        """
        return find_nonfinite(self, x, y, params=params, sample_weight=sample_weight, n_threads=n_threads)

    def check_gradient(
        self, x: npt.ArrayLike, y: npt.ArrayLike, *, sample_weight: npt.ArrayLike | None = None
    ) -> GradientReport:
        """Check `value_and_grad` against the complex step of the NumPy reference, layer by layer.

        Parameters
        ----------
        x, y, sample_weight
            As in `value_and_grad`; a few dozen samples are enough.

        Returns
        -------
        GradientReport
            It prints as a table, with SciPy's check_grad below it. ``.ok`` is the verdict, ``.max_error`` the largest
            relative error.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
        """
        return check_gradient(self, x, y, sample_weight=sample_weight)

    def save(self, path: str | bytes | os.PathLike[Any]) -> None:
        """Write the network to a file that `backprop.load` reads, in the safetensors format.

        Parameters
        ----------
        path : str, bytes or path-like
            An old file of that name is replaced in one step. At any moment, also after a crash or on a full disk, the
            path names either the whole old file or the whole new file. A symbolic link is followed. A new file has the
            permissions that the umask gives; the permissions of a replaced file stay.

        Raises
        ------
        ValueError
            If the network has an activation of your own, which has no name in a file, or if path names a pipe or a
            device.
        OSError
            If the file cannot be written. An old file is then untouched.
        ModuleNotFoundError
            If the safetensors library is missing: ``pip install safetensors``.

        Notes
        -----
        The tensors are named "0.weight", "0.bias", "2.weight", ..., so that ``load_state_dict`` of
        ``torch.nn.Sequential(Linear, activation, Linear, ...)`` accepts them. A hidden activation "identity" needs
        ``torch.nn.Identity()`` there. `Ensemble.save` writes all its members to one file.
        """
        safetensors.write(path, self._architecture, self._theta(None))


def _let_network_have(*parts: type) -> None:
    """Name the methods of these classes as those of `Network`: in errors, in pickles of functions, and in `help`."""
    for part in parts:
        for name, member in vars(part).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                member.__module__, member.__qualname__ = __name__, f"Network.{name}"


_let_network_have(Base, Fit, Objectives, FirstOrder, SecondOrder, LeastSquares, InputDerivatives, Partial)
