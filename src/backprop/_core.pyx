# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The recursion: gradients of a dense network, tile by tile, without the GIL.

    (1)  h_0 = x
    (2)  a_i = W_i h_{i-1} + b_i                                    `preactivation`
    (3)  h_i = g_i(a_i),  y_hat = h_L                               `activation`
    (4)  grad_{a_L} L from the loss                                 `output_gradient`
    (5)  dL/dh_{i,j} = sum_m dL/da_{i+1,m} W_{i+1,m,j}              `hidden_sum`         grad_h = W^T grad_a
    (6)  dL/da_{i,j} = dL/dh_{i,j} g'(a_{i,j})                      `g_prime_product`    grad_a = grad_h (.) g'(a)
    (7)  grad_{W_i} L = grad_{a_i} L h_{i-1}^T                      `weight_gradient`
    (8)  grad_{b_i} L = grad_{a_i} L                                `bias_gradient`

A. Samples stream through a tile of rows, which goes through (1)-(8) before the next one comes. The tile's buffers, and
   all others, lie in one block sized by `lay_out_workspace`; nothing is allocated inside the loops, and nothing grows
   with the number of samples.
B. A layer owns two buffers in the tile. h_i stays until (7) of the layer above has read it. The other is a_i until (3)
   makes it g'(a_i), in place, and grad_a_i from (6) on, in place again: each is dead when the next is born.
   h_0 is the caller's x itself. (5) and (6) are one kernel, unless the caller asks to see grad_h.
C. Sums over samples have three levels: chains of 64 rows in registers, at most 16 such chains added in the network's
   dtype (a chunk), and chunks added in float64 or, for float64, as a two-term sum. The order depends on the layers and
   the number of samples alone: tiles are cut between chains, threads between tiles, units or chunks (schedule/). Tiles
   of very wide rows are shorter than a chain, which then goes on from one to the next in a buffer of its own:
   `open_chain`. From 16384 samples on, chunks are added so within units of 8192 samples or more, and the sums of units
   go into integer bins (kernels/bins.h), for which their order does not matter: so parts of a data set, on any number
   of machines, add up to the bits of one call. The division by n_samples or by the sum of the weights comes once, at
   the end.
D. Rows whose weights are all 0 are left out when a tile is filled: the sums are those of the reduced problem, bit for
   bit. Then x, y and the weights of a tile are copied. So they are if the samples
   are rows by number, as those of mini-batches: the data are never copied as a whole.
E. Both dtypes and all instruction sets share this file: it handles untyped memory, and the kernels of `KernelTable`
   (kernels/table.pxd) compute. Single numbers are read and written by recursion/reals.pxd. The typed twin at the end
   states the equations as plain loops.
F. Large x and y of another dtype, byte order or layout are converted by each tile, into buffers of its own.

