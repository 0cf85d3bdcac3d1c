"""The matrix products, called by name: every register block, every way to cut a product, and no byte beyond an array.

Numbers are small integers, so that each sum is exact and NumPy gives its bits. Each array lies between forbidden pages
and a canary, and what is only padding is NaN. With an L2 of 64 KiB small products are cut into blocks, groups of rows
and strips; with 2 MiB they are not.
"""

import ctypes
import itertools
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
from kernel_functions import CONSTANTS, built_simd, kernel_functions

from backprop import _core

OVERWRITE, ADD, TIMES, CONTINUE = (CONSTANTS[name] for name in ("OVERWRITE", "ADD", "TIMES", "CONTINUE"))
PACKED, PACK_AND_KEEP, PACK_ONCE = (CONSTANTS[name] for name in ("PACKED", "PACK_AND_KEEP", "PACK_ONCE"))
BUILT = built_simd()
DTYPES = ["float32", "float64"]
SMALL_L2, LARGE_L2 = 65536, 2097152
CANARY, PAGE, N_BYTES = 0xA5, 65536, 2**23

# Rows, columns of C, and length of the sums. Few rows; each register block by rows, by vectors and by its tail;
# and for the small L2: blocks over k with a short and with a long last one, groups of rows, strips.
FEW = [(n_rows, n, k) for n_rows in (1, 2, 3, 4) for n in (1, 4, 5, 9, 17, 33, 71, 100) for k in (1, 7, 40)]
WIDTHS = [(5 + n % 4, n, 5) for n in range(1, 103)]
ROWS = [(n_rows, n, 3) for n_rows in (*range(5, 18), 23) for n in (9, 12, 20, 28, 32, 44, 48)]
BLOCKS = [
    (*rows, n, k)
    for rows in ((65,), (131,), (200,))
    for n, k in ((9, 95), (33, 96), (50, 161), (70, 300), (150, 200), (310, 130))
]
SHAPES = (
    FEW + WIDTHS + ROWS + BLOCKS + [(2, 70, 300), (4, 130, 200), (0, 20, 5), (0, 20, 100), (70, 3, 700), (300, 70, 200)]
)


class Memory:
    """Arrays that end at a forbidden page or begin after one; on the other side is a canary."""

    def __init__(self):
        self._canaries = []
        if sys.platform == "win32":
            self._bytes = np.empty(N_BYTES, np.uint8)
            return
        self._map = mmap.mmap(-1, N_BYTES + 2 * PAGE)
        whole = np.frombuffer(self._map, np.uint8)
        protect = ctypes.CDLL(None).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for start in (0, PAGE + N_BYTES):
            assert protect(whole.ctypes.data + start, PAGE, 0) == 0
        self._bytes = whole[PAGE : PAGE + N_BYTES]

    def take(self, n, dtype, at_end):
        n_bytes = n * np.dtype(dtype).itemsize
        assert n_bytes + 8192 <= N_BYTES
        start = N_BYTES - n_bytes if at_end else 0
        self._canaries = [self._bytes[max(0, start - 4096) : start], self._bytes[start + n_bytes :][:4096]]
        for canary in self._canaries:
            canary[:] = CANARY
        return self._bytes[start : start + n_bytes].view(dtype)

    def is_untouched(self):
        return all((canary == CANARY).all() for canary in self._canaries)


MEMORY = {name: Memory() for name in ("A", "B", "C", "factor", "bias", "scratch")}


def filled(name, rows, columns, ld, values, dtype, at_end, *, padded=True):
    """A matrix in guarded memory, NaN in its padding. If rows are not padded, the last one ends with its columns."""
    flat = MEMORY[name].take(max(0, rows * ld if padded else (rows - 1) * ld + columns), dtype, at_end)
    flat[:] = np.nan
    matrix = np.lib.stride_tricks.as_strided(flat, (rows, columns), (ld * flat.itemsize, flat.itemsize))
    matrix[...] = values[:rows, :columns]
    return flat, matrix


