# What other extensions cimport; _core.pxd says what each function takes. They compute without the GIL, and take it to
# raise alone. A handle tells nothing of its layout, functions travel as capsules: both hold for the limited API too.

cdef struct NetworkHandle:
    const Shape* shape
    const char* params           # the network's own
    double tolerance             # of the sum of probabilities
    void* owner                  # the Handle that it lies in


cdef class Handle:
    """A network as extensions see it: its plan and parameters. Network holds it, so that it lives as long.

    refuse(y, sample_weight) raises what Python's calls raise for targets and weights; get_num_threads is threads.py's.
    """

    cdef NetworkHandle network
    cdef Plan plan
    cdef Parameters params
    cdef object refuse, get_num_threads

    def __cinit__(self, Plan plan not None, Parameters params not None, double tolerance, refuse, get_num_threads):
        expect_parameters(&plan.shape, params, 1)
        self.plan, self.params, self.refuse, self.get_num_threads = plan, params, refuse, get_num_threads
        self.network.shape = &plan.shape
        self.network.params = params.address
        self.network.tolerance = tolerance
        self.network.owner = <void*>self


cdef const NetworkHandle* network_of(object net) except NULL:
    handle = getattr(net, "_handle", None)
    if not isinstance(handle, Handle):
        raise TypeError(f"net: expected a Network, got {type(net).__name__}")
    if (<Handle>handle).plan.shape.is_serial:
        raise ValueError("net: expected activations that run without the GIL, got one made of NumPy functions")
    return &(<Handle>handle).network


cdef Py_ssize_t number_of_params(const NetworkHandle* net) noexcept nogil:
    return net.shape.n_params


cdef Py_ssize_t number_of_inputs(const NetworkHandle* net) noexcept nogil:
    return net.shape.sizes[0]


cdef Py_ssize_t number_of_outputs(const NetworkHandle* net) noexcept nogil:
    return net.shape.sizes[net.shape.n_layers]


cdef Py_ssize_t bytes_of_real(const NetworkHandle* net) noexcept nogil:
    return net.shape.itemsize


cdef int number_of_threads(const NetworkHandle* net) except -1 nogil:
    with gil:
        return (<Handle>net.owner).get_num_threads()


cdef int value_and_grad(const NetworkHandle* net, Py_ssize_t n_samples, const void* params, const void* x,
                        const void* y, const Py_ssize_t* labels, const double* sample_weight, void* grad, double* loss,
                        int n_threads) except -1 nogil:
    cdef const Shape* shape = net.shape
    cdef Request request
    cdef double value = 0
    cdef Interrupt silent
    reset_interrupt(&silent, True, False)
    begin(net, &request, n_samples, params, x, n_threads)
    if n_samples == 0:
        refuse_argument(b"n_samples: expected at least one sample, got 0: the mean of no samples is not defined")
    if (y == NULL) == (labels == NULL):
        refuse_argument(b"y, labels: expected one of the two, got both or none")
    if labels != NULL and shape.loss != CROSS_ENTROPY:
        refuse_argument(b"labels: expected NULL, since the loss is not cross_entropy")
    if loss == NULL:
        refuse_argument(b"loss: expected a pointer, got NULL")
    if not is_aligned(y, shape.itemsize):
        refuse_argument(b"y: expected an address that is a multiple of a real's size")
    if (not take_sample_weight(&request, sample_weight, &silent) or not are_valid_targets(net, &request, <const char*>y,
                                                                                          labels, &silent)):
        refuse_values(net, n_samples, y, labels, sample_weight)
    set_pointers_of_y(shape, &request, <const char*>y, labels)
    if grad != NULL:
        check_result(b"grad: expected memory of its own, got some that overlaps an input",
                     b"grad: expected an address that is a multiple of a real's size", &request, <char*>grad,
                     shape.n_params * shape.itemsize)
        request.grad = <char*>grad
    finish(&request, n_threads, &value)
    loss[0] = value
    return 0


cdef int forward(const NetworkHandle* net, Py_ssize_t n_samples, const void* params, const void* x, void* y_hat,
                 int n_threads) except -1 nogil:
    cdef const Shape* shape = net.shape
    cdef Request request
    cdef double no_loss = 0
    begin(net, &request, n_samples, params, x, n_threads)
    if n_samples == 0:
        return 0
    if y_hat == NULL:
        refuse_argument(b"y_hat: expected a pointer, got NULL")
    check_result(b"y_hat: expected memory of its own, got some that overlaps an input",
                 b"y_hat: expected an address that is a multiple of a real's size", &request, <char*>y_hat,
                 n_samples * shape.sizes[shape.n_layers] * shape.itemsize)
    request.mode = mode_of_forward
    request.row_results = <char*>y_hat
    return finish(&request, n_threads, &no_loss)


# Checks ---------------------------------------------------------------------------------------------------------------

