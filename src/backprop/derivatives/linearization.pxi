# What products with one Hessian share, kept from one direction to the next: for `hessp` of an objective.
# Needs: recursion/request, workspace; process/pool. Gives: Linearization (also to Python), place_in_kept_rows.

cdef class Linearization:
    """What `linearize` leaves of the tiles of a loss at one theta, for as many samples as fit into n_bytes.

    It serves one network on one set of samples, targets and weights, and one call at a time: a call that comes
    meanwhile runs without it. The rows that do not fit are computed again by each call.
    """

    cdef KeptRows kept
    cdef char* block             # the memory of the rows
    cdef char* params            # theta, as the last call had it: NULL before the first
    cdef Py_ssize_t n_bytes
    cdef int is_taken            # by a call

    def __cinit__(self, Py_ssize_t n_bytes):
        self.n_bytes = n_bytes

    def __dealloc__(self):
        self.release()

    def __reduce__(self):
        """A copy starts without rows."""
        return Linearization, (self.n_bytes,)

    cdef void release(self) noexcept:
        free(self.block)
        free(self.kept.is_filled)
        free(self.params)
        self.block = self.kept.is_filled = self.params = NULL

    cdef void take(self, Request* request) noexcept:
        """Give the call the rows, emptied if its theta is another one; and a copy of theta, which no thread changes.

        The call runs uncached if another call holds the rows, if memory is short, or in a child forked while they were
        held.
        """
        cdef const Shape* shape = request.shape
        cdef Py_ssize_t n_bytes = shape.n_params * shape.itemsize
        if not try_lock(&self.is_taken):
            return
        if self.params == NULL and not self.allocate(shape, request.n_samples):
            self.give_back()
            return
        if memcmp(self.params, request.params, n_bytes) != 0:
            memset(self.kept.is_filled, 0, self.kept.n_rows)
            memcpy(self.params, request.params, n_bytes)
        request.params = self.params
        request.kept = &self.kept

    cdef bint allocate(self, const Shape* shape, Py_ssize_t n_samples) noexcept:
        """Memory for the rows; false if out of memory. It takes up space only as rows are filled."""
        cdef Py_ssize_t n_rows = min(n_samples, self.n_bytes // bytes_of_kept_row(shape))
        self.block = <char*>calloc(n_rows * bytes_of_kept_row(shape) + ROW_BYTES, 1)
        self.kept.is_filled = <char*>calloc(n_rows + 1, 1)
        self.params = <char*>calloc(shape.n_params, shape.itemsize)
        if self.block == NULL or self.kept.is_filled == NULL or self.params == NULL:
            self.release()
            return False
        self.kept.data = aligned(self.block)
        self.kept.n_rows = n_rows
        return True

    cdef void give_back(self) noexcept:
        store_int(&self.is_taken, 0)


cdef inline char* place_in_kept_rows(const Tile* tile) noexcept nogil:
    """Let the workspace's a, h, grad_a and curve be those kept for the tile; returns its flag, or NULL if it has none.

    A tile is known by its first source row: how samples fall into tiles depends on their number and weights alone.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef KeptRows* kept = request.kept
    if kept == NULL or tile.source_rows[0] + tile.n_rows > kept.n_rows:
        return NULL
    lay_out_kept(shape, tile.n_rows, kept.data + tile.source_rows[0] * bytes_of_kept_row(shape), work)
    return kept.is_filled + tile.source_rows[0]
