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
#ifdef __aarch64__
#include <arm_neon.h>
#endif

/* Whether __builtin_fma is an instruction. Clang does not say so for arm64, where it always is. */
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

/* A vector in registers, and one in memory, in rows that are aligned to their elements only. Two types, since GCC 12
 * writes an array of may_alias vectors back to the stack in every turn of a loop: the products then run at half speed. */
typedef bp_real bp_vec __attribute__((vector_size(BP_BYTES)));
typedef bp_real bp_memory __attribute__((vector_size(BP_BYTES), aligned(sizeof(bp_real)), may_alias));

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

#include "_kernels_coefficients.h"

/* Half a vector, for the last columns of a panel: with 64-byte vectors 50 columns are 3 1/2 of them instead of 4. */
#if BP_SIMD == 4
typedef bp_real bp_half __attribute__((vector_size(BP_BYTES / 2)));
enum { BP_HAS_HALF = 1 };
#else
typedef bp_vec bp_half;
enum { BP_HAS_HALF = 0 };
#endif

#define BP_CAT_(a, b) a##b
#define BP_CAT(a, b) BP_CAT_(a, b)
#if BP_FLOAT64
#define BP_SUFFIX pd
#else
#define BP_SUFFIX ps
#endif

/* float64 scalars; v2 has no fma: two roundings, and never a call of the C library. */
static inline double bp_fma_double(double a, double b, double c)
{
#if BP_HAS_FMA
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

/* A block of rows of grad_a^T: its length is known to the compiler. */
static inline void bp_copy_block(bp_real *to, const bp_real *from) { memcpy(to, from, BP_BLOCK_ROWS * sizeof(bp_real)); }

/* Four reals, for transposing. */
typedef bp_real bp_quad __attribute__((vector_size(4 * sizeof(bp_real)), aligned(sizeof(bp_real)), may_alias));

/* Clang has one form of shuffles, GCC before 12 the other. */
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

/* The same for half vectors, of whose memory only the first n lanes are touched, 0 < n <= BP_LANES / 2. */
static inline bp_half bp_half_broadcast(bp_real x) { return x - (bp_half){0}; }
/* The lower half of a vector: of one that was broadcast, no second broadcast. */
static inline bp_half bp_lower_half(bp_vec v)
{
    bp_half h;
    memcpy(&h, &v, sizeof h);
    return h;
}
#if BP_SIMD == 4
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
#else
static inline bp_half bp_half_fma(bp_half a, bp_half b, bp_half c) { return bp_fma(a, b, c); }
static inline bp_half bp_half_load_whole(const bp_real *p) { return (void)p, bp_half_broadcast(0); }
static inline bp_half bp_half_load(const bp_real *p, ptrdiff_t n) { return (void)p, bp_half_broadcast((bp_real)n); }
static inline void bp_half_store(bp_real *p, bp_half v, ptrdiff_t n) { (void)p, (void)v, (void)n; }
#endif

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

/* Integers in the lanes of a vector, for the bits of reals. */
typedef bp_int bp_ivec __attribute__((vector_size(BP_BYTES)));

/* A pair stands for hi + lo: about twice the digits of the dtype. */
typedef struct {
    bp_vec hi, lo;
} bp_pair;

#if BP_FLOAT64
enum { BP_MANTISSA = 52, BP_BIAS = 1023 };
#define BP_LOG2_E 1.44269504088896340736
#define BP_EXP_LOWEST (-760.0) /* 4000 exp(-760) is below half the smallest subnormal */
#define BP_EXP_HIGHEST 710.0   /* exp is inf */
#define BP_GELU_BOUND 40.0     /* 40 Phi(-40) is 0 */
#define BP_GATE_BOUND_CUBIC 23.0 /* sigma(2u) is 0 at -23, 1 at 23 */
#define BP_SOFTSIGN_BOUND 0x1p60
#define BP_LARGEST 0x1.fffffffffffffp1023
#define BP_HUGE 0x1p1022         /* corrections of products are finite up to here */
#define BP_SIN_SMALL 0x1p20    /* n stays below 2^21: its products with 32 bits of pi/2 are exact */
#define BP_ROUND_MAGIC 6755399441055744.0 /* 1.5 * 2^52: adding it rounds to an integer, which stands in the low bits */
#else
enum { BP_MANTISSA = 23, BP_BIAS = 127 };
#define BP_LOG2_E 1.44269504088896340736f
#define BP_EXP_LOWEST (-120.0f) /* 1000 exp(-120) is below half the smallest subnormal */
#define BP_EXP_HIGHEST 89.0f    /* exp is inf */
#define BP_GELU_BOUND 15.0f     /* 15 Phi(-15) is 0 */
#define BP_GATE_BOUND_CUBIC 15.0f /* sigma(2u) is 0 at -15, 1 at 15 */
#define BP_SOFTSIGN_BOUND 0x1p30f
#define BP_LARGEST 0x1.fffffep127f
#define BP_HUGE 0x1p126f          /* corrections of products are finite up to here */
#define BP_SIN_SMALL 4096.0f    /* n stays below 2^12: its products with 12 bits of pi/2 are exact */
#define BP_ROUND_MAGIC 12582912.0f /* 1.5 * 2^23 */
#endif

/* a < b ? x : y, lane by lane; y where a or b is NaN. */
static inline bp_vec bp_where_less(bp_vec a, bp_vec b, bp_vec x, bp_vec y)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_mask_blend_, BP_SUFFIX)(BP_CAT(BP_CAT(_mm512_cmp_, BP_SUFFIX), _mask)(a, b, _CMP_LT_OQ),
                                                         y, x);
