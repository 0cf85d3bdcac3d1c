"""g'' and the curvature of the losses: the references against the complex step and 50 digits, the kernels against both.

The kernels are called one by one, through the table of function pointers that their modules export.
"""

import hashlib
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import mpmath
import numpy as np
import pytest
from activation_facts import CORNERS, SECOND_LIMITS, WITHOUT_FMA, points, ulp
from exact_values import EXACT
from kernel_functions import CONSTANTS, kernel_functions
from problems import ACTIVATION_NAMES, LOSS_NAMES, PARAMETERS, domain, random_targets, same_bits

from backprop import _core
from backprop.activations import ACTIVATIONS, SELU_ALPHA_SCALE
from backprop.losses import LOSSES

mpf = mpmath.mpf
DTYPES = ["float64", "float32"]
NO_WEIGHT, WEIGHT_PER_SAMPLE, WEIGHT_PER_ENTRY = (
    CONSTANTS[name] for name in ("NO_WEIGHT", "WEIGHT_PER_SAMPLE", "WEIGHT_PER_ENTRY")
)
inf, nan = np.inf, np.nan


def g_second(name, a, parameter=None):
    """The kernel's g'' of an array."""
    row = ACTIVATIONS[name]
    rows = np.ascontiguousarray(np.atleast_2d(a))
    out = np.full_like(rows, nan)
    _core.second_derivative(rows, out, row.code, row.default if parameter is None else parameter)
    return out.reshape(np.shape(a))


# g'' ------------------------------------------------------------------------------------------------------------------


