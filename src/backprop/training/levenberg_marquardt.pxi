# Levenberg-Marquardt on the normal equations: D. Marquardt, J. SIAM 11 (1963); H. Nielsen, Damping parameter in
# Marquardt's method, report IMM-REP-1999-05 (1999), for the damping; J. More, The Levenberg-Marquardt algorithm (1978),
# for its scale.
# Needs: vectors, cholesky, evaluation, lbfgs. Gives: LevenbergMarquardt (to Python), minimize_by_lm.
#
# Near theta the loss is loss + gradient.p + p.H p / 2, with the Gauss-Newton matrix H. A step p solves
# (H + damping diag(scale)) p = -gradient, with scale_k the largest H_kk so far. The gain ratio, the fall of the loss
# over the one that was predicted, says whether the step is taken and how the damping changes. Between two iterations
# the state is theta, the loss, the damping and its scale, so a run that stops there and goes on later has the bits of
# one run.

cdef enum LmPhase:
    LM_AT_START                  # neither the loss nor the equations at theta are known
    LM_AT_NEW_THETA              # the equations are not
    LM_AT_THETA                  # both are
    LM_TRYING                    # the loss at trial is not known
    LM_AT_END                    # no step makes the loss smaller

cdef enum:
    DOUBLES_OF_LM = 7            # for each entry of theta: a solver's memory but for its matrices
    MOST_POLISHING = 4           # steps in a row of which the loss cannot say whether they are good


cdef struct LmState:
    const KernelTable* kernels   # of float64
    Py_ssize_t n                 # entries of theta
    Py_ssize_t n_iter
    Py_ssize_t n_evaluations
    int phase
    int n_stalls                 # iterations since the loss became smaller
    double noise                 # a relative difference of losses that says nothing
    double loss                  # at theta
    double damping
    double growth                # of the damping, if the next step is not taken
    double predicted             # fall of the loss
    double* theta                # (n), the last that was accepted
    double* gradient             # (n), there
    double* scale                # (n)
    double* direction            # (n)
    double* trial                # (n)
    double* damped               # (n): damping times scale
    double* column               # (n), of no use after a factorization
    double* H                    # (n, n), its lower triangle
    double* L                    # (n, n), its lower triangle


cdef void raise_damping(LmState* state) noexcept nogil:
    """A step was not good."""
    state.damping *= state.growth
    state.growth *= 2


cdef int lm_ask(LmState* state, Interrupt* interrupt, bint* was_stopped) noexcept nogil:
    """Set trial, whose loss is to be told: EVALUATE; or NO_PROGRESS."""
    cdef Py_ssize_t n = state.n, k
    cdef double* p = state.direction
    cdef int factors
    was_stopped[0] = False
    while state.phase == LM_AT_THETA:
        for k in range(n):
            state.scale[k] = max(state.scale[k], state.H[k * n + k])
            state.damped[k] = state.damping * (state.scale[k] if state.scale[k] > 0 else 1)
            p[k] = -state.gradient[k]
        if not state.damping < 2.0 ** 100:
            state.phase = LM_AT_END
            break
        factors = factorize(state.kernels, n, state.H, state.damped, state.L, state.column, interrupt)
        if factors == STOPPED:
            was_stopped[0] = True
            return NO_PROGRESS
        if factors == NOT_POSITIVE:
            raise_damping(state)
            continue
        solve(state.kernels, n, state.L, p)
        if not step_to(n, state.theta, 1, p, state.trial):
            state.phase = LM_AT_END
            break
        for k in range(n):
            state.column[k] = state.damped[k] * p[k] - state.gradient[k]
        state.predicted = 0.5 * inner_product(state.kernels, n, p, state.column)
        state.phase = LM_TRYING
    return EVALUATE if state.phase == LM_TRYING else NO_PROGRESS


