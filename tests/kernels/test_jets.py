"""The kernels of second derivatives by the inputs: the formulas in longdouble, for each form, layout and length."""

from copy import copy
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from jet_problems import FORMS, Problem
from kernel_functions import built_simd, kernel_functions

DTYPES = ["float64", "float32"]
LENGTHS = [1, 3, 8, 17, 37]
ROUNDINGS = 16  # of a result, in units of the sum of the magnitudes of its terms; few terms, so most are below 4


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
        assert operand.gaps_are_kept()
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
            assert found.gaps_are_kept()


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


def symmetric_forms(kernels, weight, d, strides, H, add, first=0, n_first=None):
    """H of the kernel, from Operands, or the pairs of some directions."""
    _, n_rows, n = weight.rows.shape
    ld = weight.rows.strides[1] // weight.rows.itemsize
    k = len(d.rows)
    some = first, k - first if n_first is None else n_first
    kernels["symmetric_forms"](n_rows, n, k, *some, weight.address, ld, d.address, *strides, H.ctypes.data, add)


@pytest.mark.parametrize("add", [0, 1])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_symmetric_forms(dtype, shared, add):
    """Symmetric to the bit, and the same bits on all instruction sets with fma."""
    kernels = {simd: kernel_functions(simd, dtype) for simd in built_simd()}
    u = float(np.finfo(dtype).eps) / 2
    for k, n in product([1, 2, 3, 4, 5, 7, 10, 13], [1, 7, 16, 20, 37]):
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


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_entry_of_h_depends_on_its_two_directions_alone(dtype, simd):
    """Not on how many others there are, which decides how pairs are grouped."""
    functions = kernel_functions(simd, dtype)
    p = Problem(dtype, "FIRST_ALONE", 11, 43, n_rows=9)
    H, two = np.empty((9, 11, 11), dtype), np.empty((9, 2, 2), dtype)
    symmetric_forms(functions, p.h, p.d, p.d_strides, H, 0)
    for i, j in combinations_with_replacement(range(11), 2):
        pair = Problem(dtype, "FIRST_ALONE", 2, 43, n_rows=9)
        pair.d.rows[...] = p.d.rows[[i, j]]
        symmetric_forms(functions, p.h, pair.d, pair.d_strides, two, 0)
        assert np.array_equal(two[:, 0, 1], H[:, i, j])


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", DTYPES)
def test_symmetric_forms_in_pieces(dtype, simd):
    """Each pair belongs to one piece, which leaves the others as they are."""
    functions = kernel_functions(simd, dtype)
    p = Problem(dtype, "FIRST_ALONE", 29, 21)
    whole, cut = np.ones((3, 29, 29), dtype), np.ones((3, 29, 29), dtype)
    symmetric_forms(functions, p.h, p.d, p.d_strides, whole, 1)
    for first, n_first in [(12, 12), (0, 12), (24, 5)]:
        symmetric_forms(functions, p.h, p.d, p.d_strides, cut, 1, first, n_first)
    assert np.array_equal(cut, whole)
