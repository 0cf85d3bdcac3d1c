"""Second derivatives by the inputs in NumPy, written by hand and as fast as plain NumPy allows."""

import math

import numpy as np

TILE_BYTES = 1 << 20  # of the arrays of a tile: they stay in the cache, and BLAS still gets long products
LEAST_TILE = 64


def _tanh(a, orders):
    h = np.tanh(a)
    prime = np.multiply(h, h)
    np.subtract(1, prime, out=prime)
    second = h * prime
    second *= -2
    if orders == 2:
        return h, prime, second, None
    third = h * h  # g''' = g' (6 h^2 - 2)
    third *= 6
    third -= 2
    third *= prime
    return h, prime, second, third


def _sin(a, orders):
    h, prime = np.sin(a), np.cos(a)
    return h, prime, -h, -prime if orders == 3 else None


def _gelu(a, orders):
    from scipy.special import erf

    below = erf(a * a.dtype.type(math.sqrt(0.5)))
    below += 1
    below *= 0.5
    square = a * a
    density = square * a.dtype.type(-0.5)
    np.exp(density, out=density)
    density *= a.dtype.type(math.sqrt(0.5 / math.pi))
    h, prime = a * below, a * density
    prime += below
    third = None
    if orders == 3:  # a (a^2 - 4) times the density
        third = square - 4
        third *= a
        third *= density
    np.subtract(2, square, out=square)
    square *= density
    return h, prime, square, third


DERIVATIVES = {"tanh": _tanh, "sin": _sin, "gelu": _gelu}


def _along(d, other):
    """The sum over the tangents of d * other."""
    total = d[0] * other[0]
    for one, two in zip(d[1:], other[1:], strict=True):
        total += one * two
    return total


def _times(d, W):
    """Each tangent times W, in one product."""
    return (d.reshape(-1, d.shape[-1]) @ W).reshape(*d.shape[:-1], -1)


class _Jets:
    """The sweeps of a tile. Arrays of the tangents are (n_0, rows, n_i), so that one product serves all of them."""

    def __init__(self, problem):
        self.layers, self.n = problem.layers, len(problem.x)
        self.derivatives = DERIVATIVES[problem.case.network.activation]
        self.orders = 3 if problem.case.call == "pde_value_and_grad" else 2
        self.first_d = np.ascontiguousarray(problem.layers[0][0].T)[:, None]  # of a_1: the columns of W_1

    def forward(self, x, with_tangents):
        """a_L and its tangents, and of each hidden layer h, its first three derivatives by a, d_a and d_h."""
        W, b = self.layers[0]
        a, d, kept = x @ W.T, self.first_d, []
        a += b
        for i, (W, b) in enumerate(self.layers[1:], 2):
            h, *gs = self.derivatives(a, self.orders)
            D = gs[0] * d
            kept.append((h, *gs, d, D))
            a = h @ W.T
            a += b
            d = _times(D, W.T) if i < len(self.layers) or with_tangents else None
        return a, d, kept

    def sums(self, kept):
        """Of each hidden layer the sums of second derivatives of a and h, and that of the output."""
        s, found = None, []
        for (_, prime, second, _, d, _), (W, _) in zip(kept, self.layers[1:], strict=True):
            S = second * _along(d, d)
            if s is not None:
                S += prime * s
            found.append((s, S))
            s = S @ W.T
        return found, s

    def curves(self, kept):
        """The product of g'' and grad_h of each hidden layer."""
        grad_h, found = self.layers[-1][0], []
        for (_, prime, second, *_), (W, _) in zip(kept[::-1], self.layers[-2::-1], strict=True):
            found.append(second * grad_h)
            if len(found) < len(kept):
                grad_h = (prime * grad_h) @ W
        return found[::-1]

    def hessian(self, x):
        """Of the network's output."""
        _, _, kept = self.forward(x, with_tangents=False)
        total = 0
        for (*_, d, _), curve in zip(kept, self.curves(kept), strict=True):
            weighted = (d * curve).transpose(1, 0, 2)
            total = total + weighted @ np.broadcast_to(d, (len(d), *curve.shape)).transpose(1, 2, 0)
        return (total,)

    def jet(self, x):
        """The output, its first derivatives and its second ones along the axes."""
        a, dy, kept = self.forward(x, with_tangents=True)
        total = 0
        for (*_, d, _), curve in zip(kept, self.curves(kept), strict=True):
            total = total + np.einsum("jnu,nu->nj", d * d, curve)
        return a, dy.transpose(1, 2, 0), total[:, None]

    def laplacian(self, x):
        """The sum of the second derivatives."""
        return (self.sums(self.forward(x, with_tangents=False)[2])[1],)

    def pde(self, x, f, grads):
        """The sum of squared residuals; adds the gradient of the mean to grads."""
        _, _, kept = self.forward(x, with_tangents=False)
        found, r = self.sums(kept)
        r -= f
        value = float(np.vdot(r, r))
        r *= 2 / self.n
        grads[-1][0][...] += r.T @ found[-1][1]
        grad_S, grad_D, grad_h = r @ self.layers[-1][0], None, None
        for i in range(len(kept) - 1, -1, -1):
            _, prime, second, third, d, _ = kept[i]
            s = found[i][0]
            grad_s = prime * grad_S
            grad_d = (2 * second * grad_S) * d
            grad_a = third * _along(d, d)
            if s is not None:
                grad_a += second * s
            grad_a *= grad_S
            if grad_D is not None:
                grad_a += second * _along(np.broadcast_to(d, grad_D.shape), grad_D)
                grad_a += prime * grad_h
                grad_d += prime * grad_D
            grad_W, grad_b = grads[i]
            grad_b += grad_a.sum(0)
            if i == 0:
                grad_W += grad_a.T @ x
                grad_W += grad_d.sum(1).T
                continue
            below_h, *_, below_D = kept[i - 1]
            grad_W += grad_a.T @ below_h
            grad_W += grad_d.reshape(-1, grad_d.shape[-1]).T @ below_D.reshape(-1, below_D.shape[-1])
            grad_W += grad_s.T @ found[i - 1][1]
            W = self.layers[i][0]
            grad_S, grad_h, grad_D = grad_s @ W, grad_a @ W, _times(grad_d, W)
        return value


def make_call(problem):
    """Make the function without arguments that returns the result as a list of arrays.

    Large batches are cut into tiles that fit a cache.
    """
    jets, call, x, n = _Jets(problem), problem.case.call, problem.x, len(problem.x)
    sizes = problem.case.network.sizes
    row_bytes = (2 * sizes[0] + 6) * sum(sizes[1:]) * problem.dtype.itemsize
    rows = min(n, max(LEAST_TILE, TILE_BYTES // row_bytes))

    def pde():
        grads = [(np.zeros_like(W), np.zeros_like(b)) for W, b in jets.layers]
        value = sum(jets.pde(x[i : i + rows], problem.f[i : i + rows], grads) for i in range(0, n, rows))
        return [np.asarray(value / n), np.concatenate([part.ravel() for layer in grads for part in layer])]

    if call == "pde_value_and_grad":
        return pde
    of_tile = {"laplacian": jets.laplacian, "input_hessian": jets.hessian, "input_jet": jets.jet}[call]

    def of_rows():
        tiles = [of_tile(x[i : i + rows]) for i in range(0, n, rows)]
        return [np.concatenate(parts) for parts in zip(*tiles, strict=True)]

    return of_rows
