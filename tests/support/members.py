"""Fits of many networks of one shape by the compiled core, and the same one network after another."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from epochs import METHODS, by_core, start
from solvers import SOLVERS, run

import backprop
from backprop import _core

Array = npt.NDArray[Any]


class Data(NamedTuple):
    """Samples of k networks: shared, or own with one dimension more."""

    x: Array
    y: Array
    weight: Array | None = None

    def of(self, m, k):
        """Those of network m."""

        def one(array, n_axes):
            return array[m] if array.ndim > n_axes and len(array) == k else array

        return one(self.x, 2), one(self.y, 2), None if self.weight is None else one(self.weight, 1)


def ensemble(k=6, dtype="float64", **options):
    """k networks 2-4-1."""
    net = backprop.Network([2, 4, 1], dtype=dtype, **{"activations": "tanh", **options})
    return backprop.Ensemble(net, k, rng=3)


def data(kind="shared", k=6, n=200, dtype="float64"):
    """Samples for them: "shared", "own", "own y", "weights" or "own weights"; enough for two threads or three."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((k, n, 2)).astype(dtype)
    y = np.sin(x[:, :, :1]) * x[:, :, 1:] + 0.1 * np.arange(k, dtype=dtype)[:, None, None]
    weight = rng.random((k, n))
    weight[:, ::5] = 0
    return {
        "shared": Data(x[0], y[0]),
        "own": Data(x, y),
        "own y": Data(x[0], y),
        "weights": Data(x, y, weight[0]),
        "own weights": Data(x[0], y[0], weight),
    }[kind]


def accepted(e, d):
    """x, y and weights as the compiled calls take them."""
    x = e._samples(d.x, of_mean=True)
    weights = e._weights(d.weight, x.shape[-2])
    return x, e._targets(d.y, x.shape[-2], weights), weights


def solvers_of(e, method, free=None):
    """New solvers at the parameters of the members."""
    dtype = e[0].dtype if method == "lbfgs" else np.float64
    return [SOLVERS[method](np.array(row if free is None else row[free], dtype)) for row in e.params]


class Fits(NamedTuple):
    """What a call leaves."""

    solvers: list[Any]
    params: Array
    answers: list[str]
    losses: list[Array]


def fit(e, d, solvers, *, networks=None, params=None, l2=0.0, free=None, tol=1e-3, max_iter=100, n_threads=1):
    """Iterations of the members with these numbers."""
    x, y, weights = accepted(e, d)
    params = e.params.copy() if params is None else params
    which = np.arange(len(e)) if networks is None else np.asarray(networks, np.intp)
    losses, n_losses = np.full((len(which), max_iter), np.nan), np.zeros(len(which), np.intp)
    answers = np.zeros(len(which), np.intc)
    numbers = None if free is None else np.flatnonzero(free)
    e[0]._plan.fit_networks(
        solvers, which, params, x, y, weights, numbers, l2, tol, losses, n_losses, answers, n_threads
    )
    names = [_core.ANSWERS[a] for a in answers]
    return Fits(solvers, params, names, [row[:n].copy() for row, n in zip(losses, n_losses, strict=True)])


def one_by_one(method, e, d, *, free=None, **options):
    """The same by calls for one network each."""
    runs = []
    for m, net in enumerate(e):
        x, y, weight = d.of(m, len(e))
        settings = {"tol": 1e-3, "max_iter": 100, **options}
        runs.append(run(method, net, x, y, sample_weight=weight, free=free, **settings))
    return Fits(
        [r.solver for r in runs], np.array([r.params for r in runs]), [r.answer for r in runs],
        [r.losses for r in runs],
    )  # fmt: skip


def refuse_other_fits(found, expected):
    """Assert that two fits of all members have the same bits."""
    assert found.answers == expected.answers
    np.testing.assert_array_equal(found.params, expected.params)
    for a, b in zip(found.losses, expected.losses, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(found.solvers, expected.solvers, strict=True):
        np.testing.assert_array_equal(a.theta, b.theta)
        np.testing.assert_array_equal(a.gradient, b.gradient)
        assert (a.n_iter, a.n_evaluations, a.loss) == (b.n_iter, b.n_evaluations, b.loss)


class Trained(NamedTuple):
    """What epochs of all members leave."""

    params: Array
    moments: Array
    progress: Array
    losses: Array
    totals: Array
    n_done: Array


def train(
    e, d, orders, batch_size, rates, method, *, networks=None, state=None, free=None, n_threads=1, **options
):  # fmt: skip
    """Epochs of the members with these numbers; orders (k, n_epochs, n) or None, rates (k, n_epochs)."""
    x, y, weights = accepted(e, d)
    if state is None:
        first = start(e[0], method)
        state = Trained(
            e.params.copy(), np.repeat(first.moments[None], len(e), axis=0), np.repeat(first.progress[None], len(e), 0),
            *[np.zeros(0)] * 3,
        )  # fmt: skip
    which = np.arange(len(e)) if networks is None else np.asarray(networks, np.intp)
    orders, rates = None if orders is None else np.ascontiguousarray(orders), np.ascontiguousarray(rates)
    shape = (*rates.shape, -(-(x.shape[-2] if orders is None else orders.shape[2]) // batch_size))
    new = Trained(
        *(array.copy() for array in state[:3]), np.full(shape, np.nan), np.full(shape, np.nan),
        np.zeros(len(which), np.intp),
    )  # fmt: skip
    e[0]._plan.run_epochs_of_networks(
        which, new.params, x, y, weights, orders, batch_size, rates, new.moments, new.progress, new.losses, new.totals,
        new.n_done, n_threads, free=free, **{**METHODS[method], **options},
    )  # fmt: skip
    return new


def train_one_by_one(e, d, orders, batch_size, rates, method, **options):
    """The same by calls for one network each, on copies."""
    runs = []
    for m, net in enumerate(e):
        x, y, weight = d.of(m, len(e))
        copy = net.__copy__()
        order = None if orders is None else orders[m]
        runs.append(by_core(copy, x, y, order, batch_size, rates[m], method, weight=weight, **options))
    return Trained(*(np.array([getattr(r, name) for r in runs]) for name in Trained._fields))
