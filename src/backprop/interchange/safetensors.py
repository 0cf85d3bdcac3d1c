"""Networks and ensembles as files of the safetensors format: what their `save` writes and `load` reads.

The tensors are named "0.weight", "0.bias", "2.weight", ... as ``torch.nn.Sequential(Linear, activation, Linear, ...)``
names them: W_i and b_i belong to module 2 (i - 1), whatever the activations are. Each hidden activation takes the place
of one module without parameters, "identity" that of ``torch.nn.Identity()``. Modules after the last Linear do not
change the names.

The metadata hold the architecture as JSON under the key "backprop", for instance

    {"format": 1, "sizes": [2, 8, 1], "activations": [["leaky_relu", 0.2]], "output": "identity",
     "loss": ["huber", 0.5], "dtype": "float64"}

with every parameter of an activation or a loss written out: a new default in a later release then changes no network.
Parameters by output are a list, as in ["quantile", [0.1, 0.9]]. Those of an ensemble also have "members", the number k
of its networks. Its tensors have the same names and one more dimension, (k, n_i, n_{i-1}) and (k, n_i), as
``torch.func.stack_module_state`` gives them.

Writing. `atomic_file.py` puts the new file in the place of the old one in one step.

Reading. A file may hold anything. (a) A small file never causes large objects: a header must match the grammar before
it is parsed, and tensors are read only if their sizes are those of the architecture. (b) The safetensors library checks
the offsets. What it accepts by mistake is refused here: tensors named twice (it takes the last), unknown fields, and
tensors that the architecture does not have. (c) The bytes are read once. If the file is cut meanwhile, that is an
error; with a file mapped into memory, it would end the process (SIGBUS).
"""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import array_likes, parameters, scalars
from backprop.api.architecture import Architecture
from backprop.custom import Activation as Custom
from backprop.interchange import atomic_file, file_kinds

if TYPE_CHECKING:
    from types import ModuleType

Array = npt.NDArray[Any]

FORMAT = 1
KEY = "backprop"
DTYPES = {"float32": "F32", "float64": "F64"}
# A layer takes some 170 bytes, so this is enough for 6,000 layers. It is matched in about 10 ms.
MAX_HEADER = 2**20


class Content(NamedTuple):
    """What a file holds."""

    architecture: Architecture
    n_members: int | None  # of an ensemble; None for a network
    layers: Iterator[tuple[Array, Array]]  # W_i and b_i; of an ensemble with one more dimension


def write(path: str | bytes | os.PathLike[Any], architecture: Architecture, theta: Array) -> None:
    """Write a network to a file, as `Network.save` documents it; or an ensemble, whose theta has a row per member."""
    import json

    library = _safetensors()
    tensors = {}
    for i, (W, b) in enumerate(_layers(theta, architecture.sizes)):
        tensors[f"{2 * i}.weight"], tensors[f"{2 * i}.bias"] = W, b
    n_members = None if theta.ndim == 1 else theta.shape[0]
    data = library.numpy.save(tensors, {KEY: json.dumps(_to_metadata(architecture, n_members), allow_nan=False)})
    n_header = int.from_bytes(data[:8], "little")
    if n_header > MAX_HEADER:
        n_layers = len(architecture.layers)
        raise ValueError(f"net: expected layers that {MAX_HEADER} bytes describe, got {n_layers} layers")
    try:
        _read_header(data[8 : 8 + n_header], len(data) - 8 - n_header)
    except ValueError as error:  # the old file stays: a file that `load` would refuse never replaces it
        raise ValueError(
            f"net: expected a network that `load` reads from a file, got Network({architecture.arguments}): {error}"
        ) from error
    atomic_file.replace(os.fsdecode(path), data)


def _layers(theta: Array, sizes: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """W_i and b_i of a network; of an ensemble with one more dimension."""
    if theta.ndim == 1:
        return parameters.unflatten(theta, sizes)
    members = [parameters.unflatten(row, sizes) for row in theta]
    return [(np.stack([W for W, _ in layer]), np.stack([b for _, b in layer])) for layer in zip(*members, strict=True)]


def read(path: str | bytes | os.PathLike[Any]) -> Content:
    """What a file holds, as `load` documents it."""
    library = _safetensors()
    name = os.fsdecode(path)
    if os.path.isdir(name):
        raise IsADirectoryError(
            errno.EISDIR, "path: expected a saved network, got a directory: name a file in it", name
        )
    with open(name, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"path: expected a saved network, got {name!r}, a device, a pipe or a socket")
        try:
            return _read(file, status.st_size, library)
        except (TypeError, ValueError) as error:
            file.seek(0)
            what = file_kinds.what_else(file.read(file_kinds.N_HEAD), name)
            reason = f", {what}" if what else f": {error}"
            raise ValueError(f"path: expected a saved network, got {name!r}{reason}") from error


def _safetensors() -> ModuleType:
    """The library. Like json, it is imported when it is used, so that `import backprop` stays quick."""
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "saving and loading need the safetensors library: pip install safetensors", name=error.name
        ) from error
    return safetensors


