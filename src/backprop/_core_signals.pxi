# Signals: the caller's thread lets Python run its handlers about every 50 ms, inside long products too.

cdef extern from "_pool.h" nogil:
    int64_t pool_now "bp_pool_now"() noexcept


cdef enum:
    POLL_NANOSECONDS = 50000000  # a Ctrl-C waits for at most this, and one part of a product


cdef struct Clock:
    bint is_silent               # no handlers are run: the call comes from C, where nobody expects Python code
    bint is_running              # it starts with the first look at it: short calls never pay for that
    int64_t last_poll            # in nanoseconds
    int raised                   # a signal handler or a user's function raised; all threads of the call look at this


cdef inline void reset_clock(Clock* clock, bint is_silent) noexcept nogil:
    clock.is_silent = is_silent
    clock.is_running = False
    clock.raised = 0


cdef int signal_is_pending(Clock* clock) noexcept nogil:
    """Every 50 ms, let Python run its signal handlers; nonzero where one raised. On the caller's thread alone."""
    cdef int64_t now
    cdef int raised = 0
    if clock.raised or clock.is_silent:
        return clock.raised
    now = pool_now()
    if not clock.is_running:
        clock.is_running = True
        clock.last_poll = now
    if now - clock.last_poll > POLL_NANOSECONDS:
        clock.last_poll = now
        take_gil()
        raised = check_signals()
        give_gil()
        if raised:
            store_int(&clock.raised, 1)
    return raised


cdef inline bint is_stopped(bint is_workers, Clock* clock) noexcept nogil:
    """Whether a signal handler raised: the caller's thread polls, and workers hear of it."""
    return load_int(&clock.raised) if is_workers else signal_is_pending(clock)


cdef inline int stop(Clock* clock) noexcept nogil:
    """A user's function raised, on the caller's thread."""
    clock.raised = 1
    return 1
