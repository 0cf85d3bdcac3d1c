# Products with the Hessian of the loss, and the Hessian itself.
# Needs: recursion/sweeps, output_layer; derivatives/row_results, linearization. Gives: linearize, rows of the table.

cdef int linearize(Tile* tile) noexcept nogil:
    """All that a product with the Hessian needs besides its direction: h, g'(a), grad_a and curve of every layer."""
    if forward_sweep(tile, True):
        return 1
    if drop_outputs_without_weight(tile):
        return 1
    if loss_gradient(tile, True):
        return 1
    return cotangent_sweep(tile, 1, True)


cdef int hessian_times_v(const Tile* tile, char* grad, bint add) noexcept nogil:
    """After `linearize`: the tangents along v, and the second sweep."""
    cdef const Request* request = tile.request
    if tangent_sweep(tile, request.v, NULL, 1):
        return 1
    if output_second(tile):
        return 1
    return second_sweep(tile, request.v, NULL, 1, grad, add)


cdef int hvp_of_tile(Tile* tile, char* grad, bint add) noexcept nogil:
    """The Hessian of the summed loss times v; what does not depend on v is computed once if the tile is kept."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef char* is_filled = place_in_kept_rows(tile)
    cdef bint stopped = False
    if is_filled == NULL or not is_filled[0]:
        stopped = linearize(tile)
        if is_filled != NULL:
            is_filled[0] = not stopped
    stopped = stopped or hessian_times_v(tile, grad, add)
    if is_filled != NULL:
        lay_out_kept(shape, work.capacity, aligned(work.block), work)
    return stopped


cdef int hessian_of_tile(Tile* tile, char* grad, bint add) noexcept nogil:
    """Each row of the Hessian from its own layer on; what is left of that follows by symmetry.

    The tangent along one weight W_{i,u,j} is h_{i-1,j} at a_{i,u} and 0 below. All that follows is linear in it: one
    sweep with 1 at a_{i,u} gives each sample's row q_s, and the rows of W_{i,u,*} are the sum of h_{i-1} q_s^T, which
    is (7) once more, that of b_{i,u} the sum of q_s. So there is a sweep for each unit, not for each parameter.
    """
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t P = shape.n_params, row_bytes = shape.n_params * shape.itemsize
    cdef Py_ssize_t i, u, s, n, row  # row: of the Hessian
    cdef const Layer* layer
    cdef char* q
    if linearize(tile):
        return 1
    for i in range(1, shape.n_layers + 1):
        layer = &shape.layers[i]
        q = work.jacobian + layer.W
        n = P - layer.W // shape.itemsize
        for u in range(layer.n_out):
            if set_rows(tile, i, NULL, work.tangent_a[i]):
                return 1
            for s in range(tile.n_rows):
                set_real(work.tangent_a[i], s * layer.ld + u, shape.itemsize, 1)
            if tangent_sweep(tile, NULL, NULL, i):
                return 1
            if output_second(tile):
                return 1
            if second_sweep(tile, NULL, NULL, i, NULL, False):
                return 1
            row = layer.W // shape.itemsize + u * layer.n_in
            if products_over_rows(tile, tile.n_rows, n, layer.n_in, input_of(tile, i), ld_of_input(shape, i), q,
                                  shape.ld_params, grad + row * row_bytes + layer.W, P, add):
                return 1
            row = layer.b // shape.itemsize + u
            if sum_of_rows(tile, n, q, shape.ld_params, grad + row * row_bytes + layer.W, add):
                return 1
    return 0


cdef double cost_of_hessian(const Request* request) noexcept nogil:
    return 2.0 * request.shape.n_units + request.shape.n_params / 6.0


define("hvp", hvp_of_tile, three_gradients, DIRECTION, b"p", NULL, OF_MEAN, OF_DERIVATIVES,
       TAKES_Y | NEEDS_SECOND | KEEPS_LINEARIZATION)
define("hessian", hessian_of_tile, cost_of_hessian, NO_OPERAND, b"pp", NULL, OF_MEAN, OF_HESSIAN,
       TAKES_Y | NEEDS_SECOND)
