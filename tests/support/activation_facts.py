"""Facts about each activation's values: limits, kinks, and the points at which it is tested."""

import math

import numpy as np
from problems import domain

from backprop import _core
from backprop.activations import SELU_ALPHA_SCALE, SELU_SCALE

WITHOUT_FMA = _core.simd in {"v2", "generic"}  # without fma each product is rounded before it is added

LIMITS = {  # g(-inf), g(inf), g'(-inf), g'(inf)
    "identity": (-np.inf, np.inf, 1, 1),
    "relu": (0, np.inf, 0, 1),
    "leaky_relu": (-np.inf, np.inf, 0.01, 1),
    "elu": (-1, np.inf, 0, 1),
    "selu": (-SELU_ALPHA_SCALE, np.inf, 0, SELU_SCALE),
    "gelu": (0, np.inf, 0, 1),
    "gelu_tanh": (0, np.inf, 0, 1),
    "silu": (0, np.inf, 0, 1),
    "mish": (0, np.inf, 0, 1),
    "softplus": (0, np.inf, 0, 1),
    "softsign": (-1, 1, 0, 0),
    "tanh": (-1, 1, 0, 0),
    "sigmoid": (0, 1, 0, 0),
    "hardtanh": (-1, 1, 0, 0),
    "hardsigmoid": (0, 1, 0, 0),
    "hardswish": (0, np.inf, 0, 1),
    "relu6": (0, 6, 0, 0),
    "sin": (np.nan, np.nan, np.nan, np.nan),
    "exp": (0, np.inf, 0, np.inf),
}
# g''(-inf), g''(inf) where they are not 0.
SECOND_LIMITS = {"exp": (0, np.inf), "sin": (np.nan, np.nan)}
THIRD_LIMITS = SECOND_LIMITS  # of g''' likewise
# g' at the kinks: PyTorch's.
CORNERS = {
    ("relu", 0.0): 0.0,
    ("leaky_relu", 0.0): 0.01,
    ("elu", 0.0): 1.0,
    ("selu", 0.0): SELU_ALPHA_SCALE,
    ("hardtanh", -1.0): 0.0,
    ("hardtanh", 1.0): 0.0,
    ("hardsigmoid", -3.0): 0.0,
    ("hardsigmoid", 3.0): 0.0,
    ("relu6", 0.0): 0.0,
    ("relu6", 6.0): 0.0,
    ("hardswish", -3.0): 0.0,
    ("hardswish", 3.0): 1.0,
}


def points(name, dtype):
    """A grid, magnitudes from the subnormals to 1e300 (1e37), branch points and their neighbours, and tails."""
    info = np.finfo(dtype)
    magnitudes = np.concatenate(
        [
            np.linspace(0, 12, 121),
            np.logspace(-8, 3, 78),
            np.logspace(np.log10(float(info.tiny)) - 6, np.log10(float(info.max)) - 0.6, 40),
            [
                float(info.smallest_subnormal),
                1e-18,
                1e20,
                9,
                19.5,
                37,
                37.5,
                38,
                39.9,
                40.1,
                300,
                699.5,
                720,
                745,
                1000,
            ],
            [1e4, 87.5, 88.5, 100, 103.5, 104, 1, 3, 6, 0.5, 2**-0.5, 20, 33, 36.7],
        ]
    )
    magnitudes = np.unique(magnitudes.astype(dtype))
    magnitudes = np.concatenate([magnitudes, np.nextafter(np.array([1, 3, 6], dtype), info.dtype.type(0))])
    return domain(name, np.concatenate([-magnitudes, magnitudes]))


def ulp(value, dtype):
    """The distance between neighbouring floats at a true value."""
    rounded = float(value)
    if dtype == "float64":
        return math.ulp(rounded)
    exponent = math.frexp(rounded)[1] if rounded else -1000
    return 2.0 ** max(exponent - 24, -149)
