"""Epochs of a fit by adam or sgd, several in one compiled call.

The core follows the network's gradient, and scikit-learn's is c = scales.gradient times that. So in the core sgd has a
learning rate c times as large, Adam an epsilon smaller by c, and the penalty is alpha / (c W) / 2 times the squared
weights. Only roundings differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import threads
from backprop.sklearn.problem import Problem, is_sparse, rows_of_block

Array = npt.NDArray[Any]

_SMALLEST_RATE = 1e-6  # an adaptive learning rate below it ends the fit
_MOST_ROWS = 2**17  # whose orders are made together: 1 MiB


class Optimizer:
    """A stochastic solver: its learning rate, and its state between the epochs.

    Attributes
    ----------
    learning_rate_init, learning_rate : float
    moments : (2, n_params) or (1, n_params) array
        m and v of Adam, or the velocity of sgd, of the network's gradient and in its dtype.
    progress : (3,) float64 array
        The number of steps, and what the core keeps with it.
    """

    n_moments = 1

    def __init__(self, params: Array, learning_rate_init: float) -> None:
        self.learning_rate_init = float(learning_rate_init)
        self.learning_rate = float(learning_rate_init)
        self.moments = np.zeros((self.n_moments, len(params)), params.dtype)
        self.progress = np.array([0.0, 1.0, 1.0])

    def settings(self, c: float) -> dict[str, Any]:
        """How the core makes a step."""
        raise NotImplementedError

    def rates(self, n_seen: int, n_samples: int, n_epochs: int) -> Array:
        """The learning rates of the next epochs, (n_epochs,); n_seen samples were seen before."""
        return np.full(n_epochs, self.learning_rate)

    def epochs_end(self, n_seen: int) -> None:
        """Take the learning rate that follows so many samples."""

    def rate_factor(self, c: float) -> float:
        """By which the core's learning rate is larger."""
        return 1.0

    def stops(self) -> tuple[bool, str]:
        """Whether a fit ends that does not improve any more, and why."""
        return True, "Stopping."


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum: v <- momentum v - rate grad, theta <- theta + v.

    Nesterov's adds momentum v - rate grad, with the new v.
    """

    def __init__(
        self, params: Array, learning_rate_init: float, schedule: str, momentum: float, nesterov: bool, power_t: float
    ) -> None:
        super().__init__(params, learning_rate_init)
        self.schedule, self.momentum, self.nesterov, self.power_t = schedule, momentum, nesterov, power_t

    def settings(self, c: float) -> dict[str, Any]:
        """How the core makes a step."""
        return {"method": "sgd", "momentum": self.momentum, "is_nesterov": self.nesterov}

    def rate_factor(self, c: float) -> float:
        """By which the core's learning rate is larger: its gradient is smaller."""
        return c

    def _scaled(self, n_seen: Any) -> Any:
        return self.learning_rate_init / (n_seen + 1) ** self.power_t

    def rates(self, n_seen: int, n_samples: int, n_epochs: int) -> Array:
        """With "invscaling": rate_init / (samples so far + 1)^power_t after the first epoch."""
        rates = super().rates(n_seen, n_samples, n_epochs)
        if self.schedule == "invscaling":
            rates[1:] = [self._scaled(n_seen + k * n_samples) for k in range(1, n_epochs)]
        return rates

    def epochs_end(self, n_seen: int) -> None:
        """Take the learning rate that follows so many samples."""
        if self.schedule == "invscaling":
            self.learning_rate = self._scaled(n_seen)

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

    n_moments = 2

    def __init__(self, params: Array, learning_rate_init: float, beta_1: float, beta_2: float, epsilon: float) -> None:
        super().__init__(params, learning_rate_init)
        self.betas, self.epsilon = (beta_1, beta_2), epsilon

    def settings(self, c: float) -> dict[str, Any]:
        """How the core makes a step."""
        return {"method": "adam", "betas": self.betas, "epsilon": self.epsilon / c, "corrects_epsilon": False}


