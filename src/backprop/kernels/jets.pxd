# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# First and second derivatives of h = g(a) along directions, from those of a; their way back, and their tangents.
# Needs: table, vector.
# Gives: the table's jet_activation, jet_cotangent and jet_tangent.
#
# All directions of one vector of columns are computed before the next vector: g' and g'' are loaded once, and what is
# read twice is in L1. form, and k up to 3, are constants to the compiler.

from backprop.kernels.table cimport DIAGONAL, EACH, FIRST_ALONE, SYMMETRIC
from backprop.kernels.vector cimport LANES, broadcast, load_first, real, store_first, vec, vfma

cdef struct Directions:      # of one vector of columns of a row
    const real* d            # the first derivatives of a
    Py_ssize_t d_block
    const real* s            # the second ones, or NULL for zeros
    Py_ssize_t block
    const real* e            # the coefficients of the form, or NULL for ones
    Py_ssize_t rest          # columns from here to the end of the row; constant for a whole vector


cdef inline vec get_d(const Directions* a, Py_ssize_t j) noexcept nogil:
    """d_j."""
    return load_first(a.d + j * a.d_block, a.rest)


cdef inline vec get_s(const Directions* a, Py_ssize_t t) noexcept nogil:
    """s_t."""
    return broadcast(0) if a.s == NULL else load_first(a.s + t * a.block, a.rest)


cdef inline vec times_e(const Directions* a, Py_ssize_t j, vec d) noexcept nogil:
    """e_j d_j of DIAGONAL."""
    return d if a.e == NULL else broadcast(a.e[j]) * d


cdef inline vec form_of(const int form, const Py_ssize_t k, const Directions* a) noexcept nogil:
    """form(d) of DIAGONAL and SYMMETRIC."""
    cdef vec total = broadcast(0), inner, d_j
    cdef const real* e = a.e
    cdef Py_ssize_t i, j
    for j in range(k):
        d_j = get_d(a, j)
        if form == DIAGONAL:
            inner = times_e(a, j, d_j)
        else:
            inner = broadcast(e[0]) * d_j
            for i in range(j + 1, k):
                inner = vfma(broadcast(e[i - j]), get_d(a, i), inner)
            e += k - j
        total = vfma(inner, d_j, total)
    return total


cdef inline vec slope_of(const int form, const Py_ssize_t k, const Directions* a, Py_ssize_t j,
                         vec d_j) noexcept nogil:
    """d form / d d_j of DIAGONAL and SYMMETRIC. The sum of slope_j d_j is twice the form."""
    cdef vec inner
    cdef const real* e = a.e     # the coefficients from (i, i) on, up to i = j
    cdef Py_ssize_t i
    if form == DIAGONAL:
        inner = times_e(a, j, d_j)
        return inner + inner
    inner = broadcast(0)
    for i in range(j):
        inner = vfma(broadcast(e[j - i]), get_d(a, i), inner)
        e += k - i
    inner = vfma(broadcast(e[0]), d_j + d_j, inner)
    for i in range(j + 1, k):
        inner = vfma(broadcast(e[i - j]), get_d(a, i), inner)
    return inner


cdef inline void jet_of_vector(const int form, const Py_ssize_t k, const Directions* a, Py_ssize_t start,
                               const real* g_prime, const real* g_second,                       # IN
                               real* D, real* S) noexcept nogil:                                # OUT
    """D and S of one vector of columns. D may be d, and S may be s."""
    cdef vec g_1 = load_first(g_prime + start, a.rest), g_2 = broadcast(0), d
    cdef Py_ssize_t j
    if form != FIRST_ALONE:
        g_2 = load_first(g_second + start, a.rest)
    if form == DIAGONAL or form == SYMMETRIC:
        store_first(S + start, vfma(g_2, form_of(form, k, a), g_1 * get_s(a, 0)), a.rest)
    for j in range(k):
        d = get_d(a, j)
        if form == EACH:
            store_first(S + start + j * a.block, vfma(g_2, d * d, g_1 * get_s(a, j)), a.rest)
        store_first(D + start + j * a.block, g_1 * d, a.rest)


