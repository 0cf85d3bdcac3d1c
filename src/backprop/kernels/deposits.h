/* Many sums into integer bins (bins.h), and out of them, as many at a time as a vector has float64 lanes. */
#ifndef BACKPROP_KERNELS_DEPOSITS_H
#define BACKPROP_KERNELS_DEPOSITS_H

#include "bins.h"
#include "vector.h"

enum { BP_WORDS = BP_BYTES / 8 };
typedef int64_t bp_words __attribute__((vector_size(BP_BYTES)));
typedef int64_t bp_words_memory __attribute__((vector_size(BP_BYTES), aligned(8), may_alias));
typedef int8_t bp_tops __attribute__((vector_size(BP_WORDS), aligned(1), may_alias));

/* Shifts by counts of their own, which are 0 for counts of 64 and more, or negative ones. */
static inline bp_words bp_shift_left(bp_words m, bp_words count)
{
#if BP_SIMD == 4
    return (bp_words)_mm512_sllv_epi64((__m512i)m, (__m512i)count);
#elif BP_SIMD == 3
    return (bp_words)_mm256_sllv_epi64((__m256i)m, (__m256i)count);
#else
    for (int i = 0; i < BP_WORDS; i++)
        m[i] = (uint64_t)count[i] < 64 ? (int64_t)((uint64_t)m[i] << count[i]) : 0;
    return m;
#endif
}

static inline bp_words bp_shift_right(bp_words m, bp_words count)
{
#if BP_SIMD == 4
    return (bp_words)_mm512_srlv_epi64((__m512i)m, (__m512i)count);
#elif BP_SIMD == 3
    return (bp_words)_mm256_srlv_epi64((__m256i)m, (__m256i)count);
#else
    for (int i = 0; i < BP_WORDS; i++)
        m[i] = (uint64_t)count[i] < 64 ? (int64_t)((uint64_t)m[i] >> count[i]) : 0;
    return m;
#endif
}

/* Whether any bit is set. */
static inline int bp_any(bp_words m)
{
#if BP_SIMD == 4
    return _mm512_test_epi64_mask((__m512i)m, (__m512i)m) != 0;
#elif BP_SIMD == 3
    return !_mm256_testz_si256((__m256i)m, (__m256i)m);
#else
    int64_t any = 0;
    for (int i = 0; i < BP_WORDS; i++)
        any |= m[i];
    return any != 0;
#endif
}

/* bp_bin of many biased exponents. */
static inline bp_words bp_bins_of(bp_words e) { return ((e - (e == 0) + 65) >> 5) - 34; }

/* Add the digits of v to the limbs of a window. */
static inline void bp_add_digits(bp_words v, bp_words top, bp_words *limb)
{
    bp_words e = (v >> 52) & 0x7ff, none = e == 0, sign = v >> 63;
    bp_words m = (v & 0xfffffffffffff) | (~none & ((int64_t)1 << 52)), shift = e - none - 1011 - 32 * top;
    for (int k = 0; k < BP_LIMBS; k++) {
        bp_words digit = (bp_shift_left(m, shift) | bp_shift_right(m, -shift)) & 0xffffffff;
        limb[k] += (digit ^ sign) - sign;
        shift -= 32;
    }
}

