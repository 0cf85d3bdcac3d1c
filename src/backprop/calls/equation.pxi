# Directions in the space of x, and the left sides of differential equations.
# Needs: calls/rules, request, inspect. Gives: Equation (to Python), take_equation, take_directions.

cdef class Equation:
    """The left side of c u + b . grad u + D : Hess u = f, along directions that all samples share.

    Parameters
    ----------
    directions : (k, n_0) array of the network's dtype
        Not changed afterwards.
    form : {"diagonal", "symmetric"}
        Which second derivatives count: T = k, or T = k (k + 1) / 2 in the order (0, 0), (0, 1), ..., (1, 1), ...
    row : (1 + k + T,) array of the network's dtype, or None
        c, then b along the directions, then the coefficients of the form. None if the samples have rows of their own.
    """

    cdef readonly cnp.ndarray directions
    cdef readonly cnp.ndarray row
    cdef readonly str form
    cdef int code

    def __cinit__(self, cnp.ndarray directions not None, str form not None, cnp.ndarray row):
        self.directions, self.form, self.row = directions, form, row
        self.code = {"diagonal": <int>DIAGONAL, "symmetric": <int>SYMMETRIC}[form]

    def __reduce__(self):
        return Equation, (self.directions, self.form, self.row)


cdef inline Py_ssize_t n_coefficients_of(int form, Py_ssize_t n_directions) noexcept nogil:
    """1 + k + T."""
    return 1 + n_directions + coefficients_of_form(form, n_directions)


cdef int take_equation(Request* request, Equation equation, cnp.ndarray rows) noexcept:
    """The equation of a request, with coefficients by sample if it has no row of its own. The rule that is broken."""
    cdef const Shape* shape = request.shape
    cdef cnp.ndarray directions = equation.directions
    cdef Py_ssize_t k = cnp.PyArray_DIM(directions, 0) if cnp.PyArray_NDIM(directions) == 2 else 0
    cdef Py_ssize_t n = n_coefficients_of(equation.code, k)
    cdef bint is_by_sample = equation.row is None
    cdef cnp.ndarray coefficients = rows if is_by_sample else equation.row
    if k < 1 or rule_of_array(shape, directions, dtype_of(shape), b"ki", 0, k) or coefficients is None:
        return OTHER_SHAPE
    if (cnp.PyArray_NDIM(coefficients) != 1 + is_by_sample or cnp.PyArray_DIM(coefficients, is_by_sample) != n
            or (is_by_sample and cnp.PyArray_DIM(coefficients, 0) != request.n_samples)):
        return OTHER_SHAPE
    if rule_of_form(coefficients, dtype_of(shape)):
        return OTHER_FORM
    set_directions(request, equation.code, k, cnp.PyArray_BYTES(directions), False)
    request.jet.equation = cnp.PyArray_BYTES(coefficients)
    request.jet.ld_equation = n if is_by_sample else 0
    return KEPT


# Directions -----------------------------------------------------------------------------------------------------------

cdef int take_directions(Request* request, directions) noexcept:
    """Directions in the space of x, of all samples or of each; the axes if None. The rule that is broken, or KEPT."""
    cdef const Shape* shape = request.shape
    cdef cnp.ndarray array
    cdef int n_axes
    cdef Py_ssize_t k
    if directions is None:
        return KEPT
    if type(directions) is not cnp.ndarray:
        return OTHER_FORM
    array = <cnp.ndarray>directions
    n_axes = cnp.PyArray_NDIM(array)
    if n_axes != 2 and n_axes != 3:
        return OTHER_SHAPE
    k = cnp.PyArray_DIM(array, n_axes - 2)
    if k < 1 or rule_of_array(shape, array, dtype_of(shape), b"ki" if n_axes == 2 else b"ski", request.n_samples, k):
        return OTHER_SHAPE
    set_directions(request, request.mode.form, k, cnp.PyArray_BYTES(array), n_axes == 3)
    return KEPT


cdef inline void choose_way_to_second_derivatives(Request* request) noexcept nogil:
    """Of input_jet: along with the first ones, or by a way back for each output if there are fewer outputs."""
    cdef Jet* jet = &request.jet
    if request.shape.sizes[request.shape.n_layers] < jet.n_directions:
        set_directions(request, FIRST_ALONE, jet.n_directions, jet.directions, jet.is_by_sample)
