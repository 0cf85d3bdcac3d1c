"""Loss and gradient of one problem in all ways that must have the same bits, as functions of theta."""

import hashlib
import time

import numpy as np
from cases import case_of, make_problem

import backprop

NETWORK = "tab-30-100-100-1"
DTYPES = ("float32", "float64")


class DifferentBitsError(Exception):
    """Two ways have different bits."""


def make(n_rows, dtype):
    """The network, x and y."""
    problem = make_problem(case_of(f"{NETWORK}@{n_rows}", "relu"), dtype)
    net = backprop.Network(problem.case.sizes, activations="relu", dtype=dtype, rng=0)
    for (W, b), W_own, b_own in zip(problem.layers, net.weights, net.biases, strict=True):
        W_own[...], b_own[...] = W, b
    return net, problem.x, problem.y


def fingerprint(net, loss, grad):
    """SHA-256 of a loss and its gradient, in the network's dtype: objectives give float64, with the same values."""
    return hashlib.sha256(np.float64(loss).tobytes() + grad.astype(net.dtype).tobytes()).hexdigest()


def with_threads(net, x, y, n_threads):
    """The plain call."""
    return lambda theta: net.value_and_grad(x, y, params=theta, n_threads=n_threads)


def by_parts(net, x, y, n_parts, rng=None):
    """Sums over blocks of the rows, added in a random order if there is a generator."""
    blocks = backprop.row_blocks(net, len(x), n_parts)
    if rng is not None:
        blocks = [blocks[k] for k in rng.permutation(n_parts)]

    def call(theta):
        parts = (
            net.partial_sums(x[rows], y[rows], first_row=rows.start, n_rows=len(x), params=theta, n_threads=1)
            for rows in blocks
        )
        return sum(parts).result()

    return call


def streamed(net, x, y, n_rows):
    """An objective on blocks of so many rows, which are views."""
    starts = range(0, len(x), n_rows)
    return net.objective([(x[k : k + n_rows], y[k : k + n_rows]) for k in starts], n_threads=1)


def expect_one(net, ways, expected=None):
    """The fingerprint that all ways have at the network's parameters.

    Raises
    ------
    DifferentBitsError
        If one has another fingerprint.
    """
    for name, way in ways.items():
        found = fingerprint(net, *way(net.params.copy()))
        expected = expected or found
        if found != expected:
            raise DifferentBitsError(f"{net.dtype}, {name}: the SHA-256 is {found}, not {expected}")
    return expected


def time_in_turns(net, ways, n_rounds, begin=lambda name: None):
    """Seconds of each way, one call in each round; every other round goes backwards.

    An objective computes nothing for the theta of its last call, so each round has another one than the last round and
    `expect_one`.
    """
    thetas = [1.125 * net.params, 1.25 * net.params]
    seconds = {name: [] for name in ways}
    for k in range(n_rounds):
        for name in list(ways) if k % 2 else reversed(list(ways)):
            begin(name)
            start = time.perf_counter()
            ways[name](thetas[k % 2])
            seconds[name].append(time.perf_counter() - start)
    return seconds
