"""The number of threads of a call: argument > num_threads/set_num_threads > environment > CPUs of this process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from backprop import _core
from backprop.api import scalars

MAX_DIGITS = 9  # of a count in the environment; more digits are a mistake

_in_context: ContextVar[int | None] = ContextVar("backprop_num_threads", default=None)
_of_process: list[int | None] = [None]  # the value of set_num_threads


def available_cpus() -> int:
    """CPUs that this process may use: those of its affinity, at most the CPU quota of its cgroup (rounded up)."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(n, quota) if quota is not None else n)


def _cgroup_quota(root: str | os.PathLike[str] = "/sys/fs/cgroup") -> int | None:
    """The CPU quota of cgroup v2 or v1 in whole CPUs, None if there is none."""
    try:
        if os.path.exists(os.path.join(root, "cpu.max")):
            quota, period = _text_of(root, "cpu.max").split()
            if quota == "max":
                return None
        else:
            quota, period = _text_of(root, "cpu", "cpu.cfs_quota_us"), _text_of(root, "cpu", "cpu.cfs_period_us")
        return -(-int(quota) // int(period)) if int(quota) > 0 and int(period) > 0 else None
    except (OSError, ValueError):
        return None


def _text_of(*path: str | os.PathLike[str]) -> str:
    """The text of a small file. Without pathlib, whose import takes a twentieth of NumPy's."""
    with open(os.path.join(*path), encoding="ascii") as file:
        return file.read()


def _from_environment() -> int | None:
    """The count that the environment gives; an invalid value warns and is ignored."""
    for name in ("BACKPROP_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").strip()
        if not value:
            continue
        counts = [part.strip() for part in value.split(",")]  # OMP_NUM_THREADS may list one count per nesting level
        if all(part.isascii() and part.isdigit() and len(part) <= MAX_DIGITS and int(part) > 0 for part in counts):
            return min(int(counts[0]), _core.most_threads)
        warnings.warn(
            f"{name}: expected a positive integer, got {value!r}; it is ignored", RuntimeWarning, stacklevel=2
        )
    return None


_of_environment = _from_environment()
_default = available_cpus() if _of_environment is None else _of_environment


def _count(n: object, name: str) -> int:
    return min(scalars.positive_integer(n, name), _core.most_threads)


def set_num_threads(n: int) -> None:
    """Set the number of threads that calls of this process may use.

    Parameters
    ----------
    n : int
        At least 1; at most 256 are used. The results have the same bits for every n.

    Raises
    ------
    TypeError, ValueError
        If n is not a positive integer.
    """
    _of_process[0] = _count(n, "n")


def limit_num_threads(n: int) -> None:
    """Set the value that `get_num_threads` returns here: in a `num_threads` block that of the block."""
    if _in_context.get() is None:
        set_num_threads(n)
    else:
        _in_context.set(_count(n, "n"))


def get_num_threads() -> int:
    """Return the number of threads that a call without ``n_threads`` may use."""
    for chosen in (_in_context.get(), _of_process[0]):
        if chosen is not None:
            return chosen
    return _default


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use n threads within a ``with`` block. This applies to the current thread or asyncio task only.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If n is not a positive integer.
    """
    token = _in_context.set(_count(n, "n"))
    try:
        yield
    finally:
        _in_context.reset(token)


def resolve(n_threads: int | None, most: int | None = None) -> int:
    """The number of threads of one call with this argument; at most most, if the user has not chosen a number."""
    if n_threads is not None:
        return _count(n_threads, "n_threads")
    is_chosen = any(chosen is not None for chosen in (_in_context.get(), _of_process[0], _of_environment))
    return get_num_threads() if most is None or is_chosen else min(get_num_threads(), most)
