# L-BFGS: D. Liu, J. Nocedal, On the limited memory BFGS method for large scale optimization, Math. Programming 45
# (1989).
# Needs: line_search, evaluation. Gives: LbfgsState, lbfgs_ask, lbfgs_tell, minimize_by_lbfgs, vectors_of_lbfgs,
# bytes_of_lbfgs, bytes_of_pairs.
#
# The solver asks for losses and gradients, and is told them. Between two iterations its state is theta, the loss and
# its gradient there, and the last pairs s = theta_{k+1} - theta_k, y = grad_{k+1} - grad_k with their products: what it
# does next depends on these alone, so a run that stops there and goes on later has the bits of one run.
#
# theta and gradients have the dtype of the network. The pairs and the direction are float32 on every network, with
# sums in 64 bytes of lanes: a direction with an error of 1e-7 takes as many iterations (on the problems of
# tests/support/solvers.py, Rosenbrock's function and quadratics of condition 1e4 to 1e11), and what an iteration takes
# is the time to read the pairs. Each is stored as a multiple of a power of two near its largest entry, its unit: so no
# product of float32 leaves its range. All other numbers are float64.
#
# The pairs are most of what is read: twice in an iteration, for their products with the new gradient, and for the
# direction, which is a sum of them. Products of pairs with one another are differences of the former, since y is a
# difference of gradients: R. Byrd, J. Nocedal, R. Schnabel, Math. Programming 63 (1994), section 3.

cdef enum Phase:
    AT_START                     # the loss at theta is not known
    AT_THETA                     # it is
    SEARCHING                    # the loss at trial is not known
    AT_END                       # no step makes the loss smaller

cdef enum Answer:
    EVALUATE                     # the loss at trial, please
    ITERATED                     # theta is new
    CONVERGED                    # the largest entry of the gradient is at most tol
    OUT_OF_ITERATIONS
    NO_PROGRESS                  # no step makes the loss smaller, to rounding
    NOT_FINITE                   # the loss or its gradient is inf or NaN at the start

cdef enum:
    MOST_STALLS = 5              # iterations in a row that do not make the loss smaller

cdef double FEW_DIGITS = 2.0 ** -6  # if |y|^2 is below so much of |gradient|^2, differences lose more than 3 bits


cdef struct LbfgsState:
    const KernelTable* kernels   # of the dtype of the network
    Py_ssize_t n                 # entries of theta
    Py_ssize_t n_filled          # the same in whole lines of 16; the rest is 0
    Py_ssize_t n_kept            # pairs that are kept at most
    Py_ssize_t n_pairs           # pairs that are there
    Py_ssize_t newest            # the number of the last pair, of n_kept + 1: one has room for the next pair
    Py_ssize_t n_iter
    Py_ssize_t n_evaluations
    int phase
    int n_stalls                 # iterations since the loss became smaller
    double noise                 # a relative difference of losses that says nothing; of float32 16 roundings
    double loss                  # at theta
    double largest               # entry of the gradient there
    double new_largest           # of new_gradient
    double low_largest           # of low_gradient
    double unit                  # of the gradient at theta
    double unit_of_direction
    LineSearch search
    char* theta                  # (n_filled), the last that was accepted
    char* gradient               # (n_filled), there
    char* trial                  # (n_filled), where the loss is asked for
    char* new_gradient           # (n_filled), there
    char* low_gradient           # (n_filled), at the best step of the search
    float* x                     # (n_filled): the gradient at theta, in its unit
    float* pairs                 # (2, n_kept + 1, n_filled): s and y, each in its unit
    double* units                # (2, n_kept + 1)
    double* of_gradient          # (2, n_kept + 1): products of s and y with the gradient
    double* rho                  # (n_kept + 1): 1 / s.y
    double* s_y                  # (n_kept + 1, n_kept + 1): [p, q] = s_q.y_p, for pairs q before p
    double* y_s                  # (n_kept + 1, n_kept + 1): its transpose
    double* y_y                  # (n_kept + 1, n_kept + 1)
    double* along                # (2, n_kept + 1): products of s and y with what the two loops have made
    double* alpha                # (n_kept + 1)
    double* products             # (3 + 2 n_kept)
    const float** rows           # (2 n_kept): s of all pairs, from the newest on, and y
    float* factors               # (2 n_kept)


cdef inline Py_ssize_t pair_of_age(const LbfgsState* state, Py_ssize_t age) noexcept nogil:
    """The number of a pair; the newest has age 0."""
    cdef Py_ssize_t p = state.newest - age
    return p if p >= 0 else p + state.n_kept + 1


cdef inline Py_ssize_t next_pair(const LbfgsState* state) noexcept nogil:
    """The number of the pair for which there is room."""
    return state.newest + 1 if state.newest < state.n_kept else 0


