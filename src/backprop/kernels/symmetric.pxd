# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Sums of weighted products of directions.
# Needs: vector.
# Gives: the table's symmetric_forms.
#
# Each sum has 64 bytes of lanes over the units, and then one fixed tree, as in dot.pxd.

from backprop.kernels.vector cimport LANES, PARTS, broadcast, load_first, real, tree_sum, vec, vfma


cdef inline real weighted_product(Py_ssize_t n, const real* weight, const real* x, const real* y) noexcept nogil:
    """sum_u (weight[u] x[u]) y[u]."""
    cdef vec chain[PARTS]
    cdef Py_ssize_t u = 0, rest
    cdef int part
    for part in range(PARTS):
        chain[part] = broadcast(0)
    while u < n:
        for part in range(PARTS):
            rest = n - u - part * LANES
            chain[part] = vfma(load_first(weight + u + part * LANES, rest) * load_first(x + u + part * LANES, rest),
                               load_first(y + u + part * LANES, rest), chain[part])
        u += PARTS * LANES
    return tree_sum(chain)


cdef inline void symmetric_forms_of_rows(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k,
        const void* weight_, Py_ssize_t ld,                                     # IN
        const void* d_, Py_ssize_t d_row, Py_ssize_t d_block,                   # IN
        void* H_, bint add) noexcept nogil:                                     # OUT; IN too with add
    """H[p][q] = sum_u weight[u] d_p[u] d_q[u] of each row."""
    cdef const real* weight = <const real*>weight_
    cdef const real* d = <const real*>d_
    cdef real* H = <real*>H_
    cdef real total
    cdef Py_ssize_t _r, p, q
    for _r in range(n_rows):
        for p in range(k):
            for q in range(p, k):
                total = weighted_product(n, weight, d + p * d_block, d + q * d_block)
                if add:
                    total = H[p * k + q] + total
                H[p * k + q] = total
                H[q * k + p] = total
        weight += ld
        d += d_row
        H += k * k
