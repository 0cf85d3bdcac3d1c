# Three more sweeps of a tile, of which all other derivatives are made.
#
#     cotangent sweep   (5) and (6) from any cotangent of the output, beside g'(a) and not over it          J^T c
#     tangent sweep     t_{a_i} = V_i h_{i-1} + v_i + W_i t_{h_{i-1}},   t_{h_i} = g'(a_i) t_{a_i}          J v
#     second sweep      R{grad_h_i} = W_{i+1}^T R{grad_a_{i+1}} + V_{i+1}^T grad_{a_{i+1}}                  H v
#                       R{grad_a_i} = g'(a_i) R{grad_h_i} + g''(a_i) grad_h_i t_{a_i}
#                       R{grad_W_i} = R{grad_a_i} h_{i-1}^T + grad_{a_i} t_{h_{i-1}}^T
#
# R{} is the derivative along (V, v) or along a direction of x (Pearlmutter, Fast exact multiplication by the Hessian,
# 1994). Which calls are made of which sweeps: derivatives/. A sweep returns nonzero where a handler raised.
#
# Buffers of a layer, beside a and h: grad_a; tangent_a; tangent_h, which is R{grad_h} and then R{grad_a} as soon as
# t_h has been read for the last time; g_second, but for tanh; curve, which is g''(a) grad_h. Tiles here start at row 0
# of them.

cdef int set_rows(const Layers* plan, const Tile* tile, Py_ssize_t i, const char* source, char* rows,
                  Clock* clock) noexcept nogil:
    """rows of layer i = source, or 0 where that is NULL; nonzero where a signal handler raised, here and below."""
    cdef Py_ssize_t start
    cdef Pieces p
    start_entries(&p, clock, 1, tile.n_rows * plan.layers[i].ld, MEMORY_FLOPS)
    while p.n:
        start = p.column * plan.itemsize
        if source == NULL:
            memset(rows + start, 0, p.n * plan.itemsize)
        else:
            memcpy(rows + start, source + start, p.n * plan.itemsize)
        if next_piece(&p, clock):
            return 1
    return 0


cdef int product_into(const Layers* plan, const Tile* tile, Py_ssize_t i, double scale, const char* factor,
                      const char* rows, char* result, Clock* clock) noexcept nogil:
    """result = scale factor (.) rows, of layer i; scale is a power of two."""
    cdef Py_ssize_t ld = plan.layers[i].ld, start
    cdef Pieces p
    start_entries(&p, clock, tile.n_rows, plan.sizes[i], MEMORY_FLOPS)
    while p.n:
        start = place(&p, ld, plan.itemsize)
        plan.kernels.scaled_product(p.n_rows, p.n, scale, factor + start, rows + start, result + start, ld)
        if next_piece(&p, clock):
            return 1
    return 0


cdef int add_curvature(const Layers* plan, Workspace* work, const Tile* tile, Py_ssize_t i,
                       Clock* clock) noexcept nogil:
    """R{grad_h_i}, in tangent_h_i, becomes R{grad_a_i} = g'(a_i) R{grad_h_i} + curve_i t_{a_i}."""
    cdef Py_ssize_t ld = plan.layers[i].ld, start
    cdef Pieces p
    start_entries(&p, clock, tile.n_rows, plan.sizes[i], MEMORY_FLOPS)
    while p.n:
        start = place(&p, ld, plan.itemsize)
        plan.kernels.multiply_add(p.n_rows, p.n, work.curve[i] + start, work.tangent_a[i] + start, work.a[i] + start,
                                  work.tangent_h[i] + start, ld)
        if next_piece(&p, clock):
            return 1
    return 0


cdef inline bint has_curve_of_h(const Layers* plan, Py_ssize_t i) noexcept nogil:
    """Whether g''(a_i) = -2 h_i g'(a_i), a product of two numbers within an ulp: tanh. It needs no function of a_i."""
    return plan.layers[i].activation == TANH


cdef inline int curve_of_h(const Layers* plan, Workspace* work, const Tile* tile, Py_ssize_t i,
                           Clock* clock) noexcept nogil:
    """curve_i of tanh, from h_i and grad_a_i."""
    return product_into(plan, tile, i, -2, work.h[i], work.grad_a[i], work.curve[i], clock)


