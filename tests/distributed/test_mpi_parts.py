"""What ranks decide without talking to each other: which rows move, how CPUs are shared, what an error says."""

import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from backprop import Network, num_threads, threads
from backprop.distributed import agreement, communicator, division, hosts
from backprop.distributed.agreement import Failure, Statement

# Moves of rows --------------------------------------------------------------------------------------------------------


def after(counts, unit):
    """The rows of each rank after all moves, by their numbers, and the moves."""
    numbers = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    moves = division.moves(counts, unit)
    kept, arrived = [list(each) for each in numbers], [[] for _ in counts]
    for move in moves:
        arrived[move.target] += kept[move.source][: move.n_rows]
        kept[move.source] = kept[move.source][move.n_rows :]
    return [[*own, *new] for own, new in zip(kept, arrived, strict=True)], moves


@pytest.mark.parametrize("seed", range(200))
def test_after_the_moves_each_rank_has_whole_units(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, rng.choice([2, 5, 40]), rng.integers(1, 9)).tolist()
    unit = int(rng.integers(1, rng.choice([3, 12, 50])))
    ranks, moves = after(counts, unit)
    assert sorted(row for rows in ranks for row in rows) == list(range(sum(counts)))
    for rows in ranks:
        assert rows == list(range(rows[0], rows[0] + len(rows))) if rows else True
        assert not rows or rows[0] % unit == 0
        assert not rows or (rows[-1] + 1) % unit == 0 or rows[-1] + 1 == sum(counts)
    assert [move.source for move in moves] == sorted({move.source for move in moves})  # once at most
    assert all(move.target < move.source and move.n_rows > 0 for move in moves)
    owner = {row: rank for rank, n in enumerate(counts) for row in range(sum(counts[:rank]), sum(counts[: rank + 1]))}
    assert all(owner[rows[0]] == rank for rank, rows in enumerate(ranks) if rows)  # no rank loses the start of a unit


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([6, 6], [(1, 0, 2)]),
        ([5, 1, 0, 6], [(1, 0, 1), (3, 0, 2)]),
        ([0, 3, 3], [(2, 1, 1)]),
        ([4, 4], []),
        ([2, 1], [(1, 0, 1)]),
        ([0, 0], []),
    ],
)
def test_the_worked_cases_of_moves(counts, expected):
    assert division.moves(counts, 4) == expected


# CPUs -----------------------------------------------------------------------------------------------------------------


def host(cpus, name="a", n_allowed=None):
    return hosts.Host(name, frozenset(cpus), len(cpus) if n_allowed is None else n_allowed)


@pytest.mark.parametrize(
    ("ranks", "shares"),
    [
        ([host(range(8))], [(8, False)]),
        ([host(range(8))] * 2, [(4, False)] * 2),
        ([host(range(8))] * 3, [(2, False)] * 3),
        ([host({0}), host({1})], [(1, False)] * 2),  # bound to CPUs of their own
        ([host({0, 1, 2, 3}), host({4, 5, 6, 7})], [(4, False)] * 2),
        ([host(range(2))] * 4, [(1, True)] * 4),
        ([host(range(8)), host(range(8), "b")], [(8, False)] * 2),
        ([host(range(64), n_allowed=4)] * 2, [(2, False)] * 2),  # a quota, which both share
        ([host({0}), host({0, 1, 2})], [(1, True), (2, False)]),
    ],
)
def test_ranks_of_a_machine_share_its_cpus(ranks, shares):
    assert [hosts.share(ranks, rank) for rank in range(len(ranks))] == shares


def test_the_share_is_a_default(monkeypatch):
    monkeypatch.setattr(threads, "_of_environment", None)
    monkeypatch.setattr(threads, "_of_process", [None])  # other tests may have set it
    monkeypatch.setattr(threads, "_default", 6)
    assert threads.resolve(None, 2) == 2
    assert threads.resolve(None, 9) == 6
    assert threads.resolve(5, 2) == 5
    with num_threads(4):
        assert threads.resolve(None, 2) == 4
    monkeypatch.setattr(threads, "_of_environment", 3)
    monkeypatch.setattr(threads, "_default", 3)
    assert threads.resolve(None, 2) == 3


