/* Steps of solvers, entry by entry in float64, and the sums over entries that solvers need.
 *
 * An entry is computed by +, -, *, / and the square root alone, each rounded once, and rounded to the network's dtype
 * at the end. There is no fma: so NumPy's plain formulas give the same bits, and so does every instruction set. The
 * compiler makes vectors of the loops, which changes no bit. */
#ifndef BACKPROP_KERNELS_STEPS_H
#define BACKPROP_KERNELS_STEPS_H

#include "rows.h"

/* theta = theta - decay theta - rate m / (sqrt(v) + epsilon), after m and v have taken in the gradient
 * factor (grad + l2 theta). */
static inline void bp_adam_step(ptrdiff_t n, const bp_real *restrict grad, double factor, double l2, double beta_1,
                                double beta_2, double rate, double epsilon, double decay, bp_real *restrict theta,
                                double *restrict m, double *restrict v)
{
    double rest_1 = 1 - beta_1, rest_2 = 1 - beta_2;
    for (ptrdiff_t p = 0; p < n; p++) {
        double t = theta[p], g = factor * (grad[p] + l2 * t);
        m[p] = beta_1 * m[p] + rest_1 * g;
        v[p] = beta_2 * v[p] + rest_2 * (g * g);
        theta[p] = (bp_real)(t - decay * t - rate * m[p] / (__builtin_sqrt(v[p]) + epsilon));
    }
}

/* velocity = momentum velocity - rate factor (grad + l2 theta); theta moves by it, or by Nesterov's step, which looks
 * one step of the momentum ahead. */
static inline void bp_sgd_step(ptrdiff_t n, const bp_real *restrict grad, double factor, double l2, double momentum,
                               double rate, int is_nesterov, bp_real *restrict theta, double *restrict velocity)
{
    for (ptrdiff_t p = 0; p < n; p++) {
        double t = theta[p], down = rate * (factor * (grad[p] + l2 * t));
        velocity[p] = momentum * velocity[p] - down;
        theta[p] = (bp_real)(t + (is_nesterov ? momentum * velocity[p] - down : velocity[p]));
    }
}

/* Eight entries of factor grad + l2 theta, whose squares are added. */
static inline bp_wide bp_add_penalized(bp_wide sum, bp_eight grad, bp_eight theta, double factor, double l2)
{
    bp_wide g = factor * bp_widen(grad) + l2 * bp_widen(theta);
    return sum + g * g;
}

/* The sum of (factor grad + l2 theta)^2 in eight lanes. */
static inline double bp_penalized_squares(ptrdiff_t n, const bp_real *grad, const bp_real *theta, double factor,
                                          double l2)
{
    bp_wide sum = {0};
    bp_eight g, t;
    ptrdiff_t p = 0;
    for (; p + 8 <= n; p += 8) {
        memcpy(&g, grad + p, sizeof g);
        memcpy(&t, theta + p, sizeof t);
        sum = bp_add_penalized(sum, g, t, factor, l2);
    }
    if (p < n)
        sum = bp_add_penalized(sum, bp_first_of_eight(grad + p, n - p), bp_first_of_eight(theta + p, n - p), factor,
                               l2);
    return bp_wide_sum(sum);
}

/* The largest magnitude of n entries; NaN if there is one, since its bits are larger than those of infinity. */
static inline bp_real bp_largest_magnitude(ptrdiff_t n, const bp_real *x)
{
    bp_int largest = 0, bits;
    bp_real result;
    for (ptrdiff_t p = 0; p < n; p++) {
        memcpy(&bits, x + p, sizeof bits);
        bits &= (bp_int)((~(uint64_t)0 >> 1) >> (64 - 8 * sizeof bits)); /* without the sign */
        largest = bits > largest ? bits : largest;
    }
    memcpy(&result, &largest, sizeof result);
    return result;
}

/* sum_p x[p] y[p] by fma in eight lanes. */
static inline double bp_dot(ptrdiff_t n, const double *x, const double *y)
{
    bp_wide sum = {0}, a = {0}, b = {0};
    ptrdiff_t p = 0;
    for (; p + 8 <= n; p += 8) {
        memcpy(&a, x + p, sizeof a);
        memcpy(&b, y + p, sizeof b);
        sum = bp_wide_fma(a, b, sum);
    }
    if (p < n) {
        a = b = (bp_wide){0};
        memcpy(&a, x + p, (size_t)(n - p) * sizeof(double));
        memcpy(&b, y + p, (size_t)(n - p) * sizeof(double));
        sum = bp_wide_fma(a, b, sum);
    }
    return bp_wide_sum(sum);
}

/* y[p] = y[p] + factor x[p] by fma. */
static inline void bp_add_multiple(ptrdiff_t n, double factor, const double *restrict x, double *restrict y)
{
    for (ptrdiff_t p = 0; p < n; p++)
        y[p] = bp_fma_double(factor, x[p], y[p]);
}

#endif
