"""Networks on disk: loading gives the saved bits, torch takes the tensors, and no fault leaves half a file."""

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from call_peers import torch_activation
from places import ROOT
from problems import ACTIVATION_NAMES, LOSS_NAMES, PARAMETERS, same_bits
from required_peers import require_peer
from suites import shortened
from systems import needs_fifo, needs_limits, needs_posix_files, needs_proc

import backprop
from backprop import Network
from backprop.api import architecture
from backprop.interchange import atomic_file
from backprop.interchange import safetensors as saving

safetensors_numpy = require_peer("safetensors.numpy")  # the extra `save`, which some Pythons lack
DTYPES = ["float64", "float32"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@contextmanager
def at_once():
    """A test that hangs fails instead."""

    def fail(*_):
        raise AssertionError("still waiting after 10 s")

    old = signal.signal(signal.SIGALRM, fail)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def test_where_directories_have_no_descriptors_the_file_is_replaced_all_the_same(path, monkeypatch):
    """As on Windows."""
    monkeypatch.setattr(os, "supports_dir_fd", set())
    monkeypatch.delattr(os, "fchmod", raising=False)
    first, second = Network([2, 3, 1], rng=0), Network([2, 3, 1], rng=1)
    first.save(path)
    second.save(path)
    assert same_bits(backprop.load(path).params, second.params)
    assert [file.name for file in path.parent.iterdir()] == [path.name]

    def refuse(*arguments, **keywords):
        raise PermissionError(13, "in use")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match=path.name):
        first.save(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert same_bits(backprop.load(path).params, second.params)


def n_open_files():
    """Open files of this process; 0 if the system does not tell."""
    return len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0


def make(sizes=(3, 4, 2), dtype="float64", **options):
    net = Network(sizes, dtype=dtype, rng=1, **options)
    for b in net.biases:
        b[...] = np.random.default_rng(2).normal(size=b.shape)
    return net


def assert_same(loaded, net):
    assert repr(loaded) == repr(net)
    assert loaded._architecture == net._architecture
    assert same_bits(loaded.params, net.params)


def assert_round_trip(net, path):
    net.save(path)
    loaded = backprop.load(path)
    assert_same(loaded, net)
    x = np.random.default_rng(3).normal(size=(5, net.sizes[0]))
    assert same_bits(loaded.forward(x), net.forward(x))


# What is saved is loaded ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_every_activation(path, name, dtype):
    for spec in [name, (name, PARAMETERS[name])] if name in PARAMETERS else [name]:
        assert_round_trip(make([3, 4, 5, 2], dtype, activations=[spec, "tanh"], output=spec), path)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_every_loss(path, name, dtype):
    for spec in [name, (name, PARAMETERS[name])] if name in PARAMETERS else [name]:
        assert_round_trip(make(dtype=dtype, loss=spec), path)
    link = backprop.losses.LOSSES[name].link
    if link is not None:
        assert_round_trip(make(dtype=dtype, loss=name, output=link), path)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [[1, 1], [3, 1], [1, 1, 1, 1], [2, 300, 7], [5] * 40])
