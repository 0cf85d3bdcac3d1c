# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The functions exp, expm1, sigma, Phi and sin in vectors, as the parts of which the activations are made.
# Needs: pairs, vector; elementary.h for constants, powers of two, and exp and log1p in float64.
# Gives: functions that return pairs, so that an activation rounds once, at its end.
#
# A. Each function has one formula for all arguments, in the body and in the tail of a row alike. So a value depends on
#    its argument alone.
# B. exp(x) = 2^n (1 + m) with n = round(x / ln 2). The reduced argument and 1 + m are pairs, and a quotient gets one
#    correction from its remainder. What is rounded is then close to the true value, and the error stays about half an
#    ulp above the error of the last rounding.
# C. If exp(x) may be subnormal, the power 2^n is applied last, and once: `scale` rounds once.
# D. NaN passes through every bound and comparison.
# E. "Error in ulp" is the largest one found over all float32 and over 10^7 float64, for the v4 kernels.
#    tools/numerics/ulp.py measures it, ulp.json beside it keeps it, and a test compares. A function without such a line
#    returns a pair, or a part of a result: its error is counted in the activations that use it.

from backprop.kernels.vector cimport (
    LANES, any_at_least, at_least, at_most, broadcast, clamp, get_lane, real, set_lane, vabs, vec, vfma, where_less,
)
from backprop.kernels.pairs cimport (
    fast_two_sum, less_product, make_pair, pair, pair_plus, pair_product, pair_scale, pair_two_sum, quotient_pair,
    scale, two_product,
)

cdef extern from "kernels/elementary.h" nogil:
    """
    #if BP_FLOAT64
    #define BP_SHIFT 100
    #define BP_UNSHIFT 0x1p-100
    #define BP_GATE_BOUND 80.0
    #define BP_TANH_TINY 0x1p-28
    #else
    #define BP_SHIFT 48
    #define BP_UNSHIFT 0x1p-48f
    #define BP_GATE_BOUND 40.0f
    #define BP_TANH_TINY 0x1p-13f
    #endif
    #define BP_POWER_MAGIC (BP_ROUND_MAGIC + (BP_BIAS - BP_SHIFT))

    /* 2^(n - BP_SHIFT) from n + BP_POWER_MAGIC: the low bits of this sum hold n + BP_BIAS - BP_SHIFT. */
    static inline bp_vec bp_shifted_power(bp_vec sum) { return (bp_vec)((bp_ivec)sum << BP_MANTISSA); }
    """
    enum:
        EXP_DEGREE "BP_EXP_DEGREE"
        ATANH_DEGREE "BP_ATANH_DEGREE"
        MILLS_DEGREE "BP_MILLS_DEGREE"
        SIN_DEGREE "BP_SIN_DEGREE"
        COS_DEGREE "BP_COS_DEGREE"
    const real* EXP_Q "BP_EXP"
    const real* ATANH_P "BP_ATANH"
    const real* MILLS_P "BP_MILLS"
    const real* MILLS_LOW "BP_MILLS_LOW"
    const real* SIN_S "BP_SIN"
    const real* COS_C "BP_COS"
    const real* LN2 "BP_LN2"
    const real* PI_HALF "BP_PI_HALF"
    const real* INV_SQRT_2PI "BP_INV_SQRT_2PI"
    const real* SQRT_8_OVER_PI "BP_SQRT_8_OVER_PI"
    const real* CUBIC "BP_GELU_TANH_CUBIC"
    const real* SELU_SCALE "BP_SELU_SCALE"
    const real* SELU_ALPHA_SCALE "BP_SELU_ALPHA_SCALE"
    const real LOG2_E "BP_LOG2_E"
    const real EXP_LOWEST "BP_EXP_LOWEST"        # exp is 0 at and below it, and so is any multiple that is used
    const real EXP_HIGHEST "BP_EXP_HIGHEST"      # exp is inf
    const real GELU_BOUND "BP_GELU_BOUND"
    const real GATE_BOUND "BP_GATE_BOUND"        # sigma(x) is 1, and 2^-SHIFT exp(-x) is normal
    const real GATE_BOUND_CUBIC "BP_GATE_BOUND_CUBIC"
    const real SOFTSIGN_BOUND "BP_SOFTSIGN_BOUND"
    const real LARGEST "BP_LARGEST"
    const real HUGE "BP_HUGE"
    const real SIN_SMALL "BP_SIN_SMALL"
    const real TANH_TINY "BP_TANH_TINY"          # below it tanh(x) is x to a sixth of an ulp
    const real UNSHIFT "BP_UNSHIFT"              # 2^-SHIFT: with it exp(-EXP_LOWEST) and its inverse are normal numbers
    const real POWER_MAGIC "BP_POWER_MAGIC"
    vec vround "bp_round"(vec v) noexcept
    vec round_product "bp_round_product"(vec a, real b) noexcept
    vec shifted_power "bp_shifted_power"(vec total) noexcept
    double reduce_large "bp_reduce_large"(double a, int* quadrant, double* low) noexcept
    double exp "bp_exp"(double x) noexcept
    double choose "bp_choose"(Py_ssize_t mask, double x, double y) noexcept
    double log1p "bp_log1p"(double t) noexcept
    double log1p_to_1 "bp_log1p_to_1"(double t) noexcept
    void exp_in_place "bp_exp_in_place"(Py_ssize_t n, double* x) noexcept


