"""The pool under fire: forks at any moment, crowds of callers, interrupts, exits. Each runs in a new process."""

import textwrap

import pytest
from slowness import SLOWNESS
from suites import shortened
from systems import needs_fork, needs_proc, needs_signals
from watched import run_watched

pytestmark = pytest.mark.alone

SETUP = """
import os, signal, sys, threading, time
import numpy as np
from backprop import Network

rng = np.random.default_rng(0)
net = Network([30, 100, 100, 1], activations="tanh", dtype="float32", rng=1)
n = 4000 // SLOWNESS
x = rng.standard_normal((n, 30), np.float32)
y = rng.standard_normal((n, 1), np.float32)
expected = net.value_and_grad(x, y, n_threads=1)


def is_right(n_threads=2):
    loss, grad = net.value_and_grad(x, y, n_threads=n_threads)
    return loss == expected[0] and np.array_equal(grad, expected[1])


def n_os_threads():
    return len(os.listdir("/proc/self/task"))
"""


def run(code):
    return run_watched(f"SLOWNESS = {SLOWNESS}\n{SETUP}{textwrap.dedent(code)}")


@needs_fork
@pytest.mark.long("it tries the watchdog of the tests, not the pool")
def test_a_hang_shows_where_parent_and_child_stand():
    """The watchdog of these tests: each process prints its stacks and ends, also a child whose parent has ended."""
    hangs = """if 1:
        import os, threading

        def first_child_hangs():
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()

        def second_child_spins():
            while True:
                pass

        def parent_waits():
            os.wait()

        for hang in (first_child_hangs, second_child_spins):
            if os.fork() == 0:
                hang()
    """
    for last, functions in (("parent_waits()", {"parent_waits"}), ("", set())):
        with pytest.raises(AssertionError, match="nothing has moved") as failed:
            run_watched(hangs + f"    {last}\n", watch=2 * SLOWNESS)
        for function in {"first_child_hangs", "second_child_spins"} | functions:
            assert f"in {function}" in str(failed.value)


@needs_fork
def test_fork_before_after_and_nested():
    run("""
    def child(depth):
        pid = os.fork()
        if pid == 0:
            good = is_right() and (depth == 0 or child(depth - 1))
            os._exit(0 if good and is_right(3) else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    assert child(1)  # before the pool exists
    for _ in range(20):
        moved()
        assert is_right()
        assert child(2)
        assert is_right()
    """)


@needs_fork
def test_fork_while_other_threads_are_inside_calls():
    run("""
    stop = threading.Event()
    wrong = []

    def caller():
        while not stop.is_set():
            if not is_right():
                wrong.append(1)

    callers = [threading.Thread(target=caller) for _ in range(3)]
    for c in callers:
        c.start()
    for k in range(20):
        moved()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if is_right() and is_right(4) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, k
        assert is_right()
    stop.set()
    for c in callers:
        c.join()
    assert not wrong
    """)


@needs_proc
def test_64_callers_at_once_and_few_threads_left():
    out = run("""
    from concurrent.futures import ThreadPoolExecutor

    before = n_os_threads()
    barrier = threading.Barrier(64)

    def caller(k):
        barrier.wait()
        return all(is_right(2 + k % 3) for _ in range(3))

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(caller, range(64)))
    deadline = time.monotonic() + 10
    while n_os_threads() > 12 and time.monotonic() < deadline:
        time.sleep(0.05)
    print(n_os_threads() - before)
    """)
    assert int(out) < 12


@needs_signals
@pytest.mark.parametrize("n_times", shortened([13, 40], [13], "the same at other moments"))
def test_ctrl_c_many_times(n_times):
    out = run(
        f"\n    n_times = {n_times}"
        + """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for background jobs
    big = Network([64, 256, 256, 4], dtype="float32", rng=2)
    bx = rng.standard_normal((60000 // SLOWNESS, 64), np.float32)
    by = rng.standard_normal((60000 // SLOWNESS, 4), np.float32)
    right = big.value_and_grad(bx[: 3000 // SLOWNESS], by[: 3000 // SLOWNESS], n_threads=1)
    before = big.params.copy()
    interrupted, latest = 0, 0.0
    for k in range(n_times):
        moved()
        sent = []

        def send():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(0.002 + 0.003 * (k % 13), send)
        try:
            timer.start()
            for _ in range(100):
                big.value_and_grad(bx, by, n_threads=1 + k % 2)
        except KeyboardInterrupt:
            interrupted += 1
            latest = max(latest, time.monotonic() - sent[0])
        timer.join()
        assert np.array_equal(big.params, before)
        loss, grad = big.value_and_grad(bx[: 3000 // SLOWNESS], by[: 3000 // SLOWNESS], n_threads=2)
        assert loss == right[0] and np.array_equal(grad, right[1])
    print(interrupted, latest)
    """
    )
    interrupted, _ = out.split()
    assert int(interrupted) == n_times


DELAYS = [0.0005 * k for k in range(10)]


