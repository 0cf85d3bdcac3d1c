"""The process that times the calls with one number of threads; run.py starts it and reads its lines of JSON."""

import copy
import functools
import gc
import json
import os
import sys
import time
from statistics import median

import machine
import numpy as np
import peers
from cases import make_problem, select

from backprop import _core

BLOCK_SECONDS = 2e-3
SETTLE_SECONDS = 1e-3  # of untimed calls before each block, which warm the caches
IDLE_SECONDS = 2e-3  # with several threads, before each block: the last library's threads stop spinning for work
LONG_SECONDS = 0.02  # a longer block needs no warming, and the peak is measured after each, not once per round
MOST_ROUNDS = 60
LEAST_ROUNDS, LEAST_ROUNDS_LONG = 3, 2  # the second if a round takes LONG_ROUND_SECONDS
LONG_ROUND_SECONDS = 20.0
# Largest relative difference from ours in the loss, and in the 2-norm of the gradient of any layer. If the input of a
# unit is within rounding of relu's kink, the unit may be on either side, which changes a gradient by all that it adds.
TOLERANCE = {("float32", False): 5e-5, ("float32", True): 3e-3, ("float64", False): 1e-12, ("float64", True): 1e-8}


def emit(**event):
    """Write one event for run.py."""
    print(json.dumps(event), flush=True)


def difference(found, expected):
    """Largest relative difference of the loss and of any layer's gradient."""
    loss, grads = found
    expected_loss, expected_grads = expected
    errors = [abs(loss - expected_loss) / max(abs(expected_loss), 1e-300)]
    for layer, expected_layer in zip(grads, expected_grads, strict=True):
        ours = np.concatenate([part.ravel() for part in expected_layer]).astype(float)
        theirs = np.concatenate([np.asarray(part).ravel() for part in layer]).astype(float)
        errors.append(float(np.linalg.norm(theirs - ours) / max(np.linalg.norm(ours), 1e-300)))
    return max(errors) if np.isfinite(errors).all() else float("inf")


def difference_of_arrays(found, expected):
    """Largest relative difference of any array, by its 2-norm."""
    errors = []
    for ours, theirs in zip(expected, found, strict=True):
        error = np.linalg.norm(np.subtract(theirs, ours, dtype=float)) if theirs.shape == ours.shape else np.inf
        errors.append(float(error / max(np.linalg.norm(ours.astype(float)), 1e-300)))
    return max(errors) if np.isfinite(errors).all() else float("inf")


def seconds_per_call(call, n):
    """Time a block of n calls."""
    start = time.perf_counter()
    for _ in range(n):
        call()
    return (time.perf_counter() - start) / n


def calls_per_block(call):
    """Calls that take BLOCK_SECONDS together, at least one."""
    n, seconds = 1, seconds_per_call(call, 1)
    while n * seconds < BLOCK_SECONDS:
        n = max(n + 1, int(1.05 * BLOCK_SECONDS / max(seconds, 1e-8)))
        seconds = seconds_per_call(call, n)
    return n, seconds


def prepare(problem, makers, names, n_threads, limit, differ):
    """Make the runners and compare each with ours.

    Returns the runners, and by name: errors (text), relative differences, notes (text), and seconds of the first call.
    """
    ours = makers["ours"](problem, n_threads)
    expected = copy.deepcopy(ours.result())
    runners, errors, differences, notes, first = {"ours": ours}, {}, {}, {}, {}
    for name in names:
        try:
            runner = makers[name](problem, n_threads)
            start = time.perf_counter()
            found = runner.result()
            first[name] = time.perf_counter() - start
            differences[name] = differ(found, expected)
        except peers.UnsupportedError as reason:
            notes[name] = str(reason)
            continue
        except Exception as error:  # an error of a peer goes into the table, and does not end it
            errors[name] = f"{type(error).__name__}: {error}"
            continue
        if differences[name] <= limit:
            runners[name] = runner
        else:
            errors[name] = f"differs from ours by {differences[name]:.1e}, more than {limit:.0e}"
    return runners, {"errors": errors, "differences": differences, "notes": notes, "first": first}


def prepare_gradient(name, dtype, names, n_threads):
    """Loss and gradient of all parameters."""
    (case,) = select([name])
    problem = make_problem(case, dtype)
    limit = TOLERANCE[dtype, case.activation == "relu" and len(case.sizes) > 2]
    return prepare(problem, peers.MAKERS, names, n_threads, limit, difference)


def prepare_derivative(name, dtype, names, n_threads):
    """One of the other derivatives, and the filling of an array as large as its result."""
    import derivative_cases
    import derivative_peers
    import derivatives
    import input_derivative_cases
    import input_derivative_peers

    case = derivatives.by_name(name)
    if isinstance(case, input_derivative_cases.InputCase):
        problem = input_derivative_cases.make_input_problem(case, dtype)
        makers, limit = input_derivative_peers.MAKERS, input_derivative_cases.TOLERANCE[dtype]
    else:
        problem = derivative_cases.make_derivative_problem(case, dtype)
        makers, limit = derivative_peers.MAKERS, TOLERANCE[dtype, case.network.activation == "relu"]
    names = [one for one in names if one in makers]
    runners, checks = prepare(problem, makers, names, n_threads, limit, difference_of_arrays)
    result = np.ones(case.result_shape, dtype)
    runners["fill"] = peers.Runner(lambda: result.fill(1), None)
    return runners, checks


