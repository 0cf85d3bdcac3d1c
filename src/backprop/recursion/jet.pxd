# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# What a call asks for in the space of x: directions, and which second derivatives along them.
# Needs: kernels/table. Gives: Jet, blocks_of_jet, coefficients_of_form.

from backprop.kernels.table cimport EACH, FIRST_ALONE, SYMMETRIC

cdef struct Jet:
    int form                     # JetForm
    Py_ssize_t n_directions      # k
    Py_ssize_t n_seconds         # k of EACH, 0 of FIRST_ALONE, else 1
    const char* directions       # (k, n_0), or (n_samples, k, n_0) if they are by sample; NULL: the axes
    bint is_by_sample            # the directions
    const char* equation         # (1 + k + T) coefficients: c, b along the directions, the form's; NULL: no equation
    Py_ssize_t ld_equation       # reals from one sample's coefficients to the next; 0: all samples share them
    const char* cotangent_y      # (n_samples, n_L), or NULL for 0: of the values
    const char* cotangent_dy     # (n_samples, n_L, k), likewise, of the first derivatives
    const char* cotangent_d2y    # of the second ones
    char* dy                     # (n_samples, n_L, k): where the results of input_jet go, beside its values
    char* d2y


cdef inline Py_ssize_t blocks_of_jet(const Jet* jet) noexcept nogil:
    """What the buffers of a layer hold for a sample: the value, its first and its second derivatives."""
    return 1 + jet.n_directions + jet.n_seconds


cdef inline Py_ssize_t coefficients_of_form(int form, Py_ssize_t n_directions) noexcept nogil:
    """T."""
    return n_directions * (n_directions + 1) // 2 if form == SYMMETRIC else n_directions


cdef inline void set_form(Jet* jet, int form, Py_ssize_t n_directions) noexcept nogil:
    """A form along so many directions."""
    jet.form = form
    jet.n_directions = n_directions
    jet.n_seconds = n_directions if form == EACH else 0 if form == FIRST_ALONE else 1
