"""The rounds of tools/fuzz.py: one network with data, calls on it with arguments in all forms, and what must hold."""

import random
import re
import sys
import traceback
from pathlib import Path

import fuzz_arguments as arguments
import numpy as np
from fuzz_calls import (
    ALONE,
    BAD_COUNTS,
    BESIDE_X,
    BY_ENTRY,
    CALLS,
    GOOD_COUNTS,
    MANY_ENTRIES,
    POSITIONAL,
    SQUARED_ONLY,
    WITHOUT_PARAMS,
    call,
)
from fuzz_oracle import FuzzError, judge
from fuzz_others import Others
from fuzz_special import Special

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from problems import LOSS_NAMES, PARAMETERS, Problem, limit_preactivations, random_targets, random_weights
from reference_calls import ReferenceCalls

import backprop
from backprop.activations import ACTIVATIONS

SETS_PER_ROUND = 150
REGRESSIONS = ("squared_error", "absolute_error", "huber", "quantile")
MOST_BYTES = 1 << 20  # of an argument that is compared with what it was before the call


# A round --------------------------------------------------------------------------------------------------------------


class Round(Others, Special):
    """One network with data, from one seed."""

    def __init__(self, seed):
        self.seed, self.index = seed, 0
        self.random, rng = random.Random(seed), np.random.default_rng(seed)
        self.rng = rng
        r = self.random
        most = 5 if r.random() < 0.9 else 40
        sizes = [r.randrange(1, most + 1) for _ in range(r.choice([2, 2, 3, 3, 3, 4]))]
        names = list(ACTIVATIONS)
        hidden = [self._spec(r.choice(names)) for _ in sizes[2:]]
        loss = self._spec(r.choice(LOSS_NAMES + ["squared_error"] * 3))
        loss_name = loss[0] if isinstance(loss, tuple) else loss
        output = "identity"
        if loss_name in REGRESSIONS:
            output = self._spec(r.choice(names))
        self.dtype = np.dtype(r.choice(["float32", "float64"]))
        net = backprop.Network(sizes, activations=hidden, output=output, loss=loss, dtype=self.dtype, rng=rng)
        for b in net.biases:
            b[...] = rng.normal(0, 0.3, b.shape)
        n = r.choice([1, 2, 3, 4, 5]) if r.random() < 0.95 else r.choice([63, 65, 130])
        self.by = r.choice([None, "sample", "entry"])
        if loss_name == "cross_entropy" and self.by:
            self.by = "sample"
        x = self._numbers((n, sizes[0]))
        y = random_targets(rng, loss, n, sizes[-1], self.dtype, r.random() < 0.6)
        y = y if y.dtype.kind == "i" else y.astype(float)
        weight = random_weights(rng, self.by, n, sizes[-1])
        problem = Problem(net, hidden, output, loss, x, y, y, weight)
        limit_preactivations(problem, 4.0)
        if loss_name in REGRESSIONS and r.random() < 0.15:  # a fit that is almost right, and its tiny gradients
            near = net.forward(x) + rng.choice([-1.0, 1.0], y.shape) * 2.0 ** rng.uniform(-12, -8, y.shape)
            y[...] = near.astype(self.dtype)
        self.net, self.problem, self.loss_name = net, problem, loss_name
        self.theta = net.params.astype(float)
        self.dimensions = {"n": n, "i": sizes[0], "k": sizes[-1], "P": net.n_params, "1": 1}
        self.ensemble = backprop.Ensemble(net, 1, rng=0)
        self.ensemble.params = self.theta[None]
        P, k, i = net.n_params, sizes[-1], sizes[0]
        self.numbers = {
            "x": x, "y": y, "sample_weight": weight, "params": self.theta, "theta": self.theta,
            "v": self._numbers((P,)), "cotangent": self._numbers((n, k)), "grad_x": self._numbers((n, k, i)),
            "weight": np.array(abs(self._numbers(()))) if r.random() < 0.5 else abs(self._numbers((k, i))),
            "max_norm": np.array(float(rng.uniform(0.1, 3))),
        }  # fmt: skip
        shapes = {name: {value.shape} for name, value in self.numbers.items() if value is not None}
        shapes["y"] |= {(n,)} if k == 1 and loss_name != "cross_entropy" else set()
        shapes["grad_x"] |= {(n, i)} if k == 1 else set()
        shapes["weight"] |= {(), (k, i)}
        if weight is not None and loss_name != "cross_entropy":
            shapes["sample_weight"] |= {(n,), (n, k)}
        self.shapes = shapes
        self.cache = {}

    def _spec(self, name):
        return (name, PARAMETERS[name]) if name in PARAMETERS and self.random.random() < 0.4 else name

    def _numbers(self, shape):
        """Bits, small integers, eighths, or any numbers of the dtype: few of the first need rounding anywhere.

        Or tiny numbers, so that results are tiny too.
        """
        form = self.random.randrange(9) // 2
        if form == 0:
            return self.rng.integers(0, 2, shape).astype(float)
        if form == 1:
            return self.rng.integers(-3, 4, shape).astype(float)
        if form == 2:
            return self.rng.integers(-16, 17, shape) / 8.0
        size = 1.0 if form == 3 else 2.0**-20
        return np.asarray(size * self.rng.normal(size=shape).astype(self.dtype), float)

    def reference(self, numbers, noise=None):
        """The reference at these numbers, or somewhere near."""
        y = numbers.get("y", self.numbers["y"])
        if y.dtype.kind in "iu":
            y = np.eye(self.dimensions["k"])[y]
        y = y.reshape(-1, self.dimensions["k"])
        theta = numbers.get("theta", numbers.get("params", self.theta))
        specification = self.problem.specification
        weight = numbers.get("sample_weight")
        if noise:
            theta, specification = noise.of(theta), noise.of_specification(specification)
        return ReferenceCalls(specification, theta, numbers["x"], y, weight)

    def plain(self, name, keys):
        """Results on plain arrays, which the reference confirms, once a round; keys are the arguments given."""
        if (name, keys) not in self.cache:
            values = {}
            for key in keys:
                number = self.numbers[key]
                is_own = key in ("sample_weight", "weight", "max_norm") or number.dtype.kind in "iu"
                values[key] = number if is_own else number.astype(self.dtype)
                if key == "max_norm":
                    values[key] = float(number)
            options = {key: values.pop(key) for key in keys if key not in POSITIONAL and key != "theta"}
            result = call(self.net, self.ensemble, name, values, options)
            self.compare(name, result, {key: self.numbers[key] for key in keys})
            self.cache[name, keys] = [np.array(part) for part in result]
        return self.cache[name, keys]

    def compare(self, name, result, numbers):
        """Compare with the reference."""
        if name == "find_nonfinite":
            if result:
                raise FuzzError(f"find_nonfinite of finite numbers: {result}")
            return

        def expected(noise):
            near = {key: noise.of(value) for key, value in numbers.items()} if noise else numbers
            with np.errstate(all="ignore"):
                right = CALLS[name][2](self.reference(near, noise), near)
            return list(right) if isinstance(right, tuple | list) else [right]

        judge(result, expected, self.dtype, by_entry=name in BY_ENTRY)

    # One set ----------------------------------------------------------------------------------------------------------

    def _possible_calls(self):
        return [
            name for name in CALLS
            if (self.loss_name == "squared_error" or name not in SQUARED_ONLY)
            and (self.by != "entry" or name != "sobolev_value_and_grad")
            and self.dimensions["P"] <= MANY_ENTRIES.get(name, 10**9)
        ]  # fmt: skip

    def draw(self, name, key, is_refused):
        """One argument."""
        r, values = self.random, self.numbers[key]
        if key == "max_norm":
            number = float(values)
            if is_refused:
                bad = r.choice([0, -1.0, np.nan, -np.inf, "1", None, True, [1.0], 1j, np.ones(1), np.array(1.0)])
                return arguments.Argument(bad, None, repr(bad))
            return arguments.Argument(r.choice([number, np.float64(number)]), values, "number")
        if is_refused:
            if key == "sample_weight" and r.random() < 0.4:
                return self._wrong_weights(values)
            if key == "y" and r.random() < 0.4:
                wrong = self._wrong_targets(values)
                if wrong is not None:
                    return wrong
            shapes = self.shapes[key]
            if name.startswith("ensemble"):  # one a member has one dimension more
                shapes = shapes | {(1, *shape) for shape in shapes}
            alone = key == "x" and name in ALONE  # any number of rows will do
            return arguments.refused(r, values, self._taken_as(key), shapes, any_rows=alone)
        may_round = () if key in ("y", "sample_weight", "weight") else arguments.FLOATS
        if key not in ("params", "theta"):  # integers there would put a on the kinks of g
            may_round = may_round and arguments.FLOATS + arguments.INTEGERS
        probabilities = key == "y" and self.loss_name == "cross_entropy"  # integers would be labels
        argument = arguments.taken(r, values, self._taken_as(key), may_round=may_round, floats_only=probabilities)
        if name == "hvp_operator" and key == "v":  # SciPy takes arrays alone
            argument.value = np.asarray(argument.value)
        return argument

    def _taken_as(self, key):
        return np.dtype(float) if key in ("sample_weight", "weight") else self.dtype

    def _wrong_weights(self, values):
        wrong = values.copy()
        form = self.random.randrange(5)
        if form == 0:
            wrong[...] = 0
        else:
            wrong.flat[self.random.randrange(wrong.size)] = [0, -1.0, np.nan, np.inf, -5e-324][form]
        return arguments.Argument(wrong, None, "weights that are none")

    def _wrong_targets(self, values):
        """Targets outside of the loss's domain, in a row that counts."""
        values = np.asarray(values)
        weight = self.numbers["sample_weight"]
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

    def one_set(self):
        """One call; True where it was accepted."""
        r = self.random
        name = r.choice(self._possible_calls())
        chosen, wrong = self._draw_arguments(name)
        values = {key: argument.value for key, argument in chosen.items()}
        options = {key: values.pop(key) for key in chosen if key not in POSITIONAL and key != "theta"}
        self.description = name, {key: argument.kind for key, argument in chosen.items()}, wrong
        if "n_threads" in wrong:
            options["n_threads"] = r.choice(BAD_COUNTS)
        elif r.random() < 0.3:
            options["n_threads"] = r.choice(GOOD_COUNTS)
        if "keyword" in wrong:
            options["sample_weights"] = None
        out = self._draw_out(name, values, options, "out" in wrong)
        given = [(key, value) for key, value in {**values, **options}.items() if key != "out"]
        before = [
            (f"{key} was", value, value.tobytes())
            for key, value in [*given, ("params", self.net.params), ("the ensemble's params", self.ensemble.params)]
            if isinstance(value, np.ndarray) and value.nbytes < MOST_BYTES
        ]
        error = None
        try:
            result = call(self.net, self.ensemble, name, values, options)
        except Exception as caught:
            error = caught
        for what, value, bytes_before in before:
            if value.tobytes() != bytes_before:
                raise FuzzError(f"{what} written")
        if out is not None and not (out.guards_are_untouched() if error is None else out.is_untouched()):
            raise FuzzError("memory around out was written" if error is None else "out was written by a refused call")
        if error is not None:
            self.judge_refusal(error, wrong)
            return False
        if wrong:
            raise FuzzError(f"accepted, though {wrong} was wrong")
        if out is not None and not any(part is out.value for part in result):
            raise FuzzError("out was not returned")
        if all(np.array_equal(argument.numbers, self.numbers[key]) for key, argument in chosen.items()):
            for part, right in zip(result, self.plain(name, tuple(chosen)), strict=True):
                if np.asarray(part).tobytes() != right.tobytes():
                    raise FuzzError(f"other bits than of plain arrays: {part!r} and {right!r}")
        else:
            self.compare(name, result, {key: argument.numbers for key, argument in chosen.items()})
        return True

    def _draw_arguments(self, name):
        """The arrays of a call by name, and which of its arguments are wrong."""
        r = self.random
        keys, out_shape, _ = CALLS[name]
        keys = [key for key in keys if key != "sample_weight" or (self.by and r.random() < 0.6)]
        if name not in WITHOUT_PARAMS and r.random() < 0.4:
            keys.append("params")
        keys.sort(key=lambda key: POSITIONAL.index(key) if key in POSITIONAL else len(POSITIONAL))
        n_wrong = r.choice([0, 0, 1, 1, 1, 2]) if r.random() < 0.8 else 0
        candidates = [*keys, "n_threads", "keyword", *(["out"] * 2 if out_shape else [])]
        wrong = {r.choice(candidates) for _ in range(n_wrong)}
        if "x" in wrong:
            wrong -= set(BESIDE_X)  # two that are wrong may fit each other
        if name == "hvp_operator":
            wrong.discard("v")  # SciPy looks at it
        return {key: self.draw(name, key, key in wrong) for key in keys}, wrong

    def _draw_out(self, name, values, options, is_refused):
        """An out, often, where the call takes one; it goes into the options."""
        out_shape = CALLS[name][1]
        if not (is_refused or (out_shape and self.random.random() < 0.4)):
            return None
        shape = tuple(self.dimensions[letter] for letter in out_shape)
        own = self.ensemble.params if name == "ensemble" else self.net.params
        inputs = [*values.values(), *options.values(), own, own]
        out = arguments.Out(self.random, shape, self.dtype, is_refused=is_refused, inputs=inputs)
        options["out"] = out.value
        self.description[1]["out"] = out.kind
        return out

    def judge_refusal(self, error, wrong):
        """A refusal is of the right type, names what was wrong, and something was."""
        if not isinstance(error, TypeError | ValueError | MemoryError):
            raise FuzzError(f"{type(error).__name__}: {error}") from error
        if not wrong:
            raise FuzzError(f"refused, though nothing was wrong: {type(error).__name__}: {error}") from error
        names = ["sample_weights" if name == "keyword" else name for name in wrong] + BESIDE_X * ("x" in wrong)
        if not any(re.search(rf"\b{name}\b", str(error)) for name in names):
            raise FuzzError(f"names none of {names}: {type(error).__name__}: {error}") from error

    def run(self):
        """All sets of the round: yields True for an accepted one, False for a refused one, a text for a finding."""
        others = [self.make_network, self.copies, self.equations, self.counts, self.special]
        self.description = "round", {}, set()
        for index in range(SETS_PER_ROUND):
            self.index = index
            self.description = "drawing", {}, set()
            what = self.random.choice(others) if self.random.random() < 0.15 else self.one_set
            try:
                yield what()
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                place = "" if isinstance(error, FuzzError) else f" at {Path(last.filename).name}:{last.lineno}"
                name, forms, wrong = self.description
                yield f"set {index}: {name} {forms} wrong {wrong}: {type(error).__name__}{place}: {error}"
