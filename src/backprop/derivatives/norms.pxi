# Norms of samples' gradients, and weights of one sample's own: squares and products that leave the range of the dtype,
# though the result does not. Powers of two are kept apart there (`exponent`); they change no bit of what is in range.
# Needs: the equations, recursion/moderate. Gives: moderate_weights, scale_row, scale_results, square_norms_of_tile,
# norm_of_row, flops_of_norm.

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


cdef double power_of_two_near(Py_ssize_t n, const floating* row, int* exponent) noexcept nogil:
    """2^-exponent, which brings the largest entry of a row near 1, if there is such a number."""
    cdef double largest = 0
    cdef Py_ssize_t k
    exponent[0] = 0
    for k in range(n):
        largest = max(largest, fabs(<double>row[k]))
    if largest == 0 or isinf(largest):
        return 1
    frexp(largest, exponent)
    exponent[0] = max(exponent[0], -1000)
    return ldexp(1.0, -exponent[0])


cdef void add_free_squares(const uint8_t* free,  # IN: (n_out, n_in) of W, then (n_out) of b
                           Py_ssize_t n_in, Py_ssize_t n_out, const floating* grad_a, const floating* h,
                           double* total, int* exponent) noexcept nogil:
    """total 4^exponent += the squares of the free entries of one sample's grad_W = grad_a h^T and grad_b = grad_a."""
    cdef int e_a, e_h
    cdef double unit_a = power_of_two_near(n_out, grad_a, &e_a), unit_h = power_of_two_near(n_in, h, &e_h)
    cdef double of_W = 0, of_b = 0, of_row, square, entry
    cdef Py_ssize_t m, j
    cdef bint is_free
    for m in range(n_out):
        of_row = 0
        is_free = False
        for j in range(n_in):
            if free[m * n_in + j]:
                entry = h[j] * unit_h
                of_row += entry * entry
                is_free = True
        square = grad_a[m] * unit_a
        square = square * square
        if is_free:  # else grad_a may be infinite
            of_W += square * of_row
        if free[n_out * n_in + m]:
            of_b += square
    add_scaled(total, exponent, of_W, e_a + e_h)
    add_scaled(total, exponent, of_b, e_a)


cdef double norm_of_free(const Tile* tile, Py_ssize_t s, int* exponent) noexcept nogil:
    """||g_s||_2 2^-exponent of the free parameters. If the norm is neither tiny nor huge, exponent is 0."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef const Layer* layer
    cdef const uint8_t* free
    cdef double total = 0
    cdef Py_ssize_t i, ld
    for i in range(1, shape.n_layers + 1):
        layer = &shape.layers[i]
        ld = ld_of_input(shape, i)
        free = tile.request.free + layer.W // shape.itemsize
        if shape.itemsize == 4:
            add_free_squares(free, layer.n_in, layer.n_out, <const float*>work.a[i] + s * layer.ld,
                             <const float*>input_of(tile, i) + s * ld, &total, exponent)
        else:
            add_free_squares(free, layer.n_in, layer.n_out, <const double*>work.a[i] + s * layer.ld,
                             <const double*>input_of(tile, i) + s * ld, &total, exponent)
    total = sqrt(total)
    if -400 < exponent[0] < 400:
        total = ldexp(total, exponent[0])
        exponent[0] = 0
    return total


cdef double flops_of_norm(const Shape* shape, const Request* request) noexcept nogil:
    """What `norm_of_row` takes at most."""
    return <double>MEMORY_FLOPS * (shape.sizes[0] + shape.n_units if request.free == NULL else 2 * shape.n_params)


cdef double norm_of_row(const Tile* tile, Py_ssize_t s, int* exponent) noexcept nogil:
    """||g_s||_2 2^-exponent, after `square_norms_of_tile`."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    exponent[0] = 0
    if tile.request.free != NULL:
        return norm_of_free(tile, s, exponent)
    if shape.itemsize == 8 and not 1e-280 <= work.row_norm[s] <= 1e300:  # its squares may be subnormal, or infinite
        return scaled_norm(tile, s, exponent)
    return sqrt(work.row_norm[s])
