"""Every public call as a typed program makes it: mypy --strict reads this, and tests/api/test_typing.py runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import backprop
from backprop import Activation, Ensemble, InputJet, LayerGradients, Network, Objective, PartialSums, WeightTotals

Array = npt.NDArray[Any]


def main() -> None:
    """Make each call once, and use each result as the declared type."""
    net: Network = Network([2, 8, 1], activations="tanh", rng=0)
    x: npt.NDArray[np.float64] = np.eye(2)
    y = np.ones((2, 1))
    v: Array = np.ones(net.n_params)
    loss, grad = net.value_and_grad(x, y, out=np.empty(net.n_params), n_threads=1)
    total: float = loss + net.loss(x, y)
    sizes: tuple[int, ...] = net.sizes
    y_hat: Array = net.forward(x)
    layers: LayerGradients = net.layer_gradients(x, y)
    fun: Objective = net.objective(x, y, l2=0.1)
    in_blocks: list[tuple[Array, Array]] = [(x, y), (x, y)]
    for made in (net.objective(in_blocks), net.objective(lambda: in_blocks), net.objective([(x, y, np.ones(2))])):
        fun = made
    fun = fun + 0.1 * net.objective(x, y) * 2
    fun = sum([fun, fun], start=fun)
    of_slopes: Objective = net.sobolev_objective(x, y, np.zeros((2, 2)), 0.5, l2=0.1)
    of_equation: Objective = net.pde_objective(x, 0.0, c=np.ones(2), b=[0.0, 1.0], D=1) + net.pde_objective(in_blocks)
    value, slope = fun(net.params)
    curved: Array = fun.hessp(net.params, v)
    curvature: Array = fun.hess(net.params)
    whole: Array = fun.expand(net.params)
    left: float = net.fit(x, y, solver="adam", learning_rate=lambda epoch: 0.01 / (epoch + 1), max_iter=2, rng=0).loss
    net.fit(x, y, callback=lambda info: info.loss < 1.0, every=2, max_iter=2)
    W, b = net.unflatten(grad)[0]
    of_params, of_x = net.vjp(x, np.ones((2, 1)))
    rows: list[Array] = [
        net.jvp(x, v),
        net.input_gradient(x, y),
        net.input_jacobian(x),
        net.jacobian(x),
        net.per_sample_gradients(x, y),
        net.per_sample_gradient_norms(x, y),
        net.clipped_gradient(x, y, 1.0),
        net.hvp(x, y, v),
        net.gauss_newton_vp(x, y, v),
        net.hessian(x, y),
        net.laplacian(x, out=np.empty((2, 1))),
        net.input_hessian(x),
        net.input_hessian(x, [2.0], params=v),
    ]
    jet: InputJet = net.input_jet(x, [[1.0, 1.0]])
    of_jet, _ = net.jet_vjp(x, cot_d2y=np.ones((2, 1, 2)))
    rows += [jet.y, jet.dy, jet.d2y, of_jet]
    within = net.constraint(-1.0, [np.inf], n_threads=1)
    rows += [within.fun(x[0]), within.jac(x[0]), within.hess(x[0], np.ones(1))]
    residual, jacobian = net.residuals(x, y)
    r: Array = residual(net.params)
    J: Array = jacobian(net.params)
    JTJ, JTr = net.normal_equations(x, y)
    some = np.arange(net.n_params) < 9
    fun_of_some, _ = net.residuals(x, y, free=some)
    JTJ_of_some, _ = net.normal_equations(x, y, free=some)
    of_some: list[Array] = [
        fun_of_some(net.params[some]),
        JTJ_of_some,
        net.clipped_gradient(x, y, 1.0, free=some),
        net.per_sample_gradient_norms(x, y, free=some),
    ]
    sobolev, of_sobolev = net.sobolev_value_and_grad(x, y, np.zeros((2, 2)), 0.5)
    total += left + sobolev + value + of_slopes.value(net.params) + of_equation.value(net.params)
    ok: bool = net.check_gradient(x, y).ok
    found = net.find_nonfinite(x, y)
    blocks: list[slice] = backprop.row_blocks(net, 2, 3, call="hvp", sample_weight=[0, 1])
    totals: WeightTotals = backprop.weight_totals([0], [slice(0, 1)]) + backprop.weight_totals([1], [slice(1, 2)])
    part: PartialSums = net.partial_sums(
        x, y, call="hvp", v=v, first_row=0, n_rows=2, sample_weight=[0, 1], totals=totals, n_threads=1
    )
    product: Array = sum([], start=PartialSums.from_bytes(part.to_bytes())).result()
    covered: list[slice] = part.rows
    ensemble: Ensemble = Ensemble(net, 3, rng=0)
    losses, grads = ensemble.value_and_grad(x, y)
    ensemble.fit(x, y, callback=lambda info: info.loss.max() < 1, max_iter=2)[0].loss.is_integer()
    member: Network = ensemble[0]
    own: Activation = Activation("own", np.tanh, lambda a: 1 / np.cosh(a) ** 2)
    Network([2, 3, 1], activations=own, rng=0)
    with backprop.num_threads(2):
        n: int = backprop.get_num_threads()
    backprop.set_num_threads(n)
    grad_h: Array = backprop.hidden_gradient(member.weights[1], np.ones((2, 1)))
    a_1 = layers.a[1]
    assert a_1 is not None
    grad_a: Array = backprop.preactivation_gradient(grad_h, a_1, "tanh")
    second = [curved, curvature, whole, product, *rows, *of_some]
    parts = [y_hat, slope, W, b, of_params, of_x, *second, r, J, JTJ, JTr, of_sobolev, losses, grads, grad_a]
    assert (ok, found, sizes) == (True, None, (2, 8, 1))
    assert covered == blocks[:1]
    assert total >= 0
    assert all(np.isfinite(part).all() for part in parts)


if __name__ == "__main__":
    main()