def test_sizes(path, sizes, dtype):
    assert_round_trip(make(sizes, dtype), path)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_bits(path, dtype):
    net = make([7, 31, 3], dtype)
    unsigned = np.dtype(dtype).str.replace("f", "u")
    net.params.view(unsigned)[...] = np.random.default_rng(0).integers(0, 2**63, net.n_params).astype(unsigned)
    quiet, signalling = (0x7FC12345, 0xFF812345) if dtype == "float32" else (0x7FF8000012345678, 0xFFF0000012345678)
    net.params.view(unsigned)[:4] = [quiet, signalling, 1, 1 << (8 * net.dtype.itemsize - 1)]
    net.save(path)
    assert same_bits(backprop.load(path).params, net.params)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_at_the_ends_of_what_a_float_can_be(path, name):
    """Parameters with the longest texts."""
    ends = [-1.7976931348623157e308, 2.2250738585072014e-308, 5e-324, -0.0, 0.1 + 0.2, 1.0]
    for end in ends:
        where = {"loss": (name, end)} if name in LOSS_NAMES else {"activations": (name, end), "output": (name, end)}
        try:
            net = make([1] * 300, **where)
        except ValueError:  # beyond the parameter's domain
            continue
        assert_round_trip(net, path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_new_shapes_of_what_was_handed_out(path):
    net = make([3, 4, 2])
    net.weights[0].shape = (1, -1)
    net.biases[0].shape = (2, 2)
    net.params.shape = (1, -1)
    assert_round_trip(net, path)


def test_a_subclass_that_shows_something_else(path):
    """A file holds the network, not what a subclass reports about it."""

    class Other(Network):
        weights = biases = sizes = params = dtype = property(lambda self: None)

    net = Other([3, 4, 2], activations="tanh", rng=0)
    net.save(path)
    loaded = backprop.load(path)
    assert type(loaded) is Network
    x = np.eye(3)
    assert same_bits(loaded.forward(x), net.forward(x))


def test_what_load_would_refuse_does_not_replace_a_file(path, monkeypatch):
    """A mistake of this library: a new activation whose metadata the grammar does not know."""
    old = make()
    old.save(path)
    for wrong in ([["tanh"]], "tanh\u2028", {"tanh": 1}, ["tanh", 1.0, 2.0]):
        monkeypatch.setattr(architecture, "_written_out", lambda row, parameter, wrong=wrong: wrong)
        with pytest.raises(ValueError, match=r"^net: expected a network that `load` reads from a file, got Network\("):
            make().save(path)
    monkeypatch.undo()
    assert same_bits(backprop.load(path).params, old.params)
    assert os.listdir(path.parent) == [path.name]


def test_member_of_an_ensemble(path):
    assert_round_trip(backprop.Ensemble(make(), 3)[1], path)


def test_paths(path):
    net = make()
    for name in (path, str(path), os.fsencode(path)):
        net.save(name)
        assert_same(backprop.load(name), net)
    for call in (net.save, backprop.load):
        with pytest.raises(TypeError, match="int"):
            call(3)


def metadata_of(path):
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["backprop"])


def test_the_file_says_all_and_nothing_else(path):
    """Defaults of a later release must not change a saved network; equal networks give equal files."""
    net = make(activations="leaky_relu", loss="huber", output="elu")
    net.save(path)
    assert metadata_of(path) == {
        "format": 1,
        "sizes": [3, 4, 2],
        "activations": [["leaky_relu", 0.01]],
        "output": ["elu", 1.0],
        "loss": ["huber", 1.0],
        "dtype": "float64",
    }
    first = path.read_bytes()
    backprop.load(path).save(path)
    assert path.read_bytes() == first


TORCH_CASES = [
    {"sizes": [3, 2]},
    {"sizes": [3, 2], "output": "sigmoid"},
    {"sizes": [3, 5, 4, 2], "activations": ["tanh", "identity"], "output": "softplus"},
    {"sizes": [3, 5, 4, 2], "activations": [("leaky_relu", 0.2), "silu"], "loss": "cross_entropy"},
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", TORCH_CASES)
def test_torch_takes_the_tensors(path, options, dtype):
    torch = require_peer("torch")
    net = make(dtype=dtype, **options)
    net.save(path)

    class Function(torch.nn.Module):
        def __init__(self, spec):
            super().__init__()
            self.forward = torch_activation(torch, spec)

    modules = []
    for n_in, n_out, spec in zip(net.sizes[:-1], net.sizes[1:], [*net.activations, net.output], strict=True):
        modules += [torch.nn.Linear(n_in, n_out), torch.nn.Identity() if spec == "identity" else Function(spec)]
    sequential = torch.nn.Sequential(*modules).to(getattr(torch, dtype))
    tensors = safetensors_numpy.load_file(path)
    sequential.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})  # strict
    x = np.random.default_rng(3).normal(size=(5, 3)).astype(dtype)
    y_hat = sequential(torch.from_numpy(x)).detach()
    if options.get("loss") == "cross_entropy":
        y_hat = torch.softmax(y_hat, 1)
    np.testing.assert_allclose(net.forward(x), y_hat.numpy(), rtol=1e-12 if dtype == "float64" else 1e-5, atol=1e-7)


