"""`hessp` of an objective keeps what does not depend on the direction, and always gives the bits of `hvp`."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from call_peers import CALLS, random_data
from derivative_programs import run
from problems import same_bits
from suites import shortened
from systems import needs_fork, needs_proc, needs_signals

from backprop import Activation, Network
from backprop.distributed import samples

SHAPES = {  # sizes, activation, loss, samples: a chunk of one tile, chunks of several tiles, no hidden layer
    "one sample": ([5, 19, 7, 2], "tanh", "squared_error", 1),
    "one tile": ([3, 40, 4], "silu", "cross_entropy", 100),
    "many tiles": ([30, 60, 60, 1], "gelu", "huber", 2500),
    "no hidden layer": ([4, 6], "identity", "binary_cross_entropy", 3000),
}


def hvp(data, theta, v):
    return data.problem.net.hvp(data.x, data.y, v, params=theta, n_threads=1, **data.keywords).astype(float)


def make(shape, *, weight=None, dtype="float64"):
    sizes, activation, loss, n_samples = SHAPES[shape]
    return random_data(np.random.default_rng(0), sizes, CALLS["hvp"], activations=[activation], output=activation,
                       loss=loss, n_samples=n_samples, weight=weight, dtype=dtype)  # fmt: skip


@pytest.mark.parametrize("n_bytes", [64 << 20, 700_000, 0])  # all rows, some of 1300 bytes and more, or none
@pytest.mark.parametrize(
    "weight", shortened([None, "sample", "entry"], [None, "entry"], "weights by entry take the same way and more")
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_products_have_the_bits_of_hvp(shape, dtype, weight, n_bytes, monkeypatch):
    monkeypatch.setattr(samples, "_KEPT_BYTES", n_bytes)
    data, rng = make(shape, weight=weight, dtype=dtype), np.random.default_rng(1)
    net = data.problem.net
    fun = net.objective(data.x, data.y, **data.keywords)
    thetas = [net.params.copy(), 0.9 * net.params, net.params.copy()]
    for theta in thetas:
        for n_threads in (1, 2, 8, 3):
            fun._terms[0].samples.n_threads = n_threads
            v = rng.normal(size=net.n_params)
            assert same_bits(fun.hessp(theta, v), hvp(data, theta, v))
        loss, grad = fun(theta)
        assert loss == net.loss(data.x, data.y, params=theta, **data.keywords)
        assert same_bits(grad, fun.grad(theta))
        assert same_bits(fun.hessp(theta, v), hvp(data, theta, v))


def test_a_theta_changed_in_place_is_another_one():
    data = make("one tile")
    fun, theta, v = data.problem.net.objective(data.x, data.y), data.problem.net.params.copy(), data.v
    for value in (0.0, -0.0, 1.5, np.nan, np.nan, 2.0):
        theta[3] = value
        for _ in range(2):
            assert same_bits(fun.hessp(theta, v), hvp(data, theta, v))


def counting():
    """A custom activation, and the number of calls of its functions; g_prime fails at the call numbered "stop"."""
    calls = {"g": 0, "g_prime": 0, "g_second": 0}

    def count(name, function):
        def counted(a):
            calls[name] += 1
            if name == "g_prime" and calls[name] == calls.get("stop"):
                raise ZeroDivisionError
            return function(a)

        return counted

    functions = count("g", np.sin), count("g_prime", np.cos), count("g_second", lambda a: -np.sin(a))
    return Activation("mine", *functions), calls


def problem_of(activation, n_samples=1500):
    rng = np.random.default_rng(0)
    net = Network([3, 30, 20, 2], activations=activation, rng=0)
    return net, rng.normal(size=(n_samples, 3)), rng.normal(size=(n_samples, 2)), rng.normal(size=(4, net.n_params))


@pytest.mark.parametrize("kept_share", [1, 0.4])
def test_a_second_direction_calls_no_activation(kept_share, monkeypatch):
    activation, calls = counting()
    net, x, y, directions = problem_of(activation)
    row = 4 * 8 * (32 + 24 + 8)  # h, g'(a), grad_a and curve, each a row of whole cache lines
    monkeypatch.setattr(samples, "_KEPT_BYTES", int(kept_share * len(x) * row))
    fun = net.objective(x, y)

    def calls_of(call):
        for name in calls:
            calls[name] = 0
        call()
        return dict(calls)

    first = calls_of(lambda: fun.hessp(net.params, directions[0]))
    assert min(first.values()) >= 2 * 6  # two hidden layers, 1500 samples in tiles of at most 256
    second = calls_of(lambda: fun.hessp(net.params, directions[1]))
    if kept_share == 1:
        assert second == {"g": 0, "g_prime": 0, "g_second": 0}
    else:
        assert all(0.5 * first[name] <= second[name] < first[name] for name in first)
    fun(net.params + 1)
    assert calls_of(lambda: fun.hessp(net.params, directions[2])) == second  # the evaluation forgets nothing
    assert calls_of(lambda: fun.hessp(net.params + 1, directions[3])) == first


@pytest.mark.parametrize("fail_at", range(1, 12, 3))
def test_a_call_that_failed_leaves_no_half_of_a_tile(fail_at):
    activation, calls = counting()
    net, x, y, directions = problem_of(activation)
    fun = net.objective(x, y)
    calls["g_prime"], calls["stop"] = 0, fail_at
    with pytest.raises(ZeroDivisionError):
        fun.hessp(net.params, directions[0])
    for v in directions:
        assert same_bits(fun.hessp(net.params, v), net.hvp(x, y, v))


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_l2_and_free(l2):
    data, rng = make("one tile", weight="sample", dtype="float32"), np.random.default_rng(0)
    net = data.problem.net
    free = rng.random(net.n_params) < 0.5
    kept = net.objective(data.x, data.y, l2=l2, free=free, **data.keywords)
    for step in (0, 0, 0.1):
        net.params = net.params + step  # the parameters that are not free
        theta, v = net.params[free], rng.normal(size=free.sum())
        fresh = net.objective(data.x, data.y, l2=l2, free=free, **data.keywords)
        assert same_bits(kept.hessp(theta, v), fresh.hessp(theta, v))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda fun: pickle.loads(pickle.dumps(fun))])
def test_a_copy_gives_the_same(duplicate):
    data = make("one tile")
    fun, theta = data.problem.net.objective(data.x, data.y), data.problem.net.params
    expected = fun.hessp(theta, data.v)
    for other in (duplicate(fun), fun):
        assert same_bits(other.hessp(theta, data.v), expected)


@pytest.mark.alone
def test_many_threads_at_several_thetas():
    data = make("many tiles", dtype="float32")
    net, rng = data.problem.net, np.random.default_rng(0)
    fun = net.objective(data.x, data.y, n_threads=2)
    questions = [(net.params * scale, v) for scale in (1, 0.9) for v in rng.normal(size=(3, net.n_params))]
    right = [hvp(data, *question) for question in questions]

    def ask(k):
        return same_bits(fun.hessp(*questions[k % 6]), right[k % 6])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(96)))


SHARED = """
big = make([7, 96, 64, 2], 30_000)
net = big.problem.net
shared = net.objective(big.x, big.y, n_threads=2, **big.keywords)
right = net.hvp(big.x, big.y, big.v, **big.keywords).astype(float).tobytes()


