"""A controller for threadpoolctl, so that `threadpool_limits` and `threadpool_info` know this library."""

from __future__ import annotations

from typing import Any

import threadpoolctl

from backprop import threads
from backprop._version import __version__


class BackpropController(threadpoolctl.LibController):  # type: ignore[misc]
    """Finds the compiled module among the process's libraries by a symbol that it exports."""

    user_api = "backprop"
    internal_api = "backprop"
    filename_prefixes = ("_core",)
    check_symbols = ("backprop_worker_threads",)

    def get_num_threads(self) -> int:
        """What a call without ``n_threads`` may use."""
        return threads.get_num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        """Set it where `get_num_threads` has it from; threadpoolctl puts the old value back."""
        threads.limit_num_threads(num_threads)

    def get_version(self) -> str:
        """The version of the package."""
        return __version__

    def set_additional_attributes(self) -> None:
        """The instruction set beside the number of threads."""
        from backprop import _core

        self.simd: Any = _core.simd


threadpoolctl.register(BackpropController)
