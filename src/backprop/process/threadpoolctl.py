"""A controller for threadpoolctl, so that `threadpool_limits` and `threadpool_info` find this library."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from backprop import _core, threads
from backprop._version import __version__


class _Controller:
    """The methods of our LibController. threadpoolctl finds the compiled module by a symbol that it exports."""

    user_api = "backprop"
    internal_api = "backprop"
    filename_prefixes = ("_core",)
    check_symbols = ("backprop_worker_threads",)

    def get_num_threads(self) -> int:
        """The number of threads that a call without ``n_threads`` may use."""
        return threads.get_num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        """Set the value that `get_num_threads` returns; threadpoolctl restores the old one."""
        threads.limit_num_threads(num_threads)

    def get_version(self) -> str:
        """The version of the package."""
        return __version__

    def set_additional_attributes(self) -> None:
        """Add the instruction set to the report."""
        self.simd: Any = _core.simd


def add_controller(threadpoolctl: ModuleType) -> None:
    """Add the controller to an imported threadpoolctl, once. Releases before 3.2 accept no controllers."""
    if hasattr(threadpoolctl, "register") and hasattr(threadpoolctl, "LibController"):
        base = threadpoolctl.LibController
        if not any(issubclass(controller, _Controller) for controller in base.__subclasses__()):
            threadpoolctl.register(type("BackpropController", (_Controller, base), {}))
