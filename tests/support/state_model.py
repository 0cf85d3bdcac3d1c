"""The model of a network in tests/api/test_state_machine.py, and how results are compared; no test."""

import numpy as np
from problems import PARAMETERS, Problem, random_targets, random_weights, with_layout
from reference_calls import ReferenceCalls

TOLERANCE = {"float64": 1e-9, "float32": 1e-3}


def spec(name, with_parameter):
    return (name, PARAMETERS[name]) if with_parameter and name in PARAMETERS else name


class Model:
    """A network, and what its parameters have to be."""

    def __init__(self, net, theta, hidden, output, loss):
        self.net, self.theta, self.how = net, theta, (hidden, output, loss)

    def problem(self, rng, n_samples, by=None, layout="plain"):
        """Data for a call."""
        hidden, output, loss = self.how
        name = loss[0] if isinstance(loss, tuple) else loss
        by = "sample" if by and name == "cross_entropy" else by
        dtype, (n_in, *_, n_out) = self.net.dtype, self.net.sizes
        x = rng.normal(size=(n_samples, n_in)).astype(dtype)
        y = random_targets(rng, loss, n_samples, n_out, dtype, bool(rng.random() < 0.5))
        weight = random_weights(rng, by, n_samples, n_out)
        layout_of = lambda array: array if array is None else with_layout(array, layout)  # noqa: E731
        return Problem(self.net, hidden, output, loss, layout_of(x), layout_of(y), y, layout_of(weight))

    def reference(self, problem, theta=None):
        theta = self.theta if theta is None else theta
        return ReferenceCalls(problem.specification, theta.astype(float), *problem.data)


def assert_near(results, expected, dtype):
    results, expected = ([*part] if isinstance(part, tuple | list) else [part] for part in (results, expected))
    assert len(results) == len(expected)
    for result, right in zip(results, expected, strict=True):
        assert np.shape(result) == np.shape(right)
        error = np.abs(np.asarray(result, float) - right).max(initial=0)
        assert error <= TOLERANCE[dtype.name] * max(1.0, np.abs(right).max(initial=0))
