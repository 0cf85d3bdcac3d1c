"""The share of the FMA peak that each of the three products reaches, by layer width; the time of each activation.

    python benchmarks/products.py
    python benchmarks/products.py --simd v3,v4 --rows 128,512 --json products.json
    python benchmarks/products.py --simd v3 --rows 64 --widths 30,50,100 --markdown
    python benchmarks/products.py --short        # two widths and two activations, in a second

The kernels are called one by one, through the functions that their modules export (kernels/table.pxd). A product is
timed with its bias, its factor g' or the sum so far, without tiles, Python or threads. The peak is that of vectors as
wide as those of the kernels. A star marks a product below its target: 85 % of the peak from 128 units on, 75 % from 32.
"""

import argparse
import ctypes
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import machine
import numpy as np

from backprop import _core, activations

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from kernel_functions import CONSTANTS, kernel_functions

BLOCKS, LONG_BLOCKS = 30, 10  # of calls; the best one counts. The second for calls that alone fill a block
UNITS = CONSTANTS["SCRATCH_UNITS"]  # whose gradients are made at a time
TARGETS = ((128, 85), (32, 75))  # from so many units on, % of the peak


def row_length(n, dtype):
    """The row length of a layer in a tile, as `lay_out_layers` (recursion/shape.pxd) chooses it."""
    lanes = 64 // np.dtype(dtype).itemsize
    ld = -(-n // lanes) * lanes
    return ld + lanes if ld * np.dtype(dtype).itemsize % 2048 == 0 else ld


class Layer:
    """A layer, with the arrays that its products read and write.

    Parameters
    ----------
    kernels : SimpleNamespace
        The functions of `kernel_functions`.
    dtype : numpy.dtype
    n_rows, n_in, n_out : int
        Rows of the tile, and widths.
    """

    def __init__(self, kernels, dtype, n_rows, n_in, n_out):
        rng = np.random.default_rng(n_in + n_out)
        self.kernels, self.shape = kernels, (n_rows, n_in, n_out)
        self.flops = 2.0 * n_rows * n_in * n_out
        self.ld_in, self.ld_out = row_length(n_in, dtype), row_length(n_out, dtype)
        self.h = self._rows(rng, n_rows, self.ld_in, dtype)
        self.a, self.grad_a = (self._rows(rng, n_rows, self.ld_out, dtype) for _ in range(2))
        self.grad_h = self._rows(rng, n_rows, self.ld_in, dtype)
        self.W = rng.standard_normal((n_out, n_in)).astype(dtype) / np.sqrt(n_in).astype(dtype)
        self.b, self.grad_W = np.zeros(n_out, dtype), np.zeros((n_out, n_in), dtype)
        self.packed = np.zeros(kernels.packed_size(n_in, n_out), dtype)
        self.scratch = np.zeros(kernels.scratch_size(n_rows, n_in, n_out, min(UNITS, n_out)), dtype)

    @staticmethod
    def _rows(rng, n_rows, ld, dtype):
        block = np.empty(n_rows * ld + 16, dtype)
        start = -block.ctypes.data % 64 // block.itemsize
        rows = block[start : start + n_rows * ld].reshape(n_rows, ld)
        rows[:] = rng.standard_normal(rows.shape)
        return rows

    def calls(self):
        """The products: name -> function without arguments."""
        n_rows, n_in, n_out = self.shape
        h, a, grad_a, grad_h = (array.ctypes.data for array in (self.h, self.a, self.grad_a, self.grad_h))
        size = self.W.itemsize
        W, b, grad_W = self.W.ctypes.data, self.b.ctypes.data, self.grad_W.ctypes.data
        packed, scratch = self.packed.ctypes.data, self.scratch.ctypes.data
        kernels, overwrite, times, add = self.kernels, *(CONSTANTS[name] for name in ("OVERWRITE", "TIMES", "ADD"))
        kernels.pack(n_in, n_out, W, packed, 0, n_out)

        def forward(packing):
            kernels.forward_product(
                n_rows, n_in, n_out, h, self.ld_in, W, packed, packing, b, a, self.ld_out, overwrite
            )

        def hidden(epilogue, g_prime):
            kernels.hidden_sum(
                n_rows, n_in, n_out, grad_a, self.ld_out, W, n_in, g_prime, grad_h, self.ld_in, epilogue, scratch
            )

        def weight(is_added):
            for u in range(0, n_out, UNITS):
                kernels.weight_gradient(
                    *(n_rows, n_in, min(UNITS, n_out - u), grad_a + u * size, self.ld_out, h, self.ld_in),
                    *(grad_W + u * n_in * size, n_in, is_added, 0.0, scratch),
                )

        return {
            "forward": lambda: forward(CONSTANTS["PACKED"]),
            "forward, packing": lambda: forward(CONSTANTS["PACK_AND_KEEP"]),
            "hidden sum": lambda: hidden(overwrite, None),
            "times g'": lambda: hidden(times, h),
            "weight gradient": lambda: weight(overwrite),
            "the same, added": lambda: weight(add),
        }

    def check(self):
        """Compare each product with NumPy's; an AssertionError if one differs by more than rounding."""
        n_rows, n_in, n_out = self.shape
        calls, tolerance = self.calls(), 200 * np.finfo(self.W.dtype).eps * np.sqrt(n_rows + n_in + n_out)
        h, grad_a = self.h[:, :n_in].astype(float), self.grad_a[:, :n_out].astype(float)
        for name, found, expected in (
            ("forward", self.a[:, :n_out], h @ self.W.T),
            ("forward, packing", self.a[:, :n_out], h @ self.W.T),
            ("hidden sum", self.grad_h[:, :n_in], grad_a @ self.W),
            ("times g'", self.grad_h[:, :n_in], grad_a @ self.W * h),
            ("weight gradient", self.grad_W, grad_a.T @ h),
            ("the same, added", self.grad_W, 2 * (grad_a.T @ h)),
        ):
            calls[name]()
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=f"{name}, {n_in}-{n_out}"
            )


