"""Rank 0 drives and the others serve, or all ranks make the same calls: rank 0 need not know in advance which.

A rank that begins to serve tells rank 0 the number of the operation that it waits for. Rank 0 takes these messages
before each operation, and while it waits in one. When all others serve, it sends a command, along a tree of ranks, and
from then on one at the start of each operation, until it stops them. If some ranks serve while others make the call
themselves, rank 0 tells the latter, and they raise.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any

from backprop.distributed.waiting import Waiting, pause

_SERVES, _COMMAND, _MIXED = 3, 4, 5  # kinds of control messages, besides those of `Waiting`
_STOP = b""  # the command to stop

Command = Callable[[], bytes]  # makes the command, which is not made if no rank serves


class Serving(Waiting):
    """A duplicate of an mpi4py communicator on which rank 0 may command the other ranks.

    Attributes
    ----------
    is_driving : bool
        Whether this is rank 0, and all others are known to serve.
    epoch : int
        The number of stops so far. Before and after a stop, ranks may remember different calls.
    """

    def __init__(self, comm: Any, MPI: Any) -> None:
        super().__init__(comm, MPI)
        self.is_driving = False
        self.epoch = 0
        # Rank 0:
        self._waits_for: dict[int, int] = {}  # the operation for which a rank waits in `await_command`, by rank
        self._is_stopped = False  # no operation has begun since the last stop
        self._told = 0  # the operation for which the servers have a command
        self._told_mixed = 0  # the operation in which the others were told that some ranks serve
        # Other ranks:
        self._is_serving = False
        self._command: bytes | None = None
        self._mixed: tuple[int, str] | None = None  # an operation in which this rank should serve, as others do

    def _take(self, source: int, kind: int, content: bytes) -> None:
        if kind == _SERVES:
            self._waits_for[source] = pickle.loads(content)
        elif kind == _COMMAND:
            self._command = content
        elif kind == _MIXED:
            self._mixed = pickle.loads(content)
        else:
            super()._take(source, kind, content)

    # Rank 0 ----------------------------------------------------------------------------------------------------------

    def announce(self, command: Command) -> None:
        """Give ranks that serve the command for the next operation, before this rank computes its own part of it."""
        with self.lock:
            self.check_use()
            if self.rank == 0 and self.size > 1:
                self.look()
                self._command_servers(self.n_operations + 1, command)

    def meet(self, command: Command | None) -> None:
        """While this rank waits for others in an operation: give the command to them if all serve.

        Raises
        ------
        RuntimeError
            If some serve and others do not, or if all serve and there is no command for them.
        """
        if self.rank == 0:
            self._command_servers(self.n_operations, command)
        elif self._mixed is not None and self._mixed[0] == self.n_operations and not self._is_serving:
            raise self.error(self._mixed[1])

    def finds_servers(self) -> bool:
        """Whether this is rank 0, and all others wait for its commands by now."""
        with self.lock:
            self.check_use()
            if self.rank == 0 and self.size > 1 and not self.is_driving:
                self.look()
                self.is_driving = self._count_servers(self.n_operations + 1) == self.size - 1
            return self.is_driving

    def _command_servers(self, operation: int, command: Command | None) -> None:
        """Give all servers the command for an operation, once, if all others serve in it."""
        if self._told == operation or self.size == 1:
            return
        if not self.is_driving:
            n_serving = self._count_servers(operation)
            if 0 < n_serving < self.size - 1 and operation == self.n_operations:
                self._tell_mixed(operation, "makes this call")
            if n_serving < self.size - 1:
                return
            self._waits_for.clear()
            self.is_driving = True
        if command is None:
            raise self.error("rank 0 made a call that needs all ranks, while the others serve: call fun.stop() first")
        self._told = operation
        self._pass_on(command())

    def _count_servers(self, operation: int) -> int:
        return sum(awaited == operation for awaited in self._waits_for.values())

    def _tell_mixed(self, operation: int, what_rank_0_does: str) -> None:
        """Tell the ranks that do not serve that others do, or should."""
        if self._told_mixed == operation:
            return
        self._told_mixed = operation
        servers = [rank for rank, awaited in self._waits_for.items() if awaited == operation]
        serves = f"rank {servers[0]} serves" if servers else "the other ranks should serve"
        for rank in range(1, self.size):
            if rank not in servers:
                text = f"rank 0 {what_rank_0_does}, {serves}, and rank {rank} makes a call of its own: expected all "
                text += "ranks except rank 0 to serve, or none"
                self.send(rank, _MIXED, pickle.dumps((operation, text)))

    def stop(self) -> None:
        """Let all others stop to serve. Wait for those that have not begun to, unless nothing happened since a stop."""
        with self.lock:
            if self.size == 1 or self.why_broken is not None:
                return
            self.check_use()
            self.look()
            if self._is_stopped and not self._waits_for:
                return
            with self.operation():
                start = time.monotonic()
                while not self.is_driving and self._count_servers(self.n_operations) < self.size - 1:
                    self._tell_mixed(self.n_operations, "waits for them in fun.stop()")
                    pause(time.monotonic() - start, self.spin)
                    self.look()
                self._waits_for.clear()
                self._pass_on(_STOP)
            self.is_driving, self._is_stopped = False, True
            self.epoch += 1

    # Other ranks -----------------------------------------------------------------------------------------------------

    def begin_to_serve(self) -> None:
        """Tell rank 0 that this rank waits for commands."""
        with self.lock:
            self.check_use()
            self._is_serving, self._command = True, None
            self.send(0, _SERVES, pickle.dumps(self.n_operations + 1))

    def await_command(self) -> bytes | None:
        """The next command of rank 0; None if it stops the servers. It is passed on to other ranks."""
        with self.operation():
            start = time.monotonic()
            while self._command is None:
                pause(time.monotonic() - start, self.spin)
                self.look()
            command, self._command = self._command, None
            self._pass_on(command)
        if command == _STOP:
            self.end_to_serve()
            self.epoch += 1
            return None
        self.n_operations -= 1  # the command belongs to the operation that it begins
        return command

    def end_to_serve(self) -> None:
        """Wait for no more commands."""
        self._is_serving, self._mixed = False, None

    def _pass_on(self, command: bytes) -> None:
        """Send a command to the next ranks of the binomial tree, the farthest first."""
        lowest = self.rank & -self.rank if self.rank else 1 << self.size.bit_length()
        while (lowest := lowest >> 1) > 0:
            if self.rank + lowest < self.size:
                self.send(self.rank + lowest, _COMMAND, command)