cdef int lm_tell(LmState* state, double loss) noexcept nogil:
    """Take the loss at trial; ITERATED if trial has become theta, else EVALUATE: ask again."""
    cdef double fall = state.loss - loss, ratio = fall / state.predicted, lost = state.noise * fabs(state.loss)
    cdef bint is_noise = fabs(fall) <= lost and state.predicted <= lost
    state.n_evaluations += 1
    if not isfinite(loss) or not isfinite(ratio) or (is_noise and state.n_stalls >= MOST_POLISHING):
        ratio = -1
    elif is_noise:
        ratio = 1
    if not ratio > 0:
        raise_damping(state)
        state.phase = LM_AT_END if is_noise and state.n_stalls >= MOST_POLISHING else LM_AT_THETA
        return NO_PROGRESS if state.phase == LM_AT_END else EVALUATE
    ratio = 2 * ratio - 1
    state.damping = max(state.damping * max(1.0 / 3, 1 - ratio * ratio * ratio), 2.0 ** -80)
    state.growth = 2
    state.n_stalls = state.n_stalls + 1 if is_noise else 0
    memcpy(state.theta, state.trial, state.n * sizeof(double))
    state.loss = loss
    state.n_iter += 1
    state.phase = LM_AT_NEW_THETA
    return ITERATED


cdef void forget_equations(LmState* state) noexcept nogil:
    """Have the equations at theta set again, before the next step."""
    if state.phase == LM_AT_THETA or state.phase == LM_TRYING:
        state.phase = LM_AT_NEW_THETA


cdef struct Equations:
    # The normal equations of a request.
    Request request              # into `both`, at the parameters of an evaluation
    char* both                   # (n_params + 1, n_params): the upper triangle of J^T J, and J^T r
    double divisor               # the loss is r.r / divisor


cdef int set_equations(LmState* state, Equations* equations, Evaluation* e, Interrupt* interrupt) noexcept nogil:
    """H and gradient at theta; DONE, or why there are none."""
    cdef const Shape* shape = e.request.shape
    cdef Py_ssize_t P = shape.n_params, itemsize = shape.itemsize, n = state.n, i, j, p, q, start
    cdef double factor = 2 / equations.divisor, unused = 0
    cdef double* whole = e.work
    cdef double* is_weight = e.work + P
    cdef int status
    expand(e, state.theta, sizeof(double))
    status = run_any(&equations.request, e.n_threads, interrupt, &unused)
    if status != DONE:
        return status
    for p in range(P):
        whole[p] = factor * get_real(equations.both, P * P + p, itemsize)
    if e.l2 != 0:
        add_penalty(shape, e.params, e.l2, whole, is_weight)
    memset(is_weight, 0, P * sizeof(double))
    for i in range(1, shape.n_layers + 1):
        start = shape.layers[i].W // itemsize
        for p in range(start, start + shape.layers[i].n_in * shape.layers[i].n_out):
            is_weight[p] = 1
    for i in range(n):
        p = i if e.free == NULL else e.free[i]
        state.gradient[i] = whole[p]
        for j in range(i + 1):
            q = j if e.free == NULL else e.free[j]
            state.H[i * n + j] = factor * get_real(equations.both, min(p, q) * P + max(p, q), itemsize)
        if e.l2 != 0:
            state.H[i * n + i] += e.l2 * is_weight[p]
        if is_stopped(interrupt, <double>MEMORY_FLOPS * (i + 1)):
            return RAISED
    return DONE


