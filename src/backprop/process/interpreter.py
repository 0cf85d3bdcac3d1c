"""Refuse subinterpreters, before anything compiled is loaded.

NumPy supports only the main interpreter, and modules made by Cython belong to the first interpreter that imports them.
If an import in a subinterpreter succeeded, the main interpreter could no longer import them.
"""

from __future__ import annotations

import importlib


def is_main() -> bool:
    """Whether this is the main interpreter; True if Python was built without the module that could tell."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # from Python 3.13 on, and before
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        return bool(module.get_current() == module.get_main())
    return True


if not is_main():
    raise ImportError(
        "backprop: expected to be imported by the main interpreter, got a subinterpreter, which NumPy does not support "
        "(under mod_wsgi, WSGIApplicationGroup %{GLOBAL} selects the main one)"
    )
