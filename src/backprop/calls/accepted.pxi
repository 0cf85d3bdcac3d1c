# Calls with arrays that Python (api/) has accepted, and converted if needed. All rules hold by then. Forms and shapes
# are looked at again, since another thread may have given an array others meanwhile.
# Needs: calls/rules, inspect, request, equation; schedule/run. Gives: accepted_call, layers_of_accepted_call, accept_*.

cdef double accepted_call(const Shape* shape, const Mode* mode, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y,
                          cnp.ndarray out, weights, int n_threads, cnp.ndarray operand, double max_norm,
                          cnp.ndarray grad_weight, cnp.ndarray rows, Linearization linearization,
                          cnp.ndarray free=None, State* state=NULL, Py_ssize_t n_whole=0, Equation equation=None,
                          cnp.ndarray equation_rows=None) except? -1:
    """The call into out, and rows if it has both sums and rows; returns the loss, if there is one.

    If these are a part of a data set of n_whole samples that count, their sums go into state, and out is scratch.
    """
    cdef Request request
    cdef Py_ssize_t n_samples
    cdef const char* letters
    if cnp.PyArray_NDIM(x) == 2 and cnp.PyArray_DIM(x, 0) == 0:
        # No rows, and sums of nothing; means of it have been refused, unless another thread has taken the rows since.
        if out is not None:
            memset(cnp.PyArray_DATA(out), 0, cnp.PyArray_NBYTES(out))
        return 0.0
    accept_samples(&request, shape, mode, params, x)
    n_samples = request.n_samples
    if mode.flags & HAS_JET:
        expect_arguments_of_jet(shape, mode, y, out, operand, equation)
    if y is not None:
        accept_targets(&request, y, weights, 1, False)
    if operand is not None:
        letters = axes_of_operand(mode)
        if mode.operand == MULTIPLIERS and cnp.PyArray_NDIM(operand) == 1:
            request.shares_cotangent, letters = True, b"o"
        expect(rule_of_array(shape, operand, dtype_of(shape), letters, n_samples, 1), "an operand")
        set_operand(&request, cnp.PyArray_BYTES(operand))
    if equation is not None:
        expect(take_equation(&request, equation, equation_rows), "the coefficients of an equation")
    if grad_weight is not None:
        expect(rule_of_array(shape, grad_weight, cnp.NPY_FLOAT64, b"oi", n_samples, 1), "weight")
        request.grad_weight = <const double*>cnp.PyArray_DATA(grad_weight)
    request.max_norm = max_norm
    if free is not None:
        expect(rule_of_array(shape, free, cnp.NPY_BOOL, b"p", n_samples, 1), "free")
        request.free = <const uint8_t*>cnp.PyArray_DATA(free)
    if mode.sums == NULL:
        rows, out = out, None
    if out is not None:
        expect(rule_of_array(shape, out, dtype_of(shape), mode.sums, n_samples, 1), "out")
    if rows is not None:
        expect(rule_of_array(shape, rows, dtype_of(shape), mode.rows, n_samples, 1), "out")
    set_results(&request, out, rows)
    if state != NULL:
        request.state = state
        request.n_whole = n_whole
        if request.n_kept == 0:
            return 0.0
    return run_keeping(&request, n_threads, linearization)


cdef double layers_of_accepted_call(const Shape* shape, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y,
                                    cnp.ndarray y_hat, cnp.ndarray out, weights, int n_threads, a, h, grad_a,
                                    grad_h) except? -1:
    """The loss, and every quantity of the recursion, into lists of arrays or None by layer."""
    cdef Request forward, backward
    cdef Pointers kept_a = Pointers(a), kept_h = Pointers(h)
    cdef Pointers kept_grad_a = Pointers(grad_a), kept_grad_h = Pointers(grad_h)
    accept_samples(&forward, shape, mode_of_forward, params, x)
    set_results(&forward, None, y_hat)
    forward.keep_a = kept_a.pointers
    forward.keep_h = kept_h.pointers
    run_call(&forward, n_threads)
    accept_samples(&backward, shape, mode_of_value_and_grad, params, x)
    accept_targets(&backward, y, weights, 1, False)
    set_results(&backward, out, None)
    backward.keep_grad_a = kept_grad_a.pointers
    backward.keep_grad_h = kept_grad_h.pointers
    return run_call(&backward, 1)  # chunks on threads have no place for them


