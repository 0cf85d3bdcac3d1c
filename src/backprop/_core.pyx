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
   are cut between chains, threads between tiles, units or chunks (_core_threads.pxi).
D. Rows whose weights are all 0 are left out when a tile is filled: the sums are those of the reduced problem, bit for
   bit. Then, and only then, x, y and the weights of a tile are copied.
E. Both dtypes and all instruction sets share this file: it handles untyped memory, and the kernels of `KernelTable`
   (_kernels.pyx) compute. The typed loops at the end, `hidden_sum_loops` and `g_prime_product_loops`, state (5) and (6)
   alone; the kernels `hidden_sum` and `g_prime_product` in _kernels_products.pxi are their fast twins.
"""

import importlib
import os

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport frexp, isfinite, ldexp, sqrt
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from backprop._kernel_table cimport (
    ADD, BINARY_CROSS_ENTROPY, CHAIN_ROWS, CHUNK_ROWS, CROSS_ENTROPY, CUSTOM, HINGE, NO_WEIGHT, OVERWRITE, PACKED,
    PACK_AND_KEEP, PACK_ONCE, POISSON, ROW_BYTES, SOFTMAX, SQUARED_ERROR, TANH, TIMES, WEIGHT_PER_ENTRY,
    WEIGHT_PER_SAMPLE, KernelTable,
)

cnp.import_array()

ctypedef fused floating:
    float
    double

include "_core_simd.pxi"
include "_core_gil.pxi"
include "_core_workspace.pxi"
include "_core_free_lists.pxi"
include "_core_signals.pxi"
include "_core_inspect.pxi"
include "_core_custom.pxi"


cdef enum Mode:
    # What a call makes of its tiles: sums over samples, or rows of their own (_core_modes.pxi).
    VALUE_AND_GRAD, VJP, CLIPPED_GRADIENT, HVP, GAUSS_NEWTON_VP, HESSIAN, NORMAL_EQUATIONS, SOBOLEV
    FORWARD, JVP, INPUT_GRADIENT, INPUT_JACOBIAN, JACOBIAN, PER_SAMPLE_GRADIENTS, PER_SAMPLE_GRADIENT_NORMS


cdef struct Request:
    # What one call asks for, as checked pointers; NULL where a thing is not asked for or not there.
    int mode
    const char* params
    Py_ssize_t n_samples
    const char* x                # (n_samples, n_0)
    const char* y                # (n_samples, n_L), or NULL for labels
    const Py_ssize_t* labels     # (n_samples,)
    int weight_kind
    const double* weight         # (n_samples,) or (n_samples, n_L)
    double weight_scale          # a power of two that brings the weights near 1, against under- and overflow
    Py_ssize_t n_kept            # samples that have a weight other than 0
    double divisor               # n_samples or the sum of scaled weights, times n_L where l is a mean over outputs
    Py_ssize_t n_sums            # entries of grad
    char* grad                   # the sums over samples: (n_params,) but for Hessians and normal equations
    char* rows                   # what each sample has of its own: forward's y_hat, input gradients, ...
    const char* v                # (n_params,): the direction of a derivative
    KeptRows* kept               # of hvp: what earlier calls at these parameters left
    const char* cotangent        # (n_samples, n_L)
    double max_norm
    const char* target_grad_x    # (n_samples, n_L, n_0)
    const double* grad_weight    # (n_L, n_0)
    bint with_second             # g''(a) is needed too
    bint is_by_sample            # rows alone are asked for: tiles know nothing of one another
    int kind                     # of the workspace that this takes
    void** keep_a                # layer_gradients: arrays (n_samples, n_i) by layer 0..L, NULL entries are skipped
    void** keep_h
    void** keep_grad_a
    void** keep_grad_h


cdef struct Tile:
    # Rows that go through the recursion together: pointers into the caller's arrays, or into copies (note D).
    Py_ssize_t first             # where the rows start in the buffers of the workspace
    Py_ssize_t n_rows
    const char* x
    const char* y
    const Py_ssize_t* labels
    const double* weight
    Py_ssize_t* rows             # the source row of each row of the tile
    char* scratch                # this thread's
    int packing
    bint is_workers              # a worker's: it runs no signal handlers


# (1) ------------------------------------------------------------------------------------------------------------------

cdef inline bint has_weight(const Request* request, Py_ssize_t row, Py_ssize_t n_out) noexcept nogil:
    """Whether any weight of the row is not 0."""
    cdef Py_ssize_t j
    if request.weight_kind == WEIGHT_PER_SAMPLE:
        return request.weight[row] != 0
    for j in range(n_out):
        if request.weight[row * n_out + j] != 0:
            return True
    return False


cdef Py_ssize_t fill_tile(const Layers* plan, const Request* request, Workspace* work, Tile* tile,
                          Py_ssize_t row, Py_ssize_t n_rows) noexcept nogil:
    """n_rows rows with weight, from source row `row` on, into the tile; returns the row after the last one."""
    cdef Py_ssize_t n_in = plan.sizes[0], n_out = plan.sizes[plan.n_layers], s = 0
    cdef Py_ssize_t weight_width = n_out if request.weight_kind == WEIGHT_PER_ENTRY else 1
    tile.first = 0
    tile.n_rows = n_rows
    tile.x = request.x + row * n_in * plan.itemsize
    tile.y = NULL
    tile.labels = NULL
    tile.weight = NULL
    tile.rows = work.rows
    tile.scratch = work.scratch
    tile.is_workers = False
    if request.n_kept == request.n_samples:
        if request.y != NULL:
            tile.y = request.y + row * n_out * plan.itemsize
        if request.labels != NULL:
            tile.labels = request.labels + row
        if request.weight_kind != NO_WEIGHT:
            tile.weight = request.weight + row * weight_width
        for s in range(n_rows):
            tile.rows[s] = row + s
        return row + n_rows
    tile.x = work.x
    if request.y != NULL:
        tile.y = work.y
    if request.labels != NULL:
        tile.labels = work.labels
    tile.weight = work.weight
    while s < n_rows:
        if has_weight(request, row, n_out):
            tile.rows[s] = row
            memcpy(work.x + s * n_in * plan.itemsize, request.x + row * n_in * plan.itemsize, n_in * plan.itemsize)
            if request.y != NULL:
                memcpy(work.y + s * n_out * plan.itemsize, request.y + row * n_out * plan.itemsize,
                       n_out * plan.itemsize)
            if request.labels != NULL:
                work.labels[s] = request.labels[row]
            memcpy(work.weight + s * weight_width, request.weight + row * weight_width, weight_width * sizeof(double))
            s += 1
        row += 1
    return row


cdef Tile part_of(const Layers* plan, const Request* request, const Tile* tile, Py_ssize_t first,
                  Py_ssize_t n_rows) noexcept nogil:
    """Some rows of a tile."""
    cdef Tile part = tile[0]
    cdef Py_ssize_t n_out = plan.sizes[plan.n_layers]
    part.first = tile.first + first
    part.n_rows = n_rows
    part.x = tile.x + first * plan.sizes[0] * plan.itemsize
    if part.y != NULL:
        part.y = tile.y + first * n_out * plan.itemsize
    if part.labels != NULL:
        part.labels = tile.labels + first
    if part.weight != NULL:
        part.weight = tile.weight + first * (n_out if request.weight_kind == WEIGHT_PER_ENTRY else 1)
    part.rows = tile.rows + first
    return part


cdef inline char* a_of(const Layers* plan, const Workspace* work, const Tile* tile, Py_ssize_t i) noexcept nogil:
    """a_i of the tile, then g'(a_i), then grad_a_i (note B)."""
    return work.a[i] + tile.first * plan.layers[i].ld * plan.itemsize


