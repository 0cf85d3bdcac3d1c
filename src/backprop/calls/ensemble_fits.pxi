# Fits of many networks of one shape in one call without the GIL: a network is a task of the pool, and has the bits of a
# fit of its own.
# Needs: calls/ensemble, epochs, training; schedule/threads. Gives: fit_networks, run_epochs_of_networks.
#
# The memory that a fit needs besides its state is that of a thread. If a signal handler forks, the child has no
# workers: what they were at is torn there. So a thread keeps a copy of the state of the network that it is at.

cdef enum:
    MOST_SPANS = 4
    RUNS_IN_SIGHT = 16           # iterations or epochs that are expected, if more are allowed: for the threads alone


cdef struct Span:
    # Memory in which the state of a network lies.
    char* address
    Py_ssize_t n_bytes


cdef struct FitMemory:
    # What a thread needs for the network that it is at.
    Py_ssize_t network           # its number in the run, or -1
    char* gradient               # (n_params,) of the networks' dtype
    char* before                 # its state before this run
    double* work                 # (2, n_params), of full batches
    double* of_solver            # (n_free,), of full batches
    char* both                   # (n_params + 1, n_params), of lm
    double* H                    # (n_free, n_free), of lm
    double* L                    # (n_free, n_free), of lm


cdef struct FitRun


cdef struct FitRun:
    # Some networks that are fitted side by side, numbered from 0 in this run.
    int (*fit)(FitRun* run, Py_ssize_t j, FitMemory* memory, int n_threads, Interrupt* interrupt) noexcept nogil
    int (*set_spans)(const FitRun* run, Py_ssize_t j, Span* spans) noexcept nogil  # their number
    const Shape* shape
    Request* requests            # of all samples of each network
    Py_ssize_t n_networks
    FitMemory* memory            # one a thread
    char* block                  # in which its buffers lie
    Py_ssize_t state_bytes       # of the network with the largest state
    int* has_ended               # one a network
    int status                   # DONE, or why a network did not get to its end
    Interrupt* interrupt
    # Full batches:
    Request* equations           # of lm: normal_equations, one a network; else NULL
    void** states                # LbfgsState or LmState
    Evaluation evaluation        # what it is for all
    double tol
    Py_ssize_t max_iter
    double* losses               # (n_networks, max_iter)
    Py_ssize_t* n_losses
    int* answers
    # Epochs:
    Solver solver                # of the first network of all
    Epochs epochs                # of the first network of this run
    const Py_ssize_t* networks   # their numbers among all
    Py_ssize_t n_batches         # of an epoch
    Py_ssize_t* n_done           # batches


cdef Py_ssize_t copy_spans(const FitRun* run, Py_ssize_t j, char* before, bint back) noexcept nogil:
    """Keep the state of a network, or put it back; with before NULL count its bytes alone."""
    cdef Span[MOST_SPANS] spans
    cdef int n_spans = run.set_spans(run, j, spans), k
    cdef Py_ssize_t at = 0
    for k in range(n_spans):
        if before != NULL and back:
            memcpy(spans[k].address, before + at, spans[k].n_bytes)
        elif before != NULL:
            memcpy(before + at, spans[k].address, spans[k].n_bytes)
        at += spans[k].n_bytes
    return at


cdef void fit_network(FitRun* run, Py_ssize_t j, FitMemory* memory, int n_threads, Interrupt* interrupt) noexcept nogil:
    """Fit network j, unless some network has failed already."""
    cdef int status
    if load_int(&run.status) != DONE or has_raised(interrupt):
        return
    copy_spans(run, j, memory.before, False)
    store_size(&memory.network, j)
    status = run.fit(run, j, memory, n_threads, interrupt)
    store_int(&run.has_ended[j], 1)
    store_size(&memory.network, -1)
    if status != DONE:
        store_int(&run.status, status)


cdef void fit_task(void* context, Py_ssize_t j, int worker) noexcept nogil:
    """Network j, on one thread."""
    cdef FitRun* run = <FitRun*>context
    cdef Interrupt own
    fit_network(run, j, &run.memory[worker], 1, interrupt_of_thread(run.interrupt, worker, &own))


