"""Networks on disk: `Network.save` and `load`, as files of the safetensors format.

The tensors are named "0.weight", "0.bias", "2.weight", ... as ``torch.nn.Sequential(Linear, activation, Linear, ...)``
names them: W_i and b_i belong to module 2 (i - 1), whatever the activations are. A module without parameters stands
for each hidden activation, ``torch.nn.Identity()`` for "identity"; what follows the last Linear has no part in names.

The metadata hold the architecture as JSON under the key "backprop", for instance

    {"format": 1, "sizes": [2, 8, 1], "activations": [["leaky_relu", 0.2]], "output": "identity",
     "loss": ["huber", 0.5], "dtype": "float64"}

with every parameter of an activation or a loss written out, so that no default of a later release changes a network.

Writing. The file is made beside the old one, without a name where the system can (O_TMPFILE: a process that is killed
then leaves nothing), flushed to the disk, and put in the old one's place in one step, after which the directory is
flushed. So the path names the old file or the new one, whole, whatever happens.

Reading. A file may hold anything. (a) Nothing is built that its size does not back: a header is matched with the
grammar of one before it is parsed, and tensors are read where their bytes are those that the architecture asks for.
(b) The safetensors library judges the offsets. What it lets pass is refused here: tensors named twice (it takes the
last), fields that the format does not know, and all that the architecture does not ask for. (c) The bytes are read
once: a file that is cut meanwhile is an error, where one that is mapped into memory ends the process (SIGBUS).
"""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from backprop import _core
from backprop.api import parameters, validate
from backprop.custom import Activation as Custom
from backprop.interchange import file_kinds
from backprop.network import Network

if TYPE_CHECKING:
    from types import ModuleType

    from backprop.activations import Activation
    from backprop.losses import Loss

FORMAT = 1
KEY = "backprop"
DTYPES = {"float32": "F32", "float64": "F64"}
# A layer takes some 170 bytes of header, so this is enough for 6,000 layers. Matched in about 10 ms.
MAX_HEADER = 2**20


def save(net: Network, path: str | bytes | os.PathLike[Any]) -> None:
    """Write the network to a file, as `Network.save` documents it."""
    import json

    library = _safetensors()
    tensors = {}
    for i, (W, b) in enumerate(parameters.unflatten(net._theta(None), net._sizes)):
        tensors[f"{2 * i}.weight"], tensors[f"{2 * i}.bias"] = W, b
    data = library.numpy.save(tensors, {KEY: json.dumps(_architecture(net), allow_nan=False)})
    n_header = int.from_bytes(data[:8], "little")
    if n_header > MAX_HEADER:
        raise ValueError(f"net: expected layers that {MAX_HEADER} bytes describe, got {len(net._sizes) - 1} layers")
    try:
        _read_header(data[8 : 8 + n_header], len(data) - 8 - n_header)
    except ValueError as error:  # the old file stays: what `load` would refuse never takes its place
        raise ValueError(f"net: expected a network that `load` reads from a file, got {net!r}: {error}") from error
    _replace(os.fsdecode(path), data)


def load(path: str | bytes | os.PathLike[Any]) -> Network:
    """Read a network that `Network.save` wrote.

    Parameters
    ----------
    path : str, bytes or path-like

    Returns
    -------
    Network
        Of the architecture, dtype and parameters that were saved, to the bit.

    Raises
    ------
    ValueError
        Where the file is not a regular one, or holds no network that is whole; the message names the file, and for
        many other formats what it is and how its weights are taken over.
    OSError
        Where the file is missing, or cannot be read.
    ModuleNotFoundError
        Where the safetensors library is missing: ``pip install backprop-cpu[save]``.

    Notes
    -----
    Files from elsewhere are safe to load: nothing in them is executed, and no more memory is taken than twice their
    size and a few kilobytes for each layer. A safetensors file without this package's metadata holds tensors alone,
    which do not say what the activations are: make the `Network`, and assign its weights.
    """
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
    """The library, imported where it is used, as json is: `import backprop` takes no longer for them."""
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "saving and loading need the safetensors library: pip install backprop-cpu[save]", name=error.name
        ) from error
    return safetensors


# The architecture ----------------------------------------------------------------------------------------------------


