"""Files of other formats given to `load`: the message names the format, and its line of code takes the weights over."""

import gzip
import io
import json
import pickle
import re
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from problems import same_bits
from required_peers import require_peer

import backprop
from backprop import Network
from backprop.interchange import file_kinds as _file_kinds

require_peer("safetensors.numpy")

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return file.getvalue()


def tarred():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("name"))
    return file.getvalue()


# The first bytes of files that PyTorch 2.13, onnx 1.22, h5py 3.16 and joblib 1.5 wrote.
FILES = {
    "PyTorch": (zipped("net/data.pkl", "net/byteorder", "net/data/0"), "net", "a PyTorch file", "torch.load"),
    "TorchScript": (zipped("net/data/0", "net/code/__torch__.py"), "net", "a PyTorch file", "torch.load"),
    "PyTorch, old": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "a.pkl", "a PyTorch file", "torch"),
    "npz": (zipped("arr_0.npy"), "net.pt", "a NumPy archive of arrays", "np.load"),
    "Keras 3": (zipped("metadata.json", "config.json", "model.weights.h5"), "net", "a Keras model", "keras.models"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "net.keras", "an HDF5 file", "h5py.File"),
    "zip": (zipped("net.safetensors"), "net.safetensors", "a zip archive", "unpack it"),
    "empty zip": (zipped(), "net.safetensors", "a zip archive", "unpack it"),
    "tar": (tarred(), "net.pth", "a tar archive", "unpack it"),
    "gzip": (gzip.compress(b"content"), "net.safetensors.gz", "a compressed file", "decompress it"),
    "ONNX": (b'\x08\x0e\x12\x07pytorch:3\n\x0c\n\x01x\x12\x01y"\x04Relu', "net", "an ONNX model", "onnx.load"),
    "ONNX without producer": (b'\x08\x0e:3\n\x0c\n\x01x\x12\x01y"\x04Relu', "net", "an ONNX model", "onnx.load"),
    "joblib, compressed": (b"x^k`\x99\xca\xc5\x00\x01\xb5", "net", "a pickle", "if you trust the file"),
    "pickle of protocol 0": (pickle.dumps({"W": 1.0}, 0), "net.txt", "a pickle", "if you trust the file"),
    "MATLAB": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(90), "net", "a MATLAB file", "scipy.io.loadmat"),
    "HTML": (b"\n<!DOCTYPE html>\n<html lang=en>", "net.safetensors", "an HTML page", "download the file itself"),
    "Git LFS": (LFS, "net.safetensors", "the pointer that Git LFS keeps", "git lfs pull"),
    "an error that was saved": (b"404: Not Found", "net.safetensors", "text that begins with '404: Not Found'", ""),
    "UTF-16": ("1.0,2.0".encode("utf-16"), "net.csv", "text that begins with", "np.loadtxt"),
    "text with a letter that is cut": (b"x" * 4095 + "\u00e9".encode(), "net", "text that begins with 'xxx", ""),
    "JSON": (b' {"model_type": "bert"}', "config.json", 'JSON that begins with \' {"model_type"', "json.load"),
    "empty": (b"", "net.pt", "an empty file", "copy it again"),
    "by its name, .pth": (b"\0\1\2", "net.PTH", "by its name a PyTorch file", "torch.load"),
    "by its name, .onnx": (b"\0\1\2", "net.onnx", "by its name an ONNX model", "onnx.load"),
}


def message_of(path, data):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(f"path: expected a saved network, got {str(path)!r}")) as caught:
        backprop.load(path)
    return str(caught.value)


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_format_is_called_what_it_is(tmp_path, kind):
    data, name, what, cure = FILES[kind]
    message = message_of(tmp_path / name, data)
    assert f", {what}" in message
    assert cure in message


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "net"])
def test_what_is_a_broken_network_is_called_so(tmp_path, name):
    path = tmp_path / name
    Network([2, 3, 1]).save(path)
    data = path.read_bytes()
    for n in range(9, len(data), 7):
        assert ", got " in message_of(path, data[:n])
        assert _file_kinds.what_else(data[:n], name) is None


def test_a_directory_is_called_one(tmp_path):
    with pytest.raises(IsADirectoryError, match="got a directory: name a file in it"):
        backprop.load(tmp_path)


def test_each_ending_stands_for_one_format():
    endings = " ".join(kind.endings for kind in _file_kinds._KINDS).split()
    assert len(set(endings)) == len(endings)
    assert all(ending.startswith(".") for ending in endings)


# The line that takes the weights over ---------------------------------------------------------------------------------


def assert_the_line_works(message, net, **names):
    """Run what the message says on a network of the same layers."""
    (line,) = re.findall(r"(net\.params = .*?)(?:,? if .*)?$", message)
    other = Network(net.sizes, rng=1)
    exec(line, {"np": np, "json": json, "net": other, **names})
    assert same_bits(other.params, net.params)


@pytest.fixture
def net():
    return Network([3, 4, 2], rng=0)


def bytes_of(save, *arguments):
    file = io.BytesIO()
    save(file, *arguments)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # a line closes no file
def test_arrays_of_numpy(tmp_path, net):
    path = tmp_path / "net"
    arrays = [t for pair in zip(net.weights, net.biases, strict=True) for t in pair]
    assert_the_line_works(message_of(path, bytes_of(np.savez, *arrays)), net, path=path)
    assert_the_line_works(message_of(path, bytes_of(np.savez_compressed, *arrays)), net, path=path)
    assert_the_line_works(message_of(path, bytes_of(np.save, net.params)), net, path=path)
    assert_the_line_works(message_of(path, bytes_of(np.savetxt, net.params[None], "%.18e", ",")), net, path=path)
    assert_the_line_works(message_of(path, json.dumps(net.params.tolist()).encode()), net, path=path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles(tmp_path, net, protocol):
    path = tmp_path / "net.pkl"
    assert "a pickled network: joblib.load(path) or" in message_of(path, pickle.dumps(net, protocol))
    ensemble = pickle.dumps(backprop.Ensemble(net, 2), protocol)
    assert "a pickled network: joblib.load(path) or" in message_of(path, ensemble)
    message = message_of(path, pickle.dumps({"W": net.weights[0]}, protocol))
    assert ", a pickle: m = joblib.load(path) or pickle.load(open(path, 'rb')), if you trust the file" in message
    model = SimpleNamespace(coefs_=[W.T for W in net.weights], intercepts_=list(net.biases))  # as scikit-learn's
    assert_the_line_works(message, net, m=model)


def test_files_of_pytorch(tmp_path):
    torch = require_peer("torch")
    path = tmp_path / "net.bin"
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    net = Network([3, 4, 2])
    net.params = np.concatenate([t.detach().numpy().ravel() for t in model.parameters()])
    for zip_file in (True, False):
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zip_file)
        assert_the_line_works(message_of(path, path.read_bytes()), net, path=path, torch=torch)
