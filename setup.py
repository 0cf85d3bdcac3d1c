"""Build the extension modules: _core, and the kernels once for each instruction set and dtype.

Cython makes one C file of the kernels. Each build compiles a small C file that includes it: without these files, the
six objects of one source would have one name. The compiler's options set the instruction set and the dtype.

From Python 3.12 on the modules keep to the limited API, so that one wheel (cp312-abi3) serves all later versions. A
call of a 1-1 network with out= then takes 1.47 times as long as np.add with out=, instead of 1.31 times (3.12.1, each
in three processes). Free-threaded Pythons have no limited API before 3.15: each gets its own wheel.
"""

import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError

PACKAGE = Path("src", "backprop")
LIMITED_API = sys.version_info >= (3, 12) and not sysconfig.get_config_var("Py_GIL_DISABLED")
API_MACROS = [("Py_LIMITED_API", "0x030C0000")] if LIMITED_API else []
NUMPY_MACROS = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION")]

# These undo -ffast-math, -Ofast and the like among the user's CFLAGS. With such options a NaN could give a loss that
# looks right, and a module that is linked with them would turn off subnormals in the whole process.
STRICT_MATH = ["-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations"]
# No contraction: the source says where a product and a sum become one fma, so that all instruction sets round alike.
# Aligned loops: without this the inner loop of `outer_product` (kernels/rows.pxd; v3, float64) lay across two cache
# lines after an unrelated change, and took 1.6 times as long.
FLAGS = [
    *STRICT_MATH,
    "-falign-loops=32",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-g0",
    "-fvisibility=hidden",
]
ALWAYS_INLINE = ("CYTHON_INLINE", "inline __attribute__((always_inline))")  # sizes of register blocks become constants
SIMD_FLAGS = {
    "v2": ["-march=x86-64-v2", "-DBP_SIMD=2"],
    "v3": ["-march=x86-64-v3", "-DBP_SIMD=3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512", "-DBP_SIMD=4"],
    "generic": ["-DBP_SIMD=0"],
}


def simd_builds():
    """The instruction sets to build for: all of this machine's architecture.

    BACKPROP_BUILD_SIMD, a comma-separated list such as "v3", names fewer. It is for tools that rebuild often, not for
    wheels.
    """
    every = ["v2", "v3", "v4"] if platform.machine().lower() in {"x86_64", "amd64"} else ["generic"]
    wanted = os.environ.get("BACKPROP_BUILD_SIMD")
    chosen = wanted.split(",") if wanted else every
    if not set(chosen) <= set(every):
        raise ValueError(f"BACKPROP_BUILD_SIMD: expected a list of {', '.join(every)}, got {wanted!r}")
    return chosen


def extensions():
    """All extension modules. Cython runs once for _core and once for the kernels."""
    include = [np.get_include(), str(PACKAGE)]
    headers = ["setup.py", *map(str, sorted(PACKAGE.rglob("*.h")))]  # a change of a flag rebuilds too
    core_flags = FLAGS if "generic" in simd_builds() else [*FLAGS, "-march=x86-64-v2"]
    sources = [
        Extension(
            "backprop._core",
            [str(PACKAGE / "_core.pyx"), str(PACKAGE / "pool" / "pool.c")],
            include_dirs=include,
            depends=headers,
            extra_compile_args=core_flags,
            extra_link_args=STRICT_MATH,
            define_macros=[*API_MACROS, *NUMPY_MACROS],
            py_limited_api=LIMITED_API,
        ),
        Extension("backprop._kernels", [str(PACKAGE / "kernels" / "_kernels.pyx")]),
    ]
    core, kernels = cythonize(sources, include_path=["src"])
    c_file = Path(kernels.sources[0])
    builds = []
    for simd in simd_builds():
        for dtype, float64 in (("f4", 0), ("f8", 1)):
            name = f"_kernels_{simd}_{dtype}"
            wrapper = c_file.with_name(f"{name}.c")
            text = f'#define PyInit__kernels PyInit_{name}\n#include "{c_file.name}"\n'
            if not wrapper.exists() or wrapper.read_text() != text:  # a rewritten file would be compiled again
                wrapper.write_text(text)
            builds.append(
                Extension(
                    f"backprop.{name}",
                    [str(wrapper)],
                    include_dirs=[str(PACKAGE)],
                    depends=[str(c_file), *headers],
                    define_macros=[*API_MACROS, ("BP_FLOAT64", str(float64)), ALWAYS_INLINE],
                    extra_compile_args=[*FLAGS, *SIMD_FLAGS[simd]],
                    extra_link_args=STRICT_MATH,
                    py_limited_api=LIMITED_API,
                )
            )
    return [core, *builds]


