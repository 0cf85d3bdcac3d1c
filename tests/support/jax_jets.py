"""Second derivatives by the inputs from `jax.hessian`, and their gradients from `jax.grad` around it; no test.

All networks are computed as one network of `DEPTH` layers of `WIDTH` units, so that JAX compiles once: units and
layers that a network lacks have weights of 0, or pass on what they get. Activations and links are chosen at run time.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

import numpy as np
from call_peers import jax_activations
from input_jets import JetProblem, given

from backprop.api import parameters

WIDTH, DEPTH, ROWS, MOST_DIRECTIONS = 8, 4, 8, 8  # of every network and batch here; fewer are filled up
LINKS = [None, "exp", "sigmoid", "softmax"]


def all_activations(jax: ModuleType) -> dict:
    """Every activation as a function of a and the parameter, JAX's own."""
    nn, jnp = jax.nn, jax.numpy
    return jax_activations(jax) | {
        "relu": lambda a, p: nn.relu(a),
        "selu": lambda a, p: nn.selu(a),
        "gelu_tanh": lambda a, p: nn.gelu(a, approximate=True),
        "mish": lambda a, p: nn.mish(a),
        "sigmoid": lambda a, p: nn.sigmoid(a),
        "hardtanh": lambda a, p: nn.hard_tanh(a),
        "hardsigmoid": lambda a, p: nn.hard_sigmoid(a),
        "relu6": lambda a, p: nn.relu6(a),
        "exp": lambda a, p: jnp.exp(a),
    }


@lru_cache
def functions(jax: ModuleType) -> dict:
    """The compiled functions: derivatives of the outputs by x, and gradients of what is made of these."""
    jnp, names = jax.numpy, all_activations(jax)
    activations = list(names.values())
    links = [lambda a, mask: a, lambda a, mask: jnp.exp(a), lambda a, mask: jax.nn.sigmoid(a)]
    links.append(lambda a, mask: jax.nn.softmax(a + mask))

    def outputs(theta, x, spec):
        def layer(h, part):
            W, b, code, parameter = part
            return jax.lax.switch(code, activations, W @ h + b, parameter), None

        a, _ = jax.lax.scan(layer, x, (*theta, spec["codes"], spec["parameters"]))
        return jax.lax.switch(spec["link"], links, a, spec["mask"])

    def jet(theta, x, spec):
        return outputs(theta, x, spec), jax.jacfwd(outputs, 1)(theta, x, spec), jax.hessian(outputs, 1)(theta, x, spec)

    def product(theta, x, cotangents, q, spec):
        y, J, H = jet(theta, x, spec)
        along = J @ q.T, jnp.einsum("ki,oij,kj->ok", q, H, q)
        return sum((cot * part).sum() for cot, part in zip(cotangents, (y, *along), strict=True))

    def left_side(theta, x, c, b, D, spec):
        y, J, H = jet(theta, x, spec)
        return c * y[0] + b @ J[0] + (D * H[0]).sum()

    return {
        "jet": jax.jit(jax.vmap(jet, (None, 0, None))),
        "product": jax.jit(jax.vmap(jax.grad(product, (0, 1)), (None, 0, 0, 0, None))),
        "left side": jax.jit(jax.vmap(jax.value_and_grad(left_side), (None, 0, 0, 0, 0, None))),
    }


def filled(array, *shape):
    """The array in the corner of zeros of this shape."""
    whole = np.zeros(shape)
    whole[tuple(slice(n) for n in array.shape)] = array
    return whole


