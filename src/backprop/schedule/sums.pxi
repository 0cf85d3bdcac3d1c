# Tiles into chunks, and chunks into wide sums (note C of _core.pyx).

cdef extern from "kernels/two_sum.h" nogil:
    void two_sum "bp_two_sum"(double a, double b, double* total, double* error) noexcept


cdef inline int packing_of(const Workspace* work, bint is_only_tile) noexcept nogil:
    """How the next tile of a call gets its panels of W^T."""
    if work.is_packed:
        return PACKED
    return PACK_ONCE if is_only_tile else PACK_AND_KEEP


cdef inline bint has_open_chains(const Request* request, const Workspace* work, Py_ssize_t n_rows) noexcept nogil:
    """Whether so many rows fall into tiles that are shorter than a chain."""
    return (work.tile_rows < CHAIN_ROWS and n_rows > work.tile_rows and request.grad != NULL
            and request.kind < OF_HESSIAN)


cdef inline bint ends_chain(Py_ssize_t done, Py_ssize_t n_rows) noexcept nogil:
    """Whether a chain ends after so many rows of a chunk."""
    return done % CHAIN_ROWS == 0 or done == n_rows


cdef bint add_chain(const Layers* plan, const Request* request, Py_ssize_t k, const char* chain, char* sums,
                    bint first, double divisor, Clock* clock) noexcept nogil:
    """Part k of chains that end here into the sums of a chunk, or added to them; divided where divisor is not 0.

    Without chains, where chain is sums, it is divided alone: networks whose tiles may be shorter than a chain are never
    divided in the kernels, which round some subnormal numbers otherwise. True where a signal handler raised.
    """
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start), p
    chain += start * plan.itemsize
    sums += start * plan.itemsize
    if chain == sums:
        pass
    elif first:
        memcpy(sums, chain, n * plan.itemsize)
    elif plan.itemsize == 4:
        for p in range(n):
            (<float*>sums)[p] = (<float*>sums)[p] + (<const float*>chain)[p]
    else:
        for p in range(n):
            (<double*>sums)[p] = (<double*>sums)[p] + (<const double*>chain)[p]
    if divisor != 0:
        plan.kernels.finish(n, sums, divisor, sums)
    return is_stopped(clock, <double>MEMORY_FLOPS * n)


cdef int chunk_sums(const Layers* plan, const Request* request, Workspace* work, Py_ssize_t* row, Py_ssize_t n_rows,
                    char* grad, double divisor, double* loss, Clock* clock) noexcept nogil:
    """The loss of one chunk, from source row `row` on, and its gradient (or other sums) into grad unless that is NULL.

    divisor is 0, or what the sums are divided by where this chunk is the only one. Nonzero where a signal handler
    raised.
    """
    cdef Tile tile
    cdef Py_ssize_t done = 0, s, k
    cdef bint is_open = has_open_chains(request, work, n_rows), has_short_tiles = plan.tile_rows < CHAIN_ROWS, add
    cdef char* sums = work.open_chain if is_open else grad
    cdef double end  # divisor where the sums end with this tile
    loss[0] = 0
    while done < n_rows:
        row[0] = fill_tile(plan, request, work, &tile, row[0], min(work.tile_rows, n_rows - done), clock)
        tile.packing = packing_of(work, tile.n_rows == request.n_kept)
        tile.is_open = is_open
        add = done % CHAIN_ROWS > 0 if is_open else done > 0
        end = divisor if done + tile.n_rows == n_rows else 0
        if request.mode == VALUE_AND_GRAD:
            if forward_sweep(plan, request, work, &tile, grad != NULL, clock):
                return 1
            if output_gradient(plan, request, work, &tile, a_of(plan, work, &tile, plan.n_layers), work.row_loss,
                               grad != NULL, clock):
                return 1
            if grad != NULL and backward_sweep(plan, request, work, &tile, sums, add, 0 if has_short_tiles else end,
                                               clock):
                return 1
        else:
            if sums_of_tile(plan, request, work, &tile, sums, add, clock):
                return 1
            if end != 0 and not has_short_tiles:
                for k in range(n_parts_of_sums(request)):
                    if divide_only_chunk(plan, request, grad, k, end, clock):
                        return 1
        if has_short_tiles and grad != NULL and (ends_chain(done + tile.n_rows, n_rows) if is_open else end != 0):
            for k in range(n_parts_of_sums(request)):
                if add_chain(plan, request, k, sums, grad, done < CHAIN_ROWS, end, clock):
                    return 1
        for s in range(tile.n_rows):
            loss[0] += work.row_loss[s]
        done += tile.n_rows
    return 0


