"""What `partial_sums` and sums of parts refuse: rows that do not fit, arguments of other calls, gaps and overlaps."""

import numpy as np
import pytest
from partial_cases import BY_ROW, CALLS, MEANS, bits, case_of

import backprop
from backprop import Activation, Network, PartialSums, weight_totals

N = 50_001
CASE = case_of("value_and_grad", N)
UNIT = CASE.units()[0].stop
WEIGHTED = case_of("value_and_grad", N, weight="sample")
BLOCKS = WEIGHTED.blocks(4)
CURE = "; backprop.row_blocks(net, n_rows, n_parts, call='value_and_grad') gives blocks that fit"


def refusal(kind, function, *arguments, **options):
    with pytest.raises(kind) as info:
        function(*arguments, **options)
    return str(info.value)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (slice(100, UNIT), f"first_row: expected the start of a unit of {UNIT} rows, with 0 or {UNIT} of them before "
                           f"it, got 100 before it{CURE}"),
        (slice(UNIT + 1, 3 * UNIT), f"with {UNIT} or {2 * UNIT} of them before it, got {UNIT + 1} before it"),
        (slice(N - 1, N), f"or {N} of them before it, got {N - 1} before it"),
        (slice(0, 100), f"x: expected the last of the {N} rows, or the end of a unit of {UNIT} rows, with {UNIT} of "
                        f"them up to it, got 100 up to it{CURE}"),
        (slice(0, 2 * UNIT + 1), f"with {2 * UNIT} or {3 * UNIT} of them up to it, got {2 * UNIT + 1} up to it"),
        (slice(UNIT, N - 1), f"or {N} of them up to it, got {N - 1} up to it"),
    ],
)  # fmt: skip
def test_rows_that_are_not_whole_units(block, words):
    assert words in refusal(ValueError, CASE.part, block)


def test_rows_of_one_unit():
    case = case_of("hvp", 300)
    for block in (slice(0, 299), slice(1, 300), slice(0, 1)):
        text = refusal(ValueError, case.part, block)
        assert text.startswith("x: expected all 300 rows in one part, since they are one unit of hvp, got ")


def test_weighted_rows_that_are_not_whole_units():
    case = case_of("value_and_grad", N)
    case.weight = np.ones(N)
    case.weight[100:200] = 0
    _, second, *_ = case.blocks(4)
    for first, stop in ((0, second.start - 1), (1, second.start), (150, second.start), (second.start - 1, second.stop)):
        blocks = [slice(0, first), slice(first, stop), slice(stop, N)]
        text = refusal(ValueError, case.part, blocks[1], case.totals(blocks))
        assert " rows with a weight" in text
        assert CURE in text
    blocks = [slice(0, 120), slice(120, 150), slice(150, N)]
    assert case.part(blocks[1], case.totals(blocks)).rows == [blocks[1]]


def test_rows_outside_of_the_data_set():
    assert refusal(ValueError, CASE.net.partial_sums, CASE.x[:9], CASE.y[:9], first_row=5, n_rows=10) == (
        "x: expected at most 5 rows from row 5 on, got 9"
    )
    text = refusal(ValueError, CASE.net.partial_sums, CASE.x[:9], CASE.y[:9], first_row=50, n_rows=10)
    assert text == "x: expected at most 0 rows from row 50 on, got 9"


@pytest.mark.parametrize("name", ["first_row", "n_rows"])
@pytest.mark.parametrize(("value", "kind"), [(-1, ValueError), (0.5, ValueError), ("0", TypeError), (True, TypeError)])
def test_numbers_of_rows(name, value, kind):
    given = {"first_row": 0, "n_rows": 9, name: value}
    text = refusal(kind, CASE.net.partial_sums, CASE.x[:9], CASE.y[:9], **given)
    assert text.startswith(f"{name}: expected an integer >= 0, got ")


def test_x_y_and_weights_of_other_lengths():
    (x, y), given = WEIGHTED.rows(BLOCKS[1])
    place = {"first_row": BLOCKS[1].start, "n_rows": N, "totals": WEIGHTED.totals(BLOCKS)}
    n = len(x)
    partial_sums = WEIGHTED.net.partial_sums
    assert refusal(ValueError, partial_sums, x, y[:-1], **place, **given).startswith(
        f"y: expected {n} rows, as x has, "
    )
    text = refusal(ValueError, partial_sums, x, y, **place, sample_weight=given["sample_weight"][:-1])
    assert text.startswith(f"sample_weight: expected shape ({n},) or ({n}, 2) ")
    for call in ("vjp", "sobolev_value_and_grad"):
        case = case_of(call, 300)
        name = "cotangent" if call == "vjp" else "grad_x"
        case.operands[name] = case.operands[name][:-1]
        assert refusal(ValueError, case.part, slice(0, 300)).startswith(f"{name}: expected shape (300, 2")


