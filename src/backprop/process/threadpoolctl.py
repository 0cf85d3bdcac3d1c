"""A controller for threadpoolctl, so that `threadpool_limits` and `threadpool_info` know this library."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from backprop import _core, threads
from backprop._version import __version__


class _Controller:
    """What a LibController of ours adds: the compiled module is found by a symbol that it exports."""

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
        self.simd: Any = _core.simd


def add_controller(threadpoolctl: ModuleType) -> None:
    """Add the controller to an imported threadpoolctl, once; those before 3.2 take none from outside."""
    if hasattr(threadpoolctl, "register") and hasattr(threadpoolctl, "LibController"):
        base = threadpoolctl.LibController
        if not any(issubclass(controller, _Controller) for controller in base.__subclasses__()):
            threadpoolctl.register(type("BackpropController", (_Controller, base), {}))
