"""Which communicators are accepted; duplicates are few, and are freed with them."""

from on_ranks import said, support
from ranks import run_on_ranks

PROGRAM = """
import os, sys
import numpy as np
from mpi4py import MPI
from on_ranks import attempt, problem, say, sha
from backprop import threads
from backprop.distributed import communicator

comm = MPI.COMM_WORLD
rank = comm.rank
net, x, y, *_ = problem(2_000)
part = x[rank::comm.size], y[rank::comm.size]

first, second = net.objective(*part, comm=comm), net.objective(*part, comm=MPI.Comm(comm))
say(rank, is_shared=communicator.of(comm) is communicator.of(MPI.Comm(comm)))
shared = communicator.of(comm)
say(rank, threads=shared.n_threads, allowed=threads.available_cpus())

# A part of the ranks, in another order
half = comm.Split(color=rank // 2, key=-rank)
fun = net.objective(*part, comm=half)
theta = net.params.copy()
order = [1, 0] if rank < 2 else [3, 2]
whole = [np.concatenate([array[k::comm.size] for k in order]) for array in (x, y)]
say(rank, half=sha(*fun(theta)) == sha(*net.objective(*whole)(theta)))
half.Free()
say(rank, freed=attempt(fun, theta * 2))
say(rank, others=sha(*first(theta)) == sha(*second(theta)))

# Contexts are few: each duplicate is freed with its communicator
for _ in range(20):
    short = comm.Dup()
    net.objective(*part, comm=short)(theta)
    short.Free()
for _ in range(20):
    net.objective(*part, comm=comm)(theta)

nowhere = comm.Split(color=0 if rank == 0 else MPI.UNDEFINED)
say(rank, null=attempt(net.objective, *part, comm=nowhere))
inter = comm.Split(rank % 2).Create_intercomm(0, comm, (rank + 1) % 2)
say(rank, inter=attempt(net.objective, *part, comm=inter))

# A child that was forked may not use it
sys.stdout.flush()
child = os.fork()
if child == 0:
    text = attempt(first, theta * 3)
    os._exit(0 if "comm: expected the process that made the objective" in text else 1)
say(rank, child=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
say(rank, last=attempt(first, theta * 3))
"""


FREED = "RuntimeError: comm: expected a communicator in use, got one that was freed; make another objective"
NULL = "ValueError: comm: expected a communicator that this rank belongs to, got COMM_NULL"
INTER = "TypeError: comm: expected a communicator of one group of ranks, got an intercommunicator: Merge() it"


def test_communicators(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run_on_ranks(4, program, env=support() | {"BACKPROP_NUM_THREADS": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    for rank, lines in said(done).items():
        facts = {name: value for line in lines for name, value in line.items()}
        assert facts.pop("threads") == max(1, facts.pop("allowed") // 4)
        assert facts == {
            "rank": rank,
            "is_shared": True,
            "half": True,
            "freed": FREED,
            "others": True,
            "null": "fine" if rank == 0 else NULL,
            "inter": INTER,
            "child": 0,
            "last": "fine",
        }
