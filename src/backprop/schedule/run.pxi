# A call, from its request to its status: the way to divide it, and the floating-point unit's mode.
# Needs: schedule/chunks, strips, rows. Gives: run (without the GIL), run_call and run_keeping (with it).

cdef int run_any(const Request* request, int n_threads, Interrupt* interrupt, double* loss) noexcept nogil:
    """Rows, strips, chunks or one thread; and the loss, if there is one."""
    cdef const Shape* shape = request.shape
    cdef double cost = request.mode.cost(request)
    cdef Py_ssize_t n_chunks
    if is_by_sample(request.mode):
        return run_rows(request, useful_threads(shape, <Py_ssize_t>(request.n_samples * cost), n_threads), interrupt)
    n_threads = useful_threads(shape, <Py_ssize_t>(request.n_kept * cost), n_threads)
    if n_threads > 1 and request.mode.flags & IN_STRIPS:
        n_chunks = chunks_in(request)
        if n_chunks < n_threads or shape.n_params * shape.itemsize > CHUNK_BYTES:
            return run_strips(request, n_chunks, n_threads, interrupt, loss)
    return run_sums(request, n_threads, interrupt, loss)


cdef int run(const Request* request, int n_threads, Interrupt* interrupt, double* loss) noexcept nogil:
    """The request on up to n_threads threads, in the default mode of the floating-point unit; and the loss."""
    cdef int status
    interrupt.callers_mode = enter_default_mode()
    status = run_any(request, n_threads, interrupt, loss)
    leave_default_mode(interrupt.callers_mode, loss)
    return status


cdef enum:
    SHORT_FLOPS = 1000           # half a microsecond: to release the GIL and take it again costs a tenth of that


cdef inline bint is_short(const Request* request) noexcept nogil:
    """Whether the call is not worth releasing the GIL for. Functions of a user's own may take long, or the GIL."""
    cdef const Shape* shape = request.shape
    return (request.buffers == OF_GRADIENT and not shape.has_own
            and <double>request.n_samples * (6.0 * shape.n_params + FLOPS_A_UNIT * shape.n_units) < SHORT_FLOPS)


cdef inline bint may_take_long(const Request* request, Py_ssize_t n_networks) noexcept nogil:
    """Whether to look for signals: whether there is more than a piece of work, were all of it as dear as can be."""
    cdef const Shape* shape = request.shape
    cdef double flops = <double>MEMORY_FLOPS * (shape.n_params + request.n_sums)
    flops += (request.mode.cost(request) * request.n_samples
              * (<double>MEMORY_FLOPS * shape.n_params + 2.0 * ENTRY_FLOPS * shape.n_units))
    return shape.has_own or n_networks * flops > get_piece_flops()


cdef inline double run_call(const Request* request, int n_threads) except? -1:
    """The call on up to n_threads threads; the loss, if there is one."""
    cdef Interrupt interrupt
    cdef double loss = 0
    cdef int status
    cdef bint keeps_gil = is_short(request)
    reset_interrupt(&interrupt, keeps_gil, not keeps_gil and may_take_long(request, 1))
    if keeps_gil:
        status = run(request, 1, &interrupt, &loss)
    else:
        with nogil:
            status = run(request, n_threads, &interrupt, &loss)
    if status != DONE:
        raise_for(status)
    return loss


cdef inline double run_keeping(Request* request, int n_threads, Linearization linearization) except? -1:
    """The same; a linearization, if there is one, keeps what does not depend on v."""
    if linearization is None:
        return run_call(request, n_threads)
    linearization.take(request)
    try:
        return run_call(request, n_threads)
    finally:
        if request.kept != NULL:
            linearization.give_back()
