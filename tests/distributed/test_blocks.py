"""An objective on blocks has the bits of the objective on all rows in memory, for any lengths of the blocks."""

import copy
import pickle

import numpy as np
import pytest
from block_cases import N_IN, N_OUT, UNIT, Data, bits, data_of, results
from required_peers import require_peer
from scipy.optimize import minimize
from suites import shortened

from backprop import Network
from backprop.distributed import samples
from backprop.distributed.blocks import Stream
from backprop.distributed.samples import Block

FEW, MANY = 400, 50_000  # one unit; several
KINDS = [
    (loss, weight)
    for loss in ("squared_error", "labels", "cross_entropy")
    for weight in (None, "sample", "entry")
    if loss == "squared_error" or weight != "entry"
]


def lengths_of(n, rng):
    """Lengths of blocks by name; among the random ones are empty blocks, and some of more than a unit."""
    ragged = rng.integers(0, n // 5, 12)
    ragged[::5] = 0
    return {"1000": 1000, "4096": 4096, "whole": n, "ragged": ragged} | ({"1": 1, "7": 7} if n == FEW else {})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "weight"), KINDS)
@pytest.mark.parametrize("n", [FEW, MANY])
def test_any_lengths_have_the_bits_of_arrays(n, loss, weight, dtype):
    rng = np.random.default_rng(n)
    data = data_of(n, dtype=dtype, loss=loss, weight=weight, seed=1)
    theta, v = rng.standard_normal((2, data.net.n_params))
    expected = results(data.plain(l2=0.1, n_threads=1), theta, v)
    for name, lengths in lengths_of(n, rng).items():
        fun = data.net.objective(data.blocks(lengths), l2=0.1, n_threads=2)
        assert results(fun, theta, v) == expected, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [FEW, 2 * UNIT + 700])
def test_the_hessian(n, dtype):
    data = data_of(n, dtype=dtype, weight="sample")
    data.weight[300:] = np.maximum(data.weight[300:], 0.1)  # two units
    data.x[~np.isfinite(data.x)] = 0
    free = np.arange(data.net.n_params) % 3 > 0
    for options in ({"l2": 0.1}, {"l2": 0.1, "free": free}):
        plain = data.plain(n_threads=1, **options)
        theta = np.random.default_rng(0).standard_normal(plain.n_free)
        for lengths in (n, 90 if n == FEW else 5000):
            fun = data.net.objective(data.blocks(lengths), **options)
            assert bits([fun.hess(theta)]) == bits([plain.hess(theta)])


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [FEW, MANY])
def test_any_number_of_threads(n, n_threads):
    data = data_of(n, weight="sample")
    theta, v = np.random.default_rng(0).standard_normal((2, data.net.n_params))
    expected = results(data.plain(n_threads=1), theta, v)
    for lengths in (500, 30_000):
        assert results(data.net.objective(data.blocks(lengths), n_threads=n_threads), theta, v) == expected


@pytest.mark.parametrize("n_rows", [1, 7])
def test_short_blocks_in_several_units(n_rows):
    data = data_of(2 * UNIT + 100)
    data.weight = np.ones(len(data))
    data.weight[::300] = 0  # all but a few rows count, so that there are two units still
    fun = data.net.objective(data.blocks(n_rows))
    assert bits(fun(data.net.params)) == bits(data.plain()(data.net.params))


@pytest.mark.parametrize(
    "n", [1, 2, 63, UNIT, 2 * UNIT - 1, 2 * UNIT, 2 * UNIT + 1, 3 * UNIT - 1, 3 * UNIT, 5 * UNIT + 7]
)
def test_numbers_of_rows_around_units(n):
    data = data_of(n)
    theta, v = np.random.default_rng(0).standard_normal((2, data.net.n_params))
    expected = results(data.plain(), theta, v)
    for lengths in (n, UNIT, UNIT - 1, [UNIT, 1], 4 * UNIT, max(1, n - 1)):
        assert results(data.net.objective(data.blocks(lengths)), theta, v) == expected


def test_long_blocks_are_not_copied():
    data = data_of(20 * UNIT)
    blocks = [Block.of(x, y, None) for x, y in data.blocks(10 * UNIT)]
    units = list(samples.in_units(blocks, UNIT, np.dtype("float64")))
    assert [len(unit.x) for unit in units] == [10 * UNIT, 10 * UNIT]
    assert all(np.shares_memory(unit.x, data.x) and np.shares_memory(unit.y, data.y) for unit in units)
    units = list(samples.in_units([blocks[0].part(5, 80_000), blocks[1].part(3, 70_001)], UNIT, np.dtype("float64")))
    assert all(len(unit.x) % UNIT == 0 for unit in units[:-1])
    assert np.array_equal(
        np.concatenate([unit.x for unit in units]), np.concatenate([data.x[5:80_000], blocks[1].x[3:70_001]])
    )