cdef inline void jet_cotangent_of_vector(
        const int form, const Py_ssize_t k, const Directions* a, Py_ssize_t start,
        const real* g_prime, const real* g_second, const real* g_third,         # IN
        real* grad_h, real* grad_D, real* grad_S) noexcept nogil:               # IN and OUT
    """The cotangents of a, d and s of one vector of columns, in the place of those of h, D and S."""
    cdef vec g_1 = load_first(g_prime + start, a.rest), g_2 = load_first(g_second + start, a.rest), g_3 = broadcast(0)
    cdef vec of_g_2 = broadcast(0), of_g_3 = broadcast(0)     # the factors of g'' and g''' in grad_a
    cdef vec d, g_D, g_S = broadcast(0), slope, twice_form = broadcast(0), grad_a
    cdef Py_ssize_t j
    grad_D += start
    if form != FIRST_ALONE:
        g_3 = load_first(g_third + start, a.rest)
        grad_S += start
    if form == DIAGONAL or form == SYMMETRIC:
        g_S = load_first(grad_S, a.rest)
        of_g_2 = get_s(a, 0) * g_S
        store_first(grad_S, g_1 * g_S, a.rest)
    for j in range(k):
        d = get_d(a, j)
        g_D = load_first(grad_D + j * a.block, a.rest)
        of_g_2 = vfma(d, g_D, of_g_2)
        g_D = g_1 * g_D
        if form == EACH:
            g_S = load_first(grad_S + j * a.block, a.rest)
            of_g_2 = vfma(get_s(a, j), g_S, of_g_2)
            of_g_3 = vfma(d * d, g_S, of_g_3)
            g_D = vfma(g_2 * g_S, d + d, g_D)
            store_first(grad_S + j * a.block, g_1 * g_S, a.rest)
        elif form != FIRST_ALONE:
            slope = slope_of(form, k, a, j, d)
            twice_form = vfma(slope, d, twice_form)
            g_D = vfma(g_2 * g_S, slope, g_D)
        store_first(grad_D + j * a.block, g_D, a.rest)
    if form == DIAGONAL or form == SYMMETRIC:
        of_g_3 = broadcast(<real>0.5) * twice_form * g_S
    grad_a = vfma(g_2, of_g_2, g_1 * load_first(grad_h + start, a.rest))
    if form != FIRST_ALONE:
        grad_a = vfma(g_3, of_g_3, grad_a)
    store_first(grad_h + start, grad_a, a.rest)


cdef inline void jet_tangent_of_vector(
        const int form, const Py_ssize_t k, const Directions* a, const Directions* t, Py_ssize_t start,
        const real* g_prime, const real* g_second, const real* g_third,         # IN
        const real* t_a,                                                        # IN
        real* t_h, real* t_D, real* t_S) noexcept nogil:                        # OUT
    """The tangents of h, D and S of one vector of columns; t has those of d and s."""
    cdef vec g_1 = load_first(g_prime + start, a.rest), g_2 = load_first(g_second + start, a.rest)
    cdef vec change = load_first(t_a + start, a.rest)                     # of a
    cdef vec change_1 = g_2 * change, change_2 = broadcast(0)             # of g' and g''
    cdef vec d, t_d, slope, along = broadcast(0), twice_form = broadcast(0)
    cdef Py_ssize_t j
    t_D += start
    if form != FIRST_ALONE:
        change_2 = load_first(g_third + start, a.rest) * change
        t_S += start
    store_first(t_h + start, g_1 * change, a.rest)
    for j in range(k):
        d = get_d(a, j)
        t_d = get_d(t, j)
        if form == EACH:
            store_first(t_S + j * a.block,
                        vfma(g_1, get_s(t, j), vfma(change_1, get_s(a, j),
                                                    vfma(change_2, d * d, g_2 * ((d + d) * t_d)))), a.rest)
        elif form != FIRST_ALONE:
            slope = slope_of(form, k, a, j, d)
            twice_form = vfma(slope, d, twice_form)
            along = vfma(slope, t_d, along)
        store_first(t_D + j * a.block, vfma(change_1, d, g_1 * t_d), a.rest)
    if form == DIAGONAL or form == SYMMETRIC:
        store_first(t_S, vfma(g_1, get_s(t, 0), vfma(change_1, get_s(a, 0),
                                                     vfma(change_2, broadcast(<real>0.5) * twice_form, g_2 * along))),
                    a.rest)


# The rows -------------------------------------------------------------------------------------------------------------

cdef struct Rows:            # what the functions of this file have in common
    Py_ssize_t n_rows
    Py_ssize_t n
    Py_ssize_t k
    Directions a             # of row 0
    Py_ssize_t d_row
    Py_ssize_t ld_e
    Py_ssize_t ld
    const real* g_prime
    const real* g_second
    const real* g_third


cdef inline Rows make_rows(Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, const void* e, Py_ssize_t ld_e,
                           const void* g_prime, const void* g_second, const void* g_third,
                           const void* d, Py_ssize_t d_row, Py_ssize_t d_block, const void* s,
                           Py_ssize_t ld, Py_ssize_t block) noexcept nogil:
    """The arguments of a function of the table."""
    cdef Rows rows
    rows.n_rows = n_rows
    rows.n = n
    rows.k = k
    rows.a.d = <const real*>d
    rows.a.d_block = d_block
    rows.a.s = <const real*>s
    rows.a.block = block
    rows.a.e = <const real*>e
    rows.a.rest = 0
    rows.d_row = d_row
    rows.ld_e = 0 if e == NULL else ld_e
    rows.ld = ld
    rows.g_prime = <const real*>g_prime
    rows.g_second = <const real*>g_second
    rows.g_third = <const real*>g_third
    return rows


