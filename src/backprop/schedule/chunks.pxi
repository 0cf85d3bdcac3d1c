# Sums over samples, chunk by chunk, each thread whole chunks.
# Needs: schedule/sums, threads. Gives: run_sums.

cdef struct ChunkRun:
    const Request* request
    Workspace** work             # one a thread
    Totals* totals
    const Py_ssize_t* starts     # the first source row of each chunk, or NULL if no rows are left out
    Py_ssize_t chunk_rows, n_chunks
    Py_ssize_t n_added           # chunks 0..n_added-1 are in the totals
    int adding                   # try-lock; its holder adds every ready chunk
    Interrupt* interrupt


cdef enum:
    SPARE_BYTES = 4194304        # of slots beyond one a thread


cdef bint add_ready_chunks(ChunkRun* run, Interrupt* interrupt) noexcept nogil:
    """Add the chunks that are ready to the totals, in order."""
    cdef Totals* totals = run.totals
    cdef Py_ssize_t c = load_size(&run.n_added), slot, k
    while c < run.n_chunks and load_int(&totals.slot_is_ready[c % totals.n_slots]):
        slot = c % totals.n_slots
        add_loss(totals, totals.slot_loss[slot], c)
        if run.request.grad != NULL:
            for k in range(n_parts_of_sums(run.request)):
                if accumulate(run.request, totals.slots + slot * run.request.n_sums * run.request.shape.itemsize,
                              totals, k, c, interrupt):
                    return True
        store_int(&totals.slot_is_ready[slot], 0)
        c += 1
        store_size(&run.n_added, c)
    return False


cdef void chunk_task(void* context, Py_ssize_t c, int worker) noexcept nogil:
    """The sums of chunk c into its slot; then whatever is ready and next in order goes into the totals."""
    cdef ChunkRun* run = <ChunkRun*>context
    cdef Totals* totals = run.totals
    cdef Py_ssize_t slot = c % totals.n_slots, row = c * run.chunk_rows
    cdef char* grad = NULL
    cdef Interrupt own
    cdef Interrupt* interrupt = interrupt_of_thread(run.interrupt, worker, &own)
    cdef unsigned int forks = pool_forks()
    cdef bint stopped
    if run.request.grad != NULL:
        grad = totals.slots + slot * run.request.n_sums * run.request.shape.itemsize
    while c >= load_size(&run.n_added) + totals.n_slots:  # the slot is taken: chunk c - n_slots is in another's hands
        if signal_is_pending(interrupt) or pool_forks() != forks:  # and will never be ready
            return
        pool_yield()
    if run.starts != NULL:
        row = run.starts[c]
    if chunk_sums(run.request, run.work[worker], interrupt, &row,
                  min(run.chunk_rows, run.request.n_kept - c * run.chunk_rows), grad, 0, &totals.slot_loss[slot]):
        return
    store_int(&totals.slot_is_ready[slot], 1)
    # The thread that adds looks again after releasing the lock: a chunk that became ready meanwhile is not left behind.
    while load_int(&totals.slot_is_ready[load_size(&run.n_added) % totals.n_slots]) and try_lock(&run.adding):
        stopped = add_ready_chunks(run, interrupt)
        store_int(&run.adding, 0)
        if stopped:
            return


cdef void find_starts(const Request* request, Py_ssize_t chunk_rows, Py_ssize_t n_chunks, Py_ssize_t* starts,
                      Interrupt* interrupt) noexcept nogil:
    """The source row from which on each chunk takes its rows; those of some alone if a signal handler raised."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t row, kept = 0
    for row in range(request.n_samples):
        if is_stopped(interrupt, MEMORY_FLOPS):
            return
        if has_weight(request, row):
            if kept == n_chunks * chunk_rows:  # another thread wrote to the weights during the call
                return
            if kept % chunk_rows == 0:
                starts[kept // chunk_rows] = row
            kept += 1


cdef int run_chunks(const Request* request, Totals* totals, int n_threads, Py_ssize_t n_chunks,
                    Interrupt* interrupt) noexcept nogil:
    """Each thread takes whole chunks."""
    cdef const Shape* shape = request.shape
    cdef ChunkRun run
    cdef Py_ssize_t* starts = NULL
    cdef Py_ssize_t k
    cdef int status = DONE
    memset(&run, 0, sizeof(ChunkRun))
    run.request = request
    run.totals = totals
    run.chunk_rows = rows_of_chunk(shape, request.n_whole)
    run.n_chunks = n_chunks
    run.interrupt = interrupt
    if request.n_kept < request.n_samples:
        starts = <Py_ssize_t*>calloc(n_chunks, sizeof(Py_ssize_t))
        if starts == NULL:
            return NO_LIST
        find_starts(request, run.chunk_rows, n_chunks, starts, interrupt)
        run.starts = starts
    run.work = take_workspaces(shape, rows_of_tile(shape, request.n_whole, request.buffers, request.blocks), n_threads,
                               request.buffers, request.blocks)
    status = NO_WORKSPACE if run.work == NULL else share_out(n_chunks, chunk_task, &run, n_threads, interrupt)
    give_workspaces(shape, run.work, n_threads)
    free(starts)
    if status == LOST:
        return run_in_order(request, totals, interrupt)
    if status == DONE and totals.wide != NULL:
        for k in range(n_parts_of_sums(request)):
            if divide(request, totals, k, interrupt):
                return RAISED
    return status


cdef Py_ssize_t n_slots_for(const Request* request, int n_threads) noexcept nogil:
    """Slots for the sums of chunks: one a thread, and as many spare ones as SPARE_BYTES hold, at most one a thread.

    A thread that is ahead of the one whose turn it is goes on while there is a spare one.
    """
    cdef const Shape* shape = request.shape
    if n_threads == 1:
        return 0
    return n_threads + max(<Py_ssize_t>1, min(<Py_ssize_t>n_threads, SPARE_BYTES // (request.n_sums * shape.itemsize)))


cdef int run_sums(const Request* request, int n_threads, Interrupt* interrupt, double* loss) noexcept nogil:
    """Sums over samples, chunk by chunk, on up to n_threads threads; and the sum of the losses, divided."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t n_chunks = chunks_in(request)
    cdef bint with_wide = request.grad != NULL and (n_chunks > 1 or request.state != NULL)
    cdef Totals* totals
    cdef Totals only_loss
    cdef int status
    n_threads = <int>min(<Py_ssize_t>n_threads, n_chunks)
    if n_threads == 1 and not with_wide:
        memset(&only_loss, 0, sizeof(Totals))
        status = run_in_order(request, &only_loss, interrupt)
        loss[0] = mean_loss(&only_loss, request)
        return status
    totals = take_totals(request, with_wide, n_slots_for(request, n_threads))
    if totals == NULL:
        return NO_TOTALS
    if n_threads > 1:
        status = run_chunks(request, totals, n_threads, n_chunks, interrupt)
    else:
        status = run_in_order(request, totals, interrupt)
    loss[0] = mean_loss(totals, request)
    give_totals(shape, totals)
    return status
