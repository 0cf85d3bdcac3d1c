"""The other derivatives in each library, written as its users would write them, with the same mathematics.

As in peers.py, a maker takes a problem and the number of threads, and returns a `Runner`; `result` returns arrays in
the order and layout of ours. Only the call itself is timed.

    func        PyTorch: torch.func, its vmap, grad, jvp, vjp, jacrev and hessian, eager
    torch       PyTorch without it: autograd on the whole batch, with einsum, forward_ad or baddbmm if they help
    jax         the transformations of JAX, in one jax.jit
    jax_map     the networks of an ensemble one after another, in one jax.jit
    hand_torch  norms from the gradients by a and the inputs h of each layer, as here, on top of autograd
    hand_jax    the same in one jax.jit
"""

import numpy as np
from derivative_cases import SOBOLEV_WEIGHT
from peers import Runner, UnsupportedError, jax_activation

NORMS = ("per_sample_gradient_norms", "clipped_gradient")
BY_SAMPLE = ("per_sample_gradients", *NORMS)


def make_ours(problem, n_threads):
    """The method of `Network`, with `out=` if it has one."""
    import backprop

    case, dtype = problem.case, problem.dtype
    network = case.network
    net = backprop.Network(network.sizes, activations=network.activation, loss=network.loss, dtype=dtype, rng=0)
    backprop.set_num_threads(n_threads)
    x, y, c = problem.x, problem.y, problem.cotangent
    out = np.zeros(case.result_shape, dtype)
    if case.call == "ensemble":
        ensemble = backprop.Ensemble(net, case.k)
        ensemble.params = _flat(problem.layers, 1)
        call = lambda: ensemble.value_and_grad(x, y, out=out)  # noqa: E731
        return Runner(call, lambda: [np.copy(part) for part in call()])
    net.params = _flat(problem.layers, 0)
    v = _flat(problem.v, 0)
    weight, grad_x = SOBOLEV_WEIGHT, problem.grad_x
    if case.call in NORMS:
        problem.max_norm = float(np.median(net.per_sample_gradient_norms(x, y)))
    max_norm = problem.max_norm
    fun, theta = net.objective(x, y), net.params
    call = {
        "per_sample_gradients": lambda: net.per_sample_gradients(x, y, out=out),
        "per_sample_gradient_norms": lambda: net.per_sample_gradient_norms(x, y, out=out),
        "clipped_gradient": lambda: net.clipped_gradient(x, y, max_norm, out=out),
        "input_gradient": lambda: net.input_gradient(x, y, out=out),
        "input_jacobian": lambda: net.input_jacobian(x, out=out),
        "jacobian": lambda: net.jacobian(x, out=out),
        "normal_equations": lambda: net.normal_equations(x, y),
        "jvp": lambda: net.jvp(x, v, out=out),
        "vjp": lambda: net.vjp(x, c),
        "hvp": lambda: net.hvp(x, y, v, out=out),
        "hessp": lambda: fun.hessp(theta, v),
        "gauss_newton_vp": lambda: net.gauss_newton_vp(x, y, v, out=out),
        "sobolev": lambda: net.sobolev_value_and_grad(x, y, grad_x, weight, out=out),
        "hessian": lambda: net.hessian(x, y, out=out),
    }[case.call]
    return Runner(call, lambda: [np.copy(part) for part in _as_tuple(call())])


def _as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def _flat(layers, n_leading):
    """Parameters, or arrays of their shapes, as vectors after n_leading dimensions."""
    parts = [np.asarray(part) for layer in layers for part in layer]
    return np.concatenate([part.reshape(*part.shape[:n_leading], -1) for part in parts], axis=-1)


def _vectors(parts, n_leading):
    """The same for a flat list W_1, b_1, ..."""
    return _flat([[np.asarray(part) for part in parts]], n_leading)


