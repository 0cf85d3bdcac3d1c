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
   dtype (a chunk), and chunks added in float64 or, for float64, as a two-term sum. The division by n_samples or by the
   sum of the weights comes once, at the end. The order depends on the layers and the number of samples alone: tiles
   are cut between chains, threads between tiles, units or chunks (schedule/threads.pxi). Tiles of very wide rows are
   shorter than a chain, which then goes on from one to the next in a buffer of its own: `open_chain`.
D. Rows whose weights are all 0 are left out when a tile is filled: the sums are those of the reduced problem, bit for
   bit. Then x, y and the weights of a tile are copied.
E. Both dtypes and all instruction sets share this file: it handles untyped memory, and the kernels of `KernelTable`
   (kernels/_kernels.pyx) compute. The typed loops at the end, `hidden_sum_loops` and `g_prime_product_loops`, state (5) and (6)
   alone; the kernels `hidden_sum` and `g_prime_product` in kernels/products.pxi are their fast twins.
F. Large x and y of another dtype, byte order or layout are converted by each tile, into buffers of its own.
"""

import importlib
import os

cimport cython
cimport numpy as cnp
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, fabs, frexp, isfinite, isinf, ldexp, signbit, sqrt
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strlen

from backprop.kernels.table cimport (
    ADD, BINARY_CROSS_ENTROPY, CHAIN_ROWS, CHUNK_ROWS, CONTINUE, CROSS_ENTROPY, CUSTOM, FAR_BYTES, HINGE, NO_WEIGHT,
    OVERWRITE, PACKED, PACK_AND_KEEP, PACK_ONCE, POISSON, ROW_BYTES, SOFTMAX, SQUARED_ERROR, TANH, TIMES,
    WEIGHT_PER_ENTRY, WEIGHT_PER_SAMPLE, KernelTable,
)

cnp.import_array()

ctypedef fused floating:
    float
    double

include "runtime/simd.pxi"
include "runtime/gil.pxi"
include "recursion/workspace.pxi"
include "schedule/free_lists.pxi"
include "runtime/interrupt.pxi"
include "calls/inspect.pxi"
include "recursion/custom.pxi"
include "recursion/tile.pxi"


# (2), (3) -------------------------------------------------------------------------------------------------------------

cdef int preactivation(const Layers* plan, const Tile* tile, Py_ssize_t i, const char* W, const char* b, const char* h,
                       char* packed, int packing, char* a, int epilogue, Clock* clock) noexcept nogil:
    """a_i = W_i h_{i-1} + b_i, where b may be NULL; ADD: a_i += W_i h_{i-1}. Nonzero where a signal handler raised."""
    cdef const Layer* layer = &plan.layers[i]
    cdef Py_ssize_t ld_h = ld_of_input(plan, i), before
    cdef int packs
    cdef Pieces p
    start_product(&p, clock, tile.n_rows, 1, layer.n_out, PIECE_COLUMNS, layer.n_in)
    while p.n:
        packs = packing
        if p.n_rows < tile.n_rows and packing != PACKED:  # the next rows find the panels of the first ones
            packs = PACK_AND_KEEP if p.row == 0 else PACKED
        before = p.column * plan.itemsize
        plan.kernels.forward_product(p.n_rows, layer.n_in, p.n, h + p.row * ld_h * plan.itemsize, ld_h,
                                     W + before * layer.n_in, packed + before * layer.n_in, packs,
                                     NULL if b == NULL else b + before, a + place(&p, layer.ld, plan.itemsize),
                                     layer.ld, epilogue)
        if next_piece(&p, clock):
            return 1
    return 0


cdef int activation(const Layers* plan, Workspace* work, const Tile* tile, Py_ssize_t i, int code, bint with_prime,
                    Clock* clock) noexcept nogil:
    """h_i = g_i(a_i); with_prime: a_i becomes g_i'(a_i). Nonzero where a handler or a user's own function raised."""
    cdef const Layer* layer = &plan.layers[i]
    cdef char* a = a_of(plan, work, tile, i)
    cdef char* h = output_of(plan, work, tile, i)
    cdef Py_ssize_t start
    cdef Pieces p
    if code == CUSTOM:
        if custom_activation(layer, plan.itemsize, VALUE, tile.n_rows, a, h, layer.ld, clock):
            return 1
        return custom_activation(layer, plan.itemsize, FIRST, tile.n_rows, a, a, layer.ld, clock) if with_prime else 0
    if code == SOFTMAX:
        start_rows(&p, clock, tile.n_rows, layer.n_out, ENTRY_FLOPS)
    else:
        start_entries(&p, clock, tile.n_rows, layer.n_out, ENTRY_FLOPS)
    while p.n:
        start = place(&p, layer.ld, plan.itemsize)
        plan.kernels.activate(code, layer.parameter, p.n_rows, p.n, a + start, h + start, layer.ld, with_prime)
        if next_piece(&p, clock):
            return 1
    return 0


cdef int activation_second(const Layers* plan, Workspace* work, const Tile* tile, Py_ssize_t i,
                           Clock* clock) noexcept nogil:
    """g_i''(a_i), before a_i becomes g_i'(a_i). Nonzero where a handler or a user's own function raised."""
    cdef const Layer* layer = &plan.layers[i]
    cdef const char* a = a_of(plan, work, tile, i)
    cdef char* g_second = work.g_second[i] + tile.first * layer.ld * plan.itemsize
    cdef Py_ssize_t start
    cdef Pieces p
    if layer.activation == CUSTOM:
        return custom_activation(layer, plan.itemsize, SECOND, tile.n_rows, a, g_second, layer.ld, clock)
    start_entries(&p, clock, tile.n_rows, layer.n_out, ENTRY_FLOPS)
    while p.n:
        start = place(&p, layer.ld, plan.itemsize)
        plan.kernels.second_derivative(layer.activation, layer.parameter, p.n_rows, p.n, a + start, g_second + start,
                                       layer.ld)
        if next_piece(&p, clock):
            return 1
    return 0


cdef int forward_sweep(const Layers* plan, const Request* request, Workspace* work, const Tile* tile,
                       bint with_prime, Clock* clock) noexcept nogil:
    """(2) and (3) for i = 1..L, but (3) for i = L only where the loss acts on y_hat.

    Nonzero where a signal handler raised; then the rest is left out.
    """
    cdef Py_ssize_t i, first, rows
    cdef const Layer* layer
    cdef bint activate
    cdef Tile part
    for i in range(1, plan.n_layers + 1):
        layer = &plan.layers[i]
        activate = i < plan.n_layers or not plan.loss_acts_on_a
        rows = min(layer.rows_in_l1, tile.n_rows)
        first = 0
        while first < tile.n_rows:  # few rows at a time, so that a_i is still in L1 when g comes
            part = part_of(plan, request, tile, first, min(rows, tile.n_rows - first))
            if rows < tile.n_rows and tile.packing != PACKED:
                part.packing = PACK_AND_KEEP if first == 0 else PACKED
            if preactivation(plan, &part, i, request.params + layer.W, request.params + layer.b,
                             input_of(plan, work, &part, i), work.packed[i], part.packing, a_of(plan, work, &part, i),
                             OVERWRITE, clock):
                return 1
            if (request.with_second and activate and not has_curve_of_h(plan, i)
                    and activation_second(plan, work, &part, i, clock)):
                return 1
            if activate and activation(plan, work, &part, i, layer.activation, with_prime, clock):
                return 1
            first += rows
        if keep(plan, tile, request.keep_a, i, a_of(plan, work, tile, i), layer.ld, 1, clock):
            return 1
        if activate and keep(plan, tile, request.keep_h, i, output_of(plan, work, tile, i), layer.ld, 1, clock):
            return 1
    if tile.packing == PACK_AND_KEEP:
        work.is_packed = True
    return 0


# (4) ------------------------------------------------------------------------------------------------------------------

cdef int output_gradient(const Layers* plan, const Request* request, Workspace* work, const Tile* tile, char* z,
                         double* row_loss, bint with_gradient, Clock* clock) noexcept nogil:
    """Weighted row losses; z, which is a_L, or g'(a_L) where the loss acts on y_hat, becomes grad_{a_L} L.

    Nonzero where a signal handler raised.
    """
    cdef Py_ssize_t L = plan.n_layers
    cdef const Tile* rows = tile
    cdef Tile part
    cdef Pieces p
    start_rows(&p, clock, tile.n_rows, plan.sizes[L], 2.0 * ENTRY_FLOPS)
    while p.n:
        if p.n_rows < tile.n_rows:
            part = part_of(plan, request, tile, p.row, p.n_rows)
            rows = &part
        plan.kernels.loss(plan.loss, plan.loss_parameter, rows.n_rows, plan.sizes[L],
                          z + place(&p, plan.layers[L].ld, plan.itemsize), plan.layers[L].ld,
                          NULL if plan.loss_acts_on_a else output_of(plan, work, rows, L), rows.y, rows.labels,
                          request.weight_kind, rows.weight, request.weight_scale, row_loss + p.row, with_gradient)
        if next_piece(&p, clock):
            return 1
    return 0


cdef int output_grad_h(const Layers* plan, const Request* request, Workspace* work, const Tile* tile, char* grad_h,
                       double* row_loss, Clock* clock) noexcept nogil:
    """grad_{h_L} L, and the row losses, where the loss acts on y_hat: with g' = 1, grad_a_L is grad_h_L."""
    cdef Py_ssize_t ld = plan.layers[plan.n_layers].ld
    cdef Pieces p
    start_entries(&p, clock, 1, tile.n_rows * ld, MEMORY_FLOPS)
    while p.n:
        plan.kernels.fill_with_ones(p.n, grad_h + p.column * plan.itemsize)
        if next_piece(&p, clock):
            return 1
    return output_gradient(plan, request, work, tile, grad_h, row_loss, True, clock)


