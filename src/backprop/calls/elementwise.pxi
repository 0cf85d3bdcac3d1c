# Single steps on whole arrays, for the Python layer: (5), (6), g and g', g'', g''', a mirror image; and NumPy in the
# default float mode.
# Needs: process/pieces, float_mode, simd; the loops of (5) and (6) in _core.pyx.
# Gives: hidden_gradient, preactivation_gradient, activate, second_derivative, third_derivative, mirror,
# DefaultFloatMode, cut_into_pieces (to Python).

def hidden_gradient(const floating[:, :] W_next, const floating[:, :] grad_a_next, floating[:, ::1] grad_h):
    """Equation (5) into grad_h; every stride of the inputs is fine."""
    cdef Interrupt interrupt
    with nogil:
        reset_interrupt(&interrupt, False, True)
        interrupt.callers_mode = enter_default_mode()
        hidden_sum_loops(W_next, grad_a_next, grad_h, &interrupt)
        leave_default_mode(interrupt.callers_mode, NULL)
    raise_for_signal(&interrupt)


def preactivation_gradient(const floating[:, :] grad_h, floating[:, ::1] g_prime):
    """Equation (6), in place: g_prime becomes grad_a."""
    cdef Interrupt interrupt
    with nogil:
        reset_interrupt(&interrupt, False, True)
        interrupt.callers_mode = enter_default_mode()
        g_prime_product_loops(grad_h, g_prime, &interrupt)
        leave_default_mode(interrupt.callers_mode, NULL)
    raise_for_signal(&interrupt)


def activate(floating[:, ::1] a, floating[:, ::1] h, int code, double parameter):
    """Equation (3) alone: h = g(a), and a becomes g'(a), in place."""
    cdef const KernelTable* kernels = kernel_table(sizeof(floating))
    cdef Interrupt interrupt
    cdef Pieces p
    if a.shape[0] == 0 or a.shape[1] == 0:
        return
    with nogil:
        reset_interrupt(&interrupt, False, True)
        interrupt.callers_mode = enter_default_mode()
        start_entries(&p, &interrupt, a.shape[0], a.shape[1], ENTRY_FLOPS)
        while p.n:
            kernels.activate(code, parameter, p.n_rows, p.n, &a[p.row, p.column], &h[p.row, p.column], a.shape[1], True)
            if next_piece(&p):
                break
        leave_default_mode(interrupt.callers_mode, NULL)
    raise_for_signal(&interrupt)


def second_derivative(floating[:, ::1] a, floating[:, ::1] out, int code, double parameter):
    """out = g''(a), which products with a Hessian need besides g'."""
    further_derivative_of_array(a, out, code, parameter, SECOND)


def third_derivative(floating[:, ::1] a, floating[:, ::1] out, int code, double parameter):
    """out = g'''(a), which gradients of second derivatives by the inputs need too."""
    further_derivative_of_array(a, out, code, parameter, THIRD)


cdef further_derivative_of_array(floating[:, ::1] a, floating[:, ::1] out, int code, double parameter,
                                 Derivative which):
    """out = g''(a) or g'''(a)."""
    cdef const KernelTable* kernels = kernel_table(sizeof(floating))
    cdef Interrupt interrupt
    cdef Pieces p
    if a.shape[0] == 0 or a.shape[1] == 0:
        return
    with nogil:
        reset_interrupt(&interrupt, False, True)
        interrupt.callers_mode = enter_default_mode()
        start_entries(&p, &interrupt, a.shape[0], a.shape[1], ENTRY_FLOPS)
        while p.n:
            if which == SECOND:
                kernels.second_derivative(code, parameter, p.n_rows, p.n, &a[p.row, p.column], &out[p.row, p.column],
                                          a.shape[1])
            else:
                kernels.third_derivative(code, parameter, p.n_rows, p.n, &a[p.row, p.column], &out[p.row, p.column],
                                         a.shape[1])
            if next_piece(&p):
                break
        leave_default_mode(interrupt.callers_mode, NULL)
    raise_for_signal(&interrupt)


def mirror(floating[:, ::1] H):
    """Copy the upper triangle into the lower one, mirrored, in blocks that stay in L1."""
    cdef Py_ssize_t n = H.shape[0], p0, q0, p, q
    cdef Interrupt interrupt
    with nogil:
        reset_interrupt(&interrupt, False, True)
        interrupt.callers_mode = enter_default_mode()  # signal handlers run in the caller's mode
        for p0 in range(0, n, 32):
            for q0 in range(0, p0 + 1, 32):
                for p in range(p0, min(p0 + 32, n)):
                    for q in range(q0, min(q0 + 32, p)):
                        H[p, q] = H[q, p]
                if is_stopped(&interrupt, MEMORY_FLOPS * 32 * 32):
                    break
            if has_raised(&interrupt):
                break
        leave_default_mode(interrupt.callers_mode, NULL)
    raise_for_signal(&interrupt)


@cython.auto_pickle(False)
cdef class DefaultFloatMode:
    """A context in which NumPy computes in the default mode of the floating-point units, whichever the caller set."""

    cdef uint64_t mode
    cdef unsigned x87

    def __enter__(self):
        self.mode = enter_default_mode()
        self.x87 = get_x87()
        if self.x87 != DEFAULT_X87:
            set_x87(DEFAULT_X87)

    def __exit__(self, *exception):
        if self.x87 != DEFAULT_X87:
            set_x87(self.x87)
        leave_default_mode(self.mode, NULL)


def cut_into_pieces(double flops):
    """For tests: set the flops of a piece; returns what they were before. No call may be running."""
    before = get_piece_flops()
    set_piece_flops(flops)
    return before
