"""Refused arguments: ValueError or TypeError, a message with what was expected and what came, and nothing written."""

import numpy as np
import pytest
from scipy import optimize, sparse

from backprop import Ensemble, Network, hidden_gradient, num_threads, preactivation_gradient, set_num_threads

N_SAMPLES, N_IN, N_OUT = 5, 3, 3
WITH_LOSS = ["value_and_grad", "loss", "layer_gradients", "objective"]
X = np.random.default_rng(1).standard_normal((N_SAMPLES, N_IN))
LABELS = np.array([0, 1, 2, 1, 0])
Y = {
    "squared_error": np.random.default_rng(2).standard_normal((N_SAMPLES, N_OUT)),
    "hinge": np.where(np.arange(15).reshape(5, 3) % 2 == 0, 1.0, -1.0),
    "poisson": np.arange(15.0).reshape(5, 3),
    "binary_cross_entropy": np.arange(15.0).reshape(5, 3) / 14,
    "cross_entropy": LABELS,
}
PROBABILITIES = np.eye(3)[LABELS]


def make(loss="squared_error", n_out=N_OUT, dtype="float64"):
    return Network([N_IN, 4, n_out], activations="tanh", loss=loss, dtype=dtype, rng=0)


def changed(array, index, value):
    """A copy with one entry replaced."""
    result = np.array(array)
    result[index] = value
    return result


def nan_pattern(n, dtype):
    """NaN with a payload: a write of another NaN is seen."""
    dtype = np.dtype(dtype)
    bits = {4: 0x7FC0_1234, 8: 0x7FF8_0000_0000_1234}[dtype.itemsize]
    return np.full(n, bits, f"u{dtype.itemsize}").view(dtype)


def assert_refused(name, net, arguments, error, argument, **keywords):
    """The call raises just this error, about just this argument, and writes neither params nor out."""
    before = net.params.tobytes()
    out = None
    if name == "value_and_grad" and "out" not in keywords:
        out = keywords["out"] = nan_pattern(net.n_params, net.dtype)
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(net, name)(*arguments, **keywords)
    message = str(caught.value)
    assert caught.type is error, message
    assert message.startswith(argument), message
    assert "expected" in message, message
    assert "got" in message, message
    assert "another thread" not in message, message  # the last check before the call, which does not know the cause
    assert net.params.tobytes() == before
    if out is not None:
        assert out.tobytes() == nan_pattern(net.n_params, net.dtype).tobytes()


# x -------------------------------------------------------------------------------------------------------------------

BAD_X = {
    "one sample, 1-D": (X[0], ValueError),
    "0-D": (np.float64(1.0), ValueError),
    "3-D": (X[None], ValueError),
    "a column too few": (X[:, :2], ValueError),
    "a column too many": (np.c_[X, X[:, 0]], ValueError),
    "transposed": (X.T, ValueError),
    "no samples": (X[:0], ValueError),
    "empty list": ([], ValueError),
    "ragged list": ([[1.0, 2.0, 3.0], [4.0]], ValueError),
    "object": (X.astype(object), TypeError),
    "strings": (X.astype(str), TypeError),
    "bytes": (X.astype("S8"), TypeError),
    "complex": (X + 0j, TypeError),
    "masked": (np.ma.masked_array(X, X > 0), TypeError),
    "sparse": (sparse.csr_array(X), TypeError),
    "None": (None, TypeError),
    "a string": ("x", TypeError),
    "a dict": ({"x": 1}, TypeError),
    "datetime": (np.zeros((5, 3), "datetime64[s]"), TypeError),
    "timedelta": (np.zeros((5, 3), "timedelta64[s]"), TypeError),
    "structured": (np.zeros((5, 3), [("a", float)]), TypeError),
    "a list with None": ([[1.0, None, 2.0]] * 5, TypeError),
}


@pytest.mark.parametrize("name", [*WITH_LOSS, "forward"])
@pytest.mark.parametrize("case", BAD_X)
def test_x(name, case):
    if (name, case) == ("forward", "no samples"):
        return  # gives no rows: tests/derivatives/test_empty_batches.py
    x, error = BAD_X[case]
    arguments = (x,) if name == "forward" else (x, Y["squared_error"])
    assert_refused(name, make(), arguments, error, "x: ")


def test_a_vector_for_x():
    with pytest.raises(ValueError, match=r"expected shape \(n_samples, 3\), got \(3,\); one sample is x\[None\]$"):
        Network([3, 1]).forward(np.zeros(3))
    with pytest.raises(ValueError, match=r"shape \(n_samples, 1\), got \(9,\); samples of one input are x\[:, None\]$"):
        Network([1, 1]).forward(np.zeros(9))


@pytest.mark.parametrize("loss", Y)
def test_no_samples_have_no_mean(loss):
    with pytest.raises(ValueError, match="the mean of no samples"):
        make(loss).value_and_grad(X[:0], Y[loss][:0])


# What SciPy gives ----------------------------------------------------------------------------------------------------

FROM_SCIPY = {  # it calls f(theta, *args)
    "minimize, jac=True": lambda net, *args: optimize.minimize(net.value_and_grad, net.params, args, jac=True),
    "minimize": lambda net, *args: optimize.minimize(net.loss, net.params, args),
    "minimize, simplex": lambda net, *args: optimize.minimize(net.loss, net.params, args, method="Nelder-Mead"),
    "least_squares": lambda net, *args: optimize.least_squares(net.residuals, net.params, args=args),
    "check_grad": lambda net, *args: optimize.check_grad(net.loss, net.value_and_grad, net.params, *args),
    "approx_fprime": lambda net, *args: optimize.approx_fprime(net.params, net.loss, 1e-8, *args),
}