cdef class Pointers:
    """The data pointers of a list of arrays, NULL for None; pointers is NULL if the list is None."""

    cdef void** pointers

    def __cinit__(self, arrays):
        if arrays is None:
            return
        self.pointers = <void**>calloc(len(arrays), sizeof(void*))
        if self.pointers == NULL:
            raise MemoryError("the list of layers does not fit into memory")
        for i, array in enumerate(arrays):
            if array is not None:
                self.pointers[i] = cnp.PyArray_DATA(<cnp.ndarray?>array)

    def __dealloc__(self):
        free(self.pointers)


cdef int expect_arguments_of_jet(const Shape* shape, const Mode* mode, y, out, operand, equation) except -1:
    """Refuse a call that lacks an argument: its tiles would read from address 0."""
    cdef bint may_lack_operand = mode.operand == MULTIPLIERS and shape.sizes[shape.n_layers] == 1
    if mode.operand == DIRECTIONS_OF_X:
        raise ValueError("call: expected no call along directions, which Plan.input_jet and Plan.jet_vjp make")
    if mode.flags & TAKES_Y and (y is None or equation is None):
        raise ValueError("call: expected an equation and its right-hand side, got None")
    if out is None or (operand is None) != (mode.operand == NO_OPERAND) and not may_lack_operand:
        raise ValueError("call: expected out, and an operand if it takes one, got others")
    return 0


# Inputs: each function sets one in the request, or raises -------------------------------------------------------------

cdef int accept_samples(Request* request, const Shape* shape, const Mode* mode, cnp.ndarray params,
                        cnp.ndarray x) except -1:
    """Parameters and samples; tiles convert x if it needs that."""
    cdef Py_ssize_t n_samples = cnp.PyArray_DIM(x, 0) if cnp.PyArray_NDIM(x) == 2 else 0
    expect(rule_of_array(shape, params, dtype_of(shape), b"p", n_samples, 1), "params")
    expect(rule_of_data(shape, x, dtype_of(shape), b"si", n_samples, 1), "x")
    start_request(request, shape, mode, cnp.PyArray_BYTES(params), cnp.PyArray_BYTES(x), n_samples)
    set_source(&request.x_source, x, dtype_of(shape), 0)
    return 0


cdef inline bint are_labels(const Shape* shape, cnp.ndarray y) noexcept:
    """Whether accepted targets are labels: integers, if the loss takes them."""
    return shape.loss == CROSS_ENTROPY and cnp.PyArray_ISINTEGER(y)


cdef int accept_targets(Request* request, cnp.ndarray y, weights, Py_ssize_t n_networks,
                        bint one_a_network) except -1:
    """Weights, as `look_at_weights` sums them up, or None; and targets, which tiles convert if they need that."""
    cdef const Shape* shape = request.shape
    cdef cnp.ndarray weight
    cdef Py_ssize_t n_samples = request.n_samples
    cdef int dtype = dtype_of(shape), axis = cnp.PyArray_NDIM(y) - 2, kind = WEIGHT_PER_ENTRY
    cdef const char* letters = b"kso" if one_a_network else b"so"
    cdef bint have_labels = are_labels(shape, y)
    cdef WeightSums sums
    if weights is not None:
        weight, sums.scale, sums.total, sums.n_kept = weights
        if cnp.PyArray_NDIM(weight) == 1:
            kind = WEIGHT_PER_SAMPLE
        expect(rule_of_array(shape, weight, cnp.NPY_FLOAT64, b"s" if kind == WEIGHT_PER_SAMPLE else b"so", n_samples,
                             1), "sample_weight")
        set_weights(request, <const double*>cnp.PyArray_DATA(weight), kind, &sums)
    if have_labels:
        dtype, letters, axis = cnp.NPY_INTP, b"ks" if one_a_network else b"s", cnp.PyArray_NDIM(y) - 1
    elif cnp.PyArray_NDIM(y) == 1 and shape.sizes[shape.n_layers] == 1:
        letters, axis = b"s", 0
    expect(rule_of_data(shape, y, dtype, letters, n_samples, n_networks), "y")
    set_targets(request, NULL if have_labels else cnp.PyArray_BYTES(y),
                <const Py_ssize_t*>cnp.PyArray_DATA(y) if have_labels else NULL)
    set_source(&request.y_source, y, dtype, axis)
    return 0
