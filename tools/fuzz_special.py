"""The sets of tools/fuzz.py with numbers that are not finite, or subnormal."""

import fuzz_arguments as arguments
import numpy as np
from fuzz_oracle import FuzzError


class Special:
    """Part of a `Round`."""

    def special(self):
        """NaN, infinities and subnormals: never hidden, the same bits from every layout."""
        r, net = self.random, self.net
        x = self.numbers["x"].astype(self.dtype)
        tiny = float(np.finfo(self.dtype).smallest_subnormal)
        value = r.choice([np.nan, np.inf, -np.inf, tiny, 3 * tiny, float(np.finfo(self.dtype).max)])
        row, column = r.randrange(len(x)), r.randrange(x.shape[1])
        x[row, column] = value
        self.description = "special", {"x": value}, set()
        given, kind = arguments.with_strides(r, x)
        y = self.numbers["y"] if self.numbers["y"].dtype.kind == "i" else self.numbers["y"].astype(self.dtype)
        with np.errstate(all="ignore"):
            loss, grad = net.value_and_grad(x, y)
            again_loss, again = net.value_and_grad(given, y, n_threads=3)
            alone = net.forward(x[row : row + 1])
            together = net.forward(given)
            right = self.reference({"x": x.astype(float)}).value_and_grad()
        if not np.array_equal([loss, *grad], [again_loss, *again], equal_nan=True):
            raise FuzzError(f"other bits of {kind}")
        if not np.array_equal(together[row], alone[0], equal_nan=True):
            raise FuzzError(f"row {row} alone: {alone[0]!r}, in the batch {together[row]!r}")
        if np.isnan(value) and not (np.isnan(loss) and np.isnan(grad[: net.weights[0].size]).any()):
            raise FuzzError(f"NaN hidden: {loss}, {grad!r}")
        if 0 < abs(value) < 1e-30:
            self.compare("value_and_grad", [loss, grad], {"x": x.astype(float)})
        elif (
            np.isfinite(right[0])
            and np.isfinite(right[1]).all()
            and abs(value) == np.inf
            and (not np.isfinite(loss) or not np.isfinite(grad).all())
        ):
            raise FuzzError(f"not finite, though the reference is: {loss} and {right[0]}")  # fmt: skip
        return True
