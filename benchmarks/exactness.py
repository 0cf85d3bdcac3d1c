"""Error of the gradient against the number of samples: 30-100-100-1, tanh, squared error, all 13,301 parameters.

    python benchmarks/exactness.py                              # 10, 1,000 and 100,000 samples: a minute
    python benchmarks/exactness.py --samples 10000000           # some ten minutes and 8 GB
    python benchmarks/exactness.py --samples --table docs/tables/exactness.rst      # the order alone, and the table
    python benchmarks/exactness.py --short                      # 10 to 2,000 samples; nothing is kept

There are three sets of data. With targets that are a smooth function of random rows, rounding errors average out. With
noise as targets of random rows, the contributions of the samples to the gradient cancel too. With one block of ten rows
repeated, rounding errors do not average out. The error is ||g - reference|| / ||reference||. The condition is the
largest |g_k - reference_k| / (u mean_s |contribution of sample s to g_k|) over all parameters k, with u = 2^-24 or
2^-53; it allows for cancellation. The reference has the same parameters and inputs. For repeated rows, and up to 1,000
rows, it is the recursion in long double. For more rows it is NumPy's float64 recursion (`recursion.py`) over tiles of
1,000 rows, which are added in long double; its own error is 1e-16.

The order of sums is tried too: the sums over the units of a call (`Network.partial_sums`) are added in random orders,
one after another and in trees. Loss and gradient must have one SHA-256, that of the plain call.

This library takes all samples in one call. The others keep the activations of a whole batch: they get more than
1,000,000 rows in parts of 1,000,000, and the gradients of the parts are added in the network's dtype. Results are kept
in benchmarks/exactness.json, and the table shows all that is kept.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import peers
import same_bits
from cases import Case, Problem

import backprop
from backprop import _core
from backprop.activations import ACTIVATIONS
from backprop.losses import LOSSES
from backprop.reference import recursion as _reference

SIZES = (30, 100, 100, 1)
TILE = 1000
PART = 1_000_000
KEPT = Path(__file__).with_suffix(".json")
TABLE = Path(__file__).resolve().parents[1] / "docs" / "tables" / "exactness.rst"
LIBRARIES = {
    "backprop": ("backprop-cpu", peers.make_ours),
    "PyTorch": ("torch", peers.make_torch),
    "JAX": ("jax", peers.make_jax),
    "NumPy by hand": ("numpy", peers.make_numpy),
}
DATA = {"random": "random rows", "noise": "random rows, noise as targets", "repeated": "ten rows repeated"}
MEASURES = {
    "errors": "Relative error of the gradient, ||g - reference|| / ||reference||",
    "conditions": "Condition of the gradient, largest abs(g - reference) / (u mean_s abs(contribution of sample s))",
}


def teacher(n_samples):
    """Draw x and a smooth function of it, rounded to float32, so that networks of both dtypes get the same numbers."""
    rng = np.random.default_rng(n_samples)
    x = rng.standard_normal((n_samples, SIZES[0]), np.float32)
    directions = rng.normal(size=(SIZES[0], 4)) / np.sqrt(SIZES[0])
    y = np.empty((n_samples, 1), np.float32)
    for start in range(0, n_samples, PART):
        part = slice(start, start + PART)
        y[part] = np.sin(2 * x[part] @ directions).sum(axis=1, keepdims=True)
    return x, y


def noise(n_samples):
    """Draw the same x, and targets that have nothing to do with it."""
    x, y = teacher(n_samples)
    return x, np.random.default_rng([n_samples, 1]).standard_normal(y.shape, np.float32)


def flat_sums(grad_a, h):
    """The gradient from grad_a_i and h_{i-1} of each layer, and the sums over samples of |contribution of a sample|."""
    sums = []
    for left, right in ((grad_a, h), (map(np.abs, grad_a), map(np.abs, h))):
        pairs = zip(left, right, strict=True)
        sums.append(np.concatenate([part for a, b in pairs for part in ((a.T @ b).ravel(), a.sum(axis=0))]))
    return sums


def tiled_reference(theta, x, y):
    """The mean gradient and the mean magnitude of a sample's contribution, tile by tile, added in long double."""
    activations = [(ACTIVATIONS[name], 0.0) for name in ("tanh", "tanh", "identity")]
    total = np.zeros((2, theta.size), np.longdouble)
    for start in range(0, len(x), TILE):
        tile = slice(start, start + TILE)
        x_tile, y_tile = x[tile].astype(float), y[tile].astype(float)
        result = _reference.value_and_grad(SIZES, activations, (LOSSES["squared_error"], 0.0), theta, x_tile, y_tile)
        total += np.array(flat_sums(result.grad_a[1:], result.h[:-1]), np.longdouble) * len(x_tile)
    return total / len(x)


