# Second derivatives of the losses by what they act on, a_L or y_hat, times a tangent. Everything here is float64.

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


cdef void entry_curvatures(const int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out, const real* z,
                           Py_ssize_t ld, const real* y, int weight_kind, const double* weight, double weight_scale,
                           real* t) noexcept nogil:
    """`loss_curvature` for the losses that are means over outputs."""
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


cdef void cross_entropy_curvature(Py_ssize_t n, const real* a, double factor, real* t) noexcept nogil:
    """t becomes factor p (.) (t - p.t), p = softmax(a).

    p sums to 1, so t may be shifted: so that it is 0 where the logit is largest. Where that entry's p nears 1, t - p.t
    would be the difference of two almost equal numbers; now it is minus the sum of the small p_j (t_j - t_top).
    """
    cdef double e[ROW_BLOCK]
    cdef Py_ssize_t k, size, start = 0, top = top_of_row(n, a)
    cdef double a_top = a[top], t_top = t[top], others = 0, total, mean = 0
    while start < n:
        size = min(n - start, <Py_ssize_t>ROW_BLOCK)
        exp_differences(size, a + start, a_top, e)
        for k in range(size):
            if start + k != top:
                others = others + e[k]
                mean = mean + e[k] * (t[start + k] - t_top)
        start += size
    total = 1 + others
    if a_top - a_top != 0:  # inf or NaN at the top: all is NaN, as in the loss
        total = a_top - a_top
    mean = mean / total
    start = 0
    while start < n:
        size = min(n - start, <Py_ssize_t>ROW_BLOCK)
        if n > ROW_BLOCK:
            exp_differences(size, a + start, a_top, e)
        for k in range(size):
            t[start + k] = <real>(factor * (e[k] / total * ((t[start + k] - t_top) - mean)))
        start += size


cdef void loss_curvature(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out, const void* z_, Py_ssize_t ld,
                         const void* y_, const Py_ssize_t* labels, int weight_kind, const double* weight,
                         double weight_scale, void* t_) noexcept nogil:
    """Each row of t becomes w H t, H = d2l/dz2 at z, which the loss acts on: a sum over outputs, where l is a mean.

    An entry of weight 0 gives 0, whatever z, y and t hold. H does not depend on a label.
    """
    cdef const real* z = <const real*>z_
    cdef const real* y = <const real*>y_
    cdef real* t = <real*>t_
    cdef Py_ssize_t s, k
    cdef double w = weight_scale, target_sum
    if code != CROSS_ENTROPY:
        entry_curvatures(code, parameter, n_rows, n_out, z, ld, y, weight_kind, weight, weight_scale, t)
        return
    for s in range(n_rows):
        if weight_kind == WEIGHT_PER_SAMPLE:
            w = weight[s] * weight_scale
        if w == 0:
            for k in range(n_out):
                t[s * ld + k] = 0
            continue
        target_sum = 1
        if y != NULL:
            target_sum = 0
            for k in range(n_out):
                target_sum = target_sum + (parameter / n_out + (1 - parameter) * y[s * n_out + k])
        cross_entropy_curvature(n_out, z + s * ld, w * target_sum, t + s * ld)


cdef void softmax_product(Py_ssize_t n_rows, Py_ssize_t n, const void* p_, void* t_, Py_ssize_t ld) noexcept nogil:
    """t becomes p (.) (t - p.t) for each row: the Jacobian of softmax, where it is p, times t.

    t is shifted as in `cross_entropy_curvature`, and for the same reason.
    """
    cdef const real* p = <const real*>p_
    cdef real* t = <real*>t_
    cdef Py_ssize_t s, k, top
    cdef double t_top, mean
    for s in range(n_rows):
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