@pytest.mark.parametrize("case", FROM_SCIPY)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_method_where_scipy_expects_a_function_of_params(case, dtype):
    net = make(dtype=dtype)
    for args in ((X, REAL), (X,)):
        with pytest.raises((TypeError, ValueError), match=r"the shape of params; .*net\.objective\(x, y\)") as caught:
            FROM_SCIPY[case](net, *args)
        assert caught.type is (TypeError if len(args) == 2 else ValueError)


@pytest.mark.parametrize("name", ["forward", "input_jacobian", "jacobian", "laplacian", "input_jet", "input_hessian"])
def test_a_theta_for_x_alone(name):
    with pytest.raises(ValueError, match=r"^x: expected .*net\.objective\(x, y\)"):
        getattr(make(), name)(make().params)


@pytest.mark.parametrize("name", ["value_and_grad", "loss", "residuals"])
def test_more_by_position_than_x_and_y(name):
    net = make()
    with pytest.raises(TypeError, match=rf"^{name}: expected x and y by position, got 4 arguments; give all others by"):
        getattr(net, name)(X, REAL, net.params, np.ones(5))


# y -------------------------------------------------------------------------------------------------------------------

REAL = Y["squared_error"]
BAD_Y = {
    "a row too few": ("squared_error", REAL[:4], ValueError),
    "a row too many": ("squared_error", np.r_[REAL, REAL[:1]], ValueError),
    "a column too few": ("squared_error", REAL[:, :2], ValueError),
    "1-D for three outputs": ("squared_error", REAL[:, 0], ValueError),
    "3-D": ("squared_error", REAL[None], ValueError),
    "0-D": ("squared_error", 1.0, ValueError),
    "no rows": ("squared_error", REAL[:0], ValueError),
    "object": ("squared_error", REAL.astype(object), TypeError),
    "strings": ("squared_error", REAL.astype(str), TypeError),
    "complex": ("squared_error", REAL + 0j, TypeError),
    "masked": ("squared_error", np.ma.masked_array(REAL, REAL > 0), TypeError),
    "sparse": ("squared_error", sparse.csr_array(REAL), TypeError),
    "None": ("squared_error", None, TypeError),
    "ragged": ("squared_error", [[1.0, 2.0, 3.0], [4.0]], ValueError),
    "datetime": ("squared_error", np.zeros((5, 3), "datetime64[D]"), TypeError),
    "label n_out": ("cross_entropy", changed(LABELS, 3, 3), ValueError),
    "label -1": ("cross_entropy", changed(LABELS, 3, -1), ValueError),
    "label -100": ("cross_entropy", changed(LABELS, 3, -100), ValueError),
    "label 2^32 + 1": ("cross_entropy", changed(LABELS, 3, 2**32 + 1), ValueError),
    "label 2^40": ("cross_entropy", changed(LABELS, 3, 2**40), ValueError),
    "label 2^63 + 1": ("cross_entropy", changed(LABELS.astype(np.uint64), 3, 2**63 + 1), ValueError),
    "label 2^64 - 1": ("cross_entropy", changed(LABELS.astype(np.uint64), 3, 2**64 - 1), ValueError),
    "label -1 as int8": ("cross_entropy", changed(LABELS.astype(np.int8), 3, -1), ValueError),
    "label 255 as uint8": ("cross_entropy", changed(LABELS.astype(np.uint8), 3, 255), ValueError),
    "label 3, big-endian": ("cross_entropy", changed(LABELS.astype(">i4"), 3, 3), ValueError),
    "label 2^70": ("cross_entropy", [0, 1, 2, 2**70, 0], TypeError),
    "float labels": ("cross_entropy", LABELS.astype(float), TypeError),
    "fractional labels": ("cross_entropy", LABELS + 0.5, TypeError),
    "string labels": ("cross_entropy", LABELS.astype(str), TypeError),
    "bool labels": ("cross_entropy", LABELS > 0, TypeError),
    "object labels": ("cross_entropy", LABELS.astype(object), TypeError),
    "too few labels": ("cross_entropy", LABELS[:4], ValueError),
    "a column of labels": ("cross_entropy", LABELS[:, None], TypeError),
    "0-D label": ("cross_entropy", np.int64(1), ValueError),
    "integers that sum to 2": ("cross_entropy", changed(PROBABILITIES.astype(int), 3, [1, 1, 0]), ValueError),
    "bools, two of them true": ("cross_entropy", changed(PROBABILITIES > 0, 3, [True, True, False]), ValueError),
    "integers of two columns": ("cross_entropy", PROBABILITIES[:, :2].astype(int), TypeError),
    "probabilities, a column too few": ("cross_entropy", PROBABILITIES[:, :2], ValueError),
    "probabilities, a row too few": ("cross_entropy", PROBABILITIES[:4], ValueError),
    "negative probability": ("cross_entropy", changed(PROBABILITIES, 3, [-0.5, 1.0, 0.5]), ValueError),
    "NaN probability": ("cross_entropy", changed(PROBABILITIES, (3, 0), np.nan), ValueError),
    "inf probability": ("cross_entropy", changed(PROBABILITIES, (3, 0), np.inf), ValueError),
    "probabilities above 1": ("cross_entropy", changed(PROBABILITIES, (3, 0), 2e-6), ValueError),
    "probabilities below 1": ("cross_entropy", changed(PROBABILITIES, 3, [0.0, 1 - 2e-6, 0.0]), ValueError),
    "probabilities of 0": ("cross_entropy", 0 * PROBABILITIES, ValueError),
    "hinge 0": ("hinge", changed(Y["hinge"], (3, 1), 0.0), ValueError),
    "hinge 2": ("hinge", changed(Y["hinge"], (3, 1), 2.0), ValueError),
    "hinge NaN": ("hinge", changed(Y["hinge"], (3, 1), np.nan), ValueError),
    "hinge bool": ("hinge", Y["hinge"] > 0, ValueError),
    "poisson -1": ("poisson", changed(Y["poisson"], (3, 1), -1.0), ValueError),
    "poisson NaN": ("poisson", changed(Y["poisson"], (3, 1), np.nan), ValueError),
    "binary 2": ("binary_cross_entropy", changed(Y["binary_cross_entropy"], (3, 1), 2.0), ValueError),
    "binary -0.1": ("binary_cross_entropy", changed(Y["binary_cross_entropy"], (3, 1), -0.1), ValueError),
    "binary NaN": ("binary_cross_entropy", changed(Y["binary_cross_entropy"], (3, 1), np.nan), ValueError),
}


