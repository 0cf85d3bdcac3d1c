# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# First and second derivatives of softmax along directions, and their way back. Everything is computed in float64.
# Needs: table, softmax, vector.
# Gives: the table's softmax_jet, softmax_jet_cotangent and softmax_center.
#
# With E the mean under p, tau_j = d_j - E d_j, sigma_t = s_t - E s_t, gamma_t = grad_S_t - E grad_S_t, and w_tj the
# derivative of form_t by d_j at tau, each result is p (.) (v - E v), as the Jacobian of softmax times v is:
#
#     D_j        v = d_j
#     S_t        v = s_t + form_t(tau)
#     grad_s_t   v = grad_S_t
#     grad_d_j   v = grad_D_j + sum_t gamma_t (.) w_tj
#     grad_a     v = grad_y + sum_t gamma_t (.) (sigma_t + form_t(tau) - E form_t(tau))
#                    + sum_j tau_j (.) (grad_D_j - E grad_D_j - sum_t E[gamma_t (.) w_tj])
#
# The last line is the derivative of E[y'] + sum_j Cov(grad_D_j, d_j) + sum_t Cov(grad_S_t, s_t + form_t(tau)), in which
# tau depends on p. v is shifted by its value at the largest p, as in softmax.pxd; so is what is summed in it. It is
# computed for BLOCK_COLUMNS columns at a time, from operands that the result does not overwrite; the means of a row are
# computed once, before its results.

from backprop.kernels.table cimport EACH, FIRST_ALONE, SYMMETRIC
from backprop.kernels.vector cimport real
from backprop.kernels.softmax cimport BLOCK_COLUMNS, top_of_row

cdef struct SoftmaxRow:
    Py_ssize_t n
    Py_ssize_t k
    int form
    const real* e            # the coefficients of the form, or NULL for ones
    const real* p
    Py_ssize_t top           # the column of the largest p
    const real* d
    const real* s            # or NULL for zeros
    const real* grad_D
    const real* grad_S
    Py_ssize_t block
    double* mean_d           # (k,): the `shifted_mean` of each d_j; those of s, grad_D and grad_S likewise
    double* mean_s
    double* mean_D
    double* mean_S
    double* mean_form        # E form_t(tau)
    double* mean_curve       # E sum_t gamma_t (.) w_tj

# What is added to v beside the operand that the result overwrites: for `size` columns from `start` on.
ctypedef void (*Addend)(const SoftmaxRow* row, Py_ssize_t index, Py_ssize_t start, Py_ssize_t size,
                        double* v) noexcept nogil


cdef inline Py_ssize_t number_of_seconds(const SoftmaxRow* row) noexcept nogil:
    """Of the second derivatives of a jet."""
    return 0 if row.form == FIRST_ALONE else row.k if row.form == EACH else 1


cdef inline double shifted_mean(const SoftmaxRow* row, const real* t) noexcept nogil:
    """E t, less t at the largest p."""
    cdef double t_top = t[row.top], mean = 0
    cdef Py_ssize_t i
    for i in range(row.n):
        if i != row.top:
            mean = mean + <double>row.p[i] * (t[i] - t_top)
    return mean


cdef inline void centered(const SoftmaxRow* row, const real* t, double mean, Py_ssize_t start, Py_ssize_t size,  # IN
                          double* out) noexcept nogil:                                              # OUT (size)
    """t - E t for some columns, with its `shifted_mean`."""
    cdef double t_top = t[row.top]
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = (t[start + i] - t_top) - mean


