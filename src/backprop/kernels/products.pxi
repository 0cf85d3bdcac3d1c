# The matrix products. All three run on one register block (kernels/block.pxi): A is broadcast, B a panel of vectors.
#
#     product             A (broadcast)             B (vectors)                  C
#     forward             h[s][k]                   W^T[k][j], packed panels     a[s][j]
#     hidden sum          grad_a[s][m]              W[m][j] as stored            grad_h[s][j]
#     weight gradient     grad_a[s][u], by column   h[s][j] as stored            grad_W[u][j]

cdef enum:
    PACK_ROWS = 16           # k's of a panel packed at a time: what is written stays in L1 (784-128: 13 us, not 23)
    LARGE_BYTES = 524288     # but W beyond L2 is read in whole rows, for the prefetcher (1000-3000: 3.9, not 6.3 ms)
    COPY_ROWS = 32           # a copied panel must be used by so many rows
    FEW_INPUTS = 4           # up to here grad_W has its lanes over units: a vector over inputs would be mostly empty
    NARROW = 8               # a forward product with at most so many outputs takes the dot form (docs/kernels.rst)


cdef inline Product product(Py_ssize_t n_rows, Py_ssize_t K, Py_ssize_t chain_length, const real* A, Py_ssize_t a_row,
                            Py_ssize_t a_k, Py_ssize_t a_block) noexcept nogil:
    """A product of which A is known: C = A B, from 0, not divided."""
    cdef Product t
    t.n_rows = n_rows
    t.K = K
    t.chain_length = chain_length
    t.A = A
    t.a_row = a_row
    t.a_k = a_k
    t.a_block = a_block
    t.B = NULL
    t.b_k = 0
    t.bias = NULL
    t.C = NULL
    t.c_row = 0
    t.epilogue = OVERWRITE
    t.factor = NULL
    t.divisor = 0
    return t


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
                          const void* b_, void* a_, Py_ssize_t ld_a, int epilogue) noexcept nogil:
    """a = h W^T + b: for each panel of outputs (packed just before its first use), all blocks of rows."""
    cdef const real* h = <const real*>h_
    cdef const real* W = <const real*>W_
    cdef const real* b = <const real*>b_
    cdef real* packed = <real*>packed_
    cdef real* a = <real*>a_
    cdef Product t = product(n_rows, n_in, n_in, h, ld_h, 1, ld_h)
    cdef Panel p
    cdef Py_ssize_t j = 0
    t.c_row = ld_a
    t.epilogue = epilogue
    if n_out <= NARROW:
        dot_form(n_rows, n_in, n_out, h, ld_h, W, b, a, ld_a, epilogue == ADD)
        return
    while j < n_out:
        p = next_panel(n_out - j)
        if packing != PACKED:
            pack_panel(n_in, min(n_out - j, <Py_ssize_t>p.width), p.width, W + j * n_in, packed,
                       k_block_of(n_in, n_out))
        t.B = packed
        t.b_k = p.width
        if b != NULL:
            t.bias = b + j
        t.C = a + j
        panel_product(&t, &p)
        if packing != PACK_ONCE:
            packed += n_in * p.width
        j += p.width


cdef inline void dot_block(const int n_rows, const int n_units, Py_ssize_t n_in, const real* h, Py_ssize_t ld_h,
                           const real* W, const real* b, real* a, Py_ssize_t ld_a, bint add) noexcept nogil:
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
            a[r * ld_a + u] = (a[r * ld_a + u] if add else 0 if b == NULL else b[u]) + tree_sum(chain[r][u])


cdef void dot_form(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out, const real* h, Py_ssize_t ld_h,
                   const real* W, const real* b, real* a, Py_ssize_t ld_a, bint add) noexcept nogil:
    """The forward product of a narrow layer; W and h are read as stored."""
    cdef Py_ssize_t s = 0, j
    cdef const real* b_j = NULL
    while s < n_rows:
        j = 0
        while j < n_out:
            if b != NULL:
                b_j = b + j
            if n_rows - s >= 4:
                if n_out - j >= 2:
                    dot_block(4, 2, n_in, h + s * ld_h, ld_h, W + j * n_in, b_j, a + s * ld_a + j, ld_a, add)
                else:
                    dot_block(4, 1, n_in, h + s * ld_h, ld_h, W + j * n_in, b_j, a + s * ld_a + j, ld_a, add)
            else:
                if n_out - j >= 2:
                    dot_block(1, 2, n_in, h + s * ld_h, ld_h, W + j * n_in, b_j, a + s * ld_a + j, ld_a, add)
                else:
                    dot_block(1, 1, n_in, h + s * ld_h, ld_h, W + j * n_in, b_j, a + s * ld_a + j, ld_a, add)
            j += 2
        s += 4 if n_rows - s >= 4 else 1


