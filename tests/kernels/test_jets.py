"""The kernels of second derivatives by the inputs: the formulas in longdouble, for each form, layout and length.

Buffers are full of NaN where no operand lies; what lies there must stay, and no result may depend on it.
"""

from copy import copy
from itertools import product

import numpy as np
import pytest
from kernel_functions import CONSTANTS, built_simd, kernel_functions

FORMS = ("FIRST_ALONE", "EACH", "DIAGONAL", "SYMMETRIC")
DTYPES = ["float64", "float32"]
LENGTHS = [1, 3, 8, 17, 37]
ROUNDINGS = 16  # of a result, in units of the sum of the magnitudes of its terms; few terms, so most are below 4


def address(array):
    return None if array is None else array.ctypes.data


class Operand:
    """Matrices (n_rows, n; ld), `block` apart, in a buffer of NaN."""

    def __init__(self, rng, dtype, n_blocks, n_rows, n, ld, block):
        self.buffer = np.full(max(n_blocks, 1) * block + 8, np.nan, dtype)
        strides = [reals * self.buffer.itemsize for reals in (block, ld, 1)]
        self.rows = np.ndarray((n_blocks, n_rows, n), dtype, self.buffer, 0, strides)
        self.rows[...] = rng.standard_normal((n_blocks, n_rows, n))
        self.address = address(self.buffer)

    @property
    def exact(self):
        return self.rows.astype(np.longdouble)

    def copy(self):
        """Another buffer with the same entries."""
        other = object.__new__(Operand)
        other.buffer = self.buffer.copy()
        other.rows = np.ndarray(self.rows.shape, self.rows.dtype, other.buffer, 0, self.rows.strides)
        other.address = address(other.buffer)
        return other

    def gaps_are_nan(self):
        """Whether nothing was written beside the entries."""
        rest = self.copy()
        rest.rows[...] = np.nan
        return bool(np.isnan(rest.buffer).all())