cdef inline vec poly(vec x, const real* c, const int degree) noexcept nogil:
    """sum_i c[i] x^i: Horner's rule in x^2 for the even and for the odd terms, two chains that run side by side.

    degree is a constant to the compiler.
    """
    cdef vec square = x * x
    cdef vec high = broadcast(c[degree])
    cdef vec low = broadcast(c[degree - 1])
    cdef int i
    for i in range(degree - 2, -1, -2):
        high = vfma(high, square, broadcast(c[i]))
        if i > 0:
            low = vfma(low, square, broadcast(c[i - 1]))
    if degree % 2:  # the highest term is odd
        return vfma(high, x, low)
    return vfma(low, x, high)


cdef inline vec horner(vec x, const real* c, const int degree) noexcept nogil:
    """The same sum by Horner's rule: slower, and closer if |x| is near 1."""
    cdef vec value = broadcast(c[degree])
    cdef int i
    for i in range(degree - 1, -1, -1):
        value = vfma(value, x, broadcast(c[i]))
    return value


# exp -----------------------------------------------------------------------------------------------------------------

cdef inline vec reduce_exp(pair x, vec* n) noexcept nogil:
    """n and r with exp(x) = 2^n exp(r), |r| <= ln(2)/2.

    Range: x up to EXP_HIGHEST; a smaller x than EXP_LOWEST counts as EXP_LOWEST, at which exp is 0.
    """
    return reduce_within(make_pair(at_least(EXP_LOWEST, x.hi), x.lo), n)


cdef inline vec reduce_within(pair x, vec* n) noexcept nogil:
    """The same without the bound. Range: x from -170 (float32) or -1400, twice the exponents of normal numbers."""
    cdef vec r
    n[0] = round_product(x.hi, LOG2_E)
    r = vfma(n[0], broadcast(-LN2[0]), x.hi)  # exact: LN2[0] leaves room for the bits of n
    return r + vfma(n[0], broadcast(-LN2[1]), x.lo)


cdef inline pair expm1_of_reduced(vec r) noexcept nogil:
    """exp(r) - 1."""
    return fast_two_sum(r, r * r * poly(r, EXP_Q, EXP_DEGREE))


cdef inline pair exp_minus_one_reduced(pair x, vec* n) noexcept nogil:
    """n and m with exp(x) = 2^n (1 + m), |m| <= 0.42. Range: as `reduce_exp`."""
    return expm1_of_reduced(reduce_exp(x, n))


cdef inline pair exp_reduced(pair x, vec* n) noexcept nogil:
    """n and p with exp(x) = 2^n p, p in [0.7, 1.42]. Range: as `reduce_exp`."""
    return pair_plus(broadcast(1), exp_minus_one_reduced(x, n))


cdef inline vec exp_rounded(vec x) noexcept nogil:
    """exp(x).

    Error in ulp: 0.799 in float32; 0.788 in float64.
    Range: every x. The result is inf from EXP_HIGHEST on.
    """
    cdef vec n
    cdef pair p = exp_reduced(make_pair(at_most(EXP_HIGHEST, x), broadcast(0)), &n)
    return scale(p.hi + p.lo, n)


