"""The plots of the benchmarks page, drawn at each build from the tables of benchmarks/README.md.

So a figure is in one place, and a plot cannot show other numbers than the text. A table that is not found as it is
expected ends the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from excerpts import read
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

SOURCE = "benchmarks/README.md"
FOLDER = "_generated"  # beside the pages; not in the repository
COLOURS = {"float32": "#1f5a92", "float64": "#d9722b"}

Table = list[dict[str, str]]


def tables(lines: list[str]) -> list[Table]:
    """Every Markdown table, a row as {column: cell}."""
    found: list[Table] = []
    header: list[str] | None = None
    for line in lines:
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = cells
            found.append([])
        elif not set(line) <= set("|-: "):
            found[-1].append(dict(zip(header, cells, strict=True)))
    return found


def table_with(*columns: str) -> Table:
    """The one table that begins with these columns."""
    found = [table for table in tables(read(SOURCE)) if table and list(table[0])[: len(columns)] == list(columns)]
    if len(found) != 1:
        raise ExtensionError(f"{SOURCE}: expected one table with the columns {columns}, found {len(found)}")
    return found[0]


def number(text: str, pattern: str = r"(.*)") -> float:
    """The number that the pattern's group finds in a cell."""
    match = re.search(pattern, text)
    if match is None:
        raise ExtensionError(f"{SOURCE}: expected {pattern!r} in the cell {text!r}")
    return float(match.group(1).replace(",", ""))


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, list(figure.subplots(1, columns, sharey=True, squeeze=False)[0])


def _times_axis(axes: Any, label: str) -> None:
    """A logarithmic axis of ratios with lines at 1 and 2."""
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.axvline(2, color="black", linewidth=1, linestyle="--")
    low, high = axes.get_xlim()
    axes.set_xticks([x for x in (0.5, 1, 2, 5, 10, 20, 50, 100) if low <= x <= high])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def draw_peers(path: Path) -> None:
    """Geometric means of the peers' times over ours."""
    table = table_with("dtype", "geometric mean over the best peer")
    peers = ["NumPy", "PyTorch", "JAX", "scikit-learn"]
    figure, (axes,) = _figure(7, 2.8)
    for k, row in enumerate(table):
        ratios = [number(row[column]) for column in ("geometric mean over the best peer", *peers)]
        places = [i + (k - 0.5) * 0.38 for i in range(len(ratios))]
        axes.barh(places, ratios, 0.36, color=COLOURS[row["dtype"]], label=row["dtype"])
        for place, ratio in zip(places, ratios, strict=True):
            axes.annotate(f"{ratio:.2f}", (ratio, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(5), ["the best of them, case by case", *peers])
    axes.invert_yaxis()
    axes.set_xlim(0, 5.6)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("its time over ours, geometric mean over the networks")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path)


def draw_products(path: Path) -> None:
    """The share of the peak of each product by layer width."""
    table = table_with("n", "forward")
    products = {"forward": "o", "hidden sum": "s", "weight gradient": "^"}
    figure, panels = _figure(8, 3, 2)
    for k, (axes, dtype) in enumerate(zip(panels, COLOURS, strict=True)):
        for name, marker in products.items():
            shares = [float(row[name].split("/")[k]) for row in table]
            axes.plot([number(row["n"]) for row in table], shares, marker=marker, markersize=4, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks([number(row["n"]) for row in table], [row["n"] for row in table], fontsize=8)
        axes.minorticks_off()
        axes.set_title(dtype, fontsize=10)
        axes.set_xlabel("width n of a layer n to n")
        axes.grid(alpha=0.25)
    panels[0].set_ylim(0, 105)
    panels[0].set_ylabel("% of the FMA peak")
    panels[0].legend(loc="lower right", fontsize=8)
    figure.savefig(path)


def draw_derivatives(path: Path) -> None:
    """Each other derivative against the best peer."""
    table = table_with("call", "network")
    figure, (axes,) = _figure(8, 1.2 + 0.27 * len(table))
    for k, dtype in enumerate(COLOURS):
        ratios = [number(row[dtype], r"([\d.,]+) x") for row in table]
        places = [i + (k - 0.5) * 0.4 for i in range(len(table))]
        axes.barh(places, [ratio - 1 for ratio in ratios], 0.38, left=1, color=COLOURS[dtype], label=dtype)
        for place, ratio in zip(places, ratios, strict=True):
            axes.annotate(
                f"{ratio:g}", (max(ratio, 1), place), (3, 0), textcoords="offset points", va="center", fontsize=6
            )
    axes.set_yticks(range(len(table)), [f"{row['call']}  {row['network']}" for row in table], fontsize=7)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0.8, 150)
    _times_axis(axes, "times faster than the best peer (logarithmic); the dashed line is 2")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path)


DRAWINGS = {"peers.svg": draw_peers, "products.svg": draw_products, "derivatives.svg": draw_derivatives}


def _draw_all(app: Sphinx) -> None:
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        draw(folder / name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Draw before the pages are read."""
    app.connect("builder-inited", _draw_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
