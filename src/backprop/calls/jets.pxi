# Values and derivatives along directions in the space of x, and their way back, with arrays that Python has accepted.
# Needs: calls/equation, accepted; schedule/run; derivatives/input_second. Gives: accepted_jet, accepted_jet_vjp.

cdef int start_accepted_jet(Request* request, const Shape* shape, const Mode* mode, cnp.ndarray params, cnp.ndarray x,
                            cnp.ndarray directions) except -1:
    """A request with accepted samples and directions."""
    accept_samples(request, shape, mode, params, x)
    return expect(take_directions(request, directions), "directions")


cdef int accepted_jet(const Shape* shape, cnp.ndarray params, cnp.ndarray x, cnp.ndarray directions, cnp.ndarray y,
                      cnp.ndarray dy, cnp.ndarray d2y, int n_threads) except -1:
    """The values and the derivatives of some rows, along directions."""
    cdef Request request
    cdef Py_ssize_t n, k
    start_accepted_jet(&request, shape, mode_of_input_jet, params, x, directions)
    n, k = request.n_samples, request.jet.n_directions
    expect(rule_of_array(shape, y, dtype_of(shape), b"so", n, k), "y")
    expect(rule_of_array(shape, dy, dtype_of(shape), b"sok", n, k), "dy")
    expect(rule_of_array(shape, d2y, dtype_of(shape), b"sok", n, k), "d2y")
    if n == 0:
        return 0
    choose_way_to_second_derivatives(&request)
    set_results(&request, None, y)
    request.jet.dy, request.jet.d2y = cnp.PyArray_BYTES(dy), cnp.PyArray_BYTES(d2y)
    run_call(&request, n_threads)
    return 0


cdef const char* accept_cotangent(const Request* request, cnp.ndarray cotangent, const char* letters,
                                  str name) except? NULL:
    """The address of a cotangent, NULL for None."""
    if cotangent is None:
        return NULL
    expect(rule_of_array(request.shape, cotangent, dtype_of(request.shape), letters, request.n_samples,
                         request.jet.n_directions), name)
    return cnp.PyArray_BYTES(cotangent)


cdef int accepted_jet_vjp(const Shape* shape, cnp.ndarray params, cnp.ndarray x, cnp.ndarray directions,
                          cnp.ndarray cot_y, cnp.ndarray cot_dy, cnp.ndarray cot_d2y, cnp.ndarray grad,
                          cnp.ndarray grad_x, int n_threads) except -1:
    """The cotangents of values and derivatives, back to the parameters and to x."""
    cdef Request request
    start_accepted_jet(&request, shape, mode_of_jet_vjp, params, x, directions)
    expect(rule_of_array(shape, grad, dtype_of(shape), b"p", request.n_samples, 1), "grad_params")
    expect(rule_of_array(shape, grad_x, dtype_of(shape), b"si", request.n_samples, 1), "grad_x")
    request.jet.cotangent_y = accept_cotangent(&request, cot_y, b"so", "cot_y")
    request.jet.cotangent_dy = accept_cotangent(&request, cot_dy, b"sok", "cot_dy")
    request.jet.cotangent_d2y = accept_cotangent(&request, cot_d2y, b"sok", "cot_d2y")
    if request.n_samples == 0:
        memset(cnp.PyArray_DATA(grad), 0, cnp.PyArray_NBYTES(grad))
        return 0
    set_results(&request, grad, grad_x)
    run_call(&request, n_threads)
    return 0
