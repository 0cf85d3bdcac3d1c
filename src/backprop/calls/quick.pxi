# A look in C at arguments that need neither conversion nor an error message: it costs a tenth of a microsecond where
# _validate.py takes 7 to 12, as long as a small call's kernels.

cdef inline bint is_plain(array, int dtype, int n_dimensions) noexcept:
    """Whether it is an array that the kernels take as it is."""
    return (type(array) is cnp.ndarray and cnp.PyArray_TYPE(<cnp.ndarray>array) == dtype
            and cnp.PyArray_NDIM(<cnp.ndarray>array) == n_dimensions and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>array))


cdef inline bint fits(const Shape* shape, array, int dtype, const char* letters, Py_ssize_t n_samples,
                      Py_ssize_t n_networks) noexcept:
    """Whether it is such an array of the shape that the letters say."""
    return (is_plain(array, dtype, strlen(letters)) and has_shape(shape, <cnp.ndarray>array, letters, n_samples,
                                                                  n_networks))


cdef bint is_count(n_threads) noexcept:
    """Whether n_threads is None or an int that needs no cut."""
    return n_threads is None or (type(n_threads) is int and 1 <= n_threads <= MOST_THREADS)


cdef inline void start_inspection(const Shape* shape, Interrupt* interrupt, Py_ssize_t n_rows) noexcept:
    """The interrupt for looks at so many rows of targets and weights, which hold the GIL."""
    reset_interrupt(interrupt, False, <double>MEMORY_FLOPS * n_rows * shape.sizes[shape.n_layers] > get_piece_flops())
    interrupt.has_gil = True


cdef bint take_weight(const Shape* shape, Request* request, Call call, weight, Interrupt* interrupt) noexcept:
    """Weights, where they are plain: looked at as _validate.sample_weight does."""
    cdef WeightSums sums
    cdef Py_ssize_t n_per_row = 1, n_samples = request.n_samples
    if not fits(shape, weight, cnp.NPY_FLOAT64, b"s", n_samples, 1):
        n_per_row = shape.sizes[shape.n_layers]
        if (shape.loss == CROSS_ENTROPY or call.mode.operand == TARGET_GRAD_X or not fits(shape, weight, cnp.NPY_FLOAT64, b"so",
                                                                           n_samples, 1)):
            return False
    set_weight(request, <cnp.ndarray>weight)
    sums = sums_of_weights(request.weight, n_samples * n_per_row, n_per_row, interrupt)
    if sums.bad >= 0 or sums.n_kept == 0 or (call.mode.sums == NULL and call.mode.rows != NULL and sums.n_kept < n_samples):
        return False  # refused; or rows to be left out, which a call by sample does not do
    set_sums_of_weights(request, &sums)
    return True


cdef bint are_targets(const Request* request, y, Py_ssize_t n_networks, bint one_a_network,
                      Interrupt* interrupt) noexcept:
    """Whether y is plain, and within the loss's domain wherever it has a weight."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t n_out = shape.sizes[shape.n_layers], n_samples = request.n_samples
    cdef void* data
    if shape.loss == CROSS_ENTROPY:
        if not fits(shape, y, cnp.NPY_INTP, b"ks" if one_a_network else b"s", n_samples, n_networks):
            return False
        data = cnp.PyArray_DATA(<cnp.ndarray>y)
        return bad_label(<const Py_ssize_t*>data, cnp.PyArray_SIZE(<cnp.ndarray>y), n_out, request.weight,
                         interrupt) < 0
    if not fits(shape, y, dtype_of(shape), b"kso" if one_a_network else b"so", n_samples, n_networks):
        if one_a_network or n_out > 1 or not fits(shape, y, dtype_of(shape), b"s", n_samples, 1):
            return False
    return are_in_domain(request, cnp.PyArray_BYTES(<cnp.ndarray>y), n_samples * n_networks if one_a_network
                         else n_samples, interrupt)


cdef bint are_in_domain(const Request* request, const char* y, Py_ssize_t n_rows, Interrupt* interrupt) noexcept nogil:
    """Whether targets lie in the loss's domain wherever they have a weight."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t n_out = shape.sizes[shape.n_layers], n_weights = 0
    if request.weight_kind != NO_WEIGHT:
        n_weights = 1 if request.weight_kind == WEIGHT_PER_SAMPLE else n_out
    if shape.itemsize == 4:
        return bad_target(shape.loss, <const float*>y, n_rows, n_out, request.weight, n_weights, interrupt) < 0
    return bad_target(shape.loss, <const double*>y, n_rows, n_out, request.weight, n_weights, interrupt) < 0


cdef bint take_operand(const Shape* shape, Request* request, Call call, operand) noexcept:
    """v, cotangent or grad_x, where it is plain; grad_x may leave out the axis of a single output."""
    if not fits(shape, operand, dtype_of(shape), axes_of_operand(&call.mode), request.n_samples, 1):
        if (call.mode.operand != TARGET_GRAD_X or shape.sizes[shape.n_layers] > 1 or not fits(shape, operand, dtype_of(shape), b"si",
                                                                              request.n_samples, 1)):
            return False
    set_operand(request, &call.mode, <cnp.ndarray>operand)
    return True


cdef cnp.ndarray new_array(const Shape* shape, const char* letters, Py_ssize_t n_samples, Py_ssize_t n_networks,
                           int dtype):
    """An array of the shape that the letters say; None where memory is short, which Python words."""
    cdef cnp.npy_intp[3] axes
    cdef int n = shape_of(shape, letters, n_samples, n_networks, axes)
    try:
        return cnp.PyArray_EMPTY(n, axes, dtype, 0)
    except (MemoryError, ValueError):
        return None


