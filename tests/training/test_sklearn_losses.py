"""Losses of the classifier that scikit-learn's does not have."""

import numpy as np
import pytest
from required_peers import require_peer

require_peer("sklearn")

from sklearn.base import clone  # noqa: E402

from backprop import Network  # noqa: E402
from backprop.sklearn import MLPClassifier  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
KINDS = ["two classes", "three classes", "several labels"]
SOLVERS = ["lbfgs", "adam", "sgd"]


def samples(kind):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 4))
    if kind == "two classes":
        return X, np.where(X[:, 0] + X[:, 1] > 0, "yes", "no")
    if kind == "three classes":
        return X, np.digitize(X[:, 0] + X[:, 1], [-0.7, 0.7]) + 5
    return X, (X[:, :2] + X[:, 2:] > 0).astype(int)


def model(solver, loss, **arguments):
    return MLPClassifier(
        solver=solver, loss=loss, hidden_layer_sizes=8, activation="tanh", learning_rate_init=0.05, random_state=0,
        **{"max_iter": 200, **arguments},
    )  # fmt: skip


def network(fit, loss, n_outputs):
    net = Network([4, 8, n_outputs], activations="tanh", loss=loss)
    for W, b, coef, intercept in zip(net.weights, net.biases, fit.coefs_, fit.intercepts_, strict=True):
        W[...], b[...] = coef.T, intercept
    return net


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_hinge(solver, kind):
    X, y = samples(kind)
    fit = model(solver, "hinge").fit(X, y)
    assert fit.score(X, y) > 0.93
    a = fit.decision_function(X)
    if kind == "two classes":
        assert a.shape == (150,)
        np.testing.assert_array_equal(fit.predict(X), fit.classes_[(a > 0).astype(int)])
    elif kind == "three classes":
        np.testing.assert_array_equal(fit.predict(X), fit.classes_[a.argmax(axis=1)])
    else:
        np.testing.assert_array_equal(fit.predict(X), (a > 0).astype(int))
    for method in ("predict_proba", "predict_log_proba"):
        assert not hasattr(fit, method)
    with pytest.raises(AttributeError) as raised:
        fit.predict_proba  # noqa: B018
    assert "decision_function" in str(raised.value.__cause__)
    assert fit.out_activation_ == "identity"


def test_the_reported_hinge_is_that_of_the_network():
    X, y = samples("three classes")
    fit = model("lbfgs", "hinge", alpha=0.0, max_iter=20).fit(X, y)
    signs = np.where(y[:, None] == fit.classes_, 1.0, -1.0)
    assert fit.loss_ == pytest.approx(network(fit, "hinge", 3).loss(X, signs), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_label_smoothing(solver, kind):
    X, y = samples(kind)
    fit = model(solver, ("log_loss", 0.2), max_iter=400, alpha=0.0, tol=1e-6).fit(X, y)
    assert fit.score(X, y) > 0.93
    p = fit.predict_proba(X)
    k = 3 if kind == "three classes" else 2
    top = np.median(p.max(axis=1) if kind != "several labels" else np.maximum(p, 1 - p))
    assert top == pytest.approx(1 - 0.2 + 0.2 / k, abs=0.03)
    assert not hasattr(fit, "decision_function")


def test_the_reported_loss_with_smoothed_labels_is_that_of_the_network():
    X, y = samples("three classes")
    fit = model("lbfgs", ("log_loss", 0.2), alpha=0.0, max_iter=20).fit(X, y)
    net = network(fit, ("cross_entropy", 0.2), 3)
    assert fit.loss_ == pytest.approx(net.loss(X, y - 5), rel=1e-12)
    X, y = samples("several labels")
    fit = model("lbfgs", ("log_loss", 0.2), alpha=0.0, max_iter=20).fit(X, y)
    net = network(fit, "binary_cross_entropy", 2)
    assert fit.loss_ == pytest.approx(2 * net.loss(X, 0.8 * y + 0.1), rel=1e-12)  # a sum over labels


def test_no_smoothing_is_the_log_loss():
    X, y = samples("three classes")
    fits = [model("adam", loss, max_iter=5).fit(X, y) for loss in ("log_loss", ("log_loss", 0.0))]
    assert fits[0].loss_curve_ == fits[1].loss_curve_
    assert clone(fits[1]).loss == ("log_loss", 0.0)


@pytest.mark.parametrize("loss", [("log_loss", 1.0), ("log_loss", "a"), ("hinge", 0.1), ("log_loss",), (), "brier"])
def test_losses_that_there_are_not(loss):
    X, y = samples("two classes")
    with pytest.raises(ValueError, match="loss"):
        model("adam", loss).fit(X, y)


def test_another_loss_after_a_fit():
    X, y = samples("two classes")
    fit = model("adam", "log_loss", max_iter=3).fit(X, y).set_params(loss="hinge")
    assert fit.predict_proba(X).shape == (150, 2)  # what was fitted
    with pytest.raises(ValueError, match="warm_start=False"):
        fit.set_params(warm_start=True).fit(X, y)
    assert fit.set_params(warm_start=False).fit(X, y).decision_function(X).shape == (150,)
