"""The CPUs of ranks that share a machine."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from backprop import threads


class Host(NamedTuple):
    """Where a rank runs, and on which CPUs it may."""

    name: str
    cpus: frozenset[int]
    n_allowed: int  # by the affinity and the quota of its control group


def here() -> Host:
    """The host of this process."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # one name for all its containers
            name = file.read().strip()
    except OSError:
        name = platform.node()
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return Host(name, frozenset(cpus), threads.available_cpus())


def share(ranks: Sequence[Host], rank: int) -> tuple[int, bool]:
    """How many threads a rank may use beside the others on its machine, and whether there are more ranks than CPUs.

    A CPU that several ranks may use is divided between them. So it makes no difference whether the launcher binds each
    rank to CPUs of its own, as Open MPI does, or lets all use all, as MPICH does.
    """
    own = ranks[rank]
    neighbours = [other for other in ranks if other.name == own.name]
    users = Counter(cpu for other in neighbours for cpu in other.cpus)
    cpus = sum(1 / users[cpu] for cpu in own.cpus)
    quota = own.n_allowed / len(neighbours) if own.n_allowed < len(own.cpus) else cpus
    share = min(cpus, quota)
    return max(1, int(share + 1e-9)), share < 1 - 1e-9
