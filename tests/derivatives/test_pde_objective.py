"""`pde_objective` is the mean squared residual of a differential equation: values, gradients and Gauss-Newton."""

import copy
import itertools
import pickle
import re

import numpy as np
import pytest
from problems import relative_error, same_bits, with_layout
from scipy.optimize import check_grad, minimize

from backprop import Activation, Network
from backprop.api import warn_once
from backprop.losses import LOSSES
from backprop.reference import jets

RNG = np.random.default_rng(0)
N, N_IN = 40, 3
X, F, W = RNG.normal(size=(N, N_IN)), RNG.normal(size=N), RNG.uniform(1, 2, size=N)
W[::3] = 0
C, B, D = RNG.normal(size=N), RNG.normal(size=(N, N_IN)), RNG.normal(size=(N, N_IN, N_IN))
TOLERANCE = {"float64": 1e-12, "float32": 3e-5}

OF_C = {"0": 0.0, "number": -1.5, "by sample": C}
OF_B = {"None": None, "constant": B[0], "by sample": B}
OF_D = {"None": None, "number": 0.7, "constant": D[0], "by sample": D}


def network(dtype="float64", sizes=(N_IN, 7, 5, 1), **options):
    return Network(sizes, **({"activations": "tanh", "rng": 0, "dtype": dtype} | options))


def reference(net, x, f, c=0.0, b=None, D=None, weight=None, theta=None, v=None):
    """Loss, gradient and J^T (2 w / sum w) J v of the specification."""
    n_in = net.sizes[0]
    D = 0.0 if D is None else D
    equation = jets.Equation(
        np.asarray(c, float),
        np.broadcast_to(0.0 if b is None else b, (n_in,)) if np.ndim(0 if b is None else b) < 2 else b,
        np.eye(n_in) * D if np.ndim(D) == 0 else np.asarray(D, float),
    )
    layers = [layer for layer in net._architecture.layers]
    of = (net.sizes, layers, (LOSSES["squared_error"], None))
    theta = net.params.astype(float) if theta is None else theta
    f = np.broadcast_to(f, len(x))
    kept = np.ones(len(x), bool) if weight is None else weight > 0
    equation = jets.Equation(
        *(a[kept] if a.ndim > k else a for k, a in enumerate((equation.c, equation.b, equation.D)))
    )
    x, f, weight = x[kept], f[kept], None if weight is None else weight[kept]
    loss, grad = jets.pde_value_and_grad(of, theta, x, f, equation, weight)
    return loss, grad, None if v is None else jets.pde_gauss_newton_vp(of, theta, v, x, equation, weight)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("of_D", OF_D)
@pytest.mark.parametrize("of_b", OF_B)
@pytest.mark.parametrize("of_c", OF_C)
def test_every_form_of_coefficients(of_c, of_b, of_D, dtype):
    net, weight = network(dtype), W if of_c == "number" else None
    given = {"c": OF_C[of_c], "b": OF_B[of_b], "D": OF_D[of_D]}
    fun = net.pde_objective(X, F, **given, sample_weight=weight)
    v = RNG.normal(size=net.n_params)
    loss, grad, product = reference(net, X, F, **given, weight=weight, v=v)
    tolerance = TOLERANCE[dtype]
    assert fun.value(net.params) == fun(net.params)[0] == pytest.approx(loss, rel=tolerance)
    assert relative_error(fun.grad(net.params), grad) < tolerance
    assert relative_error(fun.hessp(net.params, v), product) < tolerance


@pytest.mark.parametrize("activation", ["sin", "gelu", "softplus", "sigmoid", "exp", ("elu", 0.7)])
def test_other_activations_and_outputs(activation):
    net = network(activations=activation, output="tanh")
    fun, v = net.pde_objective(X, F, c=C, b=B, D=D), RNG.normal(size=net.n_params)
    loss, grad, product = reference(net, X, F, c=C, b=B, D=D, v=v)
    assert fun.value(net.params) == pytest.approx(loss, rel=1e-12)
    assert relative_error(fun.grad(net.params), grad) < 1e-11
    assert relative_error(fun.hessp(net.params, v), product) < 1e-11


