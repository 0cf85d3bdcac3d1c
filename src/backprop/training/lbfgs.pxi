# L-BFGS: D. Liu, J. Nocedal, On the limited memory BFGS method for large scale optimization, Math. Programming 45
# (1989).
# Needs: vectors, line_search, evaluation. Gives: LBFGS (to Python), minimize_by_lbfgs.
#
# The solver asks for losses and gradients, and is told them. Between two iterations its state is theta, the loss and
# its gradient there, and the last pairs s = theta_{k+1} - theta_k, y = grad_{k+1} - grad_k: what it does next depends
# on these alone, so a run that stops there and goes on later has the bits of one run.

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


cdef struct LbfgsState:
    const KernelTable* kernels   # of float64
    Py_ssize_t n                 # entries of theta
    Py_ssize_t n_kept            # pairs that there is room for
    Py_ssize_t n_pairs           # pairs that are there
    Py_ssize_t newest            # the number of the last pair
    Py_ssize_t n_iter
    Py_ssize_t n_evaluations
    int phase
    int n_stalls                 # iterations since the loss became smaller
    double noise                 # a relative difference of losses that says nothing
    double loss                  # at theta
    LineSearch search
    double* theta                # (n), the last that was accepted
    double* direction            # (n)
    double* trial                # (n)
    double* low_gradient         # (n), at the best step of the search
    double* gradient             # (n), at theta
    double* new_s                # (n), right behind it
    double* new_y                # (n), right behind it
    double* s                    # (n_kept, n)
    double* y                    # (n_kept, n), right behind s
    double* rho                  # (n_kept): 1 / s.y
    double* alpha                # (n_kept)
    double* G                    # (2 n_kept, 2 n_kept): products of the rows of s and y
    double* of_gradient          # (2 n_kept): their products with the gradient
    double* factors              # (2 n_kept): direction is their sum with these factors, and a multiple of the gradient
    double* products             # (2 n_kept, 3): with the gradient, new_s and new_y


cdef double product_with(const LbfgsState* state, Py_ssize_t row, double of_gradient) noexcept nogil:
    """The product of a row of s or y with the direction, from its factors and that of the gradient."""
    cdef const double* G = state.G + 2 * state.n_kept * row
    cdef double total = of_gradient * state.of_gradient[row]
    cdef Py_ssize_t i, p
    for i in range(state.n_pairs):
        p = (state.newest + state.n_kept - i) % state.n_kept
        total += state.factors[p] * G[p] + state.factors[state.n_kept + p] * G[state.n_kept + p]
    return total


cdef void set_direction(LbfgsState* state) noexcept nogil:
    """direction = -H gradient, by the two loops over the pairs.

    The loops run on the factors of its sum: W. Chen, Z. Wang, J. Zhou, Large-scale L-BFGS using MapReduce, NeurIPS
    (2014). So the pairs are read once here, and once when their products are taken.
    """
    cdef Py_ssize_t n = state.n, m = state.n_kept, k, i, p
    cdef double of_gradient = -1, scale
    if state.n_pairs == 0:
        for k in range(n):
            state.direction[k] = -state.gradient[k]
        return
    memset(state.factors, 0, 2 * m * sizeof(double))
    for i in range(state.n_pairs):
        p = (state.newest + m - i) % m
        state.alpha[p] = state.rho[p] * product_with(state, p, of_gradient)
        state.factors[m + p] = -state.alpha[p]
    p = state.newest
    scale = 1 / (state.rho[p] * state.G[(m + p) * (2 * m + 1)])
    of_gradient = -scale
    for k in range(2 * m):
        state.factors[k] = scale * state.factors[k]
    for i in range(state.n_pairs - 1, -1, -1):
        p = (state.newest + m - i) % m
        state.factors[p] = state.alpha[p] - state.rho[p] * product_with(state, m + p, of_gradient)
    state.kernels.hidden_sum(1, n, 2 * m, state.factors, 2 * m, state.s, n, NULL, state.direction, n, OVERWRITE, NULL)
    add_multiple(state.kernels, n, of_gradient, state.gradient, state.direction)


cdef void take_products(LbfgsState* state, Py_ssize_t n_new) noexcept nogil:
    """The products of all rows with the gradient, and with the newest pair if n_new is 3 and not 1."""
    cdef Py_ssize_t m = state.n_kept, p = state.newest, r
    state.kernels.forward_product(2 * m, state.n, n_new, state.s, state.n, state.gradient, NULL, PACKED, NULL,
                                  state.products, n_new, OVERWRITE)
    for r in range(2 * m):
        state.of_gradient[r] = state.products[r * n_new]
        if n_new == 3:
            state.G[r * 2 * m + p] = state.G[p * 2 * m + r] = state.products[r * 3 + 1]
            state.G[r * 2 * m + m + p] = state.G[(m + p) * 2 * m + r] = state.products[r * 3 + 2]


