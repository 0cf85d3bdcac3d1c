"""Parts of a sum as bytes, which programs in other languages can add; docs/reference/PartialSums.rst has an example.

All numbers are little-endian.

    8 bytes            b"bp-sums1": the number is that of the format
    4 x uint64         H, the bytes of the header; K, the number of intervals; N, the number of sums; R, bytes of rows
    H bytes            the header, in JSON, filled up with spaces: equal in all parts that can be added
    2 K x int64        the intervals of rows in these sums: first row, and the row after the last one
    3 N x int64        the limbs: N low ones, N middle ones, N high ones
    R bytes            results by sample, for the rows of the intervals, one interval after another
    N x int8           the tops
    uint32             CRC-32 of all that is before it

Reading. Bytes may hold anything. The four counts must fit to the length, and the checksum to the bytes, before anything
is parsed; so no object becomes much larger than the bytes are.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api.architecture import Architecture
from backprop.custom import Activation as Custom
from backprop.distributed import state

Array = npt.NDArray[Any]
Interval = tuple[int, int]

MAGIC = b"bp-sums1"
_COUNTS = struct.Struct("<4Q")
_HEAD = len(MAGIC) + _COUNTS.size
_CHECKSUM = struct.Struct("<I")
_LONGEST_HEADER = 2**24  # enough for 500,000 layers; JSON takes up to 20 times its bytes in memory
_LARGEST = 2**62  # of numbers of rows, and of limbs: the sum of two is an int64


class Weighting(NamedTuple):
    """The weights of all rows."""

    axes: int  # 1 for weights by sample, 2 for weights by sample and output
    largest: float
    bins: tuple[int, int, int, int]  # the top and the limbs of their sum


class Facts(NamedTuple):
    """What all parts of one sum have in common."""

    release: str  # of this library
    arithmetic: str  # "fma", or "no fma" on CPUs or builds without it, whose sums have other bits
    call: str
    network: dict[str, Any]  # `Architecture.to_dict`, with the names of activations of the user's own
    params: str  # a digest of the parameters
    operands: str  # a digest of v, max_norm, or weight
    n_rows: int  # of the whole data set
    n_kept: int  # with a weight other than 0
    unit_rows: int
    weights: Weighting | None


def network_facts(architecture: Architecture) -> dict[str, Any]:
    """The architecture in numbers and names."""
    facts = architecture.to_dict()
    facts["activations"] = [{"own": a.name} if isinstance(a, Custom) else a for a in facts["activations"]]
    output = facts["output"]
    return {**facts, "output": {"own": output.name} if isinstance(output, Custom) else output}


def in_words(network: dict[str, Any]) -> str:
    """The facts of a network as arguments, for errors."""
    return ", ".join(f"{name}={value!r}" for name, value in network.items())


def digest(array: Array) -> str:
    """A digest of the numbers in an array, as text."""
    import hashlib

    return hashlib.blake2b(_little(array), digest_size=16).hexdigest()


def plan_of(facts: Facts) -> tuple[_core.Plan, np.dtype[Any]]:
    """A plan that finishes the sums, and the dtype of the network; ValueError for what is no architecture.

    To finish a sum needs no activations: those of the user's own may be missing here.
    """
    network = dict(facts.network)
    if isinstance(network.get("activations"), list):
        network["activations"] = ["identity" if isinstance(a, dict) else a for a in network["activations"]]
    if isinstance(network.get("output"), dict):
        network["output"] = "identity"
    try:
        architecture = Architecture.from_dict(network)
    except TypeError as error:
        raise ValueError(str(error)) from error
    identity = (0, 0.0)
    return _core.Plan(
        architecture.sizes,
        [identity] * len(architecture.layers),
        architecture.compiled_loss,
        architecture.dtype.itemsize,
    ), architecture.dtype


# Writing -------------------------------------------------------------------------------------------------------------


def pack(facts: Facts, intervals: list[Interval], sums: state.State, rows: list[Array]) -> bytes:
    """The bytes of a part; rows holds the results by sample of each interval."""
    import json

    with _core.DefaultFloatMode():  # in other modes floats have other digits
        text = json.dumps(facts._asdict(), allow_nan=False, sort_keys=True, separators=(",", ":"))
    header = text.encode()
    header += b" " * (-len(header) % 8)
    by_row = [_little(array) for array in rows]
    counts = _COUNTS.pack(len(header), len(intervals), len(sums.top), sum(map(len, by_row)))
    ends = np.array(intervals, np.int64).reshape(-1, 2)
    data = b"".join([MAGIC, counts, header, _little(ends), _little(sums.limbs), *by_row, _little(sums.top)])
    return data + _CHECKSUM.pack(zlib.crc32(data))


def _little(array: Array) -> bytes:
    """The numbers of an array, little-endian."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


# Reading -------------------------------------------------------------------------------------------------------------


class Unpacked(NamedTuple):
    """What the bytes of a part hold."""

    facts: Facts
    intervals: list[Interval]  # in ascending order
    sums: state.State
    rows: list[Array]  # of each interval, if the call has results by sample