def test_wide_rows_are_copied_one_unit_at_a_time():
    x, y = np.zeros((10, 700)), np.zeros((10, 1))
    units = list(samples.in_units([Block.of(x, y, None)] * 5, 20, np.dtype("float64")))
    assert [len(unit.x) for unit in units] == [50]
    units = list(
        samples.in_units([Block.of(np.zeros((1000, 700)), np.zeros((1000, 1)), None)] * 5, 2000, np.dtype("float64"))
    )
    assert [len(unit.x) for unit in units] == [2000, 2000, 1000]


# Where blocks come from -----------------------------------------------------------------------------------------------


class Blocks:
    """An iterable that starts anew."""

    def __init__(self, blocks):
        self.blocks = blocks

    def __iter__(self):
        return iter(self.blocks)


class Items:
    """The old protocol of sequences."""

    def __init__(self, blocks):
        self.blocks = blocks

    def __getitem__(self, k):
        return self.blocks[k]


def generator_function(blocks):
    def make():
        yield from blocks

    return make


WAYS = {
    "a list": list,
    "a tuple": tuple,
    "lists, as a DataLoader gives them": lambda blocks: [list(block) for block in blocks],
    "a generator function": generator_function,
    "a function that makes a list": lambda blocks: lambda: blocks,
    "an object": Blocks,
    "items": Items,
    "a class": lambda blocks: type("Class", (Blocks,), {"__init__": lambda self: Blocks.__init__(self, blocks)}),
    "x as a list": lambda blocks: [(x.tolist(), y.tolist(), w.tolist()) for x, y, w in blocks],
}


@pytest.mark.parametrize("way", WAYS)
def test_any_iterable_that_starts_anew(way):
    data = data_of(FEW, weight="entry")
    theta, v = np.random.default_rng(0).standard_normal((2, data.net.n_params))
    fun = data.net.objective(WAYS[way](data.blocks(90)))
    assert results(fun, theta, v) == results(data.plain(), theta, v)


def test_a_weight_of_none_is_no_weight():
    data = data_of(FEW)
    fun = data.net.objective([(x, y, None) for x, y in data.blocks(90)])
    assert bits(fun(data.net.params)) == bits(data.plain()(data.net.params))


def test_blocks_of_a_memory_map(tmp_path):
    """A float32 file for a network of float64."""
    data = data_of(MANY)
    np.hstack([data.x, data.y]).astype(np.float32).tofile(tmp_path / "rows")
    rows = np.memmap(tmp_path / "rows", np.float32, "r", shape=(MANY, N_IN + N_OUT))
    x, y = rows[:, :N_IN], rows[:, N_IN:]
    theta, v = np.random.default_rng(0).standard_normal((2, data.net.n_params))
    expected = results(data.net.objective(x, y), theta, v)
    for n in (7, 1000, 4096):
        fun = data.net.objective(lambda n=n: ((x[k : k + n], y[k : k + n]) for k in range(0, MANY, n)))
        assert results(fun, theta, v) == expected
    assert expected == results(data.net.objective(np.asarray(x, float), np.asarray(y, float)), theta, v)


@pytest.mark.parametrize("n_rows", [1000, 4096])
def test_batches_of_parquet(tmp_path, n_rows):
    """Record batches are frames of columns."""
    pa, parquet = require_peer("pyarrow"), require_peer("pyarrow.parquet")
    data = data_of(MANY, dtype="float32", weight="sample")
    names = [f"x{i}" for i in range(N_IN)] + [f"y{j}" for j in range(N_OUT)] + ["weight"]
    data.x[~np.isfinite(data.x)] = 0
    columns = [*data.x.T, *data.y.T, data.weight]
    parquet.write_table(pa.table(dict(zip(names, columns, strict=True))), tmp_path / "rows", row_group_size=30_000)

    def blocks():
        for batch in parquet.ParquetFile(tmp_path / "rows").iter_batches(n_rows):
            yield batch.select(names[:N_IN]), batch.select(names[N_IN:-1]), batch["weight"]

    theta, v = np.random.default_rng(0).standard_normal((2, data.net.n_params))
    assert results(data.net.objective(blocks), theta, v) == results(data.plain(), theta, v)


