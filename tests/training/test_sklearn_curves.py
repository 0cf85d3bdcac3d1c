"""The estimators follow those of scikit-learn: equal random numbers, equal steps, so equal losses to rounding."""

import warnings
from itertools import product

import numpy as np
import pytest
from required_peers import require_peer

sklearn = require_peer("sklearn")

from sklearn import neural_network  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402

import backprop.sklearn as ours  # noqa: E402
from backprop.sklearn import problem  # noqa: E402

TOLERANCE = 1e-9  # relative, over 20 epochs in float64
N_EPOCHS = 20
COMMON = {"hidden_layer_sizes": (16, 8), "max_iter": N_EPOCHS, "n_iter_no_change": N_EPOCHS, "random_state": 3}

SETTINGS = [
    *product(["adam", "sgd"], ["relu", "tanh", "logistic"], ["MLPRegressor", "MLPClassifier"]),
]


def samples(name, n_samples=230, n_outputs=1, seed=0):
    """Scaled samples; the last batch of 200 rows is a short one."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_samples, 5))
    y = np.sin(X @ rng.standard_normal((5, n_outputs))) + 0.1 * rng.standard_normal((n_samples, n_outputs))
    if name == "MLPClassifier":
        return X, np.digitize(y[:, 0], [-0.4, 0.4]) if n_outputs == 1 else (y > 0).astype(int)
    return X, y[:, 0] if n_outputs == 1 else y


def fitted(library, name, X, y, sample_weight=None, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return getattr(library, name)(**{**COMMON, **arguments}).fit(X, y, sample_weight)


def both(name, X, y, sample_weight=None, **arguments):
    return [fitted(library, name, X, y, sample_weight, **arguments) for library in (ours, neural_network)]


def difference(curve, expected):
    """The largest relative difference of two curves of equal length."""
    assert len(curve) == len(expected)
    return np.max(np.abs(np.array(curve) - expected) / np.abs(expected))


def assert_equal_fits(mine, its, tolerance=TOLERANCE):
    assert difference(mine.loss_curve_, its.loss_curve_) <= tolerance
    assert (mine.n_iter_, mine.t_, mine.n_layers_, mine.n_outputs_, mine.out_activation_) == (
        its.n_iter_, its.t_, its.n_layers_, its.n_outputs_, its.out_activation_,
    )  # fmt: skip
    for a, b in zip(mine.coefs_ + mine.intercepts_, its.coefs_ + its.intercepts_, strict=True):
        assert a.dtype == b.dtype
        assert a.flags.c_contiguous
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("solver", "activation", "name"), SETTINGS)
def test_loss_curves(solver, activation, name):
    rate = 0.05 if solver == "sgd" else 0.005
    fits = both(name, *samples(name), solver=solver, activation=activation, learning_rate_init=rate, batch_size=32)
    assert len(fits[0].loss_curve_) == N_EPOCHS
    assert_equal_fits(*fits)


@pytest.mark.parametrize("name", ["MLPRegressor", "MLPClassifier"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"shuffle": False, "batch_size": 7},
        {"batch_size": 1000},
        {"alpha": 0.5, "batch_size": 64},
        {"alpha": 0.0},
        {"activation": "identity", "hidden_layer_sizes": 3},
        {"hidden_layer_sizes": ()},
        {"solver": "sgd", "momentum": 0.0},
        {"solver": "sgd", "nesterovs_momentum": False},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
        {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.2, "tol": 0.1, "n_iter_no_change": 2},
        {"early_stopping": True, "validation_fraction": 0.2, "batch_size": 16},
        {"early_stopping": True, "tol": 0.05, "n_iter_no_change": 2, "batch_size": 16},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        {"n_iter_no_change": 2, "tol": 0.05},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1")
def test_other_arguments(name, arguments):
    mine, its = both(name, *samples(name), **arguments)
    assert_equal_fits(mine, its)
    if mine.early_stopping:
        np.testing.assert_allclose(mine.validation_scores_, its.validation_scores_, rtol=1e-9)
        assert mine.best_validation_score_ == pytest.approx(its.best_validation_score_, rel=1e-9)
        assert mine.best_loss_ is None
    else:
        assert mine.best_loss_ == pytest.approx(its.best_loss_, rel=TOLERANCE)
        assert mine.validation_scores_ is None


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("name", "n_outputs", "arguments"),
    [
        ("MLPRegressor", 3, {}),
        ("MLPRegressor", 3, {"loss": "poisson"}),
        ("MLPRegressor", 1, {"loss": "poisson"}),
        ("MLPClassifier", 3, {}),
    ],
    ids=str,
)
def test_several_outputs_and_weights(solver, name, n_outputs, arguments):
    X, y = samples(name, n_outputs=n_outputs)
    weight = np.random.default_rng(1).uniform(0.0, 3.0, len(X))
    assert_equal_fits(*both(name, X, np.abs(y), weight, solver=solver, batch_size=50, **arguments))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_binary_labels_with_weights(solver):
    X, y = samples("MLPClassifier")
    weight = np.random.default_rng(1).integers(1, 4, len(X))
    assert_equal_fits(*both("MLPClassifier", X, np.array(["no", "yes"])[(y > 1).astype(int)], weight, solver=solver))


def test_probabilities_are_clipped_in_the_reported_loss():
    """Inputs of thousands saturate the output; scikit-learn reports at most -log(eps) a sample.

    Just below that its loss is log(1 - p) with p near 1, which has few digits. The steps do not depend on it.
    """
    X, y = samples("MLPClassifier")
    for labels in (y, y > 1):
        mine, its = both("MLPClassifier", 1e3 * X, labels, batch_size=32)
        assert its.loss_curve_[0] > 5
        assert_equal_fits(mine, its, tolerance=1e-3)


@pytest.mark.parametrize("name", ["MLPRegressor", "MLPClassifier"])
def test_partial_fits_and_warm_starts(name):
    X, y = samples(name)
    models = [getattr(library, name)(**COMMON) for library in (ours, neural_network)]
    for model in models:
        for rows in (slice(0, 100), slice(100, 230), slice(50, 60)):
            model.partial_fit(X[rows], y[rows], **({"classes": np.unique(y)} if name == "MLPClassifier" else {}))
    assert_equal_fits(*models)
    for model in models:
        model.set_params(warm_start=True, max_iter=3)
        with pytest.warns(ConvergenceWarning):
            model.fit(X, y)
    assert_equal_fits(*models)


@pytest.mark.parametrize("entries", [problem._BLOCK_ENTRIES, 200])  # 200: of 40 rows, so X has six blocks
@pytest.mark.parametrize("name", ["MLPRegressor", "MLPClassifier"])
def test_sparse_x(name, entries, monkeypatch):
    from scipy.sparse import csc_array, csr_matrix

    monkeypatch.setattr(problem, "_BLOCK_ENTRIES", entries)
    X, y = samples(name)
    X[np.abs(X) < 0.7] = 0.0
    dense = fitted(ours, name, X, y)
    for kind in (csr_matrix, csc_array):
        mine, its = both(name, kind(X), y)
        assert_equal_fits(mine, its)
        assert mine.loss_curve_ == dense.loss_curve_
        np.testing.assert_array_equal(mine.predict(kind(X)), dense.predict(X))
    whole = [fitted(ours, name, rows, y, solver="lbfgs") for rows in (X, csr_matrix(X))]
    for a, b in zip(whole[0].coefs_, whole[1].coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("activation", ["tanh", "logistic", "identity"])
@pytest.mark.parametrize("name", ["MLPRegressor", "MLPClassifier"])
def test_minima_of_lbfgs(name, activation):
    arguments = {"solver": "lbfgs", "activation": activation, "alpha": 1.0, "hidden_layer_sizes": 4}
    fits = both(name, *samples(name, 80), max_iter=3000, max_fun=10**5, tol=1e-9, **arguments)
    assert fits[0].loss_ == pytest.approx(fits[1].loss_, rel=1e-6)


def test_predictions_are_those_of_the_stored_parameters():
    for name in ("MLPRegressor", "MLPClassifier"):
        X, y = samples(name)
        mine, its = both(name, X, y)
        mine.coefs_ = [coef.copy() for coef in its.coefs_]
        mine.intercepts_ = [intercept.copy() for intercept in its.intercepts_]
        if name == "MLPClassifier":
            np.testing.assert_allclose(mine.predict_proba(X), its.predict_proba(X), rtol=1e-12)
            np.testing.assert_allclose(mine.predict_log_proba(X), its.predict_log_proba(X), rtol=1e-12)
        np.testing.assert_allclose(mine.predict(X), its.predict(X), rtol=1e-10)
