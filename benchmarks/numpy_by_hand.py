"""Loss and gradient in NumPy, written by hand and as fast as plain NumPy allows."""

import math

import numpy as np

TILE_BYTES = 4 << 20  # of the activations of a tile: they stay in the cache, and BLAS still gets long products
LEAST_TILE = 256


def _numpy_relu(a, h, prime):
    np.maximum(a, 0, out=h)
    np.greater(h, 0, out=prime)


def _numpy_tanh(a, h, prime):
    np.tanh(a, out=h)
    np.multiply(h, h, out=prime)
    np.subtract(1, prime, out=prime)


def _numpy_silu(a, h, prime):
    np.negative(a, out=prime)
    np.exp(prime, out=prime)
    prime += 1
    np.reciprocal(prime, out=prime)  # the sigmoid s; the derivative is s (1 + a - h)
    np.multiply(a, prime, out=h)
    a -= h
    a += 1
    prime *= a


def _numpy_gelu(a, h, prime):
    from scipy.special import erf

    np.multiply(a, math.sqrt(0.5), out=prime)
    erf(prime, out=prime)
    prime += 1
    prime *= 0.5  # Phi(a)
    np.multiply(a, prime, out=h)
    density = np.multiply(a, a)
    density *= -0.5
    np.exp(density, out=density)
    density *= 1 / math.sqrt(2 * math.pi)
    density *= a
    prime += density


NUMPY_ACTIVATIONS = {"relu": _numpy_relu, "tanh": _numpy_tanh, "silu": _numpy_silu, "gelu": _numpy_gelu}


def _tile_rows(problem):
    """Rows of one tile: all of them, unless their activations are much larger than a cache."""
    row_bytes = 3 * sum(problem.case.sizes[1:]) * problem.dtype.itemsize
    rows = max(LEAST_TILE, TILE_BYTES // row_bytes)
    return problem.case.n_samples if problem.case.n_samples < 2 * rows else rows


def make_call(problem, grads=None):
    """Make the function without arguments that returns loss and [(grad_W_1, grad_b_1), ...].

    All buffers are made before, everything is computed in place, and large batches are cut into tiles that fit a cache.
    `grads` are the arrays for the gradient; without them they are made.
    """
    case, dtype, layers = problem.case, problem.dtype, problem.layers
    n_samples, L, rows = case.n_samples, len(layers), _tile_rows(problem)
    buffers = [np.empty((rows, n), dtype) for n in case.sizes[1:]]
    a_buffers = buffers if case.activation in ("relu", "tanh") else [np.empty_like(array) for array in buffers]
    prime_dtype = bool if case.activation == "relu" else dtype
    prime_buffers = [np.empty((rows, n), prime_dtype) for n in case.sizes[1:-1]]
    grad_buffers = [np.empty((rows, n), dtype) for n in case.sizes[1:-1]]
    grads = [(np.empty_like(W), np.empty_like(b)) for W, b in layers] if grads is None else grads
    parts = grads if rows >= n_samples else [(np.empty_like(W), np.empty_like(b)) for W, b in layers]
    activate = NUMPY_ACTIVATIONS[case.activation]
    index = np.arange(rows)

    def last_layer(a, y):
        """Sum of the losses; a becomes its gradient."""
        if case.loss == "squared_error":
            a -= y
            loss = float(np.vdot(a, a)) / y.shape[1]
            a *= 2 / (n_samples * y.shape[1])
            return loss
        a -= a.max(axis=1, keepdims=True)
        at_label = a[index[: len(y)], y].sum()
        np.exp(a, out=a)
        total = a.sum(axis=1, keepdims=True)
        loss = float(np.log(total).sum() - at_label)
        total *= n_samples
        a /= total
        a[index[: len(y)], y] -= 1 / n_samples
        return loss

    def call():
        loss = 0.0
        for start in range(0, n_samples, rows):
            x, y = problem.x[start : start + rows], problem.y[start : start + rows]
            n = len(x)
            h = [x]
            for i, (W, b) in enumerate(layers):
                a = np.matmul(h[i], W.T, out=a_buffers[i][:n])
                a += b
                if i < L - 1:
                    activate(a, buffers[i][:n], prime_buffers[i][:n])
                    h.append(buffers[i][:n])
            grad_a = a
            loss += last_layer(grad_a, y)
            targets = grads if start == 0 else parts
            for i in range(L - 1, -1, -1):
                grad_W, grad_b = targets[i]
                np.matmul(grad_a.T, h[i], out=grad_W)
                np.add.reduce(grad_a, axis=0, out=grad_b)
                if i:
                    grad_a = np.matmul(grad_a, layers[i][0], out=grad_buffers[i - 1][:n])
                    grad_a *= prime_buffers[i - 1][:n]
            if start:
                for (grad_W, grad_b), (part_W, part_b) in zip(grads, parts, strict=True):
                    np.add(grad_W, part_W, out=grad_W)
                    np.add(grad_b, part_b, out=grad_b)
        return loss / n_samples, grads

    return call
