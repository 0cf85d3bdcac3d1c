# Norms of samples' gradients, what is clipped to a norm, and weights of any size: squares and products that leave the
# range of the dtype, though the result does not. Powers of two are kept apart there (`exponent`); they change no bit of
# what stays in the range.

cdef enum:
    KEPT_EXPONENT = 64           # of the largest of several weights: small ones should not underflow where it is huge
    LEAST_EXPONENT_4 = -60       # a row of grad_a whose largest entry is smaller may lose digits: of float32
    LEAST_EXPONENT_8 = -500      # of float64


# Weights of one sample's own ------------------------------------------------------------------------------------------

cdef inline double moderate(double weight, int kept, int* exponent) noexcept nogil:
    """weight 2^-exponent, which is near 2^-kept or 2^kept; most weights stay as they are, with an exponent of 0."""
    cdef int e
    exponent[0] = 0
    if 1e-19 <= weight <= 1e19 or weight == 0:
        return weight
    frexp(weight, &e)
    exponent[0] = min(e - kept, 1023) if weight > 1 else e + kept  # 2^1024 is no double
    return ldexp(weight, -exponent[0])


cdef bint moderate_weights(const Layers* plan, const Request* request, Workspace* work, Tile* tile) noexcept nogil:
    """Let the tile have each row's weights times 2^-row_exponent; whether some row_exponent is not 0.

    l_s is not divided by the sum of the weights in a call by sample: with a huge or tiny weight dL/da leaves the range
    of float32 where the result does not, as where W or g' is small. A row's exponent depends on that row alone.
    """
    cdef Py_ssize_t s, j, n = plan.sizes[plan.n_layers] if request.weight_kind == WEIGHT_PER_ENTRY else 1
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


cdef int scale_results(const Layers* plan, Workspace* work, const Tile* tile, char* rows, Py_ssize_t n,
                       Clock* clock) noexcept nogil:
    """Multiply rows of n numbers by 2^row_exponent, after `moderate_weights`; nonzero where a handler raised."""
    cdef Py_ssize_t s
    for s in range(tile.n_rows):
        if work.row_exponent[s] != 0 and scale_row(plan, ldexp(1.0, work.row_exponent[s]), n,
                                                   rows + s * n * plan.itemsize, clock):
            return 1
    return 0


cdef int scale_row(const Layers* plan, double factor, Py_ssize_t n, char* row, Clock* clock) noexcept nogil:
    """A row of n numbers times factor; nonzero where a signal handler raised."""
    cdef Pieces p
    start_entries(&p, clock, 1, n, MEMORY_FLOPS)
    while p.n:
        plan.kernels.scale_rows(1, p.n, row + p.column * plan.itemsize, n, &factor)
        if next_piece(&p, clock):
            return 1
    return 0


# Norms ----------------------------------------------------------------------------------------------------------------

cdef int square_norms_of_tile(const Layers* plan, Workspace* work, const Tile* tile, Clock* clock) noexcept nogil:
    """||g_s||_2^2 = sum_i ||grad_a_i||^2 (1 + ||h_{i-1}||^2) into row_norm (Goodfellow 2015).

    It is inf where it may be wrong. And into row_least the least ||grad_a_i||^2 of the layers where h is not small.
    Nonzero where a signal handler raised.
    """
    cdef Py_ssize_t i, s
    cdef double* of_h = work.row_square
    cdef double* of_grad_a = work.row_square + tile.n_rows
    for s in range(tile.n_rows):
        work.row_norm[s] = 0
        work.row_least[s] = INFINITY
    for i in range(1, plan.n_layers + 1):
        if (square_sums(plan, tile, plan.sizes[i - 1], input_of(plan, work, tile, i), ld_of_input(plan, i), of_h, clock)
                or square_sums(plan, tile, plan.sizes[i], work.a[i], plan.layers[i].ld, of_grad_a, clock)):
            return 1
        for s in range(tile.n_rows):
            work.row_norm[s] += of_grad_a[s] * (1 + of_h[s])
        for s in range(tile.n_rows):
            if of_h[s] > 4 and of_grad_a[s] < work.row_least[s]:
                work.row_least[s] = of_grad_a[s]
        for s in range(tile.n_rows if plan.itemsize == 8 else 0):
            if of_h[s] > 1e20 and of_grad_a[s] < 1e-280:  # squares may have underflowed
                work.row_norm[s] = INFINITY
    return 0


