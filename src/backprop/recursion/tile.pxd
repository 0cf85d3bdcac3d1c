# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Tiles: (1) h_0 = x, some rows at a time, from the caller's arrays or as copies; and where a tile's buffers lie.
# Needs: recursion/request. Gives: new_tile, fill_tile, part_of, packing_of; a_of, output_of, input_of; weight_of.

from libc.string cimport memcpy, memset

from backprop.kernels.table cimport NO_WEIGHT, PACKED, PACK_AND_KEEP, PACK_ONCE, WEIGHT_PER_ENTRY, WEIGHT_PER_SAMPLE
from backprop.process.interrupt cimport MEMORY_FLOPS, Interrupt, is_stopped
from backprop.recursion.request cimport READS_PANELS_ONCE, Request, Source, Tile
from backprop.recursion.shape cimport Shape
from backprop.recursion.workspace cimport Workspace

cdef enum:
    SHORT_ROW = 64               # bytes that are copied in pieces of 16; a call of memcpy takes 5 ns
    SHORT_COPY = 65536           # entries that are copied without a look for signals: some 50 us


cdef extern from "recursion/convert.h" nogil:
    int code_of "BP_CODE"(int kind, int size, bint is_swapped)
    void convert_to_float "bp_convert_to_float"(int code, Py_ssize_t n_outer, Py_ssize_t n_inner, const char* source,
                                                Py_ssize_t outer, Py_ssize_t inner, float* target, Py_ssize_t t_outer,
                                                Py_ssize_t t_inner) noexcept
    void convert_to_double "bp_convert_to_double"(int code, Py_ssize_t n_outer, Py_ssize_t n_inner, const char* source,
                                                  Py_ssize_t outer, Py_ssize_t inner, double* target,
                                                  Py_ssize_t t_outer, Py_ssize_t t_inner) noexcept
    void convert_to_label "bp_convert_to_label"(int code, Py_ssize_t n_outer, Py_ssize_t n_inner, const char* source,
                                                Py_ssize_t outer, Py_ssize_t inner, Py_ssize_t* target,
                                                Py_ssize_t t_outer, Py_ssize_t t_inner) noexcept


cdef inline Py_ssize_t weights_per_row(const Request* request) noexcept nogil:
    """How many weights a row has, if it has any."""
    return request.shape.sizes[request.shape.n_layers] if request.weight_kind == WEIGHT_PER_ENTRY else 1


cdef inline Py_ssize_t number_of_row(const Request* request, Py_ssize_t row) noexcept nogil:
    """Where sample `row` of the request lies in x, y and the weights."""
    return row if request.order == NULL else request.order[row]


cdef inline bint has_weight(const Request* request, Py_ssize_t row) noexcept nogil:
    """Whether any weight of sample `row` is not 0."""
    cdef Py_ssize_t j, n = weights_per_row(request)
    row = number_of_row(request, row)
    for j in range(n):
        if request.weight[row * n + j] != 0:
            return True
    return False


cdef inline double weight_of(const Tile* tile, Py_ssize_t s, Py_ssize_t k) noexcept nogil:
    """The weight of output k of row s."""
    if tile.request.weight_kind == NO_WEIGHT:
        return 1
    if tile.request.weight_kind == WEIGHT_PER_SAMPLE:
        return tile.weight[s]
    return tile.weight[s * tile.shape.sizes[tile.shape.n_layers] + k]


cdef inline const char* rows_of_source(const char* data, const Source* source, Py_ssize_t row,
                                       Py_ssize_t n_bytes) noexcept nogil:
    """Where a row of x or y starts; n_bytes is the length of one that need not be converted."""
    return data + row * (source.row if source.code else n_bytes)


