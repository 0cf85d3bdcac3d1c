"""Errors of every g, g', g'' and g''' in units in the last place, against mpmath, and the float64 kernels for float32.

    python tools/numerics/ulp.py                       # random and log-spaced arguments
    python tools/numerics/ulp.py --every 16            # each 16th of all 2^32 float32; 1: some minutes each
    python tools/numerics/ulp.py --float64 10000000    # as many float64 numbers against long double, ten seconds each
    python tools/numerics/ulp.py --table docs/tables/ulp.rst
    python tools/numerics/ulp.py --short               # few arguments of each kind; writes nothing

What --every and --float64 find is kept in ulp.json beside this file, function by function, so that a run that was
stopped goes on with the names that are left; --order 3 measures g''' alone and keeps the rest; --table writes the table
of it. The short form exits with 1 if an error is above its goal, or if the table in docs/ is not what --table would
write. Near a zero of a derivative the error is given in units of u = 2^-53 or 2^-24 instead, as "abs".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import mpmath as mp
import numpy as np

from backprop import _core
from backprop.activations import ACTIVATIONS

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from exact_values import EXACT as EVERY_ACTIVATION

mp.mp.dps = 60
INFORMATION = {np.float32: (24, -149), np.float64: (53, -1074)}
DO_NOT_ROUND = {"identity", "relu", "leaky_relu", "hardtanh", "relu6"}
EXACT = {name: functions for name, functions in EVERY_ACTIVATION.items() if name not in DO_NOT_ROUND}
LABELS, TITLES = ("g", "gp", "gpp", "gppp"), ("g", "g'", "g''", "g'''")
ORDERS = range(len(LABELS))
KEPT = Path(__file__).with_suffix(".json")
TABLE = Path(__file__).resolve().parents[2] / "docs" / "tables" / "ulp.rst"
GOALS = {"silu": 1.5, "gelu": 1.5, "mish": 1.5, "gelu_tanh": 2.0}  # of g in ulp, others 1
GOAL_OF_DERIVATIVES = 2.0  # in ulp, or in u near a zero
EACH_BLOCK = 16  # of float32, for g'' and g''' at magnitudes that are not active
ACTIVE = tuple(int(np.float32(v).view(np.uint32)) for v in (2.0**-7, 2.0**7))
N_AGAIN = 100  # as many of the largest float64 errors are computed again with 60 digits
# Around the zeros of g' (1), g'' (2) and g''' (3), no wider than the range in which errors exceed 2 ulp.
# There |g'| is below 0.14, |g''| below 0.03 and |g'''| below 0.08.
NEAR_ZEROS = {
    ("gelu", 1): [(-0.95, -0.5)],
    ("gelu_tanh", 1): [(-1.0, -0.5)],
    ("silu", 1): [(-1.5, -1.0)],
    ("mish", 1): [(-1.25, -1.13)],
    ("gelu", 2): [(-1.45, -1.38), (1.38, 1.45)],
    ("gelu_tanh", 2): [(-1.45, -1.37), (1.37, 1.45)],
    ("silu", 2): [(-2.45, -2.35), (2.35, 2.45)],
    ("mish", 2): [(-2.3, -2.2), (1.45, 1.53)],
    ("gelu_tanh", 3): [(-2.05, -1.98), (1.98, 2.05)],
    ("silu", 3): [(-3.45, -3.42), (3.42, 3.45)],
    ("mish", 3): [(-3.29, -3.24), (-0.1, -0.078), (2.11, 2.125)],
    ("tanh", 3): [(-0.67, -0.635), (0.635, 0.67)],
    ("sigmoid", 3): [(-1.36, -1.03), (1.03, 1.36)],
}
BOUND = {
    "exp": 709.0,
    "sin": 1e300,
    "hardswish": 1e300,
    "softsign": 1e300,
}  # others: 1e3; beyond it they are at their limits


def kernel(name: str, a: np.ndarray, which: Sequence[int] = ORDERS) -> list[np.ndarray]:
    """g(a) and its derivatives by the kernels, those of the numbers in `which`."""
    h, g_prime, g_second, g_third = np.empty_like(a)[None], a.copy()[None], a.copy()[None], a.copy()[None]
    row = ACTIVATIONS[name]
    if 0 in which or 1 in which:
        _core.activate(g_prime, h, row.code, row.default)
    if 2 in which:
        _core.second_derivative(g_second, g_second, row.code, row.default)
    if 3 in which:
        _core.third_derivative(g_third, g_third, row.code, row.default)
    values = h[0], g_prime[0], g_second[0], g_third[0]
    return [values[i] for i in which]


def arguments(rng: np.random.Generator, n: int, bound: float, dtype: type) -> np.ndarray:
    """Half uniform in [-10, 10], a quarter uniform up to the bound, a quarter log-spaced; all with both signs."""
    wide = min(bound, 120.0 if dtype is np.float32 else 800.0)
    tiny = 1e-38 if dtype is np.float32 else 1e-300
    parts = [
        rng.uniform(-10, 10, n // 2),
        rng.uniform(-wide, wide, n // 4),
        np.exp(rng.uniform(np.log(tiny), np.log(bound), n // 4)) * rng.choice([-1, 1], n // 4),
    ]
    return np.concatenate(parts).astype(dtype)


def error_in_ulp(value: float, exact, dtype: type) -> float:
    """|value - exact| in units of the last place of the exact value."""
    digits, least = INFORMATION[dtype]
    if exact == 0:
        return 0.0 if value == 0 else float("inf")
    exponent = max(mp.floor(mp.log(abs(exact), 2)) - digits + 1, least)
    return float(abs(mp.mpf(float(value)) - exact) / mp.mpf(2) ** exponent)


def worst(name: str, which: int, a: np.ndarray, values: np.ndarray, dtype: type) -> tuple[float, float, float]:
    """The largest error in ulp and its argument, and the largest error in u near a zero of a derivative."""
    u = 2.0 ** -INFORMATION[dtype][0]
    largest, place, largest_absolute = 0.0, 0.0, 0.0
    for x, value in zip(a.tolist(), values.tolist(), strict=True):
        exact = EXACT[name][which](mp.mpf(x))
        if not np.isfinite(value) and abs(exact) > float(np.finfo(dtype).max):
            continue
        absolute = float(abs(mp.mpf(value) - exact)) / u if np.isfinite(value) else float("inf")
        if near_zero(name, which, np.float64(x)):
            largest_absolute = max(largest_absolute, absolute)
            continue
        error = error_in_ulp(value, exact, dtype) if np.isfinite(value) else float("inf")
        if error > largest:
            largest, place = error, x
    return largest, place, largest_absolute


def near_zero(name: str, which: int, a: np.ndarray) -> np.ndarray:
    """Where a derivative is near a zero, so that only the absolute error counts."""
    near = np.zeros(np.shape(a), bool)
    for low, high in NEAR_ZEROS.get((name, which), ()):
        near |= (low < a) & (a < high)
    return near


def float32_errors(
    name: str, starts: Iterable[int], size: int, every: int, orders: Sequence[int] = ORDERS
) -> list[list[float]]:
    """The largest errors of the float32 kernels, by the float64 kernels, at each N-th float32 of the blocks.

    A block is `size` numbers with consecutive bits. For each order of derivatives, 0 for g: the error in ulp, its
    argument, and the error in u near a zero. If all numbers are checked, the second and third order are checked at
    magnitudes from 2^-7 to 2^7, and beyond in each EACH_BLOCK-th block.
    """
    worst_of = {which: [0.0, 0.0, 0.0] for which in orders}
    for start in starts:
        is_active = ACTIVE[0] <= start % (1 << 31) < ACTIVE[1] or start // size % EACH_BLOCK == 0
        here = [which for which in orders if which < 2 or every > 1 or is_active]
        if not here:
            continue
        a = np.arange(start, start + size, every, dtype=np.uint64).astype(np.uint32).view(np.float32)
        a = a[np.isfinite(a)]
        both = (kernel(name, each, here) for each in (a, a.astype(np.float64)))
        for which, value, exact in zip(here, *both, strict=True):
            near = near_zero(name, which, a)
            with np.errstate(all="ignore"):
                difference = np.abs(value - exact)
                if near.any():
                    worst_of[which][2] = max(worst_of[which][2], float(difference[near].max()) * 2.0**24)
                    difference[near] = 0.0
                # An error below the largest one so far, by the least that an ulp can be, needs no closer look.
                ulp_at_least = np.maximum(2.0**-24 * np.abs(exact), 2.0**-149)
                within = (difference <= worst_of[which][0] * ulp_at_least) | (value == exact)  # NaN is not
            some = np.flatnonzero(~within)
            if not some.size:
                continue
            error = in_ulp(value[some], exact[some], difference[some])
            at = int(error.argmax())
            if error[at] > worst_of[which][0]:
                worst_of[which][:2] = float(error[at]), float(a[some[at]])
    return list(worst_of.values())


def in_ulp(value: np.ndarray, exact: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """The differences in ulp of the exact values; a NaN or a wrong infinity has an infinite error."""
    with np.errstate(all="ignore"):
        rounded = np.abs(exact).astype(value.dtype)
        error = difference / np.spacing(rounded)
        overflowed = np.isinf(rounded) & (value == np.copysign(np.inf, exact))
    return np.where(overflowed, 0, np.where(np.isfinite(value), error, np.inf))


def every_float32(name: str, every: int, orders: Sequence[int] = ORDERS) -> list[list[float]]:
    """`float32_errors` over all finite float32, first near 1, because the large errors are there."""
    size = every << 17  # 2^17 numbers at a time stay in the cache
    one = int(np.float32(1).view(np.uint32))
    starts = sorted(range(0, 1 << 32, size), key=lambda start: abs(start % (1 << 31) - one))
    return float32_errors(name, starts, size, every, orders)


def float64_errors(name: str, n: int, orders: Sequence[int] = ORDERS) -> list[list[float]]:
    """The largest errors of the float64 kernels at n arguments: by long double, the worst 100 again by mpmath."""
    from longdouble import exact_values

    worst_of = {which: [0.0, 0.0, 0.0] for which in orders}
    candidates: dict[int, list[tuple[float, float, float]]] = {which: [] for which in orders}
    chunk = 1 << 16
    bound = min(BOUND.get(name, 1e3), 1e300)
    for start in range(0, n, chunk):
        a = arguments(np.random.default_rng([7, start]), min(chunk, n - start), bound, np.float64)
        every_exact = exact_values(name, a)
        for which, value in zip(orders, kernel(name, a, orders), strict=True):
            exact = every_exact[which]
            with np.errstate(all="ignore"):
                difference = np.abs(value - exact)
            error = in_ulp(value, exact, difference)
            near = near_zero(name, which, a)
            if near.any():
                worst_of[which][2] = max(worst_of[which][2], float(difference[near].max()) * 2.0**53)
                error[near] = 0
            order = np.argpartition(error, -N_AGAIN)[-N_AGAIN:] if len(error) > N_AGAIN else np.arange(len(error))
            candidates[which] += zip(error[order].tolist(), a[order].tolist(), value[order].tolist(), strict=True)
            candidates[which] = sorted(candidates[which], reverse=True)[:N_AGAIN]
    for which, some in candidates.items():
        _, at, values = (np.array(column) for column in zip(*some, strict=True))
        worst_of[which][:2] = worst(name, which, at, values, np.float64)[:2]
    return list(worst_of.values())


def text(largest: float, place: float, absolute: float) -> str:
    """An entry of the table."""
    return f"{largest:.3f} ({place:.4g})" + (f"; {absolute:.2f} u" if absolute else "")


def read_kept() -> dict:
    """What has been measured: {dtype: {name: [inputs, [entry of each order]]}}."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {"float32": {}, "float64": {}}


