"""The memory that a call needs besides its arguments and results, per thread, and what a network keeps afterwards.

Each case runs in a new process. The kernel keeps its high-water mark; writing 5 to clear_refs resets it.
"""

import sys

import pytest
from places import use_folder
from suites import shortened

use_folder("benchmarks")

from memory import measure  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak of a process's memory")

# Wide rows and large sums ---------------------------------------------------------------------------------------------

WIDE = """
net = Network([1, 100_000, 1], activations="relu", rng=0)
x, y, v = np.ones((300, 1)), np.ones((300, 1)), np.ones(net.n_params)
"""
OF_WIDE_ROWS = {
    "forward": ("net.forward(x, n_threads={n})", 16),
    "input_gradient": ("net.input_gradient(x, y, n_threads={n})", 40),
    "per_sample_gradient_norms": ("net.per_sample_gradient_norms(x, y, n_threads={n})", 40),
    "jvp": ("net.jvp(x, v, n_threads={n})", 40),
    "value_and_grad": ("net.value_and_grad(x, y, n_threads={n})", 32),
    "hvp": ("net.hvp(x, y, v, n_threads={n})", 56),
    "vjp": ("net.vjp(x, y, n_threads={n})", 56),
}


@pytest.mark.parametrize("n_threads", shortened([1, 4], [4], "a part of what four threads take"))
@pytest.mark.parametrize("name", OF_WIDE_ROWS)
def test_wide_rows(name, n_threads):
    """A row of 1-100000-1 has 1.5 MiB of a and h: 512 of them would take 781, and the 64 of a chain 98."""
    call, most = OF_WIDE_ROWS[name]
    peak, kept, _ = measure(WIDE, call.format(n=n_threads))
    assert peak <= most * n_threads
    assert kept <= 72


MATRIX = """
net = Network([10, 16, 50], activations="tanh", rng=0)
x, y = np.ones(({n}, 10)), np.ones(({n}, 50))
"""


@pytest.mark.parametrize(
    ("n_samples", "n_threads"), shortened([(127, 1), (256, 1), (256, 2)], [(256, 2)], "a part of what two threads take")
)
def test_normal_equations(n_samples, n_threads):
    """J takes 16 MiB per thread, not 100. With chunks there are also sums of 8 MiB, one per thread and one more."""
    peak, kept, _ = measure(MATRIX.format(n=n_samples), f"net.normal_equations(x, y, n_threads={n_threads})")
    sums = 0 if n_samples < 128 else 16 + (0 if n_threads == 1 else (n_threads + 1) * 8)
    assert peak <= 20 * n_threads + sums
    assert kept <= 72


def test_a_network_gives_back_what_many_threads_took():
    setup = """
    net = Network([20, 256, 256, 1], rng=0)
    x, y = np.ones((131072, 20)), np.ones((131072, 1))
    """
    peak, kept, _ = measure(setup, "net.value_and_grad(x, y, n_threads=64)")
    assert peak <= 3 * 64
    assert kept <= 72


# Data of another dtype ------------------------------------------------------------------------------------------------

FILE = """
net = Network([50, 16, 1], dtype="{dtype}", rng=0)
x = on_disk(np.ones((200_000, 50)), "{of}", "{order}")
y = np.ones((200_000, 1), "{of}")
"""
FILES = [("float64", "f4", "C"), ("float32", "f8", "C"), ("float32", "i1", "C"), ("float64", ">f8", "C")]
FILES += [("float64", "f8", "F"), ("float64", "f4", "F")]
OF_FILES = {
    "value_and_grad": "net.value_and_grad(x, y, n_threads=1)",
    "objective": "net.objective(x, y, n_threads=1)",
    "hvp": "net.hvp(x, y, net.params, n_threads=1)",
    "find_nonfinite": "net.find_nonfinite(x, y, n_threads=1)",
}


@pytest.mark.parametrize(("dtype", "of", "order"), shortened(FILES, FILES[:2], "converted by the same function"))
def test_a_file_of_another_dtype_or_order(dtype, of, order):
    """Each tile converts its own rows: all rows at once would take 40 or 80 MB."""
    peak, kept, _ = measure(FILE.format(dtype=dtype, of=of, order=order), OF_FILES["value_and_grad"])
    assert peak <= 4
    assert kept <= 4


@pytest.mark.parametrize("call", OF_FILES)
def test_calls_on_a_file_of_another_dtype(call):
    peak, kept, _ = measure(FILE.format(dtype="float64", of="f4", order="C"), OF_FILES[call])
    assert peak <= 6
    assert kept <= 6


# Blocks ---------------------------------------------------------------------------------------------------------------

BLOCKS = """
net = Network([19, 16, 1], activations="tanh", rng=0)
def blocks():
    for k in range(10):
        x = np.full((100_000, 19), 0.1 * k)
        yield x, x[:, 0]
fun = net.objective(blocks, n_threads=2)
"""


@pytest.mark.parametrize("call", ["fun(net.params)[1]", "fun.hessp(net.params, net.params)", "net.objective(blocks)"])
def test_rows_that_stream_in_blocks(call):
    """A million rows of 145 MiB, in blocks of 14.5: two of these, two copies of four units, and what calls take.

    The C library may keep freed memory, and may find no place for a block in it.
    """
    peak, _, _ = measure(BLOCKS, call)
    assert peak <= 2 * 14.5 + 2 * 6 + 6 + 14.5
