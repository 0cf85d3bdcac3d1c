"""Arrays of every layout and dtype: converted once, the right answer bit for bit, never written."""

import warnings

import numpy as np
import pytest
from allocations import peak_of_a_call

from backprop import Network, hidden_gradient, preactivation_gradient

N_SAMPLES, SIZES = 70, [3, 20, 2]  # 70 rows: more than one chain of 64; whole numbers, which every dtype holds
RNG = np.random.default_rng(5)
X = RNG.integers(0, 2, (N_SAMPLES, 3)).astype(float)
Y = RNG.integers(0, 2, (N_SAMPLES, 2)).astype(float)
LABELS = RNG.integers(0, 2, N_SAMPLES)
WEIGHT = RNG.integers(0, 2, N_SAMPLES).astype(float)


def with_stride(array, step):
    """The same values as a view with larger strides."""
    wide = np.zeros(tuple(step * n for n in array.shape), array.dtype)
    view = wide[tuple(slice(None, None, step) for _ in array.shape)]
    view[...] = array
    return view


def misaligned(array, offset=1):
    """The same values at an address that is not a multiple of the itemsize."""
    memory = np.zeros(array.nbytes + offset, np.uint8)
    view = memory[offset:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def read_only(array):
    result = array.copy()
    result.flags.writeable = False
    return result


class Matrix:
    """An object that has only `__array__`."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "reversed rows": lambda a: a[::-1].copy()[::-1],
    "reversed in all axes": lambda a: np.flip(np.flip(a).copy()),
    "every third": lambda a: with_stride(a, 3),
    "a column of a wider array": lambda a: np.stack([a, a + 1], axis=-1)[..., 0],
    "big-endian": lambda a: a.astype(">f8"),
    "big-endian float32": lambda a: a.astype(">f4"),
    "float16": lambda a: a.astype(np.float16),
    "float32": lambda a: a.astype(np.float32),
    "longdouble": lambda a: a.astype(np.longdouble),
    "int64": lambda a: a.astype(np.int64),
    "int8": lambda a: a.astype(np.int8),
    "uint64": lambda a: a.astype(np.uint64),
    "big-endian int16": lambda a: a.astype(">i2"),
    "bool": lambda a: a.astype(bool),
    "nested lists": lambda a: a.tolist(),
    "nested tuples": lambda a: tuple(map(tuple, a.tolist())) if a.ndim == 2 else tuple(a.tolist()),
    "a list of rows": list,
    "read-only": read_only,
    "misaligned by 1": misaligned,
    "misaligned by 4": lambda a: misaligned(a, 4),
    "misaligned float32": lambda a: misaligned(a.astype(np.float32), 2),
    "a memoryview": lambda a: memoryview(a.copy()),
    "__array__": lambda a: Matrix(a.copy()),
    "a subclass": lambda a: np.asarray(a).view(type("Sub", (np.ndarray,), {})),
}


def snapshot(value):
    return value if isinstance(value, list | tuple) else np.array(np.asarray(value))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_bits_and_is_not_written(layout, dtype):
    change = LAYOUTS[layout]
    net = Network(SIZES, activations="tanh", dtype=dtype, rng=0)
    out = np.full(net.n_params, np.nan, dtype)
    given = {"x": change(X), "y": change(Y), "sample_weight": change(WEIGHT)}
    before = {name: snapshot(value) for name, value in given.items()}
    loss, grad = net.value_and_grad(given["x"], given["y"], sample_weight=given["sample_weight"], out=out)
    expected = net.value_and_grad(X.astype(dtype), Y.astype(dtype), sample_weight=WEIGHT)
    assert grad is out
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    assert np.array_equal(net.forward(given["x"]), net.forward(X.astype(dtype)))
    for name, value in given.items():
        assert np.array_equal(snapshot(value), before[name])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_params_of_every_layout(layout):
    theta = np.arange(float(Network(SIZES).n_params)) % 2 - (0 if layout in ("bool", "uint64") else 0.5)
    if "int" in layout:
        theta = np.arange(theta.size) % 2 * 1.0
    net = Network(SIZES, activations="tanh", rng=0)
    own = net.params.copy()
    loss, grad = net.value_and_grad(X, Y, params=LAYOUTS[layout](theta))
    assert np.array_equal(net.params, own)
    net.params = LAYOUTS[layout](theta)
    assert np.array_equal(net.params, theta)
    expected = net.value_and_grad(X, Y)
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "float" not in name and "double" not in name
                                    and name not in ("big-endian", "bool")])  # fmt: skip
def test_labels_of_every_layout(layout):
    net = Network(SIZES, activations="tanh", loss="cross_entropy", rng=0)
    labels = LAYOUTS[layout](LABELS)
    before = snapshot(labels)
    loss, grad = net.value_and_grad(X, labels)
    expected = net.value_and_grad(X, LABELS.copy())
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    assert np.array_equal(snapshot(labels), before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zero_strides(dtype):
    net = Network(SIZES, activations="tanh", dtype=dtype, rng=0)
    x = np.broadcast_to(np.array([0.5, -1.5, 2.0], dtype), (N_SAMPLES, 3))
    y = np.broadcast_to(np.array(0.25, dtype), (N_SAMPLES, 2))
    weight = np.broadcast_to(np.array(2.0), N_SAMPLES)
    loss, grad = net.value_and_grad(x, y, sample_weight=weight)
    expected = net.value_and_grad(x.copy(), y.copy(), sample_weight=weight.copy())
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    assert np.array_equal(net.forward(x), net.forward(x.copy()))
    column = np.broadcast_to(np.array([[0.5], [1.5]], dtype), (2, 3))  # a stride of 0 along the columns
    assert np.array_equal(net.forward(column), net.forward(column.copy()))


def test_a_single_row_or_column_with_odd_strides():
    net = Network([3, 20, 1], rng=0)
    x = np.lib.stride_tricks.as_strided(np.arange(3.0), (1, 3), (12345 * 8, 8))
    assert np.array_equal(net.forward(x), net.forward([[0.0, 1.0, 2.0]]))
    net = Network([1, 20, 1], rng=0)
    x = np.arange(10.0)[::2][:, None]
    assert np.array_equal(net.forward(x), net.forward(x.copy()))
    assert net.loss(x, x[::-1]) == net.loss(x.copy(), x[::-1].copy())


@pytest.mark.parametrize("mode", ["r", "c", "r+"])
def test_memory_mapped_arrays(tmp_path, mode):
    net = Network(SIZES, activations="tanh", rng=0)
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", array)
    before = (tmp_path / "x.npy").read_bytes()
    x, y = (np.load(tmp_path / f"{name}.npy", mmap_mode=mode) for name in "xy")
    out = np.memmap(tmp_path / "out", np.float64, "w+", shape=(net.n_params,))
    loss, grad = net.value_and_grad(x, y, out=out)
    expected = net.value_and_grad(X, Y)
    assert grad is out
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    out.flush()
    assert np.array_equal(np.fromfile(tmp_path / "out"), expected[1])
    assert (tmp_path / "x.npy").read_bytes() == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", range(4, 64, 4))
def test_the_bits_do_not_depend_on_the_address(dtype, offset):
    net = Network(SIZES, activations="tanh", dtype=dtype, rng=0)
    x = np.random.default_rng(0).standard_normal((N_SAMPLES, 3)).astype(dtype)
    memory = np.zeros(x.nbytes + 64, np.uint8)
    moved = memory[offset : offset + x.nbytes].view(dtype).reshape(x.shape)
    moved[...] = x
    loss, grad = net.value_and_grad(moved, Y)
    expected = net.value_and_grad(x, Y)
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    assert np.array_equal(net.forward(moved), net.forward(x))


def test_float64_beyond_float32_becomes_inf_without_a_warning():
    net = Network([2, 1], dtype="float32", rng=0)
    net.params = [1.0, 0.0, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert net.forward([[1e300, 0.0]])[0, 0] == np.inf
        assert net.loss([[1e300, 0.0]], [[0.0]]) == np.inf
        assert net.loss([[0.0, 0.0]], [[1e300]]) == np.inf
        net.params = [1e300, 0.0, 0.0]
        assert net.params[0] == np.inf
        assert np.isnan(net.forward([[0.0, 0.0]])[0, 0])
        assert net.forward(np.array([[1.0, 0.0]], np.longdouble))[0, 0] == np.inf
        net.objective([[1.0, 0.0]], [[0.0]])(np.array([1e300, 0.0, 0.0]))
        Network([2, 1], rng=0).forward(np.full((1, 2), np.longdouble("1e400")))


def test_whole_numbers_beyond_2_53_are_rounded_like_numpy():
    net = Network([1, 1], rng=0)
    net.params = [1.0, 0.0]
    for value in (2**53 + 1, 2**62 + 1, -(2**63)):
        assert net.forward(np.array([[value]]))[0, 0] == np.array([value]).astype(float)[0]
    assert net.forward([[2**64 - 1]])[0, 0] == 2.0**64


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_the_gradient_is_out_itself(loss):
    net = Network(SIZES, loss=loss, rng=0)
    out = np.empty(net.n_params)
    y = LABELS if loss == "cross_entropy" else Y
    for _ in range(2):
        assert net.value_and_grad(X, y, out=out)[1] is out
    assert np.array_equal(out, net.value_and_grad(X, y)[1])
    fresh = [net.value_and_grad(X, y)[1] for _ in range(2)]
    assert not np.shares_memory(*fresh)
    view = np.empty(3 * net.n_params)[5 : 5 + net.n_params]
    assert net.value_and_grad(X, y, out=view)[1] is view
    assert np.array_equal(view, out)


def test_out_overwrites_whatever_was_there():
    net = Network([3, 20, 17, 2], activations="relu", rng=0)
    expected = net.value_and_grad(X, Y)[1]
    for rubbish in (np.nan, np.inf, 1e300, -0.0):
        for n_rows in (1, N_SAMPLES):
            out = np.full(net.n_params, rubbish)
            net.value_and_grad(X[:n_rows], Y[:n_rows], out=out)
            assert np.array_equal(out, expected if n_rows == N_SAMPLES else net.value_and_grad(X[:1], Y[:1])[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_samples", [1, 1000, 20000])
@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy", "cross_entropy", "probabilities"])
def test_with_out_and_arrays_that_fit_nothing_is_allocated(dtype, n_samples, loss):
    net = Network([10, 30, 4], loss="cross_entropy" if loss == "probabilities" else loss, dtype=dtype, rng=0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n_samples, 10)).astype(dtype)
    y = rng.integers(0, 4, n_samples) if loss == "cross_entropy" else np.full((n_samples, 4), 0.25, dtype)
    weight = rng.uniform(0.5, 1, n_samples)
    out = np.empty(net.n_params, dtype)
    assert peak_of_a_call(lambda: net.value_and_grad(x, y, out=out)) < 4096
    assert peak_of_a_call(lambda: net.value_and_grad(x, y, out=out, params=net.params)) < 4096
    assert peak_of_a_call(lambda: net.value_and_grad(x, y, out=out, sample_weight=weight)) < 4096
    assert peak_of_a_call(lambda: net.loss(x, y)) < 4096


@pytest.mark.parametrize(("n_samples", "is_copied"), [(1000, True), (20000, False)])
def test_a_fitting_array_is_not_copied_and_another_once_where_it_is_small(n_samples, is_copied):
    net = Network([10, 30, 4], rng=0)
    x, y = np.zeros((n_samples, 10)), np.zeros((n_samples, 4))
    out = np.empty(net.n_params)
    one = x.nbytes if is_copied else 0  # large arrays are converted tile by tile
    peak = peak_of_a_call(lambda: net.value_and_grad(np.asfortranarray(x), y, out=out))
    assert x.nbytes <= peak
    for other in (np.asfortranarray(x), x.astype(np.float32), x.astype(">f8"), x[::-1], misaligned(x)):
        peak = peak_of_a_call(lambda: net.value_and_grad(other, y, out=out))  # noqa: B023
        assert one <= peak < one + 4096


def test_the_two_equations_take_every_layout():
    rng = np.random.default_rng(0)
    W, grad_a = rng.standard_normal((4, 3)), rng.standard_normal((6, 4))
    expected = hidden_gradient(W, grad_a)
    a, grad_h = rng.standard_normal((6, 3)), rng.standard_normal((6, 3))
    expected_a = preactivation_gradient(grad_h, a, "tanh")
    for change in (np.asfortranarray, lambda v: np.flip(np.flip(v).copy()), lambda v: with_stride(v, 3), misaligned,
                   read_only, lambda v: v.astype(">f8"), lambda v: v.tolist()):  # fmt: skip
        assert np.array_equal(hidden_gradient(change(W), change(grad_a)), expected)
        assert np.array_equal(preactivation_gradient(change(grad_h), change(a), "tanh"), expected_a)
    assert hidden_gradient(W.astype(np.float32), grad_a.astype(np.float32)).dtype == np.float32
    assert hidden_gradient(W.astype(">f4"), grad_a.astype(">f4")).dtype == np.dtype("float32")
    assert hidden_gradient([[1, 2]], [[3]]).tolist() == [[3.0, 6.0]]
    assert preactivation_gradient(grad_h.astype(np.float32), a.astype(np.float32), "tanh").dtype == np.float32


def test_the_two_equations_do_not_write_their_inputs():
    W, grad_a = np.ones((4, 3)), np.ones((6, 4))
    a, grad_h = np.full((6, 3), 0.5), np.ones((6, 3))
    result = hidden_gradient(W, grad_a)
    assert np.array_equal(result, np.full((6, 3), 4.0))
    grad = preactivation_gradient(grad_h, a, "sigmoid")
    assert np.array_equal(W, np.ones((4, 3)))
    assert np.array_equal(grad_a, np.ones((6, 4)))
    assert np.array_equal(a, np.full((6, 3), 0.5))
    assert np.array_equal(grad_h, np.ones((6, 3)))
    assert not any(np.shares_memory(r, v) for r in (result, grad) for v in (W, grad_a, a, grad_h))


@pytest.mark.parametrize("shape", [(0, 3), (5, 3)])
def test_the_two_equations_of_no_samples(shape):
    assert hidden_gradient(np.ones((3, 2)), np.ones(shape)).shape == (shape[0], 2)
    assert preactivation_gradient(np.ones(shape), np.ones(shape), "tanh").shape == shape
