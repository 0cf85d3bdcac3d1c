"""Random problems for second derivatives by the inputs, every call of them, and the same by the reference; no test.

A call takes a network and a problem, and gives a list of arrays. `judge` is the same call by `reference.jets`, with
g', g'' and g''' from complex steps, so that no formula of a derivative is on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from problems import ACTIVATION_NAMES, LOSS_NAMES, PARAMETERS, Y_HAT_LOSSES, Problem, random_problem, random_weights

from backprop.reference import jets

DIRECTIONS = ["axes", "shared", "by sample"]
COTANGENTS = [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)]
LIMIT = 3.7  # no a_i is larger, and the largest is not at a kink


@dataclass
class JetProblem:
    """A network with the arguments of all calls, each in the network's dtype and rounded once."""

    problem: Problem
    directions: np.ndarray | None
    multipliers: np.ndarray
    cotangents: list  # of y, dy and d2y
    f: np.ndarray
    c: np.ndarray
    b: np.ndarray
    D: np.ndarray
    weight: np.ndarray | None
    v: np.ndarray

    @property
    def net(self):
        return self.problem.net

    @property
    def x(self):
        return self.problem.x

    def rows(self, rows):
        """The problem for some rows of x, and of whatever else has one row a sample."""
        n = len(self.x)
        problem = replace(self.problem, x=self.x[rows])
        by_sample = {name: getattr(self, name) for name in ("directions", "multipliers", "f", "c", "b", "D", "weight")}
        most = {"directions": 3, "multipliers": 2, "f": 1, "c": 1, "b": 2, "D": 3, "weight": 1}
        taken = {
            name: array[rows] if array is not None and array.ndim == most[name] and len(array) == n else array
            for name, array in by_sample.items()
        }
        return replace(
            self, problem=problem, cotangents=[c if c is None else c[rows] for c in self.cotangents], **taken
        )

    def wide(self):
        """The arguments network, theta and x of the reference."""
        theta = np.array(self.net.params, float)
        return self.problem.specification, theta, np.array(self.x, float)

    @property
    def equation(self):
        D = np.array(self.D, float)
        D = D * np.eye(self.x.shape[1]) if D.ndim == 0 else D
        return jets.Equation(np.array(self.c, float), np.array(self.b, float), D)


def given(array):
    """An argument of the reference: float64, or None."""
    return None if array is None else np.array(array, float)


def draw_sizes(rng, widest, most_inputs, n_out):
    """1 to 4 layers, with widths whose logarithms are uniform."""
    hidden = np.exp(rng.uniform(0, np.log(widest), rng.integers(0, 4))).round().astype(int).tolist()
    return [int(rng.integers(1, most_inputs + 1)), *hidden, n_out]


def draw(
    number, call, dtype="float64", *, widest=40, most_inputs=7, n_samples=None, activations=None, sizes=None, **fixed
):
    """A random problem for a call: sizes, activations, output or loss, directions, cotangents and equation vary."""
    rng = np.random.default_rng([41, number, list(CALLS).index(call)])
    is_equation = CALLS[call].is_equation
    n_out = 1 if is_equation else int(rng.integers(1, 5))
    sizes = draw_sizes(rng, widest, most_inputs, n_out) if sizes is None else sizes
    n = (1000 if number % 10 == 9 else int(rng.choice([1, 2, 7, 33]))) if n_samples is None else n_samples
    names = ACTIVATION_NAMES if activations is None else activations
    specs = [(name, PARAMETERS[name]) if rng.random() < 0.5 and name in PARAMETERS else name for name in names]
    hidden, output = [specs[i] for i in rng.integers(0, len(specs), len(sizes) - 2)], specs[rng.integers(len(specs))]
    loss = fixed.get("loss", "squared_error" if is_equation else LOSS_NAMES[number % len(LOSS_NAMES)])
    output = fixed.get("output", output if loss in Y_HAT_LOSSES else "identity")
    problem = random_problem(
        rng, sizes, activations=hidden, output=output, loss=loss, dtype=dtype, n_samples=n, limit=LIMIT
    )
    return _with_arguments(rng, problem, number)