@pytest.mark.parametrize("name", WITH_LOSS)
@pytest.mark.parametrize("case", BAD_Y)
def test_y(name, case):
    loss, y, error = BAD_Y[case]
    assert_refused(name, make(loss), (X, y), error, "y: ")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [c for c in BAD_Y if BAD_Y[c][0] != "squared_error" and "1 - 2e-6" not in c])
def test_y_for_each_dtype_of_the_network(case, dtype):
    loss, y, error = BAD_Y[case]
    if dtype == "float32" and case in {"probabilities above 1", "probabilities below 1"}:
        assert np.isfinite(make(loss, dtype=dtype).loss(X, y))  # within 1e-4
        return
    assert_refused("value_and_grad", make(loss, dtype=dtype), (X, y), error, "y: ")


@pytest.mark.parametrize(
    ("case", "row"), [(c, 3) for c in BAD_Y if c.startswith("label ") and c != "label 2^70"] + [("hinge 2", 3)]
)
def test_the_message_names_the_row(case, row):
    loss, y, _ = BAD_Y[case]
    with pytest.raises(ValueError, match=rf"in row {row}") as caught:
        make(loss).loss(X, y)
    value = np.asarray(y)[3] if loss == "cross_entropy" else np.asarray(y)[3, 1]
    assert f"got {value} " in str(caught.value)


