"""Misses of the caches and of the TLB per FMA of a product or of a call, in a simulation of valgrind.

    python benchmarks/cache_misses.py                                        # some minutes
    python benchmarks/cache_misses.py --widths 800x1000 --rows 256 --l2 256,512,1024 --dtype float64
    python benchmarks/cache_misses.py --case wide-1000                       # loss and gradient of a case of run.py
    python benchmarks/cache_misses.py --short        # one small product, in seconds; without valgrind it says so

It needs no hardware counters, which virtual machines often lack. Cachegrind has two levels and no prefetcher, and does
not know AVX-512, so the kernels are those of v3. README.md in this folder says more.
"""

import argparse
import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent
PRODUCTS = ("forward", "hidden sum", "weight gradient")
LANES = {"float32": 8, "float64": 4}
FMAS = 1e6  # at least so many are counted, in one call or more; in the short form a twentieth
PAGE = 4096


# In the process that is simulated -------------------------------------------------------------------------------------


def run_product(product, dtype, rows, n_in, n_out, calls, package):
    """Call a product so many times. Without NumPy and the package's own import, which would take most of the time."""
    stub = types.ModuleType("backprop")
    stub.__path__ = [package]
    sys.modules["backprop"] = stub
    sys.path.insert(0, str(HERE.parent / "tests" / "support"))
    from kernel_functions import CONSTANTS, kernel_functions

    kernels, itemsize = types.SimpleNamespace(**kernel_functions("v3", dtype)), 32 // LANES[dtype]
    keep = []

    def array(n):
        keep.append(ctypes.create_string_buffer(n * itemsize + 128))
        return -(-ctypes.addressof(keep[-1]) // 64) * 64

    ld_in, ld_out = row_length(n_in, itemsize), row_length(n_out, itemsize)
    h, grad_h, a, grad_a = array(rows * ld_in), array(rows * ld_in), array(rows * ld_out), array(rows * ld_out)
    W, grad_W, b = array(n_in * n_out), array(n_in * n_out), array(n_out)
    packed, scratch = array(kernels.packed_size(n_in, n_out)), array(kernels.scratch_size(rows, n_in, n_out, n_out))
    overwrite = CONSTANTS["OVERWRITE"]
    kernels.pack(n_in, n_out, W, packed, 0, n_out)
    shape = rows, n_in, n_out
    arguments = {
        "forward": (*shape, h, ld_in, W, packed, CONSTANTS["PACKED"], b, a, ld_out, overwrite),
        "hidden sum": (*shape, grad_a, ld_out, W, n_in, None, grad_h, ld_in, overwrite, scratch),
        "weight gradient": (*shape, grad_a, ld_out, h, ld_in, grad_W, n_in, overwrite, 0.0, scratch),
    }
    names = {"forward": "forward_product", "hidden sum": "hidden_sum", "weight gradient": "weight_gradient"}
    function = getattr(kernels, names[product])
    for _ in range(calls):
        function(*arguments[product])


def row_length(n, itemsize):
    """The row length of a layer in a tile, as `lay_out_layers` (recursion/shape.pxd) chooses it."""
    lanes = 64 // itemsize
    ld = -(-n // lanes) * lanes
    return ld + lanes if ld * itemsize % 2048 == 0 else ld


def run_case(name, dtype, calls):
    """Compute loss and gradient of a case of run.py so many times."""
    import peers
    from cases import make_problem, select

    call = peers.make_ours(make_problem(select([name])[0], dtype), 1).call
    for _ in range(calls):
        call()


# In the process that asks for it --------------------------------------------------------------------------------------


def counts(code, first, second):
    """What cachegrind counts in a program: reads, writes, misses of the first level and of the second."""
    levels = [f"--D1={first}", f"--LL={second}"]
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=yes", "--cachegrind-out-file=/dev/null", *levels]
    bare = [] if "run_case" in code else ["-S"]
    done = subprocess.run(
        [*command, sys.executable, *bare, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r}); {code}"],
        env=os.environ | {"BACKPROP_SIMD": "v3", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    pattern = r":\s+([\d,]+)(?:.*\(\s*([\d,]+) rd\s+\+\s+([\d,]+) wr\))?"
    lines = {key: re.search(key + pattern, done.stderr) for key in ("D   refs", "D1  misses", "LLd misses")}
    if done.returncode or not all(lines.values()):
        raise SystemExit(f"valgrind failed:\n{done.stderr[-1000:]}")
    whole = {key: [int(text.replace(",", "")) for text in match.groups()] for key, match in lines.items()}
    return [*whole["D   refs"][1:], whole["D1  misses"][0], whole["LLd misses"][0]]


def added(code, more, first, second):
    """What one call adds, after a first one: the difference of two runs, over `more` calls.

    `code` has equal lengths for all numbers of calls, because lengths move what Python allocates, and so its misses.
    """
    one, all_ = (counts(code.format(calls=calls), first, second) for calls in (1, 1 + more))
    return [(b - a) / more for a, b in zip(one, all_, strict=True)]


def print_line(name, code, fmas, options):
    """One line: reads and writes per FMA, and misses per thousand of them."""
    more = max(1, round(FMAS / (20 if options.short else 1) / fmas))
    first, numbers = f"{options.l1 << 10},8,64", None
    for size in options.l2:
        reads, writes, l1, l2 = added(code, more, first, f"{size << 10},8,64")
        numbers = [*(numbers or (reads, writes, l1)), l2]
    pages = f"{options.tlb * PAGE},{options.tlb},{PAGE}"  # a cache of so many lines that are pages, fully associative
    numbers.append(added(code, more, pages, f"{16 * options.tlb * PAGE},16,{PAGE}")[2])
    texts = [f"{numbers[0] / fmas:9.3f}{numbers[1] / fmas:9.3f}", *(f"{1e3 * n / fmas:13.2f}" for n in numbers[2:])]
    print(f"{name:34}{''.join(texts)}", flush=True)


def main():
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--products", default=",".join(PRODUCTS), help=f"some of {','.join(PRODUCTS)}")
    parser.add_argument("--case", help="loss and gradient of this case of run.py instead")
    parser.add_argument("--widths", default="256,800", help="of the layers, 256 or 800x1000 (n_in x n_out)")
    parser.add_argument("--rows", type=int, default=128, help="of the tile (default 128)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--l1", type=int, default=32, help="KiB of the first level, 8-way (default 32)")
    parser.add_argument("--l2", default="512,1024", help="KiB of the second level, 8-way (default 512,1024)")
    parser.add_argument("--tlb", type=int, default=64, help="pages of the TLB, fully associative (default 64)")
    parser.add_argument("--short", action="store_true", help="one small product; without valgrind it says so")
    options = parser.parse_args()
    if options.short:
        options.products, options.widths, options.rows, options.l2 = "hidden sum", "40", 16, "512"
    if shutil.which("valgrind") is None:
        print("expected valgrind to simulate the caches with, found none: nothing is measured")
        return 0 if options.short else 1
    options.l2 = [int(size) for size in options.l2.split(",")]
    columns = "".join(f"{f'L2 {size} KiB':>11}" for size in options.l2)
    print(f"per FMA of {LANES[options.dtype]} {options.dtype}: reads, writes; per 1000: misses of each level")
    print(f"{'':34}{'reads':>9}{'writes':>9}{f'L1 {options.l1} KiB':>13}{columns}{'TLB':>13}")
    if options.case:
        from cases import select

        for case in select([options.case]):
            code = f"import cache_misses; cache_misses.run_case({case.name!r}, {options.dtype!r}, {{calls:6}})"
            print_line(case.name, code, case.flops / 2 / LANES[options.dtype], options)
        return 0
    (package,) = importlib.util.find_spec("backprop").submodule_search_locations
    for width in options.widths.split(","):
        n_in, _, n_out = width.partition("x")
        n_in, n_out = int(n_in), int(n_out or n_in)
        for product in options.products.split(","):
            arguments = f"{product!r}, {options.dtype!r}, {options.rows}, {n_in}, {n_out}, {{calls:6}}, {package!r}"
            fmas = options.rows * n_in * n_out / LANES[options.dtype]
            code = f"import cache_misses; cache_misses.run_product({arguments})"
            print_line(f"{product}, {n_in}-{n_out}", code, fmas, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
