"""Comments and docstrings of the package name files and functions that are there."""

import re

from places import ROOT

PACKAGE = ROOT / "src" / "backprop"
WRITTEN_BY_CYTHON = {"_core.c", "_kernels.c"}
SOURCES = sorted(
    path
    for path in PACKAGE.rglob("*")
    if path.suffix in {".py", ".pyx", ".pxi", ".pxd", ".h", ".c"} and path.name not in WRITTEN_BY_CYTHON
)
IN_FOLDERS = ("src", "tests", "tools", "benchmarks", "docs", "examples")
PLACES = {
    "/" + path.relative_to(ROOT).as_posix()
    for folder in IN_FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.is_file()
} | {f"/{path.name}" for path in ROOT.iterdir() if path.is_file()}

FILE = re.compile(r"(?<![\w.<])(?:(?:\w+/)*\w+\.(?:py|pyx|pxi|pxd|toml)|(?:\w+/)+\w+\.[ch])(?![\w.])")
NAME = re.compile(r"(?<!`)`(\w+)`(?!`)")  # `hidden_sum`, but not ``code``


def text_of(path):
    return path.read_text(encoding="utf-8")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def test_files_that_the_sources_name_are_there():
    gone = [
        f"{name_of(path)}: {name}"
        for path in [*SOURCES, ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md"]
        for line in text_of(path).splitlines()
        if "#include <" not in line
        for name in FILE.findall(line)
        if not any(place.endswith(f"/{name}") for place in PLACES)
    ]
    assert gone == []


def test_names_that_the_compiled_sources_quote_are_there():
    compiled = [path for path in SOURCES if path.suffix != ".py"]
    code = "\n".join(NAME.sub("", text_of(path)) for path in SOURCES)
    words = set(re.findall(r"\w+", code))
    gone = [
        f"{name_of(path)}: `{name}`"
        for path in compiled
        for name in NAME.findall(text_of(path))
        if name not in words and not (name.startswith("_") and name in code)  # `_first`: names that end so
    ]
    assert gone == []
