# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The forward product of a narrow layer, with lanes over its inputs.
# Needs: vector.
# Gives: dot_form.

from backprop.kernels.vector cimport LANES, PARTS, broadcast, load, load_first, real, tree_sum, vec, vfma


cdef inline void dot_block(
        const int n_rows, const int n_units, Py_ssize_t n_in,
        const real* h, Py_ssize_t ld_h, const real* W, const real* b,  # IN; b may be NULL
        real* a, Py_ssize_t ld_a, bint add) noexcept nogil:            # OUT; IN too with add
    """a[s][j] = b[j] + sum_k W[j][k] h[s][k] for few outputs: 64 bytes of lanes over k, then one fixed tree."""
    cdef vec chain[4][2][PARTS]
    cdef vec w[2]
    cdef vec v
    cdef Py_ssize_t k = 0, left
    cdef int r, u, p
    for r in range(n_rows):
        for u in range(n_units):
            for p in range(PARTS):
                chain[r][u][p] = broadcast(0)
    while k + PARTS * LANES <= n_in:
        for p in range(PARTS):
            for u in range(n_units):
                w[u] = load(W + u * n_in + k + p * LANES)
            for r in range(n_rows):
                v = load(h + r * ld_h + k + p * LANES)
                for u in range(n_units):
                    chain[r][u][p] = vfma(w[u], v, chain[r][u][p])
        k += PARTS * LANES
    for p in range(PARTS):
        left = n_in - k - p * LANES
        for u in range(n_units):
            w[u] = load_first(W + u * n_in + k + p * LANES, left)
        for r in range(n_rows):
            v = load_first(h + r * ld_h + k + p * LANES, left)
            for u in range(n_units):
                chain[r][u][p] = vfma(w[u], v, chain[r][u][p])
    for r in range(n_rows):
        for u in range(n_units):
            a[r * ld_a + u] = (a[r * ld_a + u] if add else 0 if b == NULL else b[u]) + tree_sum(chain[r][u])


cdef inline void dot_form(
        Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const real* h, Py_ssize_t ld_h, const real* W, const real* b,  # IN; b may be NULL
        real* a, Py_ssize_t ld_a, bint add) noexcept nogil:            # OUT; IN too with add
    """The forward product of a narrow layer. W and h are read as stored."""
    cdef Py_ssize_t s = 0, j
    cdef const real* b_j = NULL
    while s < n_rows:
        j = 0
        while j < n_out:
            if b != NULL:
                b_j = b + j
            if n_rows - s >= 4:
                if n_out - j >= 2:
                    dot_block(4, 2, n_in, h + s * ld_h, ld_h, W + j * n_in, b_j, a + s * ld_a + j, ld_a, add)
                else:
                    dot_block(4, 1, n_in, h + s * ld_h, ld_h, W + j * n_in, b_j, a + s * ld_a + j, ld_a, add)
            else:
                if n_out - j >= 2:
                    dot_block(1, 2, n_in, h + s * ld_h, ld_h, W + j * n_in, b_j, a + s * ld_a + j, ld_a, add)
                else:
                    dot_block(1, 1, n_in, h + s * ld_h, ld_h, W + j * n_in, b_j, a + s * ld_a + j, ld_a, add)
            j += 2
        s += 4 if n_rows - s >= 4 else 1
