# Elementary functions in vectors: exp, expm1, tanh, sigma, log1p, Phi, sin and what the activations make of them.
#
# A. One formula for all arguments, body and tail of a row alike, so that a value depends on its argument alone.
# B. exp(x) = 2^n (1 + m) with n = round(x / ln 2): the reduction and 1 + m are kept as pairs (hi + lo), and a quotient
#    gets one correction from its remainder. What is rounded is then close to the true value, and the error stays about
#    half an ulp above the last rounding; tools/numerics/ulp.py has the figures.
# C. Where exp(x) may be subnormal the power 2^n is applied last, once: `scale` rounds once.
# D. NaN passes through every clamp and comparison.

cdef extern from "elementary.h" nogil:
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

    /* 2^(n - BP_SHIFT) from the sum of n and BP_POWER_MAGIC: n + BP_BIAS - BP_SHIFT stands in its low bits. */
    static inline bp_vec bp_shifted_power(bp_vec sum) { return (bp_vec)((bp_ivec)sum << BP_MANTISSA); }
    """
    ctypedef struct pair "bp_pair":
        vec hi
        vec lo
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
    const real EXP_LOWEST "BP_EXP_LOWEST"
    const real EXP_HIGHEST "BP_EXP_HIGHEST"
    const real GELU_BOUND "BP_GELU_BOUND"
    const real GATE_BOUND_CUBIC "BP_GATE_BOUND_CUBIC"
    const real SOFTSIGN_BOUND "BP_SOFTSIGN_BOUND"
    const real LARGEST "BP_LARGEST"
    const real HUGE "BP_HUGE"
    const real SIN_SMALL "BP_SIN_SMALL"
    vec vround "bp_round"(vec v) noexcept
    vec round_product "bp_round_product"(vec a, real b) noexcept
    vec scale "bp_scale"(vec v, vec n) noexcept
    vec less_product "bp_less_product"(vec c, vec a, vec b) noexcept
    pair make_pair "bp_make_pair"(vec hi, vec lo) noexcept
    double reduce_large "bp_reduce_large"(double a, int* quadrant, double* low) noexcept
    double exp "bp_exp"(double x) noexcept
    void exp_differences "bp_exp_differences"(Py_ssize_t n, const real* a, double top, double* e) noexcept
    double log1p "bp_log1p"(double t) noexcept
    const real UNSHIFT "BP_UNSHIFT"          # 2^-SHIFT, with which exp(-EXP_LOWEST) and its inverse are normal numbers
    const real POWER_MAGIC "BP_POWER_MAGIC"
    const real GATE_BOUND "BP_GATE_BOUND"    # sigma(x) is 1, and 2^-SHIFT exp(-x) normal
    const real TANH_TINY "BP_TANH_TINY"      # below it tanh(x) is x to a sixth of an ulp
    vec shifted_power "bp_shifted_power"(vec total) noexcept
    vec at_least "bp_at_least"(real bound, vec v) noexcept
    vec at_most "bp_at_most"(real bound, vec v) noexcept


cdef inline vec poly(vec x, const real* c, const int degree) noexcept nogil:
    """sum_i c[i] x^i: Horner's rule in x^2 for the even and the odd terms, two chains that run side by side.

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
    """The same by Horner's rule: slower, and closer where |x| nears 1."""
    cdef vec value = broadcast(c[degree])
    cdef int i
    for i in range(degree - 1, -1, -1):
        value = vfma(value, x, broadcast(c[i]))
    return value


cdef inline pair fast_two_sum(vec a, vec b) noexcept nogil:
    """a + b exactly, for |a| >= |b| (Dekker)."""
    cdef vec hi = a + b
    return make_pair(hi, b - (hi - a))


cdef inline pair pair_two_sum(vec a, vec b) noexcept nogil:
    """a + b exactly (Knuth)."""
    cdef vec hi = a + b
    cdef vec b_part = hi - a
    return make_pair(hi, (a - (hi - b_part)) + (b - b_part))


cdef inline pair two_product(vec a, vec b) noexcept nogil:
    """a b exactly, where the error does not underflow."""
    cdef vec hi = a * b
    return make_pair(hi, -less_product(hi, a, b))


cdef inline pair pair_product(pair a, pair b) noexcept nogil:
    """a b, to about twice the digits."""
    cdef pair p = two_product(a.hi, b.hi)
    return make_pair(p.hi, vfma(a.hi, b.lo, vfma(a.lo, b.hi, p.lo)))


cdef inline pair pair_plus(vec a, pair b) noexcept nogil:
    """a + b, for |a| >= |b.hi|."""
    cdef pair p = fast_two_sum(a, b.hi)
    return make_pair(p.hi, p.lo + b.lo)


