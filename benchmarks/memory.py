"""The memory that calls take besides their data and results, and how much of it a network keeps.

    python benchmarks/memory.py [--only WORD]
    python benchmarks/memory.py --short         # one small case

Each case runs in a separate process, on Linux. README.md in this folder says what each number means.
"""

import argparse
import subprocess
import sys
import textwrap

# Peak memory is the kernel's high-water mark; writing 5 to clear_refs resets it to the present size. Pages of a mapped
# file belong to the file, not to the process: so RssAnon is read afterwards, not RssFile.
PROGRAM = """
import re, sys, tempfile
from pathlib import Path
import numpy as np
import backprop
from backprop import Network

def status(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def on_disk(array, dtype=None, order="C"):
    file = np.memmap(Path(folder) / str(id(array)), dtype or array.dtype, "w+", shape=array.shape, order=order)
    file[...] = array
    file.flush()
    return file

rng = np.random.default_rng(0)
with tempfile.TemporaryDirectory() as folder:
{setup}
    Path("/proc/self/clear_refs").write_text("5")
    before, file_before, anonymous = status("VmRSS"), status("RssFile"), status("RssAnon")
    result = {call}
    peak = status("VmHWM") - before - max(0, status("RssFile") - file_before)
    parts = result if isinstance(result, tuple) else (result,)
    n_bytes = sum(part.nbytes for part in parts if isinstance(part, np.ndarray)) / 2**20
    del result, parts
    print(peak - n_bytes, status("RssAnon") - anonymous, n_bytes)
"""

NARROW = 'net = Network([20, 256, 256, 1], dtype="float32", rng=0); x = np.ones((300_000, 20), np.float32)'
NARROW += "; y = np.ones((300_000, 1), np.float32)"
WIDE = "net = Network([1, 100_000, 1], rng=0); x = np.ones((600, 1)); y = np.ones((600, 1))"
MATRIX = 'net = Network([20, 28, 50], activations="tanh", rng=0); x = rng.standard_normal((1024, 20))'
MATRIX += "; y = np.ones((1024, 50))"
FILE = "net = Network([50, 32, 1], {dtype}rng=0); x = on_disk(np.full((1_000_000, 50), 0.25, {of}){order})"
FILE += "; y = np.ones((1_000_000, 1), net.dtype)"

STREAM = """
def blocks():
    for _ in range(10_000_000 // {rows}):
        yield np.full(({rows}, 30), 0.25, np.float32), np.ones(({rows}, 1), np.float32)

net = Network([30, 16, 1], dtype="float32", rng=0)
fun = net.objective(blocks, n_threads=1)
"""  # a block of 100,000 rows has 11.8 MiB


def of_file(of="np.float32", dtype="", order=""):
    """A network and a million rows of 50 in a file of some dtype."""
    return FILE.format(of=of, dtype=dtype, order=order)


BLOCKS = """
net = Network([20, 32, 1], dtype="float32", rng=0)
with open(Path(folder) / "rows", "wb") as file:
    for _ in range({n_rows} // 100_000):
        rng.standard_normal((100_000, 21), np.float32).tofile(file)
def blocks():
    with open(Path(folder) / "rows", "rb") as file:
        while len(rows := np.fromfile(file, np.float32, 100_000 * 21).reshape(-1, 21)):
            yield rows[:, :20], rows[:, 20]
fun = net.objective(blocks, n_threads={n_threads})
"""


def in_blocks(n_rows, n_threads):
    """A network, and an objective that reads a file in blocks of 8 MiB."""
    return BLOCKS.format(n_rows=n_rows, n_threads=n_threads)


PDE = 'net = Network([2, 64, 64, 64, 1], activations="tanh", rng=0); x = rng.standard_normal((1_000_000, 2))'
PDE += "; f = np.ones((1_000_000, 1)); fun = net.pde_objective(x, f, D=1.0, n_threads=1)"

