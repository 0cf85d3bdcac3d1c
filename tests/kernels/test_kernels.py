"""The kernels against the reference: every activation, loss and dtype, every width, batch and quantity."""

import numpy as np
import pytest
from problems import (
    ACTIVATION_NAMES,
    LAYOUTS,
    LOSS_NAMES,
    PARAMETERS,
    Y_HAT_LOSSES,
    random_problem,
    relative_error,
    same_bits,
    with_layout,
)

import backprop
from backprop.activations import ACTIVATIONS
from backprop.losses import LOSSES, softmax

DTYPES = ["float64", "float32"]
TOLERANCE = {"float64": 2e-14, "float32": 5e-6}
LOSS_TOLERANCE = {"float64": 1e-13, "float32": 5e-6}
WIDTHS = [*range(1, 71), 95, 96, 97, 127, 128, 129, 255, 256, 257, 300, 513]
BATCHES = [1, 2, 3, 5, 7, 8, 9, 15, 17, 63, 64, 65, 127, 129, 255, 257, 1000, 1023, 1024, 1025, 2049, 3000]


def specs(name):
    """The name, and the pair with a parameter that is not the default."""
    return [name, (name, PARAMETERS[name])] if name in PARAMETERS else [name]


def assert_equals_reference(problem):
    reference = problem.reference()
    dtype = problem.net.dtype.name
    out = np.full(problem.net.n_params, np.nan, dtype)
    loss, grad = problem.value_and_grad(out=out)
    assert grad is out
    assert type(loss) is float
    assert loss == pytest.approx(float(reference.loss), rel=LOSS_TOLERANCE[dtype])
    assert relative_error(grad, reference.gradient) <= TOLERANCE[dtype]


