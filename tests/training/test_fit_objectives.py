"""`Network.fit` of objectives and of blocks: the bits of a fit on arrays, if they have the same samples."""

import itertools

import numpy as np
import pytest
from epochs import by_numpy, start

import backprop

RNG = np.random.default_rng(4)
N = 500
X = RNG.normal(size=(N, 3))
Y = np.stack([np.sin(X.sum(1)), X[:, 0] * X[:, 1]], axis=1)
WEIGHTS = {"plain": None, "weights": RNG.random(N), "missing": (RNG.random(Y.shape) < 0.7).astype(float)}
ENDS = (0, 90, 230, 231, 500)


def network(dtype="float64", rng=3, sizes=(3, 6, 2)):
    return backprop.Network(sizes, activations="tanh", dtype=dtype, rng=rng)


def free_mask(net):
    mask = np.ones(net.n_params, bool)
    mask[2:9] = False
    return mask


def in_blocks(weight, ends=ENDS):
    """The samples in blocks of different lengths."""
    rows = [slice(a, b) for a, b in itertools.pairwise(ends)]
    return [(X[r], Y[r]) if weight is None else (X[r], Y[r], weight[r]) for r in rows]


def refuse_other_fit(found, expected):
    (net, a), (other, b) = found, expected
    np.testing.assert_array_equal(net.params, other.params)
    np.testing.assert_array_equal(a.jac, b.jac)
    for name in ("loss", "n_iter", "nfev", "success", "message", "history", "best_iteration"):
        assert a[name] == b[name], name


@pytest.mark.parametrize("of_some", [False, True], ids=["all", "free"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("samples", WEIGHTS)
@pytest.mark.parametrize("solver", ["lbfgs", "lm"])
def test_blocks_give_the_bits_of_arrays(solver, samples, dtype, of_some):
    weight, fits = WEIGHTS[samples], []
    for data in ((X, Y), (in_blocks(weight),)):
        net = network(dtype)
        options = {"free": free_mask(net), "l2": 1e-2} if of_some else {}
        if len(data) == 2:
            options["sample_weight"] = weight
        fits.append((net, net.fit(*data, solver=solver, max_iter=12, **options)))
    refuse_other_fit(*fits)


@pytest.mark.parametrize("solver", ["lbfgs", "lm"])
def test_blocks_give_the_bits_of_arrays_of_many_units(solver):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40_000, 2))
    y, weight = np.sin(x[:, 0]), rng.random(40_000)
    weight[::7] = 0
    ends = [0, 10_000, 10_001, 33_000, 40_000]
    blocks = [(x[a:b], y[a:b], weight[a:b]) for a, b in itertools.pairwise(ends)]
    whole, streamed = network(sizes=(2, 3, 1)), network(sizes=(2, 3, 1))
    result = whole.fit(x, y, sample_weight=weight, solver=solver, max_iter=4)
    refuse_other_fit((streamed, streamed.fit(blocks, solver=solver, max_iter=4)), (whole, result))


@pytest.mark.parametrize("first", ["arrays", "blocks"])
@pytest.mark.parametrize("solver", ["lbfgs", "lm"])
def test_a_fit_of_arrays_may_go_on_with_blocks(solver, first):
    net, whole = network(), network()
    expected = whole.fit(X, Y, solver=solver, max_iter=12)
    data = {"arrays": (X, Y), "blocks": (in_blocks(None),)}
    second = "blocks" if first == "arrays" else "arrays"
    state = net.fit(*data[first], solver=solver, max_iter=5).state
    refuse_other_fit((net, net.fit(*data[second], solver=solver, max_iter=7, state=state)), (whole, expected))


