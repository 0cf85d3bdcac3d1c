"""What the estimators can do beyond scikit-learn's."""

import pickle
import signal
import threading

import numpy as np
import pytest
from required_peers import require_peer
from systems import needs_signals

require_peer("sklearn")

from sklearn.metrics import r2_score  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from backprop.sklearn import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def regression(n_samples=120, n_outputs=1):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2.0, 2.0, (n_samples, 3))
    y = np.stack([np.sin(X[:, 0] + j) * X[:, 1] for j in range(n_outputs)], axis=1)
    return X, y[:, 0] if n_outputs == 1 else y


def test_levenberg_marquardt_finds_a_better_minimum_than_lbfgs():
    X, y = regression()
    arguments = {"hidden_layer_sizes": 10, "activation": "tanh", "alpha": 1e-3, "random_state": 0, "max_iter": 300}
    by_lm = MLPRegressor(solver="lm", tol=1e-8, **arguments).fit(X, y)
    by_lbfgs = MLPRegressor(solver="lbfgs", tol=1e-8, **arguments).fit(X, y)
    assert by_lm.loss_ < 1.05 * by_lbfgs.loss_
    assert by_lm.n_iter_ < 300
    assert by_lm.score(X, y) > 0.99


def test_levenberg_marquardt_needs_squared_error():
    X, y = regression()
    with pytest.raises(ValueError, match="squared_error"):
        MLPRegressor(solver="lm", loss="poisson").fit(X, np.abs(y))
    with pytest.raises(ValueError, match="solver"):
        MLPClassifier(solver="lm").fit(X, y > 0)


@pytest.mark.parametrize("loss", ["absolute_error", ("huber", 0.1), ("quantile", 0.9), "huber", "quantile"])
def test_other_losses(loss):
    X, y = regression()
    model = MLPRegressor(loss, 20, "tanh", max_iter=300, learning_rate_init=0.01, random_state=0).fit(X, y)
    assert model.loss_curve_[-1] < 0.3 * model.loss_curve_[0]
    if loss == ("quantile", 0.9):
        assert 0.8 < np.mean(y <= model.predict(X)) < 0.98


def test_an_activation_for_each_layer():
    X, y = regression()
    each = MLPRegressor(hidden_layer_sizes=(8, 8), activation=["tanh", "tanh"], random_state=0, max_iter=5).fit(X, y)
    same = MLPRegressor(hidden_layer_sizes=(8, 8), activation="tanh", random_state=0, max_iter=5).fit(X, y)
    assert each.loss_curve_ == same.loss_curve_
    other = MLPRegressor(
        hidden_layer_sizes=(8, 8), activation=[("leaky_relu", 0.2), "silu"], random_state=0, max_iter=5
    )
    assert other.fit(X, y).loss_curve_[-1] < other.loss_curve_[0]
    with pytest.raises(ValueError, match="activation: expected"):
        MLPRegressor(hidden_layer_sizes=(8, 8), activation=["tanh"]).fit(X, y)


def test_class_weights_are_sample_weights():
    X, y = regression()
    labels = np.where(y > 1.0, "high", "low")
    weight = np.where(labels == "high", 5.0, 1.0)
    a = MLPClassifier(class_weight={"high": 5.0, "low": 1.0}, random_state=0, max_iter=5).fit(X, labels)
    b = MLPClassifier(random_state=0, max_iter=5).fit(X, labels, weight)
    assert a.loss_curve_ == b.loss_curve_
    own = np.random.default_rng(1).uniform(size=len(y))
    both = MLPClassifier(class_weight={"high": 5.0, "low": 1.0}, random_state=0, max_iter=5).fit(X, labels, own)
    assert both.loss_curve_ == MLPClassifier(random_state=0, max_iter=5).fit(X, labels, own * weight).loss_curve_
    balanced = MLPClassifier(class_weight="balanced", random_state=0, max_iter=5).fit(X, labels)
    assert balanced.loss_curve_ != a.loss_curve_
    with pytest.raises(ValueError, match="class_weight"):
        MLPClassifier(class_weight="balanced").partial_fit(X, labels, classes=["high", "low"])


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs", "lm"])
def test_missing_targets_count_for_nothing(solver):
    X, y = regression(n_outputs=2)
    y[::3, 0] = np.nan
    weight = np.where(np.isnan(y), 0.0, 1.0)
    arguments = {"solver": solver, "max_iter": 5, "random_state": 0, "hidden_layer_sizes": 5}
    model = MLPRegressor(missing_targets=True, **arguments).fit(X, y)
    weighted = MLPRegressor(**arguments).fit(X, np.nan_to_num(y, nan=1e3), weight)
    np.testing.assert_array_equal(model.coefs_[0], weighted.coefs_[0])
    assert model.loss_ == weighted.loss_
    with pytest.raises(ValueError, match="NaN"):
        MLPRegressor(**arguments).fit(X, y)


def test_validation_samples_of_ones_own():
    X, y = regression()
    model = MLPRegressor(random_state=0, max_iter=30, n_iter_no_change=30)
    model.fit(X[:80], y[:80], X_val=X[80:], y_val=y[80:])
    plain = MLPRegressor(random_state=0, max_iter=30, n_iter_no_change=30).fit(X[:80], y[:80])
    assert model.loss_curve_ == plain.loss_curve_
    assert model.validation_scores_[-1] == r2_score(y[80:], model.predict(X[80:]))
    assert model.validation_loss_curve_[-1] == pytest.approx(0.5 * np.mean((model.predict(X[80:]) - y[80:]) ** 2))
    model.set_params(early_stopping=True, max_iter=200, n_iter_no_change=3, tol=1e-2)
    model.fit(X[:80], y[:80], X_val=X[80:], y_val=y[80:])
    assert r2_score(y[80:], model.predict(X[80:])) == max(model.validation_scores_) == model.best_validation_score_


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X_val": np.zeros((3, 3))}, "y_val"),
        ({"y_val": np.zeros(3)}, "X_val"),
        ({"X_val": np.zeros((3, 2)), "y_val": np.zeros(3)}, "features"),
        ({"X_val": np.zeros((3, 3)), "y_val": np.zeros(4)}, "y_val"),
        ({"sample_weight_val": np.ones(3)}, "sample_weight_val"),
    ],
)
def test_validation_samples_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLPRegressor(max_iter=2).fit(*regression(), **arguments)


