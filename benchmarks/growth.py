"""How time and memory grow, how long the import takes, and how little one call can cost.

    python benchmarks/growth.py [--json FILE] [--threads N] [--only time,memory,import,overhead]
    python benchmarks/growth.py --short      # few points and rounds, to see that everything works: seconds

README.md in this folder says what each number means.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import machine
import memory
import numpy as np
from cases import Case, make_problem
from peers import make_ours

OFF_LINE = 0.15  # relative distance from the line; points further away are named
BLOCK_SECONDS = 2e-3
SECONDS_PER_POINT = 0.4

SWEEPS = {
    "samples": [(n, [30, 100, 100, 1], n) for n in (16, 64, 256, 1024, 4096, 16384, 65536)],
    "width": [(n, [n] * 4, 256) for n in (8, 16, 32, 64, 128, 256, 512, 1024, 2048)],
    "depth": [(n, [100] * (n + 1), 256) for n in (2, 4, 8, 16, 32, 64)],
}
SWEEP_TITLES = {
    "samples": "30-100-100-1, tanh, 16 to 65,536 samples",
    "width": "three layers n-n-n-n, tanh, 256 samples, n from 8 to 2,048",
    "depth": "layers of 100, tanh, 256 samples, 2 to 64 layers",
}

MEMORY_SETUP = """
net = Network([30, 100, 100, 1], activations="tanh", dtype="float32", rng=0)
x = rng.standard_normal(({n_samples}, 30), np.float32)
y = rng.standard_normal(({n_samples}, 1), np.float32)
"""
IMPORT_PROGRAM = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def one_call(call, seconds=SECONDS_PER_POINT, least_rounds=5):
    """Median seconds of a call, from blocks of at least BLOCK_SECONDS that take `seconds` together."""
    call()
    start = time.perf_counter()
    call()
    n = max(1, int(BLOCK_SECONDS / max(time.perf_counter() - start, 1e-8)))
    samples = []
    begin = time.perf_counter()
    while len(samples) < least_rounds or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        for _ in range(n):
            call()
        samples.append((time.perf_counter() - start) / n)
    return median(samples)


def fit(work, seconds):
    """Least squares on logarithms: the exponent, and each point's relative distance from the line."""
    exponent, constant = np.polyfit(np.log(work), np.log(seconds), 1)
    return exponent, seconds / np.exp(constant + exponent * np.log(work)) - 1


def straight_part(work, seconds):
    """The first index of the longest run of points, up to the last one, that lies on a line within OFF_LINE."""
    for first in range(len(work) - 2):
        _, distances = fit(work[first:], seconds[first:])
        if np.abs(distances).max() <= OFF_LINE:
            return first
    return len(work) - 2


def measure_time(n_threads, is_short=False):
    """Time the three sweeps, and print the points, the exponents, and the points that lie off the line."""
    results = {}
    for sweep, every_point in SWEEPS.items():
        points = every_point[:4] if is_short else every_point
        least = {"seconds": 0.0, "least_rounds": 1} if is_short else {}
        for dtype in ("float32", "float64"):
            cases = [Case(sweep, tuple(sizes), n_samples, "tanh") for _, sizes, n_samples in points]
            calls = [make_ours(make_problem(case, dtype), n_threads).call for case in cases]
            seconds = np.array([one_call(call, **least) for call in calls])
            amount, work = np.array([point[0] for point in points]), np.array([case.flops for case in cases])
            print(f"\nTime against {sweep}, {dtype}: {SWEEP_TITLES[sweep]}")
            for n, s, w in zip(amount, seconds, work, strict=True):
                print(f"  {n:>8,}  {1e6 * s:>12,.1f} us  {1e-9 * w / s:>7.1f} GFLOP/s")
            exponent, distances = fit(work, seconds)
            off = [f"{n:,} ({d:+.0%})" for n, d in zip(amount, distances, strict=True) if abs(d) > OFF_LINE]
            print(f"  exponent of the floating-point operations, all points: {exponent:.3f} (1 is proportional)")
            first = straight_part(work, seconds)
            if off:
                straight, _ = fit(work[first:], seconds[first:])
                print(f"  not straight within {OFF_LINE:.0%} at {sweep} = {', '.join(off)}")
                print(f"  straight from {sweep} = {amount[first]:,} on, exponent {straight:.3f}")
            else:
                print(f"  straight within {OFF_LINE:.0%} everywhere")
            local = np.diff(np.log(seconds)) / np.diff(np.log(work))
            worst = int(np.abs(local - 1)[first:].argmax()) + first
            pair = f"{amount[worst]:,} and {amount[worst + 1]:,}"
            print(f"  exponent between neighbours furthest from 1 on the straight part: {local[worst]:.2f}, {pair}")
            results[f"{sweep} {dtype}"] = {
                "amount": amount.tolist(),
                "flops": work.tolist(),
                "seconds": seconds.tolist(),
                "exponent": exponent,
                "straight_from": int(amount[first]),
            }
    return results