cdef inline pair pair_sum(pair a, pair b) noexcept nogil:
    """a + b."""
    cdef pair p = pair_two_sum(a.hi, b.hi)
    return make_pair(p.hi, p.lo + (a.lo + b.lo))


cdef inline pair pair_scale(pair a, vec n) noexcept nogil:
    """a 2^n."""
    return make_pair(scale(a.hi, n), scale(a.lo, n))


cdef inline pair pair_where_less(vec a, vec b, pair x, pair y) noexcept nogil:
    """a < b ? x : y."""
    return make_pair(where_less(a, b, x.hi, y.hi), where_less(a, b, x.lo, y.lo))


cdef inline vec remainder(vec q, pair numerator, pair denominator) noexcept nogil:
    """numerator - q denominator."""
    return less_product(numerator.hi, q, denominator.hi) + vfma(-q, denominator.lo, numerator.lo)


cdef inline vec quotient(pair numerator, pair denominator, vec reciprocal) noexcept nogil:
    """numerator / denominator from an approximate reciprocal, corrected by the remainder."""
    cdef vec q = numerator.hi * reciprocal
    return vfma(remainder(q, numerator, denominator), reciprocal, q)


cdef inline pair quotient_pair(pair numerator, pair denominator, vec reciprocal) noexcept nogil:
    """The same before its last rounding."""
    cdef vec q = numerator.hi * reciprocal
    return make_pair(q, remainder(q, numerator, denominator) * reciprocal)


cdef inline vec over_square(pair numerator, pair d, vec r) noexcept nogil:
    """numerator / d^2 from r = 1/d, rounded. Without the pair d^2 it is four operations less and 2 ulp off."""
    cdef pair d2 = two_product(d.hi, d.hi)
    d2.lo = vfma(d.hi + d.hi, d.lo, d2.lo)
    return quotient(numerator, d2, r * r)


# exp -----------------------------------------------------------------------------------------------------------------

cdef inline pair exp_minus_one_reduced(pair x, vec* n) noexcept nogil:
    """m with exp(x) = 2^n (1 + m), |m| <= 0.42; x, below EXP_HIGHEST, is clamped to where exp is 0."""
    cdef vec bounded = at_least(EXP_LOWEST, x.hi)
    cdef vec r
    n[0] = round_product(bounded, LOG2_E)
    r = vfma(n[0], broadcast(-LN2[0]), bounded)  # exact: LN2[0] leaves room for the bits of n
    r = r + vfma(n[0], broadcast(-LN2[1]), x.lo)
    return fast_two_sum(r, r * r * poly(r, EXP_Q, EXP_DEGREE))


cdef inline pair exp_reduced(pair x, vec* n) noexcept nogil:
    """p in [0.7, 1.42] with exp(x) = 2^n p."""
    return pair_plus(broadcast(1), exp_minus_one_reduced(x, n))


cdef inline vec exp_rounded(vec x) noexcept nogil:
    """exp(x)."""
    cdef vec n
    cdef pair p = exp_reduced(make_pair(at_most(EXP_HIGHEST, x), broadcast(0)), &n)
    return scale(p.hi + p.lo, n)


cdef inline pair expm1_pair(pair m, vec n) noexcept nogil:
    """2^n (1 + m) - 1, for n <= 0: m itself where n is 0."""
    cdef vec one = broadcast(1)
    cdef vec power = scale(one, n)
    cdef vec less_one = power - one
    cdef vec lost = power - (less_one + one)
    cdef vec high = vfma(power, m.hi, less_one)
    return make_pair(high, vfma(power, m.hi, less_one - high) + vfma(power, m.lo, lost))


# 1/(1 + exp(y)): the sigmoid family -----------------------------------------------------------------------------------
#
# sigma(x) = 1/(1 + exp(-x)) has one form for both signs, whose denominator grows in the tail: nothing has to be chosen
# by the sign of x, no product p 2^n has to be kept apart, and 2^n is a shift of bits. All of it is scaled by 2^-SHIFT:
# the denominator does not overflow where its inverse is subnormal, and the last product with 2^-SHIFT rounds once.

cdef struct Growth:
    vec power                # exp(y) = 2^SHIFT power (1 + r + q)
    vec r
    vec q
    vec m                    # r + q, rounded
    vec low                  # what r lost in its last rounding


cdef inline Growth growth(vec x, vec low, const int sign, const bint has_low) noexcept nogil:
    """exp(sign (x + low)), x within the bounds; sign is 1 or -1."""
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
    e.q = e.r * e.r * poly(e.r, EXP_Q, EXP_DEGREE)
    e.m = e.r + e.q
    return e


