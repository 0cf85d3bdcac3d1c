# Second derivatives by the inputs: Hessians, Laplacians, and derivatives along directions with their way back.
# Needs: recursion/jets, jets_back, sweeps; derivatives/row_results. Gives: rows of the table.

cdef int laplacian_of_tile(Tile* tile, char* unused, bint add) noexcept nogil:
    """sum_j d2y_hat/dx_j2 of each output."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t L = shape.n_layers
    if jet_sweep(tile):
        return 1
    return copy_into_rows(tile, block_of_outputs(tile, 1 + tile.request.jet.n_directions), shape.layers[L].ld,
                          shape.sizes[L], 0, 1)


cdef int derivatives_into_rows(const Tile* tile, Py_ssize_t first_block, char* results) noexcept nogil:  # OUT
    """k blocks of the outputs into (n_samples, n_L, k)."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t L = shape.n_layers, n_out = shape.sizes[L], k = tile.request.jet.n_directions, s, o, j
    cdef Py_ssize_t size = shape.itemsize
    cdef const char* rows
    for j in range(k):
        rows = block_of_outputs(tile, first_block + j)
        for s in range(tile.n_rows):
            for o in range(n_out):
                memcpy(results + ((tile.source_rows[s] * n_out + o) * k + j) * size,
                       rows + (s * shape.layers[L].ld + o) * size, size)
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * tile.n_rows * n_out):
            return 1
    return 0


cdef int cotangents_from_rows(const Tile* tile, Py_ssize_t first_block, Py_ssize_t n_blocks,
                              const char* cotangents) noexcept nogil:  # IN, or NULL for 0
    """(n_samples, n_L, n_blocks) into blocks of h_L: the reverse of `derivatives_into_rows`."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t L = shape.n_layers, n_out = shape.sizes[L], s, o, j, size = shape.itemsize
    cdef char* rows
    for j in range(n_blocks):
        rows = block_of_h(tile, L, first_block + j)
        if cotangents == NULL:
            memset(rows, 0, block_bytes(tile, L))
        else:
            for s in range(tile.n_rows):
                for o in range(n_out):
                    memcpy(rows + (s * shape.layers[L].ld + o) * size,
                           cotangents + ((tile.source_rows[s] * n_out + o) * n_blocks + j) * size, size)
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * tile.n_rows * n_out):
            return 1
    return 0


cdef int jet_vjp_of_tile(Tile* tile, char* grad, bint add) noexcept nogil:
    """Cotangents of y_hat and of its derivatives back to the parameters, summed, and to x, row by row."""
    cdef const Shape* shape = tile.shape
    cdef const Jet* jet = &tile.request.jet
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, k = jet.n_directions
    if jet_sweep(tile):
        return 1
    if output_code(shape) == SOFTMAX and set_rows(tile, L, work.h[L], work.grad_a[L]):
        return 1
    if (cotangents_from_rows(tile, 0, 1, jet.cotangent_y) or cotangents_from_rows(tile, 1, k, jet.cotangent_dy)
            or cotangents_from_rows(tile, 1 + k, k, jet.cotangent_d2y)):
        return 1
    if jet_cotangent_sweep(tile, grad, add):
        return 1
    return grad_x_into_rows(tile, work.h[1], 0, 1)


cdef int set_multipliers(const Tile* tile) noexcept nogil:
    """The multipliers of y_hat into grad_a_L."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, n_out = shape.sizes[L], ld = shape.layers[L].ld, s
    cdef const char* multipliers = tile.request.cotangent
    for s in range(tile.n_rows):
        if multipliers == NULL:
            set_real(work.grad_a[L], s * ld, shape.itemsize, 1)
        else:
            if not tile.request.shares_cotangent:
                multipliers = tile.request.cotangent + tile.source_rows[s] * n_out * shape.itemsize
            memcpy(work.grad_a[L] + s * ld * shape.itemsize, multipliers, n_out * shape.itemsize)
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * n_out):
            return 1
    return 0


