"""What a fit leaves for the next one, which goes on: `result.state`."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import shown

Array = npt.NDArray[Any]


@dataclass
class Steps:
    """What Adam and gradient descent keep."""

    moments: Array  # (2, n_params): m and v of Adam; (1, n_params): the velocity; in the network's dtype
    progress: Array  # (3,): steps so far, and the powers of the betas by so many
    rng: np.random.Generator
    n_batches: int = 0  # whose gradients were computed

    @classmethod
    def at_start(cls, solver: str, params: Array, rng: np.random.Generator) -> Steps:
        """The state before the first step."""
        shape = 2 if solver == "adam" else 1, len(params)
        return cls(np.zeros(shape, params.dtype), np.array([0.0, 1.0, 1.0]), rng)


Core = Steps | _core.LBFGS | _core.LevenbergMarquardt


@dataclass
class Best:
    """The best iteration so far."""

    value: float  # what is to be small; inf if it is not known
    iteration: int  # counted from 1, 0 for the start
    of_validation: bool  # whether value is a loss on validation data
    params: Array | None = None  # of the network, kept with patience
    n_waiting: int = 0  # iterations since the last improvement

    def see(self, value: float, iteration: int, tol: float, params: Array | None) -> None:
        """Take the loss of an iteration; it improves if it is smaller than the best by more than tol."""
        self.n_waiting = 0 if value < self.value - tol else self.n_waiting + 1
        if value < self.value:
            self.value, self.iteration = value, iteration
            self.params = None if params is None else params.copy()


@dataclass
class State:
    """A fit that can go on: ``net.fit(..., state=result.state)``. It pickles.

    A fit takes a copy, so two fits that go on from one state are equal.
    """

    solver: str
    params: Array  # of the network, those of the last iteration
    free: npt.NDArray[np.bool_] | None
    core: Core
    best: Best | None = None
    history: dict[str, list[float]] = field(default_factory=lambda: {"loss": [], "val_loss": []})

    @property
    def n_iter(self) -> int:
        """The number of iterations, or epochs, so far."""
        return len(self.history["loss"])

    @property
    def n_evaluations(self) -> int:
        """Losses with gradients so far: of all samples, or of batches."""
        return self.core.n_batches if isinstance(self.core, Steps) else self.core.n_evaluations

    def copy(self) -> State:
        """A copy that shares nothing with this state."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        what = "epoch" if isinstance(self.core, Steps) else "iteration"
        return f"<State of {self.solver} after {shown.count(self.n_iter, what)}>"


def accepted(value: object, solver: str, params: Array, free: npt.NDArray[np.bool_] | None) -> State:
    """A copy of a state that belongs to this solver and these free parameters.

    Raises
    ------
    TypeError, ValueError
        If it does not.
    """
    if not isinstance(value, State):
        raise TypeError(f"state: expected the state of a result of fit, got {type(value).__name__}")
    if value.solver != solver:
        raise ValueError(f"state: expected one of the solver {solver!r}, got one of {value.solver!r}")
    if value.params.shape != params.shape or value.params.dtype != params.dtype:
        raise ValueError(
            f"state: expected one of {len(params):,} parameters of {params.dtype}, got {len(value.params):,} of "
            f"{value.params.dtype}"
        )
    ours, theirs = (np.ones(len(params), bool) if mask is None else mask for mask in (free, value.free))
    if not np.array_equal(ours, theirs):
        raise ValueError("state: expected one with the same free parameters, got others; give the same free")
    return value.copy()
