# `Plan`: what the Python layer holds and calls. Memory is taken here, with the GIL, before the loops start.

cdef class Plan:
    """What depends on a network's shape alone, worked out once: layers, offsets, kernels, size of the tile.

    Its methods take arrays that _validate.py has accepted: C-contiguous, aligned, of the network's dtype. They may be
    called by many threads at once: each call takes its buffers from the free lists, which the GIL guards.
    """

    cdef Layers layers
    cdef Workspace* free_workspaces
    cdef Totals* free_totals

    def __cinit__(self, sizes, activations, loss, Py_ssize_t itemsize):
        """Sizes n_0..n_L, (code, parameter) for layers 1..L, (code, parameter, acts_on_a, code of the link)."""
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
        for i, (code, parameter) in enumerate(activations, start=1):
            plan.layers[i].activation = code
            plan.layers[i].parameter = parameter
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
        cdef cnp.ndarray weight
        if cnp.PyArray_TYPE(y) == cnp.NPY_INTP:
            request.labels = <const Py_ssize_t*>cnp.PyArray_DATA(y)
        else:
            request.y = cnp.PyArray_BYTES(y)
        if weights is not None:
            weight, request.weight_scale, request.divisor, request.n_kept = weights
            request.weight = <const double*>cnp.PyArray_DATA(weight)
            request.weight_kind = WEIGHT_PER_SAMPLE if cnp.PyArray_NDIM(weight) == 1 else WEIGHT_PER_ENTRY
        if self.layers.loss != CROSS_ENTROPY and request.weight_kind != WEIGHT_PER_ENTRY:
            request.divisor *= self.layers.sizes[self.layers.n_layers]  # l is a mean over outputs
        if out is not None:
            request.grad = cnp.PyArray_BYTES(out)
        request.keep_grad_a = kept_grad_a.pointers
        request.keep_grad_h = kept_grad_h.pointers
        if request.keep_grad_a != NULL or request.keep_grad_h != NULL:
            n_threads = 1
        return run_value_and_grad(self, &request, n_threads)

    def forward(self, cnp.ndarray params, cnp.ndarray x, cnp.ndarray out, int n_threads, keep_a=None, keep_h=None):
        """y_hat into out; keep_a and keep_h are lists of arrays or None by layer."""
        cdef Request request = make_request(&self.layers, params, x)
        cdef Pointers kept_a = Pointers(keep_a), kept_h = Pointers(keep_h)
        request.y_hat = cnp.PyArray_BYTES(out)
        request.keep_a = kept_a.pointers
        request.keep_h = kept_h.pointers
        run_forward(self, &request, n_threads)

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


cdef Request make_request(const Layers* plan, cnp.ndarray params, cnp.ndarray x) noexcept:
    """A request with parameters and samples, all else absent."""
    cdef Request request
    memset(&request, 0, sizeof(Request))
    request.params = cnp.PyArray_BYTES(params)
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


# Buffers from the free lists ------------------------------------------------------------------------------------------

cdef Workspace* take_workspace(Plan plan, Py_ssize_t rows, int n_scratch) except NULL:
    """A free workspace that is large enough, else a new one in the place of one that is too small."""
    cdef Workspace** link = &plan.free_workspaces
    cdef Workspace* work
    while link[0] != NULL:
        work = link[0]
        if work.capacity >= rows and work.n_scratch >= n_scratch:
            link[0] = work.next
            work.tile_rows = rows
            work.is_packed = False
            return work
        link = &work.next
    if plan.free_workspaces != NULL:
        work = plan.free_workspaces
        plan.free_workspaces = work.next
        free_workspace(work)
    work = new_workspace(&plan.layers, rows, n_scratch)
    if work == NULL:
        raise MemoryError(f"the workspace of a call with tiles of {rows} samples does not fit into memory")
    work.tile_rows = rows
    return work


cdef void give_workspace(Plan plan, Workspace* work) noexcept:
    work.next = plan.free_workspaces
    plan.free_workspaces = work