#else
    bp_ivec mask = (bp_ivec)(a < b);
    return (bp_vec)((mask & (bp_ivec)x) | (~mask & (bp_ivec)y));
#endif
}

/* a == b ? x : y, lane by lane; y where a or b is NaN. */
static inline bp_vec bp_where_equal(bp_vec a, bp_vec b, bp_vec x, bp_vec y)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_mask_blend_, BP_SUFFIX)(BP_CAT(BP_CAT(_mm512_cmp_, BP_SUFFIX), _mask)(a, b, _CMP_EQ_OQ),
                                                         y, x);
#else
    bp_ivec mask = (bp_ivec)(a == b);
    return (bp_vec)((mask & (bp_ivec)x) | (~mask & (bp_ivec)y));
#endif
}

/* sum / divisor from the rounded reciprocal. float32 goes through float64, whose last rounding alone counts; float64 takes
 * one correction by the remainder (NaN for an infinite sum). A division takes 16 cycles for 8 numbers: it was three
 * quarters of a small network's call. v2 has no fma, and its result is the rounded product. */
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

/* Of powers of two up to 2^100, whose reciprocals are normal numbers in float32 too. */
static inline int bp_is_power_of_two(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return !(bits << 12) && x >= 1 && x <= 0x1p100;
}

/* The larger and the smaller of bound and v; a NaN in v passes (it is the second operand of the instruction). */
static inline bp_vec bp_at_least(bp_real bound, bp_vec v)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_max_, BP_SUFFIX)(bp_broadcast(bound), v);
#else
    return bp_where_less(v, bp_broadcast(bound), bp_broadcast(bound), v);
#endif
}
static inline bp_vec bp_at_most(bp_real bound, bp_vec v)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_min_, BP_SUFFIX)(bp_broadcast(bound), v);
#else
    return bp_where_less(bp_broadcast(bound), v, bp_broadcast(bound), v);
#endif
}
static inline bp_vec bp_clamp(bp_vec v, bp_real low, bp_real high) { return bp_at_most(high, bp_at_least(low, v)); }

