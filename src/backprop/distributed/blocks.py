"""A data set in blocks of rows, which are read anew for each evaluation: it may be larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from backprop import _core, threads
from backprop.api import array_likes, shown, targets
from backprop.api.base import Base
from backprop.distributed import samples, state
from backprop.distributed.ahead import Reading, read_ahead
from backprop.distributed.fitted import Values
from backprop.distributed.samples import Block

Array = npt.NDArray[Any]
Blocks = Iterable[Any] | Callable[[], Iterable[Any]]

FORMS_OF_WEIGHTS = ("no weights", "weights by sample", "weights by sample and output")  # by their axes
FORMS_OF_Y = ("probabilities", "labels")  # by whether there are labels


# What a user may give -------------------------------------------------------------------------------------------------


def refuse_unless_blocks(given: object, fitted: Values) -> None:
    """Refuse what cannot be read again and again; and an array, to which a y belongs."""
    arrays = fitted.arrays
    if array_likes.is_one_array(given):
        raise TypeError(
            f"{arrays[3:]}: expected targets beside x, got none; {fitted.cure}, or "
            f"{fitted.cure_with.format('blocks')} with an iterable of ({arrays})"
        )
    if hasattr(type(given), "__next__"):
        raise TypeError(
            "blocks: expected an iterable that can be read again for each evaluation, got "
            f"{array_likes.describe(given)}, which can be read once; give the function that makes it, such as a "
            "generator function without arguments, or a list"
        )
    if not _is_iterable(given) and not callable(given):
        raise TypeError(
            f"blocks: expected an iterable of ({arrays}) or ({arrays}, sample_weight), or a function that makes one, "
            f"got {array_likes.describe(given)}"
        )


def _is_iterable(value: object) -> bool:
    return hasattr(type(value), "__iter__") or hasattr(type(value), "__getitem__")


def _opened(given: Blocks) -> Iterator[Any]:
    """An iterator over all blocks, from the first one on."""
    if callable(given) and not _is_iterable(given):
        given = given()
        if not _is_iterable(given):
            raise TypeError(
                f"blocks: expected a function that makes an iterable of blocks, got one that returns "
                f"{array_likes.describe(given)}"
            )
    return iter(given)  # type: ignore[arg-type]


@contextmanager
def _of_block(number: int) -> Iterator[None]:
    """Errors name the block."""
    try:
        yield
    except (TypeError, ValueError, MemoryError) as error:
        kind = next(kind for kind in (TypeError, ValueError, MemoryError) if isinstance(error, kind))
        raise kind(f"block {number}: {error}") from error


# Passes over the blocks -----------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What a pass has seen of the rows, which every pass must see."""

    n_samples: int = 0
    n_kept: int = 0  # rows with a weight other than 0
    weight_axes: int | None = None  # 0: no weights, 1: by sample, 2: by sample and output
    has_labels: bool | None = None
    largest: float = 0.0  # of the weights
    exact_sum: state.State = field(default_factory=lambda: state.State.zero(1))

    @property
    def bins(self) -> tuple[int, int, int, int]:
        """The top and the limbs of the exact sum of the weights."""
        return self.exact_sum.one

    def refuse_change(self, first: Seen, *, is_over: bool) -> None:
        """Refuse rows that are not those of the first pass."""
        end = "" if is_over else " or more"
        for n, n_first, what in (
            (self.n_samples, first.n_samples, ""),
            (self.n_kept, first.n_kept, " with a weight above 0"),
        ):
            if n > n_first or (is_over and n < n_first):
                raise RuntimeError(
                    f"blocks: expected {shown.count(n_first, 'row')}{what} at each pass, as at the first, got {n:,}"
                    f"{end}; blocks must not change, and a function must make a new iterator each time"
                )
        if is_over and (self.largest, self.bins) != (first.largest, first.bins):
            raise RuntimeError("blocks: expected the same weights at each pass, got others than at the first")


