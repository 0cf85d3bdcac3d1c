"""Every activation's g and g' in the kernels, against 50 digits, over the whole range of both dtypes."""

import functools
import math

import mpmath
import numpy as np
import pytest
from activation_facts import CORNERS, LIMITS, WITHOUT_FMA, points, ulp
from exact_values import EXACT
from problems import ACTIVATION_NAMES, PARAMETERS, domain, same_bits
from required_peers import require_peer

import backprop
from backprop.activations import ACTIVATIONS, SELU_ALPHA, SELU_ALPHA_SCALE, SELU_SCALE

mpf = mpmath.mpf
DTYPES = ["float64", "float32"]

# Largest error in units in the last place of the true value: of g and of g', in both dtypes.
ROUNDED = (0.5, 0.5)
ULPS = {
    "identity": ROUNDED,
    "relu": ROUNDED,
    "leaky_relu": (0.51, 0.5),
    "elu": (1.0, 1.0),
    "selu": (1.0, 1.0),
    "gelu": (1.5, 2.0),
    "gelu_tanh": (1.5, 2.0),
    "silu": (1.5, 2.0),
    "mish": (1.5, 2.0),
    "softplus": (1.0, 1.0),
    "softsign": (1.0, 2.0),
    "tanh": (1.0, 2.0),
    "sigmoid": (1.0, 2.0),
    "hardtanh": ROUNDED,
    "hardsigmoid": (1.0, 0.5),
    "hardswish": (1.0, 1.0),
    "relu6": ROUNDED,
    "sin": (1.0, 1.0),
    "exp": (1.0, 1.0),
}
# g' crosses 0 in these intervals, between values of order 1: the error is absolute there, in u.
ABSOLUTE_U = 0.5
CROSSINGS = {"gelu": (-1.2, -0.4), "gelu_tanh": (-1.2, -0.4), "silu": (-2.2, -0.6), "mish": (-2.0, -0.6)}
CROSSINGS["hardswish"] = (-3.0, -1.0)


def g(name, a):
    """The kernel's g of a vector, through a network with W = 1 and b = 0."""
    net = backprop.Network([1, 1], output=name, dtype=a.dtype)
    net.params = [1, 0]
    return net.forward(a[:, None])[:, 0]


def g_prime(name, a):
    """The kernel's g' of a vector."""
    return backprop.preactivation_gradient(np.ones((1, a.size), a.dtype), a[None], name)[0]


def errors(name, dtype, which):
    """For each point: a, the kernel's value, the true one, the error in ulp and in u."""
    a = points(name, dtype)
    values = (g, g_prime)[which](name, a)
    u = float(np.finfo(dtype).eps) / 2
    rows = []
    with mpmath.workdps(50):
        for point, value in zip(a.tolist(), values.tolist(), strict=True):
            true = EXACT[name][which](mpf(point))
            error = abs(mpf(value) - true) if math.isfinite(value) else mpf("inf")
            rows.append((point, value, float(true), float(error / mpf(ulp(true, dtype))), float(error / u)))
    return rows


