"""`Network.fit` on arrays: the bits of plain loops in Python, whatever looks on, in one go or resumed."""

import copy
import pickle

import numpy as np
import pytest
from epochs import by_numpy

import backprop
from backprop import _core

RNG = np.random.default_rng(17)
X = RNG.normal(size=(90, 3))
Y = np.stack([np.sin(X.sum(1)), X[:, 0] * X[:, 1]], axis=1)
SOLVERS = ("lbfgs", "lm", "adam", "sgd")
SAMPLES = {
    "plain": None,
    "weights": RNG.random(90),
    "missing": (RNG.random(Y.shape) < 0.7).astype(float),
}


def network(dtype="float64", rng=3):
    return backprop.Network([3, 6, 2], activations="tanh", dtype=dtype, rng=rng)


def options_of(solver, **options):
    """Options of a short fit; adam and sgd draw their orders anew."""
    return {"solver": solver, "max_iter": 12, **({"rng": 5} if solver in ("adam", "sgd") else {}), **options}


def targets(weight):
    """The targets: missing ones are NaN, with weight 0."""
    return Y if weight is None or weight.ndim == 1 else np.where(weight > 0, Y, np.nan)


def fitted(solver, net=None, weight=None, **options):
    """A network and the result of its fit."""
    net = network() if net is None else net
    return net, net.fit(X, targets(weight), sample_weight=weight, **options_of(solver, **options))


def refuse_other_fit(found, expected):
    """Assert that the results of two fits are the same."""
    (net, a), (other, b) = found, expected
    np.testing.assert_array_equal(net.params, other.params)
    for name in ("x", "jac"):
        np.testing.assert_array_equal(a[name], b[name])
    for name in ("loss", "fun", "n_iter", "nit", "nfev", "success", "message", "history", "best_iteration"):
        assert a[name] == b[name], name
    np.testing.assert_array_equal(a.state.params, b.state.params)


def free_mask(net):
    mask = np.ones(net.n_params, bool)
    mask[2:9] = False
    return mask


# Beside plain loops in Python -----------------------------------------------------------------------------------------


def by_ask_and_tell(net, fun, max_iter, tol):
    """L-BFGS around an objective."""
    solver = _core.LBFGS(fun._full_params(net.params)[free_mask(net)] if fun.n_free < net.n_params else net.params)
    losses = []
    while len(losses) < max_iter and not solver.has_converged(tol):
        answer = "evaluate"
        while answer == "evaluate":
            answer = solver.tell(*fun(solver.ask()))
        losses += [solver.loss] if solver.n_iter > len(losses) else []
    return solver, losses


@pytest.mark.parametrize("samples", SAMPLES)
def test_lbfgs_is_a_loop_around_the_objective(samples):
    weight = SAMPLES[samples]
    net, result = fitted("lbfgs", weight=weight, l2=1e-3)
    other = network()
    fun = other.objective(X, targets(weight), sample_weight=weight, l2=1e-3)
    solver, losses = by_ask_and_tell(other, fun, 12, 1e-6)
    np.testing.assert_array_equal(net.params, solver.theta)
    assert result.history == {"loss": losses, "val_loss": []}
    assert result.loss == fun.value(net.params)
    assert (result.n_iter, result.nfev) == (12, solver.n_evaluations)
    np.testing.assert_array_equal(result.jac, fun.grad(net.params))


@pytest.mark.parametrize("solver", ["lbfgs", "lm"])
def test_full_batch_solvers_converge_to_the_minimum_of_scipy(solver):
    from scipy.optimize import minimize

    net, result = fitted(solver, l2=1e-2, max_iter=2000, tol=1e-9)
    other = network()
    fun = other.objective(X, Y, l2=1e-2)
    best = minimize(fun, net.params, jac=True, method="BFGS", options={"gtol": 1e-9})
    assert result.success
    assert np.abs(result.jac).max() <= 1e-6
    assert result.loss <= best.fun * (1 + 1e-10)


