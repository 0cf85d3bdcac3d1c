"""Large x and y of every dtype, byte order and layout: converted by tiles to the values of NumPy's astype."""

import numpy as np
import pytest

from backprop import Ensemble, Network
from backprop.api import validate as _validate

N = 5003
SIZES = [6, 5, 2]
DTYPES = ["?", "i1", "u1", "g"]
DTYPES += [order + name for name in ("i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8") for order in "<>"]


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch):
    monkeypatch.setattr("backprop.api.conversion.BY_TILE_BYTES", 0)


def numbers(shape, dtype, seed=0):
    """Numbers over the whole range of the dtype, but small enough for sums in a network of this size."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, np.dtype(dtype).newbyteorder("="), endpoint=True).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def same(results, expected):
    """Each part has equal bits."""
    results, expected = (r if isinstance(r, tuple) else (r,) for r in (results, expected))
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, other)


def networks(dtype, **options):
    return Network(SIZES, activations="tanh", dtype=dtype, rng=0, **options)


def astype(array, dtype):
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(array.astype(dtype))


def arranged(array, layout):
    """The same numbers in another order of memory."""
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[::-1, ::-1].copy()[::-1, ::-1]
    if layout == "parts":
        wide = np.zeros((2 * array.shape[0], 3 * array.shape[1]), array.dtype)
        wide[::2, 1::3] = array
        return wide[::2, 1::3]
    if layout == "odd":
        memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
        moved = memory.view(array.dtype).reshape(array.shape)
        moved[...] = array
        return moved
    return array


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("of", DTYPES)
def test_every_dtype(of, dtype):
    """All values, through a network that returns x: y_hat is the converted x."""
    net = Network([6, 6], output="identity", dtype=dtype)
    net.weights[0][...] = np.eye(6)
    x = numbers((N, 6), of)
    for layout in ("C", "F", "reversed", "parts", "odd"):
        for n_threads in (1, 2):
            np.testing.assert_array_equal(net.forward(arranged(x, layout), n_threads=n_threads), astype(x, dtype))


@pytest.mark.parametrize(("of", "dtype"), [("f2", "f4"), ("f2", "f8"), ("f4", "f8"), ("f8", "f4"), (">f8", "f8")])
def test_special_values(of, dtype):
    """Every float16; and inf, NaN, -0, subnormals, ties and values that overflow."""
    if of == "f2":
        values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    else:
        tiny = float(np.finfo(of).smallest_subnormal)
        values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, tiny, -tiny, 1e-40, 3e38, 1.0 + 2.0**-24]).astype(of)
        if np.dtype(of).itemsize == 8:
            values = np.append(values, [1e39, -1e39, 3.4028235677973366e38, 1e-45, 1.5 * 2.0**-149]).astype(of)
    x = np.resize(values, (len(values), 1))
    net = Network([1, 1], dtype=dtype)
    layers = net.layer_gradients(x, np.zeros_like(x))
    assert layers.h[0].tobytes() == astype(x, dtype).tobytes()
    net.weights[0][...] = 1
    y_hat, expected = net.forward(x)[:, 0], astype(x, dtype)[:, 0]
    np.testing.assert_array_equal(y_hat, expected)


def test_bools_that_are_neither_0_nor_1():
    x = np.arange(256, dtype=np.uint8).view(bool).reshape(128, 2)
    net = Network([2, 1], rng=0)
    same(net.forward(x), net.forward(astype(x, float)))


CALLS = {
    "value_and_grad": lambda net, x, y, w: net.value_and_grad(x, y, sample_weight=w, n_threads=1),
    "value_and_grad on threads": lambda net, x, y, w: net.value_and_grad(x, y, sample_weight=w, n_threads=3),
    "loss": lambda net, x, y, w: net.loss(x, y, sample_weight=w),
    "input_gradient": lambda net, x, y, w: net.input_gradient(x, y, sample_weight=w),
    "per_sample_gradients": lambda net, x, y, w: net.per_sample_gradients(x, y, sample_weight=w),
    "per_sample_gradient_norms": lambda net, x, y, w: net.per_sample_gradient_norms(x, y, sample_weight=w),
    "clipped_gradient": lambda net, x, y, w: net.clipped_gradient(x, y, 0.5, sample_weight=w),
    "hvp": lambda net, x, y, w: net.hvp(x, y, net.params, sample_weight=w),
    "gauss_newton_vp": lambda net, x, y, w: net.gauss_newton_vp(x, y, net.params, sample_weight=w),
    "hessian": lambda net, x, y, w: net.hessian(x, y, sample_weight=w),
    "objective": lambda net, x, y, w: net.objective(x, y, sample_weight=w)(net.params),
    "hessp": lambda net, x, y, w: net.objective(x, y, sample_weight=w).hessp(net.params, net.params),
    "hvp_operator": lambda net, x, y, w: net.hvp_operator(x, y, sample_weight=w) @ net.params,
    "find_nonfinite": lambda net, x, y, w: net.find_nonfinite(x, y, sample_weight=w),
    "check_gradient": lambda net, x, y, w: net.check_gradient(x[:9], y[:9]).max_error,
    "layer_gradients": lambda net, x, y, w: (
        (q := net.layer_gradients(x, y, sample_weight=w)).loss, *q.a[1:], *q.h, *q.grad_W[1:], q.grad_h[0],
    ),
    "Ensemble": lambda net, x, y, w: Ensemble(net, 2, rng=0).value_and_grad(x, y, sample_weight=w),
    "Ensemble, one a member": lambda net, x, y, w: Ensemble(net, 2, rng=0).value_and_grad(
        np.stack([x, x[::-1]]), np.stack([y, y[::-1]])
    ),
    "Ensemble.forward": lambda net, x, y, w: Ensemble(net, 2, rng=0).forward(x),
}  # fmt: skip
OF_SQUARED_ERROR = {
    "normal_equations": lambda net, x, y, w: net.normal_equations(x, y, sample_weight=w),
    "residuals": lambda net, x, y, w: net.residuals(x, y, sample_weight=w)[0](net.params),
    "sobolev_value_and_grad": lambda net, x, y, w: net.sobolev_value_and_grad(
        x, y, np.zeros((len(x), SIZES[-1], SIZES[0])), 0.5
    ),
}  # fmt: skip
WITHOUT_Y = {
    "forward": lambda net, x, y, w: net.forward(x),
    "jvp": lambda net, x, y, w: net.jvp(x, net.params),
    "vjp": lambda net, x, y, w: net.vjp(x, np.ones((len(x), SIZES[-1]))),
    "jacobian": lambda net, x, y, w: net.jacobian(x),
    "input_jacobian": lambda net, x, y, w: net.input_jacobian(x),
    "laplacian": lambda net, x, y, w: net.laplacian(x),
    "input_hessian": lambda net, x, y, w: net.input_hessian(x, np.ones(SIZES[-1])),
    "input_jet": lambda net, x, y, w: ((jet := net.input_jet(x)).y, jet.dy, jet.d2y),
    "jet_vjp": lambda net, x, y, w: net.jet_vjp(x, cot_d2y=np.ones((len(x), SIZES[-1], SIZES[0]))),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*CALLS, *OF_SQUARED_ERROR, *WITHOUT_Y])
def test_every_call(name, dtype):
    """A call gives the bits of one with x and y converted before; rows of weight 0 are left out."""
    call = {**CALLS, **OF_SQUARED_ERROR, **WITHOUT_Y}[name]
    net = networks(dtype)
    n = 700
    other = "f8" if dtype == "float32" else "f4"
    weight = np.random.default_rng(1).integers(0, 3, n) / 2
    for of, layout in ((other, "C"), ("i1", "parts"), (">f8", "F"), (other, "reversed")):
        x, y = arranged(numbers((n, 6), of), layout), arranged(numbers((n, 2), other, 1), layout)
        for w in (None, weight):
            same(call(net, x, y, w), call(net, astype(x, dtype), astype(y, dtype), w))


@pytest.mark.parametrize("loss", ["hinge", "poisson", "binary_cross_entropy", "cross_entropy"])
def test_targets_with_a_domain(loss):
    """Targets are checked after the conversion, in blocks, and the error names the caller's row."""
    net = networks("float64", loss=loss)
    x = numbers((9000, 6), "f4")
    y = {"hinge": np.sign(x[:, :2]), "poisson": np.abs(x[:, :2])}.get(loss, (x[:, :2] > 0).astype("f4"))
    if loss == "cross_entropy":
        y[:, 1] = 1 - y[:, 0]
    y = np.asfortranarray(y)
    same(net.value_and_grad(x, y), net.value_and_grad(astype(x, float), astype(y, float)))
    y[8765, 1] = -2
    with pytest.raises(ValueError, match=r"^y: expected .*, got -2\.0 in row 8765, output 1"):
        net.loss(x, y)
    weight = np.ones(len(x))
    weight[8765] = 0
    assert np.isfinite(net.loss(x, y, sample_weight=weight))


