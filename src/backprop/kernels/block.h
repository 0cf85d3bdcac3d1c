/* The register block on which all matrix products run: C = A B for one panel of columns. A is broadcast, B is a panel.
 *
 * There is one function for each number of rows and of vectors, which goes through all blocks of so many rows. The
 * chains of a block stay in registers: they are variables with names, which macros make. With arrays of chains GCC 12
 * went through the stack, or not, by chance: that took up to 40 cycles a block (v3; 64 k's of 6 x 2 vectors take 384).
 * This form takes 4 to 6. For the same reason the functions are not inline.
 */
#ifndef BACKPROP_KERNELS_BLOCK_H
#define BACKPROP_KERNELS_BLOCK_H

#include "rows.h"
#include "vector.h"

enum { BP_LINE_BYTES = 64 }; /* of a cache line */

/* What is fetched into L2 beside a product, some cache lines for each register block: pieces of rows of the operand
 * that is packed or copied next. */
typedef struct {
    const char *row;
    ptrdiff_t row_bytes;          /* from a row to the next */
    ptrdiff_t n_lines, line;      /* of a row's piece; of these the next one */
    ptrdiff_t left, lines_a_block;
} bp_fetch;

static void __attribute__((noinline)) bp_fetch_some(bp_fetch *f)
{
    ptrdiff_t n = f->lines_a_block < f->left ? f->lines_a_block : f->left;
    f->left -= n;
    for (; n > 0; n--) {
        __builtin_prefetch(f->row + BP_LINE_BYTES * f->line, 0, 2);
        if (++f->line == f->n_lines) {
            f->line = 0;
            f->row += f->row_bytes;
        }
    }
}

typedef struct {
    bp_fetch *fetch;              /* IN and OUT; or NULL */
    ptrdiff_t n_rows, K;
    int is_chained;               /* whether a sum is several chains of BP_CHAIN_ROWS k's, one after another */
    const bp_real *A;             /* IN: A[r][k] at A + r a_row + k a_k */
    ptrdiff_t a_row, a_k;         /* a_k may be BP_BY_BLOCK */
    ptrdiff_t a_block;            /* a block whose first row is r starts at A + r a_block */
    ptrdiff_t a_start;            /* k's of A that are left out, with BP_BY_BLOCK */
    const bp_real *B;             /* IN: B[k] at B + k b_k; all its lanes can be read */
    ptrdiff_t b_k;
    const bp_real *start;         /* IN: row r at start + r start_row: what the chains start from; NULL for 0 */
    ptrdiff_t start_row;          /* 0 if start is a bias; it may be C */
    const bp_real *factor;        /* IN: C is multiplied by it, which is laid out as C and may be C; or NULL */
    bp_real *C;                   /* OUT; IN too with add */
    ptrdiff_t c_row;
    int fetches_c;                /* whether C is so large that a block fetches the lines of the next one */
    int add;                      /* whether the sum is added to C */
    double divisor;               /* of C after the last chain, or 0 */
} bp_product;

/* CHAIN_ROWS of table.pxd. A field of bp_product instead of a constant cost 3 % (8-64-64-2 at 64 samples, v3). */
enum { BP_CHAIN_ROWS = 64 };
enum { BP_BY_BLOCK = -1 }; /* as a_k: from one k of A to the next are as many reals as the block has rows */

/* How a vector is read and written: WHOLE; PART, of which n_last lanes are in memory; HALF, half a vector as long. */
#define BP_TYPE_WHOLE bp_vec
#define BP_TYPE_PART bp_vec
#define BP_TYPE_HALF bp_half
#define BP_LOAD_WHOLE bp_load
#define BP_LOAD_PART bp_load
#define BP_LOAD_HALF bp_half_load_whole
#define BP_FMA_WHOLE bp_fma
#define BP_FMA_PART bp_fma
#define BP_FMA_HALF(a, b, c) bp_half_fma(bp_lower_half(a), b, c)
#define BP_READ_WHOLE(p) bp_load(p)
#define BP_READ_PART(p) bp_load_first(p, n_last)
#define BP_READ_HALF(p) bp_half_load(p, n_last)
#define BP_WRITE_WHOLE(p, v) bp_store(p, v)
#define BP_WRITE_PART(p, v) bp_store_first(p, v, n_last)
#define BP_WRITE_HALF(p, v) bp_half_store(p, v, n_last)

