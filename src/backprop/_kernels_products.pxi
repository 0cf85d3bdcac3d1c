# The matrix products. All three run on one register block: A is broadcast, B is a panel of vectors.
#
#     product             A (broadcast)             B (vectors)                  C
#     forward             h[s][k]                   W^T[k][j], packed panels     a[s][j]
#     hidden sum          grad_a[s][m]              W[m][j] as stored            grad_h[s][j]
#     weight gradient     grad_a[s][u], by column   h[s][j] as stored            grad_W[u][j]

cdef enum Epilogue:
    OVERWRITE                # C = A B
    ADD                      # C = C + A B
    TIMES                    # C = C (.) A B: C holds g'(a) and becomes grad_a
    OVERWRITE_DIVIDE         # C = A B / divisor
    ADD_DIVIDE               # C = (C + A B) / divisor: the last chain of a sum over samples

cdef enum:
    PACK_ROWS = 16           # k's of a panel packed at a time: what is written stays in L1 (784-128: 13 us, not 23)
    LARGE_BYTES = 524288     # but W beyond L2 is read in whole rows, for the prefetcher (1000-3000: 3.9, not 6.3 ms)
    COPY_ROWS = 32           # a copied panel must be used by so many rows
    FAR_BYTES = 2048         # from here on panels are copied before use; below, copies cost more than they save
    FEW_INPUTS = 4           # up to here grad_W has its lanes over units: a vector over inputs would be mostly empty
    NARROW = 8               # a forward product with at most so many outputs takes the dot form; kernels.md section 2


cdef enum Tail:              # of a panel
    WHOLE                    # all its vectors are whole
    PARTIAL                  # the last one has fewer columns in memory than lanes
    HALF                     # after the vectors comes half a vector


cdef struct Panel:
    # The next columns of B and C that are computed together.
    int n_vectors            # whole or partial
    int tail
    int width                # columns, rounded up to vectors or half vectors
    Py_ssize_t n_last        # lanes of the last one that lie within the matrix


