"""`Plan.partial` and `Plan.finish` with arguments that the Python layer never gives, and the bits that they leave.

What once crashed runs in a new process, so that a crash is one failure here.
"""

import subprocess
import sys

import numpy as np
import pytest
from partial_cases import case_of

from backprop import _core
from backprop.api.targets import Weights
from backprop.distributed import state

START = """
import numpy as np
from backprop import Network, _core
from backprop.api.targets import Weights
from backprop.distributed.state import State, n_sums

n = 20_000
rng = np.random.default_rng(0)
net = Network([3, 5, 2], rng=0)
x, y, w = rng.normal(size=(n, 3)), rng.normal(size=(n, 2)), rng.uniform(size=n)

def partial(name, x, y, weights, n_kept_in_all):
    call = _core.CALLS[name]
    sums = State.zero(n_sums(net._plan, call))
    net._plan.partial(call, net.params, x, y, weights, 2, *sums, n_kept_in_all)
    return sums
"""

CRASHED = {
    "no rows, whatever the weights say, and no array for sums": (
        "sums = partial('loss', x[:0], y[:0], Weights(w[:0], 1.0, 1.0, 5), n)\nassert (sums.top == _core.NO_TOP).all()",
        "",
    ),
    "weights that are too short": ("partial('loss', x, y, (w, 1.0), n)", "ValueError: need more than 2 values"),
    "no rows in all": ("partial('loss', x, y, None, 0)", "ValueError: n_kept_in_all: expected more than a unit"),
    "fewer than no rows in all": (
        "partial('loss', x, y, None, -5)",
        "ValueError: n_kept_in_all: expected more than a unit",
    ),
    "a call with a row per sample": (
        "partial('per_sample_gradient_norms', x, y, None, n)",
        "ValueError: call: expected one whose results are sums",
    ),
}


@pytest.mark.parametrize("name", CRASHED)
def test_what_no_caller_gives_crashes_nothing(name):
    program, error = CRASHED[name]
    done = subprocess.run([sys.executable, "-c", START + program], capture_output=True, text=True, check=False)
    assert done.returncode == (1 if error else 0), done.stderr
    assert error in done.stderr


def test_no_rows_are_no_unit():
    case = case_of("loss", 4)
    assert case.net._plan.unit_rows(_core.CALLS["loss"], 0) == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("call", ["hessian", "normal_equations"])
def test_the_bits_of_parts_of_symmetric_matrices_are_those_of_the_rows_alone(call, dtype):
    """Tiles leave half of the matrix as it is: what was in memory before must not get into a part."""
    case = case_of(call, 66_000, dtype=dtype)
    n_kept, plan = case.n, case.net._plan
    unit = plan.unit_rows(_core.CALLS[call], n_kept)
    found = set()
    for n_threads in (1, 2, 1, 3):
        before = [np.full(plan.result_shape(_core.CALLS[call], 0), 1.5 + n_threads, dtype) for _ in range(40)]
        del before  # its memory is taken again
        sums = state.state_of_rows(
            plan, _core.CALLS[call], case.net.params, case.x[:unit], case.y[:unit], None, n_threads, n_kept
        )
        found.add(sums.top.tobytes() + sums.limbs.tobytes())
    assert len(found) == 1


def test_a_part_without_kept_rows_overwrites_what_was_there():
    case = case_of("value_and_grad", 20_000)
    call, plan = _core.CALLS["value_and_grad"], case.net._plan
    sums = state.State.zero(state.n_sums(plan, call))
    sums.top[...], sums.limbs[...] = 3, 7
    rows = slice(0, 50)
    weights = Weights(np.zeros(50), 1.0, 1.0, 0)
    plan.partial(call, case.net.params, case.x[rows], case.y[rows], weights, 1, *sums, case.n)
    assert (sums.top == _core.NO_TOP).all()
    assert not sums.limbs.any()


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_a_large_network_all_go_where_they_belong(dtype, n_threads):
    """They are deposited, copied and divided in pieces."""
    case = case_of("value_and_grad", 300, dtype=dtype, sizes=(300, 250, 2))
    call, plan, n_kept = _core.CALLS["value_and_grad"], case.net._plan, 20_000
    assert case.net.n_params > 65536
    params = case.net.params
    sums = state.state_of_rows(plan, call, params, case.x, case.y, None, n_threads, n_kept)
    loss, grad = state.finish(plan, call, sums, n_kept, None, False, params.dtype)
    expected_loss, expected = case.plain()
    assert loss * n_kept == pytest.approx(expected_loss * case.n, rel=1e-12)
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(grad * n_kept, expected * case.n, rtol=tolerance, atol=tolerance * abs(expected).max())
