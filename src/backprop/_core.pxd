"""The C functions of backprop, for other extensions: ``cimport backprop``.

Except for `network_of`, call them without the GIL, from any number of threads at once, while no thread writes the
parameters.

Arguments
    net             a handle from `network_of`
    n_samples       at least 1; forward does nothing if it is 0
    params          (n_params,) reals in the layout of `Network.params`; NULL: the network's own
    x               (n_samples, n_inputs) reals
    y               (n_samples, n_outputs) reals: targets, or probabilities for cross_entropy; NULL with labels
    labels          (n_samples,) of 0..n_outputs-1, only for cross_entropy; NULL with y
    sample_weight   (n_samples,), finite, >= 0, not all 0; NULL: the loss is the plain mean
    grad            OUT: (n_params,) reals; NULL: only the loss is computed
    loss            OUT: one double
    y_hat           OUT: (n_samples, n_outputs) reals
    n_threads       at least 1: at most so many threads of backprop's own pool are used, including the calling one

Reals are floats or doubles: `bytes_of_real` returns 4 or 8. Arrays are aligned and contiguous, one row after another.
grad and y_hat share no memory with another argument or with the network's parameters.

A function that returns -1 has raised an exception, and has taken the GIL to do so. ValueError: Python's calls refuse
the argument too (in the same words), or a pointer is wrong; nothing was written. MemoryError: grad or y_hat is
unspecified. A thread without a Python thread state only gets the -1. Results have the bits of Python's calls.

Signal handlers are Python code and do not run inside a call: Ctrl-C waits until the GIL is held again. Keep the calls
short, or call PyErr_CheckSignals now and then on the main thread.
"""

cdef struct NetworkHandle  # opaque

# With the GIL. The handle is borrowed: it is valid as long as the Network lives. Raises TypeError if net is no Network,
# ValueError if an activation is made of NumPy functions, which need the GIL.
cdef const NetworkHandle* network_of(object net) except NULL

cdef Py_ssize_t number_of_params(const NetworkHandle* net) noexcept nogil
cdef Py_ssize_t number_of_inputs(const NetworkHandle* net) noexcept nogil
cdef Py_ssize_t number_of_outputs(const NetworkHandle* net) noexcept nogil
cdef Py_ssize_t bytes_of_real(const NetworkHandle* net) noexcept nogil

# The threads that a call from Python would use here, by `num_threads`, `set_num_threads` or the environment. Takes the
# GIL.
cdef int number_of_threads(const NetworkHandle* net) except -1 nogil

cdef int value_and_grad(const NetworkHandle* net, Py_ssize_t n_samples, const void* params, const void* x,
                        const void* y, const Py_ssize_t* labels, const double* sample_weight, void* grad,
                        double* loss, int n_threads) except -1 nogil

cdef int forward(const NetworkHandle* net, Py_ssize_t n_samples, const void* params, const void* x, void* y_hat,
                 int n_threads) except -1 nogil
