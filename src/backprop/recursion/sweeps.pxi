# The three sweeps from which all other derivatives are built.
# Needs: the equations of _core.pyx. Gives: output_sweep, through_output, cotangent_sweep, tangent_sweep, second_sweep,
# outer_products, sum_layer_gradients.
#
#     cotangent sweep   (5) and (6) from any cotangent of the output, beside g'(a) and not over it          J^T c
#     tangent sweep     t_{a_i} = V_i h_{i-1} + v_i + W_i t_{h_{i-1}},   t_{h_i} = g'(a_i) t_{a_i}          J v
#     second sweep      R{grad_h_i} = W_{i+1}^T R{grad_a_{i+1}} + V_{i+1}^T grad_{a_{i+1}}                  H v
#                       R{grad_a_i} = g'(a_i) R{grad_h_i} + g''(a_i) grad_h_i t_{a_i}
#                       R{grad_W_i} = R{grad_a_i} h_{i-1}^T + grad_{a_i} t_{h_{i-1}}^T
#
# R{} is the derivative along (V, v) or along a direction of x (Pearlmutter, Fast exact multiplication by the Hessian,
# 1994). Which calls use which sweeps: derivatives/.
#
# Buffers of a layer, besides a and h: grad_a; tangent_a; tangent_h, which is R{grad_h} and then R{grad_a} as soon as
# t_h has been read for the last time; g_second, except for tanh; curve, which is g''(a) grad_h. The rows of a tile
# start at row 0 of these buffers.

cdef int outer_products(const Tile* tile, Py_ssize_t i, Py_ssize_t row, Py_ssize_t n_rows, const char* grad_a,
                        const char* grad_a_2, const char* h_2, char* gradients, Py_ssize_t ld) noexcept nogil:
    """(7) and (8) of layer i for some rows of the tile, each on its own, plus grad_a_2 h_2^T if these are not NULL.

    The rows' gradients lie ld reals apart.
    """
    cdef const Shape* shape = tile.shape
    cdef const Layer* layer = &shape.layers[i]
    cdef Py_ssize_t ld_h = ld_of_input(shape, i), s, before
    cdef Pieces p
    start_pieces(&p, tile.interrupt, n_rows, 1, layer.n_out, PIECE_COLUMNS, <double>MEMORY_FLOPS * layer.n_in, 0)
    while p.n:
        s = row + p.row
        before = (s * layer.ld + p.column) * shape.itemsize
        shape.kernels.outer_products(p.n_rows, layer.n_in, p.n, grad_a + before, layer.ld,
                                     input_of(tile, i) + s * ld_h * shape.itemsize, ld_h, NULL if grad_a_2 == NULL
                                     else grad_a_2 + before, NULL if h_2 == NULL else h_2 + s * ld_h * shape.itemsize,
                                     gradients + layer.W + (p.row * ld + p.column * layer.n_in) * shape.itemsize, ld)
        if next_piece(&p):
            return 1
    if p.is_cut:  # each piece has left its own grad_b behind its grad_W
        for s in range(n_rows):
            memcpy(gradients + layer.b + s * ld * shape.itemsize, grad_a + (row + s) * layer.ld * shape.itemsize,
                   layer.n_out * shape.itemsize)
    return 0


cdef int set_rows(const Tile* tile, Py_ssize_t i, const char* source,  # IN, or NULL
                  char* rows) noexcept nogil:                          # OUT
    """rows of layer i = source, or 0 if that is NULL."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t start
    cdef Pieces p
    start_entries(&p, tile.interrupt, 1, tile.n_rows * shape.layers[i].ld, MEMORY_FLOPS)
    while p.n:
        start = p.column * shape.itemsize
        if source == NULL:
            memset(rows + start, 0, p.n * shape.itemsize)
        else:
            memcpy(rows + start, source + start, p.n * shape.itemsize)
        if next_piece(&p):
            return 1
    return 0


cdef int product_into(const Tile* tile, Py_ssize_t i, double scale, const char* factor, const char* rows,  # IN
                      char* result) noexcept nogil:                                                        # OUT
    """result = scale factor (.) rows, of layer i; scale is a power of two."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t ld = shape.layers[i].ld, start
    cdef Pieces p
    start_entries(&p, tile.interrupt, tile.n_rows, shape.sizes[i], MEMORY_FLOPS)
    while p.n:
        start = place(&p, ld, shape.itemsize)
        shape.kernels.scaled_product(p.n_rows, p.n, scale, factor + start, rows + start, result + start, ld)
        if next_piece(&p):
            return 1
    return 0


