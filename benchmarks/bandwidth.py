"""The rate at which threads read and write working sets of several sizes, each thread its own, by a loop in C."""

import ctypes
import threading

import machine
import numpy as np

MEGABYTES = (0.25, 1, 4, 12, 64, 256)  # of each thread; 1 MB is 10^6 bytes
SHORT = (0.25, 1)
BLOCK_SECONDS = 5e-3  # at least; the threads of a block start within some microseconds of each other

# Vectors of 64 bytes become two of 32 if the CPU has no AVX-512. Four sums hide the latency of the addition. The loops
# take plain loads and stores: a store to a line that is not in the cache reads it first.
SOURCE = r"""
#include <time.h>
typedef long long V __attribute__((vector_size(64)));
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}
double read_loop(V *p, long n, long times, long long *sink)
{
    V a = {0}, b = {0}, c = {0}, d = {0};
    double start = now();
    for (long k = 0; k < times; k++) {
        for (long i = 0; i < n; i += 4) { a += p[i]; b += p[i + 1]; c += p[i + 2]; d += p[i + 3]; }
        __asm__ volatile("" ::: "memory");
    }
    double seconds = now() - start;
    a += b; c += d; a += c;
    *sink = a[0] + a[7];
    return seconds;
}
double write_loop(V *p, long n, long times, long long *sink)
{
    V a = {*sink, 1, 2, 3, 4, 5, 6, 7};
    double start = now();
    for (long k = 0; k < times; k++) {
        for (long i = 0; i < n; i += 4) { p[i] = a; p[i + 1] = a; p[i + 2] = a; p[i + 3] = a; }
        a += 1;
        __asm__ volatile("" ::: "memory");
    }
    return now() - start;
}
"""


def compile_loops(folder):
    """Compile the loops; the library, or None if no compiler works."""
    path = machine.compile_c(folder, "bandwidth", SOURCE)
    if path is None:
        return None
    library = ctypes.CDLL(path)
    for name in ("read_loop", "write_loop"):
        function = getattr(library, name)
        function.restype = ctypes.c_double
        function.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.c_void_p]
    return library


class Arrays:
    """One aligned array for each thread. A working set is the beginning of each."""

    def __init__(self, n_threads, n_bytes):
        self.n_bytes = n_bytes - n_bytes % 256
        self.blocks = [np.ones(self.n_bytes + 64, np.uint8) for _ in range(n_threads)]
        self.starts = [-(-block.ctypes.data // 64) * 64 for block in self.blocks]
        self.sinks = np.zeros((n_threads, 8), np.int64)

    def rate(self, function, n_threads, n_bytes, times):
        """GB/s of n_threads threads together."""
        n, seconds = int(n_bytes) // 256 * 4, [0.0] * n_threads
        barrier = threading.Barrier(n_threads)

        def run(i):
            barrier.wait()
            seconds[i] = function(self.starts[i], n, times, self.sinks[i].ctypes.data)

        others = [threading.Thread(target=run, args=(i,)) for i in range(1, n_threads)]
        for thread in others:
            thread.start()
        run(0)
        for thread in others:
            thread.join()
        return sum(64e-9 * n * times / s for s in seconds)


def measure(library, counts, megabytes=MEGABYTES, seconds=0.5):
    """Measure the bandwidth of each number of threads.

    Parameters
    ----------
    library : ctypes.CDLL
        From `compile_loops`.
    counts : list of int
        Numbers of threads. They take turns, so that a disturbance hits all of them.
    megabytes : sequence of float
        Working sets of each thread.
    seconds : float
        For each working set and direction.

    Returns
    -------
    list of dict
        "megabytes", "direction" ("read" or "write"), and "rates": the best GB/s of all threads together by their
        number, as a string, as JSON has it.
    """
    arrays = Arrays(max(counts), int(1e6 * max(megabytes)))
    rows = []
    for size in megabytes:
        for direction in ("read", "write"):
            function = getattr(library, f"{direction}_loop")
            best = {}
            arrays.rate(function, max(counts), 1e6 * size, 1)
            times = max(1, int(BLOCK_SECONDS * arrays.rate(function, 1, 1e6 * size, 1) * 1e3 / size))
            block = times * size * 1e-3 / arrays.rate(function, 1, 1e6 * size, times)
            for _ in range(max(3, int(seconds / block / len(counts)))):
                for n in counts:
                    best[n] = max(best.get(n, 0.0), arrays.rate(function, n, 1e6 * size, times))
            rows.append({"megabytes": size, "direction": direction, "rates": {str(n): best[n] for n in counts}})
    return rows


def scaling(rows, n_threads, megabytes):
    """How many times as fast n_threads read and write as one does; the smaller one, at the nearest working set."""
    nearest = min((row["megabytes"] for row in rows), key=lambda size: abs(np.log(size / megabytes)))
    return min(row["rates"][str(n_threads)] / row["rates"]["1"] for row in rows if row["megabytes"] == nearest)


def rate(rows, direction, megabytes):
    """GB/s of one thread at the nearest working set."""
    chosen = [row for row in rows if row["direction"] == direction]
    return min(chosen, key=lambda row: abs(np.log(row["megabytes"] / megabytes)))["rates"]["1"]


def table(rows):
    """The rates as text."""
    counts = list(rows[0]["rates"])
    lines = [f"GB/s by working set of each thread, {', '.join(counts)} threads, and the most threads over one:"]
    for size in dict.fromkeys(row["megabytes"] for row in rows):
        parts = []
        for row in (row for row in rows if row["megabytes"] == size):
            rates = "".join(f"{row['rates'][n]:8.1f}" for n in counts)
            more = row["rates"][counts[-1]] / row["rates"][counts[0]]
            parts.append(f"  {row['direction']} {rates}" + (f"  x {more:.2f}" if len(counts) > 1 else ""))
        lines.append(f"{size:8g} MB" + "".join(parts))
    return "\n".join(lines)