@pytest.mark.parametrize("call", MEANS)
def test_means_of_no_rows(call):
    case = case_of(call, 0)
    text = refusal(ValueError, case.part, slice(0, 0))
    assert text == refusal(ValueError, case.plain)


# Weights --------------------------------------------------------------------------------------------------------------


def test_totals_that_are_missing_or_too_many():
    block = BLOCKS[0]
    text = refusal(ValueError, WEIGHTED.part, block)
    assert text == f"totals: expected weight_totals of all {N} rows, since x has {block.stop}, got None"
    assert refusal(TypeError, WEIGHTED.part, block, 3.5) == "totals: expected what weight_totals returns, got float 3.5"
    totals = WEIGHTED.totals(BLOCKS)
    text = refusal(TypeError, CASE.part, CASE.blocks(4)[0], totals)
    assert text.startswith("totals: expected None, since sample_weight is None, got WeightTotals ")
    vjp = case_of("vjp", N)
    text = refusal(TypeError, vjp.part, vjp.blocks(4)[0], totals)
    assert text.startswith("totals: expected None, since vjp has no weights, got WeightTotals ")
    text = refusal(TypeError, vjp.part, vjp.blocks(4)[0], sample_weight=np.ones(3))
    assert text.startswith("sample_weight: expected None, since vjp has no weights, got an array of shape (3,)")


def test_weights_that_are_not_those_of_the_totals():
    totals, block = WEIGHTED.totals(BLOCKS), BLOCKS[1]
    weight = WEIGHTED.weight[block]
    for other in (weight + 1, np.where(weight, 1e3 * weight, 0), 0 * weight):
        text = refusal(ValueError, WEIGHTED.part, block, totals, sample_weight=other)
        assert text.startswith(f"sample_weight: expected the weights of rows {block.start}:{block.stop} as in totals, ")
    text = refusal(ValueError, WEIGHTED.part, block, totals, sample_weight=np.stack([weight, weight], axis=1))
    assert text == "sample_weight: expected weights by sample, as in totals, got by sample and output"
    text = refusal(ValueError, WEIGHTED.part, block, weight_totals(weight, [block]))
    assert text.startswith(f"totals: expected the weights of rows 0:{N}, each once, got ")


@pytest.mark.parametrize("call", ["value_and_grad", "clipped_gradient"])
def test_weights_that_are_all_0(call):
    case = case_of(call, N, weight="sample")
    blocks = case.blocks(4)
    case.weight[...] = 0
    text = refusal(ValueError, case.part, blocks[0], case.totals(blocks))
    assert text == refusal(ValueError, case.plain)
    assert refusal(ValueError, case.part, slice(0, N)) == text


def test_weights_and_targets_that_every_call_refuses():
    case = case_of("value_and_grad", N, weight="sample", loss="hinge")
    case.y = np.sign(case.y)
    blocks = case.blocks(4)
    totals = case.totals(blocks)
    case.y[5] = 3
    case.weight[5] = 1.0
    text = refusal(ValueError, case.part, blocks[0], case.totals(blocks))
    assert text == "y: expected -1 or +1 for the loss 'hinge', got 3.0 in row 5, output 0"
    for bad in (-1.0, np.nan, np.inf):
        weight = case.weight[blocks[0]].copy()
        weight[7] = bad
        text = refusal(ValueError, case.part, blocks[0], totals, sample_weight=weight)
        assert text == f"sample_weight: expected finite weights >= 0, got {bad} in row 7"
    sobolev = case_of("sobolev_value_and_grad", 300)
    sobolev.weight = np.ones((300, 2))
    assert refusal(ValueError, sobolev.part, slice(0, 300)) == refusal(ValueError, sobolev.plain)


# Calls and operands ---------------------------------------------------------------------------------------------------


WITHOUT_PARTS = {
    "jet_vjp": "call net.jet_vjp on each block, and add the results",
    "pde_value_and_grad": "net.pde_objective takes blocks, and comm for ranks, itself",
    "pde_gauss_newton_vp": "net.pde_objective takes blocks, and comm for ranks, itself",
}


@pytest.mark.parametrize("call", sorted(set(backprop._core.CALLS) - set(CALLS) - set(WITHOUT_PARTS)))
def test_calls_by_sample(call):
    text = refusal(ValueError, CASE.net.partial_sums, CASE.x, CASE.y, call=call, first_row=0, n_rows=N)
    assert text.endswith(
        f"whose results are sums over samples, got {call!r}, which gives one row per sample: call net.{call} on each "
        "block, and put the rows one after another"
    )


