"""What the source of the kernels says about itself: floors, names and errors in ulp."""

import json
import re
import tomllib

import mpmath
import numpy as np
import pytest
from kernel_functions import CONSTANTS, kernel_functions
from places import ROOT

from backprop import _core

PACKAGE = ROOT / "src" / "backprop"
KERNELS = PACKAGE / "kernels"
CIMPORT = re.compile(r"^from backprop\.kernels\.(\w+) cimport (?:\(([^)]*)\)|(.*))$", re.MULTILINE)
FUNCTION = re.compile(r"^(?:cdef|cpdef|def) [^\n=(]*?(\w+)\(", re.MULTILINE)
PARTS = {path.stem: path.read_text(encoding="utf-8") for path in KERNELS.glob("*.p*")}
LABELS = ("g", "g'", "g''", "g'''")


def code_of(text):
    """A source without strings in triple quotes, comments and lists of imports."""
    return re.sub(r'"""(?:.|\n)*?"""|#.*', "", CIMPORT.sub("", text))


def test_a_part_uses_only_parts_above_it():
    """In the order of floors.toml, which _kernels.pyx repeats with a line on each part; and it uses what it imports."""
    floors = tomllib.loads((PACKAGE / "floors.toml").read_text(encoding="utf-8"))["kernels"]
    below = [file.removeprefix("kernels/").partition(".")[0] for floor in floors for file in floor["files"]]
    assert sorted(below) == sorted(PARTS)
    listed = re.findall(r"^    (\w+) {2,}\S", PARTS["_kernels"].partition('"""')[2].partition("\nA. ")[0], re.MULTILINE)
    assert listed == below
    for part, text in PARTS.items():
        for source, many, one in CIMPORT.findall(text):
            assert below.index(source) < below.index(part), f"{part} uses {source}"
            for name in re.findall(r"\w+", many or one):
                assert re.search(rf"\b{name}\b", code_of(text)), f"{part} imports {name} and does not use it"


@pytest.mark.parametrize("part", sorted(PARTS.keys() - {"_kernels"}))
def test_a_part_says_what_it_needs_and_gives(part):
    header = re.match(r"(?:#.*\n)+", PARTS[part]).group()
    assert re.search(r"^# Needs: \S", header, re.MULTILINE)
    assert re.search(r"^# Gives: \S", header, re.MULTILINE)


def test_each_pxd_with_code_has_the_directives():
    """A .pxd does not take them from the file that imports it: without them a quotient is Python's."""
    line = (PACKAGE / "_core.pyx").read_text(encoding="utf-8").partition("\n")[0]
    directives = set(line.removeprefix("# cython: ").split(", "))
    assert "cdivision=True" in directives
    for path in [*PACKAGE.glob("*/*.pxd"), KERNELS / "_kernels.pyx"]:
        text = path.read_text(encoding="utf-8")
        if re.search(r"^cdef inline ", text, re.MULTILINE):
            first = text.partition("\n")[0].removeprefix("# cython: ")
            assert set(first.split(", ")) == directives, path.name


def test_kernels_and_core_have_no_function_name_in_common():
    """The fields of the table have the core's names; the functions behind them say what they compute."""
    core = {
        name: path.name
        for path in [PACKAGE / "_core.pyx", *PACKAGE.glob("*/*.p[xy]*")]
        if path.parent != KERNELS and path.suffix != ".py"
        for name in FUNCTION.findall(path.read_text(encoding="utf-8"))
    }
    assert {"hidden_sum", "g_prime_product"} <= set(core)
    kernels = {name: part for part, text in PARTS.items() for name in FUNCTION.findall(text)}
    assert {"product_AB", "g_of_rows", "panel_product"} <= set(kernels)
    assert not {name: (kernels[name], core[name]) for name in kernels.keys() & core.keys()}


def errors_in(text):
    """{dtype: [(label, ulp, u near a zero)]} of "g 0.855, g' 1.480 (0.21 u) in float32; ... in float64"."""
    found = {}
    for part in text.split("; "):
        entries, _, dtype = part.rpartition(" in ")
        found[dtype] = re.findall(r"(\S*?) ?(\d+\.\d{3})(?: \((\d+\.\d\d) u\))?", entries)
    return found


