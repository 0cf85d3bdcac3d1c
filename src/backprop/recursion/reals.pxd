# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Single entries of untyped memory, which holds reals of 4 or 8 bytes: for what no kernel computes.
# Needs: nothing. Gives: get_real, set_real.

cdef inline double get_real(const char* reals, Py_ssize_t k, Py_ssize_t itemsize) noexcept nogil:
    """Entry k of untyped reals."""
    return (<const float*>reals)[k] if itemsize == 4 else (<const double*>reals)[k]


cdef inline void set_real(char* reals, Py_ssize_t k, Py_ssize_t itemsize, double value) noexcept nogil:
    """Round a value into entry k of untyped reals."""
    if itemsize == 4:
        (<float*>reals)[k] = <float>value
    else:
        (<double*>reals)[k] = value
