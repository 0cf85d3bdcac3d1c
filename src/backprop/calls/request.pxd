# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# From arguments that keep the rules to a Request: in the order params and x, weights, targets, the rest.
# Needs: recursion/request, jet, tile; calls/rules, inspect. Gives: start_request, set_directions, set_weights,
# set_targets, set_operand, set_results, set_source, targets_of.

cimport numpy as cnp
from libc.stdint cimport uint64_t
from libc.string cimport memset

from backprop.calls.inspect cimport Targets, WeightSums
from backprop.calls.rules cimport entries_of, rule_of_form
from backprop.kernels.table cimport CROSS_ENTROPY, NO_WEIGHT, WEIGHT_PER_ENTRY
from backprop.process.float_mode cimport enter_default_mode, leave_default_mode
from backprop.recursion.jet cimport blocks_of_jet, set_form
from backprop.recursion.request cimport (
    COTANGENT, HAS_JET, MULTIPLIERS, NEEDS_SECOND, NEEDS_THIRD, OF_MEAN, OF_SAMPLE, TARGET_GRAD_X, Mode, Request,
    Source,
)
from backprop.recursion.shape cimport Shape
from backprop.recursion.tile cimport code_of, weights_per_row
from backprop.recursion.workspace cimport OF_HESSIAN


cdef inline void set_directions(Request* request, int form, Py_ssize_t n_directions, const char* directions,
                                bint is_by_sample) noexcept nogil:
    """Directions in the space of x, the axes if there are none; and which derivatives along them."""
    set_form(&request.jet, form, n_directions)
    request.jet.directions = directions
    request.jet.is_by_sample = is_by_sample
    request.blocks = blocks_of_jet(&request.jet)


cdef inline void start_request(Request* request,  # OUT; made in place, since a copy of it takes 20 ns
                               const Shape* shape, const Mode* mode, const char* params, const char* x,
                               Py_ssize_t n_samples) noexcept nogil:
    """A request for a row of the table, at these parameters and samples, without weights."""
    cdef uint64_t float_mode
    memset(request, 0, sizeof(Request))
    request.shape = shape
    request.mode = mode
    request.with_second = mode.flags & NEEDS_SECOND != 0
    request.with_third = mode.flags & NEEDS_THIRD != 0
    request.buffers = mode.buffers
    request.params = params
    request.n_sums = shape.n_params
    if mode.buffers >= OF_HESSIAN:
        request.n_sums = entries_of(shape, mode.sums, n_samples)
    request.n_samples = n_samples
    request.n_kept = n_samples
    request.n_whole = n_samples
    request.x = x
    request.weight_kind = NO_WEIGHT
    request.weight_scale = 1
    request.divisor = n_samples if mode.normalization == OF_MEAN else 1
    request.blocks = 1
    if mode.flags & HAS_JET:
        set_directions(request, mode.form, shape.sizes[0], NULL, False)
    if mode.normalization == OF_SAMPLE and shape.loss != CROSS_ENTROPY:
        float_mode = enter_default_mode()
        request.weight_scale = 1.0 / shape.sizes[shape.n_layers]
        leave_default_mode(float_mode, request)


cdef inline void set_weights(Request* request, const double* weight, int kind, const WeightSums* sums) noexcept nogil:
    """Weights by sample or by entry, and what they add up to."""
    request.weight = weight
    request.weight_kind = kind
    request.n_kept = sums.n_kept
    request.n_whole = sums.n_kept
    if request.mode.normalization == OF_MEAN:
        request.divisor = sums.total
    if request.mode.normalization != OF_SAMPLE:
        request.weight_scale = sums.scale


cdef inline void set_targets(Request* request, const char* y, const Py_ssize_t* labels) noexcept nogil:
    """Targets, of which one is NULL, after the weights; and the mean over outputs if the loss is one."""
    cdef const Shape* shape = request.shape
    cdef uint64_t float_mode
    request.y = y
    request.labels = labels
    if (shape.loss != CROSS_ENTROPY and request.weight_kind != WEIGHT_PER_ENTRY
            and request.mode.normalization == OF_MEAN):
        float_mode = enter_default_mode()
        request.divisor *= shape.sizes[shape.n_layers]
        leave_default_mode(float_mode, request)


cdef inline Targets targets_of(const Request* request, Py_ssize_t n_rows) noexcept nogil:
    """The targets of a request, of so many rows, for a look at them."""
    cdef const Shape* shape = request.shape
    cdef Targets targets
    targets.loss = shape.loss
    targets.itemsize = shape.itemsize
    targets.n_rows = n_rows
    targets.n_out = shape.sizes[shape.n_layers]
    targets.y = request.y
    targets.labels = request.labels
    targets.weight = request.weight
    targets.n_weights = 0 if request.weight == NULL else weights_per_row(request)
    return targets


cdef inline void set_operand(Request* request, const char* operand) noexcept nogil:
    """What the call takes besides samples and targets."""
    if request.mode.operand == COTANGENT or request.mode.operand == MULTIPLIERS:
        request.cotangent = operand
    elif request.mode.operand == TARGET_GRAD_X:
        request.target_grad_x = operand
    else:
        request.v = operand


cdef inline void set_results(Request* request, cnp.ndarray sums, cnp.ndarray rows) noexcept:
    """Where the results go; None for what the call does not give."""
    if sums is not None:
        request.grad = cnp.PyArray_BYTES(sums)
    if rows is not None:
        request.row_results = cnp.PyArray_BYTES(rows)


cdef inline void set_source(Source* source, cnp.ndarray array, int dtype, int axis) noexcept:
    """How an array lies in memory, its rows along the axis, if it is not as the kernels take it."""
    cdef int kind = c"f"
    if rule_of_form(array, dtype) == 0:
        return
    if cnp.PyArray_ISBOOL(array):
        kind = c"b"
    elif cnp.PyArray_ISINTEGER(array):
        kind = c"u" if cnp.PyArray_ISUNSIGNED(array) else c"i"
    source.code = code_of(kind, cnp.PyArray_ITEMSIZE(array), cnp.PyArray_ISBYTESWAPPED(array))
    source.row = cnp.PyArray_STRIDE(array, axis)
    source.column = cnp.PyArray_STRIDE(array, axis + 1) if axis + 1 < cnp.PyArray_NDIM(array) else 0