# (5), (6) -------------------------------------------------------------------------------------------------------------

cdef int hidden_sum(const Layers* plan, const Tile* tile, Py_ssize_t i, const char* params, const char* grad_a_next,
                    const char* g_prime, char* grad_h, int epilogue, Clock* clock) noexcept nogil:
    """dL/dh_{i,j} = sum_m dL/da_{i+1,m} W_{i+1,m,j}; TIMES: the product (6) in the same pass, with g_prime of layer i.

    g_prime may be grad_h, or NULL without TIMES. W_{i+1} is that of params, or of any vector with its layout. Nonzero
    where a signal handler raised.
    """
    cdef const Layer* next_layer = &plan.layers[i + 1]
    cdef Py_ssize_t ld = ld_of_input(plan, i + 1), start
    cdef Pieces p
    start_product(&p, clock, tile.n_rows, 1, next_layer.n_in, PIECE_COLUMNS, next_layer.n_out)
    while p.n:
        start = place(&p, ld, plan.itemsize)
        plan.kernels.hidden_sum(p.n_rows, p.n, next_layer.n_out, grad_a_next + p.row * next_layer.ld * plan.itemsize,
                                next_layer.ld, params + next_layer.W + p.column * plan.itemsize, next_layer.n_in,
                                NULL if g_prime == NULL else g_prime + start, grad_h + start, ld, epilogue,
                                tile.scratch)
        if next_piece(&p, clock):
            return 1
    return 0


