"""Modes of the floating-point unit: calls compute in the default mode, and restore the caller's."""

import ctypes
import functools
import os
import platform
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from call_peers import CALLS, FIRST_PART, random_data
from fault_injection import bits
from partial_cases import case_of
from suites import shortened
from systems import compile_c, needs_signals

import backprop
from backprop import Activation, Ensemble, Network, hidden_gradient, preactivation_gradient
from backprop.activations import ACTIVATIONS

CONTROL = 0xFFC0  # of MXCSR: flushing, rounding, masks of exceptions; the others are flags, which calls may raise
FLUSH = 0x8040  # subnormal results and arguments become 0
TRAPS = 0x0E80  # masks of invalid operations, divisions by 0, overflow and underflow
ROUND_UP = 0x4000
DEFAULT = 0x1F80, 0x37F
MODES = {"up": 1, "down": 2, "to zero": 3, "flush": FLUSH}  # fesetround's by float_round's number

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in {"x86_64", "amd64"} or os.name != "posix",
    reason="MXCSR is x86's, and libraries for ctypes are compiled as POSIX has them",
)


@pytest.fixture(scope="module")
def unit(tmp_path_factory):
    library = ctypes.CDLL(str(compile_c("float_state", tmp_path_factory.mktemp("float_state"), "-lm")))
    for name in ("float_record", "float_one", "float_zero"):
        getattr(library, name).restype, getattr(library, name).argtypes = ctypes.c_double, [ctypes.c_double]
    return library


def words(unit):
    """The control bits of both units."""
    return unit.float_mxcsr() & CONTROL, unit.float_x87()


@contextmanager
def mode(unit, name):
    """Set a mode of this thread; afterwards the control words must be unchanged."""
    if name in MODES and MODES[name] < 4:
        unit.float_round(MODES[name])
    else:
        unit.float_set_mxcsr(DEFAULT[0] ^ (FLUSH if name == "flush" else TRAPS if name == "traps" else 0))
    before = words(unit)
    try:
        yield before
    finally:
        after = words(unit)
        unit.float_round(0)
        unit.float_set_mxcsr(DEFAULT[0])
        assert after == before


# The calls ------------------------------------------------------------------------------------------------------------


def not_finite(x):
    """x with one NaN."""
    x = np.array(x)
    x[41, 2] = np.nan
    return x


def with_objective(function):
    """A function of an objective with l2, at parameters that are not the network's."""
    return lambda net, x, y, n: function(net.objective(x, y, l2=1e-3, n_threads=n), net.params * 0.5)


def of_equation(net, x, y, n):
    """An objective of a differential equation, of which a subnormal coefficient of one sample uses two axes."""
    net = Network([5, 7, 1], activations="gelu", dtype=net.dtype, rng=0)
    points, b = LONG[: x.size].reshape(x.shape), np.zeros(x.shape, LONG.dtype)
    D = np.zeros((len(x), 5, 5), net.dtype)
    b[:, :3], D[:, 1, 1], D[7, 3, 4] = points[:, :3], np.arange(len(x)), np.finfo(net.dtype).smallest_subnormal
    fun = net.pde_objective(points, LONG[-len(x) :], c=0.3, b=b, D=D, n_threads=n)
    return [*fun(net.params), fun.hessp(net.params, net.params)]


