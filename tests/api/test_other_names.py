"""Names of other libraries: each hint names something that exists, is right, and is given only if it is certain."""

import numpy as np
import pytest
from required_peers import require_peer

from backprop import Ensemble, Network
from backprop.activations import ACTIVATIONS
from backprop.api import other_names as names
from backprop.losses import LOSSES
from backprop.training.settings import SOLVERS

KINDS = {
    "activation": (names.ACTIVATIONS, names.NO_ACTIVATIONS, ACTIVATIONS),
    "loss": (names.LOSSES, names.NO_LOSSES, LOSSES),
    "solver": (names.SOLVERS, names.NO_SOLVERS, SOLVERS),
}
PAIRS = [
    (kind, name, row.ours)
    for kind, (rows, _, _) in KINDS.items()
    for row in rows
    for name in " ".join(row.theirs).split()
]


def refuse(kind, name, **options):
    """The message about a name."""
    argument = {"activation": "activations"}.get(kind, kind)
    with pytest.raises(ValueError, match=rf"^{argument}: expected one of ") as caught:
        fit(solver=name) if kind == "solver" else Network([2, 3, 2], **{argument: name}, **options)
    return str(caught.value)


# The table -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_of_a_function_that_exists(kind):
    rows, others, ours = KINDS[kind]
    assert {row.ours for row in rows} == set(ours)
    for row in rows:
        assert len(row.theirs) == len(names.LIBRARIES)
        assert any(row.theirs)
    theirs = {names.normal(name) for row in rows for name in " ".join(row.theirs).split()}
    assert not theirs & {names.normal(name) for name in others}
    assert not {names.normal(own) for own in ours} & {names.normal(name) for name in others}


@pytest.mark.parametrize(("kind", "name", "ours"), PAIRS)
def test_every_name_leads_to_ours(kind, name, ours):
    first = next(own for k, n, own in PAIRS if k == kind and names.normal(n) == names.normal(name))
    variants = {name, name.upper(), name.replace("_", "-"), f"nn.{name}", f"torch.nn.functional.{name}"}
    for variant in variants - set(KINDS[kind][2]):
        assert f"; did you mean {first!r}?" in refuse(kind, variant)
    if first != ours:  # two functions share a name: the more common one, or a hint that says how they differ
        assert (name, first) in {("gelu", "gelu"), ("squared_error", "squared_error")}


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_names_in_other_spellings(kind):
    for own in KINDS[kind][2]:
        for variant in {own.upper(), own.title(), own.replace("_", " "), own.replace("_", "-"), f" {own} "}:
            assert variant == own or f"; did you mean {own!r}?" in refuse(kind, variant)


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_other_functions_lead_nowhere(kind):
    hint = {
        "activation": "makes an activation of your own functions",
        "loss": "by y_hat to net.vjp",
        "solver": "a loop around net.value_and_grad",
    }[kind]
    for name in KINDS[kind][1]:
        message = refuse(kind, name)
        assert "did you mean" not in message
        assert message.endswith(hint)


# Hints that are certain, and others ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "ours"),
    [("activation", "swish", "silu"), ("activation", "linear", "identity"), ("activation", "logistic", "sigmoid"),
     ("activation", "tansig", "tanh"), ("activation", "LeakyReLU", "leaky_relu"), ("activation", "purelin", "identity"),
     ("activation", "tahn", "tanh"), ("activation", "rleu", "relu"), ("activation", "sigmod", "sigmoid"),
     ("activation", "leeky_rellu", "leaky_relu"), ("activation", "exponentail", "exp"),
     ("loss", "bce", "binary_cross_entropy"), ("loss", "logistic", "binary_cross_entropy"),
     ("loss", "MSELoss", "squared_error"), ("loss", "mse", "squared_error"), ("loss", "mae", "absolute_error"),
     ("loss", "log_loss", "cross_entropy"), ("loss", "pinball", "quantile"), ("loss", "sqared_error", "squared_error"),
     ("loss", "mean_square_eror", "squared_error"), ("loss", "huberr", "huber"),
     ("solver", "Adam", "adam"), ("solver", "L-BFGS-B", "lbfgs"), ("solver", "trainlm", "lm"),
     ("solver", "levenberg-marquart", "lm"), ("solver", "optim.SGD", "sgd"), ("solver", "lbgfs", "lbfgs")],
)  # fmt: skip
def test_hints(kind, name, ours):
    assert f"; did you mean {ours!r}?" in refuse(kind, name)


