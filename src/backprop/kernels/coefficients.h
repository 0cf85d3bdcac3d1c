/* Written by tools/numerics/coefficients.py; do not edit. Lowest coefficients come first. */
#ifndef BACKPROP_KERNELS_COEFFICIENTS_H
#define BACKPROP_KERNELS_COEFFICIENTS_H
#if !BP_FLOAT64
/* error 1.7e-10 */
enum { BP_EXP_DEGREE = 5 };
static const bp_real BP_EXP[] = {
    0x1.0000000000000p-1f,
    0x1.5555560000000p-3f,
    0x1.5554e80000000p-5f,
    0x1.1110e00000000p-7f,
    0x1.6d43620000000p-10f,
    0x1.a125280000000p-13f};
/* error 4.0e-10 */
enum { BP_ATANH_DEGREE = 4 };
static const bp_real BP_ATANH[] = {
    0x1.5555560000000p-2f,
    0x1.9998d40000000p-3f,
    0x1.24c9260000000p-3f,
    0x1.bc8cf80000000p-4f,
    0x1.dba2600000000p-4f};
/* error 7.5e-10 */
enum { BP_MILLS_DEGREE = 11 };
static const bp_real BP_MILLS[] = {
    0x1.e4aa020000000p+0f,
    -0x1.8615da0000000p+0f,
    0x1.f0d9860000000p-1f,
    -0x1.dec3340000000p-2f,
    0x1.360cbe0000000p-3f,
    -0x1.3595d60000000p-6f,
    -0x1.1dc9460000000p-7f,
    0x1.0ab04c0000000p-8f,
    0x1.5d5c900000000p-12f,
    -0x1.1d5ccc0000000p-11f,
    -0x1.dd5b2c0000000p-19f,
    0x1.ca704c0000000p-15f};
/* what the first two lost to their rounding */
static const bp_real BP_MILLS_LOW[] = {-0x1.b240140000000p-25f, 0x1.31e7140000000p-25f};
/* error 1.7e-11 */
enum { BP_SIN_DEGREE = 3 };
static const bp_real BP_SIN[] = {
    -0x1.5555560000000p-3f,
    0x1.11110e0000000p-7f,
    -0x1.a013a20000000p-13f,
    0x1.6dbbee0000000p-19f};
/* error 7.7e-10 */
enum { BP_COS_DEGREE = 2 };
static const bp_real BP_COS[] = {
    0x1.5555540000000p-5f,
    -0x1.6c12ce0000000p-10f,
    0x1.9bd6700000000p-16f};
static const bp_real BP_LN2[] = {0x1.62e4000000000p-1f, 0x1.7f7d1c0000000p-20f};
static const bp_real BP_PI_HALF[] = {0x1.9220000000000p+0f, -0x1.2ae0000000000p-18f, -0x1.de973e0000000p-31f, 0x1.a626340000000p-58f};
static const bp_real BP_INV_SQRT_2PI[] = {0x1.9884540000000p-2f, -0x1.8579360000000p-27f};
static const bp_real BP_SQRT_8_OVER_PI[] = {0x1.9884540000000p+0f, -0x1.8579360000000p-25f};
static const bp_real BP_GELU_TANH_CUBIC[] = {0x1.6e4e260000000p-5f, 0x1.a9003e0000000p-30f};
static const bp_real BP_SELU_SCALE[] = {0x1.0cfabe0000000p+0f, -0x1.2addda0000000p-25f};
static const bp_real BP_SELU_ALPHA_SCALE[] = {0x1.c212cc0000000p+0f, 0x1.903c0c0000000p-26f};
#endif
#if BP_FLOAT64
/* error 1.7e-19 */
enum { BP_EXP_DEGREE = 10 };
static const bp_real BP_EXP[] = {
    0x1.0000000000000p-1,
    0x1.5555555555557p-3,
    0x1.5555555555556p-5,
    0x1.11111111100cep-7,
    0x1.6c16c16c162ccp-10,
    0x1.a01a01abef415p-13,
    0x1.a01a01a6dcaffp-16,
    0x1.71de021a90822p-19,
    0x1.27e4db57442fbp-22,
    0x1.af4e196027428p-26,
    0x1.1f731ea5352cap-29};
/* error 5.0e-18 */
enum { BP_ATANH_DEGREE = 9 };
static const bp_real BP_ATANH[] = {
    0x1.5555555555555p-2,
    0x1.999999999a3ddp-3,
    0x1.24924923d44c6p-3,
    0x1.c71c727143318p-4,
    0x1.745cf0b0e03bdp-4,
    0x1.3b18b294bebf9p-4,
    0x1.10ac75dc602b1p-4,
    0x1.eb905e8575054p-5,
    0x1.687a6e7c95176p-5,
    0x1.4b0a26c5f2aefp-4};
