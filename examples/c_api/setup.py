"""Build descents: python setup.py build_ext --inplace."""

import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

# Apple's compiler has no OpenMP: prange runs on one thread there.
OPENMP = {"darwin": [], "win32": ["/openmp"]}.get(sys.platform, ["-fopenmp"])
# theta - rate * grad must not become one fma, since NumPy rounds twice. GCC's warning is about a variable of Cython's.
FLAGS = [] if sys.platform == "win32" else ["-ffp-contract=off", "-Wno-maybe-uninitialized"]

setup(
    name="descents",
    ext_modules=cythonize(
        [
            Extension(
                "descents",
                ["descents.pyx"],
                extra_compile_args=[*OPENMP, *FLAGS],
                extra_link_args=[] if sys.platform == "win32" else OPENMP,
            )
        ]
    ),
)
