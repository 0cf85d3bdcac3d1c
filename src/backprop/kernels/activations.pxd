# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The activations, h = g(a) and g'(a): one function for each, in vectors. The longer ones stand in staged.pxd.
# Needs: elementary, pairs, softmax, staged, stages, vector.
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
    ELU, GELU, GELU_TANH, HARDSIGMOID, HARDSWISH, HARDTANH, IDENTITY, LEAKY_RELU, MISH, RELU, RELU6, SELU, SIGMOID,
    SILU, SIN, SOFTMAX, SOFTPLUS, SOFTSIGN, TANH,
)
from backprop.kernels.vector cimport broadcast, clamp, real, vabs, vec, vfma, where_equal, where_less, with_sign
from backprop.kernels.pairs cimport make_pair, pair, pair_of, pair_plus, pair_product, pair_two_sum, quotient, scale
from backprop.kernels.elementary cimport (
    HUGE, LARGEST, SELU_ALPHA_SCALE, SELU_SCALE, SOFTSIGN_BOUND, exp_minus_one_reduced, exp_rounded, expm1_pair,
    sin_and_cos,
)
from backprop.kernels.stages cimport (
    BLOCK, FirstStage, Function, LastStage, MiddleStages, Parameters, SHORT_BLOCK, over_rows, over_stages,
)
from backprop.kernels.softmax cimport softmax_rows
from backprop.kernels.staged cimport (
    divide_gelu_tanh, divide_growth, divide_softplus, g_gelu, g_gelu_tanh, g_mish, g_sigmoid, g_silu, g_softplus,
    g_tanh, gate_of_mish, start_gelu, start_gelu_tanh, start_mish, start_sigmoid, start_silu, start_tanh, tails_of_gelu,
)


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


cdef inline void at_once(const Function g, const Parameters* p, Py_ssize_t n_rows, Py_ssize_t n,
                         real* a, real* h, Py_ssize_t ld, bint with_prime) noexcept nogil:
    """`over_rows` with with_prime turned into a constant."""
    if with_prime:
        over_rows(g, p, n_rows, n, a, h, ld, True)
    else:
        over_rows(g, p, n_rows, n, a, h, ld, False)


cdef inline void in_stages(const Py_ssize_t n_block, const FirstStage first, const MiddleStages middle,
                           const LastStage last, Py_ssize_t n_rows, Py_ssize_t n,
                           real* a, real* h, Py_ssize_t ld, bint with_prime) noexcept nogil:
    """`over_stages` with with_prime turned into a constant."""
    if with_prime:
        over_stages(n_block, first, middle, last, n_rows, n, a, h, ld, True)
    else:
        over_stages(n_block, first, middle, last, n_rows, n, a, h, ld, False)


cdef inline void g_of_rows(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n,
                           void* a_,                                            # IN; OUT too with with_prime
                           void* h_,                                            # OUT
                           Py_ssize_t ld, bint with_prime) noexcept nogil:
    """h = g(a); with with_prime a becomes g'(a), which the backward sweep needs at that very place."""
    cdef real* a = <real*>a_
    cdef real* h = <real*>h_
    cdef Parameters p
    if code == SOFTMAX:
        softmax_rows(n_rows, n, a, h, ld)
        return
    if ld == n:
        n = n * n_rows  # rows without gaps are one long row
        n_rows = 1
    p.scale = pair_of(1)
    p.alpha = pair_of(parameter)
    if code == SELU:
        p.scale = make_pair(broadcast(SELU_SCALE[0]), broadcast(SELU_SCALE[1]))
        p.alpha = make_pair(broadcast(SELU_ALPHA_SCALE[0]), broadcast(SELU_ALPHA_SCALE[1]))
    if code == IDENTITY:
        at_once(g_identity, &p, n_rows, n, a, h, ld, with_prime)
    elif code == RELU:
        at_once(g_relu, &p, n_rows, n, a, h, ld, with_prime)
    elif code == LEAKY_RELU:
        at_once(g_leaky_relu, &p, n_rows, n, a, h, ld, with_prime)
    elif code == ELU or code == SELU:
        at_once(g_elu, &p, n_rows, n, a, h, ld, with_prime)
    elif code == GELU:
        in_stages(BLOCK, start_gelu, tails_of_gelu, g_gelu, n_rows, n, a, h, ld, with_prime)
    elif code == GELU_TANH:
        in_stages(SHORT_BLOCK, start_gelu_tanh, divide_gelu_tanh, g_gelu_tanh, n_rows, n, a, h, ld, with_prime)
    elif code == SILU:
        in_stages(SHORT_BLOCK, start_silu, divide_growth, g_silu, n_rows, n, a, h, ld, with_prime)
    elif code == MISH:
        in_stages(BLOCK, start_mish, gate_of_mish, g_mish, n_rows, n, a, h, ld, with_prime)
    elif code == SOFTPLUS:
        in_stages(SHORT_BLOCK, start_sigmoid, divide_softplus, g_softplus, n_rows, n, a, h, ld, with_prime)
    elif code == SOFTSIGN:
        at_once(g_softsign, &p, n_rows, n, a, h, ld, with_prime)
    elif code == TANH:
        in_stages(SHORT_BLOCK, start_tanh, divide_growth, g_tanh, n_rows, n, a, h, ld, with_prime)
    elif code == SIGMOID:
        in_stages(SHORT_BLOCK, start_sigmoid, divide_growth, g_sigmoid, n_rows, n, a, h, ld, with_prime)
    elif code == HARDTANH:
        at_once(g_hardtanh, &p, n_rows, n, a, h, ld, with_prime)
    elif code == HARDSIGMOID:
        at_once(g_hardsigmoid, &p, n_rows, n, a, h, ld, with_prime)
    elif code == HARDSWISH:
        at_once(g_hardswish, &p, n_rows, n, a, h, ld, with_prime)
    elif code == RELU6:
        at_once(g_relu6, &p, n_rows, n, a, h, ld, with_prime)
    elif code == SIN:
        at_once(g_sin, &p, n_rows, n, a, h, ld, with_prime)
    else:
        at_once(g_exp, &p, n_rows, n, a, h, ld, with_prime)
