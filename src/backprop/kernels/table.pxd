# The interface between the recursion (_core.pyx) and the kernels (kernels/_kernels.pyx): codes, and one table of functions.
#
# Each build of kernels/_kernels.pyx (one per instruction set and dtype) exports such a table in a capsule. Arrays are untyped
# here, since the recursion is one code for both dtypes: `const void*` points to reals of the network's dtype.
# Strides (`ld_...`) count reals. Rows of tiles (a, h, grad_a) are padded to a multiple of 64 bytes.

cdef enum:
    CHAIN_ROWS = 64          # rows summed in one register chain; in a trial 1.41e-7 against 2.9e-7 for 128
    CHUNK_ROWS = 1024        # 16 chains are added in the network's dtype, then a wide accumulator takes over
    ROW_BYTES = 64           # tile rows are whole cache lines, one vector of the widest instruction set
    FAR_BYTES = 2048         # from rows so long on panels are copied before use; below, copies cost more than they save

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
    CUSTOM = 20              # the user's own, which no kernel knows (recursion/custom.pxi)

cdef enum LossCode:          # as in losses.py
    SQUARED_ERROR = 0
    ABSOLUTE_ERROR = 1
    HUBER = 2
    QUANTILE = 3
    HINGE = 4
    POISSON = 5
    BINARY_CROSS_ENTROPY = 6
    CROSS_ENTROPY = 7

cdef enum WeightKind:
    NO_WEIGHT = 0
    WEIGHT_PER_SAMPLE = 1
    WEIGHT_PER_ENTRY = 2

cdef enum Packing:
    PACKED                   # W^T stands in its panels
    PACK_AND_KEEP            # pack on the way; later tiles find the panels
    PACK_ONCE                # pack on the way, each panel into the memory of the last one, which is still in the cache

cdef enum Epilogue:          # of a product A B, to what C holds
    OVERWRITE                # C = A B
    ADD                      # C = C + A B
    TIMES                    # C = G (.) A B: G is g'(a), in C itself or elsewhere, and C becomes grad_a
    CONTINUE                 # C = A B, whose chains go on from what C holds: of a sum over rows that come in parts