A sweep, and each function that a sweep calls, returns nonzero if a signal handler raised; then the rest is left out.
Of a tile's buffers a function overwrites those alone that its signature marks OUT.
"""

import importlib
import os

cimport cython
cimport numpy as cnp
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, NAN, fabs, frexp, isfinite, isinf, ldexp, sqrt
from libc.stdint cimport int8_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memmove, memset

from backprop.calls.inspect cimport (
    Targets, WeightSums, add_up_weights, rule_of_targets, rule_of_weights, set_scale_and_total, tolerance_of_sums,
)
from backprop.calls.request cimport (
    set_directions, set_operand, set_results, set_source, set_targets, set_weights, start_request, targets_of,
)
from backprop.calls.rules cimport (
    BAD_LABEL, BAD_SUM, BAD_TARGET, BAD_WEIGHT, HAS_EMPTY_ROWS, IS_NULL, KEPT, MISALIGNED, MOST_AXES,
    NO_WEIGHT_ABOVE_0, OTHER_FORM, OTHER_SHAPE, OVERLAPS, axes_of_operand, dtype_of, entries_of, rule_of_address,
    rule_of_array, rule_of_count, rule_of_data, rule_of_form, rule_of_grad_weight, rule_of_max_norm, rule_of_network,
    rule_of_out, rule_of_plain, rule_of_result, rule_of_shape, set_axes, share_bytes,
)
from backprop.kernels.bins cimport EMPTY_TOP, N_LIMBS, add_bins, raise_top, round_bins
from backprop.kernels.table cimport (
    ADD, CHAIN_ROWS, CONTINUE, CROSS_ENTROPY, CUSTOM, DIAGONAL, EACH, FAR_BYTES, FIRST_ALONE, FORM_STEP, IDENTITY,
    NO_WEIGHT, OVERWRITE, PACKED, PACK_AND_KEEP, PACK_ONCE, QUANTILES, ROW_BYTES, SCRATCH_UNITS, SOFTMAX, SYMMETRIC,
    TIMES, WEIGHT_PER_ENTRY, WEIGHT_PER_SAMPLE, KernelTable,
)
from backprop.process.float_mode cimport (
    DEFAULT_X87, enter_default_mode, get_x87, is_default_mode, leave_default_mode, set_x87,
)
from backprop.process.gil cimport give_gil, raise_pending, take_gil
from backprop.process.interrupt cimport (
    ENTRY_FLOPS, LOOK_FLOPS, MEMORY_FLOPS, OWN_C_FLOPS, OWN_NUMPY_FLOPS, Interrupt, has_raised, interrupt_of_thread,
    is_stopped, raise_for_signal, reset_interrupt, signal_is_pending, stop,
)
from backprop.process.pieces cimport (
    PIECE_COLUMNS, Pieces, get_piece_flops, next_piece, place, set_piece_flops, start_entries, start_pieces,
    start_product, start_rows,
)
from backprop.process.pool cimport (
    MOST_THREADS, POOL_LOST, Lease, PoolTask, backprop_worker_threads, load_int, load_size, pool_acquire, pool_forks,
    pool_release, pool_run, pool_yield, store_int, store_size, try_lock,
)
from backprop.recursion.capped_loss cimport capped_loss
from backprop.recursion.jet cimport Jet, blocks_of_jet, coefficients_of_form
from backprop.recursion.moderate cimport add_scaled, moderate, scaled_square, times
from backprop.recursion.reals cimport get_real, set_real
from backprop.recursion.request cimport (
    COTANGENT, DIRECTION, DIRECTIONS_OF_X, DIVIDES, GIVES_LOSS, HAS_JET, IN_STRIPS, KEEPS_LINEARIZATION, MULTIPLIERS,
    NEEDS_SECOND, NEEDS_SQUARED_ERROR, NEEDS_THIRD, NO_OPERAND, OF_MEAN, OF_SAMPLE, OF_SUM, READS_PANELS_ONCE,
    TAKES_MAX_NORM, TAKES_Y, TARGET_GRAD_X, Mode, Request, State, Tile, is_by_sample,
)
from backprop.recursion.shape cimport MAX_TILE_ROWS, Layer, Shape, has_curve_of_h, lay_out_layers, ld_of_input
from backprop.recursion.tile cimport (
    a_of, copy_out, fill_tile, has_weight, input_of, new_tile, output_of, packing_of, part_of, rows_of_source,
    weight_of, weights_per_row,
)
from backprop.recursion.workspace cimport (
    GRADIENT_BYTES, OF_DERIVATIVES, OF_GRADIENT, OF_HESSIAN, OF_NORMAL_EQUATIONS, TRIANGLE_ROWS, KeptRows,
    Workspace, aligned, bytes_of_kept_row, lay_out_kept, reals_at_a_time,
)
from backprop.schedule.cuts cimport chunks_of, chunks_of_unit, rows_of_chunk, rows_of_jet, rows_of_tile
from backprop.schedule.free_lists cimport (
    FreeLists, free_lists_of, give_totals, give_workspace, give_workspaces, take_totals, take_workspace,
    take_workspaces,
)
from backprop.schedule.totals cimport (
    Totals, accumulate, add_chain, add_loss, chunks_in, divide, divide_only_chunk, mean_loss, n_parts_of_sums,
    start_totals,
)
from backprop.training.steps cimport (
    ADAM, SGD, Run, Solver, factor_of_clipping, has_usable_gradient, l2_of_batch, penalty, set_runs, take_step,
)
from backprop.training.cholesky cimport NOT_POSITIVE, STOPPED, factorize, solve
from backprop.training.line_search cimport (
    ACCEPTED_STEP, GO_ON, GO_ON_FROM_HERE, NO_STEP_BUT_THIS, LineSearch, go_on_searching, start_search,
)
from backprop.training.vectors cimport inner_product, largest_magnitude, step_to

cnp.import_array()

ctypedef fused floating:
    float
    double

include "process/simd.pxi"
include "recursion/custom.pxi"


# (2), (3) -------------------------------------------------------------------------------------------------------------

cdef int preactivation(const Tile* tile, Py_ssize_t i,
                       const char* W, const char* b, const char* h,  # IN; b may be NULL
                       char* packed, int packing,                    # OUT: W^T in panels; IN if PACKED
                       char* a, int epilogue) noexcept nogil:        # OUT
    """a_i = W_i h_{i-1} + b_i; ADD: a_i += W_i h_{i-1}, without b."""
    return preactivation_of_units(tile, i, 0, tile.shape.sizes[i], W, b, h, packed, packing, a, epilogue)


cdef int preactivation_of_units(const Tile* tile, Py_ssize_t i, Py_ssize_t unit, Py_ssize_t n_units,
                                const char* W, const char* b, const char* h,  # as above
                                char* packed, int packing, char* a, int epilogue) noexcept nogil:
    """(2) for some units of a layer: whole panels, or up to its end."""
    cdef const Shape* shape = tile.shape
    cdef const Layer* layer = &shape.layers[i]
    cdef Py_ssize_t ld_h = ld_of_input(shape, i), before = unit * shape.itemsize
    cdef int packs
    cdef Pieces p
    W += before * layer.n_in
    packed += before * layer.n_in
    a += before
    if b != NULL:
        b += before
    start_product(&p, tile.interrupt, tile.n_rows, 1, n_units, PIECE_COLUMNS, layer.n_in)
    while p.n:
        packs = packing
        if p.n_rows < tile.n_rows and packing != PACKED:  # the next rows find the panels of the first ones
            packs = PACK_AND_KEEP if p.row == 0 else PACKED
        before = p.column * shape.itemsize
        shape.kernels.forward_product(p.n_rows, layer.n_in, p.n, h + p.row * ld_h * shape.itemsize, ld_h,
                                      W + before * layer.n_in, packed + before * layer.n_in, packs,
                                      NULL if b == NULL else b + before, a + place(&p, layer.ld, shape.itemsize),
                                      layer.ld, epilogue)
        if next_piece(&p):
            return 1
    return 0


cdef int activation(const Tile* tile, Py_ssize_t i, int code, bint with_prime) noexcept nogil:
    """h_i = g_i(a_i); with_prime: a_i becomes g_i'(a_i), in place."""
    cdef const Layer* layer = &tile.shape.layers[i]
    cdef char* a = a_of(tile, i)
    if code == CUSTOM:
        if custom_activation(layer, tile.shape.itemsize, VALUE, tile.n_rows, a, output_of(tile, i), layer.ld,
                             tile.interrupt):
            return 1
        return with_prime and custom_activation(layer, tile.shape.itemsize, FIRST, tile.n_rows, a, a, layer.ld,
                                                tile.interrupt)
    return activation_of_units(tile, i, 0, layer.n_out, code, with_prime)


