/* A sum that does not depend on the order of its addends: three integers of 64 bits, and where they lie.
 *
 * The real line is cut into bins of 32 bits: bin j holds the bits of weight 2^(32 j) to 2^(32 j + 31), and top is the
 * highest bin of all addends so far. An addend is cut towards zero at bin top - 2, and its digits, with its sign, are
 * added to the limbs: limb k belongs to bin top - 2 + k. A digit depends on the addend and its bin alone, and a window
 * that moves up only drops bins. So a state is (largest top, sum of digits) of its addends, for every order, tree and
 * thread. Limbs carry nothing before the end: below 2^31 addends none overflows. The sum is within n 2^-64 max|addend|
 * of the exact one.
 *
 * The limbs of n sums are planar: limb k of sum p is limbs[k stride + p].
 */
#ifndef BACKPROP_BINS_H
#define BACKPROP_BINS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    BP_EMPTY_TOP = -128,     /* of an empty sum */
    BP_NOT_FINITE = 100,  /* the limbs count +inf, -inf and NaN; all digits of finite numbers are below this window */
    BP_LIMBS = 3
};

/* The biased exponent of a double; 0x7ff if it is not finite. */
static inline int bp_exponent(uint64_t bits) { return (int)(bits >> 52) & 0x7ff; }

/* The bin of the leading bit. Subnormal numbers count as the smallest normal one. */
static inline int bp_bin(int exponent) { return (((exponent ? exponent : 1) + 65) >> 5) - 34; }

/* Move the window up. */
static inline void bp_raise(int new_top, int8_t *top, int64_t *limbs, ptrdiff_t stride)
{
    int by = new_top - *top;
    for (int k = 0; k < BP_LIMBS; k++)
        limbs[k * stride] = k + by < BP_LIMBS ? limbs[(k + by) * stride] : 0;
    *top = (int8_t)new_top;
}

/* Add a number. */
static inline void bp_add_to_bins(double v, int8_t *top, int64_t *limbs, ptrdiff_t stride)
{
    uint64_t bits, m;
    memcpy(&bits, &v, sizeof bits);
    int e = bp_exponent(bits), t = e == 0x7ff ? BP_NOT_FINITE : bp_bin(e);
    if (t > *top)
        bp_raise(t, top, limbs, stride);
    if (e == 0x7ff) {
        limbs[(v != v ? 2 : v < 0) * stride]++;
        return;
    }
    m = (bits & 0xfffffffffffff) | (e ? (uint64_t)1 << 52 : 0);
    int shift = (e ? e : 1) - 1011 - 32 * *top; /* of m, to the lowest bin of the window */
    for (int k = 0; k < BP_LIMBS; k++, shift -= 32) {
        uint64_t digit = shift >= 0 ? m << shift : shift > -64 ? m >> -shift : 0;
        int64_t term = (int64_t)(digit & 0xffffffff);
        limbs[k * stride] += bits >> 63 ? -term : term;
    }
}

/* Add a sum and the error that its rounding left, which is NaN if the sum has overflowed. */
static inline void bp_add_pair_to_bins(double sum, double error, int8_t *top, int64_t *limbs, ptrdiff_t stride)
{
    bp_add_to_bins(sum, top, limbs, stride);
    if (error - error == 0 && sum - sum == 0)
        bp_add_to_bins(error, top, limbs, stride);
}

/* Add a state to another one. A result of one unit that is added twice may overflow: it is refused later. */
static inline void bp_merge_bins(int other_top, const int64_t *other, ptrdiff_t other_stride, int8_t *top, int64_t *limbs,
                                 ptrdiff_t stride)
{
    if (other_top > *top)
        bp_raise(other_top, top, limbs, stride);
    for (int k = 0, below = *top - other_top; k + below < BP_LIMBS; k++)
        limbs[k * stride] = (int64_t)((uint64_t)limbs[k * stride] + (uint64_t)other[(k + below) * other_stride]);
}

/* x 2^e, for a result that needs no rounding if it is subnormal. */
static inline double bp_times_power(double x, int e)
{
    uint64_t bits;
    double power;
    if (e < -1022) {
        x *= 0x1p-200;
        e += 200;
    }
    bits = (uint64_t)(e + 1023) << 52;
    memcpy(&power, &bits, sizeof power);
    return x * power;
}

/* The sum times 2^exponent, rounded once. If the exponent is not 0, the result must be a normal number, or 0. */
static inline double bp_round_bins(int top, const int64_t *limbs, ptrdiff_t stride, int exponent)
{
    int64_t a = limbs[0], b = limbs[stride], c = limbs[2 * stride];
    uint64_t high, low;
    int negative, zeros, e = 32 * (top - 2) + exponent;
    if (top == BP_NOT_FINITE)
        return c || (a && b) ? (double)NAN : a ? (double)INFINITY : -(double)INFINITY;
    b = (int64_t)((uint64_t)b + (uint64_t)(a >> 32)); /* carries: c 2^64 + low */
    c = (int64_t)((uint64_t)c + (uint64_t)(b >> 32));
    low = (uint64_t)b << 32 | (a & 0xffffffff);
    negative = c < 0;
    high = (uint64_t)c;
    if (negative) {
        low = -low;
        high = ~high + !low;
    }
    if (high) {
        zeros = __builtin_clzll(high);
        if (zeros)
            high = high << zeros | low >> (64 - zeros);
        high |= low << zeros != 0; /* for the rounding, which looks at 11 bits and whether more follow */
        low = high;
        e += 64 - zeros;
    }
    if (!low)
        return 0;
    return bp_times_power(negative ? -(double)low : (double)low, e);
}

#endif
