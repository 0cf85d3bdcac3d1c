"""The rounds of fuzz.py: one network with data, calls on it with arguments in all forms, and what must hold."""

import random
import re
import traceback
from pathlib import Path

import numpy as np
from calls import (  # which puts tests/support on the path
    BAD_COUNTS,
    BESIDE_X,
    BY_ENTRY,
    BY_MEMBER,
    CALLS,
    GOOD_COUNTS,
    OF_FREE,
    POSITIONAL,
    SCALARS,
    TWINS,
    WITHOUT_THREADS,
    call,
)
from drawing import Drawing
from oracle import FuzzError, judge
from others import Others
from problems import LOSS_NAMES, PARAMETERS, Problem, limit_preactivations, random_targets, random_weights
from reference_calls import ReferenceCalls
from special import REGRESSIONS, Special

import backprop
from backprop.activations import ACTIVATIONS

SETS_PER_ROUND = 150
MOST_BYTES = 1 << 20  # largest argument that is compared with its copy from before the call


# A round --------------------------------------------------------------------------------------------------------------


class Round(Drawing, Others, Special):
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
        self.dimensions = {"n": n, "i": sizes[0], "k": sizes[-1], "P": net.n_params}
        P, k, i = net.n_params, sizes[-1], sizes[0]
        m, by_row = r.randrange(1, 4), [(), (n,)]
        self.numbers = {
            "x": x, "y": y, "sample_weight": weight, "params": self.theta, "theta": self.theta,
            "v": self._numbers((P,)), "cotangent": self._numbers((n, k)), "grad_x": self._numbers((n, k, i)),
            "weight": np.array(abs(self._numbers(()))) if r.random() < 0.5 else abs(self._numbers((k, i))),
            "multipliers": self._numbers((*r.choice(by_row), k)),
            "directions": self._numbers((*r.choice(by_row), m, i)),
            "cot_y": self._numbers((n, k)), "cot_dy": self._numbers((n, k, m)), "cot_d2y": self._numbers((n, k, m)),
            "max_norm": np.array(float(rng.uniform(0.1, 3))), "l2": np.array(r.choice([0.0, 1e-3, 0.25, 3.0])),
        }  # fmt: skip
        shapes = {name: {value.shape} for name, value in self.numbers.items() if value is not None}
        shapes["y"] |= {(n,)} if k == 1 and loss_name != "cross_entropy" else set()
        shapes["grad_x"] |= {(n, i)} if k == 1 else set()
        shapes["weight"] |= {(), (k, i)}
        shapes["multipliers"] |= {(k,), (n, k)}
        shapes["directions"] |= {(*rows, j, i) for rows in by_row for j in range(1, 50)}
        if weight is not None and loss_name != "cross_entropy":
            shapes["sample_weight"] |= {(n,), (n, k)}
        self.shapes = shapes
        free = rng.random(P) < 0.5
        free[r.randrange(P)] = True
        self.of_free = {"free": free, "theta": self.theta[free], "v": self.numbers["v"][free]}
        self._make_ensemble(lambda: random_targets(rng, loss, n, k, self.dtype, y.dtype.kind == "i"))
        self.cache = {}

    def _make_ensemble(self, draw_targets):
        """Members with the net's parameters, made smaller, and data for each: the same rows in another order."""
        x, y, weight = (self.numbers[key] for key in ("x", "y", "sample_weight"))
        n, k = len(x), self.dimensions["k"]
        m = self.random.choice([1, 2, 3])
        m += m == n == k  # else weights per member and sample could be weights per output
        self.dimensions["m"] = m
        self.ensemble = backprop.Ensemble(self.net, m, rng=0)
        self.ensemble.params = [self.theta * 0.5**j for j in range(m)]
        self.members = self.ensemble.params.astype(float)
        self.by_member = {
            "params": self.members,
            "x": np.stack([np.roll(x, j, axis=0) * 0.5**j for j in range(m)]),
            "y": np.stack([y, *(draw_targets().astype(y.dtype) for _ in range(1, m))]),
        }
        if weight is not None:
            more = [random_weights(self.rng, self.by, n, k) for _ in range(1, m)]
            self.by_member["sample_weight"] = np.stack([weight, *more])

    def numbers_of(self, name):
        """The round's numbers for a call."""
        return self.numbers | (self.of_free if name in OF_FREE else self.by_member if name in BY_MEMBER else {})

    def shapes_of(self, name, key):
        """The shapes that a call takes."""
        if name in OF_FREE and key in self.of_free:
            return {self.of_free[key].shape}
        shapes, m = self.shapes[key], self.dimensions["m"]
        if name == "ensemble_params":
            return {self.members.shape}
        if name.startswith("ensemble_forward"):  # any number of rows will do
            n, i = self.numbers["x"].shape
            return {shape for rows in range(n + 2) for shape in ((rows, i), (m, rows, i))}
        return shapes | {(m, *shape) for shape in shapes} if name.startswith("ensemble") else shapes

    def _spec(self, name):
        return (name, PARAMETERS[name]) if name in PARAMETERS and self.random.random() < 0.4 else name

    def _numbers(self, shape):
        """0 and 1, small integers, eighths, any numbers of the dtype, or tiny ones, whose results are tiny too.

        The first three need rounding almost nowhere.
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
        """The reference at these numbers, or near them."""
        y = numbers.get("y", self.numbers["y"])
        if y.dtype.kind in "iu":
            y = np.eye(self.dimensions["k"])[y]
        y = y.reshape(-1, self.dimensions["k"])
        theta = numbers.get("theta", numbers.get("params", self.theta))
        if "free" in numbers:
            free, theta = theta, self.theta.copy()
            theta[numbers["free"]] = free
        specification = self.problem.specification
        weight = numbers.get("sample_weight")
        if noise:
            theta, specification = noise.of(theta), noise.of_specification(specification)
        return ReferenceCalls(specification, theta, numbers["x"], y, weight)

    def plain(self, name, keys):
        """Results on plain arrays, once per round, checked by the reference; keys are the arguments given."""
        if (name, keys) not in self.cache:
            values, options = self.plain_arguments(name, keys)
            result = call(self.net, self.ensemble, name, values, options)
            numbers = self.numbers_of(name)
            self.compare(name, result, {key: numbers[key] for key in keys})
            self.cache[name, keys] = [np.array(part) for part in result]
        return self.cache[name, keys]

    def plain_arguments(self, name, keys):
        """Values and options of a call as plain arrays and numbers."""
        values, numbers = {}, self.numbers_of(name)
        for key in keys:
            is_own = key in ("sample_weight", "weight") or numbers[key].dtype.kind in "iub"
            values[key] = numbers[key] if is_own else numbers[key].astype(self.dtype)
            if key in SCALARS:
                values[key] = float(numbers[key])
        return values, {key: values.pop(key) for key in keys if key not in POSITIONAL and key != "theta"}

    def expected(self, name, numbers, noise=None):
        """The results of the reference at these numbers, or near them."""
        if noise:
            numbers = {key: noise.of(value) for key, value in numbers.items()}

        def results(numbers):
            right = CALLS[name][2](self.reference(numbers, noise), numbers)
            return list(right) if isinstance(right, tuple | list) else [right]

        with np.errstate(all="ignore"):
            if not name.startswith("ensemble"):
                return results(numbers)
            of_members = []
            for j, theta in enumerate(self.members):
                own = {key: value[j] for key, value in numbers.items()} if name in BY_MEMBER else numbers
                of_members.append(results(own | {"params": theta}))
            return [np.stack(parts) for parts in zip(*of_members, strict=True)]

    def compare(self, name, result, numbers):
        """Compare with the reference."""
        if name == "find_nonfinite":
            if result:
                raise FuzzError(f"find_nonfinite of finite numbers: {result}")
            return
        by_entry = name in BY_ENTRY
        judge(result, lambda noise: self.expected(name, numbers, noise), self.dtype, by_entry=by_entry)

    # One set ----------------------------------------------------------------------------------------------------------

    def one_set(self):
        """Make one call; return whether it was accepted."""
        r = self.random
        name = r.choice(self._possible_calls())
        chosen, wrong = self._draw_arguments(name)
        values = {key: argument.value for key, argument in chosen.items()}
        options = {key: values.pop(key) for key in chosen if key not in POSITIONAL and key != "theta"}
        self.description = name, {key: argument.kind for key, argument in chosen.items()}, wrong
        if "n_threads" in wrong:
            options["n_threads"] = r.choice(BAD_COUNTS)
        elif r.random() < 0.3 and name not in WITHOUT_THREADS:
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
        if name in TWINS:
            for part, same in zip(result, call(self.net, self.ensemble, TWINS[name], values, options), strict=True):
                if np.asarray(part).tobytes() != np.asarray(same).tobytes():
                    raise FuzzError(f"other bits than of {TWINS[name]}: {part!r} and {same!r}")
        own = self.numbers_of(name)
        if all(np.array_equal(argument.numbers, own[key]) for key, argument in chosen.items()):
            for part, right in zip(result, self.plain(name, tuple(chosen)), strict=True):
                if np.asarray(part).tobytes() != right.tobytes():
                    raise FuzzError(f"other bits than of plain arrays: {part!r} and {right!r}")
        else:
            self.compare(name, result, {key: argument.numbers for key, argument in chosen.items()})
        return True

    def judge_refusal(self, error, wrong):
        """Check that a refusal has the right type, names what was wrong, and that something was wrong."""
        if not isinstance(error, TypeError | ValueError | MemoryError):
            raise FuzzError(f"{type(error).__name__}: {error}") from error
        if not wrong:
            raise FuzzError(f"refused, though nothing was wrong: {type(error).__name__}: {error}") from error
        names = ["sample_weights" if name == "keyword" else name for name in wrong] + BESIDE_X * ("x" in wrong)
        if not any(re.search(rf"\b{name}\b", str(error)) for name in names):
            raise FuzzError(f"names none of {names}: {type(error).__name__}: {error}") from error

    def run(self):
        """Run all sets of the round: yield True if one was accepted, False if refused, a text if wrong."""
        others = [
            self.make_network,
            self.copies,
            self.equations,
            self.unflatten,
            self.counts,
            self.fit,
            self.special,
            self.special,
            self.nonfinite,
            self.constraint,
        ]
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
