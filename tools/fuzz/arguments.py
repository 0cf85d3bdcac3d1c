"""Arguments for fuzz.py: one array in every form that a call must accept, and in forms that it must refuse.

Each function takes the numbers, float64 or integers, and returns an `Argument`: what the call gets, and the numbers
that it has to compute with, or None if it has to refuse. Some objects give a wrong shape, raise, or return something
else each time, or themselves. One thing is left out: an `__array_interface__` that claims memory beyond its own. NumPy
trusts it, and reading the array that NumPy makes of it reads foreign memory.
"""

import array
import sys
from dataclasses import dataclass

import numpy as np

GUARD = 16  # numbers before and after each out, which must stay as they are
FLOATS = ["f2", "f4", "f8", "g", ">f2", ">f4", ">f8"]
INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">i4", ">u8"]
LARGEST = 16  # largest number, except for the round's own: sums and products of larger ones would overflow
LIMITS = {np.dtype(kind): (np.iinfo(kind).min, np.iinfo(kind).max) for kind in INTEGERS}


@dataclass
class Argument:
    """What a call gets, what it has to compute with, and one word about what was done."""

    value: object
    numbers: np.ndarray | None
    kind: str


# Objects --------------------------------------------------------------------------------------------------------------


class Subclass(np.ndarray):
    """A plain subclass."""


class LyingShape(np.ndarray):
    """A subclass whose attributes belong to another array; the base class alone tells its memory."""

    shape = property(lambda self: (2, 3))
    ndim = property(lambda self: 2)
    strides = property(lambda self: (8, 8))
    dtype = property(lambda self: np.dtype("f8"))
    size = property(lambda self: 1 << 40)


class Array:
    """`__array__` returns the arrays in turn, and the last one for ever. If one is an exception, it is raised."""

    def __init__(self, *results):
        self.results, self.n_calls = results, 0

    def __array__(self, dtype=None, copy=None):
        result = self.results[min(self.n_calls, len(self.results) - 1)]
        self.n_calls += 1
        if isinstance(result, BaseException):
            raise result
        return self if result is Array else result


class Silent(Array):
    """The same, and its repr raises."""

    def __repr__(self):
        raise RuntimeError("no repr")


class Interface:
    """`__array_interface__` with some entries replaced."""

    def __init__(self, base, **changes):
        self.base = base
        self.changes = changes

    @property
    def __array_interface__(self):
        return {**self.base.__array_interface__, **self.changes}


class Struct:
    """`__array_struct__` of an array, or something else."""

    def __init__(self, base):
        self.base = base

    @property
    def __array_struct__(self):
        if isinstance(self.base, Exception):
            raise self.base
        return self.base.__array_struct__ if isinstance(self.base, np.ndarray) else self.base


class Buffer:
    """`__buffer__` (Python 3.12) of an array, or an exception."""

    def __init__(self, base):
        self.base = base

    def __buffer__(self, flags):
        if isinstance(self.base, Exception):
            raise self.base
        return memoryview(self.base)


class Sequence:
    """A sequence that claims a length; its items are the array's rows, or it raises."""

    def __init__(self, base, length):
        self.base, self.length = base, length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return self.base[i]


# Forms that must be accepted -----------------------------------------------------------------------------------------


def with_strides(random, plain):
    """The same numbers, of the same dtype, elsewhere in memory."""
    if not plain.ndim:
        return plain.copy(), "copy"
    form = random.randrange(7)
    if form == 0:
        view = np.full([2 * n + 1 for n in plain.shape], 77, plain.dtype)[(slice(1, None, 2),) * plain.ndim]
    elif form == 1:
        view = np.empty_like(plain)[(slice(None, None, -1),) * plain.ndim]
    elif form == 2:
        view = np.empty(plain.shape, plain.dtype, order="F")
    elif form == 3:
        shift = random.randrange(1, 8)
        view = np.empty(plain.nbytes + shift, np.uint8)[shift:].view(plain.dtype).reshape(plain.shape)
    elif form == 4:  # a field of records
        view = np.empty(plain.shape, [("before", "i1"), ("it", plain.dtype), ("after", "i2")])["it"]
    elif form == 5 and plain.shape and (plain == plain[:1]).all():
        return np.broadcast_to(plain[:1].copy(), plain.shape), "broadcast"
    else:
        view = np.empty_like(plain)
    view[...] = plain
    if form == 6:
        view.flags.writeable = False
    return view, ("strided", "reversed", "fortran", "misaligned", "field", "copy", "read-only")[form]


def as_class(random, plain):
    """The same numbers in another class, or behind a protocol."""
    forms = 9 if sys.version_info >= (3, 12) else 8
    form = random.randrange(forms)
    if form == 0:
        return plain.view(Subclass), "subclass"
    if form == 1 and plain.ndim == 2:
        return plain.view(np.matrix), "matrix"
    if form == 2:
        return plain.view(LyingShape), "subclass that lies"
    if form == 3:
        return Array(plain), "__array__"
    if form == 4:
        return Interface(plain), "__array_interface__"
    if form == 5:
        return Struct(plain), "__array_struct__"
    if form == 6:
        return memoryview(plain), "memoryview"
    if form == 7 and plain.ndim == 1 and plain.dtype.kind in "fi" and plain.dtype.char in "fdbhilq":
        return array.array(plain.dtype.char, plain.tolist()), "array.array"
    if form == 8:
        return Buffer(plain), "__buffer__"
    return tuple(plain.tolist()) if plain.ndim and random.random() < 0.5 else plain.tolist(), "list"


