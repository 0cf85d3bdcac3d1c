# Calls with plain arguments, which need neither conversion nor an error message. A look at them takes a tenth of a
# microsecond; api/validate.py takes 7 to 12, as long as the kernels of a small call.
# Needs: calls/rules, inspect, request, parameters; schedule/run, threads. Gives: quick_call, start_look, take_targets,
# new_array, take_result.

cdef quick_jet(Request* request, directions, n_threads, get_num_threads):
    """(y_hat, first, second derivatives) along directions, the axes if None; or None, as `quick_call`."""
    cdef const Shape* shape = request.shape
    cdef cnp.ndarray y, dy, d2y
    cdef Py_ssize_t n_samples = request.n_samples
    cdef int threads = 1
    if request.mode.sums != NULL or take_directions(request, directions):
        return None
    y = new_array(shape, b"so", n_samples, 1, dtype_of(shape))
    dy = new_array(shape, b"sok", n_samples, request.jet.n_directions, dtype_of(shape))
    d2y = new_array(shape, b"sok", n_samples, request.jet.n_directions, dtype_of(shape))
    if y is None or dy is None or d2y is None:
        return None
    choose_way_to_second_derivatives(request)
    set_results(request, None, y)
    request.jet.dy, request.jet.d2y = cnp.PyArray_BYTES(dy), cnp.PyArray_BYTES(d2y)
    if useful_threads(shape, <Py_ssize_t>(n_samples * request.mode.cost(request)), 2) > 1:
        threads = get_num_threads() if n_threads is None else n_threads
    run_call(request, threads)
    return y, dy, d2y


cdef quick_call(const Shape* shape, const Mode* mode, Parameters own, params, x, y, weight, out,
                n_threads, get_num_threads, operand, max_norm, grad_weight, Linearization linearization):
    """What the call returns; or None, with nothing written, if an argument breaks a rule or is not plain.

    The row of the table says which of operand, max_norm, grad_weight and linearization are looked at. Here grad_weight
    is one number for all input gradients.
    """
    cdef Request request
    cdef cnp.ndarray sums = None, rows = None, grad_weights = None
    cdef int threads = 1
    cdef double loss
    if (not are_of(shape, own, 1) or rule_of_count(n_threads) or rule_of_network(shape, mode)
            or take_samples(&request, shape, mode, own, params, x)):
        return None
    if mode.flags & TAKES_Y and take_weights_and_targets(&request, weight, y):
        return None
    if mode.operand == DIRECTIONS_OF_X:
        return quick_jet(&request, operand, n_threads, get_num_threads)
    if mode.operand != NO_OPERAND and take_operand(&request, operand):
        return None
    if mode.flags & HAS_JET and mode.flags & TAKES_Y:  # an equation is among the arguments
        return None
    if mode.flags & TAKES_MAX_NORM:
        if rule_of_max_norm(max_norm):
            return None
        request.max_norm = max_norm
    if mode.operand == TARGET_GRAD_X:
        grad_weights = None if rule_of_grad_weight(grad_weight) else same_weight(shape, grad_weight)
        if grad_weights is None:
            return None
        request.grad_weight = <const double*>cnp.PyArray_DATA(grad_weights)
    if mode.sums != NULL:
        sums = take_result(&request, mode.sums, own, out)
        if sums is None:
            return None
    if mode.rows != NULL:
        rows = take_result(&request, mode.rows, own, out)
        if rows is None:
            return None
    set_results(&request, sums, rows)
    if useful_threads(shape, <Py_ssize_t>(request.n_samples * mode.cost(&request)), 2) > 1:
        threads = get_num_threads() if n_threads is None else n_threads  # looked up only if it matters
    loss = run_keeping(&request, threads, linearization if mode.flags & KEEPS_LINEARIZATION else None)
    if mode.flags & GIVES_LOSS:
        return loss if sums is None else (loss, sums)
    if sums is None:
        return rows
    return sums if rows is None else (sums, rows)


