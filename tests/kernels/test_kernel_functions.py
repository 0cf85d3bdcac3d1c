"""The list of functions that a kernel module exports, against the declaration of the table and its memory."""

import ctypes
import importlib
import re

import numpy as np
import pytest
from kernel_functions import built_simd, kernel_functions
from places import ROOT

from backprop import _core
from backprop.activations import ACTIVATIONS

TABLE = ROOT / "src" / "backprop" / "kernels" / "table.pxd"
DTYPES = {"float32": "f4", "float64": "f8"}
_NAMES = {"bint": "bool"}  # Cython has both


def declared_entries():
    """(name, types of the arguments) of each function of `KernelTable`, in order."""
    _, _, struct = TABLE.read_text(encoding="utf-8").partition("cdef struct KernelTable:")
    struct = re.sub(r"#.*", "", struct)
    found = re.findall(r"(\w+) \(\*(\w+)\)\(([^)]*)\) noexcept nogil", struct)
    for result, name, arguments in found:
        types = [re.sub(r"\w+$", "", one.strip()).replace(" ", "") for one in arguments.split(",") if one.strip()]
        yield name, _NAMES.get(result, result), [_NAMES.get(one, one) for one in types]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_entries_are_those_of_the_table(dtype):
    """Names, order and types as declared, and the addresses that the core finds in the table's memory."""
    module = importlib.import_module(f"backprop._kernels_{_core.simd}_{DTYPES[dtype]}")
    exported = []
    for name, declaration, _ in module.entries:
        result, arguments = re.fullmatch(r"(\w+) \(\*\)\((.*)\) noexcept nogil", declaration).groups()
        types = [one.replace(" ", "").replace("bint", "bool") for one in arguments.split(",") if one != "void"]
        exported.append((name, _NAMES.get(result, result), types))
    assert exported == list(declared_entries())
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    start = get_pointer(module.table, b"backprop.KernelTable")
    start += ctypes.sizeof(ctypes.c_char_p) + ctypes.sizeof(ctypes.c_ssize_t)  # after simd and itemsize
    in_memory = list((ctypes.c_size_t * len(exported)).from_address(start))
    assert in_memory == [address for _, _, address in module.entries]
    assert all(in_memory)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_kernel_is_called_by_name(dtype):
    """In the instruction sets of this CPU."""
    for simd in built_simd():
        kernels = kernel_functions(simd, np.dtype(dtype))
        t, s, x, g = np.random.default_rng(0).integers(-9, 9, (4, 3, 16)).astype(dtype)
        expected = g * t + s * x
        kernels["multiply_add"](3, 16, s.ctypes.data, x.ctypes.data, g.ctypes.data, t.ctypes.data, 16)
        assert np.array_equal(t, expected)
        assert kernels["packed_size"](5, 9) >= 5 * 9


@pytest.mark.parametrize("with_prime", [0, 1])
@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tile_of_activations_is_its_entries_one_by_one(dtype, simd, with_prime):
    """Whatever the width: blocks of vectors go across rows, and the gaps between rows stay as they are."""
    activate = kernel_functions(simd, dtype)["activate"]
    rng = np.random.default_rng(4)
    for row in ACTIVATIONS.values():
        if row.name == "softmax":
            continue
        one_by_one = rng.normal(0, 3, 700).astype(dtype)
        a, h = one_by_one.copy(), np.empty_like(one_by_one)
        for k in range(len(a)):
            activate(row.code, row.default, 1, 1, a[k:].ctypes.data, h[k:].ctypes.data, 1, with_prime)
        for n, ld in [(1, 1), (1, 4), (3, 5), (8, 8), (9, 16), (20, 32), (31, 33), (64, 64), (70, 70), (100, 107)]:
            n_rows = len(a) // ld
            tile = one_by_one[: n_rows * ld].reshape(n_rows, ld).copy()
            result = np.full_like(tile, 7)
            activate(row.code, row.default, n_rows, n, tile.ctypes.data, result.ctypes.data, ld, with_prime)
            expected_a, expected_h = (x[: tile.size].reshape(tile.shape).copy() for x in (a, h))
            expected_a[:, n:] = one_by_one[: tile.size].reshape(tile.shape)[:, n:]
            expected_h[:, n:] = 7
            assert tile.tobytes() == expected_a.tobytes(), (row.name, n, ld)
            assert result.tobytes() == expected_h.tobytes(), (row.name, n, ld)
