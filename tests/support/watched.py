"""Programs of the tests, each in processes of its own that a watchdog looks after; no test."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from slowness import SLOWNESS

WATCH = 30 * SLOWNESS  # seconds in which nothing moves

HAS_PROC = Path("/proc/self/stat").exists()

# The watchdog sits outside and asks by a signal. A program's own would stand still in forked children, whose threads
# are gone, and an alarm is what some programs use themselves. The handler is C code that forks inherit: it works
# wherever the interpreter hangs, and then lets the signal end the process.
SHOW = getattr(signal, "SIGUSR2", 0)  # 0 on Windows, which has no such signals
FIRST = f"""
import faulthandler, os
faulthandler.register({SHOW:d}, chain=True)


def moved():  # for loops that take long: the watchdog's time starts anew, as it does when something is printed
    os.utime(1)


"""


def run_watched(code, *, watch=WATCH):
    """Run Python code, which must end with status 0 and leave no child behind: what it printed.

    Where nothing moves for so many seconds each of its processes prints where its threads stand, and dies.
    """
    if not SHOW:
        pytest.skip("needs signals and groups of processes, as POSIX has them")
    environment = {k: v for k, v in os.environ.items() if k not in {"BACKPROP_NUM_THREADS", "OMP_NUM_THREADS"}}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FIRST + code]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # a pipe could be full
        with subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True) as process:
            try:
                hangs = not ends(process, out, watch)
            finally:
                end(process.pid)
        printed, errors = (file.seek(0) or file.read() for file in (out, err))
    assert not hangs, f"nothing has moved for {watch} s\n{errors[-20_000:]}"
    assert process.returncode == 0, f"status {process.returncode}\n{errors[-3000:]}"
    return printed


def ends(process, out, watch):
    """Wait for a program and all its children; false where nothing has moved for so many seconds."""
    start = time.time()
    while process.poll() is None or still_run(process.pid):
        if time.time() - max(start, os.fstat(out.fileno()).st_mtime) > watch:
            return False
        time.sleep(0.02)
    return True


def end(group):
    """End the processes of a group that still run, with their stacks: parents first, whom a child's end would wake."""
    for pid in still_run(group):
        os.kill(pid, SHOW)
        deadline = time.monotonic() + 5 * SLOWNESS
        while pid in still_run(group) and time.monotonic() < deadline:  # one after another, so that each can be read
            time.sleep(0.02)
    for pid in still_run(group):
        os.kill(pid, signal.SIGKILL)


def still_run(group):
    """The processes of a group, the oldest first; without those that have ended and wait for their parent to look.

    Where there is no /proc, which lists processes, the group stands for them all: a negative number, as kill takes it.
    """
    if not HAS_PROC:
        try:
            os.kill(-group, 0)
        except (ProcessLookupError, PermissionError):  # the second where all have ended
            return []
        return [-group]
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(path.parent.name))
    return sorted(found)
