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

A. Samples stream through a tile of `tile_rows` rows, which goes through (1)-(8) before the next one comes. The tile's
   buffers, and all others, lie in one block sized by `lay_out_workspace`; nothing is allocated inside the loops, and
   nothing grows with the number of samples.
B. A layer owns two buffers in the tile. h_i stays until (7) of the layer above has read it. The other is a_i until (3)
   makes it g'(a_i), in place, and grad_a_i from (6) on, in place again: each is dead when the next is born.
   h_0 is the caller's x itself. (5) and (6) are one kernel, unless the caller asks to see grad_h.
C. Sums over samples have three levels: chains of 64 rows in registers, 16 such chains added in the network's dtype (a
   chunk of 1024 rows, summed in `out`), and chunks added in float64 or, for float64, as a two-term sum. The division by
   n_samples or by the sum of the weights comes once, at the end. The order depends on the number of samples alone.
D. Rows whose weights are all 0 are left out when a tile is filled: the sums are those of the reduced problem, bit for
   bit. Then, and only then, x, y and the weights of a tile are copied.
E. Both dtypes and all instruction sets share this file: it handles untyped memory, and the kernels of `KernelTable`
   (_kernels.pyx) compute. The typed loops at the end, `hidden_sum_loops` and `g_prime_product_loops`, state (5) and (6)
   alone; the kernels `hidden_sum` and `g_prime_product` in _kernels_products.pxi are their fast twins.
"""

import importlib
import math
import os

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport isfinite
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from backprop._kernel_table cimport (
    BINARY_CROSS_ENTROPY, CHUNK_ROWS, CROSS_ENTROPY, HINGE, NO_WEIGHT, POISSON, ROW_BYTES, WEIGHT_PER_ENTRY,
    WEIGHT_PER_SAMPLE, KernelTable,
)

cnp.import_array()

ctypedef fused floating:
    float
    double

cdef class Plan

include "_core_simd.pxi"
include "_core_inspect.pxi"
include "_core_workspace.pxi"


cdef struct Request:
    # What one call asks for, as checked pointers; NULL where a thing is not asked for or not there.
    const char* params
    Py_ssize_t n_samples
    const char* x                # (n_samples, n_0)
    const char* y                # (n_samples, n_L), or NULL for labels
    const Py_ssize_t* labels     # (n_samples,)
    int weight_kind
    const double* weight         # (n_samples,) or (n_samples, n_L)
    double weight_scale          # a power of two that brings the weights near 1, against under- and overflow
    bint skip_rows               # whether some row has no weight but 0
    double divisor               # n_samples or the sum of scaled weights, times n_L where l is a mean over outputs
    char* y_hat                  # forward: (n_samples, n_L)
    char* grad                   # (n_params,)
    void** keep_a                # layer_gradients: arrays (n_samples, n_i) by layer 0..L, NULL entries are skipped
    void** keep_h
    void** keep_grad_a
    void** keep_grad_h


cdef struct Tile:
    # One tile's rows: pointers into the caller's arrays, or into copies where rows are left out.
    Py_ssize_t n_rows
    const char* x
    const char* y
    const Py_ssize_t* labels
    const double* weight
    Py_ssize_t* rows             # the source row of each row of the tile
    bint pack                    # the first tile of a call fills the packed weights
    bint add                     # sums of this tile are added to those of its chunk


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


cdef Py_ssize_t fill_tile(Plan plan, const Request* request, Workspace* work, Tile* tile,
                          Py_ssize_t row, Py_ssize_t n_rows) noexcept nogil:
    """Up to n_rows rows, from `row` on, into the tile; returns the row after the last one."""
    cdef Py_ssize_t n_in = plan.sizes[0], n_out = plan.sizes[plan.n_layers], s
    cdef Py_ssize_t weight_width = n_out if request.weight_kind == WEIGHT_PER_ENTRY else 1
    tile.y = NULL
    tile.labels = NULL
    tile.weight = NULL
    if not request.skip_rows:
        tile.n_rows = min(n_rows, request.n_samples - row)
        tile.x = request.x + row * n_in * plan.itemsize
        if request.y != NULL:
            tile.y = request.y + row * n_out * plan.itemsize
        if request.labels != NULL:
            tile.labels = request.labels + row
        if request.weight_kind != NO_WEIGHT:
            tile.weight = request.weight + row * weight_width
        for s in range(tile.n_rows):
            tile.rows[s] = row + s
        return row + tile.n_rows
    tile.n_rows = 0
    tile.x = work.x
    if request.y != NULL:
        tile.y = work.y
    if request.labels != NULL:
        tile.labels = work.labels
    tile.weight = work.weight
    while row < request.n_samples and tile.n_rows < n_rows:
        if has_weight(request, row, n_out):
            s = tile.n_rows
            tile.rows[s] = row
            memcpy(work.x + s * n_in * plan.itemsize, request.x + row * n_in * plan.itemsize, n_in * plan.itemsize)
            if request.y != NULL:
                memcpy(work.y + s * n_out * plan.itemsize, request.y + row * n_out * plan.itemsize,
                       n_out * plan.itemsize)
            if request.labels != NULL:
                work.labels[s] = request.labels[row]
            memcpy(work.weight + s * weight_width, request.weight + row * weight_width, weight_width * sizeof(double))
            tile.n_rows += 1
        row += 1
    return row


cdef inline const char* h_of(Plan plan, const Workspace* work, const Tile* tile, Py_ssize_t i) noexcept nogil:
    """h_i of the tile; h_0 is x."""
    return tile.x if i == 0 else work.h[i]


cdef inline Py_ssize_t ld_of(Plan plan, Py_ssize_t i) noexcept nogil:
    """The row length of h_i in reals: x has no padding."""
    return plan.sizes[0] if i == 0 else plan.layers[i].ld


# (2), (3) -------------------------------------------------------------------------------------------------------------

cdef void preactivation(Plan plan, const Request* request, Workspace* work, const Tile* tile,
                        Py_ssize_t i) noexcept nogil:
    """a_i = W_i h_{i-1} + b_i"""
    cdef const Layer* layer = &plan.layers[i]
    plan.kernels.forward_product(tile.n_rows, layer.n_in, layer.n_out, h_of(plan, work, tile, i - 1),
                                 ld_of(plan, i - 1), request.params + layer.W, work.packed[i], tile.pack,
                                 request.params + layer.b, work.a[i], layer.ld)


cdef void activation(Plan plan, Workspace* work, const Tile* tile, Py_ssize_t i, int code,
                     bint with_prime) noexcept nogil:
    """h_i = g_i(a_i); with_prime: a_i becomes g_i'(a_i)."""
    plan.kernels.activate(code, plan.layers[i].parameter, tile.n_rows, plan.layers[i].n_out,
                          work.a[i], work.h[i], plan.layers[i].ld, with_prime)