# Inputs: each function sets one in the request, and returns the rule that it breaks, or KEPT --------------------------

cdef inline int take_samples(Request* request, const Shape* shape, const Mode* mode, Parameters own, params,
                             x) noexcept:
    """Parameters, the network's own if params is None; and at least one sample."""
    cdef const char* theta = own.address
    cdef Py_ssize_t n_samples
    if type(x) is not cnp.ndarray or cnp.PyArray_NDIM(<cnp.ndarray>x) != 2:
        return OTHER_FORM
    n_samples = cnp.PyArray_DIM(<cnp.ndarray>x, 0)
    if n_samples == 0 or rule_of_array(shape, <cnp.ndarray>x, dtype_of(shape), b"si", n_samples, 1):
        return OTHER_FORM
    if params is not None:
        if rule_of_plain(shape, params, dtype_of(shape), b"p", 0, 1):
            return OTHER_FORM
        theta = cnp.PyArray_BYTES(<cnp.ndarray>params)
    start_request(request, shape, mode, theta, cnp.PyArray_BYTES(<cnp.ndarray>x), n_samples)
    return KEPT


cdef inline void start_look(Interrupt* interrupt, const Shape* shape, Py_ssize_t n_rows) noexcept:
    """The interrupt for looks at so many rows of targets and weights, which hold the GIL."""
    reset_interrupt(interrupt, False, <double>MEMORY_FLOPS * n_rows * shape.sizes[shape.n_layers] > get_piece_flops())
    interrupt.has_gil = True


cdef int take_weights_and_targets(Request* request, weight, y) except -1:
    """Weights and targets. Raise the error of a signal handler that ran meanwhile."""
    cdef Interrupt interrupt
    cdef int rule = KEPT
    start_look(&interrupt, request.shape, request.n_samples)
    if weight is not None:
        rule = take_weights(request, weight, &interrupt)
    if rule == KEPT:
        rule = take_targets(request, y, 1, False, &interrupt)
    raise_for_signal(&interrupt)
    return rule


cdef int take_weights(Request* request, weight, Interrupt* interrupt) noexcept:
    """Weights by sample, or by entry for losses and calls that take them."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t n_per_row = 1, n_samples = request.n_samples
    cdef const double* data
    cdef int rule, kind = WEIGHT_PER_SAMPLE
    cdef WeightSums sums
    if rule_of_plain(shape, weight, cnp.NPY_FLOAT64, b"s", n_samples, 1):
        kind, n_per_row = WEIGHT_PER_ENTRY, shape.sizes[shape.n_layers]
        if (shape.loss == CROSS_ENTROPY or request.mode.operand == TARGET_GRAD_X
                or rule_of_plain(shape, weight, cnp.NPY_FLOAT64, b"so", n_samples, 1)):
            return OTHER_FORM
    data = <const double*>cnp.PyArray_DATA(<cnp.ndarray>weight)
    rule = rule_of_weights(data, n_samples, n_per_row, &sums, interrupt)
    if rule:
        return rule
    if is_by_sample(request.mode) and sums.n_kept < n_samples:
        return HAS_EMPTY_ROWS
    set_weights(request, data, kind, &sums)
    return KEPT


cdef int take_targets(Request* request, y, Py_ssize_t n_networks, bint one_a_network, Interrupt* interrupt) noexcept:
    """Labels, if the loss takes them, or real targets; one array for all networks, or one for each."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t n_rows = request.n_samples * (n_networks if one_a_network else 1), place
    cdef Targets targets
    if (shape.loss == CROSS_ENTROPY and not rule_of_plain(shape, y, cnp.NPY_INTP, b"ks" if one_a_network else b"s",
                                                          request.n_samples, n_networks)):
        set_targets(request, NULL, <const Py_ssize_t*>cnp.PyArray_DATA(<cnp.ndarray>y))
    elif not rule_of_real_targets(request, y, n_networks, one_a_network):
        set_targets(request, cnp.PyArray_BYTES(<cnp.ndarray>y), NULL)
    else:
        return OTHER_FORM
    targets = targets_of(request, n_rows)
    return rule_of_targets(&targets, interrupt, &place)


