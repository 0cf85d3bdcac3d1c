"""Lists and objects as arguments: no mask is dropped, and the error for anything but numbers names the cure."""

from collections import UserList, deque
from decimal import Decimal

import numpy as np
import pytest
from scipy import sparse

from backprop import Activation, Ensemble, Network, hidden_gradient, preactivation_gradient

N_SAMPLES, N_IN, N_OUT = 5, 3, 2
RNG = np.random.default_rng(1)
X = RNG.standard_normal((N_SAMPLES, N_IN))
Y = RNG.standard_normal((N_SAMPLES, N_OUT))
LABELS = np.array([0, 1, 1, 0, 1])


def make(loss="squared_error"):
    return Network([N_IN, 4, N_OUT], activations="tanh", loss=loss, rng=0)


def masked(array):
    return np.ma.masked_array(array, np.arange(np.size(array)).reshape(np.shape(array)) == 0)


class Matrix:
    """An object that has only `__array__`."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


class Proxy:
    """A proxy: passes on all attributes but those that Python looks up on the type, and reports another class."""

    def __init__(self, value):
        self.__dict__["value"] = value

    __class__ = property(lambda self: type(self.__dict__["value"]))

    def __getattr__(self, name):
        return getattr(self.__dict__["value"], name)


class Items:
    """A sequence class of the user."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def with_the_constant(nested):
    """Nested lists whose last number is `numpy.ma.masked`."""
    last = nested
    while isinstance(last[-1], list):
        last = last[-1]
    last[-1] = np.ma.masked
    return nested


MASKED = {
    "an array": masked,
    "a list of rows": lambda a: [masked(row) for row in a],
    "a tuple of rows": lambda a: tuple(masked(row) for row in a),
    "a row among plain ones": lambda a: [*a[:-1], masked(a[-1])],
    "a row among lists": lambda a: [*np.asarray(a)[:-1].tolist(), masked(a[-1])],
    "the constant": lambda a: with_the_constant(np.asarray(a).tolist()),
    "a deque": lambda a: deque(masked(row) for row in a),
    "a UserList": lambda a: UserList([masked(row) for row in a]),
    "a sequence": lambda a: Items([masked(row) for row in a]),
    "__array__": lambda a: Matrix(masked(a)),
    "__array__ by proxy": lambda a: Proxy(masked(a)),
    "a list of __array__": lambda a: [Matrix(masked(row)) for row in a],
    "a list of proxies": lambda a: [Proxy(masked(row)) for row in a],
}

WEIGHT = np.arange(1.0, 6.0)
THETA = make().params.copy()
CALLS = {
    "x": lambda v: make().value_and_grad(v(X), Y),
    "x of forward": lambda v: make().forward(v(X)),
    "y": lambda v: make().value_and_grad(X, v(Y)),
    "y of labels": lambda v: make("cross_entropy").loss(X, v(LABELS)),
    "sample_weight": lambda v: make().loss(X, Y, sample_weight=v(WEIGHT)),
    "params": lambda v: make().loss(X, Y, params=v(THETA)),
    "params set": lambda v: setattr(make(), "params", v(THETA)),
    "v": lambda v: make().hvp(X, Y, v(THETA)),
    "cotangent": lambda v: make().vjp(X, v(Y)),
    "grad_x": lambda v: make().sobolev_value_and_grad(X, Y, v(np.ones((5, 2, 3))), 1.0),
    "weight": lambda v: make().sobolev_value_and_grad(X, Y, np.ones((5, 2, 3)), v(np.ones((2, 3)))),
    "theta": lambda v: make().objective(X, Y)(v(THETA)),
    "theta of residuals": lambda v: make().residuals(X, Y)[0](v(THETA)),
    "free": lambda v: make().objective(X, Y, free=v(np.ones(THETA.shape, bool))),
    "x of objective": lambda v: make().objective(v(X), Y),
    "W_next": lambda v: hidden_gradient(v(np.ones((2, 3))), np.ones((5, 2))),
    "grad_a_next": lambda v: hidden_gradient(np.ones((2, 3)), v(np.ones((5, 2)))),
    "a": lambda v: preactivation_gradient(np.ones((5, 3)), v(np.ones((5, 3))), "tanh"),
    "grad_h": lambda v: preactivation_gradient(v(np.ones((5, 3))), np.ones((5, 3)), "tanh"),
    "x of an ensemble": lambda v: Ensemble(make(), 3).value_and_grad(v(np.stack([X] * 3)), Y),
    "y of an ensemble": lambda v: Ensemble(make(), 3).value_and_grad(X, v(np.stack([Y] * 3))),
    "sample_weight of an ensemble": lambda v: Ensemble(make(), 3).value_and_grad(
        X, Y, sample_weight=v(np.ones((3, N_SAMPLES)))
    ),
    "params of an ensemble": lambda v: setattr(Ensemble(make(), 3), "params", v(np.stack([THETA] * 3))),
}


