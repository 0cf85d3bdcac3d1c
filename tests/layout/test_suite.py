"""The suite itself: no test file imports another one, and tests marked `alone` share the CPUs with no other test."""

import ast
import re
import shutil
import subprocess
import sys
import textwrap

import pytest
from places import ROOT, SUPPORT

TESTS = ROOT / "tests"


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_test_file_is_imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.startswith(("test_", "conftest"))], f"{path}:{node.lineno}"


FILE = """
import os, pathlib, time
import pytest


def note(what):
    with open(pathlib.Path(__file__).parents[1] / "log", "a") as file:
        file.write(f"{{time.monotonic()}} {{os.getpid()}} {{what}}\\n")


@pytest.mark.parametrize("k", range({n}))
def test_beside_others(k):
    note("begin")
    time.sleep(0.01)
    note("end")


@pytest.mark.alone
@pytest.mark.parametrize("k", range(3))
def test_alone(k):
    note("begin alone")
    time.sleep(0.02)
    note("end")


@pytest.mark.long("a reason")
def test_long():
    note("begin")
    note("end")
"""


def run(folder, *options):
    """How many tests ran, how many of them alone, and the last line."""
    (folder / "log").unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp=base", *options, "tests"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    running, n, n_alone = {}, 0, 0
    for _, process, *what in sorted(line.split() for line in (folder / "log").read_text().splitlines()):
        if what == ["end"]:
            del running[process]
            continue
        running[process] = what
        n, n_alone = n + 1, n_alone + (what == ["begin", "alone"])
        assert len(running) == 1 or ["begin", "alone"] not in running.values(), "a test runs beside one that is alone"
    return n, n_alone, re.sub(" in .*", "", done.stdout.splitlines()[-1])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["tests/support"]\n')
    (tmp_path / "tests" / "support").mkdir(parents=True)
    shutil.copy(TESTS / "conftest.py", tmp_path / "tests")
    shutil.copy(SUPPORT / "alone_last.py", tmp_path / "tests" / "support")
    for k in range(4):
        (tmp_path / "tests" / f"test_{k}.py").write_text(textwrap.dedent(FILE).format(n=1 + 9 * k))
    return tmp_path


of_the_suite = pytest.mark.long("the suite itself runs in this way")


@of_the_suite
@pytest.mark.parametrize("options", [[], ["-n0"], ["-n1"], ["-n3"]], ids=str)
def test_short_suite(folder, options):
    if options != ["-n0"]:
        pytest.importorskip("xdist")
    assert run(folder, *options) == (58 + 12, 12, "70 passed, 4 deselected")


@of_the_suite
def test_all(folder):
    assert run(folder, "--all") == (58 + 12 + 4, 12, "74 passed")


@of_the_suite
def test_a_crash_is_one_failure_and_the_rest_goes_on(folder):
    pytest.importorskip("xdist")
    (folder / "tests" / "test_crash.py").write_text("import os\ndef test_crash():\n    os._exit(3)\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp=base", "tests"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1].startswith("1 failed, 70 passed, 4 deselected")
