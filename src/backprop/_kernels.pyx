# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The kernels of one instruction set and one dtype; setup.py compiles this file once for each pair.

Where to find what:

    _kernels_products.pxi      a = h W^T + b, grad_h = grad_a W, grad_W = grad_a^T h: the matrix products
    _kernels_activations.pxi   g and g'
    _kernels_losses.pxi        row losses, their derivatives, softmax
    _kernels_sums.pxi          sums over chunks of samples in wide accumulators

A. `real` and `vec` are C macros of the build (_kernels_vector.h); Cython believes that both are floats. A literal such
   as 0.5 is a double in C: where it meets a `real`, it is cast.
B. A matrix product is a set of chains, one for each output element: explicit fma, over k in order, from 0 or from the
   bias. Register blocks, panels and vector lengths group chains and never split or reorder one, so the bits depend on
   the shape of the layer alone: not on the batch, nor on the instruction set (v2, which has no fma, excepted).
   The one other form: a forward product with at most 8 outputs adds in 64 bytes of lanes over k (`dot_block`).
C. Functions here read what they are given and write what is marked as written; they allocate nothing, keep no state and
   raise nothing. Tiles, buffers and their owners: _core.pyx.
"""

from libc.math cimport erfc, exp, expm1, fabs, fma, log1p, sin, cos, tanh
from cpython.pycapsule cimport PyCapsule_New

from backprop._kernel_table cimport (
    CHAIN_ROWS,
    IDENTITY, RELU, LEAKY_RELU, ELU, SELU, GELU, GELU_TANH, SILU, MISH, SOFTPLUS, SOFTSIGN, TANH, SIGMOID, HARDTANH,
    HARDSIGMOID, HARDSWISH, RELU6, SIN, EXP, SOFTMAX,
    SQUARED_ERROR, ABSOLUTE_ERROR, HUBER, QUANTILE, HINGE, POISSON, CROSS_ENTROPY,
    WEIGHT_PER_SAMPLE, WEIGHT_PER_ENTRY, KernelTable,
)

cdef extern from "_kernels_vector.h" nogil:
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
    enum:
        LANES "BP_LANES"
        PARTS "BP_PARTS"
        BLOCK_ROWS "BP_BLOCK_ROWS"
        BLOCK_VECTORS "BP_BLOCK_VECTORS"
        FLOAT64 "BP_FLOAT64"
    const char* SIMD_NAME "BP_SIMD_NAME"
    vec load "bp_load"(const real* p) noexcept
    void store "bp_store"(real* p, vec v) noexcept
    vec load_first "bp_load_first"(const real* p, Py_ssize_t n) noexcept
    void store_first "bp_store_first"(real* p, vec v, Py_ssize_t n) noexcept
    vec broadcast "bp_broadcast"(real x) noexcept
    vec vfma "bp_fma"(vec a, vec b, vec c) noexcept
    real tree_sum "bp_tree_sum"(const vec* part) noexcept
    void two_sum "bp_two_sum"(double a, double b, double* sum, double* error) noexcept

include "_kernels_products.pxi"
include "_kernels_activations.pxi"
include "_kernels_losses.pxi"
include "_kernels_sums.pxi"

cdef KernelTable _table
_table.simd = SIMD_NAME
_table.itemsize = sizeof(real)
_table.packed_size = packed_size
_table.forward_product = forward_product
_table.activate = activate
_table.hidden_sum = hidden_sum
_table.g_prime_product = g_prime_product
_table.weight_gradient = weight_gradient
_table.bias_gradient = bias_gradient
_table.loss = loss
_table.accumulate = accumulate
_table.finish_wide = finish_wide
_table.finish = finish
_table.fill_with_ones = fill_with_ones

table = PyCapsule_New(&_table, "backprop.KernelTable", NULL)
