# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Cholesky's factors of a symmetric matrix in float64, and the solution with them: every sum in one fixed order.
# Needs: kernels/table; process/interrupt; vectors. Gives: factorize, solve.

from libc.math cimport isfinite, sqrt

from backprop.kernels.table cimport OVERWRITE, PACKED, KernelTable
from backprop.process.interrupt cimport Interrupt, is_stopped
from backprop.training.vectors cimport add_multiple, inner_product

cdef enum Factorization:
    FACTORIZED
    NOT_POSITIVE                 # a pivot is not above 0, to rounding, or not a number
    STOPPED                      # a signal handler raised


cdef inline int factorize(const KernelTable* kernels, Py_ssize_t n,
                          const double* A, const double* damping,       # IN (n, n), its lower triangle; (n,)
                          double* L,                                    # OUT (n, n), its lower triangle
                          double* column,                               # OUT (n), of no use afterwards
                          Interrupt* interrupt) noexcept nogil:
    """L L^T = A + diag(damping), column by column."""
    cdef Py_ssize_t i, j
    cdef double pivot, root
    for j in range(n):
        kernels.forward_product(n - j, j, 1, L + j * n, n, L + j * n, NULL, PACKED, NULL, column, 1, OVERWRITE)
        pivot = A[j * n + j] + damping[j] - column[0]
        if not (pivot > 0 and isfinite(pivot)):
            return NOT_POSITIVE
        root = sqrt(pivot)
        L[j * n + j] = root
        for i in range(j + 1, n):
            L[i * n + j] = (A[i * n + j] - column[i - j]) / root
        if is_stopped(interrupt, 8.0 * j * (n - j) + 100.0 * n):
            return STOPPED
    return FACTORIZED


cdef inline void solve(const KernelTable* kernels, Py_ssize_t n, const double* L,  # IN
                       double* x) noexcept nogil:                                  # IN b, OUT
    """L L^T x = b, in the place of b."""
    cdef Py_ssize_t i
    for i in range(n):
        x[i] = (x[i] - inner_product(kernels, i, L + i * n, x)) / L[i * n + i]
    for i in range(n - 1, -1, -1):
        x[i] = x[i] / L[i * n + i]
        add_multiple(kernels, i, -x[i], L + i * n, x)