cdef Totals* take_totals(Plan plan, bint with_wide, Py_ssize_t n_slots) except NULL:
    """Free sums over chunks that have what is needed, else new ones in the place of others; set to zero."""
    cdef Totals** link = &plan.free_totals
    cdef Totals* totals
    cdef Py_ssize_t slot
    while link[0] != NULL:
        totals = link[0]
        if (totals.wide != NULL) == with_wide and totals.n_slots >= n_slots:
            link[0] = totals.next
            totals.loss = 0
            totals.loss_error = 0
            for slot in range(totals.n_slots):
                totals.slot_is_ready[slot] = 0
            return totals
        link = &totals.next
    if plan.free_totals != NULL:
        totals = plan.free_totals
        plan.free_totals = totals.next
        free_totals(totals)
    totals = new_totals(&plan.layers, with_wide, n_slots)
    if totals == NULL:
        raise MemoryError("the sums of a gradient over chunks of samples do not fit into memory")
    return totals


cdef void give_totals(Plan plan, Totals* totals) noexcept:
    totals.next = plan.free_totals
    plan.free_totals = totals


# The calls ------------------------------------------------------------------------------------------------------------

cdef double run_value_and_grad(Plan self, const Request* request, int n_threads) except? -1:
    """Choose the way to divide the work, take the buffers, and run."""
    cdef const Layers* plan = &self.layers
    cdef Py_ssize_t chunk_rows = rows_of_chunk(plan, request.n_kept)
    cdef Py_ssize_t n_chunks = (request.n_kept + chunk_rows - 1) // chunk_rows
    cdef Py_ssize_t rows = rows_of_tile(plan, request.n_kept)
    cdef bint with_wide = n_chunks > 1 and request.grad != NULL
    cdef Totals* totals
    cdef Totals only_loss
    cdef double loss
    n_threads = useful_threads(plan, request.n_kept, n_threads)
    if n_threads > 1 and n_chunks >= n_threads and plan.n_params * plan.itemsize <= CHUNK_BYTES:
        totals = take_totals(self, with_wide, 2 * n_threads)
        try:
            run_chunks(self, request, totals, n_threads, n_chunks, rows)
            loss = mean_loss(totals, request.divisor)
        finally:
            give_totals(self, totals)
        return loss
    if n_threads == 1 and not with_wide:
        memset(&only_loss, 0, sizeof(Totals))
        run_in_order(self, request, &only_loss, rows)
        return mean_loss(&only_loss, request.divisor)
    totals = take_totals(self, with_wide, 0)
    try:
        if n_threads > 1:
            run_strips(self, request, totals, n_threads)
        else:
            run_in_order(self, request, totals, rows)
        loss = mean_loss(totals, request.divisor)
    finally:
        give_totals(self, totals)
    return loss


cdef int run_in_order(Plan self, const Request* request, Totals* totals, Py_ssize_t rows) except -1:
    """On the caller's thread, from the start: sums that threads left unfinished in totals are dropped."""
    cdef const Layers* plan = &self.layers
    cdef Workspace* work = take_workspace(self, rows, 1)
    totals.loss = 0
    totals.loss_error = 0
    try:
        with nogil:
            value_and_grad_in_order(plan, request, work, totals)
    finally:
        give_workspace(self, work)
    return 0


