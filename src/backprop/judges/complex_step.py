"""The check of gradients: blocks of a gradient against the complex step of the NumPy reference.

A. The truth is the complex step of g and of the loss (`recursion.complex_step`). It has no step size to choose and no
   cancellation, and at a kink it takes the side on which the number lies, as the analytic derivative does. The
   products between them are linear, and carry derivatives exactly. For activations of the user for which no complex
   step works, `differences.py` gives the slope.
B. The error of a block (W_i or b_i) is max |g - reference| / scale. A gradient may nearly cancel between samples, or
   between y_hat and y; then |g| does not measure what rounding may do to it. So the scale is the largest entry of
   M + S. M = |grad_a|^T |h| adds the contributions of the samples without their signs. S is the change of the gradient
   under random relative changes of all parameters and inputs, per unit of that change.
C. Small networks are checked entry by entry. In large ones, each block is checked along random directions and at some
   of its entries. The entries of a direction are all between 0.5 and 1.5 in magnitude, so no single wrong entry can
   hide. The error of a direction is |g . v - reference| / ||M + S||_2. If a direction fails, halving it finds a wrong
   entry.
D. By rounding, a preactivation may be on the other side of a kink than in the reference, and g' then jumps. If a check
   fails, it is repeated without the samples for which this is possible, and the report says so. If it is possible for
   all samples, the check is repeated with the slopes of the sides that the network's own forward pass has taken. A
   gradient that still fails is wrong if the reference has taken the same sides; else the report cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop.activations import Activation
from backprop.api import parameters
from backprop.custom import Activation as Custom
from backprop.judges import differences
from backprop.losses import Loss, Parameter
from backprop.reference import recursion

Array = npt.NDArray[Any]

# The largest errors of right gradients were 7.1e-14 in float64 and 7.1e-7 in float32; nearly all were below 1e-15 and
# 4e-7. Of 1200 random networks of 1 to 8 layers, with all activations and losses, and some with y_hat close to y. (Not
# counted: one that took the sine of 1e17 in float32, and networks that overflow.)
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}
N_DIRECTIONS = 3
N_SAMPLED_ENTRIES = 16
MAX_COST_OF_ALL_ENTRIES = 3e8  # multiply-adds: one or two seconds
CALL_COST = 2e4  # cost of a call of the reference besides its products, in the same unit
N_PERTURBATIONS = 4


@dataclass(frozen=True)
class BlockCheck:
    """The check of the gradient by one W_i or b_i.

    Attributes
    ----------
    name : str
        "W_1", "b_1", "W_2", ...
    shape : tuple of int
    error : float
        The largest error found, relative to the block's scale; inf if the gradient or the reference is not finite.
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
class NearKinks:
    """Where rounding may move a number across a kink: masks of a_1..a_L, and of what the loss acts on."""

    a: list[Array]
    z: Array
    kinks: list[str]

    @property
    def rows(self) -> Array:
        """A mask of the rows with such a number."""
        rows: Array = np.any([mask.any(axis=1) for mask in [*self.a, self.z]], axis=0)
        return rows


