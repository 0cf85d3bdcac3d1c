"""The arguments of a fit, except the samples: accepted, or refused with an error that names the solvers that use it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from backprop import threads
from backprop.api import array_likes, other_names, scalars, validate

Array = npt.NDArray[Any]
Rate = float | Callable[[int], float]

FULL_BATCH = ("lbfgs", "lm")
STOCHASTIC = ("adam", "sgd")
SOLVERS = FULL_BATCH + STOCHASTIC

_DEFAULT_RATES = {"adam": 1e-3, "sgd": 1e-2}
_DEFAULT_MOMENTUM = 0.9
MAX_ITER = 200
BATCH_SIZE = 200

# The solvers that use an argument, and its default; all others use all arguments.
_USED_BY: dict[str, tuple[tuple[str, ...], object]] = {
    "batch_size": (STOCHASTIC, None),
    "shuffle": (STOCHASTIC, True),
    "learning_rate": (STOCHASTIC, None),
    "max_norm": (STOCHASTIC, None),
    "rng": (STOCHASTIC, None),
    "momentum": (("sgd",), None),
    "betas": (("adam",), (0.9, 0.999)),
    "epsilon": (("adam",), 1e-8),
    "weight_decay": (("adam",), 0.0),
}

# Arguments that an objective has itself.
_OF_OBJECTIVE = {"y": None, "sample_weight": None, "l2": 0.0, "free": None, "n_threads": None, "comm": None}


class Settings(NamedTuple):
    """What a fit does, whatever the samples are."""

    solver: str
    l2: float
    free: npt.NDArray[np.bool_] | None
    max_iter: int
    tol: float  # lbfgs, lm: of the largest entry of the gradient; adam, sgd: of an improvement
    patience: int | None
    callback: Callable[[Any], object] | None
    every: int
    progress: bool
    n_threads: int | None
    batch_size: int | None  # None: BATCH_SIZE, or all samples if there are fewer
    shuffle: bool
    learning_rate: Rate
    method: dict[str, Any]  # of `Plan.run_epochs`

    @property
    def is_stochastic(self) -> bool:
        """Whether the solver takes mini-batches."""
        return self.solver in STOCHASTIC

    @property
    def tol_of_improvement(self) -> float:
        """By so much the loss must fall for patience to begin anew."""
        return self.tol if self.is_stochastic else 0.0

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if callable(self.learning_rate):
            return scalars.non_negative(self.learning_rate(epoch), f"learning_rate({epoch})")
        return self.learning_rate


def solver_of(given: dict[str, Any]) -> str:
    """The solver; comm is refused if it does not use it."""
    solver = given["solver"]
    if not isinstance(solver, str):
        hint = other_names.hint_of_object(solver, "solver", SOLVERS)
        raise TypeError(f"solver: expected one of {_listed(SOLVERS)}, got {array_likes.describe(solver)}{hint}")
    if solver not in SOLVERS:
        hint = other_names.hint(solver, "solver", SOLVERS)
        raise ValueError(f"solver: expected one of {_listed(SOLVERS)}, got {solver!r}{hint}")
    if given["comm"] is not None and solver not in FULL_BATCH:
        _refuse_unused("comm", FULL_BATCH, solver)
    return solver


def accepted(n_params: int, given: dict[str, Any]) -> Settings:
    """The settings of a fit from the arguments of `Network.fit` by name, without the samples.

    Parameters
    ----------
    n_params : int
    given : mapping
        With the names of the arguments. Those that are no settings are left alone.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or is not used by the solver.
    """
    solver = solver_of(given)
    for name, (solvers, default) in _USED_BY.items():
        if solver not in solvers and not _is_default(given[name], default):
            _refuse_unused(name, solvers, solver)
    if solver in STOCHASTIC and given["tol"] is not None and given["patience"] is None:
        raise ValueError(
            f"tol: expected none with the solver {solver!r} and without patience, got {given['tol']!r}; it says how "
            "much the loss must fall for patience to begin anew"
        )
    threads.resolve(given["n_threads"])
    method: dict[str, Any] = {}
    rate: Rate = 0.0
    if solver in STOCHASTIC:
        rate = _learning_rate(given["learning_rate"], solver)
        method = _adam(given) if solver == "adam" else _sgd(given)
        if given["max_norm"] is not None:
            method["max_norm"] = _finite_positive(given["max_norm"], "max_norm")
    return Settings(
        solver=solver,
        l2=scalars.non_negative(given["l2"], "l2"),
        free=validate.free_mask(given["free"], n_params),
        max_iter=_or(given["max_iter"], MAX_ITER, scalars.natural, "max_iter"),
        tol=_or(given["tol"], 1e-6 if solver in FULL_BATCH else 0.0, scalars.non_negative, "tol"),
        patience=_or(given["patience"], None, scalars.positive_integer, "patience"),
        callback=_callback(given["callback"]),
        every=scalars.positive_integer(given["every"], "every"),
        progress=_flag(given["progress"], "progress"),
        n_threads=given["n_threads"],
        batch_size=_or(given["batch_size"], None, scalars.positive_integer, "batch_size"),
        shuffle=_flag(given["shuffle"], "shuffle"),
        learning_rate=rate,
        method=method,
    )


def refuse_half_of_validation(given: dict[str, Any]) -> None:
    """Refuse some of x_val, y_val and sample_weight_val without the others."""
    if given["x_val"] is not None:
        if given["y_val"] is None:
            raise ValueError("y_val: expected targets beside x_val, got none")
        return
    for name in ("y_val", "sample_weight_val"):
        if given[name] is not None:
            raise ValueError(f"{name}: expected x_val beside it, got none")


@contextmanager
def of_validation() -> Iterator[None]:
    """Errors name x_val in place of x."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        text = re.sub(r"^(x|y|sample_weight):", r"\1_val:", str(error))
        raise kind(text.replace("as x has", "as x_val has")) from error


