/* The mode of the floating-point unit: rounding, flushing of subnormals, traps. Each call computes in the default
   mode and restores the caller's mode at its end. So its bits do not depend on that mode. If rounding is upward, the
   additions that round to an integer (exp, sin) are off by one, and sums differ. Flushing loses gradients. With
   traps, a lane whose result is not used can end the process.

   A call reads the control word once, and writes it only if the mode differs: 4 of the 630 ns of the smallest call,
   both measured in one run. Instructions with their own rounding mode would help exp and sin alone: every sum and
   product follows the unit's mode. */
#ifndef BACKPROP_FLOAT_MODE_H
#define BACKPROP_FLOAT_MODE_H

#include <stdint.h>
#if !defined(__SSE__) && !defined(__aarch64__)
#include <fenv.h>
#endif

#define BP_DEFAULT_X87 0x37fu /* to nearest, 64 bits, no traps */
#if defined(__SSE__)
#define BP_MODE_BITS 0xffc0    /* of MXCSR; the lower bits are flags of past exceptions, not part of the mode */
#define BP_DEFAULT_MODE 0x1f80 /* to nearest, subnormals, no traps */
#elif defined(__aarch64__)
#define BP_MODE_BITS (~(uint64_t)0) /* of FPCR */
#define BP_DEFAULT_MODE 0
#else
#define BP_MODE_BITS (~(uint64_t)0) /* elsewhere only C's rounding direction is known */
#define BP_DEFAULT_MODE ((uint64_t)FE_TONEAREST)
#endif

static inline uint64_t bp_get_float_mode(void) /* on x86 with the flags */
{
#if defined(__SSE__)
    return __builtin_ia32_stmxcsr();
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
#else
    return (uint64_t)fegetround();
#endif
}

static inline void bp_set_float_mode(uint64_t mode)
{
#if defined(__SSE__)
    __builtin_ia32_ldmxcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#else
    fesetround((int)mode);
#endif
}

static inline void bp_change_float_mode(uint64_t mode) /* keeps the flags of past exceptions */
{
    bp_set_float_mode((mode & BP_MODE_BITS) | (bp_get_float_mode() & ~(uint64_t)BP_MODE_BITS));
}

/* The control word of the x87 unit, which NumPy's long double uses. Kernels never use that unit. */
static inline unsigned bp_get_x87(void)
{
#if defined(__x86_64__) || defined(__i386__)
    unsigned short word;
    __asm__ volatile("fnstcw %0" : "=m"(word));
    return word;
#else
    return BP_DEFAULT_X87;
#endif
}

static inline void bp_set_x87(unsigned mode)
{
#if defined(__x86_64__) || defined(__i386__)
    unsigned short word = (unsigned short)mode;
    __asm__ volatile("fldcw %0" : : "m"(word));
#else
    (void)mode;
#endif
}

static inline int bp_is_default_mode(uint64_t mode) { return (mode & BP_MODE_BITS) == BP_DEFAULT_MODE; }

/* Enter the default mode; returns the caller's. The compiler moves no arithmetic on memory before this. */
static inline uint64_t bp_enter_default_mode(void)
{
    uint64_t mode = bp_get_float_mode();
    if (!bp_is_default_mode(mode))
        bp_change_float_mode(BP_DEFAULT_MODE);
    __asm__ volatile("" : : : "memory");
    return mode;
}

/* Restore the caller's mode, after `result` and all other memory has been written. */
static inline void bp_leave_default_mode(uint64_t mode, const void *result)
{
    __asm__ volatile("" : : "r"(result) : "memory");
    if (!bp_is_default_mode(mode))
        bp_change_float_mode(mode);
}

#endif
