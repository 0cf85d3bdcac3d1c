"""The mistakes of tools/mutants.py still fit the code: each finds its text, once."""

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
if not TOOLS.is_dir():
    pytest.skip("the tools are not here", allow_module_level=True)
sys.path.insert(0, str(TOOLS))

import mutants  # noqa: E402


def test_each_text_is_there_once():
    mutants.check_mutations(mutants.MUTATIONS)


def test_the_tests_that_judge_are_there():
    for test in mutants.TESTS:
        assert (mutants.ROOT / test.split("::")[0]).exists(), test
