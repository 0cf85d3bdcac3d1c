"""Parts of a data set add up to the bits of the one call: in any order and tree, cut anywhere between units."""

import functools

import numpy as np
import pytest
from partial_cases import CALLS, added, bits, case_of, joined, weightings
from problems import with_layout

import backprop
from backprop import Activation, Network, PartialSums

FEW, MANY = 300, 50_001  # one unit, and six
WIDE = 100_001  # the same of normal_equations, whose units are longer
THREADS = (1, 2, 3, 8)
KINDS = [(call, weight) for call in CALLS for weight in weightings(call)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("call", "weight"), KINDS)
@pytest.mark.parametrize("n", [FEW, MANY])
def test_any_parts_in_any_order_have_the_bits_of_the_call(n, call, weight, dtype):
    n = WIDE if n == MANY and call == "normal_equations" else n
    rng = np.random.default_rng([n, CALLS.index(call)])
    case = case_of(call, n, dtype=dtype, weight=weight, seed=n)
    expected = bits(case.plain(n_threads=1))
    units = case.units()
    assert (len(units) == 1) == (n == FEW)
    for n_threads in THREADS:
        assert bits(case.plain(n_threads=n_threads)) == expected
        blocks = joined(rng, units, rng.integers(1, len(units) + 1))
        parts = case.parts(blocks, n_threads=n_threads)
        total = added(rng, [parts[k] for k in rng.permutation(len(parts))])
        assert total.rows == (blocks if call == "vjp" else [slice(0, n)])
        assert bits(total.result()) == expected
        assert bits(sum(parts).result()) == expected


@pytest.mark.parametrize("loss", ["cross_entropy", "hinge", "poisson", ("huber", 0.5)])
@pytest.mark.parametrize("weight", [None, "sample"])
def test_other_losses(loss, weight):
    rng = np.random.default_rng(3)
    for n in (FEW, MANY):
        case = case_of("value_and_grad", n, weight=weight, loss=loss)
        case.y = rng.integers(0, 2, n) if loss == "cross_entropy" else rng.choice([1.0, -1.0], (n, 2))
        case.y = np.abs(case.y) if loss == "poisson" else case.y
        for call in ("loss", "value_and_grad"):
            case.call = call
            assert bits(added(rng, case.parts(case.blocks(5))).result()) == bits(case.plain())


@pytest.mark.parametrize("weight", ["sample", "entry"])
@pytest.mark.parametrize("call", ["value_and_grad", "clipped_gradient", "normal_equations"])
@pytest.mark.parametrize("n", [FEW, MANY])
def test_blocks_whose_weights_are_all_0(n, call, weight):
    """Before all units, between two of them, and after the last one; whatever their rows hold."""
    n = WIDE if n == MANY and call == "normal_equations" else n
    rng = np.random.default_rng(8)
    case = case_of(call, n, weight=weight)
    expected = bits(case.plain())
    units = case.units()
    places, blocks, row = [], [], 0
    for unit in units:
        for block, is_empty in ((slice(0, 20), True), (unit, False)):
            own = np.arange(block.start, block.stop)
            places.append(np.full(len(own), -1) if is_empty else own)
            blocks.append(slice(row, row + len(own)))
            row += len(own)
    places.append(np.full(20, -1))
    blocks.append(slice(row, row + 20))
    places = np.concatenate(places)
    wide = case.some_rows(places)
    for array in (wide.x, wide.y):
        array[places < 0] = np.nan
    wide.weight[places < 0] = 0
    assert bits(wide.plain()) == expected
    parts = wide.parts(blocks)
    assert bits(added(rng, parts).result()) == expected
    assert not any(part._state.limbs.any() for part in parts[::2])
    if n != FEW:
        assert bits(added(rng, wide.parts(joined(rng, blocks, 3))).result()) == expected


