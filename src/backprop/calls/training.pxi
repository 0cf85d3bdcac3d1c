# Fits on arrays that Python has accepted.
# Needs: calls/accepted; training/evaluation, lbfgs, levenberg_marquardt. Gives: set_what_is_free, fit_by_lbfgs,
# fit_by_lm, penalty_of.

cdef double penalty_of(const Shape* shape, cnp.ndarray params, double l2, cnp.ndarray gradient) except? -1:
    """l2/2 times the sum of the squared weights; l2 W is added to a float64 gradient."""
    cdef cnp.ndarray work = new_vector(shape.n_params)
    cdef double penalty
    cdef uint64_t mode
    expect(rule_of_array(shape, params, dtype_of(shape), b"p", 0, 1), "params")
    expect(rule_of_array(shape, gradient, cnp.NPY_FLOAT64, b"p", 0, 1), "gradient")
    mode = enter_default_mode()
    penalty = add_penalty(shape, cnp.PyArray_BYTES(params), l2, <double*>cnp.PyArray_DATA(gradient),
                          <double*>cnp.PyArray_DATA(work))
    leave_default_mode(mode, &penalty)
    return penalty


cdef int set_what_is_free(Evaluation* e, const Shape* shape, const Py_ssize_t[::1] free_params, double l2,
                          Py_ssize_t n) except -1:
    """The free parameters, by number or all, which a solver of n numbers moves; and the penalty."""
    cdef Py_ssize_t k
    memset(e, 0, sizeof(Evaluation))
    e.n_free = shape.n_params
    if free_params is not None:
        e.n_free = free_params.shape[0]
        e.free = &free_params[0] if e.n_free else NULL
        for k in range(e.n_free):
            if not 0 <= e.free[k] < shape.n_params:
                raise ValueError(f"free: expected numbers of parameters below {shape.n_params}, got {e.free[k]}")
    if e.n_free != n:
        raise ValueError(f"solver: expected one of {e.n_free} numbers, got {n}")
    e.l2 = l2
    return 0


cdef int start_evaluation(Evaluation* e, const Shape* shape, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, weights,
                          const Py_ssize_t[::1] free_params, double l2, int n_threads, Py_ssize_t n,
                          cnp.ndarray gradient, cnp.ndarray work) except -1:
    """The loss of these samples; params keeps what is not free. gradient and work are buffers."""
    set_what_is_free(e, shape, free_params, l2, n)
    accept_samples(&e.request, shape, mode_of_value_and_grad, params, x)
    accept_targets(&e.request, y, weights, 1, False)
    expect(rule_of_array(shape, gradient, dtype_of(shape), b"p", 0, 1), "gradient")
    set_results(&e.request, gradient, None)
    e.params = cnp.PyArray_BYTES(params)
    e.gradient = cnp.PyArray_BYTES(gradient)
    e.n_threads = n_threads
    e.work = <double*>cnp.PyArray_DATA(work)
    return 0


cdef fit_by_lbfgs(const Shape* shape, LBFGS solver, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, weights,
                  const Py_ssize_t[::1] free_params, double l2, double tol, Py_ssize_t max_iter, int n_threads):
    """The name of an answer, and the losses after each iteration; params is the last accepted point, always."""
    cdef Evaluation e
    cdef Interrupt interrupt
    cdef cnp.ndarray gradient = new_array(shape, b"p", 0, 1, dtype_of(shape))
    cdef cnp.ndarray work = new_vector(2 * shape.n_params), inner = new_vector(solver.state.n)
    cdef cnp.ndarray losses = new_vector(max(max_iter, 0))
    cdef Py_ssize_t n_losses = 0
    cdef double* of_solver = <double*>cnp.PyArray_DATA(inner)
    cdef double* of_iterations = <double*>cnp.PyArray_DATA(losses)
    cdef int status, answer = EVALUATE
    if gradient is None:
        raise MemoryError("the gradient of a fit does not fit into memory")
    start_evaluation(&e, shape, params, x, y, weights, free_params, l2, n_threads, solver.state.n, gradient, work)
    with nogil:
        reset_interrupt(&interrupt, False, True)
        interrupt.callers_mode = enter_default_mode()
        status = minimize_by_lbfgs(&solver.state, &e, tol, max_iter, of_solver, of_iterations, &n_losses, &answer,
                                   &interrupt)
        expand(&e, solver.state.theta, solver.state.kernels.itemsize)
        leave_default_mode(interrupt.callers_mode, of_iterations)
    if status != DONE:
        raise_for(status)
    return ANSWERS[answer], losses[:n_losses].copy()


cdef fit_by_lm(const Shape* shape, LevenbergMarquardt solver, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y,
               weights, const Py_ssize_t[::1] free_params, double l2, double tol, Py_ssize_t max_iter, int n_threads):
    """The name of an answer, and the losses after each iteration; params is the last accepted point, always."""
    cdef Evaluation e
    cdef Equations equations
    cdef Interrupt interrupt
    cdef cnp.ndarray gradient = new_array(shape, b"p", 0, 1, dtype_of(shape))
    cdef cnp.ndarray both = new_array(shape, b"qp", 0, 1, dtype_of(shape))
    cdef cnp.ndarray work = new_vector(2 * shape.n_params), inner = new_vector(solver.state.n)
    cdef cnp.ndarray losses = new_vector(max(max_iter, 0))
    cdef Py_ssize_t n_losses = 0
    cdef double* of_solver = <double*>cnp.PyArray_DATA(inner)
    cdef double* of_iterations = <double*>cnp.PyArray_DATA(losses)
    cdef Call of_loss = CALLS["loss"], of_equations = CALLS["normal_equations"]
    cdef int status, answer = EVALUATE
    if gradient is None or both is None:
        raise MemoryError("the normal equations of a fit do not fit into memory")
    solver.need_matrices()
    start_evaluation(&e, shape, params, x, y, weights, free_params, l2, n_threads, solver.state.n, gradient, work)
    e.request.mode = &of_loss.mode  # steps are tried by their loss alone
    e.request.grad = NULL
    memset(cnp.PyArray_DATA(gradient), 0, cnp.PyArray_NBYTES(gradient))
    memset(&equations, 0, sizeof(Equations))
    accept_samples(&equations.request, shape, &of_equations.mode, params, x)
    accept_targets(&equations.request, y, weights, 1, False)
    set_results(&equations.request, both, None)
    equations.both = cnp.PyArray_BYTES(both)
    equations.divisor = e.request.divisor / e.request.weight_scale
    with nogil:
        reset_interrupt(&interrupt, False, True)
        interrupt.callers_mode = enter_default_mode()
        status = minimize_by_lm(&solver.state, &e, &equations, tol, max_iter, of_solver, of_iterations, &n_losses,
                                &answer, &interrupt)
        expand(&e, solver.state.theta, sizeof(double))
        leave_default_mode(interrupt.callers_mode, of_iterations)
    if status != DONE:
        raise_for(status)
    return ANSWERS[answer], losses[:n_losses].copy()