def test_every_call_with_sums_has_parts():
    sums = {name for name, call in backprop._core.CALLS.items() if not call.is_by_sample}
    assert sums - set(WITHOUT_PARTS) == set(CALLS) == set(backprop.distributed.state.SUMS)


@pytest.mark.parametrize("call", WITHOUT_PARTS)
def test_calls_without_parts(call):
    text = refusal(ValueError, CASE.net.partial_sums, CASE.x, CASE.y, call=call, first_row=0, n_rows=N)
    assert text.endswith(f", got {call!r}: {WITHOUT_PARTS[call]}")


@pytest.mark.parametrize("call", CALLS)
def test_operands_of_other_calls_and_missing_ones(call):
    case = case_of(call, 300)
    (x, y), given = case.rows(slice(0, 300))
    given |= {"call": call, "first_row": 0, "n_rows": 300}
    takes = ", ".join(["x", *([] if y is None else ["y"]), *case.operands])
    for name in {"v", "cotangent", "max_norm", "grad_x", "weight"} - set(case.operands):
        text = refusal(TypeError, case.net.partial_sums, x, y, **given, **{name: 1.5})
        assert text == f"{name}: expected none, since {call} takes {takes}, got float 1.5"
    for name in case.operands:
        text = refusal(TypeError, case.net.partial_sums, x, y, **{**given, name: None})
        assert text == f"{name}: expected it, since {call} needs it, got none"
    if y is None:
        text = refusal(TypeError, case.net.partial_sums, x, x, **given)
        assert text.startswith(f"y: expected none, since {call} takes {takes}, got an array")
    else:
        text = refusal(TypeError, case.net.partial_sums, x, **given)
        assert text == f"y: expected it, since {call} needs it, got none"


@pytest.mark.parametrize(
    ("call", "change"),
    [
        ("hvp", {"v": [1.0, 2.0]}),
        ("clipped_gradient", {"max_norm": 0.0}),
        ("clipped_gradient", {"max_norm": "1"}),
        ("sobolev_value_and_grad", {"weight": -1.0}),
        ("sobolev_value_and_grad", {"weight": [1.0, 2.0]}),
        ("value_and_grad", {"params": [1.0]}),
        ("value_and_grad", {"n_threads": 0}),
    ],
)
def test_operands_are_refused_as_by_the_call(call, change):
    case = case_of(call, 300)
    options = {name: value for name, value in change.items() if name not in case.operands}
    case.operands |= {name: value for name, value in change.items() if name in case.operands}
    kind = TypeError if change.get("max_norm") == "1" else ValueError
    assert refusal(kind, case.part, slice(0, 300), **options) == refusal(kind, case.plain, **options)


def test_networks_that_lack_what_the_call_needs():
    own = Activation("own", np.tanh, lambda a: 1 / np.cosh(a) ** 2)
    for call in ("hvp", "hessian", "sobolev_value_and_grad"):
        case = case_of(call, 300, activations=own)
        assert refusal(ValueError, case.part, slice(0, 300)) == refusal(ValueError, case.plain)
    for call in ("normal_equations", "sobolev_value_and_grad"):
        case = case_of(call, 300, loss="huber")
        assert refusal(ValueError, case.part, slice(0, 300)) == refusal(ValueError, case.plain)


# Adding ---------------------------------------------------------------------------------------------------------------


def test_gaps_and_overlaps_are_named():
    parts = CASE.parts(CASE.units())
    words = f"result: expected parts with each of the rows 0:{N} once, got "
    assert refusal(ValueError, parts[0].result) == f"{words}none for rows {UNIT}:{N}"
    assert refusal(ValueError, (parts[1] + parts[0] + parts[3]).result) == f"{words}none for rows {2 * UNIT}:{3 * UNIT}"
    assert refusal(ValueError, sum(parts[1:]).result) == f"{words}none for rows 0:{UNIT}"
    assert refusal(ValueError, (sum(parts) + parts[3]).result) == f"{words}rows {3 * UNIT}:{4 * UNIT} twice"
    assert refusal(ValueError, (parts[3] + parts[3]).result) == f"{words}none for rows 0:{3 * UNIT}"
    assert refusal(ValueError, CASE.part(slice(0, 0)).result) == f"{words}none for rows 0:{N}"
    twice = sum(parts) + CASE.part(slice(0, 2 * UNIT))
    assert refusal(ValueError, twice.result).endswith(f"got rows 0:{2 * UNIT} twice")