def unpack(value: bytes | bytearray | memoryview) -> Unpacked:
    """The inverse of `pack`; ValueError for bytes that it has not written."""
    data = memoryview(value).cast("B")
    if bytes(data[: len(MAGIC)]) != MAGIC:
        other = bytes(data[: len(MAGIC)])
        newer = "; a newer release of backprop wrote them" if other[:-1] == MAGIC[:-1] else ""
        raise ValueError(f"expected bytes that begin with {MAGIC!r}, got {other!r}{newer}")
    if len(data) < _HEAD + _CHECKSUM.size:
        raise ValueError(f"expected at least {_HEAD + _CHECKSUM.size} bytes, got {len(data)}: they were cut")
    n_header, n_intervals, n, n_rows = _COUNTS.unpack_from(data, len(MAGIC))
    lengths = [n_header, 16 * n_intervals, 8 * state.N_LIMBS * n, n_rows, n]
    expected = _HEAD + sum(lengths) + _CHECKSUM.size
    if expected != len(data):
        raise ValueError(f"expected {expected} bytes, as their counts say, got {len(data)}")
    if n_header > _LONGEST_HEADER:
        raise ValueError(f"expected a header of at most {_LONGEST_HEADER} bytes, got one of {n_header}")
    if zlib.crc32(data[: -_CHECKSUM.size]) != _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0]:
        raise ValueError("expected bytes that fit to their checksum, got others: some were changed")
    pieces, start = [], _HEAD
    for length in lengths:
        pieces.append(data[start : start + length])
        start += length
    header, ends, limbs, by_row, top = pieces
    facts = _facts(bytes(header))
    sums = state.State(np.frombuffer(top, np.int8).copy(), _native(limbs, "<i8").reshape(state.N_LIMBS, n))
    intervals = [(first, stop) for first, stop in _native(ends, "<i8").reshape(-1, 2).tolist()]
    rows = _checked_rows(facts, intervals, sums, by_row)
    order = sorted(range(n_intervals), key=intervals.__getitem__)  # another program may have added in any order
    return Unpacked(facts, [intervals[k] for k in order], sums, [rows[k] for k in order] if rows else [])


def _native(data: memoryview, dtype: str) -> Array:
    """An array of its own, in native byte order."""
    array = np.frombuffer(data, dtype)
    return array.astype(array.dtype.newbyteorder("="))


def _facts(header: bytes) -> Facts:
    """The facts in a header; ValueError if it is not one."""
    import json

    try:
        with _core.DefaultFloatMode():
            values = json.loads(header.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a header in JSON, got {header[:40]!r}") from error
    if type(values) is not dict or values.keys() != set(Facts._fields):
        raise ValueError(f"expected a header with {', '.join(Facts._fields)}, got {header[:40]!r}")
    weights = values["weights"]
    if weights is not None:
        values["weights"] = _weighting(weights)
    facts = Facts(**values)
    words = (facts.release, facts.arithmetic, facts.call, facts.params, facts.operands)
    counts = (facts.n_rows, facts.n_kept, facts.unit_rows)
    if not all(type(word) is str for word in words) or facts.call not in state.SUMS or type(facts.network) is not dict:
        raise ValueError(f"expected a header with the name of a call and a network, got {header[:40]!r}")
    if not all(type(count) is int and 0 <= count < _LARGEST for count in counts) or facts.n_kept > facts.n_rows:
        raise ValueError(f"expected numbers of rows, got {counts}")
    if facts.weights is None and facts.n_kept != facts.n_rows:
        raise ValueError(f"expected {facts.n_rows} rows without weights, got {facts.n_kept}")
    return facts


def _weighting(values: object) -> Weighting:
    """Weights from JSON."""
    match values:
        case [1 | 2 as axes, float() as largest, [int() as top, int() as low, int() as middle, int() as high]]:
            are_small = all(-_LARGEST < limb < _LARGEST for limb in (low, middle, high)) and -128 <= top <= 127
            if are_small and 0 <= largest < np.inf and _are_bins(state.State.of_one(top, low, middle, high)):
                return Weighting(axes, largest, (top, low, middle, high))
    raise ValueError("expected weights as axes, the largest and the bins of their sum, got others")


def _are_bins(sums: state.State) -> bool:
    """Whether sums may have such tops, and limbs of that size."""
    top, limbs = sums
    is_finite = (top >= state.SMALLEST_TOP) & (top <= state.LARGEST_TOP)
    is_known = is_finite | (top == _core.NO_TOP) | (top == state.NOT_FINITE)
    return bool(is_known.all()) and bool((limbs > -_LARGEST).all()) and bool((limbs < _LARGEST).all())


def _checked_rows(facts: Facts, intervals: list[Interval], sums: state.State, by_row: memoryview) -> list[Array]:
    """The results by sample of each interval; ValueError if the numbers do not fit to the header."""
    plan, dtype = plan_of(facts)
    call = _core.CALLS[facts.call]
    unit = state.unit_rows(plan, call, facts.n_kept)
    if unit != facts.unit_rows:
        raise ValueError(
            f"expected units of {unit} rows, got {facts.unit_rows}: another release of backprop wrote them"
        )
    n = state.n_sums(plan, call)
    if len(sums.top) != n:
        raise ValueError(f"expected {n} sums of {facts.call}, got {len(sums.top)}")
    if facts.n_kept <= unit:  # the results themselves
        fits = bool((sums.top == _core.NO_TOP).all()) and not sums.limbs[1:].any()
    else:
        fits = _are_bins(sums)
    if not fits:
        raise ValueError("expected the tops and limbs of sums, got others")
    if not all(0 <= first < stop <= facts.n_rows for first, stop in intervals):
        raise ValueError(f"expected intervals of {facts.n_rows} rows, got others")
    width = facts.network["sizes"][0] if facts.call == "vjp" else 0
    lengths = [stop - first for first, stop in intervals]
    if len(by_row) != sum(lengths) * width * dtype.itemsize:
        raise ValueError(f"expected {sum(lengths)} rows of results by sample, got {len(by_row)} bytes")
    if not width:
        return []
    rows = _native(by_row, dtype.newbyteorder("<").str).reshape(-1, width)
    return np.split(rows, np.cumsum(lengths)[:-1]) if lengths else []
