# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# cython: freethreading_compatible=True
"""The kernels of one instruction set and one dtype; setup.py compiles this file once for each pair.

A part uses only parts above it:

    table         the interface to the recursion
    two_sum       the exact sum of two float64
    bins          one sum in integer bins, whatever the order of its addends
    vector        the vector operations of vector.h
    pairs         arithmetic on pairs hi + lo, with twice the digits
    elementary    exp, expm1, sigma, Phi, sin
    softmax       softmax of a row
    stages        functions of one argument over the vectors of a tile, at once or in stages
    staged        g and g' of the longer activations
    activations   g and g' of all
    second        g''
    third         g'''
    cross_entropy  cross-entropy of blocks of rows
    losses        losses of rows, their first and second derivatives
    sums          sums over chunks of samples in wide accumulators
    deposits      sums over units of chunks in such bins
    rows          single rows: gradients by sample, sums of squares
    elementwise   products and sums entry by entry
    steps         steps of solvers
    lbfgs         the passes of L-BFGS over its vectors
    jets          first and second derivatives of h along directions, from those of a
    softmax_jets  the same of softmax
    symmetric     sums of weighted products of directions
    squares       sums of their weighted squares alone
    block         the register block on which all matrix products run
    packing       copies of their operands
    blocking      the blocks into which a product is cut, by the size of L2
    dot           the forward product of a narrow layer
    few_rows      the products of one to four samples
    products      a = h W^T + b, grad_h = grad_a W, grad_W = grad_a^T h
    _kernels      this file: fills the table

A. `real` and `vec` are C macros of the build (vector.h); Cython believes that both are floats. A literal such as 0.5 is
   a double in C: before it meets a `real`, it is cast.
B. A matrix product is a set of chains, one for each output element: explicit fma, over k in order, from 0 or from the
   bias. Register blocks, panels and vector lengths group chains; they never split or reorder one. So the bits depend on
   the shape of the layer alone, not on the batch, nor on the instruction set (except v2, which has no fma). There is
   one other form: a forward product with at most 8 outputs adds in 64 bytes of lanes over k (`dot_block`).
C. Functions read what is marked IN and write what is marked OUT. They allocate nothing, keep no state and raise
   nothing. _core.pyx says to which tile or buffer each pointer belongs.
D. The parts are `.pxd` files of inline functions with lists of what they import, so the compiler checks what each part
   uses. They compile into this one module. A trial with elementary, against an include, gave the same machine code
   except for line numbers. `inline` is always_inline in these builds, and two things follow. A function of the table
   has no other caller, so inline costs it nothing: 130 calls of the table, timed in turns with the includes, took 0.998
   to 1.001 of the time in the geometric mean (v3, v4). A large function with several callers cannot stand in a .pxd:
   products.pxi is an include for this reason, and `bp_divide_rows` stands in rows.h.
E. Loops start at a multiple of 32 bytes (setup.py). Without this, the inner loop of `outer_product` lay across two
   cache lines in one build by chance, and took 1.6 times as long.
"""

from cpython.pycapsule cimport PyCapsule_New
from cython cimport typeof

from backprop.kernels.table cimport KernelTable
from backprop.kernels.vector cimport real
from backprop.kernels.softmax cimport softmax_product
from backprop.kernels.activations cimport g_of_rows
from backprop.kernels.second cimport g_second_of_rows
from backprop.kernels.third cimport g_third_of_rows
from backprop.kernels.losses cimport curvature_of_rows, loss_of_rows
from backprop.kernels.sums cimport add_wide, divide_entries, divide_wide
from backprop.kernels.deposits cimport deposit_wide, divide_bins
from backprop.kernels.rows cimport copy_past_caches, outer_products_of_rows, square_sums_of_rows
from backprop.kernels.elementwise cimport (
    derivatives_of_tanh, fill_with_ones, multiply, multiply_add, scale_rows, scaled_product,
)
from backprop.kernels.steps cimport adam_step, any_above, penalized_squares, sgd_step
from backprop.kernels.lbfgs cimport combine, row_products, slope, step, accept_step
from backprop.kernels.jets cimport jet_cotangent_of_rows, jet_of_rows, jet_tangent_of_rows
from backprop.kernels.softmax_jets cimport softmax_center_of_rows, softmax_jet_cotangent_of_rows, softmax_jet_of_rows
from backprop.kernels.symmetric cimport symmetric_forms_of_rows
from backprop.kernels.squares cimport weighted_squares_of_rows
from backprop.kernels.blocking cimport get_l2_bytes, set_l2_bytes
from backprop.kernels.packing cimport pack, packed_size, panel_columns

