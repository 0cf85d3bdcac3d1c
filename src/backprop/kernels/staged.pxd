# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The activations of 40 operations and more, h = g(a) and g'(a), each in stages.
# Needs: elementary, pairs, stages, vector.
# Gives: the stages of gelu, gelu_tanh, silu, mish, softplus, tanh and sigmoid.
#
# The first and the last stage of a function take one vector, the middle ones a block (stages.pxd). What holds for all
# activations is said in activations.pxd.

from backprop.kernels.vector cimport at_least, at_most, broadcast, clamp, real, vabs, vec, vfma, where_less, with_sign
from backprop.kernels.pairs cimport (
    fast_two_sum, make_pair, over_square, pair, pair_plus, pair_product, pair_scale, pair_sum, pair_two_sum,
    pair_where_less, quotient_pair, scale, two_product,
)
from backprop.kernels.elementary cimport (
    ATANH_DEGREE, ATANH_P, CUBIC, EXP_LOWEST, Exponential, GATE_BOUND, GATE_BOUND_CUBIC, GELU_BOUND, Growth,
    INV_SQRT_2PI, SQRT_8_OVER_PI, TANH_TINY, UNSHIFT, excess, expm1_of_reduced, finish_mills, grow, horner_of_mills,
    minus_abs, one_plus, poly, reduce_exp, start_growth, start_mills,
)
from backprop.kernels.stages cimport Progress


cdef inline void start_gelu(Progress* v) noexcept nogil:
    """x = |a|, and exp(-x^2/2) reduced to 2^n exp(m)."""
    cdef pair square
    v.x = clamp(vabs(v.a), 0, GELU_BOUND)
    square = two_product(v.x, v.x)
    v.m = reduce_exp(make_pair(broadcast(<real>-0.5) * square.hi, broadcast(<real>-0.5) * square.lo), &v.n)