cdef inline char* output_of(const Layers* plan, const Workspace* work, const Tile* tile, Py_ssize_t i) noexcept nogil:
    """h_i of the tile, i > 0."""
    return work.h[i] + tile.first * plan.layers[i].ld * plan.itemsize


cdef inline const char* input_of(const Layers* plan, const Workspace* work, const Tile* tile,
                                 Py_ssize_t i) noexcept nogil:
    """h_{i-1} of the tile; h_0 is x."""
    return tile.x if i == 1 else output_of(plan, work, tile, i - 1)


cdef inline Py_ssize_t ld_of_input(const Layers* plan, Py_ssize_t i) noexcept nogil:
    """The row length of h_{i-1} in reals: x has no padding."""
    return plan.sizes[0] if i == 1 else plan.layers[i - 1].ld


cdef inline Py_ssize_t next_part(const Layers* plan, Py_ssize_t n_rows, Py_ssize_t depth,
                                 Py_ssize_t n_left) noexcept nogil:
    """Columns of a product that come before the next poll: whole panels, and no stump at the end."""
    cdef Py_ssize_t n
    if not plan.is_long:
        return n_left
    n = max(<Py_ssize_t>1, <Py_ssize_t>(PART_FLOPS / (2.0 * n_rows * depth)) // PACK_COLUMNS) * PACK_COLUMNS
    return n_left if n_left < n + PACK_COLUMNS else n


# (2), (3) -------------------------------------------------------------------------------------------------------------

cdef int preactivation(const Layers* plan, const Tile* tile, Py_ssize_t i, const char* W, const char* b, const char* h,
                       char* packed, int packing, char* a, int epilogue, Clock* clock) noexcept nogil:
    """a_i = W_i h_{i-1} + b_i, where b may be NULL; ADD: a_i += W_i h_{i-1}. Nonzero where a signal handler raised."""
    cdef const Layer* layer = &plan.layers[i]
    cdef Py_ssize_t j = 0, n
    while j < layer.n_out:
        n = next_part(plan, tile.n_rows, layer.n_in, layer.n_out - j)
        plan.kernels.forward_product(tile.n_rows, layer.n_in, n, h, ld_of_input(plan, i),
                                     W + j * layer.n_in * plan.itemsize, packed, packing, b, a + j * plan.itemsize,
                                     layer.ld, epilogue)
        if packing != PACK_ONCE:
            packed += n * layer.n_in * plan.itemsize
        if b != NULL:
            b += n * plan.itemsize
        j += n
        if plan.is_long and is_stopped(tile.is_workers, clock):
            return 1
    return 0


cdef int activation(const Layers* plan, Workspace* work, const Tile* tile, Py_ssize_t i, int code,
                    bint with_prime) noexcept nogil:
    """h_i = g_i(a_i); with_prime: a_i becomes g_i'(a_i). Nonzero where a user's own function raised."""
    cdef const Layer* layer = &plan.layers[i]
    cdef char* a = a_of(plan, work, tile, i)
    if code == CUSTOM:
        if custom_activation(layer, plan.itemsize, VALUE, tile.n_rows, a, output_of(plan, work, tile, i), layer.ld):
            return 1
        return custom_activation(layer, plan.itemsize, FIRST, tile.n_rows, a, a, layer.ld) if with_prime else 0
    plan.kernels.activate(code, layer.parameter, tile.n_rows, layer.n_out, a, output_of(plan, work, tile, i), layer.ld,
                          with_prime)
    return 0


cdef int activation_second(const Layers* plan, Workspace* work, const Tile* tile, Py_ssize_t i) noexcept nogil:
    """g_i''(a_i), before a_i becomes g_i'(a_i). Nonzero where a user's own function raised."""
    cdef const Layer* layer = &plan.layers[i]
    cdef char* g_second = work.g_second[i] + tile.first * layer.ld * plan.itemsize
    if layer.activation == CUSTOM:
        return custom_activation(layer, plan.itemsize, SECOND, tile.n_rows, a_of(plan, work, tile, i), g_second,
                                 layer.ld)
    plan.kernels.second_derivative(layer.activation, layer.parameter, tile.n_rows, layer.n_out,
                                   a_of(plan, work, tile, i), g_second, layer.ld)
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
                    and activation_second(plan, work, &part, i)):
                return stop(clock)
            if activate and activation(plan, work, &part, i, layer.activation, with_prime):
                return stop(clock)
            first += rows
        keep(plan, tile, request.keep_a, i, a_of(plan, work, tile, i), layer.ld, 1)
        if activate:
            keep(plan, tile, request.keep_h, i, output_of(plan, work, tile, i), layer.ld, 1)
    if tile.packing == PACK_AND_KEEP:
        work.is_packed = True
    return 0


