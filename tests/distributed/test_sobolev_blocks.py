"""`sobolev_objective` on blocks and on ranks: the bits of all rows in memory, and refusals that name the block."""

import copy
import pickle
import re

import numpy as np
import pytest
from on_ranks import said, support
from partial_cases import bits
from ranks import run_on_ranks

from backprop import Network

FEW, MANY = 300, 20_001  # one unit, and several
WEIGHT = np.array([[1.0, 0.0, 2.0], [0.5, 0.5, 0.0]])


def data_of(n, weighted=True, dtype="float64"):
    """A network, and x, y, grad_x, and weights of which a third is 0; rows without weight hold NaN."""
    rng = np.random.default_rng(n)
    net = Network([3, 8, 2], activations="tanh", dtype=dtype, rng=0)
    arrays = [rng.normal(size=(n, *shape)).astype(dtype) for shape in ((3,), (2,), (2, 3))]
    if weighted:
        arrays.append(rng.uniform(size=n) * (rng.random(n) < 2 / 3))
        for array in arrays[:3]:
            array[arrays[3] == 0] = np.nan
    return net, arrays


def in_memory(net, arrays, weight=WEIGHT, **options):
    x, y, grad_x, *rest = arrays
    return net.sobolev_objective(x, y, grad_x, weight, sample_weight=rest[0] if rest else None, **options)


def blocks_of(arrays, length):
    return [tuple(array[i : i + length] for array in arrays) for i in range(0, len(arrays[0]), length)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [FEW, MANY])
def test_any_lengths_have_the_bits_of_arrays(n, weighted, dtype):
    net, arrays = data_of(n, weighted, dtype)
    theta = net.params + 0.1
    expected = bits(in_memory(net, arrays, l2=0.3)(theta))
    for length in (7 if n == FEW else 700, 4096, 9000, n):
        for n_threads in (1, 3):
            fun = net.sobolev_objective(blocks_of(arrays, length), weight=WEIGHT, l2=0.3, n_threads=n_threads)
            assert bits(fun(theta)) == expected


def test_other_dtypes_and_free():
    net, arrays = data_of(FEW)
    free = np.arange(net.n_params) % 3 > 0
    theta = net.params[free]
    arrays = [array.astype("f4") for array in arrays]
    expected = in_memory(net, arrays, weight=0.5, free=free)
    blocks = [[np.asfortranarray(a, ">f4") for a in block] for block in blocks_of(arrays, 50)]
    fun = net.sobolev_objective(lambda: iter(blocks), weight=0.5, free=free)
    assert bits(fun(theta)) == bits(expected(theta))
    assert repr(fun) == repr(expected)
    both = fun + 0.1 * net.objective(*arrays[:2], sample_weight=arrays[3], free=free)
    assert "1 * (300 samples with input gradients, weighted) + 0.1 * (300 samples, weighted)" in repr(both)
    for how in (copy.deepcopy, lambda fun: pickle.loads(pickle.dumps(fun))):
        assert bits(how(net.sobolev_objective(blocks, weight=0.5, free=free))(theta)) == bits(expected(theta))


def test_one_output_needs_no_axis():
    rng = np.random.default_rng(0)
    net, arrays = Network([3, 4, 1], activations="tanh", rng=0), [rng.normal(size=(50, k)) for k in (3, 1, 3)]
    fun = net.sobolev_objective(blocks_of(arrays, 20), weight=0.2)
    assert bits(fun(net.params)) == bits(net.sobolev_objective(*arrays, 0.2)(net.params))


