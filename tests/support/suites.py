"""Parameters of a test that only `pytest --all` runs."""

import pytest


def shortened(values, kept, reason):
    """The parameters of a test, of which the short suite runs those in `kept`; the reason says why that is enough."""
    long = pytest.mark.long(reason)
    assert all(value in list(values) for value in kept)
    return [
        value if value in kept else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=long)
        for value in values
    ]