# (4) ------------------------------------------------------------------------------------------------------------------

cdef void output_gradient(const Layers* plan, const Request* request, Workspace* work, const Tile* tile, char* z,
                          double* row_loss, bint with_gradient) noexcept nogil:
    """Weighted row losses; z, which is a_L, or g'(a_L) where the loss acts on y_hat, becomes grad_{a_L} L."""
    cdef Py_ssize_t L = plan.n_layers
    cdef const char* y_hat = NULL if plan.loss_acts_on_a else output_of(plan, work, tile, L)
    plan.kernels.loss(plan.loss, plan.loss_parameter, tile.n_rows, plan.sizes[L], z, plan.layers[L].ld, y_hat, tile.y,
                      tile.labels, request.weight_kind, tile.weight, request.weight_scale, row_loss, with_gradient)


cdef void output_grad_h(const Layers* plan, const Request* request, Workspace* work, const Tile* tile, char* grad_h,
                        double* row_loss) noexcept nogil:
    """grad_{h_L} L, and the row losses, where the loss acts on y_hat: with g' = 1, grad_a_L is grad_h_L."""
    plan.kernels.fill_with_ones(tile.n_rows * plan.layers[plan.n_layers].ld, grad_h)
    output_gradient(plan, request, work, tile, grad_h, row_loss, True)


