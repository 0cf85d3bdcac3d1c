"""g''': the reference against the complex step and 50 digits, the kernels against both."""

import math

import mpmath
import numpy as np
import pytest
from activation_facts import CORNERS, THIRD_LIMITS, WITHOUT_FMA, points, ulp
from exact_values import EXACT
from problems import ACTIVATION_NAMES, PARAMETERS, domain, same_bits

from backprop import _core
from backprop.activations import ACTIVATIONS, SELU_ALPHA_SCALE

mpf = mpmath.mpf
DTYPES = ["float64", "float32"]
inf, nan = np.inf, np.nan
# g''' crosses 0 in these intervals of a, between values of order 1: the error is absolute there.
CROSSINGS = {
    "gelu_tanh": [(-2.2, -1.8), (1.8, 2.2)],
    "silu": [(-3.6, -3.2), (3.2, 3.6)],
    "mish": [(-3.5, -3), (-0.3, 0.1), (2, 2.3)],
    "tanh": [(-0.75, -0.55), (0.55, 0.75)],
    "sigmoid": [(-1.5, -1.1), (1.1, 1.5)],
}
ODD = ("gelu", "gelu_tanh", "silu", "softplus")
EVEN = ("tanh", "sigmoid", "softsign", "sin")


def g_third(name, a, parameter=None):
    """The kernel's g''' of an array."""
    row = ACTIVATIONS[name]
    rows = np.ascontiguousarray(np.atleast_2d(a))
    out = np.full_like(rows, nan)
    _core.third_derivative(rows, out, row.code, row.default if parameter is None else parameter)
    return out.reshape(np.shape(a))


