# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The activations' third derivatives g'''(a): one function for each, in vectors.
# Needs: elementary, pairs, second (whose functions are g''' of other activations), stages, vector.
# Gives: the table's third_derivative.
#
# As for g'', each function starts from t = exp(-|a|) or a similar exponential and applies the power of two in t last.
# z = t - 1 is expm1(-|a|), so an odd g''' loses no digit near 0 either. Numerator and denominator are pairs: nothing
# cancels except at the other zeros of g'''. g''' is 0 where g, g' or g'' jumps, and in linear parts of g. A NaN passes.
# elu, selu and exp have their g'' here, and softplus that of sigmoid.
#
# The range of each function is every a, from -inf to inf. "Error in ulp" is explained in elementary.pxd, E. In brackets
# stands the absolute error near a zero of g''', in u = 2^-24 (float32) or 2^-53 (float64).

from backprop.kernels.table cimport (
    ELU, EXP, GELU, GELU_TANH, MISH, SELU, SIGMOID, SILU, SIN, SOFTPLUS, SOFTSIGN, TANH,
)
from backprop.kernels.vector cimport (
    FLOAT64, broadcast, clamp, real, vabs, vec, where_equal, where_less, with_sign,
)
from backprop.kernels.pairs cimport (
    exactly, make_pair, minus, pair, pair_of, pair_plus, pair_product, pair_sum, pair_two_sum, pair_where_less,
    quotient, quotient_pair, scale, times_power, two_product,
)
from backprop.kernels.elementary cimport (
    CUBIC, GELU_BOUND, INV_SQRT_2PI, LARGEST, SELU_ALPHA_SCALE, SQRT_8_OVER_PI, expm1_of_reduced, expm1_pair,
    reduce_exp, reduce_within, sin_and_cos,
)
from backprop.kernels.stages cimport Parameters, Progress
from backprop.kernels.second cimport (
    at_once, finish_exponentials, in_stages, opposite_sign, second_elu, second_exp, second_linear, second_sigmoid,
    start_second_mish, start_second_sigmoid, start_second_silu, start_second_tanh,
)


cdef inline vec over_fourth(pair numerator, pair d) noexcept nogil:
    """numerator / d^4, rounded."""
    cdef pair square = pair_product(d, d)
    cdef vec r = broadcast(1) / d.hi
    r = r * r
    return quotient(numerator, pair_product(square, square), r * r)


cdef inline vec over_fourth_of_d(Progress* v, vec* g_prime) noexcept nogil:
    """2^n p / d^4."""
    return scale(over_fourth(v.p, v.t.d), v.t.n)


cdef inline vec odd_over_fourth(Progress* v, vec* g_prime) noexcept nogil:
    """2^n p / d^4 with the sign of a, for an odd function that starts from |a|."""
    return scale(over_fourth(v.p, v.t.d), v.t.n) * with_sign(broadcast(1), v.a)


cdef inline void exponentials_from_minus_1(Progress* block, Py_ssize_t size) noexcept nogil:
    """z = t - 1 in t.t, d = 1 + t and p = 2^-n t, from t reduced to 2^n exp(m)."""
    cdef Progress* v
    cdef Py_ssize_t i
    for i in range(size):
        block[i].t.p = expm1_of_reduced(block[i].m)
    for i in range(size):
        v = &block[i]
        v.t.t = expm1_pair(v.t.p, v.t.n)
        v.t.d = pair_plus(broadcast(2), v.t.t)
        v.t.p = pair_plus(broadcast(1), v.t.p)


cdef inline pair curl(pair z) noexcept nogil:
    """1 - 4t + t^2 = z (z - 2) - 2, where t = 1 + z: sigma''' = t (1 - 4t + t^2)/(1 + t)^4."""
    return pair_sum(exactly(broadcast(-2)), pair_product(z, pair_plus(broadcast(-2), z)))


cdef inline void curl_of_sigmoid(Progress* block, Py_ssize_t size, const real factor) noexcept nogil:
    """p and d of factor sigma'''(x), x >= 0; factor is a power of two."""
    cdef Progress* v
    cdef Py_ssize_t i
    exponentials_from_minus_1(block, size)
    for i in range(size):
        v = &block[i]
        v.p = pair_product(times_power(v.t.p, factor), curl(v.t.t))


