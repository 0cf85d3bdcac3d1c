# The matrix products of a layer, A B^T, A B and A^T B, and sums of columns.
# Needs: vector, block, packing, blocking, dot, few_rows.
# Gives: the table's scratch_size, forward_product, hidden_sum, weight_gradient and bias_gradient.
#
# All products run on the same register blocks (block.h): A is broadcast, B is a panel of vectors.
#
#     function       equation               A (broadcast)             B (vectors)                  C
#     product_ABt    a = h W^T + b          h[s][k]                   W^T[k][j], packed panels     a[s][j]
#     product_AB     grad_h = grad_a W      grad_a[s][m]              W[m][j] as stored            grad_h[s][j]
#     product_AtB    grad_W = grad_a^T h    grad_a[s][u], by column   h[s][j] as stored            grad_W[u][j]
#
# This file is an include, unlike the other parts: a .pxd holds inline functions alone, and `product_in_blocks` has four
# callers.

from backprop.kernels.table cimport (
    ADD, CHAIN_ROWS, CONTINUE, FAR_BYTES, OVERWRITE, PACKED, PACK_ONCE, TIMES,
)
from backprop.kernels.vector cimport BLOCK_VECTORS, LANES, divide_scalar, real
from backprop.kernels.block cimport BY_BLOCK, LINE_BYTES, Fetch, Panel, Product, next_panel, panel_product
from backprop.kernels.packing cimport NARROW, copy_by_blocks, copy_strip, pack_panel
from backprop.kernels.blocking cimport (
    Blocks, blocks_of_chain, blocks_of_chains, blocks_of_rows, copied_size, end_of_block, end_of_strip, get_l2_bytes,
    ld_of_strip,
)
from backprop.kernels.dot cimport dot_form
from backprop.kernels.few_rows cimport (
    FEW_ROWS, HAS_GROUPS, few_rows_product, product_AB_of_one_row, product_AtB_of_few_rows,
)

cdef enum:
    COPY_ROWS = 32           # a copied strip of W must be used by so many rows
    COPY_COLUMNS = 64        # copied units by so many columns
    UNITS_BYTES = 1024       # rows of grad_a from here on are copied (400 wide, v3: 91 % of the peak, not 84)
    FEW_INPUTS = 4           # up to here grad_W has its lanes over units: a vector over inputs would be mostly empty


cdef inline Product product_of(Py_ssize_t n_rows, Py_ssize_t K,
                               const real* A, Py_ssize_t a_row, Py_ssize_t a_k, Py_ssize_t a_block) noexcept nogil:
    """A product with a known A: C = A B, from 0, not divided."""
    cdef Product t
    t.fetch = NULL
    t.n_rows = n_rows
    t.K = K
    t.is_chained = False
    t.A = A
    t.a_row = a_row
    t.a_k = a_k
    t.a_block = a_block
    t.a_start = 0
    t.B = NULL
    t.b_k = 0
    t.start = NULL
    t.start_row = 0
    t.C = NULL
    t.c_row = 0
    t.factor = NULL
    t.fetches_c = False
    t.add = False
    t.divisor = 0
    return t


cdef enum Form:              # of B
    AS_STORED                # B[k][j] at B + k ld + j; a panel that goes beyond n_readable is copied
    COPIED                   # the same; strips of panels are copied
    IN_PANELS                # `panels` holds all panels, one after another
    TRANSPOSED               # B[k][j] at B + j ld + k; panels are packed into `panels`, on the way
    TRANSPOSED_ONCE          # the same, those of a block into the memory of the block before


cdef struct Operand:
    # B of C = A B, the operand whose rows are read in vectors.
    int form
    const real* B            # IN
    Py_ssize_t ld
    Py_ssize_t n_readable    # columns of a row of B
    real* panels             # IN with IN_PANELS, else OUT


cdef inline Operand operand_of(int form, const real* B, Py_ssize_t ld, Py_ssize_t n_readable,
                               real* panels) noexcept nogil:
    """All of an operand."""
    cdef Operand o
    o.form = form
    o.B = B
    o.ld = ld
    o.n_readable = n_readable
    o.panels = panels
    return o