# Activations and losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_every_hidden_activation_with_every_loss(activation, loss, dtype):
    rng = np.random.default_rng([1, ACTIVATION_NAMES.index(activation), LOSS_NAMES.index(loss)])
    for activation_spec in specs(activation):
        for loss_spec in specs(loss):
            assert_equals_reference(
                random_problem(
                    rng,
                    [5, 19, 7, 3],
                    activations=activation_spec,
                    loss=loss_spec,
                    dtype=dtype,
                    n_samples=37,
                    limit=4.0,
                )
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", Y_HAT_LOSSES)
@pytest.mark.parametrize("output", ACTIVATION_NAMES)
def test_every_output_with_every_loss(output, loss, dtype):
    rng = np.random.default_rng([2, ACTIVATION_NAMES.index(output), LOSS_NAMES.index(loss)])
    for spec in specs(output):
        assert_equals_reference(
            random_problem(rng, [5, 9, 11], output=spec, loss=loss, dtype=dtype, n_samples=21, limit=4.0)
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", ["sample", "entry"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_every_loss_with_weights(loss, weight, dtype):
    rng = np.random.default_rng([3, LOSS_NAMES.index(loss), len(weight)])
    kind = "sample" if loss == "cross_entropy" else weight
    for n_samples in (1, 6, 130, 1100):
        for labels in (True, False):
            assert_equals_reference(
                random_problem(rng, [4, 10, 3], loss=loss, dtype=dtype, n_samples=n_samples, weight=kind, labels=labels)
            )


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width(width):
    """As input, hidden and output size, in both dtypes, for one block of rows and for more than a chain."""
    rng = np.random.default_rng([4, width])
    for dtype in DTYPES:
        for sizes in ([width, 6, 2], [3, width, 2], [3, 5, width], [width, width], [1, width, width, 1]):
            if width > 130 and sizes[:3] == [1, width, width]:
                continue
            for n_samples in (3, 67):
                assert_equals_reference(random_problem(rng, sizes, dtype=dtype, n_samples=n_samples))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_samples", BATCHES)
def test_every_batch(n_samples, dtype):
    rng = np.random.default_rng([5, n_samples])
    for sizes, loss in [
        ([13, 37, 9, 2], "squared_error"),
        ([5, 17, 1], "binary_cross_entropy"),
        ([3, 12], "cross_entropy"),
        ([1, 1], "huber"),
    ]:
        assert_equals_reference(random_problem(rng, sizes, loss=loss, dtype=dtype, n_samples=n_samples))


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_tiles_of_a_wide_network(dtype):
    """Layers so wide that tiles have 64 rows."""
    rng = np.random.default_rng(6)
    assert_equals_reference(random_problem(rng, [7, 1031, 517, 3], dtype=dtype, n_samples=133))


@pytest.mark.parametrize("dtype", DTYPES)
def test_deep_network_of_mixed_activations(dtype):
    rng = np.random.default_rng(7)
    names = [name for name in ACTIVATION_NAMES if name not in ("sigmoid", "exp", "hardsigmoid", "relu6")]
    sizes = [6, *rng.integers(8, 24, len(names)).tolist(), 2]
    assert_equals_reference(random_problem(rng, sizes, activations=names, dtype=dtype, n_samples=40, limit=3.0))


# Every quantity -------------------------------------------------------------------------------------------------------


def link(problem, a):
    """y_hat from a_L, for losses that act on a_L."""
    name = LOSSES[problem.net.loss_name].link
    return softmax(a) if name == "softmax" else ACTIVATIONS[name or "identity"].g(a, 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [None, "sample"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_layer_gradients(loss, weight, dtype):
    rng = np.random.default_rng([8, LOSS_NAMES.index(loss)])
    for sizes, n_samples in [([4, 33, 8, 3], 70), ([5, 2], 3), ([9, 65, 1], 1030)]:
        output = "sigmoid" if loss in Y_HAT_LOSSES else "identity"
        problem = random_problem(
            rng, sizes, activations="silu", output=output, loss=loss, dtype=dtype, n_samples=n_samples, weight=weight
        )
        positional, keywords = problem.arguments()
        layers = problem.net.layer_gradients(*positional, **keywords)
        reference = problem.reference()
        L = len(sizes) - 1
        assert [len(q) for q in (layers.a, layers.h, layers.grad_a, layers.grad_h, layers.grad_W, layers.grad_b)] == (
            [L + 1] * 6
        )
        for absent in (layers.a, layers.grad_a, layers.grad_W, layers.grad_b):
            assert absent[0] is None
        assert (layers.grad_h[L] is None) == LOSSES[loss].acts_on_a
        np.testing.assert_array_equal(layers.h[0], problem.x)
        if LOSSES[loss].acts_on_a:
            reference.h[L] = link(problem, reference.a[L])
        tolerance = LOSS_TOLERANCE[dtype]  # a sum over a few samples may be much smaller than its terms
        for i in range(L + 1):
            for name in ("a", "h", "grad_a", "grad_h", "grad_W", "grad_b"):
                value, expected = getattr(layers, name)[i], getattr(reference, name)[i]
                assert (value is None) == (expected is None), (name, i)
                if value is None:
                    continue
                assert value.dtype == np.dtype(dtype)
                assert value.shape == expected.shape
                assert relative_error(value, expected) <= tolerance, (name, i)
        # the same bits from each call
        value, grad = problem.value_and_grad()
        assert layers.loss == value == problem.net.loss(*positional, **keywords)
        for (W, b), grad_W, grad_b in zip(
            problem.net.unflatten(grad), layers.grad_W[1:], layers.grad_b[1:], strict=True
        ):
            assert same_bits(W, grad_W)
            assert same_bits(b, grad_b)
        assert same_bits(problem.net.forward(problem.x), layers.h[L])


def test_layer_gradients_keep_to_their_equations():
    problem = random_problem(np.random.default_rng(9), [4, 11, 6, 2], activations="gelu", n_samples=12)
    net = problem.net
    layers = net.layer_gradients(problem.x, problem.y)
    for i in range(3):
        np.testing.assert_allclose(layers.grad_h[i], layers.grad_a[i + 1] @ net.weights[i], rtol=1e-12, atol=1e-15)
    for i in range(1, 4):
        activation = "gelu" if i < 3 else "identity"
        product = backprop.preactivation_gradient(layers.grad_h[i], layers.a[i], activation)
        np.testing.assert_allclose(layers.grad_a[i], product, rtol=1e-15)
        np.testing.assert_allclose(layers.grad_W[i], layers.grad_a[i].T @ layers.h[i - 1], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(layers.grad_b[i], layers.grad_a[i].sum(axis=0), rtol=1e-12, atol=1e-15)


# Same bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [[1, 50, 1], [30, 100, 100, 1], [13, 64, 32, 16, 1], [70, 9, 10], [257, 103, 5]])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_a_row_alone_has_the_bits_it_has_in_a_batch(sizes, activation, dtype):
    rng = np.random.default_rng(10)
    problem = random_problem(rng, sizes, activations=activation, dtype=dtype, n_samples=1000)
    net = problem.net
    batches = {n: net.layer_gradients(problem.x[:n], problem.y[:n]) for n in (2, 7, 64, 65, 1000)}
    for row in (0, 1, 6, 63, 64, 500, 999):
        one = problem.x[row : row + 1]
        y_hat = net.forward(one)
        alone = net.layer_gradients(one, problem.y[row : row + 1])
        for n, batch in batches.items():
            if row < n:
                for i in range(len(sizes)):
                    assert same_bits(alone.h[i][0], batch.h[i][row])
                    assert i == 0 or same_bits(alone.a[i][0], batch.a[i][row])
                assert same_bits(y_hat, batch.h[-1][row : row + 1])
        for layout in LAYOUTS:
            assert same_bits(net.forward(with_layout(one, layout)), y_hat)
    for layout in LAYOUTS:
        assert same_bits(net.forward(with_layout(problem.x, layout)), batches[1000].h[-1])
    backwards = net.forward(problem.x[::-1])[::-1]
    assert same_bits(backwards, batches[1000].h[-1])
    for shift in range(1, 9):
        assert same_bits(net.forward(problem.x[shift:]), batches[1000].h[-1][shift:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_gradient_has_the_same_bits_in_every_batch(dtype):
    """With a power of two as the number of rows, 1/n is exact: rows differ by that factor alone."""
    problem = random_problem(np.random.default_rng(11), [20, 37, 9, 1], dtype=dtype, n_samples=1024)
    net = problem.net
    batch = net.layer_gradients(problem.x, problem.y)
    for row in (0, 1, 63, 64, 511, 1023):
        alone = net.layer_gradients(problem.x[row : row + 1], problem.y[row : row + 1])
        for i in range(4):
            assert same_bits(alone.grad_h[i][0] / net.dtype.type(1024), batch.grad_h[i][row])
            assert i == 0 or same_bits(alone.grad_a[i][0] / net.dtype.type(1024), batch.grad_a[i][row])


@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_activation_does_not_depend_on_the_length(activation, dtype):
    """Nor does it depend on the place in the array: body and tail of a loop use one formula."""
    a = np.random.default_rng(12).normal(0, 3, 515).astype(dtype)
    whole = backprop.preactivation_gradient(np.ones_like(a)[None], a[None], activation)[0]
    for n in range(1, 34):
        part = backprop.preactivation_gradient(np.ones((1, n), dtype), a[None, n : 2 * n], activation)[0]
        assert same_bits(part, whole[n : 2 * n])
    wide = backprop.Network([1, 1], output=activation, dtype=dtype)
    wide.params = [1, 0]
    values = wide.forward(a[:, None])[:, 0]
    for n in range(2, 34):
        net = backprop.Network([n, n], output=activation, dtype=dtype)
        net.params = np.concatenate([np.eye(n).ravel(), np.zeros(n)])
        assert same_bits(net.forward(a[None, :n])[0], values[:n])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_repeats_and_layouts_have_the_same_bits(loss, dtype):
    problem = random_problem(np.random.default_rng(13), [6, 21, 4], loss=loss, dtype=dtype, n_samples=1500)
    weight = np.random.default_rng(14).uniform(0, 1, 1500)
    loss_value, grad = problem.net.value_and_grad(problem.x, problem.y, sample_weight=weight)
    for layout in LAYOUTS:
        x, y, w = (with_layout(array, layout) for array in (problem.x, problem.y, weight))
        for n_threads in (1, 2, 3):
            out = np.full_like(grad, np.nan)
            again, _ = problem.net.value_and_grad(x, y, sample_weight=w, out=out, n_threads=n_threads)
            assert again == loss_value
            assert same_bits(out, grad)
    problem.net.value_and_grad(problem.x[:3], problem.y[:3])  # leaves other numbers in the workspace
    again, grad_again = problem.net.value_and_grad(
        problem.x, problem.y, sample_weight=weight, params=problem.net.params
    )
    assert again == loss_value
    assert same_bits(grad_again, grad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_are_never_written(dtype):
    problem = random_problem(np.random.default_rng(15), [6, 21, 4], dtype=dtype, n_samples=1500, weight="entry")
    arrays = [problem.x, problem.y, problem.weight, problem.net.params]
    before = [array.copy() for array in arrays]
    problem.value_and_grad()
    problem.net.layer_gradients(problem.x, problem.y, sample_weight=problem.weight)
    problem.net.forward(problem.x)
    for array, copy in zip(arrays, before, strict=True):
        assert same_bits(array, copy)


# NaN and inf ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_nan_in_x_reaches_the_loss_and_every_layer(activation, dtype):
    problem = random_problem(
        np.random.default_rng(16), [3, 10, 9, 2], activations=activation, dtype=dtype, n_samples=70
    )
    problem.x[66, 1] = np.nan
    loss, grad = problem.value_and_grad()
    assert np.isnan(loss)
    for W, b in problem.net.unflatten(grad):
        assert np.isnan(W).all() or W.shape == (10, 3)
        assert np.isnan(b).all()
    assert np.isnan(problem.net.weights[0] @ problem.x[66]).all()
    y_hat = problem.net.forward(problem.x)
    assert np.isnan(y_hat[66]).all()
    assert np.isfinite(np.delete(y_hat, 66, axis=0)).all()


# The two equations alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_hidden_gradient(dtype, layout):
    rng = np.random.default_rng(17)
    for n_samples, n, n_next in [(1, 1, 1), (5, 3, 4), (17, 9, 1), (2, 33, 70)]:
        W = rng.normal(size=(n_next, n)).astype(dtype)
        grad_a = rng.normal(size=(n_samples, n_next)).astype(dtype)
        grad_h = backprop.hidden_gradient(with_layout(W, layout), with_layout(grad_a, layout))
        assert grad_h.dtype == np.dtype(dtype)
        assert grad_h.shape == (n_samples, n)
        expected = grad_a.astype(float) @ W.astype(float)
        bound = np.abs(grad_a.astype(float)) @ np.abs(W.astype(float))
        assert np.all(np.abs(grad_h - expected) <= (n_next + 1) * float(np.finfo(dtype).eps) * bound)
        assert same_bits(grad_h, backprop.hidden_gradient(W, grad_a))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_preactivation_gradient(activation, dtype, layout):
    rng = np.random.default_rng(18)
    row = ACTIVATIONS[activation]
    for shape in [(1, 1), (5, 3), (3, 70)]:
        a = rng.normal(0, 2, shape).astype(dtype)
        grad_h = rng.normal(size=shape).astype(dtype)
        for spec in specs(activation):
            parameter = spec[1] if isinstance(spec, tuple) else row.default
            views = with_layout(grad_h, layout), with_layout(a, layout)
            grad_a = backprop.preactivation_gradient(*views, spec)
            assert grad_a.dtype == np.dtype(dtype)
            expected = grad_h.astype(float) * row.g_prime(a.astype(float), parameter)
            eps = float(np.finfo(dtype).eps)
            np.testing.assert_allclose(grad_a, expected, rtol=8 * eps, atol=2 * eps * np.abs(grad_h).max(initial=1))
            np.testing.assert_array_equal(views[0], grad_h)
            np.testing.assert_array_equal(views[1], a)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_two_equations_for_no_samples(dtype):
    assert backprop.hidden_gradient(np.ones((4, 3), dtype), np.ones((0, 4), dtype)).shape == (0, 3)
    grad_a = backprop.preactivation_gradient(np.ones((0, 3), dtype), np.ones((0, 3), dtype), "tanh")
    assert grad_a.shape == (0, 3)
    assert grad_a.dtype == np.dtype(dtype)
