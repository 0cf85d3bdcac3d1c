"""The parameters after a fit, in all ways that must have the same bits: threads, instruction sets, resumed, members."""

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from cases import Case, make_problem

import backprop
from backprop import _core

SIZES, N_ROWS, N_ITERATIONS = (4, 16, 16, 2), 3000, 8
OPTIONS = {
    "lbfgs": {"l2": 1e-4},
    "lm": {"l2": 1e-4},
    "adam": {"batch_size": 512, "weight_decay": 0.01},
    "sgd": {"batch_size": 512, "max_norm": 1.0},
}
N_MEMBERS, SEED = 3, 17
WAYS = f"threads 1, 2, 8; whole and resumed; alone and in an ensemble of {N_MEMBERS}; instruction sets with FMA"
DTYPES = ("float32", "float64")


class DifferentBitsError(Exception):
    """Two ways have different bits."""


def _make(dtype):
    """An ensemble, x and y."""
    problem = make_problem(Case("bits", SIZES, N_ROWS, "tanh"), "float64")
    net = backprop.Network(SIZES, activations="tanh", dtype=dtype, rng=0)
    return backprop.Ensemble(net, N_MEMBERS, rng=1), problem.x.astype(dtype), problem.y.astype(dtype)


def _sha(params):
    return hashlib.sha256(np.ascontiguousarray(params).tobytes()).hexdigest()


def _random(solver, member):
    """The generator that a member has of its own, if the solver draws orders of rows."""
    generators = np.random.default_rng(SEED).spawn(N_MEMBERS)
    return {"rng": generators[member]} if solver in ("adam", "sgd") else {}


def _ways(dtype, solver):
    """SHA-256 of the parameters of the last member, by the way in which it was fitted."""
    ensemble, x, y = _make(dtype)
    last, start = N_MEMBERS - 1, ensemble.params[N_MEMBERS - 1].copy()
    options = {"solver": solver, **OPTIONS[solver]}

    def alone(n_threads, *counts):
        net, state = copy.deepcopy(ensemble[last]), None
        net.params = start
        for n in counts:
            same = {"n_threads": n_threads, "state": state, **options, **_random(solver, last)}
            state = net.fit(x, y, max_iter=n, **same).state
        return net.params

    found = {f"{n} threads": alone(n, N_ITERATIONS) for n in (1, 2, 8)}
    found |= {"resumed": alone(2, N_ITERATIONS // 2, N_ITERATIONS - N_ITERATIONS // 2)}
    for n_threads in (1, 2):
        members, _, _ = _make(dtype)
        generator = {"rng": np.random.default_rng(SEED)} if _random(solver, last) else {}
        members.fit(x, y, max_iter=N_ITERATIONS, n_threads=n_threads, **options, **generator)
        found[f"a member, {n_threads} threads"] = members.params[last]
    return {way: _sha(params) for way, params in found.items()}


def fingerprints():
    """The one SHA-256 of each dtype and solver.

    Raises
    ------
    DifferentBitsError
        If two ways differ.
    """
    found = {}
    for dtype in DTYPES:
        for solver in OPTIONS:
            ways = _ways(dtype, solver)
            expected = found[f"{dtype} {solver}"] = next(iter(ways.values()))
            for way, sha in ways.items():
                if sha != expected:
                    raise DifferentBitsError(f"{dtype} {solver}, {way}: the SHA-256 is {sha}, not {expected}")
    return found


def compare():
    """The one SHA-256 of each dtype and solver, of all instruction sets with FMA that this CPU has.

    Raises
    ------
    DifferentBitsError
        If two ways differ.
    RuntimeError
        If a process fails.
    """
    found = fingerprints()
    for simd in _core.supported_simd():
        if simd in ("v2", _core.simd):  # v2 has no FMA
            continue
        code = "import json, training_bits; print(json.dumps(training_bits.fingerprints()))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env=os.environ | {"BACKPROP_SIMD": simd},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the fits with {simd} ended with {done.returncode}: {done.stderr[-2000:]}")
        others = json.loads(done.stdout)
        if others != found:
            raise DifferentBitsError(f"{simd} has {others}, {_core.simd} has {found}")
    return found
