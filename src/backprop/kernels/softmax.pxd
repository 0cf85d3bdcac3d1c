# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Softmax of a row of logits, and its Jacobian times a vector. Everything is computed in float64.
# Needs: elementary, vector.
# Gives: the table's softmax_product; `softmax_rows` for h, `exponentials_of_rows` for the losses.

from backprop.kernels.vector cimport real
from backprop.kernels.elementary cimport exp_differences, exp_in_place

cdef enum:
    ROW_BLOCK = 64           # exponentials of a row that are kept; those of longer rows are computed twice
    SHORT_ROW = 24           # up to here the exponentials of several rows are computed as one
    GROUP = 256              # exponentials of such rows
    GROUP_ROWS = 64


cdef inline Py_ssize_t top_of_row(Py_ssize_t n, const real* a) noexcept nogil:
    """The index of the largest logit, the first of equal ones; of the first NaN, if there is one."""
    cdef Py_ssize_t k, top = 0
    for k in range(1, n):
        if not a[k] <= a[top] and a[top] == a[top]:
            top = k
    return top


cdef inline Py_ssize_t rows_in_group(Py_ssize_t n) noexcept nogil:
    """The number of rows for `exponentials_of_rows`. Its e has room for them, and for ROW_BLOCK at any row's place."""
    return max(<Py_ssize_t>1, min(<Py_ssize_t>GROUP_ROWS, GROUP // n))


cdef inline void exponentials_of_rows(Py_ssize_t n_rows, Py_ssize_t n, const real* a, Py_ssize_t ld,  # IN
                                      Py_ssize_t* top,                                                # OUT (n_rows)
                                      double* e) noexcept nogil:                                      # OUT (n_rows, n)
    """The index of each row's largest logit, and exp(a_k - max a) if n <= ROW_BLOCK.

    The exponentials of short rows are one loop, which the compiler vectorises: each row of 10 would leave a remainder
    of scalars, which took half of the time.
    """
    cdef Py_ssize_t s, k
    cdef double a_top
    for s in range(n_rows):
        top[s] = top_of_row(n, a + s * ld)
        if n <= ROW_BLOCK:
            a_top = a[s * ld + top[s]]
            if n > SHORT_ROW:
                exp_differences(n, a + s * ld, a_top, e + s * n)
            else:
                for k in range(n):
                    e[s * n + k] = <double>a[s * ld + k] - a_top
    if n <= SHORT_ROW:
        exp_in_place(n_rows * n, e)


cdef inline void softmax_row(Py_ssize_t n, const real* a, Py_ssize_t top,          # IN
                             double* e,                                             # IN; scratch beyond ROW_BLOCK
                             real* p) noexcept nogil:                               # OUT
    """p_k = exp(a_k - max a) / sum."""
    cdef Py_ssize_t k, size, start = 0
    cdef double total = 0, a_top = a[top]
    while start < n:
        size = min(n - start, <Py_ssize_t>ROW_BLOCK)
        if n > ROW_BLOCK:
            exp_differences(size, a + start, a_top, e)
        for k in range(size):
            total = total + e[k]
        start += size
    start = 0
    while start < n:
        size = min(n - start, <Py_ssize_t>ROW_BLOCK)
        if n > ROW_BLOCK:
            exp_differences(size, a + start, a_top, e)
        for k in range(size):
            p[start + k] = <real>(e[k] / total)
        start += size


cdef inline void softmax_rows(Py_ssize_t n_rows, Py_ssize_t n,
                              const real* a,                                        # IN
                              real* p,                                              # OUT
                              Py_ssize_t ld) noexcept nogil:
    """`softmax_row` for each row."""
    cdef double e[GROUP]
    cdef Py_ssize_t top[GROUP_ROWS]
    cdef Py_ssize_t s, group = rows_in_group(n), row = group - 1
    for s in range(n_rows):
        row += 1
        if row == group:
            row = 0
            exponentials_of_rows(min(group, n_rows - s), n, a + s * ld, ld, top, e)
        softmax_row(n, a + s * ld, top[row], e + row * n, p + s * ld)


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
