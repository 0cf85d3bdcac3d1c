"""From the timings to a text table: ratios, rates, targets and geometric means."""

from math import exp, log

from cases import select
from machine import caches_text

LABELS = {
    "numpy": "NumPy",
    "torch": "PyTorch",
    "compile": "torch.compile",
    "jax": "JAX",
    "sklearn": "sklearn",
    "mlpfile": "mlpfile",
    "func": "torch.func",
    "jax_map": "JAX map",
    "hand_torch": "PyTorch by hand",
    "hand_jax": "JAX by hand",
    "optax": "JAX, optax",
    "scipy": "SciPy",
    "func_jvp": "torch.func jvp",
    "func_compile": "torch.compile",
    "deepxde": "DeepXDE way, PyTorch",
    "jax_columns": "JAX columns",
    "jax_jvp": "JAX jvp",
    "jax_jet": "JAX jet",
    "jax_layers": "JAX by layers",
    "folx": "folx",
    "deepxde_jax": "DeepXDE way, JAX",
}
AHEAD = 2.0  # times the best peer: the target is met then, whatever the share of the peak
OF_PEAK, OF_PEAK_SMOOTH = 85.0, 70.0  # per cent; the target is met then, if no peer is faster; both by least times


def complete(cell):
    """Add to a cell of a worker what follows from it: best peer, ratios, GFLOP/s, shares of the peak, the verdict."""
    (case,) = select([cell["case"]])
    cell["flops"], cell["smooth"] = case.flops, case.smooth
    cell["gflops"] = 1e-9 * case.flops / cell["seconds"]["ours"]
    cell["of_peak"] = cell["of_peak_least"] = None
    if cell["peak"] is not None:
        cell["of_peak"] = 100 * cell["gflops"] / cell["peak"]
        cell["of_peak_least"] = 100e-9 * case.flops / cell["least"]["ours"] / cell["peak_best"]
    compare(cell)
    cell["met"] = None
    if cell["ratio"] is not None:
        wanted = OF_PEAK_SMOOTH if case.smooth else OF_PEAK
        near_peak = cell["of_peak_least"] is not None and cell["of_peak_least"] >= wanted
        cell["met"] = cell["least_ratio"] >= AHEAD or (cell["least_ratio"] > 1 and near_peak)
    return cell


def compare(cell, but=()):
    """Add the ratios to the best peer, by medians and by least times, without the peers in `but`.

    A ratio by medians is the median over rounds of the ratio of the two times of a round, which the worker has formed.
    """
    ours, peers = cell["least"]["ours"], cell["ratios"]
    cell["least_ratios"] = {name: cell["least"][name] / ours for name in peers}
    for which, ratios in (("", peers), ("least_", cell["least_ratios"])):
        chosen = {name: value for name, value in ratios.items() if name not in but}
        best = min(chosen, key=chosen.get) if chosen else None
        cell[f"{which}best_peer"], cell[f"{which}ratio"] = best, chosen.get(best)


def setting_text(entry):
    """The instruction set of ours, and whether the peers are held to AVX2."""
    return f"{entry['simd']}, peers {'held to AVX2' if entry['peers_held'] else 'free'}"


def settings_of(entries):
    """The settings of cells or limits, in their order: (simd, peers_held)."""
    return list(dict.fromkeys((entry["simd"], entry["peers_held"]) for entry in entries))


def number(value, digits=3):
    """The number with three digits and commas between thousands; a dash for None."""
    if value is None:
        return "-"
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{max(0, digits - len(str(int(value))))}f}"


def ratio(value):
    """The ratio with two decimals below 100; a dash for None."""
    return "-" if value is None else f"{value:.2f}" if value < 100 else number(value)


def header(machine, limits, settings=()):
    """Lines about the machine, its limits, and what the peers use in each setting."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = " ".join(f"{value:.2f}" for value in machine["load"])
    lines = [
        f"CPU       {machine['cpu']}, {machine['cpus']} CPUs usable; the best instruction set is {machine['simd']}",
        f"Caches    {caches_text(machine['caches'])}",
        f"Versions  Python {machine['python']}, {versions}",
        f"BLAS      {machine['blas']}",
        f"System    {machine['system']}, {machine['date']}, load average at start {load}",
    ]
    if max(machine["load"][:1]) > 0.5:
        lines.append("          The machine was not idle: timings are noisy.")
    for limit in limits:
        rates = []
        for bits, itemsize, gflops in limit["peak"]:
            width = f" {bits}-bit" if bits else ""
            rates.append(f"float{8 * itemsize}{width} {gflops:.0f}")
        peak = ", ".join(rates) if rates else "not measured (no C compiler)"
        place = f"{limit['simd']}, {limit['threads']} thread{'s' * (limit['threads'] > 1)}, {limit['when']}"
        lines.append(f"Limits    {place}: FMA peak GFLOP/s {peak}; write {limit['bandwidth']:.1f} GB/s")
    for setting in settings:
        uses = "; ".join(f"{name} uses {text}" for name, text in setting["uses"].items() if text != "missing")
        if uses:
            lines.append(f"Peers     {setting_text(setting)}: {uses}")
    return "\n".join(lines)


def table(cells, peer_names):
    """Rows of one dtype and thread count, as text."""
    shown = [name for name in peer_names if any(name in cell["seconds"] or name in cell["errors"] for cell in cells)]
    head = ["case", "activation", "loss", "ours us", *(f"{LABELS[name]} us" for name in shown)]
    head += ["x best", "x least", "GFLOP/s", "% peak", "% least", ""]
    rows = [head]
    for cell in cells:
        (case,) = select([cell["case"]])
        times = []
        for name in shown:
            seconds = cell["seconds"].get(name)
            times.append("ERROR" if name in cell["errors"] else number(None if seconds is None else 1e6 * seconds))
        mark = "" if cell["met"] is not False else "*"
        rows.append(
            [
                case.name,
                case.activation if len(case.sizes) > 2 else "none",
                "CE" if case.loss == "cross_entropy" else "squared",
                number(1e6 * cell["seconds"]["ours"]),
                *times,
                ratio(cell["ratio"]),
                ratio(cell["least_ratio"]),
                number(cell["gflops"]),
                number(cell["of_peak"], 2),
                number(cell["of_peak_least"], 2),
                mark,
            ]
        )
    return aligned(rows, left=3)


def aligned(rows, left):
    """Rows of text below a head, in aligned columns; the first `left` ones are aligned to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        parts = [text.ljust(width) for text, width in zip(row[:left], widths[:left], strict=True)]
        parts += [text.rjust(width) for text, width in zip(row[left:], widths[left:], strict=True)]
        lines.append("  ".join(parts).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths).rstrip())
    return "\n".join(lines)