class JaxJets:
    """The calls of `input_jets.CALLS` by JAX, for networks that fit, at most ROWS rows."""

    def __init__(self, jax: ModuleType, p: JetProblem) -> None:
        (self.sizes, activations, (loss, _)), theta, x = p.wide()
        self.functions, self.p, self.n = functions(jax), p, len(x)
        assert max(self.sizes) <= WIDTH
        assert len(activations) <= DEPTH
        assert self.n <= ROWS
        self.x, names = filled(x, ROWS, WIDTH), list(all_activations(jax))
        self.W, self.b = np.tile(np.eye(WIDTH), (DEPTH, 1, 1)), np.zeros((DEPTH, WIDTH))
        for i, (W, b) in enumerate(parameters.unflatten(theta, self.sizes)):
            self.W[i], self.b[i] = filled(W, WIDTH, WIDTH), filled(b, WIDTH)
        further = DEPTH - len(activations)
        self.spec = {
            "codes": np.array([names.index(g.name) for g, _ in activations] + [names.index("identity")] * further),
            "parameters": np.array([parameter for _, parameter in activations] + [0.0] * further),
            "link": LINKS.index(loss.link),
            "mask": np.where(np.arange(WIDTH) < self.sizes[-1], 0.0, -1e30),
        }

    def _outputs(self):
        """y (n, n_L), its Jacobian (n, n_L, n_0) and its Hessian (n, n_L, n_0, n_0)."""
        n_in, n_out = self.sizes[0], self.sizes[-1]
        y, J, H = map(np.asarray, self.functions["jet"]((self.W, self.b), self.x, self.spec))
        return y[: self.n, :n_out], J[: self.n, :n_out, :n_in], H[: self.n, :n_out, :n_in, :n_in]

    def _directions(self):
        directions = np.eye(self.sizes[0]) if self.p.directions is None else given(self.p.directions)
        return np.broadcast_to(directions, (self.n, *directions.shape[-2:]))

    def _flat(self, grad_W, grad_b):
        """Gradients by theta for each row, (n, n_params)."""
        parts = []
        for i in range(len(self.sizes) - 1):
            n_in, n_out = self.sizes[i : i + 2]
            parts += [np.asarray(grad_W)[: self.n, i, :n_out, :n_in].reshape(self.n, -1)]
            parts += [np.asarray(grad_b)[: self.n, i, :n_out]]
        return np.concatenate(parts, axis=1)

    def input_hessian(self):
        multipliers = np.broadcast_to(given(self.p.multipliers), (self.n, self.sizes[-1]))
        return [np.einsum("so,soij->sij", multipliers, self._outputs()[2])]

    def laplacian(self):
        return [self._outputs()[2].trace(axis1=2, axis2=3)]

    def input_jet(self):
        (y, J, H), q = self._outputs(), self._directions()
        return [y, np.einsum("soi,ski->sok", J, q), np.einsum("ski,soij,skj->sok", q, H, q)]

    def jet_vjp(self):
        q = filled(self._directions(), ROWS, MOST_DIRECTIONS, WIDTH)
        shapes = [(ROWS, WIDTH), (ROWS, WIDTH, MOST_DIRECTIONS), (ROWS, WIDTH, MOST_DIRECTIONS)]
        pairs = zip(self.p.cotangents, shapes, strict=True)
        cotangents = tuple(np.zeros(shape) if cot is None else filled(cot, *shape) for cot, shape in pairs)
        by_theta, by_x = self.functions["product"]((self.W, self.b), self.x, cotangents, q, self.spec)
        return [self._flat(*by_theta).sum(axis=0), np.asarray(by_x)[: self.n, : self.sizes[0]]]

    def pde_objective(self):
        equation, n_in, n = self.p.equation, self.sizes[0], self.n
        c = filled(np.broadcast_to(equation.c, n), ROWS)
        b = filled(np.broadcast_to(equation.b, (n, n_in)), ROWS, WIDTH)
        D = filled(np.broadcast_to(equation.D, (n, n_in, n_in)), ROWS, WIDTH, WIDTH)
        left, by_theta = self.functions["left side"]((self.W, self.b), self.x, c, b, D, self.spec)
        residual, J = np.asarray(left)[:n] - given(self.p.f), self._flat(*by_theta)
        share = np.ones(n) if self.p.weight is None else given(self.p.weight)
        share = share / share.sum()
        return [share @ residual**2, J.T @ (2 * share * residual), J.T @ (2 * share * (J @ given(self.p.v)))]
