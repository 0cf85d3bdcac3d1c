"""How epochs end before their end, and what they refuse: the parameters are those after the last whole step."""

import signal
import threading
import time

import numpy as np
import pytest
from epochs import by_core, by_numpy, refuse_other_bits, start
from systems import needs_signals

import backprop
from backprop import Network


def problem(n=50, dtype="float64"):
    rng = np.random.default_rng(0)
    net = Network([2, 6, 1], activations="tanh", dtype=dtype, rng=0)
    x = rng.standard_normal((n, 2)).astype(dtype)
    return net, x, x[:, :1] * x[:, 1:], rng.permutation(n)[None]


@pytest.mark.parametrize("method", ["adam", "sgd"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_it_before_the_step(method, bad):
    net, x, y, orders = problem()
    good = by_numpy(net, x, y, orders[:, :30], 10, [0.01], method)
    y[orders[0, 35]] = bad
    found = by_core(net, x, y, orders, 10, [0.01], method)
    assert found.n_done == 3
    for name in ("params", "moments", "progress"):
        assert np.array_equal(getattr(found, name), getattr(good, name)), name
    assert np.array_equal(found.losses[0, :3], good.losses[0])
    assert not np.isfinite(found.losses[0, 3])


class Interruption(BaseException):
    pass


@needs_signals
@pytest.mark.parametrize("method", ["adam", "sgd"])
@pytest.mark.parametrize(("batch_size", "n"), [(1, 50), (50, 50), (20000, 20000)])
def test_a_handler_that_raises_leaves_the_last_whole_step(method, batch_size, n):
    """The state says how many steps were made; a loop of so many steps has the same parameters."""
    net, x, y, _ = problem(n)
    orders = np.tile(np.random.default_rng(1).permutation(n), (2_000_000 // n, 1))
    rates = np.full(len(orders), 1e-4)
    begin = start(net, method)
    y_, x_, _, _ = net._inputs(x, y, None, None)
    losses = np.zeros((len(orders), -(-n // batch_size)))
    arrays = orders, batch_size, rates, begin.moments, begin.progress, losses, np.zeros_like(losses)

    def raise_it(*_):
        raise Interruption

    before = signal.signal(signal.SIGUSR1, raise_it)
    own = threading.get_ident()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(own, signal.SIGUSR1))

    def run():
        while True:
            net._plan.run_epochs(net._memory, x_, y_, None, *arrays, 2, method=method)

    try:
        timer.start()
        begun = time.monotonic()
        with pytest.raises(Interruption):
            run()
        assert time.monotonic() - begun < 10
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    steps = int(begin.progress[0])
    assert steps > 0
    other = problem(n)[0]
    per_epoch = losses.shape[1]
    part = np.resize(orders[0], (max(1, steps // per_epoch), n))
    whole = by_core(other, x, y, part, batch_size, np.full(len(part), 1e-4), method) if steps >= per_epoch else None
    rest = steps % per_epoch * batch_size
    if rest:
        whole = by_core(other, x, y, orders[:1, :rest], batch_size, [1e-4], method, state=whole)
    assert whole.progress[0] == steps
    assert np.array_equal(net.params, whole.params)
    assert np.array_equal(begin.moments, whole.moments)


def test_an_activation_that_raises():
    calls = []

    def g(a):
        calls.append(len(a))
        if len(calls) > 7:
            raise Interruption
        return np.square(a)

    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 2))
    plain = Network([2, 4, 1], activations=backprop.Activation("square", np.square, lambda a: 2 * a), rng=0)
    net = Network([2, 4, 1], activations=backprop.Activation("square", g, lambda a: 2 * a), rng=0)
    calls.clear()
    begin = start(net, "adam")
    y_, x_, _, _ = net._inputs(x, x[:, :1], None, None)
    arrays = np.arange(50)[None], 5, np.array([0.01]), begin.moments, begin.progress, *np.zeros((2, 1, 10))
    with pytest.raises(Interruption):
        net._plan.run_epochs(net._memory, x_, y_, None, *arrays, 1, method="adam")
    steps = int(begin.progress[0])
    assert 0 < steps < 10
    expected = by_numpy(plain, x, x[:, :1], np.arange(5 * steps)[None], 5, [0.01], "adam")
    assert np.array_equal(net.params, expected.params)
    assert np.array_equal(begin.moments, expected.moments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"orders": np.array([[0, 50]])}, "orders"),
        ({"orders": np.array([[-1, 0]])}, "orders"),
        ({"batch_size": 0}, "batch_size"),
        ({"rates": np.zeros(2)}, "rates"),
        ({"moments": np.zeros((1, 25))}, "moments"),
        ({"moments": np.zeros((2, 24))}, "moments"),
        ({"progress": np.zeros(2)}, "progress"),
        ({"losses": np.zeros((1, 4))}, "losses"),
        ({"totals": np.zeros((1, 6))}, "totals"),
        ({"x": np.zeros((0, 2)), "y": np.zeros((0, 1)), "orders": None}, "x"),
        ({"x": np.zeros((50, 3))}, "x"),
        ({"y": np.zeros((49, 1))}, "y"),
        ({"free": np.zeros(24, bool)}, "free"),
        ({"free": np.zeros(25)}, "free"),
        ({"method": "newton"}, "method"),
    ],
    ids=str,
)
def test_what_is_refused_leaves_everything(changes, words):
    """These are mistakes of the layers above, which must not crash."""
    net, x, y, orders = problem()
    before = net.params.copy()
    arguments = {
        "params": net._memory,
        "x": x,
        "y": y,
        "weights": None,
        "orders": orders,
        "batch_size": 10,
        "rates": np.array([0.1]),
        "moments": np.zeros((2, 25)),
        "progress": np.array([0.0, 1, 1]),
        "losses": np.zeros((1, 5)),
        "totals": np.zeros((1, 5)),
        "n_threads": 1,
        "method": "adam",
        **changes,
    }
    with pytest.raises(ValueError, match=words):
        net._plan.run_epochs(**arguments)
    assert np.array_equal(net.params, before)
    assert not arguments["moments"].any()


def test_two_networks_side_by_side():
    """Many threads may run epochs of networks of one plan."""
    net, x, y, orders = problem()
    expected = by_core(net, x, y, np.repeat(orders, 200, axis=0), 10, np.full(200, 0.01), "adam")
    results = {}

    def work(k):
        results[k] = by_core(problem()[0], x, y, np.repeat(orders, 200, axis=0), 10, np.full(200, 0.01), "adam")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in results.values():
        refuse_other_bits(found, expected)


def steep(dtype):
    """A layer and samples of which the last has a finite loss and a gradient by W that is infinite."""
    net = Network([1, 1], activations="identity", dtype=dtype, rng=0)
    W, far = (1e-10, 1e25) if dtype == "float32" else (1e-50, 1e200)
    net.params = [W, 0.0]
    return net, np.array([[1.0], [1.0], [far]], dtype), np.full((3, 1), W, dtype), np.arange(3)[None]


@pytest.mark.parametrize("method", ["adam", "plain_epsilon", "sgd", "plain_sgd"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_that_is_not_finite_makes_no_step(method, dtype):
    """Its loss is reported. A frozen parameter's counts for nothing, and a fit that goes on makes the step."""
    net, x, y, orders = steep(dtype)
    loss, grad = net.value_and_grad(x[2:], y[2:])
    assert np.isfinite(loss)
    assert np.isinf(grad[0])
    before = net.params.copy()
    for options in ({}, {"max_norm": 1.0}):
        found = by_core(net, x, y, orders, 1, [0.1], method, **options)
        assert found.n_done == 2
        assert found.losses[0, 2] == loss
        assert found.progress[0] == 2
        np.testing.assert_array_equal(found.params, before)  # the other samples have no gradient
        net.params = before
    assert by_core(net, x, y, orders, 1, [0.1], method, free=np.array([False, True])).n_done == 3
    net.params = before
    assert by_core(net, x, y, orders, 1, [0.1], method, stops=False).n_done == 3
    assert not np.isfinite(net.params).all()


@pytest.mark.parametrize(("far", "W"), [(1e50, 1e60), (1e140, 1e10)])
@pytest.mark.parametrize("l2", [0.0, 1e100])
def test_clipping_a_gradient_whose_square_overflows(far, W, l2):
    net = Network([2, 1], activations="identity", rng=0)
    net.params = [3 * W, -2 * W, 0.0]
    before = net.params.copy()
    x, y = np.array([[far, 2 * far]]), np.zeros((1, 1))
    _, grad = net.value_and_grad(x, y)
    grad = grad + l2 * before * [1, 1, 0]
    assert np.abs(grad).max() > 1e155
    by_core(net, x, y, np.zeros((1, 1), int), 1, [1e100], "plain_sgd", max_norm=1.0, l2=l2)
    small = grad / np.abs(grad).max()
    step = -1e100 * (small / np.linalg.norm(small))
    np.testing.assert_allclose(net.params - before, step, rtol=1e-10)


def test_adam_stops_before_a_gradient_whose_square_overflows():
    """v would be infinite for ever. Clipped it is small, and sgd takes no square."""
    x, y = np.ones((4, 1), "f4"), np.full((4, 1), 1e25, "f4")
    for method, options, n_done in (("adam", {}, 0), ("adam", {"max_norm": 1.0}, 4), ("sgd", {}, 4)):
        net = Network([1, 1], activations="identity", dtype="float32", rng=0)
        found = by_core(net, x, y, np.arange(4)[None], 1, [1e-3], method, **options)
        assert found.n_done == n_done
        assert np.isfinite(found.losses[0, 0])
        assert np.isfinite(net.params).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_without_gradient_and_epsilon_stay(dtype):
    """An epsilon that the dtype does not hold is its smallest normal number: 0 / 0 would be NaN."""
    net = Network([2, 1], activations="identity", dtype=dtype, rng=0)
    before = net.params.copy()
    x, y = np.array([[0.0, 1.0]], dtype), np.array([[3.0]], dtype)
    y_, x_, _, _ = net._inputs(x, y, None, None)
    arrays = None, 1, np.array([0.1]), np.zeros((2, 3), dtype), np.array([0.0, 1.0, 1.0]), *np.zeros((2, 1, 1))
    for epsilon in (1e-320, 0.0):
        net._plan.run_epochs(net._memory, x_, y_, None, *arrays, 1, method="adam", epsilon=epsilon)
    assert net.params[0] == before[0]
    assert (net.params[1:] > before[1:]).all()