static inline bp_ivec bp_sign_bits(void) { return (bp_ivec)(-(bp_vec){0}); }
static inline bp_vec bp_abs(bp_vec v) { return (bp_vec)((bp_ivec)v & ~bp_sign_bits()); }
/* The sign of `sign` on v >= 0. */
static inline bp_vec bp_with_sign(bp_vec v, bp_vec sign)
{
    return (bp_vec)((bp_ivec)v | ((bp_ivec)sign & bp_sign_bits()));
}

/* The nearest integer of a b, for |a b| below 2^22 or 2^51. */
static inline bp_vec bp_round_product(bp_vec a, bp_real b)
{
    bp_vec magic = bp_broadcast(BP_ROUND_MAGIC);
    return bp_fma(a, bp_broadcast(b), magic) - magic;
}
static inline bp_vec bp_round(bp_vec v) { return (v + BP_ROUND_MAGIC) - BP_ROUND_MAGIC; }

/* 2^n for integers n of the normal range. */
static inline bp_vec bp_power_of_two(bp_vec n)
{
    return (bp_vec)((bp_ivec)(n + (BP_ROUND_MAGIC + BP_BIAS)) << BP_MANTISSA);
}

/* v 2^n with one rounding, for integers n of up to twice the normal range. */
static inline bp_vec bp_scale(bp_vec v, bp_vec n)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_scalef_, BP_SUFFIX)(v, n);
#else
    bp_vec half = bp_round(n * (bp_real)0.5);
    return v * bp_power_of_two(half) * bp_power_of_two(n - half);
#endif
}

static inline bp_pair bp_make_pair(bp_vec hi, bp_vec lo) { return (bp_pair){hi, lo}; }

/* Where any lane of v reaches the bound. */
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

/* a = (4 m + quadrant) pi/2 + r with |r| <= pi/4, for any finite a >= 1: exact integer arithmetic on the bits of 2/pi
 * (Payne and Hanek, ACM SIGNUM Newsletter 18, 1983). Returns r as a sum of two doubles, and the quadrant 0..3. */
static double bp_reduce_large(double a, int *quadrant, double *low_part)
{
    int exponent;
    uint64_t bits;
    memcpy(&bits, &a, sizeof bits);
    exponent = (int)(bits >> 52 & 2047) - 1075; /* a = mantissa 2^exponent */
    uint64_t mantissa = (bits & ((1ull << 52) - 1)) | 1ull << 52;
    /* Bits of 2/pi above 2^(2 - exponent) give multiples of 4 and are left out: 192 bits after them are enough. */
    int first = exponent > 2 ? exponent - 2 : 0, shift = first & 63, word = first >> 6;
    uint64_t w[4];
    for (int i = 0; i < 4; i++)
        w[i] = word + i < 20 ? BP_TWO_OVER_PI[word + i] : 0;
    if (shift)
        for (int i = 0; i < 3; i++)
            w[i] = w[i] << shift | w[i + 1] >> (64 - shift);
    /* product = mantissa (w0 w1 w2), of which the top 256 bits stand in p[0..3] */
    uint64_t p[4];
    unsigned __int128 low = (unsigned __int128)mantissa * w[2], middle = (unsigned __int128)mantissa * w[1],
                      high = (unsigned __int128)mantissa * w[0];
    p[3] = (uint64_t)low;
    middle += (uint64_t)(low >> 64);
    p[2] = (uint64_t)middle;
    high += (uint64_t)(middle >> 64);
    p[1] = (uint64_t)high;
    p[0] = (uint64_t)(high >> 64);
    /* The product's unit is 2^(exponent - first - 192): a 2/pi mod 4 has its binary point after so many bits. */
    int point = 192 + first - exponent; /* bits behind the point, from 190 on */
    uint64_t q[3] = {0, 0, 0};          /* the product shifted so that q[0] starts with the two bits of the quadrant */
    int drop = 256 - (point + 2);       /* bits above these two */
    int words = drop >> 6, rest = drop & 63;
    for (int i = 0; i < 3; i++) {
        uint64_t here = words + i < 4 ? p[words + i] : 0, next = words + i + 1 < 4 ? p[words + i + 1] : 0;
        q[i] = rest ? here << rest | next >> (64 - rest) : here;
    }
    int top = (int)(q[0] >> 62);
    int64_t fraction = (int64_t)(q[0] << 2 | q[1] >> 62); /* as a signed number: r in [-1/2, 1/2) */
    uint64_t below = q[1] << 2 | q[2] >> 62;
    *quadrant = (top + (fraction < 0)) & 3;
    double f_high = (double)(fraction & ~(int64_t)2047), f_low = (double)(fraction & 2047) + (double)below * 0x1p-64;
    double f = f_high + f_low, f_error = f_low - (f - f_high);
    const double half_pi = 0x1.921fb54442d18p0, half_pi_low = 0x1.1a62633145c07p-54;
    double r = f * half_pi;
    *low_part = (bp_fma_double(f, half_pi, -r) + (f * half_pi_low + f_error * half_pi)) * 0x1p-64;
    return r * 0x1p-64;
}