cdef inline double unit_of(const LbfgsState* state, double largest) noexcept nogil:
    """The power of two above a magnitude, as far as it and its reciprocal are numbers of the network's dtype."""
    cdef int exponent = 0, most = 100 if state.kernels.itemsize == 4 else 1000
    if not isfinite(largest) or largest == 0:
        return 1
    frexp(largest, &exponent)
    return ldexp(1, max(-most, min(exponent, most)))


cdef inline float* s_of_pair(const LbfgsState* state, Py_ssize_t p) noexcept nogil:
    return state.pairs + p * state.n_filled


cdef inline float* y_of_pair(const LbfgsState* state, Py_ssize_t p) noexcept nogil:
    return state.pairs + (state.n_kept + 1 + p) * state.n_filled


cdef inline float* direction_of(const LbfgsState* state) noexcept nogil:
    """The direction, in its unit: it becomes s of the next pair."""
    return s_of_pair(state, next_pair(state))


cdef void list_pairs(LbfgsState* state, Py_ssize_t newest, Py_ssize_t n_pairs) noexcept nogil:
    """The pairs that are there from now on."""
    cdef Py_ssize_t i, p
    state.newest = newest
    state.n_pairs = n_pairs
    for i in range(n_pairs):
        p = pair_of_age(state, i)
        state.rows[i] = s_of_pair(state, p)
        state.rows[n_pairs + i] = y_of_pair(state, p)


cdef double set_factors(LbfgsState* state) noexcept nogil:
    """The factors with which the pairs and the gradient, returned, make the direction -H gradient.

    The two loops over the pairs run on products alone: W. Chen, Z. Wang, J. Zhou, Large-scale L-BFGS using MapReduce,
    NeurIPS (2014).
    """
    cdef Py_ssize_t n_slots = state.n_kept + 1, i, p, q
    cdef double* of_s = state.along
    cdef double* of_y = state.along + n_slots
    cdef double factor, scale, largest
    memcpy(state.along, state.of_gradient, 2 * n_slots * sizeof(double))
    for i in range(state.n_pairs):  # gradient - alpha y, from the newest pair on
        p = pair_of_age(state, i)
        state.alpha[p] = factor = state.rho[p] * of_s[p]
        for q in range(n_slots):
            of_s[q] = of_s[q] - factor * state.s_y[p * n_slots + q]
            of_y[q] = of_y[q] - factor * state.y_y[p * n_slots + q]
    p = state.newest
    scale = 1 / (state.rho[p] * state.y_y[p * n_slots + p])
    largest = scale * state.unit
    for q in range(n_slots):
        of_y[q] = scale * of_y[q]
    for i in range(state.n_pairs - 1, -1, -1):  # scale times it, + factor s, from the oldest pair on
        p = pair_of_age(state, i)
        factor = state.alpha[p] - state.rho[p] * of_y[p]
        for q in range(n_slots):
            of_y[q] = of_y[q] + factor * state.y_s[p * n_slots + q]
        state.products[i] = -factor * state.units[p]
        state.products[state.n_pairs + i] = scale * state.alpha[p] * state.units[n_slots + p]
        largest = max(largest, max(fabs(state.products[i]), fabs(state.products[state.n_pairs + i])))
    state.unit_of_direction = unit_of(state, largest)
    for i in range(2 * state.n_pairs):
        state.factors[i] = <float>(state.products[i] / state.unit_of_direction)
    return -scale * state.unit / state.unit_of_direction


cdef bint set_direction(LbfgsState* state, double* slope, double* t) noexcept nogil:
    """The direction, its slope, and a first trial on it; whether that differs from theta."""
    cdef double factor = -1
    cdef bint has_changed
    t[0] = 1
    if state.n_pairs > 0:
        factor = set_factors(state)
    else:
        state.unit_of_direction = state.unit
    has_changed = state.kernels.combine(
        state.n_filled, 2 * state.n_pairs, state.rows, state.factors, state.x, factor,
        state.theta, state.unit_of_direction, direction_of(state), state.trial, slope)
    slope[0] *= state.unit * state.unit_of_direction
    if state.n_pairs == 0:
        t[0] = min(1.0, 1 / sqrt(-slope[0]))
        has_changed = step_to_trial(state, t[0])
        if not has_changed:  # a loss in a tiny unit: a step of length 1
            t[0] = 1 / sqrt(-slope[0])
            has_changed = step_to_trial(state, t[0])
    return has_changed


cdef inline bint step_to_trial(LbfgsState* state, double t) noexcept nogil:
    """trial = theta + t direction; whether it differs from theta."""
    return state.kernels.step(state.n_filled, state.theta, t * state.unit_of_direction,
                              direction_of(state), state.trial)