cdef inline double coefficient(const SoftmaxRow* row, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    """e_ij = e_ji of a pair of directions, or e_j of DIAGONAL."""
    cdef Py_ssize_t low = min(i, j)
    if row.e == NULL or row.form == EACH:
        return 1
    return row.e[low * row.k - low * (low - 1) // 2 + max(i, j) - low if row.form == SYMMETRIC else j]


cdef inline void slope_at(const SoftmaxRow* row, Py_ssize_t j, Py_ssize_t start, Py_ssize_t size,   # IN
                          double* w) noexcept nogil:                                                # OUT (size)
    """w_tj for some columns; t is the only one that depends on d_j."""
    cdef double tau[BLOCK_COLUMNS]
    cdef double factor
    cdef Py_ssize_t i, u, first = j, end = j + 1
    if row.form == SYMMETRIC:
        first = 0
        end = row.k
    for u in range(size):
        w[u] = 0
    for i in range(first, end):
        centered(row, row.d + i * row.block, row.mean_d[i], start, size, tau)
        factor = coefficient(row, i, j) * (2 if i == j else 1)
        for u in range(size):
            w[u] = w[u] + factor * tau[u]


cdef inline void form_at(const SoftmaxRow* row, Py_ssize_t t, Py_ssize_t start, Py_ssize_t size,    # IN
                         double* q) noexcept nogil:                                                 # OUT (size)
    """form_t(tau) for some columns: half the sum of tau_j w_tj."""
    cdef double tau[BLOCK_COLUMNS]
    cdef double slope[BLOCK_COLUMNS]
    cdef Py_ssize_t j, u, first = 0, end = row.k
    if row.form == EACH:
        first = t
        end = t + 1
    for u in range(size):
        q[u] = 0
    for j in range(first, end):
        centered(row, row.d + j * row.block, row.mean_d[j], start, size, tau)
        slope_at(row, j, start, size, slope)
        for u in range(size):
            q[u] = q[u] + 0.5 * tau[u] * slope[u]


cdef inline void curve_at(const SoftmaxRow* row, Py_ssize_t j, Py_ssize_t start, Py_ssize_t size,   # IN
                          double* v) noexcept nogil:                                                # OUT (size)
    """sum_t gamma_t (.) w_tj for some columns."""
    cdef double slope[BLOCK_COLUMNS]
    cdef Py_ssize_t t = j if row.form == EACH else 0, u
    if row.form == FIRST_ALONE:
        for u in range(size):
            v[u] = 0
        return
    centered(row, row.grad_S + t * row.block, row.mean_S[t], start, size, v)
    slope_at(row, j, start, size, slope)
    for u in range(size):
        v[u] = v[u] * slope[u]


cdef inline void nothing_at(const SoftmaxRow* row, Py_ssize_t index, Py_ssize_t start, Py_ssize_t size,  # IN
                            double* v) noexcept nogil:                                                   # OUT (size)
    """0 for some columns."""
    cdef Py_ssize_t u
    for u in range(size):
        v[u] = 0


cdef inline double mean_of(const Addend values, const SoftmaxRow* row, Py_ssize_t index) noexcept nogil:
    """E of what `values` gives."""
    cdef double v[BLOCK_COLUMNS]
    cdef double mean = 0
    cdef Py_ssize_t u, size, start = 0
    while start < row.n:
        size = min(row.n - start, <Py_ssize_t>BLOCK_COLUMNS)
        values(row, index, start, size, v)
        for u in range(size):
            mean = mean + row.p[start + u] * v[u]
        start += size
    return mean


cdef inline void dependence_on_p_at(const SoftmaxRow* row, Py_ssize_t index, Py_ssize_t start, Py_ssize_t size,  # IN
                                    double* v) noexcept nogil:                                         # OUT (size)
    """v of grad_a without grad_y, for some columns."""
    cdef double x[BLOCK_COLUMNS]
    cdef double y[BLOCK_COLUMNS]
    cdef double mean
    cdef Py_ssize_t j, t, u
    for u in range(size):
        v[u] = 0
    for t in range(number_of_seconds(row)):
        mean = row.mean_form[t]
        form_at(row, t, start, size, x)
        for u in range(size):
            x[u] = x[u] - mean
        if row.s != NULL:
            centered(row, row.s + t * row.block, row.mean_s[t], start, size, y)
            for u in range(size):
                x[u] = x[u] + y[u]
        centered(row, row.grad_S + t * row.block, row.mean_S[t], start, size, y)
        for u in range(size):
            v[u] = v[u] + y[u] * x[u]
    for j in range(row.k):
        mean = row.mean_curve[j]
        centered(row, row.d + j * row.block, row.mean_d[j], start, size, x)
        centered(row, row.grad_D + j * row.block, row.mean_D[j], start, size, y)
        for u in range(size):
            v[u] = v[u] + x[u] * (y[u] - mean)


cdef inline void store_product(const Addend addend, const SoftmaxRow* row, Py_ssize_t index,
                               const real* t,                               # IN, or NULL for zeros
                               real* out) noexcept nogil:                   # OUT; may be t
    """out = p (.) (v - E v) with v = t + what `addend` gives."""
    cdef double v[BLOCK_COLUMNS]
    cdef double t_top = 0 if t == NULL else t[row.top], v_top = 0, mean = 0
    cdef Py_ssize_t step, u, size, start, end
    for step in range(3):  # v at the top, then E v, then the result: columns that fit are computed once
        start = 0
        end = row.n
        if step == 0 and row.n > BLOCK_COLUMNS:
            start = row.top
            end = row.top + 1
        while start < end:
            size = min(end - start, <Py_ssize_t>BLOCK_COLUMNS)
            if step == 0 or row.n > BLOCK_COLUMNS:
                addend(row, index, start, size, v)
                if t != NULL:
                    for u in range(size):
                        v[u] = (t[start + u] - t_top) + v[u]
            if step == 0:
                v_top = v[row.top - start]
            elif step == 1:
                for u in range(size):
                    if start + u != row.top:
                        mean = mean + row.p[start + u] * (v[u] - v_top)
            else:
                for u in range(size):
                    out[start + u] = <real>(row.p[start + u] * ((v[u] - v_top) - mean))
            start += size


cdef inline SoftmaxRow make_softmax_row(Py_ssize_t n, Py_ssize_t k, int form, const void* e, const void* p,
                                        const void* d, const void* s, Py_ssize_t block,
                                        double* means) noexcept nogil:
    """The operands of row 0, and places for means."""
    cdef SoftmaxRow row
    row.mean_d = means
    row.mean_s = means + k
    row.mean_D = means + 2 * k
    row.mean_S = means + 3 * k
    row.mean_form = means + 4 * k
    row.mean_curve = means + 5 * k
    row.n = n
    row.k = k
    row.form = form
    row.e = <const real*>e
    row.p = <const real*>p
    row.top = 0
    row.d = <const real*>d
    row.s = <const real*>s
    row.grad_D = NULL
    row.grad_S = NULL
    row.block = block
    return row


cdef inline void move_to_next_row(SoftmaxRow* row, Py_ssize_t ld, Py_ssize_t ld_e) noexcept nogil:
    """The operands that the row has."""
    row.p += ld
    row.d += ld
    if row.s != NULL:
        row.s += ld
    if row.e != NULL:
        row.e += ld_e
    if row.grad_D != NULL:
        row.grad_D += ld
    if row.grad_S != NULL:
        row.grad_S += ld


cdef inline void set_means(SoftmaxRow* row) noexcept nogil:
    """The means of a row, and its largest p."""
    cdef Py_ssize_t j, t
    row.top = top_of_row(row.n, row.p)
    for j in range(row.k):
        row.mean_d[j] = shifted_mean(row, row.d + j * row.block)
    if row.grad_D == NULL:  # the way back alone needs the others
        return
    for t in range(number_of_seconds(row)):
        row.mean_S[t] = shifted_mean(row, row.grad_S + t * row.block)
        row.mean_form[t] = mean_of(form_at, row, t)
        if row.s != NULL:
            row.mean_s[t] = shifted_mean(row, row.s + t * row.block)
    for j in range(row.k):
        row.mean_D[j] = shifted_mean(row, row.grad_D + j * row.block)
        row.mean_curve[j] = mean_of(curve_at, row, j)


cdef inline void softmax_jet_of_rows(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, int form, const void* e, Py_ssize_t ld_e,    # IN
        const void* p, const void* d, const void* s,                                                # IN
        void* D_, void* S_, Py_ssize_t ld, Py_ssize_t block, double* means) noexcept nogil:         # OUT
    """D_j = p tau_j, S_t = p (sigma_t + form_t(tau) - E form_t(tau)) of each row."""
    cdef SoftmaxRow row = make_softmax_row(n, k, form, e, p, d, s, block, means)
    cdef real* D = <real*>D_
    cdef real* S = <real*>S_
    cdef Py_ssize_t r, j, t
    for r in range(n_rows):
        set_means(&row)
        for t in range(number_of_seconds(&row)):  # first, since D may be d
            store_product(form_at, &row, t, NULL if row.s == NULL else row.s + t * block, S + r * ld + t * block)
        for j in range(k):
            store_product(nothing_at, &row, j, row.d + j * block, D + r * ld + j * block)
        move_to_next_row(&row, ld, ld_e)


cdef inline void softmax_jet_cotangent_of_rows(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, int form, const void* e, Py_ssize_t ld_e,    # IN
        const void* p, const void* d, const void* s,                                                # IN
        void* grad_y_, void* grad_D_, void* grad_S_,                                                # IN and OUT
        Py_ssize_t ld, Py_ssize_t block, double* means) noexcept nogil:                             # OUT
    """The cotangents of p, D and S of each row become those of a, d and s."""
    cdef SoftmaxRow row = make_softmax_row(n, k, form, e, p, d, s, block, means)
    cdef real* grad_y = <real*>grad_y_
    cdef real* grad_D = <real*>grad_D_
    cdef real* grad_S = <real*>grad_S_
    cdef Py_ssize_t r, j, t
    row.grad_D = grad_D
    row.grad_S = grad_S
    for r in range(n_rows):
        set_means(&row)
        store_product(dependence_on_p_at, &row, 0, grad_y + r * ld, grad_y + r * ld)
        for j in range(k):
            store_product(curve_at, &row, j, grad_D + r * ld + j * block, grad_D + r * ld + j * block)
        for t in range(number_of_seconds(&row)):
            store_product(nothing_at, &row, t, grad_S + r * ld + t * block, grad_S + r * ld + t * block)
        move_to_next_row(&row, ld, ld_e)


cdef inline void softmax_center_of_rows(Py_ssize_t n_rows, Py_ssize_t n,
                                        const void* p_,                         # IN
                                        void* t_, Py_ssize_t ld) noexcept nogil:  # IN and OUT
    """Each row of t becomes t - p.t."""
    cdef const real* p = <const real*>p_
    cdef real* t = <real*>t_
    cdef double t_top, mean
    cdef Py_ssize_t _r, i, top
    for _r in range(n_rows):
        top = top_of_row(n, p)
        t_top = t[top]
        mean = 0
        for i in range(n):
            if i != top:
                mean = mean + <double>p[i] * (t[i] - t_top)
        for i in range(n):
            t[i] = <real>((t[i] - t_top) - mean)
        p += ld
        t += ld
