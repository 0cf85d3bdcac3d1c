"""Signal handlers run during every call, and an exception that a handler raises ends the call.

tools/pool/signals.py has the calls, their worst shapes and the smaller shapes of these tests: single tiles or passes
that once took a tenth of a second and more without a poll for signals.
"""

import ctypes
import signal
import sys
import threading
import time

import numpy as np
import pytest
from places import use_folder
from scipy import LowLevelCallable
from slowness import SLOWNESS
from suites import shortened
from systems import needs_signals

from backprop import Activation, Network, _core

use_folder("tools/pool")

import signals  # noqa: E402

# Seconds of the caller's CPU time, as promised: 50 ms between polls, and one piece of work, which takes longer
# if other programs use the caches and the memory's bandwidth.
LONGEST = 0.2 * SLOWNESS
ROWS = {f"{row.name} {'-'.join(map(str, row.quick[0]))}": row for row in signals.rows()}

pytestmark = needs_signals


class Interruption(BaseException):
    """The exception that a handler raises."""


def test_every_call_has_a_row():
    names = {row.name for row in ROWS.values()}
    assert set(_core.CALLS) <= names
    assert set(signals.CALLS) == names


@pytest.mark.alone
@pytest.mark.parametrize("name", shortened(ROWS, list(ROWS)[::2], "the same sweeps"))
def test_handlers_run_all_along(name):
    _, call = signals.prepare(ROWS[name], quick=True)
    gap = signals.longest_gap(lambda: call(1))
    assert gap.own < LONGEST, gap


@pytest.mark.alone
@pytest.mark.parametrize("n_threads", shortened([1, 2], [2], "one thread takes the same way"))
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_a_handler_raises_ends_the_call(row, n_threads):
    p, call = signals.prepare(row, quick=True)
    before = p.net.params.copy()
    few = p.net.forward(p.x[:4], n_threads=1)
    counts = [sys.getrefcount(array) for array in (p.x, p.y, p.net.params)]
    raised_at = []

    def interrupt(*_):
        raised_at.append(time.thread_time())
        raise Interruption

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        start = time.thread_time()
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(Interruption):
            call(n_threads)
        end = time.thread_time()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert raised_at[0] - start < LONGEST
    assert end - raised_at[0] < LONGEST
    assert [sys.getrefcount(array) for array in (p.x, p.y, p.net.params)] == counts
    np.testing.assert_array_equal(p.net.params, before)
    np.testing.assert_array_equal(p.net.forward(p.x[:4], n_threads=1), few)


@pytest.mark.parametrize("n_threads", shortened([1, 2], [2], "one thread cuts the same kernels"))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ([4, 100, 3], {"activations": "mish"}),
        ([3, 10, 100], {"loss": "cross_entropy"}),
        ([60, 4, 50], {"loss": "poisson", "activations": "gelu"}),
    ],
)
def test_cut_work_has_the_bits_of_whole_work(sizes, options, dtype, n_threads):
    p = signals.problem(sizes, 300, dtype=dtype, weighted=True, **options)
    squared_errors = {
        "normal_equations",
        "sobolev_value_and_grad",
        "helper activation of C",
        "helper activation of NumPy",
    }
    names = {*_core.CALLS, *squared_errors, "layer_gradients", "ensemble"}
    for name in sorted(names - squared_errors if "loss" in options else names):
        call = signals.CALLS[name](p)
        whole = numbers_in(call(n_threads))
        before = _core.cut_into_pieces(20_000)
        try:
            cut = numbers_in(call(n_threads))
        finally:
            _core.cut_into_pieces(before)
        assert len(whole) == len(cut)
        for expected, got in zip(whole, cut, strict=True):
            np.testing.assert_array_equal(got, expected, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cut_strips_have_the_bits_of_whole_ones(dtype):
    p = signals.problem([600, 60, 60, 3], 200, dtype=dtype)  # inputs are cut too
    loss, grad = p.net.value_and_grad(p.x, p.y, n_threads=2)
    before = _core.cut_into_pieces(20_000)
    try:
        cut_loss, cut_grad = p.net.value_and_grad(p.x, p.y, n_threads=2)
    finally:
        _core.cut_into_pieces(before)
    assert cut_loss == loss
    np.testing.assert_array_equal(cut_grad, grad)


def numbers_in(result):
    """The arrays and numbers of a result, however they are packed."""
    if isinstance(result, tuple | list):
        return [array for part in result for array in numbers_in(part)]
    if hasattr(result, "grad_W") or hasattr(result, "d2y"):
        return numbers_in(list(vars(result).values()))
    return [] if result is None else [np.array(result)]


@pytest.mark.alone
def test_handlers_run_while_the_caller_waits_for_a_worker():
    """The worker is delayed in its first chunk, until the caller has no room for the sums of later ones."""
    caller, slept = threading.get_ident(), []

    @ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)
    def g(a):
        if threading.get_ident() != caller and not slept:
            slept.append(time.perf_counter())
            time.sleep(2)
        return a

    g_prime = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(lambda a: 1.0)
    own = Activation("own", LowLevelCallable(g), LowLevelCallable(g_prime))
    net = Network([1, 1], activations=own, output=own, rng=0)
    x = np.ones((60 * 1024, 1))
    gap = signals.longest_gap(lambda: net.value_and_grad(x, x, n_threads=2))
    assert slept
    assert gap.wall < 1.5, gap


def test_looks_at_targets_and_weights_let_handlers_run():
    """The checks of the Python path. The quick path has the same ones, and is among the rows."""

    def interrupt(*_):
        raise Interruption

    n = 40_000_000
    weight, labels, probabilities = np.ones(n), np.zeros(n, np.intp), np.ones((n, 1), np.float32)
    looks = [
        lambda: _core.look_at_weights(weight, 1)[0],
        lambda: _core.look_at_targets(7, labels, 1),
        lambda: _core.look_at_targets(7, probabilities, 1),
    ]
    raised = 0
    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        for look in looks:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001)
                result = look()
                signal.setitimer(signal.ITIMER_REAL, 0)
                assert result is None  # the check ended before the first poll
            except Interruption:
                raised += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert raised
