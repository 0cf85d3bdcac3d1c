# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Sums in integer bins, which do not depend on the order of their addends.
# Needs: bins.h.
# Gives: EMPTY_TOP, N_LIMBS, raise_top, add_to_bins, add_pair_to_bins, add_bins, round_bins.

from libc.stdint cimport int8_t, int64_t

cdef extern from "kernels/bins.h" nogil:
    enum:
        EMPTY_TOP "BP_EMPTY_TOP"
        N_LIMBS "BP_LIMBS"
    void raise_top "bp_raise"(int new_top, int8_t* top, int64_t* limbs, Py_ssize_t stride) noexcept
    void add_to_bins "bp_add_to_bins"(double v, int8_t* top, int64_t* limbs, Py_ssize_t stride) noexcept
    void add_pair_to_bins "bp_add_pair_to_bins"(double total, double error, int8_t* top, int64_t* limbs,
                                                Py_ssize_t stride) noexcept
    void add_bins "bp_merge_bins"(int other_top, const int64_t* other, Py_ssize_t other_stride, int8_t* top,
                                  int64_t* limbs, Py_ssize_t stride) noexcept
    double round_bins "bp_round_bins"(int top, const int64_t* limbs, Py_ssize_t stride, int exponent) noexcept