def _architecture(net: Network) -> dict[str, Any]:
    """What the metadata say of a network."""
    for i, (layer, _) in enumerate(net._layers, start=1):
        if isinstance(layer, Custom):
            raise ValueError(
                f"net: expected built-in activations, which have names, got {layer!r} in layer {i}; "
                "an activation of one's own cannot be saved"
            )
    return {
        "format": FORMAT,
        "sizes": list(net._sizes),
        "activations": [_spec(*layer) for layer in net._layers[:-1]],
        "output": net._output_name if net._loss.acts_on_a else _spec(*net._layers[-1]),
        "loss": _spec(net._loss, net._loss_parameter),
        "dtype": net._dtype.name,
    }


def _spec(row: Activation | Loss, parameter: float) -> str | list[str | float]:
    return row.name if row.parameter_name is None else [row.name, parameter]


def _network(architecture: dict[str, Any]) -> Network:
    """A network of that architecture that has no parameters yet; hostile values are refused."""
    version = architecture.get("format")
    if type(version) is not int or version < 1:
        raise ValueError(f"expected the number of its format, got {validate.describe(version)}")
    if version > FORMAT:
        raise ValueError(f"expected format {FORMAT}, got format {version}, which a newer release of backprop wrote")
    expected = {"format", "sizes", "activations", "output", "loss", "dtype"}
    if architecture.keys() != expected:
        raise ValueError(
            f"expected an architecture of {sorted(expected)}, got {validate.describe(sorted(architecture))}"
        )
    for key in ("sizes", "activations"):
        if not isinstance(architecture[key], list):
            raise ValueError(f"{key}: expected a list, got {validate.describe(architecture[key])}")
    if architecture["dtype"] not in list(DTYPES):  # NumPy would take other spellings
        raise ValueError(f"dtype: expected one of {list(DTYPES)}, got {validate.describe(architecture['dtype'])}")
    net = Network.__new__(Network)
    net._specify(**{key: value for key, value in architecture.items() if key != "format"})
    if _architecture(net) != architecture:  # a default would be this release's, not the writer's
        raise ValueError(f"expected the parameter of each activation and loss, got {validate.describe(architecture)}")
    return net


def _tensor_shapes(sizes: tuple[int, ...]) -> dict[str, list[int]]:
    """The tensors of a network, by name."""
    shapes = {}
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        shapes[f"{2 * i}.weight"], shapes[f"{2 * i}.bias"] = [n_out, n_in], [n_out]
    return shapes


# Reading -------------------------------------------------------------------------------------------------------------


def _open_at_once(name: str, flags: int) -> int:
    """Open a file without waiting: a pipe that nobody writes to would block."""
    for flag in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"):  # a system has the first two or the last
        flags |= getattr(os, flag, 0)
    return os.open(name, flags)


def _read(file: BinaryIO, size: int, library: ModuleType) -> Network:
    """The network in an open file of that size; ValueError or TypeError where there is none."""
    prefix = file.read(8)
    n_header = int.from_bytes(prefix, "little")
    n_data = size - 8 - n_header
    if n_data < 0:
        raise ValueError(f"expected a header and tensors, got {size} bytes, which end inside of the header")
    if n_header > MAX_HEADER:
        raise ValueError(f"expected a header of at most {MAX_HEADER} bytes, got one of {n_header}")
    header = file.read(n_header)
    net = _read_header(header, n_data)
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
    net._allocate()
    for i, (W, b) in enumerate(parameters.unflatten(net._theta(None), net._sizes)):
        W[...] = tensors.pop(f"{2 * i}.weight")
        b[...] = tensors.pop(f"{2 * i}.bias")
    return net


def _read_header(header: bytes, n_data: int) -> Network:
    """The network that a header speaks of, without parameters, if n_data bytes are what its tensors take."""
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
    if len(text) > 512 + 64 * n_tensors:  # a size and an activation take at most 62 bytes, and are of two tensors
        raise ValueError(f"expected the architecture of {n_tensors} tensors, got one of {len(text)} bytes")
    if grammar.architecture.fullmatch(text) is None:
        raise ValueError(f"expected the architecture as an object of JSON, got {text[:40]!r}")
    net = _network(_parse(text))

    n_layers, n_bytes = len(net.sizes) - 1, net.dtype.itemsize * parameters.count(net.sizes)
    if n_tensors != 2 * n_layers:
        raise ValueError(f"expected {2 * n_layers} tensors, two for each layer, got {n_tensors}")
    if n_data != n_bytes:
        raise ValueError(f"expected {n_bytes} bytes of parameters, got {n_data}")
    tensors = _parse(header)  # with what else stands there, which the library will refuse
    for name, shape in _tensor_shapes(net.sizes).items():
        if name not in tensors:
            raise ValueError(f"expected a tensor {name!r}, got none of that name")
        expected = {"dtype": DTYPES[net.dtype.name], "shape": shape}
        got = {key: tensors[name].get(key) for key in expected}
        if got != expected:
            raise ValueError(f"expected {expected} for the tensor {name!r}, got {got}")
    return net


