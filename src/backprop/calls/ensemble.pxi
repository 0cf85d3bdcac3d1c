# Calls of ensembles: loss and gradient of many networks of one shape.
# Needs: calls/rules, request, parameters, quick, accepted; schedule/ensemble.
# Gives: accept_network, accepted_ensemble_call, quick_ensemble_call.

cdef int expect_x_of_networks(const Shape* shape, cnp.ndarray x, Py_ssize_t n_networks) except -1:
    """Refuse x that is neither shared nor has one dimension more."""
    cdef bint own_x = cnp.PyArray_NDIM(x) == 3
    return expect(rule_of_data(shape, x, dtype_of(shape), b"ksi" if own_x else b"si",
                               cnp.PyArray_DIM(x, 1 if own_x else 0), n_networks), "x")


cdef int accept_network(Request* request,  # OUT
                        const Shape* shape, const Mode* mode, const char* params, cnp.ndarray x, cnp.ndarray y, weights,
                        Py_ssize_t m, Py_ssize_t n_networks) except -1:
    """Parameters, samples and targets of network m, after a look at x: shared, or its own.

    x and y have one dimension more if each network has its own; weights is None or a list of one for each.
    """
    cdef bint own_x = cnp.PyArray_NDIM(x) == 3
    cdef bint own_y = cnp.PyArray_NDIM(y) == (2 if are_labels(shape, y) else 3)
    cdef const char* first_x = cnp.PyArray_BYTES(x)
    if own_x:
        first_x += m * cnp.PyArray_STRIDE(x, 0)
    start_request(request, shape, mode, params, first_x, cnp.PyArray_DIM(x, 1 if own_x else 0))
    set_source(&request.x_source, x, dtype_of(shape), cnp.PyArray_NDIM(x) - 2)
    accept_targets(request, y, None if weights is None else weights[m], n_networks, own_y)
    if own_y and request.labels == NULL:
        request.y += m * cnp.PyArray_STRIDE(y, 0)
    elif own_y:
        request.labels = <const Py_ssize_t*>(<const char*>request.labels + m * cnp.PyArray_STRIDE(y, 0))
    return 0


cdef int accepted_ensemble_call(const Shape* shape, Parameters params, cnp.ndarray x, cnp.ndarray y,
                                cnp.ndarray losses, cnp.ndarray out, weights, int n_threads) except -1:
    """Losses and gradients of all networks into accepted arrays."""
    cdef Py_ssize_t n_networks = networks_in(shape, params), n_samples, m
    cdef Py_ssize_t n_bytes = shape.n_params * shape.itemsize
    cdef Request* requests = NULL
    cdef double* loss
    cdef Interrupt interrupt
    cdef int status
    expect_x_of_networks(shape, x, n_networks)
    n_samples = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 2)
    expect(rule_of_array(shape, losses, cnp.NPY_FLOAT64, b"k", n_samples, n_networks), "losses")
    expect(rule_of_array(shape, out, dtype_of(shape), b"kp", n_samples, n_networks), "out")
    loss = <double*>cnp.PyArray_DATA(losses)
    requests = <Request*>calloc(n_networks, sizeof(Request))
    if requests == NULL:
        raise MemoryError("the requests of the networks do not fit into memory")
    try:
        for m in range(n_networks):
            accept_network(&requests[m], shape, mode_of_value_and_grad, params.address + m * n_bytes, x, y, weights, m,
                           n_networks)
            requests[m].grad = cnp.PyArray_BYTES(out) + m * n_bytes
        with nogil:
            reset_interrupt(&interrupt, False, may_take_long(requests, n_networks))
            interrupt.callers_mode = enter_default_mode()
            status = run_ensemble(shape, requests, n_networks, loss, n_threads, &interrupt)
            leave_default_mode(interrupt.callers_mode, loss)
        if status != DONE:
            raise_for(status)
    finally:
        free(requests)
    return 0


cdef quick_ensemble_call(const Shape* shape, Parameters params, x, y, out, n_threads, get_num_threads):
    """(losses, gradients) without weights; or None, with nothing written, if an argument is not plain."""
    cdef Py_ssize_t n_networks = networks_in(shape, params), n_samples
    cdef bint own_x, own_y
    cdef int threads = 1
    cdef Request request
    cdef Interrupt interrupt
    if type(x) is not cnp.ndarray or cnp.PyArray_NDIM(<cnp.ndarray>x) < 2 or rule_of_count(n_threads):
        return None
    own_x = cnp.PyArray_NDIM(<cnp.ndarray>x) == 3
    n_samples = cnp.PyArray_DIM(<cnp.ndarray>x, 1 if own_x else 0)
    if n_samples == 0 or rule_of_plain(shape, x, dtype_of(shape), b"ksi" if own_x else b"si", n_samples, n_networks):
        return None
    start_request(&request, shape, mode_of_value_and_grad, params.address, cnp.PyArray_BYTES(<cnp.ndarray>x), n_samples)
    own_y = type(y) is cnp.ndarray and cnp.PyArray_NDIM(<cnp.ndarray>y) == (2 if shape.loss == CROSS_ENTROPY else 3)
    if own_y and shape.loss == CROSS_ENTROPY and n_networks == n_samples == shape.sizes[shape.n_layers]:
        return None  # labels of each network, or one-hot rows for all
    if shape.loss == QUANTILES and not own_y and n_networks == n_samples == shape.sizes[shape.n_layers]:
        return None  # targets of each network for all outputs, or of each output for all networks
    start_look(&interrupt, shape, n_samples * n_networks)
    if take_targets(&request, y, n_networks, own_y, &interrupt):
        raise_for_signal(&interrupt)
        return None
    if out is None:
        out = new_array(shape, b"kp", n_samples, n_networks, dtype_of(shape))
    elif rule_of_out(shape, out, b"kp", n_samples, n_networks) or overlap(<cnp.ndarray>out, params, x, y):
        return None
    losses = new_array(shape, b"k", n_samples, n_networks, cnp.NPY_FLOAT64)
    if out is None or losses is None:
        return None
    if useful_threads(shape, n_samples * n_networks, 2) > 1:
        threads = get_num_threads() if n_threads is None else n_threads
    accepted_ensemble_call(shape, params, <cnp.ndarray>x, <cnp.ndarray>y, losses, <cnp.ndarray>out, None, threads)
    return losses, out


cdef inline bint overlap(cnp.ndarray out, Parameters params, cnp.ndarray x, cnp.ndarray y) noexcept:
    """Whether a result of all networks shares memory with the parameters or data of any."""
    cdef const char* result = cnp.PyArray_BYTES(out)
    cdef Py_ssize_t n_bytes = cnp.PyArray_NBYTES(out)
    return (share_bytes(result, n_bytes, params.address, params.n_bytes)
            or share_bytes(result, n_bytes, cnp.PyArray_BYTES(x), cnp.PyArray_NBYTES(x))
            or share_bytes(result, n_bytes, cnp.PyArray_BYTES(y), cnp.PyArray_NBYTES(y)))
