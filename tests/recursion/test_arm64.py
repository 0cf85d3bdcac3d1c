"""An emulated arm64 gives the bits on record, which builds for x86-64 made, with the whole library and threads."""

import subprocess
import sys

import pytest
from places import ROOT, use_folder

use_folder("tools/builds")

import arm64  # noqa: E402


@pytest.mark.skipif(bool(arm64.missing()), reason=arm64.missing() or "it is there")
def test_an_emulated_arm64_gives_the_bits_on_record():
    cases = "on_record and (1-50-1 or 784 or 13-64) and not 1000 and not 5003"
    done = subprocess.run(
        [sys.executable, arm64.__file__, "--", "-q", "tests/recursion/test_bits.py", "-k", cases],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18 passed" in done.stdout
