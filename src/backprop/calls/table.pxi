# The table of calls: what each takes, gives and costs; the request that a call makes of its arguments; and its run.

cdef enum CallFlag:
    TAKES_Y = 1
    GIVES_LOSS = 2
    NEEDS_SECOND = 4             # g''
    NEEDS_SQUARED_ERROR = 8


cdef enum Share:
    # What l_s counts for.
    OF_MEAN                      # divided by n_samples or the sum of the weights
    OF_SUM                       # not divided
    OF_SAMPLE                    # w_s l_s or sum_j w_sj l_sj / n_L, so that a row does not depend on its batch


cdef class Call:
    """A line of the table. Shapes are strings with a letter for each axis, as `shape_of` reads them."""

    cdef readonly str name
    cdef int mode
    cdef const char* operand     # v, cotangent or grad_x; NULL where there is no such array, here and below
    cdef const char* sums        # over samples
    cdef const char* rows        # what each sample has of its own
    cdef int share
    cdef int kind                # of the workspace
    cdef readonly bint takes_y, gives_loss, needs_second, needs_squared_error

    def __cinit__(self, str name):
        self.name = name

    @property
    def takes_v(self):
        """Whether a direction of the parameters is among the arguments."""
        return self.operand != NULL and self.mode != VJP and self.mode != SOBOLEV

    @property
    def is_by_sample(self):
        """Whether samples have results of their own, and there are no sums."""
        return self.sums == NULL and self.rows != NULL

    @property
    def is_mean(self):
        """Whether a mean over samples is asked for, which is not defined of none."""
        return self.takes_y and self.share == OF_MEAN


CALLS = {}


cdef int define(str name, int mode, const char* operand, const char* sums, const char* rows, int share, int kind,
                int flags) except -1:
    """Add a line to the table."""
    cdef Call call = Call(name)
    call.mode, call.operand, call.sums, call.rows = mode, operand, sums, rows
    call.share, call.kind = share, kind
    call.takes_y = flags & TAKES_Y != 0
    call.gives_loss = flags & GIVES_LOSS != 0
    call.needs_second = flags & NEEDS_SECOND != 0
    call.needs_squared_error = flags & NEEDS_SQUARED_ERROR != 0
    CALLS[name] = call
    return 0


# A call with rows alone knows nothing of chunks. The q of the normal equations: J^T J, and J^T r as a last row.
#      call                         mode                       takes   sums   rows    l_s        workspace
define("value_and_grad",            VALUE_AND_GRAD,            NULL,   b"p",  NULL,   OF_MEAN,   OF_GRADIENT,
       TAKES_Y | GIVES_LOSS)
define("loss",                      VALUE_AND_GRAD,            NULL,   NULL,  NULL,   OF_MEAN,   OF_GRADIENT,
       TAKES_Y | GIVES_LOSS)
define("forward",                   FORWARD,                   NULL,   NULL,  b"so",  OF_MEAN,   OF_GRADIENT,         0)
define("vjp",                       VJP,                       b"so",  b"p",  b"si",  OF_SUM,    OF_DERIVATIVES,      0)
define("jvp",                       JVP,                       b"p",   NULL,  b"so",  OF_MEAN,   OF_DERIVATIVES,      0)
define("input_gradient",            INPUT_GRADIENT,            NULL,   NULL,  b"si",  OF_SAMPLE, OF_DERIVATIVES,
       TAKES_Y)
define("input_jacobian",            INPUT_JACOBIAN,            NULL,   NULL,  b"soi", OF_MEAN,   OF_DERIVATIVES,      0)
define("jacobian",                  JACOBIAN,                  NULL,   NULL,  b"sop", OF_MEAN,   OF_DERIVATIVES,      0)
define("per_sample_gradients",      PER_SAMPLE_GRADIENTS,      NULL,   NULL,  b"sp",  OF_SAMPLE, OF_DERIVATIVES,
       TAKES_Y)
define("per_sample_gradient_norms", PER_SAMPLE_GRADIENT_NORMS, NULL,   NULL,  b"s",   OF_SAMPLE, OF_DERIVATIVES,
       TAKES_Y)
define("clipped_gradient",          CLIPPED_GRADIENT,          NULL,   b"p",  NULL,   OF_SAMPLE, OF_DERIVATIVES,
       TAKES_Y)
define("hvp",                       HVP,                       b"p",   b"p",  NULL,   OF_MEAN,   OF_DERIVATIVES,
       TAKES_Y | NEEDS_SECOND)