cdef int g_prime_product(const Layers* plan, const Tile* tile, Py_ssize_t i, const char* grad_h, char* g_prime,
                         Clock* clock) noexcept nogil:
    """dL/da_{i,j} = dL/dh_{i,j} g'(a_{i,j}), in the place of g'; or any two buffers of layer i multiplied so.

    Nonzero where a signal handler raised.
    """
    cdef Py_ssize_t ld = plan.layers[i].ld, start
    cdef Pieces p
    start_entries(&p, clock, tile.n_rows, plan.sizes[i], MEMORY_FLOPS)
    while p.n:
        start = place(&p, ld, plan.itemsize)
        plan.kernels.g_prime_product(p.n_rows, p.n, grad_h + start, ld, g_prime + start, ld)
        if next_piece(&p, clock):
            return 1
    return 0


# (7), (8) -------------------------------------------------------------------------------------------------------------

cdef inline int going_on(const Tile* tile, bint add) noexcept nogil:
    """What is added to sums: whole chains, or the rest of chains that tiles before this one began."""
    return CONTINUE if add and tile.is_open else add


cdef int weight_gradient(const Layers* plan, const Tile* tile, Py_ssize_t i, const char* grad_a, const char* h,
                         Py_ssize_t unit, Py_ssize_t n_units, char* grad, bint add, double divisor,
                         Clock* clock) noexcept nogil:
    """grad_{W_i} L = grad_{a_i} L h_{i-1}^T for some units of a layer, summed over the tile; or added to grad.

    Nonzero where a signal handler raised.
    """
    cdef const Layer* layer = &plan.layers[i]
    cdef Py_ssize_t end = unit + n_units, n
    while unit < end:
        n = min(<Py_ssize_t>SCRATCH_UNITS, end - unit)
        if products_over_rows(plan, tile, tile.n_rows, layer.n_in, n, grad_a + unit * plan.itemsize, layer.ld, h,
                              ld_of_input(plan, i), grad + layer.W + unit * layer.n_in * plan.itemsize, layer.n_in,
                              going_on(tile, add), divisor, clock):
            return 1
        unit += n
    return 0


