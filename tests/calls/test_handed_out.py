"""Whatever a user does to a returned or given array changes at most its values: the library keeps the sizes itself.

Changes run in new processes, so that a crash there is one failure here.
"""

import gc
import subprocess
import sys

import numpy as np
import pytest
from suites import shortened

from backprop import Activation, Ensemble, Network

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy 2.5 advises against new shapes in place

START = """
import sys, warnings
import numpy as np
import backprop
from backprop import Activation, Ensemble, Network

warnings.simplefilter("ignore")  # NumPy advises against some of this
rng = np.random.default_rng(0)
net = Network([3, 100, 4], activations="tanh", rng=0)
ensemble = Ensemble(net, 3, rng=1)
x, y, w = rng.normal(size=(50, 3)), rng.normal(size=(50, 4)), rng.uniform(1, 2, size=50)
"""

HANDED_OUT = (
    START
    + """
CHANGES = [
    lambda a: setattr(a, "shape", (1, -1)),
    lambda a: setattr(a, "shape", (-1, 1)),
    lambda a: setattr(a, "shape", (-1,)),
    lambda a: a.resize(1, refcheck=False),
    lambda a: a.resize((1, 1), refcheck=False),
    lambda a: a.resize(10**6, refcheck=False),
    lambda a: setattr(a, "strides", (0,) * a.ndim),
    lambda a: setattr(a, "dtype", np.uint8),
    lambda a: setattr(a, "dtype", np.float32),
    lambda a: setattr(a, "data", np.zeros(1).data),
    lambda a: a.setflags(write=False),
]
ARRAYS = {
    "params": lambda: net.params,
    "weights": lambda: net.weights[0],
    "last weights": lambda: net.weights[1],
    "biases": lambda: net.biases[0],
    "ensemble's params": lambda: ensemble.params,
    "a member's params": lambda: ensemble[1].params,
    "a member's weights": lambda: ensemble[1].weights[0],
    "a copy's params": lambda: copied.params,
    "input of layer_gradients": lambda: net.layer_gradients(x, y).h[0],
}
import copy, pickle
copied = copy.copy(net)
fun = net.objective(x, y, sample_weight=w, free=np.arange(net.n_params) % 2 == 0)
residuals, jacobian = net.residuals(x, y)
operator = net.hvp_operator(x, y)
theta, v = rng.normal(size=fun.n_free), rng.normal(size=net.n_params)

def results():
    q = net.layer_gradients(x, y)
    yield from (*net.value_and_grad(x, y), *net.value_and_grad(x, y.tolist()), net.loss(x, y), net.forward(x))
    yield from (net.hvp(x, y, v), *net.vjp(x, y), net.jacobian(x[:3]), q.grad_h[0], q.grad_W[1], q.h[2], q.h[0])
    yield from (*fun(theta), fun.hessp(theta, theta), residuals(v), operator @ v, net.params, *net.weights)
    yield from (*ensemble.value_and_grad(x, y), *ensemble.value_and_grad(x, y, sample_weight=w), ensemble.forward(x))
    for other in (ensemble[1], copy.deepcopy(net), pickle.loads(pickle.dumps(net)), copied):
        yield from (*other.value_and_grad(x, y), *other.weights, *other.biases)
    yield pickle.loads(pickle.dumps(ensemble)).params

def bits():
    return [(np.shape(result), np.asarray(result).tobytes()) for result in results()]

before = bits()
made = ARRAYS[sys.argv[1]]
for change in CHANGES:
    array = made()
    while isinstance(array, np.ndarray) and array is not x:
        try:
            change(array)
        except (AttributeError, TypeError, ValueError):
            pass  # NumPy does not let it happen
        array = array.base
    assert bits() == before, CHANGES.index(change)
    made()[...] = made()  # still writable
print("alive")
"""
)


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("alive"), done.stdout


NAMES = ["params", "weights", "last weights", "biases", "ensemble's params", "a member's params", "a member's weights",
         "a copy's params", "input of layer_gradients"]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    shortened(
        NAMES,
        ["params", "last weights", "a member's weights", "input of layer_gradients"],
        "made by the same functions",
    ),
)
def test_a_new_shape_size_dtype_stride_or_flag_changes_nothing(name):
    run(HANDED_OUT, name)


