# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The workspace: every buffer of a call in one block, sized by one function.
# Needs: recursion/shape. Gives: Buffers, Workspace, KeptRows, lay_out_workspace, new_workspace, free_workspace.

from libc.stdlib cimport calloc, free

from backprop.kernels.table cimport CHAIN_ROWS, ROW_BYTES, SCRATCH_UNITS
from backprop.recursion.shape cimport Shape

cdef enum Buffers:         # each has the buffers of those before it
    OF_GRADIENT
    OF_DERIVATIVES
    OF_HESSIAN
    OF_NORMAL_EQUATIONS


cdef struct Workspace:
    Workspace* next
    bint is_listed               # whether it goes to the free list
    char* block
    Py_ssize_t n_bytes
    Py_ssize_t capacity          # rows that it holds
    Py_ssize_t tile_rows         # rows of this call's tiles
    int n_scratch                # threads that it has scratch for
    bint is_packed               # whether `packed` holds this call's weights
    bint is_v_packed             # whether `packed_v` holds this call's direction
    int buffers                  # Buffers: which of the buffers below it has
    char** a                     # by layer: a_i, then g'(a_i), then grad_a_i
    char** h                     # by layer
    char** packed                # by layer: W_i^T in panels
    char** grad_a                # by layer, from here on: what derivatives besides the gradient need
    char** tangent_a             # (recursion/sweeps.pxi)
    char** tangent_h
    char** g_second
    char** curve
    char** g_third               # the same memory as curve: no call needs both
    char** packed_v              # V_i^T in panels
    char* open_chain             # (n_params,): if tiles are shorter than a chain
    char* jacobian               # (rows of a tile, ld_params) of Hessians; times n_L, of the normal equations
    char* gradients              # what `stream_gradients_of_rows` copies at a time
    char* residual               # (rows of a tile times n_L,)
    double* softmax_means        # (6, directions), of one row
    double* row_norm             # of a tile's rows
    double* row_square           # twice as many
    double* row_least            # of a tile's rows, as is row_exponent (derivatives/norms.pxi)
    int* row_exponent
    char* scratch                # copies of operands and chains that wait, one part a thread
    Py_ssize_t scratch_bytes     # of a part
    double* row_loss             # of a tile's rows
    char* grad_h                 # one layer's grad_h, if the caller asks for it, or the samples' gradients by x
    char* x                      # copies of a tile's rows, if rows of weight 0 are left out, or if they are converted
    char* y
    Py_ssize_t* labels
    double* weight
    Py_ssize_t* source_rows


cdef struct KeptRows:
    # h, g'(a), grad_a and curve of the first samples, tile by tile, at the place of a tile's first row.
    char* data
    char* is_filled              # (n_rows,), at a tile's first row: whether all of the tile is there
    Py_ssize_t n_rows


cdef enum:
    GRADIENT_BYTES = 65536       # of gradients per sample that are written layer by layer, or copied at a time
    TRIANGLE_ROWS = 64           # of J^T J at a time: a panel that is copied for them is used 64 times


cdef inline void take_bytes(char* block, Py_ssize_t* end, Py_ssize_t n_bytes, void** buffer) noexcept nogil:
    """The next n_bytes of the block, aligned to cache lines; with block NULL only `end` moves."""
    buffer[0] = NULL
    if block != NULL:
        buffer[0] = block + end[0]
    end[0] += (n_bytes + ROW_BYTES - 1) // ROW_BYTES * ROW_BYTES


cdef inline char* aligned(char* block) noexcept nogil:
    """The first cache line after the start of a block."""
    return block + (ROW_BYTES - <size_t>block % ROW_BYTES)


cdef inline Py_ssize_t bytes_of_kept_row(const Shape* shape) noexcept nogil:
    """One sample's part of `lay_out_kept`: grad_a and curve are as large as a and h."""
    return 2 * shape.row_bytes


cdef inline Py_ssize_t lay_out_kept(const Shape* shape, Py_ssize_t rows, char* block, Workspace* work) noexcept nogil:
    """Place a and h, and grad_a and curve if there are any, and return the bytes they take.

    They come first in a workspace, so that these four can be placed elsewhere and back: what they hold depends on the
    parameters, but on no direction.
    """
    cdef Py_ssize_t end = 0, i
    for i in range(1, shape.n_layers + 1):
        take_bytes(block, &end, rows * shape.layers[i].ld * shape.itemsize, <void**>&work.a[i])
        take_bytes(block, &end, rows * shape.layers[i].ld * shape.itemsize, <void**>&work.h[i])
        if work.buffers >= OF_DERIVATIVES:
            take_bytes(block, &end, rows * shape.layers[i].ld * shape.itemsize, <void**>&work.grad_a[i])
            take_bytes(block, &end, rows * shape.layers[i].ld * shape.itemsize, <void**>&work.curve[i])
    return end


cdef inline Py_ssize_t reals_at_a_time(const Shape* shape) noexcept nogil:
    """The size of work.gradients: a row of grad_W_i and one of grad_b_i fit in."""
    cdef Py_ssize_t i, n = GRADIENT_BYTES // shape.itemsize
    for i in range(shape.n_layers + 1):
        n = max(n, shape.sizes[i] + 1)
    return n