define("gauss_newton_vp",           GAUSS_NEWTON_VP,           b"p",   b"p",  NULL,   OF_MEAN,   OF_DERIVATIVES,
       TAKES_Y)
define("hessian",                   HESSIAN,                   NULL,   b"pp", NULL,   OF_MEAN,   OF_HESSIAN,
       TAKES_Y | NEEDS_SECOND)
define("normal_equations",          NORMAL_EQUATIONS,          NULL,   b"qp", NULL,   OF_SUM,    OF_NORMAL_EQUATIONS,
       TAKES_Y | NEEDS_SQUARED_ERROR)
define("sobolev_value_and_grad",    SOBOLEV,                   b"soi", b"p",  NULL,   OF_MEAN,   OF_DERIVATIVES,
       TAKES_Y | GIVES_LOSS | NEEDS_SECOND | NEEDS_SQUARED_ERROR)


cdef Call call_of_value_and_grad = CALLS["value_and_grad"]


cdef inline double cost_of(const Layers* plan, int mode) noexcept nogil:
    """What a sample costs, in gradients: of this the number of threads depends, not the bits."""
    cdef double n_out = plan.sizes[plan.n_layers]
    if mode == FORWARD:
        return 1.0 / 3
    if mode == HVP or mode == GAUSS_NEWTON_VP:
        return 3
    if mode == INPUT_JACOBIAN or mode == JACOBIAN:
        return n_out
    if mode == SOBOLEV:
        return 1 + 4 * n_out
    if mode == HESSIAN:
        return 2.0 * plan.n_units + plan.n_params / 6.0
    if mode == NORMAL_EQUATIONS:
        return 1 + plan.sizes[plan.n_layers] * plan.n_params // 3
    return 1


cdef int shape_of(const Layers* plan, const char* letters, Py_ssize_t n_samples, Py_ssize_t n_networks,
                  cnp.npy_intp* shape) noexcept:
    """The axes that the letters name, into shape; returns how many they are."""
    cdef int d = 0
    while letters[d] != 0:
        if letters[d] == c"s":
            shape[d] = n_samples
        elif letters[d] == c"i":
            shape[d] = plan.sizes[0]
        elif letters[d] == c"o":
            shape[d] = plan.sizes[plan.n_layers]
        elif letters[d] == c"p":
            shape[d] = plan.n_params
        elif letters[d] == c"q":
            shape[d] = plan.n_params + 1
        else:  # k, of an ensemble
            shape[d] = n_networks
        d += 1
    return d


# Requests -------------------------------------------------------------------------------------------------------------

cdef inline void start_request_at(const Layers* plan, Request* request, const char* params, const char* x,
                                  Py_ssize_t n_samples) noexcept nogil:
    """A request with parameters and samples, all else absent: made in place, since a copy of it takes 20 ns."""
    memset(request, 0, sizeof(Request))
    request.params = params
    request.n_sums = plan.n_params
    request.n_samples = n_samples
    request.n_kept = n_samples
    request.x = x
    request.weight_kind = NO_WEIGHT
    request.weight_scale = 1
    request.divisor = n_samples


cdef int start_request(const Layers* plan, Request* request, cnp.ndarray params, cnp.ndarray x) except -1:
    """The same of arrays that have been accepted; x may have to be converted."""
    cdef Py_ssize_t n_samples = cnp.PyArray_DIM(x, 0) if cnp.PyArray_NDIM(x) == 2 else 0
    expect(plan, params, dtype_of(plan), b"p", n_samples, 1, "params")
    expect_data(plan, x, dtype_of(plan), b"si", n_samples, 1, "x")
    start_request_at(plan, request, cnp.PyArray_BYTES(params), cnp.PyArray_BYTES(x), n_samples)
    set_source(&request.x_source, x, dtype_of(plan), 0)
    return 0


cdef inline bint has_shape(const Layers* plan, cnp.ndarray array, const char* letters, Py_ssize_t n_samples,
                           Py_ssize_t n_networks) noexcept:
    """Whether an array has the shape that the letters say, as `shape_of` reads them."""
    cdef cnp.npy_intp[3] shape
    cdef int d, n = shape_of(plan, letters, n_samples, n_networks, shape)
    if cnp.PyArray_NDIM(array) != n:
        return False
    for d in range(n):
        if cnp.PyArray_DIM(array, d) != shape[d]:
            return False
    return True


