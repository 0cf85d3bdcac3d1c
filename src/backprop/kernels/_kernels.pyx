# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The kernels of one instruction set and one dtype; setup.py compiles this file once for each pair.

Where to find what:

    kernels/block.pxi         the register block that all products run on
    kernels/products.pxi      a = h W^T + b, grad_h = grad_a W, grad_W = grad_a^T h: the matrix products
    kernels/activations.pxi   g and g'
    kernels/second.pxi        g'', and the products with it
    kernels/losses.pxi        row losses, their derivatives, softmax
    kernels/curvature.pxi     second derivatives of the losses and of softmax, times a vector
    kernels/sums.pxi          sums over chunks of samples in wide accumulators
    kernels/rows.pxi          rows on their own: the gradient of a sample, its norm

A. `real` and `vec` are C macros of the build (kernels/vector.h); Cython believes that both are floats. A literal such
   as 0.5 is a double in C: where it meets a `real`, it is cast.
B. A matrix product is a set of chains, one for each output element: explicit fma, over k in order, from 0 or from the
   bias. Register blocks, panels and vector lengths group chains and never split or reorder one, so the bits depend on
   the shape of the layer alone: not on the batch, nor on the instruction set (v2, which has no fma, excepted).
   The one other form: a forward product with at most 8 outputs adds in 64 bytes of lanes over k (`dot_block`).
C. Functions here read what they are given and write what is marked as written; they allocate nothing, keep no state and
   raise nothing. Tiles, buffers and their owners: _core.pyx.
