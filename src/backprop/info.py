"""Versions, instruction set and threads of this installation."""

from __future__ import annotations

import platform

import numpy as np

from backprop import _core, threads
from backprop._version import __version__


def configuration() -> dict[str, str | int | list[str]]:
    """The output of `show_config` as a dictionary."""
    import scipy

    return {
        "backprop": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        "simd": _core.simd,
        "simd_supported": _core.supported_simd(),
        "l2_bytes": _core.l2_bytes,
        "threads": threads.get_num_threads(),
        "cpus_available": threads.available_cpus(),
    }


def show_config() -> None:
    """Print versions, the instruction set in use, and the number of threads."""
    for name, value in configuration().items():
        print(f"{name + ':':<16} {' '.join(value) if isinstance(value, list) else value}")
