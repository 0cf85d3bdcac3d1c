"""How blocks are read: in order, one ahead, in a thread that never stays."""

import contextlib
import gc
import os
import signal
import threading
import time
import tracemalloc
import weakref

import numpy as np
import pytest
from block_cases import N_IN, N_OUT, UNIT, bits, data_of
from systems import needs_signals

from backprop import Network
from backprop.distributed.ahead import read_ahead

NET = Network([N_IN, 4, N_OUT], activations="tanh", rng=0)
X, Y = np.random.default_rng(0).normal(size=(9, N_IN)), np.ones((9, N_OUT))


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "backprop-reader"]


@pytest.fixture(autouse=True)
def no_reader_is_left():
    yield
    for thread in readers():
        thread.join(10)
    assert not readers()


# Passes over the blocks -----------------------------------------------------------------------------------------------


class Watched:
    """Blocks that note what is read."""

    def __init__(self, blocks):
        self.blocks, self.read, self.n_open = blocks, [], 0

    def __call__(self):
        self.n_open += 1
        try:
            for k, block in enumerate(self.blocks):
                self.read.append(k)
                yield block
        finally:
            self.n_open -= 1


def test_each_evaluation_reads_all_blocks_once_and_in_order():
    data = data_of(5000)
    blocks = Watched(data.blocks(800))
    one_pass = list(range(7))
    fun = data.net.objective(blocks)
    assert blocks.read == one_pass
    fun(data.net.params)
    assert blocks.read == 2 * one_pass
    fun.value(data.net.params), fun.grad(data.net.params), fun(data.net.params)  # kept from the last call
    assert blocks.read == 2 * one_pass
    fun.hessp(data.net.params, data.net.params)
    assert blocks.read == 3 * one_pass
    assert blocks.n_open == 0
    assert not readers()


def test_one_item_is_read_ahead():
    asked = [threading.Event() for _ in range(5)]

    def read(reading):
        for k, event in enumerate(asked):
            event.set()
            yield k

    items = read_ahead(read)
    for k in range(5):
        assert next(items) == k
        if k < 4:
            assert asked[k + 1].wait(10)  # while item k is used
        if k < 3:
            assert not asked[k + 2].wait(0.01)
    assert list(items) == []


def test_the_context_of_the_caller_holds_in_the_thread():
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("np.errstate belonged to a thread")

    def blocks():
        np.log(np.zeros(1))
        yield X, Y

    with np.errstate(divide="ignore"):  # warnings are errors in tests
        NET.objective(blocks)


def test_without_a_thread_the_caller_reads(monkeypatch):
    data = data_of(20_000)
    fun = data.net.objective(Watched(data.blocks(3000)))
    expected = bits(data.plain()(data.net.params))

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert bits(fun(data.net.params)) == expected


def test_many_threads_use_one_objective():
    data = data_of(20_000)
    fun, plain = data.net.objective(data.blocks(3000)), data.plain()
    thetas = np.random.default_rng(0).standard_normal((6, data.net.n_params))
    found = [None] * len(thetas)

    def work(k):
        found[k] = bits(fun(thetas[k]))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(thetas))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [bits(plain(theta)) for theta in thetas]


def test_memory_is_that_of_two_blocks():
    """A million rows of 80 bytes stream in blocks of 8 MB."""
    n_rows, n_blocks = 100_000, 10
    net = Network([9, 4, 1], activations="tanh", rng=0)

    def blocks():
        for k in range(n_blocks):
            x = np.full((n_rows, 9), 0.1 * k)
            yield x, x[:, 0]

    fun = net.objective(blocks)
    copies = 4 * 1.125 * UNIT * 80  # of four units of 9 chunks at most
    tracemalloc.start()
    try:
        fun(net.params)
        _, evaluating = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        net.objective(blocks)
        _, looking = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    block = n_rows * 9 * 8
    assert 1.9 * block < evaluating < 2.1 * block + 2 * copies
    assert looking < 2.1 * block


# Exceptions -----------------------------------------------------------------------------------------------------------


class Own(BaseException):
    """An exception of the user's."""