cdef inline pair one_plus(const Growth* e) noexcept nogil:
    """2^-SHIFT (1 + exp(y)). (power - d) + 1 loses nothing that counts: it is exact, or power is far above 1."""
    cdef vec one = broadcast(UNSHIFT)
    cdef vec d = vfma(e.power, e.m, e.power + one)
    return make_pair(d, vfma(e.power, e.q, vfma(e.power, e.r, (e.power - d) + one)))


cdef inline vec excess(vec r, pair d) noexcept nogil:
    """r d - 1: r - r excess is 1/d."""
    return vfma(r, d.lo, -less_product(broadcast(1), r, d.hi))


cdef inline vec gated(vec a, vec bounded, pair x, pair v, const bint has_low, vec* g_prime) noexcept nogil:
    """a sigma(x) and sigma(x) (1 + v sigma(-x)), v = a x'(a): silu (x = v = a, without low parts) and gelu_tanh.

    bounded is a, clamped to where sigma(x) is 0 or 1 and x and v are finite.
    Left of 0 the bracket is (1 + v) - v sigma(x), right of it sigma(-x) = exp(-x) sigma(x): nothing cancels but the
    bracket at the zero of g'.
    """
    cdef vec zero = broadcast(0)
    cdef Growth e = growth(x.hi, x.lo, -1, has_low)
    cdef pair d = one_plus(&e)
    cdef vec r = broadcast(1) / d.hi
    cdef vec low = r * excess(r, d)                                                  # r - low is 2^SHIFT sigma(x)
    cdef vec sigma = r - low
    cdef vec other = where_less(a, zero, sigma * broadcast(-UNSHIFT), vfma(e.power, e.m, e.power) * sigma)
    cdef pair bracket = make_pair(broadcast(1) + where_less(a, zero, v.hi, zero), zero)
    if has_low:
        bracket = fast_two_sum(bracket.hi, vfma(v.hi, other, where_less(a, zero, v.lo, zero)))
        bracket.lo = vfma(bracket.lo, r, -(bracket.hi * low))
    else:
        bracket.hi = vfma(v.hi, other, bracket.hi)
        bracket.lo = -(bracket.hi * low)
    g_prime[0] = vfma(bracket.hi, r, bracket.lo) * broadcast(UNSHIFT)
    return where_less(bounded, a, a, vfma(bounded, r, -(bounded * low)) * broadcast(UNSHIFT))


# t = exp(-|x|), for mish ----------------------------------------------------------------------------------------------

cdef struct Exponential:
    pair p                   # exp(-|x|) = 2^n p
    vec n
    pair t                   # exp(-|x|); may be subnormal, so that 2^n p is the better form in a product
    pair d                   # 1 + t


cdef inline Exponential exponential(pair minus_magnitude) noexcept nogil:
    """t = exp(minus_magnitude), for an argument <= 0, with 1 + t."""
    cdef Exponential e
    e.p = exp_reduced(minus_magnitude, &e.n)
    e.t = pair_scale(e.p, e.n)
    e.d = pair_plus(broadcast(1), e.t)
    return e


cdef inline pair minus_abs(vec x) noexcept nogil:
    return make_pair(-vabs(x), broadcast(0))


# Phi and the sine ----------------------------------------------------------------------------------------------------

cdef inline pair mills(vec x) noexcept nogil:
    """M(x) = Phi(-x)/phi(x), x >= 0: a polynomial in u = (x - 4)/(x + 4), over x + 4; Cody 1969 has the substitution.

    The last two steps of Horner's rule, their coefficients, u and the quotient are pairs.
    """
    cdef vec zero = broadcast(0)
    cdef pair sum4 = fast_two_sum(broadcast(4), x)  # exact for x > 4 too: x + 4 and 4 differ by a multiple of its ulp
    cdef vec r = broadcast(1) / sum4.hi
    cdef pair q = quotient_pair(make_pair(broadcast(1), zero), sum4, r)
    cdef pair u = fast_two_sum(broadcast(1), broadcast(-8) * q.hi)
    cdef vec inner = horner(u.hi, MILLS_P + 2, MILLS_DEGREE - 2)
    cdef pair step, value
    u.lo = vfma(broadcast(-8), q.lo, u.lo)
    step = two_product(u.hi, inner)
    value = pair_two_sum(broadcast(MILLS_P[1]), step.hi)
    value.lo = (value.lo + broadcast(MILLS_LOW[1])) + vfma(u.lo, inner, step.lo)
    value = pair_product(value, u)
    step = pair_two_sum(broadcast(MILLS_P[0]), value.hi)
    step.lo = (step.lo + broadcast(MILLS_LOW[0])) + value.lo
    return pair_product(step, q)


cdef inline vec sin_and_cos(vec a, vec* cosine) noexcept nogil:
    """sin(a) and cos(a): a is reduced by multiples of pi/2 in four parts, or by integers where it is large."""
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
