"""Nothing is used before its floor: src/backprop/floors.toml states the floors, and every import keeps to them.

A name that comes from below needs no circle of imports, so there is none. Module names in strings are not seen: those
in `process/old_paths.py`, and the kernels that the core chooses when it is imported.
"""

import ast
import shutil
import tomllib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "backprop"
FLOORS = tomllib.loads((SOURCE / "floors.toml").read_text(encoding="utf-8"))
PYTHON = {file: number for number, floor in enumerate(FLOORS["python"]) for file in floor["files"]}


def module_of(file):
    """The name by which a file of the package is imported."""
    name = f"backprop.{file.rpartition('.')[0].replace('/', '.')}"
    return name.removesuffix(".__init__")


MODULES = {module_of(file): file for file in PYTHON}


def imports(source):
    """The files that a file imports, wherever in it the import stands, each with the number of its line."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: expected the whole name of a module, got a relative one"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inner]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "backprop":
                yield MODULES[name], node.lineno


def from_above(folder):
    """The imports that do not go down, in words."""
    return [
        f"{file}:{line} uses {used}, which does not stand below it"
        for file, floor in PYTHON.items()
        if file.endswith(".py")
        for used, line in imports(folder / file)
        if PYTHON[used] >= floor
    ]


def test_every_file_stands_on_one_floor():
    files = [file for floor in FLOORS["python"] for file in floor["files"]]
    assert len(files) == len(set(files))
    assert all((SOURCE / file).exists() for file in files)
    there = {path.relative_to(SOURCE).as_posix(): path for path in SOURCE.rglob("*.py")}
    missing = there.keys() - set(files)
    for file in missing:  # the folders' own files, which say what is in the folder
        assert file.endswith("/__init__.py"), f"{file} stands on no floor: name it in floors.toml"
        assert len(ast.parse(there[file].read_text(encoding="utf-8")).body) == 1, f"{file}: expected a docstring alone"


def test_every_import_goes_down():
    assert from_above(SOURCE) == []


@pytest.mark.parametrize(
    "line",
    [
        "from backprop.network import Network",
        "import backprop.network",
        "from backprop import network",
        "from backprop import Network",  # the package itself stands on top
        "def later():\n    from backprop.network import Network",
        "if TYPE_CHECKING:\n    from backprop.network import Network",
        "from backprop.api import first_order",  # of the same floor
    ],
)
def test_a_name_from_above_is_found(tmp_path, line):
    shutil.copytree(SOURCE, tmp_path / "backprop", ignore=shutil.ignore_patterns("*.c", "*.so", "__pycache__"))
    changed = tmp_path / "backprop" / "api" / "second_order.py"
    changed.write_text(f"{changed.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    found = from_above(tmp_path / "backprop")
    assert len(found) == 1
    assert found[0].startswith("api/second_order.py:")


# The floors of the core: what Cython's files include and cimport ------------------------------------------------------
