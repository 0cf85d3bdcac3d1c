# The layers of a network, and the workspace: every buffer of a call in one block, sized by one function.

cdef struct Layer:
    Py_ssize_t n_in, n_out
    Py_ssize_t ld                # row length of a_i and h_i in a tile, in reals: n_out rounded up to 64 bytes
    Py_ssize_t W, b              # where W_i and b_i start in params, in bytes
    Py_ssize_t rows_in_l1        # rows of a_i and h_i that stay in L1; all rows where W_i itself is far larger
    int activation
    double parameter
    void* c_functions[3]         # g, g', g'' of an activation of the user's own, or NULL
    void* functions              # the same as a Python tuple that the plan holds


cdef struct FreeLists

cdef struct Layers:
    # What depends on the shape of the network alone.
    const KernelTable* kernels
    Layer* layers                # 1..n_layers; 0 is not used
    Py_ssize_t* sizes            # 0..n_layers
    Py_ssize_t n_layers, n_params, itemsize
    Py_ssize_t ld_params         # n_params rounded up to 64 bytes
    Py_ssize_t tile_rows         # at most so many rows in a tile
    Py_ssize_t row_bytes         # of a and h, one sample
    Py_ssize_t n_units           # of all layers but the input
    bint has_own                 # an activation of the user's own, which may take any time
    bint is_serial               # some activation is a Python function
    int loss, link
    double loss_parameter
    bint loss_acts_on_a
    FreeLists* free_lists        # buffers for calls (schedule/free_lists.pxi)


cdef enum WorkspaceKind:         # each has the buffers of those before it
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
    int kind                     # WorkspaceKind: which of the buffers below it has
    char** a                     # by layer: a_i, then g'(a_i), then grad_a_i
    char** h                     # by layer
    char** packed                # by layer: W_i^T in panels
    char** grad_a                # by layer, from here on: what derivatives beside the gradient need
    char** tangent_a             # (recursion/sweeps.pxi)
    char** tangent_h
    char** g_second
    char** curve
    char** packed_v              # V_i^T in panels
    char* open_chain             # (n_params,): where tiles are shorter than a chain
    char* jacobian               # (rows of a tile, ld_params) of Hessians; times n_L, of the normal equations
    char* gradients              # what `stream_gradients_of_rows` copies at a time
    char* residual               # (rows of a tile times n_L,)
    double* row_norm             # of a tile's rows
    double* row_square           # twice as many
    double* row_least            # of a tile's rows, as is row_exponent (derivatives/norms.pxi)
    int* row_exponent
    char* scratch                # copies of panels, one part a thread
    Py_ssize_t scratch_bytes     # of a part
    double* row_loss             # of a tile's rows
    char* grad_h                 # one layer's grad_h, where the caller wants to see it
    char* x                      # copies of a tile's rows, where rows of weight 0 are left out
    char* y
    Py_ssize_t* labels
    double* weight
    Py_ssize_t* rows


cdef struct KeptRows:
    # h, g'(a), grad_a and curve of the first samples, tile by tile, at the place of a tile's first row.
    char* rows
    char* is_filled              # (n_rows,), at a tile's first row: whether all of the tile is there
    Py_ssize_t n_rows


cdef struct Totals:
    # The sums over chunks.
    Totals* next
    bint is_listed               # whether they go to the free list
    Py_ssize_t n_sums            # n_params, for a gradient; 0 for a loss alone
    Py_ssize_t n_bytes
    double loss, loss_error
    double* wide                 # (n_sums,), or NULL where there is one chunk only
    double* wide_error           # (n_sums,), float64 alone
    char* slots                  # sums of chunks that wait for their turn, n_slots x n_sums
    double* slot_loss
    int* slot_is_ready
    Py_ssize_t n_slots


cdef enum:
    # Rows of a tile: as many of 128, 256 as keep h and grad_a within half of a 1 MiB L2 cache (64 rows instead of 128:
    # thirteen layers of 256 in float64 16.0, not 14.3 ms, twenty of 100 the same). Where one W is larger than that,
    # each tile streams it from L3 or memory, and the fewer tiles the better: 512 rows (784-800-800-10: 52, not 48
    # GFLOP/s in float64; 1024 rows give 51). But fewer where a and h of so many take more than MOST_TILE_BYTES and
    # several times what W does: W is then the smaller part of what a tile moves.
    MIN_TILE_ROWS = 128
    MAX_TILE_ROWS = 256
    WIDE_TILE_ROWS = 512
    TILE_BYTES = 524288
    MOST_TILE_BYTES = 8388608
    MOST_INPUT_BYTES = 33554432  # of x, which is copied for some calls alone
    TILES_OF_PARAMS = 4          # or so many times the parameters
    L1_BYTES = 24576             # of 32 KiB, for a and h of the rows that g runs over while they are hot
    SMALL_BYTES = 131072         # of a gradient that is added to wide sums at the cost of some rows of its network
    GRADIENT_BYTES = 65536       # of gradients by sample that are written layer by layer, or copied at a time
    JACOBIAN_BYTES = 16777216    # of J, of which J^T J is made, where the result is no larger than that
    SCRATCH_UNITS = 256          # whose rows of grad_W are made at a time: what is copied for them stays small


