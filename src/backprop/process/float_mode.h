/* The floating-point unit's mode: rounding, flushing of subnormals, traps. Every call computes in the default mode and puts
   the caller's back, so that its bits do not depend on it. Upwards, the additions that round to an integer (exp, sin) are
   off by one, and sums round another way; flushing loses gradients; with traps a lane that nobody reads ends the process.

   One look at the control word a call, and a write only where it is another: 4 of the 630 ns of the smallest call, where
   both were measured in one run. Instructions that round to nearest by themselves would mend exp and sin alone: every
   sum and product follows the mode. */
#ifndef BACKPROP_FLOAT_MODE_H
#define BACKPROP_FLOAT_MODE_H

#include <stdint.h>
#if !defined(__SSE__) && !defined(__aarch64__)
#include <fenv.h>
#endif

#define BP_DEFAULT_X87 0x37fu /* to nearest, 64 bits, no traps */
#if defined(__SSE__)
#define BP_MODE_BITS 0xffc0    /* of MXCSR; below them are the flags of what has happened, which are no mode */
#define BP_DEFAULT_MODE 0x1f80 /* to nearest, subnormals, no traps */
#elif defined(__aarch64__)
#define BP_MODE_BITS (~(uint64_t)0) /* of FPCR */
#define BP_DEFAULT_MODE 0
#else
#define BP_MODE_BITS (~(uint64_t)0) /* of C's rounding direction: all there is elsewhere */
#define BP_DEFAULT_MODE ((uint64_t)FE_TONEAREST)
#endif

static inline uint64_t bp_get_float_mode(void) /* and the flags of x86 with it */
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

static inline void bp_change_float_mode(uint64_t mode) /* and keep the flags of what has happened */
{
    bp_set_float_mode((mode & BP_MODE_BITS) | (bp_get_float_mode() & ~(uint64_t)BP_MODE_BITS));
}

/* The x87 unit's control word, which NumPy's long double follows; kernels never use that unit. */
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

/* The default mode from here on; returns the caller's. Arithmetic on memory stays behind it. */
static inline uint64_t bp_enter_default_mode(void)
{
    uint64_t mode = bp_get_float_mode();
    if (!bp_is_default_mode(mode))
        bp_change_float_mode(BP_DEFAULT_MODE);
    __asm__ volatile("" : : : "memory");
    return mode;
}

/* The caller's mode again, once `result` and all other memory has been written. */
static inline void bp_leave_default_mode(uint64_t mode, const void *result)
{
    __asm__ volatile("" : : "r"(result) : "memory");
    if (!bp_is_default_mode(mode))
        bp_change_float_mode(mode);
}

#endif
