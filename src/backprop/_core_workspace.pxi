# The plan of the layers, and the workspace: every buffer of a call in one block, sized by one function.

cdef struct Layer:
    Py_ssize_t n_in, n_out
    Py_ssize_t ld                # row length of a_i and h_i in a tile, in reals: n_out rounded up to 64 bytes
    Py_ssize_t W, b              # where W_i and b_i start in params, in bytes
    int activation
    double parameter


cdef struct Workspace:
    Workspace* next
    char* block
    Py_ssize_t n_bytes
    Py_ssize_t n_samples         # the size of batch it was laid out for: with or without wide sums
    char** a                     # by layer: a_i, then g'(a_i), then grad_a_i
    char** h                     # by layer
    char** packed                # by layer: W_i^T in panels
    char* grad_h                 # one layer's grad_h, where the caller wants to see it
    char* x                      # copies of a tile's rows, where rows of weight 0 are left out
    char* y
    Py_ssize_t* labels
    double* weight
    Py_ssize_t* rows
    double* wide                 # (n_params,), for more than one chunk
    double* wide_error           # (n_params,), likewise, float64 only


cdef enum:
    # Rows of a tile: as many of 64, 128, 256 as keep h and grad_a within half of a 1 MiB L2 cache; from 32 to 256 rows
    # the rates lie within 3 % of each other, with 128 best on the whole.
    MIN_TILE_ROWS = 64
    MAX_TILE_ROWS = 256
    TILE_BYTES = 524288
    POLL_NANOSECONDS = 50000000  # a Ctrl-C waits for at most this and one tile


cdef int plan_layers(Plan plan) except -1:
    """Offsets of the layers, and the rows of a tile."""
    cdef Py_ssize_t i, offset = 0, lanes = ROW_BYTES // plan.itemsize, row_bytes = 0
    cdef Layer* layer
    for i in range(1, plan.n_layers + 1):
        layer = &plan.layers[i]
        layer.n_in = plan.sizes[i - 1]
        layer.n_out = plan.sizes[i]
        layer.ld = (layer.n_out + lanes - 1) // lanes * lanes
        if layer.ld * plan.itemsize % 2048 == 0:
            layer.ld += lanes  # rows 2 KiB apart fall into the same sets of the cache
        layer.W = offset * plan.itemsize
        offset += layer.n_out * layer.n_in
        layer.b = offset * plan.itemsize
        offset += layer.n_out
        row_bytes += 2 * layer.ld * plan.itemsize
    plan.n_params = offset
    plan.tile_rows = MAX_TILE_ROWS
    while plan.tile_rows > MIN_TILE_ROWS and plan.tile_rows * row_bytes > TILE_BYTES:
        plan.tile_rows //= 2
    return 0


cdef Py_ssize_t take_bytes(char* block, Py_ssize_t* end, Py_ssize_t n_bytes, void** buffer) noexcept:
    """The next n_bytes of the block, aligned to cache lines; with block NULL only `end` moves."""
    buffer[0] = NULL if block == NULL else block + end[0]
    end[0] += (n_bytes + ROW_BYTES - 1) // ROW_BYTES * ROW_BYTES
    return end[0]


