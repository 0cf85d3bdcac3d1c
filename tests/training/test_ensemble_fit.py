"""`Ensemble.fit`: each member has the result of its own `Network.fit`, whatever the others do."""

import pickle
import signal
import threading

import numpy as np
import pytest
from systems import needs_signals

from backprop import Ensemble, Network

RNG = np.random.default_rng(17)
K, N = 5, 60
X = RNG.standard_normal((K, N, 2))
Y = np.sin(X[:, :, :1]) * X[:, :, 1:] + 0.1 * np.arange(K)[:, None, None]
WEIGHT = RNG.random((K, N)) * (RNG.random((K, N)) < 0.9)
MISSING = np.where(RNG.random(Y.shape) < 0.8, Y, np.nan)
X_VAL, Y_VAL = X[:, :20] + 0.3, Y[:, :20]
FREE = np.arange(17) % 4 != 1
SOLVERS = ("lbfgs", "lm", "adam", "sgd")

# Of a fit: the arguments that each member may have for itself, and the others.
FITS = {
    "own": ({"x": X, "y": Y}, {}),
    "shared": ({"x": X[0], "y": Y[0]}, {}),
    "free": ({"x": X, "y": Y}, {"l2": 1e-3, "free": FREE}),
    "weights": ({"x": X[0], "y": Y, "sample_weight": WEIGHT}, {}),
    "missing": ({"x": X, "y": MISSING, "sample_weight": ~np.isnan(MISSING)}, {}),
    "validation": ({"x": X, "y": Y, "x_val": X_VAL, "y_val": Y_VAL}, {}),
    "patience": (
        {"x": X, "y": Y, "x_val": X_VAL[0], "y_val": Y_VAL[0], "sample_weight_val": WEIGHT[0, :20]},
        {"patience": 2},
    ),
    "patient": ({"x": X, "y": Y}, {"patience": 3}),
}  # fmt: skip
N_AXES = {"x": 2, "y": 2, "sample_weight": 1, "x_val": 2, "y_val": 2, "sample_weight_val": 1}


def ensemble(dtype="float64", k=K):
    return Ensemble(Network([2, 4, 1], activations="tanh", dtype=dtype), k, rng=3)


def options_of(solver, **options):
    how = {"learning_rate": 0.02, "batch_size": 25, "max_iter": 15} if solver in ("adam", "sgd") else {"tol": 1e-2}
    return {"solver": solver, **how, **options}


def of_member(m, own):
    """The samples of member m."""
    return {name: array[m] if array.ndim > N_AXES[name] else array for name, array in own.items()}


def lone_fits(e, own, seed=7, **options):
    """The members one after another, which they change."""
    generators = np.random.default_rng(seed).spawn(len(e))
    is_stochastic = options["solver"] in ("adam", "sgd")
    results = []
    for m, net in enumerate(e):
        more = {"rng": generators[m]} if is_stochastic and "state" not in options else {}
        arguments = {**options, **more, **of_member(m, own)}
        if "state" in options:
            arguments["state"] = options["state"][m]
        results.append(net.fit(**arguments))
    return results


def fit(e, own, seed=7, **options):
    more = {"rng": seed} if options["solver"] in ("adam", "sgd") and "state" not in options else {}
    return e.fit(**own, **more, **options)


def refuse_other_results(found, expected):
    assert isinstance(found, list)
    for a, b in zip(found, expected, strict=True):
        assert type(a) is type(b)
        assert a.keys() == b.keys()
        for name in ("x", "jac"):
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name], name)
        np.testing.assert_array_equal([a.loss, a.fun], [b.loss, b.fun])
        for name in ("n_iter", "nit", "nfev", "success", "message", "history", "best_iteration"):
            assert a[name] == b[name], name
            assert type(a[name]) is type(b[name]), name
        for name in ("value", "iteration", "of_validation", "n_waiting"):
            assert getattr(a.state.best, name) == getattr(b.state.best, name), name
        np.testing.assert_array_equal(a.state.params, b.state.params)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", FITS)
