# The same sums on several threads. Two ways to divide the work, and neither changes a bit:
#
#     chunks    each thread takes whole chunks; their gradients are added in the order of the chunks. For long batches
#               of networks whose gradient fits into a cache.
#     strips    all threads share one group of rows of a chunk: first its rows are divided, for (2)-(6), then the units
#               of the layers, for (7) and (8). For short batches, and for wide layers.
#
# The pool (pool/pool.c) hands out tasks by number, in ascending order; the caller takes part and polls for signals.

cdef extern from "pool/pool.h" nogil:
    ctypedef void (*PoolTask "bp_pool_task")(void* context, Py_ssize_t index, int worker) noexcept nogil
    ctypedef struct Lease "bp_pool_lease":
        int n_threads
    int pool_acquire "bp_pool_acquire"(Lease* lease, int n_threads) noexcept
    int pool_run "bp_pool_lease_run"(const Lease* lease, Py_ssize_t n_tasks, PoolTask task, void* context,
                                     int (*poll)(void*) noexcept nogil, void* poll_context) noexcept
    void pool_release "bp_pool_release"(Lease* lease) noexcept
    void pool_yield "bp_pool_yield"() noexcept
    unsigned int pool_forks "bp_pool_forks"() noexcept
    enum:
        POOL_LOST "BP_POOL_LOST"

cdef extern from *:
    """
    #ifdef _WIN32
    #define BP_EXPORT __declspec(dllexport)
    #else
    #define BP_EXPORT __attribute__((visibility("default")))
    #endif
    /* Exported: by this symbol threadpoolctl knows the library (_threadpoolctl.py). */
    BP_EXPORT int backprop_worker_threads(void) { return bp_pool_size(); }
    /* All seq_cst: in chunk_task a thread sets its flag and then looks at the others' words, and they do the same the
       other way round; one of the two must see the other. Weaker orders lost a chunk in one of some 10^4 calls. */
    static inline int bp_load_int(const int *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void bp_store_int(int *p, int v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline Py_ssize_t bp_load_size(const Py_ssize_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void bp_store_size(Py_ssize_t *p, Py_ssize_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline int bp_try_lock(int *p) { return !__atomic_exchange_n(p, 1, __ATOMIC_SEQ_CST); }
    static inline void bp_unlock(int *p) { __atomic_store_n(p, 0, __ATOMIC_RELEASE); }
    """
    int backprop_worker_threads() noexcept nogil
    int load_int "bp_load_int"(const int* p) noexcept nogil
    void store_int "bp_store_int"(int* p, int v) noexcept nogil
    Py_ssize_t load_size "bp_load_size"(const Py_ssize_t* p) noexcept nogil
    void store_size "bp_store_size"(Py_ssize_t* p, Py_ssize_t v) noexcept nogil
    int try_lock "bp_try_lock"(int* p) noexcept nogil
    void unlock "bp_unlock"(int* p) noexcept nogil  # not for locks whose owner looks at something afterwards

cdef enum:
    # Two threads pay from 4 MFLOP on, 40 us of serial work (1-32-32-32-1 at 256 samples: 1.8 times the rate); at 2.4
    # MFLOP (8-64-64-2 at 64) they took between 0.7 and 1.8 of one thread's time.
    FLOPS_A_THREAD = 2000000
    MOST_THREADS = 256           # of the pool
    FLOPS_A_UNIT = 60            # of an activation and its derivative, in the same currency
    CHUNK_BYTES = 1048576        # a gradient up to this size is added from cache: chunks; beyond it, strips
    MIN_STRIP = 16               # rows: two blocks of rows share what is loaded of a panel
    PACK_COLUMNS = 192           # columns of W^T that a task packs: whole panels on every instruction set
    SUM_ENTRIES = 65536          # parameters that a task adds or divides
    SPARE_BYTES = 4194304        # of slots beyond one a thread


cdef int useful_threads(const Layers* plan, Py_ssize_t n_samples, int n_threads) noexcept nogil:
    """As many threads as the work is worth, at most n_threads."""
    cdef double flops = <double>n_samples * (6.0 * plan.n_params + FLOPS_A_UNIT * plan.n_units)
    if flops < 2.0 * FLOPS_A_THREAD or plan.is_serial:
        return 1
    return <int>min(<double>n_threads, flops / FLOPS_A_THREAD)


