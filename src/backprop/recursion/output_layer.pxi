# The output layer in the derivatives: cotangents and tangents where the loss acts, and outputs without weight.
# Needs: the equations, recursion/sweeps, derivatives of the loss in the kernels. Gives: loss_gradient, loss_tangent,
# output_cotangent, unit_cotangent, drop_outputs_without_weight.

cdef int drop_outputs_without_weight(const Tile* tile) noexcept nogil:
    """g' and g'' of outputs of weight 0 become 0: an infinity there would make NaN of their gradient, which is 0."""
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, n_out = shape.sizes[L], s, k, start
    if request.weight_kind != WEIGHT_PER_ENTRY or shape.loss_acts_on_a:
        return 0
    for s in range(tile.n_rows):
        for k in range(n_out):
            if tile.weight[s * n_out + k] == 0:
                start = (s * shape.layers[L].ld + k) * shape.itemsize
                memset(work.a[L] + start, 0, shape.itemsize)
                memset(work.g_second[L] + start, 0, shape.itemsize)
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * n_out):
            return 1
    return 0


cdef int loss_gradient(const Tile* tile, bint with_curve) noexcept nogil:
    """(4) into grad_a_L, beside a_L or g'(a_L), and the row losses; with_curve: curve_L too, if there is a g''."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers
    if shape.loss_acts_on_a:
        if set_rows(tile, L, work.a[L], work.grad_a[L]):
            return 1
        return output_gradient(tile, work.grad_a[L], work.row_loss, True)
    if output_grad_h(tile, work.grad_a[L], work.row_loss):
        return 1
    return through_activation(tile, L, with_curve)


cdef int loss_tangent(const Tile* tile) noexcept nogil:
    """H t, in the variable on which the loss acts, of its tangent t, in tangent_h_L."""
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, ld = shape.layers[shape.n_layers].ld, start
    cdef const char* z = work.a[L] if shape.loss_acts_on_a else work.h[L]
    cdef Tile part
    cdef Pieces p
    if shape.loss_acts_on_a and set_rows(tile, L, work.tangent_a[L], work.tangent_h[L]):
        return 1
    start_rows(&p, tile.interrupt, tile.n_rows, shape.sizes[L], ENTRY_FLOPS)
    while p.n:
        part = part_of(tile, p.row, p.n_rows)
        start = place(&p, ld, shape.itemsize)
        shape.kernels.loss_curvature(shape.loss, shape.loss_parameters[0], p.n_rows, p.n, z + start, ld, part.y,
                                     part.labels, request.weight_kind, part.weight, request.weight_scale,
                                     work.tangent_h[L] + start)
        if next_piece(&p):
            return 1
    return 0


cdef int unit_cotangent(const Tile* tile, Py_ssize_t k, bint with_root_weight) noexcept nogil:
    """grad_a_L for the cotangent e_k of y_hat, or sqrt(w) e_k with a `moderate` root; after `output_sweep`."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, s, ld = shape.layers[shape.n_layers].ld
    cdef double value = 1
    cdef int exponent
    if set_rows(tile, L, NULL, work.grad_a[L]):
        return 1
    for s in range(tile.n_rows):
        if with_root_weight:
            value = moderate(sqrt(weight_of(tile, s, k)), 0, &exponent)
        set_real(work.grad_a[L], s * ld + k, shape.itemsize, value)
    return 0


cdef int output_cotangent(const Tile* tile, Py_ssize_t k, bint with_root_weight) noexcept nogil:
    """`unit_cotangent` times dy_hat/da_L. Except for softmax, y_hat_k depends on a_{L,k} alone.

    So the other entries stay 0, also if their g' is infinite: 0 times it would be NaN.
    """
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, s, entry
    if unit_cotangent(tile, k, with_root_weight):
        return 1
    if shape.loss_acts_on_a and shape.link == SOFTMAX:
        return through_output(tile, work.grad_a[L])
    for s in range(tile.n_rows):
        entry = s * shape.layers[L].ld + k
        # A product of two float32 numbers is exact in float64, so that it is rounded once.
        set_real(work.grad_a[L], entry, shape.itemsize,
                 get_real(work.grad_a[L], entry, shape.itemsize) * get_real(work.a[L], entry, shape.itemsize))
    return 0


cdef int output_second(const Tile* tile) noexcept nogil:
    """R{grad_a_L} into tangent_h_L, from the tangent there."""
    cdef const Shape* shape = tile.shape
    if loss_tangent(tile):
        return 1
    return 0 if shape.loss_acts_on_a else add_curvature(tile, shape.n_layers)
