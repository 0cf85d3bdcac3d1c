/* The vector type of the kernels, and the operations on it for which C has no operator.
 *
 * The build defines BP_SIMD (2, 3, 4: the level of x86-64; 0 for any other target) and BP_FLOAT64 (0 or 1). All
 * operations act lane by lane, so that a result does not depend on the length of the vector. bp_fma rounds once on each
 * target that can. Only this header, elementary.h, rows.h, symmetric.h and
 * transpose.h name instructions.
 */
#ifndef BACKPROP_KERNELS_VECTOR_H
#define BACKPROP_KERNELS_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if BP_SIMD
#include <immintrin.h>
#endif
#ifdef __aarch64__
#include <arm_neon.h>
#endif

/* Whether __builtin_fma is an instruction. On arm64 it always is, but Clang does not define the macro. */
#if defined(__FMA__) || defined(__aarch64__) || (defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF))
#define BP_HAS_FMA 1
#else
#define BP_HAS_FMA 0
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

/* A vector in registers, and one in memory, in rows that are aligned only to their elements. These are two types,
 * since GCC 12 writes an array of may_alias vectors back to the stack in each turn of a loop: products then run at
 * half speed. */
typedef bp_real bp_vec __attribute__((vector_size(BP_BYTES)));
typedef bp_real bp_memory __attribute__((vector_size(BP_BYTES), aligned(sizeof(bp_real)), may_alias));

enum {
    BP_LANES = BP_BYTES / sizeof(bp_real),
    /* The dot form adds in 64 bytes of lanes on every instruction set: 16 float32 or 8 float64. */
    BP_PARTS = 64 / BP_BYTES,
    /* Register block: 24 accumulators of 32 registers (v4), 12 of 16 (v3), 8 of 16 (the others need one more register
       for a product). docs/kernels.rst has the rates. */
#if BP_SIMD == 4
    BP_BLOCK_ROWS = 8, BP_BLOCK_VECTORS = 3
#elif BP_SIMD == 3
    BP_BLOCK_ROWS = 6, BP_BLOCK_VECTORS = 2
#else
    BP_BLOCK_ROWS = 4, BP_BLOCK_VECTORS = 2
#endif
};

/* Half a vector, for the last columns of a panel: 50 float32 columns are 3 1/2 vectors of 64 bytes instead of 4. */
#if BP_SIMD == 4
typedef bp_real bp_half __attribute__((vector_size(BP_BYTES / 2)));
enum { BP_HAS_HALF = 1 };
#else
enum { BP_HAS_HALF = 0 };
#endif

#define BP_CAT_(a, b) a##b
#define BP_CAT(a, b) BP_CAT_(a, b)
#if BP_FLOAT64
#define BP_SUFFIX pd
#else
#define BP_SUFFIX ps
#endif

/* a b + c of float64 scalars. v2 has no fma: it rounds twice; the C library is never called. */
static inline double bp_fma_double(double a, double b, double c)
{
#if BP_HAS_FMA
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

/* One column of a block of grad_a^T. The compiler knows its length. */
static inline void bp_copy_block(bp_real *to, const bp_real *from) { memcpy(to, from, BP_BLOCK_ROWS * sizeof(bp_real)); }

/* Four reals, for transposing. */
typedef bp_real bp_quad __attribute__((vector_size(4 * sizeof(bp_real)), aligned(sizeof(bp_real)), may_alias));

/* Clang and GCC from 12 on have one form of shuffles, older GCC the other. */
#if defined(__clang__) || __GNUC__ >= 12
#define BP_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef bp_int bp_quad_int __attribute__((vector_size(4 * sizeof(bp_int))));
#define BP_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (bp_quad_int){i, j, k, l})
#endif

/* to[k][j] = from[j][k] for 4 x 4 reals. */
static inline void bp_transpose_quad(const bp_real *from, ptrdiff_t from_row, bp_real *to, ptrdiff_t to_row)
{
    bp_quad a = *(const bp_quad *)from, b = *(const bp_quad *)(from + from_row),
            c = *(const bp_quad *)(from + 2 * from_row), d = *(const bp_quad *)(from + 3 * from_row);
    bp_quad ab0 = BP_SHUFFLE(a, b, 0, 4, 1, 5), ab1 = BP_SHUFFLE(a, b, 2, 6, 3, 7),
            cd0 = BP_SHUFFLE(c, d, 0, 4, 1, 5), cd1 = BP_SHUFFLE(c, d, 2, 6, 3, 7);
    *(bp_quad *)to = BP_SHUFFLE(ab0, cd0, 0, 1, 4, 5);
    *(bp_quad *)(to + to_row) = BP_SHUFFLE(ab0, cd0, 2, 3, 6, 7);
    *(bp_quad *)(to + 2 * to_row) = BP_SHUFFLE(ab1, cd1, 0, 1, 4, 5);
    *(bp_quad *)(to + 3 * to_row) = BP_SHUFFLE(ab1, cd1, 2, 3, 6, 7);
}

static inline bp_vec bp_load(const bp_real *p) { return *(const bp_memory *)p; }
static inline void bp_store(bp_real *p, bp_vec v) { *(bp_memory *)p = v; }

/* x - 0 is x for every x, -0 included. */
static inline bp_vec bp_broadcast(bp_real x) { return x - (bp_vec){0}; }

static inline bp_vec bp_fma(bp_vec a, bp_vec b, bp_vec c)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_fmadd_, BP_SUFFIX)(a, b, c);
#elif BP_SIMD == 3
    return (bp_vec)BP_CAT(_mm256_fmadd_, BP_SUFFIX)(a, b, c);