def _with_arguments(rng, problem, number):
    n, (n_in, *_, n_out), dtype = len(problem.x), problem.net.sizes, problem.net.dtype

    def normal(*shape):
        return rng.normal(size=shape).astype(dtype)

    kind, k = DIRECTIONS[number % 3], int(rng.integers(1, 6))
    directions = {"axes": None, "shared": normal(k, n_in), "by sample": normal(n, k, n_in)}[kind]
    k = n_in if directions is None else k
    shapes = [(n, n_out), (n, n_out, k), (n, n_out, k)]
    kept = COTANGENTS[number % len(COTANGENTS)]
    own = (n,) if number % 4 == 1 else ()
    D = [normal(n_in, n_in), normal(n, n_in, n_in), np.diag(normal(n_in)), np.array(1.0, dtype)][number % 4]
    return JetProblem(
        problem,
        directions,
        normal(n, n_out) if number % 2 else normal(n_out),
        [normal(*shape) if is_kept else None for shape, is_kept in zip(shapes, kept, strict=True)],
        normal(n),
        normal(*own),
        normal(*own, n_in),
        D,
        random_weights(rng, "sample", n, 1).astype(dtype) if number % 3 == 1 else None,
        normal(problem.net.n_params),
    )


# The calls -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A call on a network, the same by the reference, and which of its results have one row a sample."""

    run: Callable
    judge: Callable
    by_row: tuple[bool, ...]
    is_equation: bool = False


def _input_hessian(net, p, **options):
    return [net.input_hessian(p.x, p.multipliers, **options)]


def _laplacian(net, p, **options):
    return [net.laplacian(p.x, **options)]


def _input_jet(net, p, **options):
    jet = net.input_jet(p.x, p.directions, **options)
    return [jet.y, jet.dy, jet.d2y]


def _jet_vjp(net, p, **options):
    return list(net.jet_vjp(p.x, *p.cotangents, p.directions, **options))


def _pde_objective(net, p, **options):
    fun = net.pde_objective(p.x, p.f, c=p.c, b=p.b, D=p.D, sample_weight=p.weight, **options)
    theta = np.array(net.params, float)
    value, gradient = fun(theta)
    return [value, gradient, fun.hessp(theta, p.v)]


def _judge_of_the_equation(p, theta, x, by_step):
    network, equation, weight = p.problem.specification, p.equation, given(p.weight)
    value, gradient = jets.pde_value_and_grad(network, theta, x, given(p.f), equation, weight, by_step=by_step)
    product = jets.pde_gauss_newton_vp(network, theta, given(p.v), x, equation, weight, by_step=by_step)
    return [value, gradient, product]


def _judge_of(function, *names):
    def judge(p, theta, x, by_step):
        arguments = [given(getattr(p, name)) for name in names]
        results = function(p.problem.specification, theta, x, *arguments, by_step=by_step)
        return list(results) if isinstance(results, tuple) else [results]

    return judge


def _judge_of_jet_vjp(p, theta, x, by_step):
    cotangents, directions = [given(cotangent) for cotangent in p.cotangents], given(p.directions)
    return list(jets.jet_vjp(p.problem.specification, theta, x, *cotangents, directions, by_step=by_step))


CALLS = {
    "input_hessian": Call(_input_hessian, _judge_of(jets.input_hessian, "multipliers"), (True,)),
    "laplacian": Call(_laplacian, _judge_of(jets.laplacian), (True,)),
    "input_jet": Call(_input_jet, _judge_of(jets.input_jet, "directions"), (True, True, True)),
    "jet_vjp": Call(_jet_vjp, _judge_of_jet_vjp, (False, True)),
    "pde_objective": Call(_pde_objective, _judge_of_the_equation, (False, False, False), True),
}


def run(call, p, **options):
    return CALLS[call].run(p.net, p, **options)


def judge(call, p, by_step=True):
    """The results by the reference, by complex steps or by its formulas, at the numbers that the network has."""
    _, theta, x = p.wide()
    return CALLS[call].judge(p, theta, x, by_step)


N_CHANGES = 4


def changes(call, p):
    """How far relative changes of eps in all parameters and inputs move each result, in units of eps: 2-norms."""
    rng = np.random.default_rng(5)
    _, theta, x = p.wide()
    exact, size = CALLS[call].judge(p, theta, x, True), 1e-6
    squares = [0.0] * len(exact)
    for _ in range(N_CHANGES):
        moved = (array * (1 + size * rng.choice([-1.0, 1.0], array.shape)) for array in (theta, x))
        for place, (result, right) in enumerate(zip(CALLS[call].judge(p, *moved, True), exact, strict=True)):
            squares[place] += (np.abs(np.subtract(result, right)) ** 2).sum() / size**2
    return [np.sqrt(square / N_CHANGES) for square in squares]


def digests():
    """One digest of each call's bits in each dtype, for tests in other processes."""
    sums = {}
    for call in CALLS:
        for dtype in ("float32", "float64"):
            digest = hashlib.sha256()
            for number in range(24):
                p = draw(number, call, dtype, n_samples=[1, 5, 70, 300][number % 4])
                for result in run(call, p):
                    digest.update(np.ascontiguousarray(result).tobytes())
            sums[f"{call} {dtype}"] = digest.hexdigest()
    return sums
