/* Conversion of rows of numbers from any NumPy dtype, byte order and layout, with the results of NumPy's astype. */
#ifndef BACKPROP_CONVERT_H
#define BACKPROP_CONVERT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A code for the content of an array, from the kind and size of its dtype. 0 means "nothing to convert". */
#define BP_CODE(kind, size, is_swapped) ((kind) * 32 + (size) * 2 + ((is_swapped) ? 1 : 0))

static inline uint16_t bp_read_16(const char *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t bp_read_32(const char *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t bp_read_64(const char *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline uint16_t bp_swap_16(const char *p) { return __builtin_bswap16(bp_read_16(p)); }
static inline uint32_t bp_swap_32(const char *p) { return __builtin_bswap32(bp_read_32(p)); }
static inline uint64_t bp_swap_64(const char *p) { return __builtin_bswap64(bp_read_64(p)); }
static inline float bp_float_of(uint32_t bits) { float v; memcpy(&v, &bits, 4); return v; }
static inline double bp_double_of(uint64_t bits) { double v; memcpy(&v, &bits, 8); return v; }

/* Half precision. Each of its numbers is a float32; its subnormal numbers are normal in float32. */
static inline float bp_half_of(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, rest = bits & 0x7fff;
    if (rest >= 0x7c00) /* inf and NaN */
        return bp_float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest < 0x400)
        return sign ? (float)rest * -0x1p-24f : (float)rest * 0x1p-24f;
    return bp_float_of(sign | ((rest << 13) + (112u << 23)));
}

/* Convert n_outer times n_inner numbers. `outer` and `inner` are the strides of the source in bytes, t_outer and
   t_inner those of the target in entries. Compilers vectorise the first branch. */
#define BP_LOOP(TARGET, SIZE, READ)                                              \
    for (i = 0; i < n_outer; i++) {                                              \
        const char *p = source + i * outer;                                      \
        TARGET *t = target + i * t_outer;                                        \
        if (inner == (SIZE) && t_inner == 1)                                     \
            for (j = 0; j < n_inner; j++)                                        \
                t[j] = (TARGET)READ(p + j * (SIZE));                             \
        else                                                                     \
            for (j = 0; j < n_inner; j++)                                        \
                t[j * t_inner] = (TARGET)READ(p + j * inner);                    \
    }                                                                            \
    break;

#define BP_READ_BOOL(p) (*(const uint8_t *)(p) != 0)
#define BP_READ_U1(p) (*(const uint8_t *)(p))
#define BP_READ_I1(p) (*(const int8_t *)(p))
#define BP_READ_U2(p) (bp_read_16(p))
#define BP_READ_I2(p) ((int16_t)bp_read_16(p))
#define BP_READ_U4(p) (bp_read_32(p))
#define BP_READ_I4(p) ((int32_t)bp_read_32(p))
#define BP_READ_U8(p) (bp_read_64(p))
#define BP_READ_I8(p) ((int64_t)bp_read_64(p))
#define BP_READ_F2(p) (bp_half_of(bp_read_16(p)))
#define BP_READ_F4(p) (bp_float_of(bp_read_32(p)))
#define BP_READ_F8(p) (bp_double_of(bp_read_64(p)))
#define BP_SWAP_U2(p) (bp_swap_16(p))
#define BP_SWAP_I2(p) ((int16_t)bp_swap_16(p))
#define BP_SWAP_U4(p) (bp_swap_32(p))
#define BP_SWAP_I4(p) ((int32_t)bp_swap_32(p))
#define BP_SWAP_U8(p) (bp_swap_64(p))
#define BP_SWAP_I8(p) ((int64_t)bp_swap_64(p))
#define BP_SWAP_F2(p) (bp_half_of(bp_swap_16(p)))
#define BP_SWAP_F4(p) (bp_float_of(bp_swap_32(p)))
#define BP_SWAP_F8(p) (bp_double_of(bp_swap_64(p)))

#define BP_INTEGERS(TARGET)                                                     \
    case BP_CODE('b', 1, 0): BP_LOOP(TARGET, 1, BP_READ_BOOL)                    \
    case BP_CODE('u', 1, 0): BP_LOOP(TARGET, 1, BP_READ_U1)                      \
    case BP_CODE('i', 1, 0): BP_LOOP(TARGET, 1, BP_READ_I1)                      \
    case BP_CODE('u', 2, 0): BP_LOOP(TARGET, 2, BP_READ_U2)                      \
    case BP_CODE('i', 2, 0): BP_LOOP(TARGET, 2, BP_READ_I2)                      \
    case BP_CODE('u', 4, 0): BP_LOOP(TARGET, 4, BP_READ_U4)                      \
    case BP_CODE('i', 4, 0): BP_LOOP(TARGET, 4, BP_READ_I4)                      \
    case BP_CODE('u', 8, 0): BP_LOOP(TARGET, 8, BP_READ_U8)                      \
    case BP_CODE('i', 8, 0): BP_LOOP(TARGET, 8, BP_READ_I8)                      \
    case BP_CODE('u', 2, 1): BP_LOOP(TARGET, 2, BP_SWAP_U2)                      \
    case BP_CODE('i', 2, 1): BP_LOOP(TARGET, 2, BP_SWAP_I2)                      \
    case BP_CODE('u', 4, 1): BP_LOOP(TARGET, 4, BP_SWAP_U4)                      \
    case BP_CODE('i', 4, 1): BP_LOOP(TARGET, 4, BP_SWAP_I4)                      \
    case BP_CODE('u', 8, 1): BP_LOOP(TARGET, 8, BP_SWAP_U8)                      \
    case BP_CODE('i', 8, 1): BP_LOOP(TARGET, 8, BP_SWAP_I8)
#define BP_FLOATS(TARGET)                                                       \
    case BP_CODE('f', 2, 0): BP_LOOP(TARGET, 2, BP_READ_F2)                      \
    case BP_CODE('f', 4, 0): BP_LOOP(TARGET, 4, BP_READ_F4)                      \
    case BP_CODE('f', 8, 0): BP_LOOP(TARGET, 8, BP_READ_F8)                      \
    case BP_CODE('f', 2, 1): BP_LOOP(TARGET, 2, BP_SWAP_F2)                      \
    case BP_CODE('f', 4, 1): BP_LOOP(TARGET, 4, BP_SWAP_F4)                      \
    case BP_CODE('f', 8, 1): BP_LOOP(TARGET, 8, BP_SWAP_F8)

#define BP_CONVERT(NAME, TARGET, CASES)                                         \
    static void NAME(int code, ptrdiff_t n_outer, ptrdiff_t n_inner, const char *source, ptrdiff_t outer,  \
                     ptrdiff_t inner, TARGET *target, ptrdiff_t t_outer, ptrdiff_t t_inner)                \
    {                                                                            \
        ptrdiff_t i, j;                                                          \
        switch (code) { CASES }                                                  \
    }

BP_CONVERT(bp_convert_to_float, float, BP_INTEGERS(float) BP_FLOATS(float))
BP_CONVERT(bp_convert_to_double, double, BP_INTEGERS(double) BP_FLOATS(double))
BP_CONVERT(bp_convert_to_label, ptrdiff_t, BP_INTEGERS(ptrdiff_t))

#endif
