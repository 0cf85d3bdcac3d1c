"""The documentation names what is there: code, tests and calls; and the examples of the docstrings run.

The examples of the pages are collected by pytest from docs/ itself.
"""

import doctest
import importlib
import inspect
import pkgutil
import re
import sys

import pytest
from places import ROOT

import backprop

DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "backprop"
PAGES = sorted(DOCS.rglob("*.rst"))

sys.path.insert(0, str(DOCS / "_ext"))
excerpts = importlib.import_module("excerpts")
sys.path.remove(str(DOCS / "_ext"))

TARGETS = sorted({target for page in PAGES for target in excerpts.targets_of(page.read_text(encoding="utf-8"))})


def calls():
    """Every public name of the package, and every public method of its classes that are called."""
    names = [name for name in backprop.__all__ if name != "__version__"]
    for kind in (backprop.Network, backprop.Objective, backprop.Ensemble):
        names += [
            f"{kind.__name__}.{name}"
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        ]
    return names


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_page_names_is_there(target):
    if "::" in target:
        assert excerpts.find(target).text
    else:
        assert excerpts.read(target)


def test_an_excerpt_is_the_whole_definition_and_nothing_else():
    found = excerpts.find("src/backprop/_core.pyx::g_prime_product_loops")
    lines = found.text.splitlines()
    assert lines[0].startswith("cdef int g_prime_product_loops(")
    assert lines[-1] == "    return 0"
    assert excerpts.read(found.path)[found.first - 1] == lines[0]
    test = excerpts.find("tests/docs/test_docs.py::test_what_a_page_names_is_there").text.splitlines()
    assert test[0].startswith("@pytest.mark.parametrize")
    assert test[-1] == "        assert excerpts.read(target)"


@pytest.mark.parametrize(
    "target",
    [
        "src/backprop/_core.pyx::no_such_function",
        "src/backprop/no_such_file.pyx::hidden_sum",
        "src/backprop/_core.pyx::sum",  # a part of names
        "tests/docs/test_docs.py::target",  # an argument
    ],
)
def test_what_is_gone_is_an_error(target):
    with pytest.raises(excerpts.NotFoundError, match=re.escape(target.split("::")[0])):
        excerpts.find(target)


def test_every_equation_has_its_code():
    text = (DOCS / "equations.rst").read_text(encoding="utf-8").split("To see the numbers")[0]
    _, *equations = re.split(r"^   :label: ", text, flags=re.MULTILINE)
    assert len(equations) == 8
    for equation in equations:
        found = [re.search(r"/_core(_tiles)?\.p[yx][xi]::", target) for target in excerpts.targets_of(equation)]
        assert any(found), equation.splitlines()[0]


def test_the_architecture_names_what_is_there():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    picture = (DOCS / "_static" / "architecture.svg").read_text(encoding="utf-8")
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.glob("*.p[xy]*"))
    for name in re.findall(r"`([\w./]+)`", text) + re.findall(r"\b\w+\.(?:py[xi]?|pxi|c|h)\b", picture):
        if "/" in name or name.endswith((".py", ".pyx", ".pxi", ".pxd", ".c", ".h")):
            found = [ROOT / name, *SOURCE.rglob(f"*{name.strip('/')}")]  # the picture shortens the second of two files
            assert any(path.exists() for path in found), name
        else:
            assert re.search(rf"\b{name.split('.')[-1]}\b", code), name


def test_each_of_the_fifteen_checks_names_what_holds_it():
    text = (DOCS / "tables" / "checks.rst").read_text(encoding="utf-8")
    _, _, *rows = re.split(r"^   \* - ", text, flags=re.MULTILINE)
    assert [row.split()[0] for row in rows] == [str(n) for n in range(1, 16)]
    for row in rows:
        assert excerpts.targets_of(row), row


def test_every_command_of_a_page_is_there():
    """The script, and its options."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    commands = re.findall(r"``python\s+((?:tools|benchmarks|tests)/\S+?\.py)([^`]*)``", text)
    assert len(commands) > 5
    for script, arguments in commands:
        lines = "\n".join(excerpts.read(script))
        for option in re.findall(r"--[a-z0-9-]+", arguments):
            assert f'"{option}"' in lines, (script, option)


@pytest.mark.parametrize("name", calls())
def test_every_call_has_a_page_with_an_example(name):
    page = (DOCS / "reference" / f"{name}.rst").read_text(encoding="utf-8")
    assert re.search(rf"^\.\. auto(class|method|function):: {re.escape(name)}$", page, re.MULTILINE)
    assert ">>> " in page
    assert f"   {name}\n" in (DOCS / "reference" / "index.rst").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [module.name for module in pkgutil.walk_packages(backprop.__path__, "backprop.")])
def test_examples_of_docstrings(name):
    if name.startswith("backprop._kernels_"):
        pytest.skip("has no Python functions, and may be of another CPU")
    assert doctest.testmod(importlib.import_module(name)).failed == 0