cdef inline real* panel_of(const Operand* o, const Panel* p, Py_ssize_t n, Py_ssize_t K, Py_ssize_t k,
                           Py_ssize_t k_end, Py_ssize_t j, Py_ssize_t j_start, bint is_new) noexcept nogil:
    """The k's from k to k_end of the panel at column j, packed or copied if it is new; NULL if it is read as stored."""
    cdef real* panel = o.panels + (j - j_start) * (k_end - k)
    if o.form == AS_STORED:
        if j + p.width <= o.n_readable:
            return NULL
        if is_new:
            copy_strip(k_end - k, n, j, j + p.width, o.B + k * o.ld, o.ld, panel)
    elif o.form == IN_PANELS or o.form == TRANSPOSED:
        panel = o.panels + j * K + k * p.width
    if is_new and o.form >= TRANSPOSED:
        pack_panel(K, n, k, k_end, p.n, p.width, o.B + j * o.ld, panel)
    return panel


cdef inline void product_of_panels(const Product* whole, Py_ssize_t n, const Operand* o) noexcept nogil:
    """C = A B for n columns, panel by panel: a small product, which needs no blocks."""
    cdef Product t = whole[0]
    cdef Panel p
    cdef Py_ssize_t j = 0
    cdef real* panel
    while j < n:
        p = next_panel(n - j)
        panel = panel_of(o, &p, n, t.K, 0, t.K, j, j, True)
        t.B = o.B + j if panel == NULL else panel
        t.b_k = o.ld if panel == NULL else p.width
        t.C = whole.C + j
        if whole.start != NULL:
            t.start = whole.start + j
        if whole.factor != NULL:
            t.factor = whole.factor + j
        panel_product(&t, &p)
        j += p.width


cdef inline void fetch_beside(Fetch* f, const Operand* o, Py_ssize_t n, Py_ssize_t k, Py_ssize_t k_end, Py_ssize_t j,
                              Py_ssize_t j_end, Py_ssize_t n_blocks) noexcept nogil:
    """Let the next n_blocks register blocks fetch the k's from k to k_end of columns j..j_end-1 of B."""
    cdef Py_ssize_t n_rows = k_end - k, columns = min(j_end, n) - j
    f.row = <const char*>(o.B + k * o.ld + j)
    if o.form != COPIED:
        f.row = <const char*>(o.B + j * o.ld + k)
        n_rows, columns = columns, n_rows
    f.row_bytes = o.ld * sizeof(real)
    f.n_lines = columns * <Py_ssize_t>sizeof(real) // LINE_BYTES + 1
    f.line = 0
    f.left = n_rows * f.n_lines
    f.lines_a_block = (f.left + n_blocks - 1) // max(<Py_ssize_t>1, n_blocks)