cdef int poll_from_pool(void* clock) noexcept nogil:
    """Nonzero where a signal handler raised."""
    return signal_is_pending(<Clock*>clock)


def worker_threads():
    """The native threads that this process has made and that are alive."""
    return backprop_worker_threads()


# Chunks ---------------------------------------------------------------------------------------------------------------

cdef struct ChunkRun:
    const Layers* plan
    const Request* request
    Workspace** work             # one a thread
    Totals* totals
    const Py_ssize_t* starts     # the first source row of each chunk, or NULL where rows are not left out
    Py_ssize_t chunk_rows, n_chunks
    Py_ssize_t n_added           # chunks 0..n_added-1 are in the totals
    int adding                   # a lock that is only tried: who has it adds all that are ready
    Clock* clock


cdef void chunk_task(void* context, Py_ssize_t c, int worker) noexcept nogil:
    """The sums of chunk c into its slot; then whatever is ready and next in order goes into the totals."""
    cdef ChunkRun* run = <ChunkRun*>context
    cdef Totals* totals = run.totals
    cdef Py_ssize_t slot = c % totals.n_slots, row = c * run.chunk_rows
    cdef char* grad = NULL
    cdef Clock own
    cdef Clock* clock = clock_of_thread(run.clock, worker, &own)
    cdef unsigned int forks = pool_forks()
    cdef bint stopped
    if run.request.grad != NULL:
        grad = totals.slots + slot * run.request.n_sums * run.plan.itemsize
    while c >= load_size(&run.n_added) + totals.n_slots:  # the slot is taken: chunk c - n_slots is in another's hands
        if signal_is_pending(clock) or pool_forks() != forks:  # and will never be ready
            return
        pool_yield()
    if run.starts != NULL:
        row = run.starts[c]
    if chunk_sums(run.plan, run.request, run.work[worker], &row,
                  min(run.chunk_rows, run.request.n_kept - c * run.chunk_rows), grad, 0, &totals.slot_loss[slot],
                  clock):
        return
    store_int(&totals.slot_is_ready[slot], 1)
    # Whoever adds looks again after giving the lock back: a chunk that became ready meanwhile is not left behind.
    while load_int(&totals.slot_is_ready[load_size(&run.n_added) % totals.n_slots]) and try_lock(&run.adding):
        stopped = add_ready_chunks(run, clock)
        store_int(&run.adding, 0)
        if stopped:
            return


cdef bint add_ready_chunks(ChunkRun* run, Clock* clock) noexcept nogil:
    """Add the chunks that are ready to the totals, in order; true where a signal handler raised."""
    cdef Totals* totals = run.totals
    cdef Py_ssize_t c = load_size(&run.n_added), slot, k
    while c < run.n_chunks and load_int(&totals.slot_is_ready[c % totals.n_slots]):
        slot = c % totals.n_slots
        add_loss(totals, totals.slot_loss[slot])
        if run.request.grad != NULL:
            for k in range(n_parts_of_sums(run.request)):
                if accumulate(run.plan, run.request, totals.slots + slot * run.request.n_sums * run.plan.itemsize,
                              totals, k, c == 0, clock):
                    return True
        store_int(&totals.slot_is_ready[slot], 0)
        c += 1
        store_size(&run.n_added, c)
    return False


# Strips ---------------------------------------------------------------------------------------------------------------

cdef struct StripRun:
    const Layers* plan
    const Request* request
    Workspace* work
    Totals* totals
    Tile group                   # the rows that are shared
    Py_ssize_t strip_rows
    double flops_a_task
    char* sums                   # of the chunk, or of open chains
    bint add                     # to these
    bint first_chain
    double divisor               # 0, or where the sums of a single chunk end
    bint first_chunk
    Py_ssize_t* first_task       # by layer, of the phase that packs or sums by units; and their number at the end
    Clock* clock


cdef Py_ssize_t number_tasks(StripRun* run, bint by_units) noexcept nogil:
    """Number the tasks of a phase, layer by layer: panels that are packed, or units that are summed; how many."""
    cdef Py_ssize_t i, size
    run.first_task[1] = 0
    for i in range(1, run.plan.n_layers + 1):
        size = units_a_task(run, i) if by_units else PACK_COLUMNS
        run.first_task[i + 1] = run.first_task[i] + (run.plan.sizes[i] + size - 1) // size
    return run.first_task[run.plan.n_layers + 1]