#elif defined(__aarch64__) && BP_FLOAT64
    return (bp_vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#elif defined(__aarch64__)
    return (bp_vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif BP_HAS_FMA
    bp_vec r;
    for (int i = 0; i < BP_LANES; i++)
        r[i] = BP_FLOAT64 ? __builtin_fma(a[i], b[i], c[i]) : __builtin_fmaf(a[i], b[i], c[i]);
    return r;
#else
    return a * b + c; /* v2 has no fma: two roundings */
#endif
}

#if BP_SIMD == 4
/* The same for half vectors. Loads and stores touch only the first n lanes in memory, 0 < n <= BP_LANES / 2. */
/* The lower half of a vector. It spares a second broadcast. */
static inline bp_half bp_lower_half(bp_vec v)
{
    bp_half h;
    memcpy(&h, &v, sizeof h);
    return h;
}
static inline bp_half bp_half_fma(bp_half a, bp_half b, bp_half c)
{
    return (bp_half)BP_CAT(_mm256_fmadd_, BP_SUFFIX)(a, b, c);
}
typedef bp_real bp_half_memory __attribute__((vector_size(BP_BYTES / 2), aligned(sizeof(bp_real)), may_alias));
static inline bp_half bp_half_load_whole(const bp_real *p) { return *(const bp_half_memory *)p; }
static inline bp_half bp_half_load(const bp_real *p, ptrdiff_t n)
{
    return (bp_half)BP_CAT(_mm256_maskz_loadu_, BP_SUFFIX)((1u << n) - 1, p);
}
static inline void bp_half_store(bp_real *p, bp_half v, ptrdiff_t n)
{
    BP_CAT(_mm256_mask_storeu_, BP_SUFFIX)(p, (1u << n) - 1, v);
}
#endif

/* The first n lanes from memory, zeros after them. No other memory is touched. n may be negative, or larger than a
 * vector. */
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

/* Always inline: a call would cost a loop over short rows more than its stores. */
static inline __attribute__((always_inline)) void bp_store_first(bp_real *p, bp_vec v, ptrdiff_t n)
{
    if (n >= BP_LANES) {
        bp_store(p, v);
        return;
    }
#if BP_SIMD == 4
    BP_CAT(_mm512_mask_storeu_, BP_SUFFIX)(p, n > 0 ? (1u << n) - 1 : 0, v);
#elif BP_SIMD
    /* At most three stores, one for each bit of n: the masked store of AVX takes tens of cycles on AMD. */
    if (n <= 0)
        return;
#if BP_SIMD == 3
    __m128 part = _mm256_castps256_ps128((__m256)v);
    if (n & BP_LANES / 2) {
        _mm_storeu_ps((float *)p, part);
        p += BP_LANES / 2;
        part = _mm256_extractf128_ps((__m256)v, 1);
    }
#else
    __m128 part = (__m128)v;
#endif
#if !BP_FLOAT64
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, part);
        p += 2;
        part = _mm_movehl_ps(part, part);
    }
#endif
    if (n & 1)
        *p = ((bp_real __attribute__((vector_size(16))))part)[0];
#else
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] = v[i];
#endif
}

/* The sum of 64 bytes of lanes by one fixed tree: the upper half is added to the lower until one lane is left. */
static inline bp_real bp_tree_sum(const bp_vec part[BP_PARTS])
{
    typedef bp_real half __attribute__((vector_size(32)));
    typedef bp_real quarter __attribute__((vector_size(16)));
    half h[2], sum;
    quarter q[2];
    memcpy(h, part, 64);
    sum = h[0] + h[1];
    memcpy(q, &sum, 32);
    q[0] = q[0] + q[1];
#if BP_FLOAT64
    return q[0][0] + q[0][1];
#else
    return (q[0][0] + q[0][2]) + (q[0][1] + q[0][3]);
#endif
}

/* Integers in the lanes of a vector, for the bits of its reals. */
typedef bp_int bp_ivec __attribute__((vector_size(BP_BYTES)));

/* The prefix of the intrinsics for one vector. */
#if BP_SIMD == 3
#define BP_PREFIX _mm256_
#elif BP_SIMD == 2
#define BP_PREFIX _mm_
#endif

/* mask ? x : y, lane by lane, for a mask whose lanes have all bits set or none. */
static inline bp_vec bp_select(bp_ivec mask, bp_vec x, bp_vec y)
{
#if BP_SIMD == 3
    return (bp_vec)BP_CAT(_mm256_blendv_, BP_SUFFIX)(y, x, (bp_vec)mask);
#else
    return (bp_vec)((mask & (bp_ivec)x) | (~mask & (bp_ivec)y));
#endif
}

