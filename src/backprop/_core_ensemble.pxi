# Many networks of one shape, each with parameters, and perhaps data, of its own: networks are the tasks of the pool.

cdef struct EnsembleRun:
    const Layers* plan
    const Request* requests      # one a network
    double* losses
    Workspace** work             # one a thread
    Totals** totals              # one a thread


cdef void network_task(void* context, Py_ssize_t m, int worker) noexcept nogil:
    """Loss and gradient of network m, as it would be on its own."""
    cdef EnsembleRun* run = <EnsembleRun*>context
    loss_of_network(run, m, worker, NULL)


cdef int loss_of_network(EnsembleRun* run, Py_ssize_t m, int worker, Clock* clock) noexcept nogil:
    """The same, with signals polled where there is a clock; nonzero where one raised."""
    cdef Totals only_loss
    cdef Totals* totals = run.totals[worker]
    if totals == NULL:
        memset(&only_loss, 0, sizeof(Totals))
        totals = &only_loss
    totals.loss = 0
    totals.loss_error = 0
    run.work[worker].is_packed = False
    if value_and_grad_in_order(run.plan, &run.requests[m], run.work[worker], totals, clock):
        return 1
    run.losses[m] = mean_loss(totals, run.requests[m].divisor)
    return 0


cdef class ThreadTotals:
    """Sums over chunks for each thread, or none where a network's samples are one chunk; given back at the end."""

    cdef Plan plan
    cdef Totals** totals
    cdef int n

    def __cinit__(self, Plan plan, int n_threads, bint with_wide):
        self.plan = plan
        self.totals = <Totals**>calloc(n_threads, sizeof(Totals*))
        if self.totals == NULL:
            raise MemoryError("the sums of the threads do not fit into memory")
        while with_wide and self.n < n_threads:
            self.totals[self.n] = take_totals(plan, plan.layers.n_params, True, 0)
            self.n += 1

    def __dealloc__(self):
        cdef int i
        for i in range(self.n):
            give_totals(self.plan, self.totals[i])
        free(self.totals)


cdef int run_ensemble(Plan self, const Request* requests, Py_ssize_t n_networks, double* losses,
                      int n_threads) except -1:
    """All networks; their bits do not depend on which thread has which."""
    cdef const Layers* plan = &self.layers
    cdef Py_ssize_t m, largest = 0, fewest = requests[0].n_kept
    cdef Workspaces workspaces
    cdef ThreadTotals totals
    cdef EnsembleRun run
    cdef Lease lease
    cdef Clock clock
    cdef int status = 0
    for m in range(n_networks):
        largest = max(largest, requests[m].n_kept)
        fewest = min(fewest, requests[m].n_kept)
    n_threads = useful_threads(plan, largest * n_networks, n_threads)
    if n_threads > n_networks or chunks_of(plan, largest) != chunks_of(plan, fewest):
        for m in range(n_networks):
            losses[m] = run_value_and_grad(self, &requests[m], n_threads)
        return 0
    workspaces = Workspaces(self, max(rows_of_tile(plan, largest), rows_of_tile(plan, fewest)), n_threads, OF_GRADIENT)
    totals = ThreadTotals(self, n_threads, chunks_of(plan, largest) > 1)
    run.plan = plan
    run.requests = requests
    run.losses = losses
    run.work = workspaces.work
    run.totals = totals.totals
    with nogil:
        reset_clock(&clock)
        if n_threads > 1:
            pool_acquire(&lease, n_threads)
            status = pool_run(&lease, n_networks, network_task, &run, poll_from_pool, &clock)
            pool_release(&lease)
        else:
            for m in range(n_networks):
                if loss_of_network(&run, m, 0, &clock) or signal_is_pending(&clock):
                    break
    if clock.raised:
        raise_pending()
    if status == POOL_LOST:
        return run_ensemble(self, requests, n_networks, losses, 1)
    return 0
