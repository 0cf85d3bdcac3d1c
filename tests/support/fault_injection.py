"""Calls in which one allocation after another fails; tests/pool/test_faults.py runs them in new processes. No test.

    LD_PRELOAD=... python tests/support/fault_injection.py allocations 2   # calls on two threads
    LD_PRELOAD=... python tests/support/fault_injection.py threads
    LD_PRELOAD=... python tests/support/fault_injection.py leaks   # calls that do leave something behind

The library to preload is fault_injection.c. A trial repeats a call for k = 1, 2, ... and lets the k-th allocation fail
that the compiled modules make, themselves or through Python and NumPy; it ends if a call has fewer than k allocations.
One series lets this allocation alone fail, another one all from the k-th on. Each call must raise MemoryError, or
succeed with the right bits (some failures can be avoided: a call may run without workers). Then the parameters must be
unchanged and the next call right. After the network is deleted, no block of the modules and no array may be left, and
the number of Python objects may not grow from round to round. Each trial prints one line of JSON: its name, the number
of failures, what was wrong, and the number of rounds.
"""

from __future__ import annotations

import copy
import ctypes
import ctypes.util
import errno
import faulthandler
import functools
import gc
import itertools
import json
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
from call_peers import CALLS, FIRST_PART, random_data

import backprop
from backprop import Activation, Ensemble, Network, _core
from backprop.distributed import state
from backprop.judges.check_gradient import GradientReport
from backprop.judges.find_nonfinite import NonFinite

OURS, INDIRECT, THREADS, INTERPRETER, NUMPY = range(5)  # fault_injection.c
ALLOCATIONS = 1 << OURS | 1 << INDIRECT
NUMPY_KEEPS = 1024  # bytes; as there
MOST_FAILURES = 3000  # of one trial: far more allocations than a call makes
WATCH = 120  # seconds for a trial, of which the longest takes three on an idle machine
REPEATS = 6  # of a failure after which a block is left
GROWING_ROUNDS = 4  # objects left behind by failures appear in each round; what Python keeps for good, in the first

# The library ----------------------------------------------------------------------------------------------------------


