"""Second derivatives by the inputs that are timed: networks, data, and what each call costs at the least."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from cases import Case, case_of, make_problem

CALLS = ("laplacian", "input_hessian", "input_jet", "pde_value_and_grad")
TARGETS = dict.fromkeys(CALLS, 3.0)  # how many times faster than the best peer
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}  # largest relative difference from ours in the 2-norm of any array
OF_LIMIT = 60.0  # per cent; the target is met then, if no peer is faster; both by least times


@dataclass(frozen=True)
class InputCase:
    """One call on one network with one output.

    Attributes
    ----------
    call : str
        A method of `Network`, with its defaults; "pde_value_and_grad" is a call of the objective of Poisson's equation:
        the mean of (u_11 + u_22 + ... - f)^2, and its gradient by all parameters.
    network : Case
    """

    call: str
    network: Case

    @property
    def name(self):
        """The call and the network."""
        return f"{self.call} {self.network.name}"

    @property
    def k(self):
        """Networks, as in `DerivativeCase`."""
        return 1

    @property
    def flops(self):
        """Multiplications and additions of the matrix products, in the cheapest way that is known.

        The tangents of a_1 are columns of W_1, and need no product. A tangent of the output is needed if it is part of
        the result. The first product back from the output is a row of W_L.
        """
        sizes, n = self.network.sizes, self.network.n_samples
        products = [n_out * n_in for n_in, n_out in pairwise(sizes)]
        everything, first, last, n_in = sum(products), products[0], products[-1], sizes[0]
        hidden = everything - first
        inner = hidden - last
        # Back once, then a sum over the units for each pair of axes. This is cheaper than n_in second tangents forward.
        n_pairs = n_in * (n_in + 1) // 2
        multiplications = {
            "laplacian": everything + n_in * inner + hidden,
            "input_hessian": everything + inner + n_in * inner + n_pairs * sum(sizes[1:-1]),
            "input_jet": everything + inner + n_in * hidden + n_in * sum(sizes[1:-1]),
            # The Laplacian; back, for h, each tangent and the sum of the second ones; the gradients of the weights.
            "pde_value_and_grad": (everything + n_in * inner + hidden)
            + (2 + n_in) * inner
            + (everything - last + n_in * inner + hidden),
        }
        return 2 * n * multiplications[self.call]

    @property
    def result_shape(self):
        """Shape of an array of as many entries as the result."""
        sizes, n = self.network.sizes, self.network.n_samples
        n_in, n_params = sizes[0], sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
        return {
            "laplacian": (n, 1),
            "input_hessian": (n, n_in, n_in),
            "input_jet": (n, 2 * n_in + 1),
            "pde_value_and_grad": (n_params,),
        }[self.call]


NETWORKS = [
    case_of("1-20-20-20-1@100", "tanh"),
    case_of("1-20-20-20-1@10000", "sin"),
    case_of("2-50x4-1@1000", "tanh"),
    case_of("2-64-64-64-1@1", "tanh"),
    case_of("2-64-64-64-1@100", "gelu"),
    case_of("2-64-64-64-1@10000", "tanh"),
    case_of("3-128-128-128-1@100", "gelu"),
    case_of("3-128-128-128-1@1000", "tanh"),
    case_of("10-64-64-1@1", "tanh"),
    case_of("10-64-64-1@100", "sin"),
    case_of("10-128-128-1@1000", "tanh"),
    case_of("10-128-128-1@10000", "gelu"),
]
CASES = [InputCase(call, network) for network in NETWORKS for call in CALLS]
QUICK = [case for case in CASES if case.network.name in ("2-64-64-64-1@100", "2-50x4-1@1000")]


@dataclass
class InputProblem:
    """A case with its numbers, which are the same for every library.

    Attributes
    ----------
    case : InputCase
    dtype : numpy.dtype
    x : (n_samples, n_0) array
    f : (n_samples, 1) array
        The right side of Poisson's equation.
    layers : list of (W_i, b_i)
    """

    case: InputCase
    dtype: np.dtype
    x: np.ndarray
    f: np.ndarray
    layers: list


def make_input_problem(case, dtype):
    """The problem of the gradient on this network; its targets are the right side of the equation."""
    problem = make_problem(case.network, dtype)
    return InputProblem(case, problem.dtype, problem.x, problem.y, problem.layers)