class Stream:
    """Rows of a data set, in blocks that are read anew at each pass.

    Parameters
    ----------
    net : Base
    given : iterable, or function that makes one
        Blocks of the arrays of fitted, as (x, y) or (x, y, sample_weight).
    fitted : Values, optional

    Attributes
    ----------
    seen : Seen
        What the first pass has seen, which runs when the stream is made. All its weights may be 0, and there may be no
        rows.
    scale, total : float
        Of the weights: those of these rows alone, until others are assigned.
    n_skipped : int
        The first rows with a weight that are left out.
    tail : Block or None
        Rows that come after the last block.

    Raises
    ------
    TypeError, ValueError
        If a block is refused.
    """

    def __init__(self, net: Base, given: Blocks, fitted: Values | None = None) -> None:
        self.net, self._given, self.fitted = net, given, fitted or Values()
        refuse_unless_blocks(given, self.fitted)
        self.scale, self.total, self.n_skipped = 1.0, 0.0, 0
        self.tail: Block | None = None
        with closing(read_ahead(self._look)) as seen:
            self.seen = next(seen)
        self.scale, self.total = _core.scale_and_total(self.seen.largest, *self.seen.bins)

    def settle(self) -> None:
        """Nothing: the rows are accepted anew at each pass."""

    def head(self, n_kept: int) -> Block:
        """A copy of the first rows with a weight, of which there must be so many, and one at least."""
        with closing(read_ahead(lambda reading: self._head(reading, n_kept))) as blocks:
            return next(blocks)

    def _head(self, reading: Reading, n_kept: int) -> samples.Blocks:
        return samples.first_rows(self._read(reading, Seen(), self.seen), n_kept, self.net.dtype)

    def units(self, unit: int) -> Generator[Block, None, None]:
        """All rows that are not skipped, in blocks of whole units of so many rows; the last unit may be shorter.

        Close the generator or exhaust it.
        """
        return read_ahead(lambda it: samples.in_units(self._rows(it), unit, self.net.dtype))

    def blocks(self) -> Generator[Block, None, None]:
        """The blocks that have rows with a weight, as they come. Close the generator or exhaust it."""
        return read_ahead(lambda reading: self._read(reading, Seen(), self.seen))

    def _rows(self, reading: Reading) -> samples.Blocks:
        found = self._read(reading, Seen(), self.seen)
        yield from samples.without_first_rows(found, self.n_skipped) if self.n_skipped else found
        if self.tail is not None:
            yield self.tail

    def _look(self, reading: Reading) -> Generator[Seen, None, None]:
        """What a pass sees, once it is over."""
        seen = Seen()
        for block in self._read(reading, seen, None):
            del block
        yield seen

    def _read(self, reading: Reading, seen: Seen, first: Seen | None) -> samples.Blocks:
        """The blocks with rows that count, accepted. They must be those that the first pass has seen, if it is over."""
        blocks = _opened(self._given)
        try:
            for number, given in enumerate(blocks):
                if not reading.is_wanted:
                    return
                with _of_block(number):
                    block = self._accepted(given, seen)
                del given
                if first is not None:
                    seen.refuse_change(first, is_over=False)
                if block.n_kept:
                    yield block
                del block
        finally:
            if isinstance(blocks, Generator):
                blocks.close()
        if first is not None:
            seen.refuse_change(first, is_over=True)

    def _accepted(self, given: Any, seen: Seen) -> Block:
        """The arrays of a block as the compiled calls take them; count them among those seen."""
        fitted = self.fitted
        arrays = fitted.arrays
        n_arrays = arrays.count(",") + 1
        if not isinstance(given, tuple | list) or len(given) not in (n_arrays, n_arrays + 1):
            cure = ""
            if array_likes.is_one_array(given):
                cure = f"; {fitted.cure_with.format(f'[({arrays})]')} has one block, {fitted.cure} none"
            raise TypeError(
                f"expected a tuple ({arrays}) or ({arrays}, sample_weight), got {array_likes.describe(given)}{cure}"
            )
        x, y, *rest = given
        extra = rest.pop(0) if fitted.has_extra else None
        architecture = self.net._architecture
        x_ = self.net._samples(x)
        n_samples = x_.shape[0]
        weight = targets.seen_weights(rest[0] if rest else None, architecture.loss, n_samples, architecture.sizes[-1])
        weights = None if weight is None else targets.Weights(weight.array, self.scale, self.total, weight.n_kept)
        y_ = fitted.targets(self.net, y, n_samples, weights)
        extra_ = fitted.extra(self.net, extra, n_samples, None if weight is None else weight.array)
        if n_samples:
            _refuse_another_form(seen, 0 if weight is None else weight.array.ndim, y_.ndim == 1)
            seen.n_samples += n_samples
            seen.n_kept += n_samples if weight is None else weight.n_kept
        if weight is not None:
            seen.largest = max(seen.largest, weight.largest)
            seen.exact_sum.add(state.State.of_one(*weight.bins))
        return Block.of(x_, y_, weights, extra_)


