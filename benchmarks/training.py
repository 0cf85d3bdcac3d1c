"""Whole fits: backprop beside scikit-learn, PyTorch, JAX with optax, SciPy and NumPy, by epoch and to a given loss.

    python benchmarks/training.py --quick
    python benchmarks/training.py --short         # a few small fits of everything, to see that it works: seconds
    python benchmarks/training.py --json training.json
    python benchmarks/training.py --check         # the exit status is 1 too if a target is missed

It is `run.py --training`, and takes the options of run.py. Before a cell is timed, the losses of all libraries must be
equal to rounding, with the same parameters at the start and the same orders of rows. README.md in this folder says what
each column means.
"""

import sys

import peers
import report
import training_bits
import training_ensemble
from training_cases import CASES, LBFGS_PART, OWN_PART, by_name

PEERS = ("numpy", "torch", "compile", "optax", "sklearn", "scipy")
TITLE = "fits"
QUICK = [case for case in CASES if case.solver != "sgd" and not case.network.name.startswith("784")]
SHORT = ("adam 4-16-16-2@32", "sgd 4-16-16-2@32", "lbfgs 4-16-16-2@256", "lm 4-16-16-2@256")
PARTS = ("epochs", "frozen", "gradients")  # of our fits, timed beside them


def complete(cell):
    """Add to a cell of a worker what follows from it: best peer, ratios, what our fit is made of, and the verdict.

    "own" is the part of the steps in % of the epochs without steps, "around" the microseconds an epoch that the Python
    of `Network.fit` takes, and "of_gradients" the fit's time over that of its gradients; all by least times.
    """
    case = by_name(cell["case"])
    of_part = {name: cell["least"].pop(name, None) for name in PARTS}
    for name in PARTS:
        cell["seconds"].pop(name, None)
        cell["ratios"].pop(name, None)
    ours = cell["least"]["ours"]
    cell["parts"] = of_part
    cell["own"] = cell["around"] = cell["of_gradients"] = None
    if of_part["epochs"]:
        cell["own"] = 100 * (of_part["epochs"] / of_part["frozen"] - 1)
        cell["around"] = 1e6 * (ours - of_part["epochs"]) / cell["iterations"]["ours"]
    if of_part["gradients"]:
        cell["of_gradients"] = ours / of_part["gradients"]
    report.compare(cell)
    cell["missed"] = _missed(cell, case)
    cell["met"] = None if cell["ratio"] is None else not cell["missed"]
    return cell


def _missed(cell, case):
    """The targets that are missed, by least times."""
    missed = []
    of_sklearn = cell["least_ratios"].get("sklearn")
    if cell["least_ratio"] is not None and cell["least_ratio"] <= 1:
        missed.append("behind")
    if case.of_sklearn is not None and of_sklearn is not None and of_sklearn < case.of_sklearn:
        missed.append("sklearn")
    if case.solver == "adam" and case.goal is None and cell["own"] > OWN_PART:
        missed.append("own")
    if cell["of_gradients"] is not None and cell["of_gradients"] > LBFGS_PART:
        missed.append("gradients")
    return missed


def section(cells, peer_names):
    """The tables of one dtype and thread count, and a line about them."""
    parts = []
    for title, is_chosen, table in (
        ("us an epoch", lambda case: case.goal is None, epoch_rows),
        ("us a fit to a loss", lambda case: case.goal is not None, goal_rows),
    ):
        chosen = [cell for cell in cells if is_chosen(by_name(cell["case"]))]
        if chosen:
            parts.append(f"{title}\n{report.aligned(table(chosen, peer_names), left=1)}")
    return "\n".join([*parts, report.means(cells, peer_names)])


def _shown(cells, peer_names):
    return [name for name in peer_names if any(name in cell["seconds"] or name in cell["errors"] for cell in cells)]


def _mark(cell, what):
    return "*" * (what in cell["missed"])


def epoch_rows(cells, peer_names):
    """One row for each case, below a head: microseconds an epoch by medians, ratios, and parts of our fit."""
    shown = _shown(cells, peer_names)
    rows = [["case", "steps", "ours", *(report.LABELS[name] for name in shown)]]
    rows[0] += ["x best", "x least", "x sklearn", "own %", "around"]
    for cell in cells:
        case, n = by_name(cell["case"]), cell["iterations"]["ours"]
        times = [_time(cell, name, n) for name in ("ours", *shown)]
        ratios = [report.ratio(cell["ratio"]), report.ratio(cell["least_ratio"]) + _mark(cell, "behind")]
        ratios.append(report.ratio(cell["least_ratios"].get("sklearn")) + _mark(cell, "sklearn"))
        parts = [f"{cell['own']:.0f}" + _mark(cell, "own"), f"{cell['around']:.1f}"]
        rows.append([case.name, str(case.n_batches), *times, *ratios, *parts])
    return rows