STEPS = {
    "adam": ("adam", {"learning_rate": 3e-3}, "adam", 3e-3),
    "adamw": ("adam", {"betas": (0.8, 0.95), "epsilon": 1e-3, "weight_decay": 0.1}, "adamw", 1e-3),
    "sgd": ("sgd", {"learning_rate": 0.05}, "sgd", 0.05),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("steps", STEPS)
def test_epochs_are_a_loop_around_value_and_grad(steps, samples, dtype):
    solver, options, method, rate = STEPS[steps]
    weight, net = SAMPLES[samples], network(dtype)
    more = {"l2": 1e-2, "max_norm": 0.5, "free": free_mask(net)}
    _, result = fitted(solver, net, weight, batch_size=32, max_iter=5, **options, **more)
    generator = np.random.default_rng(5)
    orders = np.array([generator.permutation(len(X)) for _ in range(5)])
    expected = by_numpy(network(dtype), X, targets(weight), orders, 32, np.full(5, rate), method, weight=weight, **more)
    np.testing.assert_array_equal(net.params, expected.params)
    np.testing.assert_array_equal(result.state.core.moments, expected.moments)
    means = (expected.losses * expected.totals).sum(1) / expected.totals.sum(1)
    np.testing.assert_allclose(result.history["loss"], means, rtol=1e-12)
    fun = net.objective(X, targets(weight), sample_weight=weight, l2=1e-2, free=more["free"])
    assert (result.loss, result.fun) == (fun.value(net.params[more["free"]]),) * 2
    assert (result.n_iter, result.nfev, result.success) == (5, 15, True)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_learning_rate_may_be_a_function_of_the_epoch(solver):
    seen = []

    def rate(epoch):
        seen.append(epoch)
        return 0.01 / (1 + epoch)

    net, _ = fitted(solver, learning_rate=rate, max_iter=4)
    generator = np.random.default_rng(5)
    orders = np.array([generator.permutation(len(X)) for _ in range(4)])
    expected = by_numpy(network(), X, Y, orders, 200, 0.01 / (1 + np.arange(4)), solver)
    np.testing.assert_array_equal(net.params, expected.params)
    assert seen == [0, 1, 2, 3]
    _, first = fitted(solver, learning_rate=rate, max_iter=1)
    other, _ = fitted(solver, learning_rate=rate, max_iter=3, state=first.state)
    np.testing.assert_array_equal(other.params, net.params)
    assert seen[4:] == [0, 1, 2, 3]


def test_without_shuffle_batches_are_rows_as_they_lie():
    net, _ = fitted("sgd", shuffle=False, batch_size=40, max_iter=3)
    expected = by_numpy(network(), X, Y, None, 40, np.full(3, 1e-2), "sgd")
    np.testing.assert_array_equal(net.params, expected.params)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_given_generator_goes_on(solver):
    generator = np.random.default_rng(5)
    found = fitted(solver, rng=generator)
    refuse_other_fit(found, fitted(solver))
    expected = np.random.default_rng(5)
    for _ in range(12):
        expected.permutation(len(X))
    assert generator.bit_generator.state == expected.bit_generator.state
    generator.random()
    assert found[1].state.core.rng.bit_generator.state == expected.bit_generator.state


@pytest.mark.parametrize("solver", SOLVERS)
def test_only_free_parameters_move(solver):
    net = network()
    mask, before = free_mask(net), net.params.copy()
    _, result = fitted(solver, net, free=mask)
    np.testing.assert_array_equal(net.params[~mask], before[~mask])
    assert (net.params[mask] != before[mask]).all()
    np.testing.assert_array_equal(result.x, net.params[mask])
    assert result.jac.shape == result.x.shape


# Whatever divides the work --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_threads_do_not_change_a_bit(solver, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2500, 3))
    y = np.sin(x[:, :2])
    results = []
    for n_threads in (1, 2, 8):
        net = network(dtype)
        how = options_of(solver, max_iter=4, n_threads=n_threads)
        results.append((net, net.fit(x, y, **how, **({"batch_size": 1200} if "rng" in how else {}))))
    for found in results[1:]:
        refuse_other_fit(found, results[0])


@pytest.mark.parametrize("free", [None, free_mask(network())], ids=["all", "free"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_resumed_fit_is_the_whole_fit(solver, dtype, free):
    whole = fitted(solver, network(dtype), max_iter=12, free=free)
    net = network(dtype)
    _, first = fitted(solver, net, max_iter=5, free=free)
    for state in (first.state, pickle.loads(pickle.dumps(first.state)), copy.copy(first.state)):
        other = network(dtype, rng=8)  # its parameters are of no use
        options = {} if solver in ("lbfgs", "lm") else {"rng": None}
        refuse_other_fit(fitted(solver, other, max_iter=7, free=free, state=state, **options), whole)
    assert first.n_iter == len(first.history["loss"]) == 5


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_iterations(solver):
    net = network()
    before = net.params.copy()
    _, result = fitted(solver, net, max_iter=0)
    np.testing.assert_array_equal(net.params, before)
    assert (result.n_iter, result.history, result.best_iteration) == (0, {"loss": [], "val_loss": []}, 0)
    assert result.loss == net.loss(X, Y)
    refuse_other_fit(fitted(solver, state=result.state), fitted(solver))


def test_the_result_is_one_of_scipy():
    from scipy.optimize import OptimizeResult

    _, result = fitted("lbfgs")
    assert isinstance(result, OptimizeResult)
    assert result.x.dtype == result.jac.dtype == np.float64
    assert (result.nit, result.success) == (12, False)
    assert "max_iter" in result.message
    assert repr(result.state) == "<State of lbfgs after 12 iterations>"


def test_a_converged_fit_says_so():
    _, result = fitted("lm", l2=0.1, max_iter=500, tol=1e-5)
    assert result.success
    assert result.message.startswith("converged")
    assert np.abs(result.jac).max() <= 1.01e-5
    _, more = fitted("lm", l2=0.1, max_iter=500, tol=1e-5, state=result.state)
    assert more.n_iter == result.n_iter


# What is refused ------------------------------------------------------------------------------------------------------

UNUSED = [
    ("lbfgs", {"batch_size": 10}, r"batch_size: .* 'lbfgs', which does not use it, .* solvers 'adam' and 'sgd'"),
    ("lm", {"shuffle": False}, "shuffle: .* 'lm'"),
    ("lbfgs", {"learning_rate": 0.1}, "learning_rate: .* 'lbfgs'"),
    ("lbfgs", {"rng": 1}, "rng: .* 'lbfgs'"),
    ("lm", {"max_norm": 1.0}, "max_norm: .* 'lm'"),
    ("adam", {"momentum": 0.9}, "momentum: .* 'adam', .* for the solver 'sgd'"),
    ("sgd", {"betas": (0.9, 0.9)}, "betas: .* 'sgd', .* for the solver 'adam'"),
    ("sgd", {"epsilon": 1e-7}, "epsilon: .* 'sgd'"),
    ("sgd", {"weight_decay": 0.1}, "weight_decay: .* 'sgd'"),
    ("adam", {"tol": 1e-3}, "tol: .* without patience"),
    ("adam", {"comm": object()}, "comm: .* 'adam', .* solvers 'lbfgs' and 'lm'"),
]
WRONG = [
    ({"solver": "newton"}, ValueError, "solver: expected one of 'lbfgs', 'lm', 'adam' and 'sgd', got 'newton'"),
    ({"solver": 3}, TypeError, "solver: expected one of"),
    ({"max_iter": -1}, ValueError, "max_iter: expected an integer >= 0, got -1"),
    ({"max_iter": 2.5}, ValueError, "max_iter: expected an integer >= 0"),
    ({"tol": -1.0}, ValueError, "tol: expected a finite number >= 0"),
    ({"l2": -1.0}, ValueError, "l2: expected a finite number >= 0"),
    ({"free": np.zeros(32, bool)}, ValueError, "free: expected"),
    ({"every": 0}, ValueError, "every: expected a positive integer"),
    ({"patience": 0}, ValueError, "patience: expected a positive integer"),
    ({"callback": 3}, TypeError, "callback: expected a function"),
    ({"progress": 1}, TypeError, "progress: expected True or False"),
    ({"n_threads": 0}, ValueError, "n_threads"),
    ({"solver": "adam", "learning_rate": 0.0}, ValueError, "learning_rate: expected a number > 0"),
    ({"solver": "adam", "learning_rate": np.inf}, ValueError, "learning_rate: expected a finite number > 0"),
    ({"solver": "adam", "learning_rate": lambda epoch: -1.0}, ValueError, r"learning_rate\(0\): expected a finite"),
    ({"solver": "adam", "betas": (0.9, 1.0)}, ValueError, r"betas\[1\]: expected a number >= 0 and < 1, got 1"),
    ({"solver": "adam", "betas": 0.9}, TypeError, "betas: expected two numbers"),
    ({"solver": "adam", "epsilon": 0.0}, ValueError, "epsilon: expected a number > 0"),
    ({"solver": "adam", "weight_decay": -1}, ValueError, "weight_decay: expected a finite number >= 0"),
    ({"solver": "adam", "batch_size": 0}, ValueError, "batch_size: expected a positive integer"),
    ({"solver": "adam", "max_norm": 0}, ValueError, "max_norm: expected a number > 0"),
    ({"solver": "adam", "rng": "x"}, TypeError, "rng: expected an int"),
    ({"solver": "adam", "shuffle": 1}, TypeError, "shuffle: expected True or False"),
    ({"solver": "sgd", "momentum": 1.5}, ValueError, "momentum: expected a number >= 0 and < 1"),
    ({"state": 3}, TypeError, "state: expected the state of a result"),
    ({"y_val": Y}, ValueError, "y_val: expected x_val beside it"),
    ({"x_val": X}, ValueError, "y_val: expected targets beside x_val"),
    ({"x_val": X, "y_val": Y[:5]}, ValueError, "y_val: expected 90 rows"),
    ({"x_val": X[:, :2], "y_val": Y}, ValueError, "x_val: expected 3 columns"),
    ({"x_val": X, "y_val": Y, "sample_weight_val": np.zeros(90)}, ValueError, "sample_weight_val: expected at least"),
]


@pytest.mark.parametrize(("solver", "options", "message"), UNUSED, ids=[f"{s}-{next(iter(o))}" for s, o, _ in UNUSED])
def test_arguments_of_another_solver_are_refused(solver, options, message):
    net = network()
    before = net.params.copy()
    with pytest.raises(ValueError, match=message):
        net.fit(X, Y, solver=solver, **options)
    np.testing.assert_array_equal(net.params, before)


@pytest.mark.parametrize(("options", "kind", "message"), WRONG)
def test_wrong_arguments_are_refused(options, kind, message):
    net = network()
    before = net.params.copy()
    with pytest.raises(kind, match=message):
        net.fit(X, Y, **options)
    np.testing.assert_array_equal(net.params, before)


def test_lm_needs_squared_errors():
    net = backprop.Network([3, 4, 2], loss="absolute_error", rng=0)
    with pytest.raises(ValueError, match="fit with solver='lm': expected a network with the loss 'squared_error'"):
        net.fit(X, Y, solver="lm")


def test_states_of_other_fits_are_refused():
    _, result = fitted("lbfgs")
    with pytest.raises(ValueError, match="state: expected one of the solver 'adam', got one of 'lbfgs'"):
        fitted("adam", state=result.state)
    with pytest.raises(ValueError, match="state: expected one with the same free"):
        fitted("lbfgs", state=result.state, free=free_mask(network()))
    with pytest.raises(ValueError, match="state: expected one of 32 parameters of float32, got 38 of float64"):
        backprop.Network([3, 5, 2], dtype="float32", rng=0).fit(X, Y, state=result.state)


# Other losses ---------------------------------------------------------------------------------------------------------

CLASSES = RNG.integers(0, 4, len(X))
LOSSES = {
    "cross_entropy": (4, CLASSES),
    "poisson": (2, RNG.poisson(2.0, Y.shape)),
    "binary_cross_entropy": (2, RNG.random(Y.shape) > 0.5),
    "hinge": (1, np.where(X[:, 0] > 0, 1, -1)),
}


@pytest.mark.parametrize("solver", ["lbfgs", "adam", "sgd"])
@pytest.mark.parametrize("loss", LOSSES)
def test_all_losses_are_fitted(loss, solver):
    """A block of a list goes another way than arrays, with the same bits."""
    n_out, y = LOSSES[loss]
    found = []
    for data in ((X, y), ([(X, y)],)):
        net = backprop.Network([3, 6, n_out], activations="silu", loss=loss, rng=0)
        before = net.loss(X, y)
        found.append((net, net.fit(*data, **options_of(solver))))
        assert found[-1][1].loss == net.loss(X, y) < before
    refuse_other_fit(*found)