BAD_ROW = {
    "label": ("cross_entropy", LABELS, 3),
    "label as int8": ("cross_entropy", LABELS.astype(np.int8), -1),
    "probability": ("cross_entropy", PROBABILITIES, [-0.5, 1.0, 0.5]),
    "sum of probabilities": ("cross_entropy", PROBABILITIES, [0.5, 0.5, 0.5]),
    "hinge": ("hinge", Y["hinge"], [1.0, 1.0, 0.0]),
    "poisson": ("poisson", Y["poisson"], [0.0, -1.0, 0.0]),
    "binary": ("binary_cross_entropy", Y["binary_cross_entropy"], [2.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("row", range(N_SAMPLES))
@pytest.mark.parametrize("case", BAD_ROW)
def test_no_row_is_left_out(case, row):
    loss, y, value = BAD_ROW[case]
    for x in (X, X.tolist()):  # checked in C alone, and in Python before the call
        net, out = make(loss), nan_pattern(make(loss).n_params, "float64")
        with pytest.raises(ValueError, match=rf"^y: expected .*got .* in row {row}\b"):
            net.value_and_grad(x, changed(y, row, value), out=out)
        assert out.tobytes() == nan_pattern(net.n_params, "float64").tobytes()


@pytest.mark.parametrize("y", [Y["squared_error"][:, :2], Y["squared_error"][:4, :1], np.zeros((1, 5)), np.zeros(4)])
def test_y_for_one_output(y):
    assert_refused("value_and_grad", make(n_out=1), (X, y), ValueError, "y: ")


def test_one_column_is_not_broadcast_over_outputs():
    for name in WITH_LOSS:
        assert_refused(name, make(), (X, Y["squared_error"][:, :1]), ValueError, "y: ")
        assert_refused(name, make(), (X, Y["squared_error"][:1]), ValueError, "y: ")


# sample_weight -------------------------------------------------------------------------------------------------------

W = np.arange(1.0, 6.0)
BAD_WEIGHT = {
    "negative": ("squared_error", changed(W, 2, -1.0), ValueError),
    "negative, tiny": ("squared_error", changed(W, 2, -1e-300), ValueError),
    "NaN": ("squared_error", changed(W, 2, np.nan), ValueError),
    "inf": ("squared_error", changed(W, 2, np.inf), ValueError),
    "a weight too few": ("squared_error", W[:4], ValueError),
    "a column": ("squared_error", W[:, None], ValueError),
    "3-D": ("squared_error", np.ones((5, 3, 1)), ValueError),
    "one a column": ("squared_error", np.ones(3), ValueError),
    "0-D": ("squared_error", 1.0, ValueError),
    "all 0": ("squared_error", 0 * W, ValueError),
    "all 0 by entry": ("squared_error", np.zeros((5, 3)), ValueError),
    "all False": ("squared_error", W > 9, ValueError),
    "negative entry": ("squared_error", changed(np.ones((5, 3)), (2, 1), -1.0), ValueError),
    "NaN entry": ("squared_error", changed(np.ones((5, 3)), (2, 1), np.nan), ValueError),
    "by entry for cross_entropy": ("cross_entropy", np.ones((5, 3)), ValueError),
    "all 0 for cross_entropy": ("cross_entropy", 0 * W, ValueError),
    "object": ("squared_error", W.astype(object), TypeError),
    "strings": ("squared_error", W.astype(str), TypeError),
    "complex": ("squared_error", W + 0j, TypeError),
    "masked": ("squared_error", np.ma.masked_array(W, W > 2), TypeError),
    "a word": ("squared_error", "balanced", TypeError),
    "longdouble beyond float64": ("squared_error", changed(W.astype(np.longdouble), 2, np.longdouble("1e400")),
                                  ValueError),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_LOSS)
@pytest.mark.parametrize("case", BAD_WEIGHT)
def test_sample_weight(name, case):
    loss, weight, error = BAD_WEIGHT[case]
    assert_refused(name, make(loss), (X, Y[loss]), error, "sample_weight: ", sample_weight=weight)


# n_threads, params, keywords -----------------------------------------------------------------------------------------

BAD_COUNT = {"0": 0, "-1": -1, "2.5": 2.5, "2.0": 2.0, "NaN": np.nan, "text": "2", "True": True, "list": [2]}
COUNT_ERROR = {"text": TypeError, "True": TypeError, "list": TypeError}


@pytest.mark.parametrize("name", [*WITH_LOSS, "forward"])
@pytest.mark.parametrize("case", BAD_COUNT)
def test_n_threads(name, case):
    arguments = (X,) if name == "forward" else (X, Y["squared_error"])
    error = COUNT_ERROR.get(case, ValueError)
    assert_refused(name, make(), arguments, error, "n_threads: ", n_threads=BAD_COUNT[case])


@pytest.mark.parametrize("case", [*BAD_COUNT, "None"])
def test_set_num_threads(case):
    value = BAD_COUNT.get(case)
    error = TypeError if case == "None" else COUNT_ERROR.get(case, ValueError)
    with pytest.raises(error, match=r"^n: expected a positive integer, got"):
        set_num_threads(value)
    with pytest.raises(error, match=r"^n: expected a positive integer, got"), num_threads(value):
        pass


THETA = make().params.copy()
BAD_PARAMS = {
    "too short": (THETA[:-1], ValueError),
    "too long": (np.r_[THETA, 0.0], ValueError),
    "2-D": (THETA[None], ValueError),
    "0-D": (1.0, ValueError),
    "empty": ([], ValueError),
    "object": (THETA.astype(object), TypeError),
    "strings": (THETA.astype(str), TypeError),
    "complex": (THETA + 0j, TypeError),
    "masked": (np.ma.masked_array(THETA, THETA > 0), TypeError),
    "ragged": ([[1.0], [2.0, 3.0]], ValueError),
}


@pytest.mark.parametrize("name", ["value_and_grad", "loss", "layer_gradients", "forward"])
@pytest.mark.parametrize("case", BAD_PARAMS)
def test_params(name, case):
    value, error = BAD_PARAMS[case]
    arguments = (X,) if name == "forward" else (X, Y["squared_error"])
    assert_refused(name, make(), arguments, error, "params: ", params=value)


@pytest.mark.parametrize("case", [*BAD_PARAMS, "None"])
def test_params_setter(case):
    value, error = BAD_PARAMS.get(case, (None, TypeError))
    net = make()
    before = net.params.tobytes()
    with pytest.raises(error, match=r"^params: expected .*got"):
        net.params = value
    assert net.params.tobytes() == before


@pytest.mark.parametrize("case", BAD_PARAMS)
def test_theta_of_an_objective(case):
    value, error = BAD_PARAMS[case]
    fun = make().objective(X, Y["squared_error"])
    for call in (fun, fun.value, fun.grad):
        with pytest.raises(error, match=r"^theta: expected .*got"):
            call(value)


@pytest.mark.parametrize("name", [*WITH_LOSS, "forward"])
@pytest.mark.parametrize("keyword", ["sample_weights", "threads", "theta", "batch_size"])
def test_a_keyword_that_does_not_exist(name, keyword):
    net = make()
    before = net.params.tobytes()
    with pytest.raises(TypeError, match=keyword):
        getattr(net, name)(X, *([] if name == "forward" else [Y["squared_error"]]), **{keyword: None})
    assert net.params.tobytes() == before


def test_a_keyword_of_another_call():
    with pytest.raises(TypeError, match="out"):
        make().loss(X, Y["squared_error"], out=np.zeros(3))
    with pytest.raises(TypeError, match="sample_weight"):
        make().forward(X, sample_weight=W)
    with pytest.raises(TypeError, match="layers"):
        Network([2, 1], layers=3)
    with pytest.raises(TypeError):
        Network([2, 1], "tanh")  # options go by name


@pytest.mark.parametrize(("vector", "error"), [([0.0] * 31, TypeError), (np.zeros(30), ValueError),
                                               (np.zeros((31, 1)), ValueError), (None, TypeError)])  # fmt: skip
def test_unflatten(vector, error):
    assert make().n_params == 31
    with pytest.raises(error, match=r"^vector: expected .*got"):
        make().unflatten(vector)


# out -----------------------------------------------------------------------------------------------------------------


def read_only(array):
    array.flags.writeable = False
    return array


def misaligned(n):
    return np.zeros(8 * n + 8, np.uint8)[4 : 4 + 8 * n].view(np.float64)[:n]


def claiming(shape):
    """A subclass of ndarray whose shape differs from that of its memory."""
    return type("Claiming", (np.ndarray,), {"shape": property(lambda self: shape)})


BAD_OUT = {
    "float32": (lambda n: np.zeros(n, np.float32), ValueError),
    "integers": (lambda n: np.zeros(n, np.int64), ValueError),
    "longdouble": (lambda n: np.zeros(n, np.longdouble), ValueError),
    "complex": (lambda n: np.zeros(n, complex), ValueError),
    "object": (lambda n: np.zeros(n, object), ValueError),
    "big-endian": (lambda n: np.zeros(n, ">f8"), ValueError),
    "too short": (lambda n: np.zeros(n - 1), ValueError),
    "too long": (lambda n: np.zeros(n + 1), ValueError),
    "a row": (lambda n: np.zeros((1, n)), ValueError),
    "a column": (lambda n: np.zeros((n, 1)), ValueError),
    "0-D": (lambda n: np.zeros(()), ValueError),
    "every second": (lambda n: np.zeros(2 * n)[::2], ValueError),
    "reversed": (lambda n: np.zeros(n)[::-1], ValueError),
    "zero stride": (lambda n: np.lib.stride_tricks.as_strided(np.zeros(1), (n,), (0,)), ValueError),
    "read-only": (lambda n: read_only(np.zeros(n)), ValueError),
    "misaligned": (misaligned, ValueError),
    "a list": (lambda n: [0.0] * n, TypeError),
    "a memoryview": (lambda n: memoryview(np.zeros(n)), TypeError),
    "True": (lambda n: True, TypeError),
    "masked": (lambda n: np.ma.masked_array(np.zeros(n), np.ones(n, bool)), TypeError),
    "a subclass that claims to be longer": (lambda n: np.zeros(n - 1).view(claiming((n,))), ValueError),
}


@pytest.mark.parametrize("case", BAD_OUT)
def test_out(case):
    function, error = BAD_OUT[case]
    net = make()
    out = function(net.n_params)
    before = np.array(out).tobytes()
    assert_refused("value_and_grad", net, (X, Y["squared_error"]), error, "out: ", out=out)
    assert np.array(out).tobytes() == before


def test_out_of_float64_for_a_float32_network():
    net = make(dtype="float32")
    out = nan_pattern(net.n_params, "float64")
    assert_refused("value_and_grad", net, (X, Y["squared_error"]), ValueError, "out: ", out=out)
    assert out.tobytes() == nan_pattern(net.n_params, "float64").tobytes()


def overlapping(what, net, n):
    """(arguments, keywords) of a call whose out overlaps the thing named; the memory holds valid values."""
    memory = np.full(200, 0.5)
    out = memory[60 : 60 + n]
    x, y, keywords = X, Y["squared_error"], {}
    if what == "net.params":
        out = net.params
    elif what == "net.params, beside params given":
        out, keywords["params"] = net.params, net.params.copy()
    elif what == "params, the same":
        keywords["params"] = out
    elif what == "params, by one entry":
        keywords["params"] = memory[61 - n : 61]
    elif what == "params, reversed":
        keywords["params"] = out[::-1]
    elif what == "x":
        x = memory[46:61].reshape(5, 3)
    elif what == "x, strided":
        x = memory[:180].reshape(5, 36)[:, ::12]
        assert np.shares_memory(x, out)
    elif what == "x, to be converted":
        x = memory.view(np.int64)[60:75].reshape(5, 3)
    elif what == "x, a memoryview":
        x = memoryview(memory[60:75].reshape(5, 3))
    elif what == "y":
        y = memory[60 + n - 1 : 60 + n + 14].reshape(5, 3)
    elif what == "sample_weight":
        keywords["sample_weight"] = memory[56:61]
    return (x, y), {**keywords, "out": out}


@pytest.mark.parametrize(
    "what",
    ["net.params", "net.params, beside params given", "params, the same", "params, by one entry",
     "params, reversed", "x", "x, strided",
     "x, to be converted", "x, a memoryview", "y", "sample_weight"],
)  # fmt: skip
def test_out_that_overlaps(what):
    net = make()
    arguments, keywords = overlapping(what, net, net.n_params)
    before = keywords["out"].tobytes()
    assert_refused("value_and_grad", net, arguments, ValueError, "out: ", **keywords)
    assert keywords["out"].tobytes() == before


def test_out_beside_an_input_is_fine():
    net = make()
    memory = np.full(net.n_params + 15, 0.5)
    out, x = memory[: net.n_params], memory[net.n_params :].reshape(5, 3)
    _, grad = net.value_and_grad(x, Y["squared_error"], out=out)
    assert grad is out
    assert np.array_equal(x, np.full((5, 3), 0.5))
    assert np.array_equal(grad, net.value_and_grad(np.full((5, 3), 0.5), Y["squared_error"])[1])


# The network's own arguments -----------------------------------------------------------------------------------------

BAD_SIZES = {
    "0": ([3, 0, 1], ValueError),
    "-1": ([3, -1, 1], ValueError),
    "2.5": ([3, 2.5], ValueError),
    "2.0": ([3, 2.0], ValueError),
    "NaN": ([np.nan, 2], ValueError),
    "a string in it": ([3, "3"], TypeError),
    "True": ([3, True], TypeError),
    "numpy bool": ([3, np.True_], TypeError),
    "None in it": ([3, None], TypeError),
    "empty": ([], ValueError),
    "one": ([3], ValueError),
    "a string": ("33", TypeError),
    "bytes": (b"33", TypeError),
    "an int": (3, TypeError),
    "None": (None, TypeError),
    "a dict": ({3: 1, 1: 1}, TypeError),
    "2-D": (np.ones((2, 2), int), TypeError),
    "2^32 by 2^32": ([2**32, 2**32], ValueError),
    "2^31 by 2^33": ([2**31, 2**33, 1], ValueError),
    "2^63": ([2**63, 1], ValueError),
    "2^64 + 1": ([2**64 + 1, 1], ValueError),
    "10^30": ([1, 10**30], ValueError),
    "-10^30": ([1, -(10**30)], ValueError),
}


@pytest.mark.parametrize("case", BAD_SIZES)
def test_sizes(case):
    value, error = BAD_SIZES[case]
    with pytest.raises(error, match=r"^sizes.*expected .*got"):
        Network(value)


@pytest.mark.parametrize("value", [[2**29, 2**28], [1, 2**57, 1]])
def test_sizes_beyond_memory(value):
    with pytest.raises((MemoryError, ValueError), match="memory"):
        Network(value)


@pytest.mark.parametrize(
    "value",
    ["float16", "longdouble", int, "int64", complex, "complex128", None, "foo", ">f8", ">f4", bool, object, "f4,f4",
     np.float16, 4, 3.5, ["float32"]],
)  # fmt: skip
def test_dtype(value):
    with pytest.raises((ValueError, TypeError), match=r'^dtype: expected "float32" or "float64", got'):
        Network([2, 1], dtype=value)


@pytest.mark.parametrize("value", ["float32", np.float32, np.dtype("f4"), "f4", "=f4", "<f4"])
def test_dtype_spellings(value):
    assert Network([2, 1], dtype=value).dtype == np.dtype("float32")


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (2.5, TypeError), ("0", TypeError), (True, TypeError), ([1, 2], TypeError),
     (np.random.RandomState(0), TypeError), (np.random, TypeError), (np.random.PCG64(0), TypeError)],
)  # fmt: skip
def test_rng(value, error):
    with pytest.raises(error, match=r"^rng: expected .*got"):
        Network([2, 1], rng=value)


@pytest.mark.parametrize(
    ("argument", "value", "nearest"),
    [("activations", "Relu", "relu"), ("activations", "sigmod", "sigmoid"), ("activations", "TANH", "tanh"),
     ("activations", ("leaky-relu", 0.1), "leaky_relu"), ("activations", "swish", "silu"),
     ("loss", "cross-entropy", "cross_entropy"), ("loss", "sqared_error", "squared_error"),
     ("loss", ("Huber", 1.0), "huber"), ("output", "soft_max", "softmax"), ("output", "Identity", "identity")],
)  # fmt: skip
def test_an_unknown_name_suggests_the_nearest(argument, value, nearest):
    with pytest.raises(ValueError, match=rf"^{argument}: expected one of .*, got .*did you mean '{nearest}'"):
        Network([2, 3, 2], **{argument: value})


@pytest.mark.parametrize("argument", ["activations", "loss", "output"])
def test_a_name_like_no_other(argument):
    with pytest.raises(ValueError, match=rf"^{argument}: expected one of .*, got 'xyzzyxyzzy'$"):
        Network([2, 3, 2], **{argument: "xyzzyxyzzy"})
    with pytest.raises(ValueError, match=rf"^{argument}: expected one of .*, got ''"):
        Network([2, 3, 2], **{argument: ""})


@pytest.mark.parametrize("argument", ["activations", "loss", "output"])
@pytest.mark.parametrize("value", [None, 3, b"tanh", len, {"tanh": 1}, True])
def test_a_name_of_the_wrong_type(argument, value):
    with pytest.raises(TypeError, match=rf"^{argument}: expected .*got"):
        Network([2, 3, 2], **{argument: value})


@pytest.mark.parametrize(
    ("activations", "argument"),
    [(["tanh"], "activations"), (["tanh"] * 3, "activations"), ([], "activations"),
     (["tanh", "rely"], r"activations\[1\]"), (["tanh", None], r"activations\[1\]"),
     ([("tanh", 1.0), "relu"], r"activations\[0\]"), (["tanh", ("elu", "1")], r"activations\[1\]"),
     (["tanh", ("elu", 1.0, 2.0)], r"activations\[1\]"), (("leaky_relu", "0.2"), "activations"),
     (np.array(["tanh", "tanh"]), "activations")],
)  # fmt: skip
def test_a_list_of_activations(activations, argument):
    with pytest.raises((ValueError, TypeError), match=rf"^{argument}.*: expected .*got"):
        Network([2, 3, 3, 2], activations=activations)


def test_activations_without_hidden_layers():
    with pytest.raises(ValueError, match=r"^activations: expected 0, one for each hidden layer, got 1"):
        Network([2, 1], activations=["tanh"])
    assert Network([2, 1], activations=[]).activations == ()


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [("activations", ("relu", 0.1), ValueError), ("activations", ("tanh", 0), ValueError),
     ("activations", ("leaky_relu", None), TypeError), ("activations", ("leaky_relu", True), TypeError),
     ("activations", ("leaky_relu", 1j), TypeError), ("activations", ("elu", np.nan), ValueError),
     ("activations", ("elu", np.inf), ValueError), ("activations", ("elu", 10**400), ValueError),
     ("activations", ("elu", np.ones(2)), TypeError),
     ("output", ("sigmoid", 1.0), ValueError), ("output", ("elu", None), TypeError),
     ("loss", ("squared_error", 1.0), ValueError), ("loss", ("huber", 0), ValueError),
     ("loss", ("huber", 0.0), ValueError), ("loss", ("huber", -1.0), ValueError),
     ("loss", ("huber", np.inf), ValueError),
     ("loss", ("huber", np.nan), ValueError), ("loss", ("huber", "1"), TypeError), ("loss", ("huber", True), TypeError),
     ("loss", ("huber", None), TypeError), ("loss", ("huber",), ValueError), ("loss", ("huber", 1.0, 2.0), ValueError),
     ("loss", ("quantile", 0), ValueError), ("loss", ("quantile", 1), ValueError),
     ("loss", ("quantile", 1.5), ValueError), ("loss", ("huber", [0.1, 0.9]), TypeError),
     ("loss", ("cross_entropy", 1), ValueError), ("loss", ("cross_entropy", -0.1), ValueError),
     ("loss", ("cross_entropy", 10**400), ValueError), ("loss", ("hinge", 1.0), ValueError),
     ("loss", ["huber", "mean"], TypeError)],
)  # fmt: skip
def test_parameters(argument, value, error):
    with pytest.raises(error, match=rf"^{argument}: expected .*got"):
        Network([2, 3, 2], **{argument: value})