def goal_rows(cells, peer_names):
    """One row for each case, below a head: microseconds of a fit by medians, with its iterations or epochs."""
    shown = _shown(cells, peer_names)
    rows = [["case", "ours", *(report.LABELS[name] for name in shown), "x best", "x least", "x gradients"]]
    for cell in cells:
        times = [_time(cell, name, 1) for name in ("ours", *shown)]
        for k, name in enumerate(("ours", *shown)):
            if name in cell["iterations"]:
                times[k] += f" ({cell['iterations'][name]})"
        ratios = [report.ratio(cell["ratio"]), report.ratio(cell["least_ratio"]) + _mark(cell, "behind")]
        of_gradients = report.ratio(cell["of_gradients"]) + _mark(cell, "gradients")
        rows.append([cell["case"], *times, *ratios, of_gradients])
    return rows


def page_text(cell):
    """A cell of the page, by least times: us an epoch or a fit, ratios, and what our fit is made of."""
    per = cell["iterations"]["ours"] if cell["own"] is not None and by_name(cell["case"]).goal is None else 1
    text = f"{report.number(1e6 * cell['least']['ours'] / per)} us"
    if cell["ratio"] is not None:
        best = report.LABELS[cell["least_best_peer"]]
        text += f", {report.ratio(cell['least_ratio'])} x {best} ({report.ratio(cell['ratio'])})"
    if "sklearn" in cell["least_ratios"] and cell["least_best_peer"] != "sklearn":
        text += f", {report.ratio(cell['least_ratios']['sklearn'])} x sklearn"
    if per > 1:
        text += f", own {cell['own']:.0f} %"
    if cell["of_gradients"] is not None:
        text += f", {report.ratio(cell['of_gradients'])} x its gradients"
    return text + "*" * (cell["met"] is False)


def made_up():
    """Invented results for `tables.py --short`."""
    cells = []
    for case in CASES[:1] + CASES[-2:]:
        seconds = {"ours": 1e-3, "optax": 2e-3, "sklearn": 5e-2, "epochs": 9e-4, "frozen": 8e-4}
        if not case.in_epochs:
            seconds = {"ours": 1e-3, "scipy": 2e-3, "gradients": 9e-4}
        ratios = {name: value / 1e-3 for name, value in seconds.items() if name != "ours"}
        cell = {"case": case.name, "dtype": "float32", "threads": 1, "simd": "v3", "peers_held": True, "errors": {}}
        cell |= {"seconds": seconds, "least": dict(seconds), "ratios": ratios, "iterations": dict.fromkeys(seconds, 25)}
        cells.append(complete(cell))
    return {"cells": cells, "sha256": {"float32 adam": 64 * "0"}}


def _time(cell, name, n):
    """Microseconds of the n-th part of a fit."""
    seconds = cell["seconds"].get(name)
    return "ERROR" if name in cell["errors"] else report.number(None if seconds is None else 1e6 * seconds / n)


def measure_more(options):
    """The bits of fits in all ways, and many small fits: for JSON, lines, and whether anything is wrong."""
    found, lines, wrong = {}, [], False
    try:
        found["sha256"] = training_bits.compare()
        lines += ["\nOne SHA-256 of the parameters of a fit: " + training_bits.WAYS]
        lines += [f"  {name}: {sha}" for name, sha in found["sha256"].items()]
    except (training_bits.DifferentBitsError, RuntimeError) as error:
        lines.append(f"ERROR {error}")
        wrong = True
    if "sklearn" in options.peers and peers.missing("sklearn") is None:
        try:
            found["ensemble"] = training_ensemble.measure(options.short)
            found["met"] = found["ensemble"]["met"]
            lines += ["", *training_ensemble.lines(found["ensemble"])]
        except RuntimeError as error:
            lines.append(f"ERROR {training_ensemble.TITLE}: {error}")
            wrong = True
    return found, "\n".join(lines), wrong


if __name__ == "__main__":
    import run

    sys.exit(run.main(["--training", *sys.argv[1:]]))
