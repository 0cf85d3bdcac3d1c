"""Every derivative by its definition, in float64, from torch.func and from JAX, and the table of the calls; no test.

`TorchPeer` writes each definition down with torch.func's transformations. `JaxPeer` takes only the derivatives of one
sample from JAX, in compiled functions, and adds them up to the calls' results as explicit matrices. The two
share the formulas of the losses and nothing else; activations are each library's own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from types import ModuleType

import numpy as np
from problems import LOSS_NAMES, PARAMETERS, Y_HAT_LOSSES, Problem, random_problem, split

from backprop.activations import ACTIVATIONS

# The function that both differentiate ---------------------------------------------------------------------------------


def torch_activations(torch: ModuleType) -> dict[str, Callable]:
    """All activations as functions of a and the parameter, PyTorch's own."""
    F = torch.nn.functional
    return {
        "identity": lambda a, p: a,
        "relu": lambda a, p: F.relu(a),
        "leaky_relu": F.leaky_relu,
        "elu": F.elu,
        "selu": lambda a, p: F.selu(a),
        "gelu": lambda a, p: F.gelu(a),
        "gelu_tanh": lambda a, p: F.gelu(a, approximate="tanh"),
        "silu": lambda a, p: F.silu(a),
        "mish": lambda a, p: F.mish(a),
        "softplus": lambda a, p: F.softplus(a),
        "softsign": lambda a, p: F.softsign(a),
        "tanh": lambda a, p: torch.tanh(a),
        "sigmoid": lambda a, p: torch.sigmoid(a),
        "hardtanh": lambda a, p: F.hardtanh(a),
        "hardsigmoid": lambda a, p: torch.clamp(a + 3, 0, 6) / 6,  # F.hardsigmoid has float32's 1/6 in float64
        "hardswish": lambda a, p: F.hardswish(a),
        "relu6": lambda a, p: F.relu6(a),
        "sin": lambda a, p: torch.sin(a),
        "exp": lambda a, p: torch.exp(a),
    }


def torch_activation(torch: ModuleType, spec: str | tuple[str, float]) -> Callable:
    """One activation as a function of a, with the parameter that its specification gives."""
    row, parameter = split(spec, ACTIVATIONS)
    g = torch_activations(torch)[row.name]
    return lambda a: g(a, parameter)


def jax_activations(jax: ModuleType) -> dict[str, Callable]:
    """Some of JAX's own activations: every kind of g'', and few enough to compile in seconds."""
    nn, jnp = jax.nn, jax.numpy
    return {
        "identity": lambda a, p: a,
        "leaky_relu": nn.leaky_relu,
        "elu": nn.elu,
        "gelu": lambda a, p: nn.gelu(a, approximate=False),
        "silu": lambda a, p: nn.silu(a),
        "softplus": lambda a, p: nn.softplus(a),
        "softsign": lambda a, p: nn.soft_sign(a),
        "tanh": lambda a, p: jnp.tanh(a),
        "hardswish": lambda a, p: nn.hard_swish(a),
        "sin": lambda a, p: jnp.sin(a),
    }


JAX_ACTIVATIONS = ["identity", "leaky_relu", "elu", "gelu", "silu", "softplus", "softsign", "tanh", "hardswish", "sin"]


def layer_outputs(theta, x, sizes, activate):
    """h_L of one sample x (n_0,): activate(i, a) is g of layer i = 0..L-1."""
    h, start = x, 0
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        W = theta[start : start + n_in * n_out].reshape(n_out, n_in)
        b = theta[start + n_in * n_out : start + n_in * n_out + n_out]
        h = activate(i, W @ h + b)
        start += n_out * (n_in + 1)
    return h


