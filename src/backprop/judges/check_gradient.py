"""Gradient checks: `value_and_grad` against the complex step of the NumPy reference, layer by layer.

`complex_step.py` decides. SciPy's check_grad is reported too, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import shown
from backprop.api.base import Base
from backprop.judges.complex_step import N_DIRECTIONS, TOLERANCE, BlockCheck, Problem, check_blocks, near_kinks
from backprop.judges.find_nonfinite import find_in_weights, find_nonfinite
from backprop.losses import label_rows

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GradientReport(shown.Shown):
    """What `Network.check_gradient` found; printing it gives a table with a verdict.

    Attributes
    ----------
    ok : bool
        Whether the gradient is right: the largest error is within the tolerance, and there is no doubt.
    max_error : float
        The largest relative error of all blocks.
    tolerance : float
        1e-12 in float64, 2e-6 in float32.
    blocks : tuple of BlockCheck
        W_1, b_1, W_2, b_2, ...
    check_grad : float
        `scipy.optimize.check_grad` of the same gradient: its distance from finite differences of the float64 loss.
    gradient_norm : float
        The 2-norm of the gradient, for comparison with check_grad; along a random direction if along_direction is True.
    along_direction : bool
        Whether check_grad looked along one random direction, as it does for large networks.
    every_entry : bool
        Whether every parameter was checked by itself; else the blocks were checked along random directions.
    n_samples, n_left_out : int
        Samples used, and samples left out because they are within rounding of a kink.
    title : str
        What was checked.
    doubts : tuple of str
        Why the report cannot tell whether the gradient is right; empty if it can.
    remarks : tuple of str
        Kinks of the user's activations at which g' is the slope of either side, or one in between.
    """

    ok: bool
    max_error: float
    tolerance: float
    blocks: tuple[BlockCheck, ...]
    check_grad: float
    gradient_norm: float
    along_direction: bool
    every_entry: bool
    n_samples: int
    n_left_out: int
    title: str
    doubts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Either "right", "WRONG", or "cannot tell"."""
        return "right" if self.ok else "cannot tell" if self.doubts else "WRONG"

    def __str__(self) -> str:
        table = self._table()
        return "\n".join([table.title, "", *table.lines(), "", *table.notes])

    def _table(self) -> shown.Table:
        how = "every parameter" if self.every_entry else f"{N_DIRECTIONS} random directions a block, and some entries"
        header = ("block", "shape", "error", "worst entry", "gradient", "reference")
        rows = [
            (b.name, str(b.shape), f"{b.error:.1e}", b.worst, f"{b.gradient:.6e}", f"{b.reference:.6e}")
            for b in self.blocks
        ]
        lines = []
        if self.n_left_out:
            samples = "1 sample" if self.n_left_out == 1 else f"{self.n_left_out} samples"
            was = "was" if self.n_left_out == 1 else "were"
            lines.append(f"{samples} within rounding of a kink {was} left out")
        lines += self.remarks
        if self.doubts:
            found = "; ".join(self.doubts)
        elif np.isfinite(self.max_error):
            relation = "<=" if self.ok else "exceeds"
            found = f"largest relative error {self.max_error:.1e} {relation} {self.tolerance:.0e}"
        else:
            found = f"largest relative error {self.max_error:.1e} is not finite, tolerance {self.tolerance:.0e}"
        lines.append(f"{self.verdict}: {found}")
        where = " along a random direction" if self.along_direction else ""
        lines.append(f"scipy.optimize.check_grad{where}: {self.check_grad:.1e}, where |g| = {self.gradient_norm:.1e}")
        title = f"{self.title}\ncomplex step of the reference: {how}, {self.n_samples} samples"
        return shown.Table(title, header, rows, lines, "<<><>>")


def check_gradient(
    net: Base, x: npt.ArrayLike, y: npt.ArrayLike, *, sample_weight: npt.ArrayLike | None = None
) -> GradientReport:
    """Check ``net.value_and_grad`` against the complex step of the NumPy reference.

    Parameters
    ----------
    net : Network
        The `value_and_grad` of this object is checked, also if a subclass defines it.
    x : (n_samples, n_0) array_like
    y : (n_samples, n_L) array_like, or labels (n_samples,)
    sample_weight : (n_samples,) or (n_samples, n_L) array_like, optional
        As in `Network.value_and_grad`.

    Returns
    -------
    GradientReport

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or if `value_and_grad` returns a gradient of the wrong shape.

    Notes
    -----
    The complex step: Squire and Trapp, Using complex variables to estimate derivatives of real functions, SIAM Review
    40 (1998). The reference runs in float64 at the very parameters and inputs of the network, rounded to its dtype.

    The g' of a user's activation is also checked by differences of its g, which need no complex numbers. At a kink of
    g, every slope between those of its two sides is right.
    """
    with _core.DefaultFloatMode():  # for the network, the reference and SciPy's differences
        return _report(net, x, y, sample_weight)


