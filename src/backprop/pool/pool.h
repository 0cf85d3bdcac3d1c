/* Native threads of backprop: one small pool for the process, used by one caller at a time. See pool/pool.c. */
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

/* What a run returns. */
enum {
    BP_POOL_DONE = 0,     /* every task ran once */
    BP_POOL_STOPPED = 1,  /* poll said stop: tasks that nobody had claimed by then never ran */
    BP_POOL_LOST = 2      /* poll forked, and this is the child: tasks that workers had claimed are lost */
};

/* worker: 0 is the caller; every task of one thread has the same number, below the run's n_threads. */
typedef void (*bp_pool_task)(void *context, ptrdiff_t index, int worker);

/* Run task(context, i, worker) for each i in 0..n_tasks-1, on the caller's thread and at most n_threads - 1 workers.
   Indices are claimed in ascending order. Returns when every task that was claimed has ended, and then all they wrote
   is visible to the caller. If another caller has the pool, the caller runs every task itself.
   poll (may be NULL) is called on the caller's thread alone, after each of its tasks and every few ms while it waits;
   nonzero stops the run, and poll is not called again. It may run anything, a run of its own included. */
BP_POOL_HIDDEN int bp_pool_run(int n_threads, ptrdiff_t n_tasks, bp_pool_task task, void *context,
                               int (*poll)(void *), void *poll_context);

/* The pool, kept over several runs (phases with a barrier between them): no other caller gets it in between. */
typedef struct {
    int n_threads;   /* that may take part in each run; 1 where the pool was not to be had */
    unsigned forks;  /* forks this process had behind it when the lease was taken */
} bp_pool_lease;

/* Take the pool if it is free. Returns lease->n_threads, at least 1: the runs work either way. Also wakes or creates
   the first worker, so that it comes up while the caller prepares the first phase. One thread uses and releases it. */
BP_POOL_HIDDEN int bp_pool_acquire(bp_pool_lease *lease, int n_threads);
BP_POOL_HIDDEN int bp_pool_lease_run(const bp_pool_lease *lease, ptrdiff_t n_tasks, bp_pool_task task, void *context,
                                     int (*poll)(void *), void *poll_context);
BP_POOL_HIDDEN void bp_pool_release(bp_pool_lease *lease);

/* Worker threads alive now. */
BP_POOL_HIDDEN int bp_pool_size(void);

/* How often this process has forked, as a child counts it, since the pool was first taken: a task in which poll is called
   may wait for other tasks as long as this stays as it is. */
BP_POOL_HIDDEN unsigned bp_pool_forks(void);

/* Nanoseconds of a clock that never goes back; and let another thread have this CPU. */
BP_POOL_HIDDEN int64_t bp_pool_now(void);
BP_POOL_HIDDEN void bp_pool_yield(void);

#ifdef __cplusplus
}
#endif
#endif