def longdouble_reference(layers, x, y):
    """The same by the recursion in long double throughout, for a few rows."""
    layers = [(W.astype(np.longdouble), b.astype(np.longdouble)) for W, b in layers]
    h, primes = [x.astype(np.longdouble)], []
    for W, b in layers[:-1]:
        a = h[-1] @ W.T + b
        t = np.exp(-2 * np.abs(a))
        h.append(np.sign(a) * (1 - t) / (1 + t))
        primes.append(4 * t / (1 + t) ** 2)
    W, b = layers[-1]
    grad_a = [2 * (h[-1] @ W.T + b - y) / y.size]
    for i in range(len(layers) - 1, 0, -1):
        grad_a[:0] = [grad_a[0] @ layers[i][0] * primes[i - 1]]
    return flat_sums(grad_a, h)


def relative_error(value, expected):
    """||value - expected|| / ||expected||."""
    difference = value.astype(np.longdouble) - expected
    return float(np.sqrt((difference**2).sum() / (expected**2).sum()))


def condition(value, expected, magnitudes, dtype):
    """The largest |value - expected| / (u magnitudes); a parameter to which no sample contributes has no error."""
    difference = np.abs(value.astype(np.longdouble) - expected)
    u = np.finfo(dtype).eps / 2
    return float((difference[magnitudes > 0] / magnitudes[magnitudes > 0]).max() / u)


def gradient(library, layers, x, y, dtype):
    """The mean gradient of a library as a vector; by parts if it keeps the activations of a whole batch."""
    _, make = LIBRARIES[library]
    layers = [(W.astype(dtype), b.astype(dtype)) for W, b in layers]
    rows = len(x) if library == "backprop" else min(len(x), PART)
    total = np.zeros(sum(W.size + b.size for W, b in layers), dtype)
    for start in range(0, len(x), rows):
        x_part, y_part = (array[start : start + rows].astype(dtype, copy=False) for array in (x, y))
        case = Case(f"{start}", SIZES, len(x_part), "tanh")
        _, grads = make(Problem(case, np.dtype(dtype), x_part, y_part, layers), 1).result()
        flat = np.concatenate([np.ravel(part) for pair in grads for part in pair])
        total += flat * np.asarray(len(x_part) / len(x), dtype)
    return total