@pytest.mark.parametrize("which", [0, 1], ids=["g", "g_prime"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_against_50_digits(name, dtype, which):
    bad = []
    for a, value, true, in_ulps, in_u in errors(name, dtype, which):
        low, high = CROSSINGS.get(name, (0, 0)) if which else (0, 0)
        allowed, error = (ABSOLUTE_U, in_u) if low < a < high else (ULPS[name][which] + 0.01, in_ulps)
        if error > allowed * (2 if WITHOUT_FMA else 1):
            bad.append((a, value, true, in_ulps, in_u))
    assert not bad


@pytest.mark.parametrize("dtype", DTYPES)
def test_tails_by_hand(dtype):
    """Values of which 1 - h^2, 1 + erf or exp(a) - 1 would give no right digit."""
    rtol = 1e-14 if dtype == "float64" else 3e-7
    kind = np.dtype(dtype).type

    def close(value, expected):
        np.testing.assert_allclose(value, [expected], rtol=rtol)

    def at(a):
        return np.array([a], kind)

    close(g_prime("tanh", at(9)), 4 * math.exp(-18) / (1 + math.exp(-18)) ** 2)
    close(g_prime("sigmoid", at(40)), 4.248354255291589e-18)
    close(g("gelu", at(-8)), -8 * 6.22096057427178e-16)  # Phi(-8), Abramowitz and Stegun, table 26.2
    close(g("elu", at(-1e-18)), float(at(-1e-18)[0]))
    close(g("selu", at(-1e-18)), SELU_SCALE * SELU_ALPHA * float(at(-1e-18)[0]))
    close(g("silu", at(-30)), -30 * math.exp(-30) / (1 + math.exp(-30)))
    close(g("softplus", at(-30)), math.log1p(math.exp(-30)))
    close(g("gelu", at(1e20)), float(at(1e20)[0]))
    close(g_prime("gelu_tanh", at(1e20)), 1.0)
    np.testing.assert_array_equal(g("softplus", at(-1000)), [0.0])
    np.testing.assert_array_equal(g("silu", at(-1e4)), [0.0])
    if dtype == "float64":
        close(g_prime("tanh", at(300)), 4 * math.exp(-600))
        with mpmath.workdps(50):
            close(g("gelu", at(-37)), float(-37 * mpmath.erfc(37 / mpmath.sqrt(2)) / 2))
        close(g("softplus", at(-700)), math.exp(-700))
        close(g("gelu", at(1e300)), 1e300)
    else:
        np.testing.assert_array_equal(g("softplus", at(-100)), np.array([math.exp(-100)], kind))  # subnormal


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_limits_at_infinity_and_nan(name, dtype):
    infinities = np.array([-np.inf, np.inf], dtype)
    expected = np.array(LIMITS[name], dtype)
    np.testing.assert_array_equal(g(name, infinities), expected[:2])
    np.testing.assert_array_equal(g_prime(name, infinities), expected[2:])
    nan = np.array([np.nan], dtype)
    assert np.isnan(g(name, nan)).all()
    assert np.isnan(g_prime(name, nan)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_finite_argument_gives_finite_value(name, dtype):
    info = np.finfo(dtype)
    a = np.array([info.max / 2, -info.max / 2, info.tiny, -info.tiny, info.smallest_subnormal, 1e20, -1e20], dtype)
    a = domain(name, a)
    assert np.isfinite(g(name, a)).all()
    assert np.isfinite(g_prime(name, a)).all()


G_OF_0 = {"softplus": math.log(2), "sigmoid": 0.5, "hardsigmoid": 0.5, "exp": 1.0}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_g_of_0(name, dtype):
    zero = np.zeros(1, dtype)
    np.testing.assert_array_equal(g(name, zero), np.array([G_OF_0.get(name, 0.0)], dtype))


@functools.cache
def grid(dtype, n=200_001):
    """A fine grid, and the magnitudes beyond it."""
    far = np.logspace(-30, 30, 2001)
    return np.unique(np.concatenate([np.linspace(-50, 50, n), -far, far]).astype(dtype))


def finest_grid(dtype):
    return grid(dtype, 2_000_001)


# Points at which the functions or kernels change their formulas: kinks, the bounds of clamped arguments (half of
# them for tanh, which clamps 2a), 4 for the ratio of Mills, and the bounds of tiny and huge arguments.
BRANCHES = {
    "float64": [1, 3, 4, 6, 23, 40, 80, 380, 710, 760, 2.0**-28, 2.0**60, 2.0**1022],
    "float32": [1, 3, 4, 6, 15, 40, 60, 89, 120, 2.0**-13, 2.0**30, 2.0**126],
}


@functools.cache
def neighbours(dtype):
    """0, branch points, jumps of the reduced argument of exp, and the 64 floats on both sides of each."""
    last = 1096 if dtype == "float64" else 172
    exponents = (np.concatenate([np.arange(min(last, 64)), np.arange(64, last, 16)]) + 0.5) * np.log(2)
    # exp takes a, tanh 2a, gelu a^2/2
    magnitudes = np.concatenate([BRANCHES[dtype], exponents, exponents / 2, np.sqrt(2 * exponents)]).astype(dtype)
    bits = np.dtype(dtype).str.replace("f", "i")
    around = (magnitudes.view(bits)[:, None] + np.arange(-64, 65, dtype=bits)).ravel()
    magnitudes = np.concatenate([np.arange(65, dtype=bits), around]).view(dtype)
    return np.unique(np.concatenate([-magnitudes, magnitudes]))


WITH_A_MINIMUM = ["gelu", "gelu_tanh", "silu", "mish", "hardswish"]
MONOTONE = [name for name in ACTIVATION_NAMES if name not in (*WITH_A_MINIMUM, "sin")]
BOUNDS = {
    "relu": (0, np.inf),
    "elu": (-1, np.inf),
    "selu": (-SELU_ALPHA_SCALE, np.inf),
    "softplus": (0, np.inf),
    "softsign": (-1, 1),
    "tanh": (-1, 1),
    "sigmoid": (0, 1),
    "hardtanh": (-1, 1),
    "hardsigmoid": (0, 1),
    "hardswish": (-0.375, np.inf),
    "relu6": (0, 6),
    "sin": (-1, 1),
    "exp": (0, np.inf),
}


@functools.cache
def minimum(name):
    """The argument of the minimum of g, and its value."""
    with mpmath.workdps(50):
        at = mpmath.findroot(EXACT[name][1], -1.2 if name in {"silu", "mish"} else -0.75)
        return float(at), float(EXACT[name][0](at))


def falls(values):
    """Places of values that are less than the one before; without fma, by more than 2 of its last places."""
    before, after = values[:-1], values[1:]
    return np.flatnonzero(after < before - (2 * np.spacing(np.abs(before)) if WITHOUT_FMA else 0))


@pytest.mark.parametrize("points_of", [finest_grid, neighbours])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MONOTONE)
def test_monotone(name, dtype, points_of):
    a = domain(name, points_of(dtype))
    steps_down = falls(g(name, a))
    assert steps_down.size == 0, f"g falls after {a[steps_down]}"
    assert np.all(g_prime(name, a) >= 0)


@pytest.mark.parametrize("points_of", [finest_grid, neighbours])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WITH_A_MINIMUM)
def test_monotone_on_both_sides_of_a_minimum(name, dtype, points_of):
    a = points_of(dtype)
    at = -1.5 if name == "hardswish" else minimum(name)[0]
    flat = 0.25 if points_of is neighbours else 0  # g changes by less than its rounding there
    left, right = a[a < at - flat], a[a > at + flat]
    steps_up, steps_down = falls(-g(name, left)), falls(g(name, right))
    assert steps_up.size == 0, f"g rises after {left[steps_up]}"
    assert steps_down.size == 0, f"g falls after {right[steps_down]}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name, dtype):
    values = g(name, domain(name, np.concatenate([grid(dtype), neighbours(dtype)])))
    low, high = (np.dtype(dtype).type(bound) for bound in BOUNDS[name])
    assert values.min() >= low
    assert values.max() <= high


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "mish"])
def test_no_value_is_below_the_minimum(name, dtype):
    """Except for the last place, in which the minimum itself is rounded; and g comes as close next to it."""
    at, low = (np.dtype(dtype).type(value) for value in minimum(name))
    next_to_it = at + np.arange(-1000, 1001) * np.spacing(at)
    values = g(name, np.concatenate([grid(dtype), neighbours(dtype), next_to_it]))
    assert abs(values.min() - low) <= np.spacing(abs(low))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["identity", "softsign", "tanh", "hardtanh", "sin"])
