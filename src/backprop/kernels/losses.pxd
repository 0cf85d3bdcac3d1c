# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The loss of each row, and its first and second derivatives by what the loss acts on: a_L, or y_hat.
# Needs: elementary (exp and log1p in float64), softmax, vector.
# Gives: the table's loss and loss_curvature.
#
# Everything here is float64; grad_z, and the product with a tangent, are rounded once at the end. The caller divides by
# n_samples or by the sum of weights. If the weight of an entry is 0, y is not looked at: it may be NaN.

from libc.math cimport fabs

from backprop.kernels.table cimport (
    ABSOLUTE_ERROR, BINARY_CROSS_ENTROPY, CROSS_ENTROPY, HINGE, HUBER, POISSON, QUANTILE, SQUARED_ERROR,
    WEIGHT_PER_ENTRY, WEIGHT_PER_SAMPLE,
)
from backprop.kernels.vector cimport real
from backprop.kernels.elementary cimport choose, exp, log1p, log1p_to_1
from backprop.kernels.softmax cimport (
    BLOCK_COLUMNS, BLOCK_ROWS, FEW_ROWS, exponentials, find_tops, load_columns, rows_of_block, store_columns,
)

cdef extern from *:
    """
    /* A function as a pointer that the compiler cannot follow, so that its body stays out of the caller's. */
    static inline void *bp_out_of_line(void *function) { __asm__("" : "+r"(function)); return function; }
    """
    void* out_of_line "bp_out_of_line"(void* function) noexcept nogil


cdef inline double sigmoid_from_t(double a, double t) noexcept nogil:
    """sigma(a) from t = exp(-|a|)."""
    return (t if a < 0 else 1) / (1 + t)


cdef inline double by_sign(double d, double above, double below) noexcept nogil:
    """`above` if d > 0, `below` if d < 0, else d. Branches on residuals are mispredicted half of the time."""
    return choose(-<Py_ssize_t>(d > 0), above, choose(-<Py_ssize_t>(d < 0), below, d))


cdef inline double entry_loss(const int code, double parameter, double z, double y, double* slope) noexcept nogil:
    """l and dl/dz (OUT) of one output. A NaN in z or y gives NaN in both."""
    cdef double d, t
    if code == SQUARED_ERROR:
        d = z - y
        slope[0] = 2 * d
        return d * d
    if code == ABSOLUTE_ERROR:
        d = z - y
        slope[0] = by_sign(d, 1, -1)
        return fabs(d)
    if code == HUBER:
        d = z - y
        if d > parameter or d < -parameter:
            slope[0] = parameter if d > 0 else -parameter
            return parameter * (fabs(d) - 0.5 * parameter)
        slope[0] = d
        return 0.5 * d * d
    if code == QUANTILE:
        d = z - y
        slope[0] = by_sign(d, 1 - parameter, -parameter)
        return choose(-<Py_ssize_t>(d > 0), 1 - parameter, -parameter) * d
    if code == HINGE:
        d = 1 - y * z
        slope[0] = -y if d > 0 else 0 if d <= 0 else d
        return d if not d <= 0 else 0
    if code == POISSON:
        t = exp(z)
        slope[0] = t - y
        return t - (y * z if y != 0 else 0)  # at z = -inf and y = 0 the loss is 0
    # binary cross-entropy: max(z, 0) - y z + log1p(exp(-|z|)) without the difference, which cancels
    t = exp(-fabs(z))
    slope[0] = (1 - y) * sigmoid_from_t(z, t) - y * sigmoid_from_t(-z, t)
    if z > 0:
        return (0 if y == 1 else (1 - y) * z) + log1p_to_1(t)
    return (0 if y == 0 else -y * z) + log1p_to_1(t)