cdef void forward_sweep(Plan plan, const Request* request, Workspace* work, const Tile* tile,
                        bint with_prime) noexcept nogil:
    """(2) and (3) for i = 1..L, but (3) for i = L only where the loss acts on y_hat."""
    cdef Py_ssize_t i
    for i in range(1, plan.n_layers + 1):
        preactivation(plan, request, work, tile, i)
        keep(plan, tile, request.keep_a, i, work.a[i], plan.layers[i].ld, 1)
        if i < plan.n_layers or not plan.loss_acts_on_a:
            activation(plan, work, tile, i, plan.layers[i].activation, with_prime)
            keep(plan, tile, request.keep_h, i, work.h[i], plan.layers[i].ld, 1)


# (4) ------------------------------------------------------------------------------------------------------------------

cdef double output_gradient(Plan plan, const Request* request, Workspace* work, const Tile* tile,
                            bint with_gradient) noexcept nogil:
    """The tile's sum of weighted row losses; a_L, or g'(a_L) where the loss acts on y_hat, becomes grad_{a_L} L."""
    cdef Py_ssize_t L = plan.n_layers, ld = plan.layers[plan.n_layers].ld
    cdef const char* y_hat = NULL if plan.loss_acts_on_a else work.h[L]
    if request.keep_grad_h != NULL and not plan.loss_acts_on_a:  # with g' = 1, grad_a_L is grad_h_L
        plan.kernels.fill_with_ones(tile.n_rows * ld, work.grad_h)
        plan.kernels.loss(plan.loss, plan.loss_parameter, tile.n_rows, plan.sizes[L], work.grad_h, ld, y_hat, tile.y,
                          tile.labels, request.weight_kind, tile.weight, request.weight_scale, True)
        keep(plan, tile, request.keep_grad_h, L, work.grad_h, ld, request.divisor)
    return plan.kernels.loss(plan.loss, plan.loss_parameter, tile.n_rows, plan.sizes[L], work.a[L], ld, y_hat, tile.y,
                             tile.labels, request.weight_kind, tile.weight, request.weight_scale, with_gradient)


# (5), (6) -------------------------------------------------------------------------------------------------------------