cdef int add_curvature(const Tile* tile, Py_ssize_t i) noexcept nogil:
    """R{grad_h_i}, in tangent_h_i, becomes R{grad_a_i} = g'(a_i) R{grad_h_i} + curve_i t_{a_i}."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t ld = shape.layers[i].ld, start
    cdef Pieces p
    start_entries(&p, tile.interrupt, tile.n_rows, shape.sizes[i], MEMORY_FLOPS)
    while p.n:
        start = place(&p, ld, shape.itemsize)
        shape.kernels.multiply_add(p.n_rows, p.n, work.curve[i] + start, work.tangent_a[i] + start, work.a[i] + start,
                                   work.tangent_h[i] + start, ld)
        if next_piece(&p):
            return 1
    return 0


cdef inline int curve_of_h(const Tile* tile, Py_ssize_t i) noexcept nogil:
    """curve_i of tanh, from h_i and grad_a_i."""
    cdef Workspace* work = tile.work
    return product_into(tile, i, -2, work.h[i], work.grad_a[i], work.curve[i])


cdef int through_activation(const Tile* tile, Py_ssize_t i, bint with_curve) noexcept nogil:
    """(6) in the buffer grad_a_i, which holds grad_h_i; with_curve: curve_i = g''(a_i) grad_h_i too."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef bint of_h = has_curve_of_h(shape, i)
    if with_curve and not of_h and product_into(tile, i, 1, work.g_second[i], work.grad_a[i], work.curve[i]):
        return 1
    if g_prime_product(tile, i, work.a[i], work.grad_a[i]):
        return 1
    return curve_of_h(tile, i) if with_curve and of_h else 0


# The sweeps -----------------------------------------------------------------------------------------------------------


cdef int output_sweep(Tile* tile) noexcept nogil:
    """(2) and (3) up to y_hat, also if the loss acts on a_L; a_i becomes g'(a_i), except for softmax."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t L = shape.n_layers
    if forward_sweep(tile, True):
        return 1
    if shape.loss_acts_on_a:
        return activation(tile, L, shape.link, shape.link != SOFTMAX)
    return 0


cdef int through_output(const Tile* tile, char* rows) noexcept nogil:  # IN and OUT
    """rows times dy_hat/da_L, which is symmetric: g'(a_L), or diag(p) - p p^T; after `output_sweep`."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, start
    cdef Pieces p
    if not shape.loss_acts_on_a or shape.link != SOFTMAX:
        return g_prime_product(tile, L, work.a[L], rows)
    start_rows(&p, tile.interrupt, tile.n_rows, shape.sizes[L], 2.0 * MEMORY_FLOPS)
    while p.n:
        start = place(&p, shape.layers[L].ld, shape.itemsize)
        shape.kernels.softmax_product(p.n_rows, p.n, work.h[L] + start, rows + start, shape.layers[L].ld)
        if next_piece(&p):
            return 1
    return 0


