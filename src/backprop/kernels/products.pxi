# The matrix products of a layer, A B^T, A B and A^T B, and sums of columns.
# Needs: block, packing, vector.
# Gives: the table's scratch_size, forward_product, hidden_sum, weight_gradient and bias_gradient.
#
# All products run on one register block (block.pxd): A is broadcast, B is a panel of vectors.
#
#     function       equation               A (broadcast)             B (vectors)                  C
#     product_ABt    a = h W^T + b          h[s][k]                   W^T[k][j], packed panels     a[s][j]
#     product_AB     grad_h = grad_a W      grad_a[s][m]              W[m][j] as stored            grad_h[s][j]
#     product_AtB    grad_W = grad_a^T h    grad_a[s][u], by column   h[s][j] as stored            grad_W[u][j]
#
# This file is an include, unlike the other parts: a .pxd holds inline functions alone, and `panel_product`, 20 to 150
# KB of machine code, has five callers.

from backprop.kernels.table cimport ADD, CHAIN_ROWS, CONTINUE, OVERWRITE, PACKED, PACK_ONCE, TIMES
from backprop.kernels.vector cimport (
    BLOCK_VECTORS, HAS_HALF, LANES, PARTS, broadcast, divide_scalar, load, load_first, real, store_first, tree_sum, vec,
    vfma,
)
from backprop.kernels.block cimport BY_BLOCK, HALF, PARTIAL, Panel, Product, WHOLE, blocks_of_panel, next_panel
from backprop.kernels.packing cimport NARROW, copy_by_blocks, copy_panel, k_block_of, pack_panel, rows_lie_far_apart

cdef enum:
    COPY_ROWS = 32           # a copied panel must be used by so many rows
    FEW_INPUTS = 4           # up to here grad_W has its lanes over units: a vector over inputs would be mostly empty


cdef inline Product product_of(Py_ssize_t n_rows, Py_ssize_t K, Py_ssize_t chain_length,
                               const real* A, Py_ssize_t a_row, Py_ssize_t a_k, Py_ssize_t a_block) noexcept nogil:
    """A product with a known A: C = A B, from 0, not divided."""
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


cdef void panel_product(const Product* t, const Panel* p) noexcept nogil:
    """C = A B for a panel, whose number of vectors and whose tail become constants."""
    if p.tail == WHOLE:
        if p.n_vectors == 3 and BLOCK_VECTORS >= 3:
            blocks_of_panel(t[0], 3, WHOLE, p.n_last)
        elif p.n_vectors == 2:
            blocks_of_panel(t[0], 2, WHOLE, p.n_last)
        else:
            blocks_of_panel(t[0], 1, WHOLE, p.n_last)
    elif p.tail == PARTIAL:
        if p.n_vectors == 3 and BLOCK_VECTORS >= 3:
            blocks_of_panel(t[0], 3, PARTIAL, p.n_last)
        elif p.n_vectors == 2:
            blocks_of_panel(t[0], 2, PARTIAL, p.n_last)
        else:
            blocks_of_panel(t[0], 1, PARTIAL, p.n_last)
    elif HAS_HALF:
        if p.n_vectors == 2:
            blocks_of_panel(t[0], 2, HALF, p.n_last)
        elif p.n_vectors == 1:
            blocks_of_panel(t[0], 1, HALF, p.n_last)
        else:
            blocks_of_panel(t[0], 0, HALF, p.n_last)


# A B^T: a_i = W_i h_{i-1} + b_i -------------------------------------------------------------------------------------

cdef void product_ABt(
        Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const void* h_, Py_ssize_t ld_h, const void* W_,  # IN
        void* packed_, int packing,                       # IN with PACKED, else OUT
        const void* b_,                                   # IN, or NULL
        void* a_, Py_ssize_t ld_a,                        # OUT; IN too with ADD
        int epilogue) noexcept nogil:
    """a = h W^T + b: for each panel of outputs (packed just before its first use), all blocks of rows."""
    cdef const real* h = <const real*>h_
    cdef const real* W = <const real*>W_
    cdef const real* b = <const real*>b_
    cdef real* packed = <real*>packed_
    cdef real* a = <real*>a_
    cdef Product t = product_of(n_rows, n_in, n_in, h, ld_h, 1, ld_h)
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


cdef inline void dot_block(
        const int n_rows, const int n_units, Py_ssize_t n_in,
        const real* h, Py_ssize_t ld_h, const real* W, const real* b,  # IN; b may be NULL
        real* a, Py_ssize_t ld_a, bint add) noexcept nogil:            # OUT; IN too with add
    """a[s][j] = b[j] + sum_k W[j][k] h[s][k] for few outputs: 64 bytes of lanes over k, then one fixed tree."""
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


cdef void dot_form(
        Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const real* h, Py_ssize_t ld_h, const real* W, const real* b,  # IN; b may be NULL
        real* a, Py_ssize_t ld_a, bint add) noexcept nogil:            # OUT; IN too with add
    """The forward product of a narrow layer. W and h are read as stored."""
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