def is_crossing(name, a):
    return np.any([(low < a) & (a < high) for low, high in CROSSINGS.get(name, [(0, 0)])], axis=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_against_50_digits(name, dtype):
    """To a bit more than one ulp, also below the normal numbers; next to a zero of g''' within half a u."""
    a = points(name, dtype)
    u, tiny = float(np.finfo(dtype).eps) / 2, float(np.finfo(dtype).smallest_subnormal)
    bad = []
    with mpmath.workdps(60):
        for point, value in zip(a.tolist(), g_third(name, a).tolist(), strict=True):
            true = EXACT[name][3](mpf(point))
            error = abs(mpf(value) - true) if math.isfinite(value) else mpf("inf")
            ulps = 2.4 if WITHOUT_FMA else 1.3
            allowed = u / 2 if is_crossing(name, point) else ulps * max(mpf(ulp(true, dtype)), mpf(tiny))
            if error > allowed:
                bad.append((point, value, float(true), float(error / ulp(true, dtype))))
    assert not bad


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_float32_against_float64(name):
    """A fine grid: about half an ulp and the error of exp, which counts double for exp(-a)^2 and beside a zero."""
    a = np.concatenate([np.linspace(-20, 20, 100_001), np.linspace(-110, 110, 20_001)]).astype("float32")
    at = domain(name, a)
    value, exact = g_third(name, at), g_third(name, at.astype("float64"))
    spacing = np.maximum(np.spacing(np.abs(exact).astype("float32")).astype(float), 2.0**-149)
    crossing, error = is_crossing(name, at), np.abs(value - exact)
    bar = (1.2 if name in CROSSINGS else 0.85) * (2 if WITHOUT_FMA else 1)
    in_ulp = np.where(crossing, 0, error / spacing)
    assert in_ulp.max() <= bar, f"{in_ulp.max():.3f} ulp at {at[in_ulp.argmax()]}"
    assert np.all(error[crossing] <= 2.0**-25)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_reference_is_the_complex_step_of_g_second(name):
    row = ACTIVATIONS[name]
    a = np.concatenate([np.linspace(0.0101, 12.01, 400), np.logspace(-8, 2.5, 200)])
    a = np.concatenate([-a, a])
    for parameter in {row.default, PARAMETERS.get(name, row.default)}:
        by_step = row.g_second(a + 1e-20j, parameter).imag / 1e-20
        np.testing.assert_allclose(row.g_third(a, parameter), by_step, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_reference_against_50_digits(name):
    """The error is relative in the tails; near 0 and other zeros it is absolute, since 1 - t cancels there."""
    a = points(name, "float64")
    a = a[np.abs(a) < 700]
    value = ACTIVATIONS[name].g_third(a, ACTIVATIONS[name].default)
    with mpmath.workdps(60):
        true = np.array([float(EXACT[name][3](mpf(point))) for point in a.tolist()])
    # exp's argument is rounded: a of silu and its kind, a^2 and a^3 of gelu
    condition = {"gelu": a * a, "gelu_tanh": np.abs(a) ** 3 / 4}.get(name, np.abs(a) if name != "sin" else 1.0)
    scale = np.where(is_crossing(name, a), 1.0, np.abs(true))
    assert np.all(np.abs(value - true) <= (40 + 2 * condition) * 2.0**-53 * scale + 1e-307)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_infinity_and_nan(name, dtype):
    a = np.array([-inf, inf, nan], dtype)
    limits = THIRD_LIMITS.get(name, (0, 0))
    np.testing.assert_array_equal(g_third(name, a), np.array([*limits, nan], dtype))
    if name != "sin":
        with np.errstate(all="ignore"):
            reference = ACTIVATIONS[name].g_third(a.astype("float64"), ACTIVATIONS[name].default)
        np.testing.assert_array_equal(reference, [*limits, nan])


@pytest.mark.parametrize("dtype", DTYPES)
def test_far_out_the_last_numbers_are_right(dtype):
    """Where g''' passes through the subnormals to 0: the factor of exp is up to 10^7 there."""
    info = np.finfo(dtype)
    low, high = (16, 24) if dtype == "float64" else (6, 13)
    for name in ("gelu_tanh", "gelu", "silu", "mish"):
        scale = {"gelu_tanh": 1.0, "gelu": 2.0 if dtype == "float64" else 1.4}.get(name, 40 if info.bits == 64 else 10)
        a = (np.linspace(low, high, 81) * scale).astype(dtype)
        for at in (a, -a):
            with mpmath.workdps(40):
                for point, value in zip(at.tolist(), g_third(name, at).tolist(), strict=True):
                    true = EXACT[name][3](mpf(point))
                    allowed = 1.3 * max(mpf(ulp(true, dtype)), mpf(float(info.smallest_subnormal)))
                    assert abs(mpf(value) - true) <= allowed * (2 if WITHOUT_FMA else 1), (name, point)


AT_0 = {"mish": -0.096, "tanh": -2.0, "sigmoid": -0.125, "sin": -1.0, "exp": 1.0}


@pytest.mark.parametrize("dtype", DTYPES)
def test_kinks_and_0(dtype):
    """elu, selu and softsign: g'' jumps at 0 from one value to another, and g''' is 0 there, as g'' is."""
    for name in ACTIVATION_NAMES:
        expected = np.full(2, AT_0.get(name, 0.0), dtype)
        np.testing.assert_array_equal(g_third(name, np.array([0.0, -0.0], dtype)), expected, err_msg=name)
        reference = ACTIVATIONS[name].g_third(np.array([0.0, -0.0]), ACTIVATIONS[name].default)
        np.testing.assert_allclose(reference, expected, rtol=2e-7 if dtype == "float32" else 4e-16, err_msg=name)
    for name, corner in CORNERS:
        assert g_third(name, np.array([corner], dtype)) == 0
        assert ACTIVATIONS[name].g_third(np.array([corner]), 0.0) == 0
    beside_0 = np.finfo(dtype).smallest_subnormal * np.array([-1, 1], dtype)
    np.testing.assert_array_equal(g_third("softsign", beside_0), [6, 6])
    np.testing.assert_array_equal(g_third("elu", beside_0, 0.5), [0.5, 0])
    np.testing.assert_array_equal(g_third("selu", beside_0), np.array([SELU_ALPHA_SCALE, 0], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_and_even(dtype):
    a = np.concatenate([np.linspace(1e-3, 120, 3001), np.logspace(-40, 30, 401)]).astype(dtype)
    a = a[a > 0]
    for name in ODD:
        assert same_bits(g_third(name, -a), -g_third(name, a))
    for name in EVEN:
        assert same_bits(g_third(name, -a), g_third(name, a))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_value_does_not_depend_on_its_place(dtype):
    """Whole vectors and the tail of a row, out of place and in place; entries beyond the row do not change."""
    a = np.random.default_rng(2).normal(0, 3, (3, 37)).astype(dtype)
    for name in ACTIVATION_NAMES:
        row = ACTIVATIONS[name]
        whole = g_third(name, a)
        assert same_bits(np.stack([[g_third(name, a[i, j : j + 1])[0] for j in range(37)] for i in range(3)]), whole)
        in_place = a.copy()
        _core.third_derivative(in_place, in_place, row.code, row.default)
        assert same_bits(in_place, whole)


def test_parameter_of_elu():
    a = np.linspace(-3, 3, 13)
    np.testing.assert_allclose(g_third("elu", a, 0.7), np.where(a < 0, 0.7 * np.exp(a), 0.0), rtol=4e-16)
    np.testing.assert_array_equal(g_third("leaky_relu", a, 0.2), np.zeros(13))