@pytest.mark.parametrize(
    ("name", "note"),
    [("l2_loss", "twice"), ("squared_loss", "twice"), ("sse", "not a sum"), ("BCELoss", "a_L"), ("NLLLoss", "a_L"),
     ("smooth_l1_loss", "beta times"), ("pinball", r'("quantile", 0.9)'), ("log_loss", "'binary_cross_entropy'")],
)  # fmt: skip
def test_a_hint_says_how_the_two_differ(name, note):
    assert note in refuse("loss", name).partition("did you mean")[2]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("activation", "rlu"), ("activation", "xyzzy"), ("activation", "lu"), ("activation", "s"),
     ("activation", "tanhtanh"), ("activation", "mse"), ("activation", "relu7x"), ("activation", ""),
     ("solver", "lmx"), ("solver", "gd2"), ("solver", "xyzzy"),
     ("activation", "_-"), ("activation", "sulu"), ("activation", "gilu"), ("loss", "error"),
     ("loss", "entropy"), ("loss", "loss"), ("loss", "relu"), ("activation", "r" * 10**6), ("loss", "mse" * 30)],
)  # fmt: skip
def test_no_hint_where_nothing_is_certain(kind, name):
    assert refuse(kind, name).endswith(f"got {name!r}")


def test_softmax_is_an_output():
    assert refuse("activation", "Softmax").endswith("; softmax is only an output, with the loss 'cross_entropy'")
    with pytest.raises(ValueError, match=r"^output: .*; did you mean 'softmax'\?$"):
        Network([2, 3, 2], loss="cross_entropy", output="Softmax")


def test_functions_and_layers_of_other_libraries():
    class ReLU:  # as torch.nn.ReLU
        pass

    for value, ours in ((np.tanh, "tanh"), (np.sin, "sin"), (ReLU, "relu"), (ReLU(), "relu")):
        for argument, given in (("activations", value), ("activations", [value]), ("output", value)):
            with pytest.raises(TypeError, match=rf"^{argument}.*: expected a name.*; did you mean '{ours}'\?$"):
                Network([2, 3, 2], **{argument: given})
    for value in (len, lambda a: a, np.square, np.tan, 3):
        with pytest.raises(TypeError, match=r"^activations: expected a name") as caught:
            Network([2, 3, 2], activations=value)
        assert "did you mean" not in str(caught.value)


# Arguments -----------------------------------------------------------------------------------------------------------


def network(**options):
    return Network([2, 3, 1], **options)


def objective(**options):
    return network().objective([[1, 2]], [1], **options)


def fit(**options):
    return network().fit([[1, 2]], [1], **options)


def ensemble(**options):
    return Ensemble(network(), 2, **options)


def constraint(**options):
    return network().constraint(**options)


@pytest.mark.parametrize(
    ("call", "keyword", "hint"),
    [(network, "activation", "did you mean 'activations'?"), (network, "activatons", "did you mean 'activations'?"),
     (network, "random_state", "did you mean 'rng'?"), (network, "seed", "did you mean 'rng'?"),
     (network, "loss_fn", "did you mean 'loss'?"), (network, "criterion", "did you mean 'loss'?"),
     (network, "output_activation", "did you mean 'output'?"), (network, "Dtype", "did you mean 'dtype'?"),
     (network, "hidden_layer_sizes", "sizes holds all layers"), (network, "lr", "has no optimizer"),
     (network, "max_iter", "has no optimizer"), (network, "alpha", "argument of net.objective: l2"),
     (network, "n_threads", "argument of the calls"), (objective, "alpha", "did you mean 'l2'?"),
     (objective, "weights", "did you mean 'sample_weight'?"), (objective, "sample_weights", "mean 'sample_weight'?"),
     (objective, "n_jobs", "did you mean 'n_threads'?"), (objective, "lr", "has no optimizer"),
     (fit, "epochs", "did you mean 'max_iter'?"), (fit, "lr", "did you mean 'learning_rate'?"),
     (fit, "optimizer", "did you mean 'solver'?"), (fit, "early_stopping", "patience=10 stops early"),
     (fit, "validation_data", "x_val, y_val"), (fit, "verbose", "did you mean 'progress'?"),
     (ensemble, "seed", "did you mean 'rng'?"), (ensemble, "n_members", "did you mean 'k'?"),
     (ensemble, "activations", "argument of the network"), (constraint, "upper_bound", "did you mean 'ub'?"),
     (constraint, "keep_feasible", "its.keep_feasible = True"), (constraint, "params", "assign net.params")],
)  # fmt: skip
def test_arguments(call, keyword, hint):
    with pytest.raises(TypeError, match=r": expected arguments among .*, got ") as caught:
        call(**{keyword: 1})
    message = str(caught.value)
    assert f"got {keyword!r}; " in message
    assert hint in message


