"""Waiting for the other ranks of MPI: signals are heard, and if one rank fails or ends, no other waits for ever.

A. An operation is something in which every rank takes part. Ranks count their operations, so a number names the same
   operation on all of them.
B. All steps of an operation are nonblocking. They are waited for by polls, in Python, so that signal handlers run. Each
   poll also looks for control messages of other ranks.
C. A rank that leaves an operation by an exception says so to all others, which then raise too. The duplicate is broken
   from then on: MPI cannot call back what was begun.
D. A rank that fails before an operation, while it computes its part, takes part all the same, and says so at once: the
   others need not end what they compute.
E. A rank whose program ends tells the next rank, with the number of its operations. If that rank, then or later, waits
   for an operation that the ended rank never began, it raises, and by C all do. One message a rank is enough: if some
   ranks wait and others have ended, then in the ring of all ranks one that waits comes next after one that has ended.
"""

from __future__ import annotations

import atexit
import os
import pickle
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

_CONTROL = 1  # the tag of control messages
_BROKEN, _ENDED, _FAILED = range(3)  # kinds of control messages; `Serving` has more

SPIN = 0.02  # seconds of busy polls before the first sleep, if each rank has a CPU
SPIN_CROWDED = 5e-4  # the same if ranks share CPUs
SPIN_TOGETHER = 1.0  # the same in steps that all ranks have begun, which go on only while they are polled
_SHORTEST_SLEEP, _LONGEST_SLEEP = 5e-5, 1e-3  # a sleep is a hundredth of the time waited so far, within these
_FAREWELL = 0.2  # seconds to send why an operation cannot go on: some transports send only while they are polled

Look = Callable[[], None]

_give_way = getattr(os, "sched_yield", lambda: time.sleep(0))
_live: weakref.WeakSet[Waiting] = weakref.WeakSet()
_abandoned: list[object] = []  # requests of broken operations and their buffers: MPI may write there until it ends


def poll(request: Any, spin: float, look: Look | None = None) -> None:
    """Poll until a request is done: busily at first, then with sleeps. In between, look for something else."""
    if request.Test():
        return
    start = time.monotonic()
    while True:
        if look is not None:
            look()
        if request.Test():
            return
        pause(time.monotonic() - start, spin)


def pause(waited: float, spin: float) -> None:
    """Let others use the CPU between two polls."""
    if waited < spin:
        _give_way()
    else:
        time.sleep(min(_LONGEST_SLEEP, max(_SHORTEST_SLEEP, waited / 100)))


