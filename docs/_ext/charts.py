"""The charts, drawn at each build from the figures that are kept: benchmarks/README.md and benchmarks/exactness.json.

    .. chart:: peers
       :alt: what a reader who cannot see it should hear

       The caption.

So a figure is in one place, and a chart cannot show other numbers than the text. A table that is not found as it is
expected ends the build. Each chart is drawn twice, for light and for dark pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from excerpts import find_file, read
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

SOURCE = "benchmarks/README.md"
FOLDER = "_generated"  # beside the pages; not in the repository
# Ink is for text and axes, the others for dtypes and, with two more, for lines.
THEMES = {
    "light": {"ink": "#222222", "float32": "#1f5a92", "float64": "#d9722b", "third": "#3a8a4d", "fourth": "#8a5aa8"},
    "dark": {"ink": "#dddddd", "float32": "#6aaae4", "float64": "#ee9a5a", "third": "#7cc98f", "fourth": "#c39ade"},
}
DTYPES = ("float32", "float64")

Colours = dict[str, str]
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
    """The one table with these columns."""
    found = [table for table in tables(read(SOURCE)) if table and set(columns) <= set(table[0])]
    if len(found) != 1:
        raise ExtensionError(f"{SOURCE}: expected one table with the columns {columns}, found {len(found)}")
    return found[0]


def number(text: str, pattern: str = r"(.*)") -> float:
    """The number that the pattern's group finds in a cell."""
    match = re.search(pattern, text)
    if match is None:
        raise ExtensionError(f"{SOURCE}: expected {pattern!r} in the cell {text!r}")
    return float(match.group(1).replace(",", ""))