def test_an_activation_of_ones_own_is_refused(path):
    square = backprop.Activation("square", np.square, lambda a: 2 * a)
    for options, layer in (({"activations": ["tanh", square]}, 2), ({"output": square}, 3)):
        with pytest.raises(ValueError, match=rf"'square'.* in layer {layer}; .* cannot be saved"):
            make([3, 4, 5, 2], **options).save(path)
    assert not path.exists()


def test_too_many_layers_are_refused(path):
    with pytest.raises(ValueError, match="got 9999 layers"):
        make([1] * 10_000).save(path)
    assert not path.exists()


def test_without_the_library(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (make().save, backprop.load):
        with pytest.raises(ModuleNotFoundError, match="pip install safetensors"):
            call(path)


def test_without_the_library_no_test_is_left_out_where_all_must_be_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for required, outcome in (("1", pytest.fail.Exception), ("0", pytest.skip.Exception)):
        monkeypatch.setenv("BACKPROP_REQUIRE_PEERS", required)
        with pytest.raises(outcome, match=r"safetensors\.numpy"):
            require_peer("safetensors.numpy")


def test_the_library_is_imported_where_it_is_used():
    code = "import sys, backprop; assert not {'safetensors', 'json'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


# Where it is written -------------------------------------------------------------------------------------------------


def without_links(monkeypatch, number=errno.EPERM):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)


@pytest.fixture(params=["unnamed", "named", "no links"])
def way(request, monkeypatch):
    """Each way of making the new file: some file systems have no files without a name, or cannot name one later."""
    if request.param == "named":
        monkeypatch.setattr(atomic_file, "_open_unnamed", lambda directory: None)
    if request.param == "no links":
        without_links(monkeypatch)


