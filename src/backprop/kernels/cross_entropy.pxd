# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Cross-entropy of blocks of rows with softmax: loss, gradient, and curvature times a tangent.
# Needs: elementary (log1p in float64), softmax, vector.
# Gives: cross_entropy, cross_entropy_curvature.
#
# All is float64 up to the last rounding, as in losses.pxd.

from backprop.kernels.vector cimport real
from backprop.kernels.elementary cimport log1p
from backprop.kernels.softmax cimport (
    BLOCK_COLUMNS, BLOCK_ROWS, FEW_ROWS, exponentials, find_tops, load_columns, rows_of_block, store_columns,
)


cdef inline void set_entries(const Py_ssize_t n_rows, Py_ssize_t n, const Py_ssize_t* place, Py_ssize_t start,  # IN
                             double value, double* e) noexcept nogil:                                        # OUT
    """The entry at place[s] of each row s of a block, if it is among the n columns from start on."""
    cdef Py_ssize_t s
    for s in range(n_rows):
        if 0 <= place[s] - start < n:
            e[(place[s] - start) * n_rows + s] = value


cdef inline void sums_of_others(const Py_ssize_t n_rows, Py_ssize_t n, const real* a, Py_ssize_t ld,        # IN
                                const double* top_logit, const Py_ssize_t* top,                             # IN
                                double* e, double* others) noexcept nogil:                                  # OUT
    """others = the sum of exp(a_k - max a) over all k except the place of the maximum, in order, for each row.

    e holds the exponentials if n <= BLOCK_COLUMNS; it is IN and holds the logits.
    """
    cdef Py_ssize_t s, k, size, start = 0
    for s in range(n_rows):
        others[s] = top_logit[s] - top_logit[s]  # 0; for inf or NaN it is NaN, and so is the rest, as in PyTorch
    while start < n:
        size = min(n - start, <Py_ssize_t>BLOCK_COLUMNS)
        if n > BLOCK_COLUMNS:
            load_columns(n_rows, size, a + start, ld, e)
        exponentials(n_rows, size, top_logit, e)
        set_entries(n_rows, size, top, start, 0, e)  # no branch in the loop: adding 0 changes no bit
        for k in range(size):
            for s in range(n_rows):
                others[s] = others[s] + e[k * n_rows + s]
        set_entries(n_rows, size, top, start, 1, e)
        start += size


cdef inline double loss_of_targets(Py_ssize_t n, const real* a, double top_logit, double log_total,         # IN
                                   const real* y, Py_ssize_t label, double eps,                             # IN
                                   double* target_sum) noexcept nogil:                                      # OUT
    """-sum_k y'_k log p_k and sum_k y'_k of a row, y' = (1 - eps) y + eps/n. y is NULL for a label."""
    cdef Py_ssize_t k
    cdef double target, row_loss = 0, shift = eps / n
    cdef double target_total = 0
    for k in range(n):
        target = shift + (1 - eps) * (<double>y[k] if y != NULL else 1 if k == label else 0)
        target_total = target_total + target
        if target != 0:
            row_loss = row_loss + target * ((top_logit - a[k]) + log_total)
    target_sum[0] = target_total
    return row_loss


cdef inline void gradients_of_labels(const Py_ssize_t n_rows, Py_ssize_t n,
                                     const double* weight, const double* total, double shift,               # IN
                                     double* e, double* off_label) noexcept nogil:                          # IN and OUT
    """weight (p_k - shift) in the place of the exponentials; off_label = off_label + the sum of p_k."""
    cdef Py_ssize_t s, k
    cdef double p
    for k in range(n):
        for s in range(n_rows):
            p = e[k * n_rows + s] / total[s]
            off_label[s] = off_label[s] + p
            e[k * n_rows + s] = weight[s] * (p - shift)


