# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Arithmetic on pairs. A pair stands for hi + lo and has about twice the digits of the dtype.
# Needs: vector; elementary.h for the pair itself.
# Gives: exact sums and products of two vectors, and sums, products and quotients of pairs.

from backprop.kernels.vector cimport broadcast, real, vec, vfma, where_less

cdef extern from "kernels/elementary.h" nogil:
    ctypedef struct pair "bp_pair":
        vec hi
        vec lo
    pair make_pair "bp_make_pair"(vec hi, vec lo) noexcept
    vec scale "bp_scale"(vec v, vec n) noexcept                       # v 2^n, rounded once
    vec less_product "bp_less_product"(vec c, vec a, vec b) noexcept  # c - a b, for a result far smaller than c


cdef inline pair exactly(vec a) noexcept nogil:
    """The pair a + 0."""
    return make_pair(a, broadcast(0))


cdef inline pair pair_of(double value) noexcept nogil:
    """A float64 as a pair of reals."""
    cdef real high = <real>value
    return make_pair(broadcast(high), broadcast(<real>(value - <double>high)))


cdef inline pair fast_two_sum(vec a, vec b) noexcept nogil:
    """a + b without an error, for |a| >= |b| (Dekker)."""
    cdef vec hi = a + b
    return make_pair(hi, b - (hi - a))


cdef inline pair pair_two_sum(vec a, vec b) noexcept nogil:
    """a + b without an error (Knuth)."""
    cdef vec hi = a + b
    cdef vec b_part = hi - a
    return make_pair(hi, (a - (hi - b_part)) + (b - b_part))


cdef inline pair two_product(vec a, vec b) noexcept nogil:
    """a b without an error, unless the error underflows."""
    cdef vec hi = a * b
    return make_pair(hi, -less_product(hi, a, b))


cdef inline pair minus(pair a) noexcept nogil:
    """-a."""
    return make_pair(-a.hi, -a.lo)


cdef inline pair pair_plus(vec a, pair b) noexcept nogil:
    """a + b, for |a| >= |b.hi|."""
    cdef pair p = fast_two_sum(a, b.hi)
    return make_pair(p.hi, p.lo + b.lo)


cdef inline pair pair_sum(pair a, pair b) noexcept nogil:
    """a + b."""
    cdef pair p = pair_two_sum(a.hi, b.hi)
    return make_pair(p.hi, p.lo + (a.lo + b.lo))


cdef inline pair pair_product(pair a, pair b) noexcept nogil:
    """a b, to about twice the digits."""
    cdef pair p = two_product(a.hi, b.hi)
    return make_pair(p.hi, vfma(a.hi, b.lo, vfma(a.lo, b.hi, p.lo)))


cdef inline pair times_power(pair a, real power) noexcept nogil:
    """a times a power of two, without an error."""
    return make_pair(broadcast(power) * a.hi, broadcast(power) * a.lo)


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
    """numerator / denominator, rounded: an approximate reciprocal, corrected by the remainder."""
    cdef vec q = numerator.hi * reciprocal
    return vfma(remainder(q, numerator, denominator), reciprocal, q)


cdef inline pair quotient_pair(pair numerator, pair denominator, vec reciprocal) noexcept nogil:
    """numerator / denominator before the last rounding."""
    cdef vec q = numerator.hi * reciprocal
    return make_pair(q, remainder(q, numerator, denominator) * reciprocal)


cdef inline vec over_square(pair numerator, pair d, vec r) noexcept nogil:
    """numerator / d^2, rounded, from r = 1/d. Without the pair d^2 it takes four operations less and is 2 ulp off."""
    cdef pair d2 = two_product(d.hi, d.hi)
    d2.lo = vfma(d.hi + d.hi, d.lo, d2.lo)
    return quotient(numerator, d2, r * r)


cdef inline vec over_cube(pair numerator, pair d, vec r) noexcept nogil:
    """numerator / d^3, rounded, from r = 1/d."""
    return quotient(numerator, pair_product(d, pair_product(d, d)), r * r * r)
