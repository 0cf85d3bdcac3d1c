"""Describe this machine with its caches, and measure its limits: the FMA peak, and the bandwidth of caches and memory.

python benchmarks/machine.py                        # a minute
python benchmarks/machine.py --json machine.json
python benchmarks/machine.py --short                # two small working sets, in a second
"""

import argparse
import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

import numpy as np

# Independent accumulators hide the latency of the fused multiply-add: two units times five cycles need ten. Twelve fit
# into the sixteen 256-bit registers, with two constants, and twenty-four into the thirty-two 512-bit ones. Each starts
# from another value, so that the compiler cannot merge them; a * 0.5 + 0.5 stays near 1. -ffp-contract=fast turns
# products and sums into fused multiply-adds.
PEAK_SOURCE = r"""
#include <time.h>
#define REPEAT12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define REPEAT24(X) REPEAT12(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define START(i) V r##i = half + (real)(i) * start[0];
#define STEP(i) r##i = r##i * half + half2;
#define GATHER(i) total += r##i;
#define PEAK(name, type, bytes, REPEAT)                                              \
    double name(long n, const type *start, type *sink)                               \
    {                                                                                \
        typedef type real;                                                           \
        typedef type V __attribute__((vector_size(bytes)));                          \
        enum { LANES = bytes / sizeof(type) };                                       \
        V half, half2, total;                                                        \
        struct timespec t0, t1;                                                      \
        for (int i = 0; i < LANES; i++) { half[i] = start[1]; half2[i] = start[2]; } \
        total = half;                                                                \
        REPEAT(START)                                                                \
        clock_gettime(CLOCK_MONOTONIC, &t0);                                         \
        for (long k = 0; k < n; k++) { REPEAT(STEP) }                                \
        REPEAT(GATHER)                                                               \
        for (int i = 0; i < LANES; i++) sink[i] = total[i];                          \
        clock_gettime(CLOCK_MONOTONIC, &t1);                                         \
        return (t1.tv_sec - t0.tv_sec) + 1e-9 * (t1.tv_nsec - t0.tv_nsec);           \
    }
#ifdef __AVX512F__
PEAK(peak_64_4, float, 64, REPEAT24)
PEAK(peak_64_8, double, 64, REPEAT24)
#endif
#ifdef __AVX__
PEAK(peak_32_4, float, 32, REPEAT12)
PEAK(peak_32_8, double, 32, REPEAT12)
#endif
PEAK(peak_16_4, float, 16, REPEAT12)
PEAK(peak_16_8, double, 16, REPEAT12)
"""
ACCUMULATORS = {64: 24, 32: 12, 16: 12}
SAMPLE_SECONDS = 3e-3


VECTOR_BITS = {"v2": 128, "v3": 256, "v4": 512}  # of the kernels of an instruction set


def compile_peak(folder):
    """Compile the loop of the peak; the path of the library, or None if no compiler works."""
    return compile_c(folder, "peak", PEAK_SOURCE)


