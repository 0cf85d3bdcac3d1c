"""An architecture as its user writes it: names and pairs read into rows of the tables, and back."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from backprop.activations import ACTIVATIONS, Activation
from backprop.api import other_names
from backprop.api.validate import as_float, describe, positive_integer
from backprop.custom import Activation as Custom
from backprop.losses import LOSSES, Loss

Spec = str | tuple[str, float]
ActivationSpec = Spec | Custom


def sizes(value: object) -> tuple[int, ...]:
    """At least two positive integers, n_0, ..., n_L, whose parameters can be counted."""
    if isinstance(value, str | bytes | dict | set | frozenset) or not isinstance(value, Iterable):
        raise TypeError(f"sizes: expected a sequence of at least two positive integers, got {describe(value)}")
    result = tuple(positive_integer(n, f"sizes[{i}]") for i, n in enumerate(value))
    if len(result) < 2:
        raise ValueError(f"sizes: expected at least two positive integers, got {len(result)}: {list(result)}")
    n_params = sum(n_out * (n_in + 1) for n_in, n_out in pairwise(result))
    if 16 * n_params > np.iinfo(np.intp).max:
        raise ValueError(f"sizes: expected a network that fits into memory, got {n_params} parameters")
    return result


def dtype(value: object) -> np.dtype[Any]:
    """float32 or float64, in native byte order."""
    result: np.dtype[Any] | None
    try:
        result = np.dtype(value)  # type: ignore[call-overload]  # it raises where value is none
    except (TypeError, ValueError, SyntaxError):
        result = None
    if value is None or result is None or result not in (np.dtype("float32"), np.dtype("float64")):
        raise ValueError(f'dtype: expected "float32" or "float64", got {describe(value)}')
    return result


def _name_and_parameter(value: object, argument: str, known: Iterable[str]) -> tuple[str, object]:
    """Split a name, or a (name, parameter) pair, and refuse a name that is not known."""
    parameter: object = None
    name = value
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{argument}: expected a name or a pair (name, parameter), got {describe(value)}")
        name, parameter = value
        if parameter is None:
            raise TypeError(f"{argument}: expected a number as the parameter of {name!r}, got None")
    names, kind = list(known), "loss" if argument == "loss" else "activation"
    if not isinstance(name, str):
        hint = other_names.hint_of_object(name, kind, names)
        raise TypeError(f"{argument}: expected a name or a pair (name, parameter), got {describe(value)}{hint}")
    if name not in names:
        hint = other_names.hint(name, kind, names)
        raise ValueError(f"{argument}: expected one of {', '.join(names)}, got {name!r}{hint}")
    return str(name), parameter  # a plain one, also for the repr


def _parameter(value: object, row: Activation | Loss, argument: str) -> float:
    """The parameter as a float, the default where none was given."""
    if value is None:
        return row.default
    if row.parameter_name is None:
        raise ValueError(f"{argument}: expected no parameter for {row.name!r}, got {value!r}")
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{argument}: expected a number for {row.parameter_name} of {row.name!r}, got {describe(value)}"
        )
    result = as_float(value)
    if not np.isfinite(result):
        raise ValueError(f"{argument}: expected a finite {row.parameter_name} of {row.name!r}, got {result}")
    if isinstance(row, Loss) and not row.parameter_is_valid(result):
        raise ValueError(
            f"{argument}: expected {row.parameter_domain} for {row.parameter_name} of {row.name!r}, got {result}"
        )
    return result


def activation(value: object, argument: str) -> tuple[Activation, float]:
    """A row of the table and its parameter, from a name or a (name, parameter) pair; or an activation of one's own."""
    if isinstance(value, Activation):
        return value, 0.0
    name, parameter = _name_and_parameter(value, argument, ACTIVATIONS)
    return ACTIVATIONS[name], _parameter(parameter, ACTIVATIONS[name], argument)


def hidden_activations(value: object, n_hidden: int) -> list[tuple[Activation, float]]:
    """One activation for all hidden layers, or a list with one for each."""
    is_pair = isinstance(value, tuple) and len(value) == 2 and not isinstance(value[1], str | tuple | list | Activation)
    if isinstance(value, str | Activation) or is_pair:
        return [activation(value, "activations")] * n_hidden
    if not isinstance(value, list | tuple):
        hint = other_names.hint_of_object(value, "activation", ACTIVATIONS)
        raise TypeError(
            f"activations: expected a name, a pair (name, parameter) or a list of them, got {describe(value)}{hint}"
        )
    if len(value) != n_hidden:
        raise ValueError(f"activations: expected {n_hidden}, one for each hidden layer, got {len(value)}")
    return [activation(item, f"activations[{i}]") for i, item in enumerate(value)]


def loss_and_output(loss: object, output: object) -> tuple[Loss, float, str, tuple[Activation, float]]:
    """The loss, its parameter, the name of the output as given, and the function applied before the loss."""
    name, parameter = _name_and_parameter(loss, "loss", LOSSES)
    row = LOSSES[name]
    loss_parameter = _parameter(parameter, row, "loss")
    if isinstance(output, Activation):
        output_name = output.name
    else:
        output_name, _ = _name_and_parameter(output, "output", [*ACTIVATIONS, "softmax"])
    if row.acts_on_a:
        allowed = ["identity"] if row.link is None else ["identity", row.link]
        if output_name not in allowed or not isinstance(output, str):
            raise ValueError(
                f"output: expected {' or '.join(map(repr, allowed))} with the loss {name!r}, which works on a_L, "
                f"got {output!r}"
            )
        return row, loss_parameter, output_name, (ACTIVATIONS["identity"], 0.0)
    if output_name == "softmax" and not isinstance(output, Activation):
        raise ValueError(f"output: expected 'softmax' with the loss 'cross_entropy' alone, got it with {name!r}")
    return row, loss_parameter, output_name, activation(output, "output")


def spec(row: Activation | Loss, parameter: float) -> Any:
    """The name, the pair where the parameter is not the default, or the activation itself where it is a user's own."""
    if isinstance(row, Custom):
        return row
    return row.name if row.parameter_name is None or parameter == row.default else (row.name, parameter)
