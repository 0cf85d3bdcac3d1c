# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# How samples are cut into units of chunks, and chunks into tiles: by the layers and the number of samples alone.
# Needs: recursion/shape, workspace. Gives: rows_of_chunk, chunks_of, chunks_of_unit, rows_of_jet, rows_of_tile.

from backprop.kernels.table cimport CHAIN_ROWS, CHUNK_ROWS
from backprop.recursion.shape cimport LARGE_BYTES, MIDDLE_TILE_ROWS, Shape
from backprop.recursion.workspace cimport OF_GRADIENT, OF_HESSIAN, OF_NORMAL_EQUATIONS

cdef enum:
    SMALL_BYTES = 131072         # of a gradient that is added to wide sums at the cost of some rows of its network
    # Rows whose sums go into bins, so that this takes at most 1 % of a call. A parameter of 784-128-10 costs 2.5 ns in
    # float32 and 4.5 in float64, against 0.04 and 0.08 ns a row in the products; an entry of J^T J 0.01 n_L ns a row.
    UNIT_ROWS = 8192
    MATRIX_UNIT_ROWS = 32768
    JACOBIAN_BYTES = 16777216    # of J, from which J^T J is made, if the result is no larger than that
    JET_BYTES = 524288           # of a, h and their derivatives along directions of x
    LEAST_JET_ROWS = 64          # of all blocks, and MIDDLE_TILE_ROWS of them if a W is large
    MOST_JET_ROWS = 128          # of one block


cdef inline Py_ssize_t rows_of_chunk(const Shape* shape, Py_ssize_t n_kept) noexcept nogil:
    """Rows of a chunk: at most 1024, a multiple of 64, the batch cut evenly into an even number of chunks.

    A network whose gradient is small is cut into up to four chunks from 256 samples on, since threads divide chunks
    better than strips (2-50-50-50-50-1 at 1000 samples: 1.9 times one thread's rate instead of 1.1). This enters the
    bits, so it depends on the layers and the number of samples alone.

        samples                    255    256    600   1000   1024   1025   2049   3000   1000000
        small gradient   chunks      1      2      4      4      4      4      4      4       977
                         rows      255    128    192    256    256    320    576    768      1024
        any other        chunks      1      1      1      1      1      2      4      4       977
                         rows      255    256    600   1000   1024    576    576    768      1024
    """
    cdef Py_ssize_t n_chunks
    if n_kept < 4 * CHAIN_ROWS:
        return n_kept
    n_chunks = (n_kept + CHUNK_ROWS - 1) // CHUNK_ROWS
    if shape.n_params * shape.itemsize <= SMALL_BYTES:
        n_chunks = max(n_chunks, min(<Py_ssize_t>4, n_kept // (2 * CHAIN_ROWS)))
    if n_chunks <= 1:
        return n_kept
    n_chunks += n_chunks % 2
    return ((n_kept + n_chunks - 1) // n_chunks + CHAIN_ROWS - 1) // CHAIN_ROWS * CHAIN_ROWS


cdef inline Py_ssize_t chunks_of(const Shape* shape, Py_ssize_t n_kept) noexcept nogil:
    """The number of chunks of so many samples."""
    cdef Py_ssize_t chunk_rows = max(<Py_ssize_t>1, rows_of_chunk(shape, n_kept))
    return (n_kept + chunk_rows - 1) // chunk_rows


cdef inline Py_ssize_t chunks_of_unit(const Shape* shape, Py_ssize_t n_kept, int buffers) noexcept nogil:
    """The chunks of a unit, whose sums are one addend of the last level: so many that each has UNIT_ROWS or more.

    The last unit may have fewer. All chunks are one unit below twice UNIT_ROWS, and then the last level is not used.

        samples           1000   16383   16384   24576   1000000
        chunks               1      16      16      24       977
        chunks of a unit     1      16       8       8         9
        units                1       1       2       3       109
    """
    cdef Py_ssize_t n_chunks = chunks_of(shape, n_kept)
    cdef Py_ssize_t n_units = n_kept // (MATRIX_UNIT_ROWS if buffers == OF_NORMAL_EQUATIONS else UNIT_ROWS)
    return n_chunks if n_units <= 1 else (n_chunks + n_units - 1) // n_units


cdef inline Py_ssize_t samples_of_jacobian(const Shape* shape, Py_ssize_t rows) noexcept nogil:
    """At most so many samples whose rows of J there are at once, n_L each: in no more bytes than J^T J or 16 MiB.

    Their rows fill whole chains, so that the order of the sum is that of longer tiles, unless so many take more.
    """
    cdef Py_ssize_t n_out = shape.sizes[shape.n_layers], whole = CHAIN_ROWS
    cdef Py_ssize_t most = max(JACOBIAN_BYTES // (n_out * shape.ld_params * shape.itemsize), shape.n_params // n_out)
    while whole > 1 and whole // 2 * n_out % CHAIN_ROWS == 0:
        whole //= 2
    if whole <= most < rows:
        most = most // whole * whole
    return min(rows, max(<Py_ssize_t>1, most))


cdef inline Py_ssize_t rows_of_jet(const Shape* shape, Py_ssize_t blocks, Py_ssize_t n_rows) noexcept nogil:
    """Rows of a tile, of n_rows in all, whose layers hold so many blocks: all of them stay in JET_BYTES, if they can.

    But a product has some rows in all, more if W is large. Nothing depends on the CPU, since it enters the order of
    sums. The rows are cut evenly. Their number is odd if there are several tiles: blocks a multiple of 4096 bytes apart
    fall into the same sets of L1, which took a third of a call with 16 rows of 64 float32 and 10 directions.
    """
    cdef Py_ssize_t least = LEAST_JET_ROWS // blocks, most, n_tiles, i
    for i in range(1, shape.n_layers + 1):
        if shape.layers[i].n_in * shape.layers[i].n_out * shape.itemsize > LARGE_BYTES:
            least = MIDDLE_TILE_ROWS // blocks
    most = max(max(<Py_ssize_t>2, least), min(JET_BYTES // (blocks * shape.row_bytes), <Py_ssize_t>MOST_JET_ROWS)) - 1
    if n_rows <= most:
        return n_rows
    n_tiles = (n_rows + most - 1) // most
    return (n_rows + n_tiles - 1) // n_tiles | 1


cdef inline Py_ssize_t rows_of_tile(const Shape* shape, Py_ssize_t n_kept, int buffers,
                                    Py_ssize_t blocks) noexcept nogil:
    """Rows of a tile: at most shape.tile_rows, and chunks cut evenly at multiples of 64, between chains.

    Below that shape.tile_rows is a part of 64; but sums that are matrices have no open chains, and are larger anyway.
    Calls besides a gradient take fixed_tile_rows: some of them add several products to a sum.
    """
    cdef Py_ssize_t n_rows = rows_of_chunk(shape, n_kept)
    cdef Py_ssize_t most = shape.tile_rows if buffers == OF_GRADIENT else shape.fixed_tile_rows
    cdef Py_ssize_t n_tiles = (n_rows + most - 1) // most
    cdef Py_ssize_t rows = (n_rows + n_tiles - 1) // n_tiles
    if blocks > 1:
        return rows_of_jet(shape, blocks, n_rows)
    if shape.tile_rows < CHAIN_ROWS and buffers < OF_HESSIAN:
        return min(n_rows, shape.tile_rows)
    rows = min(n_rows, (rows + CHAIN_ROWS - 1) // CHAIN_ROWS * CHAIN_ROWS)
    return samples_of_jacobian(shape, rows) if buffers == OF_NORMAL_EQUATIONS else rows