def test_totals_from_many_machines_are_those_of_all_weights():
    """Each machine sums up its own weights; the totals are added in any order."""
    rng = np.random.default_rng(5)
    for weight in ("sample", "entry"):
        case = case_of("value_and_grad", MANY, weight=weight)
        case.weight *= 10.0 ** rng.integers(-12, 12, case.weight.shape)
        blocks = case.blocks(6)
        whole = case.totals(blocks)
        alone = [backprop.weight_totals(case.weight[block], [block]) for block in blocks]
        for _ in range(5):
            total = sum(alone[k] for k in rng.permutation(len(alone)))
            assert (total.n_rows, total.n_kept, total.largest) == (whole.n_rows, whole.n_kept, whole.largest)
            assert total.bins == whole.bins
            parts = [case.part(block, total) for block in blocks]
            assert bits(sum(parts).result()) == bits(case.plain())


def test_empty_blocks():
    case = case_of("vjp", FEW)
    blocks = [slice(0, 0), *case.blocks(3), slice(FEW, FEW)]
    parts = case.parts(blocks)
    assert [part.rows for part in parts] == [[], [slice(0, FEW)], [], [], []]
    assert bits(sum(parts).result()) == bits(case.plain())
    case = case_of("value_and_grad", MANY, weight="sample")
    blocks = [slice(7, 7), *case.blocks(20)]
    assert sum(block.start == block.stop for block in blocks) == 21 - len(case.units())
    assert bits(sum(case.parts(blocks)).result()) == bits(case.plain())


@pytest.mark.parametrize("call", ["vjp", "clipped_gradient", "normal_equations"])
def test_sums_of_no_rows_are_0(call):
    case = case_of(call, 0)
    assert bits(case.part(slice(0, 0)).result()) == bits(case.plain())
    twice = case.part(slice(0, 0)) + case.part(slice(0, 0))
    assert bits(twice.result()) == bits(case.plain())


