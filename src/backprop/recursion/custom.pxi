# Activations of the user's own: C functions run as they are, NumPy functions with the GIL, on the caller's thread.
# Needs: process/pieces, gil, float_mode; recursion/shape, reals. Gives: custom_activation.

ctypedef double (*ScalarFunction)(double a) noexcept nogil

cdef enum Derivative:
    VALUE
    FIRST
    SECOND
    THIRD


ctypedef int (*NumpyActivation)(const Layer* layer, Py_ssize_t itemsize, Derivative which, Py_ssize_t n_rows,
                                const char* a, char* result, Py_ssize_t ld, uint64_t callers_mode) noexcept nogil


cdef int custom_activation(const Layer* layer, Py_ssize_t itemsize, Derivative which, Py_ssize_t n_rows, const char* a,
                           char* result, Py_ssize_t ld, Interrupt* interrupt) noexcept nogil:
    """result = g(a) or a derivative of it, in float64; nonzero if a signal handler or a NumPy function raised.

    result may be a. The functions find the floating-point unit as the caller of the network has set it: they are the
    caller's code, and may rely on that.
    """
    cdef ScalarFunction function = <ScalarFunction>layer.c_functions[<int>which]
    cdef bint changes_mode = not is_default_mode(interrupt.callers_mode)
    cdef double value
    cdef Py_ssize_t s, j, start
    cdef NumpyActivation call_numpy
    cdef int raised
    cdef Pieces p
    if function == NULL:
        start_rows(&p, interrupt, n_rows, layer.n_out, OWN_NUMPY_FLOPS)
    else:
        start_entries(&p, interrupt, n_rows, layer.n_out, OWN_C_FLOPS)
    while p.n:
        start = place(&p, ld, itemsize)
        if function == NULL:
            take_gil()
            # Called as one that raises nothing, so that what it raised waits for the end of the call. Caught here, it
            # would crash if the memory for its traceback is missing (Cython 3.3.1).
            call_numpy = <NumpyActivation><void*>numpy_activation
            raised = call_numpy(layer, itemsize, which, p.n_rows, a + start, result + start, ld, interrupt.callers_mode)
            enter_default_mode()  # it raised, or has set another one
            give_gil()
            if raised:
                return stop(interrupt)
        else:
            for s in range(p.row, p.row + p.n_rows):
                for j in range(p.column, p.column + p.n):
                    value = get_real(a, s * ld + j, itemsize)
                    if changes_mode:  # float32 is converted and rounded outside
                        leave_default_mode(interrupt.callers_mode, &value)
                    value = function(value)
                    if changes_mode:
                        enter_default_mode()
                    set_real(result, s * ld + j, itemsize, value)
            enter_default_mode()  # the function has set another one
        if next_piece(&p):
            return 1
    return 0


cdef int numpy_activation(const Layer* layer, Py_ssize_t itemsize, Derivative which, Py_ssize_t n_rows, const char* a,
                          char* result, Py_ssize_t ld, uint64_t callers_mode) except 1:
    """The same by a NumPy function."""
    cdef cnp.npy_intp shape[2]
    cdef cnp.ndarray argument, value
    cdef double* numbers
    cdef Py_ssize_t s, j, n = layer.n_out
    shape[0] = n_rows
    shape[1] = n
    argument = cnp.PyArray_EMPTY(2, shape, cnp.NPY_FLOAT64, 0)
    numbers = <double*>cnp.PyArray_DATA(argument)
    for s in range(n_rows):
        for j in range(n):
            numbers[s * n + j] = get_real(a, s * ld + j, itemsize)
    leave_default_mode(callers_mode, NULL)
    returned = (<object>layer.functions)[<int>which](argument)
    enter_default_mode()
    value = cnp.PyArray_FROMANY(returned, cnp.NPY_FLOAT64, 0, 0, cnp.NPY_ARRAY_CARRAY_RO)
    if cnp.PyArray_NDIM(value) != 2 or value.shape[0] != n_rows or value.shape[1] != n:
        got = (<object>value).shape
        raise ValueError(f"a custom activation: expected a result of shape ({n_rows}, {n}), got {got}")
    numbers = <double*>cnp.PyArray_DATA(value)
    for s in range(n_rows):
        for j in range(n):
            set_real(result, s * ld + j, itemsize, numbers[s * n + j])
    return 0
