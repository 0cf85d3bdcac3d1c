# Parts of a data set: their sums in integer bins, which add up to those of all samples in any order.
# Needs: calls/rules, request, accepted; schedule/cuts; kernels/bins. Gives: run_part, finish_parts; merge_bins,
# raise_bins (to Python).

NO_TOP = <int>EMPTY_TOP              # of a sum without addends


cdef Py_ssize_t rows_of_unit(const Shape* shape, const Mode* mode, Py_ssize_t n_kept) noexcept nogil:
    """Samples of a unit, of those that count; n_kept or more if they are all one unit."""
    return rows_of_chunk(shape, n_kept) * chunks_of_unit(shape, n_kept, mode.buffers)


cdef int check_state(Py_ssize_t n, const int8_t[::1] top, const int64_t[:, ::1] limbs) except -1:
    """Refuse arrays that do not hold the bins of n sums."""
    if top.shape[0] != n or limbs.shape[0] != N_LIMBS or limbs.shape[1] != n:
        raise ValueError(f"top, limbs: expected shapes ({n},) and ({<int>N_LIMBS}, {n}), got ({top.shape[0]},) and "
                         f"({limbs.shape[0]}, {limbs.shape[1]})")
    return 0


cdef Py_ssize_t entries_of_state(const Shape* shape, const Mode* mode) noexcept nogil:
    """The sums of a call, and its loss."""
    return 1 + (0 if mode.sums == NULL else entries_of(shape, mode.sums, 0))


cdef int run_part(const Shape* shape, const Mode* mode, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, weights,
                  int n_threads, int8_t[::1] top, int64_t[:, ::1] limbs, Py_ssize_t n_whole, cnp.ndarray operand,
                  double max_norm, cnp.ndarray grad_weight, cnp.ndarray rows, Linearization linearization,
                  cnp.ndarray free, Equation equation, cnp.ndarray equation_rows) except -1:
    """The bins of the sums of whole units."""
    cdef cnp.ndarray out = None
    cdef Py_ssize_t n_kept = cnp.PyArray_DIM(x, 0), n_rows = rows_of_unit(shape, mode, n_whole)
    cdef State state
    if is_by_sample(mode):
        raise ValueError("call: expected one whose results are sums over samples, got one that gives a row per sample")
    if weights is not None:
        _, _, _, n_kept = weights
    check_state(entries_of_state(shape, mode), top, limbs)
    if n_rows >= n_whole or n_kept > n_whole:
        raise ValueError(f"n_kept_in_all: expected more than a unit of {n_rows} rows, and at least the {n_kept} of "
                         f"this part, got {n_whole}")
    state.n, state.top, state.limbs = top.shape[0], &top[0], &limbs[0, 0]
    memset(state.top, EMPTY_TOP, state.n)
    memset(state.limbs, 0, N_LIMBS * state.n * sizeof(int64_t))
    if mode.sums != NULL:
        out = new_array(shape, mode.sums, 0, 1, dtype_of(shape))
        if out is None:
            raise MemoryError("the sums of a chunk do not fit into memory")
        memset(cnp.PyArray_DATA(out), 0, cnp.PyArray_NBYTES(out))  # tiles leave half of a symmetric matrix as it is
    if n_kept > 0:
        accepted_call(shape, mode, params, x, y, out, weights, n_threads, operand, max_norm, grad_weight, rows,
                      linearization, free, &state, n_whole, equation, equation_rows)
    return 0


cdef double finish_parts(const Shape* shape, const Mode* mode, const int8_t[::1] top, const int64_t[:, ::1] limbs,
                         Py_ssize_t n_whole, total, bint by_entry, cnp.ndarray out) except? -1:
    """The sums of all parts, divided and rounded into out; returns the loss."""
    cdef Request request
    cdef WeightSums sums
    cdef Interrupt interrupt
    cdef Py_ssize_t n = top.shape[0]
    cdef double loss
    cdef char* target = NULL
    cdef Pieces p
    check_state(entries_of_state(shape, mode), top, limbs)
    start_request(&request, shape, mode, NULL, NULL, n_whole)
    if total is not None:
        memset(&sums, 0, sizeof(WeightSums))
        sums.total, sums.scale, sums.n_kept = total, 1, n_whole
        set_weights(&request, NULL, WEIGHT_PER_ENTRY if by_entry else WEIGHT_PER_SAMPLE, &sums)
    set_targets(&request, NULL, NULL)
    if mode.sums != NULL:
        expect(rule_of_array(shape, out, dtype_of(shape), mode.sums, 0, 1), "out")
        target = cnp.PyArray_BYTES(out)
    with nogil:
        reset_interrupt(&interrupt, False, True)
        interrupt.callers_mode = enter_default_mode()
        loss = round_bins(top[n - 1], &limbs[0, n - 1], n, 0) / request.divisor
        start_entries(&p, &interrupt, 1, n - 1, 4.0 * MEMORY_FLOPS)
        while p.n:
            shape.kernels.finish_bins(p.n, &top[0] + p.column, &limbs[0, 0] + p.column, n, request.divisor,
                                      target + p.column * shape.itemsize)
            if next_piece(&p):
                break
        leave_default_mode(interrupt.callers_mode, &loss)
    raise_for_signal(&interrupt)
    return loss


def merge_bins(int8_t[::1] top, int64_t[:, ::1] limbs, const int8_t[::1] other_top, const int64_t[:, ::1] other_limbs):
    """Add the sums of a second state to those of the first."""
    cdef Py_ssize_t n = top.shape[0], k
    cdef Interrupt interrupt
    cdef Pieces p
    check_state(n, top, limbs)
    check_state(n, other_top, other_limbs)
    if n == 0:
        return
    with nogil:
        reset_interrupt(&interrupt, False, True)
        start_entries(&p, &interrupt, 1, n, 4.0 * MEMORY_FLOPS)
        while p.n:
            for k in range(p.column, p.column + p.n):
                add_bins(other_top[k], &other_limbs[0, k], n, &top[k], &limbs[0, k], n)
            if next_piece(&p):
                break
    raise_for_signal(&interrupt)


def raise_bins(int8_t[::1] top, int64_t[:, ::1] limbs, const int8_t[::1] new_top):
    """Move windows up to where others end, so that limbs can be added; no new_top may be below its top."""
    cdef Py_ssize_t n = top.shape[0], k
    cdef Interrupt interrupt
    cdef Pieces p
    check_state(n, top, limbs)
    if new_top.shape[0] != n:
        raise ValueError(f"new_top: expected shape ({n},), got ({new_top.shape[0]},)")
    if n == 0:
        return
    with nogil:
        reset_interrupt(&interrupt, False, True)
        start_entries(&p, &interrupt, 1, n, 4.0 * MEMORY_FLOPS)
        while p.n:
            for k in range(p.column, p.column + p.n):
                if new_top[k] > top[k]:
                    raise_top(new_top[k], &top[k], &limbs[0, k], n)
            if next_piece(&p):
                break
    raise_for_signal(&interrupt)
