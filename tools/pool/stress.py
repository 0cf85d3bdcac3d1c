"""Try the pool for minutes: what tests/pool tries in short form, with every result counted.

    python tools/pool/stress.py                      # all four: about five minutes
    python tools/pool/stress.py forks --n 250        # a shorter one
    python tools/pool/stress.py interrupts crowd
    python tools/pool/stress.py --short              # a few of each: seconds

    forks        1,000 forks from a process whose threads are inside calls; every child computes, and some of their
                 children do
    interrupts   200 Ctrl-C at random moments, in calls that take seconds
    crowd        64 threads call at once while the number of threads changes
    exit         20 processes end while daemon threads compute

Each runs in a separate process, so that it starts without a pool. If nothing happens for 30 s, the process prints where
its threads are, and dies. Bits are compared with the results of one thread. The exit status is 1 if anything was wrong.
"""

import argparse
import faulthandler
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

from backprop import Network, _core, get_num_threads, set_num_threads

SHORT = {"forks": 10, "interrupts": 2, "crowd": 3, "exit": 1}
DEFAULTS = {"forks": 1000, "interrupts": 200, "crowd": 1000, "exit": 20}  # crowd: calls of each thread
SLOWNESS = int(os.environ.get("BACKPROP_TEST_SLOWNESS", "1"))  # tests/support/slowness.py
WATCH = 30 * SLOWNESS  # seconds
LATEST = 0.2 * SLOWNESS  # seconds from a signal to its KeyboardInterrupt: a poll every 50 ms, and what runs in between
MOST_WORKERS = 12
N_CALLERS = 64


def watch():
    """Restart the watchdog's time."""
    faulthandler.dump_traceback_later(WATCH, exit=True)


def watch_child():
    """The same after a fork: a signal ends the child. faulthandler would wait for a thread that no longer exists."""
    signal.alarm(WATCH)


class Problem:
    """A network with data and the bits of one thread.

    Parameters
    ----------
    sizes : list of int
    n_samples : int
    n_check : int
        Samples of the short call of `is_right`.
    """

    def __init__(self, sizes, n_samples, n_check=None, dtype="float32"):
        rng = np.random.default_rng(n_samples)
        self.net = Network(sizes, activations="tanh", dtype=dtype, rng=1)
        self.x = rng.standard_normal((n_samples, sizes[0]), dtype)
        self.y = rng.standard_normal((n_samples, sizes[-1]), dtype)
        self._short = self.x[:n_check], self.y[:n_check]
        self._expected = self.net.value_and_grad(*self._short, n_threads=1)

    def is_right(self, n_threads=2):
        """Whether a call gives the expected bits."""
        loss, grad = self.net.value_and_grad(*self._short, n_threads=n_threads)
        return loss == self._expected[0] and np.array_equal(grad, self._expected[1])


def both_ways():
    """A network whose threads take chunks, and one whose threads take strips."""
    return Problem([4, 16, 16, 1], 5000), Problem([64, 256, 256, 8], 200)


# forks ----------------------------------------------------------------------------------------------------------------


def run_child(problems, depth):
    """What a child does, and its own child if depth > 0; it never returns."""
    good = False
    try:
        watch_child()
        good = all(p.is_right(n_threads) for n_threads in (2, 3) for p in problems)
        if depth:
            pid = os.fork()
            if pid == 0:
                run_child(problems, depth - 1)
            good = problems[1].is_right() and problems[0].is_right() and good  # while the grandchild computes
            good = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and good
    finally:
        os._exit(0 if good else 1)


