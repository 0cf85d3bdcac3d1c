"""The judge of gradient checks: blocks of a gradient against the complex step of the NumPy reference.

A. The judge is the complex step of the reference's loss (`_reference.complex_step`), which has no step size to choose
   and no cancellation: Im L(theta + i e v) / e is the derivative along v to rounding. It takes the real part's side of
   every kink, as the analytic derivative does.
B. The error of a block (W_i or b_i) is max |g - reference| / scale. A gradient may nearly cancel between samples, or
   between y_hat and y, and |g| would then be no measure of what rounding may do to it. So the scale is the largest
   entry of M + S: M = |grad_a|^T |h| adds the samples' contributions without their signs, S is the change of the
   gradient by a relative change of all parameters and inputs at random, per unit of that change.
C. Small networks are checked entry by entry. In large ones each block is checked along random directions, whose
   entries are all between 0.5 and 1.5 in magnitude so that no single wrong entry can hide, and at a sample of entries.
   A direction's error is |g . v - reference| / ||M + S||_2. Where it fails, halving the direction finds a wrong entry.
D. Rounding can put a preactivation on the other side of a kink than the reference has it, and g' then jumps. Where a
   check fails, it is made once more without the samples for which this is possible, and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _reference
from backprop import params as _params
from backprop.activations import Activation
from backprop.losses import Loss

Array = npt.NDArray[Any]

# Largest errors of right gradients, over 1200 random networks of 1 to 8 layers with all activations and losses, some
# of them with y_hat almost y: 7.1e-14 in float64, 7.1e-7 in float32; nearly all are below 1e-15 and 4e-7. (Without one
# that took the sine of 1e17 in float32, and networks that overflow.)
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}
N_DIRECTIONS = 3
N_SAMPLED_ENTRIES = 16
MAX_COST_OF_ALL_ENTRIES = 3e8  # multiply-adds of complex numbers: one or two seconds
CALL_COST = 2e4  # what a call of the reference costs beside its products, in the same unit
N_PERTURBATIONS = 4
STEP = 1e-100


@dataclass(frozen=True)
class BlockCheck:
    """The check of the gradient by one W_i or b_i.

    Attributes
    ----------
    name : str
        "W_1", "b_1", "W_2", ...
    shape : tuple of int
    error : float
        The largest error found, relative to the block's scale; inf where the gradient or the reference is not finite.
    worst : str
        The entry with the largest error of those looked at, as "W_2[3, 5]".
    gradient, reference : float
        The values of that entry.
    """

    name: str
    shape: tuple[int, ...]
    error: float
    worst: str
    gradient: float
    reference: float


@dataclass(frozen=True)
class Problem:
    """What the reference needs, in float64: rows without weight dropped, labels as rows of 0 and 1."""

    sizes: tuple[int, ...]
    layers: list[tuple[Activation, float]]
    loss: tuple[Loss, float]
    theta: Array
    x: Array
    y: Array
    weight: Array | None

    def value(self, theta: Array) -> float:
        """The loss."""
        return float(np.real(self.reference(theta, self.x).loss))

    def reference(self, theta: Array, x: Array) -> _reference.Reference:
        """Loss and gradient by the reference's own recursion."""
        return _reference.value_and_grad(self.sizes, self.layers, self.loss, theta, x, self.y, self.weight)

    def derivative(self, direction: Array) -> float:
        """The derivative of the loss along a direction, by the complex step."""
        return _reference.complex_step(
            self.sizes, self.layers, self.loss, self.theta, direction, self.x, self.y, self.weight
        )

    def derivative_at(self, indices: Array, values: Array | float) -> float:
        """The derivative along a direction that is 0 but for some entries."""
        direction = np.zeros(self.theta.shape)
        direction[indices] = values
        return self.derivative(direction)

    def without(self, rows: Array) -> Problem:
        """The problem without the rows of a mask."""
        weight = None if self.weight is None else self.weight[~rows]
        return replace(self, x=self.x[~rows], y=self.y[~rows], weight=weight)


# Scales --------------------------------------------------------------------------------------------------------------


def _perturbed(problem: Problem, rng: np.random.Generator) -> list[_reference.Reference]:
    """The reference at parameters and inputs of random imaginary parts, in magnitude STEP times the real parts."""
    results = []
    for _ in range(N_PERTURBATIONS):
        theta = problem.theta + 1j * STEP * problem.theta * rng.choice([-1.0, 1.0], problem.theta.shape)
        x = problem.x + 1j * STEP * problem.x * rng.choice([-1.0, 1.0], problem.x.shape)
        results.append(problem.reference(theta, x))
    return results


def _scale(problem: Problem, rng: np.random.Generator) -> Array:
    """M + S of note B for every parameter."""
    reference = problem.reference(problem.theta, problem.x)
    M = np.empty(problem.theta.shape)
    for i, (W, b) in enumerate(_params.unflatten(M, problem.sizes), start=1):
        grad_a = np.abs(reference.grad_a[i])
        W[...] = grad_a.T @ np.abs(reference.h[i - 1])
        b[...] = grad_a.sum(axis=0)
    changes = [result.gradient.imag / STEP for result in _perturbed(problem, rng)]
    M += np.sqrt(np.mean(np.square(changes), axis=0))
    return M


