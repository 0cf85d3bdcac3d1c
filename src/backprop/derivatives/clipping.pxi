# Norms of the samples' gradients, and the sum of gradients that are clipped to a norm.
# Needs: derivatives/norms, first_order. Gives: rows of the table.

cdef enum:
    LEAST_EXPONENT_4 = -60       # a row of grad_a whose largest entry is smaller may lose digits: of float32
    LEAST_EXPONENT_8 = -500      # of float64


cdef int per_sample_gradient_norms_of_tile(Tile* tile, char* unused, bint add) noexcept nogil:
    """The norm of each sample's gradient."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t s
    cdef bint is_scaled
    cdef double norm
    cdef int exponent
    if gradients_of_samples(tile, &is_scaled):
        return 1
    if square_norms_of_tile(tile):
        return 1
    for s in range(tile.n_rows):
        norm = norm_of_row(tile, s, &exponent)
        exponent += work.row_exponent[s]
        if exponent != 0:
            norm = ldexp(norm, exponent)
        set_real(tile.request.row_results, tile.source_rows[s], shape.itemsize, norm)
        if is_stopped(tile.interrupt, flops_of_norm(shape, tile.request)):
            return 1
    return 0


cdef bint clip_row(const Tile* tile, Py_ssize_t s) noexcept nogil:
    """Write the factor of row s of grad_a into row_norm. A NaN stays a NaN, so that it shows in the sum.

    True if the row is extreme: products with its factor may lose digits. Then the factor is row_norm 2^row_exponent.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef int e, e_max, exponent = work.row_exponent[s]
    cdef double norm = norm_of_row(tile, s, &e), factor
    cdef double least = 1e-36 if shape.itemsize == 4 else 1e-300  # squares of 2^-60 and 2^-500
    if e == 0 and exponent == 0:
        factor = 1 if norm <= request.max_norm else request.max_norm / norm
        if factor == 1 or not (factor < 1e-290 or factor * factor * work.row_least[s] < least):
            work.row_norm[s] = factor
            work.row_least[s] = 0
            return False
    if ldexp(norm, e + exponent) <= request.max_norm:
        work.row_norm[s] = 1
        work.row_least[s] = -1
        return True
    factor = frexp(request.max_norm, &e_max) / norm
    exponent = e_max - e
    work.row_norm[s] = factor
    work.row_exponent[s] = exponent
    work.row_least[s] = -1
    return True


cdef void balance_row(const Shape* shape, const Workspace* work, Py_ssize_t i, Py_ssize_t s, floating* grad_a,
                      floating* balanced, const floating* h, floating* balanced_h) noexcept nogil:
    """Row s of grad_a times its factor; balanced and balanced_h have the same product with h, and lose no digits in it.

    A row that is not extreme has the same bits as by `scale_rows`.
    """
    cdef Py_ssize_t n_out = shape.sizes[i], n_in = shape.sizes[i - 1], j
    cdef double factor = work.row_norm[s], largest = 0, largest_h = 0
    cdef int exponent = work.row_exponent[s], e_factor, e, e_h, shift = 0
    cdef int least = LEAST_EXPONENT_4 if sizeof(floating) == 4 else LEAST_EXPONENT_8
    cdef int most = 127 if sizeof(floating) == 4 else 1023
    grad_a += s * shape.layers[i].ld
    balanced += s * shape.layers[i].ld
    h += s * ld_of_input(shape, i)
    balanced_h += s * ld_of_input(shape, i)
    if work.row_least[s] == 0:
        for j in range(n_out):
            grad_a[j] = <floating>(factor * grad_a[j])
            balanced[j] = grad_a[j]
        memcpy(balanced_h, h, n_in * sizeof(floating))
        return
    for j in range(n_out):
        largest = max(largest, fabs(<double>grad_a[j]))
    for j in range(n_in):
        largest_h = max(largest_h, fabs(<double>h[j]))
    if largest != 0 and not isinf(largest) and not isinf(largest_h):
        frexp(factor, &e_factor)
        frexp(largest, &e)
        frexp(largest_h, &e_h)
        e += e_factor + exponent
        if e < least:
            shift = max(0, min(e_h - 1, least - e))  # h stays above 1: what is lost then is lost in the product too
        elif e > most:
            shift = most - e
    for j in range(n_out):
        balanced[j] = <floating>times(grad_a[j], factor, exponent + shift)
        grad_a[j] = <floating>times(grad_a[j], factor, exponent)
    for j in range(n_in):
        balanced_h[j] = <floating>ldexp(<double>h[j], -shift)


cdef int sum_extreme_rows(const Tile* tile, char* grad, bint add) noexcept nogil:
    """(7) and (8) of a tile with extreme rows, whose powers of two are divided between grad_a and h."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t i, s
    cdef char* h
    for i in range(1, shape.n_layers + 1):
        h = work.grad_h if i == 1 else work.tangent_h[i - 1]  # buffers of h's size that hold nothing here
        for s in range(tile.n_rows):
            if shape.itemsize == 4:
                balance_row(shape, work, i, s, <float*>work.a[i], <float*>work.grad_a[i],
                            <const float*>input_of(tile, i), <float*>h)
            else:
                balance_row(shape, work, i, s, <double*>work.a[i], <double*>work.grad_a[i],
                            <const double*>input_of(tile, i), <double*>h)
            if is_stopped(tile.interrupt, <double>ENTRY_FLOPS * (shape.sizes[i - 1] + shape.sizes[i])):
                return 1
        if weight_gradient(tile, i, 0, shape.sizes[i], work.grad_a[i], h, grad, add):
            return 1
        if bias_gradient(tile, i, 0, shape.sizes[i], work.a[i], grad, add):
            return 1
    return 0


cdef int clipped_gradient_of_tile(Tile* tile, char* grad, bint add) noexcept nogil:
    """sum_s min(1, max_norm / ||g_s||) g_s: the factor goes to each row of grad_a."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t i, s
    cdef bint is_extreme = False, is_scaled
    cdef Pieces p
    if gradients_of_samples(tile, &is_scaled):
        return 1
    if square_norms_of_tile(tile):
        return 1
    for s in range(tile.n_rows):
        is_extreme = clip_row(tile, s) or is_extreme
        if is_stopped(tile.interrupt, flops_of_norm(shape, tile.request)):
            return 1
    if is_extreme:
        return sum_extreme_rows(tile, grad, add)
    for i in range(1, shape.n_layers + 1):
        start_entries(&p, tile.interrupt, tile.n_rows, shape.sizes[i], MEMORY_FLOPS)
        while p.n:
            shape.kernels.scale_rows(p.n_rows, p.n, work.a[i] + place(&p, shape.layers[i].ld, shape.itemsize),
                                     shape.layers[i].ld, work.row_norm + p.row)
            if next_piece(&p):
                return 1
    return sum_layer_gradients(tile, work.a, grad, add)


define("per_sample_gradient_norms", per_sample_gradient_norms_of_tile, one_gradient, NO_OPERAND, NULL, b"s", OF_SAMPLE,
       OF_DERIVATIVES, TAKES_Y)
define("clipped_gradient", clipped_gradient_of_tile, one_gradient, NO_OPERAND, b"p", NULL, OF_SAMPLE, OF_DERIVATIVES,
       TAKES_Y | TAKES_MAX_NORM)