cdef int minimize_by_lm(LmState* state, Evaluation* e, Equations* equations, double tol, Py_ssize_t max_iter,
                        double* gradient,                                     # OUT (n), of no use afterwards
                        double* losses, Py_ssize_t* n_losses, int* answer,    # OUT: loss of each iteration
                        Interrupt* interrupt) noexcept nogil:
    """Up to max_iter iterations; DONE with an answer, or why a loss could not be computed."""
    cdef double loss = 0
    cdef int status
    cdef bint was_stopped
    n_losses[0] = 0
    if state.phase == LM_TRYING:  # a run before this one was interrupted
        state.phase = LM_AT_THETA
    while True:
        if state.phase == LM_AT_START:
            status = evaluate(e, state.theta, sizeof(double), &loss, gradient, interrupt)
            if status != DONE:
                return status
            state.n_evaluations += 1
            state.loss = loss
            if not isfinite(loss):
                answer[0] = NOT_FINITE
                return DONE
            state.phase = LM_AT_NEW_THETA
        if state.phase == LM_AT_NEW_THETA:
            status = set_equations(state, equations, e, interrupt)
            if status != DONE:
                return status
            state.phase = LM_AT_THETA
        if largest_magnitude(state.n, state.gradient) <= tol:
            answer[0] = CONVERGED
            return DONE
        if n_losses[0] >= max_iter:
            answer[0] = OUT_OF_ITERATIONS
            return DONE
        answer[0] = EVALUATE
        while answer[0] == EVALUATE:
            answer[0] = lm_ask(state, interrupt, &was_stopped)
            if was_stopped:
                return RAISED
            if answer[0] == EVALUATE:
                status = evaluate(e, state.trial, sizeof(double), &loss, gradient, interrupt)
                if status != DONE:
                    return status
                answer[0] = lm_tell(state, loss)
        if answer[0] != ITERATED:
            return DONE
        losses[n_losses[0]] = state.loss
        n_losses[0] += 1