class Problem:
    """Operands of a layer: k directions of n_rows samples, n units."""

    def __init__(self, dtype, form, k, n, n_rows=3, shared=False, coefficients="by row", with_s=True, seed=0):
        rng = np.random.default_rng([seed, k, n])
        self.form, self.k, self.n, self.n_rows = form, k, n, n_rows
        self.ld, self.n_seconds = n + 5, {"FIRST_ALONE": 0, "EACH": k}.get(form, 1)
        self.block = n_rows * self.ld + 7
        layout = n_rows, n, self.ld, self.block
        self.g = Operand(rng, dtype, 3, *layout)
        self.g_at = [self.g.address + i * self.block * self.g.buffer.itemsize for i in range(3)]
        d_layout = (n_rows, n, 0, n + 1) if shared else layout
        self.d, self.t_d = Operand(rng, dtype, k, *d_layout), Operand(rng, dtype, k, *d_layout)
        self.d_strides = (0, n + 1) if shared else (self.ld, self.block)
        self.s, self.t_s = (Operand(rng, dtype, self.n_seconds, *layout) if with_s else None for _ in range(2))
        self.h, self.t_h = Operand(rng, dtype, 1, *layout), Operand(rng, dtype, 1, *layout)
        self.D, self.S = Operand(rng, dtype, k, *layout), Operand(rng, dtype, self.n_seconds, *layout)
        n_e = {"DIAGONAL": k, "SYMMETRIC": k * (k + 1) // 2}.get(form, 0)
        e = rng.standard_normal((n_rows, max(n_e, 1))).astype(dtype)
        self.e, self.ld_e = (np.pad(e, ((0, 0), (0, 2)), constant_values=np.nan), e.shape[1] + 2)
        if coefficients == "one row":
            e[1:], self.ld_e = e[0], 0
        if coefficients is None:
            e[...], self.e, self.ld_e = 1, None, 99
        self.matrices = np.zeros((n_rows, self.n_seconds, k, k), np.longdouble)  # form_t(d) = d . matrix_t d, symmetric
        if form == "EACH":
            self.matrices[:, range(k), range(k), range(k)] = 1
        elif form == "DIAGONAL":
            self.matrices[:, 0, range(k), range(k)] = e
        elif form == "SYMMETRIC":
            upper = np.triu_indices(k)
            self.matrices[:, 0, upper[0], upper[1]] = e
            self.matrices = (self.matrices + self.matrices.swapaxes(2, 3)) / 2

    def head(self):
        """The first arguments of each function."""
        return self.n_rows, self.n, self.k, CONSTANTS[self.form], address(self.e), self.ld_e

    def directions(self, d, s):
        return d.address, *self.d_strides, s and s.address

    def exact(self, absolute=False):
        """g', g'', g''' (1, n_rows, n), d, s, M and the rest in longdouble, or their magnitudes."""
        zeros = np.zeros((self.n_seconds, self.n_rows, self.n), np.longdouble)
        found = {"g": self.g.exact[:, None], "M": self.matrices}
        for name in ("d", "t_d", "h", "t_h", "D", "S"):
            found[name] = getattr(self, name).exact
        for name in ("s", "t_s"):
            found[name] = zeros if getattr(self, name) is None else getattr(self, name).exact
        return {name: np.abs(value) if absolute else value for name, value in found.items()}


def form_of(v, d, other):
    """d . M_t other for each second."""
    return np.einsum("jru,rtjl,lru->tru", d, v["M"], other)


def jet(v):
    g1, g2, _ = v["g"]
    return g1 * v["d"], g1 * v["s"] + g2 * form_of(v, v["d"], v["d"])


def cotangent(v):
    (g1, g2, g3), d, s, D, S = v["g"], v["d"], v["s"], v["D"], v["S"]
    grad_a = g1 * v["h"] + g2 * (d * D).sum(0) + ((g2 * s + g3 * form_of(v, d, d)) * S).sum(0)
    return grad_a, g1 * D + 2 * g2 * np.einsum("rtjl,lru,tru->jru", v["M"], d, S), g1 * S


def tangent(v):
    (g1, g2, g3), d, t_a, t_d = v["g"], v["d"], v["t_h"], v["t_d"]
    t_S = g1 * v["t_s"] + (g2 * v["s"] + g3 * form_of(v, d, d)) * t_a + 2 * g2 * form_of(v, d, t_d)
    return g1 * t_a, g1 * t_d + g2 * d * t_a, t_S


def assert_close(found, formula, problem):
    """Each result within some roundings of its terms, and nothing written beside it."""
    u = float(np.finfo(found[0].rows.dtype).eps) / 2
    values, terms = formula(problem.exact()), formula(problem.exact(absolute=True))
    for operand, value, magnitude in zip(found, values, terms, strict=True):
        assert operand.gaps_are_nan()
        assert np.all(np.abs(operand.rows - value) <= ROUNDINGS * u * magnitude)


CASES = [(form, k, n) for form, k, n in product(FORMS, range(1, 6), LENGTHS)]
LAYOUTS = [
    {},
    {"shared": True, "with_s": False},
    {"shared": True, "coefficients": "one row"},
    {"with_s": False, "coefficients": None},
]


def problems(dtype):
    for number, (form, k, n) in enumerate(CASES):
        for layout in (LAYOUTS[0], LAYOUTS[1 + number % 3]):
            if layout.get("coefficients", "") is not None or form != "SYMMETRIC":  # which takes no NULL
                yield Problem(dtype, form, k, n, **layout)


def run_jet(kernels, p):
    """D and S, in buffers of their own."""
    D, S = p.D.copy(), p.S.copy()
    layout = p.ld, p.block
    kernels["jet_activation"](*p.head(), *p.g_at[:2], *p.directions(p.d, p.s), D.address, S.address, *layout)
    return D, S


def run_cotangent(kernels, p):
    """The cotangents of a, d and s."""
    h, D, S = p.h.copy(), p.D.copy(), p.S.copy()
    at = h.address, D.address, S.address
    kernels["jet_cotangent"](*p.head(), *p.g_at, *p.directions(p.d, p.s), *at, p.ld, p.block)
    return h, D, S


def run_tangent(kernels, p):
    """t_h, t_D and t_S, in buffers of their own."""
    h, D, S = p.h.copy(), p.D.copy(), p.S.copy()
    operands = *p.directions(p.d, p.s), p.t_h.address, *p.directions(p.t_d, p.t_s)
    kernels["jet_tangent"](*p.head(), *p.g_at, *operands, h.address, D.address, S.address, p.ld, p.block)
    return h, D, S


FUNCTIONS = {"jet_activation": (run_jet, jet), "jet_cotangent": (run_cotangent, cotangent)}
FUNCTIONS["jet_tangent"] = run_tangent, tangent


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_formula(dtype, function):
    """On all instruction sets; those with fma give the same bits."""
    run, formula = FUNCTIONS[function]
    kernels = {simd: kernel_functions(simd, dtype) for simd in built_simd()}
    for problem in problems(dtype):
        bits = set()
        for simd, functions in kernels.items():
            found = run(functions, problem)
            assert_close(found, formula, problem)
            if simd != "v2":
                bits.add(b"".join(operand.rows.tobytes() for operand in found))
        assert len(bits) <= 1


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_in_the_place_of_operands(dtype, simd):
    """D in d and S in s, and so for tangents: the same bits."""
    kernels = kernel_functions(simd, dtype)
    for form, k, n in CASES:
        p = Problem(dtype, form, k, n)
        jets, tangents = run_jet(kernels, p), run_tangent(kernels, p)
        operands = *p.directions(p.d, p.s), p.t_h.address, *p.directions(p.t_d, p.t_s)
        at = p.t_h.address, p.t_d.address, p.t_s.address
        kernels["jet_tangent"](*p.head(), *p.g_at, *operands, *at, p.ld, p.block)
        at = p.d.address, p.s.address
        kernels["jet_activation"](*p.head(), *p.g_at[:2], *p.directions(p.d, p.s), *at, p.ld, p.block)
        for found, expected in zip((p.d, p.s, p.t_h, p.t_d, p.t_s), (*jets, *tangents), strict=True):
            assert found.rows.tobytes() == expected.rows.tobytes()
            assert found.gaps_are_nan()


class Nowhere:
    """An operand at NULL."""

    address = None

    def copy(self):
        return self


def test_without_seconds_nothing_of_them_is_touched():
    """NULL will do for g'', g''', s and S of FIRST_ALONE, as far as the function does not use them."""
    for simd, dtype in product(built_simd(), DTYPES):
        kernels, p = kernel_functions(simd, dtype), Problem(dtype, "FIRST_ALONE", 2, 9)
        for run in (run_jet, run_cotangent, run_tangent):
            expected = [operand.rows.tobytes() for operand in run(kernels, p)]
            bare = copy(p)
            bare.s = bare.t_s = None
            bare.S = Nowhere()
            bare.g_at = [p.g_at[0], None if run is run_jet else p.g_at[1], None]
            *found, _ = run(kernels, bare)
            assert [operand.rows.tobytes() for operand in found] == expected[:-1]


# Symmetric forms ------------------------------------------------------------------------------------------------------


def symmetric_forms(kernels, weight, d, strides, H, add):
    """H of the kernel, from Operands."""
    _, n_rows, n = weight.rows.shape
    ld = weight.rows.strides[1] // weight.rows.itemsize
    k = len(d.rows)
    kernels["symmetric_forms"](n_rows, n, k, weight.address, ld, d.address, *strides, H.ctypes.data, add)


@pytest.mark.parametrize("add", [0, 1])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_symmetric_forms(dtype, shared, add):
    """Symmetric to the bit, and the same bits on all instruction sets with fma."""
    kernels = {simd: kernel_functions(simd, dtype) for simd in built_simd()}
    u = float(np.finfo(dtype).eps) / 2
    for k, n in product([1, 2, 3, 4, 5, 10, 13], [1, 7, 16, 20, 37]):
        p = Problem(dtype, "FIRST_ALONE", k, n, shared=shared)
        kept = np.random.default_rng(k).standard_normal((3, k, k)).astype(dtype)
        kept += kept.swapaxes(1, 2)
        w, d = p.h.exact[0], p.d.exact
        exact, magnitude = np.einsum("ru,pru,qru->rpq", w, d, d), np.einsum("ru,pru,qru->rpq", *map(np.abs, (w, d, d)))
        bits = set()
        for simd, functions in kernels.items():
            H = np.append(kept.ravel() if add else np.full(kept.size, np.nan), 7).astype(dtype)
            symmetric_forms(functions, p.h, p.d, p.d_strides, H, add)
            found = H[:-1].reshape(3, k, k)
            before = kept.astype(np.longdouble) * add
            bound = ROUNDINGS * u * (magnitude + np.abs(before))
            assert H[-1] == 7
            assert np.array_equal(found, found.swapaxes(1, 2))
            assert np.all(np.abs(found - (before + exact)) <= bound)
            if simd != "v2":
                bits.add(found.tobytes())
        assert len(bits) <= 1
