"""Parts as bytes: they come back bit for bit, other programs can add them, and hostile bytes are refused."""

import json
import os
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from partial_cases import CALLS, added, bits, case_of
from places import ROOT

import backprop
from backprop import PartialSums
from backprop.distributed import part_bytes

HEAD = 40


def sample(call="value_and_grad", n=50_001, weight="sample", **options):
    case = case_of(call, n, weight=None if call == "vjp" else weight, **options)
    return case.part(case.blocks(5)[0], case.totals(case.blocks(5)))


def with_checksum(data):
    """The same bytes with a checksum that fits."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def with_header(data, change):
    """The same part with another header: change takes what JSON gives, and returns what is written."""
    n_header, *counts = struct.unpack("<4Q", data[8:HEAD])
    values = change(json.loads(data[HEAD : HEAD + n_header]))
    header = values if isinstance(values, bytes) else json.dumps(values).encode()
    return with_checksum(data[:8] + struct.pack("<4Q", len(header), *counts) + header + data[HEAD + n_header :])


def with_fact(name, value):
    return lambda facts: {**facts, name: value}


def refused(data, match="^data: expected the bytes of PartialSums: "):
    with pytest.raises(ValueError, match=match):
        PartialSums.from_bytes(data)


def error_of(function, *args):
    """The text of the ValueError that a function raises, or ""."""
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("n", [300, 50_001])
def test_they_come_back(call, n):
    for dtype in ("float32", "float64"):
        part = sample(call, n, dtype=dtype)
        data = part.to_bytes()
        again = PartialSums.from_bytes(data)
        assert again.to_bytes() == data
        assert (again.call, again.n_rows, again.rows, repr(again)) == (call, n, part.rows, repr(part))
        assert PartialSums.from_bytes(memoryview(bytearray(b"xyz" + data))[3:]).to_bytes() == data
    empty = case_of(call, n).part(slice(3, 3))
    assert PartialSums.from_bytes(empty.to_bytes()).rows == []


@pytest.mark.parametrize("call", CALLS)
def test_a_part_has_the_same_bytes_at_every_call(call):
    """Also the half of a symmetric matrix that no tile fills."""
    for n in (300, 50_001 if call != "normal_equations" else 100_001):
        case = case_of(call, n)
        block = case.units()[0]
        data = case.part(block, n_threads=1).to_bytes()
        for n_threads in (1, 2, 3, 8):
            np.full(10 * len(data), 7, np.int8)  # memory that is free then, with other content
            assert case.part(block, n_threads=n_threads).to_bytes() == data


def test_the_format_is_as_documented():
    """Every byte of a part, written down by hand."""
    n_rows = 50_000
    case = case_of("vjp", n_rows, dtype="float32", sizes=(2, 1))
    blocks = case.blocks(3)
    part = sum(case.part(block) for block in blocks[::2])
    data = part.to_bytes()
    n_header, n_intervals, n, n_bytes = struct.unpack("<4Q", data[8:HEAD])
    assert (data[:8], n_intervals, n) == (b"bp-sums1", 2, 4)
    header = json.loads(data[HEAD : HEAD + n_header])
    assert n_header % 8 == 0
    assert (header["call"], header["n_rows"], header["n_kept"]) == ("vjp", n_rows, n_rows)
    assert header["network"]["sizes"] == [2, 1]
    ends = HEAD + n_header + 32
    assert struct.unpack("<4q", data[HEAD + n_header : ends]) == (0, blocks[0].stop, blocks[2].start, blocks[2].stop)
    limbs = ends + 24 * n
    assert np.array_equal(np.frombuffer(data[ends:limbs], "<i8").reshape(3, n), part._state.limbs)
    assert n_bytes == 8 * (blocks[0].stop + blocks[2].stop - blocks[2].start)
    rows = np.frombuffer(data[limbs : limbs + n_bytes], "<f4").reshape(-1, 2)
    _, expected = case.plain()
    assert np.array_equal(rows, np.concatenate([expected[blocks[0]], expected[blocks[2]]]))
    assert np.array_equal(np.frombuffer(data[limbs + n_bytes : -4], np.int8), part._state.top)
    assert struct.unpack("<I", data[-4:])[0] == zlib.crc32(data[:-4])
    assert len(data) == limbs + n_bytes + n + 4


def merged(a, b):
    """The sum of two parts without this library: integers of any length, one number at a time."""
    n_header, _, n, n_rows = struct.unpack("<4Q", a[8:HEAD])
    assert n_rows == 0
    ends = HEAD + n_header
    assert a[HEAD:ends] == b[HEAD:ends]
    read = []
    for data in (a, b):
        (k,) = struct.unpack("<Q", data[16:24])
        limbs = struct.unpack(f"<{3 * n}q", data[ends + 16 * k : ends + 16 * k + 24 * n])
        read.append((data[ends : ends + 16 * k], limbs, struct.unpack(f"<{n}b", data[-4 - n : -4])))
    top = [max(tops) for tops in zip(read[0][2], read[1][2], strict=True)]
    total = [0] * (3 * n)
    for _, limbs, tops in read:
        for p in range(n):
            for k in range(3 - (top[p] - tops[p])):
                total[k * n + p] += limbs[(k + top[p] - tops[p]) * n + p]
    intervals = read[0][0] + read[1][0]
    counts = struct.pack("<4Q", n_header, len(intervals) // 16, n, 0)
    data = a[:8] + counts + a[HEAD:ends] + intervals + struct.pack(f"<{3 * n}q", *total) + struct.pack(f"<{n}b", *top)
    return data + struct.pack("<I", zlib.crc32(data))


@pytest.mark.parametrize("weight", [None, "entry"])
@pytest.mark.parametrize("n", [300, 50_001])
def test_another_program_adds_them(n, weight):
    rng = np.random.default_rng(4)
    case = case_of("value_and_grad", n, weight=weight, dtype="float32")
    case.y[::11] = 1e9
    data = [part.to_bytes() for part in case.parts(case.units())]
    while len(data) > 1:
        data.append(merged(data.pop(rng.integers(len(data))), data.pop(rng.integers(len(data)))))
    assert bits(PartialSums.from_bytes(data[0]).result()) == bits(case.plain())


# Hostile bytes --------------------------------------------------------------------------------------------------------


def test_bytes_that_were_cut_or_made_longer():
    for call in ("loss", "vjp"):
        data = sample(call, 300).to_bytes()
        for n in {*range(60), *range(len(data) - 40, len(data)), *range(0, len(data), 97)}:
            refused(data[:n])
        refused(data + b"\0")


def test_every_flipped_bit_is_seen():
    data = sample("loss").to_bytes()
    for k in range(8 * len(data)):
        changed = bytearray(data)
        changed[k // 8] ^= 1 << k % 8
        refused(changed)


def test_flipped_bytes_with_a_checksum_that_fits():
    """They are refused, or are a part of other numbers, which adds up and finishes."""
    rng = random.Random(3)
    for data in (sample().to_bytes(), sample(n=300).to_bytes(), sample("vjp", 300, sizes=(2, 1)).to_bytes()):
        n_read = 0
        for _ in range(1000):
            changed = bytearray(data)
            for _ in range(rng.choice([1, 2, 8])):
                changed[rng.randrange(len(data))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
            changed = with_checksum(bytes(changed))
            error = error_of(PartialSums.from_bytes, changed)
            if error:
                assert error.startswith("data: expected the bytes of PartialSums: ")
                continue
            n_read += 1
            part = PartialSums.from_bytes(changed)
            error = error_of(part.result)
            assert error == "" or error.startswith("result: ")
            assert error_of((part + part).result).startswith("result: ")
        assert n_read > 30


@pytest.mark.parametrize("place", [8, 16, 24, 32])
@pytest.mark.parametrize("count", [2**64 - 1, 2**63, 2**40, 2**32, 1 << 28])
def test_huge_counts_take_no_memory(place, count):
    data = bytearray(sample().to_bytes())
    data[place : place + 8] = struct.pack("<Q", count)
    tracemalloc.start()
    refused(with_checksum(bytes(data)), "expected .* bytes, as their counts say")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_huge_network_takes_no_memory():
    """The header may name any sizes: only the bytes that are there are read."""
    data = sample("loss").to_bytes()
    for sizes in ([10**9, 10**9, 2], [3] * 10_000, [2**62, 2], [10**30, 2]):
        network = {"activations": ["tanh"] * (len(sizes) - 2), "dtype": "float64", "loss": "squared_error"}
        changed = with_header(data, with_fact("network", network | {"output": "tanh", "sizes": sizes}))
        tracemalloc.start()
        error = error_of(PartialSums.from_bytes, changed)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert error == "" if len(sizes) == 10_000 else "fits into memory" in error
        assert peak < 1000 * len(sizes) + (1 << 20)
    refused(with_header(sample().to_bytes(), with_fact("network", network | {"output": "tanh", "sizes": [9, 9, 9]})))


HEADERS = {
    "no JSON": lambda facts: b"{" * 80,
    "deep JSON": lambda facts: b"[" * 200_000,
    "no text": lambda facts: b"\xff" * 80,
    "a number": lambda facts: 3,
    "nothing": lambda facts: {},
    "a long number": lambda facts: b'{"n_rows":' + b"9" * 100_000 + b"}",
    "no call": with_fact("call", "forward"),
    "a list as the call": with_fact("call", ["loss"]),
    "no network": with_fact("network", None),
    "a network of nothing": with_fact("network", {}),
    "a number as the params": with_fact("params", 3),
    "rows as text": with_fact("n_rows", "3"),
    "true rows": with_fact("n_kept", True),
    "a float": with_fact("n_rows", 50_001.0),
    "negative rows": with_fact("n_kept", -1),
    "more rows than there are": with_fact("n_kept", 50_002),
    "too many rows": with_fact("n_rows", 2**63),
    "other units": with_fact("unit_rows", 64),
    "weights of nothing": with_fact("weights", []),
    "weights of text": with_fact("weights", ["a", 1.0, [0, 0, 0, 0]]),
    "an infinite weight": with_fact("weights", [1, float("inf"), [0, 0, 0, 0]]),
    "a window out of range": with_fact("weights", [1, 1.0, [32, 0, 0, 0]]),
    "huge limbs": with_fact("weights", [1, 1.0, [0, 2**62, 0, 0]]),
    "limbs as floats": with_fact("weights", [1, 1.0, [0, 0.5, 0, 0]]),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_hold_something_else(name):
    refused(with_header(sample().to_bytes(), HEADERS[name]))


def test_numbers_that_no_sum_has():
    part = sample()
    n = len(part._state.top)
    for k, value in ((0, 32), (n - 1, -33), (1, 99), (2, 101)):
        top = part._state.top.copy()
        top[k] = value
        refused(part_bytes.pack(part._facts, part._intervals, part._state._replace(top=top), []), "tops and limbs")
    for value in (2**62, -(2**62), 2**63 - 1, -(2**63)):
        limbs = part._state.limbs.copy()
        limbs[1, 3] = value
        refused(part_bytes.pack(part._facts, part._intervals, part._state._replace(limbs=limbs), []), "tops and limbs")
    only = sample(n=300)
    limbs, top = only._state.limbs.copy(), only._state.top.copy()
    limbs[2, 3], top[2] = 1, 0
    for state in (only._state._replace(limbs=limbs), only._state._replace(top=top)):
        refused(part_bytes.pack(only._facts, only._intervals, state, []), "tops and limbs")
    for interval in ((-1, 3), (3, 3), (5, 3), (0, 301), (0, 2**63 - 1)):
        refused(part_bytes.pack(only._facts, [interval], only._state, []), "expected intervals of 300 rows")


def test_counts_of_rows_that_do_not_fit():
    """More rows with a weight than rows; and other numbers of results by sample than rows."""
    weighted = case_of("value_and_grad", 300, weight="sample")
    refused(with_header(weighted.part(slice(0, 300)).to_bytes(), with_fact("n_kept", 301)), "numbers of rows")
    part = case_of("vjp", 300).part(slice(0, 300))
    for n_rows in (299, 301):
        rows = [np.zeros((n_rows, 3))]
        refused(part_bytes.pack(part._facts, part._intervals, part._state, rows), "300 rows of results by sample")


def test_other_things_than_bytes():
    for value in ("text", 3, None, [1, 2], np.zeros(3)):
        with pytest.raises(TypeError, match=r"^data: expected bytes, got "):
            PartialSums.from_bytes(value)
    refused(b"")
    refused(b"bp-sums2" + sample().to_bytes()[8:], "a newer release of backprop wrote them")


def test_intervals_of_another_program_may_be_in_any_order():
    case = case_of("vjp", 50_001)
    parts = case.parts(case.units())
    rows = [part._rows[0] for part in parts][::-1]
    intervals = [part._intervals[0] for part in parts][::-1]
    total = sum(parts)
    data = part_bytes.pack(total._facts, intervals, total._state, rows)
    again = PartialSums.from_bytes(data)
    assert again.rows == total.rows
    assert bits(again.result()) == bits(case.plain())
    assert again.to_bytes() == total.to_bytes()


PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from partial_cases import case_of
case = case_of("value_and_grad", 50_001, weight="sample")
blocks = case.blocks(4)
sys.stdout.buffer.write(case.part(blocks[int(sys.argv[2])], case.totals(blocks)).to_bytes())
"""