cdef int curve_of_outputs(const Tile* tile) noexcept nogil:
    """grad_a_L and curve_L, from multipliers of y_hat in grad_a_L."""
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = tile.shape.n_layers
    if has_plain_outputs(tile.shape):
        return 0
    if output_code(tile.shape) == SOFTMAX:
        return through_output(tile, work.grad_a[L]) or set_rows(tile, L, work.grad_a[L], work.curve[L])
    if product_into(tile, L, 1, work.g_second[L], work.grad_a[L], work.curve[L]):
        return 1
    return g_prime_product(tile, L, work.a[L], work.grad_a[L])


cdef int curve_of_output(const Tile* tile, Py_ssize_t o) noexcept nogil:
    """curve_L for the cotangent e_o of y_hat, after `output_cotangent`, and for the same reason."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, s, entry
    if has_plain_outputs(shape):
        return 0
    if output_code(shape) == SOFTMAX:
        return set_rows(tile, L, work.grad_a[L], work.curve[L])
    if set_rows(tile, L, NULL, work.curve[L]):
        return 1
    for s in range(tile.n_rows):
        entry = s * shape.layers[L].ld + o
        set_real(work.curve[L], entry, shape.itemsize, get_real(work.g_second[L], entry, shape.itemsize))
    return 0


cdef int center_for_softmax(const Tile* tile) noexcept nogil:
    """If y_hat is softmax, d_L becomes d_L - p.d_L for each direction.

    With these rows and curve = p (lambda - p.lambda), d^T diag(curve) d is softmax's part of the Hessian.
    """
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t L = shape.n_layers, ld = shape.layers[L].ld, start, j
    cdef Pieces p
    for j in range(tile.request.jet.n_directions if output_code(shape) == SOFTMAX else 0):
        start_rows(&p, tile.interrupt, tile.n_rows, shape.sizes[L], 2.0 * MEMORY_FLOPS)
        while p.n:
            start = p.row * ld * shape.itemsize
            shape.kernels.softmax_center(p.n_rows, p.n, tile.work.h[L] + start, block_of_a(tile, L, 1 + j) + start, ld)
            if next_piece(&p):
                return 1
    return 0


cdef inline JetOfLayer directions_of_layer(const Tile* tile, Py_ssize_t i) noexcept nogil:
    """d of a layer; that of softmax has a row for each sample also in layer 1."""
    cdef JetOfLayer of = jet_of_layer(tile, i)
    if i == tile.shape.n_layers and output_code(tile.shape) == SOFTMAX:
        of.d_row = tile.shape.layers[i].ld
        of.d_block = tile.n_rows * of.d_row
    return of


cdef inline Py_ssize_t n_curved_layers(const Shape* shape) noexcept nogil:
    """The layers whose g'' counts: all, or all but plain outputs. An affine network has one, so that NaN shows."""
    return shape.n_layers - has_plain_outputs(shape)


cdef int input_hessian_of_tile(Tile* tile, char* unused, bint add) noexcept nogil:
    """sum_i d_i^T diag(curve_i) d_i: d_i = da_i/dx, curve_i = g''(a_i) grad_h_i from the multipliers of y_hat."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t n_in = shape.sizes[0], row_bytes = n_in * n_in * shape.itemsize, i
    cdef double flops            # of the entries (p, q) with q >= p: they may also read d from memory
    cdef char* H = tile.request.row_results + tile.source_rows[0] * row_bytes
    cdef JetOfLayer of
    cdef Pieces p
    if jet_sweep(tile) or center_for_softmax(tile) or set_multipliers(tile):
        return 1
    if curve_of_outputs(tile) or cotangent_sweep(tile, 1, True):
        return 1
    for i in range(1, n_curved_layers(shape) + 1):
        of = directions_of_layer(tile, i)
        flops = n_in * (10.0 * shape.sizes[i] + 2.0 * MEMORY_FLOPS)
        start_pieces(&p, tile.interrupt, tile.n_rows, 1, n_in, FORM_STEP, flops, 0)
        while p.n:
            shape.kernels.symmetric_forms(p.n_rows, shape.sizes[i], n_in, p.column, p.n,
                                          work.curve[i] + p.row * shape.layers[i].ld * shape.itemsize,
                                          shape.layers[i].ld, of.d + p.row * of.d_row * shape.itemsize, of.d_row,
                                          of.d_block, H + p.row * row_bytes, i > 1)
            if next_piece(&p):
                return 1
    return 0


