"""Rank 0 drives an optimizer, and the other ranks serve."""

import pytest
from on_ranks import said, support
from ranks import run_on_ranks
from suites import shortened

PROGRAM = """
import time
import numpy as np
from mpi4py import MPI
from scipy.optimize import minimize
from on_ranks import attempt, problem, say, sha
from backprop import Activation, Network

comm = MPI.COMM_WORLD
rank = comm.rank
net, x, y, weight, v = problem(20_000, weights=1)
net_32, _, labels, _, _ = problem(20_000, "cross_entropy", "float32")
ends = [k * 20_000 // comm.size for k in range(comm.size + 1)]
rows = slice(ends[rank], ends[rank + 1])
fun = net.objective(x[rows], y[rows], sample_weight=weight[rows], l2=1e-3, comm=comm)
validation = net_32.objective(x[rows], labels[rows], comm=comm)
theta = net.params.copy()

plain = net.objective(x, y, sample_weight=weight, l2=1e-3)
plain_validation = net_32.objective(x, labels)


def fit(fun):
    result = minimize(fun, theta, jac=True, method="L-BFGS-B", options={"maxiter": 8})
    return sha(result.x, result.fun)


# Rank 0 fits; the others come late, or early.
for late in (0, 1):
    if rank == 0:
        time.sleep(0.1 * (1 - late))
        say(rank, fit=fit(fun), plain=fit(plain))
        say(rank, hessp=sha(fun.hessp(theta, v)) == sha(plain.hessp(theta, v)))
        say(rank, validation=sha(*validation(net_32.params)) == sha(*plain_validation(net_32.params)))
        say(rank, refused=attempt(fun, theta[1:]), after=sha(*fun(2 * theta)) == sha(*plain(2 * theta)))
        say(rank, needs_all=attempt(net.objective, x, y, comm=comm))
        fun.stop()
        fun.stop()
    else:
        time.sleep(0.1 * late * rank)
        say(rank, returned=repr(fun.serve()))
    # What rank 0 remembers of a call, the others have only served: the next call is one of all ranks again.
    say(rank, same=sha(*fun(2 * theta)) == sha(*plain(2 * theta)))
    say(rank, same=sha(*fun(3 * theta)) == sha(*plain(3 * theta)))
    if rank == 0:
        fun(4 * theta)
        fun.stop()
    else:
        fun.serve()
    say(rank, same=sha(*fun(3 * theta)) == sha(*plain(3 * theta)))

# A stop is enough, also if nothing was evaluated, and if theta was refused first.
if rank == 0:
    fun.stop()
else:
    fun.serve()
if rank == 0:
    say(rank, refused=attempt(fun, theta[1:]))
    fun.stop()
else:
    time.sleep(0.1)
    fun.serve()

# A failure on a server is raised on rank 0, and the servers go on.
armed = False


def g(a):
    if armed:
        raise MemoryError("of a server")
    return a


own = Network([5, 3], output=Activation("own", g, np.ones_like), rng=0)
many = np.ones((100_000 // comm.size, 5))  # so many that each rank has a unit
fun_own = own.objective(many, many[:, :3], comm=comm)
armed = rank == comm.size - 1
if rank == 0:
    say(rank, failure=attempt(fun_own, own.params))
    say(rank, failure=attempt(fun_own, own.params), after=sha(*fun(5 * theta)) == sha(*plain(5 * theta)))
    fun.stop()
else:
    fun_own.serve()

# An objective that a server has deleted
gone = net.objective(x[rows], y[rows], comm=comm)
if rank == 1:
    del gone
if rank == 0:
    say(rank, deleted=attempt(gone, theta), after=sha(*fun(6 * theta)) == sha(*plain(6 * theta)))
    fun.stop()
else:
    fun.serve()
say(rank, same=sha(*fun(6 * theta)) == sha(*plain(6 * theta)))
"""


@pytest.mark.parametrize("n_ranks", shortened([2, 3, 4], [3], "the same commands"))
def test_rank_0_drives_and_the_others_serve(tmp_path, n_ranks):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run_on_ranks(n_ranks, program, env=support() | {"OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    lines = said(done)
    refused = "ValueError: theta: expected shape (111,), got (110,)"
    failure = f"RuntimeError: rank {n_ranks - 1} raised MemoryError: of a server"
    deleted = "RuntimeError: rank 1 raised RuntimeError: the objective exists no more on this rank"
    all_ranks = "RuntimeError: comm: expected all ranks to make this call, but others serve; call fun.stop() first"
    fits = [
        {"fit": lines[0][0]["fit"], "plain": lines[0][0]["fit"]},
        {"hessp": True},
        {"validation": True},
        {"refused": refused, "after": True},
        {"needs_all": all_ranks},
        *[{"same": True}] * 3,
    ]
    last = [
        {"refused": refused},
        {"failure": failure},
        {"failure": failure, "after": True},
        {"deleted": deleted, "after": True},
        {"same": True},
    ]
    assert lines[0] == [{"rank": 0, **line} for line in [*fits, *fits, *last]]
    expected = [*[{"returned": "None"}, *[{"same": True}] * 3] * 2, {"same": True}]
    for rank in range(1, n_ranks):
        assert lines[rank] == [{"rank": rank, **line} for line in expected]


ALONE = """
from mpi4py import MPI
from on_ranks import attempt, problem, say

net, x, y, *_ = problem(100)
for comm in (None, MPI.COMM_SELF):
    fun = net.objective(x, y, comm=comm)
    fun.stop()
    fun(net.params)
    fun.stop()
    fun.stop()
    say(0, stop="fine", serve=attempt(fun.serve))
"""


def test_without_other_ranks_a_stop_does_nothing(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(ALONE)
    done = run_on_ranks(1, program, env=support())
    assert done.returncode == 0, done.stderr
    texts = [line["serve"] for line in said(done)[0]]
    assert texts[0].startswith(
        "RuntimeError: serve: expected an objective of many ranks, net.objective(..., comm=comm)"
    )
    assert texts[1].startswith("RuntimeError: serve: expected a rank above 0, got rank 0, which drives the others")
