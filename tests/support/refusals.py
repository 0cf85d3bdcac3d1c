"""Arguments that are refused by every call that has them, and data that are accepted."""

from dataclasses import replace

import numpy as np
from call_peers import CALLS, random_data
from problems import random_problem

N, N_IN, N_OUT = 5, 3, 2


def plain_data(n_out=N_OUT, dtype="float64", loss="squared_error"):
    rng = np.random.default_rng(7)
    problem = random_problem(rng, [N_IN, 4, n_out], loss=loss, dtype=dtype, n_samples=N)
    data = random_data(rng, [N_IN, 4, n_out], CALLS["hvp"], activations=["tanh"], n_samples=N, loss=loss, dtype=dtype,
                       weight=None)  # fmt: skip
    return replace(data, problem=replace(data.problem, net=problem.net), grad_x=np.ones((N, n_out, N_IN)), weight=1.0)


def nan_pattern(shape, dtype):
    """NaN with a payload: a write of another NaN is seen."""
    dtype = np.dtype(dtype)
    bits = {4: 0x7FC0_1234, 8: 0x7FF8_0000_0000_1234}[dtype.itemsize]
    return np.full(shape, bits, f"u{dtype.itemsize}").view(dtype)


X = plain_data().x
P = plain_data().problem.net.n_params
BAD = {  # argument -> what it is -> (value, error)
    "x": {
        "one sample, 1-D": (X[0], ValueError),
        "3-D": (X[None], ValueError),
        "a column too few": (X[:, :2], ValueError),
        "transposed": (X.T, ValueError),
        "ragged": ([[1.0, 2.0, 3.0], [4.0]], ValueError),
        "complex": (X + 0j, TypeError),
        "object": (X.astype(object), TypeError),
        "strings": (X.astype(str), TypeError),
        "masked": (np.ma.masked_array(X, X > 0), TypeError),
        "None": (None, TypeError),
    },
    "y": {
        "a row too few": (np.ones((N - 1, N_OUT)), ValueError),
        "a column too few": (np.ones((N, N_OUT - 1)), ValueError),
        "1-D": (np.ones(N), ValueError),
        "complex": (np.ones((N, N_OUT)) + 0j, TypeError),
        "strings": (np.ones((N, N_OUT)).astype(str), TypeError),
        "None": (None, TypeError),
    },
    "sample_weight": {
        "negative": ([1.0, -1.0, 1.0, 1.0, 1.0], ValueError),
        "NaN": ([1.0, np.nan, 1.0, 1.0, 1.0], ValueError),
        "inf": ([1.0, np.inf, 1.0, 1.0, 1.0], ValueError),
        "all 0": (np.zeros(N), ValueError),
        "too few": (np.ones(N - 1), ValueError),
        "a column": (np.ones((N, 1)), ValueError),
        "complex": (np.ones(N) + 0j, TypeError),
        "a word": ("balanced", TypeError),
    },
    "n_threads": {"0": (0, ValueError), "2.5": (2.5, ValueError), "text": ("2", TypeError), "True": (True, TypeError)},
    "params": {
        "too few": (np.zeros(P - 1), ValueError),
        "2-D": (np.zeros((1, P)), ValueError),
        "complex": (np.zeros(P) + 0j, TypeError),
        "strings": (np.zeros(P).astype(str), TypeError),
    },
    "v": {
        "too few": (np.zeros(P - 1), ValueError),
        "too many": (np.zeros(P + 1), ValueError),
        "2-D": (np.zeros((1, P)), ValueError),
        "0-D": (1.0, ValueError),
        "complex": (np.zeros(P) + 0j, TypeError),
        "object": (np.zeros(P).astype(object), TypeError),
        "None": (None, TypeError),
    },
    "cotangent": {
        "a row too few": (np.ones((N - 1, N_OUT)), ValueError),
        "a column too few": (np.ones((N, N_OUT - 1)), ValueError),
        "one column for two": (np.ones((N, 1)), ValueError),
        "0-D": (1.0, ValueError),
        "complex": (np.ones((N, N_OUT)) + 0j, TypeError),
        "None": (None, TypeError),
    },
    "multipliers": {
        "a row too few": (np.ones((N - 1, N_OUT)), ValueError),
        "by sample alone": (np.ones(N), ValueError),
        "swapped": (np.ones((N_OUT, N)), ValueError),
        "0-D": (1.0, ValueError),
        "complex": (np.ones(N_OUT) + 0j, TypeError),
        "None": (None, TypeError),
    },
    "directions": {
        "one direction": (np.ones(N_IN), ValueError),
        "no direction": (np.ones((0, N_IN)), ValueError),
        "a column too few": (np.ones((2, N_IN - 1)), ValueError),
        "a row too few": (np.ones((N - 1, 2, N_IN)), ValueError),
        "4-D": (np.ones((1, N, 2, N_IN)), ValueError),
        "complex": (np.ones((2, N_IN)) + 0j, TypeError),
    },
    "cot_y": {
        "a row too few": (np.ones((N - 1, N_OUT)), ValueError),
        "one column for two": (np.ones((N, 1)), ValueError),
        "complex": (np.ones((N, N_OUT)) + 0j, TypeError),
    },
    "cot_dy": {
        "a direction too many": (np.ones((N, N_OUT, 9)), ValueError),
        "no axis of directions": (np.ones((N, N_OUT)), ValueError),
        "strings": (np.full((N, N_OUT, 1), "1"), TypeError),
    },
    "cot_d2y": {
        "a row too few": (np.ones((N - 1, N_OUT, 1)), ValueError),
        "0-D": (1.0, ValueError),
        "object": (np.ones((N, N_OUT, 1)).astype(object), TypeError),
    },
    "grad_x": {
        "a row too few": (np.ones((N - 1, N_OUT, N_IN)), ValueError),
        "no axis of outputs": (np.ones((N, N_IN)), ValueError),
        "swapped": (np.ones((N, N_IN, N_OUT)), ValueError),
        "0-D": (1.0, ValueError),
        "complex": (np.ones((N, N_OUT, N_IN)) + 0j, TypeError),
        "None": (None, TypeError),
    },
    "weight": {
        "swapped": (np.ones((N_IN, N_OUT)), ValueError),
        "1-D": (np.ones(N_IN), ValueError),
        "negative": (-1.0, ValueError),
        "NaN": (np.nan, ValueError),
        "3-D": (np.ones((1, N_OUT, N_IN)), ValueError),
        "a word": ("all", TypeError),
        "complex": (1j, TypeError),
        "None": (None, TypeError),
    },
    "max_norm": {
        "0": (0.0, ValueError),
        "-1": (-1.0, ValueError),
        "NaN": (np.nan, ValueError),
        "text": ("1", TypeError),
        "None": (None, TypeError),
        "True": (True, TypeError),
        "complex": (1j, TypeError),
        "an array": (np.ones(N), TypeError),
    },
    "out": {
        "a list": ([0.0], TypeError),
        "wrong shape": (np.zeros(1), ValueError),
        "0-D": (np.zeros(()), ValueError),
    },
}


def takes(call, argument):
    """Whether a call has the argument."""
    if argument in ("x", "n_threads"):
        return True
    if argument == "params":
        return not call.at_theta
    if argument == "out":
        return bool(call.out)
    return call.has_y if argument == "sample_weight" else argument in call.arguments
