"""A custom activation, of NumPy or C functions, does what the built-in one with the same formula does."""

import copy
import ctypes
import ctypes.util
import pickle
import sys

import numpy as np
import pytest
from scipy import LowLevelCallable

from backprop import Activation, Network, preactivation_gradient


def tanh_prime(a):
    return 1 - np.tanh(a) ** 2


def tanh_second(a):
    return -2 * np.tanh(a) * tanh_prime(a)


def c_function(name):
    library = "ucrtbase" if sys.platform == "win32" else ctypes.util.find_library("m")
    function = getattr(ctypes.CDLL(library), name)
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
    return function


def minus_sin():
    return ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(lambda a: -np.sin(a))


NUMPY_TANH = Activation("my_tanh", np.tanh, tanh_prime, tanh_second)


def pair(own, name, dtype="float64", **options):
    """Two networks with the same parameters, one of them with a custom activation."""
    mine = Network([3, 30, 20, 2], activations=own, dtype=dtype, rng=0, **options)
    built_in = Network([3, 30, 20, 2], activations=name, dtype=dtype, **options)
    built_in.params = mine.params
    return mine, built_in


def data(n_samples=700):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n_samples, 3)), rng.standard_normal((n_samples, 2))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
def test_numpy_functions(dtype, tolerance):
    x, y = data()
    v = np.linspace(-1, 1, Network([3, 30, 20, 2]).n_params)
    mine, built_in = pair(NUMPY_TANH, "tanh", dtype)
    assert mine.value_and_grad(x, y)[0] == pytest.approx(built_in.value_and_grad(x, y)[0], rel=tolerance)
    for call in ("forward", "input_jacobian"):
        np.testing.assert_allclose(getattr(mine, call)(x), getattr(built_in, call)(x), rtol=tolerance, atol=tolerance)
    for got, expected in (
        (mine.value_and_grad(x, y)[1], built_in.value_and_grad(x, y)[1]),
        (mine.hvp(x, y, v), built_in.hvp(x, y, v)),
    ):
        np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("wrap", [lambda f: f, LowLevelCallable, lambda f: ctypes.cast(f, ctypes.c_void_p).value])
def test_c_functions_on_threads(wrap):
    x, y = data()
    second = minus_sin()
    own = Activation("c_sin", wrap(c_function("sin")), wrap(c_function("cos")), wrap(second))
    mine, built_in = pair(own, "sin")
    grad = mine.value_and_grad(x, y, n_threads=1)[1]
    np.testing.assert_allclose(grad, built_in.value_and_grad(x, y)[1], atol=1e-14)
    for n_threads in (2, 8):
        np.testing.assert_array_equal(mine.value_and_grad(x, y, n_threads=n_threads)[1], grad)
    v = np.ones(mine.n_params)
    np.testing.assert_allclose(mine.hvp(x, y, v), built_in.hvp(x, y, v), atol=1e-12)


def test_it_may_be_the_output_and_one_of_a_list():
    x, y = data(50)
    mine = Network([3, 4, 5, 2], activations=["relu", NUMPY_TANH], output=NUMPY_TANH, rng=0)
    built_in = Network([3, 4, 5, 2], activations=["relu", "tanh"], output="tanh")
    built_in.params = mine.params
    np.testing.assert_allclose(mine.value_and_grad(x, y)[1], built_in.value_and_grad(x, y)[1], atol=1e-14)
    assert mine.output is NUMPY_TANH
    assert mine.activations == ("relu", NUMPY_TANH)


def test_copies_and_repr():
    net = Network([3, 4, 2], activations=NUMPY_TANH, rng=0)
    x, y = data(20)
    other = copy.deepcopy(net)
    np.testing.assert_array_equal(other.value_and_grad(x, y)[1], net.value_and_grad(x, y)[1])
    assert "Activation('my_tanh', tanh, tanh_prime, tanh_second)" in repr(net)


def test_what_a_function_raises_reaches_the_caller():
    allowed = [8]

    def fragile(a):
        allowed[0] -= 1
        if allowed[0] < 0:
            raise RuntimeError("the user's own error")
        return np.tanh(a)

    net = Network([3, 4, 2], activations=Activation("fragile", fragile, tanh_prime), rng=0)
    x, y = data()
    before = net.params.copy()
    allowed[0] = 3
    with pytest.raises(RuntimeError, match="the user's own error"):
        net.value_and_grad(x, y, n_threads=3)
    with pytest.raises(RuntimeError, match="the user's own error"):
        net.forward(x)
    np.testing.assert_array_equal(net.params, before)
    allowed[0] = 10**6
    assert np.isfinite(net.value_and_grad(x, y)[0])


def test_a_result_of_another_shape_is_refused():
    def growing(a):
        return np.tanh(a) if a.size == 46 else np.tanh(a)[:1]

    net = Network([3, 4, 2], activations=Activation("growing", growing, tanh_prime), rng=0)
    with pytest.raises(ValueError, match=r"expected a result of shape \(7, 4\), got \(1, 4\)"):
        net.forward(np.zeros((7, 3)))


