"""`Architecture`: everything of a network except its parameters.

The names and pairs that a user writes become rows of the tables of activations and losses, and are written back.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from backprop.activations import ACTIVATIONS, Activation
from backprop.api import other_names, parameters, shown
from backprop.api.array_likes import describe
from backprop.api.scalars import as_float, positive_integer
from backprop.custom import Activation as Custom
from backprop.losses import LOSSES, Loss, Parameter, link_code, with_parameters_by_output

Spec = str | tuple[str, float]
ActivationSpec = Spec | Custom
LossSpec = str | tuple[str, float] | tuple[str, tuple[float, ...]]
Layer = tuple[Activation, float]  # a row of the table, and its parameter

_DTYPES = ["float32", "float64"]


@dataclass(frozen=True)
class Architecture:
    """Everything of a network except its parameters.

    Attributes
    ----------
    sizes : tuple of int
        n_0, n_1, ..., n_L.
    layers : tuple of (Activation, float)
        g_1, ..., g_L, each with its parameter. The last is O, or the identity if the loss works on a_L.
    loss : Loss
    loss_parameter : float, or tuple of float
        A tuple has one for each output, if the loss takes one.
    output_name : str
        The output as the user named it: with cross_entropy "identity" and "softmax" mean the same.
    dtype : numpy.dtype
    """

    sizes: tuple[int, ...]
    layers: tuple[Layer, ...]
    loss: Loss
    loss_parameter: Parameter
    output_name: str
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, sizes: object, activations: object, output: object, loss: object, dtype: object) -> Architecture:
        """The architecture that the arguments of `Network` describe; wrong arguments are refused."""
        sizes_ = _sizes(sizes)
        hidden = _hidden_activations(activations, len(sizes_) - 2)
        row, parameter, output_name, last = _loss_and_output(loss, output, sizes_[-1])
        return cls(sizes_, (*hidden, last), row, parameter, output_name, _dtype(dtype))

    @property
    def n_params(self) -> int:
        """The number of parameters."""
        return parameters.count(self.sizes)

    @property
    def loss_pair(self) -> tuple[Loss, Parameter]:
        """The loss and its parameter."""
        return self.loss, self.loss_parameter

    @property
    def compiled_loss(self) -> tuple[int, tuple[float, ...], bool, int]:
        """The loss as `_core.Plan` takes it: its code, its parameters, whether it acts on a_L, the code of its link."""
        parameter = self.loss_parameter
        parameters_ = parameter if isinstance(parameter, tuple) else (parameter,)
        return self.loss.code, parameters_, self.loss.acts_on_a, link_code(self.loss)

    @cached_property
    def is_linear_in_pieces(self) -> bool:
        """Whether y_hat is linear in pieces as a function of x, with kinks: its second derivatives are then 0."""
        rows = [row for row, _ in self.layers]
        without_curve = self.loss.link is None and all(row.formula_second == "0" for row in rows)
        return without_curve and any(row.kinks for row in rows)

    @property
    def activations(self) -> tuple[ActivationSpec, ...]:
        """The activations of the hidden layers, as a user writes them."""
        return tuple(_as_written(*layer) for layer in self.layers[:-1])

    @property
    def output(self) -> ActivationSpec:
        """The output, as a user writes it."""
        return self.output_name if self.loss.acts_on_a else _as_written(*self.layers[-1])

    @property
    def arguments(self) -> str:
        """The arguments of the call that makes this network, as text."""
        different = list(dict.fromkeys(self.activations)) or ["relu"]
        activations = different[0] if len(different) == 1 else list(self.activations)
        return (
            f"{list(self.sizes)}, activations={activations!r}, output={self.output!r}, "
            f"loss={_as_written(self.loss, self.loss_parameter)!r}, dtype={self.dtype.name!r}"
        )

    def table(self, what: str) -> shown.Table:
        """The table of the layers; its title begins with what."""
        functions = [_in_words(*layer) for layer in self.layers]
        functions[-1] = f"{self.loss.link or functions[-1]} (output)"
        rows = [("0", f"{self.sizes[0]:,}", "(input)", "", "")]
        for i, (n_in, n_out) in enumerate(pairwise(self.sizes), start=1):
            rows.append((str(i), f"{n_out:,}", functions[i - 1], f"({n_out}, {n_in})", f"{n_out * (n_in + 1):,}"))
        n_params, loss = shown.count(self.n_params, "parameter"), _in_words(*self.loss_pair)
        header = ("layer", "units", "activation", "W", "parameters")
        return shown.Table(f"{what}{n_params}, loss {loss}, {self.dtype.name}", header, rows, align=">><>>")

    def to_dict(self) -> dict[str, Any]:
        """The architecture in lists, names and numbers, as JSON has them; activations of the user stay objects.

        Every parameter is written out: a new default in a later release then changes no network.
        """
        return {
            "sizes": list(self.sizes),
            "activations": [_written_out(*layer) for layer in self.layers[:-1]],
            "output": self.output_name if self.loss.acts_on_a else _written_out(*self.layers[-1]),
            "loss": _written_out(*self.loss_pair),
            "dtype": self.dtype.name,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """The inverse of `to_dict`. The values may come from a hostile file; what does not fit is refused."""
        expected = {"sizes", "activations", "output", "loss", "dtype"}
        if values.keys() != expected:
            raise ValueError(f"expected an architecture of {sorted(expected)}, got {describe(sorted(values))}")
        for key in ("sizes", "activations"):
            if not isinstance(values[key], list | tuple):
                raise ValueError(f"{key}: expected a list, got {describe(values[key])}")
        if values["dtype"] not in _DTYPES:  # NumPy would take other spellings
            raise ValueError(f"dtype: expected one of {_DTYPES}, got {describe(values['dtype'])}")
        return cls.of(**values)


def _as_written(row: Activation | Loss, parameter: Parameter) -> Any:
    """The name; a pair if the parameter is not the default; an activation of the user stays as it is."""
    if isinstance(row, Custom):
        return row
    return row.name if row.parameter_name is None or parameter == row.default else (row.name, parameter)


def _in_words(row: Activation | Loss, parameter: Parameter) -> str:
    if isinstance(_as_written(row, parameter), str | Custom):
        return row.name
    return f"{row.name}({', '.join(f'{p:g}' for p in np.atleast_1d(parameter))})"


def _written_out(row: Activation | Loss, parameter: Parameter) -> Any:
    """The name, or a list of the name and the parameter; an activation of the user stays as it is."""
    if isinstance(row, Custom):
        return row
    if row.parameter_name is None:
        return row.name
    return [row.name, list(parameter) if isinstance(parameter, tuple) else parameter]


# From what a user writes ---------------------------------------------------------------------------------------------


def _sizes(value: object) -> tuple[int, ...]:
    """At least two positive integers n_0, ..., n_L, of a network that memory could hold."""
    if isinstance(value, str | bytes | dict | set | frozenset) or not isinstance(value, Iterable):
        raise TypeError(f"sizes: expected a sequence of at least two positive integers, got {describe(value)}")
    result = tuple(positive_integer(n, f"sizes[{i}]") for i, n in enumerate(value))
    if len(result) < 2:
        raise ValueError(f"sizes: expected at least two positive integers, got {len(result)}: {list(result)}")
    n_params = parameters.count(result)
    if 16 * n_params > np.iinfo(np.intp).max:
        raise ValueError(f"sizes: expected a network that fits into memory, got {n_params} parameters")
    return result


def _dtype(value: object) -> np.dtype[Any]:
    """float32 or float64, in native byte order."""
    result: np.dtype[Any] | None
    try:
        result = np.dtype(value)  # type: ignore[call-overload]  # it raises if value is no dtype
    except (TypeError, ValueError, SyntaxError):
        result = None
    if value is None or result is None or result not in (np.dtype("float32"), np.dtype("float64")):
        raise ValueError(f'dtype: expected "float32" or "float64", got {describe(value)}')
    return result


def _name_and_parameter(value: object, argument: str, known: Iterable[str]) -> tuple[str, object]:
    """Read a name or a pair (name, parameter), and refuse unknown names."""
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
    return str(name), parameter  # a plain string, also of a subclass of str


def _parameter(value: object, row: Activation | Loss, argument: str) -> float:
    """The parameter as a float; the default if none was given."""
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
    """A row of the table and its parameter, from a name or a pair (name, parameter); or an activation of the user."""
    if isinstance(value, Activation):
        return value, 0.0
    name, parameter = _name_and_parameter(value, argument, ACTIVATIONS)
    return ACTIVATIONS[name], _parameter(parameter, ACTIVATIONS[name], argument)


def _hidden_activations(value: object, n_hidden: int) -> list[tuple[Activation, float]]:
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


def _loss_and_parameter(value: object, n_out: int) -> tuple[Loss, Parameter]:
    """The loss, and its parameter, or one for each output if they are in a tuple."""
    name, parameter = _name_and_parameter(value, "loss", LOSSES)
    row = LOSSES[name]
    by_output = with_parameters_by_output(row)
    if isinstance(parameter, np.ndarray) and parameter.ndim == 1:
        parameter = parameter.tolist()
    if by_output is None or not isinstance(parameter, tuple | list):
        return row, _parameter(parameter, row, "loss")
    if len(parameter) != n_out:
        raise ValueError(
            f"loss: expected a number for {row.parameter_name} of {name!r}, or a tuple of {n_out}, one for each "
            f"output, got {len(parameter)}: {describe(parameter)}"
        )
    for i, number in enumerate(parameter):
        if number is None:
            raise TypeError(f"loss[1][{i}]: expected a number for {row.parameter_name} of {name!r}, got None")
    return by_output, tuple(_parameter(number, row, f"loss[1][{i}]") for i, number in enumerate(parameter))


def _loss_and_output(loss: object, output: object, n_out: int) -> tuple[Loss, Parameter, str, tuple[Activation, float]]:
    """The loss, its parameter, the name of the output as given, and the function applied before the loss."""
    row, loss_parameter = _loss_and_parameter(loss, n_out)
    name = row.name
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
        raise ValueError(f"output: expected 'softmax' only with the loss 'cross_entropy', got it with {name!r}")
    return row, loss_parameter, output_name, activation(output, "output")
