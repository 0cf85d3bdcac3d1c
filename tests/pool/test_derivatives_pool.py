"""Every derivative under fire: forks at any moment, crowds of callers, interrupts. Each runs in a new process."""

import pytest
from call_peers import CALLS
from derivative_programs import run
from suites import shortened
from systems import needs_fork, needs_proc, needs_signals

pytestmark = pytest.mark.alone

# A sum, rows, and a matrix. The pool runs tasks and treats all calls alike.
FEW = shortened(CALLS, ["vjp", "jacobian", "hessian"], "the other calls share the pool")


@needs_fork
@needs_proc
@pytest.mark.parametrize("name", FEW)
def test_forks_and_a_crowd_of_callers(name):
    out = run(name, """
    assert child_is_right(2)  # before the pool exists
    before = len(os.listdir("/proc/self/task"))
    assert is_right() and child_is_right(2, 3) and is_right(3)
    stop, wrong = threading.Event(), []

    def caller():
        while not stop.is_set():
            if not is_right():
                wrong.append(1)

    callers = [threading.Thread(target=caller) for _ in range(3)]
    for c in callers:
        c.start()
    for k in range(8):
        moved()
        assert child_is_right(2, 4), k
        assert is_right()
    stop.set()
    for c in callers:
        c.join()
    assert not wrong
    barrier = threading.Barrier(24)

    def one_of_many(k):
        barrier.wait()
        return all(is_right(1 + k % 4) for _ in range(3))

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(one_of_many, range(24)))
    deadline = time.monotonic() + 10
    while len(os.listdir("/proc/self/task")) - before >= 12 and time.monotonic() < deadline:
        time.sleep(0.05)
    print(len(os.listdir("/proc/self/task")) - before)
    """)  # fmt: skip
    assert int(out) < 12


@needs_signals
@pytest.mark.parametrize("name", FEW)
def test_ctrl_c(name):
    out = run(name, """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for background jobs
    big = make_big()
    before = big.problem.net.params.copy()
    inputs = [big.x.copy(), big.y.copy(), big.v.copy()]
    interrupted = 0
    for k in range(8):
        moved()
        timer = threading.Timer(0.002 + 0.007 * k, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            for _ in range(10_000):
                call.run(big.problem.net, big, n_threads=1 + k % 2)
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
        assert np.array_equal(big.problem.net.params, before)
        assert all(map(np.array_equal, inputs, (big.x, big.y, big.v)))
        assert is_right(2) and is_right(1)
    print(interrupted)
    """)  # fmt: skip
    assert int(out) == 8


@needs_fork
@pytest.mark.parametrize("name", FEW)
def test_a_signal_handler_that_forks_and_calls(name):
    """The child continues the call of its parent, and both get the right bits."""
    run(name, """
    big = make_big()
    right = result(big, 1)
    codes = []

    def handler(number, frame):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            assert is_right(2)
            return
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    parent = os.getpid()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.04)
    deadline = time.monotonic() + 30 * SLOWNESS
    while not codes and time.monotonic() < deadline:
        moved()
        same = result(big, 2) == right
        if os.getpid() != parent:
            os._exit(0 if same else 1)
        assert same
    assert codes == [0], codes
    """)  # fmt: skip


@pytest.mark.long("test_pool.py cuts such products too, and test_signals.py has every call")
@needs_signals
@pytest.mark.parametrize(
    ("name", "width", "n_samples", "n_threads"),
    [("hvp", 4096, 512, 1), ("gauss_newton_vp", 4096, 512, 1), ("hvp", 3072, 1088, 2)],
)
def test_signals_are_heard_within_the_products_of_a_wide_layer(name, width, n_samples, n_threads):
    """Handlers run all through the call. Before products were cut into parts, none ran in half of the time."""
    out = run(name, f"""
    big = make([32, {width}, {width}, 2], {n_samples})
    times = []
    signal.signal(signal.SIGALRM, lambda *_: times.append(time.monotonic()))
    call.run(big.problem.net, big, n_threads={n_threads})  # memory that is touched for the first time
    moved()
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    start = time.monotonic()
    call.run(big.problem.net, big, n_threads={n_threads})
    end = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0)
    gaps = np.diff([start, *(t for t in times if t < end), end])
    print(gaps.max() / (end - start), gaps.max(), end - start)
    """)  # fmt: skip
    assert float(out.split()[0]) < 0.25, out