def sparse(rng, n, n_in, by_sample):
    """c, b and D of which most are 0: some axes are used by none of them, D may be diagonal or antisymmetric."""
    size = (n,) if by_sample else ()
    axes = rng.random(n_in) < 0.6
    b = rng.normal(size=(*size, n_in)) * (axes & (rng.random(n_in) < 0.5))
    mask = np.outer(axes, axes) & (rng.random((n_in, n_in)) < rng.choice([0.2, 0.6]))
    of_D = rng.normal(size=(*size, n_in, n_in)) * mask
    match rng.integers(3):
        case 0:
            of_D *= np.eye(n_in)
        case 1:
            of_D = of_D - np.swapaxes(of_D, -1, -2) * (rng.random() < 0.5)
    return {"c": rng.normal(size=size), "b": b, "D": of_D}


@pytest.mark.parametrize("seed", range(40))
def test_axes_that_are_not_used(seed):
    rng = np.random.default_rng(seed)
    n, n_in = 9, int(rng.integers(1, 6))
    given = sparse(rng, n, n_in, by_sample=seed % 2)
    net = network(sizes=(n_in, 4, 1))
    x, f, v = rng.normal(size=(n, n_in)), rng.normal(size=(n, 1)), rng.normal(size=net.n_params)
    fun = net.pde_objective(x, f, **given)
    loss, grad, product = reference(net, x, f[:, 0], **given, v=v)
    assert fun.value(net.params) == pytest.approx(loss, rel=1e-12)
    assert relative_error(fun.grad(net.params), grad) < 1e-12
    assert relative_error(fun.hessp(net.params, v), product) < 1e-12


def test_forms_of_one_equation_agree():
    """D as a number, a diagonal or all of it, with a share that is antisymmetric; b and D by sample or not."""
    net, same = network(), []
    skew = np.array([[0, 3.0, 0], [-3.0, 0, 1], [0, -1, 0]])
    for of_D in (2, np.float32(2), 2 * np.eye(N_IN), 2 * np.eye(N_IN) + skew, np.tile(2 * np.eye(N_IN), (N, 1, 1))):
        for of_b in ([1, 0, 2], np.tile([1.0, 0, 2], (N, 1))):
            same.append(net.pde_objective(X, F, c=3, b=of_b, D=of_D)(net.params))
    assert all(loss == same[0][0] and same_bits(grad, same[0][1]) for loss, grad in same)


@pytest.mark.parametrize("f", [0, 1.5, F, F[:, None], list(F), F.astype("f4"), F.astype(">f8")])
def test_forms_of_f(f):
    net = network()
    expected = reference(net, X, np.asarray(f, float) if np.ndim(f) < 2 else F, D=1.0)
    fun = net.pde_objective(X, f, D=1)
    assert fun.value(net.params) == pytest.approx(expected[0], rel=1e-12)
    assert relative_error(fun.grad(net.params), expected[1]) < 1e-12


def test_one_input():
    net = network(sizes=(1, 6, 1))
    x = X[:, :1]
    for given in ({"b": 2.0}, {"b": [2.0]}, {"b": B[:, :1], "D": [[3.0]]}, {"D": 3.0, "c": C}):
        expected = reference(net, x, F, **given)
        fun = net.pde_objective(x, F, **given)
        assert fun.value(net.params) == pytest.approx(expected[0], rel=1e-12)
        assert relative_error(fun.grad(net.params), expected[1]) < 1e-12


def test_differences():
    """The gradient and the products against differences of the value and of the residuals."""
    net = network(sizes=(N_IN, 5, 1))
    given = {"c": C, "b": B[0], "D": D[0]}
    fun = net.pde_objective(X, F, **given, sample_weight=W)
    theta, v, step = net.params.copy(), RNG.normal(size=net.n_params), 1e-6
    assert check_grad(fun.value, fun.grad, theta) < 1e-5
    jet = np.vstack([np.eye(N_IN), np.eye(N_IN)[[0, 0, 1]] + np.eye(N_IN)[[1, 2, 2]]])

    def residuals(theta):
        out = net.input_jet(X, jet, params=theta)
        y, dy, d2y = out.y[:, 0], out.dy[:, 0, :N_IN], out.d2y[:, 0]
        H = np.zeros((N, N_IN, N_IN))
        for j, k in itertools.product(range(N_IN), repeat=2):
            along = 2 + j + k if j != k else j
            H[:, j, k] = d2y[:, j] if j == k else (d2y[:, along] - d2y[:, j] - d2y[:, k]) / 2
        return C * y + dy @ B[0] + np.einsum("sjk,jk->s", H, D[0]) - F

    assert fun.value(theta) == pytest.approx((W * residuals(theta) ** 2).sum() / W.sum(), rel=1e-12)
    steps = step * np.eye(len(theta))
    J = np.stack([(residuals(theta + one) - residuals(theta - one)) / (2 * step) for one in steps], axis=1)
    assert relative_error(fun.hessp(theta, v), J.T @ (2 * W / W.sum() * (J @ v))) < 1e-7