def test_each_member_has_its_own_fit(name, solver, dtype):
    own, options = FITS[name]
    options = options_of(solver, **options)
    e, other = ensemble(dtype), ensemble(dtype)
    expected = lone_fits(other, own, **options)
    for n_threads in (1, 2, 8):
        e.params = ensemble(dtype).params
        refuse_other_results(fit(e, own, n_threads=n_threads, **options), expected)
        np.testing.assert_array_equal(e.params, other.params)
    if solver in ("lbfgs", "lm") and name == "own":
        assert len({result.n_iter for result in expected}) > 1  # they do not stop together


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["own", "validation", "patience"])
def test_a_fit_that_goes_on(name, solver):
    """Three times five iterations are fifteen, with states of the ensemble or of its members alone, pickled or not."""
    own, options = FITS[name]
    options = options_of(solver, **options)
    whole = fit(first := ensemble(), own, **{**options, "max_iter": 15})
    e = ensemble()
    some = fit(e, own, **{**options, "max_iter": 5})
    options = {**options, "max_iter": 5, "state": [result.state for result in some]}
    alone = lone_fits(other := ensemble(), own, **options)
    more = fit(e, own, **options)
    refuse_other_results(more, alone)
    np.testing.assert_array_equal(e.params, other.params)
    refuse_other_results(fit(e, own, **options), more)  # a state is copied on use
    last = fit(e, own, **{**options, "state": [pickle.loads(pickle.dumps(r.state)) for r in alone]})
    if all(result.n_iter == 15 for result in whole):
        refuse_other_results(last, whole)
        np.testing.assert_array_equal(e.params, first.params)


def test_epochs_without_shuffle_and_rates_by_epoch():
    seen = []

    def rate(epoch):
        seen.append(epoch)
        return 0.02 / (1 + epoch)

    own = {"x": X, "y": Y}
    options = {"solver": "sgd", "shuffle": False, "learning_rate": rate, "batch_size": 17, "max_iter": 6}
    e, other = ensemble(), ensemble()
    found = fit(e, own, **options)
    assert seen == list(range(6))
    refuse_other_results(found, lone_fits(other, own, **options))


@pytest.mark.parametrize("n", [1, 2, 50])
@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_orders_are_those_of_permutation(bits, n):
    """The numbers that `permuted` draws for several epochs at once."""
    one, other = (np.random.Generator(bits(3)) for _ in range(2))
    orders = np.tile(np.arange(n), (7, 1))
    other.permuted(orders, axis=1, out=orders)
    assert np.array_equal(orders, [one.permutation(n) for _ in range(7)])
    assert one.random() == other.random()


def test_orders_in_parts(monkeypatch):
    """Members in groups, and epochs in several calls, have the bits of one call."""
    own = {"x": X, "y": Y}
    whole = fit(ensemble(), own, **options_of("adam"))
    for name, number in (("_MOST_NUMBERS", 700), ("_FEW", 2), ("_MOST_LOSSES", 13)):
        monkeypatch.setattr(f"backprop.training.side_by_side.{name}", number)
    refuse_other_results(fit(ensemble(), own, **options_of("adam")), whole)
    refuse_other_results(fit(ensemble(), own, **options_of("lbfgs")), lone_fits(ensemble(), own, **options_of("lbfgs")))


# What looks on


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback(solver):
    own, options = FITS["validation"]
    seen = []
    e, other = ensemble(), ensemble()
    expected = lone_fits(other, own, **options_of(solver, max_iter=7, **options))
    fit(e, own, **options_of(solver, max_iter=7, callback=seen.append, every=2, **options))
    assert [info.iteration for info in seen] == [2, 4, 6][: len(seen)]
    assert len(seen) >= 2
    for info in seen:
        assert info.params.shape == e.params.shape
        assert not info.params.flags.writeable
        for m, result in enumerate(expected):
            at = min(info.iteration, result.n_iter) - 1
            assert info.loss[m] == result.history["loss"][at]
            assert info.val_loss[m] == result.history["val_loss"][at]
        assert info.learning_rate == (0.02 if solver in ("adam", "sgd") else None)