cdef int lbfgs_ask(LbfgsState* state) noexcept nogil:
    """Set trial, whose loss is to be told: EVALUATE; or NO_PROGRESS."""
    cdef double slope, t
    cdef bint has_changed
    if state.phase == AT_START:
        memcpy(state.trial, state.theta, state.n * state.kernels.itemsize)
        return EVALUATE
    while state.phase == AT_THETA:
        has_changed = set_direction(state, &slope, &t)
        if slope < 0 and not isinf(slope) and has_changed:
            start_search(&state.search, state.loss, slope, t, state.noise)
            state.phase = SEARCHING
        elif state.n_pairs > 0:
            state.n_pairs = 0
        else:
            state.phase = AT_END
    return EVALUATE if state.phase == SEARCHING else NO_PROGRESS


cdef void scale_products(const LbfgsState* state, const double* products, double unit,   # IN (2 n_pairs)
                         double* scaled) noexcept nogil:                                 # OUT (2, n_kept + 1)
    """Products of all pairs with a vector of this unit, as products of true values."""
    cdef Py_ssize_t n_slots = state.n_kept + 1, i, p
    for i in range(state.n_pairs):
        p = pair_of_age(state, i)
        scaled[p] = products[i] * state.units[p] * unit
        scaled[n_slots + p] = products[state.n_pairs + i] * state.units[n_slots + p] * unit


cdef void move_on(LbfgsState* state, double t, double slope, double unit) noexcept nogil:
    """x and its products at trial, t on the direction; a pair, if its curvature is positive.

    slope is that at trial, and unit that of new_gradient. s is t direction: trial - theta is the same, rounded.
    """
    cdef Py_ssize_t n_slots = state.n_kept + 1, newest = state.newest, n_pairs = state.n_pairs, q
    cdef Py_ssize_t p = next_pair(state)
    cdef double unit_y = max(state.unit, unit), curvature = t * (slope - state.search.slope), y_y
    cdef double* sums = state.products
    cdef double* before = state.along
    if curvature > -2.0 ** -20 * t * state.search.slope and isfinite(1 / curvature):
        list_pairs(state, p, min(n_pairs + 1, state.n_kept))
        state.rho[p] = 1 / curvature
        state.units[p] = t * state.unit_of_direction
        state.units[n_slots + p] = unit_y
    state.kernels.accept_step(state.n_filled, state.gradient, state.new_gradient, 1 / unit_y, 1 / unit,
                              2 * state.n_pairs, state.rows, y_of_pair(state, p), state.x, sums)
    memcpy(before, state.of_gradient, 2 * n_slots * sizeof(double))
    scale_products(state, sums + 2, unit, state.of_gradient)
    if state.newest != p:
        return
    y_y = sums[0] * unit_y * unit_y
    if y_y >= FEW_DIGITS * sums[1] * unit * unit:
        for q in range(2 * n_slots):
            before[q] = state.of_gradient[q] - before[q]
    else:
        state.kernels.row_products(state.n_filled, 2 * state.n_pairs, state.rows, y_of_pair(state, p), sums)
        scale_products(state, sums, unit_y, before)
    before[n_slots + p] = y_y
    for q in range(n_slots):  # s_p.y_p is 1 / rho_p, and not read
        state.s_y[p * n_slots + q] = state.y_s[q * n_slots + p] = before[q]
        state.y_y[p * n_slots + q] = state.y_y[q * n_slots + p] = before[n_slots + q]


cdef void set_x(LbfgsState* state) noexcept nogil:
    """x, and nothing else; into the room for the next pair goes a y of 0."""
    state.kernels.accept_step(state.n_filled, state.gradient, state.gradient, 1, 1 / state.unit, 0, NULL,
                              y_of_pair(state, next_pair(state)), state.x, state.products)


cdef int accept_trial(LbfgsState* state, double t, double loss, double slope) noexcept nogil:
    """trial, t on the direction, becomes theta, and the pair of this step is kept."""
    cdef double unit = unit_of(state, state.new_largest)
    move_on(state, t, slope, unit)
    state.theta, state.trial = state.trial, state.theta
    state.gradient, state.new_gradient = state.new_gradient, state.gradient
    state.largest = state.new_largest
    state.unit = unit
    state.n_stalls = 0 if loss < state.loss else state.n_stalls + 1
    state.loss = loss
    state.n_iter += 1
    state.phase = AT_END if state.n_stalls >= MOST_STALLS else AT_THETA
    return ITERATED


