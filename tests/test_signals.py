"""Signal handlers run all along every call, and what one raises ends the call.

tools/signals.py has the calls, their worst shapes and the quick ones that are tried here: single tiles or passes that
took a tenth of a second and more without a look at signals.
"""

import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from slowness import SLOWNESS
from systems import needs_signals

from backprop import _core

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import signals

# Seconds of the caller's own time: 50 ms between polls, and a piece of work. Other programs do not count.
LONGEST = 0.12 * SLOWNESS
ROWS = {f"{row.name} {'-'.join(map(str, row.quick[0]))}": row for row in signals.rows()}

pytestmark = needs_signals


class Interruption(BaseException):
    """What a handler raises."""


def test_every_call_has_a_row():
    names = {row.name for row in ROWS.values()}
    assert set(_core.CALLS) <= names
    assert set(signals.CALLS) == names


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_handlers_run_all_along(row):
    _, call = signals.prepare(row, quick=True)
    gap = signals.longest_gap(lambda: call(1))
    assert gap.own < LONGEST, gap


@pytest.mark.parametrize("n_threads", [1, 2])
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


def test_targets_and_weights_are_looked_at_in_parts():
    """Where `_validate` looks, which the quick path leaves out: a handler's exception comes through."""

    def interrupt(*_):
        raise Interruption

    n = 30_000_000
    weight, labels, probabilities = np.ones(n), np.zeros(n, np.intp), np.ones((n, 1), np.float32)
    looks = [
        lambda: _core.inspect_weights(weight, 1),
        lambda: _core.first_bad_label(labels, 1),
        lambda: _core.first_bad_target(7, probabilities),
        lambda: _core.first_bad_sum(probabilities, 1e-6),
    ]
    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        for look in looks:
            for _ in range(100):  # where there is little to do, the call may end before the first poll
                signal.setitimer(signal.ITIMER_REAL, 0.001)
                try:
                    result = look()
                    signal.pause()
                except Interruption:
                    pass
            assert result in (-1, None) or result[0] == -1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