@pytest.mark.parametrize("samples", WEIGHTS)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_epochs_of_blocks_shuffle_within_a_block(solver, samples):
    weight, net, rng = WEIGHTS[samples], network(), np.random.default_rng(5)
    options = {"batch_size": 32, "l2": 1e-2, "max_norm": 0.5, "learning_rate": 0.01}
    result = net.fit(in_blocks(weight), solver=solver, max_iter=3, rng=np.random.default_rng(5), **options)
    at, n_batches, means = start(network(), solver), 0, []
    for _ in range(3):
        of_epoch = []
        for x, y, *w in in_blocks(weight):
            orders = rng.permutation(len(x))[None]
            how = {"weight": w[0] if w else None, "l2": 1e-2, "max_norm": 0.5, "state": at}
            at = by_numpy(network(), x, y, orders, 32, [0.01], solver, **how)
            of_epoch.append((at.losses[0], at.totals[0]))
            n_batches += at.losses.size
        losses, totals = (np.concatenate(parts) for parts in zip(*of_epoch, strict=True))
        means.append((losses * totals).sum() / totals.sum())
    np.testing.assert_array_equal(net.params, at.params)
    np.testing.assert_allclose(result.history["loss"], means, rtol=1e-12)
    assert (result.nfev, result.n_iter) == (n_batches, 3)
    assert result.loss == net.objective(in_blocks(weight), l2=1e-2).value(net.params)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_one_block_has_the_bits_of_arrays(solver):
    fits = []
    for data in ((X, Y), ([(X, Y)],)):
        net = network()
        fits.append((net, net.fit(*data, solver=solver, max_iter=4, rng=1, x_val=X[:50], y_val=Y[:50], patience=2)))
    refuse_other_fit(*fits)


@pytest.mark.parametrize("solver", ["lbfgs", "lm", "adam", "sgd"])
def test_a_fit_of_blocks_goes_on(solver):
    rng = {} if solver in ("lbfgs", "lm") else {"rng": 2}
    whole, net = network(), network()
    expected = whole.fit(in_blocks(None), solver=solver, max_iter=6, **rng)
    state = net.fit(in_blocks(None), solver=solver, max_iter=2, **rng).state
    refuse_other_fit((net, net.fit(in_blocks(None), solver=solver, max_iter=4, state=state)), (whole, expected))


class FailingError(Exception):
    pass


@pytest.mark.parametrize("solver", ["lbfgs", "lm", "adam", "sgd"])
def test_blocks_that_fail_leave_the_last_parameters(solver):
    passes = []

    def blocks():
        passes.append(1)
        yield X[:200], Y[:200]
        if len(passes) == 16:
            raise FailingError
        yield X[200:], Y[200:]

    net, seen, rng = network(), [], {} if solver in ("lbfgs", "lm") else {"rng": 2, "batch_size": 200}
    before = net.params.copy()
    with pytest.raises(FailingError):
        net.fit(blocks, solver=solver, max_iter=50, callback=lambda info: seen.append(info.params), **rng)
    if solver in ("lbfgs", "lm"):
        np.testing.assert_array_equal(net.params, seen[-1])
    else:  # the last step is that of the first block
        assert not np.array_equal(net.params, seen[-1])
    assert not np.array_equal(net.params, before)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_block_that_is_not_finite_is_named_by_its_batch(solver):
    y = Y.copy()
    y[450] = np.nan
    blocks = [(X[:100], Y[:100]), (X[100:], y[100:])]
    net = network()
    result = net.fit(blocks, solver=solver, batch_size=50, shuffle=False, max_iter=5)
    assert not result.success
    assert "not finite in batch 10 of epoch 1;" in result.message
    assert result.nfev == 10
    assert np.isfinite(net.params).all()


# Objectives -----------------------------------------------------------------------------------------------------------


def test_an_objective_of_arrays_gives_the_bits_of_arrays():
    net, other = network(), network()
    options = {"sample_weight": WEIGHTS["weights"], "l2": 1e-2, "free": free_mask(net)}
    result = net.fit(net.objective(X, Y, **options), max_iter=15)
    refuse_other_fit((net, result), (other, other.fit(X, Y, max_iter=15, **options)))


