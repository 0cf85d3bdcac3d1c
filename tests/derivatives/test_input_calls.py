"""`laplacian`, `input_hessian`, `input_jet` and `jet_vjp`: their arguments, results and errors.

What all calls have in common (layouts, `out`, threads, the quick path, empty batches) is in test_derivatives.py and its
neighbours. Values of second derivatives are judged in test_input_second.py.
"""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from problems import ACTIVATION_NAMES, same_bits

import backprop
from backprop import Activation, InputJet, Network, _core
from backprop.api import warn_once

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 3))
DIRECTIONS = RNG.standard_normal((4, 3))
Q = RNG.standard_normal((6, 4, 3))  # for each sample its own
COT_Y, COT_DY, COT_D2Y = RNG.standard_normal((6, 2)), RNG.standard_normal((6, 2, 4)), RNG.standard_normal((6, 2, 4))
LINEAR_IN_PIECES = ("relu", "leaky_relu", "hardtanh", "hardsigmoid", "relu6")


def make(n_out=2, **options):
    return Network([3, 7, n_out], **{"activations": "tanh", "rng": 0} | options)


def parts(jet):
    return jet.y, jet.dy, jet.d2y


def assert_same(results, expected):
    for one, other in zip(results, expected, strict=True):
        assert same_bits(one, other)


# What comes back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shapes_and_dtypes(dtype):
    net = make(dtype=dtype)
    results = {
        (6, 2): net.laplacian(X),
        (6, 3, 3): net.input_hessian(X, [1.0, -1.0]),
        (6, 2, 3): net.input_jet(X).dy,
        (6, 2, 4): net.input_jet(X, Q).d2y,
        (net.n_params,): net.jet_vjp(X, COT_Y)[0],
        (6, 3): net.jet_vjp(X, COT_Y)[1],
    }
    for shape, result in results.items():
        assert result.shape == shape
        assert result.dtype == dtype