# An objective as others ---------------------------------------------------------------------------------------------

GIVEN = {"c": C, "b": B[0], "D": 1.0, "sample_weight": W}


def test_sums_and_factors():
    net = network()
    equation, values = net.pde_objective(X, F, **GIVEN), net.objective(X, F, l2=0.1)
    slopes = net.sobolev_objective(X, F, B, 0.5)
    theta, v = RNG.normal(size=(2, net.n_params))
    fun = values + 0.1 * equation
    assert fun.value(theta) == values.value(theta) + 0.1 * equation.value(theta)
    assert same_bits(fun.grad(theta), values.grad(theta) + 0.1 * equation.grad(theta))
    assert same_bits(fun.hessp(theta, v), values.hessp(theta, v) + 0.1 * equation.hessp(theta, v))
    assert same_bits(fun.hess(theta), values.hess(theta) + 0.1 * equation.hess(theta))
    three = sum([fun, slopes])
    assert three.value(theta) == fun.value(theta) + slopes.value(theta)
    with pytest.raises(ValueError, match="hessp: expected an objective without input gradients"):
        three.hessp(theta, v)
    assert repr(equation).endswith("40 samples of a differential equation, weighted>")
    assert "1 * (40 samples, l2=0.1) + 0.1 * (40 samples of a differential equation, weighted)" in repr(fun)
    assert "of a differential equation" in fun._repr_html_()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("of_some", [False, True], ids=["all", "free"])
def test_the_hessian_is_made_of_products(of_some, dtype):
    net = network(dtype)
    free = RNG.random(net.n_params) < 0.5 if of_some else None
    fun = net.pde_objective(X, F, **GIVEN, l2=0.3, free=free)
    theta = net.params[... if free is None else free]
    H = fun.hess(theta)
    assert H.shape == (fun.n_free, fun.n_free)
    assert H.dtype == np.float64
    assert same_bits(H, H.T.copy())
    products = np.stack([fun.hessp(theta, unit) for unit in np.eye(fun.n_free)])
    assert relative_error(H, products) < TOLERANCE[dtype]
    assert np.linalg.eigvalsh(H).min() > -1e-5


def test_l2_and_free():
    net = network()
    free = RNG.random(net.n_params) < 0.5
    fun = net.pde_objective(X, F, **GIVEN, l2=0.3, free=free)
    plain = net.pde_objective(X, F, **GIVEN)
    penalty = net.objective(X, F, l2=0.3, free=free) + -1 * net.objective(X, F, free=free)
    theta, v = net.params[free], RNG.normal(size=free.sum())
    whole = np.zeros(net.n_params)
    whole[free] = v
    assert fun.value(theta) == pytest.approx(plain.value(net.params) + penalty.value(theta), rel=1e-12)
    np.testing.assert_allclose(fun.grad(theta), plain.grad(net.params)[free] + penalty.grad(theta), atol=1e-12)
    expected = plain.hessp(net.params, whole)[free] + penalty.hessp(theta, v)
    np.testing.assert_allclose(fun.hessp(theta, v), expected, atol=1e-12)
    assert same_bits(fun.expand(theta), net.params)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("by_sample", [False, True], ids=["constant", "by sample"])
def test_rows_of_weight_0_may_hold_anything(by_sample, dtype):
    net = network(dtype)
    kept = W > 0
    given = {"c": C.copy(), "b": B.copy(), "D": D * np.eye(N_IN)} if by_sample else {"c": 2.0, "D": 1.0}
    few = {name: value[kept] if np.ndim(value) else value for name, value in given.items()}
    expected = net.pde_objective(X[kept], F[kept], sample_weight=W[kept], **few)
    x, f = X.copy(), F.copy()
    x[~kept] = f[~kept] = np.nan
    for name, value in given.items():
        if np.ndim(value):
            value[~kept] = np.inf if name == "D" else np.nan  # outside of the diagonal too
    fun = net.pde_objective(x, f, sample_weight=W, **given)
    v = RNG.normal(size=net.n_params)
    for theta in (net.params, 1.1 * net.params):
        assert fun.value(theta) == expected.value(theta)
        assert same_bits(fun.grad(theta), expected.grad(theta))
        assert same_bits(fun.hessp(theta, v), expected.hessp(theta, v))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("by_sample", [False, True], ids=["constant", "by sample"])