def _figure(width: float, height: float, columns: int = 1, sharey: bool = True, rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure and its panels, row by row."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat)


def _times_axis(axes: Any, label: str, colours: Colours) -> None:
    """A logarithmic axis of ratios with a line at 1."""
    axes.set_xscale("log")
    axes.axvline(1, color=colours["ink"], linewidth=1)
    low, high = axes.get_xlim()
    axes.set_xticks([x for x in (0.5, 1, 2, 5, 10, 20, 50, 100) if low <= x <= high])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def draw_peers(colours: Colours) -> Any:
    """Geometric means of the peers' times over ours, a panel for each instruction set."""
    table = [row for row in table_with("ours and peers", "best peer", "NumPy", "JAX") if row["dtype"] in DTYPES]
    names = {"NumPy": "NumPy", "PyTorch": "PyTorch", "JAX": "JAX", "sklearn": "scikit-learn"}
    peers = [name for name in names if name in table[0]]  # those of the run that is kept
    settings = [name for name in dict.fromkeys(row["ours and peers"] for row in table) if "threads" not in name]
    figure, panels = _figure(4 + 3 * len(settings), 2.8, len(settings))
    for axes, setting in zip(panels, settings, strict=True):
        for row in (row for row in table if row["ours and peers"] == setting):
            k = DTYPES.index(row["dtype"])
            ratios = [0.0 if row[column] == "-" else number(row[column]) for column in ("best peer", *peers)]
            places = [i + (k - 0.5) * 0.38 for i in range(len(ratios))]
            axes.barh(places, ratios, 0.36, color=colours[row["dtype"]], label=row["dtype"])
            for place, ratio in zip(places, ratios, strict=True):
                text = f"{ratio:.2f}" if ratio else ""
                axes.annotate(text, (ratio, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
        labels = ["the fastest of them, case by case", *(names[name] for name in peers)]
        axes.set_yticks(range(len(labels)), labels)
        axes.set_title(setting, fontsize=10)
        axes.axvline(1, color=colours["ink"], linewidth=1)
        axes.set_xlim(0, 1.12 * axes.get_xlim()[1])
        axes.set_xlabel("time as a multiple of backprop's (geometric mean)")
    panels[0].invert_yaxis()  # all share one axis
    panels[0].legend(loc="lower right", fontsize=8)
    return figure


def draw_products(colours: Colours) -> Any:
    """The share of the peak of each product by layer width, a row of panels for each instruction set."""
    table = table_with("n, 128 rows")
    products = {"forward": ("o", "float32"), "hidden sum": ("s", "float64"), "weight gradient": ("^", "third")}
    kinds = [name.partition(", ")[2] for name in table[0] if name.startswith("forward")]
    figure, panels = _figure(8, 2.8 * len(kinds), 2, rows=len(kinds))
    for i, axes in enumerate(panels):
        simd, k = kinds[i // 2], i % 2
        for name, (marker, colour) in products.items():
            cells = [row[f"{name}, {simd}"].split(" / ")[k] for row in table]
            found = [(number(row["n, 128 rows"]), cell) for row, cell in zip(table, cells, strict=True) if cell != "-"]
            points = [(n, number(cell, r"(\d+)")) for n, cell in found]
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, color=colours[colour], label=name)
        axes.set_xscale("log", base=2)
        widths = [row["n, 128 rows"] for row in table]
        axes.set_xticks([number(width) for width in widths], widths, fontsize=8, rotation=60)
        axes.minorticks_off()
        axes.set_title(f"{simd}, {DTYPES[k]}", fontsize=10)
        axes.set_xlabel("width n of a layer n to n")
        axes.set_ylim(0, 110)
        axes.grid(alpha=0.25)
    for axes in panels[::2]:
        axes.set_ylabel("% of the FMA peak")
    panels[0].legend(loc="lower right", fontsize=8)
    return figure


def draw_derivatives(colours: Colours) -> Any:
    """Each other derivative against the best peer, a panel for each instruction set."""
    table = table_with("call", "network")
    settings = list(dict.fromkeys(name.rpartition(", ")[0] for name in table[0] if name.endswith(DTYPES)))
    figure, panels = _figure(3 + 4 * len(settings), 1.2 + 0.27 * len(table), len(settings))
    for axes, setting in zip(panels, settings, strict=True):
        for k, dtype in enumerate(DTYPES):
            cells = [row.get(f"{setting}, {dtype}", "-") for row in table]
            points = [(i, number(cell, r"([\d.,]+) x")) for i, cell in enumerate(cells) if " x" in cell]
            places = [i + (k - 0.5) * 0.4 for i, _ in points]
            axes.barh(places, [ratio - 1 for _, ratio in points], 0.38, left=1, color=colours[dtype], label=dtype)
            for place, (_, ratio) in zip(places, points, strict=True):
                axes.annotate(
                    f"{ratio:g}", (max(ratio, 1), place), (3, 0), textcoords="offset points", va="center", fontsize=7
                )
        axes.set_yticks(range(len(table)), [f"{row['call']}  {row['network']}" for row in table], fontsize=8)
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.set_xlim(0.8, 150)
        axes.set_title(setting, fontsize=10)
        _times_axis(axes, "times as fast as the fastest other library (logarithmic)", colours)
    panels[0].legend(loc="lower right", fontsize=8)
    return figure


def draw_exactness(colours: Colours) -> Any:
    """The error of the gradient of each library by the number of samples, for random rows."""
    kept = json.loads(find_file("exactness.json").text)
    errors = kept["errors"]["random"]
    counts = sorted(errors, key=int)
    lines = {"backprop": "float32", "NumPy by hand": "third", "PyTorch": "float64", "JAX": "fourth"}
    figure, panels = _figure(8, 3.4, 2, sharey=False)
    for k, (axes, dtype) in enumerate(zip(panels, DTYPES, strict=True)):
        for library, colour in lines.items():
            points = [(int(n), errors[n][library][k]) for n in counts if library in errors[n]]
            axes.plot(
                *zip(*points, strict=True),
                color=colours[colour],
                linewidth=2.5 if library == "backprop" else 1.5,
                marker="o" if library == "backprop" else "s",
                markersize=4,
                label="NumPy, hand-written" if library == "NumPy by hand" else library,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(dtype, fontsize=10)
        axes.set_xlabel("samples")
        axes.grid(alpha=0.25)
        axes.minorticks_off()
    panels[0].set_ylabel("relative error of the gradient")
    panels[0].legend(loc="upper left", fontsize=8)
    return figure


CHARTS: dict[str, Callable[[Colours], Any]] = {
    "peers": draw_peers,
    "products": draw_products,
    "derivatives": draw_derivatives,
    "exactness": draw_exactness,
}


def _draw_all(app: Sphinx) -> None:
    import matplotlib as mpl

    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    for theme, colours in THEMES.items():
        names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
        with mpl.rc_context({**dict.fromkeys(names, colours["ink"]), "axes.facecolor": "none"}):
            for name, draw in CHARTS.items():
                draw(colours).savefig(folder / f"{name}-{theme}.svg", transparent=True)


class Chart(SphinxDirective):
    """A chart with its caption, in the colours of the page."""

    required_arguments = 1
    has_content = True
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Make the figure."""
        name = self.arguments[0]
        if name not in CHARTS:
            raise ExtensionError(f"chart {name}: expected one of {', '.join(CHARTS)}")
        images = nodes.container()  # of their own: the theme hides a caption beside an image of the other theme
        for theme in THEMES:
            uri = f"/{FOLDER}/{name}-{theme}.svg"
            images += nodes.image("", uri=uri, alt=self.options["alt"], classes=[f"only-{theme}"])
        caption, messages = self.parse_inline(" ".join(self.content), lineno=self.lineno)
        return [nodes.figure("", images, nodes.caption("", "", *caption), align="default"), *messages]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, and draw before the pages are read."""
    app.add_directive("chart", Chart)
    app.connect("builder-inited", _draw_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
