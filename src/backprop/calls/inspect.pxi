# Looks at targets and weights for api/targets.py, which finds the words for what is wrong.
# Needs: calls/inspect, rules. Gives: expect; look_at_targets, look_at_weights, scale_and_total,
# tolerance_of_probabilities (to Python).

cdef int expect(int rule, str name) except -1:
    """Refuse an accepted array that breaks a rule by now: another thread has given it another form."""
    if rule:
        raise ValueError(f"{name}: expected an array that keeps its shape and dtype during the call, got one that "
                         "another thread has given others")
    return 0


cdef object name_of_rule(int rule):
    """The rule that values break, as api/targets.py reads it; None if they keep all."""
    if rule == BAD_LABEL:
        return "label"
    if rule == BAD_TARGET:
        return "domain"
    if rule == BAD_SUM:
        return "sum"
    if rule == BAD_WEIGHT:
        return "weight"
    return "all 0" if rule == NO_WEIGHT_ABOVE_0 else None


def look_at_targets(int loss, cnp.ndarray y not None, Py_ssize_t n_out, cnp.ndarray weight=None):
    """(rule, row, output) of the first target that breaks a rule, or None; entries of weight 0 are not looked at.

    y is (n, n_out) of float32 or float64, or labels (n,) of intp; weight is (n,) or (n, n_out). The rule is "label",
    "domain" or "sum".
    """
    cdef Targets targets
    cdef Interrupt interrupt
    cdef Py_ssize_t place = 0
    cdef int rule, dtype = cnp.NPY_INTP if cnp.PyArray_NDIM(y) == 1 else cnp.NPY_FLOAT64
    if cnp.PyArray_NDIM(y) == 2 and cnp.PyArray_ITEMSIZE(y) == 4:
        dtype = cnp.NPY_FLOAT32
    if rule_of_form(y, dtype) or (weight is not None and rule_of_form(weight, cnp.NPY_FLOAT64)):
        raise ValueError("y, weight: expected arrays as targets.py converts them, got others")
    memset(&targets, 0, sizeof(Targets))
    targets.loss, targets.itemsize = loss, cnp.PyArray_ITEMSIZE(y)
    targets.n_rows, targets.n_out = cnp.PyArray_DIM(y, 0), n_out
    if dtype == cnp.NPY_INTP:
        targets.labels = <const Py_ssize_t*>cnp.PyArray_DATA(y)
    else:
        targets.y = cnp.PyArray_BYTES(y)
    if weight is not None:
        targets.weight = <const double*>cnp.PyArray_DATA(weight)
        targets.n_weights = 1 if cnp.PyArray_NDIM(weight) == 1 else n_out
    with nogil:
        reset_interrupt(&interrupt, False, True)
        rule = rule_of_targets(&targets, &interrupt, &place)
    raise_for_signal(&interrupt)
    if rule == KEPT:
        return None
    if rule == BAD_TARGET:
        return name_of_rule(rule), place // n_out, place % n_out
    return name_of_rule(rule), place, 0


def look_at_weights(const double[::1] weight, Py_ssize_t n_per_row):
    """(rule, first bad entry or -1, largest, rows with a weight other than 0, sum of weights as top and three limbs).

    The rule that they break is "weight" or "all 0", or None. The weights of a part of a data set may all be 0.
    """
    cdef WeightSums sums
    cdef Interrupt interrupt
    cdef int rule
    with nogil:
        reset_interrupt(&interrupt, False, True)
        rule = rule_of_weights(&weight[0], weight.shape[0] // n_per_row, n_per_row, &sums, &interrupt)
    raise_for_signal(&interrupt)
    return (name_of_rule(rule), sums.bad, sums.largest, sums.n_kept, sums.top, sums.limbs[0], sums.limbs[1],
            sums.limbs[2])


def scale_and_total(double largest, int8_t top, int64_t limb_0, int64_t limb_1, int64_t limb_2):
    """The power of two that brings the largest weight near 1, and the sum of all weights times that."""
    cdef WeightSums sums
    cdef uint64_t float_mode
    memset(&sums, 0, sizeof(WeightSums))
    sums.scale, sums.largest, sums.top = 1, largest, top
    sums.limbs[0], sums.limbs[1], sums.limbs[2] = limb_0, limb_1, limb_2
    float_mode = enter_default_mode()
    set_scale_and_total(&sums)
    leave_default_mode(float_mode, &sums)
    return sums.scale, sums.total


def tolerance_of_probabilities(Py_ssize_t itemsize):
    """How far a row of probabilities may be from a sum of 1."""
    return tolerance_of_sums(itemsize)
