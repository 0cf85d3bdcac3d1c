"""Sequences of calls on networks, ensembles, operators and objectives, each result compared with the NumPy reference.

The model holds the parameters that the user has written, in float64. After every step the networks' parameters
equal it, bit for bit, and after every call so do those of all other networks. The examples are the same in each run;
``BACKPROP_EXAMPLES=500`` tries so many others, which Hypothesis then draws anew.
"""

import copy
import os
import pickle
import tempfile
from importlib.util import find_spec
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from call_peers import CALLS, with_directions
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from problems import ACTIVATION_NAMES, LAYOUTS, LOSS_NAMES, OVERFLOWS, Y_HAT_LOSSES, same_bits, with_layout
from state_model import Model, assert_near, spec

from backprop import Ensemble, Network, get_num_threads, load, num_threads, set_num_threads

EXAMPLES = os.environ.get("BACKPROP_EXAMPLES")
MOST_PARAMS = 60  # for calls whose results are matrices
MATRICES = {"hessian", "normal_equations", "residuals.jac", "sobolev_value_and_grad"}
OPERATORS = {"hvp_operator": "hvp", "gauss_newton_operator": "gauss_newton_vp"}
CAN_SAVE = find_spec("safetensors") is not None  # the extra `save`, which some Pythons lack

seeds = st.integers(0, 2**20)
names = st.sampled_from([name for name in ACTIVATION_NAMES if name not in OVERFLOWS])
counts = st.sampled_from([None, 1, 2, 3, 8])
layouts = st.sampled_from(LAYOUTS)
weightings = st.sampled_from([None, "sample", "entry"])
few_samples = {  # arguments of a call on data; slower calls get fewer samples
    "seed": seeds,
    "n_samples": st.sampled_from([1, 3, 17]),
    "by": weightings,
    "layout": layouts,
    "n_threads": counts,
}


