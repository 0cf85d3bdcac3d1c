"""The tables of activations, losses and other libraries' names, made from the tables that the code itself uses."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from backprop.activations import ACTIVATIONS
from backprop.api import other_names as _other_names
from backprop.losses import LOSSES


def _spec(row: Any) -> str:
    """What a user writes."""
    return f'``"{row.name}"``' if row.parameter_name is None else f'``("{row.name}", {row.default:g})``'


def _activations() -> list[tuple[str, ...]]:
    rows = [("name", "g(a)", "g'(a)", "g''(a)", "g'''(a)")]
    for row in ACTIVATIONS.values():
        formulas = row.formula, row.formula_prime, row.formula_second, row.formula_third
        rows.append((_spec(row), *(f"``{formula}``" for formula in formulas)))
    return rows


def _losses() -> list[tuple[str, ...]]:
    rows = [("name", "l, with d = y_hat - y", "y may be", "acts on", "``forward`` gives")]
    for row in LOSSES.values():
        where = ("a_L", f"{row.link or 'identity'}(a_L)") if row.acts_on_a else ("y_hat", "y_hat")
        rows.append((_spec(row), f"``{row.formula}``", row.domain, *(f"``{text}``" for text in where)))
    return rows


def _names(kind: list[_other_names.Row]) -> list[tuple[str, ...]]:
    rows = [("backprop", *_other_names.LIBRARIES, "note")]
    for row in kind:
        names = (", ".join(f"``{name}``" for name in text.split()) for text in row.theirs)
        rows.append((f'``"{row.ours}"``', *names, row.note))
    return rows


def _arguments() -> list[tuple[str, ...]]:
    rows = [("of", "backprop", "elsewhere")]
    for call, arguments in _other_names.ARGUMENTS.items():
        for ours, theirs in arguments.items():
            rows.append((f"``{call}``", f"``{ours}``", ", ".join(f"``{name}``" for name in theirs.split())))
    return rows


TABLES = {
    "activations": _activations,
    "losses": _losses,
    "names-of-activations": lambda: _names(_other_names.ACTIVATIONS),
    "names-of-losses": lambda: _names(_other_names.LOSSES),
    "names-of-solvers": lambda: _names(_other_names.SOLVERS),
    "names-of-arguments": _arguments,
}


class Table(SphinxDirective):
    """``.. code-table:: NAME``, with a name from TABLES."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the list-table and parse it."""
        rows = TABLES[self.arguments[0]]()
        lines = [".. list-table::", "   :header-rows: 1", ""]
        for row in rows:
            lines += [f"   {'* -' if k == 0 else '  -'} {cell}" for k, cell in enumerate(row)]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("code-table", Table)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
