"""The thread pool: what it costs to hand work over, how two threads scale, and whether idle workers sleep.

    python benchmarks/pool.py                                # all three: two minutes
    python benchmarks/pool.py handover idle
    python benchmarks/pool.py scaling --simd v3,v4 --processes 20 --cases 'rl,pinn-2*'
    python benchmarks/pool.py --short        # few rounds of each, to see that everything works: seconds

README.md in this folder says what each number means.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

import numpy as np
from cases import Case, make_problem, select

import backprop

# Just large enough for two threads: one network is divided into chunks, the other one into strips.
SMALL = {
    "chunks": Case("1-32-32-32-1@256", (1, 32, 32, 32, 1), 256, "tanh"),
    "strips": Case("8-64-64-2@128", (8, 64, 64, 2), 128, "tanh"),
}
PAUSES = (0.0, 5e-6, 50e-6, 500e-6, 5e-3)
ROUNDS, CALLS = 15, 20  # rounds with one thread and two in turn, and calls in each
EXTRA = Case("wide-512-2048-2048-512@64", (512, 2048, 2048, 512), 64, "gelu")
DEFAULT_CASES = (
    "pinn-1-32x3-1@256,rl-8-64-64-2@64,digits,cls,mnist-784-128-10@64,pinn-2,rl-27,rl-17,deep,tab,"
    "wide,wide-512-2048-2048-512@64,big"
)
MOST_TILE_ROWS = 512  # of any network (WIDE_TILE_ROWS in recursion/shape.pxd)
GOAL_SECONDS, GOAL_SHORT, GOAL = 0.3e-3, 1.7, 1.8  # of calls from so long on: below a millisecond, and from there on
SLOWER = 0.97  # below, two threads are slower; what is nearer to 1 is noise of calls that take one thread in any case
CASE_SECONDS = 0.4
BLOCK_SECONDS = 2e-3
SLEEP_SECONDS = 0.05
ASLEEP_SECONDS = 1e-3  # most CPU time that a worker may take after its last task


def choose(words):
    """Cases by name, the extra one among them."""
    names = words.split(",")
    chosen = select([name for name in names if name != EXTRA.name])
    return chosen + [EXTRA] * (EXTRA.name in names)


def make_call(case):
    """A function of the number of threads that computes loss and gradient in float32."""
    problem = make_problem(case, "float32")
    net = backprop.Network(case.sizes, activations=case.activation, loss=case.loss, dtype="float32", rng=0)
    for (W, b), W_own, b_own in zip(problem.layers, net.weights, net.biases, strict=True):
        W_own[...], b_own[...] = W, b
    x, y, grad = problem.x, problem.y, np.empty_like(net.params)
    return lambda n_threads: net.value_and_grad(x, y, out=grad, n_threads=n_threads)


def keep_busy(seconds):
    """Keep this thread busy for a time, like a caller that computes something else."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


# handover -------------------------------------------------------------------------------------------------------------


def time_calls(call, n_threads, pause):
    """Median seconds of a call that comes `pause` after the last one."""
    samples = []
    for _ in range(CALLS):
        keep_busy(pause)
        start = time.perf_counter()
        call(n_threads)
        samples.append(time.perf_counter() - start)
    return median(samples)


def measure_handover(rounds=ROUNDS, pauses=PAUSES):
    """Compare two threads with half of the time of one, after pauses of several lengths."""
    print("\nHand-over: microseconds per call, medians; extra is the time of two threads less half the time of one")
    print(f"  {'network':<26} {'pause':>8} {'1 thread':>9} {'2 threads':>9} {'extra':>7} {'speed-up':>8}")
    results = []
    for way, case in SMALL.items():
        call = make_call(case)
        for pause in pauses:
            for n_threads in (1, 2):
                time_calls(call, n_threads, pause)
            one, two = zip(*[[time_calls(call, n, pause) for n in (1, 2)] for _ in range(rounds)], strict=True)
            extra = median(b - a / 2 for a, b in zip(one, two, strict=True))
            ratio = median(a / b for a, b in zip(one, two, strict=True))
            row = {"way": way, "pause": pause, "one": median(one), "two": median(two), "extra": extra, "ratio": ratio}
            results.append(row)
            times = f"{1e6 * row['one']:>9.1f} {1e6 * row['two']:>9.1f} {1e6 * extra:>7.1f} {ratio:>8.2f}"
            print(f"  {case.name + ', ' + way:<26} {1e6 * pause:>5.0f} us {times}", flush=True)
    return results


