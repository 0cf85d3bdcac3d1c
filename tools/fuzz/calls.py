"""The calls of fuzz.py: their arguments, their references, and the arguments that are not arrays."""

import sys
from pathlib import Path

import numpy as np

from backprop.api import parameters as _params

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from reference_calls import ReferenceCalls

GOOD_COUNTS = [None, 1, 2, 3, 8, np.int64(2), np.uint8(3), 10**6, 1 << 70]
BAD_COUNTS = [0, -1, 2.5, 2.0, np.nan, "2", True, np.True_, [2], 1j, -(1 << 70), np.array([2, 3]), b"1"]
GOOD_NETWORKS = {
    "sizes": [[2, 3], (1, 1), np.array([3, 2]), [np.int8(3), 2, 1], range(1, 4)],
    "activations": ["tanh", ("leaky_relu", 0.2), "gelu"],
    "output": ["identity", "tanh", ("elu", 0.5)],
    "loss": ["squared_error", ("huber", 0.5), ("quantile", np.float32(0.5))],
    "dtype": ["float32", np.float64, "f8", np.dtype("f4"), float],
    "rng": [0, None, np.int64(3), 1 << 70, np.random.default_rng(0)],
}
SOLVERS = ["lbfgs", "adam", "sgd"]  # for every loss; lm takes squared_error alone
_EPOCHS = {
    "batch_size": [None, 1, 2, 1000],
    "shuffle": [True, np.False_],
    "learning_rate": [1e-3, np.float32(0.5), lambda epoch: 0.1 / (1 + epoch)],
    "max_norm": [None, 0.3, 1e200],
    "rng": [0, np.int64(3)],
}
GOOD_FITS = {
    None: {"max_iter": [2, np.int32(3)], "l2": [0.0, 0.01], "every": [1, 2], "n_threads": [None, 1, 2]},
    "lbfgs": {"tol": [None, 0.0, 1e-3]},
    "lm": {"tol": [None, 0.0, 1e-3]},
    "adam": _EPOCHS | {"betas": [(0.5, 0.9), [0.0, 0.0]], "epsilon": [1e-300, 0.1], "weight_decay": [0.0, 0.1]},
    "sgd": _EPOCHS | {"momentum": [None, 0.0, 0.5]},
}
BAD_FITS = {
    "solver": ["newton", "Adam", None, 3, b"adam", ["adam"]],
    "max_iter": [-1, 1.5, "3", True, [2]],
    "l2": [-1.0, np.nan, "0", [0.1]],
    "free": [None],  # a mask of another length
    "tol": [-1.0, np.nan, "0"],
    "batch_size": [0, -1, 2.5, "2"],
    "shuffle": [1, "yes", 0.5],
    "learning_rate": [0.0, -1.0, np.nan, np.inf, "adaptive"],
    "max_norm": [0.0, -1.0, np.nan, np.inf, "1"],
    "rng": [-1, "x", 1.5],
    "patience": [0, -1, 1.5, "1"],
    "every": [0, -1, 1.5, None],
    "callback": [1, "print"],
    "progress": [1, "yes"],
    "state": [1, {}, "state"],
    "n_threads": BAD_COUNTS,
    "momentum": [1.0, -0.1, np.nan, "0.9"],
    "betas": [(0.9,), 0.9, (0.9, 1.0), (-0.1, 0.9), (0.9, np.nan), ("0.9", 0.9)],
    "epsilon": [0.0, -1.0, np.nan, np.inf, "0"],
    "weight_decay": [-1.0, np.nan, "0"],
    "x_val": [np.zeros((1, 1))],  # without y_val
}
# fmt: off
BAD_NETWORKS = {
    "sizes": [
        [], [3], [0, 1], [-1, 2], [2.5, 1], [2.0, 1], "23", b"23", {2: 3, 3: 4}, None, 5, [True, 2], [[2], 3],
        [None, 2], ["2", 3],
        [1j, 2], [np.nan, 1], [1 << 62, 1], [1 << 40, 1 << 40], [1 << 31, 1 << 31, 1 << 31], [1 << 70, 1],
        [1 << 58, 4], [(1 << 63) - 1, (1 << 63) - 1, 2], [1 << 44, 1], [1, 1 << 44],
    ],
    "activations": [
        "tahn", 3, None, ["tanh"] * 7, [], {"tanh"}, ("leaky_relu", "x"), ("leaky_relu", np.nan), ("relu", 1.0),
        ("leaky_relu", 1, 2), ["tanh", 1], object(), ("elu", True), ("elu", 1 << 2000),
    ],
    "output": ["softmax", "no", None, 1, ("tanh", 2), ("elu", np.inf), ["elu"], [], object()],
    "loss": [
        "mse", None, ("huber", -1), ("huber", 0), ("quantile", 1), ("quantile", np.nan), ("huber", None), 7,
        ("quantile", ()), ("quantile", (0.5,) * 9), ("quantile", (None,)), ("huber", (1.0,)),
        ("squared_error", 1.0), ["huber"], ("huber", "1"), ("cross_entropy", -0.1),
    ],
    "dtype": ["float16", "f2", ">f8", None, "complex", int, "x", 5, "O", [("a", "f8")], np.longdouble],
    "rng": [-1, 1.5, "0", [1], True, np.random.RandomState(0)],
}
# fmt: on