def load():
    """The preloaded library; from here on it distinguishes which module allocates memory."""
    faults = ctypes.PyDLL(os.environ["LD_PRELOAD"])
    faults.faults_call.restype = ctypes.py_object
    faults.faults_call.argtypes = [ctypes.py_object, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    faults.faults_watch.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    faults.faults_watch.restype = faults.faults_hook_python.restype = None
    for name in ("faults_seen", "faults_failed", "faults_alive"):
        getattr(faults, name).restype = ctypes.c_long
    ours = str(Path(_core.__file__).parent) + os.sep
    shim = os.environ["LD_PRELOAD"]
    python = {str(Path(sys.executable).resolve()), shim}  # the library's own functions lie between
    seen = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, *_, path = line.split(maxsplit=5) if line.count("/") else (line.split()[0], "", "")
        who = None
        if path.startswith(ours):
            who = OURS
        elif "_multiarray_umath" in path:
            who = NUMPY
        elif path in python or "/libpython" in path:
            who = INTERPRETER
        if "x" in access and who is not None:
            faults.faults_watch(*(int(address, 16) for address in span.split("-")), who)
            seen.add(Path(path).name.split(".")[0])
    assert {"_core", "_multiarray_umath"} <= seen, seen
    return faults


# The trials -----------------------------------------------------------------------------------------------------------


def bits(result):
    """The result of a call in a form that can be compared bit for bit."""
    if result is None or isinstance(result, str | int):
        return result
    if isinstance(result, NonFinite | GradientReport):
        return repr(result)
    if isinstance(result, backprop.LayerGradients):
        return bits([result.loss, result.a, result.h, result.grad_a, result.grad_h, result.grad_W, result.grad_b])
    if isinstance(result, backprop.InputJet):
        return bits([result.y, result.dy, result.d2y])
    if isinstance(result, tuple | list):
        return [bits(part) for part in result]
    return np.asarray(result).tobytes()


class Trial:
    """One call, of fresh networks.

    Parameters
    ---------
    make : callable
        make() -> a network (or an Ensemble) as the call finds it.
    prepare : callable
        prepare(net, n_threads) -> the call, without arguments; no allocation of prepare itself fails.
    """

    def __init__(self, make, prepare):
        self.make, self.prepare = make, prepare

    def attempt(self, faults, k, from_then_on, n_threads, expected):
        """One call with the k-th failure: (whether anything failed, what was wrong or "")."""
        net = self.make()
        before = net.params.tobytes()
        call = self.prepare(net, n_threads)
        try:
            result = bits(faults.faults_call(call, k, from_then_on, ALLOCATIONS, 0))
        except MemoryError:
            result = None
        except BaseException as other:
            return faults.faults_failed(), f"{type(other).__name__}: {other}"
        failed = faults.faults_failed()
        if result is None and not failed and expected is not None:
            return failed, "MemoryError where no allocation failed"
        if result not in (None, expected):
            return failed, "succeeded with other bits"
        if net.params.tobytes() != before:
            return failed, "the parameters have changed"
        if bits(call()) != expected:
            return failed, "the next call has other bits"
        return failed, ""

    def round(self, faults, n_threads, expected, n_failures, wrong):
        """All failures of both kinds: their numbers, and what was wrong, go into these lists."""
        alive = faults.faults_alive()
        for from_then_on in (0, 1):
            for k in range(1, MOST_FAILURES):
                failed, what = self.attempt(faults, k, from_then_on, n_threads, expected)
                if blocks_alive(faults, alive) != alive:
                    # A table of Python grows now and then, inside any call. What a call loses, it loses again.
                    alive = faults.faults_alive()
                    for _ in range(REPEATS):
                        self.attempt(faults, k, from_then_on, n_threads, expected)
                    if blocks_alive(faults, alive) != alive:
                        what = f"{what or 'leak'}: {faults.faults_alive() - alive} blocks left"
                        alive = faults.faults_alive()
                if what:
                    wrong.append(f"k = {k}{' and on' * from_then_on}: {what}")
                if not failed:
                    n_failures[from_then_on] = k - 1
                    break
            else:
                wrong.append(f"no end after {MOST_FAILURES} failures")

    def run(self, faults, n_threads):
        """Rounds, until one leaves no more objects behind than before; returns a summary."""
        n_failures, wrong, left = [0, 0], [], [0] * GROWING_ROUNDS
        expected = bits(self.prepare(self.make(), 1)())
        for _ in range(2):
            self.attempt(faults, 0, 0, n_threads, expected)  # nothing fails here: objects that are made once are made
            before = objects_alive()
        for i in range(GROWING_ROUNDS):
            self.round(faults, n_threads, expected, n_failures, wrong)
            after = objects_alive()
            left[i] = after - before
            before = after
            if left[i] <= 0 or wrong:
                break
        else:
            wrong.append(f"leak: {left} objects left, round by round")
        return {"failures": n_failures, "wrong": wrong, "rounds": i + 1}


def blocks_alive(faults, expected):
    """The number of blocks in use; if it is another one than expected, without what only waits to be collected."""
    if faults.faults_alive() != expected:
        gc.collect()
    return faults.faults_alive()


def objects_alive():
    """The number of Python's memory blocks in use, with empty caches; an object takes one or two."""
    gc.collect()
    sys._clear_type_cache()  # it keeps the names of attributes that were looked up
    return sys.getallocatedblocks()


def with_out(call, data):
    """The call with an array of the caller as out."""

    def run(net, n_threads):
        out = np.full(call.out_shape(data), np.nan, net.dtype)
        result = call.run(net, data, out=out, n_threads=n_threads)
        assert any(part is out for part in (result if isinstance(result, tuple) else (result,)))
        return result

    return run


def nonfinite(net, x, y):
    """Networks and samples by the stage at which something is not finite."""
    bad_x, bad_y, huge_x, bad_net = x.copy(), y.copy(), x.copy(), pickle.loads(pickle.dumps(net))
    bad_x[41, 2], bad_y[41, 1], huge_x[41], bad_net.weights[1][3, 4] = np.nan, np.inf, 1e155, np.nan
    steep = Network([5, 3, 2], activations="identity", loss="huber", rng=1)  # of a slope of 1 at most
    steep.weights[0][...] *= 1e-165
    steep.weights[1][...] *= 1e165
    return {
        "input": (net, bad_x, y),
        "weight": (bad_net, x, y),
        "activation": (Network([5, 19, 7, 2], activations="exp", rng=1), 1e4 * x, y),
        "loss": (net, x, bad_y),
        "gradient": (steep, huge_x, y),
    }


def minus_sin(a):
    return -np.sin(a)


def products(net, x, y, directions, n_threads, *, n_before, n_bytes=64 << 20, **options):
    """`hessp` of one objective at one theta, in one direction after another; before the call in the first n_before.

    A twin of the network computes these: it leaves rows in n_bytes, but no workspace.
    """
    twin = pickle.loads(pickle.dumps(net))
    before, fun = (one.objective(x, y, n_threads=n_threads, **options) for one in (twin, net))
    before._terms[0].samples.linearization = fun._terms[0].samples.linearization = _core.Linearization(n_bytes)
    theta = net.params if fun.n_free == net.n_params else net.params[options["free"]]
    for v in directions[:n_before]:
        before.hessp(theta, v[: fun.n_free])
    return lambda: [fun.hessp(theta, v[: fun.n_free]) for v in directions[n_before:]]


def epochs_of_batches(net, x, y, method, n_threads):
    """Two epochs of mini-batches of a copy. If one fails, the state must be that after the steps it counts."""
    y, x, _, _ = net._inputs(x, y, None, None)
    order = np.random.default_rng(0).permutation(len(x)).astype(np.intp)

    def run(state, rows, n_epochs):
        params, moments, progress = state
        orders = np.ascontiguousarray(np.tile(rows, (n_epochs, 1)))
        losses = np.zeros((n_epochs, -(-len(rows) // 16)))
        arrays = orders, 16, np.full(n_epochs, 0.1), moments, progress, losses, np.zeros_like(losses)
        net._plan.run_epochs(_core.Parameters(params), x, y, None, *arrays, n_threads, method=method)

    def start():
        moments = np.zeros((2 if method == "adam" else 1, net.n_params), net.dtype)
        return net.params.copy(), moments, np.array([0.0, 1.0, 1.0])

    state, after = start(), {}
    for step in range(9):
        after[step] = bits(state)
        run(state, order[step % 4 * 16 : step % 4 * 16 + 16], 1)

    def call():
        state = start()
        try:
            run(state, order, 2)
        except MemoryError:
            assert bits(state) == after[int(state[2][0])], "another state than after the last whole step"
            raise
        return state

    return call


def fit(net, x, y, n_threads, **options):
    """A fit of a twin. If it fails, the twin has the parameters after some iteration, or some batch."""
    twin, before, way = pickle.loads(pickle.dumps(net)), net.params.copy(), {net.params.tobytes()}
    how = {"max_iter": 3, "n_threads": n_threads, **options}
    twin.fit(x, y, callback=lambda info: way.add(info.params.tobytes()), **how)

    def call():
        twin.params = before
        try:
            result = twin.fit(x, y, **how)
        except MemoryError:
            assert twin.params.tobytes() in way
            raise
        return [result.x, result.loss, result.history["loss"], result.jac]

    return call


def fit_members(ensemble, x, y, n_threads, **options):
    """The same of an ensemble, each of whose members has parameters of its own way."""
    twin, before = copy.copy(ensemble), ensemble.params.copy()
    ways = [{row.tobytes()} for row in before]
    how = {"max_iter": 3, "n_threads": n_threads, **options}

    def keep(info):
        for way, row in zip(ways, info.params, strict=True):
            way.add(row.tobytes())

    twin.fit(x, y, callback=keep, **how)

    def call():
        twin.params = before
        try:
            results = twin.fit(x, y, **how)
        except MemoryError:
            assert all(row.tobytes() in way for way, row in zip(ways, twin.params, strict=True))
            raise
        return [[result.x, result.loss, result.history["loss"], result.jac] for result in results]

    return call


def trials(n_threads):
    """All calls by name; with two threads the work is enough for both."""
    n_samples = 3000 if n_threads > 1 else 60
    rng = np.random.default_rng(0)
    found = {}

    def add_prepared(name, net, prepare):
        first = copy.deepcopy(net)  # not by pickle, which refuses C functions
        found[name] = Trial(lambda: copy.deepcopy(first), prepare)

    def add(name, net, call):
        add_prepared(name, net, lambda net, n_threads: functools.partial(call, net, n_threads))

    for name, call in (FIRST_PART | CALLS).items():
        few = 300 if name == "hessian" and n_threads > 1 else n_samples
        for weight in call.weights if call.has_y else (None,):
            options = {"activations": ["tanh"], "loss": "squared_error", "weight": weight, "dtype": "float32"}
            data = random_data(np.random.default_rng(0), [5, 19, 7, 2], call, n_samples=few, **options)
            run = lambda net, n_threads, call=call, data=data: call.run(net, data, n_threads=n_threads)  # noqa: E731
            add(f"{name}, weights by {weight}" if weight else name, data.problem.net, run)
            if call.out and not weight:
                add(f"{name}, out", data.problem.net, with_out(call, data))

    x = rng.normal(size=(n_samples, 5))
    y = rng.normal(size=(n_samples, 2))
    labels = rng.integers(0, 2, n_samples)
    net = Network([5, 19, 7, 2], activations="tanh", rng=1)
    classifier = Network([5, 19, 7, 2], loss="cross_entropy", rng=1)
    wide = Network([64, 256, 256, 8], dtype="float32", rng=1)  # its threads take strips
    wide_x = rng.normal(size=(200 if n_threads > 1 else 20, 64)).astype("float32")
    wide_y = rng.normal(size=(len(wide_x), 8)).astype("float32")
    own = Network([5, 19, 7, 2], activations=Activation("my_sin", np.sin, np.cos, minus_sin), rng=1)
    exp = ctypes.cast(ctypes.CDLL(ctypes.util.find_library("m")).exp, ctypes.c_void_p).value  # its own g' and g''
    own_c = Network([5, 19, 7, 2], activations=Activation("c_exp", exp, exp, exp), rng=1)
    v = rng.normal(size=(3, net.n_params))
    xs, ys, weights = x + rng.normal(size=(3, 1, 1)), y * rng.normal(size=(3, 1, 1)), rng.uniform(size=(3, n_samples))
    add("loss", net, lambda net, n_threads: net.loss(x, y))
    add("value_and_grad, strips", wide, lambda net, n_threads: net.value_and_grad(wide_x, wide_y, n_threads=n_threads))
    add("value_and_grad, labels", classifier, lambda net, n_threads: net.value_and_grad(x, labels, n_threads=n_threads))
    add("value_and_grad, lists", net, lambda net, n_threads: net.value_and_grad(x[:9].tolist(), y[:9].tolist()))
    few = slice(500)  # Python functions, which the calling thread runs: each tile has allocations that can fail
    for name, of_own, part in (("own g", own, few), ("own g in C", own_c, slice(None))):
        of_x = lambda net, n_threads, x=x[part], y=y[part]: net.value_and_grad(x, y, n_threads=n_threads)  # noqa: E731
        with_v = lambda net, n_threads, x=x[part], y=y[part]: net.hvp(x, y, v[0], n_threads=n_threads)  # noqa: E731
        add(f"value_and_grad, {name}", of_own, of_x)
        add(f"hvp, {name}", of_own, with_v)
    add("layer_gradients", net, lambda net, n_threads: net.layer_gradients(x, y))
    add("find_nonfinite", net, lambda net, n_threads: net.find_nonfinite(x, y))
    for stage, (bad_net, bad_x, bad_y) in nonfinite(net, x, y).items():
        find = lambda net, n_threads, x=bad_x, y=bad_y: net.find_nonfinite(x, y, n_threads=n_threads)  # noqa: E731
        assert find(bad_net, 1).stage == stage
        add(f"find_nonfinite, {stage}", bad_net, find)
    add("check_gradient", net, lambda net, n_threads: net.check_gradient(x[:9], y[:9]))
    add("objective", net, lambda net, n_threads: net.objective(x, y, l2=0.1, n_threads=n_threads)(net.params))
    for name in ("hvp_operator", "gauss_newton_operator"):
        for kind, samples in (("", (x, y)), (", lists", (x[:9].tolist(), y[:9].tolist()))):

            def apply(net, n_threads, name=name, samples=samples):
                operator = getattr(net, name)(*samples, n_threads=n_threads)
                return lambda: [operator @ v[0], operator.rmatvec(v[1])]

            add_prepared(name + kind, net, apply)
    kept = {
        "first products": {"n_before": 0},
        "kept rows": {"n_before": 1},
        "some kept rows": {"n_before": 1, "n_bytes": n_samples * 8 * (24 + 8) * 2},
        "kept rows, free and l2": {"n_before": 1, "l2": 0.1, "free": np.arange(net.n_params) % 3 > 0},
        "kept rows, weights by entry": {"n_before": 1, "sample_weight": rng.uniform(size=y.shape)},
    }
    for name, options in kept.items():
        hessp = lambda net, n_threads, options=options: products(net, x, y, v, n_threads, **options)  # noqa: E731
        add_prepared(f"hessp, {name}", net, hessp)
    small, blocks = Network([5, 4, 2], activations="tanh", rng=1), [(x[:40], y[:40]), (x[40:], y[40:])]
    of_steps = {"rng": 1, "batch_size": n_samples}
    for solver, options in {"lbfgs": {}, "lm": {}, "adam": of_steps, "sgd": of_steps}.items():
        fitted = lambda net, n_threads, how=options | {"solver": solver}: fit(net, x, y, n_threads, **how)  # noqa: E731
        add_prepared(f"fit, {solver}", small, fitted)
    for solver in ("lbfgs", "lm") if n_threads > 1 else ():  # these take longer
        fitted = lambda net, n_threads, solver=solver: fit(net, blocks, None, n_threads, solver=solver)  # noqa: E731
        add_prepared(f"fit, {solver}, blocks", small, fitted)
    ensemble = Ensemble(net, 3, rng=1)
    add("ensemble.value_and_grad", ensemble, lambda e, n_threads: e.value_and_grad(x, y, n_threads=n_threads))
    add(
        "ensemble.value_and_grad, by member",
        ensemble,
        lambda e, n_threads: e.value_and_grad(xs, ys, n_threads=n_threads),
    )
    add(
        "ensemble.value_and_grad, out and weights by member",
        ensemble,
        lambda e, n_threads: e.value_and_grad(
            xs, ys, sample_weight=weights, out=np.full_like(e.params, np.nan), n_threads=n_threads
        ),
    )
    add("ensemble.forward", ensemble, lambda e, n_threads: e.forward(x, n_threads=n_threads))
    add("ensemble.forward, by member", ensemble, lambda e, n_threads: e.forward(xs, n_threads=n_threads))
    for method in ("adam", "sgd"):

        def epochs(net, n_threads, method=method):
            return epochs_of_batches(net, x[:60], y[:60], method, n_threads)

        add_prepared(f"epochs of {method}", net, epochs)
    three = Ensemble(small, 3, rng=1)
    for solver, options in {"lbfgs": {}, "lm": {}, "adam": of_steps}.items():

        def of_members(e, n_threads, how=options | {"solver": solver}):
            return fit_members(e, xs, ys, n_threads, **how)

        add_prepared(f"ensemble.fit, {solver}", three, of_members)
    add_sums_of_units(add)
    add("Network", net, lambda net, n_threads: Network([5, 19, 7, 2], activations="tanh", rng=1).params)
    add("Ensemble", net, lambda net, n_threads: Ensemble(net, 3, rng=1).params)
    add("pickle", net, lambda net, n_threads: pickle.loads(pickle.dumps(net)).params)
    add("hidden_gradient", net, lambda net, n_threads: backprop.hidden_gradient(net.weights[1], x[:, [0] * 7]))
    add("preactivation_gradient", net, lambda net, n_threads: backprop.preactivation_gradient(y, y, "tanh"))
    return found


def add_sums_of_units(add):
    """Calls whose sums go into bins, since there are more samples than a unit has, and parts of such sums."""
    n, unit = 16384, 8192
    rng = np.random.default_rng(2)
    net = Network([2, 3, 1], activations="tanh", rng=1)
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(n, 1))
    wide = Network([64, 256, 256, 8], dtype="float32", rng=1)  # its threads take strips
    wide_x, wide_y = rng.normal(size=(200, 64)).astype("float32"), rng.normal(size=(200, 8)).astype("float32")
    ensemble = Ensemble(net, 3, rng=1)
    weights = rng.uniform(size=(3, n))
    weights[1, :100] = 0  # one unit alone
    add("value_and_grad, units", net, lambda net, n_threads: net.value_and_grad(x, y, n_threads=n_threads))
    add("loss, units", net, lambda net, n_threads: net.loss(x, y, n_threads=n_threads))
    add(
        "ensemble.value_and_grad, units",
        ensemble,
        lambda e, n_threads: e.value_and_grad(x, y, sample_weight=weights, n_threads=n_threads),
    )
    for name in ("value_and_grad", "loss"):

        def parts(net, n_threads, name=name):
            first, last = (
                net.partial_sums(x[rows], y[rows], call=name, first_row=rows.start, n_rows=n, n_threads=n_threads)
                for rows in (slice(0, unit), slice(unit, n))
            )
            return (first + last).result()

        add(f"partial_sums of {name}", net, parts)

    def strips(net, n_threads):
        call = _core.CALLS["value_and_grad"]
        return tuple(state.state_of_rows(net._plan, call, net.params, wide_x, wide_y, None, n_threads, n))

    add("partial_sums, strips", wide, strips)


def allocations(faults, n_threads):
    """Every trial."""
    run_all(faults, trials(n_threads), n_threads)


def run_all(faults, found, n_threads):
    """Trials by name, in a process without earlier ones."""
    gc.collect()
    gc.freeze()  # no garbage collection looks at the objects made so far
    faults.faults_hook_python()
    unraisable = []
    sys.unraisablehook = lambda what: unraisable.append(f"{what.exc_type.__name__} in {what.object!r}")
    for name, trial in found.items():
        faulthandler.dump_traceback_later(WATCH, exit=True)
        summary = trial.run(faults, n_threads)
        summary["wrong"] += [f"lost: {what}" for what in unraisable]
        unraisable.clear()
        print(json.dumps({"name": name, **summary}), flush=True)


def leaks(faults):
    """Trials of calls that do leave something behind, which must be found."""
    rng = np.random.default_rng(0)
    state = pickle.dumps(Network([5, 19, 7, 2], activations="tanh", rng=1))
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(60, 2))

    def add(name, what, one_in):
        failures = itertools.count()

        def call(net, n_threads):
            try:
                return net.value_and_grad(x, y, n_threads=n_threads)
            except MemoryError:
                if next(failures) % one_in == 0:
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(what()))
                raise

        found[name] = Trial(lambda: pickle.loads(state), lambda *arguments: functools.partial(call, *arguments))

    found = {}
    add("nothing", lambda: None, 1)
    for name, what in (("a tuple", lambda: (len(sys.argv),)), ("an array", lambda: np.zeros(NUMPY_KEEPS // 8))):
        add(name, what, 1)
        add(f"{name} at one failure in five", what, 5)
    run_all(faults, found, 1)


# Threads --------------------------------------------------------------------------------------------------------------


ERRORS = {"EAGAIN": errno.EAGAIN, "EINVAL": errno.EINVAL}  # EINVAL: the stack is too small, and another size is tried
N_THREADS = 4


def threads(faults):
    """Threads that cannot be created; each trial in a forked child, which has no workers yet."""
    rng = np.random.default_rng(0)
    problems = []
    for sizes, n_samples in (([4, 16, 16, 1], 2000), ([64, 128, 128, 8], 200)):  # chunks, strips
        net = Network(sizes, activations="tanh", dtype="float32", rng=1)
        x = rng.normal(size=(n_samples, sizes[0])).astype("float32")
        y = rng.normal(size=(n_samples, sizes[-1])).astype("float32")
        problems.append((net, x, y, bits(net.value_and_grad(x, y, n_threads=1))))
    faulthandler.register(signal.SIGALRM, chain=True)  # a child that hangs prints its stacks and ends
    for from_then_on in (0, 1):
        for error, number in ERRORS.items():
            for k in range(1, N_THREADS + 1):
                reader, writer = os.pipe()
                pid = os.fork()
                if pid == 0:
                    signal.alarm(WATCH)
                    os.write(writer, json.dumps(threads_of_child(faults, problems, k, from_then_on, number)).encode())
                    os._exit(0)
                os.close(writer)
                with os.fdopen(reader) as pipe:
                    said = pipe.read()
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                answer = json.loads(said) if said else {"wrong": []}
                if code:
                    answer["wrong"].append(f"status {code}")
                print(json.dumps({"name": f"{error}, k = {k}{' and on' * from_then_on}", **answer}), flush=True)


def threads_of_child(faults, problems, k, from_then_on, error):
    """Calls while the k-th thread cannot be created, and calls after that."""
    wrong = []
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    expected = [right for _, _, _, right in problems * 3]

    def calls():
        return [bits(net.value_and_grad(x, y, n_threads=N_THREADS)) for net, x, y, _ in problems * 3]

    if faults.faults_call(calls, k, from_then_on, 1 << THREADS, error) != expected:
        wrong.append("other bits while threads fail")
    failures, workers = faults.faults_failed(), _core.worker_threads()
    if signal.pthread_sigmask(signal.SIG_BLOCK, []) != mask:
        wrong.append("the caller's signals are blocked otherwise than before")
    deadline = time.monotonic() + WATCH / 2
    while _core.worker_threads() < N_THREADS - 1 and time.monotonic() < deadline:  # tried again after a thousand runs
        if calls() != expected:
            wrong.append("other bits after threads failed")
            break
    return {"wrong": wrong, "failures": failures, "workers": workers, "later": _core.worker_threads()}


def main():
    faults = load()
    if sys.argv[1] == "allocations":
        allocations(faults, int(sys.argv[2]))
    elif sys.argv[1] == "leaks":
        leaks(faults)
    else:
        threads(faults)


if __name__ == "__main__":
    main()
