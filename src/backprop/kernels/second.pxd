# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The activations' second derivatives g''(a): one function for each, in vectors.
# Needs: activations (`Parameters`, `between`), elementary, pairs, vector.
# Gives: the table's second_derivative.
#
# As for g', nothing comes from h. Each function starts from t = exp(-|a|) or a similar exponential, applies the power
# of two in t last, and keeps numerator and denominator as pairs: so nothing cancels except at the zeros of g''. At a
# kink, and in linear parts of g, g'' is 0. A NaN passes. The range of each function is every a, from -inf to inf.
# "Error in ulp" is explained in elementary.pxd, E. In brackets stands the absolute error near a zero of g'', in
# u = 2^-24 (float32) or 2^-53 (float64).

from backprop.kernels.table cimport (
    ELU, EXP, GELU, GELU_TANH, HARDSWISH, MISH, SELU, SIGMOID, SILU, SIN, SOFTPLUS, SOFTSIGN, TANH,
)
from backprop.kernels.vector cimport (
    LANES, broadcast, clamp, load_first, real, store_first, vabs, vec, where_equal, where_less, with_sign,
)
from backprop.kernels.pairs cimport (
    exactly, make_pair, minus, over_cube, over_square, pair, pair_of, pair_plus, pair_product, pair_sum, pair_two_sum,
    pair_where_less, quotient_pair, scale, times_power, two_product,
)
from backprop.kernels.elementary cimport (
    CUBIC, EXP_LOWEST, Exponential, GATE_BOUND_CUBIC, GELU_BOUND, INV_SQRT_2PI, LARGEST, SELU_ALPHA_SCALE,
    SQRT_8_OVER_PI, exp_minus_one_reduced, exp_reduced, exp_rounded, expm1_pair, exponential, minus_abs, sin_and_cos,
)
from backprop.kernels.stages cimport Parameters
from backprop.kernels.activations cimport between

ctypedef vec (*SecondDerivative)(vec a, const Parameters* p) noexcept nogil


cdef inline vec second_linear(vec a, const Parameters* p) noexcept nogil:
    """0, for an activation that is linear in pieces."""
    return where_equal(a, a, broadcast(0), a)


cdef inline vec second_elu(vec a, const Parameters* p) noexcept nogil:
    """alpha exp(a) left of 0: elu, and selu.

    Error in ulp, elu: 0.797 in float32; 0.776 in float64.
    Error in ulp, selu: 0.607 in float32; 0.807 in float64.
    """
    cdef vec zero = broadcast(0)
    cdef vec n
    cdef pair curve = pair_product(exp_reduced(exactly(where_less(zero, a, zero, a)), &n), p.alpha)
    return where_less(a, zero, scale(curve.hi + curve.lo, n), where_equal(a, a, zero, a))


cdef inline vec second_gelu(vec a, const Parameters* p) noexcept nogil:
    """phi(a) (2 - a^2).

    Error in ulp: 0.883 (0.01 u) in float32; 0.852 (0.01 u) in float64.
    """
    cdef vec x = clamp(vabs(a), 0, GELU_BOUND)
    cdef pair square = two_product(x, x)
    cdef vec n
    cdef pair phi = exp_reduced(times_power(square, <real>-0.5), &n)
    phi = pair_product(phi, make_pair(broadcast(INV_SQRT_2PI[0]), broadcast(INV_SQRT_2PI[1])))
    phi = pair_product(phi, pair_sum(exactly(broadcast(2)), minus(square)))
    return scale(phi.hi + phi.lo, n)


cdef inline vec second_gelu_tanh(vec a, const Parameters* p) noexcept nogil:
    """c t [(2 + 12 k a^2) d - c |a| (1 + 3 k a^2)^2 (1 - t)] / d^3, where g = a sigma(w), w = c (a + k a^3).

    t = exp(-|w|), d = 1 + t; g'' = (2 w' + a w'') sigma'(w) + a w'^2 sigma''(w).

    Error in ulp: 0.889 in float32; 1.434 (0.04 u) in float64.
    """
    cdef vec x = clamp(vabs(a), 0, GATE_BOUND_CUBIC)
    cdef pair c = make_pair(broadcast(SQRT_8_OVER_PI[0]), broadcast(SQRT_8_OVER_PI[1]))
    cdef pair cubic = pair_product(two_product(x, x), make_pair(broadcast(CUBIC[0]), broadcast(CUBIC[1])))
    cdef pair triple = pair_product(cubic, exactly(broadcast(3)))
    cdef pair cx = pair_product(c, exactly(x))
    cdef Exponential e = exponential(minus(pair_product(cx, pair_sum(exactly(broadcast(1)), cubic))))
    cdef pair slope = pair_sum(exactly(broadcast(1)), triple)
    cdef pair bend = pair_product(pair_sum(exactly(broadcast(2)), times_power(triple, 4)), e.d)
    cdef pair one_minus_t = pair_sum(exactly(broadcast(2)), minus(e.d))
    bend = pair_sum(bend, minus(pair_product(pair_product(cx, pair_product(slope, slope)), one_minus_t)))
    return scale(over_cube(pair_product(pair_product(e.p, c), bend), e.d, broadcast(1) / e.d.hi), e.n)


