# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The loss of each row, and its first and second derivatives by what the loss acts on: a_L, or y_hat.
# Needs: elementary (exp and log1p in float64), cross_entropy, softmax, vector.
# Gives: the table's loss and loss_curvature.
#
# Everything here is float64; grad_z, and the product with a tangent, are rounded once at the end. The caller divides by
# n_samples or by the sum of weights. If the weight of an entry is 0, y is not looked at: it may be NaN.

from libc.math cimport fabs

from backprop.kernels.table cimport (
    ABSOLUTE_ERROR, BINARY_CROSS_ENTROPY, CROSS_ENTROPY, HINGE, HUBER, POISSON, QUANTILE, QUANTILES, SQUARED_ERROR,
    WEIGHT_PER_ENTRY, WEIGHT_PER_SAMPLE,
)
from backprop.kernels.vector cimport real
from backprop.kernels.elementary cimport choose, exp, log1p_to_1
from backprop.kernels.softmax cimport BLOCK_ROWS, FEW_ROWS, rows_of_block
from backprop.kernels.cross_entropy cimport cross_entropy, cross_entropy_curvature

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
    if code == QUANTILE or code == QUANTILES:
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
        const int code, const double* parameters,                    # IN: a number; of QUANTILES one for each output
        Py_ssize_t n_rows, Py_ssize_t n_out,
        real* z, Py_ssize_t ld,                                      # IN and OUT
        const real* y_hat, const real* y,                            # IN; y_hat may be NULL
        int weight_kind, const double* weight, double weight_scale,  # IN
        double* row_loss, bint with_gradient) noexcept nogil:        # OUT
    """`loss_of_rows` for the losses that are means over outputs; the code is a constant to the compiler."""
    cdef Py_ssize_t s, j
    cdef double parameter = parameters[0]  # a loop that reads it anew for each output is slower
    cdef double w = weight_scale, slope, total
    for s in range(n_rows):
        if weight_kind == WEIGHT_PER_SAMPLE:
            w = weight[s] * weight_scale
        total = 0
        for j in range(n_out):
            if code == QUANTILES:
                parameter = parameters[j]
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


# Inlined, it would take registers from the loops of all other losses: 536 instead of 503 us for a gradient of 8-16 at
# 20,000 samples (v4, float64).
ctypedef void (*CrossEntropy)(
    double eps, Py_ssize_t n_rows, Py_ssize_t n_out, real* z, Py_ssize_t ld, const real* y, const Py_ssize_t* labels,
    const double* weight, double weight_scale, double* row_loss, bint with_gradient) noexcept nogil


cdef inline void loss_of_rows(
        int code, const double* parameter, Py_ssize_t n_rows, Py_ssize_t n_out,
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
        (<CrossEntropy>out_of_line(<void*>cross_entropy))(parameter[0], n_rows, n_out, z, ld, y, labels, weight,
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
    elif code == QUANTILES:
        entry_losses(QUANTILES, parameter, n_rows, n_out, z, ld, y_hat, y, weight_kind, weight, weight_scale,
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
