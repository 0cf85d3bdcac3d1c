# `Plan`: what the Python layer holds and calls. Memory is taken here, with the GIL, before the loops start.

cdef class Plan:
    """What depends on a network's shape alone, worked out once: layers, offsets, kernels, size of the tile.

    Its methods take arrays that _validate.py has accepted: C-contiguous, aligned, of the network's dtype. They may be
    called by many threads at once: each call takes its buffers from the free lists, which the GIL guards.
    """

    cdef Layers layers
    cdef Workspace* free_workspaces
    cdef Totals* free_totals
    cdef list functions          # of activations of the user's own, which layers point to

    def __cinit__(self, sizes, activations, loss, Py_ssize_t itemsize):
        """Sizes n_0..n_L, (code, parameter) for layers 1..L, (code, parameter, acts_on_a, code of the link).

        An activation of the user's own adds a tuple of its three functions, and whether they are addresses in C.
        """
        cdef Layers* plan = &self.layers
        plan.kernels = kernel_table(itemsize)
        plan.itemsize = itemsize
        plan.n_layers = len(sizes) - 1
        plan.layers = <Layer*>calloc(plan.n_layers + 1, sizeof(Layer))
        plan.sizes = <Py_ssize_t*>calloc(plan.n_layers + 1, sizeof(Py_ssize_t))
        if plan.layers == NULL or plan.sizes == NULL:
            raise MemoryError("the plan of the layers does not fit into memory")
        for i, n in enumerate(sizes):
            plan.sizes[i] = n
        self.functions = []
        for i, (code, parameter, *own) in enumerate(activations, start=1):
            plan.layers[i].activation = code
            plan.layers[i].parameter = parameter
            if own:
                functions, is_c = own
                self.functions.append(functions)
                plan.layers[i].functions = <void*>functions
                plan.is_serial = plan.is_serial or not is_c
                if is_c:
                    for k in range(3):
                        plan.layers[i].c_functions[k] = <void*><size_t>(functions[k] or 0)
        plan.loss, plan.loss_parameter, plan.loss_acts_on_a, plan.link = loss
        plan_layers(plan)

    def __dealloc__(self):
        cdef Workspace* work
        cdef Totals* totals
        while self.free_workspaces != NULL:
            work = self.free_workspaces
            self.free_workspaces = work.next
            free_workspace(work)
        while self.free_totals != NULL:
            totals = self.free_totals
            self.free_totals = totals.next
            free_totals(totals)
        free(self.layers.layers)
        free(self.layers.sizes)

    def value_and_grad(self, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, cnp.ndarray out, weights,
                       int n_threads, keep_grad_a=None, keep_grad_h=None):
        """The loss; the gradient goes into out unless it is None.

        weights is None, or (array, scale, sum, n_kept) as `inspect_weights` makes it. keep_grad_a and keep_grad_h
        are lists of arrays or None by layer; then the call is serial.
        """
        cdef Request request = make_request(&self.layers, params, x)
        cdef Pointers kept_grad_a = Pointers(keep_grad_a), kept_grad_h = Pointers(keep_grad_h)
        set_targets(&self.layers, &request, y, weights)
        if out is not None:
            request.grad = cnp.PyArray_BYTES(out)
        request.keep_grad_a = kept_grad_a.pointers
        request.keep_grad_h = kept_grad_h.pointers
        if request.keep_grad_a != NULL or request.keep_grad_h != NULL:
            n_threads = 1
        return run_value_and_grad(self, &request, n_threads)

    def sums(self, str mode, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, cnp.ndarray out, weights,
             int n_threads, cnp.ndarray v=None, cnp.ndarray cotangent=None, double max_norm=0,
             cnp.ndarray target_grad_x=None, cnp.ndarray grad_weight=None, cnp.ndarray rows=None):
        """Sums over samples of a call beside value_and_grad, into out; returns the loss, where there is one.

        y is None where the call needs no targets; the others are None where the mode does not use them.
        """
        cdef Request request = make_request(&self.layers, params, x)
        cdef double cost = 3
        cdef int kind = OF_DERIVATIVES
        request.n_sums = cnp.PyArray_SIZE(out)
        request.grad = cnp.PyArray_BYTES(out)
        request.v = data_of(v)
        request.cotangent = data_of(cotangent)
        request.rows = <char*>data_of(rows)
        request.target_grad_x = data_of(target_grad_x)
        request.grad_weight = <const double*>data_of(grad_weight)
        request.max_norm = max_norm
        if y is not None:
            set_targets(&self.layers, &request, y, weights)
        if mode == "vjp":
            request.mode = VJP
            request.divisor = 1
            cost = 1
        elif mode == "clipped_gradient":
            request.mode = CLIPPED_GRADIENT
            per_sample(&self.layers, &request)
            cost = 1
        elif mode == "hvp":
            request.mode = HVP
            request.with_second = True
        elif mode == "gauss_newton_vp":
            request.mode = GAUSS_NEWTON_VP
        elif mode == "hessian":
            request.mode = HESSIAN
            request.with_second = True
            cost = 2 * self.layers.n_units + self.layers.n_params / 6.0
            kind = OF_NORMAL_EQUATIONS
        elif mode == "normal_equations":
            request.mode = NORMAL_EQUATIONS
            request.divisor = 1
            cost = 1 + self.layers.sizes[self.layers.n_layers] * self.layers.n_params // 3
            kind = OF_NORMAL_EQUATIONS
        elif mode == "sobolev":
            request.mode = SOBOLEV
            request.with_second = True
            cost = 1 + 4 * self.layers.sizes[self.layers.n_layers]
        else:
            raise ValueError(f"mode: expected a call that sums over samples, got {mode!r}")
        return run_sums(self, &request, useful_threads(&self.layers, <Py_ssize_t>(request.n_kept * cost), n_threads),
                        kind)

    def rows(self, str mode, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, cnp.ndarray out, weights,
             int n_threads, cnp.ndarray v=None):
        """What each sample has of its own, into out; rows of weight 0 must have been left out."""
        cdef Request request = make_request(&self.layers, params, x)
        cdef double cost = 1
        request.rows = cnp.PyArray_BYTES(out)
        request.v = data_of(v)
        if y is not None:
            set_targets(&self.layers, &request, y, weights)
            per_sample(&self.layers, &request)
        if mode == "jvp":
            request.mode = JVP
        elif mode == "input_gradient":
            request.mode = INPUT_GRADIENT
        elif mode == "input_jacobian":
            request.mode = INPUT_JACOBIAN
            cost = self.layers.sizes[self.layers.n_layers]
        elif mode == "jacobian":
            request.mode = JACOBIAN
            cost = self.layers.sizes[self.layers.n_layers]
        elif mode == "per_sample_gradients":
            request.mode = PER_SAMPLE_GRADIENTS
        elif mode == "per_sample_gradient_norms":
            request.mode = PER_SAMPLE_GRADIENT_NORMS
        else:
            raise ValueError(f"mode: expected a call by sample, got {mode!r}")
        run_rows(self, &request, n_threads, cost, OF_DERIVATIVES)

    def forward(self, cnp.ndarray params, cnp.ndarray x, cnp.ndarray out, int n_threads, keep_a=None, keep_h=None):
        """y_hat into out; keep_a and keep_h are lists of arrays or None by layer."""
        cdef Request request = make_request(&self.layers, params, x)
        cdef Pointers kept_a = Pointers(keep_a), kept_h = Pointers(keep_h)
        request.mode = FORWARD
        request.rows = cnp.PyArray_BYTES(out)
        request.keep_a = kept_a.pointers
        request.keep_h = kept_h.pointers
        run_rows(self, &request, n_threads, 1.0 / 3, OF_GRADIENT)

    def ensemble_value_and_grad(self, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, cnp.ndarray losses,
                                cnp.ndarray out, weights, int n_threads):
        """Losses (k,) and gradients (k, n_params) of k networks of this shape.

        x and y have one dimension more where each network has its own; weights is None or a list of one for each.
        """
        cdef const Layers* plan = &self.layers
        cdef Py_ssize_t n_networks = cnp.PyArray_DIM(params, 0), m, n_samples
        cdef Py_ssize_t x_step = 0, y_step = 0
        cdef Request* requests = <Request*>calloc(n_networks, sizeof(Request))
        if requests == NULL:
            raise MemoryError("the requests of the networks do not fit into memory")
        n_samples = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 2)
        if cnp.PyArray_NDIM(x) == 3:
            x_step = n_samples * plan.sizes[0] * plan.itemsize
        if cnp.PyArray_NDIM(y) == (2 if cnp.PyArray_TYPE(y) == cnp.NPY_INTP else 3):
            y_step = cnp.PyArray_NBYTES(y) // n_networks
        try:
            for m in range(n_networks):
                requests[m] = make_request(plan, params, x)
                requests[m].n_samples = n_samples
                requests[m].n_kept = n_samples
                requests[m].divisor = n_samples
                set_targets(plan, &requests[m], y, None if weights is None else weights[m])
                requests[m].params += m * plan.n_params * plan.itemsize
                requests[m].x += m * x_step
                if requests[m].y != NULL:
                    requests[m].y += m * y_step
                if requests[m].labels != NULL:
                    requests[m].labels = <const Py_ssize_t*>(<const char*>requests[m].labels + m * y_step)
                requests[m].grad = cnp.PyArray_BYTES(out) + m * plan.n_params * plan.itemsize
            run_ensemble(self, requests, n_networks, <double*>cnp.PyArray_DATA(losses), n_threads)
        finally:
            free(requests)

    def quick_value_and_grad(self, params, x, y, out, n_threads, get_num_threads):
        """`value_and_grad` for arguments that need neither conversion nor an error message, else None.

        (loss, gradient) where x, y, params and out are arrays as the kernels take them, y lies in its domain and
        n_threads is None or an int >= 1; None where anything is out of the ordinary, and then nothing was written.
        """
        cdef const Layers* plan = &self.layers
        cdef Py_ssize_t n_samples, n_out = plan.sizes[plan.n_layers]
        cdef int kind = cnp.NPY_FLOAT32 if plan.itemsize == 4 else cnp.NPY_FLOAT64
        cdef int threads = 1
        cdef Request request
        cdef cnp.npy_intp n_params = plan.n_params
        if not is_plain(x, kind, 2) or not is_plain(params, kind, 1):
            return None
        if n_threads is not None and (type(n_threads) is not int or not 1 <= n_threads <= MOST_THREADS):
            return None
        n_samples = cnp.PyArray_DIM(<cnp.ndarray>x, 0)
        if (n_samples == 0 or cnp.PyArray_DIM(<cnp.ndarray>x, 1) != plan.sizes[0]
                or cnp.PyArray_DIM(<cnp.ndarray>params, 0) != n_params):
            return None
        request = make_request(plan, <cnp.ndarray>params, <cnp.ndarray>x)
        if plan.loss == CROSS_ENTROPY:
            if not is_plain(y, cnp.NPY_INTP, 1) or cnp.PyArray_DIM(<cnp.ndarray>y, 0) != n_samples:
                return None
            request.labels = <const Py_ssize_t*>cnp.PyArray_DATA(<cnp.ndarray>y)
            if bad_label(request.labels, n_samples, n_out, NULL) >= 0:
                return None
        else:
            if (not is_plain(y, kind, 2) or cnp.PyArray_DIM(<cnp.ndarray>y, 0) != n_samples
                    or cnp.PyArray_DIM(<cnp.ndarray>y, 1) != n_out):
                return None
            request.y = cnp.PyArray_BYTES(<cnp.ndarray>y)
            if plan.itemsize == 4 and bad_target(plan.loss, <const float*>request.y, n_samples, n_out, NULL, 0) >= 0:
                return None
            if plan.itemsize == 8 and bad_target(plan.loss, <const double*>request.y, n_samples, n_out, NULL, 0) >= 0:
                return None
            request.divisor *= n_out
        if out is None:
            out = cnp.PyArray_EMPTY(1, &n_params, kind, 0)
        elif (not is_plain(out, kind, 1) or cnp.PyArray_DIM(<cnp.ndarray>out, 0) != n_params
              or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out) or overlap(<cnp.ndarray>out, <cnp.ndarray>x)
              or overlap(<cnp.ndarray>out, <cnp.ndarray>y) or overlap(<cnp.ndarray>out, <cnp.ndarray>params)):
            return None
        request.grad = cnp.PyArray_BYTES(<cnp.ndarray>out)
        if useful_threads(plan, n_samples, 2) > 1:
            threads = get_num_threads() if n_threads is None else n_threads  # looked up only where it matters
        return run_value_and_grad(self, &request, threads), out


