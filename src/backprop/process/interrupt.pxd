# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Signals: the caller's thread lets Python run its handlers about every 50 ms, whatever a call is doing. This is the one
# place for it. Every loop over much work counts what it has done (`is_stopped`). Workers count too, and stop if a
# handler raised: then every function of a call returns nonzero, or true, and leaves out the rest.
# Needs: process/gil, pool, float_mode. Gives: Interrupt, is_stopped, has_raised, the costs of work in flops.

from libc.stdint cimport int64_t, uint64_t

from backprop.process.float_mode cimport enter_default_mode, leave_default_mode
from backprop.process.gil cimport check_signals, give_gil, raise_pending, take_gil
from backprop.process.pool cimport load_int, pool_now, store_int

cdef enum:
    POLL_NANOSECONDS = 50000000  # a Ctrl-C waits for at most this, and one piece of work
    # Work is counted in flops of a core that does 60 of them per nanosecond, as one does in a product.
    LOOK_FLOPS = 20000000        # between two looks at the clock, which take 25 ns each
    PIECE_FLOPS = 500000000      # of a piece: a product takes 4 ms on one core in float32, 8 ms in float64
    ENTRY_FLOPS = 400            # of an activation or a loss of one number, the dearest of them
    # Of a number that no cache holds, read or written, or of one between two rows that are written: each may be the
    # first on a page of megabytes.
    MEMORY_FLOPS = 100
    OWN_C_FLOPS = 2000000        # of a C function of the user's own: a look after each 250, so 0.5 ms each are fine
    OWN_NUMPY_FLOPS = 4000       # of a NumPy function of the user's own, for each entry


cdef struct Interrupt:
    # What one thread of a call has to do with signals.
    bint is_counting             # short calls do not count: they end before a handler is due
    bint is_silent               # no handlers are run: by a worker, or in a call from C, which expects no Python
    bint has_gil                 # the thread holds it already
    bint is_running              # the time is measured from the first look at the clock on
    double flops                 # counted since the last look
    int64_t last_poll            # in nanoseconds
    int* raised                  # a signal handler or a user's function raised: one flag for all threads of the call
    int own_raised               # the flag of the caller's thread lies here
    uint64_t callers_mode        # of the floating-point unit, once the call has entered the default one


cdef inline void reset_interrupt(Interrupt* interrupt, bint is_silent, bint is_counting) noexcept nogil:
    """Start the state of a caller's thread, which must stay at its address."""
    interrupt.is_counting = is_counting
    interrupt.is_silent = is_silent
    interrupt.has_gil = False
    interrupt.is_running = False
    interrupt.flops = 0
    interrupt.own_raised = 0
    interrupt.raised = &interrupt.own_raised


cdef inline Interrupt* interrupt_of_thread(Interrupt* callers, int worker, Interrupt* own) noexcept nogil:
    """The state for a task: the caller's, or a worker's own."""
    if worker == 0:
        return callers
    reset_interrupt(own, True, callers.is_counting)
    own.raised = callers.raised
    own.callers_mode = callers.callers_mode
    return own


cdef inline bint has_raised(const Interrupt* interrupt) noexcept nogil:
    """Whether a signal handler or a user's function raised, on any thread of the call."""
    return load_int(interrupt.raised)


cdef inline int signal_is_pending(Interrupt* interrupt) noexcept nogil:
    """Every 50 ms, let Python run its signal handlers; nonzero if one raised."""
    cdef int64_t now
    cdef int raised = 0
    if interrupt.is_silent or has_raised(interrupt):
        return has_raised(interrupt)
    now = pool_now()
    if not interrupt.is_running:
        interrupt.is_running = True
        interrupt.last_poll = now
    if now - interrupt.last_poll > POLL_NANOSECONDS:
        interrupt.last_poll = now
        if not interrupt.has_gil:
            take_gil()
        leave_default_mode(interrupt.callers_mode, NULL)
        raised = check_signals()
        enter_default_mode()
        if not interrupt.has_gil:
            give_gil()
        if raised:
            store_int(interrupt.raised, 1)
    return raised


cdef inline bint is_stopped(Interrupt* interrupt, double flops) noexcept nogil:
    """Count work that is done, and look for signals if it is enough."""
    if not interrupt.is_counting:
        return False
    interrupt.flops += flops
    if interrupt.flops < LOOK_FLOPS:
        return False
    interrupt.flops = 0
    return signal_is_pending(interrupt)


cdef inline int stop(Interrupt* interrupt) noexcept nogil:
    """A user's function raised, on the caller's thread."""
    store_int(interrupt.raised, 1)
    return 1


cdef inline int raise_for_signal(const Interrupt* interrupt) except -1:
    """The exception of a signal handler, if one raised."""
    return raise_pending() if has_raised(interrupt) else 0
