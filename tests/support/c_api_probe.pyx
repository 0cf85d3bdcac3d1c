# cython: language_level=3
"""Every C function of backprop, for test_c_api.py: pointers to the data of arrays as they come, None is NULL."""

cimport numpy as cnp
from backprop cimport _core
from cython.parallel cimport prange

cnp.import_array()


cdef void* pointer(array):
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray?>array)


def numbers(net):
    cdef const _core.NetworkHandle* handle = _core.network_of(net)
    cdef Py_ssize_t n_params, n_in, n_out, n_bytes
    cdef int n_threads
    with nogil:
        n_params = _core.number_of_params(handle)
        n_in = _core.number_of_inputs(handle)
        n_out = _core.number_of_outputs(handle)
        n_bytes = _core.bytes_of_real(handle)
        n_threads = _core.number_of_threads(handle)
    return n_params, n_in, n_out, n_bytes, n_threads


def value_and_grad(net, n_samples, params, x, y, labels, weight, grad, n_threads, repeats=1, with_loss=True):
    cdef const _core.NetworkHandle* handle = _core.network_of(net)
    cdef void* pointers[6]
    cdef double loss = 0
    cdef double* loss_pointer = &loss if with_loss else NULL
    cdef Py_ssize_t n = n_samples
    cdef int threads = n_threads, k, _, n_repeats = repeats
    for k, array in enumerate((params, x, y, labels, weight, grad)):
        pointers[k] = pointer(array)
    with nogil:
        for _ in range(n_repeats):
            _core.value_and_grad(handle, n, pointers[0], pointers[1], pointers[2], <const Py_ssize_t*>pointers[3],
                                 <const double*>pointers[4], pointers[5], loss_pointer, threads)
    return loss


def misaligned(net, x, y, labels, grad, which):
    """value_and_grad with one pointer a byte too far."""
    cdef const _core.NetworkHandle* handle = _core.network_of(net)
    cdef double loss
    cdef Py_ssize_t n = x.shape[0] - 1
    cdef const char* px = <const char*>pointer(x)
    cdef const char* py = <const char*>pointer(y)
    cdef const char* pl = <const char*>pointer(labels)
    cdef char* pg = <char*>pointer(grad)
    cdef int k = which
    if py != NULL:
        py += k == 1
    if pl != NULL:
        pl += k == 5
    with nogil:
        _core.value_and_grad(handle, n, NULL if k != 3 else px + 1, px + (k == 0), py, <const Py_ssize_t*>pl,
                             NULL if k != 4 else <const double*>(px + 1), pg + (k == 2), &loss, 1)


def forward(net, n_samples, params, x, y_hat, n_threads):
    cdef const _core.NetworkHandle* handle = _core.network_of(net)
    cdef void* theta = pointer(params)
    cdef void* rows = pointer(x)
    cdef void* result = pointer(y_hat)
    cdef Py_ssize_t n = n_samples
    cdef int threads = n_threads
    with nogil:
        _core.forward(handle, n, theta, rows, result, threads)


def losses_by_prange(net, double[:, ::1] thetas, const double[:, ::1] x, const double[:, ::1] y, int n_threads):
    """The loss at each row of thetas; x and y as they are, even if the loss refuses them."""
    cdef const _core.NetworkHandle* handle = _core.network_of(net)
    cdef double[::1] losses = cnp.PyArray_ZEROS(1, [thetas.shape[0]], cnp.NPY_FLOAT64, 0)
    cdef Py_ssize_t k
    for k in prange(thetas.shape[0], nogil=True, num_threads=n_threads):
        _core.value_and_grad(handle, x.shape[0], &thetas[k, 0], &x[0, 0], &y[0, 0], NULL, NULL, NULL, &losses[k], 1)
    return losses.base
