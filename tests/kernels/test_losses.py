"""Value and gradient of each loss against values made by hand or with 50 digits, and the meaning of weights."""

import math

import mpmath
import numpy as np
import pytest
from kernel_functions import CONSTANTS, kernel_functions
from problems import LOSS_NAMES, PARAMETERS, Y_HAT_LOSSES, random_problem, random_targets, relative_error, same_bits

import backprop
from backprop import _core
from backprop.losses import softmax

DTYPES = ["float64", "float32"]
RTOL = {"float64": 1e-15, "float32": 1e-7}
inf, nan = np.inf, np.nan


def loss_at(loss, z, y, dtype="float64", **options):
    """The loss at z and its gradient by z, from a network that passes x through; z of shape (n_samples, n_out)."""
    z = np.atleast_2d(np.asarray(z, dtype))
    n_out = z.shape[1]
    net = backprop.Network([n_out, n_out], loss=loss, dtype=dtype)
    net.params = np.concatenate([np.eye(n_out).ravel(), np.zeros(n_out)])
    layers = net.layer_gradients(z, y, **options)
    value, _ = net.value_and_grad(z, y, **options)
    assert value == layers.loss or (math.isnan(value) and math.isnan(layers.loss))
    assert type(value) is float
    return layers.loss, layers.grad_a[1]


def logits_loss(logits, y, dtype="float64", loss="cross_entropy"):
    """One row of cross-entropy; the logits are the biases, so that inf is not multiplied by a weight of 0."""
    net = backprop.Network([1, len(logits)], loss=loss, dtype=dtype)
    net.params = np.concatenate([np.zeros(len(logits)), np.asarray(logits, dtype)])
    layers = net.layer_gradients(np.zeros((1, 1)), y)
    return layers.loss, layers.grad_a[1][0]


# Values ---------------------------------------------------------------------------------------------------------------


BY_HAND = [  # loss, z, y, the loss and its derivative by z, for one output
    ("squared_error", 3.0, 1.0, 4.0, 4.0),
    ("squared_error", 1.0, 1.0, 0.0, 0.0),
    ("absolute_error", -3.0, 1.0, 4.0, -1.0),
    ("absolute_error", 1.0, 1.0, 0.0, 0.0),
    ("huber", 1.5, 1.0, 0.125, 0.5),
    ("huber", 2.0, 1.0, 0.5, 1.0),
    ("huber", 4.0, 1.0, 2.5, 1.0),
    ("huber", -4.0, 1.0, 4.5, -1.0),
    (("huber", 0.5), 4.0, 1.0, 1.375, 0.5),
    (("huber", 4.0), 4.0, 1.0, 4.5, 3.0),
    (("huber", 0.5), 1.0, 1.0, 0.0, 0.0),
    ("quantile", 3.0, 1.0, 1.0, 0.5),
    (("quantile", 0.75), 3.0, 1.0, 0.5, 0.25),
    (("quantile", 0.75), -1.0, 1.0, 1.5, -0.75),
    (("quantile", 0.75), 1.0, 1.0, 0.0, 0.0),
    ("hinge", 0.25, 1.0, 0.75, -1.0),
    ("hinge", 0.25, -1.0, 1.25, 1.0),
    ("hinge", 1.0, 1.0, 0.0, 0.0),
    ("hinge", -1.0, -1.0, 0.0, 0.0),
    ("hinge", 3.0, 1.0, 0.0, 0.0),
    ("poisson", 0.0, 3.0, 1.0, -2.0),
    ("poisson", math.log(2.0), 0.0, 2.0, 2.0),
    ("binary_cross_entropy", 0.0, 1.0, math.log(2.0), -0.5),
    ("binary_cross_entropy", 0.0, 0.25, math.log(2.0), 0.25),
    ("binary_cross_entropy", math.log(3.0), 1.0, math.log(4 / 3), -0.25),
    ("binary_cross_entropy", math.log(3.0), 0.0, math.log(4), 0.75),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "z", "y", "value", "slope"), BY_HAND)
