"""What looks at a fit between its iterations, and how a fit ends: validation, patience, callbacks, signals, errors."""

import builtins
import pickle
import signal
import sys
import threading

import numpy as np
import pytest
from systems import needs_signals

import backprop

RNG = np.random.default_rng(7)
X = RNG.normal(size=(60, 3))
Y = np.sin(X.sum(1)) + 0.5 * RNG.normal(size=60)
X_VAL = RNG.normal(size=(40, 3))
Y_VAL = np.sin(X_VAL.sum(1)) + 0.5 * RNG.normal(size=40)
SOLVERS = {
    "lbfgs": {"solver": "lbfgs"},
    "lm": {"solver": "lm"},
    "adam": {"solver": "adam", "learning_rate": 0.05, "batch_size": 16, "rng": 1},
    "sgd": {"solver": "sgd", "learning_rate": 0.1, "batch_size": 16, "rng": 1},
}
VAL = {"x_val": X_VAL, "y_val": Y_VAL}


def network(dtype="float64", rng=3):
    return backprop.Network([3, 8, 1], activations="tanh", dtype=dtype, rng=rng)


def fitted(solver, net=None, **options):
    net = network() if net is None else net
    return net, net.fit(X, Y, **{**SOLVERS[solver], **options})


def trajectory(solver, n, **options):
    """What a callback sees of n iterations."""
    seen = []
    fitted(solver, max_iter=n, callback=seen.append, **options)
    return seen


def refuse_other_fit(found, expected):
    (net, a), (other, b) = found, expected
    np.testing.assert_array_equal(net.params, other.params)
    np.testing.assert_array_equal(a.jac, b.jac)
    for name in ("loss", "n_iter", "nfev", "success", "message", "history", "best_iteration"):
        assert a[name] == b[name], name


# What looks on does not change a bit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("looker", ["callback", "every 4", "progress", "patience", "rate"])
def test_lookers_do_not_change_a_bit(solver, looker):
    options = {
        "callback": {"callback": lambda info: False},
        "every 4": {"callback": lambda info: None, "every": 4},
        "progress": {"progress": True},
        "patience": {"patience": 1000},
        "rate": {"learning_rate": lambda epoch: SOLVERS[solver]["learning_rate"]},
    }[looker]
    if looker == "rate" and solver in ("lbfgs", "lm"):
        options = {}
    net, result = fitted(solver, max_iter=20, **options)
    if looker == "patience" and solver in ("adam", "sgd"):  # the best parameters are not those of the last epoch
        net.params = result.state.params
        other, expected = fitted(solver, max_iter=20)
        np.testing.assert_array_equal(net.params, other.params)
        assert result.history == expected.history
    else:
        refuse_other_fit((net, result), fitted(solver, max_iter=20))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback_sees_each_iteration(solver, dtype):
    seen = trajectory(solver, 6, net=network(dtype), **VAL)
    assert [info.iteration for info in seen] == [1, 2, 3, 4, 5, 6]
    weight = np.ones(60)
    for n, info in enumerate(seen, start=1):
        net, result = fitted(solver, network(dtype), max_iter=n, sample_weight=weight)
        np.testing.assert_array_equal(info.params, net.params)
        assert info.params.dtype == net.dtype
        assert info.loss == result.history["loss"][-1]
        assert info.val_loss == net.loss(X_VAL, Y_VAL)
        assert info.learning_rate == SOLVERS[solver].get("learning_rate")
        with pytest.raises(ValueError, match="read-only"):
            info.params[0] = 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback_comes_every_few_iterations_of_the_whole_fit(solver):
    seen = []
    _, result = fitted(solver, max_iter=5, callback=seen.append, every=3)
    options = {"rng": None} if "rng" in SOLVERS[solver] else {}
    fitted(solver, max_iter=7, callback=seen.append, every=3, state=result.state, **options)
    assert [info.iteration for info in seen] == [3, 6, 9, 12]


# Ends -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["True", "np.True_", "StopIteration"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback_stops_the_fit(solver, how):
    def callback(info):
        if how == "StopIteration" and info.iteration == 4:
            raise StopIteration
        return np.bool_(info.iteration == 4) if how == "np.True_" else info.iteration == 4

    net, result = fitted(solver, max_iter=20, callback=callback)
    other, expected = fitted(solver, max_iter=4)
    np.testing.assert_array_equal(net.params, other.params)
    assert (result.success, result.n_iter, result.loss) == (True, 4, expected.loss)
    assert "callback" in result.message
    assert pickle.loads(pickle.dumps(result.state)).n_iter == 4


@pytest.mark.parametrize("solver", SOLVERS)
def test_other_answers_of_a_callback_do_not_stop_it(solver):
    _, result = fitted(solver, max_iter=3, callback=lambda info: info.params)
    assert result.n_iter == 3


