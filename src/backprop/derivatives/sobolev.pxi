# Values and input gradients fitted together.
# Needs: recursion/sweeps, output_layer. Gives: a row of the table.

cdef int gradient_errors(const Tile* tile, Py_ssize_t j, floating* grad_x, double* row_loss) noexcept nogil:
    """dy_j/dx_i becomes 2 w weight_ji (dy_j/dx_i - its target) / n_0; the squares are added to the row losses.

    The factor is that of a loss that is divided by n_L later on.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Py_ssize_t n_in = shape.sizes[0], n_out = shape.sizes[shape.n_layers], s, i
    cdef const floating* target
    cdef const double* weight = request.grad_weight + j * n_in
    cdef double share, error
    for s in range(tile.n_rows):
        share = weight_of(tile, s, 0) * request.weight_scale / n_in
        target = <const floating*>request.target_grad_x + (tile.source_rows[s] * n_out + j) * n_in
        for i in range(n_in):
            error = 0
            if weight[i] != 0:
                error = <double>grad_x[s * n_in + i] - target[i]
                row_loss[s] += share * weight[i] * error * error
            grad_x[s * n_in + i] = <floating>(2 * share * weight[i] * error)
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * n_in):
            return 1
    return 0


cdef int sobolev_of_tile(Tile* tile, char* grad, bint add) noexcept nogil:
    """The squared error's gradient, and for each output j that of sum_i weight_ji (dy_j/dx_i - grad_x_ji)^2.

    With e_i = weight_ji (dy_j/dx_i - grad_x_ji) the latter is 2 d/dtheta sum_i e_i dy_j/dx_i with e held fixed: the
    derivative of grad y_j along the direction e of x. The second sweep is linear in what it starts from: the first one
    takes the squared error's gradient along.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, j
    if forward_sweep(tile, True):
        return 1
    if output_grad_h(tile, work.tangent_h[L], work.row_loss):
        return 1
    for j in range(shape.sizes[L]):
        if unit_cotangent(tile, j, False):
            return 1
        if through_activation(tile, L, True):
            return 1
        if cotangent_sweep(tile, 1, True):
            return 1
        if hidden_sum(tile, 0, request.params, work.grad_a[1], NULL, work.grad_h, OVERWRITE):
            return 1
        if shape.itemsize == 4:
            if gradient_errors(tile, j, <float*>work.grad_h, work.row_loss):
                return 1
        elif gradient_errors(tile, j, <double*>work.grad_h, work.row_loss):
            return 1
        if tangent_sweep(tile, NULL, work.grad_h, 1):
            return 1
        if j == 0:
            if output_grad_h(tile, work.tangent_h[L], work.row_norm):
                return 1
            if add_curvature(tile, L):
                return 1
        elif product_into(tile, L, 1, work.curve[L], work.tangent_a[L], work.tangent_h[L]):
            return 1
        if second_sweep(tile, NULL, work.grad_h, 1, grad, add or j > 0):
            return 1
    return 0


cdef double cost_of_sobolev(const Request* request) noexcept nogil:
    return 1 + 4 * <double>request.shape.sizes[request.shape.n_layers]


define("sobolev_value_and_grad", sobolev_of_tile, cost_of_sobolev, TARGET_GRAD_X, b"p", NULL, OF_MEAN, OF_DERIVATIVES,
       TAKES_Y | GIVES_LOSS | NEEDS_SECOND | NEEDS_SQUARED_ERROR)