cdef inline void tails_of_gelu(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """2^n p = Phi(-x) = phi(x) M(x), and 2^n m = g'(-x) = phi(x) (M(x) - x)."""
    cdef Progress* v
    cdef Py_ssize_t i
    for i in range(size):
        v = &block[i]
        v.p = pair_product(pair_plus(broadcast(1), expm1_of_reduced(v.m)),
                           make_pair(broadcast(INV_SQRT_2PI[0]), broadcast(INV_SQRT_2PI[1])))
    for i in range(size):
        start_mills(block[i].x, &block[i].d, &block[i].slope)
    for i in range(size):
        block[i].m = horner_of_mills(block[i].slope.hi)
    for i in range(size):
        v = &block[i]
        v.d = finish_mills(v.d, v.slope, v.m)
    for i in range(size):
        v = &block[i]
        if with_prime:
            v.slope = pair_product(v.p, pair_sum(v.d, make_pair(-v.x, broadcast(0))))
            v.m = v.slope.hi + v.slope.lo
        v.p = pair_product(v.p, v.d)


cdef inline vec g_gelu(Progress* v, vec* g_prime) noexcept nogil:
    """a Phi(a). Phi(-x) = phi(x) M(x) with the Mills ratio M; Phi(x) = 1 - Phi(-x).

    g' = Phi(a) + a phi(a). With x = |a| this is phi (M - x) left of 0 (M - x vanishes only at the zero of g'), and
    1 - phi (M - x) right of 0.

    Error in ulp: g 1.278, g' 1.374 (0.28 u) in float32; g 1.091, g' 1.151 (0.21 u) in float64.
    """
    cdef vec zero = broadcast(0)
    cdef vec bounded = at_least(-GELU_BOUND, v.a)
    cdef vec slope = scale(v.m, v.n)
    cdef pair right = pair_scale(v.p, v.n)
    cdef vec product
    g_prime[0] = where_less(v.a, zero, slope, broadcast(1) - slope)
    right = pair_plus(broadcast(1), make_pair(-right.hi, -right.lo))
    right = pair_where_less(v.a, zero, v.p, right)
    product = vfma(bounded, right.hi, bounded * right.lo)
    return where_less(v.x, broadcast(GELU_BOUND), where_less(v.a, zero, scale(product, v.n), product),
                      where_less(v.a, zero, -zero, v.a))


cdef inline void divide_growth(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """d = 2^-SHIFT (1 + exp(y)), and r = 1/d."""
    cdef Py_ssize_t i
    for i in range(size):
        grow(&block[i].e)
    for i in range(size):
        block[i].d = one_plus(&block[i].e)
        block[i].r = broadcast(1) / block[i].d.hi


cdef inline vec gated(Progress* v, const bint has_low, vec* g_prime) noexcept nogil:
    """a sigma(x), and its derivative sigma(x) (1 + s sigma(-x)) with s = a x'(a), from e = exp(-x).

    For silu x = s = a, without low parts; for gelu_tanh x is 2u. v.x is a, clamped to a range outside of which
    sigma(x) is 0 or 1, and within which x and s are finite. Left of 0 the bracket is (1 + s) - s sigma(x). Right of 0
    sigma(-x) is exp(-x) sigma(x). So nothing cancels except the bracket at the zero of g'.

    Range: every a; x.hi from EXP_LOWEST to GATE_BOUND.
    """
    cdef vec zero = broadcast(0)
    cdef vec low = v.r * excess(v.r, v.d)                                            # r - low is 2^SHIFT sigma(x)
    cdef vec sigma = v.r - low
    cdef vec other = where_less(v.a, zero, sigma * broadcast(-UNSHIFT), vfma(v.e.power, v.e.m, v.e.power) * sigma)
    cdef vec s = v.slope.hi if has_low else v.x
    cdef pair bracket = make_pair(broadcast(1) + where_less(v.a, zero, s, zero), zero)
    if has_low:
        bracket = fast_two_sum(bracket.hi, vfma(s, other, where_less(v.a, zero, v.slope.lo, zero)))
        bracket.lo = vfma(bracket.lo, v.r, -(bracket.hi * low))
    else:
        bracket.hi = vfma(s, other, bracket.hi)
        bracket.lo = -(bracket.hi * low)
    g_prime[0] = vfma(bracket.hi, v.r, bracket.lo) * broadcast(UNSHIFT)
    return where_less(v.x, v.a, v.a, vfma(v.x, v.r, -(v.x * low)) * broadcast(UNSHIFT))


cdef inline void start_gelu_tanh(Progress* v) noexcept nogil:
    """p = 2u, and a times its slope."""
    cdef vec bounded = clamp(v.a, -GATE_BOUND_CUBIC, GATE_BOUND_CUBIC)
    cdef pair square = two_product(bounded, bounded)
    cdef pair cubic = pair_product(square, make_pair(broadcast(CUBIC[0]), broadcast(CUBIC[1])))
    cdef pair argument = two_product(bounded, broadcast(SQRT_8_OVER_PI[0]))
    cdef pair slope = pair_plus(broadcast(1), make_pair(broadcast(3) * cubic.hi, broadcast(3) * cubic.lo))
    argument.lo = vfma(bounded, broadcast(SQRT_8_OVER_PI[1]), argument.lo)
    v.slope = pair_product(argument, slope)
    v.p = pair_product(argument, pair_plus(broadcast(1), cubic))
    v.x = bounded


cdef inline void divide_gelu_tanh(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """d = 2^-SHIFT (1 + exp(-2u)), and r = 1/d."""
    cdef Progress* v
    cdef Py_ssize_t i
    for i in range(size):
        v = &block[i]
        v.e = start_growth(clamp(v.p.hi, EXP_LOWEST, GATE_BOUND), v.p.lo, -1, True)
    divide_growth(block, size, with_prime)


cdef inline vec g_gelu_tanh(Progress* v, vec* g_prime) noexcept nogil:
    """a sigma(2u), 2u = sqrt(8/pi) (a + 0.044715 a^3). The form with tanh, 1 + tanh(u), cancels for negative a.

    Error in ulp: g 1.117, g' 1.999 (0.44 u) in float32; g 0.889, g' 1.955 (0.38 u) in float64.
    """
    return gated(v, True, g_prime)


cdef inline void start_silu(Progress* v) noexcept nogil:
    """exp(-a)."""
    v.x = clamp(v.a, EXP_LOWEST, GATE_BOUND)
    v.e = start_growth(v.x, broadcast(0), -1, False)


cdef inline vec g_silu(Progress* v, vec* g_prime) noexcept nogil:
    """a sigma(a).

    Error in ulp: g 0.920, g' 1.715 (0.20 u) in float32; g 0.833, g' 1.719 (0.20 u) in float64.
    """
    return gated(v, False, g_prime)


cdef inline void start_mish(Progress* v) noexcept nogil:
    """exp(-|a|), reduced to 2^n exp(m)."""
    v.x = clamp(v.a, EXP_LOWEST, -EXP_LOWEST)
    v.m = reduce_exp(minus_abs(v.x), &v.t.n)


cdef inline void gate_of_mish(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """Numerator (p) and denominator (d) of w, and the numerator (slope) of g'; 2^n is not yet in the numerators."""
    cdef vec zero = broadcast(0)
    cdef Progress* v
    cdef Exponential* e
    cdef pair t2, added, curve, left, right
    cdef Py_ssize_t i
    for i in range(size):
        e = &block[i].t
        e.p = pair_plus(broadcast(1), expm1_of_reduced(block[i].m))
        e.t = pair_scale(e.p, e.n)
        e.d = pair_plus(broadcast(1), e.t)
    for i in range(size):
        v = &block[i]
        e = &v.t
        t2 = make_pair(e.t.hi + e.t.hi, e.t.lo + e.t.lo)
        # Left of 0 the numerator is 2^n p (t + 2), right of it 1 + 2t; the denominator adds 2, or 2t^2.
        added = pair_where_less(v.a, zero, make_pair(broadcast(2), zero), pair_product(t2, e.t))
        v.n = where_less(v.a, zero, e.n, zero)
        v.slope = pair_plus(broadcast(2), e.t)
        v.p = pair_where_less(v.a, zero, pair_product(e.p, v.slope), pair_sum(make_pair(broadcast(1), zero), t2))
        v.d = pair_sum(pair_scale(v.p, v.n), added)
        v.r = broadcast(1) / v.d.hi
    for i in range(size if with_prime else 0):
        v = &block[i]
        e = &v.t
        # g' = [numerator denominator + 4a e (1 + e)] / denominator^2, or with 4a t^2 (1 + t); 2^n p is taken out.
        curve = pair_product(make_pair(broadcast(4) * v.x, zero), e.d)
        left = pair_product(e.p, pair_sum(pair_product(v.slope, v.d), curve))
        right = pair_sum(pair_product(v.p, v.d), pair_product(curve, pair_product(e.t, e.t)))
        v.slope = pair_where_less(v.a, zero, left, right)


cdef inline vec g_mish(Progress* v, vec* g_prime) noexcept nogil:
    """a w, w = tanh(log1p(e^a)) = e (e + 2)/(e (e + 2) + 2), and w + a w' with w' = 4 e (1 + e)/(e (e + 2) + 2)^2.

    Right of 0 both are ratios in t = exp(-a) instead: (1 + 2t)/(1 + 2t + 2t^2) and 4 t^2 (1 + t)/(1 + 2t + 2t^2)^2.

    Error in ulp: g 0.897, g' 0.908 (0.02 u) in float32; g 0.857, g' 1.042 (0.03 u) in float64.
    """
    cdef pair gate = quotient_pair(v.p, v.d, v.r)
    g_prime[0] = scale(over_square(v.slope, v.d, v.r), v.n)
    return where_less(v.x, v.a, v.a, scale(vfma(v.x, gate.hi, v.x * gate.lo), v.n))


cdef inline void start_sigmoid(Progress* v) noexcept nogil:
    """exp(|a|), for sigmoid and softplus."""
    v.e = start_growth(at_most(-EXP_LOWEST, vabs(v.a)), broadcast(0), 1, False)


cdef inline void divide_softplus(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil:
    """The denominators of c and s, with their reciprocals."""
    cdef Growth e
    cdef Py_ssize_t i
    for i in range(size):
        grow(&block[i].e)
    for i in range(size):
        e = block[i].e
        block[i].d = one_plus(&e)
        block[i].r = broadcast(1) / block[i].d.hi
        e.power = e.power + e.power
        block[i].second_d = one_plus(&e)
        block[i].second_r = broadcast(1) / block[i].second_d.hi                      # near 2^SHIFT s


cdef inline vec g_softplus(Progress* v, vec* g_prime) noexcept nogil:
    """max(a, 0) + log1p(t), t = exp(-|a|). log1p(t) = 2 atanh(s), s = t/(2 + t) = 1/(1 + 2 exp(|a|)). g' = sigma(a).

    Error in ulp: g 0.815, g' 0.815 in float32; g 0.922, g' 0.834 in float64.
    """
    cdef vec zero = broadcast(0)
    cdef vec c = vfma(-v.r, excess(v.r, v.d), v.r)
    cdef pair d = v.second_d
    cdef vec r = v.second_r
    cdef vec z, low
    cdef pair total
    g_prime[0] = where_less(v.a, zero, c * broadcast(UNSHIFT), vfma(c, broadcast(-UNSHIFT), broadcast(1)))
    z = r * broadcast(UNSHIFT)
    z = z * z
    low = r * excess(r, d)
    low = vfma(r * z, poly(z, ATANH_P, ATANH_DEGREE), -vfma(low, z, low))            # 1/(1 - z) is near 1 + z
    total = pair_two_sum(where_less(v.a, zero, zero, v.a) * broadcast(1 / UNSHIFT), r + r)
    return where_less(broadcast(-EXP_LOWEST), v.a, v.a, (total.hi + vfma(broadcast(2), low, total.lo)) *
                      broadcast(UNSHIFT))


cdef inline void start_tanh(Progress* v) noexcept nogil:
    """exp(2|a|)."""
    v.x = vabs(v.a)
    v.e = start_growth(at_most(-EXP_LOWEST, v.x + v.x), broadcast(0), 1, False)


cdef inline vec g_tanh(Progress* v, vec* g_prime) noexcept nogil:
    """(d - 2)/d with d = 1 + exp(2|a|); a itself near 0, where 2^-SHIFT 2a underflows. g' = 4 (c - c^2), c = 1/d.

    Error in ulp: g 0.855, g' 1.480 in float32; g 0.981, g' 1.446 in float64.
    """
    cdef pair d = v.d
    cdef vec r = v.r
    cdef vec two = broadcast(2 * UNSHIFT)
    cdef vec numerator = d.hi - two
    cdef vec low
    d.lo = vfma(v.e.power, v.e.low, d.lo)  # without it, half an ulp more if d - 2 cancels
    low = d.lo + ((d.hi - numerator) - two)  # d - 2 is rounded if the last place of d is 4
    cdef vec q = numerator * r
    cdef vec c = vfma(-r, excess(r, d), r)
    g_prime[0] = vfma(-c, c * broadcast(UNSHIFT), c) * broadcast(4 * UNSHIFT)
    q = vfma(-(vfma(q, d.hi, -numerator) + vfma(q, d.lo, -low)), r, q)
    return where_less(v.x, broadcast(TANH_TINY), v.a, with_sign(q, v.a))


cdef inline vec g_sigmoid(Progress* v, vec* g_prime) noexcept nogil:
    """c = 1/(1 + exp(|a|)) left of 0, 1 - c right of it. g' = c - c^2.

    Error in ulp: g 0.815, g' 1.480 in float32; g 0.834, g' 1.485 in float64.
    """
    cdef vec shifted = vfma(-v.r, excess(v.r, v.d), v.r)
    cdef vec c = shifted * broadcast(UNSHIFT)
    g_prime[0] = vfma(-shifted, c, shifted) * broadcast(UNSHIFT)
    return where_less(v.a, broadcast(0), c, vfma(shifted, broadcast(-UNSHIFT), broadcast(1)))
