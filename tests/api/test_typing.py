"""The typed program that mypy --strict reads in .ci/run also runs."""

import typed_use


def test_the_typed_program_runs():
    typed_use.main()