cdef int activation_of_units(const Tile* tile, Py_ssize_t i, Py_ssize_t unit, Py_ssize_t n_units, int code,
                             bint with_prime) noexcept nogil:
    """(3) for some units of a layer; code is none of a user's own, and softmax takes all units."""
    cdef const Shape* shape = tile.shape
    cdef const Layer* layer = &shape.layers[i]
    cdef char* a = a_of(tile, i) + unit * shape.itemsize
    cdef char* h = output_of(tile, i) + unit * shape.itemsize
    cdef Py_ssize_t start
    cdef Pieces p
    if code == SOFTMAX:
        start_rows(&p, tile.interrupt, tile.n_rows, n_units, ENTRY_FLOPS)
    else:
        start_entries(&p, tile.interrupt, tile.n_rows, n_units, ENTRY_FLOPS)
    while p.n:
        start = place(&p, layer.ld, shape.itemsize)
        shape.kernels.activate(code, layer.parameter, p.n_rows, p.n, a + start, h + start, layer.ld, with_prime)
        if next_piece(&p):
            return 1
    return 0


cdef int further_derivative(const Tile* tile, Py_ssize_t i, Derivative which) noexcept nogil:
    """g_i''(a_i) or g_i'''(a_i), before a_i becomes g_i'(a_i)."""
    cdef const Shape* shape = tile.shape
    cdef const Layer* layer = &shape.layers[i]
    cdef const char* a = a_of(tile, i)
    cdef char* values = tile.work.g_second[i] if which == SECOND else tile.work.g_third[i]
    cdef Py_ssize_t start
    cdef Pieces p
    values += tile.first * layer.ld * shape.itemsize
    if layer.activation == CUSTOM:
        return custom_activation(layer, shape.itemsize, which, tile.n_rows, a, values, layer.ld, tile.interrupt)
    start_entries(&p, tile.interrupt, tile.n_rows, layer.n_out, ENTRY_FLOPS)
    while p.n:
        start = place(&p, layer.ld, shape.itemsize)
        if which == SECOND:
            shape.kernels.second_derivative(layer.activation, layer.parameter, p.n_rows, p.n, a + start, values + start,
                                            layer.ld)
        else:
            shape.kernels.third_derivative(layer.activation, layer.parameter, p.n_rows, p.n, a + start, values + start,
                                           layer.ld)
        if next_piece(&p):
            return 1
    return 0


