"""The C functions, from extensions that are built here against the installed package."""

import ctypes
import ctypes.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest
from places import ROOT, SUPPORT

import backprop
from backprop import Activation, Network, num_threads

EXAMPLE = ROOT / "examples" / "c_api"

SETUP = """
import sys

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

openmp = {"darwin": [], "win32": ["/openmp"]}.get(sys.platform, ["-fopenmp"])
setup(name="c_api_probe", ext_modules=cythonize([Extension(
    "c_api_probe", ["c_api_probe.pyx"], include_dirs=[numpy.get_include()], extra_compile_args=openmp,
    extra_link_args=[] if sys.platform == "win32" else openmp,
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")])]))
"""


def bits(result):
    """The bytes of a loss, an array, or both."""
    return [np.asarray(part).tobytes() for part in (result if isinstance(result, tuple) else (result,))]


def build(folder):
    """Build what setup.py there says, against the package that these tests import."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    if any(shutil.which(program) is None for program in compiler if not program.startswith("-")):
        pytest.skip("needs a C compiler")
    path = [str(Path(backprop.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    flags = f"{os.environ.get('CFLAGS', '')} -O0"  # compiles in a third of the time
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=folder, capture_output=True, text=True,
        check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path)), "CFLAGS": flags},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c_api_probe")
    shutil.copy(SUPPORT / "c_api_probe.pyx", folder)
    (folder / "setup.py").write_text(SETUP)
    return build(folder)


@pytest.fixture(scope="module")
def probe(folder):
    sys.path.insert(0, str(folder))
    try:
        import c_api_probe
    finally:
        sys.path.remove(str(folder))
    return c_api_probe


def data(net, n_samples, *, seed=0):
    """x, and y in the domain of every loss, of the network's dtype."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_samples, net.sizes[0])).astype(net.dtype)
    y = rng.integers(0, 2, (n_samples, net.sizes[-1])).astype(net.dtype)
    return x, 2 * y - 1 if net.loss_name == "hinge" else y