def measured(name, which):
    """The same from tools/numerics/ulp.json."""
    path = ROOT / "tools" / "numerics" / "ulp.json"
    if not path.is_file():
        pytest.skip("tools/ is in the repository alone")
    kept = json.loads(path.read_text(encoding="utf-8"))
    of_dtype = {}
    for dtype in ("float32", "float64"):
        entries = [kept[dtype][name][1][i] for i in which]
        labels = [LABELS[i] for i in which] if len(which) > 1 else [""]
        of_dtype[dtype] = [
            (label, f"{ulp:.3f}", f"{absolute:.2f}" if absolute else "")
            for label, (ulp, _, absolute) in zip(labels, entries, strict=True)
        ]
    return of_dtype


def statements():
    """(function, activation, text) of each line "Error in ulp" in the source."""
    orders = {"activations": (0, 1), "staged": (0, 1), "second": (2,), "third": (3,), "elementary": None}
    for part, which in orders.items():
        functions = re.split(r"\n\n\n(?=cdef )", PARTS[part])
        for function in functions:
            name = FUNCTION.findall(function)
            for activation, text in re.findall(r"^    Error in ulp(?:, (\w+))?: (.*)\.$", function, re.MULTILINE):
                yield part, name[0], activation or re.sub(r"^(g|second|third)_", "", name[0]), which, text


def test_exp_of_the_losses_keeps_to_its_stated_error():
    """With targets of 0 the poisson loss is exp(z), in float64."""
    text = (KERNELS / "elementary.h").read_text(encoding="utf-8")
    with_fma, without = re.search(r"/\* exp\(x\)\. Error in ulp: (\S+) \(v2: (\S+)\)", text).groups()
    z = np.random.default_rng(5).uniform(-740, 709, 2000)
    y, loss = np.zeros_like(z), np.empty_like(z)
    operands = z.ctypes.data, 1, None, y.ctypes.data, None, CONSTANTS["NO_WEIGHT"], None, 1.0, loss.ctypes.data, 0
    no_parameter = np.zeros(1)
    code, parameter = CONSTANTS["POISSON"], no_parameter.ctypes.data
    kernel_functions(_core.simd, "float64")["loss"](code, parameter, len(z), 1, *operands)
    bound = float(without if _core.simd in {"v2", "generic"} else with_fma)
    with mpmath.workdps(40):
        for point, value in zip(z.tolist(), loss.tolist(), strict=True):
            true = mpmath.exp(mpmath.mpf(point))
            ulp = mpmath.mpf(2) ** max(mpmath.floor(mpmath.log(true, 2)) - 52, -1074)
            assert abs(value - true) / ulp <= bound, point


def test_each_function_states_its_measured_errors():
    """A new measurement changes tools/numerics/ulp.json and the source, or this test is red."""
    stated = {"activations": set(), "staged": set(), "second": set(), "third": set()}
    for part, function, activation, which, text in statements():
        if part == "elementary":
            continue
        assert errors_in(text) == measured(activation, which), function
        stated[part].add(activation)
    of_elementary = {function: errors_in(text) for part, function, _, _, text in statements() if part == "elementary"}
    exp, sine, cosine = measured("exp", (0,)), measured("sin", (0,)), measured("sin", (1,))
    assert of_elementary == {
        "exp_rounded": exp,
        "sin_and_cos": {d: [("sin", *sine[d][0][1:]), ("cos", *cosine[d][0][1:])] for d in sine},
    }
    kept = json.loads((ROOT / "tools" / "numerics" / "ulp.json").read_text(encoding="utf-8"))["float32"]
    assert stated["activations"] | stated["staged"] == set(kept) - {"sin", "exp"}  # which are those of elementary.pxd
    assert stated["second"] == set(kept) - {"hardsigmoid"}  # whose g'' is 0
    are_g_second = {"elu": "elu", "selu": "selu", "exp": "exp", "softplus": "sigmoid"}
    assert stated["third"] == set(kept) - {"hardsigmoid", "hardswish"} - set(are_g_second)
    for activation, other in are_g_second.items():
        assert measured(activation, (3,)) == measured(other, (2,))