cdef void hidden_sum(Plan plan, const Request* request, Workspace* work, const Tile* tile, Py_ssize_t i,
                     char* grad_h, Py_ssize_t ld, bint times_g_prime) noexcept nogil:
    """dL/dh_{i,j} = sum_m dL/da_{i+1,m} W_{i+1,m,j}; times_g_prime: the product (6) in the same pass."""
    cdef const Layer* next_layer = &plan.layers[i + 1]
    plan.kernels.hidden_sum(tile.n_rows, next_layer.n_in, next_layer.n_out, work.a[i + 1], next_layer.ld,
                            request.params + next_layer.W, grad_h, ld, times_g_prime)


cdef void g_prime_product(Plan plan, Workspace* work, const Tile* tile, Py_ssize_t i) noexcept nogil:
    """dL/da_{i,j} = dL/dh_{i,j} g'(a_{i,j}), where grad_h stands in a buffer of its own."""
    plan.kernels.g_prime_product(tile.n_rows, plan.sizes[i], work.grad_h, plan.layers[i].ld,
                                 work.a[i], plan.layers[i].ld)


# (7), (8) -------------------------------------------------------------------------------------------------------------

cdef void weight_gradient(Plan plan, const Request* request, Workspace* work, const Tile* tile,
                          Py_ssize_t i) noexcept nogil:
    """grad_{W_i} L = grad_{a_i} L h_{i-1}^T, summed over the tile, into the chunk's sums."""
    cdef const Layer* layer = &plan.layers[i]
    plan.kernels.weight_gradient(tile.n_rows, layer.n_in, layer.n_out, work.a[i], layer.ld,
                                 h_of(plan, work, tile, i - 1), ld_of(plan, i - 1), request.grad + layer.W, tile.add)


cdef void bias_gradient(Plan plan, const Request* request, Workspace* work, const Tile* tile,
                        Py_ssize_t i) noexcept nogil:
    """grad_{b_i} L = grad_{a_i} L, summed over the tile, into the chunk's sums."""
    cdef const Layer* layer = &plan.layers[i]
    plan.kernels.bias_gradient(tile.n_rows, layer.n_out, work.a[i], layer.ld, request.grad + layer.b, tile.add)


cdef void backward_sweep(Plan plan, const Request* request, Workspace* work, const Tile* tile) noexcept nogil:
    """(5)-(8) for i = L..1, from grad_{a_L} L."""
    cdef Py_ssize_t i
    for i in range(plan.n_layers, 0, -1):
        if i < plan.n_layers:
            if request.keep_grad_h != NULL:
                hidden_sum(plan, request, work, tile, i, work.grad_h, plan.layers[i].ld, False)
                keep(plan, tile, request.keep_grad_h, i, work.grad_h, plan.layers[i].ld, request.divisor)
                g_prime_product(plan, work, tile, i)
            else:
                hidden_sum(plan, request, work, tile, i, work.a[i], plan.layers[i].ld, True)
        keep(plan, tile, request.keep_grad_a, i, work.a[i], plan.layers[i].ld, request.divisor)
        weight_gradient(plan, request, work, tile, i)
        bias_gradient(plan, request, work, tile, i)
    if request.keep_grad_h != NULL:
        hidden_sum(plan, request, work, tile, 0, work.grad_h, plan.sizes[0], False)
        keep(plan, tile, request.keep_grad_h, 0, work.grad_h, plan.sizes[0], request.divisor)


cdef void keep(Plan plan, const Tile* tile, void** arrays, Py_ssize_t i, const char* rows, Py_ssize_t ld,
               double divisor) noexcept nogil:
    """Copy a layer's rows of the tile, divided, to the caller's array for it, where he asked for one."""
    cdef Py_ssize_t s, n = plan.sizes[i]
    if arrays == NULL or arrays[i] == NULL:
        return
    for s in range(tile.n_rows):
        plan.kernels.finish(n, rows + s * ld * plan.itemsize, divisor,
                            <char*>arrays[i] + tile.rows[s] * n * plan.itemsize)


# The sweeps over all tiles --------------------------------------------------------------------------------------------

