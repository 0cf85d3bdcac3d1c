# Threads: how many a call is worth, and the tasks that the pool hands out to them.
# Needs: process/pool, interrupt; recursion/shape. Gives: Status, useful_threads, share_out, raise_for, and to Python
# worker_threads and most_threads.
#
# There are three ways to divide a call, and none changes a bit:
#
#     chunks    each thread takes whole chunks; their gradients are added in the order of the chunks. For long batches
#               of networks whose gradient fits into a cache.
#     strips    all threads share one group of rows of a chunk: first its rows are divided, for (2)-(6), or the units of
#               one layer after another; then the units of all layers, for (7) and (8). For short batches, and for wide
#               layers.
#     rows      each thread takes whole tiles, whose results have one row per sample.
#
# The pool (pool/pool.c) hands out tasks by number, in ascending order; the caller takes part and polls for signals.

cdef enum:
    # Two threads pay from 4 MFLOP on, 40 us of serial work (1-32-32-32-1 at 256 samples: 1.8 times the rate); at 2.4
    # MFLOP (8-64-64-2 at 64) they took between 0.7 and 1.8 of one thread's time.
    FLOPS_A_THREAD = 2000000
    FLOPS_A_UNIT = 60            # of an activation and its derivative, in the same currency
    CHUNK_BYTES = 1048576        # a gradient up to this size is added from cache: chunks; beyond it, strips
    MIN_STRIP = 16               # rows: two blocks of rows share what is loaded of a panel


cdef enum Status:
    # How a run ended.
    DONE
    RAISED                       # a signal handler did, or a user's function: the exception is set in this thread
    LOST                         # a signal handler forked, and this is the child: no worker is left to finish the call
    NO_WORKSPACE                 # out of memory, here and below
    NO_TOTALS
    NO_LIST


cdef extern from *:
    """
    /* Not by Cython's raise, which needs memory for a traceback and can crash if there is none (Cython 3.3.1). */
    static int bp_raise_memory_error(const char *what) { PyErr_SetString(PyExc_MemoryError, what); return -1; }
    """
    int raise_memory_error "bp_raise_memory_error"(const char* what) except -1


cdef int raise_for(int status) except -1:
    """The exception of a run that did not get to its end."""
    if status == RAISED:
        return raise_pending()
    if status == NO_WORKSPACE:
        return raise_memory_error(b"the workspace of a call does not fit into memory")
    if status == NO_TOTALS:
        return raise_memory_error(b"the sums of a gradient over chunks of samples do not fit into memory")
    return raise_memory_error(b"a list of the chunks or threads of a call does not fit into memory")


cdef int useful_threads(const Shape* shape, Py_ssize_t n_samples, int n_threads) noexcept nogil:
    """As many threads as the work is worth, at most n_threads."""
    cdef double flops = <double>n_samples * (6.0 * shape.n_params + FLOPS_A_UNIT * shape.n_units)
    if flops < 2.0 * FLOPS_A_THREAD or shape.is_serial:
        return 1
    return <int>min(<double>n_threads, flops / FLOPS_A_THREAD)


most_threads = <int>MOST_THREADS  # of a call; threads.py cuts larger counts to it


def worker_threads():
    """The native threads that this process has made and that are alive."""
    return backprop_worker_threads()


cdef int poll_from_pool(void* interrupt) noexcept nogil:
    """Nonzero if a signal handler raised."""
    return signal_is_pending(<Interrupt*>interrupt)


cdef inline int status_of(int pool_status, const Interrupt* interrupt) noexcept nogil:
    """How a run on the pool ended."""
    if has_raised(interrupt):
        return RAISED
    return LOST if pool_status == POOL_LOST else DONE


cdef int share_out(Py_ssize_t n_tasks, PoolTask task, void* context, int n_threads,
                   Interrupt* interrupt) noexcept nogil:
    """All tasks on up to n_threads threads; DONE, RAISED or LOST."""
    cdef Lease lease
    cdef int status
    pool_acquire(&lease, n_threads)
    status = pool_run(&lease, n_tasks, task, context, poll_from_pool, interrupt)
    pool_release(&lease)
    return status_of(status, interrupt)