cdef struct KernelTable:
    const char* simd
    Py_ssize_t itemsize

    # a = h W^T + b, or without b where that is NULL; a = a + h W^T where the epilogue is ADD, and b is NULL. `packed`
    # holds W^T in panels, filled by `pack` or on the way.
    Py_ssize_t (*packed_size)(Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil
    void (*pack)(Py_ssize_t n_in, Py_ssize_t n_out, const void* W, void* packed,
                 Py_ssize_t j_start, Py_ssize_t j_end) noexcept nogil
    Py_ssize_t (*scratch_size)(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil
    void (*forward_product)(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out,
                            const void* h, Py_ssize_t ld_h, const void* W, void* packed, int packing,
                            const void* b, void* a, Py_ssize_t ld_a, int epilogue) noexcept nogil

    # h = g(a); where with_prime is set, a is overwritten by g'(a).
    void (*activate)(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n,
                     void* a, void* h, Py_ssize_t ld, bint with_prime) noexcept nogil

    # grad_h = grad_a_next W_next, for n columns of W_next; with TIMES it is multiplied by g'(a), of row length ld too,
    # and is grad_a. g_prime may be grad_h.
    void (*hidden_sum)(Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t n_next, const void* grad_a_next, Py_ssize_t ld_next,
                       const void* W_next, Py_ssize_t ld_W, const void* g_prime, void* grad_h, Py_ssize_t ld,
                       int epilogue, void* scratch) noexcept nogil

    # g_prime = grad_h (.) g_prime, elementwise: the result is grad_a.
    void (*g_prime_product)(Py_ssize_t n_rows, Py_ssize_t n, const void* grad_h, Py_ssize_t ld_grad_h,
                            void* g_prime, Py_ssize_t ld) noexcept nogil

    # grad_W = grad_a^T h, grad_b = column sums of grad_a, in chains of 64 rows; overwrites, or adds where `add` is set:
    # CONTINUE goes on with a chain that is there, of which these rows are no more than the rest.
    # grad_W's rows lie ld_W apart. Where divisor is not 0 this is the end of the sum, and it is divided.
    void (*weight_gradient)(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out, const void* grad_a, Py_ssize_t ld_a,
                            const void* h, Py_ssize_t ld_h, void* grad_W, Py_ssize_t ld_W,
                            int add, double divisor, void* scratch) noexcept nogil
    void (*bias_gradient)(Py_ssize_t n_rows, Py_ssize_t n_out, const void* grad_a, Py_ssize_t ld_a,
                          void* grad_b, int add, double divisor) noexcept nogil

    # Row losses in float64, times their weights times weight_scale; z becomes grad_z.
    void (*loss)(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out, void* z, Py_ssize_t ld,
                 const void* y_hat, const void* y, const Py_ssize_t* labels, int weight_kind, const double* weight,
                 double weight_scale, double* row_loss, bint with_gradient) noexcept nogil
    void (*fill_with_ones)(Py_ssize_t n, void* out) noexcept nogil

    # Sums over chunks: wide += partial (float64, or a two-term sum), then out = wide / divisor, rounded once.
    void (*accumulate)(Py_ssize_t n, const void* partial, double* wide, double* wide_error, bint first) noexcept nogil
    void (*finish_wide)(Py_ssize_t n, const double* wide, const double* wide_error, double divisor,
                        void* out) noexcept nogil
    void (*finish)(Py_ssize_t n, const void* partial, double divisor, void* out) noexcept nogil

    # Row by row: the row's own grad_W = grad_a h^T, plus grad_a_2 h_2^T where these are not NULL, with grad_b = grad_a
    # behind it, the rows' gradients ld reals apart; a copy that goes past the caches; the sum of squares in float64; a
    # times a factor.
    void (*outer_products)(Py_ssize_t n_rows, Py_ssize_t n_in, Py_ssize_t n_out, const void* grad_a, Py_ssize_t ld_a,
                           const void* h, Py_ssize_t ld_h, const void* grad_a_2, const void* h_2, void* gradients,
                           Py_ssize_t ld) noexcept nogil
    void (*stream)(Py_ssize_t n, const void* source, void* target) noexcept nogil
    void (*square_sums)(Py_ssize_t n_rows, Py_ssize_t n, const void* a, Py_ssize_t ld, double* sums) noexcept nogil
    void (*scale_rows)(Py_ssize_t n_rows, Py_ssize_t n, void* a, Py_ssize_t ld, const double* factor) noexcept nogil

    # out = factor x (.) y, elementwise, with a power of two for the factor; all have row length ld.
    void (*scaled_product)(Py_ssize_t n_rows, Py_ssize_t n, double factor, const void* x, const void* y,
                           void* out, Py_ssize_t ld) noexcept nogil

    # out = g''(a), where a and out may be the same buffer; both have row length ld.
    void (*second_derivative)(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n,
                              const void* a, void* out, Py_ssize_t ld) noexcept nogil

    # Each row of t, of row length ld as z, becomes w H t: H = d2l/dz2 of the row's loss where it acts, on a_L or y_hat,
    # as a sum over outputs; w is weight times weight_scale. An entry of weight 0 gives 0. y is NULL for labels.
    void (*loss_curvature)(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n_out, const void* z,
                           Py_ssize_t ld, const void* y, const Py_ssize_t* labels, int weight_kind,
                           const double* weight, double weight_scale, void* t) noexcept nogil

    # t becomes p (.) (t - p.t) for each row, in float64.
    void (*softmax_product)(Py_ssize_t n_rows, Py_ssize_t n, const void* p, void* t, Py_ssize_t ld) noexcept nogil

    # t = g (.) t + s (.) x, elementwise, by fma; all have row length ld.
    void (*multiply_add)(Py_ssize_t n_rows, Py_ssize_t n, const void* s, const void* x, const void* g,
                         void* t, Py_ssize_t ld) noexcept nogil