cdef inline Panel next_panel(Py_ssize_t n_left) noexcept nogil:
    """The panel where n_left columns are left; a rest of up to 4 vectors is cut in two, not into three and a stump."""
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
    """Rows of the next block where n_left are left; a remainder is split evenly, 8 + 1 becomes 5 + 4."""
    if n_left >= 2 * BLOCK_ROWS or n_left == BLOCK_ROWS:
        return BLOCK_ROWS
    return <int>n_left if n_left < BLOCK_ROWS else <int>((n_left + 1) // 2)


cdef inline void block(const int n_rows, const int n_vectors, const int tail, Py_ssize_t K,
                       const real* A, Py_ssize_t a_row, Py_ssize_t a_k, const real* B, Py_ssize_t b_k,
                       Py_ssize_t n_last, const real* bias, real* C, Py_ssize_t c_row, int epilogue,
                       double divisor) noexcept nogil:
    """n_rows x (vectors of the panel) chains in registers: C[r][c] from sum_k A[r][k] B[k][c], from the bias or 0.

    k goes in order. n_rows, n_vectors and tail are constants to the compiler. Of the last vector (or half vector) of C
    and of the bias only n_last lanes lie in memory; those of B can all be read. A masked load within the loop over k
    would make GCC 12 keep the chains on the stack.
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
                if epilogue == ADD or epilogue == ADD_DIVIDE:
                    chain[r][c] = load_first(C + r * c_row + c * LANES, n_last) + chain[r][c]
                elif epilogue == TIMES:
                    chain[r][c] = load_first(C + r * c_row + c * LANES, n_last) * chain[r][c]
                if epilogue >= OVERWRITE_DIVIDE:
                    chain[r][c] = divide(chain[r][c], divisor, 1 / divisor)
                store_first(C + r * c_row + c * LANES, chain[r][c], n_last)
            else:
                if epilogue == ADD or epilogue == ADD_DIVIDE:
                    chain[r][c] = load(C + r * c_row + c * LANES) + chain[r][c]
                elif epilogue == TIMES:
                    chain[r][c] = load(C + r * c_row + c * LANES) * chain[r][c]
                if epilogue >= OVERWRITE_DIVIDE:
                    chain[r][c] = divide(chain[r][c], divisor, 1 / divisor)
                store(C + r * c_row + c * LANES, chain[r][c])
        if tail == HALF:
            if epilogue == ADD or epilogue == ADD_DIVIDE:
                half_chain[r] = half_load(C_half + r * c_row, n_last) + half_chain[r]
            elif epilogue == TIMES:
                half_chain[r] = half_load(C_half + r * c_row, n_last) * half_chain[r]
            if epilogue >= OVERWRITE_DIVIDE:
                half_chain[r] = half_divide(half_chain[r], divisor, 1 / divisor)
            half_store(C_half + r * c_row, half_chain[r], n_last)


cdef inline void block_of_rows(int n_rows, const int n_vectors, const int tail, Py_ssize_t K,
                               const real* A, Py_ssize_t a_row, Py_ssize_t a_k, const real* B, Py_ssize_t b_k,
                               Py_ssize_t n_last, const real* bias, real* C, Py_ssize_t c_row,
                               int epilogue, double divisor) noexcept nogil:
    """The block with n_rows = 1..BLOCK_ROWS turned into a constant."""
    if n_rows == 8 and BLOCK_ROWS >= 8:
        block(8, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, C, c_row, epilogue, divisor)
    elif n_rows == 7 and BLOCK_ROWS >= 7:
        block(7, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, C, c_row, epilogue, divisor)
    elif n_rows == 6 and BLOCK_ROWS >= 6:
        block(6, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, C, c_row, epilogue, divisor)
    elif n_rows == 5 and BLOCK_ROWS >= 5:
        block(5, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, C, c_row, epilogue, divisor)
    elif n_rows == 4:
        block(4, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, C, c_row, epilogue, divisor)
    elif n_rows == 3:
        block(3, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, C, c_row, epilogue, divisor)
    elif n_rows == 2:
        block(2, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, C, c_row, epilogue, divisor)
    else:
        block(1, n_vectors, tail, K, A, a_row, a_k, B, b_k, n_last, bias, C, c_row, epilogue, divisor)


cdef void panel(int n_rows, const Panel* p, Py_ssize_t K, const real* A, Py_ssize_t a_row, Py_ssize_t a_k,
                const real* B, Py_ssize_t b_k, const real* bias, real* C, Py_ssize_t c_row,
                int epilogue, double divisor) noexcept nogil:
    """The block with the panel's vectors and tail turned into constants too."""
    if p.tail == WHOLE:
        if p.n_vectors == 3 and BLOCK_VECTORS >= 3:
            block_of_rows(n_rows, 3, WHOLE, K, A, a_row, a_k, B, b_k, p.n_last, bias, C, c_row, epilogue, divisor)
        elif p.n_vectors == 2:
            block_of_rows(n_rows, 2, WHOLE, K, A, a_row, a_k, B, b_k, p.n_last, bias, C, c_row, epilogue, divisor)
        else:
            block_of_rows(n_rows, 1, WHOLE, K, A, a_row, a_k, B, b_k, p.n_last, bias, C, c_row, epilogue, divisor)
    elif p.tail == PARTIAL:
        if p.n_vectors == 3 and BLOCK_VECTORS >= 3:
            block_of_rows(n_rows, 3, PARTIAL, K, A, a_row, a_k, B, b_k, p.n_last, bias, C, c_row, epilogue, divisor)
        elif p.n_vectors == 2:
            block_of_rows(n_rows, 2, PARTIAL, K, A, a_row, a_k, B, b_k, p.n_last, bias, C, c_row, epilogue, divisor)
        else:
            block_of_rows(n_rows, 1, PARTIAL, K, A, a_row, a_k, B, b_k, p.n_last, bias, C, c_row, epilogue, divisor)
    elif HAS_HALF:
        if p.n_vectors == 2:
            block_of_rows(n_rows, 2, HALF, K, A, a_row, a_k, B, b_k, p.n_last, bias, C, c_row, epilogue, divisor)
        elif p.n_vectors == 1:
            block_of_rows(n_rows, 1, HALF, K, A, a_row, a_k, B, b_k, p.n_last, bias, C, c_row, epilogue, divisor)
        else:
            block_of_rows(n_rows, 0, HALF, K, A, a_row, a_k, B, b_k, p.n_last, bias, C, c_row, epilogue, divisor)


# a_i = W_i h_{i-1} + b_i ---------------------------------------------------------------------------------------------

cdef Py_ssize_t packed_size(Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """Reals that the panels of W^T take: columns rounded up to whole vectors; none for the dot form."""
    return 0 if n_out <= NARROW else n_in * ((n_out + LANES - 1) // LANES) * LANES


cdef Py_ssize_t scratch_size(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """Reals of scratch that hidden_sum and weight_gradient of a layer need for copies of panels."""
    cdef Py_ssize_t panel_width = BLOCK_VECTORS * LANES
    return max(n_out * panel_width, n_rows * (panel_width + n_out), FEW_INPUTS * panel_width)


cdef void pack_panel(Py_ssize_t n_in, Py_ssize_t n_columns, int width, const real* W, real* packed,
                     Py_ssize_t k_block) noexcept nogil:
    """packed[k][j] = W[j][k] for one panel of width columns, zeros beyond n_columns; 4 x 4 blocks in registers."""
    cdef Py_ssize_t whole_columns = n_columns // 4 * 4, whole_in = n_in // 4 * 4
    cdef Py_ssize_t j, k, k_start = 0, k_end
    while k_start < n_in:
        k_end = min(k_start + k_block, n_in)
        j = 0
        while j < whole_columns:
            k = k_start
            while k + 4 <= k_end:
                transpose_quad(W + j * n_in + k, n_in, packed + k * width + j, width)
                k += 4
            j += 4
        for j in range(whole_columns, n_columns):
            for k in range(k_start, k_end):
                packed[k * width + j] = W[j * n_in + k]
        k_start = k_end
    for k in range(whole_in, n_in):
        for j in range(whole_columns):
            packed[k * width + j] = W[j * n_in + k]
    if n_columns < width:
        for k in range(n_in):
            for j in range(n_columns, width):
                packed[k * width + j] = 0


cdef inline Py_ssize_t k_block_of(Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """The k's of a panel that are packed at a time."""
    return n_in if n_in * n_out * <Py_ssize_t>sizeof(real) > LARGE_BYTES else PACK_ROWS


cdef inline void copy_panel(Py_ssize_t n_rows, Py_ssize_t width, Py_ssize_t n_columns, const real* source,
                            Py_ssize_t source_row, real* packed) noexcept nogil:
    """packed[k][j] = source[k][j] for a panel of width columns, zeros beyond n_columns."""
    cdef Py_ssize_t k, j
    for k in range(n_rows):
        j = 0
        while j < width:
            store_first(packed + k * width + j, load_first(source + k * source_row + j, n_columns - j), width - j)
            j += LANES


cdef inline bint rows_lie_far_apart(Py_ssize_t ld) noexcept nogil:
    """Whether each row of a panel lies on a page of its own, so that copying the panel pays where it is used often."""
    return ld * <Py_ssize_t>sizeof(real) >= FAR_BYTES


cdef void pack(Py_ssize_t n_in, Py_ssize_t n_out, const void* W_, void* packed_,
               Py_ssize_t j_start, Py_ssize_t j_end) noexcept nogil:
    """The panels of W^T that start within j_start..j_end-1."""
    cdef const real* W = <const real*>W_
    cdef real* packed = <real*>packed_
    cdef Py_ssize_t j = 0
    cdef int width
    if n_out <= NARROW:
        return
    while j < min(n_out, j_end):
        width = next_panel(n_out - j).width
        if j >= j_start:
            pack_panel(n_in, min(n_out - j, <Py_ssize_t>width), width, W + j * n_in, packed, k_block_of(n_in, n_out))
        packed += n_in * width
        j += width


cdef void forward_product(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
                          const void* h_, Py_ssize_t ld_h, const void* W_, void* packed_, int packing,
                          const void* b_, void* a_, Py_ssize_t ld_a) noexcept nogil:
    """a = h W^T + b: for each panel of outputs (packed just before its first use), all blocks of rows."""
    cdef const real* h = <const real*>h_
    cdef const real* W = <const real*>W_
    cdef const real* b = <const real*>b_
    cdef real* packed = <real*>packed_
    cdef real* a = <real*>a_
    cdef Py_ssize_t j = 0, s
    cdef Panel p
    cdef int m
    if n_out <= NARROW:
        dot_form(n_rows, n_in, n_out, h, ld_h, W, b, a, ld_a)
        return
    while j < n_out:
        p = next_panel(n_out - j)
        if packing != PACKED:
            pack_panel(n_in, min(n_out - j, <Py_ssize_t>p.width), p.width, W + j * n_in, packed,
                       k_block_of(n_in, n_out))
        s = 0
        while s < n_rows:
            m = next_rows(n_rows - s)
            panel(m, &p, n_in, h + s * ld_h, ld_h, 1, packed, p.width, b + j, a + s * ld_a + j, ld_a, OVERWRITE, 1)
            s += m
        if packing != PACK_ONCE:
            packed += n_in * p.width
        j += p.width


cdef inline void dot_block(const int n_rows, const int n_units, Py_ssize_t n_in, const real* h, Py_ssize_t ld_h,
                           const real* W, const real* b, real* a, Py_ssize_t ld_a) noexcept nogil:
    """a[s][j] = b[j] + sum_k W[j][k] h[s][k]: 64 bytes of lanes over k, then one fixed tree; few outputs."""
    cdef vec chain[4][2][PARTS]
    cdef vec w[2]
    cdef vec v
    cdef Py_ssize_t k = 0, left
    cdef int r, u, p
    for r in range(n_rows):
        for u in range(n_units):
            for p in range(PARTS):
                chain[r][u][p] = broadcast(0)
    while k + PARTS * LANES <= n_in:
        for p in range(PARTS):
            for u in range(n_units):
                w[u] = load(W + u * n_in + k + p * LANES)
            for r in range(n_rows):
                v = load(h + r * ld_h + k + p * LANES)
                for u in range(n_units):
                    chain[r][u][p] = vfma(w[u], v, chain[r][u][p])
        k += PARTS * LANES
    for p in range(PARTS):
        left = n_in - k - p * LANES
        for u in range(n_units):
            w[u] = load_first(W + u * n_in + k + p * LANES, left)
        for r in range(n_rows):
            v = load_first(h + r * ld_h + k + p * LANES, left)
            for u in range(n_units):
                chain[r][u][p] = vfma(w[u], v, chain[r][u][p])
    for r in range(n_rows):
        for u in range(n_units):
            a[r * ld_a + u] = b[u] + tree_sum(chain[r][u])


cdef void dot_form(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out, const real* h, Py_ssize_t ld_h,
                   const real* W, const real* b, real* a, Py_ssize_t ld_a) noexcept nogil:
    """The forward product of a narrow layer; W and h are read as stored."""
    cdef Py_ssize_t s = 0, j
    while s < n_rows:
        j = 0
        while j < n_out:
            if n_rows - s >= 4:
                if n_out - j >= 2:
                    dot_block(4, 2, n_in, h + s * ld_h, ld_h, W + j * n_in, b + j, a + s * ld_a + j, ld_a)
                else:
                    dot_block(4, 1, n_in, h + s * ld_h, ld_h, W + j * n_in, b + j, a + s * ld_a + j, ld_a)
            else:
                if n_out - j >= 2:
                    dot_block(1, 2, n_in, h + s * ld_h, ld_h, W + j * n_in, b + j, a + s * ld_a + j, ld_a)
                else:
                    dot_block(1, 1, n_in, h + s * ld_h, ld_h, W + j * n_in, b + j, a + s * ld_a + j, ld_a)
            j += 2
        s += 4 if n_rows - s >= 4 else 1


# grad_{h_i} L = W_{i+1}^T grad_{a_{i+1}} L, and the g' product in its epilogue ---------------------------------------

cdef void hidden_sum(Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t n_next, const void* grad_a_next_, Py_ssize_t ld_next,
                     const void* W_next_, void* grad_h_, Py_ssize_t ld, bint times_g_prime,
                     void* scratch_) noexcept nogil:
    """dL/dh_{i,j} = sum_m dL/da_{i+1,m} W_{i+1,m,j}; with times_g_prime, grad_h held g'(a) and becomes dL/da_{i,j}."""
    cdef const real* grad_a_next = <const real*>grad_a_next_
    cdef const real* W_next = <const real*>W_next_
    cdef real* grad_h = <real*>grad_h_
    cdef real* scratch = <real*>scratch_
    cdef const real* B
    cdef Py_ssize_t j = 0, s, ld_B
    cdef Panel p
    cdef int m
    cdef bint far = rows_lie_far_apart(n) and n_rows >= COPY_ROWS
    while j < n:
        p = next_panel(n - j)
        B = W_next + j
        ld_B = n
        if far or j + p.width > n:  # the rows of W have no padding to read
            copy_panel(n_next, p.width, n - j, B, n, scratch)
            B = scratch
            ld_B = p.width
        s = 0
        while s < n_rows:
            m = next_rows(n_rows - s)
            panel(m, &p, n_next, grad_a_next + s * ld_next, ld_next, 1, B, ld_B, NULL, grad_h + s * ld + j, ld,
                  TIMES if times_g_prime else OVERWRITE, 1)
            s += m
        j += p.width


cdef void g_prime_product(Py_ssize_t n_rows, Py_ssize_t n, const void* grad_h_, Py_ssize_t ld_grad_h,
                          void* g_prime_, Py_ssize_t ld) noexcept nogil:
    """dL/da_{i,j} = dL/dh_{i,j} g'(a_{i,j}); g_prime becomes grad_a."""
    cdef const real* grad_h = <const real*>grad_h_
    cdef real* g_prime = <real*>g_prime_
    cdef Py_ssize_t s, j
    for s in range(n_rows):
        for j in range(n):
            g_prime[s * ld + j] = g_prime[s * ld + j] * grad_h[s * ld_grad_h + j]


# grad_{W_i} L = grad_{a_i} L h_{i-1}^T,   grad_{b_i} L = grad_{a_i} L ------------------------------------------------

cdef inline int epilogue_of_sum(bint add, double divisor, bint is_last) noexcept nogil:
    """What is done with a chain of a sum over samples."""
    if divisor != 0 and is_last:
        return ADD_DIVIDE if add else OVERWRITE_DIVIDE
    return ADD if add else OVERWRITE


cdef void weight_gradient(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out, const void* grad_a_, Py_ssize_t ld_a,
                          const void* h_, Py_ssize_t ld_h, void* grad_W_, bint add, double divisor,
                          void* scratch_) noexcept nogil:
    """grad_W[u][j] = sum_s grad_a[s][u] h[s][j]: chains of 64 rows, added to grad_W one after another.

    divisor is 0, or what the sum is divided by after its last chain.
    """
    cdef const real* grad_a = <const real*>grad_a_
    cdef const real* h = <const real*>h_
    cdef real* grad_W = <real*>grad_W_
    cdef real* copied_h = <real*>scratch_
    cdef real* copied_grad_a = copied_h + n_rows * BLOCK_VECTORS * LANES
    cdef const real* A
    cdef const real* B
    cdef Py_ssize_t j = 0, u, s, chain, row_A, row_B
    cdef Panel p
    cdef int m
    cdef bint far = rows_lie_far_apart(ld_a) or rows_lie_far_apart(ld_h)
    if n_in <= FEW_INPUTS and n_in < n_out:
        transposed_weight_gradient(n_rows, n_in, n_out, grad_a, ld_a, h, ld_h, grad_W, add, divisor, copied_h)
        return
    if far:
        u = 0
        while u < n_out:  # blocks of units, each as contiguous rows
            m = next_rows(n_out - u)
            for s in range(n_rows):
                if m == BLOCK_ROWS:
                    copy_block(copied_grad_a + u * n_rows + s * m, grad_a + s * ld_a + u)
                else:
                    for j in range(m):
                        copied_grad_a[u * n_rows + s * m + j] = grad_a[s * ld_a + u + j]
            u += m
    j = 0
    while j < n_in:
        p = next_panel(n_in - j)
        B = h + j
        row_B = ld_h
        if far or j + p.width > ld_h:  # the rows of x have no padding to read
            copy_panel(n_rows, p.width, n_in - j, B, ld_h, copied_h)
            B = copied_h
            row_B = p.width
        u = 0
        while u < n_out:
            m = next_rows(n_out - u)
            A = grad_a + u
            row_A = ld_a
            if far:
                A = copied_grad_a + u * n_rows
                row_A = m
            s = 0
            while s < n_rows:
                chain = min(<Py_ssize_t>CHAIN_ROWS, n_rows - s)
                panel(m, &p, chain, A + s * row_A, 1, row_A, B + s * row_B, row_B, NULL,
                      grad_W + u * n_in + j, n_in, epilogue_of_sum(add or s > 0, divisor, s + chain == n_rows), divisor)
                s += chain
            u += m
        j += p.width


cdef void transposed_weight_gradient(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out, const real* grad_a,
                                     Py_ssize_t ld_a, const real* h, Py_ssize_t ld_h, real* grad_W, bint add,
                                     double divisor, real* sums) noexcept nogil:
    """The same chains with lanes over units, for few inputs: sums[j][u], then added to grad_W[u][j]."""
    cdef Py_ssize_t u = 0, v, j, s, chain
    cdef Panel p
    cdef real total
    cdef int m
    while u < n_out:
        p = next_panel(n_out - u)
        s = 0
        while s < n_rows:
            chain = min(<Py_ssize_t>CHAIN_ROWS, n_rows - s)
            j = 0
            while j < n_in:
                m = next_rows(n_in - j)
                panel(m, &p, chain, h + s * ld_h + j, 1, ld_h, grad_a + s * ld_a + u, ld_a, NULL,
                      sums + j * p.width, p.width, OVERWRITE, 1)
                j += m
            for v in range(min(n_out - u, <Py_ssize_t>p.width)):
                for j in range(n_in):
                    total = sums[j * p.width + v]
                    if add or s > 0:
                        total = grad_W[(u + v) * n_in + j] + total
                    if divisor != 0 and s + chain == n_rows:
                        total = divide_scalar(total, divisor, 1 / divisor)
                    grad_W[(u + v) * n_in + j] = total
            s += chain
        u += p.width


cdef void bias_gradient(Py_ssize_t n_rows, Py_ssize_t n_out, const void* grad_a_, Py_ssize_t ld_a,
                        void* grad_b_, bint add, double divisor) noexcept nogil:
    """grad_b[u] = sum_s grad_a[s][u], in the chains of weight_gradient: the weight of a unit that is always 1."""
    cdef const real* grad_a = <const real*>grad_a_
    cdef real* grad_b = <real*>grad_b_
    cdef Py_ssize_t u = 0, s, chain
    cdef Panel p
    cdef real one = 1
    while u < n_out:
        p = next_panel(n_out - u)
        s = 0
        while s < n_rows:
            chain = min(<Py_ssize_t>CHAIN_ROWS, n_rows - s)
            panel(1, &p, chain, &one, 0, 0, grad_a + s * ld_a + u, ld_a, NULL, grad_b + u, 0,
                  epilogue_of_sum(add or s > 0, divisor, s + chain == n_rows), divisor)
            s += chain
        u += p.width