@pytest.mark.parametrize("call", ["vjp", "value_and_grad", "loss"])
def test_every_gap_and_overlap_is_seen(call):
    """Random parts, some of them twice and some not at all."""
    rng = np.random.default_rng(5)
    case = case_of(call, N, sizes=(1, 1))
    parts = case.parts(case.units())
    expected = bits(case.plain())
    for _ in range(200):
        counts = rng.choice([0, 1, 2], len(parts), p=[0.05, 0.9, 0.05])
        places = rng.permutation(np.repeat(np.arange(len(parts)), counts))
        if len(places) == 0:
            continue
        total = sum(parts[k] for k in places)
        if (counts == 1).all():
            assert bits(total.result()) == expected
        else:
            first = parts[np.argmax(counts != 1)].rows[0]
            wrong = f"none for rows {first.start}:" if counts[counts != 1][0] == 0 else f"rows {first.start}:"
            assert f", got {wrong}" in refusal(ValueError, total.result)


def test_parts_of_other_sums_are_refused():
    first, second, *_ = CASE.blocks(4)
    part = CASE.part(first)

    def refused(other):
        texts = {refusal(ValueError, lambda: part + other), refusal(ValueError, lambda: other + part)}
        (start,) = {text.split(", ")[1] for text in texts}
        assert all(text.startswith("+: expected parts of one sum, got ") for text in texts)
        return start

    assert refused(CASE.part(second, params=2 * CASE.net.params)) == "got other params"
    theta = CASE.net.params.copy()
    theta[-1] = np.nextafter(theta[-1], 9)
    assert refused(CASE.part(second, params=theta)) == "got other params"
    other = case_of("loss", N)
    assert refused(other.part(second)) == "got another call"
    for change in ({"activations": "sigmoid"}, {"output": "tanh"}, {"loss": "huber"}, {"sizes": (3, 6, 2)}):
        assert refused(case_of("value_and_grad", N, **change).part(second)) == "got another network"
    assert refused(case_of("value_and_grad", N, dtype="float32").part(second)) == "got another network"
    longer = case_of("value_and_grad", N + 1)
    assert refused(longer.part(longer.blocks(4)[1])) == "got another n_rows"
    assert refused(WEIGHTED.part(BLOCKS[1], WEIGHTED.totals(BLOCKS))) == "got other totals of the weights"


def test_parts_with_other_weights_or_operands_are_refused():
    totals = WEIGHTED.totals(BLOCKS)
    first = WEIGHTED.part(BLOCKS[0], totals)
    weight = WEIGHTED.weight.copy()
    weight[BLOCKS[1].start] += 1e-9
    other = WEIGHTED.part(BLOCKS[1], weight_totals(weight, BLOCKS), sample_weight=weight[BLOCKS[1]])
    with pytest.raises(ValueError, match=r"^\+: expected parts of one sum, got other totals of the weights$"):
        first + other
    for call, name in (("hvp", "v"), ("clipped_gradient", "max_norm"), ("sobolev_value_and_grad", "weight")):
        case = case_of(call, N)
        blocks = case.blocks(4)
        parts = case.part(blocks[0]), case.part(blocks[1], **{name: 2 * case.operands[name]})
        with pytest.raises(
            ValueError, match=r"^\+: expected parts of one sum, got another v, max_norm, free or weight$"
        ):
            parts[0] + parts[1]


def test_only_parts_are_added():
    part = CASE.part(CASE.blocks(4)[0])
    for other in (1, 0.0, None, np.zeros(3), [part], "part"):
        with pytest.raises(TypeError):
            part + other
    for other in (1, 0.0, None, False, "part"):
        with pytest.raises(TypeError):
            other + part
    assert 0 + part is part
    with pytest.raises(
        TypeError, match=r"^PartialSums: expected parts from net\.partial_sums or PartialSums\.from_byt"
    ):
        PartialSums(1, 2)


def test_what_belongs_to_rows_is_known():
    """The tests cut these into blocks; a new one that is not cut would be found here."""
    case = case_of("sobolev_value_and_grad", 300, weight="sample")
    assert {name for name, value in (case.operands | case.options).items() if len(np.shape(value))} <= set(BY_ROW)


def test_a_network_needs_no_own_functions_to_finish():
    own = Activation("own", np.tanh, lambda a: 1 / np.cosh(a) ** 2)
    net = Network([3, 4, 2], activations=own, rng=0)
    part = net.partial_sums(CASE.x[:9], CASE.y[:9], first_row=0, n_rows=9)
    again = PartialSums.from_bytes(part.to_bytes())
    assert bits(again.result()) == bits(net.value_and_grad(CASE.x[:9], CASE.y[:9]))
