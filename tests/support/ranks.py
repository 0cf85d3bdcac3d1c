"""Programs that run on several ranks, under a real `mpiexec`. The process of the tests never initialises MPI itself."""

import os
import signal
import subprocess
import sys

import pytest
from launcher import OPEN_MPI, find_mpiexec, what_is_missing

LIMIT = 120  # seconds; a run takes less than one, more on a busy machine


def mpiexec():
    """The path of `mpiexec`; without it or mpi4py the test is skipped, or fails if peers are required."""
    missing = what_is_missing()
    if missing and os.environ.get("BACKPROP_REQUIRE_PEERS") == "1":
        pytest.fail(f"{missing}; BACKPROP_REQUIRE_PEERS=1 asks for it")
    if missing:
        pytest.skip(missing)
    return find_mpiexec()


def start_ranks(n_ranks, *command, env=None, cwd=None):
    """Start `mpiexec -n n_ranks python command...`, as a `subprocess.Popen` with text in `stdout` and `stderr`.

    Each rank has one thread, unless `env` says otherwise. stdin is empty: the worker's own is xdist's.
    """
    return subprocess.Popen(
        [mpiexec(), "-n", str(n_ranks), sys.executable, *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | OPEN_MPI | {"BACKPROP_NUM_THREADS": "1"} | (env or {}),
        start_new_session=True,  # a Ctrl-C of the tests' terminal ends pytest, which ends the ranks
    )


def run_on_ranks(n_ranks, *command, limit=LIMIT, **keywords):
    """Run `mpiexec -n n_ranks python command...` to its end, as a `subprocess.CompletedProcess`.

    After `limit` seconds the ranks are ended, and the test fails with what they have printed. The keywords are those of
    `start_ranks`.
    """
    process = start_ranks(n_ranks, *command, **keywords)
    try:
        out, err = process.communicate(timeout=limit)
    except BaseException as error:
        out, err = end(process)
        if isinstance(error, subprocess.TimeoutExpired):
            pytest.fail(f"{n_ranks} ranks hang: no end after {limit} s of {command}\n{out}\n{err}")
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def end(process):
    """End all ranks: `mpiexec` passes SIGTERM on, and what outlives it is killed."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()