cdef int forward_sweep(const Tile* tile, bint with_prime) noexcept nogil:
    """(2) and (3) for i = 1..L; but (3) for i = L only if the loss acts on y_hat."""
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Py_ssize_t i, first, rows
    cdef const Layer* layer
    cdef bint activate
    cdef Tile part
    for i in range(1, shape.n_layers + 1):
        layer = &shape.layers[i]
        activate = i < shape.n_layers or not shape.loss_acts_on_a
        rows = min(layer.rows_in_l1, tile.n_rows)
        first = 0
        while first < tile.n_rows:  # few rows at a time, so that a_i is still in L1 when g comes
            part = part_of(tile, first, min(rows, tile.n_rows - first))
            if rows < tile.n_rows and tile.packing != PACKED:
                part.packing = PACK_AND_KEEP if first == 0 else PACKED
            if preactivation(&part, i, request.params + layer.W, request.params + layer.b, input_of(&part, i),
                             tile.work.packed[i], part.packing, a_of(&part, i), OVERWRITE):
                return 1
            if (request.with_second and activate and not has_curve_of_h(shape, i)
                    and further_derivative(&part, i, SECOND)):
                return 1
            if (request.with_third and activate and not has_curve_of_h(shape, i)
                    and further_derivative(&part, i, THIRD)):
                return 1
            if activate and activation(&part, i, layer.activation, with_prime):
                return 1
            first += rows
        if copy_out(tile, request.keep_a, i, a_of(tile, i), layer.ld, 1):
            return 1
        if activate and copy_out(tile, request.keep_h, i, output_of(tile, i), layer.ld, 1):
            return 1
    if tile.packing == PACK_AND_KEEP:
        tile.work.is_packed = True
    return 0


# (4) ------------------------------------------------------------------------------------------------------------------

cdef int output_gradient(const Tile* tile, char* z,  # IN: a_L, or g'(a_L) if the loss acts on y_hat; OUT: grad_{a_L} L
                         double* row_loss,           # OUT
                         bint with_gradient) noexcept nogil:
    """Weighted row losses, and grad_{a_L} L in the place of z."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t L = shape.n_layers
    cdef const Tile* rows = tile
    cdef Tile part
    cdef Pieces p
    start_rows(&p, tile.interrupt, tile.n_rows, shape.sizes[L], 2.0 * ENTRY_FLOPS)
    while p.n:
        if p.n_rows < tile.n_rows:
            part = part_of(tile, p.row, p.n_rows)
            rows = &part
        if tile.request.loss_cap:
            capped_loss(rows, z + place(&p, shape.layers[L].ld, shape.itemsize),
                        NULL if shape.loss_acts_on_a else output_of(rows, L), row_loss + p.row, with_gradient)
        else:
            shape.kernels.loss(shape.loss, shape.loss_parameters, rows.n_rows, shape.sizes[L],
                               z + place(&p, shape.layers[L].ld, shape.itemsize), shape.layers[L].ld,
                               NULL if shape.loss_acts_on_a else output_of(rows, L), rows.y, rows.labels,
                               tile.request.weight_kind, rows.weight, tile.request.weight_scale, row_loss + p.row,
                               with_gradient)
        if next_piece(&p):
            return 1
    return 0


cdef int output_grad_h(const Tile* tile, char* grad_h, double* row_loss) noexcept nogil:  # OUT, both
    """grad_{h_L} L, and the row losses, if the loss acts on y_hat: with g' = 1, grad_a_L is grad_h_L."""
    cdef const Shape* shape = tile.shape
    cdef Pieces p
    start_entries(&p, tile.interrupt, 1, tile.n_rows * shape.layers[shape.n_layers].ld, MEMORY_FLOPS)
    while p.n:
        shape.kernels.fill_with_ones(p.n, grad_h + p.column * shape.itemsize)
        if next_piece(&p):
            return 1
    return output_gradient(tile, grad_h, row_loss, True)