def ld_of(n, dtype):
    return -(-n * np.dtype(dtype).itemsize // 64) * 64 // np.dtype(dtype).itemsize


class Product:
    """A product of one shape and its operands; `of` computes it by a kernel, `expected` by NumPy."""

    def __init__(self, shape, dtype, *, values):
        rng = np.random.default_rng([*shape, dtype == "float64"])
        self.dtype, self.at_end = dtype, bool(sum(shape) % 2)
        self.n_rows, self.n, self.k = shape
        self.A, self.B, self.C, self.factor = (
            values(rng, s).astype(dtype) for s in [(shape[0], shape[2]), shape[:0:-1], shape[:2], shape[:2]]
        )
        self.bias = values(rng, shape[1]).astype(dtype)

    def _call(self, kernels, l2_bytes, n_scratch, function, start, ld, *, padded):
        """C as `function(kernels, C, scratch)` leaves it. Nothing else is written."""
        flat, C = filled("C", *start.shape, ld, start, self.dtype, self.at_end, padded=padded)
        kernels["set_l2_bytes"](l2_bytes)
        try:
            scratch = MEMORY["scratch"].take(n_scratch(), self.dtype, not self.at_end)
            scratch[:] = np.nan
            function(flat.ctypes.data, scratch.ctypes.data)
        finally:
            kernels["set_l2_bytes"](_core.l2_bytes)
        for name, memory in MEMORY.items():
            assert memory.is_untouched(), f"written beyond {name}"
        result = C.copy()
        C[...] = np.nan
        assert np.isnan(flat).all(), "padding of C written"
        return result


class Forward(Product):
    """a = h W^T + b."""

    variants = (
        *itertools.product((PACKED, PACK_AND_KEEP, PACK_ONCE), (OVERWRITE,), (True, False)),
        *itertools.product((PACKED, PACK_AND_KEEP), (ADD,), (False,)),
    )

    def expected(self, _, epilogue, has_bias):
        return self.A @ self.B + (self.C if epilogue == ADD else self.bias if has_bias else 0)

    def of(self, kernels, l2_bytes, packing, epilogue, has_bias):
        shape = (self.k, self.n)
        ld_h, ld = (ld_of(n, self.dtype) for n in shape)
        if self.at_end:
            ld_h = self.k  # as x
        h, _ = filled("A", self.n_rows, self.k, ld_h, self.A, self.dtype, True)
        W, _ = filled("B", self.n, self.k, self.k, self.B.T, self.dtype, True)
        bias, _ = filled("bias", 1, self.n, self.n, self.bias[None], self.dtype, True)
        start = self.C if epilogue == ADD else np.full_like(self.C, np.nan)

        def call(a, packed):
            if packing == PACKED:
                kernels["pack"](*shape, W.ctypes.data, packed, 0, self.n // 2)
                kernels["pack"](*shape, W.ctypes.data, packed, self.n // 2, self.n)
            kernels["forward_product"](
                self.n_rows, *shape, h.ctypes.data, ld_h, W.ctypes.data, packed, packing,
                bias.ctypes.data if has_bias else None, a, ld, epilogue,
            )  # fmt: skip

        return self._call(kernels, l2_bytes, lambda: kernels["packed_size"](*shape), call, start, ld, padded=True)


class HiddenSum(Product):
    """grad_h = grad_a W, with its epilogue; W may be some columns of a wider one, and g' may be where grad_h is."""

    variants = ((OVERWRITE, 0, False), (ADD, 700, False), (TIMES, 0, True), (TIMES, 600, False))

    def expected(self, epilogue, _, in_place):
        factor = self.C if in_place else self.factor
        return self.A @ self.B * (factor if epilogue == TIMES else 1) + (self.C if epilogue == ADD else 0)

    def of(self, kernels, l2_bytes, epilogue, more_columns, in_place):
        ld_next, ld, ld_W = ld_of(self.k, self.dtype), ld_of(self.n, self.dtype), self.n + more_columns
        grad_a, _ = filled("A", self.n_rows, self.k, ld_next, self.A, self.dtype, True)
        W, _ = filled("B", self.k, self.n, ld_W, self.B, self.dtype, True, padded=False)
        factor, _ = filled("factor", self.n_rows, self.n, ld, self.factor, self.dtype, True)
        start = self.C if epilogue == ADD or in_place else np.full_like(self.C, np.nan)

        def call(grad_h, scratch):
            g_prime = None if epilogue != TIMES else grad_h if in_place else factor.ctypes.data
            kernels["hidden_sum"](
                self.n_rows, self.n, self.k, grad_a.ctypes.data, ld_next, W.ctypes.data, ld_W, g_prime, grad_h, ld,
                epilogue, scratch,
            )  # fmt: skip

        def size():
            return kernels["scratch_size"](self.n_rows, self.n, self.k, 0)

        return self._call(kernels, l2_bytes, size, call, start, ld, padded=True)


class WeightGradient(Product):
    """grad_W = grad_a^T h, or added to, or gone on with; h may be x, or some columns of it."""

    variants = (
        *((OVERWRITE, 0, 0), (OVERWRITE, 64, 600), (OVERWRITE, 3, None), (ADD, 0, None), (ADD, 64, 0)),
        *((CONTINUE, 0, 0), (CONTINUE, 0, 600)),
    )

    def expected(self, add, divisor, _):
        return (self.A @ self.B + (0 if add == OVERWRITE else self.C)) / np.asarray(divisor or 1, self.dtype)

    def of(self, kernels, l2_bytes, add, divisor, more_columns):
        ld_a = ld_of(self.n_rows, self.dtype)
        ld_h = ld_of(self.n, self.dtype) if more_columns is None else self.n + more_columns
        padded = not more_columns
        grad_a, _ = filled("A", self.k, self.n_rows, ld_a, self.A.T, self.dtype, True)
        h, _ = filled("B", self.k, self.n, ld_h, self.B, self.dtype, True, padded=padded)
        start = np.full_like(self.C, np.nan) if add == OVERWRITE else self.C
        ld = self.n + 3 * self.at_end

        def call(grad_W, scratch):
            kernels["weight_gradient"](
                self.k, self.n, self.n_rows, grad_a.ctypes.data, ld_a, h.ctypes.data, ld_h, grad_W, ld, add, divisor,
                scratch,
            )  # fmt: skip

        def size():
            return kernels["scratch_size"](self.k, self.n, 1, self.n_rows)

        return self._call(kernels, l2_bytes, size, call, start, ld, padded=False)


def integers(rng, shape):
    return rng.integers(-3, 4, shape)


def reals(rng, shape):
    return rng.standard_normal(shape)


def shapes_of(product):
    """Sums over at most 64 rows go on, and a gradient has at least one unit: other shapes are others' matter."""
    return [shape for shape in SHAPES if product is not WeightGradient or shape[0]]


def variants_of(product, shape):
    few_samples = product is not WeightGradient or shape[2] <= CONSTANTS["CHAIN_ROWS"]
    return [v for v in product.variants if few_samples or CONTINUE not in v[:1]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("product", [Forward, HiddenSum, WeightGradient])
def test_every_block_and_cut_gives_the_exact_sums(product, dtype):
    for simd in BUILT:
        kernels = kernel_functions(simd, dtype)
        for shape in shapes_of(product):
            one = product(shape, dtype, values=integers)
            sizes = (SMALL_L2, LARGE_L2) if shape[2] > 64 else (SMALL_L2,)
            for variant, l2_bytes in itertools.product(variants_of(product, shape), sizes):
                got, expected = one.of(kernels, l2_bytes, *variant), one.expected(*variant)
                exact = np.array_equal(got, expected)
                assert exact or (3 in variant and np.allclose(got, expected)), (simd, shape, variant, l2_bytes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("product", [Forward, HiddenSum, WeightGradient])
def test_no_cut_and_no_instruction_set_changes_a_bit(product, dtype):
    """v2 has bits of its own, but no cut changes them either."""
    for shape in [s for s in shapes_of(product) if s[2] > 5 or s[1] % 7 == 2]:
        one = product(shape, dtype, values=reals)
        for variant in variants_of(product, shape):
            bits = {}
            for simd, l2_bytes in itertools.product(BUILT, (SMALL_L2, LARGE_L2)):
                result = one.of(kernel_functions(simd, dtype), l2_bytes, *variant).tobytes()
                assert bits.setdefault(simd == "v2", result) == result, (simd, shape, variant, l2_bytes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bias_gradient_has_the_exact_sums(dtype):
    rng = np.random.default_rng(0)
    for simd, n in itertools.product(BUILT, (1, 5, 64, 65, 131)):
        kernels = kernel_functions(simd, dtype)
        for n_units, (add, divisor) in itertools.product(range(1, 103, 3), ((OVERWRITE, 64), (ADD, 0), (CONTINUE, 0))):
            values, start = integers(rng, (n, n_units)).astype(dtype), integers(rng, (1, n_units)).astype(dtype)
            ld = ld_of(n_units, dtype)
            grad_a, _ = filled("A", n, n_units, ld, values, dtype, True)
            grad_b, _ = filled("C", 1, n_units, n_units, start, dtype, True)
            kernels["bias_gradient"](n, n_units, grad_a.ctypes.data, ld, grad_b.ctypes.data, add, divisor)
            expected = (values.sum(axis=0) + (0 if add == OVERWRITE else start[0])) / (divisor or 1)
            assert np.array_equal(grad_b, expected), (simd, n, n_units, add)
            assert MEMORY["C"].is_untouched()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_a_product_is_the_same_row_alone(dtype):
    """The rows of few-row products too, which take other ways."""
    kernels = kernel_functions(_core.simd, dtype)
    for product, variant in ((Forward, (PACK_ONCE, OVERWRITE, True)), (HiddenSum, (OVERWRITE, 0, False))):
        for n, k in ((9, 30), (33, 96), (70, 300), (150, 41)):
            whole = product((70, n, k), dtype, values=reals)
            rows = whole.of(kernels, SMALL_L2, *variant)
            for n_rows in (1, 2, 3, 4, 5):
                some = product((n_rows, n, k), dtype, values=reals)
                some.A, some.B, some.bias = whole.A[:n_rows], whole.B, whole.bias
                np.testing.assert_array_equal(some.of(kernels, SMALL_L2, *variant), rows[:n_rows])


# The L2 cache of the process ------------------------------------------------------------------------------------------

CALLS = """
import hashlib
import numpy as np
from backprop import Network, _core

sums = hashlib.sha256()
for sizes, n, dtype in (
    ([31, 5, 25, 47, 11], 130, "float64"), ([38, 4, 7], 257, "float32"), ([19, 24, 51, 14, 3], 1100, "float64"),
    ([28, 33, 237, 64, 40], 1100, "float32"), ([3, 9, 2], 700, "float32"), ([2, 600, 400, 3], 150, "float32"),
):
    net = Network(sizes, activations="tanh", dtype=dtype, rng=0)
    rng = np.random.default_rng(1)
    x, y, v = (rng.standard_normal(s).astype(dtype) for s in ((n, sizes[0]), (n, sizes[-1]), net.n_params))
    grad_x = rng.standard_normal((n, sizes[-1], sizes[0])).astype(dtype)
    results = [*net.value_and_grad(x, y), net.forward(x), net.hvp(x, y, v), net.gauss_newton_vp(x, y, v)]
    results += [*net.vjp(x, y), net.clipped_gradient(x, y, 0.1)]
    if n * sizes[0] < 40000:
        results += [*net.sobolev_value_and_grad(x, y, grad_x, 0.5)]
    if net.n_params < 100:
        results += [net.hessian(x, y), *net.normal_equations(x, y)]
    for result in results:
        sums.update(np.ascontiguousarray(result).tobytes())
print(_core.l2_bytes, sums.hexdigest())
"""


def run(code, kib, *, check=True):
    environment = os.environ | {"BACKPROP_L2_KIB": kib, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}
    program = [sys.executable, "-c", code]
    return subprocess.run(program, env=environment, capture_output=True, encoding="utf-8", check=check)


def test_the_size_of_l2_changes_no_bit_of_a_call():
    """Neither through blocks nor through tiles: hvp, Hessians and Sobolev gradients add two products to each sum."""
    found = {kib: run(CALLS, kib).stdout.split() for kib in ("64", "256", "1024", "65536")}
    assert {kib: int(l2_bytes) for kib, (l2_bytes, _) in found.items()} == {kib: int(kib) * 1024 for kib in found}
    assert len({bits for _, bits in found.values()}) == 1, found


@pytest.mark.parametrize(
    "kib",
    ["63", "65537", pytest.param("9" * 5000, id="long"), "-512", "0", "512k", "1e3", " 512", "\u0665\u0661\u0662"],
)
def test_a_wrong_size_of_l2_stops_the_import(kib):
    done = run("import backprop", kib, check=False)
    assert done.returncode
    expected = f"ImportError: BACKPROP_L2_KIB: expected a number of KiB from 64 to 65536, got {kib!r}"
    assert done.stderr.splitlines()[-1] == expected


def test_without_the_variable_l2_is_that_of_the_system():
    default = int(run("from backprop import _core; print(_core.l2_bytes)", "").stdout)
    assert 256 * 1024 <= default <= 2048 * 1024