LONG = np.random.default_rng(0).normal(size=20_000).astype(np.longdouble) / 3
DOUBLED = Activation("doubled", lambda a: a + a, lambda a: np.full_like(a, 2))  # exact in every mode
OTHERS = {  # calls without a peer, as functions of net, x, y and the number of threads
    "loss": lambda net, x, y, n: net.loss(x, y, n_threads=n),
    "layer_gradients": lambda net, x, y, n: net.layer_gradients(x, y, n_threads=n),
    "find_nonfinite": lambda net, x, y, n: net.find_nonfinite(not_finite(x), y, n_threads=n),
    "Ensemble.forward": lambda net, x, y, n: Ensemble(net, 3, rng=0).forward(x, n_threads=n),
    "Ensemble.value_and_grad": lambda net, x, y, n: Ensemble(net, 3, rng=0).value_and_grad(x, y, n_threads=n),
    "Ensemble.value_and_grad by member": lambda net, x, y, n: Ensemble(net, 3, rng=0).value_and_grad(
        np.stack([x, -x, x]), np.stack([y, y, -y]), sample_weight=np.full((3, len(x)), 0.3), n_threads=n
    ),
    "objective": with_objective(lambda f, theta: f(theta)),
    "objective.hessp": with_objective(lambda f, theta: f.hessp(theta, theta)),
    "objective of an equation": of_equation,
    "objective on blocks": lambda net, x, y, n: net.objective(
        [(LONG[: x[k:].size].reshape(x[k:].shape), y[k:]) for k in (0, 9)], n_threads=n
    )(net.params),
    "operators": lambda net, x, y, n: [
        operator(x, y, n_threads=n) @ net.params for operator in (net.hvp_operator, net.gauss_newton_operator)
    ],
    "other dtypes": lambda net, x, y, n: net.value_and_grad(
        LONG[: x.size].reshape(x.shape),
        LONG[: y.size].reshape(y.shape),
        sample_weight=np.abs(LONG[: len(x)]),
        n_threads=n,
    ),
    "check_gradient": lambda net, x, y, n: net.check_gradient(x[:5], y[:5]),
    "initial weights": lambda net, x, y, n: [
        Network([3, 4, 5, 1], activations=g, dtype=net.dtype, rng=0).params for g in ("relu", "selu", "tanh")
    ],
    "hidden_gradient": lambda net, x, y, n: hidden_gradient(net.weights[-1], y),
    "preactivation_gradient": lambda net, x, y, n: [preactivation_gradient(x, x, g) for g in ("sin", "elu", DOUBLED)],
}


def problem(name, dtype, weight, activation="gelu", loss="squared_error"):
    """Arguments of a call, some of them subnormal; with so many samples every call uses two threads."""
    call = (FIRST_PART | CALLS).get(name, FIRST_PART["value_and_grad"])
    n_samples = 300 if name == "hessian" else 2500
    rng = np.random.default_rng(0)
    data = random_data(
        rng, [5, 19, 7, 3], call, n_samples=n_samples, dtype=dtype,
        weight=weight if weight in call.weights and call.has_y else None,
        activations=[activation], loss=loss if loss in call.losses else "squared_error",
    )  # fmt: skip
    tiny = np.finfo(dtype).smallest_subnormal
    for array in (data.x, data.problem.net.params):
        if isinstance(array, np.ndarray) and array.flags.writeable:
            array.flat[::11] = tiny * rng.integers(-1000, 1000, len(array.flat[::11]))
    return call, data


def result_of(name, call, data, n_threads):
    net = data.problem.net
    if name in OTHERS:
        return bits(OTHERS[name](net, data.x, data.y, n_threads))
    return bits(call.run(net, data, n_threads=n_threads))


@functools.cache
def in_default_mode(name, *arguments):
    return result_of(name, *problem(name, *arguments), 1)


@pytest.mark.parametrize("name", [*FIRST_PART, *CALLS, *OTHERS])
@pytest.mark.parametrize("how", shortened(MODES, ["up", "flush"], "other values of the same two fields"))
def test_bits_do_not_depend_on_the_mode(unit, how, name):
    for arguments in [("float32", None), ("float64", "sample", "sin"), ("float32", "entry", "elu")]:
        expected = in_default_mode(name, *arguments)
        call, data = problem(name, *arguments)
        for n_threads in (1, 2):
            with mode(unit, how):
                result = result_of(name, call, data, n_threads)
            assert result == expected


@pytest.mark.parametrize("l2", [0.0, 1e-3])
def test_a_subnormal_gradient_of_an_objective_stays_what_it_is(unit, l2):
    fun = Network([1, 1], dtype="float32", rng=0).objective(np.full((4, 1), 1e-40, "f4"), np.ones(4), l2=l2)
    expected = bits(fun.grad([0.0, 0.0]))
    with mode(unit, "flush"):
        found = bits(fun.grad([0.0, 0.5])), bits(fun.grad([0.0, 0.0]))
    assert found[1] == expected
    assert fun.grad([0.0, 0.0])[0] != 0


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("loss", ["cross_entropy", "poisson", "binary_cross_entropy", "huber", "hinge"])
def test_bits_of_losses_do_not_depend_on_the_mode(unit, loss, how):
    for name in ("value_and_grad", "clipped_gradient", "hvp", "forward"):
        arguments = ("float32", "sample", "mish", loss)
        expected = in_default_mode(name, *arguments)
        call, data = problem(name, *arguments)
        with mode(unit, how):
            result = result_of(name, call, data, 2)
        assert result == expected


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_right_in_every_mode(unit, activation, dtype, how):
    a = np.concatenate([[1e-7, 0.5, 1.0], np.linspace(-30, 30, 1001)]).astype(dtype)[:, None]
    net = Network([1, 1], output=activation, dtype=dtype, rng=0)
    net.weights[0][...] = 1
    expected = net.forward(a), net.input_jacobian(a)
    with mode(unit, how):
        result = net.forward(a), net.input_jacobian(a)
    assert bits(result) == bits(expected)