cdef int products_over_rows(const Layers* plan, const Tile* tile, Py_ssize_t n_rows, Py_ssize_t n_in,
                            Py_ssize_t n_out, const char* grad_a, Py_ssize_t ld_a, const char* h, Py_ssize_t ld_h,
                            char* grad_W, Py_ssize_t ld_W, int add, double divisor, Clock* clock) noexcept nogil:
    """(7) of any rows: grad_W = grad_a^T h, or added to it.

    Inputs are cut only where the rows of h are so long that the kernel copies their panels: else it reads beyond the
    last input of a piece, up to the end of a whole row.
    """
    cdef Pieces p
    start_product(&p, clock, n_out, PIECE_COLUMNS, n_in, PIECE_COLUMNS if ld_h * plan.itemsize >= FAR_BYTES else n_in,
                  n_rows)
    while p.n:
        plan.kernels.weight_gradient(n_rows, p.n, p.n_rows, grad_a + p.row * plan.itemsize, ld_a,
                                     h + p.column * plan.itemsize, ld_h, grad_W + place(&p, ld_W, plan.itemsize), ld_W,
                                     add, divisor, tile.scratch)
        if next_piece(&p, clock):
            return 1
    return 0


cdef int bias_gradient(const Layers* plan, const Tile* tile, Py_ssize_t i, const char* grad_a, Py_ssize_t unit,
                       Py_ssize_t n_units, char* grad, bint add, double divisor, Clock* clock) noexcept nogil:
    """grad_{b_i} L = grad_{a_i} L for some units of a layer, summed over the tile; or added to grad."""
    cdef const Layer* layer = &plan.layers[i]
    return sum_of_rows(plan, tile.n_rows, n_units, grad_a + unit * plan.itemsize, layer.ld,
                       grad + layer.b + unit * plan.itemsize, going_on(tile, add), divisor, clock)


cdef int sum_of_rows(const Layers* plan, Py_ssize_t n_rows, Py_ssize_t n_out, const char* grad_a, Py_ssize_t ld_a,
                     char* grad_b, int add, double divisor, Clock* clock) noexcept nogil:
    """(8) of any rows."""
    cdef Py_ssize_t before
    cdef Pieces p
    start_entries(&p, clock, 1, n_out, <double>MEMORY_FLOPS * n_rows)
    while p.n:
        before = p.column * plan.itemsize
        plan.kernels.bias_gradient(n_rows, p.n, grad_a + before, ld_a, grad_b + before, add, divisor)
        if next_piece(&p, clock):
            return 1
    return 0


