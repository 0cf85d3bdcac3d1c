# Stubs of the compiled module. Except for the quick calls, it is given arrays that Python has accepted.
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy.typing as npt
from typing_extensions import disjoint_base

_Array = npt.NDArray[Any]

simd: str
l2_bytes: int
most_threads: int
NO_TOP: int

# Cython 3.3 adds these to every module.
__test__: dict[str, Any]
__pyx_capi__: dict[str, Any]  # the functions that _core.pxd declares

def __reduce_cython__(self: Any) -> Any: ...  # noqa: N807
def __setstate_cython__(self: Any, __pyx_state: Any) -> Any: ...  # noqa: N807
def supported_simd() -> list[str]: ...
def cut_into_pieces(flops: float) -> float: ...
def worker_threads() -> int: ...
def look_at_targets(
    loss: int, y: _Array, n_out: int, weight: _Array | None = None
) -> tuple[Literal["label", "domain", "sum"], int, int] | None: ...
def look_at_weights(
    weight: _Array, n_per_row: int
) -> tuple[Literal["weight", "all 0"] | None, int, float, int, int, int, int, int]: ...
def scale_and_total(largest: float, top: int, limb_0: int, limb_1: int, limb_2: int) -> tuple[float, float]: ...
def tolerance_of_probabilities(itemsize: int) -> float: ...
def merge_bins(top: _Array, limbs: _Array, other_top: _Array, other_limbs: _Array) -> None: ...
def raise_bins(top: _Array, limbs: _Array, new_top: _Array) -> None: ...
def hidden_gradient(W_next: _Array, grad_a_next: _Array, grad_h: _Array) -> None: ...
def preactivation_gradient(grad_h: _Array, g_prime: _Array) -> None: ...
def activate(a: _Array, h: _Array, code: int, parameter: float) -> None: ...
def mirror(H: _Array) -> None: ...
def is_in_its_owner(array: _Array) -> bool: ...
def second_derivative(a: _Array, out: _Array, code: int, parameter: float) -> None: ...
def third_derivative(a: _Array, out: _Array, code: int, parameter: float) -> None: ...

@disjoint_base
class DefaultFloatMode:
    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> None: ...

CALLS: dict[str, Call]

@disjoint_base
class Call:
    name: str
    takes_y: bool
    gives_loss: bool
    needs_second: bool
    needs_third: bool
    needs_squared_error: bool
    def __new__(cls, name: str) -> Self: ...
    @property
    def takes_v(self) -> bool: ...
    @property
    def is_by_sample(self) -> bool: ...
    @property
    def is_mean(self) -> bool: ...

@disjoint_base
class Parameters:
    def __new__(cls, array: _Array) -> Self: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...