cdef int through_activation(const Layers* plan, Workspace* work, const Tile* tile, Py_ssize_t i, bint with_curve,
                            Clock* clock) noexcept nogil:
    """(6) in the buffer grad_a_i, which holds grad_h_i; with_curve: curve_i = g''(a_i) grad_h_i too."""
    cdef bint of_h = has_curve_of_h(plan, i)
    if with_curve and not of_h and product_into(plan, tile, i, 1, work.g_second[i], work.grad_a[i], work.curve[i],
                                                clock):
        return 1
    if g_prime_product(plan, tile, i, work.a[i], work.grad_a[i], clock):
        return 1
    return curve_of_h(plan, work, tile, i, clock) if with_curve and of_h else 0


# The sweeps -----------------------------------------------------------------------------------------------------------

cdef int output_sweep(const Layers* plan, const Request* request, Workspace* work, Tile* tile,
                      Clock* clock) noexcept nogil:
    """(2) and (3) up to y_hat, also where the loss acts on a_L; a_i becomes g'(a_i), but softmax has none."""
    cdef Py_ssize_t L = plan.n_layers
    if forward_sweep(plan, request, work, tile, True, clock):
        return 1
    if plan.loss_acts_on_a:
        return activation(plan, work, tile, L, plan.link, plan.link != SOFTMAX, clock)
    return 0


cdef int through_output(const Layers* plan, Workspace* work, const Tile* tile, char* rows,
                        Clock* clock) noexcept nogil:
    """rows times dy_hat/da_L, which is symmetric: g'(a_L), or diag(p) - p p^T; after `output_sweep`."""
    cdef Py_ssize_t L = plan.n_layers, start
    cdef Pieces p
    if not plan.loss_acts_on_a or plan.link != SOFTMAX:
        return g_prime_product(plan, tile, L, work.a[L], rows, clock)
    start_rows(&p, clock, tile.n_rows, plan.sizes[L], 2.0 * MEMORY_FLOPS)
    while p.n:
        start = place(&p, plan.layers[L].ld, plan.itemsize)
        plan.kernels.softmax_product(p.n_rows, p.n, work.h[L] + start, rows + start, plan.layers[L].ld)
        if next_piece(&p, clock):
            return 1
    return 0


cdef int cotangent_sweep(const Layers* plan, const Request* request, Workspace* work, const Tile* tile,
                         Py_ssize_t first, bint with_curve, Clock* clock) noexcept nogil:
    """From grad_a_L to grad_a_first; with_curve: curve_i = g''(a_i) grad_h_i for i < L on the way."""
    cdef Py_ssize_t i
    for i in range(plan.n_layers - 1, first - 1, -1):
        if with_curve and not has_curve_of_h(plan, i):
            if hidden_sum(plan, tile, i, request.params, work.grad_a[i + 1], NULL, work.grad_a[i], OVERWRITE, clock):
                return 1
            if through_activation(plan, work, tile, i, True, clock):
                return 1
            continue
        if hidden_sum(plan, tile, i, request.params, work.grad_a[i + 1], work.a[i], work.grad_a[i], TIMES, clock):
            return 1
        if with_curve and curve_of_h(plan, work, tile, i, clock):
            return 1
    return 0


cdef int tangent_sweep(const Layers* plan, const Request* request, Workspace* work, const Tile* tile, const char* v,
                       const char* tangent_x, Py_ssize_t first, Clock* clock) noexcept nogil:
    """t_a and t_h along parameters v and samples tangent_x, where these are not NULL.

    Where both are NULL, tangent_a of layer `first` holds what the caller put there, and the layers below have none.
    """
    cdef Py_ssize_t i
    cdef const Layer* layer
    cdef const char* lower
    # After tiles that were kept no forward sweep has packed W, but a tangent sweep all W_i that the next one needs.
    cdef int packing = PACKED if work.is_packed or work.is_v_packed else PACK_AND_KEEP
    for i in range(first, plan.n_layers + 1):
        layer = &plan.layers[i]
        lower = tangent_x
        if i > first:
            lower = work.tangent_h[i - 1]
        if v != NULL and preactivation(plan, tile, i, v + layer.W, v + layer.b, input_of(plan, work, tile, i),
                                       work.packed_v[i], PACKED if work.is_v_packed else PACK_AND_KEEP,
                                       work.tangent_a[i], OVERWRITE, clock):
            return 1
        if lower != NULL and preactivation(plan, tile, i, request.params + layer.W, NULL, lower, work.packed[i],
                                           packing, work.tangent_a[i], OVERWRITE if v == NULL else ADD, clock):
            return 1
        if i < plan.n_layers or not plan.loss_acts_on_a:
            if product_into(plan, tile, i, 1, work.a[i], work.tangent_a[i], work.tangent_h[i], clock):
                return 1
    work.is_v_packed = v != NULL
    return 0