def test_what_is_refused_does_not_depend_on_the_mode(unit):
    tiny = 5e-324
    net = Network([1, 1], loss="binary_cross_entropy", rng=0)
    fit = Network([1, 1], rng=0)
    x, y = np.ones((2, 1)), np.array([[0.0], [1.0]])
    weight, half = np.array([tiny, 3 * tiny]), np.array([0, tiny])
    below = y - tiny
    expected = bits([net.value_and_grad(x, y, sample_weight=weight), net.clipped_gradient(x, y, tiny)])
    expected_of_half = bits(net.input_gradient(x, y, sample_weight=half))
    with mode(unit, "flush"):
        result = bits([net.value_and_grad(x, y, sample_weight=weight), net.clipped_gradient(x, y, tiny)])
        result_of_half = bits(net.input_gradient(x, y, sample_weight=half))
        for call in (
            lambda: net.loss(x, below),
            lambda: net.loss([[1.0], [1.0]], below),
            lambda: net.clipped_gradient(x, y, -tiny),
            lambda: fit.sobolev_value_and_grad(x, y, x, -tiny),
            lambda: fit.sobolev_value_and_grad(x, y, x, [[-tiny]]),
            lambda: fit.objective(x, y, l2=-tiny),
        ):
            with pytest.raises(ValueError, match="expected"):
                call()
    assert result == expected
    assert result_of_half == expected_of_half


def test_files_hold_the_same_numbers_in_every_mode(unit, tmp_path):
    pytest.importorskip("safetensors")
    rng = np.random.default_rng(0)
    for alpha in rng.uniform(0, 1, 20).tolist():
        net = Network([2, 3, 1], activations=("leaky_relu", alpha), loss=("huber", alpha), rng=0)
        for how in MODES:
            with mode(unit, how):
                net.save(tmp_path / "net.safetensors")
                same = backprop.load(tmp_path / "net.safetensors")
            assert repr(same) == repr(net)


# The caller's mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("scale", [1.0, 1e-310])
@pytest.mark.parametrize("n", [300, 50_001])
def test_parts_of_sums_do_not_depend_on_the_mode(unit, n, scale, how):
    """Subnormal weights too: their mask, their largest one, their sum, and what parts hold as bytes."""
    case = case_of("value_and_grad", n, weight="entry", loss="huber")
    case.weight *= scale

    def all_of_it():
        blocks = case.blocks(4)
        totals = sum(backprop.weight_totals(case.weight[rows], [rows]) for rows in blocks if rows.start < n)
        parts = [backprop.PartialSums.from_bytes(case.part(rows, totals).to_bytes()) for rows in blocks]
        total = sum(parts)
        numbers = [totals.largest, *totals.scale_and_total]
        return blocks, totals.bins, np.array(numbers).tobytes(), total.to_bytes(), bits(total.result())

    expected = all_of_it()
    with mode(unit, how):
        assert all_of_it() == expected
        loss = case.net.loss(case.x, case.y, sample_weight=case.weight.astype(">f8"))  # which is converted
    assert loss == case.plain()[0]


