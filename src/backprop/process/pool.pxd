# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The pool of native threads (pool/pool.c), and what threads share: flags and locks.
# Needs: pool/pool.h. Gives: pool_*, Lease, load_*, store_*, try_lock, unlock, MOST_THREADS.

from libc.stdint cimport int64_t

cdef extern from "pool/pool.h" nogil:
    int64_t pool_now "bp_pool_now"() noexcept
    ctypedef void (*PoolTask "bp_pool_task")(void* context, Py_ssize_t index, int worker) noexcept nogil
    ctypedef struct Lease "bp_pool_lease":
        int n_threads
    int pool_acquire "bp_pool_acquire"(Lease* lease, int n_threads) noexcept
    int pool_run "bp_pool_lease_run"(const Lease* lease, Py_ssize_t n_tasks, PoolTask task, void* context,
                                     int (*poll)(void*) noexcept nogil, void* poll_context) noexcept
    void pool_release "bp_pool_release"(Lease* lease) noexcept
    void pool_yield "bp_pool_yield"() noexcept
    unsigned int pool_forks "bp_pool_forks"() noexcept
    enum:
        POOL_LOST "BP_POOL_LOST"
        MOST_THREADS "BP_MOST_THREADS"


cdef extern from *:
    """
    #ifdef _WIN32
    #define BP_EXPORT __declspec(dllexport)
    #else
    #define BP_EXPORT __attribute__((visibility("default")))
    #endif
    /* Exported: threadpoolctl finds the library by this symbol (process/threadpoolctl.py). */
    BP_EXPORT int backprop_worker_threads(void) { return bp_pool_size(); }
    /* All seq_cst: in chunk_task a thread sets its flag and then looks at the others' words, and they do the same the
       other way round; one of the two must see the other. Weaker orders lost a chunk in one of some 10^4 calls. */
    static inline int bp_load_int(const int *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void bp_store_int(int *p, int v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline Py_ssize_t bp_load_size(const Py_ssize_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void bp_store_size(Py_ssize_t *p, Py_ssize_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline int bp_try_lock(int *p) { return !__atomic_exchange_n(p, 1, __ATOMIC_SEQ_CST); }
    static inline void bp_unlock(int *p) { __atomic_store_n(p, 0, __ATOMIC_RELEASE); }
    """
    int backprop_worker_threads() noexcept nogil
    int load_int "bp_load_int"(const int* p) noexcept nogil
    void store_int "bp_store_int"(int* p, int v) noexcept nogil
    Py_ssize_t load_size "bp_load_size"(const Py_ssize_t* p) noexcept nogil
    void store_size "bp_store_size"(Py_ssize_t* p, Py_ssize_t v) noexcept nogil
    int try_lock "bp_try_lock"(int* p) noexcept nogil
    void unlock "bp_unlock"(int* p) noexcept nogil  # not for locks whose owner looks at something afterwards
