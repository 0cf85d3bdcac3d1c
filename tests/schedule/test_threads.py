"""Thread counts and instruction sets: what decides them, what is refused, and that the bits depend on neither."""

import hashlib
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from kernel_functions import built_simd
from suites import shortened

import backprop
from backprop import Network, _core, get_num_threads, num_threads, set_num_threads
from backprop import threads as threads_module

SUPPORTED = _core.supported_simd()
BUILT = built_simd()
VARIABLES = ["BACKPROP_NUM_THREADS", "OMP_NUM_THREADS", *["BACKPROP_SIMD"] * (BUILT == SUPPORTED)]

needs_all_builds = pytest.mark.skipif(BUILT != SUPPORTED, reason=f"built for {', '.join(BUILT)} alone")


def run(code, *, check=True, **environment):
    """Run code in a new process; of the library's variables, only these are set."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(autouse=True)
def _as_it_was():
    """Restore what a test sets for the process."""
    before = threads_module._of_process[0]
    yield
    threads_module._of_process[0] = before


# set, get, context ---------------------------------------------------------------------------------------------------


def test_set_and_get():
    set_num_threads(3)
    assert get_num_threads() == 3
    set_num_threads(np.int64(1))
    assert get_num_threads() == 1
    assert type(get_num_threads()) is int
    set_num_threads(200)  # more than there are CPUs is allowed
    assert get_num_threads() == 200


def test_the_context_goes_before_the_process_and_ends():
    set_num_threads(3)
    with num_threads(5):
        assert get_num_threads() == 5
        with num_threads(2):
            assert get_num_threads() == 2
            set_num_threads(7)
            assert get_num_threads() == 2
        assert get_num_threads() == 5
    assert get_num_threads() == 7
    with pytest.raises(ZeroDivisionError), num_threads(4):
        raise ZeroDivisionError
    assert get_num_threads() == 7


def test_the_argument_goes_before_the_context():
    set_num_threads(3)
    with num_threads(5):
        assert threads_module.resolve(2) == 2
        assert threads_module.resolve(np.uint8(9)) == 9
        assert threads_module.resolve(None) == 5
    assert threads_module.resolve(None) == 3


def test_the_context_is_of_its_thread_alone():
    set_num_threads(3)
    seen = []
    with num_threads(5):
        thread = threading.Thread(target=lambda: seen.append(get_num_threads()))
        thread.start()
        thread.join()
    assert seen == [3]


def test_a_huge_count_is_cut_to_the_largest_pool():
    net = Network([30, 50, 1], activations="tanh", rng=0)
    x, y = np.ones((3000, 30)), np.zeros((3000, 1))
    expected = net.value_and_grad(x, y, n_threads=1)
    for n in (257, 1000, 2**31 - 1, 2**31, 2**63, 10**30):
        loss, grad = net.value_and_grad(x, y, n_threads=n)
        assert loss == expected[0]
        assert np.array_equal(grad, expected[1])
        assert np.array_equal(net.forward(x, n_threads=n), net.forward(x, n_threads=1))
        set_num_threads(n)
        assert get_num_threads() == 256
        assert net.value_and_grad(x, y)[0] == net.loss(x, y) == expected[0]
        with num_threads(n):
            assert get_num_threads() == 256
            assert net.value_and_grad(x, y)[0] == expected[0]
    assert int(run(SHOW, BACKPROP_NUM_THREADS="123456789").stdout) == 256


def test_a_refused_count_changes_nothing():
    set_num_threads(3)
    for bad in (0, -1, 2.5, "2", True, None):
        with pytest.raises((ValueError, TypeError), match=r"^n: expected a positive integer, got"):
            set_num_threads(bad)
        with pytest.raises((ValueError, TypeError), match=r"^n: expected a positive integer, got"), num_threads(bad):
            pass
    assert get_num_threads() == 3


# The environment -----------------------------------------------------------------------------------------------------

SHOW = "import backprop; print(backprop.get_num_threads())"


def test_the_environment_in_its_order():
    assert int(run(SHOW, BACKPROP_NUM_THREADS="3", OMP_NUM_THREADS="5").stdout) == 3
    assert int(run(SHOW, OMP_NUM_THREADS="5").stdout) == 5
    assert int(run(SHOW, BACKPROP_NUM_THREADS="", OMP_NUM_THREADS="5").stdout) == 5
    assert int(run(SHOW, OMP_NUM_THREADS="4,3,2").stdout) == 4
    assert int(run(SHOW, BACKPROP_NUM_THREADS=" 6 ").stdout) == 6
    assert int(run(SHOW).stdout) == threads_module.available_cpus()


def test_set_context_and_argument_go_before_the_environment():
    code = """
        import backprop
        from backprop.threads import resolve
        seen = [backprop.get_num_threads()]
        backprop.set_num_threads(2)
        seen.append(backprop.get_num_threads())
        with backprop.num_threads(7):
            seen += [backprop.get_num_threads(), resolve(9)]
        print(*seen)
    """
    assert run(code, BACKPROP_NUM_THREADS="3", OMP_NUM_THREADS="5").stdout.split() == ["3", "2", "7", "9"]


@pytest.mark.parametrize(
    "value",
    shortened(
        ["0", "-2", "2.5", "many", "true", "1e1", "0x4", "٣", ",4", "2,abc", "9" * 5000, "9" * 30],
        ["0", "2.5", "many", "9" * 5000],
        "more of the same kinds",
    ),
)
def test_an_invalid_value_warns_once_and_is_ignored(value):
    code = """
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import backprop
            import numpy as np
            net = backprop.Network([2, 1], rng=0)
            for _ in range(3):
                net.loss(np.ones((3, 2)), np.ones(3))
                backprop.get_num_threads()
        mine = [w for w in caught if "NUM_THREADS" in str(w.message)]
        print(backprop.get_num_threads(), len(mine), mine[0].category.__name__, ascii(mine[0].message))
    """
    done = run(code, BACKPROP_NUM_THREADS=value, OMP_NUM_THREADS="5", PYTHONUTF8="1").stdout
    assert done.startswith("5 1 RuntimeWarning ")
    assert "BACKPROP_NUM_THREADS: expected a positive integer, got " in done
    done = run(code, OMP_NUM_THREADS=value, PYTHONUTF8="1").stdout
    assert done.startswith(f"{threads_module.available_cpus()} 1 RuntimeWarning ")
    assert "OMP_NUM_THREADS: expected a positive integer, got " in done


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_cpus_are_those_of_the_affinity():
    code = """
        import os
        cpu = min(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpu})
        import backprop
        print(backprop.get_num_threads(), backprop.threads.available_cpus())
    """
    assert run(code).stdout.split() == ["1", "1"]


# The CPU quota of a cgroup -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "quota"),
    [("200000 100000\n", 2), ("150000 100000\n", 2), ("100001 100000\n", 2), ("50000 100000", 1), ("1 100000", 1),
     ("max 100000\n", None), ("max\n", None), ("", None), ("abc def\n", None), ("-1 100000\n", None),
     ("0 100000\n", None), ("100000 0\n", None), ("1 2 3\n", None), ("1600000 100000\n", 16)],
)  # fmt: skip
def test_quota_of_cgroup_v2(tmp_path, text, quota):
    (tmp_path / "cpu.max").write_text(text)
    assert threads_module._cgroup_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("quota_us", "period_us", "quota"),
    [("250000", "100000", 3), ("100000", "100000", 1), ("-1\n", "100000\n", None), ("x", "100000", None),
     ("100000", None, None), ("100000", "0", None)],
)  # fmt: skip
def test_quota_of_cgroup_v1(tmp_path, quota_us, period_us, quota):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota_us)
    if period_us is not None:
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text(period_us)
    assert threads_module._cgroup_quota(tmp_path) == quota


def test_no_cgroup(tmp_path):
    assert threads_module._cgroup_quota(tmp_path) is None
    assert threads_module._cgroup_quota(tmp_path / "nothing") is None


@pytest.mark.parametrize(("quota", "cpus"), [(None, 8), (3, 3), (8, 8), (20, 8), (1, 1)])
def test_available_cpus_are_the_smaller_of_affinity_and_quota(monkeypatch, quota, cpus):
    monkeypatch.setattr(threads_module.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads_module, "_cgroup_quota", lambda: quota)
    assert threads_module.available_cpus() == cpus


# The bits ------------------------------------------------------------------------------------------------------------


def results(net, n_samples, **keywords):
    """SHA-256 of everything that the calls return for a batch of random rows."""
    rng = np.random.default_rng(n_samples)
    x = rng.standard_normal((n_samples, net.sizes[0]))
    if net.loss_name == "cross_entropy":
        y = rng.integers(0, net.sizes[-1], n_samples)
    else:
        y = rng.standard_normal((n_samples, net.sizes[-1]))
    weight = rng.integers(0, 3, n_samples) + (n_samples == 1)
    digest = hashlib.sha256()
    for w in (None, weight):
        loss, grad = net.value_and_grad(x, y, sample_weight=w, **keywords)
        layers = net.layer_gradients(x, y, sample_weight=w, **keywords)
        digest.update(np.float64(loss).tobytes() + grad.tobytes() + np.float64(layers.loss).tobytes())
        for arrays in (layers.a, layers.h, layers.grad_a, layers.grad_h, layers.grad_W, layers.grad_b):
            digest.update(b"".join(array.tobytes() for array in arrays if array is not None))
    digest.update(net.forward(x, **keywords).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape",
    [{"sizes": [1, 50, 1], "activations": "tanh"}, {"sizes": [13, 64, 32, 16, 1], "activations": "gelu"},
     {"sizes": [30, 41, 10], "loss": "cross_entropy"}],
    ids=str,
)  # fmt: skip
def test_the_bits_do_not_depend_on_the_thread_count(shape, dtype):
    net = Network(**shape, dtype=dtype, rng=0)
    for n_samples in (1, 7, 64, 65, 1000, 1024, 1025, 5003):
        expected = results(net, n_samples, n_threads=1)
        for n_threads in (2, 3, 8):
            assert results(net, n_samples, n_threads=n_threads) == expected
        with num_threads(5):
            assert results(net, n_samples) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("sizes", "n_samples"), [([4, 700, 1], 1024), ([4, 700, 3], 1500), ([260, 521, 1], 1100), ([520, 521, 2], 1100)]
)
def test_the_bits_of_wide_layers_do_not_depend_on_the_thread_count(sizes, n_samples, dtype):
    # The first two share a chunk's rows between groups; the others add sums that are too large for a cache.
    net = Network(sizes, activations="tanh", dtype=dtype, rng=0)
    expected = results(net, n_samples, n_threads=1)
    for n_threads in (2, 3):
        assert results(net, n_samples, n_threads=n_threads) == expected


def test_the_bits_do_not_depend_on_who_calls():
    net = Network([13, 64, 32, 1], activations="tanh", rng=0)
    expected = {n: results(net, n, n_threads=1) for n in (7, 1000, 3000)}

    def call(k):
        n = (7, 1000, 3000)[k % 3]
        return n, results(net, n, n_threads=1 + k % 4)

    with ThreadPoolExecutor(8) as pool:
        for n, digest in pool.map(call, range(48)):
            assert digest == expected[n]


# Instruction sets ----------------------------------------------------------------------------------------------------

GRADIENTS = """
    import hashlib
    import numpy as np
    from backprop import Network, _core
    from backprop.reference import recursion as _reference
    digest = hashlib.sha256()
    for dtype, tolerance in (("float32", 3e-6), ("float64", 1e-13)):  # NumPy's own sums
        for sizes, activations, loss in (([1, 50, 1], "tanh", "squared_error"), ([13, 64, 33, 16, 1], "gelu", "huber"),
                                         ([30, 41, 10], "relu", "cross_entropy"), ([5, 8, 3], "sin", "absolute_error"),
                                         ([7, 17, 130], "sigmoid", "squared_error"), ([40, 9, 9], "selu", "poisson")):
            net = Network(sizes, activations=activations, loss=loss, dtype=dtype, rng=0)
            for n_samples in (1, 7, 64, 129, 1500):
                rng = np.random.default_rng(n_samples)
                x = rng.standard_normal((n_samples, sizes[0])).astype(np.float32)
                y = rng.uniform(0, 1, (n_samples, sizes[-1])).astype(np.float32)
                if loss == "cross_entropy":
                    y = rng.integers(0, sizes[-1], n_samples)
                value, grad = net.value_and_grad(x, y)
                layers = net.layer_gradients(x, y)
                target = np.eye(sizes[-1])[y] if loss == "cross_entropy" else y.astype(float)
                right = _reference.value_and_grad(net.sizes, net._architecture.layers, net._architecture.loss_pair,
                                                  net.params.astype(float), x.astype(float), target)
                assert abs(value - right.loss) <= tolerance * abs(right.loss), (sizes, n_samples, value, right.loss)
                error = np.linalg.norm(grad - right.gradient) / np.linalg.norm(right.gradient)
                assert error <= tolerance, (sizes, n_samples, error)
                digest.update(np.float64(value).tobytes() + grad.tobytes() + net.forward(x).tobytes())
                digest.update(layers.grad_h[0].tobytes())
    print(_core.simd, digest.hexdigest())
