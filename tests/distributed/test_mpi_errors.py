"""If one rank fails, or if arguments differ, every rank raises an error that names the rank; then all may go on."""

import re

import pytest
from on_ranks import said, support
from ranks import run_on_ranks

PROGRAM = """
import copy, os, pickle, signal
import numpy as np
from mpi4py import MPI
from on_ranks import attempt, problem, say, sha
from backprop import Activation, Network

comm = MPI.COMM_WORLD
rank, odd = comm.rank, comm.rank == 1
net, x, y, weight, v = problem(9_000, weights=2)
rows = slice(*((0, 4_000), (4_000, 4_000), (4_000, 9_000))[rank])
x, y, weight = x[rows], y[rows], weight[rows]
theta = net.params.copy()


def objective(net=net, x=x, y=y, **keywords):
    return net.objective(x, y, **{"comm": comm, **keywords})


def other(usual, unusual):
    return unusual if odd else usual


def case(name, function, *arguments, **keywords):
    say(rank, case=name, error=attempt(function, *arguments, **keywords))


fun = objective()
other_theta = theta.copy()
other_theta[5] = np.nextafter(other_theta[5], 1)
twice_theta = -theta
signs = theta * other(1, -1)
free = np.arange(net.n_params) > 10

# Evaluations
case("theta", fun, other(theta, other_theta))
case("theta of every rank", fun, theta + rank)
case("signs of theta", fun, signs)
case("v", fun.hessp, theta, other(v, -v))
case("call", lambda: fun.hessp(theta, v) if odd else fun(twice_theta))
case("theta refused", fun, other(theta * 2, theta[1:]))
case("theta refused by all", fun, theta[1:])
case("v refused", fun.hessp, theta, other(v, v[1:]))
case("theta of another kind", fun, other(theta * 3, "theta"))
big, large_theta = Network([9, 300, 9], rng=0), None
fun_big = objective(big, np.ones((len(x), 9)), np.ones((len(x), 9)))
case("objective", lambda: fun(theta * 4) if odd else fun_big(big.params))
case("theta of many parameters", fun_big, big.params * other(1, 2))
frozen = objective(free=free)
net.params[0] += odd
case("frozen parameters that change", frozen, theta[free])
net.params[0] -= odd

# Failures while a rank computes
class Failure(Exception):
    pass


def fail(error):
    def g(a):
        if odd and armed:
            if error is KeyboardInterrupt:
                os.kill(os.getpid(), signal.SIGINT)
            else:
                raise error("of the activation")
        return a
    return g


for error in (Failure, MemoryError, KeyboardInterrupt):
    armed = False
    own = Network([5, 4, 3], activations=Activation("own", fail(error), np.ones_like), rng=0)
    _, many_x, many_y, _, _ = problem(40_000)
    few = [slice(0, 100), slice(100, 39_000), slice(39_000, 40_000)][rank]
    fun_own = objective(own, many_x[few], many_y[few])
    armed = True
    case(f"{error.__name__} while it computes", fun_own, own.params)
    armed = False
    case(f"after {error.__name__}", fun_own, own.params)

# Making an objective
case("l2", objective, l2=other(0.0, 0.5))
case("l2 refused", objective, l2=other(0.0, -1))
case("free", objective, free=other(free, ~free))
case("free on one rank", objective, free=other(None, free))
net.params[0] += odd
case("frozen parameters", objective, free=free)
net.params[0] -= odd
case("activation", objective, Network([5, 12, 3], activations=other("tanh", "relu"), rng=1))
case("sizes", objective, Network([5, other(12, 13), 3], activations="tanh", rng=1))
case("dtype", objective, Network([5, 12, 3], activations="tanh", rng=1, dtype=other("float64", "float32")))
case("x refused", objective, x=other(x, np.ones((4, 7))))
case("sample_weight refused", objective, x=other(x, np.ones((2, 5))), y=other(y, np.ones((2, 3))),
     sample_weight=other(weight[:, 0], [1.0, np.nan]))
case("weights on one rank", objective, x=other(x, np.ones((2, 5))), y=other(y, np.ones((2, 3))),
     sample_weight=other(None, [1.0, 2.0]))
classes = Network([5, 12, 3], loss="cross_entropy", rng=1)
labels = np.zeros(len(x), int)
case("label refused", objective, classes, x=other(x, np.ones((1, 5))), y=other(labels, [3]))
case("labels and probabilities", objective, classes, x=other(x, np.ones((1, 5))), y=other(labels, [[0.5, 0.25, 0.25]]))
case("no rows", objective, x=np.empty((0, 5)), y=np.empty((0, 3)))
case("no weight", objective, sample_weight=np.zeros(len(x)))
case("no weight on one rank", objective, x=other(x, np.ones((2, 5))), y=other(y, np.ones((2, 3))),
     sample_weight=other(weight[:, 0], [0.0, 0.0]))
case("n_threads refused", objective, n_threads=other(1, 0))


def broken_blocks():
    yield x, y
    if odd:
        raise OSError("the file is gone")


case("a block cannot be read", net.objective, broken_blocks, comm=comm)
case("weights beside blocks", net.objective, [(x, y)], sample_weight=other(None, weight), comm=comm)
case("serve on rank 0", lambda: fun.serve() if rank == 0 else None)
case("stop on rank 1", lambda: fun.stop() if rank == 1 else None)
case("pickle", pickle.dumps, fun)
case("copy", copy.copy, fun)

_, x, y, _, _ = problem(9_000)
expected = net.objective(x, y)(theta)
say(rank, case="in the end", error="fine" if sha(*fun(theta)) == sha(*expected) else "other bits")
"""

