# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Copies of operands of the matrix products, laid out so that the register block reads them fast.
# Needs: block (the widths of panels), vector.
# Gives: the table's panel_columns, packed_size and pack; copies of panels and of blocks.

from backprop.kernels.vector cimport BLOCK_ROWS, BLOCK_VECTORS, LANES, copy_block, load, real, store, transpose_quad
from backprop.kernels.block cimport next_panel, next_rows

cdef extern from "kernels/transpose.h" nogil:
    enum:
        GROUP "BP_GROUP"
        GROUP_K "BP_GROUP_K"
    void pack_group "bp_pack_group"(const real* W, Py_ssize_t ld, real* target, Py_ssize_t target_row) noexcept

cdef enum:
    PACK_ROWS = 16           # k's of a panel packed at a time: what is written stays in L1 (784-128: 13 us, not 23)
    LARGE_BYTES = 524288     # but a larger W is read in whole rows, for the prefetcher (1000-3000: 3.9, not 6.3 ms)
    COPIED_ROWS = 16         # of a strip at a time
    NARROW = 8               # a forward product with at most so many outputs takes the dot form (docs/kernels.rst)


cdef inline Py_ssize_t panel_columns() noexcept nogil:
    return BLOCK_VECTORS * LANES


cdef inline Py_ssize_t packed_size(Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """Reals in the panels of W^T: columns are rounded up to whole vectors. The dot form needs none."""
    return 0 if n_out <= NARROW else n_in * ((n_out + LANES - 1) // LANES) * LANES


cdef inline void pack_panel(Py_ssize_t n_in, Py_ssize_t n_out, Py_ssize_t k_start, Py_ssize_t k_end,
                            Py_ssize_t n_columns, int width,
                            const real* W,                                # IN
                            real* packed) noexcept nogil:                 # OUT
    """packed[k - k_start][j] = W[j][k] for a panel of width columns, zeros beyond n_columns; by groups in registers."""
    cdef Py_ssize_t whole_columns = n_columns // GROUP * GROUP, j, k, column, end
    cdef Py_ssize_t step = k_end - k_start if n_in * n_out * <Py_ssize_t>sizeof(real) > LARGE_BYTES else PACK_ROWS
    while k_start < k_end:
        end = min(k_start + step, k_end)
        j = 0
        while j < whole_columns:
            k = k_start
            while k + GROUP_K <= end:
                pack_group(W + j * n_in + k, n_in, packed + (k - k_start) * width + j, width)
                k += GROUP_K
            while k < end:
                for column in range(j, j + GROUP):
                    packed[(k - k_start) * width + column] = W[column * n_in + k]
                k += 1
            j += GROUP
        if n_columns - j >= 4:
            k = k_start
            while k + 4 <= end:
                transpose_quad(W + j * n_in + k, n_in, packed + (k - k_start) * width + j, width)
                k += 4
            while k < end:
                for column in range(j, j + 4):
                    packed[(k - k_start) * width + column] = W[column * n_in + k]
                k += 1
            j += 4
        if j < width:
            for k in range(k_start, end):
                for column in range(j, width):
                    packed[(k - k_start) * width + column] = W[column * n_in + k] if column < n_columns else 0
        packed += (end - k_start) * width
        k_start = end


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
            pack_panel(n_in, n_out, 0, n_in, min(n_out - j, <Py_ssize_t>width), width, W + j * n_in, packed)
        packed += n_in * width
        j += width


cdef inline void copy_ragged(const real* source, real* target, int width, Py_ssize_t n) noexcept nogil:
    """A row of a panel, zeros beyond n columns."""
    cdef Py_ssize_t j = 0
    while j + LANES <= min(<Py_ssize_t>width, n):
        store(target + j, load(source + j))
        j += LANES
    while j < width:
        target[j] = source[j] if j < n else 0
        j += 1


cdef inline void copy_strip(Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t j_start, Py_ssize_t j_end,
                            const real* B, Py_ssize_t ld,                 # IN
                            real* panels) noexcept nogil:                 # OUT
    """Columns j_start..j_end-1 of the n columns of B in panels, zeros beyond n; some rows of all panels at a time.

    A panel alone would take 64 bytes of each row, and each row of a wide layer lies on a page of its own (2500-900,
    hidden sum, v3: 81 % of the peak with panels one by one, 88 % with strips).
    """
    cdef Py_ssize_t row = 0, end, k, j
    cdef int width, v
    cdef real* panel
    while row < n_rows:
        end = min(row + COPIED_ROWS, n_rows)
        j = j_start
        panel = panels
        while j < j_end:
            width = next_panel(n - j).width
            if width == BLOCK_VECTORS * LANES and j + width <= n:
                for k in range(row, end):
                    for v in range(BLOCK_VECTORS):
                        store(panel + k * width + v * LANES, load(B + k * ld + j + v * LANES))
            else:
                for k in range(row, end):
                    copy_ragged(B + k * ld + j, panel + k * width, width, n - j)
            panel += n_rows * width
            j += width
        row = end


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