def _report(net: Base, x: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None) -> GradientReport:
    y_, x_, theta, weights = net._inputs(x, y, None, sample_weight, whole=True)
    weight = None if weights is None else weights.array * weights.scale
    used = np.ones(x_.shape[0], bool) if weight is None else (weight > 0).reshape(x_.shape[0], -1).any(axis=1)
    problem = _problem_of(net, theta, x_[used], y_[used], None if weight is None else weight[used])
    rng = np.random.default_rng(0)  # one seed: a network and samples always give the same report
    tolerance = TOLERANCE[net.dtype.name]
    n_left_out = 0
    doubts: tuple[str, ...] = ()
    with np.errstate(all="ignore"):
        _, gradient = net.value_and_grad(x, y, sample_weight=sample_weight)
        blocks, every_entry = check_blocks(problem, gradient, net.dtype, rng)
        unlike = max(block.error for block in blocks) > tolerance
        not_finite = ""
        if unlike or not np.isfinite(theta).all():
            not_finite = _not_finite(net, problem, theta, x, y, sample_weight)
        if not_finite:
            doubts = (not_finite,)
        elif unlike:
            near = near_kinks(problem, net.dtype, rng)
            at_kink = near.rows
            if at_kink.all():
                kept_weight = None if weights is None else weights.array[used]
                layers = net.layer_gradients(x_[used], y_[used], sample_weight=kept_weight)
                problem, as_before = problem.on_sides_of(near, layers.a, layers.h[-1])
                blocks, every_entry = check_blocks(problem, gradient, net.dtype, rng)
                if not as_before and max(block.error for block in blocks) > tolerance:
                    doubts = (_all_at_kinks(at_kink.size, near.kinks),)
            elif at_kink.any():
                rows = np.flatnonzero(used)[~at_kink]
                problem = problem.without(at_kink)
                n_left_out = int(at_kink.sum())
                kept_weight = None if weights is None else weights.array[rows]
                _, gradient = net.value_and_grad(x_[rows], y_[rows], sample_weight=kept_weight)
                blocks, every_entry = check_blocks(problem, gradient, net.dtype, rng)
        scipy_error, along_direction = _check_grad(problem, np.asarray(gradient, np.float64), every_entry)
        _, remarks, unsettled = problem.judged
    max_error = max(block.error for block in blocks)
    if max_error <= tolerance:
        doubts += unsettled
    return GradientReport(
        ok=max_error <= tolerance and not doubts,
        max_error=max_error,
        tolerance=tolerance,
        blocks=blocks,
        check_grad=scipy_error,
        gradient_norm=float(np.linalg.norm(np.asarray(gradient, np.float64))),
        along_direction=along_direction,
        every_entry=every_entry,
        n_samples=problem.x.shape[0],
        n_left_out=n_left_out,
        title=f"gradient of {net!r}",
        doubts=doubts,
        remarks=remarks,
    )


def _not_finite(
    net: Base, problem: Problem, theta: Array, x: npt.ArrayLike, y: npt.ArrayLike, weight: npt.ArrayLike | None
) -> str:
    """The parameter or intermediate number that is not finite, in words; empty if there is none."""
    parameter = find_in_weights(net, theta)
    if parameter is not None:
        return str(parameter)
    if problem.fits(net.dtype):
        return ""
    found = find_nonfinite(net, x, y, sample_weight=weight)
    return f"a number on the way exceeds {net.dtype.name}" if found is None else str(found)


def _all_at_kinks(n_samples: int, kinks: list[str]) -> str:
    samples = "the one sample lies" if n_samples == 1 else f"all {n_samples} samples lie"
    return f"{samples} within rounding of a kink of {', '.join(kinks)}, where the derivative jumps: try others"


def random_problem(net: Base, n_samples: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Random samples and targets that fit the loss of a network.

    Parameters
    ----------
    net : Network
    n_samples : int
    rng : numpy.random.Generator

    Returns
    -------
    x : (n_samples, n_0) float64 array
        Standard normal.
    y : array
        Labels (n_samples,) for cross_entropy; else (n_samples, n_L): -1 or 1 for hinge, counts for poisson, numbers in
        [0, 1] for binary_cross_entropy, and standard normal for the other losses.
    """
    x = rng.standard_normal((n_samples, net.sizes[0]))
    shape = (n_samples, net.sizes[-1])
    targets: dict[str, Callable[[], Array]] = {
        "cross_entropy": lambda: rng.integers(0, shape[1], n_samples),
        "hinge": lambda: rng.choice([-1.0, 1.0], shape),
        "poisson": lambda: rng.poisson(2.0, shape).astype(np.float64),
        "binary_cross_entropy": lambda: rng.uniform(0.0, 1.0, shape),
    }
    return x, targets.get(net.loss_name, lambda: rng.standard_normal(shape))()


def _problem_of(net: Base, theta: Array, x: Array, y: Array, weight: Array | None) -> Problem:
    """The arguments of the reference. Targets of weight 0 become 0, since it multiplies by the weight."""
    targets = label_rows(y, net._architecture.sizes[-1]) if y.ndim == 1 else y.astype(np.float64)
    if weight is not None and weight.ndim == 2:
        targets[weight == 0] = 0.0
    return Problem(
        net._architecture.sizes,
        net._architecture.layers,
        net._architecture.loss_pair,
        theta.astype(np.float64),
        x.astype(np.float64),
        targets,
        weight,
    )


# SciPy ---------------------------------------------------------------------------------------------------------------


def _check_grad(problem: Problem, gradient: Array, every_entry: bool) -> tuple[float, bool]:
    """`scipy.optimize.check_grad` of the float64 reference loss, and whether it went along one direction only.

    Differences of a float32 loss are useless: a step of 1.5e-8, SciPy's, does not change it at all.
    """
    import inspect

    from scipy.optimize import check_grad

    options: dict[str, Any] = {}
    if not every_entry:
        keyword = "rng" if "rng" in inspect.signature(check_grad).parameters else "seed"  # SciPy 1.15 renamed it
        options = {"direction": "random", keyword: 0}
    return float(check_grad(problem.value, lambda theta: gradient, problem.theta, **options)), not every_entry