# scaling --------------------------------------------------------------------------------------------------------------


def speed_up(call):
    """The time of one thread divided by that of two, the median over blocks in turn; and the least time of one."""
    n = 1
    for n_threads in (1, 2):
        call(n_threads)
    start = time.perf_counter()
    call(2)
    n = max(1, int(BLOCK_SECONDS / max(time.perf_counter() - start, 1e-8)))
    ratios, least, begin = [], float("inf"), time.perf_counter()
    while len(ratios) < 3 or time.perf_counter() - begin < CASE_SECONDS:
        seconds = []
        for n_threads in (1, 2):
            call(n_threads)  # not timed: it wakes the workers, or lets them stop spinning
            start = time.perf_counter()
            for _ in range(n):
                call(n_threads)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
        least = min(least, seconds[0] / n)
    return median(ratios), least


def least_traffic(case):
    """Bytes of parameters, gradient and data of a case in float32, and the fewest that a call must move.

    A tile has at most MOST_TILE_ROWS rows. It reads each W for the forward product and again for the hidden sum, except
    that of the first layer, and it writes the gradient; later tiles read the gradient too. The data are read once.
    """
    products = [n * m for n, m in zip(case.sizes[1:], case.sizes[:-1], strict=True)]
    n_W, data = sum(products), case.n_samples * (case.sizes[0] + case.sizes[-1])
    n_tiles = -(-case.n_samples // MOST_TILE_ROWS)
    moved = n_tiles * (2 * n_W - products[0] + 2 * n_W) - n_W + data
    return 4 * (2 * n_W + data), 4 * moved


class Limits:
    """How this machine scales with two threads: its FMAs, and the bandwidth of its caches and memory."""

    def __init__(self, short):
        import bandwidth
        import machine

        self.bandwidth, self.fma, self.rates = bandwidth, 2.0, None
        self.private = max((c["bytes"] for c in machine.caches() if (c["cpus"] or 2) == 1), default=0)
        with tempfile.TemporaryDirectory() as folder:
            library = machine.compile_peak(folder)
            if library is not None:
                rates = [[machine.Peak(library, n).measure(4) for _ in range(3)] for n in (1, 2)]
                self.fma = max(rates[1]) / max(rates[0])
                loops = bandwidth.compile_loops(folder)
                sizes = bandwidth.SHORT if short else bandwidth.MEGABYTES
                self.rates = bandwidth.measure(loops, [1, 2], sizes, 0.02 if short else 0.5)

    def of(self, case, seconds):
        """The share of memory in the time of one thread, at least, and the speed-up that it allows at most."""
        held, moved = least_traffic(case)
        if held <= self.private or self.rates is None:
            return 0.0, self.fma
        rate = self.bandwidth.rate(self.rates, "read", held / 1e6)
        share = min(1.0, moved / (1e9 * rate) / seconds)
        return share, 1 / ((1 - share) / self.fma + share / self.bandwidth.scaling(self.rates, 2, held / 1e6))


def measure_scaling(cases, n_processes, simd, limits):
    """Speed-ups in new processes, because a thread may stay on one CPU as long as its process lives."""
    print(f"\nScaling, {simd}: time of one thread divided by that of two, float32, over {n_processes} new processes")
    print(f"  {'network':<28} {'least':>6} {'median':>6} {'most':>6} {'1 thr. us':>10} {'memory %':>9} {'bound':>6}")
    command = [sys.executable, __file__, "--inside", "--cases", ",".join(case.name for case in cases)]
    environment = os.environ | {"BACKPROP_SIMD": simd}
    found = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
        for _ in range(n_processes)
    ]
    results = {}
    for case in cases:
        ratios = sorted(process[case.name][0] for process in found)
        seconds = min(process[case.name][1] for process in found)
        share, bound = limits.of(case, seconds)
        goal = GOAL if seconds >= 1e-3 else GOAL_SHORT if seconds >= GOAL_SECONDS else 0.0
        mark = "  *" * (median(ratios) < min(goal, bound)) + "  slower than one thread" * (ratios[0] < SLOWER)
        text = f"{ratios[0]:>6.2f} {median(ratios):>6.2f} {ratios[-1]:>6.2f} {1e6 * seconds:>10,.0f}"
        print(f"  {case.name:<28} {text} {100 * share:>9.0f} {bound:>6.2f}{mark}")
        results[case.name] = {"ratios": ratios, "seconds": seconds, "memory": share, "bound": bound}
    return results


