"""Second derivatives by the inputs in JAX, in each way that its users take; all of them in one `jax.jit`.

- jax: vmap of jax.hessian
- jax_columns: the gradient by x of the whole batch, linearized, along each axis: forward over reverse
- jax_jvp: jvp of jvp of the whole batch along each axis
- jax_jet: jax.experimental.jet of the whole batch along each axis
- jax_layers: the equations of the layers by hand, as here; the gradient of the loss by jax.grad
- folx: its forward Laplacian
- deepxde_jax: as DeepXDE's backend of JAX: vmap of grad of an entry of grad
"""

import numpy as np
from peers import Runner, UnsupportedError, jax_activation


class _Jax:
    """A problem as arrays of JAX, with u(p, x) of one sample or of many, without the axis of the output."""

    def __init__(self, problem):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        self.jax, self.jnp, self.problem = jax, jnp, problem
        self.activate = jax_activation(problem.case.network.activation)
        self.p = [jnp.asarray(part) for layer in problem.layers for part in layer]
        self.x, self.f = jnp.asarray(problem.x), jnp.asarray(problem.f[:, 0])
        axes = jnp.eye(problem.x.shape[1], dtype=self.x.dtype)
        self.axes = jnp.broadcast_to(axes[:, None], (len(axes), *self.x.shape))

    def u(self, p, x):
        """The network."""
        h = x
        for i in range(0, len(p), 2):
            h = (self.activate(h) if i else h) @ p[i].T + p[i + 1]
        return h[..., 0]

    def runner(self, laplacian, hessian=None, jet=None):
        """The call of the problem from functions of (p, x): u_11 + u_22 + ..., the Hessian, and (u, u_j, u_jj)."""
        call, jnp, block = self.problem.case.call, self.jnp, self.jax.block_until_ready
        if call == "pde_value_and_grad":

            def loss(p, x, f):
                return jnp.mean((laplacian(p, x) - f) ** 2)

            function, arguments = self.jax.value_and_grad(loss), (self.p, self.x, self.f)
        else:
            function = {"laplacian": laplacian, "input_hessian": hessian, "input_jet": jet}[call]
            arguments = (self.p, self.x)
        if function is None:
            raise UnsupportedError(f"no {call}")
        compiled = self.jax.jit(function)
        block(arguments)

        def run():
            return block(compiled(*arguments))

        return Runner(run, lambda: shape_result(call, self.jax.tree.map(np.asarray, run())))

    def along_axes(self, both):
        """The call from a function of (x, direction) that returns u and its first and second derivative along it."""

        def jet(p, x):
            y, dy, d2y = self.jax.vmap(lambda e: both(p, x, e))(self.axes)
            return y[0], dy.T, d2y.T

        return self.runner(lambda p, x: jet(p, x)[2].sum(1), None, jet)


def shape_result(call, result):
    """The result of a library as a list of arrays like ours."""
    if call == "pde_value_and_grad":
        return [np.asarray(result[0]), np.concatenate([np.ravel(part) for part in result[1]])]
    if call == "input_jet":
        y, dy, d2y = result
        return [y.reshape(-1, 1), dy[:, None], d2y[:, None]]
    return [result.reshape(-1, 1) if call == "laplacian" else result]


def make_jax(problem, _n_threads):
    """The Hessian of each sample."""
    j = _Jax(problem)
    hessian = j.jax.vmap(j.jax.hessian(j.u, argnums=1), (None, 0))

    def second(p, x):
        return j.jnp.diagonal(hessian(p, x), axis1=1, axis2=2)

    def jet(p, x):
        y, dy = j.jax.vmap(j.jax.value_and_grad(j.u, argnums=1), (None, 0))(p, x)
        return y, dy, second(p, x)

    return j.runner(lambda p, x: second(p, x).sum(1), hessian, jet)


def make_jax_columns(problem, _n_threads):
    """Columns of the Hessian."""
    j = _Jax(problem)
    jax, jnp = j.jax, j.jnp

    def columns(p, x):
        def grad(x):
            (_, y), dy = jax.value_and_grad(lambda x: (jnp.sum(y := j.u(p, x)), y), has_aux=True)(x)
            return dy, y

        dy, along, y = jax.linearize(grad, x, has_aux=True)
        return y, dy, jax.vmap(along)(j.axes)

    def jet(p, x):
        y, dy, H = columns(p, x)
        return y, dy, jnp.einsum("jnj->nj", H)

    return j.runner(
        lambda p, x: jnp.einsum("jnj->n", columns(p, x)[2]), lambda p, x: columns(p, x)[2].transpose(1, 0, 2), jet
    )


def make_jax_jvp(problem, _n_threads):
    """The jvp of a jvp."""
    j = _Jax(problem)
    jvp = j.jax.jvp

    def both(p, x, e):
        (y, dy), (_, d2y) = jvp(lambda x: jvp(lambda x: j.u(p, x), (x,), (e,)), (x,), (e,))
        return y, dy, d2y

    return j.along_axes(both)


