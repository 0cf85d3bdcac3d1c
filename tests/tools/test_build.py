"""What a build says about the package, and that one that lacks something ends in a sentence with the cure."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
from places import ROOT
from systems import needs_posix_files

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="setup.py is in the repository and the sdist")

# setup.py without Cython, which takes half a minute: no build here gets as far as compiling a source.
BUILD = """
import runpy, sys
import Cython.Build
Cython.Build.cythonize = lambda sources, **options: sources
sys.argv = ["setup.py", "-q", "build_ext"]
runpy.run_path("setup.py", run_name="__main__")
"""
# Shell programs in place of compilers, which lack something; "$*" holds the name of the source.
NO_HEADERS = 'for word; do case $word in *.c) grep -q Python.h "$word" && exit 1;; esac; done; exit 0'
OLD = 'case "$*" in *-fno-trapping-math*) exit 1;; esac; exit 0'


@pytest.fixture
def tree(tmp_path):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    package = tmp_path / "src" / "backprop"
    (package / "kernels").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    (package / "__init__.py").touch()
    (package / "_version.py").write_text('__version__ = "0"\n')
    return tmp_path


def last_line(tree, compiler):
    """The last line of the build with an unusable compiler."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=tree,
        env=os.environ | {"CC": compiler},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def program(tree, text):
    path = tree / "compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@needs_posix_files
@pytest.mark.parametrize("compiler", ["/nonexistent/cc", "false"])
def test_without_a_compiler(tree, compiler):
    line = last_line(tree, compiler)
    assert line.startswith(f"error: expected a C compiler, but CC={compiler!r} compiles nothing: ")
    assert "install" in line or "pacman" in line


@needs_posix_files
def test_without_the_headers_of_python(tree):
    line = last_line(tree, program(tree, NO_HEADERS))
    assert line.startswith("error: expected the headers of Python, but Python.h is missing: ")


@needs_posix_files
def test_a_compiler_that_is_too_old(tree):
    line = last_line(tree, program(tree, OLD))
    assert line.startswith("error: expected GCC 11 or Clang 12, or later, but CC=")
    assert "-fno-trapping-math" in line


# What setup.py gives to the compiler and the linker for each module.
PRINT_OPTIONS = """
import json, setuptools
setuptools.setup = lambda ext_modules, **options: print(
    json.dumps([[one.extra_compile_args, one.extra_link_args] for one in ext_modules])
)
"""


@needs_posix_files
@pytest.mark.parametrize("theirs", ["-ffast-math", "-Ofast", "-funsafe-math-optimizations -ffinite-math-only"])
def test_fast_math_among_the_users_flags_is_undone(tree, theirs):
    """With it a NaN in x gave a loss of -1, and the process lost its subnormals."""
    done = subprocess.run([sys.executable, "-c", PRINT_OPTIONS + BUILD], cwd=tree, capture_output=True, check=True)
    (tree / "trial.c").write_text("int one;\n")
    for at_compilation, at_linking in json.loads(done.stdout):
        compiler = shlex.split(os.environ.get("CC", "cc")) + theirs.split()
        command = [*compiler, *at_compilation, "-dM", "-E", "trial.c"]
        macros = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True).stdout
        assert "__FAST_MATH__" not in macros
        assert "__FINITE_MATH_ONLY__ 0" in macros
        command = [*compiler, "-shared", "-fPIC", "trial.c", *at_linking, "-###"]
        steps = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True).stderr
        assert "crtfastmath" not in steps


def test_the_page_of_an_index_has_no_relative_links(tree):
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    for package in project["tool"]["setuptools"]["packages"]:
        (tree / "src" / package.replace(".", "/")).mkdir(exist_ok=True)
    command = BUILD.replace("build_ext", "egg_info")
    subprocess.run([sys.executable, "-c", command], cwd=tree, capture_output=True, check=True)
    page = (tree / "src" / "backprop_cpu.egg-info" / "PKG-INFO").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = r"^```\w+\n.*?^```$"
    assert "Description-Content-Type: text/markdown" in page
    assert re.findall(r"\]\((?!https?://).*?\)", re.sub(code, "", readme, flags=re.MULTILINE | re.DOTALL))
    assert not re.findall(r"\]\((?!https?://).*?\)", page)
    assert re.findall(code, page, re.MULTILINE | re.DOTALL) == re.findall(code, readme, re.MULTILINE | re.DOTALL)