cdef bint is_as_taken(cnp.ndarray array, int dtype) noexcept:
    """Whether the kernels take an array as it is."""
    return cnp.PyArray_ISCARRAY_RO(array) and cnp.PyArray_EquivTypenums(cnp.PyArray_TYPE(array), dtype)


cdef int expect(const Layers* plan, cnp.ndarray array, int dtype, const char* letters, Py_ssize_t n_samples,
                Py_ssize_t n_networks, str name) except -1:
    """Refuse an accepted array that has another form by now, which another thread has given it."""
    if not (is_as_taken(array, dtype) and has_shape(plan, array, letters, n_samples, n_networks)):
        raise ValueError(f"{name}: expected an array that keeps its shape and dtype during the call, got one that "
                         "another thread has given others")
    return 0


cdef int expect_data(const Layers* plan, cnp.ndarray array, int dtype, const char* letters, Py_ssize_t n_samples,
                     Py_ssize_t n_networks, str name) except -1:
    """The same of x or y, which may have to be converted."""
    cdef bint is_real = cnp.PyArray_ISBOOL(array) or cnp.PyArray_ISINTEGER(array) or cnp.PyArray_ISFLOAT(array)
    if is_real and cnp.PyArray_ITEMSIZE(array) <= 8 and has_shape(plan, array, letters, n_samples, n_networks):
        return 0
    return expect(plan, array, dtype, letters, n_samples, n_networks, name)


cdef void set_source(Source* source, cnp.ndarray array, int dtype, int axis) noexcept:
    """How an array lies in memory, its rows along the axis, where it is not as the kernels take it."""
    cdef int kind = c"f"
    if is_as_taken(array, dtype):
        return
    if cnp.PyArray_ISBOOL(array):
        kind = c"b"
    elif cnp.PyArray_ISINTEGER(array):
        kind = c"u" if cnp.PyArray_ISUNSIGNED(array) else c"i"
    source.code = code_of(kind, cnp.PyArray_ITEMSIZE(array), cnp.PyArray_ISBYTESWAPPED(array))
    source.row = cnp.PyArray_STRIDE(array, axis)
    source.column = cnp.PyArray_STRIDE(array, axis + 1) if axis + 1 < cnp.PyArray_NDIM(array) else 0


cdef inline bint are_labels(const Layers* plan, cnp.ndarray y) noexcept:
    """Whether accepted targets are labels: integers where the loss takes them."""
    return plan.loss == CROSS_ENTROPY and cnp.PyArray_ISINTEGER(y)


cdef inline void set_y(const Layers* plan, Request* request, cnp.ndarray y) noexcept:
    """Targets, after the weights."""
    if are_labels(plan, y):
        set_pointers_of_y(plan, request, NULL, <const Py_ssize_t*>cnp.PyArray_DATA(y))
    else:
        set_pointers_of_y(plan, request, cnp.PyArray_BYTES(y), NULL)


cdef inline void set_pointers_of_y(const Layers* plan, Request* request, const char* y,
                                   const Py_ssize_t* labels) noexcept nogil:
    """The same, of which one is NULL, and the mean over outputs where l is one."""
    cdef uint64_t mode
    request.y = y
    request.labels = labels
    if plan.loss != CROSS_ENTROPY and request.weight_kind != WEIGHT_PER_ENTRY:
        mode = enter_default_mode()
        request.divisor *= plan.sizes[plan.n_layers]
        leave_default_mode(mode, request)


cdef int set_targets(const Layers* plan, Request* request, cnp.ndarray y, weights, Py_ssize_t n_networks,
                     bint one_a_network) except -1:
    """Targets and weights, and the divisor of a mean over samples, and over outputs where l is a mean over them."""
    cdef cnp.ndarray weight
    cdef Py_ssize_t n_samples = request.n_samples
    cdef int dtype = dtype_of(plan), axis = cnp.PyArray_NDIM(y) - 2
    cdef const char* letters
    if weights is not None:
        weight, request.weight_scale, request.divisor, request.n_kept = weights
        expect(plan, weight, cnp.NPY_FLOAT64, b"s" if cnp.PyArray_NDIM(weight) == 1 else b"so", n_samples, 1,
               "sample_weight")
        set_weight(request, weight)
    if are_labels(plan, y):
        dtype, letters, axis = cnp.NPY_INTP, b"ks" if one_a_network else b"s", cnp.PyArray_NDIM(y) - 1
    elif cnp.PyArray_NDIM(y) == 1 and plan.sizes[plan.n_layers] == 1:
        letters, axis = b"s", 0
    else:
        letters = b"kso" if one_a_network else b"so"
    expect_data(plan, y, dtype, letters, n_samples, n_networks, "y")
    set_y(plan, request, y)
    set_source(&request.y_source, y, dtype, axis)
    return 0