class Waiting:
    """A duplicate of an mpi4py communicator, with operations that end on all ranks if they end on one.

    Attributes
    ----------
    rank, size : int
    lock : RLock
        Operations of one rank go one after the other.
    spin : float
        Seconds of busy polls before the first sleep.
    """

    def __init__(self, comm: Any, MPI: Any) -> None:
        self._MPI = MPI
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.lock = RLock()
        self.spin = SPIN
        self.n_operations = 0
        self.why_broken: str | None = None
        self._process = os.getpid()
        self._is_free = False
        self._status = MPI.Status()
        self._sent: list[tuple[Any, object]] = []  # requests of control messages, and what they send
        self._receiving: tuple[Any, int, bytearray] | None = None  # a control message: request, source, bytes
        self._failed = 0  # the last operation for which a rank is known to have failed
        self._is_in_operation = False
        self._buffers: list[object] = []  # of the operation that goes on
        self._known: RuntimeError | None = None  # an error that says which rank is the cause
        self._ended: dict[int, tuple[int, str]] = {}  # by rank: its number of operations, and what ended it
        self._comm, request = comm.Idup()
        poll(request, self.spin)
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        if not _live:
            atexit.unregister(_tell_that_the_program_ends)
            atexit.register(_tell_that_the_program_ends)
        _live.add(self)

    @contextmanager
    def operation(self) -> Iterator[None]:
        """An operation of all ranks, which no rank leaves alone."""
        with self.lock:
            self.check_use()
            if self._is_in_operation:
                raise RuntimeError("comm: expected no call within another one, got one from a signal handler")
            self._is_in_operation = True
            self.n_operations += 1
            try:
                self._check_ended()
                yield
                self._buffers.clear()
            except BaseException as error:
                _abandoned.append(self._buffers)
                self.break_off(error)
                raise
            finally:
                self._is_in_operation = False

    def keep(self, *buffers: object) -> None:
        """Let the buffers of a step live as long as the operation, also if it is left by an exception."""
        self._buffers.extend(buffers)

    def wait(self, request: Any, spin: float, look: Look | None = None) -> None:
        """Wait for a step of an operation; look is called at each poll."""
        self._buffers.append(request)

        def look_at_all() -> None:
            self.look()
            if look is not None:
                look()

        poll(request, spin, look_at_all)

    def look(self) -> None:
        """Take the control messages that have arrived.

        Raises
        ------
        RuntimeError
            If another rank has left an operation, or has ended.
        """
        while self._receiving or self._comm.Iprobe(self._MPI.ANY_SOURCE, _CONTROL, self._status):
            if self._receiving is None:
                source, raw = self._status.Get_source(), bytearray(self._status.Get_count(self._MPI.BYTE))
                self._receiving = self._comm.Irecv([raw, self._MPI.BYTE], source=source, tag=_CONTROL), source, raw
            request, source, raw = self._receiving
            poll(request, self.spin)
            self._take(source, raw[0], bytes(raw[1:]))
            self._receiving = None  # not earlier: a signal may come between, and to take it twice is harmless

    def send(self, rank: int, kind: int, content: bytes) -> None:
        """Begin to send a control message."""
        raw = bytes([kind]) + content
        self._sent = [sent for sent in self._sent if not sent[0].Test()]
        self._sent.append((self._comm.Isend([raw, self._MPI.BYTE], dest=rank, tag=_CONTROL), raw))

    def _take(self, source: int, kind: int, content: bytes) -> None:
        """Take a control message."""
        if kind == _BROKEN:
            self.why_broken = content.decode()
            raise self.error(self.why_broken)
        if kind == _ENDED:
            self._ended[source] = pickle.loads(content)
            self._check_ended()
        if kind == _FAILED:
            self._failed = max(self._failed, pickle.loads(content))

    def tell_failure(self) -> None:
        """Tell the others, before the next operation, that this rank has an error."""
        for rank in range(self.size):
            if rank != self.rank:
                self.send(rank, _FAILED, pickle.dumps(self.n_operations + 1))

    def has_failed(self) -> bool:
        """Whether a rank is known to have an error in the next operation."""
        self.look()
        return self._failed == self.n_operations + 1

    def check_use(self) -> None:
        """Refuse operations that cannot work."""
        if self._process != os.getpid():
            raise RuntimeError("comm: expected the process that made the objective, got one that was forked from it")
        if self._is_free:
            raise RuntimeError("comm: expected a communicator in use, got one that was freed; make another objective")
        if self.why_broken is not None:
            raise RuntimeError(
                f"comm: expected a communicator on which no rank has left the others, but {self.why_broken}; start the "
                "program again, or make all objectives anew with a duplicate, comm.Dup()"
            )

    def _check_ended(self) -> None:
        """Raise if this rank waits for an operation that an ended rank never began."""
        for rank, (n_operations, what) in self._ended.items():
            if n_operations < self.n_operations:
                raise self.error(f"rank {rank} ended its program{what}, while rank {self.rank} waits for it")

    def error(self, text: str) -> RuntimeError:
        """An error whose text says enough for all ranks."""
        self._known = RuntimeError(text)
        return self._known

    def break_off(self, error: BaseException) -> None:
        """Tell all ranks, once, why no operation can go on."""
        if self.why_broken is not None:
            return
        if error is self._known:
            self.why_broken = str(error)
        else:
            text = f": {error}" if str(error) else ""
            self.why_broken = f"rank {self.rank} raised {type(error).__name__}{text} while it waited for the others"
        for rank in range(self.size):
            if rank != self.rank:
                self.send(rank, _BROKEN, self.why_broken.encode())
        _abandoned.append(self._sent)
        give_up = time.monotonic() + _FAREWELL
        while time.monotonic() < give_up and not all(request.Test() for request, _ in self._sent):
            _give_way()

    def say_that_the_program_ends(self, error: BaseException | None) -> None:
        """Tell the next rank."""
        is_usable = not (self._is_free or self._MPI.Is_finalized() or self._process != os.getpid())
        if is_usable and self.why_broken is None and self.size > 1:
            what = "" if error is None else f" by {type(error).__name__}: {error}"
            self.send((self.rank + 1) % self.size, _ENDED, pickle.dumps((self.n_operations, what)))
            _abandoned.append(self._sent)

    def free(self) -> None:
        """Free the duplicate, together with all ranks."""
        if not (self._is_free or self.why_broken is not None or self._MPI.Is_finalized()):
            self._is_free = True
            self._comm.Free()


def _tell_that_the_program_ends() -> None:
    error = getattr(sys, "last_value", None)  # of an exception that was not caught
    for communicator in list(_live):
        communicator.say_that_the_program_ends(error)