def geometric_mean(values):
    """The n-th root of the product of n values; None if there are none."""
    values = list(values)
    return exp(sum(map(log, values)) / len(values)) if values else None


def means(cells, peer_names):
    """Geometric means of the ratios to the best peer and to each, and which cells miss the targets or are behind."""
    lines = []
    for what, key in (("least times", "least_ratio"), ("medians", "ratio")):
        best = geometric_mean(cell[key] for cell in cells if cell[key] is not None)
        if best is None:
            return f"{len(cells)} cells"
        each = []
        for name in peer_names:
            mean = geometric_mean(cell[f"{key}s"][name] for cell in cells if name in cell["ratios"])
            if mean is not None:
                each.append(f"{LABELS[name]} {mean:.2f}")
        behind = ", ".join(cell["case"] for cell in cells if cell[key] is not None and cell[key] <= 1) or "none"
        text = f"Geometric means over {len(cells)} cells by {what}: {best:.2f} x the best peer"
        lines.append(f"{text}; by peer: {', '.join(each)}. Behind a peer: {behind}.")
    missed = [cell["case"] for cell in cells if cell["met"] is False]
    return "\n".join([*lines, f"Targets missed (*), by least times: {len(missed)} of {len(cells)}."])


def problems(cells, failures):
    """Lines about errors and cases that were left out, and whether there was an error."""
    lines, wrong = [], False
    for cell in cells:
        place = f"{cell['case']} {cell['dtype']}, {cell['threads']} thread{'s' * (cell['threads'] > 1)}, {cell['simd']}"
        for name, text in cell["errors"].items():
            lines.append(f"ERROR {place}: {LABELS[name]}: {text}")
            wrong = True
        for name, text in cell["notes"].items():
            if "GB" in text:
                lines.append(f"note  {place}: {LABELS[name]}: {text}")
    for text in failures:
        lines.append(f"ERROR {text}")
        wrong = True
    return lines, wrong


def whole(about, cells, peer_names, title="loss and gradient of all parameters", section=None):
    """The report, and whether it has an error.

    `about` has "machine", "limits", "settings", "notes" and "failures". `section` makes the text of one dtype, number
    of threads and setting.
    """
    section = section or (lambda chosen, names: f"{table(chosen, names)}\n{means(chosen, names)}")
    parts = [header(about["machine"], about["limits"], about["settings"])]
    parts += [f"Note      {note}" for note in about["notes"]]
    settings = settings_of(cells)
    for threads in sorted({cell["threads"] for cell in cells}):
        for setting in settings:
            for dtype in ("float32", "float64"):
                chosen = of_setting(cells, setting, dtype=dtype, threads=threads)
                if chosen:
                    place = f"{dtype}, {threads} thread{'s' * (threads > 1)}, {setting_text(chosen[0])}"
                    parts.append(f"\n{place}: {title}\n{section(chosen, peer_names)}")
    peaks = [(cell["dtype"], cell["threads"], cell["simd"], cell["peak_range"]) for cell in cells if cell["peak_range"]]
    for dtype, threads, simd in sorted({entry[:3] for entry in peaks}):
        ranges = [entry[3] for entry in peaks if entry[:3] == (dtype, threads, simd)]
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        place = f"{dtype}, {threads} thread{'s' * (threads > 1)}, {simd}"
        parts.append(f"FMA peak during the run, {place}: {low:.0f} to {high:.0f} GFLOP/s")
    lines, wrong = problems(cells, about["failures"])
    if lines:
        parts += ["", *lines]
    return "\n".join(parts), wrong


def of_setting(cells, setting, **values):
    """The cells of a setting whose fields have these values."""
    return [
        cell
        for cell in cells
        if (cell["simd"], cell["peers_held"]) == setting
        if all(cell[name] == value for name, value in values.items())
    ]