ON_A = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "poisson": "exp", "hinge": None}


@pytest.mark.parametrize("loss", ON_A)
@pytest.mark.parametrize("output", ["identity", "softmax", "sigmoid", "exp", "tanh", "relu", "softplus"])
def test_output_of_a_loss_on_a(loss, output):
    if output in ("identity", ON_A[loss]):
        assert Network([2, 3, 2], loss=loss, output=output).output == output
    else:
        with pytest.raises(ValueError, match=rf"^output: expected 'identity'.* with the loss '{loss}'.*got '{output}'"):
            Network([2, 3, 2], loss=loss, output=output)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber", "quantile"])
def test_softmax_is_for_cross_entropy_alone(loss):
    with pytest.raises(ValueError, match=rf"^output: expected 'softmax' only with .*'cross_entropy', got .*{loss}"):
        Network([2, 3, 2], loss=loss, output="softmax")


def test_a_pair_is_no_output_of_a_loss_on_a():
    with pytest.raises(ValueError, match=r"^output: expected .*got"):
        Network([2, 3, 2], loss="binary_cross_entropy", output=("sigmoid", 1.0))
    with pytest.raises(ValueError, match=r"^output: expected .*got"):
        Network([2, 3, 2], loss="cross_entropy", output=("softmax", 1.0))


