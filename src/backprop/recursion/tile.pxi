# Requests and tiles: what a call asks for, and the rows of it that go through the recursion together. (1) is here.

cdef enum Mode:
    # What a call makes of its tiles: sums over samples, or rows of their own (derivatives/).
    VALUE_AND_GRAD, VJP, CLIPPED_GRADIENT, HVP, GAUSS_NEWTON_VP, HESSIAN, NORMAL_EQUATIONS, SOBOLEV
    FORWARD, JVP, INPUT_GRADIENT, INPUT_JACOBIAN, JACOBIAN, PER_SAMPLE_GRADIENTS, PER_SAMPLE_GRADIENT_NORMS


cdef extern from "recursion/convert.h" nogil:
    int code_of "BP_CODE"(int kind, int size, bint is_swapped)
    void convert_to_float "bp_convert_to_float"(int code, Py_ssize_t n_outer, Py_ssize_t n_inner, const char* source,
                                                Py_ssize_t outer, Py_ssize_t inner, float* target, Py_ssize_t t_outer,
                                                Py_ssize_t t_inner) noexcept
    void convert_to_double "bp_convert_to_double"(int code, Py_ssize_t n_outer, Py_ssize_t n_inner,
                                                  const char* source, Py_ssize_t outer, Py_ssize_t inner,
                                                  double* target, Py_ssize_t t_outer, Py_ssize_t t_inner) noexcept
    void convert_to_label "bp_convert_to_label"(int code, Py_ssize_t n_outer, Py_ssize_t n_inner, const char* source,
                                                Py_ssize_t outer, Py_ssize_t inner, Py_ssize_t* target,
                                                Py_ssize_t t_outer, Py_ssize_t t_inner) noexcept


cdef struct Source:
    # How the caller's x or y lies in memory where it has another dtype, byte order or layout than the kernels take:
    # then each tile converts its rows, since a copy of all of them may be far larger than all else.
    int code                     # BP_CODE of what it holds, or 0 where there is nothing to convert
    Py_ssize_t row, column       # bytes from one to the next


cdef struct Request:
    # What one call asks for, as checked pointers; NULL where a thing is not asked for or not there.
    int mode
    const char* params
    Py_ssize_t n_samples
    const char* x                # (n_samples, n_0)
    const char* y                # (n_samples, n_L), or NULL for labels
    const Py_ssize_t* labels     # (n_samples,)
    Source x_source              # of x
    Source y_source              # of y or the labels
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
    # Rows that go through the recursion together: pointers into the caller's arrays, or into copies (notes D and F).
    Py_ssize_t first             # where the rows start in the buffers of the workspace
    Py_ssize_t n_rows
    const char* x
    const char* y
    const Py_ssize_t* labels
    const double* weight
    Py_ssize_t* rows             # the source row of each row of the tile
    char* scratch                # this thread's
    int packing
    bint is_open                 # its sums go on with chains that tiles before it began


cdef inline bint has_weight(const Request* request, Py_ssize_t row, Py_ssize_t n_out) noexcept nogil:
    """Whether any weight of the row is not 0."""
    cdef Py_ssize_t j
    if request.weight_kind == WEIGHT_PER_SAMPLE:
        return request.weight[row] != 0
    for j in range(n_out):
        if request.weight[row * n_out + j] != 0:
            return True
    return False


cdef inline const char* rows_of_source(const char* data, const Source* source, Py_ssize_t row,
                                       Py_ssize_t n_bytes) noexcept nogil:
    """Where a row of x or y starts; n_bytes is the length of one that need not be converted."""
    return data + row * (source.row if source.code else n_bytes)