cdef int cotangent_sweep(const Tile* tile, Py_ssize_t first, bint with_curve) noexcept nogil:
    """From grad_a_L to grad_a_first; with_curve: curve_i = g''(a_i) grad_h_i for i < L on the way.

    IN: g'(a), grad_a_L. OUT: grad_a below L, curve.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t i
    for i in range(shape.n_layers - 1, first - 1, -1):
        if with_curve and not has_curve_of_h(shape, i):
            if hidden_sum(tile, i, request.params, work.grad_a[i + 1], NULL, work.grad_a[i], OVERWRITE):
                return 1
            if through_activation(tile, i, True):
                return 1
            continue
        if hidden_sum(tile, i, request.params, work.grad_a[i + 1], work.a[i], work.grad_a[i], TIMES):
            return 1
        if with_curve and curve_of_h(tile, i):
            return 1
    return 0


cdef int tangent_sweep(const Tile* tile, const char* v, const char* tangent_x,  # IN, or NULL
                       Py_ssize_t first) noexcept nogil:
    """t_a and t_h along parameters v and samples tangent_x, if these are not NULL.

    IN: h, g'(a). OUT: tangent_a and tangent_h, except for tangent_h_L if the loss acts on a_L.

    If both are NULL, tangent_a of layer `first` holds what the caller put there, and the layers below have none.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t i
    cdef const Layer* layer
    cdef const char* lower
    # After tiles that were kept no forward sweep has packed W, but a tangent sweep all W_i that the next one needs.
    cdef int packing = PACKED if work.is_packed or work.is_v_packed else PACK_AND_KEEP
    for i in range(first, shape.n_layers + 1):
        layer = &shape.layers[i]
        lower = tangent_x
        if i > first:
            lower = work.tangent_h[i - 1]
        if v != NULL and preactivation(tile, i, v + layer.W, v + layer.b, input_of(tile, i), work.packed_v[i],
                                       PACKED if work.is_v_packed else PACK_AND_KEEP, work.tangent_a[i], OVERWRITE):
            return 1
        if lower != NULL and preactivation(tile, i, request.params + layer.W, NULL, lower, work.packed[i], packing,
                                           work.tangent_a[i], OVERWRITE if v == NULL else ADD):
            return 1
        if i < shape.n_layers or not shape.loss_acts_on_a:
            if product_into(tile, i, 1, work.a[i], work.tangent_a[i], work.tangent_h[i]):
                return 1
    work.is_v_packed = v != NULL
    return 0


cdef int second_sweep(const Tile* tile, const char* v, const char* tangent_x, Py_ssize_t first, char* grad,
                      bint add) noexcept nogil:  # grad: OUT, or added to
    """From R{grad_a_L}, in tangent_h, down to layer `first`; R{grad_W} and R{grad_b} go into grad, or are added.

    If grad is NULL, those of each row go into work.jacobian, not summed.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t i
    cdef const char* lower
    for i in range(shape.n_layers, first - 1, -1):
        lower = tangent_x
        if i > first:
            lower = work.tangent_h[i - 1]
        if grad == NULL:
            if outer_products(tile, i, 0, tile.n_rows, work.tangent_h[i], NULL if lower == NULL else work.grad_a[i],
                              lower, work.jacobian, shape.ld_params):
                return 1
        else:
            if layer_gradient(tile, i, work.tangent_h[i], input_of(tile, i), grad, add):
                return 1
            if lower != NULL and weight_gradient(tile, i, 0, shape.sizes[i], work.grad_a[i], lower, grad, True):
                return 1
        if i > first:
            if hidden_sum(tile, i - 1, request.params, work.tangent_h[i], NULL, work.tangent_h[i - 1], OVERWRITE):
                return 1
            if v != NULL and hidden_sum(tile, i - 1, v, work.grad_a[i], NULL, work.tangent_h[i - 1], ADD):
                return 1
            if add_curvature(tile, i - 1):
                return 1
    return 0


cdef int sum_layer_gradients(const Tile* tile, char** grad_a, char* grad, bint add) noexcept nogil:
    """(7) and (8) for all layers, from grad_a in any set of buffers."""
    cdef const Shape* shape = tile.shape
    cdef Py_ssize_t i
    for i in range(1, shape.n_layers + 1):
        if layer_gradient(tile, i, grad_a[i], input_of(tile, i), grad, add):
            return 1
    return 0
