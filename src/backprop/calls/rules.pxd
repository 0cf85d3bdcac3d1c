# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The rules of arguments, each stated once: of arrays, addresses and numbers here, of values in inspect.pxd. A function
# returns the rule that is broken, or KEPT. A quick call then returns None; Python and the C functions find the words.
# Needs: NumPy; recursion/request, shape; process/pool.
# Gives: Rule, MOST_AXES, dtype_of, entries_of, set_axes, axes_of_operand, share_bytes, rule_of_*.

cimport numpy as cnp
from libc.math cimport isfinite, signbit

from backprop.kernels.table cimport SQUARED_ERROR, WEIGHT_PER_ENTRY
from backprop.process.pool cimport MOST_THREADS
from backprop.recursion.request cimport (
    COTANGENT, DIRECTION, MULTIPLIERS, NEEDS_SECOND, NEEDS_SQUARED_ERROR, NEEDS_THIRD, TARGET_GRAD_X, Mode, Request,
)
from backprop.recursion.shape cimport Shape

cdef enum Rule:
    # Which rule an argument breaks.
    KEPT                         # none
    OTHER_FORM                   # no array, or of another dtype, byte order or layout than the kernels take
    OTHER_SHAPE
    READ_ONLY
    OUT_OF_RANGE                 # a number
    IS_NULL
    MISALIGNED                   # an address
    OVERLAPS                     # a result shares memory with an input
    OTHER_LOSS                   # the call needs another loss than the network's
    NO_SECOND                    # the call needs a g'' that an activation of the user's own lacks
    NO_THIRD                     # the same of g'''
    BAD_LABEL                    # outside 0..n_L-1
    BAD_TARGET                   # outside the domain of the loss
    BAD_SUM                      # probabilities do not sum to 1
    BAD_WEIGHT                   # negative, or not finite
    NO_WEIGHT_ABOVE_0
    HAS_EMPTY_ROWS               # rows of weight 0 in a call that gives one row per sample
    INTERRUPTED                  # none that is known: a signal handler raised first

cdef enum:
    MOST_AXES = 4                # of an array that a call takes or gives


# Shapes ---------------------------------------------------------------------------------------------------------------

cdef inline int dtype_of(const Shape* shape) noexcept nogil:
    """NumPy's number of the network's dtype."""
    return cnp.NPY_FLOAT32 if shape.itemsize == 4 else cnp.NPY_FLOAT64


cdef inline Py_ssize_t axis_of(const Shape* shape, char letter, Py_ssize_t n_samples,
                               Py_ssize_t n_networks) noexcept nogil:
    """The length of the axis that a letter names."""
    if letter == c"s":
        return n_samples
    if letter == c"i":
        return shape.sizes[0]
    if letter == c"o":
        return shape.sizes[shape.n_layers]
    if letter == c"p":
        return shape.n_params
    if letter == c"q":
        return shape.n_params + 1
    return n_networks  # k, of an ensemble


cdef inline int set_axes(const Shape* shape, const char* letters, Py_ssize_t n_samples, Py_ssize_t n_networks,
                         cnp.npy_intp* axes) noexcept nogil:  # OUT: MOST_AXES of them have room
    """The axes that the letters name; returns how many they are."""
    cdef int d = 0
    while letters[d] != 0:
        axes[d] = axis_of(shape, letters[d], n_samples, n_networks)
        d += 1
    return d


cdef inline Py_ssize_t entries_of(const Shape* shape, const char* letters, Py_ssize_t n_samples) noexcept nogil:
    """The number of entries of an array with the axes that the letters name."""
    cdef Py_ssize_t n = 1
    cdef int d = 0
    while letters[d] != 0:
        n *= axis_of(shape, letters[d], n_samples, 1)
        d += 1
    return n


cdef inline const char* axes_of_operand(const Mode* mode) noexcept nogil:
    """The axes of the operand; NULL if there is none."""
    if mode.operand == DIRECTION:
        return b"p"
    if mode.operand == COTANGENT or mode.operand == MULTIPLIERS:
        return b"so"
    if mode.operand == TARGET_GRAD_X:
        return b"soi"
    return NULL


# Arrays ---------------------------------------------------------------------------------------------------------------

cdef inline int rule_of_form(cnp.ndarray array, int dtype) noexcept:
    """Whether the kernels take an array as it is: of the dtype, native, aligned, one row after another."""
    if not cnp.PyArray_ISCARRAY_RO(array):
        return OTHER_FORM
    if cnp.PyArray_TYPE(array) == dtype or cnp.PyArray_EquivTypenums(cnp.PyArray_TYPE(array), dtype):
        return KEPT
    return OTHER_FORM


cdef inline int rule_of_shape(const Shape* shape, cnp.ndarray array, const char* letters, Py_ssize_t n_samples,
                              Py_ssize_t n_networks) noexcept:
    """Whether an array has the axes that the letters name."""
    cdef int d, n = cnp.PyArray_NDIM(array)
    for d in range(n):
        if letters[d] == 0 or cnp.PyArray_DIM(array, d) != axis_of(shape, letters[d], n_samples, n_networks):
            return OTHER_SHAPE
    return KEPT if letters[n] == 0 else OTHER_SHAPE