@pytest.mark.parametrize(
    "take",
    [lambda net, _: net.params, lambda net, _: net.weights[1], lambda net, _: net.biases[0],
     lambda _, ensemble: ensemble.params, lambda _, ensemble: ensemble[0].params,
     lambda _, ensemble: ensemble[2].weights[0]],
)  # fmt: skip
def test_a_view_leads_to_no_array(take):
    """Each access gives a new view of the same memory; its owner is not an array and gives no access to one."""
    net = Network([2, 3, 1], rng=0)
    ensemble = Ensemble(net, 3, rng=0)
    one, other = take(net, ensemble), take(net, ensemble)
    assert one is not other
    assert np.shares_memory(one, other)
    assert not isinstance(one.base, np.ndarray)
    assert not gc.get_referents(one.base)
    one[...] = 7
    assert (other == 7).all()
    assert not one.flags.owndata
    one.flags.writeable = False
    one.flags.writeable = True  # as of memory of its own
    del net, ensemble
    gc.collect()
    assert (one == 7).all()


def test_writes_in_place_are_seen_by_every_call():
    net = Network([2, 3, 1], activations="tanh", rng=0)
    ensemble = Ensemble(net, 2, rng=0)
    x, y = np.eye(2), np.ones((2, 1))
    operator, fun = net.hvp_operator(x, y), net.objective(x, y, free=np.arange(net.n_params) < 2)
    net.weights[0][...] = 0.5
    net.biases[1][...] += 0.25
    net.params[-2] = 2.0
    fresh = Network([2, 3, 1], activations="tanh")
    fresh.params = np.concatenate([np.full(6, 0.5), np.zeros(3), net.weights[1][0, :2], [2.0], [0.25]])
    v = np.arange(net.n_params, dtype=float)
    assert net.loss(x, y) == fresh.loss(x, y)
    assert np.array_equal(operator @ v, fresh.hvp(x, y, v))
    assert fun.value(net.params[:2]) == fresh.loss(x, y)
    ensemble.params[1] = net.params
    assert ensemble[1].loss(x, y) == fresh.loss(x, y) == ensemble.value_and_grad(x, y)[0][1]
    ensemble[0].weights[0][...] = 3.0
    assert (ensemble.params[0, :6] == 3.0).all()


# A user's arrays ------------------------------------------------------------------------------------------------------