# (5), (6) -------------------------------------------------------------------------------------------------------------

cdef int hidden_sum(const Layers* plan, const Tile* tile, Py_ssize_t i, const char* params, const char* grad_a_next,
                    const char* g_prime, char* grad_h, int epilogue, Clock* clock) noexcept nogil:
    """dL/dh_{i,j} = sum_m dL/da_{i+1,m} W_{i+1,m,j}; TIMES: the product (6) in the same pass, with g_prime of layer i.

    g_prime may be grad_h, or NULL without TIMES. W_{i+1} is that of params, or of any vector with its layout. Nonzero
    where a signal handler raised.
    """
    cdef const Layer* next_layer = &plan.layers[i + 1]
    cdef Py_ssize_t j = 0, n
    while j < next_layer.n_in:
        n = next_part(plan, tile.n_rows, next_layer.n_out, next_layer.n_in - j)
        plan.kernels.hidden_sum(tile.n_rows, n, next_layer.n_out, grad_a_next, next_layer.ld,
                                params + next_layer.W + j * plan.itemsize, next_layer.n_in,
                                NULL if g_prime == NULL else g_prime + j * plan.itemsize, grad_h + j * plan.itemsize,
                                ld_of_input(plan, i + 1), epilogue, tile.scratch)
        j += n
        if plan.is_long and is_stopped(tile.is_workers, clock):
            return 1
    return 0


cdef inline void g_prime_product(const Layers* plan, const Tile* tile, Py_ssize_t i, const char* grad_h,
                                 char* g_prime) noexcept nogil:
    """dL/da_{i,j} = dL/dh_{i,j} g'(a_{i,j}), in the place of g'; or any two buffers of layer i multiplied so."""
    plan.kernels.g_prime_product(tile.n_rows, plan.sizes[i], grad_h, plan.layers[i].ld, g_prime, plan.layers[i].ld)


# (7), (8) -------------------------------------------------------------------------------------------------------------

cdef int weight_gradient(const Layers* plan, const Tile* tile, Py_ssize_t i, const char* grad_a, const char* h,
                         Py_ssize_t unit, Py_ssize_t n_units, char* grad, bint add, double divisor,
                         Clock* clock) noexcept nogil:
    """grad_{W_i} L = grad_{a_i} L h_{i-1}^T for some units of a layer, summed over the tile; or added to grad.

    Nonzero where a signal handler raised.
    """
    cdef const Layer* layer = &plan.layers[i]
    cdef Py_ssize_t end = unit + n_units, n
    while unit < end:
        n = next_part(plan, tile.n_rows, layer.n_in, end - unit)
        plan.kernels.weight_gradient(tile.n_rows, layer.n_in, n, grad_a + unit * plan.itemsize, layer.ld, h,
                                     ld_of_input(plan, i), grad + layer.W + unit * layer.n_in * plan.itemsize,
                                     layer.n_in, add, divisor, tile.scratch)
        unit += n
        if plan.is_long and is_stopped(tile.is_workers, clock):
            return 1
    return 0