cdef int plan_layers(Layers* plan) except -1:
    """Offsets of the layers, and the rows of a tile."""
    cdef Py_ssize_t i, offset = 0, lanes = ROW_BYTES // plan.itemsize, largest_W = 0
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
        plan.n_units += layer.n_out
        layer.rows_in_l1 = max(<Py_ssize_t>16, L1_BYTES // (2 * layer.ld * plan.itemsize) // 8 * 8)
        if layer.n_in * layer.n_out * plan.itemsize > TILE_BYTES // 4 or layer.activation == CUSTOM:
            layer.rows_in_l1 = CHUNK_ROWS
        plan.row_bytes += 2 * layer.ld * plan.itemsize
        largest_W = max(largest_W, layer.n_in * layer.n_out)
    plan.n_params = offset
    plan.ld_params = (offset + lanes - 1) // lanes * lanes
    plan.tile_rows = MAX_TILE_ROWS
    while plan.tile_rows > MIN_TILE_ROWS and plan.tile_rows * plan.row_bytes > TILE_BYTES:
        plan.tile_rows //= 2
    if largest_W * plan.itemsize > TILE_BYTES:
        plan.tile_rows = WIDE_TILE_ROWS
    plan.tile_rows = rows_in_bytes(plan, plan.tile_rows)
    return 0


cdef Py_ssize_t rows_of_chunk(const Layers* plan, Py_ssize_t n_kept) noexcept nogil:
    """Rows of a chunk: at most 1024, a multiple of 64, the batch cut evenly into an even number of chunks.

    A network whose gradient is small is cut into up to four chunks from 256 samples on, since threads divide chunks
    better than strips (2-50-50-50-50-1 at 1000 samples: 1.9 times one thread's rate instead of 1.1). This enters the
    bits, so it depends on the layers and the number of samples alone.
    """
    cdef Py_ssize_t n_chunks = (n_kept + CHUNK_ROWS - 1) // CHUNK_ROWS
    if plan.n_params * plan.itemsize <= SMALL_BYTES:
        n_chunks = max(n_chunks, min(<Py_ssize_t>4, n_kept // (2 * CHAIN_ROWS)))
    if n_chunks <= 1:
        return n_kept
    n_chunks += n_chunks % 2
    return ((n_kept + n_chunks - 1) // n_chunks + CHAIN_ROWS - 1) // CHAIN_ROWS * CHAIN_ROWS


cdef Py_ssize_t rows_in_bytes(const Layers* plan, Py_ssize_t rows) noexcept nogil:
    """At most so many rows of a tile, and as few as its bytes allow: a multiple of 64, or a power of two below that."""
    cdef Py_ssize_t of_params = TILES_OF_PARAMS * plan.n_params * plan.itemsize, power = 1
    cdef Py_ssize_t most = min(max(<Py_ssize_t>MOST_TILE_BYTES, of_params) // plan.row_bytes,
                               max(<Py_ssize_t>MOST_INPUT_BYTES, of_params) // (plan.sizes[0] * plan.itemsize))
    if rows <= most:
        return rows
    if most >= CHAIN_ROWS:
        return most // CHAIN_ROWS * CHAIN_ROWS
    while 2 * power <= most:
        power *= 2
    return power


cdef Py_ssize_t samples_of_jacobian(const Layers* plan, Py_ssize_t rows) noexcept nogil:
    """At most so many samples whose rows of J there are at once, n_L each: in no more bytes than J^T J or 16 MiB.

    Their rows fill whole chains, so that the order of the sum is that of longer tiles, unless so many take more.
    """
    cdef Py_ssize_t n_out = plan.sizes[plan.n_layers], whole = CHAIN_ROWS
    cdef Py_ssize_t most = max(JACOBIAN_BYTES // (n_out * plan.ld_params * plan.itemsize), plan.n_params // n_out)
    while whole > 1 and whole // 2 * n_out % CHAIN_ROWS == 0:
        whole //= 2
    if whole <= most < rows:
        most = most // whole * whole
    return min(rows, max(<Py_ssize_t>1, most))


cdef Py_ssize_t rows_of_tile(const Layers* plan, Py_ssize_t n_kept, int kind) noexcept nogil:
    """Rows of a tile: at most plan.tile_rows, and chunks cut evenly at multiples of 64, between chains.

    Below that plan.tile_rows is a part of 64; but sums that are matrices have no open chains, and are larger anyway.
    """
    cdef Py_ssize_t n_rows = rows_of_chunk(plan, n_kept)
    cdef Py_ssize_t n_tiles = (n_rows + plan.tile_rows - 1) // plan.tile_rows
    cdef Py_ssize_t rows = (n_rows + n_tiles - 1) // n_tiles
    if plan.tile_rows < CHAIN_ROWS and kind < OF_HESSIAN:
        return min(n_rows, plan.tile_rows)
    rows = min(n_rows, (rows + CHAIN_ROWS - 1) // CHAIN_ROWS * CHAIN_ROWS)
    return samples_of_jacobian(plan, rows) if kind == OF_NORMAL_EQUATIONS else rows


cdef inline void take_bytes(char* block, Py_ssize_t* end, Py_ssize_t n_bytes, void** buffer) noexcept nogil:
    """The next n_bytes of the block, aligned to cache lines; with block NULL only `end` moves."""
    buffer[0] = NULL
    if block != NULL:
        buffer[0] = block + end[0]
    end[0] += (n_bytes + ROW_BYTES - 1) // ROW_BYTES * ROW_BYTES


cdef inline char* aligned(char* block) noexcept nogil:
    """The first cache line after the start of a block."""
    return block + (ROW_BYTES - <size_t>block % ROW_BYTES)


cdef inline Py_ssize_t bytes_of_kept_row(const Layers* plan) noexcept nogil:
    """One sample's part of `lay_out_kept`: grad_a and curve are as large as a and h."""
    return 2 * plan.row_bytes


cdef Py_ssize_t lay_out_kept(const Layers* plan, Py_ssize_t rows, char* block, Workspace* work) noexcept nogil:
    """Place a and h, and grad_a and curve if there are any, and return the bytes they take.

    They come first in a workspace, so that these four can be placed elsewhere and back: what they hold depends on the
    parameters, but on no direction.
    """
    cdef Py_ssize_t end = 0, i
    for i in range(1, plan.n_layers + 1):
        take_bytes(block, &end, rows * plan.layers[i].ld * plan.itemsize, <void**>&work.a[i])
        take_bytes(block, &end, rows * plan.layers[i].ld * plan.itemsize, <void**>&work.h[i])
        if work.kind >= OF_DERIVATIVES:
            take_bytes(block, &end, rows * plan.layers[i].ld * plan.itemsize, <void**>&work.grad_a[i])
            take_bytes(block, &end, rows * plan.layers[i].ld * plan.itemsize, <void**>&work.curve[i])
    return end


cdef inline Py_ssize_t reals_at_a_time(const Layers* plan) noexcept nogil:
    """The size of work.gradients: a row of grad_W_i and one of grad_b_i fit in."""
    cdef Py_ssize_t i, n = GRADIENT_BYTES // plan.itemsize
    for i in range(plan.n_layers + 1):
        n = max(n, plan.sizes[i] + 1)
    return n


cdef Py_ssize_t lay_out_workspace(const Layers* plan, Py_ssize_t rows, int n_scratch, char* block,
                                  Workspace* work) noexcept nogil:
    """Place every buffer for tiles of so many rows in the block and return the bytes they take.

    With block NULL only the sum is worked out. Nothing depends on the number of samples.
    """
    cdef Py_ssize_t end = lay_out_kept(plan, rows, block, work)
    cdef Py_ssize_t i, widest = plan.sizes[0], L = plan.n_layers, scratch = 0, packed
    for i in range(1, L + 1):
        packed = plan.kernels.packed_size(plan.layers[i].n_in, plan.layers[i].n_out)
        take_bytes(block, &end, packed * plan.itemsize, <void**>&work.packed[i])
        if work.kind >= OF_DERIVATIVES:
            take_bytes(block, &end, rows * plan.layers[i].ld * plan.itemsize, <void**>&work.tangent_a[i])
            take_bytes(block, &end, rows * plan.layers[i].ld * plan.itemsize, <void**>&work.tangent_h[i])
            take_bytes(block, &end, rows * plan.layers[i].ld * plan.itemsize, <void**>&work.g_second[i])
            take_bytes(block, &end, packed * plan.itemsize, <void**>&work.packed_v[i])
        widest = max(widest, plan.layers[i].ld)
        scratch = max(scratch, plan.kernels.scratch_size(0, plan.layers[i].n_in, plan.layers[i].n_out))
        scratch = max(scratch, plan.kernels.scratch_size(rows, plan.layers[i].n_in,
                                                         min(<Py_ssize_t>SCRATCH_UNITS, plan.layers[i].n_out)))
        if work.kind >= OF_HESSIAN:
            scratch = max(scratch, plan.kernels.scratch_size(rows, plan.n_params, plan.layers[i].n_in))
    if plan.tile_rows < CHAIN_ROWS:
        take_bytes(block, &end, plan.n_params * plan.itemsize, <void**>&work.open_chain)
    if work.kind >= OF_DERIVATIVES:
        take_bytes(block, &end, reals_at_a_time(plan) * plan.itemsize, <void**>&work.gradients)
    if work.kind == OF_HESSIAN:
        take_bytes(block, &end, rows * plan.ld_params * plan.itemsize, <void**>&work.jacobian)
    if work.kind == OF_NORMAL_EQUATIONS:
        scratch = max(scratch, plan.kernels.scratch_size(rows * plan.sizes[L], plan.n_params, TRIANGLE_ROWS))
        take_bytes(block, &end, rows * plan.sizes[L] * plan.ld_params * plan.itemsize, <void**>&work.jacobian)
        take_bytes(block, &end, rows * plan.sizes[L] * plan.itemsize, <void**>&work.residual)
    work.scratch_bytes = (scratch * plan.itemsize + ROW_BYTES - 1) // ROW_BYTES * ROW_BYTES
    take_bytes(block, &end, n_scratch * work.scratch_bytes, <void**>&work.scratch)
    take_bytes(block, &end, rows * sizeof(double), <void**>&work.row_loss)
    take_bytes(block, &end, rows * sizeof(double), <void**>&work.row_norm)
    take_bytes(block, &end, 2 * rows * sizeof(double), <void**>&work.row_square)
    take_bytes(block, &end, rows * sizeof(double), <void**>&work.row_least)
    take_bytes(block, &end, rows * sizeof(int), <void**>&work.row_exponent)
    take_bytes(block, &end, rows * widest * plan.itemsize, <void**>&work.grad_h)
    take_bytes(block, &end, rows * plan.sizes[0] * plan.itemsize, <void**>&work.x)
    take_bytes(block, &end, rows * plan.sizes[L] * plan.itemsize, <void**>&work.y)
    take_bytes(block, &end, rows * sizeof(Py_ssize_t), <void**>&work.labels)
    take_bytes(block, &end, rows * plan.sizes[L] * sizeof(double), <void**>&work.weight)
    take_bytes(block, &end, rows * sizeof(Py_ssize_t), <void**>&work.rows)
    return end


cdef Workspace* new_workspace(const Layers* plan, Py_ssize_t rows, int n_scratch, int kind) noexcept nogil:
    """A workspace for tiles of so many rows, with scratch for so many threads; NULL where memory is short."""
    cdef Workspace* work = <Workspace*>calloc(1, sizeof(Workspace))
    cdef Py_ssize_t n_pointers = plan.n_layers + 1
    if work == NULL:
        return NULL
    work.capacity = rows
    work.n_scratch = n_scratch
    work.kind = kind
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
        work.n_bytes = lay_out_workspace(plan, rows, n_scratch, NULL, work)
        work.block = <char*>calloc(work.n_bytes + ROW_BYTES, 1)
    if work.block == NULL:
        free_workspace(work)
        return NULL
    lay_out_workspace(plan, rows, n_scratch, aligned(work.block), work)
    return work


cdef void free_workspace(Workspace* work) noexcept nogil:
    if work != NULL:
        free(work.block)
        free(work.a)
        free(work)


cdef Totals* new_totals(const Layers* plan, Py_ssize_t n_sums, bint with_wide, Py_ssize_t n_slots) noexcept nogil:
    """Sums over chunks, with wide accumulators and slots for chunks if needed; NULL where memory is short."""
    cdef Totals* totals = <Totals*>calloc(1, sizeof(Totals))
    if totals == NULL:
        return NULL
    totals.n_sums = n_sums
    totals.n_slots = n_slots
    totals.n_bytes = n_slots * n_sums * plan.itemsize
    if with_wide:
        totals.n_bytes += n_sums * (2 if plan.itemsize == 8 else 1) * <Py_ssize_t>sizeof(double)
        totals.wide = <double*>calloc(n_sums, sizeof(double))
        if plan.itemsize == 8:
            totals.wide_error = <double*>calloc(n_sums, sizeof(double))
        if totals.wide == NULL or (plan.itemsize == 8 and totals.wide_error == NULL):
            free_totals(totals)
            return NULL
    if n_slots:
        totals.slots = <char*>calloc(n_slots * n_sums + 1, plan.itemsize)
        totals.slot_loss = <double*>calloc(n_slots, sizeof(double))
        totals.slot_is_ready = <int*>calloc(n_slots, sizeof(int))
        if totals.slots == NULL or totals.slot_loss == NULL or totals.slot_is_ready == NULL:
            free_totals(totals)
            return NULL
    return totals


cdef void free_totals(Totals* totals) noexcept nogil:
    if totals != NULL:
        free(totals.wide)
        free(totals.wide_error)
        free(totals.slots)
        free(totals.slot_loss)
        free(totals.slot_is_ready)
        free(totals)