def loss_of_sample(name, parameter, z, y, w, xp, nn):
    """sum_j w_j l_j / n_out of one sample; of cross_entropy w_0 l. xp and nn: torch and its functional, or jax's."""
    d = z - y
    if name == "cross_entropy":
        target = (1 - parameter) * y + parameter / len(y)
        return -w[0] * (target * nn.log_softmax(z, -1)).sum()
    if name == "squared_error":
        terms = d * d
    elif name == "absolute_error":
        terms = xp.where(d > 0, d, xp.where(d < 0, -d, 0 * d))
    elif name == "huber":
        terms = xp.where(xp.abs(d) <= parameter, d * d / 2, parameter * (xp.abs(d) - parameter / 2))
    elif name == "quantile":
        terms = xp.where(d > 0, (1 - parameter) * d, xp.where(d < 0, -parameter * d, 0 * d))
    elif name == "hinge":
        terms = xp.where(1 - y * z > 0, 1 - y * z, 0 * z)
    elif name == "poisson":
        terms = xp.exp(z) - y * z
    elif name == "binary_cross_entropy":
        terms = nn.softplus(z) - y * z
    return (w * terms).sum() / len(y)


# The calls by their definitions --------------------------------------------------------------------------------------


@dataclass
class Data:
    """A problem with every other argument of the calls; x_filled is x without the NaN of rows whose weights are 0."""

    problem: Problem
    x: np.ndarray
    x_filled: np.ndarray
    y: np.ndarray
    cotangent: np.ndarray
    v: np.ndarray
    grad_x: np.ndarray
    weight: object
    max_norm: object
    multipliers: np.ndarray
    directions: np.ndarray | None
    cot_y: np.ndarray
    cot_dy: np.ndarray
    cot_d2y: np.ndarray

    @property
    def keywords(self):
        """sample_weight, if there is one."""
        weight = self.problem.weight
        return {} if weight is None else {"sample_weight": weight}


class Peer:
    """Common to both peers: the data as float64 arrays, and the calls that follow from others.

    The methods have the names of `Network`'s and return NumPy arrays: one, or a tuple.
    """

    def __init__(self, library: ModuleType, data: Data) -> None:
        self.library, self.data = library, data
        self.sizes, self.layers, (self.loss, self.loss_parameter) = data.problem.specification
        _, self.y, weight = data.problem.data
        self.n, self.n_out = self.y.shape
        weight = np.ones(self.n) if weight is None else np.array(weight, float)
        self.w = weight if weight.ndim == 2 else np.repeat(weight[:, None], self.n_out, axis=1)
        # l_s is a mean over outputs, so that the mean of the l_s has this as its divisor
        self.divisor = self.w[:, 0].sum() if self.loss.name == "cross_entropy" else self.w.sum() / self.n_out
        self.theta, self.x = np.array(data.problem.net.params, float), np.array(data.x_filled, float)

    def per_sample_gradient_norms(self):
        return np.linalg.norm(self.per_sample_gradients(), axis=1)

    def clipped_gradient(self):
        gradients = self.per_sample_gradients()
        norms = np.linalg.norm(gradients, axis=1)
        factor = np.ones(self.n)
        factor[norms > self.data.max_norm] = self.data.max_norm / norms[norms > self.data.max_norm]
        return (factor[:, None] * gradients).sum(axis=0)

    def residuals_fun(self):
        return (np.sqrt(self.w) * (self.forward() - self.y)).ravel()

    def normal_equations(self):
        J = self.residuals_jac()
        return J.T @ J, J.T @ self.residuals_fun()

    @property
    def slopes(self):
        """grad_x as (n, n_L, n_0), and the weight of sobolev_value_and_grad as (n_L, n_0)."""
        shape = (self.n_out, self.sizes[0])
        return np.array(self.data.grad_x, float).reshape(self.n, *shape), np.broadcast_to(self.data.weight, shape) * 1.0

    @property
    def directions(self):
        """Those of each sample, (n, k, n_0)."""
        n_in = self.sizes[0]
        given = np.eye(n_in) if self.data.directions is None else np.array(self.data.directions, float)
        return np.broadcast_to(given, (self.n, given.shape[-2], n_in)).copy()

    @property
    def cotangents(self):
        """Those of y, dy and d2y."""
        return [np.array(part, float) for part in (self.data.cot_y, self.data.cot_dy, self.data.cot_d2y)]

    @property
    def multipliers(self):
        """Those of each sample, (n, n_L)."""
        return np.broadcast_to(np.array(self.data.multipliers, float), (self.n, self.n_out))

    def laplacian(self):
        return self.input_hessians().trace(axis1=2, axis2=3)

    def input_hessian(self):
        return np.einsum("so,soij->sij", self.multipliers, self.input_hessians())

    def input_jet(self):
        Q, H = self.directions, self.input_hessians()
        return self.forward(), self.input_jacobian() @ Q.swapaxes(1, 2), np.einsum("ski,soij,skj->sok", Q, H, Q)


