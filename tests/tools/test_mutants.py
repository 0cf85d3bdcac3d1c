"""The mistakes of tools/mutants.py still fit the code: each finds its text, once."""

from places import use_folder

use_folder("tools")

import mutants  # noqa: E402


def test_each_text_is_there_once():
    mutants.check_mutations(mutants.MUTATIONS)


def test_the_tests_that_judge_are_there():
    for test in mutants.TESTS:
        assert (mutants.ROOT / test.split("::")[0]).exists(), test
