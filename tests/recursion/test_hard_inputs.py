"""Hard inputs: infinities, NaN, saturation, subnormals, and labels and layouts that others treat wrongly in silence."""

import numpy as np
import pytest
from activation_facts import LIMITS
from scipy import special

from backprop import Network, preactivation_gradient
from backprop.activations import ACTIVATIONS
from backprop.losses import LOSSES

DTYPES = ["float32", "float64"]
EPS = {"float32": np.finfo(np.float32).eps, "float64": np.finfo(np.float64).eps}
INF, NAN = np.inf, np.nan


def pass_through(n, *, loss, dtype="float64", output="identity"):
    """A network without hidden layers whose a_L is x."""
    net = Network([n, n], loss=loss, output=output, dtype=dtype, rng=0)
    net.params = np.r_[np.eye(n).ravel(), np.zeros(n)]
    return net


def bias_gradient(net, x, y, **keywords):
    """(loss, dL/da_L of the one sample x), as a gradient by the biases."""
    loss, grad = net.value_and_grad([x], y, **keywords)
    return loss, net.unflatten(grad)[-1][1]


def g_and_g_prime(name, values, dtype):
    """g and g' as the compiled code gives them."""
    a = np.array(values, dtype)[:, None]
    net = pass_through(1, loss="squared_error", output=name, dtype=dtype)
    return net.forward(a)[:, 0], preactivation_gradient(np.ones_like(a), a, name)[:, 0]


