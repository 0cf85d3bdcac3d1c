# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Products and sums entry by entry, in the dtype of the network.
# Needs: vector.
# Gives: the table's g_prime_product, scaled_product, multiply_add, derivatives_of_tanh, scale_rows and fill_with_ones.

from backprop.kernels.vector cimport LANES, broadcast, load_first, real, store_first, vec, vfma

cdef inline void multiply(Py_ssize_t n_rows, Py_ssize_t n,
                          const void* x_, Py_ssize_t ld_x,             # IN
                          void* t_, Py_ssize_t ld) noexcept nogil:     # IN and OUT
    """t = x (.) t."""
    cdef const real* x = <const real*>x_
    cdef real* t = <real*>t_
    cdef Py_ssize_t s, j
    for s in range(n_rows):
        for j in range(n):
            t[s * ld + j] = t[s * ld + j] * x[s * ld_x + j]


cdef inline void scaled_product(Py_ssize_t n_rows, Py_ssize_t n, double factor,
                                const void* x_, const void* y_,                     # IN
                                void* out_, Py_ssize_t ld) noexcept nogil:          # OUT
    """out = factor x (.) y, rounded once if the factor is a power of two."""
    cdef const real* x = <const real*>x_
    cdef const real* y = <const real*>y_
    cdef real* out = <real*>out_
    cdef vec f = broadcast(<real>factor)
    cdef Py_ssize_t _s, j
    for _s in range(n_rows):
        j = 0
        while j < n:
            store_first(out + j, f * load_first(x + j, n - j) * load_first(y + j, n - j), n - j)
            j += LANES
        x += ld
        y += ld
        out += ld


cdef inline void multiply_add(Py_ssize_t n_rows, Py_ssize_t n,
                              const void* s_, const void* x_, const void* g_,       # IN
                              void* t_, Py_ssize_t ld) noexcept nogil:              # IN and OUT
    """t = g (.) t + s (.) x: the product s x is rounded, then the sum."""
    cdef const real* s = <const real*>s_
    cdef const real* x = <const real*>x_
    cdef const real* g = <const real*>g_
    cdef real* t = <real*>t_
    cdef Py_ssize_t row, j, start, rest
    for row in range(n_rows):
        j = 0
        while j < n:
            start = row * ld + j
            rest = n - j
            store_first(t + start, vfma(load_first(g + start, rest), load_first(t + start, rest),
                                        load_first(s + start, rest) * load_first(x + start, rest)), rest)
            j += LANES


cdef inline void derivatives_of_tanh(Py_ssize_t n_rows, Py_ssize_t n,
                                     const void* h_, const void* g_prime_,                    # IN
                                     void* g_second_,                                         # OUT
                                     void* g_third_,                                          # OUT, or NULL
                                     Py_ssize_t ld) noexcept nogil:
    """g'' = -2 h g', g''' = (6 h^2 - 2) g'."""
    cdef const real* h = <const real*>h_
    cdef const real* g_prime = <const real*>g_prime_
    cdef real* g_second = <real*>g_second_
    cdef real* g_third = <real*>g_third_
    cdef vec value, slope
    cdef Py_ssize_t row, j, start, rest
    for row in range(n_rows):
        j = 0
        while j < n:
            start = row * ld + j
            rest = n - j
            value = load_first(h + start, rest)
            slope = load_first(g_prime + start, rest)
            store_first(g_second + start, broadcast(-2) * value * slope, rest)
            if g_third != NULL:
                store_first(g_third + start, vfma(broadcast(6) * value, value, broadcast(-2)) * slope, rest)
            j += LANES


cdef inline void scale_rows(Py_ssize_t n_rows, Py_ssize_t n,
                            void* a_, Py_ssize_t ld,                                # IN and OUT
                            const double* factor) noexcept nogil:                   # IN
    """a[s][j] = factor[s] a[s][j], rounded once."""
    cdef real* a = <real*>a_
    cdef Py_ssize_t s, j
    for s in range(n_rows):
        if factor[s] != 1:
            for j in range(n):
                a[s * ld + j] = <real>(factor[s] * a[s * ld + j])


cdef inline void fill_with_ones(Py_ssize_t n, void* out_) noexcept nogil:    # OUT out
    """out[p] = 1."""
    cdef real* out = <real*>out_
    cdef Py_ssize_t p
    for p in range(n):
        out[p] = 1
