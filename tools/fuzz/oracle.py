"""The judge of fuzz.py: how far a result may be from the reference, which is computed in float64.

A. A result is judged row by row, along its last axis: the outputs or the gradient of one sample, the weights of one
   unit, one row of a Hessian; a vector is one row. The error is the norm of the difference. So a tiny result is judged
   as strictly as a large one.
B. The error may be ROUNDINGS u times the norm of the row, with u the dtype's unit roundoff. Nearly every right result
   is within that.
C. If terms cancel, rounding may do more. Only then the reference is computed again, N_DRAWS times: every number that
   goes into it, and every g, g', g'' and loss in it, is changed by NUDGE u at random. The root mean square of the
   changes of the result, times SPREADS, is added to the limit. It is also large at a kink of g, because rounding may
   take either side.
"""

from dataclasses import replace

import numpy as np

ROUNDINGS = 32  # of 19,000 judgements 241 were about larger errors
NUDGE = 4
SPREADS = 8  # the largest error of 60,000 right results was 1.5 times the change
N_DRAWS = 16


class FuzzError(AssertionError):
    """What must not happen."""


class Noise:
    """Relative changes by NUDGE u, up or down at random, of all numbers that the reference computes with."""

    def __init__(self, dtype, rng):
        self.size, self.rng = NUDGE * np.finfo(dtype).eps / 2, rng

    def of(self, value):
        """An array of floats, changed; labels and masks stay as they are."""
        value = np.asarray(value)
        if value.dtype.kind in "iub":
            return value
        return value * (1 + self.size * self.rng.choice([-1.0, 1.0], value.shape))

    def of_function(self, function):
        """The function with its results changed."""
        return lambda *arguments: self.of(function(*arguments))

    def of_specification(self, specification):
        """Sizes, activations and loss, with functions whose results are changed."""
        sizes, activations, (loss, loss_parameter) = specification
        derivatives = ("g", "g_prime", "g_second", "g_third")
        nudged = [
            (replace(row, **{name: self.of_function(getattr(row, name)) for name in derivatives}), p)
            for row, p in activations
        ]
        names = ("loss", "loss_prime", "curvature")
        loss = replace(loss, **{name: self.of_function(getattr(loss, name)) for name in names})
        return sizes, nudged, (loss, loss_parameter)


def norms(part, by_entry):
    """The norm of each row, or of each entry of a vector that has one entry per sample."""
    rows = part[:, None] if by_entry and part.ndim == 1 else np.atleast_1d(part)
    largest = np.abs(rows).max(axis=-1, keepdims=True, initial=0)
    scale = np.where(largest > 0, largest, 1.0)  # divided out, since squares may underflow
    return scale[..., 0] * np.sqrt(((rows / scale) ** 2).sum(axis=-1))


def judge(results, expected_of, dtype, *, by_entry=False):
    """Compare results with the reference, `expected_of(noise)`; it is exact if noise is None."""
    with np.errstate(all="ignore"):
        _judge(results, expected_of, dtype, by_entry)


def _judge(results, expected_of, dtype, by_entry):
    expected = [np.asarray(part, float) for part in expected_of(None)]
    if len(results) != len(expected):
        raise FuzzError(f"{len(results)} results, expected {len(expected)}")
    u, tiny = np.finfo(dtype).eps / 2, float(np.finfo(dtype).tiny)
    draws = []
    for place, (result, right) in enumerate(zip(results, expected, strict=True)):
        part = np.asarray(result, float)
        if part.shape != right.shape:
            raise FuzzError(f"result {place}: shape {part.shape}, expected {right.shape}")
        error = norms(part - right, by_entry)
        limit = ROUNDINGS * u * norms(right, by_entry) + tiny * max(1, part.size)  # an underflow is no error
        if not (error <= limit).all():
            noise = Noise(dtype, np.random.default_rng(0))
            draws = draws or [expected_of(noise) for _ in range(N_DRAWS)]
            changes = [norms(np.asarray(draw[place], float) - right, by_entry) for draw in draws]
            limit = limit + SPREADS * np.sqrt(np.mean(np.square(changes), axis=0))
        if not (error <= limit).all():
            worst = np.unravel_index(np.argmax(error - limit), error.shape)
            text = f"off by {error[worst]:.3g}, and {limit[worst]:.3g} is the limit"
            raise FuzzError(f"result {place}: {text}, got {part!r}, expected {right!r}")
