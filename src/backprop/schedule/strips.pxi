# The loss and the gradient, all threads on one group of rows.
# Needs: the equations, schedule/sums, threads. Gives: run_strips.
#
# Up to grad_a the group is divided in one of two ways, and then by units for the weights' gradients:
#
#     by strips    each thread takes rows through all layers. All W^T are packed before.
#     by layers    one layer after another; a layer with a large W by its units, so that each thread reads and packs its
#                  own part of W, and any other by rows. For networks with a W that does not stay in L2 beside the rows:
#                  strips would read it once for each strip.

cdef struct StripRun:
    const Request* request
    Workspace* work
    Totals* totals
    Tile group                   # the rows that are shared
    Py_ssize_t strip_rows
    bint by_layers
    bint is_only_group
    bint is_one_strip            # all rows of the call: its thread packs, or needs no panels for so few rows
    Py_ssize_t layer             # of the phase, if it is of one layer
    Py_ssize_t n_units           # of a task of the phase; 0 if the tasks are strips
    double flops_a_task
    char* sums                   # of the chunk, or of open chains
    bint add                     # to these
    bint first_chain
    double divisor               # of the sums of a single chunk if they end here, else 0
    Py_ssize_t chunk             # its number
    Py_ssize_t* first_task       # by layer, of the phase that packs or sums by units; and their number at the end
    Interrupt* interrupt


cdef enum:
    PACK_COLUMNS = 192           # columns of W^T that a task packs: whole panels on every instruction set
    DIVIDED_BYTES = 65536        # a W of so many bytes is divided by its units


cdef inline Py_ssize_t n_strips(const StripRun* run) noexcept nogil:
    """Strips of the group's rows."""
    return (run.group.n_rows + run.strip_rows - 1) // run.strip_rows


cdef inline bint is_cut_by_inputs(const StripRun* run, Py_ssize_t i) noexcept nogil:
    """Whether tasks of grad_W_i are some inputs of all units: the kernel copies the panels of such long rows of h.

    A task of few units would copy all of them for itself. But few samples write grad_W row by row.
    """
    return (run.group.n_rows >= MIN_STRIP
            and ld_of_input(run.request.shape, i) * run.request.shape.itemsize >= FAR_BYTES)