@disjoint_base
class Plan:
    def __new__(
        cls,
        sizes: Sequence[int],
        activations: Sequence[tuple[Any, ...]],
        loss: tuple[int, tuple[float, ...], bool, int],
        itemsize: int,
    ) -> Self: ...
    def run(
        self,
        call: Call,
        params: _Array,
        x: _Array,
        y: _Array | None,
        out: _Array | None,
        weights: tuple[_Array, float, float, int] | None,
        n_threads: int,
        operand: _Array | None = None,
        max_norm: float = 0.0,
        grad_weight: _Array | None = None,
        rows: _Array | None = None,
        linearization: Linearization | None = None,
        free: _Array | None = None,
        equation: Equation | None = None,
        equation_rows: _Array | None = None,
    ) -> float: ...
    def unit_rows(self, call: Call, n_kept: int) -> int: ...
    def partial(
        self,
        call: Call,
        params: _Array,
        x: _Array,
        y: _Array | None,
        weights: tuple[_Array, float, float, int] | None,
        n_threads: int,
        top: _Array,
        limbs: _Array,
        n_kept_in_all: int,
        operand: _Array | None = None,
        max_norm: float = 0.0,
        grad_weight: _Array | None = None,
        rows: _Array | None = None,
        linearization: Linearization | None = None,
        free: _Array | None = None,
        equation: Equation | None = None,
        equation_rows: _Array | None = None,
    ) -> None: ...
    def finish(
        self,
        call: Call,
        top: _Array,
        limbs: _Array,
        n_kept_in_all: int,
        total: float | None,
        by_entry: bool,
        out: _Array | None,
    ) -> float: ...
    def quick_value_and_grad(
        self,
        own: Parameters,
        params: object,
        x: object,
        y: object,
        weight: object,
        out: object,
        n_threads: object,
        get_num_threads: Callable[[], int],
    ) -> tuple[float, _Array] | None: ...
    def quick(
        self,
        call: Call,
        own: Parameters,
        params: object,
        x: object,
        y: object,
        weight: object,
        out: object,
        n_threads: object,
        get_num_threads: Callable[[], int],
        operand: object = None,
        max_norm: object = None,
        grad_weight: object = None,
        linearization: Linearization | None = None,
    ) -> Any: ...
    def fit_by_lbfgs(
        self,
        solver: LBFGS,
        params: _Array,
        x: _Array,
        y: _Array,
        weights: tuple[_Array, float, float, int] | None,
        free: _Array | None,
        l2: float,
        tol: float,
        max_iter: int,
        n_threads: int,
    ) -> tuple[str, _Array]: ...
    def fit_by_lm(
        self,
        solver: LevenbergMarquardt,
        params: _Array,
        x: _Array,
        y: _Array,
        weights: tuple[_Array, float, float, int] | None,
        free: _Array | None,
        l2: float,
        tol: float,
        max_iter: int,
        n_threads: int,
    ) -> tuple[str, _Array]: ...
    def fit_networks(
        self,
        solvers: list[LBFGS] | list[LevenbergMarquardt],
        networks: _Array,
        params: _Array,
        x: _Array,
        y: _Array,
        weights: Sequence[tuple[_Array, float, float, int] | None] | None,
        free: _Array | None,
        l2: float,
        tol: float,
        losses: _Array,
        n_losses: _Array,
        answers: _Array,
        n_threads: int,
    ) -> None: ...
    def run_epochs_of_networks(
        self,
        networks: _Array,
        params: _Array,
        x: _Array,
        y: _Array,
        weights: Sequence[tuple[_Array, float, float, int] | None] | None,
        orders: _Array | None,
        batch_size: int,
        rates: _Array,
        moments: _Array,
        progress: _Array,
        losses: _Array,
        totals: _Array,
        n_done: _Array,
        n_threads: int,
        *,
        free: _Array | None = None,
        **settings: Any,
    ) -> None: ...
    def add_penalty(self, params: _Array, l2: float, gradient: _Array) -> float: ...
    @property
    def n_params(self) -> int: ...
    def vector(self, params: Parameters) -> _Array: ...
    def vectors(self, params: Parameters) -> _Array: ...
    def weights(self, params: Parameters) -> tuple[_Array, ...]: ...
    def biases(self, params: Parameters) -> tuple[_Array, ...]: ...
    def result_shape(self, call: Call, n_samples: int) -> tuple[int, ...]: ...
    def layer_gradients(
        self,
        params: _Array,
        x: _Array,
        y: _Array,
        y_hat: _Array,
        out: _Array,
        weights: tuple[_Array, float, float, int] | None,
        n_threads: int,
        a: Sequence[_Array | None],
        h: Sequence[_Array | None],
        grad_a: Sequence[_Array | None],
        grad_h: Sequence[_Array | None],
    ) -> float: ...
    def input_jet(
        self,
        params: _Array,
        x: _Array,
        directions: _Array | None,
        y: _Array,
        dy: _Array,
        d2y: _Array,
        n_threads: int,
    ) -> None: ...
    def jet_vjp(
        self,
        params: _Array,
        x: _Array,
        directions: _Array | None,
        cot_y: _Array | None,
        cot_dy: _Array | None,
        cot_d2y: _Array | None,
        grad_params: _Array,
        grad_x: _Array,
        n_threads: int,
    ) -> None: ...
    def ensemble_value_and_grad(
        self,
        params: Parameters,
        x: _Array,
        y: _Array,
        losses: _Array,
        out: _Array,
        weights: Sequence[tuple[_Array, float, float, int] | None] | None,
        n_threads: int,
    ) -> None: ...
    def run_epochs(
        self,
        params: Parameters,
        x: _Array,
        y: _Array,
        weights: tuple[_Array, float, float, int] | None,
        orders: _Array | None,
        batch_size: int,
        rates: _Array,
        moments: _Array,
        progress: _Array,
        losses: _Array,
        totals: _Array,
        n_threads: int,
        *,
        method: Literal["adam", "sgd"],
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        corrects_epsilon: bool = True,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        is_nesterov: bool = True,
        l2: float = 0.0,
        divides_l2: bool = False,
        max_norm: float | None = None,
        free: _Array | None = None,
        loss_cap: float | None = None,
        penalties: _Array | None = None,
        stops: bool = True,
    ) -> int: ...
    def quick_ensemble_value_and_grad(
        self,
        params: Parameters,
        x: object,
        y: object,
        out: object,
        n_threads: object,
        get_num_threads: Callable[[], int],
    ) -> tuple[_Array, _Array] | None: ...

