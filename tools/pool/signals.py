"""Print the longest time between two signal handlers, for every call at its worst shapes.

    python tools/pool/signals.py                     # every row, one and two threads: minutes, and up to 6 GB of memory
    python tools/pool/signals.py hessian helper      # the rows whose names begin like this
    python tools/pool/signals.py --quick             # the shapes of test_signals.py
    python tools/pool/signals.py --short             # each sixth of them, judged by the thread's own time

A timer asks for a handler every 10 ms. The promise is 0.2 s; a longer gap is marked, and the exit status is 1 then.
`wall` is what a user waits, to which other programs add; `own` is the time of the calling thread alone.
"""

import argparse
import copy
import ctypes
import ctypes.util
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from scipy import LowLevelCallable

from backprop import Activation, Ensemble, Network, hidden_gradient, preactivation_gradient

PROMISE = 0.2  # seconds
INTERVAL = 0.01

Call = Callable[[int], Any]  # of the number of threads


class Row(NamedTuple):
    """A call at a shape. The tests take the quick shape, which is as bad, but smaller."""

    name: str
    sizes: list[int]
    n_samples: int
    quick: tuple[list[int], int]  # sizes and n_samples
    options: Mapping[str, Any] = MappingProxyType({})
    weighted: bool = False


class Gap(NamedTuple):
    """Seconds: the longest gap, and the whole call."""

    wall: float
    own: float
    total: float


# Calls ---------------------------------------------------------------------------------------------------------------


def problem(sizes: list[int], n_samples: int, *, weighted: bool = False, **options: Any) -> SimpleNamespace:
    """A network with data of the right shapes."""
    rng = np.random.default_rng(0)
    net = Network(sizes, **{"activations": "tanh", "dtype": "float32", "rng": 0, **options})
    x = rng.standard_normal((n_samples, sizes[0]), np.float32).astype(net.dtype, copy=False)
    y: Any = np.ones((n_samples, sizes[-1]), net.dtype)
    if options.get("loss") == "cross_entropy":
        y = rng.integers(0, sizes[-1], n_samples)
    weight = rng.uniform(0.5, 1.5, n_samples) if weighted else None
    v = np.full(net.n_params, 0.01, net.dtype)
    return SimpleNamespace(net=net, x=x, y=y, weight=weight, v=v)


def on_data(name: str) -> Callable[[SimpleNamespace], Call]:
    """A call that takes x, y and weights, and nothing else."""
    return lambda p: lambda n: getattr(p.net, name)(p.x, p.y, sample_weight=p.weight, n_threads=n)


def on_samples(name: str) -> Callable[[SimpleNamespace], Call]:
    """A call that takes x alone."""
    return lambda p: lambda n: getattr(p.net, name)(p.x, n_threads=n)


def along_v(name: str) -> Callable[[SimpleNamespace], Call]:
    """A call that takes x, y and a direction."""
    return lambda p: lambda n: getattr(p.net, name)(p.x, p.y, p.v, n_threads=n)


def vjp(p: SimpleNamespace) -> Call:
    cotangent = np.ones((len(p.x), p.net.sizes[-1]), p.net.dtype)
    return lambda n: p.net.vjp(p.x, cotangent, n_threads=n)


def input_hessian(p: SimpleNamespace) -> Call:
    multipliers = np.ones(p.net.sizes[-1], p.net.dtype)
    return lambda n: p.net.input_hessian(p.x, multipliers, n_threads=n)


def jet_vjp(p: SimpleNamespace) -> Call:
    cotangent = np.ones((len(p.x), p.net.sizes[-1], p.net.sizes[0]), p.net.dtype)
    return lambda n: p.net.jet_vjp(p.x, cot_dy=cotangent, cot_d2y=cotangent, n_threads=n)


def sobolev(p: SimpleNamespace) -> Call:
    grad_x = np.zeros((len(p.x), p.net.sizes[-1], p.net.sizes[0]), p.net.dtype)
    return lambda n: p.net.sobolev_value_and_grad(p.x, p.y, grad_x, 1.0, n_threads=n)


def pde(p: SimpleNamespace, *, is_product: bool = False) -> Call:
    """A differential equation with all coefficients, by a network of one output."""
    net = Network([*p.net.sizes[:-1], 1], activations=list(p.net.activations), dtype=p.net.dtype, rng=0)
    D = np.ones((p.net.sizes[0],) * 2)

    def call(n: int) -> Any:
        fun = net.pde_objective(p.x, 1.0, c=1.0, b=D[0], D=D, n_threads=n)
        return fun.hessp(net.params, net.params) if is_product else fun(net.params)

    return call


def ensemble(p: SimpleNamespace) -> Call:
    many = Ensemble(p.net, 2, rng=0)
    return lambda n: many.value_and_grad(p.x, p.y, n_threads=n)


def epochs(p: SimpleNamespace) -> Call:
    """An epoch of mini-batches by Adam, of rows by number."""
    net = copy.copy(p.net)  # a fit changes its params
    return lambda n: net.fit(p.x, p.y, solver="adam", max_iter=1, batch_size=128, rng=0, n_threads=n)


