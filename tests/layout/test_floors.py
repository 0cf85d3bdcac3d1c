"""Nothing is used before its floor: src/backprop/floors.toml states the floors, and every import keeps to them.

A name that comes from below needs no circle of imports, so there is none. Module names in strings are not seen: those
in `process/old_paths.py`, and the kernels that the core chooses when it is imported.
"""

import ast
import re
import shutil
import tomllib

import pytest
from places import ROOT

SOURCE = ROOT / "src" / "backprop"
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


# The floors of the core: what files cimport, and what included files use of one another ------------------------------

CORE = [file for floor in FLOORS["core"] for file in floor["files"]]
NAME = r"(?<![\w.])[A-Za-z_]\w*"
DEFINITIONS = (
    r"^(?:cdef|ctypedef) (?:struct|enum|class) (\w+)",
    r"^cdef class (\w+)",
    r"^(?:class|def) (\w+)",
    r"^cdef (?:inline )?[\w *.]*?(\w+)\(",  # functions
    r"^ctypedef .*?\(\*(\w+)\)",
    r"^cdef (?:const )?[\w.]+\*? (\w+)(?: =.*)? *$",  # variables of the module
    r"^(\w+) = ",
)


def code_of(path):
    """The text of a Cython file without strings and comments."""
    text = re.sub(r'"""(?:.|\n)*?"""', "", path.read_text(encoding="utf-8"))
    text = re.sub(r'b?"[^"\n]*"', "", text)
    return re.sub(r"#.*", "", text)


def defined_in(code):
    """The names that a file defines for others: functions, types, constants."""
    names = {name for pattern in DEFINITIONS for name in re.findall(pattern, code, re.MULTILINE)}
    for body in re.findall(r"^cdef enum ?\w*:\n((?: .*\n|\n)+)", code, re.MULTILINE):
        names.update(re.findall(r"(?:^|,)\s*([A-Z]\w*)", body, re.MULTILINE))
    return names


def local_to(code):
    """The names of variables and arguments, which may be those of functions elsewhere."""
    declared = re.findall(r"^ +cdef [^=\n(]*", code, re.MULTILINE)
    return {name for line in declared for name in re.findall(NAME, line)}


def used_from_above(folder):
    """The names that a file of the core uses before they are defined, in words."""
    codes = {file: code_of(folder / file) for file in CORE}
    found = []
    for number, file in enumerate(CORE):
        for module in re.findall(r"^from backprop\.([\w.]+) cimport", codes[file], re.MULTILINE):
            cimported = f"{module.replace('.', '/')}.pxd"
            if cimported not in CORE[:number] and file != "_core.pyx":  # the included files share its cimports
                found.append(f"{file} cimports {cimported}, which does not stand below it")
    included = [file for file in CORE if not file.endswith(".pxd")]
    for number, file in enumerate(included):
        names = set(re.findall(NAME, codes[file])) - defined_in(codes[file]) - local_to(codes[file])
        for above in included[number + 1 :]:
            found += [f"{file} uses {name} of {above}" for name in sorted(names & defined_in(codes[above]))]
    return found


def test_every_file_of_the_core_stands_on_one_floor():
    assert len(CORE) == len(set(CORE))
    there = {
        path.relative_to(SOURCE).as_posix() for kind in ("pyx", "pxi", "pxd") for path in SOURCE.rglob(f"*.{kind}")
    }
    kernels = {file for file in there if file.startswith("kernels/")}  # modules of their own, but for their interface
    assert there - kernels - {"__init__.pxd", "_core.pxd"} == set(CORE) - kernels


def test_files_are_included_in_the_order_of_their_floors():
    included = re.findall(r'^include "(.*)"', (SOURCE / "_core.pyx").read_text(encoding="utf-8"), re.MULTILINE)
    assert included == [file for file in CORE if file.endswith(".pxi")]


def test_the_core_uses_what_stands_below():
    assert used_from_above(SOURCE) == []


@pytest.mark.parametrize(
    "file", [file for file in CORE if file != "_core.pyx" and not file.startswith("kernels/table")]
)
def test_a_file_of_the_core_says_what_it_needs_and_gives(file):
    header = re.match(r"(?:#.*\n)+", (SOURCE / file).read_text(encoding="utf-8")).group()
    assert "Needs: " in header
    assert "Gives: " in header


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("recursion/tile.pxd", "from backprop.schedule.cuts cimport chunks_of"),
        (
            "recursion/sweeps.pxi",
            "cdef int early(Tile* tile) noexcept nogil:\n    return hvp_of_tile(tile, NULL, False)",
        ),
        ("_core.pyx", "cdef int early(const Tile* tile) noexcept nogil:\n    return loss_tangent(tile)"),
        ("schedule/sums.pxi", "cdef int early(Request* request):\n    return run_call(request, 1)"),
        ("derivatives/norms.pxi", "cdef Call early = None\nCALLS[0] = Linearization"),
    ],
)
def test_a_name_from_above_is_found_in_the_core(tmp_path, file, line):
    shutil.copytree(SOURCE, tmp_path / "backprop", ignore=shutil.ignore_patterns("*.c", "*.so", "__pycache__"))
    changed = tmp_path / "backprop" / file
    changed.write_text(f"{changed.read_text(encoding='utf-8')}\n\n{line}\n", encoding="utf-8")
    found = used_from_above(tmp_path / "backprop")
    assert len(found) == 1
    assert found[0].startswith(file)