cdef int begin(const NetworkHandle* net, Request* request, Py_ssize_t n_samples, const void* params, const void* x,
               int n_threads) except -1 nogil:
    """A request with parameters and samples."""
    if net == NULL:
        refuse_argument(b"net: expected a handle, got NULL")
    if n_samples < 0:
        refuse_argument(b"n_samples: expected a number >= 0, got a negative one")
    if n_threads < 1:
        refuse_argument(b"n_threads: expected at least one thread, got less")
    if x == NULL and n_samples > 0:
        refuse_argument(b"x: expected a pointer, got NULL")
    if not is_aligned(x, net.shape.itemsize) or not is_aligned(params, net.shape.itemsize):
        refuse_argument(b"x, params: expected addresses that are multiples of a real's size")
    start_request_at(net.shape, request, net.params if params == NULL else <const char*>params, <const char*>x,
                     n_samples)
    return 0


cdef int finish(const Request* request, int n_threads, double* loss) except -1 nogil:
    """Run it. Signal handlers are not run: they are Python code, for which nobody in a C call is prepared."""
    cdef Interrupt interrupt
    cdef int status
    reset_interrupt(&interrupt, True, may_take_long(request, 1))
    status = run(request, min(n_threads, <int>MOST_THREADS), &interrupt, loss)
    if status != DONE:
        with gil:
            return raise_for(status)
    return 0


cdef inline bint is_aligned(const void* address, Py_ssize_t itemsize) noexcept nogil:
    return <size_t>address % <size_t>itemsize == 0


cdef int check_result(const char* overlaps, const char* is_odd, const Request* request, char* result,
                      Py_ssize_t n_bytes) except -1 nogil:
    """Refuse memory that is an input too."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t n_samples = request.n_samples, n_out = shape.sizes[shape.n_layers]
    if not is_aligned(result, shape.itemsize):
        refuse_argument(is_odd)
    if (share_bytes(result, n_bytes, request.params, shape.n_params * shape.itemsize)
        or share_bytes(result, n_bytes, request.x, n_samples * shape.sizes[0] * shape.itemsize)
        or share_bytes(result, n_bytes, request.y, n_samples * n_out * shape.itemsize)
        or share_bytes(result, n_bytes, <const char*>request.labels, n_samples * sizeof(Py_ssize_t))
        or share_bytes(result, n_bytes, <const char*>request.weight, n_samples * sizeof(double))):
        refuse_argument(overlaps)
    return 0


cdef bint take_sample_weight(Request* request, const double* weight, Interrupt* interrupt) noexcept nogil:
    """Weights by sample, or none; false where they are refused."""
    cdef WeightSums sums
    if weight == NULL:
        return True
    if not is_aligned(weight, sizeof(double)):
        return False
    sums = sums_of_weights(weight, request.n_samples, 1, interrupt)
    if sums.bad >= 0 or sums.n_kept == 0:
        return False
    request.weight = weight
    request.weight_kind = WEIGHT_PER_SAMPLE
    set_sums_of_weights(request, &sums)
    return True


cdef bint are_valid_targets(const NetworkHandle* net, const Request* request, const char* y, const Py_ssize_t* labels,
                            Interrupt* interrupt) noexcept nogil:
    """Whether targets lie in the loss's domain wherever they have a weight."""
    cdef const Shape* shape = net.shape
    cdef Py_ssize_t n_samples = request.n_samples, n_out = shape.sizes[shape.n_layers]
    if labels != NULL:
        return bad_label(labels, n_samples, n_out, request.weight, interrupt) < 0
    if not are_in_domain(request, y, n_samples, interrupt):
        return False
    if shape.loss != CROSS_ENTROPY:
        return True
    if shape.itemsize == 4:
        return bad_sum(<const float*>y, n_samples, n_out, net.tolerance, request.weight, interrupt) < 0
    return bad_sum(<const double*>y, n_samples, n_out, net.tolerance, request.weight, interrupt) < 0


# Errors ---------------------------------------------------------------------------------------------------------------

cdef int refuse_argument(const char* what) except -1 nogil:
    """Raise a ValueError."""
    with gil:
        raise ValueError(what.decode("ascii"))


cdef int refuse_values(const NetworkHandle* net, Py_ssize_t n_samples, const void* y, const Py_ssize_t* labels,
                       const double* sample_weight) except -1 nogil:
    """Raise what Python's calls raise for these targets and weights."""
    cdef cnp.npy_intp[2] axes
    axes[0] = n_samples
    axes[1] = net.shape.sizes[net.shape.n_layers]
    with gil:
        weight = None
        if sample_weight != NULL:
            weight = cnp.PyArray_SimpleNewFromData(1, axes, cnp.NPY_FLOAT64, <void*>sample_weight)
        if labels != NULL:
            targets = cnp.PyArray_SimpleNewFromData(1, axes, cnp.NPY_INTP, <void*>labels)
        else:
            targets = cnp.PyArray_SimpleNewFromData(2, axes, dtype_of(net.shape), <void*>y)
        (<Handle>net.owner).refuse(targets, weight)
        raise ValueError("sample_weight: expected an address that is a multiple of 8")  # all else is in order