cdef Py_ssize_t layer_of_task(const StripRun* run, Py_ssize_t index) noexcept nogil:
    """The layer of a task: by halves, since a walk for each task takes n_layers^2 steps in all."""
    cdef Py_ssize_t first = 1, last = run.plan.n_layers, middle
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
    cdef const Layers* plan = run.plan
    cdef Py_ssize_t i = layer_of_task(run, index), first = (index - run.first_task[i]) * PACK_COLUMNS
    cdef Clock own
    cdef Clock* clock = clock_of_thread(run.clock, worker, &own)
    cdef Pieces p
    start_pieces(&p, clock, 1, 1, min(<Py_ssize_t>PACK_COLUMNS, plan.sizes[i] - first), PIECE_COLUMNS,
                 <double>MEMORY_FLOPS * plan.layers[i].n_in, 0)
    while p.n:
        plan.kernels.pack(plan.layers[i].n_in, plan.layers[i].n_out, run.request.params + plan.layers[i].W,
                          run.work.packed[i], first + p.column, first + p.column + p.n)
        if next_piece(&p, clock):
            return


cdef void strip_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """(2)-(6) for some rows of the group."""
    cdef StripRun* run = <StripRun*>context
    cdef Py_ssize_t first = index * run.strip_rows
    cdef Tile strip = part_of(run.plan, run.request, &run.group, first,
                              min(run.strip_rows, run.group.n_rows - first))
    cdef bint with_gradient = run.request.grad != NULL
    cdef Clock own
    cdef Clock* clock = clock_of_thread(run.clock, worker, &own)
    strip.scratch = run.work.scratch + worker * run.work.scratch_bytes
    strip.packing = PACKED
    if forward_sweep(run.plan, run.request, run.work, &strip, with_gradient, clock):
        return
    if output_gradient(run.plan, run.request, run.work, &strip,
                       a_of(run.plan, run.work, &strip, run.plan.n_layers), run.work.row_loss + strip.first,
                       with_gradient, clock):
        return
    if with_gradient:
        backward_sweep(run.plan, run.request, run.work, &strip, NULL, False, 0, clock)