FLOAT32 = 'dtype="float32", '
VALUE_AND_GRAD = "net.value_and_grad(x, y, n_threads={n})"
CASES = {
    "20-256-256-1 at 300,000 rows, 1 thread": (NARROW, VALUE_AND_GRAD.format(n=1)),
    "20-256-256-1 at 300,000 rows, 64 threads": (NARROW, VALUE_AND_GRAD.format(n=64)),
    "1-100000-1 at 600 rows, forward": (WIDE, "net.forward(x, n_threads=1)"),
    "1-100000-1 at 600 rows, forward on 8 threads": (WIDE, "net.forward(x, n_threads=8)"),
    "1-100000-1 at 600 rows, value_and_grad": (WIDE, VALUE_AND_GRAD.format(n=1)),
    "1-100000-1 at 600 rows, value_and_grad on 8 threads": (WIDE, VALUE_AND_GRAD.format(n=8)),
    "1-100000-1 at 600 rows, hvp": (WIDE, "net.hvp(x, y, net.params, n_threads=1)"),
    "1-100000-1 at 600 rows, input_gradient": (WIDE, "net.input_gradient(x, y, n_threads=1)"),
    "20-28-50 at 1024 rows, normal_equations": (MATRIX, "net.normal_equations(x, y, n_threads=1)"),
    "20-28-50 at 8192 rows, normal_equations on 8 threads": (
        MATRIX.replace("1024", "8192"),
        "net.normal_equations(x, y, n_threads=8)",
    ),
    "20-28-50 at 1024 rows, hessian": (MATRIX, "net.hessian(x, y, n_threads=1)"),
    "2-64-64-64-1 at 1,000,000 rows, laplacian": (PDE, "net.laplacian(x, n_threads=1)"),
    "2-64-64-64-1 at 1,000,000 rows, pde_objective": (PDE, "fun(net.params)"),
    "float32 file, float64 network, value_and_grad": (of_file(), VALUE_AND_GRAD.format(n=1)),
    "float32 file, float64 network, objective": (
        of_file() + "; fun = net.objective(x, y, n_threads=1)",
        "fun(net.params)[1]",
    ),
    "making that objective": (of_file(), "net.objective(x, y, n_threads=1)"),
    "float32 file, float64 network, hvp": (of_file(), "net.hvp(x, y, net.params, n_threads=1)"),
    "float32 file, float64 network, find_nonfinite": (of_file(), "net.find_nonfinite(x, y, n_threads=1)"),
    "float64 file, float32 network": (of_file("np.float64", FLOAT32), VALUE_AND_GRAD.format(n=1)),
    "int8 file, float32 network": (of_file("np.int8", FLOAT32), VALUE_AND_GRAD.format(n=1)),
    "foreign byte order": (of_file("'>f8'"), VALUE_AND_GRAD.format(n=1)),
    "Fortran order": (of_file("np.float64", order=', order="F"'), VALUE_AND_GRAD.format(n=1)),
    "1e6 rows of 84 bytes in blocks of 100,000, objective": (in_blocks(10**6, 2), "fun(net.params)[1]"),
    "1e7 rows of 84 bytes in blocks of 100,000, objective": (in_blocks(10**7, 2), "fun(net.params)[1]"),
    "1e7 rows of 84 bytes in blocks of 100,000, hessp": (in_blocks(10**7, 2), "fun.hessp(net.params, net.params)"),
    "every second column": (of_file("np.float64") + "; net = Network([25, 32, 1], rng=0); x = x[:, ::2]",
                            VALUE_AND_GRAD.format(n=1)),
    **{f"10,000,000 rows streamed in blocks of {name} MiB": (STREAM.format(rows=rows), "fun(net.params)[1]")
       for name, rows in (("1.2", 10_000), ("11.8", 100_000), ("118", 1_000_000))},
}  # fmt: skip


SHORT = "20-28-50 at 1024 rows, hessian"


def measure(setup, call):
    """MiB that a call takes at its peak besides its result, that stay when the result is gone, and of the result."""
    code = PROGRAM.format(setup=textwrap.indent(textwrap.dedent(setup), "    "), call=call)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr)
    return tuple(map(float, run.stdout.split()))


def main():
    """Measure the cases; the exit status is 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--short", action="store_true", help=f"only the case {SHORT}")
    options = parser.parse_args()
    wanted = SHORT if options.short else options.only
    failed = False
    print(f"{'case':56} {'peak MiB':>9} {'kept MiB':>9} {'result MiB':>11}")
    for name, (setup, call) in CASES.items():
        if wanted in name:
            try:
                peak, kept, result = measure(setup, call)
            except RuntimeError as error:
                print(f"{name:56} {str(error).strip().splitlines()[-1]}")
                failed = True
                continue
            print(f"{name:56} {peak:9.1f} {kept:9.1f} {result:11.1f}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
