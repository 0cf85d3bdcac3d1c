/* What pairs.pxd and elementary.pxd need in C: bounds, the pair, powers of two, the reduction of large arguments of
 * sin, and exp and log1p in float64. */
#ifndef BACKPROP_KERNELS_ELEMENTARY_H
#define BACKPROP_KERNELS_ELEMENTARY_H

#include "vector.h"
#include "coefficients.h"

/* A pair stands for hi + lo and has about twice the digits of the dtype. */
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
#define BP_ROUND_MAGIC 6755399441055744.0 /* 1.5 * 2^52: adding it rounds to an integer, which the low bits hold */
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

/* The integer nearest to a b, for |a b| below 2^22 (float32) or 2^51 (float64). */
static inline bp_vec bp_round_product(bp_vec a, bp_real b)
{
    bp_vec magic = bp_broadcast(BP_ROUND_MAGIC);
    return bp_fma(a, bp_broadcast(b), magic) - magic;
}
static inline bp_vec bp_round(bp_vec v) { return (v + BP_ROUND_MAGIC) - BP_ROUND_MAGIC; }

/* 2^n for an integer n, if 2^n is a normal number. */
static inline bp_vec bp_power_of_two(bp_vec n)
{
    return (bp_vec)((bp_ivec)(n + (BP_ROUND_MAGIC + BP_BIAS)) << BP_MANTISSA);
}

/* v 2^n, rounded once, for an integer n of up to twice the range of normal exponents: v times two powers. */
static inline bp_vec bp_scale(bp_vec v, bp_vec n)
{
#if BP_SIMD == 4
    return (bp_vec)BP_CAT(_mm512_scalef_, BP_SUFFIX)(v, n);
#else
    bp_vec half = bp_round_product(n, (bp_real)0.5);
    return v * bp_power_of_two(half) * bp_power_of_two(n - half);
#endif
}

/* c - a b, for a result far smaller than c. Without fma it is made from halves of a and b, whose products are exact
 * (Dekker). Masks make the halves, so nothing overflows. The lower halves of float64 have 27 bits: their product is
 * rounded, at 2^-106. */