class TorchPeer(Peer):
    """Each definition by the transformations of torch.func."""

    def __init__(self, torch: ModuleType, data: Data) -> None:
        super().__init__(torch, data)
        self.func, self.activations = torch.func, torch_activations(torch)
        self.theta, self.x, self.y, self.w = map(torch.as_tensor, (self.theta, self.x, self.y, self.w))

    def z(self, theta, x):
        """The argument of the loss for one sample, a_L or y_hat: (n_L,)."""

        def activate(i, a):
            row, parameter = self.layers[i]
            return self.activations[row.name](a, parameter)

        return layer_outputs(theta, x, self.sizes, activate)

    def y_hat(self, theta, x):
        torch, z = self.library, self.z(theta, x)
        if self.loss.link is None:
            return z
        return {"softmax": lambda a: torch.softmax(a, -1), "sigmoid": torch.sigmoid, "exp": torch.exp}[self.loss.link](
            z
        )

    def l_of_z(self, z, y, w):
        torch = self.library
        return loss_of_sample(self.loss.name, self.loss_parameter, z, y, w, torch, torch.nn.functional)

    def l_s(self, theta, x, y, w):
        return self.l_of_z(self.z(theta, x), y, w)

    def all_rows(self, function, theta, *arrays):
        """function(theta, row, ...) for each row of the arrays."""
        return self.func.vmap(lambda *row: function(theta, *row))(*arrays)

    def mean_loss(self, theta):
        return self.all_rows(self.l_s, theta, self.x, self.y, self.w).sum() / self.divisor

    def all_z(self, theta):
        return self.all_rows(self.z, theta, self.x)

    def all_y_hat(self, theta):
        return self.all_rows(self.y_hat, theta, self.x)

    def direction(self):
        return self.library.as_tensor(np.array(self.data.v, float))

    def forward(self):
        return self.all_y_hat(self.theta).numpy()

    def value_and_grad(self):
        return self.mean_loss(self.theta).numpy(), self.func.grad(self.mean_loss)(self.theta).numpy()

    def vjp(self):
        _, back = self.func.vjp(lambda theta, x: self.all_rows(self.y_hat, theta, x), self.theta, self.x)
        return tuple(part.numpy() for part in back(self.library.as_tensor(np.array(self.data.cotangent, float))))

    def jvp(self):
        return self.func.jvp(self.all_y_hat, (self.theta,), (self.direction(),))[1].numpy()

    def input_gradient(self):
        return self.all_rows(self.func.grad(self.l_s, 1), self.theta, self.x, self.y, self.w).numpy()

    def input_jacobian(self):
        return self.all_rows(self.func.jacrev(self.y_hat, 1), self.theta, self.x).numpy()

    def input_hessians(self):
        """The Hessian of each output by x, (n, n_L, n_0, n_0)."""
        jacrev = self.func.jacrev
        return self.all_rows(jacrev(jacrev(self.y_hat, 1), 1), self.theta, self.x).numpy()

    def jet_vjp(self):
        """Of sums of the outputs, direction by direction: all Hessians together would take seconds."""
        grad, vmap = self.func.grad, self.func.vmap
        rows = [self.library.as_tensor(part) for part in (self.directions, *self.cotangents)]

        def total(theta, x, q, cot_y, cot_dy, cot_d2y):
            def slope(x, q, weights):
                return grad(lambda x: weights @ self.y_hat(theta, x))(x) @ q

            def bend(q, weights):
                return grad(slope)(x, q, weights) @ q

            first, second = vmap(lambda q, w: slope(x, q, w))(q, cot_dy.T), vmap(bend)(q, cot_d2y.T)
            return cot_y @ self.y_hat(theta, x) + first.sum() + second.sum()

        back = grad(lambda theta, x: self.all_rows(total, theta, x, *rows).sum(), (0, 1))
        return tuple(part.numpy() for part in back(self.theta, self.x))

    def jacobian(self):
        return self.all_rows(self.func.jacrev(self.y_hat, 0), self.theta, self.x).numpy()

    def per_sample_gradients(self):
        return self.all_rows(self.func.grad(self.l_s, 0), self.theta, self.x, self.y, self.w).numpy()

    def hvp(self):
        return self.func.jvp(self.func.grad(self.mean_loss), (self.theta,), (self.direction(),))[1].numpy()

    def gauss_newton_vp(self):
        def mean_of_z(z):
            return self.func.vmap(self.l_of_z)(z, self.y, self.w).sum() / self.divisor

        z, J_v = self.func.jvp(self.all_z, (self.theta,), (self.direction(),))
        _, H_J_v = self.func.jvp(self.func.grad(mean_of_z), (z,), (J_v,))
        _, back = self.func.vjp(self.all_z, self.theta)
        return back(H_J_v)[0].numpy()

    def hessian(self):
        return self.func.jacfwd(self.func.grad(self.mean_loss))(self.theta).numpy()

    def residuals_fun(self):
        return (self.w.sqrt() * (self.all_y_hat(self.theta) - self.y)).reshape(-1).numpy()

    def residuals_jac(self):
        J = self.library.as_tensor(self.jacobian())
        return (self.w.sqrt()[:, :, None] * J).reshape(self.n * self.n_out, -1).numpy()

    def sobolev_value_and_grad(self):
        slopes, weight = map(self.library.as_tensor, self.slopes)

        def term(theta, x, y, slopes, w):
            slope_error = self.func.jacrev(self.y_hat, 1)(theta, x) - slopes
            return w * (((self.y_hat(theta, x) - y) ** 2).mean() + (weight * slope_error**2).mean())

        def value(theta):
            w = self.w[:, 0]
            return self.all_rows(term, theta, self.x, self.y, slopes, w).sum() / w.sum()

        return value(self.theta).numpy(), self.func.grad(value)(self.theta).numpy()


