# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The passes of L-BFGS over its vectors.
# Needs: vector; lbfgs.h.
# Gives: the table's row_products, accept_step, combine, step and slope.

from backprop.kernels.vector cimport real

cdef extern from "kernels/lbfgs.h" nogil:
    void products "bp_row_products"(Py_ssize_t n, Py_ssize_t n_rows, const float** rows, const float* x,
                                    double* sums) noexcept
    void taken "bp_accept_step"(Py_ssize_t n, const real* gradient, const real* new_gradient, double scale_y,
                                double scale_x, Py_ssize_t n_rows, const float** rows, float* y, float* x,
                                double* sums) noexcept
    int combination "bp_combine"(Py_ssize_t n, Py_ssize_t n_rows, const float** rows, const float* factors,
                                 const float* x, double factor, const real* theta, double t, float* direction,
                                 real* trial, double* slope) noexcept
    int stepped "bp_step"(Py_ssize_t n, const real* theta, double t, const float* direction, real* trial) noexcept
    double slope_along "bp_slope"(Py_ssize_t n, const real* gradient, double scale, const float* direction,
                                  double* largest) noexcept


cdef inline void row_products(Py_ssize_t n, Py_ssize_t n_rows, const float** rows, const float* x,  # IN
                              double* sums) noexcept nogil:                                        # OUT
    """The products of rows with x."""
    products(n, n_rows, rows, x, sums)


cdef inline void accept_step(Py_ssize_t n, const void* gradient, const void* new_gradient,            # IN
                             double scale_y, double scale_x, Py_ssize_t n_rows, const float** rows,
                             float* y, float* x, double* sums) noexcept nogil:                       # OUT
    """The change of the gradient, and all products with the new one."""
    taken(n, <const real*>gradient, <const real*>new_gradient, scale_y, scale_x, n_rows, rows, y, x, sums)


cdef inline bint combine(Py_ssize_t n, Py_ssize_t n_rows, const float** rows, const float* factors,  # IN
                         const float* x, double factor, const void* theta, double t,
                         float* direction, void* trial, double* slope) noexcept nogil:              # OUT
    """The direction, the trial on it, and the slope."""
    return combination(n, n_rows, rows, factors, x, factor, <const real*>theta, t, direction, <real*>trial, slope)


cdef inline bint step(Py_ssize_t n, const void* theta, double t, const float* direction,           # IN
                      void* trial) noexcept nogil:                                                 # OUT
    """Another trial on the direction."""
    return stepped(n, <const real*>theta, t, direction, <real*>trial)


cdef inline double slope(Py_ssize_t n, const void* gradient, double scale, const float* direction,  # IN
                         double* largest) noexcept nogil:                                          # OUT
    """The slope along the direction, and the largest entry of the gradient."""
    return slope_along(n, <const real*>gradient, scale, direction, largest)