# (5), (6) -------------------------------------------------------------------------------------------------------------

cdef int hidden_sum(const Tile* tile, Py_ssize_t i,
                    const char* params, const char* grad_a_next,         # IN: W_{i+1} is that of params
                    const char* g_prime,                                 # IN with TIMES, else NULL; may be grad_h
                    char* grad_h, int epilogue) noexcept nogil:          # OUT
    """dL/dh_{i,j} = sum_m dL/da_{i+1,m} W_{i+1,m,j}; TIMES: the product (6) in the same pass, with g_prime of layer i.

    params may be any vector with their layout.
    """
    return hidden_sum_of_units(tile, i, 0, tile.shape.sizes[i], params, grad_a_next, g_prime, grad_h, epilogue)


cdef int hidden_sum_of_units(const Tile* tile, Py_ssize_t i, Py_ssize_t unit, Py_ssize_t n_units,
                             const char* params, const char* grad_a_next, const char* g_prime,  # as above
                             char* grad_h, int epilogue) noexcept nogil:
    """(5), or (5) and (6), for some units of layer i."""
    cdef const Shape* shape = tile.shape
    cdef const Layer* next_layer = &shape.layers[i + 1]
    cdef Py_ssize_t ld = ld_of_input(shape, i + 1), start
    cdef Pieces p
    params += unit * shape.itemsize
    grad_h += unit * shape.itemsize
    if g_prime != NULL:
        g_prime += unit * shape.itemsize
    start_product(&p, tile.interrupt, tile.n_rows, 1, n_units, PIECE_COLUMNS, next_layer.n_out)
    while p.n:
        start = place(&p, ld, shape.itemsize)
        shape.kernels.hidden_sum(p.n_rows, p.n, next_layer.n_out, grad_a_next + p.row * next_layer.ld * shape.itemsize,
                                 next_layer.ld, params + next_layer.W + p.column * shape.itemsize, next_layer.n_in,
                                 NULL if g_prime == NULL else g_prime + start, grad_h + start, ld, epilogue,
                                 tile.scratch)
        if next_piece(&p):
            return 1
    return 0


