"""Second derivatives by the inputs: ours, and PyTorch in each way that its users take; JAX is in a file of its own.

As in peers.py, a maker takes a problem and the number of threads, and returns a `Runner`; `result` returns arrays in
the layout of ours. Only the call itself is timed.

    numpy         NumPy by hand: numpy_jets.py
    func          torch.func: vmap of hessian, eager
    func_jvp      torch.func: jvp of jvp of the whole batch along each axis, eager
    func_compile  torch.compile of the equations of the layers by hand; autograd of it for the gradient of the loss
    deepxde       as DeepXDE: the gradient by x, and the gradient of each of its columns, with create_graph
"""

import itertools
import warnings

import input_derivative_jax
import numpy as np
import numpy_jets
from peers import Runner, UnsupportedError


def make_ours(problem, n_threads):
    """The method of `Network`, with `out=` if it has one; an objective for the equation."""
    import backprop

    case, dtype = problem.case, problem.dtype
    sizes = case.network.sizes
    net = backprop.Network(sizes, activations=case.network.activation, dtype=dtype, rng=0)
    net.params = np.concatenate([part.ravel() for layer in problem.layers for part in layer])
    backprop.set_num_threads(n_threads)
    x = problem.x
    if case.call == "pde_value_and_grad":
        fun, theta = net.pde_objective(x, problem.f, D=1.0), net.params.copy()
        beside = theta.copy()
        beside[0] = np.nextafter(beside[0], 1, dtype=dtype)
        turns = itertools.cycle((beside, theta))  # an objective keeps what it found for the last theta
        return Runner(lambda: fun(next(turns)), lambda: [np.copy(part) for part in fun(theta)])
    if case.call == "input_jet":
        return Runner(lambda: net.input_jet(x), lambda: [(jet := net.input_jet(x)).y, jet.dy, jet.d2y])
    method, out = getattr(net, case.call), np.empty(case.result_shape, dtype)
    return Runner(lambda: method(x, out=out), lambda: [np.copy(method(x, out=out))])


def make_numpy(problem, _n_threads):
    """NumPy by hand."""
    call = numpy_jets.make_call(problem)
    return Runner(call, call)


class _Torch:
    """A problem as tensors, with u(p, x) of one sample or of many, without the axis of the output."""

    def __init__(self, problem, n_threads):
        import torch
        from torch.nn import functional

        torch.set_num_threads(n_threads)
        self.torch, self.linear, self.problem = torch, functional.linear, problem
        name = problem.case.network.activation
        self.activate = torch.sin if name == "sin" else getattr(functional, name)
        self.p = [torch.tensor(part) for layer in problem.layers for part in layer]
        self.x, self.f = torch.tensor(problem.x), torch.tensor(problem.f[:, 0])
        n_in = self.x.shape[1]
        self.axes = torch.eye(n_in, dtype=self.x.dtype)[:, None].expand(n_in, *self.x.shape).contiguous()

    def u(self, p, x):
        """The network."""
        h = x
        for i in range(0, len(p), 2):
            h = self.linear(self.activate(h) if i else h, p[i], p[i + 1])
        return h[..., 0]

    def runner(self, call):
        """The call, and its result in NumPy."""

        def to_numpy(part):
            if isinstance(part, (tuple, list)):
                return [to_numpy(one) for one in part]
            return part.detach().numpy()

        return Runner(call, lambda: input_derivative_jax.shape_result(self.problem.case.call, to_numpy(call())))

    def transformed(self, laplacian, hessian, jet):
        """The call from functions of (p, x), with `torch.func` for the gradient by p."""
        from torch.func import grad_and_value

        p, x, call = self.p, self.x, self.problem.case.call
        if call == "pde_value_and_grad":
            both = grad_and_value(lambda p: (laplacian(p, x) - self.f).square().mean())
            return self.runner(lambda: both(p)[::-1])
        function = {"laplacian": laplacian, "input_hessian": hessian, "input_jet": jet}[call]
        if function is None:
            raise UnsupportedError(f"no {call}")
        return self.runner(lambda: function(p, x))


def make_func(problem, n_threads):
    """The Hessian of each sample."""
    t = _Torch(problem, n_threads)
    from torch.func import grad_and_value, hessian, vmap

    each = vmap(hessian(t.u, argnums=1), (None, 0))

    def second(p, x):
        return each(p, x).diagonal(dim1=1, dim2=2)

    def jet(p, x):
        dy, y = vmap(grad_and_value(t.u, argnums=1), (None, 0))(p, x)
        return y, dy, second(p, x)

    return t.transformed(lambda p, x: second(p, x).sum(1), each, jet)


def make_func_jvp(problem, n_threads):
    """The jvp of a jvp."""
    t = _Torch(problem, n_threads)
    from torch.func import jvp, vmap

    def jet(p, x):
        def both(e):
            (y, dy), (_, d2y) = jvp(lambda x: jvp(lambda x: t.u(p, x), (x,), (e,)), (x,), (e,))
            return y, dy, d2y

        y, dy, d2y = vmap(both)(t.axes)
        return y[0], dy.T, d2y.T

    return t.transformed(lambda p, x: jet(p, x)[2].sum(1), None, jet)


