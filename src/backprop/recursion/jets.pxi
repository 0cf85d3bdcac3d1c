# Derivatives along directions in the space of x: the sweep that carries first and second derivatives of a and h.
# Needs: the equations of _core.pyx, recursion/sweeps, jet. Gives: jet_sweep; where its results lie: block_of_a,
# block_of_h, block_of_outputs; what recursion/jets_back.pxi needs besides.
#
# Along a direction q_j of x, a and h have first derivatives d_j and D_j and second derivatives s and S:
#
#     jet sweep         d = W D,   s = W S,   D_j = g'(a) d_j,   S = g'(a) s + g''(a) form(d)
#     cotangent sweep   of S: s' = g' S';   of D: d'_j = g' D'_j + g'' (d form / d d_j) S'
#                       of h: a' = g' h' + g'' sum_j d_j D'_j + (g'' s + g''' form(d)) S'
#                       grad_W = a' h^T + sum_j d'_j D_j^T + s' S^T,   grad_b = a'
#     tangent sweep     along (V, v): t_a = V h + v + W t_h, t_d = V D + W t_D, t_s = V S + W t_S, and these through g
#
# form(d) is d_j^2 for each direction j (input_jet), sum_j e_j d_j^2 (a Laplacian), or sum_{j<=l} e_jl d_j d_l, for a
# differential operator of second order. (Griewank and Walther, Evaluating Derivatives, 2008, chapters 3 and 13.)
#
# The buffers of a layer hold blocks of the tile's rows: the value, the k first and the m second derivatives. So W is
# multiplied with all blocks at once, and (7) sums over all of them at once. work.a holds g'(a), d, s; work.h holds
# h, D, S, until the way back, layer by layer, puts their cotangents in their places. At layer 1 the first derivatives
# of all samples are equal if they have the same directions: then d is (k, ld), one row a direction, and s is 0.

cdef inline Py_ssize_t block_bytes(const Tile* tile, Py_ssize_t i) noexcept nogil:
    """From one block of a layer to the next."""
    return tile.n_rows * tile.shape.layers[i].ld * tile.shape.itemsize


cdef inline char* block_of_a(const Tile* tile, Py_ssize_t i, Py_ssize_t block) noexcept nogil:
    return tile.work.a[i] + block * block_bytes(tile, i)


cdef inline char* block_of_h(const Tile* tile, Py_ssize_t i, Py_ssize_t block) noexcept nogil:
    return tile.work.h[i] + block * block_bytes(tile, i)


cdef inline const char* block_of_tangent(const Tile* tile, char** tangents, Py_ssize_t i,
                                         Py_ssize_t block) noexcept nogil:
    return tangents[i] + block * block_bytes(tile, i)


cdef inline Tile blocks_as_rows(const Tile* tile, Py_ssize_t n_blocks) noexcept nogil:
    """The rows of several blocks as those of one tile, for products alone."""
    cdef Tile rows = tile[0]
    rows.n_rows = tile.n_rows * n_blocks
    return rows


cdef inline bint has_plain_outputs(const Shape* shape) noexcept nogil:
    """Whether y_hat is a_L, and so are its derivatives. A network without hidden layers takes the general way."""
    return shape.n_layers > 1 and output_code(shape) == IDENTITY


cdef inline int output_code(const Shape* shape) noexcept nogil:
    """The output function, or that which the loss brings."""
    return shape.link if shape.loss_acts_on_a else shape.layers[shape.n_layers].activation


cdef inline char* block_of_outputs(const Tile* tile, Py_ssize_t block) noexcept nogil:
    """y_hat, and its derivatives, after `jet_sweep`."""
    cdef Py_ssize_t L = tile.shape.n_layers
    if block > 0 and has_plain_outputs(tile.shape):
        return block_of_a(tile, L, block)
    return block_of_h(tile, L, block)


cdef inline bint has_common_directions(const Tile* tile) noexcept nogil:
    return not tile.request.jet.is_by_sample


cdef inline char* directions_of_rows(const Tile* tile) noexcept nogil:
    """(k, n_rows, n_0), behind the place of the copies of x: the directions of each sample, after `copy_directions`."""
    return tile.work.x + tile.n_rows * tile.shape.sizes[0] * tile.shape.itemsize


# Layers ---------------------------------------------------------------------------------------------------------------