@pytest.mark.parametrize("how", MASKED)
@pytest.mark.parametrize("call", CALLS)
def test_no_mask_is_dropped(call, how):
    with pytest.raises(TypeError, match=rf"^{call.split()[0]}: expected a plain array, got a masked one"):
        CALLS[call](MASKED[how])
    CALLS[call](lambda array: array)  # the object that it was made from is accepted


def test_a_mask_that_hides_nothing_is_refused_too():
    with pytest.raises(TypeError, match="got a masked one in a list; give missing entries sample_weight 0"):
        make().forward([np.ma.masked_array(row) for row in X])


def test_an_object_array_of_masked_ones():
    rows = np.empty(N_SAMPLES, object)
    rows[:] = [masked(row) for row in X]
    for value in (rows, list(rows), [rows, rows]):
        with pytest.raises(TypeError, match=r"^x: expected .*got"):
            make().forward(value)


def test_masks_deep_in_lists():
    for depth in range(1, 7):
        value = masked(X)
        for _ in range(depth):
            value = [value] if depth % 2 else (value,)
        with pytest.raises(TypeError, match="got a masked one in a list"):
            make().forward(value)


def test_a_list_within_itself_and_lists_within_lists_end():
    endless = []
    endless.append(endless)
    deep = 1.0
    for _ in range(200):
        deep = [deep, 2.0]
    for value in (endless, deep, [endless, masked(X)], [[]], [[], []]):
        with pytest.raises((ValueError, TypeError), match=r"^x: expected"):
            make().forward(value)


@pytest.mark.parametrize("how", ["masked", "a list of masked", "__array__"])
@pytest.mark.parametrize("key", ["g", "g_prime", "g_second", "g_third"])
def test_an_activation_of_ones_own_drops_no_mask(key, how):
    functions = {"g": np.square, "g_prime": lambda a: 2 * a, "g_second": lambda a: np.full_like(a, 2)}
    functions["g_third"] = np.zeros_like
    hide = {
        "masked": masked,
        "a list of masked": lambda a: list(map(masked, a)),
        "__array__": lambda a: Matrix(masked(a)),
    }
    now = {"masks": False}
    plain = functions[key]
    functions[key] = lambda a: hide[how](plain(a)) if now["masks"] else plain(a)
    message = rf"^{key} of 'mine': expected a plain array, got a masked one"
    own = Activation("mine", **functions)
    net = Network([N_IN, 4, N_OUT], activations=own, rng=0)
    right = net.value_and_grad(X, Y)[1], net.hvp(X, Y, net.params)
    now["masks"] = True
    with pytest.raises(TypeError, match=message):
        Activation("mine", **functions)
    if key != "g_third":
        with pytest.raises(TypeError, match=message):
            net.hvp(X, Y, net.params) if key == "g_second" else net.value_and_grad(X, Y)
    if key == "g_prime":
        with pytest.raises(TypeError, match=message):
            preactivation_gradient(X, X, own)
    now["masks"] = False
    assert np.array_equal(net.value_and_grad(X, Y)[1], right[0])
    assert np.array_equal(net.hvp(X, Y, net.params), right[1])


