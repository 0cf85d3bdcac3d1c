# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Copies of operands of the matrix products, laid out so that the register block reads them fast.
# Needs: block (the widths of panels), vector.
# Gives: the table's packed_size and pack; copies of panels and of blocks.

from backprop.kernels.table cimport FAR_BYTES
from backprop.kernels.vector cimport BLOCK_ROWS, LANES, copy_block, load_first, real, store_first, transpose_quad
from backprop.kernels.block cimport next_panel, next_rows

cdef enum:
    PACK_ROWS = 16           # k's of a panel packed at a time: what is written stays in L1 (784-128: 13 us, not 23)
    LARGE_BYTES = 524288     # but W beyond L2 is read in whole rows, for the prefetcher (1000-3000: 3.9, not 6.3 ms)
    NARROW = 8               # a forward product with at most so many outputs takes the dot form (docs/kernels.rst)


cdef inline Py_ssize_t packed_size(Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """Reals in the panels of W^T: columns are rounded up to whole vectors. The dot form needs none."""
    return 0 if n_out <= NARROW else n_in * ((n_out + LANES - 1) // LANES) * LANES


cdef inline Py_ssize_t k_block_of(Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """The number of k's of a panel that are packed at a time."""
    return n_in if n_in * n_out * <Py_ssize_t>sizeof(real) > LARGE_BYTES else PACK_ROWS


cdef inline void pack_panel(Py_ssize_t n_in, Py_ssize_t n_columns, int width,
                            const real* W,                                # IN
                            real* packed,                                 # OUT
                            Py_ssize_t k_block) noexcept nogil:
    """packed[k][j] = W[j][k] for one panel of width columns, zeros beyond n_columns; 4 x 4 blocks in registers."""
    cdef Py_ssize_t whole_columns = n_columns // 4 * 4, whole_in = n_in // 4 * 4
    cdef Py_ssize_t j, k, k_start = 0, k_end
    while k_start < n_in:
        k_end = min(k_start + k_block, n_in)
        j = 0
        while j < whole_columns:
            k = k_start
            while k + 4 <= k_end:
                transpose_quad(W + j * n_in + k, n_in, packed + k * width + j, width)
                k += 4
            j += 4
        for j in range(whole_columns, n_columns):
            for k in range(k_start, k_end):
                packed[k * width + j] = W[j * n_in + k]
        k_start = k_end
    for k in range(whole_in, n_in):
        for j in range(whole_columns):
            packed[k * width + j] = W[j * n_in + k]
    if n_columns < width:
        for k in range(n_in):
            for j in range(n_columns, width):
                packed[k * width + j] = 0


cdef inline void pack(Py_ssize_t n_in, Py_ssize_t n_out,
                      const void* W_,                                     # IN
                      void* packed_,                                      # OUT
                      Py_ssize_t j_start, Py_ssize_t j_end) noexcept nogil:
    """The panels of W^T that start within j_start..j_end-1."""
    cdef const real* W = <const real*>W_
    cdef real* packed = <real*>packed_
    cdef Py_ssize_t j = 0
    cdef int width
    if n_out <= NARROW:
        return
    while j < min(n_out, j_end):
        width = next_panel(n_out - j).width
        if j >= j_start:
            pack_panel(n_in, min(n_out - j, <Py_ssize_t>width), width, W + j * n_in, packed, k_block_of(n_in, n_out))
        packed += n_in * width
        j += width


cdef inline void copy_panel(Py_ssize_t n_rows, Py_ssize_t width, Py_ssize_t n_columns,
                            const real* source, Py_ssize_t source_row,    # IN
                            real* packed) noexcept nogil:                 # OUT
    """packed[k][j] = source[k][j] for a panel of width columns, zeros beyond n_columns."""
    cdef Py_ssize_t k, j
    for k in range(n_rows):
        j = 0
        while j < width:
            store_first(packed + k * width + j, load_first(source + k * source_row + j, n_columns - j), width - j)
            j += LANES


cdef inline bint rows_lie_far_apart(Py_ssize_t ld) noexcept nogil:
    """Whether each row of a panel lies on a page of its own: a copy of the panel then pays if it is used often."""
    return ld * <Py_ssize_t>sizeof(real) >= FAR_BYTES


cdef inline void copy_by_blocks(Py_ssize_t n_rows, Py_ssize_t n_out,
                                const real* grad_a, Py_ssize_t ld_a,      # IN
                                real* copied) noexcept nogil:             # OUT
    """The units of each register block side by side, row after row."""
    cdef Py_ssize_t u = 0, s, j
    cdef int m
    while u < n_out:
        m = next_rows(n_out - u)
        for s in range(n_rows):
            if m == BLOCK_ROWS:
                copy_block(copied + u * n_rows + s * m, grad_a + s * ld_a + u)
            else:
                for j in range(m):
                    copied[u * n_rows + s * m + j] = grad_a[s * ld_a + u + j]
        u += m