@pytest.mark.parametrize("call", ["value_and_grad", "hessian"])
@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_results_that_are_not_finite(call, number):
    rng = np.random.default_rng(1)
    for n in (FEW, MANY):
        for dtype in ("float32", "float64"):
            case = case_of(call, n, dtype=dtype, activations="identity")
            case.x[n // 3, 0] = number
            case.y[n // 2, 0] = -number
            with np.errstate(all="ignore"):
                assert bits(added(rng, case.parts(case.units())).result()) == bits(case.plain())


@pytest.mark.parametrize(("dtype", "scale"), [("float64", 1e150), ("float64", 1e-160), ("float32", 1e-25)])
def test_sums_near_the_ends_of_the_range(dtype, scale):
    """The loss is near 1e300, or it and the gradient are subnormal."""
    rng = np.random.default_rng(2)
    for n in (FEW, MANY):
        case = case_of("value_and_grad", n, dtype=dtype, scale=scale, activations="identity")
        case.net.params *= min(scale, 1.0)
        loss, grad = case.plain()
        assert np.isfinite(loss)
        assert loss > 1e299 if scale > 1 else loss < 1e-49
        assert grad.any()
        assert bits(added(rng, case.parts(case.units())).result()) == bits((loss, grad))


def test_a_thousand_orders_and_integers_of_any_length():
    """The state of the sum is that of Python's integers, for units in 1,000 orders."""
    rng = np.random.default_rng(9)
    case = case_of("value_and_grad", WIDE, sizes=(2, 1))
    case.y[::7] *= 1e40
    case.y[case.units()[3]] *= 1e-60
    parts = case.parts(case.units())
    n = case.net.n_params + 1
    tops = np.array([part._state.top for part in parts]).astype(int)
    top = tops.max(axis=0)
    assert (tops.min(axis=0) < top - 3).any()
    limbs = [[0] * n for _ in range(3)]
    for part, part_top in zip(parts, tops, strict=True):
        for p in range(n):
            for k in range(3):  # of the part: its bin, and what of it lies in the window of the sum
                place = int(part_top[p]) - 2 + k - (int(top[p]) - 2)
                if place >= 0:
                    limbs[place][p] += int(part._state.limbs[k, p])
    expected = case.plain()
    for trial in range(1000):
        order = [parts[k] for k in rng.permutation(len(parts))]
        total = functools.reduce(lambda a, b: a + b, order)
        assert total._state.top.tolist() == top.tolist()
        assert total._state.limbs.tolist() == limbs
        if trial % 100 == 0:
            assert bits(total.result()) == bits(expected)


def test_other_dtypes_and_layouts_of_the_rows():
    case = case_of("value_and_grad", MANY, weight="entry")
    expected = bits(case.plain())
    given = [with_layout(case.x, "fortran"), with_layout(case.y, "strided"), with_layout(case.weight, "reversed")]
    case.x, case.y, case.weight = given
    assert bits(sum(case.parts(case.blocks(3))).result()) == expected
    case.x, case.y = case.x.astype("f4"), case.y.astype(">f4")
    assert bits(sum(case.parts(case.blocks(3))).result()) == bits(case.plain())


def test_params_that_are_given():
    case = case_of("hvp", MANY)
    theta = np.linspace(-1, 1, case.net.n_params)
    parts = case.parts(case.blocks(3), params=theta.tolist())
    assert bits(sum(parts).result()) == bits(case.plain(params=theta))


def test_activations_of_a_users_own():
    own = Activation("own", np.tanh, lambda a: 1 / np.cosh(a) ** 2, lambda a: -2 * np.tanh(a) / np.cosh(a) ** 2)
    case = case_of("hvp", MANY, activations=own, output=own)
    parts = [PartialSums.from_bytes(part.to_bytes()) for part in case.parts(case.blocks(3))]
    assert bits(sum(parts).result()) == bits(case.plain())


def test_adding_changes_no_part():
    case = case_of("vjp", MANY)
    parts = case.parts(case.blocks(4))
    before = [part.to_bytes() for part in parts]
    total = sum(parts)
    first = bits(total.result())
    total.result()[0][...] = 7
    total.result()[1][...] = 7
    assert bits(total.result()) == first
    assert [part.to_bytes() for part in parts] == before
    assert (parts[0] + parts[1]).to_bytes() == (parts[1] + parts[0]).to_bytes()


def test_what_a_part_shows():
    case = case_of("value_and_grad", WIDE)
    parts = case.parts(case.units())
    assert (parts[0].call, parts[0].n_rows, parts[0].rows) == ("value_and_grad", WIDE, [case.units()[0]])
    unit = case.units()[0].stop
    assert repr(parts[0]) == f"<PartialSums of value_and_grad: rows 0:{unit} of {WIDE}>"
    some = sum(parts[::2])
    assert len(some.rows) == len(parts[::2])
    assert repr(some).startswith(f"<PartialSums of value_and_grad: rows 0:{unit}, {2 * unit}:{3 * unit}, ")
    assert repr(some).endswith(f", ... of {WIDE}>")
    assert repr(case.part(slice(5, 5))) == f"<PartialSums of value_and_grad: rows none of {WIDE}>"
    with pytest.raises(AttributeError, match="PartialSums has no attribute 'total'"):
        some.total = 1


def test_many_small_parts_in_random_order_keep_few_intervals():
    case = case_of("loss", MANY, sizes=(1, 1))
    rng = np.random.default_rng(0)
    parts = case.parts(case.units())
    total = 0
    for k in rng.permutation(len(parts)):
        total = total + parts[k]
        assert sum(block.stop - block.start for block in total.rows) <= MANY
    assert total.rows == [slice(0, MANY)]


def test_the_number_of_rows_of_a_unit_is_that_of_the_whole_data_set():
    """100,000,000 rows of which a part is computed here: only whole units matter, not the other rows."""
    net = Network([2, 3, 1], rng=0)
    n = 100_000_000
    block = backprop.row_blocks(net, n, 24_000)[5]
    x = np.ones((block.stop - block.start, 2))
    part = net.partial_sums(x, x[:, :1], first_row=block.start, n_rows=n)
    assert part.rows == [block]