"""

from cython cimport typeof
from libc.math cimport fabs
from cpython.pycapsule cimport PyCapsule_New

from backprop.kernels.table cimport (
    ADD, CHAIN_ROWS, CONTINUE, FAR_BYTES, OVERWRITE, TIMES,
    IDENTITY, RELU, LEAKY_RELU, ELU, SELU, GELU, GELU_TANH, SILU, MISH, SOFTPLUS, SOFTSIGN, TANH, SIGMOID, HARDTANH,
    HARDSIGMOID, HARDSWISH, RELU6, SIN, EXP,
    SQUARED_ERROR, ABSOLUTE_ERROR, HUBER, QUANTILE, HINGE, POISSON, BINARY_CROSS_ENTROPY, CROSS_ENTROPY,
    WEIGHT_PER_SAMPLE, WEIGHT_PER_ENTRY, PACKED, PACK_ONCE, KernelTable,
)

cdef extern from "vector.h" nogil:
    """
    #if BP_FLOAT64
    #define BP_DTYPE "f8"
    #else
    #define BP_DTYPE "f4"
    #endif
    #if BP_SIMD == 4
    #define BP_SIMD_NAME "v4"
    #elif BP_SIMD == 3
    #define BP_SIMD_NAME "v3"
    #elif BP_SIMD == 2
    #define BP_SIMD_NAME "v2"
    #else
    #define BP_SIMD_NAME "generic"
    #endif
    """
    ctypedef float real "bp_real"
    ctypedef float vec "bp_vec"
    ctypedef float half "bp_half"
    enum:
        LANES "BP_LANES"
        PARTS "BP_PARTS"
        BLOCK_ROWS "BP_BLOCK_ROWS"
        BLOCK_VECTORS "BP_BLOCK_VECTORS"
        FLOAT64 "BP_FLOAT64"
        HAS_HALF "BP_HAS_HALF"
    const char* SIMD_NAME "BP_SIMD_NAME"
    void copy_block "bp_copy_block"(real* target, const real* source) noexcept
    void transpose_quad "bp_transpose_quad"(const real* source, Py_ssize_t source_row,
                                            real* target, Py_ssize_t target_row) noexcept
    vec load "bp_load"(const real* p) noexcept
    void store "bp_store"(real* p, vec v) noexcept
    vec load_first "bp_load_first"(const real* p, Py_ssize_t n) noexcept
    void store_first "bp_store_first"(real* p, vec v, Py_ssize_t n) noexcept
    vec broadcast "bp_broadcast"(real x) noexcept
    vec vfma "bp_fma"(vec a, vec b, vec c) noexcept
    half half_broadcast "bp_half_broadcast"(real x) noexcept
    half half_fma "bp_half_fma"(half a, half b, half c) noexcept
    half lower_half "bp_lower_half"(vec v) noexcept
    half half_load_whole "bp_half_load_whole"(const real* p) noexcept
    half half_load "bp_half_load"(const real* p, Py_ssize_t n) noexcept
    void half_store "bp_half_store"(real* p, half v, Py_ssize_t n) noexcept
    vec where_less "bp_where_less"(vec a, vec b, vec x, vec y) noexcept
    vec where_equal "bp_where_equal"(vec a, vec b, vec x, vec y) noexcept
    vec clamp "bp_clamp"(vec v, real low, real high) noexcept
    vec vabs "bp_abs"(vec v) noexcept
    vec with_sign "bp_with_sign"(vec v, vec sign) noexcept
    int any_at_least "bp_any_at_least"(vec v, real bound) noexcept
    real get_lane "bp_get_lane"(vec v, int lane) noexcept
    vec set_lane "bp_set_lane"(vec v, int lane, real x) noexcept
    vec divide "bp_divide"(vec sum, double divisor, double reciprocal) noexcept
    int is_power_of_two "bp_is_power_of_two"(double x) noexcept
    real divide_scalar "bp_divide_scalar"(real sum, double divisor, double reciprocal) noexcept
    real tree_sum "bp_tree_sum"(const vec* part) noexcept

cdef extern from "two_sum.h" nogil:
    void two_sum "bp_two_sum"(double a, double b, double* sum, double* error) noexcept

include "block.pxi"
include "products.pxi"
include "elementary.pxi"
include "activations.pxi"
include "second.pxi"
include "losses.pxi"
include "curvature.pxi"
include "sums.pxi"
include "rows.pxi"

cdef KernelTable _table
_table.simd = SIMD_NAME
_table.itemsize = sizeof(real)
_table.packed_size = packed_size
_table.pack = pack
_table.scratch_size = scratch_size
_table.forward_product = forward_product
_table.activate = activate
_table.hidden_sum = hidden_sum
_table.g_prime_product = g_prime_product
_table.weight_gradient = weight_gradient
_table.bias_gradient = bias_gradient
_table.loss = loss
_table.fill_with_ones = fill_with_ones
_table.accumulate = accumulate
_table.finish_wide = finish_wide
_table.finish = finish
_table.outer_products = outer_products
_table.stream = stream
_table.square_sums = square_sums
_table.scale_rows = scale_rows
_table.scaled_product = scaled_product
_table.second_derivative = second_derivative
_table.loss_curvature = loss_curvature
_table.softmax_product = softmax_product
_table.multiply_add = multiply_add

table = PyCapsule_New(&_table, "backprop.KernelTable", NULL)

# What a program needs to call the table's functions by name: name, C type as in table.pxd, address.
entries = (
    ("packed_size", typeof(_table.packed_size), <size_t>_table.packed_size),
    ("pack", typeof(_table.pack), <size_t>_table.pack),
    ("scratch_size", typeof(_table.scratch_size), <size_t>_table.scratch_size),
    ("forward_product", typeof(_table.forward_product), <size_t>_table.forward_product),
    ("activate", typeof(_table.activate), <size_t>_table.activate),
    ("hidden_sum", typeof(_table.hidden_sum), <size_t>_table.hidden_sum),
    ("g_prime_product", typeof(_table.g_prime_product), <size_t>_table.g_prime_product),
    ("weight_gradient", typeof(_table.weight_gradient), <size_t>_table.weight_gradient),
    ("bias_gradient", typeof(_table.bias_gradient), <size_t>_table.bias_gradient),
    ("loss", typeof(_table.loss), <size_t>_table.loss),
    ("fill_with_ones", typeof(_table.fill_with_ones), <size_t>_table.fill_with_ones),
    ("accumulate", typeof(_table.accumulate), <size_t>_table.accumulate),
    ("finish_wide", typeof(_table.finish_wide), <size_t>_table.finish_wide),
    ("finish", typeof(_table.finish), <size_t>_table.finish),
    ("outer_products", typeof(_table.outer_products), <size_t>_table.outer_products),
    ("stream", typeof(_table.stream), <size_t>_table.stream),
    ("square_sums", typeof(_table.square_sums), <size_t>_table.square_sums),
    ("scale_rows", typeof(_table.scale_rows), <size_t>_table.scale_rows),
    ("scaled_product", typeof(_table.scaled_product), <size_t>_table.scaled_product),
    ("second_derivative", typeof(_table.second_derivative), <size_t>_table.second_derivative),
    ("loss_curvature", typeof(_table.loss_curvature), <size_t>_table.loss_curvature),
    ("softmax_product", typeof(_table.softmax_product), <size_t>_table.softmax_product),
    ("multiply_add", typeof(_table.multiply_add), <size_t>_table.multiply_add),
)
