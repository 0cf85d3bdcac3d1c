"""Import a module of ours as soon as somebody imports another library, and not before."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Finder:
    """Finds the library as the others do, and runs ours after it.

    A MetaPathFinder by its method alone: importlib.abc takes a tenth of the time that NumPy takes to import.
    """

    def __init__(self, library: str, ours: str) -> None:
        self.library, self.ours = library, ours

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.library:
            return None
        spec = None
        for finder in sys.meta_path:  # a look at whether the library is there comes here, too: we stay for its import
            if finder is not self and spec is None:
                spec = finder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_both(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                importlib.import_module(self.ours)

            spec.loader.exec_module = execute_both  # type: ignore[method-assign]
        return spec


def register(library: str, ours: str) -> None:
    """Import our module after the library: at once where that is imported already.

    threadpoolctl takes longer to import than this package, which therefore does not import it by itself.
    """
    if library in sys.modules:
        importlib.import_module(ours)
    else:
        sys.meta_path.insert(0, _Finder(library, ours))
