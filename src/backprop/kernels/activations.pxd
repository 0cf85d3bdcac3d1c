# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The activations, h = g(a) and g'(a): one function for each, in vectors.
# Needs: elementary, pairs, softmax, vector.
# Gives: the table's activate; `Parameters` and `between` for g''.
#
# g' never comes from h: 1 - h^2 and s (1 - s) lose every digit in the tails. Each function forms g' from the
# exponential that g needs anyway, t = exp(-|a|) or a similar one. At kinks g' is PyTorch's; activations.py lists the
# kinks. NaN in gives NaN out: `where_less` takes its last argument if a NaN is compared.
#
# A function takes a and its parameters (IN), returns h and writes g' (OUT). If only h is wanted, the compiler drops
# what only g' needs. The range of each function is every a, from -inf to inf. "Error in ulp" is explained in
# elementary.pxd, E. In brackets stands the absolute error near a zero of g', in u = 2^-24 (float32) or 2^-53 (float64).

from backprop.kernels.table cimport (
    ELU, EXP, GELU, GELU_TANH, HARDSIGMOID, HARDSWISH, HARDTANH, IDENTITY, LEAKY_RELU, MISH, RELU, RELU6, SELU, SIGMOID,
    SILU, SIN, SOFTPLUS, SOFTSIGN, TANH,
)
from backprop.kernels.vector cimport (
    LANES, at_most, broadcast, clamp, load_first, real, store_first, vabs, vec, vfma, where_equal, where_less,
    with_sign,
)
from backprop.kernels.pairs cimport (
    make_pair, over_square, pair, pair_of, pair_plus, pair_product, pair_scale, pair_sum, pair_two_sum, pair_where_less,
    quotient, quotient_pair, scale, two_product,
)
from backprop.kernels.elementary cimport (
    ATANH_DEGREE, ATANH_P, CUBIC, EXP_LOWEST, Exponential, GATE_BOUND, GATE_BOUND_CUBIC, GELU_BOUND, Growth, HUGE,
    INV_SQRT_2PI, LARGEST, SELU_ALPHA_SCALE, SELU_SCALE, SOFTSIGN_BOUND, SQRT_8_OVER_PI, TANH_TINY, UNSHIFT, excess,
    exp_minus_one_reduced, exp_reduced, exp_rounded, expm1_pair, exponential, gated, growth, mills, minus_abs, one_plus,
    poly, sin_and_cos,
)
from backprop.kernels.softmax cimport softmax_row

cdef struct Parameters:
    pair scale
    pair alpha               # slope of leaky_relu; alpha times scale of elu and selu

ctypedef vec (*ActivationFunction)(vec a, const Parameters* p, vec* g_prime) noexcept nogil


cdef inline vec between(vec a, real low, real high, vec inside, vec below, vec above) noexcept nogil:
    """`below` if a <= low, `above` if a >= high, else `inside`, which must hand on a NaN."""
    inside = where_less(broadcast(low), a, inside, where_equal(a, a, below, a))
    return where_less(a, broadcast(high), inside, where_equal(a, a, above, a))


