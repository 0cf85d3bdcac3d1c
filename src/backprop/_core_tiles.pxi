# Requests and tiles: what a call asks for, and the rows of it that go through the recursion together. (1) is here.

cdef enum Mode:
    # What a call makes of its tiles: sums over samples, or rows of their own (_core_modes_of_*.pxi).
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
                          Py_ssize_t row, Py_ssize_t n_rows, Clock* clock) noexcept nogil:
    """n_rows rows with weight, from source row `row` on, into the tile; returns the row after the last one.

    Where another thread sets weights to 0 during the call there are fewer, and where a signal handler raised: rows of
    zeros without weight then.
    """
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
    while s < n_rows and row < request.n_samples:
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
        if is_stopped(clock, MEMORY_FLOPS * (n_in + n_out)):
            break
    if s < n_rows:
        memset(work.x + s * n_in * plan.itemsize, 0, (n_rows - s) * n_in * plan.itemsize)
        memset(work.weight + s * weight_width, 0, (n_rows - s) * weight_width * sizeof(double))
        if request.y != NULL:
            memset(work.y + s * n_out * plan.itemsize, 0, (n_rows - s) * n_out * plan.itemsize)
        for s in range(s, n_rows):
            tile.rows[s] = request.n_samples - 1
            if request.labels != NULL:
                work.labels[s] = 0
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
