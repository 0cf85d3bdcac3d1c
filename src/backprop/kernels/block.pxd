# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# C = A B for one panel of columns, in registers. A is broadcast, B is a panel of vectors.
# Needs: vector; rows.h for the division at the end of a sum.
# Gives: `next_panel`, which cuts a matrix into panels, and `blocks_of_panel`, on which all matrix products run.

from backprop.kernels.table cimport ADD, OVERWRITE, TIMES
from backprop.kernels.vector cimport (
    BLOCK_ROWS, BLOCK_VECTORS, HAS_HALF, LANES, broadcast, half, half_broadcast, half_fma, half_load, half_load_whole,
    half_store, load, load_first, lower_half, real, store, store_first, vec, vfma,
)

cdef extern from "kernels/rows.h" nogil:
    void divide_rows "bp_divide_rows"(int n_rows, Py_ssize_t n, real* C, Py_ssize_t c_row, double divisor) noexcept

cdef enum:
    BY_BLOCK = -1            # as a_k: from one k of A to the next are as many reals as the block has rows


cdef enum Tail:              # of a panel
    WHOLE                    # all its vectors are whole
    PARTIAL                  # the last vector has fewer columns in memory than lanes
    HALF                     # half a vector follows the vectors


cdef struct Panel:
    # The next columns of B and C that are computed together.
    int n_vectors            # whole or partial
    int tail
    int width                # columns, rounded up to vectors or half vectors
    Py_ssize_t n_last        # lanes of the last vector that lie within the matrix


cdef struct Product:
    # C = A B for one panel: the places of the operands, in reals.
    Py_ssize_t n_rows, K
    Py_ssize_t chain_length      # k's of a chain; a longer sum is several chains, added to C one after another
    const real* A                # IN
    Py_ssize_t a_row, a_k        # from a row of a block to the next, from a k to the next (or BY_BLOCK)
    Py_ssize_t a_block           # a block whose first row is r starts at A + r a_block
    const real* B                # IN
    Py_ssize_t b_k
    const real* bias             # IN: the chains start from it, or from 0 if it is NULL
    real* C                      # OUT; IN too with ADD
    Py_ssize_t c_row
    int epilogue                 # OVERWRITE, ADD or TIMES
    const real* factor           # IN with TIMES: laid out as C, or C itself
    double divisor               # of C after the last chain, or 0


