"""`Network`: a dense network's plan of layers, its parameters, and the calls on it."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Never

import numpy as np
import numpy.typing as npt

from backprop import _architecture, _attributes, _core, _other_names, _validate, threads
from backprop import params as _params
from backprop._architecture import ActivationSpec, Spec
from backprop._calls import Calls
from backprop._derivatives import Derivatives
from backprop._inspection import Inspection
from backprop._second_derivatives import SecondDerivatives
from backprop._squared_errors import SquaredErrors
from backprop.activations import Activation
from backprop.custom import Activation as Custom
from backprop.losses import link_code

if TYPE_CHECKING:
    from backprop.objective import Objective

Array = npt.NDArray[Any]

_VALUE_AND_GRAD = _core.CALLS["value_and_grad"]
_LOSS = _core.CALLS["loss"]
_FORWARD = _core.CALLS["forward"]


def _made_with(argument: str) -> str:
    return f"is fixed when the network is made: make another one, Network(sizes, {argument})"


class Network(Derivatives, SecondDerivatives, SquaredErrors, Inspection):
    """A feed-forward network of dense layers, with its loss.

    h_0 = x, a_i = W_i h_{i-1} + b_i, h_i = g_i(a_i) for i = 1..L, y_hat = h_L = O(a_L).

    Parameters
    ----------
    sizes : sequence of int
        n_0, n_1, ..., n_L, at least two; two make a network without hidden layers.
    activations : str, (str, float) or list of these
        One for all hidden layers, or a list with one for each; a pair gives the parameter, as ("leaky_relu", 0.2).
    output : str or (str, float)
        The output function O. With cross_entropy, binary_cross_entropy and poisson, which work on a_L, `forward`
        applies softmax, sigmoid or exp, and output is "identity" or names just that one.
    loss : str or (str, float)
        Its name, or a pair with its parameter, as ("huber", 0.5).
    dtype : {"float64", "float32"}
        Of everything in the network; inputs of other dtypes are converted.
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
        W_1 row-major, b_1, W_2, b_2, ...: a writable view, made anew at each access. Assigning copies the values in.
    weights, biases : tuple of arrays
        Writable views of the same memory; index 0 is W_1 and b_1.

    Raises
    ------
    TypeError, ValueError
        Where an argument is of the wrong type or value; the message says what was expected.

    Notes
    -----
    Many threads may use one network at once while nobody writes its parameters. The recursion is that of Goodfellow,
    Bengio and Courville, Deep Learning (2016), algorithms 6.3 and 6.4.

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
    _fixed: ClassVar[dict[str, str]] = {
        **{name: _made_with(f"{name}=...") for name in ("activations", "output", "loss", "dtype", "rng")},
        "sizes": _made_with("..."),
        "n_params": "follows from the sizes",
        "loss_name": _made_with("loss=..."),
        "weights": "are views of params: write into one, as net.weights[0][...] = W, or assign params",
        "biases": "are views of params: write into one, as net.biases[0][...] = b, or assign params",
    }

    @_other_names.checks_names
    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activations: ActivationSpec | Sequence[ActivationSpec] = "relu",
        output: ActivationSpec = "identity",
        loss: Spec = "squared_error",
        dtype: npt.DTypeLike = "float64",
        rng: int | np.random.Generator | None = None,
    ) -> None:
        self._specify(sizes, activations, output, loss, dtype)
        generator = _validate.random_generator(rng)
        self._allocate()
        _params.initialize(self._theta(None), self._sizes, [layer for layer, _ in self._layers], generator)

    def _specify(
        self,
        sizes: Sequence[int],
        activations: ActivationSpec | Sequence[ActivationSpec],
        output: ActivationSpec,
        loss: Spec,
        dtype: npt.DTypeLike,
    ) -> None:
        """Accept the architecture, or refuse it; nothing of the parameters' size is made yet."""
        self._sizes = _architecture.sizes(sizes)
        hidden = _architecture.hidden_activations(activations, len(self._sizes) - 2)
        self._loss, self._loss_parameter, self._output_name, last = _architecture.loss_and_output(loss, output)
        self._layers = [*hidden, last]
        self._dtype = _architecture.dtype(dtype)

    def _allocate(self) -> None:
        """Make an empty vector of parameters, and the plan of the layers.

        In this order: the plan's offsets and rows are products of the sizes, which overflow where parameters of these
        sizes fit into no memory.
        """
        try:
            array = np.zeros(_params.count(self._sizes), self._dtype)
        except (MemoryError, ValueError) as error:
            raise MemoryError(f"the {_params.count(self._sizes)} parameters do not fit into memory") from error
        self._plan = _core.Plan(
            self._sizes,
            [_plan_of_layer(*layer) for layer in self._layers],
            (self._loss.code, self._loss_parameter, self._loss.acts_on_a, link_code(self._loss)),
            self._dtype.itemsize,
        )
        self._keep_params(array)

    def _keep_params(self, array: Array) -> None:
        """Let the parameters be those of an array that nobody else has, for Python's calls and for C's."""
        self._memory = _core.Parameters(array)
        self._handle = _core.Handle(
            self._plan,
            self._memory,
            _validate.PROBABILITY_TOLERANCE[self._dtype.name],
            partial(_validate.refuse_targets, self._loss, self._sizes[-1], self._dtype),
            threads.get_num_threads,
        )

    # What it is ------------------------------------------------------------------------------------------------------

    @property
    def sizes(self) -> tuple[int, ...]:
        """n_0, n_1, ..., n_L."""
        return self._sizes

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._dtype

    @property
    def activations(self) -> tuple[ActivationSpec, ...]:
        """The hidden layers' activations."""
        return tuple(_architecture.spec(*layer) for layer in self._layers[:-1])

    @property
    def output(self) -> ActivationSpec:
        """The output function O, as it was given."""
        return self._output_name if self._loss.acts_on_a else _architecture.spec(*self._layers[-1])

    @property
    def loss_name(self) -> str:
        """The loss's name."""
        return self._loss.name

    @property
    def params(self) -> Array:
        """The flat vector of parameters: W_1 row-major, b_1, W_2, b_2, ...; assigning copies the values in."""
        return self._theta(None)

    @params.setter
    def params(self, values: npt.ArrayLike) -> None:
        self._theta(None)[...] = _validate.params(values, self.n_params, self._dtype)

    @property
    def weights(self) -> tuple[Array, ...]:
        """Writable views of W_1, ..., W_L."""
        return self._plan.weights(self._memory)

    @property
    def biases(self) -> tuple[Array, ...]:
        """Writable views of b_1, ..., b_L."""
        return self._plan.biases(self._memory)

    def __repr__(self) -> str:
        activations = self.activations
        shown: object = activations[0] if activations and len(set(activations)) == 1 else list(activations)
        if not activations:
            shown = "relu"
        return (
            f"Network({list(self._sizes)}, activations={shown!r}, output={self.output!r}, "
            f"loss={_architecture.spec(self._loss, self._loss_parameter)!r}, dtype={self._dtype.name!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        added = _attributes.added(self, Calls.__slots__)
        return {
            **({} if added is None else {"added": added}),
            "sizes": self._sizes,
            "activations": list(self.activations),
            "output": self.output,
            "loss": _architecture.spec(self._loss, self._loss_parameter),
            "dtype": self._dtype.name,
            "params": self._theta(None),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        architecture = dict(state)
        values, added = architecture.pop("params"), architecture.pop("added", None)
        self._specify(**architecture)
        self._allocate()
        _attributes.restore(self, added)
        self.params = values

    def __copy__(self) -> Network:
        other = type(self).__new__(type(self))
        other.__setstate__(self.__getstate__())
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        other = type(self).__new__(type(self))
        memo[id(self)] = other  # a subclass's attributes may lead back here
        state = self.__getstate__()
        other.__setstate__({name: v if name == "params" else copy.deepcopy(v, memo) for name, v in state.items()})
        return other

    def _with_params(self, array: Array) -> Network:
        """A network of the same shape on the parameters in an array that nobody else has; both share the plan."""
        other = type(self).__new__(type(self))
        for name in Calls.__slots__:
            setattr(other, name, getattr(self, name))
        other._keep_params(array)
        _attributes.restore(other, _attributes.added(self, Calls.__slots__))
        return other

    def save(self, path: str | bytes | os.PathLike[Any]) -> None:
        """Write the network to a file that `backprop.load` reads, in the safetensors format.

        Parameters
        ----------
        path : str, bytes or path-like
            A file of that name is replaced in one step: at any moment, also after a crash or on a full disk, the path
            names the old file or the new one, whole. A symbolic link is followed. A new file has the permissions that
            the umask gives, one that is replaced keeps them.

        Raises
        ------
        ValueError
            Where an activation is one of the user's own, which has no name in a file, or where path names a pipe or a
            device.
        OSError
            Where the file cannot be written; what stood there before is untouched.
        ModuleNotFoundError
            Where the safetensors library is missing: ``pip install backprop-cpu[save]``.

        Notes
        -----
        The tensors are named "0.weight", "0.bias", "2.weight", ..., so that ``load_state_dict`` of
        ``torch.nn.Sequential(Linear, activation, Linear, ...)`` takes them; ``torch.nn.Identity()`` stands for a hidden
        activation "identity". The members of an `Ensemble` are networks, and are saved one by one.
        """
        from backprop.saving import save

        save(self, path)

    def unflatten(self, vector: Array) -> list[tuple[Array, Array]]:
        """Views [(W_1, b_1), ...] of any vector with the layout of params, as of a gradient.

        Parameters
        ----------
        vector : (n_params,) array

        Returns
        -------
        list of (W_i, b_i)
            Shapes (n_i, n_{i-1}) and (n_i,); they share the vector's memory.

        Raises
        ------
        TypeError, ValueError
            Where vector is not an array of that shape.
        """
        if not isinstance(vector, np.ndarray):
            raise TypeError(f"vector: expected a numpy array, got {_validate.describe(vector)}")
        if vector.shape != (self.n_params,):
            raise ValueError(f"vector: expected shape ({self.n_params},), got {vector.shape}")
        return _params.unflatten(vector, self._sizes)

    # The calls -------------------------------------------------------------------------------------------------------

    def value_and_grad(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *excess: Never,
        params: npt.ArrayLike | None = None,
        out: Array | None = None,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> tuple[float, Array]:
        """Loss and its gradient by all parameters.

        Parameters
        ----------
        x : (n_samples, n_0) array_like
            At least one sample. Calls by sample, and sums over samples, take none too.
        y : (n_samples, n_L) array_like
            Or (n_samples,) where n_L is 1. For cross_entropy integer labels (n_samples,), or probabilities; one-hot
            rows and, of two classes, labels may be booleans.
        *excess
            Nothing: it is here to name `objective` to who gives this method to SciPy, which calls it as f(theta, x, y).
        params : (n_params,) array_like, optional
            Parameters to use instead of the network's own.
        out : (n_params,) array of the network's dtype, optional
            For the gradient: contiguous, writable, apart from all inputs. Never converted.
        sample_weight : (n_samples,) or (n_samples, n_L) array_like, optional
            Finite, >= 0, not all 0. The loss is then the weighted mean; an entry of weight 0 contributes nothing, even
            where y is NaN. By output for all losses but cross_entropy.
        n_threads : int, optional
            At most so many threads; the result has the same bits for each number.

        Returns
        -------
        loss : float
            The mean of the samples' losses, from float64 sums.
        grad : (n_params,) array of the network's dtype
            out, where it was given.

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused: params and out are then as they were.
        MemoryError, KeyboardInterrupt
            params are as they were, out is unspecified.
        """
        if excess:
            _validate.refuse_excess("value_and_grad", x, excess, self.n_params)
        result = self._plan.quick_value_and_grad(
            self._memory, params, x, y, sample_weight, out, n_threads, threads.get_num_threads
        )
        if result is not None:
            return result
        y_, x_, theta, weights = self._inputs(x, y, params, sample_weight)
        n_threads = threads.resolve(n_threads)
        others = _validate.inputs(x, x_, y, y_, params, theta, sample_weight, weights)
        grad = self._result(out, (self.n_params,), others)
        return self._plan.run(_VALUE_AND_GRAD, theta, x_, y_, grad, weights, n_threads), grad

    def loss(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *excess: Never,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> float:
        """Return the loss alone, with the arguments and errors of `value_and_grad`, and the same bits."""
        if excess:
            _validate.refuse_excess("loss", x, excess, self.n_params)
        result: float | None = self._quick(_LOSS, x, y, params, sample_weight, None, n_threads)
        if result is not None:
            return result
        y_, x_, theta, weights = self._inputs(x, y, params, sample_weight)
        return self._plan.run(_LOSS, theta, x_, y_, None, weights, threads.resolve(n_threads))

    def forward(self, x: npt.ArrayLike, *, params: npt.ArrayLike | None = None, n_threads: int | None = None) -> Array:
        """y_hat = O(a_L).

        Parameters
        ----------
        x : (n_samples, n_0) array_like
        params : (n_params,) array_like, optional
            Parameters to use instead of the network's own.
        n_threads : int, optional

        Returns
        -------
        (n_samples, n_L) array of the network's dtype
            Softmax, sigmoid or exp of a_L with cross_entropy, binary_cross_entropy or poisson; a_L with hinge.

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused.
        """
        return self._call(_FORWARD, x, None, params, None, None, n_threads)

    @_other_names.checks_names
    def objective(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        l2: float = 0.0,
        free: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> Objective:
        """Make the function theta -> (loss, gradient) of this network on these data, for `scipy.optimize.minimize`.

        Parameters
        ----------
        x, y, sample_weight, n_threads
            As in `value_and_grad`.
        l2 : float
            Adds l2/2 times the sum of all squared weights (not biases), not divided by n_samples.
        free : (n_params,) boolean mask, optional
            theta and the gradient hold the free parameters alone; the others keep the network's values.

        Returns
        -------
        Objective
            ``fun(theta) -> (float, a fresh float64 array)``, for ``minimize(fun, x0, jac=True)``; also
            ``fun.value(theta)`` and ``fun.grad(theta)``, which share their work at the same theta, and
            ``fun.hessp(theta, v)``, the Hessian times v.

        Raises
        ------
        TypeError, ValueError
            Where an argument is refused.
        """
        from backprop.objective import Objective

        return Objective(self, x, y, sample_weight=sample_weight, l2=l2, free=free, n_threads=n_threads)


def _plan_of_layer(layer: Activation, parameter: float) -> tuple[Any, ...]:
    """What the compiled plan needs of an activation."""
    if isinstance(layer, Custom):
        return layer.code, parameter, layer.functions, layer.is_c
    return layer.code, parameter