@pytest.mark.parametrize("name", ["EPERM", "EACCES", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EXDEV", "ENOENT", "EINVAL"])
def test_where_links_are_refused_the_file_has_a_name_from_the_start(path, monkeypatch, name):
    without_links(monkeypatch, getattr(errno, name))
    n_open = n_open_files()
    for net in (make(), make(dtype="float32")):
        net.save(path)
        assert_same(backprop.load(path), net)
    assert os.listdir(path.parent) == [path.name]
    assert n_open_files() == n_open


@needs_posix_files
@pytest.mark.usefixtures("way")
def test_permissions(path):
    old_umask = os.umask(0o007)
    try:
        make().save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        path.chmod(0o604)
        make(dtype="float32").save(path)
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert backprop.load(path).dtype == "float32"
    assert os.listdir(path.parent) == [path.name]


@needs_posix_files
@pytest.mark.usefixtures("way")
def test_a_symbolic_link_is_followed(path):
    link, folder = path.parent / "link", path.parent / "folder"
    folder.mkdir()
    link.symlink_to(folder / "target")
    for net in (make(), make(dtype="float32")):  # the first makes the target
        net.save(link)
        assert link.is_symlink()
        assert_same(backprop.load(folder / "target"), net)
    assert os.listdir(folder) == ["target"]


@needs_fifo
def test_what_is_no_file_is_refused(path):
    net, fifo, loop = make(), path.parent / "fifo", path.parent / "loop"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    with at_once():
        for special in (fifo, Path("/dev/null"), Path("/dev/zero")):
            for call in (net.save, backprop.load):
                with pytest.raises(ValueError, match=rf"expected .*{special}.* a device, a pipe or a socket"):
                    call(special)
            assert not special.is_file()
        for call in (net.save, backprop.load):
            with pytest.raises(IsADirectoryError, match=str(path.parent)):
                call(path.parent)
            with pytest.raises(FileNotFoundError, match="missing"):
                call(path.parent / "missing" / "file")
            with pytest.raises(OSError, match="loop"):
                call(loop)
            with pytest.raises(ValueError, match=r"null (byte|character)"):
                call("a\0b")
    with pytest.raises(FileNotFoundError, match=str(path)):
        backprop.load(path)


@pytest.mark.parametrize("name", ["", "new/", "new/.", "..", "folder/", ".", "missing/", "file/"])
def test_the_name_of_a_directory_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(IsADirectoryError, match="expected the name of a file") as caught:
        make().save(name)
    assert caught.value.filename == name
    assert str(caught.value).endswith(f": {name!r}")
    assert sorted(os.listdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("name", ["missing/net", "missing/../net", "x" * 300, "folder"])
def test_an_error_names_the_file_and_nothing_else(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="Errno") as caught:
        make().save(name)
    assert caught.value.filename == name
    assert str(caught.value).endswith(f": {name!r}")
    assert os.listdir() == ["folder"]


@needs_posix_files
def test_what_must_not_be_written(path):
    net = make()
    net.save(path)
    path.chmod(0o400)
    if os.access(path, os.W_OK):
        pytest.skip("root may write everywhere")
    with pytest.raises(PermissionError, match=str(path)):  # a rename would not ask
        make(dtype="float32").save(path)
    path.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            net.save(path.parent / "other")
        path.chmod(0o600)
        with pytest.raises(PermissionError):
            make(dtype="float32").save(path)
    finally:
        path.parent.chmod(0o700)
    assert_same(backprop.load(path), net)


@pytest.mark.parametrize(("target", "error"), [("write", OSError), ("fsync", OSError), ("replace", KeyboardInterrupt)])
@pytest.mark.usefixtures("way")
def test_a_fault_leaves_the_old_file_alone(path, monkeypatch, target, error):
    net = make()
    net.save(path)
    n_open = n_open_files()

    def fail(*_, **__):
        raise error(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(saving.os, target, fail)
        with pytest.raises(error, match=re.escape(f": {str(path)!r}") + "$" if error is OSError else None):
            make(dtype="float32").save(path)
    assert os.listdir(path.parent) == [path.name]
    assert_same(backprop.load(path), net)
    assert n_open_files() == n_open


@needs_posix_files
@pytest.mark.usefixtures("way")
def test_the_disk_has_it_before_the_name_has_it(path, monkeypatch):
    order = []

    def recorded(name, function):
        def record(*arguments, **options):
            is_directory = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            order.append("fsync directory" if is_directory else name)
            return function(*arguments, **options)

        monkeypatch.setattr(saving.os, name, record)

    for name in ("write", "fsync", "replace"):
        recorded(name, getattr(os, name))
    make().save(path)
    assert order[-4:] == ["write", "fsync", "replace", "fsync directory"]
    assert order[:-4] in ([], ["write", "fsync"])  # the second if the file could not be named


SAVE_FOR_EVER = """
import sys
from backprop import Network
a, b = (Network([20, 50, n], rng=0) for n in (1, 2))
for net in (a, b):
    net.params[...] = net.sizes[-1]
print("ready", flush=True)
while True:
    a.save(sys.argv[1])
    b.save(sys.argv[1])
"""


@contextmanager
def savers(path, n):
    """A number of processes, each of which saves two networks in turn."""
    processes = [
        subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, path], stdout=subprocess.PIPE) for _ in range(n)
    ]
    try:
        for process in processes:
            assert process.stdout.readline().strip() == b"ready"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


def assert_one_of_two(path):
    net = backprop.load(path)
    assert net.sizes in ((20, 50, 1), (20, 50, 2))
    assert (net.params == net.sizes[-1]).all()


def wait_for(path):
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_kill_in_the_middle(path):
    rng = np.random.default_rng(0)
    for _ in range(10):
        with savers(path, 1):
            wait_for(path)
            time.sleep(rng.uniform(0, 0.05))
        assert_one_of_two(path)
    if hasattr(os, "O_TMPFILE"):
        # A file has no name until it is whole; one is left only if the process dies between two system calls.
        assert len(os.listdir(path.parent)) <= 3


@needs_posix_files
def test_two_processes_save_at_once(path):
    with savers(path, 2) as processes:
        wait_for(path)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            assert_one_of_two(path)
        assert [process.poll() for process in processes] == [None, None]


@needs_posix_files
def test_threads_save_at_once(path):
    """Each process saves its own network while another loads: the path always names one whole file."""
    nets = {size: make([20, 50, size]) for size in (1, 2, 3, 4)}
    for size, net in nets.items():
        net.params[...] = size
    nets[1].save(path)
    stop = threading.Event()

    def save(net):
        while not stop.is_set():
            net.save(path)

    n_loads, seen = 0, set()
    with ThreadPoolExecutor(len(nets)) as pool, at_once():
        saves = [pool.submit(save, net) for net in nets.values()]
        try:
            while n_loads < 200 or len(seen) < 2:
                loaded = backprop.load(path)
                assert_same(loaded, nets[loaded.sizes[-1]])
                n_loads, seen = n_loads + 1, seen | {loaded.sizes[-1]}
        finally:
            stop.set()
    for future in saves:
        future.result()
    assert_same(backprop.load(path), nets[backprop.load(path).sizes[-1]])
    assert os.listdir(path.parent) == [path.name]


FULL_DISK = """
import resource, sys
import numpy as np
import backprop
small, large = (backprop.Network([10, n, 1], rng=0) for n in (10, 5000))
small.save(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))  # Python ignores SIGXFSZ
try:
    large.save(sys.argv[1])
except OSError as error:
    assert error.filename == sys.argv[1], error
else:
    sys.exit("the large network was saved")
assert np.array_equal(backprop.load(sys.argv[1]).params, small.params)
"""


@needs_limits
def test_full_disk(path):
    subprocess.run([sys.executable, "-c", FULL_DISK, path], check=True)
    assert os.listdir(path.parent) == [path.name]


# Hostile files -------------------------------------------------------------------------------------------------------


def saved(path, **options):
    make(**options).save(path)
    data = path.read_bytes()
    n_header = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n_header]), data[8 + n_header :]


