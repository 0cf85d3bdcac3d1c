"""The kernels of jets of softmax: the formulas in longdouble, and the complex step for the way back."""

from itertools import product

import numpy as np
import pytest
from jet_problems import FORMS, Problem
from kernel_functions import built_simd, kernel_functions

DTYPES = ["float64", "float32"]
LENGTHS = [1, 2, 5, 64, 70]  # longer rows than 64 are computed in parts
ROUNDINGS = 16
STEP = 1e-30


def problem_of(dtype, form, k, n, with_s=True, coefficients="by row"):
    """A problem whose h is softmax of normal logits."""
    p = Problem(dtype, form, k, n, with_s=with_s, coefficients=coefficients)
    p.h.rows[...] = softmax(p.h.exact * 2)
    return p


def problems(dtype):
    sizes = [(k, n) for k, n in product((1, 2, 3, 5), LENGTHS) if k == 2 or n < 64]
    for number, (form, (k, n)) in enumerate(product(FORMS, sizes)):
        coefficients = ("by row", "one row", "by row" if form == "SYMMETRIC" else None)[number % 3]
        yield problem_of(dtype, form, k, n, number % 2, coefficients)


def softmax(a):
    e = np.exp(a - a.real.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def centered(p, t):
    """t - p.t, with what is left of t - t_top where p is nearly 1."""
    top = p.real.argmax(-1)[..., None]
    t = t - np.take_along_axis(t, np.broadcast_to(top, (*t.shape[:-1], 1)), -1)
    return t - (p * t).sum(-1, keepdims=True)


def softmax_jet(a, d, s, matrix):
    """y_hat, D and S, from the axes (..., direction or second, unit); matrix (second, k, k)."""
    p = softmax(a)[..., None, :]
    tau = centered(p, d)
    form = np.einsum("...ju,tjl,...lu->...tu", tau, matrix, tau)
    return p[..., 0, :], p * tau, p * centered(p, s + form)


def operands_of_row(p, r):
    """Logits, d, s, M, and the cotangents of y_hat, D and S, of one row in longdouble."""
    found = p.exact()
    a = np.log(np.maximum(found["h"][0, r], np.finfo(np.longdouble).tiny))
    return a, found["d"][:, r], found["s"][:, r], p.matrices[r], found["t_h"][0, r], found["D"][:, r], found["S"][:, r]


def cotangents(a, d, s, matrix, *cotangent):
    """By the complex step: of sum cotangent (.) result, by each entry of a, d and s."""
    operands = a, d, s
    cuts = a.size, a.size + d.size
    n_steps = cuts[1] + s.size
    steps = np.split(np.eye(n_steps).astype(np.clongdouble) * (1j * STEP), cuts, 1)
    moved = (x + step.reshape(n_steps, *x.shape) for x, step in zip(operands, steps, strict=True))
    results = softmax_jet(*moved, matrix)
    total = sum((x * c).reshape(n_steps, -1).sum(1) for x, c in zip(results, cotangent, strict=True)).imag / STEP
    return [x.reshape(y.shape) for x, y in zip(np.split(total, cuts), operands, strict=True)]


def scales(row):
    """The size of the terms of D_j, S_t and of the cotangents of a, d_j, s_t, before the factor p."""
    _, d, s, matrix, y_, D_, S_ = (np.abs(x).max(initial=0) if x.ndim < 3 else np.abs(x).sum() for x in row)
    form = matrix * d * d
    return d, s + form, y_ + len(row[1]) * D_ * d + len(row[2]) * S_ * (s + form), D_ + 2 * S_ * matrix * d, S_


def run_jet(kernels, p):
    D, S = p.D.copy(), p.S.copy()
    operands = p.h.address, p.d.address, p.s and p.s.address
    with_means(kernels["softmax_jet"], p, *operands, D.address, S.address)
    return D, S


def run_cotangent(kernels, p):
    y, D, S = p.t_h.copy(), p.D.copy(), p.S.copy()
    operands = p.h.address, p.d.address, p.s and p.s.address
    with_means(kernels["softmax_jet_cotangent"], p, *operands, y.address, D.address, S.address)
    return y, D, S


def with_means(kernel, p, *operands):
    """Call a kernel with room for 6 means a direction, and no more."""
    means = np.full(6 * p.k + 1, np.nan)
    kernel(*p.head(), *operands, p.ld, p.block, means.ctypes.data)
    assert np.isnan(means[-1])


@pytest.mark.parametrize("way", ["forward", "back"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_formula(dtype, way):
    """On all instruction sets, which give the same bits; nothing is written beside the results."""
    kernels = {simd: kernel_functions(simd, dtype) for simd in built_simd()}
    u = float(np.finfo(dtype).eps) / 2
    for p in problems(dtype):
        results = [(run_jet if way == "forward" else run_cotangent)(functions, p) for functions in kernels.values()]
        assert all(operand.gaps_are_kept() for found in results for operand in found)
        assert len({b"".join(operand.rows.tobytes() for operand in found) for found in results}) == 1
        for r in range(p.n_rows - 1 if p.n >= 64 else 0, p.n_rows):
            row = operands_of_row(p, r)
            if way == "forward":
                expected, sizes = softmax_jet(*row[:4])[1:], scales(row)[:2]
            else:
                expected, sizes = cotangents(*row), scales(row)[2:]
            for found, value, size in zip(results[0], expected, sizes, strict=True):
                error = np.abs(found.rows[:, r] - value)
                assert np.all(error <= ROUNDINGS * u * p.h.exact[0, r] * size + np.finfo(dtype).tiny)


@pytest.mark.parametrize("form", ["EACH", "DIAGONAL", "SYMMETRIC"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_next_to_0_and_1_each_entry_has_its_digits(dtype, form):
    """At the largest p, D and S are small differences from the others' point of view."""
    p = problem_of(dtype, form, 2, 5)
    gap = 12 if dtype == "float32" else 30
    logits = np.log(p.h.exact) + gap * (np.arange(5) == 2)
    p.h.rows[...] = softmax(logits)
    for simd in built_simd():
        D, S = run_jet(kernel_functions(simd, dtype), p)
        for r in range(p.n_rows):
            _, *row, _, _, _ = operands_of_row(p, r)
            _, exact_D, exact_S = softmax_jet(logits[0, r], *row)
            np.testing.assert_allclose(D.rows[:, r], exact_D.astype(float), rtol=20 * np.finfo(dtype).eps)
            np.testing.assert_allclose(S.rows[:, r], exact_S.astype(float), rtol=50 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_jet_in_the_place_of_its_operands(dtype):
    for simd, p in product(built_simd(), problems(dtype)):
        kernels = kernel_functions(simd, dtype)
        expected = run_jet(kernels, p)
        at = p.d.address, p.s and p.s.address, p.d.address, p.s.address if p.s else p.S.address
        with_means(kernels["softmax_jet"], p, p.h.address, *at)
        for found, apart in zip((p.d, p.s or p.S), expected, strict=True):
            assert found.rows.tobytes() == apart.rows.tobytes()
            assert found.gaps_are_kept()


@pytest.mark.parametrize("simd", built_simd())
@pytest.mark.parametrize("dtype", DTYPES)
def test_center(dtype, simd):
    kernel = kernel_functions(simd, dtype)["softmax_center"]
    u = float(np.finfo(dtype).eps) / 2
    for n in LENGTHS:
        p = problem_of(dtype, "FIRST_ALONE", 1, n)
        t = p.t_h.copy()
        kernel(p.n_rows, n, p.h.address, t.address, p.ld)
        expected = centered(p.h.exact, p.t_h.exact)
        assert t.gaps_are_kept()
        assert np.all(np.abs(t.rows - expected) <= 4 * u * np.abs(p.t_h.exact).max())
