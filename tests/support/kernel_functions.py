"""The functions of a kernel module, callable from Python by the names of `KernelTable` (kernels/table.pxd).

The benchmarks and the tests share them, and the constants of that file.
"""

import ctypes
import importlib
import importlib.util
import re
import sys

from places import ROOT

DECLARATIONS = ROOT / "src" / "backprop" / "kernels" / "table.pxd"
C_TYPES = {
    "void": None,
    "int": ctypes.c_int,
    "bool": ctypes.c_int,  # Cython's name for bint
    "bint": ctypes.c_int,
    "double": ctypes.c_double,
    "Py_ssize_t": ctypes.c_ssize_t,
}


def constants():
    """The names of all enums of table.pxd, with their values."""
    found = {}
    text = re.sub(r" *#.*", "", DECLARATIONS.read_text(encoding="utf-8"))
    for body in re.findall(r"^cdef enum[ \w]*:\n((?:(?: .*)?\n)+)", text, re.MULTILINE):
        value = -1
        for name, given in re.findall(r"^ +(\w+)(?: *= *(\d+))?", body, re.MULTILINE):
            value = int(given) if given else value + 1
            found[name] = value
    return found


CONSTANTS = constants()


def c_function_type(declaration):
    """The ctypes type of a function pointer as Cython writes it; every data pointer becomes c_void_p."""
    result, arguments = re.fullmatch(r"(\w+) \(\*\)\((.*)\) noexcept nogil", declaration).groups()
    types = [ctypes.c_void_p if "*" in name else C_TYPES[name] for name in arguments.split(", ") if name != "void"]
    return ctypes.CFUNCTYPE(C_TYPES[result], *types)


def built_simd():
    """The instruction sets of this CPU that the package was built for: all, but some tools build one."""
    from backprop import _core

    return [simd for simd in _core.supported_simd() if importlib.util.find_spec(f"backprop._kernels_{simd}_f4")]


def kernel_functions(simd, dtype):
    """The kernels of one instruction set and dtype.

    Parameters
    ----------
    simd : str
        One of `built_simd`. A test that needs one instruction set takes `backprop._core.simd`.
    dtype : str or numpy.dtype
        float32 or float64.

    Returns
    -------
    dict
        Name of the table's entry -> ctypes function. A pointer argument takes an address, ``array.ctypes.data``, or
        None for NULL.
    """
    module = importlib.import_module(f"backprop._kernels_{simd}_{'f4' if str(dtype) == 'float32' else 'f8'}")
    functions = {name: c_function_type(declaration)(address) for name, declaration, address in module.entries}
    core = sys.modules.get("backprop._core")
    if core is not None:  # it has done so for the kernels that it uses
        functions["set_l2_bytes"](core.l2_bytes)
    return functions
