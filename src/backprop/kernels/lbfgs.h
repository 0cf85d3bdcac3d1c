/* The passes of L-BFGS over its vectors.
 *
 * theta and gradients have the dtype of the network. Directions, and the pairs of which they are made, are float32 on
 * every network: directions need no more digits, and these passes take as long as it takes to read the pairs.
 *
 * A vector has whole lines of 16 entries, filled up with zeros. Sums add in 64 bytes of lanes by fma, then by one tree.
 * After BP_STRETCH entries they go on in float64, so that those of float32 do not lose digits with length. So a sum's
 * bits depend on the length of the vectors alone. Whoever calls scales vectors by powers of two, so that no product
 * leaves the range of float32. */
#ifndef BACKPROP_KERNELS_LBFGS_H
#define BACKPROP_KERNELS_LBFGS_H

#include "vector.h"

typedef float bp_floats __attribute__((vector_size(BP_BYTES)));
typedef float bp_floats_memory __attribute__((vector_size(BP_BYTES), aligned(sizeof(float)), may_alias));

enum {
    BP_FLOATS = BP_BYTES / sizeof(float),
    BP_LINE = 16,
    BP_STRETCH = 1024, /* of 4 or 8 kB: y and x are still in L1 when rows are multiplied by x */
    BP_CHAINS = 4,     /* sums side by side: a single one mostly waits for its last fma */
};

static inline bp_floats bp_load_floats(const float *p) { return *(const bp_floats_memory *)p; }