# idle -----------------------------------------------------------------------------------------------------------------


def measure_idle(rounds=40):
    """CPU time of the process while its caller sleeps right after a call, which shows if the workers sleep too."""
    call = make_call(SMALL["chunks"])
    four = make_call(Case("1-32-32-32-1@1024", (1, 32, 32, 32, 1), 1024, "tanh"))
    print(f"\nIdle: CPU time of the process in the {1e3 * SLEEP_SECONDS:.0f} ms after a call, microseconds")
    good, results = True, []
    for n_threads, function in ((1, call), (2, call), (4, four)):
        samples = []
        for _ in range(rounds):
            function(n_threads)
            start = time.process_time()
            time.sleep(SLEEP_SECONDS)
            samples.append(time.process_time() - start)
        n_workers = backprop._core.worker_threads()
        limit = ASLEEP_SECONDS * max(n_workers, 1)
        verdict = "asleep" if median(samples) < limit else "NOT ASLEEP"
        good = good and verdict == "asleep"
        results.append({"threads": n_threads, "workers": n_workers, "median": median(samples), "most": max(samples)})
        numbers = f"median {1e6 * median(samples):>5.0f}, most {1e6 * max(samples):>5.0f}"
        print(f"  {n_threads} thr., {n_workers} workers: {numbers}: {verdict}")
    return good, results


def main():
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help="of handover, scaling, idle (default: all)")
    parser.add_argument("--simd", default=backprop._core.simd, help="for the scaling: v3, v4 or both, with a comma")
    parser.add_argument("--processes", type=int, default=10, help="for the scaling (default 10)")
    parser.add_argument("--cases", default=DEFAULT_CASES, help=f"for the scaling: as run.py's, or {EXTRA.name}")
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--short", action="store_true", help="few rounds of each: seconds")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.short:
        options.processes, options.cases = 1, "1-1@1,pinn-1"
    options.simd = options.simd.split(",")
    if not set(options.simd) <= set(backprop._core.supported_simd()):
        parser.error(f"--simd: expected some of {','.join(backprop._core.supported_simd())}, got {options.simd}")
    unknown = set(options.parts) - {"handover", "scaling", "idle"}
    if unknown or options.processes < 1:
        parser.error(f"expected handover, scaling or idle, and --processes >= 1, got {sorted(unknown)}")
    try:
        cases = choose(options.cases)
    except ValueError as error:
        parser.error(f"{error}, {EXTRA.name}")
    if options.inside:
        print(json.dumps({case.name: speed_up(make_call(case)) for case in cases}))
        return 0
    import machine

    about = machine.describe()
    print(f"{about['cpu']}, {about['cpus']} CPUs, {about['simd']}, load {about['load'][0]:.2f}, {about['date']}")
    print(f"caches: {machine.caches_text(about['caches'])}")
    if len(os.sched_getaffinity(0)) < 2:
        print("one CPU: two threads share it")
    parts, good, results = options.parts or ["handover", "scaling", "idle"], True, {"kind": "pool", "machine": about}
    if "handover" in parts:
        results["handover"] = measure_handover(*[2, PAUSES[:2]] if options.short else [])
    if "scaling" in parts:
        limits = Limits(options.short)
        results |= {"fma": limits.fma, "bandwidth": limits.rates}
        results["scaling"] = {simd: measure_scaling(cases, options.processes, simd, limits) for simd in options.simd}
        if limits.rates is not None:
            print(f"\nFMAs of two threads: {limits.fma:.2f} x those of one\n{limits.bandwidth.table(limits.rates)}")
    if "idle" in parts:
        good, results["idle"] = measure_idle(*[4] if options.short else [])
    if options.json:
        with open(options.json, "w") as file:
            file.write(json.dumps(results, indent=1) + "\n")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
