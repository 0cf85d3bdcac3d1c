# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Sums of weighted products of directions.
# Needs: vector; symmetric.h.
# Gives: the table's symmetric_forms.
#
# Each sum has 64 bytes of lanes over the units, and then one fixed tree, as in dot.pxd. The sums of a block of pairs
# are computed side by side in registers: a triangle of directions p <= q, or all pairs of two groups of directions. A
# block goes over a few rows before the next block, since the compiler computes many addresses before each loop; if a
# vector has a part of the lanes, a block reads its rows once for each part, and fewer rows stay in L1.

from backprop.kernels.vector cimport BLOCK_VECTORS, LANES, PARTS, broadcast, load_first, real, vec, vfma

cdef extern from "kernels/symmetric.h" nogil:
    ctypedef float folded "bp_folded"
    enum:
        TREES "BP_TREES"
    folded fold "bp_fold"(const vec* part) noexcept
    void tree_sums "bp_tree_sums"(const folded* v, real* sums) noexcept

cdef enum:
    GROUP = 4                # directions
    PAIRS = 16               # a multiple of TREES


cdef inline void add_products(const int n_p, const int n_q, const bint is_triangle, const Py_ssize_t rest,
                              const real* weight, const real* d_p, const real* d_q, Py_ssize_t d_block,  # IN
                              vec* chain) noexcept nogil:                                      # IN and OUT (n_p, n_q)
    """chain[p][q] = chain[p][q] + (weight d_p) d_q for one vector of units."""
    cdef vec w = load_first(weight, rest), x
    cdef vec y[GROUP]
    cdef int p, q
    for q in range(n_q):
        y[q] = load_first(d_q + q * d_block, rest)
    for p in range(n_p):
        x = w * (y[p] if is_triangle else load_first(d_p + p * d_block, rest))
        for q in range(p if is_triangle else 0, n_q):
            chain[p * n_q + q] = vfma(x, y[q], chain[p * n_q + q])


cdef inline void forms_of_pairs(const int n_p, const int n_q, const bint is_triangle, Py_ssize_t n,
                                const real* weight, const real* d_p, const real* d_q, Py_ssize_t d_block,  # IN
                                real* H, real* H_mirrored, Py_ssize_t k, bint add) noexcept nogil:         # OUT
    """H[p][q] and H[q][p] of one row for n_p x n_q pairs, or p <= q < n_q; both start at those of the first pair."""
    cdef vec lanes[PAIRS][PARTS]
    cdef vec chain[PAIRS]
    cdef folded half[PAIRS]
    cdef real sums[PAIRS]
    cdef real total
    cdef Py_ssize_t u, at
    cdef int part, i, p, q
    for part in range(PARTS):
        for i in range(n_p * n_q):
            chain[i] = broadcast(0)
        u = 0
        while u + PARTS * LANES <= n:
            at = u + part * LANES
            add_products(n_p, n_q, is_triangle, LANES, weight + at, d_p + at, d_q + at, d_block, chain)
            u += PARTS * LANES
        if u < n:
            at = u + part * LANES
            add_products(n_p, n_q, is_triangle, n - at, weight + at, d_p + at, d_q + at, d_block, chain)
        for i in range(n_p * n_q):
            lanes[i][part] = chain[i]
    i = 0
    for p in range(n_p):
        for q in range(p if is_triangle else 0, n_q):
            half[i] = fold(lanes[p * n_q + q])
            i += 1
    while i % TREES != 0:
        half[i] = half[0]
        i += 1
    for p in range(i // TREES):
        tree_sums(half + p * TREES, sums + p * TREES)
    i = 0
    for p in range(n_p):
        for q in range(p if is_triangle else 0, n_q):
            total = H[p * k + q] + sums[i] if add else sums[i]
            H[p * k + q] = total
            H_mirrored[q * k + p] = total
            i += 1


cdef struct Forms:           # of some rows
    Py_ssize_t n_rows
    Py_ssize_t n
    Py_ssize_t k
    Py_ssize_t first             # directions p of the pairs p <= q: from here
    Py_ssize_t end               # to here
    const real* weight
    Py_ssize_t ld
    const real* d
    Py_ssize_t d_row
    Py_ssize_t d_block
    real* H
    bint add


cdef inline void forms_of_block(const int n_p, const int n_q, const bint is_triangle, const Forms* forms,
                                Py_ssize_t p, Py_ssize_t q) noexcept nogil:
    """The pairs of a block, which starts at (p, q), for some rows."""
    cdef const real* weight = forms.weight
    cdef const real* d_p = forms.d + p * forms.d_block
    cdef const real* d_q = forms.d + q * forms.d_block
    cdef real* H = forms.H + p * forms.k + q
    cdef real* H_mirrored = forms.H + q * forms.k + p
    cdef Py_ssize_t n = forms.n, k = forms.k, ld = forms.ld, d_row = forms.d_row, d_block = forms.d_block, _r
    cdef bint add = forms.add
    for _r in range(forms.n_rows):
        forms_of_pairs(n_p, n_q, is_triangle, n, weight, d_p, d_q, d_block, H, H_mirrored, k, add)
        weight += ld
        d_p += d_row
        d_q += d_row
        H += k * k
        H_mirrored += k * k


cdef inline void forms_of_some_rows(const int group, const Forms* forms) noexcept nogil:
    """All blocks, of up to `group` directions each way."""
    cdef Py_ssize_t p = forms.first, q, left
    while p < forms.end:
        left = forms.k - p
        if left >= group:
            forms_of_block(group, group, True, forms, p, p)
        elif left == 3:
            forms_of_block(3, 3, True, forms, p, p)
        elif left == 2:
            forms_of_block(2, 2, True, forms, p, p)
        else:
            forms_of_block(1, 1, True, forms, p, p)
        q = p + group
        while q < forms.k:
            left = forms.k - q
            if left >= group:
                forms_of_block(group, group, False, forms, p, q)
            elif left == 3:
                forms_of_block(group, 3, False, forms, p, q)
            elif left == 2:
                forms_of_block(group, 2, False, forms, p, q)
            else:
                forms_of_block(group, 1, False, forms, p, q)
            q += group
        p += group


cdef inline void symmetric_forms_of_rows(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, Py_ssize_t first, Py_ssize_t n_first,
        const void* weight, Py_ssize_t ld,                                      # IN
        const void* d, Py_ssize_t d_row, Py_ssize_t d_block,                    # IN
        void* H, bint add) noexcept nogil:                                      # OUT; IN too with add
    """H[p][q] = H[q][p] = sum_u weight[u] d_p[u] d_q[u] of each row, for n_first p from `first` on, and q >= p."""
    cdef Forms forms
    forms.n = n
    forms.k = k
    forms.first = first
    forms.end = first + n_first
    forms.weight = <const real*>weight
    forms.ld = ld
    forms.d = <const real*>d
    forms.d_row = d_row
    forms.d_block = d_block
    forms.H = <real*>H
    forms.add = add
    while n_rows > 0:
        forms.n_rows = min(n_rows, <Py_ssize_t>(8 // PARTS))
        if BLOCK_VECTORS == 3:  # 32 registers
            forms_of_some_rows(4, &forms)
        else:
            forms_of_some_rows(3, &forms)
        forms.weight += forms.n_rows * ld
        forms.d += forms.n_rows * d_row
        forms.H += forms.n_rows * k * k
        n_rows -= forms.n_rows
