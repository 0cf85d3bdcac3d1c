"""The arguments of one set of fuzz.py: which ones a call gets, in which forms, and which of them are wrong."""

import arguments
import numpy as np
from calls import (
    ALONE,
    BESIDE_X,
    CALLS,
    MANY_ENTRIES,
    OPTIONAL,
    POSITIONAL,
    SCALARS,
    SQUARED_ONLY,
    WITHOUT_PARAMS,
    WITHOUT_THREADS,
)


class Drawing:
    """Part of a `Round`."""

    def _possible_calls(self):
        return [
            name for name in CALLS
            if (self.loss_name == "squared_error" or name not in SQUARED_ONLY)
            and (self.by != "entry" or name != "sobolev_value_and_grad")
            and self.dimensions["P"] <= MANY_ENTRIES.get(name, 10**9)
        ]  # fmt: skip

    def draw(self, name, key, is_refused):
        """One argument."""
        r, values = self.random, self.numbers_of(name)[key]
        if key in SCALARS:
            number = float(values)
            if is_refused:
                bad = [np.inf] if key == "l2" else [0]
                bad = r.choice([*bad, -1.0, np.nan, -np.inf, "1", None, True, [1.0], 1j, np.ones(1), np.array(1.0)])
                return arguments.Argument(bad, None, repr(bad))
            return arguments.Argument(r.choice([number, np.float64(number)]), values, "number")
        if is_refused:
            if key == "sample_weight" and r.random() < 0.4:
                return self._wrong_weights(values)
            if key == "y" and r.random() < 0.4:
                wrong = self._wrong_targets(name, values)
                if wrong is not None:
                    return wrong
            if key == "free" and r.random() < 0.3:
                return arguments.Argument(*r.choice([(~values & values, None, "none"), (values * 1.0, None, "floats")]))
            alone = key == "x" and name in ALONE  # any number of rows is accepted
            return arguments.refused(r, values, self._taken_as(key), self.shapes_of(name, key), any_rows=alone)
        if key == "free":
            form = r.choice([arguments.with_strides, arguments.as_class])
            value, kind = form(r, values)
            return arguments.Argument(value, values, kind)
        may_round = () if key in ("y", "sample_weight", "weight") else arguments.FLOATS
        if key not in ("params", "theta"):  # integers here would put a on the kinks of g
            may_round = may_round and arguments.FLOATS + arguments.INTEGERS
        probabilities = key == "y" and self.loss_name == "cross_entropy"  # integers would be labels
        argument = arguments.taken(r, values, self._taken_as(key), may_round=may_round, floats_only=probabilities)
        if name.endswith("_operator") and key == "v":  # SciPy takes arrays only
            argument.value = np.asarray(argument.value)
        return argument

    def _taken_as(self, key):
        return np.dtype({"sample_weight": float, "weight": float, "free": bool}.get(key, self.dtype))

    def _wrong_weights(self, values):
        wrong = values.copy()
        form = self.random.randrange(5)
        if form == 0:
            wrong[...] = 0
        else:
            wrong.flat[self.random.randrange(wrong.size)] = [0, -1.0, np.nan, np.inf, -5e-324][form]
        return arguments.Argument(wrong, None, "weights that are none")

    def _wrong_targets(self, name, values):
        """Targets outside of the loss's domain, in a row whose weight is not 0."""
        values = np.asarray(values)
        weight = self.numbers_of(name)["sample_weight"]
        counts = np.ones(values.shape) if weight is None else np.broadcast_to(weight.T, values.shape[::-1]).T
        places = np.flatnonzero(counts)
        wrong = values.copy()
        k = self.dimensions["k"]
        if values.dtype.kind == "i":
            bad = self.random.choice([-1, k, -100, 1 << 32, 1 << 62, -(1 << 63)])
        else:
            bad = {"hinge": 0.5, "poisson": -1.0, "binary_cross_entropy": 2.0, "cross_entropy": -0.5}
            bad = bad.get(self.loss_name)
        if bad is None:
            return None
        wrong.flat[places[self.random.randrange(len(places))]] = bad
        return arguments.Argument(wrong, None, f"a target of {bad}")

    def _draw_arguments(self, name):
        """The arrays of a call by name, and which of its arguments are wrong."""
        r = self.random
        keys, out_shape, _ = CALLS[name]
        keys = [key for key in keys if key not in OPTIONAL or r.random() < 0.6]
        if not self.by:
            keys = [key for key in keys if key != "sample_weight"]
        if name not in WITHOUT_PARAMS and r.random() < 0.4:
            keys.append("params")
        keys.sort(key=lambda key: POSITIONAL.index(key) if key in POSITIONAL else len(POSITIONAL))
        n_wrong = r.choice([0, 0, 1, 1, 1, 2]) if r.random() < 0.8 else 0
        n_threads = [] if name in WITHOUT_THREADS else ["n_threads"]
        candidates = [*keys, *n_threads, "keyword", *(["out"] * 2 if out_shape else [])]
        wrong = {r.choice(candidates) for _ in range(n_wrong)}
        if "x" in wrong:
            wrong -= set(BESIDE_X)  # two wrong ones may fit each other
        if name.endswith("_operator"):
            wrong.discard("v")  # SciPy checks it
        return {key: self.draw(name, key, key in wrong) for key in keys}, wrong

    def _draw_out(self, name, values, options, is_refused):
        """Often an out, if the call takes one; it goes into the options."""
        out_shape = CALLS[name][1]
        if not (is_refused or (out_shape and self.random.random() < 0.4)):
            return None
        shape = tuple(self.dimensions[letter] for letter in out_shape)
        own = self.ensemble.params if name.startswith("ensemble") else self.net.params
        inputs = [*values.values(), *options.values(), own, own]
        out = arguments.Out(self.random, shape, self.dtype, is_refused=is_refused, inputs=inputs)
        options["out"] = out.value
        self.description[1]["out"] = out.kind
        return out
