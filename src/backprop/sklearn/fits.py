"""`Fits`: the fit of an estimator to accepted samples, by each solver, and what ends it.

It follows scikit-learn's MLP step by step: the same random numbers in the same order, the same batches, the same rule
for the end of a fit. So with equal `random_state` and float64 each loss of `loss_curve_` agrees to rounding.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from backprop.network import Network
from backprop.sklearn import callbacks, epochs, full_batch
from backprop.sklearn.arguments import STOCHASTIC
from backprop.sklearn.problem import Problem, blocks_of, forward, is_sparse, parameters_of

Array = npt.NDArray[Any]


class Samples(NamedTuple):
    """Accepted samples. y is (n_samples, n_outputs)."""

    x: Any
    y: Array
    weight: Array | None


class Fits(callbacks.CallbackSupport, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no types
    """The solvers of an estimator, with validation and early stopping."""

    # What the two classes do in their own ways -----------------------------------------------------------------------

    @abstractmethod
    def _targets(self, y: Array, dtype: npt.DTypeLike) -> Array:
        """Targets as the network's loss takes them."""

    @abstractmethod
    def _truth(self, y: Array) -> Array:
        """Targets as the user gave them, for the score."""

    @abstractmethod
    def _metric(self, truth: Array, y_hat: Array, sample_weight: Array | None) -> float:
        """The score of outputs of the network."""

    def _is_stratified(self) -> bool:
        """Whether the validation samples are to have all classes in equal shares."""
        return False

    # All solvers -----------------------------------------------------------------------------------------------------

    def _forget_curves(self) -> None:
        """Begin a fit anew: no losses and no scores."""
        for name in ("_best_params", "loss_curve_", "validation_loss_curve_", "_no_improvement_count",
                     "validation_scores_", "best_validation_score_", "best_loss_"):  # fmt: skip
            self.__dict__.pop(name, None)
        if self.solver in STOCHASTIC:
            self._begin_curves()

    def _begin_curves(self) -> None:
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_: list[float] | None = None
        self._no_improvement_count = 0
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        self.best_validation_score_: float | None = -np.inf if self.early_stopping else None
        self.best_loss_: float | None = None if self.early_stopping else np.inf

    def _fit_samples(
        self, net: Network, samples: Samples, validation: Samples | None, incremental: bool, tasks: callbacks.Tasks
    ) -> None:
        """Fit the parameters of the network, which become `coefs_` and `intercepts_`, also if this raises."""
        if self.early_stopping and validation is None:
            if incremental:
                raise ValueError("partial_fit does not support early_stopping=True without X_val and y_val")
            samples, validation = self._split(samples)
        if validation is not None and not hasattr(self, "loss_curve_"):
            self._begin_curves()
        if self.early_stopping and getattr(self, "_best_params", None) is None:
            self._best_params = net.params.copy()
        training = self._problem(net, samples, self.alpha)
        scored = None if validation is None else Scored(self._problem(net, validation, 0.0), self._truth(validation.y))
        try:
            if self.solver in STOCHASTIC:
                self._fit_stochastic(training, scored, incremental, tasks)
            else:
                self._fit_full_batch(training, scored)
        finally:
            restored = self.early_stopping and not incremental
            self.coefs_, self.intercepts_ = parameters_of(net, self._best_params if restored else net.params)

    def _problem(self, net: Network, samples: Samples, alpha: float) -> Problem:
        y = self._targets(samples.y, net.dtype)
        return Problem(net, samples.x, y, samples.weight, alpha, self.n_threads)

    def _split(self, samples: Samples) -> tuple[Samples, Samples]:
        """Training samples, and the share of validation_fraction."""
        x, y, weight = samples
        parts = train_test_split(
            *([x, y] if weight is None else [x, y, weight]),
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=y if self._is_stratified() else None,
        )
        if parts[1].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        training_weight, validation_weight = (None, None) if weight is None else parts[4:]
        return Samples(parts[0], parts[2], training_weight), Samples(parts[1], parts[3], validation_weight)

    def _validate(self, scored: Scored) -> None:
        """Append to the validation scores and losses."""
        samples = scored.samples
        y_hat = forward(samples.net, samples.x, self.n_threads)
        # A fit that diverges has a score of NaN.
        is_finite = bool(np.isfinite(y_hat).all())
        score = self._metric(scored.truth, y_hat, samples.sample_weight) if is_finite else np.nan
        self.validation_scores_ = getattr(self, "validation_scores_", None) or []
        self.validation_scores_.append(float(score))
        self.validation_loss_curve_ = getattr(self, "validation_loss_curve_", None) or []
        self.validation_loss_curve_.append(_loss(samples))
        self._say(f"Validation score: {score:f}")

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
        unit = "epochs" if self.solver in STOCHASTIC else "iterations"
        what = "Validation score" if self.early_stopping else "Training loss"
        stops, why = self._optimizer.stops() if self.solver in STOCHASTIC else (True, "Stopping.")
        self._say(
            f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive {unit}. {why}"
        )
        if not stops:
            self._no_improvement_count = 0
        return stops

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text)

    # lbfgs and lm ----------------------------------------------------------------------------------------------------

    def _fit_full_batch(self, training: Problem, scored: Scored | None) -> None:
        """Use all samples in each step."""
        self.n_iter_ = 0

        def after(loss: float) -> bool:
            """Take the loss of an iteration; whether the fit ends."""
            self.n_iter_ += 1
            self._say(f"Iteration {self.n_iter_}, loss = {loss:.8f}")
            if scored is None:
                return False
            self.loss_ = loss
            self.loss_curve_.append(loss)
            self._validate(scored)
            self._count_without_improvement(training.net)
            return self.early_stopping and self._stops()

        is_watched = scored is not None or self.verbose
        outcome = full_batch.fit(
            training, self.solver, self.max_iter, self.max_fun, self.tol, after if is_watched else None
        )
        self.n_iter_, self.loss_ = outcome.n_iter, outcome.loss
        if outcome.message:
            warnings.warn(
                f"{self.solver} failed to converge after {outcome.n_iter} iterations: {outcome.message}.\n\n"
                f"Increase max_iter={self.max_iter} or max_fun={self.max_fun}, or scale the data.",
                ConvergenceWarning,
                stacklevel=6,
            )

    # adam and sgd ----------------------------------------------------------------------------------------------------

    def _new_optimizer(self, params: Array) -> epochs.Optimizer:
        if self.solver == "sgd":
            return epochs.Sgd(
                params,
                self.learning_rate_init,
                self.learning_rate,
                self.momentum,
                self.nesterovs_momentum,
                self.power_t,
            )
        return epochs.Adam(params, self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)

    def _fit_stochastic(
        self, training: Problem, scored: Scored | None, incremental: bool, tasks: callbacks.Tasks
    ) -> None:
        """Epochs of adam or sgd, until the loss or the score does not improve any more."""
        net, n_samples = training.net, training.n_samples
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = self._new_optimizer(net.params)
        batch_size = min(200, n_samples) if self.batch_size == "auto" else self.batch_size
        if batch_size > n_samples:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=6
            )
            batch_size = n_samples
        order = np.arange(n_samples) if self.shuffle else None
        runner = epochs.Runner(training, self._optimizer, int(batch_size))
        is_watched = incremental or scored is not None or tasks.are_watched or bool(self.verbose)
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
                if scored is not None:
                    self._validate(scored)
                self._count_without_improvement(net)
                is_ended = tasks.end_epoch(lambda: self._attributes(net))
                if self._stops() or incremental or is_ended or np.isnan(self.loss_):
                    break
                if self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization "
                        "hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=6,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=6)

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
            if curve:
                # First what counts epochs, so that a second Ctrl-C finds it whole.
                self.loss_curve_ += curve
                self.n_iter_ += len(curve)
                self.t_ += n_samples * len(curve)
                self._optimizer.epochs_end(self.t_)
                for loss in curve[:-1]:
                    self.loss_ = loss
                    self._count_without_improvement(net)
                self.loss_ = curve[-1]
                self._say(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")

    def _attributes(self, net: Network) -> dict[str, Any]:
        """What an estimator needs to predict from the present parameters of the network."""
        coefs, intercepts = parameters_of(net, net.params)
        return {"coefs_": coefs, "intercepts_": intercepts}


class Scored(NamedTuple):
    """The validation samples of a fit."""

    samples: Problem  # without penalty
    truth: Array  # as `_metric` takes it


def _loss(samples: Problem) -> float:
    """The mean loss, without the penalty."""
    losses, totals = [], []
    for rows in blocks_of(samples.x) if is_sparse(samples.x) else [slice(None)]:
        x, y, weight = samples.rows(rows)
        total = samples.total(rows)
        if total > 0:
            loss = samples.net.loss(x, y, sample_weight=weight, n_threads=samples.n_threads)
            losses.append(samples.reported(loss, rows, total))
            totals.append(total)
    return float(np.average(losses, weights=totals))