def _shape_result(call, result):
    """The result of a library as a list of arrays like ours."""
    if call in ("per_sample_gradients", "jacobian"):
        return [_vectors(result, 1 if call == "per_sample_gradients" else 2)]
    if call in ("clipped_gradient", "hvp", "hessp", "gauss_newton_vp"):
        return [_vectors(result, 0)]
    if call == "vjp":
        return [_vectors(result[0], 0), np.asarray(result[1])]
    if call == "sobolev":
        return [np.asarray(result[0]), _vectors(result[1], 0)]
    if call == "ensemble":
        return [np.asarray(result[0]), _vectors(result[1], 1)]
    if call == "normal_equations":
        return [np.asarray(part) for part in result]
    return [np.asarray(result)]


# PyTorch -------------------------------------------------------------------------------------------------------------


class _Torch:
    """A problem as tensors, and its functions."""

    def __init__(self, problem, n_threads):
        import torch
        from torch.nn import functional

        torch.set_num_threads(n_threads)
        self.torch, self.linear = torch, functional.linear
        self.problem, self.network = problem, problem.case.network
        self.activate = getattr(functional, self.network.activation)
        self.cross_entropy = None if self.network.loss == "squared_error" else functional.cross_entropy
        self.p = [torch.tensor(part) for layer in problem.layers for part in layer]
        self.v = [torch.tensor(part) for layer in problem.v for part in layer]
        self.x, self.y = torch.tensor(problem.x), torch.tensor(problem.y)
        self.c, self.grad_x = torch.tensor(problem.cotangent), torch.tensor(problem.grad_x)

    def forward(self, p, x):
        """y_hat."""
        h = x
        for i in range(0, len(p), 2):
            h = self.linear(self.activate(h) if i else h, p[i], p[i + 1])
        return h

    def losses_of(self, y_hat, y):
        """l_s, of one sample or of many."""
        if self.cross_entropy is not None:
            return self.cross_entropy(y_hat, y, reduction="none")
        return (y_hat - y).square().mean(-1)

    def losses(self, p, x, y):
        """The same from the parameters."""
        return self.losses_of(self.forward(p, x), y)

    def loss(self, p, x, y):
        """The mean loss."""
        return self.losses(p, x, y).mean()

    def unflatten(self, theta):
        """Parameters from one vector."""
        parts = theta.split([part.numel() for part in self.p])
        return [part.view(like.shape) for part, like in zip(parts, self.p, strict=True)]

    def clip(self, grads, norms):
        """The sum of clipped gradients."""
        factor = (self.problem.max_norm / norms).clamp(max=1)
        return [self.torch.einsum("n...,n->...", grad, factor) for grad in grads]

    def norms(self, grads):
        """Of stored gradients."""
        return sum(grad.flatten(1).square().sum(1) for grad in grads).sqrt()

    def normal(self, jacobian):
        """J^T J and J^T r from a Jacobian in parts (n_samples, n_L, ...)."""
        J = self.torch.cat([part.flatten(2) for part in jacobian], 2).flatten(0, 1)
        r = (self.forward(self.p, self.x) - self.y).flatten()
        return J.T @ J, J.T @ r

    def sobolev_loss(self, p, jacobian, y_hat):
        """The mean Sobolev loss from y_hat and its Jacobian."""
        extra = SOBOLEV_WEIGHT * (jacobian - self.grad_x).square().mean()
        return (y_hat - self.y).square().mean() + extra

    def runner(self, call):
        """The call, and its result in NumPy."""

        def to_numpy(part):
            if isinstance(part, (tuple, list)):
                return [to_numpy(one) for one in part]
            return part.detach().numpy()

        return Runner(call, lambda: _shape_result(self.problem.case.call, to_numpy(call())))


