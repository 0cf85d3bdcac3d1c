"""Modules of the tests and of the programs that tests import: one name, one module."""

from places import ROOT


def test_programs_and_tests_share_no_name():
    """Python keeps the first module of a name, so a program in one process with the tests would get the wrong one."""
    of_tests = {path.name for path in (ROOT / "tests/support").glob("*.py")}
    of_programs = {path.name for folder in ("benchmarks", "tools") for path in (ROOT / folder).rglob("*.py")}
    assert of_tests
    assert not of_tests & of_programs
