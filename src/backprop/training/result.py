"""What `fit` returns: a `scipy.optimize.OptimizeResult`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backprop.training.loop import End
from backprop.training.state import State

Array = npt.NDArray[Any]


def of(state: State, end: End, params: Array, loss: float, gradient: Array) -> Any:
    """The result, if these parameters of the network are left; gradient is that by the free ones."""
    from scipy.optimize import OptimizeResult

    theta = params if state.free is None else params[state.free]
    assert state.best is not None  # as the iterations have run
    return OptimizeResult(
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