cdef int square_sums(const Layers* plan, const Tile* tile, Py_ssize_t n, const char* rows, Py_ssize_t ld, double* sums,
                     Clock* clock) noexcept nogil:
    """The sum of squares of each row of the tile; nonzero where a signal handler raised."""
    cdef Pieces p
    start_rows(&p, clock, tile.n_rows, n, MEMORY_FLOPS)
    while p.n:
        plan.kernels.square_sums(p.n_rows, n, rows + place(&p, ld, plan.itemsize), ld, sums + p.row)
        if next_piece(&p, clock):
            return 1
    return 0


cdef double norm_of_row(const Layers* plan, Workspace* work, const Tile* tile, Py_ssize_t s,
                        int* exponent) noexcept nogil:
    """||g_s||_2 2^-exponent, after `square_norms_of_tile`."""
    exponent[0] = 0
    if plan.itemsize == 8 and not 1e-280 <= work.row_norm[s] <= 1e300:  # its squares may be subnormal, or infinite
        return scaled_norm(plan, work, tile, s, exponent)
    return sqrt(work.row_norm[s])


cdef double scaled_norm(const Layers* plan, Workspace* work, const Tile* tile, Py_ssize_t s,
                        int* exponent) noexcept nogil:
    """||g_s||_2 2^-exponent of a float64 network where the squares overflow or underflow."""
    cdef Py_ssize_t i
    cdef double of_h, of_grad_a, total = 0
    cdef int e_h, e_a
    for i in range(1, plan.n_layers + 1):
        of_h = scaled_square(plan.sizes[i - 1], <const double*>input_of(plan, work, tile, i) + s * ld_of_input(plan, i),
                             &e_h)
        add_scaled(&of_h, &e_h, 1, 0)
        of_grad_a = scaled_square(plan.sizes[i], <const double*>work.a[i] + s * plan.layers[i].ld, &e_a)
        add_scaled(&total, exponent, of_grad_a * of_h, e_a + e_h)
    return sqrt(total)


cdef double scaled_square(Py_ssize_t n, const double* row, int* exponent) noexcept nogil:
    """||row||_2^2 4^-exponent; the largest entry is near 2^exponent."""
    cdef double largest = 0, total = 0, unit
    cdef Py_ssize_t k
    exponent[0] = 0
    for k in range(n):
        if row[k] != row[k]:
            return row[k]
        largest = max(largest, fabs(row[k]))
    if largest == 0 or isinf(largest):
        return largest
    frexp(largest, exponent)
    for k in range(n):
        unit = ldexp(row[k], -exponent[0])
        total += unit * unit
    return total


cdef inline void add_scaled(double* total, int* exponent, double term, int e) noexcept nogil:
    """total 4^exponent += term 4^e."""
    if term == 0:
        return
    if total[0] == 0 or e > exponent[0]:
        total[0] = ldexp(total[0], 2 * (exponent[0] - e)) + term
        exponent[0] = e
    else:
        total[0] += ldexp(term, 2 * (e - exponent[0]))


# Clipping -------------------------------------------------------------------------------------------------------------