def test_by_hand(loss, z, y, value, slope, dtype):
    computed, grad = loss_at(loss, [[z]], [[y]], dtype)
    assert computed == pytest.approx(value, rel=2 * RTOL[dtype], abs=0)
    np.testing.assert_allclose(grad, [[slope]], rtol=2 * RTOL[dtype], atol=0)


def test_mean_over_samples_and_outputs():
    loss, grad = loss_at("squared_error", [[1.0, 2.0], [3.0, 5.0]], np.zeros((2, 2)))
    assert loss == (1 + 4 + 9 + 25) / 4
    np.testing.assert_array_equal(grad, np.array([[1.0, 2.0], [3.0, 5.0]]) * 2 / 4)


def true_entry(loss, z, y):
    """Loss and slope of one output with 50 digits."""
    z, y = mpmath.mpf(z), mpmath.mpf(y)
    if loss == "poisson":
        return mpmath.exp(z) - y * z, mpmath.exp(z) - y
    t = mpmath.exp(-abs(z))
    sigma, one_minus_sigma = (1 / (1 + t), t / (1 + t)) if z > 0 else (t / (1 + t), 1 / (1 + t))
    value = (1 - y) * max(z, 0) + y * max(-z, 0) + mpmath.log1p(t)
    return value, (1 - y) * sigma - y * one_minus_sigma


@pytest.mark.parametrize("y", [0.0, 0.125, 1.0])
def test_binary_cross_entropy_against_50_digits(y):
    """Relative, in the tails too: for y = 1 and large z both are exp(-z), with every digit."""
    z = np.concatenate([np.linspace(-30, 30, 61), [-700, -100, 100, 700]])
    with mpmath.workdps(50):
        for point in z:
            loss, grad = loss_at("binary_cross_entropy", [[point]], [[y]])
            value, slope = true_entry("binary_cross_entropy", point, y)
            assert abs(mpmath.mpf(loss) - value) <= 1e-15 * value
            near_a_zero = 1 if 0 < y < 1 and -4 < point < 0 else abs(slope)
            assert abs(mpmath.mpf(float(grad[0, 0])) - slope) <= 2e-15 * near_a_zero


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("a", [5.0, 20.0, 40.0, 80.0])
def test_binary_cross_entropy_slope_at_a_right_label(a, dtype):
    """-sigma(-a), at an a for which sigma(a) - 1 has no right digit."""
    _, grad = loss_at("binary_cross_entropy", [[a]], [[1.0]], dtype)
    np.testing.assert_allclose(grad[0, 0], -math.exp(-a) / (1 + math.exp(-a)), rtol=4 * RTOL[dtype])
    _, grad = loss_at("binary_cross_entropy", [[-a]], [[0.0]], dtype)
    np.testing.assert_allclose(grad[0, 0], math.exp(-a) / (1 + math.exp(-a)), rtol=4 * RTOL[dtype])


def test_poisson_against_50_digits():
    with mpmath.workdps(50):
        for z in np.linspace(-20, 20, 41):
            for y in (0.0, 1.0, 7.0):
                loss, grad = loss_at("poisson", [[z]], [[y]])
                value, slope = true_entry("poisson", z, y)
                assert abs(mpmath.mpf(loss) - value) <= 4e-16 * (abs(value) + y * abs(z))
                assert abs(mpmath.mpf(float(grad[0, 0])) - slope) <= 4e-16 * (mpmath.exp(z) + y)


def true_cross_entropy(logits, target):
    """Loss and gradient of one row with 50 digits."""
    top = max(logits)
    exponentials = [mpmath.exp(mpmath.mpf(a) - mpmath.mpf(top)) for a in logits]
    total = sum(exponentials)
    value = sum(
        t * (mpmath.mpf(top) - mpmath.mpf(a) + mpmath.log(total)) for a, t in zip(logits, target, strict=True) if t
    )
    return value, [e / total * sum(target) - t for e, t in zip(exponentials, target, strict=True)]


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_cross_entropy_labels_against_50_digits(label, eps):
    rng = np.random.default_rng(label)
    with mpmath.workdps(50):
        for scale in (0.1, 1.0, 10.0, 30.0):
            logits = (scale * rng.normal(size=3)).tolist()
            target = [mpmath.mpf(eps) / 3 + (1 - mpmath.mpf(eps)) * (k == label) for k in range(3)]
            value, gradient = true_cross_entropy(logits, target)
            loss, grad = logits_loss(logits, [label], loss=("cross_entropy", eps))
            rounding = 8e-16 + 2.3e-16 * (max(logits) - min(logits))  # of a_k - max a, magnified by exp
            assert abs(mpmath.mpf(loss) - value) <= rounding * value
            for k in range(3):
                bar = abs(gradient[k]) if eps == 0 else 1
                assert abs(mpmath.mpf(float(grad[k])) - gradient[k]) <= rounding * bar