def test_import_leaves_the_control_words(unit):
    code = f"""if 1:
        import ctypes, sys
        state = ctypes.CDLL({unit._name!r})
        words = lambda: (state.float_mxcsr() & {CONTROL}, state.float_x87())
        before = words()
        import backprop
        assert "numpy" in sys.modules and words() == before == {DEFAULT}, (words(), before)
        state.float_set_mxcsr(0x1F80 | {FLUSH | ROUND_UP})
        from backprop import _core
        import importlib
        importlib.reload(backprop)
        assert state.float_mxcsr() & {CONTROL} == 0x1F80 | {FLUSH | ROUND_UP}
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_errors_leave_the_control_words(unit):
    """`mode` compares them."""
    net = Network([3, 4, 1], rng=0)
    x = np.ones((2, 3))
    for how in MODES:
        with mode(unit, how), pytest.raises(ValueError, match="expected"):
            net.value_and_grad(x, np.ones((3, 1)))
        with mode(unit, how), pytest.raises(ValueError, match="expected"):
            Network([3, 1], loss="poisson").value_and_grad(x, -np.ones((2, 1)))
        with mode(unit, how), pytest.raises(ValueError, match="expected"):
            net.forward([[1.0, 2.0]])


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("how", MODES)
def test_functions_in_python_see_the_callers_mode(unit, how, n_threads):
    seen = []
    limit = 1000

    def g(a):
        seen.append(words(unit))
        if len(seen) > limit:
            raise ZeroDivisionError
        return a * 1.0

    net = Network([3, 4, 1], activations=Activation("own", g, np.ones_like), rng=0)
    data = np.ones((4, 3)), np.ones((4, 1))
    seen.clear()
    with mode(unit, how) as before:
        net.forward(data[0], n_threads=n_threads)
    assert set(seen) == {before}
    limit = 1
    with mode(unit, how), pytest.raises(ZeroDivisionError):
        net.value_and_grad(*data, n_threads=n_threads)
    assert set(seen) == {before}


def test_functions_in_c_see_the_callers_mode_on_all_threads(unit):
    own = Activation("recorded", unit.float_record, unit.float_one, unit.float_zero)
    net = Network([64, 64, 1], activations=own, rng=0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4000, 64)), rng.normal(size=(4000, 1))
    expected = bits(net.value_and_grad(x, y, n_threads=2))
    for how in ("default", *MODES, "default"):  # "default" again: nothing is left of an earlier caller's mode
        with mode(unit, how) as before:
            unit.float_expect(2)
            result = bits(net.value_and_grad(x, y, n_threads=2))
            n = unit.float_seen()
        assert n >= 2
        assert {(unit.float_seen_mxcsr(i) & CONTROL, unit.float_seen_x87(i)) for i in range(n)} == {before}
        assert result == expected


def test_a_function_that_changes_the_mode_changes_nothing_else(unit):
    def g(a):
        unit.float_round(1)
        return a

    net = Network([3, 4, 1], activations=Activation("own", g, np.ones_like), output="sin", rng=0)
    plain = Network([3, 4, 1], activations="identity", output="sin", rng=0)
    x = np.random.default_rng(0).normal(size=(50, 3))
    expected = plain.forward(x).tobytes()
    unit.float_round(0)
    result = net.forward(x).tobytes()
    unit.float_round(0)
    assert result == expected


@needs_signals
@pytest.mark.alone
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("how", MODES)
def test_signal_handlers_see_the_callers_mode(unit, how, n_threads):
    seen = []

    def handle(number, frame):
        seen.append(words(unit))
        if len(seen) == 2:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    net = Network([64, 256, 256, 1], activations="gelu", rng=0)
    x, y = np.ones((200_000, 64)), np.ones((200_000, 1))
    before_handler = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.02)
        with mode(unit, how) as before, pytest.raises(KeyboardInterrupt):
            net.value_and_grad(x, y, n_threads=n_threads)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before_handler)
    assert set(seen) == {before}
    assert len(seen) == 2


def test_traps_of_the_caller_do_not_spring(unit):
    """Unused lanes, intermediate infinities and NaN in x do not end a process whose exceptions are unmasked."""
    code = f"""if 1:
        import ctypes, sys
        import numpy as np
        from backprop import Network
        unit = ctypes.CDLL({unit._name!r})
        rng = np.random.default_rng(0)
        for dtype in ("float32", "float64"):
            net = Network([3, 5, 2], activations="silu", loss="cross_entropy", dtype=dtype, rng=0)
            x = rng.normal(size=(3000, 3)).astype(dtype)
            x[5], x[6], x[7] = np.nan, np.inf, np.finfo(dtype).max
            labels = np.zeros(3000, np.intp)
            for n_threads in (1, 2):
                unit.float_set_mxcsr({DEFAULT[0] ^ TRAPS})
                net.value_and_grad(x, labels, n_threads=n_threads)
                net.forward(x, n_threads=n_threads)
                word = unit.float_mxcsr()
                unit.float_set_mxcsr({DEFAULT[0]})
                assert word & {CONTROL} == {DEFAULT[0] ^ TRAPS}
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormals_are_honoured(dtype, n_threads):
    tiny = np.finfo(dtype).smallest_subnormal
    net = Network([64, 64], dtype=dtype, rng=0)  # y_hat = x
    net.weights[0][...] = np.eye(64)
    x = tiny * np.random.default_rng(0).integers(-1000, 1000, (1000, 64)).astype(dtype)
    np.testing.assert_array_equal(net.forward(x, n_threads=n_threads), x)
    grad, grad_x = net.vjp(np.eye(64, dtype=dtype), x[:64], n_threads=n_threads)
    np.testing.assert_array_equal(grad_x, x[:64])
    np.testing.assert_array_equal(net.unflatten(grad)[0][0], x[:64].T)