cdef int g_prime_product(const Tile* tile, Py_ssize_t i,
                         const char* grad_h,                      # IN
                         char* g_prime) noexcept nogil:           # IN, and OUT: grad_a
    """dL/da_{i,j} = dL/dh_{i,j} g'(a_{i,j}), in the place of g'; or any two buffers of layer i multiplied so."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t ld = shape.layers[i].ld, start
    cdef Pieces p
    start_entries(&p, tile.interrupt, tile.n_rows, shape.sizes[i], MEMORY_FLOPS)
    while p.n:
        start = place(&p, ld, shape.itemsize)
        shape.kernels.g_prime_product(p.n_rows, p.n, grad_h + start, ld, g_prime + start, ld)
        if next_piece(&p):
            return 1
    return 0


# (7), (8) -------------------------------------------------------------------------------------------------------------

cdef inline int going_on(const Tile* tile, bint add) noexcept nogil:
    """How sums are added to: in whole chains, or with the rest of chains that tiles before this one began."""
    return CONTINUE if add and tile.is_open else add


cdef int weight_gradient(const Tile* tile, Py_ssize_t i, Py_ssize_t unit, Py_ssize_t n_units,
                         const char* grad_a, const char* h,               # IN
                         char* grad, bint add) noexcept nogil:            # OUT, or added to
    """grad_{W_i} L = grad_{a_i} L h_{i-1}^T for some units of a layer, summed over the tile."""
    return weight_gradient_of_inputs(tile, i, unit, n_units, 0, tile.shape.sizes[i - 1], grad_a, h, grad, add)


cdef int weight_gradient_of_inputs(const Tile* tile, Py_ssize_t i, Py_ssize_t unit, Py_ssize_t n_units,
                                   Py_ssize_t first, Py_ssize_t n_inputs, const char* grad_a, const char* h,  # as above
                                   char* grad, bint add) noexcept nogil:
    """(7) for some inputs of some units; inputs may be cut as `products_over_rows` says."""
    cdef const Shape* shape = tile.shape
    cdef const Layer* layer = &shape.layers[i]
    cdef Py_ssize_t end = unit + n_units, before = first * shape.itemsize, n
    while unit < end:
        n = min(<Py_ssize_t>SCRATCH_UNITS, end - unit)
        if products_over_rows(tile, tile.n_rows, n_inputs, n, grad_a + unit * shape.itemsize, layer.ld, h + before,
                              ld_of_input(shape, i),
                              grad + layer.W + unit * layer.n_in * shape.itemsize + before, layer.n_in,
                              going_on(tile, add)):
            return 1
        unit += n
    return 0


cdef int products_over_rows(const Tile* tile, Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
                            const char* grad_a, Py_ssize_t ld_a, const char* h, Py_ssize_t ld_h,  # IN
                            char* grad_W, Py_ssize_t ld_W, int add) noexcept nogil:               # OUT, or added to
    """(7) of any rows: grad_W = grad_a^T h.

    Inputs are cut only if the rows of h are so long that the kernel copies their panels: else it reads beyond the last
    input of a piece, up to the end of a whole row.
    """
    cdef const Shape* shape = tile.shape
    cdef Pieces p
    start_product(&p, tile.interrupt, n_out, PIECE_COLUMNS, n_in,
                  PIECE_COLUMNS if ld_h * shape.itemsize >= FAR_BYTES else n_in, n_rows)
    while p.n:
        shape.kernels.weight_gradient(n_rows, p.n, p.n_rows, grad_a + p.row * shape.itemsize, ld_a,
                                      h + p.column * shape.itemsize, ld_h, grad_W + place(&p, ld_W, shape.itemsize),
                                      ld_W, add, tile.divisor, tile.scratch)
        if next_piece(&p):
            return 1
    return 0


cdef int bias_gradient(const Tile* tile, Py_ssize_t i, Py_ssize_t unit, Py_ssize_t n_units,
                       const char* grad_a,                              # IN
                       char* grad, bint add) noexcept nogil:            # OUT, or added to
    """grad_{b_i} L = grad_{a_i} L for some units of a layer, summed over the tile."""
    cdef const Layer* layer = &tile.shape.layers[i]
    cdef Py_ssize_t before = unit * tile.shape.itemsize
    return sum_of_rows(tile, n_units, grad_a + before, layer.ld, grad + layer.b + before, going_on(tile, add))


cdef int sum_of_rows(const Tile* tile, Py_ssize_t n_out, const char* grad_a, Py_ssize_t ld_a,  # IN
                     char* grad_b, int add) noexcept nogil:                                    # OUT, or added to
    """(8) of any rows."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t before
    cdef Pieces p
    start_entries(&p, tile.interrupt, 1, n_out, <double>MEMORY_FLOPS * tile.n_rows)
    while p.n:
        before = p.column * shape.itemsize
        shape.kernels.bias_gradient(tile.n_rows, p.n, grad_a + before, ld_a, grad_b + before, add, tile.divisor)
        if next_piece(&p):
            return 1
    return 0


cdef int layer_gradient(const Tile* tile, Py_ssize_t i, const char* grad_a, const char* h, char* grad,
                        bint add) noexcept nogil:
    """(7) and (8) for all units of a layer."""
    if weight_gradient(tile, i, 0, tile.shape.sizes[i], grad_a, h, grad, add):
        return 1
    return bias_gradient(tile, i, 0, tile.shape.sizes[i], grad_a, grad, add)


cdef int backward_sweep(const Tile* tile, char* grad, bint add) noexcept nogil:  # OUT, or added to
    """(5)-(8) for i = L..1, from grad_{a_L} L, which is in the place of a_L; if grad is NULL, (5) and (6) alone."""
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Py_ssize_t i, L = shape.n_layers
    cdef char* grad_h = tile.work.grad_h
    cdef char* grad_a
    if request.keep_grad_h != NULL and not shape.loss_acts_on_a:
        if output_grad_h(tile, grad_h, tile.work.row_loss + tile.first):
            return 1
        if copy_out(tile, request.keep_grad_h, L, grad_h, shape.layers[L].ld, request.divisor):
            return 1
    for i in range(L, 0, -1):
        grad_a = a_of(tile, i)
        if i < L and request.keep_grad_h != NULL:
            if hidden_sum(tile, i, request.params, a_of(tile, i + 1), NULL, grad_h, OVERWRITE):
                return 1
            if copy_out(tile, request.keep_grad_h, i, grad_h, shape.layers[i].ld, request.divisor):
                return 1
            if g_prime_product(tile, i, grad_h, grad_a):
                return 1
        elif i < L and hidden_sum(tile, i, request.params, a_of(tile, i + 1), grad_a, grad_a, TIMES):
            return 1
        if copy_out(tile, request.keep_grad_a, i, grad_a, shape.layers[i].ld, request.divisor):
            return 1
        if grad != NULL and layer_gradient(tile, i, grad_a, input_of(tile, i), grad, add):
            return 1
    if request.keep_grad_h != NULL:
        if hidden_sum(tile, 0, request.params, a_of(tile, 1), NULL, grad_h, OVERWRITE):
            return 1
        return copy_out(tile, request.keep_grad_h, 0, grad_h, shape.sizes[0], request.divisor)
    return 0