@needs_signals
@pytest.mark.parametrize(
    "delay", shortened(DELAYS, DELAYS[::5], "the same at other moments"), ids=lambda delay: f"{1e3 * delay:.1f} ms"
)
@pytest.mark.parametrize(("width", "n_samples"), [(200, 20_000), (640, 3000)], ids=["chunks", "strips"])
def test_ctrl_c_while_the_pool_starts(width, n_samples, delay):
    """The first call on threads makes the workers; another process sends a signal within its first 5 ms."""
    run(f"""
    import subprocess
    from backprop import _core

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for background jobs
    n_samples = {n_samples} // SLOWNESS
    big = Network([64, {width}, {width}, 4], dtype="float32", rng=2)
    bx = rng.standard_normal((n_samples, 64), np.float32)
    by = rng.standard_normal((n_samples, 4), np.float32)
    right = big.value_and_grad(bx, by, n_threads=1)
    before = big.params.copy()
    send = "import os, signal, time; print(flush=True); input(); time.sleep({delay}); "
    send += "os.kill(os.getppid(), signal.SIGINT)"
    sender = subprocess.Popen([sys.executable, "-c", send], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    sender.stdout.readline()
    assert _core.worker_threads() == 0
    results = []
    try:
        sender.stdin.write("go" + os.linesep)
        sender.stdin.flush()
        results.append(big.value_and_grad(bx, by, n_threads=4))
        time.sleep(60 * SLOWNESS)  # the signal is late
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("no KeyboardInterrupt")
    sender.communicate()
    assert np.array_equal(big.params, before)
    results += [big.value_and_grad(bx, by, n_threads=4), big.value_and_grad(bx, by, n_threads=2)]
    assert all(loss == right[0] and np.array_equal(grad, right[1]) for loss, grad in results)
    assert is_right(4) and _core.worker_threads() == 3
    """)


@pytest.mark.parametrize("daemon", [True, False])
def test_exit_while_a_thread_computes(daemon):
    run(f"""
    def caller():
        for _ in range(20 if not {daemon} else 10**6):
            is_right()

    threading.Thread(target=caller, daemon={daemon}).start()
    time.sleep(0.05)
    """)


FORKING_HANDLER = """
    n_samples = {n_samples} // SLOWNESS
    big = Network([64, {width}, {width}, 4], dtype="float32", rng=2)
    bx = rng.standard_normal((n_samples, 64), np.float32)
    by = rng.standard_normal((n_samples, 4), np.float32)
    right = big.value_and_grad(bx, by, n_threads=1)
    codes = []

    def handler(number, frame):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            {in_child}
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    parent = os.getpid()
    signal.signal(signal.SIGALRM, handler)
"""


@needs_fork
@pytest.mark.parametrize(("width", "n_samples"), [(256, 40000), (640, 12000)], ids=["chunks", "strips"])
def test_a_signal_handler_that_forks_and_calls(width, n_samples):
    run(
        FORKING_HANDLER.format(width=width, n_samples=n_samples, in_child="return")
        + """
    signal.setitimer(signal.ITIMER_REAL, 0.06)
    n_after = 0
    while n_after < 3:  # calls after the child's end
        loss, grad = big.value_and_grad(bx, by, n_threads=2)
        assert loss == right[0] and np.array_equal(grad, right[1])
        if os.getpid() != parent:
            os._exit(0)
        n_after += len(codes)
    assert codes == [0], codes
    """
    )


@needs_signals
@pytest.mark.parametrize("n_threads", shortened([1, 2], [1], "the same polls; only the best of ten calls is judged"))
@pytest.mark.parametrize(
    ("sizes", "n_samples"),
    shortened(
        [((8, 6144, 6144, 4), 512), ((8, *[1536] * 20, 4), 512)],
        [((8, 6144, 6144, 4), 512)],
        "a deep network is divided by layers already",
    ),
    ids=["wide", "deep"],
)
def test_signals_are_heard_inside_long_products(sizes, n_samples, n_threads):
    # One product of the wide network takes 0.3 s, a strip of the deep one 0.2 s; polls come every 50 ms.
    out = run(f"""
    big = Network({sizes}, dtype="float32", rng=2)
    bx = rng.standard_normal(({n_samples}, 8), np.float32)
    by = rng.standard_normal(({n_samples}, 4), np.float32)
    heard, gaps = [], []
    # Other programs may delay this one. One thread is judged by its own time; a thread that waits for another, which
    # may be delayed too, by the best of ten calls.
    now = time.thread_time if {n_threads} == 1 else time.monotonic
    signal.signal(signal.SIGALRM, lambda number, frame: heard.append(now()))
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    while min(gaps, default=1) >= 0.15 and len(gaps) < (1 if {n_threads} == 1 else 10):
        moved()
        heard[:] = [now()]
        big.value_and_grad(bx, by, n_threads={n_threads})
        gaps.append(np.diff([*heard, now()]).max())
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(min(gaps))
    """)
    assert float(out) < 0.15


@needs_fork
@pytest.mark.parametrize(("width", "n_samples"), [(256, 40000), (640, 12000)], ids=["chunks", "strips"])
def test_a_child_that_a_signal_handler_forked_exits(width, n_samples):
    run(
        FORKING_HANDLER.format(width=width, n_samples=n_samples, in_child="sys.exit(7)")
        + """
    while len(codes) < 3:
        moved()
        n_before = len(codes)
        signal.setitimer(signal.ITIMER_REAL, 0.06)
        try:
            while len(codes) == n_before:
                loss, grad = big.value_and_grad(bx, by, n_threads=2)
                assert loss == right[0] and np.array_equal(grad, right[1])
        finally:
            if os.getpid() != parent:
                os._exit(7 if sys.exc_info()[0] is SystemExit else 1)
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert set(codes) == {7}, codes
    """
    )