cdef int lbfgs_ask(LbfgsState* state) noexcept nogil:
    """Set trial, whose loss is to be told: EVALUATE; or NO_PROGRESS."""
    cdef double slope, t
    if state.phase == AT_START:
        memcpy(state.trial, state.theta, state.n * sizeof(double))
        return EVALUATE
    while state.phase == AT_THETA:
        set_direction(state)
        slope = inner_product(state.kernels, state.n, state.gradient, state.direction)
        t = 1 if state.n_pairs > 0 else min(1.0, 1 / sqrt(-slope))
        if slope < 0 and not isinf(slope) and step_to(state.n, state.theta, t, state.direction, state.trial):
            start_search(&state.search, state.loss, slope, t, state.noise)
            state.phase = SEARCHING
        elif state.n_pairs > 0:
            state.n_pairs = 0
        else:
            state.phase = AT_END
    return EVALUATE if state.phase == SEARCHING else NO_PROGRESS


cdef int accept_trial(LbfgsState* state, double loss, const double* gradient) noexcept nogil:
    """trial becomes theta, and the pair of this step is kept."""
    cdef Py_ssize_t n = state.n, p = (state.newest + 1) % state.n_kept, k
    cdef double product
    for k in range(n):
        state.new_s[k] = state.trial[k] - state.theta[k]
        state.new_y[k] = gradient[k] - state.gradient[k]
    memcpy(state.theta, state.trial, n * sizeof(double))
    memcpy(state.gradient, gradient, n * sizeof(double))
    product = inner_product(state.kernels, n, state.new_s, state.new_y)
    if (product > 2.0 ** -52 * inner_product(state.kernels, n, state.new_y, state.new_y)
            and not isinf(1 / product)):
        memcpy(state.s + p * n, state.new_s, n * sizeof(double))
        memcpy(state.y + p * n, state.new_y, n * sizeof(double))
        state.rho[p] = 1 / product
        state.newest = p
        state.n_pairs = min(state.n_pairs + 1, state.n_kept)
        take_products(state, 3)
    elif state.n_pairs > 0:
        take_products(state, 1)
    state.n_stalls = 0 if loss < state.loss else state.n_stalls + 1
    state.loss = loss
    state.n_iter += 1
    state.phase = AT_END if state.n_stalls >= MOST_STALLS else AT_THETA
    return ITERATED


cdef int lbfgs_tell(LbfgsState* state, double loss, const double* gradient) noexcept nogil:
    """Take loss and gradient at trial; EVALUATE if there is a new trial, else what has been reached."""
    cdef LineSearch* search = &state.search
    cdef int found
    state.n_evaluations += 1
    if state.phase == AT_START:
        state.loss = loss
        memcpy(state.gradient, gradient, state.n * sizeof(double))
        if not isfinite(loss) or not isfinite(largest_magnitude(state.n, gradient)):
            return NOT_FINITE
        state.phase = AT_THETA
        return ITERATED
    found = go_on_searching(search, loss, inner_product(state.kernels, state.n, gradient, state.direction))
    if found == ACCEPTED_STEP:
        return accept_trial(state, loss, gradient)
    if found == GO_ON_FROM_HERE or found == NO_STEP_BUT_THIS:
        memcpy(state.low_gradient, gradient, state.n * sizeof(double))
    if found == GO_ON or found == GO_ON_FROM_HERE:
        if step_to(state.n, state.theta, search.t, state.direction, state.trial):
            return EVALUATE
    if search.low > 0 and search.low_loss < state.loss:  # not quite what Wolfe asks for, but better
        step_to(state.n, state.theta, search.low, state.direction, state.trial)
        return accept_trial(state, search.low_loss, state.low_gradient)
    if state.n_pairs > 0:  # once more, along the gradient
        state.n_pairs = 0
        state.phase = AT_THETA
        return lbfgs_ask(state)
    state.phase = AT_END
    return NO_PROGRESS


cdef bint has_converged(const LbfgsState* state, double tol) noexcept nogil:
    """Whether the gradient at theta is small enough."""
    return largest_magnitude(state.n, state.gradient) <= tol


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
            if has_converged(state, tol):
                answer[0] = CONVERGED
                return DONE
            if n_losses[0] >= max_iter:
                answer[0] = OUT_OF_ITERATIONS
                return DONE
        answer[0] = lbfgs_ask(state)
        while answer[0] == EVALUATE:
            status = evaluate(e, state.trial, &loss, gradient, interrupt)
            if status != DONE:
                return status
            if is_stopped(interrupt, (4.0 * state.n_pairs + 10) * MEMORY_FLOPS * state.n):
                return RAISED
            answer[0] = lbfgs_tell(state, loss, gradient)
        if answer[0] != ITERATED:
            return DONE
        if state.n_evaluations > 1:
            losses[n_losses[0]] = state.loss
            n_losses[0] += 1


cdef inline Py_ssize_t doubles_of_lbfgs(Py_ssize_t n, Py_ssize_t n_kept) noexcept nogil:
    """The length of a solver's memory."""
    return (7 + 2 * n_kept) * n + (12 + 4 * n_kept) * n_kept


