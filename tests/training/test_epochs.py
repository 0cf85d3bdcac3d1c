"""Epochs of mini-batches have the bits of a NumPy loop around `value_and_grad` of x[rows], y[rows], weights[rows]."""

import hashlib
import platform

import numpy as np
import pytest
from epochs import METHODS, by_core, by_numpy, refuse_other_bits
from problems import LAYOUTS, random_targets, with_layout
from required_peers import require_peer

import backprop
from backprop import Network, _core

RATES = [0.05, 0.02, 0.01]
ON_RECORD = {
    ("sgd", "float32"): "12816c938615bcddde14576b0475bb70edb0d99f80510711b6b53651f78e0fbf",
    ("sgd", "float64"): "5f2158de24b7462dbc0f5bc346295d13697b50bfd667fa4150ef345b30387f7d",
    ("plain_sgd", "float32"): "8ea1c83b77ce615f5e9f3beacdd8c4ddabcaf11bbc4788e974bdb69d109d25ed",
    ("plain_sgd", "float64"): "ce0ee0987ca71423220a7c711667a04b0ba6261d0bc5498cce35a2e96800d82f",
    ("adam", "float32"): "f9547d2f4afc6b5125b508b5fcff57d01b92ed555bf8aaa17dcddfd9148680f6",
    ("adam", "float64"): "b00d6f6b1d037a3168d71d99f3034230cc2f72de2e83801eecc566787063d3a6",
    ("adamw", "float32"): "ad16791e85e5c2b91a1884707d3e2a5c5b4d360e1d3aa916a3034f578c219158",
    ("adamw", "float64"): "82e0937495674a11afd2f96380bd356ed49c935dce0b29d5d43039386c893166",
    ("plain_epsilon", "float32"): "8b051bf1c3d22812751e8769012593770f978fd5be30732a7f74dd4f192e2061",
    ("plain_epsilon", "float64"): "b0515b87dc4d9c11be7dcc05b3625b80b1f7e5a22b5c631d0e10cba86258dacc",
}


def problem(dtype="float64", *, n=67, sizes=(3, 9, 5, 2), loss="squared_error", labels=True, seed=0):
    """A network, samples, targets, and the orders of three epochs."""
    rng = np.random.default_rng(seed)
    net = Network(sizes, activations="tanh", loss=loss, dtype=dtype, rng=seed)
    x = rng.standard_normal((n, sizes[0])).astype(dtype)
    y = random_targets(rng, loss, n, sizes[-1], dtype, labels)
    return net, x, y, np.array([rng.permutation(n) for _ in RATES])


def compare(net, x, y, orders, batch_size, method, *, losses=True, n_threads=1, given=None, **options):
    """Both have the same bits; the core gets other arrays if they are given."""
    expected = by_numpy(net, x, y, orders, batch_size, RATES, method, **options)
    x, y = (x, y) if given is None else given
    found = by_core(net, x, y, orders, batch_size, RATES, method, n_threads=n_threads, **options)
    refuse_other_bits(found, expected, losses=losses)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 16, 67, 1000])
def test_a_plain_loop(method, dtype, batch_size):
    net, x, y, orders = problem(dtype)
    compare(net, x, y, orders, batch_size, method)


@pytest.mark.parametrize("method", METHODS)
def test_rows_as_they_lie(method):
    net, x, y, _ = problem()
    compare(net, x, y, None, 16, method)
    w = np.random.default_rng(1).integers(0, 3, len(x)).astype(float)  # their sums are exact
    compare(net, x, y, None, 16, method, weight=w)


@pytest.mark.parametrize("batch_size", [16, 67])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("divides_l2", [False, True])
def test_penalty(method, dtype, batch_size, divides_l2):
    """It acts on weights alone; with divides_l2 a short batch has a larger one."""
    net, x, y, orders = problem(dtype)
    compare(net, x, y, orders, batch_size, method, losses=False, l2=0.5, divides_l2=divides_l2)


