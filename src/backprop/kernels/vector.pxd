# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The vector operations of vector.h, named for Cython. Each acts lane by lane.
# Needs: vector.h.
# Gives: `real`, `vec`, loads and stores, fma, comparisons, division by a known divisor.

cdef extern from "kernels/vector.h" nogil:
    ctypedef float real "bp_real"    # C macros of the build choose the types; Cython believes that all are floats
    ctypedef float vec "bp_vec"
    enum:
        LANES "BP_LANES"
        PARTS "BP_PARTS"
        BLOCK_ROWS "BP_BLOCK_ROWS"
        BLOCK_VECTORS "BP_BLOCK_VECTORS"
        FLOAT64 "BP_FLOAT64"
        HAS_HALF "BP_HAS_HALF"

    # Memory. `_first` touches the first n lanes alone: the others are 0, or not stored.
    vec load "bp_load"(const real* p) noexcept
    void store "bp_store"(real* p, vec v) noexcept
    vec load_first "bp_load_first"(const real* p, Py_ssize_t n) noexcept
    void store_first "bp_store_first"(real* p, vec v, Py_ssize_t n) noexcept
    void copy_block "bp_copy_block"(real* target, const real* source) noexcept
    void transpose_quad "bp_transpose_quad"(const real* source, Py_ssize_t source_row,
                                            real* target, Py_ssize_t target_row) noexcept

    # Arithmetic: a b + c, rounded once.
    vec broadcast "bp_broadcast"(real x) noexcept
    vec vfma "bp_fma"(vec a, vec b, vec c) noexcept
    real tree_sum "bp_tree_sum"(const vec* part) noexcept

    # Selection: a < b ? x : y. A NaN in v passes through a bound.
    vec where_less "bp_where_less"(vec a, vec b, vec x, vec y) noexcept
    vec where_equal "bp_where_equal"(vec a, vec b, vec x, vec y) noexcept
    vec at_least "bp_at_least"(real bound, vec v) noexcept
    vec at_most "bp_at_most"(real bound, vec v) noexcept
    vec clamp "bp_clamp"(vec v, real low, real high) noexcept
    vec vabs "bp_abs"(vec v) noexcept
    vec with_sign "bp_with_sign"(vec v, vec sign) noexcept
    int any_at_least "bp_any_at_least"(vec v, real bound) noexcept
    real get_lane "bp_get_lane"(vec v, int lane) noexcept
    vec set_lane "bp_set_lane"(vec v, int lane, real x) noexcept

    # sum / divisor, from the divisor's rounded reciprocal.
    int is_power_of_two "bp_is_power_of_two"(double x) noexcept
    vec divide "bp_divide"(vec sum, double divisor, double reciprocal) noexcept
    real divide_scalar "bp_divide_scalar"(real sum, double divisor, double reciprocal) noexcept
