# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The activations' second derivatives g''(a): one function for each, in vectors.
# Needs: activations (`between`), elementary, pairs, stages, vector.
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
    exactly, make_pair, minus, over_cube, over_square, pair, pair_of, pair_plus, pair_product, pair_scale, pair_sum,
    pair_two_sum, pair_where_less, quotient_pair, scale, times_power, two_product,
)
from backprop.kernels.elementary cimport (
    CUBIC, EXP_LOWEST, Exponential, GATE_BOUND_CUBIC, GELU_BOUND, INV_SQRT_2PI, LARGEST, SELU_ALPHA_SCALE,
    SQRT_8_OVER_PI, exp_reduced, exp_rounded, expm1_of_reduced, expm1_pair, exponential, minus_abs, reduce_exp,
    sin_and_cos,
)
from backprop.kernels.stages cimport BLOCK, FirstStage, LastStage, MiddleStages, Parameters, Progress, over_stages
from backprop.kernels.activations cimport between

ctypedef vec (*SecondDerivative)(vec a, const Parameters* p) noexcept nogil


cdef inline vec second_linear(vec a, const Parameters* p) noexcept nogil:
    """0, for an activation that is linear in pieces."""
    return where_equal(a, a, broadcast(0), a)


cdef inline vec second_elu(vec a, const Parameters* p) noexcept nogil:
    """alpha exp(a) left of 0: elu, and selu.

    Error in ulp, elu: 0.797 in float32; 0.776 in float64.
    Error in ulp, selu: 0.804 in float32; 0.807 in float64.
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


cdef inline void finish_exponentials(Progress* block, Py_ssize_t size) noexcept nogil:
    """t = exp(y) and d = 1 + t, from y reduced to 2^n exp(m)."""
    cdef Exponential* e
    cdef Py_ssize_t i
    for i in range(size):
        e = &block[i].t
        e.p = pair_plus(broadcast(1), expm1_of_reduced(block[i].m))
        e.t = pair_scale(e.p, e.n)
        e.d = pair_plus(broadcast(1), e.t)


cdef inline vec over_cube_of_d(Progress* v, vec* g_prime) noexcept nogil:
    """2^n p / d^3."""
    return scale(over_cube(v.p, v.t.d, broadcast(1) / v.t.d.hi), v.t.n)


cdef inline void start_second_gelu_tanh(Progress* v) noexcept nogil:
    """exp(-|w|)."""
    cdef pair cubic
    v.x = clamp(vabs(v.a), 0, GATE_BOUND_CUBIC)
    cubic = pair_product(two_product(v.x, v.x), make_pair(broadcast(CUBIC[0]), broadcast(CUBIC[1])))
    v.p = pair_product(make_pair(broadcast(SQRT_8_OVER_PI[0]), broadcast(SQRT_8_OVER_PI[1])), exactly(v.x))
    v.d = pair_product(cubic, exactly(broadcast(3)))
    v.m = reduce_exp(minus(pair_product(v.p, pair_sum(exactly(broadcast(1)), cubic))), &v.t.n)


cdef inline void second_gelu_tanh(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """c t [(2 + 12 k a^2) d - c |a| (1 + 3 k a^2)^2 (1 - t)] / d^3, where g = a sigma(w), w = c (a + k a^3).

    t = exp(-|w|), d = 1 + t; g'' = (2 w' + a w'') sigma'(w) + a w'^2 sigma''(w).

    Error in ulp: 1.516 (0.05 u) in float32; 1.434 (0.04 u) in float64.
    """
    cdef pair c = make_pair(broadcast(SQRT_8_OVER_PI[0]), broadcast(SQRT_8_OVER_PI[1]))
    cdef Progress* v
    cdef pair bend, square
    cdef Py_ssize_t i
    finish_exponentials(block, size)
    for i in range(size):                                                   # p = c |a|, d = 3 k a^2
        v = &block[i]
        square = pair_sum(exactly(broadcast(1)), v.d)
        square = pair_product(square, square)
        v.p = pair_product(pair_product(v.p, square), pair_sum(exactly(broadcast(2)), minus(v.t.d)))
    for i in range(size):
        v = &block[i]
        bend = pair_product(pair_sum(exactly(broadcast(2)), times_power(v.d, 4)), v.t.d)
        v.p = pair_product(pair_product(v.t.p, c), pair_sum(bend, minus(v.p)))


cdef inline void start_second_silu(Progress* v) noexcept nogil:
    """exp(-|a|)."""
    v.x = clamp(vabs(v.a), 0, -EXP_LOWEST)
    v.m = reduce_exp(exactly(-v.x), &v.t.n)


cdef inline void second_silu(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """t [2 (1 + t) - |a| (1 - t)] / (1 + t)^3, t = exp(-|a|): 2 sigma' + a sigma''.

    Error in ulp: 1.465 (0.01 u) in float32; 1.501 (0.01 u) in float64.
    """
    cdef Progress* v
    cdef pair one_minus_t
    cdef Py_ssize_t i
    finish_exponentials(block, size)
    for i in range(size):
        v = &block[i]
        one_minus_t = pair_sum(exactly(broadcast(2)), minus(v.t.d))
        v.p = pair_product(v.t.p, pair_sum(times_power(v.t.d, 2), pair_product(exactly(-v.x), one_minus_t)))


cdef inline pair cubic_polynomial(pair t, vec c0, vec c1, vec c2, vec c3) noexcept nogil:
    """c0 + c1 t + c2 t^2 + c3 t^3; c3 is a power of two."""
    cdef pair value = pair_sum(exactly(c2), make_pair(c3 * t.hi, c3 * t.lo))
    value = pair_sum(exactly(c1), pair_product(value, t))
    return pair_sum(exactly(c0), pair_product(value, t))


cdef inline void start_second_mish(Progress* v) noexcept nogil:
    """exp(-|a|)."""
    v.x = clamp(v.a, EXP_LOWEST, <real>-0.5 * EXP_LOWEST)  # at half of it t^2 is 0 already
    v.m = reduce_exp(minus_abs(v.x), &v.t.n)


cdef inline void second_mish(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """2 w' + a w'', w = tanh(softplus(a)): with e = exp(a) and D = 2 + 2e + e^2,

        g'' = 4e [(4 + 8e + 6e^2 + 2e^3) + a (2 + 2e - 3e^2 - 2e^3)] / D^3.

    Right of 0 both sides are times t^6, t = exp(-a): 4t^2 [(2 + 6t + 8t^2 + 4t^3) + a (-2 - 3t + 2t^2 + 2t^3)] over
    (1 + 2t + 2t^2)^3.

    Error in ulp: 1.311 (0.02 u) in float32; 1.150 (0.02 u) in float64.
    """
    cdef vec zero = broadcast(0)
    cdef Progress* v
    cdef Exponential* e
    cdef pair even, odd, square, two_t, factor
    cdef Py_ssize_t i
    finish_exponentials(block, size)
    for i in range(size):
        v = &block[i]
        even = cubic_polynomial(v.t.t, where_less(v.a, zero, broadcast(4), broadcast(2)),
                                where_less(v.a, zero, broadcast(8), broadcast(6)),
                                where_less(v.a, zero, broadcast(6), broadcast(8)),
                                where_less(v.a, zero, broadcast(2), broadcast(4)))
        v.p = even
    for i in range(size):
        v = &block[i]
        odd = cubic_polynomial(v.t.t, where_less(v.a, zero, broadcast(2), broadcast(-2)),
                               where_less(v.a, zero, broadcast(2), broadcast(-3)),
                               where_less(v.a, zero, broadcast(-3), broadcast(2)),
                               where_less(v.a, zero, broadcast(-2), broadcast(2)))
        v.p = pair_sum(v.p, pair_product(exactly(v.x), odd))
    for i in range(size):
        v = &block[i]
        e = &v.t
        square = pair_product(e.t, e.t)
        two_t = times_power(e.t, 2)
        e.d = pair_where_less(v.a, zero, pair_sum(exactly(broadcast(2)), pair_sum(two_t, square)),
                              pair_sum(exactly(broadcast(1)), pair_sum(two_t, times_power(square, 2))))
        factor = times_power(pair_where_less(v.a, zero, e.p, pair_product(e.p, e.p)), 4)
        v.p = pair_product(factor, v.p)
        e.n = where_less(v.a, zero, e.n, e.n + e.n)


cdef inline vec second_softplus(vec a, const Parameters* p) noexcept nogil:
    """sigma'(a).

    Error in ulp: 0.792 in float32; 0.801 in float64.
    """
    cdef Exponential e = exponential(minus_abs(a))
    return scale(over_square(e.p, e.d, broadcast(1) / e.d.hi), e.n)


cdef inline vec second_softsign(vec a, const Parameters* p) noexcept nogil:
    """-2 sign(a) / (1 + |a|)^3, and 0 at 0, where g'' jumps from 2 to -2.

    Error in ulp: 1.442 in float32; 1.347 in float64.
    """
    cdef vec zero = broadcast(0)
    cdef pair d = pair_two_sum(broadcast(1), clamp(vabs(a), 0, LARGEST))
    cdef pair r = quotient_pair(exactly(broadcast(1)), d, broadcast(1) / d.hi)
    cdef pair cube = pair_product(r, pair_product(r, times_power(r, 2)))
    return where_equal(a, zero, zero, with_sign(vabs(cube.hi + cube.lo), -a))


cdef inline void bend_of_sigmoid(Progress* block, Py_ssize_t size, const real factor) noexcept nogil:
    """p and d of factor |sigma''(x)| = factor t (1 - t)/(1 + t)^3, t = exp(-x), x >= 0. 1 - t is -expm1(-x)."""
    cdef Progress* v
    cdef pair t_minus_1
    cdef Py_ssize_t i
    for i in range(size):
        block[i].p = expm1_of_reduced(block[i].m)
    for i in range(size):
        v = &block[i]
        t_minus_1 = expm1_pair(v.p, v.t.n)
        v.t.d = pair_plus(broadcast(2), t_minus_1)
        v.p = pair_product(pair_plus(broadcast(factor), times_power(v.p, factor)), t_minus_1)


cdef inline vec opposite_sign(Progress* v, vec* g_prime) noexcept nogil:
    """|2^n p / d^3| with the sign of -a."""
    return with_sign(scale(vabs(over_cube(v.p, v.t.d, broadcast(1) / v.t.d.hi)), v.t.n), -v.a)


cdef inline void start_second_tanh(Progress* v) noexcept nogil:
    """exp(-2|a|)."""
    v.m = reduce_exp(exactly(broadcast(-2) * vabs(v.a)), &v.t.n)


cdef inline void second_tanh(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """8 sigma''(2a), since tanh(a) = 2 sigma(2a) - 1.

    Error in ulp: 0.898 in float32; 1.027 in float64.
    """
    bend_of_sigmoid(block, size, 8)


cdef inline void start_second_sigmoid(Progress* v) noexcept nogil:
    """exp(-|a|)."""
    v.m = reduce_exp(exactly(-vabs(v.a)), &v.t.n)


cdef inline void second_sigmoid(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """sigma''(a).

    Error in ulp: 0.898 in float32; 1.041 in float64.
    """
    bend_of_sigmoid(block, size, 1)


cdef inline vec second_hardswish(vec a, const Parameters* p) noexcept nogil:
    """1/3 between -3 and 3, else 0.

    Error in ulp: 0.333 in float32; 0.333 in float64.
    """
    return between(a, -3, 3, broadcast(1) / broadcast(3), broadcast(0), broadcast(0))


cdef inline vec second_sin(vec a, const Parameters* p) noexcept nogil:
    """-sin(a).

    Error in ulp: 0.915 in float32; 0.952 in float64.
    """
    cdef vec cosine
    return -sin_and_cos(a, &cosine)


cdef inline vec second_exp(vec a, const Parameters* p) noexcept nogil:
    """exp(a).

    Error in ulp: 0.799 in float32; 0.788 in float64.
    """
    return exp_rounded(a)


cdef inline void at_once(const SecondDerivative g_second, const Parameters* p, Py_ssize_t n_rows, Py_ssize_t n,
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


cdef inline void in_stages(const FirstStage first, const MiddleStages middle, const LastStage last,
                           Py_ssize_t n_rows, Py_ssize_t n, const real* a, real* out, Py_ssize_t ld) noexcept nogil:
    """The same in stages."""
    over_stages(BLOCK, first, middle, last, n_rows, n, <real*>a, out, ld, False)


cdef inline void g_second_of_rows(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n,
                                  const void* a_,                            # IN
                                  void* out_,                                # OUT; may be a
                                  Py_ssize_t ld) noexcept nogil:
    """out = g''(a)."""
    cdef const real* a = <const real*>a_
    cdef real* out = <real*>out_
    cdef Parameters p
    if ld == n:
        n = n * n_rows  # rows without gaps are one long row
        n_rows = 1
    p.scale = pair_of(1)
    p.alpha = pair_of(parameter)
    if code == SELU:
        p.alpha = make_pair(broadcast(SELU_ALPHA_SCALE[0]), broadcast(SELU_ALPHA_SCALE[1]))
    if code == ELU or code == SELU:
        at_once(second_elu, &p, n_rows, n, a, out, ld)
    elif code == GELU:
        at_once(second_gelu, &p, n_rows, n, a, out, ld)
    elif code == GELU_TANH:
        in_stages(start_second_gelu_tanh, second_gelu_tanh, over_cube_of_d, n_rows, n, a, out, ld)
    elif code == SILU:
        in_stages(start_second_silu, second_silu, over_cube_of_d, n_rows, n, a, out, ld)
    elif code == MISH:
        in_stages(start_second_mish, second_mish, over_cube_of_d, n_rows, n, a, out, ld)
    elif code == SOFTPLUS:
        at_once(second_softplus, &p, n_rows, n, a, out, ld)
    elif code == SOFTSIGN:
        at_once(second_softsign, &p, n_rows, n, a, out, ld)
    elif code == TANH:
        in_stages(start_second_tanh, second_tanh, opposite_sign, n_rows, n, a, out, ld)
    elif code == SIGMOID:
        in_stages(start_second_sigmoid, second_sigmoid, opposite_sign, n_rows, n, a, out, ld)
    elif code == HARDSWISH:
        at_once(second_hardswish, &p, n_rows, n, a, out, ld)
    elif code == SIN:
        at_once(second_sin, &p, n_rows, n, a, out, ld)
    elif code == EXP:
        at_once(second_exp, &p, n_rows, n, a, out, ld)
    else:
        at_once(second_linear, &p, n_rows, n, a, out, ld)
