"""Write src/backprop/kernels/coefficients.h: the polynomials of the elementary functions, and split constants.

    python tools/numerics/coefficients.py             # needs mpmath
    python tools/numerics/coefficients.py --short     # compares with the header instead of writing it

Each polynomial interpolates its function at Chebyshev nodes, which is within a small factor of the best approximation.
The largest error, relative to the whole result that the polynomial is a part of, is printed beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mpmath import atanh, cos, erfc, exp, expm1, log, lu_solve, matrix, mp, mpf, pi, sin, sqrt

mp.dps = 60
HEADER = Path(__file__).parents[2] / "src" / "backprop" / "kernels" / "coefficients.h"
CENTRE = 4  # of the substitution u = (x - 4)/(x + 4): a power of two keeps 8/(x + 4) exact up to one rounding
TINY = mpf(10) ** -24


def interpolate(function: Callable, low, high, degree: int) -> list:
    """Coefficients, lowest first, of the polynomial through the function at Chebyshev nodes."""
    n = degree + 1
    nodes = [(low + high) / 2 + (high - low) / 2 * cos(pi * (2 * k + 1) / (2 * n)) for k in range(n)]
    powers, values = matrix(n, n), matrix(n, 1)
    for i, x in enumerate(nodes):
        values[i] = function(x)
        for j in range(n):
            powers[i, j] = x**j
    solution = lu_solve(powers, values)
    return [solution[i] for i in range(n)]


def largest_error(function: Callable, coefficients: list, low, high, weight: Callable) -> float:
    """The largest weighted difference on a grid."""
    largest = mpf(0)
    for i in range(401):
        x = low + (high - low) * mpf(i) / 400
        value = mpf(0)
        for c in reversed(coefficients):
            value = value * x + c
        largest = max(largest, abs((value - function(x)) * weight(x)))
    return float(largest)


def mills_form(u):
    """(x + 4) M(x), x = 4 (1 + u)/(1 - u), M the Mills ratio: Phi(-x) = phi(x) M(x)."""
    x = CENTRE * (1 + u) / (1 - u)
    return sqrt(pi / 2) * exp(x * x / 2) * erfc(x / sqrt(mpf(2))) * (x + CENTRE)


def polynomials(float64: bool) -> dict[str, tuple]:
    """Name -> (function, low, high, degree, weight of the error)."""
    half_log2 = log(mpf(2)) / 2 * mpf("1.0005")
    z_max = (pi / 4 * mpf("1.001")) ** 2
    u_max = mpf(40 - CENTRE) / (40 + CENTRE)
    return {
        # exp(r) = 1 + r + r^2 Q(r)
        "EXP": (lambda r: (expm1(r) - r) / r**2 if abs(r) > TINY else mpf(1) / 2, -half_log2, half_log2,
                10 if float64 else 5, lambda r: r * r),
        # 2 atanh(s) = 2s + 2s s^2 P(s^2)
        "ATANH": (lambda z: (atanh(sqrt(z)) - sqrt(z)) / sqrt(z) ** 3 if z > TINY else mpf(1) / 3, mpf(0), mpf(1) / 9,
                  9 if float64 else 4, lambda z: z),
        "MILLS": (mills_form, mpf(-1), u_max, 23 if float64 else 11, lambda u: 1 / mills_form(u)),
        # sin(r) = r + r r^2 S(r^2), cos(r) = 1 - r^2/2 + r^4 C(r^2)
        "SIN": (lambda z: (sin(sqrt(z)) / sqrt(z) - 1) / z if z > TINY else -mpf(1) / 6, mpf(0), z_max,
                6 if float64 else 3, lambda z: z),
        "COS": (lambda z: (cos(sqrt(z)) - 1 + z / 2) / z**2 if z > TINY else mpf(1) / 24, mpf(0), z_max,
                5 if float64 else 2, lambda z: z * z),
    }  # fmt: skip


def split(value, bits: list[int], float64: bool) -> list:
    """The value as a sum of reals with these numbers of significant bits, and a last one rounded to the dtype."""
    parts, rest = [], mpf(value)
    for n in bits:
        scale = mpf(2) ** (n - 1 - int(mp.floor(log(abs(rest), 2))))
        part = mp.nint(rest * scale) / scale
        parts.append(part)
        rest -= part
    parts.append(mpf(float(rest)) if float64 else mpf(float(np.float32(float(rest)))))
    return parts


def constants(float64: bool) -> dict[str, list]:
    """Constants that are used as sums of several reals."""
    full = 53 if float64 else 24
    short = 41 if float64 else 15  # the product with an exponent of 11 or 8 bits is exact
    return {
        "LN2": split(log(mpf(2)), [short], float64),
        "PI_HALF": split(pi / 2, [32, 32, 53] if float64 else [12, 12, 24], float64),
        "INV_SQRT_2PI": split(1 / sqrt(2 * pi), [full], float64),
        "SQRT_8_OVER_PI": split(sqrt(8 / pi), [full], float64),
        "GELU_TANH_CUBIC": split(mpf("0.044715"), [full], float64),
        "SELU_SCALE": split(mpf("1.0507009873554804934193349852946"), [full], float64),
        "SELU_ALPHA_SCALE": split(
            mpf("1.0507009873554804934193349852946") * mpf("1.6732632423543772848170429916717"), [full], float64
        ),
    }


def literal(value, float64: bool) -> str:
    """A C literal that is exactly the rounded value."""
    return float(value).hex() if float64 else float(np.float32(float(value))).hex() + "f"


def header() -> str:
    """The text of the header; prints the errors."""
    lines = [
        "/* Written by tools/numerics/coefficients.py; do not edit. Lowest coefficients come first. */",
        "#ifndef BACKPROP_KERNELS_COEFFICIENTS_H",
        "#define BACKPROP_KERNELS_COEFFICIENTS_H",
    ]
    for float64 in (False, True):
        lines.append("#if BP_FLOAT64" if float64 else "#if !BP_FLOAT64")
        for name, (function, low, high, degree, weight) in polynomials(float64).items():
            coefficients = interpolate(function, low, high, degree)
            error = largest_error(function, coefficients, low, high, weight)
            print(f"{'float64' if float64 else 'float32'} {name:<6} degree {degree:2} error {error:.1e}")
            lines += [f"/* error {error:.1e} */", f"enum {{ BP_{name}_DEGREE = {degree} }};"]
            values = ",\n    ".join(literal(c, float64) for c in coefficients)
            lines.append(f"static const bp_real BP_{name}[] = {{\n    {values}}};")
            if name == "MILLS":
                lines += ["/* what the first two lost to their rounding */"]
                lost = [split(c, [53 if float64 else 24], float64)[1] for c in coefficients[:2]]
                values = ", ".join(literal(value, float64) for value in lost)
                lines.append(f"static const bp_real BP_MILLS_LOW[] = {{{values}}};")
        for name, parts in constants(float64).items():
            values = ", ".join(literal(part, float64) for part in parts)
            lines.append(f"static const bp_real BP_{name}[] = {{{values}}};")
        lines.append("#endif")
    lines.append("/* The same in float64 for the losses, whatever the dtype of the network. */")
    for name in ("EXP", "ATANH"):
        function, low, high, degree, _ = polynomials(True)[name]
        coefficients = interpolate(function, low, high, degree)
        values = ",\n    ".join(literal(c, True) for c in coefficients)
        lines += [f"enum {{ BP_DOUBLE_{name}_DEGREE = {degree} }};"]
        lines.append(f"static const double BP_DOUBLE_{name}[] = {{\n    {values}}};")
    values = ", ".join(literal(part, True) for part in constants(True)["LN2"])
    lines.append(f"static const double BP_DOUBLE_LN2[] = {{{values}}};")
    with mp.workdps(420):
        digits = int(mp.floor(2 / mp.pi * mpf(2) ** 1280))
    words = [f"0x{(digits >> (1280 - 64 * (i + 1))) & (2**64 - 1):016x}ull" for i in range(20)]
    rows = [", ".join(words[i : i + 4]) for i in range(0, 20, 4)]
    lines += ["/* 2/pi, 64 bits a word, the first after the binary point */"]
    lines += ["static const uint64_t BP_TWO_OVER_PI[20] = {\n    " + ",\n    ".join(rows) + "};", "#endif", ""]
    return "\n".join(lines)


def main() -> int:
    """Write the header, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="compare with the header, and write nothing")
    is_short = parser.parse_args().short
    text = header()
    if is_short:
        same = HEADER.read_text() == text
        print(f"{HEADER.name}: {'as computed' if same else 'DIFFERS from what is computed'}")
        return int(not same)
    HEADER.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