def forks(n):
    """Fork before the pool exists, while threads are inside calls, after them, and from children."""
    faulthandler.register(signal.SIGALRM, chain=True)  # a child that hangs prints where, and dies
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of every fork of a process with threads
    problems = both_ways()
    moments = {"before": n // 10, "during": n - n // 10 - n // 10, "after": n // 10}
    go, stop = threading.Event(), threading.Event()
    calls, wrong_calls, wrong_children, n_nested = [0, 0, 0], [0, 0, 0], [], 0
    slowest, draw = 0.0, random.Random()

    def caller(k):
        while not stop.is_set():
            if not go.wait(0.1):
                continue
            wrong_calls[k] += not problems[(calls[k] + k) % 2].is_right()
            calls[k] += 1

    callers = [threading.Thread(target=caller, args=(k,)) for k in range(3)]
    n_own = n_own_wrong = 0
    for moment, n_forks in moments.items():
        if moment == "during":
            go.set()
            for thread in callers:
                thread.start()
        elif moment == "after":
            go.clear()
            time.sleep(0.2)
        for k in range(n_forks):
            watch()
            depth = k % 4 == 0
            n_nested += depth
            time.sleep(draw.uniform(0, 0.002))
            start = time.monotonic()
            pid = os.fork()
            if pid == 0:
                run_child(problems, depth)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            slowest = max(slowest, time.monotonic() - start)
            if code:
                wrong_children.append(f"{moment} {k}: status {code}")
            if moment != "before":
                n_own += 1
                n_own_wrong += not problems[k % 2].is_right()
    stop.set()
    for thread in callers:
        thread.join()
    n_calls, n_wrong = n_own + sum(calls), n_own_wrong + sum(wrong_calls)
    print(
        f"forks: {n - len(wrong_children)} of {n} children right ({', '.join(f'{m} {k}' for m, k in moments.items())}; "
        f"{n_nested} with a child of their own), {n_calls - n_wrong} of {n_calls} parent calls right, "
        f"slowest child {slowest:.2f} s"
    )
    print(*wrong_children[:10], sep="\n", end="\n" * bool(wrong_children))
    return not wrong_children and not n_wrong and sum(calls) > 0


# interrupts -----------------------------------------------------------------------------------------------------------

SENDER = """
import ctypes, os, signal, sys, time
clock = ctypes.c_int()
assert not ctypes.CDLL(None).clock_getcpuclockid(os.getppid(), ctypes.byref(clock))
for line in sys.stdin:
    time.sleep(float(line))
    sent = time.monotonic(), time.clock_gettime(clock.value)
    os.kill(os.getppid(), signal.SIGINT)
    print(*sent, flush=True)
"""


def interrupts(n):
    """Ctrl-C at random moments of long calls, from a thread and from another process in turn.

    One is late if LATEST has passed by the clock, and also by the CPU time of this process divided by its number of
    threads: the clock alone would count the time of other programs on a busy machine. It is the CPU time of all
    threads, because the caller may sleep through a signal while a worker computes.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets background jobs ignore it
    sender = subprocess.Popen([sys.executable, "-c", SENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    makers = {  # calls that take a second or more on one thread
        "chunks": lambda: Problem([64, 256, 256, 4], 300_000, 3000),
        "strips": lambda: Problem([64, 640, 640, 4], 60_000, 500),
        "deep": lambda: Problem([64, *[1536] * 12, 4], 4096, 64),  # a strip goes through many wide layers
        "wide": lambda: Problem([64, 8192, 8192, 4], 1024, 20),  # one product of a tile takes half a second
        "wide float64": lambda: Problem([64, 6000, 6000, 4], 1024, 20, "float64"),
    }
    latencies, own_latencies, wrong, draw = {}, [], 0, random.Random()
    for j, (kind, make) in enumerate(makers.items()):
        watch()
        problem = make()
        before = problem.net.params.copy()
        for k in range(n // len(makers) + (j < n % len(makers))):
            watch()
            n_threads, calls_forward, by_process = 1 + k % 2, k % 6 >= 4, k // 2 % 2
            delay, sent = draw.uniform(0.01, 0.6), []

            def send(delay=delay, sent=sent):
                time.sleep(delay)
                sent.extend((time.monotonic(), time.process_time()))
                os.kill(os.getpid(), signal.SIGINT)

            thread = threading.Thread(target=send)
            try:
                if by_process:
                    sender.stdin.write(f"{delay}\n")
                    sender.stdin.flush()
                else:
                    thread.start()
                while True:
                    if calls_forward:
                        problem.net.forward(problem.x, n_threads=n_threads)
                    else:
                        problem.net.value_and_grad(problem.x, problem.y, n_threads=n_threads)
            except KeyboardInterrupt:
                caught = time.monotonic(), time.process_time()
            if by_process:
                sent.extend(map(float, sender.stdout.readline().split()))
            else:
                thread.join()
            seconds, cpu_seconds = np.subtract(caught, sent)
            latencies.setdefault(f"{kind}, {n_threads} thr.", []).append(seconds)
            own_latencies.append(min(seconds, cpu_seconds / n_threads))
            wrong += not (np.array_equal(problem.net.params, before) and problem.is_right(3 - n_threads))
        del problem, before
    sender.stdin.close()
    sender.wait()
    total = [seconds for some in latencies.values() for seconds in some]
    late, own_late = (sum(seconds > LATEST for seconds in some) for some in (total, own_latencies))
    for kind, some in latencies.items():
        print(f"  {kind:<22} {len(some):>3} interrupts, median {median(some):.3f} s, longest {max(some):.3f} s")
    print(
        f"interrupts: {len(total)} of {n} raised, {len(total) - wrong} with parameters untouched and the next call "
        f"right; median {median(total):.3f} s, longest {max(total):.3f} s, {late} above {LATEST} s; by this process's "
        f"own time longest {max(own_latencies):.3f} s, {own_late} above"
    )
    return len(total) == n and not wrong and not own_late


# crowd ----------------------------------------------------------------------------------------------------------------


def crowd(n):
    """64 threads on shared networks, while the number of threads changes under them."""
    problems = both_ways()
    barrier, draw = threading.Barrier(N_CALLERS + 1), random.Random()
    before = len(os.listdir("/proc/self/task"))
    most_threads = most_workers = n_changes = 0
    first_number = get_num_threads()
    n_called = [0] * N_CALLERS
    sys.setswitchinterval(1e-4)  # else 64 threads leave no time for this one

    def caller(k):
        barrier.wait()
        n_right = 0
        for i in range(n):
            n_right += problems[(i + k) % 2].is_right((2, None, 2 + k % 3)[i % 3])
            n_called[k] = i
        return n_right

    watch()
    with ThreadPoolExecutor(N_CALLERS) as pool:
        futures = [pool.submit(caller, k) for k in range(N_CALLERS)]
        barrier.wait()
        called = 0
        while not all(future.done() for future in futures):
            set_num_threads(draw.randint(1, 8))
            n_changes += 1
            most_workers = max(most_workers, _core.worker_threads())
            most_threads = max(most_threads, len(os.listdir("/proc/self/task")) - before - N_CALLERS)
            time.sleep(0.001)
            if sum(n_called) > called:  # calls, not callers: on a slow machine all callers end late, and together
                watch()
                called = sum(n_called)
        n_right = sum(future.result() for future in futures)
    set_num_threads(first_number)
    good = problems[0].is_right() and problems[1].is_right()
    print(
        f"crowd: {n_right} of {N_CALLERS * n} calls of {N_CALLERS} threads right over {n_changes} changes of the "
        f"number of threads, at most {most_workers} workers and {most_threads} OS threads beside the callers"
    )
    return n_right == N_CALLERS * n and good and most_workers <= MOST_WORKERS and most_threads <= MOST_WORKERS


# exit -----------------------------------------------------------------------------------------------------------------


def leave():
    """One process of `exit_while_computing`: return while two daemon threads compute."""
    faulthandler.register(signal.SIGALRM, chain=True)
    problems = both_ways()

    def caller(problem):
        while problem.is_right():
            pass
        os._exit(2)

    for problem in problems:
        threading.Thread(target=caller, args=(problem,), daemon=True).start()
    time.sleep(random.uniform(0, 0.1))
    watch_child()  # faulthandler's own watchdog ends with the interpreter
    return 0


def exit_while_computing(n):
    """Interpreters end while threads are inside calls."""
    codes, slowest = [], 0.0
    for _ in range(n):
        watch()
        start = time.monotonic()
        codes.append(subprocess.run([sys.executable, __file__, "--inside", "leave"], check=False).returncode)
        slowest = max(slowest, time.monotonic() - start)
    wrong = [code for code in codes if code]
    print(f"exit: {n - len(wrong)} of {n} processes ended with status 0, slowest {slowest:.2f} s", *wrong)
    return not wrong


TRIALS = {"forks": forks, "interrupts": interrupts, "crowd": crowd, "exit": exit_while_computing}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", nargs="*", metavar="trial", help=f"of {', '.join(TRIALS)} (default: all)")
    parser.add_argument("--n", type=int, help=f"how many (default {DEFAULTS})")
    parser.add_argument("--short", action="store_true", help=f"few of each: {SHORT}")
    parser.add_argument("--inside", choices=[*TRIALS, "leave"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside == "leave":
        return leave()
    if arguments.inside:
        watch()
        start = time.monotonic()
        good = TRIALS[arguments.inside](arguments.n)
        print(f"  {time.monotonic() - start:.0f} s")
        return int(not good)
    unknown = [name for name in arguments.trials if name not in TRIALS]
    if unknown or (arguments.n is not None and arguments.n < 1):
        parser.error(f"expected some of {', '.join(TRIALS)} and --n >= 1, got {unknown or arguments.n}")
    failed = []
    for name in arguments.trials or TRIALS:
        n = arguments.n or (SHORT if arguments.short else DEFAULTS)[name]
        done = subprocess.run([sys.executable, __file__, "--inside", name, "--n", str(n)], check=False)
        if done.returncode:
            failed.append(name)
            print(f"{name}: WRONG (status {done.returncode})", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