cdef inline char* copy_reals(const Source* source, const char* data, Py_ssize_t n_rows, Py_ssize_t n,
                             Py_ssize_t itemsize, char* target) noexcept nogil:
    """n_rows rows of n numbers, one after another and converted, into target, which is returned.

    Memory is read in the order in which it lies: a column of a matrix in Fortran order at a time.
    """
    cdef bint by_column = max(source.column, -source.column) > max(source.row, -source.row)
    cdef Py_ssize_t n_outer = n if by_column else n_rows, n_inner = n_rows if by_column else n
    cdef Py_ssize_t outer = source.column if by_column else source.row
    cdef Py_ssize_t inner = source.row if by_column else source.column
    cdef Py_ssize_t t_outer = 1 if by_column else n, t_inner = n if by_column else 1
    if source.code == 0:
        memcpy(target, data, n_rows * n * itemsize)
    elif itemsize == 4:
        convert_to_float(source.code, n_outer, n_inner, data, outer, inner, <float*>target, t_outer, t_inner)
    else:
        convert_to_double(source.code, n_outer, n_inner, data, outer, inner, <double*>target, t_outer, t_inner)
    return target


cdef inline Py_ssize_t* copy_labels(const Source* source, const char* data, Py_ssize_t n_rows,
                                    Py_ssize_t* target) noexcept nogil:
    """The same for labels."""
    if source.code == 0:
        memcpy(target, data, n_rows * sizeof(Py_ssize_t))
    else:
        convert_to_label(source.code, 1, n_rows, data, 0, source.row, target, n_rows, 1)
    return target


cdef inline Tile new_tile(const Request* request, Workspace* work, Interrupt* interrupt) noexcept nogil:
    """A tile without rows."""
    cdef Tile tile
    tile.shape = request.shape
    tile.request = request
    tile.work = work
    tile.interrupt = interrupt
    tile.first = tile.n_rows = 0
    tile.x = tile.y = NULL
    tile.labels = NULL
    tile.weight = NULL
    tile.source_rows = work.source_rows
    tile.scratch = work.scratch
    tile.packing = PACK_AND_KEEP
    tile.is_open = False
    tile.divisor = 0
    return tile


cdef inline void point_at_rows(Tile* tile, Py_ssize_t row) noexcept nogil:
    """The rows from `row` on, as they lie in the caller's arrays; x and y are converted if they have to be."""
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t n_in = shape.sizes[0], n_out = shape.sizes[shape.n_layers], n_rows = tile.n_rows, s
    tile.x = rows_of_source(request.x, &request.x_source, row, n_in * shape.itemsize)
    if request.y != NULL:
        tile.y = rows_of_source(request.y, &request.y_source, row, n_out * shape.itemsize)
    if request.labels != NULL:
        tile.labels = <const Py_ssize_t*>rows_of_source(<const char*>request.labels, &request.y_source, row,
                                                        sizeof(Py_ssize_t))
    if request.weight_kind != NO_WEIGHT:
        tile.weight = request.weight + row * weights_per_row(request)
    for s in range(n_rows):
        tile.source_rows[s] = row + s
    if request.x_source.code:
        tile.x = copy_reals(&request.x_source, tile.x, n_rows, n_in, shape.itemsize, work.x)
    if request.y_source.code and request.labels == NULL:
        tile.y = copy_reals(&request.y_source, tile.y, n_rows, n_out, shape.itemsize, work.y)
    elif request.y_source.code:
        tile.labels = copy_labels(&request.y_source, <const char*>tile.labels, n_rows, work.labels)


cdef inline void copy_row(Tile* tile, Py_ssize_t s, Py_ssize_t number) noexcept nogil:
    """Row `number` of x, y and the weights into row s of the tile's copies."""
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t n_in = shape.sizes[0], n_out = shape.sizes[shape.n_layers], n_weights = weights_per_row(request)
    copy_reals(&request.x_source, rows_of_source(request.x, &request.x_source, number, n_in * shape.itemsize), 1, n_in,
               shape.itemsize, work.x + s * n_in * shape.itemsize)
    if request.y != NULL:
        copy_reals(&request.y_source, rows_of_source(request.y, &request.y_source, number, n_out * shape.itemsize), 1,
                   n_out, shape.itemsize, work.y + s * n_out * shape.itemsize)
    if request.labels != NULL:
        copy_labels(&request.y_source, rows_of_source(<const char*>request.labels, &request.y_source, number,
                                                      sizeof(Py_ssize_t)), 1, work.labels + s)
    if request.weight_kind != NO_WEIGHT:
        memcpy(work.weight + s * n_weights, request.weight + number * n_weights, n_weights * sizeof(double))


