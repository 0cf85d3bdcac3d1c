# What other extensions cimport; _core.pxd says what each function takes. They compute without the GIL and take it only
# to raise. A handle shows nothing of its layout, and functions travel as capsules: both hold for the limited API too.
# Needs: calls/rules, inspect, request, parameters, plan; schedule/run. Gives: Handle (to Python), all of _core.pxd.

cdef struct NetworkHandle:
    const Shape* shape
    const char* params           # the network's own
    void* owner                  # the Handle that it lies in


cdef class Handle:
    """A network as extensions see it: its plan and parameters. A Network holds one, so that it lives as long.

    refuse(y, sample_weight) raises what Python's calls raise for targets and weights; get_num_threads is threads.py's.
    """

    cdef NetworkHandle network
    cdef Plan plan
    cdef Parameters params
    cdef object refuse, get_num_threads

    def __cinit__(self, Plan plan not None, Parameters params not None, refuse, get_num_threads):
        expect_parameters(&plan.shape, params, 1)
        self.plan, self.params, self.refuse, self.get_num_threads = plan, params, refuse, get_num_threads
        self.network.shape = &plan.shape
        self.network.params = params.address
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


# A seam for other rows of the table: a call takes its inputs and results by the functions below, in the order of
# `value_and_grad`. A generic one would get its Mode from a `mode_of(name)`, and operand, max_norm and rows as its flags
# and letters say; `rule_of_result` looks at operands already.

cdef int value_and_grad(const NetworkHandle* net, Py_ssize_t n_samples, const void* params, const void* x,
                        const void* y, const Py_ssize_t* labels, const double* sample_weight, void* grad, double* loss,
                        int n_threads) except -1 nogil:
    cdef Request request
    cdef double value = 0
    start_c_call(&request, net, mode_of_value_and_grad, params, x, n_samples, n_threads)
    if n_samples == 0:
        refuse(b"n_samples: expected at least one sample, got 0: the mean of no samples is not defined")
    if loss == NULL:
        refuse_pointer(b"loss", IS_NULL)
    take_c_values(&request, net, <const char*>y, labels, sample_weight)
    if grad != NULL:
        refuse_pointer(b"grad", rule_of_c_result(&request, net, b"p", grad))
        request.grad = <char*>grad
    run_c_call(&request, n_threads, &value)
    loss[0] = value
    return 0


cdef int forward(const NetworkHandle* net, Py_ssize_t n_samples, const void* params, const void* x, void* y_hat,
                 int n_threads) except -1 nogil:
    cdef Request request
    cdef double no_loss = 0
    start_c_call(&request, net, mode_of_forward, params, x, n_samples, n_threads)
    if n_samples == 0:
        return 0
    refuse_pointer(b"y_hat", rule_of_c_result(&request, net, b"so", y_hat))
    request.row_results = <char*>y_hat
    return run_c_call(&request, n_threads, &no_loss)


# Inputs and results: each function takes some into the request, or raises ---------------------------------------------

cdef int start_c_call(Request* request, const NetworkHandle* net, const Mode* mode, const void* params, const void* x,
                      Py_ssize_t n_samples, int n_threads) except -1 nogil:
    """Parameters and samples, without weights."""
    if net == NULL:
        refuse(b"net: expected a handle, got NULL")
    if n_samples < 0:
        refuse(b"n_samples: expected a number >= 0, got a negative one")
    if n_threads < 1:
        refuse(b"n_threads: expected at least one thread, got less")
    if x == NULL and n_samples > 0:
        refuse_pointer(b"x", IS_NULL)
    refuse_pointer(b"x", rule_of_address(x, net.shape.itemsize))
    refuse_pointer(b"params", rule_of_address(params, net.shape.itemsize))
    start_request(request, net.shape, mode, net.params if params == NULL else <const char*>params, <const char*>x,
                  n_samples)
    return 0