def most_together(n_samples: int) -> int:
    """Epochs whose orders are made together, at most."""
    return max(1, _MOST_ROWS // n_samples)


def shuffled(order: Array, n_epochs: int, random_state: np.random.RandomState) -> Array:
    """The orders of the next epochs, (n_epochs, n_samples): each is `sklearn.utils.shuffle` of the one before."""
    orders = np.empty((n_epochs, len(order)), np.intp)
    permutation, places = np.empty_like(order), np.arange(len(order))
    for k in range(n_epochs):
        permutation[:] = places
        random_state.shuffle(permutation)
        order = order.take(permutation, out=orders[k], mode="clip")
    return orders


class Runner:
    """Makes the steps of epochs of one batch size.

    Parameters
    ----------
    problem : Problem
        The params of its network change. They and the state of the optimizer are those of the last whole step, also if
        a call raises.
    optimizer : Optimizer
    batch_size : int
        From 1 to n_samples. The last batch of an epoch may be shorter. A batch without weight makes no step, and its
        loss is 0.
    """

    def __init__(self, problem: Problem, optimizer: Optimizer, batch_size: int) -> None:
        c = problem.scales.gradient
        self.problem, self.optimizer, self.batch_size = problem, optimizer, batch_size
        self.starts = np.arange(0, problem.n_samples, batch_size)
        self.sizes = np.diff(self.starts, append=problem.n_samples)
        self.rate_factor = optimizer.rate_factor(c)
        self.options = {
            **optimizer.settings(c),
            "l2": problem.alpha / c * problem.weights_per_row,  # the core divides by the sum of all weights
            "divides_l2": True,
            "loss_cap": problem.scales.loss_cap,
            "stops": False,
        }

    def run(self, orders: Array | None, rates: Array, curve: list[float]) -> None:
        """Make a step for each batch of some epochs.

        Parameters
        ----------
        orders : (n_epochs, n_samples) array of intp or None
            The rows, in the order of each epoch. None is the order of the samples.
        rates : (n_epochs,) array
        curve : list of float
            The mean of the reported losses of each epoch's batches, weighted by their rows, is appended. If this
            raises, these are the epochs that were completed.
        """
        n_done = len(rates)
        losses, penalties, totals = np.full((3, n_done, len(self.starts)), np.nan)
        first_step = float(self.optimizer.progress[0])
        try:
            if is_sparse(self.problem.x):
                self._run_blocks(orders, rates, losses, penalties, totals)
            else:
                self._run_arrays(self.problem, orders, rates, losses, penalties, totals)
        except BaseException:
            # A batch makes a step if it has a weight; the batches that were not reached have no total.
            steps = np.cumsum(totals > 0).reshape(totals.shape)[:, -1] + first_step
            n_done = int(np.count_nonzero((steps <= self.optimizer.progress[0]) & ~np.isnan(totals[:, -1])))
            raise
        finally:
            done = slice(n_done)
            curve += self._means(losses[done], penalties[done], None if orders is None else orders[done])

    def _run_arrays(self, problem: Problem, orders: Array | None, rates: Array, *outs: Array) -> None:
        net, (y, x, weights) = problem.net, problem.accepted
        losses, penalties, totals = outs
        net._plan.run_epochs(
            net._memory, x, y, weights, orders, self.batch_size, rates * self.rate_factor, self.optimizer.moments,
            self.optimizer.progress, losses, totals, threads.resolve(problem.n_threads), penalties=penalties,
            **self.options,
        )  # fmt: skip

    def _run_blocks(self, orders: Array | None, rates: Array, *outs: Array) -> None:
        """The same for a sparse x, of which some batches at a time are made dense."""
        problem, size, n_batches = self.problem, self.batch_size, len(self.starts)
        n_together = max(1, rows_of_block(problem.x) // size)
        for k in range(len(rates)):
            order = np.arange(problem.n_samples) if orders is None else orders[k]
            for first in range(0, n_batches, n_together):
                batches = slice(first, min(first + n_together, n_batches))
                block = problem.of_rows(order[batches.start * size : batches.stop * size])
                parts = np.zeros((3, 1, batches.stop - batches.start))
                try:
                    if block.row_weight.any():
                        parts[-1] = np.nan
                        self._run_arrays(block, None, rates[k : k + 1], *parts)
                finally:
                    for out, part in zip(outs, parts, strict=True):
                        out[k, batches] = part[0]

    def _means(self, losses: Array, penalties: Array, orders: Array | None) -> list[float]:
        """The reported losses of epochs, from those of the network and their penalties, (n_epochs, batches)."""
        problem = self.problem
        with np.errstate(all="ignore"):  # a fit that diverges has losses of NaN or infinity
            reported = problem.scales.loss * losses + problem.scales.gradient * penalties
            if problem.constants is not None:
                reported += self._constants(orders, len(losses))
            means: list[float] = ((reported * self.sizes).sum(axis=1) / problem.n_samples).tolist()
        return means

    def _constants(self, orders: Array | None, n_epochs: int) -> Array:
        """What the reported losses of the batches have beside the network's, (n_epochs, batches)."""
        problem, n = self.problem, self.problem.n_samples
        orders = np.broadcast_to(np.arange(n), (n_epochs, n)) if orders is None else orders
        weight = problem.row_weight
        sums = np.add.reduceat((problem.constants * weight)[orders], self.starts, axis=1)
        totals = np.add.reduceat(weight[orders], self.starts, axis=1)
        means: Array = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
        return means
