# Requests from arrays: the shapes that a call expects, and pointers to what has been accepted.
# Needs: recursion/request, derivatives/table. Gives: shape_of, expect, start_request, set_targets, set_operand, set_call.

cdef int shape_of(const Shape* shape, const char* letters, Py_ssize_t n_samples, Py_ssize_t n_networks,
                  cnp.npy_intp* axes) noexcept:
    """The axes that the letters name, into shape; returns how many they are."""
    cdef int d = 0
    while letters[d] != 0:
        if letters[d] == c"s":
            axes[d] = n_samples
        elif letters[d] == c"i":
            axes[d] = shape.sizes[0]
        elif letters[d] == c"o":
            axes[d] = shape.sizes[shape.n_layers]
        elif letters[d] == c"p":
            axes[d] = shape.n_params
        elif letters[d] == c"q":
            axes[d] = shape.n_params + 1
        else:  # k, of an ensemble
            axes[d] = n_networks
        d += 1
    return d


cdef inline int dtype_of(const Shape* shape) noexcept:
    """NumPy's number of the network's dtype."""
    return cnp.NPY_FLOAT32 if shape.itemsize == 4 else cnp.NPY_FLOAT64


cdef inline void start_request_at(const Shape* shape, Request* request, const char* params, const char* x,
                                  Py_ssize_t n_samples) noexcept nogil:
    """A request for the loss and its gradient: made in place, since a copy of it takes 20 ns."""
    memset(request, 0, sizeof(Request))
    request.shape = shape
    request.mode = mode_of_value_and_grad
    request.params = params
    request.n_sums = shape.n_params
    request.n_samples = n_samples
    request.n_kept = n_samples
    request.x = x
    request.weight_kind = NO_WEIGHT
    request.weight_scale = 1
    request.divisor = n_samples


cdef inline bint has_shape(const Shape* shape, cnp.ndarray array, const char* letters, Py_ssize_t n_samples,
                           Py_ssize_t n_networks) noexcept:
    """Whether an array has the shape that the letters say, as `shape_of` reads them."""
    cdef cnp.npy_intp[3] axes
    cdef int d, n = shape_of(shape, letters, n_samples, n_networks, axes)
    if cnp.PyArray_NDIM(array) != n:
        return False
    for d in range(n):
        if cnp.PyArray_DIM(array, d) != axes[d]:
            return False
    return True


cdef bint is_as_taken(cnp.ndarray array, int dtype) noexcept:
    """Whether the kernels take an array as it is."""
    return cnp.PyArray_ISCARRAY_RO(array) and cnp.PyArray_EquivTypenums(cnp.PyArray_TYPE(array), dtype)


cdef int expect(const Shape* shape, cnp.ndarray array, int dtype, const char* letters, Py_ssize_t n_samples,
                Py_ssize_t n_networks, str name) except -1:
    """Refuse an accepted array that has another form by now, which another thread has given it."""
    if not (is_as_taken(array, dtype) and has_shape(shape, array, letters, n_samples, n_networks)):
        raise ValueError(f"{name}: expected an array that keeps its shape and dtype during the call, got one that " "another thread has given others")
    return 0


cdef int expect_data(const Shape* shape, cnp.ndarray array, int dtype, const char* letters, Py_ssize_t n_samples,
                     Py_ssize_t n_networks, str name) except -1:
    """The same of x or y, which may have to be converted."""
    cdef bint is_real = cnp.PyArray_ISBOOL(array) or cnp.PyArray_ISINTEGER(array) or cnp.PyArray_ISFLOAT(array)
    if is_real and cnp.PyArray_ITEMSIZE(array) <= 8 and has_shape(shape, array, letters, n_samples, n_networks):
        return 0
    return expect(shape, array, dtype, letters, n_samples, n_networks, name)


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


cdef int start_request(const Shape* shape, Request* request, cnp.ndarray params, cnp.ndarray x) except -1:
    """The same of arrays that have been accepted; x may have to be converted."""
    cdef Py_ssize_t n_samples = cnp.PyArray_DIM(x, 0) if cnp.PyArray_NDIM(x) == 2 else 0
    expect(shape, params, dtype_of(shape), b"p", n_samples, 1, "params")
    expect_data(shape, x, dtype_of(shape), b"si", n_samples, 1, "x")
    start_request_at(shape, request, cnp.PyArray_BYTES(params), cnp.PyArray_BYTES(x), n_samples)
    set_source(&request.x_source, x, dtype_of(shape), 0)
    return 0


cdef inline bint are_labels(const Shape* shape, cnp.ndarray y) noexcept:
    """Whether accepted targets are labels: integers where the loss takes them."""
    return shape.loss == CROSS_ENTROPY and cnp.PyArray_ISINTEGER(y)