JAX_LINKS = [None, "exp", "sigmoid", "softmax"]
JAX_ROWS = 64  # JAX compiles for each shape: batches are cut into pieces of so many rows, the last one filled up


@lru_cache
def jax_functions(jax: ModuleType, sizes: tuple[int, ...]) -> dict[str, Callable]:
    """Derivatives of each sample, for a batch of JAX_ROWS; each function compiles at its first call.

    Activations and losses are chosen at run time, by numbers: one compilation serves all networks of these sizes.
    """
    activations = list(jax_activations(jax).values())
    losses = [lambda p, z, y, w, name=name: loss_of_sample(name, p, z, y, w, jax.numpy, jax.nn) for name in LOSS_NAMES]

    def z_of(theta, x, spec):
        return layer_outputs(
            theta, x, sizes, lambda i, a: jax.lax.switch(spec["codes"][i], activations, a, spec["parameters"][i])
        )

    def l_of_z(z, y, w, spec):
        return jax.lax.switch(spec["loss"], losses, spec["loss_parameter"], z, y, w)

    def l_s(theta, x, y, w, spec):
        return l_of_z(z_of(theta, x, spec), y, w, spec)

    def first(theta, x, y, w, spec):
        z_theta, z_x = jax.jacrev(z_of, (0, 1))(theta, x, spec)
        loss, (l_theta, l_x) = jax.value_and_grad(l_s, (0, 1))(theta, x, y, w, spec)
        z = z_of(theta, x, spec)
        return {"z": z, "z_theta": z_theta, "z_x": z_x, "l": loss, "l_theta": l_theta, "l_x": l_x}

    def sobolev(theta, x, y, w, slopes, weight, spec):
        slope_error = jax.jacrev(z_of, 1)(theta, x, spec) - slopes
        return w[0] * (((z_of(theta, x, spec) - y) ** 2).mean() + (weight * slope_error**2).mean())

    def y_hat(theta, x, spec):
        links = [lambda z: z, jax.numpy.exp, jax.nn.sigmoid, jax.nn.softmax]  # in the order of JAX_LINKS
        return jax.lax.switch(spec["link"], links, z_of(theta, x, spec))

    def jet(theta, x, q, spec):
        J, H = jax.jacrev(y_hat, 1)(theta, x, spec), jax.hessian(y_hat, 1)(theta, x, spec)
        return y_hat(theta, x, spec), J @ q.T, jax.numpy.einsum("ki,oij,kj->ok", q, H, q)

    def jet_back(theta, x, q, cot_y, cot_dy, cot_d2y, spec):
        _, back = jax.vjp(lambda theta, x: jet(theta, x, q, spec), theta, x)
        return back((cot_y, cot_dy, cot_d2y))

    def compiled(function, *in_axes):
        return jax.jit(jax.vmap(function, in_axes))

    return {
        "first": compiled(first, None, 0, 0, 0, None),
        "l_z_z": compiled(jax.hessian(l_of_z), 0, 0, 0, None),
        "l_theta_theta": compiled(jax.jacfwd(jax.grad(l_s)), None, 0, 0, 0, None),
        "sobolev": compiled(jax.value_and_grad(sobolev), None, 0, 0, 0, 0, None, None),
        "input_hessians": compiled(jax.hessian(y_hat, 1), None, 0, None),
        "jet_back": compiled(jet_back, None, 0, 0, 0, 0, 0, None),
    }


