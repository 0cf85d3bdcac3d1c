"""Files that `load` cannot read: what they are, by content or else by name, and how to use their weights."""

from __future__ import annotations

import codecs
import os
import re
from typing import NamedTuple

N_HEAD = 4096  # first bytes of a file that are looked at; all formats below differ within fewer


class _Kind(NamedTuple):
    what: str
    cure: str
    content: bytes  # a regular expression of the first bytes
    endings: str = ""  # of names, with spaces between them


# Each cure is for files with only the parameters of dense layers, in the order W_1, b_1, W_2, ... of net.params.
_ASSIGN = "make the Network of the same layers, then "
_TENSORS = _ASSIGN + "net.params = np.concatenate([{} for {}])"
_TORCH = (
    _TENSORS.format("t.numpy().ravel()", "t in torch.load(path, weights_only=True).values()")
    + ", if it is a state_dict"
)
_KERAS = _TENSORS.format("t.T.ravel()", "t in keras.models.load_model(path).get_weights()")
_ARRAYS = _TENSORS.format("t.ravel()", "t in np.load(path).values()")
_ONNX = _ASSIGN + "W[...] = onnx.numpy_helper.to_array(t) for the t of onnx.load(path).graph.initializer"
_TABLE = _ASSIGN + "net.params = np.loadtxt(path, delimiter=',').ravel(), if these are its parameters"
_JSON = _ASSIGN + "net.params = json.load(open(path)), if this is a list of its parameters"
_TRUST = "joblib.load(path) or pickle.load(open(path, 'rb')), if you trust the file: it may run any code; "
_SKLEARN = _TENSORS.format("t.T.ravel()", "pair in zip(m.coefs_, m.intercepts_) for t in pair")

_ZIP = rb"PK\x03\x04.{26}"  # followed by the name of the first file in the archive
_PICKLE = rb"\x80[\x02-\x05]"

# The first that fits is used. So the content of an archive comes before the kind "zip file".
_KINDS = [
    _Kind("an empty file of 0 bytes", "it was cut while it was written or copied: save or copy it again", rb"\Z"),
    _Kind("the pointer that Git LFS keeps instead of a file", "run git lfs pull", rb"version https://git-lfs\."),
    _Kind(
        "a PyTorch file",
        _TORCH,
        _ZIP + rb"[^/]*/(?:data|code|constants|byteorder|version|\.)"
        rb"|\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.",  # the number that opened files before release 1.6
        ".pt .pth .ckpt",
    ),
    _Kind("a NumPy archive of arrays", _ARRAYS, _ZIP + rb"[^\0-\x1f]*\.npy", ".npz"),
    _Kind("a Keras model", _KERAS, _ZIP + rb"(?:metadata|config)\.json", ".keras"),
    _Kind("an HDF5 file", _KERAS + " if Keras wrote it, else h5py.File(path)", rb"\x89HDF\r\n\x1a\n", ".h5 .hdf5"),
    _Kind("a zip archive", "unpack it, and load the file in it", rb"PK[\x03\x05]", ".zip"),
    _Kind("a tar archive", "unpack it, and load the file in it", rb".{257}ustar", ".tar"),
    _Kind(
        "a compressed file",
        "decompress it first, as with gunzip",
        rb"\x1f\x8b|BZh[1-9]|\xfd7zXZ|\(\xb5/\xfd|7z\xbc\xaf",
        ".gz .tgz .bz2 .xz .zst .7z",
    ),
    _Kind("a NumPy array", _ASSIGN + "net.params = np.load(path)", rb"\x93NUMPY", ".npy"),
    _Kind("a pickled network", _TRUST + "then net.save(path)", _PICKLE + rb".*backprop\.(?:network|ensemble)"),
    _Kind(
        "a pickle",
        f"m = {_TRUST}then, if it is scikit-learn's MLP, {_SKLEARN}",
        _PICKLE + rb"|x[\x01\x5e\x9c\xda]|\([dl]p0?\n|c[\w.]+\n\w+\n",  # the second is joblib's, compressed
        ".pkl .pickle .joblib",
    ),
    _Kind("an ONNX model", _ONNX, rb"\x08[\x01-\x1f][\x12:B]", ".onnx"),
    _Kind("a MATLAB file", _ASSIGN + "net.params = scipy.io.loadmat(path)['params']", rb"MATLAB [57]", ".mat"),
    _Kind("an HTML page", "download the file itself, not the page about it", rb"\s*<(?i:!doctype html|html)"),
]
_SAFETENSORS = rb".{5}\0\0\0\{"  # the length of a header, and its beginning


def what_else(head: bytes, name: str) -> str | None:
    """What a file is that is no saved network, and what to do; None for the safetensors format, or if unknown.

    Parameters
    ----------
    head : bytes
        The first `N_HEAD` bytes of the file, or all.
    name : str
        Its path, of which the ending is looked at if the content says nothing.
    """
    if re.match(_SAFETENSORS, head, re.DOTALL):
        return None
    for kind in _KINDS:
        if re.match(kind.content, head, re.DOTALL):
            return f"{kind.what}: {kind.cure}"
    if _is_text(head):
        what, cure = ("JSON", _JSON) if head.lstrip()[:1] in (b"{", b"[") else ("text", _TABLE)
        return f"{what} that begins with {head[:40].decode(errors='replace')!r}: {cure}"
    ending = os.path.splitext(name)[1].lower()
    for kind in _KINDS:
        if ending and ending in kind.endings.split():
            return f"by its name {kind.what}: {kind.cure}"
    return None


def _is_text(head: bytes) -> bool:
    """Whether these bytes are text, in UTF-8, or in UTF-16 after its mark. The last character may be cut."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return re.search(r"[\0-\x08\x0e-\x1f]", text) is None