def stop_by_value(info):
    return info.iteration == 4


def stop_by_exception(info):
    if info.iteration == 4:
        raise StopIteration


@pytest.mark.parametrize("callback", [stop_by_value, stop_by_exception])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback_stops_all(solver, callback):
    own = {"x": X, "y": Y}
    e, other = ensemble(), ensemble()
    found = fit(e, own, **options_of(solver, tol=None, callback=callback))
    lone_fits(other, own, **options_of(solver, tol=None, max_iter=4))
    assert [(r.n_iter, r.success) for r in found] == [(4, True)] * K
    assert all("callback" in r.message for r in found)
    np.testing.assert_array_equal(e.params, other.params)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback_that_raises_leaves_the_last_steps(solver):
    def raise_it(info):
        if info.iteration == 4:
            raise LookupError

    own = {"x": X, "y": Y}
    e, other = ensemble(), ensemble()
    with pytest.raises(LookupError):
        fit(e, own, **options_of(solver, tol=None, callback=raise_it))
    lone_fits(other, own, **options_of(solver, tol=None, max_iter=4))
    np.testing.assert_array_equal(e.params, other.params)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_member_with_nan_does_not_disturb_the_others(solver):
    y = Y.copy()
    y[2, 50] = np.nan
    e, other = ensemble(), ensemble()
    options = options_of(solver, max_iter=6)
    found = fit(e, {"x": X, "y": y}, **options)
    lone_y = {"x": X, "y": y}
    expected = lone_fits(other, lone_y, **options)
    refuse_other_results(found, expected)
    assert not found[2].success
    assert "find_nonfinite" in found[2].message
    assert [result.n_iter for result in found] == [6, 6, 0, 6, 6] or solver == "lm"
    assert np.isfinite(e.params).all()
    if solver in ("adam", "sgd"):  # no more orders are drawn than epochs have begun
        for a, b in zip(found, expected, strict=True):
            assert a.state.core.rng.random() == b.state.core.rng.random()


def test_a_callback_that_stops_when_a_member_has_converged():
    """As alone, the callback comes first."""
    own, options = {"x": X, "y": Y}, options_of("lbfgs")
    first = min(result.n_iter for result in lone_fits(ensemble(), own, **options))
    options["callback"] = lambda info: info.iteration == first
    found = fit(ensemble(), own, **options)
    refuse_other_results(found, lone_fits(ensemble(), own, **options))
    assert all("callback" in result.message for result in found)


def test_a_progress_bar(monkeypatch):
    shown = []
    monkeypatch.setattr("backprop.training.progress.Bar.show", lambda self, *numbers: shown.append(numbers))
    e = ensemble()
    found = fit(e, {"x": X, "y": Y}, **options_of("adam", max_iter=3, progress=True))
    assert [n for n, _, _ in shown] == [1, 1, 1]
    assert [loss for _, loss, _ in shown] == [np.mean([r.history["loss"][t] for r in found]) for t in range(3)]


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_iterations(solver):
    e, other = ensemble(), ensemble()
    own = {"x": X, "y": Y}
    options = options_of(solver, max_iter=0)
    refuse_other_results(fit(e, own, **options), lone_fits(other, own, **options))
    np.testing.assert_array_equal(e.params, ensemble().params)


