"""How results of fits and what a callback is told are shown, and errors that name the cure."""

import pickle
import re

import numpy as np
import pytest
from scipy.optimize import OptimizeResult

import backprop

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((30, 3)), RNG.standard_normal((30, 1))


def network():
    return backprop.Network([3, 4, 1], activations="tanh", rng=0)


def test_a_result_shows_its_history_in_a_line():
    result = network().fit(X, Y, solver="adam", x_val=X, y_val=Y, max_iter=150, rng=0)
    losses = result.history["loss"]
    lines = repr(result).splitlines()
    assert len(lines) < 20
    assert f"loss: {losses[0]:.6g} ... {losses[-1]:.6g}, 150 in all" in "\n".join(lines)
    assert len(losses) == len(result.history["val_loss"]) == 150  # it is shown so, and no more
    assert "val_loss: none" in repr(network().fit(X, Y, max_iter=0))


def test_a_result_is_one_of_scipy_and_pickles():
    result = network().fit(X, Y, max_iter=3)
    again = pickle.loads(pickle.dumps(result))
    for it in (result, again):
        assert isinstance(it, OptimizeResult)
        assert it.n_iter == it["n_iter"] == it.nit == 3
        assert it.history == result.history
    assert type(again) is type(result)


def test_a_result_is_no_network():
    message = "the result of fit has no 'forward': it has loss, n_iter, .*; calls are the network's"
    with pytest.raises(AttributeError, match=message):
        network().fit(X, Y, max_iter=1).forward(X)


def test_what_a_callback_is_told_is_shown_in_a_line():
    shown = []
    network().fit(X, Y, max_iter=1, callback=lambda info: shown.append(repr(info)))
    network().fit(X, Y, max_iter=1, solver="sgd", x_val=X, y_val=Y, callback=lambda info: shown.append(repr(info)))
    assert re.fullmatch(r"Info\(iteration=1, loss=[\d.]+, params=<21 numbers>\)", shown[0])
    assert re.fullmatch(
        r"Info\(iteration=1, loss=[\d.]+, val_loss=[\d.]+, learning_rate=0.01, params=<21 numbers>\)", shown[1]
    )


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_validation_that_is_never_finite_says_so(solver):
    x_val = X.copy()
    x_val[3, 1] = np.nan
    result = network().fit(X, Y, solver=solver, x_val=x_val, y_val=Y, patience=3)
    assert result.message.startswith("patience: 3 ")
    assert result.message.endswith("val_loss, which was never finite: net.find_nonfinite(x_val, y_val) says why")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"x_val": X, "y_val": Y[:7]}, ValueError, "y_val: expected 30 rows, as x_val has, got 7"),
        ({"solver": "sgd", "learning_rate": "adaptive"}, TypeError, "a number > 0 or a function of the epoch, got 'ad"),
    ],
)
def test_errors_name_the_cure(options, kind, message):
    with pytest.raises(kind, match=message):
        network().fit(X, Y, **options)