def make_func(problem, n_threads):
    """`torch.func`."""
    t = _Torch(problem, n_threads)
    from torch.func import grad, grad_and_value, hessian, jacrev, jvp, linearize, vjp, vmap

    p, v, x, y, call = t.p, t.v, t.x, t.y, problem.case.call
    each = vmap(grad(t.losses), (None, 0, 0))
    each_jacobian = vmap(jacrev(t.forward), (None, 0))
    each_input_jacobian = vmap(jacrev(t.forward, argnums=1), (None, 0))
    theta = t.torch.cat([part.flatten() for part in p]) if call == "hessian" else None

    def norms():
        return t.norms(each(p, x, y))

    def clipped():
        grads = each(p, x, y)
        return t.clip(grads, t.norms(grads))

    def gauss_newton():
        y_hat, tangent = jvp(lambda p: t.forward(p, x), (p,), (v,))
        _, curved = jvp(grad(lambda z: t.losses_of(z, y).mean()), (y_hat,), (tangent,))
        return vjp(lambda p: t.forward(p, x), p)[1](curved)[0]

    def sobolev():
        def total(p):
            return t.sobolev_loss(p, each_input_jacobian(p, x), t.forward(p, x))

        grads, value = grad_and_value(total)(p)
        return value, grads

    members = vmap(grad_and_value(t.loss), (0, None, None))
    along = linearize(grad(lambda p: t.loss(p, x, y)), p)[1] if call == "hessp" else None
    calls = {
        "per_sample_gradients": lambda: each(p, x, y),
        "per_sample_gradient_norms": norms,
        "clipped_gradient": clipped,
        "input_gradient": lambda: vmap(grad(t.losses, argnums=1), (None, 0, 0))(p, x, y),
        "input_jacobian": lambda: each_input_jacobian(p, x),
        "jacobian": lambda: each_jacobian(p, x),
        "normal_equations": lambda: t.normal(each_jacobian(p, x)),
        "jvp": lambda: jvp(lambda p: t.forward(p, x), (p,), (v,))[1],
        "vjp": lambda: vjp(t.forward, p, x)[1](t.c),
        "hvp": lambda: jvp(grad(lambda p: t.loss(p, x, y)), (p,), (v,))[1],
        "hessp": lambda: along(v),
        "gauss_newton_vp": gauss_newton,
        "sobolev": sobolev,
        "hessian": lambda: hessian(lambda theta: t.loss(t.unflatten(theta), x, y))(theta),
        "ensemble": lambda: members(p, x, y)[::-1],
    }
    return t.runner(calls[call])


def _by_layer(t):
    """y_hat, a of each layer, which autograd can differentiate by, and the input of each layer."""
    inputs, preactivations, h = [], [], t.x
    for i in range(0, len(t.p), 2):
        h = t.activate(h) if i else h
        inputs.append(h.detach())
        h = t.linear(h, t.p[i], t.p[i + 1])
        if i == 0:
            h.requires_grad_()
        preactivations.append(h)
    return h, preactivations, inputs


def _outer(t, grads_a, inputs):
    """Gradients per sample by the parameters: W_1, b_1, ..."""
    parts = []
    for grad_a, h in zip(grads_a, inputs, strict=True):
        parts += [t.torch.einsum("nu,nj->nuj", grad_a, h), grad_a]
    return parts