DURING_A_CALL = (
    START
    + """
changed = []

def g(a):
    for array, shape in changed:
        array.shape = shape
    changed.clear()
    return np.tanh(a)

own = Activation("own", g, lambda a: 1 / np.cosh(a) ** 2, lambda a: -2 * np.tanh(a) / np.cosh(a) ** 2)
net = Network([3, 5, 4], activations=own, rng=0)
v, n = rng.normal(size=net.n_params), net.n_params
x, y, w = np.tile(x, (30, 1)), np.tile(y, (30, 1)), np.tile(w, 30)

class Late:
    # Changes a shape when it is converted: after some arguments were looked at, and before others are.
    def __init__(self, array):
        self.array = array
    def __array__(self, dtype=None, copy=None):
        for array, shape in changed:
            array.shape = shape
        changed.clear()
        return self.array

CALLS = {
    "value_and_grad": lambda kind: net.value_and_grad(x, kind(y), sample_weight=kind(w), params=theta, out=out(n)),
    "loss": lambda kind: net.loss(x, kind(y), sample_weight=kind(w), params=theta),
    "forward": lambda kind: net.forward(x, params=kind(theta)),
    "hvp": lambda kind: net.hvp(x, kind(y), v, sample_weight=kind(w), params=theta, out=out(n)),
    "jvp": lambda kind: net.jvp(x, kind(v), params=theta, out=out(len(w), 4)),
    "vjp": lambda kind: net.vjp(x, kind(y), params=theta),
    "hessian": lambda kind: net.hessian(x, kind(y), sample_weight=kind(w), params=theta, out=out(n, n)),
    "normal_equations": lambda kind: net.normal_equations(x, kind(y), sample_weight=kind(w), params=theta),
    "clipped_gradient": lambda kind: net.clipped_gradient(x, kind(y), 1.0, sample_weight=kind(w), params=theta),
    "per_sample_gradients": lambda kind: net.per_sample_gradients(x, kind(y), params=theta, out=out(len(w), n)),
    "rows left out": lambda kind: net.input_gradient(
        x, kind(y), params=theta, sample_weight=kind(w * (np.arange(len(w)) % 3 > 0)), out=out(len(w), 3)
    ),
    "layer_gradients": lambda kind: vars(net.layer_gradients(x, kind(y), sample_weight=kind(w), params=theta)).values(),
    "ensemble": lambda kind: ensemble.value_and_grad(x, kind(y), sample_weight=kind(w), out=out(3, n)),
}
theta = 0.5 * net.params
ensemble = Ensemble(net, 3, rng=1)
outs = []

def out(*shape):
    outs.append(np.full(shape, np.nan))
    return outs[-1]

def bits(results):
    if isinstance(results, (tuple, list, type({}.values()))):
        return b"".join(map(bits, results))
    return b"" if results is None else np.asarray(results).tobytes()

call = CALLS[sys.argv[1]]
right = bits(call(np.asarray))
shapes = [(a, a.shape) for a in (x, y, w, theta, v)]
n_right = 0
for kind in (np.asarray, Late, np.ndarray.tolist):
    for new in ((1, -1), (-1, 1), (-1,)):
        for every in (True, False):
            changed[:] = [(a, new) for a in ([x, y, w, theta, v] if every else [x])]
            if kind is np.asarray and outs:  # the out of this call, which is the next one
                made = out
                def out(*shape):
                    array = made(*shape)
                    changed.append((array, new))
                    return array
            try:
                result = bits(call(kind))
            except ValueError:
                assert kind is Late
            else:
                n_right += 1
                assert result == right, (kind, new, every)
            if kind is np.asarray and outs:
                out = made
            changed.clear()
            for array, shape in shapes:
                array.shape = shape
            assert bits(call(np.asarray)) == right
assert n_right >= 12
print("alive")
"""
)


@pytest.mark.parametrize(
    "call",
    shortened(
        ["value_and_grad", "loss", "forward", "hvp", "jvp", "vjp", "hessian", "normal_equations", "clipped_gradient",
         "per_sample_gradients", "rows left out", "layer_gradients", "ensemble"],
        ["value_and_grad", "jvp", "normal_equations", "per_sample_gradients", "rows left out", "ensemble"],
        "the shapes are read at the same place",
    ),
)  # fmt: skip
def test_a_call_keeps_the_shapes_with_which_it_began(call):
    """An activation, or another argument's ``__array__``, changes the shapes of x, y, weights, parameters and out."""
    run(DURING_A_CALL, call)


BY_A_THREAD = (
    START
    + """
import threading

sys.setswitchinterval(1e-5)
x, y, w = np.tile(x, (500, 1)), np.tile(y, (500, 1)), np.tile(w, 500)
grad = np.empty(net.n_params)
loss, right = net.value_and_grad(x, y, sample_weight=w)
weights = w.tolist()
done = threading.Event()

def change():
    while not done.is_set():
        for array in (x, y, grad, net.params, net.weights[0]):
            shape = array.shape
            for other in ((1, -1), (-1, 1), (-1,)):
                array.shape = other
            array.shape = shape

thread = threading.Thread(target=change)
thread.start()
n_right = n_refused = 0
for _ in range(30):
    try:
        result = net.value_and_grad(x, y, sample_weight=weights, out=grad)
    except ValueError:
        n_refused += 1
    else:
        n_right += 1
        assert result[0] == loss and result[1].tobytes() == right.tobytes()
done.set()
thread.join()
print("alive", n_right, n_refused)
"""
)


def test_a_thread_changes_shapes_all_the_time():
    run(BY_A_THREAD)