@pytest.mark.parametrize("solver", SOLVERS)
def test_patience_ends_a_fit_and_restores_the_best(solver):
    net, result = fitted(solver, max_iter=300, patience=5, **VAL)
    assert result.success
    assert result.message.startswith("patience: 5 ")
    val, best = result.history["val_loss"], result.best_iteration
    assert len(val) == result.n_iter == best + 5
    assert best == 1 + int(np.argmin(val))
    assert net.loss(X_VAL, Y_VAL) == val[best - 1]
    assert result.loss == net.loss(X, Y)
    np.testing.assert_array_equal(result.jac, net.value_and_grad(X, Y)[1])
    np.testing.assert_array_equal(result.state.params, fitted(solver, max_iter=result.n_iter)[0].params)
    np.testing.assert_array_equal(net.params, fitted(solver, max_iter=best)[0].params)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_resumed_fit_with_patience_is_the_whole_one(solver):
    options = {"patience": 5, **VAL}
    whole = fitted(solver, max_iter=300, **options)
    n = whole[1].n_iter
    rest = {"rng": None} if "rng" in SOLVERS[solver] else {}
    for first in (0, n // 2, whole[1].best_iteration + 2, n):
        _, result = fitted(solver, max_iter=first, **options)
        refuse_other_fit(fitted(solver, max_iter=300, state=result.state, **options, **rest), whole)
    more = fitted(solver, max_iter=3, state=whole[1].state, **{**options, "patience": 50}, **rest)[1]
    assert more.n_iter == n + 3


def test_the_start_may_be_the_best():
    net, _ = fitted("lbfgs", max_iter=200)
    before = net.params.copy()
    x = X[::-1]
    result = net.fit(x, 1 - Y, x_val=X, y_val=Y, patience=2)
    assert (result.best_iteration, result.n_iter) == (0, 2)
    np.testing.assert_array_equal(net.params, before)
    assert result.loss == net.loss(x, 1 - Y)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_improvements_of_less_than_tol_do_not_count(solver):
    _, result = fitted(solver, max_iter=100, patience=3, tol=10.0)
    assert result.n_iter == 4  # the first loss counts
    losses = result.history["loss"]
    assert result.best_iteration == 1 + int(np.argmin(losses))


@pytest.mark.parametrize("solver", SOLVERS)
def test_validation_data_may_have_weights(solver):
    weight = RNG.random(40)
    weight[3] = 0
    y_val = Y_VAL.copy()
    y_val[3] = np.nan
    net, result = fitted(solver, max_iter=3, x_val=X_VAL, y_val=y_val, sample_weight_val=weight, l2=0.1)
    assert result.history["val_loss"][-1] == net.loss(X_VAL, y_val, sample_weight=weight)
    assert len(result.history["val_loss"]) == 3


@pytest.mark.parametrize("solver", SOLVERS)
def test_patience_may_come_later(solver):
    _, first = fitted(solver, max_iter=3)
    rest = {"rng": None} if "rng" in SOLVERS[solver] else {}
    net, result = fitted(solver, max_iter=2, state=first.state, patience=2, **VAL, **rest)
    assert result.n_iter == 5
    assert len(result.history["val_loss"]) == 2
    best = 3 + int(np.argmin([np.inf, *result.history["val_loss"]]))
    assert result.best_iteration in (3, best)
    np.testing.assert_array_equal(net.params, fitted(solver, max_iter=result.best_iteration)[0].params)


# A loss that is not finite --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_target_that_is_not_finite_ends_the_fit(solver, bad):
    y = Y.copy()
    y[7] = bad
    net = network()
    before = net.params.copy()
    result = net.fit(X, y, **{**SOLVERS[solver], "shuffle": False} if "rng" in SOLVERS[solver] else SOLVERS[solver])
    assert not result.success
    assert "not finite" in result.message
    assert "net.find_nonfinite(x, y)" in result.message
    np.testing.assert_array_equal(net.params, before)
    assert (result.n_iter, result.best_iteration, np.isfinite(result.loss)) == (0, 0, False)


@pytest.mark.parametrize("looks", [False, True])
def test_a_fit_that_diverges_says_where(looks):
    rng = np.random.default_rng(0)
    net = backprop.Network([3, 8, 1], activations="relu", rng=3)
    seen = []
    options = {"callback": seen.append} if looks else {}
    rate = 1e4
    result = net.fit(X, Y, solver="sgd", learning_rate=rate, batch_size=16, rng=rng, max_iter=100, **options)
    assert not result.success
    epoch = result.n_iter + 1
    assert f" of epoch {epoch};" in result.message
    assert np.isfinite(net.params).all()
    # The generator has drawn the orders of the epochs that have begun, and no more.
    expected = np.random.default_rng(0)
    for _ in range(epoch):
        expected.permutation(len(X))
    assert result.state.core.rng.bit_generator.state == expected.bit_generator.state
    assert len(result.history["loss"]) == result.n_iter


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_gradient_that_is_not_finite_ends_the_fit(solver):
    net = backprop.Network([1, 1], rng=0)
    net.params = [0.0, 0.0]
    x, y = np.full((6, 1), 1.0), np.zeros(6)
    x[4], y[4] = 1e200, 1e150
    for data in ((x, y), ([(x[:2], y[:2]), (x[2:], y[2:])],)):
        result = net.fit(*data, solver=solver, shuffle=False, batch_size=1)
        assert result.message.startswith("the gradient is not finite in batch 5 of epoch 1; net.find_nonfinite(x, y)")
        np.testing.assert_array_equal(net.params, [0.0, 0.0])


# Errors and signals ---------------------------------------------------------------------------------------------------


class FailingError(Exception):
    pass


@pytest.mark.parametrize("kind", [FailingError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_a_callback_raises_leaves_the_last_parameters(solver, kind):
    def callback(info):
        if info.iteration == 4:
            raise kind

    net = network()
    with pytest.raises(kind):
        fitted(solver, net, max_iter=20, callback=callback, patience=2, **VAL)
    np.testing.assert_array_equal(net.params, fitted(solver, max_iter=4)[0].params)


def test_what_a_learning_rate_raises_leaves_the_last_parameters():
    def rate(epoch):
        if epoch == 3:
            raise FailingError
        return 0.05

    net = network()
    with pytest.raises(FailingError):
        fitted("adam", net, max_iter=20, learning_rate=rate)
    np.testing.assert_array_equal(net.params, fitted("adam", max_iter=3)[0].params)


class Interruption(BaseException):
    pass


@needs_signals
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_signal_leaves_parameters_of_the_way(solver):
    """A batch is an epoch here, so all parameters that are accepted are seen by a callback."""
    rng, is_full_batch = np.random.default_rng(0), solver in ("lbfgs", "lm")
    n = 400 if is_full_batch else 20_000
    x, y = rng.normal(size=(n, 3)), rng.normal(size=n)
    options = {**SOLVERS[solver], "max_iter": 10**7}
    options |= {"tol": 0.0} if is_full_batch else {"batch_size": n, "learning_rate": 1e-5}
    net = backprop.Network([3, 12, 1], activations="tanh", rng=3)
    net.fit(x, y, **{**options, "max_iter": 0})  # imports SciPy

    def raise_it(*_):
        raise Interruption

    before = signal.signal(signal.SIGUSR1, raise_it)
    own = threading.get_ident()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(own, signal.SIGUSR1))
    start = net.params.copy()

    def fit_for_ever():
        while True:
            net.params = start
            net.fit(x, y, **options)

    timer.start()
    try:
        with pytest.raises(Interruption):
            fit_for_ever()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    left = net.params.copy()
    seen = [start.tobytes()]

    def is_there(info):
        seen.append(info.params.tobytes())
        return left.tobytes() in (seen[0], seen[-1]) or info.iteration == (20_000 if is_full_batch else 500)

    backprop.Network([3, 12, 1], activations="tanh", rng=3).fit(x, y, **options, callback=is_there)
    assert left.tobytes() in seen


@pytest.mark.parametrize("solver", SOLVERS)
def test_params_do_not_change_before_the_end(solver):
    net = network()
    before, seen = net.params.copy(), []
    fitted(solver, net, max_iter=5, callback=lambda info: seen.append(net.params.copy()))
    assert len(seen) == 5
    for params in seen:
        np.testing.assert_array_equal(params, before)


# A progress bar -------------------------------------------------------------------------------------------------------


def test_a_progress_bar_counts(capsys):
    fitted("adam", max_iter=7, progress=True, **VAL)
    text = capsys.readouterr().err
    assert "7/7" in text
    assert "val_loss=" in text
    fitted("lbfgs", max_iter=3)
    assert capsys.readouterr().err == ""


def test_without_tqdm_the_error_says_what_to_install(monkeypatch):
    plain_import = builtins.__import__

    def without_tqdm(name, *args, **kwargs):
        if name.startswith("tqdm"):
            raise ModuleNotFoundError("No module named 'tqdm'", name="tqdm")
        return plain_import(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("tqdm")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_tqdm)
    net = network()
    before = net.params.copy()
    with pytest.raises(ImportError, match="pip install"):
        net.fit(X, Y, progress=True)
    np.testing.assert_array_equal(net.params, before)
    net.fit(X, Y, max_iter=1)
