"""What machines.py lets ranks do, under mpiexec: compare bits, time 1 and 2 ranks, time reductions."""

import time

import mpi4py
import numpy as np
import same_bits
from mpi4py import MPI

import backprop
from backprop import _core
from backprop.distributed import agreement, communicator
from backprop.distributed.state import State

COMM = MPI.COMM_WORLD
ASLEEP = 5e-3  # seconds between two looks of a rank that waits for the other one: it must not take its CPU
COUNTS = (1000, 10_000, 100_000, 1_000_000)  # of parameters
MOST_CALLS, LEAST_CALLS = 300, 10


def library():
    """The versions of MPI and of mpi4py."""
    name, numbers = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, numbers))}, mpi4py {mpi4py.__version__}"


def meet_asleep():
    """A barrier whose waiting ranks sleep."""
    request = COMM.Ibarrier()
    while not request.Test():
        time.sleep(ASLEEP)


# Bits -----------------------------------------------------------------------------------------------------------------


def compare_bits(row_counts, n_splits):
    """Fingerprints of objectives and parts on all ranks, by dtype and number of rows: random splits of the rows.

    In the first split rank 0 has no rows, in the second one the last rank has none.
    """
    found = {}
    for dtype in same_bits.DTYPES:
        for n_rows in row_counts:
            net, x, y = same_bits.make(n_rows, dtype)
            rng = np.random.default_rng(COMM.size)  # the same on all ranks
            ways = {}
            for k in range(n_splits if COMM.size > 1 else 1):
                ends = np.sort(rng.integers(0, n_rows + 1, COMM.size - 1))
                ends[: k == 0], ends[len(ends) - (k == 1) :] = 0, n_rows
                first, last = np.concatenate([[0], ends, [n_rows]])[COMM.rank : COMM.rank + 2]
                ways[f"{COMM.size} ranks, split {k}"] = net.objective(
                    x[first:last], y[first:last], n_threads=1, comm=COMM
                )
            block = backprop.row_blocks(net, n_rows, COMM.size)[COMM.rank]
            part = net.partial_sums(x[block], y[block], first_row=block.start, n_rows=n_rows)
            ways["parts"] = lambda theta, part=part: part.allreduce(COMM).result()
            found[f"{dtype} {n_rows}"] = agreed(same_bits.expect_one(net, ways))
    return found


def agreed(sha):
    """The fingerprint that all ranks have found."""
    found = COMM.allgather(sha)
    if len(set(found)) > 1:
        raise same_bits.DifferentBitsError(f"ranks have different fingerprints: {found}")
    return sha


# Scaling --------------------------------------------------------------------------------------------------------------