def kept_data():
    """A network, the user's x, y, weights and parameters, and every object that keeps some of them."""
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(20, 3)), rng.normal(size=(20, 2)), rng.uniform(1, 2, size=20)
    net = Network([3, 4, 2], activations="tanh", rng=0)
    theta, v = rng.normal(size=net.n_params), rng.normal(size=net.n_params)
    fun = net.objective(x, y, sample_weight=w)
    r, jac = net.residuals(x, y, sample_weight=w)
    operators = [make(x, y, sample_weight=w, params=theta) for make in (net.hvp_operator, net.gauss_newton_operator)]
    uses = {
        "objective": lambda k: fun(v + k),
        "hessp": lambda k: (fun.hessp(v, v),),
        "residuals": lambda k: (r(v),),
        "their Jacobian": lambda k: (jac(v),),
        "hvp_operator": lambda k: (operators[0] @ v,),
        "gauss_newton_operator": lambda k: (operators[1] @ v,),
    }
    return {"x": x, "y": y, "sample_weight": w, "params": theta}, uses


USES = list(kept_data()[1])


@pytest.mark.parametrize("name", USES)
def test_kept_data_keep_their_shapes(name):
    arrays, uses = kept_data()
    right = [np.array(result) for result in uses[name](0)]
    for array in arrays.values():
        array.shape = (1, -1)
        array.setflags(write=False)
    uses[name](1)  # at another theta, so that nothing kept is used
    for one, other in zip(uses[name](0), right, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", USES)
def test_kept_data_whose_memory_is_gone_are_refused(name):
    taken = ["x"] + ([] if "esid" in name or "Jac" in name else ["y", "sample_weight"])
    for which in taken + (["params"] if "operator" in name else []):
        arrays, uses = kept_data()
        uses[name](0)
        arrays[which].resize(1, refcheck=False)
        with pytest.raises(ValueError, match=rf"^{which}: expected an array that keeps its size, got one that was"):
            uses[name](1)


def test_a_slice_keeps_its_owner_in_sight():
    """A view that the user makes: its memory belongs to the owner."""
    net, big = Network([3, 2], rng=0), np.ones((100, 3))
    fun = net.objective(big[50:], np.ones((50, 2)))
    before = fun(net.params)
    big.shape = (-1,)
    assert fun(net.params)[0] == before[0]
    big.resize(10, refcheck=False)
    with pytest.raises(ValueError, match=r"^x: expected an array that keeps its size"):
        fun(net.params + 1)


def test_an_activation_gets_memory_of_its_own():
    """A NumPy function may change the array that it is given, or one that it returned, without effect elsewhere."""
    seen = []

    def g(a):
        seen.append(a)
        h = np.tanh(a)
        a.shape = (-1,)
        seen.append(h)
        return h

    own = Activation("own", g, lambda a: 1 / np.cosh(a) ** 2)
    net = Network([3, 4, 2], activations=own, rng=0)
    built_in = Network([3, 4, 2], activations="tanh", rng=0)
    x = np.random.default_rng(0).normal(size=(700, 3))
    np.testing.assert_allclose(net.forward(x), built_in.forward(x), rtol=1e-13)
    for array in seen:
        array.resize(1, refcheck=False)
    np.testing.assert_allclose(net.forward(x), built_in.forward(x), rtol=1e-13)


def test_calls_need_no_table_once_they_are_made():
    """The interpreter clears all modules when it ends, while threads of C may still be inside calls."""
    code = """
import gc
from backprop import _core

y_hat, grad = np.empty((50, 4)), np.empty(net.n_params)
arguments = net.params, x, y, y_hat, grad, None, 1, None, None, None, None
loss = net._plan.layer_gradients(*arguments)
for module in list(sys.modules.values()):
    for name, value in list(vars(module).items()):
        if isinstance(value, _core.Call):
            setattr(module, name, None)
_core.CALLS.clear()
gc.collect()
calls = [_core.Call("") for _ in range(1000)]  # without functions, in memory that may have been freed
assert net._plan.layer_gradients(*arguments) == loss
print("alive")
"""
    run(START + code)