def measure(dtype: str, name: str, count: int, kept: dict, orders: Sequence[int] = ORDERS) -> None:
    """Print the errors of one function, at each count-th float32 or at `count` float64, and note them in `kept`.

    Orders that are not measured keep their entries: they must have been measured at the same arguments.
    """
    if dtype == "float32":
        inputs = "all float32" if count == 1 else f"each {count}th float32"
        entries = every_float32(name, count, orders)
    else:
        inputs, entries = f"{count:,} float64", float64_errors(name, count, orders)
    print(dtype, name, inputs, *(text(*entry) for entry in entries), flush=True)
    if len(orders) < len(ORDERS):
        before, old = kept[dtype].get(name, ("nothing", []))
        if before != inputs or kept["simd"] != _core.simd:
            raise SystemExit(f"{name}: expected other orders at {inputs} on {_core.simd}, got {before}: measure all")
        measured = {**dict(enumerate(old)), **dict(zip(orders, entries, strict=True))}
        entries = [measured[which] for which in sorted(measured)]
    kept["simd"] = _core.simd
    kept[dtype][name] = inputs, entries


def beyond_goals(kept: dict, factor: float = 1.0) -> list[str]:
    """What is above its goal, times a factor."""
    found = []
    for dtype in ("float32", "float64"):
        for name, (_, entries) in kept[dtype].items():
            goals = GOALS.get(name, 1.0), *3 * [GOAL_OF_DERIVATIVES]
            for label, goal, (largest, _, absolute) in zip(TITLES, goals, entries, strict=True):
                if largest > goal * factor or absolute > GOAL_OF_DERIVATIVES * factor:
                    found.append(f"{label} of {name} in {dtype} ({max(largest, absolute):.3f})")
    return found


