# Least squares: products with the Gauss-Newton matrix, and the normal equations.
# Needs: recursion/sweeps, output_layer; derivatives/row_results, norms. Gives: rows of the table.

cdef enum:
    SUM_ROWS = 4096              # of J at a time: whole chains, so the order of the sum is that of all rows at once


cdef int gauss_newton_of_tile(Tile* tile, char* grad, bint add) noexcept nogil:
    """J^T H J v, split where the loss acts."""
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers
    if forward_sweep(tile, True):
        return 1
    if drop_outputs_without_weight(tile):
        return 1
    if tangent_sweep(tile, request.v, NULL, 1):
        return 1
    if loss_tangent(tile):
        return 1
    if set_rows(tile, L, work.tangent_h[L], work.grad_a[L]):
        return 1
    if not shape.loss_acts_on_a and g_prime_product(tile, L, work.a[L], work.grad_a[L]):
        return 1
    if cotangent_sweep(tile, 1, False):
        return 1
    return sum_layer_gradients(tile, work.grad_a, grad, add)


cdef int products_of_jacobian(const Tile* tile, char* grad, bint add) noexcept nogil:
    """The upper triangle of J^T J, and J^T r below it, of the rows in work.jacobian and work.residual."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t P = shape.n_params, ld = shape.ld_params, row = 0, p, n
    cdef Py_ssize_t n_rows = tile.n_rows * shape.sizes[shape.n_layers]
    cdef const char* J
    while row < n_rows:
        n = min(<Py_ssize_t>SUM_ROWS, n_rows - row)
        p = 0
        while p < P:
            J = work.jacobian + (row * ld + p) * shape.itemsize
            if products_over_rows(tile, n, P - p, min(<Py_ssize_t>TRIANGLE_ROWS, P - p), J, ld, J, ld,
                                  grad + p * (P + 1) * shape.itemsize, P, add or row > 0):
                return 1
            p += TRIANGLE_ROWS
        if products_over_rows(tile, n, 1, P, work.jacobian + row * ld * shape.itemsize, ld,
                              work.residual + row * shape.itemsize, 1, grad + P * P * shape.itemsize, 1, add
                              or row > 0):
            return 1
        row += SUM_ROWS
    return 0


cdef int normal_equations_of_tile(Tile* tile, char* grad, bint add) noexcept nogil:
    """J^T J and J^T r of the residuals: the tile's J is a layer's input and its gradient at once in (7).

    Of J^T J there is the upper triangle, in blocks of rows.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, n_out = shape.sizes[L], s, k, ld = shape.layers[L].ld, ld_J = shape.ld_params
    cdef double root, difference
    cdef int exponent
    if output_sweep(tile):
        return 1
    if drop_outputs_without_weight(tile):
        return 1
    for s in range(tile.n_rows):
        for k in range(n_out):
            root = sqrt(weight_of(tile, s, k))
            difference = (get_real(work.h[L], s * ld + k, shape.itemsize)
                          - get_real(tile.y, s * n_out + k, shape.itemsize))
            set_real(work.residual, s * n_out + k, shape.itemsize, root * difference if root != 0 else 0)
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * n_out):
            return 1
    for k in range(n_out):
        if output_cotangent(tile, k, True):
            return 1
        if cotangent_sweep(tile, 1, False):
            return 1
        if gradients_of_rows(tile, work.grad_a, work.jacobian + k * ld_J * shape.itemsize, n_out * ld_J):
            return 1
        for s in range(tile.n_rows if request.weight_kind != NO_WEIGHT else 0):
            moderate(sqrt(weight_of(tile, s, k)), 0, &exponent)
            if exponent != 0 and scale_row(tile, ldexp(1.0, exponent), shape.n_params,
                                           work.jacobian + (s * n_out + k) * ld_J * shape.itemsize):
                return 1
    return products_of_jacobian(tile, grad, add)


cdef double cost_of_normal_equations(const Request* request) noexcept nogil:
    return 1 + request.shape.sizes[request.shape.n_layers] * request.shape.n_params // 3


# The q of the normal equations: J^T J, and J^T r as a last row.
define("gauss_newton_vp", gauss_newton_of_tile, three_gradients, DIRECTION, b"p", NULL, OF_MEAN, OF_DERIVATIVES,
       TAKES_Y)
define("normal_equations", normal_equations_of_tile, cost_of_normal_equations, NO_OPERAND, b"qp", NULL, OF_SUM,
       OF_NORMAL_EQUATIONS, TAKES_Y | NEEDS_SQUARED_ERROR)