cdef inline Directions directions_at(const Rows* rows, Py_ssize_t r, Py_ssize_t u, Py_ssize_t rest) noexcept nogil:
    """The directions in row r, from column u on."""
    cdef Directions a = rows.a
    a.d += r * rows.d_row + u
    if a.s != NULL:
        a.s += r * rows.ld + u
    if a.e != NULL:
        a.e += r * rows.ld_e
    a.rest = rest
    return a


cdef inline void jet_of_width(const int form, const Py_ssize_t k, const Rows* rows, real* D, real* S) noexcept nogil:
    """`jet_of_rows` with form and k turned into constants."""
    cdef Directions a
    cdef Py_ssize_t r, u
    for r in range(rows.n_rows):
        u = 0
        while u + LANES <= rows.n:
            a = directions_at(rows, r, u, LANES)
            jet_of_vector(form, k, &a, r * rows.ld + u, rows.g_prime, rows.g_second, D, S)
            u += LANES
        if u < rows.n:
            a = directions_at(rows, r, u, rows.n - u)
            jet_of_vector(form, k, &a, r * rows.ld + u, rows.g_prime, rows.g_second, D, S)


cdef inline void jet_of_form(const int form, const Rows* rows, real* D, real* S) noexcept nogil:
    """`jet_of_rows` with form turned into a constant."""
    if rows.k == 1:
        jet_of_width(form, 1, rows, D, S)
    elif rows.k == 2:
        jet_of_width(form, 2, rows, D, S)
    elif rows.k == 3:
        jet_of_width(form, 3, rows, D, S)
    else:
        jet_of_width(form, rows.k, rows, D, S)


cdef inline void jet_of_rows(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, int form,
        const void* e, Py_ssize_t ld_e,                                         # IN, or NULL
        const void* g_prime, const void* g_second,                              # IN
        const void* d, Py_ssize_t d_row, Py_ssize_t d_block, const void* s,     # IN; s may be NULL
        void* D, void* S, Py_ssize_t ld, Py_ssize_t block) noexcept nogil:      # OUT
    """D_j = g' d_j, S_t = g' s_t + g'' form_t(d)."""
    cdef Rows rows = make_rows(n_rows, n, k, e, ld_e, g_prime, g_second, NULL, d, d_row, d_block, s, ld, block)
    if form == FIRST_ALONE:
        jet_of_form(FIRST_ALONE, &rows, <real*>D, <real*>S)
    elif form == EACH:
        jet_of_form(EACH, &rows, <real*>D, <real*>S)
    elif form == DIAGONAL:
        jet_of_form(DIAGONAL, &rows, <real*>D, <real*>S)
    else:
        jet_of_form(SYMMETRIC, &rows, <real*>D, <real*>S)


cdef inline void jet_cotangent_of_width(const int form, const Py_ssize_t k, const Rows* rows,
                                        real* grad_h, real* grad_D, real* grad_S) noexcept nogil:
    """`jet_cotangent_of_rows` with form and k turned into constants."""
    cdef Directions a
    cdef Py_ssize_t r, u
    for r in range(rows.n_rows):
        u = 0
        while u + LANES <= rows.n:
            a = directions_at(rows, r, u, LANES)
            jet_cotangent_of_vector(form, k, &a, r * rows.ld + u, rows.g_prime, rows.g_second, rows.g_third,
                                    grad_h, grad_D, grad_S)
            u += LANES
        if u < rows.n:
            a = directions_at(rows, r, u, rows.n - u)
            jet_cotangent_of_vector(form, k, &a, r * rows.ld + u, rows.g_prime, rows.g_second, rows.g_third,
                                    grad_h, grad_D, grad_S)


cdef inline void jet_cotangent_of_form(const int form, const Rows* rows,
                                       real* grad_h, real* grad_D, real* grad_S) noexcept nogil:
    """`jet_cotangent_of_rows` with form turned into a constant."""
    if rows.k == 1:
        jet_cotangent_of_width(form, 1, rows, grad_h, grad_D, grad_S)
    elif rows.k == 2:
        jet_cotangent_of_width(form, 2, rows, grad_h, grad_D, grad_S)
    elif rows.k == 3:
        jet_cotangent_of_width(form, 3, rows, grad_h, grad_D, grad_S)
    else:
        jet_cotangent_of_width(form, rows.k, rows, grad_h, grad_D, grad_S)


