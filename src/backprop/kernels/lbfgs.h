/* The passes of L-BFGS over its vectors, in the dtype of the network.
 *
 * A vector has whole lines of 64 bytes, filled up with zeros. Sums add in 64 bytes of lanes by fma, then by one tree.
 * After BP_STRETCH entries they go on in float64, so that those of float32 do not lose digits with length. So a sum's
 * bits depend on the length of the vectors alone. Whoever calls scales vectors by powers of two, so that no product
 * leaves the range of float32. */
#ifndef BACKPROP_KERNELS_LBFGS_H
#define BACKPROP_KERNELS_LBFGS_H

#include "vector.h"

enum {
    BP_LINE = 64 / sizeof(bp_real),
    BP_STRETCH = 1024, /* of 8 kB, so that x stays in L1 while all rows are multiplied by it */
    BP_CHAINS = 4,     /* groups side by side: a single chain mostly waits for its last fma */
    BP_COMBINED = 8,   /* vectors of a combination that stay in registers */
};

static inline ptrdiff_t bp_min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* sums[r] += rows[r].(scale x) from entry `start` on, for n_rows (a constant, at most BP_CHAINS). */
static inline __attribute__((always_inline)) void bp_products_of_rows(int n_rows, ptrdiff_t start, ptrdiff_t n,
                                                                      const bp_real *const *rows, const bp_real *x,
                                                                      bp_vec scale, double *sums)
{
    bp_vec chain[BP_CHAINS][BP_PARTS] = {{{0}}}, v;
    const bp_real *row[BP_CHAINS];
    for (int r = 0; r < n_rows; r++)
        row[r] = rows[r] + start;
    x += start;
    for (ptrdiff_t k = 0; k < n; k += BP_LINE)
        for (int p = 0; p < BP_PARTS; p++) {
            v = bp_load(x + k + p * BP_LANES) * scale;
            for (int r = 0; r < n_rows; r++)
                chain[r][p] = bp_fma(bp_load(row[r] + k + p * BP_LANES), v, chain[r][p]);
        }
    for (int r = 0; r < n_rows; r++)
        sums[r] += bp_tree_sum(chain[r]);
}

/* sums[r] = rows[r].(scale x). */
static inline void bp_products(ptrdiff_t n, ptrdiff_t n_rows, const bp_real *const *rows, const bp_real *x,
                               double scale, double *sums)
{
    bp_vec s = bp_broadcast((bp_real)scale);
    ptrdiff_t r;
    memset(sums, 0, (size_t)n_rows * sizeof(double));
    for (ptrdiff_t k = 0; k < n; k += BP_STRETCH) {
        ptrdiff_t length = bp_min(n - k, BP_STRETCH);
        for (r = 0; r + 4 <= n_rows; r += 4)
            bp_products_of_rows(4, k, length, rows + r, x, s, sums + r);
        if (r + 2 <= n_rows) {
            bp_products_of_rows(2, k, length, rows + r, x, s, sums + r);
            r += 2;
        }
        if (r < n_rows)
            bp_products_of_rows(1, k, length, rows + r, x, s, sums + r);
    }
}

/* Where trial and theta differ, bits are set. */
static inline bp_vec bp_stepped(const bp_real *theta, bp_vec t, bp_vec direction, bp_real *trial, bp_ivec *changes)
{
    bp_vec before = bp_load(theta), after = bp_fma(t, direction, before);
    *changes |= (bp_ivec)after ^ (bp_ivec)before;
    bp_store(trial, after);
    return after;
}

static inline int bp_any_bit(bp_ivec bits)
{
    bp_int any = 0;
    for (int i = 0; i < BP_LANES; i++)
        any |= bits[i];
    return any != 0;
}

/* trial = theta + t direction; whether any entry has changed. */
static inline int bp_step(ptrdiff_t n, const bp_real *theta, double t, const bp_real *direction, bp_real *trial)
{
    bp_vec step = bp_broadcast((bp_real)t);
    bp_ivec changes = {0};
    for (ptrdiff_t k = 0; k < n; k += BP_LANES)
        bp_stepped(theta + k, step, bp_load(direction + k), trial + k, &changes);
    return bp_any_bit(changes);
}

/* n_vectors (a constant) of bp_combine, from entry k on. */
static inline __attribute__((always_inline)) void
bp_combine_vectors(int n_vectors, ptrdiff_t k, ptrdiff_t n_rows, const bp_real *const *rows, const bp_real *factors,
                   const bp_real *gradient, bp_vec scale, bp_vec factor, const bp_real *theta, bp_vec t,
                   bp_real *direction, bp_real *trial, bp_vec *slope, bp_ivec *changes)
{
    bp_vec d[BP_COMBINED];
    for (int i = 0; i < n_vectors; i++)
        d[i] = factor * (scale * bp_load(gradient + k + i * BP_LANES));
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        const bp_real *row = rows[r] + k;
        bp_vec f = bp_broadcast(factors[r]);
        for (int i = 0; i < n_vectors; i++)
            d[i] = bp_fma(f, bp_load(row + i * BP_LANES), d[i]);
    }
    for (int i = 0; i < n_vectors; i++) {
        ptrdiff_t j = k + i * BP_LANES;
        bp_store(direction + j, d[i]);
        slope[i % BP_PARTS] = bp_fma(scale * bp_load(gradient + j), d[i], slope[i % BP_PARTS]);
        bp_stepped(theta + j, t, d[i], trial + j, changes);
    }
}