cdef void bias_gradient(const Layers* plan, const Tile* tile, Py_ssize_t i, const char* grad_a, Py_ssize_t unit,
                        Py_ssize_t n_units, char* grad, bint add, double divisor) noexcept nogil:
    """grad_{b_i} L = grad_{a_i} L for some units of a layer, summed over the tile; or added to grad."""
    cdef const Layer* layer = &plan.layers[i]
    plan.kernels.bias_gradient(tile.n_rows, n_units, grad_a + unit * plan.itemsize, layer.ld,
                               grad + layer.b + unit * plan.itemsize, add, divisor)


cdef int backward_sweep(const Layers* plan, const Request* request, Workspace* work, const Tile* tile,
                        char* grad, bint add, double divisor, Clock* clock) noexcept nogil:
    """(5)-(8) for i = L..1, from grad_{a_L} L; with grad NULL (5) and (6) alone. divisor: 0, or where the sum ends.

    Nonzero where a signal handler raised; then the rest is left out.
    """
    cdef Py_ssize_t i, L = plan.n_layers
    cdef char* grad_a
    if request.keep_grad_h != NULL and not plan.loss_acts_on_a:
        output_grad_h(plan, request, work, tile, work.grad_h, work.row_loss + tile.first)
        keep(plan, tile, request.keep_grad_h, L, work.grad_h, plan.layers[L].ld, request.divisor)
    for i in range(L, 0, -1):
        grad_a = a_of(plan, work, tile, i)
        if i < L and request.keep_grad_h != NULL:
            if hidden_sum(plan, tile, i, request.params, a_of(plan, work, tile, i + 1), NULL, work.grad_h, OVERWRITE,
                          clock):
                return 1
            keep(plan, tile, request.keep_grad_h, i, work.grad_h, plan.layers[i].ld, request.divisor)
            g_prime_product(plan, tile, i, work.grad_h, grad_a)
        elif i < L and hidden_sum(plan, tile, i, request.params, a_of(plan, work, tile, i + 1), grad_a, grad_a, TIMES,
                                  clock):
            return 1
        keep(plan, tile, request.keep_grad_a, i, grad_a, plan.layers[i].ld, request.divisor)
        if grad != NULL:
            if weight_gradient(plan, tile, i, grad_a, input_of(plan, work, tile, i), 0, plan.sizes[i], grad, add,
                               divisor, clock):
                return 1
            bias_gradient(plan, tile, i, grad_a, 0, plan.sizes[i], grad, add, divisor)
    if request.keep_grad_h != NULL:
        if hidden_sum(plan, tile, 0, request.params, a_of(plan, work, tile, 1), NULL, work.grad_h, OVERWRITE, clock):
            return 1
        keep(plan, tile, request.keep_grad_h, 0, work.grad_h, plan.sizes[0], request.divisor)
    return 0


cdef void keep(const Layers* plan, const Tile* tile, void** arrays, Py_ssize_t i, const char* rows, Py_ssize_t ld,
               double divisor) noexcept nogil:
    """Copy a layer's rows of the tile, divided, to the caller's array for it, where he asked for one."""
    cdef Py_ssize_t s, n = plan.sizes[i]
    if arrays == NULL or arrays[i] == NULL:
        return
    for s in range(tile.n_rows):
        plan.kernels.finish(n, rows + s * ld * plan.itemsize, divisor,
                            <char*>arrays[i] + tile.rows[s] * n * plan.itemsize)


# Tiles into chunks, chunks into wide sums (note C) --------------------------------------------------------------------

cdef inline void add_with_error(double a, double b, double* total, double* error) noexcept nogil:
    """total + error = a + b exactly (Knuth's two-sum)."""
    cdef double s = a + b
    cdef double b_part = s - a
    error[0] = (a - (s - b_part)) + (b - b_part)
    total[0] = s


cdef inline int packing_of(const Workspace* work, bint is_only_tile) noexcept nogil:
    """How the next tile of a call gets its panels of W^T."""
    if work.is_packed:
        return PACKED
    return PACK_ONCE if is_only_tile else PACK_AND_KEEP