cdef int take_c_values(Request* request, const NetworkHandle* net, const char* y, const Py_ssize_t* labels,
                       const double* sample_weight) except -1 nogil:
    """Weights by sample, or none, and targets."""
    cdef const Shape* shape = net.shape
    cdef Interrupt silent
    cdef Targets targets
    cdef WeightSums sums
    cdef Py_ssize_t place
    cdef int rule = KEPT
    if (y == NULL) == (labels == NULL):
        refuse(b"y, labels: expected one of the two, got both or none")
    if labels != NULL and shape.loss != CROSS_ENTROPY:
        refuse(b"labels: expected NULL, since the loss is not cross_entropy")
    refuse_pointer(b"y", rule_of_address(y, shape.itemsize))
    refuse_pointer(b"labels", rule_of_address(labels, sizeof(Py_ssize_t)))
    refuse_pointer(b"sample_weight", rule_of_address(sample_weight, sizeof(double)))
    reset_interrupt(&silent, True, False)
    if sample_weight != NULL:
        rule = rule_of_weights(sample_weight, request.n_samples, 1, &sums, &silent)
        set_weights(request, sample_weight, WEIGHT_PER_SAMPLE, &sums)
    set_targets(request, y, labels)
    if rule == KEPT:
        targets = targets_of(request, request.n_samples)
        rule = rule_of_targets(&targets, &silent, &place)
    if rule:
        return refuse_values(request, net)
    return 0


cdef int rule_of_c_result(const Request* request, const NetworkHandle* net, const char* letters,
                          const void* result) noexcept nogil:
    """The rule that the memory for a result breaks, or KEPT."""
    cdef const Shape* shape = net.shape
    if result == NULL:
        return IS_NULL
    if rule_of_address(result, shape.itemsize):
        return MISALIGNED
    return rule_of_result(request, net.params, <const char*>result,
                          entries_of(shape, letters, request.n_samples) * shape.itemsize)


cdef int run_c_call(const Request* request, int n_threads, double* loss) except -1 nogil:
    """Run it. Signal handlers are not run: they are Python code, which a C program does not expect inside a call."""
    cdef Interrupt interrupt
    cdef int status
    reset_interrupt(&interrupt, True, may_take_long(request, 1))
    status = run(request, min(n_threads, <int>MOST_THREADS), &interrupt, loss)
    if status != DONE:
        with gil:
            return raise_for(status)
    return 0


# Errors ---------------------------------------------------------------------------------------------------------------

cdef int refuse(const char* what) except -1 nogil:
    """Raise a ValueError."""
    with gil:
        raise ValueError(what.decode("ascii"))


cdef int refuse_pointer(const char* name, int rule) except -1 nogil:
    """Raise a ValueError if the rule of an address is broken."""
    if rule == KEPT:
        return 0
    with gil:
        what = "a pointer, got NULL"
        if rule == MISALIGNED:
            what = "an address that is a multiple of the size of what lies there, got another"
        elif rule == OVERLAPS:
            what = "memory of its own, got some that overlaps an input"
        raise ValueError(f"{name.decode('ascii')}: expected {what}")


cdef int refuse_values(const Request* request, const NetworkHandle* net) except -1 nogil:
    """Raise what Python's calls raise for these targets and weights."""
    cdef cnp.npy_intp[2] axes
    axes[0] = request.n_samples
    axes[1] = net.shape.sizes[net.shape.n_layers]
    with gil:
        weight = None
        if request.weight != NULL:
            weight = cnp.PyArray_SimpleNewFromData(1, axes, cnp.NPY_FLOAT64, <void*>request.weight)
        if request.labels != NULL:
            targets = cnp.PyArray_SimpleNewFromData(1, axes, cnp.NPY_INTP, <void*>request.labels)
        else:
            targets = cnp.PyArray_SimpleNewFromData(2, axes, dtype_of(net.shape), <void*>request.y)
        (<Handle>net.owner).refuse(targets, weight)
        raise ValueError("y, sample_weight: expected values that stay as they are during the call, got others by now")
