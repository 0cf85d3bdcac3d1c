# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Sums over chunks in wide accumulators, and over units of them in integer bins (note C of _core.pyx), part by part.
# Needs: recursion/request, schedule/cuts, kernels/two_sum, bins. Gives: Totals, start_totals, accumulate, divide,
# add_chain, add_loss, mean_loss.

from libc.stdint cimport int8_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from backprop.kernels.bins cimport EMPTY_TOP, N_LIMBS, add_pair_to_bins, round_bins
from backprop.kernels.two_sum cimport two_sum
from backprop.process.interrupt cimport MEMORY_FLOPS, Interrupt, is_stopped
from backprop.recursion.request cimport GIVES_LOSS, Request, State
from backprop.recursion.shape cimport Shape
from backprop.schedule.cuts cimport chunks_of, chunks_of_unit, rows_of_chunk

cdef struct Totals:
    # The sums over chunks.
    Totals* next
    bint is_listed               # whether they go to the free list
    Py_ssize_t n_sums            # n_params, for a gradient; 0 for a loss alone
    Py_ssize_t n_bytes
    Py_ssize_t n_chunks
    Py_ssize_t chunks_of_unit
    bint has_units               # whether the data set has more than one unit: else the wide sums are the last level
    double loss, loss_error      # of the unit
    int8_t loss_top              # of all units before it
    int64_t[3] loss_limbs
    double* wide                 # (n_sums,), or NULL if there is only one chunk
    double* wide_error           # (n_sums,), float64 alone
    State bins                   # n_sums of all units before; their memory is NULL if there is only one unit
    char* slots                  # sums of chunks that wait for their turn, n_slots x n_sums
    double* slot_loss
    int* slot_is_ready
    Py_ssize_t n_slots


cdef enum:
    SUM_ENTRIES = 65536          # parameters that a task adds or divides


cdef inline void free_totals(Totals* totals) noexcept nogil:
    if totals != NULL:
        free(totals.wide)
        free(totals.wide_error)
        free(totals.bins.top)
        free(totals.bins.limbs)
        free(totals.slots)
        free(totals.slot_loss)
        free(totals.slot_is_ready)
        free(totals)


cdef inline Totals* new_totals(const Shape* shape, Py_ssize_t n_sums, bint with_wide, bint with_bins,
                               Py_ssize_t n_slots) noexcept nogil:
    """Sums over chunks, with wide accumulators and slots for chunks if needed; NULL if out of memory."""
    cdef Totals* totals = <Totals*>calloc(1, sizeof(Totals))
    if totals == NULL:
        return NULL
    totals.n_sums = n_sums
    totals.n_slots = n_slots
    totals.n_bytes = n_slots * n_sums * shape.itemsize
    if with_wide:
        totals.n_bytes += n_sums * (2 if shape.itemsize == 8 else 1) * <Py_ssize_t>sizeof(double)
        totals.wide = <double*>calloc(n_sums, sizeof(double))
        if shape.itemsize == 8:
            totals.wide_error = <double*>calloc(n_sums, sizeof(double))
        if totals.wide == NULL or (shape.itemsize == 8 and totals.wide_error == NULL):
            free_totals(totals)
            return NULL
    if with_bins:
        totals.n_bytes += n_sums * (N_LIMBS * <Py_ssize_t>sizeof(int64_t) + 1)
        totals.bins.n = n_sums
        totals.bins.top = <int8_t*>malloc(n_sums)
        totals.bins.limbs = <int64_t*>calloc(N_LIMBS * n_sums, sizeof(int64_t))
        if totals.bins.top == NULL or totals.bins.limbs == NULL:
            free_totals(totals)
            return NULL
    if n_slots:
        totals.slots = <char*>calloc(n_slots * n_sums + 1, shape.itemsize)
        totals.slot_loss = <double*>calloc(n_slots, sizeof(double))
        totals.slot_is_ready = <int*>calloc(n_slots, sizeof(int))
        if totals.slots == NULL or totals.slot_loss == NULL or totals.slot_is_ready == NULL:
            free_totals(totals)
            return NULL
    return totals


cdef inline Py_ssize_t chunks_in(const Request* request) noexcept nogil:
    """The chunks of these samples, which may be a part of a data set."""
    cdef Py_ssize_t rows = rows_of_chunk(request.shape, request.n_whole)
    return 1 if request.n_kept <= rows else (request.n_kept + rows - 1) // rows


cdef inline bint has_units(const Request* request) noexcept nogil:
    """Whether the data set has more than one unit."""
    return chunks_of(request.shape, request.n_whole) > chunks_of_unit(request.shape, request.n_whole, request.buffers)


cdef inline void start_totals(Totals* totals, const Request* request) noexcept nogil:
    """Sums of nothing. Wide sums and bins need no zeros: the first chunk and the first unit overwrite them."""
    totals.n_chunks = chunks_in(request)
    totals.chunks_of_unit = totals.n_chunks
    totals.has_units = request.state != NULL or totals.n_chunks > 1 and has_units(request)
    if totals.has_units:
        totals.chunks_of_unit = chunks_of_unit(request.shape, request.n_whole, request.buffers)
        totals.loss_top = EMPTY_TOP
        totals.loss_limbs[0] = totals.loss_limbs[1] = totals.loss_limbs[2] = 0
    totals.loss = 0
    totals.loss_error = 0