cdef int second_sweep(const Layers* plan, const Request* request, Workspace* work, const Tile* tile, const char* v,
                      const char* tangent_x, Py_ssize_t first, char* grad, bint add, Clock* clock) noexcept nogil:
    """From R{grad_a_L}, in tangent_h, down to layer `first`; R{grad_W} and R{grad_b} go into grad, or are added.

    Where grad is NULL, each row's own go into work.jacobian, not summed.
    """
    cdef Py_ssize_t i
    cdef const char* lower
    for i in range(plan.n_layers, first - 1, -1):
        lower = tangent_x
        if i > first:
            lower = work.tangent_h[i - 1]
        if grad == NULL:
            if outer_products(plan, work, tile, i, 0, tile.n_rows, work.tangent_h[i],
                              NULL if lower == NULL else work.grad_a[i], lower, work.jacobian, plan.ld_params, clock):
                return 1
        else:
            if weight_gradient(plan, tile, i, work.tangent_h[i], input_of(plan, work, tile, i), 0, plan.sizes[i], grad,
                               add, 0, clock):
                return 1
            if lower != NULL and weight_gradient(plan, tile, i, work.grad_a[i], lower, 0, plan.sizes[i], grad, True, 0,
                                                 clock):
                return 1
            if bias_gradient(plan, tile, i, work.tangent_h[i], 0, plan.sizes[i], grad, add, 0, clock):
                return 1
        if i > first:
            if hidden_sum(plan, tile, i - 1, request.params, work.tangent_h[i], NULL, work.tangent_h[i - 1],
                          OVERWRITE, clock):
                return 1
            if v != NULL and hidden_sum(plan, tile, i - 1, v, work.grad_a[i], NULL, work.tangent_h[i - 1], ADD,
                                        clock):
                return 1
            if add_curvature(plan, work, tile, i - 1, clock):
                return 1
    return 0


cdef int sum_layer_gradients(const Layers* plan, Workspace* work, const Tile* tile, char** grad_a, char* grad,
                             bint add, Clock* clock) noexcept nogil:
    """(7) and (8) for all layers, from grad_a in any set of buffers."""
    cdef Py_ssize_t i
    for i in range(1, plan.n_layers + 1):
        if weight_gradient(plan, tile, i, grad_a[i], input_of(plan, work, tile, i), 0, plan.sizes[i], grad, add, 0,
                           clock):
            return 1
        if bias_gradient(plan, tile, i, grad_a[i], 0, plan.sizes[i], grad, add, 0, clock):
            return 1
    return 0


# The output layer -----------------------------------------------------------------------------------------------------

cdef int drop_outputs_without_weight(const Layers* plan, const Request* request, Workspace* work, const Tile* tile,
                                     Clock* clock) noexcept nogil:
    """g' and g'' of outputs of weight 0 become 0: an infinity there would make NaN of their gradient, which is 0."""
    cdef Py_ssize_t L = plan.n_layers, n_out = plan.sizes[L], s, k, place
    if request.weight_kind != WEIGHT_PER_ENTRY or plan.loss_acts_on_a:
        return 0
    for s in range(tile.n_rows):
        for k in range(n_out):
            if tile.weight[s * n_out + k] == 0:
                place = (s * plan.layers[L].ld + k) * plan.itemsize
                memset(work.a[L] + place, 0, plan.itemsize)
                memset(work.g_second[L] + place, 0, plan.itemsize)
        if is_stopped(clock, <double>MEMORY_FLOPS * n_out):
            return 1
    return 0