cdef inline bint is_plain(array, int kind, int n_dimensions) noexcept:
    """Whether it is an array that the kernels take as it is."""
    return (type(array) is cnp.ndarray and cnp.PyArray_TYPE(<cnp.ndarray>array) == kind
            and cnp.PyArray_NDIM(<cnp.ndarray>array) == n_dimensions
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>array))


cdef inline bint overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether two contiguous arrays share memory."""
    return (cnp.PyArray_BYTES(a) < cnp.PyArray_BYTES(b) + cnp.PyArray_NBYTES(b)
            and cnp.PyArray_BYTES(b) < cnp.PyArray_BYTES(a) + cnp.PyArray_NBYTES(a))


cdef void set_targets(const Layers* plan, Request* request, cnp.ndarray y, weights) except *:
    """Targets and weights, and the divisor of a mean over samples, and over outputs where l is a mean over them."""
    cdef cnp.ndarray weight
    if cnp.PyArray_TYPE(y) == cnp.NPY_INTP:
        request.labels = <const Py_ssize_t*>cnp.PyArray_DATA(y)
    else:
        request.y = cnp.PyArray_BYTES(y)
    if weights is not None:
        weight, request.weight_scale, request.divisor, request.n_kept = weights
        request.weight = <const double*>cnp.PyArray_DATA(weight)
        request.weight_kind = WEIGHT_PER_SAMPLE if cnp.PyArray_NDIM(weight) == 1 else WEIGHT_PER_ENTRY
    if plan.loss != CROSS_ENTROPY and request.weight_kind != WEIGHT_PER_ENTRY:
        request.divisor *= plan.sizes[plan.n_layers]


cdef void per_sample(const Layers* plan, Request* request) noexcept:
    """Samples' own losses, w_s l_s or sum_j w_sj l_sj / n_L: not divided by n_samples or the sum of the weights."""
    request.divisor = 1
    request.weight_scale = 1 if plan.loss == CROSS_ENTROPY else 1.0 / plan.sizes[plan.n_layers]


