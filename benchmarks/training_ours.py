"""Our fits, and what is measured beside them: the epochs alone, and the gradients alone."""

import numpy as np
import training_cases
from peers import Runner

import backprop

MOST_ITERATIONS = 2000  # of lbfgs and lm, to reach a loss


def make_network(problem):
    """The network with the parameters of the problem."""
    network = problem.case.network
    net = backprop.Network(network.sizes, activations=network.activation, loss=network.loss, dtype=problem.dtype, rng=0)
    for (W, b), W_own, b_own in zip(problem.layers, net.weights, net.biases, strict=True):
        W_own[...], b_own[...] = W, b
    return net


class Fit:
    """`Network.fit` from the parameters of the problem; a call gives the loss of each epoch or iteration.

    The epochs take their rows as `problem.orders` says.
    """

    def __init__(self, problem, n_threads, max_iter=None):
        case, self.net, self.x, self.y = problem.case, make_network(problem), problem.x, problem.y
        self.start = self.net.params.copy()
        self.options = {"solver": case.solver, "n_threads": n_threads}
        if case.in_epochs:
            self.options |= {"max_iter": len(problem.orders), "rng": training_cases.SEED, "learning_rate": case.rate}
            self.options["batch_size"] = case.network.n_samples
        else:
            self.options |= {"max_iter": max_iter, "tol": 0.0}
        if case.solver == "adam":
            self.options |= {"betas": training_cases.BETAS, "epsilon": training_cases.EPSILON}
        if case.solver == "sgd":
            self.options["momentum"] = training_cases.MOMENTUM
        self.n_evaluations = 0

    def __call__(self):
        """Fit."""
        self.net.params = self.start
        result = self.net.fit(self.x, self.y, **self.options)
        self.n_evaluations = result.nfev
        return np.array(result.history["loss"])


class Epochs:
    """The epochs of a fit by the compiled core, without the Python of `Network.fit`, and without its shuffling."""

    def __init__(self, problem, n_threads, free=None):
        case, net = problem.case, make_network(problem)
        self.net, self.start, self.case, self.free = net, net.params.copy(), case, free
        self.orders, self.n_threads = problem.orders, n_threads
        self.y, self.x, _, _ = net._inputs(problem.x, problem.y, None, None)
        self.shape = len(problem.orders), case.n_batches
        self.rates = np.full(len(problem.orders), case.rate)
        if case.solver == "adam":
            self.settings = {"method": "adam", "betas": training_cases.BETAS, "epsilon": training_cases.EPSILON}
        else:
            self.settings = {"method": "sgd", "momentum": training_cases.MOMENTUM, "is_nesterov": True}

    def __call__(self):
        """Make the epochs."""
        net, moments = self.net, np.zeros((2 if self.case.solver == "adam" else 1, self.net.n_params), self.net.dtype)
        net.params = self.start
        losses, totals, progress = np.empty(self.shape), np.empty(self.shape), np.array([0.0, 1.0, 1.0])
        batch_size = self.case.network.n_samples
        arrays = self.x, self.y, None, self.orders, batch_size, self.rates, moments, progress, losses, totals
        net._plan.run_epochs(net._memory, *arrays, self.n_threads, free=self.free, **self.settings)


def iterations_to(losses, goal):
    """How many iterations or epochs reach the loss."""
    reached = np.flatnonzero(np.asarray(losses) <= goal)
    if not len(reached):
        raise RuntimeError(f"{len(losses)} iterations do not reach a loss of {goal:g}: the last is {losses[-1]:g}")
    return int(reached[0]) + 1


def epochs_to_goal(case, dtype):
    """How many epochs reach the goal of the case; None if it has none."""
    if not case.in_epochs or case.goal is None:
        return None
    problem = training_cases.make_training_problem(case, dtype)
    return iterations_to(Fit(problem, 1)(), case.goal)


def make_fit(problem, n_threads):
    """Epochs of mini-batches."""
    fit = Fit(problem, n_threads)
    return Runner(fit, fit)


def make_minimizer(problem, n_threads):
    """A fit of all rows at once, of as many iterations as reach the goal."""
    losses = Fit(problem, n_threads, MOST_ITERATIONS)()
    n_iterations = iterations_to(losses, problem.case.goal)
    fit = Fit(problem, n_threads, n_iterations)
    start = fit.net.loss(problem.x, problem.y)
    return Runner(fit, lambda: np.array([start, fit()[-1]]), n_iterations)


def parts(problem, n_threads, n_iterations):
    """What a fit of so many iterations is made of, to be timed beside it.

    Of adam and sgd: "epochs", in the compiled core alone, and "frozen", the same without steps, because no parameter is
    free. Of lbfgs: "gradients", as many as the fit computes.
    """
    if problem.case.in_epochs:
        none = np.zeros(make_network(problem).n_params, bool)
        found = {"epochs": Epochs(problem, n_threads), "frozen": Epochs(problem, n_threads, none)}
        return {name: Runner(call, call) for name, call in found.items()}
    if problem.case.solver != "lbfgs":
        return {}
    fit = Fit(problem, n_threads, n_iterations)
    fit()
    net, x, y = make_network(problem), problem.x, problem.y
    grad = np.empty_like(net.params)

    def gradients():
        for _ in range(fit.n_evaluations):
            net.value_and_grad(x, y, out=grad, n_threads=n_threads)

    return {"gradients": Runner(gradients, gradients)}
