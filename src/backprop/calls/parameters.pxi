# The memory of parameters. No array that is handed out is the one that a call computes with.
# Needs: calls/rules. Gives: Parameters and is_in_its_owner (also to Python), are_of, expect_parameters, networks_in,
# view_of.

@cython.no_gc                    # so that gc.get_referents does not show its array
cdef class Parameters:
    """The parameters of one network, or of several one after another; arrays that are handed out are views of them.

    In NumPy, all code may give an array other axes, another dtype or strides, and resize its owner, to which a view
    leads by `base`. So a call takes the address from here and sizes from the plan. The base of a view is this object,
    which is no array.
    """

    cdef cnp.ndarray array       # it owns the memory; nothing leads to it
    cdef char* address
    cdef Py_ssize_t n_bytes

    def __cinit__(self, cnp.ndarray array not None):
        """The memory of a contiguous array that the caller hands out to nothing else."""
        self.array = array
        self.address = cnp.PyArray_BYTES(array)
        self.n_bytes = cnp.PyArray_NBYTES(array)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        """The memory, as writable: NumPy asks for it before it makes a read-only view writable again."""
        PyBuffer_FillInfo(buffer, self, self.address, self.n_bytes, False, flags)


cdef cnp.ndarray view_of(const Shape* shape, Parameters params, Py_ssize_t offset, int n_axes, cnp.npy_intp* axes):
    """A fresh view of parameters, from offset bytes on."""
    cdef cnp.ndarray view = cnp.PyArray_SimpleNewFromData(n_axes, axes, dtype_of(shape), params.address + offset)
    cnp.set_array_base(view, params)
    return view


cdef inline bint are_of(const Shape* shape, Parameters params, Py_ssize_t n_networks) noexcept:
    """Whether they are the parameters of n_networks networks of this shape."""
    return params is not None and params.n_bytes == n_networks * shape.n_params * shape.itemsize


cdef int expect_parameters(const Shape* shape, Parameters params, Py_ssize_t n_networks) except -1:
    """Refuse parameters of other networks."""
    if not are_of(shape, params, n_networks):
        raise ValueError(f"params: expected {n_networks * shape.n_params} numbers of {shape.itemsize} bytes, "
                         "got others")
    return 0


cdef Py_ssize_t networks_in(const Shape* shape, Parameters params) except -1:
    """The number of networks of this shape whose parameters they are."""
    cdef Py_ssize_t n_networks = params.n_bytes // (shape.n_params * shape.itemsize)
    expect_parameters(shape, params, max(1, n_networks))
    return n_networks


def is_in_its_owner(cnp.ndarray array not None):
    """Whether a view, of any strides, still lies in the array that owns its memory.

    If the owner was resized with refcheck=False, the memory may have been freed.
    """
    cdef cnp.ndarray owner
    cdef char* first = cnp.PyArray_BYTES(array)
    cdef char* end = first + cnp.PyArray_ITEMSIZE(array)
    cdef Py_ssize_t span
    cdef int d
    base = cnp.get_array_base(array)
    if not isinstance(base, cnp.ndarray):
        return True
    owner = base
    if not cnp.PyArray_CHKFLAGS(owner, cnp.NPY_ARRAY_OWNDATA):
        return True
    if cnp.PyArray_SIZE(array) == 0:
        return True
    for d in range(cnp.PyArray_NDIM(array)):
        span = (cnp.PyArray_DIM(array, d) - 1) * cnp.PyArray_STRIDE(array, d)
        if span < 0:
            first += span
        else:
            end += span
    return cnp.PyArray_BYTES(owner) <= first and end <= cnp.PyArray_BYTES(owner) + cnp.PyArray_NBYTES(owner)
