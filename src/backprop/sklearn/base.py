"""`BaseMLP`: what MLPRegressor and MLPClassifier share.

It follows scikit-learn's MLP step by step: the same random numbers in the same order, the same batches, the same rule
for the end of a fit. So with equal `random_state` and float64 each loss of `loss_curve_` agrees to rounding.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, validate_data

from backprop.network import Network
from backprop.sklearn import callbacks, epochs, full_batch, problem
from backprop.sklearn.arguments import CONSTRAINTS, STOCHASTIC

Array = npt.NDArray[Any]


class Validation(NamedTuple):
    """Samples that score an epoch."""

    x: Any
    y: Array  # as `_targets` takes it
    truth: Array  # as `_metric` takes it
    sample_weight: Array | None


class BaseMLP(callbacks.CallbackSupport, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no types
    """The fit of an estimator: validation of what is shared, initial parameters, solvers, the end of a fit."""

    _parameter_constraints: ClassVar[dict[str, Any]] = CONSTRAINTS

    # What the two classes do in their own ways -----------------------------------------------------------------------

    @abstractmethod
    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array]:
        """X, and y as numbers (n_samples, n_outputs)."""

    @abstractmethod
    def _validate_targets(self, y: Any) -> Array:
        """The y of validation samples, as numbers (n_samples, n_outputs)."""

    @abstractmethod
    def _weights(self, y: Array, sample_weight: Array | None, incremental: bool) -> tuple[Array, Array | None]:
        """Targets and weights, after class weights or missing targets have been looked after."""

    @abstractmethod
    def _out_activation(self) -> str:
        """The name of the output activation in scikit-learn."""

    @abstractmethod
    def _network_loss(self) -> Any:
        """The loss by the names of backprop."""

    @abstractmethod
    def _targets(self, y: Array, dtype: npt.DTypeLike) -> Array:
        """Targets as the network's loss takes them."""

    @abstractmethod
    def _truth(self, y: Array) -> Array:
        """Targets as the user gave them, for the score."""

    @abstractmethod
    def _metric(self, truth: Array, y_hat: Array, sample_weight: Array | None) -> float:
        """The score of outputs of the network."""

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
        self.__dict__.pop("_best_params", None)
        if self.solver in STOCHASTIC:
            self.loss_curve_: list[float] = []
            self.validation_loss_curve_: list[float] | None = None
            self._no_improvement_count = 0
            self.validation_scores_: list[float] | None = [] if self.early_stopping else None
            self.best_validation_score_: float | None = -np.inf if self.early_stopping else None
            self.best_loss_: float | None = None if self.early_stopping else np.inf

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
        y, weight = self._weights(y, self._checked_weight(sample_weight, X, y), incremental)
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
        if self.solver in STOCHASTIC:
            self._fit_stochastic(net, X, y, weight, incremental, validation, tasks)
        else:
            self._fit_whole(net, X, y, weight)
        tasks.end()
        if not all(np.isfinite(w).all() for w in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return self

    def _checked_weight(self, sample_weight: Any, X: Any, y: Array) -> Array | None:
        """Weights by sample in the dtype of X, or by sample and output."""
        if sample_weight is None:
            return None
        given = np.asarray(sample_weight)
        by_output = given.ndim == 2 and given.shape == y.shape
        weight: Array = given.astype(np.float64) if by_output else _check_sample_weight(sample_weight, X)
        if (weight < 0).any():
            raise ValueError(f"sample_weight: expected weights >= 0, got {weight.min()}")
        return weight

    def _given_validation(self, X_val: Any, y_val: Any, sample_weight_val: Any) -> Validation | None:
        """X_val and y_val of a call."""
        if X_val is None and y_val is None:
            if sample_weight_val is not None:
                raise ValueError("sample_weight_val: expected X_val and y_val with it, got neither")
            return None
        if X_val is None or y_val is None:
            missing = "X_val" if X_val is None else "y_val"
            raise ValueError(f"{missing}: expected it with the other one of X_val and y_val, got None")
        if self.solver not in STOCHASTIC:
            raise ValueError(f"X_val: expected the solver 'sgd' or 'adam' with it, got solver={self.solver!r}")
        X_val = validate_data(self, X_val, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32), reset=False)
        y_val = self._validate_targets(y_val)
        if len(y_val) != X_val.shape[0]:
            raise ValueError(f"y_val: expected {X_val.shape[0]} rows, as X_val has, got {len(y_val)}")
        return Validation(X_val, y_val, self._truth(y_val), self._checked_weight(sample_weight_val, X_val, y_val))

    def _problem(self, net: Network, X: Any, y: Array, weight: Array | None) -> problem.Problem:
        return problem.Problem(net, X, self._targets(y, net.dtype), weight, self.alpha, self.n_threads)

    def _fit_whole(self, net: Network, X: Any, y: Array, weight: Array | None) -> None:
        """A fit by a solver that uses all samples in each step."""
        n_shown = 0

        def show(loss: float) -> bool:
            nonlocal n_shown
            n_shown += 1
            print(f"Iteration {n_shown}, loss = {loss:.8f}")
            return False

        try:
            outcome = full_batch.fit(
                self._problem(net, X, y, weight),
                self.solver,
                self.max_iter,
                self.max_fun,
                self.tol,
                show if self.verbose else None,
            )
        finally:
            self.coefs_, self.intercepts_ = problem.parameters_of(net, net.params)
        self.n_iter_, self.loss_ = outcome.n_iter, outcome.loss
        if outcome.message:
            warnings.warn(
                f"{self.solver} failed to converge after {outcome.n_iter} iterations: {outcome.message}.\n\n"
                f"Increase max_iter={self.max_iter} or max_fun={self.max_fun}, or scale the data.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _new_optimizer(self, n_params: int) -> epochs.Optimizer:
        if self.solver == "sgd":
            return epochs.Sgd(
                n_params,
                self.learning_rate_init,
                self.learning_rate,
                self.momentum,
                self.nesterovs_momentum,
                self.power_t,
            )
        return epochs.Adam(n_params, self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)

    def _split(self, X: Any, y: Array, weight: Array | None) -> tuple[Any, Array, Array | None, Validation]:
        """Training samples, and the share of validation_fraction."""
        arrays = [X, y] if weight is None else [X, y, weight]
        parts = train_test_split(
            *arrays,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=y if self._is_stratified() else None,
        )
        if parts[1].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        weight_train, weight_val = (None, None) if weight is None else parts[4:]
        return parts[0], parts[2], weight_train, Validation(parts[1], parts[3], self._truth(parts[3]), weight_val)

    def _is_stratified(self) -> bool:
        return False

    def _fit_stochastic(
        self,
        net: Network,
        X: Any,
        y: Array,
        weight: Array | None,
        incremental: bool,
        validation: Validation | None,
        tasks: callbacks.Tasks,
    ) -> None:
        """Epochs of sgd or adam, until the loss or the score does not improve any more."""
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = self._new_optimizer(net.n_params)
        if self.early_stopping and validation is None:
            if incremental:
                raise ValueError("partial_fit does not support early_stopping=True without X_val and y_val")
            X, y, weight, validation = self._split(X, y, weight)
        training = self._problem(net, X, y, weight)
        n_samples = training.n_samples
        batch_size = min(200, n_samples) if self.batch_size == "auto" else self.batch_size
        if batch_size > n_samples:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=5
            )
            batch_size = n_samples
        order = np.arange(n_samples) if self.shuffle else None
        best = getattr(self, "_best_params", None)
        self._best_params = net.params.copy() if best is None else best
        runner = epochs.Runner(training, self._optimizer, int(batch_size))
        is_watched = incremental or validation is not None or tasks.are_watched or bool(self.verbose)
        try:
            self.n_iter_ = 0
            while self.n_iter_ < self.max_iter:
                tasks.begin_epoch()
                n_epochs = 1 if is_watched else self._sure_epochs(n_samples)
                orders = None
                if order is not None:
                    orders = epochs.shuffled(order, n_epochs, self._random_state)
                    order = orders[-1]
                self._run_epochs(runner, orders, n_epochs)
                if validation is not None:
                    self._validate_epoch(net, validation)
                self._count_without_improvement(net)
                is_ended = tasks.end_epoch(lambda: self._attributes(net))
                if self._stops() or incremental or is_ended or np.isnan(self.loss_):
                    break
                if self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization "
                        "hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=5,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=5)
        finally:
            restored = self.early_stopping and not incremental
            params = self._best_params if restored else net.params
            self.coefs_, self.intercepts_ = problem.parameters_of(net, params)

    def _sure_epochs(self, n_samples: int) -> int:
        """How many more epochs run before the fit may end; but no more than can be made together."""
        until_stop = self.n_iter_no_change + 1 - self._no_improvement_count
        return int(max(1, min(until_stop, self.max_iter - self.n_iter_, epochs.most_together(n_samples))))

    def _run_epochs(self, runner: epochs.Runner, orders: Array | None, n_epochs: int) -> None:
        """Some epochs; the last one's loss is not counted yet."""
        net, n_samples = runner.problem.net, runner.problem.n_samples
        curve: list[float] = []
        try:
            runner.run(orders, self._optimizer.rates(self.t_, n_samples, n_epochs), curve)
        finally:
            for k, loss in enumerate(curve):
                if k:
                    self._count_without_improvement(net)
                self.loss_ = loss
                self.n_iter_ += 1
                self.t_ += n_samples
                self.loss_curve_.append(loss)
                if self.verbose:
                    print(f"Iteration {self.n_iter_}, loss = {loss:.8f}")
            if curve:
                self._optimizer.epochs_end(self.t_)

    def _attributes(self, net: Network) -> dict[str, Any]:
        """What an estimator needs to predict from the present parameters of the network."""
        coefs, intercepts = problem.parameters_of(net, net.params)
        return {"coefs_": coefs, "intercepts_": intercepts}

    def _validate_epoch(self, net: Network, validation: Validation) -> None:
        """Append to the validation scores and losses."""
        y_hat = problem.forward(net, validation.x, self.n_threads)
        # A fit that diverges has a score of NaN.
        is_finite = bool(np.isfinite(y_hat).all())
        score = self._metric(validation.truth, y_hat, validation.sample_weight) if is_finite else np.nan
        self.validation_scores_ = getattr(self, "validation_scores_", None) or []
        self.validation_scores_.append(float(score))
        self.validation_loss_curve_ = getattr(self, "validation_loss_curve_", None) or []
        self.validation_loss_curve_.append(self._validation_loss(net, validation))
        self._say(f"Validation score: {score:f}")

    def _validation_loss(self, net: Network, validation: Validation) -> float:
        """The mean loss of the validation samples, without the penalty."""
        samples = problem.Problem(
            net, validation.x, self._targets(validation.y, net.dtype), validation.sample_weight, 0.0, self.n_threads
        )
        losses, totals = [], []
        every = slice(None)
        for rows in problem.blocks_of(validation.x) if problem.is_sparse(validation.x) else [every]:
            x, y, weight = samples.rows(rows)
            total = samples.total(rows)
            if total > 0:
                loss = net.loss(x, y, sample_weight=weight, n_threads=self.n_threads)
                losses.append(samples.reported(loss, rows, total))
                totals.append(total)
        return float(np.average(losses, weights=totals))

    def _count_without_improvement(self, net: Network) -> None:
        """Count the epochs in a row that did not improve by tol, and keep the parameters of the best score."""
        if self.early_stopping:
            assert self.validation_scores_ is not None
            score = self.validation_scores_[-1]
            best_score = -np.inf if self.best_validation_score_ is None else self.best_validation_score_
            self._no_improvement_count = self._no_improvement_count + 1 if score < best_score + self.tol else 0
            if score > best_score:
                self.best_validation_score_ = score
                self._best_params = net.params.copy()
        else:
            best_loss = np.inf if self.best_loss_ is None else self.best_loss_
            self._no_improvement_count = self._no_improvement_count + 1 if self.loss_ > best_loss - self.tol else 0
            if self.loss_ < best_loss:
                self.best_loss_ = self.loss_

    def _stops(self) -> bool:
        """Whether the fit ends after this epoch. An adaptive learning rate may be lowered instead."""
        if self._no_improvement_count <= self.n_iter_no_change:
            return False
        what = "Validation score" if self.early_stopping else "Training loss"
        stops, why = self._optimizer.stops()
        self._say(
            f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs. {why}"
        )
        if not stops:
            self._no_improvement_count = 0
        return stops

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text)

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
