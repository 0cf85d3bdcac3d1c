/* Several of the fixed trees of bp_tree_sum (vector.h) at once: the lanes of four or eight sums share the vectors in
 * which they are added. With one tree after another, symmetric forms of ten directions took 1.08 to 1.18 times as long
 * (v4; 20 to 128 units).
 */
#ifndef BACKPROP_KERNELS_SYMMETRIC_H
#define BACKPROP_KERNELS_SYMMETRIC_H

#include "vector.h"

/* What is left after the first step of a tree. */
typedef bp_real bp_folded __attribute__((vector_size(32)));
enum { BP_TREES = 32 / sizeof(bp_real) };

/* The upper half of 64 bytes of lanes added to the lower. */
static inline bp_folded bp_fold(const bp_vec part[BP_PARTS])
{
#if BP_SIMD == 4 && BP_FLOAT64
    return (bp_folded)_mm512_castpd512_pd256(part[0]) + (bp_folded)_mm512_extractf64x4_pd(part[0], 1);
#elif BP_SIMD == 4
    return (bp_folded)_mm512_castps512_ps256(part[0]) + (bp_folded)_mm512_extractf32x8_ps(part[0], 1);
#elif BP_SIMD == 3
    return part[0] + part[1];
#else
    bp_folded half[2];
    memcpy(half, part, 64);
    return half[0] + half[1];
#endif
}

/* The rest of BP_TREES trees: sums[i] is that of v[i]. */
static inline void bp_tree_sums(const bp_folded v[BP_TREES], bp_real sums[BP_TREES])
{
#if BP_SIMD >= 3 && BP_FLOAT64
    __m256d ac = _mm256_permute2f128_pd(v[0], v[2], 0x20) + _mm256_permute2f128_pd(v[0], v[2], 0x31);
    __m256d bd = _mm256_permute2f128_pd(v[1], v[3], 0x20) + _mm256_permute2f128_pd(v[1], v[3], 0x31);
    _mm256_storeu_pd(sums, _mm256_unpacklo_pd(ac, bd) + _mm256_unpackhi_pd(ac, bd));
#elif BP_SIMD >= 3
    __m256 s[4], ab, cd;
    for (int i = 0; i < 4; i++)
        s[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20) + _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
    ab = _mm256_shuffle_ps(s[0], s[1], 0x44) + _mm256_shuffle_ps(s[0], s[1], 0xee);
    cd = _mm256_shuffle_ps(s[2], s[3], 0x44) + _mm256_shuffle_ps(s[2], s[3], 0xee);
    _mm256_storeu_ps(sums, _mm256_shuffle_ps(ab, cd, 0x88) + _mm256_shuffle_ps(ab, cd, 0xdd));
#else
    for (int i = 0; i < BP_TREES; i++) {
#if BP_FLOAT64
        sums[i] = (v[i][0] + v[i][2]) + (v[i][1] + v[i][3]);
#else
        sums[i] = ((v[i][0] + v[i][4]) + (v[i][2] + v[i][6])) + ((v[i][1] + v[i][5]) + (v[i][3] + v[i][7]));
#endif
    }
#endif
}

#endif