def test_threads_and_layouts_have_the_same_bits(by_sample, dtype):
    rng, net, n = np.random.default_rng(1), network(dtype), 1500
    x, f, v = rng.normal(size=(n, N_IN)), rng.normal(size=n), rng.normal(size=net.n_params)
    c, b, of_D = rng.normal(size=n), rng.normal(size=(n, N_IN)), rng.normal(size=(n, N_IN, N_IN))
    if not by_sample:
        c, b, of_D = c[0], b[0], of_D[0]
    weight = rng.uniform(size=n) * (rng.random(n) < 0.7)
    results = []
    for n_threads, layout in ((1, "plain"), (2, "strided"), (3, "fortran"), (8, "misaligned"), (2, "plain")):
        laid = [with_layout(a, layout) if np.ndim(a) else a for a in (x, f, c, b, of_D, weight)]
        fun = net.pde_objective(*laid[:2], c=laid[2], b=laid[3], D=laid[4], sample_weight=laid[5], n_threads=n_threads)
        results.append((*fun(net.params), fun.hessp(net.params, v)))
    for loss, grad, product in results[1:]:
        assert loss == results[0][0]
        assert same_bits(grad, results[0][1])
        assert same_bits(product, results[0][2])


def test_coefficients_are_copied():
    net = network()
    c, b, of_D = C.copy(), B[0].copy(), D.copy()
    fun, expected = (net.pde_objective(X, F, c=one, b=two, D=three) for one, two, three in ((c, b, of_D), (C, B[0], D)))
    for array in (c, b, of_D):
        array[...] = 7
    assert fun.value(net.params) == expected.value(net.params)


def test_memory_that_is_gone():
    net, f = network(), F.copy()
    fun = net.pde_objective(X, f, D=1)
    f.resize(1, refcheck=False)
    with pytest.raises(ValueError, match=r"^f: expected an array that keeps its size"):
        fun(net.params)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda fun: pickle.loads(pickle.dumps(fun))])
@pytest.mark.parametrize("given", [GIVEN, {"D": D[0]}], ids=["by sample", "constant"])
def test_copies_and_pickles(given, how):
    net = network()
    fun = net.pde_objective(X, F, **given, l2=0.1) + net.objective(X, F)
    theta, v = RNG.normal(size=(2, net.n_params))
    expected = *fun(theta), fun.hessp(theta, v)
    other = how(fun)
    loss, grad = other(theta)
    assert loss == expected[0]
    assert same_bits(grad, expected[1])
    assert same_bits(other.hessp(theta, v), expected[2])
    assert repr(other) == repr(fun)


# Optimizers -----------------------------------------------------------------------------------------------------------


def poisson():
    """u'' = -sin x on [0, pi] with u = 0 at both ends, whose solution is sin x; 16 units are enough for 1e-3."""
    net = Network([1, 16, 1], activations="tanh", rng=0)
    x, ends = np.linspace(0, np.pi, 50)[:, None], np.array([[0.0], [np.pi]])
    fun = net.pde_objective(x, -np.sin(x), D=1) + net.objective(ends, np.zeros(2))
    return net, fun, lambda: np.abs(net.forward(x) - np.sin(x)).max()


@pytest.mark.parametrize(
    ("method", "more"),
    [("L-BFGS-B", ()), ("trust-ncg", ("hessp",)), ("trust-exact", ("hess",)), ("trust-krylov", ("hessp",))],
)
def test_scipy_solves_an_equation(method, more):
    net, fun, error = poisson()
    options = {name: getattr(fun, name) for name in more}
    result = minimize(fun, net.params, jac=True, method=method, options={"maxiter": 400}, **options)
    net.params = result.x
    assert error() < 1e-2


def test_fit_solves_an_equation():
    net, fun, error = poisson()
    result = net.fit(fun, max_iter=400)
    assert result.loss == fun.value(net.params)
    assert error() < 1e-2
    alone = net.pde_objective(X[:, :1], 0, c=1, D=1)
    before = alone.value(net.params)
    assert net.fit(alone, max_iter=5).loss < before


# What is refused ------------------------------------------------------------------------------------------------------

ONE = Activation("one", np.tanh, lambda a: 1 / np.cosh(a) ** 2)
TWO = Activation("two", np.tanh, lambda a: 1 / np.cosh(a) ** 2, lambda a: -2 * np.tanh(a) / np.cosh(a) ** 2)
BAD = C.copy()
BAD[5] = np.nan


