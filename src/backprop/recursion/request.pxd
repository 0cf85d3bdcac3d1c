# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# What a call asks for, as checked pointers, and the rows of it that go through the recursion together.
# Needs: recursion/workspace, process/interrupt. Gives: Mode, Request, Tile, and what a Mode is made of.

from libc.stdint cimport int8_t, int64_t, uint8_t

from backprop.process.interrupt cimport Interrupt
from backprop.recursion.jet cimport Jet
from backprop.recursion.shape cimport Shape
from backprop.recursion.workspace cimport KeptRows, Workspace

cdef struct Source:
    # How the caller's x or y lies in memory if it has another dtype, byte order or layout than the kernels take:
    # then each tile converts its rows, since a copy of all of them may be far larger than all else.
    int code                     # BP_CODE of what it holds, or 0 if there is nothing to convert
    Py_ssize_t row, column       # bytes from one to the next


cdef struct Tile
cdef struct Request

cdef struct Mode:
    # A derivative, as a row of the table that the files of derivatives/ fill.
    int (*tile)(Tile* tile, char* sums, bint add) noexcept nogil  # what a tile adds to the sums, or writes into rows
    double (*cost)(const Request* request) noexcept nogil  # of a sample, in gradients: for the number of threads alone
    int operand                  # Operand
    const char* sums             # the axes of sums over samples, as `set_axes` reads them, or NULL
    const char* rows             # the axes of results that have one row per sample, or NULL
    int normalization            # Normalization
    int buffers                  # Buffers: which of the workspace's
    int flags                    # ModeFlag
    int form                     # JetForm, if it HAS_JET


cdef enum Operand:
    # The array that a call takes besides samples, targets and weights.
    NO_OPERAND
    DIRECTION                    # v (n_params,)
    COTANGENT                    # (n_samples, n_L)
    TARGET_GRAD_X                # (n_samples, n_L, n_0)
    MULTIPLIERS                  # (n_L,) or (n_samples, n_L), or none for one output
    DIRECTIONS_OF_X              # (k, n_0) or (n_samples, k, n_0), or none for the axes


cdef enum Normalization:
    # What l_s counts for.
    OF_MEAN                      # divided by n_samples or by the sum of the weights
    OF_SUM                       # not divided
    OF_SAMPLE                    # w_s l_s or sum_j w_sj l_sj / n_L, so that a row does not depend on its batch


cdef enum ModeFlag:
    TAKES_Y = 1
    GIVES_LOSS = 2
    NEEDS_SECOND = 4             # g''
    NEEDS_SQUARED_ERROR = 8
    TAKES_MAX_NORM = 16
    KEEPS_LINEARIZATION = 32     # what does not depend on the operand may be kept from call to call
    READS_PANELS_ONCE = 64       # of W^T: a call of one tile need not keep them
    DIVIDES = 128                # with the last pass over the sums; else the schedule divides them
    IN_STRIPS = 256              # all threads may share one group of rows
    NEEDS_THIRD = 512            # g'''
    HAS_JET = 1024               # derivatives along directions in the space of x


cdef struct State:
    # Sums in integer bins (kernels/bins.h), the loss behind them.
    Py_ssize_t n                 # sums, the loss among them
    int8_t* top                  # (n,)
    int64_t* limbs               # (3, n)


cdef struct Request:
    # What one call asks for, as checked pointers; NULL if a thing is not asked for or not there.
    const Shape* shape           # of the network
    const Mode* mode             # which derivative
    const char* params
    Py_ssize_t n_samples
    const Py_ssize_t* order      # (n_samples,): which rows of x, y and the weights they are; NULL: the first ones
    const char* x                # (n_samples, n_0)
    const char* y                # (n_samples, n_L), or NULL for labels
    const Py_ssize_t* labels     # (n_samples,)
    Source x_source              # of x
    Source y_source              # of y or the labels
    int weight_kind
    const double* weight         # (n_samples,) or (n_samples, n_L)
    double weight_scale          # a power of two that brings the weights near 1, against under- and overflow
    double loss_cap              # the most that a row of cross_entropy, or an output of other losses, counts; 0: no cap
    Py_ssize_t n_kept            # samples that have a weight other than 0
    Py_ssize_t n_whole           # such samples of the whole data set, of which these may be a part: it cuts chunks
    double divisor               # n_samples or the sum of scaled weights, times n_L if l is a mean over outputs
    Py_ssize_t n_sums            # entries of grad
    char* grad                   # the sums over samples: (n_params,) except for Hessians and normal equations
    char* row_results            # one row per sample: forward's y_hat, input gradients, ...
    const char* v                # (n_params,): the direction of a derivative
    KeptRows* kept               # of hvp: what earlier calls at these parameters left
    const char* cotangent        # (n_samples, n_L); (n_L,) if all samples share one
    bint shares_cotangent
    double max_norm
    const uint8_t* free          # (n_params,): which parameters count in the norms of gradients; NULL: all
    const char* target_grad_x    # (n_samples, n_L, n_0)
    const double* grad_weight    # (n_L, n_0)
    Jet jet                      # if the mode HAS_JET
    Py_ssize_t blocks            # of a tile's rows in the buffers of a layer: 1, or blocks_of_jet
    bint with_second             # g''(a) is needed too
    bint with_third              # g'''(a) is needed too
    int buffers                  # Buffers: which of the workspace's
    State* state                 # where the sums of a part go, not divided; NULL if the data set is whole
    void** keep_a                # layer_gradients: arrays (n_samples, n_i) by layer 0..L, NULL entries are skipped
    void** keep_h
    void** keep_grad_a
    void** keep_grad_h


cdef struct Tile:
    # Rows that go through the recursion together: pointers into the caller's arrays, or into copies (notes D and F),
    # and all that a sweep needs besides them.
    const Shape* shape           # of the network
    const Request* request       # of the call
    Workspace* work              # the buffers that the rows go through
    Interrupt* interrupt         # of the thread
    Py_ssize_t first             # where the rows start in the buffers of the workspace
    Py_ssize_t n_rows
    const char* x
    const char* y
    const Py_ssize_t* labels
    const double* weight
    Py_ssize_t* source_rows      # by row of the tile: its number among the samples of the request
    char* scratch                # of the thread
    int packing
    bint is_open                 # its sums go on with chains that tiles before it began
    double divisor               # of the sums if they end with this tile and the kernels divide them, else 0


cdef inline bint is_by_sample(const Mode* mode) noexcept nogil:
    """Whether the results are rows, one per sample, and there are no sums: then tiles are independent."""
    return mode.sums == NULL and mode.rows != NULL
