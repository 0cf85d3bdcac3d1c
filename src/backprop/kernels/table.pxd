# The interface between the recursion (_core.pyx) and the kernels: codes, and one table of functions.
# Needs: nothing.
# Gives: the codes, and `KernelTable`, which each build of _kernels.pyx (an instruction set and a dtype) exports in a
# capsule. `entries` of such a module holds name, C type and address of each function, for calls by name.
#
# How to read an entry. IN is read, OUT is written; what is IN and OUT is overwritten by the result. Buffers must not
# overlap unless the entry allows it. `void*` points to reals of the network's dtype, since the recursion is one code
# for both dtypes. (n, m; ld) is a matrix of n rows and m columns whose rows lie ld reals apart; without ld its rows
# follow each other. Tile rows (a, h, grad_a) are padded to a multiple of 64 bytes; kernels may read the padding, but
# no result depends on it.

from libc.stdint cimport int8_t, int64_t

cdef enum:
    CHAIN_ROWS = 64          # rows summed in one register chain; in a trial 1.41e-7 against 2.9e-7 for 128
    SCRATCH_UNITS = 256      # whose rows of grad_W are made at a time: what is copied for them stays small
    FORM_STEP = 12           # directions: whole groups of symmetric forms on every instruction set
    CHUNK_ROWS = 1024        # 16 chains are added in the network's dtype, then a wide accumulator takes over
    ROW_BYTES = 64           # tile rows are whole cache lines, one vector of the widest instruction set
    FAR_BYTES = 2048         # panels of rows from here on are copied before use; of shorter rows a copy costs too much

cdef enum ActivationCode:    # as in activations.py
    IDENTITY = 0
    RELU = 1
    LEAKY_RELU = 2
    ELU = 3
    SELU = 4
    GELU = 5
    GELU_TANH = 6
    SILU = 7
    MISH = 8
    SOFTPLUS = 9
    SOFTSIGN = 10
    TANH = 11
    SIGMOID = 12
    HARDTANH = 13
    HARDSIGMOID = 14
    HARDSWISH = 15
    RELU6 = 16
    SIN = 17
    EXP = 18
    SOFTMAX = 19             # a link only: y_hat of cross_entropy
    CUSTOM = 20              # a user's own, for which there is no kernel (recursion/custom.pxi)

cdef enum LossCode:          # as in losses.py
    SQUARED_ERROR = 0
    ABSOLUTE_ERROR = 1
    HUBER = 2
    QUANTILE = 3
    HINGE = 4
    POISSON = 5
    BINARY_CROSS_ENTROPY = 6
    CROSS_ENTROPY = 7
    QUANTILES = 8            # quantile, with a tau for each output

cdef enum WeightKind:
    NO_WEIGHT = 0
    WEIGHT_PER_SAMPLE = 1
    WEIGHT_PER_ENTRY = 2

cdef enum Packing:
    PACKED                   # the panels hold W^T already
    PACK_AND_KEEP            # pack on the way; later tiles find the panels
    PACK_ONCE                # pack on the way, each panel into the memory of the last one, which is still in the cache

cdef enum Epilogue:          # what a product A B does to what C holds
    OVERWRITE                # C = A B
    ADD                      # C = C + A B
    TIMES                    # C = G (.) A B: G is g'(a), in C itself or elsewhere, and C becomes grad_a
    CONTINUE                 # C = A B, and its chains go on from what C holds: for a sum over rows that come in parts

cdef enum JetForm:           # which second derivatives of h a jet has; form_t is of the first derivatives d_0, d_1, ...
    FIRST_ALONE = 0          # none
    EACH = 1                 # one for each direction: form_t = d_t^2
    DIAGONAL = 2             # one in all: sum_j e_j d_j^2
    SYMMETRIC = 3            # one in all: sum_{j <= l} e_jl d_j d_l, with e in the order (0, 0), (0, 1), .., (1, 1), ..

