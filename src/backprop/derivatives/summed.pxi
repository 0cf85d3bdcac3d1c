# What calls of sums over samples make of their tiles: they go by chunks as the gradient does (`chunk_sums`).

cdef int sums_of_tile(const Layers* plan, const Request* request, Workspace* work, Tile* tile, char* grad, bint add,
                      Clock* clock) noexcept nogil:
    """What the tile adds to the sums of a call other than value_and_grad, which are divided later."""
    if tile.packing == PACK_ONCE:
        tile.packing = PACK_AND_KEEP  # the tangent sweep reads the panels again
    if request.mode == VJP:
        return vjp_of_tile(plan, request, work, tile, grad, add, clock)
    if request.mode == CLIPPED_GRADIENT:
        return clipped_gradient_of_tile(plan, request, work, tile, grad, add, clock)
    if request.mode == HVP:
        return hvp_of_tile(plan, request, work, tile, grad, add, clock)
    if request.mode == GAUSS_NEWTON_VP:
        return gauss_newton_of_tile(plan, request, work, tile, grad, add, clock)
    if request.mode == HESSIAN:
        return hessian_of_tile(plan, request, work, tile, grad, add, clock)
    if request.mode == NORMAL_EQUATIONS:
        return normal_equations_of_tile(plan, request, work, tile, grad, add, clock)
    return sobolev_of_tile(plan, request, work, tile, grad, add, clock)


cdef int vjp_of_tile(const Layers* plan, const Request* request, Workspace* work, Tile* tile, char* grad, bint add,
                     Clock* clock) noexcept nogil:
    """The cotangent back to the parameters, summed, and to x, row by row."""
    cdef Py_ssize_t L = plan.n_layers, s, n = plan.sizes[L] * plan.itemsize
    if output_sweep(plan, request, work, tile, clock):
        return 1
    for s in range(tile.n_rows):
        memcpy(work.grad_a[L] + s * plan.layers[L].ld * plan.itemsize, request.cotangent + tile.rows[s] * n, n)
        if is_stopped(clock, <double>MEMORY_FLOPS * plan.sizes[L]):
            return 1
    if through_output(plan, work, tile, work.grad_a[L], clock):
        return 1
    if cotangent_sweep(plan, request, work, tile, 1, False, clock):
        return 1
    if sum_layer_gradients(plan, work, tile, work.grad_a, grad, add, clock):
        return 1
    return grad_x_into_rows(plan, request, work, tile, work.grad_a[1], 0, 1, clock)


cdef int hvp_of_tile(const Layers* plan, const Request* request, Workspace* work, Tile* tile, char* grad, bint add,
                     Clock* clock) noexcept nogil:
    """The Hessian of the summed loss times v; what does not depend on v is computed once where the tile is kept."""
    cdef char* is_filled = place_in_kept_rows(plan, request, work, tile)
    cdef bint stopped = False
    if is_filled == NULL or not is_filled[0]:
        stopped = linearize(plan, request, work, tile, clock)
        if is_filled != NULL:
            is_filled[0] = not stopped
    stopped = stopped or hessian_times_v(plan, request, work, tile, grad, add, clock)
    if is_filled != NULL:
        lay_out_kept(plan, work.capacity, aligned(work.block), work)
    return stopped


cdef int linearize(const Layers* plan, const Request* request, Workspace* work, Tile* tile,
                   Clock* clock) noexcept nogil:
    """All that a product with the Hessian needs beside its direction: h, g'(a), grad_a and curve of every layer."""
    if forward_sweep(plan, request, work, tile, True, clock):
        return 1
    if drop_outputs_without_weight(plan, request, work, tile, clock):
        return 1
    if loss_gradient(plan, request, work, tile, True, clock):
        return 1
    return cotangent_sweep(plan, request, work, tile, 1, True, clock)


cdef int hessian_times_v(const Layers* plan, const Request* request, Workspace* work, const Tile* tile, char* grad,
                         bint add, Clock* clock) noexcept nogil:
    """After `linearize`: the tangents along v, and the second sweep."""
    if tangent_sweep(plan, request, work, tile, request.v, NULL, 1, clock):
        return 1
    if output_second(plan, request, work, tile, clock):
        return 1
    return second_sweep(plan, request, work, tile, request.v, NULL, 1, grad, add, clock)


cdef int output_second(const Layers* plan, const Request* request, Workspace* work, const Tile* tile,
                       Clock* clock) noexcept nogil:
    """R{grad_a_L} into tangent_h_L, from the tangent there."""
    if loss_tangent(plan, request, work, tile, clock):
        return 1
    return 0 if plan.loss_acts_on_a else add_curvature(plan, work, tile, plan.n_layers, clock)


