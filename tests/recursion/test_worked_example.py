"""A published example: Matt Mazur, "A Step by Step Backpropagation Example", 2015, a 2-2-2 network of sigmoids.

https://mattmazur.com/2015/03/17/a-step-by-step-backpropagation-example/

Its error is the sum of (target - out)^2 / 2 over two outputs, which is the mean of d^2 over them: squared_error.
"""

import numpy as np
import pytest

import backprop

RATE = 0.5
# Printed there, except the updated biases: the example does not update them.
PRINTED_WEIGHTS = {
    "w1": (1, (0, 0), "0.149780716"),
    "w2": (1, (0, 1), "0.19956143"),
    "w3": (1, (1, 0), "0.24975114"),
    "w4": (1, (1, 1), "0.29950229"),
    "w5": (2, (0, 0), "0.35891648"),
    "w6": (2, (0, 1), "0.408666186"),
    "w7": (2, (1, 0), "0.511301270"),
    "w8": (2, (1, 1), "0.561370121"),
}
X, Y = np.array([[0.05, 0.10]]), np.array([[0.01, 0.99]])


def mazur_network(dtype="float64"):
    net = backprop.Network([2, 2, 2], activations="sigmoid", output="sigmoid", loss="squared_error", dtype=dtype)
    net.params = [0.15, 0.20, 0.25, 0.30, 0.35, 0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.60]
    return net


def printed(value, text):
    """Whether the value is the printed one, rounded or cut at its last digit."""
    return abs(value - float(text)) <= 10.0 ** -len(text.split(".")[1])


def test_outputs_and_error():
    layers = mazur_network().layer_gradients(X, Y)
    assert printed(layers.a[1][0, 0], "0.3775")
    assert printed(layers.h[1][0, 0], "0.593269992")
    assert printed(layers.h[1][0, 1], "0.596884378")
    assert printed(layers.a[2][0, 0], "1.105905967")
    assert printed(layers.h[2][0, 0], "0.75136507")
    assert printed(layers.h[2][0, 1], "0.772928465")
    assert printed(layers.loss, "0.298371109")


def test_each_printed_derivative():
    net = mazur_network()
    layers = net.layer_gradients(X, Y)
    assert printed(layers.grad_h[2][0, 0], "0.74136507")
    assert printed(layers.grad_a[2][0, 0], "0.138498562")
    assert printed(layers.grad_h[1][0, 0], "0.036350306")
    assert printed(layers.grad_W[2][0, 0], "0.082167041")
    assert printed(layers.grad_W[1][0, 0], "0.000438568")


@pytest.mark.parametrize("name", PRINTED_WEIGHTS)
def test_each_updated_weight(name):
    layer, place, text = PRINTED_WEIGHTS[name]
    net = mazur_network()
    _, grad = net.value_and_grad(X, Y)
    W, _ = net.unflatten(net.params - RATE * grad)[layer - 1]
    assert printed(W[place], text)


def test_gradient_descent_goes_on_as_it_should():
    """Ten thousand such steps, with fixed biases, reduce the error to about 0.000035."""
    net = mazur_network()
    out = np.full(net.n_params, np.nan)
    is_weight = np.zeros(net.n_params)
    for W, _ in net.unflatten(is_weight):
        W[...] = 1
    for _ in range(10_000):
        loss, grad = net.value_and_grad(X, Y, out=out)
        assert grad is out
        net.params -= RATE * is_weight * grad
    assert loss == pytest.approx(3.5e-5, rel=0.05)
    np.testing.assert_array_equal(net.biases[0], [0.35, 0.35])


def test_float32_prints_the_same_to_its_own_precision():
    net = mazur_network("float32")
    loss, grad = net.value_and_grad(X, Y)
    _, grad64 = mazur_network().value_and_grad(X, Y)
    assert abs(loss - 0.298371109) < 1e-7
    np.testing.assert_allclose(grad, grad64, rtol=1e-6)
