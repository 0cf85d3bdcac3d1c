"""`load`: a network from a file that `Network.save` wrote."""

from __future__ import annotations

import os
from typing import Any

from backprop.interchange import safetensors
from backprop.network import Network


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
        Where the safetensors library is missing: ``pip install safetensors``.

    Notes
    -----
    Files from elsewhere are safe to load: nothing in them is executed, and no more memory is taken than twice their
    size and a few kilobytes for each layer. A safetensors file without this package's metadata holds tensors alone,
    which do not say what the activations are: make the `Network`, and assign its weights.
    """
    architecture, layers = safetensors.read(path)
    net = Network._of(architecture)
    for W, b in zip(net.weights, net.biases, strict=True):
        W[...], b[...] = next(layers)
    return net
