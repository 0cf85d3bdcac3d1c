"""A data set whose rows are divided between the ranks of an MPI communicator: each rank gives the rows that it has."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop._version import __version__
from backprop.api.base import Base
from backprop.distributed import agreement, part_bytes, samples, state
from backprop.distributed.communicator import Communicator
from backprop.distributed.fitted import Values
from backprop.distributed.rows_of_ranks import Rows, divided

Array = npt.NDArray[Any]


class AcrossRanks:
    """The samples of all ranks, a `samples.Source`. All ranks make it together, and call it together.

    Parameters
    ----------
    net : Base
    communicator : Communicator
    facts : mapping
        What must be equal on all ranks, besides the network.
    rows : Rows or None
        The rows of this rank, None if they were refused.
    error : BaseException or None
        What went wrong on this rank up to now.
    n_threads : int or None
    fitted : Values
        What the rows have too.
    calls : sequence of str, optional
        The calls whose sums are asked for, by default those of an objective.

    Raises
    ------
    RuntimeError, ValueError
        On all ranks, if one has an error, or if facts differ. A rank with an error raises that one.
    """

    def __init__(
        self,
        net: Base,
        communicator: Communicator,
        facts: agreement.Facts,
        rows: Rows | None,
        error: BaseException | None,
        n_threads: int | None,
        fitted: Values,
        calls: Sequence[str] | None = None,
    ) -> None:
        self.net, self._n_threads, self.fitted = net, n_threads, fitted
        self._communicator = communicator
        with communicator.lock:
            communicator.agree(
                {
                    "call": fitted.call,
                    "backprop": __version__,
                    "the network": part_bytes.in_words(part_bytes.network_facts(net._architecture)),
                    "the arithmetic": "that of a CPU without FMA" if _core.simd == "v2" else "that of a CPU with FMA",
                    **fitted.facts,
                    "the sums": ", ".join(calls or ()),
                    **facts,
                },
                error,
                fitted.marks,
            )
            assert rows is not None  # as there is no error
            self._rows, self._whole = rows, divided(net, communicator, rows, calls)
            self.n_samples, self.weight_axes = self._whole.n_samples, self._whole.weight_axes
            self._number = communicator.register(self, net.n_params + 1)

    @property
    def n_ranks(self) -> int:
        """The number of ranks."""
        return self._communicator.size

    @property
    def epoch(self) -> int:
        """Results that were kept in an earlier epoch may be of different calls on different ranks."""
        return self._communicator.epoch

    @property
    def divisor(self) -> float:
        """As `samples.divisor` gives it."""
        return samples.divisor(self.net, self.n_samples, self.weight_axes, self._rows.scale, self._rows.total)

    def agree(self, call: str, on: bool, error: BaseException | None = None) -> bool:
        """Whether it is true on some rank. All ranks call this together, and all raise if one has an error."""
        found = np.array([on], np.int8)
        with self._communicator.lock:
            if error is not None:
                self._communicator.tell_failure()
            self._communicator.agree({"call": call, "the number of the objective": self._number}, error, found)
        return bool(found[0])

    def is_with(self, other: AcrossRanks) -> bool:
        """Whether both have one communicator."""
        return self._communicator is other._communicator

    # Sums ------------------------------------------------------------------------------------------------------------

    def sums(self, call: _core.Call, params: Array, operand: Array | None = None) -> tuple[float, Array]:
        """As in `samples.Source`, on all ranks together, or on rank 0 if the others serve.

        Raises
        ------
        RuntimeError
            On all ranks, if one fails or if arguments differ.
        """
        with self._communicator.lock:
            call = self.fitted.compiled(call)
            sums = self._sums_of_all(call, params, operand)
            total = self._rows.total if self.weight_axes else None
            net = self.net
            return state.finish(net._plan, call, sums, self._whole.n_kept, total, self.weight_axes == 2, net.dtype)

    def _sums_of_all(self, call: _core.Call, params: Array, operand: Array | None) -> state.State:
        communicator, own, error = self._communicator, None, None

        def command() -> bytes:
            return pickle.dumps((self._number, call.name, params, operand))

        communicator.announce(command)
        try:
            own = self._own_sums(call, params, operand)
        except BaseException as caught:  # the others wait for this rank
            if communicator.why_broken is not None:
                raise
            communicator.tell_failure()
            error = caught
        facts: agreement.Facts = {
            "call": call.name,
            "the number of the objective": self._number,
            "the values of theta": agreement.checksum(params),
            "the values of v": agreement.checksum(operand),
        }
        communicator.reduce(facts, own, error, command)
        assert own is not None  # as there is no error
        return own

    def _own_sums(self, call: _core.Call, params: Array, operand: Array | None) -> state.State:
        """The sums over the units of this rank."""
        net = self.net
        sums = state.State.zero(state.n_sums(net._plan, call))
        n_threads = threads.resolve(self._n_threads, self._communicator.n_threads)
        with closing(self._rows.units(self._whole.unit_rows)) as blocks:
            for block in blocks:
                if self._communicator.has_failed():
                    break  # whatever the sums are, this call ends with an error
                n_kept = self._whole.n_kept
                samples.add_block(net, call, params, block, n_kept, sums, n_threads, self.fitted, operand)
                del block
        return sums

    def refuse(self, error: BaseException) -> None:
        """Let all ranks raise, because this one was given an argument that is refused.

        Ranks that serve are left in peace: they do not wait for rank 0.
        """
        communicator = self._communicator
        with communicator.lock:
            if not communicator.finds_servers():
                communicator.tell_failure()
                communicator.agree({"call": "refuse"}, error, command=lambda: pickle.dumps((0, "", None, None)))

    # A driver and servers --------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Compute what rank 0 asks for, for all objectives of the communicator, until it stops the servers."""
        communicator = self._communicator
        if communicator.rank == 0:
            raise RuntimeError(
                "serve: expected a rank above 0, got rank 0, which drives the others: evaluate the objective there, "
                "then call fun.stop()"
            )
        with communicator.lock:
            communicator.begin_to_serve()
            try:
                while (command := communicator.await_command()) is not None:
                    self._obey(*pickle.loads(command))
            finally:
                communicator.end_to_serve()

    def _obey(self, number: int, call: str, params: Array | None, operand: Array | None) -> None:
        """Take part in a call of rank 0. If it fails on some rank, rank 0 raises, and this rank serves on."""
        communicator = self._communicator
        try:
            source: AcrossRanks | None = communicator.objects.get(number)
            if params is None:
                communicator.agree({"call": "refuse"})
            elif source is None:
                communicator.agree({"call": call}, RuntimeError("the objective exists no more on this rank"))
            else:
                source._sums_of_all(_core.CALLS[call], params, operand)
        except Exception:
            if communicator.why_broken is not None:
                raise
        except BaseException as error:
            communicator.break_off(error)
            raise

    def stop(self) -> None:
        """On rank 0: let the others stop to serve."""
        if self._communicator.rank != 0:
            raise RuntimeError(
                f"stop: expected rank 0, which drives the others, got rank {self._communicator.rank}, which may serve"
            )
        self._communicator.stop()
