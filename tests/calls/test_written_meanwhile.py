"""Weights and labels that are written during a call: results may use old or new values, but nothing crashes.

Each runs in a new process, so that a crash there is one failure here. The weights lie in the middle of a longer
    array of which the rest is 0 or foreign: a call that looks for its rows beyond the end walks on to the array's end.
"""

import subprocess
import sys

import pytest

START = """
import sys, threading
import numpy as np
import backprop
from backprop import Network

n = 40_000
kind, n_threads = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
x, y = rng.normal(size=(n, 3)), rng.normal(size=(n, 1))
all_weights = np.zeros(10**7)
all_weights[-1000:] = 1
w = all_weights[:n]
w[:: n // 100] = 1
before = w.copy()
"""

# A custom activation writes to the weights the first time that the call evaluates it.
BY_AN_ACTIVATION = (
    START
    + """
change = []

def g(a):
    if change:
        w[:] = change.pop()
    return np.tanh(a)

activation = backprop.Activation("writes", g, lambda a: 1 / np.cosh(a) ** 2, lambda a: -2 * np.tanh(a) / np.cosh(a)**2)
net = Network([3, 4, 1], activations=activation, rng=0)
right = net.value_and_grad(x, y, sample_weight=w, n_threads=1)
v = rng.normal(size=net.n_params)
for new in (0.0, 1.0):
    for call in (
        lambda: net.value_and_grad(x, y, sample_weight=w, n_threads=n_threads),
        lambda: net.hvp(x, y, v, sample_weight=w, n_threads=n_threads),
        lambda: net.clipped_gradient(x, y, 1.0, sample_weight=w, n_threads=n_threads),
        lambda: net.per_sample_gradient_norms(x, y, sample_weight=w, n_threads=n_threads),
        lambda: net.layer_gradients(x, y, sample_weight=w, n_threads=n_threads),
    ):
        w[:] = before
        change.append(new)
        call()
        assert not change
w[:] = before
again = net.value_and_grad(x, y, sample_weight=w, n_threads=1)
assert again[0] == right[0] and np.array_equal(again[1], right[1])
print("alive")
"""
)

# At the k-th call of the activation, labels become invalid or weights become 0: between any two of the
# calls that one inspection makes.
BETWEEN_CALLS = (
    START
    + """
n = 50
x, labels, w = x[:n], rng.integers(0, 3, size=n), np.ones(n)
calls_left = [0]

def g(a):
    calls_left[0] -= 1
    if calls_left[0] == 0:
        if kind == "weights":
            w[:] = 0
        else:
            labels[:] = 10**15
    return np.tanh(a)

activation = backprop.Activation("writes", g, lambda a: 1 / np.cosh(a) ** 2)
net = Network([3, 4, 3], activations=activation, loss="cross_entropy", rng=0)
before, n_refused = labels.copy(), 0
x_nan = x.copy()
x_nan[30] = np.nan
for call in (
    lambda: net.find_nonfinite(x_nan, labels, sample_weight=w, n_threads=n_threads),
    lambda: net.check_gradient(x, labels, sample_weight=w),
):
    for k in range(1, 12):
        labels[:], w[:] = before, 1
        calls_left[0] = k
        try:
            call()
        except ValueError as error:
            assert "expected" in str(error), error
            n_refused += 1
print("alive", n_refused)
"""
)

# A thread writes to weights and labels all the time.
BY_A_THREAD = (
    START
    + """
labels = rng.integers(0, 3, size=n)
net = Network([3, 4, 3], loss="cross_entropy", rng=0)
before_labels = labels.copy()
right = net.value_and_grad(x, labels, sample_weight=w, n_threads=1)
done = threading.Event()

def write():
    while not done.is_set():
        if kind == "weights":
            w[:] = 0
            w[:] = 1
            w[:] = before
        else:
            labels[:] = 10**15
            labels[:] = -1
            labels[:] = before_labels

thread = threading.Thread(target=write)
thread.start()
n_right = 0
for _ in range(150):
    try:
        net.value_and_grad(x, labels, sample_weight=w, n_threads=n_threads)
        net.loss(x, labels, sample_weight=w, n_threads=n_threads)
    except ValueError:  # what it looked at was wrong
        continue
    n_right += 1
done.set()
thread.join()
w[:], labels[:] = before, before_labels
again = net.value_and_grad(x, labels, sample_weight=w, n_threads=1)
assert again[0] == right[0] and np.array_equal(again[1], right[1])
print("alive", n_right)
"""
)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (BY_AN_ACTIVATION, "weights"),
        (BETWEEN_CALLS, "weights"),
        (BETWEEN_CALLS, "labels"),
        (BY_A_THREAD, "weights"),
        (BY_A_THREAD, "labels"),
    ],
)
def test_the_call_ends_and_the_next_is_right(code, kind, n_threads):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, kind, str(n_threads)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("alive"), done.stdout
