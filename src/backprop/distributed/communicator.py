"""An MPI communicator as objectives and parts of sums use it: what all ranks do together, and rank 0's commands.

Each operation of several steps begins with `agree`: one MAX of a message whose length all ranks know. It
holds a digest of what this rank is about to do, and the complement of the digest: the maxima of both show whether all
digests are equal. So ranks that do different things, with arrays of different lengths, never exchange a wrong length.
The message also holds the tops of the sums, since it is as long as the largest objective needs. Parts of sums may have
more, and a second MAX takes these.

mpi4py is never imported here: a user who has a communicator has imported it.
"""

from __future__ import annotations

import pickle
import sys
import weakref
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api.array_likes import describe
from backprop.distributed import agreement, hosts
from backprop.distributed.serving import Command, Serving
from backprop.distributed.state import State
from backprop.distributed.waiting import SPIN_CROWDED, SPIN_TOGETHER, Look

Array = npt.NDArray[Any]

_HEAD_BYTES = 4096  # of the message that begins an operation, while no objective has more sums
_DIGEST = slice(1, 1 + agreement.DIGEST_BYTES)
_COMPLEMENT = slice(_DIGEST.stop, _DIGEST.stop + agreement.DIGEST_BYTES)
_FIRST_TOP = _COMPLEMENT.stop

_DATA = 2  # the tag of rows

_attribute: list[int] = []  # the key of the attribute of a communicator that holds its duplicate
_making_a_key = Lock()


def of(comm: object) -> Communicator:
    """The duplicate of a user's communicator that all objectives share. All ranks call this together.

    Raises
    ------
    TypeError, ValueError
        If comm is not an mpi4py communicator of one group, to which this rank belongs.
    RuntimeError
        If another rank fails, or if one has left the others before.
    """
    MPI = sys.modules.get("mpi4py.MPI")
    if MPI is None or not isinstance(comm, MPI.Comm):
        raise TypeError(f"comm: expected an mpi4py communicator, as mpi4py.MPI.COMM_WORLD, got {describe(comm)}")
    if comm == MPI.COMM_NULL:
        raise ValueError("comm: expected a communicator that this rank belongs to, got COMM_NULL")
    if comm.Is_inter():
        raise TypeError("comm: expected a communicator of one group of ranks, got an intercommunicator: Merge() it")
    with _making_a_key:
        if not _attribute:
            _attribute.append(MPI.Comm.Create_keyval(delete_fn=_free_duplicate))
    found: Communicator | None = comm.Get_attr(_attribute[0])
    if found is None:
        found = Communicator(comm, MPI)
        comm.Set_attr(_attribute[0], found)
    found.check_use()
    return found


def _free_duplicate(comm: object, key: int, communicator: Communicator) -> None:
    """Free the duplicate when its user frees the communicator, which all ranks do together."""
    communicator.free()


