# The third level of the sums over samples: chunks of at most 1024 rows go into a wide accumulator, which is divided and
# rounded once, at the end. float32 networks add in float64; float64 networks keep the error of each sum beside it.

cdef void accumulate(Py_ssize_t n, const void* partial_, double* wide, double* wide_error, bint first) noexcept nogil:
    """wide += partial, or wide = partial where this is the first chunk; wide_error is used by float64 alone."""
    cdef const real* partial = <const real*>partial_
    cdef double error
    cdef Py_ssize_t p
    if first:
        for p in range(n):
            wide[p] = partial[p]
        if FLOAT64:
            for p in range(n):
                wide_error[p] = 0
    elif FLOAT64:
        for p in range(n):
            two_sum(wide[p], partial[p], &wide[p], &error)
            wide_error[p] = wide_error[p] + error
    else:
        for p in range(n):
            wide[p] = wide[p] + <double>partial[p]


cdef void finish_wide(Py_ssize_t n, const double* wide, const double* wide_error, double divisor,
                      void* out_) noexcept nogil:
    """out = wide / divisor."""
    cdef real* out = <real*>out_
    cdef double reciprocal = 1 / divisor, total
    cdef Py_ssize_t p
    for p in range(n):
        if FLOAT64:
            total = wide[p] + wide_error[p]
            total = total if total == total else wide[p]  # the error of an infinite sum is NaN
            out[p] = divide_scalar(<real>total, divisor, reciprocal)
        else:
            out[p] = <real>(wide[p] * reciprocal)


cdef void finish(Py_ssize_t n, const void* partial_, double divisor, void* out_) noexcept nogil:
    """out = partial / divisor; partial and out may be the same."""
    cdef const real* partial = <const real*>partial_
    cdef real* out = <real*>out_
    cdef double reciprocal = 1 / divisor
    cdef Py_ssize_t p
    for p in range(n):
        out[p] = divide_scalar(partial[p], divisor, reciprocal)


cdef void fill_with_ones(Py_ssize_t n, void* out_) noexcept nogil:
    """1 in each entry."""
    cdef real* out = <real*>out_
    cdef Py_ssize_t p
    for p in range(n):
        out[p] = 1