cdef char* copy_reals(const Source* source, const char* data, Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t itemsize,
                      char* target) noexcept nogil:
    """n_rows rows of n numbers, one after another and converted, into target, which is returned.

    Memory is read in the order in which it lies: a column of a matrix in Fortran order at a time.
    """
    cdef bint by_column = max(source.column, -source.column) > max(source.row, -source.row)
    cdef Py_ssize_t n_outer = n if by_column else n_rows, n_inner = n_rows if by_column else n
    cdef Py_ssize_t outer = source.column if by_column else source.row
    cdef Py_ssize_t inner = source.row if by_column else source.column
    cdef Py_ssize_t t_outer = 1 if by_column else n, t_inner = n if by_column else 1
    if source.code == 0:
        memcpy(target, data, n_rows * n * itemsize)
    elif itemsize == 4:
        convert_to_float(source.code, n_outer, n_inner, data, outer, inner, <float*>target, t_outer, t_inner)
    else:
        convert_to_double(source.code, n_outer, n_inner, data, outer, inner, <double*>target, t_outer, t_inner)
    return target


cdef Py_ssize_t* copy_labels(const Source* source, const char* data, Py_ssize_t n_rows,
                             Py_ssize_t* target) noexcept nogil:
    """The same for labels."""
    if source.code == 0:
        memcpy(target, data, n_rows * sizeof(Py_ssize_t))
    else:
        convert_to_label(source.code, 1, n_rows, data, 0, source.row, target, n_rows, 1)
    return target


cdef Py_ssize_t fill_tile(const Layers* plan, const Request* request, Workspace* work, Tile* tile,
                          Py_ssize_t row, Py_ssize_t n_rows, Clock* clock) noexcept nogil:
    """n_rows rows with weight, from source row `row` on, into the tile; returns the row after the last one.

    What has to be converted is converted here.

    Where another thread sets weights to 0 during the call there are fewer, and where a signal handler raised: rows of
    zeros without weight then.
    """
    cdef Py_ssize_t n_in = plan.sizes[0], n_out = plan.sizes[plan.n_layers], s = 0
    cdef Py_ssize_t weight_width = n_out if request.weight_kind == WEIGHT_PER_ENTRY else 1
    tile.first = 0
    tile.n_rows = n_rows
    tile.x = rows_of_source(request.x, &request.x_source, row, n_in * plan.itemsize)
    tile.y = NULL
    tile.labels = NULL
    tile.weight = NULL
    tile.rows = work.rows
    tile.scratch = work.scratch
    tile.is_open = False
    if request.n_kept == request.n_samples:
        if request.y != NULL:
            tile.y = rows_of_source(request.y, &request.y_source, row, n_out * plan.itemsize)
        if request.labels != NULL:
            tile.labels = <const Py_ssize_t*>rows_of_source(<const char*>request.labels, &request.y_source, row,
                                                            sizeof(Py_ssize_t))
        if request.weight_kind != NO_WEIGHT:
            tile.weight = request.weight + row * weight_width
        for s in range(n_rows):
            tile.rows[s] = row + s
        if request.x_source.code:
            tile.x = copy_reals(&request.x_source, tile.x, n_rows, n_in, plan.itemsize, work.x)
        if request.y_source.code and request.labels == NULL:
            tile.y = copy_reals(&request.y_source, tile.y, n_rows, n_out, plan.itemsize, work.y)
        elif request.y_source.code:
            tile.labels = copy_labels(&request.y_source, <const char*>tile.labels, n_rows, work.labels)
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
            copy_reals(&request.x_source, rows_of_source(request.x, &request.x_source, row, n_in * plan.itemsize), 1,
                       n_in, plan.itemsize, work.x + s * n_in * plan.itemsize)
            if request.y != NULL:
                copy_reals(&request.y_source, rows_of_source(request.y, &request.y_source, row, n_out * plan.itemsize),
                           1, n_out, plan.itemsize, work.y + s * n_out * plan.itemsize)
            if request.labels != NULL:
                copy_labels(&request.y_source, rows_of_source(<const char*>request.labels, &request.y_source, row,
                                                              sizeof(Py_ssize_t)), 1, work.labels + s)
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
