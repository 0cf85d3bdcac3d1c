# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# Buffers that calls have given back and the next ones take: without the GIL, by any number of threads.
# Needs: recursion/workspace, schedule/totals, process/pool. Gives: take_workspace(s), take_totals, and their return.

from libc.stdlib cimport calloc, free

from backprop.process.pool cimport pool_yield, try_lock, unlock
from backprop.recursion.request cimport Request
from backprop.recursion.shape cimport Shape
from backprop.recursion.workspace cimport Workspace, free_workspace, new_workspace
from backprop.schedule.totals cimport Totals, free_totals, has_units, new_totals, start_totals

cdef struct FreeLists:
    int is_taken                 # a lock, held for a few instructions
    Py_ssize_t n_bytes           # of all that is in the lists
    Workspace* workspaces
    Totals* totals


cdef enum:
    # If the lock cannot be taken, its holder was preempted or, in a forked child, no longer exists. Then buffers are
    # allocated for this call alone.
    FIRST_TRIES = 50             # one after another, a microsecond: far longer than the lock is held
    MOST_TRIES = 100             # then yielding the CPU in between
    # What the lists hold at most, in bytes, or in parameters if there are many: memory whose pages the system takes
    # back cost 0.2 to 1 ms a MiB in the next call, which is little against what a call does that needs so much.
    KEPT_BYTES = 67108864
    KEPT_PARAMS = 8


cdef inline bint lock_lists(FreeLists* lists) noexcept nogil:
    """Take the lock; false if it stays taken."""
    cdef int k
    for k in range(MOST_TRIES):
        if try_lock(&lists.is_taken):
            return True
        if k >= FIRST_TRIES:
            pool_yield()
    return False


cdef inline bint may_keep(const Shape* shape, Py_ssize_t n_bytes) noexcept nogil:
    """Whether so many bytes more may go into the lists, and count them; under the lock."""
    cdef FreeLists* lists = <FreeLists*>shape.free_lists
    if lists.n_bytes + n_bytes > max(<Py_ssize_t>KEPT_BYTES, KEPT_PARAMS * shape.n_params * shape.itemsize):
        return False
    lists.n_bytes += n_bytes
    return True


cdef inline Workspace* take_workspace(const Shape* shape, Py_ssize_t rows, int n_scratch, int buffers,
                                      Py_ssize_t blocks) noexcept nogil:
    """A free workspace that is large enough, else a new one in the place of one that is too small; NULL: no memory.

    Each buffer has room for so many blocks of rows: Request.blocks.
    """
    cdef FreeLists* lists = <FreeLists*>shape.free_lists
    cdef Workspace** link = &lists.workspaces
    cdef Workspace* work = NULL
    cdef Workspace* too_small = NULL
    cdef bint is_locked = lock_lists(lists)
    if is_locked:
        while link[0] != NULL:
            if link[0].capacity >= rows * blocks and link[0].n_scratch >= n_scratch and link[0].buffers >= buffers:
                work = link[0]
                link[0] = work.next
                lists.n_bytes -= work.n_bytes
                break
            link = &link[0].next
        if work == NULL and lists.workspaces != NULL:
            too_small = lists.workspaces
            lists.workspaces = too_small.next
            lists.n_bytes -= too_small.n_bytes
        unlock(&lists.is_taken)
    if work == NULL:
        free_workspace(too_small)
        work = new_workspace(shape, rows * blocks, n_scratch, buffers)
        if work == NULL:
            return NULL
        work.is_listed = is_locked
    work.tile_rows = rows
    work.is_packed = False
    work.is_v_packed = False
    return work


cdef inline void give_workspace(const Shape* shape, Workspace* work) noexcept nogil:
    """Into the list, which holds no more than were in use at once: one made without a look at the list is freed.

    So is what would make the lists too large.
    """
    cdef FreeLists* lists = <FreeLists*>shape.free_lists
    cdef bint is_kept = False
    if work == NULL:
        return
    if work.is_listed and lock_lists(lists):
        is_kept = may_keep(shape, work.n_bytes)
        if is_kept:
            work.next = lists.workspaces
            lists.workspaces = work
        unlock(&lists.is_taken)
    if not is_kept:
        free_workspace(work)


cdef inline void give_workspaces(const Shape* shape, Workspace** work, int n_threads) noexcept nogil:
    cdef int i
    if work == NULL:
        return
    for i in range(n_threads):
        give_workspace(shape, work[i])
    free(work)


cdef inline Workspace** take_workspaces(const Shape* shape, Py_ssize_t rows, int n_threads, int buffers,
                                        Py_ssize_t blocks) noexcept nogil:
    """One workspace a thread; NULL if out of memory."""
    cdef Workspace** work = <Workspace**>calloc(n_threads, sizeof(Workspace*))
    cdef int i
    if work == NULL:
        return NULL
    for i in range(n_threads):
        work[i] = take_workspace(shape, rows, 1, buffers, blocks)
        if work[i] == NULL:
            give_workspaces(shape, work, n_threads)
            return NULL
    return work


cdef inline Totals* take_totals(const Request* request, bint with_wide, Py_ssize_t n_slots) noexcept nogil:
    """Free sums over chunks that have what is needed, else new ones in the place of others; set to zero; or NULL."""
    cdef const Shape* shape = request.shape
    cdef Py_ssize_t n_sums = request.n_sums if with_wide else 0
    cdef bint with_bins = with_wide and has_units(request)
    cdef FreeLists* lists = <FreeLists*>shape.free_lists
    cdef Totals** link = &lists.totals
    cdef Totals* totals = NULL
    cdef Totals* other = NULL
    cdef Py_ssize_t slot
    cdef bint is_locked = lock_lists(lists)
    if is_locked:
        while link[0] != NULL:
            if ((link[0].wide != NULL) == with_wide and (link[0].bins.top != NULL) == with_bins
                    and link[0].n_slots >= n_slots and link[0].n_sums == n_sums):
                totals = link[0]
                link[0] = totals.next
                lists.n_bytes -= totals.n_bytes
                break
            link = &link[0].next
        if totals == NULL and lists.totals != NULL:
            other = lists.totals
            lists.totals = other.next
            lists.n_bytes -= other.n_bytes
        unlock(&lists.is_taken)
    if totals == NULL:
        free_totals(other)
        totals = new_totals(shape, n_sums, with_wide, with_bins, n_slots)
        if totals == NULL:
            return NULL
        totals.is_listed = is_locked
    start_totals(totals, request)
    for slot in range(totals.n_slots):
        totals.slot_is_ready[slot] = 0
    return totals


cdef inline void give_totals(const Shape* shape, Totals* totals) noexcept nogil:
    """As `give_workspace`."""
    cdef FreeLists* lists = <FreeLists*>shape.free_lists
    cdef bint is_kept = False
    if totals == NULL:
        return
    if totals.is_listed and lock_lists(lists):
        is_kept = may_keep(shape, totals.n_bytes)
        if is_kept:
            totals.next = lists.totals
            lists.totals = totals
        unlock(&lists.is_taken)
    if not is_kept:
        free_totals(totals)


cdef inline void free_lists_of(FreeLists* lists) noexcept nogil:
    """Free everything in the lists; no call may be running."""
    cdef Workspace* work
    cdef Totals* totals
    while lists.workspaces != NULL:
        work = lists.workspaces
        lists.workspaces = work.next
        free_workspace(work)
    while lists.totals != NULL:
        totals = lists.totals
        lists.totals = totals.next
        free_totals(totals)
