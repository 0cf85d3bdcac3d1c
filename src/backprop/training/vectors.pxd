# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Vectors of float64, the state of a solver. Products are those of the kernels: 64 bytes of lanes over the index, then
# one tree (`dot_block`), so their bits depend on the length alone. All other operations round each result by itself.
# Needs: kernels/table. Gives: inner_product, add_multiple, step_to, largest_magnitude.

from libc.math cimport NAN, fabs

from backprop.kernels.table cimport ADD, OVERWRITE, PACKED, KernelTable


cdef inline double inner_product(const KernelTable* kernels, Py_ssize_t n, const double* x,
                                 const double* y) noexcept nogil:
    """x.y; kernels are those of float64."""
    cdef double result = 0
    kernels.forward_product(1, n, 1, x, n, y, NULL, PACKED, NULL, &result, 1, OVERWRITE)
    return result


cdef inline void add_multiple(const KernelTable* kernels, Py_ssize_t n, double factor, const double* x,  # IN
                              double* y) noexcept nogil:                                                 # IN and OUT
    """y = y + factor x: the product is rounded, then the sum."""
    kernels.hidden_sum(1, n, 1, &factor, 1, x, n, NULL, y, n, ADD, NULL)


cdef inline bint step_to(Py_ssize_t n, const double* theta, double t, const double* direction,  # IN
                         double* trial) noexcept nogil:                                         # OUT
    """trial = theta + t direction; whether any entry has changed."""
    cdef bint has_changed = False
    cdef Py_ssize_t k
    for k in range(n):
        trial[k] = theta[k] + t * direction[k]
        has_changed |= trial[k] != theta[k]
    return has_changed


cdef inline double largest_magnitude(Py_ssize_t n, const double* x) noexcept nogil:
    """max_k |x_k|; NaN if one is NaN."""
    cdef double[8] largest = [0, 0, 0, 0, 0, 0, 0, 0]  # eight at a time: each comparison waits for the one before
    cdef bint[8] is_nan = [0, 0, 0, 0, 0, 0, 0, 0]
    cdef Py_ssize_t k = 0
    cdef int lane
    while k < n:
        for lane in range(min(<Py_ssize_t>8, n - k)):
            largest[lane] = max(largest[lane], fabs(x[k + lane]))  # a NaN does not come through this
            is_nan[lane] |= x[k + lane] != x[k + lane]
        k += 8
    for lane in range(1, 8):
        largest[0] = max(largest[0], largest[lane])
        is_nan[0] |= is_nan[lane]
    return NAN if is_nan[0] else largest[0]