# g'' crosses 0 in these intervals, between values of order 1: the error is absolute there.
CROSSINGS = {"gelu": (1.2, 1.6), "gelu_tanh": (1.2, 1.6), "silu": (2.1, 2.7), "mish": (1.2, 2.6)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_against_50_digits(name, dtype):
    """To about one ulp, also below the normal numbers; next to a zero of g'' within half a u."""
    a = points(name, dtype)
    u, tiny = float(np.finfo(dtype).eps) / 2, float(np.finfo(dtype).smallest_subnormal)
    low, high = CROSSINGS.get(name, (0, 0))
    bad = []
    with mpmath.workdps(60):
        for point, value in zip(a.tolist(), g_second(name, a).tolist(), strict=True):
            true = EXACT[name][2](mpf(point))
            error = abs(mpf(value) - true) if math.isfinite(value) else mpf("inf")
            ulps = 2.4 if WITHOUT_FMA else 1.2
            allowed = u / 2 if low < abs(point) < high else ulps * max(mpf(ulp(true, dtype)), mpf(tiny))
            if error > allowed:
                bad.append((point, value, float(true), float(error / ulp(true, dtype))))
    assert not bad


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_float32_against_float64(name):
    """A fine grid: about half an ulp, and the error of exp; twice that for mish, which has exp(-a)^2."""
    a = np.concatenate([np.linspace(-20, 20, 100_001), np.linspace(-110, 110, 20_001)]).astype("float32")
    at = domain(name, a)
    value, exact = g_second(name, at), g_second(name, at.astype("float64"))
    spacing = np.maximum(np.spacing(np.abs(exact).astype("float32")).astype(float), 2.0**-149)
    low, high = CROSSINGS.get(name, (0, 0))
    crossing = (np.abs(at) > low) & (np.abs(at) < high)
    error = np.abs(value - exact)
    bar = (1.2 if name == "mish" else 0.85) * (2 if WITHOUT_FMA else 1)
    in_ulp = np.where(crossing, 0, error / spacing)
    assert in_ulp.max() <= bar, f"{in_ulp.max():.3f} ulp at {at[in_ulp.argmax()]}"
    assert np.all(error[crossing] <= 2.0**-25)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_reference_is_the_complex_step_of_g_prime(name):
    row = ACTIVATIONS[name]
    a = np.concatenate([np.linspace(0.0101, 12.01, 400), np.logspace(-8, 2.5, 200)])
    a = np.concatenate([-a, a])
    for parameter in {row.default, PARAMETERS.get(name, row.default)}:
        by_step = row.g_prime(a + 1e-20j, parameter).imag / 1e-20
        value = row.g_second(a, parameter)
        np.testing.assert_allclose(value, by_step, rtol=1e-13, atol=2e-15)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_reference_against_50_digits(name):
    """The error is relative in the tails, in which the complex step of a g' near 1 has no right digits."""
    a = points(name, "float64")
    a = a[np.abs(a) < 700]
    low, high = CROSSINGS.get(name, (0, 0))
    value = ACTIVATIONS[name].g_second(a, ACTIVATIONS[name].default)
    with mpmath.workdps(60):
        true = np.array([float(EXACT[name][2](mpf(point))) for point in a.tolist()])
    # exp's argument is rounded: a of silu and its kind, a^2 and a^3 of gelu
    condition = {"gelu": a * a, "gelu_tanh": np.abs(a) ** 3 / 4}.get(name, np.abs(a) if name != "sin" else 1.0)
    scale = np.where((low < np.abs(a)) & (np.abs(a) < high), 1.0, np.abs(true))
    assert np.all(np.abs(value - true) <= (30 + 2 * condition) * 2.0**-53 * scale + 1e-307)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_infinity_and_nan(name, dtype):
    a = np.array([-inf, inf, nan], dtype)
    limits = SECOND_LIMITS.get(name, (0, 0))
    np.testing.assert_array_equal(g_second(name, a), np.array([*limits, nan], dtype))
    if name != "sin":
        with np.errstate(all="ignore"):
            reference = ACTIVATIONS[name].g_second(a.astype("float64"), ACTIVATIONS[name].default)
        np.testing.assert_array_equal(reference, [*limits, nan])


AT_0 = {
    "softplus": 0.25,
    "gelu": math.sqrt(2 / math.pi),
    "gelu_tanh": math.sqrt(2 / math.pi),
    "silu": 0.5,
    "mish": 0.64,
}
AT_0 |= {"hardswish": 1 / 3, "exp": 1.0}


@pytest.mark.parametrize("dtype", DTYPES)
def test_kinks_and_0(dtype):
    """elu, selu and softsign jump at 0 from one value to another: g'' is 0 there."""
    for name in ACTIVATION_NAMES:
        expected = np.full(2, AT_0.get(name, 0.0), dtype)
        np.testing.assert_array_equal(g_second(name, np.array([0.0, -0.0], dtype)), expected, err_msg=name)
        reference = ACTIVATIONS[name].g_second(np.array([0.0, -0.0]), ACTIVATIONS[name].default)
        np.testing.assert_allclose(reference.astype(dtype), expected, rtol=4e-16, err_msg=name)
    for name, corner in CORNERS:
        assert g_second(name, np.array([corner], dtype)) == 0
        assert ACTIVATIONS[name].g_second(np.array([corner]), 0.0) == 0
    inside = np.nextafter(np.array([3, -3], dtype), np.zeros(1, dtype))
    np.testing.assert_array_equal(g_second("hardswish", inside), np.array([1 / 3, 1 / 3], dtype))
    below_0 = -np.finfo(dtype).smallest_subnormal.reshape(1)
    assert g_second("elu", below_0, 0.5) == 0.5
    assert g_second("selu", below_0) == np.array(SELU_ALPHA_SCALE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_and_even(dtype):
    a = np.concatenate([np.linspace(1e-3, 120, 3001), np.logspace(-40, 30, 401)]).astype(dtype)
    a = a[a > 0]
    for name in ("tanh", "sigmoid", "softsign", "sin"):
        assert same_bits(g_second(name, -a), -g_second(name, a))
    for name in ("gelu", "gelu_tanh", "silu", "softplus", "hardswish"):
        assert same_bits(g_second(name, -a), g_second(name, a))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_value_does_not_depend_on_its_place(dtype):
    """Whole vectors and the tail of a row, out of place and in place; entries beyond the row do not change."""
    rng = np.random.default_rng(2)
    a = rng.normal(0, 3, (3, 37)).astype(dtype)
    for name in ACTIVATION_NAMES:
        row = ACTIVATIONS[name]
        whole = g_second(name, a)
        assert same_bits(np.stack([[g_second(name, a[i, j : j + 1])[0] for j in range(37)] for i in range(3)]), whole)
        in_place = a.copy()
        _core.second_derivative(in_place, in_place, row.code, row.default)
        assert same_bits(in_place, whole)


def test_parameter_of_elu():
    a = np.linspace(-3, 3, 13)
    np.testing.assert_allclose(g_second("elu", a, 0.7), np.where(a < 0, 0.7 * np.exp(a), 0.0), rtol=4e-16)
    np.testing.assert_array_equal(g_second("leaky_relu", a, 0.2), np.zeros(13))


# Losses ---------------------------------------------------------------------------------------------------------------


def curvature(loss, parameter, z, y, t, weight=None, weight_scale=1.0):
    """The kernel's w H t; z and t lie in wider rows, whose ends must stay as they are."""
    dtype, (n_rows, n_out) = z.dtype, z.shape
    wide_z, wide_t = (np.full((n_rows, n_out + 3), 77, dtype) for _ in range(2))
    wide_z[:, :n_out], wide_t[:, :n_out] = z, t
    labels = y.astype(np.intp) if y.ndim == 1 and loss == "cross_entropy" else None
    targets = None if labels is not None else np.ascontiguousarray(y, dtype)
    kind = NO_WEIGHT
    if weight is not None:
        weight = np.ascontiguousarray(weight, "float64")
        kind = WEIGHT_PER_SAMPLE if weight.ndim == 1 else WEIGHT_PER_ENTRY
    kernel_functions(_core.simd, dtype)["loss_curvature"](
        LOSSES[loss].code, parameter, n_rows, n_out, wide_z.ctypes.data, n_out + 3,
        None if targets is None else targets.ctypes.data, None if labels is None else labels.ctypes.data,
        kind, None if weight is None else weight.ctypes.data, weight_scale, wide_t.ctypes.data,
    )  # fmt: skip
    assert np.all(wide_t[:, n_out:] == 77)
    return wide_t[:, :n_out].copy()


def loss_problem(loss, n_out=5, n_rows=40, labels=True, dtype="float64", seed=0):
    """z, y and t; y is never at a kink."""
    rng = np.random.default_rng([seed, LOSS_NAMES.index(loss), n_out])
    z, t = (rng.normal(0, 2, (n_rows, n_out)).astype(dtype) for _ in range(2))
    return z, random_targets(rng, loss, n_rows, n_out, dtype, labels), t


def as_rows(y, n_out):
    return np.eye(n_out)[y] if y.dtype.kind == "i" else y.astype(float)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_reference_is_the_complex_step_of_loss_prime(loss, labels):
    row = LOSSES[loss]
    z, y, t = loss_problem(loss, labels=labels)
    y = as_rows(y, 5)
    for parameter in {row.default, PARAMETERS.get(loss, row.default)}:
        by_step = row.loss_prime(z + 1e-100j * t, y, parameter).imag / 1e-100
        np.testing.assert_allclose(row.curvature(z, y, t, parameter), by_step, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("kind", [None, "sample", "entry"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_out", [1, 3, 64, 65, 200])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_curvature_against_the_reference(loss, n_out, dtype, kind):
    """With weights; an entry of weight 0 gives 0 even if z, y and t are NaN."""
    row = LOSSES[loss]
    if loss == "cross_entropy" and kind == "entry":
        kind = "sample"
    rng = np.random.default_rng(n_out)
    for labels in [True, False] if loss == "cross_entropy" else [True]:
        z, y, t = loss_problem(loss, n_out, 9, labels, dtype)
        for parameter in {row.default, PARAMETERS.get(loss, row.default)}:
            expected = row.curvature(z.astype(float), as_rows(y, n_out), t.astype(float), parameter)
            weight = None
            if kind is not None:
                weight = rng.uniform(0.5, 2, (9,) if kind == "sample" else (9, n_out))
                out = rng.random(weight.shape) < 0.3
                out.flat[0] = True
                weight[out] = 0
                expected = 0.25 * expected * (weight if weight.ndim == 2 else weight[:, None])
                z[out] = t[out] = nan
                if y.dtype.kind == "f":
                    y[out] = nan
                expected[out] = 0
            computed = curvature(loss, parameter, z, y, t, weight, 1.0 if weight is None else 0.25)
            rtol = 1e-13 if dtype == "float64" else 1.2e-7
            atol = 1e-15 if loss == "cross_entropy" else 0
            np.testing.assert_allclose(computed, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_curvature_by_hand(dtype):
    def at(loss, z, y, parameter=1.0):
        return curvature(loss, parameter, np.array([[z]], dtype), np.array([[y]], dtype), np.ones((1, 1), dtype))[0, 0]

    assert at("squared_error", 3.0, 1.0) == 2
    assert at("absolute_error", 1.0, 1.0) == at("quantile", 1.0, 1.0, 0.5) == at("hinge", 0.5, 1.0) == 0
    assert at("huber", 1.5, 1.0) == at("huber", 0.5, 1.0) == 1
    assert at("huber", 2.0, 1.0) == at("huber", 0.0, 1.0) == at("huber", 3.0, 1.0) == 0
    assert at("huber", 2.0, 1.0, 1.5) == 1
    assert LOSSES["huber"].curvature(np.array([[2.0]]), np.ones((1, 1)), np.ones((1, 1)), 1.0) == 0
    assert at("poisson", 0.0, 3.0) == 1
    assert at("poisson", -inf, 0.0) == 0
    assert at("binary_cross_entropy", 0.0, 1.0) == 0.25
    for a in (-40.0, 40.0, 80.0):
        t = math.exp(-abs(a))
        np.testing.assert_allclose(at("binary_cross_entropy", a, 1.0), t / (1 + t) ** 2, rtol=2e-7)
    assert at("binary_cross_entropy", 1e3, 1.0) == at("binary_cross_entropy", -inf, 1.0) == 0
    for loss in LOSS_NAMES[:-1]:
        assert np.isnan(at(loss, nan, 1.0, 0.5))
        if loss not in ("poisson", "binary_cross_entropy"):  # a NaN target of these is refused
            assert np.isnan(at(loss, 1.0, nan, 0.5))
            reference = LOSSES[loss].curvature(np.ones((1, 1)), np.full((1, 1), nan), np.ones((1, 1)), 0.5)
            assert np.isnan(reference).all()


def true_softmax_product(logits, t):
    """p (.) (t - p.t) with 50 digits."""
    exponentials = [mpmath.exp(mpf(a) - mpf(max(logits))) for a in logits]
    p = [e / sum(exponentials) for e in exponentials]
    mean = sum(p_k * mpf(t_k) for p_k, t_k in zip(p, t, strict=True))
    return [p_k * (mpf(t_k) - mean) for p_k, t_k in zip(p, t, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [0.0, 5.0, 30.0, 60.0])
def test_curvature_of_cross_entropy_does_not_cancel(gap, dtype):
    """The error is relative at the largest logit, where p is near 1 and t - p.t almost cancels."""
    rng = np.random.default_rng(int(gap))
    z = rng.normal(size=(20, 4)).astype(dtype)
    z[:, 1] += gap
    t = (100 + rng.normal(size=z.shape)).astype(dtype)
    labels = rng.integers(0, 4, 20)
    computed = curvature("cross_entropy", 0.0, z, labels, t)
    reference = LOSSES["cross_entropy"].curvature(z.astype(float), np.eye(4)[labels], t.astype(float), 0.0)
    rtol = 4e-14 if dtype == "float64" else 2e-7
    with mpmath.workdps(50):
        for s in range(20):
            true = np.array([float(v) for v in true_softmax_product(z[s].tolist(), t[s].tolist())])
            scale = np.abs(true) if gap else np.abs(true).max()
            scale = np.maximum(scale, 1e-3 * np.abs(true[2:]).max())  # t_k - mean may vanish by chance
            assert np.all(np.abs(computed[s] - true) <= rtol * scale)
            assert np.all(np.abs(reference[s] - true) <= 1e-12 * scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_logits(dtype):
    t = np.array([[1.0, 2.0, 4.0]], dtype)
    z = np.array([[-inf, 0.0, 0.0]], dtype)
    np.testing.assert_array_equal(curvature("cross_entropy", 0.0, z, np.array([1]), t), [[0.0, -0.5, 0.5]])
    for bad in ([inf, 0.0, 0.0], [nan, 0.0, 0.0], [0.0, 1.0, nan], [-inf, -inf, -inf]):
        assert np.isnan(curvature("cross_entropy", 0.0, np.array([bad], dtype), np.array([1]), t)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_class_has_no_curvature(dtype):
    computed = curvature("cross_entropy", 0.0, np.array([[3.0]], dtype), np.array([0]), np.array([[1e4]], dtype))
    np.testing.assert_array_equal(computed, [[0.0]])


# The other products ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 7, 16, 33, 100])
def test_softmax_product(n, dtype):
    rng = np.random.default_rng(n)
    p = rng.dirichlet(np.full(n, 0.3), 6).astype(dtype)
    t = (50 + rng.normal(size=(6, n))).astype(dtype)
    wide_p, wide_t = (np.full((6, n + 2), 77, dtype) for _ in range(2))
    wide_p[:, :n], wide_t[:, :n] = p, t
    kernel_functions(_core.simd, dtype)["softmax_product"](6, n, wide_p.ctypes.data, wide_t.ctypes.data, n + 2)
    p, t = p.astype(np.longdouble), t.astype(np.longdouble)
    p /= p.sum(axis=1, keepdims=True)
    expected = p * (t - (p * t).sum(axis=1, keepdims=True))
    eps = np.finfo(dtype).eps
    assert np.all(np.abs(wide_t[:, :n] - expected) <= 8 * eps * p * (1 + np.abs(t - 50).max()))
    assert np.all(wide_t[:, n:] == 77)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 3, 8, 16, 17, 50])
def test_multiply_add(n, dtype):
    """The rounded s x is added to g t with one rounding; on v2, which has no fma, with two."""
    rng = np.random.default_rng(n)
    s, x, g, t = (rng.normal(size=(5, n)).astype(dtype) for _ in range(4))
    computed = t.copy()
    kernel_functions(_core.simd, dtype)["multiply_add"](
        5, n, s.ctypes.data, x.ctypes.data, g.ctypes.data, computed.ctypes.data, n
    )  # rows without padding
    if _core.simd == "v2":
        assert same_bits(computed, g * t + s * x)
        return
    with mpmath.workdps(50):
        exact = [
            mpf(float(a)) * mpf(float(b)) + mpf(float(c)) for a, b, c in zip(g.flat, t.flat, (s * x).flat, strict=True)
        ]
    for value, true in zip(computed.flat, exact, strict=True):
        assert abs(mpf(float(value)) - true) <= ulp(true, dtype) / 2


# Bits -----------------------------------------------------------------------------------------------------------------


def digests():
    """SHA-256 of every kernel here over arguments of all sizes, as this process's instruction set computes them."""
    rng = np.random.default_rng(5)
    sums = {}
    for dtype in DTYPES:
        spread = rng.normal(size=20_000) * 10.0 ** rng.uniform(-20, 20, 20_000)
        a = np.concatenate([rng.uniform(-12, 12, 20_000), rng.uniform(-800, 800, 20_000), spread]).astype(dtype)
        for name in ACTIVATION_NAMES:
            sums[f"{name} {dtype}"] = hashlib.sha256(g_second(name, a).tobytes()).hexdigest()
            third = np.empty_like(a[None])
            _core.third_derivative(a[None].copy(), third, ACTIVATIONS[name].code, ACTIVATIONS[name].default)
            sums[f"third {name} {dtype}"] = hashlib.sha256(third.tobytes()).hexdigest()
        for loss in LOSS_NAMES:
            z, y, t = loss_problem(loss, 70, 9, True, dtype)
            computed = curvature(loss, LOSSES[loss].default, z, y, t, rng.uniform(0.5, 2, 9))
            sums[f"{loss} {dtype}"] = hashlib.sha256(computed.tobytes()).hexdigest()
        s, x, g, t = (rng.normal(size=(5, 19)).astype(dtype) for _ in range(4))
        kernel_functions(_core.simd, dtype)["multiply_add"](
            5, 19, s.ctypes.data, x.ctypes.data, g.ctypes.data, t.ctypes.data, 19
        )
        sums[f"multiply_add {dtype}"] = hashlib.sha256(t.tobytes()).hexdigest()
    return sums


@pytest.mark.skipif(not {"v3", "v4"} <= set(_core.supported_simd()), reason="this CPU has one instruction set with fma")
@pytest.mark.skipif(
    any(find_spec(f"backprop._kernels_{simd}_f4") is None for simd in ("v3", "v4")), reason="built for one of the two"
)
def test_every_instruction_set_with_fma_gives_the_same_bits():
    code = "import json, test_second_derivatives as t; print(json.dumps(t.digests()))"
    results = []
    for simd in ("v3", "v4"):
        environment = os.environ | {"BACKPROP_SIMD": simd, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, capture_output=True, check=True
        )
        results.append(done.stdout)
    assert results[0] == results[1]