cdef struct KernelTable:
    const char* simd
    Py_ssize_t itemsize

    # The L2 cache of a core, for which products are cut into blocks; before scratch_size is called for the first time.
    void (*set_l2_bytes)(Py_ssize_t n_bytes) noexcept nogil
    Py_ssize_t (*get_l2_bytes)() noexcept nogil

    # Columns of a whole panel of W^T: a layer may be cut there, if at least 48 columns are on each side.
    Py_ssize_t (*panel_columns)() noexcept nogil

    # Reals in `packed`.
    Py_ssize_t (*packed_size)(Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil

    # The panels of W^T that start at outputs j_start..j_end-1, ready for forward_product.
    void (*pack)(
        Py_ssize_t n_in, Py_ssize_t n_out,
        const void* W,                                    # IN (n_out, n_in)
        void* packed,                                     # OUT (packed_size)
        Py_ssize_t j_start, Py_ssize_t j_end,
    ) noexcept nogil

    # Reals in `scratch`: for hidden_sum with a layer's W, and for weight_gradient of up to n_units of its units.
    Py_ssize_t (*scratch_size)(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out, Py_ssize_t n_units) noexcept nogil

    # a = h W^T + b; with ADD, a = a + h W^T, and b is NULL. `packing` is one of Packing.
    void (*forward_product)(
        Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const void* h, Py_ssize_t ld_h,                   # IN (n_rows, n_in; ld_h)
        const void* W,                                    # IN (n_out, n_in)
        void* packed, int packing,                        # IN with PACKED, else OUT (packed_size)
        const void* b,                                    # IN (n_out), or NULL
        void* a, Py_ssize_t ld_a,                         # OUT (n_rows, n_out; ld_a); IN and OUT with ADD
        int epilogue,                                     # OVERWRITE or ADD
    ) noexcept nogil

    # h = g(a); with with_prime, a becomes g'(a).
    void (*activate)(
        int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n,
        void* a,                                          # IN (n_rows, n; ld); IN and OUT with with_prime
        void* h,                                          # OUT (n_rows, n; ld)
        Py_ssize_t ld, bint with_prime,
    ) noexcept nogil

    # grad_h = grad_a_next W_next, for n columns of W_next; with TIMES it is multiplied by g'(a), and is grad_a.
    void (*hidden_sum)(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t n_next,
        const void* grad_a_next, Py_ssize_t ld_next,      # IN (n_rows, n_next; ld_next)
        const void* W_next, Py_ssize_t ld_W,              # IN (n_next, n; ld_W)
        const void* g_prime,                              # IN (n_rows, n; ld) with TIMES; may be grad_h
        void* grad_h, Py_ssize_t ld,                      # OUT (n_rows, n; ld); IN and OUT with ADD
        int epilogue,                                     # OVERWRITE, ADD or TIMES
        void* scratch,                                    # OUT (scratch_size), of no use afterwards
    ) noexcept nogil

    # grad_a = grad_h (.) g'(a), entry by entry, in the place of g'(a).
    void (*g_prime_product)(
        Py_ssize_t n_rows, Py_ssize_t n,
        const void* grad_h, Py_ssize_t ld_grad_h,         # IN (n_rows, n; ld_grad_h)
        void* g_prime, Py_ssize_t ld,                     # IN and OUT (n_rows, n; ld)
    ) noexcept nogil

    # grad_W = grad_a^T h, and grad_b = the column sums of grad_a, in chains of 64 rows. `add` is OVERWRITE, ADD, or
    # CONTINUE: these rows are the rest of a chain that the result holds. A divisor other than 0 says that the sum ends
    # here, and divides it.
    void (*weight_gradient)(
        Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const void* grad_a, Py_ssize_t ld_a,              # IN (n_rows, n_out; ld_a)
        const void* h, Py_ssize_t ld_h,                   # IN (n_rows, n_in; ld_h)
        void* grad_W, Py_ssize_t ld_W,                    # OUT (n_out, n_in; ld_W); IN and OUT with ADD, CONTINUE
        int add, double divisor,
        void* scratch,                                    # OUT (scratch_size), of no use afterwards
    ) noexcept nogil
    void (*bias_gradient)(
        Py_ssize_t n_rows, Py_ssize_t n_out,
        const void* grad_a, Py_ssize_t ld_a,              # IN (n_rows, n_out; ld_a)
        void* grad_b,                                     # OUT (n_out); IN and OUT with ADD, CONTINUE
        int add, double divisor,
    ) noexcept nogil

    # Losses of rows in float64, times weight times weight_scale; z becomes grad_z. If y_hat is NULL the loss acts on z.
    # Otherwise it acts on y_hat, and z holds g'(a_L).
    void (*loss)(
        int code,
        const double* parameter,                          # IN: one number; (n_out) of QUANTILES
        Py_ssize_t n_rows, Py_ssize_t n_out,
        void* z, Py_ssize_t ld,                           # IN (n_rows, n_out; ld); IN and OUT with with_gradient
        const void* y_hat,                                # IN (n_rows, n_out; ld), or NULL
        const void* y,                                    # IN (n_rows, n_out), or NULL for labels
        const Py_ssize_t* labels,                         # IN (n_rows), or NULL
        int weight_kind, const double* weight,            # IN (n_rows) or (n_rows, n_out), or NULL: weight_kind says
        double weight_scale,
        double* row_loss,                                 # OUT (n_rows)
        bint with_gradient,
    ) noexcept nogil
    void (*fill_with_ones)(
        Py_ssize_t n,
        void* out,                                        # OUT (n)
    ) noexcept nogil

    # Sums over chunks: wide = wide + partial (float64, or a sum of two float64), then out = wide / divisor, rounded
    # once.
    void (*accumulate)(
        Py_ssize_t n,
        const void* partial,                              # IN (n)
        double* wide,                                     # IN and OUT (n); OUT with first
        double* wide_error,                               # likewise, for float64 networks; else not used
        bint first,
    ) noexcept nogil
    void (*finish_wide)(
        Py_ssize_t n,
        const double* wide,                               # IN (n)
        const double* wide_error,                         # IN (n), for float64 networks; else not used
        double divisor,
        void* out,                                        # OUT (n)
    ) noexcept nogil
    void (*finish)(
        Py_ssize_t n,
        const void* partial,                              # IN (n)
        double divisor,
        void* out,                                        # OUT (n); may be partial
    ) noexcept nogil

    # Sums over units of chunks in integer bins (bins.h): bins = bins + wide, then out = bins / divisor. The limbs are
    # planar, `stride` apart.
    void (*deposit)(
        Py_ssize_t n,
        const double* wide,                               # IN (n)
        const double* wide_error,                         # IN (n), for float64 networks; else not used
        int8_t* top,                                      # IN and OUT (n); OUT with first
        int64_t* limbs,                                   # IN and OUT (3, n; stride); OUT with first
        Py_ssize_t stride, bint first,
    ) noexcept nogil
    void (*finish_bins)(
        Py_ssize_t n,
        const int8_t* top,                                # IN (n)
        const int64_t* limbs,                             # IN (3, n; stride)
        Py_ssize_t stride, double divisor,
        void* out,                                        # OUT (n)
    ) noexcept nogil

    # For each row its own grad_W = grad_a h^T with grad_b = grad_a behind it. If grad_a_2 and h_2 are not NULL,
    # grad_a_2 h_2^T is added to grad_W.
    void (*outer_products)(
        Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
        const void* grad_a, Py_ssize_t ld_a,              # IN (n_rows, n_out; ld_a)
        const void* h, Py_ssize_t ld_h,                   # IN (n_rows, n_in; ld_h)
        const void* grad_a_2,                             # IN (n_rows, n_out; ld_a), or NULL
        const void* h_2,                                  # IN (n_rows, n_in; ld_h), or NULL
        void* gradients, Py_ssize_t ld,                   # OUT (n_rows, n_out (n_in + 1); ld)
    ) noexcept nogil

    # A copy that goes past the caches.
    void (*stream)(
        Py_ssize_t n,
        const void* source,                               # IN (n)
        void* target,                                     # OUT (n)
    ) noexcept nogil

    # The sum of squares of each row, in float64.
    void (*square_sums)(
        Py_ssize_t n_rows, Py_ssize_t n,
        const void* a, Py_ssize_t ld,                     # IN (n_rows, n; ld)
        double* sums,                                     # OUT (n_rows)
    ) noexcept nogil

    # Each row times its factor.
    void (*scale_rows)(
        Py_ssize_t n_rows, Py_ssize_t n,
        void* a, Py_ssize_t ld,                           # IN and OUT (n_rows, n; ld)
        const double* factor,                             # IN (n_rows)
    ) noexcept nogil

    # out = factor x (.) y, entry by entry; the factor is a power of two.
    void (*scaled_product)(
        Py_ssize_t n_rows, Py_ssize_t n, double factor,
        const void* x, const void* y,                     # IN (n_rows, n; ld)
        void* out, Py_ssize_t ld,                         # OUT (n_rows, n; ld); may be x or y
    ) noexcept nogil

    # out = g''(a).
    void (*second_derivative)(
        int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n,
        const void* a,                                    # IN (n_rows, n; ld)
        void* out, Py_ssize_t ld,                         # OUT (n_rows, n; ld); may be a
    ) noexcept nogil

    # out = g'''(a).
    void (*third_derivative)(
        int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n,
        const void* a,                                    # IN (n_rows, n; ld)
        void* out, Py_ssize_t ld,                         # OUT (n_rows, n; ld); may be a
    ) noexcept nogil

    # Each row of t becomes w H t. H = d2l/dz2 of the row's loss at z, which the loss acts on: a_L or y_hat. If the
    # loss is a mean over outputs, H belongs to their sum. w is weight times weight_scale; an entry of weight 0 gives 0.
    void (*loss_curvature)(
        int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out,
        const void* z, Py_ssize_t ld,                     # IN (n_rows, n_out; ld)
        const void* y,                                    # IN (n_rows, n_out), or NULL for labels
        const Py_ssize_t* labels,                         # not used: H does not depend on a label
        int weight_kind, const double* weight,            # IN (n_rows) or (n_rows, n_out), or NULL: weight_kind says
        double weight_scale,
        void* t,                                          # IN and OUT (n_rows, n_out; ld)
    ) noexcept nogil

    # Each row of t becomes p (.) (t - p.t), in float64.
    void (*softmax_product)(
        Py_ssize_t n_rows, Py_ssize_t n,
        const void* p,                                    # IN (n_rows, n; ld)
        void* t, Py_ssize_t ld,                           # IN and OUT (n_rows, n; ld)
    ) noexcept nogil

    # t = g (.) t + s (.) x, entry by entry, by fma.
    void (*multiply_add)(
        Py_ssize_t n_rows, Py_ssize_t n,
        const void* s, const void* x, const void* g,      # IN (n_rows, n; ld)
        void* t, Py_ssize_t ld,                           # IN and OUT (n_rows, n; ld)
    ) noexcept nogil

    # g'' and g''' of tanh from h and g', within a few ulp; near the zero of g''' within 4 u.
    void (*derivatives_of_tanh)(
        Py_ssize_t n_rows, Py_ssize_t n,
        const void* h, const void* g_prime,               # IN (n_rows, n; ld)
        void* g_second,                                   # OUT (n_rows, n; ld)
        void* g_third,                                    # likewise, or NULL
        Py_ssize_t ld,
    ) noexcept nogil

    # Steps of solvers, with the gradient g = factor (grad + l2 theta). All is in the dtype. Adam:
    # m = beta_1 m + (1 - beta_1) g, v = beta_2 v + (1 - beta_2) g^2,
    # theta = theta - decay theta - rate m / (sqrt(v) + epsilon). Descent: velocity = momentum velocity - rate g,
    # theta = theta + velocity, or theta + (momentum velocity - rate g) with is_nesterov.
    void (*adam_step)(
        Py_ssize_t n,
        const void* grad,                                 # IN (n)
        double factor, double l2, double beta_1, double beta_2, double rate, double epsilon, double decay,
        void* theta, void* m, void* v,                    # IN and OUT (n)
    ) noexcept nogil
    void (*sgd_step)(
        Py_ssize_t n,
        const void* grad,                                 # IN (n)
        double factor, double l2, double momentum, double rate, bint is_nesterov,
        void* theta, void* velocity,                      # IN and OUT (n)
    ) noexcept nogil

    # The sum of the squares of factor grad + l2 theta, in float64.
    double (*penalized_squares)(
        Py_ssize_t n,
        const void* grad, const void* theta,              # IN (n)
        double factor, double l2,
    ) noexcept nogil

    # Whether an entry is NaN, or has a magnitude above the bound, which the dtype must hold.
    bint (*any_above)(
        Py_ssize_t n,
        const void* x,                                    # IN (n)
        double bound,
    ) noexcept nogil

    # The passes of L-BFGS over vectors of whole lines of 16 entries, filled up with zeros. theta, trial and gradients
    # have the dtype of the network; directions, pairs and x, a multiple of the gradient, are float32.
    #
    # sums[r] = rows[r].x.
    void (*row_products)(
        Py_ssize_t n, Py_ssize_t n_rows,
        const float** rows, const float* x,         # IN (n_rows) of (n); (n)
        double* sums,                                     # OUT (n_rows)
    ) noexcept nogil

    # y = scale_y (new_gradient - gradient), x = scale_x new_gradient; and the sums y.y, x.x, and rows[r].x. y may be
    # among the rows.
    void (*accept_step)(
        Py_ssize_t n,
        const void* gradient, const void* new_gradient,   # IN (n)
        double scale_y, double scale_x,
        Py_ssize_t n_rows, const float** rows,      # IN (n_rows) of (n)
        float* y, float* x,                               # OUT (n)
        double* sums,                                     # OUT (2 + n_rows)
    ) noexcept nogil

    # direction = factor x + sum_r factors[r] rows[r], slope = x.direction, and trial = theta + t direction; whether
    # trial differs from theta.
    bint (*combine)(
        Py_ssize_t n, Py_ssize_t n_rows,
        const float** rows, const float* factors,   # IN (n_rows) of (n); (n_rows)
        const float* x, double factor,                    # IN (n)
        const void* theta, double t,                      # IN (n)
        float* direction, void* trial,                    # OUT (n)
        double* slope,                                    # OUT
    ) noexcept nogil

    # trial = theta + t direction; whether it differs from theta.
    bint (*step)(
        Py_ssize_t n,
        const void* theta, double t, const float* direction,  # IN (n)
        void* trial,                                      # OUT (n)
    ) noexcept nogil

    # (scale gradient).direction, NaN if an entry of the gradient is inf or NaN; and the largest |gradient_k|.
    double (*slope)(
        Py_ssize_t n,
        const void* gradient, double scale, const float* direction,  # IN (n)
        double* largest,                                  # OUT
    ) noexcept nogil

    # Jets: the first derivatives d_j of a and D_j of h along k directions, and the second ones, s_t and S_t. There are
    # k of these with EACH, one with DIAGONAL or SYMMETRIC, none with FIRST_ALONE, which reads and writes no s or S.
    # (k of n_rows, n; ld, block) are k such matrices whose starts lie `block` reals apart. Row r of d_j starts at
    # d + j d_block + r d_row; with d_row = 0 all rows share one. s = NULL means zeros. The coefficients e are k of
    # DIAGONAL or k (k + 1) / 2 of SYMMETRIC, row by row, ld_coefficients apart; 0 means one row for all. NULL means
    # ones, for EACH and DIAGONAL.
    #
    # D_j = g'(a) d_j, S_t = g'(a) s_t + g''(a) form_t(d).
    void (*jet_activation)(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, int form,
        const void* coefficients, Py_ssize_t ld_coefficients,  # IN, or NULL
        const void* g_prime,                              # IN (n_rows, n; ld)
        const void* g_second,                             # likewise; not used with FIRST_ALONE
        const void* d, Py_ssize_t d_row, Py_ssize_t d_block,  # IN (k of n_rows, n; d_row, d_block)
        const void* s,                                    # IN (k or 1 of n_rows, n; ld, block), or NULL
        void* D,                                          # OUT (k of n_rows, n; ld, block); may be d
        void* S,                                          # OUT (k or 1 of n_rows, n; ld, block); may be s
        Py_ssize_t ld, Py_ssize_t block,
    ) noexcept nogil

    # The way back: grad_h and the cotangents of D and S become grad_a and those of d and s.
    # grad_s_t = g' grad_S_t; grad_d_j = g' grad_D_j + g'' sum_t (d form_t / d d_j) grad_S_t;
    # grad_a = g' grad_h + g'' sum_j d_j grad_D_j + sum_t (g'' s_t + g''' form_t(d)) grad_S_t.
    void (*jet_cotangent)(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, int form,
        const void* coefficients, Py_ssize_t ld_coefficients,  # IN, or NULL
        const void* g_prime, const void* g_second,        # IN (n_rows, n; ld)
        const void* g_third,                              # likewise; not used with FIRST_ALONE
        const void* d, Py_ssize_t d_row, Py_ssize_t d_block,  # IN (k of n_rows, n; d_row, d_block)
        const void* s,                                    # IN (k or 1 of n_rows, n; ld, block), or NULL
        void* grad_h,                                     # IN and OUT (n_rows, n; ld)
        void* grad_D, void* grad_S,                       # IN and OUT (k, and k or 1, of n_rows, n; ld, block)
        Py_ssize_t ld, Py_ssize_t block,
    ) noexcept nogil

    # The tangents of h, D and S along a direction of the parameters, from those of a, d and s: t_h = g' t_a;
    # t_D_j = g' t_d_j + g'' d_j t_a;
    # t_S_t = g' t_s_t + (g'' s_t + g''' form_t(d)) t_a + g'' sum_j (d form_t / d d_j) t_d_j.
    void (*jet_tangent)(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, int form,
        const void* coefficients, Py_ssize_t ld_coefficients,  # IN, or NULL
        const void* g_prime, const void* g_second,        # IN (n_rows, n; ld)
        const void* g_third,                              # likewise; not used with FIRST_ALONE
        const void* d, Py_ssize_t d_row, Py_ssize_t d_block,  # IN (k of n_rows, n; d_row, d_block)
        const void* s,                                    # IN (k or 1 of n_rows, n; ld, block), or NULL
        const void* t_a,                                  # IN (n_rows, n; ld)
        const void* t_d, Py_ssize_t t_d_row, Py_ssize_t t_d_block,  # IN (k of n_rows, n; t_d_row, t_d_block)
        const void* t_s,                                  # IN (k or 1 of n_rows, n; ld, block), or NULL
        void* t_h,                                        # OUT (n_rows, n; ld); may be t_a
        void* t_D,                                        # OUT (k of n_rows, n; ld, block); may be t_d
        void* t_S,                                        # OUT (k or 1 of n_rows, n; ld, block); may be t_s
        Py_ssize_t ld, Py_ssize_t block,
    ) noexcept nogil

    # H = sum_u weight[u] d[u] d[u]^T of each row, or H plus that with `add`; symmetric to the bit. Of H entries (p, q)
    # and (q, p) for q >= p, and n_first p from `first` on: both multiples of FORM_STEP, unless they end at k.
    void (*symmetric_forms)(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, Py_ssize_t first, Py_ssize_t n_first,
        const void* weight, Py_ssize_t ld,                # IN (n_rows, n; ld)
        const void* d, Py_ssize_t d_row, Py_ssize_t d_block,  # IN (k of n_rows, n; d_row, d_block)
        void* H,                                          # OUT (n_rows, k, k); IN and OUT with add
        bint add,
    ) noexcept nogil

    # The same for softmax, in float64. p is softmax(a). D_j = p (.) tau_j, with tau_j = d_j - p.d_j;
    # S_t = p (.) (s_t - p.s_t + form_t(tau) - p.form_t(tau)). Then the way back, and t = t - p.t of each row.
    void (*softmax_jet)(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, int form,
        const void* coefficients, Py_ssize_t ld_coefficients,  # IN, or NULL
        const void* p,                                    # IN (n_rows, n; ld)
        const void* d,                                    # IN (k of n_rows, n; ld, block)
        const void* s,                                    # IN (k or 1 of n_rows, n; ld, block), or NULL
        void* D, void* S,                                 # OUT (likewise); may be d and s
        Py_ssize_t ld, Py_ssize_t block,
        double* means,                                    # OUT (6, k): what is kept of a row
    ) noexcept nogil
    void (*softmax_jet_cotangent)(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, int form,
        const void* coefficients, Py_ssize_t ld_coefficients,  # IN, or NULL
        const void* p,                                    # IN (n_rows, n; ld)
        const void* d,                                    # IN (k of n_rows, n; ld, block)
        const void* s,                                    # IN (k or 1 of n_rows, n; ld, block), or NULL
        void* grad_y,                                     # IN and OUT (n_rows, n; ld)
        void* grad_D, void* grad_S,                       # IN and OUT (k, and k or 1, of n_rows, n; ld, block)
        Py_ssize_t ld, Py_ssize_t block,
        double* means,                                    # OUT (6, k): what is kept of a row
    ) noexcept nogil
    void (*softmax_center)(
        Py_ssize_t n_rows, Py_ssize_t n,
        const void* p,                                    # IN (n_rows, n; ld)
        void* t, Py_ssize_t ld,                           # IN and OUT (n_rows, n; ld)
    ) noexcept nogil

    # sums[j] = sum_u weight[u] d_j[u]^2 of each row, or sums plus that with `add`.
    void (*weighted_squares)(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k,
        const void* weight, Py_ssize_t ld,                # IN (n_rows, n; ld)
        const void* d, Py_ssize_t d_row, Py_ssize_t d_block,  # IN (k of n_rows, n; d_row, d_block)
        void* sums, Py_ssize_t ld_sums,                   # OUT (n_rows, k; ld_sums); IN and OUT with add
        bint add,
    ) noexcept nogil
