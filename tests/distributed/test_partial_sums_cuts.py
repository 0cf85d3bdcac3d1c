"""`row_blocks` and `weight_totals`: blocks that end where units end, and what parts know of all weights."""

import copy
import itertools
import pickle
from fractions import Fraction

import numpy as np
import pytest

import backprop
from backprop import Network, WeightTotals, _core, row_blocks, weight_totals
from backprop.distributed.state import SUMS

NET = Network([3, 5, 2], rng=0)


def unit_of(call, n_kept, net=NET):
    return net._plan.unit_rows(_core.CALLS[call], n_kept)


@pytest.mark.parametrize("call", SUMS)
@pytest.mark.parametrize("n_rows", [1, 300, 8191, 8192, 50_001, 1_000_000])
def test_blocks_are_units_as_even_as_can_be(call, n_rows):
    unit = unit_of(call, n_rows)
    n_units = -(-n_rows // unit)
    for n_parts in (1, 2, 3, 7, n_units, n_units + 1, 1000):
        blocks = row_blocks(NET, n_rows, n_parts, call=call)
        assert len(blocks) == n_parts
        assert blocks[0].start == 0
        assert blocks[-1].stop == n_rows
        assert all(a.stop == b.start for a, b in itertools.pairwise(blocks))
        assert all(block.stop % unit == 0 or block.stop == n_rows for block in blocks)
        units = [-(-(block.stop - block.start) // unit) for block in blocks]
        assert sum(units) == n_units
        assert max(units) - min(units) <= 1
        assert units == sorted(units, reverse=True)


def kept_masks():
    rng = np.random.default_rng(0)
    n = 40_000
    runs = np.ones(n, bool)
    runs[:500] = runs[9_000:21_000] = runs[-700:] = False
    yield "random", rng.random(n) < 0.7
    yield "runs", runs
    yield "few", rng.random(n) < 0.01
    yield "one", np.arange(n) == 20_000
    yield "all", np.ones(n, bool)


@pytest.mark.parametrize(("name", "kept"), list(kept_masks()))
@pytest.mark.parametrize("n_parts", [1, 3, 50])
def test_rows_without_weight_count_for_nothing(name, kept, n_parts):
    n, n_kept = len(kept), int(kept.sum())
    unit = unit_of("hvp", n_kept)
    blocks = row_blocks(NET, n, n_parts, call="hvp", sample_weight=kept)
    before = 0
    for block in blocks:
        here = int(kept[block].sum())
        assert here == 0 or before % unit == 0
        before += here
        assert before % unit == 0 or before == n_kept
    assert (blocks[0].start, blocks[-1].stop) == (0, n)
    assert all(a.stop == b.start for a, b in itertools.pairwise(blocks))
    units = [-(-int(kept[block].sum()) // unit) for block in blocks]
    assert max(units) - min(units) <= 1
    forms = [kept.astype(float) * 1e-310, kept.tolist(), np.stack([kept, 0 * kept], axis=1), (kept * 3)[:, None]]
    for weight in forms:
        assert row_blocks(NET, n, n_parts, call="hvp", sample_weight=weight) == blocks


def test_more_weights_than_are_looked_at_together(monkeypatch):
    rng = np.random.default_rng(1)
    kept = rng.random(100_000) < 0.5
    kept[30_000:60_000] = False
    expected = row_blocks(NET, len(kept), 5, sample_weight=kept)
    for n in (1, 7, 4096):
        monkeypatch.setattr("backprop.distributed.cuts._SEARCHED_ROWS", n if n > 1 else 3)
        assert row_blocks(NET, len(kept), 5, sample_weight=kept) == expected


def test_the_call_and_the_network_decide():
    n = 100_000
    assert row_blocks(NET, n, 4) == row_blocks(NET, n, 4, call="value_and_grad")
    assert row_blocks(NET, n, 4, call="normal_equations") != row_blocks(NET, n, 4)
    assert row_blocks(NET, 0, 3) == [slice(0, 0)] * 3
    assert row_blocks(NET, np.int64(n), np.uint8(4)) == row_blocks(NET, n, 4)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"net": "net"}, TypeError, "net: expected a Network, got str 'net'"),
        ({"n_rows": -1}, ValueError, "n_rows: expected an integer >= 0, got -1"),
        ({"n_rows": 2.5}, ValueError, "n_rows: expected an integer >= 0, got 2.5"),
        ({"n_rows": "3"}, TypeError, "n_rows: expected an integer >= 0, got str '3'"),
        ({"n_parts": 0}, ValueError, "n_parts: expected a positive integer, got 0"),
        ({"n_parts": True}, TypeError, "n_parts: expected a positive integer, got bool True"),
        ({"call": "forward"}, ValueError, "got 'forward', which gives one row per sample: call net.forward on each"),
        ({"call": "gradient"}, ValueError, "call: expected one of loss, value_and_grad, "),
        ({"call": 3}, TypeError, "call: expected the name of a call, got int 3"),
        ({"sample_weight": [1.0] * 4}, ValueError, "sample_weight: expected the weights of 9 rows, in one or two dim"),
        ({"sample_weight": np.ones((9, 1, 1))}, ValueError, "sample_weight: expected the weights of 9 rows"),
        ({"sample_weight": np.zeros(9)}, ValueError, "sample_weight: expected at least one weight > 0, got none"),
    ],
)  # fmt: skip
def test_arguments_of_row_blocks_that_are_refused(change, error, words):
    arguments = {"net": NET, "n_rows": 9, "n_parts": 2, **change}
    with pytest.raises(error) as info:
        row_blocks(**arguments)
    assert words in str(info.value)


# Totals of weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("kind", ["normal", "wide", "subnormal", "huge"])
def test_totals_are_exact_in_every_order(kind, axes):
    rng = np.random.default_rng(3)
    n = 3000
    weight = np.where(rng.random((n, 2) if axes == 2 else n) < 0.3, 0.0, rng.random((n, 2) if axes == 2 else n))
    scale = {"normal": 1.0, "wide": 10.0 ** rng.integers(-200, 200, weight.shape), "subnormal": 1e-310, "huge": 1e304}
    weight = weight * scale[kind]
    blocks = [slice(k, min(k + 130, n)) for k in range(0, n, 130)]
    whole = weight_totals(weight, blocks)
    assert (whole.n_rows, whole.n_kept, whole.axes) == (n, np.count_nonzero(weight.reshape(n, -1).any(axis=1)), axes)
    assert whole.largest == weight.max()
    assert whole.blocks.tolist() == [
        [b.start, b.stop, np.count_nonzero(weight[b].reshape(b.stop - b.start, -1).any(axis=1))] for b in blocks
    ]
    scale, total = whole.scale_and_total
    exact = sum(map(Fraction, weight.ravel().tolist()), Fraction(0))
    assert abs(Fraction(total) - exact * Fraction(scale)) <= Fraction(2) ** -53 * exact * Fraction(scale)
    for _ in range(20):
        totals = [weight_totals(weight[blocks[k]], [blocks[k]]) for k in rng.permutation(len(blocks))]
        while len(totals) > 1:
            totals.append(pickle.loads(pickle.dumps(totals.pop(0) + totals.pop(-1))))
        assert (totals[0].bins, totals[0].largest) == (whole.bins, whole.largest)
        assert totals[0].kept_rows(0, n, n) == whole.kept_rows(0, n, n) == (0, whole.n_kept)


def test_the_rows_of_a_machine_may_be_apart():
    weight = np.arange(100.0) % 3
    blocks = [slice(0, 30), slice(60, 100)]
    ours = weight_totals(np.concatenate([weight[block] for block in blocks]), blocks)
    theirs = weight_totals(weight[30:60], [slice(30, 45), slice(45, 60)])
    both = theirs + ours
    assert both.bins == weight_totals(weight, [slice(0, 100)]).bins
    assert both.kept_rows(45, 60, 100) == (np.count_nonzero(weight[:45]), np.count_nonzero(weight[45:60]))
    assert both.kept_rows(30, 100, 100) == (np.count_nonzero(weight[:30]), np.count_nonzero(weight[30:]))
    assert both.kept_rows(50, 50, 100) == (0, 0)


def test_totals_without_rows_fit_to_all():
    some = weight_totals(np.ones((4, 2)), [slice(0, 4)])
    for nothing in (weight_totals([], []), weight_totals([], [slice(4, 4)]), weight_totals(np.ones((0, 3)), [])):
        for total in (nothing + some, some + nothing, sum([nothing, nothing, some])):
            assert (total.axes, total.n_rows, total.n_kept, total.largest) == (2, 4, 4, 1.0)
            assert total.kept_rows(0, 4, 4) == (0, 4)
    assert weight_totals([], []).scale_and_total == (1.0, 0.0)


def test_totals_can_be_copied_and_show_themselves():
    totals = weight_totals([1.0, 0.0, 2.5], [slice(0, 2), slice(2, 3)])
    for again in (copy.copy(totals), copy.deepcopy(totals), pickle.loads(pickle.dumps(totals))):
        assert (again.bins, again.blocks.tolist(), again.largest) == (totals.bins, totals.blocks.tolist(), 2.5)
    assert repr(totals) == "<weights of 3 rows in 2 blocks: 2 are not 0, the largest is 2.5>"
    assert isinstance(totals, WeightTotals)
    assert (0 + totals) is totals
    for other in (1, 0.0, None, [totals]):
        with pytest.raises(TypeError, match="unsupported operand"):
            totals + other
    with pytest.raises(TypeError, match="unsupported operand"):
        1 + totals


@pytest.mark.parametrize(
    ("weight", "blocks", "error", "words"),
    [
        ([1.0, 2.0], [slice(0, 3)], ValueError, "sample_weight: expected the weights of the 3 rows in these blocks"),
        (np.ones((2, 1, 1)), [slice(0, 2)], ValueError, "sample_weight: expected the weights of the 2 rows in these"),
        (np.ones((2, 0)), [slice(0, 2)], ValueError, "sample_weight: expected the weights of the 2 rows in these"),
        ([1.0, -2.0, 3.0], [slice(0, 1), slice(1, 3)], ValueError, "expected finite weights >= 0, got -2.0 in row 1"),
        ([1.0, np.nan], [slice(4, 6)], ValueError, "expected finite weights >= 0, got nan in row 1"),
        (["a", "b"], [slice(0, 2)], TypeError, "sample_weight: expected real numbers"),
        ([1.0], [3], TypeError, "blocks: expected slices of rows, got int 3"),
        ([1.0], [slice(0, 2, 2)], ValueError, "blocks: expected slices such as slice(0, 4096), got slice(0, 2, 2)"),
        ([1.0], [slice(None, 1)], ValueError, "blocks: expected slices such as slice(0, 4096)"),
        ([1.0], [slice(0, None)], ValueError, "blocks: expected slices such as slice(0, 4096)"),
        ([], [slice(3, 1)], ValueError, "blocks: expected slices such as slice(0, 4096), got slice(3, 1, None)"),
        ([1.0], [slice(-1, 0)], ValueError, "blocks: expected an integer >= 0, got -1"),
        ([1.0], [slice("a", "b")], TypeError, "blocks: expected an integer >= 0, got str 'a'"),
    ],
)
def test_arguments_of_weight_totals_that_are_refused(weight, blocks, error, words):
    with pytest.raises(error) as info:
        weight_totals(weight, blocks)
    assert words in str(info.value)


def test_totals_by_sample_and_by_output_do_not_mix():
    with pytest.raises(ValueError, match=r"^\+: expected all weights by sample, or all by sample and output"):
        weight_totals(np.ones(3), [slice(0, 3)]) + weight_totals(np.ones((3, 2)), [slice(3, 6)])


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([slice(0, 20)], "expected the weights of rows 0:30, each once, got those of rows 0:20"),
        ([slice(0, 40)], "expected the weights of rows 0:30, each once, got those of rows 0:40"),
        ([slice(0, 10), slice(20, 40)], "got none for rows 10:20"),
        ([slice(0, 10), slice(5, 30)], "got rows 5:10 twice"),
        ([slice(0, 10), slice(9, 29)], "got rows 9:10 twice"),
        ([slice(10, 40)], "got none for rows 0:10"),
        ([slice(0, 10), slice(10, 30)], "expected blocks that begin and end as rows 10:20 do, got others"),
        ([slice(0, 20), slice(20, 30)], "expected blocks that begin and end as rows 10:20 do, got others"),
    ],
)
def test_totals_of_other_rows_are_refused(blocks, words):
    n = sum(block.stop - block.start for block in blocks)
    totals = weight_totals(np.ones(n), blocks)
    with pytest.raises(ValueError, match=r"^totals: ") as info:
        totals.kept_rows(10, 20, 30)
    assert words in str(info.value)


def test_the_names_are_public():
    assert {"row_blocks", "weight_totals", "WeightTotals", "PartialSums"} <= set(backprop.__all__)
