# Running a call without the GIL: the choice between the ways to divide it, its buffers, and its threads. Each function
# returns a Status, which `raise_for` turns into an exception where the GIL is held again.

cdef enum Status:
    # How a run ended.
    DONE
    RAISED                       # a signal handler did, or a user's function: the exception is set in this thread
    LOST                         # a signal handler forked, and this is the child: nobody else works on the call
    NO_WORKSPACE                 # memory is short, here and below
    NO_TOTALS
    NO_LIST

cdef extern from *:
    """
    /* Not by Cython's raise, which needs memory for a traceback and can crash where there is none (Cython 3.3.1). */
    static int bp_raise_memory_error(const char *what) { PyErr_SetString(PyExc_MemoryError, what); return -1; }
    """
    int raise_memory_error "bp_raise_memory_error"(const char* what) except -1


cdef int raise_for(int status) except -1:
    """The exception of a run that did not get to its end."""
    if status == RAISED:
        return raise_pending()
    if status == NO_WORKSPACE:
        return raise_memory_error(b"the workspace of a call does not fit into memory")
    if status == NO_TOTALS:
        return raise_memory_error(b"the sums of a gradient over chunks of samples do not fit into memory")
    return raise_memory_error(b"a list of the chunks or threads of a call does not fit into memory")


cdef int run(const Layers* plan, const Request* request, int n_threads, Clock* clock, double* loss) noexcept nogil:
    """The request on up to n_threads threads, in the default mode of the floating-point unit; and the loss."""
    cdef int status
    clock.callers_mode = enter_default_mode()
    status = run_any(plan, request, n_threads, clock, loss)
    leave_default_mode(clock.callers_mode, loss)
    return status


cdef int run_any(const Layers* plan, const Request* request, int n_threads, Clock* clock, double* loss) noexcept nogil:
    """The call that the request's mode says; and the loss, where there is one."""
    cdef double cost
    if request.mode == VALUE_AND_GRAD:
        return run_value_and_grad(plan, request, n_threads, clock, loss)
    cost = cost_of(plan, request.mode)
    if request.is_by_sample:
        return run_rows(plan, request, useful_threads(plan, <Py_ssize_t>(request.n_samples * cost), n_threads), clock)
    return run_sums(plan, request, useful_threads(plan, <Py_ssize_t>(request.n_kept * cost), n_threads), clock, loss)


cdef int run_value_and_grad(const Layers* plan, const Request* request, int n_threads, Clock* clock,
                            double* loss) noexcept nogil:
    """The mean loss; the gradient goes into request.grad. Chunks, strips, or one thread."""
    cdef Py_ssize_t n_chunks = chunks_of(plan, request.n_kept)
    n_threads = useful_threads(plan, request.n_kept, n_threads)
    if n_threads > 1 and (n_chunks < n_threads or plan.n_params * plan.itemsize > CHUNK_BYTES):
        return run_strips(plan, request, n_chunks, n_threads, clock, loss)
    return run_sums(plan, request, n_threads, clock, loss)


cdef inline Py_ssize_t chunks_of(const Layers* plan, Py_ssize_t n_kept) noexcept nogil:
    """The number of chunks of so many samples."""
    cdef Py_ssize_t chunk_rows = rows_of_chunk(plan, n_kept)
    return (n_kept + chunk_rows - 1) // chunk_rows


cdef int share_out(Py_ssize_t n_tasks, PoolTask task, void* context, int n_threads, Clock* clock) noexcept nogil:
    """All tasks on up to n_threads threads; DONE, RAISED or LOST."""
    cdef Lease lease
    cdef int status
    pool_acquire(&lease, n_threads)
    status = pool_run(&lease, n_tasks, task, context, poll_from_pool, clock)
    pool_release(&lease)
    return status_of(status, clock)


cdef inline int status_of(int pool_status, const Clock* clock) noexcept nogil:
    """How a run on the pool ended."""
    if has_raised(clock):
        return RAISED
    return LOST if pool_status == POOL_LOST else DONE


# Sums -----------------------------------------------------------------------------------------------------------------