cdef int backward_sweep(const Layers* plan, const Request* request, Workspace* work, const Tile* tile,
                        char* grad, bint add, double divisor, Clock* clock) noexcept nogil:
    """(5)-(8) for i = L..1, from grad_{a_L} L; with grad NULL (5) and (6) alone. divisor: 0, or where the sum ends.

    Nonzero where a signal handler raised; then the rest is left out.
    """
    cdef Py_ssize_t i, L = plan.n_layers
    cdef char* grad_a
    if request.keep_grad_h != NULL and not plan.loss_acts_on_a:
        if output_grad_h(plan, request, work, tile, work.grad_h, work.row_loss + tile.first, clock):
            return 1
        if keep(plan, tile, request.keep_grad_h, L, work.grad_h, plan.layers[L].ld, request.divisor, clock):
            return 1
    for i in range(L, 0, -1):
        grad_a = a_of(plan, work, tile, i)
        if i < L and request.keep_grad_h != NULL:
            if hidden_sum(plan, tile, i, request.params, a_of(plan, work, tile, i + 1), NULL, work.grad_h, OVERWRITE,
                          clock):
                return 1
            if keep(plan, tile, request.keep_grad_h, i, work.grad_h, plan.layers[i].ld, request.divisor, clock):
                return 1
            if g_prime_product(plan, tile, i, work.grad_h, grad_a, clock):
                return 1
        elif i < L and hidden_sum(plan, tile, i, request.params, a_of(plan, work, tile, i + 1), grad_a, grad_a, TIMES,
                                  clock):
            return 1
        if keep(plan, tile, request.keep_grad_a, i, grad_a, plan.layers[i].ld, request.divisor, clock):
            return 1
        if grad != NULL:
            if weight_gradient(plan, tile, i, grad_a, input_of(plan, work, tile, i), 0, plan.sizes[i], grad, add,
                               divisor, clock):
                return 1
            if bias_gradient(plan, tile, i, grad_a, 0, plan.sizes[i], grad, add, divisor, clock):
                return 1
    if request.keep_grad_h != NULL:
        if hidden_sum(plan, tile, 0, request.params, a_of(plan, work, tile, 1), NULL, work.grad_h, OVERWRITE, clock):
            return 1
        return keep(plan, tile, request.keep_grad_h, 0, work.grad_h, plan.sizes[0], request.divisor, clock)
    return 0


cdef int keep(const Layers* plan, const Tile* tile, void** arrays, Py_ssize_t i, const char* rows, Py_ssize_t ld,
              double divisor, Clock* clock) noexcept nogil:
    """Copy a layer's rows of the tile, divided, to the caller's array for it, where he asked for one.

    Nonzero where a signal handler raised.
    """
    cdef Py_ssize_t s, n = plan.sizes[i]
    if arrays == NULL or arrays[i] == NULL:
        return 0
    for s in range(tile.n_rows):
        plan.kernels.finish(n, rows + s * ld * plan.itemsize, divisor,
                            <char*>arrays[i] + tile.rows[s] * n * plan.itemsize)
        if is_stopped(clock, <double>MEMORY_FLOPS * n):
            return 1
    return 0


include "schedule/sums.pxi"
include "derivatives/linearization.pxi"
include "recursion/sweeps.pxi"
include "derivatives/norms.pxi"
include "derivatives/summed.pxi"
include "derivatives/by_sample.pxi"
include "schedule/threads.pxi"
include "calls/table.pxi"
include "calls/parameters.pxi"
include "calls/quick.pxi"
include "calls/plan.pxi"
include "schedule/run.pxi"
include "schedule/ensemble.pxi"
include "calls/c_api.pxi"


# (5) and (6) alone ----------------------------------------------------------------------------------------------------

cdef int hidden_sum_loops(const floating[:, :] W_next, const floating[:, :] grad_a_next, floating[:, ::1] grad_h,
                          Clock* clock) noexcept nogil:
    """dL/dh_{i,j} = sum_{m=1..k} dL/da_{i+1,m} W_{i+1,m,j}, for each sample; over m in order.

    Nonzero where a signal handler raised, as below.
    """
    cdef Py_ssize_t s, m, j, end
    cdef Pieces p
    start_entries(&p, clock, grad_h.shape[0], grad_h.shape[1], <double>MEMORY_FLOPS * (1 + W_next.shape[0]))
    while p.n:
        end = p.column + p.n
        for s in range(p.row, p.row + p.n_rows):
            for j in range(p.column, end):
                grad_h[s, j] = 0
            for m in range(W_next.shape[0]):
                for j in range(p.column, end):
                    grad_h[s, j] += grad_a_next[s, m] * W_next[m, j]
        if next_piece(&p, clock):
            return 1
    return 0


def hidden_gradient(const floating[:, :] W_next, const floating[:, :] grad_a_next, floating[:, ::1] grad_h):
    """Equation (5) into grad_h; every stride of the inputs is fine."""
    cdef Clock clock
    with nogil:
        reset_clock(&clock, False, True)
        clock.callers_mode = enter_default_mode()
        hidden_sum_loops(W_next, grad_a_next, grad_h, &clock)
        leave_default_mode(clock.callers_mode, NULL)
    raise_for_signal(&clock)


