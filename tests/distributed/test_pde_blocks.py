"""`pde_objective` on blocks and on ranks: the bits of all rows in memory, also of coefficients that move with them."""

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
SHARED = {"c": 2.0, "b": [0.0, 1.0, 0.0], "D": np.diag([1.0, -2.0, 0.0])}


def data_of(n, weighted=True, dtype="float64"):
    """A network, and x, f, and weights of which a third is 0; rows without weight hold NaN."""
    rng = np.random.default_rng(n)
    net = Network([3, 8, 1], activations="tanh", dtype=dtype, rng=0)
    arrays = [rng.normal(size=shape).astype(dtype) for shape in ((n, 3), n)]
    if weighted:
        arrays.append(rng.uniform(size=n) * (rng.random(n) < 2 / 3))
        for array in arrays[:2]:
            array[arrays[2] == 0] = np.nan
    return net, arrays


def coefficients_of(n, arrays):
    """c, b and D by sample: no row uses the third axis, and only the last ones have mixed derivatives."""
    rng = np.random.default_rng(n + 1)
    given = {"c": rng.normal(size=n), "b": rng.normal(size=(n, 3)), "D": rng.normal(size=(n, 3, 3))}
    given["b"][:, 2] = given["D"][:, 2] = given["D"][:, :, 2] = 0
    given["D"][: n - 20] *= np.eye(3)
    if len(arrays) == 3:
        for array in given.values():
            array[arrays[2] == 0] = np.nan
    return given


def in_memory(net, arrays, given=SHARED, **options):
    x, f, *rest = arrays
    return net.pde_objective(x, f, **given, sample_weight=rest[0] if rest else None, **options)


def blocks_of(arrays, length):
    return [tuple(array[i : i + length] for array in arrays) for i in range(0, len(arrays[0]), length)]