cdef inline const char* data_of(cnp.ndarray array) noexcept:
    """Where an array's numbers start; NULL for None."""
    return NULL if array is None else cnp.PyArray_BYTES(array)


cdef Request make_request(const Layers* plan, cnp.ndarray params, cnp.ndarray x) noexcept:
    """A request with parameters and samples, all else absent."""
    cdef Request request
    memset(&request, 0, sizeof(Request))
    request.params = cnp.PyArray_BYTES(params)
    request.n_sums = plan.n_params
    request.n_samples = cnp.PyArray_DIM(x, 0)
    request.n_kept = request.n_samples
    request.x = cnp.PyArray_BYTES(x)
    request.weight_kind = NO_WEIGHT
    request.weight_scale = 1
    request.divisor = request.n_samples
    return request


cdef class Pointers:
    """The data pointers of a list of arrays, NULL for None; pointers is NULL where the list is None."""

    cdef void** pointers

    def __cinit__(self, arrays):
        if arrays is None:
            return
        self.pointers = <void**>calloc(len(arrays), sizeof(void*))
        if self.pointers == NULL:
            raise MemoryError("the list of layers does not fit into memory")
        for i, array in enumerate(arrays):
            if array is not None:
                self.pointers[i] = cnp.PyArray_DATA(<cnp.ndarray?>array)

    def __dealloc__(self):
        free(self.pointers)
