"""What stands below `Network`: its shape and parameters, copies and pickles, and the recursion forward and back."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, Never, Self

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.activations import Activation
from backprop.api import array_likes, attributes, parameters, shown, targets, validate
from backprop.api.architecture import ActivationSpec, Architecture
from backprop.api.calls import Calls
from backprop.api.layer_gradients import LayerGradients
from backprop.custom import Activation as Custom
from backprop.losses import link_code

Array = npt.NDArray[Any]

_VALUE_AND_GRAD = _core.CALLS["value_and_grad"]
_LOSS = _core.CALLS["loss"]
_FORWARD = _core.CALLS["forward"]


class Base(Calls, shown.Shown):
    """What every network is and can do, whatever else is built on it: its shape, its parameters, loss and gradient."""

    __slots__ = ()

    @classmethod
    def _of(cls, architecture: Architecture) -> Self:
        """A network of that architecture, with parameters of 0."""
        net = cls.__new__(cls)
        net._allocate(architecture)
        return net

    def _allocate(self, architecture: Architecture) -> None:
        """Take an architecture, with an empty vector of parameters.

        In this order: the plan's offsets and rows are products of the sizes, which overflow where parameters of these
        sizes fit into no memory.
        """
        self._architecture = architecture
        try:
            array = np.zeros(architecture.n_params, architecture.dtype)
        except (MemoryError, ValueError) as error:
            raise MemoryError(f"the {architecture.n_params} parameters do not fit into memory") from error
        loss = architecture.loss
        self._plan = _core.Plan(
            architecture.sizes,
            [_plan_of_layer(*layer) for layer in architecture.layers],
            (loss.code, architecture.loss_parameter, loss.acts_on_a, link_code(loss)),
            architecture.dtype.itemsize,
        )
        self._keep_params(array)

    def _keep_params(self, array: Array) -> None:
        """Let the parameters be those of an array that nobody else has, for Python's calls and for C's."""
        self._memory = _core.Parameters(array)
        architecture = self._architecture
        self._handle = _core.Handle(
            self._plan,
            self._memory,
            targets.PROBABILITY_TOLERANCE[architecture.dtype.name],
            partial(targets.refuse_targets, architecture.loss, architecture.sizes[-1], architecture.dtype),
            threads.get_num_threads,
        )

    # What it is ------------------------------------------------------------------------------------------------------

    @property
    def sizes(self) -> tuple[int, ...]:
        """n_0, n_1, ..., n_L."""
        return self._architecture.sizes

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._architecture.dtype

    @property
    def activations(self) -> tuple[ActivationSpec, ...]:
        """The hidden layers' activations."""
        return self._architecture.activations

    @property
    def output(self) -> ActivationSpec:
        """The output function O, as it was given."""
        return self._architecture.output

    @property
    def loss_name(self) -> str:
        """The loss's name."""
        return self._architecture.loss.name

    @property
    def params(self) -> Array:
        """The flat vector of parameters: W_1 row-major, b_1, W_2, b_2, ...; assigning copies the values in."""
        return self._theta(None)

    @params.setter
    def params(self, values: npt.ArrayLike) -> None:
        self._theta(None)[...] = validate.params(values, self.n_params, self._architecture.dtype)

    @property
    def weights(self) -> tuple[Array, ...]:
        """Writable views of W_1, ..., W_L."""
        return self._plan.weights(self._memory)

    @property
    def biases(self) -> tuple[Array, ...]:
        """Writable views of b_1, ..., b_L."""
        return self._plan.biases(self._memory)

    def __repr__(self) -> str:
        return f"Network({self._architecture.arguments})"

    def _table(self) -> shown.Table:
        return self._architecture.table(f"{type(self).__name__}: ")

    def __getstate__(self) -> dict[str, Any]:
        added = attributes.added(self, Calls.__slots__)
        of_subclass = {} if added is None else {"added": added}
        return {**of_subclass, **self._architecture.to_dict(), "params": self._theta(None)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        rest = dict(state)
        values, added = rest.pop("params"), rest.pop("added", None)
        self._allocate(Architecture.from_dict(rest))
        attributes.restore(self, added)
        self.params = values

    def __copy__(self) -> Self:
        other = type(self).__new__(type(self))
        other.__setstate__(self.__getstate__())
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = type(self).__new__(type(self))
        memo[id(self)] = other  # a subclass's attributes may lead back here
        state = self.__getstate__()
        other.__setstate__({name: v if name == "params" else copy.deepcopy(v, memo) for name, v in state.items()})
        return other

    def _with_params(self, array: Array) -> Self:
        """A network of the same shape on the parameters in an array that nobody else has; both share the plan."""
        other = type(self).__new__(type(self))
        for name in Calls.__slots__:
            setattr(other, name, getattr(self, name))
        other._keep_params(array)
        attributes.restore(other, attributes.added(self, Calls.__slots__))
        return other

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
            raise TypeError(f"vector: expected a numpy array, got {array_likes.describe(vector)}")
        if vector.shape != (self.n_params,):
            raise ValueError(f"vector: expected shape ({self.n_params},), got {vector.shape}")
        return parameters.unflatten(vector, self._architecture.sizes)

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
            validate.refuse_excess("value_and_grad", x, excess, self.n_params)
        result = self._plan.quick_value_and_grad(
            self._memory, params, x, y, sample_weight, out, n_threads, threads.get_num_threads
        )
        if result is not None:
            return result
        y_, x_, theta, weights = self._inputs(x, y, params, sample_weight)
        n_threads = threads.resolve(n_threads)
        others = validate.inputs(x, x_, y, y_, params, theta, sample_weight, weights)
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
            validate.refuse_excess("loss", x, excess, self.n_params)
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

    def layer_gradients(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        params: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> LayerGradients:
        """Every quantity of the recursion, layer by layer.

        The arguments and errors are those of `value_and_grad`, whose loss these are the gradients of: a row of grad_a
        and grad_h carries its sample's share, 1/n_samples or its weight over the sum of weights.

        Returns
        -------
        LayerGradients
            Lists indexed by the layer's number, so that ``grad_h[i] == grad_a[i+1] @ W_{i+1}`` reads as it is written.
        """
        y_, x_, theta, weights = self._inputs(x, y, params, sample_weight, whole=True)
        n_threads = threads.resolve(n_threads)
        n_samples, sizes, dtype = x_.shape[0], self._architecture.sizes, self._architecture.dtype
        L = len(sizes) - 1
        a, h = ([None] + [np.zeros((n_samples, n), dtype) for n in sizes[1:]] for _ in range(2))
        grad_a: list[Array | None] = [None] + [np.zeros((n_samples, n), dtype) for n in sizes[1:]]
        grad_h: list[Array | None] = [np.zeros((n_samples, n), dtype) for n in sizes]
        if self._architecture.loss.acts_on_a:
            grad_h[L] = None
        grad = np.empty(self.n_params, dtype)
        y_hat = np.empty_like(h[L])
        loss = self._plan.layer_gradients(theta, x_, y_, y_hat, grad, weights, n_threads, a, h, grad_a, grad_h)
        layers = parameters.unflatten(grad, sizes)
        return LayerGradients(
            loss=loss,
            a=a,
            h=[x_, *(rows for rows in h[1:] if rows is not None)],  # all of them are there
            grad_a=grad_a,
            grad_h=grad_h,
            grad_W=[None, *(W for W, _ in layers)],
            grad_b=[None, *(b for _, b in layers)],
        )


def _plan_of_layer(layer: Activation, parameter: float) -> tuple[Any, ...]:
    """What the compiled plan needs of an activation."""
    if isinstance(layer, Custom):
        return layer.code, parameter, layer.functions, layer.is_c
    return layer.code, parameter
