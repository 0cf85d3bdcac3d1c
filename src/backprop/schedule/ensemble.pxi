# Many networks of one shape, each with its own parameters and perhaps its own data: networks are the pool's tasks.
# Needs: schedule/run, sums. Gives: run_ensemble.

cdef struct EnsembleRun:
    const Request* requests      # one a network
    double* losses
    Workspace** work             # one a thread
    Totals** totals              # one a thread, or NULL if a network's samples are one chunk
    Interrupt* interrupt


cdef void network_task(void* context, Py_ssize_t m, int worker) noexcept nogil:
    """Loss and gradient of network m, as it would be on its own."""
    cdef EnsembleRun* run = <EnsembleRun*>context
    cdef Interrupt own
    cdef Totals only_loss
    cdef Totals* totals = &only_loss
    if run.totals == NULL:
        memset(&only_loss, 0, sizeof(Totals))
    else:
        totals = run.totals[worker]
    start_totals(totals, &run.requests[m])
    run.work[worker].is_packed = False
    run.work[worker].tile_rows = rows_of_tile(run.requests[m].shape, run.requests[m].n_kept, OF_GRADIENT, 1)
    if not sums_in_order(&run.requests[m], run.work[worker], totals, interrupt_of_thread(run.interrupt, worker, &own)):
        run.losses[m] = mean_loss(totals, &run.requests[m])


cdef void give_totals_of_threads(const Shape* shape, Totals** totals, int n_threads) noexcept nogil:
    cdef int i
    if totals == NULL:
        return
    for i in range(n_threads):
        give_totals(shape, totals[i])
    free(totals)


cdef Totals** take_totals_of_threads(const Request* request, int n_threads) noexcept nogil:
    """Sums over chunks for each thread, for a request with the most samples; NULL if out of memory."""
    cdef Totals** totals = <Totals**>calloc(n_threads, sizeof(Totals*))
    cdef int i
    if totals == NULL:
        return NULL
    for i in range(n_threads):
        totals[i] = take_totals(request, True, 0)
        if totals[i] == NULL:
            give_totals_of_threads(request.shape, totals, n_threads)
            return NULL
    return totals


cdef int run_ensemble(const Shape* shape, const Request* requests, Py_ssize_t n_networks, double* losses, int n_threads,
                      Interrupt* interrupt) noexcept nogil:
    """All networks; their bits do not depend on which thread has which."""
    cdef Py_ssize_t m, rows = 0, largest = 0, longest = 0, fewest = requests[0].n_kept
    cdef EnsembleRun run
    cdef int status = DONE
    for m in range(n_networks):
        if requests[m].n_kept > largest:
            largest, longest = requests[m].n_kept, m
        fewest = min(fewest, requests[m].n_kept)
        rows = max(rows, rows_of_tile(shape, requests[m].n_kept, OF_GRADIENT, 1))
    n_threads = useful_threads(shape, largest * n_networks, n_threads)
    if n_threads > n_networks or chunks_of(shape, largest) != chunks_of(shape, fewest):
        for m in range(n_networks):
            status = run_any(&requests[m], n_threads, interrupt, &losses[m])
            if status:
                return status
        return DONE
    run.requests = requests
    run.losses = losses
    run.interrupt = interrupt
    run.totals = NULL
    if chunks_of(shape, largest) > 1:
        run.totals = take_totals_of_threads(&requests[longest], n_threads)
        if run.totals == NULL:
            return NO_TOTALS
    run.work = take_workspaces(shape, rows, n_threads, OF_GRADIENT, 1)
    status = NO_WORKSPACE if run.work == NULL else share_out(n_networks, network_task, &run, n_threads, interrupt)
    give_workspaces(shape, run.work, n_threads)
    give_totals_of_threads(shape, run.totals, n_threads)
    return run_ensemble(shape, requests, n_networks, losses, 1, interrupt) if status == LOST else status