cdef int sums_in_order(const Layers* plan, const Request* request, Workspace* work, Totals* totals,
                       Clock* clock) noexcept nogil:
    """One chunk after another, on one thread; nonzero where a signal handler raised."""
    cdef Py_ssize_t row = 0, done = 0, n_rows = rows_of_chunk(plan, request.n_kept), k
    cdef Py_ssize_t n_sums = 0 if totals.wide == NULL else n_parts_of_sums(request)
    cdef double loss
    while done < request.n_kept:
        if chunk_sums(plan, request, work, &row, min(n_rows, request.n_kept - done), request.grad,
                      request.divisor if totals.wide == NULL else 0, &loss, clock):
            return 1
        add_loss(totals, loss)
        for k in range(n_sums):
            if accumulate(plan, request, request.grad, totals, k, done == 0, clock):
                return 1
        done += n_rows
    for k in range(n_sums):
        if divide(plan, request, totals, k, clock):
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


cdef inline bint accumulate(const Layers* plan, const Request* request, const char* grad, const Totals* totals,
                            Py_ssize_t k, bint first, Clock* clock) noexcept nogil:
    """Add part k of the sums of a chunk, in grad, to the wide sums; true where a signal handler raised, as below."""
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start)
    cdef double* wide_error = NULL
    if totals.wide_error != NULL:
        wide_error = totals.wide_error + start
    plan.kernels.accumulate(n, grad + start * plan.itemsize, totals.wide + start, wide_error, first)
    return is_stopped(clock, <double>MEMORY_FLOPS * n)


cdef inline bint divide(const Layers* plan, const Request* request, const Totals* totals, Py_ssize_t k,
                        Clock* clock) noexcept nogil:
    """Part k of the wide sums over the divisor, rounded once; the sums of a single chunk are divided already."""
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start)
    cdef const double* wide_error = NULL
    if totals.wide_error != NULL:
        wide_error = totals.wide_error + start
    plan.kernels.finish_wide(n, totals.wide + start, wide_error, request.divisor, request.grad + start * plan.itemsize)
    return is_stopped(clock, <double>MEMORY_FLOPS * n)


cdef inline bint divide_only_chunk(const Layers* plan, const Request* request, char* grad, Py_ssize_t k,
                                   double divisor, Clock* clock) noexcept nogil:
    """Part k of the sums of a single chunk, in grad, over the divisor."""
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start)
    plan.kernels.finish(n, grad + start * plan.itemsize, divisor, grad + start * plan.itemsize)
    return is_stopped(clock, <double>MEMORY_FLOPS * n)


cdef int forward_of_tile(const Layers* plan, const Request* request, Workspace* work, Py_ssize_t row,
                         Py_ssize_t n_rows, Clock* clock) noexcept nogil:
    """y_hat of some rows, and a and h of the layers where they are asked for; nonzero where a handler raised."""
    cdef Tile tile
    cdef Py_ssize_t L = plan.n_layers
    fill_tile(plan, request, work, &tile, row, n_rows, clock)
    tile.packing = packing_of(work, n_rows == request.n_samples)
    if forward_sweep(plan, request, work, &tile, False, clock):
        return 1
    if plan.loss_acts_on_a:
        if activation(plan, work, &tile, L, plan.link, False, clock):
            return 1
        if keep(plan, &tile, request.keep_h, L, work.h[L], plan.layers[L].ld, 1, clock):
            return 1
    return copy_into_rows(plan, request, &tile, work.h[L], plan.layers[L].ld, plan.sizes[L], 0, 1, clock)


cdef int copy_into_rows(const Layers* plan, const Request* request, const Tile* tile, const char* rows, Py_ssize_t ld,
                        Py_ssize_t n, Py_ssize_t k, Py_ssize_t n_places, Clock* clock) noexcept nogil:
    """n reals of each row of the tile into place k of n_places of its sample's result.

    Nonzero where a signal handler raised.
    """
    cdef Py_ssize_t s, n_bytes = n * plan.itemsize
    for s in range(tile.n_rows):
        memcpy(request.rows + (tile.rows[s] * n_places + k) * n_bytes, rows + s * ld * plan.itemsize, n_bytes)
        if is_stopped(clock, <double>MEMORY_FLOPS * n * n_places):
            return 1
    return 0
