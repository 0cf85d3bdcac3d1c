# Signals: the caller's thread lets Python run its handlers about every 50 ms, whatever a call is doing. This is the one
# place for it. Every loop over much work counts what it has done (`is_stopped`), and every kernel that may have much to
# do gets it in pieces (`start_pieces`), after each of which it is counted. Workers count too, and leave off where a
# handler raised.

cdef extern from "pool/pool.h" nogil:
    int64_t pool_now "bp_pool_now"() noexcept

cdef extern from "runtime/float_mode.h" nogil:
    uint64_t enter_default_mode "bp_enter_default_mode"() noexcept
    void leave_default_mode "bp_leave_default_mode"(uint64_t mode, const void* result) noexcept
    bint is_default_mode "bp_is_default_mode"(uint64_t mode) noexcept
    unsigned get_x87 "bp_get_x87"() noexcept
    void set_x87 "bp_set_x87"(unsigned mode) noexcept
    unsigned DEFAULT_X87 "BP_DEFAULT_X87"


cdef enum:
    POLL_NANOSECONDS = 50000000  # a Ctrl-C waits for at most this, and one piece of work
    # Work is counted in flops of a core that does 60 of them in a nanosecond, as one does in a product.
    LOOK_FLOPS = 20000000        # between two looks at the clock, which take 25 ns each
    PIECE_FLOPS = 500000000      # of a piece: a product takes 4 ms on one core in float32, 8 ms in float64
    ENTRY_FLOPS = 400            # of an activation or a loss of one number, the dearest of them
    # Of a number that no cache holds, read or written, or of one between two rows that are written: each may be the
    # first on a page of megabytes.
    MEMORY_FLOPS = 100
    OWN_C_FLOPS = 2000000        # of a C function of the user's own: a look after each 250, so 0.5 ms each are fine
    OWN_NUMPY_FLOPS = 4000       # of a NumPy function of the user's own, for each entry
    PIECE_COLUMNS = 48           # of a product: whole panels on every instruction set


cdef struct Clock:
    # What one thread of a call knows of signals.
    bint is_counting             # short calls do not count: they never have anything to look for
    bint is_silent               # no handlers are run: a worker's, or of a call from C, where nothing expects Python
    bint has_gil                 # the thread holds it already
    bint is_running              # the clock starts with the first look at it
    double flops                 # counted since the last look
    int64_t last_poll            # in nanoseconds
    int* raised                  # a signal handler or a user's function raised: one flag for all threads of the call
    int own_raised               # where the flag of the caller's thread is
    uint64_t callers_mode        # of the floating-point unit, once the call has entered the default one


cdef inline void reset_clock(Clock* clock, bint is_silent, bint is_counting) noexcept nogil:
    """The clock of a caller's thread. It must stay where it is."""
    clock.is_counting = is_counting
    clock.is_silent = is_silent
    clock.has_gil = False
    clock.is_running = False
    clock.flops = 0
    clock.own_raised = 0
    clock.raised = &clock.own_raised


cdef inline Clock* clock_of_thread(Clock* callers, int worker, Clock* own) noexcept nogil:
    """The clock for a task: the caller's, or a worker's own."""
    if worker == 0:
        return callers
    reset_clock(own, True, callers.is_counting)
    own.raised = callers.raised
    own.callers_mode = callers.callers_mode
    return own


cdef inline bint has_raised(const Clock* clock) noexcept nogil:
    """Whether a signal handler or a user's function raised, on any thread of the call."""
    return load_int(clock.raised)


cdef int signal_is_pending(Clock* clock) noexcept nogil:
    """Every 50 ms, let Python run its signal handlers; nonzero where one raised."""
    cdef int64_t now
    cdef int raised = 0
    if clock.is_silent or has_raised(clock):
        return has_raised(clock)
    now = pool_now()
    if not clock.is_running:
        clock.is_running = True
        clock.last_poll = now
    if now - clock.last_poll > POLL_NANOSECONDS:
        clock.last_poll = now
        if not clock.has_gil:
            take_gil()
        leave_default_mode(clock.callers_mode, NULL)
        raised = check_signals()
        enter_default_mode()
        if not clock.has_gil:
            give_gil()
        if raised:
            store_int(clock.raised, 1)
    return raised


cdef inline bint is_stopped(Clock* clock, double flops) noexcept nogil:
    """Count work that is done, and look for signals where it is enough; true where a handler raised."""
    if not clock.is_counting:
        return False
    clock.flops += flops
    if clock.flops < LOOK_FLOPS:
        return False
    clock.flops = 0
    return signal_is_pending(clock)


cdef inline int stop(Clock* clock) noexcept nogil:
    """A user's function raised, on the caller's thread."""
    store_int(clock.raised, 1)
    return 1


cdef inline int raise_for_signal(const Clock* clock) except -1:
    """The exception of a signal handler, if one raised."""
    return raise_pending() if has_raised(clock) else 0


# Pieces ---------------------------------------------------------------------------------------------------------------

cdef double piece_flops = PIECE_FLOPS


def cut_into_pieces(double flops):
    """For tests: pieces of so many flops from now on; returns how many there were. No call may be running."""
    global piece_flops
    before, piece_flops = piece_flops, flops
    return before


