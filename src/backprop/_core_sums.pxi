# Tiles into chunks, and chunks into wide sums (note C of _core.pyx).

cdef extern from "_two_sum.h" nogil:
    void two_sum "bp_two_sum"(double a, double b, double* total, double* error) noexcept


cdef inline int packing_of(const Workspace* work, bint is_only_tile) noexcept nogil:
    """How the next tile of a call gets its panels of W^T."""
    if work.is_packed:
        return PACKED
    return PACK_ONCE if is_only_tile else PACK_AND_KEEP


cdef int chunk_sums(const Layers* plan, const Request* request, Workspace* work, Py_ssize_t* row, Py_ssize_t n_rows,
                    char* grad, double divisor, double* loss, bint is_workers, Clock* clock) noexcept nogil:
    """The loss of one chunk, from source row `row` on, and its gradient (or other sums) into grad unless that is NULL.

    divisor is 0, or what the sums are divided by where this chunk is the only one. Nonzero where a signal handler
    raised.
    """
    cdef Tile tile
    cdef Py_ssize_t done = 0, s
    loss[0] = 0
    while done < n_rows:
        row[0] = fill_tile(plan, request, work, &tile, row[0], min(work.tile_rows, n_rows - done))
        tile.packing = packing_of(work, tile.n_rows == request.n_kept)
        tile.is_workers = is_workers
        if request.mode == VALUE_AND_GRAD:
            if forward_sweep(plan, request, work, &tile, grad != NULL, clock):
                return 1
            output_gradient(plan, request, work, &tile, a_of(plan, work, &tile, plan.n_layers), work.row_loss,
                            grad != NULL)
            if grad != NULL and backward_sweep(plan, request, work, &tile, grad, done > 0,
                                               divisor if done + tile.n_rows == n_rows else 0, clock):
                return 1
        else:
            if sums_of_tile(plan, request, work, &tile, grad, done > 0, clock):
                return 1
            if divisor != 0 and done + tile.n_rows == n_rows:
                plan.kernels.finish(request.n_sums, grad, divisor, grad)
        for s in range(tile.n_rows):
            loss[0] += work.row_loss[s]
        done += tile.n_rows
        if n_rows > work.tile_rows and is_stopped(is_workers, clock):
            return 1
    return 0


cdef int sums_in_order(const Layers* plan, const Request* request, Workspace* work, Totals* totals, bint is_workers,
                       Clock* clock) noexcept nogil:
    """One chunk after another, on one thread; nonzero where a signal handler raised."""
    cdef Py_ssize_t row = 0, done = 0, n_rows = rows_of_chunk(plan, request.n_kept), k
    cdef Py_ssize_t n_sums = 0 if totals.wide == NULL else n_parts_of_sums(request)
    cdef double loss
    while done < request.n_kept:
        if chunk_sums(plan, request, work, &row, min(n_rows, request.n_kept - done), request.grad,
                      request.divisor if totals.wide == NULL else 0, &loss, is_workers, clock):
            return 1
        add_loss(totals, loss)
        for k in range(n_sums):
            accumulate(plan, request, totals, k, done == 0)
            if is_stopped(is_workers, clock):
                return 1
        done += n_rows
    for k in range(n_sums):
        divide(plan, request, totals, k)
        if is_stopped(is_workers, clock):
            return 1
    return 0


cdef inline void add_loss(Totals* totals, double loss) noexcept nogil:
    """Add the loss of a chunk."""
    cdef double error
    two_sum(totals.loss, loss, &totals.loss, &error)
    totals.loss_error += error


cdef inline double mean_loss(const Totals* totals, double divisor) noexcept nogil:
    """The sum of all losses, divided; after an overflow the error is NaN, the sum still inf."""
    if totals.loss_error == totals.loss_error:
        return (totals.loss + totals.loss_error) / divisor
    return totals.loss / divisor


cdef inline Py_ssize_t n_parts_of_sums(const Request* request) noexcept nogil:
    """Parts of SUM_ENTRIES parameters in which wide sums are added and divided."""
    return (request.n_sums + SUM_ENTRIES - 1) // SUM_ENTRIES


cdef inline void accumulate(const Layers* plan, const Request* request, const Totals* totals, Py_ssize_t k,
                            bint first) noexcept nogil:
    """Add part k of the gradient of a chunk, in request.grad, to the wide sums."""
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start)
    cdef double* wide_error = NULL
    if totals.wide_error != NULL:
        wide_error = totals.wide_error + start
    plan.kernels.accumulate(n, request.grad + start * plan.itemsize, totals.wide + start, wide_error, first)


cdef inline void divide(const Layers* plan, const Request* request, const Totals* totals, Py_ssize_t k) noexcept nogil:
    """Part k of the wide sums over the divisor, rounded once; the sums of a single chunk are divided already."""
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start)
    cdef const double* wide_error = NULL
    if totals.wide_error != NULL:
        wide_error = totals.wide_error + start
    plan.kernels.finish_wide(n, totals.wide + start, wide_error, request.divisor, request.grad + start * plan.itemsize)


cdef int forward_of_tile(const Layers* plan, const Request* request, Workspace* work, Py_ssize_t row,
                         Py_ssize_t n_rows, bint is_workers, Clock* clock) noexcept nogil:
    """y_hat of some rows, and a and h of the layers where they are asked for; nonzero where a handler raised."""
    cdef Tile tile
    cdef Py_ssize_t L = plan.n_layers, s, n_bytes = plan.sizes[plan.n_layers] * plan.itemsize
    fill_tile(plan, request, work, &tile, row, n_rows)
    tile.packing = packing_of(work, n_rows == request.n_samples)
    tile.is_workers = is_workers
    if forward_sweep(plan, request, work, &tile, False, clock):
        return 1
    if plan.loss_acts_on_a:
        activation(plan, work, &tile, L, plan.link, False)
        keep(plan, &tile, request.keep_h, L, work.h[L], plan.layers[L].ld, 1)
    for s in range(n_rows):
        memcpy(request.rows + (row + s) * n_bytes, work.h[L] + s * plan.layers[L].ld * plan.itemsize, n_bytes)
    return 0