cdef inline pair expm1_pair(pair m, vec n) noexcept nogil:
    """expm1(x) = 2^n (1 + m) - 1 from the reduced form of x. Range: n <= 0, so x <= ln(2)/2; m itself if n is 0."""
    cdef vec one = broadcast(1)
    cdef vec power = scale(one, n)
    cdef vec less_one = power - one
    cdef vec lost = power - (less_one + one)
    cdef vec high = vfma(power, m.hi, less_one)
    return make_pair(high, vfma(power, m.hi, less_one - high) + vfma(power, m.lo, lost))


# 1/(1 + exp(y)): the sigmoid family -----------------------------------------------------------------------------------
#
# sigma(x) = 1/(1 + exp(-x)) has one form for both signs, and its denominator grows in the tail. So nothing is chosen by
# the sign of x, no product p 2^n is kept apart, and 2^n is a shift of bits. All of it is scaled by 2^-SHIFT: the
# denominator then does not overflow if its inverse is subnormal, and the last product with 2^-SHIFT rounds once.

cdef struct Growth:
    vec power                # exp(y) = 2^SHIFT power (1 + r + q)
    vec r
    vec q
    vec m                    # r + q, rounded
    vec low                  # what r lost in its last rounding


cdef inline Growth start_growth(vec x, vec low, const int sign, const bint has_low) noexcept nogil:
    """exp(sign (x + low)), except for its polynomial: `grow` adds q, and `one_plus` m. sign is 1 or -1.

    Range: sign x from EXP_LOWEST to -EXP_LOWEST.
    """
    cdef Growth e
    cdef vec n = vfma(x, broadcast(sign * LOG2_E), broadcast(POWER_MAGIC))
    cdef vec high
    e.power = shifted_power(n)
    n = n - broadcast(POWER_MAGIC)
    high = vfma(n, broadcast(-LN2[0]), x if sign > 0 else -x)  # exact: LN2[0] leaves room for the bits of n
    if has_low:
        e.r = high + vfma(n, broadcast(-LN2[1]), low if sign > 0 else -low)
    else:
        e.r = vfma(n, broadcast(-LN2[1]), high)
    e.low = vfma(n, broadcast(-LN2[1]), high - e.r)
    return e


cdef inline void grow(Growth* e) noexcept nogil:
    """q from r; m is r + q."""
    e.q = e.r * e.r * poly(e.r, EXP_Q, EXP_DEGREE)


cdef inline pair one_plus(Growth* e) noexcept nogil:
    """2^-SHIFT (1 + exp(y)). (power - d) + 1 loses nothing that counts: it is exact, or power is far above 1."""
    cdef vec one = broadcast(UNSHIFT)
    cdef vec d
    e.m = e.r + e.q
    d = vfma(e.power, e.m, e.power + one)
    return make_pair(d, vfma(e.power, e.q, vfma(e.power, e.r, (e.power - d) + one)))


cdef inline vec excess(vec r, pair d) noexcept nogil:
    """r d - 1: r - r excess is 1/d."""
    return vfma(r, d.lo, -less_product(broadcast(1), r, d.hi))


# t = exp(-|x|), for mish and for second derivatives -------------------------------------------------------------------

cdef struct Exponential:
    pair p                   # exp(-|x|) = 2^n p
    vec n
    pair t                   # exp(-|x|); may be subnormal, so that 2^n p is the better form in a product
    pair d                   # 1 + t


cdef inline Exponential exponential(pair minus_magnitude) noexcept nogil:
    """t = exp(minus_magnitude) and 1 + t. Range: every argument <= 0."""
    cdef Exponential e
    e.p = exp_reduced(minus_magnitude, &e.n)
    e.t = pair_scale(e.p, e.n)
    e.d = pair_plus(broadcast(1), e.t)
    return e


cdef inline pair minus_abs(vec x) noexcept nogil:
    """The pair -|x|."""
    return make_pair(-vabs(x), broadcast(0))


# Phi and the sine ----------------------------------------------------------------------------------------------------

cdef inline void start_mills(vec x, pair* q, pair* u) noexcept nogil:
    """q = 1/(x + 4) and u = (x - 4)/(x + 4) for M(x) = Phi(-x)/phi(x), which is q times a polynomial in u.

    Cody 1969 has the substitution. The last two steps of Horner's rule, their coefficients, u and the quotient are
    pairs.

    Range: 0 <= x <= GELU_BOUND.
    """
    cdef vec zero = broadcast(0)
    cdef pair sum4 = fast_two_sum(broadcast(4), x)  # exact for x > 4 too: x + 4 and 4 differ by a multiple of its ulp
    cdef vec r = broadcast(1) / sum4.hi
    q[0] = quotient_pair(make_pair(broadcast(1), zero), sum4, r)
    u[0] = fast_two_sum(broadcast(1), broadcast(-8) * q.hi)
    u.lo = vfma(broadcast(-8), q.lo, u.lo)


