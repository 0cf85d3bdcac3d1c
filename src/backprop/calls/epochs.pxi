# Epochs of mini-batches by Adam or gradient descent, in one call without the GIL. A batch is rows by number.
# Needs: calls/request, inspect, accepted; training/steps; schedule/run. Gives: run_epochs, accepted_epochs.

cdef struct Epochs:
    # The batches of some epochs.
    const Request* data          # of all rows; grad is memory for a batch's gradient
    const Py_ssize_t* orders     # (n_epochs, n_used): numbers of rows; NULL: all rows as they lie
    Py_ssize_t n_epochs, n_used, batch_size
    const double* rates          # (n_epochs,)
    bint stops                   # before a step by a loss or a gradient that is not finite
    double* losses               # (n_epochs, batches): OUT, each at the parameters before its step
    double* penalties            # (n_epochs, batches): OUT; NULL: the losses are with them
    double* totals               # (n_epochs, batches): OUT, the sum of a batch's weights


cdef bint take_batch(const Request* data, const Py_ssize_t* order, Py_ssize_t first, Py_ssize_t n,
                     Request* batch, double* total,  # OUT
                     Interrupt* interrupt) noexcept nogil:
    """The request for n rows, by number or from `first` on, and the sum of their weights; true if a handler raised.

    It is the request of `value_and_grad` for copies of these rows.
    """
    cdef const Shape* shape = data.shape
    cdef Py_ssize_t n_in = shape.sizes[0], n_out = shape.sizes[shape.n_layers]
    cdef const char* y = data.y
    cdef const Py_ssize_t* labels = data.labels
    cdef const double* weight = data.weight
    cdef WeightSums sums
    start_request(batch, shape, data.mode, data.params, data.x, n)
    batch.x_source, batch.y_source, batch.grad = data.x_source, data.y_source, data.grad
    batch.loss_cap = data.loss_cap
    if order != NULL:
        batch.order = order + first
    else:
        batch.x = rows_of_source(data.x, &data.x_source, first, n_in * shape.itemsize)
        if y != NULL:
            y = rows_of_source(y, &data.y_source, first, n_out * shape.itemsize)
        if labels != NULL:
            labels = <const Py_ssize_t*>rows_of_source(<const char*>labels, &data.y_source, first, sizeof(Py_ssize_t))
        if weight != NULL:
            weight += first * weights_per_row(data)
    total[0] = n
    if weight != NULL:
        if add_up_weights(weight, batch.order, n, weights_per_row(data), &sums, interrupt):
            return True
        set_weights(batch, weight, data.weight_kind, &sums)
        total[0] = sums.total / sums.scale if sums.n_kept else 0
    set_targets(batch, y, labels)
    return False


cdef int run_batch(const Request* batch, Solver* solver, double rate, double total, int n_threads, bint stops,
                   Interrupt* interrupt,
                   double* loss, double* penalty_,              # OUT; with penalty_ NULL the loss is with the penalty
                   bint* is_done) noexcept nogil:               # OUT: no, if it stops
    """The loss of a batch and its penalty, and a step."""
    cdef const Shape* shape = batch.shape
    cdef double l2 = l2_of_batch(solver, total), added, factor
    cdef int status = run_any(batch, n_threads, interrupt, loss)
    if status != DONE:
        return status
    added = penalty(shape, batch.params, l2)
    factor = factor_of_clipping(solver, shape, batch.params, batch.grad, l2)
    is_done[0] = not stops or isfinite(loss[0] + added) and has_usable_gradient(solver, shape, batch.grad, factor)
    if penalty_ == NULL:
        loss[0] += added
    else:
        penalty_[0] = added
    if is_done[0]:
        take_step(solver, shape, rate, l2, factor, n_threads, batch.grad, <char*>batch.params)
    return DONE