def hidden(p: SimpleNamespace) -> Call:
    grad_a = np.ones((len(p.x), p.net.sizes[1]), np.float32)
    W = np.ones((p.net.sizes[1], p.net.sizes[0]), np.float32)
    return lambda n: hidden_gradient(W, grad_a)


def preactivation(p: SimpleNamespace) -> Call:
    grad_h = np.ones_like(p.x)
    return lambda n: preactivation_gradient(grad_h, p.x, "mish")


def own_numpy(p: SimpleNamespace) -> Call:
    """An activation made of NumPy functions."""
    g = Activation("own", np.tanh, lambda a: 1 - np.tanh(a) ** 2)
    net = Network(p.net.sizes, activations=g, dtype="float32", rng=0)
    return lambda n: net.value_and_grad(p.x, p.y, n_threads=n)


def own_c(p: SimpleNamespace) -> Call:
    """An activation made of functions of the C library."""
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else ctypes.util.find_library("m"))
    for function in (library.sinh, library.cosh):
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
    g = Activation("own", LowLevelCallable(library.sinh), LowLevelCallable(library.cosh))
    net = Network(p.net.sizes, activations=g, dtype="float32", rng=0)
    return lambda n: net.value_and_grad(p.x, p.y, n_threads=n)


def conversion(p: SimpleNamespace) -> Call:
    """Samples of another dtype and order."""
    x = np.asfortranarray(p.x.astype(np.float64))
    return lambda n: p.net.loss(x, p.y, n_threads=n)


CALLS: dict[str, Callable[[SimpleNamespace], Call]] = {
    "value_and_grad": on_data("value_and_grad"),
    "loss": on_data("loss"),
    "forward": on_samples("forward"),
    "vjp": vjp,
    "jvp": lambda p: lambda n: p.net.jvp(p.x, p.v, n_threads=n),
    "input_gradient": on_data("input_gradient"),
    "input_jacobian": on_samples("input_jacobian"),
    "jacobian": on_samples("jacobian"),
    "per_sample_gradients": on_data("per_sample_gradients"),
    "per_sample_gradient_norms": on_data("per_sample_gradient_norms"),
    "clipped_gradient": lambda p: lambda n: p.net.clipped_gradient(p.x, p.y, max_norm=1e-3, n_threads=n),
    "hvp": along_v("hvp"),
    "gauss_newton_vp": along_v("gauss_newton_vp"),
    "hessian": on_data("hessian"),
    "normal_equations": on_data("normal_equations"),
    "sobolev_value_and_grad": sobolev,
    "laplacian": on_samples("laplacian"),
    "input_hessian": input_hessian,
    "input_jet": on_samples("input_jet"),
    "jet_vjp": jet_vjp,
    "pde_value_and_grad": pde,
    "pde_gauss_newton_vp": lambda p: pde(p, is_product=True),
    # Not in the table of calls.
    "layer_gradients": lambda p: lambda n: p.net.layer_gradients(p.x, p.y, n_threads=n),
    "ensemble": ensemble,
    "fit adam": epochs,
    "helper hidden_gradient": hidden,
    "helper preactivation_gradient": preactivation,
    "helper activation of C": own_c,
    "helper activation of NumPy": own_numpy,
    "helper conversion": conversion,
}

# Shapes --------------------------------------------------------------------------------------------------------------


