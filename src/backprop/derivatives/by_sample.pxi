# What calls with rows of their own for each sample make of their tiles, which know nothing of one another (`rows_of`).

cdef enum:
    STREAM_BYTES = 16777216      # from here on a result would not stay in the caches


cdef int outer_products(const Layers* plan, Workspace* work, const Tile* tile, Py_ssize_t i, Py_ssize_t row,
                        Py_ssize_t n_rows, const char* grad_a, const char* grad_a_2, const char* h_2, char* gradients,
                        Py_ssize_t ld, Clock* clock) noexcept nogil:
    """(7) and (8) of layer i for some rows of the tile, each on its own, plus grad_a_2 h_2^T where these are not NULL.

    The rows' gradients lie ld reals apart. Nonzero where a signal handler raised.
    """
    cdef const Layer* layer = &plan.layers[i]
    cdef Py_ssize_t ld_h = ld_of_input(plan, i), s, before
    cdef Pieces p
    start_pieces(&p, clock, n_rows, 1, layer.n_out, PIECE_COLUMNS, <double>MEMORY_FLOPS * layer.n_in, 0)
    while p.n:
        s = row + p.row
        before = (s * layer.ld + p.column) * plan.itemsize
        plan.kernels.outer_products(p.n_rows, layer.n_in, p.n, grad_a + before, layer.ld,
                                    input_of(plan, work, tile, i) + s * ld_h * plan.itemsize, ld_h,
                                    NULL if grad_a_2 == NULL else grad_a_2 + before,
                                    NULL if h_2 == NULL else h_2 + s * ld_h * plan.itemsize,
                                    gradients + layer.W + (p.row * ld + p.column * layer.n_in) * plan.itemsize, ld)
        if next_piece(&p, clock):
            return 1
    if p.is_cut:  # each piece has left its own grad_b behind its grad_W
        for s in range(n_rows):
            memcpy(gradients + layer.b + s * ld * plan.itemsize, grad_a + (row + s) * layer.ld * plan.itemsize,
                   layer.n_out * plan.itemsize)
    return 0