@disjoint_base
class Linearization:
    def __new__(cls, n_bytes: int) -> Self: ...

@disjoint_base
class Equation:
    @property
    def directions(self) -> _Array: ...
    @property
    def form(self) -> str: ...
    @property
    def row(self) -> _Array | None: ...
    def __new__(cls, directions: _Array, form: str, row: _Array | None) -> Self: ...

@disjoint_base
class Handle:
    def __new__(
        cls,
        plan: Plan,
        params: Parameters,
        refuse: Callable[[_Array, _Array | None], None],
        get_num_threads: Callable[[], int],
    ) -> Self: ...

@disjoint_base
class Pointers:
    def __new__(cls, arrays: Sequence[_Array | None] | None) -> Self: ...

def value_and_grad_by_twin(
    plan: Plan,
    params: _Array,
    x: _Array,
    y: _Array,
    out: _Array,
    weights: tuple[_Array, float, float, int] | None,
) -> float: ...

ANSWERS: tuple[str, ...]

@disjoint_base
class LBFGS:
    def __new__(cls, theta: _Array, n_kept: int = 10, noise: float | None = None) -> Self: ...
    def ask(self) -> _Array | None: ...
    def tell(self, loss: float, gradient: _Array) -> str: ...
    def has_converged(self, tol: float) -> bool: ...
    def forget_search(self) -> None: ...
    @property
    def theta(self) -> _Array: ...
    @property
    def gradient(self) -> _Array: ...
    @property
    def loss(self) -> float: ...
    @property
    def n_iter(self) -> int: ...
    @property
    def n_evaluations(self) -> int: ...

@disjoint_base
class LevenbergMarquardt:
    def __new__(cls, theta: _Array, noise: float = ...) -> Self: ...
    def tell_start(self, loss: float) -> str: ...
    def tell_equations(self, H: _Array, gradient: _Array) -> None: ...
    def ask(self) -> _Array | None: ...
    def tell(self, loss: float) -> str: ...
    def has_converged(self, tol: float) -> bool: ...
    def forget_trial(self) -> None: ...
    @property
    def needs_equations(self) -> bool: ...
    @property
    def theta(self) -> _Array: ...
    @property
    def gradient(self) -> _Array: ...
    @property
    def loss(self) -> float: ...
    @property
    def damping(self) -> float: ...
    @property
    def n_iter(self) -> int: ...
    @property
    def n_evaluations(self) -> int: ...

def lbfgs_of(
    theta: _Array, gradient: _Array, n_kept: int, noise: float, numbers: tuple[float, ...], pairs: bytes
) -> LBFGS: ...
def lm_of(noise: float, numbers: tuple[float, ...], memory: _Array) -> LevenbergMarquardt: ...
