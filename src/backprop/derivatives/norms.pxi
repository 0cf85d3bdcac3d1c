# Norms of samples' gradients, and weights of one sample's own: squares and products that leave the range of the dtype,
# though the result does not. Powers of two are kept apart there (`exponent`); they change no bit of what is in range.
# Needs: the equations, recursion/moderate. Gives: moderate_weights, scale_row, scale_results, square_norms_of_tile,
# norm_of_row.

cdef enum:
    KEPT_EXPONENT = 64           # of the largest of several weights: small ones should not underflow if it is huge


cdef bint moderate_weights(Tile* tile) noexcept nogil:
    """Let the tile have each row's weights times 2^-row_exponent; whether some row_exponent is not 0.

    l_s is not divided by the sum of the weights in a call by sample: with a huge or tiny weight dL/da leaves the range
    of float32 though the result does not, for example if W or g' is small. A row's exponent depends on that row alone.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t s, j, n = shape.sizes[shape.n_layers] if request.weight_kind == WEIGHT_PER_ENTRY else 1
    cdef int kept = KEPT_EXPONENT if n > 1 else 0
    cdef double largest
    cdef bint is_any = False
    memset(work.row_exponent, 0, tile.n_rows * sizeof(int))
    if request.weight_kind == NO_WEIGHT:
        return False
    for s in range(tile.n_rows):
        largest = 0
        for j in range(n):
            largest = max(largest, tile.weight[s * n + j])
        moderate(largest, kept, &work.row_exponent[s])
        is_any = is_any or work.row_exponent[s] != 0
    if is_any:
        for s in range(tile.n_rows):
            for j in range(n):
                work.weight[s * n + j] = ldexp(tile.weight[s * n + j], -work.row_exponent[s])
        tile.weight = work.weight
    return is_any


cdef int scale_row(const Tile* tile, double factor, Py_ssize_t n, char* row) noexcept nogil:
    """A row of n numbers times factor."""
    cdef Pieces p
    start_entries(&p, tile.interrupt, 1, n, MEMORY_FLOPS)
    while p.n:
        tile.shape.kernels.scale_rows(1, p.n, row + p.column * tile.shape.itemsize, n, &factor)
        if next_piece(&p):
            return 1
    return 0


cdef int scale_results(const Tile* tile, Py_ssize_t n) noexcept nogil:
    """Multiply the tile's rows of results, n numbers each, by 2^row_exponent, after `moderate_weights`."""
    cdef const int* exponent = tile.work.row_exponent
    cdef char* rows = tile.request.row_results + tile.source_rows[0] * n * tile.shape.itemsize
    cdef Py_ssize_t s
    for s in range(tile.n_rows):
        if exponent[s] != 0 and scale_row(tile, ldexp(1.0, exponent[s]), n, rows + s * n * tile.shape.itemsize):
            return 1
    return 0


cdef int square_sums(const Tile* tile, Py_ssize_t n, const char* rows, Py_ssize_t ld, double* sums) noexcept nogil:
    """The sum of squares of each row of the tile."""
    cdef const Shape* shape = tile.shape
    cdef Pieces p
    start_rows(&p, tile.interrupt, tile.n_rows, n, MEMORY_FLOPS)
    while p.n:
        shape.kernels.square_sums(p.n_rows, n, rows + place(&p, ld, shape.itemsize), ld, sums + p.row)
        if next_piece(&p):
            return 1
    return 0


cdef int square_norms_of_tile(const Tile* tile) noexcept nogil:
    """||g_s||_2^2 = sum_i ||grad_a_i||^2 (1 + ||h_{i-1}||^2) into row_norm (Goodfellow 2015).

    row_norm is inf if it may be wrong. row_least becomes the least ||grad_a_i||^2 of the layers whose h is not small.
    """
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t i, s
    cdef double* of_h = work.row_square
    cdef double* of_grad_a = work.row_square + tile.n_rows
    for s in range(tile.n_rows):
        work.row_norm[s] = 0
        work.row_least[s] = INFINITY
    for i in range(1, shape.n_layers + 1):
        if (square_sums(tile, shape.sizes[i - 1], input_of(tile, i), ld_of_input(shape, i), of_h)
                or square_sums(tile, shape.sizes[i], work.a[i], shape.layers[i].ld, of_grad_a)):
            return 1
        for s in range(tile.n_rows):
            work.row_norm[s] += of_grad_a[s] * (1 + of_h[s])
        for s in range(tile.n_rows):
            if of_h[s] > 4 and of_grad_a[s] < work.row_least[s]:
                work.row_least[s] = of_grad_a[s]
        for s in range(tile.n_rows if shape.itemsize == 8 else 0):
            if of_h[s] > 1e20 and of_grad_a[s] < 1e-280:  # squares may have underflowed
                work.row_norm[s] = INFINITY
    return 0


cdef double scaled_norm(const Tile* tile, Py_ssize_t s, int* exponent) noexcept nogil:
    """||g_s||_2 2^-exponent of a float64 network if the squares overflow or underflow."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t i
    cdef double of_h, of_grad_a, total = 0
    cdef int e_h, e_a
    for i in range(1, shape.n_layers + 1):
        of_h = scaled_square(shape.sizes[i - 1], <const double*>input_of(tile, i) + s * ld_of_input(shape, i), &e_h)
        add_scaled(&of_h, &e_h, 1, 0)
        of_grad_a = scaled_square(shape.sizes[i], <const double*>work.a[i] + s * shape.layers[i].ld, &e_a)
        add_scaled(&total, exponent, of_grad_a * of_h, e_a + e_h)
    return sqrt(total)


cdef double norm_of_row(const Tile* tile, Py_ssize_t s, int* exponent) noexcept nogil:
    """||g_s||_2 2^-exponent, after `square_norms_of_tile`."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    exponent[0] = 0
    if shape.itemsize == 8 and not 1e-280 <= work.row_norm[s] <= 1e300:  # its squares may be subnormal, or infinite
        return scaled_norm(tile, s, exponent)
    return sqrt(work.row_norm[s])
