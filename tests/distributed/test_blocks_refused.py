"""Which blocks are refused, with the words of the error; and what counts for nothing."""

import numpy as np
import pytest
from block_cases import N_IN, N_OUT, bits

from backprop import Network

NET = Network([N_IN, 4, N_OUT], activations="tanh", rng=0)
LABELS = Network([N_IN, 4, N_OUT], loss="cross_entropy", rng=0)
RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(9, N_IN)), RNG.normal(size=(9, N_OUT)), RNG.uniform(1, 2, 9)


# Blocks that change ---------------------------------------------------------------------------------------------------


def changed(first, later):
    """Blocks that are others from the second pass on."""
    passes = iter([first])
    return lambda: next(passes, later)


CHANGED = {
    "rows more": (
        [(X, Y)],
        [(X, Y), (X[:2], Y[:2])],
        r"expected 9 rows at each pass, as at the first, got 11 or more;",
    ),
    "rows fewer": ([(X, Y)], [(X[:7], Y[:7])], r"expected 9 rows at each pass, as at the first, got 7;"),
    "no rows": ([(X, Y)], [], r"got 0; blocks must not change, and a function must make a new iterator each time"),
    "other weights": (
        [(X, Y, W)],
        [(X, Y, W + 1e-9)],
        "expected the same weights at each pass, got others than at the",
    ),
    "other weights below the largest": (
        [(X, Y, W)],
        [(X, Y, np.where(W.max() > W, W + 1e-9, W))],
        "expected the same weights at each pass, got others than at the",
    ),
    "weights of 0": (
        [(X, Y, W)],
        [(X, Y, np.where(np.arange(9) < 2, 0, W))],
        r"expected 9 rows with a weight above 0 at each pass, as at the first, got 7;",
    ),
    "no weights": ([(X, Y, np.ones(9))], [(X, Y)], "expected the same weights at each pass, got others than at the"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_blocks_that_change_are_refused(name):
    first, later, words = CHANGED[name]
    fun = NET.objective(changed(first, later))
    for call in (fun, lambda theta: fun.hessp(theta, theta)):
        with pytest.raises(RuntimeError, match=rf"^blocks: .*{words}"):
            call(NET.params)


def test_a_function_that_gives_the_same_iterator_is_found_out():
    once = iter([(X, Y)])
    fun = NET.objective(lambda: once)
    with pytest.raises(RuntimeError, match=r"got 0; blocks must not change, and a function must make a new iterator"):
        fun(NET.params)


# What is refused ------------------------------------------------------------------------------------------------------

ONE = [(X, Y)]
REFUSED = {
    "a generator": ((block for block in ONE), TypeError, r"^blocks: .* that can be read again .*, or a list$"),
    "an iterator": (iter(ONE), TypeError, r"^blocks: .* got list_iterator .*, which can be read once; give"),
    "zip": (zip([X], [Y], strict=True), TypeError, r"^blocks: expected an iterable that can be read again"),
    "a number": (3, TypeError, r"^blocks: expected an iterable of \(x, y\) .*, got int 3"),
    "None": (None, TypeError, r"^blocks: expected an iterable of .*, got NoneType None"),
    "an array": (X, TypeError, r"^y: expected targets beside x, got none; net.objective\(x, y\)"),
    "a list of rows": (X.tolist(), TypeError, r"^block 0: expected a tuple \(x, y\) or .*, got list \["),
    "one block": ((X, Y), TypeError, r"^block 0: expected a tuple .*; net.objective\(\[\(x, y\)\]\) has one block"),
    "one block of lists": ((X.tolist(), Y.tolist()), TypeError, r"^block 0: expected a tuple"),
    "text": ("blocks", TypeError, r"^block 0: expected a tuple .*, got str 'b'"),
    "a function of numbers": (lambda: 3, TypeError, r"^blocks: expected a function that makes an iterable .* int 3"),
    "four arrays": ([(X, Y, W, W)], TypeError, r"^block 0: expected a tuple .*, got tuple"),
    "x alone": ([(X,)], TypeError, r"^block 0: expected a tuple"),
    "a dict": ({"x": X, "y": Y}, TypeError, r"^block 0: expected a tuple .*, got str 'x'"),
    "no blocks": ([], ValueError, r"^blocks: expected at least one sample, got 0"),
    "no rows": ([(X[:0], Y[:0])], ValueError, r"^blocks: expected at least one sample, got 0"),
    "columns of x": ([(X, Y), (X[:, :2], Y)], ValueError, r"^block 1: x: expected 5 columns"),
    "rows of y": ([(X, Y), (X, Y), (X, Y[:4])], ValueError, r"^block 2: y: expected 9 rows, as x has, got 4"),
    "rows of an empty y": ([(X, Y), (X[:0], Y)], ValueError, r"^block 1: y: expected 0 rows, as x has, got 9"),
    "complex x": ([(X, Y), (X + 0j, Y)], TypeError, r"^block 1: x: expected real numbers"),
    "a masked y": ([(X, np.ma.masked_array(Y, Y > 0))], TypeError, r"^block 0: y: expected a plain array"),
    "a negative weight": ([(X, Y, W), (X, Y, -W)], ValueError, r"^block 1: sample_weight: .* in row 0"),
    "weights of 0": ([(X, Y, 0 * W)] * 2, ValueError, r"^sample_weight: expected at least one weight > 0, got none"),
    "weights in some": ([(X, Y, W), (X, Y)], ValueError, r"^block 1: sample_weight: expected weights by .* got no"),
    "weights in others": ([(X, Y), (X, Y, W)], ValueError, r"^block 1: sample_weight: expected no weights, as in"),
    "other weights": ([(X, Y, W), (X, Y, Y * Y)], ValueError, r"by sample, as in the blocks before, got .* and output"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    given, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        NET.objective(given)


def test_a_file_is_refused(tmp_path):
    with open(tmp_path / "file", "w+") as file, pytest.raises(TypeError, match=r"^blocks: .*, which can be read once"):
        NET.objective(file)


def test_labels_are_looked_at_in_each_pass():
    """They are indices: a label that is too large must not reach the compiled code."""
    labels = np.zeros(9, int)
    with pytest.raises(ValueError, match=r"^block 1: y: expected labels from 0 to 2, got 3 in row 4"):
        LABELS.objective([(X, labels), (X, np.where(np.arange(9) == 4, 3, 0))])
    with pytest.raises(ValueError, match=r"^block 1: y: expected labels, as in the blocks before, got probabilities"):
        LABELS.objective([(X, labels), (X, np.eye(3)[labels])])
    with pytest.raises(ValueError, match=r"^block 1: y: expected probabilities, as in the blocks before, got labels"):
        LABELS.objective([(X, np.eye(3)[labels]), (X, labels)])
    fun = LABELS.objective([(X, labels)])
    labels[5] = 100
    with pytest.raises(ValueError, match=r"^block 0: y: expected labels from 0 to 2, got 100 in row 5"):
        fun(LABELS.params)


def test_weights_stand_in_the_blocks():
    with pytest.raises(TypeError, match=r"^sample_weight: expected none beside blocks"):
        NET.objective([(X, Y)], sample_weight=W)


def test_other_arguments_are_refused_as_with_arrays():
    for name, value, kind in (("l2", -1, ValueError), ("n_threads", 0, ValueError), ("free", [1.0], TypeError)):
        with pytest.raises(kind, match=f"^{name}: "):
            NET.objective([(X, Y)], **{name: value})


def test_empty_blocks_and_blocks_without_weight_count_for_nothing():
    nothing, zero = (X[:0], Y[:0], W[:0]), (X * np.nan, Y * np.nan, 0 * W)
    fun = NET.objective([nothing, zero, (X[:4], Y[:4], W[:4]), zero, nothing, (X[4:], Y[4:], W[4:]), nothing, zero])
    assert bits(fun(NET.params)) == bits(NET.objective(X, Y, sample_weight=W)(NET.params))
    assert "45 samples" not in repr(fun)
    assert "36 samples, weighted" in repr(fun)
