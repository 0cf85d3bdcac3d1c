# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# A step of Adam or of gradient descent with momentum: what the solver keeps, which parameters move, and how far.
# Needs: recursion/shape, kernels/table, process/pool. Gives: Method, Solver, Run, set_runs, penalty,
# factor_of_clipping, has_usable_gradient, take_step.

from libc.float cimport DBL_MAX, DBL_MIN, FLT_MAX, FLT_MIN
from libc.math cimport isinf, sqrt
from libc.stdint cimport uint8_t

from backprop.process.pool cimport Lease, pool_acquire, pool_release, pool_run
from backprop.recursion.shape cimport Shape

cdef enum:
    STEP_ENTRIES = 65536         # parameters that a task moves: about 0.1 ms


cdef enum Method:
    ADAM
    SGD


cdef struct Run:
    # Parameters side by side that are moved alike.
    Py_ssize_t first, n
    bint are_weights             # on which l2 acts; it does not act on biases


cdef struct Solver:
    # How a solver moves the parameters, and where its state lies.
    int method                   # Method
    double beta_1, beta_2        # of Adam
    double epsilon
    bint corrects_epsilon        # whether it is added to the corrected sqrt(v) (Kingma and Ba's algorithm 1)
    double weight_decay          # decoupled, of Adam; it acts on biases too
    double momentum              # of gradient descent
    bint is_nesterov
    double l2                    # the penalty l2 / 2 ||W||^2
    bint divides_l2              # by the sum of the batch's weights
    double max_norm              # to which a batch's gradient is clipped; 0: it is not
    const Run* runs              # of the free parameters
    Py_ssize_t n_runs
    char* moments                # (2, n_params): m and v of Adam; (1, n_params): the velocity
    double* progress             # (3,): steps so far, and the powers of beta_1 and beta_2 by so many


cdef inline double l2_of_batch(const Solver* solver, double total) noexcept nogil:
    """The factor of the penalty of a batch whose weights add up to so much."""
    return solver.l2 / total if solver.divides_l2 else solver.l2