cdef int gauss_newton_of_tile(const Layers* plan, const Request* request, Workspace* work, Tile* tile, char* grad,
                              bint add, Clock* clock) noexcept nogil:
    """J^T H J v, split where the loss acts."""
    cdef Py_ssize_t L = plan.n_layers
    if forward_sweep(plan, request, work, tile, True, clock):
        return 1
    if drop_outputs_without_weight(plan, request, work, tile, clock):
        return 1
    if tangent_sweep(plan, request, work, tile, request.v, NULL, 1, clock):
        return 1
    if loss_tangent(plan, request, work, tile, clock):
        return 1
    if set_rows(plan, tile, L, work.tangent_h[L], work.grad_a[L], clock):
        return 1
    if not plan.loss_acts_on_a and g_prime_product(plan, tile, L, work.a[L], work.grad_a[L], clock):
        return 1
    if cotangent_sweep(plan, request, work, tile, 1, False, clock):
        return 1
    return sum_layer_gradients(plan, work, tile, work.grad_a, grad, add, clock)


cdef int hessian_of_tile(const Layers* plan, const Request* request, Workspace* work, Tile* tile, char* grad, bint add,
                         Clock* clock) noexcept nogil:
    """Each row of the Hessian from its own layer on; what is left of that follows by symmetry.

    The tangent along one weight W_{i,u,j} is h_{i-1,j} at a_{i,u} and 0 below. All that follows is linear in it: one
    sweep with 1 at a_{i,u} gives each sample's row q_s, and the rows of W_{i,u,*} are the sum of h_{i-1} q_s^T, which
    is (7) once more, that of b_{i,u} the sum of q_s. So there is a sweep for each unit, not for each parameter.
    """
    cdef Py_ssize_t i, u, s, row, P = plan.n_params, n
    cdef const Layer* layer
    cdef char* q
    if linearize(plan, request, work, tile, clock):
        return 1
    for i in range(1, plan.n_layers + 1):
        layer = &plan.layers[i]
        q = work.jacobian + layer.W
        n = P - layer.W // plan.itemsize
        for u in range(layer.n_out):
            if set_rows(plan, tile, i, NULL, work.tangent_a[i], clock):
                return 1
            for s in range(tile.n_rows):
                if plan.itemsize == 4:
                    (<float*>work.tangent_a[i])[s * layer.ld + u] = 1
                else:
                    (<double*>work.tangent_a[i])[s * layer.ld + u] = 1
            if tangent_sweep(plan, request, work, tile, NULL, NULL, i, clock):
                return 1
            if output_second(plan, request, work, tile, clock):
                return 1
            if second_sweep(plan, request, work, tile, NULL, NULL, i, NULL, False, clock):
                return 1
            row = layer.W + u * layer.n_in * plan.itemsize  # an offset in params, and the row's number times itemsize
            if products_over_rows(plan, tile, tile.n_rows, n, layer.n_in, input_of(plan, work, tile, i),
                                  ld_of_input(plan, i), q, plan.ld_params, grad + row * P + layer.W, P, add, 0, clock):
                return 1
            row = layer.b + u * plan.itemsize
            if sum_of_rows(plan, tile.n_rows, n, q, plan.ld_params, grad + row * P + layer.W, add, 0, clock):
                return 1
    return 0


cdef enum:
    TRIANGLE_ROWS = 64           # of J^T J at a time: a panel that is copied for them is used 64 times
    SUM_ROWS = 4096              # of J at a time: whole chains, so the order of the sum is that of all rows at once


cdef int normal_equations_of_tile(const Layers* plan, const Request* request, Workspace* work, Tile* tile, char* grad,
                                  bint add, Clock* clock) noexcept nogil:
    """J^T J and J^T r of the residuals: the tile's J is a layer's input and its gradient at once in (7).

    Of J^T J there is the upper triangle, in blocks of rows.
    """
    cdef Py_ssize_t L = plan.n_layers, n_out = plan.sizes[L], s, k, ld = plan.layers[L].ld, ld_J = plan.ld_params
    cdef double root, difference
    cdef int exponent
    if output_sweep(plan, request, work, tile, clock):
        return 1
    if drop_outputs_without_weight(plan, request, work, tile, clock):
        return 1
    for s in range(tile.n_rows):
        for k in range(n_out):
            root = sqrt(weight_of(plan, request, tile, s, k))
            if plan.itemsize == 4:
                difference = (<float*>work.h[L])[s * ld + k] - <double>(<const float*>tile.y)[s * n_out + k]
                (<float*>work.residual)[s * n_out + k] = <float>(root * difference if root != 0 else 0)
            else:
                difference = (<double*>work.h[L])[s * ld + k] - (<const double*>tile.y)[s * n_out + k]
                (<double*>work.residual)[s * n_out + k] = root * difference if root != 0 else 0
        if is_stopped(clock, <double>MEMORY_FLOPS * n_out):
            return 1
    for k in range(n_out):
        if output_cotangent(plan, request, work, tile, k, True, clock):
            return 1
        if cotangent_sweep(plan, request, work, tile, 1, False, clock):
            return 1
        if gradients_of_rows(plan, work, tile, work.grad_a, work.jacobian + k * ld_J * plan.itemsize, n_out * ld_J,
                             clock):
            return 1
        for s in range(tile.n_rows if request.weight_kind != NO_WEIGHT else 0):
            moderate(sqrt(weight_of(plan, request, tile, s, k)), 0, &exponent)
            if exponent != 0 and scale_row(plan, ldexp(1.0, exponent), plan.n_params,
                                           work.jacobian + (s * n_out + k) * ld_J * plan.itemsize, clock):
                return 1
    return products_of_jacobian(plan, work, tile, grad, add, clock)


