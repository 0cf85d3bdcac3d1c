"""The library on arm64, under emulation: cross-compiled with setup.py's flags, its tests run by an arm64 Python.

    python tools/builds/arm64.py --prepare -- tests/recursion/test_bits.py
    python tools/builds/arm64.py --short       # without an emulator: this machine's compiler reads what arm64 compiles

It needs Debian, or a system that descends from it, with the packages gcc-aarch64-linux-gnu and qemu-user. `--prepare`
makes the sysroot, once: Debian's arm64 Python 3.11 with its headers, unpacked and not installed, and the arm64 wheels
of NumPy, SciPy and pytest. What follows `--` goes to pytest. Emulated code takes about twenty times as long.
"""

from __future__ import annotations

import argparse
import ast
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "backprop"
FOLDER = ROOT / "build" / "arm64"
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
SYSTEM = ["python3.11", "libpython3.11-dev", "libstdc++6", "libgfortran5"]
PACKAGES = ["numpy", "scipy", "pytest", "hypothesis", "mpmath", "threadpoolctl"]
SUFFIX = ".cpython-311-aarch64-linux-gnu.so"


def missing() -> str:
    """Why nothing can be run here; empty if it can."""
    absent = [program for program in (COMPILER, EMULATOR) if shutil.which(program) is None]
    if absent:
        return f"{' and '.join(absent)} not found"
    return "" if (FOLDER / "ready").exists() else "no sysroot: python tools/builds/arm64.py --prepare makes it"


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


def prepare() -> None:
    """Make the sysroot, with a separate configuration of apt: nothing is installed on this machine."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    apt = FOLDER / "apt"
    for folder in ("state", "lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "state" / "status").touch()
    options = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "Dir::State": apt / "state",
        "Dir::State::status": apt / "state" / "status", "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt / "cache", "Debug::NoLocking": "1",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    run("apt-get", *words, "-q", "update")
    run("apt-get", *words, "-q", "-y", "--download-only", "--no-install-recommends", "install", *SYSTEM)
    for package in (apt / "cache" / "archives").glob("*.deb"):
        run("dpkg-deb", "-x", package, FOLDER / "root")
    platforms = [f"--platform=manylinux{tag}_aarch64" for tag in ("2014", "_2_27", "_2_28")]
    run(
        sys.executable, "-m", "pip", "install", "-q", "--target", FOLDER / "site", *platforms, "--python-version=3.11",
        "--only-binary=:all:", *PACKAGES,
    )  # fmt: skip
    headers = FOLDER / "include" / "aarch64-linux-gnu"  # pyconfig.h adds the rest of its path
    headers.mkdir(parents=True)
    (headers / "python3.11").symlink_to(FOLDER / "root" / "usr" / "include" / "aarch64-linux-gnu" / "python3.11")
    (FOLDER / "ready").touch()


def flags() -> list[str]:
    """FLAGS of setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FLAGS":
            return list(ast.literal_eval(node.value))
    raise LookupError("setup.py: expected an assignment to FLAGS")


def make_c_files(folder: Path) -> None:
    """Let Cython write the C files."""
    folder.mkdir(exist_ok=True)
    for pyx in (SOURCE / "_core.pyx", SOURCE / "kernels" / "_kernels.pyx"):
        run(sys.executable, "-m", "cython", "-3", "-I", ROOT / "src", pyx, "-o", folder / f"{pyx.stem}.c")


def compilations(c_files: Path) -> Iterator[tuple[str, list[object]]]:
    """Each module's name with its macros, include folders and sources, as setup.py has them for other machines."""
    include = [f"-I{SOURCE}", f"-I{SOURCE / 'kernels'}"]
    for dtype, float64 in (("f4", 0), ("f8", 1)):
        name = f"_kernels_generic_{dtype}"
        macros = ["-DBP_SIMD=0", f"-DBP_FLOAT64={float64}", f"-DPyInit__kernels=PyInit_{name}"]
        inline = "-DCYTHON_INLINE=inline __attribute__((always_inline))"
        yield name, [*flags(), *include, *macros, inline, c_files / "_kernels.c"]
    macros = ["-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION", "-DNPY_TARGET_VERSION=NPY_1_25_API_VERSION"]
    yield "_core", [*flags(), *include, *macros, c_files / "_core.c", SOURCE / "pool" / "pool.c"]


def build() -> Path:
    """Compile the package; return its parent folder."""
    package = FOLDER / "package" / "backprop"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("*.so", "*.c"))
    make_c_files(FOLDER / "c")
    include = [FOLDER / "root" / "usr" / "include" / "python3.11", FOLDER / "include"]
    include.append(FOLDER / "site" / "numpy" / "_core" / "include")
    for name, words in compilations(FOLDER / "c"):
        run(
            COMPILER,
            "-shared",
            "-fPIC",
            *(f"-I{folder}" for folder in include),
            *words,
            "-o",
            package / (name + SUFFIX),
        )
    return package.parent


def emulated(*words: object) -> int:
    """Run the arm64 Python, with the package on its path; its exit status."""
    path = os.pathsep.join(map(str, [build(), FOLDER / "site"]))
    python = [EMULATOR, "-L", FOLDER / "root", FOLDER / "root" / "usr" / "bin" / "python3.11"]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(part) for part in [*python, *words]]
    return subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode


def short() -> int:
    """Compile and compute something there; without the emulator, have this machine's compiler read the same code."""
    if not missing():
        return emulated("-c", "from backprop import Network; print(Network([2, 3, 1], rng=0).forward([[1.0, 2.0]]))")
    import numpy as np

    compiler = shlex.split(os.environ.get("CC", "cc"))
    include = [f"-I{sysconfig.get_path('include')}", f"-I{np.get_include()}"]
    with tempfile.TemporaryDirectory() as name:
        make_c_files(Path(name))
        for _, words in compilations(Path(name)):
            run(*compiler, "-fsyntax-only", *include, *words)
    print(f"{compiler[0]} accepts what arm64 compiles; not compiled for arm64, and not run: {missing()}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", action="store_true", help="make the sysroot first")
    parser.add_argument("--short", action="store_true", help="as much as this machine can do in seconds")
    parser.add_argument("tests", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    if options.prepare:
        prepare()
    if options.short:
        return short()
    if missing():
        sys.exit(missing())
    return emulated("-m", "pytest", "-p", "no:cacheprovider", *options.tests)


if __name__ == "__main__":
    sys.exit(main())
