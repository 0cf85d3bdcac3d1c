"""Everything that a call returns can be copied and pickled, and the copy gives the same bits.

The calls are found by their names and signatures: a new one that returns something else fails here.
"""

import copy
import dataclasses
import functools
import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import NonlinearConstraint
from scipy.sparse.linalg import LinearOperator

import backprop
from backprop import Activation, Ensemble, Network, Objective, PartialSums, _core

RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(9, 3)), RNG.normal(size=(9, 2)), RNG.uniform(1, 2, size=9)
V = RNG.normal(size=Network([3, 4, 2]).n_params)


def g(a):
    return np.tanh(a)


def g_prime(a):
    return 1 / np.cosh(a) ** 2


def g_second(a):
    return -2 * np.tanh(a) / np.cosh(a) ** 2


def g_third(a):
    return (4 * np.tanh(a) ** 2 - 2 / np.cosh(a) ** 2) / np.cosh(a) ** 2


def network(**options):
    return Network([3, 4, 2], **({"activations": "tanh", "rng": 0} | options))


def saved(tmp_path):
    pytest.importorskip("safetensors")
    network().save(tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


# Arguments by name, for all parameters of the calls that have no default.
ARGUMENTS = {
    "x": X, "y": Y, "v": V, "theta": V, "params": V, "vector": V, "cotangent": Y, "max_norm": 1.0, "weight": 0.5,
    "grad_x": RNG.normal(size=(9, 2, 3)), "sizes": [3, 4, 2], "net": network(), "k": 3, "name": "own", "g": g,
    "g_prime": g_prime, "W_next": np.ones((2, 4)), "grad_a_next": Y, "grad_h": np.ones((9, 3)), "a": X,
    "activation": "tanh", "n": backprop.get_num_threads(), "first_row": 0, "n_rows": 9, "n_parts": 2,
    "sample_weight": W, "blocks": [slice(0, 9)], "multipliers": [1.0, -2.0], "cot_y": Y,
    "cot_dy": RNG.normal(size=(9, 2, 3)), "cot_d2y": RNG.normal(size=(9, 2, 3)), "lb": -1.0, "ub": [1.0, np.inf],
}  # fmt: skip
GIVEN_TOO = {  # y has a default for what takes no targets, or has them in blocks
    ("input_hessian", "multipliers"),
    *(("jet_vjp", name) for name in ("cot_y", "cot_dy", "cot_d2y")),
    *((name, "y") for name in ("partial_sums", "objective", "Objective", "fit")),
    *(("sobolev_objective", name) for name in ("y", "grad_x", "weight")),
}
NOT_PICKLED = {
    "__version__": "a string",
    "num_threads": "a block belongs to the thread that is in it",
    "InputJet": "input_jet makes it",
    "LayerGradients": "layer_gradients makes it",
    "GradientReport": "check_gradient makes it",
    "NonFinite": "find_nonfinite makes it",
    "PartialSums": "partial_sums makes it",
    "WeightTotals": "weight_totals makes it",
    "load": "a network, tested with `save`",
}


def call(function, tmp_path):
    """What a function, method or class returns for arguments of these names."""
    needed = [
        p
        for p in inspect.signature(function).parameters.values()
        if (p.default is p.empty or (function.__name__, p.name) in GIVEN_TOO)
        and p.kind is not p.VAR_KEYWORD
        and p.kind is not p.VAR_POSITIONAL
    ]
    given = {p: saved(tmp_path) if p.name == "path" else ARGUMENTS[p.name] for p in needed}
    by_name = {p.name: value for p, value in given.items() if p.kind is p.KEYWORD_ONLY}
    return function(*(value for p, value in given.items() if p.kind is not p.KEYWORD_ONLY), **by_name)


def public(kind):
    return [name for name in dir(kind) if not name.startswith("_")]


def bits(it):
    """Its value, as something to compare; for a callable its result at a point."""
    if isinstance(it, np.ndarray):
        return it.dtype.str, it.shape, it.tobytes()
    if isinstance(it, _core.LBFGS):
        return bits(it.__reduce__()[1])
    if isinstance(it, dict):
        return [(name, bits(value)) for name, value in it.items()]
    if isinstance(it, tuple | list):
        return type(it).__name__, *map(bits, it)
    if isinstance(it, Network):
        return repr(it), bits(it.params), bits(it.value_and_grad(X, Y)), bits(it.hvp(X, Y, V))
    if isinstance(it, Ensemble):
        return repr(it), bits(it.value_and_grad(X, Y)), [bits(it[i]) for i in range(len(it))]
    if isinstance(it, Objective):
        second = [] if "input gradients" in repr(it) else [it.hessp(V, V), it.hess(V)]
        return bits([it(V), it(V), *second, it.value(2 * V), it.grad(V), it.expand(V)])
    if isinstance(it, NonlinearConstraint):
        return bits([it.lb, it.ub, it.fun(X[0]), it.jac(X[0]), it.hess(X[0], np.ones(2))])
    if isinstance(it, LinearOperator):
        return bits([it @ V, it.matmat(np.stack([V, 2 * V], axis=1))])
    if isinstance(it, Activation):
        return repr(it), bits(it.g(X, 0.0)), bits(network(output=it).forward(X))
    if isinstance(it, PartialSums):
        return repr(it), it.to_bytes(), bits(it.result())
    if dataclasses.is_dataclass(it):
        return type(it).__name__, *(bits(getattr(it, field.name)) for field in dataclasses.fields(it))
    if callable(it):  # for a method that was returned, such as those of the residuals
        return bits(it(V))
    assert it is None or isinstance(it, bool | int | float | str | bytes | slice | np.dtype), (
        f"how can a {type(it)} be compared?"
    )
    return repr(it)


def cloud(it):
    cloudpickle = pytest.importorskip("cloudpickle")
    return pickle.loads(cloudpickle.dumps(it))


def loaded(protocol):
    return lambda it: pickle.loads(pickle.dumps(it, protocol))


HOW = {"copy": copy.copy, "deepcopy": copy.deepcopy, "cloudpickle": cloud}
HOW |= {f"pickle {protocol}": loaded(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)}


def assert_comes_back(it):
    expected = bits(it)
    for name, how in HOW.items():
        again = how(it)
        assert type(again) is type(it), name
        assert bits(again) == expected, name
        assert bits(it) == expected, name
    assert bits(copy.deepcopy(pickle.loads(pickle.dumps([it, it]))[1])) == expected


@pytest.mark.parametrize("name", [name for name in backprop.__all__ if name not in NOT_PICKLED])
def test_every_public_name_and_what_it_gives(name, tmp_path):
    function = getattr(backprop, name)
    assert pickle.loads(pickle.dumps(function)) is function
    assert_comes_back(call(function, tmp_path))


def sum_of_objectives():
    net = network()
    return net.objective(X, Y, sample_weight=W, l2=0.1) + 0.5 * net.objective([(X[:4], Y[:4]), (X[4:], Y[4:])])


KINDS = {
    "Network": network,
    "float32": lambda: network(dtype="float32", loss=("huber", 0.5)),
    "own": lambda: network(activations=Activation("own", g, g_prime, g_second, g_third)),
    "Ensemble": lambda: Ensemble(network(), 3, rng=0),
    "Objective": lambda: network().objective(X, Y, sample_weight=W, l2=0.1),
    "sum": sum_of_objectives,
    "Activation": lambda: Activation("own", g, g_prime, g_second, g_third),
}
SQUARED_ERRORS = ("residuals", "normal_equations", "sobolev_value_and_grad", "sobolev_objective")
METHODS = [
    (kind, name)
    for kind in KINDS
    for name in public(KINDS[kind]())
    if not (kind == "float32" and name in SQUARED_ERRORS)
    if not (kind in ("Objective", "sum") and name == "serve")  # it needs a communicator
    if name != "pde_objective"  # it needs one output: test_pde_objective
    if not (kind == "own" and name == "save")  # a custom activation has no name in a file
    if not (kind == "Activation" and name in ("g", "g_prime", "g_second", "g_third", "functions"))  # the user's own
]


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_every_method_and_attribute_gives_what_can_be_pickled(kind, name, tmp_path):
    it = KINDS[kind]()
    attribute = getattr(it, name)
    if inspect.ismethod(attribute):  # it is returned too, as SciPy's callback
        again = pickle.loads(pickle.dumps(attribute))
        if name != "save":
            assert bits(call(again, tmp_path)) == bits(call(attribute, tmp_path))
        assert_comes_back(call(attribute, tmp_path))
    else:
        assert_comes_back(attribute)


def test_a_residual_of_weights_and_an_operator_of_params():
    net = network()
    fun, jac = net.residuals(X, Y, sample_weight=np.arange(18.0).reshape(9, 2), n_threads=2)
    for it in (fun, jac, net.hvp_operator(X, Y, params=2 * V, sample_weight=W, n_threads=2)):
        assert_comes_back(it)


def test_a_loaded_network_comes_back(tmp_path):
    assert_comes_back(backprop.load(saved(tmp_path)))


def test_they_go_to_another_process(tmp_path):
    net = network()
    things = [net.hvp_operator(X, Y), *net.residuals(X, Y), net.objective(X, Y).hessp]
    (tmp_path / "things").write_bytes(pickle.dumps((things, V)))
    code = """
        import pickle, sys
        operator, fun, jac, hessp, = (loaded := pickle.load(open(sys.argv[1], "rb")))[0]
        v = loaded[1]
        print(*((part.tobytes().hex()) for part in (operator @ v, fun(v), jac(v), hessp(v, v))))
    """
    done = subprocess.run(
        [sys.executable, "-c", inspect.cleandoc(code), tmp_path / "things"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    operator, fun, jac, hessp = things
    expected = [part.tobytes().hex() for part in (operator @ V, fun(V), jac(V), hessp(V, V))]
    assert done.stdout.split() == expected


# Subclasses -----------------------------------------------------------------------------------------------------------


class Tagged(Network):
    """Attributes in its ``__dict__``, one of which refers to the object itself; and an `__init__` of its own."""

    def __init__(self, tag, width):
        super().__init__([3, width, 2], activations="tanh", rng=0)
        self.tag, self.history, self.me = tag, [1.0], self

    @functools.cached_property
    def norm(self):
        return float(np.linalg.norm(self.params))


class Slotted(Network):
    """Attributes in slots, one with a private name and one empty; and a property beside an entry."""

    __slots__ = ("__secret", "empty", "mark")

    def __init__(self):
        super().__init__([3, 4, 2], activations="tanh", rng=0)
        self.mark, self.__secret = "mark", [7]

    @property
    def secret(self):
        return self.__secret


class Stateful(Network):
    """With its own `__getstate__` and `__setstate__`, as they were needed when attributes were dropped."""

    def __getstate__(self):
        return {**super().__getstate__(), "scale": self.scale}

    def __setstate__(self, state):
        state = dict(state)
        self.scale = state.pop("scale")
        super().__setstate__(state)


class OwnEnsemble(Ensemble):
    title = None


class OwnObjective(Objective):
    __slots__ = ("n_calls",)

    def __call__(self, theta):
        self.n_calls = getattr(self, "n_calls", 0) + 1
        return super().__call__(theta)


class OwnActivation(Activation):
    def __init__(self):
        super().__init__("own", g, g_prime, g_second)
        self.note = ["note"]


every_how = pytest.mark.parametrize("how", HOW.values(), ids=list(HOW))


@every_how
def test_attributes_of_a_subclass(how):
    net = Tagged("tag", 4)
    norm = net.norm
    other = how(net)
    assert (type(other), other.tag, other.history) == (Tagged, "tag", [1.0])
    assert other.__dict__["norm"] == norm
    assert other.me is (net if how is copy.copy else other)
    assert (other.history is net.history) == (how is copy.copy)
    assert bits(other) == bits(net)
    assert not np.shares_memory(other.params, net.params)
    other.history.append(2.0)
    other.extra = 1
    assert not hasattr(net, "extra")


@every_how
def test_slots_of_a_subclass(how):
    net = Slotted()
    other = how(net)
    assert (type(other), other.mark, other.secret) == (Slotted, "mark", [7])
    assert not hasattr(other, "empty")
    assert bits(other) == bits(net)


@every_how
def test_a_subclass_that_does_it_itself(how):
    net = Stateful([3, 4, 2], rng=0)
    net.scale, net.other = 2.0, "other"
    again = how(net)
    assert (again.scale, again.other) == (2.0, "other")
    assert bits(again) == bits(net)


@every_how
def test_members_and_ensembles_of_subclasses(how):
    ensemble = OwnEnsemble(Tagged("tag", 4), 3, rng=0)
    ensemble.title = ["title"]
    ensemble[1].tag = "second"
    assert [member.tag for member in ensemble] == ["tag", "second", "tag"]
    again = how(ensemble)
    assert (type(again), again.title) == (OwnEnsemble, ["title"])
    assert [(type(member), member.tag) for member in again] == [(Tagged, t) for t in ("tag", "second", "tag")]
    assert bits(again) == bits(ensemble)
    assert np.shares_memory(again[1].params, again.params)
    assert not np.shares_memory(again.params, ensemble.params)
    member = how(ensemble[1])
    assert (type(member), member.tag, bits(member)) == (Tagged, "second", bits(ensemble[1]))


@every_how
def test_a_slotted_member(how):
    again = how(Ensemble(Slotted(), 2, rng=0))
    assert [(member.mark, member.secret) for member in again] == [("mark", [7])] * 2


@every_how
def test_objectives_and_activations_of_subclasses(how):
    fun = OwnObjective(network(), X, Y)
    fun(V)
    fun.title = "title"
    again = how(fun)
    assert (type(again), again.n_calls, again.title) == (OwnObjective, 1, "title")
    assert bits(again) == bits(fun)
    activation = how(OwnActivation())
    assert (type(activation), activation.note) == (OwnActivation, ["note"])
    assert bits(activation)[1:] == bits(OwnActivation())[1:]


def test_a_class_of_main_goes_by_value():
    """As cloudpickle treats classes of a notebook."""
    cloudpickle = pytest.importorskip("cloudpickle")
    code = """
        import sys, cloudpickle
        from backprop import Network
        class Here(Network):
            pass
        net = Here([3, 1], rng=0)
        net.tag = lambda: "tag"
        fun, _ = net.residuals([[1.0, 2, 3]], [[1.0]])
        sys.stdout.buffer.write(cloudpickle.dumps((net, fun)))
    """
    data = subprocess.run([sys.executable, "-c", inspect.cleandoc(code)], capture_output=True, check=True).stdout
    net, fun = cloudpickle.loads(data)
    assert (type(net).__name__, net.tag()) == ("Here", "tag")
    assert fun(net.params) == net.forward([[1.0, 2, 3]]) - 1


# What is no attribute -------------------------------------------------------------------------------------------------

REFUSED = {
    "Network": {
        "param": "Network has no attribute 'param'; did you mean 'params'?",
        "activation": "did you mean 'activations'? activations is fixed when the network is made",
        "weight": "did you mean 'weights'? weights are views of params: write into one",
        "loss": "Network.loss is fixed when the network is made: make another one, Network(sizes, loss=...)",
        "activations": "Network.activations is fixed when the network is made",
        "output": "Network(sizes, output=...)",
        "sizes": "Network.sizes is fixed when the network is made",
        "weights": "Network.weights are views of params: write into one, as net.weights[0][...] = W, or assign params",
        "n_params": "Network.n_params follows from the sizes",
        "forward": "Network.forward is a method: expected a function in its place, got str 'huber'",
        "colour": "Network has no attribute 'colour'; a subclass may have attributes of its own",
        "_colour": "Network has no attribute '_colour'",
    },
    "Ensemble": {
        "param": "Ensemble has no attribute 'param'; did you mean 'params'?",
        "k": "Ensemble.k is fixed when the ensemble is made",
        "forward": "Ensemble.forward is a method",
        "colour": "Ensemble has no attribute 'colour'",
    },
    "Objective": {
        "l2": "Objective.l2 is fixed when the objective is made: make another one, net.objective(x, y, l2=...)",
        "gradient": "Objective has no attribute 'gradient'; did you mean 'grad'?",
        "n_free": "Objective.n_free follows from free",
        "colour": "Objective has no attribute 'colour'",
    },
    "Activation": {"g_primes": "an Activation does not change once it is made: 'g_primes'", "g": "does not change"},
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in REFUSED for name in REFUSED[kind]])
def test_an_attribute_that_is_none(kind, name):
    it = KINDS[kind]()
    before = bits(it)
    with pytest.raises(AttributeError) as raised:
        setattr(it, name, "huber")
    assert REFUSED[kind][name] in str(raised.value)
    assert bits(it) == before


def test_a_subclass_may_have_any_attribute_of_its_own():
    net, ensemble = Tagged("tag", 4), OwnEnsemble(network(), 2)
    for it in (net, ensemble, OwnObjective(network(), X, Y), OwnActivation()):
        it.param = it.activation = it.colour = 1
        assert (it.param, it.activation, it.colour) == (1, 1, 1)
    net.params = 2 * V
    assert np.array_equal(net.params, 2 * V)
    with pytest.raises(AttributeError, match=r"^Tagged.activations is fixed when the network is made"):
        net.activations = "relu"


def test_an_error_of_a_subclass_stays_its_own():
    class Strict(Network):
        @property
        def scale(self):
            return 1.0

        @scale.setter
        def scale(self, value):
            raise AttributeError("scale: my own words")

    with pytest.raises(AttributeError, match=r"^scale: my own words$"):
        Strict([3, 1]).scale = 2


def test_a_method_may_be_replaced_on_one_network():
    """As a test or a profiler replaces a method; copies have the method itself."""
    net = network()
    right = net.forward
    net.forward = lambda x: right(x) + 1
    assert np.array_equal(net.forward(X), right(X) + 1)
    for how in HOW.values():
        assert np.array_equal(how(net).forward(X), right(X))