SAME = "all ranks must make the same calls with the same arguments: "
ONE = "unlike most ranks"
NAMES = {  # the error on rank 1, which differs, and on the others
    "theta": f"RuntimeError: {SAME}rank 1 has other values of theta, {ONE}",
    "signs of theta": f"RuntimeError: {SAME}rank 1 has other values of theta, {ONE}",
    "theta of every rank": f"RuntimeError: {SAME}ranks 1 and 2 have other values of theta, unlike rank 0",
    "v": f"RuntimeError: {SAME}rank 1 has other values of v, {ONE}",
    "call": f"RuntimeError: {SAME}rank 1 made the call hvp, not value_and_grad, {ONE}",
    "theta refused": (
        "ValueError: theta: expected shape (111,), got (110,)",
        "ValueError: rank 1 raised ValueError: theta: expected shape (111,), got (110,)",
    ),
    "theta refused by all": "ValueError: theta: expected shape (111,), got (110,)",
    "v refused": (
        "ValueError: v: expected shape (111,), got (110,)",
        "ValueError: rank 1 raised ValueError: v: expected shape (111,), got (110,)",
    ),
    "theta of another kind": (
        "TypeError: theta: .*",
        "ValueError: rank 1 raised TypeError: theta: .*",
    ),
    "objective": f"RuntimeError: {SAME}rank 1 has the number of the objective = 1, not 2, {ONE}",
    "theta of many parameters": f"RuntimeError: {SAME}rank 1 has other values of theta, {ONE}",
    "frozen parameters that change": f"RuntimeError: {SAME}rank 1 has other values of theta, {ONE}",
    "Failure while it computes": (
        "Failure: of the activation",
        "RuntimeError: rank 1 raised Failure: of the activation",
    ),
    "MemoryError while it computes": (
        "MemoryError: of the activation",
        "RuntimeError: rank 1 raised MemoryError: of the activation",
    ),
    "KeyboardInterrupt while it computes": ("KeyboardInterrupt: ", "RuntimeError: rank 1 raised KeyboardInterrupt"),
    "after Failure": "fine",
    "after MemoryError": "fine",
    "after KeyboardInterrupt": "fine",
    "l2": f"RuntimeError: {SAME}rank 1 has l2 = 0.5, not 0.0, {ONE}",
    "l2 refused": ("ValueError: l2: .*", "ValueError: rank 1 raised ValueError: l2: .*"),
    "free": f"RuntimeError: {SAME}rank 1 has other values of free, {ONE}",
    "free on one rank": f"RuntimeError: {SAME}rank 1 has other values of free, {ONE}",
    "frozen parameters": f"RuntimeError: {SAME}rank 1 has other values of the frozen parameters, {ONE}",
    "activation": f"RuntimeError: {SAME}rank 1 has the network = sizes=.*'relu'.*, not .*'tanh'.*, {ONE}",
    "sizes": f"RuntimeError: {SAME}rank 1 has the network = sizes=[5, 13, 3].*, not sizes=[5, 12, 3].*, {ONE}",
    "dtype": f"RuntimeError: {SAME}rank 1 has the network = .*'float32', not .*'float64', {ONE}",
    "x refused": (
        "ValueError: x: expected 5 columns, the size of layer 0, got 7",
        "ValueError: rank 1 raised ValueError: x: expected 5 columns, the size of layer 0, got 7",
    ),
    "sample_weight refused": (
        "ValueError: sample_weight: expected finite weights >= 0, got nan in row 1",
        "ValueError: rank 1 raised ValueError: sample_weight: expected finite weights >= 0, got nan in row 1",
    ),
    "weights on one rank": (
        "ValueError: sample_weight: expected the same form on all ranks with rows, got no weights on rank 0, and "
        "weights by sample on rank 1"
    ),
    "label refused": (
        "ValueError: y: expected labels from 0 to 2, got 3 in row 0",
        "ValueError: rank 1 raised ValueError: y: expected labels from 0 to 2, got 3 in row 0",
    ),
    "labels and probabilities": (
        "ValueError: y: expected the same form on all ranks with rows, got labels on rank 0, and probabilities "
        "on rank 1"
    ),
    "no rows": (
        "ValueError: x: expected at least one sample on some rank, got 0: the mean of no samples is not defined"
    ),
    "no weight": (
        "ValueError: sample_weight: expected at least one weight > 0, got none: all weights are 0 on all ranks"
    ),
    "no weight on one rank": "fine",
    "n_threads refused": ("ValueError: n_threads: .*", "ValueError: rank 1 raised ValueError: n_threads: .*"),
    "a block cannot be read": (
        "OSError: the file is gone",
        "RuntimeError: rank 1 raised OSError: the file is gone",
    ),
    "weights beside blocks": (
        "TypeError: sample_weight: expected none beside blocks, .*",
        "ValueError: rank 1 raised TypeError: sample_weight: expected none beside blocks, .*",
    ),
    "serve on rank 0": (
        "fine",
        "RuntimeError: serve: expected a rank above 0, got rank 0, .*",
        "fine",
    ),
    "stop on rank 1": (
        "RuntimeError: stop: expected rank 0, which drives the others, got rank 1, .*",
        "fine",
    ),
    "pickle": "TypeError: Objective: expected an objective without comm to pickle or copy, got one with a .*",
    "copy": "TypeError: Objective: expected an objective without comm to pickle or copy, got one with a .*",
    "in the end": "fine",
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """For each case, the errors of ranks 0, 1 and 2."""
    program = tmp_path_factory.mktemp("errors") / "program.py"
    program.write_text(PROGRAM)
    done = run_on_ranks(3, program, env=support())
    assert done.returncode == 0, done.stdout + done.stderr
    lines = said(done)
    assert sorted(lines) == [0, 1, 2]
    cases = {line["case"]: [line["error"]] for line in lines[0]}
    for rank in (1, 2):
        for line in lines[rank]:
            cases[line["case"]].append(line["error"])
    return cases


def test_every_case_is_looked_at(errors):
    assert sorted(errors) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_rank_raises(errors, name):
    expected = NAMES[name] if isinstance(NAMES[name], tuple) else (NAMES[name],) * 2
    own, first, last = expected if len(expected) == 3 else (expected[0], expected[1], expected[1])
    for text, error in zip((first, own, last), errors[name], strict=True):
        pattern = re.escape(text).replace(re.escape(".*"), ".*")
        assert re.fullmatch(pattern, error, re.DOTALL), f"{error!r} instead of {pattern!r}"


SIMD = """
import os
from mpi4py import MPI

comm = MPI.COMM_WORLD
if comm.rank == 2:
    os.environ["BACKPROP_SIMD"] = "v2"
from on_ranks import attempt, problem, say

net, x, y, *_ = problem(10)
say(comm.rank, error=attempt(net.objective, x, y, comm=comm))
"""


def test_a_cpu_without_fma_is_refused_among_others(tmp_path):
    from backprop import _core

    if "v3" not in _core.supported_simd():
        pytest.skip("needs a CPU with AVX2")
    program = tmp_path / "program.py"
    program.write_text(SIMD)
    done = run_on_ranks(3, program, env=support() | {"BACKPROP_SIMD": "v3"})
    assert done.returncode == 0, done.stderr
    text = (
        f"RuntimeError: {SAME}rank 2 has the arithmetic = that of a CPU without FMA, not that of a CPU with FMA, {ONE}"
    )
    assert [lines[0]["error"] for lines in said(done).values()] == [text] * 3