cdef int run_fits(FitRun* run, int n_threads) noexcept nogil:
    """All networks, side by side, or if there are fewer than threads, one after another, each on all threads."""
    cdef Py_ssize_t j
    cdef int status = DONE, w
    if n_threads > 1 and n_threads <= run.n_networks:
        status = share_out(run.n_networks, fit_task, run, n_threads, run.interrupt)
        for w in range(n_threads):
            j = load_size(&run.memory[w].network)
            if j >= 0 and not load_int(&run.has_ended[j]):  # the worker is lost
                copy_spans(run, j, run.memory[w].before, True)
        n_threads = 1
    if status == DONE or status == LOST:
        for j in range(run.n_networks):
            if not load_int(&run.has_ended[j]):
                fit_network(run, j, &run.memory[0], n_threads, run.interrupt)
                signal_is_pending(run.interrupt)  # a short fit does not look itself
    return RAISED if has_raised(run.interrupt) else run.status


# Memory of threads ----------------------------------------------------------------------------------------------------

cdef inline char* next_bytes(char* block, Py_ssize_t* at, Py_ssize_t n_bytes) noexcept nogil:
    """So many bytes of a block, in lines of a cache that no other thread writes to; at NULL, their number alone."""
    cdef char* first = NULL if block == NULL else block + at[0]
    at[0] += (n_bytes + 63) // 64 * 64
    return first


cdef Py_ssize_t lay_out_memory(const FitRun* run, FitMemory* memory, char* block) noexcept nogil:
    """Set the pointers of a thread's memory; return its length."""
    cdef Py_ssize_t n_params = run.shape.n_params, n = run.evaluation.n_free, at = 0
    memory.network = -1
    memory.gradient = next_bytes(block, &at, n_params * run.shape.itemsize)
    memory.before = next_bytes(block, &at, run.state_bytes)
    if run.states != NULL:
        memory.work = <double*>next_bytes(block, &at, 2 * n_params * sizeof(double))
        memory.of_solver = <double*>next_bytes(block, &at, n * sizeof(double))
    if run.equations != NULL:
        memory.both = next_bytes(block, &at, (n_params + 1) * n_params * run.shape.itemsize)
        memory.H = <double*>next_bytes(block, &at, n * n * sizeof(double))
        memory.L = <double*>next_bytes(block, &at, n * n * sizeof(double))
    return at


cdef int start_fits(FitRun* run, Py_ssize_t n_networks, double n_runs, int* n_threads) except -1:
    """Allocate what the threads need, as many as the work is worth; free_fits frees it, also after an exception."""
    cdef FitMemory one
    cdef Py_ssize_t n_bytes, k, n_memories
    cdef double n_samples = n_runs * n_networks * run.requests[0].n_samples
    run.n_networks = n_networks
    n_threads[0] = useful_threads(run.shape, <Py_ssize_t>min(n_samples, 1e15), n_threads[0])
    n_memories = n_threads[0] if n_threads[0] <= n_networks else 1
    for k in range(n_networks):
        run.state_bytes = max(run.state_bytes, copy_spans(run, k, NULL, False))
    n_bytes = lay_out_memory(run, &one, NULL)
    run.has_ended = <int*>calloc(n_networks, sizeof(int))
    run.memory = <FitMemory*>calloc(n_memories, sizeof(FitMemory))
    run.block = <char*>calloc(n_memories, n_bytes)
    if run.has_ended == NULL or run.memory == NULL or run.block == NULL:
        raise MemoryError("the buffers of the threads of a fit do not fit into memory")
    for k in range(n_memories):
        lay_out_memory(run, &run.memory[k], run.block + k * n_bytes)
    return 0


cdef void free_fits(FitRun* run) noexcept:
    """What start_fits and its callers have allocated."""
    free(run.block)
    free(run.memory)
    free(run.has_ended)
    free(run.requests)
    free(run.equations)
    free(run.states)
    free(<void*>run.solver.runs)