@pytest.mark.parametrize("eps", [0.0, 0.25])
def test_cross_entropy_probabilities_against_50_digits(eps):
    rng = np.random.default_rng(3)
    with mpmath.workdps(50):
        for _ in range(10):
            logits = (3 * rng.normal(size=4)).tolist()
            p = rng.dirichlet(np.ones(4))
            p[1] = 0.0
            p /= p.sum()
            target = [mpmath.mpf(eps) / 4 + (1 - mpmath.mpf(eps)) * mpmath.mpf(float(v)) for v in p]
            value, gradient = true_cross_entropy(logits, target)
            loss, grad = logits_loss(logits, p[None], loss=("cross_entropy", eps))
            assert abs(mpmath.mpf(loss) - value) <= 8e-16 * value
            assert max(abs(mpmath.mpf(float(grad[k])) - gradient[k]) for k in range(4)) <= 4e-16


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("n", [63, 64, 65, 128, 129, 200])
def test_cross_entropy_of_many_classes(n, eps, dtype):
    """Up to 64 classes stay between the passes; the largest logit and the label are in the first or last block."""
    rng = np.random.default_rng(n)
    probabilities = softmax(rng.normal(size=(1, n)))
    for top in (0, n // 2, n - 1):
        logits = rng.normal(0, 2, n).astype(dtype)
        logits[top] = 8
        net = backprop.Network([1, n], loss=("cross_entropy", eps), dtype=dtype)
        net.params = np.concatenate([np.zeros(n), logits])
        p = softmax(logits.astype(float)[None])[0]
        np.testing.assert_allclose(net.forward(np.zeros((1, 1)))[0], p, rtol=4 * RTOL[dtype])
        for y in ([0], [n - 1], [n // 2], probabilities):
            target = eps / n + (1 - eps) * (probabilities[0] if y is probabilities else np.arange(n) == y[0])
            loss, grad = logits_loss(logits, y, dtype, ("cross_entropy", eps))
            rtol = 1e-13 if dtype == "float64" or y is not probabilities else 1e-6  # float32 rounds the targets
            assert loss == pytest.approx(-(target @ np.log(p)), rel=rtol)
            np.testing.assert_allclose(grad, p - target, rtol=0, atol=2 * RTOL[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_equal_their_rows_of_0_and_1(dtype):
    rng = np.random.default_rng(4)
    for loss in ("cross_entropy", ("cross_entropy", 0.2)):
        problem = random_problem(rng, [3, 5, 4], loss=loss, dtype=dtype, n_samples=9)
        value, grad = problem.value_and_grad()
        one_hot = np.eye(4, dtype=dtype)[problem.y]
        value_one_hot, grad_one_hot = problem.net.value_and_grad(problem.x, one_hot)
        assert value == pytest.approx(value_one_hot, rel=1e-14)
        assert relative_error(grad, grad_one_hot) <= 8 * RTOL[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_class_alone(dtype):
    """n_out = 1: the loss is 0 for every logit."""
    for logit in (-5.0, 0.0, 30.0):
        loss, grad = logits_loss([logit], [0], dtype)
        assert loss == 0.0
        np.testing.assert_array_equal(grad, [0.0])
        loss, grad = logits_loss([logit], [[1.0]], dtype)
        assert loss == 0.0
        np.testing.assert_array_equal(grad, [0.0])


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4"])
def test_every_integer_dtype_is_a_label(kind):
    logits = np.array([[0.3, -0.2, 0.9], [1.0, 0.0, -1.0]])
    expected, _ = loss_at("cross_entropy", logits, np.array([2, 0]))
    assert loss_at("cross_entropy", logits, np.array([2, 0], kind))[0] == expected


# Extreme logits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_logits(dtype):
    loss, grad = logits_loss([1e4, 0.0, -1e4], [2], dtype)
    assert loss == 20_000.0
    np.testing.assert_array_equal(grad, [1.0, 0.0, -1.0])
    loss, grad = logits_loss([1e4, 0.0, -1e4], [0], dtype)
    assert loss == 0.0
    np.testing.assert_array_equal(grad, [0.0, 0.0, 0.0])
    large = float(np.array(3e38, dtype))
    loss, grad = logits_loss([3e38, 0.0, -3e38], [1], dtype)
    assert loss == large
    np.testing.assert_array_equal(grad, [1.0, -1.0, 0.0])
    loss, grad = logits_loss([3e38, 0.0, -3e38], [2], dtype)
    assert loss == 2 * large
    np.testing.assert_array_equal(grad, [1.0, 0.0, -1.0])
    loss, grad = logits_loss([0.0, -1e30], [0], dtype)
    assert loss == 0.0
    np.testing.assert_array_equal(grad, [0.0, 0.0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_logits(dtype):
    loss, grad = logits_loss([-inf, 0.0, 0.0], [1], dtype)
    assert loss == pytest.approx(math.log(2.0), rel=1e-15)
    np.testing.assert_allclose(grad, [0.0, -0.5, 0.5], rtol=RTOL[dtype])
    loss, grad = logits_loss([-inf, 0.0, 0.0], [[0.0, 0.5, 0.5]], dtype)
    assert loss == pytest.approx(math.log(2.0), rel=1e-15)
    np.testing.assert_array_equal(grad, [0.0, 0.0, 0.0])
    loss, grad = logits_loss([-inf, 0.0, 0.0], [0], dtype)
    assert loss == inf
    for logits in ([-inf, -inf], [inf, 0.0], [nan, 0.0], [0.0, nan]):
        loss, grad = logits_loss(logits, [0], dtype)
        assert math.isnan(loss)
        assert np.isnan(grad).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_cross_entropy_at_1000(dtype):
    for a, y, value, slope in [(1e3, 1, 0.0, 0.0), (1e3, 0, 1e3, 1.0), (-1e3, 1, 1e3, -1.0), (-1e3, 0, 0.0, 0.0)]:
        loss, grad = loss_at("binary_cross_entropy", [[a]], [[float(y)]], dtype)
        assert loss == value
        assert grad[0, 0] == slope


def test_loss_is_not_rounded_to_float32():
    loss, grad = loss_at("squared_error", [[1e20]], [[0.0]], "float32")
    assert loss == float(np.float32(1e20)) ** 2  # 1e40, beyond float32
    assert grad[0, 0] == np.float32(2e20)
    loss, _ = loss_at("squared_error", [[1.0], [2.0**-20]], [[0.0], [0.0]], "float32")
    assert loss == (1 + 2.0**-40) / 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", Y_HAT_LOSSES)
def test_missing_target_with_a_weight_is_not_hidden(loss, dtype):
    value, grad = loss_at(loss, [[1.0]], [[nan]], dtype)
    assert math.isnan(value)
    assert np.isnan(grad).all()


# Sample weights -------------------------------------------------------------------------------------------------------

EVERY_LOSS = [*LOSS_NAMES, *((name, PARAMETERS[name]) for name in LOSS_NAMES if name in PARAMETERS)]


def tall(loss, dtype, n_samples, seed=7, sizes=(4, 9, 3)):
    return random_problem(np.random.default_rng(seed), list(sizes), loss=loss, dtype=dtype, n_samples=n_samples)


@pytest.mark.parametrize("n_samples", [5, 300, 2500])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_rows_of_weight_0_are_not_there(loss, dtype, n_samples):
    """Bit for bit the problem without the rows of weight 0, whatever these rows hold."""
    problem = tall(loss, dtype, n_samples)
    rng = np.random.default_rng(n_samples)
    keep = rng.random(n_samples) < 0.6
    keep[:2] = [True, False]
    weight = np.where(keep, rng.uniform(0.5, 2, n_samples), 0.0)
    x, y = problem.x.copy(), problem.y.copy()
    x[~keep] = rng.choice([nan, inf, -inf], (np.count_nonzero(~keep), 4))
    y[~keep] = 10**6 if y.dtype.kind == "i" else nan
    for full, reduced in [(weight, weight[keep]), (keep, None), (keep.astype(float), np.ones(np.count_nonzero(keep)))]:
        out = np.full(problem.net.n_params, nan, dtype)
        value, grad = problem.net.value_and_grad(x, y, sample_weight=full, out=out)
        expected, expected_grad = problem.net.value_and_grad(problem.x[keep], problem.y[keep], sample_weight=reduced)
        assert value == expected
        assert same_bits(grad, expected_grad)
        assert np.isfinite(grad).all()
        assert problem.net.loss(x, y, sample_weight=full) == value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_integer_weights_are_repeated_rows(loss, dtype):
    problem = tall(loss, dtype, 40)
    times = np.random.default_rng(8).integers(0, 4, 40)
    value, grad = problem.net.value_and_grad(problem.x, problem.y, sample_weight=times)
    x, y = np.repeat(problem.x, times, axis=0), np.repeat(problem.y, times, axis=0)
    expected, expected_grad = problem.net.value_and_grad(x, y)
    assert value == pytest.approx(expected, rel=1e-14)
    assert relative_error(grad, expected_grad) <= 10 * RTOL[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [name for name in EVERY_LOSS if "cross_entropy" not in (name, name[0])])
def test_entries_of_weight_0_are_not_there(loss, dtype):
    """The mean over the entries that remain, computed entry by entry."""
    rng = np.random.default_rng(9)
    z = rng.normal(size=(6, 3)).astype(dtype)
    y = random_targets(rng, loss, 6, 3, dtype)
    keep = rng.random((6, 3)) < 0.5
    keep[0] = [True, False, True]
    keep[1] = False
    missing = np.where(keep, y, nan)
    value, grad = loss_at(loss, z, missing, dtype, sample_weight=keep)
    terms = np.zeros((6, 3))
    slopes = np.zeros((6, 3))
    for s, j in np.argwhere(keep):
        terms[s, j], slope = loss_at(loss, z[s : s + 1, j : j + 1], y[s : s + 1, j : j + 1], dtype)
        slopes[s, j] = slope[0, 0]
    assert value == pytest.approx(terms[keep].mean(), rel=1e-14)
    np.testing.assert_allclose(grad, slopes / np.count_nonzero(keep), rtol=2 * RTOL[dtype], atol=0)
    weight = np.where(keep, rng.uniform(0.5, 2, (6, 3)), 0.0)
    value, grad = loss_at(loss, z, missing, dtype, sample_weight=weight)
    assert value == pytest.approx((weight * terms).sum() / weight.sum(), rel=1e-14)
    np.testing.assert_allclose(grad, weight * slopes / weight.sum(), rtol=4 * RTOL[dtype], atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_all_weights_1_are_no_weights(loss, dtype):
    problem = tall(loss, dtype, 1500)
    value, grad = problem.value_and_grad()
    shapes = [(1500,)] if loss == "cross_entropy" else [(1500,), (1500, 3)]
    for shape in shapes:
        with_ones, grad_with_ones = problem.net.value_and_grad(problem.x, problem.y, sample_weight=np.ones(shape))
        assert with_ones == value
        assert same_bits(grad_with_ones, grad)


@pytest.mark.parametrize("scale", [1e-320, 1e-310, 1e-305, 1e-300, 1e-150, 1e-30, 1e30, 1e150, 1e300, 1.7e308])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy", "binary_cross_entropy"])
def test_scale_of_the_weights_does_not_matter(loss, dtype, scale):
    problem = tall(loss, dtype, 30)
    value, grad = problem.value_and_grad()
    scaled, scaled_grad = problem.net.value_and_grad(problem.x, problem.y, sample_weight=np.full(30, scale))
    assert scaled == pytest.approx(value, rel=1e-14)
    assert relative_error(scaled_grad, grad) <= 4 * RTOL[dtype]


@pytest.mark.parametrize("exponent", [-1060, -1000, -300, -1, 1, 300, 1000])
def test_powers_of_two_give_the_same_bits(exponent):
    problem = tall("squared_error", "float64", 30)
    value, grad = problem.value_and_grad()
    scaled, scaled_grad = problem.net.value_and_grad(
        problem.x, problem.y, sample_weight=np.full(30, math.ldexp(1.0, exponent))
    )
    assert scaled == value
    assert same_bits(scaled_grad, grad)


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_rows_carry_their_weights_share(loss):
    problem = tall(loss, "float64", 6)
    weight = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 0.5])
    layers = problem.net.layer_gradients(problem.x, problem.y, sample_weight=weight)
    plain = problem.net.layer_gradients(problem.x, problem.y)
    for i in (1, 2):
        np.testing.assert_allclose(
            layers.grad_a[i], plain.grad_a[i] * (6 * weight / 4)[:, None], rtol=1e-13, atol=1e-18
        )
    assert not layers.grad_a[1][weight == 0].any()
    assert not layers.grad_h[0][weight == 0].any()


@pytest.mark.parametrize("a", [np.nan, np.inf])
def test_cross_entropy_of_one_class_hides_no_nan(a):
    """The gradient at a label is a sum over the other classes: an empty sum here, but a is NaN."""
    net = backprop.Network([1, 1], loss="cross_entropy", rng=0)
    loss, grad = net.value_and_grad([[a]], [0])
    assert np.isnan(loss)
    assert np.isnan(grad).all()
    loss, grad = net.value_and_grad([[1.0]], [0])
    assert (loss, *grad) == (0, 0, 0)


# Blocks of rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 10, 63, 64, 65, 130])
def test_a_row_does_not_depend_on_the_rows_beside_it(n, dtype):
    """The kernels take 16, 4 or 1 rows of logits together; 22 rows are all of these."""
    rng = np.random.default_rng(n)
    logits = 9 * rng.standard_normal((22, n)).astype(dtype)
    logits[3, n // 2], logits[5, 0], logits[17, -1], logits[19] = inf, nan, -inf, -inf
    labels, weight, tangents = rng.integers(0, n, 22), rng.random(22), rng.standard_normal((22, n)).astype(dtype)
    probabilities = rng.random((22, n)).astype(dtype)
    kernels = kernel_functions(_core.simd, dtype)

    def results(rows, targets):
        """Losses, their gradients, the curvature times a tangent, and softmax."""
        a, z, h, tangent, losses = logits[rows], logits[rows], logits[rows], tangents[rows], np.empty(len(rows))
        of_rows, weight_of_rows = targets[rows], weight[rows]
        targets_at = (None, of_rows.ctypes.data) if of_rows.ndim == 1 else (of_rows.ctypes.data, None)
        weights = CONSTANTS["WEIGHT_PER_SAMPLE"], weight_of_rows.ctypes.data, 0.5
        code, eps, shape = CONSTANTS["CROSS_ENTROPY"], np.array([0.1]), (len(z), n)
        kernels["loss_curvature"](code, eps[0], *shape, z.ctypes.data, n, *targets_at, *weights, tangent.ctypes.data)
        to = *targets_at, *weights, losses.ctypes.data, 1
        kernels["loss"](code, eps.ctypes.data, *shape, z.ctypes.data, n, None, *to)
        kernels["activate"](CONSTANTS["SOFTMAX"], 0.0, len(z), n, a.ctypes.data, h.ctypes.data, n, 0)
        return losses, z, tangent, h

    for targets in (labels, probabilities):
        together = results(list(range(22)), targets)
        for s in range(22):
            for of_all, alone in zip(together, results([s], targets), strict=True):
                np.testing.assert_array_equal(of_all[s : s + 1], alone)
