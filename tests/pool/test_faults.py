"""Faults: allocations and threads that fail, forks, crowds of callers and subinterpreters.

Each trial runs in a new process, with a watchdog that prints the stacks of its threads if it hangs.
"""

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig

import pytest
from call_peers import CALLS, FIRST_PART
from places import ROOT, SUPPORT
from slowness import SLOWNESS
from suites import shortened
from systems import compile_c, needs_fork, needs_proc, needs_signals

STRESS = ROOT / "tools" / "pool" / "stress.py"


def run(*arguments, status=0, **environment):
    inherited = {k: v for k, v in os.environ.items() if k not in {"BACKPROP_NUM_THREADS", "OMP_NUM_THREADS"}}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)],
        capture_output=True, text=True, timeout=300 * SLOWNESS, check=False, env=inherited | environment,
    )  # fmt: skip
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-6000:]
    return done


# Memory and threads ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("needs glibc, whose allocator can be reached by names of its own")
    if "LD_PRELOAD" in os.environ:
        pytest.skip("another library stands in front of the allocator")
    return str(compile_c("fault_injection", tmp_path_factory.mktemp("faults"), "-ldl", "-lgcc_s"))


def injected(faults, *arguments):
    """The trials of fault_injection.py by name; nothing may have been wrong, and nothing printed as unraisable."""
    done = run(SUPPORT / "fault_injection.py", *arguments, LD_PRELOAD=faults)
    assert not done.stderr, done.stderr[-3000:]
    trials = {trial.pop("name"): trial for trial in map(json.loads, done.stdout.splitlines())}
    wrong = {name: trial["wrong"][:5] for name, trial in trials.items() if trial["wrong"]}
    assert not wrong, wrong
    return trials


@pytest.mark.parametrize("n_threads", shortened([1, 2], [1], "the same allocations on more samples"))
def test_each_allocation_fails_once_and_for_ever(faults, n_threads):
    trials = injected(faults, "allocations", n_threads)
    assert {*CALLS, *FIRST_PART} <= trials.keys()
    for name, trial in trials.items():
        once, for_ever = trial["failures"]
        assert once >= 3 or name == "Ensemble", name  # Python code allocates its memory through NumPy
        assert for_ever >= min(once, 1), name


def test_what_a_call_leaves_behind_is_seen(faults):
    """Calls that do leave something behind are found by the same trials."""
    done = run(SUPPORT / "fault_injection.py", "leaks", LD_PRELOAD=faults)
    wrong = {trial["name"]: " ".join(trial["wrong"]) for trial in map(json.loads, done.stdout.splitlines())}
    assert wrong.pop("nothing") == ""
    assert len(wrong) == 4
    for name, what in wrong.items():
        if "array" in name:
            assert "leak: 1 blocks left" in what, name
        elif not sysconfig.get_config_var("Py_GIL_DISABLED"):  # its allocator cannot count behind another one
            assert "objects left" in what, name


@pytest.mark.alone
def test_each_thread_that_cannot_be_made(faults):
    trials = injected(faults, "threads")
    for name, trial in trials.items():
        error, k = re.fullmatch(r"(\w+), k = (\d)(?: and on)?", name).groups()
        k = int(k)
        failures = 0 if k > 3 else 2 if error == "EINVAL" and name.endswith("on") else 1
        made = 3 if k > 3 or (error == "EINVAL" and failures == 1) else k - 1
        assert (trial["failures"], trial["workers"], trial["later"]) == (failures, made, 3), name


# Processes and threads ------------------------------------------------------------------------------------------------


more = pytest.mark.long("more of the same trials; test_pool.py has forks and crowds too")


@pytest.mark.alone
@needs_signals
@pytest.mark.parametrize(
    ("trial", "n"),
    [
        ("interrupts", 5),
        ("exit", 3),
        pytest.param("forks", 20, marks=[needs_fork, more]),
        pytest.param("crowd", 20, marks=[needs_proc, more]),
        pytest.param("interrupts", 10, marks=more),
    ],
)
def test_short_forms_of_the_stress_test(trial, n):
    """Forks before, beside, after and in children; 64 callers while set_num_threads changes; Ctrl-C; exits."""
    if not STRESS.exists():
        pytest.skip("tools/pool/stress.py is not there")
    out = run(STRESS, trial, "--n", n).stdout
    n_trials = 64 * n if trial == "crowd" else n
    assert f"{trial}: {n_trials} of {n_trials}" in out
    if trial == "interrupts":
        assert f"raised, {n} with parameters untouched and the next call right" in out
        # Other programs may delay these calls, so their own CPU time is judged; see tools/pool/stress.py.
        assert float(re.search(r"own time longest ([\d.]+) s", out)[1]) <= 0.2 * SLOWNESS


LEAVE = """
import ctypes, faulthandler, sys, threading, time
import numpy as np
from backprop import Activation, Network

libc, slow = ctypes.CDLL(None), ctypes.CDLL({library!r})
for name in ("slow_value", "slow_one"):
    getattr(slow, name).restype, getattr(slow, name).argtypes = ctypes.c_double, [ctypes.c_double]
net = Network([8, 64, 64, 1], activations=Activation("slow", slow.slow_value, slow.slow_one), rng=0)
x, y = np.ones((400_000, 8)), np.ones((400_000, 1))
libc.on_exit(libc.sleep, None)  # sleep(the exit status) when the interpreter has gone
slow.slow_next({n_threads})
threading.Thread(target=net.value_and_grad, args=(x, y), kwargs=dict(n_threads={n_threads}), daemon=True).start()
while slow.slow_left() > 0:
    time.sleep(0.001)
sys.exit(2)
"""


@pytest.mark.alone
@pytest.mark.parametrize("n_threads", shortened([1, 2], [2], "the calling thread looks for signals in both"))
def test_a_call_that_looks_for_signals_when_the_interpreter_has_gone(n_threads, tmp_path):
    """A daemon thread is inside a call all through the interpreter's end, and the process lives on for 2 s."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("needs on_exit of glibc")
    run("-c", LEAVE.format(library=str(compile_c("slow_activation", tmp_path)), n_threads=n_threads), status=2)


SUBINTERPRETER = """
import {module} as interpreters
code = '''
try:
    import backprop
except ImportError as error:
    assert "expected to be imported by the main interpreter" in str(error), error
else:
    raise AssertionError("a subinterpreter has imported backprop")
'''
if {first}:
    import backprop
problem = interpreters.run_string(interpreters.create({kind}), code)
assert problem is None, problem
from backprop import Network, _core  # the main one is not locked out
assert Network([2, 3, 1], rng=0).forward([[1.0, 2.0]]).shape == (1, 1)
"""


@pytest.mark.parametrize("first", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("isolated", [False, True], ids=["legacy", "isolated"])
def test_subinterpreters_are_refused(isolated, first):
    if importlib.util.find_spec("_interpreters"):
        module, kind = "_interpreters", repr("isolated" if isolated else "legacy")
    elif importlib.util.find_spec("_xxsubinterpreters"):
        module, kind = "_xxsubinterpreters", f"isolated={isolated}"
    else:
        pytest.skip("this Python makes no subinterpreters")
    run("-c", SUBINTERPRETER.format(module=module, kind=kind, first=first))