cdef int products_of_jacobian(const Layers* plan, Workspace* work, const Tile* tile, char* grad, bint add,
                              Clock* clock) noexcept nogil:
    """The upper triangle of J^T J, and J^T r below it, of the rows in work.jacobian and work.residual."""
    cdef Py_ssize_t P = plan.n_params, ld = plan.ld_params, row = 0, p, n
    cdef Py_ssize_t n_rows = tile.n_rows * plan.sizes[plan.n_layers]
    cdef const char* J
    while row < n_rows:
        n = min(<Py_ssize_t>SUM_ROWS, n_rows - row)
        p = 0
        while p < P:
            J = work.jacobian + (row * ld + p) * plan.itemsize
            if products_over_rows(plan, tile, n, P - p, min(<Py_ssize_t>TRIANGLE_ROWS, P - p), J, ld, J, ld,
                                  grad + p * (P + 1) * plan.itemsize, P, add or row > 0, 0, clock):
                return 1
            p += TRIANGLE_ROWS
        if products_over_rows(plan, tile, n, 1, P, work.jacobian + row * ld * plan.itemsize, ld,
                              work.residual + row * plan.itemsize, 1, grad + P * P * plan.itemsize, 1, add or row > 0,
                              0, clock):
            return 1
        row += SUM_ROWS
    return 0


cdef int sobolev_of_tile(const Layers* plan, const Request* request, Workspace* work, Tile* tile, char* grad, bint add,
                         Clock* clock) noexcept nogil:
    """The squared error's gradient, and for each output j that of sum_i weight_ji (dy_j/dx_i - grad_x_ji)^2.

    With e_i = weight_ji (dy_j/dx_i - grad_x_ji) the latter is 2 d/dtheta sum_i e_i dy_j/dx_i with e held fixed: the
    derivative of grad y_j along the direction e of x. The second sweep is linear in what it starts from: the first one
    takes the squared error's gradient along.
    """
    cdef Py_ssize_t L = plan.n_layers, j
    if forward_sweep(plan, request, work, tile, True, clock):
        return 1
    if output_grad_h(plan, request, work, tile, work.tangent_h[L], work.row_loss, clock):
        return 1
    for j in range(plan.sizes[L]):
        if unit_cotangent(plan, request, work, tile, j, False, clock):
            return 1
        if through_activation(plan, work, tile, L, True, clock):
            return 1
        if cotangent_sweep(plan, request, work, tile, 1, True, clock):
            return 1
        if hidden_sum(plan, tile, 0, request.params, work.grad_a[1], NULL, work.grad_h, OVERWRITE, clock):
            return 1
        if plan.itemsize == 4:
            if gradient_errors(plan, request, tile, j, <float*>work.grad_h, work.row_loss, clock):
                return 1
        elif gradient_errors(plan, request, tile, j, <double*>work.grad_h, work.row_loss, clock):
            return 1
        if tangent_sweep(plan, request, work, tile, NULL, work.grad_h, 1, clock):
            return 1
        if j == 0:
            if output_grad_h(plan, request, work, tile, work.tangent_h[L], work.row_norm, clock):
                return 1
            if add_curvature(plan, work, tile, L, clock):
                return 1
        elif product_into(plan, tile, L, 1, work.curve[L], work.tangent_a[L], work.tangent_h[L], clock):
            return 1
        if second_sweep(plan, request, work, tile, NULL, work.grad_h, 1, grad, add or j > 0, clock):
            return 1
    return 0


cdef int gradient_errors(const Layers* plan, const Request* request, const Tile* tile, Py_ssize_t j, floating* grad_x,
                         double* row_loss, Clock* clock) noexcept nogil:
    """dy_j/dx_i becomes 2 w weight_ji (dy_j/dx_i - its target) / n_0; the squares are added to the row losses.

    The factor is that of a loss that is divided by n_L later on.
    """
    cdef Py_ssize_t n_in = plan.sizes[0], n_out = plan.sizes[plan.n_layers], s, i
    cdef const floating* target
    cdef const double* weight = request.grad_weight + j * n_in
    cdef double share, error
    for s in range(tile.n_rows):
        share = weight_of(plan, request, tile, s, 0) * request.weight_scale / n_in
        target = <const floating*>request.target_grad_x + (tile.rows[s] * n_out + j) * n_in
        for i in range(n_in):
            error = 0
            if weight[i] != 0:
                error = <double>grad_x[s * n_in + i] - target[i]
                row_loss[s] += share * weight[i] * error * error
            grad_x[s * n_in + i] = <floating>(2 * share * weight[i] * error)
        if is_stopped(clock, <double>MEMORY_FLOPS * n_in):
            return 1
    return 0