def test_partial_fit_with_early_stopping():
    X, y = regression()
    model = MLPRegressor(early_stopping=True, random_state=0)
    for _ in range(5):
        model.partial_fit(X[:80], y[:80], X_val=X[80:], y_val=y[80:])
    assert len(model.validation_scores_) == 5
    with pytest.raises(ValueError, match="X_val"):
        model.partial_fit(X, y)


def test_dtype_and_threads():
    X, y = regression()
    model = MLPRegressor(dtype="float32", random_state=0, max_iter=5).fit(X, y)
    assert model.coefs_[0].dtype == model.predict(X).dtype == np.float32
    curves = [
        MLPRegressor(n_threads=n_threads, random_state=0, max_iter=5).fit(X, y).loss_curve_ for n_threads in (1, 2, 8)
    ]
    assert curves[0] == curves[1] == curves[2]


def test_pickles_go_on_where_they_were():
    X, y = regression()
    model = MLPRegressor(random_state=0).partial_fit(X, y)
    other = pickle.loads(pickle.dumps(model))
    model.partial_fit(X, y)
    other.partial_fit(X, y)
    assert model.loss_curve_ == other.loss_curve_
    np.testing.assert_array_equal(model.predict(X), other.predict(X))


@needs_signals
@pytest.mark.alone
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_interrupted_fits_keep_the_last_step(solver):
    X, y = regression()
    # Each epoch is one step.
    endless = {"solver": solver, "random_state": 0, "n_iter_no_change": np.inf, "hidden_layer_sizes": 3}
    own = threading.get_ident()
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(own, signal.SIGINT))
    timer.start()
    with pytest.warns(UserWarning, match="interrupted"):
        model = MLPRegressor(max_iter=10**9, **endless).fit(X, y)
    timer.join()
    expected = MLPRegressor(max_iter=int(model._optimizer.progress[0]), **endless).fit(X, y)
    for a, b in zip(model.coefs_, expected.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.n_iter_ == len(model.loss_curve_) > 0
    assert model.loss_curve_ == expected.loss_curve_[: model.n_iter_]


def test_weights_below_0_are_refused():
    X, y = regression()
    with pytest.raises(ValueError, match="sample_weight"):
        MLPRegressor().fit(X, y, -np.ones(len(y)))


class Watch:
    """A callback that notes the tasks, and the score after each epoch; it may end the fit."""

    def __init__(self, ends_after=None):
        self.ends_after, self.tasks, self.scores = ends_after, [], []

    def setup(self, estimator, context):
        self.tasks.append("setup")

    def teardown(self, estimator, context):
        self.tasks.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X, y):
        self.tasks.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.tasks.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            self.scores.append(fitted_estimator.score(X, y))
        return len(self.scores) == self.ends_after


@pytest.mark.parametrize("kind", [MLPRegressor, MLPClassifier])
def test_callbacks_of_scikit_learn(kind):
    if not hasattr(kind, "set_callbacks"):
        pytest.skip("scikit-learn has callbacks since 1.9")
    X, y = regression()
    y = y if kind is MLPRegressor else np.where(y > 0, "yes", "no")
    watch = Watch()
    model = kind(random_state=0, max_iter=3).set_callbacks(watch).fit(X, y)
    epochs = ["begin epoch", "end epoch"] * 3
    assert watch.tasks == ["setup", "begin fit", *epochs, "end fit", "teardown"]
    assert watch.scores[-1] == model.score(X, y)
    assert model.loss_curve_ == kind(random_state=0, max_iter=3).fit(X, y).loss_curve_
    model.set_callbacks(Watch(ends_after=2)).fit(X, y)
    assert model.n_iter_ == 2
    whole = Watch()
    kind(solver="lbfgs", max_iter=3).set_callbacks(whole).fit(X, y)
    assert whole.tasks == ["setup", "begin fit", "end fit", "teardown"]


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_a_grid_search_in_a_pipeline_with_joblib(backend):
    from joblib import parallel_config

    X, y = regression()
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(max_iter=10, random_state=0))
    grid = {"mlpclassifier__alpha": [1e-4, 1e-1], "mlpclassifier__activation": ["tanh", "gelu"]}
    alone = GridSearchCV(pipeline, grid, cv=2).fit(X, y > 0)
    with parallel_config(backend, n_jobs=2):
        search = GridSearchCV(pipeline, grid, cv=2).fit(X, y > 0)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


def test_a_page_of_html_and_a_repr():
    model = MLPRegressor(loss=("quantile", 0.9), solver="lbfgs")
    assert repr(model) == "MLPRegressor(loss=('quantile', 0.9), solver='lbfgs')"
    assert "MLPRegressor" in model._repr_html_()


def test_another_loss_for_the_next_fit_changes_no_prediction():
    X, y = regression()
    model = MLPRegressor(random_state=0, max_iter=5).fit(X, y)
    expected = model.predict(X)
    model.set_params(loss="poisson")
    np.testing.assert_array_equal(model.predict(X), expected)