cdef int second_derivatives_of_output(const Tile* tile, Py_ssize_t o) noexcept nogil:
    """d2y_hat_o along each direction, by one way back: q^T H q with the Hessian of output o."""
    cdef const Shape* shape = tile.shape
    cdef const Jet* jet = &tile.request.jet
    cdef Workspace* work = tile.work
    cdef Py_ssize_t n_out = shape.sizes[shape.n_layers], k = jet.n_directions, i
    cdef Py_ssize_t row_bytes = n_out * k * shape.itemsize
    cdef char* d2y = jet.d2y + (tile.source_rows[0] * n_out + o) * k * shape.itemsize
    cdef JetOfLayer of
    cdef Pieces p
    if output_cotangent(tile, o, False) or curve_of_output(tile, o) or cotangent_sweep(tile, 1, True):
        return 1
    for i in range(1, n_curved_layers(shape) + 1):
        of = directions_of_layer(tile, i)
        start_rows(&p, tile.interrupt, tile.n_rows, shape.sizes[i], 2.0 * MEMORY_FLOPS * k)
        while p.n:
            shape.kernels.weighted_squares(p.n_rows, p.n, k,
                                           work.curve[i] + place(&p, shape.layers[i].ld, shape.itemsize),
                                           shape.layers[i].ld, of.d + p.row * of.d_row * shape.itemsize, of.d_row,
                                           of.d_block, d2y + p.row * row_bytes, n_out * k, i > 1)
            if next_piece(&p):
                return 1
    return 0


cdef int input_jet_of_tile(Tile* tile, char* unused, bint add) noexcept nogil:
    """y_hat, and its first and second derivatives along each direction.

    The second ones take one more product with W for each direction, or one way back for each output, whatever is less.
    """
    cdef const Shape* shape = tile.shape
    cdef const Jet* jet = &tile.request.jet
    cdef Py_ssize_t L = shape.n_layers, o
    if jet_sweep(tile):
        return 1
    if copy_into_rows(tile, block_of_outputs(tile, 0), shape.layers[L].ld, shape.sizes[L], 0, 1):
        return 1
    if derivatives_into_rows(tile, 1, jet.dy):
        return 1
    if jet.form == EACH:
        return derivatives_into_rows(tile, 1 + jet.n_directions, jet.d2y)
    if center_for_softmax(tile):
        return 1
    for o in range(shape.sizes[L]):
        if second_derivatives_of_output(tile, o):
            return 1
    return 0


cdef double cost_of_jet(const Request* request) noexcept nogil:
    return request.blocks / 3.0


cdef double cost_of_jet_and_back(const Request* request) noexcept nogil:
    return request.blocks


define("laplacian", laplacian_of_tile, cost_of_jet, NO_OPERAND, NULL, b"so", OF_MEAN, OF_DERIVATIVES,
       HAS_JET | NEEDS_SECOND, DIAGONAL)
define("input_hessian", input_hessian_of_tile, cost_of_jet, MULTIPLIERS, NULL, b"sii", OF_MEAN, OF_DERIVATIVES,
       HAS_JET | NEEDS_SECOND, FIRST_ALONE)
cdef Call call_of_input_jet = define("input_jet", input_jet_of_tile, cost_of_jet, DIRECTIONS_OF_X, NULL, b"so",
                                     OF_MEAN, OF_DERIVATIVES, HAS_JET | NEEDS_SECOND, EACH)
cdef const Mode* mode_of_input_jet = &call_of_input_jet.mode
cdef Call call_of_jet_vjp = define("jet_vjp", jet_vjp_of_tile, cost_of_jet_and_back, DIRECTIONS_OF_X, b"p", b"si",
                                   OF_SUM, OF_DERIVATIVES, HAS_JET | NEEDS_SECOND | NEEDS_THIRD, EACH)
cdef const Mode* mode_of_jet_vjp = &call_of_jet_vjp.mode
