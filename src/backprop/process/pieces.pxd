# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Pieces of a kernel's work, between which signals are polled: a kernel that may have much to do gets its rows and
# columns piece by piece. Each piece is counted when it is done.
# Needs: process/interrupt. Gives: Pieces, start_product, start_entries, start_rows, next_piece, place.

from backprop.process.interrupt cimport MEMORY_FLOPS, Interrupt, is_stopped

cdef extern from *:
    """
    static double bp_piece_flops = 5e8; /* PIECE_FLOPS, but for tests */
    static inline double bp_get_piece_flops(void) { return bp_piece_flops; }
    static inline void bp_set_piece_flops(double flops) { bp_piece_flops = flops; }
    """
    double get_piece_flops "bp_get_piece_flops"() noexcept nogil
    void set_piece_flops "bp_set_piece_flops"(double flops) noexcept nogil


cdef enum:
    PIECE_COLUMNS = 48           # of a product: whole panels on every instruction set


cdef struct Pieces:
    # Rows and columns of a kernel's result, piece by piece: columns in groups, and the rows of a group.
    Interrupt* interrupt         # of the thread that does the pieces
    Py_ssize_t row, n_rows       # of this piece
    Py_ssize_t column, n         # n is 0 after the last piece
    double flops                 # of all pieces
    bint is_cut                  # there are several; then there is what follows
    Py_ssize_t all_rows, all_columns
    Py_ssize_t rows, columns     # of a piece that is not the last
    Py_ssize_t column_step
    double flops_an_entry, flops_a_column


cdef inline void cut(Pieces* piece, Py_ssize_t row_step, Py_ssize_t column_step, double flops_an_entry,
                     double flops_a_column) noexcept nogil:
    """As many columns, and then rows, as a piece's flops are enough for, and at least one step of each.

    Rows stay whole if they can, since a column of many rows may be the first entry on as many pages. But so many of
    them stay together that what a column costs however many rows there are is a fifth of all.
    """
    cdef double together = min(<double>piece.n_rows, max(<double>row_step, 4 * flops_a_column / flops_an_entry))
    cdef double columns = get_piece_flops() / (flops_an_entry * together + flops_a_column), rows
    piece.all_rows = piece.rows = piece.n_rows
    piece.all_columns = piece.n
    piece.column_step = column_step
    piece.flops_an_entry = flops_an_entry
    piece.flops_a_column = flops_a_column
    piece.columns = piece.n
    if columns < piece.n:
        piece.columns = max(column_step, <Py_ssize_t>columns // column_step * column_step)
    rows = (get_piece_flops() / <double>piece.columns - flops_a_column) / flops_an_entry
    if rows < piece.n_rows:
        piece.rows = max(row_step, <Py_ssize_t>max(0.0, rows) // row_step * row_step)
    size_of_piece(piece)


cdef inline void size_of_piece(Pieces* piece) noexcept nogil:
    """The size of the piece that starts at its row and column: no stump is left, as a narrow product has other bits."""
    piece.n_rows = min(piece.rows, piece.all_rows - piece.row)
    piece.n = piece.all_columns - piece.column
    if piece.n >= piece.columns + piece.column_step:
        piece.n = piece.columns


cdef inline void start_pieces(Pieces* piece, Interrupt* interrupt, Py_ssize_t n_rows, Py_ssize_t row_step,
                              Py_ssize_t n, Py_ssize_t column_step, double flops_an_entry,
                              double flops_a_column) noexcept nogil:
    """The first piece of (n_rows, n) entries, which is all of it if there is little to do.

    A piece's rows and columns are multiples of the steps. Besides what an entry costs, each column costs something,
    however many rows there are.
    """
    piece.interrupt = interrupt
    piece.row = piece.column = 0
    piece.n_rows = n_rows
    piece.n = n
    piece.flops = 0
    piece.is_cut = False
    if interrupt.is_counting:
        piece.flops = n * (flops_an_entry * n_rows + flops_a_column)
        piece.is_cut = piece.flops > get_piece_flops()
        if piece.is_cut:
            cut(piece, row_step, column_step, flops_an_entry, flops_a_column)


cdef inline bint count_piece(Pieces* piece) noexcept nogil:
    """`next_piece` if there are several."""
    cdef double flops = piece.n * (piece.flops_an_entry * piece.n_rows + piece.flops_a_column)
    piece.row += piece.n_rows
    if piece.row == piece.all_rows:
        piece.row = 0
        piece.column += piece.n
    if piece.column == piece.all_columns:
        piece.n = 0
    else:
        size_of_piece(piece)
    return is_stopped(piece.interrupt, flops)


cdef inline bint next_piece(Pieces* piece) noexcept nogil:
    """Count this piece and go to the next."""
    if piece.is_cut:
        return count_piece(piece)
    piece.n = 0
    return is_stopped(piece.interrupt, piece.flops)


cdef inline void start_product(Pieces* piece, Interrupt* interrupt, Py_ssize_t n_rows, Py_ssize_t row_step,
                               Py_ssize_t n, Py_ssize_t column_step, Py_ssize_t depth) noexcept nogil:
    """Pieces of C = A B, sums over so many terms. Each row of C reads a row of A, each column a column of B."""
    cdef double flops_an_entry = 0
    if interrupt.is_counting:
        flops_an_entry = depth * (2 + MEMORY_FLOPS / <double>n) + MEMORY_FLOPS
    start_pieces(piece, interrupt, n_rows, row_step, n, column_step, flops_an_entry, <double>MEMORY_FLOPS * depth)


cdef inline void start_entries(Pieces* piece, Interrupt* interrupt, Py_ssize_t n_rows, Py_ssize_t n,
                               double flops) noexcept nogil:
    """Pieces of something that is done entry by entry."""
    start_pieces(piece, interrupt, n_rows, 1, n, PIECE_COLUMNS, flops, 0)


cdef inline void start_rows(Pieces* piece, Interrupt* interrupt, Py_ssize_t n_rows, Py_ssize_t n,
                            double flops) noexcept nogil:
    """Pieces of something that is done row by row: flops are those of an entry."""
    start_pieces(piece, interrupt, n_rows, 1, n, n, flops, 0)


cdef inline Py_ssize_t place(const Pieces* piece, Py_ssize_t ld, Py_ssize_t itemsize) noexcept nogil:
    """Where a piece starts in rows that lie ld reals apart, in bytes."""
    return (piece.row * ld + piece.column) * itemsize