cdef extern from *:
    """
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
    const char* SIMD_NAME "BP_SIMD_NAME"

include "products.pxi"

cdef KernelTable _table
_table.simd = SIMD_NAME
_table.itemsize = sizeof(real)
_table.set_l2_bytes = set_l2_bytes
_table.get_l2_bytes = get_l2_bytes
_table.panel_columns = panel_columns
_table.packed_size = packed_size
_table.pack = pack
_table.scratch_size = scratch_size
_table.forward_product = product_ABt
_table.activate = g_of_rows
_table.hidden_sum = product_AB
_table.g_prime_product = multiply
_table.weight_gradient = product_AtB
_table.bias_gradient = column_sums
_table.loss = loss_of_rows
_table.fill_with_ones = fill_with_ones
_table.accumulate = add_wide
_table.finish_wide = divide_wide
_table.finish = divide_entries
_table.deposit = deposit_wide
_table.finish_bins = divide_bins
_table.outer_products = outer_products_of_rows
_table.stream = copy_past_caches
_table.square_sums = square_sums_of_rows
_table.scale_rows = scale_rows
_table.scaled_product = scaled_product
_table.second_derivative = g_second_of_rows
_table.third_derivative = g_third_of_rows
_table.loss_curvature = curvature_of_rows
_table.softmax_product = softmax_product
_table.multiply_add = multiply_add
_table.derivatives_of_tanh = derivatives_of_tanh
_table.adam_step = adam_step
_table.sgd_step = sgd_step
_table.penalized_squares = penalized_squares
_table.any_above = any_above
_table.row_products = row_products
_table.accept_step = accept_step
_table.combine = combine
_table.step = step
_table.slope = slope
_table.jet_activation = jet_of_rows
_table.jet_cotangent = jet_cotangent_of_rows
_table.jet_tangent = jet_tangent_of_rows
_table.symmetric_forms = symmetric_forms_of_rows
_table.softmax_jet = softmax_jet_of_rows
_table.softmax_jet_cotangent = softmax_jet_cotangent_of_rows
_table.softmax_center = softmax_center_of_rows
_table.weighted_squares = weighted_squares_of_rows

table = PyCapsule_New(&_table, "backprop.KernelTable", NULL)

# For calls by name from outside (tests/support/kernel_functions.py): name, C type and address of each function.
entries = (
    ("set_l2_bytes", typeof(_table.set_l2_bytes), <size_t>_table.set_l2_bytes),
    ("get_l2_bytes", typeof(_table.get_l2_bytes), <size_t>_table.get_l2_bytes),
    ("panel_columns", typeof(_table.panel_columns), <size_t>_table.panel_columns),
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
    ("deposit", typeof(_table.deposit), <size_t>_table.deposit),
    ("finish_bins", typeof(_table.finish_bins), <size_t>_table.finish_bins),
    ("outer_products", typeof(_table.outer_products), <size_t>_table.outer_products),
    ("stream", typeof(_table.stream), <size_t>_table.stream),
    ("square_sums", typeof(_table.square_sums), <size_t>_table.square_sums),
    ("scale_rows", typeof(_table.scale_rows), <size_t>_table.scale_rows),
    ("scaled_product", typeof(_table.scaled_product), <size_t>_table.scaled_product),
    ("second_derivative", typeof(_table.second_derivative), <size_t>_table.second_derivative),
    ("third_derivative", typeof(_table.third_derivative), <size_t>_table.third_derivative),
    ("loss_curvature", typeof(_table.loss_curvature), <size_t>_table.loss_curvature),
    ("softmax_product", typeof(_table.softmax_product), <size_t>_table.softmax_product),
    ("multiply_add", typeof(_table.multiply_add), <size_t>_table.multiply_add),
    ("derivatives_of_tanh", typeof(_table.derivatives_of_tanh), <size_t>_table.derivatives_of_tanh),
    ("adam_step", typeof(_table.adam_step), <size_t>_table.adam_step),
    ("sgd_step", typeof(_table.sgd_step), <size_t>_table.sgd_step),
    ("penalized_squares", typeof(_table.penalized_squares), <size_t>_table.penalized_squares),
    ("any_above", typeof(_table.any_above), <size_t>_table.any_above),
    ("row_products", typeof(_table.row_products), <size_t>_table.row_products),
    ("accept_step", typeof(_table.accept_step), <size_t>_table.accept_step),
    ("combine", typeof(_table.combine), <size_t>_table.combine),
    ("step", typeof(_table.step), <size_t>_table.step),
    ("slope", typeof(_table.slope), <size_t>_table.slope),
    ("jet_activation", typeof(_table.jet_activation), <size_t>_table.jet_activation),
    ("jet_cotangent", typeof(_table.jet_cotangent), <size_t>_table.jet_cotangent),
    ("jet_tangent", typeof(_table.jet_tangent), <size_t>_table.jet_tangent),
    ("symmetric_forms", typeof(_table.symmetric_forms), <size_t>_table.symmetric_forms),
    ("softmax_jet", typeof(_table.softmax_jet), <size_t>_table.softmax_jet),
    ("softmax_jet_cotangent", typeof(_table.softmax_jet_cotangent), <size_t>_table.softmax_jet_cotangent),
    ("softmax_center", typeof(_table.softmax_center), <size_t>_table.softmax_center),
    ("weighted_squares", typeof(_table.weighted_squares), <size_t>_table.weighted_squares),
)