static inline bp_floats bp_floats_fma(bp_floats a, bp_floats b, bp_floats c)
{
#if BP_SIMD == 4
    return (bp_floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif BP_SIMD == 3
    return (bp_floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (bp_floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif BP_HAS_FMA
    for (int i = 0; i < BP_FLOATS; i++)
        c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c; /* v2 has no fma: two roundings */
#endif
}

/* bp_tree_sum of 16 float32. */
static inline float bp_floats_sum(const bp_floats part[BP_PARTS])
{
    typedef float half __attribute__((vector_size(32)));
    typedef float quarter __attribute__((vector_size(16)));
    half h[2];
    quarter q[2];
    memcpy(h, part, 64);
    h[0] += h[1];
    memcpy(q, &h[0], sizeof q);
    q[0] += q[1];
    return (q[0][0] + q[0][2]) + (q[0][1] + q[0][3]);
}

/* BP_LANES float32 as reals, and back, rounded. */
static inline bp_vec bp_load_single(const float *p)
{
#if !BP_FLOAT64
    return bp_load(p);
#elif BP_SIMD == 4
    return (bp_vec)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif BP_SIMD == 3
    return (bp_vec)_mm256_cvtps_pd(_mm_loadu_ps(p));
#else
    return (bp_vec){p[0], p[1]};
#endif
}
static inline void bp_store_single(float *p, bp_vec v)
{
#if !BP_FLOAT64
    bp_store(p, v);
#elif BP_SIMD == 4
    _mm256_storeu_ps(p, _mm512_cvtpd_ps((__m512d)v));
#elif BP_SIMD == 3
    _mm_storeu_ps(p, _mm256_cvtpd_ps((__m256d)v));
#else
    p[0] = (float)v[0];
    p[1] = (float)v[1];
#endif
}

/* sums[r] += rows[r].x from entry `start` on, for n_rows (a constant, at most BP_CHAINS). */
static inline __attribute__((always_inline)) void bp_products_of_rows(int n_rows, ptrdiff_t start, ptrdiff_t n,
                                                                      const float *const *rows, const float *x,
                                                                      double *sums)
{
    bp_floats chain[BP_CHAINS][BP_PARTS] = {{{0}}}, v;
    const float *row[BP_CHAINS];
    for (int r = 0; r < n_rows; r++)
        row[r] = rows[r] + start;
    x += start;
    for (ptrdiff_t k = 0; k < n; k += BP_LINE)
        for (int p = 0; p < BP_PARTS; p++) {
            v = bp_load_floats(x + k + p * BP_FLOATS);
            for (int r = 0; r < n_rows; r++)
                chain[r][p] = bp_floats_fma(bp_load_floats(row[r] + k + p * BP_FLOATS), v, chain[r][p]);
        }
    for (int r = 0; r < n_rows; r++)
        sums[r] += bp_floats_sum(chain[r]);
}

/* The same for any n_rows. Not inline: two functions have it. */
static void bp_add_products(ptrdiff_t start, ptrdiff_t n, ptrdiff_t n_rows, const float *const *rows, const float *x,
                            double *sums)
{
    ptrdiff_t r = 0;
    for (; r + 4 <= n_rows; r += 4)
        bp_products_of_rows(4, start, n, rows + r, x, sums + r);
    if (r + 2 <= n_rows) {
        bp_products_of_rows(2, start, n, rows + r, x, sums + r);
        r += 2;
    }
    if (r < n_rows)
        bp_products_of_rows(1, start, n, rows + r, x, sums + r);
}

static inline ptrdiff_t bp_length(ptrdiff_t n, ptrdiff_t start) { return n - start < BP_STRETCH ? n - start : BP_STRETCH; }

/* sums[r] = rows[r].x. */
static inline void bp_row_products(ptrdiff_t n, ptrdiff_t n_rows, const float *const *rows, const float *x,
                                   double *sums)
{
    memset(sums, 0, (size_t)n_rows * sizeof(double));
    for (ptrdiff_t k = 0; k < n; k += BP_STRETCH)
        bp_add_products(k, bp_length(n, k), n_rows, rows, x, sums);
}

/* y = scale_y (new_gradient - gradient) and x = scale_x new_gradient, each rounded to float32; sums = y.y, x.x, and
 * rows[r].x; y may be among the rows. */
static inline void bp_accept_step(ptrdiff_t n, const bp_real *gradient, const bp_real *new_gradient, double scale_y,
                                  double scale_x, ptrdiff_t n_rows, const float *const *rows, float *y, float *x,
                                  double *sums)
{
    bp_vec by_y = bp_broadcast((bp_real)scale_y), by_x = bp_broadcast((bp_real)scale_x);
    memset(sums, 0, (size_t)(2 + n_rows) * sizeof(double));
    for (ptrdiff_t start = 0; start < n; start += BP_STRETCH) {
        ptrdiff_t length = bp_length(n, start), k = start;
        bp_vec chain[2][BP_PARTS] = {{{0}}};
        while (k < start + length)
            for (int p = 0; p < BP_PARTS; p++, k += BP_LANES) {
                bp_vec g = bp_load(new_gradient + k), dy, gx;
                bp_store_single(y + k, by_y * (g - bp_load(gradient + k)));
                bp_store_single(x + k, by_x * g);
                dy = bp_load_single(y + k);
                gx = bp_load_single(x + k);
                chain[0][p] = bp_fma(dy, dy, chain[0][p]);
                chain[1][p] = bp_fma(gx, gx, chain[1][p]);
            }
        for (int i = 0; i < 2; i++)
            sums[i] += bp_tree_sum(chain[i]);
        bp_add_products(start, length, n_rows, rows, x, sums + 2);
    }
}

/* trial = theta + t direction. Bits of `changes` are set if it differs from theta. */
static inline void bp_go(const bp_real *theta, bp_vec t, bp_vec direction, bp_real *trial, bp_ivec *changes)
{
    bp_vec before = bp_load(theta), after = bp_fma(t, direction, before);
    *changes |= (bp_ivec)after ^ (bp_ivec)before;
    bp_store(trial, after);
}

static inline int bp_any_bit(bp_ivec bits)
{
    bp_int any = 0;
    for (int i = 0; i < BP_LANES; i++)
        any |= bits[i];
    return any != 0;
}

/* trial = theta + t direction; whether any entry has changed. */
static inline int bp_step(ptrdiff_t n, const bp_real *theta, double t, const float *direction, bp_real *trial)
{
    bp_vec step = bp_broadcast((bp_real)t);
    bp_ivec changes = {0};
    for (ptrdiff_t k = 0; k < n; k += BP_LANES)
        bp_go(theta + k, step, bp_load_single(direction + k), trial + k, &changes);
    return bp_any_bit(changes);
}

/* direction = factor x + sum_r factors[r] rows[r] for n_vectors (a constant, at most 8). */
static inline __attribute__((always_inline)) void bp_combine_rows(int n_vectors, ptrdiff_t k, ptrdiff_t n_rows,
                                                                  const float *const *rows, const float *factors,
                                                                  const float *x, float factor, float *direction)
{
    bp_floats d[8], f = factor - (bp_floats){0};
    for (int i = 0; i < n_vectors; i++)
        d[i] = f * bp_load_floats(x + k + i * BP_FLOATS);
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        const float *row = rows[r] + k;
        f = factors[r] - (bp_floats){0};
        for (int i = 0; i < n_vectors; i++)
            d[i] = bp_floats_fma(f, bp_load_floats(row + i * BP_FLOATS), d[i]);
    }
    for (int i = 0; i < n_vectors; i++)
        *(bp_floats_memory *)(direction + k + i * BP_FLOATS) = d[i];
}

/* direction = factor x + sum_r factors[r] rows[r], slope = x.direction, and trial = theta + t direction; whether any
 * entry of it differs from theta. The last entries come first: they are those that the products have left in L1. */
static inline int bp_combine(ptrdiff_t n, ptrdiff_t n_rows, const float *const *rows, const float *factors,
                             const float *x, double factor, const bp_real *theta, double t, float *direction,
                             bp_real *trial, double *slope)
{
    bp_vec step = bp_broadcast((bp_real)t);
    bp_ivec changes = {0};
    *slope = 0;
    for (ptrdiff_t start = (n - 1) / BP_STRETCH * BP_STRETCH; start >= 0 && n; start -= BP_STRETCH) {
        ptrdiff_t end = start + bp_length(n, start), k = start;
        bp_vec chain[BP_PARTS] = {{0}};
        for (; k + 8 * BP_FLOATS <= end; k += 8 * BP_FLOATS)
            bp_combine_rows(8, k, n_rows, rows, factors, x, (float)factor, direction);
        if (k + 4 * BP_FLOATS <= end) {
            bp_combine_rows(4, k, n_rows, rows, factors, x, (float)factor, direction);
            k += 4 * BP_FLOATS;
        }
        for (; k < end; k += BP_LINE)
            bp_combine_rows(BP_PARTS, k, n_rows, rows, factors, x, (float)factor, direction);
        for (k = start; k < end;)
            for (int p = 0; p < BP_PARTS; p++, k += BP_LANES) {
                bp_vec d = bp_load_single(direction + k);
                chain[p] = bp_fma(bp_load_single(x + k), d, chain[p]);
                bp_go(theta + k, step, d, trial + k, &changes);
            }
        *slope += bp_tree_sum(chain);
    }
    return bp_any_bit(changes);
}

/* n_chains (a constant) times 64 bytes of bp_slope. */
static inline __attribute__((always_inline)) void bp_slope_of_lanes(int n_chains, const bp_real *gradient,
                                                                    bp_vec scale, const float *direction,
                                                                    bp_vec chain[BP_CHAINS][BP_PARTS],
                                                                    bp_vec largest[BP_CHAINS])
{
    for (int c = 0; c < n_chains; c++)
        for (int p = 0; p < BP_PARTS; p++) {
            ptrdiff_t k = (c * BP_PARTS + p) * BP_LANES;
            bp_vec g = bp_load(gradient + k), size = bp_abs(g);
            chain[c][p] = bp_fma(scale * g, bp_load_single(direction + k), chain[c][p]);
            largest[c] = bp_where_less(largest[c], size, size, largest[c]);
        }
}

/* (scale gradient).direction, NaN if an entry of the gradient is no number; *largest = max |gradient|, but for NaN. */
static inline double bp_slope(ptrdiff_t n, const bp_real *gradient, double scale, const float *direction,
                              double *largest)
{
    enum { WIDTH = BP_PARTS * BP_LANES };
    bp_vec s = bp_broadcast((bp_real)scale), most[BP_CHAINS] = {{0}};
    double sum = 0;
    for (ptrdiff_t k = 0; k < n;) {
        ptrdiff_t end = k + bp_length(n, k);
        bp_vec chain[BP_CHAINS][BP_PARTS] = {{{0}}};
        for (; k + 4 * WIDTH <= end; k += 4 * WIDTH)
            bp_slope_of_lanes(4, gradient + k, s, direction + k, chain, most);
        if (k + 2 * WIDTH <= end) {
            bp_slope_of_lanes(2, gradient + k, s, direction + k, chain, most);
            k += 2 * WIDTH;
        }
        if (k < end) {
            bp_slope_of_lanes(1, gradient + k, s, direction + k, chain, most);
            k += WIDTH;
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

#endif