def compile_c(folder, name, text):
    """Compile a shared library with the system's compiler; its path, or None if no compiler works."""
    source, library = Path(folder) / f"{name}.c", Path(folder) / f"{name}.so"
    source.write_text(text)
    for compiler in (os.environ.get("CC", "cc").split()[0], "gcc", "clang"):
        if shutil.which(compiler) is None:
            continue
        flags = ["-O2", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC"]
        done = subprocess.run([compiler, *flags, str(source), "-o", str(library)], capture_output=True, check=False)
        if done.returncode == 0:
            return str(library)
    return None


class Peak:
    """Multiply-add rate of n_threads threads that do nothing else, in GFLOP/s.

    Parameters
    ----------
    library : str or None
        From `compile_peak`; None makes every measurement None.
    n_threads : int
    simd : str, optional
        `measure` takes no wider vectors than the kernels of this instruction set. Without it, any.
    """

    def __init__(self, library, n_threads, simd=None):
        self._n_threads = n_threads
        self._library = None if library is None else ctypes.CDLL(library)
        self._loops = {}  # itemsize -> (function, vector bytes, iterations)
        self.by_width = {}  # (vector bits, itemsize) -> GFLOP/s
        self.best = {}  # itemsize -> the highest GFLOP/s so far: what a disturbed machine can do
        if self._library is None:
            return
        most_bits = VECTOR_BITS.get(simd, 512)
        for itemsize in (4, 8):
            best = 0.0
            for width in (64, 32, 16):
                name = f"peak_{width}_{itemsize}"
                if not hasattr(self._library, name):
                    continue
                function = getattr(self._library, name)
                function.restype = ctypes.c_double
                function.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
                n = 10_000
                while (seconds := self._one(function, n, itemsize)) < SAMPLE_SECONDS:
                    n = max(2 * n, int(n * SAMPLE_SECONDS / max(seconds, 1e-6)))
                rate = max(self._rate(function, width, n, itemsize) for _ in range(10))
                self.by_width[8 * width, itemsize] = rate
                if 8 * width <= most_bits and rate > 1.02 * best:
                    best, self._loops[itemsize] = rate, (function, width, n)
                    self.best[itemsize] = rate

    @staticmethod
    def _one(function, n, itemsize):
        dtype = np.dtype(f"f{itemsize}")
        start, sink = np.array([1e-3, 0.5, 0.5], dtype), np.empty(64 // itemsize, dtype)
        return function(n, start.ctypes.data, sink.ctypes.data)

    def _rate(self, function, width, n, itemsize):
        flops = 2.0 * n * ACCUMULATORS[width] * (width // itemsize)
        seconds = [0.0] * self._n_threads

        def run(i):
            seconds[i] = self._one(function, n, itemsize)

        others = [threading.Thread(target=run, args=(i,)) for i in range(1, self._n_threads)]
        for thread in others:
            thread.start()
        run(0)
        for thread in others:
            thread.join()
        return 1e-9 * sum(flops / s for s in seconds)

    def measure(self, itemsize):
        """GFLOP/s of the fastest loop in a few milliseconds, or None without a compiler."""
        if itemsize not in self._loops:
            return None
        function, width, n = self._loops[itemsize]
        rate = self._rate(function, width, n, itemsize)
        self.best[itemsize] = max(rate, self.best[itemsize])
        return rate


def write_bandwidth(n_threads, n_bytes=256 << 20):
    """Rate in GB/s at which NumPy fills a large array, one slice per thread; the best of five."""
    slices = np.array_split(np.ones(n_bytes // 8), n_threads)
    best = 0.0
    for value in range(5):
        others = [threading.Thread(target=part.fill, args=(float(value),)) for part in slices[1:]]
        start = time.perf_counter()
        for thread in others:
            thread.start()
        slices[0].fill(float(value))
        for thread in others:
            thread.join()
        best = max(best, 1e-9 * n_bytes / (time.perf_counter() - start))
    return best


def choose_cpus(n):
    """Choose n of the CPUs that this process may use: different cores first, then second threads of a core."""
    usable = sorted(os.sched_getaffinity(0))
    rank, seen = {}, {}
    for cpu in usable:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = path.read_text().strip() if path.exists() else str(cpu)
        rank[cpu] = seen[core] = seen.get(core, -1) + 1
    return sorted(usable, key=lambda cpu: (rank[cpu], -cpu))[:n]  # from the last: interrupts tend to go to the first


def thread_environment(n_threads):
    """Environment variables that limit every library, to be set before it is imported."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    environment = dict.fromkeys(names, str(n_threads))
    environment["BACKPROP_NUM_THREADS"] = str(n_threads)
    environment["JAX_PLATFORMS"] = "cpu"
    environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    if n_threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")
    return environment


def cpu_model():
    """Name of the CPU with its family and model, because virtual machines give different CPUs one name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"


def caches():
    """The caches of data of one CPU: a list of {"level", "bytes", "ways", "cpus"}; empty if the system does not tell.

    "cpus" is the number of CPUs that share the cache, and "ways" its associativity; both are None if unknown. In a
    virtual machine all of this is what the hypervisor says.
    """
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        text = {name: _text(folder / name) for name in ("level", "type", "size", "ways_of_associativity")}
        size = re.fullmatch(r"(\d+)([KMG]?)", text["size"])
        if text["type"] == "Instruction" or not size:
            continue
        n_bytes = int(size[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[size[2]]
        shared = _count(_text(folder / "shared_cpu_list"))
        ways = int(text["ways_of_associativity"] or 0) or None
        found.append({"level": int(text["level"]), "bytes": n_bytes, "ways": ways, "cpus": shared})
    if not found and sys.platform == "darwin":
        for level, name in ((1, "l1dcachesize"), (2, "l2cachesize"), (3, "l3cachesize")):
            for prefix in ("hw.perflevel0.", "hw."):  # the fast cores; older chips have one kind
                done = subprocess.run(["sysctl", "-n", prefix + name], capture_output=True, text=True, check=False)
                if done.returncode == 0 and done.stdout.strip().isdigit() and int(done.stdout):
                    found.append({"level": level, "bytes": int(done.stdout), "ways": None, "cpus": None})
                    break
    return found


def _text(path):
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _count(cpus):
    """How many CPUs a list such as "0-3,8" has; None for an empty one."""
    ranges = [part.split("-") for part in cpus.split(",") if part]
    return sum(int(last[-1]) - int(last[0]) + 1 for last in ranges) or None


def size_text(n_bytes):
    """32 KiB, 1.25 MiB, 32 MiB."""
    return f"{n_bytes / 2**20:g} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:g} KiB"


def caches_text(found):
    """The caches in one line."""
    parts = []
    for cache in found:
        name = "L1d" if cache["level"] == 1 else f"L{cache['level']}"
        ways = f", {cache['ways']}-way" if cache["ways"] else ""
        shared = f", shared by {cache['cpus']} CPUs" if (cache["cpus"] or 1) > 1 else ""
        parts.append(f"{name} {size_text(cache['bytes'])}{ways}{shared}")
    return "; ".join(parts) or "unknown"


def describe():
    """All that a reader needs to judge the numbers, as a dictionary."""
    from backprop.info import configuration

    ours = configuration()
    packages = {
        "torch": "torch",
        "jax": "jax",
        "jaxlib": "jaxlib",
        "optax": "optax",
        "scikit-learn": "scikit-learn",
        "mlpfile": "mlpfile",
    }
    versions = {"backprop": ours["backprop"], "numpy": ours["numpy"], "scipy": ours["scipy"], **packages}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return {
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "caches": caches(),
        "simd": ours["simd"],
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "blas": blas(),
        "load": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
    }


def blas():
    """The BLAS of NumPy, as threadpoolctl sees it."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown (threadpoolctl is missing)"
    found = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    return ", ".join(f"{lib['internal_api']} {lib['version']} {lib.get('architecture', '')}".strip() for lib in found)


def main():
    """Print the machine and its limits; 1 if the peak cannot be measured."""
    import bandwidth

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="beside one thread (default: all CPUs)")
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--short", action="store_true", help="two small working sets, in a second")
    options = parser.parse_args()
    about = describe()
    for name, value in about.items():
        print(f"{name}: {caches_text(value) if name == 'caches' else value}")
    n_threads = options.threads or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        peak = Peak(compile_peak(scratch), 1)
        for (bits, size), gflops in peak.by_width.items():
            print(f"float{8 * size}, {bits}-bit vectors: {gflops:.1f} GFLOP/s on one thread")
        library = bandwidth.compile_loops(scratch)
    if not peak.by_width or library is None:
        print("the peak and the bandwidth need a C compiler: none was found that works")
        return 1
    megabytes = bandwidth.SHORT if options.short else bandwidth.MEGABYTES
    seconds = 0.02 if options.short else 0.5
    rates = bandwidth.measure(library, sorted({1, n_threads}), megabytes, seconds)
    print(bandwidth.table(rates))
    if options.json:
        peaks = [[bits, size, gflops] for (bits, size), gflops in peak.by_width.items()]
        result = {"kind": "machine", "machine": about, "peak": peaks, "bandwidth": rates}
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
