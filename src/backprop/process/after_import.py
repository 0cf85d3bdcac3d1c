"""Act on another library as soon as something imports it, and not before.

A finder at the head of ``sys.meta_path`` lets Python find the library with the other finders, and wraps the loader that
they give. If anything goes wrong in this file, the library is imported as usual: scikit-learn imports threadpoolctl,
and must not fail because of this package.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from threading import get_ident
from types import ModuleType
from typing import Any

Action = Callable[[ModuleType], object]


class _Loader:
    """The loader of the library, with the action after it.

    It is a separate object, since a loader may serve other modules too, as that of a zip file does.
    """

    def __init__(self, loader: Any, action: Action) -> None:
        self._loader, self._action = loader, action

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        with suppress(Exception):  # the module looks as if it had been imported as usual
            module.__loader__ = self._loader
            if module.__spec__ is not None:
                module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        with suppress(Exception):
            self._action(module)


class _Finder:
    """Finds the library as all other finders together do.

    It does not derive from MetaPathFinder: importing importlib.abc takes a tenth of NumPy's import time. It is never
    removed, since a library can be imported again, or reloaded.
    """

    def __init__(self, library: str, action: Action) -> None:
        self.library, self.action = library, action
        self._searching: set[int] = set()  # numbers of threads

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        thread = get_ident()
        if fullname != self.library or thread in self._searching:
            return None
        self._searching.add(thread)
        try:
            from importlib.util import find_spec

            spec = find_spec(fullname)
            if spec is not None and not isinstance(spec.loader, _Loader) and hasattr(spec.loader, "exec_module"):
                spec.loader = _Loader(spec.loader, self.action)  # type: ignore[assignment]
                return spec
        except Exception:  # Python asks the other finders next
            return None
        finally:
            self._searching.discard(thread)
        return None


def register(library: str, action: Action) -> None:
    """Call the action with the module of a library after each import of it, and now if it is imported already.

    This package does not import threadpoolctl itself, since that takes longer than importing this package.
    """
    with suppress(Exception):  # sys.meta_path may be anything
        if not any(isinstance(finder, _Finder) and finder.library == library for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder(library, action))
    if sys.modules.get(library) is not None:
        with suppress(Exception):
            action(importlib.import_module(library))  # waits if another thread is still importing it