cdef inline vec horner_of_mills(vec u) noexcept nogil:
    """All but the last two steps of Horner's rule."""
    return horner(u, MILLS_P + 2, MILLS_DEGREE - 2)


cdef inline pair finish_mills(pair q, pair u, vec inner) noexcept nogil:
    """M(x) from the results of the two functions above."""
    cdef pair step = two_product(u.hi, inner)
    cdef pair value = pair_two_sum(broadcast(MILLS_P[1]), step.hi)
    value.lo = (value.lo + broadcast(MILLS_LOW[1])) + vfma(u.lo, inner, step.lo)
    value = pair_product(value, u)
    step = pair_two_sum(broadcast(MILLS_P[0]), value.hi)
    step.lo = (step.lo + broadcast(MILLS_LOW[0])) + value.lo
    return pair_product(step, q)


cdef inline vec sin_and_cos(vec a, vec* cosine) noexcept nogil:
    """sin(a) and cos(a): a is reduced by multiples of pi/2 in four parts, or by integers from SIN_SMALL on.

    Error in ulp: sin 0.931, cos 0.917 in float32; sin 0.952, cos 0.998 in float64.
    Range: every finite a, to its last place. The sine of inf is NaN.
    """
    cdef vec magnitude = vabs(a)
    cdef vec n = vround(clamp(a, -SIN_SMALL, SIN_SMALL) * broadcast(<real>0.63661977236758134308))
    cdef pair r = pair_two_sum(vfma(-n, broadcast(PI_HALF[0]), a), -n * broadcast(PI_HALF[1]))  # both terms are exact
    cdef vec quarter = n - broadcast(4) * vround(n * broadcast(<real>0.25))  # -2..2
    cdef pair product = two_product(n, broadcast(PI_HALF[2]))
    cdef pair reduced = fast_two_sum(r.hi, r.lo - product.hi)
    cdef vec z, sine, odd, sign, result
    cdef pair c
    cdef int lane, quadrant
    cdef double whole, low
    reduced = fast_two_sum(reduced.hi, reduced.lo - vfma(n, broadcast(PI_HALF[3]), product.lo))
    if any_at_least(magnitude, SIN_SMALL):
        for lane in range(LANES):
            if get_lane(magnitude, lane) >= SIN_SMALL:
                quadrant = 0
                whole = get_lane(a, lane) - get_lane(a, lane)  # sin(inf) is NaN
                low = 0
                if whole == 0:
                    whole = reduce_large(get_lane(magnitude, lane), &quadrant, &low)
                if get_lane(a, lane) < 0:
                    whole = -whole
                    low = -low
                    quadrant = -quadrant & 3
                reduced.hi = set_lane(reduced.hi, lane, <real>whole)
                reduced.lo = set_lane(reduced.lo, lane, <real>((whole - <double><real>whole) + low))
                quarter = set_lane(quarter, lane, <real>(quadrant - 4 if quadrant > 2 else quadrant))
    z = reduced.hi * reduced.hi
    sine = reduced.hi + vfma(reduced.hi * z, poly(z, SIN_S, SIN_DEGREE), reduced.lo)
    c = fast_two_sum(broadcast(1), broadcast(<real>-0.5) * z)
    c.lo = c.lo + vfma(broadcast(<real>-0.5), vfma(reduced.hi, reduced.hi, -z), -reduced.hi * reduced.lo)
    cosine[0] = c.hi + vfma(z * z, poly(z, COS_C, COS_DEGREE), c.lo)
    # Quarter turns: sin goes to cos, -sin, -cos; an odd number swaps the two.
    odd = vabs(vabs(quarter) - broadcast(1))  # 0 for an odd quarter
    sign = where_less(quarter, broadcast(<real>-0.5), broadcast(-1), broadcast(1))
    result = where_less(odd, broadcast(<real>0.5), sign * cosine[0],
                        where_less(broadcast(<real>1.5), vabs(quarter), -sine, sine))
    cosine[0] = where_less(odd, broadcast(<real>0.5), -sign * sine,
                           where_less(broadcast(<real>1.5), vabs(quarter), -cosine[0], cosine[0]))
    return result
