"""The compiled fits of many networks: each has the bits of its own lone fit."""

import copy
import pickle

import numpy as np
import pytest
from members import (
    data,
    ensemble,
    fit,
    one_by_one,
    refuse_other_fits,
    solvers_of,
    train,
    train_one_by_one,
)  # fmt: skip

KINDS = ["shared", "own", "own y", "weights", "own weights"]
SOLVERS = ["lbfgs", "lm"]
FREE = np.arange(17) % 4 != 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_full_batches_have_the_bits_of_lone_fits(n_threads, method, kind, dtype):
    e, d = ensemble(dtype=dtype), data(kind, dtype=dtype)
    expected = one_by_one(method, e, d, l2=1e-4, tol=1e-2)
    assert len({len(losses) for losses in expected.losses}) > 1  # they do not stop together
    refuse_other_fits(fit(e, d, solvers_of(e, method), l2=1e-4, tol=1e-2, n_threads=n_threads), expected)


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_frozen_parameters(n_threads, method):
    e, d = ensemble(), data("own")
    found = fit(e, d, solvers_of(e, method, FREE), free=FREE, n_threads=n_threads)
    refuse_other_fits(found, one_by_one(method, e, d, free=FREE))
    assert np.array_equal(found.params[:, ~FREE], e.params[:, ~FREE])
    assert (found.params[:, FREE] != e.params[:, FREE]).any(axis=1).all()


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("between", [lambda s: s, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_fit_in_parts(between, n_threads, method):
    """Calls for three iterations, of the members that have not come to their end, have the bits of one call."""
    e, d = ensemble(), data("own", n=800)
    whole = fit(e, d, solvers_of(e, method), max_iter=30, tol=1e-2)
    solvers, params, losses = solvers_of(e, method), e.params.copy(), [[] for _ in e]
    answers = ["max_iter"] * len(e)
    for _ in range(10):
        solvers = [between(s) for s in solvers]
        active = [m for m, answer in enumerate(answers) if answer == "max_iter"]
        part = fit(e, d, solvers, networks=active, params=params, max_iter=3, tol=1e-2, n_threads=n_threads)
        for j, m in enumerate(active):
            answers[m] = part.answers[j]
            losses[m] += list(part.losses[j])
    refuse_other_fits(part._replace(answers=answers, losses=losses, params=params, solvers=solvers), whole)


@pytest.mark.parametrize("method", SOLVERS)
def test_members_that_are_not_asked_for_stay(method):
    e, d = ensemble(), data("own")
    expected = one_by_one(method, e, d)
    solvers = solvers_of(e, method)
    found = fit(e, d, solvers, networks=[1, 4], n_threads=2)
    for m in range(6):
        is_fitted = m in (1, 4)
        assert np.array_equal(found.params[m], (expected.params if is_fitted else e.params)[m])
        assert solvers[m].n_evaluations == (expected.solvers[m].n_evaluations if is_fitted else 0)
    assert found.answers == [expected.answers[1], expected.answers[4]]


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_member_with_nan_does_not_disturb_the_others(n_threads, method):
    e, d = ensemble(), data("own")
    expected = one_by_one(method, e, d)
    d.y[2, 77] = np.nan
    found = fit(e, d, solvers_of(e, method), n_threads=n_threads)
    assert found.answers == [a if m != 2 else "not finite" for m, a in enumerate(expected.answers)]
    assert np.array_equal(found.params[2], e.params[2])
    rest = np.arange(6) != 2
    assert np.array_equal(found.params[rest], expected.params[rest])


@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_one_large_member(n_threads):
    """Fewer members than threads: all threads are at one of them."""
    rng = np.random.default_rng(0)
    e, x = ensemble(1), rng.standard_normal((30000, 2))
    d = data()._replace(x=x, y=np.sin(x[:, :1]))
    refuse_other_fits(
        fit(e, d, solvers_of(e, "lbfgs"), max_iter=3, n_threads=n_threads), one_by_one("lbfgs", e, d, max_iter=3)
    )


# Epochs


def orders_of(k, n_epochs, n):
    rng = np.random.default_rng(2)
    return np.array([[rng.permutation(n) for _ in range(n_epochs)] for _ in range(k)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_epochs_have_the_bits_of_lone_fits(n_threads, method, kind):
    e, d = ensemble(), data(kind)
    rates = np.linspace(0.01, 0.02, 24).reshape(6, 4)
    for orders in (None, orders_of(6, 4, 200)):
        arguments = e, d, orders, 60, rates, method
        options = {"l2": 1e-3, "max_norm": 0.5, "free": FREE}
        found, expected = train(*arguments, n_threads=n_threads, **options), train_one_by_one(*arguments, **options)
        for name in found._fields:
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_epochs_of_some_members_go_on():
    e, d = ensemble(), data("own")
    orders, rates = orders_of(6, 5, 200), np.full((6, 5), 0.01)
    whole = train(e, d, orders, 60, rates, "adam")
    state = train(e, d, orders[:, :2], 60, rates[:, :2], "adam", n_threads=2)
    odd, even = np.arange(1, 6, 2), np.arange(0, 6, 2)
    for some in (odd, even):
        state = train(e, d, orders[some, 2:], 60, rates[some, 2:], "adam", networks=some, state=state, n_threads=2)
        for name in ("params", "moments", "progress"):
            assert np.array_equal(getattr(state, name)[some], getattr(whole, name)[some]), name
    assert np.array_equal(state.losses, whole.losses[even, 2:])


@pytest.mark.parametrize("n_threads", [1, 2])
def test_epochs_of_a_member_with_nan_end_before_the_step(n_threads):
    e, d = ensemble(), data("own")
    orders, rates = orders_of(6, 3, 200), np.full((6, 3), 0.01)
    expected = train(e, d, orders, 60, rates, "sgd")
    before = train(e, d, orders[:, :1, :120], 60, rates[:, :1], "sgd")
    d.y[3, orders[3, 0, 130]] = np.nan
    found = train(e, d, orders, 60, rates, "sgd", n_threads=n_threads)
    assert list(found.n_done) == [12, 12, 12, 2, 12, 12]
    assert np.array_equal(found.params[3], before.params[3])
    rest = np.arange(6) != 3
    assert np.array_equal(found.params[rest], expected.params[rest])


# What is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"networks": np.array([0, 6])}, "networks"),
        ({"networks": np.array([-1, 0])}, "networks"),
        ({"networks": np.array([1, 1])}, "networks"),
        ({"params": np.zeros((5, 17))}, "params"),
        ({"x": np.zeros((20, 3))}, "x"),
        ({"y": np.zeros((5, 200, 1))}, "y"),
        ({"free": np.arange(16)}, "solver"),
        ({"free": np.arange(17) + 1}, "free"),
        ({"losses": np.zeros((1, 5))}, "losses"),
        ({"n_losses": np.zeros(1, np.intp)}, "n_losses"),
        ({"answers": np.zeros(1, np.intc)}, "answers"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", SOLVERS)
def test_wrong_arrays_of_full_batches(method, changes, words):
    """These are mistakes of the layers above, which must not crash."""
    e, d = ensemble(), data()
    arguments = {
        "solvers": solvers_of(e, method), "networks": np.arange(2), "params": e.params.copy(), "x": d.x, "y": d.y,
        "weights": None, "free": None, "l2": 0.0, "tol": 0.0, "losses": np.zeros((2, 5)),
        "n_losses": np.zeros(2, np.intp), "answers": np.zeros(2, np.intc), "n_threads": 2, **changes,
    }  # fmt: skip
    with pytest.raises(ValueError, match=words):
        e[0]._plan.fit_networks(**arguments)
    assert all(solver.n_evaluations == 0 for solver in arguments["solvers"])


def test_solvers_of_two_kinds_are_refused():
    e = ensemble(2)
    both = [solvers_of(e, "lbfgs")[0], solvers_of(e, "lm")[1]]
    for solvers in (both, both[::-1]):
        with pytest.raises(TypeError, match=r"LBFGS|LevenbergMarquardt"):
            fit(e, data(k=2), solvers)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"networks": np.array([0, 6])}, "networks"),
        ({"params": np.zeros((6, 16))}, "params"),
        ({"orders": np.full((2, 3, 20), 200)}, "orders"),
        ({"orders": np.zeros((1, 3, 20), np.intp)}, "orders"),
        ({"orders": np.zeros((2, 2, 20), np.intp)}, "orders"),
        ({"orders": np.zeros((2, 3, 0), np.intp)}, "orders"),
        ({"batch_size": 0}, "batch_size"),
        ({"rates": np.zeros((1, 3))}, "rates"),
        ({"rates": np.zeros((2, 0))}, "rates"),
        ({"moments": np.zeros((6, 1, 17))}, "moments"),
        ({"moments": np.zeros((6, 2, 16))}, "moments"),
        ({"progress": np.zeros((6, 2))}, "progress"),
        ({"progress": np.zeros((5, 3))}, "progress"),
        ({"losses": np.zeros((2, 3, 3))}, "losses"),
        ({"totals": np.zeros((2, 2, 4))}, "totals"),
        ({"n_done": np.zeros(1, np.intp)}, "n_done"),
        ({"free": np.zeros(16, bool)}, "free"),
    ],
    ids=str,
)
def test_wrong_arrays_of_epochs(changes, words):
    e, d = ensemble(), data()
    arguments = {
        "networks": np.arange(2), "params": e.params.copy(), "x": d.x, "y": d.y, "weights": None,
        "orders": np.zeros((2, 3, 20), np.intp), "batch_size": 6, "rates": np.full((2, 3), 0.1),
        "moments": np.zeros((6, 2, 17)), "progress": np.zeros((6, 3)), "losses": np.zeros((2, 3, 4)),
        "totals": np.zeros((2, 3, 4)), "n_done": np.zeros(2, np.intp), "n_threads": 2, **changes,
    }  # fmt: skip
    before = arguments["params"].copy()
    settings = {"betas": (0.9, 0.99), "epsilon": 1e-8, "corrects_epsilon": True, "weight_decay": 0.0}
    with pytest.raises(ValueError, match=words):
        e[0]._plan.run_epochs_of_networks(
            **arguments, method="adam", **settings, l2=0.0, divides_l2=False, max_norm=None
        )
    assert np.array_equal(arguments["params"], before)


def test_no_members_at_all():
    e, d = ensemble(), data()
    assert fit(e, d, solvers_of(e, "lbfgs"), networks=[]).answers == []
    assert train(e, d, None, 5, np.zeros((0, 2)), "adam", networks=[]).n_done.size == 0


def test_solvers_stay_their_own():
    """A solver that a call has used goes on alone, by ask and tell."""
    e, d = ensemble(1), data(k=1)
    for method in SOLVERS:
        solvers = fit(e, d, solvers_of(e, method), max_iter=5, tol=0).solvers
        again = copy.copy(solvers[0])
        assert again.n_iter == 5
        more = fit(e, d, solvers, max_iter=3, tol=0, params=e.params.copy())
        lone = one_by_one(method, e, d, max_iter=3, tol=0, solver=again)
        refuse_other_fits(more, lone)