# The rest of the core, floor by floor: a file uses only what stands above it here -------------------------------------

include "recursion/sweeps.pxi"
include "recursion/jets.pxi"
include "recursion/jets_back.pxi"
include "recursion/output_layer.pxi"
include "derivatives/table.pxi"
include "derivatives/row_results.pxi"
include "derivatives/norms.pxi"
include "derivatives/first_order.pxi"
include "derivatives/clipping.pxi"
include "derivatives/linearization.pxi"
include "derivatives/second_order.pxi"
include "derivatives/least_squares.pxi"
include "derivatives/sobolev.pxi"
include "derivatives/input_second.pxi"
include "derivatives/differential_equation.pxi"
include "schedule/threads.pxi"
include "schedule/sums.pxi"
include "schedule/chunks.pxi"
include "schedule/strips.pxi"
include "schedule/rows.pxi"
include "schedule/run.pxi"
include "schedule/ensemble.pxi"
include "training/evaluation.pxi"
include "training/lbfgs.pxi"
include "training/lbfgs_object.pxi"
include "training/levenberg_marquardt.pxi"
include "calls/inspect.pxi"
include "calls/parameters.pxi"
include "calls/equation.pxi"
include "calls/quick.pxi"
include "calls/accepted.pxi"
include "calls/jets.pxi"
include "calls/partial.pxi"
include "calls/ensemble.pxi"
include "calls/epochs.pxi"
include "calls/training.pxi"
include "calls/ensemble_fits.pxi"
include "calls/plan.pxi"
include "calls/c_api.pxi"
include "calls/elementwise.pxi"
include "calls/twin.pxi"


# The typed twin -------------------------------------------------------------------------------------------------------
# Equations (1) to (8) once more, as plain loops over one sample after another. Nothing here is fast. A reader can check
# each line against the textbook, and the tests check the kernels, tiles and threads above against these loops.

