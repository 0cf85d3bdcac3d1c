"""A copy of the tree, built with flags of its own: for the tools that break the code, or watch what it does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IGNORED = shutil.ignore_patterns("*.so", "_core.c", "_kernels*.c", "__pycache__", "*.egg-info")


def environment(tree, simd):
    """Variables with which the tree's package is found first, built and run for one instruction set."""
    return os.environ | {"PYTHONPATH": str(tree / "src"), "BACKPROP_SIMD": simd, "BACKPROP_BUILD_SIMD": simd}


def copy(tree, names, replacements):
    """Copy files and folders of this tree; replacements: texts of setup.py and what stands there instead.

    The copies keep their times, so that a build on top of an older one does only what is needed.
    """
    tree.mkdir(exist_ok=True)
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=IGNORED, dirs_exist_ok=True)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, tree / name)
    setup = tree / "setup.py"
    text = setup.read_text()
    for old, new in replacements.items():
        if text.count(old) != 1:
            raise SystemExit(f"setup.py: expected {old} once, got it {text.count(old)} times")
        text = text.replace(old, new)
    setup.write_text(text)


def build(tree, simd, **variables):
    """Build in place; whether that failed, and the output."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(
        command, cwd=tree, env=environment(tree, simd) | variables, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr
