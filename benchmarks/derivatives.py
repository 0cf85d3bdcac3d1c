"""Every other derivative: backprop beside torch.func, PyTorch and JAX, and beside the limit of the machine.

    python benchmarks/derivatives.py --quick
    python benchmarks/derivatives.py --short      # two small cases, to see that everything works: seconds
    python benchmarks/derivatives.py --json derivatives.json

It is `run.py --derivatives`, and takes the options of run.py. README.md in this folder says what each column means.
"""

import sys
from statistics import median

import derivative_cases
import input_derivative_cases
import input_derivative_peers
import memory
import numpy as np
import report
from input_derivative_cases import InputCase

CASES = [*derivative_cases.CASES, *input_derivative_cases.CASES]
QUICK = [*derivative_cases.QUICK, *input_derivative_cases.QUICK]
TARGETS = derivative_cases.TARGETS | input_derivative_cases.TARGETS
INPUT_PEERS = tuple(name for name in input_derivative_peers.MAKERS if name != "ours")
PEERS = tuple(dict.fromkeys(("func", "torch", "jax", "jax_map", "hand_torch", "hand_jax", *INPUT_PEERS)))
TITLE = "all other derivatives"
SHORT = ("jvp 4-16-16-1@32", "input_gradient 3-24-24-1@7", "input_hessian 2-64-64-64-1@1")
BY_HAND = ("hand_torch", "hand_jax")
OF_LIMIT = 65.0  # per cent; the target is met then, if no peer is faster; both by least times
MEMORY_MIB = 16.0  # most that norms and clipped gradients may add to the process at a million samples

MEMORY_SETUP = """
net = Network([20, 64, 64, 1], activations="tanh", dtype="{dtype}", rng=0)
x = rng.standard_normal(({n_samples}, 20)).astype(net.dtype)
y = rng.standard_normal(({n_samples}, 1)).astype(net.dtype)
"""
MEMORY_CALLS = {
    "per_sample_gradient_norms": "net.per_sample_gradient_norms(x, y, n_threads={n})",
    "clipped_gradient": "net.clipped_gradient(x, y, 0.1, n_threads={n})",
}


def by_name(name):
    """The case of this name."""
    return next(case for case in CASES if case.name == name)


def names(name):
    """Of the call and of the network, for a row of a table."""
    case = by_name(name)
    return [case.call, f"{case.k} x {case.network.name}" if case.k > 1 else case.network.name]


def is_second_by_input(cell):
    """Whether a cell is one of the second derivatives by the inputs, which have other peers."""
    return isinstance(by_name(cell["case"]), InputCase)


def complete(cell):
    """Add to a cell of a worker what follows from it: best peer, ratios, the limit, % of it, and the verdict."""
    case = by_name(cell["case"])
    for name in ("seconds", "least", "ratios"):
        cell[f"fill_{name}"] = cell[name].pop("fill")
    cell["flops"] = case.flops
    cell["bytes"] = int(np.prod(case.result_shape)) * np.dtype(cell["dtype"]).itemsize
    cell["limit"] = cell["of_limit"] = cell["of_limit_least"] = None
    if cell["peak"] is not None:
        cell["limit"] = 1e-9 * case.flops / cell["peak"] + cell["fill_seconds"]
        cell["of_limit"] = 100 * cell["limit"] / cell["seconds"]["ours"]
        least = 1e-9 * case.flops / cell["peak_best"] + cell["fill_least"]
        cell["of_limit_least"] = 100 * least / cell["least"]["ours"]
    report.compare(cell, but=BY_HAND)
    cell["by_hand"] = min((cell["ratios"][name] for name in BY_HAND if name in cell["ratios"]), default=None)
    cell["met"] = None
    if cell["ratio"] is not None:
        ahead = min(cell["least_ratios"].values()) > 1
        wanted = input_derivative_cases.OF_LIMIT if is_second_by_input(cell) else OF_LIMIT
        near_limit = cell["of_limit_least"] is not None and cell["of_limit_least"] >= wanted
        cell["met"] = ahead and (cell["least_ratio"] >= TARGETS[case.call] or near_limit)
    return cell


