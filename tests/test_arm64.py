"""The bits on record, which the builds for x86-64 made, on an emulated arm64: the library itself, with its threads."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

try:
    import arm64
except ModuleNotFoundError:
    pytest.skip("tools/arm64.py is in the repository alone", allow_module_level=True)
finally:
    sys.path.pop(0)


@pytest.mark.skipif(bool(arm64.missing()), reason=arm64.missing() or "it is there")
def test_an_emulated_arm64_gives_the_bits_on_record():
    cases = "on_record and (1-50-1 or 784 or 13-64) and not 1000 and not 5003"
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "arm64.py", "--", "-q", "tests/test_bits.py", "-k", cases],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18 passed" in done.stdout
