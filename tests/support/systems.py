"""Marks for tests that need something that not all systems have; and the C compiler."""

import os
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
needs_signals = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs alarms and kill, as POSIX has them")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc, as Linux has it")
needs_limits = pytest.mark.skipif(find_spec("resource") is None, reason="needs limits of resources")
needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
# Windows has other permissions, needs a privilege to make links, and cannot replace an open file.
needs_posix_files = pytest.mark.skipif(os.name != "posix", reason="needs files as POSIX has them")


def compile_c(name, folder, *libraries):
    """A C file of this folder as a shared library."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    path = folder / f"{name}.so"
    source = Path(__file__).parent / f"{name}.c"
    command = [compiler, "-O2", "-shared", "-fPIC", "-pthread", "-o", path, source, *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path