def part_of_a_process(simd, k):
    """A part that a process with another instruction set has computed."""
    support = str(ROOT / "tests" / "support")
    environment = {**os.environ, "BACKPROP_SIMD": simd}
    done = subprocess.run([sys.executable, "-c", PROCESS, support, str(k)], stdout=subprocess.PIPE, check=True,
                          env=environment)  # fmt: skip
    return PartialSums.from_bytes(done.stdout)


def test_parts_of_other_instruction_sets():
    """Those with FMA have the same bits, and parts of v2 do not mix with them."""
    known = backprop._core.supported_simd()
    with_fma = [simd for simd in known if simd != "v2"]
    case = case_of("value_and_grad", 50_001, weight="sample")
    parts = [part_of_a_process(with_fma[k % len(with_fma)], k) for k in range(4)]
    if backprop._core.simd != "v2":
        assert bits(sum(parts).result()) == bits(case.plain())
    if "v2" in known:
        other = part_of_a_process("v2", 1)
        with pytest.raises(ValueError, match=r"^\+: expected parts of one sum, got a CPU with, and one without FMA"):
            parts[0] + other


def test_many_parts_that_were_sent():
    rng = np.random.default_rng(6)
    case = case_of("vjp", 50_001)
    assert bits(added(rng, case.parts(case.units())).result()) == bits(case.plain())
