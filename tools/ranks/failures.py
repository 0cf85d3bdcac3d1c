"""Let one of several ranks fail in every way, and print what each rank says, and how soon.

    python tools/ranks/failures.py                  # all ways, with 3 ranks
    python tools/ranks/failures.py --only theta     # those with "theta" in their names
    python tools/ranks/failures.py --ranks 4
    python tools/ranks/failures.py --short          # three ways

The mpiexec beside this Python starts the ranks, else that of PATH. Rank 1 is the one that fails. Seconds count from its
failure, or from the call in which ranks differ, on the clock of the machine.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from launcher import OPEN_MPI, find_mpiexec, what_is_missing

FAILS = 1  # the rank that fails
LIMIT = 300  # seconds


# On the ranks ---------------------------------------------------------------------------------------------------------


def say(rank, event, text=""):
    """Print one line, in one write: the rank, the time, what happened, and an error."""
    sys.stdout.write(json.dumps([rank, time.time(), event, text]) + "\n")
    sys.stdout.flush()


def attempt(rank, function, *arguments, **keywords):
    """Call a function, and say what it raises."""
    try:
        function(*arguments, **keywords)
    except BaseException as error:
        say(rank, "end", f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None
    say(rank, "end", "no error")


def on_ranks(name):
    """The program of a rank."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    fails = comm.rank == FAILS
    if name == "another instruction set" and fails:
        os.environ["BACKPROP_SIMD"] = "v2"
    if name in AT_CREATION:
        make_an_objective(name, comm, fails)
    else:
        call_an_objective(name, comm, fails)


def rows_of(rank):
    import numpy as np

    x, y = np.random.default_rng(rank).standard_normal((2, 40_000, 5))
    return x, y[:, :3]


def make_an_objective(name, comm, fails):
    """Let ranks fail while they make an objective."""
    import numpy as np

    from backprop import Network

    net = Network([5, 13 if name == "another architecture" and fails else 12, 3], activations="tanh", rng=0)
    x, y = rows_of(comm.rank)
    weight = np.ones(len(x))
    weight[7] = np.nan if name == "a NaN among the weights" and fails else 1
    l2 = 0.1 if name == "another l2" and fails else 0.0
    say(comm.rank, "failure")
    attempt(comm.rank, net.objective, x, y, sample_weight=weight, l2=l2, comm=comm)


def call_an_objective(name, comm, fails):
    """Let ranks fail in a call, or while others wait for them."""
    import numpy as np

    from backprop import Activation, Network

    rank, is_armed = comm.rank, False

    def own(a):
        if is_armed and fails:
            say(rank, "failure")
            end_in(name)
        time.sleep(0.002)
        return a

    activation = Activation("own", own, np.ones_like) if name in IN_COMPUTATION else "tanh"
    net = Network([5, 12, 3], activations=activation, rng=0)
    x, y = rows_of(rank)
    if name == "no rows" and fails:
        x, y = x[:0], y[:0]
    if name == "NaN in a row" and fails:
        x[7, 3] = np.nan
    fun = net.objective(x, y, comm=comm)
    fun(net.params)
    is_armed = True
    theta = 2 * net.params
    if name == "another theta" and fails:
        theta[4] = np.nextafter(theta[4], 1)
    if name == "theta of another length" and fails:
        theta = theta[1:]
    if name in BETWEEN_CALLS and fails:
        say(rank, "failure")
        end_in(name)
        return
    if name in LATER and fails:
        threading.Timer(0.5, lambda: (say(rank, "failure"), end_in(name))).start()
    if name in LATER and rank == 0:
        time.sleep(1)
    if "server" in name and rank > 0:
        attempt(rank, fun.serve)
        return
    if name in ARGUMENTS and fails:
        say(rank, "failure")
    if name == "another call" and fails:
        attempt(rank, fun.hessp, theta, theta)
    else:
        attempt(rank, fun, theta)


def end_in(name):
    """Fail in the way of that name."""
    if name == "an activation that raises":
        raise ArithmeticError("in the user's function")
    if name == "memory that is used up":
        raise MemoryError("no room for the activation")
    if name == "a rank that raises":
        raise KeyError("in the user's program")
    if "killed" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "Ctrl-C" in name:
        os.kill(os.getpid(), signal.SIGINT)


BETWEEN_CALLS = ["a rank that raises", "a rank that ends", "a rank that is killed"]
IN_COMPUTATION = ["an activation that raises", "memory that is used up", "Ctrl-C while it computes"]
LATER = ["Ctrl-C in a wait", "Ctrl-C on a server", "a server that is killed"]
ARGUMENTS = ["another theta", "theta of another length", "another call", "no rows", "NaN in a row"]
AT_CREATION = ["another architecture", "another l2", "another instruction set", "a NaN among the weights"]
SHORT = ["a rank that is killed", "Ctrl-C in a wait", "another theta"]
NAMES = BETWEEN_CALLS + IN_COMPUTATION + LATER + ARGUMENTS + AT_CREATION


# What is printed ------------------------------------------------------------------------------------------------------


def report(name, n_ranks):
    """Run one way to fail, and print what each rank says."""
    command = [find_mpiexec(), "-n", str(n_ranks), sys.executable, __file__, "--inside", name]
    start = time.time()
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        env=os.environ | OPEN_MPI | {"BACKPROP_NUM_THREADS": "1"},
    )
    ended = time.time()
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    failed = min((when for _, when, event, _ in lines if event == "failure"), default=start)
    print(f"\n{name}: exit status {done.returncode}, all over {ended - failed:.2f} s after the failure")
    for rank in range(n_ranks):
        texts = [f"{when - failed:6.3f} s  {text}" for r, when, event, text in lines if r == rank and event == "end"]
        print(f"  rank {rank}: {texts[0] if texts else '        (says nothing)'}")
    of_mpi = [line.strip() for line in (done.stdout + done.stderr).splitlines() if "KILLED" in line.upper()]
    if of_mpi:
        print(f"  mpiexec: {of_mpi[-1]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="ways to fail with this in their names")
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="three ways alone")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        on_ranks(arguments.inside)
        return 0
    missing = what_is_missing()
    if missing:
        print(f"nothing was tried: {missing}")
        return int(os.environ.get("BACKPROP_REQUIRE_PEERS") == "1")
    for name in SHORT if arguments.short else NAMES:
        if arguments.only in name:
            report(name, arguments.ranks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