@dataclass(frozen=True)
class Problem:
    """The arguments of the reference, in float64: rows without weight are dropped, labels are rows of 0 and 1."""

    sizes: tuple[int, ...]
    layers: Sequence[tuple[Activation, float]]
    loss: tuple[Loss, Parameter]
    theta: Array
    x: Array
    y: Array
    weight: Array | None
    sides: tuple[list[Array], Array] | None = None  # at these a_1..a_L, and z of the loss, slopes are taken

    def value(self, theta: Array) -> float:
        """The loss."""
        return float(self._at(theta).loss.real)

    @cached_property
    def reference(self) -> recursion.Reference:
        """Loss and gradient by the reference's own recursion: for scales, not for the verdict."""
        return self._at(self.theta)

    def _at(self, theta: Array) -> recursion.Reference:
        return recursion.value_and_grad(self.sizes, self.layers, self.loss, theta, self.x, self.y, self.weight)

    def fits(self, dtype: np.dtype[Any]) -> bool:
        """Whether every number of the reference's recursion is one of the dtype's range."""
        result = self.reference
        lists = (result.a, result.h, result.grad_a, result.grad_h, result.grad_W, result.grad_b)
        largest = [np.abs(part).max() for parts in lists for part in parts if part is not None]
        return bool(np.isfinite(result.loss) and all(value <= np.finfo(dtype).max for value in largest))

    @cached_property
    def share(self) -> Array:
        """What each term of the loss counts for."""
        return recursion.shares(self.weight, self.loss[0], self.y)

    @cached_property
    def judged(self) -> tuple[recursion.Reference, tuple[str, ...], tuple[str, ...]]:
        """A and h with the slopes by which gradients are judged; what to remark, and what cannot be told."""
        result = recursion.forward(self.sizes, self.layers, self.theta, self.x)
        result.slopes = [None]
        remarks, doubts = [], []
        sides = result.a[1:] if self.sides is None else self.sides[0]
        for i, ((activation, parameter), a) in enumerate(zip(self.layers, sides, strict=True), start=1):
            if not isinstance(activation, Custom):
                result.slopes.append(recursion.slope(activation, parameter, a))
                continue
            found = differences.slopes(activation, a)
            result.slopes.append(found.slope)
            where = f"layer {i}: g' of {activation.name!r}"
            if found.at_kink.any():
                remarks.append(f"{where} may be either side's at a kink of g, as at a = {a[found.at_kink][0]:.6g}")
            if found.unsettled.any():
                doubts.append(f"{where} at a = {a[found.unsettled][0]:.6g}, where differences of g do not settle")
        if self.sides is not None:
            (result.a if self.loss[0].acts_on_a else result.h)[-1] = self.sides[1]
        return result, tuple(remarks), tuple(doubts)

    def derivative(self, direction: Array) -> float:
        """The derivative of the loss along a direction, by the complex step."""
        result, _, _ = self.judged
        return recursion.loss_along(self.sizes, self.loss, self.theta, direction, result, self.y, self.share)

    def derivative_at(self, indices: Array, values: Array | float) -> float:
        """The derivative along a direction that is 0 except at some entries."""
        direction = np.zeros(self.theta.shape)
        direction[indices] = values
        return self.derivative(direction)

    def on_sides_of(self, near: NearKinks, a: list[Any], y_hat: Array) -> tuple[Problem, bool]:
        """The problem on the sides of kinks that a forward pass has taken, and whether these are the sides it had."""
        (loss, parameter), reference = self.loss, self.reference
        z, z_seen = (reference.a[-1], a[-1]) if loss.acts_on_a else (reference.h[-1], y_hat)
        z_moved = np.where(near.z, z_seen, z)
        a_moved = [np.where(*arrays) for arrays in zip(near.a, a[1:], reference.a[1:], strict=True)]
        moved = replace(self, sides=(a_moved, z_moved))
        slopes = [*self.judged[0].slopes[1:], loss.loss_prime(z, self.y, parameter)]
        slopes_moved = [*moved.judged[0].slopes[1:], loss.loss_prime(z_moved, self.y, parameter)]
        same = all(np.allclose(*pair, rtol=1e-3) for pair in zip(slopes, slopes_moved, strict=True))
        return moved, same

    def without(self, rows: Array) -> Problem:
        """The problem without the rows of a mask."""
        weight = None if self.weight is None else self.weight[~rows]
        return replace(self, x=self.x[~rows], y=self.y[~rows], weight=weight)


# Scales --------------------------------------------------------------------------------------------------------------


