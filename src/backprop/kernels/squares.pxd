# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Sums of weighted squares of directions: the diagonal of symmetric.pxd.
# Needs: vector.
# Gives: the table's weighted_squares.

from backprop.kernels.vector cimport LANES, PARTS, broadcast, load_first, real, tree_sum, vec, vfma

cdef enum:
    TOGETHER = 4             # directions whose sums run side by side


cdef inline void squares_of_directions(const int n_directions, Py_ssize_t n, const real* weight,
                                       const real* d, Py_ssize_t d_block,                        # IN
                                       real* sums, bint add) noexcept nogil:                     # OUT; IN too with add
    """sums[j] = sum_u (weight[u] d_j[u]) d_j[u] of one row: 64 bytes of lanes over the units, then one fixed tree."""
    cdef vec chain[TOGETHER][PARTS]
    cdef vec w, x
    cdef Py_ssize_t u = 0, rest
    cdef int part, j
    for j in range(n_directions):
        for part in range(PARTS):
            chain[j][part] = broadcast(0)
    while u < n:
        for part in range(PARTS):
            rest = n - u - part * LANES
            w = load_first(weight + u + part * LANES, rest)
            for j in range(n_directions):
                x = load_first(d + j * d_block + u + part * LANES, rest)
                chain[j][part] = vfma(w * x, x, chain[j][part])
        u += PARTS * LANES
    for j in range(n_directions):
        sums[j] = (sums[j] if add else 0) + tree_sum(chain[j])


cdef inline void weighted_squares_of_rows(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k,
        const void* weight_, Py_ssize_t ld,                                     # IN
        const void* d_, Py_ssize_t d_row, Py_ssize_t d_block,                   # IN
        void* sums_, Py_ssize_t ld_sums, bint add) noexcept nogil:              # OUT; IN too with add
    """sums[r][j] = sum_u weight[r][u] d_j[r][u]^2, or added to it."""
    cdef const real* weight = <const real*>weight_
    cdef const real* d = <const real*>d_
    cdef real* sums = <real*>sums_
    cdef Py_ssize_t _r, j
    for _r in range(n_rows):
        j = 0
        while j < k:
            if k - j >= TOGETHER:
                squares_of_directions(TOGETHER, n, weight, d + j * d_block, d_block, sums + j, add)
                j += TOGETHER
            elif k - j >= 2:
                squares_of_directions(2, n, weight, d + j * d_block, d_block, sums + j, add)
                j += 2
            else:
                squares_of_directions(1, n, weight, d + j * d_block, d_block, sums + j, add)
                j += 1
        weight += ld
        d += d_row
        sums += ld_sums
