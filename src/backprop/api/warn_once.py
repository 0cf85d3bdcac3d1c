"""Warnings that a process gives once, at the line of the user's program that calls this package."""

from __future__ import annotations

import sys
import warnings

_given: set[str] = set()


def warn_once(subject: str, text: str) -> None:
    """Give a RuntimeWarning, if this process has given none on that subject."""
    if subject not in _given:
        _given.add(subject)
        warnings.warn(text, RuntimeWarning, stacklevel=_level_of_user())


def _level_of_user() -> int:
    """The `stacklevel` of the first caller of `warn_once` that is outside this package."""
    frame, level = sys._getframe(2), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "backprop":
        frame, level = frame.f_back, level + 1
    return level
