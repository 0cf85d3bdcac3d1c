# The loss and the gradient, all threads on one group of rows.
# Needs: the equations, schedule/sums, threads. Gives: run_strips.

cdef struct StripRun:
    const Request* request
    Workspace* work
    Totals* totals
    Tile group                   # the rows that are shared
    Py_ssize_t strip_rows
    double flops_a_task
    char* sums                   # of the chunk, or of open chains
    bint add                     # to these
    bint first_chain
    double divisor               # of the sums of a single chunk if they end here, else 0
    bint first_chunk
    Py_ssize_t* first_task       # by layer, of the phase that packs or sums by units; and their number at the end
    Interrupt* interrupt


cdef enum:
    PACK_COLUMNS = 192           # columns of W^T that a task packs: whole panels on every instruction set


cdef inline Py_ssize_t units_a_task(const StripRun* run, Py_ssize_t i) noexcept nogil:
    """Units of layer i whose gradient is one task: a multiple of 8, so that blocks of rows stay whole."""
    cdef double flops_a_unit = 2.0 * run.group.n_rows * run.request.shape.layers[i].n_in
    return max(<Py_ssize_t>8, <Py_ssize_t>(run.flops_a_task / flops_a_unit) // 8 * 8)


cdef Py_ssize_t number_tasks(StripRun* run, bint by_units) noexcept nogil:
    """Number the tasks of a phase, layer by layer: panels that are packed, or units that are summed; how many."""
    cdef Py_ssize_t i, size
    run.first_task[1] = 0
    for i in range(1, run.request.shape.n_layers + 1):
        size = units_a_task(run, i) if by_units else PACK_COLUMNS
        run.first_task[i + 1] = run.first_task[i] + (run.request.shape.sizes[i] + size - 1) // size
    return run.first_task[run.request.shape.n_layers + 1]


cdef Py_ssize_t layer_of_task(const StripRun* run, Py_ssize_t index) noexcept nogil:
    """The layer of a task: by halves, since a walk for each task takes n_layers^2 steps in all."""
    cdef Py_ssize_t first = 1, last = run.request.shape.n_layers, middle
    while first < last:
        middle = (first + last + 1) // 2
        if run.first_task[middle] <= index:
            first = middle
        else:
            last = middle - 1
    return first


cdef void pack_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """Some panels of one layer's W^T."""
    cdef StripRun* run = <StripRun*>context
    cdef const Shape* shape = run.request.shape
    cdef Py_ssize_t i = layer_of_task(run, index), first = (index - run.first_task[i]) * PACK_COLUMNS
    cdef Interrupt own
    cdef Interrupt* interrupt = interrupt_of_thread(run.interrupt, worker, &own)
    cdef Pieces p
    start_pieces(&p, interrupt, 1, 1, min(<Py_ssize_t>PACK_COLUMNS, shape.sizes[i] - first), PIECE_COLUMNS,
                 <double>MEMORY_FLOPS * shape.layers[i].n_in, 0)
    while p.n:
        shape.kernels.pack(shape.layers[i].n_in, shape.layers[i].n_out, run.request.params + shape.layers[i].W,
                           run.work.packed[i], first + p.column, first + p.column + p.n)
        if next_piece(&p):
            return


cdef inline void give_to_thread(const StripRun* run, Tile* tile, int worker, Interrupt* own) noexcept nogil:
    """Let a tile have the scratch and the interrupt of a thread."""
    tile.scratch = run.work.scratch + worker * run.work.scratch_bytes
    tile.interrupt = interrupt_of_thread(run.interrupt, worker, own)


cdef void strip_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """(2)-(6) for some rows of the group."""
    cdef StripRun* run = <StripRun*>context
    cdef Py_ssize_t first = index * run.strip_rows
    cdef Tile strip = part_of(&run.group, first, min(run.strip_rows, run.group.n_rows - first))
    cdef bint with_gradient = run.request.grad != NULL
    cdef Interrupt own
    give_to_thread(run, &strip, worker, &own)
    strip.packing = PACKED
    if forward_sweep(&strip, with_gradient):
        return
    if output_gradient(&strip, a_of(&strip, run.request.shape.n_layers), run.work.row_loss + strip.first,
                       with_gradient):
        return
    if with_gradient:
        backward_sweep(&strip, NULL, False)


cdef void units_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """(7) and (8) for some units of one layer, over all rows of the group."""
    cdef StripRun* run = <StripRun*>context
    cdef Py_ssize_t i = layer_of_task(run, index), units = units_a_task(run, i)
    cdef Py_ssize_t first = (index - run.first_task[i]) * units
    cdef Tile group = run.group
    cdef const char* grad_a
    cdef Interrupt own
    give_to_thread(run, &group, worker, &own)
    units = min(units, run.request.shape.sizes[i] - first)
    grad_a = a_of(&group, i)
    if weight_gradient(&group, i, first, units, grad_a, input_of(&group, i), run.sums, run.add):
        return
    bias_gradient(&group, i, first, units, grad_a, run.sums, run.add)


cdef void chain_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """Some parameters of chains that end into the sums of the chunk."""
    cdef StripRun* run = <StripRun*>context
    cdef Interrupt own
    add_chain(run.request, index, run.sums, run.request.grad, run.first_chain, run.divisor,
              interrupt_of_thread(run.interrupt, worker, &own))


cdef void accumulate_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """Some parameters of a chunk's sums into the wide sums."""
    cdef StripRun* run = <StripRun*>context
    cdef Interrupt own
    accumulate(run.request, run.request.grad, run.totals, index, run.first_chunk,
               interrupt_of_thread(run.interrupt, worker, &own))


cdef void divide_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """Some parameters of the result."""
    cdef StripRun* run = <StripRun*>context
    cdef Interrupt own
    divide(run.request, run.totals, index, interrupt_of_thread(run.interrupt, worker, &own))


cdef int value_and_grad_in_strips(StripRun* run, const Lease* lease, Interrupt* interrupt) noexcept nogil:
    """All chunks by strips; nonzero if a signal handler raised or forked."""
    cdef const Shape* shape = run.request.shape
    cdef const Request* request = run.request
    cdef Py_ssize_t row = 0, done = 0, in_chunk, n_rows, s
    cdef Py_ssize_t chunk_rows = rows_of_chunk(shape, request.n_kept)
    cdef Py_ssize_t n_sums = n_parts_of_sums(request)
    cdef double chunk_loss
    cdef int status
    run.group = new_tile(request, run.work, interrupt)
    status = pool_run(lease, number_tasks(run, False), pack_task, run, poll_from_pool, interrupt)
    while done < request.n_kept and status == 0:
        in_chunk = 0
        chunk_loss = 0
        n_rows = min(chunk_rows, request.n_kept - done)
        while in_chunk < n_rows and status == 0:
            row = fill_tile(&run.group, row, min(run.work.tile_rows, n_rows - in_chunk))
            run.group.is_open = has_open_chains(request, run.work, n_rows)
            run.sums = run.work.open_chain if run.group.is_open else request.grad
            run.first_chain = in_chunk < CHAIN_ROWS
            run.add = in_chunk % CHAIN_ROWS > 0 if run.group.is_open else in_chunk > 0
            run.divisor = 0
            if run.totals.wide == NULL and in_chunk + run.group.n_rows == n_rows:
                run.divisor = request.divisor
            run.group.divisor = 0 if shape.tile_rows < CHAIN_ROWS else run.divisor  # `add_chain` divides short tiles
            status = pool_run(lease, (run.group.n_rows + run.strip_rows - 1) // run.strip_rows, strip_task, run,
                              poll_from_pool, interrupt)
            if status:
                return status
            for s in range(run.group.n_rows):
                chunk_loss += run.work.row_loss[s]
            if request.grad != NULL:
                run.flops_a_task = 2.0 * run.group.n_rows * shape.n_params / (4 * lease.n_threads)
                status = pool_run(lease, number_tasks(run, True), units_task, run, poll_from_pool, interrupt)
            in_chunk += run.group.n_rows
            if (shape.tile_rows < CHAIN_ROWS and request.grad != NULL and status == 0
                    and (ends_chain(in_chunk, n_rows) if run.group.is_open else run.divisor != 0)):
                status = pool_run(lease, n_sums, chain_task, run, poll_from_pool, interrupt)
        add_loss(run.totals, chunk_loss)
        if run.totals.wide != NULL and status == 0:
            run.first_chunk = done == 0
            status = pool_run(lease, n_sums, accumulate_task, run, poll_from_pool, interrupt)
        done += n_rows
    if run.totals.wide != NULL and status == 0:
        status = pool_run(lease, n_sums, divide_task, run, poll_from_pool, interrupt)
    return status


cdef int run_strips(const Request* request, Py_ssize_t n_chunks, int n_threads, Interrupt* interrupt,
                    double* loss) noexcept nogil:
    """All threads on one group of rows."""
    cdef const Shape* shape = request.shape
    cdef StripRun run
    cdef Lease lease
    cdef Py_ssize_t rows = shape.tile_rows
    cdef int status = NO_WORKSPACE
    while rows < n_threads * shape.tile_rows and rows < CHAIN_ROWS:
        rows *= 2  # still a part of a chain, or a whole one
    if rows % CHAIN_ROWS == 0:
        rows = max(rows, n_threads * shape.tile_rows // CHAIN_ROWS * CHAIN_ROWS)  # a tile a thread
    rows = min(rows, rows_of_chunk(shape, request.n_kept))
    memset(&run, 0, sizeof(StripRun))
    run.request = request
    run.interrupt = interrupt
    run.strip_rows = min(<Py_ssize_t>MAX_TILE_ROWS // 2, max(<Py_ssize_t>MIN_STRIP,
                                                             (rows + 2 * n_threads - 1) // (2 * n_threads) // 8 * 8))
    run.totals = take_totals(shape, request.n_sums, n_chunks > 1 and request.grad != NULL, 0)
    if run.totals == NULL:
        return NO_TOTALS
    run.first_task = <Py_ssize_t*>calloc(shape.n_layers + 2, sizeof(Py_ssize_t))
    if run.first_task == NULL:
        give_totals(shape, run.totals)
        return NO_LIST
    run.work = take_workspace(shape, rows, n_threads, OF_GRADIENT)
    if run.work != NULL:
        pool_acquire(&lease, n_threads)
        status = status_of(value_and_grad_in_strips(&run, &lease, interrupt), interrupt)
        pool_release(&lease)
        give_workspace(shape, run.work)
    free(run.first_task)
    if status == LOST:
        status = run_in_order(request, run.totals, interrupt)
    loss[0] = mean_loss(run.totals, request.divisor)
    give_totals(shape, run.totals)
    return status