cdef int run_sums(const Layers* plan, const Request* request, int n_threads, Clock* clock, double* loss) noexcept nogil:
    """Sums over samples, chunk by chunk, on up to n_threads threads; and the sum of the losses, divided."""
    cdef Py_ssize_t n_chunks = chunks_of(plan, request.n_kept)
    cdef bint with_wide = n_chunks > 1 and request.grad != NULL
    cdef Totals* totals
    cdef Totals only_loss
    cdef int status
    n_threads = <int>min(<Py_ssize_t>n_threads, n_chunks)
    if n_threads == 1 and not with_wide:
        memset(&only_loss, 0, sizeof(Totals))
        status = run_in_order(plan, request, &only_loss, clock)
        loss[0] = mean_loss(&only_loss, request.divisor)
        return status
    totals = take_totals(plan, request.n_sums if with_wide else 0, with_wide, n_slots_for(plan, request, n_threads))
    if totals == NULL:
        return NO_TOTALS
    if n_threads > 1:
        status = run_chunks(plan, request, totals, n_threads, n_chunks, clock)
    else:
        status = run_in_order(plan, request, totals, clock)
    loss[0] = mean_loss(totals, request.divisor)
    give_totals(plan, totals)
    return status


cdef Py_ssize_t n_slots_for(const Layers* plan, const Request* request, int n_threads) noexcept nogil:
    """Slots for the sums of chunks: one a thread, and as many spare ones as SPARE_BYTES hold, at most one a thread.

    A thread that is ahead of the one whose turn it is goes on while there is a spare one.
    """
    if n_threads == 1:
        return 0
    return n_threads + max(<Py_ssize_t>1, min(<Py_ssize_t>n_threads,
                                              SPARE_BYTES // (request.n_sums * plan.itemsize)))


cdef int run_in_order(const Layers* plan, const Request* request, Totals* totals, Clock* clock) noexcept nogil:
    """On the caller's thread, from the start: sums that threads left unfinished in totals are dropped."""
    cdef Workspace* work = take_workspace(plan, rows_of_tile(plan, request.n_kept, request.kind), 1, request.kind)
    cdef int status
    if work == NULL:
        return NO_WORKSPACE
    totals.loss = 0
    totals.loss_error = 0
    status = RAISED if sums_in_order(plan, request, work, totals, clock) else DONE
    give_workspace(plan, work)
    return status


cdef int run_strips(const Layers* plan, const Request* request, Py_ssize_t n_chunks, int n_threads, Clock* clock,
                    double* loss) noexcept nogil:
    """All threads on one group of rows."""
    cdef StripRun run
    cdef Lease lease
    cdef Py_ssize_t rows = plan.tile_rows
    cdef int status = NO_WORKSPACE
    while rows < n_threads * plan.tile_rows and rows < CHAIN_ROWS:
        rows *= 2  # still a part of a chain, or a whole one
    if rows % CHAIN_ROWS == 0:
        rows = max(rows, n_threads * plan.tile_rows // CHAIN_ROWS * CHAIN_ROWS)  # a tile a thread
    rows = min(rows, rows_of_chunk(plan, request.n_kept))
    memset(&run, 0, sizeof(StripRun))
    run.plan = plan
    run.request = request
    run.clock = clock
    run.strip_rows = min(<Py_ssize_t>MAX_TILE_ROWS // 2, max(
        <Py_ssize_t>MIN_STRIP, (rows + 2 * n_threads - 1) // (2 * n_threads) // 8 * 8))
    run.totals = take_totals(plan, request.n_sums, n_chunks > 1 and request.grad != NULL, 0)
    if run.totals == NULL:
        return NO_TOTALS
    run.first_task = <Py_ssize_t*>calloc(plan.n_layers + 2, sizeof(Py_ssize_t))
    if run.first_task == NULL:
        give_totals(plan, run.totals)
        return NO_LIST
    run.work = take_workspace(plan, rows, n_threads, OF_GRADIENT)
    if run.work != NULL:
        pool_acquire(&lease, n_threads)
        status = status_of(value_and_grad_in_strips(&run, &lease, clock), clock)
        pool_release(&lease)
        give_workspace(plan, run.work)
    free(run.first_task)
    if status == LOST:
        status = run_in_order(plan, request, run.totals, clock)
    loss[0] = mean_loss(run.totals, request.divisor)
    give_totals(plan, run.totals)
    return status


cdef int run_chunks(const Layers* plan, const Request* request, Totals* totals, int n_threads, Py_ssize_t n_chunks,
                    Clock* clock) noexcept nogil:
    """Each thread takes whole chunks."""
    cdef ChunkRun run
    cdef Py_ssize_t* starts = NULL
    cdef Py_ssize_t k
    cdef int status = DONE
    memset(&run, 0, sizeof(ChunkRun))
    run.plan = plan
    run.request = request
    run.totals = totals
    run.chunk_rows = rows_of_chunk(plan, request.n_kept)
    run.n_chunks = n_chunks
    run.clock = clock
    if request.n_kept < request.n_samples:
        starts = <Py_ssize_t*>calloc(n_chunks, sizeof(Py_ssize_t))
        if starts == NULL:
            return NO_LIST
        find_starts(plan, request, run.chunk_rows, n_chunks, starts, clock)
        run.starts = starts
    run.work = take_workspaces(plan, rows_of_tile(plan, request.n_kept, request.kind), n_threads, request.kind)
    status = NO_WORKSPACE if run.work == NULL else share_out(n_chunks, chunk_task, &run, n_threads, clock)
    give_workspaces(plan, run.work, n_threads)
    free(starts)
    if status == LOST:
        return run_in_order(plan, request, totals, clock)
    if status == DONE and totals.wide != NULL:
        for k in range(n_parts_of_sums(request)):
            if divide(plan, request, totals, k, clock):
                return RAISED
    return status


cdef void find_starts(const Layers* plan, const Request* request, Py_ssize_t chunk_rows, Py_ssize_t n_chunks,
                      Py_ssize_t* starts, Clock* clock) noexcept nogil:
    """The source row from which on each chunk takes its rows; those of some, where a signal handler raised."""
    cdef Py_ssize_t row, kept = 0
    for row in range(request.n_samples):
        if is_stopped(clock, MEMORY_FLOPS):
            return
        if has_weight(request, row, plan.sizes[plan.n_layers]):
            if kept == n_chunks * chunk_rows:  # another thread wrote to the weights during the call
                return
            if kept % chunk_rows == 0:
                starts[kept // chunk_rows] = row
            kept += 1


# Rows -----------------------------------------------------------------------------------------------------------------

cdef int run_rows(const Layers* plan, const Request* request, int n_threads, Clock* clock) noexcept nogil:
    """What each sample has of its own, tile by tile, on up to n_threads threads."""
    cdef Py_ssize_t rows = min(<Py_ssize_t>plan.tile_rows, request.n_samples)
    cdef RowsRun run
    cdef int status
    if n_threads == 1:
        return run_rows_in_order(plan, request, rows, clock)
    rows = min(rows, max(<Py_ssize_t>MIN_STRIP, (request.n_samples + n_threads - 1) // n_threads))
    run.plan = plan
    run.request = request
    run.tile_rows = rows
    run.clock = clock
    run.work = take_workspaces(plan, rows, n_threads, request.kind)
    if run.work == NULL:
        return NO_WORKSPACE
    status = share_out((request.n_samples + rows - 1) // rows, rows_task, &run, n_threads, clock)
    give_workspaces(plan, run.work, n_threads)
    return run_rows_in_order(plan, request, rows, clock) if status == LOST else status


cdef int run_rows_in_order(const Layers* plan, const Request* request, Py_ssize_t rows, Clock* clock) noexcept nogil:
    """The same on the caller's thread."""
    cdef Workspace* work = take_workspace(plan, rows, 1, request.kind)
    cdef Py_ssize_t row = 0
    if work == NULL:
        return NO_WORKSPACE
    while row < request.n_samples and not has_raised(clock):
        rows_of(plan, request, work, row, min(rows, request.n_samples - row), clock)
        row += rows
    give_workspace(plan, work)
    return RAISED if has_raised(clock) else DONE