# objective -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1.0, ValueError), (-1e-300, ValueError), (np.nan, ValueError), (np.inf, ValueError), (10**400, ValueError),
     ("1", TypeError), (None, TypeError), (True, TypeError), (1j, TypeError), (np.ones(31), TypeError)],
)  # fmt: skip
def test_l2(value, error):
    assert_refused("objective", make(), (X, Y["squared_error"]), error, "l2: ", l2=value)


@pytest.mark.parametrize(
    ("value", "error"),
    [(np.ones(30, bool), ValueError), (np.ones((31, 1), bool), ValueError), (np.zeros(31, bool), ValueError),
     (np.ones(31, int), TypeError), (np.ones(31), TypeError), (np.arange(3), TypeError), (["a"] * 31, TypeError),
     (True, ValueError), ([[True], [True, False]], ValueError),
     (np.ma.masked_array(np.ones(31, bool), False), TypeError),
     ("all", TypeError)],
)  # fmt: skip
def test_free(value, error):
    assert_refused("objective", make(), (X, Y["squared_error"]), error, "free: ", free=value)


def test_theta_must_hold_the_free_parameters_alone():
    free = np.zeros(31, bool)
    free[:7] = True
    fun = make().objective(X, Y["squared_error"], free=free)
    with pytest.raises(ValueError, match=r"^theta: expected shape \(7,\), got \(31,\)"):
        fun(np.zeros(31))