@pytest.mark.parametrize("kind", [ValueError, OSError, KeyboardInterrupt, SystemExit, Own])
@pytest.mark.parametrize("at", [0, 3])
def test_an_exception_of_the_iterable_comes_as_it_is(kind, at):
    data = data_of(3 * UNIT)
    error, is_broken = kind("words of the user"), False
    state = Watched(data.blocks(5000))

    def blocks():
        for k, block in enumerate(state()):
            if is_broken and k == at:
                raise error
            yield block

    fun = data.net.objective(blocks)
    is_broken = True
    for call in (fun, lambda theta: fun.hessp(theta, theta), lambda theta: data.net.objective(blocks)):
        with pytest.raises(kind) as raised:
            call(data.net.params)
        assert raised.value is error
        assert state.n_open == 0
    is_broken = False
    assert bits(fun(data.net.params)) == bits(data.plain()(data.net.params))


def test_an_exception_does_not_keep_the_blocks():
    """Nor does it need the garbage collector."""
    is_broken, kept = False, []

    def blocks():
        yield X, Y
        x = X.copy()
        kept.append(weakref.ref(x))
        yield x, Y
        if is_broken:
            raise Own

    fun = NET.objective(blocks)
    is_broken = True
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(Own):
            fun(NET.params)
        assert len(kept) == 2
        assert [ref() for ref in kept] == [None, None]
    finally:
        gc.enable()


def test_an_error_while_computing_ends_the_reader(monkeypatch):
    data = data_of(30 * UNIT)
    blocks = Watched(data.blocks(6 * UNIT))
    fun = data.net.objective(blocks)
    monkeypatch.setattr("backprop.distributed.samples.add_block", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fun(data.net.params)
    for thread in readers():
        thread.join(10)
    assert blocks.n_open == 0
    assert len(blocks.read) <= 5 + 3


class AlarmError(Exception):
    """What the handler raises."""


@pytest.fixture
def alarm():
    """A function that lets AlarmError be raised soon, wherever the main thread is."""

    def ring(number, frame):
        raise AlarmError

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.05)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@needs_signals
@pytest.mark.alone
@pytest.mark.parametrize("when", ["the first pass", "an evaluation", "a product"])
def test_a_signal_does_not_wait_for_a_read(alarm, when):
    """The read blocks until the test lets it go on; then the thread ends."""
    data = data_of(3 * UNIT)
    goes_on, closed, is_blocking = threading.Event(), threading.Event(), False

    def blocks():
        try:
            yield from data.blocks(5000)[:2]
            if is_blocking:
                goes_on.wait(60)
            yield from data.blocks(5000)[2:]
        finally:
            closed.set()

    def make():
        return data.net.objective(blocks)

    theta = data.net.params
    if when == "the first pass":
        call = make
    else:
        fun = make()
        call = {"an evaluation": lambda: fun(theta), "a product": lambda: fun.hessp(theta, theta)}[when]
    is_blocking = True
    closed.clear()
    alarm()
    with pytest.raises(AlarmError):
        call()
    assert len(readers()) == 1
    assert not closed.is_set()
    goes_on.set()
    for thread in readers():
        thread.join(10)
    assert closed.is_set()
    assert bits(make()(theta)) == bits(data.plain()(theta))


@needs_signals
@pytest.mark.alone
def test_a_signal_while_short_blocks_are_read(alarm):
    """No item is handed over for a long time: thousands of blocks make one."""
    is_endless = False

    def blocks():
        yield X, Y
        while is_endless:
            yield X[:0], Y[:0]

    fun = NET.objective(blocks)
    is_endless = True
    alarm()
    with pytest.raises(AlarmError):
        fun(NET.params)
    for thread in readers():
        thread.join(10)
    assert not readers()


@needs_signals
@pytest.mark.alone
@pytest.mark.filterwarnings("ignore:.*fork")  # of JAX, which other tests have imported, and of Python 3.12
def test_a_child_of_a_fork_reads_too():
    """Also one that is made while another thread evaluates."""
    data = data_of(3 * UNIT)
    is_slow = threading.Event()

    def blocks():
        for block in data.blocks(5000):
            if is_slow.is_set() and threading.current_thread().name == "backprop-reader":
                time.sleep(0.02)
            yield block

    fun = data.net.objective(blocks)
    theta, other = data.net.params, 2 * data.net.params
    expected = bits(data.plain()(theta))
    is_slow.set()
    worker = threading.Thread(target=fun, args=(other,))
    worker.start()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, b"same" if bits(fun(theta)) == expected else b"other")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        assert answer.read() == b"same"
    os.waitpid(child, 0)
    worker.join()