def best_seconds(call, seconds):
    """Seconds of one call: the best of many blocks of calls, which take `seconds` together if the calls are short."""
    n, block = 1, _block(call, 1)
    while block < seconds / BLOCKS:
        n *= 2
        block = _block(call, n)
    best = block
    for _ in range(BLOCKS if n > 1 else LONG_BLOCKS):
        best = min(best, _block(call, n))
    return best / n


def _block(call, n):
    start = time.perf_counter()
    for _ in range(n):
        call()
    return time.perf_counter() - start


def target(n_in, n_out):
    """% of the peak that a product of such a layer should reach, or 0."""
    return next((share for width, share in TARGETS if min(n_in, n_out) >= width), 0)


def measure_products(kernels, dtype, rows, widths, seconds, peak):
    """Yield (n_in, n_out, {product: % of the peak}) for each width.

    The peak is measured beside each product, and the highest one so far counts: other programs may take part of the
    core during a measurement, and the least time of a product is from a moment when none did.
    """
    for n_in, n_out in widths:
        layer = Layer(kernels, dtype, rows, n_in, n_out)
        layer.check()
        empty = Layer(kernels, dtype, 0, n_in, n_out).calls()["forward"]
        nothing, shares = best_seconds(empty, seconds), {}  # the first is what a call by ctypes takes
        for name, call in layer.calls().items():
            peak.measure(dtype.itemsize)
            best = max(best_seconds(call, seconds) - nothing, 1e-9)  # noise may leave nothing
            shares[name] = 100e-9 * layer.flops / best / peak.best[dtype.itemsize]
        yield n_in, n_out, shares


