/* The control words of the floating-point unit (x86): read, set, and recorded in the threads that run an activation. */

#include <fenv.h>
#include <stdatomic.h>
#include <time.h>

unsigned float_mxcsr(void) { return __builtin_ia32_stmxcsr(); }
void float_set_mxcsr(unsigned word) { __builtin_ia32_ldmxcsr(word); }

unsigned float_x87(void)
{
    unsigned short word;
    __asm__ volatile("fnstcw %0" : "=m"(word));
    return word;
}

#define MOST 64
static atomic_int epoch, n_expected, n_seen;
static unsigned seen_mxcsr[MOST], seen_x87[MOST];
static _Thread_local int last_epoch;

/* From now on float_record() waits until so many threads have called it, for at most two seconds. */
void float_expect(int n)
{
    n_seen = 0;
    n_expected = n;
    epoch++;
}

int float_seen(void) { return n_seen; }
unsigned float_seen_mxcsr(int i) { return seen_mxcsr[i]; }
unsigned float_seen_x87(int i) { return seen_x87[i]; }

double float_record(double a)  /* the identity */
{
    struct timespec start, now;
    if (last_epoch == epoch || n_seen >= MOST)
        return a;
    last_epoch = epoch;
    int i = atomic_fetch_add(&n_seen, 1);
    seen_mxcsr[i] = float_mxcsr();
    seen_x87[i] = float_x87();
    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while (n_seen < n_expected && now.tv_sec - start.tv_sec < 2);
    return a;
}

double float_one(double a) { return a * 0 + 1; }
double float_zero(double a) { return a * 0; }

/* fesetround sets both units, by C's names of the directions: 0 to nearest, 1 up, 2 down, 3 towards zero. */
int float_round(int direction)
{
    static const int directions[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    return fesetround(directions[direction]);
}
