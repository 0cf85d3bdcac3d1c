"""`MLPClassifier`."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import _check_y, check_is_fitted, validate_data

from backprop.sklearn.base import BaseMLP

Array = npt.NDArray[Any]


class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types
    """Multi-layer perceptron classifier, a drop-in for `sklearn.neural_network.MLPClassifier`.

    With equal ``random_state`` and X in float64, a fit by sgd or adam has the loss curve of scikit-learn, to rounding.

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
    shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun, dtype, n_threads
        As in `MLPRegressor`; the solvers are "adam", "sgd" and "lbfgs".
    loss : {"log_loss", "hinge"} or ("log_loss", eps), default="log_loss"
        ("log_loss", eps) smooths labels: of k classes, that of a sample has the probability 1 - eps + eps/k, each other
        one eps/k; each of several labels of a sample is one of two classes. "hinge" is the mean over outputs of
        max(0, 1 - y a), with y = 1 for the class and y = -1 for others; it has `decision_function` instead of
        probabilities.
    class_weight : dict, "balanced", list of dict or None, default=None
        The weights of the classes multiply sample_weight. "balanced" gives all classes of y the same sum of weights.

    Attributes
    ----------
    classes_ : array, or list of arrays
        The labels.
    coefs_, intercepts_, loss_, loss_curve_, best_loss_, best_validation_score_, validation_scores_, \
    validation_loss_curve_, n_iter_, t_, n_layers_, n_outputs_, n_features_in_, feature_names_in_, out_activation_
        As in `MLPRegressor`. Scores are accuracies.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from backprop.sklearn import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier(solver="lbfgs", max_iter=2000, random_state=1).fit(X, y)
    >>> model.score(X, y) > 0.95
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "loss": [StrOptions({"log_loss", "hinge"}), tuple],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        loss: Any = "log_loss",
        class_weight: Any = None,
        dtype: str | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.loss = loss
        self.class_weight = class_weight
        self.dtype = dtype
        self.n_threads = n_threads

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the network to X and y.

        Parameters
        ----------
        X : (n_samples, n_features) array-like or sparse matrix
        y : (n_samples,) array-like of labels, or (n_samples, n_classes) of 0 and 1 for several labels a sample
        sample_weight : (n_samples,) array-like, optional
            For several labels a sample, (n_samples, n_classes) too.
        X_val, y_val, sample_weight_val : optional
            Validation samples. They are scored after each epoch or iteration; with early_stopping they end the fit.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If an argument is refused, or if the parameters are no longer finite.
        """
        return self._fit(X, y, sample_weight, False, X_val, y_val, sample_weight_val)

    @available_if(lambda estimator: estimator._check_solver())  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        classes: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Make one epoch over X and y.

        Parameters
        ----------
        X, y, sample_weight, X_val, y_val, sample_weight_val
            As in `fit`.
        classes : array-like, optional
            All labels that may come. The first call needs them.

        Returns
        -------
        self
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight: expected a dict, or None, with partial_fit, got 'balanced': the numbers of all samples "
                "are not known; compute_class_weight of scikit-learn makes a dict"
            )
        if _check_partial_fit_first_call(self, classes):
            is_multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if is_multilabel else classes)
        return self._fit(X, y, sample_weight, True, X_val, y_val, sample_weight_val)

    def predict(self, X: Any) -> Array:
        """The labels of X."""
        check_is_fitted(self)
        return self._labels(self._outputs(X))

    @available_if(lambda estimator: estimator._check_outputs(probabilities=False))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Array:
        """With "hinge", the outputs: (n_samples,), or (n_samples, n_classes) if there are more than two classes.

        The class with the largest output is predicted; of two classes, or several labels, the one if it is above 0.
        """
        check_is_fitted(self)
        y_hat = self._outputs(X)
        return y_hat.ravel() if self.n_outputs_ == 1 else y_hat

    @available_if(lambda estimator: estimator._check_outputs(probabilities=True))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """The probabilities (n_samples, n_classes), in the order of ``classes_``."""
        check_is_fitted(self)
        y_hat = self._outputs(X)
        if self.n_outputs_ == 1:
            return np.hstack([1.0 - y_hat, y_hat])
        return y_hat

    @available_if(lambda estimator: estimator._check_outputs(probabilities=True))  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Array:
        """The logarithms of `predict_proba`."""
        p = self.predict_proba(X)
        log_p: Array = np.log(p, out=p)
        return log_p

    def _check_outputs(self, *, probabilities: bool) -> bool:
        """Whether the outputs are probabilities, or are not, as the caller needs them."""
        default = "identity" if self.loss == "hinge" else "softmax"
        if (getattr(self, "out_activation_", default) != "identity") == probabilities:
            return True
        raise AttributeError(
            "predict_proba: expected loss='log_loss'; with 'hinge' use decision_function"
            if probabilities
            else "decision_function: expected loss='hinge'; with 'log_loss' use predict_proba"
        )

    def _smoothing(self) -> float:
        """The eps of ("log_loss", eps)."""
        if isinstance(self.loss, str):
            return 0.0
        eps = self.loss[1] if len(self.loss) == 2 and self.loss[0] == "log_loss" else None
        if not isinstance(eps, Real) or not 0 <= float(eps) < 1:
            raise ValueError(
                "loss: expected 'log_loss', 'hinge', or ('log_loss', eps) with a number 0 <= eps < 1, "
                f"got {self.loss!r}"
            )
        return float(eps)

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=(np.float64, np.float32),
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(unique_labels(y))
        return X, self._indicators(y)

    def _check_classes(self, classes: Array) -> None:
        """Refuse other classes than those of the previous call."""
        if self.warm_start:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _indicators(self, y: Any) -> Array:
        """Labels as columns of False and True."""
        indicators = self._label_binarizer.transform(y)
        if hasattr(indicators, "toarray"):
            indicators = indicators.toarray()
        columns: Array = np.asarray(indicators).astype(bool)
        return columns

    def _validate_targets(self, y: Any) -> Array:
        y = _check_y(y, multi_output=True)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        unknown = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unknown):
            raise ValueError(f"y_val: expected labels of y, {self.classes_}, got {unknown} too")
        return self._indicators(y)

    def _class_weighted(self, y: Array, weight: Array | None) -> Array | None:
        if self.class_weight is None:
            return weight
        by_class: Array = compute_sample_weight(self.class_weight, self._truth(y))
        if weight is None:
            return by_class
        product: Array = weight * (by_class[:, None] if weight.ndim == 2 else by_class)
        return product

    def _is_multiclass(self) -> bool:
        return bool(self._label_binarizer.y_type_ == "multiclass")

    def _is_stratified(self) -> bool:
        return bool(self.n_outputs_ == 1)

    def _out_activation(self) -> str:
        if self.loss == "hinge":
            return "identity"
        return "softmax" if self._is_multiclass() else "logistic"

    def _network_loss(self) -> Any:
        eps = self._smoothing()
        if (self.loss == "hinge") != (self.out_activation_ == "identity"):
            raise ValueError(
                f"loss: expected the one of the previous fit, whose output is {self.out_activation_!r}, got "
                f"{self.loss!r}; set warm_start=False to start anew"
            )
        if self.loss == "hinge":
            return "hinge"
        return ("cross_entropy", eps) if self.out_activation_ == "softmax" else "binary_cross_entropy"

    def _targets(self, y: Array, dtype: npt.DTypeLike) -> Array:
        if self.out_activation_ == "softmax":
            labels: Array = y.argmax(axis=1)
            return labels
        if self.out_activation_ == "identity":
            return np.where(y, 1.0, -1.0).astype(dtype)
        eps = self._smoothing()
        return np.where(y, 1.0 - 0.5 * eps, 0.5 * eps).astype(dtype)

    def _labels(self, y_hat: Array) -> Array:
        """The labels that outputs of the network mean."""
        if self.out_activation_ == "identity" and not self._is_multiclass():
            y_hat = y_hat > 0
        return self._truth(y_hat)

    def _truth(self, y: Array) -> Array:
        labels: Array = self._label_binarizer.inverse_transform(y.ravel() if self.n_outputs_ == 1 else y)
        return labels

    def _metric(self, truth: Array, y_hat: Array, sample_weight: Array | None) -> float:
        if sample_weight is not None and sample_weight.ndim == 2:
            sample_weight = sample_weight.mean(axis=1)
        return float(accuracy_score(truth, self._labels(y_hat), sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