def measure(data, n_samples, libraries):
    """Errors and conditions by library and dtype, float32 first."""
    net = backprop.Network(SIZES, activations="tanh", dtype="float32", rng=0)
    layers = list(zip(net.weights, net.biases, strict=True))
    x, y = noise(n_samples) if data == "noise" else teacher(10 if data == "repeated" else n_samples)
    few = len(x) <= TILE
    expected, magnitudes = (
        longdouble_reference(layers, x, y) if few else tiled_reference(net.params.astype(float), x, y)
    )
    if data == "repeated":
        x, y = np.tile(x, (n_samples // 10, 1)), np.tile(y, (n_samples // 10, 1))
    result = {"errors": {}, "conditions": {}}
    for library in libraries:
        errors, conditions, seconds = [], [], []
        for dtype in (np.float32, np.float64):
            start = time.perf_counter()
            value = gradient(library, layers, x, y, dtype)
            seconds.append(time.perf_counter() - start)
            errors.append(relative_error(value, expected))
            conditions.append(condition(value, expected, magnitudes, dtype))
        result["errors"][library], result["conditions"][library] = errors, conditions
        print(
            f"| {DATA[data]} | {n_samples:,} | {library} | {errors[0]:.2e} | {errors[1]:.2e} | "
            f"{conditions[0]:.2g}, {conditions[1]:.2g} | {seconds[0]:.2g}, {seconds[1]:.2g} |",
            flush=True,
        )
    return result


def measure_orders(n_samples, n_orders):
    """How often loss and gradient had each SHA-256 in random orders of units, by dtype; one call comes first."""
    result = {"samples": n_samples, "orders": n_orders, "units": {}, "sha256": {}}
    for dtype in ("float32", "float64"):
        net = backprop.Network(SIZES, activations="tanh", dtype=dtype, rng=0)
        x, y = (array.astype(dtype, copy=False) for array in teacher(n_samples))
        n_units = -(-n_samples // net._plan.unit_rows(_core.CALLS["value_and_grad"], n_samples))
        parts = [
            net.partial_sums(x[rows], y[rows], first_row=rows.start, n_rows=n_samples)
            for rows in backprop.row_blocks(net, n_samples, n_units)
        ]
        counts = {same_bits.fingerprint(net, *net.value_and_grad(x, y)): 0}
        rng = np.random.default_rng(0)
        for k in range(n_orders):
            found = same_bits.fingerprint(net, *add(parts, rng, in_tree=k % 2 == 1).result())
            counts[found] = counts.get(found, 0) + 1
        result["units"][dtype], result["sha256"][dtype] = n_units, counts
        verdict = "one SHA-256" if len(counts) == 1 else f"{len(counts)} SHA-256"
        print(f"{n_orders:,} random orders of {n_units} units, {dtype}: {verdict}, {next(iter(counts))}")
    return result


def add(parts, rng, in_tree):
    """The sum of parts in random order, from the first to the last, or in a random tree."""
    left = [parts[k] for k in rng.permutation(len(parts))]
    while len(left) > 1:
        k = rng.integers(len(left) - 1) if in_tree else 0
        left[k : k + 2] = [left[k] + left[k + 1]]
    return left[0]


def orders_text(orders):
    """What the random orders gave, in a sentence, and which dtypes had different bits."""
    differ = [dtype for dtype, counts in orders["sha256"].items() if len(counts) > 1]
    found = "one SHA-256 in each dtype, that of one call"
    if differ:
        found = f"MORE THAN ONE SHA-256 in {' and '.join(differ)}"
    n_units = " or ".join(map(str, sorted(set(orders["units"].values()))))
    text = (
        f"The sums over the {n_units} units of {orders['samples']:,} samples were added in {orders['orders']:,} random "
    )
    return f"{text}orders, every second one in a random tree: {found}.", differ


def read_kept():
    """All that has been measured."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {"versions": {}}


def goal(measure, data, n_samples, dtype):
    """The largest error or condition that this library may have; infinite if there is no goal."""
    if measure == "conditions":
        return (64 if n_samples < 100_000 else 4) if (data, dtype) == ("random", "float32") else np.inf
    if data == "repeated":
        return 3e-7 if dtype == "float32" else np.inf
    if data == "noise":
        return np.inf
    return {"float32": (2e-7, 5e-8), "float64": (1e-15, 3e-16)}[dtype][n_samples >= 100_000]


def rows_of(kept, measure):
    """The rows of a table, and what misses its goal."""
    libraries = [name for name in LIBRARIES if name in kept["versions"]]
    rows = [["rows", "samples", "dtype", *(f"{name} {kept['versions'][name]}" for name in libraries)]]
    missed = []
    for data, title in DATA.items():
        for d, dtype in enumerate(("float32", "float64")):
            for n_samples in sorted(int(n) for n in kept[measure].get(data, {})):
                values = kept[measure][data][str(n_samples)]
                form = ".1e" if measure == "errors" else ".2g"
                rows.append(
                    [title, f"{n_samples:,}", dtype]
                    + [f"{values[name][d]:{form}}" if name in values else "-" for name in libraries]
                )
                if "backprop" in values and values["backprop"][d] > goal(measure, data, n_samples, dtype):
                    missed.append(f"{title}, {n_samples:,} samples, {dtype}")
    return rows, missed


def table(kept):
    """The tables in reStructuredText."""
    lines = [
        ".. Made by python benchmarks/exactness.py --samples --table docs/tables/exactness.rst; not to be edited.",
        "",
    ]
    missed = []
    for measure, title in MEASURES.items():
        if not kept.get(measure):
            continue
        rows, beyond = rows_of(kept, measure)
        missed += beyond if measure == "errors" else [f"condition of {what}" for what in beyond]
        lines += [
            f"{title}, of 30-100-100-1, tanh, squared error ({kept['machine']}):",
            "",
            ".. list-table::",
            "   :header-rows: 1",
            "",
        ]
        for row in rows:
            lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
        lines.append("")
    if "orders" in kept:
        lines += [orders_text(kept["orders"])[0], ""]
    condition_goals = "; of conditions in float32 64, from 100,000 samples on 4" if kept.get("conditions") else ""
    lines += [
        "The goals, for random rows: 2e-7 in float32 and 1e-15 in float64, from 100,000 samples on 5e-8 and 3e-16"
        f"{condition_goals}; for repeated rows in float32 3e-7. Missed: {'; '.join(missed) or 'none'}.",
        "",
        "Each line by ``python benchmarks/exactness.py --samples N``. This library takes all samples in one call; the "
        f"others get parts of {PART:,} rows, whose gradients are added in the network's dtype.",
    ]
    return "\n".join(lines) + "\n"


def short(all_data):
    """Measure little and keep nothing; 1 if this library misses a goal, or if docs/ has another table than is kept."""
    module = {"PyTorch": "torch", "JAX": "jax"}
    libraries = [name for name in LIBRARIES if importlib.util.find_spec(module.get(name, "numpy"))]
    absent = [name for name in LIBRARIES if name not in libraries]
    if absent:
        print(f"without {' and '.join(absent)}, which are not installed")
    kept = {"versions": {name: version(LIBRARIES[name][0]) for name in libraries}, "machine": "this one"}
    for data in all_data:
        n_samples = {"random": 2000, "noise": 10, "repeated": 1000}[data]  # both references
        for name, values in measure(data, n_samples, libraries).items():
            kept.setdefault(name, {}).setdefault(data, {})[str(n_samples)] = values
    kept["orders"] = measure_orders(50_000, 20)
    print(table(kept))
    missed = orders_text(kept["orders"])[1]
    missed += [what for name in ("errors", "conditions") for what in rows_of(kept, name)[1]]
    required = os.environ.get("BACKPROP_REQUIRE_PEERS") == "1"
    on_page = TABLE.exists() and TABLE.read_text() == table(read_kept())
    print(f"{TABLE.name}: {'as made of exactness.json' if on_page else 'NOT as made of exactness.json: run --table'}")
    return int(bool(missed or (absent and required) or not on_page))


def main():
    """Measure, keep, and print or write the table; the exit status is 1 if the order of units changes bits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="*", default=[10, 1000, 100_000], help="numbers of samples")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--orders", type=int, default=1000, help="random orders of units (default 1,000); 0 for none")
    parser.add_argument("--table", type=Path, help="write the table of all results that are kept")
    parser.add_argument(
        "--short", action="store_true", help="10 to 2,000 samples of what is installed; nothing is kept"
    )
    options = parser.parse_args()
    if options.short:
        return short(options.data)
    if options.samples:
        backprop.show_config()
        print(
            "\n| data | samples | library | float32 | float64 | conditions | seconds (float32, float64) |\n"
            "|---|---|---|---|---|---|---|"
        )
    for data in options.data:
        for n_samples in options.samples:
            measured = measure(data, n_samples, options.libraries)
            kept = read_kept()  # only now: another run may have written meanwhile
            for name, values in measured.items():
                kept.setdefault(name, {}).setdefault(data, {}).setdefault(str(n_samples), {}).update(values)
            kept["machine"] = f"{platform.machine()}, {_core.simd}, one thread"
            kept["versions"] |= {name: version(LIBRARIES[name][0]) for name in options.libraries}
            KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    differ = []
    if options.orders:
        orders = measure_orders(200_000, options.orders)
        differ = orders_text(orders)[1]
        KEPT.write_text(json.dumps(read_kept() | {"orders": orders}, indent=1) + "\n")
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(table(read_kept()))
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
