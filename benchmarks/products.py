"""Share of the FMA peak that each of the three products reaches, by layer width, and the time of each activation.

    python benchmarks/products.py
    python benchmarks/products.py --simd v3 --rows 64 --widths 30,50,100

The kernels are called one by one, through the table of function pointers that they export (kernels/table.pxd): what is
measured is a product with its bias, its factor g' or the sum to earlier rows, without tiles, Python or threads.
"""

import argparse
import ctypes
import importlib
import tempfile
import time

import machine
import numpy as np

from backprop import activations

SIZE, POINTER, FLAG, DOUBLE = ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_int, ctypes.c_double
PACK_AND_KEEP = 1

# The entries of KernelTable in their order, as far as they are called here; kernels/table.pxd explains each.
SIGNATURES = {
    "packed_size": (SIZE, SIZE, SIZE),
    "pack": (None, SIZE, SIZE, POINTER, POINTER, SIZE, SIZE),
    "scratch_size": (SIZE, SIZE, SIZE, SIZE),
    "forward_product": (None, SIZE, SIZE, SIZE, POINTER, SIZE, POINTER, POINTER, FLAG, POINTER, POINTER, SIZE, FLAG),
    "activate": (None, FLAG, DOUBLE, SIZE, SIZE, POINTER, POINTER, SIZE, FLAG),
    "hidden_sum": (None, SIZE, SIZE, SIZE, POINTER, SIZE, POINTER, POINTER, SIZE, FLAG, POINTER),
    "g_prime_product": (None, SIZE, SIZE, POINTER, SIZE, POINTER, SIZE),
    "weight_gradient": (None, SIZE, SIZE, SIZE, POINTER, SIZE, POINTER, SIZE, POINTER, FLAG, DOUBLE, POINTER),
}


def load_kernels(simd, dtype):
    """Name -> callable for the kernels of one instruction set and dtype."""
    capsule = importlib.import_module(f"backprop._kernels_{simd}_{'f4' if dtype == np.float32 else 'f8'}").table
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = POINTER, (ctypes.py_object, ctypes.c_char_p)
    address = get_pointer(capsule, b"backprop.KernelTable")
    first = address + ctypes.sizeof(POINTER) + ctypes.sizeof(SIZE)  # after simd and itemsize
    pointers = (POINTER * len(SIGNATURES)).from_address(first)
    return {name: ctypes.CFUNCTYPE(*types)(pointers[i]) for i, (name, types) in enumerate(SIGNATURES.items())}


