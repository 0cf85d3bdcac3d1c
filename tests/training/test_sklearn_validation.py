"""Validation samples and early stopping of the estimators, with every solver."""

import numpy as np
import pytest
from required_peers import require_peer

require_peer("sklearn")

from sklearn.metrics import accuracy_score, d2_pinball_score, r2_score  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402

from backprop.sklearn import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SOLVERS = ["lbfgs", "lm", "adam", "sgd"]


def noisy(n_samples=80, n_outputs=1):
    """Few samples with much noise, which a network soon fits too well."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-2.0, 2.0, (n_samples, 3))
    y = np.stack([np.sin(X[:, 0] + j) for j in range(n_outputs)], axis=1) + 0.5 * rng.standard_normal(
        (n_samples, n_outputs)
    )
    return X, y[:, 0] if n_outputs == 1 else y


def model(solver, kind=MLPRegressor, **arguments):
    return kind(
        solver=solver,
        **{"hidden_layer_sizes": 20, "activation": "tanh", "random_state": 0, "learning_rate_init": 0.01, "tol": 1e-6,
           "alpha": 1e-6, "max_iter": 300, **arguments},
    )  # fmt: skip


@pytest.mark.parametrize("solver", SOLVERS)
def test_validation_changes_no_fit(solver):
    X, y = noisy()
    watched = model(solver, max_iter=30).fit(X[:40], y[:40], X_val=X[40:], y_val=y[40:])
    plain = model(solver, max_iter=30).fit(X[:40], y[:40])
    assert (watched.n_iter_, watched.loss_) == (plain.n_iter_, plain.loss_)
    np.testing.assert_array_equal(watched.coefs_[0], plain.coefs_[0])
    assert len(watched.validation_scores_) == len(watched.validation_loss_curve_) == len(watched.loss_curve_)
    assert len(watched.loss_curve_) == watched.n_iter_
    assert watched.validation_scores_[-1] == r2_score(y[40:], watched.predict(X[40:]))
    expected = 0.5 * np.mean((watched.predict(X[40:]) - y[40:]) ** 2)
    assert watched.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-12)
    if solver in {"lbfgs", "lm"}:
        assert watched.loss_curve_[-1] == watched.loss_
        assert not hasattr(plain, "loss_curve_")  # as in scikit-learn
        watched.fit(X, y)
        assert not hasattr(watched, "validation_scores_")


@pytest.mark.parametrize("solver", SOLVERS)
def test_early_stopping_with_validation_samples(solver):
    X, y = noisy()
    fit = model(solver, early_stopping=True, n_iter_no_change=4)
    fit.fit(X[:40], y[:40], X_val=X[40:], y_val=y[40:])
    best = int(np.argmax(fit.validation_scores_))
    assert fit.best_validation_score_ == fit.validation_scores_[best] == r2_score(y[40:], fit.predict(X[40:]))
    assert 0 < best + 5 <= fit.n_iter_ < 300
    assert fit._no_improvement_count == 5


@pytest.mark.parametrize(
    ("kind", "solver"),
    [
        *((MLPRegressor, solver) for solver in SOLVERS),
        *((MLPClassifier, solver) for solver in SOLVERS if solver != "lm"),
    ],
)
def test_early_stopping_with_a_share_of_the_samples(solver, kind):
    X, y = noisy()
    y = y if kind is MLPRegressor else (y > 0).astype(int)
    arguments = {"early_stopping": True, "validation_fraction": 0.4, "n_iter_no_change": 4, "max_iter": 100}
    fit = model(solver, kind, **arguments).fit(X, y)
    state = np.random.RandomState(0)
    for n_in, n_out in ((3, 20), (20, 1)):  # what the initial parameters take
        state.uniform(size=n_in * n_out + n_out)
    split = train_test_split(X, y, random_state=state, test_size=0.4, stratify=y if kind is MLPClassifier else None)
    assert fit.best_validation_score_ == fit.score(split[1], split[3])


@pytest.mark.parametrize("solver", SOLVERS)
def test_weights_and_missing_targets_of_validation_samples(solver):
    X, y = noisy(n_outputs=2)
    weight = np.random.default_rng(1).integers(0, 3, y[40:].shape).astype(float)
    weight[:, 1] = 0  # the second output has no score
    y_val = y[40:].copy()
    y_val[weight == 0] = np.nan
    arguments = {"max_iter": 5, "missing_targets": True}
    weighted = model(solver, **arguments).fit(X[:40], y[:40], X_val=X[40:], y_val=y[40:], sample_weight_val=weight)
    missing = model(solver, **arguments).fit(X[:40], y[:40], X_val=X[40:], y_val=y_val, sample_weight_val=weight)
    expected = r2_score(y[40:, 0], weighted.predict(X[40:])[:, 0], sample_weight=weight[:, 0])
    assert weighted.validation_scores_[-1] == missing.validation_scores_[-1] == pytest.approx(expected)
    assert weighted.validation_loss_curve_ == missing.validation_loss_curve_
    d = weighted.predict(X[40:]) - y[40:]
    assert weighted.validation_loss_curve_[-1] == pytest.approx(0.5 * (weight * d * d).sum() / weight.sum())
    with pytest.raises(ValueError, match="y_val, sample_weight_val"):
        model(solver).fit(X, y, X_val=X, y_val=y, sample_weight_val=np.zeros(y.shape))
    with pytest.raises(ValueError, match="sample_weight_val: expected weights >= 0"):
        model(solver).fit(X, y, X_val=X, y_val=y, sample_weight_val=-np.ones(len(y)))


def test_weights_of_validation_samples_in_partial_fit():
    X, y = noisy()
    weight = np.random.default_rng(1).uniform(size=40)
    regressor = model("adam").partial_fit(X[:40], y[:40], X_val=X[40:], y_val=y[40:], sample_weight_val=weight)
    assert regressor.validation_scores_[-1] == r2_score(y[40:], regressor.predict(X[40:]), sample_weight=weight)
    y = y > 0
    classifier = model("adam", MLPClassifier)
    classifier.partial_fit(X[:40], y[:40], classes=[False, True], X_val=X[40:], y_val=y[40:], sample_weight_val=weight)
    expected = accuracy_score(y[40:], classifier.predict(X[40:]), sample_weight=weight)
    assert classifier.validation_scores_[-1] == pytest.approx(expected)


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_scores_of_quantiles_are_those_of_their_loss(solver):
    X, y = noisy()
    weight = np.random.default_rng(1).uniform(size=40)
    fit = model(solver, loss=("quantile", 0.9), max_iter=20)
    fit.fit(X[:40], y[:40], X_val=X[40:], y_val=y[40:], sample_weight_val=weight)
    expected = d2_pinball_score(y[40:], fit.predict(X[40:]), sample_weight=weight, alpha=0.9)
    assert fit.validation_scores_[-1] == fit.score(X[40:], y[40:], weight) == pytest.approx(expected)


@pytest.mark.parametrize("solver", ["lbfgs", "adam", "sgd"])
@pytest.mark.parametrize("form", ["several of one target", "one of each target"])
def test_several_quantiles(solver, form):
    X, y = noisy(600)
    taus = (0.1, 0.5, 0.9)
    if form == "one of each target":
        y = np.stack([y, y + 1.0, 2.0 * y], axis=1)
    fit = model(solver, loss=("quantile", taus), max_iter=150, alpha=0.01, early_stopping=True).fit(X, y)
    y_hat = fit.predict(X)
    assert y_hat.shape == (600, 3)
    assert fit.n_outputs_ == 3
    columns = y if y.ndim == 2 else np.stack([y] * 3, axis=1)
    np.testing.assert_allclose((columns <= y_hat).mean(axis=0), taus, atol=0.06)
    expected = [d2_pinball_score(columns[:, j], y_hat[:, j], alpha=taus[j]) for j in range(3)]
    assert fit.score(X, y) == pytest.approx(np.mean(expected))
    assert max(fit.validation_scores_) == fit.best_validation_score_


def test_taus_that_do_not_fit():
    X, y = noisy()
    for taus in ((0.1, 0.9), (0.1, 0.5, 1.0), ()):
        with pytest.raises(ValueError, match="loss"):
            MLPRegressor(loss=("quantile", taus)).fit(X, np.stack([y, y, y], axis=1))