def _parse(text: bytes) -> dict[str, Any]:
    """An object of JSON whose grammar has been matched; ValueError where it names anything twice."""
    import json

    with _core.DefaultFloatMode():  # else 0.1 is another number where the caller rounds upwards
        parsed: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=_object_of_pairs)
    return parsed


def _object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"expected each name once, got {name[:40]!r} twice")
        result[name] = value
    return result


_METADATA = '"__metadata__"'  # the one name in a header that is no tensor's


class _Grammar(NamedTuple):
    """What is parsed must match these first, for json would build whatever a hostile text spells.

    There is no nesting in them but that of the format, no number of a million digits, no NaN. Possessive quantifiers
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
    item = f"(?:{scalar}|{some('[]', scalar, '1')})"  # a name and its parameter
    value = f"(?:{scalar}|{any_of('[]', item, '0,')})"
    return _Grammar(
        header=re.compile((any_of("{}", entry, "0,") + space).encode()),
        metadata=re.compile(member(_METADATA, f"({metadata})").encode()),
        architecture=re.compile(some("{}", member(string, value), "0,63").encode()),
    )


# Writing -------------------------------------------------------------------------------------------------------------


def _replace(named: str, data: bytes) -> None:
    """Put a new file in the place of the old one, in one step."""
    if os.path.basename(named) in ("", os.curdir, os.pardir):  # realpath would make a file's name of "new/"
        raise IsADirectoryError(errno.EISDIR, "path: expected the name of a file, got that of a directory", named)
    try:
        os.stat(os.path.dirname(named) or os.curdir)  # realpath would shorten "missing/../name"
        path = os.path.realpath(named)  # where a symbolic link points, as open would write
        old_mode = _mode_of_old(path)
        folder, name = os.path.split(path)
        temporary = f".{KEY}-{os.urandom(8).hex()}.tmp"  # no part of the name: that may be as long as names may be
        directory = None
        if os.open in os.supports_dir_fd:
            directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        else:  # Windows: whole paths, and directories cannot be flushed
            temporary, name = os.path.join(folder, temporary), path
        try:
            _write_new(directory, temporary, data, old_mode)
            os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            if directory is not None:
                _flush_directory(directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
        finally:
            if directory is not None:
                os.close(directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, named) from error  # what the caller named, not the temporary file


def _mode_of_old(path: str) -> int | None:
    """The permissions of the file that will be replaced, None where there is none."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise ValueError(f"path: expected a regular file or a new one, got {path!r}, a device, a pipe or a socket")
    if not os.access(path, os.W_OK):  # a rename would not ask
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return mode & 0o777


def _write_new(directory: int | None, temporary: str, data: bytes, mode: int | None) -> None:
    """Write a file of that name in the directory and flush it; it gets the name last, where the system can do that."""
    unnamed = None if directory is None else _open_unnamed(directory)
    if unnamed is not None:
        try:
            _fill(unnamed, data, mode)
            # Some file systems and sandboxes have no links. What has other causes fails again with a name.
            with suppress(OSError):  # a dir_fd makes Python follow the link to the open file
                source = f"/proc/self/fd/{unnamed}"
                os.link(source, temporary, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)
                return
        finally:
            os.close(unnamed)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    named = os.open(temporary, flags, 0o666, dir_fd=directory)  # less the umask
    try:
        _fill(named, data, mode)
    finally:
        os.close(named)


def _fill(file: int, data: bytes, mode: int | None) -> None:
    """Write an open file and flush it to the disk."""
    if mode is not None and hasattr(os, "fchmod"):
        os.fchmod(file, mode)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def _open_unnamed(directory: int) -> int | None:
    """A new file without a name, None where the file system has none or /proc, which names it later, is missing."""
    if not os.path.exists(f"/proc/self/fd/{directory}"):
        return None
    try:
        return os.open(".", os.O_WRONLY | os.O_TMPFILE, 0o666, dir_fd=directory)
    except OSError:  # EOPNOTSUPP, EISDIR, EINVAL; what has other causes fails again with a name
        return None


def _flush_directory(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems flush no directories
            raise