/* exp and log1p in float64 for the losses, which sum in float64 whatever the network's dtype; the same steps as the
 * vectors' (_kernels_elementary.pxi), so that the bits depend on no C library. Below -745 exp is 0, above 709.8 inf. */
static inline double bp_polynomial(double x, const double *c, int degree)
{
    double value = c[degree];
    for (int i = degree - 1; i >= 0; i--)
        value = bp_fma_double(value, x, c[i]);
    return value;
}

static inline double bp_double_power_of_two(double n)
{
    uint64_t bits;
    n += 6755399441055744.0 + 1023; /* the exponent's bits stand lowest */
    memcpy(&bits, &n, sizeof bits);
    bits <<= 52;
    memcpy(&n, &bits, sizeof bits);
    return n;
}

static inline double bp_exp(double x)
{
    const double magic = 6755399441055744.0;
    double bounded = x < -760 ? -760 : x > 710 ? 710 : x; /* a NaN stays */
    double n = (bounded * 1.44269504088896340736 + magic) - magic;
    double r = bp_fma_double(-n, BP_DOUBLE_LN2[0], bounded), low = -n * BP_DOUBLE_LN2[1];
    double reduced = r + low, square;
    low = low - (reduced - r);
    square = bp_fma_double(reduced * reduced, bp_polynomial(reduced, BP_DOUBLE_EXP, BP_DOUBLE_EXP_DEGREE), low);
    double half = (n * 0.5 + magic) - magic;
    return (1 + (reduced + square)) * bp_double_power_of_two(half) * bp_double_power_of_two(n - half);
}

/* e[k] = exp(a[k] - top): one loop for the compiler to vectorise. */
static inline void bp_exp_differences(ptrdiff_t n, const bp_real *a, double top, double *e)
{
    for (ptrdiff_t k = 0; k < n; k++)
        e[k] = bp_exp((double)a[k] - top);
}

/* log(1 + t), t >= 0: 2 atanh(t/(2 + t)) up to 1; beyond, 1 + t = 2^k (1 + f). */
static inline double bp_log1p(double t)
{
    double power = 0;
    if (t > 1 && t < 0x1p1000) { 
        uint64_t bits;
        double sum = 1 + t, low = 1 - (sum - t), scale; /* |t| > 1: exact */
        memcpy(&bits, &sum, sizeof bits);
        int k = (int)(bits >> 52) - 1023;
        bits = (uint64_t)(1023 - k) << 52;
        memcpy(&scale, &bits, sizeof bits);
        power = k;
        t = (sum * scale - 1) + low * scale;
    } else if (!(t <= 1)) {
        return t; /* inf or NaN */
    }
    double u = 2 + t, u_low = t - (u - 2);
    double s = (t + t) / u;
    double s_low = (bp_fma_double(-s, u, t + t) - s * u_low) / u;
    double z = 0.25 * s * s;
    double low = bp_fma_double(s * z, bp_polynomial(z, BP_DOUBLE_ATANH, BP_DOUBLE_ATANH_DEGREE), s_low);
    if (power == 0)
        return s + low;
    double high = power * BP_DOUBLE_LN2[0];
    return high + (s + (low + power * BP_DOUBLE_LN2[1]));
}