def assemble(header, tensors):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + tensors


def with_architecture(header, **changes):
    """The header with another architecture; a change to None takes the key out."""
    architecture = json.loads(header["__metadata__"]["backprop"]) | changes
    kept = {key: value for key, value in architecture.items() if value is not None}
    return header | {"__metadata__": {"backprop": json.dumps(kept)}}


def with_tensor(header, name, **changes):
    return header | {name: header[name] | changes}


def without(header, name):
    return {key: value for key, value in header.items() if key != name}


def as_text(header):
    return json.dumps(header, separators=(",", ":"))


# The network has sizes 3, 4, 2 in float64: 26 parameters, "0.bias" at bytes 0 to 32, "0.weight" from there to 128.
HOSTILE_HEADERS = {
    "a hole": (lambda h: with_tensor(h, "0.bias", data_offsets=[8, 40]), "offset"),
    "an overlap": (lambda h: with_tensor(h, "0.weight", data_offsets=[0, 96]), "offset"),
    "offsets out of order": (lambda h: with_tensor(h, "0.bias", data_offsets=[32, 0]), "offset"),
    "offsets beyond the end": (lambda h: with_tensor(h, "2.weight", data_offsets=[144, 2**63]), "offset|covered"),
    "three offsets": (lambda h: with_tensor(h, "0.bias", data_offsets=[0, 32, 32]), "JSON|length"),
    "a shape that overflows": (lambda h: with_tensor(h, "0.bias", shape=[2**62, 2**62]), r"'shape': \[4\]"),
    "a shape of 10^30": (lambda h: with_tensor(h, "0.bias", shape=[10**30]), "expected the header"),
    "a negative shape": (lambda h: with_tensor(h, "0.bias", shape=[-4]), "expected the header"),
    "a fraction as shape": (lambda h: with_tensor(h, "0.bias", shape=[4.0]), "expected the header"),
    "NaN as shape": (lambda h: with_tensor(h, "0.bias", shape=[float("nan")]), "expected the header"),
    "a shape transposed": (lambda h: with_tensor(h, "0.weight", shape=[3, 4]), r"'shape': \[4, 3\]"),
    "a shape of one dimension more": (lambda h: with_tensor(h, "0.bias", shape=[4, 1]), r"'shape': \[4\]"),
    "another dtype": (lambda h: with_tensor(h, "0.bias", dtype="I64"), "'F64'"),
    "an unknown dtype": (lambda h: with_tensor(h, "0.bias", dtype="F99"), "'F64'"),
    "a field too many": (lambda h: with_tensor(h, "0.bias", more=[[]]), "expected the header"),
    "a field too few": (lambda h: h | {"0.bias": without(h["0.bias"], "shape")}, "expected the header"),
    "a tensor missing": (lambda h: without(h, "0.bias"), "expected 4 tensors, two for each layer, got 3"),
    "a tensor too many": (
        lambda h: h | {"4.bias": {"dtype": "F64", "shape": [0], "data_offsets": [208, 208]}},
        "expected 4 tensors, two for each layer, got 5",
    ),
    "another name": (lambda h: without(h, "0.bias") | {"1.bias": h["0.bias"]}, "expected a tensor '0.bias'"),
    "a tensor twice": (lambda h: as_text(h)[:-1] + ',"0.bias":{"dtype":"F64","shape":[4],"data_offsets":[0,32]}}', "5"),
    "a tensor twice, one missing": (lambda h: as_text(h).replace('"2.bias"', '"0.bias"'), "'0.bias' twice"),
    "a field twice": (lambda h: as_text(h).replace('"shape":[4,3]', '"dtype":"F64"'), "'dtype' twice"),
    "metadata twice": (lambda h: '{"__metadata__":{"a":"b"},' + as_text(h)[1:], "metadata 'backprop'"),
    "metadata twice, ours first": (lambda h: as_text(h)[:-1] + ',"__metadata__":{"a":"b"}}', "'__metadata__' twice"),
    "metadata in escapes": (lambda h: as_text(h).replace("__meta", r"\u005f_meta"), "expected the header"),
    "metadata as a list": (lambda h: h | {"__metadata__": []}, "expected the header"),
    "metadata as null": (lambda h: h | {"__metadata__": None}, "expected the header"),
    "metadata as a number": (lambda h: h | {"__metadata__": {"backprop": 1}}, "expected the header"),
    "no metadata": (lambda h: without(h, "__metadata__"), "metadata 'backprop' with the architecture"),
    "metadata of torch": (
        lambda h: h | {"__metadata__": {"format": "pt"}},
        "metadata 'backprop' with the architecture",
    ),
    "a list": (lambda h: [h], "expected the header"),
    "an empty object": (lambda h: {}, "metadata 'backprop'"),
    "a depth bomb": (lambda h: '{"a":' * 100_000, "expected the header"),
    "a number of a million digits": (
        lambda h: as_text(h).replace("[4,3]", "[" + "9" * 1_000_000 + "]"),
        "expected the header",
    ),
    "no UTF-8": (
        lambda h: as_text(h).replace("0.bias", "0\N{LATIN SMALL LETTER E WITH ACUTE}").encode("latin1"),
        "utf-8",
    ),
    "a lone surrogate": (lambda h: h | {"__metadata__": {"backprop": "\ud800"}}, "surrogates"),
    "a byte order mark": (lambda h: "\ufeff" + as_text(h), "expected the header"),
    "space in front": (lambda h: " " + as_text(h), "expected the header"),
    "zeros behind": (lambda h: as_text(h) + "\0\0", "expected the header"),
    "the architecture a list": (lambda h: h | {"__metadata__": {"backprop": "[]"}}, "expected the architecture"),
    "the architecture nested": (
        lambda h: h | {"__metadata__": {"backprop": '{"sizes":' + "[" * 300}},
        "expected the architecture",
    ),
    "the architecture too long": (
        lambda h: h | {"__metadata__": {"backprop": '{"sizes": [' + "1," * 10_000 + "1]}"}},
        "architecture of 4 tensors, got one of 20014 bytes",
    ),
    "a future format": (lambda h: with_architecture(h, format=2), "format 2, which a newer release"),
    "no format": (lambda h: with_architecture(h, format=None), "number of its format, got NoneType"),
    "format 0": (lambda h: with_architecture(h, format=0), "number of its format, got int 0"),
    "format 1.0": (lambda h: with_architecture(h, format=1.0), "number of its format, got float"),
    "a key too many": (lambda h: with_architecture(h, more=1), "an architecture of .*'more'"),
    "a key too few": (lambda h: with_architecture(h, loss=None), "expected an architecture of"),
    "a key twice": (
        lambda h: h | {"__metadata__": {"backprop": h["__metadata__"]["backprop"][:-1] + ', "format": 1}'}},
        "'format' twice",
    ),
    "sizes as a string": (lambda h: with_architecture(h, sizes="342"), "sizes: expected a list"),
    "no sizes": (lambda h: with_architecture(h, sizes=[]), "sizes: expected at least two"),
    "size 0": (lambda h: with_architecture(h, sizes=[3, 0, 2]), r"sizes\[1\]"),
    "size 4.0": (lambda h: with_architecture(h, sizes=[3, 4.0, 2]), r"sizes\[1\]"),
    "other sizes": (lambda h: with_architecture(h, sizes=[2, 5, 2]), "expected 216 bytes of parameters, got 208"),
    "other sizes of as many parameters": (lambda h: with_architecture(h, sizes=[3, 2, 6]), r"'shape': \[2, 3\]"),
    "sizes beyond the file": (lambda h: with_architecture(h, sizes=[3, 2**40, 2]), "bytes of parameters, got 208"),
    "sizes beyond memory": (lambda h: with_architecture(h, sizes=[2**62, 2**62, 2]), "fits into memory"),
    "sizes of 30 digits": (lambda h: with_architecture(h, sizes=[10**30, 4, 2]), "fits into memory"),
    "activations as a string": (lambda h: with_architecture(h, activations="tanh"), "activations: expected a list"),
    "activations of another number": (
        lambda h: with_architecture(h, activations=["tanh"] * 2),
        "activations: expected 1",
    ),
    "an unknown activation": (lambda h: with_architecture(h, activations=["tahn"]), "did you mean 'tanh'"),
    "an activation's parameter a string": (lambda h: with_architecture(h, activations=[["elu", "1"]]), "a number"),
    "an activation without its parameter": (
        lambda h: with_architecture(h, activations=["elu"]),
        "the parameter of each",
    ),
    "a loss without its parameter": (lambda h: with_architecture(h, loss="huber"), "the parameter of each"),
    "an infinite parameter": (
        lambda h: h | {"__metadata__": {"backprop": h["__metadata__"]["backprop"].replace('"relu"', '["elu", 1e999]')}},
        "finite alpha",
    ),
    "NaN as a loss's parameter": (lambda h: with_architecture(h, loss=["huber", float("nan")]), "as an object of JSON"),
    "Infinity as an activation's parameter": (
        lambda h: with_architecture(h, activations=[["elu", float("inf")]]),
        "as an object of JSON",
    ),
    "-Infinity as an output's parameter": (
        lambda h: with_architecture(h, output=["leaky_relu", -float("inf")]),
        "as an object of JSON",
    ),
    "NaN as a size": (lambda h: with_architecture(h, sizes=[3, float("nan"), 2]), "as an object of JSON"),
    "NaN as the format": (lambda h: with_architecture(h, format=float("nan")), "as an object of JSON"),
    "an activation that is a number": (lambda h: with_architecture(h, activations=[1]), "expected a name"),
    "an unknown loss": (lambda h: with_architecture(h, loss="0/1"), "loss: expected one of"),
    "a loss's parameter out of bounds": (lambda h: with_architecture(h, loss=["huber", -1.0]), "loss: expected"),
    "an output that the loss forbids": (lambda h: with_architecture(h, output="softmax"), "output: expected"),
    "a dtype of NumPy's": (lambda h: with_architecture(h, dtype="f8"), "dtype: expected one of"),
    "a dtype that is a list": (lambda h: with_architecture(h, dtype=["float64"]), "dtype: expected one of"),
    "the other dtype": (lambda h: with_architecture(h, dtype="float32"), "expected 104 bytes of parameters, got 208"),
}


