"""What ranks say of an operation in which all of them take part, and what is wrong if they do not say the same."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Facts = Mapping[str, str | int | float | None]

DIGEST_BYTES = 16


class Failure(NamedTuple):
    """An exception as the other ranks hear of it."""

    kind: str
    text: str
    is_refusal: bool  # of an argument: the others raise a ValueError too


class Statement(NamedTuple):
    """What one rank says: the facts that must be equal on all ranks, and its exception if it has one."""

    facts: Facts
    failure: Failure | None


def statement(facts: Facts, error: BaseException | None) -> Statement:
    """The statement of this rank."""
    if error is None:
        return Statement(facts, None)
    is_refusal = isinstance(error, TypeError | ValueError)
    return Statement(facts, Failure(type(error).__name__, str(error), is_refusal))


def digest(facts: Facts) -> bytes:
    """16 bytes that stand for all facts."""
    import hashlib  # here, since it adds 3 ms to the import of the package

    return hashlib.blake2b(repr(sorted(facts.items())).encode(), digest_size=DIGEST_BYTES).digest()


def checksum(array: npt.NDArray[Any] | None) -> int | None:
    """A fact that stands for a whole array in C order.

    It overlooks a difference if a CRC of 32 bits and a sum of 64 are equal by chance. It takes a quarter of blake2b's
    time, and need not withstand an attack.
    """
    if array is None:
        return None
    raw = array.data.cast("B")
    words = np.frombuffer(raw[: len(raw) // 8 * 8], np.uint64)
    return zlib.crc32(raw) << 64 | int(words.sum(dtype=np.uint64))


def ranks(numbers: Sequence[int]) -> str:
    """Ranks in words: "rank 1", "ranks 1, 2 and 5"."""
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > 8:
        return f"ranks {', '.join(map(str, numbers[:6]))} and {len(numbers) - 6:,} others"
    return f"ranks {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def what_is_wrong(statements: Sequence[Statement]) -> Exception:
    """The error that every rank raises; a rank that has an exception of its own raises that one instead."""
    failed = [(rank, said.failure) for rank, said in enumerate(statements) if said.failure is not None]
    if failed:
        by_failure: dict[Failure, list[int]] = {}
        for rank, failure in failed:
            by_failure.setdefault(failure, []).append(rank)
        texts = []
        for failure, numbers in by_failure.items():
            texts.append(f"{ranks(numbers)} raised {failure.kind}" + (f": {failure.text}" if failure.text else ""))
        text = "; ".join(texts)
        return ValueError(text) if all(failure.is_refusal for _, failure in failed) else RuntimeError(text)
    return RuntimeError(_differences(statements))


def _differences(statements: Sequence[Statement]) -> str:
    """Name the ranks that do not say what most ranks say, and the first fact in which they differ."""
    digests = [digest(said.facts) for said in statements]
    counts = Counter(digests)
    most = max(counts.values())
    common = digests[0] if counts[digests[0]] == most else next(key for key in digests if counts[key] == most)
    reference = digests.index(common)
    by_difference: dict[str, list[int]] = {}
    for rank, said in enumerate(statements):
        if digests[rank] != common:
            by_difference.setdefault(_difference(said.facts, statements[reference].facts), []).append(rank)
    others = "most ranks" if most > 1 else ranks([reference])
    texts = [
        f"{ranks(numbers)} {difference if len(numbers) == 1 else difference.replace('has ', 'have ', 1)}"
        for difference, numbers in by_difference.items()
    ]
    return f"all ranks must make the same calls with the same arguments: {'; '.join(texts)}, unlike {others}"


def _difference(said: Facts, expected: Facts) -> str:
    """What a rank does or has that is not expected, as a clause whose subject is the rank."""
    name = next(name for name in (*expected, *said) if said.get(name) != expected.get(name))
    if said.get("call") != expected.get("call"):  # then the other facts are of different calls
        return f"made the call {said.get('call')}, not {expected.get('call')}"
    if name.startswith("the values of "):  # of which there is only a checksum
        return f"has other {name.removeprefix('the ')}"
    return f"has {name} = {said.get(name)}, not {expected.get(name)}"