class Machine(RuleBasedStateMachine):
    """Networks, files, ensembles, operators and objectives in any order."""

    networks = Bundle("networks")
    ensembles = Bundle("ensembles")
    objectives = Bundle("objectives")
    operators = Bundle("operators")

    @initialize(target=objectives, loss=st.sampled_from(LOSS_NAMES), hidden=names, seed=seeds, some_free=st.booleans())
    def first(self, loss, hidden, seed, some_free):
        self.models, self.ensemble_models, self.count = [], [], 2
        self.count_before = get_num_threads()
        set_num_threads(2)
        model = self.network([3, 4, 2], [hidden], "identity", loss, False, "float64", seed)
        return self.objective(model, seed, None, 0.25, some_free)

    def teardown(self):
        if hasattr(self, "count_before"):
            set_num_threads(self.count_before)

    # Networks --------------------------------------------------------------------------------------------------------

    @rule(
        target=networks,
        sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
        hidden=st.lists(names, min_size=2, max_size=2),
        output=names,
        loss=st.sampled_from(LOSS_NAMES + ["squared_error"] * 4),
        with_parameter=st.booleans(),
        dtype=st.sampled_from(["float32", "float64"]),
        seed=seeds,
    )
    def network(self, sizes, hidden, output, loss, with_parameter, dtype, seed):
        hidden = [spec(name, with_parameter) for name in hidden[: len(sizes) - 2]]
        output = spec(output, with_parameter) if loss in Y_HAT_LOSSES else "identity"
        loss = spec(loss, with_parameter)
        net = Network(sizes, activations=hidden, output=output, loss=loss, dtype=dtype, rng=seed)
        assert not np.concatenate(net.biases).any()
        self.models.append(Model(net, net.params.copy(), hidden, output, loss))
        return self.models[-1]

    @rule(model=networks, seed=seeds, layout=layouts, in_float64=st.booleans())
    def assign(self, model, seed, layout, in_float64):
        theta = np.random.default_rng(seed).normal(0, 0.5, model.net.n_params)
        theta = theta if in_float64 else theta.astype(np.float32)
        model.net.params = with_layout(theta, layout)
        model.theta = theta.astype(model.net.dtype)

    @rule(model=networks, layer=st.integers(0, 9), seed=seeds, into_bias=st.booleans())
    def write_a_view(self, model, layer, seed, into_bias):
        """A write through weights[i] or biases[i]; the model computes the place in params independently."""
        sizes, i = model.net.sizes, layer % (len(model.net.sizes) - 1)
        start = sum(sizes[j + 1] * (sizes[j] + 1) for j in range(i))
        view = (model.net.biases if into_bias else model.net.weights)[i]
        start += sizes[i] * sizes[i + 1] if into_bias else 0
        value = np.random.default_rng(seed).normal(0, 0.5, view.shape).astype(view.dtype)
        view[...] = value
        model.theta = model.theta.copy()
        model.theta[start : start + view.size] = value.ravel()

    @rule(model=networks, place=st.integers(0, 999), value=st.integers(-8, 8))
    def write_one(self, model, place, value):
        self.write_params(model, place, value)

    @staticmethod
    def write_params(model, place, value):
        model.net.params[place % model.net.n_params] = value / 8
        model.theta = model.theta.copy()
        model.theta[place % model.net.n_params] = value / 8

    @rule(
        target=networks, model=networks, how=st.sampled_from(["copy", "deepcopy", "pickle"]), protocol=st.integers(2, 5)
    )
    def copy(self, model, how, protocol):
        it = model.net
        again = pickle.loads(pickle.dumps(it, protocol)) if how == "pickle" else getattr(copy, how)(it)
        assert repr(again) == repr(it)
        assert not np.shares_memory(again.params, it.params)
        self.models.append(Model(again, model.theta, *model.how))
        return self.models[-1]

    @precondition(lambda self: CAN_SAVE)
    @rule(target=networks, model=networks)
    def save_and_load(self, model):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.safetensors"
            model.net.save(path)
            again = load(path)
        assert repr(again) == repr(model.net)
        self.models.append(Model(again, model.theta, *model.how))
        return self.models[-1]

    @rule(n=st.sampled_from([1, 2, 3, 5, 300]))
    def set_threads(self, n):
        set_num_threads(n)
        self.count = min(n, 256)

    # Calls -----------------------------------------------------------------------------------------------------------

    @rule(
        model=networks,
        seed=seeds,
        n_samples=st.sampled_from([1, 2, 7, 65]),
        by=weightings,
        layout=layouts,
        n_threads=counts,
        with_params=st.booleans(),
        with_out=st.booleans(),
    )
    def value_and_grad(self, model, seed, n_samples, by, layout, n_threads, with_params, with_out):
        rng = np.random.default_rng(seed)
        problem, net = model.problem(rng, n_samples, by, layout), model.net
        options = {"n_threads": n_threads}
        theta = model.theta
        if with_params:
            theta = rng.normal(0, 0.5, net.n_params).astype(net.dtype)
            options["params"] = with_layout(theta, layout)
        expected = model.reference(problem, theta)
        out = np.full(net.n_params, np.nan, net.dtype) if with_out else None
        loss, grad = problem.value_and_grad(out=out, **options)
        assert out is None or grad is out
        assert_near((loss, grad), expected.value_and_grad(), net.dtype)
        arguments, weights = problem.arguments()
        assert net.loss(*arguments, **weights, **options) == loss
        with num_threads(3):
            again, same = net.value_and_grad(*arguments, **weights, params=options.get("params"))
        assert again == loss
        assert same_bits(same, grad)
        assert_near(net.forward(problem.x, **options), expected.forward(), net.dtype)
        layers = net.layer_gradients(*arguments, **weights, **options)
        assert layers.loss == loss
        parts = [part.ravel() for pair in zip(layers.grad_W[1:], layers.grad_b[1:], strict=True) for part in pair]
        assert same_bits(np.concatenate(parts), grad)
        assert_near(layers.grad_h[0], expected.layer_gradients.grad_h[0], net.dtype)

    @rule(model=networks, with_out=st.booleans(), **few_samples)
    def derivatives(self, model, seed, n_samples, by, layout, n_threads, with_out):
        """Every other call of the network."""
        for name, call in CALLS.items():
            if model.net.loss_name not in call.losses or (name in MATRICES and model.net.n_params > MOST_PARAMS):
                continue
            rng = np.random.default_rng(seed)
            its_by = "sample" if by and "entry" not in call.weights else by
            problem = model.problem(rng, n_samples, its_by if call.has_y else None, layout)
            data = with_directions(rng, problem, call)
            options = {"n_threads": n_threads}
            if with_out and call.out:
                options["out"] = np.full(call.out_shape(data), np.nan, model.net.dtype)
            result = call.run(model.net, data, **options)
            parts = result if isinstance(result, tuple) else (result,)
            assert "out" not in options or any(part is options["out"] for part in parts)
            assert_near(result, self.expected(model.reference(problem), name, data), model.net.dtype)

    @staticmethod
    def expected(reference, name, data):
        call = CALLS[name]
        if name.startswith("residuals"):
            return reference.residuals()[name.endswith("jac")]
        given = [getattr(data, key) for key in call.arguments if key != "y"]
        own = [None if value is None else np.asarray(value, float) for value in given]
        return getattr(reference, call.peer)(*own)

    @rule(model=networks, seed=seeds, what=st.sampled_from(["x", "y", "params", "n_threads", "out", "sample_weight"]))
    def refused(self, model, seed, what):
        problem = model.problem(np.random.default_rng(seed), 4)
        net, (x, y), options = model.net, problem.arguments()[0], {}
        out = options["out"] = np.full(net.n_params, 7, net.dtype)
        bad = {"params": net.params[:-1], "n_threads": 0, "out": net.params, "sample_weight": np.zeros(4)}
        if what in bad:
            options[what] = bad[what]
        x, y = (x[:, :-1] if what == "x" else x), (y[:-1] if what == "y" else y)
        with pytest.raises(ValueError, match=rf"^{what}: expected"):
            net.value_and_grad(x, y, **options)
        assert (out == 7).all()

    @rule(model=networks, **few_samples)
    def find_a_nan(self, model, seed, n_samples, by, layout, n_threads):
        """At first nothing is found; then the NaN put into a row of x, unless the row's weights are 0."""
        rng = np.random.default_rng(seed)
        problem = model.problem(rng, n_samples, by, layout)
        (x, y), options = problem.arguments()
        options["n_threads"] = n_threads
        assert model.net.find_nonfinite(x, y, **options) is None
        row, unit = rng.integers(n_samples), rng.integers(x.shape[1])
        x = np.array(x)
        x[row, unit] = np.nan
        found = model.net.find_nonfinite(with_layout(x, layout), y, **options)
        if problem.weight is not None and not problem.weight[row].any():
            assert found is None
        else:
            assert (found.sample, found.layer, found.unit, found.stage) == (row, 0, unit, "input")

    # Operators -------------------------------------------------------------------------------------------------------

    @rule(
        target=operators,
        model=networks,
        name=st.sampled_from(list(OPERATORS)),
        seed=seeds,
        by=weightings,
        layout=layouts,
        n_threads=counts,
        with_params=st.booleans(),
    )
    def operator(self, model, name, seed, by, layout, n_threads, with_params):
        rng = np.random.default_rng(seed)
        problem = model.problem(rng, 5, by, layout)
        theta = rng.normal(0, 0.5, model.net.n_params).astype(model.net.dtype) if with_params else None
        positional, weights = problem.arguments()
        made = getattr(model.net, name)(*positional, **weights, params=theta, n_threads=n_threads)
        return made, OPERATORS[name], model, problem, theta

    @rule(it=operators, seed=seeds, n_threads=counts)
    def apply_an_operator(self, it, seed, n_threads):
        """With params= an operator keeps these, else it follows the network's; it gives the bits of the call."""
        made, name, model, problem, theta = it
        v = np.random.default_rng(seed).normal(size=model.net.n_params).astype(model.net.dtype)
        (x, y), options = problem.arguments()
        options["params"] = model.theta if theta is None else theta
        product = getattr(model.net, name)(x, y, v, **options, n_threads=n_threads)
        assert same_bits(made @ v, product)
        assert same_bits(made.rmatvec(v), product)
        expected = getattr(model.reference(problem, options["params"]), name)(v.astype(float))
        assert_near(product, expected, model.net.dtype)

    # Ensembles -------------------------------------------------------------------------------------------------------

    @rule(target=ensembles, model=networks, k=st.integers(1, 4), seed=seeds)
    def ensemble(self, model, k, seed):
        made = Ensemble(model.net, k, rng=seed)
        self.ensemble_models.append([made, made.params.copy(), model])
        return self.ensemble_models[-1]

    @rule(target=networks, it=ensembles, i=st.integers(0, 3), seed=seeds)
    def write_a_member(self, it, i, seed):
        """A member shares its row of the ensemble's parameters; its copy is an independent network."""
        made, params, model = it
        i %= len(made)
        theta = np.random.default_rng(seed).normal(0, 0.5, params.shape[1]).astype(params.dtype)
        made[i].params = theta
        it[1] = params.copy()
        it[1][i] = theta
        self.models.append(Model(copy.copy(made[i]), theta, *model.how))
        return self.models[-1]

    @rule(it=ensembles, seed=seeds)
    def write_all_members(self, it, seed):
        made, params, _ = it
        it[1] = np.random.default_rng(seed).normal(0, 0.5, params.shape).astype(params.dtype)
        made.params = it[1]

    @rule(target=ensembles, it=ensembles)
    def pickle_an_ensemble(self, it):
        again = pickle.loads(pickle.dumps(it[0]))
        assert not np.shares_memory(again.params, it[0].params)
        self.ensemble_models.append([again, it[1], it[2]])
        return self.ensemble_models[-1]

    @rule(it=ensembles, seed=seeds, by=st.sampled_from([None, "sample", "entry"]), n_threads=counts, own=st.booleans())
    def call_an_ensemble(self, it, seed, by, n_threads, own):
        made, params, model = it
        rng = np.random.default_rng(seed)
        problems = [model.problem(rng, 5, by) for _ in range(len(made) if own else 1)]
        if any(problem.y.shape != problems[0].y.shape for problem in problems):
            return  # labels here, probabilities there
        x, y, weight = ([getattr(problem, key) for problem in problems] for key in ("x", "y", "weight"))
        x, y, weight = (np.stack(part) if own and part[0] is not None else part[0] for part in (x, y, weight))
        losses, grads = made.value_and_grad(x, y, sample_weight=weight, n_threads=n_threads)
        y_hat = made.forward(x, n_threads=n_threads)
        for i, theta in enumerate(params):
            problem = problems[i if own else 0]
            reference = model.reference(problem, theta)
            assert_near((losses[i], grads[i]), reference.value_and_grad(), params.dtype)
            assert_near(y_hat[i], reference.forward(), params.dtype)
            positional, weights = problem.arguments()
            loss, grad = made[i].value_and_grad(*positional, **weights)
            assert loss == losses[i]
            assert same_bits(grad, grads[i])

    # Objectives ------------------------------------------------------------------------------------------------------

    @rule(
        target=objectives,
        model=networks,
        seed=seeds,
        by=weightings,
        l2=st.sampled_from([0.0, 0.25]),
        some_free=st.booleans(),
    )
    def objective(self, model, seed, by, l2, some_free):
        rng = np.random.default_rng(seed)
        problem = model.problem(rng, 5, by)
        free = rng.random(model.net.n_params) < 0.5 if some_free else None
        if some_free:
            free[0] = True
        positional, weights = problem.arguments()
        fun = model.net.objective(*positional, **weights, l2=l2, free=free)
        return fun, model, problem, l2, np.ones(model.net.n_params, bool) if free is None else free

    @rule(it=objectives, which=st.integers(0, 2), value=st.integers(-8, 8))
    def call_an_objective(self, it, which, value):
        """At one of three theta, before and after a parameter that is not free is written."""
        self.compare_objective(it, which)
        _, model, *_, free = it
        if not free.all():
            self.write_params(model, int(np.argmin(free)), value)
            self.compare_objective(it, which)

    def compare_objective(self, it, which):
        """theta in the free places, and the network's current parameters in all others."""
        fun, model, problem, l2, free = it
        theta, v = np.random.default_rng(which).normal(0, 0.5, (2, fun.n_free))
        full = model.theta.astype(float)
        full[free] = theta.astype(model.net.dtype)
        direction = np.zeros_like(full)
        direction[free] = v.astype(model.net.dtype)
        is_weight = np.concatenate([np.r_[np.ones(W.size), np.zeros(b.size)] for W, b in model.net.unflatten(full)])
        reference = model.reference(problem, full)
        loss, grad = reference.value_and_grad()
        expected = loss + l2 / 2 * (is_weight * full**2).sum(), (grad + l2 * is_weight * full)[free]
        assert_near(fun(theta), expected, model.net.dtype)
        assert_near((fun.value(theta), fun.grad(theta)), expected, model.net.dtype)
        product = reference.hvp(direction) + l2 * is_weight * direction
        assert_near(fun.hessp(theta, v), product[free], model.net.dtype)

    # What always holds -----------------------------------------------------------------------------------------------

    @invariant()
    def parameters_are_what_was_written(self):
        for model in getattr(self, "models", []):
            assert same_bits(model.net.params, model.theta)
            for view in (*model.net.weights, *model.net.biases):
                assert np.shares_memory(view, model.net.params)
        for made, params, _ in getattr(self, "ensemble_models", []):
            assert same_bits(made.params, params)

    @invariant()
    def threads_are_those_set(self):
        assert get_num_threads() == getattr(self, "count", get_num_threads())


def with_examples(n):
    """Settings for so many sequences."""
    return settings(
        max_examples=int(EXAMPLES or n),
        stateful_step_count=40,
        derandomize=EXAMPLES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class TestMachine(Machine.TestCase):
    settings = with_examples(40)


@pytest.mark.long("more sequences of the same steps")
class TestMoreSequences(Machine.TestCase):
    settings = with_examples(120)
