"""Epochs of the estimators: how many go together changes no bit."""

import numpy as np
import pytest
from required_peers import require_peer

require_peer("sklearn")

from scipy.sparse import csr_array  # noqa: E402

from backprop.sklearn import MLPClassifier, MLPRegressor, epochs, problem  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def samples(n_samples=60, n_outputs=1):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2.0, 2.0, (n_samples, 3))
    X[np.abs(X) < 0.5] = 0.0
    y = np.stack([np.sin(X[:, 0] + j) * X[:, 1] for j in range(n_outputs)], axis=1)
    return X, y[:, 0] if n_outputs == 1 else y


def assert_equal_fits(a, b):
    assert a.loss_curve_ == b.loss_curve_
    assert (a.n_iter_, a.t_, a.best_loss_, a._no_improvement_count) == (
        b.n_iter_, b.t_, b.best_loss_, b._no_improvement_count,
    )  # fmt: skip
    for one, other in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        {"solver": "adam", "tol": 0.03},
        {"solver": "sgd", "tol": 0.03, "learning_rate_init": 0.1},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5, "tol": 0.01},
        {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.2, "tol": 0.02},
        {"solver": "sgd", "learning_rate_init": 5.0, "max_iter": 4},
    ],
    ids=str,
)
def test_epochs_together_have_the_bits_of_single_ones(arguments, shuffle, capsys):
    X, y = samples()
    if arguments.get("max_iter"):
        y = np.exp(y)
        arguments = {**arguments, "loss": "poisson", "learning_rate_init": 0.05}
    arguments = {
        "hidden_layer_sizes": 5, "n_iter_no_change": 3, "batch_size": 16, "random_state": 0, "shuffle": shuffle,
        **arguments,
    }  # fmt: skip
    together = MLPRegressor(**arguments).fit(X, y)
    single = MLPRegressor(verbose=True, **arguments).fit(X, y)
    assert_equal_fits(together, single)
    assert capsys.readouterr().out.count("Iteration") == single.n_iter_
    if "max_iter" not in arguments:
        assert 4 < single.n_iter_ < 200


def test_few_calls_make_many_epochs(monkeypatch):
    calls = []
    run = epochs.Runner.run

    def counted(self, orders, rates, curve):
        calls.append(len(rates))
        run(self, orders, rates, curve)

    monkeypatch.setattr(epochs.Runner, "run", counted)
    X, y = samples()
    model = MLPRegressor(n_iter_no_change=50, max_iter=120, random_state=0).fit(X, y)
    assert model.n_iter_ == sum(calls) == 120
    assert calls[0] == 51
    assert len(calls) < 6
    calls.clear()
    monkeypatch.setattr(epochs, "_MOST_ROWS", 10 * len(X))
    MLPRegressor(n_iter_no_change=np.inf, max_iter=120, random_state=0).fit(X, y)
    assert calls == [10] * 12


@pytest.mark.parametrize("weights", ["none", "of some rows"])
def test_an_interrupt_counts_the_epochs_that_are_complete(weights, monkeypatch):
    """Two epochs of three batches, and two batches of the third epoch."""
    X, y = samples()
    weight = None if weights == "none" else np.r_[np.ones(20), np.zeros(20), np.ones(20)]  # one batch makes no step
    run = epochs.Runner._run_arrays

    def interrupted(self, problem, orders, rates, *outs):
        run(self, problem, None, rates[:2], *(out[:2] for out in outs))
        part = problem.of_rows(slice(40))
        run(self, part, None, rates[2:3], *(np.ascontiguousarray(out[2:3, :2]) for out in outs))
        outs[-1][2] = outs[-1][1]  # the sum of the weights of the last batch is known before its step
        raise KeyboardInterrupt

    arguments = {"batch_size": 20, "shuffle": False, "random_state": 0, "hidden_layer_sizes": 3}
    whole = MLPRegressor(max_iter=2, **arguments).fit(X, y, weight)
    monkeypatch.setattr(epochs.Runner, "_run_arrays", interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        model = MLPRegressor(**arguments).fit(X, y, weight)
    assert model.loss_curve_ == whole.loss_curve_
    assert (model.n_iter_, model.t_, model.loss_) == (whole.n_iter_, whole.t_, whole.loss_)
    assert not np.array_equal(model.coefs_[0], whole.coefs_[0])


@pytest.mark.parametrize("weights", ["by sample", "by output"])
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_a_sparse_x_in_blocks_has_the_bits_of_a_dense_one(weights, loss, monkeypatch):
    X, y = samples(n_outputs=2)
    y = np.exp(y)
    weight = np.random.default_rng(1).integers(0, 3, y.shape if weights == "by output" else len(y)).astype(float)
    weight[8:24] = 0  # two batches, and a block, without weight
    arguments = {"loss": loss, "batch_size": 8, "shuffle": False, "max_iter": 6, "random_state": 0}
    dense = MLPRegressor(**arguments).fit(X, y, weight)
    monkeypatch.setattr(problem, "_BLOCK_ENTRIES", 3 * 16)
    assert_equal_fits(MLPRegressor(**arguments).fit(csr_array(X), y, weight), dense)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_weights_by_output_that_are_equal_are_weights_by_sample(loss):
    X, y = samples(n_outputs=2)
    y = np.exp(y)
    weight = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    arguments = {"loss": loss, "batch_size": 16, "max_iter": 10, "random_state": 0, "alpha": 1.0}
    by_sample = MLPRegressor(**arguments).fit(X, y, weight)
    by_output = MLPRegressor(**arguments).fit(X, y, np.stack([weight, weight], axis=1))
    np.testing.assert_allclose(by_output.loss_curve_, by_sample.loss_curve_, rtol=1e-12)


@pytest.mark.parametrize("kind", [MLPRegressor, MLPClassifier])
def test_a_fit_that_diverges(kind):
    X, y = samples()
    y = y if kind is MLPRegressor else (y > 0).astype(int) + (y > 1)
    arguments = {"solver": "sgd", "learning_rate_init": 1e200, "hidden_layer_sizes": 5, "random_state": 0}
    with pytest.raises(ValueError, match="non-finite"):
        kind(**arguments).fit(X, y)
    model = kind(early_stopping=True, **arguments).fit(X, y)  # the best parameters are those before
    assert np.isnan(model.validation_scores_[-1])
    assert np.isnan(model.loss_curve_[-1])
    assert len(model.loss_curve_) < 200
    assert np.isfinite(model.coefs_[0]).all()