def measure_scaling(dtype, n_rows, n_rounds):
    """Seconds of each way in turns, and their one fingerprint. On ranks other than 0, what that one needs of them.

    The ways of one process run on rank 0, while the others sleep.
    """
    net, x, y = same_bits.make(n_rows, dtype)
    first, last = (k * n_rows // COMM.size for k in (COMM.rank, COMM.rank + 1))
    together = f"{COMM.size} ranks"
    names = ["1 thread", "2 threads", "1 rank", "1 rank, its share", together]
    share = (x[first:last], y[first:last]) if COMM.rank == 0 else (x[first:last].copy(), y[first:last].copy())
    ways = dict.fromkeys(names, lambda theta: None)
    if COMM.rank == 0:
        ways |= {f"{n} thread{'s' * (n > 1)}": same_bits.with_threads(net, x, y, n) for n in (1, 2)}
        ways["1 rank"] = net.objective(x, y, n_threads=1, comm=MPI.COMM_SELF)
        ways["1 rank, its share"] = net.objective(*share, n_threads=1, comm=MPI.COMM_SELF)
    else:
        del x, y
    ways[together] = net.objective(*share, n_threads=1, comm=COMM)

    def begin(name):
        meet_asleep()
        if name == together:
            COMM.Barrier()

    own = [name for name in names if name != "1 rank, its share"] if COMM.rank == 0 else [together]
    sha = agreed(same_bits.expect_one(net, {name: ways[name] for name in own}))
    seconds = same_bits.time_in_turns(net, ways, n_rounds, begin)
    unit = net._plan.unit_rows(_core.CALLS["value_and_grad"], n_rows)
    return {
        "dtype": dtype,
        "rows": n_rows,
        "n_params": net.n_params,
        "unit_rows": unit,
        "sha256": sha,
        "seconds": seconds,
    }


# The reduction --------------------------------------------------------------------------------------------------------


class Counting:
    """A communicator that counts the bytes of what it reduces."""

    def __init__(self, comm):
        self.comm, self.n_bytes = comm, 0

    def __getattr__(self, name):
        return getattr(self.comm, name)

    def Iallreduce(self, sent, received, op):
        """Count, and reduce."""
        self.n_bytes += received.nbytes
        return self.comm.Iallreduce(sent, received, op=op)


class Reduction:
    """The reduction of one evaluation with n parameters, beside MPI's own of as many float64.

    The state of rank r has the sums of r + 1 random numbers for each parameter, and for the loss.
    """

    def __init__(self, n):
        self.ranks = communicator.of(COMM)
        self.theta = np.random.default_rng(n).standard_normal(n)
        self.initial = state_of(n + 1, COMM.rank)
        self.state = self.initial.copy()
        self.plain_initial = np.random.default_rng(COMM.rank).standard_normal(n + 1)
        self.plain_sums = self.plain_initial.copy()

    def reset(self):
        """Let the next reduction begin with the states of the first one."""
        for array, initial in zip((*self.state, self.plain_sums), (*self.initial, self.plain_initial), strict=True):
            np.copyto(array, initial)

    def ours(self):
        """The checksum of theta is that of every evaluation."""
        facts = {"call": "value_and_grad", "the values of theta": agreement.checksum(self.theta)}
        self.ranks.reduce(facts, self.state)

    def plain(self):
        """The reduction that users write themselves."""
        COMM.Allreduce(MPI.IN_PLACE, self.plain_sums, op=MPI.SUM)

    def check_and_count(self):
        """Compare with states that are added on this rank alone; the bytes that are reduced."""
        expected = state_of(self.theta.size + 1, 0)
        for rank in range(1, COMM.size):
            expected.add(state_of(self.theta.size + 1, rank))
        inside = self.ranks._comm
        self.ranks._comm = counting = Counting(inside)
        try:
            self.ours()
        finally:
            self.ranks._comm = inside
        if not all(np.array_equal(a, b) for a, b in zip(self.state, expected, strict=True)):
            raise same_bits.DifferentBitsError(f"the reduction of {self.theta.size} parameters gave another state")
        return counting.n_bytes


def state_of(n, rank):
    """The sums of rank + 1 random numbers, n times: a deposit of each, with a window of its own."""
    rng = np.random.default_rng([n, rank])
    state = State.zero(n)
    for _ in range(rank + 1):
        top = rng.integers(-2, 1, n).astype(np.int8)
        state.add(State(top, rng.integers(-(2**32) + 1, 2**32, (3, n))))
    return state


def measure_reduction(n, seconds):
    """Bytes and times of the reduction of n parameters and a loss, and of the plain one."""
    reduction = Reduction(n)
    n_bytes = reduction.check_and_count()
    times = {"ours": [], "plain": []}
    begin, n_calls = time.perf_counter(), MOST_CALLS
    while len(times["ours"]) < n_calls:
        for name, own in times.items():
            reduction.reset()
            COMM.Barrier()
            start = time.perf_counter()
            getattr(reduction, name)()
            own.append(time.perf_counter() - start)
        if len(times["ours"]) == LEAST_CALLS:
            per_call = (time.perf_counter() - begin) / LEAST_CALLS
            n_calls = COMM.bcast(min(MOST_CALLS, max(LEAST_CALLS, int(seconds / per_call))))
    for name, own in times.items():
        slowest = np.array(own)
        COMM.Allreduce(MPI.IN_PLACE, slowest, op=MPI.MAX)  # a call ends when the last rank has the sums
        times[name] = slowest.tolist()
    return {"n_params": n, "bytes": n_bytes, "plain_bytes": reduction.plain_sums.nbytes, "seconds": times}