cdef inline void set_weight(Request* request, cnp.ndarray weight) noexcept:
    request.weight = <const double*>cnp.PyArray_DATA(weight)
    request.weight_kind = WEIGHT_PER_SAMPLE if cnp.PyArray_NDIM(weight) == 1 else WEIGHT_PER_ENTRY


cdef inline void set_sums_of_weights(Request* request, const WeightSums* sums) noexcept nogil:
    """What the weights add up to, of weights that are not refused."""
    request.weight_scale = sums.scale
    request.divisor = sums.total
    request.n_kept = sums.n_kept


cdef inline void set_operand(Request* request, Call call, cnp.ndarray operand) noexcept:
    """What the call takes beside samples and targets."""
    if call.mode == VJP:
        request.cotangent = cnp.PyArray_BYTES(operand)
    elif call.mode == SOBOLEV:
        request.target_grad_x = cnp.PyArray_BYTES(operand)
    else:
        request.v = cnp.PyArray_BYTES(operand)


cdef void set_call(const Layers* plan, Request* request, Call call, cnp.ndarray sums, cnp.ndarray rows) noexcept:
    """What is asked for, and where it goes; targets and weights come before."""
    cdef uint64_t mode
    request.mode = call.mode
    request.with_second = call.needs_second
    request.is_by_sample = call.sums == NULL
    request.kind = call.kind
    if call.share != OF_MEAN:
        request.divisor = 1
    if call.share == OF_SAMPLE:
        mode = enter_default_mode()
        request.weight_scale = 1 if plan.loss == CROSS_ENTROPY else 1.0 / plan.sizes[plan.n_layers]
        leave_default_mode(mode, request)
    if sums is not None:
        if call.kind >= OF_HESSIAN:
            request.n_sums = cnp.PyArray_SIZE(sums)
        request.grad = cnp.PyArray_BYTES(sums)
    if rows is not None:
        request.rows = cnp.PyArray_BYTES(rows)


# Running it -----------------------------------------------------------------------------------------------------------

cdef enum:
    SHORT_FLOPS = 1000           # half a microsecond: to release the GIL and take it again costs a tenth of that


cdef inline bint is_short(const Layers* plan, const Request* request) noexcept:
    """Whether the call is not worth releasing the GIL for. Functions of a user's own may take long, or the GIL."""
    return (request.kind == OF_GRADIENT and not plan.has_own
            and <double>request.n_samples * (6.0 * plan.n_params + FLOPS_A_UNIT * plan.n_units) < SHORT_FLOPS)


cdef inline bint may_take_long(const Layers* plan, const Request* request, Py_ssize_t n_networks) noexcept nogil:
    """Whether to look for signals: whether there is more than a piece of work, were all of it as dear as can be."""
    cdef double flops = <double>MEMORY_FLOPS * (plan.n_params + request.n_sums)
    flops += cost_of(plan, request.mode) * request.n_samples * (<double>MEMORY_FLOPS * plan.n_params +
                                                                2.0 * ENTRY_FLOPS * plan.n_units)
    return plan.has_own or n_networks * flops > piece_flops


cdef inline double run_call(const Layers* plan, const Request* request, int n_threads) except? -1:
    """The call on up to n_threads threads; the loss, where there is one."""
    cdef Clock clock
    cdef double loss = 0
    cdef int status
    cdef bint keeps_gil = is_short(plan, request)
    reset_clock(&clock, keeps_gil, not keeps_gil and may_take_long(plan, request, 1))
    if keeps_gil:
        status = run(plan, request, 1, &clock, &loss)
    else:
        with nogil:
            status = run(plan, request, n_threads, &clock, &loss)
    if status != DONE:
        raise_for(status)
    return loss


cdef inline double run_keeping(const Layers* plan, Request* request, int n_threads,
                               Linearization linearization) except? -1:
    """The same; a linearization, where there is one, keeps what does not depend on v."""
    if linearization is None:
        return run_call(plan, request, n_threads)
    linearization.take(plan, request)
    try:
        return run_call(plan, request, n_threads)
    finally:
        if request.kept != NULL:
            linearization.give_back()
