"""Epochs of mini-batches in each library, written as its expert users would write them, with the same mathematics.

As in peers.py, a maker takes a problem and the number of threads, and returns a `Runner`. Its call is a whole fit from
the parameters of the problem, and gives the mean loss of the batches of each epoch, before their steps. The orders of
rows are arrays of the library beforehand, which spares it the shuffling. What a library compiles is compiled before.

    numpy       numpy_by_hand.py, and the solver in place on one vector
    torch       PyTorch: eager, `torch.optim` with fused=True, the losses on the device until the end
    compile     the same with `torch.compile` of the forward pass and loss
    optax       JAX with optax: all epochs in one `jax.jit`, a `lax.scan` over the batches, the parameters one vector
    sklearn     `MLPRegressor.fit`, `MLPClassifier.fit`, with a warm start from the parameters; they shuffle themselves
"""

import warnings

import numpy as np
import numpy_by_hand
import training_cases
from cases import Problem
from peers import Runner, UnsupportedError, jax_activation


def _flat(layers):
    return np.concatenate([part.ravel() for layer in layers for part in layer])


def _views(vector, layers):
    """Layers as views of a vector."""
    views, first = [], 0
    for W, b in layers:
        middle, end = first + W.size, first + W.size + b.size
        views.append((vector[first:middle].reshape(W.shape), vector[middle:end]))
        first = end
    return views


# NumPy ----------------------------------------------------------------------------------------------------------------


class _Solver:
    """Adam or gradient descent with Nesterov's momentum, in place on one vector."""

    def __init__(self, case, theta, grad):
        self.case, self.theta, self.grad = case, theta, grad
        self.m, self.v, self.work = np.zeros_like(theta), np.zeros_like(theta), np.empty_like(theta)
        self.n_steps = 0

    def restart(self, theta):
        self.theta[...] = theta
        self.m[...] = 0
        self.v[...] = 0
        self.n_steps = 0

    def adam(self):
        beta_1, beta_2 = training_cases.BETAS
        self.n_steps += 1
        root = np.sqrt(1 - beta_2**self.n_steps)
        m, v, work, grad = self.m, self.v, self.work, self.grad
        m *= beta_1
        m += np.multiply(grad, 1 - beta_1, out=work)
        v *= beta_2
        np.multiply(grad, grad, out=work)
        work *= 1 - beta_2
        v += work
        np.sqrt(v, out=work)
        work += float(training_cases.EPSILON * root)
        np.divide(m, work, out=work)
        work *= float(self.case.rate * root / (1 - beta_1**self.n_steps))
        self.theta -= work

    def sgd(self):
        velocity, work = self.m, self.work
        np.multiply(self.grad, self.case.rate, out=work)
        velocity *= training_cases.MOMENTUM
        velocity -= work
        self.theta -= work
        self.theta += np.multiply(velocity, training_cases.MOMENTUM, out=work)


def make_numpy(problem, _n_threads):
    """NumPy by hand."""
    case, network = problem.case, problem.case.network
    start = _flat(problem.layers)
    theta, grad = start.copy(), np.empty_like(start)
    layers, grads = _views(theta, problem.layers), _views(grad, problem.layers)
    x = np.empty((network.n_samples, network.sizes[0]), problem.dtype)
    y = np.empty((network.n_samples, *problem.y.shape[1:]), problem.y.dtype)
    gradient = numpy_by_hand.make_call(Problem(network, problem.dtype, x, y, layers), grads)
    solver = _Solver(case, theta, grad)
    step = solver.adam if case.solver == "adam" else solver.sgd

    def call():
        solver.restart(start)
        losses = []
        for rows in problem.batches:
            np.take(problem.x, rows, axis=0, out=x)
            np.take(problem.y, rows, axis=0, out=y)
            losses.append(gradient()[0])
            step()
        return np.reshape(losses, (-1, case.n_batches)).mean(axis=1)

    return Runner(call, call)


# PyTorch --------------------------------------------------------------------------------------------------------------


def make_torch(problem, n_threads, *, compiled=False):
    """PyTorch."""
    import torch
    from torch.nn import functional

    case, network = problem.case, problem.case.network
    torch.set_num_threads(n_threads)
    start = [torch.tensor(part) for layer in problem.layers for part in layer]
    parameters = [part.clone().requires_grad_() for part in start]
    x, y, batches = torch.from_numpy(problem.x), torch.from_numpy(problem.y), torch.from_numpy(problem.batches)
    activate = getattr(functional, network.activation)
    criterion = functional.mse_loss if network.loss == "squared_error" else functional.cross_entropy

    def loss_function(x, y):
        h = x
        for i in range(0, len(parameters), 2):
            h = functional.linear(activate(h) if i else h, parameters[i], parameters[i + 1])
        return criterion(h, y)

    if compiled:
        torch._dynamo.reset()
        loss_function = torch.compile(loss_function, fullgraph=True, dynamic=False)

    def make_optimizer():
        if case.solver == "adam":
            settings = {"lr": case.rate, "betas": training_cases.BETAS, "eps": training_cases.EPSILON, "fused": True}
            return torch.optim.Adam(parameters, **settings)
        momentum = training_cases.MOMENTUM
        return torch.optim.SGD(parameters, lr=case.rate, momentum=momentum, nesterov=True, fused=True)

    def call():
        with torch.no_grad():
            for part, kept in zip(parameters, start, strict=True):
                part.copy_(kept)
        optimizer, losses = make_optimizer(), []
        for rows in batches:
            loss = loss_function(x[rows], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).reshape(-1, case.n_batches).mean(1).numpy()

    return Runner(call, call)


