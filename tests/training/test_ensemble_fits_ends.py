"""How fits of many networks end before their end: signals, forks, no memory, activations that raise."""

import signal
import textwrap
import threading
import time

import numpy as np
import pytest
from epochs import METHODS
from members import accepted, data, ensemble, fit, one_by_one, solvers_of, train
from places import SUPPORT
from systems import needs_fork, needs_signals
from watched import run_watched

import backprop

SOLVERS = ["lbfgs", "lm"]


class Interruption(BaseException):
    pass


class Interrupted:
    """A signal to this thread once a fit has got somewhere, whose handler raises an Interruption."""

    def __init__(self, is_under_way):
        own = threading.get_ident()

        def wait_and_signal():
            while not is_under_way():
                time.sleep(0.02)
            signal.pthread_kill(own, signal.SIGUSR1)

        self.watcher = threading.Thread(target=wait_and_signal, daemon=True)

    def __enter__(self):
        def raise_it(*_):
            raise Interruption

        self.before = signal.signal(signal.SIGUSR1, raise_it)
        self.watcher.start()

    def __exit__(self, *error):
        self.watcher.join()
        signal.signal(signal.SIGUSR1, self.before)


@needs_signals
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("method", SOLVERS)
def test_a_handler_that_raises_leaves_the_last_accepted_points(method, n_threads):
    e, d = ensemble(), data(n=4000)
    solvers, params = solvers_of(e, method), e.params.copy()
    some_iterate = Interrupted(lambda: any(solver.n_iter for solver in solvers))
    with some_iterate, pytest.raises(Interruption):  # it would take minutes
        fit(e, d, solvers, params=params, tol=0, max_iter=10**5, n_threads=n_threads)
    done = [solver.n_iter for solver in solvers]
    assert any(done)
    for m, n in enumerate(done):
        whole = one_by_one(method, backprop.Ensemble._of(e[m], 1), d, tol=0, max_iter=n, start=e[m].params)
        assert np.array_equal(params[m], whole.params[0]), m
        assert np.array_equal(solvers[m].theta, whole.params[0]), m


@needs_signals
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("k", [6, 1000])
def test_a_handler_that_raises_leaves_whole_steps(k, n_threads):
    e, d = ensemble(k), data(n=200)
    rates = np.full((k, 20_000 if k == 6 else 200), 1e-3)
    state = train(e, d, None, 50, rates[:, :1], "adam")
    x, y, weights = accepted(e, d)
    losses, totals = np.zeros((2, *rates.shape, 4))
    arrays = rates, state.moments, state.progress, losses, totals, np.zeros(k, np.intp)
    call = e[0]._plan.run_epochs_of_networks
    with Interrupted(lambda: state.progress[:, 0].max() > 4), pytest.raises(Interruption):
        call(np.arange(k), state.params, x, y, weights, None, 50, *arrays, n_threads, **METHODS["adam"])
    steps = state.progress[:, 0].astype(int)
    assert steps.max() > 4
    for m in {0, 1, k - 1}:
        n, rest = divmod(steps[m], 4)
        one = backprop.Ensemble._of(e[m], 1)
        one.params = e[m].params[None]
        whole = train(one, d, None, 50, rates[:1, :1].repeat(n, 1), "adam")
        if rest:
            part = np.arange(50 * rest)[None, None]
            whole = train(one, d, part, 50, rates[:1, :1], "adam", state=whole)
        assert np.array_equal(state.params[m], whole.params[0]), m
        assert np.array_equal(state.moments[m], whole.moments[0]), m


FORK = """
import os, signal, sys
sys.path.insert(0, {support!r})
import numpy as np
from members import data, ensemble, fit, solvers_of, train

e, d = ensemble(), data(n=3000)
rates = np.full((6, 40), 1e-3)

def fitted(n_threads):
    if {method!r} == "adam":
        return train(e, d, None, 50, rates, "adam", n_threads=n_threads).params
    return fit(e, d, solvers_of(e, {method!r}), tol=0, max_iter={n_iter}, n_threads=n_threads).params

def handler(number, frame):
    pid = os.fork()
    if pid == 0:
        in_child.append(True)
        return
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    signal.setitimer(signal.ITIMER_REAL, 0.03)

in_child, codes = [], []
expected = fitted(1)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.03)
while len(codes) < 2:  # a fit may be over before the first signal
    is_right = np.array_equal(fitted(2), expected)
    if in_child:
        os._exit(0 if is_right else 3)
    assert is_right
signal.setitimer(signal.ITIMER_REAL, 0)
assert set(codes) == {{0}}, codes
"""


@needs_fork
@pytest.mark.alone
@pytest.mark.parametrize(("method", "n_iter"), [("lbfgs", 30), ("lm", 10), ("adam", 0)])
def test_a_signal_handler_that_forks(method, n_iter):
    """In the child no worker is left: networks that one was at begin this call anew."""
    run_watched(textwrap.dedent(FORK.format(method=method, n_iter=n_iter, support=str(SUPPORT))))


@pytest.mark.parametrize("method", SOLVERS)
def test_an_activation_that_raises(method):
    """The networks before it are fitted, it has its last accepted point, and those after it wait."""
    calls, limit = [], [10**9]

    def g(a):
        calls.append(len(a))
        if len(calls) > limit[0]:
            raise Interruption
        return np.tanh(a)

    own = backprop.Activation("own", g, lambda a: 1 - np.tanh(a) ** 2)
    e, d = ensemble(3, activations=own), data("own", k=3, n=30)
    whole = fit(e, d, solvers_of(e, method), tol=0, max_iter=6)
    limit[0], n_calls = len(calls) // 2, len(calls)
    calls.clear()
    assert n_calls > 20
    solvers, params = solvers_of(e, method), e.params.copy()
    with pytest.raises(Interruption):
        fit(e, d, solvers, params=params, tol=0, max_iter=6, n_threads=2)
    limit[0] = 10**9
    assert [solvers[0].n_iter, solvers[2].n_iter] == [6, 0]
    assert np.array_equal(params[[0, 2]], [whole.params[0], e.params[2]])
    assert np.array_equal(params[1], solvers[1].theta)
    fit(e, d, solvers, params=params, networks=[1, 2], tol=0, max_iter=6 - solvers[1].n_iter)
    assert np.array_equal(params[1], whole.params[1])
