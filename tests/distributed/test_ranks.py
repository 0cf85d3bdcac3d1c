"""`mpiexec` works where these tests run: as root, in an environment of its own, beside other tests."""

from pathlib import Path

import pytest
from ranks import run_on_ranks

PROGRAM = """
import sys
from mpi4py import MPI
comm = MPI.COMM_WORLD
if comm.rank == comm.size - 1 and sys.argv[1] == "raise":
    raise ValueError("of the last rank")
if sys.argv[1] == "hang":
    comm.recv(source=comm.rank)
total = comm.allreduce(10**comm.rank)
sys.stdout.write(f"{comm.rank} {comm.size} {total} {MPI.get_vendor()[0]}\\n")
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4])
def test_as_many_ranks_as_asked_for(program, n_ranks):
    done = run_on_ranks(n_ranks, program, "add")
    assert done.returncode == 0, done.stderr
    lines = sorted(line.split(maxsplit=3) for line in done.stdout.splitlines())
    assert [line[:3] for line in lines] == [[str(k), str(n_ranks), "1" * n_ranks] for k in range(n_ranks)]


def test_a_rank_that_raises_ends_all(program):
    done = run_on_ranks(3, "-m", "mpi4py", program, "raise")
    assert done.returncode != 0
    assert "ValueError: of the last rank" in done.stderr


def test_ranks_that_hang_fail_the_test_and_are_ended(program):
    with pytest.raises(pytest.fail.Exception, match="2 ranks hang: no end after 1 s"):
        run_on_ranks(2, program, "hang", limit=1)
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(program).encode() in text_of(path)]
    assert left == []


def text_of(path):
    """The command line of a process; empty if it has ended meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