cdef Py_ssize_t lay_out_workspace(Plan plan, Py_ssize_t n_samples, char* block, Workspace* work) noexcept:
    """Place every buffer in the block and return the bytes they take: with block NULL, only their sum.

    Nothing depends on n_samples but whether there are wide sums, and that small batches get small tiles.
    """
    cdef Py_ssize_t end = 0, i, widest = plan.sizes[0], L = plan.n_layers
    cdef Py_ssize_t rows = min(plan.tile_rows, n_samples)
    cdef void* buffer = NULL
    for i in range(1, L + 1):
        take_bytes(block, &end, rows * plan.layers[i].ld * plan.itemsize, <void**>&work.a[i])
        take_bytes(block, &end, rows * plan.layers[i].ld * plan.itemsize, <void**>&work.h[i])
        take_bytes(block, &end, plan.kernels.packed_size(plan.layers[i].n_in, plan.layers[i].n_out) * plan.itemsize,
                   <void**>&work.packed[i])
        widest = max(widest, plan.layers[i].ld)
    take_bytes(block, &end, rows * widest * plan.itemsize, <void**>&work.grad_h)
    take_bytes(block, &end, rows * plan.sizes[0] * plan.itemsize, <void**>&work.x)
    take_bytes(block, &end, rows * plan.sizes[L] * plan.itemsize, <void**>&work.y)
    take_bytes(block, &end, rows * sizeof(Py_ssize_t), <void**>&work.labels)
    take_bytes(block, &end, rows * plan.sizes[L] * sizeof(double), <void**>&work.weight)
    take_bytes(block, &end, rows * sizeof(Py_ssize_t), <void**>&work.rows)
    take_bytes(block, &end, plan.n_params * sizeof(double) if n_samples > CHUNK_ROWS else 0, <void**>&work.wide)
    take_bytes(block, &end, plan.n_params * sizeof(double) if n_samples > CHUNK_ROWS and plan.itemsize == 8 else 0,
               <void**>&work.wide_error)
    return end


cdef Workspace* new_workspace(Plan plan, Py_ssize_t n_samples) except NULL:
    """A workspace for batches of up to n_samples rows (more than one chunk: for any number)."""
    cdef Workspace* work = <Workspace*>calloc(1, sizeof(Workspace))
    cdef Py_ssize_t n_pointers = plan.n_layers + 1
    cdef size_t address
    if work != NULL:
        work.n_samples = n_samples
        work.a = <char**>calloc(3 * n_pointers, sizeof(char*))
        if work.a != NULL:
            work.h = work.a + n_pointers
            work.packed = work.h + n_pointers
            work.n_bytes = lay_out_workspace(plan, n_samples, NULL, work)
            work.block = <char*>calloc(work.n_bytes + ROW_BYTES, 1)  # zeros: the padding of rows is finite
    if work == NULL or work.a == NULL or work.block == NULL:
        free_workspace(work)
        raise MemoryError(f"the workspace of a call with {n_samples} samples does not fit into memory")
    address = <size_t>work.block
    lay_out_workspace(plan, n_samples, work.block + (ROW_BYTES - address % ROW_BYTES), work)
    return work


cdef void free_workspace(Workspace* work) noexcept:
    if work != NULL:
        free(work.block)
        free(work.a)
        free(work)


cdef Workspace* take_workspace(Plan plan, Py_ssize_t n_samples) except NULL:
    """A free workspace that is large enough, else a new one. Called with the GIL, which guards the list."""
    cdef Workspace** link = &plan.free_workspaces
    cdef Workspace* work
    cdef Py_ssize_t n_rows = min(n_samples, CHUNK_ROWS + 1)  # all batches of more than one chunk need the same
    while link[0] != NULL:
        work = link[0]
        link[0] = work.next
        if work.n_samples >= n_rows:
            return work
        free_workspace(work)
    return new_workspace(plan, n_rows)


cdef void give_workspace(Plan plan, Workspace* work) noexcept:
    """Back to the list, for the next call. Called with the GIL."""
    work.next = plan.free_workspaces
    plan.free_workspaces = work


cdef struct Clock:
    timespec last_poll


cdef inline void start_clock(Clock* clock) noexcept nogil:
    clock_gettime(CLOCK_MONOTONIC, &clock.last_poll)


cdef inline int poll_signals(Clock* clock) except -1 nogil:
    """Every 50 ms, let Python run its signal handlers: Ctrl-C raises KeyboardInterrupt here."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    if (now.tv_sec - clock.last_poll.tv_sec) * 1000000000 + now.tv_nsec - clock.last_poll.tv_nsec > POLL_NANOSECONDS:
        clock.last_poll = now
        with gil:
            PyErr_CheckSignals()
    return 0