cdef int loss_gradient(const Layers* plan, const Request* request, Workspace* work, const Tile* tile, bint with_curve,
                       Clock* clock) noexcept nogil:
    """(4) into grad_a_L, beside a_L or g'(a_L), and the row losses; with_curve: curve_L too, where there is a g''."""
    cdef Py_ssize_t L = plan.n_layers
    if plan.loss_acts_on_a:
        if set_rows(plan, tile, L, work.a[L], work.grad_a[L], clock):
            return 1
        return output_gradient(plan, request, work, tile, work.grad_a[L], work.row_loss, True, clock)
    if output_grad_h(plan, request, work, tile, work.grad_a[L], work.row_loss, clock):
        return 1
    return through_activation(plan, work, tile, L, with_curve, clock)


cdef int loss_tangent(const Layers* plan, const Request* request, Workspace* work, const Tile* tile,
                      Clock* clock) noexcept nogil:
    """H t where the loss acts, t the tangent there, in tangent_h_L."""
    cdef Py_ssize_t L = plan.n_layers, ld = plan.layers[plan.n_layers].ld, start
    cdef const char* z = work.a[L] if plan.loss_acts_on_a else work.h[L]
    cdef Tile part
    cdef Pieces p
    if plan.loss_acts_on_a and set_rows(plan, tile, L, work.tangent_a[L], work.tangent_h[L], clock):
        return 1
    start_rows(&p, clock, tile.n_rows, plan.sizes[L], ENTRY_FLOPS)
    while p.n:
        part = part_of(plan, request, tile, p.row, p.n_rows)
        start = place(&p, ld, plan.itemsize)
        plan.kernels.loss_curvature(plan.loss, plan.loss_parameter, p.n_rows, p.n, z + start, ld, part.y, part.labels,
                                    request.weight_kind, part.weight, request.weight_scale, work.tangent_h[L] + start)
        if next_piece(&p, clock):
            return 1
    return 0


cdef int unit_cotangent(const Layers* plan, const Request* request, Workspace* work, const Tile* tile, Py_ssize_t k,
                        bint with_root_weight, Clock* clock) noexcept nogil:
    """grad_a_L for the cotangent e_k of y_hat, or sqrt(w) e_k with a `moderate` root; after `output_sweep`."""
    cdef Py_ssize_t L = plan.n_layers, s, ld = plan.layers[plan.n_layers].ld
    cdef double value = 1
    cdef int exponent
    if set_rows(plan, tile, L, NULL, work.grad_a[L], clock):
        return 1
    for s in range(tile.n_rows):
        if with_root_weight:
            value = moderate(sqrt(weight_of(plan, request, tile, s, k)), 0, &exponent)
        if plan.itemsize == 4:
            (<float*>work.grad_a[L])[s * ld + k] = <float>value
        else:
            (<double*>work.grad_a[L])[s * ld + k] = value
    return 0


cdef int output_cotangent(const Layers* plan, const Request* request, Workspace* work, const Tile* tile, Py_ssize_t k,
                          bint with_root_weight, Clock* clock) noexcept nogil:
    """`unit_cotangent` times dy_hat/da_L. Each y_hat has an a_L of its own, but for softmax: others do not come in.

    Nor do they where their g' is infinite: 0 times it would be NaN.
    """
    cdef Py_ssize_t L = plan.n_layers, s, place
    if unit_cotangent(plan, request, work, tile, k, with_root_weight, clock):
        return 1
    if plan.loss_acts_on_a and plan.link == SOFTMAX:
        return through_output(plan, work, tile, work.grad_a[L], clock)
    for s in range(tile.n_rows):
        place = s * plan.layers[L].ld + k
        if plan.itemsize == 4:
            (<float*>work.grad_a[L])[place] *= (<float*>work.a[L])[place]
        else:
            (<double*>work.grad_a[L])[place] *= (<double*>work.a[L])[place]
    return 0


cdef inline double weight_of(const Layers* plan, const Request* request, const Tile* tile, Py_ssize_t s,
                             Py_ssize_t k) noexcept nogil:
    """The weight of output k of row s."""
    if request.weight_kind == NO_WEIGHT:
        return 1
    if request.weight_kind == WEIGHT_PER_SAMPLE:
        return tile.weight[s]
    return tile.weight[s * plan.sizes[plan.n_layers] + k]