cdef int lbfgs_tell(LbfgsState* state, double loss) noexcept nogil:
    """Take loss and new_gradient at trial; EVALUATE if there is a new trial, else what has been reached."""
    cdef LineSearch* search = &state.search
    cdef double slope = state.kernels.slope(state.n_filled, state.new_gradient, 1 / state.unit, direction_of(state),
                                            &state.new_largest)
    cdef int found
    state.n_evaluations += 1
    if state.phase == AT_START:  # the direction is 0
        state.loss = loss
        state.gradient, state.new_gradient = state.new_gradient, state.gradient
        state.largest = state.new_largest
        state.unit = unit_of(state, state.largest)
        if not isfinite(loss) or not isfinite(slope):
            return NOT_FINITE
        set_x(state)
        state.phase = AT_THETA
        return ITERATED
    slope *= state.unit * state.unit_of_direction
    found = go_on_searching(search, loss, slope)
    if found == ACCEPTED_STEP:
        return accept_trial(state, search.t, loss, slope)
    if found == GO_ON_FROM_HERE or found == NO_STEP_BUT_THIS:
        state.low_gradient, state.new_gradient = state.new_gradient, state.low_gradient
        state.low_largest = state.new_largest
    if found == GO_ON or found == GO_ON_FROM_HERE:
        if step_to_trial(state, search.t):
            return EVALUATE
    if search.low > 0 and search.low_loss < state.loss:  # not quite what Wolfe asks for, but better
        step_to_trial(state, search.low)
        state.low_gradient, state.new_gradient = state.new_gradient, state.low_gradient
        state.new_largest = state.low_largest
        return accept_trial(state, search.low, search.low_loss, search.low_slope)
    if state.n_pairs > 0:  # once more, along the gradient
        state.n_pairs = 0
        state.phase = AT_THETA
        return lbfgs_ask(state)
    state.phase = AT_END
    return NO_PROGRESS


cdef int evaluate_trial(LbfgsState* state, Evaluation* e, double* loss, double* gradient,
                        Interrupt* interrupt) noexcept nogil:
    """Loss and new_gradient at trial; DONE, or why there are none. gradient (n) is of no use afterwards."""
    cdef Py_ssize_t itemsize = state.kernels.itemsize, k
    cdef int status
    if is_plain(e, itemsize):
        return evaluate_plainly(e, state.trial, loss, state.new_gradient, interrupt)
    status = evaluate(e, state.trial, itemsize, loss, gradient, interrupt)
    for k in range(state.n):
        set_real(state.new_gradient, k, itemsize, gradient[k])
    return status


cdef int minimize_by_lbfgs(LbfgsState* state, Evaluation* e, double tol, Py_ssize_t max_iter,
                           double* gradient,                                     # OUT (n), of no use afterwards
                           double* losses, Py_ssize_t* n_losses, int* answer,    # OUT: loss of each iteration
                           Interrupt* interrupt) noexcept nogil:
    """Up to max_iter iterations; DONE with an answer, or why a loss could not be computed."""
    cdef double loss = 0
    cdef int status
    n_losses[0] = 0
    if state.phase == SEARCHING:  # a run before this one was interrupted
        state.phase = AT_THETA
    while True:
        if state.phase != AT_START:
            if state.largest <= tol:
                answer[0] = CONVERGED
                return DONE
            if n_losses[0] >= max_iter:
                answer[0] = OUT_OF_ITERATIONS
                return DONE
        answer[0] = lbfgs_ask(state)
        while answer[0] == EVALUATE:
            status = evaluate_trial(state, e, &loss, gradient, interrupt)
            if status != DONE:
                return status
            if is_stopped(interrupt, (4.0 * state.n_pairs + 10) * MEMORY_FLOPS * state.n):
                return RAISED
            answer[0] = lbfgs_tell(state, loss)
        if answer[0] != ITERATED:
            return DONE
        if state.n_evaluations > 1:
            losses[n_losses[0]] = state.loss
            n_losses[0] += 1


cdef inline char* vectors_of_lbfgs(const LbfgsState* state) noexcept nogil:
    """The first of the vectors, which change places."""
    return <char*>state.x - 5 * state.n_filled * state.kernels.itemsize


cdef inline Py_ssize_t bytes_of_lbfgs(const LbfgsState* state) noexcept nogil:
    """The bytes of all vectors and numbers of a solver, from vectors_of_lbfgs on."""
    cdef Py_ssize_t n_slots = state.n_kept + 1
    return (state.n_filled * (5 * state.kernels.itemsize + (1 + 2 * n_slots) * <Py_ssize_t>sizeof(float))
            + (13 + 3 * n_slots) * n_slots * <Py_ssize_t>sizeof(double)
            + 2 * state.n_kept * <Py_ssize_t>(sizeof(float*) + sizeof(float)))


cdef inline Py_ssize_t bytes_of_pairs(const LbfgsState* state) noexcept nogil:
    """The bytes of the pairs and of the numbers behind them that are the state."""
    return <char*>state.along - <char*>state.pairs
