# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Softmax of a row of logits, and its Jacobian times a vector. Everything is computed in float64.
# Needs: elementary, vector.
# Gives: the table's softmax_product; `softmax_row` for h, `top_of_row` for the losses.

from backprop.kernels.vector cimport real
from backprop.kernels.elementary cimport exp_differences

cdef enum:
    ROW_BLOCK = 64           # exponentials of a row that are kept; those of longer rows are computed twice


cdef inline Py_ssize_t top_of_row(Py_ssize_t n, const real* a) noexcept nogil:
    """The index of the largest logit, the first of equal ones; of the first NaN, if there is one."""
    cdef Py_ssize_t k, top = 0
    for k in range(1, n):
        if not a[k] <= a[top] and a[top] == a[top]:
            top = k
    return top


cdef inline void softmax_row(Py_ssize_t n, const real* a, real* p) noexcept nogil:    # IN a, OUT p
    """p_k = exp(a_k - max a) / sum."""
    cdef double e[ROW_BLOCK]
    cdef Py_ssize_t k, size, start = 0, top = top_of_row(n, a)
    cdef double total = 0
    while start < n:
        size = min(n - start, <Py_ssize_t>ROW_BLOCK)
        exp_differences(size, a + start, a[top], e)
        for k in range(size):
            total = total + e[k]
        start += size
    start = 0
    while start < n:
        size = min(n - start, <Py_ssize_t>ROW_BLOCK)
        if n > ROW_BLOCK:
            exp_differences(size, a + start, a[top], e)
        for k in range(size):
            p[start + k] = <real>(e[k] / total)
        start += size


cdef inline void softmax_product(Py_ssize_t n_rows, Py_ssize_t n,
                                 const void* p_,                          # IN
                                 void* t_,                                # IN and OUT
                                 Py_ssize_t ld) noexcept nogil:
    """Each row of t becomes p (.) (t - p.t): the Jacobian of softmax, whose value is p, times t.

    t is shifted as in `cross_entropy_curvature`, for the same reason.
    """
    cdef const real* p = <const real*>p_
    cdef real* t = <real*>t_
    cdef Py_ssize_t _s, k, top
    cdef double t_top, mean
    for _s in range(n_rows):
        top = top_of_row(n, p)
        t_top = t[top]
        mean = 0
        for k in range(n):
            if k != top:
                mean = mean + <double>p[k] * (t[k] - t_top)
        for k in range(n):
            t[k] = <real>(<double>p[k] * ((t[k] - t_top) - mean))
        p += ld
        t += ld
