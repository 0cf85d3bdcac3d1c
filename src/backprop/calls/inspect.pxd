# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The rules of values: labels, targets and weights, looked at before anything is written, in one pass for each rule and
# without a copy, in the floating-point unit's default mode. An entry of weight 0 is not looked at.
# Needs: calls/rules, process/pieces, float_mode, kernels/bins. Gives: Targets, rule_of_targets, WeightSums,
# rule_of_weights, set_scale_and_total.

from libc.math cimport frexp, isfinite, ldexp
from libc.stdint cimport int8_t, int64_t
from libc.string cimport memset

from backprop.calls.rules cimport (
    BAD_LABEL, BAD_SUM, BAD_TARGET, BAD_WEIGHT, INTERRUPTED, KEPT, NO_WEIGHT_ABOVE_0,
)
from backprop.kernels.bins cimport EMPTY_TOP, add_to_bins, round_bins
from backprop.kernels.table cimport BINARY_CROSS_ENTROPY, CROSS_ENTROPY, HINGE, POISSON
from backprop.process.float_mode cimport enter_default_mode, leave_default_mode
from backprop.process.interrupt cimport MEMORY_FLOPS, Interrupt, has_raised
from backprop.process.pieces cimport Pieces, next_piece, start_rows
from backprop.recursion.reals cimport get_real

cdef struct Targets:
    # What is looked at.
    int loss
    Py_ssize_t itemsize          # of y
    Py_ssize_t n_rows, n_out
    const char* y                # (n_rows, n_out), or NULL for labels
    const Py_ssize_t* labels     # (n_rows,)
    const double* weight         # (n_rows, n_weights), or NULL
    Py_ssize_t n_weights         # per row: 1, n_out, or 0 if there are none


cdef struct WeightSums:
    Py_ssize_t bad               # the first entry that is negative or not finite, or -1
    double largest
    int8_t top                   # the sum of the weights in bins (kernels/bins.h): the same for every order of rows
    int64_t[3] limbs
    double scale                 # the power of two that brings the largest weight near 1
    double total                 # the sum of the weights times scale
    Py_ssize_t n_kept            # rows with a weight other than 0


# Labels and targets ---------------------------------------------------------------------------------------------------

cdef inline double tolerance_of_sums(Py_ssize_t itemsize) noexcept nogil:
    """How far a sum of probabilities may lie from 1."""
    return 1e-4 if itemsize == 4 else 1e-6


cdef inline bint has_domain(int loss) noexcept nogil:
    """Whether some real numbers are no targets of the loss."""
    return loss == HINGE or loss == POISSON or loss == BINARY_CROSS_ENTROPY or loss == CROSS_ENTROPY


cdef inline bint is_in_domain(int loss, double y) noexcept nogil:
    """Whether y lies in the loss's domain; NaN lies in none."""
    if loss == HINGE:
        return y == 1 or y == -1
    if loss == BINARY_CROSS_ENTROPY:
        return 0 <= y <= 1
    return y >= 0  # poisson, and the probabilities of cross_entropy


cdef inline bint counts(const Targets* targets, Py_ssize_t row, Py_ssize_t output) noexcept nogil:
    """Whether an entry has a weight other than 0."""
    if targets.n_weights == 0:
        return True
    return targets.weight[row * targets.n_weights + (output if targets.n_weights > 1 else 0)] != 0


cdef inline Py_ssize_t bad_label(const Targets* targets, Py_ssize_t row, Py_ssize_t end) noexcept nogil:
    """The first of some rows whose label lies outside 0..n_out-1, or -1."""
    cdef Py_ssize_t s
    for s in range(row, end):
        if not 0 <= targets.labels[s] < targets.n_out and counts(targets, s, 0):
            return s
    return -1


cdef inline Py_ssize_t bad_target(const Targets* targets, Py_ssize_t row, Py_ssize_t end) noexcept nogil:
    """The first entry of some rows outside the loss's domain, or -1."""
    cdef Py_ssize_t s, j
    for s in range(row, end):
        for j in range(targets.n_out):
            if (not is_in_domain(targets.loss, get_real(targets.y, s * targets.n_out + j, targets.itemsize))
                    and counts(targets, s, j)):
                return s * targets.n_out + j
    return -1


cdef inline Py_ssize_t bad_sum(const Targets* targets, Py_ssize_t row, Py_ssize_t end) noexcept nogil:
    """The first of some rows of probabilities that do not sum to 1, or -1."""
    cdef Py_ssize_t s, j
    cdef double total, tolerance = tolerance_of_sums(targets.itemsize)
    for s in range(row, end):
        total = 0
        for j in range(targets.n_out):
            total = total + get_real(targets.y, s * targets.n_out + j, targets.itemsize)
        if not -tolerance <= total - 1 <= tolerance and counts(targets, s, 0):
            return s
    return -1


