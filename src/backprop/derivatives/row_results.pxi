# Results that have one row per sample: from the buffers of a tile into the caller's rows.
# Needs: the equations. Gives: copy_into_rows, outer_products, gradients_of_rows, gradients_into_rows, grad_x_into_rows.

cdef enum:
    STREAM_BYTES = 16777216      # from here on a result would not stay in the caches


cdef int copy_into_rows(const Tile* tile, const char* rows, Py_ssize_t ld, Py_ssize_t n, Py_ssize_t k,
                        Py_ssize_t n_places) noexcept nogil:
    """n reals of each row of the tile into place k of n_places of its sample's result."""
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Py_ssize_t s, n_bytes = n * shape.itemsize
    for s in range(tile.n_rows):
        memcpy(request.row_results + (tile.source_rows[s] * n_places + k) * n_bytes, rows + s * ld * shape.itemsize,
               n_bytes)
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * n * n_places):
            return 1
    return 0


cdef int grad_x_into_rows(const Tile* tile, const char* grad_a_1, Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    """(5) for the input, into place k of n of each row's result."""
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    if hidden_sum(tile, 0, request.params, grad_a_1, NULL, work.grad_h, OVERWRITE):
        return 1
    return copy_into_rows(tile, work.grad_h, shape.sizes[0], shape.sizes[0], k, n)


cdef int gradients_of_rows(const Tile* tile, char** grad_a, char* gradients, Py_ssize_t ld) noexcept nogil:
    """Each row's own (7) and (8); the rows' gradients lie ld reals apart.

    So many rows as fill GRADIENT_BYTES at a time: a call for each row and layer would take as long as what it does in a
    small network, and with more rows their gradients would have left the cache when the next layer comes to them."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t s = 0, i, n
    cdef const Layer* layer
    while s < tile.n_rows:
        n = min(max(<Py_ssize_t>1, GRADIENT_BYTES // (ld * shape.itemsize)), tile.n_rows - s)
        for i in range(1, shape.n_layers + 1):
            if outer_products(tile, i, s, n, grad_a[i], NULL, NULL, gradients, ld):
                return 1
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * n * ld):
            return 1
        gradients += n * ld * shape.itemsize
        s += n
    return 0


cdef inline char* stream_filled(const Shape* shape, Workspace* work, char* gradients,
                                Py_ssize_t* filled) noexcept nogil:
    """Copy work.gradients to its place; return the place of the next piece."""
    cdef Py_ssize_t n = filled[0]
    shape.kernels.stream(n, work.gradients, gradients)
    filled[0] = 0
    return gradients + n * shape.itemsize


cdef int stream_gradients_of_rows(const Tile* tile, char** grad_a, char* gradients, Py_ssize_t ld) noexcept nogil:
    """The same for large results: piece by piece in work.gradients, from there they go to memory past the caches."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t s, i, u, n, filled = 0, most = reals_at_a_time(shape)
    cdef const Layer* layer
    cdef const char* row
    cdef const char* h
    for s in range(tile.n_rows):
        for i in range(1, shape.n_layers + 1):
            layer = &shape.layers[i]
            h = input_of(tile, i) + s * ld_of_input(shape, i) * shape.itemsize
            row = grad_a[i] + s * layer.ld * shape.itemsize
            u = 0
            while u <= layer.n_out:  # some rows of grad_W at a time; grad_b comes last
                n = min((most - filled) // (layer.n_in + 1), layer.n_out - u)
                if u < layer.n_out and n > 0:
                    shape.kernels.outer_products(1, layer.n_in, n, row + u * shape.itemsize, 0, h, 0, NULL, NULL,
                                                 work.gradients + filled * shape.itemsize, 0)
                    filled += n * layer.n_in
                    u += n
                elif u == layer.n_out and filled + layer.n_out <= most:
                    memcpy(work.gradients + filled * shape.itemsize, row, layer.n_out * shape.itemsize)
                    filled += layer.n_out
                    u += 1
                else:
                    if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * filled):
                        return 1
                    gradients = stream_filled(shape, work, gradients, &filled)
        if ld > shape.n_params or s == tile.n_rows - 1:
            if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * ld):
                return 1
            gradients = stream_filled(shape, work, gradients, &filled) + (ld - shape.n_params) * shape.itemsize
    return 0


cdef int gradients_into_rows(const Tile* tile, char** grad_a, Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    """Each row's own gradient into place k of n of its result. A call by sample leaves out no rows."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t n_bytes = shape.n_params * shape.itemsize
    cdef char* gradients = tile.request.row_results + (tile.source_rows[0] * n + k) * n_bytes
    if tile.request.n_samples * n * n_bytes >= STREAM_BYTES:
        return stream_gradients_of_rows(tile, grad_a, gradients, n * shape.n_params)
    return gradients_of_rows(tile, grad_a, gradients, n * shape.n_params)