class Communicator(Serving):
    """A duplicate of an mpi4py communicator, with what all ranks do together. `of` makes it.

    Attributes
    ----------
    n_threads : int
        How many threads a call may use, so that the ranks of a machine share its CPUs.
    objects : mapping of int to object
        What commands name: `register` gives the numbers.
    """

    def __init__(self, comm: Any, MPI: Any) -> None:
        super().__init__(comm, MPI)
        self.objects: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._n_objects = 0
        self._head = np.empty(_HEAD_BYTES, np.int8)
        places = [pickle.loads(raw) for raw in self.gather(pickle.dumps(hosts.here()))]
        self.n_threads, is_crowded = hosts.share(places, self.rank)
        if is_crowded:
            self.spin = SPIN_CROWDED

    def register(self, thing: object, n_sums: int) -> int:
        """A number for something that all ranks make together, which is the same on all ranks; it has so many sums."""
        self._n_objects += 1
        self.objects[self._n_objects] = thing
        if self._head.size < _FIRST_TOP + n_sums:
            self._head = np.empty(_FIRST_TOP + n_sums, np.int8)
        return self._n_objects

    # Operations ------------------------------------------------------------------------------------------------------

    def agree(
        self,
        facts: agreement.Facts,
        error: BaseException | None = None,
        top: Array | None = None,
        command: Command | None = None,
    ) -> None:
        """Go on if no rank has an error and all ranks state the same facts; and take the maxima of top, in place.

        Parameters
        ----------
        facts
            What must be equal on all ranks, by names that an error can use.
        error
            The exception of this rank. It is raised here when the others have heard of it.
        top : (n,) int8 array, optional
            n must follow from the facts.
        command
            On rank 0, what ranks that serve are told, unless they were told by `announce`.

        Raises
        ------
        RuntimeError, ValueError
            On all ranks, if one has an error (ValueError if an argument was refused) or the facts differ.
        """
        if self.is_driving and command is None:
            raise RuntimeError("comm: expected all ranks to make this call, but others serve; call fun.stop() first")
        with self.operation():
            self._is_stopped = False
            self.meet(command)
            head = self._head
            head[0] = error is not None
            head[_DIGEST] = np.frombuffer(agreement.digest(facts), np.int8)
            np.invert(head[_DIGEST], out=head[_COMPLEMENT])
            n_first = 0 if top is None else min(top.size, head.size - _FIRST_TOP)
            first = slice(_FIRST_TOP, _FIRST_TOP + n_first)
            if top is not None:
                head[first] = top[:n_first]
            head[first.stop :] = 0
            self._all_reduce(head, "MAX", self.spin, lambda: self.meet(command))
            is_agreed = head[0] == 0 and np.array_equal(head[_DIGEST], ~head[_COMPLEMENT])
            if is_agreed and top is not None:
                top[:n_first] = head[first]
                if n_first < top.size:
                    self._all_reduce(top[n_first:], "MAX", SPIN_TOGETHER)
        if not is_agreed:
            said = [pickle.loads(raw) for raw in self.gather(pickle.dumps(agreement.statement(facts, error)))]
            raise error or agreement.what_is_wrong(said)

    def reduce(
        self,
        facts: agreement.Facts,
        state: State | None,
        error: BaseException | None = None,
        command: Command | None = None,
    ) -> None:
        """Add the states of all ranks, in place on each of them, after `agree`. A rank without a state has an error."""
        if state is None:
            return self.agree(facts, error, command=command)
        new_top = state.top.copy()
        self.agree(facts, error, new_top, command)
        with self.operation():
            _core.raise_bins(state.top, state.limbs, new_top)
            state.top[...] = new_top
            self._all_reduce(state.limbs, "SUM", SPIN_TOGETHER)

    def gather(self, message: bytes) -> list[bytes]:
        """The messages of all ranks, in their order."""
        with self.operation():
            n_bytes, own = np.empty(self.size, np.int64), np.array([len(message)], np.int64)
            self.keep(message, own, n_bytes)
            self.wait(self._comm.Iallgather(own, n_bytes), self.spin)
            ends = np.cumsum(n_bytes)
            everything = np.empty(int(ends[-1]), np.uint8)
            target = [everything, n_bytes.tolist(), (ends - n_bytes).tolist(), self._MPI.BYTE]
            self.keep(everything)
            self.wait(self._comm.Iallgatherv([message, self._MPI.BYTE], target), SPIN_TOGETHER)
        return [everything[end - n : end].tobytes() for n, end in zip(n_bytes, ends, strict=True)]

    def exchange(self, sent: Sequence[tuple[int, Array]], received: Sequence[tuple[int, Array]]) -> None:
        """Send arrays to ranks, and fill arrays with what ranks send. Between two ranks arrays keep their order."""
        with self.operation():
            self.keep(sent, received)
            requests = [self._comm.Irecv(array, source=rank, tag=_DATA) for rank, array in received]
            requests += [self._comm.Isend(array, dest=rank, tag=_DATA) for rank, array in sent]
            for request in requests:
                self.wait(request, SPIN_TOGETHER)

    def _all_reduce(self, array: Array, operator: str, spin: float, look: Look | None = None) -> None:
        self.keep(array)
        self.wait(self._comm.Iallreduce(self._MPI.IN_PLACE, array, op=getattr(self._MPI, operator)), spin, look)