# Errors ---------------------------------------------------------------------------------------------------------------

FAILURE = Failure("MemoryError", "no room", False)
REFUSAL = Failure("ValueError", "theta: no", True)


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([({}, FAILURE), ({}, None)], "RuntimeError: rank 0 raised MemoryError: no room"),
        ([({}, REFUSAL), ({}, None), ({}, REFUSAL)], "ValueError: ranks 0 and 2 raised ValueError: theta: no"),
        (
            [({}, REFUSAL), ({}, FAILURE)],
            "RuntimeError: rank 0 raised ValueError: theta: no; rank 1 raised MemoryError: no room",
        ),
        ([({}, Failure("KeyboardInterrupt", "", False))], "RuntimeError: rank 0 raised KeyboardInterrupt"),
        (
            [({"call": "a", "l2": 1.0}, None), ({"call": "a", "l2": 2.0}, None)],
            "rank 1 has l2 = 2.0, not 1.0, unlike rank 0",
        ),
        (
            [({"call": "a", "l2": 2.0}, None), ({"call": "a", "l2": 1.0}, None), ({"call": "a", "l2": 1.0}, None)],
            "rank 0 has l2 = 2.0, not 1.0, unlike most ranks",
        ),
        ([({"call": "b"}, None), ({"call": "a", "l2": 1.0}, None)], "rank 1 made the call a, not b, unlike rank 0"),
        (
            [({"call": "b"}, None)] * 3 + [({"call": "b", "the values of v": k}, None) for k in (1, 2)],
            "ranks 3 and 4 have other values of v, unlike most ranks",
        ),
        (
            [({"l2": k // 20}, None) for k in range(31)],
            "ranks 20, 21, 22, 23, 24, 25 and 5 others have l2 = 1, not 0, unlike most ranks",
        ),
    ],
)
def test_what_is_wrong(statements, expected):
    error = agreement.what_is_wrong([Statement(*each) for each in statements])
    assert f"{type(error).__name__}: {error}".endswith(expected)


def test_checksums_see_single_bits_and_signs():
    array = np.random.default_rng(0).standard_normal(1000)
    seen = {agreement.checksum(array)}
    for k in range(1000):
        other = array.copy()
        other[k] = np.nextafter(other[k], np.inf)
        seen.add(agreement.checksum(other))
        other = array.copy()
        other[[k, (k + 7) % 1000]] *= -1
        seen.add(agreement.checksum(other))
    assert len(seen) == 2001
    assert agreement.checksum(None) is None


# Communicators --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comm", [3, "world", SimpleNamespace(rank=0, size=1), object])
def test_other_objects_are_no_communicators(comm):
    net = Network([2, 1], rng=0)
    with pytest.raises(TypeError, match=r"comm: expected an mpi4py communicator, as mpi4py.MPI.COMM_WORLD, got "):
        net.objective(np.ones((3, 2)), np.ones(3), comm=comm)


def test_of_refuses_before_it_does_anything():
    with pytest.raises(TypeError, match="comm: expected an mpi4py communicator"):
        communicator.of(None)


def test_mpi4py_is_not_imported():
    program = """
import pickle, sys
import numpy as np, backprop
net = backprop.Network([2, 1], rng=0)
fun = net.objective(np.ones((3, 2)), np.ones(3))
fun(net.params)
fun.stop()
pickle.dumps(fun)
try:
    net.objective(np.ones((3, 2)), np.ones(3), comm=7)
except TypeError:
    assert not [name for name in sys.modules if name.startswith("mpi4py")]
    sys.stdout.write("fine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "fine"


def test_an_objective_without_comm_is_pickled():
    net = Network([2, 1], rng=0)
    fun = net.objective(np.ones((3, 2)), np.ones(3))
    fun(net.params)
    assert pickle.loads(pickle.dumps(fun))(net.params)[0] == fun(net.params)[0]
    with pytest.raises(AttributeError, match=r"Objective\.comm is fixed when the objective is made"):
        fun.comm = None
