# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The passes of L-BFGS over its vectors.
# Needs: vector; lbfgs.h.
# Gives: the table's row_products, combine, step, slope and new_pair.

from backprop.kernels.vector cimport real

cdef extern from "kernels/lbfgs.h" nogil:
    void products "bp_products"(Py_ssize_t n, Py_ssize_t n_rows, const real* const* rows, const real* x, double scale,
                                double* sums) noexcept
    int combination "bp_combine"(Py_ssize_t n, Py_ssize_t n_rows, const real* const* rows, const real* factors,
                                 const real* gradient, double scale, double factor, const real* theta, double t,
                                 real* direction, real* trial, double* slope) noexcept
    int stepped "bp_step"(Py_ssize_t n, const real* theta, double t, const real* direction, real* trial) noexcept
    double slope_along "bp_slope"(Py_ssize_t n, const real* gradient, double scale, const real* direction,
                                  double* largest) noexcept
    void pair "bp_new_pair"(Py_ssize_t n, const real* theta, const real* trial, const real* gradient,
                            const real* new_gradient, double scale_s, double scale_y, real* s, real* y,
                            double* sums) noexcept


cdef inline void row_products(Py_ssize_t n, Py_ssize_t n_rows, const void* const* rows, const void* x,  # IN
                              double scale, double* sums) noexcept nogil:                         # OUT sums
    """The products of rows with scale x."""
    products(n, n_rows, <const real* const*>rows, <const real*>x, scale, sums)


cdef inline bint combine(Py_ssize_t n, Py_ssize_t n_rows, const void* const* rows, const void* factors,  # IN
                         const void* gradient, double scale, double factor, const void* theta, double t,
                         void* direction, void* trial, double* slope) noexcept nogil:                # OUT
    """The direction, the trial on it, and the slope."""
    return combination(n, n_rows, <const real* const*>rows, <const real*>factors, <const real*>gradient, scale, factor,
                       <const real*>theta, t, <real*>direction, <real*>trial, slope)


cdef inline bint step(Py_ssize_t n, const void* theta, double t, const void* direction,            # IN
                      void* trial) noexcept nogil:                                                 # OUT
    """Another trial on the direction."""
    return stepped(n, <const real*>theta, t, <const real*>direction, <real*>trial)


cdef inline double slope(Py_ssize_t n, const void* gradient, double scale, const void* direction,  # IN
                         double* largest) noexcept nogil:                                          # OUT
    """The slope along the direction, and the largest entry of the gradient."""
    return slope_along(n, <const real*>gradient, scale, <const real*>direction, largest)


cdef inline void new_pair(Py_ssize_t n, const void* theta, const void* trial, const void* gradient,  # IN
                          const void* new_gradient, double scale_s, double scale_y,
                          void* s, void* y, double* sums) noexcept nogil:                          # OUT
    """The pair of a step, and its products."""
    pair(n, <const real*>theta, <const real*>trial, <const real*>gradient, <const real*>new_gradient, scale_s, scale_y,
         <real*>s, <real*>y, sums)
