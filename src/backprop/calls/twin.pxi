# The typed twin of value_and_grad (at the end of _core.pyx), with memory for one sample's values.
# Needs: twin of _core.pyx; calls/rules, accepted, plan. Gives: value_and_grad_by_twin to Python.

cdef int divide_by(floating* reals, Py_ssize_t n, double divisor) noexcept nogil:
    cdef Py_ssize_t p
    for p in range(n):
        reals[p] = <floating>(reals[p] / divisor)
    return 0


cdef int run_twin(const Request* request, Interrupt* interrupt, double* loss) noexcept nogil:
    """The loss and the gradient into request.grad, on the caller's thread; a Status."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t L = shape.n_layers, i, widest = shape.sizes[0], n_bytes = shape.sizes[0] * shape.itemsize
    cdef char** rows = <char**>calloc(2 * (L + 1), sizeof(char*))  # a by layer, then h
    cdef char* block
    cdef bint stopped
    for i in range(1, L + 1):
        widest = max(widest, shape.sizes[i])
        n_bytes += 2 * shape.layers[i].ld * shape.itemsize
    block = <char*>calloc(n_bytes + widest * shape.itemsize, 1)
    if rows == NULL or block == NULL:
        free(rows)
        free(block)
        return NO_WORKSPACE
    n_bytes = 0
    for i in range(1, L + 1):
        rows[i] = block + n_bytes
        rows[L + 1 + i] = rows[i] + shape.layers[i].ld * shape.itemsize
        n_bytes += 2 * shape.layers[i].ld * shape.itemsize
    rows[L + 1] = block + n_bytes
    n_bytes += shape.sizes[0] * shape.itemsize
    interrupt.callers_mode = enter_default_mode()
    loss[0] = 0
    memset(request.grad, 0, shape.n_params * shape.itemsize)
    if shape.itemsize == 4:
        stopped = twin(request, interrupt, <float**>rows, <float**>(rows + L + 1), <float*>(block + n_bytes),
                       <float*>request.grad, loss)
        divide_by(<float*>request.grad, shape.n_params, request.divisor)
    else:
        stopped = twin(request, interrupt, <double**>rows, <double**>(rows + L + 1), <double*>(block + n_bytes),
                       <double*>request.grad, loss)
        divide_by(<double*>request.grad, shape.n_params, request.divisor)
    loss[0] /= request.divisor
    leave_default_mode(interrupt.callers_mode, loss)
    free(rows)
    free(block)
    return RAISED if stopped else DONE


def value_and_grad_by_twin(Plan plan not None, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, cnp.ndarray out,
                           weights):
    """The loss; the gradient goes into out. As `Plan.run`, for x and y that need no conversion."""
    cdef const Shape* shape = &plan.shape
    cdef Request request
    cdef Interrupt interrupt
    cdef double loss
    cdef int status
    accept_samples(&request, shape, mode_of_value_and_grad, params, x)
    accept_targets(&request, y, weights, 1, False)
    expect(rule_of_form(x, dtype_of(shape)), "x")
    expect(rule_of_array(shape, out, dtype_of(shape), b"p", request.n_samples, 1), "out")
    if request.y_source.code != 0:
        raise ValueError("y: expected targets that need no conversion")
    request.grad = cnp.PyArray_BYTES(out)
    with nogil:
        reset_interrupt(&interrupt, False, True)
        status = run_twin(&request, &interrupt, &loss)
    if status != DONE:
        raise_for(status)
    return loss
