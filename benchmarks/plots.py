"""Draw how many times faster than the best peer this library is, case by case.

python benchmarks/plots.py results.json results.png    # draws a run that was kept with --json
python benchmarks/plots.py --short                     # draws made-up numbers, to see that it works
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import report
from cases import CASES

COLOURS = {"float32": "#1f5a92", "float64": "#d9722b"}
HEIGHT = 0.4


def draw(path, machine, cells):
    """Write the chart: one panel per number of threads, one bar per case and dtype, the cheapest case at the top.

    Parameters
    ----------
    path : str
        Its ending gives the format.
    machine : dict
        From `machine.describe`.
    cells : list of dict
        From `report.complete`; those without a peer are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    cells = [cell for cell in cells if cell["ratio"] is not None]
    work = {case.name: case.flops for case in CASES}
    names = sorted({cell["case"] for cell in cells}, key=work.get)
    place = {name: i for i, name in enumerate(names)}
    places = sorted({(cell["threads"], cell["simd"], cell["peers_held"]) for cell in cells})
    dtypes = [dtype for dtype in COLOURS if any(cell["dtype"] == dtype for cell in cells)]
    figure = Figure(figsize=(3.4 + 5.2 * len(places), 2.4 + 0.36 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    panels = figure.subplots(1, len(places), sharey=True, sharex=True, squeeze=False)[0]
    lowest, highest = min(1.0, *(c["ratio"] for c in cells)), max(2.0, *(c["ratio"] for c in cells))
    for panel, (threads, *setting) in zip(panels, places, strict=True):
        shown = report.of_setting(cells, tuple(setting), threads=threads)
        panel.set_xscale("log")
        for x, style in ((1, "-"), (2, "--")):
            panel.axvline(x, color="black", linestyle=style, linewidth=1, zorder=3)
        for cell in shown:
            shift = (dtypes.index(cell["dtype"]) - (len(dtypes) - 1) / 2) * HEIGHT
            y, ratio = place[cell["case"]] + shift, cell["ratio"]
            panel.barh(y, ratio - 1, HEIGHT, left=1, color=COLOURS[cell["dtype"]])
            rate = "" if cell["of_peak"] is None else f", {cell['of_peak']:.0f} %"
            panel.annotate(
                f"{report.number(ratio)} ({report.LABELS[cell['best_peer']]}{rate})",
                (max(ratio, 1), y),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
                zorder=4,
            )
        mean = {dtype: report.geometric_mean(c["ratio"] for c in shown if c["dtype"] == dtype) for dtype in dtypes}
        means = ", ".join(f"{dtype} {value:.2f}" for dtype, value in mean.items() if value is not None)
        threads_text = f"{threads} thread{'s' * (threads > 1)}"
        panel.set_title(f"{threads_text}, {report.setting_text(shown[0])}; geometric means: {means}", fontsize=10)
        panel.set_xlim(lowest / 1.1, highest * 2.6)  # room for the text beside the longest bar
        panel.set_xlabel("times faster than the best peer (logarithmic)")
        panel.set_xticks([x for x in (0.5, 1, 2, 5, 10, 20, 50, 100) if lowest / 1.1 <= x <= highest * 1.2])
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        panel.grid(axis="x", alpha=0.25)
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    figure.legend(
        handles=[Patch(color=COLOURS[dtype], label=dtype) for dtype in dtypes],
        loc="outside lower right",
        ncols=2,
        fontsize=9,
    )
    figure.suptitle(
        "Loss and gradient of all parameters: backprop against the best of its peers\n"
        "in brackets: which peer that is, and backprop's rate in % of the multiply-add peak of this CPU\n"
        f"{machine['cpu']}; {machine['date']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=150)


def made_up():
    """Cells of three cases, two dtypes and two numbers of threads, with invented times."""
    cells = []
    for i, case in enumerate(CASES[:3]):
        for dtype in COLOURS:
            for threads in (1, 2):
                cell = {"case": case.name, "dtype": dtype, "threads": threads, "peak": 100.0 * threads}
                cell |= {"simd": "v3", "peers_held": True, "peak_range": [90.0 * threads, 100.0 * threads]}
                cell["peak_best"] = 110.0 * threads
                cell |= {"seconds": {"ours": 1e-6 * (i + 1)}, "ratios": {"numpy": 0.8 + i, "torch": 2.0 * (i + 1)}}
                cell["least"] = {"ours": 1e-6 * (i + 1), "numpy": 1e-6 * (i + 1), "torch": 2e-6 * (i + 1)}
                cells.append(report.complete(cell))
    return cells


def main():
    """Draw; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="?", help="what run.py --json wrote")
    parser.add_argument("figure", nargs="?", help="the file of the chart; its ending gives the format")
    parser.add_argument("--short", action="store_true", help="draw made-up numbers, and keep nothing")
    options = parser.parse_args()
    if options.short:
        with tempfile.TemporaryDirectory() as folder:
            for ending in ("png", "svg"):
                path = Path(folder, f"chart.{ending}")
                draw(str(path), {"cpu": "a CPU", "simd": "v3", "date": "today"}, made_up())
                print(f"{path.name}: {path.stat().st_size} bytes")
        return 0
    if options.figure is None:
        parser.error("expected a file of results and a file for the chart")
    kept = json.loads(Path(options.results).read_text())
    draw(options.figure, kept["machine"], kept["cells"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