def table(kept: dict) -> str:
    """The table in reStructuredText of what has been measured."""
    goals = ", ".join(f"{name} {goal:g}" for name, goal in GOALS.items())
    lines = [
        ".. Made by python tools/numerics/ulp.py --table docs/tables/ulp.rst; not to be edited.",
        "",
        "Largest error in units of the last place, with its argument. Near a zero of a derivative only the absolute "
        f"error counts, in u = 2^-24 or 2^-53 (instruction set {kept['simd']}):",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - function",
        "     - inputs",
        *(f"     - {label}" for label in TITLES),
    ]
    for dtype in ("float32", "float64"):
        for name in EXACT:
            if name not in kept[dtype]:
                continue
            inputs, entries = kept[dtype][name]
            lines += [f"   * - {name}", f"     - {inputs}", *(f"     - {text(*entry)}" for entry in entries)]
    lines += [
        "",
        f"The goals: 1 for g ({goals}), {GOAL_OF_DERIVATIVES:g} for derivatives. Above its goal is "
        f"{'; '.join(beyond_goals(kept)) or 'none'}.",
        "",
        "float32 by ``python tools/numerics/ulp.py --every N``, against the float64 kernels (if N is 1, g'' and g''' "
        f"at magnitudes from 2^-7 to 2^7, and beyond in each {EACH_BLOCK}th block of 2^17); float64 by "
        "``python tools/numerics/ulp.py --float64 N``, against long double, the worst 100 again with 60 digits. "
        "identity, relu, leaky_relu, hardtanh and relu6 do not round, except for a product with a slope.",
    ]
    return "\n".join(lines) + "\n"


