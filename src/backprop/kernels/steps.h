/* Steps of solvers, entry by entry in the network's dtype, and the sums over entries that solvers need.
 *
 * An entry is computed by +, -, *, / and the square root alone, each rounded once. There is no fma: so NumPy's plain
 * formulas give the same bits, and so does every instruction set. The compiler makes vectors of the loops, which changes
 * no bit. The state of a float32 network is float32 too, as in PyTorch: twice as many lanes, and each root and quotient
 * takes half as long (0.3 ns an entry instead of 1.0 on v3); its parameters are rounded to float32 anyway. */
#ifndef BACKPROP_KERNELS_STEPS_H
#define BACKPROP_KERNELS_STEPS_H

#include "rows.h"

#if BP_FLOAT64
#define BP_ROOT(v) __builtin_sqrt(v)
#else
#define BP_ROOT(v) __builtin_sqrtf(v)
#endif

/* theta = theta - decay theta - rate m / (sqrt(v) + epsilon), after m and v have taken in the gradient
 * factor (grad + l2 theta). */
static inline void bp_adam_step(ptrdiff_t n, const bp_real *restrict grad, bp_real factor, bp_real l2, bp_real beta_1,
                                bp_real beta_2, bp_real rest_1, bp_real rest_2, bp_real rate, bp_real epsilon,
                                bp_real decay, bp_real *restrict theta, bp_real *restrict m, bp_real *restrict v)
{
    for (ptrdiff_t p = 0; p < n; p++) {
        bp_real t = theta[p], g = factor * (grad[p] + l2 * t);
        m[p] = beta_1 * m[p] + rest_1 * g;
        v[p] = beta_2 * v[p] + rest_2 * (g * g);
        theta[p] = t - decay * t - rate * m[p] / (BP_ROOT(v[p]) + epsilon);
    }
}

/* velocity = momentum velocity - rate factor (grad + l2 theta); theta moves by it, or by Nesterov's step, which looks
 * one step of the momentum ahead. */
static inline void bp_sgd_step(ptrdiff_t n, const bp_real *restrict grad, bp_real factor, bp_real l2, bp_real momentum,
                               bp_real rate, int is_nesterov, bp_real *restrict theta, bp_real *restrict velocity)
{
    for (ptrdiff_t p = 0; p < n; p++) {
        bp_real t = theta[p], down = rate * (factor * (grad[p] + l2 * t));
        velocity[p] = momentum * velocity[p] - down;
        theta[p] = t + (is_nesterov ? momentum * velocity[p] - down : velocity[p]);
    }
}

/* Eight entries of factor grad + l2 theta, whose squares are added. */
static inline bp_wide bp_add_penalized(bp_wide sum, bp_wide grad, bp_wide theta, double factor, double l2)
{
    for (int k = 0; k < BP_PARTS; k++)
        grad.part[k] = factor * grad.part[k] + l2 * theta.part[k];
    return bp_add_squares(sum, grad);
}

/* The sum of (factor grad + l2 theta)^2 in eight lanes. */
static inline double bp_penalized_squares(ptrdiff_t n, const bp_real *grad, const bp_real *theta, double factor,
                                          double l2)
{
    bp_wide sum = {{{0}}};
    ptrdiff_t p = 0;
    for (; p + 8 <= n; p += 8)
        sum = bp_add_penalized(sum, bp_load_wide(grad + p), bp_load_wide(theta + p), factor, l2);
    if (p < n)
        sum = bp_add_penalized(sum, bp_load_first_wide(grad + p, n - p), bp_load_first_wide(theta + p, n - p), factor,
                               l2);
    return bp_wide_sum(sum);
}

/* Whether one of n entries is NaN, or has a magnitude above the bound. Magnitudes are compared as integers, in which a
 * NaN is larger than infinity. */
static inline int bp_any_above(ptrdiff_t n, const bp_real *x, bp_real bound)
{
    const bp_int magnitude = (bp_int)((~(uint64_t)0 >> 1) >> (64 - 8 * sizeof(bp_int))); /* all bits but the sign */
    bp_int differences = 0, most, bits;
    memcpy(&most, &bound, sizeof most);
    for (ptrdiff_t p = 0; p < n; p++) {
        memcpy(&bits, x + p, sizeof bits);
        differences |= most - (bits & magnitude);
    }
    return differences < 0;
}

#endif
