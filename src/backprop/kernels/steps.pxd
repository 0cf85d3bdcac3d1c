# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Steps of solvers, entry by entry, and the sums over entries that solvers need.
# Needs: vector; steps.h.
# Gives: the table's adam_step, sgd_step, penalized_squares, largest_magnitude, dot and
# add_multiple.

from backprop.kernels.vector cimport real

cdef extern from "kernels/steps.h" nogil:
    void step_of_adam "bp_adam_step"(Py_ssize_t n, const real* grad, double factor, double l2, double beta_1,
                                     double beta_2, double rate, double epsilon, double decay, real* theta, double* m,
                                     double* v) noexcept
    void step_of_sgd "bp_sgd_step"(Py_ssize_t n, const real* grad, double factor, double l2, double momentum,
                                   double rate, int is_nesterov, real* theta, double* velocity) noexcept
    double squares "bp_penalized_squares"(Py_ssize_t n, const real* grad, const real* theta, double factor,
                                          double l2) noexcept
    real largest "bp_largest_magnitude"(Py_ssize_t n, const real* x) noexcept
    double inner_product "bp_dot"(Py_ssize_t n, const double* x, const double* y) noexcept
    void add_times "bp_add_multiple"(Py_ssize_t n, double factor, const double* x, double* y) noexcept


cdef inline void adam_step(Py_ssize_t n, const void* grad,                             # IN
                           double factor, double l2, double beta_1, double beta_2, double rate, double epsilon,
                           double decay,
                           void* theta, double* m, double* v) noexcept nogil:          # IN and OUT
    """A step of Adam with the gradient factor (grad + l2 theta)."""
    step_of_adam(n, <const real*>grad, factor, l2, beta_1, beta_2, rate, epsilon, decay, <real*>theta, m, v)


cdef inline void sgd_step(Py_ssize_t n, const void* grad,                              # IN
                          double factor, double l2, double momentum, double rate, bint is_nesterov,
                          void* theta, double* velocity) noexcept nogil:               # IN and OUT
    """A step of gradient descent with momentum, with the same gradient."""
    if is_nesterov:
        step_of_sgd(n, <const real*>grad, factor, l2, momentum, rate, 1, <real*>theta, velocity)
    else:
        step_of_sgd(n, <const real*>grad, factor, l2, momentum, rate, 0, <real*>theta, velocity)


cdef inline double penalized_squares(Py_ssize_t n, const void* grad, const void* theta,  # IN
                                     double factor, double l2) noexcept nogil:
    """The sum of squares of factor grad + l2 theta."""
    return squares(n, <const real*>grad, <const real*>theta, factor, l2)


cdef inline double largest_magnitude(Py_ssize_t n, const void* x) noexcept nogil:        # IN
    """The largest magnitude of an entry; NaN if one is NaN."""
    return largest(n, <const real*>x)


cdef inline double dot(Py_ssize_t n, const double* x, const double* y) noexcept nogil:   # IN
    """The inner product of two float64 vectors, in an order that depends on n alone."""
    return inner_product(n, x, y)


cdef inline void add_multiple(Py_ssize_t n, double factor, const double* x,              # IN
                              double* y) noexcept nogil:                                 # IN and OUT
    """y = y + factor x, rounded once."""
    add_times(n, factor, x, y)