def test_odd(name, dtype):
    a = np.concatenate([grid(dtype), neighbours(dtype)])
    a = a[a != 0]
    assert same_bits(g(name, -a), -g(name, a))
    assert same_bits(g_prime(name, -a), g_prime(name, a))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_prime_is_even(dtype):
    a = np.concatenate([grid(dtype), neighbours(dtype)])
    assert same_bits(g_prime("sigmoid", -a), g_prime("sigmoid", a))


def test_every_kink_of_the_table_has_its_corner():
    assert CORNERS.keys() == {(row.name, kink) for row in ACTIVATIONS.values() for kink in row.kinks}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "corner"), CORNERS)
def test_derivative_at_a_kink(name, corner, dtype):
    both_zeros = np.array([corner, -corner if corner == 0 else corner], dtype)
    np.testing.assert_array_equal(g_prime(name, both_zeros), np.array([CORNERS[name, corner]] * 2, dtype))
    expected = ACTIVATIONS[name].g_prime(np.array([corner]), ACTIVATIONS[name].default)
    np.testing.assert_array_equal(expected, [CORNERS[name, corner]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "corner"), CORNERS)
def test_derivative_at_a_kink_is_that_of_torch(name, corner, dtype):
    torch = require_peer("torch")
    function = torch.relu if name == "relu" else getattr(torch.nn.functional, name)
    a = torch.tensor([corner], dtype=getattr(torch, dtype), requires_grad=True)
    function(a).sum().backward()
    np.testing.assert_allclose(g_prime(name, np.array([corner], dtype)), a.grad.numpy(), rtol=2e-7)


@pytest.mark.parametrize("name", [name for name in ACTIVATION_NAMES if name in PARAMETERS])
def test_parameters(name):
    a = np.linspace(-3, 3, 12).reshape(3, 4)
    for parameter in (0.3, 1.7):
        net = backprop.Network([4, 4], output=(name, parameter))
        net.params = np.concatenate([np.eye(4).ravel(), np.zeros(4)])
        row = ACTIVATIONS[name]
        np.testing.assert_allclose(net.forward(a), row.g(a, parameter), rtol=1e-15)
        computed = backprop.preactivation_gradient(np.ones_like(a), a, (name, parameter))
        np.testing.assert_allclose(computed, row.g_prime(a, parameter), rtol=1e-15)


@pytest.mark.skipif(WITHOUT_FMA, reason="without fma the product overflows before its low part is added")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_selu_up_to_where_it_overflows(dtype):
    largest = np.finfo(dtype).max
    half_ulp = mpmath.mpf(float(largest - np.nextafter(largest, dtype(0)))) / 2
    a = [dtype(float(largest) / SELU_SCALE)]
    for _ in range(64):
        a = [np.nextafter(a[0], dtype(0)), *a, np.nextafter(a[-1], dtype(np.inf))]
    h = g("selu", np.array(a))
    for value, result in zip(a, h.tolist(), strict=True):
        exact = mpmath.mpf(float(value)) * mpmath.mpf("1.0507009873554804934193349852946")
        assert np.isinf(result) == (exact >= float(largest) + half_ulp), value