def cast(values, kind, dtype):
    """The numbers as that kind, and as a network of that dtype takes them; None if they do not fit."""
    if values.dtype.kind in "iu":
        low, high = LIMITS[np.dtype(kind)]
        if values.min(initial=0) < low or values.max(initial=0) > high:
            return None, None
        return values.astype(kind), values
    given = values.astype(kind)
    left = given.astype(dtype).astype(np.float64)
    return (
        (given, left) if np.abs(left).max(initial=0) <= LARGEST else (None, None)
    )  # negative ones wrap around in unsigned types


def taken(random, values, dtype, *, may_round=(), floats_only=False):
    """An argument that must be accepted: labels in any integer type, other numbers in any real type.

    If a type rounds the numbers, the rounded ones count. Types that cannot hold the numbers are not used.
    """
    labels = values.dtype.kind in "iu"
    draw = random.random()
    plain = values if labels else values.astype(dtype)
    numbers, kind = values, "plain"
    if draw < 0.45:
        name = random.choice(INTEGERS if labels else FLOATS if floats_only else FLOATS + INTEGERS + ["?"])
        given, left = cast(values, name, dtype)
        if left is not None and (name in may_round or np.array_equal(left, values, equal_nan=True)):
            plain, numbers, kind = given, left, name
    value = plain
    if 0.25 < draw < 0.75:
        value, form = with_strides(random, plain)
        kind += ", " + form
    elif draw > 0.75 and plain.dtype.kind != "V":
        value, form = as_class(random, plain)
        if isinstance(value, memoryview) and plain.dtype.char == "g":
            value, form = plain, "plain"
        if isinstance(value, list | tuple):  # a list of longdoubles or of nothing has another dtype
            value, form = (plain, "plain") if plain.dtype.char in "g?" else (value, form)
        kind += ", " + form
    return Argument(value, numbers, kind)


# Forms that must be refused -------------------------------------------------------------------------------------------

ERRORS = (
    ValueError("no"),
    TypeError("no"),
    RuntimeError("no"),
    KeyError("no"),
    OverflowError("no"),
    ZeroDivisionError(),
)


def wrong_shape(random, plain, allowed, any_rows):
    """Another shape than those allowed."""
    while True:
        form = random.randrange(9)
        axis = random.randrange(plain.ndim) if plain.ndim else 0
        if form == 0:
            value = plain[None]
        elif form == 1:
            value = plain[..., None]
        elif form == 2 and plain.ndim:
            value = plain.take(0, axis)
        elif form == 3 and plain.ndim:
            value = np.concatenate([plain, plain.take([0], axis)], axis)
        elif form == 4 and plain.ndim:
            value = plain.take(range(plain.shape[axis] - 1), axis)
        elif form == 5:
            value = plain.T
        elif form == 6:
            value = plain.ravel()
        elif form == 7:
            value = np.empty((0, *plain.shape[1:]), plain.dtype)
        else:
            value = np.zeros((1,) * random.choice([5, 32]), plain.dtype)
        fits = any_rows and value.ndim and any(value.shape[1:] == shape[1:] for shape in allowed)
        if value.shape not in allowed and not fits:
            return value, f"shape {value.shape}"


def wrong_kind(random, plain):
    """Something that is no array of real numbers."""
    shape = plain.shape
    form = random.randrange(15)
    if form == 0:
        return plain.astype(object), "object"
    if form == 1:
        return plain.astype(random.choice(["U8", "S8"])), "text"
    if form == 2:
        return plain + 0j if random.random() < 0.5 else plain.astype(np.clongdouble), "complex"
    if form == 3:
        return np.zeros(shape, [("a", "f8"), ("b", "i4")]), "structured"
    if form == 4:
        return np.zeros(shape, random.choice(["M8[s]", "m8[D]", "V8"])), "datetime or void"
    if form == 5:
        masked = np.ma.masked_array(plain, np.zeros(shape, bool))
        wrap = random.choice([lambda a: a, Array, lambda a: [*a[:-1], a[-1:]], lambda a: [Array(row) for row in a]])
        return wrap(masked) if masked.ndim and masked.shape[0] else masked, "masked"
    if form == 6:
        return random.choice(["x", b"x", {"x": 1}, {1.0, 2.0}, 1j, NotImplemented, type, print]), "no array"
    if form == 7:
        return (row for row in plain.ravel()), "generator"
    if form == 8:
        return [[1.0, 2.0], [3.0], []], "ragged"
    if form == 9:
        return random.choice([Array, Silent])(random.choice(ERRORS)), "raises"
    if form == 10:
        return Array(random.choice([Array, None, [1.0], 1.0, "x"])), "__array__ of no array"
    if form == 11:
        changes = [
            {"shape": (-1,) * max(1, len(shape))},
            {"typestr": "<f77"},
            {"typestr": 7},
            {"shape": "x"},
            {"shape": (1 << 62, 1 << 62)},
            {"data": "x"},
            {"strides": (8,) * 7},
            {"shape": (1 << 64, 2)},
        ]
        return Interface(np.asarray(plain, float), **random.choice(changes)), "__array_interface__ that lies"
    if form == 12:
        return Struct(random.choice([*ERRORS, 7, None, "x"])), "__array_struct__ of something else"
    if form == 13:
        return Sequence(random.choice([{}, 7, [plain, {}]]), random.choice([3, 1 << 40, -1])), "sequence that lies"
    return [plain.tolist(), 1 << 70, object()], "list of anything"


