# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# (4) with losses that are reported up to a cap alone, as the log losses of clipped probabilities.
# Needs: recursion/request, recursion/shape; kernels/table. Gives: capped_loss.

from backprop.kernels.table cimport CROSS_ENTROPY, NO_WEIGHT, QUANTILES, WEIGHT_PER_ENTRY, WEIGHT_PER_SAMPLE
from backprop.recursion.request cimport Request, Tile
from backprop.recursion.shape cimport Shape

cdef enum:
    CAPPED_OUTPUTS = 64          # whose losses are made together, on the stack


cdef inline void capped_loss(const Tile* tile,
                             char* z, const char* y_hat,  # IN: as the kernel takes them; z OUT with with_gradient
                             double* row_loss,            # OUT
                             bint with_gradient) noexcept nogil:
    """The kernel's row losses, none above the cap of the request, and its gradients, as if there were no cap.

    The cap is that of a row for cross_entropy, else that of an output; the kernel takes outputs for rows of one output.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Py_ssize_t L = shape.n_layers, n_out = shape.sizes[L], ld = shape.layers[L].ld, s, j, k, n, at
    cdef double[CAPPED_OUTPUTS] losses
    cdef double w = request.weight_scale, most
    cdef const double* weight = NULL
    cdef const double* parameters = shape.loss_parameters
    if shape.loss == CROSS_ENTROPY:
        shape.kernels.loss(shape.loss, shape.loss_parameters, tile.n_rows, n_out, z, ld, y_hat, tile.y, tile.labels,
                           request.weight_kind, tile.weight, request.weight_scale, row_loss, with_gradient)
        for s in range(tile.n_rows):
            if request.weight_kind != NO_WEIGHT:
                w = tile.weight[s] * request.weight_scale
            if row_loss[s] > w * request.loss_cap:
                row_loss[s] = w * request.loss_cap
        return
    for s in range(tile.n_rows):
        if request.weight_kind == WEIGHT_PER_SAMPLE:
            w = tile.weight[s] * request.weight_scale
        row_loss[s] = 0
        j = 0
        while j < n_out:
            n = min(n_out - j, <Py_ssize_t>CAPPED_OUTPUTS)
            if shape.loss == QUANTILES:  # each output has a parameter of its own
                n, parameters = 1, shape.loss_parameters + j
            if request.weight_kind == WEIGHT_PER_ENTRY:
                weight = tile.weight + s * n_out + j
            at = (s * ld + j) * shape.itemsize
            shape.kernels.loss(shape.loss, parameters, n, 1, z + at, 1,
                               NULL if y_hat == NULL else y_hat + at, tile.y + (s * n_out + j) * shape.itemsize, NULL,
                               NO_WEIGHT if weight == NULL else WEIGHT_PER_SAMPLE, weight, w, losses, with_gradient)
            for k in range(n):
                most = (w if weight == NULL else weight[k] * w) * request.loss_cap
                row_loss[s] += most if losses[k] > most else losses[k]
            j += n
