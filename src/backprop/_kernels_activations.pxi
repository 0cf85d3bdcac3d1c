# The activations: h = g(a) and g'(a), one function for each, in float64 and rounded once to the network's dtype.
#
# g' never comes from h: 1 - h^2 and s (1 - s) lose every digit in the tails. Each function forms it from the
# exponential that g needs anyway, t = exp(-|a|) or alike. At kinks g' is PyTorch's, as activations.py lists them.
# NaN in gives NaN out: comparisons are written so that a NaN falls through to a branch that returns it.

ctypedef double (*ActivationFunction)(double a, double parameter, double* g_prime) noexcept nogil

cdef enum:
    N_ACTIVATIONS = 19

cdef double SELU_SCALE = 1.0507009873554804934   # Klambauer et al. 2017
cdef double SELU_ALPHA = 1.6732632423543772848
cdef double SQRT_HALF = 0.70710678118654752440        # 1/sqrt(2) = SQRT_HALF + SQRT_HALF_LOW
cdef double SQRT_HALF_LOW = -4.8336466567264567e-17
cdef double INV_SQRT_2PI = 0.39894228040143267794
cdef double TWO_OVER_SQRT_PI = 1.1283791670955125739
cdef double SQRT_8_OVER_PI = 1.5957691216057307117
cdef double GELU_TANH_CUBIC = 0.044715


cdef double g_identity(double a, double parameter, double* g_prime) noexcept nogil:
    g_prime[0] = 1 if a == a else a
    return a


cdef double g_relu(double a, double parameter, double* g_prime) noexcept nogil:
    g_prime[0] = 0 if a <= 0 else 1 if a > 0 else a
    return 0 if a <= 0 else a


cdef double g_leaky_relu(double a, double slope, double* g_prime) noexcept nogil:
    g_prime[0] = slope if a <= 0 else 1 if a > 0 else a
    return slope * a if a <= 0 else a


cdef double g_elu(double a, double alpha, double* g_prime) noexcept nogil:
    g_prime[0] = 1 if a > 0 else alpha * exp(a)
    return a if a > 0 else alpha * expm1(a)


cdef double g_selu(double a, double parameter, double* g_prime) noexcept nogil:
    g_prime[0] = SELU_SCALE if a > 0 else SELU_SCALE * SELU_ALPHA * exp(a)
    return SELU_SCALE * a if a > 0 else SELU_SCALE * SELU_ALPHA * expm1(a)


cdef double g_gelu(double a, double parameter, double* g_prime) noexcept nogil:
    """Phi(a) = erfc(-a/sqrt 2)/2, phi(a) = exp(-a^2/2)/sqrt(2 pi); the rounding of their arguments is repaired."""
    if fabs(a) > 40:  # Phi(-40) < 1e-349: the limits, also at +-inf
        g_prime[0] = 1 if a > 0 else 0
        return a if a > 0 else -0.0
    cdef double z = -a * SQRT_HALF
    cdef double z_error = fma(-a, SQRT_HALF, -z) - a * SQRT_HALF_LOW
    cdef double Phi = 0.5 * (erfc(z) - z_error * TWO_OVER_SQRT_PI * exp(-z * z))
    cdef double square = a * a
    cdef double square_error = fma(a, a, -square)
    cdef double phi = INV_SQRT_2PI * exp(-0.5 * square) * (1 - 0.5 * square_error)
    g_prime[0] = Phi + a * phi
    return a * Phi


cdef double g_gelu_tanh(double a, double parameter, double* g_prime) noexcept nogil:
    """a sigma(2u), 2u = sqrt(8/pi) (a + 0.044715 a^3): the form with tanh, 1 + tanh(u), cancels for negative a."""
    if fabs(a) > 40:  # exp(-|2u|) < 1e-2000: the limits
        g_prime[0] = 1 if a > 0 else 0
        return a if a > 0 else -0.0
    cdef double argument = SQRT_8_OVER_PI * a * (1 + GELU_TANH_CUBIC * a * a)
    cdef double argument_prime = SQRT_8_OVER_PI * (1 + 3 * GELU_TANH_CUBIC * a * a)
    cdef double t = exp(-fabs(argument))
    cdef double sigma = (t if a < 0 else 1) / (1 + t)
    g_prime[0] = sigma + a * argument_prime * (t / ((1 + t) * (1 + t)))
    return a * sigma


cdef inline double product_with_exp(double factor, double a) noexcept nogil:
    """factor exp(a) for a < 0, where exp(a) alone may be subnormal and short of digits."""
    if a > -700:
        return factor * exp(a)
    if a < -1500:  # also -inf: 0, where factor times 0 would be NaN
        return 0
    cdef double root = exp(0.5 * a)
    return (factor * root) * root


cdef double g_silu(double a, double parameter, double* g_prime) noexcept nogil:
    """a sigma(a); left of 0, sigma(a) = t/(1 + t) and g' = t (1 + t + a) / (1 + t)^2 with t = exp(a)."""
    cdef double t = exp(-fabs(a))
    if a < 0:
        g_prime[0] = product_with_exp((1 + t + a) / ((1 + t) * (1 + t)), a)
        return -0.0 if a < -1500 else product_with_exp(a / (1 + t), a)
    g_prime[0] = 1 / (1 + t) + (a * t if t > 0 else t) / ((1 + t) * (1 + t))
    return a / (1 + t)


