"""The mistakes in tools/mutants/mistakes still fit the code: each finds its line once, and changes it."""

from pathlib import Path

import pytest
from places import use_folder

use_folder("tools/mutants")

import catalogue  # noqa: E402
import locate  # noqa: E402
import mutants  # noqa: E402

MUTATIONS = catalogue.read()  # which refuses an id that is there twice
SOURCES = locate.read_sources(mutants.ROOT / mutants.PACKAGE)


def source(text, name="part.pyx"):
    return locate.Source(Path(name), text)


def test_each_mutation_fits_one_line_and_changes_it():
    assert [text for mutation in MUTATIONS if (text := catalogue.complaint(mutation, SOURCES))] == []


def test_there_are_mutations_of_each_kind():
    kinds = [mutation.kind for mutation in MUTATIONS]
    assert {kind: kinds.count(kind) >= least for kind, least in LEAST.items()} == dict.fromkeys(LEAST, True)
    assert set(kinds) == set(LEAST)


LEAST = {"compiled": 280, "validation": 30, "python": 10}


def test_each_mutant_is_another_program():
    """No two have the same text, and those of Python are Python."""
    texts = {}
    for mutation in MUTATIONS:
        changed, text = mutation.apply(SOURCES)
        twin = texts.setdefault((changed.path, "".join(text.split())), mutation.id)
        assert twin == mutation.id, (twin, mutation.id)
        if changed.path.suffix == ".py":
            compile(text, str(changed.path), "exec")


def test_each_mistake_is_a_sentence():
    for mutation in MUTATIONS:
        assert mutation.mistake[0].isalnum(), mutation.id
        assert mutation.mistake.endswith("."), mutation.id


def test_the_tests_that_judge_are_there():
    for test in {*mutants.TESTS, *(test for mutation in MUTATIONS for test in mutation.first_tests)}:
        assert (mutants.ROOT / mutants.test_path(test).split("::")[0]).exists(), test


TEXT = """
cdef int outer(int a,
               int b) noexcept nogil:
    if a  <  b:
        return inner(a,
                     b)
    return a  # a < b


def other(a, b):
    return a < b
"""


@pytest.mark.parametrize(
    ("anchor", "function", "line"), [("a<b", "other", 11), ("inner(a, b)", "outer", 5), ("return a #", "", 7)]
)
def test_an_anchor_ignores_white_space(anchor, function, line):
    (place,) = locate.find([source(TEXT)], anchor, function)
    assert place.line == line


def test_an_anchor_matches_whole_words_in_its_function():
    assert locate.find([source(TEXT)], "nner(a", "outer") == []
    assert locate.find([source(TEXT)], "inner(a", "other") == []
    assert len(locate.find([source(TEXT)], "a < b", "outer")) == 2
    assert [place.line for place in locate.find([source(TEXT)], "a < b", "outer", after="return inner")] == [7]


def test_functions_and_macros_of_c():
    text = "#define TWICE(x) \\\n    ((x) + \\\n     (x))\nstatic int f(int a)\n{\n    return a;\n}\nint g(int a);\n"
    assert [scope.name for scope in source(text, "part.c").scopes] == ["f", "TWICE"]
    (place,) = locate.find([source(text, "part.c")], "(x) + (x)", "TWICE")
    assert place.line == 2


def test_a_line_that_is_gone_is_reported_with_what_is_near(tmp_path):
    file = tmp_path / "some.toml"
    file.write_text(
        'kind = "compiled"\nfirst_tests = []\n\n[one]\nmistake = "It is wrong."\nfunction = "outer"\n'
        'anchor = "if a <= b"\nbecomes = "if True"\n\n[two]\nmistake = "It is wrong."\nfunction = "older"\n'
        'anchor = "return inner(a"\nbecomes = "return inner(b"\n'
    )
    one, two = catalogue.read(tmp_path)
    assert "near: part.pyx:4 in outer: if a  <  b:" in catalogue.complaint(one, [source(TEXT)])
    assert "there is one in part.pyx:5 in outer" in catalogue.complaint(two, [source(TEXT)])
    assert catalogue.moved_to(one, [source(TEXT)]) is None
    assert catalogue.moved_to(two, [source(TEXT)]) == "outer"
    catalogue.set_function(two, "outer")
    assert [catalogue.complaint(mutation, [source(TEXT)]) for mutation in catalogue.read(tmp_path)][1] == ""


def test_an_id_that_is_there_twice_is_refused(tmp_path):
    table = '[one]\nmistake = "It is wrong."\nanchor = "a"\nbecomes = "b"\n'
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(f'kind = "python"\nfirst_tests = []\n{table}')
    with pytest.raises(ValueError, match="each id once, got twice: one"):
        catalogue.read(tmp_path)
