"""Programs that compute one derivative, each in a new process."""

import textwrap

from places import SUPPORT
from slowness import SLOWNESS
from watched import run_watched

SETUP = """
import os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, SUPPORT)
import numpy as np
from call_peers import CALLS, arrays, random_data

call = CALLS[NAME]


def make(sizes, n_samples):
    options = {"activations": ["tanh"], "loss": "squared_error", "weight": None, "dtype": "float32"}
    return random_data(np.random.default_rng(0), sizes, call, n_samples=n_samples, **options)


def make_big():  # a call takes a tenth of a second, or as long as its result of 100 MB does
    if NAME in {"hessian", "normal_equations"}:
        return make([7, 24, 2], 30_000 // SLOWNESS)
    by_row = {"jacobian": 2000, "residuals.jac": 2000, "per_sample_gradients": 4000}
    return make([7, 96, 64, 2], by_row.get(NAME, 200_000) // SLOWNESS)


def result(data, n_threads):
    return [part.tobytes() for part in arrays(call.run(data.problem.net, data, n_threads=n_threads))]


data = make([5, 19, 7, 2], 200 if NAME == "hessian" else 3000)
expected = result(data, 1)


def is_right(n_threads=2):
    return result(data, n_threads) == expected


def child_is_right(*counts):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if all(is_right(n) for n in counts) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def run(name, code):
    setup = f"SLOWNESS, NAME, SUPPORT = {SLOWNESS}, {name!r}, {str(SUPPORT)!r}\n{SETUP}"
    return run_watched(setup + textwrap.dedent(code))
