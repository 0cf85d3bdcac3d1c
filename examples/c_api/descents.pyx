# cython: language_level=3, boundscheck=False, wraparound=False
"""Many gradient descents at once, each on its own thread: they call backprop as C functions, without the GIL."""

cimport backprop
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc


cdef int descend(const backprop.NetworkHandle* net, Py_ssize_t n_samples, const double* x, const double* y,
                 double* theta, double* loss, double rate, int n_steps) except -1 nogil:
    """Take n_steps steps down from theta, in place; write the loss of the last one into loss."""
    cdef Py_ssize_t p, n_params = backprop.number_of_params(net)
    cdef double* grad = <double*>malloc(n_params * sizeof(double))
    cdef int _
    if grad == NULL:
        with gil:
            raise MemoryError("the gradient does not fit into memory")
    try:
        for _ in range(n_steps):
            backprop.value_and_grad(net, n_samples, theta, x, y, NULL, NULL, grad, loss, 1)
            for p in range(n_params):
                theta[p] -= rate * grad[p]
    finally:
        free(grad)
    return 0


def descents(net, double[:, ::1] thetas, const double[:, ::1] x, const double[:, ::1] y, double[::1] losses,
             double rate, int n_steps, int n_threads):
    """Descend from each row of thetas, in place, on n_threads threads; write the losses before the last steps.

    net is a backprop.Network in float64; thetas (k, n_params), x (n_samples, n_in), y (n_samples, n_out), losses (k,).
    """
    cdef const backprop.NetworkHandle* handle = backprop.network_of(net)
    cdef Py_ssize_t k
    if backprop.bytes_of_real(handle) != sizeof(double):
        raise ValueError("net: expected float64")
    if (thetas.shape[1] != backprop.number_of_params(handle) or x.shape[1] != backprop.number_of_inputs(handle)
            or y.shape[1] != backprop.number_of_outputs(handle) or y.shape[0] != x.shape[0]
            or losses.shape[0] != thetas.shape[0] or x.shape[0] == 0):
        raise ValueError("thetas, x, y, losses: expected shapes that fit each other and net")
    for k in prange(thetas.shape[0], nogil=True, num_threads=n_threads, schedule="dynamic"):
        descend(handle, x.shape[0], &x[0, 0], &y[0, 0], &thetas[k, 0], &losses[k], rate, n_steps)