cdef int chunk_sums(const Layers* plan, const Request* request, Workspace* work, Py_ssize_t* row, Py_ssize_t n_rows,
                    char* grad, double divisor, double* loss, bint is_workers, Clock* clock) noexcept nogil:
    """The loss of one chunk, from source row `row` on, and its gradient (or other sums) into grad unless that is NULL.

    divisor is 0, or what the sums are divided by where this chunk is the only one. Nonzero where a signal handler
    raised.
    """
    cdef Tile tile
    cdef Py_ssize_t done = 0, s
    loss[0] = 0
    while done < n_rows:
        row[0] = fill_tile(plan, request, work, &tile, row[0], min(work.tile_rows, n_rows - done))
        tile.packing = packing_of(work, tile.n_rows == request.n_kept)
        tile.is_workers = is_workers
        if request.mode == VALUE_AND_GRAD:
            if forward_sweep(plan, request, work, &tile, grad != NULL, clock):
                return 1
            output_gradient(plan, request, work, &tile, a_of(plan, work, &tile, plan.n_layers), work.row_loss,
                            grad != NULL)
            if grad != NULL and backward_sweep(plan, request, work, &tile, grad, done > 0,
                                               divisor if done + tile.n_rows == n_rows else 0, clock):
                return 1
        else:
            if sums_of_tile(plan, request, work, &tile, grad, done > 0, clock):
                return 1
            if divisor != 0 and done + tile.n_rows == n_rows:
                plan.kernels.finish(request.n_sums, grad, divisor, grad)
        for s in range(tile.n_rows):
            loss[0] += work.row_loss[s]
        done += tile.n_rows
        if n_rows > work.tile_rows and is_stopped(is_workers, clock):
            return 1
    return 0


cdef int sums_in_order(const Layers* plan, const Request* request, Workspace* work, Totals* totals, bint is_workers,
                       Clock* clock) noexcept nogil:
    """One chunk after another, on one thread; nonzero where a signal handler raised."""
    cdef Py_ssize_t row = 0, done = 0, n_rows = rows_of_chunk(plan, request.n_kept), k
    cdef Py_ssize_t n_sums = 0 if totals.wide == NULL else n_parts_of_sums(request)
    cdef double loss
    while done < request.n_kept:
        if chunk_sums(plan, request, work, &row, min(n_rows, request.n_kept - done), request.grad,
                      request.divisor if totals.wide == NULL else 0, &loss, is_workers, clock):
            return 1
        add_loss(totals, loss)
        for k in range(n_sums):
            accumulate(plan, request, totals, k, done == 0)
            if is_stopped(is_workers, clock):
                return 1
        done += n_rows
    for k in range(n_sums):
        divide(plan, request, totals, k)
        if is_stopped(is_workers, clock):
            return 1
    return 0


cdef inline void add_loss(Totals* totals, double loss) noexcept nogil:
    """Add the loss of a chunk."""
    cdef double error
    add_with_error(totals.loss, loss, &totals.loss, &error)
    totals.loss_error += error


cdef inline double mean_loss(const Totals* totals, double divisor) noexcept nogil:
    """The sum of all losses, divided; after an overflow the error is NaN, the sum still inf."""
    if totals.loss_error == totals.loss_error:
        return (totals.loss + totals.loss_error) / divisor
    return totals.loss / divisor


cdef inline Py_ssize_t n_parts_of_sums(const Request* request) noexcept nogil:
    """Parts of SUM_ENTRIES parameters in which wide sums are added and divided."""
    return (request.n_sums + SUM_ENTRIES - 1) // SUM_ENTRIES


cdef inline void accumulate(const Layers* plan, const Request* request, const Totals* totals, Py_ssize_t k,
                            bint first) noexcept nogil:
    """Add part k of the gradient of a chunk, in request.grad, to the wide sums."""
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start)
    cdef double* wide_error = NULL
    if totals.wide_error != NULL:
        wide_error = totals.wide_error + start
    plan.kernels.accumulate(n, request.grad + start * plan.itemsize, totals.wide + start, wide_error, first)


cdef inline void divide(const Layers* plan, const Request* request, const Totals* totals, Py_ssize_t k) noexcept nogil:
    """Part k of the wide sums over the divisor, rounded once; the sums of a single chunk are divided already."""
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start)
    cdef const double* wide_error = NULL
    if totals.wide_error != NULL:
        wide_error = totals.wide_error + start
    plan.kernels.finish_wide(n, totals.wide + start, wide_error, request.divisor, request.grad + start * plan.itemsize)