/* to[i] = from[i], where `to` is far too large for any cache: whole lines go past it. An ordinary store reads the line
 * from memory first (a result of 170 MB: 27 ms with such stores, 9 ms with these). */
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
    _mm_sfence(); /* before another thread is told of it */
#else
    memcpy(to, from, (size_t)n * sizeof(bp_real));
#endif
}

/* Eight reals and eight float64: sums of squares have so many lanes on every instruction set. */
typedef bp_real bp_eight __attribute__((vector_size(8 * sizeof(bp_real))));
typedef double bp_wide __attribute__((vector_size(64)));

/* The first n < 8 of eight reals from memory, zeros after them; nothing else is touched. */
static inline bp_eight bp_first_of_eight(const bp_real *p, ptrdiff_t n)
{
#if BP_SIMD == 4 && BP_FLOAT64
    return (bp_eight)_mm512_maskz_loadu_pd((1u << n) - 1, p);
#elif BP_SIMD == 4
    return (bp_eight)_mm256_maskz_loadu_ps((1u << n) - 1, p);
#else
    bp_eight v;
    for (int i = 0; i < 8; i += BP_LANES) {
        bp_vec part = bp_load_first(p + i, n - i);
        memcpy((bp_real *)&v + i, &part, sizeof part);
    }
    return v;
#endif
}

static inline bp_wide bp_add_squares(bp_wide sum, bp_eight v)
{
#if BP_SIMD == 4 && !BP_FLOAT64 /* GCC 12 converts and joins two halves */
    bp_wide wide = (bp_wide)_mm512_cvtps_pd((__m256)v);
#else
    bp_wide wide = __builtin_convertvector(v, bp_wide);
#endif
    return sum + wide * wide;
}

/* sums[r] = sum_j a[r ld + j]^2 for n_rows (1 or 4, a constant) rows: eight lanes of float64 each and one fixed tree. The
 * chains of four rows run beside one another: one alone waits for its last addition most of the time. */
static inline void bp_square_sums(int n_rows, ptrdiff_t n, const bp_real *a, ptrdiff_t ld, double *sums)
{
    bp_wide sum[4] = {{0}, {0}, {0}, {0}};
    bp_eight v;
    ptrdiff_t j = 0;
    for (; j + 8 <= n; j += 8)
        for (int r = 0; r < n_rows; r++) {
            memcpy(&v, a + r * ld + j, sizeof v);
            sum[r] = bp_add_squares(sum[r], v);
        }
    if (j < n)
        for (int r = 0; r < n_rows; r++)
            sum[r] = bp_add_squares(sum[r], bp_first_of_eight(a + r * ld + j, n - j));
    for (int r = 0; r < n_rows; r++) {
        typedef double half __attribute__((vector_size(32)));
        typedef double quarter __attribute__((vector_size(16)));
        half h[2];
        quarter q[2];
        memcpy(h, &sum[r], sizeof h);
        h[0] += h[1];
        memcpy(q, &h[0], sizeof q);
        q[0] += q[1];
        sums[r] = q[0][0] + q[0][1];
    }
}

/* s + error = a + b exactly (Knuth, TAOCP 2, 4.2.2, theorem B). */
static inline void bp_two_sum(double a, double b, double *sum, double *error)
{
    double s = a + b, b_part = s - a;
    *error = (a - (s - b_part)) + (b - b_part);
    *sum = s;
}

#endif