cdef double g_mish(double a, double parameter, double* g_prime) noexcept nogil:
    """a w, w = tanh(log1p(e^a)) = e (e + 2) / (e (e + 2) + 2); right of 0 as a ratio in t = exp(-a).

    w' = 4 e (1 + e) / (e (e + 2) + 2)^2.
    """
    cdef double t = exp(-fabs(a))
    cdef double n, gate
    if a < 0:
        n = t * (t + 2) + 2
        g_prime[0] = product_with_exp((t + 2) / n + 4 * a * (1 + t) / (n * n), a)
        return -0.0 if a < -1500 else product_with_exp(a * (t + 2) / n, a)
    n = 1 + 2 * t * (1 + t)
    gate = (1 + 2 * t) / n
    g_prime[0] = gate + (4 * a * t * t * (1 + t) if t > 0 else t) / (n * n)
    return a * gate


cdef double g_softplus(double a, double parameter, double* g_prime) noexcept nogil:
    cdef double t = exp(-fabs(a))
    g_prime[0] = (t if a < 0 else 1) / (1 + t)
    return (a if a > 0 else 0) + log1p(t)


cdef double g_softsign(double a, double parameter, double* g_prime) noexcept nogil:
    cdef double r = 1 / (1 + fabs(a))
    g_prime[0] = r * r
    if fabs(a) > 1e300:  # 1 - r rounds to 1; also at +-inf
        return 1 if a > 0 else -1
    return a / (1 + fabs(a))


cdef double g_tanh(double a, double parameter, double* g_prime) noexcept nogil:
    g_prime[0] = tanh_prime_from_t(exp(-2 * fabs(a)))
    return tanh(a)


cdef inline double tanh_prime_from_t(double t) noexcept nogil:
    """tanh'(a) = 4t / (1 + t)^2, t = exp(-2|a|)."""
    return 4 * t / ((1 + t) * (1 + t))


cdef inline double sigmoid_from_t(double a, double t) noexcept nogil:
    """sigma(a), t = exp(-|a|)."""
    return (t if a < 0 else 1) / (1 + t)


cdef double g_sigmoid(double a, double parameter, double* g_prime) noexcept nogil:
    cdef double t = exp(-fabs(a))
    g_prime[0] = t / ((1 + t) * (1 + t))
    return sigmoid_from_t(a, t)


cdef double g_hardtanh(double a, double parameter, double* g_prime) noexcept nogil:
    g_prime[0] = 0 if a <= -1 or a >= 1 else 1 if a == a else a
    return -1 if a <= -1 else 1 if a >= 1 else a


cdef double g_hardsigmoid(double a, double parameter, double* g_prime) noexcept nogil:
    g_prime[0] = 0 if a <= -3 or a >= 3 else 1.0 / 6.0 if a == a else a
    return 0 if a <= -3 else 1 if a >= 3 else (a + 3) / 6


cdef double g_hardswish(double a, double parameter, double* g_prime) noexcept nogil:
    g_prime[0] = 0 if a <= -3 else 1 if a >= 3 else (2 * a + 3) / 6
    return -0.0 if a <= -3 else a if a >= 3 else a * (a + 3) / 6


cdef double g_relu6(double a, double parameter, double* g_prime) noexcept nogil:
    g_prime[0] = 0 if a <= 0 or a >= 6 else 1 if a == a else a
    return 0 if a <= 0 else 6 if a >= 6 else a


cdef double g_sin(double a, double parameter, double* g_prime) noexcept nogil:
    g_prime[0] = cos(a)
    return sin(a)


cdef double g_exp(double a, double parameter, double* g_prime) noexcept nogil:
    g_prime[0] = exp(a)
    return g_prime[0]


cdef ActivationFunction[N_ACTIVATIONS] ACTIVATION_FUNCTIONS
ACTIVATION_FUNCTIONS[<int>IDENTITY] = g_identity
ACTIVATION_FUNCTIONS[<int>RELU] = g_relu
ACTIVATION_FUNCTIONS[<int>LEAKY_RELU] = g_leaky_relu
ACTIVATION_FUNCTIONS[<int>ELU] = g_elu
ACTIVATION_FUNCTIONS[<int>SELU] = g_selu
ACTIVATION_FUNCTIONS[<int>GELU] = g_gelu
ACTIVATION_FUNCTIONS[<int>GELU_TANH] = g_gelu_tanh
ACTIVATION_FUNCTIONS[<int>SILU] = g_silu
ACTIVATION_FUNCTIONS[<int>MISH] = g_mish
ACTIVATION_FUNCTIONS[<int>SOFTPLUS] = g_softplus
ACTIVATION_FUNCTIONS[<int>SOFTSIGN] = g_softsign
ACTIVATION_FUNCTIONS[<int>TANH] = g_tanh
ACTIVATION_FUNCTIONS[<int>SIGMOID] = g_sigmoid
ACTIVATION_FUNCTIONS[<int>HARDTANH] = g_hardtanh
ACTIVATION_FUNCTIONS[<int>HARDSIGMOID] = g_hardsigmoid
ACTIVATION_FUNCTIONS[<int>HARDSWISH] = g_hardswish
ACTIVATION_FUNCTIONS[<int>RELU6] = g_relu6
ACTIVATION_FUNCTIONS[<int>SIN] = g_sin
ACTIVATION_FUNCTIONS[<int>EXP] = g_exp


cdef void activate(int code, double parameter, Py_ssize_t n_rows, Py_ssize_t n,
                   void* a_, void* h_, Py_ssize_t ld, bint with_prime) noexcept nogil:
    """h = g(a); with_prime: a becomes g'(a), which the backward sweep needs at that very place."""
    cdef real* a = <real*>a_
    cdef real* h = <real*>h_
    cdef double g_prime
    cdef Py_ssize_t s, j
    if code == SOFTMAX:
        for s in range(n_rows):
            softmax_row(n, a + s * ld, h + s * ld)
        return
    for s in range(n_rows):
        for j in range(n):
            h[s * ld + j] = <real>ACTIVATION_FUNCTIONS[code](a[s * ld + j], parameter, &g_prime)
            if with_prime:
                a[s * ld + j] = <real>g_prime