cdef inline void third_tanh(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """16 sigma'''(2a), since tanh(a) = 2 sigma(2a) - 1.

    Error in ulp: 1.716 (0.18 u) in float32; 1.897 (0.15 u) in float64.
    """
    curl_of_sigmoid(block, size, 16)


cdef inline void third_sigmoid(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """sigma'''(a).

    Error in ulp: 0.876 (0.05 u) in float32; 1.210 (0.07 u) in float64.
    """
    curl_of_sigmoid(block, size, 1)


cdef inline void third_silu(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """t [x (1 - 4t + t^2) - 3 (1 - t)(1 + t)] / (1 + t)^4, x = |a|, t = exp(-x): 3 sigma'' + a sigma'''.

    Error in ulp: 1.079 (0.00 u) in float32; 0.877 (0.00 u) in float64.
    """
    cdef Progress* v
    cdef pair bend
    cdef Py_ssize_t i
    exponentials_from_minus_1(block, size)
    for i in range(size):
        v = &block[i]
        bend = pair_product(pair_sum(v.t.t, times_power(v.t.t, 2)), v.t.d)
        v.p = pair_product(v.t.p, pair_sum(bend, pair_product(exactly(v.x), curl(v.t.t))))


cdef inline void start_third_gelu(Progress* v) noexcept nogil:
    """exp(-a^2/2), and d = a^2."""
    v.x = clamp(vabs(v.a), 0, GELU_BOUND)
    v.d = two_product(v.x, v.x)
    v.m = reduce_exp(times_power(v.d, <real>-0.5), &v.t.n)


cdef inline void third_gelu(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """phi(a) a (a^2 - 4).

    Error in ulp: 0.990 in float32; 0.846 in float64.
    """
    cdef Progress* v
    cdef pair phi, cubic
    cdef Py_ssize_t i
    for i in range(size):
        v = &block[i]
        phi = pair_plus(broadcast(1), expm1_of_reduced(v.m))
        v.p = pair_product(phi, make_pair(broadcast(INV_SQRT_2PI[0]), broadcast(INV_SQRT_2PI[1])))
    for i in range(size):
        v = &block[i]
        cubic = pair_product(pair_sum(exactly(broadcast(-4)), v.d), exactly(v.x))
        v.p = pair_product(v.p, cubic)


cdef inline vec odd(Progress* v, vec* g_prime) noexcept nogil:
    """2^n p with the sign of a."""
    return scale(v.p.hi + v.p.lo, v.t.n) * with_sign(broadcast(1), v.a)


cdef inline void start_third_gelu_tanh(Progress* v) noexcept nogil:
    """exp(-|w|); p = c |a|, d = 3 k a^2. At 22.5 (float64) and 12.5 (float32) g''' is 0 already."""
    cdef pair cubic
    v.x = clamp(vabs(v.a), 0, <real>22.5 if FLOAT64 else <real>12.5)
    cubic = pair_product(two_product(v.x, v.x), make_pair(broadcast(CUBIC[0]), broadcast(CUBIC[1])))
    v.p = pair_product(make_pair(broadcast(SQRT_8_OVER_PI[0]), broadcast(SQRT_8_OVER_PI[1])), exactly(v.x))
    v.d = pair_product(cubic, exactly(broadcast(3)))
    v.m = reduce_within(minus(pair_product(v.p, pair_sum(exactly(broadcast(1)), cubic))), &v.t.n)


cdef inline void third_gelu_tanh(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """t [24 k c x d^2 - 3 c^2 b (1 + 9 k x^2)(1 - t) d + c^3 x b^3 (1 - 4t + t^2)] / d^4, x = |a|.

    t = exp(-|w|), d = 1 + t, b = 1 + 3 k x^2, where g = a sigma(w), w = c (a + k a^3):
    g''' = (3 w'' + a w''') sigma'(w) + 3 w' (w' + a w'') sigma''(w) + a w'^3 sigma'''(w).

    Error in ulp: 1.673 (0.03 u) in float32; 1.558 (0.03 u) in float64.
    """
    cdef pair c = make_pair(broadcast(SQRT_8_OVER_PI[0]), broadcast(SQRT_8_OVER_PI[1]))
    cdef pair k = make_pair(broadcast(CUBIC[0]), broadcast(CUBIC[1]))
    cdef pair square_of_c = pair_product(c, c), one = exactly(broadcast(1)), three = exactly(broadcast(3))
    cdef pair slope, bend
    cdef Progress* v
    cdef Py_ssize_t i
    exponentials_from_minus_1(block, size)
    k = pair_product(k, exactly(broadcast(24)))
    for i in range(size):                                                    # slope = c^2 b, d = 3 c^2 b (1 + 9 k x^2)
        v = &block[i]
        slope = pair_sum(one, v.d)
        v.slope = pair_product(square_of_c, slope)
        v.d = pair_product(pair_product(v.slope, three), pair_sum(one, pair_product(v.d, three)))
        v.second_d = pair_product(v.slope, pair_product(slope, slope))
    for i in range(size):                                                    # p = c x
        v = &block[i]
        bend = pair_sum(pair_product(pair_product(k, v.p), v.t.d), pair_product(v.d, v.t.t))
        bend = pair_product(bend, v.t.d)
        v.p = pair_product(v.second_d, pair_product(v.p, curl(v.t.t)))
        v.p = pair_product(v.t.p, pair_sum(bend, v.p))


cdef inline pair step_of_horner(pair value, pair t, Progress* v, const real left, const real right) noexcept nogil:
    """value t + left if a < 0, value t + right else."""
    return pair_sum(exactly(where_less(v.a, broadcast(0), broadcast(left), broadcast(right))), pair_product(value, t))


cdef inline void third_mish(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """3 w'' + a w''', w = tanh(softplus(a)): with e = exp(a) and D = 2 + 2e + e^2,

        g''' = 4e [(12 + 24e - 24e^3 - 21e^4 - 6e^5) + a (4 - 32e^2 - 24e^3 + 5e^4 + 4e^5)] / D^4.

    Right of 0 both sides are times t^8, t = exp(-a): 4t^2 [(-6 - 21t - 24t^2 + 24t^4 + 12t^5)
    + a (4 + 5t - 24t^2 - 32t^3 + 4t^5)] over (1 + 2t + 2t^2)^4.

    Error in ulp: 1.777 (0.02 u) in float32; 1.255 (0.02 u) in float64.
    """
    cdef vec zero = broadcast(0)
    cdef Progress* v
    cdef pair value, square, two_t, factor
    cdef Py_ssize_t i
    finish_exponentials(block, size)
    for i in range(size):
        v = &block[i]
        value = exactly(where_less(v.a, zero, broadcast(-6), broadcast(12)))
        value = step_of_horner(value, v.t.t, v, -21, 24)
        value = step_of_horner(value, v.t.t, v, -24, 0)
        value = step_of_horner(value, v.t.t, v, 0, -24)
        value = step_of_horner(value, v.t.t, v, 24, -21)
        v.p = step_of_horner(value, v.t.t, v, 12, -6)
    for i in range(size):
        v = &block[i]
        value = times_power(v.t.t, 4)
        value = pair_sum(exactly(where_less(v.a, zero, broadcast(5), zero)), value)
        value = step_of_horner(value, v.t.t, v, -24, -32)
        value = step_of_horner(value, v.t.t, v, -32, -24)
        value = step_of_horner(value, v.t.t, v, 0, 5)
        value = step_of_horner(value, v.t.t, v, 4, 4)
        v.p = pair_sum(v.p, pair_product(exactly(v.x), value))
    for i in range(size):
        v = &block[i]
        square = pair_product(v.t.t, v.t.t)
        two_t = times_power(v.t.t, 2)
        v.t.d = pair_where_less(v.a, zero, pair_sum(exactly(broadcast(2)), pair_sum(two_t, square)),
                                pair_sum(exactly(broadcast(1)), pair_sum(two_t, times_power(square, 2))))
        factor = times_power(pair_where_less(v.a, zero, v.t.p, pair_product(v.t.p, v.t.p)), 4)
        v.p = pair_product(factor, v.p)
        v.t.n = where_less(v.a, zero, v.t.n, v.t.n + v.t.n)


cdef inline vec third_softsign(vec a, const Parameters* p) noexcept nogil:
    """6 / (1 + |a|)^4, and 0 at 0, where g'' jumps from 2 to -2.

    Error in ulp: 1.498 in float32; 1.420 in float64.
    """
    cdef vec zero = broadcast(0)
    cdef pair d = pair_two_sum(broadcast(1), clamp(vabs(a), 0, LARGEST))
    cdef pair r = quotient_pair(exactly(broadcast(1)), d, broadcast(1) / d.hi)
    cdef pair square = pair_product(r, r)
    square = pair_product(square, pair_product(square, exactly(broadcast(6))))
    return where_equal(a, zero, zero, square.hi + square.lo)


cdef inline vec third_sin(vec a, const Parameters* p) noexcept nogil:
    """-cos(a).

    Error in ulp: 0.901 in float32; 0.998 in float64.
    """
    cdef vec cosine
    sin_and_cos(a, &cosine)
    return -cosine


cdef inline void g_third_of_rows(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n,
                                 const void* a_,                             # IN
                                 void* out_,                                 # OUT; may be a
                                 Py_ssize_t ld) noexcept nogil:
    """out = g'''(a)."""
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
        in_stages(start_third_gelu, third_gelu, odd, n_rows, n, a, out, ld)
    elif code == GELU_TANH:
        in_stages(start_third_gelu_tanh, third_gelu_tanh, odd_over_fourth, n_rows, n, a, out, ld)
    elif code == SILU:
        in_stages(start_second_silu, third_silu, odd_over_fourth, n_rows, n, a, out, ld)
    elif code == MISH:
        in_stages(start_second_mish, third_mish, over_fourth_of_d, n_rows, n, a, out, ld)
    elif code == SOFTPLUS:
        in_stages(start_second_sigmoid, second_sigmoid, opposite_sign, n_rows, n, a, out, ld)
    elif code == SOFTSIGN:
        at_once(third_softsign, &p, n_rows, n, a, out, ld)
    elif code == TANH:
        in_stages(start_second_tanh, third_tanh, over_fourth_of_d, n_rows, n, a, out, ld)
    elif code == SIGMOID:
        in_stages(start_second_sigmoid, third_sigmoid, over_fourth_of_d, n_rows, n, a, out, ld)
    elif code == SIN:
        at_once(third_sin, &p, n_rows, n, a, out, ld)
    elif code == EXP:
        at_once(second_exp, &p, n_rows, n, a, out, ld)
    else:
        at_once(second_linear, &p, n_rows, n, a, out, ld)
