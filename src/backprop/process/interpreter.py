"""Refuse subinterpreters, before anything compiled is loaded.

NumPy supports the main interpreter alone, and modules made by Cython belong to the first one that imports them: an
import in a subinterpreter, where it went through, would lock the main one out.
"""

from __future__ import annotations

import importlib


def is_main() -> bool:
    """Whether this is the main interpreter; True where Python was built without the module that knows."""
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
