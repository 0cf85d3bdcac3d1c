# Looks at labels, targets and weights before anything is written, in one pass each and without a copy, in the
# floating-point unit's default mode. _validate.py turns what is found here into an error. Where a signal handler raises
# meanwhile, `has_raised` says so, and what is returned is not -1.

cdef Py_ssize_t bad_label(const Py_ssize_t* labels, Py_ssize_t n_samples, Py_ssize_t n_out, const double* weight,
                          Interrupt* interrupt) noexcept nogil:
    """The first row whose label lies outside 0..n_out-1, or -1; rows of weight 0 are not looked at."""
    cdef Py_ssize_t s, bad = -1
    cdef Pieces p
    interrupt.callers_mode = enter_default_mode()
    start_rows(&p, interrupt, n_samples, 1, MEMORY_FLOPS)
    while p.n and bad < 0:
        for s in range(p.row, p.row + p.n_rows):
            if not 0 <= labels[s] < n_out and (weight == NULL or weight[s] != 0):
                bad = s
                break
        if bad < 0 and next_piece(&p):
            bad = 0
    leave_default_mode(interrupt.callers_mode, &bad)
    return bad


def first_bad_label(const Py_ssize_t[::1] labels, Py_ssize_t n_out, weight=None):
    """The first row whose label lies outside 0..n_out-1 (rows of weight 0 are not looked at), or -1."""
    cdef const double[::1] w = weight
    cdef const double* weights = NULL if weight is None else &w[0]
    cdef Py_ssize_t bad
    cdef Interrupt interrupt
    with nogil:
        reset_interrupt(&interrupt, False, True)
        bad = bad_label(&labels[0], labels.shape[0], n_out, weights, &interrupt)
    raise_for_signal(&interrupt)
    return bad


cdef inline bint target_is_valid(int loss, double y) noexcept nogil:
    """Whether y lies in the loss's domain; NaN lies in none."""
    if loss == HINGE:
        return y == 1 or y == -1
    if loss == BINARY_CROSS_ENTROPY:
        return 0 <= y <= 1
    return y >= 0  # poisson, and the probabilities of cross_entropy


cdef Py_ssize_t bad_target(int loss, const floating* y, Py_ssize_t n_samples, Py_ssize_t n_out, const double* weight,
                           Py_ssize_t n_weights, Interrupt* interrupt) noexcept nogil:
    """The first entry outside the loss's domain, or -1; an entry of weight 0 is not looked at (n_weights a row)."""
    cdef Py_ssize_t s, j, bad = -1
    cdef Pieces p
    if loss != HINGE and loss != POISSON and loss != BINARY_CROSS_ENTROPY and loss != CROSS_ENTROPY:
        return -1
    interrupt.callers_mode = enter_default_mode()
    start_rows(&p, interrupt, n_samples, n_out, MEMORY_FLOPS)
    while p.n and bad < 0:
        for s in range(p.row, p.row + p.n_rows):
            for j in range(n_out):
                if not target_is_valid(loss, y[s * n_out + j]):
                    if n_weights == 0 or weight[s * n_weights + (j if n_weights > 1 else 0)] != 0:
                        bad = s * n_out + j
                        break
            if bad >= 0:
                break
        if bad < 0 and next_piece(&p):
            bad = 0
    leave_default_mode(interrupt.callers_mode, &bad)
    return bad


def first_bad_target(int loss, const floating[:, ::1] y, weight=None):
    """The first (row, output) whose target lies outside the loss's domain, or None; weight 0 drops an entry."""
    cdef const double[::1] w = None
    cdef const double* weights = NULL
    cdef Py_ssize_t n_weights = 0, entry
    cdef Interrupt interrupt
    if weight is not None:
        w = weight.reshape(-1)
        weights = &w[0]
        n_weights = 1 if weight.ndim == 1 else weight.shape[1]
    with nogil:
        reset_interrupt(&interrupt, False, True)
        entry = bad_target(loss, &y[0, 0], y.shape[0], y.shape[1], weights, n_weights, &interrupt)
    raise_for_signal(&interrupt)
    return None if entry < 0 else divmod(entry, y.shape[1])