@pytest.mark.parametrize("options", [{}, {"l2": 0.5}, {"max_norm": 0.3}, {"l2": 0.5, "max_norm": 0.3}], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_free_parameters(method, options):
    """The others stay, count for no norm, and have no state."""
    net, x, y, orders = problem()
    for seed in range(3):
        free = np.random.default_rng(seed).random(net.n_params) < [0.1, 0.5, 0.9][seed]
        before = net.params.copy()
        compare(net, x, y, orders, 16, method, losses=False, free=free, **options)
        assert np.array_equal(net.params[~free], before[~free])
        assert not np.array_equal(net.params[free], before[free])


def test_no_free_parameter():
    net, x, y, orders = problem()
    before = net.params.copy()
    compare(net, x, y, orders, 16, "adam", free=np.zeros(net.n_params, bool))
    assert np.array_equal(net.params, before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("max_norm", [0.05, 1.0, 1e9])
def test_clipping(method, dtype, max_norm):
    net, x, y, orders = problem(dtype)
    compare(net, x, y, orders, 16, method, max_norm=max_norm)
    compare(net, x, y, orders, 16, method, losses=False, max_norm=max_norm, l2=0.1)


@pytest.mark.parametrize("by_output", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_weights_by_number(method, by_output):
    """Integers, whose sums are exact; many are 0. A batch without weight makes no step."""
    net, x, y, orders = problem()
    rng = np.random.default_rng(2)
    w = rng.integers(0, 3, (len(x), 2) if by_output else len(x)).astype(float)
    compare(net, x, y, orders, 5, method, weight=w)
    w[rng.permutation(len(x))[:60]] = 0
    expected = by_numpy(net, x, y, orders, 5, RATES, method, weight=w)
    assert expected.progress[0] < expected.n_done
    compare(net, x, y, orders, 5, method, weight=w)
    y[w == 0] = np.nan
    compare(net, x, y, orders, 5, method, weight=w)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "hinge", "poisson", "quantile", "huber"])
@pytest.mark.parametrize("labels", [True, False])
def test_losses_and_labels(loss, labels):
    net, x, y, orders = problem(loss=loss, labels=labels)
    compare(net, x, y, orders, 16, "adam")
    w = np.random.default_rng(2).integers(0, 2, len(x)).astype(float)
    compare(net, x, y, orders, 16, "adam", weight=w)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_order", [True, False])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "f2", "i8", ">i2", "?"])
def test_any_dtype_and_layout(dtype, layout, with_order, monkeypatch):
    """Rows are converted when a batch takes them."""
    monkeypatch.setattr("backprop.api.conversion.BY_TILE_BYTES", 0)
    net, x, y, orders = problem("float32")
    x, y = (with_layout((2 * array).astype(dtype), layout) for array in (x, y))
    plain = x.astype("f4"), y.astype("f4")
    w = np.random.default_rng(2).integers(0, 2, len(x)).astype(float)
    for weight in (None, w):
        compare(net, *plain, orders if with_order else None, 16, "sgd", weight=weight, given=(x, y))


@pytest.mark.parametrize("dtype", [">i8", "i4", "u1"])
def test_labels_of_any_dtype(dtype, monkeypatch):
    monkeypatch.setattr("backprop.api.conversion.BY_TILE_BYTES", 0)
    net, x, y, orders = problem(loss="cross_entropy")
    for order in (orders, None):
        compare(net, x, y, order, 16, "sgd", given=(x, with_layout(y.astype(dtype), "strided")))


def test_some_rows_and_rows_twice():
    net, x, y, _ = problem()
    rng = np.random.default_rng(3)
    compare(net, x, y, np.array([rng.permutation(67)[:40] for _ in RATES]), 16, "adam")
    compare(net, x, y, rng.integers(0, 67, (3, 200)), 16, "adam")


def test_one_epoch_after_another():
    """Three epochs in one call, or in three with the state of the one before."""
    net, x, y, orders = problem()
    at_once = by_core(net, x, y, orders, 16, RATES, "adam")
    state = None
    net, x, y, orders = problem()
    for k, rate in enumerate(RATES):
        state = by_core(net, x, y, orders[k : k + 1], 16, [rate], "adam", state=state)
        assert np.array_equal(state.losses[0], at_once.losses[k])
    for name in ("params", "moments", "progress"):
        assert np.array_equal(getattr(state, name), getattr(at_once, name))


@pytest.mark.parametrize(
    ("sizes", "batch_size"), [((8, 100, 100, 3), 300), ((40, 300, 2), 100), ((3, 60, 2), 1500)], ids=str
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads(sizes, batch_size, dtype):
    """Strips and chunks of batches on threads have the bits of one thread, and of the loop."""
    n = 2 * batch_size + 7
    w = np.random.default_rng(2).integers(0, 3, n).astype(float)
    for weight in (None, w):
        net, x, y, orders = problem(dtype, n=n, sizes=sizes)
        expected = by_core(net, x, y, orders, batch_size, RATES, "adam", weight=weight)
        for n_threads in (2, 3, 8):
            net = problem(dtype, n=n, sizes=sizes)[0]
            found = by_core(net, x, y, orders, batch_size, RATES, "adam", weight=weight, n_threads=n_threads)
            refuse_other_bits(found, expected)
        net = problem(dtype, n=n, sizes=sizes)[0]
        compare(net, x, y, orders, batch_size, "adam", weight=weight)


@pytest.mark.parametrize("method", METHODS)
def test_long_steps_on_threads(method):
    """W_1 has more entries than two tasks of a step."""
    net, x, y, orders = problem("float32", n=8, sizes=(300, 450, 2))
    free = np.ones(net.n_params, bool)
    free[1000] = False
    compare(net, x, y, orders, 4, method, n_threads=3)
    compare(net, x, y, orders, 4, method, n_threads=2, losses=False, l2=0.1, free=free)


def test_an_activation_of_the_users_own():
    square = backprop.Activation("square", np.square, lambda a: 2 * a)
    net = Network([3, 4, 2], activations=square, rng=0)
    _, x, y, orders = problem()
    compare(net, x, y, orders, 16, "sgd")


def fractions(shape, step):
    """Fractions in [-1, 1) with 16 bits, by integer arithmetic."""
    numbers = np.arange(1, np.prod(shape) + 1, dtype=np.int64) * step % 65521
    return ((numbers - 32760) / 32768).reshape(shape)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
def test_the_bits_on_record(method, dtype):
    """The same for every number of threads, on every instruction set with fma, and under every compiler."""
    found = set()
    for n_threads in (1, 2, 8):
        net = Network([20, 150, 100, 3], activations="tanh", dtype=dtype, rng=0)
        net.params = 0.2 * fractions(net.n_params, 7919)
        x, y = fractions((700, 20), 104729).astype(dtype), fractions((700, 3), 1299709).astype(dtype)
        orders = np.array([np.arange(700, dtype=np.intp) * factor % 700 for factor in (1, 3, 9)])
        options = {"l2": 1e-3, "max_norm": 0.5, "n_threads": n_threads}
        result = by_core(net, x, y, orders, 300, RATES, method, **options)
        parts = result.params, result.moments, result.progress, result.losses
        found.add(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
    assert len(found) == 1
    if _core.simd in {"v3", "v4"} or platform.machine() in {"aarch64", "arm64"}:  # the others have no fma
        assert found == {ON_RECORD[method, dtype]}


@pytest.mark.parametrize("method", ["adam", "sgd"])
def test_the_fit_gets_somewhere(method):
    net, x, _, _ = problem(n=200)
    y = np.stack([np.sin(x[:, 0]), x[:, 1]], axis=1)
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(200) for _ in range(200)])
    result = by_core(net, x, y, orders, 20, np.full(200, 0.01), method)
    assert result.losses[-1].mean() < 0.05 * result.losses[0].mean()


@pytest.mark.parametrize("method", ["adam", "adamw"])
def test_pytorchs_adamw(method):
    """The same steps by gradients of the same batches; the decay acts on weights and biases."""
    torch = require_peer("torch")
    net, x, y, orders = problem()
    net.biases[0][...] = 1.0
    how = METHODS[method]
    theta = torch.nn.Parameter(torch.from_numpy(net.params.copy()))
    peer = torch.optim.AdamW([theta], betas=how["betas"], eps=how["epsilon"], weight_decay=how["weight_decay"])
    for order, rate in zip(orders, RATES, strict=True):
        peer.param_groups[0]["lr"] = rate
        for rows in np.split(order, range(16, 67, 16)):
            _, grad = net.value_and_grad(x[rows], y[rows], params=theta.detach().numpy())
            theta.grad = torch.from_numpy(grad)
            peer.step()
    found = by_core(net, x, y, orders, 16, RATES, method)
    np.testing.assert_allclose(found.params, theta.detach().numpy(), rtol=1e-11, atol=1e-13)
