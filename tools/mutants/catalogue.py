"""The mistakes of mistakes/*.toml: one table each, with its id as its name.

    [label-n-out-accepted]
    mistake = "The label n_out is accepted."     # what is wrong then, in one sentence
    function = "bad_label"                       # in which the line stands; without it, all files are searched
    anchor = "[s] < n_out"                       # a piece of the line that is there once in these functions
    becomes = "[s] <= n_out"                     # what stands there in the mutant
    after = "..."                                # optional: the anchor is the first one behind this piece
    simd = "v4"                                  # optional: the line is compiled for this instruction set alone
    first_tests = ["test_bad_input"]             # optional: the test modules that notice it soonest

A file gives the kind of its mistakes, and the first tests of those that name none. An anchor is as short as it can be
and names few arguments, so that it survives when code moves, lines are wrapped anew or arguments get other names.
"""

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import locate

FOLDER = Path(__file__).with_name("mistakes")
KEYS = {"mistake", "function", "anchor", "becomes", "after", "simd", "first_tests"}


class Mutation(NamedTuple):
    """A mistake; `file` is the one that it is written in."""

    id: str
    file: Path
    kind: str
    mistake: str
    anchor: str
    becomes: str
    function: str = ""
    after: str = ""
    simd: str = ""
    first_tests: tuple[str, ...] = ()

    def find(self, sources):
        """All places that it fits; it is sound if there is one."""
        return locate.find(sources, self.anchor, self.function, self.after)

    def apply(self, sources):
        """The source that it changes and the changed text; a ValueError if it does not fit exactly one place."""
        found = self.find(sources)
        if len(found) != 1:
            raise ValueError(f"{self.id}: expected its anchor once, got it {len(found)} times")
        (place,) = found
        text = place.source.text
        return place.source, text[: place.start] + self.becomes + text[place.end :]


def read(folder=FOLDER):
    """All mutations, in the order of their files. An id that is there twice is a ValueError."""
    mutations = []
    for file in sorted(folder.glob("*.toml")):
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        kind, first_tests = tables.pop("kind"), tables.pop("first_tests")
        for name, table in tables.items():
            if not KEYS.issuperset(table):
                raise ValueError(f"{file.name}: [{name}]: expected keys among {sorted(KEYS)}, got {sorted(table)}")
            table["first_tests"] = tuple(table.get("first_tests", first_tests))
            mutations.append(Mutation(name, file, kind, **table))
    ids = [mutation.id for mutation in mutations]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ValueError(f"expected each id once, got twice: {', '.join(twice)}")
    return mutations


def complaint(mutation, sources):
    """Why a mutation does not fit, with the places that are most like it; empty if it fits exactly one place."""
    found = mutation.find(sources)
    if len(found) == 1:
        source, text = mutation.apply(sources)
        same = "".join(text.split()) == "".join(source.text.split())
        return f"{mutation.id}: changes nothing" if same else ""
    where = f"function {mutation.function}" if mutation.function else "the sources"
    after = f" after {mutation.after!r}" if mutation.after else ""
    lines = [f"{mutation.id} ({mutation.file.name}): expected {mutation.anchor!r}{after} once in {where}, "
             f"got it {len(found)} times"]  # fmt: skip
    if found:
        return "\n".join([*lines, *(f"    {place}" for place in found)])
    elsewhere = [place for place in locate.find(sources, mutation.anchor) if place.function != mutation.function]
    lines += [f"    there is one in {place}" for place in elsewhere[:3]]
    near = locate.nearest(sources, mutation.anchor, mutation.function)
    return "\n".join([*lines, *(f"    near: {place}: {text}" for place, text in near)])


def moved_to(mutation, sources):
    """The function that a mutation's line has moved to, if it no longer fits and there is one such place; or None."""
    if not mutation.function or mutation.find(sources):
        return None
    names = {scope.name for source in sources for scope in source.scopes}
    fits = {place.function for name in names for place in locate.find(sources, mutation.anchor, name, mutation.after)}
    return fits.pop() if len(fits) == 1 else None


def set_function(mutation, function):
    """Write another function's name into a mutation's table."""
    text = mutation.file.read_text(encoding="utf-8")
    table = re.compile(rf"(^\[{re.escape(mutation.id)}\]\n(?:(?!\[).*\n)*?function = )\"[^\"]*\"", re.MULTILINE)
    text, n = table.subn(rf'\g<1>"{function}"', text)
    if n != 1:
        raise ValueError(f"{mutation.file.name}: expected function of [{mutation.id}] once, got it {n} times")
    mutation.file.write_text(text, encoding="utf-8")