cdef struct Pieces:
    # Rows and columns of a kernel's result, piece by piece: columns in groups, and the rows of a group.
    Py_ssize_t row, n_rows       # of this piece
    Py_ssize_t column, n         # n is 0 after the last piece
    double flops                 # of all pieces
    bint is_cut                  # there are several; then there is what follows
    Py_ssize_t all_rows, all_columns
    Py_ssize_t rows, columns     # of a piece that is not the last
    Py_ssize_t column_step
    double flops_an_entry, flops_a_column


cdef inline void start_pieces(Pieces* piece, const Clock* clock, Py_ssize_t n_rows, Py_ssize_t row_step, Py_ssize_t n,
                              Py_ssize_t column_step, double flops_an_entry, double flops_a_column) noexcept nogil:
    """The first piece of (n_rows, n) entries, which is all where there is little to do.

    A piece's rows and columns are multiples of the steps. Beside what an entry takes, each column takes something of
    its own, however many rows there are.
    """
    piece.row = piece.column = 0
    piece.n_rows = n_rows
    piece.n = n
    piece.flops = 0
    piece.is_cut = False
    if clock.is_counting:
        piece.flops = n * (flops_an_entry * n_rows + flops_a_column)
        piece.is_cut = piece.flops > piece_flops
        if piece.is_cut:
            cut(piece, row_step, column_step, flops_an_entry, flops_a_column)


cdef void cut(Pieces* piece, Py_ssize_t row_step, Py_ssize_t column_step, double flops_an_entry,
              double flops_a_column) noexcept nogil:
    """As many columns, and then rows, as a piece's flops are enough for, and at least one step of each.

    Rows stay whole where they can, since a column of many rows may be the first entry on as many pages. But so many of
    them stay together that what a column takes of its own is a fifth of all.
    """
    cdef double together = min(<double>piece.n_rows, max(<double>row_step, 4 * flops_a_column / flops_an_entry))
    cdef double columns = piece_flops / (flops_an_entry * together + flops_a_column), rows
    piece.all_rows = piece.rows = piece.n_rows
    piece.all_columns = piece.n
    piece.column_step = column_step
    piece.flops_an_entry = flops_an_entry
    piece.flops_a_column = flops_a_column
    piece.columns = piece.n
    if columns < piece.n:
        piece.columns = max(column_step, <Py_ssize_t>columns // column_step * column_step)
    rows = (piece_flops / <double>piece.columns - flops_a_column) / flops_an_entry
    if rows < piece.n_rows:
        piece.rows = max(row_step, <Py_ssize_t>max(0.0, rows) // row_step * row_step)
    size_of_piece(piece)


cdef void size_of_piece(Pieces* piece) noexcept nogil:
    """The size of the piece that starts at its row and column: no stump is left, as a narrow product has other bits."""
    piece.n_rows = min(piece.rows, piece.all_rows - piece.row)
    piece.n = piece.all_columns - piece.column
    if piece.n >= piece.columns + piece.column_step:
        piece.n = piece.columns


cdef inline bint next_piece(Pieces* piece, Clock* clock) noexcept nogil:
    """Count this piece and go to the next; true where a signal handler raised."""
    if piece.is_cut:
        return count_piece(piece, clock)
    piece.n = 0
    return is_stopped(clock, piece.flops)


cdef bint count_piece(Pieces* piece, Clock* clock) noexcept nogil:
    """`next_piece` where there are several."""
    cdef double flops = piece.n * (piece.flops_an_entry * piece.n_rows + piece.flops_a_column)
    piece.row += piece.n_rows
    if piece.row == piece.all_rows:
        piece.row = 0
        piece.column += piece.n
    if piece.column == piece.all_columns:
        piece.n = 0
    else:
        size_of_piece(piece)
    return is_stopped(clock, flops)


cdef inline void start_product(Pieces* piece, const Clock* clock, Py_ssize_t n_rows, Py_ssize_t row_step, Py_ssize_t n,
                               Py_ssize_t column_step, Py_ssize_t depth) noexcept nogil:
    """Pieces of C = A B, sums over so many terms. Each row of C reads a row of A, each column a column of B."""
    cdef double flops_an_entry = 0
    if clock.is_counting:
        flops_an_entry = depth * (2 + MEMORY_FLOPS / <double>n) + MEMORY_FLOPS
    start_pieces(piece, clock, n_rows, row_step, n, column_step, flops_an_entry, <double>MEMORY_FLOPS * depth)


cdef inline void start_entries(Pieces* piece, const Clock* clock, Py_ssize_t n_rows, Py_ssize_t n,
                               double flops) noexcept nogil:
    """Pieces of something that is done entry by entry."""
    start_pieces(piece, clock, n_rows, 1, n, PIECE_COLUMNS, flops, 0)


cdef inline void start_rows(Pieces* piece, const Clock* clock, Py_ssize_t n_rows, Py_ssize_t n,
                            double flops) noexcept nogil:
    """Pieces of something that is done row by row: flops are those of an entry."""
    start_pieces(piece, clock, n_rows, 1, n, n, flops, 0)


cdef inline Py_ssize_t place(const Pieces* piece, Py_ssize_t ld, Py_ssize_t itemsize) noexcept nogil:
    """Where a piece starts in rows that lie ld reals apart, in bytes."""
    return (piece.row * ld + piece.column) * itemsize
