# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Softmax of a row of logits, and its Jacobian times a vector. Everything is computed in float64.
# Needs: elementary, vector.
# Gives: the table's softmax_product; `softmax_rows` for h; blocks of rows and their exponentials for the losses.

from backprop.kernels.vector cimport real
from backprop.kernels.elementary cimport choose, exp_in_place

cdef enum:
    BLOCK_ROWS = 16          # rows that are computed side by side
    FEW_ROWS = 4             # the same at the end of a tile; what is left are single rows
    BLOCK_COLUMNS = 64       # exponentials of a row that are kept; those of longer rows are computed twice


cdef inline Py_ssize_t top_of_row(Py_ssize_t n, const real* a) noexcept nogil:
    """The index of the largest entry, the first of equal ones; of the first NaN, if there is one."""
    cdef Py_ssize_t k, top = 0
    for k in range(1, n):
        if not a[k] <= a[top] and a[top] == a[top]:
            top = k
    return top


cdef inline Py_ssize_t rows_of_block(Py_ssize_t n_rows) noexcept nogil:
    """The rows of the next block if n_rows are left."""
    return BLOCK_ROWS if n_rows >= BLOCK_ROWS else FEW_ROWS if n_rows >= FEW_ROWS else 1


# A block of rows lies in e by columns: entry k of row s is e[k n_rows + s]. A loop over the rows is then a loop over
# vectors, and the sums of the rows, each in order, run side by side. n_rows is a constant to the compiler.

cdef inline void load_columns(const Py_ssize_t n_rows, Py_ssize_t n, const real* a, Py_ssize_t ld,  # IN
                              double* e) noexcept nogil:                                            # OUT
    """The columns of a block of rows."""
    cdef Py_ssize_t s, k
    for s in range(n_rows):
        for k in range(n):
            e[k * n_rows + s] = a[s * ld + k]


cdef inline void store_columns(const Py_ssize_t n_rows, Py_ssize_t n, const double* e,              # IN
                               real* a, Py_ssize_t ld) noexcept nogil:                              # OUT
    """The way back, rounded to the dtype."""
    cdef Py_ssize_t s, k
    for s in range(n_rows):
        for k in range(n):
            a[s * ld + k] = <real>e[k * n_rows + s]


cdef inline void find_tops(const Py_ssize_t n_rows, Py_ssize_t n, const real* a, Py_ssize_t ld,     # IN
                           double* e,                                                               # OUT
                           double* top_logit, Py_ssize_t* top) noexcept nogil:                      # OUT (n_rows)
    """The largest logit of each row, and its index as in `top_of_row`; e holds the row if n <= BLOCK_COLUMNS."""
    cdef Py_ssize_t s, k, size, larger, start = 0
    cdef double logit
    if n_rows == 1:  # a loop over one row is no vector: branches are faster
        top[0] = top_of_row(n, a)
        top_logit[0] = a[top[0]]
        if n <= BLOCK_COLUMNS:
            load_columns(1, n, a, ld, e)
        return
    for s in range(n_rows):
        top[s] = 0
        top_logit[s] = a[s * ld]
    while start < n:
        size = min(n - start, <Py_ssize_t>BLOCK_COLUMNS)
        load_columns(n_rows, size, a + start, ld, e)
        for k in range(size):
            for s in range(n_rows):
                logit = e[k * n_rows + s]
                # all bits are set, or none
                larger = -<Py_ssize_t>((not logit <= top_logit[s]) & (top_logit[s] == top_logit[s]))
                top[s] = (larger & (start + k)) | (~larger & top[s])
                top_logit[s] = choose(larger, logit, top_logit[s])
        start += size


cdef inline void exponentials(const Py_ssize_t n_rows, Py_ssize_t n, const double* top_logit,       # IN
                              double* e) noexcept nogil:                                            # IN and OUT
    """exp(a_k - max a) in the place of a_k. e has room for a multiple of 8 entries."""
    cdef Py_ssize_t s, k
    for k in range(n):
        for s in range(n_rows):
            e[k * n_rows + s] = e[k * n_rows + s] - top_logit[s]
    exp_in_place(n * n_rows, e)


cdef inline void softmax_block(const Py_ssize_t n_rows, Py_ssize_t n, const real* a,                # IN
                               real* p,                                                             # OUT
                               Py_ssize_t ld) noexcept nogil:
    """p_k = exp(a_k - max a) / sum for the rows of a block."""
    cdef double e[BLOCK_COLUMNS * BLOCK_ROWS]
    cdef double top_logit[BLOCK_ROWS]
    cdef double total[BLOCK_ROWS]
    cdef Py_ssize_t top[BLOCK_ROWS]
    cdef Py_ssize_t s, k, size, start = 0
    find_tops(n_rows, n, a, ld, e, top_logit, top)
    for s in range(n_rows):
        total[s] = 0
    while start < n:
        size = min(n - start, <Py_ssize_t>BLOCK_COLUMNS)
        if n > BLOCK_COLUMNS:
            load_columns(n_rows, size, a + start, ld, e)
        exponentials(n_rows, size, top_logit, e)
        for k in range(size):
            for s in range(n_rows):
                total[s] = total[s] + e[k * n_rows + s]
        start += size
    start = 0
    while start < n:
        size = min(n - start, <Py_ssize_t>BLOCK_COLUMNS)
        if n > BLOCK_COLUMNS:
            load_columns(n_rows, size, a + start, ld, e)
            exponentials(n_rows, size, top_logit, e)
        for k in range(size):
            for s in range(n_rows):
                e[k * n_rows + s] = e[k * n_rows + s] / total[s]
        store_columns(n_rows, size, e, p + start, ld)
        start += size


cdef inline void softmax_rows(Py_ssize_t n_rows, Py_ssize_t n,
                              const real* a,                                        # IN
                              real* p,                                              # OUT
                              Py_ssize_t ld) noexcept nogil:
    """Softmax of each row."""
    cdef Py_ssize_t size
    while n_rows > 0:
        size = rows_of_block(n_rows)
        if size == BLOCK_ROWS:
            softmax_block(BLOCK_ROWS, n, a, p, ld)
        elif size == FEW_ROWS:
            softmax_block(FEW_ROWS, n, a, p, ld)
        else:
            softmax_block(1, n, a, p, ld)
        a += size * ld
        p += size * ld
        n_rows -= size


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