cdef inline void set_pointers_of_y(const Shape* shape, Request* request, const char* y,
                                   const Py_ssize_t* labels) noexcept nogil:
    """The same, of which one is NULL, and the mean over outputs where l is one."""
    cdef uint64_t mode
    request.y = y
    request.labels = labels
    if shape.loss != CROSS_ENTROPY and request.weight_kind != WEIGHT_PER_ENTRY:
        mode = enter_default_mode()
        request.divisor *= shape.sizes[shape.n_layers]
        leave_default_mode(mode, request)


cdef inline void set_y(const Shape* shape, Request* request, cnp.ndarray y) noexcept:
    """Targets, after the weights."""
    if are_labels(shape, y):
        set_pointers_of_y(shape, request, NULL, <const Py_ssize_t*>cnp.PyArray_DATA(y))
    else:
        set_pointers_of_y(shape, request, cnp.PyArray_BYTES(y), NULL)


cdef inline void set_weight(Request* request, cnp.ndarray weight) noexcept:
    request.weight = <const double*>cnp.PyArray_DATA(weight)
    request.weight_kind = WEIGHT_PER_SAMPLE if cnp.PyArray_NDIM(weight) == 1 else WEIGHT_PER_ENTRY


cdef inline void set_sums_of_weights(Request* request, const WeightSums* sums) noexcept nogil:
    """What the weights add up to, of weights that are not refused."""
    request.weight_scale = sums.scale
    request.divisor = sums.total
    request.n_kept = sums.n_kept


cdef int set_targets(const Shape* shape, Request* request, cnp.ndarray y, weights, Py_ssize_t n_networks,
                     bint one_a_network) except -1:
    """Targets and weights, and the divisor of a mean over samples, and over outputs where l is a mean over them."""
    cdef cnp.ndarray weight
    cdef Py_ssize_t n_samples = request.n_samples
    cdef int dtype = dtype_of(shape), axis = cnp.PyArray_NDIM(y) - 2
    cdef const char* letters
    if weights is not None:
        weight, request.weight_scale, request.divisor, request.n_kept = weights
        expect(shape, weight, cnp.NPY_FLOAT64, b"s" if cnp.PyArray_NDIM(weight) == 1 else b"so", n_samples, 1,
               "sample_weight")
        set_weight(request, weight)
    if are_labels(shape, y):
        dtype, letters, axis = cnp.NPY_INTP, b"ks" if one_a_network else b"s", cnp.PyArray_NDIM(y) - 1
    elif cnp.PyArray_NDIM(y) == 1 and shape.sizes[shape.n_layers] == 1:
        letters, axis = b"s", 0
    else:
        letters = b"kso" if one_a_network else b"so"
    expect_data(shape, y, dtype, letters, n_samples, n_networks, "y")
    set_y(shape, request, y)
    set_source(&request.y_source, y, dtype, axis)
    return 0


cdef inline const char* axes_of_operand(const Mode* mode) noexcept nogil:
    """The axes of the operand, as `shape_of` reads them; NULL if there is none."""
    if mode.operand == DIRECTION:
        return b"p"
    if mode.operand == COTANGENT:
        return b"so"
    if mode.operand == TARGET_GRAD_X:
        return b"soi"
    return NULL


cdef inline void set_operand(Request* request, const Mode* mode, cnp.ndarray operand) noexcept:
    """What the call takes besides samples and targets."""
    if mode.operand == COTANGENT:
        request.cotangent = cnp.PyArray_BYTES(operand)
    elif mode.operand == TARGET_GRAD_X:
        request.target_grad_x = cnp.PyArray_BYTES(operand)
    else:
        request.v = cnp.PyArray_BYTES(operand)


cdef void set_call(Request* request, Call call, cnp.ndarray sums, cnp.ndarray rows) noexcept:
    """What is asked for, and where it goes; targets and weights come before."""
    cdef const Shape* shape = request.shape
    cdef uint64_t float_mode
    request.mode = &call.mode
    request.with_second = call.mode.flags & NEEDS_SECOND != 0
    request.buffers = call.mode.buffers
    if call.mode.normalization != OF_MEAN:
        request.divisor = 1
    if call.mode.normalization == OF_SAMPLE:
        float_mode = enter_default_mode()
        request.weight_scale = 1 if shape.loss == CROSS_ENTROPY else 1.0 / shape.sizes[shape.n_layers]
        leave_default_mode(float_mode, request)
    if sums is not None:
        if call.mode.buffers >= OF_HESSIAN:
            request.n_sums = cnp.PyArray_SIZE(sums)
        request.grad = cnp.PyArray_BYTES(sums)
    if rows is not None:
        request.row_results = cnp.PyArray_BYTES(rows)
