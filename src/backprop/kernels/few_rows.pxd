# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The products of so few samples that a register block costs more than its chains: rows of the result one by one.
# Needs: vector; transpose.h.
# Gives: FEW_ROWS; few_rows_product, product_AB_of_one_row and product_AtB_of_few_rows, each with the chains of its
# product in products.pxi.

from backprop.kernels.vector cimport LANES, broadcast, divide, load, load_first, real, store, store_first, vec, vfma

cdef extern from "kernels/transpose.h" nogil:
    enum:
        HAS_GROUPS "BP_HAS_GROUPS"
    # a = h W^T + b of 1..FEW_ROWS rows and more than 8 outputs: W is transposed in registers; if HAS_GROUPS.
    void few_rows_product "bp_few_rows_product"(
        int n_rows, Py_ssize_t n_in, Py_ssize_t n_out, const real* h, Py_ssize_t ld_h, const real* W, const real* b,
        real* a, Py_ssize_t ld_a) noexcept

cdef enum:
    FEW_ROWS = 4


cdef inline void product_AB_of_columns(
        const int n_vectors, Py_ssize_t n, Py_ssize_t n_next,
        const real* grad_a_next, const real* W_next, Py_ssize_t ld_W,         # IN
        const real* g_prime,                                                  # IN, or NULL: may be grad_h
        real* grad_h, bint add) noexcept nogil:                               # OUT; IN too with add
    """One row of grad_h = grad_a W: as many columns as n_vectors hold, a constant; n are there."""
    cdef vec chain[8]
    cdef vec w
    cdef Py_ssize_t m
    cdef int c
    for c in range(n_vectors):
        chain[c] = broadcast(0)
    for m in range(n_next):
        for c in range(n_vectors):
            w = load_first(W_next + m * ld_W + c * LANES, n - c * LANES)
            chain[c] = vfma(broadcast(grad_a_next[m]), w, chain[c])
    for c in range(n_vectors):
        w = chain[c]
        if add:
            w = load_first(grad_h + c * LANES, n - c * LANES) + w
        if g_prime != NULL:
            w = load_first(g_prime + c * LANES, n - c * LANES) * w
        store_first(grad_h + c * LANES, w, n - c * LANES)


cdef inline void product_AB_of_one_row(
        Py_ssize_t n, Py_ssize_t n_next,
        const real* grad_a_next, const real* W_next, Py_ssize_t ld_W,         # IN
        const real* g_prime,                                                  # IN, or NULL: may be grad_h
        real* grad_h, bint add) noexcept nogil:                               # OUT; IN too with add
    """grad_h_j = sum_m grad_a_m W_{m,j}, times g' or added to grad_h."""
    cdef Py_ssize_t j = 0
    cdef const real* factor = NULL
    while j < n:
        if g_prime != NULL:
            factor = g_prime + j
        if n - j >= 8 * LANES:
            product_AB_of_columns(8, 8 * LANES, n_next, grad_a_next, W_next + j, ld_W, factor, grad_h + j, add)
            j += 8 * LANES
        else:
            product_AB_of_columns(2, n - j, n_next, grad_a_next, W_next + j, ld_W, factor, grad_h + j, add)
            j += 2 * LANES


cdef inline void product_AtB_of_rows(
        const int n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const real* grad_a, Py_ssize_t ld_a, const real* h, Py_ssize_t ld_h,  # IN
        real* grad_W, Py_ssize_t ld_W, bint add,                              # OUT; IN too with add
        double divisor) noexcept nogil:
    """grad_W[u][j] = sum_s grad_a[s][u] h[s][j], row by row of grad_W. n_rows is a constant."""
    cdef Py_ssize_t u, j
    cdef int s
    cdef vec a[FEW_ROWS]
    cdef vec chain
    cdef double reciprocal = 1 / divisor
    cdef bint divides = divisor != 0 and divisor != 1
    cdef real* out = grad_W
    for u in range(n_out):
        for s in range(n_rows):
            a[s] = broadcast(grad_a[s * ld_a + u])
        j = 0
        while j + LANES <= n_in:
            chain = broadcast(0)
            for s in range(n_rows):
                chain = vfma(a[s], load(h + s * ld_h + j), chain)
            if add:
                chain = load(out + j) + chain
            if divides:
                chain = divide(chain, divisor, reciprocal)
            store(out + j, chain)
            j += LANES
        if j < n_in:
            chain = broadcast(0)
            for s in range(n_rows):
                chain = vfma(a[s], load_first(h + s * ld_h + j, n_in - j), chain)
            if add:
                chain = load_first(out + j, n_in - j) + chain
            if divides:
                chain = divide(chain, divisor, reciprocal)
            store_first(out + j, chain, n_in - j)
        out += ld_W


cdef inline void product_AtB_of_few_rows(
        Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const real* grad_a, Py_ssize_t ld_a, const real* h, Py_ssize_t ld_h,  # IN
        real* grad_W, Py_ssize_t ld_W, bint add,                              # OUT; IN too with add
        double divisor) noexcept nogil:
    """grad_W of 1..FEW_ROWS rows, added or not, and divided if divisor is not 0."""
    if n_rows == 1:
        product_AtB_of_rows(1, n_in, n_out, grad_a, ld_a, h, ld_h, grad_W, ld_W, add, divisor)
    elif n_rows == 2:
        product_AtB_of_rows(2, n_in, n_out, grad_a, ld_a, h, ld_h, grad_W, ld_W, add, divisor)
    elif n_rows == 3:
        product_AtB_of_rows(3, n_in, n_out, grad_a, ld_a, h, ld_h, grad_W, ld_W, add, divisor)
    else:
        product_AtB_of_rows(4, n_in, n_out, grad_a, ld_a, h, ld_h, grad_W, ld_W, add, divisor)