def refused(path, data, message):
    """Write the bytes: loading them must fail within a second, and within memory of their own size."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        start = time.perf_counter()
        with pytest.raises(ValueError, match=message) as caught:
            backprop.load(path)
        seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert repr(str(path)) in str(caught.value)
    assert seconds < 1
    assert peak < len(data) + 2**18  # the first unknown name makes the table of other libraries' names


def hostile_file(what, header, tensors):
    hostile = HOSTILE_HEADERS[what][0](header)
    return assemble(hostile.encode() if isinstance(hostile, str) else hostile, tensors)


@pytest.mark.parametrize("what", HOSTILE_HEADERS)
def test_hostile_header(path, what):
    header, tensors = saved(path)
    assert_same(backprop.load(path), make())  # the changed part is read
    refused(path, hostile_file(what, header, tensors), HOSTILE_HEADERS[what][1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "0 bytes"),
        (lambda data: data[:7], "7 bytes"),
        (lambda data: bytes(8), "expected the header"),
        (lambda data: (2**63).to_bytes(8, "little") + data[8:], "bytes, which end inside of the header"),
        (lambda data: b"\xff" * 8 + data[8:], "bytes, which end inside of the header"),
        (lambda data: data + b"\0", "expected 208 bytes of parameters, got 209"),
        (lambda data: data[:-1], "expected 208 bytes of parameters, got 207"),
        (lambda data: (2**20 + 1).to_bytes(8, "little") + bytes(2**21), "a header of at most 1048576 bytes"),
        (lambda data: np.random.default_rng(0).bytes(10_000), "end inside of the header"),
    ],
)
def test_hostile_file(path, change, message):
    saved(path)
    refused(path, change(path.read_bytes()), message)


@pytest.mark.parametrize("n_tensors", [10_000, 100_000])
def test_overlapping_tensors_by_the_thousand(path, n_tensors):
    header, tensors = saved(path)
    hostile = header | {str(i): header["0.bias"] for i in range(n_tensors)}
    refused(path, assemble(hostile, tensors), "expected 4 tensors" if n_tensors == 10_000 else "a header of at most")


@pytest.mark.parametrize("text", [b'{"a":[' + b"[]," * 300_000 + b"[]]}", b'{"a":{}' + b',"a":{}' * 100_000 + b"}"])
def test_what_is_no_header_is_not_built(path, text):
    refused(path, assemble(text, b""), "expected the header")


def test_a_file_of_other_writers(path):
    """White space, another order of names and more metadata are no reason to refuse a file."""
    header, tensors = saved(path)
    header["__metadata__"]["author"] = 'a "quoted" \N{SNOWMAN}'
    text = json.dumps(dict(reversed(header.items())), indent=2).encode() + b"   \n"
    path.write_bytes(assemble(text, tensors))
    assert_same(backprop.load(path), make())


def test_a_file_that_is_cut_while_it_is_read(path):
    make().save(path)
    size = path.stat().st_size
    with open(path, "r+b", buffering=0) as file:
        file.truncate(size - 8)
        with pytest.raises(ValueError, match=f"expected {size} bytes, got {size - 8}: it was cut"):
            saving._read(file, size, saving._safetensors())


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory(path, dtype):
    """Loading takes twice the file at most: no random initial weights are made, and the bytes are freed in time."""
    net = make([1000, 1000, 10], dtype)
    net.save(path)
    size = path.stat().st_size
    backprop.load(path)
    tracemalloc.start()
    try:
        loaded = backprop.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_same(loaded, net)
    assert peak < 2 * size + 2**16


UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
import backprop
folder, n = Path(sys.argv[1]), int(sys.argv[2])
files = sorted(folder.glob("*.hostile"))
backprop.load(folder / "whole")
try:  # imports what a refusal of an unknown name takes
    backprop.Network([1, 1], output="tahn")
except ValueError:
    pass
n_pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = n_pages * resource.getpagesize() + n
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
wrong = []
for file in files:
    try:
        backprop.load(file)
    except ValueError as error:
        if str(file) not in str(error):
            wrong.append((file.name, error))
    except MemoryError as error:
        wrong.append((file.name, error))
    else:
        wrong.append((file.name, "loaded"))
print(len(files))
sys.exit(repr(wrong) if wrong else 0)
"""


@needs_proc
def test_under_a_limit_of_memory(path):
    """Every hostile header, one after the other, in 8 MiB of address space: the largest file has 1 MB."""
    header, tensors = saved(path)
    path.rename(path.parent / "whole")
    for k, what in enumerate(HOSTILE_HEADERS):
        (path.parent / f"{k} {what.replace('/', ' ')}.hostile").write_bytes(hostile_file(what, header, tensors))
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT, path.parent, str(8 * 2**20)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(HOSTILE_HEADERS) > 70


@pytest.mark.parametrize(
    "options", shortened(["--short", "--changes=2000"], ["--short"], "every truncation and bit of eight files")
)
def test_truncations_flips_and_splices(options):
    """What tools/fuzz/saving.py finds."""
    script = ROOT / "tools" / "fuzz" / "saving.py"
    result = subprocess.run([sys.executable, script, options], capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.findall(r"(\d+) wrong", result.stdout) == ["0", "0", "0"]
