"""Numbers of a user: each is accepted, or refused with an error that names the argument."""

from __future__ import annotations

import numbers

import numpy as np

from backprop import _core
from backprop.api.array_likes import describe


def positive_integer(value: object, name: str) -> int:
    """An integer >= 1; a bool is not accepted."""
    return _integer(value, name, 1, "a positive integer")


def natural(value: object, name: str) -> int:
    """An integer >= 0; a bool is not accepted."""
    return _integer(value, name, 0, "an integer >= 0")


def _integer(value: object, name: str, least: int, expected: str) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral | np.integer):
        if isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name}: expected {expected}, got {value!r}")
        raise TypeError(f"{name}: expected {expected}, got {describe(value)}")
    if value < least:
        raise ValueError(f"{name}: expected {expected}, got {int(value)}")
    return int(value)


def as_float(value: numbers.Real) -> float:
    """The nearest float; inf for an integer or a fraction that is larger than all floats."""
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def finite(value: object, name: str) -> float:
    """A finite number."""
    if isinstance(value, bool | np.bool_ | str) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a finite number, got {describe(value)}")
    with _core.DefaultFloatMode():
        result = as_float(value)
        is_accepted = -np.inf < result < np.inf
    if not is_accepted:
        raise ValueError(f"{name}: expected a finite number, got {result}")
    return result


def non_negative(value: object, name: str) -> float:
    """A finite number >= 0."""
    if isinstance(value, bool | np.bool_ | str) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a finite number >= 0, got {describe(value)}")
    with _core.DefaultFloatMode():  # in other modes a subnormal number may count as 0, here and below
        result = as_float(value)
        is_accepted = 0 <= result < np.inf
    if not is_accepted:
        raise ValueError(f"{name}: expected a finite number >= 0, got {result}")
    return result


def positive(value: object, name: str) -> float:
    """A number > 0; inf is accepted."""
    if isinstance(value, bool | np.bool_ | str) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number > 0, got {describe(value)}")
    with _core.DefaultFloatMode():
        result = as_float(value)
        is_accepted = result > 0
    if not is_accepted:
        raise ValueError(f"{name}: expected a number > 0, got {result}")
    return result


def random_generator(value: object) -> np.random.Generator:
    """A generator from an int seed, a Generator, or None."""
    if isinstance(value, np.random.Generator):
        return value
    if value is None:
        return np.random.default_rng()
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"rng: expected an int >= 0, a numpy Generator or None, got {int(value)}")
        return np.random.default_rng(int(value))
    raise TypeError(f"rng: expected an int >= 0, a numpy Generator or None, got {describe(value)}")
