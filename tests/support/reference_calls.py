"""Every public call by the NumPy reference, in float64: the state machine and tools/fuzz compare with it; no test.

The products with second derivatives are `_reference`'s own. All else follows from `_reference.forward` and `backward`
by definition: gradients per sample are outer products of grad_a and h, Jacobians take one backward sweep per output, a
Hessian has the products with unit vectors as columns, and the gradient of the Sobolev loss is its complex step.
"""

from functools import cached_property

import numpy as np

from backprop.activations import ACTIVATIONS
from backprop.api import parameters as _params
from backprop.losses import softmax
from backprop.reference import jets as _jets
from backprop.reference import recursion as _reference

_STEP = 1e-100  # of the complex step, which forms no difference: the smaller the better


class ReferenceCalls:
    """The calls of `Network`, by its methods' names, on one set of parameters and data.

    Parameters
    ----------
    specification : tuple
        Sizes, activations and loss, the first arguments of the functions of `_reference`.
    theta, x, y, weight : arrays
        float64; y as rows, also for labels; no NaN, also at weights of 0.
    """

    def __init__(self, specification, theta, x, y=None, weight=None):
        self.sizes, self.activations, (self.loss, self.loss_parameter) = specification
        self.specification, self.theta, self.x, self.y, self.weight = specification, theta, x, y, weight
        self.n_out = self.sizes[-1]

    @property
    def _data(self):
        return self.x, self.y, self.weight

    @cached_property
    def layer_gradients(self):
        """Every quantity of the recursion, a `_reference.Reference`; h[L] is g of a_L here, without the link."""
        return _reference.value_and_grad(*self.specification, self.theta, *self._data)

    def value_and_grad(self):
        return self.layer_gradients.loss, self.layer_gradients.gradient

    def _link(self, a):
        link = self.loss.link
        return softmax(a) if link == "softmax" else ACTIVATIONS[link or "identity"].g(a, 0.0)

    @cached_property
    def _forward(self):
        return _reference.forward(self.sizes, self.activations, self.theta, self.x)

    def forward(self):
        return self._link(self._forward.a[-1]) if self.loss.acts_on_a else self._forward.h[-1]

    # From one backward sweep ------------------------------------------------------------------------------------------

    def _backward(self, cotangent):
        """The gradients of sum_s cotangent_s . y_hat_s."""
        forward = _reference.forward(self.sizes, self.activations, self.theta, self.x)
        result = _reference.with_slopes(self.activations, forward)
        a, link, grad_z = result.a[-1], self.loss.link, cotangent
        if link == "softmax":
            p = softmax(a)
            grad_z = p * (cotangent - (p * cotangent).sum(axis=1, keepdims=True))
        elif link is not None:
            grad_z = cotangent * ACTIVATIONS[link].g_prime(a, 0.0)
        _reference.backward(self.sizes, self.theta, result, grad_z, self.loss)
        return result

    def _by_sample(self, result):
        """Each sample's part of a gradient, (n_samples, n_params)."""
        n, parts = len(self.x), []
        for i in range(1, len(self.sizes)):
            grad_W = result.grad_a[i][:, :, None] * result.h[i - 1][:, None, :]
            parts += [grad_W.reshape(n, -1), result.grad_a[i]]
        return np.concatenate(parts, axis=1)

    def vjp(self, cotangent):
        result = self._backward(cotangent)
        return result.gradient, result.grad_h[0]

    @cached_property
    def _jacobians(self):
        """The gradients by the parameters and by x."""
        rows = [self._backward(np.broadcast_to(unit, (len(self.x), self.n_out))) for unit in np.eye(self.n_out)]
        by_params = [self._by_sample(row) for row in rows]
        return np.stack(by_params, axis=1), np.stack([row.grad_h[0] for row in rows], axis=1)

    def jacobian(self):
        return self._jacobians[0]

    def input_jacobian(self):
        return self._jacobians[1]

    # Of second order by x ---------------------------------------------------------------------------------------------

    def laplacian(self):
        return _jets.laplacian(self.specification, self.theta, self.x)

    def input_hessian(self, multipliers):
        return _jets.input_hessian(self.specification, self.theta, self.x, multipliers)

    def input_jet(self, directions=None):
        return _jets.input_jet(self.specification, self.theta, self.x, directions)

    def jet_vjp(self, cot_y, cot_dy, cot_d2y, directions=None):
        return _jets.jet_vjp(self.specification, self.theta, self.x, cot_y, cot_dy, cot_d2y, directions)

    # Samples' own losses: w_s l_s, or sum_j w_sj l_sj / n_L -----------------------------------------------------------

    @property
    def _whole(self):
        """The factor of one sample's share in the mean loss."""
        total = _reference._entry_weights(self.weight, self.loss, self.y).sum()
        return total if self.loss.name == "cross_entropy" else total / self.n_out

    def input_gradient(self):
        return self.layer_gradients.grad_h[0] * self._whole

    def per_sample_gradients(self):
        return self._by_sample(self.layer_gradients) * self._whole

    def per_sample_gradient_norms(self):
        return np.sqrt((self.per_sample_gradients() ** 2).sum(axis=1))

    def clipped_gradient(self, max_norm):
        norms = self.per_sample_gradient_norms()
        with np.errstate(all="ignore"):
            factor = np.where(norms > max_norm, max_norm / norms, 1.0)
        return (factor[:, None] * self.per_sample_gradients()).sum(axis=0)

    # Along directions, and of second order ----------------------------------------------------------------------------

    def jvp(self, v):
        return _reference.jvp(*self.specification, self.theta, v, self.x)

    def hvp(self, v):
        return _reference.hvp(*self.specification, self.theta, v, *self._data)

    def gauss_newton_vp(self, v):
        return _reference.gauss_newton_vp(*self.specification, self.theta, v, *self._data)

    def hessian(self):
        return np.stack([self.hvp(unit) for unit in np.eye(self.theta.size)], axis=1)

    # Of squared_error networks ----------------------------------------------------------------------------------------

    @property
    def _root(self):
        """sqrt(w), (n_samples, n_out)."""
        return np.sqrt(_reference._entry_weights(self.weight, self.loss, self.y))

    def residuals(self):
        r = (self._root * (self.forward() - self.y)).ravel()
        return r, (self._root[:, :, None] * self.jacobian()).reshape(r.size, -1)

    def normal_equations(self):
        r, J = self.residuals()
        return J.T @ J, J.T @ r

    def sobolev_value_and_grad(self, grad_x, grad_weight):
        grad_x = grad_x.reshape(len(self.x), self.n_out, -1)
        share = np.ones(len(self.x)) if self.weight is None else self.weight
        share = share / share.sum()
        counts = np.broadcast_to(grad_weight, grad_x.shape[1:]) != 0

        def value(theta):
            h, J = self.x, np.broadcast_to(np.eye(self.sizes[0]), (len(self.x), self.sizes[0], self.sizes[0]))
            for (W, b), (g, parameter) in zip(_params.unflatten(theta, self.sizes), self.activations, strict=True):
                a = h @ W.T + b
                h, J = g.g(a, parameter), g.g_prime(a, parameter)[:, :, None] * (W @ J)
            slopes = np.where(counts, grad_weight * (J - grad_x) ** 2, 0.0)
            return (share * (((h - self.y) ** 2).mean(axis=1) + slopes.mean(axis=(1, 2)))).sum()

        steps = self.theta + 1j * _STEP * np.eye(self.theta.size)
        return value(self.theta), np.array([value(step).imag / _STEP for step in steps])