def row_length(n, dtype):
    """The row length of a layer in a tile, as `plan_layers` chooses it."""
    lanes = 64 // np.dtype(dtype).itemsize
    ld = -(-n // lanes) * lanes
    return ld + lanes if ld * np.dtype(dtype).itemsize % 2048 == 0 else ld


class Layer:
    """A layer of width n to n, with what its products read and write.

    Parameters
    ----------
    kernels : dict
        From `load_kernels`.
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
        self.packed = np.zeros(kernels["packed_size"](n_in, n_out), dtype)
        self.scratch = np.zeros(kernels["scratch_size"](n_rows, n_in, n_out), dtype)

    @staticmethod
    def _rows(rng, n_rows, ld, dtype):
        block = np.empty(n_rows * ld + 16, dtype)
        start = -block.ctypes.data % 64 // block.itemsize
        rows = block[start : start + n_rows * ld].reshape(n_rows, ld)
        rows[:] = rng.standard_normal(rows.shape)
        return rows

    def calls(self):
        """The three products: name -> function without arguments."""
        n_rows, n_in, n_out = self.shape
        h, a, grad_a, grad_h = (array.ctypes.data for array in (self.h, self.a, self.grad_a, self.grad_h))
        W, b, grad_W = self.W.ctypes.data, self.b.ctypes.data, self.grad_W.ctypes.data
        packed, scratch = self.packed.ctypes.data, self.scratch.ctypes.data
        forward, hidden, weight = (self.kernels[k] for k in ("forward_product", "hidden_sum", "weight_gradient"))
        self.kernels["pack"](n_in, n_out, W, packed, 0, n_out)
        return {
            "forward": lambda: forward(n_rows, n_in, n_out, h, self.ld_in, W, packed, 0, b, a, self.ld_out, 0),
            "forward, packing": lambda: forward(
                n_rows, n_in, n_out, h, self.ld_in, W, packed, PACK_AND_KEEP, b, a, self.ld_out, 0
            ),
            "hidden sum": lambda: hidden(n_rows, n_in, n_out, grad_a, self.ld_out, W, grad_h, self.ld_in, 0, scratch),
            "weight gradient": lambda: weight(
                n_rows, n_in, n_out, grad_a, self.ld_out, h, self.ld_in, grad_W, 0, 0.0, scratch
            ),
            "the same, added": lambda: weight(
                n_rows, n_in, n_out, grad_a, self.ld_out, h, self.ld_in, grad_W, 1, 0.0, scratch
            ),
        }


def best_seconds(call, seconds=0.03):
    """Seconds of one call: the best of ten blocks of calls."""
    n, block = 1, 0.0
    while block < seconds / 10:
        n *= 2
        start = time.perf_counter()
        for _ in range(n):
            call()
        block = time.perf_counter() - start
    best = block
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(n):
            call()
        best = min(best, time.perf_counter() - start)
    return best / n


def print_products(kernels, dtype, widths, n_rows, peak):
    """One line a width: % of the peak of each product."""
    header = None
    for width in widths:
        n_in, n_out = width if isinstance(width, tuple) else (width, width)
        layer = Layer(kernels, dtype, n_rows, n_in, n_out)
        rates = {}
        nothing = best_seconds(Layer(kernels, dtype, 0, n_in, n_out).calls()["weight gradient"])  # a call by ctypes
        for name, call in layer.calls().items():
            seconds = best_seconds(call) - nothing
            rates[name] = 100e-9 * layer.flops / seconds / peak.measure(dtype.itemsize)
        if header is None:
            header = f"{'n_in-n_out':>12}" + "".join(f"{name:>18}" for name in rates)
            print(header)
        print(f"{f'{n_in}-{n_out}':>12}" + "".join(f"{rate:18.0f}" for rate in rates.values()), flush=True)


def print_activations(kernels, dtype, names):
    """One line an activation: nanoseconds an element without and with g', over rows that stay in L1."""
    n_rows, n = 16, 96
    rng = np.random.default_rng(0)
    a, h, values = (np.empty((n_rows, n), dtype) for _ in range(3))
    values[:] = 2 * rng.standard_normal((n_rows, n))
    for name in names:
        row = activations.ACTIVATIONS[name]
        times = []
        for with_prime in (0, 1):

            def call(rows, with_prime=with_prime, row=row):
                ctypes.memmove(a.ctypes.data, values.ctypes.data, a.nbytes)
                kernels["activate"](row.code, row.default, rows, n, a.ctypes.data, h.ctypes.data, n, with_prime)

            seconds = best_seconds(lambda: call(n_rows)) - best_seconds(lambda: call(0))
            times.append(1e9 * seconds / a.size)
        print(f"{name:>12} {times[0]:8.2f} {times[1]:8.2f}", flush=True)


def width_of(text):
    """An int, or (n_in, n_out) from "200x26"."""
    n_in, _, n_out = text.partition("x")
    return (int(n_in), int(n_out)) if n_out else int(n_in)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Share of the FMA peak by layer width; time of each activation.")
    parser.add_argument("--simd", default="v4", choices=("v2", "v3", "v4", "generic"))
    parser.add_argument("--dtype", choices=("float32", "float64"), help="one alone")
    parser.add_argument("--rows", type=int, default=128, help="rows of the tile (default 128)")
    parser.add_argument("--widths", default="8,16,24,32,50,64,100,128,200,256,400,800,1000")
    parser.add_argument("--activations", default=",".join(activations.ACTIVATIONS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peak = machine.Peak(machine.compile_peak(folder), 1)
    for dtype in map(np.dtype, [options.dtype] if options.dtype else ["float32", "float64"]):
        kernels = load_kernels(options.simd, dtype)
        print(f"\n{dtype}, {options.simd}, {options.rows} rows: % of {peak.measure(dtype.itemsize):.0f} GFLOP/s")
        print_products(
            kernels, dtype, map(width_of, options.widths.split(",")) if options.widths else (), options.rows, peak
        )
        print(f"\n{dtype}, {options.simd}: ns an element: g, then g with g'")
        print_activations(kernels, dtype, options.activations.split(",") if options.activations else ())


if __name__ == "__main__":
    main()