cdef inline void entry_losses(
        const int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out,
        real* z, Py_ssize_t ld,                                      # IN and OUT
        const real* y_hat, const real* y,                            # IN; y_hat may be NULL
        int weight_kind, const double* weight, double weight_scale,  # IN
        double* row_loss, bint with_gradient) noexcept nogil:        # OUT
    """`loss_of_rows` for the losses that are means over outputs; the code is a constant to the compiler."""
    cdef Py_ssize_t s, j
    cdef double w = weight_scale, slope, total
    for s in range(n_rows):
        if weight_kind == WEIGHT_PER_SAMPLE:
            w = weight[s] * weight_scale
        total = 0
        for j in range(n_out):
            if weight_kind == WEIGHT_PER_ENTRY:
                w = weight[s * n_out + j] * weight_scale
            if w == 0:
                slope = 0
            elif y_hat == NULL:
                total = total + w * entry_loss(code, parameter, z[s * ld + j], y[s * n_out + j], &slope)
                slope = w * slope
            else:
                total = total + w * entry_loss(code, parameter, y_hat[s * ld + j], y[s * n_out + j], &slope)
                slope = w * slope * z[s * ld + j]
            if with_gradient:
                z[s * ld + j] = <real>slope
        row_loss[s] = total


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


# Inlined, it would take registers from the loops of all other losses: 536 instead of 503 us for a gradient of 8-16 at
# 20,000 samples (v4, float64).
ctypedef void (*CrossEntropy)(
    double eps, Py_ssize_t n_rows, Py_ssize_t n_out, real* z, Py_ssize_t ld, const real* y, const Py_ssize_t* labels,
    const double* weight, double weight_scale, double* row_loss, bint with_gradient) noexcept nogil


cdef inline void loss_of_rows(
        int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out,
        void* z_, Py_ssize_t ld,                                       # IN; OUT too with with_gradient
        const void* y_hat_, const void* y_, const Py_ssize_t* labels,  # IN, or NULL
        int weight_kind, const double* weight, double weight_scale,    # IN; weight may be NULL
        double* row_loss,                                              # OUT
        bint with_gradient) noexcept nogil:
    """The weighted losses of rows; z becomes grad_z. If y_hat is NULL, the loss acts on z itself.

    Otherwise it acts on y_hat, and z holds g'(a_L): z becomes dL/dy_hat g'(a_L), which is grad_a_L.
    """
    cdef real* z = <real*>z_
    cdef const real* y_hat = <const real*>y_hat_
    cdef const real* y = <const real*>y_
    if code == CROSS_ENTROPY:
        (<CrossEntropy>out_of_line(<void*>cross_entropy))(parameter, n_rows, n_out, z, ld, y, labels, weight,
                                                          weight_scale, row_loss, with_gradient)
    elif code == SQUARED_ERROR:
        entry_losses(SQUARED_ERROR, parameter, n_rows, n_out, z, ld, y_hat, y, weight_kind, weight, weight_scale,
                     row_loss, with_gradient)
    elif code == ABSOLUTE_ERROR:
        entry_losses(ABSOLUTE_ERROR, parameter, n_rows, n_out, z, ld, y_hat, y, weight_kind, weight, weight_scale,
                     row_loss, with_gradient)
    elif code == HUBER:
        entry_losses(HUBER, parameter, n_rows, n_out, z, ld, y_hat, y, weight_kind, weight, weight_scale,
                     row_loss, with_gradient)
    elif code == QUANTILE:
        entry_losses(QUANTILE, parameter, n_rows, n_out, z, ld, y_hat, y, weight_kind, weight, weight_scale,
                     row_loss, with_gradient)
    elif code == HINGE:
        entry_losses(HINGE, parameter, n_rows, n_out, z, ld, y_hat, y, weight_kind, weight, weight_scale,
                     row_loss, with_gradient)
    elif code == POISSON:
        entry_losses(POISSON, parameter, n_rows, n_out, z, ld, y_hat, y, weight_kind, weight, weight_scale,
                     row_loss, with_gradient)
    elif code == BINARY_CROSS_ENTROPY:
        entry_losses(BINARY_CROSS_ENTROPY, parameter, n_rows, n_out, z, ld, y_hat, y, weight_kind, weight, weight_scale,
                     row_loss, with_gradient)


