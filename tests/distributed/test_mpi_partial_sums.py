"""Parts of sums are added across ranks, to the bits of one call."""

import pytest
from on_ranks import said, support
from ranks import run_on_ranks
from suites import shortened

PROGRAM = """
import numpy as np
from mpi4py import MPI
from on_ranks import attempt, problem, say, sha
import backprop

comm = MPI.COMM_WORLD
rank, odd = comm.rank, comm.rank == 1
for n, dtype, weights in ((300, "float64", 1), (40_000, "float32", 0), (40_000, "float64", 2)):
    net, x, y, weight, v = problem(n, dtype=dtype, weights=weights)
    for call in ("value_and_grad", "hvp", "vjp", "loss"):
        options = {"hvp": {"v": v}, "vjp": {}}.get(call, {})
        weighted = None if call == "vjp" else weight
        blocks = backprop.row_blocks(net, n, comm.size, call=call, sample_weight=weighted)
        rows = blocks[rank]
        totals = None if weighted is None else backprop.weight_totals(weighted, blocks)
        its_weight = None if weighted is None else weighted[rows]
        if call == "vjp":
            part = net.partial_sums(x[rows], call=call, first_row=rows.start, n_rows=n, cotangent=y[rows])
            expected = net.vjp(x, y)
        else:
            part = net.partial_sums(x[rows], y[rows], call=call, first_row=rows.start, n_rows=n, totals=totals,
                                    sample_weight=its_weight, **options)
            expected = getattr(net, call)(x, y, **options, sample_weight=weight)
        before = part.to_bytes()
        whole = part.allreduce(comm)
        result = whole.result()
        parts = lambda r: r if isinstance(r, tuple) else (r,)
        say(rank, case=[n, dtype, call], same=sha(*parts(result)) == sha(*parts(expected)),
            unchanged=part.to_bytes() == before, rows=str(whole.rows))

def part(params=None, first=None, **keywords):
    first = rows.start if first is None else first
    return net.partial_sums(x[rows], y[rows], first_row=first, n_rows=n, params=params, **keywords)

blocks = backprop.row_blocks(net, n, comm.size)
rows = blocks[rank]
good = part()
say(rank, params=attempt(part(net.params * (2 if odd else 1)).allreduce, comm))
say(rank, call=attempt((part(call="loss") if odd else good).allreduce, comm))
say(rank, another=attempt(lambda: good.allreduce(comm) if odd else net.objective(x, y, comm=comm)))
say(rank, comm=attempt(good.allreduce, 3))
twice = (good if rank else good + part(first=0)).allreduce(comm)
say(rank, twice=attempt(twice.result))
say(rank, last=attempt(good.allreduce(comm).result))
"""


@pytest.mark.parametrize("n_ranks", shortened([1, 2, 3], [3], "the same sums"))
def test_parts_of_all_ranks(tmp_path, n_ranks):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run_on_ranks(n_ranks, program, env=support())
    assert done.returncode == 0, done.stdout + done.stderr
    same = "RuntimeError: all ranks must make the same calls with the same arguments: rank 1"
    unlike = "unlike most ranks" if n_ranks == 3 else "unlike rank 0"
    for lines in said(done).values():
        results, errors = lines[:12], {name: value for line in lines[12:] for name, value in line.items()}
        assert all(line["same"] and line["unchanged"] for line in results), done.stdout
        if n_ranks > 1:
            assert errors["params"] == f"{same} has other values of params, {unlike}"
            assert errors["call"] == f"{same} made the call loss, not value_and_grad, {unlike}"
            assert errors["another"] == f"{same} made the call value_and_grad, not objective, {unlike}"
        assert errors["comm"].startswith("TypeError: comm: expected an mpi4py communicator")
        assert errors["twice"].startswith("ValueError: result: expected parts with each of the rows 0:40000 once, got")
        assert errors["last"] == "fine"
