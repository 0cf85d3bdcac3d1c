# The losses: for each row its loss in float64, and grad_z, the derivative by what the loss acts on (a_L, or y_hat
# times g'(a_L)). Everything here is float64; grad_z is rounded once. The caller divides by n_samples or by the sum of weights.
#
# Where the weight of an entry is 0, y is not looked at: it may be NaN.

cdef inline double entry_loss(int code, double parameter, double z, double y, double* slope) noexcept nogil:
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
    cdef Py_ssize_t k, top = top_of_row(n, a)
    cdef double total = 0
    for k in range(n):
        total = total + exp(<double>a[k] - <double>a[top])
    for k in range(n):
        p[k] = <real>(exp(<double>a[k] - <double>a[top]) / total)


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
    cdef Py_ssize_t k, top = top_of_row(n, a)
    cdef double a_top = a[top], others = 0, target_sum = 0, total, log_total, target, p, off_label = 0, row_loss = 0
    for k in range(n):
        if k != top:
            others = others + exp(<double>a[k] - a_top)
    total = 1 + others
    if a_top - a_top != 0:  # inf or NaN at the top: all that follows is NaN, as in SciPy and PyTorch
        total = a_top - a_top
        others = total
    log_total = log1p(others)
    for k in range(n):
        target = eps / n + (1 - eps) * (<double>y[k] if y != NULL else 1 if k == label else 0)
        target_sum = target_sum + target
        if target != 0:
            row_loss = row_loss + target * ((a_top - a[k]) + log_total)
    if not with_gradient:
        return row_loss
    for k in range(n):
        p = exp(<double>a[k] - a_top) / total
        if y != NULL:
            a[k] = <real>(weight * (p * target_sum - (eps / n + (1 - eps) * y[k])))
        elif k != label:
            off_label = off_label + p
            a[k] = <real>(weight * (p - eps / n))
    if y == NULL:
        a[label] = <real>(weight * ((eps - eps / n) - off_label))  # p - y' = (1 - y') - sum of the others' p
    return row_loss


cdef double loss(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out, void* z_, Py_ssize_t ld,
                 const void* y_hat_, const void* y_, const Py_ssize_t* labels,
                 int weight_kind, const double* weight, double weight_scale, bint with_gradient) noexcept nogil:
    """The weighted sum of row losses. z becomes grad_z: the loss acts on z itself where y_hat is NULL.

    Otherwise it acts on y_hat, and z holds g'(a_L): z becomes dL/dy_hat g'(a_L), which is grad_a_L. Labels must lie
    within 0..n_out-1: the caller has looked at them.
    """
    cdef real* z = <real*>z_
    cdef const real* y_hat = <const real*>y_hat_
    cdef const real* y = <const real*>y_
    cdef const real* probabilities
    cdef Py_ssize_t s, j, label
    cdef double w, row_loss, slope, total = 0
    for s in range(n_rows):
        w = weight_scale
        if weight_kind == WEIGHT_PER_SAMPLE:
            w = weight[s] * weight_scale
        if code == CROSS_ENTROPY:
            label = 0
            probabilities = y
            if labels != NULL:
                label = labels[s]
                if not 0 <= label < n_out:  # another thread wrote to the labels during the call: stay within the row
                    label = 0
            else:
                probabilities = y + s * n_out
            row_loss = w * cross_entropy_row(n_out, z + s * ld, probabilities, label, parameter, w, with_gradient)
        else:
            row_loss = 0
            for j in range(n_out):
                if weight_kind == WEIGHT_PER_ENTRY:
                    w = weight[s * n_out + j] * weight_scale
                if w == 0:
                    if with_gradient:
                        z[s * ld + j] = 0
                    continue
                if y_hat == NULL:
                    row_loss = row_loss + w * entry_loss(code, parameter, z[s * ld + j], y[s * n_out + j], &slope)
                    slope = w * slope
                else:
                    row_loss = row_loss + w * entry_loss(code, parameter, y_hat[s * ld + j], y[s * n_out + j], &slope)
                    slope = w * slope * z[s * ld + j]
                if with_gradient:
                    z[s * ld + j] = <real>slope
        total = total + row_loss
    return total