# grad_{h_i} L = W_{i+1}^T grad_{a_{i+1}} L, and the g' product in its epilogue ---------------------------------------

cdef void hidden_sum(Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t n_next, const void* grad_a_next_, Py_ssize_t ld_next,
                     const void* W_next_, Py_ssize_t ld_W, const void* g_prime_, void* grad_h_, Py_ssize_t ld,
                     int epilogue, void* scratch_) noexcept nogil:
    """dL/dh_{i,j} = sum_m dL/da_{i+1,m} W_{i+1,m,j}; with TIMES, times g'(a): dL/da_{i,j}, perhaps in its place."""
    cdef const real* grad_a_next = <const real*>grad_a_next_
    cdef const real* W_next = <const real*>W_next_
    cdef const real* g_prime = <const real*>g_prime_
    cdef real* grad_h = <real*>grad_h_
    cdef real* scratch = <real*>scratch_
    cdef Product t = product(n_rows, n_next, n_next, grad_a_next, ld_next, 1, ld_next)
    cdef Panel p
    cdef Py_ssize_t j = 0
    cdef bint far = rows_lie_far_apart(ld_W) and n_rows >= COPY_ROWS
    t.c_row = ld
    t.epilogue = epilogue
    while j < n:
        p = next_panel(n - j)
        t.B = W_next + j
        t.b_k = ld_W
        if far or j + p.width > n:  # the rows of W have no padding to read
            copy_panel(n_next, p.width, n - j, t.B, ld_W, scratch)
            t.B = scratch
            t.b_k = p.width
        t.C = grad_h + j
        if epilogue == TIMES:
            t.factor = g_prime + j
        panel_product(&t, &p)
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

cdef inline Product sum_over_rows(Py_ssize_t n_rows, Py_ssize_t n_out, const real* grad_a, Py_ssize_t ld_a, int add,
                                  double divisor) noexcept nogil:
    """C[u] = sum_s grad_a[s][u] B[s], or added to C: chains of 64 rows, one after another."""
    cdef Product t = product(n_out, n_rows, CHAIN_ROWS, grad_a, 1, ld_a, 1)
    t.epilogue = ADD if add else OVERWRITE
    t.divisor = divisor
    return t


cdef inline void continue_chain(const int n_vectors, Py_ssize_t n_rows, const real* A, Py_ssize_t ld_a, const real* B,
                                Py_ssize_t ld_b, Py_ssize_t n, real* C) noexcept nogil:
    """n sums of a row of C, as many as n_vectors hold; n_vectors is a constant."""
    cdef vec chain[4]
    cdef vec a
    cdef Py_ssize_t s
    cdef int c
    for c in range(n_vectors):
        chain[c] = load_first(C + c * LANES, n - c * LANES)
    for s in range(n_rows):
        a = broadcast(A[s * ld_a])
        for c in range(n_vectors):
            chain[c] = vfma(a, load_first(B + s * ld_b + c * LANES, n - c * LANES), chain[c])
    for c in range(n_vectors):
        store_first(C + c * LANES, chain[c], n - c * LANES)


cdef void continue_chains(Py_ssize_t n_rows, Py_ssize_t n_out, Py_ssize_t n, const real* A, Py_ssize_t ld_a,
                          const real* B, Py_ssize_t ld_b, real* C, Py_ssize_t c_row) noexcept nogil:
    """C[u][j] goes on with sum_s A[s][u] B[s][j].

    Apart from the register block, which lost 3 % (15 % at one sample) where its chains could start from C: the rows of
    networks that come here are so wide that memory sets the pace.
    """
    cdef Py_ssize_t u, j
    for u in range(n_out):
        j = 0
        while n - j > LANES:
            continue_chain(4, n_rows, A + u, ld_a, B + j, ld_b, n - j, C + u * c_row + j)
            j += 4 * LANES
        if j < n:
            continue_chain(1, n_rows, A + u, ld_a, B + j, ld_b, n - j, C + u * c_row + j)


