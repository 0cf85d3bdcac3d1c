"""Arguments that take the quick path: the same bits, errors and unchanged `out` as by the path through Python."""

from dataclasses import replace

import numpy as np
import pytest
from call_peers import CALLS, FIRST_PART, arrays
from problems import LOSS_NAMES, same_bits
from refusals import BAD, N_IN, N_OUT, N, nan_pattern, plain_data, takes

from backprop import Activation, Ensemble, Network

EVERY = {**CALLS, **FIRST_PART}
DIRECT = [name for name, call in EVERY.items() if not call.at_theta]  # the others call these
WEIGHTS = {
    "none": None,
    "by sample": np.arange(1.0, N + 1),
    "by sample, some 0": np.arange(N) % 2.0,
    "by entry": 1 + np.arange(N * N_OUT).reshape(N, N_OUT) / 4,
    "a list": [1.0] * N,
}
QUICK = {"quick", "quick_value_and_grad", "quick_ensemble_value_and_grad"}


class Watched:
    """A plan that records whether a quick call returned a result, or one whose quick calls never do."""

    def __init__(self, plan, *, slow=False):
        self.plan, self.slow, self.taken = plan, slow, False

    def __getattr__(self, name):
        method = getattr(self.plan, name)
        if name not in QUICK:
            return method

        def quick(*arguments, **keywords):
            result = None if self.slow else method(*arguments, **keywords)
            self.taken = self.taken or result is not None
            return result

        return quick


def outcome(name, data, *, slow, **keywords):
    """The result or the error, the contents of out, and whether the call was quick."""
    net = data.problem.net
    watched = Watched(net._plan, slow=slow)
    net._plan = watched
    try:
        results = [np.array(result) for result in arrays(EVERY[name].run(net, data, **keywords))]
    except (ValueError, TypeError) as error:
        results = [type(error), str(error)]
    finally:
        net._plan = watched.plan
    return results, watched.taken


def assert_same(name, data, **keywords):
    """The same result with and without the quick path; returns whether it was taken."""
    quick, taken = outcome(name, data, slow=False, **keywords)
    slow, _ = outcome(name, data, slow=True, **keywords)
    assert len(quick) == len(slow)
    for one, other in zip(quick, slow, strict=True):
        assert same_bits(one, other) if isinstance(one, np.ndarray) else one == other
    return taken


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("name", DIRECT)
def test_plain_arguments_are_quick_and_have_the_bits_of_others(name, loss, dtype):
    call = EVERY[name]
    if loss not in call.losses:
        return
    data = plain_data(dtype=dtype, loss=loss)
    data = replace(data, grad_x=data.grad_x.astype(dtype), weight=0.5)
    assert assert_same(name, data) == call.is_quick
    for kind, weight in WEIGHTS.items():
        if call.has_y and not (loss == "cross_entropy" and kind == "by entry"):
            taken = assert_same(name, data, sample_weight=weight)
            left_out = kind == "by sample, some 0" and call.by_row
            assert taken == (kind != "a list" and not left_out and not (kind == "by entry" and "sobolev" in name))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name", [name for name in DIRECT if EVERY[name].has_y and "cross_entropy" in EVERY[name].losses]
)
def test_probabilities_are_quick_and_refused_as_by_the_other_path(name, dtype):
    data = plain_data(dtype=dtype, loss="cross_entropy")
    y = np.full((N, N_OUT), 1 / N_OUT, dtype)
    y[3] = np.nan
    weight = np.arange(N) != 3
    call = EVERY[name]
    data = replace(data, y=y)
    assert not assert_same(name, data)
    assert assert_same(name, data, sample_weight=weight.astype(float)) != call.by_row
    for wrong in (0.01, -0.5, np.inf):
        y[3] = 1 / N_OUT
        y[4, 0] += wrong
        assert not assert_same(name, data)
        y[4] = y[3]
    assert assert_same(name, data)


@pytest.mark.parametrize(
    ("name", "argument", "case"),
    [(name, argument, case) for name in DIRECT for argument in BAD if takes(EVERY[name], argument)
     for case in BAD[argument]],
)  # fmt: skip
def test_refusals_are_those_of_the_other_path(name, argument, case):
    value = BAD[argument][case][0]
    data, keywords = plain_data(), {}
    if argument in ("sample_weight", "n_threads", "params", "out"):
        keywords = {argument: value}
    else:
        data = replace(data, **{argument: value})
    if EVERY[name].out and argument != "out":
        shape = EVERY[name].out_shape(plain_data())
        keywords["out"] = nan_pattern(shape, "float64")
    assert not assert_same(name, data, **keywords)
    if argument != "out" and "out" in keywords:
        assert keywords["out"].tobytes() == nan_pattern(shape, "float64").tobytes()


@pytest.mark.parametrize("name", ["hvp", "hessian"])
def test_an_activation_without_g_second_is_refused_with_its_name(name):
    own = Activation("own", np.tanh, lambda a: 1 - np.tanh(a) ** 2)
    net = Network([N_IN, 4, N_OUT], activations=own, rng=0)
    data = plain_data()
    data = replace(data, problem=replace(data.problem, net=net))
    with pytest.raises(ValueError, match=f"{name}: expected a g_second in the activation 'own' of layer 1"):
        EVERY[name].run(net, data)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("own", ["", "x", "y", "xy"])
def test_ensembles(own, loss):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 7, 2) if "x" in own else (7, 2))
    y = rng.integers(0, 4, (3, 7) if "y" in own else 7) if loss == "cross_entropy" else None
    if y is None:
        y = rng.standard_normal((3, 7, 4) if "y" in own else (7, 4))
    ensemble = Ensemble(Network([2, 5, 4], loss=loss, rng=0), 3, rng=1)
    plan = ensemble._net._plan
    results = []
    for slow in (False, True):
        ensemble._net._plan = Watched(plan, slow=slow)
        results.append(ensemble.value_and_grad(x, y))
        assert ensemble._net._plan.taken != slow
        for bad in (x[..., :1], x[..., :0, :], None):
            with pytest.raises((ValueError, TypeError)):
                ensemble.value_and_grad(bad, y)
        with pytest.raises(ValueError, match="out: expected memory of its own"):
            ensemble.value_and_grad(x, y, out=ensemble.params)
    for one, other in zip(*results, strict=True):
        assert same_bits(one, other)