def make_torch(problem, n_threads):
    """PyTorch without `torch.func`."""
    t = _Torch(problem, n_threads)
    import torch
    from torch.autograd import forward_ad, functional, grad

    p, v, x, y, call = t.p, t.v, t.x, t.y, problem.case.call
    if call in ("vjp", "hvp", "hessp", "gauss_newton_vp", "sobolev", "ensemble"):
        p = [part.requires_grad_() for part in p]
    if call in ("vjp", "input_gradient", "input_jacobian", "sobolev"):
        x.requires_grad_()
    theta = torch.cat([part.flatten() for part in p]) if call == "hessian" else None
    kept = grad(t.loss(p, x, y), p, create_graph=True) if call == "hessp" else None

    def each():
        y_hat, preactivations, inputs = _by_layer(t)
        return _outer(t, grad(t.losses_of(y_hat, y).sum(), preactivations), inputs)

    def clipped():
        grads = each()
        return t.clip(grads, t.norms(grads))

    def jacobian():
        y_hat, preactivations, inputs = _by_layer(t)
        n_out = y_hat.shape[1]
        rows = [
            _outer(t, grad(y_hat[:, k].sum(), preactivations, retain_graph=k + 1 < n_out), inputs) for k in range(n_out)
        ]
        return [torch.stack(parts, 1) for parts in zip(*rows, strict=True)]

    def input_jacobian(create_graph=False):
        y_hat = t.forward(p, x)
        n_out = y_hat.shape[1]
        keep = [create_graph or k + 1 < n_out for k in range(n_out)]
        rows = [grad(y_hat[:, k].sum(), x, retain_graph=keep[k], create_graph=create_graph)[0] for k in range(n_out)]
        return y_hat, torch.stack(rows, 1)

    def tangent():
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(part, direction) for part, direction in zip(p, v, strict=True)]
            return forward_ad.unpack_dual(t.forward(duals, x))

    def vjp():
        *grads, grad_x = grad(t.forward(p, x), [*p, x], t.c)
        return grads, grad_x

    def hvp():
        grads = grad(t.loss(p, x, y), p, create_graph=True)
        return grad(grads, p, v)

    def gauss_newton():
        y_hat, along = tangent()
        along = along.detach()
        if t.cross_entropy is None:
            curved = along * (2 / along.numel())
        else:
            probability = y_hat.detach().softmax(1)
            curved = probability * along
            curved = (curved - probability * curved.sum(1, keepdim=True)) / len(along)
        return grad(y_hat, p, curved)

    def sobolev():
        y_hat, J = input_jacobian(create_graph=True)
        value = t.sobolev_loss(p, J, y_hat)
        return value, grad(value, p)

    def ensemble():
        h = x.expand(problem.case.k, *x.shape)
        for i in range(0, len(p), 2):
            h = torch.baddbmm(p[i + 1][:, None], t.activate(h) if i else h, p[i].mT)
        losses = (h - y).square().mean((1, 2))
        return losses, grad(losses.sum(), p)

    calls = {
        "per_sample_gradients": each,
        "per_sample_gradient_norms": lambda: t.norms(each()),
        "clipped_gradient": clipped,
        "input_gradient": lambda: grad(t.losses(p, x, y).sum(), x)[0],
        "input_jacobian": lambda: input_jacobian()[1],
        "jacobian": jacobian,
        "normal_equations": lambda: t.normal(jacobian()),
        "jvp": lambda: tangent()[1],
        "vjp": vjp,
        "hvp": hvp,
        "hessp": lambda: grad(kept, p, v, retain_graph=True),
        "gauss_newton_vp": gauss_newton,
        "sobolev": sobolev,
        "hessian": lambda: functional.hessian(lambda theta: t.loss(t.unflatten(theta), x, y), theta, vectorize=True),
        "ensemble": ensemble,
    }
    return t.runner(calls[call])


def make_hand_torch(problem, n_threads):
    """||g_s||^2 = sum_i ||grad_a_i||^2 (1 + ||h_{i-1}||^2), on top of autograd."""
    if problem.case.call not in NORMS:
        raise UnsupportedError("norms alone")
    t = _Torch(problem, n_threads)
    from torch.autograd import grad

    def call():
        y_hat, preactivations, inputs = _by_layer(t)
        grads_a = grad(t.losses_of(y_hat, t.y).sum(), preactivations)
        squares = sum(
            grad_a.square().sum(1) * (1 + h.square().sum(1)) for grad_a, h in zip(grads_a, inputs, strict=True)
        )
        if problem.case.call == "per_sample_gradient_norms":
            return squares.sqrt()
        factor = (problem.max_norm / squares.sqrt()).clamp(max=1)[:, None]
        clipped = []
        for grad_a, h in zip(grads_a, inputs, strict=True):
            scaled = grad_a * factor
            clipped += [scaled.T @ h, scaled.sum(0)]
        return clipped

    return t.runner(call)