cdef int run_started_fits(FitRun* run, int n_threads) except -1:
    """Without the GIL; the exception of a fit that did not get to its end."""
    cdef Interrupt interrupt
    cdef int status
    run.interrupt = &interrupt
    with nogil:
        reset_interrupt(&interrupt, False, True)
        interrupt.callers_mode = enter_default_mode()
        status = run_fits(run, n_threads)
        leave_default_mode(interrupt.callers_mode, run.memory)
    if status != DONE:
        raise_for(status)
    return 0


# Full batches ---------------------------------------------------------------------------------------------------------

cdef int set_spans_of_solver(const FitRun* run, Py_ssize_t j, Span* spans) noexcept nogil:
    """The state of lbfgs or lm, and the parameters."""
    cdef LbfgsState* lbfgs = <LbfgsState*>run.states[j]
    cdef LmState* lm = <LmState*>run.states[j]
    spans[0].address = <char*>run.requests[j].params
    spans[0].n_bytes = run.shape.n_params * run.shape.itemsize
    spans[1].address = <char*>run.states[j]
    if run.equations == NULL:
        spans[1].n_bytes = sizeof(LbfgsState)
        spans[2].address, spans[2].n_bytes = vectors_of_lbfgs(lbfgs), bytes_of_lbfgs(lbfgs)
    else:
        spans[1].n_bytes = sizeof(LmState)
        spans[2].address, spans[2].n_bytes = <char*>lm.theta, DOUBLES_OF_LM * lm.n * sizeof(double)
    return 3


cdef int fit_by_solver(FitRun* run, Py_ssize_t j, FitMemory* memory, int n_threads,
                       Interrupt* interrupt) noexcept nogil:
    """Up to max_iter iterations of a network; its parameters are the last accepted point, always."""
    cdef Evaluation e = run.evaluation
    cdef Equations equations
    cdef LbfgsState* lbfgs = <LbfgsState*>run.states[j]
    cdef LmState* lm = <LmState*>run.states[j]
    cdef double* losses = run.losses + j * run.max_iter
    cdef double* H
    cdef double* L
    cdef int status
    e.request = run.requests[j]
    e.params = <char*>e.request.params
    e.gradient = memory.gradient
    e.work = memory.work
    e.n_threads = n_threads
    if run.equations == NULL:
        e.request.grad = memory.gradient
        status = minimize_by_lbfgs(lbfgs, &e, run.tol, run.max_iter, memory.of_solver, losses, &run.n_losses[j],
                                   &run.answers[j], interrupt)
        expand(&e, lbfgs.theta, lbfgs.kernels.itemsize)
        return status
    equations.request = run.equations[j]
    equations.request.grad = equations.both = memory.both
    equations.divisor = e.request.divisor / e.request.weight_scale
    H, L = lm.H, lm.L
    lm.H, lm.L = memory.H, memory.L
    forget_equations(lm)
    status = minimize_by_lm(lm, &e, &equations, run.tol, run.max_iter, memory.of_solver, losses, &run.n_losses[j],
                            &run.answers[j], interrupt)
    forget_equations(lm)
    lm.H, lm.L = H, L
    expand(&e, lm.theta, sizeof(double))
    return status