@cython.auto_pickle(False)
cdef class LevenbergMarquardt:
    """A minimizer of half a sum of squares, or of any loss that has a Gauss-Newton matrix, which asks for values.

    `tell_start` takes the loss at theta, `tell_equations` the matrix and the gradient there. Then `ask` gives a theta,
    whose loss `tell` takes; after "iterated" the equations are asked for again. One thread may use it at a time.
    """

    cdef LmState state
    cdef double* memory          # of its vectors
    cdef double* matrices        # H and L, from the first use on

    def __cinit__(self, const double[::1] theta not None, double noise=2.0 ** -40):
        cdef LmState* state = &self.state
        cdef Py_ssize_t n = theta.shape[0]
        self.memory = <double*>calloc(DOUBLES_OF_LM * n + 1, sizeof(double))
        if self.memory == NULL:
            raise MemoryError("the vectors of Levenberg-Marquardt do not fit into memory")
        state.kernels = kernel_table(sizeof(double))
        state.n = n
        state.noise = noise
        state.damping = 1e-3
        state.growth = 2
        state.theta, state.gradient, state.scale = self.memory, self.memory + n, self.memory + 2 * n
        state.direction, state.trial, state.damped = self.memory + 3 * n, self.memory + 4 * n, self.memory + 5 * n
        state.column = self.memory + 6 * n
        if n:
            memcpy(state.theta, &theta[0], n * sizeof(double))

    def __dealloc__(self):
        free(self.memory)
        free(self.matrices)

    cdef int need_matrices(self) except -1:
        """Allocate H and L. A fit of many networks has them for each thread, not for each solver."""
        cdef Py_ssize_t n = self.state.n
        if self.matrices == NULL:
            self.matrices = <double*>calloc(2 * n * n + 1, sizeof(double))
            if self.matrices == NULL:
                raise MemoryError("the matrices of Levenberg-Marquardt do not fit into memory")
            self.state.H, self.state.L = self.matrices, self.matrices + n * n
        return 0

    def tell_start(self, double loss):
        """Take the loss at theta."""
        if self.state.phase != LM_AT_START:
            raise RuntimeError("tell_start: expected it once, at the start, got it again")
        self.state.n_evaluations += 1
        self.state.loss = loss
        if isfinite(loss):
            self.state.phase = LM_AT_NEW_THETA
        return ANSWERS[ITERATED if isfinite(loss) else NOT_FINITE]

    def tell_equations(self, const double[:, ::1] H not None, const double[::1] gradient not None):
        """Take the Gauss-Newton matrix (n, n), of which the lower triangle counts, and the gradient (n,) at theta."""
        cdef Py_ssize_t n = self.state.n
        if H.shape[0] != n or H.shape[1] != n or gradient.shape[0] != n:
            raise ValueError(f"H, gradient: expected shapes ({n}, {n}) and ({n},), got ({H.shape[0]}, {H.shape[1]}) "
                             f"and ({gradient.shape[0]},)")
        if self.state.phase == LM_AT_START:
            raise RuntimeError("tell_equations: expected a call of tell_start before it, got none")
        self.need_matrices()
        if n:
            memcpy(self.state.H, &H[0, 0], n * n * sizeof(double))
            memcpy(self.state.gradient, &gradient[0], n * sizeof(double))
        if self.state.phase != LM_AT_END:
            self.state.phase = LM_AT_THETA

    def ask(self):
        """The theta (n,) whose loss is asked for, or None if there is no progress."""
        cdef Interrupt interrupt
        cdef bint was_stopped
        cdef int answer
        if self.state.phase == LM_AT_START or self.state.phase == LM_AT_NEW_THETA:
            raise RuntimeError("ask: expected a call of tell_equations before it, got none")
        with nogil:
            reset_interrupt(&interrupt, False, True)
            interrupt.callers_mode = enter_default_mode()
            answer = lm_ask(&self.state, &interrupt, &was_stopped)
            leave_default_mode(interrupt.callers_mode, self.memory)
        raise_for_signal(&interrupt)
        return copy_of(self.state.n, self.state.trial) if answer == EVALUATE else None

    def tell(self, double loss):
        """Take the loss there; the name of an answer: "evaluate" if `ask` has a new theta."""
        cdef uint64_t mode
        cdef int answer
        if self.state.phase != LM_TRYING:
            raise RuntimeError("tell: expected a call of ask before it, got none")
        mode = enter_default_mode()
        answer = lm_tell(&self.state, loss)
        leave_default_mode(mode, &self.state)
        return ANSWERS[answer]

    def has_converged(self, double tol):
        """Whether the largest entry of the gradient at theta is at most tol."""
        return self.state.phase >= LM_AT_THETA and largest_magnitude(self.state.n, self.state.gradient) <= tol

    def forget_trial(self):
        """Go back to the last accepted theta, if a step was broken off."""
        if self.state.phase == LM_TRYING:
            self.state.phase = LM_AT_THETA

    @property
    def needs_equations(self):
        """Whether `tell_equations` is to be called next."""
        return self.state.phase == LM_AT_NEW_THETA

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
    def damping(self):
        """What the next step is damped by."""
        return self.state.damping

    @property
    def n_iter(self):
        """Accepted steps."""
        return self.state.n_iter

    @property
    def n_evaluations(self):
        """Losses that were told."""
        return self.state.n_evaluations

    def __reduce__(self):
        cdef LmState* state = &self.state
        # The equations are not kept: they are asked for again.
        cdef tuple numbers = (state.n_iter, state.n_evaluations,
                              min(state.phase, <int>LM_AT_NEW_THETA) if state.phase != LM_AT_END else LM_AT_END,
                              state.n_stalls, state.loss, state.damping, state.growth)
        return lm_of, (state.noise, numbers, copy_of(3 * state.n, self.memory))


def lm_of(double noise, numbers, const double[::1] memory not None):
    """The solver of a pickle: theta, gradient and scale."""
    cdef Py_ssize_t n = memory.shape[0] // 3
    cdef LevenbergMarquardt solver = LevenbergMarquardt(new_vector(n), noise)
    cdef LmState* state = &solver.state
    (state.n_iter, state.n_evaluations, state.phase, state.n_stalls, state.loss, state.damping,
     state.growth) = numbers
    if not LM_AT_START <= state.phase <= LM_AT_END or 3 * n != memory.shape[0]:
        raise ValueError("the state of Levenberg-Marquardt: expected what a solver has written, got other numbers")
    if n:
        memcpy(solver.memory, &memory[0], 3 * n * sizeof(double))
    return solver