cdef Py_ssize_t bad_sum(const floating* y, Py_ssize_t n_samples, Py_ssize_t n_out, double tolerance,
                        const double* weight, Interrupt* interrupt) noexcept nogil:
    """The first row of probabilities that do not sum to 1 within the tolerance, or -1; weight 0 drops a row."""
    cdef Py_ssize_t s, j, bad = -1
    cdef double total
    cdef Pieces p
    interrupt.callers_mode = enter_default_mode()
    start_rows(&p, interrupt, n_samples, n_out, MEMORY_FLOPS)
    while p.n and bad < 0:
        for s in range(p.row, p.row + p.n_rows):
            total = 0
            for j in range(n_out):
                total = total + y[s * n_out + j]
            if not -tolerance <= total - 1 <= tolerance and (weight == NULL or weight[s] != 0):
                bad = s
                break
        if bad < 0 and next_piece(&p):
            bad = 0
    leave_default_mode(interrupt.callers_mode, &bad)
    return bad


def first_bad_sum(const floating[:, ::1] y, double tolerance, weight=None):
    """The first row of probabilities that do not sum to 1 within the tolerance, or -1; weight 0 drops a row."""
    cdef const double[::1] w = weight
    cdef const double* weights = NULL
    cdef Py_ssize_t bad
    cdef Interrupt interrupt
    if weight is not None:
        weights = &w[0]
    with nogil:
        reset_interrupt(&interrupt, False, True)
        bad = bad_sum(&y[0, 0], y.shape[0], y.shape[1], tolerance, weights, &interrupt)
    raise_for_signal(&interrupt)
    return bad


cdef struct WeightSums:
    Py_ssize_t bad               # the first entry that is negative or not finite, or -1
    double scale                 # the power of two that brings the largest weight near 1
    double total                 # the sum of the weights times scale
    Py_ssize_t n_kept            # rows with a weight other than 0


cdef WeightSums sums_of_weights(const double* weight, Py_ssize_t n, Py_ssize_t n_per_row,
                                Interrupt* interrupt) noexcept nogil:
    """What there is to know of n weights, whatever the floating-point unit's mode."""
    cdef WeightSums sums
    interrupt.callers_mode = enter_default_mode()
    add_up_weights(weight, n, n_per_row, &sums, interrupt)
    leave_default_mode(interrupt.callers_mode, &sums)
    return sums


cdef void add_up_weights(const double* weight, Py_ssize_t n, Py_ssize_t n_per_row, WeightSums* sums,
                         Interrupt* interrupt) noexcept nogil:
    """`sums_of_weights` in the mode there is; only `bad` and `n_kept` where the weights are refused.

    With the scale neither tiny nor huge weights underflow or overflow in a product; both uses of a weight are scaled
    alike, which is exact.
    """
    cdef Py_ssize_t p, q
    cdef double largest = 0, total_error = 0, error
    cdef int exponent
    cdef bint empty
    cdef Pieces piece
    memset(sums, 0, sizeof(WeightSums))
    sums.scale = 1
    sums.bad = -1
    start_rows(&piece, interrupt, n, 1, MEMORY_FLOPS)
    while piece.n:
        for p in range(piece.row, piece.row + piece.n_rows):
            if not (weight[p] >= 0 and isfinite(weight[p])):
                sums.bad = p
                return
            largest = max(largest, weight[p])
        if next_piece(&piece):
            sums.bad = 0
            return
    if largest == 0:
        return
    frexp(largest, &exponent)
    sums.scale = ldexp(1.0, min(1023, 1 - exponent))  # a subnormal weight stays within 2^-51 of 1
    start_rows(&piece, interrupt, n // n_per_row, n_per_row, 2.0 * MEMORY_FLOPS)
    while piece.n:
        for p in range(piece.row, piece.row + piece.n_rows):
            empty = True
            for q in range(p * n_per_row, (p + 1) * n_per_row):
                empty = empty and weight[q] == 0
                two_sum(sums.total, weight[q] * sums.scale, &sums.total, &error)
                total_error += error
            sums.n_kept += not empty
        if next_piece(&piece):
            sums.bad = 0
            return
    sums.total += total_error


def inspect_weights(const double[::1] weight, Py_ssize_t n_per_row):
    """(first bad entry or -1, scale, sum of weights times scale, rows with a weight other than 0)."""
    cdef WeightSums sums
    cdef Interrupt interrupt
    with nogil:
        reset_interrupt(&interrupt, False, True)
        sums = sums_of_weights(&weight[0], weight.shape[0], n_per_row, &interrupt)
    raise_for_signal(&interrupt)
    return sums.bad, sums.scale, sums.total, sums.n_kept