# Cross-entropy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("a", "label", "loss", "grad"),
    [
        ([1e4, 0.0, -1e4], 2, 20000.0, [1.0, 0.0, -1.0]),
        ([1e4, 0.0, -1e4], 0, 0.0, [0.0, 0.0, 0.0]),
        ([1e4, 0.0, -1e4], 1, 10000.0, [1.0, -1.0, 0.0]),
        ([3e38, 0.0, 0.0], 1, 3e38, [1.0, -1.0, 0.0]),
        ([3e38, 3e38, 0.0], 1, np.log(2.0), [0.5, -0.5, 0.0]),
        ([3e38, -3e38, 0.0], 1, 6e38, [1.0, -1.0, 0.0]),
        ([-1e30, 0.0, 0.0], 0, 1e30, [-1.0, 0.5, 0.5]),
        ([-1e30, -1e30, -1e30], 0, np.log(3.0), [-2 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_cross_entropy_of_huge_logits(dtype, a, label, loss, grad):
    value, grad_a = bias_gradient(pass_through(3, loss="cross_entropy", dtype=dtype), a, [label])
    np.testing.assert_allclose(value, loss, rtol=2 * EPS[dtype], atol=0)
    np.testing.assert_allclose(grad_a, grad, rtol=2 * EPS[dtype], atol=0)
    one_hot = np.eye(3)[[label]]
    value, grad_a = bias_gradient(pass_through(3, loss="cross_entropy", dtype=dtype), a, one_hot)
    np.testing.assert_allclose(value, loss, rtol=2 * EPS[dtype], atol=0)
    np.testing.assert_allclose(grad_a, grad, rtol=2 * EPS[dtype], atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_a_sure_and_right_answer_does_not_cancel(dtype):
    value, grad_a = bias_gradient(pass_through(3, loss="cross_entropy", dtype=dtype), [40.0, 0.0, 0.0], [0])
    p = np.exp(-40.0)
    np.testing.assert_allclose(value, 2 * p, rtol=1e-15)
    np.testing.assert_allclose(grad_a, [-2 * p, p, p], rtol=2 * EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("as_probabilities", [False, True])
def test_cross_entropy_with_one_logit_minus_inf(dtype, as_probabilities):
    net = Network([2, 3], loss="cross_entropy", dtype=dtype, rng=0)
    net.weights[0][...] = 0
    net.biases[0][...] = [0.0, -INF, 0.0]
    y = np.eye(3)[[0]] if as_probabilities else [0]
    loss, grad_a = bias_gradient(net, [1.0, 2.0], y)
    np.testing.assert_allclose(loss, np.log(2.0), rtol=1e-15)
    np.testing.assert_allclose(grad_a, [-0.5, 0.0, 0.5], rtol=EPS[dtype], atol=0)
    assert np.array_equal(net.forward([[1.0, 2.0]]), [[0.5, 0.0, 0.5]])
    loss, grad_a = bias_gradient(net, [1.0, 2.0], np.eye(3)[[1]] if as_probabilities else [1])
    assert loss == INF  # the label's own probability is 0
    np.testing.assert_allclose(grad_a, [0.5, -1.0, 0.5], rtol=EPS[dtype], atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("a", [[-INF] * 3, [0.0, INF, 0.0], [INF, INF, 0.0], [0.0, NAN, 0.0], [NAN, 0.0, 0.0],
                               [0.0, 1.0, NAN]])  # fmt: skip
def test_cross_entropy_of_all_minus_inf_or_a_plus_inf_is_nan(dtype, a):
    net = Network([2, 3], loss="cross_entropy", dtype=dtype, rng=0)
    net.weights[0][...] = 0
    net.biases[0][...] = a
    for y in ([0], [1], np.eye(3)[[0]]):
        loss, grad_a = bias_gradient(net, [1.0, 2.0], y)
        assert np.isnan(loss)
        assert np.isnan(grad_a).all()
    assert np.isnan(net.forward([[1.0, 2.0]])).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_with_one_class(dtype):
    net = Network([2, 1], loss="cross_entropy", dtype=dtype, rng=0)
    loss, grad = net.value_and_grad(np.ones((3, 2)), [0, 0, 0])
    assert loss == 0
    assert np.array_equal(grad, np.zeros(3))
    assert np.array_equal(net.forward(np.ones((3, 2))), np.ones((3, 1)))
    with pytest.raises(ValueError, match="labels from 0 to 0, got 1 in row 2"):
        net.loss(np.ones((3, 2)), [0, 0, 1])


# Binary cross-entropy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("a", "y", "loss", "grad"),
    [
        (1e3, 1.0, 0.0, 0.0),
        (1e3, 0.0, 1e3, 1.0),
        (-1e3, 1.0, 1e3, -1.0),
        (-1e3, 0.0, 0.0, 0.0),
        (-120.0, 1.0, 120.0, -1.0),
        (1e3, 0.25, 750.0, 0.75),
        (20.0, 1.0, np.log1p(np.exp(-20.0)), -special.expit(-20.0)),
        (80.0, 1.0, np.exp(-80.0), -np.exp(-80.0)),
        (-80.0, 0.0, np.exp(-80.0), np.exp(-80.0)),
        (3e38, 0.0, 3e38, 1.0),
    ],
)
def test_binary_cross_entropy_of_large_logits(dtype, a, y, loss, grad):
    value, grad_a = bias_gradient(pass_through(1, loss="binary_cross_entropy", dtype=dtype), [a], [y])
    np.testing.assert_allclose(value, loss, rtol=2 * EPS[dtype], atol=0)
    np.testing.assert_allclose(grad_a, [grad], rtol=2 * EPS[dtype], atol=0)


@pytest.mark.parametrize(
    ("a", "y", "loss", "grad"),
    [(INF, 1.0, 0.0, 0.0), (INF, 0.0, INF, 1.0), (-INF, 1.0, INF, -1.0), (-INF, 0.0, 0.0, 0.0)],
)
def test_binary_cross_entropy_at_infinity(a, y, loss, grad):
    net = Network([1, 1], loss="binary_cross_entropy", rng=0)
    net.params = [0.0, a]
    value, grad_a = bias_gradient(net, [1.0], [y])
    assert value == loss
    assert grad_a[0] == grad


def test_binary_cross_entropy_takes_logits_only():
    for output in ACTIVATIONS:
        if output in ("identity", "sigmoid"):
            assert Network([2, 1], loss="binary_cross_entropy", output=output).loss_name == "binary_cross_entropy"
        else:
            with pytest.raises(ValueError, match=rf"^output: .* which works on a_L, got '{output}'"):
                Network([2, 1], loss="binary_cross_entropy", output=output)
    by_name = Network([2, 1], loss="binary_cross_entropy", output="sigmoid", rng=0)
    x, y = np.array([[30.0, 90.0], [1.0, 2.0]]), [0.0, 1.0]
    by_default = Network([2, 1], loss="binary_cross_entropy", rng=0)
    assert by_name.loss(x, y) == by_default.loss(x, y)  # the name does not apply it twice


def test_poisson_at_the_edges():
    net = pass_through(1, loss="poisson")
    at_minus_inf = Network([1, 1], loss="poisson", rng=0)
    at_minus_inf.params = [0.0, -INF]
    assert bias_gradient(at_minus_inf, [1.0], [0.0]) == (0.0, [0.0])
    assert bias_gradient(at_minus_inf, [1.0], [2.0]) == (INF, [-2.0])
    assert bias_gradient(net, [-800.0], [0.0]) == (0.0, [0.0])
    assert bias_gradient(net, [-800.0], [2.0]) == (1600.0, [-2.0])
    assert bias_gradient(net, [800.0], [2.0]) == (INF, [INF])


# Activations far out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus_of_large_negative_numbers(dtype):
    g, g_prime = g_and_g_prime("softplus", [-1000.0, -100.0, 0.0, 30.0, 1000.0, -INF, INF], dtype)
    expected = np.array([0.0, np.exp(-100.0), np.log(2.0), 30.0 + np.exp(-30.0), 1000.0, 0.0, INF]).astype(dtype)
    np.testing.assert_allclose(g, expected, rtol=2 * EPS[dtype], atol=0)
    np.testing.assert_allclose(g_prime, special.expit([-1000.0, -100.0, 0.0, 30.0, 1000.0, -INF, INF]).astype(dtype),
                               rtol=2 * EPS[dtype], atol=0)  # fmt: skip
    assert g[1] > 0  # 3.8e-44 is subnormal in float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "mish"])
def test_gelu_and_alike_at_40_and_1e20(name, dtype):
    g, g_prime = g_and_g_prime(name, [40.0, 1e20, INF], dtype)
    assert np.array_equal(g, np.array([40.0, 1e20, INF], dtype))
    np.testing.assert_allclose(g_prime, np.ones(3), rtol=EPS[dtype])
    g, g_prime = g_and_g_prime(name, [-1e20, -INF], dtype)
    assert np.array_equal(g, np.zeros(2))
    assert np.array_equal(g_prime, np.zeros(2))
    g, g_prime = g_and_g_prime(name, [-40.0], dtype)
    assert -2e-16 < g[0] <= 0
    assert -2e-16 < g_prime[0] <= 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_of_minus_6_and_minus_8(dtype):
    a = np.array([-6.0, -8.0, -10.0, -13.0])
    g, g_prime = g_and_g_prime("gelu", a, dtype)
    phi = np.exp(-0.5 * a * a) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(g, a * special.ndtr(a), rtol=max(2 * EPS[dtype], 1e-13))  # SciPy's own error
    np.testing.assert_allclose(g[:2], [-5.9195e-9, -4.977e-15], rtol=1e-3)
    np.testing.assert_allclose(g_prime, special.ndtr(a) + a * phi, rtol=max(2 * EPS[dtype], 1e-13))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LIMITS)
def test_limits_at_infinity(name, dtype):
    """Parameters that are not finite; for x see test_activations.py."""
    a = np.array([[-INF, INF]], dtype)
    net = Network([1, 2], output=name, dtype=dtype, rng=0)
    net.params = [0.0, 0.0, -INF, INF]
    limits = np.array(LIMITS[name], dtype)
    np.testing.assert_allclose(net.forward([[1.0]])[0], limits[:2], rtol=EPS[dtype])
    np.testing.assert_allclose(preactivation_gradient(np.ones((1, 2), dtype), a, name)[0], limits[2:], rtol=EPS[dtype])


# Subnormals and overflow ---------------------------------------------------------------------------------------------


def test_subnormals_are_kept():
    net = pass_through(1, loss="squared_error", dtype="float32")
    assert net.forward([[1e-40]])[0, 0] == np.float32(1e-40) > 0
    net.params = [0.25, 0.0]
    assert net.forward([[2e-38]])[0, 0] == np.float32(5e-39) > 0
    net.params = [1.0, 0.0]
    _, grad = net.value_and_grad([[1e-40]], [[-0.5]])
    assert grad[0] == np.float32(1e-40)  # 2 d x with d = 0.5
    net = pass_through(1, loss="squared_error")
    assert net.forward([[1e-310]])[0, 0] == 1e-310
    assert np.float32(1e-40) * np.float32(1) > 0  # and NumPy's own are kept after the calls


def test_squared_error_beyond_float32():
    net = pass_through(1, loss="squared_error", dtype="float32")
    loss, grad = net.value_and_grad([[1e20]], [[0.0]])
    assert type(loss) is float
    np.testing.assert_allclose(loss, 1e40, rtol=1e-7)
    np.testing.assert_allclose(grad[1], 2e20, rtol=1e-7)
    assert grad[0] == INF  # 2e40 is not a float32
    loss, grad = net.value_and_grad(np.full((3000, 1), 1e20), np.zeros((3000, 1)))
    np.testing.assert_allclose(loss, 1e40, rtol=1e-7)
    np.testing.assert_allclose(grad[1], 2e20, rtol=1e-6)


@pytest.mark.parametrize("n_samples", [1, 1024, 3000])
def test_an_overflow_is_inf_for_every_number_of_samples(n_samples):
    net = Network([1, 1], rng=0)
    net.params = [0.0, 0.0]
    loss, grad = net.value_and_grad(np.full((n_samples, 1), 1e200), np.full((n_samples, 1), -1e200))
    assert loss == INF  # and not NaN, as the error term of a two-term sum would be
    assert grad[0] == INF
    np.testing.assert_allclose(grad[1], 2e200, rtol=1e-15)


@pytest.mark.parametrize(("dtype", "huge"), [("float32", 2.0**40), ("float64", 2.0**60)])
def test_what_huge_samples_far_apart_leave_when_they_cancel(dtype, huge):
    net = Network([1, 1], dtype=dtype, rng=0)
    net.params = [0.0, 0.0]
    y = np.zeros((3072, 1))
    y[0], y[1100], y[2900] = huge, 1.0, -huge  # in three chunks of 1024 rows
    _, grad = net.value_and_grad(np.ones((3072, 1)), y)
    expected = np.array(-2.0 / 3072).astype(dtype)  # a plain sum in the network's dtype gives 0
    assert grad.tolist() == [expected, expected]


# Kinks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("loss", "z", "y", "value", "slope"),
    [("absolute_error", 0.5, 0.5, 0, 0), ("quantile", 0.5, 0.5, 0, 0), (("quantile", 0.9), -1.0, -1.0, 0, 0),
     ("hinge", 1.0, 1.0, 0, 0), ("hinge", -1.0, -1.0, 0, 0), ("huber", 1.5, 0.5, 0.5, 1.0),
     ("huber", -0.5, 0.5, 0.5, -1.0), ("squared_error", 0.5, 0.5, 0, 0)],
)  # fmt: skip
def test_losses_at_their_kinks(dtype, loss, z, y, value, slope):
    assert bias_gradient(pass_through(1, loss=loss, dtype=dtype), [z], [[y]]) == (value, [slope])


# Labels and shapes --------------------------------------------------------------------------------------------------

X = np.random.default_rng(3).standard_normal((4, 2))


@pytest.mark.parametrize("label", [3, -1, -100, 2**32 + 1, 2**40, -(2**63), 2**63 - 1])
def test_a_label_out_of_range_is_refused_and_its_row_named(label):
    net = Network([2, 3], loss="cross_entropy", rng=0)
    with pytest.raises(ValueError, match=rf"^y: expected labels from 0 to 2, got {label} in row 2$"):
        net.value_and_grad(X, np.array([0, 1, label, 2]))


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">i8", ">u8", "intp"])
def test_labels_of_every_integer_dtype(dtype):
    net = Network([2, 5, 3], loss="cross_entropy", rng=0)
    loss, grad = net.value_and_grad(X, np.array([0, 1, 2, 1], dtype))
    expected, grad_expected = net.value_and_grad(X, np.eye(3)[[0, 1, 2, 1]])
    assert net.value_and_grad(X, [0, 1, 2, 1])[0] == loss
    np.testing.assert_allclose(loss, expected, rtol=1e-15)
    np.testing.assert_allclose(grad, grad_expected, rtol=0, atol=1e-15)


def test_float_labels_are_refused():
    net = Network([2, 3], loss="cross_entropy", rng=0)
    with pytest.raises(TypeError, match=r"^y: expected integer labels, or probabilities"):
        net.loss(X, [0.0, 1.0, 2.0, 1.0])


@pytest.mark.parametrize("row", [[0.5, 0.6, 0.0], [1.5, -0.5, 0.0], [0.2, 0.2, 0.2], [0.0, 0.0, 0.0], [NAN, 0.5, 0.5]])
def test_probabilities_that_are_none_are_refused(row):
    net = Network([2, 3], loss="cross_entropy", rng=0)
    with pytest.raises(ValueError, match=r"^y: expected (rows that sum to 1|probabilities).* in row 2"):
        net.loss(X, [[1, 0, 0], [0, 1.0, 0], row, [0, 0, 1]])


def test_a_binary_target_of_2_is_refused():
    with pytest.raises(ValueError, match=r"^y: expected numbers in \[0, 1\] for .*, got 2.0 in row 1, output 0"):
        Network([2, 1], loss="binary_cross_entropy", rng=0).loss(X, [0.0, 2.0, 1.0, 1.0])


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "cross_entropy"])
def test_a_flat_y_for_one_output_is_a_column(loss):
    net = Network([2, 3, 1], activations="tanh", loss=loss, rng=0)
    y = np.array([1.0, -1.0, 1.0, -1.0]) if loss == "hinge" else np.array([0.0, 1.0, 0.5, 1.0])
    flat, column = net.value_and_grad(X, y), net.value_and_grad(X, y[:, None])
    assert flat[0] == column[0]
    assert np.array_equal(flat[1], column[1])
    with pytest.raises(ValueError, match=r"^y: "):
        net.loss(X, y[None])