def make_compile(problem, n_threads):
    """PyTorch with `torch.compile`."""
    return make_torch(problem, n_threads, compiled=True)


# JAX ------------------------------------------------------------------------------------------------------------------


def make_optax(problem, _n_threads):
    """JAX with optax."""
    import jax
    import jax.numpy as jnp
    import optax
    from jax.flatten_util import ravel_pytree

    case, network = problem.case, problem.case.network
    jax.config.update("jax_enable_x64", True)
    activate, squared = jax_activation(network.activation), network.loss == "squared_error"
    start, unravel = ravel_pytree([(jnp.asarray(W.T), jnp.asarray(b)) for W, b in problem.layers])
    if case.solver == "adam":
        solver = optax.adam(case.rate, *training_cases.BETAS, eps=training_cases.EPSILON)
    else:
        solver = optax.sgd(case.rate, momentum=training_cases.MOMENTUM, nesterov=True)

    def loss_function(theta, x, y):
        h = x
        for i, (W, b) in enumerate(unravel(theta)):
            h = (activate(h) if i else h) @ W + b
        if squared:
            return jnp.mean((h - y) ** 2)
        return optax.softmax_cross_entropy_with_integer_labels(h, y).mean()

    @jax.jit
    def fit(theta, x, y, batches):
        def step(state, rows):
            theta, moments = state
            loss, grad = jax.value_and_grad(loss_function)(theta, x[rows], y[rows])
            updates, moments = solver.update(grad, moments, theta)
            return (optax.apply_updates(theta, updates), moments), loss

        (theta, _), losses = jax.lax.scan(step, (theta, solver.init(theta)), batches)
        return theta, losses.reshape(-1, case.n_batches).mean(axis=1)

    y = problem.y if squared else problem.y.astype(np.int32)
    data = jax.block_until_ready([jnp.asarray(part) for part in (problem.x, y, problem.batches.astype(np.int32))])
    return Runner(lambda: jax.block_until_ready(fit(start, *data)), lambda: np.asarray(fit(start, *data)[1]))


# scikit-learn ---------------------------------------------------------------------------------------------------------


class _Dealer(np.random.RandomState):
    """A generator whose shuffles make these orders of rows: `sklearn.utils.shuffle` permutes the last order."""

    def __init__(self, orders):
        super().__init__(0)
        self.orders, self.k = orders, 0

    def shuffle(self, x):
        last = np.arange(len(x)) if self.k == 0 else self.orders[self.k - 1]
        x[...] = np.argsort(last)[self.orders[self.k]]
        self.k += 1


def sklearn_factor(network):
    """How many times larger our loss is than the one that scikit-learn reports; and the same of the gradients."""
    return (2.0, 2 / network.sizes[-1]) if network.loss == "squared_error" else (1.0, 1.0)


def make_estimator(problem, **options):
    """An estimator of scikit-learn, and a function that puts it back to the parameters of the problem."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    network = problem.case.network
    if network.activation not in ("relu", "tanh"):
        raise UnsupportedError(f"no {network.activation}")
    kind = MLPRegressor if network.loss == "squared_error" else MLPClassifier
    options |= {"hidden_layer_sizes": network.sizes[1:-1], "activation": network.activation}
    model = kind(alpha=0.0, tol=0.0, warm_start=True, max_iter=1, **options)
    y = problem.y.ravel() if network.sizes[-1] == 1 else problem.y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(problem.x, y)

    def restart():
        model.coefs_ = [np.ascontiguousarray(W.T) for W, _ in problem.layers]
        model.intercepts_ = [b.copy() for _, b in problem.layers]

    return model, y, restart


def make_sklearn(problem, _n_threads):
    """Fits by scikit-learn's estimators."""
    case, network = problem.case, problem.case.network
    of_loss, of_gradient = sklearn_factor(network)
    solver = {"solver": case.solver, "batch_size": network.n_samples, "n_iter_no_change": np.inf}
    if case.solver == "adam":
        solver |= {"learning_rate_init": case.rate, "epsilon": training_cases.EPSILON}
    else:
        solver |= {"learning_rate_init": case.rate * of_gradient, "momentum": training_cases.MOMENTUM}
    model, y, restart = make_estimator(problem, **solver)
    model.max_iter = len(problem.orders)

    def call():
        restart()
        model.loss_curve_, model.best_loss_, model._no_improvement_count = [], np.inf, 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(problem.x, y)
        return model.loss_curve_

    def result():
        model.random_state = _Dealer(problem.orders)
        losses = of_loss * np.array(call())
        model.random_state = None
        return losses

    return Runner(call, result)


MAKERS = {
    "numpy": make_numpy,
    "torch": make_torch,
    "compile": make_compile,
    "optax": make_optax,
    "sklearn": make_sklearn,
}
