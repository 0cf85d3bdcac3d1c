# L-BFGS: D. Liu, J. Nocedal, On the limited memory BFGS method for large scale optimization, Math. Programming 45
# (1989).
# Needs: line_search, evaluation. Gives: LBFGS (to Python), minimize_by_lbfgs.
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


@cython.auto_pickle(False)
cdef class LBFGS:
    """A minimizer of a function of a vector, float64 or float32, which asks for values.

    `ask` gives the theta at which loss and gradient are to be told by `tell`. theta, loss and gradient are those of
    the last accepted point. One thread may use it at a time.
    """

    cdef LbfgsState state
    cdef char* memory
    cdef int dtype

    def __cinit__(self, cnp.ndarray theta not None, Py_ssize_t n_kept=10, noise=None):
        cdef LbfgsState* state = &self.state
        cdef Py_ssize_t itemsize, vector, n, n_slots = n_kept + 1
        cdef char* at
        cdef double* numbers
        self.dtype = cnp.PyArray_TYPE(theta)
        if (self.dtype != cnp.NPY_FLOAT64 and self.dtype != cnp.NPY_FLOAT32 or cnp.PyArray_NDIM(theta) != 1
                or not cnp.PyArray_IS_C_CONTIGUOUS(theta) or cnp.PyArray_ISBYTESWAPPED(theta)):
            raise ValueError("theta: expected a contiguous vector of float64 or float32, "
                             f"got {(<object>theta).dtype} of shape {(<object>theta).shape}")
        if not 1 <= n_kept <= 1000:
            raise ValueError(f"n_kept: expected 1 to 1000, got {n_kept}")
        itemsize = cnp.PyArray_ITEMSIZE(theta)
        state.kernels = kernel_table(itemsize)
        state.n = cnp.PyArray_DIM(theta, 0)
        state.n_filled = n = (state.n + 15) // 16 * 16
        vector = n * itemsize
        state.n_kept = n_kept
        state.newest = n_kept
        state.unit = state.unit_of_direction = 1
        state.noise = noise if noise is not None else 2.0 ** -50 if itemsize == 8 else 2.0 ** -20
        self.memory = <char*>calloc(64 + bytes_of_lbfgs(state), 1)
        if self.memory == NULL:
            raise MemoryError("the pairs of vectors of L-BFGS do not fit into memory")
        at = self.memory + (-<size_t>self.memory) % 64
        state.theta, state.gradient, state.trial = at, at + vector, at + 2 * vector
        state.new_gradient, state.low_gradient = at + 3 * vector, at + 4 * vector
        state.x = <float*>(at + 5 * vector)
        state.pairs = state.x + n
        numbers = <double*>(state.pairs + 2 * n_slots * n)
        state.units, state.of_gradient, state.rho = numbers, numbers + 2 * n_slots, numbers + 4 * n_slots
        numbers += 5 * n_slots
        state.s_y, state.y_s, state.y_y = numbers, numbers + n_slots * n_slots, numbers + 2 * n_slots * n_slots
        numbers += 3 * n_slots * n_slots
        state.along, state.alpha, state.products = numbers, numbers + 2 * n_slots, numbers + 3 * n_slots
        state.rows = <const float**>(numbers + 8 * n_slots)
        state.factors = <float*>(state.rows + 2 * n_kept)
        if state.n:
            memcpy(state.theta, cnp.PyArray_DATA(theta), state.n * itemsize)

    def __dealloc__(self):
        free(self.memory)

    def ask(self):
        """The theta (n,) whose loss and gradient are asked for, or None if there is no progress."""
        cdef uint64_t mode = enter_default_mode()
        cdef int answer = lbfgs_ask(&self.state)
        leave_default_mode(mode, self.memory)
        return self.copy(self.state.trial) if answer == EVALUATE else None

    def tell(self, double loss, const double[::1] gradient not None):
        """Take loss and gradient there; the name of an answer: "evaluate" if `ask` has a new theta."""
        cdef uint64_t mode
        cdef int answer
        cdef Py_ssize_t k
        if gradient.shape[0] != self.state.n:
            raise ValueError(f"gradient: expected shape ({self.state.n},), got ({gradient.shape[0]},)")
        if self.state.phase == AT_END or self.state.phase == AT_THETA:
            raise RuntimeError("tell: expected a call of ask before it, got none")
        mode = enter_default_mode()
        for k in range(self.state.n):
            set_real(self.state.new_gradient, k, self.state.kernels.itemsize, gradient[k])
        answer = lbfgs_tell(&self.state, loss)
        leave_default_mode(mode, self.memory)
        return ANSWERS[answer]

    def has_converged(self, double tol):
        """Whether the largest entry of the gradient at theta is at most tol."""
        return self.state.phase != AT_START and self.state.largest <= tol

    def forget_search(self):
        """Go back to the last accepted theta, if a search was broken off."""
        if self.state.phase == SEARCHING:
            self.state.phase = AT_THETA

    @property
    def theta(self):
        """(n,), the last accepted point."""
        return self.copy(self.state.theta)

    @property
    def gradient(self):
        """(n,), there."""
        return self.copy(self.state.gradient)

    @property
    def loss(self):
        """The loss there; NaN before the first."""
        return NAN if self.state.n_evaluations == 0 else self.state.loss

    @property
    def n_iter(self):
        """Accepted steps."""
        return self.state.n_iter

    @property
    def n_evaluations(self):
        """Losses that were told."""
        return self.state.n_evaluations

    cdef copy(self, const char* vector):
        """A new vector."""
        cdef cnp.npy_intp axis = self.state.n
        cdef cnp.ndarray array = cnp.PyArray_ZEROS(1, &axis, self.dtype, 0)
        memcpy(cnp.PyArray_DATA(array), vector, self.state.n * self.state.kernels.itemsize)
        return array

    cdef bytes pairs_and_numbers(self):
        """What is kept of the pairs; the room for the next one is scratch, and 0 here."""
        cdef const LbfgsState* state = &self.state
        cdef bytes kept = (<const char*>state.pairs)[:bytes_of_pairs(state)]
        cdef char* numbers = kept
        cdef Py_ssize_t n_bytes = state.n_filled * <Py_ssize_t>sizeof(float), p = next_pair(state)
        memset(numbers + p * n_bytes, 0, n_bytes)
        memset(numbers + (state.n_kept + 1 + p) * n_bytes, 0, n_bytes)
        return kept

    def __reduce__(self):
        cdef LbfgsState* state = &self.state
        cdef tuple numbers = (state.n_pairs, state.newest, state.n_iter, state.n_evaluations,
                              AT_THETA if state.phase == SEARCHING else state.phase, state.n_stalls, state.loss,
                              state.largest, state.unit)
        return lbfgs_of, (self.theta, self.gradient, state.n_kept, state.noise, numbers, self.pairs_and_numbers())


