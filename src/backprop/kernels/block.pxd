# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# C = A B for one panel of columns, in registers (block.h), and how a matrix is cut into panels.
# Needs: vector; block.h.
# Gives: `Product`, `panel_product`, on which all matrix products run, and `next_panel`.

from backprop.kernels.vector cimport BLOCK_VECTORS, HAS_HALF, LANES, real

cdef extern from "kernels/block.h" nogil:
    enum:
        BY_BLOCK "BP_BY_BLOCK"
        LINE_BYTES "BP_LINE_BYTES"
    ctypedef enum Tail "bp_tail":
        WHOLE "BP_WHOLE"
        PARTIAL "BP_PART"
        HALF "BP_HALF"
    ctypedef struct Fetch "bp_fetch":
        const char* row
        Py_ssize_t row_bytes, n_lines, line, left, lines_a_block
    ctypedef struct Product "bp_product":
        Fetch* fetch
        Py_ssize_t n_rows, K
        int is_chained
        const real* A
        Py_ssize_t a_row, a_k, a_block, a_start
        const real* B
        Py_ssize_t b_k
        const real* start
        Py_ssize_t start_row
        const real* factor
        real* C
        Py_ssize_t c_row
        int fetches_c
        int add
        double divisor
    int next_rows "bp_next_rows"(Py_ssize_t n_left) noexcept
    void run_blocks "bp_panel_product"(const Product* t, Py_ssize_t n, int n_vectors, Tail tail) noexcept


cdef struct Panel:
    # The next columns of B and C that are computed together.
    int n_vectors            # whole or partial
    Tail tail
    int width                # columns, rounded up to vectors or half vectors
    Py_ssize_t n             # columns within the matrix


cdef inline Panel next_panel(Py_ssize_t n_left) noexcept nogil:
    """The next panel, if n_left columns are left. Up to 4 vectors are cut in two, not into three and a stump."""
    cdef Panel p
    cdef Py_ssize_t unit = LANES // 2 if HAS_HALF else LANES
    cdef Py_ssize_t most = 2 * BLOCK_VECTORS if HAS_HALF else BLOCK_VECTORS
    cdef Py_ssize_t units = (n_left + unit - 1) // unit
    if units > most:
        units = most if units > most + most // 3 else (units + 3) // 4 * 2 if HAS_HALF else (units + 1) // 2
    p.width = <int>(units * unit)
    p.n = min(n_left, <Py_ssize_t>p.width)
    p.n_vectors = <int>(units // 2 if HAS_HALF else units)
    p.tail = WHOLE
    if HAS_HALF and units % 2:
        p.tail = HALF
    elif p.n < p.width:
        p.tail = PARTIAL
    return p


cdef inline void panel_product(const Product* t, const Panel* p) noexcept nogil:
    """C = A B for a panel."""
    run_blocks(t, p.n, p.n_vectors, p.tail)