/* a < b ? x : y, lane by lane; y if a or b is NaN. */
static inline bp_vec bp_where_less(bp_vec a, bp_vec b, bp_vec x, bp_vec y)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_mask_blend_, BP_SUFFIX)(BP_CAT(BP_CAT(_mm512_cmp_, BP_SUFFIX), _mask)(a, b, _CMP_LT_OQ),
                                                         y, x);
#else
    return bp_select((bp_ivec)(a < b), x, y);
#endif
}

/* a == b ? x : y, lane by lane; y if a or b is NaN. */
static inline bp_vec bp_where_equal(bp_vec a, bp_vec b, bp_vec x, bp_vec y)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_mask_blend_, BP_SUFFIX)(BP_CAT(BP_CAT(_mm512_cmp_, BP_SUFFIX), _mask)(a, b, _CMP_EQ_OQ),
                                                         y, x);
#else
    return bp_select((bp_ivec)(a == b), x, y);
#endif
}

/* sum / divisor from the rounded reciprocal. float32 is computed in float64, so that only the last rounding counts.
 * float64 is corrected once by the remainder, unless that is NaN, as for an infinite sum. A division takes 16 cycles
 * for 8 numbers: it was three quarters of a call of a small network. v2 has no fma: its result is the rounded
 * product. */
static inline bp_real bp_divide_scalar(bp_real sum, double divisor, double reciprocal)
{
    double q = (double)sum * reciprocal, e = BP_FLOAT64 ? bp_fma_double(-q, divisor, sum) : 0;
    return (bp_real)(e == e ? q + e * reciprocal : q);
}

static inline bp_vec bp_divide(bp_vec sum, double divisor, double reciprocal)
{
#if BP_FLOAT64
    bp_vec r = bp_broadcast(reciprocal), q = sum * r, e = bp_fma(-q, bp_broadcast(divisor), sum);
    return bp_where_equal(e, e, bp_fma(e, r, q), q);
#elif BP_SIMD == 4
    __m512d r = _mm512_set1_pd(reciprocal);
    __m256 low = _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(sum)), r));
    __m256 high = _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(sum, 1)), r));
    return (bp_vec)_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
#elif BP_SIMD == 3
    __m256d r = _mm256_set1_pd(reciprocal);
    __m128 low = _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(sum)), r));
    __m128 high = _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(sum, 1)), r));
    return (bp_vec)_mm256_set_m128(high, low);
#else
    for (int i = 0; i < BP_LANES; i++)
        sum[i] = bp_divide_scalar(sum[i], divisor, reciprocal);
    return sum;
#endif
}

/* Whether x is a power of two from 1 to 2^100, whose reciprocal is a normal number in float32 too. */
static inline int bp_is_power_of_two(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return !(bits << 12) && x >= 1 && x <= 0x1p100;
}

/* The larger and the smaller of bound and v. If v is NaN, or both are 0, the instruction returns its second operand: v. */
static inline bp_vec bp_at_least(bp_real bound, bp_vec v)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_max_, BP_SUFFIX)(bp_broadcast(bound), v);
#elif BP_SIMD
    return (bp_vec)BP_CAT(BP_CAT(BP_PREFIX, max_), BP_SUFFIX)(bp_broadcast(bound), v);
#else
    return bp_where_less(v, bp_broadcast(bound), bp_broadcast(bound), v);
#endif
}
static inline bp_vec bp_at_most(bp_real bound, bp_vec v)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_min_, BP_SUFFIX)(bp_broadcast(bound), v);
#elif BP_SIMD
    return (bp_vec)BP_CAT(BP_CAT(BP_PREFIX, min_), BP_SUFFIX)(bp_broadcast(bound), v);
#else
    return bp_where_less(bp_broadcast(bound), v, bp_broadcast(bound), v);
#endif
}
static inline bp_vec bp_clamp(bp_vec v, bp_real low, bp_real high) { return bp_at_most(high, bp_at_least(low, v)); }

static inline bp_ivec bp_sign_bits(void) { return (bp_ivec)(-(bp_vec){0}); }
static inline bp_vec bp_abs(bp_vec v) { return (bp_vec)((bp_ivec)v & ~bp_sign_bits()); }
/* v with the sign of `sign`, for v >= 0. */
static inline bp_vec bp_with_sign(bp_vec v, bp_vec sign)
{
    return (bp_vec)((bp_ivec)v | ((bp_ivec)sign & bp_sign_bits()));
}

/* Whether a lane of v is at least the bound. */
static inline int bp_any_at_least(bp_vec v, bp_real bound)
{
    for (int i = 0; i < BP_LANES; i++)
        if (v[i] >= bound)
            return 1;
    return 0;
}
static inline bp_real bp_get_lane(bp_vec v, int i) { return v[i]; }
static inline bp_vec bp_set_lane(bp_vec v, int i, bp_real x)
{
    v[i] = x;
    return v;
}

#endif