/* Add some sums, each with the error of its rounding if error is not NULL; to nothing if they are the first. */
static inline __attribute__((always_inline)) void bp_deposit(ptrdiff_t n, const double *sum, const double *error,
                                                             int first, int8_t *top, int64_t *limbs, ptrdiff_t stride)
{
    ptrdiff_t p = 0;
    while (p < n) {
        ptrdiff_t count = n - p < BP_WORDS ? n - p : BP_WORDS;
        if (count == BP_WORDS) {
            bp_words v = *(const bp_words_memory *)(sum + p), e = (v >> 52) & 0x7ff, tops, w = {0}, limb[BP_LIMBS];
            bp_words t = bp_bins_of(e), infinite = e == 0x7ff;
            if (error) {
                w = *(const bp_words_memory *)(error + p);
                e = (w >> 52) & 0x7ff;
                infinite |= e == 0x7ff;
                e = bp_bins_of(e);
                t += (e - t) & (e > t);
            }
            if (!bp_any(infinite)) {
                if (first) {
                    tops = t;
                    limb[0] = limb[1] = limb[2] = (bp_words){0};
                } else {
                    tops = __builtin_convertvector(*(const bp_tops *)(top + p), bp_words);
                    for (int k = 0; k < BP_LIMBS; k++)
                        limb[k] = *(const bp_words_memory *)(limbs + k * stride + p);
                    if (bp_any(t > tops)) {
                        bp_words by = (t - tops) & (t > tops);
                        limb[0] = (limb[0] & (by == 0)) | (limb[1] & (by == 1)) | (limb[2] & (by == 2));
                        limb[1] = (limb[1] & (by == 0)) | (limb[2] & (by == 1));
                        limb[2] &= by == 0;
                        tops += by;
                    }
                }
                bp_add_digits(v, tops, limb);
                if (error)
                    bp_add_digits(w, tops, limb);
                *(bp_tops *)(top + p) = __builtin_convertvector(tops, bp_tops);
                for (int k = 0; k < BP_LIMBS; k++)
                    *(bp_words_memory *)(limbs + k * stride + p) = limb[k];
                p += count;
                continue;
            }
        }
        for (; count; count--, p++) {
            if (first) {
                top[p] = BP_EMPTY_TOP;
                limbs[p] = limbs[stride + p] = limbs[2 * stride + p] = 0;
            }
            bp_add_pair_to_bins(sum[p], error ? error[p] : 0, top + p, limbs + p, stride);
        }
    }
}

/* Integers below 2^51 in magnitude as float64: no instruction before AVX-512 converts 64 bits. */
typedef double bp_doubles __attribute__((vector_size(BP_BYTES)));
typedef double bp_doubles_memory __attribute__((vector_size(BP_BYTES), aligned(8), may_alias));
static inline bp_doubles bp_to_doubles(bp_words m) { return (bp_doubles)(m + 0x4338000000000000) - 0x1.8p52; }

/* The sums, each rounded once to float64: bp_round_bins for all.
 *
 * With carries a sum is c 2^64 + b 2^32 + a, 0 <= a, b < 2^32, and |c| < 2^41 if there are fewer than 512 units. Then
 * the error of c 2^64 + b 2^32 is a multiple of 2^32 below 2^52, a is added to it without rounding, and the last
 * addition rounds once. Longer sums, and those near the ends of the range, are rounded one by one. */
static inline __attribute__((always_inline)) void bp_round_all(ptrdiff_t n, const int8_t *top, const int64_t *limbs,
                                                               ptrdiff_t stride, double *total)
{
    ptrdiff_t p = 0;
    while (p < n) {
        ptrdiff_t count = n - p < BP_WORDS ? n - p : BP_WORDS;
        if (count == BP_WORDS) {
            bp_words tops = __builtin_convertvector(*(const bp_tops *)(top + p), bp_words);
            bp_words a = *(const bp_words_memory *)(limbs + p), b = *(const bp_words_memory *)(limbs + stride + p);
            bp_words c = *(const bp_words_memory *)(limbs + 2 * stride + p);
            b += a >> 32;
            c += b >> 32;
            if (!bp_any((c >= (int64_t)1 << 41) | (c <= -((int64_t)1 << 41)) | (tops < -29) | (tops > 31))) {
                bp_doubles high = bp_to_doubles(c) * 0x1p64, middle = bp_to_doubles(b & 0xffffffff) * 0x1p32;
                bp_doubles sum = high + middle, part = sum - high, error = (high - (sum - part)) + (middle - part);
                bp_doubles scale = (bp_doubles)((32 * (tops - 2) + 1023) << 52);
                sum += error + bp_to_doubles(a & 0xffffffff);
                *(bp_doubles_memory *)(total + p) = sum * scale;
                p += count;
                continue;
            }
        }
        for (; count; count--, p++)
            total[p] = bp_round_bins(top[p], limbs + p, stride, 0);
    }
}

#endif
