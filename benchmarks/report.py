"""From the timings to a text table: ratios, rates, targets and geometric means."""

from math import exp, log

from cases import select

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
}
AHEAD = 2.0  # times the best peer: the target is met then, whatever the share of the peak
OF_PEAK, OF_PEAK_SMOOTH = 85.0, 70.0  # per cent; the target is met then, if no peer is faster


def complete(cell):
    """Add to a cell of a worker what follows from it: best peer, ratio, GFLOP/s, % of the peak, and the verdict."""
    (case,) = select([cell["case"]])
    cell["flops"], cell["smooth"] = case.flops, case.smooth
    cell["gflops"] = 1e-9 * case.flops / cell["seconds"]["ours"]
    cell["of_peak"] = None if cell["peak"] is None else 100 * cell["gflops"] / cell["peak"]
    ratios = cell["ratios"]
    cell["best_peer"] = min(ratios, key=ratios.get) if ratios else None
    cell["ratio"] = ratios[cell["best_peer"]] if ratios else None
    if cell["ratio"] is None:
        cell["met"] = None
    else:
        wanted = OF_PEAK_SMOOTH if case.smooth else OF_PEAK
        near_peak = cell["of_peak"] is not None and cell["of_peak"] >= wanted
        cell["met"] = cell["ratio"] >= AHEAD or (cell["ratio"] > 1 and near_peak)
    return cell


def number(value, digits=3):
    """The number with three digits and commas between thousands; a dash for None."""
    if value is None:
        return "-"
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{max(0, digits - len(str(int(value))))}f}"


def header(machine, limits):
    """Lines about the machine and its limits."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = " ".join(f"{value:.2f}" for value in machine["load"])
    lines = [
        f"CPU       {machine['cpu']}, {machine['cpus']} CPUs usable; backprop uses {machine['simd']}",
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
        place = f"{limit['threads']} thread{'s' * (limit['threads'] > 1)}, {limit['when']}"
        lines.append(f"Limits    {place}: FMA peak GFLOP/s {peak}; write {limit['bandwidth']:.1f} GB/s")
    return "\n".join(lines)


def table(cells, peer_names):
    """Rows of one dtype and thread count, as text."""
    shown = [name for name in peer_names if any(name in cell["seconds"] or name in cell["errors"] for cell in cells)]
    head = ["case", "activation", "loss", "ours us", *(f"{LABELS[name]} us" for name in shown)]
    head += ["x best", "GFLOP/s", "% peak", ""]
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
                "-" if cell["ratio"] is None else f"{cell['ratio']:.2f}",
                number(cell["gflops"]),
                number(cell["of_peak"], 2),
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
    """One line: geometric means of the ratios to the best peer and to each, and how many cells miss the targets."""
    best = geometric_mean(cell["ratio"] for cell in cells if cell["ratio"] is not None)
    if best is None:
        return f"{len(cells)} cells"
    each = []
    for name in peer_names:
        mean = geometric_mean(cell["ratios"][name] for cell in cells if name in cell["ratios"])
        if mean is not None:
            each.append(f"{LABELS[name]} {mean:.2f}")
    behind = [cell["case"] for cell in cells if cell["ratio"] is not None and cell["ratio"] <= 1]
    missed = [cell["case"] for cell in cells if cell["met"] is False]
    text = f"Geometric means over {len(cells)} cells: {best:.2f} x the best peer; by peer: {', '.join(each)}.\n"
    text += f"Targets missed (*): {len(missed)} of {len(cells)}."
    return text + (f" Behind a peer: {', '.join(behind)}." if behind else " Behind a peer: none.")


def problems(cells, failures):
    """Lines about errors and cases that were left out, and whether there was an error."""
    lines, wrong = [], False
    for cell in cells:
        place = f"{cell['case']} {cell['dtype']}, {cell['threads']} thread{'s' * (cell['threads'] > 1)}"
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


def whole(
    machine, limits, cells, peer_names, notes, failures, title="loss and gradient of all parameters", section=None
):
    """The report, and whether it has an error; `section` makes the text of one dtype and number of threads."""
    section = section or (lambda chosen, names: f"{table(chosen, names)}\n{means(chosen, names)}")
    parts = [header(machine, limits)]
    parts += [f"Note      {note}" for note in notes]
    for threads in sorted({cell["threads"] for cell in cells}):
        for dtype in ("float32", "float64"):
            chosen = [cell for cell in cells if cell["threads"] == threads and cell["dtype"] == dtype]
            if chosen:
                place = f"{dtype}, {threads} thread{'s' * (threads > 1)}"
                parts.append(f"\n{place}: {title}\n{section(chosen, peer_names)}")
    peaks = [(cell["dtype"], cell["threads"], cell["peak_range"]) for cell in cells if cell["peak_range"]]
    for dtype, threads in sorted({entry[:2] for entry in peaks}):
        ranges = [entry[2] for entry in peaks if entry[:2] == (dtype, threads)]
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        parts.append(
            f"FMA peak during the run, {dtype}, {threads} thread{'s' * (threads > 1)}: {low:.0f} to {high:.0f} GFLOP/s"
        )
    lines, wrong = problems(cells, failures)
    if lines:
        parts += ["", *lines]
    return "\n".join(parts), wrong