cdef inline void copy_numbers(Py_ssize_t n_rows, const Py_ssize_t* numbers, Py_ssize_t n_bytes, const char* data,  # IN
                              char* target) noexcept nogil:                                                    # OUT
    """Rows of so many bytes, by number. Copies of 4, 8 or 16 bytes are moves, without a call."""
    cdef Py_ssize_t s, k
    if n_bytes == 4:
        for s in range(n_rows):
            memcpy(target + 4 * s, data + 4 * numbers[s], 4)
    elif n_bytes == 8:
        for s in range(n_rows):
            memcpy(target + 8 * s, data + 8 * numbers[s], 8)
    elif 16 <= n_bytes <= SHORT_ROW:
        for s in range(n_rows):
            for k in range((n_bytes - 1) // 16):
                memcpy(target + s * n_bytes + 16 * k, data + numbers[s] * n_bytes + 16 * k, 16)
            memcpy(target + (s + 1) * n_bytes - 16, data + (numbers[s] + 1) * n_bytes - 16, 16)
    else:
        for s in range(n_rows):
            memcpy(target + s * n_bytes, data + numbers[s] * n_bytes, n_bytes)


cdef inline void copy_numbered_rows(Tile* tile, Py_ssize_t row) noexcept nogil:
    """Copies of samples from `row` on, by number; all count, and none has to be converted."""
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef const Py_ssize_t* numbers = request.order + row
    cdef Py_ssize_t n_rows = tile.n_rows, s
    copy_numbers(n_rows, numbers, shape.sizes[0] * shape.itemsize, request.x, work.x)
    if request.y != NULL:
        copy_numbers(n_rows, numbers, shape.sizes[shape.n_layers] * shape.itemsize, request.y, work.y)
    if request.labels != NULL:
        copy_numbers(n_rows, numbers, sizeof(Py_ssize_t), <const char*>request.labels, <char*>work.labels)
    if request.weight_kind != NO_WEIGHT:
        copy_numbers(n_rows, numbers, weights_per_row(request) * sizeof(double), <const char*>request.weight,
                     <char*>work.weight)
    for s in range(n_rows):
        tile.source_rows[s] = row + s


cdef inline Py_ssize_t copy_kept_rows(Tile* tile, Py_ssize_t row) noexcept nogil:
    """Copies of samples from `row` on, without those whose weights are all 0; returns the sample after the last one.

    If another thread sets weights to 0 during the call, or if a signal handler raised, fewer rows are left. The rest of
    the tile then holds rows of zeros without weight.
    """
    cdef const Shape* shape = tile.shape
    cdef const Request* request = tile.request
    cdef Workspace* work = tile.work
    cdef Py_ssize_t n_in = shape.sizes[0], n_out = shape.sizes[shape.n_layers], n_rows = tile.n_rows, s = 0
    cdef Py_ssize_t n_weights = weights_per_row(request)
    cdef bint all_count = request.n_kept == request.n_samples
    tile.x = work.x
    if request.y != NULL:
        tile.y = work.y
    if request.labels != NULL:
        tile.labels = work.labels
    if request.weight_kind != NO_WEIGHT:
        tile.weight = work.weight
    if (all_count and request.order != NULL and not request.x_source.code and not request.y_source.code
            and n_rows * (n_in + n_out) <= SHORT_COPY):
        copy_numbered_rows(tile, row)
        is_stopped(tile.interrupt, <double>MEMORY_FLOPS * n_rows * (n_in + n_out))
        return row + n_rows
    while s < n_rows and row < request.n_samples:
        if all_count or has_weight(request, row):
            tile.source_rows[s] = row
            copy_row(tile, s, number_of_row(request, row))
            s += 1
        row += 1
        if is_stopped(tile.interrupt, MEMORY_FLOPS * (n_in + n_out)):
            break
    if s < n_rows:
        memset(work.x + s * n_in * shape.itemsize, 0, (n_rows - s) * n_in * shape.itemsize)
        memset(work.weight + s * n_weights, 0, (n_rows - s) * n_weights * sizeof(double))
        if request.y != NULL:
            memset(work.y + s * n_out * shape.itemsize, 0, (n_rows - s) * n_out * shape.itemsize)
        for s in range(s, n_rows):
            tile.source_rows[s] = request.n_samples - 1
            if request.labels != NULL:
                work.labels[s] = 0
    return row


cdef inline Py_ssize_t fill_tile(Tile* tile, Py_ssize_t row, Py_ssize_t n_rows) noexcept nogil:
    """n_rows samples that have a weight, from `row` on, into the tile; returns the sample after the last one."""
    cdef const Request* request = tile.request
    tile.n_rows = n_rows
    tile.y = NULL
    tile.labels = NULL
    tile.weight = NULL
    if request.n_kept == request.n_samples and request.order == NULL:
        point_at_rows(tile, row)
        return row + n_rows
    return copy_kept_rows(tile, row)


cdef inline Tile part_of(const Tile* tile, Py_ssize_t first, Py_ssize_t n_rows) noexcept nogil:
    """Some rows of a tile."""
    cdef const Shape* shape = tile.shape
    cdef Tile part = tile[0]
    part.first = tile.first + first
    part.n_rows = n_rows
    part.x = tile.x + first * shape.sizes[0] * shape.itemsize
    if part.y != NULL:
        part.y = tile.y + first * shape.sizes[shape.n_layers] * shape.itemsize
    if part.labels != NULL:
        part.labels = tile.labels + first
    if part.weight != NULL:
        part.weight = tile.weight + first * weights_per_row(tile.request)
    part.source_rows = tile.source_rows + first
    return part


cdef inline int packing_of(const Tile* tile, bint is_only_tile) noexcept nogil:
    """How the next tile of a call gets its panels of W^T."""
    if tile.work.is_packed:
        return PACKED
    return PACK_ONCE if is_only_tile and tile.request.mode.flags & READS_PANELS_ONCE else PACK_AND_KEEP


cdef inline char* a_of(const Tile* tile, Py_ssize_t i) noexcept nogil:
    """a_i of the tile, then g'(a_i), then grad_a_i (note B)."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    return work.a[i] + tile.first * shape.layers[i].ld * shape.itemsize


cdef inline char* output_of(const Tile* tile, Py_ssize_t i) noexcept nogil:
    """h_i of the tile, i > 0."""
    cdef const Shape* shape = tile.shape
    cdef Workspace* work = tile.work
    return work.h[i] + tile.first * shape.layers[i].ld * shape.itemsize


cdef inline const char* input_of(const Tile* tile, Py_ssize_t i) noexcept nogil:
    """h_{i-1} of the tile; h_0 is x."""
    return tile.x if i == 1 else output_of(tile, i - 1)


cdef inline int copy_out(const Tile* tile, void** arrays, Py_ssize_t i, const char* rows, Py_ssize_t ld,
                         double divisor) noexcept nogil:
    """Copy a layer's rows of the tile, divided, into the caller's array of that layer, if the caller asked for it."""
    cdef Py_ssize_t s, n = tile.shape.sizes[i], n_bytes = n * tile.shape.itemsize
    if arrays == NULL or arrays[i] == NULL:
        return 0
    for s in range(tile.n_rows):
        tile.shape.kernels.finish(n, rows + s * ld * tile.shape.itemsize, divisor,
                                  <char*>arrays[i] + tile.source_rows[s] * n_bytes)
        if is_stopped(tile.interrupt, <double>MEMORY_FLOPS * n):
            return 1
    return 0
