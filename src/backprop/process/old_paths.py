"""Modules that have moved are found under their old names too: pickles and programs name them.

The finder stands at the end of ``sys.meta_path``. Python asks it only if no other finder finds the name, so it costs
nothing until an old name is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType

# Classes of these modules are documented, or stand in pickles.
MOVED = {
    "backprop._inspection": "backprop.api.layer_gradients",
    "backprop._judge": "backprop.judges.complex_step",
    "backprop._second_derivatives": "backprop.api.second_order",
    "backprop._squared_errors": "backprop.api.least_squares",
    "backprop.checking": "backprop.judges.check_gradient",
    "backprop.nonfinite": "backprop.judges.find_nonfinite",
    "backprop.params": "backprop.api.parameters",
}


class _Loader:
    """Gives the module of the new name for one of the old name."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make an empty module, which `exec_module` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new name in the place of the empty one; Python looks there for it."""
        sys.modules[module.__name__] = importlib.import_module(MOVED[module.__name__])


class _Finder:
    """Finds the modules that have moved."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of a module that has moved, None for all others."""
        return ModuleSpec(fullname, _Loader()) if fullname in MOVED else None  # type: ignore[arg-type]


def install() -> None:
    """Let Python find the old names, once."""
    with suppress(Exception):  # sys.meta_path may be anything
        if _Finder not in sys.meta_path:
            sys.meta_path.append(_Finder)
