"""An objective of many ranks has the bits of one process, however the rows are divided."""

import pytest
from on_ranks import said, support
from ranks import run_on_ranks
from suites import shortened

PROGRAM = """
import itertools, sys
import numpy as np
from mpi4py import MPI
from on_ranks import problem, say, sha, split
import backprop

comm = MPI.COMM_WORLD
n_splits, dtype, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
rng = np.random.default_rng(comm.size)
for n, (loss, weights) in itertools.product(
    (300, 20_000, 50_123), (("squared_error", 0), ("cross_entropy", 1), ("binary_cross_entropy", 2))
):
    net, x, y, weight, v = problem(n, loss, dtype, weights)
    plain = net.objective(x, y, sample_weight=weight, l2=0.01)
    expected = sha(*plain(net.params), plain.hessp(net.params, v))
    for k in range(n_splits):
        ends = split(n, comm.size, rng)
        rows = slice(ends[comm.rank], ends[comm.rank + 1])
        parts = x[rows], y[rows], *(() if weight is None else (weight[rows],))
        lengths = [int(length) for length in rng.integers(1, n // 3, 30)]

        def blocks():
            start = 0
            for length in itertools.cycle(lengths):
                if start >= len(parts[0]):
                    return
                yield tuple(part[start : start + length] for part in parts)
                start += length

        if kind == "blocks":
            fun = net.objective(blocks, l2=0.01, comm=comm)
        else:
            fun = net.objective(*parts[:2], sample_weight=None if weight is None else parts[2], l2=0.01, comm=comm)
        got = sha(*fun(net.params), fun.hessp(net.params, v))
        if got != expected:
            say(comm.rank, wrong=[n, loss, ends])
        if k == 0 and n == 20_000 and sha(fun.hess(net.params)) != sha(plain.hess(net.params)):
            say(comm.rank, wrong=["hess", loss, ends])
        again = sha(*fun(net.params), fun.hessp(net.params, v), net.params)
    say(comm.rank, expected=expected, n=n, loss=loss)
"""


@pytest.mark.parametrize("kind", ["arrays", "blocks"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n_ranks", shortened([1, 2, 3, 4], [3], "the same moves of rows"))
def test_any_division_of_the_rows_has_the_bits_of_one_process(tmp_path, n_ranks, dtype, kind, request):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    n_splits = 20 if request.config.option.all else 3
    done = run_on_ranks(n_ranks, program, n_splits, dtype, kind, env=support())
    assert done.returncode == 0, done.stderr
    lines = said(done)
    assert [len(lines[rank]) for rank in range(n_ranks)] == [9] * n_ranks, done.stdout
    assert all("wrong" not in line for each in lines.values() for line in each), done.stdout


WIDE = """
import numpy as np
from mpi4py import MPI
from on_ranks import say, sha
from backprop import Network

comm = MPI.COMM_WORLD
rng = np.random.default_rng(0)
net = Network([9, 300, 9], rng=0)  # more parameters than the tops of the first message
x = rng.standard_normal((20_000, 9)) * np.repeat([1, 1e-30, 1e20, 1], 5_000)[:, None]
expected = net.objective(x, x)(net.params)
rows = slice(comm.rank * 10_000, (comm.rank + 1) * 10_000)
say(comm.rank, same=sha(*net.objective(x[rows], x[rows], comm=comm)(net.params)) == sha(*expected))
"""


def test_sums_of_very_different_sizes_in_a_large_network(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(WIDE)
    done = run_on_ranks(2, program, env=support())
    assert done.returncode == 0, done.stderr
    assert said(done) == {rank: [{"rank": rank, "same": True}] for rank in range(2)}


NOT_FINITE = """
import sys
import numpy as np
from mpi4py import MPI
from on_ranks import problem, say, sha

comm = MPI.COMM_WORLD
net, x, y, _, v = problem(30_000)
x[25_000, 2], x[11, 0] = np.nan, np.inf
plain = net.objective(x, y)
expected = plain(net.params)
rows = slice(*((0, 9_000), (9_000, 9_000), (9_000, 30_000))[comm.rank])
fun = net.objective(x[rows], y[rows], comm=comm)
loss, grad = fun(net.params)
say(comm.rank, loss=repr(loss), same=sha(loss, grad) == sha(*expected), some=bool(np.isnan(grad).any()))
huge = net.params * 1e200
say(comm.rank, same=sha(*fun(huge)) == sha(*plain(huge)), loss=repr(fun.value(huge)))
"""


def test_nan_and_inf_on_one_rank_are_those_of_one_process(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(NOT_FINITE)
    done = run_on_ranks(3, program, env=support())
    assert done.returncode == 0, done.stderr
    for lines in said(done).values():
        assert lines[0] == {"rank": lines[0]["rank"], "loss": "nan", "same": True, "some": True}
        assert lines[1]["same"], lines


FIT = """
import numpy as np
from mpi4py import MPI
from scipy.optimize import minimize
from on_ranks import problem, say, sha

comm = MPI.COMM_WORLD
net, x, y, weight, _ = problem(3_000, weights=1)
free = np.arange(net.n_params) % 7 != 0
ends = [0, 100, 2_900, 3_000]
rows = slice(ends[comm.rank], ends[comm.rank + 1])
for options in ({"method": "L-BFGS-B"}, {"method": "trust-ncg"}):
    results = []
    for fun in (
        net.objective(x, y, sample_weight=weight, l2=1e-3, free=free),
        net.objective(x[rows], y[rows], sample_weight=weight[rows], l2=1e-3, free=free, comm=comm),
    ):
        result = minimize(fun, net.params[free], jac=True, hessp=fun.hessp if "trust-ncg" in options.values() else None,
                          options={"maxiter": 15}, **options)
        results.append(sha(result.x, result.fun, result.nfev))
    say(comm.rank, results=results, fun=repr(fun))
"""


def test_fits_take_the_same_way(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(FIT)
    done = run_on_ranks(3, program, env=support() | {"OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    lines = [line for each in said(done).values() for line in each]
    assert len(lines) == 6
    assert len({line["results"][0] for line in lines}) == 2
    assert all(line["results"][0] == line["results"][1] for line in lines)
    assert all(
        "3,000 samples on 3 ranks, weighted, l2=0.001, 95 of 111 parameters free" in line["fun"] for line in lines
    )