def refuse_beside_objective(given: dict[str, Any]) -> None:
    """Refuse what an objective has itself, and solvers that need samples."""
    for name, default in _OF_OBJECTIVE.items():
        if not _is_default(given[name], default):
            raise ValueError(f"{name}: expected none beside an objective, which has its own, got one")
    if given["solver"] != "lbfgs":
        raise ValueError(
            f"solver: expected 'lbfgs' for an objective, got {given['solver']!r}, which needs the samples: "
            f"net.fit(x, y, solver={given['solver']!r})"
        )


def _listed(names: tuple[str, ...]) -> str:
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _is_default(value: object, default: object) -> bool:
    """Whether an argument has its default; whatever cannot be compared has not."""
    if value is default:
        return True
    if isinstance(default, tuple):
        return isinstance(value, tuple | list) and tuple(value) == default
    return isinstance(value, bool | int | float) and isinstance(default, bool | float) and value == default


def _refuse_unused(name: str, solvers: tuple[str, ...], solver: str) -> NoReturn:
    plural = "solvers" if len(solvers) > 1 else "solver"
    raise ValueError(
        f"{name}: expected none with the solver {solver!r}, which does not use it, got one; it is for the {plural} "
        f"{_listed(solvers)}"
    )


def _or(value: Any, default: Any, accept: Callable[[object, str], Any], name: str) -> Any:
    return default if value is None else accept(value, name)


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {array_likes.describe(value)}")
    return bool(value)


def _callback(value: Any) -> Callable[[Any], object] | None:
    if value is not None and not callable(value):
        raise TypeError(f"callback: expected a function of one argument, got {array_likes.describe(value)}")
    return value  # type: ignore[no-any-return]


def _finite_positive(value: object, name: str) -> float:
    number = scalars.positive(value, name)
    if number == np.inf:
        raise ValueError(f"{name}: expected a finite number > 0, got inf")
    return number


def _below_1(value: object, name: str) -> float:
    number = scalars.non_negative(value, name)
    if number >= 1:
        raise ValueError(f"{name}: expected a number >= 0 and < 1, got {number}")
    return number


def _learning_rate(value: Any, solver: str) -> Rate:
    if value is None:
        return _DEFAULT_RATES[solver]
    if isinstance(value, str):
        raise TypeError(f"learning_rate: expected a number > 0 or a function of the epoch, got {value!r}")
    return value if callable(value) else _finite_positive(value, "learning_rate")


def _adam(given: dict[str, Any]) -> dict[str, Any]:
    betas = given["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas: expected two numbers, as (0.9, 0.999), got {array_likes.describe(betas)}")
    return {
        "method": "adam",
        "betas": tuple(_below_1(beta, f"betas[{k}]") for k, beta in enumerate(betas)),
        "epsilon": _finite_positive(given["epsilon"], "epsilon"),
        "weight_decay": scalars.non_negative(given["weight_decay"], "weight_decay"),
    }


def _sgd(given: dict[str, Any]) -> dict[str, Any]:
    return {"method": "sgd", "momentum": _or(given["momentum"], _DEFAULT_MOMENTUM, _below_1, "momentum")}