# The commands that install a C compiler and the headers of Python, by the program that a system has. The first program
# found counts.
INSTALLERS = {
    "apt-get": ("apt-get install gcc libc6-dev", "apt-get install python3-dev"),
    "dnf": ("dnf install gcc", "dnf install python3-devel"),
    "apk": ("apk add gcc musl-dev", "apk add python3-dev"),
    "pacman": ("pacman -S gcc", "pacman -S python"),
    "zypper": ("zypper install gcc", "zypper install python3-devel"),
    "xcode-select": ("xcode-select --install", "install Python from python.org or Homebrew"),
}
ELSEWHERE = ("install GCC 11 or Clang 12, or later, and set CC to it", "install the headers of this Python")


def missing_of(compiler, flags):
    """A sentence about what is missing for a build, or None. The compiler is tried on three files of one line."""
    found = next((commands for program, commands in INSTALLERS.items() if shutil.which(program)), ELSEWHERE)
    get_compiler, get_headers = found
    named = f"CC={os.environ['CC']!r}" if "CC" in os.environ else "the compiler that Python names"
    trials = [
        ("#include <math.h>", [], f"expected a C compiler, but {named} compiles nothing: {get_compiler}"),
        ("#include <Python.h>", [], f"expected the headers of Python, but Python.h is missing: {get_headers}"),
        ("int one;", flags, f"expected GCC 11 or Clang 12, or later, but {named} does not know {' '.join(flags)}"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "trial.c")
        for text, options, sentence in trials:
            source.write_text(text + "\n")
            try:
                compiler.compile([str(source)], output_dir=folder, extra_postargs=options)
            except (CCompilerError, ExecError):
                return sentence
    return None


class Build(build_ext):
    """Say in one sentence, at the end, what is missing for a build.

    On Windows clang-cl replaces cl: the kernels use the vector types of GCC and Clang.
    """

    def build_extensions(self):
        """Adapt the options to the compiler, and try it, before anything is compiled."""
        if self.compiler.compiler_type == "msvc":
            self.compiler.initialize()
            self.compiler.cc = os.environ.get("CC", "clang-cl")
            self.compiler.compile_options = [o for o in self.compiler.compile_options if o not in {"/GL", "/W3"}]
            self.compiler.ldflags_shared = [o for o in self.compiler.ldflags_shared if o != "/LTCG"]
            for extension in self.extensions:
                extension.extra_compile_args = [
                    "/std:c11",
                    *(f"/clang:{o}" for o in extension.extra_compile_args if o != "-fvisibility=hidden"),
                ]
                extension.extra_link_args = []
                extension.libraries = [*extension.libraries, "synchronization"]  # WaitOnAddress
        missing = missing_of(self.compiler, self.extensions[-1].extra_compile_args)
        if missing:
            sys.exit(f"error: {missing}")
        super().build_extensions()


def description():
    """README.md for a package index: it has no repository beside it, so relative links become plain text."""
    return re.sub(r"\[([^\]]+)\]\((?!https?://)[^)]+\)", r"\1", Path("README.md").read_text(encoding="utf-8"))


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    ext_modules=extensions(),
    cmdclass={"build_ext": Build},
    options={
        "build_ext": {"parallel": os.cpu_count()},
        "bdist_wheel": {"py_limited_api": "cp312"} if LIMITED_API else {},
    },
)
