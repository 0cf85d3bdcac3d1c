"""Names that other libraries use for our activations, losses, solvers and arguments: for hints in errors and docs.

An error gives a hint only if it is certain. The name, apart from case and separators, must be one of these or one of
ours; or it must be one typing mistake (two in a long name) away from the names of exactly one function. Names of
functions that we lack are listed too, so that "PReLU" is not taken for a misspelt relu.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from functools import cache, wraps
from typing import NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

LIBRARIES = ("PyTorch", "Keras", "scikit-learn", "JAX, optax", "MATLAB", "elsewhere")
_LONGEST = 100  # longest name that is looked at; a name in a file may be of any length


class Row(NamedTuple):
    """The names of one function of ours."""

    ours: str
    theirs: tuple[str, ...]  # one text per library, in the order of LIBRARIES; spaces separate names
    note: str = ""  # part of the hint: how the two differ


# fmt: off
ACTIVATIONS = [
    Row("identity", ("Identity", "linear", "identity", "identity", "purelin none", "no_activation")),
    Row("relu", ("ReLU relu", "relu ReLU", "relu", "relu", "poslin reluLayer", "rectifier rectified_linear")),
    Row("leaky_relu", ("LeakyReLU leaky_relu", "leaky_relu LeakyReLU", "", "leaky_relu", "leakyReluLayer", "lrelu"),
        'slope 0.01, as in PyTorch, JAX and MATLAB; Keras has 0.2, its layer 0.3: ("leaky_relu", 0.3)'),
    Row("elu", ("ELU elu", "elu ELU", "", "elu", "eluLayer", "exponential_linear")),
    Row("selu", ("SELU selu", "selu", "", "selu", "", "scaled_exponential_linear")),
    Row("gelu", ("GELU gelu", "gelu", "", "", "geluLayer", "gelu_exact")),
    Row("gelu_tanh", ("", "", "", "gelu", "", "gelu_new gelu_pytorch_tanh gelu_approximate approximate_gelu")),
    Row("silu", ("SiLU silu", "silu swish", "", "silu swish", "swishLayer", "swish1 sigmoid_linear")),
    Row("mish", ("Mish mish", "mish", "", "mish", "", "")),
    Row("softplus", ("Softplus softplus", "softplus", "", "softplus", "softplusLayer", "smooth_relu")),
    Row("softsign", ("Softsign softsign", "softsign", "", "soft_sign", "elliotsig", "")),
    Row("tanh", ("Tanh tanh", "tanh", "tanh", "tanh", "tansig tanhLayer", "hyperbolic_tangent TanH")),
    Row("sigmoid", ("Sigmoid sigmoid", "sigmoid", "logistic", "sigmoid", "logsig sigmoidLayer", "expit")),
    Row("hardtanh", ("Hardtanh hardtanh", "hard_tanh", "", "hard_tanh", "satlins", "htanh")),
    Row("hardsigmoid", ("Hardsigmoid hardsigmoid", "hard_sigmoid", "", "hard_sigmoid", "", "hsigmoid h_sigmoid"),
        "min(max(a + 3, 0), 6) / 6; before Keras 3 it was 0.2 a + 0.5"),
    Row("hardswish", ("Hardswish hardswish", "hard_silu hard_swish", "", "hard_silu hard_swish", "", "hswish h_swish")),
    Row("relu6", ("ReLU6 relu6", "relu6", "", "relu6", "", "relu_6")),
    Row("sin", ("sin", "", "", "sin", "sin", "sine")),
    Row("exp", ("exp", "exponential", "", "exp", "exp", "")),
]
LOSSES = [
    Row("squared_error", (
        "MSELoss mse_loss", "mse mean_squared_error MeanSquaredError", "mean_squared_error", "squared_error", "mse", "",
    )),
    Row("squared_error", ("", "", "squared_error squared_loss ls", "l2_loss", "", "l2 least_squares half_mse"),
        "d^2, twice what has a half in front"),
    Row("squared_error", ("", "", "", "", "sse", "sum_of_squares sum_squared_error"),
        "a mean over samples and outputs, not a sum"),
    Row("absolute_error", (
        "L1Loss l1_loss", "mae mean_absolute_error MeanAbsoluteError", "absolute_error lad mean_absolute_error", "",
        "mae l1loss", "least_absolute_deviation l1",
    )),
    Row("huber", ("HuberLoss huber_loss", "huber Huber", "huber", "huber_loss", "huber", "")),
    Row("huber", ("SmoothL1Loss smooth_l1_loss", "", "", "", "", ""),
        '("huber", beta) is beta times the smooth L1 loss; the same if beta is 1'),
    Row("quantile", (
        "", "", "quantile pinball_loss mean_pinball_loss", "", "", "pinball quantile_loss check_loss tilted_loss",
    ), 'a pair with its quantile: ("quantile", 0.9); several: ("quantile", (0.1, 0.9))'),
    Row("hinge", ("", "hinge Hinge", "hinge hinge_loss", "hinge_loss", "", ""), "y is -1 or +1"),
    Row("poisson", ("PoissonNLLLoss poisson_nll_loss", "poisson Poisson", "poisson", "", "", "poisson_loss"),
        "it works on a_L, and forward applies exp"),
    Row("binary_cross_entropy", (
        "BCEWithLogitsLoss binary_cross_entropy_with_logits", "", "", "sigmoid_binary_cross_entropy", "",
        "bce_with_logits sigmoid_cross_entropy binary_logistic logistic logistic_loss",
    ), "it works on a_L, and forward applies sigmoid"),
    Row("binary_cross_entropy", (
        "BCELoss binary_cross_entropy", "binary_crossentropy BinaryCrossentropy", "", "", "", "bce",
    ), "it works on a_L: leave output as it is, and forward applies sigmoid"),
    Row("cross_entropy", (
        "CrossEntropyLoss cross_entropy", "", "",
        "softmax_cross_entropy softmax_cross_entropy_with_integer_labels", "", "softmax_loss xent ce",
    ), "it works on a_L, and forward applies softmax"),
    Row("cross_entropy", (
        "NLLLoss nll_loss", "categorical_crossentropy CategoricalCrossentropy sparse_categorical_crossentropy "
        "SparseCategoricalCrossentropy", "", "", "crossentropy", "negative_log_likelihood nll",
    ), "it works on a_L: leave output as it is, and forward applies softmax"),
    Row("cross_entropy", ("", "", "log_loss log deviance", "", "", "logloss"),
        "of classes; 'binary_cross_entropy' if each output is a separate probability"),
]
SOLVERS = [
    Row("lbfgs", ("LBFGS", "", "lbfgs", "lbfgs", "lbfgs trainbfg", "L-BFGS-B l_bfgs bfgs quasi_newton")),
    Row("lm", ("", "", "", "LevenbergMarquardt", "trainlm", "levenberg_marquardt marquardt leastsq least_squares")),
    Row("adam", ("Adam", "Adam adam", "adam", "adam", "adam adamupdate", "")),
    Row("adam", ("AdamW", "AdamW", "", "adamw", "", ""), "with weight_decay=0.01"),
    Row("sgd", ("SGD", "SGD sgd", "sgd", "sgd", "sgdm sgdmupdate traingdm", "momentum nesterov")),
    Row("sgd", ("", "", "", "", "traingd", "gd gradient_descent steepest_descent"), "with momentum=0.0"),
]
NO_ACTIVATIONS = """
PReLU RReLU CReLU CELU GLU SwiGLU GEGLU ReGLU LogSigmoid LogSoftmax Softmin Softmax2d Softshrink Hardshrink Tanhshrink
Threshold soft_shrink hard_shrink tanh_shrink log_softmax log_sigmoid sparsemax sparse_plus sparse_sigmoid squareplus
thresholded_relu ThresholdedReLU clippedRelu clippedReluLayer preluLayer maxout quick_gelu squared_relu relu_squared
bent_identity radbas radbasn tribas hardlim hardlims satlin netinv compet elliot2sig gaussian rbf snake sinc cos cosine
sinh cosh tan atan arctan asin asinh acosh atanh erf log log1p sqrt square cube abs step binary_step heaviside sign
exp2 expm1 lisht phish serf smelu
""".split()  # noqa: SIM905  # as text it can be read
NO_LOSSES = """
squared_hinge categorical_hinge HingeEmbeddingLoss MultiMarginLoss MultiLabelMarginLoss SoftMarginLoss MarginRankingLoss
modified_huber pseudo_huber perceptron epsilon_insensitive squared_epsilon_insensitive log_cosh logcosh LogCosh rmse
root_mean_squared_error msle mean_squared_logarithmic_error MeanSquaredLogarithmicError mape
mean_absolute_percentage_error MeanAbsolutePercentageError kl_div KLDivLoss kl_divergence KLDivergence kld
kullback_leibler_divergence cosine_similarity CosineSimilarity CosineEmbeddingLoss cosine_distance CTCLoss ctc_loss
TripletMarginLoss GaussianNLLLoss gaussian gamma tweedie exponential focal focal_loss sigmoid_focal_loss
binary_focal_crossentropy dice mse_log r2 msereg mse_with_regularization tukey cauchy smooth_l2
""".split()  # noqa: SIM905
# fmt: on
NO_SOLVERS = """
RMSprop rmspropupdate Adagrad Adadelta Adamax NAdam Nadam RAdam SparseAdam ASGD Rprop trainrp Adafactor Ftrl Lion Lamb
Lars Muon amsgrad adabelief yogi sophia shampoo newton newton-cg cg nonlinear_cg traincgf traincgp traincgb trainscg
trainoss trainbr traingdx gauss_newton dogleg trust-exact trust-krylov trust-ncg trust-constr nelder-mead powell tnc
slsqp cobyla cobyqa basinhopping differential_evolution
""".split()  # noqa: SIM905
_OF_ONES_OWN = {
    "activation": "; backprop.Activation makes an activation of your own functions",
    "loss": "; for a loss of your own, give its gradient by y_hat to net.vjp",
    "solver": "; minimize net.objective with SciPy, or write a loop around net.value_and_grad",
}

# Our argument for each of their names, or a sentence if we have none.
_OF_NETWORK = {
    "activations": "activation hidden_activation hidden_activations activation_function activation_fn nonlinearity act",
    "output": "output_activation final_activation last_activation out_activation output_function",
    "loss": "loss_function loss_fn criterion losses performFcn cost objective",
    "rng": "seed random_state random_seed key generator rng_key",
    "dtype": "precision float_type datatype",
    "sizes": "layer_sizes layers dims layer_dims architecture n_units units widths",
}
_OF_OBJECTIVE = {
    "x": "blocks batches data dataset loader dataloader X",
    "l2": "alpha weight_decay l2_reg l2_penalty regularization penalty lambda_ lam",
    "sample_weight": "sample_weights weights weight",
    "free": "free_mask trainable",
    "n_threads": "threads n_jobs num_threads nthreads workers",
}
_NO_OPTIMIZER = (
    "a network has no optimizer: fit it by net.fit, which has these arguments, or minimize net.objective with SciPy"
)
_IN_CALLS = "it is an argument of the calls: net.value_and_grad(x, y, n_threads=2)"
SENTENCES = {
    "Network": {
        "sizes holds all layers, from n_0 to n_L": "hidden_layer_sizes hidden_sizes hidden hidden_layers hidden_units",
        _NO_OPTIMIZER: "lr learning_rate learning_rate_init optimizer solver epochs max_iter n_iter batch_size tol "
        "momentum early_stopping verbose metrics warm_start shuffle",
        "it is an argument of net.objective: l2": "alpha weight_decay l2 l2_reg regularization kernel_regularizer",
        _IN_CALLS: "n_threads n_jobs num_threads threads workers",
    },
    "objective": {_NO_OPTIMIZER: "lr learning_rate optimizer solver epochs max_iter batch_size"},
    "fit": {
        "x_val, y_val are the data for validation": "validation_data val_data eval_set validation_split "
        "validation_fraction validation",
        "patience=10 stops early": "early_stopping n_iter_no_change callbacks_early_stopping min_delta",
        "state=result.state goes on": "warm_start resume initial_epoch",
        "learning_rate may be a function of the epoch": "scheduler lr_scheduler schedule power_t decay",
        "it is an argument of the network": "activations loss dtype output criterion",
        "the solver 'sgd' has Nesterov's momentum": "nesterov nesterovs_momentum dampening",
    },
    "constraint": {
        "set it on the constraint that comes back: its.keep_feasible = True": "keep_feasible",
        "a constraint uses the parameters of the network: assign net.params": "params theta",
    },
    "Ensemble": {"it is an argument of the network": "activations loss dtype output", _IN_CALLS: "n_threads n_jobs"},
}
ARGUMENTS = {
    "Network": _OF_NETWORK,
    "objective": _OF_OBJECTIVE,
    "fit": {
        **{ours: theirs for ours, theirs in _OF_OBJECTIVE.items() if ours != "l2"},
        "l2": "alpha l2_reg l2_penalty regularization penalty lambda_ lam",
        "solver": "optimizer method algorithm trainFcn",
        "max_iter": "epochs n_iter n_epochs num_epochs maxiter iterations max_epochs",
        "tol": "gtol tolerance",
        "learning_rate": "lr learning_rate_init eta step_size",
        "batch_size": "batch minibatch_size",
        "max_norm": "clip clipnorm max_grad_norm",
        "epsilon": "eps",
        "rng": _OF_NETWORK["rng"],
        "progress": "verbose tqdm progress_bar",
        "callback": "callbacks",
    },
    "constraint": {
        "lb": "lower lower_bound lbg min minimum",
        "ub": "upper upper_bound ubg max maximum",
        "n_threads": _OF_OBJECTIVE["n_threads"],
    },
    "Ensemble": {
        "k": "n n_members n_networks size n_estimators",
        "rng": _OF_NETWORK["rng"],
        "net": "network model base",
    },
}


_TABLES = {
    "activation": (ACTIVATIONS, NO_ACTIVATIONS),
    "loss": (LOSSES, NO_LOSSES),
    "solver": (SOLVERS, NO_SOLVERS),
}


def normal(name: str) -> str:
    """A name without case, separators and module: "nn.LeakyReLU" becomes "leakyrelu"."""
    return re.sub(r"[^a-z0-9]", "", name.rpartition(".")[2].lower())


@cache
def _meanings(kind: str) -> dict[str, Row | None]:
    """Our row by normal name; None if the name is of a function that we lack. The first row with a name counts."""
    rows, others = _TABLES[kind]
    meanings: dict[str, Row | None] = {normal(name): None for name in others}
    for row in reversed(rows):
        meanings |= {normal(name): row for name in " ".join(row.theirs).split()}
    return meanings


def hint(name: str, kind: str, ours: Iterable[str]) -> str:
    """The hint that an error adds for an unknown name, from its semicolon on; empty if no hint is certain.

    kind is "activation", "loss" or "solver"; ours are the accepted names.
    """
    key = normal(name) if len(name) <= _LONGEST else ""
    if not key:
        return ""
    meanings = {normal(own): Row(own, ()) for own in ours} | _meanings(kind)
    if key == "softmax" and key not in meanings:
        return "; softmax is only an output, with the loss 'cross_entropy'"
    if key in meanings and meanings[key] is None:
        return _OF_ONES_OWN[kind]
    rows = [meanings[other] for other in ([key] if key in meanings else _nearest(key, meanings))]
    nearest = {row.ours: row for row in reversed(rows) if row}
    if len(nearest) != 1:
        return ""
    (row,) = nearest.values()
    return f"; did you mean {row.ours!r}?{f' ({row.note})' if row.note else ''}"


def hint_of_object(value: object, kind: str, ours: Iterable[str]) -> str:
    """The same for a function, a class or a layer of another library, such as np.tanh or torch.nn.ReLU()."""
    try:
        name = value.__name__ if callable(value) else type(value).__name__  # type: ignore[attr-defined]
    except Exception:  # a layer has no name, and other objects may raise anything
        name = type(value).__name__
    ours = list(ours)
    meanings = {normal(own) for own in ours} | {key for key, row in _meanings(kind).items() if row}
    return hint(name, kind, ours) if isinstance(name, str) and normal(name) in meanings else ""


def _nearest(key: str, known: Iterable[str]) -> list[str]:
    """The nearest names, if they are near enough; several if they are equally near."""
    limit = (len(key) >= 4) + (len(key) >= 8)
    distances = {other: _distance(key, other) for other in known if abs(len(other) - len(key)) <= limit}
    least = min(distances.values(), default=limit + 1)
    return [other for other, distance in distances.items() if distance == least <= limit]


def _distance(a: str, b: str) -> int:
    """The number of typing mistakes between two words: letters left out, added, changed, or swapped with the next."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        last, before, row = before, row, [i]
        for j, other in enumerate(b, start=1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other)))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                row[j] = min(row[j], last[j - 2] + 1)
    return row[-1]


# Arguments -----------------------------------------------------------------------------------------------------------


def checks_names(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse unknown keywords; the error names the right one if it is certain."""
    known = inspect.signature(function).parameters
    of = function.__qualname__.replace(".__init__", "").rpartition(".")[2]

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for keyword in kwargs:
            if keyword not in known:
                ours = [name for name in known if name != "self"]
                more = _hint_of_argument(of, keyword, ours)
                raise TypeError(f"{of}: expected arguments among {', '.join(ours)}, got {keyword!r}{more}")
        return function(*args, **kwargs)

    return checked


def _hint_of_argument(of: str, keyword: str, ours: list[str]) -> str:
    key = normal(keyword)
    for sentence, names in SENTENCES[of].items():
        if key in map(normal, names.split()):
            return f"; {sentence}"
    meanings = {normal(name): own for own, names in ARGUMENTS[of].items() for name in names.split()}
    meanings |= {normal(own): own for own in ours}
    nearest = [key] if key in meanings else _nearest(key, meanings)
    targets = {meanings[name] for name in nearest}
    return f"; did you mean {targets.pop()!r}?" if len(targets) == 1 else ""