cdef int twin(const Request* request, Interrupt* interrupt, floating** a, floating** h,
              floating* grad_h, floating* grad, double* loss) noexcept nogil:  # OUT; grad and loss must be 0
    """The sums over samples of the loss and its gradient; a, h and grad_h hold one sample's values, by layer."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t L = shape.n_layers, s, i, j, m, n_in, n_out
    cdef const Layer* layer
    cdef const floating* W
    cdef const floating* b
    cdef floating* grad_W
    cdef floating* grad_b
    cdef double row_loss
    for s in range(request.n_samples):
        if request.weight != NULL and not has_weight(request, s):
            continue
        for j in range(shape.sizes[0]):                                     # (1)  h_0 = x
            h[0][j] = (<const floating*>request.x)[s * shape.sizes[0] + j]
        for i in range(1, L + 1):
            layer, n_in, n_out = &shape.layers[i], shape.sizes[i - 1], shape.sizes[i]
            W, b = <const floating*>(request.params + layer.W), <const floating*>(request.params + layer.b)
            for m in range(n_out):                                          # (2)  a_i = W_i h_{i-1} + b_i
                a[i][m] = b[m]
                for j in range(n_in):
                    a[i][m] += W[m * n_in + j] * h[i - 1][j]
            if i < L or not shape.loss_acts_on_a:                           # (3)  h_i = g(a_i); a_i becomes g'(a_i)
                if twin_activation(shape, layer, a[i], h[i], interrupt):
                    return 1
        twin_loss(request, s, a[L], h[L], &row_loss)                        # (4)  a_L becomes grad_{a_L} L
        loss[0] += row_loss
        for i in range(L, 0, -1):
            layer, n_in, n_out = &shape.layers[i], shape.sizes[i - 1], shape.sizes[i]
            W = <const floating*>(request.params + layer.W)
            grad_W = grad + layer.W // sizeof(floating)
            grad_b = grad + layer.b // sizeof(floating)
            for m in range(n_out):
                for j in range(n_in):                                       # (7)  grad_W_i = grad_a_i h_{i-1}^T
                    grad_W[m * n_in + j] += a[i][m] * h[i - 1][j]
                grad_b[m] += a[i][m]                                        # (8)  grad_b_i = grad_a_i
            if i == 1:
                break
            for j in range(n_in):                                           # (5)  grad_h = W_i^T grad_a_i
                grad_h[j] = 0
                for m in range(n_out):
                    grad_h[j] += a[i][m] * W[m * n_in + j]
            for j in range(n_in):                                           # (6)  grad_a = grad_h (.) g'(a)
                a[i - 1][j] *= grad_h[j]
        if is_stopped(interrupt, 20.0 * MEMORY_FLOPS * shape.n_params):
            return 1
    return 0


cdef int twin_activation(const Shape* shape, const Layer* layer, floating* a, floating* h,
                         Interrupt* interrupt) noexcept nogil:
    """(3) of one row, by the kernels' functions of single numbers."""
    if layer.activation == CUSTOM:
        if custom_activation(layer, sizeof(floating), VALUE, 1, <const char*>a, <char*>h, layer.ld, interrupt):
            return 1
        return custom_activation(layer, sizeof(floating), FIRST, 1, <const char*>a, <char*>a, layer.ld, interrupt)
    shape.kernels.activate(layer.activation, layer.parameter, 1, layer.n_out, a, h, layer.ld, True)
    return 0


cdef void twin_loss(const Request* request, Py_ssize_t s, floating* z, const floating* y_hat,
                    double* row_loss) noexcept nogil:
    """(4) of sample s, by the kernels' losses; z is a_L, or g'(a_L) if the loss acts on y_hat."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t n_out = shape.sizes[shape.n_layers]
    cdef const char* y = request.y
    cdef const Py_ssize_t* labels = request.labels
    cdef const double* weight = request.weight
    if y != NULL:
        y += s * n_out * sizeof(floating)
    if labels != NULL:
        labels += s
    if weight != NULL:
        weight += s * weights_per_row(request)
    shape.kernels.loss(shape.loss, shape.loss_parameters, 1, n_out, z, shape.layers[shape.n_layers].ld,
                       NULL if shape.loss_acts_on_a else y_hat, y, labels, request.weight_kind, weight,
                       request.weight_scale, row_loss, True)


# (5) and (6) alone ----------------------------------------------------------------------------------------------------

cdef int hidden_sum_loops(const floating[:, :] W_next, const floating[:, :] grad_a_next, floating[:, ::1] grad_h,
                          Interrupt* interrupt) noexcept nogil:
    """dL/dh_{i,j} = sum_{m=1..k} dL/da_{i+1,m} W_{i+1,m,j}, for each sample; over m in order."""
    cdef Py_ssize_t s, m, j, end
    cdef Pieces p
    start_entries(&p, interrupt, grad_h.shape[0], grad_h.shape[1], <double>MEMORY_FLOPS * (1 + W_next.shape[0]))
    while p.n:
        end = p.column + p.n
        for s in range(p.row, p.row + p.n_rows):
            for j in range(p.column, end):
                grad_h[s, j] = 0
            for m in range(W_next.shape[0]):
                for j in range(p.column, end):
                    grad_h[s, j] += grad_a_next[s, m] * W_next[m, j]
        if next_piece(&p):
            return 1
    return 0


cdef int g_prime_product_loops(const floating[:, :] grad_h, floating[:, ::1] g_prime,
                               Interrupt* interrupt) noexcept nogil:
    """dL/da_{i,j} = dL/dh_{i,j} g'(a_{i,j}), for each sample; g_prime becomes grad_a."""
    cdef Py_ssize_t s, j
    cdef Pieces p
    start_entries(&p, interrupt, g_prime.shape[0], g_prime.shape[1], MEMORY_FLOPS)
    while p.n:
        for s in range(p.row, p.row + p.n_rows):
            for j in range(p.column, p.column + p.n):
                g_prime[s, j] *= grad_h[s, j]
        if next_piece(&p):
            return 1
    return 0