cdef inline void gradients_of_targets(const Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t ld_y,
                                      const double* weight, const double* total, const double* target_sum,  # IN
                                      const real* y, double shift, double eps,                              # IN
                                      double* e) noexcept nogil:                                            # IN and OUT
    """weight (p_k sum(y') - y'_k) in the place of the exponentials."""
    cdef Py_ssize_t s, k
    for k in range(n):
        for s in range(n_rows):
            e[k * n_rows + s] = weight[s] * (e[k * n_rows + s] / total[s] * target_sum[s] -
                                             (shift + (1 - eps) * y[s * ld_y + k]))


cdef inline void cross_entropy_block(
        const Py_ssize_t n_rows, double eps, Py_ssize_t n,
        real* a, Py_ssize_t ld,                                # IN and OUT
        const real* y, const Py_ssize_t* labels,               # IN; one of them is NULL
        const double* weight, double weight_scale,             # IN; weight may be NULL
        double* row_loss, bint with_gradient) noexcept nogil:  # OUT
    """-sum_k y'_k log p_k, y' = (1 - eps) y + eps/n, p = softmax(a); a becomes weight (p_k sum(y') - y'_k).

    With M = max a and R = sum of exp(a_k - M) over all k except the place of M, -log p_k = (M - a_k) + log1p(R): both
    terms are >= 0, so nothing cancels.
    """
    cdef double e[BLOCK_COLUMNS * BLOCK_ROWS]
    cdef double top_logit[BLOCK_ROWS]
    cdef double others[BLOCK_ROWS]
    cdef double log_total[BLOCK_ROWS]
    cdef double total[BLOCK_ROWS]
    cdef double target_sum[BLOCK_ROWS]
    cdef double off_label[BLOCK_ROWS]
    cdef double w[BLOCK_ROWS]
    cdef Py_ssize_t top[BLOCK_ROWS]
    cdef Py_ssize_t label[BLOCK_ROWS]
    cdef Py_ssize_t s, size, place, start = 0
    cdef double shift = eps / n
    find_tops(n_rows, n, a, ld, e, top_logit, top)
    sums_of_others(n_rows, n, a, ld, top_logit, top, e, others)
    for s in range(n_rows):
        log_total[s] = log1p(others[s])
        total[s] = 1 + others[s]
        off_label[s] = top_logit[s] - top_logit[s]  # as above: if n is 1, the sum of the others' p is empty
        target_sum[s] = 1
        w[s] = weight_scale
        label[s] = 0
    # NULL is tested outside of the loops: within them GCC makes masked loads, which take 100 cycles at address 0.
    if weight != NULL:
        for s in range(n_rows):
            w[s] = weight[s] * weight_scale
    if labels != NULL:
        for s in range(n_rows):
            place = labels[s]
            label[s] = place if 0 <= place < n else 0  # another thread may write to them during the call
    for s in range(n_rows):
        if y == NULL and eps == 0:
            row_loss[s] = w[s] * ((top_logit[s] - a[s * ld + label[s]]) + log_total[s])
        else:
            row_loss[s] = w[s] * loss_of_targets(n, a + s * ld, top_logit[s], log_total[s],
                                                 NULL if y == NULL else y + s * n, label[s], eps, &target_sum[s])
    if not with_gradient:
        return
    while start < n:
        size = min(n - start, <Py_ssize_t>BLOCK_COLUMNS)
        if n > BLOCK_COLUMNS:
            load_columns(n_rows, size, a + start, ld, e)
            exponentials(n_rows, size, top_logit, e)
        if y == NULL:
            set_entries(n_rows, size, label, start, 0, e)  # p of the label is not in the sum; a[label] follows below
            gradients_of_labels(n_rows, size, w, total, shift, e, off_label)
        else:
            gradients_of_targets(n_rows, size, n, w, total, target_sum, y + start, shift, eps, e)
        store_columns(n_rows, size, e, a + start, ld)
        start += size
    if y == NULL:
        for s in range(n_rows):  # p - y' = (1 - y') - the sum of the others' p
            a[s * ld + label[s]] = <real>(w[s] * ((eps - shift) - off_label[s]))


