/* The native threads of backprop: one small pool for each process, used by one caller at a time. pool.c says how. */
#ifndef BP_POOL_H
#define BP_POOL_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) && !defined(_WIN32)
#define BP_POOL_HIDDEN __attribute__((visibility("hidden")))
#else
#define BP_POOL_HIDDEN
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The most threads of a run, the caller among them: as many as two sockets of 128 cores have. Larger counts are cut. */
enum { BP_MOST_THREADS = 256 };

/* What a run returns. */
enum {
    BP_POOL_DONE = 0,     /* every task ran once */
    BP_POOL_STOPPED = 1,  /* poll said stop: tasks unclaimed at that time never ran */
    BP_POOL_LOST = 2      /* poll forked, and this is the child: tasks claimed by workers are lost */
};

/* worker: 0 for the caller. All tasks of one thread get the same number, below n_threads of the run. */
typedef void (*bp_pool_task)(void *context, ptrdiff_t index, int worker);

/* Run task(context, i, worker) for each i in 0..n_tasks-1, on the caller's thread and at most n_threads - 1 workers.
   Threads claim indices in ascending order. The run returns when all claimed tasks have ended; what they wrote is then
   visible to the caller. If another caller has the pool, the caller runs all tasks itself.
   poll (may be NULL) is called only on the caller's thread: after each of its tasks, and every few ms while it waits.
   If it returns nonzero, the run stops and poll is not called again. It may do anything, also start another run. */
BP_POOL_HIDDEN int bp_pool_run(int n_threads, ptrdiff_t n_tasks, bp_pool_task task, void *context,
                               int (*poll)(void *), void *poll_context);

/* The pool, held for several runs (phases with a barrier between them): no other caller gets it in between. */
typedef struct {
    int n_threads;   /* the most that take part in each run; 1 if another caller has the pool */
    unsigned forks;  /* bp_pool_forks() when the lease was taken */
} bp_pool_lease;

/* Take the pool if it is free. Returns lease->n_threads, at least 1: runs work in both cases. This also wakes or
   creates the first worker, which gets ready while the caller prepares the first phase. The thread that takes a lease
   must use and release it. */
BP_POOL_HIDDEN int bp_pool_acquire(bp_pool_lease *lease, int n_threads);
BP_POOL_HIDDEN int bp_pool_lease_run(const bp_pool_lease *lease, ptrdiff_t n_tasks, bp_pool_task task, void *context,
                                     int (*poll)(void *), void *poll_context);
BP_POOL_HIDDEN void bp_pool_release(bp_pool_lease *lease);

/* The number of worker threads that are alive. */
BP_POOL_HIDDEN int bp_pool_size(void);

/* The number of forks from the process that first took the pool down to this one. A child starts with one more than its
   parent: so a task that calls poll may wait for other tasks only while this number stays the same. */
BP_POOL_HIDDEN unsigned bp_pool_forks(void);

/* Nanoseconds of a clock that never goes back; and: let another thread use this CPU. */
BP_POOL_HIDDEN int64_t bp_pool_now(void);
BP_POOL_HIDDEN void bp_pool_yield(void);

#ifdef __cplusplus
}
#endif
#endif