cdef int gradients_of_rows(const Layers* plan, Workspace* work, const Tile* tile, char** grad_a, char* gradients,
                           Py_ssize_t ld, Clock* clock) noexcept nogil:
    """Each row's own (7) and (8); the rows' gradients lie ld reals apart. Nonzero where a signal handler raised.

    So many rows as fill GRADIENT_BYTES at a time: a call for each row and layer would take as long as what it does in a
    small network, and with more rows their gradients would have left the cache when the next layer comes to them.
    """
    cdef Py_ssize_t s = 0, i, n
    cdef const Layer* layer
    while s < tile.n_rows:
        n = min(max(<Py_ssize_t>1, GRADIENT_BYTES // (ld * plan.itemsize)), tile.n_rows - s)
        for i in range(1, plan.n_layers + 1):
            if outer_products(plan, work, tile, i, s, n, grad_a[i], NULL, NULL, gradients, ld, clock):
                return 1
        if is_stopped(clock, <double>MEMORY_FLOPS * n * ld):
            return 1
        gradients += n * ld * plan.itemsize
        s += n
    return 0


cdef int stream_gradients_of_rows(const Layers* plan, Workspace* work, const Tile* tile, char** grad_a,
                                  char* gradients, Py_ssize_t ld, Clock* clock) noexcept nogil:
    """The same for large results: piece by piece in work.gradients, from where they go to memory past the caches."""
    cdef Py_ssize_t s, i, u, n, filled = 0, most = reals_at_a_time(plan)
    cdef const Layer* layer
    cdef const char* row
    cdef const char* h
    for s in range(tile.n_rows):
        for i in range(1, plan.n_layers + 1):
            layer = &plan.layers[i]
            h = input_of(plan, work, tile, i) + s * ld_of_input(plan, i) * plan.itemsize
            row = grad_a[i] + s * layer.ld * plan.itemsize
            u = 0
            while u <= layer.n_out:  # some rows of grad_W at a time; grad_b comes last
                n = min((most - filled) // (layer.n_in + 1), layer.n_out - u)
                if u < layer.n_out and n > 0:
                    plan.kernels.outer_products(1, layer.n_in, n, row + u * plan.itemsize, 0, h, 0, NULL, NULL,
                                                work.gradients + filled * plan.itemsize, 0)
                    filled += n * layer.n_in
                    u += n
                elif u == layer.n_out and filled + layer.n_out <= most:
                    memcpy(work.gradients + filled * plan.itemsize, row, layer.n_out * plan.itemsize)
                    filled += layer.n_out
                    u += 1
                else:
                    if is_stopped(clock, <double>MEMORY_FLOPS * filled):
                        return 1
                    gradients = stream_filled(plan, work, gradients, &filled)
        if ld > plan.n_params or s == tile.n_rows - 1:
            if is_stopped(clock, <double>MEMORY_FLOPS * ld):
                return 1
            gradients = stream_filled(plan, work, gradients, &filled) + (ld - plan.n_params) * plan.itemsize
    return 0


cdef inline char* stream_filled(const Layers* plan, Workspace* work, char* gradients,
                                Py_ssize_t* filled) noexcept nogil:
    """What fills work.gradients goes to its place; returns where the next piece belongs."""
    cdef Py_ssize_t n = filled[0]
    plan.kernels.stream(n, work.gradients, gradients)
    filled[0] = 0
    return gradients + n * plan.itemsize


cdef int gradients_into_rows(const Layers* plan, const Request* request, Workspace* work, const Tile* tile,
                             char** grad_a, Py_ssize_t row, Py_ssize_t k, Py_ssize_t n, Clock* clock) noexcept nogil:
    """Each row's own gradient into place k of n of its result, from source row `row` on."""
    cdef Py_ssize_t n_bytes = plan.n_params * plan.itemsize
    cdef char* gradients = request.rows + (row * n + k) * n_bytes
    if request.n_samples * n * n_bytes >= STREAM_BYTES:
        return stream_gradients_of_rows(plan, work, tile, grad_a, gradients, n * plan.n_params, clock)
    return gradients_of_rows(plan, work, tile, grad_a, gradients, n * plan.n_params, clock)


cdef int grad_x_into_rows(const Layers* plan, const Request* request, Workspace* work, const Tile* tile,
                          const char* grad_a_1, Py_ssize_t k, Py_ssize_t n, Clock* clock) noexcept nogil:
    """(5) for the input, into place k of n of each row's result; nonzero where a signal handler raised."""
    if hidden_sum(plan, tile, 0, request.params, grad_a_1, NULL, work.grad_h, OVERWRITE, clock):
        return 1
    return copy_into_rows(plan, request, tile, work.grad_h, plan.sizes[0], plan.sizes[0], k, n, clock)


cdef int rows_of_tile_into(const Layers* plan, const Request* request, Workspace* work, Py_ssize_t row,
                           Py_ssize_t n_rows, Clock* clock) noexcept nogil:
    """The results of some rows of a call by sample."""
    cdef Tile tile
    fill_tile(plan, request, work, &tile, row, n_rows, clock)
    tile.packing = PACKED if work.is_packed else PACK_AND_KEEP
    if request.mode == JVP:
        return jvp_of_rows(plan, request, work, &tile, clock)
    if request.mode == INPUT_JACOBIAN or request.mode == JACOBIAN:
        return jacobian_of_rows(plan, request, work, &tile, row, clock)
    return gradient_of_rows(plan, request, work, &tile, row, clock)


cdef int jvp_of_rows(const Layers* plan, const Request* request, Workspace* work, Tile* tile,
                     Clock* clock) noexcept nogil:
    """J v, where the output function has its part in J."""
    cdef Py_ssize_t L = plan.n_layers
    if output_sweep(plan, request, work, tile, clock):
        return 1
    if tangent_sweep(plan, request, work, tile, request.v, NULL, 1, clock):
        return 1
    if plan.loss_acts_on_a:
        if set_rows(plan, tile, L, work.tangent_a[L], work.tangent_h[L], clock):
            return 1
        if through_output(plan, work, tile, work.tangent_h[L], clock):
            return 1
    return copy_into_rows(plan, request, tile, work.tangent_h[L], plan.layers[L].ld, plan.sizes[L], 0, 1, clock)


cdef int jacobian_of_rows(const Layers* plan, const Request* request, Workspace* work, Tile* tile,
                          Py_ssize_t row, Clock* clock) noexcept nogil:
    """One cotangent sweep for each output, to x or to the parameters."""
    cdef Py_ssize_t L = plan.n_layers, k, n_out = plan.sizes[L]
    if output_sweep(plan, request, work, tile, clock):
        return 1
    for k in range(n_out):
        if output_cotangent(plan, request, work, tile, k, False, clock):
            return 1
        if cotangent_sweep(plan, request, work, tile, 1, False, clock):
            return 1
        if request.mode == INPUT_JACOBIAN:
            if grad_x_into_rows(plan, request, work, tile, work.grad_a[1], k, n_out, clock):
                return 1
        elif gradients_into_rows(plan, request, work, tile, work.grad_a, row, k, n_out, clock):
            return 1
    return 0


cdef int gradient_of_rows(const Layers* plan, const Request* request, Workspace* work, Tile* tile,
                          Py_ssize_t row, Clock* clock) noexcept nogil:
    """Each sample's gradient by x, its gradient by the parameters, or the norm of the latter."""
    cdef Py_ssize_t s, n = plan.sizes[0] if request.mode == INPUT_GRADIENT else plan.n_params
    cdef bint is_scaled
    cdef double norm
    cdef int exponent
    if forward_sweep(plan, request, work, tile, True, clock):
        return 1
    is_scaled = moderate_weights(plan, request, work, tile)
    if output_gradient(plan, request, work, tile, work.a[plan.n_layers], work.row_loss, True, clock):
        return 1
    if backward_sweep(plan, request, work, tile, NULL, False, 0, clock):
        return 1
    if request.mode == PER_SAMPLE_GRADIENT_NORMS:
        if square_norms_of_tile(plan, work, tile, clock):
            return 1
        for s in range(tile.n_rows):
            norm = norm_of_row(plan, work, tile, s, &exponent)
            exponent += work.row_exponent[s]
            if exponent != 0:
                norm = ldexp(norm, exponent)
            if plan.itemsize == 4:
                (<float*>request.rows)[tile.rows[s]] = <float>norm
            else:
                (<double*>request.rows)[tile.rows[s]] = norm
            if is_stopped(clock, <double>MEMORY_FLOPS * (plan.sizes[0] + plan.n_units)):  # where it is scaled
                return 1
        return 0
    if request.mode == INPUT_GRADIENT:
        if grad_x_into_rows(plan, request, work, tile, work.a[1], 0, 1, clock):
            return 1
    elif gradients_into_rows(plan, request, work, tile, work.a, row, 0, 1, clock):
        return 1
    return scale_results(plan, work, tile, request.rows + row * n * plan.itemsize, n, clock) if is_scaled else 0