cdef int output_of_values(Tile* tile) noexcept nogil:
    """`output_sweep`, and the higher derivatives of the output function if the loss brings it."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers
    cdef const Layer* layer = &shape.layers[L]
    cdef Py_ssize_t start
    cdef Pieces p
    if forward_sweep(tile, True):
        return 1
    if not shape.loss_acts_on_a:
        return 0
    if shape.link != SOFTMAX:
        start_entries(&p, tile.interrupt, tile.n_rows, layer.n_out, 2.0 * ENTRY_FLOPS)
        while p.n:
            start = place(&p, layer.ld, shape.itemsize)
            shape.kernels.second_derivative(shape.link, 0, p.n_rows, p.n, work.a[L] + start, work.g_second[L] + start,
                                            layer.ld)
            if tile.request.with_third:
                shape.kernels.third_derivative(shape.link, 0, p.n_rows, p.n, work.a[L] + start,
                                               work.g_third[L] + start, layer.ld)
            if next_piece(&p):
                return 1
    return activation(tile, L, shape.link, shape.link != SOFTMAX)


cdef int further_derivatives_of_h(const Tile* tile) noexcept nogil:
    """g'' of the layers of tanh, and g''' if it is needed; the forward sweep has computed them for the others."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t i, start
    cdef Pieces p
    for i in range(shape.n_layers if tile.request.jet.form == FIRST_ALONE else 1, shape.n_layers + 1):
        if not has_curve_of_h(shape, i) or (i == shape.n_layers and shape.loss_acts_on_a):
            continue
        start_entries(&p, tile.interrupt, tile.n_rows, shape.sizes[i], 2.0 * MEMORY_FLOPS)
        while p.n:
            start = place(&p, shape.layers[i].ld, shape.itemsize)
            shape.kernels.derivatives_of_tanh(p.n_rows, p.n, work.h[i] + start, work.a[i] + start,
                                              work.g_second[i] + start, work.g_third[i] + start
                                              if tile.request.with_third else NULL, shape.layers[i].ld)
            if next_piece(&p):
                return 1
    return 0


cdef int copy_directions(const Tile* tile) noexcept nogil:
    """The directions of each sample, direction by direction."""
    cdef const Shape* shape = tile.shape
    cdef const Jet* jet = &tile.request.jet
    cdef Py_ssize_t n_bytes = shape.sizes[0] * shape.itemsize, s, j
    for j in range(jet.n_directions):
        for s in range(tile.n_rows):
            memcpy(directions_of_rows(tile) + (j * tile.n_rows + s) * n_bytes,
                   jet.directions + (tile.source_rows[s] * jet.n_directions + j) * n_bytes, n_bytes)
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * tile.n_rows * shape.sizes[0]):
            return 1
    return 0


cdef int first_derivatives_of_layer_1(const Tile* tile, const char* W, char* packed, int packing,
                                      char* d) noexcept nogil:  # OUT
    """W_1 q_j, or V_1 q_j: (k, ld) if all samples share the directions, else (k, n_rows, ld)."""
    cdef const Shape* shape = tile.shape
    cdef const Layer* layer = &shape.layers[1]
    cdef const Jet* jet = &tile.request.jet
    cdef Py_ssize_t u, j, size = shape.itemsize
    cdef Tile rows = blocks_as_rows(tile, jet.n_directions)
    if jet.is_by_sample:
        return preactivation(&rows, 1, W, NULL, directions_of_rows(tile), packed, packing, d, OVERWRITE)
    if jet.directions != NULL:
        rows.n_rows = jet.n_directions
        return preactivation(&rows, 1, W, NULL, jet.directions, packed, packing, d, OVERWRITE)
    for j in range(jet.n_directions):  # the columns of W
        for u in range(layer.n_out):
            memcpy(d + (j * layer.ld + u) * size, W + (u * layer.n_in + j) * size, size)
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * layer.n_out):
            return 1
    return 0


cdef struct JetOfLayer:
    # How the kernels find what they need of a layer, and of the request.
    Py_ssize_t d_row, d_block    # reals from one row, or one direction, of d to the next
    const char* d
    const char* s                # NULL: 0
    const char* coefficients     # of the form, of the tile's first row; NULL: 1
    Py_ssize_t ld_coefficients
    Py_ssize_t most_rows         # that a kernel may take at once, as the coefficients lie


cdef inline JetOfLayer jet_of_layer(const Tile* tile, Py_ssize_t i) noexcept nogil:
    """For the rows of a tile."""
    cdef const Shape* shape = tile.shape
    cdef const Jet* jet = &tile.request.jet
    cdef JetOfLayer of
    cdef Py_ssize_t n_before = 1 + jet.n_directions
    of.d_row = shape.layers[i].ld
    of.d_block = tile.n_rows * of.d_row
    of.d = block_of_a(tile, i, 1)
    of.s = block_of_a(tile, i, n_before)
    if i == 1:
        of.s = NULL
        if has_common_directions(tile):
            of.d_block = of.d_row
            of.d_row = 0
    of.coefficients = NULL
    of.ld_coefficients = 0
    of.most_rows = tile.n_rows
    if jet.equation != NULL:
        of.coefficients = equation_of(tile, 0) + n_before * shape.itemsize
        of.ld_coefficients = jet.ld_equation
        if jet.ld_equation > 0 and tile.source_rows[tile.n_rows - 1] - tile.source_rows[0] != tile.n_rows - 1:
            of.most_rows = 1  # rows of weight 0 lie between
    return of


cdef inline const char* equation_of(const Tile* tile, Py_ssize_t s) noexcept nogil:
    """The coefficients of the equation of row s."""
    cdef const Jet* jet = &tile.request.jet
    return jet.equation + tile.source_rows[s] * jet.ld_equation * tile.shape.itemsize


cdef inline const char* coefficients_of(const Tile* tile, const JetOfLayer* of, Py_ssize_t row) noexcept nogil:
    """The coefficients of the form from some row on."""
    cdef const Jet* jet = &tile.request.jet
    if of.coefficients == NULL or jet.ld_equation == 0:
        return of.coefficients
    return equation_of(tile, row) + (1 + jet.n_directions) * tile.shape.itemsize


cdef inline void start_jet(Pieces* piece, const Tile* tile, Py_ssize_t i, const JetOfLayer* of) noexcept nogil:
    """Pieces of a layer with all its blocks."""
    cdef const Jet* jet = &tile.request.jet
    cdef double flops = 2.0 * MEMORY_FLOPS * (blocks_of_jet(jet)
                                              + coefficients_of_form(jet.form, jet.n_directions))
    start_entries(piece, tile.interrupt, tile.n_rows, tile.shape.sizes[i], flops)


cdef int jet_through_activation(const Tile* tile, Py_ssize_t i) noexcept nogil:
    """D and S of layer i, from d and s."""
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
            shape.kernels.jet_activation(
                n, p.n, jet.n_directions, jet.form, coefficients_of(tile, &of, row), of.ld_coefficients,
                work.a[i] + start, work.g_second[i] + start, of.d + (row * of.d_row + p.column) * shape.itemsize,
                of.d_row, of.d_block, NULL if of.s == NULL else of.s + start, block_of_h(tile, i, 1) + start,
                block_of_h(tile, i, 1 + jet.n_directions) + start, ld, tile.n_rows * ld)
            row += n
        if next_piece(&p):
            return 1
    return 0


cdef int expand_layer_1(const Tile* tile) noexcept nogil:
    """d of each row, and s = 0, as softmax needs them; for a network without hidden layers."""
    cdef const Shape* shape = tile.shape
    cdef const Jet* jet = &tile.request.jet
    cdef Py_ssize_t row_bytes = shape.layers[1].ld * shape.itemsize, j, s
    cdef char* d = block_of_a(tile, 1, 1)
    if has_common_directions(tile):
        for j in range(jet.n_directions - 1, -1, -1):  # the rows of direction j lie behind those that are still to read
            for s in range(tile.n_rows - 1, -1, -1):
                memmove(d + (j * tile.n_rows + s) * row_bytes, d + j * row_bytes, row_bytes)
    memset(block_of_a(tile, 1, 1 + jet.n_directions), 0, jet.n_seconds * block_bytes(tile, 1))
    return is_stopped(tile.interrupt, <double>MEMORY_FLOPS * jet.n_directions * tile.n_rows * shape.sizes[1])


cdef int jet_through_softmax(const Tile* tile) noexcept nogil:
    """The same for softmax."""
    cdef const Shape* shape = tile.shape
    cdef const Jet* jet = &tile.request.jet
    cdef Py_ssize_t L = shape.n_layers, ld = shape.layers[L].ld, start
    cdef Pieces p
    start_rows(&p, tile.interrupt, tile.n_rows, shape.sizes[L], 4.0 * MEMORY_FLOPS * blocks_of_jet(jet))
    while p.n:
        start = p.row * ld * shape.itemsize
        shape.kernels.softmax_jet(
            p.n_rows, p.n, jet.n_directions, jet.form, NULL, 0, block_of_h(tile, L, 0) + start,
            block_of_a(tile, L, 1) + start, block_of_a(tile, L, 1 + jet.n_directions) + start,
            block_of_h(tile, L, 1) + start, block_of_h(tile, L, 1 + jet.n_directions) + start, ld, tile.n_rows * ld,
            tile.work.softmax_means)
        if next_piece(&p):
            return 1
    return 0


# The sweeps -----------------------------------------------------------------------------------------------------------

cdef int jet_sweep(Tile* tile) noexcept nogil:
    """y_hat and its derivatives along the directions, into `block_of_outputs`; g', g'', d and s of all layers stay."""
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef const Jet* jet = &request.jet
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, i
    cdef Tile rows = blocks_as_rows(tile, jet.n_directions + jet.n_seconds)
    if output_of_values(tile) or further_derivatives_of_h(tile):
        return 1
    if jet.is_by_sample and copy_directions(tile):
        return 1
    for i in range(1, L + 1):
        if i == 1:
            if first_derivatives_of_layer_1(tile, request.params + shape.layers[1].W, work.packed[1], PACKED,
                                            block_of_a(tile, 1, 1)):
                return 1
        elif preactivation(&rows, i, request.params + shape.layers[i].W, NULL, block_of_h(tile, i - 1, 1),
                           work.packed[i], PACKED, block_of_a(tile, i, 1), OVERWRITE):
            return 1
        if i == L and output_code(shape) == SOFTMAX:
            if L == 1 and expand_layer_1(tile):
                return 1
            return jet_through_softmax(tile)
        if i < L or not has_plain_outputs(shape):
            if jet_through_activation(tile, i):
                return 1
    return 0