# The architecture ----------------------------------------------------------------------------------------------------


def _to_metadata(architecture: Architecture, n_members: int | None = None) -> dict[str, Any]:
    """The metadata of a network, or of an ensemble."""
    for i, (layer, _) in enumerate(architecture.layers, start=1):
        if isinstance(layer, Custom):
            raise ValueError(
                f"net: expected built-in activations, which have names, got {layer!r} in layer {i}; "
                "an activation of your own cannot be saved"
            )
    members = {} if n_members is None else {"members": n_members}
    return {"format": FORMAT, **members, **architecture.to_dict()}


def _from_metadata(values: dict[str, Any]) -> tuple[Architecture, int | None]:
    """The architecture and the number of members that the metadata describe; hostile values are refused."""
    rest = dict(values)
    version = rest.pop("format", None)
    if type(version) is not int or version < 1:
        raise ValueError(f"expected the number of its format, got {array_likes.describe(version)}")
    if version > FORMAT:
        raise ValueError(f"expected format {FORMAT}, got format {version}, which a newer release of backprop wrote")
    n_members = scalars.positive_integer(rest.pop("members"), "members") if "members" in rest else None
    architecture = Architecture.from_dict(rest)
    if architecture.to_dict() != rest:  # a default would be that of this release, not of the writer
        raise ValueError(f"expected the parameter of each activation and loss, got {array_likes.describe(rest)}")
    return architecture, n_members


def _tensor_shapes(sizes: tuple[int, ...], n_members: int | None) -> dict[str, list[int]]:
    """The tensors of a network or an ensemble, by name."""
    shapes, first = {}, [] if n_members is None else [n_members]
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        shapes[f"{2 * i}.weight"], shapes[f"{2 * i}.bias"] = [*first, n_out, n_in], [*first, n_out]
    return shapes


# Reading -------------------------------------------------------------------------------------------------------------


def _open_at_once(name: str, flags: int) -> int:
    """Open a file without waiting: a pipe without a writer would block."""
    for flag in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"):  # a system has either the first two or the last
        flags |= getattr(os, flag, 0)
    return os.open(name, flags)


def _read(file: BinaryIO, size: int, library: ModuleType) -> Content:
    """The same from an open file of that size; ValueError or TypeError if it holds no network."""
    prefix = file.read(8)
    n_header = int.from_bytes(prefix, "little")
    n_data = size - 8 - n_header
    if n_data < 0:
        raise ValueError(f"expected a header and tensors, got {size} bytes, which end inside of the header")
    if n_header > MAX_HEADER:
        raise ValueError(f"expected a header of at most {MAX_HEADER} bytes, got one of {n_header}")
    header = file.read(n_header)
    architecture, n_members = _read_header(header, n_data)
    rest = file.read(n_data)
    if len(header) + len(rest) < n_header + n_data:
        raise ValueError(f"expected {size} bytes, got {8 + len(header) + len(rest)}: it was cut while it was read")
    data = b"".join([prefix, header, rest])
    del rest  # no more than two copies of the parameters at any time
    try:
        tensors = library.numpy.load(data)
    except library.SafetensorError as error:
        raise ValueError(str(error)) from error
    del data
    names = [(f"{2 * i}.weight", f"{2 * i}.bias") for i in range(len(architecture.layers))]
    return Content(architecture, n_members, ((tensors.pop(weight), tensors.pop(bias)) for weight, bias in names))


