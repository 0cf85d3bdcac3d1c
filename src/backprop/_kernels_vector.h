/* The vector type of the kernels and the few operations on it that C has no operator for.
 *
 * The build defines BP_SIMD (2, 3, 4: the level of x86-64, or 0 for any other target) and BP_FLOAT64 (0 or 1).
 * All operations act lane by lane, so that a result does not depend on the length of the vector; bp_fma is one rounding
 * wherever the target has it. Everything that names an instruction stands in this file.
 */
#ifndef BACKPROP_KERNELS_VECTOR_H
#define BACKPROP_KERNELS_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if BP_SIMD
#include <immintrin.h>
#endif

#if BP_FLOAT64
typedef double bp_real;
typedef int64_t bp_int;
#else
typedef float bp_real;
typedef int32_t bp_int;
#endif

#if BP_SIMD == 4
#define BP_BYTES 64
#elif BP_SIMD == 3
#define BP_BYTES 32
#else
#define BP_BYTES 16
#endif

/* Vectors are loaded from rows that are aligned to their elements only. */
typedef bp_real bp_vec __attribute__((vector_size(BP_BYTES), aligned(sizeof(bp_real)), may_alias));

enum {
    BP_LANES = BP_BYTES / sizeof(bp_real),
    /* The narrow form adds in 64 bytes of lanes on every instruction set: 16 float32 or 8 float64. */
    BP_PARTS = 64 / BP_BYTES,
    /* Register block: 24 accumulators of 32 registers (v4), 12 of 16 (v3), 8 of 16 (others, which need a product's
       register beside them); kernels.md section 1 has the rates. */
#if BP_SIMD == 4
    BP_BLOCK_ROWS = 8, BP_BLOCK_VECTORS = 3
#elif BP_SIMD == 3
    BP_BLOCK_ROWS = 6, BP_BLOCK_VECTORS = 2
#else
    BP_BLOCK_ROWS = 4, BP_BLOCK_VECTORS = 2
#endif
};

#define BP_CAT_(a, b) a##b
#define BP_CAT(a, b) BP_CAT_(a, b)
#if BP_FLOAT64
#define BP_SUFFIX pd
#else
#define BP_SUFFIX ps
#endif

static inline bp_vec bp_load(const bp_real *p) { return *(const bp_vec *)p; }
static inline void bp_store(bp_real *p, bp_vec v) { *(bp_vec *)p = v; }

/* x - 0 is x for every x, -0 included. */
static inline bp_vec bp_broadcast(bp_real x) { return x - (bp_vec){0}; }

static inline bp_vec bp_fma(bp_vec a, bp_vec b, bp_vec c)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_fmadd_, BP_SUFFIX)(a, b, c);
#elif BP_SIMD == 3
    return (bp_vec)BP_CAT(_mm256_fmadd_, BP_SUFFIX)(a, b, c);
#elif defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF)
    bp_vec r;
    for (int i = 0; i < BP_LANES; i++) /* one instruction a vector on arm64 */
        r[i] = BP_FLOAT64 ? __builtin_fma(a[i], b[i], c[i]) : __builtin_fmaf(a[i], b[i], c[i]);
    return r;
#else
    return a * b + c; /* v2 has no fma: two roundings */
#endif
}

/* The first n lanes from memory (n may be negative or beyond the vector), zeros after them; nothing else is touched. */
static inline bp_vec bp_load_first(const bp_real *p, ptrdiff_t n)
{
    if (n >= BP_LANES)
        return bp_load(p);
#if BP_SIMD == 4
    uint32_t mask = n > 0 ? (1u << n) - 1 : 0;
    return (bp_vec)BP_CAT(_mm512_maskz_loadu_, BP_SUFFIX)(mask, p);
#elif BP_SIMD == 3
    static const bp_int lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    __m256i mask = _mm256_loadu_si256((const __m256i *)(lanes + 8 - (n > 0 ? n : 0)));
    return (bp_vec)BP_CAT(_mm256_maskload_, BP_SUFFIX)(p, mask);
#else
    bp_vec r = {0};
    for (ptrdiff_t i = 0; i < n; i++)
        r[i] = p[i];
    return r;
#endif
}

static inline void bp_store_first(bp_real *p, bp_vec v, ptrdiff_t n)
{
    if (n >= BP_LANES) {
        bp_store(p, v);
        return;
    }
#if BP_SIMD == 4
    BP_CAT(_mm512_mask_storeu_, BP_SUFFIX)(p, n > 0 ? (1u << n) - 1 : 0, v);
#else
    for (ptrdiff_t i = 0; i < n; i++) /* AVX's masked store takes tens of cycles on AMD */
        p[i] = v[i];
#endif
}

/* One fixed tree over 64 bytes of lanes: halves are folded onto each other until one lane is left. */
static inline bp_real bp_tree_sum(const bp_vec part[BP_PARTS])
{
    bp_real lane[64 / sizeof(bp_real)];
    for (int i = 0; i < BP_PARTS; i++)
        bp_store(lane + i * BP_LANES, part[i]);
    for (int half = 32 / sizeof(bp_real); half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

/* s + error = a + b exactly (Knuth, TAOCP 2, 4.2.2, theorem B). */
static inline void bp_two_sum(double a, double b, double *sum, double *error)
{
    double s = a + b, b_part = s - a;
    *error = (a - (s - b_part)) + (b - b_part);
    *sum = s;
}

#endif
