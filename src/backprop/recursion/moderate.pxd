# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Weights and norms of any size, with a power of two kept apart (`exponent`): it changes no bit of what is in range.
# Needs: nothing. Gives: moderate, times, add_scaled, scaled_square.

from libc.math cimport fabs, frexp, isinf, ldexp

cdef inline double moderate(double weight, int kept, int* exponent) noexcept nogil:
    """weight 2^-exponent, which is near 2^-kept or 2^kept; most weights stay as they are, with an exponent of 0."""
    cdef int e
    exponent[0] = 0
    if 1e-19 <= weight <= 1e19 or weight == 0:
        return weight
    frexp(weight, &e)
    exponent[0] = min(e - kept, 1023) if weight > 1 else e + kept  # 2^1024 is no double
    return ldexp(weight, -exponent[0])


cdef inline double times(double a, double factor, int exponent) noexcept nogil:
    """a factor 2^exponent; only the result may be subnormal."""
    cdef int e
    a = frexp(a, &e)
    return ldexp(a * factor, e + exponent)


cdef inline void add_scaled(double* total, int* exponent, double term, int e) noexcept nogil:
    """total 4^exponent += term 4^e."""
    if term == 0:
        return
    if total[0] == 0 or e > exponent[0]:
        total[0] = ldexp(total[0], 2 * (exponent[0] - e)) + term
        exponent[0] = e
    else:
        total[0] += ldexp(term, 2 * (e - exponent[0]))


cdef inline double scaled_square(Py_ssize_t n, const double* row, int* exponent) noexcept nogil:
    """||row||_2^2 4^-exponent; the largest entry is near 2^exponent."""
    cdef double largest = 0, total = 0, unit
    cdef Py_ssize_t k
    exponent[0] = 0
    for k in range(n):
        if row[k] != row[k]:
            return row[k]
        largest = max(largest, fabs(row[k]))
    if largest == 0 or isinf(largest):
        return largest
    frexp(largest, exponent)
    for k in range(n):
        unit = ldexp(row[k], -exponent[0])
        total += unit * unit
    return total
