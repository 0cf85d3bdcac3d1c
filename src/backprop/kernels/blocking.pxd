# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# How a matrix product is cut into blocks, so that its operands are read from near caches.
# Needs: block, packing, vector.
# Gives: `Blocks` and the rules for it, the scratch they need, and the table's set_l2_bytes.
#
# A panel of B is used for all rows of a group. These rows of A then come from L2 for each panel, and the panel comes
# from L1 or L2 for each register block. So a group's part of A takes a quarter of L2, and the blocks over k are as long
# as that allows with 64 rows. B is copied strip by strip. No bit depends on any of this: a chain that ends at a block
# is stored and goes on from there.

from backprop.kernels.table cimport CHAIN_ROWS, SCRATCH_UNITS
from backprop.kernels.vector cimport BLOCK_ROWS, BLOCK_VECTORS, LANES, real
from backprop.kernels.block cimport next_panel

cdef extern from *:
    """
    static ptrdiff_t bp_l2_bytes = 524288; /* of a core; smaller than most, if the system does not say */
    static void bp_set_l2_bytes(ptrdiff_t n_bytes) { bp_l2_bytes = n_bytes; }
    static ptrdiff_t bp_get_l2_bytes(void) { return bp_l2_bytes; }
    """
    Py_ssize_t l2_bytes "bp_l2_bytes"
    void set_l2_bytes "bp_set_l2_bytes"(Py_ssize_t n_bytes) noexcept nogil
    Py_ssize_t get_l2_bytes "bp_get_l2_bytes"() noexcept nogil

cdef enum:
    GROUP_ROWS = (63 + BLOCK_ROWS) // BLOCK_ROWS * BLOCK_ROWS    # 64, rounded up to whole register blocks
    STRIP_BYTES = 256        # of each row of B that is copied: four cache lines one after another


cdef struct Blocks:
    Py_ssize_t k             # k's of a block
    Py_ssize_t rows          # rows of A and C of a group
    Py_ssize_t strip         # columns of B and C of a strip, rounded up to whole panels


cdef inline Blocks blocks_of_chain(Py_ssize_t n_rows, Py_ssize_t K) noexcept nogil:
    """The blocks of a product with n_rows rows whose sums are single chains over K k's."""
    cdef Blocks b
    cdef Py_ssize_t entries = l2_bytes // (4 * <Py_ssize_t>sizeof(real))
    b.k = max(<Py_ssize_t>CHAIN_ROWS, entries // GROUP_ROWS)
    b.rows = GROUP_ROWS
    if n_rows > GROUP_ROWS and K < b.k:
        b.rows = entries // K // BLOCK_ROWS * BLOCK_ROWS
    b.strip = STRIP_BYTES // <Py_ssize_t>sizeof(real)
    return b


cdef inline Blocks blocks_of_chains(Py_ssize_t n_rows) noexcept nogil:
    """The same if the sums are several chains, one after another. All rows are one group, mostly SCRATCH_UNITS."""
    cdef Blocks b
    cdef Py_ssize_t entries = l2_bytes // (4 * <Py_ssize_t>sizeof(real))
    b.k = max(<Py_ssize_t>1, entries // (SCRATCH_UNITS * CHAIN_ROWS)) * CHAIN_ROWS
    b.rows = n_rows
    b.strip = 1
    return b


cdef inline Py_ssize_t blocks_of_rows(Py_ssize_t n_rows) noexcept nogil:
    """Register blocks of so many rows."""
    return (n_rows + BLOCK_ROWS - 1) // BLOCK_ROWS


cdef inline Py_ssize_t end_of_block(Py_ssize_t start, Py_ssize_t end, Py_ssize_t size) noexcept nogil:
    """The end of the block from `start`: after so many, or at `end` if less than 1.5 times as many are left."""
    return end if 2 * (end - start) < 3 * size else start + size


cdef inline Py_ssize_t end_of_strip(Py_ssize_t start, Py_ssize_t n, Py_ssize_t strip) noexcept nogil:
    """The end of the strip from column `start` of n: whole panels, which may go beyond n."""
    cdef Py_ssize_t j = start
    while j < n and j - start < strip:
        j += next_panel(n - j).width
    return j


cdef inline Py_ssize_t ld_of_strip(const Blocks* b) noexcept nogil:
    """Columns for which a strip has room: its last panel may begin just before its end."""
    return b.strip + BLOCK_VECTORS * LANES


cdef inline Py_ssize_t copied_size(const Blocks* b, Py_ssize_t K) noexcept nogil:
    """Reals of a copied strip, a block of k's at a time."""
    return min(K, b.k + b.k // 2) * ld_of_strip(b)