def difference_of_losses(found, expected):
    """Largest relative difference of the losses of a fit."""
    error = np.abs(np.subtract(found, expected) / expected) if np.shape(found) == np.shape(expected) else np.inf
    return float(np.max(error)) if np.isfinite(error).all() else float("inf")


def difference_at_start(found, expected, goal):
    """Relative difference of the losses at the start of two fits; infinite if one does not end at the goal."""
    import training_cases

    at_goal = found[-1] <= training_cases.OVERSHOT * goal
    return difference_of_losses(found[:1], expected[:1]) if at_goal else float("inf")


def prepare_training(name, dtype, names, n_threads):
    """Fits by one solver, and what they are made of: epochs without Python, epochs without steps, gradients."""
    import training_cases
    import training_minimizers
    import training_ours
    import training_peers

    case = training_cases.by_name(name)
    problem = training_cases.make_training_problem(case, dtype, training_ours.epochs_to_goal(case, dtype))
    if case.in_epochs:
        makers = {"ours": training_ours.make_fit, **training_peers.MAKERS}
    else:
        makers = {"ours": training_ours.make_minimizer, **training_minimizers.MAKERS}
    names = [one for one in names if one in makers]
    limit = training_cases.TOLERANCE[dtype]
    differ = difference_of_losses
    if case.goal is not None:
        differ = functools.partial(difference_at_start, goal=case.goal)
    runners, checks = prepare(problem, makers, names, n_threads, limit, differ)
    checks["iterations"] = {key: runner.n_iterations or len(problem.orders) for key, runner in runners.items()}
    runners |= training_ours.parts(problem, n_threads, runners["ours"].n_iterations)
    return runners, checks


def time_cell(runners, peak, itemsize, budget, n_threads):
    """Medians and least times of blocks in turn, of ours, each peer and the peak, until the budget is spent."""
    blocks = {}
    for name, runner in runners.items():
        blocks[name] = calls_per_block(runner.call)
    warming = {name: max(SETTLE_SECONDS, s) if s < LONG_SECONDS else 0.0 for name, (_, s) in blocks.items()}
    one_round = sum(n * seconds + warming[name] for name, (n, seconds) in blocks.items())
    least = LEAST_ROUNDS if one_round < LONG_ROUND_SECONDS else LEAST_ROUNDS_LONG
    n_rounds = int(min(MOST_ROUNDS, max(least, budget / (one_round + machine.SAMPLE_SECONDS))))
    samples, peaks = {name: [] for name in runners}, []
    gc.collect()
    gc.disable()
    try:
        for i in range(n_rounds):
            order = list(runners) if i % 2 == 0 else list(runners)[::-1]
            for name in order:
                n, seconds = blocks[name]
                call = runners[name].call
                if n_threads > 1:
                    time.sleep(IDLE_SECONDS)
                if seconds < LONG_SECONDS:
                    seconds_per_call(call, 1 + int(SETTLE_SECONDS / seconds))
                samples[name].append(seconds_per_call(call, n))
                if n * seconds > LONG_SECONDS:
                    peaks.append(peak.measure(itemsize))
            peaks.append(peak.measure(itemsize))
    finally:
        gc.enable()
    peaks = [value for value in peaks if value is not None]
    return {
        "seconds": {name: median(values) for name, values in samples.items()},
        "least": {name: min(values) for name, values in samples.items()},
        "ratios": {
            name: median(theirs / ours for theirs, ours in zip(values, samples["ours"], strict=True))
            for name, values in samples.items()
            if name != "ours"
        },
        "rounds": n_rounds,
        "peak": median(peaks) if peaks else None,
        "peak_range": [min(peaks), max(peaks)] if peaks else None,
        "peak_best": peak.best.get(itemsize),
    }


def run(job):
    """Time the cells of a job; see run.py for its fields."""
    n_threads = job["threads"]
    os.sched_setaffinity(0, job["cpus"])
    if _core.simd != job["simd"]:
        raise RuntimeError(f"expected the kernels of {job['simd']}, got those of {_core.simd}")
    setting = {"simd": job["simd"], "peers_held": job["peers_held"]}
    limits = None
    prepare_cell = {"run": prepare_gradient, "derivatives": prepare_derivative, "training": prepare_training}
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        emit(event="missing", peer="threadpoolctl", reason="BLAS is limited by the environment alone")
    names = []
    for name in job["peers"]:
        reason = peers.missing(name)
        if reason is None:
            names.append(name)
        else:
            emit(event="missing", peer=name, reason=reason)
    if "threadpoolctl" in sys.modules:
        limits = threadpool_limits(n_threads)  # of every library loaded by now; kept until the process ends
    peak = machine.Peak(job["peak"], n_threads, job["simd"])
    widths = [[bits, size, gflops] for (bits, size), gflops in peak.by_width.items()]
    emit(event="limits", when="before", peak=widths, bandwidth=machine.write_bandwidth(n_threads))
    for case_name, dtype in job["cells"]:
        emit(event="start", case=case_name, dtype=dtype)
        runners, checks = prepare_cell[job["kind"]](case_name, dtype, names, n_threads)
        cell = time_cell(runners, peak, np.dtype(dtype).itemsize, job["budget"], n_threads)
        emit(event="cell", case=case_name, dtype=dtype, threads=n_threads, **setting, **checks, **cell)
        del runners
        peers.forget()
    after = [[0, size, peak.measure(size)] for size in (4, 8)] if peak.by_width else []
    emit(event="limits", when="after", peak=after, bandwidth=machine.write_bandwidth(n_threads))
    del limits


if __name__ == "__main__":
    run(json.loads(sys.stdin.read()))