/* The vectors of a row: DO(the arguments, vector, how). */
#define BP_VECTORS_1(DO, ...) DO(__VA_ARGS__, 0, WHOLE)
#define BP_VECTORS_2(DO, ...) DO(__VA_ARGS__, 0, WHOLE) DO(__VA_ARGS__, 1, WHOLE)
#define BP_VECTORS_3(DO, ...) BP_VECTORS_2(DO, __VA_ARGS__) DO(__VA_ARGS__, 2, WHOLE)
#define BP_VECTORS_1_PART(DO, ...) DO(__VA_ARGS__, 0, PART)
#define BP_VECTORS_2_PART(DO, ...) DO(__VA_ARGS__, 0, WHOLE) DO(__VA_ARGS__, 1, PART)
#define BP_VECTORS_3_PART(DO, ...) BP_VECTORS_2(DO, __VA_ARGS__) DO(__VA_ARGS__, 2, PART)
#define BP_VECTORS_0_HALF(DO, ...) DO(__VA_ARGS__, 0, HALF)
#define BP_VECTORS_1_HALF(DO, ...) DO(__VA_ARGS__, 0, WHOLE) DO(__VA_ARGS__, 1, HALF)
#define BP_VECTORS_2_HALF(DO, ...) BP_VECTORS_2(DO, __VA_ARGS__) DO(__VA_ARGS__, 2, HALF)

/* The rows of a block: DO(vectors, row, the row 0, 3 or 6 whose pointer it has, and the rows from there). */
#define BP_ROWS_1(DO, V) DO(V, 0, 0, 0)
#define BP_ROWS_2(DO, V) BP_ROWS_1(DO, V) DO(V, 1, 0, 1)
#define BP_ROWS_3(DO, V) BP_ROWS_2(DO, V) DO(V, 2, 0, 2)
#define BP_ROWS_4(DO, V) BP_ROWS_3(DO, V) DO(V, 3, 3, 0)
#define BP_ROWS_5(DO, V) BP_ROWS_4(DO, V) DO(V, 4, 3, 1)
#define BP_ROWS_6(DO, V) BP_ROWS_5(DO, V) DO(V, 5, 3, 2)
#define BP_ROWS_7(DO, V) BP_ROWS_6(DO, V) DO(V, 6, 6, 0)
#define BP_ROWS_8(DO, V) BP_ROWS_7(DO, V) DO(V, 7, 6, 1)

/* What is done with an entry, which is vector c of row r = r_0 + m, and with a row. */
#define BP_DECLARE_B(r, r_0, m, c, HOW) BP_TYPE_##HOW b_##c;
#define BP_LOAD_B(r, r_0, m, c, HOW) b_##c = BP_LOAD_##HOW(B + c * BP_LANES);
#define BP_DECLARE(r, r_0, m, c, HOW) BP_TYPE_##HOW chain_##r##_##c;
#define BP_ZERO(r, r_0, m, c, HOW) chain_##r##_##c = (BP_TYPE_##HOW){0};
#define BP_START(r, r_0, m, c, HOW) chain_##r##_##c = BP_READ_##HOW(start_##r_0 + m * start_row + c * BP_LANES);
#define BP_STEP(r, r_0, m, c, HOW) chain_##r##_##c = BP_FMA_##HOW(a, b_##c, chain_##r##_##c);
#define BP_ADD(r, r_0, m, c, HOW)                                                                                      \
    chain_##r##_##c = BP_READ_##HOW(C_##r_0 + m * c_row + c * BP_LANES) + chain_##r##_##c;
#define BP_TIMES(r, r_0, m, c, HOW)                                                                                    \
    chain_##r##_##c = BP_READ_##HOW(factor_##r_0 + m * c_row + c * BP_LANES) * chain_##r##_##c;
