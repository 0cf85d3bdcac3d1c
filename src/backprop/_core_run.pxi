# Running a call: the choice between the ways to divide it, its buffers, and its threads.

# Buffers from the free lists ------------------------------------------------------------------------------------------

cdef Workspace* take_workspace(Plan plan, Py_ssize_t rows, int n_scratch, int kind) except NULL:
    """A free workspace that is large enough, else a new one in the place of one that is too small."""
    cdef Workspace** link = &plan.free_workspaces
    cdef Workspace* work
    while link[0] != NULL:
        work = link[0]
        if work.capacity >= rows and work.n_scratch >= n_scratch and work.kind >= kind:
            link[0] = work.next
            work.tile_rows = rows
            work.is_packed = False
            work.is_v_packed = False
            return work
        link = &work.next
    if plan.free_workspaces != NULL:
        work = plan.free_workspaces
        plan.free_workspaces = work.next
        free_workspace(work)
    work = new_workspace(&plan.layers, rows, n_scratch, kind)
    if work == NULL:
        raise MemoryError(f"the workspace of a call with tiles of {rows} samples does not fit into memory")
    work.tile_rows = rows
    return work


cdef void give_workspace(Plan plan, Workspace* work) noexcept:
    work.next = plan.free_workspaces
    plan.free_workspaces = work


cdef Totals* take_totals(Plan plan, Py_ssize_t n_sums, bint with_wide, Py_ssize_t n_slots) except NULL:
    """Free sums over chunks that have what is needed, else new ones in the place of others; set to zero."""
    cdef Totals** link = &plan.free_totals
    cdef Totals* totals
    cdef Py_ssize_t slot
    while link[0] != NULL:
        totals = link[0]
        if (totals.wide != NULL) == with_wide and totals.n_slots >= n_slots and totals.n_sums == n_sums:
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
    totals = new_totals(&plan.layers, n_sums, with_wide, n_slots)
    if totals == NULL:
        raise MemoryError("the sums of a gradient over chunks of samples do not fit into memory")
    return totals


cdef void give_totals(Plan plan, Totals* totals) noexcept:
    totals.next = plan.free_totals
    plan.free_totals = totals


# The calls ------------------------------------------------------------------------------------------------------------

cdef double run_value_and_grad(Plan self, const Request* request, int n_threads) except? -1:
    """The mean loss; the gradient goes into request.grad. Chunks, strips, or one thread."""
    cdef const Layers* plan = &self.layers
    cdef Py_ssize_t n_chunks = chunks_of(plan, request.n_kept)
    n_threads = useful_threads(plan, request.n_kept, n_threads)
    if n_threads > 1 and (n_chunks < n_threads or plan.n_params * plan.itemsize > CHUNK_BYTES):
        return run_strips(self, request, n_chunks, n_threads)
    return run_sums(self, request, n_threads, OF_GRADIENT)


cdef inline Py_ssize_t chunks_of(const Layers* plan, Py_ssize_t n_kept) noexcept:
    """The number of chunks of so many samples."""
    cdef Py_ssize_t chunk_rows = rows_of_chunk(plan, n_kept)
    return (n_kept + chunk_rows - 1) // chunk_rows


cdef double run_sums(Plan self, const Request* request, int n_threads, int kind) except? -1:
    """Sums over samples, chunk by chunk, on up to n_threads threads; returns the sum of the losses, divided."""
    cdef const Layers* plan = &self.layers
    cdef Py_ssize_t rows = rows_of_tile(plan, request.n_kept), n_chunks = chunks_of(plan, request.n_kept)
    cdef bint with_wide = n_chunks > 1 and request.grad != NULL
    cdef Totals* totals
    cdef Totals only_loss
    n_threads = <int>min(<Py_ssize_t>n_threads, n_chunks)
    if n_threads == 1 and not with_wide:
        memset(&only_loss, 0, sizeof(Totals))
        run_in_order(self, request, &only_loss, rows, kind)
        return mean_loss(&only_loss, request.divisor)
    totals = take_totals(self, request.n_sums, with_wide, 2 * n_threads if n_threads > 1 else 0)
    try:
        if n_threads > 1:
            run_chunks(self, request, totals, n_threads, n_chunks, rows, kind)
        else:
            run_in_order(self, request, totals, rows, kind)
        return mean_loss(totals, request.divisor)
    finally:
        give_totals(self, totals)