cdef inline Py_ssize_t units_a_task(const StripRun* run, Py_ssize_t i) noexcept nogil:
    """Units of layer i whose gradient is one task, a multiple of 8, so that blocks of rows stay whole; or inputs."""
    cdef const Layer* layer = &run.request.shape.layers[i]
    if is_cut_by_inputs(run, i):
        return max(<Py_ssize_t>PIECE_COLUMNS, <Py_ssize_t>(run.flops_a_task / (2.0 * run.group.n_rows * layer.n_out))
                   // PIECE_COLUMNS * PIECE_COLUMNS)
    return max(<Py_ssize_t>8, <Py_ssize_t>(run.flops_a_task / (2.0 * run.group.n_rows * layer.n_in)) // 8 * 8)


cdef inline bint is_divided(const StripRun* run, Py_ssize_t i, Py_ssize_t of_layer) noexcept nogil:
    """Whether a product with W_i is divided by the units of a layer, i or i - 1, and not by rows.

    A user's own function takes whole rows of a_i.
    """
    cdef const Shape* shape = run.request.shape
    cdef const Layer* layer = &shape.layers[i]
    return (layer.n_in * layer.n_out * shape.itemsize >= DIVIDED_BYTES
            and shape.sizes[of_layer] >= 2 * PIECE_COLUMNS and (of_layer < i or layer.activation != CUSTOM))


cdef inline bint has_panels(const Shape* shape, Py_ssize_t i) noexcept nogil:
    """Whether W_i is packed: the dot form of a narrow layer reads it as stored."""
    return shape.kernels.packed_size(shape.layers[i].n_in, shape.layers[i].n_out) > 0


cdef Py_ssize_t number_tasks(StripRun* run, bint by_units) noexcept nogil:
    """Number the tasks of a phase, layer by layer: panels that are packed, or units that are summed; how many."""
    cdef Py_ssize_t i, size, n
    run.first_task[1] = 0
    for i in range(1, run.request.shape.n_layers + 1):
        size = units_a_task(run, i) if by_units else PACK_COLUMNS
        n = run.request.shape.sizes[i - 1 if by_units and is_cut_by_inputs(run, i) else i]
        run.first_task[i + 1] = run.first_task[i]
        if by_units or not (run.by_layers and is_divided(run, i, i)) and has_panels(run.request.shape, i):
            run.first_task[i + 1] += (n + size - 1) // size
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
    strip.packing = PACK_ONCE if run.is_one_strip else PACKED
    if forward_sweep(&strip, with_gradient):
        return
    if output_gradient(&strip, a_of(&strip, run.request.shape.n_layers), run.work.row_loss + strip.first,
                       with_gradient):
        return
    if with_gradient:
        backward_sweep(&strip, NULL, False)


cdef Py_ssize_t start_layer(StripRun* run, Py_ssize_t i, Py_ssize_t of_layer, int n_threads) noexcept nogil:
    """Begin a phase with W_i that computes units of a layer, and return the number of its tasks: two a thread.

    Units are cut between panels, PIECE_COLUMNS or more on each side: a narrower product would have other bits.
    """
    cdef Py_ssize_t n = run.request.shape.sizes[of_layer], columns = run.request.shape.kernels.panel_columns(), n_tasks
    run.layer = of_layer
    run.n_units = 0
    if not is_divided(run, i, of_layer):
        return n_strips(run)
    n_tasks = min(<Py_ssize_t>2 * n_threads, n // PIECE_COLUMNS)
    run.n_units = ((n + n_tasks - 1) // n_tasks + columns - 1) // columns * columns
    return max(<Py_ssize_t>1, (n + run.n_units - PIECE_COLUMNS) // run.n_units)


cdef inline Tile part_of_layer(const StripRun* run, Py_ssize_t index, int worker, Interrupt* own, Py_ssize_t* unit,
                               Py_ssize_t* n_units) noexcept nogil:
    """The rows and units of a task of such a phase; the last one takes all units that are left."""
    cdef Py_ssize_t n = run.request.shape.sizes[run.layer], first = index * run.strip_rows
    cdef Tile part = run.group
    unit[0] = 0
    n_units[0] = n
    if run.n_units:
        unit[0] = index * run.n_units
        n_units[0] = run.n_units if n - unit[0] - run.n_units >= PIECE_COLUMNS else n - unit[0]
    else:
        part = part_of(&run.group, first, min(run.strip_rows, run.group.n_rows - first))
    give_to_thread(run, &part, worker, own)
    return part


cdef void end_of_layer(const StripRun* run, const Tile* part) noexcept nogil:
    """(3) for some rows of a layer; and (4) if it is the last."""
    cdef const Shape* shape = run.request.shape
    cdef Py_ssize_t i = run.layer
    cdef bint with_gradient = run.request.grad != NULL
    if i < shape.n_layers or not shape.loss_acts_on_a:
        if activation(part, i, shape.layers[i].activation, with_gradient):
            return
    if i == shape.n_layers:
        output_gradient(part, a_of(part, i), run.work.row_loss + part.first, with_gradient)


cdef void output_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """(3) and (4) for some rows of the last layer, if its a was divided by units."""
    cdef StripRun* run = <StripRun*>context
    cdef Py_ssize_t unit, n_units
    cdef Interrupt own
    cdef Tile part = part_of_layer(run, index, worker, &own, &unit, &n_units)
    end_of_layer(run, &part)


cdef void forward_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """(2) and (3) for some units or rows of one layer. Of the last layer, rows get (4) too, and units get (2) alone."""
    cdef StripRun* run = <StripRun*>context
    cdef const Shape* shape = run.request.shape
    cdef const Layer* layer = &shape.layers[run.layer]
    cdef bint with_gradient = run.request.grad != NULL
    cdef Py_ssize_t i = run.layer, unit, n_units
    cdef Interrupt own
    cdef Tile part = part_of_layer(run, index, worker, &own, &unit, &n_units)
    cdef int packing = PACKED
    if run.n_units and not run.work.is_packed:
        packing = PACK_ONCE if run.is_only_group else PACK_AND_KEEP
    elif run.is_one_strip:
        packing = PACK_ONCE
    if preactivation_of_units(&part, i, unit, n_units, run.request.params + layer.W, run.request.params + layer.b,
                              input_of(&part, i), run.work.packed[i], packing, a_of(&part, i), OVERWRITE):
        return
    if run.n_units and i < shape.n_layers:
        activation_of_units(&part, i, unit, n_units, layer.activation, with_gradient)
    elif run.n_units == 0:
        end_of_layer(run, &part)


cdef void hidden_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """(5) and (6) for some units or rows of one layer."""
    cdef StripRun* run = <StripRun*>context
    cdef Py_ssize_t i = run.layer, unit, n_units
    cdef Interrupt own
    cdef Tile part = part_of_layer(run, index, worker, &own, &unit, &n_units)
    hidden_sum_of_units(&part, i, unit, n_units, run.request.params, a_of(&part, i + 1), a_of(&part, i), a_of(&part, i),
                        TIMES)


cdef int layer_by_layer(StripRun* run, const Lease* lease, Interrupt* interrupt) noexcept nogil:
    """(2)-(6) for the rows of the group."""
    cdef Py_ssize_t i, L = run.request.shape.n_layers
    cdef int status = 0
    for i in range(1, L + 1):
        status = pool_run(lease, start_layer(run, i, i, lease.n_threads), forward_task, run, poll_from_pool, interrupt)
        if status:
            return status
    run.work.is_packed = not run.is_only_group
    if run.n_units:
        run.n_units = 0
        status = pool_run(lease, n_strips(run), output_task, run, poll_from_pool, interrupt)
        if status:
            return status
    if run.request.grad != NULL:
        for i in range(L - 1, 0, -1):
            status = pool_run(lease, start_layer(run, i + 1, i, lease.n_threads), hidden_task, run, poll_from_pool,
                              interrupt)
            if status:
                return status
    return 0


cdef void units_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """(7) and (8) for some units of one layer, or (7) for some inputs, over all rows of the group."""
    cdef StripRun* run = <StripRun*>context
    cdef const Shape* shape = run.request.shape
    cdef Py_ssize_t i = layer_of_task(run, index), n = units_a_task(run, i), n_units = shape.sizes[i]
    cdef Py_ssize_t first = (index - run.first_task[i]) * n
    cdef Tile group = run.group
    cdef const char* grad_a
    cdef Interrupt own
    give_to_thread(run, &group, worker, &own)
    grad_a = a_of(&group, i)
    if is_cut_by_inputs(run, i):
        if weight_gradient_of_inputs(&group, i, 0, n_units, first, min(n, shape.sizes[i - 1] - first), grad_a,
                                     input_of(&group, i), run.sums, run.add) or first > 0:
            return
        first, n = 0, n_units
    elif weight_gradient(&group, i, first, min(n, n_units - first), grad_a, input_of(&group, i), run.sums, run.add):
        return
    bias_gradient(&group, i, first, min(n, n_units - first), grad_a, run.sums, run.add)


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
    accumulate(run.request, run.request.grad, run.totals, index, run.chunk,
               interrupt_of_thread(run.interrupt, worker, &own))


cdef void divide_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """Some parameters of the result."""
    cdef StripRun* run = <StripRun*>context
    cdef Interrupt own
    divide(run.request, run.totals, index, interrupt_of_thread(run.interrupt, worker, &own))


cdef bint goes_by_layers(const Request* request) noexcept nogil:
    """Whether some W takes a quarter of L2 or more, and layers that are divided have most of the parameters.

    Each layer costs two more barriers. Calls that keep a, h or their gradients go by strips.

    Two threads over one, v3, float32 and float64, by strips and by layers: 1000-3000-1000 at 300 samples 1.72 and 1.69,
    1.90 and 1.87; 100-200-26 at 128, whose W are smaller, 1.49 and 1.52, 1.37 and 1.35.
    """
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t i, n, divided = 0, largest = 0
    if (request.keep_a != NULL or request.keep_h != NULL or request.keep_grad_a != NULL
            or request.keep_grad_h != NULL):
        return False
    for i in range(1, shape.n_layers + 1):
        n = shape.layers[i].n_in * shape.layers[i].n_out
        largest = max(largest, n)
        if n * shape.itemsize >= DIVIDED_BYTES:
            divided += n
    return 4 * largest * shape.itemsize >= shape.kernels.get_l2_bytes() and 2 * divided >= shape.n_params


cdef int value_and_grad_in_strips(StripRun* run, const Lease* lease, Interrupt* interrupt) noexcept nogil:
    """All chunks by strips; nonzero if a signal handler raised or forked."""
    cdef const Shape* shape = run.request.shape
    cdef const Request* request = run.request
    cdef Py_ssize_t row = 0, done = 0, in_chunk, n_rows, s
    cdef Py_ssize_t chunk_rows = rows_of_chunk(shape, request.n_whole)
    cdef Py_ssize_t n_sums = n_parts_of_sums(request)
    cdef double chunk_loss
    cdef int status = 0
    run.group = new_tile(request, run.work, interrupt)
    if not run.is_one_strip:
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
            if run.by_layers:
                run.is_only_group = run.group.n_rows == request.n_kept
                status = layer_by_layer(run, lease, interrupt)
            else:
                status = pool_run(lease, n_strips(run), strip_task, run, poll_from_pool, interrupt)
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
        add_loss(run.totals, chunk_loss, run.chunk)
        if run.totals.wide != NULL and status == 0:
            status = pool_run(lease, n_sums, accumulate_task, run, poll_from_pool, interrupt)
        done += n_rows
        run.chunk += 1
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
    rows = min(rows, rows_of_chunk(shape, request.n_whole))
    memset(&run, 0, sizeof(StripRun))
    run.request = request
    run.interrupt = interrupt
    run.strip_rows = min(<Py_ssize_t>MAX_TILE_ROWS // 2, max(<Py_ssize_t>MIN_STRIP,
                                                             (rows + 2 * n_threads - 1) // (2 * n_threads) // 8 * 8))
    run.is_one_strip = request.n_kept <= run.strip_rows
    run.by_layers = goes_by_layers(request)
    run.totals = take_totals(request, request.grad != NULL and (n_chunks > 1 or request.state != NULL), 0)
    if run.totals == NULL:
        return NO_TOTALS
    run.first_task = <Py_ssize_t*>calloc(shape.n_layers + 2, sizeof(Py_ssize_t))
    if run.first_task == NULL:
        give_totals(shape, run.totals)
        return NO_LIST
    run.work = take_workspace(shape, rows, n_threads, OF_GRADIENT, 1)
    if run.work != NULL:
        pool_acquire(&lease, n_threads)
        status = status_of(value_and_grad_in_strips(&run, &lease, interrupt), interrupt)
        pool_release(&lease)
        give_workspace(shape, run.work)
    free(run.first_task)
    if status == LOST:
        status = run_in_order(request, run.totals, interrupt)
    loss[0] = mean_loss(run.totals, request)
    give_totals(shape, run.totals)
    return status
