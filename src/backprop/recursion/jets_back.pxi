# The other sweeps of derivatives along directions: cotangents back to the parameters, and tangents along parameters.
# Needs: recursion/jets, which has their equations. Gives: jet_cotangent_sweep, jet_tangent_sweep.

cdef int cotangent_through_activation(const Tile* tile, Py_ssize_t i) noexcept nogil:
    """The cotangents of h, D and S of layer i become those of a, d and s, in place."""
    cdef const Shape* shape = tile.shape
    cdef const Jet* jet = &tile.request.jet
    cdef Workspace* work = tile.work
    cdef JetOfLayer of = jet_of_layer(tile, i)
    cdef Py_ssize_t ld = shape.layers[i].ld, start, row, n
    cdef Pieces p
    start_jet(&p, tile, i, &of)
    while p.n:
        row = p.row
        while row < p.row + p.n_rows:
            n = min(of.most_rows, p.row + p.n_rows - row)
            start = (row * ld + p.column) * shape.itemsize
            shape.kernels.jet_cotangent(
                n, p.n, jet.n_directions, jet.form, coefficients_of(tile, &of, row), of.ld_coefficients,
                work.a[i] + start, work.g_second[i] + start, work.g_third[i] + start,
                of.d + (row * of.d_row + p.column) * shape.itemsize, of.d_row, of.d_block,
                NULL if of.s == NULL else of.s + start, block_of_h(tile, i, 0) + start,
                block_of_h(tile, i, 1) + start, block_of_h(tile, i, 1 + jet.n_directions) + start, ld,
                tile.n_rows * ld)
            row += n
        if next_piece(&p):
            return 1
    return 0


cdef int cotangent_through_softmax(const Tile* tile) noexcept nogil:
    """The same for softmax, whose p is kept in grad_a_L: its cotangent lies in the place of h_L."""
    cdef const Shape* shape = tile.shape
    cdef const Jet* jet = &tile.request.jet
    cdef Py_ssize_t L = shape.n_layers, ld = shape.layers[L].ld, start
    cdef Pieces p
    start_rows(&p, tile.interrupt, tile.n_rows, shape.sizes[L], 8.0 * MEMORY_FLOPS * blocks_of_jet(jet))
    while p.n:
        start = p.row * ld * shape.itemsize
        shape.kernels.softmax_jet_cotangent(
            p.n_rows, p.n, jet.n_directions, jet.form, NULL, 0, tile.work.grad_a[L] + start,
            block_of_a(tile, L, 1) + start, block_of_a(tile, L, 1 + jet.n_directions) + start,
            block_of_h(tile, L, 0) + start, block_of_h(tile, L, 1) + start,
            block_of_h(tile, L, 1 + jet.n_directions) + start, ld, tile.n_rows * ld, tile.work.softmax_means)
        if next_piece(&p):
            return 1
    return 0


cdef int add_gradient_along_directions(const Tile* tile, char* grad) noexcept nogil:  # IN and OUT
    """grad_{W_1} += sum_j d'_j q_j^T, after the rest of the gradient of layer 1.

    If the samples share the directions, d'_j is summed over them first.
    """
    cdef const Shape* shape = tile.shape
    cdef const Jet* jet = &tile.request.jet
    cdef const Layer* layer = &shape.layers[1]
    cdef Py_ssize_t n_in = layer.n_in, ld = layer.ld, j, u, entry
    cdef char* sums = tile.work.tangent_a[1]  # (k, ld)
    cdef Tile rows = blocks_as_rows(tile, jet.n_directions)
    if jet.is_by_sample:
        return products_over_rows(tile, rows.n_rows, n_in, layer.n_out, block_of_h(tile, 1, 1), ld,
                                  directions_of_rows(tile), n_in, grad + layer.W, n_in, ADD)
    for j in range(jet.n_directions):
        if sum_of_rows(tile, layer.n_out, block_of_h(tile, 1, 1 + j), ld, sums + j * ld * shape.itemsize, OVERWRITE):
            return 1
    if jet.directions != NULL:
        return products_over_rows(tile, jet.n_directions, n_in, layer.n_out, sums, ld, jet.directions, n_in,
                                  grad + layer.W, n_in, ADD)
    for j in range(n_in):
        for u in range(layer.n_out):
            entry = u * n_in + j
            set_real(grad + layer.W, entry, shape.itemsize, get_real(grad + layer.W, entry, shape.itemsize)
                     + get_real(sums, j * ld + u, shape.itemsize))
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * layer.n_out):
            return 1
    return 0


