"""Build the extension modules: _core, and the kernels once for each instruction set and dtype.

The kernels' C code, made by Cython from one source, is included by a small C file per build that sets the dtype and the
instruction set: six objects of one source would otherwise have one name.
"""

import os
import platform
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

PACKAGE = Path("src", "backprop")

# No -ffast-math: at link time GCC turns off subnormals in the whole process with it. No contraction: where a product
# and a sum become one fma is said in the source, so that all instruction sets round alike.
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-g0", "-fvisibility=hidden"]
ALWAYS_INLINE = ("CYTHON_INLINE", "inline __attribute__((always_inline))")  # register blocks arrive as constants
SIMD_FLAGS = {
    "v2": ["-march=x86-64-v2", "-DBP_SIMD=2"],
    "v3": ["-march=x86-64-v3", "-DBP_SIMD=3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512", "-DBP_SIMD=4"],
    "generic": ["-DBP_SIMD=0"],
}


def simd_builds():
    """The instruction sets to build for: those of this machine's architecture.

    BACKPROP_BUILD_SIMD, a comma-separated list such as "v3", names fewer: for tools that rebuild often, not for wheels.
    """
    every = ["v2", "v3", "v4"] if platform.machine().lower() in {"x86_64", "amd64"} else ["generic"]
    wanted = os.environ.get("BACKPROP_BUILD_SIMD")
    chosen = wanted.split(",") if wanted else every
    if not set(chosen) <= set(every):
        raise ValueError(f"BACKPROP_BUILD_SIMD: expected a list of {', '.join(every)}, got {wanted!r}")
    return chosen


def extensions():
    """All extension modules; Cython runs once for each source."""
    include = [np.get_include(), str(PACKAGE)]
    core_flags = FLAGS if "generic" in simd_builds() else [*FLAGS, "-march=x86-64-v2"]
    sources = [
        Extension(
            "backprop._core",
            [str(PACKAGE / "_core.pyx"), str(PACKAGE / "_pool.c")],
            include_dirs=include,
            extra_compile_args=core_flags,
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        ),
        Extension("backprop._kernels", [str(PACKAGE / "_kernels.pyx")]),
    ]
    core, kernels = cythonize(sources, include_path=["src"])
    c_file = Path(kernels.sources[0])
    builds = []
    for simd in simd_builds():
        for dtype, float64 in (("f4", 0), ("f8", 1)):
            name = f"_kernels_{simd}_{dtype}"
            wrapper = c_file.with_name(f"{name}.c")
            text = f'#define PyInit__kernels PyInit_{name}\n#include "{c_file.name}"\n'
            if not wrapper.exists() or wrapper.read_text() != text:  # else what is built stays newer than its source
                wrapper.write_text(text)
            builds.append(
                Extension(
                    f"backprop.{name}",
                    [str(wrapper)],
                    include_dirs=[str(PACKAGE)],
                    depends=[str(c_file), *map(str, PACKAGE.glob("_kernels*.h"))],
                    define_macros=[("BP_FLOAT64", str(float64)), ALWAYS_INLINE],
                    extra_compile_args=[*FLAGS, *SIMD_FLAGS[simd]],
                )
            )
    return [core, *builds]


setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count()}})
