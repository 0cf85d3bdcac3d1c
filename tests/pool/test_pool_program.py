"""The pool without Python, with each way to sleep: futex, condition variables (macOS), and Windows' under Wine."""

import shutil
import subprocess
import sys

import pytest
from places import ROOT, SUPPORT

SOURCE = ROOT / "src" / "backprop"
WAYS = {
    "futex": ("gcc", [], []),
    "conditions": ("gcc", ["-DBP_POOL_NO_FUTEX"], []),
    "clang": ("clang", ["-DBP_POOL_NO_FUTEX"], []),
    "arm64": ("aarch64-linux-gnu-gcc", ["-static"], ["qemu-aarch64"]),
    "windows": ("x86_64-w64-mingw32-gcc", ["-static", "-lsynchronization"], ["wine64"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_task_runs_once(way, tmp_path):
    if sys.platform == "win32":
        pytest.skip("a program for Windows is tried under Wine")
    compiler, options, emulator = WAYS[way]
    for program in [compiler, *emulator]:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    if not (SOURCE / "pool" / "pool.c").exists():
        pytest.skip("the sources are in the repository alone")
    program = tmp_path / "pool.exe"
    sources = [SUPPORT / "pool_program.c", SOURCE / "pool" / "pool.c"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        [compiler, "-std=gnu11", "-O2", "-pthread", *warnings, f"-I{SOURCE}", *sources, "-o", program, *options],
        check=True,
    )
    done = subprocess.run([*emulator, program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "right, with 3 threads"), done.stdout + done.stderr