cdef inline vec second_silu(vec a, const Parameters* p) noexcept nogil:
    """t [2 (1 + t) - |a| (1 - t)] / (1 + t)^3, t = exp(-|a|): 2 sigma' + a sigma''.

    Error in ulp: 0.572 in float32; 1.501 (0.01 u) in float64.
    """
    cdef vec x = clamp(vabs(a), 0, -EXP_LOWEST)
    cdef Exponential e = exponential(exactly(-x))
    cdef pair one_minus_t = pair_sum(exactly(broadcast(2)), minus(e.d))
    cdef pair bend = pair_sum(times_power(e.d, 2), pair_product(exactly(-x), one_minus_t))
    return scale(over_cube(pair_product(e.p, bend), e.d, broadcast(1) / e.d.hi), e.n)


cdef inline pair cubic_polynomial(pair t, vec c0, vec c1, vec c2, vec c3) noexcept nogil:
    """c0 + c1 t + c2 t^2 + c3 t^3; c3 is a power of two."""
    cdef pair value = pair_sum(exactly(c2), make_pair(c3 * t.hi, c3 * t.lo))
    value = pair_sum(exactly(c1), pair_product(value, t))
    return pair_sum(exactly(c0), pair_product(value, t))


cdef inline vec second_mish(vec a, const Parameters* p) noexcept nogil:
    """2 w' + a w'', w = tanh(softplus(a)): with e = exp(a) and D = 2 + 2e + e^2,

        g'' = 4e [(4 + 8e + 6e^2 + 2e^3) + a (2 + 2e - 3e^2 - 2e^3)] / D^3.

    Right of 0 both sides are times t^6, t = exp(-a): 4t^2 [(2 + 6t + 8t^2 + 4t^3) + a (-2 - 3t + 2t^2 + 2t^3)] over
    (1 + 2t + 2t^2)^3.

    Error in ulp: 0.737 in float32; 1.150 (0.02 u) in float64.
    """
    cdef vec zero = broadcast(0)
    cdef vec x = clamp(a, EXP_LOWEST, <real>-0.5 * EXP_LOWEST)  # at half of it t^2 is 0 already
    cdef Exponential e = exponential(minus_abs(x))
    cdef pair even = cubic_polynomial(e.t, where_less(a, zero, broadcast(4), broadcast(2)),
                                      where_less(a, zero, broadcast(8), broadcast(6)),
                                      where_less(a, zero, broadcast(6), broadcast(8)),
                                      where_less(a, zero, broadcast(2), broadcast(4)))
    cdef pair odd = cubic_polynomial(e.t, where_less(a, zero, broadcast(2), broadcast(-2)),
                                     where_less(a, zero, broadcast(2), broadcast(-3)),
                                     where_less(a, zero, broadcast(-3), broadcast(2)),
                                     where_less(a, zero, broadcast(-2), broadcast(2)))
    cdef pair bend = pair_sum(even, pair_product(exactly(x), odd))
    cdef pair square = pair_product(e.t, e.t)
    cdef pair two_t = times_power(e.t, 2)
    cdef pair d = pair_where_less(a, zero, pair_sum(exactly(broadcast(2)), pair_sum(two_t, square)),
                                  pair_sum(exactly(broadcast(1)), pair_sum(two_t, times_power(square, 2))))
    cdef pair factor = times_power(pair_where_less(a, zero, e.p, pair_product(e.p, e.p)), 4)
    return scale(over_cube(pair_product(factor, bend), d, broadcast(1) / d.hi),
                 where_less(a, zero, e.n, e.n + e.n))


cdef inline vec second_softplus(vec a, const Parameters* p) noexcept nogil:
    """sigma'(a).

    Error in ulp: 0.561 in float32; 0.801 in float64.
    """
    cdef Exponential e = exponential(minus_abs(a))
    return scale(over_square(e.p, e.d, broadcast(1) / e.d.hi), e.n)


cdef inline vec second_softsign(vec a, const Parameters* p) noexcept nogil:
    """-2 sign(a) / (1 + |a|)^3, and 0 at 0, where g'' jumps from 2 to -2.

    Error in ulp: 0.500 in float32; 1.347 in float64.
    """
    cdef vec zero = broadcast(0)
    cdef pair d = pair_two_sum(broadcast(1), clamp(vabs(a), 0, LARGEST))
    cdef pair r = quotient_pair(exactly(broadcast(1)), d, broadcast(1) / d.hi)
    cdef pair cube = pair_product(r, pair_product(r, times_power(r, 2)))
    return where_equal(a, zero, zero, with_sign(vabs(cube.hi + cube.lo), -a))


