"""Epochs of mini-batches by the compiled core, and by a NumPy loop around `value_and_grad`: both have the same bits."""

from dataclasses import dataclass, field

import numpy as np

SGD = {"method": "sgd", "momentum": 0.9, "is_nesterov": True}
PLAIN_SGD = {"method": "sgd", "momentum": 0.5, "is_nesterov": False}
ADAM = {"method": "adam", "betas": (0.9, 0.999), "epsilon": 1e-8, "corrects_epsilon": True, "weight_decay": 0.0}
ADAMW = {**ADAM, "betas": (0.8, 0.95), "epsilon": 1e-3, "weight_decay": 0.1}
PLAIN_EPSILON = {**ADAM, "epsilon": 1e-2, "corrects_epsilon": False}
METHODS = {"sgd": SGD, "plain_sgd": PLAIN_SGD, "adam": ADAM, "adamw": ADAMW, "plain_epsilon": PLAIN_EPSILON}


@dataclass
class Trained:
    """What a fit leaves."""

    params: np.ndarray
    moments: np.ndarray
    progress: np.ndarray
    losses: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    totals: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    n_done: int = 0
    penalties: np.ndarray | None = None


def start(net, method):
    """The state before the first step."""
    n_rows = 2 if METHODS[method]["method"] == "adam" else 1
    return Trained(net.params.copy(), np.zeros((n_rows, net.n_params), net.dtype), np.array([0.0, 1.0, 1.0]))


def by_core(net, x, y, orders, batch_size, rates, method, *, weight=None, state=None, n_threads=1, apart=False,
            **options):  # fmt: skip
    """Run the epochs in the network, whose parameters they change."""
    state = start(net, method) if state is None else state
    net.params = state.params
    y_, x_, _, weights = net._inputs(x, y, None, weight)
    rates = np.asarray(rates, float)
    shape = len(rates), -(-(len(x_) if orders is None else orders.shape[1]) // batch_size)
    losses, totals = np.full(shape, np.nan), np.full(shape, np.nan)
    moments, progress = state.moments.copy(), state.progress.copy()
    arrays = orders, batch_size, rates, moments, progress, losses, totals
    if apart:
        options["penalties"] = np.full(shape, np.nan)
    n_done = net._plan.run_epochs(net._memory, x_, y_, weights, *arrays, n_threads, **METHODS[method], **options)
    return Trained(net.params.copy(), moments, progress, losses, totals, n_done, options.get("penalties"))


def _sum(values):
    """The sum of float64 values in eight lanes and one tree."""
    rows = np.concatenate([values, np.zeros(-len(values) % 8)]).reshape(-1, 8)
    lanes = np.zeros(8)
    for row in rows:
        lanes = lanes + row
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return lanes[0]


def _runs(is_free, kinds):
    """Slices of neighbours that are free and of one kind."""
    keys = np.where(is_free, kinds.astype(int), -1)
    ends = np.flatnonzero(np.diff(keys, append=-2)) + 1
    return [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True) if keys[a] >= 0]


def by_numpy(net, x, y, orders, batch_size, rates, method, *, weight=None, state=None, l2=0.0, divides_l2=False,
             max_norm=None, free=None):  # fmt: skip
    """The same as plain formulas, in the network's dtype; the numbers are rounded to it first."""
    state = start(net, method) if state is None else state
    how, net_params = METHODS[method], state.params.copy()
    moments, progress, real = state.moments.copy(), state.progress.copy(), net.dtype.type
    is_weight = np.zeros(net.n_params, bool)
    for W, _ in net.unflatten(is_weight):
        W[...] = True
    is_free = np.ones(net.n_params, bool) if free is None else free
    decay = how.get("weight_decay", 0.0)
    runs = _runs(is_free, is_weight if l2 else np.zeros_like(is_weight))
    orders = np.broadcast_to(np.arange(len(x)), (len(rates), len(x))) if orders is None else orders
    losses, totals, n_done = [], [], 0
    for order, rate in zip(orders, rates, strict=True):
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            w = None if weight is None else weight[rows]
            total = float(len(rows)) if w is None else float(w.sum())
            totals.append(total)
            losses.append(0.0)
            n_done += 1
            if total == 0:
                continue
            l2_here = l2 / total if divides_l2 else l2
            loss, grad = net.value_and_grad(x[rows], y[rows], params=net_params, sample_weight=w)
            theta, wide = net_params.copy(), net_params.astype(float)
            losses[-1] = loss + 0.5 * l2_here * float(np.square(wide[is_weight]).sum())
            g = grad + (real(l2_here) * is_weight) * theta
            if max_norm is not None:
                wide = grad + (l2_here * is_weight) * wide
                norm = np.sqrt(sum(_sum(np.square(wide[run])) for run in runs))
                g = real(max_norm / norm if norm > max_norm else 1.0) * g
            progress[0] += 1
            if how["method"] == "adam":
                beta_1, beta_2 = how["betas"]
                progress[1:] *= how["betas"]
                root = np.sqrt(1 - progress[2])
                step, epsilon = rate * root / (1 - progress[1]), how["epsilon"]
                epsilon *= root if how["corrects_epsilon"] else 1
                m = real(beta_1) * moments[0] + real(1 - beta_1) * g
                v = real(beta_2) * moments[1] + real(1 - beta_2) * (g * g)
                moved = theta - real(rate * decay) * theta - real(step) * m / (np.sqrt(v) + real(epsilon))
                new = np.array([m, v])
            else:
                momentum, down = real(how["momentum"]), real(rate) * g
                velocity = momentum * moments[0] - down
                moved = theta + (momentum * velocity - down if how["is_nesterov"] else velocity)
                new = velocity[None]
            moments[:, is_free] = new[:, is_free]
            net_params[is_free] = moved[is_free]
    shape = len(rates), -1
    return Trained(net_params, moments, progress, np.reshape(losses, shape), np.reshape(totals, shape), n_done)


def refuse_other_bits(found, expected, *, losses=True):
    """Assert that two fits have the same bits; losses with a penalty are summed in another order."""
    for name in ("params", "moments", "progress", "totals", *(["losses"] if losses else [])):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, name)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-12)
    assert found.n_done == expected.n_done