cdef int forward_of_tile(const Layers* plan, const Request* request, Workspace* work, Py_ssize_t row,
                         Py_ssize_t n_rows, bint is_workers, Clock* clock) noexcept nogil:
    """y_hat of some rows, and a and h of the layers where they are asked for; nonzero where a handler raised."""
    cdef Tile tile
    cdef Py_ssize_t L = plan.n_layers, s, n_bytes = plan.sizes[plan.n_layers] * plan.itemsize
    fill_tile(plan, request, work, &tile, row, n_rows)
    tile.packing = packing_of(work, n_rows == request.n_samples)
    tile.is_workers = is_workers
    if forward_sweep(plan, request, work, &tile, False, clock):
        return 1
    if plan.loss_acts_on_a:
        activation(plan, work, &tile, L, plan.link, False)
        keep(plan, &tile, request.keep_h, L, work.h[L], plan.layers[L].ld, 1)
    for s in range(n_rows):
        memcpy(request.rows + (row + s) * n_bytes, work.h[L] + s * plan.layers[L].ld * plan.itemsize, n_bytes)
    return 0


include "_core_linearization.pxi"
include "_core_sweeps.pxi"
include "_core_modes.pxi"
include "_core_threads.pxi"
include "_core_calls.pxi"
include "_core_plan.pxi"
include "_core_run.pxi"
include "_core_ensemble.pxi"
include "_core_c_api.pxi"


# (5) and (6) alone ----------------------------------------------------------------------------------------------------

cdef void hidden_sum_loops(const floating[:, :] W_next, const floating[:, :] grad_a_next,
                           floating[:, ::1] grad_h) noexcept nogil:
    """dL/dh_{i,j} = sum_{m=1..k} dL/da_{i+1,m} W_{i+1,m,j}, for each sample; over m in order."""
    cdef Py_ssize_t s, m, j
    for s in range(grad_h.shape[0]):
        for j in range(grad_h.shape[1]):
            grad_h[s, j] = 0
        for m in range(W_next.shape[0]):
            for j in range(grad_h.shape[1]):
                grad_h[s, j] += grad_a_next[s, m] * W_next[m, j]


def hidden_gradient(const floating[:, :] W_next, const floating[:, :] grad_a_next, floating[:, ::1] grad_h):
    """Equation (5) into grad_h; every stride of the inputs is fine."""
    with nogil:
        hidden_sum_loops(W_next, grad_a_next, grad_h)


cdef void g_prime_product_loops(const floating[:, :] grad_h, floating[:, ::1] g_prime) noexcept nogil:
    """dL/da_{i,j} = dL/dh_{i,j} g'(a_{i,j}), for each sample; g_prime becomes grad_a."""
    cdef Py_ssize_t s, j
    for s in range(grad_h.shape[0]):
        for j in range(grad_h.shape[1]):
            g_prime[s, j] *= grad_h[s, j]


def preactivation_gradient(const floating[:, :] grad_h, floating[:, ::1] g_prime):
    """Equation (6), in place: g_prime becomes grad_a."""
    with nogil:
        g_prime_product_loops(grad_h, g_prime)


def activate(floating[:, ::1] a, floating[:, ::1] h, int code, double parameter):
    """Equation (3) alone: h = g(a), and a becomes g'(a)."""
    cdef const KernelTable* kernels = kernel_table(sizeof(floating))
    if a.shape[0] == 0 or a.shape[1] == 0:
        return
    with nogil:
        kernels.activate(code, parameter, a.shape[0], a.shape[1], &a[0, 0], &h[0, 0], a.shape[1], True)


def mirror(floating[:, ::1] H):
    """The lower triangle becomes the upper one's mirror image, in blocks that stay in L1."""
    cdef Py_ssize_t n = H.shape[0], p0, q0, p, q
    with nogil:
        for p0 in range(0, n, 32):
            for q0 in range(0, p0 + 1, 32):
                for p in range(p0, min(p0 + 32, n)):
                    for q in range(q0, min(q0 + 32, p)):
                        H[p, q] = H[q, p]


def second_derivative(floating[:, ::1] a, floating[:, ::1] out, int code, double parameter):
    """out = g''(a), which the products with a Hessian need beside g'."""
    cdef const KernelTable* kernels = kernel_table(sizeof(floating))
    if a.shape[0] == 0 or a.shape[1] == 0:
        return
    with nogil:
        kernels.second_derivative(code, parameter, a.shape[0], a.shape[1], &a[0, 0], &out[0, 0], a.shape[1])
