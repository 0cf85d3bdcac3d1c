"""`Activation`: an activation made of the NumPy functions or C functions of a user."""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backprop import activations
from backprop.api import array_likes, attributes, shown

Array = npt.NDArray[Any]

CUSTOM_CODE = 20  # ActivationCode in kernels/table.pxd
_SIGNATURE = "double (double)"
# Arguments without a pattern, so that no kink at a round number is among them; of both signs, on both sides of 1.
_TEST_POINTS = np.concatenate([sign * np.geomspace(0.0137, 7.31, 23) for sign in (1.0, -1.0)])
_STEP = 1e-5  # of central differences: their error is near 1e-10, including the rounding of g
_TOLERANCE = 1e-5


class Activation(activations.Activation, shown.Tidy):
    """An activation of your own. Give it wherever the name of a built-in activation may be given.

    Parameters
    ----------
    name : str
        For errors and for the repr of the network.
    g, g_prime, g_second, g_third : callable or C function
        g and its first, second and third derivative. Only the calls of second order need g_second; only gradients of
        second derivatives by the inputs need g_third. Either all are NumPy functions, which take a float64 array and
        return an array of the same shape, elementwise. Or all are C functions ``double (*)(double)``: an address as an
        int, a numba ``cfunc``, a ctypes function, or a ``scipy.LowLevelCallable`` (also ``from_cython``). C functions
        run without the GIL, on all threads. NumPy functions run on the calling thread.

    Raises
    ------
    TypeError
        If a function is of neither kind, if the kinds are mixed, or if g_third is given without g_second.
    ValueError
        If finite differences at 46 arguments from -7.3 to 7.3 contradict g_prime, g_second or g_third.

    Notes
    -----
    The functions compute in float64; a float32 network rounds their results. A network has the same bits in each call
    only if its functions have.

    Examples
    --------
    >>> import numpy as np
    >>> from backprop import Activation, Network
    >>> square = Activation("square", np.square, lambda a: 2 * a, lambda a: np.full_like(a, 2))
    >>> net = Network([2, 3, 1], activations=square, rng=0)
    """

    def __init__(self, name: str, g: Any, g_prime: Any, g_second: Any = None, g_third: Any = None) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"name: expected a name, got {name!r}")
        given = {"g": g, "g_prime": g_prime, "g_second": g_second, "g_third": g_third}
        if g is None or g_prime is None:
            missing = "g" if g is None else "g_prime"
            raise TypeError(f"{missing}: expected a function, got None")
        if g_second is None and g_third is not None:
            raise TypeError("g_second: expected a function, since g_third is given, got None")
        addresses = {key: _address(value, key) for key, value in given.items() if value is not None}
        kinds = {address is not None for address in addresses.values()}
        if len(kinds) > 1:
            raise TypeError(f"{name!r}: expected NumPy functions or C functions throughout, got both kinds")
        is_c = kinds == {True}
        functions = {
            key: _from_c(addresses[key]) if is_c else _without_mask(value, f"{key} of {name!r}")
            for key, value in given.items()
            if value is not None
        }
        arrays = {key: function if is_c else _of_a_copy(function) for key, function in functions.items()}
        super().__init__(
            name=name,
            code=CUSTOM_CODE,
            formula=f"{name}(a)",
            formula_prime=f"{name}'(a)",
            g=lambda a, parameter: arrays["g"](a),
            g_prime=lambda a, parameter: arrays["g_prime"](a),
            g_second=_of_array(arrays, "g_second", name, "derivatives of second order"),
            formula_second=f"{name}''(a)",
            g_third=_of_array(arrays, "g_third", name, "gradients of second derivatives by the inputs"),
            formula_third=f"{name}'''(a)",
        )
        object.__setattr__(self, "_given", (name, g, g_prime, g_second, g_third))
        object.__setattr__(self, "functions", tuple((addresses if is_c else functions).get(k) for k in given))
        object.__setattr__(self, "is_c", is_c)
        _check_values(arrays)
        _check_derivative(arrays["g"], arrays["g_prime"], "g_prime", "g")
        if g_second is not None:
            _check_derivative(arrays["g_prime"], arrays["g_second"], "g_second", "g_prime")
        if g_third is not None:
            _check_derivative(arrays["g_second"], arrays["g_third"], "g_third", "g_second")

    functions: tuple[Any, Any, Any, Any]
    is_c: bool
    _given: tuple[Any, ...] = ("", None, None, None, None)

    @property
    def takes_complex(self) -> bool:
        """Whether g accepts complex arguments, which the complex step of `check_gradient` needs."""
        try:
            return np.iscomplexobj(self.g(np.array([0.25 + 0.25j]), 0.0))
        except Exception:  # a user's function may raise anything
            return False

    @property
    def has_second(self) -> bool:
        """Whether g_second was given."""
        return self.functions[2] is not None

    @property
    def has_third(self) -> bool:
        """Whether g_third was given."""
        return self.functions[3] is not None

    def __repr__(self) -> str:
        name, *functions = self._given
        return f"Activation({name!r}, {', '.join(getattr(f, '__name__', repr(f)) for f in functions if f is not None)})"

    def __copy__(self) -> Activation:
        return self  # it never changes

    def __deepcopy__(self, memo: dict[int, Any]) -> Activation:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        bare = (int, ctypes._CFuncPtr)  # type: ignore[attr-defined]  # ctypes has no public name for it
        if any(isinstance(f, bare) or type(f).__name__ == "LowLevelCallable" for f in self._given[1:]):
            raise pickle.PicklingError(
                f"{self.name!r}: expected functions that can be pickled, got addresses, valid only in this process"
            )
        return _again, (type(self), self._given, attributes.added(self, _OWN))

    if not TYPE_CHECKING:  # a type checker would let every assignment pass

        def __setattr__(self, name: str, value: object) -> None:
            if type(self) is Activation or name in _OWN:
                raise FrozenInstanceError(f"an Activation does not change once it is made: {name!r} was to be assigned")
            object.__setattr__(self, name, value)  # an attribute of a subclass