def weights_of(r):
    """The parameters with 0 for all biases, from the reference."""
    only = r.theta.copy()
    for _, b in _params.unflatten(only, r.sizes):
        b[...] = 0
    return only


def objective_of(r, d):
    """Loss and gradient of an objective, from the reference."""
    (loss, grad), W, l2 = r.value_and_grad(), weights_of(r), d.get("l2", 0.0)
    return loss + l2 / 2 * (W**2).sum(), (grad + l2 * W)[d.get("free", ...)]


def hessp_of(r, d):
    """The Hessian of an objective times v, from the reference."""
    free = d.get("free", ...)
    direction = np.zeros_like(r.theta)
    direction[free] = d["v"]
    is_weight = weights_of(ReferenceCalls(r.specification, np.ones_like(r.theta), r.x))
    return (r.hvp(direction) + d.get("l2", 0.0) * is_weight * direction)[free]


# name -> (arguments, shape of out, reference for the round's numbers); a shape has the letters of `Round.dimensions`

_LOSS = ("x", "y", "sample_weight")
CALLS = {
    "value_and_grad": (_LOSS, "P", lambda r, d: r.value_and_grad()),
    "loss": (_LOSS, None, lambda r, d: r.value_and_grad()[0]),
    "forward": (("x",), None, lambda r, d: r.forward()),
    "layer_gradients": (_LOSS, None, lambda r, d: layers_of(r)),
    "vjp": (("x", "cotangent"), None, lambda r, d: r.vjp(d["cotangent"])),
    "jvp": (("x", "v"), "nk", lambda r, d: r.jvp(d["v"])),
    "input_gradient": (_LOSS, "ni", lambda r, d: r.input_gradient()),
    "input_jacobian": (("x",), "nki", lambda r, d: r.input_jacobian()),
    "jacobian": (("x",), "nkP", lambda r, d: r.jacobian()),
    "per_sample_gradients": (_LOSS, "nP", lambda r, d: r.per_sample_gradients()),
    "per_sample_gradient_norms": (_LOSS, "n", lambda r, d: r.per_sample_gradient_norms()),
    "clipped_gradient": ((*_LOSS, "max_norm"), "P", lambda r, d: r.clipped_gradient(d["max_norm"])),
    "hvp": ((*_LOSS, "v"), "P", lambda r, d: r.hvp(d["v"])),
    "gauss_newton_vp": ((*_LOSS, "v"), "P", lambda r, d: r.gauss_newton_vp(d["v"])),
    "hessian": (_LOSS, "PP", lambda r, d: r.hessian()),
    "residuals": ((*_LOSS, "theta"), None, lambda r, d: r.residuals()),
    "normal_equations": (_LOSS, None, lambda r, d: r.normal_equations()),
    "sobolev_value_and_grad": (
        (*_LOSS, "grad_x", "weight"), "P", lambda r, d: r.sobolev_value_and_grad(d["grad_x"], d["weight"])
    ),
    "laplacian": (("x",), "nk", lambda r, d: r.laplacian()),
    "input_hessian": (("x", "multipliers"), "nii", lambda r, d: r.input_hessian(d["multipliers"])),
    "input_jet": (("x", "directions"), None, lambda r, d: r.input_jet(d["directions"])),
    "input_jet_of_axes": (("x",), None, lambda r, d: r.input_jet()),
    "jet_vjp": (
        ("x", "cot_y", "cot_dy", "cot_d2y", "directions"), None,
        lambda r, d: r.jet_vjp(d["cot_y"], d["cot_dy"], d["cot_d2y"], d["directions"]),
    ),
    "objective": ((*_LOSS, "theta", "l2"), None, objective_of),
    "objective_of_free": ((*_LOSS, "theta", "l2", "free"), None, objective_of),
    "objective_parts": ((*_LOSS, "theta", "l2"), None, objective_of),
    "hessp": ((*_LOSS, "theta", "v", "l2"), None, hessp_of),
    "hessp_again": ((*_LOSS, "theta", "v", "l2"), None, hessp_of),
    "hessp_of_free": ((*_LOSS, "theta", "v", "l2", "free"), None, hessp_of),
    "hvp_operator": ((*_LOSS, "v"), None, lambda r, d: r.hvp(d["v"])),
    "gauss_newton_operator": ((*_LOSS, "v"), None, lambda r, d: r.gauss_newton_vp(d["v"])),
    "find_nonfinite": (_LOSS, None, lambda r, d: ()),
    "check_gradient": (_LOSS, None, lambda r, d: True),
    "ensemble": (_LOSS, "mP", lambda r, d: r.value_and_grad()),  # of each member
    "ensemble_by_member": (_LOSS, "mP", lambda r, d: r.value_and_grad()),
    "ensemble_forward": (("x",), None, lambda r, d: r.forward()),
    "ensemble_forward_by_member": (("x",), None, lambda r, d: r.forward()),
}  # fmt: skip
OPTIONAL = {"sample_weight", "l2"}
TWINS = {
    "hvp_operator": "hvp",
    "gauss_newton_operator": "gauss_newton_vp",
    "hessp_again": "hessp",
}  # with the same bits
OF_FREE = {"objective_of_free", "hessp_of_free"}  # theta and v hold the free parameters only
BY_MEMBER = {"ensemble_by_member", "ensemble_forward_by_member", "ensemble_params"}  # each member has its own data
OBJECTIVES = {"objective", "objective_parts", "hessp", "hessp_again", *OF_FREE}
SQUARED_ONLY = {"residuals", "normal_equations", "sobolev_value_and_grad"}
WITHOUT_PARAMS = {"residuals", "check_gradient", *OBJECTIVES, *(name for name in CALLS if name.startswith("ensemble"))}
WITHOUT_THREADS = {"check_gradient"}
BY_ENTRY = {"per_sample_gradient_norms", "residuals"}  # vectors with one entry per sample
SCALARS = {"max_norm", "l2"}
POSITIONAL = ("x", "y", "cotangent", "v", "max_norm", "grad_x", "weight")
ALONE = {"forward", "jvp", "input_jacobian", "jacobian", "laplacian", "input_hessian", "input_jet", "input_jet_of_axes",
         "ensemble_forward", "ensemble_forward_by_member"}  # fmt: skip
