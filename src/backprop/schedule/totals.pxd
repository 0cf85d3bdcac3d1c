# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Sums over chunks in wide accumulators (note C of _core.pyx), part by part.
# Needs: recursion/request, kernels/two_sum. Gives: Totals, accumulate, divide, add_chain, add_loss, mean_loss.

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from backprop.kernels.two_sum cimport two_sum
from backprop.process.interrupt cimport MEMORY_FLOPS, Interrupt, is_stopped
from backprop.recursion.request cimport Request
from backprop.recursion.shape cimport Shape

cdef struct Totals:
    # The sums over chunks.
    Totals* next
    bint is_listed               # whether they go to the free list
    Py_ssize_t n_sums            # n_params, for a gradient; 0 for a loss alone
    Py_ssize_t n_bytes
    double loss, loss_error
    double* wide                 # (n_sums,), or NULL if there is only one chunk
    double* wide_error           # (n_sums,), float64 alone
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
        free(totals.slots)
        free(totals.slot_loss)
        free(totals.slot_is_ready)
        free(totals)


cdef inline Totals* new_totals(const Shape* shape, Py_ssize_t n_sums, bint with_wide,
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
    if n_slots:
        totals.slots = <char*>calloc(n_slots * n_sums + 1, shape.itemsize)
        totals.slot_loss = <double*>calloc(n_slots, sizeof(double))
        totals.slot_is_ready = <int*>calloc(n_slots, sizeof(int))
        if totals.slots == NULL or totals.slot_loss == NULL or totals.slot_is_ready == NULL:
            free_totals(totals)
            return NULL
    return totals


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


cdef inline bint accumulate(const Request* request, const char* grad, const Totals* totals, Py_ssize_t k, bint first,
                            Interrupt* interrupt) noexcept nogil:
    """Add part k of the sums of a chunk, in grad, to the wide sums."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start)
    cdef double* wide_error = NULL
    if totals.wide_error != NULL:
        wide_error = totals.wide_error + start
    shape.kernels.accumulate(n, grad + start * shape.itemsize, totals.wide + start, wide_error, first)
    return is_stopped(interrupt, <double>MEMORY_FLOPS * n)


cdef inline bint divide(const Request* request, const Totals* totals, Py_ssize_t k,
                        Interrupt* interrupt) noexcept nogil:
    """Part k of the wide sums over the divisor, rounded once; the sums of a single chunk are divided already."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t start = k * SUM_ENTRIES, n = min(<Py_ssize_t>SUM_ENTRIES, request.n_sums - start)
    cdef const double* wide_error = NULL
    if totals.wide_error != NULL:
        wide_error = totals.wide_error + start
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