cdef int clipped_gradient_of_tile(const Layers* plan, const Request* request, Workspace* work, Tile* tile, char* grad,
                                  bint add, Clock* clock) noexcept nogil:
    """sum_s min(1, max_norm / ||g_s||) g_s: the factor goes to each row of grad_a."""
    cdef Py_ssize_t i, s
    cdef bint is_extreme = False
    cdef Pieces p
    if forward_sweep(plan, request, work, tile, True, clock):
        return 1
    moderate_weights(plan, request, work, tile)
    if output_gradient(plan, request, work, tile, work.a[plan.n_layers], work.row_loss, True, clock):
        return 1
    if backward_sweep(plan, request, work, tile, NULL, False, 0, clock):
        return 1
    if square_norms_of_tile(plan, work, tile, clock):
        return 1
    for s in range(tile.n_rows):
        is_extreme = clip_row(plan, request, work, tile, s) or is_extreme
        if is_stopped(clock, <double>MEMORY_FLOPS * (plan.sizes[0] + plan.n_units)):  # where its norm is scaled
            return 1
    if is_extreme:
        return sum_extreme_rows(plan, work, tile, grad, add, clock)
    for i in range(1, plan.n_layers + 1):
        start_entries(&p, clock, tile.n_rows, plan.sizes[i], MEMORY_FLOPS)
        while p.n:
            plan.kernels.scale_rows(p.n_rows, p.n, work.a[i] + place(&p, plan.layers[i].ld, plan.itemsize),
                                    plan.layers[i].ld, work.row_norm + p.row)
            if next_piece(&p, clock):
                return 1
    return sum_layer_gradients(plan, work, tile, work.a, grad, add, clock)


cdef bint clip_row(const Layers* plan, const Request* request, Workspace* work, const Tile* tile,
                   Py_ssize_t s) noexcept nogil:
    """The factor of row s of grad_a into row_norm, a NaN where it is one, so that it shows in the sum.

    Whether it is an extreme row, whose products with the factor may lose digits: then that is row_norm 2^row_exponent.
    """
    cdef int e, e_max, exponent = work.row_exponent[s]
    cdef double norm = norm_of_row(plan, work, tile, s, &e), factor
    cdef double least = 1e-36 if plan.itemsize == 4 else 1e-300  # squares of 2^-60 and 2^-500
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


cdef int sum_extreme_rows(const Layers* plan, Workspace* work, const Tile* tile, char* grad, bint add,
                          Clock* clock) noexcept nogil:
    """(7) and (8) of a tile with extreme rows, whose powers of two are divided between grad_a and h."""
    cdef Py_ssize_t i, s
    cdef char* h
    for i in range(1, plan.n_layers + 1):
        h = work.grad_h if i == 1 else work.tangent_h[i - 1]  # buffers of h's size that hold nothing here
        for s in range(tile.n_rows):
            if plan.itemsize == 4:
                balance_row(plan, work, i, s, <float*>work.a[i], <float*>work.grad_a[i],
                            <const float*>input_of(plan, work, tile, i), <float*>h)
            else:
                balance_row(plan, work, i, s, <double*>work.a[i], <double*>work.grad_a[i],
                            <const double*>input_of(plan, work, tile, i), <double*>h)
            if is_stopped(clock, <double>ENTRY_FLOPS * (plan.sizes[i - 1] + plan.sizes[i])):
                return 1
        if weight_gradient(plan, tile, i, work.grad_a[i], h, 0, plan.sizes[i], grad, add, 0, clock):
            return 1
        if bias_gradient(plan, tile, i, work.a[i], 0, plan.sizes[i], grad, add, 0, clock):
            return 1
    return 0


cdef void balance_row(const Layers* plan, const Workspace* work, Py_ssize_t i, Py_ssize_t s, floating* grad_a,
                      floating* balanced, const floating* h, floating* balanced_h) noexcept nogil:
    """Row s of grad_a times its factor; balanced and balanced_h have the same product with h, and lose no digits in it.

    A row that is not extreme has the same bits as by `scale_rows`.
    """
    cdef Py_ssize_t n_out = plan.sizes[i], n_in = plan.sizes[i - 1], j
    cdef double factor = work.row_norm[s], largest = 0, largest_h = 0
    cdef int exponent = work.row_exponent[s], e_factor, e, e_h, shift = 0
    cdef int least = LEAST_EXPONENT_4 if sizeof(floating) == 4 else LEAST_EXPONENT_8
    cdef int most = 127 if sizeof(floating) == 4 else 1023
    grad_a += s * plan.layers[i].ld
    balanced += s * plan.layers[i].ld
    h += s * ld_of_input(plan, i)
    balanced_h += s * ld_of_input(plan, i)
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


cdef inline double times(double a, double factor, int exponent) noexcept nogil:
    """a factor 2^exponent; only the result may be subnormal."""
    cdef int e
    a = frexp(a, &e)
    return ldexp(a * factor, e + exponent)
