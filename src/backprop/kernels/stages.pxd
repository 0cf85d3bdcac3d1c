# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Functions of one argument over the vectors of a tile: at once, or in stages.
# Needs: elementary and pairs for what a stage hands on, vector.
# Gives: `over_rows`, `over_stages`, and the types of the functions that they take.
#
# An activation is a chain of 20 to 60 operations that wait for each other, 3 to 5 cycles each. A CPU overlaps the
# chains of several vectors, but it looks only some 200 operations ahead. That is three vectors of tanh: the units for
# arithmetic are idle half of the time. So a chain is cut into stages, and each stage runs over a block of vectors
# before the next stage starts: then more vectors fit in the CPU's view. Timings of tanh with g' (ns an element, v3,
# float32 and float64, Zen 4): in one stage 1.07 and 2.5, in two 0.83 and 1.9, in four 0.75 and 1.7. Blocks of 4 vectors
# take a quarter longer than blocks of 8, and blocks of 16 no less.

from backprop.kernels.vector cimport LANES, load_first, real, store_first, vec
from backprop.kernels.pairs cimport pair
from backprop.kernels.elementary cimport Exponential, Growth

cdef extern from *:
    """
    /* Vectors that go through a stage together. */
    #define BP_BLOCK 8
    /* The same for functions of some 50 operations. With AVX-512 they are faster in one stage: sigmoid by a tenth. */
    #if BP_SIMD == 4
    #define BP_SHORT_BLOCK 1
    #else
    #define BP_SHORT_BLOCK BP_BLOCK
    #endif
    """
    enum:
        BLOCK "BP_BLOCK"
        SHORT_BLOCK "BP_SHORT_BLOCK"

cdef struct Parameters:
    pair scale
    pair alpha               # slope of leaky_relu; alpha times scale of elu and selu

# What the stages of a function hand on, for one vector. A function uses the fields that it needs.
cdef struct Progress:
    vec a
    Py_ssize_t place         # of the vector in the tile
    Py_ssize_t rest          # columns from there to the end of the row
    vec x                    # a within bounds, or |a|
    vec n                    # an exponent of 2
    vec m                    # a reduced argument
    Growth e
    Exponential t
    pair p                   # a numerator
    pair d                   # a denominator
    vec r                    # 1/d.hi, rounded
    pair slope               # of g', or a second numerator
    pair second_d
    vec second_r

ctypedef vec (*Function)(vec a, const Parameters* p, vec* g_prime) noexcept nogil
ctypedef void (*FirstStage)(Progress* v) noexcept nogil
ctypedef void (*MiddleStages)(Progress* block, Py_ssize_t size, const bint with_prime) noexcept nogil
ctypedef vec (*LastStage)(Progress* v, vec* g_prime) noexcept nogil


cdef inline void over_rows(const Function g, const Parameters* p, Py_ssize_t n_rows, Py_ssize_t n,
                           real* a,                                             # IN; OUT too with with_prime
                           real* h,                                             # OUT
                           Py_ssize_t ld, const bint with_prime) noexcept nogil:
    """h = g(a) for a tile; a becomes g'(a) if with_prime is set. g is a constant, so it is inlined."""
    cdef Py_ssize_t _s, j
    cdef vec g_prime
    for _s in range(n_rows):
        j = 0
        while j < n:
            store_first(h + j, g(load_first(a + j, n - j), p, &g_prime), n - j)
            if with_prime:
                store_first(a + j, g_prime, n - j)
            j += LANES
        a += ld
        h += ld


cdef inline void over_stages(const Py_ssize_t n_block, const FirstStage first, const MiddleStages middle,
                             const LastStage last, Py_ssize_t n_rows, Py_ssize_t n,
                             real* a,                                           # IN; OUT too with with_prime
                             real* h,                                           # OUT
                             Py_ssize_t ld, const bint with_prime) noexcept nogil:
    """The same for a function in stages, in blocks of n_block <= BLOCK vectors. A block goes on into the next row."""
    cdef Progress block[BLOCK]
    cdef Progress* v
    cdef Py_ssize_t place = 0, rest = n, size, i
    cdef vec value, g_prime
    while n_rows > 0:
        size = 0
        while size < n_block and n_rows > 0:
            v = &block[size]
            v.place = place
            v.rest = rest
            v.a = load_first(a + place, rest)
            first(v)
            size += 1
            place += LANES
            rest -= LANES
            if rest <= 0:
                place += rest - n + ld
                rest = n
                n_rows -= 1
        middle(block, size, with_prime)
        for i in range(size):
            v = &block[i]
            value = last(v, &g_prime)
            store_first(h + v.place, value, v.rest)
            if with_prime:
                store_first(a + v.place, g_prime, v.rest)