cdef int fit_networks(const Shape* shape, list solvers, const Py_ssize_t[::1] networks, cnp.ndarray params,
                      cnp.ndarray x, cnp.ndarray y, weights, const Py_ssize_t[::1] free_params, double l2, double tol,
                      double[:, ::1] losses, Py_ssize_t[::1] n_losses, int[::1] answers, int n_threads) except -1:
    """Up to so many iterations as losses has room for, of the networks with these numbers."""
    cdef Py_ssize_t n = networks.shape[0], n_networks = len(solvers), j, m
    cdef bint is_lm = n_networks > 0 and isinstance(solvers[0], LevenbergMarquardt)
    cdef Call of_loss = CALLS["loss"], of_equations = CALLS["normal_equations"]
    cdef char* theta
    cdef FitRun run
    memset(&run, 0, sizeof(FitRun))
    expect_networks(shape, networks, params, x, n_networks)
    if losses.shape[0] != n or n_losses.shape[0] != n or answers.shape[0] != n:
        raise ValueError(f"losses, n_losses, answers: expected a row for each of {n} networks, got others")
    if n == 0:
        return 0
    run.fit, run.set_spans, run.shape = fit_by_solver, set_spans_of_solver, shape
    run.tol, run.max_iter = tol, losses.shape[1]
    run.losses, run.n_losses, run.answers = &losses[0, 0] if run.max_iter else NULL, &n_losses[0], &answers[0]
    try:
        run.requests = <Request*>calloc(n, sizeof(Request))
        run.states = <void**>calloc(n, sizeof(void*))
        if is_lm:
            run.equations = <Request*>calloc(n, sizeof(Request))
        if run.requests == NULL or run.states == NULL or (is_lm and run.equations == NULL):
            raise MemoryError("the list of the networks of a fit does not fit into memory")
        for j in range(n):
            m = networks[j]
            theta = cnp.PyArray_BYTES(params) + m * shape.n_params * shape.itemsize
            n_losses[j], answers[j] = 0, EVALUATE
            if is_lm:
                run.states[j] = &(<LevenbergMarquardt?>solvers[m]).state
                set_what_is_free(&run.evaluation, shape, free_params, l2, (<LmState*>run.states[j]).n)
                accept_network(&run.requests[j], shape, &of_loss.mode, theta, x, y, weights, m, n_networks)
                accept_network(&run.equations[j], shape, &of_equations.mode, theta, x, y, weights, m, n_networks)
            else:
                run.states[j] = &(<LBFGS?>solvers[m]).state
                set_what_is_free(&run.evaluation, shape, free_params, l2, (<LbfgsState*>run.states[j]).n)
                accept_network(&run.requests[j], shape, mode_of_value_and_grad, theta, x, y, weights, m, n_networks)
        start_fits(&run, n, min(<Py_ssize_t>RUNS_IN_SIGHT, run.max_iter + 1), &n_threads)
        run_started_fits(&run, n_threads)
    finally:
        free_fits(&run)
    return 0


cdef int expect_networks(const Shape* shape, const Py_ssize_t[::1] networks, cnp.ndarray params, cnp.ndarray x,
                         Py_ssize_t n_networks) except -1:
    """Refuse numbers of networks that there are not, or that come twice, and arrays of others."""
    cdef Py_ssize_t j
    for j in range(networks.shape[0]):
        if not (networks[j - 1] if j else -1) < networks[j] < n_networks:
            raise ValueError(f"networks: expected numbers below {n_networks} in ascending order, got others")
    expect(rule_of_array(shape, params, dtype_of(shape), b"kp", 0, n_networks), "params")
    return expect_x_of_networks(shape, x, n_networks)


# Epochs ---------------------------------------------------------------------------------------------------------------

cdef Solver solver_of_network(const FitRun* run, Py_ssize_t j) noexcept nogil:
    """The solver, with the state of a network."""
    cdef Solver solver = run.solver
    solver.moments += run.networks[j] * (2 if solver.method == ADAM else 1) * run.shape.n_params * run.shape.itemsize
    solver.progress += run.networks[j] * 3
    return solver


cdef int set_spans_of_epochs(const FitRun* run, Py_ssize_t j, Span* spans) noexcept nogil:
    """The state of adam or sgd, and the parameters."""
    cdef Solver solver = solver_of_network(run, j)
    spans[0].address = <char*>run.requests[j].params
    spans[0].n_bytes = run.shape.n_params * run.shape.itemsize
    spans[1].address = solver.moments
    spans[1].n_bytes = (2 if solver.method == ADAM else 1) * run.shape.n_params * run.shape.itemsize
    spans[2].address, spans[2].n_bytes = <char*>solver.progress, 3 * sizeof(double)
    return 3


cdef int fit_by_epochs(FitRun* run, Py_ssize_t j, FitMemory* memory, int n_threads,
                       Interrupt* interrupt) noexcept nogil:
    """The epochs of a network."""
    cdef Solver solver = solver_of_network(run, j)
    cdef Epochs epochs = run.epochs
    cdef Request data = run.requests[j]
    data.grad = memory.gradient
    epochs.data = &data
    if epochs.orders != NULL:
        epochs.orders += j * epochs.n_epochs * epochs.n_used
    epochs.rates += j * epochs.n_epochs
    epochs.losses += j * epochs.n_epochs * run.n_batches
    epochs.totals += j * epochs.n_epochs * run.n_batches
    return run_epochs(&epochs, &solver, n_threads, interrupt, &run.n_done[j])


