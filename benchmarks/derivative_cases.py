"""The other derivatives that are timed: networks, data, and what each call costs at the least."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from cases import SMOOTH, Case, case_of, make_problem

TARGETS = {  # how many times faster than the best peer
    "per_sample_gradients": 4.0,
    "per_sample_gradient_norms": 50.0,
    "clipped_gradient": 15.0,
    "input_gradient": 3.0,
    "input_jacobian": 3.0,
    "jacobian": 4.0,
    "normal_equations": 4.0,
    "jvp": 3.0,
    "vjp": 3.0,
    "hvp": 3.0,
    "hessp": 3.0,
    "gauss_newton_vp": 3.0,
    "sobolev": 3.0,
    "hessian": 5.0,
    "ensemble": 3.0,
}


@dataclass(frozen=True)
class DerivativeCase:
    """One call on one network.

    Attributes
    ----------
    call : str
        A key of TARGETS: a method of `Network`; "sobolev" or "ensemble" for their `value_and_grad`; "hessp" for that of
        an objective, called again and again at one theta.
    network : Case
    k : int
        Networks of an ensemble.
    """

    call: str
    network: Case
    k: int = 1

    @property
    def name(self):
        """The call and the network, after k for ensembles."""
        return f"{self.call} {f'{self.k}x ' if self.call == 'ensemble' else ''}{self.network.name}"

    @property
    def flops(self):
        """Multiplications and additions of the matrix products, in the cheapest way that is known.

        The first hidden layer needs no gradient of its input, unless the call asks for one. The first product back from
        a unit vector is a row of W_L.
        """
        sizes, n = self.network.sizes, self.network.n_samples
        products = [n_out * n_in for n_in, n_out in pairwise(sizes)]
        everything, first, last, n_out = sum(products), products[0], products[-1], sizes[-1]
        hidden = everything - first  # the products back, or of a tangent that starts at a_1
        forward, weights, n_params = everything, everything, self.n_params
        unit = hidden - last if len(products) > 1 else 0  # back from one output to a_1
        multiplications = {
            "per_sample_gradients": forward + hidden,
            "per_sample_gradient_norms": forward + hidden,
            "clipped_gradient": forward + hidden + weights,
            "input_gradient": forward + hidden + first,
            "input_jacobian": forward + n_out * (everything - last if len(products) > 1 else 0),
            "jacobian": forward + n_out * unit,
            "normal_equations": forward + n_out * unit + n_out * n_params**2 / 2,
            "jvp": forward + everything + hidden,
            "vjp": forward + everything + weights,
            "hvp": forward + hidden + everything + hidden + 2 * hidden + weights + hidden,
            "hessp": everything + hidden + 2 * hidden + weights + hidden,
            "gauss_newton_vp": forward + everything + hidden + hidden + weights,
            # One sweep back serves the loss and all outputs, because it is linear in them.
            "sobolev": forward + n_out * (unit + first + everything + weights) + hidden + weights,
            "hessian": forward + hidden + self._hessian(),
            "ensemble": self.k * (forward + hidden + weights),
        }
        return 2 * n * multiplications[self.call]

    def _hessian(self):
        """The part from the tangents along the a of each unit: half of the sums of h times h for each pair of units."""
        sizes = self.network.sizes
        inner = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes[1:]))
        return self.n_params**2 / 2 + 2 * sum(sizes[1:]) * inner / 2

    @property
    def n_params(self):
        """Parameters of one network."""
        sizes = self.network.sizes
        return sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))

    @property
    def result_shape(self):
        """Shape of the result, or of the larger one of two."""
        sizes, n = self.network.sizes, self.network.n_samples
        P, n_in, n_out = self.n_params, sizes[0], sizes[-1]
        return {
            "per_sample_gradients": (n, P),
            "per_sample_gradient_norms": (n,),
            "input_gradient": (n, n_in),
            "input_jacobian": (n, n_out, n_in),
            "jacobian": (n, n_out, P),
            "normal_equations": (P, P),
            "jvp": (n, n_out),
            "hessian": (P, P),
            "ensemble": (self.k, P),
        }.get(self.call, (P,))

    @property
    def has_kinks(self):
        """Whether rounding may put a unit on the other side of a kink."""
        return self.network.activation not in SMOOTH


def _cases(calls, *networks, k=1):
    return [DerivativeCase(call, case_of(*network), k) for network in networks for call in calls]


CE = "cross_entropy"
CASES = [
    *_cases(
        ["per_sample_gradients", "per_sample_gradient_norms", "clipped_gradient"],
        ("30-128-128-10@2000", "tanh", CE),
        ("784-128-10@64", "relu", CE),
        ("4-32-32-1@1000", "silu"),
    ),
    *_cases(["input_gradient", "input_jacobian"], ("2-50x4-1@1000", "tanh"), ("3-24-24-1@7", "silu")),
    *_cases(["input_jacobian"], ("7-64-64-3@256", "tanh")),
    *_cases(["jacobian", "normal_equations"], ("4-16-16-2@200", "tanh")),
    *_cases(["jacobian"], ("2-50x4-1@1000", "tanh")),
    *_cases(["jvp", "vjp", "hvp", "hessp", "gauss_newton_vp"], ("20-100-100-3@1000", "tanh"), ("4-16-16-1@32", "silu")),
    *_cases(["hvp", "gauss_newton_vp"], ("64-100-10@200", "gelu", CE)),
    *_cases(["hvp", "hessp"], ("784-128-10@1000", "relu", CE), ("64-100-10@1000", "tanh", CE)),
    *_cases(["sobolev"], ("4-32-32-1@1000", "tanh"), ("7-64-64-3@256", "tanh")),
    *_cases(["hessian"], ("2-8-8-1@100", "tanh"), ("4-16-1@200", "tanh")),
    *_cases(["ensemble"], ("8-32-32-1@256", "tanh"), ("8-64-64-1@256", "tanh"), k=8),
    *_cases(["ensemble"], ("8-32-32-1@256", "tanh"), ("8-64-64-1@256", "tanh"), k=32),
]
QUICK = [
    case
    for case in CASES
    if case.network.name in ("30-128-128-10@2000", "3-24-24-1@7", "4-16-16-2@200", "20-100-100-3@1000", "2-8-8-1@100")
    or (case.call in ("sobolev", "ensemble") and case.k < 32 and 32 in case.network.sizes)
]


def by_name(name):
    """The case of this name."""
    return next(case for case in CASES if case.name == name)


@dataclass
class DerivativeProblem:
    """A case with its numbers, which are the same for every library.

    Attributes
    ----------
    case : DerivativeCase
    dtype : numpy.dtype
    x, y : arrays
        As in `cases.Problem`.
    layers : list of (W_i, b_i)
        With a first dimension k for ensembles.
    v : list of (V_i, v_i)
        A direction of the parameters.
    cotangent : (n_samples, n_L) array
    grad_x : (n_samples, n_L, n_0) array
        Targets of Sobolev training.
    max_norm : float
        About half of the samples' gradients are longer.
    """

    case: DerivativeCase
    dtype: np.dtype
    x: np.ndarray
    y: np.ndarray
    layers: list
    v: list
    cotangent: np.ndarray
    grad_x: np.ndarray
    max_norm: float = 1.0


SOBOLEV_WEIGHT = 0.5


def make_derivative_problem(case, dtype):
    """The problem of the gradient on this network, with directions and more targets."""
    problem = make_problem(case.network, dtype)
    rng = np.random.default_rng(1)
    sizes, n = case.network.sizes, case.network.n_samples

    def like(array):
        return rng.standard_normal(array.shape).astype(problem.dtype)

    layers = problem.layers
    if case.call == "ensemble":
        layers = [tuple(np.stack([p, *(p + 0.1 * like(p) for _ in range(case.k - 1))]) for p in lay) for lay in layers]
    return DerivativeProblem(
        case,
        problem.dtype,
        problem.x,
        problem.y,
        layers,
        [(like(W), like(b)) for W, b in problem.layers],
        rng.standard_normal((n, sizes[-1])).astype(problem.dtype),
        rng.standard_normal((n, sizes[-1], sizes[0])).astype(problem.dtype),
    )