cdef void product_in_blocks(const Product* whole, Py_ssize_t n, const Operand* o, const Blocks* b,
                            real* unfinished) noexcept nogil:             # overwritten; NULL if C may hold them
    """C = A B for n columns, strip by strip, block of k's by block, group of rows by group, panel by panel.

    If blocks of k's cut a chain, it waits in `unfinished` for the next block, or in C. If B does not fit into L2, what
    is packed or copied next is fetched beside the product (1000-3000-1000 at 300 samples, v3: 85, not 83 % of the
    peak).
    """
    cdef Product t = whole[0]
    cdef Panel p
    cdef Fetch fetch
    cdef Py_ssize_t j_start = 0, j_end, j, k, k_end, next_j, next_k, row, K = whole.K, ld = whole.c_row, n_blocks
    cdef bint fetches = (o.form != AS_STORED and o.form != IN_PANELS
                         and K * n * <Py_ssize_t>sizeof(real) > get_l2_bytes())
    cdef bint is_chained = whole.is_chained
    cdef real* chains
    cdef real* panel
    if 2 * K < 3 * b.k and 2 * whole.n_rows < 3 * b.rows and o.form != COPIED:
        product_of_panels(whole, n, o)
        return
    if unfinished != NULL:
        ld = ld_of_strip(b)
    if fetches:
        fetch.left = 0
        t.fetch = &fetch
    while j_start < n:
        j_end = end_of_strip(j_start, n, b.strip)
        k = 0
        while True:
            k_end = end_of_block(k, K, b.k)
            next_j = j_start if k_end < K else j_end
            next_k = k_end if k_end < K else 0
            t.K = k_end - k
            t.a_start = k
            t.add = whole.add and (is_chained or k_end == K) or is_chained and k > 0
            t.divisor = whole.divisor if k_end == K else 0
            if o.form == COPIED:
                copy_strip(t.K, n, j_start, j_end, o.B + k * o.ld, o.ld, o.panels)
                if fetches and next_j < n:
                    n_blocks = blocks_of_rows(whole.n_rows) * ((j_end - j_start) // next_panel(n - j_start).width)
                    fetch_beside(&fetch, o, n, next_k, end_of_block(next_k, K, b.k), next_j,
                                 next_j + j_end - j_start, n_blocks)
            row = 0
            while row < whole.n_rows:
                t.n_rows = end_of_block(row, whole.n_rows, b.rows) - row
                t.A = whole.A + row * whole.a_block + (0 if whole.a_k == BY_BLOCK else k * whole.a_k)
                j = j_start
                while j < j_end:
                    p = next_panel(n - j)
                    panel = panel_of(o, &p, n, K, k, k_end, j, j_start, row == 0)
                    if fetches and o.form != COPIED:
                        n_blocks = blocks_of_rows(t.n_rows)
                        if row == 0 and j + p.width < j_end:
                            fetch_beside(&fetch, o, n, k, k_end, j + p.width, j + 2 * p.width, n_blocks)
                        elif row + t.n_rows == whole.n_rows and j + p.width >= j_end and next_j < n:
                            fetch_beside(&fetch, o, n, next_k, end_of_block(next_k, K, b.k), next_j,
                                         next_j + p.width, n_blocks)
                    t.B = o.B + k * o.ld + j if panel == NULL else panel
                    t.b_k = o.ld if panel == NULL else p.width
                    t.C = whole.C + row * whole.c_row + j
                    t.c_row = whole.c_row
                    chains = t.C if unfinished == NULL else unfinished + row * ld + j - j_start
                    t.start = t.factor = NULL
                    if k > 0 and not is_chained:
                        t.start = chains
                        t.start_row = ld
                    elif whole.start != NULL:
                        t.start = whole.start + row * whole.start_row + j
                        t.start_row = whole.start_row
                    if k_end < K and not is_chained:
                        t.C = chains
                        t.c_row = ld
                    elif whole.factor != NULL:
                        t.factor = whole.factor + row * whole.c_row + j
                    panel_product(&t, &p)
                    j += p.width
                row += t.n_rows
            k = k_end
            if k == K:
                break
        j_start = j_end


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
    cdef Product t
    cdef Operand o
    cdef Blocks blocks
    if n_out <= NARROW:
        dot_form(n_rows, n_in, n_out, h, ld_h, W, b, a, ld_a, epilogue == ADD)
        return
    if HAS_GROUPS and 0 < n_rows <= FEW_ROWS and packing == PACK_ONCE and epilogue == OVERWRITE:
        few_rows_product(<int>n_rows, n_in, n_out, h, ld_h, W, b, a, ld_a)
        return
    t = product_of(n_rows, n_in, h, ld_h, 1, ld_h)
    o = operand_of(IN_PANELS if packing == PACKED else TRANSPOSED_ONCE if packing == PACK_ONCE else TRANSPOSED, W, n_in,
                   n_in, packed)
    blocks = blocks_of_chain(n_rows, n_in)
    t.start = b
    t.C = a
    t.c_row = ld_a
    t.add = epilogue == ADD
    if t.add:
        blocks.k = n_in  # the chains cannot wait in a
    product_in_blocks(&t, n_out, &o, &blocks, NULL)


# A B: grad_{h_i} L = W_{i+1}^T grad_{a_{i+1}} L, with the g' product in its epilogue --------------------------------

cdef Py_ssize_t scratch_size(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out, Py_ssize_t n_units) noexcept nogil:
    """Reals of scratch for product_AB of a layer, and for product_AtB of up to n_units of its units."""
    cdef Blocks of_hidden_sum = blocks_of_chain(n_rows, n_out)
    cdef Blocks of_gradient = blocks_of_chains(n_units)
    cdef Py_ssize_t unfinished = n_rows * ld_of_strip(&of_hidden_sum) if n_out > of_hidden_sum.k else 0
    cdef Py_ssize_t gradient = copied_size(&of_gradient, n_rows) + n_rows * n_units
    return max(copied_size(&of_hidden_sum, n_out) + unfinished, gradient,
               <Py_ssize_t>FEW_INPUTS * BLOCK_VECTORS * LANES)


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
    cdef const real* factor = NULL
    cdef real* scratch = <real*>scratch_
    cdef Product t = product_of(n_rows, n_next, grad_a_next, ld_next, 1, ld_next)
    cdef bint far = ld_W * <Py_ssize_t>sizeof(real) >= FAR_BYTES and n_rows >= COPY_ROWS
    cdef Operand o = operand_of(COPIED if far else AS_STORED, W_next, ld_W, n, scratch)
    cdef Blocks blocks = blocks_of_chain(n_rows, n_next)
    if n_rows == 1:
        if epilogue == TIMES:
            factor = g_prime
        product_AB_of_one_row(n, n_next, grad_a_next, W_next, ld_W, factor, grad_h, epilogue == ADD)
        return
    t.C = grad_h
    t.c_row = ld
    t.factor = g_prime if epilogue == TIMES else NULL
    t.add = epilogue == ADD
    product_in_blocks(&t, n, &o, &blocks, NULL if epilogue == OVERWRITE else scratch + copied_size(&blocks, n_next))


# A^T B: grad_{W_i} L = grad_{a_i} L h_{i-1}^T,   grad_{b_i} L = grad_{a_i} L -----------------------------------------

cdef inline Product sum_over_rows(Py_ssize_t n_rows, Py_ssize_t n_out, const real* grad_a, Py_ssize_t ld_a, int add,
                                  double divisor) noexcept nogil:
    """C[u] = sum_s grad_a[s][u] B[s], or added to C: chains of 64 rows, one after another."""
    cdef Product t = product_of(n_out, n_rows, grad_a, 1, ld_a, 1)
    t.add = add == ADD
    t.is_chained = True
    t.divisor = divisor
    return t


cdef void continue_chains(Py_ssize_t n_rows, Py_ssize_t n_out, Py_ssize_t n,
                          const real* A, Py_ssize_t ld_a, const real* B, Py_ssize_t ld_b,    # IN
                          real* C, Py_ssize_t c_row,                                         # IN and OUT
                          real* scratch) noexcept nogil:                                     # overwritten
    """C[u][j] goes on with sum_s A[s][u] B[s][j].

    No entry of B beyond column n is read: B may be a piece of the columns of x, of which the last row ends there.
    """
    cdef Product t = product_of(n_out, n_rows, A, 1, ld_a, 1)
    cdef Operand o = operand_of(AS_STORED, B, ld_b, n, scratch)
    cdef Blocks blocks = blocks_of_chains(n_out)
    t.start = t.C = C
    t.start_row = t.c_row = c_row
    product_in_blocks(&t, n, &o, &blocks, NULL)


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
            t = product_of(n_in, chain, h + s * ld_h, 1, ld_h, 1)
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
    cdef real* scratch = <real*>scratch_
    cdef Product t
    cdef Operand o
    cdef Blocks blocks
    if add == CONTINUE:
        if n_in == 1 and ld_W == 1:  # lanes over units
            continue_chains(n_rows, 1, n_out, h, ld_h, grad_a, ld_a, grad_W, 0, scratch)
        else:
            continue_chains(n_rows, n_out, n_in, grad_a, ld_a, h, ld_h, grad_W, ld_W, scratch)
        return
    if 0 < n_rows <= FEW_ROWS and not (n_in <= FEW_INPUTS and n_in < n_out):
        product_AtB_of_few_rows(n_rows, n_in, n_out, grad_a, ld_a, h, ld_h, grad_W, ld_W, add, divisor)
        return
    if n_in <= FEW_INPUTS and n_in < n_out:
        product_AtB_of_few_columns(n_rows, n_in, n_out, grad_a, ld_a, h, ld_h, grad_W, ld_W, add, divisor, scratch)
        return
    t = sum_over_rows(n_rows, n_out, grad_a, ld_a, add, divisor)
    o = operand_of(COPIED if ld_h * <Py_ssize_t>sizeof(real) >= FAR_BYTES else AS_STORED, h, ld_h, ld_h, scratch)
    blocks = blocks_of_chains(n_out)
    if ld_a * <Py_ssize_t>sizeof(real) >= UNITS_BYTES and n_in >= COPY_COLUMNS:
        t.A = scratch + copied_size(&blocks, n_rows)
        t.a_k = BY_BLOCK
        t.a_block = n_rows
        copy_by_blocks(n_rows, n_out, grad_a, ld_a, scratch + copied_size(&blocks, n_rows))
    t.C = grad_W
    t.c_row = ld_W
    t.fetches_c = ld_W * <Py_ssize_t>sizeof(real) >= FAR_BYTES
    product_in_blocks(&t, n_in, &o, &blocks, NULL)


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
        t.is_chained = False
    while u < n_out:
        p = next_panel(n_out - u)
        t.B = grad_a + u
        t.C = grad_b + u
        t.start = grad_b + u if add == CONTINUE else NULL
        panel_product(&t, &p)
        u += p.width
