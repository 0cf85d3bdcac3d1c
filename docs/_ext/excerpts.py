"""Find a file or a definition by its name in Python, Cython or C, so that the pages show the code as it is.

    hidden_sum_loops            the one definition of this name in src/backprop
    kernels::hidden_sum         the one in files with "kernels" in their path
    test_bits.py::test_name     the one in the file of this name, in whatever folder
    test_bits.py                the file

So files and functions may move without a change to the pages. A name that is not there, or there twice, is an error: an
excerpt cannot go stale in silence. This module needs no Sphinx, so that tests can use it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "src/backprop/"
FOLDERS = (PACKAGE, "tests", "tools", "benchmarks", "examples")
LANGUAGES = {
    ".py": "python",
    ".pyx": "cython",
    ".pxi": "cython",
    ".pxd": "cython",
    ".c": "c",
    ".h": "c",
    ".md": "markdown",
    ".json": "json",
}


class NotFoundError(LookupError):
    """The file or the name is not there, or the name is there more than once."""


@dataclass(frozen=True)
class Excerpt:
    """Some lines of a file.

    Attributes
    ----------
    path : str
        From the root of the repository.
    first : int
        The number of the first line, from 1.
    text : str
    """

    path: str
    first: int
    text: str

    @property
    def language(self) -> str:
        """The name by which Pygments knows the language."""
        return LANGUAGES.get(Path(self.path).suffix, "text")


def read(path: str) -> list[str]:
    """The lines of a file of the repository."""
    file = ROOT / path
    if not file.is_file():
        raise NotFoundError(f"{path}: there is no such file")
    return file.read_text(encoding="utf-8").splitlines()


@cache
def files() -> tuple[str, ...]:
    """Every source file of the repository."""
    found: Iterator[Path] = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return tuple(sorted(str(path.relative_to(ROOT)) for path in found if path.suffix in LANGUAGES and path.is_file()))


def files_named(piece: str) -> list[str]:
    """The files whose path ends with this piece, else those that have it in their path."""
    ends = [path for path in files() if f"/{path}".endswith(f"/{piece}")]
    return ends or [path for path in files() if piece in path]


def find(target: str) -> Excerpt:
    """The file or the definition that the target names; for Python the name may be ``Class.method``."""
    piece, separator, name = target.partition("::")
    if not separator and Path(piece).suffix in LANGUAGES:
        return find_file(piece)
    if not separator:
        piece, name = PACKAGE, piece
    found = []
    for path in files_named(piece):
        if LANGUAGES[Path(path).suffix] not in ("python", "cython"):
            continue
        lines = read(path)
        spans = _python_spans(lines, name) if path.endswith(".py") else _cython_spans(lines, name)
        found += [Excerpt(path, first + 1, "\n".join(lines[first:end])) for first, end in spans]
    if len(found) != 1:
        places = ", ".join(f"{excerpt.path}:{excerpt.first}" for excerpt in found) or "none"
        raise NotFoundError(f"{target}: expected one definition, found {places}")
    return found[0]


def find_file(name: str) -> Excerpt:
    """The one file whose path ends with the name."""
    found = [path for path in files_named(name) if f"/{path}".endswith(f"/{name}")]
    if len(found) != 1:
        raise NotFoundError(f"{name}: expected one file, found {', '.join(found) or 'none'}")
    return Excerpt(found[0], 1, "\n".join(read(found[0])))


def _python_spans(lines: list[str], name: str) -> list[tuple[int, int]]:
    """First line and end of each definition, by the parser; decorators included."""
    found: list[ast.AST] = [ast.parse("\n".join(lines))]
    for part in name.split("."):
        found = [
            child
            for node in found
            for child in getattr(node, "body", [])
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == part
        ]
    return [(min(d.lineno for d in [*n.decorator_list, n]) - 1, n.end_lineno) for n in found]  # type: ignore[attr-defined]


def _cython_spans(lines: list[str], name: str) -> list[tuple[int, int]]:
    """The same for definitions that start a line, not for declarations: each ends before the next line that does."""
    header = re.compile(rf"^(?:cdef|cpdef|def)\s[^=#(]*\b{re.escape(name)}\s*[(:]")
    spans = []
    for first, line in enumerate(lines):
        if header.match(line):
            end = first + 1
            while end < len(lines) and (not lines[end].strip() or lines[end][0] == " "):
                end += 1
            while not lines[end - 1].strip():
                end -= 1
            if any(part.split("#")[0].rstrip().endswith(":") for part in lines[first:end]):
                spans.append((first, end))
    return spans


def targets_of(page: str) -> list[str]:
    """What a page takes from the source or links to there: the targets of its excerpts, sources and tests."""
    return [
        *re.findall(r"^\.\. excerpt:: (\S+)$", page, re.MULTILINE),
        *re.findall(r":(?:source|test):`(.+?)`", page),
    ]
