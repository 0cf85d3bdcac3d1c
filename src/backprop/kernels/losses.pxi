# The losses: for each row its loss in float64, and grad_z, the derivative by what the loss acts on (a_L, or y_hat
# times g'(a_L)). Everything here is float64; grad_z is rounded once. The caller divides by n_samples or by the sum of
# weights.
#
# Where the weight of an entry is 0, y is not looked at: it may be NaN.

cdef enum:
    ROW_BLOCK = 64           # exponentials of a row that are kept; those of longer rows are computed twice


cdef inline double sigmoid_from_t(double a, double t) noexcept nogil:
    """sigma(a), t = exp(-|a|)."""
    return (t if a < 0 else 1) / (1 + t)


cdef inline double entry_loss(const int code, double parameter, double z, double y, double* slope) noexcept nogil:
    """l and dl/dz of one output; a NaN in z or y gives NaN in both."""
    cdef double d, t
    if code == SQUARED_ERROR:
        d = z - y
        slope[0] = 2 * d
        return d * d
    if code == ABSOLUTE_ERROR:
        d = z - y
        slope[0] = 1 if d > 0 else -1 if d < 0 else d
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
        slope[0] = 1 - parameter if d > 0 else -parameter if d < 0 else d
        return (1 - parameter) * d if d > 0 else -parameter * d
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
        return (0 if y == 1 else (1 - y) * z) + log1p(t)
    return (0 if y == 0 else -y * z) + log1p(t)


cdef void softmax_row(Py_ssize_t n, const real* a, real* p) noexcept nogil:
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


cdef inline Py_ssize_t top_of_row(Py_ssize_t n, const real* a) noexcept nogil:
    """The index of the largest logit, the first of equal ones; of the first NaN where there is one."""
    cdef Py_ssize_t k, top = 0
    for k in range(1, n):
        if not a[k] <= a[top] and a[top] == a[top]:
            top = k
    return top


cdef double cross_entropy_row(Py_ssize_t n, real* a, const real* y, Py_ssize_t label, double eps,
                              double weight, bint with_gradient) noexcept nogil:
    """-sum_k y'_k log p_k, y' = (1 - eps) y + eps/n, p = softmax(a); a becomes weight (p_k sum(y') - y'_k).

    y is NULL for a label. With M = max a and R = sum of exp(a_k - M) over all k but the place of M,
    -log p_k = (M - a_k) + log1p(R): two terms >= 0, so nothing cancels.
    """
    cdef double e[ROW_BLOCK]
    cdef Py_ssize_t k, size, start = 0, top = top_of_row(n, a)
    cdef double a_top = a[top], others = 0, target_sum = 0, total, log_total, target, p, off_label = 0, row_loss = 0
    while start < n:
        size = min(n - start, <Py_ssize_t>ROW_BLOCK)
        exp_differences(size, a + start, a_top, e)
        for k in range(size):
            if start + k != top:
                others = others + e[k]
        start += size
    total = 1 + others
    if a_top - a_top != 0:  # inf or NaN at the top: all that follows is NaN, as in SciPy and PyTorch
        total = a_top - a_top
        others = total
        off_label = total  # the sum of the others' p is empty where n is 1
    log_total = log1p(others)
    if y == NULL and eps == 0:
        row_loss = (a_top - a[label]) + log_total
    else:
        for k in range(n):
            target = eps / n + (1 - eps) * (<double>y[k] if y != NULL else 1 if k == label else 0)
            target_sum = target_sum + target
            if target != 0:
                row_loss = row_loss + target * ((a_top - a[k]) + log_total)
    if not with_gradient:
        return row_loss
    start = 0
    while start < n:
        size = min(n - start, <Py_ssize_t>ROW_BLOCK)
        if n > ROW_BLOCK:
            exp_differences(size, a + start, a_top, e)
        for k in range(size):
            p = e[k] / total
            if y != NULL:
                a[start + k] = <real>(weight * (p * target_sum - (eps / n + (1 - eps) * y[start + k])))
            elif start + k != label:
                off_label = off_label + p
                a[start + k] = <real>(weight * (p - eps / n))
        start += size
    if y == NULL:
        a[label] = <real>(weight * ((eps - eps / n) - off_label))  # p - y' = (1 - y') - sum of the others' p
    return row_loss


cdef inline void entry_losses(const int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out, real* z,
                              Py_ssize_t ld, const real* y_hat, const real* y, int weight_kind, const double* weight,
                              double weight_scale, double* row_loss, bint with_gradient) noexcept nogil:
    """`loss` for the losses that are means over outputs; the code is a constant to the compiler."""
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


cdef void cross_entropy(double eps, Py_ssize_t n_rows, Py_ssize_t n_out, real* z, Py_ssize_t ld, const real* y,
                        const Py_ssize_t* labels, const double* weight, double weight_scale, double* row_loss,
                        bint with_gradient) noexcept nogil:
    """`loss` for cross-entropy, whose rows have one weight each."""
    cdef const real* probabilities = y
    cdef Py_ssize_t s, label = 0
    cdef double w = weight_scale
    for s in range(n_rows):
        if weight != NULL:
            w = weight[s] * weight_scale
        if labels != NULL:
            label = labels[s]
            if not 0 <= label < n_out:  # another thread wrote to the labels during the call: stay within the row
                label = 0
        else:
            probabilities = y + s * n_out
        row_loss[s] = w * cross_entropy_row(n_out, z + s * ld, probabilities, label, eps, w, with_gradient)


cdef void loss(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out, void* z_, Py_ssize_t ld,
               const void* y_hat_, const void* y_, const Py_ssize_t* labels, int weight_kind, const double* weight,
               double weight_scale, double* row_loss, bint with_gradient) noexcept nogil:
    """The weighted losses of rows. z becomes grad_z: the loss acts on z itself where y_hat is NULL.

    Otherwise it acts on y_hat, and z holds g'(a_L): z becomes dL/dy_hat g'(a_L), which is grad_a_L.
    """
    cdef real* z = <real*>z_
    cdef const real* y_hat = <const real*>y_hat_
    cdef const real* y = <const real*>y_
    if code == CROSS_ENTROPY:
        cross_entropy(parameter, n_rows, n_out, z, ld, y, labels, weight, weight_scale, row_loss, with_gradient)
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