def shared_is_right():
    return shared.hessp(net.params, big.v).tobytes() == right
"""


@pytest.mark.alone
@needs_signals
def test_ctrl_c_leaves_whole_tiles_alone():
    out = run("hvp", SHARED + """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupted = 0
    for k in range(12):
        moved()
        theta = net.params * (1 + k)
        timer = threading.Timer(0.002 + 0.009 * k, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            for _ in range(10_000):
                shared.hessp(theta, big.v)
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
        again = net.hvp(big.x, big.y, big.v, params=theta, **big.keywords).astype(float)
        assert np.array_equal(shared.hessp(theta, big.v), again)
    assert shared_is_right()
    print(interrupted)
    """.replace("\n    ", "\n"))  # fmt: skip
    assert int(out) == 12


@pytest.mark.alone
@needs_fork
def test_forks_at_any_moment():
    run("hvp", SHARED + """
    def child_is_right():
        pid = os.fork()
        if pid == 0:
            os._exit(0 if shared_is_right() and shared_is_right() else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    assert child_is_right() and shared_is_right() and child_is_right()
    stop = threading.Event()

    def caller():
        k = 0
        while not stop.is_set():
            shared.hessp(net.params * (1 + k % 3 // 2), big.v)
            k += 1

    callers = [threading.Thread(target=caller) for _ in range(2)]
    for c in callers:
        c.start()
    for _ in range(6):
        moved()
        assert child_is_right() and shared_is_right()
    stop.set()
    for c in callers:
        c.join()
    assert shared_is_right()
    """.replace("\n    ", "\n"))  # fmt: skip


@needs_proc
def test_memory_is_bounded_and_may_be_short():
    out = run("hvp", """
    import resource
    from pathlib import Path
    big = make([7, 96, 64, 2], 200_000)  # 1.5 KiB a sample: 300 MB if all were kept
    net = big.problem.net
    right = net.hvp(big.x, big.y, big.v, n_threads=2).astype(float)

    def status(field):
        return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) * 1024

    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + (32 << 20), limit[1]))
    fun = net.objective(big.x, big.y, n_threads=2)
    assert all(np.array_equal(fun.hessp(net.params, big.v), right) for _ in range(2))
    resource.setrlimit(resource.RLIMIT_AS, limit)
    before = status("VmRSS")
    assert all(np.array_equal(fun.hessp(net.params, big.v), right) for _ in range(2))
    print((status("VmRSS") - before) / 2**20)
    """)  # fmt: skip
    assert 32 <= float(out) <= 72


@pytest.mark.parametrize("l2", [1e-50, 0.1, 1e39])
def test_l2_is_not_rounded_to_float32(l2):
    """The gradient of l2/2 W^2 is l2 W in float64, also beside a float32 network; so is its Hessian."""
    fun = Network([1, 1], dtype="float32", rng=0).objective(np.zeros((2, 1)), np.zeros((2, 1)), l2=l2)
    assert fun.hessp([0, 0], [1, 0]).tolist() == [l2, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fixed_parameters_do_not_move(dtype):
    """A product along the free parameters, with the rows and columns of the Hessian that belong to them."""
    net = Network([2, 3, 1], activations="tanh", dtype=dtype, rng=0)
    x, y = np.arange(8.0).reshape(4, 2) / 8, np.ones(4)
    free = np.arange(net.n_params) % 3 != 1
    fun = net.objective(x, y, free=free, l2=0.5)
    is_weight = np.zeros(net.n_params)
    for W, _ in net.unflatten(is_weight):
        W[...] = 1
    H = (net.hessian(x, y).astype(float) + 0.5 * np.diag(is_weight))[np.ix_(free, free)]
    v = np.linspace(-1, 1, free.sum())
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    for _ in range(2):
        np.testing.assert_allclose(fun.hessp(net.params[free], v), H @ v, rtol=tolerance, atol=tolerance)