cdef cnp.ndarray same_weight(const Shape* shape, double weight):
    """(n_L, n_0) times one weight of input gradients."""
    cdef cnp.ndarray weights = new_array(shape, b"oi", 0, 1, cnp.NPY_FLOAT64)
    cdef Py_ssize_t p
    if weights is not None:
        for p in range(cnp.PyArray_SIZE(weights)):
            (<double*>cnp.PyArray_DATA(weights))[p] = weight
    return weights


cdef cnp.ndarray take_result(const Shape* shape, const char* letters, Py_ssize_t n_samples, Py_ssize_t n_networks, out,
                             Parameters own, params, x, y, weight, operand):
    """Where the result goes: out, or a new array; None where out does not fit or shares memory with an input.

    The inputs are plain by now, or None.
    """
    if out is None:
        return new_array(shape, letters, n_samples, n_networks, dtype_of(shape))
    if (not fits(shape, out, dtype_of(shape), letters, n_samples, n_networks)
        or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out) or share_bytes(cnp.PyArray_BYTES(<cnp.ndarray>out),
                                                                        cnp.PyArray_NBYTES(<cnp.ndarray>out),
                                                                        own.address, own.n_bytes)
        or overlap(<cnp.ndarray>out, params) or overlap(<cnp.ndarray>out, x) or overlap(<cnp.ndarray>out, y)
        or overlap(<cnp.ndarray>out, weight) or overlap(<cnp.ndarray>out, operand)):
        return None
    return <cnp.ndarray>out


cdef inline bint overlap(cnp.ndarray a, b) noexcept:
    """Whether two contiguous arrays share memory; None shares none."""
    return b is not None and share_bytes(cnp.PyArray_BYTES(a), cnp.PyArray_NBYTES(a), cnp.PyArray_BYTES(<cnp.ndarray>b),
                                         cnp.PyArray_NBYTES(<cnp.ndarray>b))


cdef inline bint share_bytes(const char* a, Py_ssize_t n_a, const char* b, Py_ssize_t n_b) noexcept nogil:
    """Whether n_a bytes from a and n_b bytes from b have some in common; NULL has none."""
    return b != NULL and a < b + n_b and b < a + n_a


cdef quick_call(Plan self, Call call, Parameters own, params, x, y, weight, out, n_threads, get_num_threads, operand,
                further):
    """`Plan.quick`."""
    cdef const Shape* shape = &self.shape
    cdef Request request
    cdef Interrupt interrupt
    cdef Py_ssize_t n_samples
    cdef cnp.ndarray sums = None, rows = None, grad_weight
    cdef int threads = 1
    cdef Linearization linearization = None
    cdef double loss
    if (not is_plain(x, dtype_of(shape), 2) or not are_of(shape, own, 1) or (params is not None
                                                                           and not fits(shape, params, dtype_of(shape),
                                                                                                           b"p", 0, 1))
        or not is_count(n_threads) or ((call.mode.flags & NEEDS_SECOND) and not self.has_second)
        or ((call.mode.flags & NEEDS_SQUARED_ERROR) and shape.loss != SQUARED_ERROR)):
        return None
    n_samples = cnp.PyArray_DIM(<cnp.ndarray>x, 0)
    if n_samples == 0 or cnp.PyArray_DIM(<cnp.ndarray>x, 1) != shape.sizes[0]:
        return None
    start_request_at(shape, &request, own.address if params is None else cnp.PyArray_BYTES(<cnp.ndarray>params),
                     cnp.PyArray_BYTES(<cnp.ndarray>x), n_samples)
    if (call.mode.flags & TAKES_Y):
        start_inspection(shape, &interrupt, n_samples)
        if ((weight is not None and not take_weight(shape, &request, call, weight, &interrupt))
            or not are_targets(&request, y, 1, False, &interrupt)):
            raise_for_signal(&interrupt)
            return None
        set_y(shape, &request, <cnp.ndarray>y)
    if call.mode.operand != NO_OPERAND and not take_operand(shape, &request, call, operand):
        return None
    if call.mode.flags & TAKES_MAX_NORM:
        if type(further) is not float or not <double>further > 0:
            return None
        request.max_norm = further
    elif call.mode.operand == TARGET_GRAD_X:
        if type(further) is not float or signbit(<double>further) or not isfinite(<double>further):
            return None
        grad_weight = same_weight(shape, further)
        if grad_weight is None:
            return None
        request.grad_weight = <const double*>cnp.PyArray_DATA(grad_weight)
    elif call.mode.flags & KEEPS_LINEARIZATION:
        linearization = further
    if call.mode.sums != NULL:
        sums = take_result(shape, call.mode.sums, n_samples, 1, out, own, params, x, y, weight, operand)
        if sums is None:
            return None
    if call.mode.rows != NULL:
        rows = take_result(shape, call.mode.rows, n_samples, 1, out, own, params, x, y, weight, operand)
        if rows is None:
            return None
    set_call(&request, call, sums, rows)
    if useful_threads(shape, <Py_ssize_t>(n_samples * call.mode.cost(shape)), 2) > 1:
        threads = get_num_threads() if n_threads is None else n_threads  # looked up only where it matters
    loss = run_keeping(&request, threads, linearization)
    if (call.mode.flags & GIVES_LOSS):
        return loss if sums is None else (loss, sums)
    if sums is None:
        return rows
    return sums if rows is None else (sums, rows)
