"""Statements of docs/deployment.rst that its own examples do not try. Each test runs a new process."""

import os
import subprocess
import sys

SETUP = """
import os, sys
import numpy as np
import scipy
x = np.random.default_rng(0).standard_normal((3000, 30))
y = x[:, :1].copy()
"""


def output_of(code, **environment):
    counts = ("BACKPROP_NUM_THREADS", "OMP_NUM_THREADS")
    without = {name: value for name, value in os.environ.items() if name not in counts}
    run = subprocess.run(
        [sys.executable, "-B", "-c", SETUP + code],
        env={**without, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return run.stdout.split()


def test_the_import_and_calls_write_no_file():
    code = """
def look(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if isinstance(mode, str) and set("wax+") & set(mode) or mode is None and flags & (os.O_WRONLY | os.O_RDWR):
            print(path)

sys.addaudithook(look)
import backprop

net = backprop.Network([30, 100, 100, 1], activations="tanh", rng=0)
net.value_and_grad(x, y, n_threads=2)
net.hvp(x, y, net.params, n_threads=2)
net.forward(x, n_threads=1)
print("end")
"""
    assert output_of(code) == ["end"]


def test_the_environment_is_read_at_the_import_alone():
    code = """
import backprop
print(backprop.get_num_threads())
os.environ["BACKPROP_NUM_THREADS"] = "5"
print(backprop.get_num_threads())
"""
    assert output_of(code, BACKPROP_NUM_THREADS="3") == ["3", "3"]


def test_joblib_divides_the_cpus():
    """It sets OMP_NUM_THREADS in its workers, unless that is set already. joblib comes with scikit-learn."""
    code = """
import backprop
from joblib import Parallel, delayed
print(*Parallel(n_jobs=2)(delayed(backprop.get_num_threads)() for _ in range(2)))
"""
    assert output_of(code, LOKY_MAX_CPU_COUNT="2") == ["1", "1"]