# JAX -----------------------------------------------------------------------------------------------------------------


class _Jax:
    """A problem as arrays of JAX, and its functions."""

    def __init__(self, problem):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        self.jax, self.jnp, self.problem = jax, jnp, problem
        self.network = problem.case.network
        self.squared = self.network.loss == "squared_error"
        self.activate = jax_activation(self.network.activation)
        self.p = [jnp.asarray(part) for layer in problem.layers for part in layer]
        self.v = [jnp.asarray(part) for layer in problem.v for part in layer]
        self.x = jnp.asarray(problem.x)
        self.y = jnp.asarray(problem.y if self.squared else problem.y.astype(np.int32))
        self.c, self.grad_x = jnp.asarray(problem.cotangent), jnp.asarray(problem.grad_x)

    def forward(self, p, x):
        """y_hat."""
        h = x
        for i in range(0, len(p), 2):
            h = (self.activate(h) if i else h) @ p[i].T + p[i + 1]
        return h

    def losses_of(self, y_hat, y):
        """l_s, of one sample or of many."""
        if self.squared:
            return self.jnp.mean((y_hat - y) ** 2, axis=-1)
        one_hot = self.jax.nn.one_hot(y, self.network.sizes[-1], dtype=y_hat.dtype)
        return -self.jnp.sum(one_hot * self.jax.nn.log_softmax(y_hat), axis=-1)

    def losses(self, p, x, y):
        """The same from the parameters."""
        return self.losses_of(self.forward(p, x), y)

    def loss(self, p, x, y):
        """The mean loss."""
        return self.losses(p, x, y).mean()

    def unflatten(self, theta):
        """Parameters from one vector."""
        parts = self.jnp.split(theta, np.cumsum([part.size for part in self.p])[:-1])
        return [part.reshape(like.shape) for part, like in zip(parts, self.p, strict=True)]

    def norms(self, grads):
        """Of stored gradients."""
        return self.jnp.sqrt(sum((grad.reshape(len(grad), -1) ** 2).sum(1) for grad in grads))

    def runner(self, function, *arguments):
        """The function compiled, on arrays of the device; each call waits for the result."""
        compiled, block = self.jax.jit(function), self.jax.block_until_ready
        block(arguments)

        def call():
            return block(compiled(*arguments))

        return Runner(call, lambda: _shape_result(self.problem.case.call, self.jax.tree.map(np.asarray, call())))


