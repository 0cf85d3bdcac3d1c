# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Steps of solvers, entry by entry, and the sums over entries that solvers need.
# Needs: vector; steps.h.
# Gives: the table's adam_step, sgd_step, penalized_squares and any_above.

from backprop.kernels.vector cimport real

cdef extern from "kernels/steps.h" nogil:
    void step_of_adam "bp_adam_step"(Py_ssize_t n, const real* grad, real factor, real l2, real beta_1, real beta_2,
                                     real rest_1, real rest_2, real rate, real epsilon, real decay, real* theta,
                                     real* m, real* v) noexcept
    void step_of_sgd "bp_sgd_step"(Py_ssize_t n, const real* grad, real factor, real l2, real momentum, real rate,
                                   int is_nesterov, real* theta, real* velocity) noexcept
    double squares "bp_penalized_squares"(Py_ssize_t n, const real* grad, const real* theta, double factor,
                                          double l2) noexcept
    bint above "bp_any_above"(Py_ssize_t n, const real* x, real bound) noexcept


cdef inline void adam_step(Py_ssize_t n, const void* grad,                             # IN
                           double factor, double l2, double beta_1, double beta_2, double rate, double epsilon,
                           double decay,
                           void* theta, void* m, void* v) noexcept nogil:              # IN and OUT
    """A step of Adam with the gradient factor (grad + l2 theta). All numbers are rounded to the dtype first."""
    step_of_adam(n, <const real*>grad, <real>factor, <real>l2, <real>beta_1, <real>beta_2, <real>(1 - beta_1),
                 <real>(1 - beta_2), <real>rate, <real>epsilon, <real>decay, <real*>theta, <real*>m, <real*>v)


cdef inline void sgd_step(Py_ssize_t n, const void* grad,                              # IN
                          double factor, double l2, double momentum, double rate, bint is_nesterov,
                          void* theta, void* velocity) noexcept nogil:                 # IN and OUT
    """A step of gradient descent with momentum, with the same gradient."""
    if is_nesterov:
        step_of_sgd(n, <const real*>grad, <real>factor, <real>l2, <real>momentum, <real>rate, 1, <real*>theta,
                    <real*>velocity)
    else:
        step_of_sgd(n, <const real*>grad, <real>factor, <real>l2, <real>momentum, <real>rate, 0, <real*>theta,
                    <real*>velocity)


cdef inline double penalized_squares(Py_ssize_t n, const void* grad, const void* theta,  # IN
                                     double factor, double l2) noexcept nogil:
    """The sum of squares of factor grad + l2 theta."""
    return squares(n, <const real*>grad, <const real*>theta, factor, l2)


cdef inline bint any_above(Py_ssize_t n, const void* x, double bound) noexcept nogil:    # IN
    """Whether an entry is NaN, or has a magnitude above the bound, which the dtype must hold."""
    return above(n, <const real*>x, <real>bound)