def test_predictions_equal_to_a_flat_y_have_loss_0():
    net = Network([2, 3, 1], rng=0)
    assert net.loss(X, net.forward(X)[:, 0]) == 0
    with pytest.raises(ValueError, match=r"^y: expected shape \(4, 2\), got \(4,\)"):
        Network([2, 2], rng=0).loss(X, np.zeros(4))


# NaN and inf go through ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_in_x_reaches_loss_and_every_gradient_it_touches(name, dtype):
    for sizes in ([3, 4, 2], [3, 20, 17, 2]):
        net = Network(sizes, activations=name, output=name, dtype=dtype, rng=0)
        x = np.full((70, 3), 0.25)
        x[66, 1] = NAN
        y = np.zeros((70, 2))
        loss, grad = net.value_and_grad(x, y)
        assert np.isnan(loss)
        assert np.isnan(net.loss(x, y))
        assert np.isnan(grad).all()  # every a of the row is NaN, and every parameter sees the row
        layers = net.layer_gradients(x, y)
        assert np.isnan(layers.h[-1][66]).all()
        assert np.isfinite(np.delete(layers.h[-1], 66, axis=0)).all()
        assert np.isnan(layers.grad_h[0][66]).all()
        assert np.isfinite(np.delete(layers.grad_h[0], 66, axis=0)).all()
        assert np.isnan(net.forward(x)[66]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_g_and_g_prime_of_nan_are_nan(name, dtype):
    g, g_prime = g_and_g_prime(name, [NAN, -NAN], dtype)
    assert np.isnan(g).all()
    assert np.isnan(g_prime).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("value", [INF, -INF])
def test_inf_in_x_is_not_hidden(name, value, dtype):
    net = Network([2, 3, 1], activations=name, dtype=dtype, rng=0)
    net.weights[0][...] = [[1.0, 1.0], [-1.0, 1.0], [2.0, 1.0]]
    net.weights[1][...] = 1.0
    x = np.full((5, 2), 0.25)
    x[3, 0] = value
    with np.errstate(all="ignore"):
        g = [ACTIVATIONS[name].g(np.array([a]), ACTIVATIONS[name].default)[0] for a in (value, -value, value)]
        y_hat = np.float64(sum(g))
    np.testing.assert_array_equal(np.isfinite(net.forward(x)[3, 0]), np.isfinite(y_hat))
    np.testing.assert_array_equal(np.isnan(net.forward(x)[3, 0]), np.isnan(y_hat))
    loss, grad = net.value_and_grad(x, np.zeros((5, 1)))
    assert np.isfinite(loss) == np.isfinite(y_hat)
    assert not np.isfinite(net.unflatten(grad)[0][0][:, 0]).all()  # g' times inf, or 0 times inf: never a finite number
    assert np.isnan(loss) == np.isnan(y_hat)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [name for name in LOSSES if not LOSSES[name].acts_on_a])