#define BP_STORE(r, r_0, m, c, HOW) BP_WRITE_##HOW(C_##r_0 + m * c_row + c * BP_LANES, chain_##r##_##c);
#define BP_PREFETCH(r, r_0, m, c, HOW) __builtin_prefetch(next_##r_0 + m * c_row + c * BP_LANES, 1);
#define BP_PREFETCH_ROW(V, ...) BP_VECTORS_##V(BP_PREFETCH, __VA_ARGS__)
#define BP_DECLARE_ROW(V, ...) BP_VECTORS_##V(BP_DECLARE, __VA_ARGS__)
#define BP_ZERO_ROW(V, ...) BP_VECTORS_##V(BP_ZERO, __VA_ARGS__)
#define BP_START_ROW(V, ...) BP_VECTORS_##V(BP_START, __VA_ARGS__)
#define BP_STEP_ROW(V, r, r_0, m)                                                                                      \
    a = bp_broadcast(A_##r_0[m * a_row]);                                                                              \
    BP_VECTORS_##V(BP_STEP, r, r_0, m)
#define BP_ADD_ROW(V, ...) BP_VECTORS_##V(BP_ADD, __VA_ARGS__)
#define BP_TIMES_ROW(V, ...) BP_VECTORS_##V(BP_TIMES, __VA_ARGS__)
#define BP_STORE_ROW(V, ...) BP_VECTORS_##V(BP_STORE, __VA_ARGS__)

/* sum_k A[r][k] B[k][c], k in order, added to the chains. */
#define BP_SUM(R, V, A, B, n)                                                                                          \
    {                                                                                                                  \
        const bp_real *A_0 = A, *A_3 = A_0 + 3 * a_row, *A_6 = A_3 + 3 * a_row;                                        \
        bp_vec a;                                                                                                      \
        BP_VECTORS_##V(BP_DECLARE_B, 0, 0, 0)                                                                          \
        for (ptrdiff_t k = n; k > 0; k--) {                                                                            \
            BP_VECTORS_##V(BP_LOAD_B, 0, 0, 0)                                                                         \
            BP_ROWS_##R(BP_STEP_ROW, V)                                                                                \
            A_0 += a_k, A_3 += a_k, A_6 += a_k, B += b_k;                                                              \
        }                                                                                                              \
    }

/* One chain: C[r][c] = start[r][c] + sum_k A[r][k] B[k][c], and its epilogue. */
#define BP_CHAIN(R, V)                                                                                                 \
    static void __attribute__((noinline))                                                                              \
    bp_chain_##R##_##V(const bp_product *t, ptrdiff_t row, ptrdiff_t n_blocks, ptrdiff_t n, ptrdiff_t n_last)          \
    {                                                                                                                  \
        const ptrdiff_t a_row = t->a_row, a_k = t->a_k, b_k = t->b_k, c_row = t->c_row;                                \
        const bp_real *A = t->A + row * t->a_block;                                                                    \
        bp_real *C = t->C + row * c_row;                                                                               \
        (void)n, (void)n_last;                                                                                         \
        do {                                                                                                           \
            if (t->fetch)                                                                                              \
                bp_fetch_some(t->fetch);                                                                               \
            const bp_real *B = t->B;                                                                                   \
            bp_real *C_0 = C, *C_3 = C_0 + 3 * c_row, *C_6 = C_3 + 3 * c_row;                                          \
            BP_ROWS_##R(BP_DECLARE_ROW, V)                                                                             \
            (void)C_3, (void)C_6;                                                                                      \
            if (t->start) {                                                                                            \
                const ptrdiff_t start_row = t->start_row;                                                              \
                const bp_real *start_0 = t->start + row * start_row, *start_3 = start_0 + 3 * start_row;               \
                const bp_real *start_6 = start_3 + 3 * start_row;                                                      \
                (void)start_3, (void)start_6;                                                                          \
                BP_ROWS_##R(BP_START_ROW, V)                                                                           \
            } else {                                                                                                   \
                BP_ROWS_##R(BP_ZERO_ROW, V)                                                                            \
            }                                                                                                          \
            BP_SUM(R, V, A, B, t->K)                                                                                   \
            if (t->add) {                                                                                              \
                BP_ROWS_##R(BP_ADD_ROW, V)                                                                             \
            }                                                                                                          \
            if (t->factor) {                                                                                           \
                const bp_real *factor_0 = t->factor + row * c_row, *factor_3 = factor_0 + 3 * c_row;                   \
                const bp_real *factor_6 = factor_3 + 3 * c_row;                                                        \
                (void)factor_3, (void)factor_6;                                                                        \
                BP_ROWS_##R(BP_TIMES_ROW, V)                                                                           \
            }                                                                                                          \
            BP_ROWS_##R(BP_STORE_ROW, V)                                                                               \
            row += R;                                                                                                  \
            A += R * t->a_block;                                                                                       \
            C += R * c_row;                                                                                            \
        } while (--n_blocks);                                                                                          \
    }

/* Several chains, one after another: C[r][c] = sum_k A[r][k] B[k][c], or added to C, and then divided. */
#define BP_CHAINS(R, V)                                                                                                \
    static void __attribute__((noinline))                                                                              \
    bp_chains_##R##_##V(const bp_product *t, ptrdiff_t row, ptrdiff_t n_blocks, ptrdiff_t n, ptrdiff_t n_last)         \
    {                                                                                                                  \
        const ptrdiff_t a_row = t->a_row, a_k = t->a_k == BP_BY_BLOCK ? R : t->a_k, b_k = t->b_k, c_row = t->c_row;    \
        const bp_real *A_block = t->A + row * t->a_block + (t->a_k == BP_BY_BLOCK ? R * t->a_start : 0);               \
        bp_real *C = t->C + row * c_row;                                                                               \
        (void)n_last;                                                                                                  \
        do {                                                                                                           \
            if (t->fetch)                                                                                              \
                bp_fetch_some(t->fetch);                                                                               \
            const bp_real *A = A_block, *B = t->B;                                                                     \
            bp_real *C_0 = C, *C_3 = C_0 + 3 * c_row, *C_6 = C_3 + 3 * c_row;                                          \
            ptrdiff_t left = t->K;                                                                                     \
            int add = t->add;                                                                                          \
            if (t->fetches_c) {                                                                                        \
                const bp_real *next_0 = C + R * c_row, *next_3 = next_0 + 3 * c_row, *next_6 = next_3 + 3 * c_row;     \
                (void)next_3, (void)next_6;                                                                            \
                BP_ROWS_##R(BP_PREFETCH_ROW, V)                                                                        \
            }                                                                                                          \
            (void)C_3, (void)C_6;                                                                                      \
            do {                                                                                                       \
                const ptrdiff_t length = left < BP_CHAIN_ROWS ? left : BP_CHAIN_ROWS;                                  \
                BP_ROWS_##R(BP_DECLARE_ROW, V)                                                                         \
                BP_ROWS_##R(BP_ZERO_ROW, V)                                                                            \
                BP_SUM(R, V, A, B, length)                                                                             \
                A += length * a_k;                                                                                     \
                if (add) {                                                                                             \
                    BP_ROWS_##R(BP_ADD_ROW, V)                                                                         \
                }                                                                                                      \
                BP_ROWS_##R(BP_STORE_ROW, V)                                                                           \
                add = 1;                                                                                               \
                left -= length;                                                                                        \
            } while (left);                                                                                            \
            if (t->divisor != 0 && t->divisor != 1)                                                                    \
                bp_divide_rows(R, n, C, c_row, t->divisor);                                                            \
            A_block += R * t->a_block;                                                                                 \
            C += R * c_row;                                                                                            \
        } while (--n_blocks);                                                                                          \
    }

/* The functions of a shape by rows less one. BP_BLOCK_ROWS rows of the most vectors fill the registers. */
#if BP_SIMD == 4
#define BP_BLOCKS(BLOCK, V)                                                                                            \
    BLOCK(1, V) BLOCK(2, V) BLOCK(3, V) BLOCK(4, V) BLOCK(5, V) BLOCK(6, V) BLOCK(7, V) BLOCK(8, V)
#define BP_NAMES(NAME, V)                                                                                              \
    {NAME##_1_##V, NAME##_2_##V, NAME##_3_##V, NAME##_4_##V,                                                           \
     NAME##_5_##V, NAME##_6_##V, NAME##_7_##V, NAME##_8_##V}
#elif BP_SIMD == 3
#define BP_BLOCKS(BLOCK, V)                                                                                            \
    BLOCK(1, V) BLOCK(2, V) BLOCK(3, V) BLOCK(4, V) BLOCK(5, V) BLOCK(6, V)
#define BP_NAMES(NAME, V)                                                                                              \
    {NAME##_1_##V, NAME##_2_##V, NAME##_3_##V, NAME##_4_##V, NAME##_5_##V, NAME##_6_##V}
#else
#define BP_BLOCKS(BLOCK, V) BLOCK(1, V) BLOCK(2, V) BLOCK(3, V) BLOCK(4, V)
#define BP_NAMES(NAME, V) {NAME##_1_##V, NAME##_2_##V, NAME##_3_##V, NAME##_4_##V}
#endif

typedef void bp_block_function(const bp_product *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t);
/* The tail of a panel: its last vector is whole, or not; or half a vector follows. */
typedef enum { BP_WHOLE, BP_PART, BP_HALF } bp_tail;

#if BP_SIMD == 4
#define BP_SHAPES(BLOCK)                                                                                               \
    BP_BLOCKS(BLOCK, 1) BP_BLOCKS(BLOCK, 2) BP_BLOCKS(BLOCK, 3)                                                        \
    BP_BLOCKS(BLOCK, 1_PART) BP_BLOCKS(BLOCK, 2_PART) BP_BLOCKS(BLOCK, 3_PART)                                         \
    BP_BLOCKS(BLOCK, 0_HALF) BP_BLOCKS(BLOCK, 1_HALF) BP_BLOCKS(BLOCK, 2_HALF)
#define BP_TABLE(NAME)                                                                                                 \
    {{{0}, BP_NAMES(NAME, 1), BP_NAMES(NAME, 2), BP_NAMES(NAME, 3)},                                                   \
     {{0}, BP_NAMES(NAME, 1_PART), BP_NAMES(NAME, 2_PART), BP_NAMES(NAME, 3_PART)},                                    \
     {BP_NAMES(NAME, 0_HALF), BP_NAMES(NAME, 1_HALF), BP_NAMES(NAME, 2_HALF)}}
#else
#define BP_SHAPES(BLOCK)                                                                                               \
    BP_BLOCKS(BLOCK, 1) BP_BLOCKS(BLOCK, 2) BP_BLOCKS(BLOCK, 1_PART) BP_BLOCKS(BLOCK, 2_PART)
#define BP_TABLE(NAME)                                                                                                 \
    {{{0}, BP_NAMES(NAME, 1), BP_NAMES(NAME, 2)}, {{0}, BP_NAMES(NAME, 1_PART), BP_NAMES(NAME, 2_PART)}}
#endif
BP_SHAPES(BP_CHAIN)
BP_SHAPES(BP_CHAINS)
static bp_block_function *const bp_block_functions[2][3][4][BP_BLOCK_ROWS] = {BP_TABLE(bp_chain), BP_TABLE(bp_chains)};

/* Rows of the next block, if n are left. A remainder is split evenly: 8 + 1 becomes 5 + 4. */
static inline int bp_next_rows(ptrdiff_t n)
{
    if (n >= 2 * BP_BLOCK_ROWS || n == BP_BLOCK_ROWS)
        return BP_BLOCK_ROWS;
    return (int)(n < BP_BLOCK_ROWS ? n : (n + 1) / 2);
}

/* C = A B for a panel of n columns, with n_vectors vectors and that tail. */
static inline void bp_panel_product(const bp_product *t, ptrdiff_t n, int n_vectors, bp_tail tail)
{
    bp_block_function *const *functions = bp_block_functions[t->is_chained][tail][n_vectors];
    ptrdiff_t whole = t->n_rows / BP_BLOCK_ROWS, row = 0;
    ptrdiff_t n_last = n - (tail == BP_HALF ? n_vectors : n_vectors - 1) * BP_LANES;
    if (t->n_rows % BP_BLOCK_ROWS && whole > 0)
        whole--;
    if (whole > 0) {
        functions[BP_BLOCK_ROWS - 1](t, 0, whole, n, n_last);
        row = whole * BP_BLOCK_ROWS;
    }
    while (row < t->n_rows) {
        int n_rows = bp_next_rows(t->n_rows - row);
        functions[n_rows - 1](t, row, 1, n, n_last);
        row += n_rows;
    }
}

#endif