# A B: grad_{h_i} L = W_{i+1}^T grad_{a_{i+1}} L, with the g' product in its epilogue --------------------------------

cdef Py_ssize_t scratch_size(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """Reals of scratch that product_AB and product_AtB of a layer need for copies of panels."""
    cdef Py_ssize_t panel_width = BLOCK_VECTORS * LANES
    return max(n_out * panel_width, n_rows * (panel_width + n_out), FEW_INPUTS * panel_width)


cdef void product_AB(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t n_next,
        const void* grad_a_next_, Py_ssize_t ld_next, const void* W_next_, Py_ssize_t ld_W,  # IN
        const void* g_prime_,                                                                # IN with TIMES: may be C
        void* grad_h_, Py_ssize_t ld,                                                        # OUT; IN too with ADD
        int epilogue,
        void* scratch_) noexcept nogil:                                                      # overwritten
    """dL/dh_{i,j} = sum_m dL/da_{i+1,m} W_{i+1,m,j}. With TIMES it is multiplied by g'(a) and is dL/da_{i,j}."""
    cdef const real* grad_a_next = <const real*>grad_a_next_
    cdef const real* W_next = <const real*>W_next_
    cdef const real* g_prime = <const real*>g_prime_
    cdef real* grad_h = <real*>grad_h_
    cdef real* scratch = <real*>scratch_
    cdef Product t = product_of(n_rows, n_next, n_next, grad_a_next, ld_next, 1, ld_next)
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


# A^T B: grad_{W_i} L = grad_{a_i} L h_{i-1}^T,   grad_{b_i} L = grad_{a_i} L -----------------------------------------

cdef inline Product sum_over_rows(Py_ssize_t n_rows, Py_ssize_t n_out, const real* grad_a, Py_ssize_t ld_a, int add,
                                  double divisor) noexcept nogil:
    """C[u] = sum_s grad_a[s][u] B[s], or added to C: chains of 64 rows, one after another."""
    cdef Product t = product_of(n_out, n_rows, CHAIN_ROWS, grad_a, 1, ld_a, 1)
    t.epilogue = ADD if add else OVERWRITE
    t.divisor = divisor
    return t


cdef inline void continue_chain(const int n_vectors, Py_ssize_t n_rows,
                                const real* A, Py_ssize_t ld_a, const real* B, Py_ssize_t ld_b,    # IN
                                Py_ssize_t n, real* C) noexcept nogil:                             # IN and OUT
    """n sums of a row of C, as many as n_vectors hold. n_vectors is a constant."""
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


cdef void continue_chains(Py_ssize_t n_rows, Py_ssize_t n_out, Py_ssize_t n,
                          const real* A, Py_ssize_t ld_a, const real* B, Py_ssize_t ld_b,    # IN
                          real* C, Py_ssize_t c_row) noexcept nogil:                         # IN and OUT
    """C[u][j] goes on with sum_s A[s][u] B[s][j].

    This stands apart from the register block, which lost 3 % (15 % at one sample) if its chains could start from C. The
    networks that come here have rows so wide that memory sets the pace.
    """
    cdef Py_ssize_t u, j
    for u in range(n_out):
        j = 0
        while n - j > LANES:
            continue_chain(4, n_rows, A + u, ld_a, B + j, ld_b, n - j, C + u * c_row + j)
            j += 4 * LANES
        if j < n:
            continue_chain(1, n_rows, A + u, ld_a, B + j, ld_b, n - j, C + u * c_row + j)


cdef void product_AtB_of_few_columns(
        Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const real* grad_a, Py_ssize_t ld_a, const real* h, Py_ssize_t ld_h,  # IN
        real* grad_W, Py_ssize_t ld_W, int add,                               # OUT; IN too with add
        double divisor,
        real* sums) noexcept nogil:                                           # overwritten
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
            t = product_of(n_in, chain, chain, h + s * ld_h, 1, ld_h, 1)
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


cdef void product_AtB(
        Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const void* grad_a_, Py_ssize_t ld_a, const void* h_, Py_ssize_t ld_h,  # IN
        void* grad_W_, Py_ssize_t ld_W, int add,                                # OUT; IN too with ADD and CONTINUE
        double divisor,
        void* scratch_) noexcept nogil:                                         # overwritten
    """grad_W[u][j] = sum_s grad_a[s][u] h[s][j]: chains of 64 rows, added to grad_W one after another.

    With CONTINUE the rows are the rest of a chain that grad_W holds. divisor is 0, or what the sum is divided by after
    its last chain.
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
        product_AtB_of_few_columns(n_rows, n_in, n_out, grad_a, ld_a, h, ld_h, grad_W, ld_W, add, divisor, copied_h)
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


cdef void column_sums(Py_ssize_t n_rows, Py_ssize_t n_out,
                      const void* grad_a_, Py_ssize_t ld_a,                     # IN
                      void* grad_b_, int add,                                   # OUT; IN too with ADD and CONTINUE
                      double divisor) noexcept nogil:
    """grad_b[u] = sum_s grad_a[s][u], in the chains of product_AtB: the weight of a unit that is always 1."""
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
