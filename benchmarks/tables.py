"""Write the tables of figures in README.md from what the benchmarks kept with --json, so that none is typed by hand.

    python benchmarks/tables.py run.json derivatives.json training.json products.json pool.json machine.json
    python benchmarks/tables.py --page /tmp/copy.md run_v3.json run_v4.json     # two runs of one kind, one machine
    python benchmarks/tables.py --short        # made-up figures in a copy of the page, to see that it works

A file replaces what is between the markers of its kind, <!-- begin: run --> and <!-- end: run -->. The rest stays.
"""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from statistics import median

import derivatives
import machine
import machines
import plots
import products
import report
import training
import training_bits
import training_ensemble

PAGE = Path(__file__).with_name("README.md")
DTYPES = ("float32", "float64")


def markdown(rows):
    """A Markdown table; the first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def machine_line(about):
    """The machine, its caches and the libraries, in a sentence or two."""
    shown = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX", "scikit-learn": "scikit-learn"}
    versions = [
        f"{name} {about['versions'][key]}" for key, name in shown.items() if about["versions"][key] != "missing"
    ]
    text = f"{about['cpu']}, {about['cpus']} CPU{'s' * (about['cpus'] > 1)}; {machine.caches_text(about['caches'])}. "
    return text + f"{', '.join(versions)}; {about['blas']}; {about['date'][:10]}."


# One function for each kind of file -----------------------------------------------------------------------------------


def places_of(cells):
    """(threads, setting, dtype) of each column, in order."""
    counts = sorted({cell["threads"] for cell in cells})
    found = [(n, setting, dtype) for n in counts for setting in report.settings_of(cells) for dtype in DTYPES]
    return [place for place in found if cells_at(cells, place)]


def cells_at(cells, place):
    """The cells of a column."""
    threads, setting, dtype = place
    return report.of_setting(cells, setting, threads=threads, dtype=dtype)


def place_text(place):
    """The head of a column, such as "v3, peers held to AVX2, float32"."""
    threads, (simd, peers_held), dtype = place
    setting = report.setting_text({"simd": simd, "peers_held": peers_held})
    return f"{setting}, {dtype}" + f", {threads} threads" * (threads > 1)


def summary(cells, head="ours and peers"):
    """Geometric means over the peers, one row for each column of `each_case`."""
    peers = [name for name in report.LABELS if any(name in cell["ratios"] for cell in cells)]
    rows = [[head, "dtype", "best peer", "best peer, medians", *(report.LABELS[name] for name in peers)]]
    rows[0] += ["targets met", "behind a peer", "behind, medians"]
    for place in places_of(cells):
        chosen = [cell for cell in cells_at(cells, place) if cell["ratio"] is not None]
        means = [report.geometric_mean(cell[key] for cell in chosen) for key in ("least_ratio", "ratio")]
        for name in peers:
            ratios = [cell["least_ratios"][name] for cell in chosen if name in cell["least_ratios"]]
            means.append(report.geometric_mean(ratios))
        counts = [f"{sum(cell['met'] for cell in chosen)} of {len(chosen)}"]
        counts += [str(sum(cell[key] <= 1 for cell in chosen)) for key in ("least_ratio", "ratio")]
        setting, _, _ = place_text(place).rpartition(f", {place[2]}")
        rows.append([setting + f", {place[0]} threads" * (place[0] > 1), place[2], *map(report.ratio, means), *counts])
    return markdown(rows)


def each_case(cells, heads, names, share):
    """Least time, ratio by least times and by medians, and the share of the limit, one row for each case."""
    places = places_of(cells)
    columns = [{cell["case"]: cell for cell in cells_at(cells, place)} for place in places]
    rows = [[*heads, *map(place_text, places)]]
    for case in dict.fromkeys(cell["case"] for cell in cells):
        rows.append([*names(case)])
        for column in columns:
            cell = column.get(case)
            if cell is None:
                rows[-1].append("-")
                continue
            text = f"{report.number(1e6 * cell['least']['ours'])} us"
            if cell["ratio"] is not None:
                text += f", {report.ratio(cell['least_ratio'])} x ({report.ratio(cell['ratio'])})"
            if cell[share] is not None:
                text += f", {report.number(cell[share], 2)} %"
            rows[-1].append(text + "*" * (cell["met"] is False))
    return markdown(rows)


def uses(results):
    """What the peers use in each setting."""
    lines = []
    for setting in results["settings"]:
        found = "; ".join(f"{name}: {text}" for name, text in setting["uses"].items() if text != "missing")
        lines.append(f"- {report.setting_text(setting)}: {found}")
    return "\n".join(dict.fromkeys(lines))


def run_block(results):
    """Loss and gradient of all parameters."""
    cells = results["cells"]
    table = each_case(cells, ["network"], lambda case: [case], "of_peak_least")
    return "\n\n".join([uses(results), summary(cells), table])


def derivatives_block(results):
    """All other derivatives, but for those of `input_derivatives_block`."""
    cells = results["cells"]
    table = each_case(cells, ["call", "network"], derivatives.names, "of_limit_least")
    return "\n\n".join([uses(results), summary(cells), table])


def input_derivatives_block(results):
    """Second derivatives by the inputs, with the seconds of the first calls of the libraries that compile."""
    cells = results["cells"]
    table = each_case(cells, ["call, by the inputs", "network"], derivatives.names, "of_limit_least")
    parts = [uses(results), summary(cells, "ours and peers, by the inputs"), table]
    return "\n\n".join([*parts, markdown(derivatives.compile_rows(cells))])


def training_block(results):
    """Fits by epoch and to a given loss, and their bits."""
    cells = results["cells"]
    places = places_of(cells)
    columns = [{cell["case"]: cell for cell in cells_at(cells, place)} for place in places]
    rows = [["fit", *map(place_text, places)]]
    for case in dict.fromkeys(cell["case"] for cell in cells):
        rows.append([case, *(training.page_text(column[case]) if case in column else "-" for column in columns)])
    parts = [uses(results), summary(cells), markdown(rows)]
    if "sha256" in results:
        parts.append(f"One SHA-256 of the parameters after a fit: {training_bits.WAYS}.")
        parts.append("\n".join(f"- {name}: {sha}" for name, sha in results["sha256"].items()))
    if "ensemble" in results:
        parts.append("\n".join(line.strip() for line in training_ensemble.lines(results["ensemble"])))
    return "\n\n".join(parts)


def products_block(results):
    """The products by width, float32 / float64, one table for each number of rows; then the activations."""
    found = {(entry["simd"], entry["rows"], entry["dtype"]): entry for entry in results["products"]}
    kinds = list(dict.fromkeys(simd for simd, _, _ in found))
    parts = []
    for n_rows in dict.fromkeys(rows for _, rows, _ in found):
        layers = {key: {(x["n_in"], x["n_out"]): x["shares"] for x in found[key]["layers"]} for key in found}
        shapes = list(dict.fromkeys(shape for key in layers if key[1] == n_rows for shape in layers[key]))
        names = ["forward", "hidden sum", "weight gradient"]
        rows = [[f"n, {n_rows} rows", *(f"{name}, {simd}" for simd in kinds for name in names)]]
        for shape in shapes:
            rows.append([str(shape[0]) if shape[0] == shape[1] else f"{shape[0]}-{shape[1]}"])
            for simd in kinds:
                shares = [layers.get((simd, n_rows, dtype), {}).get(shape) for dtype in DTYPES]
                rows[-1] += [" / ".join(_share(share, name, shape) for share in shares) for name in names]
        parts.append(markdown(rows))
    columns = [(entry["simd"], entry["dtype"]) for entry in results["activations"]]
    rows = [["ns per element: g, then g and g'", *(f"{simd}, {dtype}" for simd, dtype in columns)]]
    for name in dict.fromkeys(name for entry in results["activations"] for name in entry["nanoseconds"]):
        times = [entry["nanoseconds"].get(name) for entry in results["activations"]]
        rows.append([name, *("-" if pair is None else f"{pair[0]:.2f}, {pair[1]:.2f}" for pair in times)])
    return "\n\n".join([*parts, markdown(rows)])


def _share(shares, name, shape):
    return "-" if shares is None else f"{shares[name]:.0f}" + "*" * (shares[name] < products.target(*shape))


def pool_block(results):
    """Two threads over one."""
    kinds = list(results["scaling"])
    rows = [["network", *(f"{simd}: {what}" for simd in kinds for what in ("us", "least, median, most", "bound"))]]
    for name in results["scaling"][kinds[0]]:
        rows.append([name])
        for simd in kinds:
            entry = results["scaling"][simd].get(name)
            ratios = [entry["ratios"][0], median(entry["ratios"]), entry["ratios"][-1]]
            rows[-1] += [report.number(1e6 * entry["seconds"]), ", ".join(f"{ratio:.2f}" for ratio in ratios)]
            rows[-1].append(f"{entry['bound']:.2f}")
    return markdown(rows)


def machine_block(results):
    """The peak by vector width, and the bandwidth by working set."""
    peaks = [f"float{8 * size} {gflops:.0f} ({bits}-bit vectors)" for bits, size, gflops in results["peak"]]
    counts = list(results["bandwidth"][0]["rates"])
    directions = ("read", "write")
    heads = [f"{way}, {n} thread{'s' * (n != '1')}" for way in directions for n in counts]
    rows = [["GB/s, working set of each thread", *heads]]
    for size in dict.fromkeys(row["megabytes"] for row in results["bandwidth"]):
        rates = {row["direction"]: row["rates"] for row in results["bandwidth"] if row["megabytes"] == size}
        rows.append([f"{size:g} MB", *(f"{rates[way][n]:.1f}" for way in directions for n in counts)])
    return f"FMA peak of one thread, GFLOP/s: {', '.join(peaks)}.\n\n{markdown(rows)}"


def machines_block(results):
    """Fingerprints, scaling, the reduction, parts and blocks, and the model; without MPI no ranks and no model."""
    parts = ["SHA-256 of loss and gradient, the same in every way:"]
    parts.append("\n".join(f"- {line}" for line in machines.fingerprint_lines(results["sha256"])))
    if "scaling" in results:
        parts += [f"Ranks by {results['reduction']['library']}.", markdown(machines.scaling_rows(results["scaling"]))]
        parts.append(markdown(machines.reduction_rows(results["reduction"])))
    parts.append(markdown(machines.parts_rows(results["parts"])))
    if "model" in results:
        parts.append(f"**{machines.model_lines(results['model'])}**")
        for dtype, facts in results["model"]["dtypes"].items():
            rows = machines.model_rows(facts)
            rows[0][0] = f"ranks, {dtype}, model"
            parts.append(markdown(rows))
    return "\n\n".join(parts)


BLOCKS = {
    "machine": machine_block,
    "run": run_block,
    "derivatives": derivatives_block,
    "input_derivatives": input_derivatives_block,
    "products": products_block,
    "pool": pool_block,
    "machines": machines_block,
    "training": training_block,
}


# The page -------------------------------------------------------------------------------------------------------------


IDENTITY = ("case", "dtype", "threads", "simd", "peers_held", "rows")  # of a cell; the last file that has it counts


def merged(files):
    """The results by kind. Cells of two files of a kind are joined; they must come from one machine."""
    found = {}
    for path, results in files:
        kind = results.get("kind")
        if kind not in BLOCKS:
            raise SystemExit(f"{path}: expected what another benchmark wrote with --json, one of {', '.join(BLOCKS)}")
        first = found.setdefault(kind, results)
        if first is results:
            continue
        if any(first["machine"][name] != results["machine"][name] for name in ("cpu", "caches")):
            raise SystemExit(f"{path}: expected a file of the machine of the other file of this kind")
        for name in {"cells", "settings", "products", "activations"} & set(results):
            joined = {tuple(map(entry.get, IDENTITY)): entry for entry in first[name] + results[name]}
            first[name] = list(joined.values())
        if kind == "pool":
            first["scaling"] |= results["scaling"]
    return by_family(found)


def by_family(found):
    """The same with the second derivatives by the inputs in a block of their own; one without cells is left out."""
    results = found.pop("derivatives", None)
    if results is not None:
        for kind, wanted in (("derivatives", False), ("input_derivatives", True)):
            cells = [cell for cell in results["cells"] if derivatives.is_second_by_input(cell) is wanted]
            if cells:
                found[kind] = results | {"cells": cells}
    return found


def write(page, found):
    """Replace the blocks of the kinds that were found."""
    text = page.read_text(encoding="utf-8")
    for kind, results in found.items():
        pattern = rf"(<!-- begin: {kind} -->\n).*?(<!-- end: {kind} -->)"
        block = f"\n{machine_line(results['machine'])}\n\n{BLOCKS[kind](results)}\n\n"
        text, n = re.subn(pattern, lambda match, block=block: match[1] + block + match[2], text, flags=re.DOTALL)
        if n != 1:
            raise SystemExit(f"{page}: expected one pair of the markers begin: {kind} and end: {kind}, found {n}")
    page.write_text(text, encoding="utf-8")


def made_up():
    """Invented results of each kind."""
    about = machine.describe()
    settings = [{"simd": "v3", "peers_held": True, "uses": {"NumPy": "X86_V3"}}]
    both = {"machine": about, "settings": settings}
    cells = []
    for case in (derivatives.CASES[0], derivatives.CASES[-1]):
        cell = {"case": case.name, "dtype": "float32", "threads": 1, "peak": 100.0, "peak_best": 110.0}
        seconds = {"ours": 1e-4, "jax": 2e-4, "fill": 1e-5}
        cell |= {"simd": "v3", "peers_held": True, "seconds": seconds, "least": dict(seconds)}
        cells.append(derivatives.complete(cell | {"ratios": {"jax": 2.0, "fill": 0.1}, "first": {"jax": 1.5}}))
    shares = dict.fromkeys(("forward", "hidden sum", "weight gradient"), 80.0)
    layers = [{"n_in": n, "n_out": n, "shares": shares} for n in (16, 128)]
    rates = [{"megabytes": 1, "direction": way, "rates": {"1": 50.0, "2": 90.0}} for way in ("read", "write")]
    entry = {"simd": "v3", "dtype": "float32"}
    return {
        "machine": {"machine": about, "peak": [[256, 4, 100.0]], "bandwidth": rates},
        "run": both | {"cells": plots.made_up()},
        "derivatives": both | {"cells": cells},
        "products": {
            "machine": about,
            "products": [entry | {"rows": 128, "layers": layers}],
            "activations": [entry | {"nanoseconds": {"tanh": [0.5, 0.6]}}],
        },
        "pool": {
            "machine": about,
            "scaling": {"v3": {"1-1@1": {"ratios": [1.0, 1.1], "seconds": 1e-6, "bound": 2.0}}},
        },
        "machines": {"machine": about, **machines.made_up()},
        "training": both | training.made_up(),
    }


def main():
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="*", help="what the other benchmarks wrote with --json")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page (default benchmarks/README.md)")
    parser.add_argument("--short", action="store_true", help="made-up figures in a copy of the page; nothing is kept")
    options = parser.parse_args()
    if options.short:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "README.md")
            copy.write_text(options.page.read_text(encoding="utf-8"), encoding="utf-8")
            found = by_family(made_up())
            write(copy, found)
            print(copy.read_text(encoding="utf-8").partition("## Last figures")[2])
        return 0
    if not options.results:
        parser.error("expected files that the benchmarks wrote with --json")
    write(options.page, merged([(path, json.loads(Path(path).read_text())) for path in options.results]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