cdef inline void cross_entropy(
        double eps, Py_ssize_t n_rows, Py_ssize_t n_out,
        real* z, Py_ssize_t ld,                                # IN and OUT
        const real* y, const Py_ssize_t* labels,               # IN; one of them is NULL
        const double* weight, double weight_scale,             # IN; weight may be NULL
        double* row_loss, bint with_gradient) noexcept nogil:  # OUT
    """`loss_of_rows` for cross-entropy, whose rows have one weight each."""
    cdef Py_ssize_t size
    while n_rows > 0:
        size = rows_of_block(n_rows)
        if size == BLOCK_ROWS:
            cross_entropy_block(BLOCK_ROWS, eps, n_out, z, ld, y, labels, weight, weight_scale, row_loss, with_gradient)
        elif size == FEW_ROWS:
            cross_entropy_block(FEW_ROWS, eps, n_out, z, ld, y, labels, weight, weight_scale, row_loss, with_gradient)
        else:
            cross_entropy_block(1, eps, n_out, z, ld, y, labels, weight, weight_scale, row_loss, with_gradient)
        z += size * ld
        row_loss += size
        if y != NULL:
            y += size * n_out
        if labels != NULL:
            labels += size
        if weight != NULL:
            weight += size
        n_rows -= size


cdef inline void cross_entropy_curvature(const Py_ssize_t n_rows, Py_ssize_t n,
                                         const real* a,                              # IN
                                         const double* weight, const double* factor,  # IN
                                         real* t,                                    # IN and OUT
                                         Py_ssize_t ld) noexcept nogil:
    """Each row of t becomes factor p (.) (t - p.t), p = softmax(a), for a block of rows. A weight of 0 gives 0.

    p sums to 1, so t may be shifted: it is shifted to be 0 at the largest logit. If p of that entry is near 1, t - p.t
    would be the difference of two almost equal numbers; now it is minus the sum of the small p_j (t_j - t_top).
    """
    cdef double e[BLOCK_COLUMNS * BLOCK_ROWS]
    cdef double tangent[BLOCK_COLUMNS * BLOCK_ROWS]
    cdef double top_logit[BLOCK_ROWS]
    cdef double total[BLOCK_ROWS]
    cdef double t_top[BLOCK_ROWS]
    cdef double mean[BLOCK_ROWS]
    cdef Py_ssize_t top[BLOCK_ROWS]
    cdef Py_ssize_t s, k, i, size, start = 0
    cdef double product
    find_tops(n_rows, n, a, ld, e, top_logit, top)
    for s in range(n_rows):
        total[s] = top_logit[s] - top_logit[s]  # NaN for inf or NaN, as in the loss
        t_top[s] = t[s * ld + top[s]]
        mean[s] = 0
    while start < n:
        size = min(n - start, <Py_ssize_t>BLOCK_COLUMNS)
        if n > BLOCK_COLUMNS:
            load_columns(n_rows, size, a + start, ld, e)
        exponentials(n_rows, size, top_logit, e)
        load_columns(n_rows, size, t + start, ld, tangent)
        set_entries(n_rows, size, top, start, 0, e)
        for k in range(size):
            for s in range(n_rows):
                i = k * n_rows + s
                total[s] = total[s] + e[i]
                mean[s] = mean[s] + e[i] * (tangent[i] - t_top[s])
        set_entries(n_rows, size, top, start, 1, e)
        start += size
    for s in range(n_rows):
        total[s] = 1 + total[s]
        mean[s] = mean[s] / total[s]
    start = 0
    while start < n:
        size = min(n - start, <Py_ssize_t>BLOCK_COLUMNS)
        if n > BLOCK_COLUMNS:
            load_columns(n_rows, size, a + start, ld, e)
            exponentials(n_rows, size, top_logit, e)
            load_columns(n_rows, size, t + start, ld, tangent)
        for k in range(size):
            for s in range(n_rows):
                i = k * n_rows + s
                product = factor[s] * (e[i] / total[s] * ((tangent[i] - t_top[s]) - mean[s]))
                e[i] = 0 if weight[s] == 0 else product
        store_columns(n_rows, size, e, t + start, ld)
        start += size
