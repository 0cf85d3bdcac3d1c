# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The line search for the strong Wolfe conditions, one evaluation at a time.
# Needs: nothing. Gives: LineSearch, start_search, go_on_searching.
#
# phi(t) is the loss at theta + t direction. A step t is accepted if
#
#     phi(t) <= phi(0) + c_1 t phi'(0)   and   |phi'(t)| <= c_2 |phi'(0)|.
#
# `low` is the best step so far that fulfils the first condition, at the start 0. Once a step `high` is known with an
# acceptable step between low and high, each new step lies between them: J. Nocedal, S. Wright, Numerical Optimization,
# 2nd ed. (2006), algorithms 3.5 and 3.6, with the bounds on the new step of J. More, D. Thuente, ACM TOMS 20 (1994).

from libc.math cimport copysign, fabs, isfinite, sqrt

cdef enum:
    MOST_STEPS = 40              # of a search

cdef enum Found:
    GO_ON                        # evaluate at the new t
    GO_ON_FROM_HERE              # the same; this step is now low
    ACCEPTED_STEP
    NO_STEP                      # there is none but low, to rounding
    NO_STEP_BUT_THIS             # the same; this step is low


cdef struct LineSearch:
    double loss                  # phi(0)
    double slope                 # phi'(0) < 0
    double noise                 # a difference of losses below noise |phi(0)| says nothing
    double t                     # where phi is asked for
    double low, low_loss, low_slope
    double high, high_loss, high_slope
    bint is_bracketed            # high is there
    bint high_is_finite          # its loss and slope are numbers
    double width, width_before   # |high - low|, one and two steps ago
    int n_steps


cdef inline void start_search(LineSearch* search, double loss, double slope, double t, double noise) noexcept nogil:
    """Ask for t first."""
    search.loss = search.low_loss = loss
    search.slope = search.low_slope = slope
    search.noise = noise
    search.t = t
    search.low = search.high = 0
    search.high_loss = search.high_slope = 0
    search.is_bracketed = search.high_is_finite = False
    search.width = search.width_before = 0
    search.n_steps = 0


cdef inline double cubic_minimum(double a, double loss_a, double slope_a, double b, double loss_b,
                                 double slope_b) noexcept nogil:
    """Where the cubic through two points with their slopes has its minimum; NaN if it has none."""
    cdef double d_1 = slope_a + slope_b - 3 * (loss_a - loss_b) / (a - b)
    cdef double d_2 = copysign(sqrt(d_1 * d_1 - slope_a * slope_b), b - a)
    return b - (b - a) * ((slope_b + d_2 - d_1) / (slope_b - slope_a + 2 * d_2))


cdef inline double step_beyond(const LineSearch* search, double before, double loss, double slope) noexcept nogil:
    """A step beyond low, where the loss still falls; before is the low before it."""
    cdef double length = search.low - before
    cdef double t = cubic_minimum(before, loss, slope, search.low, search.low_loss, search.low_slope)
    if not t > search.low:
        t = search.low + 4 * length
    return min(max(t, search.low + 1.1 * length), search.low + 4 * length)


cdef inline double step_between(LineSearch* search) noexcept nogil:
    """A step between low and high, a tenth of their distance away from both."""
    cdef double length = search.high - search.low
    cdef double t = search.low + 0.1 * length, width = fabs(length)
    cdef bint is_slow = search.width_before > 0 and width > 0.66 * search.width_before
    search.width_before = search.width
    search.width = width
    if not search.high_is_finite:
        return t
    t = cubic_minimum(search.low, search.low_loss, search.low_slope, search.high, search.high_loss, search.high_slope)
    if is_slow or not isfinite(t):
        return search.low + 0.5 * length
    if length > 0:
        return min(max(t, search.low + 0.1 * length), search.high - 0.1 * length)
    return max(min(t, search.low + 0.1 * length), search.high - 0.1 * length)


cdef inline int go_on_searching(LineSearch* search, double loss, double slope) noexcept nogil:
    """Take phi(t) and phi'(t); the next t, or the end. A loss or a slope that is inf or NaN shortens the step."""
    cdef bint is_number = isfinite(loss) and isfinite(slope)
    cdef bint is_flat = is_number and fabs(slope) <= -0.9 * search.slope
    cdef double before = search.low, loss_before = search.low_loss, slope_before = search.low_slope
    cdef int found = GO_ON
    search.n_steps += 1
    if is_flat and loss <= search.loss + 1e-4 * search.t * search.slope:
        return ACCEPTED_STEP
    if is_flat and fabs(loss - search.loss) <= search.noise * fabs(search.loss):
        return ACCEPTED_STEP
    if (not is_number or loss > search.loss + 1e-4 * search.t * search.slope
            or (search.low > 0 and loss >= search.low_loss)):
        search.high = search.t
        search.high_loss = loss
        search.high_slope = slope
        search.high_is_finite = is_number
        search.is_bracketed = True
    else:
        if slope * (search.high - before) >= 0 if search.is_bracketed else slope >= 0:
            search.high = before
            search.high_loss = loss_before
            search.high_slope = slope_before
            search.high_is_finite = True
            search.is_bracketed = True
        search.low = search.t
        search.low_loss = loss
        search.low_slope = slope
        found = GO_ON_FROM_HERE
    if search.is_bracketed:
        search.t = step_between(search)
    else:
        search.t = step_beyond(search, before, loss_before, slope_before)
    if search.n_steps >= MOST_STEPS or search.t == search.low or search.t == search.high or not isfinite(search.t):
        return NO_STEP if found == GO_ON else NO_STEP_BUT_THIS
    return found
