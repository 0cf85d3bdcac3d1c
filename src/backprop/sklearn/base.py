"""`BaseMLP`: what MLPRegressor and MLPClassifier share around a fit: samples, initial parameters, predictions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, validate_data

from backprop.network import Network
from backprop.sklearn import callbacks, problem
from backprop.sklearn.arguments import CONSTRAINTS, STOCHASTIC
from backprop.sklearn.fits import Fits, Samples

Array = npt.NDArray[Any]


class BaseMLP(Fits):
    """The fit of an estimator from the arguments of a user."""

    _parameter_constraints: ClassVar[dict[str, Any]] = CONSTRAINTS

    # What the two classes do in their own ways -----------------------------------------------------------------------

    @abstractmethod
    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array]:
        """X, and y as numbers (n_samples, n_outputs)."""

    @abstractmethod
    def _validate_targets(self, y: Any) -> Array:
        """The y of validation samples, as numbers (n_samples, n_outputs)."""

    def _without_missing(self, y: Array, weight: Array | None) -> tuple[Array, Array | None]:
        """Targets that are numbers, and weights of 0 for those that were missing."""
        return y, weight

    def _class_weighted(self, y: Array, weight: Array | None) -> Array | None:
        """The weights of training samples, times those of their classes."""
        return weight

    @abstractmethod
    def _out_activation(self) -> str:
        """The name of the output activation in scikit-learn."""

    @abstractmethod
    def _network_loss(self) -> Any:
        """The loss by the names of backprop."""

    # The network -----------------------------------------------------------------------------------------------------

    def _network(self, loss: Any = None) -> Network:
        """A network with the parameters of `coefs_` and `intercepts_`, which may have been assigned."""
        coefs = [np.asarray(coef) for coef in self.coefs_]
        return problem.network_of(coefs, self.intercepts_, self.activation, self.out_activation_, loss)

    def _outputs(self, X: Any) -> Array:
        """The outputs of the network for X as a user gives it."""
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        return problem.forward(self._network(), X, self.n_threads)

    def _hidden_sizes(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if np.any(np.array(sizes) <= 0):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        if isinstance(self.activation, list) and len(self.activation) != len(sizes):
            raise ValueError(
                f"activation: expected a name, or a list of {len(sizes)}, one for each hidden layer, "
                f"got {len(self.activation)}"
            )
        return sizes

    def _initialize(self, sizes: list[int], dtype: npt.DTypeLike) -> None:
        """The state of a fit that starts anew."""
        self.n_iter_ = 0
        self.t_ = 0
        self.n_layers_ = len(sizes)
        self.out_activation_ = self._out_activation()
        self.coefs_, self.intercepts_ = problem.initial_parameters(sizes, self.activation, dtype, self._random_state)
        self._forget_curves()

    # The fit ---------------------------------------------------------------------------------------------------------

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        incremental: bool,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        hidden = self._hidden_sizes()
        first_pass = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = self._validate_input(X, y, incremental, first_pass)
        if self.dtype is not None:
            X = X.astype(self.dtype, copy=False)
        self.n_outputs_ = y.shape[1]
        y, weight = self._without_missing(y, self._checked_weight(sample_weight, X, y))
        weight = self._class_weighted(y, weight)
        if weight is not None and not weight.any():
            raise ValueError("y, sample_weight: expected at least one target with a weight > 0, got none")
        sizes = [X.shape[1], *hidden, self.n_outputs_]
        validation = self._given_validation(X_val, y_val, sample_weight_val)
        self._random_state = check_random_state(self.random_state)
        if first_pass:
            self._initialize(sizes, X.dtype)
        net = self._network(self._network_loss())
        if list(net.sizes) != sizes:
            raise ValueError(
                f"expected layers of the sizes {list(net.sizes)}, as in the previous fit, got {sizes}; "
                "set warm_start=False to start anew"
            )
        tasks = callbacks.Tasks(
            self, X, lambda: self._truth(y), weight, self.max_iter if self.solver in STOCHASTIC else 0
        )
        self._fit_samples(net, Samples(X, y, weight), validation, incremental, tasks)
        tasks.end()
        if not all(np.isfinite(w).all() for w in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return self

    def _checked_weight(self, sample_weight: Any, X: Any, y: Array, name: str = "sample_weight") -> Array | None:
        """Weights by sample in the dtype of X, or by sample and output."""
        if sample_weight is None:
            return None
        given = np.asarray(sample_weight)
        by_output = given.ndim == 2 and given.shape == y.shape
        weight: Array = given.astype(np.float64) if by_output else _check_sample_weight(sample_weight, X)
        if (weight < 0).any():
            raise ValueError(f"{name}: expected weights >= 0, got {weight.min()}")
        return weight

    def _given_validation(self, X_val: Any, y_val: Any, sample_weight_val: Any) -> Samples | None:
        """X_val and y_val of a call."""
        if X_val is None and y_val is None:
            if sample_weight_val is not None:
                raise ValueError("sample_weight_val: expected X_val and y_val with it, got neither")
            return None
        if X_val is None or y_val is None:
            missing = "X_val" if X_val is None else "y_val"
            raise ValueError(f"{missing}: expected it with the other one of X_val and y_val, got None")
        X_val = validate_data(self, X_val, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32), reset=False)
        y_val = self._validate_targets(y_val)
        if len(y_val) != X_val.shape[0]:
            raise ValueError(f"y_val: expected {X_val.shape[0]} rows, as X_val has, got {len(y_val)}")
        weight = self._checked_weight(sample_weight_val, X_val, y_val, "sample_weight_val")
        y_val, weight = self._without_missing(y_val, weight)
        if weight is not None and not weight.any():
            raise ValueError("y_val, sample_weight_val: expected at least one target with a weight > 0, got none")
        return Samples(X_val, y_val, weight)

    def _check_solver(self) -> bool:
        """Whether the solver has `partial_fit`."""
        if self.solver not in STOCHASTIC:
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
