# Calls whose result has one row per sample. Tiles are independent.
# Needs: schedule/threads, free_lists; the derivatives' functions of a tile, by the request's mode alone.
# Gives: run_rows.

cdef struct RowsRun:
    const Request* request
    Workspace** work             # one a thread
    Py_ssize_t tile_rows
    Interrupt* interrupt


cdef int rows_of(const Request* request, Workspace* work, Interrupt* interrupt, Py_ssize_t row,
                 Py_ssize_t n_rows) noexcept nogil:
    """The results of some rows."""
    cdef Tile tile = new_tile(request, work, interrupt)
    fill_tile(&tile, row, n_rows)
    tile.packing = packing_of(&tile, n_rows == request.n_samples)
    return request.mode.tile(&tile, NULL, False)


cdef void rows_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """One tile of a call by sample."""
    cdef RowsRun* run = <RowsRun*>context
    cdef Py_ssize_t row = index * run.tile_rows
    cdef Interrupt own
    rows_of(run.request, run.work[worker], interrupt_of_thread(run.interrupt, worker, &own), row,
            min(run.tile_rows, run.request.n_samples - row))


cdef int run_rows_in_order(const Request* request, Py_ssize_t rows, Interrupt* interrupt) noexcept nogil:
    """The same on the caller's thread."""
    cdef const Shape* shape = request.shape
    cdef Workspace* work = take_workspace(shape, rows, 1, request.buffers, request.blocks)
    cdef Py_ssize_t row = 0
    if work == NULL:
        return NO_WORKSPACE
    while row < request.n_samples and not has_raised(interrupt):
        rows_of(request, work, interrupt, row, min(rows, request.n_samples - row))
        row += rows
    give_workspace(shape, work)
    return RAISED if has_raised(interrupt) else DONE


cdef int run_rows(const Request* request, int n_threads, Interrupt* interrupt) noexcept nogil:
    """One row of results per sample, tile by tile, on up to n_threads threads."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t rows = min(<Py_ssize_t>shape.tile_rows, request.n_samples)
    cdef RowsRun run
    cdef int status
    if request.blocks > 1:
        rows = rows_of_jet(shape, request.blocks, request.n_samples)
    if n_threads == 1:
        return run_rows_in_order(request, rows, interrupt)
    rows = min(rows, max(<Py_ssize_t>MIN_STRIP, (request.n_samples + n_threads - 1) // n_threads))
    run.request = request
    run.tile_rows = rows
    run.interrupt = interrupt
    run.work = take_workspaces(shape, rows, n_threads, request.buffers, request.blocks)
    if run.work == NULL:
        return NO_WORKSPACE
    status = share_out((request.n_samples + rows - 1) // rows, rows_task, &run, n_threads, interrupt)
    give_workspaces(shape, run.work, n_threads)
    return run_rows_in_order(request, rows, interrupt) if status == LOST else status