@pytest.mark.parametrize(
    ("functions", "error", "message"),
    [
        ((np.tanh, np.tanh), ValueError, "g_prime: expected the derivative of g"),
        ((np.tanh, tanh_prime, np.tanh), ValueError, "g_second: expected the derivative of g_prime"),
        (
            (np.square, lambda a: 2 * a, lambda a: np.full_like(a, 2), np.ones_like),
            ValueError,
            "g_third: expected the derivative of g_second, got 1 at a = .* finite differences of g_second give",
        ),
        ((np.tanh, tanh_prime, None, np.tanh), TypeError, "g_second: expected a function, since g_third is given, got"),
        ((np.sin, np.cos, lambda a: -np.sin(a), 3.5), TypeError, "g_third: expected a NumPy function or a C function"),
        ((np.tanh, 3.5), TypeError, "g_prime: expected a NumPy function or a C function"),
        ((np.tanh, None), TypeError, "g_prime: expected a function, got None"),
        ((np.sum, np.ones_like), ValueError, "g: expected an array of real numbers"),
        ((np.cumsum, np.ones_like), ValueError, "g: expected an elementwise function"),
        ((c_function("sin"), np.cos), TypeError, "NumPy functions or C functions throughout"),
    ],
)
def test_what_is_refused(functions, error, message):
    with pytest.raises(error, match=message):
        Activation("mine", *functions)


@pytest.mark.parametrize("call", ["hvp", "hessian", "sobolev_value_and_grad"])
def test_second_order_needs_g_second(call):
    net = Network([2, 3, 1], activations=Activation("mine", np.tanh, tanh_prime), rng=0)
    x, y = np.zeros((4, 2)), np.zeros((4, 1))
    arguments = {"hvp": [np.zeros(net.n_params)], "hessian": [], "sobolev_value_and_grad": [np.zeros((4, 2)), 1.0]}
    with pytest.raises(ValueError, match=f"{call}: expected a g_second in the activation 'mine' of layer 1"):
        getattr(net, call)(x, y, *arguments[call])


def test_who_has_a_g_third():
    sine = Activation("sine", np.sin, np.cos, lambda a: -np.sin(a), lambda a: -np.cos(a))
    c_sine = Activation("c_sine", c_function("sin"), c_function("cos"))
    assert sine.has_second
    assert sine.has_third
    assert not c_sine.has_third
    assert repr(sine) == "Activation('sine', sin, cos, <lambda>, <lambda>)"
    assert sine.formula_third == "sine'''(a)"
    a = np.linspace(-2, 2, 5)
    np.testing.assert_array_equal(sine.g_third(a, 0.0), -np.cos(a))
    with pytest.raises(ValueError, match="'c_sine' has no g_third, which gradients of second derivatives by"):
        c_sine.g_third(a, 0.0)


def test_check_gradient():
    x, y = data(20)
    assert Network([3, 4, 2], activations=NUMPY_TANH, rng=0).check_gradient(x, y).ok
    own = Activation("c_sin", c_function("sin"), c_function("cos"))
    assert Network([3, 4, 2], activations=own, rng=0).check_gradient(x, y).ok


def test_the_g_prime_product():
    square = Activation("square", np.square, lambda a: 2 * a)
    a = np.array([[1.0, 2.0, 3.0]])
    for dtype in (np.float32, np.float64):
        grad_a = preactivation_gradient(np.full((1, 3), 2, dtype), a.astype(dtype), square)
        np.testing.assert_array_equal(grad_a, 4 * a.astype(dtype), strict=True)


def test_addresses_are_copied_but_not_pickled():
    """C functions belong to one process: another process that called them would crash."""
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    g, g_prime = (ctypes.cast(getattr(libm, name), ctypes.c_void_p).value for name in ("sin", "cos"))
    net = Network([2, 3, 1], activations=Activation("sine", g, g_prime), rng=0)
    for again in (copy.copy(net), copy.deepcopy(net)):
        np.testing.assert_array_equal(again.forward(np.ones((1, 2))), net.forward(np.ones((1, 2))))
    for name in ("sin", "cos"):
        function = getattr(libm, name)
        function.argtypes, function.restype = [ctypes.c_double], ctypes.c_double
    low = [LowLevelCallable(getattr(libm, name), signature="double (double)") for name in ("sin", "cos")]
    for one in (net, Activation("sine", libm.sin, libm.cos), Activation("sine", *low)):
        with pytest.raises(
            pickle.PicklingError, match=r"^'sine': expected functions that can be pickled, got addresses"
        ):
            pickle.dumps(one)


def test_two_of_them_are_no_name_with_its_parameter():
    square = Activation("square", np.square, lambda a: 2 * a)
    for given in (("relu", square), (square, square)):
        net = Network([2, 3, 3, 1], activations=given, rng=0)
        assert Network([2, 3, 3, 1], activations=net.activations, rng=0).activations == net.activations == given


def test_numbers_of_other_dtypes():
    step = Activation("relu", lambda a: np.maximum(a, 0), lambda a: a > 0, np.zeros_like)
    assert step.has_second
    with pytest.raises(ValueError, match=r"^g: expected an array of real numbers .* dtype"):
        Activation("wide", lambda a: a.astype(np.longdouble), np.ones_like)


def test_the_name_of_softmax_is_free():
    assert Network([2, 1], output=Activation("softmax", np.square, lambda a: 2 * a)).output is not None