def test_nan_in_y_reaches_loss_and_gradient(loss, dtype):
    net = Network([2, 3, 2], activations="tanh", loss=loss, dtype=dtype, rng=0)
    y = np.zeros((4, 2))
    y[1, 0] = NAN
    value, grad = net.value_and_grad(X, y)
    assert np.isnan(value)
    W_1, b_1 = net.unflatten(grad)[0]
    W_2, b_2 = net.unflatten(grad)[1]
    assert np.isnan(W_1).all()
    assert np.isnan(b_1).all()
    assert np.isnan(W_2[0]).all()
    assert np.isfinite(W_2[1]).all()
    assert np.isnan(b_2[0])
    assert np.isfinite(b_2[1])
    weight = (~np.isnan(y)).astype(float)
    value, grad = net.value_and_grad(X, y, sample_weight=weight)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_nan_in_x_reaches_every_loss(loss):
    net = Network([2, 3, 2], activations="relu", loss=loss, rng=0)
    x = X.copy()
    x[2] = NAN
    y = np.array([0, 1, 1, 0]) if loss == "cross_entropy" else np.ones((4, 2))
    value, grad = net.value_and_grad(x, y)
    assert np.isnan(value)
    assert np.isnan(grad).all()
    value, grad = net.value_and_grad(x, y, sample_weight=[1.0, 1.0, 0.0, 1.0])
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