# Second derivatives, times a tangent ---------------------------------------------------------------------------------

cdef inline double entry_curvature(const int code, double parameter, double z, double y) noexcept nogil:
    """d2l/dz2 of one output; 0 at a kink. A NaN in z or y gives NaN."""
    cdef double d = z - y, t
    if code == POISSON:
        return exp(z)
    if code == BINARY_CROSS_ENTROPY:
        t = exp(-fabs(z))
        return t / ((1 + t) * (1 + t))  # sigma(z) sigma(-z)
    if d != d:
        return d
    if code == SQUARED_ERROR:
        return 2
    return 1 if code == HUBER and fabs(d) < parameter else 0


cdef inline void entry_curvatures(
        const int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out,
        const real* z, Py_ssize_t ld, const real* y,                 # IN
        int weight_kind, const double* weight, double weight_scale,  # IN
        real* t) noexcept nogil:                                     # IN and OUT
    """`curvature_of_rows` for the losses that are means over outputs."""
    cdef Py_ssize_t s, j
    cdef double w = weight_scale
    for s in range(n_rows):
        if weight_kind == WEIGHT_PER_SAMPLE:
            w = weight[s] * weight_scale
        for j in range(n_out):
            if weight_kind == WEIGHT_PER_ENTRY:
                w = weight[s * n_out + j] * weight_scale
            if w == 0:
                t[s * ld + j] = 0
            else:
                t[s * ld + j] = <real>(w * (entry_curvature(code, parameter, z[s * ld + j], y[s * n_out + j]) *
                                            <double>t[s * ld + j]))


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


cdef inline void curvature_of_rows(
        int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out,
        const void* z_, Py_ssize_t ld, const void* y_, const Py_ssize_t* labels,  # IN; y is NULL for labels
        int weight_kind, const double* weight, double weight_scale,               # IN; weight may be NULL
        void* t_) noexcept nogil:                                                 # IN and OUT
    """Each row of t becomes w H t, with H = d2l/dz2 at z, which the loss acts on. If l is a mean over outputs, H sums.

    An entry of weight 0 gives 0, whatever z, y and t hold. H does not depend on a label.
    """
    cdef const real* z = <const real*>z_
    cdef const real* y = <const real*>y_
    cdef real* t = <real*>t_
    cdef double w[BLOCK_ROWS]
    cdef double factor[BLOCK_ROWS]
    cdef Py_ssize_t s, k, size
    cdef double target_sum
    if code != CROSS_ENTROPY:
        entry_curvatures(code, parameter, n_rows, n_out, z, ld, y, weight_kind, weight, weight_scale, t)
        return
    while n_rows > 0:
        size = rows_of_block(n_rows)
        for s in range(size):
            w[s] = weight[s] * weight_scale if weight_kind == WEIGHT_PER_SAMPLE else weight_scale
            target_sum = 1
            if y != NULL:
                target_sum = 0
                for k in range(n_out):
                    target_sum = target_sum + (parameter / n_out + (1 - parameter) * y[s * n_out + k])
            factor[s] = w[s] * target_sum
        if size == BLOCK_ROWS:
            cross_entropy_curvature(BLOCK_ROWS, n_out, z, w, factor, t, ld)
        elif size == FEW_ROWS:
            cross_entropy_curvature(FEW_ROWS, n_out, z, w, factor, t, ld)
        else:
            cross_entropy_curvature(1, n_out, z, w, factor, t, ld)
        z += size * ld
        t += size * ld
        if y != NULL:
            y += size * n_out
        if weight_kind == WEIGHT_PER_SAMPLE:
            weight += size
        n_rows -= size
