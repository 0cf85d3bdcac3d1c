/* W^T in registers: packing, and the forward product of so few rows that packed panels would be read once.
 *
 * A group is 32 bytes of columns of W^T, rows of W. It is transposed 16 bytes of k's at a time: the two halves of a
 * vector are loaded from rows half a group apart, so that only shuffles within halves are left.
 */
#ifndef BACKPROP_KERNELS_TRANSPOSE_H
#define BACKPROP_KERNELS_TRANSPOSE_H

#include "vector.h"

#if BP_SIMD >= 3
#define BP_HAS_GROUPS 1
typedef bp_real bp_group __attribute__((vector_size(32)));
typedef bp_real bp_group_memory __attribute__((vector_size(32), aligned(sizeof(bp_real)), may_alias));
enum { BP_GROUP = 32 / sizeof(bp_real), BP_GROUP_K = 16 / sizeof(bp_real) };

/* t[i][c] = W[c][i], i < BP_GROUP_K, c < BP_GROUP. */
static inline void bp_transpose_group(const bp_real *W, ptrdiff_t ld, bp_group *t)
{
#if BP_FLOAT64
    __m256d r0 = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(W)), _mm_loadu_pd(W + 2 * ld), 1);
    __m256d r1 = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(W + ld)), _mm_loadu_pd(W + 3 * ld), 1);
    t[0] = (bp_group)_mm256_unpacklo_pd(r0, r1);
    t[1] = (bp_group)_mm256_unpackhi_pd(r0, r1);
#else
    const bp_real *V = W + 4 * ld;
    __m256 r0 = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(W)), _mm_loadu_ps(V), 1);
    __m256 r1 = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(W + ld)), _mm_loadu_ps(V + ld), 1);
    __m256 r2 = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(W + 2 * ld)), _mm_loadu_ps(V + 2 * ld), 1);
    __m256 r3 = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(W + 3 * ld)), _mm_loadu_ps(V + 3 * ld), 1);
    __m256 low01 = _mm256_unpacklo_ps(r0, r1), high01 = _mm256_unpackhi_ps(r0, r1);
    __m256 low23 = _mm256_unpacklo_ps(r2, r3), high23 = _mm256_unpackhi_ps(r2, r3);
    t[0] = (bp_group)_mm256_shuffle_ps(low01, low23, 0x44);
    t[1] = (bp_group)_mm256_shuffle_ps(low01, low23, 0xee);
    t[2] = (bp_group)_mm256_shuffle_ps(high01, high23, 0x44);
    t[3] = (bp_group)_mm256_shuffle_ps(high01, high23, 0xee);
#endif
}

/* target[i][c] = W[c][i] as above. */
static inline void bp_pack_group(const bp_real *W, ptrdiff_t ld, bp_real *target, ptrdiff_t target_row)
{
    bp_group t[BP_GROUP_K];
    bp_transpose_group(W, ld, t);
    for (int i = 0; i < BP_GROUP_K; i++)
        *(bp_group_memory *)(target + i * target_row) = t[i];
}

static inline bp_group bp_group_fma(bp_group a, bp_group b, bp_group c)
{
    return (bp_group)BP_CAT(_mm256_fmadd_, BP_SUFFIX)(a, b, c);
}

/* a[r][c] = b[c] + sum_k h[r][k] W[c][k], k in order, for n_rows rows and n_groups groups of columns, which are
 * constants: their chains fill the registers. b may be NULL. */
static inline __attribute__((always_inline)) void bp_rows_times_groups(
    const int n_rows, const int n_groups, ptrdiff_t n_in, const bp_real *h, ptrdiff_t ld_h, const bp_real *W,
    const bp_real *b, bp_real *a, ptrdiff_t ld_a)
{
    bp_group chain[8];
    for (int g = 0; g < n_groups; g++)
        for (int r = 0; r < n_rows; r++)
            chain[g * n_rows + r] = b ? (bp_group) * (const bp_group_memory *)(b + g * BP_GROUP) : (bp_group){0};
    ptrdiff_t k = 0;
    for (; k + BP_GROUP_K <= n_in; k += BP_GROUP_K)
        for (int g = 0; g < n_groups; g++) {
            bp_group t[BP_GROUP_K];
            bp_transpose_group(W + g * BP_GROUP * n_in + k, n_in, t);
            for (int i = 0; i < BP_GROUP_K; i++)
                for (int r = 0; r < n_rows; r++)
                    chain[g * n_rows + r] =
                        bp_group_fma(h[r * ld_h + k + i] - (bp_group){0}, t[i], chain[g * n_rows + r]);
        }
    for (; k < n_in; k++)
        for (int g = 0; g < n_groups; g++) {
            bp_group column;
            for (int c = 0; c < BP_GROUP; c++)
                column[c] = W[(g * BP_GROUP + c) * n_in + k];
            for (int r = 0; r < n_rows; r++)
                chain[g * n_rows + r] = bp_group_fma(h[r * ld_h + k] - (bp_group){0}, column, chain[g * n_rows + r]);
        }
    for (int g = 0; g < n_groups; g++)
        for (int r = 0; r < n_rows; r++)
            *(bp_group_memory *)(a + r * ld_a + g * BP_GROUP) = chain[g * n_rows + r];
}

/* The same for all columns, at least a group of them. If the last group is not whole, it begins earlier and computes
 * some columns again. */
static void bp_few_rows_product(int n_rows, ptrdiff_t n_in, ptrdiff_t n_out, const bp_real *h, ptrdiff_t ld_h,
                                const bp_real *W, const bp_real *b, bp_real *a, ptrdiff_t ld_a)
{
    int n_groups = n_rows == 1 ? 8 : n_rows == 2 ? 4 : 2;
    for (ptrdiff_t j = 0; j < n_out; j += n_groups * BP_GROUP) {
        while (n_groups > 1 && n_groups * BP_GROUP > n_out - j)
            n_groups /= 2;
        if (BP_GROUP > n_out - j)
            j = n_out - BP_GROUP;
        const bp_real *W_j = W + j * n_in, *b_j = b ? b + j : NULL;
#define BP_CASE(ROWS, GROUPS)                                                                                          \
    case 8 * ROWS + GROUPS:                                                                                            \
        bp_rows_times_groups(ROWS, GROUPS, n_in, h, ld_h, W_j, b_j, a + j, ld_a);                                      \
        break;
        switch (8 * n_rows + n_groups) {
            BP_CASE(1, 8)
            BP_CASE(1, 4)
            BP_CASE(1, 2)
            BP_CASE(1, 1)
            BP_CASE(2, 4)
            BP_CASE(2, 2)
            BP_CASE(2, 1)
            BP_CASE(3, 2)
            BP_CASE(3, 1)
            BP_CASE(4, 2)
            BP_CASE(4, 1)
        }
#undef BP_CASE
    }
}
#else
#define BP_HAS_GROUPS 0
enum { BP_GROUP = 4, BP_GROUP_K = 4 };
static inline void bp_pack_group(const bp_real *W, ptrdiff_t ld, bp_real *target, ptrdiff_t target_row)
{
    bp_transpose_quad(W, ld, target, target_row);
}
static inline void bp_few_rows_product(int n_rows, ptrdiff_t n_in, ptrdiff_t n_out, const bp_real *h, ptrdiff_t ld_h,
                                       const bp_real *W, const bp_real *b, bp_real *a, ptrdiff_t ld_a)
{
    (void)n_rows, (void)n_in, (void)n_out, (void)h, (void)ld_h, (void)W, (void)b, (void)a, (void)ld_a;
}
#endif

#endif