LAYOUTS = {
    "float32": lambda array: array.astype(np.float32),
    "big-endian": lambda array: array.astype(">f8"),
    "integers": lambda array: np.round(3 * array).astype(np.int8),
    "Fortran's order": np.asfortranarray,
    "a column in two": lambda array: np.repeat(array, 2, axis=1)[:, ::2],
    "backwards": lambda array: array[::-1],
    "a broadcast row": lambda array: np.broadcast_to(array[:1], array.shape),
    "extended": lambda array: array.astype(np.longdouble),
    "Booleans": lambda array: array > 0,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_of_any_layout(name):
    data = data_of(3 * UNIT + 5)
    data = Data(data.net, LAYOUTS[name](data.x), LAYOUTS[name](data.y), None)
    theta, v = np.random.default_rng(0).standard_normal((2, data.net.n_params))
    expected = results(data.plain(), theta, v)
    for lengths in (1000, 2 * UNIT, len(data)):
        assert results(data.net.objective(data.blocks(lengths)), theta, v) == expected


# What an objective does besides ---------------------------------------------------------------------------------------


def test_free_parameters_and_what_it_prints():
    data = data_of(MANY, weight="sample")
    free = np.arange(data.net.n_params) % 3 == 0
    fun = data.net.objective(data.blocks(9000), free=free, l2=0.3)
    plain = data.plain(free=free, l2=0.3)
    theta, v = np.random.default_rng(0).standard_normal((2, plain.n_free))
    assert results(fun, theta, v) == results(plain, theta, v)
    assert repr(fun) == repr(plain)
    assert f"{MANY:,} samples, weighted, l2=0.3" in repr(fun)


def test_minimize_takes_the_same_way():
    data = data_of(2 * UNIT + 500, seed=3)
    found = [
        minimize(fun, data.net.params, jac=True, method="L-BFGS-B", options={"maxiter": 8})
        for fun in (data.plain(l2=1e-4), data.net.objective(data.blocks(3000), l2=1e-4))
    ]
    assert found[0].nit == 8
    assert bits([found[0].x, found[0].fun]) == bits([found[1].x, found[1].fun])


def module_blocks():
    yield from data_of(FEW).blocks(100)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda fun: pickle.loads(pickle.dumps(fun))])
@pytest.mark.parametrize("blocks", [data_of(FEW).blocks(100), module_blocks], ids=["a list", "a function"])
def test_copies_and_pickles(how, blocks):
    data = data_of(FEW)
    fun = data.net.objective(blocks, l2=0.5)
    theta, v = np.random.default_rng(0).standard_normal((2, data.net.n_params))
    expected = results(fun, theta, v)
    assert results(how(fun), theta, v) == expected == results(data.plain(l2=0.5), theta, v)


@pytest.mark.parametrize("weight", [None, "sample", "entry"])
@pytest.mark.parametrize("k", [1, 100, 20_000])
def test_a_stream_gives_rows_away_and_takes_others(k, weight):
    """As a process does whose first rows belong to a unit of the process before it."""
    data = data_of(MANY, weight=weight)
    kept = np.arange(MANY) if weight is None else np.flatnonzero(data.weight.reshape(MANY, -1).any(axis=1))
    middle = int(kept[20_500])
    stream = Stream(data.net, Data(data.net, *data.rows(0, middle), *[None] * (weight is None)).blocks(3000))
    last = Data(data.net, *data.rows(middle, MANY), *[None] * (weight is None))
    head = stream.head(k)
    assert np.array_equal(head.x, data.x[kept[:k]])
    assert np.array_equal(head.y, data.y[kept[:k]])
    weights = head.weights
    if weight is not None:
        assert np.array_equal(weights.array, data.weight[kept[:k]])
        assert weights.n_kept == k
        weights = weights._replace(array=last.weight, n_kept=len(kept) - 20_500)
    stream.n_skipped, stream.tail = k, Block.of(last.x, last.y, weights)
    units = list(stream.units(UNIT))
    assert [unit.n_kept % UNIT == 0 for unit in units[:-1]] == [True] * (len(units) - 1)
    rest = [unit.x if unit.kept is None else unit.x[unit.kept] for unit in units]
    assert np.array_equal(np.concatenate(rest), data.x[kept[k:]])


@pytest.mark.parametrize("shape", shortened([[5, 40, 3], [5, 3], [5, 8, 8, 8, 3]], [[5, 40, 3]], "the same cuts"))
def test_other_networks(shape):
    data = data_of(MANY)
    net = Network(shape, activations="relu", rng=1)
    theta, v = np.random.default_rng(0).standard_normal((2, net.n_params))
    assert results(net.objective(data.blocks(5000)), theta, v) == results(net.objective(data.x, data.y), theta, v)