cdef int run_epochs(const Epochs* epochs, Solver* solver, int n_threads, Interrupt* interrupt,
                    Py_ssize_t* n_done) noexcept nogil:  # OUT
    """One batch after another, in the default floating-point mode; a batch without weight makes no step.

    n_done counts the batches that are done. With epochs.stops it ends before the step of a batch whose loss or
    gradient is not finite. The parameters and the state are those after the last whole step, however it ends.
    """
    cdef const Request* data = epochs.data
    cdef const Shape* shape = data.shape
    cdef Py_ssize_t e, first, n
    cdef const Py_ssize_t* order = NULL
    cdef double work = 0, work_of_row = 6.0 * shape.n_params + FLOPS_A_UNIT * shape.n_units
    cdef bint is_done
    cdef Request batch
    cdef int status
    n_done[0] = 0
    for e in range(epochs.n_epochs):
        if epochs.orders != NULL:
            order = epochs.orders + e * epochs.n_used
        first = 0
        while first < epochs.n_used:
            n = min(epochs.batch_size, epochs.n_used - first)
            if take_batch(data, order, first, n, &batch, &epochs.totals[n_done[0]], interrupt):
                return RAISED
            is_done = True
            epochs.losses[n_done[0]] = 0
            if epochs.penalties != NULL:
                epochs.penalties[n_done[0]] = 0
            if batch.n_kept:
                status = run_batch(&batch, solver, epochs.rates[e], epochs.totals[n_done[0]], n_threads, epochs.stops,
                                   interrupt, &epochs.losses[n_done[0]],
                                   NULL if epochs.penalties == NULL else &epochs.penalties[n_done[0]], &is_done)
                if status != DONE:
                    return status
            if not is_done:
                return DONE
            n_done[0] += 1
            first += n
            work += n * (work_of_row + MEMORY_FLOPS * shape.sizes[0]) + <double>MEMORY_FLOPS * shape.n_params
            if work > LOOK_FLOPS:  # batches that do not count themselves are short
                work = 0
                if signal_is_pending(interrupt):
                    return RAISED
    return DONE


# From Python's arguments ----------------------------------------------------------------------------------------------

# Of a solver's settings, those that may be left out.
cdef dict SETTINGS = {
    "betas": (0.9, 0.999), "epsilon": 1e-8, "corrects_epsilon": True, "weight_decay": 0.0, "momentum": 0.9,
    "is_nesterov": True, "l2": 0.0, "divides_l2": False, "max_norm": None,
}


cdef int set_solver(Solver* solver, const Shape* shape, dict settings, cnp.ndarray moments,
                    Py_ssize_t n_networks) except -1:
    """The solver of `Plan.run_epochs`, without runs and progress. Its moments are those of the first network.

    moments (n_networks, rows, n_params) may leave out the first axis for one network.
    """
    cdef Py_ssize_t n_rows = 2
    cdef int n_axes
    memset(solver, 0, sizeof(Solver))
    if settings["method"] == "adam":
        solver.method = ADAM
        solver.beta_1, solver.beta_2 = settings["betas"]
        solver.epsilon, solver.corrects_epsilon = settings["epsilon"], settings["corrects_epsilon"]
        solver.weight_decay = settings["weight_decay"]
    elif settings["method"] == "sgd":
        n_rows = 1
        solver.method = SGD
        solver.momentum, solver.is_nesterov = settings["momentum"], settings["is_nesterov"]
    else:
        raise ValueError(f"method: expected 'adam' or 'sgd', got {settings['method']!r}")
    solver.l2, solver.divides_l2 = settings["l2"], settings["divides_l2"]
    solver.max_norm = 0 if settings["max_norm"] is None else settings["max_norm"]
    n_axes = cnp.PyArray_NDIM(moments)
    if (n_axes not in (2, 3) or cnp.PyArray_DIM(moments, n_axes - 1) != shape.n_params
            or cnp.PyArray_DIM(moments, n_axes - 2) != n_rows
            or n_networks != (cnp.PyArray_DIM(moments, 0) if n_axes == 3 else 1)
            or rule_of_form(moments, dtype_of(shape)) or not cnp.PyArray_ISWRITEABLE(moments)):
        raise ValueError(f"moments: expected a writable array ({n_rows}, {shape.n_params}) of the network's dtype for "
                         f"each of {n_networks} networks, got {moments.dtype} {(<object>moments).shape}")
    solver.moments = cnp.PyArray_BYTES(moments)
    return 0


cdef int check_order(const Py_ssize_t[:, ::1] orders, Py_ssize_t n_samples) except -1:
    """Refuse numbers of rows that there are not."""
    cdef Py_ssize_t e, k
    cdef bint is_bad = False
    cdef Interrupt interrupt
    cdef Pieces p
    with nogil:
        reset_interrupt(&interrupt, False, True)
        start_rows(&p, &interrupt, orders.shape[0], orders.shape[1], MEMORY_FLOPS)
        while p.n and not is_bad:
            for e in range(p.row, p.row + p.n_rows):
                for k in range(orders.shape[1]):
                    is_bad = is_bad or not 0 <= orders[e, k] < n_samples
            if next_piece(&p):
                break
    raise_for_signal(&interrupt)
    if is_bad:
        raise ValueError(f"orders: expected numbers of rows from 0 to {n_samples - 1}, got others")
    return 0