cdef int run_strips(Plan self, const Request* request, Totals* totals, int n_threads) except -1:
    """All threads on one group of rows."""
    cdef const Layers* plan = &self.layers
    cdef StripRun run
    cdef Lease lease
    cdef Clock clock
    cdef Py_ssize_t rows = min(rows_of_chunk(plan, request.n_kept), n_threads * plan.tile_rows)  # a tile a thread
    cdef int status
    memset(&run, 0, sizeof(StripRun))
    run.plan = plan
    run.request = request
    run.totals = totals
    run.clock = &clock
    run.strip_rows = min(<Py_ssize_t>MAX_TILE_ROWS // 2, max(
        <Py_ssize_t>MIN_STRIP, (rows + 2 * n_threads - 1) // (2 * n_threads) // 8 * 8))
    run.work = take_workspace(self, rows, n_threads)
    try:
        with nogil:
            reset_clock(&clock)
            pool_acquire(&lease, n_threads)
            status = value_and_grad_in_strips(&run, &lease, &clock)
            pool_release(&lease)
        if clock.raised:
            raise_pending()
        if status == POOL_LOST:  # a signal handler forked, and this is the child: nobody else works on it
            run_in_order(self, request, totals, rows_of_tile(plan, request.n_kept))
    finally:
        give_workspace(self, run.work)
    return 0


cdef class Workspaces:
    """One workspace a thread, given back when the object dies."""

    cdef Plan plan
    cdef Workspace** work
    cdef int n

    def __cinit__(self, Plan plan, Py_ssize_t rows, int n_threads):
        self.plan = plan
        self.work = <Workspace**>calloc(n_threads, sizeof(Workspace*))
        if self.work == NULL:
            raise MemoryError("the workspaces of the threads do not fit into memory")
        while self.n < n_threads:
            self.work[self.n] = take_workspace(plan, rows, 1)
            self.n += 1

    def __dealloc__(self):
        cdef int i
        for i in range(self.n):
            give_workspace(self.plan, self.work[i])
        free(self.work)


cdef int run_chunks(Plan self, const Request* request, Totals* totals, int n_threads, Py_ssize_t n_chunks,
                    Py_ssize_t rows) except -1:
    """Each thread takes whole chunks."""
    cdef const Layers* plan = &self.layers
    cdef Workspaces workspaces = Workspaces(self, rows, n_threads)
    cdef ChunkRun run
    cdef Lease lease
    cdef Clock clock
    cdef Py_ssize_t* starts = NULL
    cdef Py_ssize_t k
    cdef int status
    memset(&run, 0, sizeof(ChunkRun))
    run.plan = plan
    run.request = request
    run.work = workspaces.work
    run.totals = totals
    run.chunk_rows = rows_of_chunk(plan, request.n_kept)
    run.n_chunks = n_chunks
    if request.n_kept < request.n_samples:
        starts = <Py_ssize_t*>calloc(n_chunks, sizeof(Py_ssize_t))
        if starts == NULL:
            raise MemoryError("the list of chunks does not fit into memory")
        find_starts(plan, request, run.chunk_rows, starts)
        run.starts = starts
    with nogil:
        reset_clock(&clock)
        pool_acquire(&lease, n_threads)
        status = pool_run(&lease, n_chunks, chunk_task, &run, poll_from_pool, &clock)
        pool_release(&lease)
    free(starts)
    if clock.raised:
        raise_pending()
    if status == POOL_LOST:  # a signal handler forked, and this is the child: nobody else works on it
        run_in_order(self, request, totals, rows)
    elif totals.wide != NULL:
        for k in range(n_parts_of_sums(plan)):
            divide(plan, request, totals, k)
    return 0


cdef void find_starts(const Layers* plan, const Request* request, Py_ssize_t chunk_rows, Py_ssize_t* starts) noexcept:
    """The source row from which on each chunk takes its rows."""
    cdef Py_ssize_t row, kept = 0
    for row in range(request.n_samples):
        if has_weight(request, row, plan.sizes[plan.n_layers]):
            if kept % chunk_rows == 0:
                starts[kept // chunk_rows] = row
            kept += 1


cdef int run_forward(Plan self, const Request* request, int n_threads) except -1:
    """Tiles of y_hat, on one thread or several."""
    cdef const Layers* plan = &self.layers
    cdef Py_ssize_t row = 0, rows = min(<Py_ssize_t>plan.tile_rows, request.n_samples)
    cdef Workspaces workspaces
    cdef ForwardRun run
    cdef Lease lease
    cdef Clock clock
    cdef int status = 0
    n_threads = useful_threads(plan, request.n_samples // 3, n_threads)  # a third of a gradient's work
    if n_threads > 1:
        rows = max(<Py_ssize_t>MIN_STRIP, min(rows, (request.n_samples + n_threads - 1) // n_threads))
    workspaces = Workspaces(self, rows, n_threads)
    with nogil:
        reset_clock(&clock)
        if n_threads == 1:
            while row < request.n_samples:
                if forward_of_tile(plan, request, workspaces.work[0], row, min(rows, request.n_samples - row), False,
                                   &clock):
                    break
                row += rows
                if signal_is_pending(&clock):
                    break
        else:
            run.plan = plan
            run.request = request
            run.work = workspaces.work
            run.tile_rows = rows
            run.clock = &clock
            pool_acquire(&lease, n_threads)
            status = pool_run(&lease, (request.n_samples + rows - 1) // rows, forward_task, &run, poll_from_pool,
                              &clock)
            pool_release(&lease)
    if clock.raised:
        raise_pending()
    if status == POOL_LOST:
        return run_forward(self, request, 1)
    return 0
