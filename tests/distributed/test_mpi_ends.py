"""A rank that raises, ends, or is interrupted or killed while others wait for it: all end, and say why."""

import re
import time

import pytest
from on_ranks import said, support
from ranks import run_on_ranks
from suites import shortened
from systems import needs_signals

PROGRAM = """
import os, signal, sys, threading, time
import numpy as np
from mpi4py import MPI
from on_ranks import attempt, problem, say
from backprop import Activation, Network

what = sys.argv[1]
comm = MPI.COMM_WORLD
rank = comm.rank
net, x, y, _, v = problem(3_000)
fun = net.objective(x, y, comm=comm)
theta = net.params.copy()
fun(theta)


def interrupt_soon():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()


if what == "raises":
    if rank == 1:
        raise KeyError("of the user")
    say(rank, error=attempt(fun, -theta))
elif what == "ends":
    if rank == 1:
        sys.exit()
    say(rank, error=attempt(fun, -theta))
elif what == "ends after the rest":
    fun(-theta)  # rank 1 ends while others may still wait for the end of this call
    if rank != 1:
        time.sleep(0.2)
    say(rank, error="fine")
elif what == "is killed":
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    fun(-theta)
    say(rank, error="fine")
elif what == "is interrupted":
    if rank == 1:
        interrupt_soon()
    if rank == 2:
        time.sleep(1)
    say(rank, error=attempt(fun, -theta), after=attempt(fun, theta * 2))
    say(rank, error=attempt(net.objective, x, y, comm=comm), after=attempt(net.objective, x, y, comm=comm.Dup()))
elif what == "is interrupted while it makes an objective":
    if rank == 1:
        interrupt_soon()
        say(rank, error=attempt(net.objective, x, y, comm=comm))
    else:
        time.sleep(0.8)
        say(rank, error=attempt(net.objective, x, y, comm=comm))
elif what == "serves an objective that ends":
    if rank == 0:
        fun(-theta)
    else:
        say(rank, error=attempt(fun.serve))
elif what == "serves while rank 0 raises":
    if rank == 0:
        fun(-theta)
        raise KeyError("of the user")
    say(rank, error=attempt(fun.serve))
elif what == "is interrupted while it serves":
    if rank == 1:
        interrupt_soon()
    if rank == 0:
        fun(-theta)
        time.sleep(0.8)
        say(rank, error=attempt(fun, theta * 2), after=attempt(fun.stop))
    else:
        say(rank, error=attempt(fun.serve))
elif what == "serves alone":
    if rank == 1:
        say(rank, error=attempt(fun.serve))
    else:
        say(rank, error=attempt(fun, -theta))
elif what == "is stopped though it does not serve":
    say(rank, error=attempt(fun.stop) if rank == 0 else attempt(fun, -theta))
elif what == "serves while rank 0 makes an objective":
    if rank == 0:
        say(rank, error=attempt(net.objective, x, y, comm=comm))
    else:
        say(rank, error=attempt(fun.serve))
elif what == "makes a call too few":
    if rank != 1:
        say(rank, error=attempt(fun, -theta))
elif what == "has a failure meanwhile":  # the others need not end a long evaluation
    slow = Activation("slow", lambda a: time.sleep(0.01) or a, np.ones_like)
    long = Network([1, 1], output=slow, rng=0)
    rows, n_read = np.zeros((10_000, 1)), 0

    def blocks():
        global n_read
        for n_read in range(1, 31):
            yield rows, rows

    fun = long.objective(blocks, comm=comm)
    say(rank, error=attempt(fun, [0.0] if rank == 1 else [0.0, 1.0]), n_read=n_read)
"""