# These do not fit x if x has another number of rows.
BESIDE_X = ["y", "sample_weight", "cotangent", "grad_x", "multipliers", "directions", "cot_y", "cot_dy", "cot_d2y"]
MANY_ENTRIES = {"hessian": 60, "jacobian": 300, "normal_equations": 100, "residuals": 300, "sobolev_value_and_grad": 60,
                "check_gradient": 60}  # fmt: skip


def layers_of(r):
    """The lists of `layer_gradients` in one list, from the reference."""
    result = r.layer_gradients
    h = [*result.h[:-1], r.forward()]
    return [result.loss, *result.a[1:], *h, *result.grad_a[1:], *(g for g in result.grad_h if g is not None),
            *result.grad_W[1:], *result.grad_b[1:]]  # fmt: skip


def call(net, ensemble, name, values, options):
    """Make the call, and return its results as a list of arrays and numbers."""
    values = dict(values)
    if name.startswith("ensemble"):
        made = ensemble.forward if "forward" in name else ensemble.value_and_grad
        result = made(*values.values(), **options)
    elif name in OBJECTIVES:
        theta, v = values.pop("theta"), values.pop("v", None)
        fun = net.objective(*values.values(), **options)
        if name == "hessp_again":
            fun.hessp(theta, theta)
        if name == "objective_parts":
            result = fun.value(theta), fun.grad(theta)
        else:
            result = fun(theta) if v is None else fun.hessp(theta, v)
    elif name == "residuals":
        theta = values.pop("theta")
        result = [function(theta) for function in net.residuals(*values.values(), **options)]
    elif name.endswith("_operator"):
        v = values.pop("v")
        result = getattr(net, name)(*values.values(), **options) @ v
    else:
        result = getattr(net, name.removesuffix("_of_axes"))(*values.values(), **options)
    if name.startswith("input_jet"):
        return [result.y, result.dy, result.d2y]
    if name == "layer_gradients":
        lists = (result.a, result.h, result.grad_a, result.grad_h, result.grad_W, result.grad_b)
        return [result.loss, *(part for some in lists for part in some if part is not None)]
    if name == "find_nonfinite":
        return [] if result is None else [result.value]
    if name == "check_gradient":
        return [result.ok]
    return list(result) if isinstance(result, tuple | list) else [result]
