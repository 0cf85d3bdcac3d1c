"""Build descents: python setup.py build_ext --inplace."""

import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

# Apple's compiler has no OpenMP: prange runs on one thread there.
OPENMP = {"darwin": [], "win32": ["/openmp"]}.get(sys.platform, ["-fopenmp"])

setup(
    name="descents",
    ext_modules=cythonize(
        [
            Extension(
                "descents",
                ["descents.pyx"],
                # theta - rate * grad must not become one fma: NumPy rounds twice.
                extra_compile_args=[*OPENMP, *([] if sys.platform == "win32" else ["-ffp-contract=off"])],
                extra_link_args=[] if sys.platform == "win32" else OPENMP,
            )
        ]
    ),
)
