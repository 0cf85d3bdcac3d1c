"""Fits of the estimators by lbfgs and lm: their bits, their ends, and what they say."""

import numpy as np
import pytest
from required_peers import require_peer

require_peer("sklearn")

from scipy.sparse import csr_array  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402

from backprop.sklearn import MLPClassifier, MLPRegressor, problem  # noqa: E402

METHODS = ["lbfgs", "lm"]


def samples(n_samples=120, n_outputs=1):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2.0, 2.0, (n_samples, 3))
    X[np.abs(X) < 0.5] = 0.0
    y = np.stack([np.sin(X[:, 0] + j) * X[:, 1] for j in range(n_outputs)], axis=1)
    return X, y[:, 0] if n_outputs == 1 else y


def model(solver, **arguments):
    return MLPRegressor(
        solver=solver,
        **{
            "hidden_layer_sizes": 4,
            "activation": "tanh",
            "random_state": 0,
            "max_iter": 1000,
            "tol": 1e-7,
            **arguments,
        },
    )


def assert_equal_bits(a, b):
    assert (a.n_iter_, a.loss_) == (b.n_iter_, b.loss_)
    for one, other in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", METHODS)
@pytest.mark.parametrize("weights", ["none", "by sample", "by output"])
@pytest.mark.parametrize("n_samples", [120, 9000])  # 9000: several units, which blocks divide
def test_a_sparse_x_in_blocks_has_the_bits_of_a_dense_one(solver, weights, n_samples, monkeypatch):
    X, y = samples(n_samples, n_outputs=2)
    rng = np.random.default_rng(1)
    weight = None if weights == "none" else rng.uniform(0, 2, y.shape if weights == "by output" else len(y))
    if weight is not None:
        weight[: n_samples // 10] = 0
    dense = model(solver, max_iter=15).fit(X, y, weight)
    monkeypatch.setattr(problem, "_BLOCK_ENTRIES", 3 * n_samples // 4)
    assert_equal_bits(model(solver, max_iter=15).fit(csr_array(X), y, weight), dense)


@pytest.mark.parametrize("solver", METHODS)
def test_bits_depend_on_neither_threads_nor_verbose(solver, capsys):
    X, y = samples(1000)
    one = model(solver, n_threads=1).fit(X, y)
    assert_equal_bits(model(solver, n_threads=8).fit(X, y), one)
    assert capsys.readouterr().out == ""
    assert_equal_bits(model(solver, verbose=True).fit(X, y), one)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == one.n_iter_
    assert lines[-1] == f"Iteration {one.n_iter_}, loss = {one.loss_:.8f}"


@pytest.mark.parametrize("solver", METHODS)
@pytest.mark.parametrize("limit", ["max_iter", "max_fun"])
def test_limits(solver, limit):
    X, y = samples()
    with pytest.warns(ConvergenceWarning, match=f"{limit}=12"):
        limited = model(solver, tol=0.0, **{limit: 12}).fit(X, y)
    assert 6 <= limited.n_iter_ <= 12


@pytest.mark.parametrize("solver", METHODS)
def test_float32(solver):
    X, y = samples()
    fits = [model(solver, dtype=dtype, tol=1e-5, alpha=0.01).fit(X, y) for dtype in ("float32", "float64")]
    assert fits[0].coefs_[0].dtype == np.float32
    assert fits[0].loss_ == pytest.approx(fits[1].loss_, rel=0.01)


@pytest.mark.parametrize("solver", METHODS)
def test_x_so_large_that_no_fit_can_begin(solver):
    X, y = samples()
    with pytest.raises(ValueError, match="preprocessed"):
        model(solver, activation="identity").fit(1e200 * X, y)


@pytest.mark.parametrize("solver", [*METHODS, "adam"])
def test_no_target_that_counts(solver):
    X, y = samples(n_outputs=2)
    with pytest.raises(ValueError, match="at least one target"):
        model(solver).fit(X, y, np.zeros(y.shape))
    with pytest.raises(ValueError, match="at least one target"):
        model(solver, missing_targets=True).fit(X, np.full(y.shape, np.nan))
    if solver != "lm":
        with pytest.raises(ValueError, match="at least one target"):
            MLPClassifier(solver=solver, class_weight={0: 0.0}).fit(X, np.zeros(len(X)))


@pytest.mark.parametrize("solver", METHODS)
def test_after_an_interrupt_the_last_accepted_parameters_are_there(solver, monkeypatch):
    X, y = samples()
    with pytest.warns(ConvergenceWarning):
        expected = model(solver, max_iter=3).fit(X, y)

    def interrupt(text):
        if text.startswith("Iteration 3,"):
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupt)
    fit = model(solver, verbose=True)
    with pytest.raises(KeyboardInterrupt):
        fit.fit(X, y)
    for a, b in zip(fit.coefs_ + fit.intercepts_, expected.coefs_ + expected.intercepts_, strict=True):
        np.testing.assert_array_equal(a, b)
