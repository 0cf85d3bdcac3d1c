# The table of calls, which the files of derivatives/ fill: each derivative is one function of a tile and one row.
# Needs: recursion/request. Gives: Call, CALLS, define, and the costs that several rows share.

cdef class Call:
    """A row of the table, with its name."""

    cdef readonly str name
    cdef Mode mode

    def __cinit__(self, str name):
        self.name = name

    @property
    def takes_y(self):
        """Whether targets are among the arguments."""
        return self.mode.flags & TAKES_Y != 0

    @property
    def gives_loss(self):
        """Whether the loss is a result."""
        return self.mode.flags & GIVES_LOSS != 0

    @property
    def needs_second(self):
        """Whether g'' is needed."""
        return self.mode.flags & NEEDS_SECOND != 0

    @property
    def needs_third(self):
        """Whether g''' is needed."""
        return self.mode.flags & NEEDS_THIRD != 0

    @property
    def needs_squared_error(self):
        """Whether squared_error is the only loss that will do."""
        return self.mode.flags & NEEDS_SQUARED_ERROR != 0

    @property
    def takes_v(self):
        """Whether a direction of the parameters is among the arguments."""
        return self.mode.operand == DIRECTION

    @property
    def is_by_sample(self):
        """Whether the results are rows, one per sample, and there are no sums."""
        return self.mode.sums == NULL and self.mode.rows != NULL

    @property
    def is_mean(self):
        """Whether a mean over samples is asked for, which is not defined for no samples."""
        return self.takes_y and self.mode.normalization == OF_MEAN


CALLS = {}
# Set by first_order.pxi. The modes lie in the calls, which live as long as the process, whatever becomes of the table.
cdef Call call_of_value_and_grad
cdef Call call_of_forward
cdef const Mode* mode_of_value_and_grad = NULL
cdef const Mode* mode_of_forward = NULL


cdef Call define(str name, int (*tile)(Tile*, char*, bint) noexcept nogil,
                 double (*cost)(const Request*) noexcept nogil, int operand, const char* sums, const char* rows,
                 int normalization, int buffers, int flags, int form=FIRST_ALONE):
    """Add a row to the table. form is for calls that have a jet."""
    cdef Call call = Call(name)
    call.mode.tile, call.mode.cost = tile, cost
    call.mode.operand, call.mode.sums, call.mode.rows = operand, sums, rows
    call.mode.normalization, call.mode.buffers, call.mode.flags, call.mode.form = normalization, buffers, flags, form
    CALLS[name] = call
    return call


cdef double one_gradient(const Request* request) noexcept nogil:
    return 1


cdef double three_gradients(const Request* request) noexcept nogil:
    return 3


cdef double a_gradient_per_output(const Request* request) noexcept nogil:
    return request.shape.sizes[request.shape.n_layers]