def print_random(names: Iterable[str], n_points: int) -> None:
    """Check random and log-spaced arguments by mpmath, and print one line per function and dtype."""
    for dtype in (np.float32, np.float64):
        for name in names:
            rng = np.random.default_rng(1)
            top = 3e38 if dtype is np.float32 else 1e300
            a = arguments(rng, n_points, min(BOUND.get(name, 1e3), top), dtype)
            line = f"{np.dtype(dtype).name} {name:<12}"
            for which, values in enumerate(kernel(name, a)):
                largest, place, absolute = worst(name, which, a, values, dtype)
                line += f"  {LABELS[which]:<3} {largest:8.3f} ({place:11.5g})"
                if absolute:
                    line += f" abs {absolute:.2f}"
            print(line, flush=True)


def short(names: Iterable[str]) -> int:
    """Each way of checking at few arguments; 1 if an error is above its goal."""
    print_random(names, 40)
    kept: dict = {"float32": {}, "float64": {}}
    for name in names:
        measure("float32", name, 1 << 18, kept)
        if np.finfo(np.longdouble).nmant >= 63:
            measure("float64", name, 2000, kept)
    if not kept["float64"]:
        print("float64 is not checked against long double: it is no wider than float64 here")
    print(table(kept))
    on_page = TABLE.exists() and TABLE.read_text() == table(read_kept())
    print(f"{TABLE.name}: {'as made of ulp.json' if on_page else 'NOT as made of ulp.json: run --table'}")
    without_fma = _core.simd in ("v2", "generic")  # whose errors may be larger
    return int(not on_page or bool(beyond_goals(kept, 4.0 if without_fma else 1.0)))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=4000, help="arguments per function")
    parser.add_argument("--short", action="store_true", help="few arguments, and nothing written")
    parser.add_argument("--every", type=int, default=0, help="float32: each N-th of all arguments")
    parser.add_argument("--float64", type=int, default=0, metavar="N", help="float64: N arguments against long double")
    parser.add_argument("--table", type=Path, help="write the table of what --every and --float64 gave")
    parser.add_argument("--order", type=int, action="append", help="of derivatives, 0 for g (default: all)")
    parser.add_argument("names", nargs="*", help="activations (default: all that round)")
    options = parser.parse_args()
    print(f"instruction set {_core.simd}; largest error in ulp (argument), near a zero of a derivative in u")
    names = options.names or list(EXACT)
    if options.short:
        return short(names)
    for name in names:
        for dtype, count in (("float32", options.every), ("float64", options.float64)):
            if count:
                kept = read_kept()  # only now: another run may have written meanwhile
                measure(dtype, name, count, kept, options.order or ORDERS)
                KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(table(read_kept()))
    if not (options.every or options.float64 or options.table):
        print_random(names, options.points)
    return 0


if __name__ == "__main__":
    sys.exit(main())