def _read_header(header: bytes, n_data: int) -> tuple[Architecture, int | None]:
    """The architecture and the number of members that a header describes, if its tensors take n_data bytes."""
    grammar = _grammar()
    if grammar.header.fullmatch(header) is None:
        raise ValueError(f"expected the header of a safetensors file, got {header[:40]!r}")
    found = grammar.metadata.search(header)
    metadata = _parse(found[1]) if found else {}
    if KEY not in metadata:
        raise ValueError(
            f"expected the metadata {KEY!r} with the architecture, which net.save writes, got none: tensors alone do "
            "not say what the activations are; make the Network, and assign to net.weights and net.biases what "
            "safetensors.numpy.load_file(path) gives"
        )
    text = metadata[KEY].encode()
    n_tensors = header.count(b'"data_offsets"')
    # A size and an activation take at most 62 bytes per layer, a tau at most 26, and its output 8 of parameters.
    if len(text) > 512 + 64 * n_tensors + 4 * n_data:
        raise ValueError(f"expected the architecture of {n_tensors} tensors, got one of {len(text)} bytes")
    if grammar.architecture.fullmatch(text) is None:
        raise ValueError(f"expected the architecture as an object of JSON, got {text[:40]!r}")
    architecture, n_members = _from_metadata(_parse(text))

    n_layers = len(architecture.layers)
    n_bytes = architecture.dtype.itemsize * architecture.n_params * (n_members or 1)
    if n_tensors != 2 * n_layers:
        raise ValueError(f"expected {2 * n_layers} tensors, two for each layer, got {n_tensors}")
    if n_data != n_bytes:
        raise ValueError(f"expected {n_bytes} bytes of parameters, got {n_data}")
    tensors = _parse(header)  # with all other fields, which the library will refuse
    for name, shape in _tensor_shapes(architecture.sizes, n_members).items():
        if name not in tensors:
            raise ValueError(f"expected a tensor {name!r}, got none of that name")
        expected = {"dtype": DTYPES[architecture.dtype.name], "shape": shape}
        got = {key: tensors[name].get(key) for key in expected}
        if got != expected:
            raise ValueError(f"expected {expected} for the tensor {name!r}, got {got}")
    return architecture, n_members


def _parse(text: bytes) -> dict[str, Any]:
    """A JSON object that has matched the grammar; ValueError if a name occurs twice."""
    import json

    with _core.DefaultFloatMode():  # 0.1 is another number if the caller has set the mode to round upwards
        parsed: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=_object_of_pairs)
    return parsed


def _object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"expected each name once, got {name[:40]!r} twice")
        result[name] = value
    return result


_METADATA = '"__metadata__"'  # the only name in a header that is not a tensor


class _Grammar(NamedTuple):
    """Texts must match these before they are parsed: json would build whatever a hostile text describes.

    They allow only the nesting of the format, no number of a million digits, and no NaN. Possessive quantifiers
    keep a match linear in the text, and its memory constant. (Before Python 3.11.5 they let some texts through that
    are none of JSON, gh-106052; json refuses those.)
    """

    header: re.Pattern[bytes]
    metadata: re.Pattern[bytes]  # within a header; group 1 is the object
    architecture: re.Pattern[bytes]


@functools.cache
def _grammar() -> _Grammar:
    space = r"[ \t\n\r]*+"
    string = r'"[^"\\\x00-\x1f]*+(?:\\["\\/bfnrtu][^"\\\x00-\x1f]*+)*+"'
    natural = "(?:0|[1-9][0-9]{0,18}+)"
    number = r"-?+[0-9][0-9.eE+-]{0,31}+"  # json judges the rest

    def some(brackets: str, item: str, further: str) -> str:
        """Brackets round an item and so many further ones, after commas."""
        opening, closing = tuple(brackets)
        return rf"\{opening}{space}{item}{space}(?:,{space}{item}{space}){{{further}}}+\{closing}"

    def any_of(brackets: str, item: str, further: str) -> str:
        """The same, or brackets round nothing."""
        opening, closing = tuple(brackets)
        return rf"(?:\{opening}{space}\{closing}|{some(brackets, item, further)})"

    def member(name: str, value: str) -> str:
        return f"{name}{space}:{space}{value}"

    numbers = any_of("[]", natural, "0,7")
    fields = [member('"dtype"', string), member('"shape"', numbers), member('"data_offsets"', numbers)]
    tensor = some("{}", f"(?:{'|'.join(fields)})", "2")
    metadata = any_of("{}", member(string, string), "0,63")
    entry = f"(?:{member(_METADATA, metadata)}|{member(string, tensor)})"

    scalar = f"(?:{string}|{number})"
    item = f"(?:{scalar}|{some('[]', scalar, '0,')})"  # a name and its parameter, or parameters by output
    value = f"(?:{scalar}|{any_of('[]', item, '0,')})"
    return _Grammar(
        header=re.compile((any_of("{}", entry, "0,") + space).encode()),
        metadata=re.compile(member(_METADATA, f"({metadata})").encode()),
        architecture=re.compile(some("{}", member(string, value), "0,63").encode()),
    )