cdef int run_epochs_of_networks(const Shape* shape, const Py_ssize_t[::1] networks, cnp.ndarray params, cnp.ndarray x,
                                cnp.ndarray y, weights, const Py_ssize_t[:, :, ::1] orders, Py_ssize_t batch_size,
                                const double[:, ::1] rates, cnp.ndarray moments, double[:, ::1] progress,
                                double[:, :, ::1] losses, double[:, :, ::1] totals, Py_ssize_t[::1] n_done,
                                cnp.ndarray free_, int n_threads, dict settings) except -1:
    """The epochs of the networks with these numbers; moments and progress are of all, the rest of these."""
    cdef Py_ssize_t n = networks.shape[0], n_epochs = rates.shape[1], j, e
    cdef Py_ssize_t n_networks = cnp.PyArray_DIM(moments, 0) if cnp.PyArray_NDIM(moments) else 0
    cdef Py_ssize_t n_samples = cnp.PyArray_DIM(x, 1 if cnp.PyArray_NDIM(x) == 3 else 0)
    cdef Py_ssize_t n_used = n_samples if orders is None else orders.shape[2]
    cdef FitRun run
    memset(&run, 0, sizeof(FitRun))
    expect_networks(shape, networks, params, x, n_networks)
    if n == 0:
        return 0
    if n_epochs < 1 or n_used < 1 or batch_size < 1 or n_samples < 1:
        raise ValueError("x, orders, batch_size, rates: expected at least one row and one rate, got none")
    run.n_batches = (n_used + batch_size - 1) // batch_size
    if (rates.shape[0] != n or n_done.shape[0] != n or progress.shape[0] != n_networks
            or (orders is not None and (orders.shape[0] != n or orders.shape[1] != n_epochs))):
        raise ValueError(f"orders, rates, n_done, progress: expected those of {n} networks of {n_networks} and "
                         f"{n_epochs} epochs, got others")
    if (losses.shape[0] != n or losses.shape[1] != n_epochs or losses.shape[2] != run.n_batches
            or totals.shape[0] != n or totals.shape[1] != n_epochs or totals.shape[2] != run.n_batches):
        raise ValueError(f"losses, totals: expected shape ({n}, {n_epochs}, {run.n_batches}), got others")
    if orders is not None:
        for j in range(n):
            check_order(orders[j], n_samples)
    set_solver(&run.solver, shape, {**SETTINGS, **settings}, moments, n_networks)
    if progress.shape[1] != 3:
        raise ValueError(f"progress: expected shape ({n_networks}, 3), got ({n_networks}, {progress.shape[1]})")
    run.solver.progress = &progress[0, 0]
    run.fit, run.set_spans, run.shape, run.networks = fit_by_epochs, set_spans_of_epochs, shape, &networks[0]
    run.epochs.orders = NULL if orders is None else &orders[0, 0, 0]
    run.epochs.stops = True
    run.epochs.n_epochs, run.epochs.n_used, run.epochs.batch_size = n_epochs, n_used, batch_size
    run.epochs.rates, run.epochs.losses, run.epochs.totals = &rates[0, 0], &losses[0, 0, 0], &totals[0, 0, 0]
    run.n_done = &n_done[0]
    try:
        set_free_runs(&run.solver, shape, free_)
        run.requests = <Request*>calloc(n, sizeof(Request))
        if run.requests == NULL:
            raise MemoryError("the list of the networks of a fit does not fit into memory")
        for j in range(n):
            n_done[j] = 0
            accept_network(&run.requests[j], shape, mode_of_value_and_grad,
                           cnp.PyArray_BYTES(params) + networks[j] * shape.n_params * shape.itemsize, x, y, weights,
                           networks[j], n_networks)
        start_fits(&run, n, min(<Py_ssize_t>RUNS_IN_SIGHT, n_epochs), &n_threads)
        run_started_fits(&run, n_threads)
    finally:
        free_fits(&run)
    return 0