@pytest.mark.parametrize("call", [network, objective, fit, ensemble, constraint])
def test_arguments_like_no_other(call):
    with pytest.raises(TypeError, match=r"expected arguments among .*, got 'xyzzy'$"):
        call(xyzzy=1)


def test_every_argument_that_is_hinted_at_exists():
    import inspect

    methods = {name: getattr(Network, name) for name in ("objective", "fit", "constraint")}
    calls = {"Network": Network, "Ensemble": Ensemble, **methods}
    assert set(calls) == set(names.ARGUMENTS) == set(names.SENTENCES)
    for call, function in calls.items():
        known = set(inspect.signature(function).parameters)
        assert set(names.ARGUMENTS[call]) <= known
        theirs = " ".join([*names.ARGUMENTS[call].values(), *names.SENTENCES[call].values()]).split()
        assert not set(theirs) & known
        assert len({names.normal(name) for name in theirs}) == len(theirs)


# Beside the libraries themselves -------------------------------------------------------------------------------------

A = np.linspace(-7, 7, 57)  # with the kinks at -3, 0, 3 and 6


def of_library(library):
    column = names.LIBRARIES.index(library)
    return [(row.ours, name) for row in names.ACTIVATIONS for name in row.theirs[column].split()]


@pytest.mark.parametrize(("ours", "name"), of_library("PyTorch"))
def test_pytorch_has_the_name_for_the_same_function(ours, name):
    torch = require_peer("torch")
    function = next(getattr(at, name) for at in (torch.nn, torch.nn.functional, torch) if hasattr(at, name))
    values = (function() if isinstance(function, type) else function)(torch.tensor(A)).numpy()
    row = ACTIVATIONS[ours]
    np.testing.assert_allclose(values, row.g(A, row.default), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("ours", "name"), of_library("JAX, optax"))
def test_jax_has_the_name_for_the_same_function(ours, name):
    jax = require_peer("jax")
    function = getattr(jax.nn, name, None) or getattr(jax.numpy, name)
    row = ACTIVATIONS[ours]
    np.testing.assert_allclose(function(A.astype("f4")), row.g(A, row.default), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ours", "name"), [(row.ours, n) for row in names.LOSSES for n in row.theirs[0].split()])
def test_pytorch_has_the_name_for_the_same_loss(ours, name):
    torch = require_peer("torch")
    functional = torch.nn.functional
    loss = getattr(torch.nn, name)() if hasattr(torch.nn, name) else getattr(functional, name)
    rng = np.random.default_rng(0)
    z = rng.uniform(-2, 2, (20, 3))
    y = rng.uniform(0, 1, z.shape)
    of_loss = LOSSES[ours]
    before = {"BCELoss": torch.sigmoid, "binary_cross_entropy": torch.sigmoid, "NLLLoss": functional.log_softmax,
              "nll_loss": functional.log_softmax}.get(name, lambda a: a)  # fmt: skip
    if ours == "cross_entropy":
        labels = rng.integers(0, 3, 20)
        target, y = torch.tensor(labels), np.eye(3)[labels]
    else:
        target = torch.tensor(y)
    a = torch.tensor(z)
    value = float(loss(before(a, 1) if before is functional.log_softmax else before(a), target))
    assert value == pytest.approx(float(np.mean(of_loss.loss(z, y, of_loss.default))), rel=1e-12)


@pytest.mark.parametrize("name", ["identity", "logistic", "tanh", "relu"])
def test_scikit_learn_has_the_activations(name):
    require_peer("sklearn")
    from sklearn.neural_network._base import ACTIVATIONS as THEIRS

    ours = next(
        row.ours for row in names.ACTIVATIONS if name in row.theirs[names.LIBRARIES.index("scikit-learn")].split()
    )
    values = A.copy()
    THEIRS[name](values)
    np.testing.assert_allclose(values, ACTIVATIONS[ours].g(A, 0.0), rtol=1e-12)
