"""Three hundred random networks against PyTorch's autograd, in float64; float32 networks at their own parameters."""

from itertools import pairwise

import numpy as np
import pytest
from call_peers import torch_activation
from problems import (
    ACTIVATION_NAMES,
    LAYOUTS,
    LOSS_NAMES,
    PARAMETERS,
    Y_HAT_LOSSES,
    random_problem,
    relative_error,
    split,
)
from required_peers import require_peer

from backprop.losses import LOSSES

pytestmark = pytest.mark.long("compared with PyTorch, which the short suite does without")

N_GROUPS, PER_GROUP = 30, 10
BATCHES = [1, 2, 3, 17, 64, 129, 1000]
COST = 4e7  # samples times weights, so that a network takes a few hundredths of a second
LIMIT = 8.0  # |a| stays below it: torch's softplus is the identity from 20 on, and its s (1 - s) loses digits
TOLERANCE = {"float64": 1e-11, "float32": 2e-5}


@pytest.fixture(scope="module")
def torch():
    module = require_peer("torch")
    module.set_num_threads(1)
    return module


def torch_loss(torch, problem, a, y_hat):
    """The weighted mean of the loss, from torch's own losses if it has them."""
    row, parameter = split(problem.loss, LOSSES)
    F = torch.nn.functional
    y = torch.as_tensor(np.array(problem.y_filled))
    weight = None if problem.weight is None else torch.as_tensor(np.array(problem.weight))
    if row.name == "cross_entropy":
        y = y if y.dtype == torch.int64 else y.double()
        terms = F.cross_entropy(a, y, reduction="none", label_smoothing=parameter)
    else:
        y = y.double()
        terms = {
            "squared_error": lambda: F.mse_loss(y_hat, y, reduction="none"),
            "absolute_error": lambda: F.l1_loss(y_hat, y, reduction="none"),
            "huber": lambda: F.huber_loss(y_hat, y, reduction="none", delta=parameter),
            "quantile": lambda: torch.maximum(-parameter * (y_hat - y), (1 - parameter) * (y_hat - y)),
            "hinge": lambda: torch.clamp(1 - y * a, min=0),
            "poisson": lambda: F.poisson_nll_loss(a, y, log_input=True, full=False, reduction="none"),
            "binary_cross_entropy": lambda: F.binary_cross_entropy_with_logits(a, y, reduction="none"),
        }[row.name]()
    if weight is None:
        return terms.mean()
    if weight.ndim == 1 and terms.ndim == 2:
        weight = weight[:, None].expand_as(terms)
    return (weight * terms).sum() / weight.sum()


def torch_value_and_grad(torch, problem):
    """Loss and the flat gradient in float64, and y_hat, at the network's parameters."""
    sizes, _, (loss, _) = problem.specification
    theta = torch.tensor(problem.net.params.astype(float), requires_grad=True)
    h, start = torch.as_tensor(np.array(problem.x, float)), 0
    specs = [*problem.hidden, "identity" if loss.acts_on_a else problem.output]
    for n_in, n_out, spec in zip(sizes[:-1], sizes[1:], specs, strict=True):
        W = theta[start : start + n_in * n_out].view(n_out, n_in)
        b = theta[start + n_in * n_out : start + (n_in + 1) * n_out]
        a = torch.nn.functional.linear(h, W, b)
        h = torch_activation(torch, spec)(a)
        start += (n_in + 1) * n_out
    value = torch_loss(torch, problem, a, h)
    value.backward()
    link = {"softmax": lambda a: torch.softmax(a, 1), "sigmoid": torch.sigmoid, "exp": torch.exp, None: lambda a: h}
    return value.item(), theta.grad.numpy(), link[loss.link](a).detach().numpy()


def random_spec(rng, name):
    return (name, PARAMETERS[name]) if name in PARAMETERS and rng.random() < 0.5 else name


def draw(rng, dtype):
    """A network of 1 to 6 layers with any activations, loss, weights and layout of its inputs."""
    n_layers = int(rng.integers(1, 7))
    n_samples = int(rng.choice(BATCHES))
    while True:
        sizes = np.exp(rng.uniform(0, np.log(300), n_layers + 1)).round().astype(int).tolist()
        if n_samples * sum(n * m for n, m in pairwise(sizes)) <= COST:
            break
    loss = str(rng.choice(LOSS_NAMES))
    weight = rng.choice(np.array([None, "sample", "entry"], object))
    return random_problem(
        rng,
        sizes,
        activations=[random_spec(rng, str(rng.choice(ACTIVATION_NAMES))) for _ in range(n_layers - 1)],
        output=random_spec(rng, str(rng.choice(ACTIVATION_NAMES))) if loss in Y_HAT_LOSSES else "identity",
        loss=random_spec(rng, loss),
        dtype=dtype,
        n_samples=n_samples,
        weight="sample" if weight and loss == "cross_entropy" else weight,
        labels=bool(rng.random() < 0.5),
        layout=str(rng.choice(LAYOUTS)),
        limit=LIMIT,
    )


def assert_equals_torch(torch, problem):
    dtype = problem.net.dtype.name
    expected, expected_grad, y_hat = torch_value_and_grad(torch, problem)
    out = np.full(problem.net.n_params, np.nan, dtype)
    loss, grad = problem.value_and_grad(out=out)
    assert grad is out
    assert loss == pytest.approx(expected, rel=TOLERANCE[dtype], abs=1e-12), problem.net
    assert relative_error(grad, expected_grad) <= TOLERANCE[dtype], problem.net
    assert relative_error(problem.net.forward(problem.x), y_hat) <= TOLERANCE[dtype], problem.net


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("group", range(N_GROUPS))
def test_random_networks(torch, group, dtype):
    rng = np.random.default_rng([1, group])
    for _ in range(PER_GROUP):
        assert_equals_torch(torch, draw(rng, dtype))


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_every_activation_with_every_loss(torch, activation, loss):
    rng = np.random.default_rng([2, ACTIVATION_NAMES.index(activation), LOSS_NAMES.index(loss)])
    output = activation if loss in Y_HAT_LOSSES else "identity"
    problem = random_problem(
        rng, [6, 20, 10, 3], activations=activation, output=output, loss=loss, n_samples=33, limit=LIMIT
    )
    assert_equals_torch(torch, problem)
