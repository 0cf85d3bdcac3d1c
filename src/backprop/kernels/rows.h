/* Rows of any length: division at the end of a sum, copies that go past the caches, sums of squares. */
#ifndef BACKPROP_KERNELS_ROWS_H
#define BACKPROP_KERNELS_ROWS_H

#include "vector.h"

/* C = C / divisor for some rows, which the cache still holds. A power of two, as with one sample, needs no float64 on
 * the way: 784-128-10 at one sample takes 23 us, not 35. Not inline: each block of each product would have a copy. */
static void bp_divide_rows(int n_rows, ptrdiff_t n, bp_real *C, ptrdiff_t c_row, double divisor)
{
    double reciprocal = 1 / divisor;
    bp_vec factor = bp_broadcast((bp_real)reciprocal);
    ptrdiff_t j;
    if (bp_is_power_of_two(divisor)) {
        for (int r = 0; r < n_rows; r++, C += c_row) {
            for (j = 0; j + BP_LANES <= n; j += BP_LANES)
                bp_store(C + j, bp_load(C + j) * factor);
            if (j < n)
                bp_store_first(C + j, bp_load_first(C + j, n - j) * factor, n - j);
        }
        return;
    }
    for (int r = 0; r < n_rows; r++, C += c_row) {
        for (j = 0; j + BP_LANES <= n; j += BP_LANES)
            bp_store(C + j, bp_divide(bp_load(C + j), divisor, reciprocal));
        if (j < n)
            bp_store_first(C + j, bp_divide(bp_load_first(C + j, n - j), divisor, reciprocal), n - j);
    }
}

/* to[i] = from[i], for a `to` far larger than the caches: whole lines go past them. An ordinary store first reads the
 * line from memory (a result of 170 MB takes 27 ms with such stores, 9 ms with these). */
static inline void bp_stream(ptrdiff_t n, const bp_real *from, bp_real *to)
{
#if BP_SIMD
    ptrdiff_t before = (ptrdiff_t)(-(uintptr_t)to % 64 / sizeof(bp_real)), i;
    before = before < n ? before : n;
    memcpy(to, from, (size_t)before * sizeof(bp_real));
    for (i = before; i + (ptrdiff_t)(64 / sizeof(bp_real)) <= n; i += 64 / sizeof(bp_real))
#if BP_SIMD == 4
        _mm512_stream_si512((void *)(to + i), _mm512_loadu_si512(from + i));
#else
        for (int part = 0; part < 64; part += 16)
            _mm_stream_si128((__m128i *)((char *)(to + i) + part),
                             _mm_loadu_si128((const __m128i *)((const char *)(from + i) + part)));
#endif
    memcpy(to + i, from + i, (size_t)(n - i) * sizeof(bp_real));
    _mm_sfence(); /* so that other threads see the stores */
#else
    memcpy(to, from, (size_t)n * sizeof(bp_real));
#endif
}

/* Eight float64, the lanes of sums of squares on every instruction set. They are vectors as long as registers: GCC 12
 * keeps a vector of 64 bytes in memory if registers are shorter, and a sum then waits for it in each turn. */
typedef double bp_doubles __attribute__((vector_size(BP_BYTES)));
typedef struct {
    bp_doubles part[BP_PARTS];
} bp_wide;

/* The sum of eight lanes by one fixed tree: the upper half is added to the lower until one lane is left. */
static inline double bp_wide_sum(bp_wide sum)
{
    typedef double half __attribute__((vector_size(32)));
    typedef double quarter __attribute__((vector_size(16)));
    half h[2];
    quarter q[2];
    memcpy(h, &sum, sizeof h);
    h[0] += h[1];
    memcpy(q, &h[0], sizeof q);
    q[0] += q[1];
    return q[0][0] + q[0][1];
}

/* Eight reals from memory as float64. */
static inline bp_wide bp_load_wide(const bp_real *p)
{
    bp_wide wide;
#if BP_FLOAT64
    for (int k = 0; k < BP_PARTS; k++) /* one copy of all would go by memory */
        memcpy(&wide.part[k], p + k * (BP_BYTES / 8), BP_BYTES);
#elif BP_SIMD == 4 /* GCC 12 converts and joins two halves */
    wide.part[0] = (bp_doubles)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#else
    typedef float narrow __attribute__((vector_size(BP_BYTES / 2)));
    narrow part;
    for (int k = 0; k < BP_PARTS; k++) {
        memcpy(&part, p + k * (BP_BYTES / 8), sizeof part);
        wide.part[k] = __builtin_convertvector(part, bp_doubles);
    }
#endif
    return wide;
}

/* The first n < 8 of eight reals from memory, zeros after them. No other memory is touched. */
static inline bp_wide bp_load_first_wide(const bp_real *p, ptrdiff_t n)
{
#if BP_SIMD == 4 && !BP_FLOAT64
    bp_wide wide = {{(bp_doubles)_mm512_cvtps_pd(_mm256_maskz_loadu_ps((__mmask8)((1u << n) - 1), p))}};
    return wide;
#else
    bp_real first[8];
    for (int i = 0; i < 8; i += BP_LANES)
        bp_store(first + i, bp_load_first(p + i, n - i));
    return bp_load_wide(first);
#endif
}

static inline bp_wide bp_add_squares(bp_wide sum, bp_wide v)
{
    for (int k = 0; k < BP_PARTS; k++)
        sum.part[k] += v.part[k] * v.part[k];
    return sum;
}

/* sums[r] = sum_j a[r ld + j]^2 for n_rows (1 or 4, a constant) rows: eight lanes of float64 for each row, and one
 * fixed tree. The chains of four rows run side by side: a single chain mostly waits for its last addition. */
static inline void bp_square_sums(int n_rows, ptrdiff_t n, const bp_real *a, ptrdiff_t ld, double *sums)
{
    bp_wide sum[4] = {{{{0}}}};
    ptrdiff_t j = 0;
    for (; j + 8 <= n; j += 8)
        for (int r = 0; r < n_rows; r++)
            sum[r] = bp_add_squares(sum[r], bp_load_wide(a + r * ld + j));
    if (j < n)
        for (int r = 0; r < n_rows; r++)
            sum[r] = bp_add_squares(sum[r], bp_load_first_wide(a + r * ld + j, n - j));
    for (int r = 0; r < n_rows; r++)
        sums[r] = bp_wide_sum(sum[r]);
}

#endif