def objectives(net, **options):
    plain = net.objective(X, Y, l2=1e-3, **options)
    return {
        "sum": plain + 0.1 * net.objective(X[:60] + 1, Y[:60], **options),
        "scaled": 3 * plain,
        "blocks": plain + net.objective(in_blocks(None), **options),
        "sobolev": net.sobolev_objective(X, Y, np.zeros((N, 2, 3)), 0.1, l2=1e-3, **options) + plain,
    }


@pytest.mark.parametrize("of_some", [False, True], ids=["all", "free"])
@pytest.mark.parametrize("kind", ["sum", "scaled", "blocks", "sobolev"])
def test_sums_of_objectives_are_fitted(kind, of_some):
    net = network()
    options = {"free": free_mask(net)} if of_some else {}
    fun = objectives(net, **options)[kind]
    before, losses = net.params.copy(), []
    of_start = fun.value(before[options["free"]] if of_some else before)
    result = net.fit(fun, max_iter=20, callback=lambda info: losses.append(info.loss))
    theta = net.params[options["free"]] if of_some else net.params
    assert result.history["loss"] == losses
    assert result.loss == fun.value(theta) == losses[-1] < 0.9 * of_start
    np.testing.assert_array_equal(result.jac, fun.grad(theta))
    np.testing.assert_array_equal(result.x, theta)
    if of_some:
        np.testing.assert_array_equal(net.params[~options["free"]], before[~options["free"]])
    # In two goes, from another start that is of no use.
    net.params = before
    state = net.fit(fun, max_iter=8).state
    other = net.fit(fun, max_iter=12, state=state)
    np.testing.assert_array_equal(other.x, result.x)
    assert other.history == result.history


def test_a_sum_reaches_the_minimum_of_scipy():
    from scipy.optimize import minimize

    net = network()
    fun = objectives(net)["sum"] + net.objective(X, Y, l2=0.1)
    result = net.fit(fun, max_iter=3000, tol=1e-8)
    assert result.success
    best = minimize(fun, result.x, jac=True, method="BFGS", options={"gtol": 1e-9})
    assert result.loss <= best.fun * (1 + 1e-10)


class Interruption(BaseException):
    pass


def test_an_evaluation_that_is_broken_off_leaves_the_last_parameters():
    calls = []

    def blocks():
        calls.append(1)
        if len(calls) == 9:
            raise Interruption
        yield X, Y

    net, seen = network(), []
    fun = net.objective(X, Y) + net.objective(blocks)
    with pytest.raises(Interruption):
        net.fit(fun, callback=lambda info: seen.append(info.params))
    np.testing.assert_array_equal(net.params, seen[-1])


REFUSED = [
    ({"y": Y}, ValueError, "y: expected none beside an objective"),
    ({"l2": 0.1}, ValueError, "l2: expected none beside an objective, which has its own"),
    ({"sample_weight": np.ones(N)}, ValueError, "sample_weight: expected none beside an objective"),
    ({"free": np.ones(38, bool)}, ValueError, "free: expected none beside an objective"),
    ({"n_threads": 2}, ValueError, "n_threads: expected none beside an objective"),
    (
        {"solver": "lm"},
        ValueError,
        r"expected 'lbfgs' for an objective, got 'lm', .* net.fit\(x, y, solver='lm'\)",
    ),
    ({"solver": "adam"}, ValueError, "solver: expected 'lbfgs' for an objective, got 'adam'"),
]


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED)
def test_what_an_objective_has_itself_is_refused(options, kind, message):
    net = network()
    with pytest.raises(kind, match=message):
        net.fit(net.objective(X, Y), **options)


def test_an_objective_of_another_network_is_refused():
    net, other = network(), network()
    with pytest.raises(ValueError, match="x: expected an objective of this network, got one of another"):
        net.fit(other.objective(X, Y))


def test_weights_beside_blocks_are_refused():
    with pytest.raises(TypeError, match="sample_weight: expected none beside blocks"):
        network().fit(in_blocks(None), sample_weight=np.ones(N))
    with pytest.raises(TypeError, match="expected an iterable that can be read again"):
        network().fit((block for block in in_blocks(None)), solver="adam")