def rows_near_kinks(problem: Problem, dtype: np.dtype[Any], rng: np.random.Generator) -> Array:
    """Which rows have a preactivation that rounding in dtype may move across a kink."""
    # 60 random networks of up to 12 layers had errors of a up to 4.8 eps times the bands below, in float32.
    unit = 16.0 * np.finfo(dtype).eps
    perturbed = _perturbed(problem, rng)
    reference = problem.reference(problem.theta, problem.x)
    near = np.zeros(problem.x.shape[0], bool)
    n_layers = len(problem.sizes) - 1
    for i, ((W, b), (activation, parameter)) in enumerate(
        zip(_params.unflatten(problem.theta, problem.sizes), problem.layers, strict=True), start=1
    ):
        terms = np.abs(reference.h[i - 1]) @ np.abs(W).T + np.abs(b)
        a_band = unit * (terms + np.max([np.abs(result.a[i].imag) for result in perturbed], axis=0) / STEP)
        for kink in activation.kinks:
            near |= (np.abs(reference.a[i] - kink) < a_band).any(axis=1)
        if i == n_layers and problem.loss[0].has_kink:
            z, z_band = reference.a[i], a_band
            if not problem.loss[0].acts_on_a:
                z = reference.h[i]
                z_band = unit * np.abs(z) + a_band * np.abs(activation.g_prime(reference.a[i], parameter))
            near |= (np.abs(z - problem.y) < z_band).any(axis=1)
    return near


# Blocks --------------------------------------------------------------------------------------------------------------


def _ratio(difference: float, scale: float) -> float:
    """A relative error; inf where it is not a number."""
    error = abs(difference) / scale
    return float(error) if np.isfinite(error) else np.inf


def check_blocks(
    problem: Problem, gradient: Array, dtype: np.dtype[Any], rng: np.random.Generator
) -> tuple[tuple[BlockCheck, ...], bool]:
    """The check of every block, and whether each entry was looked at."""
    if not isinstance(gradient, np.ndarray) or gradient.shape != problem.theta.shape:
        shape = getattr(gradient, "shape", type(gradient).__name__)
        raise ValueError(f"value_and_grad: expected a gradient of shape {problem.theta.shape}, got {shape}")
    n_params = problem.theta.shape[0]
    every_entry = n_params * (n_params * problem.x.shape[0] + CALL_COST) <= MAX_COST_OF_ALL_ENTRIES
    tolerance = TOLERANCE[dtype.name]
    scale = _scale(problem, rng) + np.finfo(dtype).tiny / tolerance  # what underflows is right
    blocks = []
    start = 0
    for i, (W, b) in enumerate(_params.unflatten(gradient.astype(np.float64), problem.sizes), start=1):
        for kind, part in (("W", W), ("b", b)):
            indices = np.arange(start, start + part.size)
            judge = _Block(problem, part.ravel(), scale[indices], indices)
            error, worst, reference = judge.all_entries() if every_entry else judge.directions(tolerance, rng)
            position = ", ".join(str(k) for k in np.unravel_index(worst, part.shape))
            blocks.append(
                BlockCheck(
                    name=f"{kind}_{i}",
                    shape=part.shape,
                    error=error,
                    worst=f"{kind}_{i}[{position}]",
                    gradient=float(part.flat[worst]),
                    reference=reference,
                )
            )
            start += part.size
    return tuple(blocks), every_entry


@dataclass(frozen=True)
class _Block:
    """One W_i or b_i, flat: its gradient, its scales, and its places in the vector of parameters."""

    problem: Problem
    gradient: Array
    scale: Array
    indices: Array

    def entry(self, k: int) -> tuple[float, int, float]:
        """Error, place and reference of one entry."""
        reference = self.problem.derivative_at(self.indices[k], 1.0)
        return _ratio(self.gradient[k] - reference, self.scale.max()), k, reference

    def all_entries(self) -> tuple[float, int, float]:
        """The worst of all entries."""
        return max((self.entry(k) for k in range(self.gradient.size)), key=lambda checked: checked[0])

    def difference(self, entries: Array, direction: Array) -> float:
        """The gradient minus the reference, along a direction restricted to some entries."""
        values = direction[entries]
        return float(self.gradient[entries] @ values) - self.problem.derivative_at(self.indices[entries], values)

    def directions(self, tolerance: float, rng: np.random.Generator) -> tuple[float, int, float]:
        """The largest error along random directions and at some entries, with the worst entry (note C)."""
        size = self.gradient.size
        largest = np.argsort(-np.abs(np.nan_to_num(self.gradient, nan=np.inf)), kind="stable")[: N_SAMPLED_ENTRIES // 4]
        others = rng.choice(size, min(size, N_SAMPLED_ENTRIES - largest.size), replace=False)
        checked = [self.entry(int(k)) for k in np.union1d(largest, others)]
        error = 0.0
        everywhere = np.arange(size)
        largest_scale = self.scale.max()  # divided out, since squares may underflow
        norm = float(largest_scale * np.linalg.norm(self.scale / largest_scale))
        for _ in range(N_DIRECTIONS):
            direction = rng.choice([-1.0, 1.0], size) * rng.uniform(0.5, 1.5, size)
            along = _ratio(self.difference(everywhere, direction), norm)
            error = max(error, along)
            if tolerance < along < np.inf:
                checked.append(self.entry(self.bisect(direction)))
        worst = max(checked, key=lambda one: one[0])
        return max(error, worst[0]), worst[1], worst[2]

    def bisect(self, direction: Array) -> int:
        """An entry that makes the direction fail: the half with the larger difference, again and again."""
        entries = np.arange(self.gradient.size)
        while entries.size > 1:
            halves = np.array_split(entries, 2)
            entries = max(halves, key=lambda half: abs(self.difference(half, direction)))
        return int(entries[0])
