"""Second derivatives by the inputs, bit for bit: over threads, batches, layouts of memory and instruction sets."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from input_jets import CALLS, draw, run
from problems import LAYOUTS, same_bits, with_layout

from backprop import _core

pytestmark = pytest.mark.filterwarnings("ignore:.*linear in pieces:RuntimeWarning")  # of relu and its like

DTYPES = ["float32", "float64"]
BY_ROW = [call for call, row in CALLS.items() if any(row.by_row)]
N_NETWORKS = 12  # of which each has other directions, cotangents or coefficients


def assert_same(results, expected, what=None):
    for result, right in zip(results, expected, strict=True):
        assert same_bits(result, right), what


def rows_of(call, results):
    """The results that have one row a sample."""
    return [result for result, by_row in zip(results, CALLS[call].by_row, strict=True) if by_row]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("call", CALLS)
def test_threads_change_no_bit(call, dtype):
    """Of small networks with many samples, and of wide layers."""
    for number in range(N_NETWORKS):
        shape = {"sizes": [4, 150, 140, 1], "n_samples": 70} if number % 4 == 3 else {"n_samples": 1500}
        p = draw(600 + number, call, dtype, **shape)
        expected = run(call, p, n_threads=1)
        for n_threads in (2, 3, 8):
            assert_same(run(call, p, n_threads=n_threads), expected, (number, n_threads, p.net))
        assert_same(run(call, p), expected, (number, p.net))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("call", BY_ROW)
def test_a_row_has_its_bits_in_every_batch(call, dtype):
    """Alone, among few, at another place, in reverse order, and twice."""
    for number in range(N_NETWORKS):
        p = draw(700 + number, call, dtype, n_samples=150)
        whole = rows_of(call, run(call, p))
        batches = [slice(0, 1), slice(77, 78), slice(149, 150), slice(3, 20), slice(50, 150), slice(None, None, -1)]
        for rows in [*batches, slice(1, None, 7), np.array([5, 149, 5, 64, 0])]:
            part = rows_of(call, run(call, p.rows(rows)))
            assert_same(part, [result[rows] for result in whole], (number, rows, p.net))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", CALLS)
def test_layouts_change_no_bit(call, layout):
    for number in range(N_NETWORKS):
        p = draw(800 + number, call, n_samples=33)
        names = ("directions", "multipliers", "f", "c", "b", "D", "weight")
        changed = {name: with_layout(getattr(p, name), layout) for name in names if np.ndim(getattr(p, name))}
        changed["cotangents"] = [c if c is None else with_layout(c, layout) for c in p.cotangents]
        other = replace(p, problem=replace(p.problem, x=with_layout(p.x, layout)), **changed)
        assert_same(run(call, other), run(call, p), (number, p.net))


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_are_read_and_never_written(dtype):
    for call in CALLS:
        p = draw(900, call, dtype, n_samples=40)
        arrays = [p.x, p.net.params, p.multipliers, p.f, p.c, p.b, p.D, p.v, *p.cotangents, p.directions, p.weight]
        before = [None if array is None else array.copy() for array in arrays]
        results = run(call, p)
        for array, copy in zip(arrays, before, strict=True):
            assert array is None or same_bits(array, copy)
            assert array is None or not any(np.shares_memory(array, result) for result in results)


@pytest.mark.parametrize("call", ["input_hessian", "laplacian"])
def test_out_is_the_result_and_takes_no_argument_into_it(call):
    p = draw(910, call, n_samples=12)
    (expected,) = run(call, p)
    out = np.full_like(expected, np.nan)
    assert run(call, p, out=out)[0] is out
    assert same_bits(out, expected)
    memory = np.zeros(max(out.size, p.x.size))
    p.problem.x = memory[: p.x.size].reshape(p.x.shape)
    with pytest.raises(ValueError, match=r"^out: expected memory of its own"):
        run(call, p, out=memory[: out.size].reshape(out.shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("call", BY_ROW)
def test_empty_batches(call, dtype):
    for number in range(N_NETWORKS):
        p = draw(920 + number, call, dtype, n_samples=3)
        empty = run(call, p.rows(slice(0)))
        for result, full, by_row in zip(empty, run(call, p), CALLS[call].by_row, strict=True):
            assert same_bits(result, full[:0] if by_row else np.zeros_like(full))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mean_over_no_samples_is_refused(dtype):
    p = draw(930, "pde_objective", dtype, n_samples=3).rows(slice(0))
    with pytest.raises(ValueError, match=r"^x: expected at least one sample, got 0"):
        run("pde_objective", p)


PROGRAM = "import json, input_jets; print(json.dumps(input_jets.digests()))"


def test_instruction_sets_with_fma_change_no_bit():
    found = []
    for simd in sorted(set(_core.supported_simd()) - {"v2"}):  # which has no FMA
        environment = os.environ | {"BACKPROP_SIMD": simd, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if "was built without" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert all(sums == found[0] for sums in found)