@pytest.mark.parametrize("of", ["i1", "u1", "i2", "i4", "u4", "i8", "u8", ">i8"])
def test_labels(of):
    net = networks("float32", loss="cross_entropy")
    x = numbers((9000, 6), "f4")
    labels = np.random.default_rng(0).integers(0, 2, 18000).astype(of)[::2]
    same(net.value_and_grad(x, labels), net.value_and_grad(x, labels.astype(np.intp)))
    same(net.value_and_grad(x, labels, n_threads=3), net.value_and_grad(x, labels.astype(np.intp)))
    labels[8765] = 2
    with pytest.raises(ValueError, match=r"^y: expected labels from 0 to 1, got 2 in row 8765"):
        net.loss(x, labels)
    if of == "u8":
        labels[8765] = 1 << 63
        with pytest.raises(ValueError, match=r"^y: expected labels from 0 to 1, got 9223372036854775808 in row 8765"):
            net.loss(x, labels)


def test_what_is_broadcast_is_not_taken_for_data():
    """A stride of 0 makes an array of any size without memory behind it."""
    net = networks("float64")
    x = np.broadcast_to(np.float32(1), (N, 6))
    same(net.forward(x), net.forward(np.ones((N, 6))))
    assert _validate.samples(x, 6, np.dtype("float64")).flags.c_contiguous
    column = np.ones(N, np.float32)[:, None]  # its second stride is 0, but there is nothing to step over
    taken = _validate.samples(column, 1, np.dtype("float64"))
    assert np.shares_memory(taken, column)
    assert taken.dtype == np.float32


def test_an_objective_sees_the_data_where_they_are():
    net = networks("float64")
    x, y = numbers((N, 6), "f4"), numbers((N, 2), "f8")
    fun = net.objective(x, y)
    assert np.shares_memory(fun._terms[0].samples.x, x)
