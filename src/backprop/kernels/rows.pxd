# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# What the derivatives by sample need: the gradient of each row, copies past the caches, sums of squares of rows.
# Needs: vector; rows.h.
# Gives: the table's outer_products, stream and square_sums.

from backprop.kernels.vector cimport LANES, broadcast, load, load_first, real, store, store_first, vec, vfma

cdef extern from "kernels/rows.h" nogil:
    void stream_reals "bp_stream"(Py_ssize_t n, const real* source, real* target) noexcept
    void add_squares "bp_square_sums"(int n_rows, Py_ssize_t n, const real* a, Py_ssize_t ld, double* sums) noexcept

cdef enum:
    KEPT_VECTORS = 4         # of a row of h, in registers while its products with grad_a are stored


cdef inline void outer_product(
        const int n_vectors, const bint is_sum, Py_ssize_t n_in, Py_ssize_t n_out,
        const real* grad_a, const real* h,      # IN
        const real* grad_a_2, const real* h_2,  # IN if is_sum
        real* gradient) noexcept nogil:         # OUT
    """grad_W of one sample, row by row, and grad_b behind it.

    h has n_vectors vectors, the last of them perhaps partial; n_vectors is a constant, or 0 if h has more than
    KEPT_VECTORS. The last store of a row may run past the row's end; the next row, or grad_b, overwrites the excess:
    masked stores take longer. Nothing is written past the end of grad_b.
    """
    cdef Py_ssize_t whole = (n_in - 1) // LANES * LANES  # start of the last vector of a row
    cdef Py_ssize_t n_left = n_out * (n_in + 1)          # reals from here to the end of grad_b
    cdef Py_ssize_t u, j
    cdef int c
    cdef vec row[KEPT_VECTORS]
    cdef vec row_2[KEPT_VECTORS]
    cdef vec g, g_2 = broadcast(0), product
    cdef vec last = load_first(h + whole, n_in - whole), last_2 = broadcast(0)
    if is_sum:
        last_2 = load_first(h_2 + whole, n_in - whole)
    for c in range(n_vectors - 1):
        row[c] = load(h + c * LANES)
        if is_sum:
            row_2[c] = load(h_2 + c * LANES)
    for u in range(n_out):
        g = broadcast(grad_a[u])
        if is_sum:
            g_2 = broadcast(grad_a_2[u])
        if n_vectors == 0:
            j = 0
            while j < whole:
                product = g * load(h + j)
                if is_sum:
                    product = vfma(g_2, load(h_2 + j), product)
                store(gradient + j, product)
                j += LANES
        else:
            for c in range(n_vectors - 1):
                product = g * row[c]
                if is_sum:
                    product = vfma(g_2, row_2[c], product)
                store(gradient + c * LANES, product)
        product = g * last
        if is_sum:
            product = vfma(g_2, last_2, product)
        if whole + LANES <= n_left:
            store(gradient + whole, product)
        else:
            store_first(gradient + whole, product, n_in - whole)
        gradient += n_in
        n_left -= n_in
    j = 0
    while j < n_out:
        store_first(gradient + j, load_first(grad_a + j, n_out - j), n_out - j)
        j += LANES


cdef inline void outer_products_of_width(
        const int n_vectors, Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const real* grad_a, Py_ssize_t ld_a, const real* h, Py_ssize_t ld_h,  # IN
        const real* grad_a_2, const real* h_2,                                # IN, or NULL
        real* gradients, Py_ssize_t ld) noexcept nogil:                       # OUT
    """`outer_products_of_rows` with the number of vectors turned into a constant."""
    cdef Py_ssize_t s
    if grad_a_2 == NULL:
        for s in range(n_rows):
            outer_product(n_vectors, False, n_in, n_out, grad_a + s * ld_a, h + s * ld_h, NULL, NULL,
                          gradients + s * ld)
    else:
        for s in range(n_rows):
            outer_product(n_vectors, True, n_in, n_out, grad_a + s * ld_a, h + s * ld_h, grad_a_2 + s * ld_a,
                          h_2 + s * ld_h, gradients + s * ld)


cdef inline void outer_products_of_rows(
        Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const void* grad_a_, Py_ssize_t ld_a, const void* h_, Py_ssize_t ld_h,  # IN
        const void* grad_a_2_, const void* h_2_,                                # IN, or NULL
        void* gradients_, Py_ssize_t ld) noexcept nogil:                        # OUT
    """grad_W[u][j] = grad_a[u] h[j] of each row, and grad_b = grad_a behind it. The gradients lie ld apart.

    If grad_a_2 and h_2 are not NULL, grad_a_2[u] h_2[j] is added to grad_W by fma.
    """
    cdef const real* grad_a = <const real*>grad_a_
    cdef const real* h = <const real*>h_
    cdef const real* grad_a_2 = <const real*>grad_a_2_
    cdef const real* h_2 = <const real*>h_2_
    cdef real* gradients = <real*>gradients_
    if n_in <= LANES:
        outer_products_of_width(1, n_rows, n_in, n_out, grad_a, ld_a, h, ld_h, grad_a_2, h_2, gradients, ld)
    elif n_in <= 2 * LANES:
        outer_products_of_width(2, n_rows, n_in, n_out, grad_a, ld_a, h, ld_h, grad_a_2, h_2, gradients, ld)
    elif n_in <= 3 * LANES:
        outer_products_of_width(3, n_rows, n_in, n_out, grad_a, ld_a, h, ld_h, grad_a_2, h_2, gradients, ld)
    elif n_in <= KEPT_VECTORS * LANES:
        outer_products_of_width(4, n_rows, n_in, n_out, grad_a, ld_a, h, ld_h, grad_a_2, h_2, gradients, ld)
    else:
        outer_products_of_width(0, n_rows, n_in, n_out, grad_a, ld_a, h, ld_h, grad_a_2, h_2, gradients, ld)


cdef inline void copy_past_caches(Py_ssize_t n,
                                  const void* source,                   # IN
                                  void* target) noexcept nogil:         # OUT
    """A copy to memory that is far larger than the caches."""
    stream_reals(n, <const real*>source, <real*>target)


cdef inline void square_sums_of_rows(Py_ssize_t n_rows, Py_ssize_t n,
                                     const void* a_, Py_ssize_t ld,     # IN
                                     double* sums) noexcept nogil:      # OUT
    """sums[s] = sum_j a[s][j]^2 in float64, in an order that depends on n alone."""
    cdef const real* a = <const real*>a_
    cdef Py_ssize_t s = 0
    while s + 4 <= n_rows:
        add_squares(4, n, a + s * ld, ld, sums + s)
        s += 4
    while s < n_rows:
        add_squares(1, n, a + s * ld, ld, sums + s)
        s += 1
