# Residuals of a linear differential equation of second order, squared: r = c u + b . grad u + D : Hess u - f.
# Needs: recursion/jets, jets_back. Gives: rows of the table.

cdef inline char* place_of_output(const Tile* tile, char* rows, Py_ssize_t block, Py_ssize_t s) noexcept nogil:
    """The one output of row s in a block of layer L."""
    cdef const Layer* layer = &tile.shape.layers[tile.shape.n_layers]
    return rows + (block * tile.n_rows + s) * layer.ld * tile.shape.itemsize


cdef double of_equation(const Tile* tile, Py_ssize_t s, const char* values, const char* derivatives) noexcept nogil:
    """c u + b . grad u + D : Hess u of row s, from blocks of layer L, in float64. A 0 leaves its term out."""
    cdef Py_ssize_t size = tile.shape.itemsize, k = tile.request.jet.n_directions, j
    cdef const char* equation = equation_of(tile, s)
    cdef double total = get_real(place_of_output(tile, <char*>derivatives, 1 + k, s), 0, size), factor
    for j in range(1 + k):
        factor = get_real(equation, j, size)
        if factor != 0:
            total += factor * get_real(place_of_output(tile, <char*>(derivatives if j else values), j, s), 0, size)
    return total


cdef void set_cotangents(const Tile* tile, Py_ssize_t s, double value) noexcept nogil:
    """value times the derivatives of `of_equation` by the blocks, into those of h_L."""
    cdef Py_ssize_t size = tile.shape.itemsize, k = tile.request.jet.n_directions, j
    cdef char* rows = tile.work.h[tile.shape.n_layers]
    for j in range(1 + k):
        set_real(place_of_output(tile, rows, j, s), 0, size, value * get_real(equation_of(tile, s), j, size))
    set_real(place_of_output(tile, rows, 1 + k, s), 0, size, value)


cdef int residuals_of_equation(const Tile* tile) noexcept nogil:
    """The row losses w r^2, and their cotangents in the blocks of h_L."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, s
    cdef const char* derivatives = work.a[L] if has_plain_outputs(shape) else work.h[L]
    cdef double residual, weight
    for s in range(tile.n_rows):
        residual = of_equation(tile, s, work.h[L], derivatives) - get_real(tile.y, s, shape.itemsize)
        weight = weight_of(tile, s, 0) * tile.request.weight_scale
        work.row_loss[s] = weight * residual * residual if weight != 0 else 0
        set_cotangents(tile, s, 2 * weight * residual if weight != 0 else 0)
    return is_stopped(tile.interrupt, 4.0 * MEMORY_FLOPS * tile.n_rows * tile.request.blocks)


cdef int pde_of_tile(Tile* tile, char* grad, bint add) noexcept nogil:
    """The row losses, and their gradient by the parameters."""
    if jet_sweep(tile):
        return 1
    if residuals_of_equation(tile):
        return 1
    return jet_cotangent_sweep(tile, grad, add)


cdef int pde_gauss_newton_of_tile(Tile* tile, char* grad, bint add) noexcept nogil:
    """J^T 2 w J v, with the Jacobian J of the residuals by the parameters."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    cdef Py_ssize_t L = shape.n_layers, s
    cdef const char* tangents
    if jet_sweep(tile):
        return 1
    if jet_tangent_sweep(tile, tile.request.v):
        return 1
    tangents = work.tangent_a[L] if has_plain_outputs(shape) else work.tangent_h[L]
    for s in range(tile.n_rows):
        set_cotangents(tile, s, 2 * weight_of(tile, s, 0) * tile.request.weight_scale
                       * of_equation(tile, s, tangents, tangents))
    if is_stopped(tile.interrupt, 4.0 * MEMORY_FLOPS * tile.n_rows * tile.request.blocks):
        return 1
    return jet_cotangent_sweep(tile, grad, add)


cdef double cost_of_pde_product(const Request* request) noexcept nogil:
    return 2 * request.blocks


define("pde_value_and_grad", pde_of_tile, cost_of_jet_and_back, NO_OPERAND, b"p", NULL, OF_MEAN, OF_DERIVATIVES,
       HAS_JET | TAKES_Y | GIVES_LOSS | NEEDS_SECOND | NEEDS_THIRD | NEEDS_SQUARED_ERROR, DIAGONAL)
define("pde_gauss_newton_vp", pde_gauss_newton_of_tile, cost_of_pde_product, DIRECTION, b"p", NULL, OF_MEAN,
       OF_DERIVATIVES, HAS_JET | TAKES_Y | NEEDS_SECOND | NEEDS_THIRD | NEEDS_SQUARED_ERROR, DIAGONAL)