cdef inline Py_ssize_t lay_out_workspace(const Shape* shape, Py_ssize_t rows, int n_scratch, char* block,
                                         Workspace* work) noexcept nogil:
    """Place every buffer for tiles of so many rows in the block and return the bytes they take.

    With block NULL only the sum is worked out. Nothing depends on the number of samples.
    """
    cdef Py_ssize_t end = lay_out_kept(shape, rows, block, work)
    cdef Py_ssize_t i, widest = shape.sizes[0], L = shape.n_layers, scratch = 0, packed
    for i in range(1, L + 1):
        packed = shape.kernels.packed_size(shape.layers[i].n_in, shape.layers[i].n_out)
        take_bytes(block, &end, packed * shape.itemsize, <void**>&work.packed[i])
        if work.buffers >= OF_DERIVATIVES:
            take_bytes(block, &end, rows * shape.layers[i].ld * shape.itemsize, <void**>&work.tangent_a[i])
            take_bytes(block, &end, rows * shape.layers[i].ld * shape.itemsize, <void**>&work.tangent_h[i])
            take_bytes(block, &end, rows * shape.layers[i].ld * shape.itemsize, <void**>&work.g_second[i])
            take_bytes(block, &end, packed * shape.itemsize, <void**>&work.packed_v[i])
        widest = max(widest, shape.layers[i].ld)
        scratch = max(scratch, shape.kernels.scratch_size(rows, shape.layers[i].n_in, shape.layers[i].n_out,
                                                          min(<Py_ssize_t>SCRATCH_UNITS, shape.layers[i].n_out)))
        if work.buffers >= OF_HESSIAN:
            scratch = max(scratch, shape.kernels.scratch_size(rows, shape.n_params, shape.layers[i].n_in,
                                                              shape.layers[i].n_in))
    if shape.tile_rows < CHAIN_ROWS:
        take_bytes(block, &end, shape.n_params * shape.itemsize, <void**>&work.open_chain)
    if work.buffers >= OF_DERIVATIVES:
        take_bytes(block, &end, reals_at_a_time(shape) * shape.itemsize, <void**>&work.gradients)
        take_bytes(block, &end, 6 * rows * sizeof(double), <void**>&work.softmax_means)
    if work.buffers == OF_HESSIAN:
        take_bytes(block, &end, rows * shape.ld_params * shape.itemsize, <void**>&work.jacobian)
    if work.buffers == OF_NORMAL_EQUATIONS:
        scratch = max(scratch, shape.kernels.scratch_size(rows * shape.sizes[L], shape.n_params, TRIANGLE_ROWS,
                                                          TRIANGLE_ROWS))
        take_bytes(block, &end, rows * shape.sizes[L] * shape.ld_params * shape.itemsize, <void**>&work.jacobian)
        take_bytes(block, &end, rows * shape.sizes[L] * shape.itemsize, <void**>&work.residual)
    work.scratch_bytes = (scratch * shape.itemsize + ROW_BYTES - 1) // ROW_BYTES * ROW_BYTES
    take_bytes(block, &end, n_scratch * work.scratch_bytes, <void**>&work.scratch)
    take_bytes(block, &end, rows * sizeof(double), <void**>&work.row_loss)
    take_bytes(block, &end, rows * sizeof(double), <void**>&work.row_norm)
    take_bytes(block, &end, 2 * rows * sizeof(double), <void**>&work.row_square)
    take_bytes(block, &end, rows * sizeof(double), <void**>&work.row_least)
    take_bytes(block, &end, rows * sizeof(int), <void**>&work.row_exponent)
    take_bytes(block, &end, rows * widest * shape.itemsize, <void**>&work.grad_h)
    take_bytes(block, &end, rows * shape.sizes[0] * shape.itemsize, <void**>&work.x)
    take_bytes(block, &end, rows * shape.sizes[L] * shape.itemsize, <void**>&work.y)
    take_bytes(block, &end, rows * sizeof(Py_ssize_t), <void**>&work.labels)
    take_bytes(block, &end, rows * shape.sizes[L] * sizeof(double), <void**>&work.weight)
    take_bytes(block, &end, rows * sizeof(Py_ssize_t), <void**>&work.source_rows)
    return end


cdef inline void free_workspace(Workspace* work) noexcept nogil:
    if work != NULL:
        free(work.block)
        free(work.a)
        free(work)


cdef inline Workspace* new_workspace(const Shape* shape, Py_ssize_t rows, int n_scratch, int buffers) noexcept nogil:
    """A workspace for tiles of so many rows, with scratch for so many threads; NULL if out of memory."""
    cdef Workspace* work = <Workspace*>calloc(1, sizeof(Workspace))
    cdef Py_ssize_t n_pointers = shape.n_layers + 1
    if work == NULL:
        return NULL
    work.capacity = rows
    work.n_scratch = n_scratch
    work.buffers = buffers
    work.a = <char**>calloc(9 * n_pointers, sizeof(char*))
    if work.a != NULL:
        work.h = work.a + n_pointers
        work.packed = work.h + n_pointers
        work.grad_a = work.packed + n_pointers
        work.tangent_a = work.grad_a + n_pointers
        work.tangent_h = work.tangent_a + n_pointers
        work.g_second = work.tangent_h + n_pointers
        work.curve = work.g_second + n_pointers
        work.packed_v = work.curve + n_pointers
        work.g_third = work.curve
        work.n_bytes = lay_out_workspace(shape, rows, n_scratch, NULL, work)
        work.block = <char*>calloc(work.n_bytes + ROW_BYTES, 1)
    if work.block == NULL:
        free_workspace(work)
        return NULL
    lay_out_workspace(shape, rows, n_scratch, aligned(work.block), work)
    return work
