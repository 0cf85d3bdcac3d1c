"""The sets of fuzz.py with numbers that are not finite, or subnormal, or too large."""

import arguments
import numpy as np
from calls import CALLS, call
from oracle import FuzzError, judge

REGRESSIONS = ("squared_error", "absolute_error", "huber", "quantile")  # any target is valid

# name -> which of the results have a row for each sample
BY_SAMPLE = {name: (0,) for name in (
    "forward", "jvp", "input_gradient", "input_jacobian", "jacobian", "per_sample_gradients",
    "per_sample_gradient_norms", "laplacian", "input_hessian",
)} | {
    "vjp": (1,), "residuals": (0, 1), "jet_vjp": (1,), "input_jet": (0, 1, 2), "input_jet_of_axes": (0, 1, 2),
}  # fmt: skip


class Special:
    """Part of a `Round`."""

    def special(self):
        """NaN, an infinity, a subnormal or the largest number in one row of x must show, and in that row only."""
        r = self.random
        x = self.numbers["x"].astype(self.dtype)
        row, column = r.randrange(len(x)), r.randrange(x.shape[1])
        tiny = float(np.finfo(self.dtype).smallest_subnormal)
        value = r.choice([np.nan, np.nan, np.inf, -np.inf, tiny, 3 * tiny, float(np.finfo(self.dtype).max)])
        x[row, column] = value
        possible = [name for name in self._possible_calls() if CALLS[name][0][0] == "x"]
        name = r.choice([name for name in possible if not name.startswith(("ensemble", "find", "check"))])
        weighted = "sample_weight" in CALLS[name][0] and self.by and r.random() < 0.6
        keys = tuple(key for key in CALLS[name][0] if key != "sample_weight" or weighted)
        self.description = f"special {name}", {"x": value, "row": row, "weighted": weighted}, set()
        before = self.plain(name, keys)
        given, kind = arguments.with_strides(r, x)
        with np.errstate(all="ignore"):
            values, options = self.plain_arguments(name, keys)
            results = call(self.net, self.ensemble, name, values | {"x": x}, options)
            again = call(self.net, self.ensemble, name, values | {"x": given}, options | {"n_threads": 3})
        for part, same in zip(results, again, strict=True):
            if not np.array_equal(part, same, equal_nan=True):
                raise FuzzError(f"other bits of {kind}")
        results = [np.asarray(part) for part in results]
        weight = self.numbers["sample_weight"][row] if weighted else np.ones(1)
        n = len(x)
        for place in BY_SAMPLE.get(name, ()):
            part, right = (np.delete(some[place].reshape(n, -1), row, axis=0) for some in (results, before))
            if part.tobytes() != right.tobytes():
                raise FuzzError(f"result {place}: row {row} has changed other rows")
        if not weight.any():
            n_of_forward = 2 * len(self.net.sizes) if name == "layer_gradients" else 0  # after the loss all a and h
            for place, (part, right) in enumerate(zip(results, before, strict=True)):
                if not 0 < place < n_of_forward and part.tobytes() != right.tobytes():
                    raise FuzzError(f"result {place}: row {row} has weight 0, and changed it")
            return True
        own = self.numbers_of(name)
        numbers = {key: own[key] for key in keys} | {"x": x.astype(float)}
        if abs(value) < 1:
            self.compare(name, results, numbers)
        elif not np.isfinite(value):
            self._judge_beside_nonfinite(name, results, numbers, value, weight.all())
        return True

    def _judge_beside_nonfinite(self, name, results, numbers, value, all_outputs_count):
        """A NaN of the reference must show, and its finite numbers must agree.

        An output of weight 0 may hide its own NaN. The derivative of an output by a parameter of another output alone
        is 0; the reference has 0 times NaN there.
        """
        right = [np.asarray(part) for part in self.expected(name, numbers)]
        finite = [np.isfinite(part) for part in right]
        if np.isnan(value):
            for place, (part, expected) in enumerate(zip(results, right, strict=True)):
                hidden, shown = np.isnan(expected) & ~np.isnan(part), np.isnan(part)
                if name in {"jacobian", "input_jacobian", "residuals", "normal_equations"} and shown.any():
                    hidden &= part != 0
                if hidden.any() and (all_outputs_count or not shown.any()):
                    raise FuzzError(f"result {place}: NaN hidden: {part!r}, expected {expected!r}")
        elif name == "clipped_gradient":
            return  # a row with an infinite norm: 0 times infinity
        with np.errstate(all="ignore"):
            a = self.reference(numbers)._forward.a[1:]
        spreads = name == "sobolev_value_and_grad" and np.isinf(value)  # 0 times infinity in another place
        if spreads or any(np.isnan(part).any() for part in a):  # other results as well, if g' is constant
            finite = [mask & ~np.isnan(part) for mask, part in zip(finite, results, strict=True)]

        def only(parts):
            return [np.where(mask, part, 0.0) for mask, part in zip(finite, parts, strict=True)]

        judge(only(results), lambda noise: only(self.expected(name, numbers, noise)), self.dtype)

    def nonfinite(self):
        """`find_nonfinite` names the one number that is not finite: an input, a parameter or a target."""
        r, net, weight = self.random, self.net, None
        if self.by and r.random() < 0.6:
            weight = self.numbers["sample_weight"]
        values, _ = self.plain_arguments("loss", ("x", "y"))
        x, y, theta = values["x"], values["y"].copy(), net.params.copy()
        L, n = len(net.sizes) - 1, len(x)
        counts = np.ones((n, 1), bool) if weight is None else weight.reshape(n, -1) > 0
        counts = np.broadcast_to(counts, (n, net.sizes[-1]))
        row, value = r.randrange(n), r.choice([np.nan, np.inf, -np.inf])
        stage = r.choice(["input", "weight", *(["loss"] if self.loss_name in REGRESSIONS else [])])
        if stage == "input":
            layer, unit = 0, r.randrange(net.sizes[0])
            x[row, unit] = value
            is_met = counts[row].any()
        elif stage == "weight":
            layer = r.randrange(1, L + 1)
            unit = r.randrange(net.sizes[layer])
            row, (W, b) = int(counts.any(axis=1).argmax()), net.unflatten(theta)[layer - 1]
            r.choice([W[unit], b[unit : unit + 1]])[:1] = value
            is_met = layer < L or counts[:, unit].any()
        else:
            layer, unit = L, r.randrange(net.sizes[-1])
            y[row, unit] = value
            is_met = counts[row, unit]
        self.description = f"find_nonfinite, {stage}", {"row": row, "layer": layer, "unit": unit}, {value}
        options = {} if weight is None else {"sample_weight": weight}
        with np.errstate(all="ignore"):
            found = net.find_nonfinite(x, y, params=theta, **options)
            loss, grad = net.value_and_grad(x, y, params=theta, **options)
        is_finite = np.isfinite(loss) and np.isfinite(grad).all()  # infinite weights may be: tanh of infinity is 1
        if is_finite if np.isinf(value) else not is_met:
            if found is not None:
                raise FuzzError(f"found though loss and gradient are finite: {found}")
        elif found is None or (found.sample, found.layer, found.unit, found.stage) != (row, layer, unit, stage):
            raise FuzzError(f"found {found!r}")
        elif not np.array_equal(found.value, value, equal_nan=True) or str(value) not in str(found):
            raise FuzzError(f"found {found!r}, which is {value}")
        return True