# What is refused


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"comm": object()}, ValueError, "comm: .*one by one"),
        ({"y": None}, ValueError, "y: .*one by one"),
        ({"y": Y[:4]}, ValueError, "y: expected one for each of the 5"),
        ({"y": np.where(np.arange(N) == 3, "a", "b")}, TypeError, "y"),
        ({"x_val": X_VAL}, ValueError, "y_val: expected targets"),
        ({"y_val": Y_VAL}, ValueError, "y_val: expected x_val"),
        ({"x_val": X_VAL[:, :, :1], "y_val": Y_VAL}, ValueError, "x_val: "),
        ({"x_val": X_VAL[:3], "y_val": Y_VAL[:3]}, ValueError, "x_val: expected one for each of the 5"),
        ({"solver": "newton"}, ValueError, "solver"),
        ({"momentum": 0.5}, ValueError, "momentum"),
        ({"free": np.ones(16, bool)}, ValueError, "free"),
        ({"state": 3}, TypeError, "state: expected a list of 5"),
        ({"state": []}, ValueError, "state: expected a list of 5"),
        ({"state": [3] * 5}, TypeError, "state"),
    ],
)
def test_refused(changes, error, words):
    e = ensemble()
    with pytest.raises(error, match=words):
        e.fit(**{"x": X, "y": Y, **changes})
    np.testing.assert_array_equal(e.params, ensemble().params)


def test_states_of_other_solvers_are_refused():
    e = ensemble()
    states = [result.state for result in e.fit(X, Y, max_iter=2)]
    with pytest.raises(ValueError, match="state: expected one of the solver 'lm', got one of 'lbfgs'"):
        e.fit(X, Y, solver="lm", state=states)


def test_lm_needs_squares():
    e = Ensemble(Network([2, 4, 1], loss="huber"), 2, rng=0)
    with pytest.raises(ValueError, match="squared_error"):
        e.fit(X[0], Y[0], solver="lm")


def test_classes():
    """Labels of each member."""
    e, other = (Ensemble(Network([2, 4, 3], activations="tanh", loss="cross_entropy"), 3, rng=1) for _ in range(2))
    labels = RNG.integers(0, 3, (3, N))
    own = {"x": X[0], "y": labels, "x_val": X_VAL[0], "y_val": labels[:, :20]}
    found = e.fit(**own, max_iter=5)
    for m, net in enumerate(other):
        lone = net.fit(X[0], labels[m], x_val=X_VAL[0], y_val=labels[m, :20], max_iter=5)
        refuse_other_results(found[m : m + 1], [lone])


@needs_signals
@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_a_handler_that_raises_leaves_the_last_steps(solver):
    """Every member has the parameters of some whole number of its iterations."""

    class Interruption(BaseException):
        pass

    def raise_it(*_):
        raise Interruption

    e, x = ensemble(k=3), np.random.default_rng(0).standard_normal((40_000, 2))
    own = {"x": x, "y": np.sin(x[:, :1]) * x[:, 1:]}
    options = {"solver": solver, "max_iter": 10**5, **({"batch_size": 40_000} if solver == "adam" else {"tol": 0})}
    before, thread = signal.signal(signal.SIGUSR1, raise_it), threading.get_ident()
    try:
        for seconds in (0.15, 1, 5):  # until it comes when the fit is under way
            timer = threading.Timer(seconds, lambda: signal.pthread_kill(thread, signal.SIGUSR1))
            timer.start()
            with pytest.raises(Interruption):  # it would take minutes
                fit(e, own, n_threads=2, **options)
            timer.join()
            if not np.array_equal(e.params, ensemble(k=3).params):
                break
    finally:
        signal.signal(signal.SIGUSR1, before)

    def is_there(m):
        lone = ensemble(k=3)[m]
        if np.array_equal(lone.params, e.params[m]):  # it had not begun
            return True
        more = {"rng": np.random.default_rng(7).spawn(3)[m]} if solver == "adam" else {}
        more["callback"] = lambda info: np.array_equal(info.params, e.params[m])
        return "callback" in lone.fit(**own, **{**options, "max_iter": 2000}, **more).message

    assert all(is_there(m) for m in range(3))
    assert not np.array_equal(e.params, ensemble(k=3).params)