cdef int rule_of_real_targets(const Request* request, y, Py_ssize_t n_networks, bint one_a_network) noexcept:
    """Whether targets or probabilities are plain; targets may leave out the axis of a single output."""
    cdef const Shape* shape = request.shape
    cdef int rule = rule_of_plain(shape, y, dtype_of(shape), b"kso" if one_a_network else b"so", request.n_samples,
                                  n_networks)
    if rule and not one_a_network and shape.sizes[shape.n_layers] == 1 and shape.loss != CROSS_ENTROPY:
        return rule_of_plain(shape, y, dtype_of(shape), b"s", request.n_samples, 1)
    return rule


cdef int take_operand(Request* request, operand) noexcept:
    """v, cotangent or grad_x; grad_x may leave out the axis of a single output."""
    cdef const Shape* shape = request.shape
    if request.mode.operand == MULTIPLIERS:
        return take_multipliers(request, operand)
    if rule_of_plain(shape, operand, dtype_of(shape), axes_of_operand(request.mode), request.n_samples, 1):
        if (request.mode.operand != TARGET_GRAD_X or shape.sizes[shape.n_layers] > 1
                or rule_of_plain(shape, operand, dtype_of(shape), b"si", request.n_samples, 1)):
            return OTHER_FORM
    set_operand(request, cnp.PyArray_BYTES(<cnp.ndarray>operand))
    return KEPT


cdef int take_multipliers(Request* request, multipliers) noexcept:
    """One for each output, or also for each sample; none if there is one output."""
    cdef const Shape* shape = request.shape
    if multipliers is None:
        return KEPT if shape.sizes[shape.n_layers] == 1 else OTHER_FORM
    request.shares_cotangent = not rule_of_plain(shape, multipliers, dtype_of(shape), b"o", request.n_samples, 1)
    if not request.shares_cotangent and rule_of_plain(shape, multipliers, dtype_of(shape), b"so", request.n_samples, 1):
        return OTHER_FORM
    set_operand(request, cnp.PyArray_BYTES(<cnp.ndarray>multipliers))
    return KEPT


# Arrays that are made, or taken for results ---------------------------------------------------------------------------

cdef cnp.ndarray new_array(const Shape* shape, const char* letters, Py_ssize_t n_samples, Py_ssize_t n_networks,
                           int dtype):
    """An array with the axes that the letters name; None if out of memory: the Python path then raises MemoryError."""
    cdef cnp.npy_intp[MOST_AXES] axes
    cdef int n = set_axes(shape, letters, n_samples, n_networks, axes)
    try:
        return cnp.PyArray_EMPTY(n, axes, dtype, 0)
    except (MemoryError, ValueError):
        return None


cdef cnp.ndarray same_weight(const Shape* shape, double weight):
    """(n_L, n_0) times one weight of input gradients; None if out of memory."""
    cdef cnp.ndarray weights = new_array(shape, b"oi", 0, 1, cnp.NPY_FLOAT64)
    cdef Py_ssize_t p
    if weights is not None:
        for p in range(cnp.PyArray_SIZE(weights)):
            (<double*>cnp.PyArray_DATA(weights))[p] = weight
    return weights


cdef cnp.ndarray take_result(const Request* request, const char* letters, Parameters own, out):
    """Where a result goes: out, or a new array; None if out breaks a rule or memory is short."""
    cdef const Shape* shape = request.shape
    if out is None:
        return new_array(shape, letters, request.n_samples, 1, dtype_of(shape))
    if (rule_of_out(shape, out, letters, request.n_samples, 1)
            or rule_of_result(request, own.address, cnp.PyArray_BYTES(<cnp.ndarray>out),
                              cnp.PyArray_NBYTES(<cnp.ndarray>out))):
        return None
    return <cnp.ndarray>out