def section(cells, peer_names):
    """The tables of one dtype and thread count, with a line about each."""
    others = [cell for cell in cells if not is_second_by_input(cell)]
    of_inputs = [cell for cell in cells if is_second_by_input(cell)]
    parts = [_table(chosen, peer_names) for chosen in (others, of_inputs) if chosen]
    if of_inputs:
        head, *rows = compile_rows(of_inputs)
        parts.append(report.aligned([head, *rows], left=2))
    return "\n\n".join(parts)


def compile_rows(cells):
    """A head, and for each case the seconds of the first call of each library that compiles; the median over cells."""
    shown = [name for name in input_derivative_peers.COMPILED if any(name in cell["first"] for cell in cells)]
    rows = [["first call, seconds", "network", *(report.LABELS[name] for name in shown)]]
    for name in dict.fromkeys(cell["case"] for cell in cells):
        firsts = [cell["first"] for cell in cells if cell["case"] == name]
        seconds = [[first[peer] for first in firsts if peer in first] for peer in shown]
        times = [report.number(median(values), 2) if values else "-" for values in seconds]
        rows.append([*names(name), *times])
    return rows


def _table(cells, peer_names):
    shown = [name for name in peer_names if any(name in cell["seconds"] or name in cell["errors"] for cell in cells)]
    head = ["call", "network", "activation", "ours us", *(f"{report.LABELS[name]} us" for name in shown)]
    rows = [[*head, "x best", "x least", "target", "x by hand", "limit us", "% limit", "% least", ""]]
    for cell in cells:
        case = by_name(cell["case"])
        times = []
        for name in shown:
            seconds = cell["seconds"].get(name)
            times.append("ERROR" if name in cell["errors"] else _microseconds(seconds))
        rows.append(
            [
                *names(case.name),
                case.network.activation,
                _microseconds(cell["seconds"]["ours"]),
                *times,
                report.ratio(cell["ratio"]),
                report.ratio(cell["least_ratio"]),
                f"{TARGETS[case.call]:.0f}",
                report.ratio(cell["by_hand"]),
                _microseconds(cell["limit"]),
                report.number(cell["of_limit"], 2),
                report.number(cell["of_limit_least"], 2),
                "*" if cell["met"] is False else "",
            ]
        )
    return (
        f"{report.aligned(rows, left=3)}\n{report.means(cells, [name for name in peer_names if name not in BY_HAND])}"
    )


def _microseconds(seconds):
    return report.number(None if seconds is None else 1e6 * seconds)


def measure_more(options):
    """Peak resident memory that norms and the clipped gradient add: for JSON, lines, and whether anything is wrong."""
    n_samples = 20_000 if options.short else 1_000_000
    title = f"MiB of peak resident memory that a first call adds, 20-64-64-1 at {n_samples:,} samples, tanh"
    rows, lines, wrong = [], [f"\n{title}"], False
    for call, code in MEMORY_CALLS.items():
        for dtype in options.dtypes:
            for n_threads in options.threads:
                try:
                    added, _, _ = memory.measure(
                        MEMORY_SETUP.format(dtype=dtype, n_samples=n_samples), code.format(n=n_threads)
                    )
                except RuntimeError as error:
                    lines.append(f"  {call}, {dtype}: ERROR {str(error).strip().splitlines()[-1:]}")
                    wrong = True
                    continue
                rows.append({"call": call, "dtype": dtype, "threads": n_threads, "added": added})
                mark = " *" if added > MEMORY_MIB else ""
                lines.append(f"  {call}, {dtype}, {n_threads} thr.: {added:.1f} (at most {MEMORY_MIB:.0f}){mark}")
    return {"memory": rows}, "\n".join(lines), wrong


__all__ = ["CASES", "PEERS", "QUICK", "SHORT", "TITLE", "complete", "measure_more", "section"]

if __name__ == "__main__":
    import run

    sys.exit(run.main(["--derivatives", *sys.argv[1:]]))
