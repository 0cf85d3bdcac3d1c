"""The kernels of one instruction set and dtype, called by ctypes: names and types are read from kernels/table.pxd."""

import ctypes
import functools
import importlib
import re
from pathlib import Path

import numpy as np

from backprop import _core

DECLARATION = Path(__file__).resolve().parents[2] / "src" / "backprop" / "kernels" / "table.pxd"
TYPES = {
    "void": None,
    "int": ctypes.c_int,
    "bint": ctypes.c_int,
    "double": ctypes.c_double,
    "Py_ssize_t": ctypes.c_ssize_t,
}


def ctype(declaration):
    """The type of a parameter such as `const void* W`, or of a result such as `void`."""
    if "*" in declaration:
        return ctypes.c_void_p
    return TYPES[declaration.split()[0]]


def fields(text):
    """Names and types of `KernelTable`, in order: functions, and what stands before them."""
    start = text.index("cdef struct KernelTable:\n")
    body = re.split(r"\n(?=\S)", text[start:], maxsplit=1)[0].split("\n", 1)[1]
    found = []
    for declaration in re.split(r"\n {4}(?=\S)", "\n" + re.sub(r" *#.*", "", body)):
        words = " ".join(declaration.split())
        if function := re.fullmatch(r"([\w *]+) \(\*(\w+)\)\((.*)\) noexcept nogil", words):
            result, name, parameters = function.groups()
            found.append((name, ctypes.CFUNCTYPE(ctype(result), *map(ctype, parameters.split(", ")))))
        elif plain := re.fullmatch(r"(.+) (\w+)", words):
            found.append((plain[2], ctype(plain[1])))
        elif words:
            raise ValueError(f"{DECLARATION.name}: expected a field of KernelTable, got {words!r}")
    return found


def constants(text):
    """The names of all enums, with their values."""
    found = {}
    for body in re.findall(r"^cdef enum.*:.*\n((?: .*\n|\n)+)", text, re.MULTILINE):
        value = -1
        for name, given in re.findall(r"^ +(\w+)(?: *= *(\d+))?", re.sub(r" *#.*", "", body), re.MULTILINE):
            value = int(given) if given else value + 1
            found[name] = value
    return found


TEXT = DECLARATION.read_text(encoding="utf-8")
CONSTANTS = constants(TEXT)


class KernelTable(ctypes.Structure):
    """The table of function pointers; each is a callable attribute that takes addresses as integers."""

    _fields_ = fields(TEXT)


@functools.cache
def load(dtype, simd=_core.simd):
    """The table of a build of the kernels, by default the one that the package uses on this CPU."""
    size = np.dtype(dtype).itemsize
    capsule = importlib.import_module(f"backprop._kernels_{simd}_f{size}").table
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    table = KernelTable.from_address(get_pointer(capsule, b"backprop.KernelTable"))
    if (ctypes.string_at(table.simd), table.itemsize) != (simd.encode(), size):
        raise RuntimeError(f"the table says {ctypes.string_at(table.simd)}, {table.itemsize} bytes, not {simd}, {size}")
    return table