class JaxPeer(Peer):
    """The calls as sums over samples of JAX's derivatives of one sample."""

    def __init__(self, jax: ModuleType, data: Data) -> None:
        super().__init__(jax, data)
        self.functions = jax_functions(jax, self.sizes)
        self.spec = {
            "codes": np.array([JAX_ACTIVATIONS.index(row.name) for row, _ in self.layers]),
            "parameters": np.array([parameter for _, parameter in self.layers], float),
            "loss": LOSS_NAMES.index(self.loss.name),
            "loss_parameter": float(self.loss_parameter),
            "link": JAX_LINKS.index(self.loss.link),
        }

    def pieces(self, name, arrays, *rest, before=()):
        """The results of a compiled function for the rows of the arrays, JAX_ROWS at a time."""
        function, results = self.functions[name], []
        for start in range(0, self.n, JAX_ROWS):
            rows = [array[start : start + JAX_ROWS] for array in arrays]
            n_rows = len(rows[0])
            filled = [np.concatenate([part, np.zeros((JAX_ROWS - n_rows, *part.shape[1:]))]) for part in rows]
            result = function(*before, *filled, *rest, self.spec)
            results.append(self.library.tree.map(lambda part, n=n_rows: np.asarray(part)[:n], result))
        return self.library.tree.map(lambda *parts: np.concatenate(parts), *results)

    @cached_property
    def rows(self):
        """Values and first derivatives of every sample: a dictionary of arrays."""
        rows = self.pieces("first", (self.x, self.y, self.w), before=(self.theta,))
        z, identity = rows["z"], np.eye(self.n_out)
        link = self.loss.link
        if link == "softmax":
            p = np.exp(z - z.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            y_hat, slope = p, p[:, :, None] * identity - p[:, :, None] * p[:, None, :]
        elif link == "sigmoid":
            y_hat = 1 / (1 + np.exp(-z))
            slope = (np.exp(-z) * y_hat**2)[:, :, None] * identity
        else:
            y_hat = np.exp(z) if link == "exp" else z
            slope = (np.exp(z) if link == "exp" else np.ones_like(z))[:, :, None] * identity
        return rows | {"y_hat": y_hat, "jacobian": slope @ rows["z_theta"], "input_jacobian": slope @ rows["z_x"]}

    def forward(self):
        return self.rows["y_hat"]

    def value_and_grad(self):
        return self.rows["l"].sum() / self.divisor, self.rows["l_theta"].sum(axis=0) / self.divisor

    def vjp(self):
        cotangent = np.array(self.data.cotangent, float)
        by_theta = np.einsum("sj,sjp->p", cotangent, self.rows["jacobian"])
        return by_theta, np.einsum("sj,sji->si", cotangent, self.rows["input_jacobian"])

    def jvp(self):
        return self.rows["jacobian"] @ np.array(self.data.v, float)

    def input_gradient(self):
        return self.rows["l_x"]

    def input_jacobian(self):
        return self.rows["input_jacobian"]

    def input_hessians(self):
        """The Hessian of each output by x, (n, n_L, n_0, n_0)."""
        return self.pieces("input_hessians", (self.x,), before=(self.theta,))

    def jet_vjp(self):
        """With directions and cotangents of 0 up to a fixed number of directions, since JAX compiles for each."""
        Q, (cot_y, cot_dy, cot_d2y) = self.directions, self.cotangents
        n_more = MOST_DIRECTIONS - Q.shape[1]
        Q = np.pad(Q, ((0, 0), (0, n_more), (0, 0)))
        cot_dy, cot_d2y = (np.pad(part, ((0, 0), (0, 0), (0, n_more))) for part in (cot_dy, cot_d2y))
        by_theta, by_x = self.pieces("jet_back", (self.x, Q, cot_y, cot_dy, cot_d2y), before=(self.theta,))
        return by_theta.sum(axis=0), by_x

    def jacobian(self):
        return self.rows["jacobian"]

    def per_sample_gradients(self):
        return self.rows["l_theta"]

    def hessian(self):
        by_sample = self.pieces("l_theta_theta", (self.x, self.y, self.w), before=(self.theta,))
        return by_sample.sum(axis=0) / self.divisor

    def hvp(self):
        return self.hessian() @ np.array(self.data.v, float)

    def gauss_newton_vp(self):
        J, H = self.rows["z_theta"], self.pieces("l_z_z", (self.rows["z"], self.y, self.w))
        return np.einsum("sjp,sjk,sk->p", J, H, J @ np.array(self.data.v, float)) / self.divisor

    def residuals_jac(self):
        return (np.sqrt(self.w)[:, :, None] * self.rows["jacobian"]).reshape(self.n * self.n_out, -1)

    def sobolev_value_and_grad(self):
        slopes, weight = self.slopes
        values, gradients = self.pieces("sobolev", (self.x, self.y, self.w, slopes), weight, before=(self.theta,))
        total = self.w[:, 0].sum()
        return values.sum() / total, gradients.sum(axis=0) / total


# The table -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call: how to make it, and what its arguments and results are like.

    Attributes
    ----------
    run : callable
        run(net, data, **keywords): the call with the data's arguments.
    peer : str
        The method of `Peer`.
    arguments : tuple of str
        Its own arguments, besides x.
    out : str
        The shape of the one array that comes back, by the names of the dimensions; "" if the call has no out.
    by_row : tuple of int
        The results (by place) whose row s depends on sample s alone.
    at_theta : bool
        True if the call makes a function of theta, the parameters: no params=, no out=.
    is_quick : bool
        Whether plain arguments go past the checks of Python.
    """

    run: Callable
    peer: str
    arguments: tuple = ()
    out: str = ""
    by_row: tuple = ()
    at_theta: bool = False
    is_quick: bool = True
    losses: tuple = tuple(LOSS_NAMES)
    weights: tuple = (None, "sample", "entry")

    @property
    def has_y(self):
        return "y" in self.arguments

    def out_shape(self, data):
        net = data.problem.net
        sizes = {"n": len(data.x), "n_0": net.sizes[0], "n_L": net.sizes[-1], "n_params": net.n_params}
        return tuple(sizes[name] for name in self.out.split())


def _method(name, *arguments, **attributes):
    """A call on the network with x, then these attributes of the data, and the sample weights if it takes y."""

    def run(net, data, **keywords):
        weights = data.keywords if "y" in arguments else {}
        return getattr(net, name)(data.x, *(getattr(data, a) for a in arguments), **weights, **keywords)

    return Call(run, name, arguments, **attributes)


def _hessp(net, data, **keywords):
    return net.objective(data.x, data.y, **data.keywords, **keywords).hessp(net.params, data.v)


def _residuals(which):
    def run(net, data, **keywords):
        return net.residuals(data.x, data.y, **data.keywords, **keywords)[which](net.params)

    return run


def _input_jet(net, data, **keywords):
    jet = net.input_jet(data.x, data.directions, **keywords)
    return jet.y, jet.dy, jet.d2y


_SQUARED = {"losses": ("squared_error",)}
CALLS = {
    "vjp": _method("vjp", "cotangent", by_row=(1,)),
    "jvp": _method("jvp", "v", out="n n_L", by_row=(0,)),
    "input_gradient": _method("input_gradient", "y", out="n n_0", by_row=(0,)),
    "input_jacobian": _method("input_jacobian", out="n n_L n_0", by_row=(0,)),
    "jacobian": _method("jacobian", out="n n_L n_params", by_row=(0,)),
    "per_sample_gradients": _method("per_sample_gradients", "y", out="n n_params", by_row=(0,)),
    "per_sample_gradient_norms": _method("per_sample_gradient_norms", "y", out="n", by_row=(0,)),
    "clipped_gradient": _method("clipped_gradient", "y", "max_norm", out="n_params"),
    "hvp": _method("hvp", "y", "v", out="n_params"),
    "gauss_newton_vp": _method("gauss_newton_vp", "y", "v", out="n_params"),
    "hessian": _method("hessian", "y", out="n_params n_params"),
    "objective.hessp": Call(_hessp, "hvp", ("y", "v"), at_theta=True),
    "laplacian": _method("laplacian", out="n n_L", by_row=(0,)),
    "input_hessian": _method("input_hessian", "multipliers", out="n n_0 n_0", by_row=(0,)),
    "input_jet": Call(_input_jet, "input_jet", ("directions",), by_row=(0, 1, 2)),
    "jet_vjp": _method("jet_vjp", "cot_y", "cot_dy", "cot_d2y", "directions", by_row=(1,), is_quick=False),
    "residuals.fun": Call(_residuals(0), "residuals_fun", ("y",), at_theta=True, **_SQUARED),
    "residuals.jac": Call(_residuals(1), "residuals_jac", ("y",), at_theta=True, **_SQUARED),
    "normal_equations": _method("normal_equations", "y", **_SQUARED),
    "sobolev_value_and_grad": _method(
        "sobolev_value_and_grad", "y", "grad_x", "weight", out="n_params", weights=(None, "sample"), **_SQUARED
    ),
}
FIRST_PART = {
    "forward": _method("forward", by_row=(0,)),
    "value_and_grad": _method("value_and_grad", "y", out="n_params"),
}


MOST_DIRECTIONS = 4


def arrays(result):
    """The result of a call as a tuple of arrays; a Python float becomes a float64 array."""
    return tuple(np.asarray(part) for part in (result if isinstance(result, tuple | list) else (result,)))


# Random networks with data -------------------------------------------------------------------------------------------


def random_data(rng, sizes, call, *, activations, n_samples=7, dtype="float64", layout="plain", limit=8.0, **fixed):
    """A problem that the call takes, with directions; what is not fixed (loss, output, weight) is drawn.

    Parameters
    ----------
    activations : sequence of str
        What hidden layers and outputs are drawn from; every second one has a parameter other than the default.
    """

    def spec(name):
        return (name, PARAMETERS[name]) if name in PARAMETERS and rng.random() < 0.5 else name

    loss = fixed["loss"] if "loss" in fixed else str(rng.choice(call.losses))
    by = fixed["weight"] if "weight" in fixed else rng.choice(np.array(call.weights, object))
    output = fixed.get("output", str(rng.choice(activations)))
    problem = random_problem(
        rng,
        list(sizes),
        activations=[spec(str(rng.choice(activations))) for _ in sizes[2:]],
        output=spec(output) if loss in Y_HAT_LOSSES else "identity",
        loss=spec(loss),
        dtype=dtype,
        n_samples=n_samples,
        weight="sample" if by and loss == "cross_entropy" else by,
        labels=bool(rng.random() < 0.5),
        layout=layout,
        limit=limit,
    )
    return with_directions(rng, problem, call)


def with_directions(rng, problem, call):
    """The other arguments of the calls, for a problem; if the call takes y, x is NaN in rows whose weights are 0."""
    net, x = problem.net, problem.x
    n_samples, n_out, n_in = len(x), net.sizes[-1], net.sizes[0]
    if problem.weight is not None and call.has_y:
        weight = np.asarray(problem.weight)
        skipped = (weight == 0) if weight.ndim == 1 else (weight == 0).all(axis=1)
        x = np.array(x)
        x[skipped] = np.nan
    draw = lambda *shape, rng=rng: rng.normal(size=shape).astype(net.dtype)  # noqa: E731
    more = rng.spawn(1)[0]  # so that the others are what they were before these came
    k = int(more.integers(1, MOST_DIRECTIONS + 1))
    directions = [None, draw(k, n_in, rng=more), draw(n_samples, k, n_in, rng=more)][more.integers(3)]
    k = n_in if directions is None else k
    return Data(
        problem=problem,
        x=x,
        x_filled=problem.x,
        y=problem.y,
        cotangent=draw(n_samples, n_out),
        v=draw(net.n_params),
        grad_x=draw(n_samples, n_in) if n_out == 1 and rng.random() < 0.5 else draw(n_samples, n_out, n_in),
        weight=float(rng.uniform(0.1, 2.0)) if rng.random() < 0.5 else rng.uniform(0.0, 2.0, (n_out, n_in)),
        max_norm=float(rng.uniform(0.2, 3.0)),
        multipliers=draw(n_out, rng=more) if more.random() < 0.5 else draw(n_samples, n_out, rng=more),
        directions=directions,
        cot_y=draw(n_samples, n_out, rng=more),
        cot_dy=draw(n_samples, n_out, k, rng=more),
        cot_d2y=draw(n_samples, n_out, k, rng=more),
    )


def rows_of(data, rows):
    """The same data for some rows: a slice or a mask."""
    problem = data.problem
    weight = None if problem.weight is None else problem.weight[rows]
    part = replace(problem, x=problem.x[rows], y=problem.y[rows], y_filled=problem.y_filled[rows], weight=weight)
    multipliers, directions = data.multipliers, data.directions
    return replace(
        data, problem=part, x=data.x[rows], x_filled=data.x_filled[rows], y=data.y[rows],
        cotangent=data.cotangent[rows], grad_x=data.grad_x[rows],
        multipliers=multipliers[rows] if multipliers.ndim == 2 else multipliers,
        directions=directions[rows] if np.ndim(directions) == 3 else directions,
        cot_y=data.cot_y[rows], cot_dy=data.cot_dy[rows], cot_d2y=data.cot_d2y[rows],
    )  # fmt: skip


def with_params(data, theta):
    """The same data for a network of the same shape with other parameters."""
    net = copy.deepcopy(data.problem.net)
    net.params = theta
    return replace(data, problem=replace(data.problem, net=net))
