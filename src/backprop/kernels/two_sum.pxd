# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The exact sum of two float64 numbers.
# Needs: two_sum.h.
# Gives: two_sum.

cdef extern from "kernels/two_sum.h" nogil:
    void two_sum "bp_two_sum"(double a, double b, double* total, double* error) noexcept
