"""A sum of objectives keeps the comm of each term: the bits of one process, and failures are raised on all ranks."""

from on_ranks import said, support
from ranks import run_on_ranks

PROGRAM = """
import numpy as np
from mpi4py import MPI
from on_ranks import attempt, problem, say, sha
from backprop import Activation, Network

comm = MPI.COMM_WORLD
rank, odd = comm.rank, comm.rank == 1
net, x, y, weight, v = problem(20_000, weights=1)
ends = [k * 20_000 // comm.size for k in range(comm.size + 1)]
rows = slice(ends[rank], ends[rank + 1])
x_2, y_2 = x[:50] + 1, y[:50]

plain = net.objective(x, y, sample_weight=weight, l2=1e-3)
plain = plain + 0.1 * net.objective(x_2, y_2) + 3 * net.objective(x, y)
divided = net.objective(x[rows], y[rows], sample_weight=weight[rows], l2=1e-3, comm=comm)
again = net.objective(x[rows], y[rows], comm=comm)
fun = divided + 0.1 * net.objective(x_2, y_2) + 3 * again
theta = net.params.copy()


def everything(fun, theta):
    return sha(*fun(theta), fun.hessp(theta, v), fun.hess(theta))


say(rank, same=everything(fun, theta) == everything(plain, theta), repr=repr(fun))
say(rank, refused=attempt(fun, theta[1:] if odd else 2 * theta))

# A term without comm fails on one rank: all raise, and may go on.
armed = False


def blocks():
    yield x_2[:20], y_2[:20]
    if armed and odd:
        raise OSError("of the file")
    yield x_2[20:], y_2[20:]


failing = 0.5 * again + net.objective(blocks) + divided
armed = True
say(rank, failed=attempt(failing, 3 * theta))
say(rank, failed=attempt(failing.hessp, 3 * theta, v))
armed = False
say(rank, after=sha(*failing(3 * theta)))

two = attempt(lambda: divided + net.objective(x[rows], y[rows], comm=comm.Dup()))
say(rank, two=two)

if rank == 0:
    say(rank, served=everything(fun, 5 * theta) == everything(plain, 5 * theta))
    fun.stop()
else:
    fun.serve()
"""


def test_terms_with_comm_and_without(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run_on_ranks(3, program, env=support())
    assert done.returncode == 0, done.stderr
    lines = said(done)
    for rank in range(3):
        facts = [line for line in lines[rank] if not {"failed", "refused"} & line.keys()]
        first, after, two, *served = facts
        assert first["same"], done.stdout
        assert "1 * (20,000 samples on 3 ranks, weighted, l2=0.001) + 0.1 * (50 samples) + 3 * " in first["repr"]
        (refused,) = [line["refused"] for line in lines[rank] if "refused" in line]
        assert "theta: expected shape" in refused
        assert rank == 1 or "rank 1" in refused
        failures = [line["failed"] for line in lines[rank] if "failed" in line]
        assert len(failures) == 2
        assert all("of the file" in failure for failure in failures), failures
        assert all(failure.startswith("OSError") if rank == 1 else "rank 1" in failure for failure in failures)
        assert after["after"] == next(line for line in lines[0] if "after" in line)["after"]
        assert two["two"] == "ValueError: +: expected objectives with one comm, or with none, got two communicators"
        assert [line["served"] for line in served] == ([True] if rank == 0 else [])
