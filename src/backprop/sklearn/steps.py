"""The steps of a fit by adam or sgd: the batches of one epoch, in plain NumPy around `Network.value_and_grad`.

The state of adam and sgd is float64. An update is computed in float64 and rounded once to the network's dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backprop.sklearn.problem import Problem

Array = npt.NDArray[Any]

_SMALLEST_RATE = 1e-6  # an adaptive learning rate below it ends the fit


class Optimizer:
    """A stochastic solver: its learning rate and its state."""

    def __init__(self, learning_rate_init: float) -> None:
        self.learning_rate_init = float(learning_rate_init)
        self.learning_rate = float(learning_rate_init)

    def step(self, theta: Array, grad: Array) -> None:
        """Change theta in place."""
        raise NotImplementedError

    def iteration_ends(self, n_seen: int) -> None:
        """Change the learning rate at the end of an epoch, if the schedule says so.

        Parameters
        ----------
        n_seen : int
            The number of samples so far, over all epochs.
        """

    def stops(self) -> tuple[bool, str]:
        """Whether a fit ends that does not improve any more, and why."""
        return True, "Stopping."


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum: v <- momentum v - rate grad, theta <- theta + v.

    Nesterov's adds momentum v - rate grad, with the new v.
    """

    def __init__(
        self, n_params: int, learning_rate_init: float, schedule: str, momentum: float, nesterov: bool, power_t: float
    ) -> None:
        super().__init__(learning_rate_init)
        self.schedule, self.momentum, self.nesterov, self.power_t = schedule, momentum, nesterov, power_t
        self.velocity = np.zeros(n_params)

    def step(self, theta: Array, grad: Array) -> None:
        """Change theta in place."""
        scaled = self.learning_rate * grad
        self.velocity = self.momentum * self.velocity - scaled
        theta += self.momentum * self.velocity - scaled if self.nesterov else self.velocity

    def iteration_ends(self, n_seen: int) -> None:
        """With "invscaling": rate_init / (n_seen + 1)^power_t."""
        if self.schedule == "invscaling":
            self.learning_rate = self.learning_rate_init / (n_seen + 1) ** self.power_t

    def stops(self) -> tuple[bool, str]:
        """With "adaptive", divide the learning rate by 5 instead, until it is too small."""
        if self.schedule != "adaptive":
            return True, "Stopping."
        if self.learning_rate <= _SMALLEST_RATE:
            return True, "Learning rate too small. Stopping."
        self.learning_rate /= 5.0
        return False, f"Setting learning rate to {self.learning_rate:f}"


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014, section 2, the efficient order): epsilon is added before the bias is corrected."""

    def __init__(self, n_params: int, learning_rate_init: float, beta_1: float, beta_2: float, epsilon: float) -> None:
        super().__init__(learning_rate_init)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.t = 0
        self.m, self.v = np.zeros(n_params), np.zeros(n_params)

    def step(self, theta: Array, grad: Array) -> None:
        """Change theta in place."""
        self.t += 1
        self.m = self.beta_1 * self.m + (1.0 - self.beta_1) * grad
        self.v = self.beta_2 * self.v + (1.0 - self.beta_2) * grad**2
        self.learning_rate = self.learning_rate_init * np.sqrt(1.0 - self.beta_2**self.t) / (1.0 - self.beta_1**self.t)
        theta += -self.learning_rate * self.m / (np.sqrt(self.v) + self.epsilon)


def run_epoch(problem: Problem, optimizer: Optimizer, order: Array | None, batch_size: int) -> float:
    """Make one step for each batch, and return the mean of the reported losses, weighted by the rows of the batches.

    Parameters
    ----------
    problem : Problem
        The params of its network change. If this raises, they are those of the last whole step.
    optimizer : Optimizer
    order : (n_samples,) array of int or None
        The rows, in the order of the epoch. None is the order of the samples.
    batch_size : int
        From 1 to n_samples. The last batch may be shorter. A batch without weight makes no step, and its loss is 0.
    """
    net, n = problem.net, problem.n_samples
    theta, grad = net.params, np.empty_like(net.params)
    sum_of_losses = 0.0
    with np.errstate(all="ignore"):  # a fit that diverges has a loss of NaN or infinity
        for start in range(0, n, batch_size):
            batch = slice(start, min(start + batch_size, n))
            rows = batch if order is None else order[batch]
            if problem.total(rows) > 0:
                loss, direction = problem.value_and_grad(rows, grad)
                sum_of_losses += loss * (batch.stop - batch.start)
                optimizer.step(theta, direction)
    return sum_of_losses / n
