# The solver "lbfgs" as an object of Python: its memory, its pickles, and losses that Python tells.
# Needs: lbfgs. Gives: LBFGS, ANSWERS and lbfgs_of (to Python), new_vector, copy_of.

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