def test_the_calls_agree_with_one_another():
    net = make()
    jet = net.input_jet(X)
    H = np.stack([net.input_hessian(X, unit) for unit in np.eye(2)], axis=1)
    assert same_bits(jet.y, net.forward(X))
    np.testing.assert_allclose(jet.dy, net.input_jacobian(X), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(jet.d2y, H.diagonal(axis1=2, axis2=3), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(net.laplacian(X), H.trace(axis1=2, axis2=3), rtol=1e-11, atol=1e-13)
    along = net.input_jet(X, DIRECTIONS)
    np.testing.assert_allclose(along.dy, net.input_jacobian(X) @ DIRECTIONS.T, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        along.d2y, np.einsum("ki,soij,kj->sok", DIRECTIONS, H, DIRECTIONS), rtol=1e-10, atol=1e-12
    )
    weights = RNG.standard_normal((6, 2))
    np.testing.assert_allclose(
        net.input_hessian(X, weights), np.einsum("so,soij->sij", weights, H), rtol=1e-10, atol=1e-12
    )


def test_an_input_hessian_is_symmetric_to_the_bit():
    H = make(dtype="float32").input_hessian(X, [0.3, 0.7])
    assert same_bits(H, np.swapaxes(H, 1, 2).copy())


def test_a_jet_is_shown_as_a_table():
    jet = make().input_jet(X, DIRECTIONS)
    assert repr(jet) == "<InputJet of 6 samples, 2 outputs, 4 directions>"
    first, header, *rows, note = str(jet).splitlines()
    assert first == "InputJet: 6 samples, 2 outputs, 4 directions"
    assert header.split() == ["quantity", "shape", "norm", "largest"]
    assert [row.split()[0] for row in rows] == ["y", "dy", "d2y"]
    assert note.startswith("largest: ")
    assert "<table>" in jet._repr_html_()
    again = pickle.loads(pickle.dumps(jet))
    assert type(again) is InputJet is backprop.InputJet
    assert_same(parts(again), parts(jet))


def test_no_result_shares_memory():
    net = make()
    for call in (net.laplacian, lambda x: net.input_hessian(x, np.ones(2)), lambda x: net.input_jet(x).d2y):
        assert not np.shares_memory(call(X), call(X))
    jet = net.input_jet(X)
    assert not any(np.shares_memory(a, b) for a, b in ((jet.y, jet.dy), (jet.dy, jet.d2y), (jet.y, jet.d2y)))


def test_a_subclass_inherits_them():
    class Potential(Network):
        def force(self, x):
            return -self.input_jet(x).dy[:, 0]

    net = Potential([3, 7, 1], activations="tanh", rng=0)
    assert same_bits(net.force(X), -make(1).input_jet(X).dy[:, 0])


# Arguments -----------------------------------------------------------------------------------------------------------


def test_directions_of_all_samples_and_of_each():
    net = make()
    shared = parts(net.input_jet(X, DIRECTIONS))
    assert_same(parts(net.input_jet(X, np.tile(DIRECTIONS, (6, 1, 1)))), shared)
    assert_same(parts(net.input_jet(X, np.broadcast_to(DIRECTIONS, (6, 4, 3)))), shared)
    assert_same(parts(net.input_jet(X, DIRECTIONS.tolist())), shared)
    assert_same(parts(net.input_jet(X)), parts(net.input_jet(X, np.eye(3))))
    for s in range(6):
        assert_same(
            [part[s] for part in parts(net.input_jet(X, Q))], [p[0] for p in parts(net.input_jet(X[s : s + 1], Q[s]))]
        )


def test_directions_of_the_way_back():
    """Sums over samples that share directions are added in another order."""
    net = make()
    grad_params, grad_x = net.jet_vjp(X, COT_Y, COT_DY, COT_D2Y, DIRECTIONS)
    by_sample = net.jet_vjp(X, COT_Y, COT_DY, COT_D2Y, np.tile(DIRECTIONS, (6, 1, 1)))
    np.testing.assert_allclose(by_sample[0], grad_params, rtol=1e-13, atol=1e-13)
    assert same_bits(by_sample[1], grad_x)
    axes = net.jet_vjp(X, COT_Y, COT_DY[:, :, :3], COT_D2Y[:, :, :3])
    assert_same(net.jet_vjp(X, COT_Y, COT_DY[:, :, :3], COT_D2Y[:, :, :3], np.eye(3)), axes)


def test_multipliers_of_all_samples_and_of_each():
    net, weights = make(), np.array([0.5, -2.0])
    shared = net.input_hessian(X, weights)
    assert same_bits(net.input_hessian(X, np.tile(weights, (6, 1))), shared)
    assert same_bits(net.input_hessian(X, weights.tolist()), shared)
    assert same_bits(net.input_hessian(X, multipliers=weights.astype(np.float32)), shared)
    one = make(1)
    assert same_bits(one.input_hessian(X), one.input_hessian(X, [1.0]))
    assert same_bits(one.input_hessian(X), one.input_hessian(X, np.ones((6, 1))))


def test_a_cotangent_that_is_left_out_counts_as_zeros():
    net = make()
    zeros = np.zeros((6, 2, 4))
    np.testing.assert_allclose(net.jet_vjp(X, COT_Y)[0], net.vjp(X, COT_Y)[0], rtol=1e-12, atol=1e-13)
    for given, whole in (
        ((COT_Y, None, None), (COT_Y, zeros, zeros)),
        ((None, COT_DY, None), (0 * COT_Y, COT_DY, zeros)),
        ((None, None, COT_D2Y), (0 * COT_Y, zeros, COT_D2Y)),
        ((COT_Y, None, COT_D2Y), (COT_Y, zeros, COT_D2Y)),
    ):
        for result, expected in zip(
            net.jet_vjp(X, *given, DIRECTIONS), net.jet_vjp(X, *whole, DIRECTIONS), strict=True
        ):
            np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-13)


def test_the_way_back_is_the_transpose_of_the_way_there():
    """A step along any direction changes the jet as its gradients say."""
    net = make()
    theta, v, u = net.params.copy(), RNG.standard_normal(net.n_params), RNG.standard_normal(X.shape)
    grad_params, grad_x = net.jet_vjp(X, COT_Y, COT_DY, COT_D2Y, DIRECTIONS)

    def total(t):
        y, dy, d2y = parts(net.input_jet(X + t * u, DIRECTIONS, params=theta + t * v))
        return (COT_Y * y).sum() + (COT_DY * dy).sum() + (COT_D2Y * d2y).sum()

    slope = (total(1e-5) - total(-1e-5)) / 2e-5
    assert grad_params @ v + (grad_x * u).sum() == pytest.approx(slope, rel=1e-7)


CALLS = {
    "laplacian": lambda net, x, **options: [net.laplacian(x, **options)],
    "input_hessian": lambda net, x, **options: [net.input_hessian(x, np.ones(2), **options)],
    "input_jet": lambda net, x, **options: parts(net.input_jet(x, DIRECTIONS, **options)),
    "jet_vjp": lambda net, x, **options: net.jet_vjp(x, None, None, np.ones((np.size(x) // 3, 2, 3)), **options),
}


@pytest.mark.parametrize("name", CALLS)
def test_params_and_threads(name):
    net, other = make(), make(rng=1)
    expected = CALLS[name](other, X)
    assert_same(CALLS[name](net, X, params=other.params), expected)
    assert_same(CALLS[name](net, X, params=other.params.tolist(), n_threads=3), expected)
    with pytest.raises(ValueError, match=r"^params: expected shape"):
        CALLS[name](net, X, params=np.ones(3))
    with pytest.raises(ValueError, match=r"^n_threads: expected"):
        CALLS[name](net, X, n_threads=0)


@pytest.mark.parametrize("name", CALLS)
def test_x_in_other_forms(name):
    net, x = make(dtype="float32"), X.astype(np.float32)
    expected = CALLS[name](net, x)
    for given in (x.tolist(), x.astype(">f4"), np.asfortranarray(x), x.astype(float), np.repeat(x, 2, axis=0)[::2]):
        assert_same(CALLS[name](net, given), expected)
    for bad in (x[0], x[:, :2], x.astype(complex), None):
        with pytest.raises((ValueError, TypeError), match=r"^x: expected"):
            CALLS[name](net, bad)


@pytest.mark.parametrize("name", CALLS)
def test_large_x_is_converted_by_tiles(name):
    """Of another dtype and layout, with more bytes than are copied at once."""
    net, x = make(), np.asfortranarray(RNG.standard_normal((9000, 3)).astype(np.float32))
    assert_same(CALLS[name](net, x), CALLS[name](net, x.astype(float).copy()))


@pytest.mark.parametrize("name", CALLS)
def test_an_empty_batch(name):
    net = make()
    for x in (X[:0], np.empty((0, 3), np.float32)):
        for result, full in zip(CALLS[name](net, x), CALLS[name](net, X), strict=True):
            if full.shape == (net.n_params,):
                assert same_bits(result, np.zeros(net.n_params))
            else:
                assert result.shape == (0, *full.shape[1:])
    assert net.input_jet(X[:0], np.empty((0, 5, 3))).d2y.shape == (0, 2, 5)
    assert net.input_hessian(X[:0], np.empty((0, 2))).shape == (0, 3, 3)


@pytest.mark.parametrize(("name", "shape"), [("laplacian", (6, 2)), ("input_hessian", (6, 3, 3))])
def test_out(name, shape):
    net = make()
    expected, out = CALLS[name](net, X)[0], np.full(shape, np.nan)
    assert CALLS[name](net, X, out=out)[0] is out
    assert same_bits(out, expected)
    out[...] = np.nan
    assert CALLS[name](net, X.tolist(), out=out)[0] is out  # the other path
    assert same_bits(out, expected)
    for bad in (np.empty(shape, np.float32), np.empty((*shape[::-1], 2)), np.empty((*shape, 2))[..., 0]):
        with pytest.raises(ValueError, match=r"^out: expected"):
            CALLS[name](net, X, out=bad)


def test_out_must_not_overlap_multipliers():
    memory = np.full(54, 0.5)
    with pytest.raises(ValueError, match=r"^out: expected memory of its own, got an array that overlaps multipliers"):
        make().input_hessian(X, memory[:12].reshape(6, 2), out=memory.reshape(6, 3, 3))
    assert (memory == 0.5).all()


# What is refused -----------------------------------------------------------------------------------------------------

D = r"directions: expected shape \(k, 3\), or \(6, k, 3\) with some for each sample, got"
REFUSED = {
    "one direction": (lambda net: net.input_jet(X, X[0]), ValueError, rf"^{D} \(3,\); one direction is directions\[N"),
    "columns": (lambda net: net.input_jet(X, np.ones((2, 2))), ValueError, rf"^{D} \(2, 2\)$"),
    "rows": (lambda net: net.input_jet(X, np.ones((5, 2, 3))), ValueError, rf"^{D} \(5, 2, 3\)$"),
    "none": (lambda net: net.input_jet(X, np.ones((0, 3))), ValueError, r"^directions: expected at least one .* axes$"),
    "complex": (lambda net: net.input_jet(X, 1j * DIRECTIONS), TypeError, r"^directions: expected .* got"),
    "masked": (lambda net: net.input_jet(X, np.ma.masked_less(X, 0)), TypeError, r"^directions: expected .* got"),
    "directions back": (lambda net: net.jet_vjp(X, COT_Y, None, None, X[0]), ValueError, rf"^{D}"),
    "no multipliers": (
        lambda net: net.input_hessian(X),
        TypeError,
        r"^multipliers: expected shape \(2,\) or \(6, 2\), one weight per output, got None; np.eye\(2\)\[o\] gives",
    ),
    "multipliers": (
        lambda net: net.input_hessian(X, np.ones(6)),
        ValueError,
        r"^multipliers: expected shape \(2,\) or \(6, 2\), got \(6,\)$",
    ),
    "multipliers of one": (
        lambda net: make(1).input_hessian(X, np.ones(6)),
        ValueError,
        r"got \(6,\); for one output write multipliers\[:, None\]$",
    ),
    "a word": (lambda net: net.input_hessian(X, "all"), TypeError, r"^multipliers: expected .* got"),
    "no cotangent": (
        lambda net: net.jet_vjp(X),
        TypeError,
        r"^jet_vjp: expected at least one of cot_y, cot_dy and cot_d2y, got None for all three$",
    ),
    "cot_y": (lambda net: net.jet_vjp(X, np.ones(6)), ValueError, r"^cot_y: expected shape \(6, 2\), got \(6,\)$"),
    "cot_dy": (
        lambda net: net.jet_vjp(X, None, COT_DY),
        ValueError,
        r"^cot_dy: expected shape \(6, 2, 3\), got \(6, 2, 4\)$",
    ),
    "cot_d2y": (
        lambda net: net.jet_vjp(X, None, None, COT_D2Y[:5], DIRECTIONS),
        ValueError,
        r"^cot_d2y: expected shape \(6, 2, 4\), got \(5, 2, 4\)$",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    call, kind, text = REFUSED[case]
    with pytest.raises(kind, match=text):
        call(make())


def square(*functions):
    return Activation(
        "square", *[np.square, lambda a: 2 * a, lambda a: np.full_like(a, 2), np.zeros_like][: 2 + sum(functions)]
    )


@pytest.mark.parametrize("name", [*CALLS, "constraint"])
def test_an_activation_without_g_second(name):
    net = make(activations=square())
    with pytest.raises(ValueError, match=rf"^{name}: expected a g_second in the activation 'square' of layer 1, got n"):
        net.constraint(0, 1) if name == "constraint" else CALLS[name](net, X)


def test_an_activation_without_g_third():
    net = make(activations=square(True))
    for name in ("laplacian", "input_hessian", "input_jet"):
        CALLS[name](net, X)
    with pytest.raises(ValueError, match=r"^jet_vjp: expected a g_third in the activation 'square' of layer 1, got n"):
        CALLS["jet_vjp"](net, X)


# Networks that are linear in pieces ----------------------------------------------------------------------------------

WARNING = r"expected smooth activations, got a network that is linear in pieces \('relu'\): .* 'softplus' or 'sin'$"


@pytest.fixture
def fresh(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(warn_once, "_given", set())


@pytest.mark.parametrize("name", ["laplacian", "input_hessian"])
def test_a_network_that_is_linear_in_pieces_warns_once(fresh, name):
    net = make(activations="relu")
    with pytest.warns(RuntimeWarning, match=f"^{name}: {WARNING}") as caught:
        result = CALLS[name](net, X)
    assert [one.filename for one in caught] == [__file__]
    assert not result[0].any()
    with warnings.catch_warnings(record=True) as more:
        warnings.simplefilter("always")
        for again in CALLS.values():
            again(net, X)
    assert not more


def test_the_hessian_of_a_constraint_warns_too(fresh):
    its = make(activations="relu").constraint(0, 1)
    with pytest.warns(RuntimeWarning, match=f"^input_hessian: {WARNING}"):
        assert not its.hess(X[0], np.ones(2)).any()


@pytest.mark.parametrize("name", [*ACTIVATION_NAMES, "identity"])
def test_which_networks_are_linear_in_pieces(name):
    assert make(activations=name)._architecture.is_linear_in_pieces == (name in LINEAR_IN_PIECES)
    for curved in ({"output": "tanh"}, {"loss": "poisson"}, {"loss": "cross_entropy"}):
        assert not make(activations=name, **curved)._architecture.is_linear_in_pieces
    assert not Network([3, 4, 4, 1], activations=[name, "silu"])._architecture.is_linear_in_pieces
    assert make(activations=name, loss="hinge")._architecture.is_linear_in_pieces == (name in LINEAR_IN_PIECES)


def test_one_warning_in_a_process_of_its_own():
    code = (
        "import warnings, numpy as np, backprop\n"
        "warnings.simplefilter('always')\n"
        "net = backprop.Network([2, 3, 1], rng=0)\n"
        "for _ in range(3):\n"
        "    net.laplacian(np.ones((4, 2)))\n"
        "net.input_hessian(np.ones((4, 2)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("RuntimeWarning: laplacian: expected smooth activations") == 1
    assert done.stderr.count("RuntimeWarning") == 1
    assert "<string>:5" in done.stderr


def test_nan_in_one_output_stays_there():
    """Also in second derivatives, which take a way back for each output if these are fewer than the directions."""
    net = Network([3, 8, 2], activations="gelu", output="tanh", rng=5)
    expected = net.input_jet(X)
    net.biases[-1][0] = np.nan
    found = net.input_jet(X)
    for quantity in ("y", "dy", "d2y"):
        assert np.isnan(getattr(found, quantity)[:, 0]).all()
        assert same_bits(getattr(found, quantity)[:, 1].copy(), getattr(expected, quantity)[:, 1].copy())


# The compiled calls --------------------------------------------------------------------------------------------------


def lacks_arguments():
    """(name, options) of `Plan.run` for calls that lack an argument, or have one too many."""
    equation = _core.Equation(np.eye(3), "diagonal", np.ones(7))
    y, grad, v = np.zeros((6, 1)), np.empty(36), np.ones(36)
    return [
        ("laplacian", {"out": None}),
        ("laplacian", {"out": np.empty((6, 1)), "operand": np.ones(1)}),
        ("input_hessian", {"out": None}),
        ("input_jet", {"out": np.empty((6, 1))}),
        ("jet_vjp", {"out": grad}),
        ("pde_value_and_grad", {"y": y, "out": grad}),
        ("pde_value_and_grad", {"y": y, "out": None, "equation": equation}),
        ("pde_value_and_grad", {"y": None, "out": grad, "equation": equation}),
        ("pde_gauss_newton_vp", {"y": y, "out": grad, "equation": equation}),
        ("pde_gauss_newton_vp", {"y": y, "out": grad, "operand": v}),
    ]


@pytest.mark.parametrize(("name", "options"), lacks_arguments())
def test_compiled_calls_without_an_argument(name, options):
    """An error, not a look at address 0."""
    net = make(1)
    arguments = {"y": None, "weights": None, "n_threads": 1} | options
    with pytest.raises(ValueError, match="call: expected"):
        net._plan.run(_core.CALLS[name], np.array(net.params), X, **arguments)


def test_a_compiled_hessian_of_several_outputs_needs_multipliers():
    net = make(2)
    with pytest.raises(ValueError, match="call: expected"):
        net._plan.run(_core.CALLS["input_hessian"], np.array(net.params), X, None, np.empty((6, 3, 3)), None, 1)
