"""Other libraries, with which results are compared."""

import importlib
import os

import pytest


def require_peer(name):
    """Import a library that the test compares with, or that an extra of the package needs.

    If it is missing, the test is skipped, or the whole file if its module calls this. With BACKPROP_REQUIRE_PEERS=1 it
    fails instead.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        if os.environ.get("BACKPROP_REQUIRE_PEERS") == "1":
            pytest.fail(f"{name} is missing, and BACKPROP_REQUIRE_PEERS=1 asks for it")
        pytest.skip(f"{name} is not installed", allow_module_level=True)
