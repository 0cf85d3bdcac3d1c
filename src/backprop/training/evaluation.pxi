# The loss of a solver's theta, the vector of the free parameters, of either dtype: from a request, with l2.
# Needs: schedule/run; vectors. Gives: Evaluation, evaluate, evaluate_plainly, expand, add_penalty.

cdef struct Evaluation:
    # A loss with its gradient, on samples in memory.
    Request request              # of value_and_grad, into `gradient`, at `params`
    char* params                 # (n_params,): those that are not free stay as they are
    char* gradient               # (n_params,)
    const Py_ssize_t* free       # (n_free,): the numbers of the free parameters; NULL if all are
    Py_ssize_t n_free
    double l2
    double* work                 # (2, n_params)
    int n_threads


cdef void expand(const Evaluation* e, const void* theta, Py_ssize_t itemsize) noexcept nogil:
    """The parameters of the network, rounded to its dtype."""
    cdef Py_ssize_t k
    if e.free == NULL and e.request.shape.itemsize == itemsize:
        memcpy(e.params, theta, e.n_free * itemsize)
        return
    for k in range(e.n_free):
        set_real(e.params, k if e.free == NULL else e.free[k], e.request.shape.itemsize,
                 get_real(<const char*>theta, k, itemsize))


cdef inline bint is_plain(const Evaluation* e, Py_ssize_t itemsize) noexcept nogil:
    """Whether theta and gradient are, as they are, those of the network."""
    return e.free == NULL and e.l2 == 0 and e.request.shape.itemsize == itemsize


cdef inline int evaluate_plainly(Evaluation* e, const char* theta, double* loss, char* gradient,  # OUT loss, gradient
                                 Interrupt* interrupt) noexcept nogil:
    """Loss and gradient at theta, with no copy of either; DONE, or why there are none."""
    cdef int status
    e.request.params = theta
    e.request.grad = gradient
    status = run_any(&e.request, e.n_threads, interrupt, loss)
    e.request.params = e.params
    e.request.grad = e.gradient
    return status


cdef double add_penalty(const Shape* shape, const char* params, double l2,   # IN
                        double* gradient, double* work) noexcept nogil:      # IN and OUT (n_params); OUT (n_params)
    """l2/2 times the sum of the squared weights; gradient += l2 W."""
    cdef const KernelTable* kernels = kernel_table(sizeof(double))
    cdef Py_ssize_t i, k, start
    cdef const Layer* layer
    cdef double total = 0
    for i in range(1, shape.n_layers + 1):
        layer = &shape.layers[i]
        start = layer.W // shape.itemsize
        for k in range(start, start + layer.n_in * layer.n_out):
            work[k] = get_real(params, k, shape.itemsize)
            gradient[k] = gradient[k] + l2 * work[k]
        total += inner_product(kernels, layer.n_in * layer.n_out, work + start, work + start)
    return 0.5 * l2 * total


cdef int evaluate(Evaluation* e, const void* theta, Py_ssize_t itemsize,
                  double* loss, double* gradient,                             # OUT; gradient (n_free)
                  Interrupt* interrupt) noexcept nogil:
    """Loss and gradient at theta; DONE, or why there are none."""
    cdef const Shape* shape = e.request.shape
    cdef double* whole = e.work
    cdef Py_ssize_t k
    cdef int status
    expand(e, theta, itemsize)
    status = run_any(&e.request, e.n_threads, interrupt, loss)
    if status != DONE:
        return status
    if e.free == NULL:
        whole = gradient
    if shape.itemsize == sizeof(double):
        memcpy(whole, e.gradient, shape.n_params * sizeof(double))
    else:
        for k in range(shape.n_params):
            whole[k] = (<const float*>e.gradient)[k]
    if e.l2 != 0:
        loss[0] += add_penalty(shape, e.params, e.l2, whole, e.work + shape.n_params)
    if e.free != NULL:
        for k in range(e.n_free):
            gradient[k] = whole[e.free[k]]
    return RAISED if is_stopped(interrupt, 3.0 * MEMORY_FLOPS * shape.n_params) else DONE