cdef int set_free_runs(Solver* solver, const Shape* shape, cnp.ndarray free_) except -1:
    """The runs of free parameters, by their mask or all. The caller frees them."""
    cdef const uint8_t* mask = NULL
    cdef bint by_kind = solver.l2 != 0
    cdef Run* runs
    if free_ is not None:
        expect(OTHER_FORM if not cnp.PyArray_ISBOOL(free_) else rule_of_shape(shape, free_, b"p", 0, 1), "free")
        expect(rule_of_form(free_, cnp.NPY_BOOL), "free")
        mask = <const uint8_t*>cnp.PyArray_DATA(free_)
    solver.n_runs = set_runs(shape, mask, by_kind, NULL)
    runs = <Run*>calloc(solver.n_runs + 1, sizeof(Run))
    if runs == NULL:
        raise MemoryError("the list of free parameters does not fit into memory")
    set_runs(shape, mask, by_kind, runs)
    solver.runs = runs
    return 0


cdef Py_ssize_t accepted_epochs(const Shape* shape, Parameters params, cnp.ndarray x, cnp.ndarray y, weights,
                                const Py_ssize_t[:, ::1] orders, Py_ssize_t batch_size, const double[::1] rates,
                                cnp.ndarray moments, double[::1] progress, double[:, ::1] losses,
                                double[:, ::1] totals, double[:, ::1] penalties, cnp.ndarray free_, int n_threads,
                                bint stops, loss_cap, dict settings) except -1:
    """The epochs of `Plan.run_epochs`, with arrays that Python has accepted; the number of batches done."""
    cdef Request data
    cdef Solver solver
    cdef Epochs epochs
    cdef Interrupt interrupt
    cdef cnp.ndarray grad
    cdef Py_ssize_t n_done = 0, n_batches
    cdef cnp.npy_intp n_params = shape.n_params
    cdef int status
    expect_parameters(shape, params, 1)
    accept_samples(&data, shape, mode_of_value_and_grad, view_of(shape, params, 0, 1, &n_params), x)
    accept_targets(&data, y, weights, 1, False)
    set_solver(&solver, shape, settings, moments, 1)
    if progress.shape[0] != 3:
        raise ValueError(f"progress: expected shape (3,), got ({progress.shape[0]},)")
    solver.progress = &progress[0]
    epochs.data = &data
    epochs.orders = NULL
    epochs.n_epochs, epochs.n_used, epochs.batch_size = rates.shape[0], data.n_samples, batch_size
    if orders is not None:
        check_order(orders, data.n_samples)
        epochs.n_used = orders.shape[1]
    if (epochs.n_epochs < 1 or epochs.n_used < 1 or batch_size < 1 or data.n_samples < 1
            or (orders is not None and orders.shape[0] != epochs.n_epochs)):
        raise ValueError("x, orders, batch_size, rates: expected at least one row, and an order for each rate")
    n_batches = (epochs.n_used + batch_size - 1) // batch_size
    if (losses.shape[0] != epochs.n_epochs or losses.shape[1] != n_batches or totals.shape[0] != epochs.n_epochs
            or totals.shape[1] != n_batches):
        raise ValueError(f"losses, totals: expected shape ({epochs.n_epochs}, {n_batches})")
    epochs.penalties = NULL
    if penalties is not None:
        if penalties.shape[0] != epochs.n_epochs or penalties.shape[1] != n_batches:
            raise ValueError(f"penalties: expected shape ({epochs.n_epochs}, {n_batches})")
        epochs.penalties = &penalties[0, 0]
    epochs.stops = stops
    data.loss_cap = 0 if loss_cap is None else loss_cap
    if loss_cap is not None and not data.loss_cap > 0:
        raise ValueError(f"loss_cap: expected None or a number above 0, got {loss_cap}")
    grad = new_array(shape, b"p", 0, 1, dtype_of(shape))
    if grad is None:
        raise MemoryError("the gradient of a batch does not fit into memory")
    data.grad = cnp.PyArray_BYTES(grad)
    if orders is not None:
        epochs.orders = &orders[0, 0]
    epochs.rates, epochs.losses, epochs.totals = &rates[0], &losses[0, 0], &totals[0, 0]
    set_free_runs(&solver, shape, free_)
    with nogil:
        reset_interrupt(&interrupt, False, False)
        data.n_samples = min(batch_size, epochs.n_used)
        interrupt.is_counting = may_take_long(&data, 1)
        interrupt.callers_mode = enter_default_mode()
        status = run_epochs(&epochs, &solver, n_threads, &interrupt, &n_done)
        leave_default_mode(interrupt.callers_mode, params.address)
    free(<void*>solver.runs)
    if status != DONE:
        raise_for(status)
    return n_done
