"""The equations as plain loops: the hidden sum, the g' product, and all equations for a whole network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import architecture, conversion, validate
from backprop.api.calls import Calls
from backprop.custom import Activation

Array = npt.NDArray[Any]


def hidden_gradient(W_next: npt.ArrayLike, grad_a_next: npt.ArrayLike) -> Array:
    """The hidden sum: dL/dh_{i,j} = sum_m dL/da_{i+1,m} W_{i+1,m,j} for each sample.

    Parameters
    ----------
    W_next : (n_{i+1}, n_i) array_like
    grad_a_next : (n_samples, n_{i+1}) array_like
        Of the same dtype, float32 or float64.

    Returns
    -------
    (n_samples, n_i) array of the same dtype
        grad_h = grad_a_next @ W_next, summed over m in order.

    Raises
    ------
    TypeError, ValueError
        If the shapes do not fit or the dtypes differ.
    """
    W = validate.matrix(W_next, "W_next")
    grad_a = validate.matrix(grad_a_next, "grad_a_next", W.dtype)
    if grad_a.shape[1] != W.shape[0]:
        raise ValueError(
            f"grad_a_next: expected {W.shape[0]} columns, one for each row of W_next, got {grad_a.shape[1]}"
        )
    grad_h = np.empty((grad_a.shape[0], W.shape[1]), W.dtype)
    _core.hidden_gradient(W, grad_a, grad_h)
    return grad_h


def preactivation_gradient(grad_h: npt.ArrayLike, a: npt.ArrayLike, activation: architecture.ActivationSpec) -> Array:
    """The g' product: dL/da_{i,j} = dL/dh_{i,j} g'(a_{i,j}) for each sample.

    Parameters
    ----------
    grad_h, a : (n_samples, n_i) array_like
        Of the same dtype, float32 or float64.
    activation : str, (str, float) or Activation
        g: a name, a pair (name, parameter), or one of your own.

    Returns
    -------
    (n_samples, n_i) array of the same dtype

    Raises
    ------
    TypeError, ValueError
        If the shapes or dtypes differ, or if the activation is unknown.
    """
    g, parameter = architecture.activation(activation, "activation")
    preactivations = validate.matrix(a, "a")
    gradients = validate.matrix(grad_h, "grad_h", preactivations.dtype)
    validate.same_shape(["a", "grad_h"], [preactivations, gradients])
    grad_a = conversion.copied(preactivations, preactivations.dtype)
    if grad_a.size == 0:
        return grad_a
    if isinstance(g, Activation):
        n_rows = max(1, conversion.BLOCK // max(1, grad_a.shape[1]))
        for start in range(0, len(grad_a), n_rows):
            block = grad_a[start : start + n_rows]
            with _core.DefaultFloatMode():
                argument = block.astype(np.float64)
            g_prime = g.g_prime(argument, parameter)
            with _core.DefaultFloatMode():
                block[...] = g_prime
    else:
        _core.activate(grad_a, np.empty_like(grad_a), g.code, parameter)  # grad_a holds g'(a) now
    _core.preactivation_gradient(gradients, grad_a)
    return grad_a


def value_and_grad(
    net: Calls,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    params: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
) -> tuple[float, Array]:
    """The loss and its gradient by equations (1) to (8) as plain loops, one sample after another.

    It is slow, and is meant to be read with a textbook: see the end of ``_core.pyx``. ``net.value_and_grad`` gives the
    same numbers to rounding; the tests compare the two.

    Parameters
    ----------
    net : Network
    x : (n_samples, n_0) array_like
    y : (n_samples, n_L) array_like, or (n_samples,) labels
        As in `Network.value_and_grad`.
    params : (n_params,) array_like, optional
        Those of the network by default.
    sample_weight : (n_samples,) or (n_samples, n_L) array_like, optional

    Returns
    -------
    loss : float
    grad : (n_params,) array of the network's dtype
        Summed over samples in order, in that dtype.

    Raises
    ------
    TypeError, ValueError
        As in `Network.value_and_grad`.
    """
    if not isinstance(net, Calls):
        raise TypeError(f"net: expected a Network, got {type(net).__name__}")
    y_, x_, theta, weights = net._inputs(x, y, params, sample_weight, whole=True)
    grad = np.empty(net.n_params, theta.dtype)
    loss = _core.value_and_grad_by_twin(net._plan, theta, x_, y_, grad, weights)
    return loss, grad
