"""Act on another library as soon as something imports it, and not before.

A finder at the head of ``sys.meta_path`` looks the library up among the finders after it, as the import itself would
do, and puts a loader of ours round the one that they name. Whatever goes wrong in our part, the library is imported as
it would be without us: scikit-learn imports threadpoolctl, and must not fail because of this package.
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


def _act(action: Action, module: ModuleType) -> None:
    """Act on a module. An error is our own fault or an unknown release's: the import has to go on without us."""
    with suppress(Exception):
        action(module)


class _Loader:
    """The library's own loader, and the action after it."""

    def __init__(self, loader: Any, action: Action) -> None:
        self._loader, self._action = loader, action

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        with suppress(Exception):  # from now on the module looks as if we had not been there
            module.__loader__ = self._loader
            if module.__spec__ is not None:
                module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _act(self._action, module)


class _Finder:
    """Finds the library as the finders after it do.

    A MetaPathFinder by its method alone: importlib.abc takes a tenth of the time that NumPy takes to import. It stays
    for good, since a library can be imported anew, and reloaded. Its loader is an object of its own: the library's may
    serve other modules too, as that of a zip file does.
    """

    def __init__(self, library: str, action: Action) -> None:
        self.library, self.action = library, action
        self._inside: set[int] = set()  # threads, by number

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        thread = get_ident()
        if fullname != self.library or thread in self._inside:  # a finder after us may ask all finders again
            return None
        self._inside.add(thread)
        try:
            spec = self._spec_of_others(fullname, path, target)
        finally:
            self._inside.discard(thread)
        with suppress(Exception):  # specs of other finders may be of any type
            if spec is not None and not isinstance(spec.loader, _Loader) and hasattr(spec.loader, "exec_module"):
                spec.loader = _Loader(spec.loader, self.action)  # type: ignore[assignment]
        return spec

    def _spec_of_others(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        """What the finders after this one find. What they raise, the import would raise without us too."""
        finders: list[Any] = list(sys.meta_path)
        first = next((i + 1 for i, finder in enumerate(finders) if finder is self), 0)
        for finder in finders[first:]:
            if hasattr(finder, "find_spec"):
                spec: ModuleSpec | None = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
            elif sys.version_info < (3, 12) and finder.find_module(fullname, path) is not None:
                return None  # one of the older kind has it, which Python will ask itself
        return None


def register(library: str, action: Action) -> None:
    """Call the action with a library's module after each import of it, and now if it is imported already.

    threadpoolctl takes longer to import than this package, which therefore does not import it by itself.
    """
    with suppress(Exception):  # sys.meta_path may be anything
        if not any(isinstance(finder, _Finder) and finder.library == library for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder(library, action))
    if sys.modules.get(library) is not None:
        with suppress(Exception):
            _act(action, importlib.import_module(library))  # waits if another thread is still importing it