def _perturbations(problem: Problem, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Directions of parameters and inputs: random relative changes, all different."""
    for _ in range(N_PERTURBATIONS):
        yield (
            problem.theta * rng.standard_normal(problem.theta.shape),
            problem.x * rng.standard_normal(problem.x.shape),
        )


def _scale(problem: Problem, rng: np.random.Generator) -> Array:
    """M + S of note B for every parameter."""
    reference = problem.reference
    M = np.empty(problem.theta.shape)
    for i, (W, b) in enumerate(parameters.unflatten(M, problem.sizes), start=1):
        grad_a = np.abs(reference.grad_a[i])
        W[...] = grad_a.T @ np.abs(reference.h[i - 1])
        b[...] = grad_a.sum(axis=0)
    layers = [(differences.row_of(activation), parameter) for activation, parameter in problem.layers]
    changes = [
        recursion.gradient_along(
            problem.sizes, layers, problem.loss, problem.theta, direction, reference, problem.y, problem.share, R_x
        )
        for direction, R_x in _perturbations(problem, rng)
    ]
    M += np.sqrt(np.mean(np.square(changes), axis=0))
    return M


def near_kinks(problem: Problem, dtype: np.dtype[Any], rng: np.random.Generator) -> NearKinks:
    """Where rounding in dtype may move a number of the reference across a kink."""
    # 60 random networks of up to 12 layers had errors of a up to 4.8 eps times the bands below, in float32.
    unit = 16.0 * np.finfo(dtype).eps
    reference, loss = problem.reference, problem.loss[0]
    perturbed = [
        recursion.forward_along(problem.sizes, problem.theta, direction, reference, R_x)[0]
        for direction, R_x in _perturbations(problem, rng)
    ]
    near = NearKinks([], np.zeros(problem.y.shape, bool), [])
    for i, ((W, b), (activation, _)) in enumerate(
        zip(parameters.unflatten(problem.theta, problem.sizes), problem.layers, strict=True), start=1
    ):
        terms = np.abs(reference.h[i - 1]) @ np.abs(W).T
        a_band = unit * (terms + np.abs(b) + np.max([np.abs(R_a[i]) for R_a in perturbed], axis=0))
        a_band[terms == 0] = 0.0  # a is b, and nothing is rounded
        if isinstance(activation, Custom):
            at_kink = differences.jumps_within(activation, reference.a[i], a_band)
        else:
            at_kink = np.zeros(a_band.shape, bool)
            for kink in activation.kinks:
                at_kink |= np.abs(reference.a[i] - kink) < a_band
        near.a.append(at_kink)
        if at_kink.any():
            near.kinks.append(f"{activation.name!r} in layer {i}")
    if loss.has_kink:
        z, z_band = reference.a[-1], a_band
        if not loss.acts_on_a:
            z = reference.h[-1]
            z_band = unit * np.abs(z) + a_band * np.abs(reference.slopes[-1])
        near.z[...] = np.abs(z - problem.y) < z_band
        if near.z.any():
            near.kinks.append(f"the loss {loss.name!r}")
    return near


# Blocks --------------------------------------------------------------------------------------------------------------


def _ratio(difference: float, scale: float) -> float:
    """A relative error; inf if it is not a number."""
    error = abs(difference) / scale
    return float(error) if np.isfinite(error) else np.inf


def check_blocks(
    problem: Problem, gradient: Array, dtype: np.dtype[Any], rng: np.random.Generator
) -> tuple[tuple[BlockCheck, ...], bool]:
    """The check of every block, and whether every entry was checked."""
    if not isinstance(gradient, np.ndarray) or gradient.shape != problem.theta.shape:
        shape = getattr(gradient, "shape", type(gradient).__name__)
        raise ValueError(f"value_and_grad: expected a gradient of shape {problem.theta.shape}, got {shape}")
    n_params = problem.theta.shape[0]
    every_entry = n_params * (n_params * problem.x.shape[0] + CALL_COST) <= MAX_COST_OF_ALL_ENTRIES
    tolerance = TOLERANCE[dtype.name]
    scale = _scale(problem, rng) + np.finfo(dtype).tiny / tolerance  # an entry that underflows is right
    blocks = []
    start = 0
    for i, (W, b) in enumerate(parameters.unflatten(gradient.astype(np.float64), problem.sizes), start=1):
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
        largest_scale = self.scale.max()  # divided out: squares may underflow
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
        """An entry that makes the direction fail, by repeatedly taking the half with the larger difference."""
        entries = np.arange(self.gradient.size)
        while entries.size > 1:
            halves = np.array_split(entries, 2)
            entries = max(halves, key=lambda half: abs(self.difference(half, direction)))
        return int(entries[0])