def make_jax(problem, _n_threads):
    """The transformations of JAX."""
    j = _Jax(problem)
    jax, jnp = j.jax, j.jnp
    p, v, x, y, call = j.p, j.v, j.x, j.y, problem.case.call
    each = jax.vmap(jax.grad(j.losses), (None, 0, 0))
    each_jacobian = jax.vmap(jax.jacrev(j.forward), (None, 0))
    each_input_jacobian = jax.vmap(jax.jacrev(j.forward, argnums=1), (None, 0))

    def clipped(p, x, y):
        grads = each(p, x, y)
        factor = jnp.minimum(1, problem.max_norm / j.norms(grads))
        return [jnp.einsum("n...,n->...", grad, factor) for grad in grads]

    def normal(p, x, y):
        J = jnp.concatenate([part.reshape(*part.shape[:2], -1) for part in each_jacobian(p, x)], axis=2)
        J, r = J.reshape(-1, J.shape[2]), (j.forward(p, x) - y).ravel()
        return J.T @ J, J.T @ r

    def gauss_newton(p, x, y, v):
        y_hat, back = jax.vjp(lambda p: j.forward(p, x), p)
        _, tangent = jax.jvp(lambda p: j.forward(p, x), (p,), (v,))
        _, curved = jax.jvp(jax.grad(lambda z: j.losses_of(z, y).mean()), (y_hat,), (tangent,))
        return back(curved)[0]

    def sobolev(p, x, y, target):
        def total(p):
            extra = SOBOLEV_WEIGHT * jnp.mean((each_input_jacobian(p, x) - target) ** 2)
            return jnp.mean((j.forward(p, x) - y) ** 2) + extra

        return jax.value_and_grad(total)(p)

    along = jax.linearize(jax.grad(lambda p: j.loss(p, x, y)), p)[1] if call == "hessp" else None

    calls = {
        "per_sample_gradients": (each, p, x, y),
        "per_sample_gradient_norms": (lambda p, x, y: j.norms(each(p, x, y)), p, x, y),
        "clipped_gradient": (clipped, p, x, y),
        "input_gradient": (jax.vmap(jax.grad(j.losses, argnums=1), (None, 0, 0)), p, x, y),
        "input_jacobian": (each_input_jacobian, p, x),
        "jacobian": (each_jacobian, p, x),
        "normal_equations": (normal, p, x, y),
        "jvp": (lambda p, x, v: jax.jvp(lambda p: j.forward(p, x), (p,), (v,))[1], p, x, v),
        "vjp": (lambda p, x, c: jax.vjp(j.forward, p, x)[1](c), p, x, j.c),
        "hvp": (lambda p, x, y, v: jax.jvp(jax.grad(lambda p: j.loss(p, x, y)), (p,), (v,))[1], p, x, y, v),
        "hessp": (along, v),
        "gauss_newton_vp": (gauss_newton, p, x, y, v),
        "sobolev": (sobolev, p, x, y, j.grad_x),
        "hessian": (
            lambda theta, x, y: jax.hessian(lambda theta: j.loss(j.unflatten(theta), x, y))(theta),
            jnp.concatenate([part.ravel() for part in p]),
            x,
            y,
        ),
        "ensemble": (jax.vmap(jax.value_and_grad(j.loss), (0, None, None)), p, x, y),
    }
    return j.runner(*calls[call])


def make_jax_map(problem, _n_threads):
    """An ensemble by `jax.lax.map`: XLA's products of many small matrices at once are slow on CPUs."""
    if problem.case.call != "ensemble":
        raise UnsupportedError("ensembles alone")
    j = _Jax(problem)

    def members(p, x, y):
        return j.jax.lax.map(lambda p: j.jax.value_and_grad(j.loss)(p, x, y), p)

    return j.runner(members, j.p, j.x, j.y)


def make_hand_jax(problem, _n_threads):
    """||g_s||^2 = sum_i ||grad_a_i||^2 (1 + ||h_{i-1}||^2), from one gradient by zeros that are added to each a."""
    if problem.case.call not in NORMS:
        raise UnsupportedError("norms alone")
    j = _Jax(problem)
    jnp, L = j.jnp, len(problem.layers)

    def call(p, x, y):
        def total(shifts):
            inputs, h = [], x
            for i in range(L):
                h = j.activate(h) if i else h
                inputs.append(h)
                h = h @ p[2 * i].T + p[2 * i + 1] + shifts[i]
            return j.losses_of(h, y).sum(), inputs

        zeros = [jnp.zeros((len(x), len(p[2 * i + 1])), x.dtype) for i in range(L)]
        grads_a, inputs = j.jax.grad(total, has_aux=True)(zeros)
        norms = jnp.sqrt(
            sum((grad_a**2).sum(1) * (1 + (h**2).sum(1)) for grad_a, h in zip(grads_a, inputs, strict=True))
        )
        if problem.case.call == "per_sample_gradient_norms":
            return norms
        factor = jnp.minimum(1, problem.max_norm / norms)[:, None]
        clipped = []
        for grad_a, h in zip(grads_a, inputs, strict=True):
            scaled = grad_a * factor
            clipped += [scaled.T @ h, scaled.sum(0)]
        return clipped

    return j.runner(call, j.p, j.x, j.y)


MAKERS = {
    "ours": make_ours,
    "func": make_func,
    "torch": make_torch,
    "jax": make_jax,
    "jax_map": make_jax_map,
    "hand_torch": make_hand_torch,
    "hand_jax": make_hand_jax,
}
