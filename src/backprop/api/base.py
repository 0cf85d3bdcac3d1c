"""The base of `Network`: its architecture and parameters, copies and pickles, and the recursion forward and back."""

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

Array = npt.NDArray[Any]

_VALUE_AND_GRAD = _core.CALLS["value_and_grad"]
_LOSS = _core.CALLS["loss"]
_FORWARD = _core.CALLS["forward"]


class Base(Calls, shown.Shown):
    """A network with its architecture, parameters, loss and gradient. All else is built on this."""

    __slots__ = ()

    @classmethod
    def _of(cls, architecture: Architecture) -> Self:
        """A network of that architecture, with parameters of 0."""
        net = cls.__new__(cls)
        net._allocate(architecture)
        return net

    def _allocate(self, architecture: Architecture) -> None:
        """Take an architecture, with parameters of 0.

        The parameters are allocated before the plan is made: its offsets are products of the sizes, and overflow for
        sizes whose parameters fit into no memory.
        """
        self._architecture = architecture
        try:
            array = np.zeros(architecture.n_params, architecture.dtype)
        except (MemoryError, ValueError) as error:
            raise MemoryError(f"the {architecture.n_params} parameters do not fit into memory") from error
        self._plan = _core.Plan(
            architecture.sizes,
            [_plan_of_layer(*layer) for layer in architecture.layers],
            architecture.compiled_loss,
            architecture.dtype.itemsize,
        )
        self._keep_params(array)

    def _keep_params(self, array: Array) -> None:
        """Use an array that is used nowhere else as the parameters, for the calls from Python and from C."""
        self._memory = _core.Parameters(array)
        architecture = self._architecture
        self._handle = _core.Handle(
            self._plan,
            self._memory,
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
        """The output function O, as the user wrote it."""
        return self._architecture.output

    @property
    def loss_name(self) -> str:
        """The name of the loss."""
        return self._architecture.loss.name

    @property
    def params(self) -> Array:
        """The flat vector of parameters: W_1 row-major, b_1, W_2, b_2, ...

        It is live: a view of the network's memory, which later changes of the parameters also change. To keep old
        values, write ``net.params.copy()``. Assigning copies the values in.
        """
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
        memo[id(self)] = other  # attributes of a subclass may refer to this network
        state = self.__getstate__()
        other.__setstate__({name: v if name == "params" else copy.deepcopy(v, memo) for name, v in state.items()})
        return other

    def _with_params(self, array: Array) -> Self:
        """A network of the same architecture, on parameters in an array of its own. Both share the plan."""
        other = type(self).__new__(type(self))
        for name in Calls.__slots__:
            setattr(other, name, getattr(self, name))
        other._keep_params(array)
        attributes.restore(other, attributes.added(self, Calls.__slots__))
        return other

    def unflatten(self, vector: Array) -> list[tuple[Array, Array]]:
        """Views [(W_1, b_1), ...] of any vector with the layout of params, for instance of a gradient.

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
            If vector is not an array of that shape.
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
        """The loss and its gradient by all parameters.

        Parameters
        ----------
        x : (n_samples, n_0) array_like
            At least one sample. (Calls by sample, and sums over samples, also accept no samples.)
        y : (n_samples, n_L) array_like
            (n_samples,) is enough if n_L is 1; y_hat is (n_samples, 1) all the same, so ``net.forward(x) - y`` needs
            ``y[:, None]``. For cross_entropy: integer labels (n_samples,), or probabilities (n_samples, n_L). One-hot
            rows, and labels of two classes, may be booleans. With a tuple of taus, (n_samples,) or (n_samples, 1)
            counts for all outputs.
        *excess
            No argument is accepted here. If SciPy calls this method as f(theta, x, y), the error names `objective`.
        params : (n_params,) array_like, optional
            Parameters to use instead of the network's own.
        out : (n_params,) array of the network's dtype, optional
            For the gradient: contiguous, writable, apart from all inputs. Never converted.
        sample_weight : (n_samples,) or (n_samples, n_L) array_like, optional
            Finite, >= 0, not all 0. The loss is then the weighted mean. An entry of weight 0 contributes nothing, even
            if y is NaN. Weights by output, (n_samples, n_L), are for all losses except cross_entropy.
        n_threads : int, optional
            The most threads to use. The result has the same bits for every number.

        Returns
        -------
        loss : float
            The mean of the losses of the samples, from sums in float64.
        grad : (n_params,) array of the network's dtype
            out, if it was given.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused. params and out are then unchanged.
        MemoryError, KeyboardInterrupt
            params are unchanged, out is unspecified.

        Notes
        -----
        PyTorch's ``BCEWithLogitsLoss`` divides by the number of entries even if it has a ``weight`` or a
        ``pos_weight``; this loss divides by the sum of the weights. For targets of 0 and 1 and
        ``w = np.where(y == 1, pos_weight, 1.0)``, PyTorch's loss is ``w.mean() * net.loss(x, y, sample_weight=w)``.
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
        """The loss without its gradient: the same arguments, errors and bits as in `value_and_grad`."""
        if excess:
            validate.refuse_excess("loss", x, excess, self.n_params)
        result: float | None = self._plan.quick(
            _LOSS, self._memory, params, x, y, sample_weight, None, n_threads, threads.get_num_threads
        )
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
            Also (n_samples, 1) if n_L is 1. With cross_entropy, binary_cross_entropy and poisson: softmax, sigmoid and
            exp of a_L. With hinge: a_L.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
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

        The arguments and errors are those of `value_and_grad`, and these are the gradients of its loss: a row of grad_a
        and grad_h carries the share of its sample, which is 1/n_samples or its weight divided by the sum of weights.

        Returns
        -------
        LayerGradients
            Lists are indexed by the number of the layer: ``grad_h[i] == grad_a[i+1] @ W_{i+1}``, as in the equations.
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
            h=[x_, *(rows for rows in h[1:] if rows is not None)],  # none of them is None
            grad_a=grad_a,
            grad_h=grad_h,
            grad_W=[None, *(W for W, _ in layers)],
            grad_b=[None, *(b for _, b in layers)],
        )


def _plan_of_layer(layer: Activation, parameter: float) -> tuple[Any, ...]:
    """An activation as the compiled plan takes it."""
    if isinstance(layer, Custom):
        return layer.code, parameter, layer.functions, layer.is_c
    return layer.code, parameter