cdef int run_in_order(Plan self, const Request* request, Totals* totals, Py_ssize_t rows, int kind) except -1:
    """On the caller's thread, from the start: sums that threads left unfinished in totals are dropped."""
    cdef const Layers* plan = &self.layers
    cdef Workspace* work = take_workspace(self, rows, 1, kind)
    cdef Clock clock
    reset_clock(&clock)
    totals.loss = 0
    totals.loss_error = 0
    try:
        with nogil:
            value_and_grad_in_order(plan, request, work, totals, &clock)
        if clock.raised:
            raise_pending()
    finally:
        give_workspace(self, work)
    return 0


cdef double run_strips(Plan self, const Request* request, Py_ssize_t n_chunks, int n_threads) except? -1:
    """All threads on one group of rows."""
    cdef const Layers* plan = &self.layers
    cdef StripRun run
    cdef Lease lease
    cdef Clock clock
    cdef Py_ssize_t rows = min(rows_of_chunk(plan, request.n_kept), n_threads * plan.tile_rows)  # a tile a thread
    cdef Totals* totals = take_totals(self, request.n_sums, n_chunks > 1 and request.grad != NULL, 0)
    cdef int status
    memset(&run, 0, sizeof(StripRun))
    run.plan = plan
    run.request = request
    run.totals = totals
    run.clock = &clock
    run.strip_rows = min(<Py_ssize_t>MAX_TILE_ROWS // 2, max(
        <Py_ssize_t>MIN_STRIP, (rows + 2 * n_threads - 1) // (2 * n_threads) // 8 * 8))
    try:
        run.work = take_workspace(self, rows, n_threads, OF_GRADIENT)
        try:
            with nogil:
                reset_clock(&clock)
                pool_acquire(&lease, n_threads)
                status = value_and_grad_in_strips(&run, &lease, &clock)
                pool_release(&lease)
            if clock.raised:
                raise_pending()
            if status == POOL_LOST:  # a signal handler forked, and this is the child: nobody else works on it
                run_in_order(self, request, totals, rows_of_tile(plan, request.n_kept), OF_GRADIENT)
        finally:
            give_workspace(self, run.work)
        return mean_loss(totals, request.divisor)
    finally:
        give_totals(self, totals)


cdef class Workspaces:
    """One workspace a thread, given back when the object dies."""

    cdef Plan plan
    cdef Workspace** work
    cdef int n

    def __cinit__(self, Plan plan, Py_ssize_t rows, int n_threads, int kind):
        self.plan = plan
        self.work = <Workspace**>calloc(n_threads, sizeof(Workspace*))
        if self.work == NULL:
            raise MemoryError("the workspaces of the threads do not fit into memory")
        while self.n < n_threads:
            self.work[self.n] = take_workspace(plan, rows, 1, kind)
            self.n += 1

    def __dealloc__(self):
        cdef int i
        for i in range(self.n):
            give_workspace(self.plan, self.work[i])
        free(self.work)


cdef int run_chunks(Plan self, const Request* request, Totals* totals, int n_threads, Py_ssize_t n_chunks,
                    Py_ssize_t rows, int kind) except -1:
    """Each thread takes whole chunks."""
    cdef const Layers* plan = &self.layers
    cdef Workspaces workspaces = Workspaces(self, rows, n_threads, kind)
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
    run.clock = &clock
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
        run_in_order(self, request, totals, rows, kind)
    elif totals.wide != NULL:
        for k in range(n_parts_of_sums(request)):
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


cdef int run_rows(Plan self, const Request* request, int n_threads, double cost, int kind) except -1:
    """What each sample has of its own, tile by tile, on up to n_threads threads; cost in gradients."""
    cdef const Layers* plan = &self.layers
    cdef Py_ssize_t row = 0, rows = min(<Py_ssize_t>plan.tile_rows, request.n_samples)
    cdef Workspaces workspaces
    cdef RowsRun run
    cdef Lease lease
    cdef Clock clock
    cdef int status = 0
    n_threads = useful_threads(plan, <Py_ssize_t>(request.n_samples * cost), n_threads)
    if n_threads > 1:
        rows = max(<Py_ssize_t>MIN_STRIP, min(rows, (request.n_samples + n_threads - 1) // n_threads))
    workspaces = Workspaces(self, rows, n_threads, kind)
    with nogil:
        reset_clock(&clock)
        if n_threads == 1:
            while row < request.n_samples:
                if rows_of(plan, request, workspaces.work[0], row, min(rows, request.n_samples - row), False, &clock):
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
            status = pool_run(&lease, (request.n_samples + rows - 1) // rows, rows_task, &run, poll_from_pool, &clock)
            pool_release(&lease)
    if clock.raised:
        raise_pending()
    if status == POOL_LOST:
        return run_rows(self, request, 1, cost, kind)
    return 0