# The two equations alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("W_next", "grad_a_next", "error", "argument"),
    [(np.ones((2, 3)), np.ones((5, 3)), ValueError, "grad_a_next"),
     (np.ones((2, 3)), np.ones(2), ValueError, "grad_a_next"),
     (np.ones(3), np.ones((5, 3)), ValueError, "W_next"),
     (np.ones((1, 2, 3)), np.ones((5, 2)), ValueError, "W_next"),
     (np.ones((2, 3)), np.ones((5, 2), np.float32), ValueError, "grad_a_next"),
     (np.ones((2, 3), np.float32), np.ones((5, 2)), ValueError, "grad_a_next"),
     (np.ones((2, 3), complex), np.ones((5, 2)), TypeError, "W_next"),
     (np.ones((2, 3), object), np.ones((5, 2)), TypeError, "W_next"),
     (np.ones((2, 3)), np.ones((5, 2)).astype(str), TypeError, "grad_a_next"),
     (None, np.ones((5, 2)), TypeError, "W_next"),
     (np.ones((2, 3)), None, TypeError, "grad_a_next")],
)  # fmt: skip
def test_hidden_gradient(W_next, grad_a_next, error, argument):
    with pytest.raises(error, match=rf"^{argument}: expected .*got"):
        hidden_gradient(W_next, grad_a_next)


