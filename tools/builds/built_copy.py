"""A copy of the tree that is built with its own flags: for the tools that break the code, or watch what it does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TREE = ["src", "tests", "tools", "docs", "examples", "benchmarks", "setup.py", "pyproject.toml", "README.md"]
TREE += ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", ".ci"]
IGNORED = shutil.ignore_patterns("*.so", "_core.c", "_kernels*.c", "__pycache__", "*.egg-info")


def test_path(test):
    """The argument for pytest of a test module, or of a test in it: wherever in tests/ the module is."""
    module, *rest = test.split("::")
    found = sorted((ROOT / "tests").rglob(f"{module}.py"))
    if len(found) != 1:
        raise SystemExit(f"{module}.py: expected one below tests/, got {len(found)}")
    return "::".join([found[0].relative_to(ROOT).as_posix(), *rest])


def usual_simd():
    """The instruction set to build for: v3, or the best one of a CPU that lacks it."""
    from backprop import _core

    return "v3" if "v3" in _core.supported_simd() else _core.simd


def environment(tree, simd):
    """Variables with which the tree's package is found first, built and run for one instruction set."""
    return os.environ | {"PYTHONPATH": str(tree / "src"), "BACKPROP_SIMD": simd, "BACKPROP_BUILD_SIMD": simd}


def copy(tree, replacements=None):
    """Copy this tree. `replacements` maps texts of setup.py to what stands there in the copy.

    The copies keep their times, so that a build on top of an older one does only what is needed.
    """
    tree.mkdir(exist_ok=True)
    for name in TREE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=IGNORED, dirs_exist_ok=True)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, tree / name)
    setup = tree / "setup.py"
    text = setup.read_text()
    for old, new in (replacements or {}).items():
        if text.count(old) != 1:
            raise SystemExit(f"setup.py: expected {old} once, got it {text.count(old)} times")
        text = text.replace(old, new)
    setup.write_text(text)


def build(tree, simd, **variables):
    """Build in place: the exit status, and the output."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(
        command, cwd=tree, env=environment(tree, simd) | variables, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def take_installed(tree):
    """Copy the compiled modules of the installed package into the tree, which needs no build then."""
    import backprop

    package = Path(backprop.__file__).parent
    for suffix in (".so", ".pyd"):
        for module in package.rglob(f"*{suffix}"):
            target = tree / "src" / "backprop" / module.relative_to(package)
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(module, target)