NET, (X, Y, S, W) = data_of(30)
REFUSED = {
    "an array": (lambda: (X,), TypeError, "y, grad_x: expected targets beside x, got none; net.sobolev_objective(x, y"),
    "no grad_x": (lambda: (X, Y), TypeError, "grad_x: expected"),
    "no y": (lambda: (X, None, S), TypeError, "y: expected"),
    "once": (lambda: (iter([(X, Y, S)]),), TypeError, "blocks: expected an iterable that can be read again"),
    "a number": (lambda: (5,), TypeError, "blocks: expected an iterable of (x, y, grad_x) or (x, y, grad_x, sa"),
    "a pair": (lambda: ([(X, Y, S), (X, Y)],), TypeError, "block 1: expected a tuple (x, y, grad_x) or (x, y, grad_"),
    "arrays": (lambda: ([X, X],), TypeError, "net.sobolev_objective([(x, y, grad_x)], weight=weight) has one block"),
    "rows": (lambda: ([(X, Y, S[1:])],), ValueError, "block 0: grad_x: expected shape (30, 2, 3), got (29, 2, 3)"),
    "by output": (
        lambda: ([(X, Y, S, np.ones((30, 2)))],), ValueError,
        "block 0: sample_weight: expected shape (30,) in sobolev_objective, got (30, 2)",
    ),
    "weights of some": (lambda: ([(X, Y, S), (X, Y, S, W)],), ValueError, "block 1: sample_weight: expected no weight"),
    "no rows": (lambda: ([(X[:0], Y[:0], S[:0])],), ValueError, "blocks: expected at least one sample, got 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    arguments, kind, message = REFUSED[name]
    with pytest.raises(kind, match=re.escape(message)):
        NET.sobolev_objective(*arguments(), weight=0.5)


def test_the_weight_is_needed_and_weights_come_with_the_blocks():
    with pytest.raises(TypeError, match=r"^weight: expected a number or an array \(n_L, n_0\) .*, got None"):
        NET.sobolev_objective([(X, Y, S)])
    with pytest.raises(TypeError, match=r"^sample_weight: expected none beside blocks"):
        NET.sobolev_objective([(X, Y, S)], weight=1.0, sample_weight=W)
    with pytest.raises(ValueError, match=r"^hessp: expected an objective without input gradients"):
        NET.sobolev_objective([(X, Y, S)], weight=1.0).hessp(NET.params, NET.params)


def test_rows_that_change():
    blocks = [(X, Y, S, W)]
    fun = NET.sobolev_objective(blocks, weight=1.0)
    blocks[0] = tuple(array[:20] for array in blocks[0])
    with pytest.raises(RuntimeError, match=r"^blocks: expected 30 rows"):
        fun(NET.params)


# Ranks ----------------------------------------------------------------------------------------------------------------

PROGRAM = """
import numpy as np
from mpi4py import MPI
from on_ranks import attempt, say, sha, split
from test_sobolev_blocks import WEIGHT, blocks_of, data_of, in_memory

comm = MPI.COMM_WORLD
rank, odd = comm.rank, comm.rank == 1
rng = np.random.default_rng(0)
for n in (300, 20_001):
    for weighted in (False, True):
        net, arrays = data_of(n, weighted)
        theta = net.params + 0.1
        expected = sha(*in_memory(net, arrays, l2=0.1)(theta))
        even = [k * n // comm.size for k in range(comm.size + 1)]
        for ends in (split(n, comm.size, rng), [0] * comm.size + [n], even):
            own = [array[ends[rank] : ends[rank + 1]] for array in arrays]
            fun = in_memory(net, own, l2=0.1, comm=comm)
            streamed = net.sobolev_objective(blocks_of(own, 997), weight=WEIGHT, l2=0.1, comm=comm)
            both = 0.5 * fun + net.objective(arrays[0][:3] * 0, arrays[1][:3] * 0)
            say(rank, same=[sha(*each(theta)) == expected for each in (fun, streamed, fun)], repr=repr(both))

x, y, grad_x, weight = own
say(rank, refused=attempt(lambda: net.sobolev_objective(x, y, grad_x[1:] if odd else grad_x, 1.0, comm=comm)))
say(rank, refused=attempt(lambda: net.sobolev_objective(x, y, grad_x, 2.0 if odd else 1.0, comm=comm)))
say(rank, refused=attempt(lambda: net.sobolev_objective(x, y, grad_x, None if odd else 1.0, comm=comm)))
say(rank, refused=attempt(
    lambda: net.objective(x, y, comm=comm) if odd else net.sobolev_objective(x, y, grad_x, 1.0, comm=comm)))
say(rank, refused=attempt(fun, theta[1:] if odd else 2 * theta))
say(rank, refused=attempt(fun.hessp, theta, theta))
if rank == 0:
    say(rank, served=sha(*fun(3 * theta)) == sha(*in_memory(net, arrays, l2=0.1)(3 * theta)))
    fun.stop()
else:
    fun.serve()
"""


def test_ranks(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    env = support()
    env["PYTHONPATH"] += f":{__file__.rpartition('/')[0]}"
    done = run_on_ranks(3, program, env=env)
    assert done.returncode == 0, done.stderr
    for rank, lines in said(done).items():
        same = [line["same"] for line in lines if "same" in line]
        assert same == [[True] * 3] * 12
        assert all("with input gradients on 3 ranks" in line["repr"] for line in lines if "repr" in line)
        refused = [line["refused"] for line in lines if "refused" in line]
        shape, weight, missing, other, theta, hessp = refused
        for text, what in (
            (shape, "grad_x: expected shape"),
            (missing, "weight: expected a number"),
            (theta, "theta: "),
        ):
            assert what in text
            assert ("rank 1" in text) == (rank != 1), text
        assert "weight" in weight
        assert "sobolev_objective" in other
        assert all("Error: " in text for text in (weight, other))
        assert "hessp: expected an objective without" in hessp
        assert rank or lines[-1]["served"]
