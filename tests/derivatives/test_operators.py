"""`hvp_operator` and `gauss_newton_operator`: SciPy's operators, with the products of `hvp` and `gauss_newton_vp`."""

import numpy as np
import pytest
from problems import random_problem, same_bits
from scipy.sparse.linalg import LinearOperator, cg

from backprop import Network

OPERATORS = {"hvp_operator": "hvp", "gauss_newton_operator": "gauss_newton_vp"}
every_operator = pytest.mark.parametrize("name", OPERATORS)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def make(name, dtype, weight=None, **options):
    """A network, its operator on data, and a function v -> product by the call, with the same options."""
    rng = np.random.default_rng(0)
    problem = random_problem(rng, [3, 5, 2], activations=["tanh"], n_samples=7, dtype=dtype, weight=weight)
    positional, weights = problem.arguments()
    net = problem.net
    operator = getattr(net, name)(*positional, **weights, **options)

    def product(v, **other):
        return getattr(net, OPERATORS[name])(*positional, v, **weights, **(options | other))

    return net, operator, product


@every_operator
@every_dtype
@pytest.mark.parametrize("weight", [None, "sample", "entry"])
def test_products_have_the_bits_of_the_call(name, dtype, weight):
    net, operator, product = make(name, dtype, weight)
    assert isinstance(operator, LinearOperator)
    assert operator.shape == (net.n_params, net.n_params)
    assert operator.dtype == dtype
    vectors = np.random.default_rng(1).normal(size=(net.n_params, 3)).astype(dtype)
    v = vectors[:, 0].copy()
    for result in (operator.matvec(v), operator.rmatvec(v), operator @ v, operator.T @ v, operator.H @ v):
        assert same_bits(result, product(v))
    assert same_bits(operator.matvec(v[:, None]), product(v)[:, None])
    columns = np.stack([product(column) for column in vectors.T], axis=1)
    for result in (operator.matmat(vectors), operator.rmatmat(vectors), operator @ vectors):
        assert same_bits(result, columns)
    for n_threads in (1, 3):
        assert same_bits(operator @ v, product(v, n_threads=n_threads))


@every_operator
def test_without_params_it_follows_the_network(name):
    net, operator, product = make(name, "float64")
    v = np.random.default_rng(1).normal(size=net.n_params)
    before = operator @ v
    net.params = 0.5 * net.params
    assert same_bits(operator @ v, product(v))
    assert not np.array_equal(operator @ v, before)


@every_operator
def test_with_params_it_keeps_them(name):
    theta = np.random.default_rng(2).normal(size=32)
    net, operator, product = make(name, "float64", params=theta, n_threads=2)
    v = np.random.default_rng(1).normal(size=net.n_params)
    before = operator @ v
    assert same_bits(before, product(v, params=theta))
    assert not np.array_equal(before, product(v, params=net.params))
    net.params = 0.5 * net.params
    assert same_bits(operator @ v, before)


@every_operator
def test_conjugate_gradients_solve_with_it(name):
    """Newton's method for a linear regression: both matrices are the Hessian there."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    net = Network([3, 2], rng=0)
    first = np.linalg.norm(net.value_and_grad(x, y)[1])
    operator = getattr(net, name)(x, y)
    for _ in range(3):  # each to a relative error of 1e-5, SciPy's default, whose keyword differs between versions
        step, status = cg(operator, -net.value_and_grad(x, y)[1], atol=0.0)
        assert status == 0
        net.params = net.params + step
    assert np.linalg.norm(net.value_and_grad(x, y)[1]) < 1e-12 * first
    design = np.column_stack([x, np.ones(40)])
    right = np.linalg.lstsq(design, y, rcond=None)[0]
    W, b = net.unflatten(net.params)[0]
    np.testing.assert_allclose(np.column_stack([W, b]).T, right, rtol=1e-10)


@every_operator
@pytest.mark.parametrize("what", ["x", "y", "params", "sample_weight", "n_threads"])
def test_it_is_refused_when_made(name, what):
    net = Network([3, 2], rng=0)
    options = {"params": net.params[:-1], "sample_weight": np.zeros(4), "n_threads": 0}
    x, y = np.zeros((4, 3 - (what == "x"))), np.zeros((4 - (what == "y"), 2))
    with pytest.raises(ValueError, match=rf"^{what}: expected"):
        getattr(net, name)(x, y, **({what: options[what]} if what in options else {}))


@every_operator
def test_a_vector_of_another_length_is_refused(name):
    net, operator, _ = make(name, "float64")
    with pytest.raises(ValueError, match="dimension mismatch"):
        operator @ np.zeros(net.n_params + 1)