def everything(fun, theta, v):
    return bits((*fun(theta), fun.hessp(theta, v)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [FEW, MANY])
def test_any_lengths_have_the_bits_of_arrays(n, weighted, dtype):
    net, arrays = data_of(n, weighted, dtype)
    theta, v = net.params + 0.1, np.linspace(-1, 1, net.n_params)
    expected = everything(in_memory(net, arrays, l2=0.3), theta, v)
    for length, n_threads in ((7 if n == FEW else 900, 1), (9000, 3)):
        fun = net.pde_objective(blocks_of(arrays, length), **SHARED, l2=0.3, n_threads=n_threads)
        assert everything(fun, theta, v) == expected


def test_other_forms_and_free():
    net, arrays = data_of(FEW)
    free = np.arange(net.n_params) % 3 > 0
    theta = net.params[free]
    arrays = [array.astype("f4") for array in arrays]
    expected = in_memory(net, arrays, free=free)
    blocks = [[np.asfortranarray(a, ">f4") for a in block] for block in blocks_of(arrays, 50)]
    fun = net.pde_objective(lambda: iter(blocks), **SHARED, free=free)
    assert bits(fun(theta)) == bits(expected(theta))
    assert bits(fun.hess(theta)) == bits(expected.hess(theta))
    assert repr(fun) == repr(expected)
    of_0 = net.pde_objective([(x, 0, w) for x, _, w in blocks], **SHARED, free=free)
    assert of_0.value(theta) == in_memory(net, [arrays[0], 0, arrays[2]], free=free).value(theta)
    for how in (copy.deepcopy, lambda fun: pickle.loads(pickle.dumps(fun))):
        assert bits(how(net.pde_objective(blocks, **SHARED, free=free))(theta)) == bits(expected(theta))


NET, (X, F, W) = data_of(30)
REFUSED = {
    "once": (lambda: (iter([(X, F)]),), {}, TypeError, "blocks: expected an iterable that can be read again"),
    "a number": (lambda: (5,), {}, TypeError, "blocks: expected an iterable of (x, f) or (x, f, sample_weight)"),
    "one array": (lambda: ([X],), {}, TypeError, "net.pde_objective([(x, f)]) has one block, net.pde_objective(x, f)"),
    "f": (lambda: ([(X, F, W), (X, F[1:], W)],), {}, ValueError, "block 1: f: expected a number, shape (30,) or"),
    "not finite": (lambda: ([(X, F)],), {}, ValueError, "block 0: f: expected finite numbers, got nan in row "),
    "by output": (
        lambda: ([(X, F, W[:, None])],), {}, ValueError,
        "block 0: sample_weight: expected shape (30,) in pde_objective, got (30, 1)",
    ),
    "by sample": (
        lambda: ([(X, F, W)],), {"c": W}, TypeError,
        "c: expected the same for all samples beside blocks, which bring x and f alone, got an array of shape (30,)",
    ),
    "weights": (lambda: ([(X, F)],), {"sample_weight": W}, TypeError, "sample_weight: expected none beside blocks"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    arguments, options, kind, message = REFUSED[name]
    with pytest.raises(kind, match=re.escape(message)):
        NET.pde_objective(*arguments(), D=1.0, **options)


# Ranks ----------------------------------------------------------------------------------------------------------------

PROGRAM = """
import numpy as np
from mpi4py import MPI
from on_ranks import attempt, say, sha, split
from test_pde_blocks import SHARED, blocks_of, coefficients_of, data_of, in_memory

comm = MPI.COMM_WORLD
rank, odd = comm.rank, comm.rank == 1
rng = np.random.default_rng(0)


def everything(fun, theta):
    return sha(*fun(theta), fun.hessp(theta, theta))


for n in (300, 20_001):
    for weighted in (False, True):
        net, arrays = data_of(n, weighted)
        theta, of_rows = net.params + 0.1, coefficients_of(n, arrays)
        mixed = SHARED | {"c": of_rows["c"]}
        expected = [everything(in_memory(net, arrays, given, l2=0.1), theta) for given in (SHARED, of_rows, mixed)]
        even = [k * n // comm.size for k in range(comm.size + 1)]
        for ends in (split(n, comm.size, rng), [0] * comm.size + [n], even):
            rows = slice(ends[rank], ends[rank + 1])
            own = [array[rows] for array in arrays]
            of_own = {name: array[rows] for name, array in of_rows.items()}
            each = SHARED, of_own, mixed | {"c": of_own["c"]}
            funs = [in_memory(net, own, given, l2=0.1, comm=comm) for given in each]
            streamed = net.pde_objective(blocks_of(own, 997), **SHARED, l2=0.1, comm=comm)
            both = 0.5 * funs[1] + net.objective(arrays[0][:3] * 0, arrays[1][:3] * 0)
            say(rank, same=[everything(fun, theta) for fun in funs] == expected, repr=repr(both),
                streamed=everything(streamed, theta) == expected[0])

x, f = own[:2]
fun = funs[1]
same = sha(fun.hess(theta)) == sha(in_memory(net, arrays, of_rows, l2=0.1).hess(theta))
say(rank, same=same, streamed=True, repr=repr(both))
for given in (
    {"c": 2.0 if odd else 1.0},
    {"c": of_own["c"] if odd else 1.0},
    {"c": of_own["c"][1:] if odd else of_own["c"]},
    {"D": -np.eye(3) if odd else np.eye(3)},
):
    say(rank, refused=attempt(lambda: net.pde_objective(x, f, **given, sample_weight=own[2], comm=comm)))
say(rank, refused=attempt(
    lambda: net.objective(x, f, comm=comm) if odd else net.pde_objective(x, f, D=1.0, sample_weight=own[2], comm=comm)))
say(rank, refused=attempt(fun, theta[1:] if odd else 2 * theta))
if rank == 0:
    expected = everything(in_memory(net, arrays, of_rows, l2=0.1), 3 * theta)
    say(rank, served=everything(fun, 3 * theta) == expected)
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
        same = [line for line in lines if "same" in line]
        assert len(same) == 13
        assert all(line["same"] and line["streamed"] for line in same), same
        assert all("of a differential equation on 3 ranks" in line["repr"] for line in same)
        refused = [line["refused"] for line in lines if "refused" in line]
        for text, what in zip(
            refused,
            (
                "rank 1 has other values of c, unlike most ranks",
                "rank 1 has c = one for each sample, not the same for all samples",
                "c: expected shape (",
                "rank 1 has other values of D",
                "the call",
                "theta: expected shape",
            ),
            strict=True,
        ):
            assert what in text
            assert "Error: " in text
        assert ("rank 1 raised" in refused[2]) == (rank != 1)
        assert rank or lines[-1]["served"]