cdef inline vec bend_of_sigmoid(vec minus_x, real factor) noexcept nogil:
    """factor |sigma''(x)| = factor t (1 - t)/(1 + t)^3, t = exp(-x), x >= 0. 1 - t is -expm1(-x)."""
    cdef vec n
    cdef pair m = exp_minus_one_reduced(exactly(minus_x), &n)
    cdef pair t_minus_1 = expm1_pair(m, n)
    cdef pair d = pair_plus(broadcast(2), t_minus_1)
    cdef pair numerator = pair_product(pair_plus(broadcast(factor), times_power(m, factor)), t_minus_1)
    return scale(vabs(over_cube(numerator, d, broadcast(1) / d.hi)), n)


cdef inline vec second_tanh(vec a, const Parameters* p) noexcept nogil:
    """8 sigma''(2a), since tanh(a) = 2 sigma(2a) - 1.

    Error in ulp: 0.898 in float32; 1.027 in float64.
    """
    return with_sign(bend_of_sigmoid(broadcast(-2) * vabs(a), 8), -a)


cdef inline vec second_sigmoid(vec a, const Parameters* p) noexcept nogil:
    """sigma''(a).

    Error in ulp: 0.898 in float32; 1.041 in float64.
    """
    return with_sign(bend_of_sigmoid(-vabs(a), 1), -a)


cdef inline vec second_hardswish(vec a, const Parameters* p) noexcept nogil:
    """1/3 between -3 and 3, else 0.

    Error in ulp: 0.333 in float32; 0.333 in float64.
    """
    return between(a, -3, 3, broadcast(1) / broadcast(3), broadcast(0), broadcast(0))


cdef inline vec second_sin(vec a, const Parameters* p) noexcept nogil:
    """-sin(a).

    Error in ulp: 0.838 in float32; 0.952 in float64.
    """
    cdef vec cosine
    return -sin_and_cos(a, &cosine)


cdef inline vec second_exp(vec a, const Parameters* p) noexcept nogil:
    """exp(a).

    Error in ulp: 0.641 in float32; 0.788 in float64.
    """
    return exp_rounded(a)


cdef inline void g_second_over_rows(const SecondDerivative g_second, const Parameters* p,
                                    Py_ssize_t n_rows, Py_ssize_t n,
                                    const real* a,                           # IN
                                    real* out,                               # OUT; may be a
                                    Py_ssize_t ld) noexcept nogil:
    """g''(a) for a tile. g_second is a constant, so it is inlined."""
    cdef Py_ssize_t _s, j
    for _s in range(n_rows):
        j = 0
        while j < n:
            store_first(out + j, g_second(load_first(a + j, n - j), p), n - j)
            j += LANES
        a += ld
        out += ld


cdef inline void g_second_of_rows(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n,
                                  const void* a_,                            # IN
                                  void* out_,                                # OUT; may be a
                                  Py_ssize_t ld) noexcept nogil:
    """out = g''(a)."""
    cdef const real* a = <const real*>a_
    cdef real* out = <real*>out_
    cdef Parameters p
    p.scale = pair_of(1)
    p.alpha = pair_of(parameter)
    if code == SELU:
        p.alpha = make_pair(broadcast(SELU_ALPHA_SCALE[0]), broadcast(SELU_ALPHA_SCALE[1]))
    if code == ELU or code == SELU:
        g_second_over_rows(second_elu, &p, n_rows, n, a, out, ld)
    elif code == GELU:
        g_second_over_rows(second_gelu, &p, n_rows, n, a, out, ld)
    elif code == GELU_TANH:
        g_second_over_rows(second_gelu_tanh, &p, n_rows, n, a, out, ld)
    elif code == SILU:
        g_second_over_rows(second_silu, &p, n_rows, n, a, out, ld)
    elif code == MISH:
        g_second_over_rows(second_mish, &p, n_rows, n, a, out, ld)
    elif code == SOFTPLUS:
        g_second_over_rows(second_softplus, &p, n_rows, n, a, out, ld)
    elif code == SOFTSIGN:
        g_second_over_rows(second_softsign, &p, n_rows, n, a, out, ld)
    elif code == TANH:
        g_second_over_rows(second_tanh, &p, n_rows, n, a, out, ld)
    elif code == SIGMOID:
        g_second_over_rows(second_sigmoid, &p, n_rows, n, a, out, ld)
    elif code == HARDSWISH:
        g_second_over_rows(second_hardswish, &p, n_rows, n, a, out, ld)
    elif code == SIN:
        g_second_over_rows(second_sin, &p, n_rows, n, a, out, ld)
    elif code == EXP:
        g_second_over_rows(second_exp, &p, n_rows, n, a, out, ld)
    else:
        g_second_over_rows(second_linear, &p, n_rows, n, a, out, ld)