# Weights -------------------------------------------------------------------------------------------------------------


def test_weights_that_are_all_0_are_refused():
    with pytest.raises(ValueError, match=r"^sample_weight: expected at least one weight > 0, got none"):
        Network([2, 1], rng=0).loss(X, np.zeros((4, 1)), sample_weight=np.zeros(4))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_weights_of_the_network_that_are_all_0(name, dtype):
    net = Network([2, 3, 1], activations=name, dtype=dtype, rng=0)
    net.params = np.zeros(net.n_params)
    loss, grad = net.value_and_grad(X, np.ones((4, 1)))
    row = ACTIVATIONS[name]
    zero = float(row.g(np.zeros(1), row.default)[0])
    assert loss == 1
    np.testing.assert_allclose(grad, [*[0.0] * 9, *[-2.0 * zero] * 3, -2.0], rtol=2 * EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [5e-324, 1e-320, 1e-310, 1e-300, 1e-200, 1e-40, 1e40, 1e200, 1.7e308])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_tiny_and_huge_sample_weights(dtype, scale, loss):
    net = Network([2, 3, 2], activations="tanh", loss=loss, dtype=dtype, rng=0)
    y = np.array([0, 1, 1, 0]) if loss == "cross_entropy" else np.ones((4, 2))
    value, grad = net.value_and_grad(X, y, sample_weight=np.full(4, scale))
    expected, grad_expected = net.value_and_grad(X, y)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(grad, grad_expected, rtol=0, atol=4 * EPS[dtype])