ANSWERS = ("evaluate", "iterated", "converged", "max_iter", "no progress", "not finite")


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


def lbfgs_of(cnp.ndarray theta not None, cnp.ndarray gradient not None, Py_ssize_t n_kept, double noise, numbers,
             bytes pairs not None):
    """The solver of a pickle."""
    cdef LBFGS solver = LBFGS(theta, n_kept, noise)
    cdef LbfgsState* state = &solver.state
    if (len(pairs) != bytes_of_pairs(state) or cnp.PyArray_TYPE(gradient) != solver.dtype
            or cnp.PyArray_NDIM(gradient) != 1 or cnp.PyArray_DIM(gradient, 0) != state.n
            or not cnp.PyArray_IS_C_CONTIGUOUS(gradient)):
        raise ValueError(f"the state of L-BFGS: expected {bytes_of_pairs(state)} bytes of pairs, got {len(pairs)}")
    (state.n_pairs, state.newest, state.n_iter, state.n_evaluations, state.phase, state.n_stalls,
     state.loss, state.largest, state.unit) = numbers
    if not (0 <= state.n_pairs <= n_kept and 0 <= state.newest <= n_kept and AT_START <= state.phase <= AT_END
            and state.phase != SEARCHING):
        raise ValueError("the state of L-BFGS: expected what a solver has written, got other numbers")
    memcpy(state.pairs, <const char*>pairs, len(pairs))
    memcpy(state.gradient, cnp.PyArray_DATA(gradient), cnp.PyArray_NBYTES(gradient))
    list_pairs(state, state.newest, state.n_pairs)
    set_x(state)
    return solver


cdef cnp.ndarray new_vector(Py_ssize_t n):
    """A new float64 vector of zeros."""
    cdef cnp.npy_intp axis = n
    return cnp.PyArray_ZEROS(1, &axis, cnp.NPY_FLOAT64, 0)


cdef cnp.ndarray copy_of(Py_ssize_t n, const double* numbers):
    """A new float64 vector."""
    cdef cnp.ndarray vector = new_vector(n)
    memcpy(cnp.PyArray_DATA(vector), numbers, n * sizeof(double))
    return vector
