"""`Ensemble`: many networks of one shape, evaluated in one call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.api import array_likes, attributes, other_names, parameters, scalars, shown, targets, validate
from backprop.api.calls import Calls
from backprop.interchange import safetensors
from backprop.network import Network
from backprop.training import ensemble as fits
from backprop.training.settings import Rate
from backprop.training.side_by_side import Samples
from backprop.training.state import State

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

Array = npt.NDArray[Any]

_FORWARD = _core.CALLS["forward"]


# Attributes that cannot be assigned, and what to do instead.
_FIXED = dict.fromkeys(
    ("net", "k", "rng"), "is fixed when the ensemble is made: make another one, Ensemble(net, k, rng=...)"
)


class Ensemble(attributes.Closed, shown.Shown):
    """k networks of one architecture, each with its own parameters.

    Parameters
    ----------
    net : Network
        Its sizes, activations, output, loss and dtype are those of all members.
    k : int
        At least 1.
    rng : int, numpy.random.Generator or None
        For the initial weights of the members, which are independent of each other. Biases are 0.

    Attributes
    ----------
    params : (k, n_params) array
        One network per row. A live view, as `Network.params`; assigning copies the values in.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused.

    Notes
    -----
    The loss and gradient of a member have the same bits as those of a separate network with its parameters.

    Examples
    --------
    >>> import numpy as np
    >>> ensemble = Ensemble(Network([2, 8, 1], activations="tanh", rng=0), 3)
    >>> losses, grads = ensemble.value_and_grad(np.eye(2), np.ones((2, 1)))
    >>> losses.shape, grads.shape == (3, ensemble[0].n_params)
    ((3,), True)
    """

    __slots__ = ("__dict__", "__weakref__", "_members", "_memory", "_net")
    _fixed = _FIXED

    @other_names.checks_names
    def __init__(self, net: Network, k: int, *, rng: int | np.random.Generator | None = None) -> None:
        if not isinstance(net, Network):
            raise TypeError(f"net: expected a Network, got {array_likes.describe(net)}")
        n_members = scalars.positive_integer(k, "k")
        generator = scalars.random_generator(rng)
        self._allocate(net, n_members)
        layers = [layer for layer, _ in net._architecture.layers]
        for row in self.params:
            parameters.initialize(row, net.sizes, layers, generator)

    @classmethod
    def _of(cls, net: Network, n_members: int) -> Self:
        """An ensemble of networks like net, with parameters of 0."""
        ensemble = cls.__new__(cls)
        ensemble._allocate(net, n_members)
        return ensemble

    def _allocate(self, net: Network, n_members: int) -> None:
        """Take the architecture of net, and parameters of 0."""
        self._net = net._with_params(np.zeros(net.n_params, net.dtype))
        try:
            array = np.zeros((n_members, net.n_params), net.dtype)
        except (MemoryError, ValueError) as error:
            raise MemoryError(f"the parameters of {n_members} networks do not fit into memory") from error
        self._keep_params(array)

    def _keep_params(self, array: Array) -> None:
        """Use the rows of an array that is used nowhere else as the parameters of the members."""
        self._memory = _core.Parameters(array)
        self._members = [self._net._with_params(row) for row in array]

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, i: int) -> Network:
        """Member i, a Network whose parameters are row i of params."""
        return self._members[i]

    def __repr__(self) -> str:
        return f"Ensemble({self._net!r}, {len(self)})"

    def _table(self) -> shown.Table:
        return self._net._architecture.table(f"{type(self).__name__} of {shown.count(len(self), 'network')}, each of ")

    def __getstate__(self) -> dict[str, Any]:
        of_members = [attributes.added(member, Calls.__slots__) for member in self._members]
        added = attributes.added(self, Ensemble.__slots__)
        return {"net": self._net, "params": self.params, "members": of_members, "added": added}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._net = state["net"]
        self._keep_params(np.array(state["params"], self._net.dtype, order="C"))
        for member, added in zip(self._members, state.get("members", ()), strict=False):
            attributes.restore(member, added)
        attributes.restore(self, state.get("added"))

    @property
    def params(self) -> Array:
        """The parameters of the members, (k, n_params): a live view. Assigning copies the values in."""
        return self._net._plan.vectors(self._memory)

    @params.setter
    def params(self, values: npt.ArrayLike) -> None:
        self.params[...] = validate.rows(values, len(self), (self._net.n_params,), self._net.dtype, "params")

    def forward(self, x: npt.ArrayLike, *, n_threads: int | None = None) -> Array:
        """y_hat of every member.

        Parameters
        ----------
        x : (n_samples, n_0) or (k, n_samples, n_0) array_like
            Shared, or one per member.
        n_threads : int, optional

        Returns
        -------
        (k, n_samples, n_L) array

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
        """
        n_threads = threads.resolve(n_threads)
        x_ = self._samples(x, of_mean=False)
        y_hat = np.empty((len(self), x_.shape[-2], self._net.sizes[-1]), self._net.dtype)
        for m, row in enumerate(self.params):
            self._net._plan.run(_FORWARD, row, x_[m] if x_.ndim == 3 else x_, None, y_hat[m], None, n_threads)
        return y_hat

    def value_and_grad(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        out: Array | None = None,
        sample_weight: npt.ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> tuple[Array, Array]:
        """Loss and gradient of every member.

        Parameters
        ----------
        x, y, sample_weight
            As in `Network.value_and_grad`, shared by all members; or with one more dimension, one per member. If k,
            n_samples and n_L are equal, a shape of two dimensions can have both meanings: such weights, integer y for
            cross_entropy, and y with a tau for each output are refused.
        out : (k, n_params) array of the networks' dtype, optional
        n_threads : int, optional
            The most threads to use, over members and over samples.

        Returns
        -------
        losses : (k,) float64 array
        grads : (k, n_params) array

        Raises
        ------
        TypeError, ValueError
            If an argument is refused.
        """
        k, net = len(self), self._net
        if sample_weight is None:
            result = net._plan.quick_ensemble_value_and_grad(
                self._memory, x, y, out, n_threads, threads.get_num_threads
            )
            if result is not None:
                return result
        n_threads = threads.resolve(n_threads)
        x_, y_, weights = self._inputs(x, y, sample_weight)
        if out is None:
            grads = np.empty((k, net.n_params), net.dtype)
        else:
            others: dict[str, Sequence[object]] = {
                "params": (self.params,),
                "x": (x, x_),
                "y": (y, y_),
                "sample_weight": (sample_weight, *(row.array for row in weights or () if row is not None)),
            }
            grads = validate.out(out, (k, net.n_params), net.dtype, others)
        losses = np.empty(k)
        net._plan.ensemble_value_and_grad(self._memory, x_, y_, losses, grads, weights, n_threads)
        return losses, grads

    @other_names.checks_names
    def fit(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        *,
        solver: str = "lbfgs",
        sample_weight: npt.ArrayLike | None = None,
        l2: float = 0.0,
        free: npt.ArrayLike | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        batch_size: int | None = None,
        shuffle: bool = True,
        learning_rate: Rate | None = None,
        momentum: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
        rng: int | np.random.Generator | None = None,
        x_val: npt.ArrayLike | None = None,
        y_val: npt.ArrayLike | None = None,
        sample_weight_val: npt.ArrayLike | None = None,
        patience: int | None = None,
        callback: Callable[[fits.Info], object] | None = None,
        every: int = 1,
        progress: bool = False,
        state: Sequence[State] | None = None,
        n_threads: int | None = None,
        comm: None = None,
    ) -> list[OptimizeResult]:
        """Fit all members side by side.

        Each has the bits of a fit of its own, `Network.fit`, and ends by its own criterion. Threads are over the
        members; if there are fewer members than threads, over the samples.

        Parameters
        ----------
        x, y, sample_weight, x_val, y_val, sample_weight_val
            As in `Network.fit`, shared by all members; or with one more dimension, one per member, as in
            `value_and_grad`. Members whose data have fewer samples than others' get rows of weight 0.
        rng : int, numpy.random.Generator or None
            Member i has the fit of ``ensemble[i].fit(..., rng=rng.spawn(k)[i])``.
        callback : callable, optional
            Called with an object that has iteration and learning_rate, of the members that have made the most
            iterations; loss (k,), val_loss (k,) or None, and params (k, n_params), a copy. If it returns True or raises
            StopIteration, all fits end.
        state : list of k states, optional
            ``[result.state for result in results]``, of this or another ensemble, or of fits of single networks: they
            are the same.
        comm : None
            Ensembles take no communicator.
        solver, l2, free, max_iter, tol, batch_size, shuffle, learning_rate, momentum, betas, epsilon, weight_decay, \
        max_norm, patience, every, progress, n_threads
            As in `Network.fit`, the same for all members.

        Returns
        -------
        list of k scipy.optimize.OptimizeResult
            As of `Network.fit`. The arrays in them are views of arrays for all members.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or is not used by the solver. params are then unchanged.
        MemoryError, KeyboardInterrupt, or what a callback raises
            The params of each member are those of its last step.

        Notes
        -----
        A member whose loss is not finite ends with success False, and does not disturb the others. A member of
        "lm" computes its normal equations once more after each look at it, by a callback, for example, because its
        matrices are kept for each thread alone.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        return fits.fit(self._net, self.params, self._inputs, given)

    def save(self, path: str | bytes | os.PathLike[Any]) -> None:
        """Write all members to one file that `backprop.load` reads, in the safetensors format.

        Parameters
        ----------
        path : str, bytes or path-like
            As in `Network.save`: an old file of that name is replaced in one step.

        Raises
        ------
        ValueError, OSError, ModuleNotFoundError
            As in `Network.save`.

        Notes
        -----
        The tensors are named as those of a network, with one more dimension: "0.weight" has the shape (k, n_1, n_0),
        "0.bias" (k, n_1). So ``torch.func.stack_module_state`` names those of k modules. Attributes that a subclass
        adds are not saved.
        """
        safetensors.write(path, self._net._architecture, self.params)

    def _inputs(self, x: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None) -> Samples:
        """The arguments of calls with a loss, accepted and converted."""
        x_ = self._samples(x, of_mean=True)
        weights = self._weights(sample_weight, x_.shape[-2])
        return Samples(x_, self._targets(y, x_.shape[-2], weights), weights)

    def _samples(self, x: npt.ArrayLike, *, of_mean: bool) -> Array:
        """x, shared or one per member."""
        array = array_likes.as_array(x, "x")  # once: an object may give a different array each time
        if array.ndim != 3:
            return validate.samples(array, self._net.sizes[0], self._net.dtype, of_mean=of_mean)
        rows = self._one_a_member(array, "x")
        flat = validate.samples(
            rows.reshape(rows.shape[0] * rows.shape[1], rows.shape[2]),
            self._net.sizes[0],
            self._net.dtype,
            of_mean=of_mean,
        )
        return flat.reshape(rows.shape)

    def _weights(self, sample_weight: npt.ArrayLike | None, n_samples: int) -> list[targets.Weights | None] | None:
        """The accepted weights of each member."""
        if sample_weight is None:
            return None
        weight = array_likes.as_array(sample_weight, "sample_weight")
        n_out, loss, k = self._net.sizes[-1], self._net._architecture.loss, len(self)
        own = weight.ndim == 3 or weight.shape == (k, n_samples)
        if own and loss.name != "cross_entropy" and self._is_shared_too(weight.shape, n_samples):
            raise ValueError(
                f"sample_weight: expected a shape with one meaning, got {weight.shape}: a weight per sample for each "
                f"of the {k} networks, or a weight per output for all; the first is written np.repeat(w[:, :, None], "
                f"{n_out}, axis=2), the second np.broadcast_to(w, {(k, n_samples, n_out)})"
            )
        if not own:
            return [targets.sample_weight(weight, loss, n_samples, n_out)] * k
        return [
            targets.sample_weight(row, loss, n_samples, n_out) for row in self._one_a_member(weight, "sample_weight")
        ]

    def _targets(self, y: npt.ArrayLike, n_samples: int, weights: list[targets.Weights | None] | None) -> Array:
        """y, shared or one per member. A shared y is checked with the weights of each member."""
        n_out, loss, dtype = self._net.sizes[-1], self._net._architecture.loss, self._net.dtype
        array = array_likes.as_array(y, "y")
        own = array.ndim == 3
        if array.ndim == 2 and (n_out == 1 or loss.by_output):
            own = array.shape not in ((n_samples, 1), (n_samples, n_out))
            if loss.by_output and array.shape[0] == len(self) and self._is_shared_too(array.shape, n_samples):
                raise ValueError(
                    f"y: expected a shape with one meaning, got {array.shape}: targets for each of the {len(self)} "
                    f"networks, or for each output of all; the first are written y[:, :, None], the second "
                    f"np.broadcast_to(y, {(len(self), n_samples, n_out)})"
                )
        if loss.name == "cross_entropy" and array.dtype.kind in "biu" and array.ndim == 2:
            own = array.shape == (len(self), n_samples) or array.shape != (n_samples, n_out)
            if own and self._is_shared_too(array.shape, n_samples):
                raise ValueError(
                    f"y: expected a shape with one meaning, got {array.shape}: labels for each of the {len(self)} "
                    f"networks, or one-hot rows for all; the first are written np.eye({n_out})[y], the second "
                    "y.argmax(axis=1)"
                )
        if not own:
            first = targets.targets(array, loss, n_samples, n_out, dtype, None if weights is None else weights[0])
            for other in [] if weights is None or weights[-1] is weights[0] else weights[1:]:
                targets.targets(array, loss, n_samples, n_out, dtype, other)
            return first
        rows = self._one_a_member(array, "y")
        if weights is None:
            with contextlib.suppress(TypeError, ValueError):  # the loop says which row of which member it is
                flat = rows.reshape(-1, *rows.shape[2:])
                accepted = targets.targets(flat, loss, len(self) * n_samples, n_out, dtype, None)
                return accepted.reshape(len(self), n_samples, *accepted.shape[1:])
        return np.ascontiguousarray([
            targets.targets(row, loss, n_samples, n_out, dtype, None if weights is None else weights[m])
            for m, row in enumerate(rows)
        ])  # fmt: skip

    def _is_shared_too(self, shape: tuple[int, ...], n_samples: int) -> bool:
        """Whether rows per member could also be rows per sample, with other results: k = n_samples = n_L > 1."""
        return n_samples > 1 and shape == (n_samples, self._net.sizes[-1])

    def _one_a_member(self, array: Array, name: str) -> Array:
        if array.shape[0] != len(self):
            raise ValueError(f"{name}: expected one for each of the {len(self)} networks, got shape {array.shape}")
        return array