@pytest.mark.parametrize(
    ("grad_h", "a", "activation", "error", "argument"),
    [(np.ones((5, 3)), np.ones((5, 2)), "tanh", ValueError, "grad_h"),
     (np.ones((4, 3)), np.ones((5, 3)), "tanh", ValueError, "grad_h"),
     (np.ones(3), np.ones((1, 3)), "tanh", ValueError, "grad_h"),
     (np.ones((1, 3)), np.ones(3), "tanh", ValueError, "a"),
     (np.ones((5, 3), np.float32), np.ones((5, 3)), "tanh", ValueError, "grad_h"),
     (np.ones((5, 3)), np.ones((5, 3), np.float32), "tanh", ValueError, "grad_h"),
     (np.ones((5, 3)) + 0j, np.ones((5, 3)), "tanh", TypeError, "grad_h"),
     (np.ones((5, 3)), np.ones((5, 3)), "tahn", ValueError, "activation"),
     (np.ones((5, 3)), np.ones((5, 3)), "softmax", ValueError, "activation"),
     (np.ones((5, 3)), np.ones((5, 3)), None, TypeError, "activation"),
     (np.ones((5, 3)), np.ones((5, 3)), ("tanh", 1.0), ValueError, "activation"),
     (np.ones((5, 3)), np.ones((5, 3)), ("elu", "1"), TypeError, "activation")],
)  # fmt: skip
def test_preactivation_gradient(grad_h, a, activation, error, argument):
    with pytest.raises(error, match=rf"^{argument}: expected .*got"):
        preactivation_gradient(grad_h, a, activation)


# Objects that raise, and shapes without memory ------------------------------------------------------------------------


class Raising:
    """An object whose `__array__` raises, and whose repr raises too."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error

    def __repr__(self):
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError, KeyError, AttributeError, ZeroDivisionError, ValueError])
def test_an_object_whose_array_raises(error):
    """A PyTorch tensor that requires a gradient raises RuntimeError."""
    y, expected = Y["squared_error"], ValueError if error is ValueError else TypeError
    assert_refused("value_and_grad", make(), (Raising(error("why")), y), expected, "x: ")
    assert_refused("loss", make(), (X, Raising(error("why"))), expected, "y: ")
    for arguments, name in (((Raising(error("why")), y), "x"), ((X, Raising(error("why"))), "y")):
        with pytest.raises(expected, match=rf"^{name}: expected .*got Raising without a repr: .*why"):
            Ensemble(make(), 2).value_and_grad(*arguments)


def test_memory_that_is_not_there_is_named():
    """Broadcast arrays take memory only if they are converted; the array that an object gives may not fit either."""
    endless = np.broadcast_to(np.float64(1), (1 << 50, N_IN))
    y = Y["squared_error"]
    for value in (endless, Raising(MemoryError())):
        with pytest.raises(MemoryError, match=r"^x: .*memory"):
            make().loss(value, y)
    with pytest.raises(MemoryError, match=r"^y: .*memory"):
        make().loss(X, Raising(MemoryError()))


@pytest.mark.parametrize("name", ["x", "y", "sample_weight"])
def test_an_ensemble_drops_no_mask(name):
    for shape in ((), (2,)):  # shared, and one a member
        values = {"x": X, "y": Y["squared_error"], "sample_weight": np.ones(N_SAMPLES)}
        values = {key: np.broadcast_to(value, (*shape, *value.shape)) for key, value in values.items()}
        values[name] = np.ma.masked_array(values[name], np.ones(values[name].shape, bool))
        with pytest.raises(TypeError, match=rf"^{name}: expected a plain array, got a masked one"):
            Ensemble(make(), 2).value_and_grad(values.pop("x"), values.pop("y"), **values)


def test_an_ensemble_makes_one_array_of_an_object():
    class Changing:
        n_calls = 0

        def __array__(self, dtype=None, copy=None):
            self.n_calls += 1
            return np.array(X) if self.n_calls == 1 else np.zeros((1, 1))

    ensemble = Ensemble(make(), 2, rng=0)
    losses, _ = ensemble.value_and_grad(Changing(), Y["squared_error"])
    assert np.array_equal(losses, ensemble.value_and_grad(X, Y["squared_error"])[0])


# A refused call between two good ones --------------------------------------------------------------------------------


def test_a_refused_call_leaves_no_trace_in_the_next():
    net = make("cross_entropy")
    loss, grad = net.value_and_grad(X, LABELS)
    for bad in (changed(LABELS, 3, 3), LABELS[:2], None):
        with pytest.raises((ValueError, TypeError)):
            net.value_and_grad(X, bad)
    again, same = net.value_and_grad(X, LABELS)
    assert again == loss
    assert np.array_equal(same, grad)


def test_what_has_weight_0_is_not_looked_at():
    for loss, bad in (("cross_entropy", -7), ("hinge", np.nan), ("poisson", -3.0), ("binary_cross_entropy", 2.0)):
        y = changed(Y[loss], 3, bad)
        weight = changed(np.ones(5), 3, 0.0)
        kept = [0, 1, 2, 4]
        value, grad = make(loss).value_and_grad(X, y, sample_weight=weight)
        expected, grad_expected = make(loss).value_and_grad(X[kept], Y[loss][kept])
        assert value == expected
        assert np.array_equal(grad, grad_expected)