/* error 4.3e-18 */
enum { BP_MILLS_DEGREE = 23 };
static const bp_real BP_MILLS[] = {
    0x1.e4aa012912ddep+0,
    -0x1.8615d9b49165dp+0,
    0x1.f0d9856bc3b07p-1,
    -0x1.dec30ee679401p-2,
    0x1.360ce26020b17p-3,
    -0x1.35aa3c94b4a14p-6,
    -0x1.1dcfea79f9a8cp-7,
    0x1.0be6d65ac1002p-8,
    0x1.5e7b1babe725cp-12,
    -0x1.2fb42e95721e6p-11,
    -0x1.410065d449c81p-18,
    0x1.717ee9146cbdep-14,
    0x1.e238bd9718089p-20,
    -0x1.f1ef75497d09ap-17,
    -0x1.a7b2aeaa13fe6p-20,
    0x1.57ac97030d289p-19,
    0x1.6dbed39ffe43bp-21,
    -0x1.a0fb62ff3dabfp-22,
    -0x1.cb8a9912db29fp-23,
    0x1.1d88ea8a35b20p-25,
    0x1.a5c22d054ba79p-25,
    0x1.4a54be828c4d3p-28,
    -0x1.b09830b268c06p-28,
    -0x1.f1ffb7aeca3fbp-30};
/* what the first two lost to their rounding */
static const bp_real BP_MILLS_LOW[] = {0x1.53334d02bf23dp-55, 0x1.f0232f86e155fp-54};
/* error 7.3e-21 */
enum { BP_SIN_DEGREE = 6 };
static const bp_real BP_SIN[] = {
    -0x1.5555555555555p-3,
    0x1.1111111111110p-7,
    -0x1.a01a01a019926p-13,
    0x1.71de3a545e700p-19,
    -0x1.ae64540f0ba18p-26,
    0x1.61217c1864fa1p-33,
    -0x1.ab161757f0c63p-41};
/* error 4.9e-19 */
enum { BP_COS_DEGREE = 5 };
static const bp_real BP_COS[] = {
    0x1.5555555555555p-5,
    -0x1.6c16c16c16960p-10,
    0x1.a01a019f4d0edp-16,
    -0x1.27e4fa15bd814p-22,
    0x1.1eeb66b683028p-29,
    -0x1.907c0e63adbb6p-37};
static const bp_real BP_LN2[] = {0x1.62e42fefa4000p-1, -0x1.8432a1b0e2634p-43};
static const bp_real BP_PI_HALF[] = {0x1.921fb54400000p+0, 0x1.0b4611a600000p-34, 0x1.3198a2e037073p-69, 0x1.129024e088a68p-123};
static const bp_real BP_INV_SQRT_2PI[] = {0x1.9884533d43651p-2, -0x1.cbc0d30ebfd15p-56};
static const bp_real BP_SQRT_8_OVER_PI[] = {0x1.9884533d43651p+0, -0x1.cbc0d30ebfd15p-54};
static const bp_real BP_GELU_TANH_CUBIC[] = {0x1.6e4e26d4801f7p-5, 0x1.441355475a31ap-59};
static const bp_real BP_SELU_SCALE[] = {0x1.0cfabd6a91132p+0, 0x1.6fc7d272f2695p-55};
static const bp_real BP_SELU_ALPHA_SCALE[] = {0x1.c212cc640f031p+0, 0x1.05161b045a1fep-56};
#endif
/* The same in float64 for the losses, whatever the dtype of the network. */
enum { BP_DOUBLE_EXP_DEGREE = 10 };
static const double BP_DOUBLE_EXP[] = {
    0x1.0000000000000p-1,
    0x1.5555555555557p-3,
    0x1.5555555555556p-5,
    0x1.11111111100cep-7,
    0x1.6c16c16c162ccp-10,
    0x1.a01a01abef415p-13,
    0x1.a01a01a6dcaffp-16,
    0x1.71de021a90822p-19,
    0x1.27e4db57442fbp-22,
    0x1.af4e196027428p-26,
    0x1.1f731ea5352cap-29};
enum { BP_DOUBLE_ATANH_DEGREE = 9 };
static const double BP_DOUBLE_ATANH[] = {
    0x1.5555555555555p-2,
    0x1.999999999a3ddp-3,
    0x1.24924923d44c6p-3,
    0x1.c71c727143318p-4,
    0x1.745cf0b0e03bdp-4,
    0x1.3b18b294bebf9p-4,
    0x1.10ac75dc602b1p-4,
    0x1.eb905e8575054p-5,
    0x1.687a6e7c95176p-5,
    0x1.4b0a26c5f2aefp-4};
static const double BP_DOUBLE_LN2[] = {0x1.62e42fefa4000p-1, -0x1.8432a1b0e2634p-43};
/* 2/pi, 64 bits a word, the first after the binary point */
static const uint64_t BP_TWO_OVER_PI[20] = {
    0xa2f9836e4e441529ull, 0xfc2757d1f534ddc0ull, 0xdb6295993c439041ull, 0xfe5163abdebbc561ull,
    0xb7246e3a424dd2e0ull, 0x06492eea09d1921cull, 0xfe1deb1cb129a73eull, 0xe88235f52ebb4484ull,
    0xe99c7026b45f7e41ull, 0x3991d639835339f4ull, 0x9c845f8bbdf9283bull, 0x1ff897ffde05980full,
    0xef2f118b5a0a6d1full, 0x6d367ecf27cb09b7ull, 0x4f463f669e5fea2dull, 0x7527bac7ebe5f17bull,
    0x3d0739f78a5292eaull, 0x6bfb5fb11f8d5d08ull, 0x56033046fc7b6babull, 0xf0cfbc209af4361dull};
#endif