def huge(random, plain):
    """An array that claims more numbers than memory holds, or than size_t counts, and takes no memory."""
    row = plain[:1] if plain.ndim else plain.reshape(1)
    n = random.choice([1 << 42, 1 << 50, (1 << 60) - 1])
    n = min(n, ((1 << 63) - 1) // max(1, row.nbytes))  # NumPy itself allows no more
    return np.lib.stride_tricks.as_strided(row, (n, *row.shape[1:]), (0, *row.strides[1:])), f"{n} rows of stride 0"


def refused(random, values, dtype, allowed, *, any_rows=False):
    """An argument that must be refused. `allowed` are the shapes that would be accepted, some with other rows."""
    plain = values if values.dtype.kind in "iu" else values.astype(dtype)
    if random.random() < 0.1:
        value, kind = huge(random, plain)
    elif random.random() < 0.5:
        value, kind = wrong_shape(random, plain, allowed, any_rows)
        if random.random() < 0.3:
            value = Array(value)
    else:
        value, kind = wrong_kind(random, plain)
    return Argument(value, None, kind)


# out ------------------------------------------------------------------------------------------------------------------


class Out:
    """An out for a call, with guards around it, and its bytes before."""

    def __init__(self, random, shape, dtype, *, is_refused, inputs):
        self.kind, self.is_refused = "plain", is_refused
        n = int(np.prod(shape))
        self.whole = np.full(n + 2 * GUARD, np.nan, dtype)
        self.whole.view(f"u{dtype.itemsize}")[...] += 0x1234  # a NaN that no kernel makes
        self.value = self.whole[GUARD : GUARD + n].reshape(shape)
        if is_refused:
            self.value, self.kind = self._wrong(random, shape, dtype, inputs)
        self.before = self.whole.tobytes()

    def _wrong(self, random, shape, dtype, inputs):
        n, form = int(np.prod(shape)), random.randrange(13)
        value, whole = self.value, self.whole
        if form == 0:
            return np.zeros(shape, random.choice([">f8", ">f4", "f2", "g", "i8", "c16", "O", "?"])), "dtype"
        if form == 1:
            return np.zeros(shape, "f8" if dtype == np.float32 else "f4"), "the other float"
        if form == 2:
            return random.choice([value[None], value[..., None], whole, whole[:0], np.zeros((), dtype)]), "shape"
        if form == 3 and n > 1:
            return np.full(2 * n + 2, 7, dtype)[: 2 * n + 2 : 2][:n].reshape(shape, copy=False), "strides"
        if form == 4 and n > 1:
            return value[(slice(None, None, -1),) * len(shape)], "reversed"
        if form == 5:
            shifted = np.zeros(value.nbytes + 1, np.uint8)[1:].view(dtype).reshape(shape)
            return shifted, "misaligned"
        if form == 6:
            value.flags.writeable = False
            return value, "read-only"
        if form == 7:
            return random.choice([value.tolist(), memoryview(value), "x", 1.0, Array(value), value.dtype]), "no array"
        if form == 8:
            return np.ma.masked_array(value, np.ones(shape, bool)), "masked"
        if form == 9 and n < len(whole):  # memory of n - 1 numbers that claims to hold n
            claims = type("Claims", (np.ndarray,), {"shape": property(lambda self: shape)})
            return whole[GUARD : GUARD + n - 1].view(claims), "claims a shape"
        if form == 10 and len(shape) == 2 and shape[0] > 1 and shape[1] > 1:
            return np.zeros(shape, dtype, order="F"), "fortran"
        usable = [a for a in inputs if isinstance(a, np.ndarray) and type(a) is np.ndarray and a.dtype == dtype]
        usable = [a for a in usable if a.flags.c_contiguous and a.flags.aligned and a.flags.writeable and a.size >= n]
        if usable and n:
            other = random.choice(usable).reshape(-1)
            start = random.randrange(other.size - n + 1)
            return other[start : start + n].reshape(shape), "overlaps"
        return np.zeros((*shape, 1), dtype), "shape"

    def is_untouched(self):
        """Whether out and the guards are unchanged."""
        return self.whole.tobytes() == self.before

    def guards_are_untouched(self):
        """Whether the memory around out is unchanged."""
        n = GUARD * self.whole.itemsize
        after = self.whole.tobytes()
        return after[:n] == self.before[:n] and after[-n:] == self.before[-n:]