def _refuse_another_form(seen: Seen, weight_axes: int, has_labels: bool) -> None:
    """Refuse a block whose weights or targets have another form than those of the blocks before."""
    if seen.weight_axes is None:
        seen.weight_axes, seen.has_labels = weight_axes, has_labels
    if weight_axes != seen.weight_axes:
        expected, got = FORMS_OF_WEIGHTS[seen.weight_axes], FORMS_OF_WEIGHTS[weight_axes]
        raise ValueError(f"sample_weight: expected {expected}, as in the blocks before, got {got}")
    if has_labels != seen.has_labels:
        raise ValueError(
            f"y: expected {FORMS_OF_Y[not has_labels]}, as in the blocks before, got {FORMS_OF_Y[has_labels]}"
        )


# A source -------------------------------------------------------------------------------------------------------------


class Streamed:
    """The samples of many blocks, a `samples.Source`.

    Parameters
    ----------
    net : Base
    given : iterable, or function that makes one
    n_threads : int or None
    fitted : Values, optional

    Raises
    ------
    TypeError, ValueError
        If a block is refused.
    """

    epoch = 0

    def __init__(self, net: Base, given: Blocks, n_threads: int | None, fitted: Values | None = None) -> None:
        self.net, self._n_threads = net, n_threads
        self._stream = Stream(net, given, fitted)
        self.fitted = self._stream.fitted
        seen = self._stream.seen
        if not seen.n_samples:
            raise ValueError("blocks: expected at least one sample, got 0: the mean of no samples is not defined")
        if not seen.n_kept:
            raise ValueError(targets.ALL_0)
        self.n_samples, self.weight_axes = seen.n_samples, seen.weight_axes or 0

    @property
    def divisor(self) -> float:
        """As `samples.divisor` gives it."""
        return samples.divisor(self.net, self.n_samples, self.weight_axes, self._stream.scale, self._stream.total)

    def blocks(self) -> Generator[Block, None, None]:
        """The blocks that have rows with a weight, as they come. Close the generator or exhaust it."""
        return self._stream.blocks()

    def sums(self, call: _core.Call, params: Array, operand: Array | None = None) -> tuple[float, Array]:
        """As in `samples.Source`: one pass over the blocks."""
        net, n_kept = self.net, self._stream.seen.n_kept
        call = self.fitted.compiled(call)
        n_threads = threads.resolve(self._n_threads)
        sums = state.State.zero(state.n_sums(net._plan, call))
        unit = min(n_kept, state.unit_rows(net._plan, call, n_kept))
        with closing(self._stream.units(unit)) as blocks:
            for block in blocks:
                samples.add_block(net, call, params, block, n_kept, sums, n_threads, self.fitted, operand)
                del block
        total = self._stream.total if self.weight_axes else None
        return state.finish(net._plan, call, sums, n_kept, total, self.weight_axes == 2, net.dtype)
