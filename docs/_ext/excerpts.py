"""Find a definition by its name in Python, Cython or C, so that the pages show the code as it is.

Without Sphinx, so that tests can use it. A name that is not there, or there twice, is an error: an excerpt cannot go
stale in silence.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = {".py": "python", ".pyx": "cython", ".pxi": "cython", ".pxd": "cython", ".c": "c", ".md": "markdown"}


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


def find(target: str) -> Excerpt:
    """The definition that ``path::name`` names; for Python the name may be ``Class.method``."""
    path, _, name = target.partition("::")
    lines = read(path)
    spans = _python_spans(lines, name) if path.endswith(".py") else _cython_spans(lines, name)
    if len(spans) != 1:
        raise NotFoundError(f"{path}: expected one definition of {name!r}, found {len(spans)}")
    first, end = spans[0]
    return Excerpt(path, first + 1, "\n".join(lines[first:end]))


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
    """The same for definitions that start a line: they end before the next line that does."""
    header = re.compile(rf"^(?:cdef|cpdef|def)\s[^=#(]*\b{re.escape(name)}\s*[(:]")
    spans = []
    for first, line in enumerate(lines):
        if header.match(line):
            end = first + 1
            while end < len(lines) and (not lines[end].strip() or lines[end][0] == " "):
                end += 1
            while not lines[end - 1].strip():
                end -= 1
            spans.append((first, end))
    return spans


def targets_of(page: str) -> list[str]:
    """What a page takes from the source or links to there: the targets of its excerpts, sources and tests."""
    excerpts = re.findall(r"^\.\. excerpt:: (\S+)$", page, re.MULTILINE)
    sources = re.findall(r":source:`(.+?)`", page)
    return [*excerpts, *sources, *map(test_target, re.findall(r":test:`(.+?)`", page))]


def test_target(target: str) -> str:
    """The path of a test that a page calls by its file's name alone: ``test_pool.py::test_name``."""
    name, *test = target.split("::")
    found = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").rglob(name))]
    if len(found) != 1:
        raise NotFoundError(f"{name}: expected one file of that name in tests/, found {len(found)}")
    return "::".join([*found, *test])