cdef inline int rule_of_array(const Shape* shape, cnp.ndarray array, int dtype, const char* letters,
                              Py_ssize_t n_samples, Py_ssize_t n_networks) noexcept:
    """Whether an array has the form that the kernels take, and these axes."""
    cdef int rule = rule_of_shape(shape, array, letters, n_samples, n_networks)
    return rule if rule else rule_of_form(array, dtype)


cdef inline int rule_of_data(const Shape* shape, cnp.ndarray array, int dtype, const char* letters,
                             Py_ssize_t n_samples, Py_ssize_t n_networks) noexcept:
    """The same of x or y, whose tiles may have to be converted: real numbers of at most 8 bytes, of any layout."""
    cdef int rule = rule_of_shape(shape, array, letters, n_samples, n_networks)
    if rule:
        return rule
    if ((cnp.PyArray_ISBOOL(array) or cnp.PyArray_ISINTEGER(array) or cnp.PyArray_ISFLOAT(array))
            and cnp.PyArray_ITEMSIZE(array) <= 8):
        return KEPT
    return rule_of_form(array, dtype)


cdef inline int rule_of_plain(const Shape* shape, array, int dtype, const char* letters, Py_ssize_t n_samples,
                              Py_ssize_t n_networks) noexcept:
    """The same of any object, as a quick call takes it: no subclass of an array, and nothing to convert."""
    if type(array) is not cnp.ndarray:
        return OTHER_FORM
    return rule_of_array(shape, <cnp.ndarray>array, dtype, letters, n_samples, n_networks)


cdef inline int rule_of_out(const Shape* shape, out, const char* letters, Py_ssize_t n_samples,
                            Py_ssize_t n_networks) noexcept:
    """Whether a result can be written into an object, apart from what `rule_of_result` looks at."""
    cdef int rule = rule_of_plain(shape, out, dtype_of(shape), letters, n_samples, n_networks)
    if rule == KEPT and not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out):
        return READ_ONLY
    return rule


# Numbers --------------------------------------------------------------------------------------------------------------

cdef inline int rule_of_count(n_threads) noexcept:
    """Whether n_threads is None or an int that needs no cut."""
    if n_threads is None or (type(n_threads) is int and 1 <= n_threads <= MOST_THREADS):
        return KEPT
    return OUT_OF_RANGE


cdef inline int rule_of_max_norm(max_norm) noexcept:
    """Whether it is a float > 0."""
    return KEPT if type(max_norm) is float and <double>max_norm > 0 else OUT_OF_RANGE


cdef inline int rule_of_grad_weight(grad_weight) noexcept:
    """Whether it is a finite float that is not below 0."""
    if type(grad_weight) is float and not signbit(<double>grad_weight) and isfinite(<double>grad_weight):
        return KEPT
    return OUT_OF_RANGE


cdef inline int rule_of_network(const Shape* shape, const Mode* mode) noexcept nogil:
    """Whether the network has what the call needs."""
    if (mode.flags & NEEDS_SECOND) and not shape.has_second:
        return NO_SECOND
    if (mode.flags & NEEDS_THIRD) and not shape.has_third:
        return NO_THIRD
    if (mode.flags & NEEDS_SQUARED_ERROR) and shape.loss != SQUARED_ERROR:
        return OTHER_LOSS
    return KEPT


# Addresses ------------------------------------------------------------------------------------------------------------

cdef inline int rule_of_address(const void* address, Py_ssize_t itemsize) noexcept nogil:
    """Whether entries of this size can lie there; NULL is left to the caller."""
    return KEPT if <size_t>address % <size_t>itemsize == 0 else MISALIGNED


cdef inline bint share_bytes(const char* a, Py_ssize_t n_a, const char* b, Py_ssize_t n_b) noexcept nogil:
    """Whether n_a bytes from a and n_b bytes from b have some in common; NULL has none."""
    return b != NULL and a < b + n_b and b < a + n_a


cdef inline int rule_of_result(const Request* request, const char* own,  # IN: the network's parameters
                               const char* result, Py_ssize_t n_bytes) noexcept nogil:  # only its address counts
    """Whether a result has memory of its own: apart from all inputs, and from the network's parameters."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t n = request.n_samples, n_in = shape.sizes[0], n_out = shape.sizes[shape.n_layers]
    cdef Py_ssize_t n_params = shape.n_params * shape.itemsize, n_weights = n * <Py_ssize_t>sizeof(double)
    if request.weight_kind == WEIGHT_PER_ENTRY:
        n_weights *= n_out
    if (share_bytes(result, n_bytes, own, n_params)
            or share_bytes(result, n_bytes, request.params, n_params)
            or share_bytes(result, n_bytes, request.x, n * n_in * shape.itemsize)
            or share_bytes(result, n_bytes, request.y, n * n_out * shape.itemsize)
            or share_bytes(result, n_bytes, <const char*>request.labels, n * <Py_ssize_t>sizeof(Py_ssize_t))
            or share_bytes(result, n_bytes, <const char*>request.weight, n_weights)
            or share_bytes(result, n_bytes, request.v, n_params)
            or share_bytes(result, n_bytes, request.cotangent,
                           (1 if request.shares_cotangent else n) * n_out * shape.itemsize)
            or share_bytes(result, n_bytes, request.target_grad_x, n * n_out * n_in * shape.itemsize)):
        return OVERLAPS
    return KEPT