cdef inline void jet_cotangent_of_rows(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, int form,
        const void* e, Py_ssize_t ld_e,                                         # IN, or NULL
        const void* g_prime, const void* g_second, const void* g_third,         # IN
        const void* d, Py_ssize_t d_row, Py_ssize_t d_block, const void* s,     # IN; s may be NULL
        void* grad_h, void* grad_D, void* grad_S,                               # IN and OUT
        Py_ssize_t ld, Py_ssize_t block) noexcept nogil:
    """The cotangents of h, D and S become those of a, d and s."""
    cdef Rows rows = make_rows(n_rows, n, k, e, ld_e, g_prime, g_second, g_third, d, d_row, d_block, s, ld, block)
    if form == FIRST_ALONE:
        jet_cotangent_of_form(FIRST_ALONE, &rows, <real*>grad_h, <real*>grad_D, <real*>grad_S)
    elif form == EACH:
        jet_cotangent_of_form(EACH, &rows, <real*>grad_h, <real*>grad_D, <real*>grad_S)
    elif form == DIAGONAL:
        jet_cotangent_of_form(DIAGONAL, &rows, <real*>grad_h, <real*>grad_D, <real*>grad_S)
    else:
        jet_cotangent_of_form(SYMMETRIC, &rows, <real*>grad_h, <real*>grad_D, <real*>grad_S)


cdef inline void jet_tangent_of_width(const int form, const Py_ssize_t k, const Rows* rows, const Rows* tangents,
                                      const real* t_a, real* t_h, real* t_D, real* t_S) noexcept nogil:
    """`jet_tangent_of_rows` with form and k turned into constants."""
    cdef Directions a, t
    cdef Py_ssize_t r, u
    for r in range(rows.n_rows):
        u = 0
        while u + LANES <= rows.n:
            a = directions_at(rows, r, u, LANES)
            t = directions_at(tangents, r, u, LANES)
            jet_tangent_of_vector(form, k, &a, &t, r * rows.ld + u, rows.g_prime, rows.g_second, rows.g_third,
                                  t_a, t_h, t_D, t_S)
            u += LANES
        if u < rows.n:
            a = directions_at(rows, r, u, rows.n - u)
            t = directions_at(tangents, r, u, rows.n - u)
            jet_tangent_of_vector(form, k, &a, &t, r * rows.ld + u, rows.g_prime, rows.g_second, rows.g_third,
                                  t_a, t_h, t_D, t_S)


cdef inline void jet_tangent_of_form(const int form, const Rows* rows, const Rows* tangents,
                                     const real* t_a, real* t_h, real* t_D, real* t_S) noexcept nogil:
    """`jet_tangent_of_rows` with form turned into a constant."""
    if rows.k == 1:
        jet_tangent_of_width(form, 1, rows, tangents, t_a, t_h, t_D, t_S)
    elif rows.k == 2:
        jet_tangent_of_width(form, 2, rows, tangents, t_a, t_h, t_D, t_S)
    elif rows.k == 3:
        jet_tangent_of_width(form, 3, rows, tangents, t_a, t_h, t_D, t_S)
    else:
        jet_tangent_of_width(form, rows.k, rows, tangents, t_a, t_h, t_D, t_S)


cdef inline void jet_tangent_of_rows(
        Py_ssize_t n_rows, Py_ssize_t n, Py_ssize_t k, int form,
        const void* e, Py_ssize_t ld_e,                                             # IN, or NULL
        const void* g_prime, const void* g_second, const void* g_third,             # IN
        const void* d, Py_ssize_t d_row, Py_ssize_t d_block, const void* s,         # IN; s may be NULL
        const void* t_a,                                                            # IN
        const void* t_d, Py_ssize_t t_d_row, Py_ssize_t t_d_block, const void* t_s,  # IN; t_s may be NULL
        void* t_h, void* t_D, void* t_S,                                            # OUT
        Py_ssize_t ld, Py_ssize_t block) noexcept nogil:
    """The tangents of h, D and S, from those of a, d and s."""
    cdef Rows rows = make_rows(n_rows, n, k, e, ld_e, g_prime, g_second, g_third, d, d_row, d_block, s, ld, block)
    cdef Rows tangents = make_rows(n_rows, n, k, NULL, 0, NULL, NULL, NULL, t_d, t_d_row, t_d_block, t_s, ld, block)
    if form == FIRST_ALONE:
        jet_tangent_of_form(FIRST_ALONE, &rows, &tangents, <const real*>t_a, <real*>t_h, <real*>t_D, <real*>t_S)
    elif form == EACH:
        jet_tangent_of_form(EACH, &rows, &tangents, <const real*>t_a, <real*>t_h, <real*>t_D, <real*>t_S)
    elif form == DIAGONAL:
        jet_tangent_of_form(DIAGONAL, &rows, &tangents, <const real*>t_a, <real*>t_h, <real*>t_D, <real*>t_S)
    else:
        jet_tangent_of_form(SYMMETRIC, &rows, &tangents, <const real*>t_a, <real*>t_h, <real*>t_D, <real*>t_S)
