"""The documentation names things that exist: code, tests and calls; and the examples of the docstrings run.

Pytest collects the examples of the pages from docs/ itself.
"""

import doctest
import importlib
import inspect
import itertools
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
excerpts, offline = importlib.import_module("excerpts"), importlib.import_module("offline")
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
    # Those of scikit-learn's kind, without an import of scikit-learn; `backprop.sklearn.__all__` has no others.
    return [*names, "MLPClassifier", "MLPRegressor"]


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_page_names_is_there(target):
    assert excerpts.find(target).text


def test_an_excerpt_is_the_whole_definition_and_nothing_else():
    found = excerpts.find("g_prime_product_loops")
    lines = found.text.splitlines()
    assert lines[0].startswith("cdef int g_prime_product_loops(")
    assert lines[-1] == "    return 0"
    assert excerpts.read(found.path)[found.first - 1] == lines[0]
    test = excerpts.find("test_docs.py::test_what_a_page_names_is_there").text.splitlines()
    assert test[0].startswith("@pytest.mark.parametrize")
    assert test[-1] == "    assert excerpts.find(target).text"


@pytest.mark.parametrize(
    "target",
    [
        "no_such_function",
        "kernels::no_such_function",
        "no_such_file.pyx::hidden_sum",
        "no_such_file.pyx",
        "sum",  # a part of names
        "__init__.py",  # several
        "README.md",  # several
        "test_docs.py::target",  # an argument
    ],
)
def test_what_is_gone_or_there_twice_is_an_error(target):
    with pytest.raises(excerpts.NotFoundError, match=re.escape(target)):
        excerpts.find(target)


def test_a_declaration_is_no_definition(tmp_path, monkeypatch):
    package = tmp_path / excerpts.PACKAGE / "room"
    package.mkdir(parents=True)
    (package / "part.pxd").write_text("cdef int once(int n,\n              int m) noexcept nogil\n")
    body = "cdef int once(int n,  # IN: a comment\n              int m) noexcept nogil:  # OUT\n    return 0\n\n\n"
    (package / "part.pxi").write_text(body)
    monkeypatch.setattr(excerpts, "ROOT", tmp_path)
    excerpts.files.cache_clear()
    try:
        assert excerpts.find("once").path == f"{excerpts.PACKAGE}room/part.pxi"
        assert excerpts.find("room::once").text.endswith("return 0")
        assert excerpts.find("part.pxd").first == 1
    finally:
        monkeypatch.undo()
        excerpts.files.cache_clear()


@pytest.mark.parametrize(
    "text",
    [
        '<script async="async" src="https://a.org/x.js"></script>',
        '<link rel="stylesheet" href="//a.org/x.css" />',
        "<img alt='x' src='http://a.org/x.png'>",
        '<svg><image xlink:href="https://a.org/x.png"/></svg>',
        "p { background: url( 'https://a.org/x.png' ) }",
        '@import "https://a.org/x.css";',
    ],
)
def test_what_a_page_loads_from_a_network_is_seen(text, tmp_path):
    (tmp_path / "page.html").write_text(f"<p>{text}</p>")
    (found,) = offline.loads(tmp_path, ["page.html"])
    assert found.startswith("page.html loads ")
    assert "a.org/x" in found


def test_links_load_nothing():
    text = (
        '<a href="https://a.org/x">x</a> <link rel="canonical" href="https://a.org/" /> <script src="x.js"></script>'
        '<math xmlns="http://www.w3.org/1998/Math/MathML"></math> <img src="_images/x.svg"> url(x.png)'
    )
    assert offline.addresses(text) == []


def test_every_equation_has_its_code():
    text = (DOCS / "equations.rst").read_text(encoding="utf-8").split("The other derivatives\n")[0]
    _, *equations = re.split(r"^   :label: ", text, flags=re.MULTILINE)
    assert len(equations) == 8
    for equation in equations:
        paths = {excerpts.find(target).path for target in excerpts.targets_of(equation)}
        assert any("/kernels/" not in path for path in paths), equation.splitlines()[0]


ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_the_architecture_names_what_is_there():
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.p[xy]*"))
    for name in re.findall(r"`([\w./]+)`", ARCHITECTURE):
        if "/" in name or name.endswith((".py", ".pyx", ".pxi", ".pxd", ".c", ".h")):
            assert (ROOT / name).exists() or (SOURCE / name).exists(), name
        else:
            assert re.search(rf"\b{name.split('.')[-1]}\b", code), name


def test_the_picture_shows_every_folder():
    picture = (DOCS / "_static" / "architecture.svg").read_text(encoding="utf-8")
    folders = {path.parent.name for path in SOURCE.glob("*/*") if path.suffix in {".py", ".pxd", ".pxi", ".c"}}
    titles = "\n".join(re.findall(r'class="title".*', picture))
    assert set(re.findall(r"(\w+)/", titles.replace("</text>", ""))) == folders


def test_the_way_of_x_is_as_the_architecture_says():
    """Each function stands in its file, and names the next one; a function of a tile is called by its pointer."""
    way = []
    for line in ARCHITECTURE.split("## The way of x down")[1].split("\n\n")[2].splitlines()[2:]:
        file, *functions = re.findall(r"`([\w/.]+)`", line)
        way += [(file, function) for function in functions if function.islower() and "/" not in function]
    assert len(way) > 12
    for (file, function), (_, callee) in itertools.pairwise(way):
        text = (SOURCE / file).read_text(encoding="utf-8")
        head = rf"^ *(?:cdef|def)\b[^\n]*\b{function}\("
        bodies = re.findall(rf"{head}(?:.*\n)+?(?=\S|    def |    @|\Z)", text, re.MULTILINE)
        names = rf"\b(?:{callee}|mode\.tile)\b" if callee.endswith("_of_tile") else rf"\b{callee}\b"
        assert any(re.search(names, body.split("(", 1)[1]) for body in bodies), f"{file}: {function} calls no {callee}"


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
