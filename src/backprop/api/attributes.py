"""Attributes of the public objects: which assignments are refused, and what the subclass of a user adds.

The library keeps its own attributes in slots. Objects of its classes accept no others, except for a function in place
of a method, which tests and profilers assign. The subclass of a user accepts everything, in its ``__dict__`` or in
slots of its own, and copies and pickles keep it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from backprop.api.array_likes import describe
from backprop.api.shown import is_own

Added = tuple[dict[str, Any], dict[str, Any]]  # attributes in the __dict__, and in slots


class Closed:
    """A class of the library. A class that derives from it names its attributes, and ``__dict__``, in ``__slots__``."""

    __slots__ = ()
    _fixed: ClassVar[dict[str, str]] = {}  # what to do instead of assigning, by name
    _slots: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if is_own(cls):
            cls._slots = frozenset(name for base in cls.__mro__ for name in getattr(base, "__slots__", ()))

    if not TYPE_CHECKING:  # a type checker would let every assignment pass

        def __setattr__(self, name: str, value: object) -> None:
            if name not in self._slots and is_own(type(self)):
                _refuse(self, name, value)
            try:
                super().__setattr__(name, value)
            except AttributeError:
                _refuse(self, name, value)
                raise


def _refuse(it: Closed, name: str, value: object) -> None:
    """Raise an error with the right attribute and a cure, if the class does not accept this one."""
    kind = type(it)
    found = next((cls for cls in kind.__mro__ if name in vars(cls)), None)
    attribute = None if found is None else vars(found)[name]
    if found is not None and (not is_own(found) or _takes(attribute, value)) and name not in it._fixed:
        return
    if name in it._fixed:
        text = f"{kind.__name__}.{name} {it._fixed[name]}"
    elif found is not None:
        text = f"{kind.__name__}.{name} is a method: expected a function in its place, got {describe(value)}"
    else:
        import difflib

        near = difflib.get_close_matches(name, [known for known in dir(kind) if not known.startswith("_")], 1)
        text = f"{kind.__name__} has no attribute {name!r}"
        if near:
            text += f"; did you mean {near[0]!r}?"
            text += f" {near[0]} {it._fixed[near[0]]}" if near[0] in it._fixed else ""
        else:
            text += "; a subclass may have attributes of its own"
    raise AttributeError(text)  # without its name argument, for which Python would print a second hint


def _takes(attribute: object, value: object) -> bool:
    """Whether an attribute of a class may be assigned."""
    if isinstance(attribute, property):
        return attribute.fset is not None
    return hasattr(type(attribute), "__set__") or callable(value)


def added(it: object, own: Collection[str]) -> Added | None:
    """The attributes that a subclass of the user has added, or None."""
    if is_own(type(it)):
        return None
    state: Any = object.__getstate__(it)  # not that of the subclass
    entries, slots = state if isinstance(state, tuple) else (state, None)
    entries, slots = ({k: v for k, v in (part or {}).items() if k not in own} for part in (entries, slots))
    return (entries, slots) if entries or slots else None


def restore(it: object, of_subclass: Added | None) -> None:
    """Give an object the attributes that `added` has found."""
    if of_subclass is None:
        return
    entries, slots = of_subclass
    if entries:
        it.__dict__.update(entries)
    for name, value in slots.items():
        object.__setattr__(it, name, value)
