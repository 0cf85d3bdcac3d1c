"""What several test files share."""

import importlib
import os

import pytest


def require_peer(name):
    """Import a library that results are compared with; skip where it is missing, or fail where all must be there."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        if os.environ.get("BACKPROP_REQUIRE_PEERS") == "1":
            pytest.fail(f"{name} is missing, and BACKPROP_REQUIRE_PEERS=1 asks for it")
        pytest.skip(f"{name} is not installed")
