# Looks at labels, targets and weights before anything is written, in one pass each and without a copy.
# _validate.py turns what is found here into an error.

def first_bad_label(const Py_ssize_t[::1] labels, Py_ssize_t n_out, weight=None):
    """The first row whose label lies outside 0..n_out-1 (rows of weight 0 are not looked at), or -1."""
    cdef const double[::1] w = weight
    cdef Py_ssize_t s
    with nogil:
        for s in range(labels.shape[0]):
            if not 0 <= labels[s] < n_out and (w is None or w[s] != 0):
                with gil:
                    return s
    return -1


cdef inline bint target_is_valid(int loss, double y) noexcept nogil:
    """Whether y lies in the loss's domain; NaN lies in none."""
    if loss == HINGE:
        return y == 1 or y == -1
    if loss == BINARY_CROSS_ENTROPY:
        return 0 <= y <= 1
    return y >= 0  # poisson, and the probabilities of cross_entropy


def first_bad_target(int loss, const floating[:, ::1] y, weight=None):
    """The first (row, output) whose target lies outside the loss's domain, or None; weight 0 drops an entry."""
    cdef const double[::1] w = None if weight is None else weight.reshape(-1)
    cdef Py_ssize_t s, j, step = 0
    if loss not in (HINGE, POISSON, BINARY_CROSS_ENTROPY, CROSS_ENTROPY):
        return None
    if weight is not None and weight.ndim == 2:
        step = 1
    with nogil:
        for s in range(y.shape[0]):
            for j in range(y.shape[1]):
                if not target_is_valid(loss, y[s, j]):
                    if w is None or (w[s] if step == 0 else w[s * y.shape[1] + j]) != 0:
                        with gil:
                            return s, j
    return None


def first_bad_sum(const floating[:, ::1] y, double tolerance, weight=None):
    """The first row of probabilities that do not sum to 1 within the tolerance, or -1; weight 0 drops a row."""
    cdef const double[::1] w = weight
    cdef Py_ssize_t s, j
    cdef double total
    with nogil:
        for s in range(y.shape[0]):
            total = 0
            for j in range(y.shape[1]):
                total = total + y[s, j]
            if not -tolerance <= total - 1 <= tolerance and (w is None or w[s] != 0):
                with gil:
                    return s
    return -1


def inspect_weights(const double[::1] weight, Py_ssize_t n_per_row):
    """(first bad entry or -1, largest weight, sum of weights times 1/scale, scale, whether a row has only zeros).

    scale is the power of two that brings the largest weight into [1, 2), so that neither tiny nor huge weights
    underflow or overflow in a product; both uses of a weight are scaled alike, which is exact.
    """
    cdef Py_ssize_t p, q
    cdef double largest = 0, scale = 1, total = 0, total_error = 0, error
    cdef bint empty_row = False, empty
    with nogil:
        for p in range(weight.shape[0]):
            if not (weight[p] >= 0 and isfinite(weight[p])):
                with gil:
                    return p, 0.0, 0.0, 1.0, False
            largest = max(largest, weight[p])
    if largest == 0:
        return -1, 0.0, 0.0, 1.0, True
    scale = 2.0 ** -(math.frexp(largest)[1] - 1) if 1e-300 < largest else 1.0
    with nogil:
        p = 0
        while p < weight.shape[0]:
            empty = True
            for q in range(p, p + n_per_row):
                empty = empty and weight[q] == 0
                add_with_error(total, weight[q] * scale, &total, &error)
                total_error += error
            empty_row = empty_row or empty
            p += n_per_row
    return -1, largest, total + total_error, scale, bool(empty_row)
