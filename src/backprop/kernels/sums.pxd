# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The third level of the sums over samples. Chunks of at most 1024 rows go into a wide accumulator.
# Needs: two_sum, vector.
# Gives: the table's accumulate, finish_wide and finish.
#
# The accumulator is divided and rounded once, at the end. float32 networks add in float64; float64 networks keep the
# error of each sum beside it.

from backprop.kernels.two_sum cimport two_sum
from backprop.kernels.vector cimport FLOAT64, divide_scalar, real


cdef inline void add_wide(Py_ssize_t n,
                          const void* partial_,                                      # IN
                          double* wide, double* wide_error, bint first) noexcept nogil:    # OUT; IN too unless first
    """wide += partial, or wide = partial for the first chunk. Only float64 uses wide_error."""
    cdef const real* partial = <const real*>partial_
    cdef double error
    cdef Py_ssize_t p
    if first:
        for p in range(n):
            wide[p] = partial[p]
        if FLOAT64:
            for p in range(n):
                wide_error[p] = 0
    elif FLOAT64:
        for p in range(n):
            two_sum(wide[p], partial[p], &wide[p], &error)
            wide_error[p] = wide_error[p] + error
    else:
        for p in range(n):
            wide[p] = wide[p] + <double>partial[p]


cdef inline void divide_wide(Py_ssize_t n,
                             const double* wide, const double* wide_error,           # IN
                             double divisor,
                             void* out_) noexcept nogil:                             # OUT
    """out = wide / divisor, rounded once."""
    cdef real* out = <real*>out_
    cdef double reciprocal = 1 / divisor, total
    cdef Py_ssize_t p
    for p in range(n):
        if FLOAT64:
            total = wide[p] + wide_error[p]
            total = total if total == total else wide[p]  # the error of an infinite sum is NaN
            out[p] = divide_scalar(<real>total, divisor, reciprocal)
        else:
            out[p] = <real>(wide[p] * reciprocal)


cdef inline void divide_entries(Py_ssize_t n,
                                const void* partial_,                                # IN
                                double divisor,
                                void* out_) noexcept nogil:                          # OUT; may be partial
    """out = partial / divisor."""
    cdef const real* partial = <const real*>partial_
    cdef real* out = <real*>out_
    cdef double reciprocal = 1 / divisor
    cdef Py_ssize_t p
    for p in range(n):
        out[p] = divide_scalar(partial[p], divisor, reciprocal)
