"""`MLPRegressor`."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import d2_pinball_score, r2_score
from sklearn.utils import check_array
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_y, check_is_fitted, column_or_1d, validate_data

from backprop.sklearn.base import BaseMLP

Array = npt.NDArray[Any]

_LOSSES = {"squared_error", "poisson", "absolute_error", "huber", "quantile"}


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types
    """Multi-layer perceptron regressor, a drop-in for `sklearn.neural_network.MLPRegressor`.

    With equal ``random_state`` and X in float64, a fit by sgd or adam has the loss curve of scikit-learn, to rounding.

    Parameters
    ----------
    loss : str or tuple, default="squared_error"
        "squared_error" and "poisson", as in scikit-learn: half the squared error, half the deviance. Also
        "absolute_error", ("huber", delta) and ("quantile", tau) of `Network`, which are means over outputs.
        ("quantile", (tau_1, ..., tau_k)) has a tau for each output; with y of shape (n_samples,), the k outputs are
        quantiles of this y.
    hidden_layer_sizes : int or array-like, default=(100,)
        The number of units of each hidden layer; empty for a linear model.
    activation : str, (str, float) or list, default="relu"
        "identity", "logistic", "tanh", "relu", or any other activation of `Network`; a list has one for each hidden
        layer.
    solver : {"adam", "sgd", "lbfgs", "lm"}, default="adam"
        "lm" is Levenberg-Marquardt, for squared_error.
    alpha : float, default=0.0001
        alpha / 2 times the squared weights, divided by the weights of the batch, is added to the loss.
    batch_size : int or "auto", default="auto"
        "auto" is min(200, n_samples).
    learning_rate : {"constant", "invscaling", "adaptive"}, default="constant"
        The schedule of sgd.
    learning_rate_init : float, default=0.001
    power_t : float, default=0.5
        The exponent of "invscaling".
    max_iter : int, default=200
        The most epochs of sgd and adam, or iterations of lbfgs and lm.
    shuffle : bool, default=True
        Whether the samples are shuffled in each epoch.
    random_state : int, RandomState or None, default=None
        For the initial parameters, the split of early_stopping and the shuffling.
    tol : float, default=1e-4
        sgd and adam stop if the loss or the score does not improve by tol in ``n_iter_no_change`` epochs; lbfgs and lm
        if no entry of the gradient is larger.
    verbose : bool, default=False
    warm_start : bool, default=False
        Whether `fit` goes on from the parameters of the last one.
    momentum : float, default=0.9
    nesterovs_momentum : bool, default=True
        For sgd.
    early_stopping : bool, default=False
        Whether the score of validation samples ends the fit and chooses the parameters, for all solvers. The samples
        are ``X_val`` of `fit`, or else a share of the training samples.
    validation_fraction : float, default=0.1
        That share.
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        For adam.
    n_iter_no_change : int or inf, default=10
    max_fun : int, default=15000
        The most evaluations of lbfgs and lm.
    missing_targets : bool, default=False
        Whether a NaN in y means that this target is missing. It then counts for nothing.
    dtype : {"float32", "float64"} or None, default=None
        The dtype of the network. None is that of X.
    n_threads : int or None, default=None
        The most threads. No result depends on it.

    Attributes
    ----------
    coefs_, intercepts_ : list of arrays
        The parameters. coefs_[i] has the shape (n_in, n_out): it is the transpose of W of the equations. Predictions
        use what stands here.
    loss_ : float
        The last loss, with its penalty. For several outputs and squared_error it is a mean over outputs, but the fit
        follows the gradient of the sum, as scikit-learn's does.
    loss_curve_ : list of float
        The loss of each epoch, for sgd and adam. With validation samples also for lbfgs and lm, after each iteration.
    best_loss_, best_validation_score_ : float or None
    validation_scores_ : list of float or None
        The `score` after each epoch or iteration, if there are validation samples.
    validation_loss_curve_ : list of float or None
        The loss of the validation samples after each epoch or iteration, without the penalty.
    n_iter_, t_, n_layers_, n_outputs_, n_features_in_ : int
    feature_names_in_ : array of str
        If X had names of features.
    out_activation_ : str

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from backprop.sklearn import MLPRegressor
    >>> X, y = make_regression(n_samples=200, n_features=5, random_state=1)
    >>> model = MLPRegressor(solver="lbfgs", max_iter=2000, random_state=1).fit(X, y)
    >>> model.score(X, y) > 0.99
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions(_LOSSES), tuple],
        "missing_targets": ["boolean"],
    }

    def __init__(
        self,
        loss: Any = "squared_error",
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
        missing_targets: bool = False,
        dtype: str | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.loss = loss
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
        self.missing_targets = missing_targets
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
        y : (n_samples,) or (n_samples, n_outputs) array-like
        sample_weight : (n_samples,) or (n_samples, n_outputs) array-like, optional
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
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Make one epoch over X and y, with the arguments of `fit`."""
        return self._fit(X, y, sample_weight, True, X_val, y_val, sample_weight_val)

    def predict(self, X: Any) -> Array:
        """The outputs for X: (n_samples,), or (n_samples, n_outputs) if there are several.

        With several quantiles of one target they are columns in the order of their taus.
        """
        check_is_fitted(self)
        return _flat(self._outputs(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R^2 of the predictions, a mean over outputs.

        With the loss "quantile" it is D^2 of the pinball loss, as in `sklearn.metrics.d2_pinball_score`: the part by
        which the loss is below that of the best constant.
        """
        if not self._is_quantile():
            return float(super().score(X, y, sample_weight))
        check_is_fitted(self)
        y_hat = self._outputs(X)
        weight = None if sample_weight is None else np.asarray(sample_weight)
        return self._metric(self._validate_targets(y), y_hat, weight)

    def _is_quantile(self) -> bool:
        return bool(self.loss == "quantile" or (isinstance(self.loss, tuple) and self.loss[0] == "quantile"))

    def _taus(self) -> Any:
        """The tau of "quantile", or several."""
        return self.loss[1] if isinstance(self.loss, tuple) else 0.5

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array]:
        self._check_loss()
        kinds = {"accept_sparse": ["csr", "csc"], "dtype": (np.float64, np.float32), "reset": reset}
        if self.missing_targets:
            X = validate_data(self, X, **kinds)
            y = self._validate_targets(y)
            if len(y) != X.shape[0]:
                raise ValueError(f"y: expected {X.shape[0]} rows, as X has, got {len(y)}")
        else:
            X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, **kinds)
            y = self._columns(y)
        self._check_domain(y)
        return X, y

    def _columns(self, y: Array) -> Array:
        """Targets with two dimensions; a target is repeated if there are several quantiles of it."""
        y = _column(y)
        if y.shape[1] == 1 and self._is_quantile() and np.ndim(self._taus()) == 1:
            y = np.repeat(y, len(self._taus()), axis=1)
        return y

    def _check_loss(self) -> None:
        name = self.loss[0] if isinstance(self.loss, tuple) and self.loss else self.loss
        if name not in _LOSSES:
            raise ValueError(
                f"loss: expected one of {sorted(_LOSSES)}, or a pair with its parameter, got {self.loss!r}"
            )
        if self.solver == "lm" and name != "squared_error":
            raise ValueError(
                f"solver: expected another one than 'lm' with the loss {self.loss!r}: it needs squared_error"
            )

    def _check_domain(self, y: Array) -> None:
        if self.loss == "poisson" and (y < 0).any():
            raise ValueError(f"y: expected numbers >= 0 for the loss 'poisson', got {np.nanmin(y)}")

    def _validate_targets(self, y: Any) -> Array:
        if self.missing_targets:
            return self._columns(check_array(y, ensure_2d=False, dtype=np.float64, ensure_all_finite="allow-nan"))
        return self._columns(_check_y(y, multi_output=True, y_numeric=True))

    def _without_missing(self, y: Array, weight: Array | None) -> tuple[Array, Array | None]:
        is_there = ~np.isnan(y)
        if not self.missing_targets or is_there.all():
            return y, weight
        weight = np.ones(len(y)) if weight is None else weight.astype(np.float64)
        return np.where(is_there, y, 0.0), (weight[:, None] if weight.ndim == 1 else weight) * is_there

    def _out_activation(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _network_loss(self) -> Any:
        return self.loss

    def _targets(self, y: Array, dtype: npt.DTypeLike) -> Array:
        return y.astype(dtype, copy=False)

    def _truth(self, y: Array) -> Array:
        return y

    def _metric(self, truth: Array, y_hat: Array, sample_weight: Array | None) -> float:
        taus = np.broadcast_to(self._taus(), truth.shape[1]) if self._is_quantile() else None
        if taus is None and (sample_weight is None or sample_weight.ndim == 1):
            return float(r2_score(truth, y_hat, sample_weight=sample_weight))
        scores = []
        for j in range(truth.shape[1]):  # the score of each output, then their mean
            weight = sample_weight if sample_weight is None or sample_weight.ndim == 1 else sample_weight[:, j]
            if weight is not None and not weight.any():
                continue
            if taus is None:
                scores.append(r2_score(truth[:, j], y_hat[:, j], sample_weight=weight))
            else:
                alpha = float(taus[j])
                scores.append(d2_pinball_score(truth[:, j], y_hat[:, j], sample_weight=weight, alpha=alpha))
        return float(np.mean(scores))


def _column(y: Array) -> Array:
    """Targets with two dimensions; a column warns, as in scikit-learn."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    return y[:, None] if y.ndim == 1 else y


def _flat(y_hat: Array) -> Array:
    return y_hat.ravel() if y_hat.shape[1] == 1 else y_hat
