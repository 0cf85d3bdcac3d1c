# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The mode of the floating-point unit: rounding, flushing of subnormals, traps. A call computes in the default one.
# Needs: process/float_mode.h. Gives: enter_default_mode, leave_default_mode, is_default_mode; the x87's mode.

from libc.stdint cimport uint64_t

cdef extern from "process/float_mode.h" nogil:
    uint64_t enter_default_mode "bp_enter_default_mode"() noexcept
    void leave_default_mode "bp_leave_default_mode"(uint64_t mode, const void* result) noexcept
    bint is_default_mode "bp_is_default_mode"(uint64_t mode) noexcept
    unsigned get_x87 "bp_get_x87"() noexcept
    void set_x87 "bp_set_x87"(unsigned mode) noexcept
    unsigned DEFAULT_X87 "BP_DEFAULT_X87"
