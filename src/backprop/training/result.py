"""What `fit` returns: a `scipy.optimize.OptimizeResult`."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop.training.loop import End
from backprop.training.state import State

Array = npt.NDArray[Any]


def of(state: State, end: End, params: Array, loss: float, gradient: Array) -> Any:
    """The result, if these parameters of the network are left; gradient is that by the free ones."""
    theta = params if state.free is None else params[state.free]
    assert state.best is not None  # as the iterations have run
    return _kind()(
        loss=loss,
        n_iter=state.n_iter,
        success=end.success,
        message=end.message,
        history={name: list(losses) for name, losses in state.history.items()},
        best_iteration=state.best.iteration,
        state=state,
        x=np.array(theta, np.float64),
        fun=loss,
        jac=gradient,
        nit=state.n_iter,
        nfev=state.n_evaluations,
    )


@cache
def _kind() -> type[dict[str, Any]]:
    """The class of results. `import backprop` does not import scipy.optimize, which takes a while."""
    from scipy.optimize import OptimizeResult

    class FitResult(OptimizeResult):  # type: ignore[misc]
        """A `scipy.optimize.OptimizeResult` that shows its history in a line, and pickles."""

        def __getattr__(self, name: str) -> Any:
            if name in self:
                return self[name]
            raise AttributeError(
                f"the result of fit has no {name!r}: it has {', '.join(self)}; calls are the network's"
            )

        def __repr__(self) -> str:
            history = {name: _in_short(losses) for name, losses in self.get("history", {}).items()}
            return repr(OptimizeResult(self, history=history))

        def __reduce__(self) -> tuple[Any, ...]:
            return _again, (dict(self),)

    return FitResult


def _again(values: dict[str, Any]) -> dict[str, Any]:
    """A result from a pickle."""
    return _kind()(values)


def _in_short(losses: list[float]) -> str:
    return f"{losses[0]:.6g} ... {losses[-1]:.6g}, {len(losses):,} in all" if losses else "none"
