# Derivatives of first order: the loss and its gradient, products with the Jacobian, and what has one row per sample.
# Needs: the equations, recursion/sweeps, derivatives/row_results, norms. Gives: rows of the table.

cdef int value_and_grad_of_tile(Tile* tile, char* grad, bint add) noexcept nogil:
    """The row losses, and grad_W and grad_b of the tile unless grad is NULL."""
    cdef bint with_gradient = grad != NULL
    if forward_sweep(tile, with_gradient):
        return 1
    if output_gradient(tile, a_of(tile, tile.shape.n_layers), tile.work.row_loss, with_gradient):
        return 1
    return backward_sweep(tile, grad, add) if with_gradient else 0


cdef int forward_of_tile(Tile* tile, char* unused, bint add) noexcept nogil:
    """y_hat of some rows, and a and h of the layers that are asked for."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers
    if forward_sweep(tile, False):
        return 1
    if shape.loss_acts_on_a:
        if activation(tile, L, shape.link, False):
            return 1
        if copy_out(tile, tile.request.keep_h, L, work.h[L], shape.layers[L].ld, 1):
            return 1
    return copy_into_rows(tile, work.h[L], shape.layers[L].ld, shape.sizes[L], 0, 1)


cdef int vjp_of_tile(Tile* tile, char* grad, bint add) noexcept nogil:
    """The cotangent back to the parameters, summed, and to x, row by row."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, s, n = shape.sizes[L] * shape.itemsize
    if output_sweep(tile):
        return 1
    for s in range(tile.n_rows):
        memcpy(work.grad_a[L] + s * shape.layers[L].ld * shape.itemsize,
               tile.request.cotangent + tile.source_rows[s] * n, n)
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * shape.sizes[L]):
            return 1
    if through_output(tile, work.grad_a[L]):
        return 1
    if cotangent_sweep(tile, 1, False):
        return 1
    if sum_layer_gradients(tile, work.grad_a, grad, add):
        return 1
    return grad_x_into_rows(tile, work.grad_a[1], 0, 1)


cdef int jvp_of_tile(Tile* tile, char* unused, bint add) noexcept nogil:
    """J v, with the output function's part of J."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers
    if output_sweep(tile):
        return 1
    if tangent_sweep(tile, tile.request.v, NULL, 1):
        return 1
    if shape.loss_acts_on_a:
        if set_rows(tile, L, work.tangent_a[L], work.tangent_h[L]):
            return 1
        if through_output(tile, work.tangent_h[L]):
            return 1
    return copy_into_rows(tile, work.tangent_h[L], shape.layers[L].ld, shape.sizes[L], 0, 1)


cdef int input_jacobian_of_tile(Tile* tile, char* unused, bint add) noexcept nogil:
    """One cotangent sweep per output, to x."""
    cdef Py_ssize_t k, n_out = tile.shape.sizes[tile.shape.n_layers]
    if output_sweep(tile):
        return 1
    for k in range(n_out):
        if output_cotangent(tile, k, False):
            return 1
        if cotangent_sweep(tile, 1, False):
            return 1
        if grad_x_into_rows(tile, tile.work.grad_a[1], k, n_out):
            return 1
    return 0


cdef int jacobian_of_tile(Tile* tile, char* unused, bint add) noexcept nogil:
    """One cotangent sweep per output, to the parameters."""
    cdef Py_ssize_t k, n_out = tile.shape.sizes[tile.shape.n_layers]
    if output_sweep(tile):
        return 1
    for k in range(n_out):
        if output_cotangent(tile, k, False):
            return 1
        if cotangent_sweep(tile, 1, False):
            return 1
        if gradients_into_rows(tile, tile.work.grad_a, k, n_out):
            return 1
    return 0


cdef int gradients_of_samples(Tile* tile, bint* is_scaled) noexcept nogil:
    """grad_a of each sample's own loss, in the place of a, after `moderate_weights`."""
    if forward_sweep(tile, True):
        return 1
    is_scaled[0] = moderate_weights(tile)
    if output_gradient(tile, tile.work.a[tile.shape.n_layers], tile.work.row_loss, True):
        return 1
    return backward_sweep(tile, NULL, False)


cdef int input_gradient_of_tile(Tile* tile, char* unused, bint add) noexcept nogil:
    """Each sample's gradient by x."""
    cdef bint is_scaled
    if gradients_of_samples(tile, &is_scaled):
        return 1
    if grad_x_into_rows(tile, tile.work.a[1], 0, 1):
        return 1
    return scale_results(tile, tile.shape.sizes[0]) if is_scaled else 0


cdef int per_sample_gradients_of_tile(Tile* tile, char* unused, bint add) noexcept nogil:
    """Each sample's gradient by the parameters."""
    cdef bint is_scaled
    if gradients_of_samples(tile, &is_scaled):
        return 1
    if gradients_into_rows(tile, tile.work.a, 0, 1):
        return 1
    return scale_results(tile, tile.shape.n_params) if is_scaled else 0


cdef double cost_of_forward(const Request* request) noexcept nogil:
    return 1.0 / 3


# Each row: the call, its function of a tile and its cost; the operand; the axes of sums and of rows; what l_s counts
# for; the workspace's buffers; flags. The loss is value_and_grad without sums.
call_of_value_and_grad = define("value_and_grad", value_and_grad_of_tile, one_gradient, NO_OPERAND, b"p", NULL, OF_MEAN,
                                OF_GRADIENT, TAKES_Y | GIVES_LOSS | READS_PANELS_ONCE | DIVIDES | IN_STRIPS)
mode_of_value_and_grad = &call_of_value_and_grad.mode
call_of_forward = define("forward", forward_of_tile, cost_of_forward, NO_OPERAND, NULL, b"so", OF_MEAN, OF_GRADIENT,
                         READS_PANELS_ONCE)
mode_of_forward = &call_of_forward.mode
define("loss", value_and_grad_of_tile, one_gradient, NO_OPERAND, NULL, NULL, OF_MEAN, OF_GRADIENT,
       TAKES_Y | GIVES_LOSS | READS_PANELS_ONCE | DIVIDES | IN_STRIPS)
define("vjp", vjp_of_tile, one_gradient, COTANGENT, b"p", b"si", OF_SUM, OF_DERIVATIVES, 0)
define("jvp", jvp_of_tile, one_gradient, DIRECTION, NULL, b"so", OF_MEAN, OF_DERIVATIVES, 0)
define("input_gradient", input_gradient_of_tile, one_gradient, NO_OPERAND, NULL, b"si", OF_SAMPLE, OF_DERIVATIVES,
       TAKES_Y)
define("input_jacobian", input_jacobian_of_tile, a_gradient_per_output, NO_OPERAND, NULL, b"soi", OF_MEAN,
       OF_DERIVATIVES, 0)
define("jacobian", jacobian_of_tile, a_gradient_per_output, NO_OPERAND, NULL, b"sop", OF_MEAN, OF_DERIVATIVES, 0)
define("per_sample_gradients", per_sample_gradients_of_tile, one_gradient, NO_OPERAND, NULL, b"sp", OF_SAMPLE,
       OF_DERIVATIVES, TAKES_Y)