cdef void weight_gradient(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out, const void* grad_a_, Py_ssize_t ld_a,
                          const void* h_, Py_ssize_t ld_h, void* grad_W_, Py_ssize_t ld_W, int add, double divisor,
                          void* scratch_) noexcept nogil:
    """grad_W[u][j] = sum_s grad_a[s][u] h[s][j]: chains of 64 rows, added to grad_W one after another, or one's rest.

    grad_W's rows lie ld_W apart. divisor is 0, or what the sum is divided by after its last chain.
    """
    cdef const real* grad_a = <const real*>grad_a_
    cdef const real* h = <const real*>h_
    cdef real* grad_W = <real*>grad_W_
    cdef real* copied_h = <real*>scratch_
    cdef real* copied_grad_a = copied_h + n_rows * BLOCK_VECTORS * LANES
    cdef Product t = sum_over_rows(n_rows, n_out, grad_a, ld_a, add, divisor)
    cdef Panel p
    cdef Py_ssize_t j = 0
    cdef bint far = rows_lie_far_apart(ld_a) or rows_lie_far_apart(ld_h)
    if add == CONTINUE:
        if n_in == 1 and ld_W == 1:  # lanes over units
            continue_chains(n_rows, 1, n_out, h, ld_h, grad_a, ld_a, grad_W, 0)
        else:
            continue_chains(n_rows, n_out, n_in, grad_a, ld_a, h, ld_h, grad_W, ld_W)
        return
    t.c_row = ld_W
    if n_in <= FEW_INPUTS and n_in < n_out:
        transposed_weight_gradient(n_rows, n_in, n_out, grad_a, ld_a, h, ld_h, grad_W, ld_W, add, divisor, copied_h)
        return
    if far:
        copy_by_blocks(n_rows, n_out, grad_a, ld_a, copied_grad_a)
        t.A = copied_grad_a
        t.a_k = BY_BLOCK
        t.a_block = n_rows
    while j < n_in:
        p = next_panel(n_in - j)
        t.B = h + j
        t.b_k = ld_h
        if far or j + p.width > ld_h:  # the rows of x have no padding to read
            copy_panel(n_rows, p.width, n_in - j, t.B, ld_h, copied_h)
            t.B = copied_h
            t.b_k = p.width
        t.C = grad_W + j
        panel_product(&t, &p)
        j += p.width


cdef void copy_by_blocks(Py_ssize_t n_rows, Py_ssize_t n_out, const real* grad_a, Py_ssize_t ld_a,
                         real* copied) noexcept nogil:
    """The units of each register block side by side, row after row."""
    cdef Py_ssize_t u = 0, s, j
    cdef int m
    while u < n_out:
        m = next_rows(n_out - u)
        for s in range(n_rows):
            if m == BLOCK_ROWS:
                copy_block(copied + u * n_rows + s * m, grad_a + s * ld_a + u)
            else:
                for j in range(m):
                    copied[u * n_rows + s * m + j] = grad_a[s * ld_a + u + j]
        u += m


cdef void transposed_weight_gradient(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out, const real* grad_a,
                                     Py_ssize_t ld_a, const real* h, Py_ssize_t ld_h, real* grad_W,
                                     Py_ssize_t ld_W, int add, double divisor, real* sums) noexcept nogil:
    """The same chains with lanes over units, for few inputs: sums[j][u], then added to grad_W[u][j]."""
    cdef Py_ssize_t u = 0, v, j, s, chain
    cdef Product t
    cdef Panel p
    cdef real total
    while u < n_out:
        p = next_panel(n_out - u)
        s = 0
        while s < n_rows:
            chain = min(<Py_ssize_t>CHAIN_ROWS, n_rows - s)
            t = product(n_in, chain, chain, h + s * ld_h, 1, ld_h, 1)
            t.B = grad_a + s * ld_a + u
            t.b_k = ld_a
            t.C = sums
            t.c_row = p.width
            panel_product(&t, &p)
            for v in range(min(n_out - u, <Py_ssize_t>p.width)):
                for j in range(n_in):
                    total = sums[j * p.width + v]
                    if add or s > 0:
                        total = grad_W[(u + v) * ld_W + j] + total
                    if divisor != 0 and s + chain == n_rows:
                        total = divide_scalar(total, divisor, 1 / divisor)
                    grad_W[(u + v) * ld_W + j] = total
            s += chain
        u += p.width


cdef void bias_gradient(Py_ssize_t n_rows, Py_ssize_t n_out, const void* grad_a_, Py_ssize_t ld_a,
                        void* grad_b_, int add, double divisor) noexcept nogil:
    """grad_b[u] = sum_s grad_a[s][u], in the chains of weight_gradient: the weight of a unit that is always 1."""
    cdef const real* grad_a = <const real*>grad_a_
    cdef real* grad_b = <real*>grad_b_
    cdef real one = 1
    cdef Product t = sum_over_rows(n_rows, 1, &one, 0, add, divisor)
    cdef Panel p
    cdef Py_ssize_t u = 0
    t.b_k = ld_a
    t.c_row = 0
    if add == CONTINUE:
        continue_chains(n_rows, 1, n_out, &one, 0, grad_a, ld_a, grad_b, 0)
        return
    while u < n_out:
        p = next_panel(n_out - u)
        t.B = grad_a + u
        t.C = grad_b + u
        panel_product(&t, &p)
        u += p.width