cdef inline Py_ssize_t set_runs(const Shape* shape, const uint8_t* free_, bint by_kind, Run* runs) noexcept nogil:
    """The runs of free parameters, in order; weights and biases are runs of their own if by_kind.

    free_ is a mask (n_params,), or NULL if all are free. With runs NULL they are counted alone.
    """
    cdef Py_ssize_t i, p, end, n_runs = 0, last = -2
    cdef bint are_weights, were_weights = False
    for i in range(1, 2 * shape.n_layers + 1):
        are_weights = i % 2 == 1
        if are_weights:
            p, end = shape.layers[(i + 1) // 2].W, shape.layers[(i + 1) // 2].b
        else:
            p = shape.layers[i // 2].b
            end = shape.n_params * shape.itemsize if i == 2 * shape.n_layers else shape.layers[i // 2 + 1].W
        p, end = p // shape.itemsize, end // shape.itemsize
        while p < end:
            if free_ != NULL and not free_[p]:
                p += 1
                continue
            if p != last + 1 or by_kind and are_weights != were_weights:
                if runs != NULL:
                    runs[n_runs].first, runs[n_runs].n, runs[n_runs].are_weights = p, 0, by_kind and are_weights
                n_runs += 1
            if free_ == NULL:  # all of W_i or b_i
                if runs != NULL:
                    runs[n_runs - 1].n += end - p
                p = end
            else:
                if runs != NULL:
                    runs[n_runs - 1].n += 1
                p += 1
            last, were_weights = p - 1, are_weights
    return n_runs


cdef inline double penalty(const Shape* shape, const char* params, double l2) noexcept nogil:
    """l2 / 2 times the squares of all weights, layer by layer."""
    cdef double[5] sums          # of four parts and the rest: a single chain of additions takes three times as long
    cdef double total = 0
    cdef Py_ssize_t i, k, n, part
    if l2 == 0:
        return 0
    for i in range(1, shape.n_layers + 1):
        n = shape.layers[i].n_in * shape.layers[i].n_out
        part = n // 32 * 8
        shape.kernels.square_sums(4, part, params + shape.layers[i].W, part, sums)
        shape.kernels.square_sums(1, n - 4 * part, params + shape.layers[i].W + 4 * part * shape.itemsize, 0, &sums[4])
        for k in range(5):
            total += sums[k]
    return 0.5 * l2 * total


cdef inline double norm_of_gradient(const Solver* solver, const Shape* shape, const char* params, const char* grad,
                                    double l2, double scale) noexcept nogil:
    """scale times the norm of the gradient by the free parameters, that of the penalty included."""
    cdef const Run* run
    cdef double square = 0
    cdef Py_ssize_t k
    for k in range(solver.n_runs):
        run = &solver.runs[k]
        square += shape.kernels.penalized_squares(run.n, grad + run.first * shape.itemsize,
                                                  params + run.first * shape.itemsize, scale,
                                                  scale * l2 if run.are_weights else 0)
    return sqrt(square)


cdef inline double factor_of_clipping(const Solver* solver, const Shape* shape, const char* params, const char* grad,
                                      double l2) noexcept nogil:
    """What brings the gradient by the free parameters, that of the penalty included, to max_norm if it is longer.

    A NaN stays a NaN.
    """
    cdef double scale = 1, norm
    if solver.max_norm == 0:
        return 1
    norm = norm_of_gradient(solver, shape, params, grad, l2, scale)
    if isinf(norm):  # squares of entries above 1e154 are infinite
        scale = 2.0 ** -540
        norm = norm_of_gradient(solver, shape, params, grad, l2, scale)
    return solver.max_norm / norm * scale if norm > solver.max_norm * scale else 1


cdef inline bint has_usable_gradient(const Solver* solver, const Shape* shape, const char* grad,
                                     double factor) noexcept nogil:
    """Whether the gradient by all free parameters is finite, and for Adam the squares of what is clipped.

    A finite loss may have one that is not. A parameter whose v is infinite would never move again.
    """
    cdef double bound = FLT_MAX if shape.itemsize == 4 else DBL_MAX
    cdef const Run* run
    cdef Py_ssize_t k
    if solver.method == ADAM:
        bound = min(bound, 0.99 * sqrt(bound) / factor)
    for k in range(solver.n_runs):
        run = &solver.runs[k]
        if shape.kernels.any_above(run.n, grad + run.first * shape.itemsize, bound):
            return False
    return True


cdef struct Move:
    # A step, as all of its parameters make it.
    const Solver* solver
    const Shape* shape
    const Run* run               # the one that is moved
    double factor, l2, rate, epsilon, decay
    const char* grad
    char* params


cdef inline void move_entries(const Move* move, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """Move n parameters of the run, from its entry `first` on."""
    cdef const Solver* solver = move.solver
    cdef const Shape* shape = move.shape
    cdef Py_ssize_t p = move.run.first + first, start = p * shape.itemsize
    cdef double l2 = move.l2 if move.run.are_weights else 0
    if solver.method == ADAM:
        shape.kernels.adam_step(n, move.grad + start, move.factor, l2, solver.beta_1, solver.beta_2, move.rate,
                                move.epsilon, move.decay, move.params + start, solver.moments + start,
                                solver.moments + shape.n_params * shape.itemsize + start)
    else:
        shape.kernels.sgd_step(n, move.grad + start, move.factor, l2, solver.momentum, move.rate, solver.is_nesterov,
                               move.params + start, solver.moments + start)


cdef inline void move_task(void* context, Py_ssize_t index, int worker) noexcept nogil:
    """A part of a long run."""
    cdef const Move* move = <const Move*>context
    cdef Py_ssize_t first = index * STEP_ENTRIES
    move_entries(move, first, min(<Py_ssize_t>STEP_ENTRIES, move.run.n - first))


cdef inline void take_step(const Solver* solver, const Shape* shape, double rate, double l2, double factor,
                           int n_threads,
                           const char* grad,               # IN
                           char* params) noexcept nogil:   # IN and OUT, as is the state
    """Move the free parameters against factor times the gradient of a batch plus that of its penalty.

    It is a whole step or none: no signal handler runs meanwhile. Threads share long runs.
    """
    cdef Move move
    cdef Lease lease
    cdef double root
    cdef Py_ssize_t k
    move.solver, move.shape, move.grad, move.params = solver, shape, grad, params
    move.factor, move.l2 = factor, l2
    move.rate, move.epsilon, move.decay = rate, solver.epsilon, rate * solver.weight_decay
    solver.progress[0] += 1
    if solver.method == ADAM:
        solver.progress[1] *= solver.beta_1
        solver.progress[2] *= solver.beta_2
        root = sqrt(1 - solver.progress[2])
        move.rate = rate * root / (1 - solver.progress[1])
        if solver.corrects_epsilon:
            move.epsilon *= root
        move.epsilon = max(move.epsilon, FLT_MIN if shape.itemsize == 4 else DBL_MIN)  # no 0 / 0 without a gradient
    for k in range(solver.n_runs):
        move.run = &solver.runs[k]
        if n_threads == 1 or move.run.n < 2 * STEP_ENTRIES:
            move_entries(&move, 0, move.run.n)
        else:
            pool_acquire(&lease, n_threads)
            pool_run(&lease, (move.run.n + STEP_ENTRIES - 1) // STEP_ENTRIES, move_task, &move, NULL, NULL)
            pool_release(&lease)