cdef int jet_cotangent_sweep(const Tile* tile, char* grad, bint add) noexcept nogil:  # OUT, or added to
    """From the cotangents of y_hat and its derivatives, in the blocks of h_L, to the parameters.

    The first block of h_1 becomes grad_a_1.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, i
    cdef Tile rows = blocks_as_rows(tile, request.blocks)
    for i in range(L, 0, -1):
        if i == L and output_code(shape) == SOFTMAX:
            if cotangent_through_softmax(tile):
                return 1
        elif i < L or not has_plain_outputs(shape):
            if cotangent_through_activation(tile, i):
                return 1
        if bias_gradient(tile, i, 0, shape.sizes[i], work.h[i], grad, add):
            return 1
        if i == 1:
            return (weight_gradient(tile, 1, 0, shape.sizes[1], work.h[1], tile.x, grad, add)
                    or add_gradient_along_directions(tile, grad))
        if weight_gradient(&rows, i, 0, shape.sizes[i], work.h[i], work.h[i - 1], grad, add):
            return 1
        if hidden_sum(&rows, i - 1, request.params, work.h[i], NULL, work.h[i - 1], OVERWRITE):
            return 1
    return 0


cdef int tangent_through_activation(const Tile* tile, Py_ssize_t i) noexcept nogil:
    """t_h, t_D and t_S of layer i, from t_a, t_d and t_s."""
    cdef const Shape* shape = tile.shape
    cdef const Jet* jet = &tile.request.jet
    cdef Workspace* work = tile.work
    cdef JetOfLayer of = jet_of_layer(tile, i)
    cdef Py_ssize_t ld = shape.layers[i].ld, start, row, n, n_before = 1 + jet.n_directions
    cdef Pieces p
    start_jet(&p, tile, i, &of)
    while p.n:
        row = p.row
        while row < p.row + p.n_rows:
            n = min(of.most_rows, p.row + p.n_rows - row)
            start = (row * ld + p.column) * shape.itemsize
            shape.kernels.jet_tangent(
                n, p.n, jet.n_directions, jet.form, coefficients_of(tile, &of, row), of.ld_coefficients,
                work.a[i] + start, work.g_second[i] + start, work.g_third[i] + start,
                of.d + (row * of.d_row + p.column) * shape.itemsize, of.d_row, of.d_block,
                NULL if of.s == NULL else of.s + start, work.tangent_a[i] + start,
                block_of_tangent(tile, work.tangent_a, i, 1) + (row * of.d_row + p.column) * shape.itemsize,
                of.d_row, of.d_block,
                NULL if of.s == NULL else block_of_tangent(tile, work.tangent_a, i, n_before) + start,
                work.tangent_h[i] + start, <char*>block_of_tangent(tile, work.tangent_h, i, 1) + start,
                <char*>block_of_tangent(tile, work.tangent_h, i, n_before) + start, ld, tile.n_rows * ld)
            row += n
        if next_piece(&p):
            return 1
    return 0


cdef int jet_tangent_sweep(const Tile* tile, const char* v) noexcept nogil:
    """The derivatives of all blocks along parameters v, after `jet_sweep`, into the blocks of tangent_h.

    Those of plain outputs stay in the blocks of tangent_a_L. The samples must share the directions.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, i
    cdef const Layer* layer
    cdef Tile rows = blocks_as_rows(tile, request.blocks)
    cdef Tile derivatives = blocks_as_rows(tile, request.blocks - 1)
    cdef int packing = PACKED if work.is_v_packed else PACK_AND_KEEP
    for i in range(1, L + 1):
        layer = &shape.layers[i]
        if preactivation(tile, i, v + layer.W, v + layer.b, input_of(tile, i), work.packed_v[i], packing,
                         work.tangent_a[i], OVERWRITE):
            return 1
        if i == 1:
            if first_derivatives_of_layer_1(tile, v + layer.W, work.packed_v[1], PACKED,
                                            work.tangent_a[1] + block_bytes(tile, 1)):
                return 1
        else:
            if preactivation(&derivatives, i, v + layer.W, NULL, block_of_h(tile, i - 1, 1), work.packed_v[i], PACKED,
                             work.tangent_a[i] + block_bytes(tile, i), OVERWRITE):
                return 1
            if preactivation(&rows, i, request.params + layer.W, NULL, work.tangent_h[i - 1], work.packed[i], PACKED,
                             work.tangent_a[i], ADD):
                return 1
        if (i < L or not has_plain_outputs(shape)) and tangent_through_activation(tile, i):
            return 1
    work.is_v_packed = True
    return 0