def test_each_object_makes_one_array():
    class Counting(Matrix):
        n_calls = 0

        def __array__(self, dtype=None, copy=None):
            self.n_calls += 1
            return self.array

    rows = [Counting(row) for row in X]
    assert np.array_equal(make().forward(rows), make().forward(X))
    assert {row.n_calls for row in rows} == {1}


@pytest.mark.parametrize(
    "value",
    [X.tolist(), list(X), list(map(tuple, X.tolist())), [Matrix(row) for row in X], deque(X.tolist()),
     Items(X.tolist()), UserList(list(X)), Proxy(X), [[np.float64(v) for v in row] for row in X],
     [[np.array(v) for v in row] for row in X]],
)  # fmt: skip
def test_lists_and_sequences_of_numbers(value):
    assert np.array_equal(make().forward(value), make().forward(X))


# What is no array of numbers, and what to do -------------------------------------------------------------------------

NO_ARRAY = {
    "None": (None, r"expected an array of numbers, got NoneType None$"),
    "a generator": ((row for row in X), r"got generator .*; list\(x\) holds its items"),
    "a map": (map(list, X), r"got map .*; list\(x\) holds its items"),
    "values of a dict": ({"a": X}.values(), r"got dict_values .*; list\(x\) holds its items"),
    "a dict": ({"a": [1.0]}, r"expected an array of numbers, got dict {'a': \[1.0\]}$"),
    "a set": ({1.0}, r"expected an array of numbers, got set {1.0}$"),
    "csr": (sparse.csr_array(X), r"expected a dense array, got csr_array; x\.toarray\(\)"),
    "coo": (sparse.coo_array(X), r"expected a dense array, got coo_array; x\.toarray\(\)"),
    "lil": (sparse.lil_matrix(X), r"expected a dense array, got lil_matrix; x\.toarray\(\)"),
    "a list of sparse": ([sparse.csr_array(X)], r"expected a dense array, got csr_array"),
    "objects": (X.astype(object), r"got dtype object; np\.asarray\(x, float\) makes floats of it"),
    "integers as objects": (np.ones((5, 3), int).astype(object), r"np\.asarray\(x, int\) makes ints of it"),
    "None in a list": ([[1.0, None, 2.0]], r"got dtype object, with NoneType None at \[0, 1\]"),
    "text in objects": (np.array([[1.0, "a", 2.0]], object), r"got dtype object, with str 'a' at \[0, 1\]"),
    "a decimal": ([[1.0, Decimal(1), 2.0]], r"got dtype object, with Decimal Decimal\('1'\) at \[0, 1\]"),
    "text": ([["1", "2", "3"]], r"expected real numbers, got dtype <U1$"),
}


@pytest.mark.parametrize("case", NO_ARRAY)
def test_what_is_no_array_is_named(case):
    value, message = NO_ARRAY[case]
    with pytest.raises(TypeError, match=rf"^x: {message}" if message.startswith("expected") else rf"^x: .*{message}"):
        make().forward(value)


@pytest.mark.parametrize("y", [["a", "b", "b", "a", "b"], np.array(list("abbab")), np.array(list("abbab"), object)])
def test_names_as_labels(y):
    net = make("cross_entropy")
    with pytest.raises(TypeError, match=r"^y: .*names become labels by np\.unique\(y, return_inverse=True\)\[1\]"):
        net.loss(X, y)
    assert net.loss(X, np.unique(y, return_inverse=True)[1]) == net.loss(X, LABELS)


def test_the_cures_cure():
    net = make()
    right = net.forward(X)
    assert np.array_equal(net.forward(sparse.csr_array(X).toarray()), right)
    assert np.array_equal(net.forward(list(row for row in X)), right)
    assert np.array_equal(net.forward(np.asarray(X.astype(object), float)), right)
