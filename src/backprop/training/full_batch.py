"""L-BFGS and Levenberg-Marquardt on samples in memory: all iterations in one compiled call."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core, threads
from backprop.distributed.samples import InMemory
from backprop.training.settings import Settings
from backprop.training.state import State

Array = npt.NDArray[Any]

_N_PAIRS = 10  # that L-BFGS keeps, as SciPy's L-BFGS-B does

# A relative difference of losses that says nothing to Levenberg-Marquardt, by the dtype's name: the sums are those of
# float64, but the outputs of a float32 network are rounded to 24 bits. L-BFGS has its own.
_NOISE = {"float64": 2.0**-40, "float32": 2.0**-24}


def start(solver: str, params: Array, free: npt.NDArray[np.bool_] | None) -> _core.LBFGS | _core.LevenbergMarquardt:
    """A solver at these parameters of a network."""
    theta = np.array(params if free is None else params[free])
    if solver == "lbfgs":
        return _core.LBFGS(theta, _N_PAIRS)
    return _core.LevenbergMarquardt(theta.astype(np.float64), _NOISE[params.dtype.name])


class InCore:
    """Iterations on samples in memory, a `loop.Iterations`.

    Parameters
    ----------
    samples : InMemory
    settings : Settings
    state : State
        It is changed.
    """

    rate: float | None = None

    def __init__(self, samples: InMemory, settings: Settings, state: State) -> None:
        net = samples.net
        self._core, self._params = state.core, state.params
        self._y, self._x, _, self._weights = net._inputs(samples.x, samples.y, None, samples.weight)
        self._numbers = None if settings.free is None else np.flatnonzero(settings.free)
        self._l2, self._tol, self._n_threads = settings.l2, settings.tol, settings.n_threads
        self._fit = getattr(net._plan, f"fit_by_{settings.solver}")

    def advance(self, n: int) -> tuple[list[float], str | None]:
        """As in `loop.Iterations`."""
        answer, losses = self._fit(
            self._core,
            self._params,
            self._x,
            self._y,
            self._weights,
            self._numbers,
            self._l2,
            self._tol,
            n,
            threads.resolve(self._n_threads),
        )
        return losses.tolist(), None if answer == "max_iter" else answer

    def settle(self) -> None:
        """As in `loop.Iterations`: the compiled call has done it."""