def make_jax_jet(problem, _n_threads):
    """Taylor mode."""
    from jax.experimental.jet import jet

    j = _Jax(problem)

    def both(p, x, e):
        y, (dy, d2y) = jet(lambda x: j.u(p, x), (x,), ((e, j.jnp.zeros_like(e)),))
        return y, dy, d2y

    return j.along_axes(both)


def _derivatives(jnp, name, a):
    """g, g' and g''."""
    if name == "tanh":
        h = jnp.tanh(a)
        prime = 1 - h * h
        return h, prime, -2 * h * prime
    if name == "sin":
        h = jnp.sin(a)
        return h, jnp.cos(a), -h
    from jax.scipy.special import erf

    below, density = 0.5 * (1 + erf(a * np.sqrt(0.5).astype(a.dtype))), jnp.exp(-0.5 * a * a)
    density = density * np.sqrt(0.5 / np.pi).astype(a.dtype)
    return a * below, below + a * density, (2 - a * a) * density


def make_jax_layers(problem, _n_threads):
    """The equations d_a = W d_h, s_a = W s_h, d_h = g' d_a and s_h = g' s_a + g'' sum d_a^2.

    The Hessian is the sum over the units of g'' grad_h d_a d_a^T, and so is its diagonal.
    """
    j = _Jax(problem)
    jnp, name, L = j.jnp, problem.case.network.activation, len(problem.layers)

    def laplacian(p, x):
        a, d, s = x @ p[0].T + p[1], p[0].T[:, None], None
        for i in range(1, L):
            h, prime, second = _derivatives(jnp, name, a)
            s = second * (d * d).sum(0) + (0 if s is None else prime * s)
            W = p[2 * i]
            a, s = h @ W.T + p[2 * i + 1], s @ W.T
            d = (prime * d) @ W.T if i < L - 1 else None
        return s[:, 0]

    def curves(p, x):
        a, d = x @ p[0].T + p[1], p[0].T[:, None]
        tangents, primes, seconds = [], [], []
        for i in range(1, L):
            h, prime, second = _derivatives(jnp, name, a)
            tangents.append(d)
            primes.append(prime)
            seconds.append(second)
            W = p[2 * i]
            a, d = h @ W.T + p[2 * i + 1], (prime * d) @ W.T
        grad_h, found = p[-2], []
        for i in range(L - 2, -1, -1):
            found.append(grad_h * seconds[i])
            grad_h = (grad_h * primes[i]) @ p[2 * i] if i else None
        return a[:, 0], d[..., 0].T, tangents, found[::-1]

    def hessian(p, x):
        _, _, tangents, found = curves(p, x)
        total = 0
        for d, curve in zip(tangents, found, strict=True):
            if d.shape[1] == 1:
                total += jnp.einsum("ju,nu,lu->njl", d[:, 0], curve, d[:, 0])
            else:
                total += jnp.einsum("jnu,lnu->njl", d * curve, d)
        return total

    def jet(p, x):
        y, dy, tangents, found = curves(p, x)
        return y, dy, sum((d * d * curve).sum(2).T for d, curve in zip(tangents, found, strict=True))

    return j.runner(laplacian, hessian, jet)


def make_folx(problem, _n_threads):
    """`folx.forward_laplacian` of one sample, over the batch."""
    import folx

    j = _Jax(problem)

    def laplacian(p, x):
        return j.jax.vmap(folx.forward_laplacian(lambda x: j.u(p, x), 0))(x).laplacian

    return j.runner(laplacian)


def make_deepxde_jax(problem, _n_threads):
    """The gradient of u, and the gradient of each of its entries."""
    j = _Jax(problem)
    jax, jnp, n_in = j.jax, j.jnp, problem.x.shape[1]

    def rows(p, x):
        grad = jax.grad(lambda x: j.u(p, x))
        return [jax.vmap(jax.grad(lambda x, i=i: grad(x)[i]))(x) for i in range(n_in)]

    def second(p, x):
        return jnp.stack([row[:, i] for i, row in enumerate(rows(p, x))], 1)

    def jet(p, x):
        return j.u(p, x), jax.vmap(jax.grad(lambda x: j.u(p, x)))(x), second(p, x)

    return j.runner(lambda p, x: second(p, x).sum(1), lambda p, x: jnp.stack(rows(p, x), 1), jet)


MAKERS = {
    "jax": make_jax,
    "jax_columns": make_jax_columns,
    "jax_jvp": make_jax_jvp,
    "jax_jet": make_jax_jet,
    "jax_layers": make_jax_layers,
    "folx": make_folx,
    "deepxde_jax": make_deepxde_jax,
}