cdef inline bint ends_unit(const Totals* totals, Py_ssize_t c) noexcept nogil:
    """Whether chunk c is the last of a unit whose sums go into bins."""
    return totals.has_units and ((c + 1) % totals.chunks_of_unit == 0 or c + 1 == totals.n_chunks)


cdef inline void add_loss(Totals* totals, double loss, Py_ssize_t c) noexcept nogil:
    """Add the loss of chunk c."""
    cdef double error
    two_sum(totals.loss, loss, &totals.loss, &error)
    totals.loss_error += error
    if ends_unit(totals, c):
        add_pair_to_bins(totals.loss, totals.loss_error, &totals.loss_top, totals.loss_limbs, 1)
        totals.loss = 0
        totals.loss_error = 0


cdef inline double mean_loss(const Totals* totals, const Request* request) noexcept nogil:
    """The sum of all losses, divided. That of a part goes behind its other sums, not divided.

    After an overflow the error is NaN, the sum still inf.
    """
    cdef State* state = request.state
    cdef Py_ssize_t k
    if not request.mode.flags & GIVES_LOSS:
        return 0  # not all tiles have computed it
    if state != NULL:
        state.top[state.n - 1] = totals.loss_top
        for k in range(N_LIMBS):
            state.limbs[(k + 1) * state.n - 1] = totals.loss_limbs[k]
        return 0
    if totals.has_units:
        return round_bins(totals.loss_top, totals.loss_limbs, 1, 0) / request.divisor
    if totals.loss_error == totals.loss_error:
        return (totals.loss + totals.loss_error) / request.divisor
    return totals.loss / request.divisor


cdef inline Py_ssize_t n_parts_of_sums(const Request* request) noexcept nogil:
    """Parts of SUM_ENTRIES parameters in which wide sums are added and divided."""
    return (request.n_sums + SUM_ENTRIES - 1) // SUM_ENTRIES


cdef inline bint add_chain(const Request* request, Py_ssize_t k, const char* chain, char* sums, bint first,
                           double divisor, Interrupt* interrupt) noexcept nogil:
    """Part k of chains that end here into the sums of a chunk, or added to them; divided unless divisor is 0.

    Without chains chain is sums, and is divided alone: networks whose tiles may be shorter than a chain are never
    divided in the kernels, which round some subnormal numbers otherwise.
    """
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start), p
    chain += start * shape.itemsize
    sums += start * shape.itemsize
    if chain == sums:
        pass
    elif first:
        memcpy(sums, chain, n * shape.itemsize)
    elif shape.itemsize == 4:
        for p in range(n):
            (<float*>sums)[p] = (<float*>sums)[p] + (<const float*>chain)[p]
    else:
        for p in range(n):
            (<double*>sums)[p] = (<double*>sums)[p] + (<const double*>chain)[p]
    if divisor != 0:
        shape.kernels.finish(n, sums, divisor, sums)
    return is_stopped(interrupt, <double>MEMORY_FLOPS * n)


cdef inline bint accumulate(const Request* request, const char* grad, const Totals* totals, Py_ssize_t k, Py_ssize_t c,
                            Interrupt* interrupt) noexcept nogil:
    """Add part k of the sums of chunk c, in grad, to the wide sums of its unit; and these to the bins if they end."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start)
    cdef double* wide_error = NULL
    if totals.wide_error != NULL:
        wide_error = totals.wide_error + start
    shape.kernels.accumulate(n, grad + start * shape.itemsize, totals.wide + start, wide_error,
                             c % totals.chunks_of_unit == 0)
    if ends_unit(totals, c):
        shape.kernels.deposit(n, totals.wide + start, wide_error, totals.bins.top + start, totals.bins.limbs + start,
                              totals.bins.n, c < totals.chunks_of_unit)
    return is_stopped(interrupt, <double>MEMORY_FLOPS * n)


cdef inline bint divide(const Request* request, const Totals* totals, Py_ssize_t k,
                        Interrupt* interrupt) noexcept nogil:
    """Part k of the sums over the divisor, rounded once; the sums of a single chunk are divided already.

    The sums of a part of a data set are copied as they are.
    """
    cdef const Shape* shape = request.shape
    cdef State* state = request.state
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start), i
    cdef const double* wide_error = NULL
    if totals.wide_error != NULL:
        wide_error = totals.wide_error + start
    if state != NULL:
        memcpy(state.top + start, totals.bins.top + start, n)
        for i in range(N_LIMBS):
            memcpy(state.limbs + i * state.n + start, totals.bins.limbs + i * totals.bins.n + start,
                   n * sizeof(int64_t))
    elif totals.has_units:
        shape.kernels.finish_bins(n, totals.bins.top + start, totals.bins.limbs + start, totals.bins.n,
                                  request.divisor, request.grad + start * shape.itemsize)
    else:
        shape.kernels.finish_wide(n, totals.wide + start, wide_error, request.divisor,
                                  request.grad + start * shape.itemsize)
    return is_stopped(interrupt, <double>MEMORY_FLOPS * n)


cdef inline bint divide_only_chunk(const Request* request, char* grad, Py_ssize_t k, double divisor,
                                   Interrupt* interrupt) noexcept nogil:
    """Part k of the sums of a single chunk, in grad, over the divisor."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start)
    shape.kernels.finish(n, grad + start * shape.itemsize, divisor, grad + start * shape.itemsize)
    return is_stopped(interrupt, <double>MEMORY_FLOPS * n)