def test_numbers(probe):
    for dtype, n_bytes in (("float32", 4), ("float64", 8)):
        net = Network([5, 19, 2], dtype=dtype, rng=0)
        with num_threads(3):
            assert probe.numbers(net) == (5 * 19 + 19 + 19 * 2 + 2, 5, 2, n_bytes, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_new_shapes_of_what_was_handed_out(probe):
    """A handle's parameters are the network's own, whatever was done to a view of them."""
    net = Network([5, 64, 2], rng=0)
    x, y = data(net, 30)
    grad = np.empty(net.n_params)
    expected = net.value_and_grad(x, y)
    for array in (net.params, net.params.base, net.weights[0]):
        if isinstance(array, np.ndarray):
            array.shape = (1, -1)
    assert bits((probe.value_and_grad(net, 30, None, x, y, None, None, grad, 1), grad)) == bits(expected)
    net.weights[0][...] = 0.5
    expected = net.value_and_grad(x, y)
    assert bits((probe.value_and_grad(net, 30, None, x, y, None, None, grad, 1), grad)) == bits(expected)


LOSSES = [
    "squared_error", "absolute_error", "huber", "quantile", ("quantile", (0.2, 0.9)), "hinge", "poisson",
    "binary_cross_entropy",
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_bits_are_those_of_python(probe, loss, dtype):
    net = Network([5, 64, 32, 2], activations="gelu", loss=loss, dtype=dtype, rng=0)
    theta = Network(net.sizes, dtype=dtype, rng=1).params
    for n_samples in (1, 65, 3000):
        x, y = data(net, n_samples)
        weight = np.random.default_rng(1).integers(0, 3, n_samples) + (np.arange(n_samples) == 0)
        for params, w in ((None, None), (theta, None), (theta, weight.astype(float))):
            for n_threads in (1, 2, 3, 1000):
                expected = net.value_and_grad(x, y, params=params, sample_weight=w, n_threads=1)
                grad = np.full(net.n_params, np.nan, dtype)
                value = probe.value_and_grad(net, n_samples, params, x, y, None, w, grad, n_threads)
                assert bits((value, grad)) == bits(expected)
                assert probe.value_and_grad(net, n_samples, params, x, y, None, w, None, n_threads) == value
            y_hat = np.full((n_samples, 2), np.nan, dtype)
            probe.forward(net, n_samples, params, x, y_hat, 2)
            assert bits(y_hat) == bits(net.forward(x, params=params))


@pytest.mark.skipif(platform.machine() != "x86_64" or os.name != "posix", reason="needs x86's number for upwards")
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_the_bits_do_not_depend_on_the_rounding_mode(probe, loss):
    upwards, math = 0x800, ctypes.CDLL(ctypes.util.find_library("m"))
    net = Network([5, 19, 3], activations="sin", loss=loss, dtype="float32", rng=0)
    rng = np.random.default_rng(0)
    x, y = data(net, 3000)[0], rng.dirichlet(np.ones(3), 3000).astype("float32")
    weight, results = rng.uniform(0, 1, 3000), []
    for mode in (0, upwards):
        grad, y_hat = np.empty(net.n_params, "float32"), np.empty((3000, 3), "float32")
        math.fesetround(mode)
        value = probe.value_and_grad(net, 3000, None, x, y, None, weight, grad, 2)
        probe.forward(net, 3000, None, x, y_hat, 2)
        kept = math.fegetround()
        math.fesetround(0)
        assert kept == mode
        results.append(bits((value, grad, y_hat)))
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_and_probabilities(probe, dtype):
    net = Network([5, 19, 4], loss="cross_entropy", dtype=dtype, rng=0)
    x, _ = data(net, 300)
    labels = np.random.default_rng(1).integers(0, 4, 300)
    probabilities = np.random.default_rng(1).dirichlet(np.ones(4), 300).astype(dtype)
    for y, as_y, as_labels in ((labels, None, labels), (probabilities, probabilities, None)):
        grad = np.empty(net.n_params, dtype)
        value = probe.value_and_grad(net, 300, None, x, as_y, as_labels, None, grad, 2)
        assert bits((value, grad)) == bits(net.value_and_grad(x, y))


def test_what_a_network_refuses(probe):
    with pytest.raises(TypeError, match="net: expected a Network, got int"):
        probe.numbers(3)
    own = Activation("own", np.tanh, lambda a: 1 / np.cosh(a) ** 2)
    with pytest.raises(ValueError, match="net: expected activations that run without the GIL"):
        probe.numbers(Network([2, 3, 1], activations=own, rng=0))


def test_refused_arguments(probe):
    net = Network([2, 3, 2], loss="cross_entropy", rng=0)
    poisson = Network([2, 3, 2], loss="poisson", rng=0)
    x, y = data(net, 4)
    labels = np.array([0, 1, 1, 0])
    probabilities = np.full((4, 2), 0.5)
    grad = np.full(net.n_params, 7.0)

    def refused(message, *, net=net, n=4, params=None, x=x, y=None, labels=labels, weight=None, grad=grad, **others):
        before = None if grad is None else grad.copy()
        own = net.params.copy()
        with pytest.raises(ValueError, match=message):
            probe.value_and_grad(net, n, params, x, y, labels, weight, grad, others.pop("n_threads", 1), **others)
        assert grad is None or np.array_equal(grad, before)
        assert np.array_equal(net.params, own)

    refused("^n_samples: expected at least one sample, got 0: the mean of no samples is not defined", n=0)
    refused("^n_samples: expected a number >= 0", n=-1)
    refused("^n_threads: expected at least one thread", n_threads=0)
    refused("^x: expected a pointer, got NULL", x=None)
    refused("^loss: expected a pointer, got NULL", with_loss=False)
    refused("^y, labels: expected one of the two", labels=None)
    refused("^y, labels: expected one of the two", y=probabilities)
    refused("^labels: expected NULL", net=poisson)
    refused("^y: expected labels from 0 to 1, got 2 in row 1", labels=np.array([0, 2, 1, 0]))
    refused("^y: expected labels from 0 to 1, got -1 in row 3", labels=np.array([0, 1, 1, -1]))
    refused("^y: expected rows that sum to 1 within", y=probabilities * 1.1, labels=None)
    refused("^y: expected probabilities >= 0", y=probabilities * -1, labels=None)
    y[2, 0] = -1
    refused("^y: expected .* for the loss 'poisson', got -1.0 in row 2, output 0", net=poisson, labels=None, y=y)
    refused("^sample_weight: expected finite weights >= 0, got -1.0 in row 1", weight=np.array([1.0, -1, 1, 1]))
    refused("^sample_weight: expected finite weights >= 0, got nan in row 0", weight=np.array([np.nan, 1, 1, 1]))
    refused("^sample_weight: expected at least one weight > 0", weight=np.zeros(4))
    refused("^grad: expected memory of its own", grad=net.params)
    refused("^grad: expected memory of its own", params=np.zeros(net.n_params), grad=net.params)
    theta = np.zeros(net.n_params + 1)
    refused("^grad: expected memory of its own", params=theta[1:], grad=theta[:-1])
    big = np.zeros(net.n_params)
    refused("^grad: expected memory of its own", x=big[9:].reshape(4, 2), grad=big)
    big[-4:] = 1
    refused("^grad: expected memory of its own", weight=big[-4:], grad=big)
    refused("^grad: expected memory of its own", net=poisson, labels=None, y=big[-8:].reshape(4, 2), grad=big)
    assert probe.value_and_grad(net, 4, None, x, None, labels, None, grad, 1) == net.loss(x, labels)
    with pytest.raises(ValueError, match=r"^y_hat: expected a pointer, got NULL"):
        probe.forward(net, 4, None, x, None, 1)
    with pytest.raises(ValueError, match=r"^y_hat: expected memory of its own"):
        probe.forward(net, 4, None, x, x, 1)
    x, y = data(poisson, 5)
    for which, name in enumerate(["x", "y", "grad", "params", "sample_weight"]):
        with pytest.raises(ValueError, match=f"^{name}: expected an address"):
            probe.misaligned(poisson, x, y, None, np.empty(poisson.n_params + 1), which)
    with pytest.raises(ValueError, match=r"^labels: expected an address"):
        probe.misaligned(net, x, None, np.zeros(5, np.intp), np.empty(net.n_params + 1), 5)


def test_no_samples(probe):
    net = Network([2, 3, 2], rng=0)
    probe.forward(net, 0, None, None, None, 1)  # nothing to check, and nothing to do
    y_hat = np.full((1, 2), 7.0)
    probe.forward(net, 0, None, np.ones((1, 2)), y_hat, 3)
    assert (y_hat == 7).all()
    with pytest.raises(ValueError, match=r"^n_samples: expected a number >= 0"):
        probe.forward(net, -1, None, np.ones((1, 2)), y_hat, 1)
    with pytest.raises(ValueError, match=r"^n_samples: .* the mean of no samples is not defined"):
        probe.value_and_grad(net, 0, None, None, None, None, None, None, 1)


def test_entries_of_weight_0_are_not_looked_at(probe):
    net = Network([2, 3, 2], loss="cross_entropy", rng=0)
    x, _ = data(net, 4)
    labels, weight = np.array([0, 99, 1, 0]), np.array([1.0, 0, 2, 3])
    x[1] = np.nan
    grad = np.empty(net.n_params)
    value = probe.value_and_grad(net, 4, None, x, None, labels, weight, grad, 1)
    assert bits((value, grad)) == bits(net.value_and_grad(x, labels, sample_weight=weight))
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_many_threads_at_once(probe, n_threads):
    net = Network([8, 64, 64, 2], activations="tanh", rng=0)
    problems = [data(net, n, seed=n) for n in (1, 60, 300, 2000)]
    expected = [bits(net.value_and_grad(x, y)) for x, y in problems]
    wrong = []
    barrier = threading.Barrier(16)

    def caller(k):
        x, y = problems[k % 4]
        grad = np.empty(net.n_params)
        barrier.wait()
        for _ in range(10):
            grad[:] = np.nan
            value = probe.value_and_grad(net, len(x), None, x, y, None, None, grad, n_threads, repeats=3)
            if bits((value, grad)) != expected[k % 4]:
                wrong.append(k)

    callers = [threading.Thread(target=caller, args=(k,)) for k in range(16)]
    for c in callers:
        c.start()
    for c in callers:
        c.join()
    assert not wrong


def test_prange(probe):
    net = Network([3, 16, 1], activations="tanh", rng=0)
    x, y = data(net, 100)
    thetas = np.random.default_rng(0).normal(size=(40, net.n_params))
    expected = [net.loss(x, y, params=theta) for theta in thetas]
    for n_threads in (1, 2, 4):
        assert probe.losses_by_prange(net, thetas, x, y, n_threads).tolist() == expected
    poisson = Network([3, 16, 1], loss="poisson", rng=0)
    y[0] = -1
    for n_threads in (1, 4):
        with pytest.raises(ValueError, match=r"expected .* got -1.0 in row 0, output 0"):
            probe.losses_by_prange(poisson, thetas, x, y, n_threads)


def run(folder, code):
    path = [str(folder), str(Path(backprop.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_out_of_memory(probe, folder):
    """Address space for everything except the workspace: W takes 128 MiB, and so do its panels."""
    if sys.platform != "linux":
        pytest.skip("limits of the address space are Linux's")
    run(folder, """if 1:
        import resource
        from pathlib import Path
        import numpy as np
        import c_api_probe
        from backprop import Network
        net = Network([4096, 4096], rng=0)
        x, grad = np.zeros((64, 4096)), np.zeros(net.n_params)
        small = Network([2, 3, 1], rng=0)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        unlimited = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), unlimited[1]))
        for call in (
            lambda: c_api_probe.value_and_grad(net, 64, None, x, x, None, None, grad, 1),
            lambda: c_api_probe.forward(net, 64, None, x, np.empty((64, 4096)), 1),
            lambda: net.value_and_grad(x, x, out=grad),
        ):
            try:
                call()
            except MemoryError as error:
                assert "the workspace of a call does not fit into memory" in str(error), error
            else:
                raise AssertionError("no MemoryError")
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
        assert c_api_probe.value_and_grad(net, 64, None, x, x, None, None, grad, 1) == net.loss(x, x)
    """)  # fmt: skip


def test_no_signal_handlers_are_run_and_children_compute(probe, folder):
    """Ctrl-C waits for the end of a call; a fork beside callers leaves nothing locked."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    out = run(folder, """if 1:
        import faulthandler, os, signal, sys, threading, time, warnings
        import numpy as np
        import c_api_probe
        from backprop import Network
        warnings.simplefilter("ignore")
        faulthandler.dump_traceback_later(60, exit=True)
        net = Network([64, 256, 256, 8], activations="tanh", rng=0)
        x, y, grad = np.ones((3000, 64)), np.ones((3000, 8)), np.empty(net.n_params)
        right = net.value_and_grad(x, y)[0]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        try:
            value = c_api_probe.value_and_grad(net, 3000, None, x, y, None, None, grad, 2, repeats=10)
            time.sleep(10)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("no KeyboardInterrupt")
        assert np.array_equal(grad, net.value_and_grad(x, y)[1])  # the ten calls came to their end

        small = Network([2, 4, 1], rng=0)
        xs, ys = np.ones((3, 2)), np.ones((3, 1))
        expected = small.loss(xs, ys)
        stop = threading.Event()

        def caller():
            while not stop.is_set():
                assert c_api_probe.value_and_grad(small, 3, None, xs, ys, None, None, None, 1, repeats=100) == expected

        callers = [threading.Thread(target=caller) for _ in range(3)]
        for c in callers:
            c.start()
        for k in range(60):
            pid = os.fork()
            if pid == 0:
                same = all(c_api_probe.value_and_grad(small, 3, None, xs, ys, None, None, None, 1) == expected
                           for _ in range(20))
                os._exit(0 if same else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, k
        stop.set()
        for c in callers:
            c.join()
        print("done")
    """)  # fmt: skip
    assert out == "done\n"


def test_the_example(tmp_path):
    if not EXAMPLE.is_dir():
        pytest.skip("the examples are in the repository alone")
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("*.so", "*.c", "build"))
    build(folder)
    lines = run(folder, f"import runpy; runpy.run_path({str(folder / 'run.py')!r})").splitlines()
    net = Network([1, 16, 16, 1], activations="tanh", rng=0)
    x = np.linspace(-2, 2, 200)[:, None]
    y = np.sin(3 * x)
    for k in range(8):  # the same in Python
        theta = Network(net.sizes, activations="tanh", rng=k).params
        for _ in range(2000):
            loss, grad = net.value_and_grad(x, y, params=theta)
            theta -= 0.05 * grad
        assert lines[k] == f"start {k}: loss {loss:.6f}"
