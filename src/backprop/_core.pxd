"""The C functions of backprop, for other extensions: ``cimport backprop``.

All but `network_of` are for use without the GIL, by many threads at once while nobody writes the parameters.

Arguments
    net             a handle from `network_of`
    n_samples       at least 1; forward does nothing where it is 0
    params          (n_params,) reals in the layout of `Network.params`, or NULL for the network's own
    x               (n_samples, n_inputs) reals
    y               (n_samples, n_outputs) reals: targets, or probabilities for cross_entropy; NULL with labels
    labels          (n_samples,) of 0..n_outputs-1, for cross_entropy alone; NULL with y
    sample_weight   (n_samples,), finite, >= 0, not all 0; or NULL: the loss is the plain mean
    grad            (n_params,) reals, overwritten; or NULL for the loss alone
    loss            one double
    y_hat           (n_samples, n_outputs) reals, overwritten
    n_threads       at least 1: at most so many threads of backprop's own pool, the calling one among them

Reals are floats or doubles, as `bytes_of_real` says: 4 or 8. Arrays are contiguous, one row after another, aligned, and
grad and y_hat apart from all the others.

A function that returns -1 has raised, with the GIL taken for that: ValueError for what Python's calls refuse too (in
the same words) and for what pointers show to be wrong, with nothing written; MemoryError, with grad or y_hat
unspecified. A thread that Python does not know gets the -1 alone. Results have the bits of Python's calls.

Signal handlers are Python code and are not run inside a call: Ctrl-C waits until the GIL is held again. Short calls, or
PyErr_CheckSignals every now and then (on the main thread), keep a program responsive.
"""

cdef struct NetworkHandle  # what it holds is nobody's business

# With the GIL. The handle is borrowed: it is good as long as the Network lives. TypeError where net is no Network,
# ValueError where an activation is made of NumPy functions, which need the GIL.
cdef const NetworkHandle* network_of(object net) except NULL

cdef Py_ssize_t number_of_params(const NetworkHandle* net) noexcept nogil
cdef Py_ssize_t number_of_inputs(const NetworkHandle* net) noexcept nogil
cdef Py_ssize_t number_of_outputs(const NetworkHandle* net) noexcept nogil
cdef Py_ssize_t bytes_of_real(const NetworkHandle* net) noexcept nogil

# The threads that a call from Python would use here, by `num_threads`, `set_num_threads` or the environment. It takes
# the GIL.
cdef int number_of_threads(const NetworkHandle* net) except -1 nogil

cdef int value_and_grad(const NetworkHandle* net, Py_ssize_t n_samples, const void* params, const void* x,
                        const void* y, const Py_ssize_t* labels, const double* sample_weight, void* grad,
                        double* loss, int n_threads) except -1 nogil

cdef int forward(const NetworkHandle* net, Py_ssize_t n_samples, const void* params, const void* x, void* y_hat,
                 int n_threads) except -1 nogil
