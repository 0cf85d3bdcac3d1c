"""Other libraries, which results are compared with."""

import importlib
import os

import pytest


def require_peer(name):
    """Import a library that results are compared with, or that an extra of the package needs.

    Where it is missing the test, or the file of tests that calls this at its start, is skipped, or fails where all must
    be there.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        if os.environ.get("BACKPROP_REQUIRE_PEERS") == "1":
            pytest.fail(f"{name} is missing, and BACKPROP_REQUIRE_PEERS=1 asks for it")
        pytest.skip(f"{name} is not installed", allow_module_level=True)