cdef inline Panel next_panel(Py_ssize_t n_left) noexcept nogil:
    """The next panel, if n_left columns are left. Up to 4 vectors are cut in two, not into three and a stump."""
    cdef Panel p
    cdef Py_ssize_t unit = LANES // 2 if HAS_HALF else LANES
    cdef Py_ssize_t most = 2 * BLOCK_VECTORS if HAS_HALF else BLOCK_VECTORS
    cdef Py_ssize_t units = (n_left + unit - 1) // unit
    if units > most:
        units = most if units > most + most // 3 else (units + 3) // 4 * 2 if HAS_HALF else (units + 1) // 2
    p.width = <int>(units * unit)
    p.n_vectors = <int>(units // 2 if HAS_HALF else units)
    p.tail = WHOLE
    if HAS_HALF and units % 2:
        p.tail = HALF
        p.n_last = min(n_left - p.n_vectors * LANES, unit)
    else:
        p.n_last = n_left - (p.n_vectors - 1) * LANES
        if p.n_last < LANES:
            p.tail = PARTIAL
        else:
            p.n_last = LANES
    return p


cdef inline int next_rows(Py_ssize_t n_left) noexcept nogil:
    """Rows of the next block, if n_left are left. A remainder is split evenly: 8 + 1 becomes 5 + 4."""
    if n_left >= 2 * BLOCK_ROWS or n_left == BLOCK_ROWS:
        return BLOCK_ROWS
    return <int>n_left if n_left < BLOCK_ROWS else <int>((n_left + 1) // 2)


cdef inline void block(
        const int n_rows, const int n_vectors, const int tail, Py_ssize_t K,
        const real* A, Py_ssize_t a_row, Py_ssize_t a_k,  # IN
        const real* B, Py_ssize_t b_k,                    # IN
        Py_ssize_t n_last,
        const real* bias, const real* factor,             # IN, or NULL; factor may be C
        real* C, Py_ssize_t c_row,                        # OUT; IN too with ADD
        const int epilogue) noexcept nogil:
    """n_rows x (vectors of the panel) chains in registers: C[r][c] = sum_k A[r][k] B[k][c], from the bias or 0.

    k goes in order. n_rows, n_vectors and tail are constants to the compiler. The last vector (or half vector) of C and
    of the bias has only n_last lanes in memory; all lanes of B can be read. A masked load within the loop over k would
    make GCC 12 keep the chains on the stack.
    """
    cdef vec chain[8][4]
    cdef half half_chain[8]
    cdef vec b[4]
    cdef half half_b
    cdef vec a
    cdef Py_ssize_t k
    cdef int r, c
    cdef const real* B_half = B + n_vectors * LANES
    cdef real* C_half = C + n_vectors * LANES
    for c in range(n_vectors):
        b[c] = broadcast(0)
        if bias != NULL:
            if tail == PARTIAL and c == n_vectors - 1:
                b[c] = load_first(bias + c * LANES, n_last)
            else:
                b[c] = load(bias + c * LANES)
        for r in range(n_rows):
            chain[r][c] = b[c]
    if tail == HALF:
        half_b = half_broadcast(0)
        if bias != NULL:
            half_b = half_load(bias + n_vectors * LANES, n_last)
        for r in range(n_rows):
            half_chain[r] = half_b
    for k in range(K):
        for c in range(n_vectors):
            b[c] = load(B + k * b_k + c * LANES)
        if tail == HALF:
            half_b = half_load_whole(B_half + k * b_k)
        for r in range(n_rows):
            a = broadcast(A[r * a_row + k * a_k])
            for c in range(n_vectors):
                chain[r][c] = vfma(a, b[c], chain[r][c])
            if tail == HALF:
                half_chain[r] = half_fma(lower_half(a), half_b, half_chain[r])
    for r in range(n_rows):
        for c in range(n_vectors):
            if tail == PARTIAL and c == n_vectors - 1:
                if epilogue == ADD:
                    chain[r][c] = load_first(C + r * c_row + c * LANES, n_last) + chain[r][c]
                elif epilogue == TIMES:
                    chain[r][c] = load_first(factor + r * c_row + c * LANES, n_last) * chain[r][c]
                store_first(C + r * c_row + c * LANES, chain[r][c], n_last)
            else:
                if epilogue == ADD:
                    chain[r][c] = load(C + r * c_row + c * LANES) + chain[r][c]
                elif epilogue == TIMES:
                    chain[r][c] = load(factor + r * c_row + c * LANES) * chain[r][c]
                store(C + r * c_row + c * LANES, chain[r][c])
        if tail == HALF:
            if epilogue == ADD:
                half_chain[r] = half_load(C_half + r * c_row, n_last) + half_chain[r]
            elif epilogue == TIMES:
                half_chain[r] = half_load(factor + r * c_row + n_vectors * LANES, n_last) * half_chain[r]
            half_store(C_half + r * c_row, half_chain[r], n_last)


cdef inline void block_of_rows(int n_rows, const int n_vectors, const int tail, Py_ssize_t K,
                               const real* A, Py_ssize_t a_row, Py_ssize_t a_k, const real* B, Py_ssize_t b_k,
                               Py_ssize_t n_last, const real* bias, const real* factor, real* C,
                               Py_ssize_t c_row, const int epilogue) noexcept nogil:
    """`block` with n_rows = 1..BLOCK_ROWS turned into a constant."""
    if n_rows == 8 and BLOCK_ROWS >= 8:
        block(8, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, factor, C, c_row, epilogue)
    elif n_rows == 7 and BLOCK_ROWS >= 7:
        block(7, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, factor, C, c_row, epilogue)
    elif n_rows == 6 and BLOCK_ROWS >= 6:
        block(6, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, factor, C, c_row, epilogue)
    elif n_rows == 5 and BLOCK_ROWS >= 5:
        block(5, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, factor, C, c_row, epilogue)
    elif n_rows == 4:
        block(4, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, factor, C, c_row, epilogue)
    elif n_rows == 3:
        block(3, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, factor, C, c_row, epilogue)
    elif n_rows == 2:
        block(2, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, factor, C, c_row, epilogue)
    else:
        block(1, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, factor, C, c_row, epilogue)


cdef inline void blocks_of_panel(Product t, const int n_vectors, const int tail, Py_ssize_t n_last) noexcept nogil:
    """All rows of a panel, block by block; n_vectors and tail are constants.

    The loop over blocks stands in this function, around `block`, for this reason: GCC 12 unrolls inner loops early,
    before it turns arrays into registers, and outermost loops late. With the loop outside, the chains went through the
    stack on their way in and out, which took a tenth of a sum over 64 rows (86 instead of 94 % of the peak).
    """
    cdef Py_ssize_t r = 0, k, K, a_k
    cdef const real* A
    cdef real* C = t.C
    cdef int n_rows
    while r < t.n_rows:
        n_rows = next_rows(t.n_rows - r)
        a_k = n_rows if t.a_k == BY_BLOCK else t.a_k
        A = t.A + r * t.a_block
        if t.epilogue == TIMES:
            block_of_rows(n_rows, n_vectors, tail, t.K, A, t.a_row, a_k, t.B, t.b_k, n_last, t.bias,
                          t.factor + (C - t.C), C, t.c_row, TIMES)
        else:
            k = 0
            if t.epilogue == OVERWRITE:
                k = min(t.chain_length, t.K)
                block_of_rows(n_rows, n_vectors, tail, k, A, t.a_row, a_k, t.B, t.b_k, n_last, t.bias, NULL, C,
                              t.c_row, OVERWRITE)
            while k < t.K:
                K = min(t.chain_length, t.K - k)
                block_of_rows(n_rows, n_vectors, tail, K, A + k * a_k, t.a_row, a_k, t.B + k * t.b_k, t.b_k, n_last,
                              NULL, NULL, C, t.c_row, ADD)
                k += K
        if t.divisor != 0 and t.divisor != 1:
            divide_rows(n_rows, (n_vectors - (1 if tail != HALF else 0)) * LANES + n_last, C, t.c_row, t.divisor)
        C += n_rows * t.c_row
        r += n_rows
