/* A sum and its rounding error, for the sums over chunks: in the core and in the kernels. */
#ifndef BACKPROP_TWO_SUM_H
#define BACKPROP_TWO_SUM_H

/* s + error = a + b exactly (Knuth, TAOCP 2, 4.2.2, theorem B). */
static inline void bp_two_sum(double a, double b, double *sum, double *error)
{
    double s = a + b, b_part = s - a;
    *error = (a - (s - b_part)) + (b - b_part);
    *sum = s;
}

#endif
