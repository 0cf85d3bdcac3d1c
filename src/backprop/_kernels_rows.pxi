# What the derivatives by sample do with the rows of a tile, each on its own.

cdef inline void outer_product_of_narrow(Py_ssize_t n_in, Py_ssize_t n_out, const real* grad_a, const real* h,
                                         const real* grad_a_2, const real* h_2, real* grad_W) noexcept nogil:
    """The same for at most a vector of inputs: what a store spills over the row's end, the next row overwrites.

    Masked stores take longer; the last rows need them, so that nothing beyond grad_W is written.
    """
    cdef Py_ssize_t u
    cdef vec row = load_first(h, n_in), row_2 = broadcast(0), product
    if grad_a_2 != NULL:
        row_2 = load_first(h_2, n_in)
    for u in range(n_out):
        product = broadcast(grad_a[u]) * row
        if grad_a_2 != NULL:
            product = vfma(broadcast(grad_a_2[u]), row_2, product)
        if (n_out - u) * n_in >= LANES:
            store(grad_W, product)
        else:
            store_first(grad_W, product, n_in)
        grad_W += n_in


cdef void outer_product(Py_ssize_t n_in, Py_ssize_t n_out, const void* grad_a_, const void* h_, const void* grad_a_2_,
                        const void* h_2_, void* grad_W_) noexcept nogil:
    """grad_W[u][j] = grad_a[u] h[j], of one sample; where it is not NULL, grad_a_2[u] h_2[j] is added by fma."""
    cdef const real* grad_a = <const real*>grad_a_
    cdef const real* h = <const real*>h_
    cdef const real* grad_a_2 = <const real*>grad_a_2_
    cdef const real* h_2 = <const real*>h_2_
    cdef real* grad_W = <real*>grad_W_
    cdef Py_ssize_t u, j
    cdef vec g, product
    if n_in <= LANES:
        outer_product_of_narrow(n_in, n_out, grad_a, h, grad_a_2, h_2, grad_W)
        return
    for u in range(n_out):
        g = broadcast(grad_a[u])
        j = 0
        while j < n_in:
            product = g * load_first(h + j, n_in - j)
            if grad_a_2 != NULL:
                product = vfma(broadcast(grad_a_2[u]), load_first(h_2 + j, n_in - j), product)
            store_first(grad_W + j, product, n_in - j)
            j += LANES
        grad_W += n_in


cdef void square_sums(Py_ssize_t n_rows, Py_ssize_t n, const void* a_, Py_ssize_t ld, double* sums) noexcept nogil:
    """sums[s] = sum_j a[s][j]^2, in float64, in an order that depends on n alone."""
    cdef const real* a = <const real*>a_
    cdef Py_ssize_t s = 0
    while s + 4 <= n_rows:
        square_sums_of_rows(4, n, a + s * ld, ld, sums + s)
        s += 4
    while s < n_rows:
        square_sums_of_rows(1, n, a + s * ld, ld, sums + s)
        s += 1


cdef void scale_rows(Py_ssize_t n_rows, Py_ssize_t n, void* a_, Py_ssize_t ld, const double* factor) noexcept nogil:
    """a[s][j] = factor[s] a[s][j], rounded once."""
    cdef real* a = <real*>a_
    cdef Py_ssize_t s, j
    for s in range(n_rows):
        if factor[s] != 1:
            for j in range(n):
                a[s * ld + j] = <real>(factor[s] * a[s * ld + j])


cdef void scaled_product(Py_ssize_t n_rows, Py_ssize_t n, double factor, const void* x_, const void* y_, void* out_,
                         Py_ssize_t ld) noexcept nogil:
    """out = factor x (.) y, rounded once where the factor is a power of two."""
    cdef const real* x = <const real*>x_
    cdef const real* y = <const real*>y_
    cdef real* out = <real*>out_
    cdef vec f = broadcast(<real>factor)
    cdef Py_ssize_t s, j
    for s in range(n_rows):
        j = 0
        while j < n:
            store_first(out + j, f * load_first(x + j, n - j) * load_first(y + j, n - j), n - j)
            j += LANES
        x += ld
        y += ld
        out += ld