"""


def digest_of(simd):
    """The hash of all results on an instruction set; the process has compared them with the reference."""
    name, digest = run(GRADIENTS, BACKPROP_SIMD=simd).stdout.split()
    assert name == simd
    return digest


@pytest.mark.parametrize("simd", ["v2", "v3", "v4", "generic"])
def test_every_supported_instruction_set_gives_right_gradients(simd):
    if simd not in BUILT:
        pytest.skip(f"{simd} is not of this CPU, or was not built")
    assert len(digest_of(simd)) == 64


@pytest.mark.skipif(not {"v3", "v4"} <= set(BUILT), reason="needs a CPU and a build with both")
def test_v3_and_v4_give_the_same_bits():
    assert digest_of("v3") == digest_of("v4")


@pytest.mark.parametrize("value", ["v5", "V3", "avx2", "4", "v1", "v3,v4", " v3", "none"])
def test_an_unknown_instruction_set_is_an_import_error(value):
    done = run("import backprop", check=False, BACKPROP_SIMD=value)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: BACKPROP_SIMD: expected one of {', '.join(SUPPORTED)}")
    assert last.endswith(f"got {value!r}")


@pytest.mark.parametrize("value", ["v2", "v3", "v4", "generic"])
def test_an_instruction_set_that_this_cpu_lacks_is_an_import_error(value):
    if value in SUPPORTED:
        pytest.skip(f"this CPU has {value}")
    done = run("import backprop", check=False, BACKPROP_SIMD=value)
    assert done.returncode != 0
    assert f"which this CPU supports, got {value!r}" in done.stderr.strip().splitlines()[-1]


# A copy that was built for some instruction sets alone, by BACKPROP_BUILD_SIMD: imports of the others fail.
LEFT_OUT = """
import os, sys
sys.modules.update({f"backprop._kernels_{os.environ['LEFT_OUT']}_{dtype}": None for dtype in ("f4", "f8")})
from backprop import _core
print(_core.simd)
"""


@pytest.mark.skipif(len(BUILT) < 2, reason="needs a CPU and a build with two instruction sets")
def test_the_best_instruction_set_that_is_built_is_chosen():
    best, next_best = BUILT[-1], BUILT[-2]
    assert run(LEFT_OUT, LEFT_OUT=best).stdout.strip() == next_best
    done = run(LEFT_OUT, LEFT_OUT=best, BACKPROP_SIMD=best, check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        f"ImportError: expected kernels for {best}, but this copy of backprop was built without them;"
    )
    assert last.endswith("build it again without BACKPROP_BUILD_SIMD")


@needs_all_builds
def test_the_best_instruction_set_is_chosen():
    best = SUPPORTED[-1]
    assert run("from backprop import _core; print(_core.simd)").stdout.strip() == best
    assert run("from backprop import _core; print(_core.simd)", BACKPROP_SIMD="").stdout.strip() == best


@needs_all_builds
def test_show_config_names_it():
    done = run("import backprop; backprop.show_config()", BACKPROP_NUM_THREADS="3")
    shown = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert shown["threads"].strip() == "3"
    assert shown["simd"].strip() == SUPPORTED[-1]
    assert shown["backprop"].strip() == backprop.__version__


# threadpoolctl -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["backprop", "threadpoolctl"])
def test_threadpoolctl_knows_the_pool_whichever_is_imported_first(first):
    pytest.importorskip("threadpoolctl", minversion="3.2")
    second = {"backprop": "threadpoolctl", "threadpoolctl": "backprop"}[first]
    out = run(f"""
        import {first}
        import {second}
        import backprop, threadpoolctl
        backprop.set_num_threads(5)
        (mine,) = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "backprop"]
        assert mine["num_threads"] == 5 and mine["version"] == backprop.__version__
        with threadpoolctl.threadpool_limits(1, user_api="backprop"):
            print(backprop.get_num_threads())
        with threadpoolctl.threadpool_limits(2):
            print(backprop.get_num_threads())
        print(backprop.get_num_threads())
    """).stdout
    assert out.split() == ["1", "2", "5"]


def test_threadpoolctl_knows_the_pool_after_a_look_at_whether_it_is_there():
    pytest.importorskip("threadpoolctl", minversion="3.2")
    code = """
        import importlib.util, backprop
        importlib.util.find_spec("threadpoolctl")
        import threadpoolctl
        print([library["user_api"] for library in threadpoolctl.threadpool_info()].count("backprop"))
    """
    assert run(code).stdout.split() == ["1"]


def test_threadpoolctl_limits_within_a_block_of_num_threads():
    pytest.importorskip("threadpoolctl", minversion="3.2")
    code = """
        import backprop, threadpoolctl
        backprop.set_num_threads(7)
        with backprop.num_threads(1):
            with threadpoolctl.threadpool_limits(4):
                print(backprop.get_num_threads())
            print(backprop.get_num_threads())
        print(backprop.get_num_threads())
    """
    assert run(code).stdout.split() == ["4", "1", "7"]


def test_importing_does_not_import_threadpoolctl():
    assert run("import sys, backprop; print('threadpoolctl' in sys.modules)").stdout.split() == ["False"]


@pytest.mark.alone
def test_the_tasks_of_many_layers_take_no_longer_on_two_threads():
    """With 20,000 layers of 8 units: 2.2 to 2.6 times. A search for a task's layer from the first took 8 times."""
    net = Network([8] * 20_001, rng=0)
    x = np.ones((64, 8))

    def cpu_time(n_threads):
        times = []
        for _ in range(3):
            start = time.process_time()
            net.value_and_grad(x, x, n_threads=n_threads)
            times.append(time.process_time() - start)
        return min(times)

    assert cpu_time(2) < 4 * cpu_time(1)


