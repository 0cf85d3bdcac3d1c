"""Empty batches: results per sample are empty, sums are 0, and a mean over no samples is an error that says so."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from call_peers import CALLS, FIRST_PART, arrays, random_data, rows_of
from problems import same_bits

from backprop import Activation, Ensemble, Network, _core, hidden_gradient, preactivation_gradient

MEAN = r"^x: expected at least one sample, got 0: the mean of no samples is not defined; skip empty batches$"
ROWS = {
    "forward", "jvp", "input_gradient", "input_jacobian", "jacobian", "per_sample_gradients",
    "per_sample_gradient_norms", "residuals.fun", "residuals.jac", "laplacian", "input_hessian", "input_jet",
}  # fmt: skip
SUMS = {"clipped_gradient", "normal_equations"}
BOTH = {"vjp": (1,), "jet_vjp": (1,)}  # sums, and by these places rows
MEANS = {"value_and_grad", "hvp", "gauss_newton_vp", "hessian", "objective.hessp", "sobolev_value_and_grad"}
MEANS_OF_X_AND_Y = {
    "loss", "layer_gradients", "objective", "hvp_operator", "gauss_newton_operator", "find_nonfinite", "check_gradient",
}  # fmt: skip
OF_ITS_CALL = {"partial_sums", "sobolev_objective", "pde_objective", "fit"}  # tests/distributed, tests/training, ...
OF_OBJECTIVES = {"pde_value_and_grad", "pde_gauss_newton_vp"}  # means too, which no method of the network returns
WITHOUT_SAMPLES = {"constraint", "save", "unflatten"}
EVERY = CALLS | FIRST_PART
DEFINED = sorted(ROWS | SUMS | set(BOTH))


def data_of(name, n_out=3, dtype="float64", loss="squared_error", by=None, n_samples=4):
    rng = np.random.default_rng(5)
    by = "sample" if by and "entry" not in EVERY[name].weights else by
    return random_data(rng, [2, 3, n_out], EVERY[name], activations=["tanh"], dtype=dtype, loss=loss, weight=by,
                       n_samples=n_samples)  # fmt: skip


def assert_empty(name, results, expected):
    """The results of some rows with the rows taken out; sums are 0."""
    for place, (result, right) in enumerate(zip(arrays(results), arrays(expected), strict=True)):
        by_row = name in ROWS or place in BOTH.get(name, ())
        assert same_bits(result, right[:0] if by_row else np.zeros_like(right))


def test_every_call_is_in_a_table():
    named = ROWS | SUMS | set(BOTH) | MEANS | MEANS_OF_X_AND_Y | OF_ITS_CALL | WITHOUT_SAMPLES
    methods = {name for name, _ in inspect.getmembers(Network, inspect.isfunction) if not name.startswith("_")}
    assert {name.split(".")[0] for name in named} == methods, "a call is missing in ROWS, SUMS, MEANS, ... above"
    means = {name for name, call in _core.CALLS.items() if call.is_mean} - OF_OBJECTIVES
    assert means == (MEANS | {"loss"}) - {"objective.hessp"}
    assert set(_core.CALLS) <= named | OF_OBJECTIVES
    assert set(EVERY) == ROWS | SUMS | set(BOTH) | MEANS


@pytest.mark.parametrize("name", DEFINED)
def test_what_is_no_mean_is_empty_or_0(name):
    for loss in EVERY[name].losses:
        for dtype in ("float32", "float64"):
            for n_out, by in ((1, None), (3, "sample"), (3, None if loss == "cross_entropy" else "entry")):
                data = data_of(name, n_out, dtype, loss, by)
                call, nothing = EVERY[name].run, rows_of(data, slice(0))
                expected = call(data.problem.net, data)
                assert_empty(name, call(nothing.problem.net, nothing), expected)
                assert_empty(name, call(nothing.problem.net, nothing, n_threads=4), expected)


@pytest.mark.parametrize("name", [name for name in DEFINED if EVERY[name].out])
def test_out_is_filled_and_returned(name):
    nothing = rows_of(data_of(name), slice(0))
    out = np.full(EVERY[name].out_shape(nothing), np.nan)
    assert EVERY[name].run(nothing.problem.net, nothing, out=out) is out
    assert not out.any()


@pytest.mark.parametrize("name", DEFINED)
def test_other_forms_of_nothing(name):
    """Empty lists, other dtypes, strides: an empty batch needs no conversion."""
    data = data_of(name)
    nothing = rows_of(data, slice(0))
    expected = EVERY[name].run(data.problem.net, data)
    for x in (np.empty((0, 2), np.int8), np.empty((0, 2), ">f4"), np.empty((2, 0)).T, np.empty((0, 4))[:, ::2]):
        given = replace(nothing, x=x, y=nothing.y.astype("f2"), cotangent=np.empty((0, 3), bool))
        assert_empty(name, EVERY[name].run(data.problem.net, given), expected)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_empty_lists_of_targets_and_weights(loss):
    net, x = Network([2, 3, 1], loss=loss, rng=0), np.empty((0, 2))
    assert net.per_sample_gradient_norms(x, [], sample_weight=[]).shape == (0,)
    assert not net.clipped_gradient(x, [], 1.0, sample_weight=[]).any()


def test_a_list_without_rows_tells_how_to_write_it():
    with pytest.raises(ValueError, match=r"^x: expected shape \(n_samples, 2\), got \(0,\); .* np.empty\(\(0, 2\)\)$"):
        Network([2, 1], rng=0).forward([])


@pytest.mark.parametrize("name", DEFINED)
def test_what_is_wrong_is_refused_all_the_same(name):
    nothing = rows_of(data_of(name), slice(0))
    call, net = EVERY[name], nothing.problem.net
    wrong = [("x", np.empty((0, 3))), ("x", np.empty((0, 2), complex))]
    wrong += [("y", np.empty((0, 2)))] if call.has_y else []
    wrong += [("v", np.empty(0))] if "v" in call.arguments else []
    wrong += [("cotangent", np.empty((0, 2)))] if "cotangent" in call.arguments else []
    wrong += [("cot_d2y", np.empty((0, 2, 9)))] if "cot_d2y" in call.arguments else []
    wrong += [("directions", np.empty((1, 2, 2)))] if "directions" in call.arguments else []
    wrong += [("multipliers", np.empty((1, 3)))] if "multipliers" in call.arguments else []
    wrong += [("max_norm", 0.0)] if "max_norm" in call.arguments else []
    for argument, value in wrong:
        with pytest.raises((ValueError, TypeError), match=f"^{argument}: "):
            call.run(net, replace(nothing, **{argument: value}))
    if call.has_y:
        with pytest.raises(ValueError, match=r"^sample_weight: "):
            call.run(net, replace(nothing, problem=replace(nothing.problem, weight=np.ones(1))))
    if call.out:
        with pytest.raises(ValueError, match=r"^out: "):
            call.run(net, nothing, out=np.empty((1, 7)))


@pytest.mark.parametrize("name", sorted(MEANS))
def test_a_mean_of_nothing_is_refused(name):
    for n_out, by in ((1, None), (3, "sample")):
        nothing = rows_of(data_of(name, n_out, by=by), slice(0))
        net, call = nothing.problem.net, EVERY[name]
        before = net.params.tobytes()
        keywords = {"out": np.full(call.out_shape(nothing), 7.0)} if call.out else {}
        with pytest.raises(ValueError, match=MEAN):
            call.run(net, nothing, **keywords)
        assert net.params.tobytes() == before
        assert all((out == 7).all() for out in keywords.values())


@pytest.mark.parametrize("name", sorted(MEANS_OF_X_AND_Y))
@pytest.mark.parametrize("x", [np.empty((0, 2)), np.empty((0, 2), np.float32), []], ids=["plain", "float32", "list"])
def test_other_means_of_nothing_are_refused(name, x):
    with pytest.raises(ValueError, match=MEAN):
        getattr(Network([2, 3, 1], rng=0), name)(x, np.empty((0, 1)))


def refuse_empty(g):
    def checked(a):
        assert a.size
        return g(a)

    return checked


def of_tanh_third(a):
    return (4 * np.tanh(a) ** 2 - 2 / np.cosh(a) ** 2) / np.cosh(a) ** 2


@pytest.mark.parametrize("name", DEFINED)
def test_functions_of_the_users_own_are_not_called(name):
    derivatives = [lambda a: 1 / np.cosh(a) ** 2, lambda a: -2 * np.tanh(a) / np.cosh(a) ** 2, of_tanh_third]
    own = Activation("own", *map(refuse_empty, [np.tanh, *derivatives]))
    net = Network([2, 3, 3], activations=own, output=own, rng=0)
    data = data_of(name)
    nothing = rows_of(data, slice(0))
    assert_empty(name, EVERY[name].run(net, nothing), EVERY[name].run(net, data))
    assert preactivation_gradient(np.empty((0, 3)), np.empty((0, 3)), own).shape == (0, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_two_equations(dtype):
    array = lambda *shape: np.ones(shape, dtype)  # noqa: E731
    assert same_bits(hidden_gradient(array(2, 3), array(0, 2)), array(0, 3))
    assert same_bits(hidden_gradient(array(0, 3), array(2, 0)), 0 * array(2, 3))
    assert same_bits(preactivation_gradient(array(0, 3), array(0, 3), "tanh"), array(0, 3))
    assert same_bits(preactivation_gradient(array(3, 0), array(3, 0), "tanh"), array(3, 0))


@pytest.mark.parametrize("shape", [(0, 2), (4, 0, 2)])
def test_ensembles(shape):
    ensemble = Ensemble(Network([2, 3, 1], dtype="float32", rng=0), 4, rng=0)
    assert same_bits(ensemble.forward(np.empty(shape)), np.empty((4, 0, 1), np.float32))
    for x in (np.empty(shape), np.empty(shape, np.float32)):
        with pytest.raises(ValueError, match=MEAN):
            ensemble.value_and_grad(x, np.empty((*shape[:-1], 1), np.float32))


def test_a_user_may_go_on_afterwards():
    """A batch of no samples leaves nothing in the buffers of the next call."""
    data = data_of("vjp")
    net = data.problem.net
    before = net.forward(data.x), *net.vjp(data.x, data.cotangent)
    net.vjp(data.x[:0], data.cotangent[:0])
    after = net.forward(data.x), *net.vjp(data.x, data.cotangent)
    assert all(same_bits(one, other) for one, other in zip(before, after, strict=True))