static inline bp_vec bp_less_product(bp_vec c, bp_vec a, bp_vec b)
{
#if BP_HAS_FMA
    return bp_fma(-a, b, c);
#else
    const bp_ivec mask = (bp_ivec){0} - (BP_FLOAT64 ? 1 << 27 : 1 << 12);
    bp_vec product = a * b, a_high = (bp_vec)((bp_ivec)a & mask), b_high = (bp_vec)((bp_ivec)b & mask);
    bp_vec a_low = a - a_high, b_low = b - b_high;
    return (c - product) - (((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low);
#endif
}

static inline bp_pair bp_make_pair(bp_vec hi, bp_vec lo) { return (bp_pair){hi, lo}; }

/* a = (4 m + quadrant) pi/2 + r with |r| <= pi/4, by exact integer arithmetic on the bits of 2/pi (Payne and Hanek, ACM
 * SIGNUM Newsletter 18, 1983). Returns r, its low part and the quadrant 0..3. Range: every finite a >= 1. */
static double bp_reduce_large(double a, int *quadrant, double *low_part)
{
    int exponent;
    uint64_t bits;
    memcpy(&bits, &a, sizeof bits);
    exponent = (int)(bits >> 52 & 2047) - 1075; /* a = mantissa 2^exponent */
    uint64_t mantissa = (bits & ((1ull << 52) - 1)) | 1ull << 52;
    /* Bits of 2/pi above 2^(2 - exponent) give multiples of 4 and are left out. The next 192 bits are enough. */
    int first = exponent > 2 ? exponent - 2 : 0, shift = first & 63, word = first >> 6;
    uint64_t w[4];
    for (int i = 0; i < 4; i++)
        w[i] = word + i < 20 ? BP_TWO_OVER_PI[word + i] : 0;
    if (shift)
        for (int i = 0; i < 3; i++)
            w[i] = w[i] << shift | w[i + 1] >> (64 - shift);
    /* product = mantissa (w0 w1 w2); p[0..3] holds its top 256 bits */
    uint64_t p[4];
    unsigned __int128 low = (unsigned __int128)mantissa * w[2], middle = (unsigned __int128)mantissa * w[1],
                      high = (unsigned __int128)mantissa * w[0];
    p[3] = (uint64_t)low;
    middle += (uint64_t)(low >> 64);
    p[2] = (uint64_t)middle;
    high += (uint64_t)(middle >> 64);
    p[1] = (uint64_t)high;
    p[0] = (uint64_t)(high >> 64);
    /* The unit of the product is 2^(exponent - first - 192): behind its binary point
       a 2/pi mod 4 has `point` bits. */
    int point = 192 + first - exponent; /* at least 190 */
    uint64_t q[3] = {0, 0, 0};          /* the product, shifted so that q[0] starts with the two bits of the quadrant */
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

/* exp and log1p in float64 for the losses, which are float64 in all networks. They take the same steps as the vectors
 * (elementary.pxd), so that the bits depend on no C library. */
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
    n += 6755399441055744.0 + 1023; /* the lowest bits hold the exponent */
    memcpy(&bits, &n, sizeof bits);
    bits <<= 52;
    memcpy(&n, &bits, sizeof bits);
    return n;
}

/* exp in steps: x within bounds is n ln 2 + reduced + low; then exp(reduced + low) - 1; then 2^n. */
static inline double bp_reduce_double(double bounded, double *n, double *low)
{
    const double magic = 6755399441055744.0;
    *n = (bounded * 1.44269504088896340736 + magic) - magic;
    double r = bp_fma_double(-*n, BP_DOUBLE_LN2[0], bounded), rest = -*n * BP_DOUBLE_LN2[1];
    double reduced = r + rest;
    *low = rest - (reduced - r);
    return reduced;
}

static inline double bp_expm1_of_reduced(double reduced, double low)
{
    double value = bp_polynomial(reduced, BP_DOUBLE_EXP, BP_DOUBLE_EXP_DEGREE);
    return reduced + bp_fma_double(reduced * reduced, value, low);
}

static inline double bp_scale_exp(double expm1, double n)
{
    const double magic = 6755399441055744.0;
    double half = (n * 0.5 + magic) - magic;
    return (1 + expm1) * bp_double_power_of_two(half) * bp_double_power_of_two(n - half);
}

/* exp(x). Error in ulp: 0.842 (v2: 0.855) against mpmath, over 1.5 10^7 arguments. Range: every x; 0 below -745.2,
 * inf above 709.8. */
static inline double bp_exp(double x)
{
    double n, low;
    double reduced = bp_reduce_double(x < -760 ? -760 : x > 710 ? 710 : x, &n, &low); /* a NaN stays */
    return bp_scale_exp(bp_expm1_of_reduced(reduced, low), n);
}

/* x[k] = exp(x[k]) for x[k] <= 0, step by step over blocks, so that the chains of several vectors overlap (stages.pxd).
 * x has room for a multiple of 8 entries: the last block is filled up with zeros, since a remainder of scalars took half
 * of the time of 10 entries. Not inline: a kernel calls it several times. */
enum { BP_EXP_BLOCK = 32 };
static __attribute__((noinline)) void bp_exp_in_place(ptrdiff_t n, double *x)
{
    double power[BP_EXP_BLOCK], reduced[BP_EXP_BLOCK], low[BP_EXP_BLOCK];
    for (; n & 7; n++)
        x[n] = 0;
    for (ptrdiff_t size; n > 0; n -= size, x += size) {
        size = (n < BP_EXP_BLOCK ? n : BP_EXP_BLOCK) & ~(ptrdiff_t)7; /* tells the compiler that no rest is left */
        /* A loop of its own: the compiler would follow the bound through the next step, and select after each of its
           operations. */
        for (ptrdiff_t k = 0; k < size; k++)
            x[k] = x[k] < -760 ? -760 : x[k]; /* a NaN stays */
        for (ptrdiff_t k = 0; k < size; k++)
            reduced[k] = bp_reduce_double(x[k], &power[k], &low[k]);
        for (ptrdiff_t k = 0; k < size; k++)
            reduced[k] = bp_expm1_of_reduced(reduced[k], low[k]);
        for (ptrdiff_t k = 0; k < size; k++)
            x[k] = bp_scale_exp(reduced[k], power[k]);
    }
}

/* mask ? x : y for a mask that has all bits set or none. GCC turns a conditional into a store behind a branch. */
static inline double bp_choose(int64_t mask, double x, double y)
{
    int64_t a, b;
    memcpy(&a, &x, sizeof a);
    memcpy(&b, &y, sizeof b);
    a = (a & mask) | (b & ~mask);
    memcpy(&x, &a, sizeof x);
    return x;
}

/* log(1 + t) = s + *low for t from 0 to 1: 2 atanh(t/(2 + t)). */
static inline double bp_log1p_parts(double t, double *low)
{
    double u = 2 + t, u_low = t - (u - 2);
    double s = (t + t) / u;
    double s_low = (bp_fma_double(-s, u, t + t) - s * u_low) / u;
    double z = 0.25 * s * s;
    *low = bp_fma_double(s * z, bp_polynomial(z, BP_DOUBLE_ATANH, BP_DOUBLE_ATANH_DEGREE), s_low);
    return s;
}

/* The same, rounded. `bp_log1p` gives the same bits in a tenth more time. */
static inline double bp_log1p_to_1(double t)
{
    double low, s = bp_log1p_parts(t, &low);
    return s + low;
}

/* log(1 + t): beyond 1, 1 + t = 2^k (1 + f). Without a branch, so that a loop over it is vectorised. Error in ulp: 0.824
 * (v2: 1.119) against mpmath, over 1.5 10^7 arguments. Range: 0 <= t < 2^1000; inf and NaN pass. */
static inline double bp_log1p(double t)
{
    const double two_52 = 0x1p52;
    double sum = 1 + t, low = 1 - (sum - t), scale, power; /* exact if t > 1 */
    uint64_t bits, exponent;
    memcpy(&bits, &sum, sizeof bits);
    exponent = bits >> 52;
    bits = ((uint64_t)2046 - exponent) << 52;
    memcpy(&scale, &bits, sizeof bits);
    memcpy(&bits, &two_52, sizeof bits);
    bits |= exponent;
    memcpy(&power, &bits, sizeof bits); /* 2^52 + the exponent: AVX2 converts no integers of 64 bits */
    power = t > 1 ? power - (0x1p52 + 1023) : 0;
    double s = bp_log1p_parts(t > 1 ? (sum * scale - 1) + low * scale : t, &low);
    double high = power * BP_DOUBLE_LN2[0]; /* adding 0 changes no bit */
    return t < 0x1p1000 ? high + (s + (low + power * BP_DOUBLE_LN2[1])) : t;
}

#endif
