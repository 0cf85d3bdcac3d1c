"""`examples/many_machines.py` ends at the same bits with one process, with 1 to 3 ranks, and in blocks."""

import re
import subprocess
import sys

import pytest
from places import ROOT
from ranks import run_on_ranks

EXAMPLE = ROOT / "examples" / "many_machines.py"
pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are in the repository alone")
SHORT = ["--rows", "250_000", "--iterations", "3"]  # three blocks


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder for the file, which the first run writes."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def sha_of_one_process(data):
    """What one process prints, without MPI."""
    code = "import runpy, sys; sys.modules.update(mpi4py=None); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-c", code, str(EXAMPLE), *SHORT, "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sha(done.stdout)


def sha(out):
    """The SHA-256 in what the example printed."""
    (found,) = re.findall(r"^SHA-256 of the parameters ([0-9a-f]{64})$", out, re.MULTILINE)
    return found


def test_one_process_reads_blocks(data, sha_of_one_process):
    command = [sys.executable, str(EXAMPLE), *SHORT, "--data", str(data), "--stream"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sha(done.stdout) == sha_of_one_process


@pytest.mark.parametrize(("n_ranks", "how"), [(1, []), (2, []), (3, []), (2, ["--stream"])])
def test_ranks(data, sha_of_one_process, n_ranks, how):
    done = run_on_ranks(n_ranks, "-m", "mpi4py", EXAMPLE, *SHORT, "--data", data, "--mpi", *how)
    assert done.returncode == 0, done.stderr
    assert sha(done.stdout) == sha_of_one_process