ctypedef Py_ssize_t (*Look)(const Targets* targets, Py_ssize_t row, Py_ssize_t end) noexcept nogil


cdef inline Py_ssize_t first_bad(const Targets* targets, Look look, Interrupt* interrupt) noexcept nogil:
    """The first that a look at all rows finds, or -1; piece by piece, until a signal handler raises."""
    cdef Py_ssize_t bad = -1
    cdef Pieces p
    start_rows(&p, interrupt, targets.n_rows, 1 if targets.y == NULL else targets.n_out, MEMORY_FLOPS)
    while p.n:
        bad = look(targets, p.row, p.row + p.n_rows)
        if bad >= 0 or next_piece(&p):
            break
    return bad


cdef inline int rule_of_targets(const Targets* targets, Interrupt* interrupt,
                                Py_ssize_t* place) noexcept nogil:  # OUT: the row, or the entry of BAD_TARGET
    """The rule that some target breaks: of labels, or of the loss's domain and then of sums of probabilities."""
    cdef int rule = KEPT
    if targets.labels == NULL and not has_domain(targets.loss):
        return KEPT
    interrupt.callers_mode = enter_default_mode()
    if targets.labels != NULL:
        place[0] = first_bad(targets, bad_label, interrupt)
        rule = KEPT if place[0] < 0 else BAD_LABEL
    else:
        place[0] = first_bad(targets, bad_target, interrupt)
        rule = KEPT if place[0] < 0 else BAD_TARGET
        if rule == KEPT and targets.loss == CROSS_ENTROPY and not has_raised(interrupt):
            place[0] = first_bad(targets, bad_sum, interrupt)
            rule = KEPT if place[0] < 0 else BAD_SUM
    leave_default_mode(interrupt.callers_mode, &rule)
    return INTERRUPTED if has_raised(interrupt) else rule


# Weights --------------------------------------------------------------------------------------------------------------

cdef inline int rule_of_weights(const double* weight, Py_ssize_t n_rows, Py_ssize_t n_per_row,
                                WeightSums* sums,  # OUT: of refused weights only `bad` and `n_kept`
                                Interrupt* interrupt) noexcept nogil:
    """The rule that weights break, and what they add up to, whatever the floating-point unit's mode."""
    cdef bint is_stopped
    interrupt.callers_mode = enter_default_mode()
    is_stopped = add_up_weights(weight, NULL, n_rows, n_per_row, sums, interrupt)
    leave_default_mode(interrupt.callers_mode, sums)
    if is_stopped:
        return INTERRUPTED
    if sums.bad >= 0:
        return BAD_WEIGHT
    return NO_WEIGHT_ABOVE_0 if sums.n_kept == 0 and n_rows > 0 else KEPT


cdef inline void set_scale_and_total(WeightSums* sums) noexcept nogil:
    """The scale of the largest weight, and the sum times the scale.

    With the scale neither tiny nor huge weights underflow or overflow in a product; both uses of a weight are scaled
    alike, which is exact.
    """
    cdef int exponent
    if sums.largest == 0:
        return
    frexp(sums.largest, &exponent)
    exponent = min(1023, 1 - exponent)  # a subnormal weight stays within 2^-51 of 1
    sums.scale = ldexp(1.0, exponent)
    sums.total = round_bins(sums.top, sums.limbs, 1, exponent)


cdef inline bint add_up_weights(const double* weight, const Py_ssize_t* order, Py_ssize_t n_rows, Py_ssize_t n_per_row,
                                WeightSums* sums,  # OUT
                                Interrupt* interrupt) noexcept nogil:
    """The sums of the rows with these numbers, or of the first ones, in the mode there is.

    True if a signal handler raised.
    """
    cdef Py_ssize_t p, q, first, n_kept = 0
    cdef double largest = 0
    cdef bint empty
    cdef Pieces piece
    memset(sums, 0, sizeof(WeightSums))
    sums.scale = 1
    sums.bad = -1
    sums.top = EMPTY_TOP
    start_rows(&piece, interrupt, n_rows, n_per_row, 2.0 * MEMORY_FLOPS)
    while piece.n:
        for p in range(piece.row, piece.row + piece.n_rows):
            empty = True
            first = (p if order == NULL else order[p]) * n_per_row
            for q in range(first, first + n_per_row):
                if not (weight[q] >= 0 and isfinite(weight[q])):
                    sums.bad = q
                    return False
                empty = empty and weight[q] == 0
                largest = max(largest, weight[q])
                add_to_bins(weight[q], &sums.top, sums.limbs, 1)
            n_kept += not empty
        if next_piece(&piece):
            return True
    sums.largest, sums.n_kept = largest, n_kept
    set_scale_and_total(sums)
    return False