_OWN = frozenset({"_given", "functions", "is_c", *(field.name for field in fields(activations.Activation))})


def _again(kind: type[Activation], given: tuple[Any, ...], added: attributes.Added | None) -> Activation:
    """An activation from its pickle. The `__init__` of a subclass may take other arguments."""
    activation = object.__new__(kind)
    Activation.__init__(activation, *given)
    attributes.restore(activation, added)
    return activation


def _of_array(
    arrays: dict[str, Callable[[Array], Array]], key: str, name: str, need: str
) -> Callable[[Array, float], Array]:
    """The function as the table of activations has it; it raises if the user gave none."""

    def function(a: Array, parameter: float) -> Array:
        if key not in arrays:
            raise ValueError(f"the activation {name!r} has no {key}, which {need} need")
        return arrays[key](a)

    return function


def _address(value: Any, key: str) -> int | None:
    """The address of a C function, None for a Python function."""
    if isinstance(value, bool):
        raise TypeError(f"{key}: expected a function, got {value!r}")
    if isinstance(value, int):
        if value <= 0:
            raise ValueError(f"{key}: expected the address of a C function, got {value}")
        return value
    if isinstance(value, ctypes._CFuncPtr):  # type: ignore[attr-defined]  # ctypes has no public name for it
        if value.restype is not ctypes.c_double or list(value.argtypes or []) != [ctypes.c_double]:
            raise TypeError(f"{key}: expected a ctypes function {_SIGNATURE}, got another signature")
        return ctypes.cast(value, ctypes.c_void_p).value
    if type(value).__name__ == "LowLevelCallable" and isinstance(value, tuple):
        return _address_of_low_level(value, key)
    address = getattr(value, "address", None)
    if isinstance(address, int):  # numba's cfunc
        return address
    if not callable(value):
        raise TypeError(f"{key}: expected a NumPy function or a C function {_SIGNATURE}, got {value!r}")
    return None


def _address_of_low_level(value: Any, key: str) -> int:
    signature = value.signature
    if signature.replace(" ", "") != _SIGNATURE.replace(" ", ""):
        raise TypeError(f"{key}: expected a LowLevelCallable of signature {_SIGNATURE!r}, got {signature!r}")
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsule = tuple.__getitem__(value, 0)
    return int(get_pointer(capsule, get_name(capsule)))


def _from_c(address: int | None) -> Callable[[Array], Array]:
    """A function of arrays that calls a C function, for the checks and the NumPy reference."""
    function = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(address or 0)
    return np.vectorize(function, otypes=[np.float64])


def _without_mask(function: Callable[[Array], Any], name: str) -> Callable[[Array], Any]:
    """The same function of arrays, but masked results, or results with masked items, are refused: NumPy drops masks."""

    def checked(a: Array) -> Any:
        result = function(a)
        return result if type(result) is np.ndarray else array_likes.plain(result, name)

    return checked


def _of_a_copy(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The same function on a copy of its argument: np.exp(a, out=a) writes to it."""
    return lambda a: function(a.copy())


def _check_values(arrays: dict[str, Callable[[Array], Array]]) -> None:
    """Refuse a function that does not map an array to one of the same shape, elementwise."""
    for key, function in arrays.items():
        flat = np.asarray(function(_TEST_POINTS))
        if flat.shape != _TEST_POINTS.shape or not np.can_cast(flat.dtype, np.float64):
            raise ValueError(
                f"{key}: expected an array of real numbers of the argument's shape {_TEST_POINTS.shape}, got shape "
                f"{flat.shape} and dtype {flat.dtype}"
            )
        square = np.asarray(function(_TEST_POINTS.reshape(2, -1)))
        if square.shape != (2, flat.size // 2) or not np.allclose(square.ravel(), flat, equal_nan=True):
            raise ValueError(f"{key}: expected an elementwise function, got one whose values depend on the shape")


def _check_derivative(g: Callable[[Array], Array], g_prime: Callable[[Array], Array], key: str, of: str) -> None:
    """Refuse a derivative that finite differences contradict."""
    right, left = (np.asarray(g(_TEST_POINTS + step), dtype=float) for step in (_STEP, -_STEP))
    difference = (right - left) / (2 * _STEP)
    claimed = np.asarray(g_prime(_TEST_POINTS), dtype=float)
    scale = np.maximum(1.0, np.maximum(np.abs(difference), np.abs(np.asarray(g(_TEST_POINTS), dtype=float))))
    wrong = ~(np.abs(claimed - difference) <= _TOLERANCE * scale) & np.isfinite(difference)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"{key}: expected the derivative of {of}, got {claimed[i]:.6g} at a = {_TEST_POINTS[i]:.6g}, where finite "
            f"differences of {of} give {difference[i]:.6g}"
        )
