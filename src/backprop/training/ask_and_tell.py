"""L-BFGS and Levenberg-Marquardt around objectives: blocks, ranks, and sums of objectives. The bits of one process."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.distributed import terms
from backprop.distributed.blocks import Streamed
from backprop.distributed.ranks import AcrossRanks
from backprop.distributed.terms import Term, Terms
from backprop.training.settings import Settings
from backprop.training.state import State

Array = npt.NDArray[Any]

_LOSS = _core.CALLS["loss"]
_NORMAL_EQUATIONS = _core.CALLS["normal_equations"]


class _Iterations:
    """What both have of a `loop.Iterations`."""

    rate: float | None = None

    def __init__(self, settings: Settings, state: State) -> None:
        self._state, self._free, self._tol = state, settings.free, settings.tol

    def _whole(self, theta: Array) -> Array:
        """All parameters of the network, rounded to its dtype."""
        whole = self._state.params.copy()
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            whole[... if self._free is None else self._free] = theta
        return whole

    def settle(self) -> None:
        """As in `loop.Iterations`."""
        core: Any = self._state.core
        self._state.params[...] = self._whole(core.theta)


class Lbfgs(_Iterations):
    """L-BFGS on a sum of terms, a `loop.Iterations`."""

    def __init__(self, its_terms: Terms, settings: Settings, state: State) -> None:
        super().__init__(settings, state)
        assert isinstance(state.core, _core.LBFGS)
        self._terms, self._core = its_terms, state.core

    def _tell(self, theta: Array) -> str:
        params = self._whole(theta)
        loss, gradient = terms.added(self._terms, lambda term: term.value_and_grad(params))
        return self._core.tell(loss, gradient if self._free is None else gradient[self._free])

    def advance(self, n: int) -> tuple[list[float], str | None]:
        """As in `loop.Iterations`."""
        core, losses = self._core, list[float]()
        core.forget_search()
        while True:
            if core.has_converged(self._tol):
                return losses, "converged"
            if len(losses) >= n and core.n_evaluations:
                return losses, None
            answer, n_iter = "evaluate", core.n_iter
            while answer == "evaluate":
                theta = core.ask()
                if theta is None:
                    return losses, "no progress"
                answer = self._tell(theta)
            if answer != "iterated":
                return losses, answer
            if core.n_iter > n_iter:
                losses.append(core.loss)
                self.settle()


class LevenbergMarquardt(_Iterations):
    """Levenberg-Marquardt on one term, by the sums of its blocks or ranks, a `loop.Iterations`."""

    def __init__(self, term: Term, settings: Settings, state: State) -> None:
        super().__init__(settings, state)
        assert isinstance(state.core, _core.LevenbergMarquardt)
        assert isinstance(term.samples, Streamed | AcrossRanks)
        self._core, self._samples, self._l2 = state.core, term.samples, term.l2
        self._plan = term.samples.net._plan
        is_weight = np.zeros(len(state.params), bool)
        for W, _ in term.samples.net.unflatten(is_weight):
            W[...] = True
        self._penalized = np.flatnonzero(is_weight if settings.free is None else is_weight[settings.free])

    def _loss(self, theta: Array) -> float:
        params = self._whole(theta)
        loss, _ = self._samples.sums(_LOSS, params)
        if self._l2:
            loss += self._plan.add_penalty(params, self._l2, np.zeros(len(params)))
        return loss

    def _equations(self, theta: Array) -> tuple[Array, Array]:
        """The Gauss-Newton matrix and the gradient, in the order of the compiled loop."""
        params, free = self._whole(theta), self._free
        _, both = self._samples.sums(_NORMAL_EQUATIONS, params)
        _core.mirror(both[:-1])
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            factor = 2 / self._samples.divisor
            gradient = factor * both[-1].astype(np.float64)
            if self._l2:
                self._plan.add_penalty(params, self._l2, gradient)
            H = both[:-1] if free is None else both[:-1][np.ix_(free, free)]
            H = factor * H.astype(np.float64)
            if self._l2:
                H[self._penalized, self._penalized] += self._l2
        return np.ascontiguousarray(H), gradient if free is None else gradient[free]

    def advance(self, n: int) -> tuple[list[float], str | None]:
        """As in `loop.Iterations`."""
        core, losses = self._core, list[float]()
        core.forget_trial()
        if not math.isfinite(core.loss) and core.tell_start(self._loss(core.theta)) == "not finite":
            return losses, "not finite"
        while True:
            if core.needs_equations:
                core.tell_equations(*self._equations(core.theta))
            if core.has_converged(self._tol):
                return losses, "converged"
            if len(losses) >= n:
                return losses, None
            answer = "evaluate"
            while answer == "evaluate":
                theta = core.ask()
                if theta is None:
                    return losses, "no progress"
                answer = core.tell(self._loss(theta))
            if answer != "iterated":
                return losses, answer
            losses.append(core.loss)
            self.settle()
