# `Plan`: what the Python layer holds and calls. The GIL is released here, and exceptions raised.

cdef class Plan:
    """What depends on a network's shape alone, worked out once: layers, offsets, kernels, size of the tile.

    Its methods take arrays that _validate.py has accepted: C-contiguous, aligned, of the network's dtype; but x and y
    of any real dtype and layout. They may be called by many threads at once: each call takes its buffers from the free
    lists.
    """

    cdef Shape shape
    cdef FreeLists free_lists
    cdef list functions          # of activations of the user's own, which layers point to
    cdef bint has_second         # whether all of these have a g''

    def __cinit__(self, sizes, activations, loss, Py_ssize_t itemsize):
        """Sizes n_0..n_L, (code, parameter) for layers 1..L, (code, parameter, acts_on_a, code of the link).

        An activation of the user's own adds a tuple of its three functions, and whether they are addresses in C.
        """
        cdef Shape* shape = &self.shape
        shape.free_lists = &self.free_lists
        shape.kernels = kernel_table(itemsize)
        shape.itemsize = itemsize
        shape.n_layers = len(sizes) - 1
        shape.layers = <Layer*>calloc(shape.n_layers + 1, sizeof(Layer))
        shape.sizes = <Py_ssize_t*>calloc(shape.n_layers + 1, sizeof(Py_ssize_t))
        if shape.layers == NULL or shape.sizes == NULL:
            raise MemoryError("the shape of the layers does not fit into memory")
        for i, n in enumerate(sizes):
            shape.sizes[i] = n
        self.functions = []
        self.has_second = True
        for i, (code, parameter, *own) in enumerate(activations, start=1):
            shape.layers[i].activation = code
            shape.layers[i].parameter = parameter
            if own:
                functions, is_c = own
                self.functions.append(functions)
                self.has_second = self.has_second and functions[2] is not None
                shape.layers[i].functions = <void*>functions
                shape.has_own = True
                shape.is_serial = shape.is_serial or not is_c
                if is_c:
                    for k in range(3):
                        shape.layers[i].c_functions[k] = <void*><size_t>(functions[k] or 0)
        shape.loss, shape.loss_parameter, shape.loss_acts_on_a, shape.link = loss
        lay_out_layers(shape)

    def __dealloc__(self):
        free_lists_of(&self.free_lists)
        free(self.shape.layers)
        free(self.shape.sizes)

    def run(self, Call call, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, cnp.ndarray out, weights, int n_threads,
            cnp.ndarray operand=None, double max_norm=0, cnp.ndarray grad_weight=None, cnp.ndarray rows=None,
            Linearization linearization=None):
        """A call of the table in calls/table.pxi into out; returns the loss, where there is one.

        weights is None, or (array, scale, sum, n_kept) as `inspect_weights` makes it; from a call by sample rows of
        weight 0 must have been left out. rows is for results by sample beside sums, operand is v, cotangent or grad_x.
        Each is None where the call has no such thing.
        linearization is hvp's, and keeps what does not depend on v.
        """
        cdef Request request
        cdef const Shape* shape = &self.shape
        cdef Py_ssize_t n_samples
        if cnp.PyArray_NDIM(x) == 2 and cnp.PyArray_DIM(x, 0) == 0:
            # No rows, and sums of nothing; means of it have been refused.
            memset(cnp.PyArray_DATA(out), 0, cnp.PyArray_NBYTES(out))
            return 0.0
        start_request(shape, &request, params, x)
        n_samples = request.n_samples
        if y is not None:
            set_targets(shape, &request, y, weights, 1, False)
        if operand is not None:
            expect(shape, operand, dtype_of(shape), axes_of_operand(&call.mode), n_samples, 1, "an operand")
            set_operand(&request, &call.mode, operand)
        if grad_weight is not None:
            expect(shape, grad_weight, cnp.NPY_FLOAT64, b"oi", n_samples, 1, "weight")
            request.grad_weight = <const double*>cnp.PyArray_DATA(grad_weight)
        request.max_norm = max_norm
        if call.mode.sums == NULL:
            rows, out = out, None
        if out is not None:
            expect(shape, out, dtype_of(shape), call.mode.sums, n_samples, 1, "out")
        if rows is not None:
            expect(shape, rows, dtype_of(shape), call.mode.rows, n_samples, 1, "out")
        set_call(&request, call, out, rows)
        return run_keeping(&request, n_threads, linearization)

    def quick_value_and_grad(self, Parameters own, params, x, y, weight, out, n_threads, get_num_threads):
        """`quick` for value_and_grad: of the smallest calls, each argument less saves a hundredth."""
        return quick_call(self, call_of_value_and_grad, own, params, x, y, weight, out, n_threads, get_num_threads,
                          None, None)

    def quick(self, Call call not None, Parameters own, params, x, y, weight, out, n_threads, get_num_threads, operand,
              further):
        """What the call returns, for arguments that need neither conversion nor an error message; else None.

        own are the network's parameters, which out must not overlap either. The others are as the user gave them;
        operand is v, cotangent or grad_x, and further is max_norm, the weight of grad_x, or a linearization of hvp.
        None comes back where anything is out of the ordinary, and then nothing was written.
        """
        return quick_call(self, call, own, params, x, y, weight, out, n_threads, get_num_threads, operand, further)

    # Parameters: what is handed out of them, views made anew at each access ------------------------------------------

    @property
    def n_params(self):
        """The length of the flat vector."""
        return self.shape.n_params

    def vector(self, Parameters params not None):
        """The flat vector of one network, (n_params,)."""
        cdef cnp.npy_intp n = self.shape.n_params
        expect_parameters(&self.shape, params, 1)
        return view_of(&self.shape, params, 0, 1, &n)

    def vectors(self, Parameters params not None):
        """Those of several networks, (k, n_params)."""
        cdef cnp.npy_intp[2] axes = [networks_in(&self.shape, params), self.shape.n_params]
        return view_of(&self.shape, params, 0, 2, axes)

    def weights(self, Parameters params not None):
        """W_1, ..., W_L."""
        cdef cnp.npy_intp[2] axes
        cdef Py_ssize_t i
        cdef list views = [None] * self.shape.n_layers
        expect_parameters(&self.shape, params, 1)
        for i in range(1, self.shape.n_layers + 1):
            axes[0], axes[1] = self.shape.layers[i].n_out, self.shape.layers[i].n_in
            views[i - 1] = view_of(&self.shape, params, self.shape.layers[i].W, 2, axes)
        return tuple(views)

    def biases(self, Parameters params not None):
        """b_1, ..., b_L."""
        cdef cnp.npy_intp n
        cdef Py_ssize_t i
        cdef list views = [None] * self.shape.n_layers
        expect_parameters(&self.shape, params, 1)
        for i in range(1, self.shape.n_layers + 1):
            n = self.shape.layers[i].n_out
            views[i - 1] = view_of(&self.shape, params, self.shape.layers[i].b, 1, &n)
        return tuple(views)

    def result_shape(self, Call call, Py_ssize_t n_samples):
        """The shape of a call's result: of the sums where it has rows too."""
        cdef cnp.npy_intp[3] axes = [0, 0, 0]
        cdef int n = shape_of(&self.shape, call.mode.rows if call.mode.sums == NULL else call.mode.sums, n_samples, 1, axes)
        # No list comprehension: in Cython 3.3.1 one whose append runs out of memory releases its last item twice.
        return (axes[0], axes[1], axes[2])[:n]

    def layer_gradients(self, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, cnp.ndarray y_hat, cnp.ndarray out,
                        weights, int n_threads, a, h, grad_a, grad_h):
        """The loss, and every quantity of the recursion, into lists of arrays or None by layer."""
        cdef Request forward, backward
        cdef Pointers kept_a = Pointers(a), kept_h = Pointers(h)
        cdef Pointers kept_grad_a = Pointers(grad_a), kept_grad_h = Pointers(grad_h)
        start_request(&self.shape, &forward, params, x)
        start_request(&self.shape, &backward, params, x)
        set_call(&forward, <Call>CALLS["forward"], None, y_hat)
        forward.keep_a = kept_a.pointers
        forward.keep_h = kept_h.pointers
        run_call(&forward, n_threads)
        set_targets(&self.shape, &backward, y, weights, 1, False)
        set_call(&backward, <Call>CALLS["value_and_grad"], out, None)
        backward.keep_grad_a = kept_grad_a.pointers
        backward.keep_grad_h = kept_grad_h.pointers
        return run_call(&backward, 1)  # chunks on threads have no place for them

    def ensemble_value_and_grad(self, Parameters params not None, cnp.ndarray x, cnp.ndarray y, cnp.ndarray losses,
                                cnp.ndarray out, weights, int n_threads):
        """Losses (k,) and gradients (k, n_params) of k networks of this shape.

        x and y have one dimension more where each network has its own; weights is None or a list of one for each.
        """
        cdef const Shape* shape = &self.shape
        cdef Py_ssize_t n_networks = networks_in(shape, params), m, n_samples
        cdef Py_ssize_t x_step = 0, y_step = 0
        cdef bint own_x = cnp.PyArray_NDIM(x) == 3
        cdef bint own_y = cnp.PyArray_NDIM(y) == (2 if are_labels(shape, y) else 3)
        cdef Request* requests = NULL
        cdef double* loss
        cdef Interrupt interrupt
        cdef int status
        n_samples = cnp.PyArray_DIM(x, 1 if own_x else 0)
        expect_data(shape, x, dtype_of(shape), b"ksi" if own_x else b"si", n_samples, n_networks, "x")
        expect(shape, losses, cnp.NPY_FLOAT64, b"k", n_samples, n_networks, "losses")
        expect(shape, out, dtype_of(shape), b"kp", n_samples, n_networks, "out")
        loss = <double*>cnp.PyArray_DATA(losses)
        if own_x:
            x_step = cnp.PyArray_STRIDE(x, 0)
        if own_y:
            y_step = cnp.PyArray_STRIDE(y, 0)
        requests = <Request*>calloc(n_networks, sizeof(Request))
        if requests == NULL:
            raise MemoryError("the requests of the networks do not fit into memory")
        try:
            for m in range(n_networks):
                start_request_at(shape, &requests[m], params.address + m * shape.n_params * shape.itemsize,
                                 cnp.PyArray_BYTES(x) + m * x_step, n_samples)
                set_source(&requests[m].x_source, x, dtype_of(shape), cnp.PyArray_NDIM(x) - 2)
                set_targets(shape, &requests[m], y, None if weights is None else weights[m], n_networks, own_y)
                if requests[m].y != NULL:
                    requests[m].y += m * y_step
                if requests[m].labels != NULL:
                    requests[m].labels = <const Py_ssize_t*>(<const char*>requests[m].labels + m * y_step)
                requests[m].grad = cnp.PyArray_BYTES(out) + m * shape.n_params * shape.itemsize
            with nogil:
                reset_interrupt(&interrupt, False, may_take_long(requests, n_networks))
                interrupt.callers_mode = enter_default_mode()
                status = run_ensemble(shape, requests, n_networks, loss, n_threads, &interrupt)
                leave_default_mode(interrupt.callers_mode, loss)
            if status != DONE:
                raise_for(status)
        finally:
            free(requests)

    def quick_ensemble_value_and_grad(self, Parameters params not None, x, y, out, n_threads, get_num_threads):
        """(losses, gradients) without weights for arguments that need neither conversion nor an error, else None."""
        cdef const Shape* shape = &self.shape
        cdef Py_ssize_t n_networks = networks_in(shape, params), n_samples
        cdef cnp.npy_intp n_losses = n_networks
        cdef bint own_x = is_plain(x, dtype_of(shape), 3), own_y
        cdef int threads = 1
        cdef Request request
        cdef Interrupt interrupt
        if not (own_x or is_plain(x, dtype_of(shape), 2)) or not is_count(n_threads):
            return None
        n_samples = cnp.PyArray_DIM(<cnp.ndarray>x, 1 if own_x else 0)
        if n_samples == 0 or not fits(shape, x, dtype_of(shape), b"ksi" if own_x else b"si", n_samples, n_networks):
            return None
        start_request_at(shape, &request, params.address, cnp.PyArray_BYTES(<cnp.ndarray>x), n_samples)
        own_y = type(y) is cnp.ndarray and cnp.PyArray_NDIM(<cnp.ndarray>y) == (2 if shape.loss == CROSS_ENTROPY else 3)
        if own_y and shape.loss == CROSS_ENTROPY and n_networks == n_samples == shape.sizes[shape.n_layers]:
            return None  # labels of each network, or one-hot rows for all
        start_inspection(shape, &interrupt, n_samples * n_networks)
        if not are_targets(&request, y, n_networks, own_y, &interrupt):
            raise_for_signal(&interrupt)
            return None
        out = take_result(shape, b"kp", n_samples, n_networks, out, params, None, x, y, None, None)
        if out is None:
            return None
        losses = cnp.PyArray_EMPTY(1, &n_losses, cnp.NPY_FLOAT64, 0)
        if useful_threads(shape, n_samples * n_networks, 2) > 1:
            threads = get_num_threads() if n_threads is None else n_threads
        self.ensemble_value_and_grad(params, <cnp.ndarray>x, <cnp.ndarray>y, losses, out, None, threads)
        return losses, out


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