def refused(message, kind=ValueError, make=network, x=X, f=F, **given):
    return lambda: make().pde_objective(x, f, **given), kind, message


REFUSED = {
    "loss": refused("pde_objective: expected a network with the loss 'squared_error', got 'huber'",
                    make=lambda: network(loss="huber")),
    "outputs": refused("pde_objective: expected a network of one output u, got one of 2; for systems of equations take "
                       "input_jet and jet_vjp", make=lambda: network(sizes=(N_IN, 2))),
    "g_second": refused("pde_objective: expected a g_second", make=lambda: network(activations=ONE)),
    "g_third": refused("pde_objective: expected a g_third", make=lambda: network(activations=TWO)),
    "no f": refused("f: expected targets beside x, got none; net.pde_objective(x, f), or net.pde_objective(blocks) "
                    "with an iterable of (x, f)", TypeError, f=None, c=C),
    "f": refused("f: expected a number, shape (40,) or (40, 1), got (39,)", f=F[1:]),
    "f that is not finite": refused("f: expected finite numbers, got nan in row 5", f=BAD),
    "a number f": refused("f: expected finite numbers, got inf", f=np.inf),
    "c of another shape": refused("c: expected a number or shape (n_samples,), got (40, 1); c[:, 0] makes it flat",
                                  c=C[:, None]),
    "c of another length": refused("c: expected shape (40,), got (39,)", c=C[1:]),
    "c that is not finite": refused("c: expected finite numbers, got nan in row 5", c=BAD),
    "c that is no number": refused("c: expected real numbers, got dtype <U1", TypeError, c="1"),
    "a number b": refused("b: expected 0, shape (3,) or (n_samples, 3), got float 2.0", b=2.0),
    "b of another shape": refused("b: expected 0, shape (3,) or (n_samples, 3), got (2,)", b=[1, 2]),
    "b of another length": refused("b: expected shape (40, 3), got (39, 3)", b=B[1:]),
    "b that is not finite": refused("b: expected finite numbers, got inf in entry [1]", b=[0, np.inf, 1]),
    "flat b of one input": refused("b: expected 0, shape (1,) or (n_samples, 1), got (40,); for one input write "
                                   "b[:, None]", make=lambda: network(sizes=(1, 1)), x=X[:, :1], b=C),
    "D of another shape": refused("D: expected a number, shape (3, 3) or (n_samples, 3, 3), got (40,); a number for "
                                  "each sample is D[:, None, None] * np.eye(3)", D=np.ones(40)),
    "D as its diagonal": refused("D: expected a number, shape (3, 3) or (n_samples, 3, 3), got (3,); a diagonal is "
                                 "np.diag(D)", D=[1, 2, 3]),
    "D of another length": refused("D: expected shape (40, 3, 3), got (39, 3, 3)", D=D[1:]),
    "D that is not finite": refused("D: expected finite numbers, got nan in row 5, entry [2, 1]",
                                    D=np.where(np.indices((N, 3, 3)).T.dot([9, 3, 1]).T == 45 + 7, np.nan, D)),
    "D beyond float32": refused("D: expected finite numbers, got 1e+39, beyond the range of float32, and became inf in "
                                "entry [0, 0]", make=lambda: network("float32"), D=1e39),
    "a sum beyond float64": refused("D: expected numbers D_jk + D_kj that are finite in float64, got others",
                                    D=np.full((3, 3), 1.5e308)),
    "weights by output": refused("sample_weight: expected shape (40,) in pde_objective, got (40, 1)",
                                 sample_weight=W[:, None]),
    "no samples": refused("x: expected at least one sample", x=X[:0], f=F[:0]),
    "l2": refused("l2: expected a finite number >= 0, got -1.0", l2=-1),
    "free": refused("free: expected shape (74,), got (3,)", free=[True] * 3),
    "n_threads": refused("n_threads: expected a positive integer, got 0", n_threads=0),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    make, kind, message = REFUSED[case]
    with pytest.raises(kind, match="^" + re.escape(message)):
        make()


def test_a_network_of_lines_is_warned_of():
    warn_once._given.clear()
    with pytest.warns(RuntimeWarning, match="pde_objective: expected smooth activations") as given:
        network(activations="relu").pde_objective(X, F, D=1)
    assert given[0].filename == __file__
    network(activations="relu").pde_objective(X, F, D=1)