cdef int g_prime_product_loops(const floating[:, :] grad_h, floating[:, ::1] g_prime, Clock* clock) noexcept nogil:
    """dL/da_{i,j} = dL/dh_{i,j} g'(a_{i,j}), for each sample; g_prime becomes grad_a."""
    cdef Py_ssize_t s, j
    cdef Pieces p
    start_entries(&p, clock, g_prime.shape[0], g_prime.shape[1], MEMORY_FLOPS)
    while p.n:
        for s in range(p.row, p.row + p.n_rows):
            for j in range(p.column, p.column + p.n):
                g_prime[s, j] *= grad_h[s, j]
        if next_piece(&p, clock):
            return 1
    return 0


def preactivation_gradient(const floating[:, :] grad_h, floating[:, ::1] g_prime):
    """Equation (6), in place: g_prime becomes grad_a."""
    cdef Clock clock
    with nogil:
        reset_clock(&clock, False, True)
        clock.callers_mode = enter_default_mode()
        g_prime_product_loops(grad_h, g_prime, &clock)
        leave_default_mode(clock.callers_mode, NULL)
    raise_for_signal(&clock)


def activate(floating[:, ::1] a, floating[:, ::1] h, int code, double parameter):
    """Equation (3) alone: h = g(a), and a becomes g'(a)."""
    cdef const KernelTable* kernels = kernel_table(sizeof(floating))
    cdef Clock clock
    cdef Pieces p
    if a.shape[0] == 0 or a.shape[1] == 0:
        return
    with nogil:
        reset_clock(&clock, False, True)
        clock.callers_mode = enter_default_mode()
        start_entries(&p, &clock, a.shape[0], a.shape[1], ENTRY_FLOPS)
        while p.n:
            kernels.activate(code, parameter, p.n_rows, p.n, &a[p.row, p.column], &h[p.row, p.column], a.shape[1],
                             True)
            if next_piece(&p, &clock):
                break
        leave_default_mode(clock.callers_mode, NULL)
    raise_for_signal(&clock)


def second_derivative(floating[:, ::1] a, floating[:, ::1] out, int code, double parameter):
    """out = g''(a), which the products with a Hessian need beside g'."""
    cdef const KernelTable* kernels = kernel_table(sizeof(floating))
    cdef Clock clock
    cdef Pieces p
    if a.shape[0] == 0 or a.shape[1] == 0:
        return
    with nogil:
        reset_clock(&clock, False, True)
        clock.callers_mode = enter_default_mode()
        start_entries(&p, &clock, a.shape[0], a.shape[1], ENTRY_FLOPS)
        while p.n:
            kernels.second_derivative(code, parameter, p.n_rows, p.n, &a[p.row, p.column], &out[p.row, p.column],
                                      a.shape[1])
            if next_piece(&p, &clock):
                break
        leave_default_mode(clock.callers_mode, NULL)
    raise_for_signal(&clock)


def mirror(floating[:, ::1] H):
    """The lower triangle becomes the upper one's mirror image, in blocks that stay in L1."""
    cdef Py_ssize_t n = H.shape[0], p0, q0, p, q
    cdef Clock clock
    with nogil:
        reset_clock(&clock, False, True)
        clock.callers_mode = enter_default_mode()  # handlers run in the caller's
        for p0 in range(0, n, 32):
            for q0 in range(0, p0 + 1, 32):
                for p in range(p0, min(p0 + 32, n)):
                    for q in range(q0, min(q0 + 32, p)):
                        H[p, q] = H[q, p]
                if is_stopped(&clock, MEMORY_FLOPS * 32 * 32):
                    break
            if has_raised(&clock):
                break
        leave_default_mode(clock.callers_mode, NULL)
    raise_for_signal(&clock)


@cython.auto_pickle(False)
cdef class DefaultFloatMode:
    """A context for NumPy's arithmetic on behalf of a call, which follows the modes of the floating-point units."""

    cdef uint64_t mode
    cdef unsigned x87

    def __enter__(self):
        self.mode = enter_default_mode()
        self.x87 = get_x87()
        if self.x87 != DEFAULT_X87:
            set_x87(DEFAULT_X87)

    def __exit__(self, *exception):
        if self.x87 != DEFAULT_X87:
            set_x87(self.x87)
        leave_default_mode(self.mode, NULL)
