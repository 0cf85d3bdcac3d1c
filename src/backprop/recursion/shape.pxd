# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# What depends on the shape of a network alone: its layers, where their parameters lie, and the rows of a tile.
# Needs: kernels/table. Gives: Layer, Shape, lay_out_layers.

from backprop.kernels.table cimport CHAIN_ROWS, CHUNK_ROWS, CUSTOM, ROW_BYTES, TANH, KernelTable

cdef struct Layer:
    Py_ssize_t n_in, n_out
    Py_ssize_t ld                # row length of a_i and h_i in a tile, in reals: n_out rounded up to 64 bytes
    Py_ssize_t W, b              # where W_i and b_i start in params, in bytes
    Py_ssize_t rows_in_l1        # rows of a_i and h_i that stay in L1; all rows if W_i itself is far larger
    int activation
    double parameter
    void* c_functions[4]         # g, g', g'', g''' of an activation of the user's own, or NULL
    void* functions              # the same as a Python tuple that the plan holds


cdef struct Shape:
    # What depends on the shape of the network alone.
    const KernelTable* kernels
    Layer* layers                # 1..n_layers; 0 is not used
    Py_ssize_t* sizes            # 0..n_layers
    Py_ssize_t n_layers, n_params, itemsize
    Py_ssize_t ld_params         # n_params rounded up to 64 bytes
    Py_ssize_t tile_rows         # at most so many rows in a tile
    Py_ssize_t fixed_tile_rows   # the same for sums of several products, whose order it enters: the same on every CPU
    Py_ssize_t row_bytes         # of a and h, one sample
    Py_ssize_t n_units           # of all layers but the input
    bint has_own                 # a custom activation, which may take any time
    bint has_second, has_third   # whether all of these have a g'', a g'''
    bint is_serial               # some activation is a Python function
    int loss, link
    double* loss_parameters      # one number; of QUANTILES one for each output
    bint loss_acts_on_a
    void* free_lists             # FreeLists (schedule/free_lists.pxd): buffers for calls


cdef enum:
    # Rows of a tile: 256 if their a and h take half of L2, else 128. But 64 if 128 rows take more than three times L2,
    # 64 do not, and W is small (twenty layers of 100 in float64: 7.3, not 7.7 ms; on a CPU with 512 KiB of L2, in
    # float32, 4.2 instead of 4.6 ms; twelve layers of 256 take 7.4 instead of 6.8 ms). If one W is larger than
    # LARGE_BYTES, each tile streams it from L3 or memory, and the fewer tiles the better: 512 rows (784-800-800-10: 52,
    # not 48 GFLOP/s in float64; 1024 rows give 51). But fewer if a and h of so many take more than MOST_TILE_BYTES and
    # several times what W does: W is then the smaller part of what a tile moves.
    #
    # L2 must not enter the bits. Each entry of a gradient is one sum of chains, however tiles cut it. But hvp, hessian
    # and sobolev_value_and_grad add two products or more to it, tile by tile: fixed_tile_rows does not depend on L2.
    LEAST_TILE_ROWS = 64
    MIDDLE_TILE_ROWS = 128
    MAX_TILE_ROWS = 256
    WIDE_TILE_ROWS = 512
    LARGE_BYTES = 524288
    MOST_TILE_BYTES = 8388608
    MOST_INPUT_BYTES = 33554432  # of x, which some calls alone copy
    TILES_OF_PARAMS = 4          # or so many times the parameters
    L1_BYTES = 24576             # of 32 KiB, for a and h of the rows that g runs over while they are hot


cdef inline Py_ssize_t rows_in_bytes(const Shape* shape, Py_ssize_t rows) noexcept nogil:
    """At most so many rows of a tile, and as few as its bytes allow: a multiple of 64, or a power of two below that."""
    cdef Py_ssize_t of_params = TILES_OF_PARAMS * shape.n_params * shape.itemsize, power = 1
    cdef Py_ssize_t most = min(max(<Py_ssize_t>MOST_TILE_BYTES, of_params) // shape.row_bytes,
                               max(<Py_ssize_t>MOST_INPUT_BYTES, of_params) // (shape.sizes[0] * shape.itemsize))
    if rows <= most:
        return rows
    if most >= CHAIN_ROWS:
        return most // CHAIN_ROWS * CHAIN_ROWS
    while 2 * power <= most:
        power *= 2
    return power


cdef inline int lay_out_layers(Shape* shape) except -1:
    """Offsets of the layers, and the rows of a tile."""
    cdef Py_ssize_t i, offset = 0, lanes = ROW_BYTES // shape.itemsize, largest_W = 0
    cdef Py_ssize_t l2_bytes = shape.kernels.get_l2_bytes()
    cdef Layer* layer
    for i in range(1, shape.n_layers + 1):
        layer = &shape.layers[i]
        layer.n_in = shape.sizes[i - 1]
        layer.n_out = shape.sizes[i]
        layer.ld = (layer.n_out + lanes - 1) // lanes * lanes
        if layer.ld * shape.itemsize % 2048 == 0:
            layer.ld += lanes  # rows 2 KiB apart fall into the same sets of the cache
        layer.W = offset * shape.itemsize
        offset += layer.n_out * layer.n_in
        layer.b = offset * shape.itemsize
        offset += layer.n_out
        shape.n_units += layer.n_out
        layer.rows_in_l1 = max(<Py_ssize_t>16, L1_BYTES // (2 * layer.ld * shape.itemsize) // 8 * 8)
        if layer.n_in * layer.n_out * shape.itemsize > LARGE_BYTES // 4 or layer.activation == CUSTOM:
            layer.rows_in_l1 = CHUNK_ROWS
        shape.row_bytes += 2 * layer.ld * shape.itemsize
        largest_W = max(largest_W, layer.n_in * layer.n_out)
    shape.n_params = offset
    shape.ld_params = (offset + lanes - 1) // lanes * lanes
    shape.tile_rows = MIDDLE_TILE_ROWS
    if 2 * MAX_TILE_ROWS * shape.row_bytes <= l2_bytes:
        shape.tile_rows = MAX_TILE_ROWS
    elif (MIDDLE_TILE_ROWS * shape.row_bytes > 3 * l2_bytes and LEAST_TILE_ROWS * shape.row_bytes <= 3 * l2_bytes
            and 8 * largest_W * shape.itemsize <= l2_bytes):
        shape.tile_rows = LEAST_TILE_ROWS
    shape.fixed_tile_rows = MAX_TILE_ROWS if MAX_TILE_ROWS * shape.row_bytes <= LARGE_BYTES else MIDDLE_TILE_ROWS
    if largest_W * shape.itemsize > LARGE_BYTES:
        shape.tile_rows = shape.fixed_tile_rows = WIDE_TILE_ROWS
    shape.tile_rows = rows_in_bytes(shape, shape.tile_rows)
    shape.fixed_tile_rows = rows_in_bytes(shape, shape.fixed_tile_rows)
    return 0


cdef inline Py_ssize_t ld_of_input(const Shape* shape, Py_ssize_t i) noexcept nogil:
    """The row length of h_{i-1} in reals: x has no padding."""
    return shape.sizes[0] if i == 1 else shape.layers[i - 1].ld


cdef inline bint has_curve_of_h(const Shape* shape, Py_ssize_t i) noexcept nogil:
    """Whether g''(a_i) = -2 h_i g'(a_i), a product of two numbers within an ulp: tanh. It needs no function of a_i."""
    return shape.layers[i].activation == TANH