@pytest.mark.parametrize("n_threads", shortened([1, 2], [2], "one thread cuts the same products"))
@pytest.mark.parametrize("dtype", shortened([np.float32, np.float64], [np.float32], "the same cuts"))
def test_products_cut_for_signals_have_the_bits_of_whole_ones(dtype, n_threads):
    rng = np.random.default_rng(0)
    net = Network([300, 3001, 2003, 3], activations="relu", dtype=dtype, rng=2)
    net.params = net.params + 0.01 * rng.standard_normal(net.n_params)  # biases too
    x = rng.standard_normal((1024, 300)).astype(dtype)
    y = rng.standard_normal((1024, 3)).astype(dtype)
    v = rng.standard_normal(net.n_params)
    y_hat = net.forward(x, n_threads=n_threads)
    loss, grad = net.value_and_grad(x, y, n_threads=n_threads)
    slopes = net.jvp(x, v, n_threads=n_threads)
    kept = net.layer_gradients(x, y)
    assert loss == kept.loss
    for (grad_W, grad_b), kept_W, kept_b in zip(net.unflatten(grad), kept.grad_W[1:], kept.grad_b[1:], strict=True):
        np.testing.assert_array_equal(grad_W, kept_W)
        np.testing.assert_array_equal(grad_b, kept_b)
    for i in (1, 2, 3):
        grad_W = np.asarray(kept.grad_a[i], float).T @ np.asarray(kept.h[i - 1], float)
        error = np.linalg.norm(kept.grad_W[i] - grad_W) / np.linalg.norm(grad_W)
        assert error < {np.float32: 1e-6, np.float64: 1e-14}[dtype], (i, error)
    for rows in (slice(0, 16), slice(1008, 1024)):  # products of so few rows are whole
        few = net.layer_gradients(x[rows], y[rows])
        np.testing.assert_array_equal(net.forward(x[rows], n_threads=1), y_hat[rows])
        np.testing.assert_array_equal(net.jvp(x[rows], v, n_threads=1), slopes[rows])
        for i in (1, 2, 3):
            np.testing.assert_array_equal(few.a[i], kept.a[i][rows])
            np.testing.assert_array_equal(few.grad_a[i], 64 * kept.grad_a[i][rows])  # means over 16 and 1024 samples
