# Looks at labels, targets and weights before anything is written, in one pass each and without a copy.
# _validate.py turns what is found here into an error.

cdef Py_ssize_t bad_label(const Py_ssize_t* labels, Py_ssize_t n_samples, Py_ssize_t n_out,
                          const double* weight) noexcept nogil:
    """The first row whose label lies outside 0..n_out-1, or -1; rows of weight 0 are not looked at."""
    cdef Py_ssize_t s
    for s in range(n_samples):
        if not 0 <= labels[s] < n_out and (weight == NULL or weight[s] != 0):
            return s
    return -1


def first_bad_label(const Py_ssize_t[::1] labels, Py_ssize_t n_out, weight=None):
    """The first row whose label lies outside 0..n_out-1 (rows of weight 0 are not looked at), or -1."""
    cdef const double[::1] w = weight
    if weight is None:
        return bad_label(&labels[0], labels.shape[0], n_out, NULL)
    return bad_label(&labels[0], labels.shape[0], n_out, &w[0])


cdef inline bint target_is_valid(int loss, double y) noexcept nogil:
    """Whether y lies in the loss's domain; NaN lies in none."""
    if loss == HINGE:
        return y == 1 or y == -1
    if loss == BINARY_CROSS_ENTROPY:
        return 0 <= y <= 1
    return y >= 0  # poisson, and the probabilities of cross_entropy


cdef Py_ssize_t bad_target(int loss, const floating* y, Py_ssize_t n_samples, Py_ssize_t n_out, const double* weight,
                           Py_ssize_t n_weights) noexcept nogil:
    """The first entry outside the loss's domain, or -1; an entry of weight 0 is not looked at (n_weights a row)."""
    cdef Py_ssize_t s, j
    if loss != HINGE and loss != POISSON and loss != BINARY_CROSS_ENTROPY and loss != CROSS_ENTROPY:
        return -1
    for s in range(n_samples):
        for j in range(n_out):
            if not target_is_valid(loss, y[s * n_out + j]):
                if n_weights == 0 or weight[s * n_weights + (j if n_weights > 1 else 0)] != 0:
                    return s * n_out + j
    return -1


def first_bad_target(int loss, const floating[:, ::1] y, weight=None):
    """The first (row, output) whose target lies outside the loss's domain, or None; weight 0 drops an entry."""
    cdef const double[::1] w = None
    cdef const double* weights = NULL
    cdef Py_ssize_t n_weights = 0, entry
    if weight is not None:
        w = weight.reshape(-1)
        weights = &w[0]
        n_weights = 1 if weight.ndim == 1 else weight.shape[1]
    with nogil:
        entry = bad_target(loss, &y[0, 0], y.shape[0], y.shape[1], weights, n_weights)
    return None if entry < 0 else divmod(entry, y.shape[1])


cdef Py_ssize_t bad_sum(const floating* y, Py_ssize_t n_samples, Py_ssize_t n_out, double tolerance,
                        const double* weight) noexcept nogil:
    """The first row of probabilities that do not sum to 1 within the tolerance, or -1; weight 0 drops a row."""
    cdef Py_ssize_t s, j
    cdef double total
    for s in range(n_samples):
        total = 0
        for j in range(n_out):
            total = total + y[s * n_out + j]
        if not -tolerance <= total - 1 <= tolerance and (weight == NULL or weight[s] != 0):
            return s
    return -1


def first_bad_sum(const floating[:, ::1] y, double tolerance, weight=None):
    """The first row of probabilities that do not sum to 1 within the tolerance, or -1; weight 0 drops a row."""
    cdef const double[::1] w = weight
    cdef const double* weights = NULL
    cdef Py_ssize_t bad
    if weight is not None:
        weights = &w[0]
    with nogil:
        bad = bad_sum(&y[0, 0], y.shape[0], y.shape[1], tolerance, weights)
    return bad


cdef struct WeightSums:
    Py_ssize_t bad               # the first entry that is negative or not finite, or -1
    double largest
    double scale                 # the power of two that brings the largest weight near 1
    double total                 # the sum of the weights times scale
    Py_ssize_t n_kept            # rows with a weight other than 0


cdef WeightSums sums_of_weights(const double* weight, Py_ssize_t n, Py_ssize_t n_per_row) noexcept nogil:
    """What there is to know of n weights; only `bad` and `largest` where these are refused.

    With the scale neither tiny nor huge weights underflow or overflow in a product; both uses of a weight are scaled
    alike, which is exact.
    """
    cdef WeightSums sums
    cdef Py_ssize_t p, q
    cdef double total_error = 0, error
    cdef int exponent
    cdef bint empty
    memset(&sums, 0, sizeof(WeightSums))
    sums.scale = 1
    sums.bad = -1
    for p in range(n):
        if not (weight[p] >= 0 and isfinite(weight[p])):
            sums.bad = p
            return sums
        sums.largest = max(sums.largest, weight[p])
    if sums.largest == 0:
        return sums
    frexp(sums.largest, &exponent)
    sums.scale = ldexp(1.0, min(1023, 1 - exponent))  # a subnormal weight stays within 2^-51 of 1
    p = 0
    while p < n:
        empty = True
        for q in range(p, p + n_per_row):
            empty = empty and weight[q] == 0
            two_sum(sums.total, weight[q] * sums.scale, &sums.total, &error)
            total_error += error
        sums.n_kept += not empty
        p += n_per_row
    sums.total += total_error
    if sums.n_kept == 0:  # another thread set them to 0 meanwhile
        sums.largest = 0
    return sums


def inspect_weights(const double[::1] weight, Py_ssize_t n_per_row):
    """(first bad entry or -1, largest weight, scale, sum of weights times scale, rows with a weight other than 0)."""
    cdef WeightSums sums
    with nogil:
        sums = sums_of_weights(&weight[0], weight.shape[0], n_per_row)
    return sums.bad, sums.largest, sums.scale, sums.total, sums.n_kept