def errors(tmp_path, what, n_ranks=3):
    """What each rank says, the return code, and the standard error."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    start = time.monotonic()
    done = run_on_ranks(n_ranks, program, what, env=support())
    print(f"{what}: {time.monotonic() - start:.2f} s\n{done.stdout}{done.stderr}")  # for the reader of a failure
    return said(done), done.returncode, done.stderr


def texts(lines, key="error"):
    return {rank: [line[key] for line in each] for rank, each in lines.items()}


ENDED = "RuntimeError: rank 1 ended its program%s, while rank 2 waits for it"


same_wait = pytest.mark.long("the waits are those of the other tests")


@pytest.mark.parametrize("n_ranks", shortened([2, 3], [3], "the same wait"))
def test_a_rank_that_raises_ends_the_wait_of_all(tmp_path, n_ranks):
    lines, code, err = errors(tmp_path, "raises", n_ranks)
    waiting = [rank for rank in range(n_ranks) if rank != 1]
    text = (ENDED % " by KeyError: 'of the user'").replace("rank 2", f"rank {2 % n_ranks}")
    assert texts(lines) == {rank: [text] for rank in waiting}
    assert code != 0
    assert "KeyError: 'of the user'" in err


@same_wait
def test_a_rank_that_ends_ends_the_wait_of_all(tmp_path):
    lines, _, _ = errors(tmp_path, "ends")
    assert texts(lines) == {0: [ENDED % ""], 2: [ENDED % ""]}
    lines, _, _ = errors(tmp_path, "makes a call too few")
    assert texts(lines) == {0: [ENDED % ""], 2: [ENDED % ""]}


def test_a_rank_may_end_before_others(tmp_path):
    lines, code, err = errors(tmp_path, "ends after the rest")
    assert texts(lines) == {0: ["fine"], 1: ["fine"], 2: ["fine"]}
    assert (code, err) == (0, "")


@needs_signals
def test_a_rank_that_is_killed_ends_all(tmp_path):
    lines, code, _ = errors(tmp_path, "is killed")
    assert lines == {}
    assert code != 0


INTERRUPTED = "rank 1 raised KeyboardInterrupt while it waited for the others"


@pytest.mark.alone
@needs_signals
def test_ctrl_c_in_a_wait_ends_the_call_on_all_ranks(tmp_path):
    lines, code, _ = errors(tmp_path, "is interrupted")
    assert code == 0
    broken = f"RuntimeError: comm: expected a communicator on which no rank has left the others, but {INTERRUPTED}; .*"
    for rank, (first, second) in lines.items():
        assert first["error"] == ("KeyboardInterrupt: " if rank == 1 else f"RuntimeError: {INTERRUPTED}")
        assert re.fullmatch(broken, first["after"])
        assert re.fullmatch(broken, second["error"])
        assert second["after"] == "fine"  # with a duplicate of the communicator
    assert sorted(lines) == [0, 1, 2]


@same_wait
@pytest.mark.alone
@needs_signals
def test_ctrl_c_while_an_objective_is_made(tmp_path):
    lines, code, _ = errors(tmp_path, "is interrupted while it makes an objective")
    assert code == 0
    other = [f"RuntimeError: {INTERRUPTED}"]
    assert texts(lines) == {0: other, 1: ["KeyboardInterrupt: "], 2: other}


@pytest.mark.parametrize(
    ("what", "how"),
    shortened(
        [("serves an objective that ends", ""), ("serves while rank 0 raises", " by KeyError: 'of the user'")],
        [("serves an objective that ends", "")],
        "the same message",
    ),
)
def test_servers_end_with_rank_0(tmp_path, what, how):
    lines, _, _ = errors(tmp_path, what)
    text = f"RuntimeError: rank 0 ended its program{how}, while rank 1 waits for it"
    assert texts(lines) == {1: [text], 2: [text]}


@pytest.mark.alone
@needs_signals
def test_ctrl_c_on_a_server_ends_all(tmp_path):
    lines, code, _ = errors(tmp_path, "is interrupted while it serves")
    assert code == 0
    assert texts(lines)[1] == ["KeyboardInterrupt: "]
    assert texts(lines)[2] == [f"RuntimeError: {INTERRUPTED}"]
    assert INTERRUPTED in lines[0][0]["error"]
    assert lines[0][0]["after"] == "fine"


def test_some_ranks_serve_and_others_do_not(tmp_path):
    lines, code, _ = errors(tmp_path, "serves alone")
    assert code == 0
    text = (
        "RuntimeError: rank 0 makes this call, rank 1 serves, and rank 2 makes a call of its own: expected all ranks "
        "except rank 0 to serve, or none"
    )
    assert texts(lines) == {0: [text], 1: [text], 2: [text]}


@same_wait
def test_a_stop_without_servers(tmp_path):
    lines, code, _ = errors(tmp_path, "is stopped though it does not serve")
    assert code == 0
    text = (
        r"RuntimeError: rank 0 waits for them in fun.stop\(\), the other ranks should serve, and rank [12] makes a "
        "call of its own: expected all ranks except rank 0 to serve, or none"
    )
    assert sorted(lines) == [0, 1, 2]
    assert all(re.fullmatch(text, each[0]["error"]) for each in lines.values())  # two ranks may see it at the same time


@same_wait
def test_servers_while_rank_0_makes_a_call_of_all_ranks(tmp_path):
    lines, code, _ = errors(tmp_path, "serves while rank 0 makes an objective")
    assert code == 0
    text = "RuntimeError: rank 0 made a call that needs all ranks, while the others serve: call fun.stop() first"
    assert texts(lines) == {0: [text], 1: [text], 2: [text]}


def test_a_failure_ends_long_evaluations_soon(tmp_path):
    lines, code, _ = errors(tmp_path, "has a failure meanwhile")
    assert code == 0
    text = "theta: expected shape (2,), got (1,)"
    others = [f"ValueError: rank 1 raised ValueError: {text}"]
    assert texts(lines) == {0: others, 1: [f"ValueError: {text}"], 2: others}
    assert all(lines[rank][0]["n_read"] < 30 for rank in (0, 2))
