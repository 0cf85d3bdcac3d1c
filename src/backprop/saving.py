"""`load`: a network or an ensemble from a file that its `save` wrote."""

from __future__ import annotations

import os
from typing import Any

from backprop.ensemble import Ensemble
from backprop.interchange import safetensors
from backprop.network import Network


def load(path: str | bytes | os.PathLike[Any]) -> Network | Ensemble:
    """Read a network that `Network.save` wrote, or an ensemble that `Ensemble.save` wrote.

    Parameters
    ----------
    path : str, bytes or path-like

    Returns
    -------
    Network or Ensemble
        With the architecture, dtype and parameters that were saved, to the bit.

    Raises
    ------
    ValueError
        If the file is not a regular file, or holds no complete network. The error names the file. For many other
        formats it names the format, and says how to use the weights.
    OSError
        If the file is missing or cannot be read.
    ModuleNotFoundError
        If the safetensors library is missing: ``pip install safetensors``.

    Notes
    -----
    Files of unknown origin are safe to load: nothing in them is executed, and the memory used is at most twice their
    size and a few kilobytes per layer and member. A safetensors file without the metadata of this package holds only
    tensors, and does not say which activations to use: make the `Network` and assign its weights.
    """
    content = safetensors.read(path)
    net = Network._of(content.architecture)
    if content.n_members is None:
        for W, b in zip(net.weights, net.biases, strict=True):
            W[...], b[...] = next(content.layers)
        return net
    ensemble = Ensemble._of(net, content.n_members)
    for i, (W, b) in enumerate(content.layers):
        for m in range(content.n_members):
            ensemble[m].weights[i][...], ensemble[m].biases[i][...] = W[m], b[m]
    return ensemble