# Layouts that other libraries refuse or write through ----------------------------------------------------------------


def test_a_read_only_array_is_read_and_not_written():
    net = Network([2, 3, 1], rng=0)
    x, y = X.copy(), np.ones((4, 1))
    expected = net.value_and_grad(x, y)
    x.flags.writeable = y.flags.writeable = False
    loss, grad = net.value_and_grad(x, y)
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    assert np.array_equal(x, X)


@pytest.mark.parametrize("change", [lambda x: x[::-1][::-1], lambda x: x[::-1].copy()[::-1], lambda x: x.astype(">f8"),
                                    lambda x: x.tolist(), np.asfortranarray])  # fmt: skip
def test_strides_byte_order_and_lists(change):
    net = Network([2, 3, 1], rng=0)
    loss, grad = net.value_and_grad(change(X), np.ones((4, 1)))
    expected = net.value_and_grad(X, np.ones((4, 1)))
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])


def test_objects_and_strings_are_refused():
    net = Network([2, 1], rng=0)
    for x in (X.astype(object), X.astype(str), [["1", "2"]] * 4):
        with pytest.raises(TypeError, match=r"^x: expected real numbers, got dtype"):
            net.loss(x, np.ones((4, 1)))


def test_integers_and_float64_are_converted_to_the_networks_dtype():
    net = Network([2, 3, 1], dtype="float32", rng=0)
    whole = np.array([[1, -2], [3, 4]])
    for x in (whole, whole.astype(float), whole.astype(np.float16), whole.astype(np.int8)):
        loss, grad = net.value_and_grad(x, np.ones((2, 1)))
        expected = net.value_and_grad(whole.astype(np.float32), np.ones((2, 1), np.float32))
        assert loss == expected[0]
        assert grad.dtype == np.float32
        assert np.array_equal(grad, expected[1])
    fine = np.float64(1) + 1e-12
    assert net.loss([[fine, fine]], [[0.0]]) == net.loss(np.ones((1, 2)), [[0.0]])