def measure_memory(n_threads, is_short=False):
    """Peak resident memory that one call adds, each in a separate process."""
    counts = (10_000, 20_000) if is_short else (100, 1000, 10_000, 100_000, 1_000_000)
    results = []
    print("\nMemory against samples: 30-100-100-1, tanh, float32; MiB of peak resident memory that a first call adds")
    for threads in sorted({1, n_threads}):
        for n_samples in counts:
            call = f"net.value_and_grad(x, y, n_threads={threads})"
            added, _, _ = memory.measure(MEMORY_SETUP.format(n_samples=n_samples), call)
            inputs = n_samples * 31 * 4 / 2**20
            results.append({"threads": threads, "samples": n_samples, "added": added, "inputs": inputs})
            row = f"x and y {inputs:>6.1f}, added by the call {added:>5.2f}"
            print(f"  {threads} thr. {n_samples:>9,} samples: {row}", flush=True)
        chosen = [row for row in results if row["threads"] == threads and row["samples"] >= 10_000]
        growth = chosen[-1]["added"] - chosen[0]["added"]
        verdict = "does not grow" if growth < 1 else f"GROWS by {growth:.1f} MiB"
        print(f"  {threads} thr.: from 10,000 to {counts[-1]:,} samples the memory of the call {verdict}")
    return results


def measure_imports(rounds=15):
    """Import times in fresh processes, interleaved; medians."""
    names = ("numpy", "backprop")
    samples = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            samples[name].append(float(child([IMPORT_PROGRAM.format(name)])))
    ours, numpy = median(samples["backprop"]), median(samples["numpy"])
    ratio = median(a / b for a, b in zip(samples["backprop"], samples["numpy"], strict=True))
    times = f"numpy {1e3 * numpy:.0f} ms, backprop {1e3 * ours:.0f} ms (NumPy's own included)"
    print(f"\nImport: {times}: {ratio:.2f} x")
    return {"numpy": numpy, "backprop": ours, "ratio": ratio}


def measure_overhead(rounds=200):
    """The smallest call, 1-1 with one sample, beside np.add of four elements, in interleaved blocks."""
    import backprop

    net = backprop.Network([1, 1], rng=0)
    x, y, grad = np.ones((1, 1)), np.ones((1, 1)), np.empty(2)
    a, b, c = np.ones(4), np.ones(4), np.empty(4)

    def ours(n):
        call, start = net.value_and_grad, time.perf_counter()
        for _ in range(n):
            call(x, y, out=grad)
        return (time.perf_counter() - start) / n

    def add(n):
        call, start = np.add, time.perf_counter()
        for _ in range(n):
            call(a, b)
        return (time.perf_counter() - start) / n

    def add_out(n):
        call, start = np.add, time.perf_counter()
        for _ in range(n):
            call(a, b, out=c)
        return (time.perf_counter() - start) / n

    n = 2000
    for function in (ours, add, add_out):
        function(n)
    samples = [[function(n) for function in (ours, add, add_out)] for _ in range(rounds)]
    of_ours, of_add, of_add_out = (1e9 * median(column) for column in zip(*samples, strict=True))
    ratio = median(row[0] / row[1] for row in samples)
    ratio_out = median(row[0] / row[2] for row in samples)
    print(f"\nOverhead: value_and_grad of 1-1 with one sample and out=: {of_ours:.0f} ns")
    print(f"  np.add(a, b) of four elements: {of_add:.0f} ns, ratio {ratio:.2f}")
    print(f"  np.add(a, b, out=c): {of_add_out:.0f} ns, ratio {ratio_out:.2f}")
    return {"ours": of_ours, "add": of_add, "add_out": of_add_out, "ratio": ratio, "ratio_out": ratio_out}


def child(argv):
    """Output of a program in a fresh process."""
    command = [sys.executable, "-c", *argv]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(argv=None):
    """Run the parts that were asked for, print them, write the file."""
    parts = ("time", "memory", "import", "overhead")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of the timed calls (default 1)")
    parser.add_argument("--only", default=",".join(parts), help=f"some of {','.join(parts)}")
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--short", action="store_true", help="few points and rounds: seconds")
    options = parser.parse_args(argv)
    only = re.split(r"\s*,\s*", options.only)
    if not set(only) <= set(parts):
        parser.error(f"--only: expected some of {','.join(parts)}, got {options.only}")
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"{machine.cpu_model()}, {options.threads} thread{'s' * (options.threads > 1)}, load average {load}")
    results = {}
    if "overhead" in only:
        results["overhead"] = measure_overhead(*[5] * options.short)
    if "import" in only:
        results["import"] = measure_imports(*[2] * options.short)
    if "memory" in only:
        results["memory"] = measure_memory(max(options.threads, len(os.sched_getaffinity(0))), options.short)
    if "time" in only:
        results["time"] = measure_time(options.threads, options.short)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
