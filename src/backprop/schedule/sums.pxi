# Sums over samples on one thread: tiles into chunks, chunks into totals.
# Needs: schedule/totals, cuts, free_lists; the derivatives' functions of a tile, by the request's mode alone.
# Gives: chunk_sums, sums_in_order, run_in_order.

cdef inline bint has_open_chains(const Request* request, const Workspace* work, Py_ssize_t n_rows) noexcept nogil:
    """Whether so many rows fall into tiles that are shorter than a chain."""
    return (work.tile_rows < CHAIN_ROWS and n_rows > work.tile_rows and request.grad != NULL
            and request.buffers < OF_HESSIAN and request.blocks == 1)


cdef inline bint ends_chain(Py_ssize_t done, Py_ssize_t n_rows) noexcept nogil:
    """Whether a chain ends after so many rows of a chunk."""
    return done % CHAIN_ROWS == 0 or done == n_rows


cdef int chunk_sums(const Request* request, Workspace* work, Interrupt* interrupt, Py_ssize_t* row, Py_ssize_t n_rows,
                    char* grad, double divisor, double* loss) noexcept nogil:
    """The loss of one chunk, from source row `row` on, and its gradient (or other sums) into grad unless that is NULL.

    divisor is 0, or what the sums are divided by if this chunk is the only one.
    """
    cdef Py_ssize_t done = 0, s, k
    cdef bint is_open = has_open_chains(request, work, n_rows)
    cdef bint has_short_tiles = request.shape.tile_rows < CHAIN_ROWS and request.blocks == 1
    cdef bint add
    cdef char* sums = work.open_chain if is_open else grad
    cdef double end  # divisor, if the sums end with this tile
    cdef Tile tile = new_tile(request, work, interrupt)
    loss[0] = 0
    while done < n_rows:
        row[0] = fill_tile(&tile, row[0], min(work.tile_rows, n_rows - done))
        tile.packing = packing_of(&tile, tile.n_rows == request.n_kept)
        tile.is_open = is_open
        add = done % CHAIN_ROWS > 0 if is_open else done > 0
        end = divisor if done + tile.n_rows == n_rows else 0
        tile.divisor = end if request.mode.flags & DIVIDES and not has_short_tiles else 0
        if request.mode.tile(&tile, sums, add):
            return 1
        if end != tile.divisor and not has_short_tiles:
            for k in range(n_parts_of_sums(request)):
                if divide_only_chunk(request, grad, k, end, interrupt):
                    return 1
        if has_short_tiles and grad != NULL and (ends_chain(done + tile.n_rows, n_rows) if is_open else end != 0):
            for k in range(n_parts_of_sums(request)):
                if add_chain(request, k, sums, grad, done < CHAIN_ROWS, end, interrupt):
                    return 1
        for s in range(tile.n_rows):
            loss[0] += work.row_loss[s]
        done += tile.n_rows
    return 0


cdef int sums_in_order(const Request* request, Workspace* work, Totals* totals, Interrupt* interrupt) noexcept nogil:
    """One chunk after another, on one thread."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t row = 0, done = 0, c = 0, n_rows = rows_of_chunk(shape, request.n_whole), k
    cdef Py_ssize_t n_sums = 0 if totals.wide == NULL else n_parts_of_sums(request)
    cdef double loss
    while done < request.n_kept:
        if chunk_sums(request, work, interrupt, &row, min(n_rows, request.n_kept - done), request.grad,
                      request.divisor if totals.wide == NULL else 0, &loss):
            return 1
        add_loss(totals, loss, c)
        for k in range(n_sums):
            if accumulate(request, request.grad, totals, k, c, interrupt):
                return 1
        done += n_rows
        c += 1
    for k in range(n_sums):
        if divide(request, totals, k, interrupt):
            return 1
    return 0


cdef int run_in_order(const Request* request, Totals* totals, Interrupt* interrupt) noexcept nogil:
    """On the caller's thread, from the start: sums that threads left unfinished in totals are dropped."""
    cdef const Shape* shape = request.shape
    cdef Workspace* work = take_workspace(shape, rows_of_tile(shape, request.n_whole, request.buffers, request.blocks),
                                          1, request.buffers, request.blocks)
    cdef int status
    if work == NULL:
        return NO_WORKSPACE
    start_totals(totals, request)
    status = RAISED if sums_in_order(request, work, totals, interrupt) else DONE
    give_workspace(shape, work)
    return status