def _derivatives(torch, name, a):
    """g, g' and g''."""
    if name == "tanh":
        h = torch.tanh(a)
        prime = 1 - h * h
        return h, prime, -2 * h * prime
    if name == "sin":
        h = torch.sin(a)
        return h, torch.cos(a), -h
    below, density = 0.5 * (1 + torch.erf(a * 0.5**0.5)), torch.exp(-0.5 * a * a) * (0.5 / np.pi) ** 0.5
    return a * below, below + a * density, (2 - a * a) * density


def make_func_compile(problem, n_threads):
    """The same equations as `jax_layers`."""
    t = _Torch(problem, n_threads)
    import torch._inductor.config

    torch, name, L, call = t.torch, problem.case.network.activation, len(problem.layers), problem.case.call
    torch._dynamo.reset()
    torch._inductor.config.force_disable_caches = True  # so that the first call shows what compiling costs
    warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")

    def laplacian(p, x):
        a, d, s = t.linear(x, p[0], p[1]), p[0].T[:, None], None
        for i in range(1, L):
            h, prime, second = _derivatives(torch, name, a)
            curved = second * (d * d).sum(0)
            s = curved if s is None else curved + prime * s
            a, s = t.linear(h, p[2 * i], p[2 * i + 1]), s @ p[2 * i].T
            d = (prime * d) @ p[2 * i].T if i < L - 1 else None
        return s[:, 0]

    def curves(p, x):
        a, d = t.linear(x, p[0], p[1]), p[0].T[:, None]
        tangents, primes, seconds = [], [], []
        for i in range(1, L):
            h, prime, second = _derivatives(torch, name, a)
            tangents.append(d)
            primes.append(prime)
            seconds.append(second)
            a, d = t.linear(h, p[2 * i], p[2 * i + 1]), (prime * d) @ p[2 * i].T
        grad_h, found = p[-2], []
        for i in range(L - 2, -1, -1):
            found.append(grad_h * seconds[i])
            grad_h = (grad_h * primes[i]) @ p[2 * i] if i else None
        return a[:, 0], d[..., 0].T, tangents, found[::-1]

    def hessian(p, x):
        _, _, tangents, found = curves(p, x)
        total = torch.zeros((), dtype=x.dtype)
        for d, curve in zip(tangents, found, strict=True):
            total = total + torch.einsum("jnu,lnu->njl", d * curve, d.expand(-1, len(x), -1))
        return total

    def jet(p, x):
        y, dy, tangents, found = curves(p, x)
        return y, dy, sum((d * d * curve).sum(2).T for d, curve in zip(tangents, found, strict=True))

    def loss(p, x):
        return (laplacian(p, x) - t.f).square().mean()

    functions = {"laplacian": laplacian, "input_hessian": hessian, "input_jet": jet, "pde_value_and_grad": loss}
    function = torch.compile(functions[call], fullgraph=True, dynamic=False)
    if call != "pde_value_and_grad":
        return t.runner(lambda: function(t.p, t.x))
    p = [part.requires_grad_() for part in t.p]

    def run():
        value = function(p, t.x)
        return value, torch.autograd.grad(value, p, materialize_grads=True)

    return t.runner(run)


def make_deepxde(problem, n_threads):
    """Reverse over reverse."""
    t = _Torch(problem, n_threads)
    torch, call = t.torch, problem.case.call
    x, p = t.x.requires_grad_(), t.p
    if call == "pde_value_and_grad":
        p = [part.requires_grad_() for part in p]

    def grad(y):
        return torch.autograd.grad(y, x, grad_outputs=torch.ones_like(y), create_graph=True)[0]

    def rows():
        y = t.u(p, x)[:, None]
        dy = grad(y)
        return y, dy, [grad(dy[:, i : i + 1]) for i in range(x.shape[1])]

    def second():
        y, dy, H = rows()
        return y, dy, torch.cat([row[:, i : i + 1] for i, row in enumerate(H)], 1)

    def loss():
        value = (second()[2].sum(1) - t.f).square().mean()
        # The output's bias has no part in the Laplacian.
        return value, torch.autograd.grad(value, p, materialize_grads=True)

    calls = {
        "laplacian": lambda: second()[2].sum(1),
        "input_hessian": lambda: torch.stack(rows()[2], 1),
        "input_jet": second,
        "pde_value_and_grad": loss,
    }
    return t.runner(calls[call])


MAKERS = {
    "ours": make_ours,
    "numpy": make_numpy,
    "func": make_func,
    "func_jvp": make_func_jvp,
    "func_compile": make_func_compile,
    "deepxde": make_deepxde,
    **input_derivative_jax.MAKERS,
}
COMPILED = ("func_compile", *input_derivative_jax.MAKERS)
