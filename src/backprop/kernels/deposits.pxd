# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The last level of the sums over samples. Units of chunks go into integer bins, in any order.
# Needs: deposits.h, vector.
# Gives: the table's deposit and finish_bins.

from libc.stdint cimport int8_t, int64_t

from backprop.kernels.vector cimport FLOAT64, divide_scalar, real

cdef extern from "kernels/deposits.h" nogil:
    void deposit_all "bp_deposit"(Py_ssize_t n, const double* total, const double* error, bint first, int8_t* top,
                                  int64_t* limbs, Py_ssize_t stride) noexcept
    void round_all "bp_round_all"(Py_ssize_t n, const int8_t* top, const int64_t* limbs, Py_ssize_t stride,
                                  double* total) noexcept

cdef enum:
    ROUNDED_SUMS = 512           # at a time


cdef inline void deposit_wide(Py_ssize_t n,
                              const double* wide, const double* wide_error,                # IN
                              int8_t* top, int64_t* limbs, Py_ssize_t stride, bint first) noexcept nogil:  # OUT
    """bins += wide + wide_error, or the bins of this unit alone if it is the first. Only float64 uses wide_error."""
    if FLOAT64:
        if first:
            deposit_all(n, wide, wide_error, True, top, limbs, stride)
        else:
            deposit_all(n, wide, wide_error, False, top, limbs, stride)
    elif first:
        deposit_all(n, wide, NULL, True, top, limbs, stride)
    else:
        deposit_all(n, wide, NULL, False, top, limbs, stride)


cdef inline void divide_bins(Py_ssize_t n,
                             const int8_t* top, const int64_t* limbs, Py_ssize_t stride,   # IN
                             double divisor,
                             void* out_) noexcept nogil:                                   # OUT
    """out = sum / divisor: the sum is rounded once to float64, as wide sums are, and then divided as they are."""
    cdef real* out = <real*>out_
    cdef double[ROUNDED_SUMS] total
    cdef double reciprocal = 1 / divisor
    cdef Py_ssize_t p = 0, q, m
    while p < n:
        m = min(<Py_ssize_t>ROUNDED_SUMS, n - p)
        round_all(m, top + p, limbs + p, stride, total)
        for q in range(m):
            if FLOAT64:
                out[p + q] = divide_scalar(<real>total[q], divisor, reciprocal)
            else:
                out[p + q] = <real>(total[q] * reciprocal)
        p += m