cdef inline Py_ssize_t units_a_task(const StripRun* run, Py_ssize_t i) noexcept nogil:
    """Units of layer i whose gradient is one task: a multiple of 8, so that blocks of rows stay whole."""
    cdef double flops_a_unit = 2.0 * run.group.n_rows * run.plan.layers[i].n_in
    return max(<Py_ssize_t>8, <Py_ssize_t>(run.flops_a_task / flops_a_unit) // 8 * 8)


cdef void units_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """(7) and (8) for some units of one layer, over all rows of the group."""
    cdef StripRun* run = <StripRun*>context
    cdef Py_ssize_t i = layer_of_task(run, index), units = units_a_task(run, i)
    cdef Py_ssize_t first = (index - run.first_task[i]) * units
    cdef Tile group = run.group
    cdef double divisor = 0 if run.plan.tile_rows < CHAIN_ROWS else run.divisor  # else `add_chain` divides
    cdef const char* grad_a
    cdef Clock own
    cdef Clock* clock = clock_of_thread(run.clock, worker, &own)
    group.scratch = run.work.scratch + worker * run.work.scratch_bytes
    units = min(units, run.plan.sizes[i] - first)
    grad_a = a_of(run.plan, run.work, &group, i)
    if weight_gradient(run.plan, &group, i, grad_a, input_of(run.plan, run.work, &group, i), first, units,
                       run.sums, run.add, divisor, clock):
        return
    bias_gradient(run.plan, &group, i, grad_a, first, units, run.sums, run.add, divisor, clock)


cdef void chain_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """Some parameters of chains that end into the sums of the chunk."""
    cdef StripRun* run = <StripRun*>context
    cdef Clock own
    add_chain(run.plan, run.request, index, run.sums, run.request.grad, run.first_chain, run.divisor,
              clock_of_thread(run.clock, worker, &own))


cdef void accumulate_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """Some parameters of a chunk's sums into the wide sums."""
    cdef StripRun* run = <StripRun*>context
    cdef Clock own
    accumulate(run.plan, run.request, run.request.grad, run.totals, index, run.first_chunk,
               clock_of_thread(run.clock, worker, &own))


cdef void divide_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """Some parameters of the result."""
    cdef StripRun* run = <StripRun*>context
    cdef Clock own
    divide(run.plan, run.request, run.totals, index, clock_of_thread(run.clock, worker, &own))


cdef int value_and_grad_in_strips(StripRun* run, const Lease* lease, Clock* clock) noexcept nogil:
    """All chunks by strips; nonzero where a signal handler raised, or forked."""
    cdef const Layers* plan = run.plan
    cdef const Request* request = run.request
    cdef Py_ssize_t row = 0, done = 0, in_chunk, n_rows, s
    cdef Py_ssize_t chunk_rows = rows_of_chunk(plan, request.n_kept)
    cdef Py_ssize_t n_sums = n_parts_of_sums(request)
    cdef double chunk_loss
    cdef int status
    status = pool_run(lease, number_tasks(run, False), pack_task, run, poll_from_pool, clock)
    while done < request.n_kept and status == 0:
        in_chunk = 0
        chunk_loss = 0
        n_rows = min(chunk_rows, request.n_kept - done)
        while in_chunk < n_rows and status == 0:
            row = fill_tile(plan, request, run.work, &run.group, row, min(run.work.tile_rows, n_rows - in_chunk),
                            clock)
            run.group.is_open = has_open_chains(request, run.work, n_rows)
            run.sums = run.work.open_chain if run.group.is_open else request.grad
            run.first_chain = in_chunk < CHAIN_ROWS
            run.add = in_chunk % CHAIN_ROWS > 0 if run.group.is_open else in_chunk > 0
            run.divisor = 0
            if run.totals.wide == NULL and in_chunk + run.group.n_rows == n_rows:
                run.divisor = request.divisor
            status = pool_run(lease, (run.group.n_rows + run.strip_rows - 1) // run.strip_rows, strip_task, run,
                              poll_from_pool, clock)
            if status:
                return status
            for s in range(run.group.n_rows):
                chunk_loss += run.work.row_loss[s]
            if request.grad != NULL:
                run.flops_a_task = 2.0 * run.group.n_rows * plan.n_params / (4 * lease.n_threads)
                status = pool_run(lease, number_tasks(run, True), units_task, run, poll_from_pool, clock)
            in_chunk += run.group.n_rows
            if (plan.tile_rows < CHAIN_ROWS and request.grad != NULL and status == 0
                    and (ends_chain(in_chunk, n_rows) if run.group.is_open else run.divisor != 0)):
                status = pool_run(lease, n_sums, chain_task, run, poll_from_pool, clock)
        add_loss(run.totals, chunk_loss)
        if run.totals.wide != NULL and status == 0:
            run.first_chunk = done == 0
            status = pool_run(lease, n_sums, accumulate_task, run, poll_from_pool, clock)
        done += n_rows
    if run.totals.wide != NULL and status == 0:
        status = pool_run(lease, n_sums, divide_task, run, poll_from_pool, clock)
    return status


# Rows -----------------------------------------------------------------------------------------------------------------

cdef struct RowsRun:
    const Layers* plan
    const Request* request
    Workspace** work             # one a thread
    Py_ssize_t tile_rows
    Clock* clock


cdef inline int rows_of(const Layers* plan, const Request* request, Workspace* work, Py_ssize_t row,
                        Py_ssize_t n_rows, Clock* clock) noexcept nogil:
    """The results of some rows, whatever is asked for; nonzero where a signal handler raised."""
    if request.mode == FORWARD:
        return forward_of_tile(plan, request, work, row, n_rows, clock)
    return rows_of_tile_into(plan, request, work, row, n_rows, clock)


cdef void rows_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """One tile of a call by sample."""
    cdef RowsRun* run = <RowsRun*>context
    cdef Py_ssize_t row = index * run.tile_rows
    cdef Clock own
    rows_of(run.plan, run.request, run.work[worker], row, min(run.tile_rows, run.request.n_samples - row),
            clock_of_thread(run.clock, worker, &own))