cdef int value_and_grad_of_tiles(Plan plan, const Request* request, Workspace* work,
                                 double* loss) except -1 nogil:
    """Loss, and the gradient where request.grad is set: tiles into chunks, chunks into wide sums (note C)."""
    cdef Tile tile
    cdef Py_ssize_t row = 0, chunk_rows
    cdef bint first_chunk = True
    cdef double chunk_loss, total = 0, total_error = 0, error
    cdef Clock clock
    start_clock(&clock)
    tile.rows = work.rows
    tile.pack = True
    while row < request.n_samples:
        chunk_rows = 0
        chunk_loss = 0
        while row < request.n_samples and chunk_rows < CHUNK_ROWS:
            row = fill_tile(plan, request, work, &tile, row, min(plan.tile_rows, CHUNK_ROWS - chunk_rows))
            if tile.n_rows == 0:
                break
            tile.add = chunk_rows > 0
            forward_sweep(plan, request, work, &tile, request.grad != NULL)
            chunk_loss += output_gradient(plan, request, work, &tile, request.grad != NULL)
            if request.grad != NULL:
                backward_sweep(plan, request, work, &tile)
            chunk_rows += tile.n_rows
            tile.pack = False
            poll_signals(&clock)
        if chunk_rows == 0:
            break
        add_with_error(total, chunk_loss, &total, &error)
        total_error += error
        if request.grad != NULL and (request.n_samples > CHUNK_ROWS):
            plan.kernels.accumulate(plan.n_params, request.grad, work.wide, work.wide_error, first_chunk)
        first_chunk = False
    loss[0] = (total + total_error if total_error == total_error else total) / request.divisor
    if request.grad != NULL:
        if request.n_samples > CHUNK_ROWS:
            plan.kernels.finish_wide(plan.n_params, work.wide, work.wide_error, request.divisor, request.grad)
        else:
            plan.kernels.finish(plan.n_params, request.grad, request.divisor, request.grad)
    return 0


cdef int forward_of_tiles(Plan plan, const Request* request, Workspace* work) except -1 nogil:
    """y_hat, and a and h of the layers where they are asked for."""
    cdef Tile tile
    cdef Py_ssize_t row = 0, L = plan.n_layers
    cdef Clock clock
    start_clock(&clock)
    tile.rows = work.rows
    tile.pack = True
    while row < request.n_samples:
        row = fill_tile(plan, request, work, &tile, row, plan.tile_rows)
        forward_sweep(plan, request, work, &tile, False)
        if plan.loss_acts_on_a:
            activation(plan, work, &tile, L, plan.link, False)
            keep(plan, &tile, request.keep_h, L, work.h[L], plan.layers[L].ld, 1)
        store_rows(plan, &tile, work.h[L], request.y_hat)
        tile.pack = False
        poll_signals(&clock)
    return 0


cdef void store_rows(Plan plan, const Tile* tile, const char* h, char* y_hat) noexcept nogil:
    """Rows of the tile without their padding."""
    cdef Py_ssize_t s, n_bytes = plan.sizes[plan.n_layers] * plan.itemsize
    for s in range(tile.n_rows):
        memcpy(y_hat + tile.rows[s] * n_bytes, h + s * plan.layers[plan.n_layers].ld * plan.itemsize, n_bytes)


cdef inline void add_with_error(double a, double b, double* total, double* error) noexcept nogil:
    """total + error = a + b exactly (Knuth's two-sum)."""
    cdef double s = a + b
    cdef double b_part = s - a
    error[0] = (a - (s - b_part)) + (b - b_part)
    total[0] = s