/* direction = factor scale gradient + sum_r factors[r] rows[r], and trial = theta + t direction; whether any entry of
 * it differs from theta. slope is (scale gradient).direction. */
static inline int bp_combine(ptrdiff_t n, ptrdiff_t n_rows, const bp_real *const *rows, const bp_real *factors,
                             const bp_real *gradient, double scale, double factor, const bp_real *theta, double t,
                             bp_real *direction, bp_real *trial, double *slope)
{
    bp_vec s = bp_broadcast((bp_real)scale), f = bp_broadcast((bp_real)factor), step = bp_broadcast((bp_real)t);
    bp_ivec changes = {0};
    *slope = 0;
    for (ptrdiff_t k = 0; k < n;) {
        ptrdiff_t end = bp_min(n, k + BP_STRETCH);
        bp_vec sum[BP_PARTS] = {{0}};
#define BP_COMBINE(n_vectors)                                                                                          \
    bp_combine_vectors(n_vectors, k, n_rows, rows, factors, gradient, s, f, theta, step, direction, trial, sum,        \
                       &changes);                                                                                      \
    k += (n_vectors) * BP_LANES
        while (k + 8 * BP_LANES <= end) {
            BP_COMBINE(8);
        }
        if (k + 4 * BP_LANES <= end) {
            BP_COMBINE(4);
        }
#if BP_PARTS < 4
        if (k + 2 * BP_LANES <= end) {
            BP_COMBINE(2);
        }
#endif
#if BP_PARTS < 2
        if (k < end) {
            BP_COMBINE(1);
        }
#endif
#undef BP_COMBINE
        *slope += bp_tree_sum(sum);
    }
    return bp_any_bit(changes);
}

/* n_chains (a constant) groups of bp_slope. */
static inline __attribute__((always_inline)) void bp_slope_of_groups(int n_chains, const bp_real *gradient,
                                                                     bp_vec scale, const bp_real *direction,
                                                                     bp_vec chain[BP_CHAINS][BP_PARTS],
                                                                     bp_vec largest[BP_CHAINS])
{
    for (int c = 0; c < n_chains; c++)
        for (int p = 0; p < BP_PARTS; p++) {
            ptrdiff_t k = c * BP_LINE + p * BP_LANES;
            bp_vec g = bp_load(gradient + k), size = bp_abs(g);
            chain[c][p] = bp_fma(scale * g, bp_load(direction + k), chain[c][p]);
            largest[c] = bp_where_less(largest[c], size, size, largest[c]);
        }
}

/* (scale gradient).direction, NaN if an entry of gradient is no number; *largest = max |gradient|, but for NaN. */
static inline double bp_slope(ptrdiff_t n, const bp_real *gradient, double scale, const bp_real *direction,
                              double *largest)
{
    bp_vec s = bp_broadcast((bp_real)scale), most[BP_CHAINS] = {{0}};
    double sum = 0;
    for (ptrdiff_t k = 0; k < n;) {
        ptrdiff_t end = bp_min(n, k + BP_STRETCH);
        bp_vec chain[BP_CHAINS][BP_PARTS] = {{{0}}};
        for (; k + 4 * BP_LINE <= end; k += 4 * BP_LINE)
            bp_slope_of_groups(4, gradient + k, s, direction + k, chain, most);
        if (k + 2 * BP_LINE <= end) {
            bp_slope_of_groups(2, gradient + k, s, direction + k, chain, most);
            k += 2 * BP_LINE;
        }
        if (k < end) {
            bp_slope_of_groups(1, gradient + k, s, direction + k, chain, most);
            k += BP_LINE;
        }
        for (int p = 0; p < BP_PARTS; p++)
            chain[0][p] = (chain[0][p] + chain[1][p]) + (chain[2][p] + chain[3][p]);
        sum += bp_tree_sum(chain[0]);
    }
    *largest = 0;
    for (int c = 0; c < BP_CHAINS; c++)
        for (int i = 0; i < BP_LANES; i++)
            if (most[c][i] > *largest)
                *largest = most[c][i];
    return sum;
}

/* s = scale_s (trial - theta), y = scale_y (new_gradient - gradient); sums = s.y, y.y, |scale_y new_gradient|^2. */
static inline void bp_new_pair(ptrdiff_t n, const bp_real *theta, const bp_real *trial, const bp_real *gradient,
                               const bp_real *new_gradient, double scale_s, double scale_y, bp_real *s, bp_real *y,
                               double *sums)
{
    bp_vec by_s = bp_broadcast((bp_real)scale_s), by_y = bp_broadcast((bp_real)scale_y);
    sums[0] = sums[1] = sums[2] = 0;
    for (ptrdiff_t k = 0; k < n;) {
        ptrdiff_t end = bp_min(n, k + BP_STRETCH);
        bp_vec chain[3][BP_PARTS] = {{{0}}};
        while (k < end)
            for (int p = 0; p < BP_PARTS; p++, k += BP_LANES) {
                bp_vec ds = by_s * (bp_load(trial + k) - bp_load(theta + k)), g = by_y * bp_load(new_gradient + k),
                       dy = g - by_y * bp_load(gradient + k);
                bp_store(s + k, ds);
                bp_store(y + k, dy);
                chain[0][p] = bp_fma(ds, dy, chain[0][p]);
                chain[1][p] = bp_fma(dy, dy, chain[1][p]);
                chain[2][p] = bp_fma(g, g, chain[2][p]);
            }
        for (int i = 0; i < 3; i++)
            sums[i] += bp_tree_sum(chain[i]);
    }
}

#endif