@cython.auto_pickle(False)
cdef class LBFGS:
    """A minimizer of a function of a float64 vector, which asks for values.

    `ask` gives the theta at which loss and gradient are to be told by `tell`. theta, loss and gradient are those of
    the last accepted point. One thread may use it at a time.
    """

    cdef LbfgsState state
    cdef double* memory
    cdef Py_ssize_t n_doubles

    def __cinit__(self, const double[::1] theta not None, Py_ssize_t n_kept=10, double noise=2.0 ** -50):
        cdef LbfgsState* state = &self.state
        cdef Py_ssize_t n = theta.shape[0]
        cdef double* at
        if n_kept < 1:
            raise ValueError(f"n_kept: expected at least 1, got {n_kept}")
        self.n_doubles = doubles_of_lbfgs(n, n_kept)
        self.memory = <double*>calloc(self.n_doubles + 1, sizeof(double))
        if self.memory == NULL:
            raise MemoryError("the pairs of vectors of L-BFGS do not fit into memory")
        state.kernels = kernel_table(sizeof(double))
        state.n = n
        state.n_kept = n_kept
        state.newest = n_kept - 1
        state.noise = noise
        at = self.memory
        state.theta, state.direction, state.trial, state.low_gradient = at, at + n, at + 2 * n, at + 3 * n
        state.gradient, state.new_s, state.new_y = at + 4 * n, at + 5 * n, at + 6 * n
        state.s, state.y = at + 7 * n, at + (7 + n_kept) * n
        state.rho = at + (7 + 2 * n_kept) * n
        state.alpha = state.rho + n_kept
        state.of_gradient = state.alpha + n_kept
        state.factors = state.of_gradient + 2 * n_kept
        state.products = state.factors + 2 * n_kept
        state.G = state.products + 6 * n_kept
        if n:
            memcpy(state.theta, &theta[0], n * sizeof(double))

    def __dealloc__(self):
        free(self.memory)

    def ask(self):
        """The theta (n,) whose loss and gradient are asked for, or None if there is no progress."""
        cdef uint64_t mode = enter_default_mode()
        cdef int answer = lbfgs_ask(&self.state)
        leave_default_mode(mode, self.memory)
        return copy_of(self.state.n, self.state.trial) if answer == EVALUATE else None

    def tell(self, double loss, const double[::1] gradient not None):
        """Take loss and gradient there; the name of an answer: "evaluate" if `ask` has a new theta."""
        cdef uint64_t mode
        cdef int answer
        cdef double none = 0
        if gradient.shape[0] != self.state.n:
            raise ValueError(f"gradient: expected shape ({self.state.n},), got ({gradient.shape[0]},)")
        if self.state.phase == AT_END or self.state.phase == AT_THETA:
            raise RuntimeError("tell: expected a call of ask before it, got none")
        mode = enter_default_mode()
        answer = lbfgs_tell(&self.state, loss, &gradient[0] if self.state.n else &none)
        leave_default_mode(mode, self.memory)
        return ANSWERS[answer]

    def has_converged(self, double tol):
        """Whether the largest entry of the gradient at theta is at most tol."""
        return self.state.phase != AT_START and has_converged(&self.state, tol)

    def forget_search(self):
        """Go back to the last accepted theta, if a search was broken off."""
        if self.state.phase == SEARCHING:
            self.state.phase = AT_THETA

    @property
    def theta(self):
        """(n,), the last accepted point."""
        return copy_of(self.state.n, self.state.theta)

    @property
    def gradient(self):
        """(n,), there."""
        return copy_of(self.state.n, self.state.gradient)

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

    def __reduce__(self):
        cdef LbfgsState* state = &self.state
        cdef tuple numbers = (state.n_pairs, state.newest, state.n_iter, state.n_evaluations,
                              AT_THETA if state.phase == SEARCHING else state.phase, state.n_stalls, state.loss)
        return lbfgs_of, (state.n, state.n_kept, state.noise, numbers, copy_of(self.n_doubles, self.memory))


ANSWERS = ("evaluate", "iterated", "converged", "max_iter", "no progress", "not finite")


def lbfgs_of(Py_ssize_t n, Py_ssize_t n_kept, double noise, numbers, const double[::1] memory not None):
    """The solver of a pickle."""
    cdef LBFGS solver
    cdef LbfgsState* state
    if n < 0 or n_kept < 1 or memory.shape[0] != doubles_of_lbfgs(n, n_kept):
        raise ValueError(f"the state of L-BFGS: expected the vectors of {n_kept} pairs, got {memory.shape[0]} numbers")
    solver = LBFGS(new_vector(n), n_kept, noise)
    state = &solver.state
    (state.n_pairs, state.newest, state.n_iter, state.n_evaluations, state.phase, state.n_stalls,
     state.loss) = numbers
    if not (0 <= state.n_pairs <= n_kept and 0 <= state.newest < n_kept and AT_START <= state.phase <= AT_END
            and state.phase != SEARCHING):
        raise ValueError("the state of L-BFGS: expected what a solver has written, got other numbers")
    memcpy(solver.memory, &memory[0], solver.n_doubles * sizeof(double))
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