cdef class Plan:
    """What depends on a network's shape alone, worked out once: layers, offsets, kernels, size of the tile.

    Its methods take arrays that _validate.py has accepted: C-contiguous, aligned, of the network's dtype.
    """

    cdef const KernelTable* kernels
    cdef Layer* layers           # 1..n_layers; 0 is not used
    cdef Py_ssize_t* sizes       # 0..n_layers
    cdef readonly Py_ssize_t n_layers, n_params, itemsize, tile_rows
    cdef int loss, link
    cdef double loss_parameter
    cdef bint loss_acts_on_a
    cdef Workspace* free_workspaces

    def __cinit__(self, sizes, activations, loss, Py_ssize_t itemsize):
        """Sizes n_0..n_L, (code, parameter) for layers 1..L, (code, parameter, acts_on_a, code of the link)."""
        self.kernels = kernel_table(itemsize)
        self.itemsize = itemsize
        self.n_layers = len(sizes) - 1
        self.layers = <Layer*>calloc(self.n_layers + 1, sizeof(Layer))
        self.sizes = <Py_ssize_t*>calloc(self.n_layers + 1, sizeof(Py_ssize_t))
        if self.layers == NULL or self.sizes == NULL:
            raise MemoryError("the plan of the layers does not fit into memory")
        for i, n in enumerate(sizes):
            self.sizes[i] = n
        for i, (code, parameter) in enumerate(activations, start=1):
            self.layers[i].activation = code
            self.layers[i].parameter = parameter
        self.loss, self.loss_parameter, self.loss_acts_on_a, self.link = loss
        plan_layers(self)

    def __dealloc__(self):
        cdef Workspace* work
        while self.free_workspaces != NULL:
            work = self.free_workspaces
            self.free_workspaces = work.next
            free_workspace(work)
        free(self.layers)
        free(self.sizes)

    def value_and_grad(self, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, cnp.ndarray out, weights=None,
                       keep_grad_a=None, keep_grad_h=None):
        """The loss; the gradient goes into out unless it is None.

        weights is None, or (array, scale, sum, skip_rows) as `inspect_weights` makes it. keep_grad_a and keep_grad_h
        are lists of arrays or None by layer.
        """
        cdef Request request = make_request(self, params, x)
        cdef Pointers kept_grad_a = Pointers(keep_grad_a), kept_grad_h = Pointers(keep_grad_h)
        cdef cnp.ndarray weight
        cdef double loss = 0
        cdef Workspace* work
        if cnp.PyArray_TYPE(y) == cnp.NPY_INTP:
            request.labels = <const Py_ssize_t*>cnp.PyArray_DATA(y)
        else:
            request.y = cnp.PyArray_BYTES(y)
        request.divisor = request.n_samples
        if weights is not None:
            weight, request.weight_scale, request.divisor, request.skip_rows = weights
            request.weight = <const double*>cnp.PyArray_DATA(weight)
            request.weight_kind = WEIGHT_PER_SAMPLE if cnp.PyArray_NDIM(weight) == 1 else WEIGHT_PER_ENTRY
        if self.loss != CROSS_ENTROPY and request.weight_kind != WEIGHT_PER_ENTRY:
            request.divisor *= self.sizes[self.n_layers]  # l is a mean over outputs
        request.grad = NULL if out is None else cnp.PyArray_BYTES(out)
        request.keep_grad_a = kept_grad_a.pointers
        request.keep_grad_h = kept_grad_h.pointers
        work = take_workspace(self, request.n_samples)
        try:
            with nogil:
                value_and_grad_of_tiles(self, &request, work, &loss)
        finally:
            give_workspace(self, work)
        return loss

    def forward(self, cnp.ndarray params, cnp.ndarray x, cnp.ndarray out, keep_a=None, keep_h=None):
        """y_hat into out; keep_a and keep_h are lists of arrays or None by layer."""
        cdef Request request = make_request(self, params, x)
        cdef Pointers kept_a = Pointers(keep_a), kept_h = Pointers(keep_h)
        cdef Workspace* work
        request.y_hat = cnp.PyArray_BYTES(out)
        request.keep_a = kept_a.pointers
        request.keep_h = kept_h.pointers
        work = take_workspace(self, request.n_samples)
        try:
            with nogil:
                forward_of_tiles(self, &request, work)
        finally:
            give_workspace(self, work)


cdef Request make_request(Plan plan, cnp.ndarray params, cnp.ndarray x):
    """A request with parameters and samples, all else absent."""
    cdef Request request
    request = Request(params=cnp.PyArray_BYTES(params), n_samples=cnp.PyArray_DIM(x, 0), x=cnp.PyArray_BYTES(x),
                      y=NULL, labels=NULL, weight_kind=NO_WEIGHT, weight=NULL, weight_scale=1, skip_rows=False,
                      divisor=1, y_hat=NULL, grad=NULL, keep_a=NULL, keep_h=NULL, keep_grad_a=NULL, keep_grad_h=NULL)
    return request


cdef class Pointers:
    """The data pointers of a list of arrays, NULL for None; pointers is NULL where the list is None."""

    cdef void** pointers

    def __cinit__(self, arrays):
        if arrays is None:
            return
        self.pointers = <void**>calloc(len(arrays), sizeof(void*))
        if self.pointers == NULL:
            raise MemoryError("the list of layers does not fit into memory")
        for i, array in enumerate(arrays):
            if array is not None:
                self.pointers[i] = cnp.PyArray_DATA(<cnp.ndarray?>array)

    def __dealloc__(self):
        free(self.pointers)


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


def preactivation_gradient(const floating[:, :] grad_h, floating[:, ::1] a, int code, double parameter):
    """Equation (6), in place: a becomes g'(a) and then grad_a."""
    cdef const KernelTable* kernels = kernel_table(sizeof(floating))
    cdef floating[:, ::1] h = a.copy()
    if a.shape[0] == 0 or a.shape[1] == 0:
        return
    with nogil:
        kernels.activate(code, parameter, a.shape[0], a.shape[1], &a[0, 0], &h[0, 0], a.shape[1], True)
        g_prime_product_loops(grad_h, a)