def print_products(found, markdown):
    """One line per width: % of the peak of each product; return the rows for JSON."""
    rows = []
    for n_in, n_out, shares in found:
        place = str(n_in) if markdown and n_in == n_out else f"{n_in}-{n_out}"
        cells = [f"{share:.0f}{'*' * (share < target(n_in, n_out))}" for share in shares.values()]
        if not rows and markdown:
            print(f"| n | {' | '.join(shares)} |\n|{'---|' * (1 + len(shares))}")
        elif not rows:
            print(f"{'n_in-n_out':>12}" + "".join(f"{name:>18}" for name in shares))
        text = f"| {place} | {' | '.join(cells)} |"
        print(text if markdown else f"{place:>12}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
        rows.append({"n_in": n_in, "n_out": n_out, "shares": shares})
    return rows


def print_activations(kernels, dtype, options):
    """One line per activation: nanoseconds per element without and with g', over rows in L1; return them for JSON."""
    n_rows, n = 16, 96
    rng = np.random.default_rng(0)
    a, h, values = (np.empty((n_rows, n), dtype) for _ in range(3))
    values[:] = 2 * rng.standard_normal((n_rows, n))
    found = {}
    for name in options.activations.split(","):
        row = activations.ACTIVATIONS[name]
        times = []
        for with_prime in (0, 1):

            def call(rows, with_prime=with_prime, row=row):
                ctypes.memmove(a.ctypes.data, values.ctypes.data, a.nbytes)
                kernels.activate(row.code, row.default, rows, n, a.ctypes.data, h.ctypes.data, n, with_prime)

            seconds = best_seconds(lambda: call(n_rows), options.seconds) - best_seconds(
                lambda: call(0), options.seconds
            )
            times.append(1e9 * seconds / a.size)
        found[name] = times
        if options.markdown:
            print(f"| {name} | {times[0]:.2f} | {times[1]:.2f} |", flush=True)
        else:
            print(f"{name:>12} {times[0]:8.2f} {times[1]:8.2f}", flush=True)
    return found


def width_of(text):
    """(n_in, n_out), from "200x26", or from "200" for two equal ones."""
    n_in, _, n_out = text.partition("x")
    return int(n_in), int(n_out or n_in)


def arguments():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = _core.supported_simd()
    parser.add_argument("--simd", default=_core.simd, help=f"some of {','.join(known)} (default {_core.simd})")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="this one alone")
    parser.add_argument("--rows", default="128", help="of the tile, with commas between several (default 128)")
    parser.add_argument("--widths", default="16,24,32,50,64,100,128,200,256,400,512,800,1000,2000")
    parser.add_argument("--activations", default=",".join(activations.ACTIVATIONS))
    parser.add_argument("--seconds", type=float, default=0.03, help="of timing per number (default 0.03)")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--short", action="store_true", help="two widths and two activations, in a second")
    options = parser.parse_args()
    if options.short:
        options.seconds, options.rows, options.widths, options.activations = 3e-3, "16,24", "4,20x50", "relu,gelu"
    options.simd = options.simd.split(",")
    if not set(options.simd) <= set(known):
        parser.error(f"--simd: expected some of {','.join(known)}, got {','.join(options.simd)}")
    try:
        options.rows = [int(word) for word in options.rows.split(",")]
        options.widths = [width_of(word) for word in options.widths.split(",") if word]
    except ValueError as error:
        parser.error(f"expected numbers as in --rows 128,512 and --widths 64,200x26: {error}")
    return options


def main():
    """Measure and print."""
    options = arguments()
    about = machine.describe()
    print(f"{about['cpu']}; {machine.caches_text(about['caches'])}; load {about['load'][0]:.2f}, {about['date']}")
    products, times = [], []
    with tempfile.TemporaryDirectory() as folder:
        library = machine.compile_peak(folder)
        if library is None:
            raise SystemExit("expected a C compiler to measure the peak with, got none")
        peaks = {simd: machine.Peak(library, 1, simd) for simd in options.simd}
    for dtype in map(np.dtype, [options.dtype] if options.dtype else ["float32", "float64"]):
        for simd in options.simd:
            kernels, peak = SimpleNamespace(**kernel_functions(simd, dtype)), peaks[simd]
            entry = {"simd": simd, "dtype": dtype.name}
            for rows in options.rows if options.widths else ():
                for _ in range(20):
                    peak.measure(dtype.itemsize)
                gflops = peak.best[dtype.itemsize]
                print(f"\n{dtype}, {simd}, {rows} rows: % of {gflops:.0f} GFLOP/s\n")
                found = measure_products(kernels, dtype, rows, options.widths, options.seconds, peak)
                shares = print_products(found, options.markdown)
                products.append(entry | {"rows": rows, "peak": gflops, "layers": shares})
            if options.activations:
                print(f"\n{dtype}, {simd}: ns per element: g, then g with g'")
                if options.markdown:
                    print("\n| activation | g | g with g' |\n|---|---|---|")
                times.append(entry | {"nanoseconds": print_activations(kernels, dtype, options)})
    if options.json:
        result = {"kind": "products", "machine": about, "products": products, "activations": times}
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
