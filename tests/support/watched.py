"""Programs that tests run in new processes, with a watchdog; no test."""

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

# The watchdog runs outside and sends a signal. A watchdog inside would not run in forked children, which lose its
# thread, and some programs use the alarm themselves. The handler is C code, which forked children inherit: it works
# wherever the interpreter hangs, and then lets the signal end the process.
SHOW = getattr(signal, "SIGUSR2", 0)  # 0 on Windows, which has no such signals
FIRST = f"""
import faulthandler, os
faulthandler.register({SHOW:d}, chain=True)


def moved():  # for loops that take long: the watchdog's time starts anew, as it does when something is printed
    os.utime(1)


"""


def run_watched(code, *, watch=WATCH):
    """Run Python code, which must end with status 0 and leave no child behind; returns what it printed.

    If it prints nothing and calls no `moved()` for `watch` seconds, each of its processes prints its stacks and ends.
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
    """Wait for a program and all its children; false if nothing has moved for so many seconds."""
    start = time.time()
    while process.poll() is None or still_run(process.pid):
        if time.time() - max(start, os.fstat(out.fileno()).st_mtime) > watch:
            return False
        time.sleep(0.02)
    return True


def end(group):
    """End the processes of a group that still run, with their stacks; parents first, as a child's end wakes them."""
    for pid in still_run(group):
        os.kill(pid, SHOW)
        deadline = time.monotonic() + 5 * SLOWNESS
        while pid in still_run(group) and time.monotonic() < deadline:  # one after another, so that each can be read
            time.sleep(0.02)
    for pid in still_run(group):
        os.kill(pid, signal.SIGKILL)


def still_run(group):
    """The processes of a group, the oldest first, without those that have ended but are not yet waited for.

    Without /proc, which lists processes, a negative number stands for the whole group, as in `kill`.
    """
    if not HAS_PROC:
        try:
            os.kill(-group, 0)
        except (ProcessLookupError, PermissionError):  # the second if all have ended
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