cdef inline vec g_identity(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """a and 1."""
    g_prime[0] = where_equal(a, a, broadcast(1), a)
    return a


cdef inline vec g_relu(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """max(a, 0)."""
    cdef vec zero = broadcast(0)
    g_prime[0] = where_less(zero, a, broadcast(1), where_equal(a, a, zero, a))
    return where_less(a, zero, zero, a)


cdef inline vec g_leaky_relu(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """a right of 0, alpha a left of it. The product with alpha is rounded once."""
    cdef vec zero = broadcast(0)
    g_prime[0] = where_less(zero, a, broadcast(1), where_equal(a, a, p.alpha.hi, a))
    return where_less(zero, a, a, vfma(p.alpha.hi, a, p.alpha.lo * clamp(a, -LARGEST, LARGEST)))


cdef inline vec g_elu(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """scale (a if a > 0 else alpha (exp(a) - 1)): elu with scale 1, and selu.

    Error in ulp, elu: g 0.952, g' 0.797 in float32; g 0.948, g' 0.776 in float64.
    Error in ulp, selu: g 1.000, g' 0.804 in float32; g 0.971, g' 0.807 in float64.
    """
    cdef vec zero = broadcast(0)
    cdef vec n
    cdef pair m = exp_minus_one_reduced(make_pair(where_less(zero, a, zero, a), zero), &n)
    cdef pair negative = pair_product(expm1_pair(m, n), p.alpha)
    cdef pair positive = pair_product(make_pair(clamp(a, -HUGE, HUGE), zero), p.scale)
    cdef pair slope = pair_product(pair_plus(broadcast(1), m), p.alpha)
    g_prime[0] = where_less(zero, a, p.scale.hi, scale(slope.hi + slope.lo, n))
    # One rounding: a p.scale.hi alone may overflow although the product does not.
    return where_less(broadcast(HUGE), a, vfma(a, p.scale.hi, clamp(a, -LARGEST, LARGEST) * p.scale.lo),
                      where_less(zero, a, positive.hi + positive.lo, negative.hi + negative.lo))


cdef inline vec g_gelu(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """a Phi(a). Phi(-x) = phi(x) M(x) with the Mills ratio M; Phi(x) = 1 - Phi(-x).

    g' = Phi(a) + a phi(a). With x = |a| this is phi (M - x) left of 0 (M - x vanishes only at the zero of g'), and
    1 - phi (M - x) right of 0.

    Error in ulp: g 1.278, g' 1.374 (0.28 u) in float32; g 1.091, g' 1.151 (0.21 u) in float64.
    """
    cdef vec zero = broadcast(0)
    cdef vec x = clamp(vabs(a), 0, GELU_BOUND)
    cdef vec bounded = where_less(a, broadcast(-GELU_BOUND), broadcast(-GELU_BOUND), a)
    cdef pair square = two_product(x, x)
    cdef vec n
    cdef pair phi = exp_reduced(make_pair(broadcast(<real>-0.5) * square.hi, broadcast(<real>-0.5) * square.lo), &n)
    cdef pair ratio = mills(x)
    cdef pair tail, slope, right
    phi = pair_product(phi, make_pair(broadcast(INV_SQRT_2PI[0]), broadcast(INV_SQRT_2PI[1])))
    tail = pair_product(phi, ratio)                                                  # 2^n tail = Phi(-x)
    slope = pair_product(phi, pair_sum(ratio, make_pair(-x, zero)))                  # 2^n slope = g'(-x)
    slope.hi = scale(slope.hi + slope.lo, n)
    g_prime[0] = where_less(a, zero, slope.hi, broadcast(1) - slope.hi)
    right = pair_scale(tail, n)
    right = pair_plus(broadcast(1), make_pair(-right.hi, -right.lo))
    right = pair_where_less(a, zero, tail, right)
    return where_less(x, broadcast(GELU_BOUND), scale(vfma(bounded, right.hi, bounded * right.lo),
                                                      where_less(a, zero, n, zero)), where_less(a, zero, -zero, a))


cdef inline vec g_gelu_tanh(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """a sigma(2u), 2u = sqrt(8/pi) (a + 0.044715 a^3). The form with tanh, 1 + tanh(u), cancels for negative a.

    Error in ulp: g 1.117, g' 1.999 (0.44 u) in float32; g 0.889, g' 1.955 (0.38 u) in float64.
    """
    cdef vec bounded = clamp(a, -GATE_BOUND_CUBIC, GATE_BOUND_CUBIC)
    cdef pair square = two_product(bounded, bounded)
    cdef pair cubic = pair_product(square, make_pair(broadcast(CUBIC[0]), broadcast(CUBIC[1])))
    cdef pair argument = two_product(bounded, broadcast(SQRT_8_OVER_PI[0]))
    cdef pair slope = pair_plus(broadcast(1), make_pair(broadcast(3) * cubic.hi, broadcast(3) * cubic.lo))
    argument.lo = vfma(bounded, broadcast(SQRT_8_OVER_PI[1]), argument.lo)
    slope = pair_product(argument, slope)                                            # a times the slope of 2u
    argument = pair_product(argument, pair_plus(broadcast(1), cubic))
    argument.hi = clamp(argument.hi, EXP_LOWEST, GATE_BOUND)
    return gated(a, bounded, argument, slope, True, g_prime)


cdef inline vec g_silu(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """a sigma(a).

    Error in ulp: g 0.920, g' 1.715 (0.20 u) in float32; g 0.833, g' 1.719 (0.20 u) in float64.
    """
    cdef pair bounded = make_pair(clamp(a, EXP_LOWEST, GATE_BOUND), broadcast(0))
    return gated(a, bounded.hi, bounded, bounded, False, g_prime)


cdef inline vec g_mish(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """a w, w = tanh(log1p(e^a)) = e (e + 2)/(e (e + 2) + 2), and w + a w' with w' = 4 e (1 + e)/(e (e + 2) + 2)^2.

    Right of 0 both are ratios in t = exp(-a) instead: (1 + 2t)/(1 + 2t + 2t^2) and 4 t^2 (1 + t)/(1 + 2t + 2t^2)^2.

    Error in ulp: g 0.897, g' 0.908 (0.02 u) in float32; g 0.857, g' 1.042 (0.03 u) in float64.
    """
    cdef vec zero = broadcast(0)
    cdef vec bounded = clamp(a, EXP_LOWEST, -EXP_LOWEST)
    cdef Exponential e = exponential(minus_abs(bounded))
    cdef vec n = where_less(a, zero, e.n, zero)
    cdef pair t2 = make_pair(e.t.hi + e.t.hi, e.t.lo + e.t.lo)
    cdef pair plus2 = pair_plus(broadcast(2), e.t)
    # Left of 0 the numerator is 2^n p (t + 2), right of it 1 + 2t; the denominator adds 2, or 2t^2.
    cdef pair one = make_pair(broadcast(1), zero)
    cdef pair numerator = pair_where_less(a, zero, pair_product(e.p, plus2), pair_sum(one, t2))
    cdef pair added = pair_where_less(a, zero, make_pair(broadcast(2), zero), pair_product(t2, e.t))
    cdef pair denominator = pair_sum(pair_scale(numerator, n), added)
    cdef vec r = broadcast(1) / denominator.hi
    cdef pair gate = quotient_pair(numerator, denominator, r)
    # g' = [numerator denominator + 4a e (1 + e)] / denominator^2, or with 4a t^2 (1 + t); 2^n p is taken out.
    cdef pair curve = pair_product(make_pair(broadcast(4) * bounded, zero), e.d)
    cdef pair left = pair_product(e.p, pair_sum(pair_product(plus2, denominator), curve))
    cdef pair right = pair_sum(pair_product(numerator, denominator), pair_product(curve, pair_product(e.t, e.t)))
    cdef pair slope = pair_where_less(a, zero, left, right)
    g_prime[0] = scale(over_square(slope, denominator, r), n)
    return where_less(bounded, a, a, scale(vfma(bounded, gate.hi, bounded * gate.lo), n))


cdef inline vec g_softplus(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """max(a, 0) + log1p(t), t = exp(-|a|). log1p(t) = 2 atanh(s), s = t/(2 + t) = 1/(1 + 2 exp(|a|)). g' = sigma(a).

    Error in ulp: g 0.815, g' 0.815 in float32; g 0.922, g' 0.834 in float64.
    """
    cdef vec zero = broadcast(0)
    cdef Growth e = growth(at_most(-EXP_LOWEST, vabs(a)), zero, 1, False)
    cdef pair d = one_plus(&e)
    cdef vec r = broadcast(1) / d.hi
    cdef vec c = vfma(-r, excess(r, d), r)
    cdef vec z, low
    cdef pair total
    g_prime[0] = where_less(a, zero, c * broadcast(UNSHIFT), vfma(c, broadcast(-UNSHIFT), broadcast(1)))
    e.power = e.power + e.power
    d = one_plus(&e)
    r = broadcast(1) / d.hi                                                          # near 2^SHIFT s
    z = r * broadcast(UNSHIFT)
    z = z * z
    low = r * excess(r, d)
    low = vfma(r * z, poly(z, ATANH_P, ATANH_DEGREE), -vfma(low, z, low))            # 1/(1 - z) is near 1 + z
    total = pair_two_sum(where_less(a, zero, zero, a) * broadcast(1 / UNSHIFT), r + r)
    return where_less(broadcast(-EXP_LOWEST), a, a, (total.hi + vfma(broadcast(2), low, total.lo)) * broadcast(UNSHIFT))


cdef inline vec g_softsign(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """a/(1 + |a|); g' = 1/(1 + |a|)^2.

    Error in ulp: g 0.500, g' 1.925 in float32; g 0.500, g' 1.906 in float64.
    """
    cdef vec x = vabs(a)
    cdef vec bounded = clamp(x, 0, SOFTSIGN_BOUND)
    cdef pair d = pair_two_sum(broadcast(1), bounded)
    cdef vec r = broadcast(1) / d.hi
    cdef vec h = quotient(make_pair(bounded, broadcast(0)), d, r)
    cdef vec far = broadcast(1) / (broadcast(1) + x)
    r = where_less(x, broadcast(SOFTSIGN_BOUND), quotient(make_pair(broadcast(1), broadcast(0)), d, r), far)
    g_prime[0] = r * r
    return with_sign(h, a)


cdef inline vec g_tanh(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """(d - 2)/d with d = 1 + exp(2|a|); a itself near 0, where 2^-SHIFT 2a underflows. g' = 4 (c - c^2), c = 1/d.

    Error in ulp: g 0.855, g' 1.480 in float32; g 0.981, g' 1.446 in float64.
    """
    cdef vec x = vabs(a)
    cdef Growth e = growth(at_most(-EXP_LOWEST, x + x), broadcast(0), 1, False)
    cdef pair d = one_plus(&e)
    cdef vec r = broadcast(1) / d.hi
    cdef vec two = broadcast(2 * UNSHIFT)
    cdef vec numerator = d.hi - two
    cdef vec low
    d.lo = vfma(e.power, e.low, d.lo)  # without it, half an ulp more if d - 2 cancels
    low = d.lo + ((d.hi - numerator) - two)  # d - 2 is rounded if the last place of d is 4
    cdef vec q = numerator * r
    cdef vec c = vfma(-r, excess(r, d), r)
    g_prime[0] = vfma(-c, c * broadcast(UNSHIFT), c) * broadcast(4 * UNSHIFT)
    q = vfma(-(vfma(q, d.hi, -numerator) + vfma(q, d.lo, -low)), r, q)
    return where_less(x, broadcast(TANH_TINY), a, with_sign(q, a))


cdef inline vec g_sigmoid(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """c = 1/(1 + exp(|a|)) left of 0, 1 - c right of it. g' = c - c^2.

    Error in ulp: g 0.815, g' 1.480 in float32; g 0.834, g' 1.485 in float64.
    """
    cdef Growth e = growth(at_most(-EXP_LOWEST, vabs(a)), broadcast(0), 1, False)
    cdef pair d = one_plus(&e)
    cdef vec r = broadcast(1) / d.hi
    cdef vec shifted = vfma(-r, excess(r, d), r)
    cdef vec c = shifted * broadcast(UNSHIFT)
    g_prime[0] = vfma(-shifted, c, shifted) * broadcast(UNSHIFT)
    return where_less(a, broadcast(0), c, vfma(shifted, broadcast(-UNSHIFT), broadcast(1)))


cdef inline vec g_hardtanh(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """a, clamped to -1..1."""
    g_prime[0] = between(a, -1, 1, broadcast(1), broadcast(0), broadcast(0))
    return clamp(a, -1, 1)


cdef inline vec sixth(pair a) noexcept nogil:
    """a / 6, rounded once."""
    cdef vec six = broadcast(6)
    return quotient(a, make_pair(six, broadcast(0)), broadcast(1) / six)


cdef inline vec g_hardsigmoid(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """(a + 3)/6, clamped to 0..1.

    Error in ulp: g 0.500, g' 0.333 in float32; g 0.500, g' 0.333 in float64.
    """
    g_prime[0] = between(a, -3, 3, broadcast(1) / broadcast(6), broadcast(0), broadcast(0))
    return between(a, -3, 3, sixth(pair_two_sum(a, broadcast(3))), broadcast(0), broadcast(1))


cdef inline vec g_hardswish(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """a (a + 3)/6 from -3 to 3, 0 left of it, a right of it.

    Error in ulp: g 0.500, g' 0.500 in float32; g 0.500, g' 0.500 in float64.
    """
    cdef pair product = pair_product(make_pair(a, broadcast(0)), pair_two_sum(a, broadcast(3)))
    g_prime[0] = between(a, -3, 3, sixth(pair_two_sum(a + a, broadcast(3))), broadcast(0), broadcast(1))
    return between(a, -3, 3, sixth(product), broadcast(0), a)


cdef inline vec g_relu6(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """a, clamped to 0..6."""
    g_prime[0] = between(a, 0, 6, broadcast(1), broadcast(0), broadcast(0))
    return clamp(a, 0, 6)


cdef inline vec g_sin(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """sin(a) and cos(a): `sin_and_cos` has the error and the range."""
    return sin_and_cos(a, g_prime)


cdef inline vec g_exp(vec a, const Parameters* p, vec* g_prime) noexcept nogil:
    """exp(a), which is g' too: `exp_rounded` has the error and the range."""
    g_prime[0] = exp_rounded(a)
    return g_prime[0]


cdef inline void over_rows(const ActivationFunction g, const Parameters* p, Py_ssize_t n_rows, Py_ssize_t n,
                           real* a,                                             # IN; OUT too with with_prime
                           real* h,                                             # OUT
                           Py_ssize_t ld, const bint with_prime) noexcept nogil:
    """h = g(a) for a tile; a becomes g'(a) if with_prime is set. g is a constant, so it is inlined."""
    cdef Py_ssize_t _s, j
    cdef vec g_prime
    for _s in range(n_rows):
        j = 0
        while j < n:
            store_first(h + j, g(load_first(a + j, n - j), p, &g_prime), n - j)
            if with_prime:
                store_first(a + j, g_prime, n - j)
            j += LANES
        a += ld
        h += ld


cdef inline void over_tile(const ActivationFunction g, const Parameters* p, Py_ssize_t n_rows, Py_ssize_t n,
                           real* a, real* h, Py_ssize_t ld, bint with_prime) noexcept nogil:
    """`over_rows` with with_prime turned into a constant."""
    if with_prime:
        over_rows(g, p, n_rows, n, a, h, ld, True)
    else:
        over_rows(g, p, n_rows, n, a, h, ld, False)


cdef inline void g_of_rows(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n,
                           void* a_,                                            # IN; OUT too with with_prime
                           void* h_,                                            # OUT
                           Py_ssize_t ld, bint with_prime) noexcept nogil:
    """h = g(a); with with_prime a becomes g'(a), which the backward sweep needs at that very place."""
    cdef real* a = <real*>a_
    cdef real* h = <real*>h_
    cdef Parameters p
    cdef Py_ssize_t s
    p.scale = pair_of(1)
    p.alpha = pair_of(parameter)
    if code == SELU:
        p.scale = make_pair(broadcast(SELU_SCALE[0]), broadcast(SELU_SCALE[1]))
        p.alpha = make_pair(broadcast(SELU_ALPHA_SCALE[0]), broadcast(SELU_ALPHA_SCALE[1]))
    if code == IDENTITY:
        over_tile(g_identity, &p, n_rows, n, a, h, ld, with_prime)
    elif code == RELU:
        over_tile(g_relu, &p, n_rows, n, a, h, ld, with_prime)
    elif code == LEAKY_RELU:
        over_tile(g_leaky_relu, &p, n_rows, n, a, h, ld, with_prime)
    elif code == ELU or code == SELU:
        over_tile(g_elu, &p, n_rows, n, a, h, ld, with_prime)
    elif code == GELU:
        over_tile(g_gelu, &p, n_rows, n, a, h, ld, with_prime)
    elif code == GELU_TANH:
        over_tile(g_gelu_tanh, &p, n_rows, n, a, h, ld, with_prime)
    elif code == SILU:
        over_tile(g_silu, &p, n_rows, n, a, h, ld, with_prime)
    elif code == MISH:
        over_tile(g_mish, &p, n_rows, n, a, h, ld, with_prime)
    elif code == SOFTPLUS:
        over_tile(g_softplus, &p, n_rows, n, a, h, ld, with_prime)
    elif code == SOFTSIGN:
        over_tile(g_softsign, &p, n_rows, n, a, h, ld, with_prime)
    elif code == TANH:
        over_tile(g_tanh, &p, n_rows, n, a, h, ld, with_prime)
    elif code == SIGMOID:
        over_tile(g_sigmoid, &p, n_rows, n, a, h, ld, with_prime)
    elif code == HARDTANH:
        over_tile(g_hardtanh, &p, n_rows, n, a, h, ld, with_prime)
    elif code == HARDSIGMOID:
        over_tile(g_hardsigmoid, &p, n_rows, n, a, h, ld, with_prime)
    elif code == HARDSWISH:
        over_tile(g_hardswish, &p, n_rows, n, a, h, ld, with_prime)
    elif code == RELU6:
        over_tile(g_relu6, &p, n_rows, n, a, h, ld, with_prime)
    elif code == SIN:
        over_tile(g_sin, &p, n_rows, n, a, h, ld, with_prime)
    elif code == EXP:
        over_tile(g_exp, &p, n_rows, n, a, h, ld, with_prime)
    else:
        for s in range(n_rows):
            softmax_row(n, a + s * ld, h + s * ld)
