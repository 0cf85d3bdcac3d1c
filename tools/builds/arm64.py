"""The library on arm64, under emulation: cross-compiled with setup.py's flags, its tests run by an arm64 Python.

    python tools/builds/arm64.py --prepare -- tests/recursion/test_bits.py
    python tools/builds/arm64.py --short       # without an emulator: this machine's compiler reads what arm64 compiles

It needs Debian, or a system that descends from it, with the packages gcc-aarch64-linux-gnu and qemu-user. `--prepare`
makes the sysroot, once: Debian's arm64 Python 3.11 with its headers, unpacked and not installed, and the arm64 wheels
of NumPy, SciPy and pytest. What follows `--` goes to pytest. Emulated code takes about twenty times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import built_copy
from built_copy import ROOT

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


def run(*command: object, **keywords: Any) -> str:
    """Run a command, and return what it printed; if it fails, show that and stop."""
    words = [str(part) for part in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True, **keywords)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nfailed: {' '.join(words)}")
    return done.stdout


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


# Run setup.py as on arm64, let Cython write the C files, and print what it would compile instead of compiling it.
EXTENSIONS = """
import json, platform, runpy, setuptools
platform.machine = lambda: "aarch64"
found = {}
setuptools.setup = lambda **options: found.update(options)
runpy.run_path("setup.py")
print(json.dumps([
    [e.name, e.sources, e.include_dirs, e.define_macros, e.extra_compile_args] for e in found["ext_modules"]
]))
"""


def compilations(tree: Path) -> Iterator[tuple[str, list[str]]]:
    """The name of each extension module, and the words that compile it in a copy of the tree, as setup.py has them."""
    shutil.rmtree(tree, ignore_errors=True)
    built_copy.copy(tree)
    printed = run(sys.executable, "-c", EXTENSIONS, cwd=tree, env={**os.environ, "BACKPROP_BUILD_SIMD": ""})
    for name, sources, include, macros, flags in json.loads(printed.splitlines()[-1]):
        defined = [f"-D{macro}={value}" for macro, value in macros if macro != "Py_LIMITED_API"]  # 3.11 has none
        yield name.removeprefix("backprop."), [*flags, *(f"-I{folder}" for folder in include), *defined, *sources]


def build() -> Path:
    """Compile the package; return its parent folder."""
    tree = FOLDER / "tree"
    headers = [FOLDER / "root" / "usr" / "include" / "python3.11", FOLDER / "include"]
    headers.append(FOLDER / "site" / "numpy" / "_core" / "include")  # before this machine's
    for name, words in compilations(tree):
        target = tree / "src" / "backprop" / (name + SUFFIX)
        run(COMPILER, "-shared", "-fPIC", *(f"-I{folder}" for folder in headers), *words, "-o", target, cwd=tree)
    return tree / "src"


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
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name, "tree")
        for module, words in compilations(tree):
            run(*compiler, "-fsyntax-only", f"-I{sysconfig.get_path('include')}", *words, cwd=tree)
            print(f"{module}: {' '.join(words)}")
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
