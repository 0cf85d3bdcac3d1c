"""The sets of fuzz.py that are not calls on a round's data: constructors, copies, the equations, counts."""

import copy
import pickle

import arguments
import numpy as np
from calls import BAD_COUNTS, BAD_FITS, BAD_NETWORKS, GOOD_FITS, GOOD_NETWORKS, SOLVERS
from oracle import FuzzError, judge

import backprop
from backprop.activations import ACTIVATIONS


class Others:
    """Part of a `Round`."""

    def make_network(self):
        """A constructor with one argument that is right or wrong."""
        r = self.random
        options = {key: r.choice(values) for key, values in GOOD_NETWORKS.items() if r.random() < 0.5}
        options.setdefault("sizes", [2, 3, 1])
        wrong = r.choice(list(BAD_NETWORKS)) if r.random() < 0.6 else None
        if wrong:
            options[wrong] = r.choice(BAD_NETWORKS[wrong])
        if wrong == "activations":
            options["sizes"] = [2, 3, 1]  # [] is right if there is no hidden layer
        self.description = "Network", {key: repr(value)[:60] for key, value in options.items()}, {wrong}
        sizes = options.pop("sizes")
        try:
            net = backprop.Network(sizes, **options)
        except Exception as error:
            if isinstance(error, MemoryError) and wrong == "sizes" and "parameters" in str(error):
                return False
            self.judge_refusal(error, {wrong} - {None})
            return False
        if wrong:
            raise FuzzError("accepted")
        again = eval(repr(net), {"Network": backprop.Network})
        if (again.sizes, again.activations, again.loss_name) != (net.sizes, net.activations, net.loss_name):
            raise FuzzError(f"{net!r} is not {again!r}")
        return True

    def copies(self):
        """Copies, pickles, views and assignments keep every bit."""
        r, net = self.random, self.net
        self.description = "copies", {}, set()
        how = r.choice([copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it, r.randrange(2, 6)))])
        it = r.choice([net, self.ensemble])
        again = how(it)
        if again.params.tobytes() != it.params.tobytes() or np.shares_memory(again.params, it.params):
            raise FuzzError("params of a copy")
        wrong = r.random() < 0.5
        argument = self.draw("ensemble_params" if it is self.ensemble else "copies", "params", wrong)
        self.description = "params =", argument.kind, {"params"} if wrong else set()
        copied, before = copy.copy(it), it.params.tobytes()
        try:
            copied.params = argument.value
        except Exception as error:
            if copied.params.tobytes() != before:
                raise FuzzError("params written though refused") from error
            self.judge_refusal(error, {"params"} if wrong else set())
            return False
        if wrong:
            raise FuzzError("accepted")
        if not np.array_equal(copied.params, argument.numbers.astype(self.dtype)) or it.params.tobytes() != before:
            raise FuzzError(f"other params: {copied.params!r}")
        copied = copied[r.randrange(len(copied))] if it is self.ensemble else copied
        flat = np.concatenate([part.ravel() for pair in copied.unflatten(copied.params) for part in pair])
        views = [part.ravel() for pair in zip(copied.weights, copied.biases, strict=True) for part in pair]
        if flat.tobytes() != copied.params.tobytes() or np.concatenate(views).tobytes() != flat.tobytes():
            raise FuzzError("views of params")
        return True

    def constraint(self):
        """The functions of `constraint` have the bits of the calls on a batch of one."""
        r, net = self.random, self.net
        x, v = self.numbers["x"][0], self._numbers((self.dimensions["k"],)).astype(self.dtype)
        wrong = {"x"} if r.random() < 0.4 else set()
        if wrong:
            argument = arguments.refused(r, x, self.dtype, {x.shape})
        else:
            argument = arguments.taken(r, x, self.dtype, may_round=arguments.FLOATS + arguments.INTEGERS)
        its, which = net.constraint(-np.inf, 1.0), r.choice(["fun", "jac", "hess"])
        self.description = f"constraint, {which}", argument.kind, wrong
        try:
            result = its.hess(argument.value, v) if which == "hess" else getattr(its, which)(argument.value)
        except Exception as error:
            self.judge_refusal(error, wrong)
            return False
        if wrong:
            raise FuzzError("accepted")
        x = argument.numbers.astype(self.dtype)[None]
        right = {"fun": net.forward, "jac": net.input_jacobian, "hess": lambda x: net.input_hessian(x, v)}[which](x)[0]
        if result.tobytes() != right.astype(float).tobytes():
            raise FuzzError(f"other bits: {result!r}, expected {right!r}")
        return True

    def equations(self):
        """`hidden_gradient` and `preactivation_gradient`."""
        r, n, k, i = self.random, *(self.dimensions[letter] for letter in "nki")
        hidden = r.random() < 0.5
        numbers = dict(zip(("W_next", "grad_a_next") if hidden else ("grad_h", "a"), (
            (self.theta[: k * i] if len(self.net.sizes) == 2 else self.rng.normal(size=k * i)).reshape(k, i),
            self.numbers["cotangent"],
        ) if hidden else (self.numbers["cotangent"], self._numbers((n, k))), strict=True))  # fmt: skip
        wrong = r.choice([None, None, *numbers])
        chosen = {}
        for key, value in numbers.items():
            plain = value.astype(self.dtype)
            if key == wrong:
                given, kind = arguments.wrong_kind(r, plain)
            else:
                given, kind = arguments.with_strides(r, plain)
            chosen[key] = arguments.Argument(given, plain.astype(float), kind)
        self.description = "equations", {key: argument.kind for key, argument in chosen.items()}, {wrong}
        name = r.choice(list(ACTIVATIONS))
        first, second = (argument.value for argument in chosen.values())
        try:
            if hidden:
                result = backprop.hidden_gradient(first, second)
            else:
                result = backprop.preactivation_gradient(first, second, name)
        except Exception as error:
            self.judge_refusal(error, {wrong} - {None})
            return False
        if wrong:
            raise FuzzError("accepted")
        first, second = (argument.numbers for argument in chosen.values())

        def expected(noise):
            one, other = (noise.of(first), noise.of(second)) if noise else (first, second)
            return [other @ one if hidden else one * ACTIVATIONS[name].g_prime(other, ACTIVATIONS[name].default)]

        if result.dtype != self.dtype:
            raise FuzzError(f"dtype {result.dtype}")
        judge([result], expected, self.dtype)
        return True

    def unflatten(self):
        """`Network.unflatten`, on arrays of any numbers; it makes views, and turns nothing else into an array."""
        r, P = self.random, self.dimensions["P"]
        wrong = r.random() < 0.5
        plain = self.numbers["v"].astype(r.choice([*arguments.FLOATS, "c16"]))
        if not wrong:
            vector, kind = arguments.with_strides(r, plain)
        elif r.random() < 0.7:
            vector, kind = arguments.wrong_shape(r, plain, {(P,)}, False)
        else:
            vector, kind = r.choice([plain.tolist(), tuple(plain), None, "x", arguments.Array(plain), 1.0]), "no array"
        self.description = "unflatten", {"vector": kind}, {"vector"} if wrong else set()
        try:
            layers = self.net.unflatten(vector)
        except Exception as error:
            self.judge_refusal(error, {"vector"} if wrong else set())
            return False
        if wrong:
            raise FuzzError("accepted")
        parts = [part for pair in layers for part in pair]
        right = [part for pair in zip(self.net.weights, self.net.biases, strict=True) for part in pair]
        if [part.shape for part in parts] != [part.shape for part in right]:
            raise FuzzError(f"shapes {[part.shape for part in parts]}")
        if not np.array_equal(np.concatenate([part.ravel() for part in parts]), plain):
            raise FuzzError(f"other numbers: {parts!r}")
        if not all(np.shares_memory(part, vector) for part in parts):
            raise FuzzError("copies")
        return True

    def fit(self):
        """`Network.fit` of a copy. One in two parts has the bits of a whole one; a refused one changes nothing."""
        r, P = self.random, self.dimensions["P"]
        solvers = [*SOLVERS, "lm"] if self.loss_name == "squared_error" else [*SOLVERS]
        solver = r.choice(solvers)
        own = GOOD_FITS[None] | GOOD_FITS[solver]
        options = {key: r.choice(values) for key, values in own.items() if r.random() < 0.4}
        if r.random() < 0.3:
            options["free"] = self.of_free["free"]
        wrong = r.choice(list(BAD_FITS)) if r.random() < 0.6 else None
        if wrong:
            options[wrong] = np.ones(P + 1, bool) if wrong == "free" else r.choice(BAD_FITS[wrong])
        options = {"solver": solver} | options
        self.description = "fit", {key: repr(value)[:60] for key, value in options.items()}, {wrong}
        weight = ("sample_weight",) if self.numbers["sample_weight"] is not None and r.random() < 0.5 else ()
        data, weights = self.plain_arguments("value_and_grad", ("x", "y", *weight))
        options = {"max_iter": 4} | weights | ({} if solver in {"lbfgs", "lm"} else {"rng": 0}) | options
        whole, parts = copy.copy(self.net), copy.copy(self.net)
        try:
            result = whole.fit(**data, **options)
        except Exception as error:
            if whole.params.tobytes() != self.net.params.tobytes():
                raise FuzzError("params written though refused") from error
            self.judge_refusal(error, {wrong} - {None})
            return False
        if wrong:
            raise FuzzError("accepted")
        free = options.get("free", np.ones(P, bool))
        if not np.array_equal(whole.params[~free], self.net.params[~free]):
            raise FuzzError("parameters that are not free have changed")
        if not np.array_equal(result.x, whole.params[free]):
            raise FuzzError(f"x is not the params: {result.x!r}")
        first = parts.fit(**data, **options | {"max_iter": 1})
        parts.fit(**data, **options | {"max_iter": options["max_iter"] - 1, "state": first.state})
        if options["max_iter"] > 1 and parts.params.tobytes() != whole.params.tobytes():
            raise FuzzError(f"other bits in two parts: {parts.params!r} and {whole.params!r}")
        return True

    def counts(self):
        """`set_num_threads`, `num_threads` and `Ensemble(net, k)`."""
        r = self.random
        wrong = r.random() < 0.7
        count = r.choice(BAD_COUNTS if wrong else [1, 2, 3, np.int64(5)])
        which = r.choice(["n", "k"])
        self.description = f"count {which}", repr(count), {which} if wrong else set()
        before = backprop.get_num_threads()
        try:
            if which == "k":
                huge = not wrong and r.random() < 0.3
                made = len(backprop.Ensemble(self.net, r.choice([1 << 50, 1 << 70]) if huge else count, rng=0))
                if huge:
                    raise FuzzError("an ensemble beyond memory")
            elif r.random() < 0.5:
                with backprop.num_threads(count):
                    made = backprop.get_num_threads()
            else:
                backprop.set_num_threads(count)
                made = backprop.get_num_threads()
                backprop.set_num_threads(before)
        except FuzzError:
            raise
        except Exception as error:
            if isinstance(error, MemoryError) and not wrong and which == "k":
                return False
            self.judge_refusal(error, {which} if wrong else set())
            return False
        if wrong or made != count or backprop.get_num_threads() != before:
            raise FuzzError(f"got {made} of {count}")
        return True
