"""What the programs that tests run on several ranks have in common. Each rank prints whole lines, in one write."""

import hashlib
import json
import os
import sys

import numpy as np

from backprop import Network


def say(rank, **facts):
    """Print facts as one line of JSON, which the test reads by `said`."""
    sys.stdout.write(json.dumps({"rank": rank, **facts}) + "\n")
    sys.stdout.flush()


def said(done):
    """The lines of a `CompletedProcess`, in a list for each rank."""
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    ranks = sorted({line["rank"] for line in lines})
    return {rank: [line for line in lines if line["rank"] == rank] for rank in ranks}


def attempt(function, *arguments, **keywords):
    """The error of a call as text, or "fine"."""
    try:
        function(*arguments, **keywords)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "fine"


def sha(*results):
    """A digest of numbers and arrays, bit for bit."""
    digest = hashlib.sha256()
    for result in results:
        digest.update(np.asarray(result).tobytes())
    return digest.hexdigest()


def problem(n, loss="squared_error", dtype="float64", weights=0, seed=0):
    """A network, x, y, weights (0: none, 1: by sample, 2: by entry; a third of the rows have none) and v."""
    rng = np.random.default_rng(seed)
    net = Network([5, 12, 3], activations="tanh", loss=loss, dtype=dtype, rng=1)
    x, noise = rng.standard_normal((n, 5)), rng.random((n, 3))
    y = rng.integers(0, 3, n) if loss == "cross_entropy" else noise
    weight = None
    if weights:
        weight = rng.random((n, 3) if weights == 2 else n)
        weight[rng.random(n) < 1 / 3] = 0
    return net, x, y, weight, rng.standard_normal(net.n_params)


def split(n, n_ranks, rng):
    """Ends of random ragged parts of n rows, among which are empty ones."""
    ends = np.sort(rng.integers(0, n + 1, n_ranks - 1))
    if len(ends) and rng.random() < 0.5:
        ends[rng.integers(len(ends)) :] = rng.choice([0, n, ends[-1]])
        ends.sort()
    return [0, *ends.tolist(), n]


def support():
    """The variable by which a program finds this file and its neighbours."""
    others = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *([others] if others else [])])}