def rows() -> list[Row]:
    """The worst shapes known for each call."""
    softmax = {"loss": "cross_entropy"}
    mish = {"activations": "mish"}
    wide, narrow = [1, 300_000, 1], ([1, 120_000, 1], 512)
    return [
        Row("value_and_grad", [2, 100_000], 512, ([2, 60_000], 512), softmax),
        Row("value_and_grad", wide, 512, narrow, mish),
        Row("value_and_grad", [1000, 100_000, 1], 64, ([1000, 3000, 1], 256)),
        Row("loss", [1, 1], 100_000_000, ([1, 1], 10_000_000), weighted=True),
        Row("loss", [2, 100_000], 1024, ([2, 60_000], 512), softmax),
        Row("forward", [2, 100_000], 1024, ([2, 60_000], 512), softmax),
        Row("forward", wide, 1024, narrow, mish),
        Row("vjp", wide, 512, narrow, mish),
        Row("jvp", wide, 512, narrow, mish),
        Row("input_gradient", [100_000, 4, 1], 2048, ([100_000, 4, 1], 256)),
        Row("input_gradient", wide, 512, narrow, mish),
        Row("input_jacobian", [10, 3000], 256, ([10, 700], 256), softmax),
        Row("jacobian", [4, 400], 256, ([4, 300], 128)),
        Row("per_sample_gradients", [1000, 1000, 1], 512, ([400, 400, 1], 256)),
        Row("per_sample_gradient_norms", wide, 512, narrow, mish),
        Row("clipped_gradient", wide, 512, narrow, mish),
        Row("hvp", wide, 256, ([1, 60_000, 1], 512), mish),
        Row("gauss_newton_vp", [2, 100_000], 256, ([2, 60_000], 512), softmax),
        Row("hessian", [100, 100, 1], 256, ([70, 70, 1], 64), mish),
        Row("normal_equations", [50, 90, 10], 256, ([40, 60, 10], 128)),
        Row("normal_equations", [2, 2, 300], 512, ([2, 2, 180], 256)),
        Row("sobolev_value_and_grad", [20, 32, 1000], 128, ([20, 32, 700], 128)),
        Row("laplacian", [300, 300, 1], 256, ([200, 200, 1], 512), mish),
        Row("laplacian", wide, 256, narrow, mish),
        Row("input_hessian", [300, 300, 1], 256, ([200, 200, 1], 512), mish),
        Row("input_hessian", [3000, 3000, 1], 1, ([3000, 1500, 1], 1), mish),
        Row("input_jet", [10, 3000], 1024, ([10, 700], 2048), softmax),
        Row("jet_vjp", [300, 300, 1], 64, ([150, 150, 1], 512), mish),
        Row("jet_vjp", wide, 256, ([1, 60_000, 1], 512), mish),
        Row("jet_vjp", [20, 4000], 64, ([20, 3000], 64), softmax),
        Row("pde_value_and_grad", [100, 300, 1], 512, ([50, 150, 1], 2048), mish),
        Row("pde_value_and_grad", wide, 256, ([1, 60_000, 1], 512), mish),
        Row("pde_gauss_newton_vp", [100, 300, 1], 512, ([50, 150, 1], 2048), mish),
        Row("pde_gauss_newton_vp", wide, 256, ([1, 60_000, 1], 512), mish),
        Row("layer_gradients", wide, 256, ([1, 60_000, 1], 256), mish),
        Row("ensemble", wide, 256, ([1, 60_000, 1], 256), mish),
        Row("fit adam", wide, 256, ([1, 60_000, 1], 256), mish),
        Row("fit adam", [1000, 100_000, 1], 256, ([1000, 3000, 1], 256)),
        Row("helper hidden_gradient", [1000, 1000, 1], 4000, ([700, 700, 1], 2000)),
        Row("helper preactivation_gradient", [5000, 1], 10_000, ([3000, 1], 4000), mish),
        Row("helper activation of C", [1, 100_000, 1], 256, ([1, 60_000, 1], 128)),
        Row("helper activation of NumPy", [1, 100_000, 1], 256, ([1, 60_000, 1], 256)),
        Row("helper conversion", [100, 1], 1_000_000, ([100, 1], 200_000)),
    ]


def prepare(row: Row, *, quick: bool) -> tuple[SimpleNamespace, Call]:
    """The row's network and data, and the call."""
    sizes, n_samples = row.quick if quick else (row.sizes, row.n_samples)
    p = problem(sizes, n_samples, weighted=row.weighted, **row.options)
    return p, CALLS[row.name](p)


# Measuring -----------------------------------------------------------------------------------------------------------


def longest_gap(call: Callable[[], Any]) -> Gap:
    """The longest time between two handlers within the call, or between one of them and its start or end."""
    heard: list[tuple[float, float]] = []

    def note(*_: object) -> None:
        heard.append((time.perf_counter(), time.thread_time()))

    old = signal.signal(signal.SIGALRM, note)
    signal.setitimer(signal.ITIMER_REAL, INTERVAL, INTERVAL)
    try:
        note()
        result = call()
        note()
        del result
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    times = np.array(heard)
    wall, own = np.diff(times, axis=0).max(axis=0)
    return Gap(float(wall), float(own), float(times[-1, 0] - times[0, 0]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="beginnings of the names of rows (default: all rows)")
    parser.add_argument("--quick", action="store_true", help="the shapes of the tests")
    parser.add_argument("--short", action="store_true", help="each sixth of the quick rows, judged by their own time")
    arguments = parser.parse_args()
    quick, step = arguments.quick or arguments.short, 6 if arguments.short else 1
    late = 0
    print(f"{'call':<30} {'sizes':<15} {'samples':>9} {'threads':>7} {'wall':>6} {'own':>6} {'of':>7}  seconds")
    for row in rows()[::step]:
        if arguments.names and not row.name.startswith(tuple(arguments.names)):
            continue
        sizes, n_samples = row.quick if quick else (row.sizes, row.n_samples)
        _, call = prepare(row, quick=quick)
        for n_threads in (1, 2):
            gap = longest_gap(lambda call=call, n_threads=n_threads: call(n_threads))
            is_late = (gap.own if arguments.short else gap.wall) > PROMISE
            late += is_late
            print(
                f"{row.name:<30} {'-'.join(map(str, sizes)):<15} {n_samples:>9} {n_threads:>7} {gap.wall:>6.3f} "
                f"{gap.own:>6.3f} {gap.total:>7.2f}{'  too long' if is_late else ''}",
                flush=True,
            )
        del call, _
    return int(late > 0)


if __name__ == "__main__":
    sys.exit(main())
